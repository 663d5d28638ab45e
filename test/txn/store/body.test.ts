/** The body of a transaction's requests: what is written is read back, and no bytes whatever get past the check. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { SPACE_ID_MAX } from '../../../dist/engines/engine.js';
import {
  OPERATION_JOINED,
  OperationKind,
  checkOperation,
  operationKeyAt,
  readKeyLength,
  readOperationExpiry,
  readOperationSpace,
  readValueLength,
} from '../../../dist/engines/operation.js';
import { BODY_HEADER_BYTES, TransactionBody, TransactionBodyWriter } from '../../../dist/engines/txn/body.js';
import type { BodyIsolation } from '../../../dist/engines/txn/body.js';
import { ConcordError } from '../../../dist/shared/errors.js';
import { runCount } from '../../support/pool-scene.js';

interface Range {
  readonly space: number;
  readonly low: Uint8Array | undefined;
  readonly high: Uint8Array | undefined;
}

interface Fields {
  readonly isolation: BodyIsolation;
  readonly isPessimistic: boolean;
  readonly id: number;
  readonly snapshot: number;
  readonly readMs: number;
  readonly maskLow: number;
  readonly maskHigh: number;
  readonly lockEpoch: number;
  readonly priority: number;
  readonly age: number;
  readonly waitMs: number;
  readonly reads: readonly { readonly space: number; readonly key: Uint8Array; readonly seq: number }[];
  readonly ranges: readonly Range[];
  readonly writes: readonly {
    readonly space: number;
    readonly key: Uint8Array;
    /** Undefined: a delete. */
    readonly value: Uint8Array | undefined;
    readonly expiresAt: number;
  }[];
}

const number48 = fc.oneof(
  fc.constantFrom(0, 1, 2 ** 48 - 1),
  fc.maxSafeNat().map((n) => n % 2 ** 48),
);
const u32 = fc.nat(0xffffffff);
const space = fc.oneof(fc.constant(0), fc.nat(SPACE_ID_MAX));
const key = fc.oneof(fc.uint8Array({ maxLength: 24 }), fc.uint8Array({ minLength: 60, maxLength: 70 }));
const bound = fc.option(key, { nil: undefined });
const fields: fc.Arbitrary<Fields> = fc.record({
  isolation: fc.constantFrom<BodyIsolation>(0, 2),
  isPessimistic: fc.boolean(),
  id: number48,
  snapshot: number48,
  readMs: fc.nat(2 ** 31 - 1).map((ms) => ms * 1000 + 0.25),
  maskLow: u32,
  maskHigh: u32,
  lockEpoch: u32,
  priority: fc.integer({ min: -1000, max: 1000 }),
  age: number48,
  waitMs: u32,
  reads: fc.array(fc.record({ space, key, seq: number48 }), { maxLength: 6 }),
  ranges: fc.array(fc.record({ space, low: bound, high: bound }), { maxLength: 4 }),
  writes: fc.array(
    fc.record({
      space,
      key,
      value: fc.option(fc.uint8Array({ maxLength: 90 }), { nil: undefined }),
      expiresAt: fc.oneof(fc.constant(0), number48),
    }),
    { maxLength: 6 },
  ),
});

function write(writer: TransactionBodyWriter, body: Fields): void {
  const { isolation, isPessimistic, id, snapshot, readMs, maskLow, maskHigh, lockEpoch } = body;
  writer.begin(isolation, isPessimistic, id, snapshot, readMs, maskLow, maskHigh, lockEpoch);
  writer.waitAs(body.priority, body.age, body.waitMs);
  expect(writer.id).toBe(id);
  for (const { space, key, seq } of body.reads) writer.addRead(space, key, key.length, seq);
  for (const { space, low, high } of body.ranges) writer.addRange(space, low, high);
  for (const { space, key, value, expiresAt } of body.writes) {
    if (value === undefined) writer.addDel(space, key, key.length);
    else writer.addPut(space, key, key.length, value, value.length, expiresAt);
  }
  expect([writer.reads, writer.ranges, writer.writes]).toEqual([
    body.reads.length,
    body.ranges.length,
    body.writes.length,
  ]);
  expect(writer.seal()).toBe(writer);
}

/** All that a body says, as plain values. */
function read(body: TransactionBody): Fields {
  const { bytes, isolation, isPessimistic, id, snapshot, readMs, maskLow, maskHigh, lockEpoch } = body;
  const { priority, age, waitMs } = body;
  const slice = (start: number, length: number): Uint8Array => {
    expect(start >= 0 && start + length <= bytes.length).toBe(true);
    return Uint8Array.from(bytes.subarray(start, start + length));
  };
  const reads = [];
  for (body.rewindReads(); body.nextRead();)
    reads.push({ space: body.readSpace, key: slice(body.keyStart, body.keyLength), seq: body.readSeq });
  const ranges = [];
  for (body.rewindRanges(); body.nextRange();) {
    ranges.push({
      space: body.rangeSpace,
      low: body.lowLength < 0 ? undefined : slice(body.lowStart, body.lowLength),
      high: body.highLength < 0 ? undefined : slice(body.highStart, body.highLength),
    });
  }
  const writes = [];
  for (let at = body.writesStart; at < body.writesEnd; at += checkOperation(bytes, at, body.writesEnd)) {
    const keyAt = operationKeyAt(bytes, at);
    const valueAt = keyAt + readKeyLength(bytes, at);
    const isPut = bytes[at] === OperationKind.Put;
    writes.push({
      space: readOperationSpace(bytes, at),
      key: slice(keyAt, readKeyLength(bytes, at)),
      value: isPut ? slice(valueAt, readValueLength(bytes, at)) : undefined,
      expiresAt: readOperationExpiry(bytes, at),
    });
    const isLast = at + checkOperation(bytes, at, body.writesEnd) === body.writesEnd;
    expect((bytes[at + 1]! & OPERATION_JOINED) !== 0).toBe(!isLast);
  }
  return {
    isolation,
    isPessimistic,
    id,
    snapshot,
    readMs,
    maskLow,
    maskHigh,
    lockEpoch,
    priority,
    age,
    waitMs,
    reads,
    ranges,
    writes,
  };
}

function expected(body: Fields): Fields {
  return {
    ...body,
    writes: body.writes.map((one) => ({ ...one, expiresAt: one.value === undefined ? 0 : one.expiresAt })),
  };
}

/** Copies the body to a place of its own, with other bytes before and behind it. */
function placed(writer: TransactionBodyWriter, before: number): Uint8Array {
  const bytes = new Uint8Array(before + writer.length + 11).fill(0xab);
  bytes.set(writer.bytes.subarray(0, writer.length), before);
  return bytes;
}

describe('the body of a transaction', () => {
  test('is read back as it was written, by one reader and one writer, wherever it stands', () => {
    const writer = new TransactionBodyWriter();
    const reader = new TransactionBody();
    fc.assert(
      fc.property(fields, fc.nat(17), (body, before) => {
        write(writer, body);
        const bytes = placed(writer, before);
        expect(read(reader.open(bytes, before, before + writer.length))).toEqual(expected(body));
      }),
      { numRuns: runCount(400) },
    );
  });

  test('begins with a header of 72 bytes, and its writes stand on a multiple of 8', () => {
    const writer = new TransactionBodyWriter();
    writer.begin(2, true, 0, 0, 0, 1, 0, 3);
    writer.waitAs(-2, 7, 300);
    writer.addRead(5, Buffer.from('k'), 1, 9);
    writer.addRange(6, undefined, Buffer.from('high'));
    writer.addDel(0, Buffer.from('k'), 1);
    const { bytes, length } = writer.seal();
    expect(BODY_HEADER_BYTES).toBe(72);
    expect(bytes.readUInt32LE(0)).toBe(2 | 4);
    expect(bytes.readUInt32LE(4)).toBe(72 + 24 + 16);
    expect(length).toBe(72 + 24 + 16 + 12);
    expect(bytes.subarray(56, length).toString('hex')).toBe(
      'feffffff' +
        '2c010000' +
        '0000000000001c40' +
        '0000000000002240' +
        '05000000' +
        '0100' +
        '0000' +
        '6b00000000000000' +
        '06000000' +
        'ffff' +
        '0400' +
        '68696768' +
        '00000000' +
        '0200010000000000' +
        '6b000000',
    );
  });

  test('has room for a transaction of megabytes, and the writer gives that memory back', () => {
    const writer = new TransactionBodyWriter();
    const value = Buffer.alloc(300_000, 7);
    writer.begin(0, false, 1, 0, 0, 1, 0, 0);
    for (let i = 0; i < 10; i++) writer.addPut(0, Buffer.from(`key-${i}`), 5, value, value.length, 0);
    const { bytes, length } = writer.seal();
    expect(length).toBeGreaterThan(3_000_000);
    const { writes } = read(new TransactionBody().open(bytes, 0, length));
    expect(writes.map((one) => Buffer.compare(one.value!, value))).toEqual(Array(10).fill(0));
    writer.begin(0, false, 1, 0, 0, 1, 0, 0);
    expect(writer.bytes.length).toBeLessThan(100_000);
  });

  test('takes reads, ranges and writes in this order only', () => {
    const writer = new TransactionBodyWriter();
    const one = Buffer.from('k');
    const code = expect.objectContaining({ code: 'ERR_INTERNAL' });
    writer.begin(2, false, 0, 0, 0, 0, 0, 0);
    writer.addRange(0, undefined, undefined);
    expect(() => writer.addRead(0, one, 1, 1)).toThrow(code);
    writer.addDel(0, one, 1);
    expect(() => writer.addRange(0, one, one)).toThrow(code);
    expect(() => writer.addRead(0, one, 1, 1)).toThrow(code);
  });

  test('cut off anywhere it is refused', () => {
    const writer = new TransactionBodyWriter();
    writer.begin(2, false, 7, 8, 9, 3, 0, 0);
    writer.addRead(0, Buffer.from('read'), 4, 5);
    writer.addRange(1, Buffer.from('low'), undefined);
    writer.addPut(0, Buffer.from('key'), 3, Buffer.from('value'), 5, 0);
    writer.addPut(2, Buffer.from('key'), 3, Buffer.from('value'), 5, 99);
    const { bytes, length } = writer.seal();
    const whole = Uint8Array.from(bytes.subarray(0, length));
    for (let end = 0; end < length; end++) {
      for (const cut of [whole.subarray(0, end), whole])
        expect(() => new TransactionBody().open(cut, 0, end), `end ${end}`).toThrow(
          expect.objectContaining({ code: 'ERR_CORRUPT' }),
        );
    }
  });

  const patches: [string, (bytes: Buffer) => void][] = [
    ['an unknown flag', (bytes) => bytes.writeUInt32LE(8, 0)],
    ['an unknown isolation', (bytes) => bytes.writeUInt32LE(1, 0)],
    ['writes at no multiple of 8', (bytes) => bytes.writeUInt32LE(bytes.readUInt32LE(4) - 4, 4)],
    ['writes within the header', (bytes) => bytes.writeUInt32LE(64, 4)],
    ['writes behind the end', (bytes) => bytes.writeUInt32LE(0xfffffff8, 4)],
    ['an id that is no integer', (bytes) => bytes.writeDoubleLE(0.5, 8)],
    ['an id below zero', (bytes) => bytes.writeDoubleLE(-1, 8)],
    ['a snapshot beyond all', (bytes) => bytes.writeDoubleLE(2 ** 48, 16)],
    ['a snapshot that is no number', (bytes) => bytes.writeDoubleLE(NaN, 16)],
    ['a time before time', (bytes) => bytes.writeDoubleLE(-1, 24)],
    ['no time', (bytes) => bytes.writeDoubleLE(NaN, 24)],
    ['a read more', (bytes) => bytes.writeUInt32LE(2, 32)],
    ['a read less', (bytes) => bytes.writeUInt32LE(0, 32)],
    ['reads without number', (bytes) => bytes.writeUInt32LE(0xffffffff, 32)],
    ['a range more', (bytes) => bytes.writeUInt32LE(2, 36)],
    ['a range less', (bytes) => bytes.writeUInt32LE(0, 36)],
    ['ranges without number', (bytes) => bytes.writeUInt32LE(0xffffffff, 36)],
    ['a write more', (bytes) => bytes.writeUInt32LE(3, 40)],
    ['a write less', (bytes) => bytes.writeUInt32LE(1, 40)],
    ['an age that is no integer', (bytes) => bytes.writeDoubleLE(0.5, 64)],
    ['a read of a version that cannot be', (bytes) => bytes.writeDoubleLE(-0, 72)],
    ['a read of a space that cannot be', (bytes) => bytes.writeUInt32LE(SPACE_ID_MAX + 1, 80)],
    ['a read of a key beyond its place', (bytes) => bytes.writeUInt16LE(900, 84)],
    ['a read whose zeros are none', (bytes) => bytes.writeUInt16LE(1, 86)],
    ['a range of a space that cannot be', (bytes) => bytes.writeUInt32LE(SPACE_ID_MAX + 1, 96)],
    ['a range with a bound beyond its place', (bytes) => bytes.writeUInt16LE(900, 102)],
    ['a write of another kind', (bytes) => (bytes[bytes.readUInt32LE(4)] = OperationKind.ClearRange)],
    ['writes that are not joined', (bytes) => (bytes[bytes.readUInt32LE(4) + 1] = 0)],
  ];

  test.each(patches)('with %s it is refused', (_what, patch) => {
    const writer = new TransactionBodyWriter();
    writer.begin(2, false, 7, 8, 9, 3, 0, 0);
    writer.addRead(0, Buffer.from('read'), 4, 5);
    writer.addRange(1, Buffer.from('low'), undefined);
    writer.addPut(0, Buffer.from('key'), 3, Buffer.from('value'), 5, 0);
    writer.addDel(0, Buffer.from('other'), 5);
    const { bytes, length } = writer.seal();
    new TransactionBody().open(bytes, 0, length);
    patch(bytes);
    expect(() => new TransactionBody().open(bytes, 0, length)).toThrow(
      expect.objectContaining({ code: 'ERR_CORRUPT' }),
    );
  });

  test('of any bytes it is refused with a code, or all it names lies inside them', () => {
    const writer = new TransactionBodyWriter();
    const reader = new TransactionBody();
    const broken = fc
      .tuple(fields, fc.array(fc.tuple(fc.nat(400), fc.nat(255)), { maxLength: 4 }))
      .map(([body, changes]) => {
        write(writer, body);
        const bytes = Uint8Array.from(writer.bytes.subarray(0, writer.length));
        for (const [at, byte] of changes) if (at < bytes.length) bytes[at] = byte;
        return bytes;
      });
    fc.assert(
      fc.property(fc.oneof(broken, fc.uint8Array({ maxLength: 200 })), fc.nat(9), (bytes, before) => {
        // Bytes behind the end that would be taken for more of it.
        const around = new Uint8Array(before + bytes.length + 64).fill(1);
        around.set(bytes, before);
        const alone = outcome(() => read(reader.open(bytes, 0, bytes.length)));
        expect(outcome(() => read(reader.open(around, before, before + bytes.length)))).toEqual(alone);
      }),
      { numRuns: runCount(1500) },
    );
  });
});

function outcome(call: () => Fields): unknown {
  try {
    return call();
  } catch (error) {
    if (!(error instanceof ConcordError)) throw error;
    expect(error.code).toBe('ERR_CORRUPT');
    return 'refused';
  }
}
