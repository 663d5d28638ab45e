/** Moving a space from one engine to another while it is used. SWITCH_DEATHS=all lets the pool die at each of the moments with each engine. */
import { join } from 'node:path';
import { beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import { ConcordPool, engineNames, type PoolOptions } from '../../dist/index.js';
import { codeOf, expectEntries, failureOf, scratchDirectory } from '../support/pool-scene.js';

const engineModules = [join(import.meta.dirname, 'custom-engine.mjs')];
await import(engineModules[0]!);
/** Engines take turns. */
const DEATHS_MS = [0, 1, 3, 8];
const deathsOf = (engine: string): number[] =>
  DEATHS_MS.filter((_, index) => process.env['SWITCH_DEATHS'] === 'all' || (index + OTHERS.indexOf(engine)) % 2 === 0);
const OTHERS = engineNames().filter((name) => name !== 'btree');

const options = (more?: PoolOptions): PoolOptions => ({ shards: 2, memoryBytes: 256 << 20, engineModules, ...more });

async function memoryPool(more?: PoolOptions): Promise<ConcordPool> {
  const db = await ConcordPool.open(':memory:', options(more));
  onTestFinished(() => db.close());
  return db;
}

type Store = Pick<ConcordPool, 'put' | 'del' | 'batch' | 'iterator' | 'getSync' | 'count'>;

async function fill(store: Store, count: number): Promise<Map<string, string>> {
  const model = new Map<string, string>();
  for (let i = 0; i < count; i++) model.set(`k${String(i).padStart(6, '0')}`, `${i}`.padEnd(i % 97, '.'));
  await Promise.all([...model].map(([key, value]) => store.put(key, value, { durability: 'memory' })));
  return model;
}

async function expectSame(store: Store, model: ReadonlyMap<string, string>): Promise<void> {
  const expected = [...model].sort(([a], [b]) => (a < b ? -1 : 1));
  expectEntries(await store.iterator().all(), expected);
  expect(await store.count()).toBe(expected.length);
  for (const [key, value] of expected.slice(0, 200)) expect(store.getSync(key)).toBe(value);
}

describe.each(OTHERS)('from a B+Tree to %s and back', (engine) => {
  // Every thread loads these.
  const own: PoolOptions = { engineModules: engine === 'custom' ? engineModules : [] };
  beforeAll(() => {
    expect(OTHERS).toContain('custom');
  });

  test('while entries are read, written, deleted, and expire', async () => {
    const db = await memoryPool(own);
    const space = db.space('s');
    const model = await fill(space, 5000);
    await space.put('large', 'x'.repeat(300_000));
    model.set('large', 'x'.repeat(300_000));
    for (const target of [engine, 'btree']) {
      let isMoving = true;
      const errors: unknown[] = [];
      const writing = (async () => {
        for (let i = 0; isMoving; i++) {
          const key = `k${String((i * 7919) % 6000).padStart(6, '0')}`;
          if (i % 3 === 0) {
            await space.del(key, { durability: 'memory' });
            model.delete(key);
          } else {
            await space.put(key, `${target}${i}`, { durability: 'memory' });
            model.set(key, `${target}${i}`);
          }
          if (space.getSync(key) !== model.get(key))
            errors.push(`${key} is ${space.getSync(key)}, not ${model.get(key)}`);
          if (i % 50 === 0) await space.put(`ttl${i}`, 'v', { ttlMs: 5, durability: 'memory' });
        }
      })();
      await space.switchEngine(target);
      isMoving = false;
      await writing;
      expect(errors).toEqual([]);
      expect(space.engine).toBe(target);
      await new Promise((resolve) => setTimeout(resolve, 20));
      await expectSame(space, model);
      expect(await db.host!.check()).toEqual([]);
    }
  });

  test('an iterator that was opened before goes on with its state', async () => {
    const db = await memoryPool({ ...own, shards: 1 });
    const space = db.space('s');
    const model = await fill(space, 3000);
    const iterator = space.iterator();
    const first = await iterator.nextv(10);
    await space.switchEngine(engine);
    await space.clear();
    const rest = await iterator.all();
    expect(new Map([...first, ...rest])).toEqual(model);
    expect(await space.count()).toBe(0);
  });

  test('is remembered, over a checkpoint and a log', async () => {
    const directory = scratchDirectory();
    let db = await ConcordPool.open(directory, options(own));
    const model = await fill(db.space('s'), 800);
    await db.space('s').switchEngine(engine);
    await db.host!.checkpointAll();
    await db.space('s').put('late', 'v');
    model.set('late', 'v');
    await db.close();
    expect(await ConcordPool.verify(directory, own)).toMatchObject({ ok: true, entries: 801 });
    db = await ConcordPool.open(directory, options(own));
    expect(db.space('s').engine).toBe(engine);
    await expectSame(db.space('s'), model);
    expect(await codeOf(() => db.space('s', { engine: 'btree' }))).toBe('ERR_OPTION_CONFLICT');
    await db.close();
  });

  test('of the pool itself', async () => {
    const directory = scratchDirectory();
    let db = await ConcordPool.open(directory, options(own));
    const model = await fill(db, 1500);
    await db.switchEngine(engine);
    expect(db.engine).toBe(engine);
    await expectSame(db, model);
    await db.close();
    expect(await failureOf(ConcordPool.open(directory, options({ ...own, engine: 'btree' })))).toMatchObject({
      code: 'ERR_OPTION_CONFLICT',
      details: { option: 'engine', stored: engine },
    });
    db = await ConcordPool.open(directory, options(own));
    await expectSame(db, model);
    await db.close();
  });

  test('is finished when a shard dies in the middle', async () => {
    const db = await memoryPool(own);
    const space = db.space('s');
    const model = await fill(space, 20_000);
    const moved = space.switchEngine(engine);
    await new Promise((resolve) => setTimeout(resolve, 2));
    await db.host!.killShard(0);
    await moved;
    expect(space.engine).toBe(engine);
    await expectSame(space, model);
    expect(await db.host!.check()).toEqual([]);
  });

  test.each(deathsOf(engine))('is finished at the next opening when the pool dies after %i ms', async (ms) => {
    const directory = scratchDirectory();
    let db = await ConcordPool.open(directory, options(own));
    const space = db.space('s');
    const model = await fill(space, 10_000);
    await db.flush();
    const moved = space.switchEngine(engine).catch(() => undefined);
    await new Promise((resolve) => setTimeout(resolve, ms));
    await db.host!.crash();
    await Promise.race([moved, new Promise((resolve) => setTimeout(resolve, 50))]);
    db = await ConcordPool.open(directory, options(own));
    const target = db.space('s').engine;
    await db.space('s').switchEngine(target);
    expect([engine, 'btree']).toContain(target);
    await expectSame(db.space('s'), model);
    expect(await db.host!.check()).toEqual([]);
    await db.close();
    expect(await ConcordPool.verify(directory, own)).toMatchObject({ ok: true, entries: model.size });
  });
});

test('progress is told, and ends with everything', async () => {
  const db = await memoryPool({ shards: 2 });
  const space = db.space('s');
  await fill(space, 30_000);
  const events: { copied: number; total: number }[] = [];
  await space.switchEngine('custom', { onProgress: (event) => events.push(event) });
  expect(events.at(-1)).toEqual({ copied: 30_000, total: 30_000 });
  for (let i = 1; i < events.length; i++) expect(events[i]!.copied).toBeGreaterThanOrEqual(events[i - 1]!.copied);
  await expect(
    space.switchEngine('btree', {
      onProgress: () => {
        throw new Error('mine');
      },
    }),
  ).rejects.toThrow('mine');
});

/** 'done', or the code or name of what the move failed with. */
function outcomeOf(moved: Promise<void>): Promise<string> {
  return moved.then(
    () => 'done',
    (error: { code?: string | number; name: string }) => (typeof error.code === 'string' ? error.code : error.name),
  );
}

/** A move that something ends. Where this thread has lost its core the move may be over before: then all of it is done again. */
async function inTheMiddle(attempt: () => Promise<string>, expected: string): Promise<void> {
  let outcome = 'done';
  for (let attempts = 0; outcome === 'done' && attempts < 50; attempts++) outcome = await attempt();
  expect(outcome).toBe(expected);
}

test('an aborted switch is taken back', async () => {
  const db = await memoryPool({ shards: 2 });
  const space = db.space('s');
  const model = await fill(space, 30_000);
  await inTheMiddle(async () => {
    await space.switchEngine('btree');
    const aborter = new AbortController();
    const moved = outcomeOf(space.switchEngine('custom', { signal: aborter.signal }));
    await new Promise((resolve) => setTimeout(resolve, 3));
    aborter.abort();
    return moved;
  }, 'AbortError');
  await expect.poll(() => space.engine).toBe('btree');
  await expect.poll(() => db.host!.switchProgress(2)).toBeUndefined();
  await expectSame(space, model);
  expect((await failureOf(space.switchEngine('custom', { signal: AbortSignal.abort() }))).name).toBe('AbortError');
  expect(await db.host!.check()).toEqual([]);
});

test('the same switch asked for twice is one; another one meanwhile is ERR_CONFLICT', async () => {
  const db = await memoryPool();
  const space = db.space('s');
  const model = await fill(space, 20_000);
  const moves = [space.switchEngine('custom'), space.switchEngine('custom')];
  const other = codeOf(space.switchEngine('btree'));
  await Promise.all(moves);
  expect(await other).toBe('ERR_CONFLICT');
  expect(space.engine).toBe('custom');
  await space.switchEngine('custom');
  await expectSame(space, model);
});

test('a space that is dropped in the middle is gone', async () => {
  const db = await memoryPool();
  await inTheMiddle(async () => {
    const space = db.space('s');
    await fill(space, 20_000);
    const moved = outcomeOf(space.switchEngine('custom'));
    await new Promise((resolve) => setTimeout(resolve, 2));
    await space.drop();
    return moved;
  }, 'ERR_SPACE_DROPPED');
  expect(await db.spaces()).toEqual([]);
  expect(await db.host!.check()).toEqual([]);
  await fill(db.space('s'), 10);
});

test('without room the space stays where it was, whole', async () => {
  const db = await memoryPool({ shards: 1, memoryBytes: 8 << 20 });
  const space = db.space('s');
  const model = new Map<string, string>();
  for (let i = 0; i < 5000; i++) {
    const [key, value] = [`k${String(i).padStart(6, '0')}`, 'x'.repeat(900)];
    await space.put(key, value, { durability: 'memory' });
    model.set(key, value);
  }
  expect(await codeOf(space.switchEngine('custom'))).toBe('ERR_MEMORY_FULL');
  expect(space.engine).toBe('btree');
  await expectSame(space, model);
  await space.put('k000000', 'still writes');
  expect(await db.host!.check()).toEqual([]);
});

test.each([
  ['nosuch', undefined],
  [5, undefined],
  ['custom', { order: 1 }],
  ['custom', { onProgress: 5 }],
  ['custom', { signal: 5 }],
])('switchEngine(%j, %j) is ERR_INVALID_ARG', async (engine, more) => {
  const db = await memoryPool({ shards: 1 });
  await db.space('s').ready;
  expect(await codeOf(db.space('s').switchEngine(engine as string, more as never))).toBe('ERR_INVALID_ARG');
  expect(db.space('s').engine).toBe('btree');
});
