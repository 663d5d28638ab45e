import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  readVarint32,
  readVarint53,
  varintBytes,
  VARINT53_BYTES_MAX,
  writeVarint32,
  writeVarint53,
} from '../../../dist/shared/codec/varint.js';
import { expectGolden, hex } from './golden-file.js';

const U32_MAX = 2 ** 32 - 1;

/** Around every power of two that a codec treats specially. */
function edges(max: number): number[] {
  const values = new Set([0, max]);
  for (let bit = 0; 2 ** bit <= max; bit++)
    for (const d of [-1, 0, 1]) if (2 ** bit + d <= max) values.add(2 ** bit + d);
  return [...values].sort((a, b) => a - b);
}

/** Textbook LEB128 on bigints. */
function reference(value: number): string {
  const bytes: number[] = [];
  let rest = BigInt(value);
  do {
    const low = Number(rest & 0x7fn);
    rest >>= 7n;
    bytes.push(rest > 0n ? low | 0x80 : low);
  } while (rest > 0n);
  return Buffer.from(bytes).toString('hex');
}

const kinds = [
  { name: 'u32', max: U32_MAX, bytesMax: 5, write: writeVarint32, read: readVarint32 },
  { name: 'u53', max: Number.MAX_SAFE_INTEGER, bytesMax: VARINT53_BYTES_MAX, write: writeVarint53, read: readVarint53 },
];

describe.each(kinds)('varint $name', ({ max, bytesMax, write, read }) => {
  function check(value: number): void {
    const bytes = Buffer.alloc(12, 0xee);
    const end = write(bytes, 1, value);
    expect(bytes.subarray(1, end).toString('hex')).toBe(reference(value));
    expect(varintBytes(value)).toBe(end - 1);
    expect(read(bytes, 1, end)).toBe(value);
    expect(bytes[0]).toBe(0xee);
    expect(bytes[end]).toBe(0xee);
    for (let cut = 1; cut < end; cut++) expect(read(bytes, 1, cut)).toBe(-1);
  }

  test('edges are LEB128, read back, and are refused when cut short', () => {
    for (const value of edges(max)) check(value);
  });

  test('any value is', () => {
    fc.assert(
      fc.property(
        fc.maxSafeNat().map((n) => n % (max + 1)),
        check,
      ),
    );
  });

  test('whatever bytes are read, the number written again is those bytes', () => {
    const byte = fc.oneof(fc.constantFrom(0, 1, 0x0f, 0x10, 0x7f, 0x80, 0x81, 0xff), fc.integer({ min: 0, max: 255 }));
    let accepted = 0;
    fc.assert(
      fc.property(fc.array(byte, { maxLength: 11 }), (array) => {
        const bytes = Uint8Array.from(array);
        const value = read(bytes, 0, bytes.length);
        if (value === -1) return;
        accepted++;
        expect(value).toBeLessThanOrEqual(max);
        const again = Buffer.alloc(bytesMax);
        const end = write(again, 0, value);
        expect(hex(bytes.subarray(0, end))).toBe(hex(again.subarray(0, end)));
      }),
      { numRuns: 2000 },
    );
    expect(accepted).toBeGreaterThan(100);
  });

  test.each([
    ['nothing', ''],
    ['an overlong zero', '8000'],
    ['an overlong one', '818000'],
    ['continuation without end', 'ffffffffffffffffffff'],
    ['one more than the maximum', max === U32_MAX ? '8080808010' : '8080808080808010'],
    ['one byte more than the maximum length', max === U32_MAX ? '808080808001' : '808080808080808001'],
  ])('%s is refused', (_, text) => {
    const bytes = Buffer.from(text, 'hex');
    expect(read(bytes, 0, bytes.length)).toBe(-1);
  });

  test.each([-1, 0.5, NaN, Infinity, max + 1])('writing %d breaks an invariant', (value) => {
    expect(() => write(Buffer.alloc(16), 0, value)).toThrow(expect.objectContaining({ code: 'ERR_INTERNAL' }));
  });
});

test('varints on disk are these bytes', () => {
  const lines = [0, 1, 127, 128, 300, 16383, 16384, U32_MAX, 2 ** 32, 2 ** 48 - 1, Number.MAX_SAFE_INTEGER].map(
    (value) => {
      const bytes = Buffer.alloc(8);
      return [hex(bytes.subarray(0, writeVarint53(bytes, 0, value))), String(value)] as const;
    },
  );
  expectGolden('codec-varint.txt', lines);
});
