/** Histograms by themselves: how wrong they are, and that nothing falls between two buckets. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  HISTOGRAM_BUCKETS,
  HISTOGRAM_LENGTH,
  Histogram,
  bucketLow,
  bucketOf,
  bucketValue,
  record,
} from '../../dist/actors/metrics/histogram.js';

const value = fc.oneof(fc.nat(40), fc.double({ min: 0, max: 2 ** 39 - 1, noNaN: true }), fc.nat());

describe('buckets', () => {
  test('each value has the bucket whose bounds it is between, which is 3.2 % wrong at most', () => {
    fc.assert(
      fc.property(value, (ns) => {
        const bucket = bucketOf(ns);
        expect(bucketLow(bucket)).toBeLessThanOrEqual(ns);
        expect(bucketLow(bucket + 1)).toBeGreaterThan(ns);
        if (ns >= 16) expect(Math.abs(bucketValue(bucket) - ns) / ns).toBeLessThanOrEqual(0.032);
        else expect(bucketValue(bucket)).toBe(Math.floor(ns));
      }),
    );
  });

  test('one follows the other, up to nine minutes', () => {
    for (let bucket = 0; bucket < HISTOGRAM_BUCKETS; bucket++) {
      expect(bucketOf(bucketLow(bucket))).toBe(bucket);
      expect(bucketLow(bucket + 1)).toBeGreaterThan(bucketLow(bucket));
    }
    expect(bucketLow(HISTOGRAM_BUCKETS)).toBe(2 ** 39);
  });

  test('what is too long, too short or no number has one too', () => {
    for (const ns of [2 ** 39, 1e15, Infinity, NaN]) expect(bucketOf(ns)).toBe(HISTOGRAM_BUCKETS - 1);
    for (const ns of [-1, -1e12, 0, 0.5]) expect(bucketOf(ns)).toBe(0);
  });
});

test('quantiles are those of the values, 3.2 % wrong at most', () => {
  fc.assert(
    fc.property(
      fc.array(value, { minLength: 1, maxLength: 300 }),
      fc.double({ min: 0, max: 1, noNaN: true }),
      (all, part) => {
        const data = new Float64Array(HISTOGRAM_LENGTH);
        for (const ns of all) record(data, 0, ns);
        const histogram = new Histogram(data);
        const sorted = [...all].sort((a, b) => a - b);
        const exact = sorted[Math.max(1, Math.ceil(part * all.length)) - 1]!;
        expect(histogram.count).toBe(all.length);
        expect(histogram.largest).toBe(sorted.at(-1));
        // Below 16 the bucket is a whole number.
        expect(Math.abs(histogram.quantile(part) - exact)).toBeLessThanOrEqual(Math.max(1, exact * 0.032));
      },
    ),
  );
});

test('counts up to bounds ascend, and end with all', () => {
  const data = new Float64Array(2 * HISTOGRAM_LENGTH);
  for (const ns of [10, 1000, 1000, 50_000, 2e9]) record(data, HISTOGRAM_LENGTH, ns);
  const histogram = new Histogram(data, HISTOGRAM_LENGTH);
  expect(histogram.cumulative([15, 2000, 1e6, 1e10])).toEqual([1, 3, 4, 5]);
  expect(histogram.sum).toBe(2e9 + 52_010);
  expect(new Histogram(data).count).toBe(0);
});
