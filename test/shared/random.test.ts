import { expect, test } from 'vitest';
import { Random } from '../../dist/shared/random.js';

const take = (random: Random, count: number): number[] => Array.from({ length: count }, () => random.nextU32());

test('the sequence of a seed never changes', () => {
  expect(take(new Random(1), 4)).toEqual([2374008806, 3592814348, 2678731286, 1284001097]);
});

test('the step is xoshiro128** as published', () => {
  // First outputs of the reference implementation for the state 1, 2, 3, 4.
  const random = new Random(0);
  (random as unknown as { state: Uint32Array }).state.set([1, 2, 3, 4]);
  expect(take(random, 4)).toEqual([11520, 0, 5927040, 70819200]);
});

test('different seeds, also neighbours, fractions and signs, give different sequences', () => {
  const seeds = [0, 1, 2, 3, -1, 0.5, 0.25, 1e300, 2 ** 32, 2 ** 32 + 1, Number.MAX_SAFE_INTEGER];
  expect(new Set(seeds.map((seed) => take(new Random(seed), 4).join())).size).toBe(seeds.length);
  expect(take(new Random(0), 4)).toEqual(take(new Random(-0), 4));
  expect(() => new Random(NaN)).toThrow(TypeError);
});

test('below stays below its bound and is even', () => {
  const random = new Random(7);
  const counts = new Array<number>(10).fill(0);
  for (let draw = 0; draw < 100_000; draw++) counts[random.below(10)]!++;
  // Five standard deviations of a binomial with p = 1/10 are 474.
  for (const count of counts) expect(Math.abs(count - 10_000)).toBeLessThan(474);
  expect(random.below(1)).toBe(0);
  for (let draw = 0; draw < 1000; draw++) expect(random.below(2 ** 40)).toBeLessThan(2 ** 40);
  expect(() => random.below(0)).toThrow(TypeError);
  expect(() => random.below(1.5)).toThrow(TypeError);
});

test('between includes both ends, and floats fill [0, 1)', () => {
  const random = new Random(8);
  const seen = new Set<number>();
  let sum = 0;
  for (let draw = 0; draw < 10_000; draw++) {
    seen.add(random.between(-2, 2));
    const float = random.nextFloat();
    expect(float >= 0 && float < 1).toBe(true);
    sum += float;
  }
  expect([...seen].sort((a, b) => a - b)).toEqual([-2, -1, 0, 1, 2]);
  expect(Math.abs(sum / 10_000 - 0.5)).toBeLessThan(0.015);
});

test('bytes has every length', () => {
  const random = new Random(9);
  for (const length of [0, 1, 3, 4, 5, 100]) expect(random.bytes(length).length).toBe(length);
  expect(new Set(random.bytes(4096)).size).toBe(256);
});

test('a fork leaves its parent two draws further, whatever is drawn from the fork', () => {
  const first = new Random(5);
  const second = new Random(5);
  take(first.fork(), 100);
  second.fork();
  expect(first.nextU32()).toBe(second.nextU32());
});
