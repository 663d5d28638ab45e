import { expect, test } from 'vitest';
import { engineNames } from '../dist/engines/engine.js';
// @ts-expect-error plain JavaScript
import { judgeEngines, runEngines } from '../bench/engines.mjs';
// @ts-expect-error plain JavaScript
import { MIXES } from '../bench/support/mix-run.mjs';
// @ts-expect-error plain JavaScript
import { Reference } from '../bench/support/reference.mjs';

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

interface Ranges {
  readonly set: readonly [number, number];
  readonly get: readonly [number, number];
  readonly bytesPerEntry: readonly [number, number];
}

interface Measuring {
  measure(engine: string, plan: readonly object[], seed: number): Promise<void>;
  measureMix(name: string, operations: number, keys: number, seed: number): Promise<void>;
  of(row: object): Ranges | undefined;
  ofMix(name: string): readonly [number, number];
  remove(): void;
}

test('the C engines compiled here read back what they wrote', async () => {
  const reference = Reference.compile() as Measuring | undefined;
  // Without a compiler the bench runs without it, as above.
  if (reference === undefined) return;
  try {
    for (const engine of ['hash', 'btree', 'rbtree', 'memtable']) {
      for (const order of ['sequential', 'shuffled']) {
        const row = { engine, records: 1000, order, rounds: 3, oneByOne: false };
        for (const seed of [1, 2]) await reference.measure(engine, [row], seed);
        const { set, get, bytesPerEntry } = reference.of(row) as Ranges;
        expect(Math.min(...set, ...get)).toBeGreaterThan(0);
        expect(set[1]).toBeGreaterThanOrEqual(set[0]);
        // The allocations of a key of 17 bytes and a value of 40 alone are 80.
        expect(bytesPerEntry[0]).toBeGreaterThan(80);
      }
    }
    for (const name of Object.keys(MIXES)) {
      await reference.measureMix(name, 8000, 2000, 1);
      expect(reference.ofMix(name)[0]).toBeGreaterThan(0);
    }
    expect(reference.of({ engine: 'array', records: 1000, order: 'shuffled' })).toBeUndefined();
  } finally {
    reference.remove();
  }
});

test('without a C compiler there is no reference, and a broken one is told', () => {
  const compiler = process.env['CC'];
  try {
    process.env['CC'] = 'no-such-compiler';
    expect(Reference.compile()).toBeUndefined();
    process.env['CC'] = 'false';
    expect(() => Reference.compile() as unknown).toThrow(/false/);
  } finally {
    if (compiler === undefined) delete process.env['CC'];
    else process.env['CC'] = compiler;
  }
});
