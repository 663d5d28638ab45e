/** The directory goes to another owner, or away, while the store is open: it stops writing, says so, and reads go on. */
import * as fs from 'node:fs';
import * as path from 'node:path';
import { afterEach, expect, test } from 'vitest';
import { ConcordPool } from '../../dist/index.js';
import { keysOfShard } from '../support/pool-scene.js';
import { newDirectory, removeDirectory, until } from './scene.js';

const SHARDS = 2;
const directories: string[] = [];

function freshDirectory(): string {
  const directory = newDirectory();
  directories.push(directory);
  return directory;
}

afterEach(() => {
  for (const directory of directories.splice(0)) removeDirectory(directory);
});

/** As a process that could not see this one alive takes the directory: see directory-lock.ts. */
function takeByAnother(directory: string): string {
  const lock = path.join(directory, 'LOCK');
  const other = { ...(JSON.parse(fs.readFileSync(lock, 'utf8')) as object), token: 'e'.repeat(32) };
  const content = `${JSON.stringify(other)}\n`;
  fs.writeFileSync(`${lock}.other`, content);
  fs.renameSync(`${lock}.other`, lock);
  return content;
}

interface Scene {
  readonly db: ConcordPool;
  readonly keys: readonly string[];
  readonly failures: { shard: number; code: string }[];
  readonly coordinator: string[];
}

async function openScene(directory: string): Promise<Scene> {
  const db = await ConcordPool.open(directory, { shards: SHARDS, memoryBytes: 32 << 20 });
  const failures: Scene['failures'] = [];
  const coordinator: string[] = [];
  db.events.on('shard-failed', ({ shard, error }) => failures.push({ shard, code: error.code }));
  db.events.on('coordinator-failed', ({ error }) => coordinator.push(error.code));
  const keys = Array.from({ length: SHARDS }, (_, shard) => keysOfShard(shard, SHARDS, 1, 'key')[0]!);
  for (const key of keys) await db.put(key, `value of ${key}`);
  return { db, keys, failures, coordinator };
}

async function expectStopped({ db, keys, failures, coordinator }: Scene): Promise<void> {
  await until('the loss is noticed', () => failures.length === SHARDS && coordinator.length === 1);
  failures.sort((a, b) => a.shard - b.shard);
  expect(failures).toEqual(Array.from({ length: SHARDS }, (_, shard) => ({ shard, code: 'ERR_LOCKED' })));
  expect(coordinator).toEqual(['ERR_LOCKED']);
  for (const key of keys) {
    await expect(db.put(key, 'too late')).rejects.toMatchObject({ code: 'ERR_SHARD_FAILED' });
    expect(db.getSync(key)).toBe(`value of ${key}`);
  }
  await expect(db.batch(keys.map((key) => ({ type: 'put', key, value: 'too late' })))).rejects.toMatchObject({
    code: expect.stringMatching(/^ERR_(SHARD_FAILED|COORDINATOR)/) as string,
  });
  await expect(db.space('late', { engine: 'hash' }).ready).rejects.toMatchObject({ code: 'ERR_LOCKED' });
}

function bytesBelow(directory: string): Map<string, string> {
  const entries = fs.readdirSync(directory, { recursive: true, withFileTypes: true });
  const files = entries.filter((entry) => entry.isFile()).map((entry) => path.join(entry.parentPath, entry.name));
  return new Map(files.sort().map((file) => [file, fs.readFileSync(file, 'latin1')]));
}

test("another owner's directory is not written to", async () => {
  const directory = freshDirectory();
  const scene = await openScene(directory);
  const lock = takeByAnother(directory);
  await until('the loss is noticed', () => scene.failures.length === SHARDS);
  const before = bytesBelow(directory);
  await expectStopped(scene);
  await scene.db.close();
  expect(fs.readFileSync(path.join(directory, 'LOCK'), 'utf8')).toBe(lock);
  expect(bytesBelow(directory)).toEqual(before);
  fs.rmSync(path.join(directory, 'LOCK'));
  await using again = await ConcordPool.open(directory);
  for (const key of scene.keys) expect(again.getSync(key)).toBe(`value of ${key}`);
});

test('a directory that was removed takes no writes, and does not come back', async () => {
  const directory = freshDirectory();
  const scene = await openScene(directory);
  fs.rmSync(directory, { recursive: true });
  await expectStopped(scene);
  await scene.db.close();
  expect(fs.existsSync(directory)).toBe(false);
});

test('a store that is closed while its threads are ended for the loss', async () => {
  const directory = freshDirectory();
  const { db } = await openScene(directory);
  // The coordinator is ended behind the shards.
  const closed = new Promise<void>((resolve, reject) => {
    db.events.once('shard-failed', () => void db.close().then(resolve, reject));
  });
  const lock = takeByAnother(directory);
  await closed;
  expect(fs.readFileSync(path.join(directory, 'LOCK'), 'utf8')).toBe(lock);
});

test('a directory that is lost while the store is being opened', async () => {
  const directory = freshDirectory();
  const { db } = await openScene(directory);
  await db.close();
  const opening = ConcordPool.open(directory, { shards: SHARDS });
  await until('it has the lock', () => fs.existsSync(path.join(directory, 'LOCK')));
  const lock = takeByAnother(directory);
  // It is found out before the store is there, or a second later.
  const opened = await opening.catch((error: { code: string }) => error.code);
  if (typeof opened === 'string') {
    expect(opened).toBe('ERR_LOCKED');
  } else {
    await until('the loss is noticed', () => opened.stats().shards.every(({ state }) => state === 'failed'));
    await opened.close();
  }
  expect(fs.readFileSync(path.join(directory, 'LOCK'), 'utf8')).toBe(lock);
});
