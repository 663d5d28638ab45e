import { defineConfig } from 'vitest/config';

// Tests import the compiled package (dist/): workers must be JavaScript, and what ships is what is tested.
export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    pool: 'forks',
    testTimeout: 60_000,
    hookTimeout: 60_000,
    maxWorkers: 2,
  },
});
