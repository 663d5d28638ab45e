/**
 * Ranges of keys, as compactions ask about them.
 *
 *   tables, olderRanges     [smallest, largest], both inclusive
 *   tombstones, tasks       [low, high), undefined: open
 *
 * RangeWalk and TombstoneWalk answer for keys that come in ascending order: they keep their place, so a question costs one comparison most of the time.
 *
 * Threads: any; a walk belongs to one.
 */
import type { RangeTombstone } from '../types.js';

export function compareKeys(a: Uint8Array, b: Uint8Array): number {
  return compareKeyTo(a, a.length, b);
}

/** key[0, keyLength) with `other`. */
export function compareKeyTo(key: Uint8Array, keyLength: number, other: Uint8Array): number {
  const otherLength = other.length;
  const length = keyLength < otherLength ? keyLength : otherLength;
  for (let index = 0; index < length; index++) {
    const difference = key[index]! - other[index]!;
    if (difference !== 0) return difference;
  }
  return keyLength - otherLength;
}

/** Of two inclusive ranges. */
export function overlaps(
  aSmallest: Uint8Array,
  aLargest: Uint8Array,
  bSmallest: Uint8Array,
  bLargest: Uint8Array,
): boolean {
  return compareKeys(aSmallest, bLargest) <= 0 && compareKeys(bSmallest, aLargest) <= 0;
}

/** Of an inclusive range with [low, high). */
export function meets(
  smallest: Uint8Array,
  largest: Uint8Array,
  low: Uint8Array | undefined,
  high: Uint8Array | undefined,
): boolean {
  return (
    (low === undefined || compareKeys(largest, low) >= 0) && (high === undefined || compareKeys(smallest, high) < 0)
  );
}

/** Whether [low, high) holds all of an inclusive range. */
export function covers(
  low: Uint8Array | undefined,
  high: Uint8Array | undefined,
  smallest: Uint8Array,
  largest: Uint8Array,
): boolean {
  return (
    (low === undefined || compareKeys(smallest, low) >= 0) && (high === undefined || compareKeys(largest, high) < 0)
  );
}

export type KeyRange = readonly [smallest: Uint8Array, largest: Uint8Array];

/** In key order, those that overlap put together. */
export function unionOf(ranges: readonly KeyRange[]): KeyRange[] {
  const sorted = [...ranges].sort((a, b) => compareKeys(a[0], b[0]));
  const union: [Uint8Array, Uint8Array][] = [];
  for (const [smallest, largest] of sorted) {
    const last = union.at(-1);
    if (last !== undefined && compareKeys(smallest, last[1]) <= 0) {
      if (compareKeys(largest, last[1]) > 0) last[1] = largest;
    } else union.push([smallest, largest]);
  }
  return union;
}

/** Which of ascending keys lie in one of the ranges. */
export class RangeWalk {
  readonly #ranges: readonly KeyRange[] | undefined;
  #at = 0;

  /** As unionOf() makes them; undefined: every key. */
  constructor(ranges: readonly KeyRange[] | undefined) {
    this.#ranges = ranges;
  }

  has(key: Uint8Array, keyLength: number): boolean {
    const ranges = this.#ranges;
    if (ranges === undefined) return true;
    while (this.#at < ranges.length) {
      const range = ranges[this.#at]!;
      if (compareKeyTo(key, keyLength, range[1]) <= 0) return compareKeyTo(key, keyLength, range[0]) >= 0;
      this.#at++;
    }
    return false;
  }
}

/** A piece of the keys that the same tombstones cover. */
interface Fragment {
  readonly low: Uint8Array;
  readonly high: Uint8Array | undefined;
  /** Ascending. */
  readonly seqs: readonly number[];
}

const NO_KEY = new Uint8Array(0);
const NO_SEQS: readonly number[] = [];

function fragmentsOf(tombstones: readonly RangeTombstone[]): Fragment[] {
  const bounds: Uint8Array[] = [];
  for (const { low, high } of tombstones) {
    bounds.push(low ?? NO_KEY);
    if (high !== undefined) bounds.push(high);
  }
  bounds.sort(compareKeys);
  const fragments: Fragment[] = [];
  for (let index = 0; index < bounds.length; index++) {
    const low = bounds[index]!;
    const high = bounds[index + 1];
    if (high !== undefined && compareKeys(low, high) === 0) continue;
    const seqs: number[] = [];
    for (const tombstone of tombstones) {
      const isAbove = tombstone.low === undefined || compareKeys(tombstone.low, low) <= 0;
      if (isAbove && (tombstone.high === undefined || compareKeys(low, tombstone.high) < 0)) seqs.push(tombstone.seq);
    }
    if (seqs.length > 0) fragments.push({ low, high, seqs: seqs.sort((a, b) => a - b) });
  }
  return fragments;
}

/** Which range tombstones cover ascending keys. */
export class TombstoneWalk {
  /** Changes whenever a bound of a tombstone lies between this key and the one before. */
  place = 0;
  readonly isEmpty: boolean;
  readonly #fragments: readonly Fragment[];
  #at = 0;
  #seqs = NO_SEQS;

  constructor(tombstones: readonly RangeTombstone[]) {
    this.#fragments = tombstones.length === 0 ? [] : fragmentsOf(tombstones);
    this.isEmpty = this.#fragments.length === 0;
  }

  /** To the key: not below the one before. */
  advance(key: Uint8Array, keyLength: number): void {
    const fragments = this.#fragments;
    while (this.#at < fragments.length) {
      const { high } = fragments[this.#at]!;
      if (high === undefined || compareKeyTo(key, keyLength, high) < 0) break;
      this.#at++;
    }
    const fragment = fragments[this.#at];
    const isCovered = fragment !== undefined && compareKeyTo(key, keyLength, fragment.low) >= 0;
    this.#seqs = isCovered ? fragment.seqs : NO_SEQS;
    this.place = this.#at * 2 + (isCovered ? 1 : 0);
  }

  /** Number of the oldest tombstone that covers the key and is newer than `seq`; Infinity if there is none. */
  above(seq: number): number {
    const seqs = this.#seqs;
    for (let index = 0; index < seqs.length; index++) if (seqs[index]! > seq) return seqs[index]!;
    return Infinity;
  }
}
