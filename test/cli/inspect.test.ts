/** concordkv inspect: what it prints of sound files, and that damage ends in a report and exit code 4. */
import { cpSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import { Durability, ShardStore } from '../../dist/engines/store/shard-store.js';
import { ConcordPool } from '../../dist/index.js';
import { NodeEnv } from '../../dist/shared/env/node-env.js';
import { createArena } from '../../dist/shared/memory/arena.js';
import { removeLeftovers } from '../support/lsm-files.js';
import { SHARD, STORE_ID } from '../support/store-scene.js';
import { appendPrepare, commitGroup } from '../txn/store/workload.js';
import type { Write } from '../txn/store/workload.js';
import { run, temporaryDirectory } from './command.js';

const directory = temporaryDirectory();
const store = join(directory, 'store');
const shard = join(store, 'shard-0000');
const tree = join(shard, 'lsm-1');
let copies = 0;

function fileOf(where: string, pattern: RegExp): string {
  const name = readdirSync(where).find((inner) => pattern.test(inner));
  if (name === undefined) throw new Error(`no ${String(pattern)} in ${where}: ${readdirSync(where).join(' ')}`);
  return join(where, name);
}

/** A copy of the tree's or the shard's directory that may be damaged. */
function copyOf(where: string): string {
  const target = join(directory, `copy-${++copies}`);
  cpSync(where, target, { recursive: true });
  return target;
}

function flip(file: string, offset: number): void {
  const bytes = readFileSync(file);
  bytes[offset]! ^= 0x20;
  writeFileSync(file, bytes);
}

beforeAll(async () => {
  const db = await ConcordPool.open(store, { shards: 1, memoryBytes: 64 << 20 });
  const lsm = await db.space('tree', { engine: 'lsm', lsm: { memtableBytes: 1 << 20, blobValueBytes: 3000 } });
  const paged = await db.space('paged', { engine: 'btree', budgetBytes: 1 << 20 });
  const puts: Promise<unknown>[] = [];
  for (let i = 0; i < 4000; i++) {
    const key = `key-${String(i).padStart(5, '0')}`;
    puts.push(lsm.put(key, i % 200 === 0 ? 'large '.repeat(1000) : 'value '.repeat(80)));
    puts.push(db.put(key, `plain ${i}`));
    puts.push(paged.put(key, 'paged '.repeat(150)));
    if (i % 500 === 499) await Promise.all(puts.splice(0));
  }
  await Promise.all(puts);
  // All of the tree is in tables, and there is nothing to merge any more.
  await lsm.compact({ gte: 'key-' });
  await db.put('behind', 'all others');
  await db.host!.checkpointAll();
  await db.put('behind', 'the checkpoint');
  await db.close();
  // Tables that were merged before; of the others every one counts.
  removeLeftovers(tree);
});

describe.concurrent('inspect of sound files', () => {
  test('sst prints a table, its blocks and entries', async () => {
    const path = fileOf(tree, /\.sst$/);
    const { code, stdout } = await run(['inspect', 'sst', path, '--blocks', '--entries', '--limit', '3']);
    expect(code).toBe(0);
    for (const word of ['table ', 'filter', 'false positives', 'block at', 'lz4', '"key-00000"', 'blob', 'sound']) {
      expect(stdout).toContain(word);
    }
    const json = await run(['inspect', 'sst', path, '--json', '--entries', '--limit', '2']);
    const facts = JSON.parse(json.stdout) as { info: { smallestKey: string }; entries: unknown[]; problems: unknown[] };
    expect(Buffer.from(facts.info.smallestKey, 'hex').toString()).toMatch(/^key-\d{5}$/);
    expect(facts).toMatchObject({ entries: [{}, {}], problems: [] });
  });

  test('sst prints a blob file', async () => {
    const { code, stdout } = await run(['inspect', 'sst', fileOf(tree, /\.blob$/), '--entries']);
    expect(code).toBe(0);
    expect(stdout).toMatch(/blob file \d+ of tree 1/);
    expect(stdout).toContain('"key-00000"');
  });

  test('manifest prints the state and the edits, by directory and by file', async () => {
    for (const path of [tree, fileOf(tree, /^MANIFEST/)]) {
      const { code, stdout } = await run(['inspect', 'manifest', path, '--edits']);
      expect(code).toBe(0);
      for (const word of ['of tree 1', 'sealed', 'stored up to', 'frame', '+tables', 'sound'])
        expect(stdout).toContain(word);
    }
    const { stdout } = await run(['inspect', 'manifest', tree, '--json']);
    expect(JSON.parse(stdout)).toMatchObject({ isSealed: true, cut: null, problems: [] });
  });

  test('wal prints segments and records, by file, shard and store', async () => {
    for (const path of [fileOf(shard, /^wal-.*\.log$/), shard, store]) {
      const { code, stdout } = await run(['inspect', 'wal', path, '--frames']);
      expect(code).toBe(0);
      for (const word of ['segment ', 'records ', 'synced up to', 'sound']) expect(stdout).toContain(word);
    }
  });

  test('wal prints what the log says of transactions over several shards', async () => {
    const path = join(directory, 'shard-with-transactions');
    const env = new NodeEnv();
    const options = { env, directory: path, storeId: STORE_ID, shard: SHARD, isNew: true };
    const opened = ShardStore.open({ ...options, arena: createArena({ memoryBytes: 4 << 20 }) });
    const writes: readonly Write[] = [
      { space: 0, key: 'a', value: Buffer.from('1') },
      { space: 0, key: 'b', value: undefined },
    ];
    const group = (firstSeq: number, build: () => void): void => {
      opened.beginGroup();
      build();
      commitGroup(opened, Durability.Os, firstSeq);
    };
    group(1, () => {
      appendPrepare(opened, 7001, writes);
    });
    group(2, () => {
      appendPrepare(opened, 7002, [{ space: 0, key: 'c', value: undefined }]);
    });
    group(4, () => {
      opened.addResolve(7001, 3);
      opened.addResolve(7002, 0);
    });
    opened.close();
    const { code, stdout } = await run(['inspect', 'wal', path, '--frames']);
    expect(code).toBe(0);
    expect(stdout).toMatch(/^ *1 +7,?001 +prepared +2 +0 1 +0$/m);
    expect(stdout).toMatch(/^ *3 +7,?001 +committed +3$/m);
    expect(stdout).toMatch(/^ *3 +7,?002 +given up$/m);
    const json = await run(['inspect', 'wal', fileOf(path, /^wal-.*\.log$/), '--frames', '--json']);
    expect((JSON.parse(json.stdout) as { transactions: unknown }).transactions).toEqual([
      { lsn: 1, id: 7001, what: 'prepared', writes: 2, shards: [0, 1], client: 0 },
      { lsn: 2, id: 7002, what: 'prepared', writes: 1, shards: [0, 1], client: 0 },
      { lsn: 3, id: 7001, what: 'committed', number: 3 },
      { lsn: 3, id: 7002, what: 'given up' },
    ]);
  });

  test('page prints a checkpoint, its trees and pages', async () => {
    const path = fileOf(shard, /\.ckpt$/);
    const { code, stdout } = await run(['inspect', 'page', path, '--pages', '--limit', '5']);
    expect(code).toBe(0);
    for (const word of [
      'checkpoint of shard 0',
      '4,001 entries',
      'space 3, btree: in a page file',
      'LSM-Tree 1',
      'page file 1',
      'branch',
      'leaf',
      'sound',
    ]) {
      expect(stdout).toContain(word);
    }
    const page = await run(['inspect', 'page', path, '--page', '2']);
    expect(page.code).toBe(0);
    expect(page.stdout).toContain('page 2: leaf');
    expect(page.stdout).toContain('"key-00000"');
    expect((await run(['inspect', 'page', path, '--page', '99999'])).code).toBe(2);
  });

  test('page prints a page file and one page of it', async () => {
    const path = fileOf(shard, /\.pages$/);
    const listed = await run(['inspect', 'page', path, '--pages', '--json']);
    expect(listed.code).toBe(0);
    const { pages } = JSON.parse(listed.stdout) as { pages: { number: number; kind: string; entries: number }[] };
    const leaf = pages.find(({ kind }) => kind === 'leaf')!;
    expect(leaf.entries).toBeGreaterThan(0);
    const { code, stdout } = await run(['inspect', 'page', path, '--page', String(leaf.number)]);
    expect(code).toBe(0);
    expect(stdout).toMatch(/page \d+: leaf, level 0/);
    expect(stdout).toContain('"key-0');
  });

  test('level prints trees level by level, of a tree, a shard and a store', async () => {
    for (const path of [tree, shard, store]) {
      const { code, stdout } = await run(['inspect', 'level', path, '--tables', '--verify']);
      expect(code).toBe(0);
      for (const word of ['tree 1 of shard 0', 'level', '.sst', '.blob', 'in use', 'sound'])
        expect(stdout).toContain(word);
    }
    const { stdout } = await run(['inspect', 'level', store, '--json']);
    const facts = JSON.parse(stdout) as { trees: { levels: { files: number; entries: number }[] }[] };
    expect(facts.trees[0]!.levels.reduce((sum, { entries }) => sum + entries, 0)).toBeGreaterThan(1000);
  });
});

describe.concurrent('inspect of damaged files', () => {
  async function expectDamage(args: readonly string[], file: string): Promise<void> {
    const { code, stdout } = await run(['inspect', ...args]);
    expect(code, stdout).toBe(4);
    expect(stdout).toContain('ERR_CORRUPT');
    expect(stdout).toContain(file);
    const json = await run(['inspect', ...args, '--json']);
    expect(json.code).toBe(4);
    const { problems } = JSON.parse(json.stdout) as { problems: { code: string; details: { file: string } }[] };
    expect(problems[0]).toMatchObject({ code: 'ERR_CORRUPT', details: { file } });
  }

  test('sst, level and manifest name the file', async () => {
    const copy = copyOf(tree);
    const table = fileOf(copy, /\.sst$/);
    flip(table, 100);
    await expectDamage(['sst', table], table);
    await expectDamage(['level', copy, '--verify'], table);
    flip(table, readFileSync(table).length - 20);
    await expectDamage(['sst', table], table);
    const blob = fileOf(copy, /\.blob$/);
    flip(blob, 100);
    await expectDamage(['sst', blob], blob);
    rmSync(table);
    await expectDamage(['level', copy], table);
    const manifest = fileOf(copy, /^MANIFEST/);
    flip(manifest, 80);
    await expectDamage(['manifest', copy], manifest);
    await expectDamage(['manifest', manifest], manifest);
    await expectDamage(['level', copy], manifest);
    rmSync(join(copy, 'CURRENT'));
    await expectDamage(['manifest', copy], join(copy, 'CURRENT'));
  });

  test('wal and page name the file', async () => {
    const copy = copyOf(shard);
    const log = fileOf(copy, /^wal-.*\.log$/);
    flip(log, 20);
    await expectDamage(['wal', log], log);
    await expectDamage(['wal', copy], log);
    const checkpoint = fileOf(copy, /\.ckpt$/);
    flip(checkpoint, 3000);
    await expectDamage(['page', checkpoint], checkpoint);
    const pages = fileOf(copy, /\.pages$/);
    flip(pages, 8 * 4096 + 1000);
    await expectDamage(['page', pages, '--page', '8'], pages);
    flip(pages, 5);
    await expectDamage(['page', pages], pages);
  });
});

describe.concurrent('inspect with a wrong command line', () => {
  test.each([
    ['a directory in the place of a table', ['sst', tree], 'name a table'],
    ['a file in the place of a tree', ['level', join(tree, 'CURRENT')], 'name the directory'],
    ['a directory without trees', ['level', directory], 'has no LSM-Tree'],
    ['a directory without a log', ['wal', directory], 'has no log'],
    ['a directory in the place of pages', ['page', tree], 'name a page file'],
    ['a wrong number', ['sst', join(tree, 'x'), '--limit', '0'], 'integer from 1'],
    ['an unknown kind of file', ['nothing', tree], 'unknown command'],
  ])('%s ends with 2 and says what is wrong', async (_, args, text) => {
    const { code, stderr } = await run(['inspect', ...args]);
    expect(code).toBe(2);
    expect(stderr).toContain(text);
  });

  test('a file that is not there ends with 1', async () => {
    const { code, stderr } = await run(['inspect', 'sst', join(directory, 'none.sst')]);
    expect(code).toBe(1);
    expect(stderr).toContain('there is no such file');
  });

  test('help of each has an example', async () => {
    for (const what of ['sst', 'manifest', 'wal', 'page', 'level']) {
      const { code, stdout } = await run(['inspect', what, '--help']);
      expect(code).toBe(0);
      expect(stdout).toContain(`$ concordkv inspect ${what}`);
    }
  });
});
