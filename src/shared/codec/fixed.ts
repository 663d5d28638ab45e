/**
 * Fixed-width numbers at an offset of a byte array. Formats use little-endian; big-endian is for keys, where byte order is
 * sort order.
 *
 * Plain byte loads and shifts: a DataView costs a call and a check per access that V8 does not always remove, and typed
 * views over the same memory need alignment. Callers guarantee `0 ≤ at` and `at + width ≤ length`, and that values are
 * integers in range; nothing here throws. Threads: any, but no access is atomic.
 */

const U32 = 2 ** 32;
/** 48 bits hold sequence numbers, LSNs and milliseconds: exact in a number, and enough for 8,900 years of milliseconds. */
export const U48_MAX = 2 ** 48 - 1;

export function readU16LE(bytes: Uint8Array, at: number): number {
  return bytes[at]! | (bytes[at + 1]! << 8);
}

export function writeU16LE(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value;
  bytes[at + 1] = value >>> 8;
}

export function readU32LE(bytes: Uint8Array, at: number): number {
  return (bytes[at]! | (bytes[at + 1]! << 8) | (bytes[at + 2]! << 16) | (bytes[at + 3]! << 24)) >>> 0;
}

export function writeU32LE(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value;
  bytes[at + 1] = value >>> 8;
  bytes[at + 2] = value >>> 16;
  bytes[at + 3] = value >>> 24;
}

export function readU48LE(bytes: Uint8Array, at: number): number {
  return readU32LE(bytes, at) + readU16LE(bytes, at + 4) * U32;
}

export function writeU48LE(bytes: Uint8Array, at: number, value: number): void {
  writeU32LE(bytes, at, value);
  writeU16LE(bytes, at + 4, Math.floor(value / U32));
}

export function readU16BE(bytes: Uint8Array, at: number): number {
  return (bytes[at]! << 8) | bytes[at + 1]!;
}

export function writeU16BE(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value >>> 8;
  bytes[at + 1] = value;
}

export function readU32BE(bytes: Uint8Array, at: number): number {
  return ((bytes[at]! << 24) | (bytes[at + 1]! << 16) | (bytes[at + 2]! << 8) | bytes[at + 3]!) >>> 0;
}

export function writeU32BE(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value >>> 24;
  bytes[at + 1] = value >>> 16;
  bytes[at + 2] = value >>> 8;
  bytes[at + 3] = value;
}

// The bits of a double pass through this pair of views; which word is the high one depends on the machine.
const double = new Float64Array(1);
const words = new Uint32Array(double.buffer);
double[0] = 1;
const HIGH = words[1] !== 0 ? 1 : 0;
const LOW = 1 - HIGH;

export function readF64BE(bytes: Uint8Array, at: number): number {
  words[HIGH] = readU32BE(bytes, at);
  words[LOW] = readU32BE(bytes, at + 4);
  return double[0]!;
}

/**
 * A double as 8 bytes whose unsigned order is the numeric order: the sign bit flipped for positive numbers, all bits for
 * negative ones. -0 sorts directly below 0; NaNs would land beyond the infinities, so callers refuse them.
 */
export function writeOrderedF64(bytes: Uint8Array, at: number, value: number): void {
  double[0] = value;
  const high = words[HIGH]!;
  const flip = high >>> 31 === 0 ? 0 : 0xffffffff;
  writeU32BE(bytes, at, high ^ (flip | 0x80000000));
  writeU32BE(bytes, at + 4, words[LOW]! ^ flip);
}

export function readOrderedF64(bytes: Uint8Array, at: number): number {
  const high = readU32BE(bytes, at);
  const flip = high >>> 31 === 1 ? 0 : 0xffffffff;
  words[HIGH] = high ^ (flip | 0x80000000);
  words[LOW] = readU32BE(bytes, at + 4) ^ flip;
  return double[0]!;
}
