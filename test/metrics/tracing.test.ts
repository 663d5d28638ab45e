/** Channels of node:diagnostics_channel: every asynchronous call is told, with what it was and what became of it. */
import { channel, tracingChannel } from 'node:diagnostics_channel';
import { expect, onTestFinished, test, vi } from 'vitest';
import { ConcordPool, type PoolOptions } from '../../dist/index.js';
import { codeOf, scratchDirectory } from '../support/pool-scene.js';

type Call = Record<string, unknown> & { operation: string };

async function openStore(options?: PoolOptions, directory = ':memory:'): Promise<ConcordPool> {
  const db = await ConcordPool.open(directory, { shards: 1, ...options });
  onTestFinished(() => db.close());
  return db;
}

/** Listens until the test ends. `calls` are those that began, `ends` those that settled, in order. */
function listen(): { calls: Call[]; ends: Call[]; errors: Call[] } {
  const seen: { calls: Call[]; ends: Call[]; errors: Call[] } = { calls: [], ends: [], errors: [] };
  const subscribers = {
    start: (call: object) => void seen.calls.push(call as Call),
    end: () => undefined,
    asyncStart: () => undefined,
    asyncEnd: (call: object) => void seen.ends.push(call as Call),
    error: (call: object) => void seen.errors.push(call as Call),
  };
  const operations = tracingChannel('concordkv:operation');
  operations.subscribe(subscribers);
  onTestFinished(() => void operations.unsubscribe(subscribers));
  return seen;
}

function messages(name: string): Record<string, unknown>[] {
  const seen: Record<string, unknown>[] = [];
  const subscriber = (message: unknown): void => void seen.push(message as Record<string, unknown>);
  channel(name).subscribe(subscriber);
  onTestFinished(() => void channel(name).unsubscribe(subscriber));
  return seen;
}

test('each asynchronous call is told once, with its space, key and durability', async () => {
  const db = await openStore({ durability: 'os' });
  const users = db.space('users');
  await users.ready;
  const seen = listen();
  await db.put('a', '1');
  await users.put('b', '2', { durability: 'memory' });
  await db.get('a');
  await db.has('a');
  await db.getEntry('a');
  await db.getMany(['a', 'b', 'c']);
  await db.update('a', (old) => `${old ?? ''}!`);
  await db.batch([
    { type: 'put', key: 'x', value: '1' },
    { type: 'del', key: 'a' },
  ]);
  await db.del('x');
  await db.count({ gte: 'a' });
  await db.flush();
  await (await db.snapshot()).close();
  await db.compact();
  await db.switchEngine('memtable');
  await db.clear();
  expect(seen.calls.map(({ operation }) => operation)).toEqual([
    ...['put', 'put', 'get', 'has', 'getEntry', 'getMany', 'update', 'batch', 'del'],
    ...['count', 'flush', 'snapshot', 'compact', 'switchEngine', 'clear'],
  ]);
  expect(seen.ends).toEqual(seen.calls);
  expect(seen.errors).toEqual([]);
  expect(seen.calls[0]).toMatchObject({ space: '', key: 'a', durability: 'os', result: true });
  expect(seen.calls[1]).toMatchObject({ space: 'users', key: 'b', durability: 'memory' });
  expect(seen.calls[2]).toMatchObject({ key: 'a', result: '1' });
  expect(seen.calls[5]).toMatchObject({ entries: 3 });
  expect(seen.calls[6]).toMatchObject({ result: '1!' });
  expect(seen.calls[7]).toMatchObject({ entries: 2 });
});

test('a transaction is told as one call, with what its function returned or how it failed', async () => {
  const db = await openStore({ durability: 'os' });
  const seen = listen();
  await db.transaction((tx) => {
    void tx.put('a', '1');
    return 'done';
  });
  const failing = db.transaction(() => {
    throw new Error('no');
  });
  await expect(failing).rejects.toThrow('no');
  expect(seen.calls.map(({ operation }) => operation)).toEqual(['transaction', 'transaction']);
  expect(seen.calls[0]).toMatchObject({ space: '', durability: 'os', result: 'done' });
  expect(seen.errors).toHaveLength(1);
  expect(seen.ends).toHaveLength(2);
});

test('a transaction that the caller ends is told when it begins and when it is committed or rolled back', async () => {
  const db = await openStore({ durability: 'os' });
  const seen = listen();
  const committed = db.begin({ durability: 'memory' });
  void committed.put('a', '1');
  await committed.commit();
  await committed.rollback();
  const undone = db.begin();
  await undone.rollback();
  const [loser, winner] = [db.begin(), db.begin()];
  for (const tx of [loser, winner]) void tx.put('a', String(Number(tx.getSync('a')) + 1));
  await winner.commit();
  expect(await codeOf(loser.commit())).toBe('ERR_CONFLICT');
  expect(() => db.begin({ mode: 'hasty' as 'optimistic' })).toThrow('mode');
  expect(seen.calls.map(({ operation, transaction }) => [operation, transaction])).toEqual([
    ['begin', undefined],
    ['commit', committed.id],
    ['begin', undefined],
    ['rollback', undone.id],
    ['begin', undefined],
    ['begin', undefined],
    ['commit', winner.id],
    ['commit', loser.id],
    ['begin', undefined],
  ]);
  expect(seen.calls[0]).toMatchObject({ space: '', durability: 'memory', result: committed });
  expect(seen.errors.map(({ operation }) => operation)).toEqual(['commit', 'begin']);
  expect(seen.ends.map(({ operation }) => operation)).toEqual(['commit', 'rollback', 'commit', 'commit']);
});

test('calls that wait for a space to be made are told once', async () => {
  const db = await openStore();
  const seen = listen();
  const late = db.space('late');
  await Promise.all([late.put('a', '1'), late.del('b'), late.batch([{ type: 'del', key: 'c' }]), late.clear()]);
  expect(seen.calls.map(({ operation, space }) => [operation, space])).toEqual([
    ['put', 'late'],
    ['del', 'late'],
    ['batch', 'late'],
    ['clear', 'late'],
  ]);
  expect(seen.ends).toHaveLength(4);
});

test('an iterator tells its chunks and how many entries they hold', async () => {
  const db = await openStore();
  await Promise.all(Array.from({ length: 1000 }, (_, i) => db.put(`k${i}`, 'v')));
  const seen = listen();
  let entries = 0;
  for await (const entry of db.iterator()) entries += entry.length / 2;
  expect(entries).toBe(1000);
  const chunks = seen.ends.filter(({ operation }) => operation === 'iterate');
  expect(chunks.length).toBeGreaterThan(2);
  expect(chunks.length).toBeLessThan(20);
  expect(chunks.reduce((sum, { entries: count }) => sum + (count as number), 0)).toBe(1000);
});

test('a call that fails is told with its error, and with error before asyncEnd', async () => {
  const db = await openStore({ memoryBytes: 4 << 20 });
  const seen = listen();
  let code: string | undefined;
  for (let i = 0; code === undefined; i++) {
    await db.put(`k${i}`, 'v'.repeat(60_000)).catch((error: { code: string }) => (code = error.code));
  }
  expect(code).toBe('ERR_MEMORY_FULL');
  expect(seen.errors).toHaveLength(1);
  expect(seen.errors[0]).toMatchObject({ operation: 'put', error: { code: 'ERR_MEMORY_FULL' } });
  expect(await codeOf(db.put(Symbol('no') as unknown as string, 'v'))).toBe('ERR_INVALID_ARG');
  expect(seen.errors).toHaveLength(2);
  expect(seen.ends.at(-1)).toBe(seen.errors[1]);
});

test('nobody is told when nobody listens any more', async () => {
  const db = await openStore();
  const seen: unknown[] = [];
  const subscribers = { asyncEnd: (call: object) => void seen.push(call) };
  const operations = tracingChannel('concordkv:operation');
  operations.subscribe(subscribers as Parameters<typeof operations.subscribe>[0]);
  await db.put('a', '1');
  operations.unsubscribe(subscribers as Parameters<typeof operations.unsubscribe>[0]);
  await db.put('b', '1');
  expect(seen).toHaveLength(1);
});

test('checkpoints, switches and restarts are told by the thread that opened the store', async () => {
  const checkpoints = messages('concordkv:checkpoint');
  const switches = messages('concordkv:switch');
  const shards = messages('concordkv:shard');
  const db = await openStore({}, scratchDirectory());
  await db.put('a', '1');
  await db.host!.checkpointAll();
  expect(checkpoints).toEqual([{ shard: 0, directory: expect.any(String), durationMs: expect.any(Number) }]);
  const users = db.space('users');
  await users.put('a', '1');
  await users.switchEngine('array');
  expect(switches).toEqual([
    { event: 'begin', space: 'users', engine: 'array' },
    { event: 'done', space: 'users', engine: 'array', durationMs: expect.any(Number) },
  ]);
  await db.host!.killShard(0);
  await vi.waitFor(() => expect(shards).toHaveLength(1), 60_000);
  expect(shards[0]).toMatchObject({ event: 'restarted', shard: 0, error: { code: 'ERR_INTERNAL' } });
});
