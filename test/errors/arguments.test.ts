/** Callers' mistakes: every wrong type and every wrong option is refused with a TypeError that names it, and nothing happens. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import {
  ConcordPool,
  registerEngine,
  type BatchOperation,
  type PoolHandle,
  type PoolOptions,
} from '../../dist/index.js';
import { failureOf, scratchDirectory } from '../support/pool-scene.js';

const anything = <T>(value: unknown): T => value as T;

describe('open', () => {
  test.each<[string, unknown]>([
    ['shards', 0],
    ['shards', 65],
    ['shards', 1.5],
    ['shards', 'many'],
    ['durability', 'never'],
    ['durability', 1],
    ['memoryBytes', 1 << 21],
    ['memoryBytes', 2 ** 50],
    ['memoryBytes', '1gb'],
    ['keyEncoding', 'utf16'],
    ['valueEncoding', 'xml'],
    ['valueEncoding', 5],
    ['valueEncoding', { name: 'half', encode: () => '' }],
    ['valueEncoding', { name: 'no spaces, please', encode: () => '', decode: () => '' }],
    ['valueEncoding', { name: 'json', encode: () => '', decode: () => '' }],
    ['readOnly', 'yes'],
    ['createIfMissing', 1],
    ['errorIfExists', null],
    ['recoveryMode', 'hopeful'],
    ['order', 2],
    ['order', 1001],
    ['pageBytes', 4095],
    ['pageBytes', 65536],
    ['segmentBytes', 131072],
    ['segmentBytes', 262145],
    ['checkpointLogBytes', 1],
    ['backgroundThreads', 0],
    ['shard', 1],
  ])('refuses %s: %j by its name', async (name, value) => {
    const failure = await failureOf(ConcordPool.open(':memory:', anything<PoolOptions>({ [name]: value })));
    expect(failure).toBeInstanceOf(TypeError);
    expect(failure).toMatchObject({ code: 'ERR_INVALID_ARG', message: expect.stringContaining(name) as string });
  });

  test('names every wrong option at once', async () => {
    const failure = await failureOf(ConcordPool.open(':memory:', anything({ order: 1, shards: -1, colour: 'red' })));
    for (const name of ['order', 'shards', 'colour']) expect(failure.message).toContain(name);
  });

  test.each([undefined, null, 5, '', {}, ['a']])('refuses the directory %j', async (directory) => {
    expect(await failureOf(ConcordPool.open(anything<string>(directory)))).toMatchObject({ code: 'ERR_INVALID_ARG' });
  });

  test.each([5, 'shards', []])('refuses the options %j', async (options) => {
    expect(await failureOf(ConcordPool.open(':memory:', anything<PoolOptions>(options)))).toMatchObject({
      code: 'ERR_INVALID_ARG',
    });
  });

  test('leaves nothing behind when an option is wrong', async () => {
    const directory = scratchDirectory();
    await failureOf(ConcordPool.open(directory, anything<PoolOptions>({ shards: 0 })));
    await failureOf(ConcordPool.open(directory, anything<PoolOptions>({ valueEncoding: 'xml' })));
    const db = await ConcordPool.open(directory, { errorIfExists: true });
    await db.close();
  });
});

const METHODS = { openWriter: () => 0, openReader: () => 0, openCursor: () => 0, mark: () => 0 };

test.each<[string, unknown, string]>([
  ['Mine', { name: 'Mine', code: 8, ...METHODS }, "an engine's name is 1 to 32 of a-z, 0-9 and -, got Mine"],
  ['mine', null, 'engine mine must be an object'],
  ['mine', () => 0, 'engine mine must be an object'],
  ['mine', { code: 8, ...METHODS }, 'an engine is registered as what it is called: mine, not undefined'],
  ['mine', { name: 'mine', code: 1, ...METHODS }, "an engine's code is 8 to 15, got 1"],
  ['mine', { name: 'mine', code: 8, ...METHODS, mark: undefined }, 'engine mine has no function mark'],
  ['btree', { name: 'btree', code: 8, ...METHODS }, 'engine btree with code 8: btree has code 0'],
])('registerEngine refuses %s, %o', (name, engine, message) => {
  expect(() => registerEngine(name, anything(engine))).toThrow(
    expect.objectContaining({ name: 'TypeError', code: 'ERR_INVALID_ARG', message }),
  );
});

test('the largest requests fit the smallest log segment', async () => {
  const directory = scratchDirectory();
  let db = await ConcordPool.open(directory, { shards: 1, segmentBytes: 262144, durability: 'os' });
  const lengths = [61_000, 65_000, 65_535, 65_536, 65_537, 131_000, 262_144, 300_000];
  const value = (length: number): string => String(length).padEnd(length, '.');
  for (const length of lengths) {
    const key = String(length).padEnd(4096, 'k');
    await db.put(key, value(length));
    await db.batch([
      { type: 'put', key: `batch ${length}`, value: value(length) },
      { type: 'del', key: 'absent' },
    ]);
  }
  const many = Array.from({ length: 3000 }, (_, i) => ({
    type: 'put' as const,
    key: `many${i}`,
    value: 'x'.repeat(30),
  }));
  for (let count = 2400; count <= 3000; count += 100) await db.batch(many.slice(0, count));
  await db.close();
  db = await ConcordPool.open(directory);
  for (const length of lengths) {
    expect(db.getSync(String(length).padEnd(4096, 'k')) === value(length), String(length)).toBe(true);
    expect(db.getSync(`batch ${length}`) === value(length), String(length)).toBe(true);
  }
  expect(await db.count({ prefix: 'many' })).toBe(3000);
  await db.close();
});

describe('a call with', () => {
  let db: ConcordPool;
  beforeAll(async () => {
    db = await ConcordPool.open(':memory:', { shards: 1 });
    await db.put('a', '1');
  });
  afterAll(async () => {
    await db.close();
  });

  const badKeys: unknown[] = [undefined, null, 5, 5n, true, {}, ['a'], Buffer.from('a'), Symbol('a')];
  test.each(badKeys)('the key %o is refused everywhere', async (bad) => {
    const key = anything<string>(bad);
    const calls: (() => unknown)[] = [
      () => db.getSync(key),
      () => db.get(key),
      () => db.getManySync(['a', key]),
      () => db.getMany(['a', key]),
      () => db.hasSync(key),
      () => db.has(key),
      () => db.getEntrySync(key),
      () => db.getEntry(key),
      () => db.put(key, 'v'),
      () => db.del(key),
      () => db.update(key, () => 'v'),
      () => db.batch([{ type: 'put', key, value: 'v' }]),
      () => db.batch([{ type: 'del', key }]),
    ];
    if (bad !== undefined)
      calls.push(
        () => db.iterator({ gt: key }),
        () => db.count({ lte: key }),
        () => db.clear({ prefix: key }),
      );
    for (const call of calls)
      expect(await failureOf(call), call.toString()).toMatchObject({ code: 'ERR_INVALID_ARG', name: 'TypeError' });
    expect(await db.count()).toBe(1);
  });

  test.each([undefined, null, 5, {}, Buffer.from('v'), () => 'v'])('the value %o is refused', async (bad) => {
    const value = anything<string>(bad);
    for (const call of [() => db.put('b', value), () => db.batch([{ type: 'put', key: 'b', value }])]) {
      expect(await failureOf(call)).toMatchObject({ code: 'ERR_INVALID_ARG' });
    }
    expect(db.hasSync('b')).toBe(false);
  });

  test.each<[string, () => unknown]>([
    ['an unknown durability', () => db.put('b', 'v', anything({ durability: 'maybe' }))],
    ['an unknown durability in del', () => db.del('a', anything({ durability: 0 }))],
    ['an unknown durability in batch', () => db.batch([{ type: 'del', key: 'a' }], anything({ durability: 'full' }))],
    ['an unknown durability in clear', () => db.clear(anything({ durability: 'x' }))],
    ['a version that is none', () => db.put('a', 'v', { ifVersion: -1 })],
    ['half a version', () => db.put('a', 'v', { ifVersion: 1.5 })],
    ['a version as text', () => db.del('a', anything({ ifVersion: '1' }))],
    ['both conditions', () => db.put('b', 'v', { ifAbsent: true, ifVersion: 0 })],
    ['options that are no object', () => db.put('b', 'v', anything('sync'))],
    ['null options', () => db.get('a', anything(null))],
    ['keys that are no array', () => db.getMany(anything('a'))],
    ['keys that are no array, at once', () => db.getManySync(anything(new Set(['a'])))],
    ['operations that are no array', () => db.batch(anything({ type: 'del', key: 'a' }))],
    ['an operation that is none', () => db.batch([anything<BatchOperation<string, string>>(undefined)])],
    [
      'an operation of unknown type',
      () => db.batch([anything<BatchOperation<string, string>>({ type: 'merge', key: 'a', value: 'v' })]),
    ],
    ['no function to update with', () => db.update('a', anything('v'))],
    ['a function that gives no value', () => db.update('a', () => anything<string>(5))],
    ['a range that is none', () => db.iterator(anything('a'))],
    ['a snapshot that is none', () => db.iterator({ snapshot: anything({ sequence: 5 }) })],
    ['a snapshot that is none, in count', () => db.count({ snapshot: anything(7) })],
    ['a signal that is none', () => db.put('b', 'v', { signal: anything('abort') })],
    ['a signal that is none, in a scan', () => db.iterator({ signal: anything({}) })],
    ['no directory to copy to', () => db.checkpoint(anything(undefined))],
    ['an empty directory name to copy to', () => db.checkpoint('')],
  ])('%s is refused', async (_what, call) => {
    expect(await failureOf(call)).toMatchObject({ code: 'ERR_INVALID_ARG', name: 'TypeError' });
    expect(db.getSync('a')).toBe('1');
    expect(await db.count()).toBe(1);
  });

  test('a snapshot of another pool is refused', async () => {
    const other = await ConcordPool.open(':memory:', { shards: 1 });
    const snapshot = await other.snapshot();
    expect(await failureOf(() => db.iterator({ snapshot }))).toMatchObject({ code: 'ERR_INVALID_ARG' });
    expect(await failureOf(() => db.count({ snapshot }))).toMatchObject({ code: 'ERR_INVALID_ARG' });
    await other.close();
  });

  test('a handle that is none cannot attach', async () => {
    for (const handle of [undefined, null, {}, { port: 'COM1' }, 5]) {
      expect(await failureOf(() => ConcordPool.attach(anything<PoolHandle>(handle)))).toMatchObject({
        code: 'ERR_INVALID_ARG',
      });
    }
  });

  test.each([undefined, null, 5, ''])('verify, repair and restore refuse the directory %j', async (directory) => {
    const path = anything<string>(directory);
    for (const call of [
      () => ConcordPool.verify(path),
      () => ConcordPool.repair(path),
      () => ConcordPool.restore(path, '/nowhere'),
      () => ConcordPool.restore('/nowhere', path),
    ]) {
      expect(await failureOf(call)).toMatchObject({ code: 'ERR_INVALID_ARG' });
    }
  });
});
