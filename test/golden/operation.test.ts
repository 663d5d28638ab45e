/** Operation records: their bytes are on people's disks (golden), and no bytes whatever get past the check (properties). */
import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  BATCH_INLINE_MAX_BYTES,
  BLOB_REFERENCE_BYTES,
  CHUNK_BYTES,
  CHUNK_OF_BATCH,
  CLEAR_HAS_HIGH,
  CLEAR_HAS_LOW,
  MAX_BATCH_BYTES,
  MAX_VALUE_BYTES,
  OPERATION_EXPIRED,
  OPERATION_EXTENDED,
  OPERATION_EXTENSION_BYTES,
  OPERATION_HEADER_BYTES,
  OPERATION_JOINED,
  OperationKind,
  PREPARE_KEY_BYTES,
  RESOLVE_KEY_BYTES,
  checkOperation,
  checkWrites,
  operationBytes,
  operationKeyAt,
  operationSpan,
  readBlobReference,
  readKeyLength,
  readOperationExpiry,
  readOperationSpace,
  readPrepareKey,
  readResolveNumber,
  readTransactionId,
  readValueLength,
  writeBlobReference,
  writeNumber,
  writeOperationExtension,
  writeOperationHeader,
  writePrepareKey,
} from '../../dist/engines/operation.js';
import { SPACE_ID_MAX } from '../../dist/engines/engine.js';
import { ConcordError } from '../../dist/shared/errors.js';
import { expectGolden, hex } from '../shared/codec/golden-file.js';
import { runCount } from '../support/pool-scene.js';

interface Fields {
  kind: number;
  flags?: number;
  key?: Uint8Array;
  value?: Uint8Array;
  /** Space and expiry. */
  extension?: readonly [space: number, expiresAt: number];
}

function record({ kind, flags = 0, key = Buffer.alloc(0), value = Buffer.alloc(0), extension }: Fields): Buffer {
  const extensionBytes = extension === undefined ? 0 : OPERATION_EXTENSION_BYTES;
  const bytes = Buffer.alloc(operationBytes(key.length, value.length, extensionBytes));
  const extended = extension === undefined ? 0 : OPERATION_EXTENDED;
  writeOperationHeader(bytes, 0, kind, flags | extended, key.length, value.length);
  if (extension !== undefined) writeOperationExtension(bytes, 0, ...extension);
  bytes.set(key, OPERATION_HEADER_BYTES + extensionBytes);
  bytes.set(value, OPERATION_HEADER_BYTES + extensionBytes + key.length);
  return bytes;
}

function reference(client: number, blob: number, offset: number, count: number): Buffer {
  const bytes = Buffer.alloc(BLOB_REFERENCE_BYTES);
  writeBlobReference(bytes, 0, { client, blob, offset, count });
  return bytes;
}

function prepareKey(id: number, maskLow = 0x21, maskHigh = 0x80000000, client = 7): Buffer {
  const bytes = Buffer.alloc(PREPARE_KEY_BYTES, 0xee);
  writePrepareKey(bytes, 0, { id, maskLow, maskHigh, client });
  return bytes;
}

function resolveKey(id: number, number: number): Buffer {
  const bytes = Buffer.alloc(RESOLVE_KEY_BYTES, 0xee);
  writeNumber(bytes, 0, id);
  writeNumber(bytes, 8, number);
  return bytes;
}

const text = (string: string): Buffer => Buffer.from(string);

test('the bytes of every kind of record stay what they were', () => {
  const { Put, Delete, ClearRange, Chunk, PutBlob, ApplyBatch, Prepare, Resolve } = OperationKind;
  const writes = Buffer.concat([
    record({ kind: Put, flags: OPERATION_JOINED, key: text('a'), value: text('1') }),
    record({ kind: Delete, key: text('b'), extension: [2, 0] }),
  ]);
  expectGolden('operation.txt', [
    [
      hex(record({ kind: Put, key: text('a'), value: text('1') })),
      'put a = 1: kind, flags, key length u16, value length u32, key, value, padding',
    ],
    [hex(record({ kind: Put })), 'put of the empty key, empty value'],
    [
      hex(record({ kind: Put, key: text('key'), value: text('value') })),
      'put key = value: ends on a multiple of 4, no padding',
    ],
    [
      hex(record({ kind: Put, key: Buffer.alloc(258, 0x6b), value: text('v') })),
      'put of a key of 258 bytes: length is little-endian',
    ],
    [hex(record({ kind: Delete, key: text('gone') })), 'delete gone'],
    [hex(record({ kind: ClearRange })), 'clear everything'],
    [hex(record({ kind: ClearRange, flags: CLEAR_HAS_LOW, key: text('from') })), 'clear from "from" on'],
    [hex(record({ kind: ClearRange, flags: CLEAR_HAS_HIGH, value: text('to') })), 'clear up to "to", exclusive'],
    [
      hex(record({ kind: ClearRange, flags: CLEAR_HAS_LOW | CLEAR_HAS_HIGH, key: text('a'), value: text('b') })),
      'clear [a, b)',
    ],
    [
      hex(record({ kind: Chunk, key: reference(3, 7, 0, 70000), value: text('first') })),
      'chunk at 0 of blob 7 of client 3, 70,000 bytes in all: client u32, blob u32, offset f64, count u32, zero u32',
    ],
    [hex(record({ kind: Chunk, key: reference(3, 7, 65536, 0), value: text('next') })), 'chunk at 65,536 of it'],
    [
      hex(
        record({
          kind: Chunk,
          flags: CHUNK_OF_BATCH,
          key: reference(255, 4294967295, 0, 300000),
          value: text('records'),
        }),
      ),
      'chunk of a batch',
    ],
    [
      hex(record({ kind: PutBlob, key: text('big'), value: reference(3, 7, 70000, 0) })),
      'put big = blob 7 of client 3, 70,000 bytes',
    ],
    [
      hex(record({ kind: ApplyBatch, value: reference(3, 8, 300000, 5000) })),
      'apply batch: blob 8 of client 3, 300,000 bytes, 5,000 operations',
    ],
    [
      hex(record({ kind: Put, key: text('a'), value: text('1'), extension: [2, 1_700_000_000_000] })),
      'put a = 1 in space 2 until 1,700,000,000,000: header, space u32, expiry u48, zero u16, key, value',
    ],
    [
      hex(record({ kind: Put, key: text('a'), value: text('1'), extension: [0, 2 ** 48 - 1] })),
      'put in the default space until the last millisecond there is',
    ],
    [
      hex(record({ kind: Put, key: text('key'), value: text('value'), extension: [SPACE_ID_MAX, 0] })),
      'put in the last space, for ever',
    ],
    [hex(record({ kind: Delete, key: text('gone'), extension: [513, 0] })), 'delete gone from space 513'],
    [
      hex(
        record({
          kind: ClearRange,
          flags: CLEAR_HAS_LOW | CLEAR_HAS_HIGH,
          key: text('a'),
          value: text('b'),
          extension: [3, 0],
        }),
      ),
      'clear [a, b) of space 3',
    ],
    [
      hex(record({ kind: PutBlob, key: text('big'), value: reference(3, 7, 70000, 0), extension: [5, 2 ** 32] })),
      'put big = blob 7 of client 3 in space 5 until 2^32',
    ],
    [
      hex(record({ kind: Put, flags: OPERATION_JOINED, key: text('a'), value: text('1') })),
      'put a = 1, joined to the next record',
    ],
    [
      hex(record({ kind: Delete, flags: OPERATION_JOINED, key: text('gone'), extension: [513, 0] })),
      'delete gone from space 513, joined to the next record',
    ],
    [
      hex(record({ kind: Delete, flags: OPERATION_EXPIRED, key: text('gone'), extension: [513, 0] })),
      'delete gone from space 513, whose time had come',
    ],
    [
      hex(record({ kind: Prepare, key: prepareKey(2 ** 40 + 5), value: writes })),
      'prepare: id 2^40 + 5 as f64, shards 0, 5 and 63 as two u32, client 7, zero u32; put a = 1 joined to delete b from space 2',
    ],
    [
      hex(record({ kind: Resolve, key: resolveKey(2 ** 40 + 5, 2 ** 41 + 1) })),
      'resolve: id 2^40 + 5 is committed with number 2^41 + 1, both f64',
    ],
    [hex(record({ kind: Resolve, key: resolveKey(2 ** 40 + 5, 0) })), 'resolve: id 2^40 + 5 is given up'],
  ]);
});

test('kinds, flags and limits stay what they were', () => {
  expect(OperationKind).toEqual({
    Put: 1,
    Delete: 2,
    ClearRange: 3,
    Chunk: 4,
    PutBlob: 5,
    ApplyBatch: 6,
    Prepare: 7,
    Resolve: 8,
  });
  expect([CLEAR_HAS_LOW, CLEAR_HAS_HIGH, CHUNK_OF_BATCH]).toEqual([1, 2, 1]);
  expect([OPERATION_HEADER_BYTES, BLOB_REFERENCE_BYTES]).toEqual([8, 24]);
  expect([OPERATION_EXTENDED, OPERATION_EXTENSION_BYTES, SPACE_ID_MAX]).toEqual([128, 12, 268435453]);
  expect([OPERATION_JOINED, PREPARE_KEY_BYTES, RESOLVE_KEY_BYTES]).toEqual([64, 24, 16]);
  expect([MAX_VALUE_BYTES, MAX_BATCH_BYTES]).toEqual([268435456, 268435456]);
  expect(CHUNK_BYTES).toBeLessThanOrEqual(BATCH_INLINE_MAX_BYTES);
});

describe('checkOperation', () => {
  const { Put, Delete, ClearRange, Chunk, PutBlob, ApplyBatch, Prepare, Resolve } = OperationKind;
  const joined = (flags: number, ...keys: string[]): Buffer =>
    Buffer.concat(keys.map((key) => record({ kind: Put, flags, key: text(key), value: text('v') })));
  const twoWrites = Buffer.concat([joined(OPERATION_JOINED, 'a'), record({ kind: Delete, key: text('b') })]);
  const good: [string, Buffer][] = [
    ['put', record({ kind: Put, key: text('k'), value: text('v') })],
    ['delete', record({ kind: Delete, key: text('k') })],
    ['clear', record({ kind: ClearRange, flags: 3, key: text('a'), value: text('b') })],
    ['chunk', record({ kind: Chunk, flags: 1, key: reference(1, 2, 0, 9), value: text('ninebytes') })],
    ['put of a blob', record({ kind: PutBlob, key: text('k'), value: reference(1, 2, 9, 0) })],
    ['batch', record({ kind: ApplyBatch, value: reference(1, 2, 9, 3) })],
    ['put with a space', record({ kind: Put, key: text('k'), value: text('v'), extension: [SPACE_ID_MAX, 0] })],
    ['put that expires', record({ kind: Put, key: text('k'), value: text('v'), extension: [0, 2 ** 48 - 1] })],
    ['delete in a space', record({ kind: Delete, key: text('k'), extension: [1, 0] })],
    ['clear of a space', record({ kind: ClearRange, flags: 3, key: text('a'), value: text('b'), extension: [9, 0] })],
    [
      'put of a blob in a space',
      record({ kind: PutBlob, key: text('k'), value: reference(1, 2, 9, 0), extension: [9, 7] }),
    ],
    ['put that is joined', record({ kind: Put, flags: OPERATION_JOINED, key: text('k'), extension: [9, 7] })],
    ['prepared transaction', record({ kind: Prepare, key: prepareKey(9), value: twoWrites })],
    ['committed transaction', record({ kind: Resolve, key: resolveKey(2 ** 48 - 1, 2 ** 48 - 2) })],
    ['transaction given up', record({ kind: Resolve, key: resolveKey(1, 0) })],
  ];

  test.each(good)('accepts a %s and gives its padded size', (_what, bytes) => {
    expect(checkOperation(bytes, 0, bytes.length)).toBe(bytes.length);
  });

  test.each(good)('refuses a %s that is cut off anywhere', (_what, bytes) => {
    for (let end = 0; end < bytes.length; end++) {
      expect(() => checkOperation(bytes, 0, end), `end ${end}`).toThrow(
        expect.objectContaining({ code: 'ERR_CORRUPT' }),
      );
    }
  });

  test.each([
    ['kind 0', record({ kind: 0 })],
    ['a kind of the future', record({ kind: 9 })],
    ['a clear that is joined', record({ kind: ClearRange, flags: OPERATION_JOINED })],
    ['a chunk that is joined', record({ kind: Chunk, flags: OPERATION_JOINED, key: reference(1, 2, 0, 9) })],
    ['a batch that is joined', record({ kind: ApplyBatch, flags: OPERATION_JOINED, value: reference(1, 2, 9, 3) })],
    ['a prepared transaction without writes', record({ kind: Prepare, key: prepareKey(9) })],
    ['a prepared transaction without an id', record({ kind: Prepare, key: prepareKey(0), value: twoWrites })],
    ['a prepared transaction with half an id', record({ kind: Prepare, key: prepareKey(0.5), value: twoWrites })],
    ['one with an id beyond all', record({ kind: Prepare, key: prepareKey(2 ** 48), value: twoWrites })],
    ['one with a short key', record({ kind: Prepare, key: prepareKey(9).subarray(4), value: twoWrites })],
    [
      'one whose zeros are none',
      record({ kind: Prepare, key: Buffer.concat([prepareKey(9).subarray(0, 23), text('x')]), value: twoWrites }),
    ],
    ['one in a space', record({ kind: Prepare, key: prepareKey(9), value: twoWrites, extension: [1, 0] })],
    ['one with a flag', record({ kind: Prepare, flags: OPERATION_JOINED, key: prepareKey(9), value: twoWrites })],
    [
      'one whose writes are not joined',
      record({ kind: Prepare, key: prepareKey(9), value: Buffer.concat([joined(0, 'a', 'b')]) }),
    ],
    [
      'one whose last write is joined to nothing',
      record({ kind: Prepare, key: prepareKey(9), value: joined(OPERATION_JOINED, 'a', 'b') }),
    ],
    [
      'one that clears a range',
      record({ kind: Prepare, key: prepareKey(9), value: record({ kind: ClearRange, flags: 1, key: text('a') }) }),
    ],
    [
      'one within another',
      record({
        kind: Prepare,
        key: prepareKey(9),
        value: record({ kind: Prepare, key: prepareKey(9), value: twoWrites }),
      }),
    ],
    ['a prepared transaction with half a write', record({ kind: Prepare, key: prepareKey(9), value: text('1234567') })],
    ['the end of a transaction with a value', record({ kind: Resolve, key: resolveKey(1, 2), value: text('v') })],
    ['the end of a transaction without an id', record({ kind: Resolve, key: resolveKey(0, 2) })],
    ['the end of a transaction with a negative number', record({ kind: Resolve, key: resolveKey(1, -2) })],
    ['the end of a transaction with no number', record({ kind: Resolve, key: resolveKey(1, NaN) })],
    ['the end of a transaction with the number −0', record({ kind: Resolve, key: resolveKey(1, -0) })],
    ['a flag of the future on a put', record({ kind: Put, flags: 1 })],
    ['a flag of the future on a clear', record({ kind: ClearRange, flags: 4 })],
    ['a chunk without a reference', record({ kind: Chunk, key: text('short'), value: text('v') })],
    ['a blob without a reference', record({ kind: PutBlob, key: text('k'), value: text('short') })],
    ['a batch without a reference', record({ kind: ApplyBatch, value: text('short') })],
    ['a delete that expires', record({ kind: Delete, key: text('k'), extension: [1, 5] })],
    ['a clear that expires', record({ kind: ClearRange, extension: [1, 5] })],
    ['a space that cannot be', record({ kind: Put, extension: [SPACE_ID_MAX + 1, 0] })],
    ['a flag of the future on an extended put', record({ kind: Put, flags: 1, extension: [1, 0] })],
    ['a chunk in a space', record({ kind: Chunk, key: reference(1, 2, 0, 9), value: text('v'), extension: [1, 0] })],
    ['a batch in a space', record({ kind: ApplyBatch, value: reference(1, 2, 9, 3), extension: [1, 0] })],
    [
      'an extension whose zeros are none',
      ((): Buffer => {
        const bytes = record({ kind: Put, extension: [1, 0] });
        bytes[19] = 1;
        return bytes;
      })(),
    ],
  ])('refuses %s', (_what, bytes) => {
    expect(() => checkOperation(bytes, 0, bytes.length)).toThrow(expect.objectContaining({ code: 'ERR_CORRUPT' }));
  });

  test('only a batch takes more than one sequence number; what is prepared or resolved takes none', () => {
    expect(good.map(([, bytes]) => operationSpan(bytes, 0))).toEqual([1, 1, 1, 1, 1, 3, 1, 1, 1, 1, 1, 1, 0, 0, 0]);
    expect(operationSpan(record({ kind: ApplyBatch, value: reference(1, 2, 0, 0) }), 0)).toBe(1);
  });

  test('space, expiry and key are read back as they were written', () => {
    fc.assert(
      fc.property(
        fc.nat(SPACE_ID_MAX),
        fc.maxSafeNat().map((n) => n % 2 ** 48),
        fc.uint8Array({ maxLength: 20 }),
        (space, expiresAt, key) => {
          const bytes = record({ kind: Put, key, value: text('value'), extension: [space, expiresAt] });
          expect(checkOperation(bytes, 0, bytes.length)).toBe(bytes.length);
          expect([readOperationSpace(bytes, 0), readOperationExpiry(bytes, 0)]).toEqual([space, expiresAt]);
          const keyAt = operationKeyAt(bytes, 0);
          expect(bytes.subarray(keyAt, keyAt + key.length)).toEqual(Buffer.from(key));
        },
      ),
      { numRuns: runCount(200) },
    );
    const plain = record({ kind: Put, key: text('key'), value: text('value') });
    expect([readOperationSpace(plain, 0), readOperationExpiry(plain, 0), operationKeyAt(plain, 0)]).toEqual([0, 0, 8]);
  });

  test('ids, numbers, shards and writes of a transaction are read back as they were written', () => {
    const id = fc.integer({ min: 1, max: 2 ** 48 - 1 });
    const u32 = fc.nat(0xffffffff);
    fc.assert(
      fc.property(id, u32, u32, u32, fc.nat(2 ** 48 - 1), (txn, maskLow, maskHigh, client, number) => {
        const prepare = record({ kind: Prepare, key: prepareKey(txn, maskLow, maskHigh, client), value: twoWrites });
        expect(checkOperation(prepare, 0, prepare.length)).toBe(prepare.length);
        expect(readPrepareKey(prepare, 0)).toEqual({ id: txn, maskLow, maskHigh, client });
        expect(checkWrites(prepare, prepare.length - twoWrites.length, prepare.length)).toBe(2);
        const resolve = record({ kind: Resolve, key: resolveKey(txn, number) });
        expect(checkOperation(resolve, 0, resolve.length)).toBe(resolve.length);
        expect([readTransactionId(resolve, 0), readResolveNumber(resolve, 0)]).toEqual([txn, number]);
      }),
      { numRuns: runCount(200) },
    );
  });

  test('a blob reference out of range is refused', () => {
    for (const offset of [-1, 0.5, Infinity, NaN, MAX_VALUE_BYTES + 1]) {
      expect(() => readBlobReference(reference(1, 2, offset, 0), 0), String(offset)).toThrow(
        expect.objectContaining({ code: 'ERR_CORRUPT' }),
      );
    }
  });

  test('what a header says is what was written', () => {
    fc.assert(
      fc.property(
        fc.constantFrom(...Object.values(OperationKind)),
        fc.nat(1),
        fc.nat(0xffff),
        fc.nat(0xffffffff),
        (kind, flags, keyLength, valueLength) => {
          const bytes = Buffer.alloc(OPERATION_HEADER_BYTES + 3, 0xff);
          writeOperationHeader(bytes, 3, kind, flags, keyLength, valueLength);
          expect([bytes[3], bytes[4], readKeyLength(bytes, 3), readValueLength(bytes, 3)]).toEqual([
            kind,
            flags,
            keyLength,
            valueLength,
          ]);
        },
      ),
      { numRuns: runCount(200) },
    );
  });

  test('any bytes are refused with a code, or are a record that lies inside them', () => {
    // Headers that are nearly right get further than noise does.
    const nearly = fc
      .tuple(fc.nat(10), fc.oneof(fc.nat(4), fc.constant(64), fc.integer({ min: 128, max: 132 })), fc.nat(40), fc.nat(40), fc.uint8Array({ maxLength: 64 }))
      .map(([kind, flags, keyLength, valueLength, rest]) => {
        const bytes = Buffer.alloc(OPERATION_HEADER_BYTES + rest.length);
        writeOperationHeader(bytes, 0, kind, flags, keyLength, valueLength);
        bytes.set(rest, OPERATION_HEADER_BYTES);
        return bytes;
      });
    fc.assert(
      fc.property(fc.oneof(fc.uint8Array({ maxLength: 80 }), nearly), fc.nat(8), (bytes, at) => {
        let size: number;
        try {
          size = checkOperation(bytes, at, bytes.length);
        } catch (error) {
          expect(error).toBeInstanceOf(ConcordError);
          expect((error as ConcordError).code).toBe('ERR_CORRUPT');
          return;
        }
        expect(size % 4).toBe(0);
        expect(at + size).toBeLessThanOrEqual(bytes.length);
        expect(OPERATION_HEADER_BYTES + readKeyLength(bytes, at) + readValueLength(bytes, at)).toBeLessThanOrEqual(
          size,
        );
      }),
      { numRuns: runCount(2000) },
    );
  });
});
