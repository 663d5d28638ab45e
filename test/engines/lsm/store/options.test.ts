/** Options of an LSM-Tree: defaults, bounds by the memory of the shard, and what is refused. */
import { describe, expect, test } from 'vitest';
import { resolveLsmOptions, type LsmTuning } from '../../../../dist/engines/lsm/options.js';

test('everything has a default, and the triggers ascend', () => {
  const options = resolveLsmOptions();
  expect(options.style).toBe('leveled');
  expect(options.memtableBytes).toBe(64 << 20);
  expect(options.tables).toHaveLength(7);
  expect(options.level0Runs).toBeLessThan(options.slowdownRuns);
  expect(options.slowdownRuns).toBeLessThan(options.stopRuns);
  expect(options.slowdownDebtBytes).toBeLessThan(options.stopDebtBytes);
  expect(options.blobValueBytes).toBe(Infinity);
});

test.each([1 << 20, 16 << 20, 256 << 20, 4 * 2 ** 30])(
  'memtables, active and frozen, take at most half of %i bytes of memory',
  (arenaBytes) => {
    for (const frozenMax of [1, 3, 16]) {
      const { memtableBytes } = resolveLsmOptions({ frozenMax, memtableBytes: 2 ** 30 }, arenaBytes);
      if (memtableBytes === 64 << 10) continue;
      expect((frozenMax + 1) * memtableBytes).toBeLessThanOrEqual(arenaBytes / 2);
      expect(memtableBytes).toBeLessThanOrEqual(arenaBytes / 8);
    }
  },
);

test('a list of compressions counts by level, its last for those below', () => {
  const { tables } = resolveLsmOptions({ compression: ['none', 'none', 'lz4'] });
  expect(tables.map(({ compression }) => compression)).toEqual(['none', 'none', ...new Array<string>(5).fill('lz4')]);
});

test('monkey gives small levels more bits per key than the last one', () => {
  const bits = resolveLsmOptions({ bitsPerKey: 'monkey' }).tables.map(({ bitsPerKey }) => bitsPerKey);
  expect(bits[1]!).toBeGreaterThan(bits[6]!);
  expect(bits[6]!).toBeGreaterThan(0);
});

describe('what is refused names the option', () => {
  const wrong: [string, LsmTuning | Record<string, unknown>][] = [
    ['compaction', { compaction: 'none' }],
    ['memtableBytes', { memtableBytes: 1000 }],
    ['memtableBytes', { memtableBytes: 1.5 }],
    ['frozenMax', { frozenMax: 0 }],
    ['compression', { compression: 'gzip' }],
    ['compression', { compression: [] }],
    ['blockBytes', { blockBytes: 100_000 }],
    ['restartInterval', { restartInterval: 0 }],
    ['bitsPerKey', { bitsPerKey: 65 }],
    ['tableBytes', { tableBytes: 1 }],
    ['level0Runs', { level0Runs: 20, slowdownRuns: 10 }],
    ['stopRuns', { slowdownRuns: 20, stopRuns: 20 }],
    ['slowdownDebtBytes', { slowdownDebtBytes: 2 ** 40, stopDebtBytes: 2 ** 39 }],
    ['levelFactor', { levelFactor: 1 }],
    ['fifoTtlMs', { fifoTtlMs: -1 }],
    ['blobValueBytes', { blobValueBytes: 10 }],
    ['blobGarbagePercent', { blobGarbagePercent: 101 }],
  ];
  test.each(wrong)('%s: %o', (option, tuning) => {
    expect(() => resolveLsmOptions(tuning as LsmTuning)).toThrow(
      expect.objectContaining({ code: 'ERR_INVALID_ARG', message: expect.stringContaining(option) as string }),
    );
  });
});
