/** Reads that must not wait for a disk: they say what they miss, and come further with each block that was loaded. */
import { describe, expect, test } from 'vitest';
import { FaultEnv } from '../../../../dist/shared/env/fault-env.js';
import { MemEnv } from '../../../../dist/shared/env/mem-env.js';
import type { Env, EnvFile, OpenMode } from '../../../../dist/shared/env/env.js';
import { COLD_ATTEMPTS_MAX, ColdReadError } from '../../../../dist/engines/lsm/read/cold.js';
import type { LsmReader } from '../../../../dist/engines/lsm/read/reader.js';
import { loadedBlockKey } from '../../../../dist/engines/lsm/read/files.js';
import { tableName } from '../../../../dist/engines/lsm/manifest/names.js';
import { Harness, bytes, get, type HarnessOptions } from './support.js';

/** Counts reads that block. */
class CountingEnv extends FaultEnv {
  blockingReads = 0;

  override open(path: string, mode: OpenMode): EnvFile {
    const file = super.open(path, mode);
    return {
      path: file.path,
      read: (into, start, length, position) => {
        this.blockingReads++;
        return file.read(into, start, length, position);
      },
      readAsync: (into, start, length, position) => file.readAsync!(into, start, length, position),
      write: (from, start, length, position) => {
        file.write(from, start, length, position);
      },
      sync: () => {
        file.sync();
      },
      size: () => file.size(),
      truncate: (length) => {
        file.truncate(length);
      },
      close: () => {
        file.close();
      },
    };
  }
}

async function getAsync(
  harness: Harness,
  reader: LsmReader,
  key: Uint8Array,
): Promise<{ value: string | undefined; loads: number }> {
  for (let loads = 0; ; loads++) {
    try {
      return { value: get(harness, reader, key)?.value.toString(), loads };
    } catch (error) {
      if (!(error instanceof ColdReadError) || loads === COLD_ATTEMPTS_MAX) throw error;
      await error.load();
    }
  }
}

function filled(env: Env, options: HarnessOptions): { harness: Harness; reader: LsmReader } {
  const harness = new Harness({ env, ...options });
  for (let index = 0; index < 60; index++) harness.put(bytes(`key ${index}`), bytes(`value ${index} `.repeat(8)));
  harness.freeze();
  harness.flush();
  for (let index = 0; index < 60; index += 3) harness.put(bytes(`key ${index}`), bytes(`newer ${index} `.repeat(8)));
  harness.freeze();
  harness.flush();
  const reader = harness.reader();
  reader.avoidsDisk = true;
  return { harness, reader };
}

describe.each([
  ['a cache', {}],
  ['no cache', { cacheBytes: 0 }],
  ['no cache and metadata in files', { cacheBytes: 0, resident: false }],
  ['lz4, a cache and metadata in files', { resident: false, table: { compression: 'lz4' } }],
] as [string, HarnessOptions][])('with %s', (_name, options) => {
  test('every find is answered after some loads, without one read that blocks', async () => {
    const env = new CountingEnv(new MemEnv());
    const { harness, reader } = filled(env, options);
    const before = env.blockingReads;
    let loads = 0;
    for (let index = 0; index < 80; index++) {
      const found = await getAsync(harness, reader, bytes(`key ${index}`));
      const word = index % 3 === 0 ? 'newer' : 'value';
      expect(found.value).toBe(index < 60 ? `${word} ${index} `.repeat(8) : undefined);
      loads += found.loads;
    }
    expect(loads).toBeGreaterThan(5);
    expect(env.blockingReads).toBe(before);
    expect(reader.counters.coldReads).toBe(loads);
  });

  test('many finds at once are all answered', async () => {
    const env = new CountingEnv(new MemEnv());
    const { harness, reader } = filled(env, options);
    const before = env.blockingReads;
    const found = await Promise.all(
      Array.from({ length: 60 }, (_, index) => getAsync(harness, reader, bytes(`key ${index}`))),
    );
    found.forEach(({ value }, index) => {
      expect(value).toBe(`${index % 3 === 0 ? 'newer' : 'value'} ${index} `.repeat(8));
    });
    expect(env.blockingReads).toBe(before);
  });
});

test('a value in a blob file is loaded too', async () => {
  const { harness, reader } = filled(new MemEnv(), { cacheBytes: 0, blobValueBytes: 10 });
  const blobReads = reader.counters.blobReads;
  const { value, loads } = await getAsync(harness, reader, bytes('key 7'));
  expect(value).toBe('value 7 '.repeat(8));
  expect(loads).toBe(2);
  expect(reader.counters.blobReads).toBe(blobReads + 1);
});

test('a load of a damaged block says which file and where, and so does the next one', async () => {
  const env = new MemEnv();
  const { harness, reader } = filled(env, { cacheBytes: 0 });
  const path = `${harness.treeDirectory}/${tableName(1)}`;
  const file = env.open(path, 'write');
  const size = file.size();
  const damaged = new Uint8Array(size);
  file.read(damaged, 0, size, 0);
  for (let at = 0; at < 1000; at += 50) damaged[at]! ^= 1;
  file.write(damaged, 0, 1000, 0);
  file.close();
  for (let attempt = 0; attempt < 2; attempt++) {
    await expect(getAsync(harness, reader, bytes('key 1'))).rejects.toMatchObject({
      code: 'ERR_CORRUPT',
      details: { file: path, offset: expect.any(Number) as number },
    });
  }
});

test('a load that the disk refuses fails, and the next one is answered', async () => {
  const env = new FaultEnv(new MemEnv());
  const { harness, reader } = filled(env, { cacheBytes: 0 });
  const rule = env.addRule({ operation: 'read', error: 'EIO', times: 1 });
  await expect(getAsync(harness, reader, bytes('key 1'))).rejects.toMatchObject({ code: 'ERR_IO' });
  expect(rule.firedCount).toBe(1);
  expect((await getAsync(harness, reader, bytes('key 1'))).value).toBe('value 1 '.repeat(8));
});

test('a find goes on when its table goes while its block is loaded', async () => {
  const { harness, reader } = filled(new MemEnv(), { cacheBytes: 0 });
  let cold: ColdReadError | undefined;
  try {
    get(harness, reader, bytes('key 1'));
  } catch (error) {
    cold = error as ColdReadError;
  }
  expect(cold).toBeInstanceOf(ColdReadError);
  const loading = cold!.load();
  harness.merge(0, 2, 3);
  // Meets the new version: files of the old one are closed, but for the one that is being read.
  const late = getAsync(harness, reader, bytes('key 2'));
  await loading;
  expect((await late).value).toBe('value 2 '.repeat(8));
  expect((await getAsync(harness, reader, bytes('key 1'))).value).toBe('value 1 '.repeat(8));
  expect(harness.files.openFiles).toBe(1);
});

test('a load that comes after its file was closed does nothing, and the find takes another way', async () => {
  const { harness, reader } = filled(new MemEnv(), { cacheBytes: 0 });
  let cold: ColdReadError | undefined;
  try {
    get(harness, reader, bytes('key 1'));
  } catch (error) {
    cold = error as ColdReadError;
  }
  harness.files.close();
  await cold!.load();
  expect((await getAsync(harness, reader, bytes('key 1'))).value).toBe('value 1 '.repeat(8));
});

test('blocks that lie close together in a table of the last shard are told apart when they are loaded', async () => {
  const { files } = new Harness();
  const cacheId = 2 ** 30 - 1;
  await files.load(loadedBlockKey(cacheId, 4096), () => Promise.resolve(bytes('one')));
  expect(Buffer.from(files.loadedBlock(cacheId, 4096)!).toString()).toBe('one');
  expect(files.loadedBlock(cacheId, 4097)).toBeUndefined();
  expect(files.loadedBlock(cacheId, 4096 + 400)).toBeUndefined();
});

test('what is loaded once does not go into a full cache', async () => {
  const harness = new Harness({ cacheBytes: 256 * 1024, table: { blockBytes: 1024 } });
  const count = 3000;
  for (let index = 0; index < count; index++) {
    harness.put(bytes(`key ${index}`), bytes('x'.repeat(900)));
    if (index % 600 < 599) continue;
    harness.freeze();
    harness.flush();
  }
  const reader = harness.reader();
  for (let index = 0; index < count; index++) get(harness, reader, bytes(`key ${index}`));
  reader.avoidsDisk = true;
  const before = harness.files.cache!.stats().insertions;
  let loads = 0;
  for (let index = 0; index < count; index += 5) {
    const found = await getAsync(harness, reader, bytes(`key ${index}`));
    expect(found.value).toBe('x'.repeat(900));
    loads += found.loads;
  }
  expect(loads).toBeGreaterThan(300);
  expect(harness.files.cache!.stats().insertions - before).toBeLessThan(loads / 4);
});

test('a find that misses a block says so without a stack, and leaves other errors theirs', () => {
  const { harness, reader } = filled(new MemEnv(), { cacheBytes: 0 });
  let missing: unknown;
  try {
    get(harness, reader, bytes('key 1'));
  } catch (error) {
    missing = error;
  }
  expect(missing).toBeInstanceOf(ColdReadError);
  expect((missing as Error).stack).not.toMatch(/\n/);
  expect(new Error('another').stack).toMatch(/\n/);
});
