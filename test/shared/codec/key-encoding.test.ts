import { runInNewContext } from 'node:vm';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  binaryKeys,
  type KeyEncoding,
  KeyScratch,
  MAX_KEY_BYTES,
  prefixUpperBound,
  resolveKeyEncoding,
  utf8Keys,
} from '../../../dist/shared/codec/key-encoding.js';
import { hex } from './golden-file.js';
import { tuples } from './tuple-arbitrary.js';

const coded = (code: string): unknown => expect.objectContaining({ code });

function encode(encoding: KeyEncoding, key: unknown): Buffer {
  // One byte to begin with, so that every step has to grow it.
  const scratch = new KeyScratch(1);
  const length = encoding.encode(key, scratch);
  return Buffer.from(scratch.bytes.subarray(0, length));
}

const wellFormed = fc.oneof(
  fc.string({ unit: 'binary' }),
  fc.string({ unit: 'grapheme', maxLength: 300 }),
  fc.string(),
);

describe('utf8 keys', () => {
  test('are UTF-8 and read back, at any offset', () => {
    fc.assert(
      fc.property(wellFormed, fc.nat(5), (key, at) => {
        const bytes = encode(utf8Keys, key);
        expect(bytes.toString('hex')).toBe(Buffer.from(key).toString('hex'));
        const padded = Buffer.concat([Buffer.alloc(at, 0x80), bytes, Buffer.alloc(2, 0xff)]);
        expect(utf8Keys.decode(padded, at, at + bytes.length)).toBe(key);
      }),
      { numRuns: 500 },
    );
  });

  test('of every short length are right, with the odd character at every place', () => {
    for (let length = 0; length <= 30; length++) {
      const ascii = Array.from({ length }, (_, i) => String.fromCharCode(33 + i));
      expect(hex(encode(utf8Keys, ascii.join('')))).toBe(hex(Buffer.from(ascii.join(''))));
      for (let at = 0; at < length; at++) {
        const key = ascii.with(at, 'é').join('');
        expect(hex(encode(utf8Keys, key))).toBe(hex(Buffer.from(key)));
      }
    }
  });

  test('sort by code point', () => {
    const keys = ['', '\0', 'A', 'a', 'a\0', 'aa', 'z', 'é', '\uffff', '😀'];
    const encoded = keys.map((key) => encode(utf8Keys, key));
    expect(encoded.toSorted(Buffer.compare).map((bytes) => utf8Keys.decode(bytes, 0, bytes.length))).toEqual(keys);
  });

  test.each([
    ['a short one', '\ud800'],
    ['one at the end of a long one', `${'x'.repeat(100)}\udbff`],
    ['a pair the wrong way round', '\udc00\ud800'],
  ])('with a lone surrogate are refused: %s', (_, key) => {
    expect(() => encode(utf8Keys, key)).toThrow(coded('ERR_INVALID_ARG'));
  });

  test.each([undefined, null, 5, 5n, true, ['a'], Buffer.from('a'), Symbol('a'), new String('a')])(
    'are strings and nothing else: case %#',
    (key) => {
      expect(() => encode(utf8Keys, key)).toThrow(TypeError);
      expect(() => encode(utf8Keys, key)).toThrow(coded('ERR_INVALID_ARG'));
    },
  );

  test('stored bytes that are not UTF-8 are ERR_DECODE, never replaced', () => {
    for (const text of ['ff', '80', 'c080', 'eda080', 'f4908080', 'e282', '61efbfbdff']) {
      const bytes = Buffer.from(text, 'hex');
      expect(() => utf8Keys.decode(bytes, 0, bytes.length)).toThrow(coded('ERR_DECODE'));
    }
    const replacement = Buffer.from('a\ufffdb');
    expect(utf8Keys.decode(replacement, 0, replacement.length)).toBe('a\ufffdb');
  });

  test('decode from shared memory', () => {
    for (const key of ['plain', 'Zürich \ufffd']) {
      const bytes = Buffer.from(key);
      const shared = Buffer.from(new SharedArrayBuffer(bytes.length));
      shared.set(bytes);
      expect(utf8Keys.decode(shared, 0, shared.length)).toBe(key);
    }
  });
});

describe('binary keys', () => {
  test('are the bytes, copied in and out', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), fc.nat(5), (key, at) => {
        const bytes = encode(binaryKeys, key);
        expect(hex(bytes)).toBe(hex(key));
        const source = Buffer.concat([Buffer.alloc(at, 1), bytes]);
        const decoded = binaryKeys.decode(source, at, source.length);
        source.fill(0xee);
        expect(hex(decoded)).toBe(hex(key));
      }),
    );
  });

  test('may be Buffers, views of shared memory and arrays of another realm', () => {
    const shared = new Uint8Array(new SharedArrayBuffer(4)).fill(3);
    const foreign = runInNewContext('Uint8Array.of(3, 3, 3, 3)') as Uint8Array;
    expect(foreign).not.toBeInstanceOf(Uint8Array);
    for (const key of [Buffer.alloc(4, 3), shared, foreign]) expect(hex(encode(binaryKeys, key))).toBe('03030303');
  });

  test.each(['a', 5, null, undefined, [1], new ArrayBuffer(2), new Uint16Array(2), new DataView(new ArrayBuffer(1))])(
    'are Uint8Arrays and nothing else: case %#',
    (key) => {
      expect(() => encode(binaryKeys, key)).toThrow(coded('ERR_INVALID_ARG'));
    },
  );
});

describe.each<[string, (length: number) => unknown, overhead: number]>([
  ['utf8', (n) => 'x'.repeat(n), 0],
  ['binary', (n) => new Uint8Array(n), 0],
  ['tuple', (n) => ['x'.repeat(n)], 2],
])('%s keys', (name, make, overhead) => {
  const encoding = resolveKeyEncoding(name);

  test('of no bytes are legal', () => {
    const empty = name === 'tuple' ? [] : make(0);
    expect(encode(encoding, empty).length).toBe(0);
    expect(encoding.decode(Buffer.alloc(0), 0, 0)).toEqual(name === 'binary' ? Buffer.alloc(0) : empty);
  });

  test('of the limit fit, one byte more is ERR_KEY_TOO_LARGE with both sizes', () => {
    expect(encode(encoding, make(MAX_KEY_BYTES - overhead)).length).toBe(MAX_KEY_BYTES);
    expect(() => encode(encoding, make(MAX_KEY_BYTES - overhead + 1))).toThrow(
      expect.objectContaining({
        code: 'ERR_KEY_TOO_LARGE',
        details: { keyBytes: MAX_KEY_BYTES + 1, limitBytes: MAX_KEY_BYTES },
      }),
    );
  });

  test('that are huge do not make the scratch grow', () => {
    const scratch = new KeyScratch();
    expect(() => encoding.encode(make(50_000_000), scratch)).toThrow(coded('ERR_KEY_TOO_LARGE'));
    expect(scratch.bytes.length).toBeLessThan(64 * 1024);
  });
});

test('the limit counts bytes, not characters', () => {
  expect(encode(utf8Keys, '€'.repeat(1365)).length).toBe(4095);
  expect(() => encode(utf8Keys, '€'.repeat(1366))).toThrow(coded('ERR_KEY_TOO_LARGE'));
});

test('one scratch serves many keys, and a long one leaves nothing behind in a short one', () => {
  const scratch = new KeyScratch();
  fc.assert(
    fc.property(fc.array(fc.oneof(wellFormed, tuples)), (keys) => {
      for (const key of keys) {
        const encoding = resolveKeyEncoding(typeof key === 'string' ? 'utf8' : 'tuple');
        const length = encoding.encode(key, scratch);
        expect(encoding.decode(scratch.bytes, 0, length)).toEqual(key);
      }
    }),
  );
});

describe('prefixUpperBound', () => {
  test.each([
    ['61', '62'],
    ['6162', '6163'],
    ['61ff', '62'],
    ['00', '01'],
    ['00ffff', '01'],
    ['fe', 'ff'],
    ['7fff00', '7fff01'],
  ])('of %s is %s', (prefix, bound) => {
    const bytes = Buffer.from(prefix, 'hex');
    expect(prefixUpperBound(bytes, bytes.length)?.toString('hex')).toBe(bound);
    expect(bytes.toString('hex')).toBe(prefix);
  });

  test.each(['', 'ff', 'ffff'])('of %j does not exist', (prefix) => {
    const bytes = Buffer.from(prefix, 'hex');
    expect(prefixUpperBound(bytes, bytes.length)).toBeUndefined();
  });

  test('separates what begins with the prefix from all that sorts higher', () => {
    const byte = fc.oneof(fc.constantFrom(0, 0xfe, 0xff), fc.integer({ min: 0, max: 255 }));
    const bytes = fc.array(byte, { maxLength: 4 }).map((array) => Buffer.from(array));
    fc.assert(
      fc.property(bytes, bytes, bytes, (prefix, other, tail) => {
        const bound = prefixUpperBound(prefix, prefix.length);
        const below = (key: Buffer): boolean => bound === undefined || Buffer.compare(key, bound) < 0;
        const inside = (key: Buffer): boolean => Buffer.compare(prefix, key) <= 0 && below(key);
        expect(inside(Buffer.concat([prefix, tail]))).toBe(true);
        expect(inside(other)).toBe(other.subarray(0, prefix.length).equals(prefix));
      }),
      { numRuns: 2000 },
    );
  });
});

describe('resolveKeyEncoding', () => {
  test.each(['utf8', 'binary', 'tuple'])('knows %s', (name) => {
    expect(resolveKeyEncoding(name).name).toBe(name);
  });

  test.each(['json', 'UTF8', '', 'toString', '__proto__', undefined, null, 5, {}])('refuses %j', (option) => {
    expect(() => resolveKeyEncoding(option)).toThrow(coded('ERR_INVALID_ARG'));
  });
});
