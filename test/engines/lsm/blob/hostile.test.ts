/** Damaged blob files: every byte changed, every length cut. Each read gives what was written or an error that names file and offset. */
import { describe, expect, test } from 'vitest';
import { BlobReader } from '../../../../dist/engines/lsm/blob/blob-reader.js';
import type { BlobReference } from '../../../../dist/engines/lsm/types.js';
import type { MemEnv } from '../../../../dist/shared/env/mem-env.js';
import { failure, overwrite, readFile, truncateFile, writeFile } from '../../wal/wal-scene.js';
import { IDENTITY, newEnv } from '../table/support.js';
import { NUMBER, PATH, writeBlobs, type Value } from './support.js';

const VALUES: Value[] = [
  { key: Buffer.from('first'), value: Buffer.alloc(300, 'text of the first, '), seq: 5 },
  { key: Buffer.alloc(0), value: Buffer.alloc(0), seq: 6 },
  {
    key: Buffer.from('third'),
    value: Buffer.from(Array.from({ length: 200 }, (_, index) => (index * 71) & 255)),
    seq: 7,
  },
];

function scene(compression: 'none' | 'lz4'): { env: MemEnv; references: BlobReference[]; bytes: Buffer } {
  const env = newEnv();
  const { references } = writeBlobs(env, VALUES, { compression });
  return { env, references, bytes: readFile(env, PATH) };
}

/** Reads everything; the number of calls that failed, each rightly. */
function failuresOf(env: MemEnv, references: readonly BlobReference[], expectedBytes: number): number {
  let failures = 0;
  const guarded = (call: () => void): void => {
    try {
      call();
    } catch (error) {
      expect(error).toMatchObject({ code: 'ERR_CORRUPT', details: { file: PATH } });
      const { offset } = (error as { details: { offset: number } }).details;
      if (!(offset >= 0 && offset <= expectedBytes)) throw new Error(`offset ${offset}`, { cause: error });
      failures++;
    }
  };
  const reader = BlobReader.open(env, PATH, IDENTITY, NUMBER);
  for (const [index, reference] of references.entries()) {
    guarded(() => {
      const { value } = VALUES[index]!;
      const into = Buffer.alloc(value.length);
      if (reader.read(reference, into, 0, 0, value.length) !== value.length || !into.equals(value)) {
        throw new Error(`value ${index} is wrong`);
      }
    });
  }
  guarded(() => reader.readInfo(expectedBytes));
  guarded(() => {
    let records = 0;
    reader.walk(({ key, seq }) => {
      const expected = VALUES[records++]!;
      if (!expected.key.equals(key) || seq !== expected.seq) throw new Error(`record ${records} is wrong`);
    });
  });
  reader.close();
  return failures;
}

describe.each(['none', 'lz4'] as const)('in a blob file with compression %s', (compression) => {
  test('every changed byte is found by who reads it, and by nobody else', () => {
    const { env, references, bytes } = scene(compression);
    expect(failuresOf(env, references, bytes.length)).toBe(0);
    for (let offset = 0; offset < bytes.length; offset++) {
      for (const mask of [0x01, 0x80, 0xff]) {
        overwrite(env, PATH, offset, Buffer.from([bytes[offset]! ^ mask]));
        const found = failuresOf(env, references, bytes.length);
        if (found === 0) throw new Error(`byte ${offset} with ${mask}: not found`);
        // A chunk is read for its value only; a header also by a walk; the footer by a walk and for itself.
        if (found > 2) throw new Error(`byte ${offset} with ${mask}: ${found} failures`);
        overwrite(env, PATH, offset, bytes.subarray(offset, offset + 1));
      }
    }
  });

  test('every truncation is found', () => {
    const { env, references, bytes } = scene(compression);
    for (let length = bytes.length - 1; length >= 0; length--) {
      truncateFile(env, PATH, length);
      if (failuresOf(env, references, bytes.length) < 2) throw new Error(`length ${length}: not found`);
    }
  });
});

test('a file of another tree, or of another number, is not read as this one', () => {
  const { env, references } = scene('none');
  const into = Buffer.alloc(300);
  for (const [identity, number] of [
    [{ ...IDENTITY, tree: 3 }, NUMBER],
    [{ ...IDENTITY, shard: 4 }, NUMBER],
    [{ ...IDENTITY, storeId: Buffer.alloc(16) }, NUMBER],
    [IDENTITY, 10],
  ] as const) {
    const reader = BlobReader.open(env, PATH, identity, number);
    const reference = { ...references[0]!, file: number };
    expect(failure(() => reader.read(reference, into, 0, 0, 300)).code).toBe('ERR_CORRUPT');
    expect(failure(() => reader.readInfo()).message).toMatch(
      /footer: it is file 9 of tree 2 of shard 3 .*, expected file/,
    );
    reader.close();
  }
});

test('a record in the place of another is not read as that one', () => {
  const env = newEnv();
  const twins = [1, 2].map((index) => ({ key: Buffer.from('k'), value: Buffer.alloc(50, index), seq: 1 }));
  const { references } = writeBlobs(env, twins);
  const bytes = readFile(env, PATH);
  const [first, second] = references as [BlobReference, BlobReference];
  overwrite(env, PATH, second.offset, bytes.subarray(first.offset, first.offset + first.recordBytes));
  const reader = BlobReader.open(env, PATH, IDENTITY, NUMBER);
  const error = failure(() => reader.read(second, Buffer.alloc(50), 0, 0, 50));
  expect(error.details).toEqual({ file: PATH, offset: second.offset });
});

test('references that lead elsewhere are refused', () => {
  const { env, references, bytes } = scene('none');
  const reader = BlobReader.open(env, PATH, IDENTITY, NUMBER);
  const [good] = references as [BlobReference];
  for (const wrong of [
    { offset: 1 },
    { offset: bytes.length },
    { offset: 2 ** 52 },
    { recordBytes: good.recordBytes + 1 },
    { recordBytes: 20 },
    { recordBytes: 0 },
    { recordBytes: 2 ** 52 },
    { valueBytes: good.valueBytes - 1 },
    { valueBytes: 2 ** 40 },
    { file: 8 },
  ]) {
    const error = failure(() => reader.read({ ...good, ...wrong }, Buffer.alloc(400), 0, 0, 300));
    expect(error).toMatchObject({ code: 'ERR_CORRUPT', details: { file: PATH } });
  }
  reader.close();
});

test('a missing file is damage that names it; another format version is told', () => {
  const env = newEnv();
  const missing = failure(() => BlobReader.open(env, PATH, IDENTITY, NUMBER));
  expect(missing).toMatchObject({ code: 'ERR_CORRUPT', details: { file: PATH, offset: 0 } });
  writeFile(env, PATH, Buffer.alloc(500));
  expect(failure(() => BlobReader.openAny(env, PATH)).code).toBe('ERR_CORRUPT');
});
