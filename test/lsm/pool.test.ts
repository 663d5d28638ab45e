/** An LSM-Tree in a pool, end to end: what is written goes through memtables, tables and levels, and is found there by every thread. */
import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { expect, onTestFinished, test, vi } from 'vitest';
import { ConcordPool, type LsmJobMessage } from '../../dist/index.js';
import { codeOf, patternText, scratchDirectory } from '../support/pool-scene.js';
import { OPTIONS, fill, isQuiet, keyOf, openLsm, treesOf, underLoad, valueOf } from './scene.js';

const WAIT = { timeout: 100_000, interval: 20 };

test('entries of several levels are found, scanned both ways and counted, and are there after a reopen', async () => {
  const directory = scratchDirectory();
  const count = 20_000;
  let db = await openLsm(directory, { shards: 2 });
  await fill(db, count, 0);
  await fill(db, 3000, 1, 5000);
  await Promise.all(Array.from({ length: 1000 }, (_, i) => db.del(keyOf(15_000 + i))));
  const expected = new Map<string, string>();
  for (let i = 0; i < count; i++) {
    if (i >= 15_000 && i < 16_000) continue;
    expected.set(keyOf(i), valueOf(i, i >= 5000 && i < 8000 ? 1 : 0));
  }
  const check = async (store: ConcordPool): Promise<void> => {
    const entries = [...expected];
    expect(await store.iterator().all()).toEqual(entries);
    expect(await store.keys({ reverse: true, limit: 2000 }).all()).toEqual(
      entries
        .map(([key]) => key)
        .reverse()
        .slice(0, 2000),
    );
    expect(await store.count()).toBe(expected.size);
    const some = Array.from({ length: 2000 }, (_, i) => keyOf((i * 7919) % (count + 100)));
    expect(store.getManySync(some)).toEqual(some.map((key) => expected.get(key)));
    expect(await store.getMany(some)).toEqual(some.map((key) => expected.get(key)));
    for (const key of some.slice(0, 50)) {
      expect(await store.has(key)).toBe(expected.has(key));
      expect((await store.getEntry(key))?.value).toBe(expected.get(key));
    }
  };
  await check(db);
  await vi.waitFor(() => {
    const { lsm } = db.stats().spaces[0]!;
    expect(lsm!.levels.some(({ level }) => level > 0)).toBe(true);
    expect(lsm!.flushes).toBeGreaterThan(3);
    expect(lsm!.compactions + lsm!.trivialMoves).toBeGreaterThan(0);
  }, WAIT);
  await db.close();
  db = await openLsm(directory, { shards: 2 });
  await check(db);
  expect(await db.host!.check()).toEqual([]);
});

test('threads that read and write while memtables are written and tables merged see what was acknowledged', async () => {
  const seed = Math.floor(Math.random() * 1e9);
  console.log(`seed ${seed}`);
  const directory = scratchDirectory();
  const db = await openLsm(directory, { shards: 2 });
  const { load, reports } = await underLoad(db, seed, async () => {
    await vi.waitFor(() => {
      const { lsm } = db.stats().spaces[0]!;
      expect(lsm!.flushes).toBeGreaterThan(8);
      expect(lsm!.compactions + lsm!.trivialMoves).toBeGreaterThan(1);
    }, WAIT);
  });
  for (const { problems, acknowledged } of reports) {
    expect(problems).toEqual([]);
    expect(acknowledged).toBeGreaterThan(100);
  }
  await db.compact();
  expect(load.verify()).toEqual([]);
  await db.close();
  const again = await openLsm(directory, { shards: 2 });
  expect(load.verify(again)).toEqual([]);
});

test('a snapshot sees its state through flushes, merges and clears', async () => {
  const db = await openLsm(scratchDirectory());
  await fill(db, 3000);
  const snapshot = await db.snapshot();
  const before = await snapshot.iterator().all();
  expect(before).toHaveLength(3000);
  await fill(db, 3000, 1);
  await db.clear({ gte: keyOf(1000), lt: keyOf(2000) });
  await fill(db, 6000, 2, 3000);
  await db.compact();
  expect(await snapshot.iterator().all()).toEqual(before);
  expect(await snapshot.iterator({ reverse: true }).all()).toEqual([...before].reverse());
  expect(await snapshot.get(keyOf(1500))).toBe(valueOf(1500));
  expect(await db.get(keyOf(1500))).toBeUndefined();
  await snapshot.close();
  await db.compact();
  expect(await db.count()).toBe(8000);
});

test('a large clear is one record in the log, a small one deletes its keys, and both are gone after a reopen', async () => {
  const directory = scratchDirectory();
  const db = await openLsm(directory);
  await fill(db, 8000);
  const operations = (): number => db.stats().shards[0]!.operations;
  let before = db.stats().shards[0]!.publishedSeq;
  await db.clear({ gte: keyOf(1000), lt: keyOf(7000) });
  expect(db.stats().shards[0]!.publishedSeq - before).toBe(1);
  before = db.stats().shards[0]!.publishedSeq;
  await db.clear({ gte: keyOf(0), lt: keyOf(100) });
  expect(db.stats().shards[0]!.publishedSeq - before).toBe(100);
  expect(operations()).toBeGreaterThan(0);
  await db.put(keyOf(2000), 'back');
  const keys = [
    ...Array.from({ length: 900 }, (_, i) => i + 100),
    2000,
    ...Array.from({ length: 1000 }, (_, i) => i + 7000),
  ];
  expect(await db.keys().all()).toEqual(keys.map(keyOf));
  await db.close();
  const again = await openLsm(directory);
  expect(await again.keys().all()).toEqual(keys.map(keyOf));
  await again.compact();
  expect(await again.keys().all()).toEqual(keys.map(keyOf));
  await vi.waitFor(() => expect(again.stats().spaces[0]!.lsm!.rangeTombstones).toBe(0), WAIT);
});

test('long values are read from files of their own, whole and in pieces, and go when they are overwritten', async () => {
  const directory = scratchDirectory();
  const db = await openLsm(directory);
  const lengths = [16 << 10, 100_000, 1 << 20, 3 << 20];
  for (const [i, length] of lengths.entries()) await db.put(`large${i}`, patternText(length, i));
  await fill(db, 4000);
  await db.compact();
  await vi.waitFor(() => expect(db.stats().spaces[0]!.lsm!.blobFiles).toBeGreaterThan(0), WAIT);
  for (const [i, length] of lengths.entries()) {
    expect((await db.get(`large${i}`)) === patternText(length, i)).toBe(true);
    expect(db.getSync(`large${i}`) === patternText(length, i)).toBe(true);
  }
  expect((await db.values({ prefix: 'large' }).all()).map((value) => value.length)).toEqual(lengths);
  expect(db.stats().spaces[0]!.lsm!.reads.blobReads).toBeGreaterThan(0);
  for (const i of lengths.keys()) await db.put(`large${i}`, 'small');
  // A checkpoint that is being written is a snapshot: what a merge has kept for it, the one after it drops.
  await vi.waitFor(async () => {
    await db.host!.checkpointAll();
    await db.compact();
    const { blobBytes, blobGarbageBytes } = db.stats().spaces[0]!.lsm!;
    expect(blobBytes - blobGarbageBytes).toBe(0);
  }, WAIT);
  expect(await db.values({ prefix: 'large' }).all()).toEqual(lengths.map(() => 'small'));
});

test('entries that expire are absent at once, and gone from the files after a merge', async () => {
  const directory = scratchDirectory();
  const db = await openLsm(directory);
  await fill(db, 2000);
  await Promise.all(
    Array.from({ length: 2000 }, (_, i) => db.put(`short${keyOf(i)}`, 'x'.repeat(100), { ttlMs: 300 })),
  );
  await db.put('late', 'x', { ttlMs: 3_600_000 });
  expect((await db.getEntry('late'))!.expiresAt).toBeGreaterThan(Date.now() + 1_000_000);
  await vi.waitFor(() => expect(db.getSync(`short${keyOf(1999)}`)).toBeUndefined(), WAIT);
  expect(await db.count()).toBe(2001);
  // What a merge has kept for a checkpoint that was being written, the one after it drops.
  await vi.waitFor(async () => {
    await db.compact();
    const { lsm } = db.stats().spaces[0]!;
    expect(lsm!.levels.reduce((sum, { entries }) => sum + entries, 0)).toBe(2001);
  }, WAIT);
});

test('asynchronous reads of what is in no memory come without blocking, many at a time', async () => {
  const directory = scratchDirectory();
  let db = await openLsm(directory);
  await fill(db, 20_000);
  await db.compact();
  await db.close();
  db = await openLsm(directory, { blockCacheBytes: 256 << 10 });
  const keys = Array.from({ length: 5000 }, (_, i) => keyOf((i * 7919) % 20_000));
  const values = await db.getMany(keys);
  expect(values).toEqual(keys.map((key) => valueOf(Number(key.slice(3)))));
  const { reads } = db.stats().spaces[0]!.lsm!;
  expect(reads.coldReads).toBeGreaterThan(100);
  expect(reads.blocksFromFile).toBeGreaterThan(100);
  const asked = reads.filterChecks;
  const read = reads.blocksFromFile + reads.blocksFromCache;
  // Between the keys that are there: filters know that they are not.
  for (let i = 0; i < 2000; i++) expect(db.getSync(`${keyOf(i * 9)}!`)).toBeUndefined();
  const after = db.stats().spaces[0]!.lsm!.reads;
  // Not the first one: all finds before had their key.
  expect(after.filterChecks - asked).toBeGreaterThanOrEqual(1999);
  expect(after.blocksFromFile + after.blocksFromCache - read).toBeLessThan(200);
  expect(db.stats().blockCache!.capacityBytes).toBeLessThanOrEqual(256 << 10);
});

test('a range is merged by itself, and a merge that is aborted ends', async () => {
  const db = await openLsm(scratchDirectory(), {
    lsm: { ...OPTIONS.lsm, level0Runs: 50, slowdownRuns: 100, stopRuns: 200 },
  });
  await fill(db, 10_000);
  await fill(db, 10_000, 1);
  await db.compact({ gte: keyOf(0), lt: keyOf(5000) });
  await vi.waitFor(() => expect(db.stats().spaces[0]!.lsm!.compactions).toBeGreaterThan(0), WAIT);
  const reason = new Error('enough');
  const controller = new AbortController();
  await db.configure({ backgroundBytesPerSecond: 64 << 10 });
  // Whatever was merged by itself meanwhile: these are spread over all of it.
  await Promise.all(Array.from({ length: 1000 }, (_, i) => db.put(keyOf(10 * i), valueOf(10 * i, 2))));
  const running = db.compact({ signal: controller.signal });
  setTimeout(() => controller.abort(reason), 100);
  await expect(running).rejects.toBe(reason);
  await db.configure({ backgroundBytesPerSecond: 0 });
  await expect(db.compact({ signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
  expect(await codeOf(db.compact({ from: 1 } as never))).toBe('ERR_INVALID_ARG');
  await db.compact();
  expect(await db.count()).toBe(10_000);
  expect(db.getSync(keyOf(9999))).toBe(valueOf(9999, 1));
});

test('a space moves to an LSM-Tree and back while it is written, and its files go with it', async () => {
  const directory = scratchDirectory();
  const db = await openLsm(directory, { engine: 'btree' });
  const space = db.space('moved', { engine: 'btree' });
  await fill(space, 6000);
  for (const engine of ['lsm', 'btree', 'lsm', 'hash']) {
    let isMoving = true;
    const writing = (async () => {
      for (let i = 0; isMoving; i++) await space.put(keyOf(i % 6000), valueOf(i % 6000, 3));
    })();
    await space.switchEngine(engine, engine === 'lsm' ? { lsm: OPTIONS.lsm! } : {});
    isMoving = false;
    await writing;
    expect(space.engine).toBe(engine);
    const values = await space.values().all();
    expect(values).toHaveLength(6000);
    for (const [i, value] of values.entries()) expect([valueOf(i), valueOf(i, 3)]).toContain(value);
    await space.clear({ gte: keyOf(5999) });
    await space.put(keyOf(5999), valueOf(5999));
  }
  await db.host!.checkpointAll();
  await vi.waitFor(() => expect(treesOf(directory)).toEqual([]), WAIT);
});

test('a space that is dropped while its tables are merged leaves no file', async () => {
  const directory = scratchDirectory();
  const db = await openLsm(directory, { engine: 'btree' });
  for (let round = 0; round < 3; round++) {
    const space = db.space('gone', { engine: 'lsm', lsm: OPTIONS.lsm! });
    await fill(space, 8000, round);
    const merging = space.compact().catch((error: unknown) => error);
    expect(await space.drop()).toBe(true);
    await merging;
    expect(await codeOf(() => space.getSync(keyOf(1)))).toBe('ERR_SPACE_DROPPED');
  }
  await db.host!.checkpointAll();
  await vi.waitFor(() => expect(treesOf(directory)).toEqual([]), WAIT);
});

test('a store that is closed while it writes and merges tables closes soon, and loses nothing', async () => {
  const directory = scratchDirectory();
  for (let round = 0; round < 3; round++) {
    const db = await ConcordPool.open(directory, OPTIONS);
    if (round > 0) expect(await db.count()).toBe(8000);
    await fill(db, 8000, round);
    void db.compact().catch(() => undefined);
    await db.close();
  }
  const db = await openLsm(directory);
  const values = await db.values().all();
  expect(values).toEqual(Array.from({ length: 8000 }, (_, i) => valueOf(i, 2)));
  await db.close();
  expect((await ConcordPool.verify(directory)).problems).toEqual([]);
});

test('a copy of the store holds what is in the tree, in a tree of its own', async () => {
  const directory = scratchDirectory();
  const db = await openLsm(directory, { shards: 2 });
  await fill(db, 6000);
  const space = db.space('other', { engine: 'lsm', lsm: OPTIONS.lsm! });
  await fill(space, 500, 4);
  await space.put('large', patternText(200_000));
  const target = join(scratchDirectory(), 'copy');
  await db.checkpoint(target);
  await fill(db, 6000, 9);
  await db.close();
  const copy = await openLsm(target, { shards: 2 });
  expect(await copy.values().all()).toEqual(Array.from({ length: 6000 }, (_, i) => valueOf(i)));
  expect((await copy.space('other').get('large')) === patternText(200_000)).toBe(true);
  await fill(copy, 3000, 5, 3000);
  await copy.compact();
  await copy.close();
  const again = await openLsm(target, { shards: 2 });
  expect(again.getSync(keyOf(5000))).toBe(valueOf(5000, 5));
  expect(await again.count()).toBe(6000);
  expect(existsSync(join(target, 'MANIFEST'))).toBe(true);
});

test('a store opened read-only shows tables and log, and touches no file', async () => {
  const directory = scratchDirectory();
  const db = await openLsm(directory);
  await fill(db, 5000);
  await db.close();
  const reader = await openLsm(directory, { readOnly: true });
  expect(await reader.count()).toBe(5000);
  expect(await reader.get(keyOf(4321))).toBe(valueOf(4321));
  expect(await codeOf(reader.put('a', 'b'))).toBe('ERR_READ_ONLY');
});

test('flushes and merges are told as they begin and end', async () => {
  const messages: LsmJobMessage[] = [];
  const listen = (message: unknown): void => {
    messages.push(message as LsmJobMessage);
  };
  subscribe('concordkv:lsm', listen);
  onTestFinished(() => {
    unsubscribe('concordkv:lsm', listen);
  });
  const db = await openLsm(scratchDirectory());
  await fill(db, 10_000);
  await fill(db, 10_000, 1);
  await db.compact();
  const told = (kind: string, event: string): LsmJobMessage[] =>
    messages.filter((message) => message.kind === kind && message.event === event);
  // What is quiet by the numbers may have begun another one since.
  await vi.waitFor(() => {
    expect(isQuiet(db)).toBe(true);
    for (const kind of ['flush', 'compact']) {
      expect(told(kind, 'begin').length).toBeGreaterThan(0);
      expect(told(kind, 'end').length).toBe(told(kind, 'begin').length);
    }
  }, WAIT);
  for (const kind of ['flush', 'compact']) {
    // A merge that began because nobody wrote for a while is given up when somebody does.
    const ended = told(kind, 'end').filter(
      ({ error }) => (error as { code?: string } | undefined)?.code !== 'ERR_CLOSED',
    );
    expect(ended.length).toBeGreaterThan(0);
    for (const message of ended) {
      expect(message).toMatchObject({ shard: 0, directory: expect.stringContaining('lsm-') as string });
      expect(message.durationMs).toBeGreaterThan(0);
      expect(message.error).toBeUndefined();
      expect(message.entriesIn).toBeGreaterThanOrEqual(message.entriesOut!);
      expect(message.writtenBytes).toBeGreaterThan(0);
    }
  }
});

test('a scan of a prefix that no table has looks into none of them', async () => {
  const db = await openLsm(scratchDirectory(), { lsm: { ...OPTIONS.lsm, prefixFilterBytes: 5 } });
  const entries = Array.from({ length: 2000 }, (_, i) => [`a${String(2 * i).padStart(4, '0')}:key`, 'v'] as const);
  for (const [key, value] of entries) await db.put(key, value);
  await db.compact();
  const before = db.stats().spaces[0]!.lsm!.reads.prefixNegatives;
  let found = 0;
  for (let i = 0; i < 2000; i++) {
    for (const [key] of db.iterateSync({ prefix: `a${String(2 * i + 1).padStart(4, '0')}` })) found += key.length;
  }
  expect(found).toBe(0);
  expect(db.stats().spaces[0]!.lsm!.reads.prefixNegatives - before).toBeGreaterThan(1500);
  for (const [key] of entries.slice(0, 50)) {
    expect([...db.iterateSync({ prefix: key.slice(0, 5) })]).toEqual([[key, 'v']]);
    expect([...db.iterateSync({ prefix: key.slice(0, 5), reverse: true })]).toEqual([[key, 'v']]);
  }
});

test('a store that is closed right after a compaction keeps none of the files that it replaced', async () => {
  const directory = scratchDirectory();
  const tables = (): string[] =>
    readdirSync(directory, { recursive: true, encoding: 'utf8' })
      .filter((file) => file.endsWith('.sst'))
      .sort();
  let db = await openLsm(directory);
  for (let generation = 0; generation < 2; generation++) await fill(db, 40_000, generation);
  await db.compact();
  await db.close();
  const left = tables();
  // What the next opening finds that no manifest names, it removes.
  db = await openLsm(directory);
  await vi.waitFor(() => {
    expect(isQuiet(db)).toBe(true);
  }, WAIT);
  expect(await db.count()).toBe(40_000);
  await db.close();
  expect(left.length).toBeGreaterThan(10);
  expect(tables()).toEqual(left);
});
