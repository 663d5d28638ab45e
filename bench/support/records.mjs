/**
 * The records: keys of 16 ASCII bytes, values of 100 bytes that verify themselves.
 *
 *   key    'k' + 5 digits of one hash of the id + 10 digits of another     ids 0, 1, 2 … are in random key order
 *   value  u32 id | u32 generation | u32 hash(id, generation) | 88 filler bytes, row (hash & 255) of a fixed random table
 *
 * The second hash is a bijection, so keys are distinct; digits are spread over all of the key, so that no engine gains from a
 * shared prefix longer than that of real identifiers. Filler is random, so compression gains nothing.
 * Threads: any.
 */
import { mix32, Random } from './random.mjs';

export const KEY_BYTES = 16;
export const VALUE_BYTES = 100;
export const RECORD_BYTES = KEY_BYTES + VALUE_BYTES;
const HEAD_BYTES = 12;
const FILLER_BYTES = VALUE_BYTES - HEAD_BYTES;
const FILLER_ROWS = 256;

const filler = new Uint8Array(FILLER_ROWS * FILLER_BYTES);
const fillerRandom = new Random(0x5eed, 'filler');
for (let i = 0; i < filler.length; i++) filler[i] = fillerRandom.next() >>> 24;
const fillerRows = Array.from({ length: FILLER_ROWS }, (_, row) =>
  filler.subarray(row * FILLER_BYTES, (row + 1) * FILLER_BYTES),
);

/** Keys of the ids [0, count), as flat one-byte strings (a concatenated string would be flattened inside the measurement). */
export function makeKeys(count) {
  const bytes = Buffer.alloc(KEY_BYTES);
  const keys = new Array(count);
  for (let id = 0; id < count; id++) {
    writeKey(bytes, id);
    keys[id] = bytes.latin1Slice(0, KEY_BYTES);
  }
  return keys;
}

function writeKey(bytes, id) {
  let high = mix32(id ^ 0x5bd1e995) % 100_000;
  let low = mix32(id);
  bytes[0] = 0x6b;
  for (let at = 5; at >= 1; at--) {
    bytes[at] = 0x30 + (high % 10);
    high = Math.floor(high / 10);
  }
  for (let at = 15; at >= 6; at--) {
    bytes[at] = 0x30 + (low % 10);
    low = Math.floor(low / 10);
  }
}

/**
 * The same keys anew, in the order of `ids`: made just before they are used, as a program's keys are, instead of fetched from all over
 * a heap of old strings. What a cold string costs is not the store's.
 */
export function keysInOrder(ids) {
  const fresh = new Array(ids.length);
  const bytes = Buffer.alloc(KEY_BYTES);
  for (let i = 0; i < ids.length; i++) {
    writeKey(bytes, ids[i]);
    fresh[i] = bytes.latin1Slice(0, KEY_BYTES);
  }
  return fresh;
}

function hashOf(id, generation) {
  return mix32(mix32(id + 0x9e3779b9) ^ generation);
}

export function makeValue(id, generation) {
  const value = Buffer.allocUnsafe(VALUE_BYTES);
  const hash = hashOf(id, generation);
  putUint32(value, 0, id);
  putUint32(value, 4, generation);
  putUint32(value, 8, hash);
  value.set(fillerRows[hash & 255], HEAD_BYTES);
  return value;
}

export const idOf = (value) => getUint32(value, 0);
export const generationOf = (value) => getUint32(value, 4);

/**
 * True if `value` is one that was made for some id and generation. Reads the head and two filler bytes: cheap enough for
 * inside a measurement. Every byte is compared by {@link isWholeValue}, outside of one.
 */
export function isValue(value) {
  if (value === undefined || value.length !== VALUE_BYTES) return false;
  const hash = getUint32(value, 8);
  if (hash !== hashOf(getUint32(value, 0), getUint32(value, 4))) return false;
  const row = (hash & 255) * FILLER_BYTES;
  return value[VALUE_BYTES - 1] === filler[row + FILLER_BYTES - 1] && value[56] === filler[row + 56 - HEAD_BYTES];
}

export function isWholeValue(value) {
  if (!isValue(value)) return false;
  const row = (getUint32(value, 8) & 255) * FILLER_BYTES;
  for (let i = 0; i < FILLER_BYTES; i++) if (value[HEAD_BYTES + i] !== filler[row + i]) return false;
  return true;
}

/** True if `key` is that of `id`, by its last five digits: spares fetching the cold key string of the id. */
export function isKeyOf(key, id) {
  if (key.length !== KEY_BYTES) return false;
  let tail = 0;
  for (let at = KEY_BYTES - 5; at < KEY_BYTES; at++) tail = tail * 10 + key.charCodeAt(at) - 0x30;
  return tail === mix32(id) % 100_000;
}

function putUint32(bytes, at, number) {
  bytes[at] = number;
  bytes[at + 1] = number >>> 8;
  bytes[at + 2] = number >>> 16;
  bytes[at + 3] = number >>> 24;
}

function getUint32(bytes, at) {
  return (bytes[at] | (bytes[at + 1] << 8) | (bytes[at + 2] << 16) | (bytes[at + 3] << 24)) >>> 0;
}
