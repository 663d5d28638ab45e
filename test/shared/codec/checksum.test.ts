import { crc32 as zlibCrc32 } from 'node:zlib';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { crc32 } from '../../../dist/shared/checksum.js';

function crcOf(text: string): number {
  const bytes = Buffer.from(text, 'latin1');
  return crc32(bytes, 0, bytes.length);
}

// Published check values of CRC-32/ISO-HDLC.
test.each([
  ['', 0],
  ['a', 0xe8b7be43],
  ['abc', 0x352441c2],
  ['123456789', 0xcbf43926],
  ['The quick brown fox jumps over the lazy dog', 0x414fa339],
  ['\0'.repeat(32), 0x190a55ad],
  ['\xff'.repeat(32), 0xff6cab0b],
])('crc-32 of %j is the published value', (text, crc) => {
  expect(crcOf(text)).toBe(crc);
});

test('every length from 0 to 600 gives what zlib gives, on both sides of the native threshold', () => {
  const bytes = Buffer.alloc(700);
  for (let i = 0; i < bytes.length; i++) bytes[i] = (i * 167 + 13) & 0xff;
  for (let length = 0; length <= 600; length++) {
    const start = length % 7;
    expect(crc32(bytes, start, length, length)).toBe(zlibCrc32(bytes.subarray(start, start + length), length));
  }
});

test('checksums of parts chain to the checksum of the whole', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 900 }), fc.nat(), (bytes, at) => {
      const cut = bytes.length === 0 ? 0 : at % bytes.length;
      const chained = crc32(bytes, cut, bytes.length - cut, crc32(bytes, 0, cut));
      expect(chained).toBe(crc32(bytes, 0, bytes.length));
    }),
  );
});

test.each([1, 100, 4096])('any flipped bit of %d bytes changes the checksum', (length) => {
  const bytes = Buffer.alloc(length, 0x5a);
  const crc = crc32(bytes, 0, length);
  for (let i = 0; i < length; i++) {
    bytes[i]! ^= 1 << (i & 7);
    expect(crc32(bytes, 0, length)).not.toBe(crc);
    bytes[i]! ^= 1 << (i & 7);
  }
});

test('shared memory is read like any other', () => {
  for (const length of [40, 4096]) {
    const shared = new Uint8Array(new SharedArrayBuffer(length)).fill(7);
    expect(crc32(shared, 0, length)).toBe(crc32(Buffer.alloc(length, 7), 0, length));
  }
});
