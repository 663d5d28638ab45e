/**
 * The records of the LSM bench: keys of 16 ASCII bytes in the order of their numbers, values that verify themselves, at any count without an array of
 * them.
 *
 *   key(n)     'k' and 15 digits of 2 n: odd numbers are keys that are missing, between those that are there
 *   value(n)   u32 n | u32 round | u32 hash of both | filler out of a table of random bytes, from a place the hash names
 *
 * permute(n) is a bijection on [0, count), so that "in random order" needs no shuffled array. Threads: any.
 */
import { mix32, Random } from '../support/random.mjs';

export const KEY_BYTES = 16;
const HEAD_BYTES = 12;
const FILLER_BYTES = 1 << 20;

const filler = Buffer.allocUnsafe(FILLER_BYTES + (1 << 16));
const fillerRandom = new Random(0x15f, 'lsm filler');
for (let at = 0; at + 4 <= filler.length; at += 4) filler.writeUInt32LE(fillerRandom.next(), at);
/** Half of each 32 bytes repeats: compressors find about a factor of two, as they do in ordinary data. */
const softFiller = Buffer.from(filler);
for (let at = 0; at + 32 <= softFiller.length; at += 32) softFiller.fill(0x61 + (at % 7), at + 16, at + 32);

const keyBytes = Buffer.alloc(KEY_BYTES);

function keyOfNumber(number) {
  let rest = number;
  keyBytes[0] = 0x6b;
  for (let at = KEY_BYTES - 1; at >= 1; at--) {
    const next = Math.floor(rest / 10);
    keyBytes[at] = 0x30 + (rest - next * 10);
    rest = next;
  }
  return keyBytes.latin1Slice(0, KEY_BYTES);
}

export const keyOf = (n) => keyOfNumber(2 * n);
/** Between key(n) and key(n + 1). */
export const missingKeyOf = (n) => keyOfNumber(2 * n + 1);
/** All but the last two digits: 50 records share it. */
export const PREFIX_RECORDS = 50;
export const prefixOf = (n) => keyOf(n).slice(0, KEY_BYTES - 2);

function hashOf(n, round) {
  return mix32(mix32(n + 0x9e3779b9) ^ round);
}

export function valueOf(n, round, bytes, soft) {
  const value = Buffer.allocUnsafe(bytes);
  const hash = hashOf(n, round);
  value.writeUInt32LE(n, 0);
  value.writeUInt32LE(round, 4);
  value.writeUInt32LE(hash, 8);
  const from = hash % FILLER_BYTES;
  (soft ? softFiller : filler).copy(value, HEAD_BYTES, from, from + bytes - HEAD_BYTES);
  return value;
}

/** Whether it is the value of record n: head and last byte, cheap enough for inside a measurement. */
export function isValueOf(n, value, bytes, soft) {
  if (value === undefined || value.length !== bytes || readUInt32(value, 0) !== n) return false;
  const hash = hashOf(n, readUInt32(value, 4));
  return (
    readUInt32(value, 8) === hash &&
    value[bytes - 1] === (soft ? softFiller : filler)[(hash % FILLER_BYTES) + bytes - HEAD_BYTES - 1]
  );
}

/** The same of every byte: for outside of one. */
export function isWholeValueOf(n, value, bytes, soft) {
  if (!isValueOf(n, value, bytes, soft)) return false;
  const from = readUInt32(value, 8) % FILLER_BYTES;
  const expected = (soft ? softFiller : filler).subarray(from, from + bytes - HEAD_BYTES);
  return Buffer.compare(expected, value.subarray(HEAD_BYTES)) === 0;
}

export const numberOf = (value) => readUInt32(value, 0);

function readUInt32(bytes, at) {
  return (bytes[at] | (bytes[at + 1] << 8) | (bytes[at + 2] << 16) | (bytes[at + 3] << 24)) >>> 0;
}

/** A bijection on [0, count): four Feistel rounds over the next even power of two, walked until the result is below count. */
export function permutation(count, seed) {
  const halfBits = Math.max(1, Math.ceil(Math.log2(Math.max(2, count)) / 2));
  const mask = 2 ** halfBits - 1;
  return (n) => {
    let x = n;
    do {
      let left = Math.floor(x / 2 ** halfBits);
      let right = x & mask;
      for (let round = 0; round < 4; round++) {
        const next = left ^ (mix32(right + seed + round * 0x9e3779b1) & mask);
        left = right;
        right = next;
      }
      x = left * 2 ** halfBits + right;
    } while (x >= count);
    return x;
  };
}
