/** Stores with LSM-Trees whose files are damaged: what ConcordPool.verify, repair and restore make of them. */
import { createHash } from 'node:crypto';
import { cpSync, existsSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { ConcordPool, type PoolOptions } from '../../../../dist/index.js';
import { blobName, tableName } from '../../../../dist/engines/lsm/manifest/names.js';
import { removeLeftovers, stateOfTree } from '../../../support/lsm-files.js';
import { makeDirectory, removeDirectory } from '../../../support/pool-scene.js';

const OPTIONS: PoolOptions = { memoryBytes: 128 << 20, shards: 1 };
/** Tables so small that no merge puts all entries into one. */
const TREE = {
  engine: 'lsm',
  lsm: { memtableBytes: 1 << 20, tableBytes: 256 << 10, blobValueBytes: 3000, compression: 'none' },
} as const;

type Content = Map<string, string>;

let directory: string;
let made: string;
let content: { tree: Content; plain: Content };
let copies = 0;

async function contentOf(path: string): Promise<{ tree: Content; plain: Content }> {
  const db = await ConcordPool.open(path, { ...OPTIONS, createIfMissing: false });
  try {
    expect(await db.host!.check()).toEqual([]);
    const space = await db.space('tree', TREE);
    return { tree: new Map(await space.iterator().all()), plain: new Map(await db.iterator().all()) };
  } finally {
    await db.close();
  }
}

beforeAll(async () => {
  directory = makeDirectory();
  made = join(directory, 'made');
  const db = await ConcordPool.open(made, OPTIONS);
  const space = await db.space('tree', TREE);
  const tree: Content = new Map();
  const plain: Content = new Map();
  const puts: Promise<unknown>[] = [];
  for (let i = 0; i < 9000; i++) {
    const key = `key-${String((i * 7919) % 6000).padStart(6, '0')}`;
    const value = i % 97 === 0 ? `large ${i} `.repeat(400) : `value ${i} `.repeat(30);
    tree.set(key, value);
    puts.push(space.put(key, value));
    if (i % 10 === 0) {
      plain.set(`plain-${i}`, `${i}`);
      puts.push(db.put(`plain-${i}`, `${i}`));
    }
    if (i % 1000 === 999) {
      await Promise.all(puts);
      puts.length = 0;
    }
    if (i === 7000) {
      await Promise.all(puts);
      await db.host!.checkpointAll();
    }
  }
  for (let i = 0; i < 6000; i += 11) {
    const key = `key-${String(i).padStart(6, '0')}`;
    tree.delete(key);
    puts.push(space.del(key));
  }
  await Promise.all(puts);
  await db.close();
  // Without a manifest a table that a merge has left would bring back what the merge has dropped.
  removeLeftovers(treeIn(join(made, 'shard-0000')));
  content = { tree, plain };
});

afterAll(() => {
  removeDirectory(directory);
});

/** The one tree of a shard. */
function treeIn(shard: string): string {
  return join(
    shard,
    readdirSync(shard).find((inner) => inner.startsWith('lsm-'))!,
  );
}

/** A copy to be damaged: its path, and that of its one tree. */
function copy(): { path: string; shard: string; tree: string } {
  const path = join(directory, `copy-${++copies}`);
  cpSync(made, path, { recursive: true });
  const shard = join(path, 'shard-0000');
  return { path, shard, tree: treeIn(shard) };
}

/** Of a content, in few words: what a failing test prints. */
function sumOf({ tree, plain }: { tree: Content; plain: Content }): string {
  const digest = (map: Content): string =>
    createHash('sha1')
      .update(JSON.stringify([...map].sort()))
      .digest('hex');
  return `${tree.size} ${digest(tree)}, ${plain.size} ${digest(plain)}`;
}

function flip(file: string, offset: number): void {
  const bytes = readFileSync(file);
  bytes[offset]! ^= 0x10;
  writeFileSync(file, bytes);
}

const firstOf = (path: string, pattern: RegExp): string =>
  join(
    path,
    readdirSync(path).find((name) => pattern.test(name))!,
  );

/** Others may have a few entries only, whatever background work has made of them. */
function largestTable(tree: string): string {
  const [largest] = [...stateOfTree(tree).tables.values()].sort((a, b) => b.bytes - a.bytes);
  return join(tree, tableName(largest!.number));
}

/** One that a table refers to. */
function firstBlobFile(tree: string): string {
  const [use] = [...stateOfTree(tree).tables.values()].flatMap(({ blobs }) => blobs);
  return join(tree, blobName(use!.file));
}

/** Every entry that is there is one that was, and so many at most are missing. Of tables that are lost older versions may show. */
function expectMost(found: Content, lostMax: number): void {
  let missing = 0;
  let other = 0;
  for (const [key, value] of content.tree) {
    if (!found.has(key)) missing++;
    else if (found.get(key) !== value) other++;
  }
  expect(missing + other).toBeLessThanOrEqual(lostMax);
  for (const [key, value] of found) expect(value.startsWith('value ') || value.startsWith('large '), key).toBe(true);
}

async function repaired(
  path: string,
): Promise<{ losses: readonly { message: string }[]; found: { tree: Content; plain: Content } }> {
  const report = await ConcordPool.repair(path);
  expect(existsSync(report.backup)).toBe(true);
  expect(await ConcordPool.verify(path)).toMatchObject({ ok: true, problems: [] });
  const found = await contentOf(path);
  expect(await ConcordPool.verify(path)).toMatchObject({ ok: true });
  return { losses: report.losses, found };
}

describe('a store with an LSM-Tree', () => {
  test('is sound, and a repair changes nothing that one can read', async () => {
    const { path } = copy();
    expect(await ConcordPool.verify(path)).toMatchObject({ ok: true, problems: [] });
    const { losses, found } = await repaired(path);
    expect(losses).toEqual([]);
    expect(sumOf(found)).toBe(sumOf(content));
  });

  test('is restored with its tree', async () => {
    const { path } = copy();
    const target = join(directory, `restored-${copies}`);
    expect(await ConcordPool.restore(path, target)).toMatchObject({ ok: true });
    expect(sumOf(await contentOf(target))).toBe(sumOf(content));
  });

  test('whose table is damaged: verify names it, repair loses a block', async () => {
    const { path, tree } = copy();
    const table = largestTable(tree);
    flip(table, 5000);
    const report = await ConcordPool.verify(path);
    expect(report.ok).toBe(false);
    expect(report.problems.map(({ details }) => details['file'])).toContain(table);
    const { losses, found } = await repaired(path);
    expect(losses.map(({ message }) => message).join()).toContain('lost: entries of keys');
    expectMost(found.tree, 100);
    expect(found.plain).toEqual(content.plain);
  });

  test('whose table is gone: verify names it, repair keeps the others', async () => {
    const { path, tree } = copy();
    const table = largestTable(tree);
    rmSync(table);
    const report = await ConcordPool.verify(path);
    expect(report.problems.map(({ details }) => details['file'])).toContain(table);
    const { losses, found } = await repaired(path);
    expect(losses.length).toBeGreaterThan(0);
    expect(found.tree.size).toBeGreaterThan(1000);
    expect(found.plain).toEqual(content.plain);
  });

  test('whose manifest is gone or damaged: repair brings back everything', async () => {
    for (const damage of [
      (tree: string) => rmSync(join(tree, 'CURRENT')),
      (tree: string) => rmSync(firstOf(tree, /^MANIFEST/)),
      (tree: string) => flip(firstOf(tree, /^MANIFEST/), 90),
    ]) {
      const { path, tree } = copy();
      damage(tree);
      expect((await ConcordPool.verify(path)).ok).toBe(false);
      const { losses, found } = await repaired(path);
      expect(losses.length, tree).toBeGreaterThan(0);
      expect(sumOf(found)).toBe(sumOf(content));
    }
  });

  test('whose blob file is gone: the other values stay', async () => {
    const { path, tree } = copy();
    rmSync(firstBlobFile(tree));
    expect((await ConcordPool.verify(path)).ok).toBe(false);
    const { losses, found } = await repaired(path);
    expect(losses.map(({ message }) => message).join()).toContain('lost: the value of');
    expectMost(found.tree, 100);
  });

  test('whose checkpoint is damaged: the tree is found all the same', async () => {
    const { path, shard } = copy();
    flip(firstOf(shard, /\.ckpt$/), 200);
    expect((await ConcordPool.verify(path)).ok).toBe(false);
    const { losses, found } = await repaired(path);
    expect(losses.length).toBeGreaterThan(0);
    expect(sumOf({ ...content, tree: found.tree })).toBe(sumOf(content));
  });

  test('of which neither checkpoint nor manifest says whose the tree is: the report says that it is lost', async () => {
    const { path, shard, tree } = copy();
    flip(firstOf(shard, /\.ckpt$/), 200);
    rmSync(firstOf(tree, /^MANIFEST/));
    const { losses } = await ConcordPool.repair(path);
    expect(losses.map(({ message }) => message).join()).toMatch(/whose \d+ tables these are; lost: all of them/);
  });

  test('whose log is damaged: what is in tables stays', async () => {
    const { path, shard } = copy();
    flip(firstOf(shard, /^wal-.*\.log$/), 5000);
    const { found } = await repaired(path);
    expect(found.tree.size).toBeGreaterThan(4000);
  });
});
