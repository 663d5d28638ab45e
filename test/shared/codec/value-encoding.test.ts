import { isDeepStrictEqual } from 'node:util';
import { Encoder, ExtData } from '@msgpack/msgpack';
import fc from 'fast-check';
import { describe, expect, test, vi } from 'vitest';
import {
  binaryValues,
  type Encoded,
  encodedBytesMax,
  encodedToBytes,
  jsonValues,
  msgpackValues,
  resolveValueEncoding,
  utf8Values,
  type ValueEncoding,
  writeEncoded,
} from '../../../dist/shared/codec/value-encoding.js';
import { expectGolden, hex } from './golden-file.js';

const coded = (code: string): unknown => expect.objectContaining({ code });
const decodeErrorOf = (encoding: string): unknown =>
  expect.objectContaining({ code: 'ERR_DECODE', details: { encoding } });

/** Written as a shard's client does it: into the room that was asked for, in shared memory. Checks that the room was enough. */
function store(encoded: Encoded): Buffer {
  const room = encodedBytesMax(encoded);
  const ring = Buffer.from(new SharedArrayBuffer(room + 16));
  ring.fill(0xee);
  const length = writeEncoded(encoded, ring, 8);
  expect(length).toBeLessThanOrEqual(room);
  expect(ring.subarray(0, 8).every((byte) => byte === 0xee)).toBe(true);
  expect(ring.subarray(8 + room).every((byte) => byte === 0xee)).toBe(true);
  const stored = ring.subarray(8, 8 + length);
  expect(hex(encodedToBytes(encoded))).toBe(hex(stored));
  return stored;
}

/** All ways of decoding, which must agree. */
function load(encoding: ValueEncoding, stored: Buffer): unknown {
  const value = encoding.decode(stored, 0, stored.length);
  expect(encoding.decodeOwned(Buffer.from(stored))).toEqual(value);
  const padded = Buffer.concat([Buffer.from('{"'), stored, Buffer.from('"}')]);
  expect(encoding.decode(padded, 2, 2 + stored.length)).toEqual(value);
  if (encoding.form === 'text') expect(encoding.decodeText(Buffer.from(stored).toString())).toEqual(value);
  else expect(() => encoding.decodeText('a')).toThrow(decodeErrorOf(encoding.name));
  return value;
}

const wellFormed = fc.oneof(fc.string({ unit: 'binary' }), fc.string({ unit: 'grapheme' }), fc.string());

describe('utf8 values', () => {
  test('read back, from shared memory', () => {
    fc.assert(
      fc.property(wellFormed, fc.constantFrom(1, 40, 400), (text, times) => {
        const value = text.repeat(times);
        expect(load(utf8Values, store(utf8Values.encode(value)))).toBe(value);
      }),
    );
  });

  test('of every length around the fast paths are right', () => {
    for (const length of [0, 1, 3, 4, 5, 23, 24, 25, 63, 64, 65, 1023, 1024, 1025, 5000]) {
      for (const character of ['x', 'é', '€']) {
        const value = character.repeat(length);
        expect(hex(store(utf8Values.encode(value)))).toBe(hex(Buffer.from(value)));
      }
    }
  });

  test('a megabyte asks for no more room than it takes', () => {
    expect(encodedBytesMax(utf8Values.encode('x'.repeat(1 << 20)))).toBe(1 << 20);
  });

  test.each([undefined, null, 5, true, {}, Buffer.from('a'), () => 'a', 'a\ud800'])('refuse case %#', (value) => {
    expect(() => utf8Values.encode(value)).toThrow(coded('ERR_INVALID_ARG'));
  });

  test('stored bytes that are not UTF-8 are ERR_DECODE', () => {
    const bytes = Buffer.from('61ff62', 'hex');
    expect(() => utf8Values.decode(bytes, 0, 3)).toThrow(decodeErrorOf('utf8'));
    expect(utf8Values.decode(bytes, 0, 1)).toBe('a');
  });
});

describe('binary values', () => {
  test('read back as fresh bytes', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (value) => {
        const stored = store(binaryValues.encode(value));
        const loaded = load(binaryValues, stored) as Buffer;
        stored.fill(0);
        expect(hex(loaded)).toBe(hex(value));
      }),
    );
  });

  test.each([undefined, null, 'a', 5, [1], new ArrayBuffer(1), new Uint16Array(1), () => 1])(
    'refuse case %#',
    (value) => {
      expect(() => binaryValues.encode(value)).toThrow(coded('ERR_INVALID_ARG'));
    },
  );
});

describe('json values', () => {
  test('read back', () => {
    fc.assert(
      fc.property(fc.jsonValue(), (value) => {
        // JSON itself makes 0 of -0.
        expect(load(jsonValues, store(jsonValues.encode(value)))).toEqual(JSON.parse(JSON.stringify(value)));
      }),
    );
  });

  test('carry lone surrogates as escapes', () => {
    expect(load(jsonValues, store(jsonValues.encode(['a\ud800'])))).toEqual(['a\ud800']);
  });

  const cycle: Record<string, unknown> = {};
  cycle['self'] = cycle;
  test.each<[string, unknown]>([
    ['undefined', undefined],
    ['a function', () => 1],
    ['a symbol', Symbol('a')],
    ['a bigint', 5n],
    ['a cycle', cycle],
    ['an object whose toJSON gives undefined', { toJSON: () => undefined }],
    [
      'an object whose toJSON throws',
      {
        toJSON: () => {
          throw new Error('no');
        },
      },
    ],
  ])('refuse %s', (_, value) => {
    expect(() => jsonValues.encode(value)).toThrow(TypeError);
    expect(() => jsonValues.encode(value)).toThrow(coded('ERR_INVALID_ARG'));
  });

  test.each(['', '{', '{"a":1}}', 'undefined', '\ufeff1'])('stored %j is ERR_DECODE', (text) => {
    const bytes = Buffer.from(text);
    expect(() => jsonValues.decode(bytes, 0, bytes.length)).toThrow(decodeErrorOf('json'));
    expect(() => jsonValues.decodeText(text)).toThrow(decodeErrorOf('json'));
  });

  test('stored malformed UTF-8 inside a JSON string is ERR_DECODE', () => {
    const bytes = Buffer.from('2261ff22', 'hex');
    expect(() => jsonValues.decode(bytes, 0, 4)).toThrow(decodeErrorOf('json'));
  });
});

describe('msgpack values', () => {
  const values = fc.anything({
    withBigInt: true,
    withNullPrototype: false,
    withTypedArray: false,
    key: fc.oneof(fc.string(), wellFormed, fc.constantFrom('__proto__', 'id', 'naïve', 'constructor')),
    values: [
      fc.boolean(),
      fc.integer(),
      fc.maxSafeInteger(),
      fc.double({ noNaN: true }).filter((n) => !Object.is(n, -0)),
      wellFormed,
      fc.constant(null),
      fc.bigInt(),
      fc.date({ noInvalidDate: true }),
      fc.uint8Array(),
    ],
  });

  test('read back, bigints of any size and byte arrays included', () => {
    fc.assert(
      fc.property(values, (value) => {
        expect(load(msgpackValues, store(msgpackValues.encode(value)))).toEqual(value);
      }),
      { numRuns: 500 },
    );
  });

  test('are these bytes on disk', () => {
    const samples: [string, unknown][] = [
      ['null', null],
      ['1', 1],
      ['-1', -1],
      ['1.5', 1.5],
      ['2 ** 40', 2 ** 40],
      ['1n', 1n],
      ['-(2n ** 64n)', -(2n ** 64n)],
      ["'Zürich'", 'Zürich'],
      ['bytes 00 ff', Uint8Array.of(0, 0xff)],
      ['new Date(1500)', new Date(1500)],
      ['{ a: [1, true, undefined], b: undefined }', { a: [1, true, undefined], b: undefined }],
    ];
    expectGolden(
      'codec-msgpack.txt',
      samples.map(([what, value]) => [hex(encodedToBytes(msgpackValues.encode(value))), what]),
    );
  });

  test('own their memory', () => {
    const stored = store(msgpackValues.encode({ bytes: Uint8Array.of(1, 2, 3) }));
    const value = msgpackValues.decode(stored, 0, stored.length);
    stored.fill(0xee);
    expect(value).toEqual({ bytes: Uint8Array.of(1, 2, 3) });
    const first = msgpackValues.encode('first') as Buffer;
    msgpackValues.encode('second');
    expect(hex(first)).toBe(hex(Buffer.concat([Buffer.of(0xa5), Buffer.from('first')])));
  });

  const deep = (depth: number): unknown => {
    let value: unknown = [];
    for (let i = 1; i < depth; i++) value = [value];
    return value;
  };
  const cycle: unknown[] = [];
  cycle.push(cycle);

  test('nest 128 deep', () => {
    expect(load(msgpackValues, store(msgpackValues.encode(deep(128))))).toEqual(deep(128));
  });

  test.each<[string, unknown]>([
    ['undefined', undefined],
    ['a function', () => 1],
    ['a nested function', { a: [() => 1] }],
    ['a symbol', Symbol('a')],
    ['a Map', new Map([[1, 2]])],
    ['a nested Set', [new Set([1])]],
    ['a nested invalid date', [new Date(NaN)]],
    ['a lone surrogate', 'a\ud800'],
    ['a lone surrogate in an array', ['a\ud800']],
    ['a lone surrogate in a map', { a: 'a\ud800' }],
    ['a lone surrogate in a key', { ['a\ud800']: 1 }],
    ['129 levels', deep(129)],
    ['a cycle', cycle],
    ['a bigint of more than 65,535 bytes', 1n << 524_280n],
  ])('refuse %s', (_, value) => {
    expect(() => msgpackValues.encode(value)).toThrow(TypeError);
    expect(() => msgpackValues.encode(value)).toThrow(coded('ERR_INVALID_ARG'));
  });

  test.each<[string, unknown]>([
    ['a long string that begins with U+FEFF', `\ufeff${'x'.repeat(300)}`],
    ['a long key that begins with U+FEFF', { [`\ufeff${'x'.repeat(300)}`]: 1 }],
    ['a key __proto__', JSON.parse('{"a":{"__proto__":{"b":1},"toString":2}}')],
    ['dates from the first to the last', [new Date(-8.64e15), new Date(-1), new Date(8.64e15)]],
    [
      'keys that fall into the same place of a cache',
      Object.fromEntries(Array.from({ length: 3000 }, (_, i) => [`k${i}`, i])),
    ],
    ['keys of the same bytes in another order', { ab: 1, ba: 2, é: 3, '': 4 }],
  ])('read back %s', (_, value) => {
    for (let round = 0; round < 2; round++) {
      expect(isDeepStrictEqual(load(msgpackValues, store(msgpackValues.encode(value))), value)).toBe(true);
    }
  });

  test('a key __proto__ becomes a property and leaves the prototype alone', () => {
    const value = msgpackValues.decodeOwned(Buffer.from('81a95f5f70726f746f5f5f81a16101', 'hex')) as object;
    expect(Object.getPrototypeOf(value)).toBe(Object.prototype);
    expect(Object.keys(value)).toEqual(['__proto__']);
  });

  test('encode inside a getter of a value that is being encoded', () => {
    const outer = {
      get inner() {
        return encodedToBytes(msgpackValues.encode('inner'));
      },
      after: 'x',
    };
    const stored = store(msgpackValues.encode(outer));
    expect(load(msgpackValues, stored)).toEqual({ inner: new Uint8Array([0xa5, ...Buffer.from('inner')]), after: 'x' });
  });

  test('a large value is not kept by the encoder', () => {
    const large = 'x'.repeat(3 << 20);
    expect(load(msgpackValues, store(msgpackValues.encode(large)))).toBe(large);
    expect(load(msgpackValues, store(msgpackValues.encode('small')))).toBe('small');
  });

  test.each([
    ['nothing', ''],
    ['the byte c1', 'c1'],
    ['two values', '0101'],
    ['an array that claims four billion values', 'ddffffffff'],
    ['a map that claims four billion entries', 'dfffffffff00'],
    ['arrays inside arrays that claim 65,535 values each', 'dcffff'.repeat(3000)],
    ['an array one value short', '930102'],
    ['a string one byte short', 'a36162'],
    ['a binary of four gigabytes', 'c6ffffffff00'],
    ['a cut length', 'c600'],
    ['a cut double', 'cb0000'],
    ['129 levels', '91'.repeat(128) + '9100'],
    ['a key that is an array', '819000'],
    ['a key that is null', '81c000'],
    ['a key that is not UTF-8', '81a1ff00'],
    ['a string that is not UTF-8', 'a3eda080'],
    ['a timestamp beyond the calendar', 'c70cff00000000007fffffffffffff'],
    ['a malformed bigint', 'd4007f'],
    ['a bigint with bytes behind it', 'd5008000'],
    ['a timestamp of a wrong length', 'd4ff00'],
  ])('stored %s is ERR_DECODE', (_, text) => {
    const bytes = Buffer.from(text, 'hex');
    expect(() => msgpackValues.decode(bytes, 0, bytes.length)).toThrow(decodeErrorOf('msgpack'));
  });

  test('any stored bytes decode or are ERR_DECODE', () => {
    const byte = fc.oneof(
      fc.integer({ min: 0xc0, max: 0xdf }),
      fc.integer({ min: 0x80, max: 0xa4 }),
      fc.integer({ min: 0, max: 255 }),
    );
    let decoded = 0;
    fc.assert(
      fc.property(fc.array(byte, { maxLength: 30 }), (array) => {
        const bytes = Buffer.from(array);
        try {
          msgpackValues.decodeOwned(bytes);
          decoded++;
        } catch (error) {
          expect(error).toEqual(decodeErrorOf('msgpack'));
        }
      }),
      { numRuns: 20_000 },
    );
    expect(decoded).toBeGreaterThan(100);
  });

  test('of other programs read as they were meant', () => {
    const plain = new Encoder({ useBigInt64: true });
    const wide = {
      s: 'x'.repeat(70_000),
      m: 'x'.repeat(300),
      b: new Uint8Array(70_000),
      c: new Uint8Array(300),
      a: new Array(70_000).fill(7),
    };
    const keys = Object.fromEntries(Array.from({ length: 20 }, (_, i) => [`k${i}`, i]));
    const numbers = [
      0,
      127,
      128,
      255,
      256,
      65535,
      65536,
      2 ** 32 - 1,
      2 ** 40,
      -1,
      -32,
      -33,
      -129,
      -32769,
      -(2 ** 31) - 1,
      1.5,
    ];
    const many = Object.fromEntries(Array.from({ length: 70_000 }, (_, i) => [`k${i}`, null]));
    for (const value of [wide, keys, numbers, many, new Array(20).fill(true)]) {
      // Not toEqual: it would print 70,000 entries.
      expect(isDeepStrictEqual(msgpackValues.decodeOwned(Buffer.from(plain.encode(value))), value)).toBe(true);
    }
    const samples: [string, unknown][] = [
      ['ca3fc00000', 1.5],
      ['d080', -128],
      ['d18000', -32768],
      ['d280000000', -(2 ** 31)],
      ['cf001fffffffffffff', Number.MAX_SAFE_INTEGER],
      ['cf0020000000000000', 2n ** 53n],
      ['cfffffffffffffffff', 2n ** 64n - 1n],
      ['d3ffe0000000000001', Number.MIN_SAFE_INTEGER],
      ['d3ffe0000000000000', -(2n ** 53n)],
      ['d38000000000000000', -(2n ** 63n)],
      ['d3ffffffffffffffff', -1],
      ['8205a16106a162', { 5: 'a', 6: 'b' }],
      ['d40763', new ExtData(7, Uint8Array.of(0x63))],
    ];
    for (const [text, value] of samples) expect(msgpackValues.decodeOwned(Buffer.from(text, 'hex'))).toEqual(value);
  });
});

describe('custom values', () => {
  const reversed = resolveValueEncoding({
    name: 'custom',
    encode: (value: number[]) => Uint8Array.from(value).reverse(),
    decode: (bytes: Uint8Array) => Array.from(bytes).reverse(),
  });

  test('go through the functions given', () => {
    expect(load(reversed, store(reversed.encode([1, 2, 3])))).toEqual([1, 2, 3]);
    expect(hex(encodedToBytes(reversed.encode([1, 2, 3])))).toBe('030201');
  });

  test('may encode to a string, and keep this', () => {
    const option = {
      name: 'lower',
      suffix: '!',
      encode(value: string) {
        return value.toLowerCase() + this.suffix;
      },
      decode(bytes: Uint8Array) {
        return Buffer.from(bytes).toString() + this.suffix;
      },
    };
    const encoding = resolveValueEncoding(option);
    expect(store(encoding.encode('ABC')).toString()).toBe('abc!');
    expect(encoding.decodeOwned(Buffer.from('é'))).toBe('é!');
  });

  test('get bytes of their own to decode, never shared memory', () => {
    const decode = vi.fn((bytes: Uint8Array) => bytes);
    const encoding = resolveValueEncoding({ name: 'own', encode: (bytes: Uint8Array) => bytes, decode });
    const shared = Buffer.from(new SharedArrayBuffer(8)).fill(5);
    const value = encoding.decode(shared, 2, 6) as Uint8Array;
    shared.fill(6);
    expect(hex(value)).toBe('05050505');
    expect(value.buffer).not.toBeInstanceOf(SharedArrayBuffer);
  });

  test("a throwing or wrong encode() is the caller's mistake, with its cause", () => {
    const boom = new Error('boom');
    const make = (encode: () => unknown): ValueEncoding =>
      resolveValueEncoding({ name: 'bad', encode, decode: () => 1 });
    const throwing = make(() => {
      throw boom;
    });
    expect(() => throwing.encode(1)).toThrow(expect.objectContaining({ code: 'ERR_INVALID_ARG', cause: boom }));
    for (const result of [undefined, 5, null, {}, '\ud800']) {
      expect(() => make(() => result).encode(1)).toThrow(coded('ERR_INVALID_ARG'));
    }
    for (const value of [undefined, () => 1]) expect(() => reversed.encode(value)).toThrow(coded('ERR_INVALID_ARG'));
  });

  test('a throwing decode() is ERR_DECODE with its cause', () => {
    const boom = new Error('boom');
    const encoding = resolveValueEncoding({
      name: 'bad',
      encode: () => '',
      decode: () => {
        throw boom;
      },
    });
    expect(() => encoding.decodeOwned(Buffer.alloc(1))).toThrow(
      expect.objectContaining({ code: 'ERR_DECODE', details: { encoding: 'bad' }, cause: boom }),
    );
  });
});

describe('resolveValueEncoding', () => {
  test.each(['utf8', 'binary', 'json', 'msgpack'])('knows %s', (name) => {
    expect(resolveValueEncoding(name).name).toBe(name);
  });

  const encode = (): string => '';
  const decode = (): number => 1;
  test.each<[string, unknown]>([
    ['an unknown name', 'yaml'],
    ['a name of Object.prototype', 'constructor'],
    ['nothing', undefined],
    ['null', null],
    ['a number', 5],
    ['an object without decode', { name: 'x', encode }],
    ['an object without name', { encode, decode }],
    ['an empty name', { name: '', encode, decode }],
    ['a name with a space', { name: 'a b', encode, decode }],
    ['a name that is too long', { name: 'x'.repeat(65), encode, decode }],
    ['a name that is taken', { name: 'json', encode, decode }],
  ])('refuses %s', (_, option) => {
    expect(() => resolveValueEncoding(option)).toThrow(coded('ERR_INVALID_ARG'));
  });
});
