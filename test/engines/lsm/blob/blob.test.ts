/** Blob files against the values that were put into them, whole and in parts. fast-check prints its seed. */
import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { BlobReader, type BlobRecord } from '../../../../dist/engines/lsm/blob/blob-reader.js';
import { BlobWriter } from '../../../../dist/engines/lsm/blob/blob-writer.js';
import {
  BLOB_REFERENCE_BYTES_MAX,
  decodeBlobReference,
  encodeBlobReference,
} from '../../../../dist/engines/lsm/blob/format.js';
import { isCompressionSupported } from '../../../../dist/engines/lsm/table/compression.js';
import { MemEnv } from '../../../../dist/shared/env/mem-env.js';
import { failure, readFile } from '../../wal/wal-scene.js';
import { DIRECTORY, IDENTITY, newEnv } from '../table/support.js';
import { NUMBER, PATH, writeBlobs, type Value } from './support.js';

const CHUNK = 65_536;
const lengthArbitrary = fc.oneof(
  { weight: 4, arbitrary: fc.integer({ min: 0, max: 3000 }) },
  { weight: 3, arbitrary: fc.constantFrom(0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK + 7) },
  { weight: 1, arbitrary: fc.integer({ min: 200_000, max: 900_000 }) },
);

/** Noise, text, or text with noise in the middle. */
function valueOf(length: number, kind: number, seed: number): Buffer {
  const value = Buffer.alloc(length, `text ${seed} of some length, `);
  if (kind === 0) return value;
  let state = seed;
  for (let at = kind === 1 ? 0 : length >> 1; at < length; at++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    value[at] = state >>> 24;
  }
  return value;
}

const valueArbitrary: fc.Arbitrary<Value> = fc.record({
  key: fc.uint8Array({ maxLength: 60 }).map((bytes) => Buffer.from(bytes)),
  value: fc.tuple(lengthArbitrary, fc.nat(2), fc.nat()).map(([length, kind, seed]) => valueOf(length, kind, seed)),
  seq: fc.integer({ min: 0, max: 2 ** 48 - 1 }),
});

const same = (a: Uint8Array, b: Uint8Array): boolean => Buffer.compare(a, b) === 0;

describe('a blob file', () => {
  test('gives back every value, whole and any part of it, however it was put in', () => {
    fc.assert(
      fc.property(
        fc.array(valueArbitrary, { maxLength: 8 }),
        fc.constantFrom(...(['none', 'lz4', 'zstd'] as const).filter(isCompressionSupported)),
        fc.option(fc.array(fc.constantFrom(1000, CHUNK, 70_000, 1_000_000), { minLength: 1, maxLength: 3 }), {
          nil: undefined,
        }),
        fc.array(fc.tuple(fc.double({ min: 0, max: 1, noNaN: true }), fc.integer({ min: 0, max: 3 * CHUNK })), {
          maxLength: 6,
        }),
        (values, compression, pieces, parts) => {
          const env = newEnv();
          const { info, references } = writeBlobs(env, values, { compression }, pieces);
          const recordBytes = references.reduce((sum, reference) => sum + reference.recordBytes, 0);
          expect(info).toEqual({
            number: NUMBER,
            bytes: readFile(env, PATH).length,
            records: values.length,
            recordBytes,
            createdAt: 1_700_000_000_000,
          });
          const reader = BlobReader.open(env, PATH, IDENTITY, NUMBER);
          expect(reader.readInfo(info.bytes)).toEqual(info);
          for (const [index, { value }] of values.entries()) {
            const reference = references[index]!;
            expect(reference.valueBytes).toBe(value.length);
            const into = Buffer.alloc(value.length + 2, 0xaa);
            expect(reader.read(reference, into, 1, 0, value.length)).toBe(value.length);
            expect(same(into.subarray(1, -1), value)).toBe(true);
            expect([into[0], into.at(-1)]).toEqual([0xaa, 0xaa]);
            for (const [share, length] of parts) {
              const from = Math.floor(share * (value.length + 10));
              const part = Buffer.alloc(length, 0xbb);
              const expected = value.subarray(from, from + length);
              expect(reader.read(reference, part, 0, from, length)).toBe(expected.length);
              expect(same(part.subarray(0, expected.length), expected)).toBe(true);
            }
          }
          const seen: BlobRecord[] = [];
          reader.walk((record) => seen.push(record));
          expect(seen).toEqual(
            values.map(({ key, seq }, index) => ({ key: Uint8Array.from(key), seq, reference: references[index] })),
          );
          reader.close();
        },
      ),
      { numRuns: 60 },
    );
  });

  test('is smaller by what compression saves, chunk by chunk', () => {
    const values = [{ key: Buffer.from('k'), value: valueOf(4 * CHUNK, 2, 5), seq: 1 }];
    const plain = writeBlobs(newEnv(), values).info.bytes;
    const packed = writeBlobs(newEnv(), values, { compression: 'lz4' }).info.bytes;
    // The first half is text, the second noise that is kept as it is.
    expect(packed).toBeGreaterThan(2 * CHUNK);
    expect(packed).toBeLessThan(plain / 2 + CHUNK / 8);
  });

  test('is written in large pieces, and of a long value only what is asked for is read', () => {
    const env = newEnv();
    const lengths: number[] = [];
    let readBytes = 0;
    const open = env.open.bind(env);
    env.open = (path, mode) => {
      const file = open(path, mode);
      const write = file.write.bind(file);
      const read = file.read.bind(file);
      file.write = (from, start, length, position) => {
        lengths.push(length);
        write(from, start, length, position);
      };
      file.read = (into, start, length, position) => {
        readBytes += length;
        return read(into, start, length, position);
      };
      return file;
    };
    const value = valueOf(8_000_000, 1, 3);
    const { references } = writeBlobs(env, [{ key: Buffer.from('long'), value, seq: 1 }]);
    // 8 MB, the header that was left out and the footer.
    expect(lengths.length).toBeLessThan(20);
    const reader = BlobReader.open(env, PATH, IDENTITY, NUMBER);
    const into = Buffer.alloc(100);
    readBytes = 0;
    for (let from = 7_000_000; from < 7_010_000; from += 100) {
      expect(reader.read(references[0]!, into, 0, from, 100)).toBe(100);
      expect(same(into, value.subarray(from, from + 100))).toBe(true);
    }
    expect(readBytes).toBeLessThan(300_000 + 100 * 2 * (CHUNK + 5));
    reader.close();
  });

  test('leaves nothing behind when it is given up, does not replace a file, and passes on a full disk', () => {
    const env = newEnv();
    const parameters = { identity: IDENTITY, number: NUMBER, compression: 'none', createdAt: 1 } as const;
    const writer = BlobWriter.create(env, PATH, parameters);
    writer.append(Buffer.from('k'), 1, Buffer.from('v'), 0, 1, 1);
    writer.abort();
    writer.abort();
    expect(env.exists(PATH)).toBe(false);
    writeBlobs(env, []);
    expect(() => BlobWriter.create(env, PATH, parameters)).toThrow();
    expect(() => BlobWriter.create(env, `${PATH}2`, { ...parameters, compression: 'rar' as 'none' })).toThrow(
      expect.objectContaining({ code: 'ERR_INVALID_ARG' }),
    );
    const small = new MemEnv({ capacityBytes: 100_000 });
    small.makeDirectory(DIRECTORY);
    const full = failure(() => writeBlobs(small, [{ key: Buffer.alloc(0), value: Buffer.alloc(200_000), seq: 1 }]));
    expect(full.code).toBe('ERR_DISK_FULL');
  });

  test('takes no value of another length than it was begun with', () => {
    const env = newEnv();
    const writer = BlobWriter.create(env, PATH, {
      identity: IDENTITY,
      number: NUMBER,
      compression: 'none',
      createdAt: 1,
    });
    writer.begin(Buffer.from('k'), 1, 10, 1);
    writer.piece(Buffer.alloc(9), 0, 9);
    expect(failure(() => writer.end()).code).toBe('ERR_INTERNAL');
    expect(failure(() => writer.piece(Buffer.alloc(2), 0, 2)).code).toBe('ERR_INTERNAL');
    expect(failure(() => writer.finish()).code).toBe('ERR_INTERNAL');
    writer.piece(Buffer.alloc(1), 0, 1);
    expect(writer.end().valueBytes).toBe(10);
  });
});

describe('a reference', () => {
  test('is decoded to what was encoded, and from nothing else', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 2 ** 32 - 1 }),
        fc.maxSafeNat(),
        fc.maxSafeNat(),
        fc.maxSafeNat(),
        (file, offset, recordBytes, valueBytes) => {
          const reference = { file, offset, recordBytes, valueBytes };
          const bytes = Buffer.alloc(BLOB_REFERENCE_BYTES_MAX + 2);
          const end = encodeBlobReference(bytes, 1, reference);
          expect(end).toBeLessThanOrEqual(1 + BLOB_REFERENCE_BYTES_MAX);
          expect(decodeBlobReference(bytes, 1, end)).toEqual(reference);
          for (let short = 1; short < end; short++) expect(decodeBlobReference(bytes, 1, short)).toBeUndefined();
          expect(decodeBlobReference(bytes, 1, end + 1)).toBeUndefined();
        },
      ),
    );
  });

  test('to file 0 is none', () => {
    expect(decodeBlobReference(Buffer.from([0, 1, 1, 1]), 0, 4)).toBeUndefined();
    expect(decodeBlobReference(Buffer.from([1, 1, 1, 1]), 0, 4)).toEqual({
      file: 1,
      offset: 1,
      recordBytes: 1,
      valueBytes: 1,
    });
  });
});
