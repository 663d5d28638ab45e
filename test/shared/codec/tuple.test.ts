import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { KeyScratch, MAX_KEY_BYTES } from '../../../dist/shared/codec/key-encoding.js';
import {
  decodeTuple,
  encodeTuple,
  TUPLE_DEPTH_MAX,
  tuplePrefixEnd,
  type Tuple,
} from '../../../dist/shared/codec/tuple.js';
import { expectGolden, hex } from './golden-file.js';
import { compareTuples, elements, tuples } from './tuple-arbitrary.js';

function encode(tuple: unknown): Buffer {
  // One byte to begin with, so that every step has to grow it.
  const scratch = new KeyScratch(1);
  return copy(scratch, encodeTuple(tuple, scratch));
}

/** Of all tuples that begin with these elements: gte ≤ key < lt. */
function tuplePrefixRange(prefix: Tuple): { gte: Buffer; lt: Buffer | undefined } {
  const gte = encode(prefix);
  return { gte, lt: tuplePrefixEnd(gte, gte.length) };
}

function copy(scratch: KeyScratch, length: number): Buffer {
  return Buffer.from(scratch.bytes.subarray(0, length));
}

function decode(bytes: Buffer): unknown[] {
  return decodeTuple(bytes, 0, bytes.length);
}

function nested(depth: number): unknown[] {
  let tuple: unknown[] = [];
  for (let i = 1; i < depth; i++) tuple = [tuple];
  return tuple;
}

const coded = (code: string): unknown => expect.objectContaining({ code });

test('tuples on disk are these bytes', () => {
  const samples: [string, Tuple][] = [
    ['[]', []],
    ['[null, false, true]', [null, false, true]],
    ['[0]', [0]],
    ['[-0]', [-0]],
    ['[1]', [1]],
    ['[-1]', [-1]],
    ['[0.1]', [0.1]],
    ['[Infinity]', [Infinity]],
    ['[-Infinity]', [-Infinity]],
    ['[0n]', [0n]],
    ['[1n]', [1n]],
    ['[-1n]', [-1n]],
    ['[256n, -256n]', [256n, -256n]],
    ['[2n ** 64n]', [2n ** 64n]],
    ['[-(2n ** 64n)]', [-(2n ** 64n)]],
    ['[2n ** 999n] (125 bytes of magnitude, short form)', [2n ** 999n]],
    ['[2n ** 1000n] (126 bytes, long form)', [2n ** 1000n]],
    ['[-(2n ** 1000n)]', [-(2n ** 1000n)]],
    ["['']", ['']],
    ["['a', 'b']", ['a', 'b']],
    ["['a\\0b']", ['a\0b']],
    ["['Zürich', '😀']", ['Zürich', '😀']],
    ['[bytes 00 ff 01]', [Uint8Array.of(0, 0xff, 1)]],
    ['[new Date(0)]', [new Date(0)]],
    ["[new Date('2024-02-29T12:00:00Z')]", [new Date('2024-02-29T12:00:00Z')]],
    ['[[]]', [[]]],
    ["[['a', [null]], 1]", [['a', [null]], 1]],
    ["['city', 'DE', 'Berlin', 2950159]", ['city', 'DE', 'Berlin', 2950159]],
  ];
  expectGolden(
    'codec-tuple.txt',
    samples.map(([what, tuple]) => [hex(encode(tuple)), what]),
  );
  for (const [, tuple] of samples) expect(decode(encode(tuple))).toEqual(tuple);
});

describe('any tuple', () => {
  test('decodes to what was encoded, at any offset', () => {
    fc.assert(
      fc.property(tuples, fc.nat(9), (tuple, at) => {
        const bytes = encode(tuple);
        const padded = Buffer.concat([Buffer.alloc(at, 0xff), bytes, Buffer.alloc(3, 0x05)]);
        expect(decodeTuple(padded, at, at + bytes.length)).toEqual(tuple);
      }),
      { numRuns: 500 },
    );
  });

  test('sorts by its bytes as by its elements', () => {
    fc.assert(
      fc.property(tuples, tuples, (a, b) => {
        expect(Buffer.compare(encode(a), encode(b))).toBe(compareTuples(a, b));
      }),
      { numRuns: 2000 },
    );
  });

  test('sorts so too when two tuples differ late or are prefixes of each other', () => {
    fc.assert(
      fc.property(tuples, tuples, tuples, (head, a, b) => {
        const left = [...head, ...a];
        const right = [...head, ...b];
        expect(Buffer.compare(encode(left), encode(right))).toBe(compareTuples(left, right));
        const deepLeft = [head, a];
        const deepRight = [head, b];
        expect(Buffer.compare(encode(deepLeft), encode(deepRight))).toBe(compareTuples(deepLeft, deepRight));
      }),
      { numRuns: 1000 },
    );
  });

  test('lies in the prefix range of its own beginnings, and of no other', () => {
    fc.assert(
      fc.property(tuples, tuples, (prefix, tuple) => {
        const { gte, lt } = tuplePrefixRange(prefix);
        const begins = tuple.length >= prefix.length && compareTuples(tuple.slice(0, prefix.length), prefix) === 0;
        expect(inRange(encode(tuple), gte, lt)).toBe(begins);
        expect(inRange(encode([...prefix, ...tuple]), gte, lt)).toBe(true);
      }),
      { numRuns: 1000 },
    );
  });

  test('is never confused by a change of one element', () => {
    fc.assert(
      fc.property(tuples, elements, elements, (head, a, b) => {
        const same = compareTuples([a], [b]) === 0;
        expect(encode([...head, a]).equals(encode([...head, b]))).toBe(same);
      }),
      { numRuns: 500 },
    );
  });
});

function inRange(key: Buffer, gte: Buffer, lt: Buffer | undefined): boolean {
  return Buffer.compare(key, gte) >= 0 && (lt === undefined || Buffer.compare(key, lt) < 0);
}

describe('bytes that are no tuple', () => {
  /** Decodes to ERR_DECODE or to a tuple whose encoding is these bytes. */
  function survives(bytes: Buffer): boolean {
    let tuple: unknown[];
    try {
      tuple = decode(bytes);
    } catch (error) {
      expect(error).toEqual(coded('ERR_DECODE'));
      return false;
    }
    expect(hex(encode(tuple))).toBe(hex(bytes));
    return true;
  }

  test('are refused, or are exactly the encoding of what they decode to', () => {
    const tag = fc.constantFrom(
      0x00,
      0x05,
      0x10,
      0x11,
      0x20,
      0x30,
      0x40,
      0x50,
      0x60,
      0x70,
      0x7f,
      0x80,
      0x81,
      0xfe,
      0xff,
    );
    const bytes = fc.array(fc.oneof(tag, fc.integer({ min: 0, max: 255 })), { maxLength: 40 });
    let accepted = 0;
    fc.assert(
      fc.property(bytes, (array) => {
        if (survives(Buffer.from(array))) accepted++;
      }),
      { numRuns: 20_000 },
    );
    expect(accepted).toBeGreaterThan(100);
  });

  test('are so too after any one byte of a valid tuple was changed, cut or added', () => {
    fc.assert(
      fc.property(tuples, fc.nat(), fc.integer({ min: 0, max: 255 }), (tuple, position, byte) => {
        const bytes = encode(tuple);
        const at = bytes.length === 0 ? 0 : position % bytes.length;
        const changed = Buffer.from(bytes);
        if (changed.length > 0) changed[at] = byte;
        survives(changed);
        survives(bytes.subarray(0, at));
        survives(Buffer.concat([bytes.subarray(0, at), Buffer.of(byte), bytes.subarray(at)]));
      }),
      { numRuns: 3000 },
    );
  });

  test.each([
    ['an unknown tag', '06'],
    ['a terminator outside a nested tuple', '00'],
    ['a cut number', '208000000000'],
    ['NaN', '20fff8000000000000'],
    ['NaN with the sign bit', '200007ffffffffffff'],
    ['a cut date', '4080'],
    ['a fractional date', '40bfe0000000000000'],
    ['a date of -0', '407fffffffffffffff'],
    ['a date beyond the calendar', `40${'c33eb208c2dc0001'}`],
    ['an infinite date', '40fff0000000000000'],
    ['a string without end', '5061'],
    ['a string that ends in an escape', '506100ff'],
    ['bytes without end', '6061'],
    ['overlong UTF-8', '50c08000'],
    ['a surrogate in UTF-8', '50eda08000'],
    ['a cut UTF-8 character', '50e282000500'],
    ['malformed UTF-8 beside a real U+FFFD', '50efbfbdff00'],
    ['malformed UTF-8 beside an escape', '5000ffff00'],
    ['a nested tuple without end', '7005'],
    ['a bigint without header', '30'],
    ['a bigint of header 7f', '307f'],
    ['a bigint of header ff', '30ff'],
    ['a bigint of header 00', '3000'],
    ['a cut bigint', '3082ff'],
    ['a bigint with a leading zero', '30820001'],
    ['a negative bigint with a leading zero', '307dfffe'],
    ['a long bigint that is short', `30fe0001ff`],
    ['a cut long bigint', '30fe01'],
  ])('%s is ERR_DECODE', (_, text) => {
    expect(() => decode(Buffer.from(text, 'hex'))).toThrow(coded('ERR_DECODE'));
  });

  test('nesting is bounded, so that no input overflows the stack', () => {
    expect(decode(encode(nested(TUPLE_DEPTH_MAX)))).toEqual(nested(TUPLE_DEPTH_MAX));
    expect(() => decode(Buffer.alloc(100_000, 0x70))).toThrow(coded('ERR_DECODE'));
    const closed = Buffer.alloc(2 * TUPLE_DEPTH_MAX, 0x70).fill(0, TUPLE_DEPTH_MAX);
    expect(() => decode(closed)).toThrow(/nesting deeper than 64/);
  });

  test('nothing is read beyond the end of the range', () => {
    const bytes = encode(['abc', 5]);
    expect(() => decodeTuple(bytes, 0, 4)).toThrow(coded('ERR_DECODE'));
    expect(decodeTuple(bytes, 0, 5)).toEqual(['abc']);
    expect(() => decodeTuple(bytes, 0, 6)).toThrow(coded('ERR_DECODE'));
  });
});

describe('what is no tuple', () => {
  const holey: unknown[] = [1];
  holey[2] = 3;
  const cyclic: unknown[] = [];
  cyclic.push(cyclic);
  test.each<[string, unknown, RegExp]>([
    ['a string', 'a', /must be an array, got string/],
    ['undefined', undefined, /got undefined/],
    ['an object', {}, /got an object/],
    ['an element undefined', [undefined], /cannot hold undefined/],
    ['a hole', holey, /cannot hold undefined/],
    ['a symbol', [Symbol('x')], /cannot hold symbol/],
    ['a function', [() => 1], /cannot hold function/],
    ['a plain object', [{}], /not an object/],
    ['a Map', [new Map()], /not a Map/],
    ['an ArrayBuffer', [new ArrayBuffer(1)], /not an ArrayBuffer/],
    ['a Float64Array', [new Float64Array(1)], /not a Float64Array/],
    ['an object without prototype', [Object.create(null)], /not an object/],
    ['NaN', [NaN], /NaN/],
    ['an invalid date', [new Date(NaN)], /invalid Date/],
    ['a lone high surrogate', ['a\ud800'], /lone surrogate/],
    ['a lone low surrogate', ['\udc00 and a text that is too long for the short loop'], /lone surrogate/],
    ['nesting beyond the limit', nested(TUPLE_DEPTH_MAX + 1), /nested deeper than 64/],
    ['a cycle', cyclic, /nested deeper than 64/],
  ])('%s is refused', (_, tuple, message) => {
    expect(() => encode(tuple)).toThrow(coded('ERR_INVALID_ARG'));
    expect(() => encode(tuple)).toThrow(message);
  });
});

describe('the limit of a key', () => {
  test.each<[string, (length: number) => Tuple, overhead: number]>([
    ['a string', (n) => ['x'.repeat(n)], 2],
    ['bytes', (n) => [new Uint8Array(n).fill(1)], 2],
    ['nulls', (n) => new Array<null>(n).fill(null), 0],
    ['nested nulls', (n) => [new Array<null>(n).fill(null)], 2],
    ['a bigint', (n) => [(1n << BigInt(8 * n)) - 1n], 4],
  ])('%s of exactly the limit fits, one byte more does not', (_, make, overhead) => {
    const tuple = make(MAX_KEY_BYTES - overhead);
    expect(encode(tuple).length).toBe(MAX_KEY_BYTES);
    expect(decode(encode(tuple))).toEqual(tuple);
    expect(() => encode(make(MAX_KEY_BYTES - overhead + 1))).toThrow(coded('ERR_KEY_TOO_LARGE'));
  });

  test('escapes count', () => {
    expect(encode(['\0'.repeat(2047)]).length).toBe(MAX_KEY_BYTES);
    expect(() => encode(['\0'.repeat(2048)])).toThrow(coded('ERR_KEY_TOO_LARGE'));
  });

  test.each<[string, unknown]>([
    ['string', ['x'.repeat(100_000_000)]],
    ['byte array', [new Uint8Array(100_000_000)]],
    ['bigint', [1n << 100_000_000n]],
  ])('a huge %s is refused without being encoded', (_, tuple) => {
    const scratch = new KeyScratch();
    expect(() => encodeTuple(tuple, scratch)).toThrow(coded('ERR_KEY_TOO_LARGE'));
    expect(scratch.bytes.length).toBeLessThan(64 * 1024);
  });
});

describe('prefix ranges', () => {
  test('the empty prefix has no upper end', () => {
    expect(tuplePrefixRange([])).toEqual({ gte: Buffer.alloc(0), lt: undefined });
  });

  test("['a'] does not find a string that goes on behind a zero byte", () => {
    const { gte, lt } = tuplePrefixRange(['a']);
    expect([hex(gte), hex(lt!)]).toEqual(['506100', '506100ff']);
    expect(inRange(encode(['a\0b']), gte, lt)).toBe(false);
    expect(inRange(encode(['a', [9]]), gte, lt)).toBe(true);
  });

  test('a prefix as long as the limit has a bound that is a legal key', () => {
    const scratch = new KeyScratch();
    const length = encodeTuple(['x'.repeat(MAX_KEY_BYTES - 2)], scratch);
    const bound = tuplePrefixEnd(scratch.bytes, length)!;
    expect(bound.length).toBeLessThanOrEqual(MAX_KEY_BYTES);
    expect(inRange(copy(scratch, length), copy(scratch, length), bound)).toBe(true);
  });
});

test('decoded bytes own their memory', () => {
  const bytes = encode([Uint8Array.of(1, 2, 3)]);
  const [value] = decode(bytes) as [Uint8Array];
  bytes.fill(9);
  expect(value).toEqual(Uint8Array.of(1, 2, 3));
  expect(value.buffer.byteLength).toBe(3);
});

test('tuples decode from shared memory', () => {
  const tuple = ['plain', 'Zürich \ufffd', 'a\0b', Uint8Array.of(0, 1), 12n, 1.5, new Date(5)];
  const bytes = encode(tuple);
  const shared = Buffer.from(new SharedArrayBuffer(bytes.length));
  shared.set(bytes);
  expect(decode(shared)).toEqual(tuple);
});
