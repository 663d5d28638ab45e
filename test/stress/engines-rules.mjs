/**
 * What the writer and the readers of the engine stress test agree on.
 *
 * Keys are numbers; each write of a key is its next generation. What a generation is follows from its number alone:
 *
 *   generation % 8   0 1 2 4 6 value     3 value that expires in the future     5 value that has expired     7 delete
 *
 * Pairs (the first PAIRED_KEYS keys, two by two) are always put, with one generation for both, in a group that is atomic.
 *
 *   value   u32 key · u32 generation · u32 hash of both · filler that follows from the hash; its length does, too
 *
 * Shared words, all stored by the writer with Atomics.store:
 *   announced[key]   before a generation is given to the engine
 *   published[key]   after the publication that shows it has returned
 *   snapshots        two of them: an odd id while it may be read, its number, and the generation of every key at it
 *
 * The rules a reader judges by:
 *   1. A value is whole: every byte follows from key and generation.
 *   2. Of what published[key] said before the pin, nothing is missed: the generation read is that or a newer one, and so it is of everything this reader
 *      has seen of the key before. (A publication whose end was seen before the pin is seen; one that is under way may be seen or not.)
 *   3. It is not above what announced[key] says after the read: nothing from the future, and nothing of another key's.
 *   4. Absence is right only if a delete or an expired value lies between the two. What has expired is never shown.
 *   5. Pairs: the second of a pair, read after the first under a pin of its own, is not older than the first: an atomic group shows as a whole.
 *   6. At a snapshot exactly its generations are there, as long as its id stands after the read.
 *   7. Scans go strictly up or down, stay in their bounds, and show of each key in them what a read might.
 */
export const PAIRED_KEYS = 128;
export const NOW_MS = 1_000_000;
export const PAST_MS = 500_000;
export const FUTURE_MS = 2_000_000;
export const KEY_BYTES = 12;
export const SNAPSHOTS = 2;
const HEAD_BYTES = 12;

export const EXPIRING = 3;
export const EXPIRED = 5;
export const DELETED = 7;

/** A delete or a value that has expired. */
export function isAbsent(key, generation) {
  if (key < PAIRED_KEYS) return generation === 0;
  const kind = generation & 7;
  return generation === 0 || kind === EXPIRED || kind === DELETED;
}

export function expiryOf(key, generation) {
  if (key < PAIRED_KEYS) return 0;
  const kind = generation & 7;
  return kind === EXPIRING ? FUTURE_MS : kind === EXPIRED ? PAST_MS : 0;
}

/** Whether absence can be right for some generation of [least, most]. */
export function mayBeAbsent(key, least, most) {
  if (most - least >= 8 && key >= PAIRED_KEYS) return true;
  for (let generation = least; generation <= most; generation++) if (isAbsent(key, generation)) return true;
  return false;
}

function mix(a, b) {
  let x = Math.imul(a ^ 0x5bd1e995, 0x85ebca6b) ^ Math.imul(b + 0x9e3779b9, 0xc2b2ae35);
  x ^= x >>> 15;
  x = Math.imul(x, 0x2c1b3c6d);
  x ^= x >>> 12;
  return x >>> 0;
}

export function writeKey(into, key) {
  let digits = key;
  for (let at = KEY_BYTES - 1; at >= 4; at--) {
    into[at] = 0x30 + (digits % 10);
    digits = (digits / 10) | 0;
  }
  into[0] = 0x6b;
  into[1] = 0x65;
  into[2] = 0x79;
  into[3] = 0x20;
}

export function readKey(bytes) {
  let key = 0;
  for (let at = 4; at < KEY_BYTES; at++) key = key * 10 + bytes[at] - 0x30;
  return key;
}

/** Mostly short; one in 400 takes pages of its own. */
function lengthOf(hash) {
  return HEAD_BYTES + (hash % 400 === 7 ? 2100 + (hash >>> 20) * 4 : (hash >>> 8) & 63);
}

export const VALUE_BYTES_MAX = HEAD_BYTES + 2100 + 4095 * 4;

/** Returns the length. */
export function writeValue(into, key, generation) {
  const hash = mix(key, generation);
  const length = lengthOf(hash);
  writeU32(into, 0, key);
  writeU32(into, 4, generation);
  writeU32(into, 8, hash);
  let word = hash;
  for (let at = HEAD_BYTES; at < length; at++) {
    word = (Math.imul(word, 0x915f77f5) + 1) | 0;
    into[at] = word >>> 24;
  }
  return length;
}

/** The generation of a whole value of the key, -1 if it is not one. */
export function generationOf(value, key) {
  if (value.length < HEAD_BYTES || readU32(value, 0) !== key) return -1;
  const generation = readU32(value, 4);
  const hash = mix(key, generation);
  if (readU32(value, 8) !== hash || value.length !== lengthOf(hash)) return -1;
  let word = hash;
  for (let at = HEAD_BYTES; at < value.length; at++) {
    word = (Math.imul(word, 0x915f77f5) + 1) | 0;
    if (value[at] !== word >>> 24) return -1;
  }
  return generation;
}

function writeU32(bytes, at, number) {
  bytes[at] = number;
  bytes[at + 1] = number >>> 8;
  bytes[at + 2] = number >>> 16;
  bytes[at + 3] = number >>> 24;
}

function readU32(bytes, at) {
  return (bytes[at] | (bytes[at + 1] << 8) | (bytes[at + 2] << 16) | (bytes[at + 3] << 24)) >>> 0;
}

/** The shared words, for any thread. */
export class Board {
  constructor(keys, memory = new SharedArrayBuffer(4 * (16 + keys * (2 + SNAPSHOTS)))) {
    this.memory = memory;
    this.keys = keys;
    this.header = new Int32Array(memory, 0, 16);
    this.announced = new Int32Array(memory, 64, keys);
    this.published = new Int32Array(memory, 64 + keys * 4, keys);
    this.atSnapshot = [];
    for (let index = 0; index < SNAPSHOTS; index++) {
      this.atSnapshot.push(new Int32Array(memory, 64 + keys * 4 * (2 + index), keys));
    }
  }

  get isOver() {
    return Atomics.load(this.header, 0) !== 0;
  }

  end() {
    Atomics.store(this.header, 0, 1);
  }

  /** Odd while the snapshot may be read. */
  snapshotId(index) {
    return Atomics.load(this.header, 2 + index * 4);
  }

  snapshotSeq(index) {
    return (Atomics.load(this.header, 3 + index * 4) >>> 0) + Atomics.load(this.header, 4 + index * 4) * 2 ** 32;
  }

  /** Everything published now belongs to it. */
  openSnapshot(index, seq) {
    this.atSnapshot[index].set(this.published);
    Atomics.store(this.header, 3 + index * 4, seq | 0);
    Atomics.store(this.header, 4 + index * 4, Math.floor(seq / 2 ** 32));
    Atomics.add(this.header, 2 + index * 4, 1);
  }

  closeSnapshot(index) {
    Atomics.add(this.header, 2 + index * 4, 1);
  }
}
