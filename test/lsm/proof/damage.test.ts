/** A real closed store in an LSM-Tree whose files are damaged, cut or gone: a pool that opens it gives the right answers, or errors that name the file. */
import { cpSync, readFileSync, readdirSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { ConcordError, ConcordPool, type PoolOptions } from '../../../dist/index.js';
import { removeLeftovers } from '../../support/lsm-files.js';
import { makeDirectory, removeDirectory } from '../../support/pool-scene.js';
import { OPTIONS, fill, keyOf, treesOf, valueOf } from '../scene.js';

const COUNT = 3000;
const LARGE = 'large'.repeat(5000);
/** One block in the cache at most: reads go to the files. */
const READING: PoolOptions = { ...OPTIONS, blockCacheBytes: 256 << 10, createIfMissing: false };

let directory: string;
let made: string;
const wanted = new Map<string, string>();

beforeAll(async () => {
  directory = makeDirectory();
  made = join(directory, 'made');
  const db = await ConcordPool.open(made, OPTIONS);
  await fill(db, COUNT);
  await db.put('large', LARGE);
  await db.compact();
  await fill(db, COUNT / 3, 1);
  await db.put('large 2', LARGE);
  // Neither log nor memory has any of it any more: what is in files is in files only.
  await db.compact({ lt: keyOf(1) });
  for (let round = 0; round < 3; round++) await db.host!.checkpointAll();
  await db.close();
  // Damage to a file that nothing needs would do no harm.
  for (const tree of treesOf(made)) removeLeftovers(tree);
  for (let i = 0; i < COUNT; i++) wanted.set(keyOf(i), valueOf(i, i < COUNT / 3 ? 1 : 0));
  wanted.set('large', LARGE);
  wanted.set('large 2', LARGE);
});

afterAll(() => {
  removeDirectory(directory);
});

/** True: an error was told. */
async function look(path: string, file: string, what: string): Promise<boolean> {
  let isTold = false;
  const told = (error: unknown): void => {
    isTold = true;
    if (!(error instanceof ConcordError)) throw error;
    expect(['ERR_CORRUPT', 'ERR_FORMAT_VERSION'], `${what}: ${error.message}`).toContain(error.code);
    const named = /CURRENT|MANIFEST/.test(file) ? join(file, '..') : file;
    expect(`${String(error.details['file'])} ${error.message}`, what).toContain(named);
  };
  let db: ConcordPool;
  try {
    db = await ConcordPool.open(path, READING);
  } catch (error) {
    told(error);
    return true;
  }
  try {
    let at = 0;
    for (const [key, value] of wanted) {
      // Both ways to read; neighbours share blocks.
      if (at++ % 3 !== 0 && !key.startsWith('large')) continue;
      try {
        const found = at % 2 === 0 ? db.getSync(key) : await db.get(key);
        expect(found === value, `${what}: ${key} is ${found?.slice(0, 40)}`).toBe(true);
      } catch (error) {
        told(error);
      }
    }
    try {
      expect(await db.iterator().all()).toHaveLength(wanted.size);
    } catch (error) {
      told(error);
    }
    return isTold;
  } finally {
    await db.close();
  }
}

function flip(file: string, part: number): void {
  const bytes = readFileSync(file);
  const offset = Math.floor((bytes.length - 1) * part);
  bytes[offset]! ^= 0x40;
  writeFileSync(file, bytes);
}

const DAMAGES: Readonly<Record<string, (file: string) => void>> = {
  'is gone': (file) => {
    rmSync(file);
  },
  'is empty': (file) => {
    truncateSync(file, 0);
  },
  'is cut in half': (file) => {
    truncateSync(file, Math.floor(statSync(file).size / 2));
  },
  'has another byte at its beginning': (file) => {
    flip(file, 0);
  },
  'has another byte in its middle': (file) => {
    flip(file, 0.5);
  },
  'has another byte at its end': (file) => {
    flip(file, 1);
  },
};

test.each([
  ['a table', /\.sst$/],
  ['a blob file', /\.blob$/],
  ['the manifest', /^MANIFEST/],
  ['CURRENT', /^CURRENT$/],
])('%s that is damaged in any way is told, or does no harm', async (name, pattern) => {
  let round = 0;
  for (const [damage, harm] of Object.entries(DAMAGES)) {
    const path = join(directory, `${name} ${round++}`);
    cpSync(made, path, { recursive: true });
    const shard = join(path, 'shard-0000');
    const tree = join(
      shard,
      readdirSync(shard).find((entry) => entry.startsWith('lsm-'))!,
    );
    const names = readdirSync(tree).filter((entry) => pattern.test(entry));
    const file = join(tree, names[round % names.length]!);
    harm(file);
    const what = `${file} ${damage}`;
    const { ok, problems } = await ConcordPool.verify(path);
    const isTold = await look(path, file, what);
    if (/gone|empty/.test(damage)) expect(isTold, what).toBe(true);
    // What a manifest is made larger by is no part of it.
    if (!(name === 'the manifest' && /middle|end|half/.test(damage))) expect(ok, what).toBe(false);
    if (!ok) {
      const text = problems.map(({ message, details }) => `${String(details['file'])} ${message}`).join();
      expect(text, what).toContain(/CURRENT|MANIFEST/.test(file) ? tree : file);
    }
    if (isTold) expect(ok, what).toBe(false);
    rmSync(path, { recursive: true });
  }
});

test('as it was closed it is sound, and gives every answer', async () => {
  expect(await ConcordPool.verify(made)).toMatchObject({ ok: true, problems: [] });
  expect(await look(made, '', 'undamaged')).toBe(false);
});
