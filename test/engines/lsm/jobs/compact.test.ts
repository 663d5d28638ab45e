/** A compaction's files: where they are cut, that none is left when something goes wrong, and what becomes of damaged inputs. */
import { posix } from 'node:path';
import { describe, expect, it } from 'vitest';
import { TreeView } from '../../../../dist/engines/lsm/compaction/tree-view.js';
import { tasksOf } from '../../../../dist/engines/lsm/compaction/split.js';
import { runCompaction } from '../../../../dist/engines/lsm/jobs/compact.js';
import { tableName } from '../../../../dist/engines/lsm/manifest/names.js';
import type { CompactionTask, LsmJobResult, LsmOptions } from '../../../../dist/engines/lsm/types.js';
import type { Env } from '../../../../dist/shared/env/env.js';
import { FaultEnv } from '../../../../dist/shared/env/fault-env.js';
import { MemEnv } from '../../../../dist/shared/env/mem-env.js';
import { Random } from '../../../../dist/shared/random.js';
import { DIRECTORY, IDENTITY, TINY, Tree } from './scene.js';

const keyOf = (index: number): string => `key${String(index).padStart(5, '0')}`;

/** Three runs over each other, some of it in blob files if the options say so. */
function treeOf(env: Env, options: LsmOptions = TINY, entries = 60): Tree {
  const tree = new Tree(env, options);
  for (let run = 0; run < 3; run++) {
    for (let index = 0; index < entries; index++) tree.put(keyOf(3 * index + run), 'x'.repeat(40 + (index % 5) * 60));
    tree.flush();
  }
  return tree;
}

function taskOf(tree: Tree, changes: Partial<CompactionTask> = {}): CompactionTask {
  const view = new TreeView({ state: tree.pickState(), options: tree.options, busy: [] });
  const plan = view.planFor('manual', 1, [...tree.tables.values()], 6, false)!;
  const [task] = tasksOf(
    plan,
    {
      directory: DIRECTORY,
      identity: IDENTITY,
      options: tree.options,
      snapshots: [],
      tombstones: tree.tombstones,
      nowMs: tree.nowMs,
      takeFiles: (count) => tree.takeFiles(count),
      cancel: new Int32Array(1),
      rate: undefined,
    },
    1,
  );
  return { ...task!, ...changes };
}

function keysOf(tree: Tree, result: LsmJobResult): string[][] {
  return result.tables.map((table) => tree.entries(table).map(([key]) => key));
}

function codeOf(work: () => unknown): unknown {
  try {
    work();
    return undefined;
  } catch (error) {
    return (error as { code: unknown }).code;
  }
}

describe('tables of a compaction', () => {
  it('have about tableBytes, and all versions of a key in one', () => {
    const tree = new Tree(new MemEnv(), TINY);
    for (let version = 0; version < 40; version++) {
      for (let index = 0; index < 10; index++) tree.put(keyOf(index), 'x'.repeat(50));
      tree.snapshots.push({ seq: tree.seq, atMs: tree.nowMs });
    }
    tree.flush();
    const task = taskOf(tree, { snapshots: tree.snapshots.map(({ seq }) => seq) });
    const result = runCompaction(tree.env, task);
    const keys = keysOf(tree, result);
    expect(keys.flat().length).toBe(400);
    expect(keys.map((table) => new Set(table).size)).toEqual(new Array(10).fill(1));
    const small = runCompaction(tree.env, { ...task, snapshots: [], firstFile: tree.takeFiles(50) });
    expect(keysOf(tree, small).flat().length).toBe(10);
  });

  it('end early where a table of the next level does, and before they overlap too many', () => {
    const tree = treeOf(new MemEnv(), { ...TINY, tableBytes: 4000 });
    const grandparents = [30, 60, 90, 120, 150].map((last) => ({
      ...tree.tables.get(1)!,
      smallestKey: Buffer.from(keyOf(last - 29)),
      largestKey: Buffer.from(keyOf(last)),
      bytes: 100_000,
    }));
    const result = runCompaction(tree.env, taskOf(tree, { grandparents }));
    const lasts = keysOf(tree, result).map((keys) => keys.at(-1)!);
    for (const last of [30, 60, 90, 120, 150]) expect(lasts).toContain(keyOf(last));
  });

  it('end at the bounds of range tombstones', () => {
    const tree = treeOf(new MemEnv(), { ...TINY, tableBytes: 1 << 20 });
    const tombstones = [{ seq: 1, low: Buffer.from(keyOf(50)), high: Buffer.from(keyOf(80)) }];
    const keys = keysOf(tree, runCompaction(tree.env, taskOf(tree, { tombstones })));
    expect(keys.map((table) => [table[0], table.at(-1)])).toEqual([
      [keyOf(0), keyOf(49)],
      [keyOf(50), keyOf(79)],
      [keyOf(80), keyOf(179)],
    ]);
  });

  it('grow when numbers of files are used up', () => {
    const tree = treeOf(new MemEnv());
    const result = runCompaction(tree.env, taskOf(tree, { files: 3, firstFile: 900 }));
    expect(result.tables.map(({ number }) => number)).toEqual([900, 901]);
    expect(keysOf(tree, result).flat().length).toBe(180);
  });

  it('keep the age of their oldest input, and count what was read and written', () => {
    const tree = treeOf(new MemEnv());
    const first = tree.tables.get(1)!;
    tree.tables.set(1, { ...first, createdAt: 5 });
    const written: number[] = [];
    const result = runCompaction(tree.env, taskOf(tree), (bytes) => written.push(bytes));
    expect(result.tables.every(({ createdAt }) => createdAt === 5)).toBe(true);
    expect(result).toMatchObject({ entriesIn: 180, entriesOut: 180 });
    const bytes = result.tables.reduce((sum, table) => sum + table.bytes, 0);
    expect(result.writtenBytes).toBe(bytes);
    expect(written.at(-1)).toBe(bytes);
    expect(result.readBytes).toBeGreaterThan(bytes / 2);
  });
});

describe('a compaction that fails', () => {
  it('because the disk does, at whatever call, says so with a code and leaves no file', () => {
    let failures = 0;
    const options = { ...TINY, blobValueBytes: 200, blobFileBytes: 2000 };
    for (const operation of ['open', 'read', 'write', 'sync', 'close', 'syncDirectory'] as const) {
      for (let after = 0; ; after++) {
        const env = new FaultEnv(new MemEnv());
        const tree = treeOf(env, options, 30);
        const before = tree.files();
        const task = taskOf(tree, { collectBlobs: [...tree.blobs.keys()] });
        const rule = env.addRule({ operation, after, times: 1, error: operation === 'read' ? 'EIO' : 'ENOSPC' });
        const code = codeOf(() => runCompaction(env, task));
        rule.remove();
        if (rule.firedCount === 0) break;
        failures++;
        // A file that was only read and does not close has done its work.
        const isHarmless = operation === 'close' && code === undefined;
        if (isHarmless) continue;
        expect([operation, after, code]).toEqual([operation, after, operation === 'read' ? 'ERR_IO' : 'ERR_DISK_FULL']);
        expect(tree.files()).toEqual(before);
      }
    }
    expect(failures).toBeGreaterThan(40);
  });

  it('because it was cancelled leaves no file', () => {
    const tree = treeOf(new MemEnv(), TINY, 200);
    const before = tree.files();
    const cancel = new Int32Array(1);
    let chunks = 0;
    const work = (): unknown =>
      runCompaction(tree.env, taskOf(tree, { cancel }), () => {
        if (++chunks === 5) cancel[0] = 1;
      });
    expect(codeOf(work)).toBe('ERR_CLOSED');
    expect(chunks).toBe(5);
    expect(tree.files()).toEqual(before);
    expect(codeOf(() => runCompaction(tree.env, taskOf(tree, { cancel })))).toBe('ERR_CLOSED');
    expect(tree.files()).toEqual(before);
  });

  it('because an input is damaged names the file, or the damage changes nothing', () => {
    const random = new Random(5);
    for (let round = 0; round < 60; round++) {
      const tree = treeOf(new MemEnv(), TINY, 20);
      const before = tree.files();
      const expected = runCompaction(tree.env, taskOf(tree));
      const expectedKeys = keysOf(tree, expected);
      for (const table of expected.tables) tree.env.remove(posix.join(DIRECTORY, tableName(table.number)));
      const victim = 1 + random.below(3);
      const path = posix.join(DIRECTORY, tableName(victim));
      const file = tree.env.open(path, 'write');
      const at = random.below(file.size());
      const byte = new Uint8Array(1);
      file.read(byte, 0, 1, at);
      byte[0]! ^= 1 << random.below(8);
      file.write(byte, 0, 1, at);
      file.close();
      let result: LsmJobResult | undefined;
      let error: { code?: string; message?: string } = {};
      try {
        result = runCompaction(tree.env, taskOf(tree));
      } catch (caught) {
        error = caught as typeof error;
      }
      if (result === undefined) {
        expect(['ERR_CORRUPT', 'ERR_FORMAT_VERSION']).toContain(error.code);
        expect(error.message).toContain(tableName(victim));
        expect(tree.files()).toEqual(before);
      } else expect(keysOf(tree, result)).toEqual(expectedKeys);
    }
  });

  it('because an input is missing says which', () => {
    const tree = treeOf(new MemEnv());
    const task = taskOf(tree);
    tree.env.remove(posix.join(DIRECTORY, tableName(2)));
    expect(() => runCompaction(tree.env, task)).toThrow(tableName(2));
  });
});

describe('the values of collected blob files', () => {
  it('move to new files, and the old ones are not needed any more', () => {
    const options = { ...TINY, blobValueBytes: 200, blobFileBytes: 4000, tableBytes: 1 << 20 };
    const tree = treeOf(new MemEnv(), options);
    const old = [...tree.blobs.keys()];
    expect(old.length).toBe(3);
    const [collected] = old;
    const result = runCompaction(tree.env, taskOf(tree, { collectBlobs: [collected!] }));
    const uses = result.tables.flatMap((table) => table.blobs.map(({ file }) => file));
    expect(uses).not.toContain(collected);
    expect(uses).toContain(old[1]);
    expect(result.blobs.length).toBeGreaterThan(0);
    for (const blob of result.blobs) {
      tree.blobs.set(blob.number, blob);
      const used = result.tables.flatMap((table) => table.blobs).filter(({ file }) => file === blob.number);
      expect(used.reduce((sum, { bytes }) => sum + bytes, 0)).toBe(blob.recordBytes);
    }
    tree.blobs.delete(collected!);
    tree.tables.clear();
    for (const table of result.tables) tree.tables.set(table.number, table);
    tree.checkReads();
  });

  it('go into tables when the threshold is higher now', () => {
    const options = { ...TINY, blobValueBytes: 200, tableBytes: 1 << 20 };
    const tree = treeOf(new MemEnv(), options);
    const result = runCompaction(
      tree.env,
      taskOf(tree, { collectBlobs: [...tree.blobs.keys()], blobValueBytes: Infinity }),
    );
    expect(result.blobs).toEqual([]);
    expect(result.tables.every((table) => table.blobs.length === 0)).toBe(true);
    tree.tables.clear();
    for (const table of result.tables) tree.tables.set(table.number, table);
    tree.checkReads();
  });

  it('that are large move piece by piece', () => {
    const tree = new Tree(new MemEnv(), { ...TINY, blobValueBytes: 1000, blobFileBytes: 1 << 22 });
    const value = Array.from({ length: 150_000 }, (_, index) => `${index} `).join('');
    for (const key of ['a', 'b']) tree.put(key, key + value);
    tree.flush();
    const [old] = tree.blobs.keys();
    const result = runCompaction(tree.env, taskOf(tree, { collectBlobs: [old!] }));
    for (const blob of result.blobs) tree.blobs.set(blob.number, blob);
    tree.tables.clear();
    for (const table of result.tables) tree.tables.set(table.number, table);
    tree.blobs.delete(old!);
    tree.checkReads();
  });
});
