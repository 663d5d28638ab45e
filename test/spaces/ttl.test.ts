/** Entries that expire: when they do, what conditions and counts make of them, and that they are removed. */
import { describe, expect, onTestFinished, test, vi } from 'vitest';
import { ConcordPool, type PoolOptions } from '../../dist/index.js';
import { codeOf, scratchDirectory } from '../support/pool-scene.js';

async function memoryPool(options?: PoolOptions): Promise<ConcordPool> {
  const db = await ConcordPool.open(':memory:', { shards: 1, memoryBytes: 64 << 20, ...options });
  onTestFinished(() => db.close());
  return db;
}

const HOUR_MS = 3_600_000;
const realNow = Date.now.bind(Date);

/** From now on this thread's clock, by which it judges what it reads, is so far ahead; the shards' is not, so they remove nothing. */
function advance(ms: number): void {
  vi.spyOn(Date, 'now').mockImplementation(() => realNow() + ms);
  onTestFinished(() => {
    vi.restoreAllMocks();
  });
}

const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

describe.each([['the pool itself'], ['a space']])('in %s', (where) => {
  async function scene(options?: PoolOptions): Promise<{
    db: ConcordPool;
    store: Pick<
      ConcordPool,
      | 'put'
      | 'get'
      | 'getSync'
      | 'getEntry'
      | 'getEntrySync'
      | 'has'
      | 'hasSync'
      | 'getMany'
      | 'count'
      | 'update'
      | 'batch'
      | 'iterator'
      | 'iterateSync'
      | 'del'
      | 'snapshot'
    >;
  }> {
    const db = await memoryPool(options);
    const store = where === 'a space' ? db.space('s') : db;
    return { db, store };
  }

  test('an entry with ttlMs is there until its time and absent for every read from then on', async () => {
    const { store } = await scene();
    const before = Date.now();
    await store.put('k', 'v', { ttlMs: HOUR_MS });
    await store.put('stays', 'v');
    const entry = store.getEntrySync('k');
    expect(entry).toMatchObject({ key: 'k', value: 'v' });
    expect(entry!.expiresAt).toBeGreaterThanOrEqual(before + HOUR_MS);
    expect(entry!.expiresAt).toBeLessThanOrEqual(Date.now() + HOUR_MS + 1);
    expect(store.getEntrySync('stays')).not.toHaveProperty('expiresAt');
    expect(await store.count()).toBe(2);
    advance(HOUR_MS - 60_000);
    expect(store.getSync('k')).toBe('v');
    advance(HOUR_MS + 1);
    expect(store.getSync('k')).toBeUndefined();
    expect(await store.get('k')).toBeUndefined();
    expect(await store.getEntry('k')).toBeUndefined();
    expect(store.hasSync('k')).toBe(false);
    expect(await store.has('k')).toBe(false);
    expect(await store.getMany(['k', 'stays'])).toEqual([undefined, 'v']);
    expect(await store.iterator().all()).toEqual([['stays', 'v']]);
    expect([...store.iterateSync({ reverse: true })]).toEqual([['stays', 'v']]);
    expect(await store.count({ gte: 'a' })).toBe(1);
  });

  test('a put without ttlMs takes the time away, one with another ttlMs sets another', async () => {
    const { store } = await scene();
    await store.put('a', '1', { ttlMs: HOUR_MS });
    await store.put('b', '1', { ttlMs: HOUR_MS });
    await store.put('c', '1', { ttlMs: 3 * HOUR_MS });
    await store.put('a', '2');
    await store.put('b', '2', { ttlMs: 3 * HOUR_MS });
    await store.put('c', '2', { ttlMs: HOUR_MS });
    advance(2 * HOUR_MS);
    expect(['a', 'b', 'c'].map((key) => store.getSync(key))).toEqual(['2', '2', undefined]);
    expect(store.getEntrySync('a')).not.toHaveProperty('expiresAt');
  });

  test('an expired entry is absent for ifAbsent and ifVersion, and an unexpired one is not', async () => {
    const { store } = await scene();
    await store.put('k', '0', { ttlMs: HOUR_MS });
    expect(await store.put('k', '1', { ifAbsent: true })).toBe(false);
    const alive = store.getEntrySync('k')!.version;
    expect(await store.put('k', '1', { ifVersion: alive, ttlMs: 2000 })).toBe(true);
    const { version } = store.getEntrySync('k')!;
    await sleep(2020);
    expect(await store.put('k', '2', { ifVersion: version })).toBe(false);
    expect(await store.del('k', { ifVersion: version })).toBe(false);
    expect(await store.put('k', '3', { ifAbsent: true, ttlMs: 60 })).toBe(true);
    await sleep(80);
    expect(await store.put('k', '4', { ifVersion: 0 })).toBe(true);
    expect(store.getEntrySync('k')).toMatchObject({ value: '4' });
    expect(store.getEntrySync('k')).not.toHaveProperty('expiresAt');
  });

  test('update keeps the time of an entry, sets another with ttlMs, and finds nothing in an expired one', async () => {
    const { store } = await scene();
    await store.put('k', '1', { ttlMs: HOUR_MS });
    const { expiresAt } = store.getEntrySync('k')!;
    await store.update('k', (value) => `${value}2`);
    expect(store.getEntrySync('k')).toMatchObject({ value: '12', expiresAt });
    await store.update('k', (value) => `${value}3`, { ttlMs: 2000 });
    expect(store.getEntrySync('k')!.expiresAt).toBeLessThan(expiresAt!);
    await sleep(2020);
    const seen: unknown[] = [];
    await store.update('k', (value) => {
      seen.push(value);
      return 'new';
    });
    expect(seen).toEqual([undefined]);
    expect(store.getEntrySync('k')).not.toHaveProperty('expiresAt');
  });

  test('operations of a batch have times of their own', async () => {
    const { store } = await scene({ memoryBytes: 2 ** 30 });
    await store.batch([
      { type: 'put', key: 'a', value: '1', ttlMs: HOUR_MS },
      { type: 'put', key: 'b', value: '1' },
      { type: 'put', key: 'c', value: '1', ttlMs: 3 * HOUR_MS },
    ]);
    const large = Array.from({ length: 3000 }, (_, i) => ({
      type: 'put' as const,
      key: `large${i}`,
      value: 'x'.repeat(100),
      ttlMs: (i % 2 === 0 ? 1 : 3) * HOUR_MS,
    }));
    await store.batch(large);
    expect(store.getEntrySync('large0')!.expiresAt).toBeLessThan(store.getEntrySync('large1')!.expiresAt!);
    advance(2 * HOUR_MS);
    expect((await store.iterator({ lt: 'l' }).all()).map(([key]) => key)).toEqual(['b', 'c']);
    expect(await store.count({ prefix: 'large' })).toBe(1500);
  });

  test('a value of megabytes expires, and is read to its end when the read began in time', async () => {
    const { store } = await scene();
    const value = 'x'.repeat(5 << 20);
    await store.put('k', value, { ttlMs: HOUR_MS });
    expect(await store.get('k')).toBe(value);
    const reading = store.get('k');
    advance(HOUR_MS);
    expect((await reading)?.length).toBe(value.length);
    expect(store.hasSync('k')).toBe(false);
    expect(await store.get('k')).toBeUndefined();
  });

  test('a snapshot judges by the time it was opened, and an iterator by the time it began', async () => {
    const { store } = await scene();
    await Promise.all(Array.from({ length: 300 }, (_, i) => store.put(`k${i}`, 'v', { ttlMs: HOUR_MS })));
    const snapshot = await store.snapshot();
    const iterator = store.iterator();
    await iterator.next();
    advance(HOUR_MS);
    expect(store.getSync('k7')).toBeUndefined();
    expect(await snapshot.iterator().all()).toHaveLength(300);
    expect(await snapshot.count()).toBe(300);
    expect(snapshot.getSync('k7')).toBe('v');
    expect(store.getSync('k7', { snapshot })).toBe('v');
    expect(await iterator.all()).toHaveLength(299);
    const later = await store.snapshot();
    expect(await later.count()).toBe(0);
    expect([...later.iterateSync()]).toEqual([]);
    await later.close();
    await snapshot.close();
  });

  test('a snapshot keeps what expires while it is open, also when the shard has removed it', async () => {
    const { db, store } = await scene();
    await Promise.all(Array.from({ length: 300 }, (_, i) => store.put(`k${i}`, 'v', { ttlMs: 2000 })));
    const snapshot = await store.snapshot();
    const alive = await snapshot.count();
    expect(alive).toBeGreaterThan(0);
    await vi.waitFor(() => expect(db.stats().shards[0]!.expired).toBe(300), 60_000);
    expect(await store.count()).toBe(0);
    expect(await snapshot.iterator().all()).toHaveLength(alive);
    await snapshot.close();
  });

  test('count is exact before and after expired entries are removed', async () => {
    const { db, store } = await scene();
    for (let i = 0; i < 100; i++) await store.put(`k${i}`, 'v', i % 2 === 0 ? { ttlMs: 120 } : {});
    await sleep(150);
    expect(await store.count()).toBe(50);
    await vi.waitFor(() => expect(db.stats().entries).toBe(50), 60_000);
    expect(await store.count()).toBe(50);
    // Counted behind the publication.
    await vi.waitFor(() => expect(db.stats().shards[0]!.expired).toBe(50), 60_000);
    expect(await db.metrics()).toContain('concordkv_expired_total{shard="0"} 50');
  });
});

test('where no shard is left to remove it an expired entry is absent all the same', async () => {
  const db = await memoryPool();
  const space = db.space('s');
  await space.ready;
  const ttl = { ttlMs: HOUR_MS };
  await Promise.all([db.put('k', 'v', ttl), space.put('k', 'v', ttl), db.put('stays', 'v')]);
  while (db.stats().shards[0]!.state !== 'failed') {
    await db.host!.killShard(0);
    await sleep(5);
  }
  expect(db.stats().shards[0]!.restarts).toBe(4);
  expect([db.getSync('k'), space.getSync('k')]).toEqual(['v', 'v']);
  const snapshot = await db.snapshot();
  advance(HOUR_MS);
  expect([db.getSync('k'), space.getSync('k'), db.getSync('stays')]).toEqual([undefined, undefined, 'v']);
  expect(await db.iterator().all()).toEqual([['stays', 'v']]);
  expect(await Promise.all([db.count(), space.count()])).toEqual([1, 0]);
  expect(db.stats().entries).toBe(3);
  expect(await snapshot.count()).toBe(2);
  expect(space.getSync('k', { snapshot })).toBe('v');
  await snapshot.close();
});

test.each([0, -1, NaN, Infinity, 2 ** 48, '5', null, {}])('ttlMs %j is ERR_INVALID_ARG', async (ttlMs) => {
  const db = await memoryPool();
  const options = { ttlMs: ttlMs as number };
  expect(await codeOf(db.put('k', 'v', options))).toBe('ERR_INVALID_ARG');
  expect(await codeOf(db.update('k', () => 'v', options))).toBe('ERR_INVALID_ARG');
  expect(await codeOf(db.batch([{ type: 'put', key: 'k', value: 'v', ...options }]))).toBe('ERR_INVALID_ARG');
  expect(await db.count()).toBe(0);
});

test('a fraction of a millisecond is rounded up: an entry is never absent before its time', async () => {
  const db = await memoryPool();
  for (let i = 0; i < 50; i++) {
    const before = Date.now();
    await db.put('k', 'v', { ttlMs: HOUR_MS + 0.2 });
    const { expiresAt } = db.getEntrySync('k')!;
    expect(Number.isInteger(expiresAt)).toBe(true);
    expect(expiresAt).toBeGreaterThanOrEqual(before + HOUR_MS + 1);
  }
});

test('times survive the log, a checkpoint and a copy', async () => {
  const directory = scratchDirectory();
  const copy = `${scratchDirectory()}/copy`;
  let db = await ConcordPool.open(directory, { shards: 2 });
  const s = db.space('s');
  const large = 'x'.repeat(100_000);
  await Promise.all([
    db.put('a', '1', { ttlMs: 1e7 }),
    s.put('a', '1', { ttlMs: 1e8 }),
    s.put('large', large, { ttlMs: 1e9 }),
  ]);
  await Promise.all([db.put('gone', '1', { ttlMs: 1 }), s.put('gone', '1', { ttlMs: 1 })]);
  const times = [db.getEntrySync('a')!.expiresAt, s.getEntrySync('a')!.expiresAt, s.getEntrySync('large')!.expiresAt];
  expect(times.every((time) => time! > Date.now())).toBe(true);
  for (const step of ['log', 'checkpoint', 'copy']) {
    if (step === 'checkpoint') await db.host!.checkpointAll();
    if (step === 'copy') await db.checkpoint(copy);
    await db.close();
    db = await ConcordPool.open(step === 'copy' ? copy : directory);
    const space = db.space('s');
    expect(
      [db.getEntrySync('a')!.expiresAt, space.getEntrySync('a')!.expiresAt, space.getEntrySync('large')!.expiresAt],
      step,
    ).toEqual(times);
    expect(db.getSync('gone')).toBeUndefined();
    expect(space.getSync('gone')).toBeUndefined();
    expect(await db.host!.check(), step).toEqual([]);
  }
  await db.close();
});
