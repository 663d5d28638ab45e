/** stats(): every number is what was done, over spaces and threads. */
import { Worker } from 'node:worker_threads';
import { describe, expect, onTestFinished, test, vi } from 'vitest';
import { ConcordPool, type PoolOptions, type PoolStats } from '../../dist/index.js';
import { keysOfShard, scratchDirectory } from '../support/pool-scene.js';

async function openStore(options?: PoolOptions, directory = ':memory:'): Promise<ConcordPool> {
  const db = await ConcordPool.open(directory, { shards: 2, ...options });
  onTestFinished(() => db.close());
  return db;
}

function space(stats: PoolStats, name: string): PoolStats['spaces'][number] {
  return stats.spaces.find((each) => each.name === name)!;
}

const NOTHING = {
  gets: 0,
  hits: 0,
  misses: 0,
  scans: 0,
  scanChunks: 0,
  scannedEntries: 0,
  puts: 0,
  deletes: 0,
  batches: 0,
  clears: 0,
  conflicts: 0,
  failures: 0,
  readRetries: 0,
  viewRenewals: 0,
  latchWaits: 0,
  latchWaitUs: 0,
};

describe('operations', () => {
  test('are counted in their space, however they are called', async () => {
    const db = await openStore();
    const users = db.space('users', { engine: 'hash' });
    await users.ready;
    await Promise.all(Array.from({ length: 50 }, (_, i) => db.put(`k${i}`, 'v')));
    await users.put('a', '1');
    await users.put('a', '2', { ifAbsent: true });
    await users.del('b');
    for (let i = 0; i < 10; i++) db.getSync(`k${i}`);
    db.getSync('no');
    await db.get('k1');
    db.hasSync('k1');
    await db.has('no');
    db.getEntrySync('k1');
    await db.getMany(['k1', 'k2', 'no']);
    users.getSync('a');
    expect(await db.iterator().all()).toHaveLength(50);
    expect([...db.keysSync({ limit: 5 })]).toHaveLength(5);
    await db.clear({ gte: 'k4' });
    const stats = db.stats();
    expect(space(stats, '').operations).toEqual({
      ...NOTHING,
      gets: 18,
      hits: 15,
      misses: 3,
      puts: 50,
      scans: 2,
      scanChunks: 4,
      // Five of each shard were read for the limit.
      scannedEntries: 60,
      clears: 1,
    });
    expect(space(stats, 'users').operations).toEqual({
      ...NOTHING,
      gets: 1,
      hits: 1,
      puts: 2,
      deletes: 1,
      conflicts: 1,
    });
    expect(stats.operations.puts).toBe(52);
    expect(users.stats().operations).toEqual(space(stats, 'users').operations);
  });

  test('of a batch count in the spaces they name, the batch where it was called', async () => {
    const db = await openStore({ shards: 1 });
    const a = db.space('a');
    await a.ready;
    await db.batch([
      { type: 'put', key: 'x', value: '1' },
      { type: 'put', key: 'y', value: '2', space: a },
      { type: 'del', key: 'z', space: 'a' },
    ]);
    const stats = db.stats();
    expect(space(stats, '').operations).toEqual({ ...NOTHING, puts: 1, batches: 1 });
    expect(space(stats, 'a').operations).toEqual({ ...NOTHING, puts: 1, deletes: 1 });
    expect(space(stats, '').latency.write.count).toBe(1);
  });

  test('that a shard refuses are failures', async () => {
    const db = await openStore({ shards: 1, memoryBytes: 4 << 20 });
    let failures = 0;
    for (let i = 0; i < 400; i++) await db.put(`k${i}`, 'v'.repeat(30_000)).catch(() => failures++);
    expect(failures).toBeGreaterThan(0);
    expect(db.stats().operations.failures).toBe(failures);
    expect(db.stats().operations.puts).toBe(400);
  });

  test('of a thread stay when it has left, and of a space in the total when it was dropped', async () => {
    const db = await openStore();
    await db.put('k', 'v');
    const s = db.space('s');
    await s.put('a', '1');
    for (let round = 1; round <= 2; round++) {
      const { port, control, transferList } = db.handle();
      const worker = new Worker(new URL('./reader.mjs', import.meta.url), {
        workerData: { port, control, gets: 1000, detaches: round === 1 },
        transferList: [...transferList],
      });
      await new Promise((resolve, reject) => worker.once('exit', resolve).once('error', reject));
      await vi.waitFor(() => expect(db.stats().clients).toBe(1), 60_000);
      await vi.waitFor(() => expect(space(db.stats(), '').operations.gets).toBe(1000 * round), 60_000);
      expect(space(db.stats(), '').operations.hits).toBe(500 * round);
      expect(space(db.stats(), 's').operations).toMatchObject({ gets: round, puts: 1 + round });
    }
    await s.drop();
    await db.put('k', 'w');
    const stats = db.stats();
    expect(stats.spaces.map(({ name }) => name)).toEqual(['']);
    expect(stats.operations).toMatchObject({ gets: 2002, puts: 5 });
  });
});

describe('latencies', () => {
  test('every write is timed, one of 64 reads, and every chunk', async () => {
    const db = await openStore();
    await Promise.all(Array.from({ length: 300 }, (_, i) => db.put(`k${i}`, 'v')));
    await db.put('large', 'x'.repeat(3 << 20));
    for (let i = 0; i < 640; i++) db.getSync('k1');
    await db.iterator().all();
    const { latency } = db.stats();
    expect(latency.write.count).toBe(301);
    expect(latency.read.count).toBe(10);
    expect(latency.scan.count).toBe(db.stats().operations.scanChunks);
    for (const { p50Us, p99Us, p999Us, maxUs, meanUs } of Object.values(latency)) {
      expect(p50Us).toBeGreaterThan(0);
      expect(p99Us).toBeGreaterThanOrEqual(p50Us);
      expect(p999Us).toBeGreaterThanOrEqual(p99Us);
      expect(maxUs).toBeGreaterThanOrEqual(p999Us);
      expect(meanUs).toBeLessThanOrEqual(maxUs);
    }
  });

  test('a write takes as long as its caller waits', async () => {
    const db = await openStore({ shards: 1 });
    let longestMs = 0;
    for (let i = 0; i < 20; i++) {
      const startedMs = performance.now();
      const put = db.put(`k${i}`, 'v');
      const calledMs = performance.now();
      // The answer is there long before; it is taken when the thread is free.
      if (i === 7) while (performance.now() - calledMs < 80);
      await put;
      longestMs = Math.max(longestMs, performance.now() - startedMs);
    }
    const { maxUs } = db.stats().latency.write;
    expect(maxUs).toBeGreaterThanOrEqual(80_000);
    expect(maxUs).toBeLessThanOrEqual(longestMs * 1000);
  });

  test('of groups have their parts, synced ones each of them', async () => {
    const db = await openStore({ shards: 1, durability: 'sync' }, scratchDirectory());
    for (let i = 0; i < 30; i++) await db.put(`k${i}`, 'v');
    await db.host!.checkpointAll();
    const [shard] = db.stats().shards;
    expect(shard!.latency.log.count).toBe(30);
    expect(shard!.latency.sync.count).toBe(30);
    expect(shard!.latency.apply.count).toBe(30);
    expect(shard!.latency.answer.count).toBe(30);
    expect(shard!.latency.checkpoint.count).toBe(1);
    expect(shard!.latency.checkpoint.maxUs).toBeGreaterThan(100);
    expect(shard!.latency.sync.p50Us).toBeGreaterThan(1);
    expect(shard!.groupRecords).toEqual({ mean: 1, p50: 1, p99: 1, max: 1 });
    await Promise.all(Array.from({ length: 800 }, (_, i) => db.put(`k${i}`, 'w', { durability: 'memory' })));
    expect(db.stats().shards[0]!.latency.sync.count).toBe(30);
    expect(db.stats().shards[0]!.groupRecords.max).toBeGreaterThan(1);
  });
});

describe('engines', () => {
  test('tell what they count and use, over all shards', async () => {
    const db = await openStore();
    const spaces = { btree: db, hash: db.space('h', { engine: 'hash' }), rbtree: db.space('r', { engine: 'rbtree' }) };
    for (const each of Object.values(spaces)) {
      await Promise.all(Array.from({ length: 3000 }, (_, i) => each.put(`key ${i}`, 'v'.repeat(100))));
    }
    await vi.waitFor(() => {
      const stats = db.stats();
      expect(space(stats, '').engineMetrics.pageSplits).toBeGreaterThan(50);
      expect(space(stats, '').engineMetrics.leafPageBytes).toBeLessThanOrEqual(32_768);
      expect(space(stats, 'h').engineMetrics.buckets).toBeGreaterThan(0);
      expect(space(stats, 'r').engineMetrics.rotations).toBeGreaterThan(100);
      for (const { memory, dataBytes, keyBytes, valueBytes } of stats.spaces) {
        const usedBytes = Object.entries(memory).reduce((sum, [name, bytes]) => {
          expect(name).toMatch(/Bytes$/);
          return sum + bytes;
        }, 0);
        expect(usedBytes).toBeGreaterThan(dataBytes);
        expect([keyBytes, valueBytes]).toEqual([22_890, 300_000]);
      }
    }, 60_000);
  });

  test('what is on its way to another engine is told', async () => {
    const db = await openStore({ shards: 1 });
    for (let i = 0; i < 60_000; i += 3000)
      await Promise.all(Array.from({ length: 3000 }, (_, j) => db.put(`key ${i + j}`, 'v', { durability: 'memory' })));
    const seen: PoolStats['shards'][number]['moving'][number][] = [];
    let isDone = false;
    const switched = db.switchEngine('memtable').finally(() => (isDone = true));
    while (!isDone) {
      seen.push(...db.stats().shards[0]!.moving);
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    await switched;
    for (const each of seen) {
      expect(each).toMatchObject({ space: '', engine: 'memtable' });
      expect(each.copied).toBeLessThanOrEqual(each.total);
    }
    await vi.waitFor(() => expect(db.stats().shards[0]!.moving).toEqual([]), 60_000);
    const before = db.stats().operations.viewRenewals;
    db.getSync('key 1');
    db.getSync('key 2');
    expect(db.stats().operations.viewRenewals).toBe(before);
    expect(db.stats().spaces[0]!.engine).toBe('memtable');
    await vi.waitFor(() => expect(db.stats().spaces[0]!.engineMetrics).toHaveProperty('lanePages'), 60_000);
  });
});

describe('readers', () => {
  test('that find another engine than they knew begin again, once', async () => {
    const db = await openStore({ shards: 1 });
    await db.put('a', '1');
    db.getSync('a');
    expect(db.stats().operations.viewRenewals).toBe(0);
    await db.switchEngine('hash');
    db.getSync('a');
    db.getSync('a');
    expect(db.stats().operations.viewRenewals).toBe(1);
  });
});

test('calls in flight of every thread are told per shard', async () => {
  const db = await openStore({ shards: 1 });
  const puts = Promise.all(Array.from({ length: 500 }, (_, i) => db.put(`k${i}`, 'v')));
  await Promise.resolve();
  expect(db.stats().shards[0]!.pendingRequests).toBe(500);
  await puts;
  expect(db.stats().shards[0]!.pendingRequests).toBe(0);
});

describe('transactions', () => {
  test('locks that are held and awaited are told of their shard, and how long was waited', async () => {
    const db = await openStore();
    const [key] = keysOfShard(1, 2, 1);
    const locks = (shard: number): PoolStats['shards'][number]['locks'] => db.stats().shards[shard]!.locks;
    const [first, second] = [db.begin({ mode: 'pessimistic' }), db.begin({ mode: 'pessimistic' })];
    await first.getForUpdate(key!);
    const awaited = second.getForUpdate(key!);
    const put = db.put(key!, 'later');
    await vi.waitFor(() => {
      expect(locks(1)).toMatchObject({ held: 1, awaited: 1, setAside: 1, waits: 2, timeouts: 0 });
    }, 60_000);
    expect(locks(1).wait.count).toBe(0);
    expect(locks(0)).toMatchObject({ held: 0, awaited: 0, setAside: 0, waits: 0 });
    await first.commit();
    await awaited;
    await second.rollback();
    await put;
    await vi.waitFor(() => {
      expect(locks(1)).toMatchObject({ held: 0, awaited: 0, setAside: 0, waits: 2, wait: { count: 2 } });
    }, 60_000);
    expect(locks(1).wait.maxUs).toBeGreaterThan(0);
  });

  test('each phase of a commit in several shards is timed', async () => {
    const db = await openStore();
    const keys = [keysOfShard(0, 2, 1)[0]!, keysOfShard(1, 2, 1)[0]!];
    for (const value of ['1', '2', '3'])
      await db.transaction((tx) => {
        for (const key of keys) void tx.put(key, value);
      });
    // A shard and the coordinator tell what they have counted a moment after they have answered.
    await vi.waitFor(() => {
      const { transactions, coordinator, shards } = db.stats();
      expect(transactions).toMatchObject({ manyShards: 3, votes: { count: 3 } });
      expect(coordinator).toMatchObject({ decisions: 3, aborts: 0, decision: { count: 3 }, apply: { count: 3 } });
      for (const { transactions: own } of shards)
        expect(own).toMatchObject({ prepared: 0, inDoubt: 0, conflicts: 0, voteToOutcome: { count: 3 } });
    }, 60_000);
  });
});
