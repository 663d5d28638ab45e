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

/** What {@link Notes} keeps of a value, in words: id, generation, hash, then length and the two filler bytes that isValue() looks at. */
const NOTE_WORDS = 4;
const LENGTH_UNKNOWN = 0xffff;

/**
 * What the reads of a turn returned, noted inside the measurement and judged after it: noting takes a few nanoseconds, while judging fetches a line of
 * cold memory that the store has no part in. Nothing of what isValue() looks at is left out.
 */
export class Notes {
  #words;

  constructor(count) {
    this.#words = new Uint32Array(count * NOTE_WORDS);
  }

  note(index, value) {
    const words = this.#words;
    const at = index * NOTE_WORDS;
    if (value === undefined || value.length !== VALUE_BYTES) {
      words[at + 3] = Math.min(value?.length ?? LENGTH_UNKNOWN, LENGTH_UNKNOWN) << 16;
      return;
    }
    words[at] = value[0] | (value[1] << 8) | (value[2] << 16) | (value[3] << 24);
    words[at + 1] = value[4] | (value[5] << 8) | (value[6] << 16) | (value[7] << 24);
    words[at + 2] = value[8] | (value[9] << 8) | (value[10] << 16) | (value[11] << 24);
    words[at + 3] = (VALUE_BYTES << 16) | (value[56] << 8) | value[VALUE_BYTES - 1];
  }

  /** The generation of the value noted; 0 if it is not a whole value of the id, or nothing was noted. */
  generationOf(index, id) {
    const words = this.#words;
    const at = index * NOTE_WORDS;
    const generation = words[at + 1];
    const hash = hashOf(id, generation);
    const row = (hash & 255) * FILLER_BYTES;
    const tail = (filler[row + 56 - HEAD_BYTES] << 8) | filler[row + FILLER_BYTES - 1];
    const isRight = words[at] === id && words[at + 2] === hash && words[at + 3] === ((VALUE_BYTES << 16) | tail);
    return isRight ? generation : 0;
  }

  describe(index) {
    const [id, generation, , last] = this.#words.subarray(index * NOTE_WORDS);
    const length = last >>> 16;
    if (length !== VALUE_BYTES) return length === LENGTH_UNKNOWN ? 'nothing' : `${length} bytes`;
    return `a value of id ${id}, generation ${generation}`;
  }
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
