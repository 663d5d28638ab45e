/**
 * The hash table's words in shared memory.
 *
 *   descriptor   word 16          buckets       n, grows by one at a time
 *                word 32 … 431    index pages   units; each holds 1,018 units of bucket pages in its words 6 … 1023
 *                word 512 … 1023  the first 512 buckets
 *   bucket page  word 6 … 1023    1,018 buckets
 *   node         older · next · hash · cell
 *
 * Linear hashing: a key whose hash is h lives in bucket h mod 2^k, where 2^k is the power of two at or above n; if there is no such bucket yet, in
 * h mod 2^(k-1). Bucket n comes from splitting bucket n - 2^(k-1): its nodes are those of the two whose bit k-1 is set. In a bucket nodes
 * stand in the order of their hashes with the bits reversed, then of their keys: so a split is a cut, and buckets taken in the order of their reversed
 * numbers show all nodes in one order that splits do not change. (That order is the one of split-ordered lists, Shalev and Shavit 2006; lists
 * that end with their bucket need no dummy nodes and no predecessor in another bucket.)
 *
 * Bucket and index pages stay where they are until the table is gone, so readers remember where they are.
 * Shared memory only, never on disk. Threads: any; pure functions.
 */
import { OWN_WORD } from '../cells/node.js';

export const BUCKET_COUNT_WORD = OWN_WORD;
export const INDEX_WORD = 32;
const INDEX_PAGES_MAX = 400;
export const FIRST_BUCKET_WORD = 512;
/** Buckets in the descriptor: a table begins with them. */
export const FIRST_BUCKETS = 512;
export const PAGE_FIRST_WORD = 6;
/** Buckets of a bucket page, bucket pages of an index page. */
export const PAGE_SLOTS = 1024 - PAGE_FIRST_WORD;
export const BUCKETS_MAX = FIRST_BUCKETS + INDEX_PAGES_MAX * PAGE_SLOTS * PAGE_SLOTS;

export const LINK_WORDS = 2;
export const CELL_OFFSET = 4 + 4 * LINK_WORDS;
export const NEXT_LINK = 1;
export const HASH_LINK = 2;

/** Not the seed that names the shard: all keys of a shard agree in bits of that hash. "hash" */
export const TABLE_SEED = 0x68617368;

/** Bucket of a hash among so many. */
export function bucketOf(hash: number, buckets: number): number {
  const mask = -1 >>> Math.clz32(buckets - 1);
  const bucket = hash & mask;
  return bucket < buckets ? bucket : hash & (mask >>> 1);
}

/** How many low bits of its hashes a bucket stands for: one more once it has been split. */
export function bitsOf(hash: number, buckets: number): number {
  const bits = 32 - Math.clz32(buckets - 1);
  const half = 1 << (bits - 1);
  return (hash & (half - 1)) + half < buckets ? bits : bits - 1;
}

/** Unsigned. */
export function reverseBits(value: number): number {
  let bits = value;
  bits = ((bits >>> 1) & 0x55555555) | ((bits & 0x55555555) << 1);
  bits = ((bits >>> 2) & 0x33333333) | ((bits & 0x33333333) << 2);
  bits = ((bits >>> 4) & 0x0f0f0f0f) | ((bits & 0x0f0f0f0f) << 4);
  bits = ((bits >>> 8) & 0x00ff00ff) | ((bits & 0x00ff00ff) << 8);
  return ((bits >>> 16) | (bits << 16)) >>> 0;
}
