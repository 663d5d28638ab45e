/** A store with many spaces lives at random beside a model; planted faults are found. For longer: npm run stress:spaces -- --help. */
import { expect, test } from 'vitest';
// @ts-expect-error a plain JavaScript helper
import { replayOf, stressSpaces } from './random.mjs';

const SECONDS = 0.5;
/** More than it takes to find each of them. */
const PLANT_SECONDS = 60;
const seedOfNow = Math.floor(Math.random() * 1_000_000);

interface Report {
  readonly problem: string | undefined;
  readonly steps: readonly string[];
  readonly counts: { readonly steps: number };
}

async function live(options: object): Promise<Report> {
  console.log(replayOf(options));
  return (await stressSpaces(options)) as Report;
}

test.each([
  { seed: 1, isInMemory: false },
  { seed: 2, isInMemory: true },
  { seed: seedOfNow, isInMemory: false },
])('spaces of all engines hold what was written to them: %o', async (options) => {
  const { problem, steps, counts } = await live({ seconds: SECONDS, ...options });
  expect(problem, steps.join('\n')).toBeUndefined();
  expect(counts.steps).toBeGreaterThan(0);
});

test.each(['lost', 'kept', 'torn'])('a store with a planted fault is found out: %s', async (plant) => {
  const { problem } = await live({ seconds: PLANT_SECONDS, seed: 1, isInMemory: true, plant });
  // An answer that is wrong, not a call that failed.
  expect(problem).toMatch(/^Error: /);
});
