/** What a shard tells of its engines and groups, by itself. */
import { expect, test } from 'vitest';
import { MetricsBoard, ShardHistogram, boardBytes } from '../../dist/actors/metrics/board.js';
import { HISTOGRAM_LENGTH, Histogram } from '../../dist/actors/metrics/histogram.js';
import { ShardMeter, readShardReport } from '../../dist/actors/metrics/shard-meter.js';
import '../../dist/engines/built-in.js';
import type { Space } from '../../dist/engines/store/space-table.js';

function newBoard(): MetricsBoard {
  return new MetricsBoard(new SharedArrayBuffer(boardBytes(1, 1)), 0, 1, 1);
}

/** As much of a space as a report looks at. */
function spaceOf(id: number, movesTo: string | undefined, metrics: Record<string, number> = { pageSplits: id }): Space {
  return {
    id,
    definition: { id, engine: movesTo ?? 'btree', tuning: {} },
    engine: { code: 0, memory: () => ({ leafBytes: 4096 }), metrics: () => metrics },
    building: movesTo === undefined ? undefined : {},
  } as unknown as Space;
}

test('a report names what each space counts, and where it is moving', () => {
  const board = newBoard();
  expect(readShardReport(board, 0)).toBeUndefined();
  const meter = new ShardMeter(board, 0, { syncMs: 0 });
  expect(meter.reportDueMs).toBe(0);
  meter.report([spaceOf(0, undefined), spaceOf(9, 'hash')], (id) => ({ copied: id, total: 100 }));
  expect(readShardReport(board, 0)).toEqual({
    spaces: [
      { id: 0, engine: 'btree', memory: { leafBytes: 4096 }, metrics: { pageSplits: 0 } },
      {
        id: 9,
        engine: 'btree',
        memory: { leafBytes: 4096 },
        metrics: { pageSplits: 9 },
        moving: { engine: 'hash', copied: 9, total: 100 },
      },
    ],
  });
});

test('a report is due a quarter of a second later while something is new or on its way, and not before', () => {
  const meter = new ShardMeter(newBoard(), 0, { syncMs: 0 });
  const startedMs = performance.now();
  meter.report([spaceOf(9, 'hash')], () => ({ copied: 1, total: 2 }));
  expect(meter.reportDueMs).toBeGreaterThanOrEqual(startedMs + 250);
  expect(meter.reportDueMs).toBeLessThan(performance.now() + 5000);
  meter.report([spaceOf(9, undefined)], () => undefined);
  expect(meter.reportDueMs).toBe(Infinity);
  meter.begin(false);
  meter.logged();
  meter.applied(1);
  expect(meter.reportDueMs).toBeGreaterThanOrEqual(startedMs + 250);
  expect(meter.reportDueMs).toBeLessThan(Infinity);
});

test('of more than there is room for, the spaces made first are told', () => {
  const board = newBoard();
  const meter = new ShardMeter(board, 0, { syncMs: 0 });
  const many = Object.fromEntries(Array.from({ length: 400 }, (_, i) => [`counter number ${i}`, i]));
  meter.report(
    Array.from({ length: 400 }, (_, id) => spaceOf(id, undefined, many)),
    () => undefined,
  );
  const { spaces } = readShardReport(board, 0)!;
  expect(spaces.length).toBeGreaterThan(30);
  expect(spaces.length).toBeLessThan(400);
  expect(spaces.map(({ id }) => id)).toEqual(spaces.map((_, index) => index));
});

test('groups that are synced are all timed, of others one of eight; the time of the sync is not the time of the log', () => {
  const board = newBoard();
  const clock = { syncMs: 0 };
  const meter = new ShardMeter(board, 0, clock);
  const histogram = (which: number): Histogram => new Histogram(board.shardHistograms(0), which * HISTOGRAM_LENGTH);
  for (let group = 0; group < 80; group++) {
    meter.begin(false);
    meter.logged();
    meter.applied(5);
    meter.answered();
  }
  expect(histogram(ShardHistogram.GroupRecords).count).toBe(80);
  expect(histogram(ShardHistogram.GroupRecords).quantile(0.5)).toBe(5);
  expect(histogram(ShardHistogram.Apply).count).toBe(10);
  expect(histogram(ShardHistogram.Answer).count).toBe(10);
  expect(histogram(ShardHistogram.Sync).count).toBe(0);
  for (let group = 0; group < 3; group++) {
    clock.syncMs = 99;
    meter.begin(true);
    const until = performance.now() + 20;
    while (performance.now() < until);
    clock.syncMs += 15;
    meter.logged();
    meter.applied(1);
    // A group of the shard's own has nobody to answer.
  }
  expect(histogram(ShardHistogram.Sync).count).toBe(3);
  expect(histogram(ShardHistogram.Sync).largest).toBe(15e6);
  expect(histogram(ShardHistogram.Log).count).toBe(13);
  expect(histogram(ShardHistogram.Log).largest).toBeGreaterThanOrEqual(5e6);
  expect(histogram(ShardHistogram.Answer).count).toBe(10);
});
