/**
 * Randomised tests that can be replayed: a failure prints fast-check's report, its seed and path, and the command that runs just that case.
 *
 *   CONCORDKV_TEST_RUNS   how many cases           CONCORDKV_TEST_SEED, CONCORDKV_TEST_PATH   the one to run again
 */
import * as fc from 'fast-check';
import { runCount } from './pool-scene.js';

/** Checks the property; throws with everything needed to see the failure again. */
export async function checkProperty<T>(
  property: fc.IAsyncProperty<T>,
  settings: { readonly runs: number; readonly file: string; readonly timeLimitMs: number },
): Promise<void> {
  const { CONCORDKV_TEST_SEED: seed, CONCORDKV_TEST_PATH: path } = process.env;
  const details = await fc.check(property, {
    numRuns: runCount(settings.runs),
    // A shrink that takes forever tells less than a long counterexample; the limit holds only after a failure.
    interruptAfterTimeLimit: settings.timeLimitMs,
    markInterruptAsFailure: false,
    ...(seed === undefined ? {} : { seed: Number(seed) }),
    ...(path === undefined ? {} : { path, endOnFailure: true }),
  });
  if (!details.failed) return;
  const replay = [
    `CONCORDKV_TEST_SEED=${details.seed}`,
    `CONCORDKV_TEST_PATH=${details.counterexamplePath ?? ''}`,
    `npx vitest run ${settings.file}`,
  ];
  throw new Error(`${fc.defaultReportMessage(details)}\nreplay: ${replay.join(' ')}`, {
    cause: (details as { errorInstance?: unknown }).errorInstance,
  });
}
