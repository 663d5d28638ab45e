/** Opening what is not there, not ours, not finished, of another time, or in use. */
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, readFileSync, readdirSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, onTestFinished, test } from 'vitest';
import { ConcordPool, type CustomValueEncoding, type PoolOptions } from '../../dist/index.js';
import { crc32 } from '../../dist/shared/checksum.js';
import { failureOf, filesOf, scratchDirectory } from '../support/pool-scene.js';

const child = fileURLToPath(new URL('../support/pool-child.mjs', import.meta.url));

/** A closed store with one entry. */
async function storeAt(directory: string, options: PoolOptions = {}): Promise<string> {
  const db = await ConcordPool.open(directory, { shards: 1, ...options });
  await db.put('a', '1');
  await db.close();
  return directory;
}

const crcOf = (bytes: Buffer): string => (crc32(bytes, 0, bytes.length) >>> 0).toString(16).padStart(8, '0');

/** Rewrites the manifest with a good checksum. */
function editManifest(directory: string, edit: (manifest: Record<string, unknown>) => void): void {
  const path = join(directory, 'MANIFEST');
  const manifest = JSON.parse(readFileSync(path, 'utf8').split('\n')[0]!) as Record<string, unknown>;
  edit(manifest);
  const line = JSON.stringify(manifest);
  writeFileSync(path, `${line}\n${crcOf(Buffer.from(line))}\n`);
}

describe('a missing store', () => {
  test('is ERR_NOT_FOUND with createIfMissing false or readOnly true, and nothing is created', async () => {
    const root = scratchDirectory();
    const path = join(root, 'none');
    for (const options of [{ createIfMissing: false }, { readOnly: true }, { readOnly: true, createIfMissing: true }]) {
      expect(await failureOf(ConcordPool.open(path, options))).toMatchObject({
        code: 'ERR_NOT_FOUND',
        details: { directory: path },
      });
      expect(await failureOf(ConcordPool.open(root, options))).toMatchObject({
        code: 'ERR_NOT_FOUND',
        details: { directory: root },
      });
    }
    expect(readdirSync(root)).toEqual([]);
    for (const call of [
      ConcordPool.verify(path),
      ConcordPool.repair(path),
      ConcordPool.restore(path, join(root, 'to')),
    ]) {
      expect(await failureOf(call)).toMatchObject({ code: 'ERR_NOT_FOUND' });
    }
    expect(readdirSync(root)).toEqual([]);
  });

  test('is created with its parents, readable by nobody else', async () => {
    const directory = await storeAt(join(scratchDirectory(), 'a', 'b', 'c'));
    expect(statSync(directory).mode & 0o777).toBe(0o700);
    for (const file of filesOf(directory)) expect(statSync(file).mode & 0o077, file).toBe(0);
  });
});

test('errorIfExists refuses a store that is there, and only that', async () => {
  const directory = join(scratchDirectory(), 'store');
  const db = await ConcordPool.open(directory, { errorIfExists: true });
  await db.close();
  expect(await failureOf(ConcordPool.open(directory, { errorIfExists: true }))).toMatchObject({
    code: 'ERR_EXISTS',
    details: { directory },
  });
});

test('a directory with foreign files is refused and left alone', async () => {
  const directory = scratchDirectory();
  writeFileSync(join(directory, 'holiday.jpg'), 'precious');
  expect(await failureOf(ConcordPool.open(directory))).toMatchObject({ code: 'ERR_CORRUPT', details: { directory } });
  expect(await failureOf(ConcordPool.repair(directory))).toMatchObject({ code: 'ERR_CORRUPT' });
  expect((await ConcordPool.verify(directory)).ok).toBe(false);
  expect(await failureOf(ConcordPool.restore(directory, join(directory, '..', 'never')))).toMatchObject({
    code: 'ERR_CORRUPT',
  });
  const source = await storeAt(join(scratchDirectory(), 'store'));
  expect(await failureOf(ConcordPool.restore(source, directory))).toMatchObject({ code: 'ERR_EXISTS' });
  expect(readFileSync(join(directory, 'holiday.jpg'), 'utf8')).toBe('precious');
  expect(readdirSync(directory).filter((name) => !name.startsWith('LOCK'))).toEqual(['holiday.jpg']);
});

test('a file where the directory should be is ERR_IO and names it', async () => {
  const root = scratchDirectory();
  const path = join(root, 'file');
  writeFileSync(path, 'not a directory');
  for (const at of [path, join(path, 'below')]) {
    expect(await failureOf(ConcordPool.open(at))).toMatchObject({
      code: 'ERR_IO',
      message: expect.stringContaining(path) as string,
    });
  }
  expect(readFileSync(path, 'utf8')).toBe('not a directory');
});

describe('a store that was never finished', () => {
  test('is created anew over what the creation left', async () => {
    const directory = scratchDirectory();
    writeFileSync(join(directory, 'CREATING'), '');
    mkdirSync(join(directory, 'shard-0000'));
    writeFileSync(join(directory, 'shard-0000', 'wal-0000000001.log'), 'half a segment');
    mkdirSync(join(directory, 'shard-0003'));
    writeFileSync(join(directory, 'MANIFEST.tmp'), 'half a manifest');
    expect(await failureOf(ConcordPool.open(directory, { createIfMissing: false }))).toMatchObject({
      code: 'ERR_NOT_FOUND',
    });
    expect(await failureOf(ConcordPool.verify(directory))).toMatchObject({ code: 'ERR_NOT_FOUND' });
    await storeAt(directory);
    const db = await ConcordPool.open(directory, { createIfMissing: false });
    expect(db.getSync('a')).toBe('1');
    await db.close();
    expect(readdirSync(directory).sort()).toEqual(['MANIFEST', 'shard-0000']);
    expect(await ConcordPool.verify(directory)).toMatchObject({ ok: true, shards: 1, entries: 1 });
  });

  test('but has its manifest is finished', async () => {
    const directory = await storeAt(scratchDirectory());
    writeFileSync(join(directory, 'CREATING'), '');
    const db = await ConcordPool.open(directory);
    expect(db.getSync('a')).toBe('1');
    await db.close();
    expect(readdirSync(directory)).not.toContain('CREATING');
  });
});

describe('an option that contradicts the directory', () => {
  const custom = (name: string): CustomValueEncoding => ({
    name,
    encode: (value) => String(value),
    decode: (bytes) => Buffer.from(bytes).toString(),
  });

  test.each<[string, PoolOptions, PoolOptions, string | number, string | number]>([
    ['shards', { shards: 2 }, { shards: 3 }, 2, 3],
    ['keyEncoding', { keyEncoding: 'binary' }, { keyEncoding: 'utf8' }, 'binary', 'utf8'],
    ['valueEncoding', { valueEncoding: 'json' }, { valueEncoding: 'utf8' }, 'json', 'utf8'],
    ['valueEncoding', { valueEncoding: custom('mine') }, { valueEncoding: custom('yours') }, 'mine', 'yours'],
    ['valueEncoding', { valueEncoding: 'json' }, { valueEncoding: custom('mine') }, 'json', 'mine'],
  ])('%s is named with both values', async (option, created, given, stored, wanted) => {
    const directory = scratchDirectory();
    await (await ConcordPool.open(directory, created)).close();
    expect(await failureOf(ConcordPool.open(directory, given))).toMatchObject({
      code: 'ERR_OPTION_CONFLICT',
      details: { option, stored, given: wanted },
    });
    // The directory is free again, and what it was.
    await (await ConcordPool.open(directory, created)).close();
    if (typeof created.valueEncoding !== 'object') await (await ConcordPool.open(directory)).close();
  });

  test('a custom encoding must be given again, at open and at attach', async () => {
    const directory = scratchDirectory();
    const db = await ConcordPool.open(directory, { valueEncoding: custom('mine') });
    expect(await failureOf(ConcordPool.attach(db.handle()))).toMatchObject({
      code: 'ERR_OPTION_CONFLICT',
      details: { option: 'valueEncoding' },
    });
    expect(db.stats().clients).toBe(1);
    const attached = await ConcordPool.attach(db.handle(), { valueEncoding: custom('mine') });
    await attached.put('a', '1');
    expect(db.getSync('a')).toBe('1');
    await db.close();
    expect(await failureOf(ConcordPool.open(directory))).toMatchObject({
      code: 'ERR_OPTION_CONFLICT',
      details: { option: 'valueEncoding', stored: 'mine' },
    });
    await (await ConcordPool.open(directory, { valueEncoding: custom('mine') })).close();
  });
});

describe('a second opener', () => {
  test('in the same process is refused with the pid, until the first has closed', async () => {
    const directory = scratchDirectory();
    const db = await ConcordPool.open(directory, { shards: 1 });
    const failure = await failureOf(ConcordPool.open(directory));
    expect(failure).toMatchObject({ code: 'ERR_LOCKED', retryable: true, details: { pid: process.pid } });
    expect(failure.message).toContain(String(process.pid));
    for (const call of [
      ConcordPool.verify(directory),
      ConcordPool.repair(directory),
      ConcordPool.restore(directory, join(directory, '..', 'never-made')),
    ]) {
      expect(await failureOf(call)).toMatchObject({ code: 'ERR_LOCKED' });
    }
    await db.put('a', '1');
    await db.close();
    const again = await ConcordPool.open(directory);
    expect(again.getSync('a')).toBe('1');
    await again.close();
  });

  test('of two at once exactly one wins', async () => {
    const directory = scratchDirectory();
    const outcomes = await Promise.allSettled([1, 2, 3, 4].map(() => ConcordPool.open(directory, { shards: 1 })));
    const won = outcomes.filter((outcome) => outcome.status === 'fulfilled');
    expect(won).toHaveLength(1);
    for (const outcome of outcomes)
      if (outcome.status === 'rejected') expect((outcome.reason as { code: string }).code).toBe('ERR_LOCKED');
    await won[0]!.value.close();
  });

  test('in another process is refused with the pid; a killed owner is not in the way', async () => {
    const directory = scratchDirectory();
    // What the tests before reserved is given back: a process with more of it than the machine has memory cannot fork.
    setFlagsFromString('--expose-gc');
    (runInNewContext('gc') as () => void)();
    const owner = spawn(process.execPath, [child, 'hold', directory], { stdio: ['ignore', 'pipe', 'inherit'] });
    onTestFinished(() => void owner.kill('SIGKILL'));
    await once(owner.stdout, 'data');
    const failure = await failureOf(ConcordPool.open(directory));
    expect(failure).toMatchObject({ code: 'ERR_LOCKED', details: { pid: owner.pid } });
    expect(failure.message).toContain(String(owner.pid));
    // Reading needs no lock, and may look at a store in use.
    const reader = await ConcordPool.open(directory, { readOnly: true });
    expect(reader.getSync('held')).toBe('yes');
    await reader.close();
    owner.kill('SIGKILL');
    await once(owner, 'exit');
    const db = await ConcordPool.open(directory);
    expect(db.getSync('held')).toBe('yes');
    await db.close();
  });
});

describe('readOnly', () => {
  test('reads everything, writes nothing, and changes no file', async () => {
    const directory = await storeAt(scratchDirectory());
    const before = filesOf(directory).map((file) => [file, readFileSync(file).toString('base64')]);
    const db = await ConcordPool.open(directory, { readOnly: true });
    expect(db.getSync('a')).toBe('1');
    expect(await db.iterator().all()).toEqual([['a', '1']]);
    const snapshot = await db.snapshot();
    expect(snapshot.getSync('a')).toBe('1');
    await snapshot.close();
    const writes: (() => unknown)[] = [
      () => db.put('b', '2'),
      () => db.put('b', 'l'.repeat(100_000)),
      () => db.del('a'),
      () => db.update('a', () => '2'),
      () => db.batch([{ type: 'del', key: 'a' }]),
      () => db.clear(),
    ];
    for (const write of writes)
      expect(await failureOf(write), write.toString()).toMatchObject({ code: 'ERR_READ_ONLY', retryable: false });
    await db.flush();
    expect(await db.count()).toBe(1);
    // Two readers at once: no lock is taken.
    const second = await ConcordPool.open(directory, { readOnly: true });
    expect(second.getSync('a')).toBe('1');
    await second.close();
    const copy = join(scratchDirectory(), 'copy');
    await db.checkpoint(copy);
    await db.close();
    expect(filesOf(directory).map((file) => [file, readFileSync(file).toString('base64')])).toEqual(before);
    expect(await ConcordPool.verify(copy)).toMatchObject({ ok: true, entries: 1 });
  });
});

describe('a format version of the future is ERR_FORMAT_VERSION and names the file:', () => {
  /** Writes a u32 and then the crc that stands at the end of the header. */
  function editHeader(path: string, headerBytes: number, offset: number, value: number): void {
    const bytes = readFileSync(path);
    bytes.writeUInt32LE(value, offset);
    bytes.writeUInt32LE(crc32(bytes, 0, headerBytes - 4) >>> 0, headerBytes - 4);
    writeFileSync(path, bytes);
  }

  async function expectVersionError(directory: string, file: string): Promise<void> {
    const failure = await failureOf(ConcordPool.open(directory));
    expect(failure).toMatchObject({ code: 'ERR_FORMAT_VERSION', details: { file } });
    expect(failure.message).toContain(file);
    expect(await ConcordPool.verify(directory)).toMatchObject({
      ok: false,
      problems: [{ code: 'ERR_FORMAT_VERSION' }],
    });
  }

  test('the manifest', async () => {
    const directory = await storeAt(scratchDirectory());
    editManifest(directory, (manifest) => (manifest['formatVersion'] = 3));
    await expectVersionError(directory, join(directory, 'MANIFEST'));
  });

  test('the manifest, whatever else its version says in it', async () => {
    const directory = await storeAt(scratchDirectory());
    editManifest(directory, (manifest) => {
      manifest['formatVersion'] = 3;
      manifest['shards'] = { count: 4 };
      delete manifest['keyEncoding'];
      manifest['hashSlots'] = 65536;
    });
    await expectVersionError(directory, join(directory, 'MANIFEST'));
  });

  test('the log', async () => {
    const directory = await storeAt(scratchDirectory());
    const log = filesOf(directory).find((file) => file.endsWith('.log'))!;
    editHeader(log, 4096, 8, 2);
    await expectVersionError(directory, log);
  });

  test('the checkpoint', async () => {
    const directory = scratchDirectory();
    const db = await ConcordPool.open(directory, { shards: 1 });
    await db.put('a', '1');
    await db.host!.checkpointAll();
    await db.close();
    const checkpoint = filesOf(directory).find((file) => file.endsWith('.ckpt'))!;
    editHeader(checkpoint, 128, 8, 2);
    await expectVersionError(directory, checkpoint);
  });
});

describe('what is missing is ERR_CORRUPT and never taken for empty:', () => {
  test('the manifest', async () => {
    const directory = await storeAt(scratchDirectory());
    rmSync(join(directory, 'MANIFEST'));
    expect(await failureOf(ConcordPool.open(directory))).toMatchObject({ code: 'ERR_CORRUPT' });
  });

  test.each([true, false])('the directory of a shard (readOnly %s)', async (readOnly) => {
    const directory = await storeAt(scratchDirectory(), { shards: 3 });
    const lost = join(directory, 'shard-0001');
    renameSync(lost, join(scratchDirectory(), 'elsewhere'));
    const failure = await failureOf(ConcordPool.open(directory, { readOnly }));
    expect(failure).toMatchObject({ code: 'ERR_CORRUPT' });
    expect(failure.message).toContain(lost);
    expect(await ConcordPool.verify(directory)).toMatchObject({ ok: false, problems: [{ code: 'ERR_CORRUPT' }] });
  });

  test('the log of a shard', async () => {
    const directory = await storeAt(scratchDirectory(), { shards: 2 });
    for (const file of filesOf(join(directory, 'shard-0000'))) if (file.endsWith('.log')) rmSync(file);
    expect(await failureOf(ConcordPool.open(directory))).toMatchObject({ code: 'ERR_CORRUPT' });
    expect((await ConcordPool.verify(directory)).ok).toBe(false);
  });

  /** A store whose checkpoint is lost; so much of the log behind it was kept for feeds. */
  async function withoutCheckpoint(retainBytes: number): Promise<string> {
    const directory = scratchDirectory();
    const db = await ConcordPool.open(directory, { shards: 1, segmentBytes: 262144, feed: { retainBytes } });
    for (let i = 0; i < 40; i++) await db.put(`k${i}`, 'v'.repeat(30_000), { durability: 'os' });
    await db.host!.checkpointAll();
    for (let i = 0; i < 40; i++) await db.put(`k${i}`, 'w'.repeat(30_000), { durability: 'os' });
    await db.host!.checkpointAll();
    await db.close();
    rmSync(filesOf(directory).find((file) => file.endsWith('.ckpt'))!);
    return directory;
  }

  test.each([
    ['all', 64 << 20],
    ['a part', 1 << 20],
  ])('the checkpoint, with %s of the log before it there: opened whole or not at all', async (_, retainBytes) => {
    const directory = await withoutCheckpoint(retainBytes);
    if (retainBytes === 1 << 20) {
      expect(await failureOf(ConcordPool.open(directory))).toMatchObject({ code: 'ERR_CORRUPT' });
      return;
    }
    const db = await ConcordPool.open(directory);
    for (let i = 0; i < 40; i++) expect(db.getSync(`k${i}`)).toBe('w'.repeat(30_000));
    expect(await db.count()).toBe(40);
    await db.close();
  });

  test('the checkpoint that the log continues', async () => {
    const directory = await withoutCheckpoint(0);
    expect(await failureOf(ConcordPool.open(directory))).toMatchObject({
      code: 'ERR_CORRUPT',
      details: { file: expect.any(String) as string },
    });
    expect((await ConcordPool.verify(directory)).ok).toBe(false);
  });

  test('a shard that was exchanged for that of another store', async () => {
    const directory = await storeAt(scratchDirectory());
    const other = await storeAt(scratchDirectory());
    rmSync(join(directory, 'shard-0000'), { recursive: true });
    renameSync(join(other, 'shard-0000'), join(directory, 'shard-0000'));
    expect(await failureOf(ConcordPool.open(directory))).toMatchObject({
      code: 'ERR_CORRUPT',
      message: expect.stringContaining('store') as string,
    });
  });

  test('two shards that changed places', async () => {
    const directory = await storeAt(scratchDirectory(), { shards: 2 });
    renameSync(join(directory, 'shard-0000'), join(directory, 'x'));
    renameSync(join(directory, 'shard-0001'), join(directory, 'shard-0000'));
    renameSync(join(directory, 'x'), join(directory, 'shard-0001'));
    expect(await failureOf(ConcordPool.open(directory))).toMatchObject({
      code: 'ERR_CORRUPT',
      message: expect.stringContaining('shard') as string,
    });
  });
});

describe('checkpoint to a directory', () => {
  test('that is not empty is ERR_EXISTS, that cannot be made is ERR_IO', async () => {
    const root = scratchDirectory();
    const db = await ConcordPool.open(join(root, 'store'), { shards: 1 });
    await db.put('a', '1');
    expect(await failureOf(db.checkpoint(root))).toMatchObject({ code: 'ERR_EXISTS' });
    expect(await failureOf(db.checkpoint(join(root, 'store')))).toMatchObject({ code: 'ERR_EXISTS' });
    writeFileSync(join(root, 'file'), '');
    expect(await failureOf(db.checkpoint(join(root, 'file', 'below')))).toMatchObject({ code: 'ERR_IO' });
    await db.checkpoint(join(root, 'copy'));
    expect(await failureOf(db.checkpoint(join(root, 'copy')))).toMatchObject({ code: 'ERR_EXISTS' });
    await db.close();
    const copy = await ConcordPool.open(join(root, 'copy'));
    expect(await copy.iterator().all()).toEqual([['a', '1']]);
    await copy.close();
  });

  test('of a store in memory makes one that can be opened', async () => {
    const root = scratchDirectory();
    const db = await ConcordPool.open(':memory:', { shards: 2 });
    for (let i = 0; i < 50; i++) await db.put(`k${i}`, String(i));
    await db.checkpoint(join(root, 'copy'));
    const entries = await db.iterator().all();
    await db.close();
    const copy = await ConcordPool.open(join(root, 'copy'));
    expect(await copy.iterator().all()).toEqual(entries);
    expect(copy.stats().shards).toHaveLength(2);
    await copy.close();
  });
});

test('restore copies a closed store, refuses a full target, and verifies', async () => {
  const root = scratchDirectory();
  await storeAt(join(root, 'from'), { shards: 2 });
  expect(await ConcordPool.restore(join(root, 'from'), join(root, 'to'))).toMatchObject({
    ok: true,
    problems: [],
    shards: 2,
    entries: 1,
  });
  expect(await failureOf(ConcordPool.restore(join(root, 'from'), join(root, 'to')))).toMatchObject({
    code: 'ERR_EXISTS',
  });
  expect(await failureOf(ConcordPool.restore(join(root, 'none'), join(root, 'to2')))).toMatchObject({
    code: 'ERR_NOT_FOUND',
  });
  const copy = await ConcordPool.open(join(root, 'to'));
  expect(await copy.iterator().all()).toEqual([['a', '1']]);
  await copy.close();
});
