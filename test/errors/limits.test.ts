/** Limits: of keys, values, batches, snapshots, client threads, attempts, time and memory. Each is a code, and what was refused left no trace. */
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import {
  ConcordPool,
  MAX_BATCH_BYTES,
  MAX_KEY_BYTES,
  MAX_VALUE_BYTES,
  type CustomValueEncoding,
  type Snapshot,
} from '../../dist/index.js';
import { codeOf, failureOf, patternText, scratchDirectory } from '../support/pool-scene.js';

describe('too large:', () => {
  let db: ConcordPool<string, Uint8Array>;
  beforeAll(async () => {
    db = await ConcordPool.open(':memory:', { shards: 1, valueEncoding: 'binary' });
  });
  afterAll(async () => {
    await db.close();
  });

  test('a key, in every call that takes one', async () => {
    const key = 'é'.repeat(MAX_KEY_BYTES / 2) + 'x';
    const value = Buffer.from('v');
    const calls: (() => unknown)[] = [
      () => db.getSync(key),
      () => db.get(key),
      () => db.getMany([key]),
      () => db.has(key),
      () => db.getEntry(key),
      () => db.put(key, value),
      () => db.del(key),
      () => db.update(key, () => value),
      () => db.batch([{ type: 'put', key, value }]),
      () => db.iterator({ gte: key }),
      () => db.clear({ lt: key }),
      () => db.count({ prefix: key }),
    ];
    for (const call of calls)
      expect(await failureOf(call), call.toString()).toMatchObject({ code: 'ERR_KEY_TOO_LARGE', retryable: false });
    expect(await db.count()).toBe(0);
  });

  test('a value, by one byte', async () => {
    const value = Buffer.alloc(MAX_VALUE_BYTES + 1);
    const expected = {
      code: 'ERR_VALUE_TOO_LARGE',
      details: { valueBytes: MAX_VALUE_BYTES + 1, limitBytes: MAX_VALUE_BYTES },
    };
    expect(await failureOf(db.put('a', value))).toMatchObject(expected);
    expect(await failureOf(db.batch([{ type: 'put', key: 'a', value }]))).toMatchObject({
      code: 'ERR_VALUE_TOO_LARGE',
    });
    expect(db.hasSync('a')).toBe(false);
  });

  test('a batch', async () => {
    const value = Buffer.alloc(MAX_BATCH_BYTES / 4);
    const operations = Array.from({ length: 4 }, (_, i) => ({ type: 'put' as const, key: `k${i}`, value }));
    expect(await failureOf(db.batch(operations))).toMatchObject({
      code: 'ERR_BATCH_TOO_LARGE',
      details: { limitBytes: MAX_BATCH_BYTES },
    });
    expect(await db.count()).toBe(0);
  });
});

test('a stored value that does not decode is ERR_DECODE, and only for that value', async () => {
  const encoding = (decode: CustomValueEncoding['decode']): CustomValueEncoding => ({
    name: 'fussy',
    encode: (value) => String(value),
    decode,
  });
  const directory = scratchDirectory();
  let db = await ConcordPool.open<string, string>(directory, {
    shards: 1,
    valueEncoding: encoding((bytes) => Buffer.from(bytes).toString()),
  });
  await db.batch([
    { type: 'put', key: 'a', value: 'good' },
    { type: 'put', key: 'b', value: 'bad' },
  ]);
  await db.close();
  const mine = new RangeError('cannot read this');
  db = await ConcordPool.open<string, string>(directory, {
    valueEncoding: encoding((bytes) => {
      if (bytes[0] === 0x62) throw mine;
      return Buffer.from(bytes).toString();
    }),
  });
  expect(db.getSync('a')).toBe('good');
  for (const call of [
    () => db.getSync('b'),
    () => db.get('b'),
    () => db.getMany(['a', 'b']),
    () => db.getEntry('b'),
    () => db.values().all(),
    () => [...db.iterateSync()],
  ]) {
    expect(await failureOf(call), call.toString()).toMatchObject({
      code: 'ERR_DECODE',
      details: { encoding: 'fussy' },
      cause: mine,
    });
  }
  expect(db.hasSync('b')).toBe(true);
  expect(await db.keys().all()).toEqual(['a', 'b']);
  await db.put('b', 'mended');
  expect(db.getSync('b')).toBe('mended');
  await db.close();
});

test('the 1,025th snapshot is ERR_SNAPSHOT_LIMIT, and one closed makes room', async () => {
  const db = await ConcordPool.open(':memory:', { shards: 1 });
  await db.put('a', '1');
  const snapshots: Snapshot<string, string>[] = [];
  for (let i = 0; i < 1024; i++) snapshots.push(await db.snapshot());
  const failure = await failureOf(db.snapshot());
  expect(failure).toMatchObject({ code: 'ERR_SNAPSHOT_LIMIT', retryable: true, details: { limit: 1024 } });
  expect(await codeOf(db.iterator().next())).toBe('ERR_SNAPSHOT_LIMIT');
  expect(await codeOf(() => db.iterateSync().next())).toBe('ERR_SNAPSHOT_LIMIT');
  // What needs no snapshot goes on.
  expect(db.getSync('a')).toBe('1');
  await db.put('a', '2');
  expect(await db.count()).toBe(1);
  await snapshots[500]!.close();
  const next = await db.snapshot();
  expect(next.getSync('a')).toBe('2');
  expect(snapshots[0]!.getSync('a')).toBe('1');
  expect(db.stats().openSnapshots).toBe(1024);
  await Promise.all(snapshots.map((snapshot) => snapshot.close()));
  await next.close();
  expect(db.stats().openSnapshots).toBe(0);
  await db.close();
});

test('the 257th thread is ERR_CLIENT_LIMIT, and one that leaves makes room', async () => {
  const db = await ConcordPool.open(':memory:', { shards: 1 });
  const attached: ConcordPool[] = [];
  for (let i = 0; i < 255; i++) attached.push(await ConcordPool.attach(db.handle()));
  expect(db.stats().clients).toBe(256);
  expect(await failureOf(ConcordPool.attach(db.handle()))).toMatchObject({ code: 'ERR_CLIENT_LIMIT', retryable: true });
  await attached[100]!.close();
  const again = await ConcordPool.attach(db.handle());
  await again.put('a', '1');
  expect(attached[254]!.getSync('a')).toBe('1');
  await Promise.all([...attached, again].map((pool) => pool.close()));
  expect(db.stats().clients).toBe(1);
  await db.close();
});

test('update gives up with ERR_CONFLICT when the key changes under it every time', async () => {
  const db = await ConcordPool.open(':memory:', { shards: 1 });
  let calls = 0;
  const losing = db.update('a', async () => {
    await db.put('a', String(++calls));
    return 'never';
  });
  expect(await failureOf(losing)).toMatchObject({ code: 'ERR_CONFLICT', retryable: true });
  expect(calls).toBe(1000);
  expect(db.getSync('a')).toBe('1000');
  await db.close();
});

test('a second compaction at the same time is ERR_CONFLICT', async () => {
  const db = await ConcordPool.open(':memory:', { shards: 1 });
  await Promise.all(Array.from({ length: 30_000 }, (_, i) => db.put(`k${i}`, 'v'.repeat(50))));
  const outcomes = await Promise.allSettled([db.compact(), db.compact(), db.compact()]);
  expect(outcomes.filter(({ status }) => status === 'fulfilled').length).toBeGreaterThanOrEqual(1);
  for (const outcome of outcomes)
    if (outcome.status === 'rejected') expect(outcome.reason).toMatchObject({ code: 'ERR_CONFLICT' });
  await db.compact();
  await db.close();
});

test('a snapshot that a stuck shard holds up is ERR_TIMEOUT after ten seconds, and holds nothing', async () => {
  const db = await ConcordPool.open(':memory:', { shards: 1 });
  await db.put('a', '1');
  const { control } = db.host!;
  // As a shard looks from outside that has begun to apply a group and never ends.
  control.beginApplying(0);
  const started = performance.now();
  expect(await failureOf(db.snapshot())).toMatchObject({ code: 'ERR_TIMEOUT', retryable: true });
  expect(performance.now() - started).toBeGreaterThan(9_000);
  expect(db.stats().openSnapshots).toBe(0);
  expect(db.getSync('a')).toBe('1');
  control.endGroup(0, undefined);
  await (await db.snapshot()).close();
  await db.close();
});

describe('memory that is used up', () => {
  const MEBIBYTE = 1 << 20;
  const used = (db: ConcordPool): number =>
    db.stats().shards.reduce((sum, { memory }) => sum + memory.usedBytes - memory.retiredBytes, 0);

  /** Puts, some at a time, until one is refused; gives the number that went in. What is behind a refused one is deleted. */
  async function fill(db: ConcordPool, valueBytes: number, together: number, prefix = 'a'): Promise<number> {
    for (let i = 0; ; i += together) {
      const calls = Array.from({ length: together }, (_, k) =>
        db.put(`${prefix}${i + k}`, patternText(valueBytes, i + k)),
      );
      const outcomes = await Promise.allSettled(calls);
      const refused = outcomes.findIndex(({ status }) => status === 'rejected');
      if (refused < 0) continue;
      for (const outcome of outcomes) {
        if (outcome.status === 'fulfilled') continue;
        const details = { shard: 0, capacityBytes: expect.any(Number) as number };
        expect(outcome.reason).toMatchObject({ code: 'ERR_MEMORY_FULL', retryable: true, details });
      }
      for (let k = refused; k < together; k++) await db.del(`${prefix}${i + k}`);
      return i + refused;
    }
  }

  test.each([
    [4 * MEBIBYTE, 30, 50],
    [4 * MEBIBYTE, 2000, 10],
    [8 * MEBIBYTE, 60_000, 1],
    [16 * MEBIBYTE, 900_000, 1],
  ])(
    'of %i bytes by values of %i bytes: reads and deletes go on, and what they free can be filled again',
    async (memoryBytes, valueBytes, together) => {
      const directory = scratchDirectory();
      let db = await ConcordPool.open(directory, { shards: 1, memoryBytes, durability: 'os' });
      const first = await fill(db, valueBytes, together);
      for (let round = 0; round < 3; round++) {
        const count = await db.count();
        // Most of the memory is data.
        expect(db.stats().dataBytes).toBeGreaterThan(memoryBytes * 0.4);
        expect(await codeOf(db.put('one more', patternText(valueBytes * 2)))).toBe('ERR_MEMORY_FULL');
        expect(await db.count()).toBe(count);
        for (let i = 0; i < count; i += 7) expect(db.getSync(`a${i}`) === patternText(valueBytes, i)).toBe(true);
        expect(await db.keys().all()).toHaveLength(count);
        await Promise.all(Array.from({ length: count }, (_, i) => db.del(`a${i}`)));
        expect(await db.count()).toBe(0);
        expect(await db.host!.check()).toEqual([]);
        expect(await fill(db, valueBytes, together)).toBeGreaterThanOrEqual(Math.floor(first * 0.9));
      }
      const entries = await db.count();
      await db.close();
      // A full store opens again, in the memory it had.
      db = await ConcordPool.open(directory, { memoryBytes, durability: 'os' });
      expect(await db.count()).toBe(entries);
      for (let i = 0; i < entries; i += 5) expect(db.getSync(`a${i}`) === patternText(valueBytes, i)).toBe(true);
      await db.clear();
      expect(await db.count()).toBe(0);
      await db.close();
    },
  );

  test('refuses a value or a batch that cannot fit before anything is kept of it', async () => {
    const db = await ConcordPool.open(':memory:', { shards: 1, memoryBytes: 8 * MEBIBYTE });
    await db.put('a', '1');
    const before = used(db);
    const large = patternText(20 * MEBIBYTE);
    const batch = Array.from({ length: 40_000 }, (_, k) => ({
      type: 'put' as const,
      key: `k${k}`,
      value: patternText(300),
    }));
    for (let i = 0; i < 4; i++) {
      expect(await codeOf(db.put('large', large))).toBe('ERR_MEMORY_FULL');
      expect(await codeOf(db.batch(batch))).toBe('ERR_MEMORY_FULL');
    }
    await db.put('a', '2');
    await db.compact();
    expect(used(db)).toBeLessThanOrEqual(before + 65536);
    expect(await db.iterator().all()).toEqual([['a', '2']]);
    await db.close();
  });

  test('a large value that runs out of memory on its way gives back what it had', async () => {
    const db = await ConcordPool.open(':memory:', { shards: 1, memoryBytes: 16 * MEBIBYTE, durability: 'os' });
    // Each is let in alone; together they are too much.
    const values = Array.from({ length: 6 }, (_, i) => db.put(`v${i}`, patternText(6 * MEBIBYTE, i)));
    const outcomes = await Promise.allSettled(values);
    const stored = outcomes.flatMap(({ status }, i) => (status === 'fulfilled' ? [i] : []));
    expect(stored.length).toBeGreaterThan(0);
    for (const outcome of outcomes)
      if (outcome.status === 'rejected') expect(outcome.reason).toMatchObject({ code: 'ERR_MEMORY_FULL' });
    for (let i = 0; i < 6; i++)
      expect(db.getSync(`v${i}`) === (stored.includes(i) ? patternText(6 * MEBIBYTE, i) : undefined)).toBe(true);
    await db.clear();
    await db.compact();
    await db.put('all of it', patternText(10 * MEBIBYTE));
    expect(db.getSync('all of it') === patternText(10 * MEBIBYTE)).toBe(true);
    expect(await db.host!.check()).toEqual([]);
    await db.close();
  });

  test('can be emptied by clear, and by batches of deletes', async () => {
    const db = await ConcordPool.open(':memory:', { shards: 1, memoryBytes: 4 * MEBIBYTE, durability: 'os' });
    const prefix = 'some rather long key, so that the batch is long as well, number ';
    const count = await fill(db, 20, 50, prefix);
    await db.clear();
    expect(await db.count()).toBe(0);
    expect(await fill(db, 20, 50, prefix)).toBeGreaterThan(count * 0.9);
    const keys = await db.keys().all();
    for (let i = 0; i < keys.length; i += 10)
      await db.batch(keys.slice(i, i + 10).map((key) => ({ type: 'del', key })));
    expect(await db.count()).toBe(0);
    expect(await fill(db, 20, 50, prefix)).toBeGreaterThan(count * 0.9);
    await db.close();
  });

  test('by old versions that snapshots hold comes back when they are closed', async () => {
    const db = await ConcordPool.open(':memory:', { shards: 1, memoryBytes: 4 * MEBIBYTE, durability: 'os' });
    const snapshots: Snapshot<string, string>[] = [];
    const states: [string, string][][] = [];
    let refused = 0;
    for (let round = 0; round < 8; round++) {
      const outcomes = await Promise.allSettled(
        Array.from({ length: 1000 }, (_, i) => db.put(`k${i}`, patternText(800, i + round))),
      );
      for (const outcome of outcomes) if (outcome.status === 'rejected') refused++;
      snapshots.push(await db.snapshot());
      states.push(await db.iterator().all());
    }
    expect(refused).toBeGreaterThan(0);
    for (const [i, snapshot] of snapshots.entries()) expect([...snapshot.iterateSync()]).toEqual(states[i]);
    await Promise.all(snapshots.map((snapshot) => snapshot.close()));
    await db.compact();
    for (let i = 0; i < 1000; i++) await db.put(`k${i}`, patternText(800, i + 100));
    expect(await db.count()).toBe(1000);
    await db.close();
  });

  test('at open is ERR_MEMORY_FULL; more memory opens it', async () => {
    const directory = join(scratchDirectory(), 'store');
    let db = await ConcordPool.open(directory, { shards: 1, memoryBytes: 32 * MEBIBYTE, durability: 'os' });
    for (let i = 0; i < 1500; i++) void db.put(`k${i}`, patternText(4000, i));
    await db.close();
    expect(await failureOf(ConcordPool.open(directory, { memoryBytes: 4 * MEBIBYTE }))).toMatchObject({
      code: 'ERR_MEMORY_FULL',
    });
    db = await ConcordPool.open(directory, { memoryBytes: 32 * MEBIBYTE });
    expect(await db.count()).toBe(1500);
    await db.host!.checkpointAll();
    await db.close();
    expect(await failureOf(ConcordPool.open(directory, { memoryBytes: 4 * MEBIBYTE }))).toMatchObject({
      code: 'ERR_MEMORY_FULL',
    });
    db = await ConcordPool.open(directory, { memoryBytes: 32 * MEBIBYTE });
    expect(await db.count()).toBe(1500);
    await db.close();
  });
});
