/**
 * Where a key lives: 32-bit hash of the encoded key, and the slot of the shard map it falls into.
 *
 *   encoded key → hash (32 bits) → slot = top 12 bits (0 ..< 4096) → shard, through the slot table of the store
 *
 * The hash is MurmurHash3_x86_32 by Austin Appleby (public domain) with a fixed seed. It is part of the on-disk contract: a
 * directory keeps each key in the shard that this function names, so neither hash, seed nor slot bits may ever change for
 * an existing format version. Golden values: test/golden/codec-hash.txt.
 *
 * Slots use the high bits and leave the low ones to hash tables inside a shard, which would otherwise see keys that all
 * agree in the bits that brought them there. The seed is no secret: chosen keys can overload one shard but not break it.
 * Threads: any.
 */
import { assert } from './assert.js';

/** On disk: never change. "conc" */
export const HASH_SEED = 0x636f6e63;
/** On disk: never change. */
export const HASH_SLOTS = 4096;
const SLOT_SHIFT = 20;
assert(2 ** (32 - SLOT_SHIFT) === HASH_SLOTS, 'slot bits and slot count agree');

/**
 * Hash of `bytes[start, start + length)` as a signed 32-bit integer (small in V8, so it is never boxed); `>>> 0` gives the
 * unsigned form. The caller guarantees the range is inside.
 */
export function hashBytes(bytes: Uint8Array, start: number, length: number, seed: number = HASH_SEED): number {
  let hash = seed | 0;
  let at = start;
  const end = start + length;
  for (const lastWord = end - 4; at <= lastWord; at += 4) {
    let word = bytes[at]! | (bytes[at + 1]! << 8) | (bytes[at + 2]! << 16) | (bytes[at + 3]! << 24);
    word = Math.imul(word, 0xcc9e2d51);
    word = (word << 15) | (word >>> 17);
    hash ^= Math.imul(word, 0x1b873593);
    hash = (hash << 13) | (hash >>> 19);
    hash = (Math.imul(hash, 5) + 0xe6546b64) | 0;
  }
  if (at < end) {
    let tail = bytes[at]!;
    if (at + 1 < end) tail |= bytes[at + 1]! << 8;
    if (at + 2 < end) tail |= bytes[at + 2]! << 16;
    tail = Math.imul(tail, 0xcc9e2d51);
    tail = (tail << 15) | (tail >>> 17);
    hash ^= Math.imul(tail, 0x1b873593);
  }
  hash ^= length;
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return hash ^ (hash >>> 16);
}

/** Slot (0 ..< HASH_SLOTS) of a hash. */
export function slotOf(hash: number): number {
  return hash >>> SLOT_SHIFT;
}
