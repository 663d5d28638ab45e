/** Named spaces: how they come and go, what is remembered of them, what contradicts what. */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { crc32 } from 'node:zlib';
import { describe, expect, onTestFinished, test, vi } from 'vitest';
import { ConcordPool, type PoolOptions, type SpaceOptions } from '../../dist/index.js';
import { codeOf, failureOf, scratchDirectory } from '../support/pool-scene.js';

async function memoryPool(options?: PoolOptions): Promise<ConcordPool> {
  const db = await ConcordPool.open(':memory:', { shards: 2, memoryBytes: 64 << 20, ...options });
  onTestFinished(() => db.close());
  return db;
}

interface ManifestFile {
  formatVersion: number;
  nextSpaceId?: number;
  spaces?: { id: number; name: string; engine: string }[];
  [field: string]: unknown;
}

function readManifestFile(directory: string): ManifestFile {
  return JSON.parse(readFileSync(join(directory, 'MANIFEST'), 'utf8').split('\n')[0]!) as ManifestFile;
}

function writeManifestFile(directory: string, manifest: ManifestFile): void {
  const line = JSON.stringify(manifest);
  const sum = (crc32(line) >>> 0).toString(16).padStart(8, '0');
  writeFileSync(join(directory, 'MANIFEST'), `${line}\n${sum}\n`);
}

describe('a space', () => {
  test('has keys and values of its own, in its own encodings', async () => {
    const db = await memoryPool();
    const users = db.space<string, { age: number }>('users', { valueEncoding: 'json' });
    const points = db.space<[number, number], Buffer>('points', { keyEncoding: 'tuple', valueEncoding: 'binary' });
    await Promise.all([
      db.put('anna', 'in the pool'),
      users.put('anna', { age: 7 }),
      points.put([1, 2], Buffer.from([9])),
    ]);
    expect(db.getSync('anna')).toBe('in the pool');
    expect(users.getSync('anna')).toEqual({ age: 7 });
    expect(await users.get('anna')).toEqual({ age: 7 });
    expect(points.getSync([1, 2])).toEqual(Buffer.from([9]));
    expect(await users.iterator().all()).toEqual([['anna', { age: 7 }]]);
    expect([...points.keysSync()]).toEqual([[1, 2]]);
    expect(await db.count()).toBe(1);
    await users.del('anna');
    expect(await users.has('anna')).toBe(false);
    expect(db.getSync('anna')).toBe('in the pool');
    expect([users.keyEncodingName, users.valueEncodingName, points.keyEncodingName]).toEqual(['utf8', 'json', 'tuple']);
  });

  test('takes calls before it exists, in their order', async () => {
    const db = await memoryPool();
    const space = db.space('new');
    const calls = [
      space.put('k', '1'),
      space.put('k', '2'),
      space.batch([{ type: 'put', key: 'k', value: '3' }]),
      space.put('k', '4', { ifVersion: 1 }),
      space.update('n', (value) => `${value ?? ''}x`),
    ];
    const iterator = space.iterator();
    const counted = space.count();
    await Promise.all(calls);
    expect(await space.get('k')).toBe('3');
    expect(await space.get('n')).toBe('x');
    expect((await iterator.all()).map(([key]) => key)).toContain('k');
    expect(await counted).toBeGreaterThanOrEqual(0);
    await space.ready;
  });

  test('is found empty by synchronous reads until it exists', async () => {
    const db = await memoryPool();
    const space = db.space('new');
    expect(() => space.engine).toThrow('the space new is being created: await its ready');
    expect(space.getSync('k')).toBeUndefined();
    expect(space.hasSync('k')).toBe(false);
    expect([...space.iterateSync()]).toEqual([]);
    await space.put('k', 'v');
    expect(space.getSync('k')).toBe('v');
  });

  test('is one object per thread while it can be used', async () => {
    const db = await memoryPool();
    const space = db.space('a');
    expect(db.space('a')).toBe(space);
    await space.ready;
    expect(db.space('a', { engine: 'btree' })).toBe(space);
    await space.close();
    expect(await codeOf(space.put('k', 'v'))).toBe('ERR_CLOSED');
    expect(await codeOf(() => space.getSync('k'))).toBe('ERR_CLOSED');
    const again = db.space('a');
    expect(again).not.toBe(space);
    await again.put('k', 'v');
  });

  test.each([
    ['', 'empty'],
    ['x'.repeat(256), 'too long'],
    ['\u00e4'.repeat(128), 'too long in UTF-8'],
    ['a\nb', 'a control character'],
    ['a\u0000', 'a zero'],
    ['\ud800', 'half a surrogate pair'],
    [5, 'a number'],
  ])('cannot be called %j (%s)', async (name) => {
    const db = await memoryPool();
    expect(await codeOf(() => db.space(name as string))).toBe('ERR_INVALID_ARG');
    expect(await codeOf(db.dropSpace(name as string))).toBe('ERR_INVALID_ARG');
  });

  test.each(['x', 'x'.repeat(255), '\u00e4'.repeat(127), 'a b/c"\\', '__proto__', '\u{1f600}'])(
    'can be called %j',
    async (name) => {
      const db = await memoryPool();
      const space = db.space(name);
      await space.put('k', name);
      expect(db.space(name).getSync('k')).toBe(name);
      expect(await db.spaces()).toMatchObject([{ name, entries: 1 }]);
    },
  );

  test.each([
    [{ engine: 'nosuch' }, 'engine'],
    [{ keyEncoding: 'nosuch' }, 'keyEncoding'],
    [{ valueEncoding: 'nosuch' }, 'valueEncoding'],
    [{ order: 2 }, 'order'],
    [{ pageBytes: 5000 }, 'pageBytes'],
    [{ surprise: 1 }, 'surprise'],
  ])('with options %j is refused with the option named', async (options, named) => {
    const db = await memoryPool();
    const failure = await failureOf(() => db.space('a', options as SpaceOptions));
    expect(failure.code).toBe('ERR_INVALID_ARG');
    expect(failure.message).toContain(named);
    expect(await db.spaces()).toEqual([]);
  });

  test('that is not to be created is ERR_SPACE_NOT_FOUND when there is none', async () => {
    const db = await memoryPool();
    expect(await failureOf(() => db.space('a', { createIfMissing: false }))).toMatchObject({
      code: 'ERR_SPACE_NOT_FOUND',
      details: { space: 'a' },
    });
    await db.space('a').ready;
    expect(db.space('a', { createIfMissing: false }).getSync('k')).toBeUndefined();
  });

  test('tells what it is', async () => {
    const db = await memoryPool();
    const space = db.space('a', { order: 8, valueEncoding: 'binary' });
    await space.put('key', Buffer.alloc(10));
    expect(space.name).toBe('a');
    expect(space.engine).toBe('btree');
    expect(await db.spaces()).toMatchObject([
      {
        name: 'a',
        engine: 'btree',
        keyEncoding: 'utf8',
        valueEncoding: 'binary',
        tuning: { order: 8 },
        entries: 1,
        dataBytes: 13,
        cells: 1,
      },
    ]);
    expect(db.stats().spaces.map(({ name, entries }) => [name, entries])).toEqual([
      ['', 0],
      ['a', 1],
    ]);
    expect(db.stats().entries).toBe(1);
    expect(space.stats()).toMatchObject({ entries: 1, spaces: [{ name: 'a' }] });
    expect(space.stats().shards.reduce((sum, { tree }) => sum + tree.liveEntries, 0)).toBe(1);
    expect(await db.metrics()).toContain('concordkv_space_entries{space="a",engine="btree"} 1');
  });
});

describe('options that contradict what the space was created with are ERR_OPTION_CONFLICT', () => {
  const created: SpaceOptions = { engine: 'btree', keyEncoding: 'binary', valueEncoding: 'json', order: 16 };

  test.each([
    [{ keyEncoding: 'utf8' } as const, 'keyEncoding', 'binary', 'utf8'],
    [{ valueEncoding: 'utf8' } as const, 'valueEncoding', 'json', 'utf8'],
    [{ order: 17 }, 'order', 16, 17],
    [{ pageBytes: 8192 }, 'pageBytes', null, 8192],
  ])('%j', async (options, option, stored, given) => {
    const db = await memoryPool();
    await db.space('a', created).ready;
    const failure = await failureOf(() => db.space('a', options));
    expect(failure).toMatchObject({ code: 'ERR_OPTION_CONFLICT', details: { option, stored, given, space: 'a' } });
  });

  test('also while the space is being created', async () => {
    const db = await memoryPool();
    const first = db.space('a', { valueEncoding: 'json' });
    const second = db.space('a', { valueEncoding: 'binary' });
    const third = db.space('a', { valueEncoding: 'json' });
    expect(await codeOf(second.ready)).toBe('ERR_OPTION_CONFLICT');
    expect(await codeOf(second.put('k', 'v'))).toBe('ERR_OPTION_CONFLICT');
    expect(await codeOf(() => second.getSync('k'))).toBe('ERR_OPTION_CONFLICT');
    await first.put('k', 'v');
    expect(await third.get('k')).toBe('v');
  });

  test('and a custom encoding must be given where it is used', async () => {
    const custom = {
      name: 'twice',
      encode: (value: string) => value + value,
      decode: (bytes: Uint8Array) => `${bytes}`,
    };
    const directory = scratchDirectory();
    let db = await ConcordPool.open(directory, { shards: 1 });
    await db.space('a', { valueEncoding: custom }).put('k', 'v');
    await db.close();
    db = await ConcordPool.open(directory);
    expect(await failureOf(() => db.space('a'))).toMatchObject({
      code: 'ERR_OPTION_CONFLICT',
      details: { stored: 'twice' },
    });
    expect(db.space('a', { valueEncoding: custom }).getSync('k')).toBe('vv');
    expect(db.space('a').getSync('k')).toBe('vv');
    await db.close();
  });
});

describe('a store that is opened again', () => {
  test('has its spaces with what they were created with', async () => {
    const directory = scratchDirectory();
    let db = await ConcordPool.open(directory, { shards: 2 });
    const a = db.space<string, unknown>('a', { valueEncoding: 'json', order: 5 });
    const b = db.space('b');
    for (let i = 0; i < 50; i++)
      await Promise.all([a.put(`k${i}`, { i }), b.put(`k${i}`, `b${i}`), db.put(`k${i}`, `${i}`)]);
    const listed = await db.spaces();
    await db.host!.checkpointAll();
    await a.put('late', 1);
    await db.close();
    expect(await ConcordPool.verify(directory)).toMatchObject({ ok: true, entries: 151 });

    db = await ConcordPool.open(directory);
    // No promise was waited for since: known spaces are there at once.
    expect(db.space('b').getSync('k7')).toBe('b7');
    const again = db.space<string, unknown>('a');
    expect(again.getSync('late')).toBe(1);
    expect(await again.count()).toBe(51);
    expect(await db.count()).toBe(50);
    expect((await db.spaces()).map(({ name, createdAt, tuning }) => ({ name, createdAt, tuning }))).toEqual(
      listed.map(({ name, createdAt, tuning }) => ({ name, createdAt, tuning })),
    );
    expect(await codeOf(() => db.space('a', { order: 6 }))).toBe('ERR_OPTION_CONFLICT');
    await db.close();
  });

  test('read-only serves its spaces and creates, drops and switches none', async () => {
    const directory = scratchDirectory();
    let db = await ConcordPool.open(directory, { shards: 1 });
    await db.space('a').put('k', 'v');
    await db.close();
    db = await ConcordPool.open(directory, { readOnly: true });
    const a = db.space('a');
    expect(a.getSync('k')).toBe('v');
    expect(await codeOf(a.put('k', 'w'))).toBe('ERR_READ_ONLY');
    expect(await codeOf(() => db.space('b'))).toBe('ERR_READ_ONLY');
    expect(await codeOf(a.drop())).toBe('ERR_READ_ONLY');
    expect(await codeOf(a.switchEngine('btree'))).toBe('ERR_READ_ONLY');
    await db.close();
  });

  test('of the first format gets spaces', async () => {
    const directory = scratchDirectory();
    let db = await ConcordPool.open(directory, { shards: 1, valueEncoding: 'json' });
    await db.put('k', 'v');
    await db.close();
    const { spaces, nextSpaceId, ...rest } = readManifestFile(directory);
    expect(spaces).toMatchObject([{ id: 0, name: '', engine: 'btree' }]);
    expect(nextSpaceId).toBe(2);
    writeManifestFile(directory, { ...rest, formatVersion: 1, keyEncoding: 'utf8', valueEncoding: 'json' });

    db = await ConcordPool.open(directory);
    expect([db.keyEncodingName, db.valueEncodingName, db.engine]).toEqual(['utf8', 'json', 'btree']);
    expect(db.getSync('k')).toBe('v');
    // Nothing has changed: the file stays as it was, for older releases too.
    expect(readManifestFile(directory).formatVersion).toBe(1);
    await db.space('a').put('k', 'w');
    expect(readManifestFile(directory)).toMatchObject({
      formatVersion: 2,
      nextSpaceId: 3,
      spaces: [{ id: 0 }, { id: 2, name: 'a' }],
    });
    await db.close();
    db = await ConcordPool.open(directory);
    expect(db.space('a').getSync('k')).toBe('w');
    await db.close();
  });

  test('remembers the engine of its own space', async () => {
    const directory = scratchDirectory();
    let db = await ConcordPool.open(directory, { shards: 1, engine: 'btree' });
    expect(db.engine).toBe('btree');
    await db.close();
    db = await ConcordPool.open(directory, { engine: 'btree' });
    await db.close();
    const manifest = readManifestFile(directory);
    manifest.spaces![0]!.engine = 'other';
    writeManifestFile(directory, manifest);
    expect(await failureOf(ConcordPool.open(directory, { engine: 'btree' }))).toMatchObject({
      code: 'ERR_OPTION_CONFLICT',
      details: { option: 'engine', stored: 'other', given: 'btree' },
    });
  });

  test.each([
    ['without spaces', (manifest: ManifestFile) => void delete manifest.spaces],
    ['without the default space', (manifest: ManifestFile) => void (manifest.spaces = [])],
    ['with an impossible id', (manifest: ManifestFile) => void (manifest.spaces![0]!.id = 2 ** 28)],
    ['without the next id', (manifest: ManifestFile) => void delete manifest.nextSpaceId],
  ])('with a manifest %s is ERR_CORRUPT', async (_, damage) => {
    const directory = scratchDirectory();
    await (await ConcordPool.open(directory, { shards: 1 })).close();
    const manifest = readManifestFile(directory);
    damage(manifest);
    writeManifestFile(directory, manifest);
    expect(await failureOf(ConcordPool.open(directory))).toMatchObject({
      code: 'ERR_CORRUPT',
      details: { file: join(directory, 'MANIFEST') },
    });
  });
});

describe('a space that is dropped', () => {
  test('is gone with all its entries, and its name is free for other options', async () => {
    const directory = scratchDirectory();
    let db = await ConcordPool.open(directory, { shards: 2 });
    const old = db.space('a', { valueEncoding: 'utf8' });
    await Promise.all(Array.from({ length: 200 }, (_, i) => old.put(`k${i}`, 'old')));
    await db.put('k0', 'kept');
    expect(await old.drop()).toBe(true);
    expect(await db.spaces()).toEqual([]);
    for (const call of [
      () => old.put('k', 'v'),
      () => old.get('k'),
      () => Promise.resolve(old.getSync('k')),
      () => old.count(),
      () => old.batch([{ type: 'del', key: 'k' }]),
      () => old.clear(),
      () => old.snapshot(),
      () => Promise.resolve(old.stats()),
      () => old.switchEngine('btree'),
      () => db.batch([{ type: 'del', key: 'k', space: old }]),
    ]) {
      expect(await codeOf(async () => call())).toBe('ERR_SPACE_DROPPED');
    }
    expect(await old.drop()).toBe(false);
    expect(await db.dropSpace('a')).toBe(false);

    const fresh = db.space<number[], unknown>('a', { keyEncoding: 'tuple', valueEncoding: 'json' });
    expect(await fresh.count()).toBe(0);
    await fresh.put([1], { new: true });
    await db.close();
    expect(await ConcordPool.verify(directory)).toMatchObject({ ok: true, entries: 2 });
    db = await ConcordPool.open(directory);
    expect(await db.space<number[], unknown>('a').iterator().all()).toEqual([[[1], { new: true }]]);
    expect(db.getSync('k0')).toBe('kept');
    await db.close();
  });

  test('stays gone when the log still has its entries, and a checkpoint too', async () => {
    const directory = scratchDirectory();
    let db = await ConcordPool.open(directory, { shards: 1 });
    await db.space('a').put('in the checkpoint', 'v');
    await db.host!.checkpointAll();
    await db.space('a').put('in the log', 'v');
    await db.dropSpace('a');
    await db.host!.crash();
    db = await ConcordPool.open(directory);
    expect(await db.spaces()).toEqual([]);
    expect(await db.space('a').count()).toBe(0);
    expect(db.stats().entries).toBe(0);
    expect(await db.host!.check()).toEqual([]);
    await db.close();
  });

  test('answers calls that were on their way', async () => {
    const db = await memoryPool();
    const a = db.space('a');
    await a.put('k', 'v');
    const calls = Array.from({ length: 300 }, (_, i) =>
      a.put(`k${i}`, 'x'.repeat(300)).then(
        () => 'done',
        (error: { code: string }) => error.code,
      ),
    );
    const dropped = a.drop();
    const outcomes = new Set(await Promise.all(calls));
    await dropped;
    expect([...outcomes].every((outcome) => outcome === 'done' || outcome === 'ERR_SPACE_DROPPED')).toBe(true);
  });

  test('ends iterators and snapshots that read it, and no others', async () => {
    const db = await memoryPool({ shards: 1 });
    const [a, b] = [db.space('a'), db.space('b')];
    await Promise.all(Array.from({ length: 2000 }, (_, i) => Promise.all([a.put(`${i}`, 'a'), b.put(`${i}`, 'b')])));
    const snapshot = await a.snapshot();
    const iterator = a.iterator();
    const other = b.iterator();
    await iterator.next();
    await other.next();
    await a.drop();
    expect(await codeOf(iterator.all())).toBe('ERR_SPACE_DROPPED');
    expect(await codeOf(() => snapshot.getSync('1'))).toBe('ERR_SPACE_DROPPED');
    expect(await other.all()).toHaveLength(1999);
    expect(snapshot.space(b).getSync('1')).toBe('b');
    await snapshot.close();
    expect(db.stats().openSnapshots).toBe(0);
  });

  test('gives its memory back', async () => {
    const db = await memoryPool({ shards: 1 });
    await db.put('k', 'v');
    const before = db.stats().memoryUsedBytes;
    const a = db.space('a');
    await Promise.all(Array.from({ length: 3000 }, (_, i) => a.put(`k${i}`, 'x'.repeat(1000))));
    await a.put('large', 'x'.repeat(1 << 20));
    expect(db.stats().memoryUsedBytes).toBeGreaterThan(before + (3 << 20));
    await a.drop();
    await db.put('k', 'w');
    await expect.poll(() => db.stats().memoryUsedBytes).toBeLessThan(before + (64 << 10));
  });

  test('leaves no default space behind: that one cannot be dropped', async () => {
    const db = await memoryPool();
    expect(await codeOf(db.host!.dropSpace(0))).toBe('ERR_INVALID_ARG');
  });
});

describe('many spaces', () => {
  test('400 fit, the next one is ERR_SPACE_LIMIT, and one that goes makes room', async () => {
    const db = await memoryPool({ shards: 1 });
    const spaces = Array.from({ length: 400 }, (_, i) => db.space(`${'n'.repeat(250)}${i}`));
    await Promise.all(spaces.map((space, i) => space.put('k', `${i}`)));
    const more = db.space('more');
    expect(await failureOf(more.ready)).toMatchObject({ code: 'ERR_SPACE_LIMIT', details: { limit: 400 } });
    expect(spaces.map((space) => space.getSync('k'))).toEqual(spaces.map((_, i) => `${i}`));
    await spaces[7]!.drop();
    await db.space('more').put('k', 'v');
    expect(await db.spaces()).toHaveLength(400);
    expect(await db.host!.check()).toEqual([]);
  });

  test('1,000 times created, used and dropped leave nothing behind', async () => {
    const db = await memoryPool({ shards: 1, durability: 'memory' });
    const cycle = async (i: number): Promise<void> => {
      const space = db.space('again', { order: 3 + (i % 20) });
      await space.batch(
        Array.from({ length: 20 }, (_, k) => ({ type: 'put' as const, key: `k${k}`, value: `${i}`, ttlMs: 1e7 })),
      );
      if (space.getSync('k3') !== `${i}`) throw new Error(`cycle ${i} read ${space.getSync('k3')}`);
      await space.drop();
    };
    for (let i = 0; i < 100; i++) await cycle(i);
    await db.compact();
    const used = db.stats().memoryUsedBytes;
    for (let i = 100; i < 1000; i++) await cycle(i);
    await db.compact();
    expect(await db.spaces()).toEqual([]);
    expect(await db.host!.check()).toEqual([]);
    // Lines of what would have expired stay until their time comes: 20 of about 40 bytes per cycle.
    expect(db.stats().memoryUsedBytes - used).toBeLessThan(900 * 20 * 120);
  });

  test('once dropped, are forgotten in one look, however many objects of this thread are of them', async () => {
    const db = await memoryPool();
    const { core } = (db as unknown as { source: { core: { forgetDropped(): void } } }).source;
    const looks = vi.spyOn(core, 'forgetDropped');
    const spaces = Array.from({ length: 10 }, (_, i) => db.space(`s${i}`));
    await Promise.all(spaces.map((space) => space.ready));
    looks.mockClear();
    // By another thread, as far as these objects know.
    for (const space of spaces as unknown as { source: { spaceId: number } }[])
      await db.host!.dropSpace(space.source.spaceId);
    for (const space of spaces) expect(await codeOf(() => space.getSync('k'))).toBe('ERR_SPACE_DROPPED');
    expect(looks.mock.calls.length).toBeLessThanOrEqual(2 * spaces.length);
  });

  test('1,000 times created and dropped in a directory leave its files as they were', async () => {
    const directory = scratchDirectory();
    const db = await ConcordPool.open(directory, { shards: 1 });
    for (let i = 0; i < 1000; i++) {
      const space = db.space(`s${i % 3}`);
      await space.ready;
      await space.drop();
    }
    expect(readManifestFile(directory)).toMatchObject({ nextSpaceId: 1002, spaces: [{ id: 0 }] });
    expect(existsSync(join(directory, 'MANIFEST.tmp'))).toBe(false);
    await db.close();
    expect(await ConcordPool.verify(directory)).toMatchObject({ ok: true });
  });
});
