/** The order in which groups and batches are applied. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  OPERATION_EXTENDED,
  OPERATION_EXTENSION_BYTES,
  OperationKind,
  operationBytes,
  operationKeyAt,
  writeOperationExtension,
  writeOperationHeader,
} from '../../../dist/engines/operation.js';
import { GroupOrder } from '../../../dist/engines/store/group-order.js';

interface Record {
  key: Uint8Array;
  /** Undefined: a short record. */
  expiresAt?: number | undefined;
  kind?: number;
}

function encode(records: readonly Record[]): { bytes: Buffer; recordAt: Int32Array } {
  const recordAt = new Int32Array(records.length);
  const sizes = records.map(({ key, expiresAt }) =>
    operationBytes(key.length, 4, expiresAt === undefined ? 0 : OPERATION_EXTENSION_BYTES),
  );
  const bytes = Buffer.alloc(sizes.reduce((sum, size) => sum + size, 0));
  let at = 0;
  records.forEach(({ key, expiresAt, kind = OperationKind.Put }, index) => {
    const flags = expiresAt === undefined ? 0 : OPERATION_EXTENDED;
    writeOperationHeader(bytes, at, kind, flags, key.length, 4);
    if (expiresAt !== undefined) writeOperationExtension(bytes, at, 0, expiresAt);
    bytes.set(key, operationKeyAt(bytes, at));
    recordAt[index] = at;
    at += sizes[index]!;
  });
  return { bytes, recordAt };
}

function sorted(records: readonly Record[]): number[] | undefined {
  const { bytes, recordAt } = encode(records);
  const order = new GroupOrder();
  return order.sort(bytes, recordAt, records.length, 0) ? [...order.order.subarray(0, records.length)] : undefined;
}

/** How far records stand from where a full sort by key would put them. */
function displacementMax(records: readonly Record[], order: readonly number[]): number {
  const exact = records
    .map((record, index) => ({ key: Buffer.from(record.key), index }))
    .sort((a, b) => a.key.compare(b.key) || a.index - b.index);
  const rank = new Int32Array(records.length);
  exact.forEach(({ index }, at) => (rank[index] = at));
  return order.reduce((max, index, at) => Math.max(max, Math.abs(rank[index]! - at)), 0);
}

describe('group order', () => {
  it('is a permutation that keeps the order of equal keys, with and without extensions, for any keys', () => {
    const key = fc.oneof(
      fc.uint8Array({ maxLength: 3 }),
      fc.uint8Array({ maxLength: 40 }),
      fc.constantFrom('a', 'a\0', 'a\0\0\0\0\0\0\0\0b', '').map((text) => Uint8Array.from(Buffer.from(text))),
    );
    const record = fc.record({ key, expiresAt: fc.option(fc.nat(1_000_000), { nil: undefined }) });
    fc.assert(
      fc.property(fc.array(record, { minLength: 8, maxLength: 900, size: 'max' }), (records) => {
        const order = sorted(records)!;
        expect([...order].sort((a, b) => a - b)).toEqual(records.map((_, index) => index));
        const last = new Map<string, number>();
        for (const index of order) {
          const text = Buffer.from(records[index]!.key).toString('hex');
          expect(last.get(text) ?? -1).toBeLessThan(index);
          last.set(text, index);
        }
      }),
      { numRuns: 150 },
    );
  });

  for (const [name, keyOf] of [
    ['numbers behind a common prefix', (index: number) => `user:${String(index).padStart(12, '0')}`],
    [
      'two prefixes and no common one',
      (index: number) => `${index % 2 === 0 ? 'user' : 'post'}:${String(index).padStart(12, '0')}`,
    ],
    ['long keys that differ at their end', (index: number) => `${'x'.repeat(300)}${index}`],
    ['keys of which each begins the next', (index: number) => 'y'.repeat(index % 200) + String(index)],
  ] as const) {
    it(`brings a hundred thousand keys near to their places: ${name}`, () => {
      const records: Record[] = [];
      for (let index = 0; index < 100_000; index++) records.push({ key: Buffer.from(keyOf((index * 7919) % 100_000)) });
      expect(displacementMax(records, sorted(records)!)).toBeLessThan(64);
    });
  }

  it('leaves few records, and groups with anything but puts and deletes, as they are', () => {
    const records = Array.from({ length: 20 }, (_, index): Record => ({ key: Buffer.from(String(99 - index)) }));
    expect(sorted(records.slice(0, 7))).toBeUndefined();
    expect(sorted(records)).toEqual(records.map((_, index) => 19 - index));
    records[3]!.kind = OperationKind.ClearRange;
    expect(sorted(records)).toBeUndefined();
  });

  it('of a small group after a large one is right too', () => {
    const order = new GroupOrder();
    for (const count of [9, 5000, 10, 4097, 8]) {
      const records = Array.from({ length: count }, (_, index): Record => ({
        key: Buffer.from([255 - (index >> 8), 255 - (index & 255)]),
      }));
      const { bytes, recordAt } = encode(records);
      expect(order.sort(bytes, recordAt, count, 0)).toBe(true);
      expect(displacementMax(records, [...order.order.subarray(0, count)])).toBe(0);
    }
  });
});
