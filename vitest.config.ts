import { defineConfig } from 'vitest/config';

// Tests import the compiled package (dist/): workers must be JavaScript, and what ships is what is tested.
export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    setupFiles: ['test/support/properties.ts'],
    pool: 'forks',
    // Node loads it, as it does for users: unchanged, and four times as fast as through the runner's transforms.
    server: { deps: { external: [/\/dist\//] } },
    // Against what hangs, not against what is slow: other work may leave a test a tenth of a machine.
    testTimeout: 300_000,
    hookTimeout: 300_000,
    expect: { poll: { timeout: 60_000 } },
    maxWorkers: 2,
  },
});
