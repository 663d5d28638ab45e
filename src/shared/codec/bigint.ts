/**
 * Integers of any size as self-delimiting bytes whose order is the numeric order.
 *
 *   n ≥ 0:  80+m, m bytes of magnitude, big-endian          m = 0 ..= 125
 *           fe, m as u16 big-endian, m bytes of magnitude   m = 126 ..= 65535
 *   n < 0:  every byte of the form of -n, complemented
 *
 *   0 → 80      1 → 81 01      256 → 82 01 00      -1 → 7e fe      -256 → 7d fe ff
 *
 * A longer magnitude has a greater header, so a longer positive number sorts higher and a longer negative one lower. Canonical:
 * the magnitude has no leading zero byte, and readers refuse any other form. Bytes 00, 7f and ff never begin a number.
 * Threads: any.
 */
import { readU16BE, writeU16BE } from './fixed.js';

const HEADER_ZERO = 0x80;
const HEADER_LONG = 0xfe;
const SHORT_MAGNITUDE_BYTES_MAX = HEADER_LONG - HEADER_ZERO - 1;
const MAGNITUDE_BYTES_MAX = 0xffff;
const HEADER_BYTES_MAX = 3;
const U48_MAX = 2n ** 48n - 1n;

/** Bytes that {@link writeBigint} will write, or -1 if the magnitude has more than `magnitudeBytesMax` bytes. */
export function bigintBytes(value: bigint, magnitudeBytesMax: number = MAGNITUDE_BYTES_MAX): number {
  const magnitude = value < 0n ? -value : value;
  if (magnitude <= U48_MAX) return 1 + magnitudeBytes(Number(magnitude));
  // Counting digits is linear in the size, so refuse by a shift what is far too large.
  if (magnitude >> BigInt(8 * magnitudeBytesMax) !== 0n) return -1;
  const bytes = (magnitude.toString(16).length + 1) >>> 1;
  return bytes <= SHORT_MAGNITUDE_BYTES_MAX ? 1 + bytes : HEADER_BYTES_MAX + bytes;
}

function magnitudeBytes(magnitude: number): number {
  let bytes = 0;
  for (let rest = magnitude; rest >= 1; rest /= 256) bytes++;
  return bytes;
}

/** Writes a number of at most MAGNITUDE_BYTES_MAX bytes of magnitude; returns the offset behind it. */
export function writeBigint(bytes: Buffer, at: number, value: bigint): number {
  const negative = value < 0n;
  const magnitude = negative ? -value : value;
  const start = at;
  if (magnitude <= U48_MAX) {
    let rest = Number(magnitude);
    const count = magnitudeBytes(rest);
    bytes[at] = HEADER_ZERO + count;
    for (let i = at + count; i > at; i--) {
      bytes[i] = rest % 256;
      rest = Math.floor(rest / 256);
    }
    at += 1 + count;
  } else {
    const hex = magnitude.toString(16);
    const count = (hex.length + 1) >>> 1;
    if (count <= SHORT_MAGNITUDE_BYTES_MAX) bytes[at++] = HEADER_ZERO + count;
    else {
      bytes[at] = HEADER_LONG;
      writeU16BE(bytes, at + 1, count);
      at += HEADER_BYTES_MAX;
    }
    bytes.write(hex.length % 2 === 0 ? hex : `0${hex}`, at, count, 'hex');
    at += count;
  }
  if (negative) for (let i = start; i < at; i++) bytes[i] = ~bytes[i]!;
  return at;
}

/** Length in bytes of the number that begins at `at`, or -1 if none does inside `bytes[at, end)`. */
export function bigintLength(bytes: Uint8Array, at: number, end: number): number {
  if (at >= end) return -1;
  const first = bytes[at]!;
  const flip = first < HEADER_ZERO ? 0xff : 0;
  const header = first ^ flip;
  let headerBytes = 1;
  let count = header - HEADER_ZERO;
  if (header === HEADER_LONG) {
    headerBytes = HEADER_BYTES_MAX;
    if (at + headerBytes > end) return -1;
    count = readU16BE(bytes, at + 1) ^ (flip === 0 ? 0 : 0xffff);
    if (count <= SHORT_MAGNITUDE_BYTES_MAX) return -1;
  } else if (header === 0xff || (header === HEADER_ZERO && flip !== 0)) return -1;
  if (at + headerBytes + count > end) return -1;
  if (count > 0 && (bytes[at + headerBytes]! ^ flip) === 0) return -1;
  return headerBytes + count;
}

/** The number at `at`, whose length {@link bigintLength} has found. */
export function readBigint(bytes: Uint8Array, at: number, length: number): bigint {
  const flip = bytes[at]! < HEADER_ZERO ? 0xff : 0;
  const headerBytes = (bytes[at]! ^ flip) === HEADER_LONG ? HEADER_BYTES_MAX : 1;
  const count = length - headerBytes;
  if (count <= 6) {
    let magnitude = 0;
    for (let i = at + headerBytes; i < at + length; i++) magnitude = magnitude * 256 + (bytes[i]! ^ flip);
    return flip === 0 ? BigInt(magnitude) : -BigInt(magnitude);
  }
  const copy = Buffer.allocUnsafe(count);
  for (let i = 0; i < count; i++) copy[i] = bytes[at + headerBytes + i]! ^ flip;
  const magnitude = BigInt(`0x${copy.toString('hex')}`);
  return flip === 0 ? magnitude : -magnitude;
}
