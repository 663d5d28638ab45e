import { expect, test } from 'vitest';
import { engineNames } from '../dist/engines/engine.js';
// @ts-expect-error plain JavaScript
import { judgeEngines, runEngines } from '../bench/engines.mjs';
// @ts-expect-error plain JavaScript
import { MIXES } from '../bench/support/mix-run.mjs';

interface Result {
  readonly rows: readonly {
    readonly engine: string;
    readonly set: number;
    readonly has: number;
    readonly get: number;
  }[];
  readonly mixes: readonly { readonly mix: string; readonly left: number; readonly hits: number }[];
  readonly failures: readonly string[];
}

test('the bench of engines runs at a tiny size and reads back what it wrote', async () => {
  const result = (await runEngines({
    engines: engineNames(),
    records: [1000],
    isQuick: true,
    seed: 1,
    inProcess: true,
    mixNames: Object.keys(MIXES) as string[],
    mixOperations: 4000,
    mixKeys: 2000,
  })) as Result;
  expect(result.failures).toEqual([]);
  expect(result.rows).toHaveLength(engineNames().length * 3);
  for (const { set, has, get } of result.rows) expect(Math.min(set, has, get)).toBeGreaterThan(0);
  expect(result.mixes.map(({ left, hits }) => left > 0 && hits > 0)).toEqual([true, true]);
  const verdicts = judgeEngines(result) as { verdict: string }[];
  expect(verdicts.length).toBeGreaterThan(15);
  // At this size only the mixed load can be judged at all.
  expect(verdicts.filter(({ verdict }) => verdict === 'not run').length).toBeGreaterThan(10);
}, 300_000);
