/** Batches over several spaces: all or nothing, in one shard. */
import { describe, expect, onTestFinished, test } from 'vitest';
import { ConcordPool, type PoolOptions } from '../../dist/index.js';
import { codeOf, failureOf, keysOfShard, scratchDirectory } from '../support/pool-scene.js';

async function memoryPool(options?: PoolOptions): Promise<ConcordPool> {
  const db = await ConcordPool.open(':memory:', { shards: 2, memoryBytes: 64 << 20, ...options });
  onTestFinished(() => db.close());
  return db;
}

describe('a batch over several spaces', () => {
  test('puts and deletes in each with its own encodings', async () => {
    const db = await memoryPool({ shards: 1 });
    const users = db.space<string, { n: number }>('users', { valueEncoding: 'json' });
    const byAge = db.space<[number, string], string>('byAge', { keyEncoding: 'tuple' });
    await byAge.put([1, 'anna'], '');
    await db.batch([
      { type: 'put', key: 'own', value: 'v' },
      { type: 'put', key: 'anna', value: { n: 2 }, space: users },
      { type: 'del', key: [1, 'anna'], space: 'byAge' },
      { type: 'put', key: [2, 'anna'], value: '', space: byAge },
    ]);
    expect(db.getSync('own')).toBe('v');
    expect(users.getSync('anna')).toEqual({ n: 2 });
    expect([...byAge.keysSync()]).toEqual([[2, 'anna']]);
    await users.batch([
      { type: 'put', key: 'bob', value: { n: 3 } },
      { type: 'del', key: 'own', space: db },
    ]);
    expect(users.getSync('bob')).toEqual({ n: 3 });
    expect(db.hasSync('own')).toBe(false);
  });

  test('keeps a key on one shard whatever the space, so that what belongs together can share a batch', async () => {
    const db = await memoryPool({ shards: 2 });
    const [a, b] = [db.space('a'), db.space('b')];
    await Promise.all([a.ready, b.ready]);
    for (let i = 0; i < 200; i++) {
      const key = `k${i}`;
      await db.batch([
        { type: 'put', key, value: '0' },
        { type: 'put', key, value: '1', space: a },
        { type: 'put', key, value: '2', space: b },
      ]);
    }
    expect(await Promise.all([db.count(), a.count(), b.count()])).toEqual([200, 200, 200]);
  });

  test('over several shards is whole, or nothing of it is there', async () => {
    const db = await memoryPool({ shards: 2 });
    const a = db.space('a');
    await a.ready;
    const [on0, on1] = [keysOfShard(0, 2, 1)[0]!, keysOfShard(1, 2, 1)[0]!];
    const batch = (value: unknown): Promise<void> =>
      db.batch([
        { type: 'put', key: on0, value: 'v' },
        { type: 'put', key: on1, value: value as string, space: a },
      ]);
    await expect(batch(5)).rejects.toThrow(TypeError);
    expect([db.hasSync(on0), a.hasSync(on1)]).toEqual([false, false]);
    await batch('v');
    expect([db.getSync(on0), a.getSync(on1)]).toEqual(['v', 'v']);
  });

  test('waits for spaces that are being created', async () => {
    const db = await memoryPool({ shards: 1 });
    const a = db.space('a');
    const written = db.batch([
      { type: 'put', key: 'k', value: '1' },
      { type: 'put', key: 'k', value: '1', space: a },
    ]);
    const after = a.put('k', '2');
    await Promise.all([written, after]);
    expect([db.getSync('k'), a.getSync('k')]).toEqual(['1', '2']);
  });

  test('of megabytes goes through chunks and is whole', async () => {
    const db = await memoryPool({ shards: 1, memoryBytes: 512 << 20 });
    const a = db.space('a');
    await a.ready;
    const operations = Array.from({ length: 4000 }, (_, i) =>
      i % 2 === 0
        ? { type: 'put' as const, key: `k${i}`, value: `${i}`.padEnd(300) }
        : { type: 'put' as const, key: `k${i}`, value: `${i}`.padEnd(300), space: a },
    );
    await db.batch(operations);
    expect(await Promise.all([db.count(), a.count()])).toEqual([2000, 2000]);
    expect(a.getSync('k3999')).toBe('3999'.padEnd(300));
  });

  test('is seen whole or not at all, also by a snapshot', async () => {
    const db = await memoryPool({ shards: 1, durability: 'memory' });
    const [a, b] = [db.space('a'), db.space('b')];
    await Promise.all([a.put('n', '0'), b.put('n', '0'), db.put('n', '0')]);
    let running = true;
    const writing = (async () => {
      for (let i = 1; running; i++) {
        await db.batch([
          { type: 'put', key: 'n', value: `${i}` },
          { type: 'put', key: 'n', value: `${i}`, space: a },
          { type: 'put', key: 'n', value: `${i}`, space: b },
        ]);
      }
    })();
    for (let i = 0; i < 300; i++) {
      const snapshot = await db.snapshot();
      const seen = [snapshot.getSync('n'), snapshot.space(a).getSync('n'), b.getSync('n', { snapshot })];
      expect(new Set(seen).size).toBe(1);
      await snapshot.close();
    }
    running = false;
    await writing;
  });

  test('survives a crash whole', async () => {
    const directory = scratchDirectory();
    let db = await ConcordPool.open(directory, { shards: 1 });
    const a = db.space('a');
    await a.ready;
    for (let i = 0; i < 20; i++) {
      await db.batch([
        { type: 'put', key: 'n', value: `${i}` },
        { type: 'put', key: 'n', value: `${i}`, space: a },
      ]);
    }
    await db.host!.crash();
    db = await ConcordPool.open(directory);
    expect([db.getSync('n'), db.space('a').getSync('n')]).toEqual(['19', '19']);
    await db.close();
  });

  test('names spaces of this pool only', async () => {
    const db = await memoryPool();
    const other = await memoryPool();
    const put = { type: 'put' as const, key: 'k', value: 'v' };
    expect(await failureOf(db.batch([{ ...put, space: 'nosuch' }]))).toMatchObject({ code: 'ERR_SPACE_NOT_FOUND' });
    expect(await codeOf(db.batch([{ ...put, space: other.space('a') }]))).toBe('ERR_INVALID_ARG');
    expect(await codeOf(db.batch([{ ...put, space: {} as never }]))).toBe('ERR_INVALID_ARG');
    expect(await codeOf(db.batch([put, { ...put, space: '' }]))).toBe('ERR_INVALID_ARG');
    expect(await db.count()).toBe(0);
  });
});

describe('a snapshot', () => {
  test('is one state of all spaces, by method and by option', async () => {
    const db = await memoryPool();
    const a = db.space<string, number[]>('a', { valueEncoding: 'json' });
    await Promise.all([db.put('k', 'old'), a.put('k', [1]), a.put('gone', [2])]);
    const snapshot = await db.snapshot();
    await Promise.all([db.put('k', 'new'), a.put('k', [3]), a.del('gone'), a.put('later', [4])]);

    const seen = snapshot.space(a);
    expect([snapshot.getSync('k'), seen.getSync('k'), seen.getSync('gone'), seen.getSync('later')]).toEqual([
      'old',
      [1],
      [2],
      undefined,
    ]);
    expect(snapshot.space<string, number[]>('a').getSync('k')).toEqual([1]);
    expect(a.getSync('k', { snapshot })).toEqual([1]);
    expect(await a.get('k', { snapshot })).toEqual([1]);
    expect(await a.getMany(['k', 'gone', 'later'], { snapshot })).toEqual([[1], [2], undefined]);
    expect(a.getManySync(['k', 'later'], { snapshot })).toEqual([[1], undefined]);
    expect(await a.has('gone', { snapshot })).toBe(true);
    expect(a.hasSync('later', { snapshot })).toBe(false);
    expect(a.getEntrySync('k', { snapshot })).toMatchObject({ value: [1] });
    expect(await a.getEntry('k', { snapshot })).toMatchObject({ value: [1] });
    expect(await a.iterator({ snapshot }).all()).toEqual([
      ['gone', [2]],
      ['k', [1]],
    ]);
    expect([...a.keysSync({ snapshot, reverse: true })]).toEqual(['k', 'gone']);
    expect(await a.count({ snapshot })).toBe(2);
    expect(await seen.count()).toBe(2);
    expect(a.getSync('k')).toEqual([3]);

    const ofSpace = await a.snapshot();
    expect(ofSpace.getSync('k')).toEqual([3]);
    expect(db.getSync('k', { snapshot: ofSpace })).toBe('new');
    await Promise.all([snapshot.close(), ofSpace.close()]);
    expect(await codeOf(() => seen.getSync('k'))).toBe('ERR_CLOSED');
    expect(await codeOf(() => a.getSync('k', { snapshot }))).toBe('ERR_CLOSED');
    expect(await codeOf(() => snapshot.space(a))).toBe('ERR_CLOSED');
    expect(db.stats().openSnapshots).toBe(0);
  });

  test('finds a space that came later empty, and one that never was not', async () => {
    const db = await memoryPool();
    const snapshot = await db.snapshot();
    await db.space('later').put('k', 'v');
    expect(snapshot.space('later').getSync('k')).toBeUndefined();
    expect(await snapshot.space('later').count()).toBe(0);
    expect(await codeOf(() => snapshot.space('never'))).toBe('ERR_SPACE_NOT_FOUND');
    await snapshot.close();
  });

  test('of another pool, or of nothing, is refused', async () => {
    const [db, other] = [await memoryPool(), await memoryPool()];
    const snapshot = await other.snapshot();
    expect(await codeOf(() => db.getSync('k', { snapshot }))).toBe('ERR_INVALID_ARG');
    expect(await codeOf(() => db.getSync('k', { snapshot: db as never }))).toBe('ERR_INVALID_ARG');
    expect(await codeOf(() => db.iterator({ snapshot: {} as never }))).toBe('ERR_INVALID_ARG');
    await snapshot.close();
  });
});
