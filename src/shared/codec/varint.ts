/**
 * Unsigned LEB128: seven bits a byte, low bits first, the top bit says that more follow.
 *
 *   300 = 0b10_0101100  →  ac 02
 *
 * Strict: every number has exactly one encoding. A reader refuses overlong forms, numbers above the type's maximum and input
 * that ends too soon, all as -1, so that hot callers need no try block and can name the thing they were reading. Because the form
 * is canonical, the position behind a number that was read is `at + varintBytes(value)`.
 * Threads: any.
 */
import { assert } from '../assert.js';

export const VARINT53_BYTES_MAX = 8;

/** Bytes that `value` takes, 1 ..= 8. */
export function varintBytes(value: number): number {
  if (value < 0x80) return 1;
  if (value < 0x4000) return 2;
  if (value < 0x20_0000) return 3;
  if (value < 0x1000_0000) return 4;
  let bytes = 5;
  for (let limit = 2 ** 35; value >= limit; limit *= 128) bytes++;
  return bytes;
}

/** Writes a u32; returns the offset behind it. There must be room for {@link varintBytes}. */
export function writeVarint32(bytes: Uint8Array, at: number, value: number): number {
  assert(value >>> 0 === value, 'not an unsigned 32-bit integer');
  let rest = value;
  while (rest > 0x7f) {
    bytes[at++] = (rest & 0x7f) | 0x80;
    rest >>>= 7;
  }
  bytes[at++] = rest;
  return at;
}

/** The u32 at `at`, or -1 if `bytes[at, end)` does not begin with a canonical one. */
export function readVarint32(bytes: Uint8Array, at: number, end: number): number {
  if (at >= end) return -1;
  let byte = bytes[at]!;
  if (byte < 0x80) return byte;
  let value = byte & 0x7f;
  for (let shift = 7; shift < 35; shift += 7) {
    if (++at >= end) return -1;
    byte = bytes[at]!;
    if (byte < 0x80) {
      // A zero at the end is overlong; the fifth byte has room for four bits.
      if (byte === 0 || (shift === 28 && byte > 0x0f)) return -1;
      return (value | (byte << shift)) >>> 0;
    }
    value |= (byte & 0x7f) << shift;
  }
  return -1;
}

/** Writes an integer 0 ..= Number.MAX_SAFE_INTEGER; returns the offset behind it. */
export function writeVarint53(bytes: Uint8Array, at: number, value: number): number {
  assert(Number.isSafeInteger(value) && value >= 0, 'not an unsigned 53-bit integer');
  let rest = value;
  while (rest > 0x7fffffff) {
    bytes[at++] = (rest % 128) | 0x80;
    rest = Math.floor(rest / 128);
  }
  while (rest > 0x7f) {
    bytes[at++] = (rest & 0x7f) | 0x80;
    rest >>>= 7;
  }
  bytes[at++] = rest;
  return at;
}

/** The integer 0 ..= Number.MAX_SAFE_INTEGER at `at`, or -1 if `bytes[at, end)` does not begin with a canonical one. */
export function readVarint53(bytes: Uint8Array, at: number, end: number): number {
  if (at >= end) return -1;
  let byte = bytes[at]!;
  if (byte < 0x80) return byte;
  let value = byte & 0x7f;
  let scale = 128;
  for (let count = 2; count <= VARINT53_BYTES_MAX; count++) {
    if (++at >= end) return -1;
    byte = bytes[at]!;
    if (byte < 0x80) {
      // A zero at the end is overlong; the eighth byte has room for four bits (7 × 7 + 4 = 53).
      if (byte === 0 || (count === VARINT53_BYTES_MAX && byte > 0x0f)) return -1;
      return value + byte * scale;
    }
    value += (byte & 0x7f) * scale;
    scale *= 128;
  }
  return -1;
}
