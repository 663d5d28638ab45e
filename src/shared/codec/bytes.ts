/**
 * Byte strings: copies out of shared memory, order, prefixes. Threads: any.
 */

import { types } from 'node:util';

/** Also true for a Uint8Array of another realm (node:vm, test runners), which `instanceof` alone would refuse. */
export function isBytes(value: unknown): value is Uint8Array {
  return value instanceof Uint8Array || types.isUint8Array(value);
}

/** Measured: a loop copies 32 bytes in 80 ns against 100 for a native copy; at 64 it is 130 against 100. */
const LOOP_BYTES_MAX = 40;

/** To into[at …], which has room, and is other memory. */
export function putBytes(bytes: Uint8Array, into: Uint8Array, at: number): void {
  const { length } = bytes;
  if (length > LOOP_BYTES_MAX) into.set(bytes, at);
  else for (let i = 0; i < length; i++) into[at + i] = bytes[i]!;
}

/** A fresh copy of `bytes[start, end)`. Small copies share a pooled ArrayBuffer, as Buffer.from's do. */
export function copyBytes(bytes: Buffer, start: number, end: number): Buffer {
  const length = end - start;
  const copy = Buffer.allocUnsafe(length);
  if (length > LOOP_BYTES_MAX) bytes.copy(copy, 0, start, end);
  else for (let i = 0; i < length; i++) copy[i] = bytes[start + i]!;
  return copy;
}

/**
 * The smallest byte string above all that begin with `bytes[0, length)`: the prefix with its last byte below 0xff raised and
 * the rest dropped. Undefined if there is none (an empty prefix, or 0xff only): then the range has no upper end.
 */
export function prefixUpperBound(bytes: Uint8Array, length: number): Buffer | undefined {
  let last = length - 1;
  while (last >= 0 && bytes[last] === 0xff) last--;
  if (last < 0) return undefined;
  const bound = Buffer.allocUnsafe(last + 1);
  for (let i = 0; i < last; i++) bound[i] = bytes[i]!;
  bound[last] = bytes[last]! + 1;
  return bound;
}
