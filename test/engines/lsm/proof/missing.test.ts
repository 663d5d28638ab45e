/** What a read of an absent key costs: a look into a data block only where a filter errs, and the counters say so. */
import { describe, expect, test } from 'vitest';
import type { LsmReader } from '../../../../dist/engines/lsm/read/reader.js';
import { blockedFalsePositiveRate, probesFor } from '../../../../dist/engines/lsm/table/filter.js';
import { LsmScene, TINY, type Change } from '../store/scene.js';

const KEYS = 4000;
const name = (index: number): string => `k${String(index).padStart(6, '0')}`;

function filled(bitsPerKey: number): LsmScene {
  const scene = new LsmScene({ tuning: { ...TINY, bitsPerKey, level0Runs: 4 } });
  // Even ones only, and of several runs.
  for (let at = 0; at < KEYS; at += 50) {
    scene.commit(
      Array.from({ length: 50 }, (_, index): Change => {
        return { kind: 'put', key: name(2 * (((at + index) * 2741) % KEYS)), value: 'v'.repeat(60) };
      }),
    );
    if (at % 500 === 0) scene.flush();
  }
  scene.flush();
  return scene;
}

describe.each([4, 10, 16])('with filters of %i bits per key', (bits) => {
  test('absent keys touch as many blocks as filters err, which is as often as theory says', () => {
    const scene = filled(bits);
    const { counters } = scene.reader as LsmReader;
    const before = { ...counters };
    for (let index = 0; index < KEYS; index++) expect(scene.get(name(2 * index + 1))).toBeUndefined();
    const blocks = counters.blocksFromCache + counters.blocksFromFile - before.blocksFromCache - before.blocksFromFile;
    const checks = counters.filterChecks - before.filterChecks;
    const negatives = counters.filterNegatives - before.filterNegatives;
    const errors = counters.filterFalsePositives - before.filterFalsePositives;
    expect(checks).toBeGreaterThanOrEqual(KEYS - scene.shape().reduce((sum, tables) => sum + tables));
    expect(checks).toBe(negatives + errors);
    // One that errs twice in a row in the same block needs it once; a key that is the bound between two blocks looks into both.
    expect(blocks).toBeLessThanOrEqual(Math.ceil(1.1 * errors));
    const rate = blockedFalsePositiveRate(bits, probesFor(bits));
    expect(errors).toBeLessThan(1.2 * rate * checks + 4 * Math.sqrt(rate * checks) + 1);
  });
});

test('without filters every absent key within the bounds of a table touches a block', () => {
  const scene = filled(0);
  const { counters } = scene.reader as LsmReader;
  const before = { ...counters };
  for (let index = 0; index < KEYS - 1; index += 97) expect(scene.get(name(2 * index + 1))).toBeUndefined();
  expect(counters.filterChecks).toBe(before.filterChecks);
  expect(counters.blocksFromCache + counters.blocksFromFile).toBeGreaterThan(
    before.blocksFromCache + before.blocksFromFile + 20,
  );
});

test('keys that are there read no more blocks than one each, however many runs lie above', () => {
  const scene = filled(16);
  const { counters } = scene.reader as LsmReader;
  const before = { ...counters };
  for (let index = 0; index < KEYS; index += 3) expect(scene.get(name(2 * index))).toBe('v'.repeat(60));
  const blocks = counters.blocksFromCache + counters.blocksFromFile - before.blocksFromCache - before.blocksFromFile;
  const errors = counters.filterFalsePositives - before.filterFalsePositives;
  expect(blocks).toBeLessThanOrEqual(Math.ceil(KEYS / 3) + errors);
});
