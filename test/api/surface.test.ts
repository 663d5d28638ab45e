/** What the package exports and what a pool tells about itself. */
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import * as concord from '../../dist/index.js';
import { ConcordPool } from '../../dist/index.js';
import { removeDirectory, scratchDirectory } from '../support/pool-scene.js';

test('the package exports these names, and the limits have these values', () => {
  expect(Object.keys(concord).sort()).toEqual([
    'ConcordError',
    'ConcordPool',
    'ERROR_TABLE',
    'MAX_BATCH_BYTES',
    'MAX_KEY_BYTES',
    'MAX_VALUE_BYTES',
    'Snapshot',
    'Space',
    'Transaction',
    'createEngine',
    'engineNames',
    'loadConfig',
    'registerEngine',
  ]);
  expect(concord.MAX_KEY_BYTES).toBe(4096);
  expect(concord.MAX_VALUE_BYTES).toBe(256 << 20);
  expect(concord.MAX_BATCH_BYTES).toBe(256 << 20);
});

test('the package can be imported by its name', async () => {
  const name = 'concordkv';
  const byName = (await import(name)) as typeof concord;
  expect(Object.keys(byName).sort()).toEqual(Object.keys(concord).sort());
});

describe('stats', () => {
  test('count what was done', async () => {
    const directory = scratchDirectory();
    const db = await ConcordPool.open(directory, { shards: 2 });
    await Promise.all(Array.from({ length: 100 }, (_, i) => db.put(`k${i}`, 'v'.repeat(100))));
    await db.put('k0', 'x', { ifAbsent: true });
    await db.del('k1');
    const snapshot = await db.snapshot();
    const stats = db.stats();
    expect(stats).toMatchObject({ entries: 99, clients: 1, openSnapshots: 1, pendingCalls: 0, queuedCalls: 0 });
    expect(stats.dataBytes).toBe(99 * 100 + 10 * 2 + 90 * 3 - 2);
    expect(stats.shards).toHaveLength(2);
    const sum = (of: (shard: (typeof stats.shards)[number]) => number): number =>
      stats.shards.reduce((total, shard) => total + of(shard), 0);
    expect(sum(({ operations }) => operations)).toBe(101);
    expect(sum(({ conditionsFailed }) => conditionsFailed)).toBe(1);
    expect(sum(({ errors }) => errors)).toBe(0);
    expect(sum(({ logBytes }) => logBytes)).toBe(stats.logBytes);
    for (const shard of stats.shards) {
      expect(shard).toMatchObject({ state: 'running', restarts: 0, checkpoints: 0 });
      expect(shard.syncs).toBeGreaterThan(0);
      expect(shard.logSyncedLsn).toBe(shard.logLsn);
      expect(shard.memory.usedBytes).toBeGreaterThan(0);
      expect(shard.memory.highWaterBytes).toBeLessThanOrEqual(shard.memory.capacityBytes);
    }
    expect(stats.diskBytes).toBeGreaterThan(10_000);
    await snapshot.close();
    await db.host!.checkpointAll();
    expect(db.stats().shards.map(({ checkpoints }) => checkpoints)).toEqual([1, 1]);
    const text = await db.metrics();
    expect(text).toMatch(/^# HELP concordkv_/m);
    expect(text).toMatch(/^concordkv_\w+(\{[^}]*\})? 99$/m);
    await db.close();
  });

  test('are plain data that can be cloned', async () => {
    const db = await ConcordPool.open(':memory:', { shards: 1 });
    const stats = db.stats();
    expect(structuredClone(stats)).toEqual(stats);
    await db.close();
  });
});

test('the recovery report says where the state came from', async () => {
  const directory = scratchDirectory();
  let db = await ConcordPool.open(directory, { shards: 1 });
  await db.put('a', '1');
  await db.close();
  db = await ConcordPool.open(directory);
  expect(db.recovery).toMatchObject([
    { checkpoint: undefined, operationsReplayed: 1, wal: { frames: 1, cut: undefined } },
  ]);
  await db.host!.checkpointAll();
  await db.put('b', '1');
  await db.put('c', '1');
  await db.close();
  db = await ConcordPool.open(directory);
  expect(db.recovery).toMatchObject([{ checkpoint: { lsn: 1 }, operationsReplayed: 2 }]);
  await db.close();
});

test('a pool can be disposed of, tells that it closed, and knows its directory', async () => {
  const directory = scratchDirectory();
  const db = await ConcordPool.open(join(directory, '.', 'store'), { shards: 1 });
  expect(db.directory).toBe(join(directory, 'store'));
  let closed = 0;
  db.events.on('closed', () => closed++);
  await db[Symbol.asyncDispose]();
  await db.close();
  expect(closed).toBe(1);
  removeDirectory(directory);
});

test('a checkpoint is written by itself when the log has grown', async () => {
  const directory = scratchDirectory();
  const db = await ConcordPool.open(directory, {
    shards: 1,
    segmentBytes: 262144,
    checkpointLogBytes: 262144,
    durability: 'os',
  });
  for (let wanted = 1; wanted <= 2; wanted++) {
    for (let i = 0; i < 20; i++)
      await Promise.all(Array.from({ length: 20 }, (_, k) => db.put(`k${k}`, `${wanted} ${i}`.padEnd(3000, '.'))));
    await expect.poll(() => db.stats().shards[0]!.checkpoints).toBeGreaterThanOrEqual(wanted);
  }
  // Of the 2.4 MB that were written.
  await expect.poll(() => db.stats().logBytes).toBeLessThan(2 << 20);
  await db.close();
});
