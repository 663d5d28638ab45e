import { expect, test } from 'vitest';
// @ts-expect-error plain JavaScript
import { runSmoke } from '../bench/smoke.mjs';

interface Smoke {
  readonly wrong: number;
  readonly verifiedEntries: number;
  readonly complaints: readonly string[];
}

test('every workload of the bench runs at a tiny size and reads back what it wrote', async () => {
  const smoke = (await runSmoke({ seed: 1 })) as Smoke;
  expect(smoke.complaints).toEqual([]);
  expect(smoke.wrong).toBe(0);
  expect(smoke.verifiedEntries).toBeGreaterThan(0);
}, 300_000);
