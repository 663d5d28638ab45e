/** Any bytes in the pages of an engine: readers and cursors answer, or say ERR_CORRUPT; they never hang, never leave the arena, never throw anything else. */
import { Worker } from 'node:worker_threads';
import { expect, test } from 'vitest';
import { runCount } from '../support/pool-scene.js';
import { ENGINES, newSeed } from './contract-scene.js';

const STALL_MS_MAX = 60_000;

interface Outcome {
  readonly problems: string[];
  readonly corrupt: number;
  readonly answered: number;
}

test.each(ENGINES)('%s: hostile bytes lead to an answer or to ERR_CORRUPT', async (name) => {
  const seed = newSeed('contract-hostile.test.ts');
  const cases = runCount(150);
  const progress = new SharedArrayBuffer(4);
  const worker = new Worker(new URL('./contract-hostile-thread.mjs', import.meta.url), {
    workerData: { name, seed, cases, progress },
  });
  const outcome = await new Promise<Outcome>((resolve, reject) => {
    let last = -1;
    const watch = setInterval(() => {
      const now = Atomics.load(new Int32Array(progress), 0);
      if (now === last) reject(new Error(`case ${now} of seed ${seed} does not end`));
      last = now;
    }, STALL_MS_MAX);
    worker.once('message', (message: Outcome) => {
      resolve(message);
    });
    worker.once('error', reject);
    worker.once('exit', () => {
      clearInterval(watch);
    });
  }).finally(() => worker.terminate());
  expect(outcome.problems).toEqual([]);
  // Some damage was met, and some reads did not meet it.
  expect(outcome.corrupt).toBeGreaterThan(0);
  expect(outcome.answered).toBeGreaterThan(cases);
});
