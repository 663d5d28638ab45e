/**
 * Where locks are found: keys by their hash, ranges by what they overlap, and the locked keys of a range.
 *
 *   key ──counter is 0──▶ nothing, in any space             isFree() looks at nothing else
 *       └─bucket──▶ lock ──▶ lock ──▶ …
 *   space ──▶ held ranges, wanted ranges (a tree each), and its locked keys in order once that pays
 *
 * Invariants: a key has a lock here as long as somebody holds or wants it, a space stays open as long as a range of it is held or wanted.
 * Threads: the shard's only.
 */
import { compareBytes } from '../../cells/node-writer.js';
import { IntervalTree, LOWEST_KEY, type Interval } from './interval-tree.js';
import { grantOf, Lock, type Grant, type LockOwner, type Point } from './lock.js';
import type { LockMode } from './mode.js';

/** Keys whose hashes agree in these bits share a counter. */
const COUNTERS = 8192;
const BUCKETS_MIN = 1024;
/** Keys up to this length are copied into a block that their lock keeps. */
const INLINE_KEY_BYTES = 32;
const INLINE_KEYS_PER_BLOCK = 1024;
/** Locks kept for reuse. */
const POOLED_MAX = 8192;
/** Keys are put in order when so many times their number were looked through for ranges. */
const SCANS_PER_INDEX = 16;
/** The order of so few keys is given up with the last range. */
const INDEXED_KEYS_KEPT_MIN = 256;
const NONE: readonly never[] = [];

/** The ranges of a space that are held or wanted. */
class SpaceRanges<T> {
  readonly held = new IntervalTree<Grant<T>>();
  readonly waiting = new IntervalTree<Point<T>>();
  /** The locked keys of the space in order, once that pays. */
  keys: IntervalTree<Lock<T>> | undefined = undefined;
  /** Keys that were looked through for want of an order. */
  scanned = 0;

  get isEmpty(): boolean {
    return this.held.size === 0 && this.waiting.size === 0;
  }
}

export class LockIndex<T> {
  /** Locked or wanted keys by hash. */
  readonly #counters = new Int32Array(COUNTERS);
  /** Ranges held or wanted, in all spaces. */
  #ranges = 0;
  #buckets: (Lock<T> | undefined)[] = new Array<Lock<T> | undefined>(BUCKETS_MIN).fill(undefined);
  #locks = 0;
  readonly #spaces = new Map<number, SpaceRanges<T>>();

  #freeLocks: Lock<T> | undefined = undefined;
  #freeLockCount = 0;
  #inlineBlock = new Uint8Array(0);
  #inlineUsed = 0;

  /** Whether nothing is locked or wanted. */
  get isEmpty(): boolean {
    return this.#locks === 0 && this.#ranges === 0;
  }

  /** Whether surely nothing is locked or wanted that holds a key of this hash, in any space. False says nothing. */
  isFree(hash: number): boolean {
    return this.#counters[hash & (COUNTERS - 1)] === 0 && this.#ranges === 0;
  }

  // Keys.

  find(space: number, bytes: Uint8Array, start: number, length: number, hash: number): Lock<T> | undefined {
    if (this.#counters[hash & (COUNTERS - 1)] === 0) return undefined;
    let lock = this.#buckets[bucketOf(space, hash, this.#buckets.length)];
    while (lock !== undefined) {
      if (
        lock.hash === hash &&
        lock.space === space &&
        lock.length === length &&
        isEqual(lock.bytes, lock.start, bytes, start, length)
      )
        return lock;
      lock = lock.next;
    }
    return undefined;
  }

  lockOf(point: Point<T>): Lock<T> | undefined {
    return this.find(point.space, point.bytes, point.start, point.length, point.hash);
  }

  /** A key that is not here yet. */
  add(space: number, bytes: Uint8Array, start: number, length: number, hash: number): Lock<T> {
    if (this.#locks === this.#buckets.length) this.#rehash(this.#buckets.length * 2);
    let lock = this.#freeLocks;
    if (lock === undefined) lock = this.#newLock();
    else {
      this.#freeLocks = lock.next;
      this.#freeLockCount--;
    }
    if (length <= INLINE_KEY_BYTES) {
      lock.bytes = lock.inlineBytes;
      lock.start = lock.inlineStart;
    } else {
      lock.bytes = new Uint8Array(length);
      lock.start = 0;
    }
    const { bytes: into, start: at } = lock;
    for (let index = 0; index < length; index++) into[at + index] = bytes[start + index]!;
    lock.space = space;
    lock.hash = hash;
    lock.length = length;
    const bucket = bucketOf(space, hash, this.#buckets.length);
    lock.next = this.#buckets[bucket];
    this.#buckets[bucket] = lock;
    this.#locks++;
    this.#counters[hash & (COUNTERS - 1)]!++;
    const keys = this.#rangesOf(space)?.keys;
    if (keys !== undefined) putInOrder(keys, lock);
    return lock;
  }

  #newLock(): Lock<T> {
    if (this.#inlineUsed === this.#inlineBlock.length) {
      this.#inlineBlock = new Uint8Array(INLINE_KEYS_PER_BLOCK * INLINE_KEY_BYTES);
      this.#inlineUsed = 0;
    }
    const lock = new Lock<T>(this.#inlineBlock, this.#inlineUsed);
    this.#inlineUsed += INLINE_KEY_BYTES;
    return lock;
  }

  /** Forgets a key if nobody holds or wants it. */
  dropUnused(lock: Lock<T>): void {
    if (lock.grants !== undefined || lock.queue !== undefined) return;
    const bucket = bucketOf(lock.space, lock.hash, this.#buckets.length);
    let at = this.#buckets[bucket];
    if (at === lock) this.#buckets[bucket] = lock.next;
    else {
      while (at!.next !== lock) at = at!.next;
      at!.next = lock.next;
    }
    this.#locks--;
    this.#counters[lock.hash & (COUNTERS - 1)]!--;
    if (lock.interval !== undefined) {
      this.#spaces.get(lock.space)!.keys!.remove(lock.interval);
      lock.interval = undefined;
    }
    if (this.#spaces.size > 0 && this.#locks === INDEXED_KEYS_KEPT_MIN)
      for (const space of [...this.#spaces.keys()]) this.closeSpace(space);
    if (this.#locks === 0 && this.#buckets.length > BUCKETS_MIN * 64) this.#rehash(BUCKETS_MIN);
    if (this.#freeLockCount >= POOLED_MAX) return;
    lock.bytes = lock.inlineBytes;
    lock.next = this.#freeLocks;
    this.#freeLocks = lock;
    this.#freeLockCount++;
  }

  #rehash(bucketCount: number): void {
    const before = this.#buckets;
    const buckets = new Array<Lock<T> | undefined>(bucketCount).fill(undefined);
    for (const first of before) {
      let lock = first;
      while (lock !== undefined) {
        const { next } = lock;
        const bucket = bucketOf(lock.space, lock.hash, bucketCount);
        lock.next = buckets[bucket];
        buckets[bucket] = lock;
        lock = next;
      }
    }
    this.#buckets = buckets;
  }

  // Ranges.

  /** Whether a range was held or wanted in any space of late: a cheap look before the others. */
  get hasSpaces(): boolean {
    return this.#spaces.size > 0;
  }

  /** Whether a range of the space is held or wanted. */
  hasRanges(space: number): boolean {
    const ranges = this.#rangesOf(space);
    return ranges !== undefined && !ranges.isEmpty;
  }

  holdRange(space: number, low: Uint8Array, high: Uint8Array | undefined, grant: Grant<T>): Interval<Grant<T>> {
    this.#ranges++;
    return this.#openSpace(space).held.add(low, high, grant);
  }

  /** The space stays until closeSpace(). */
  dropHeldRange(space: number, interval: Interval<Grant<T>>): void {
    this.#ranges--;
    this.#spaces.get(space)!.held.remove(interval);
  }

  wantRange(point: Point<T>): Interval<Point<T>> {
    this.#ranges++;
    return this.#openSpace(point.space).waiting.add(point.bytes, point.high, point);
  }

  /** The space stays until closeSpace(). */
  dropWantedRange(point: Point<T>): void {
    this.#ranges--;
    this.#spaces.get(point.space)!.waiting.remove(point.interval!);
  }

  /** Forgets a space when no range is left, unless what was learnt would be dear to learn again. */
  closeSpace(space: number): void {
    const ranges = this.#spaces.get(space);
    if (ranges === undefined || !ranges.isEmpty || this.#locks > INDEXED_KEYS_KEPT_MIN) return;
    if (ranges.keys !== undefined) {
      const locks: Lock<T>[] = [];
      ranges.keys.findIn(locks, LOWEST_KEY, undefined);
      for (const lock of locks) lock.interval = undefined;
    }
    this.#spaces.delete(space);
  }

  /** Held ranges that hold the key. */
  heldAt(space: number, bytes: Uint8Array, start: number, length: number): readonly Grant<T>[] {
    const ranges = this.#rangesOf(space);
    if (ranges === undefined || ranges.held.size === 0) return NONE;
    const held: Grant<T>[] = [];
    ranges.held.findAt(held, bytes, start, length);
    return held;
  }

  /** Held ranges that share a key with [low, high). */
  heldIn(space: number, low: Uint8Array, high: Uint8Array | undefined): readonly Grant<T>[] {
    const ranges = this.#rangesOf(space);
    if (ranges === undefined || ranges.held.size === 0) return NONE;
    const held: Grant<T>[] = [];
    ranges.held.findIn(held, low, high);
    return held;
  }

  /** Wanted ranges that hold the key. */
  waitingAt(space: number, bytes: Uint8Array, start: number, length: number): readonly Point<T>[] {
    const ranges = this.#rangesOf(space);
    if (ranges === undefined || ranges.waiting.size === 0) return NONE;
    const waiting: Point<T>[] = [];
    ranges.waiting.findAt(waiting, bytes, start, length);
    return waiting;
  }

  /** Wanted ranges that share a key with [low, high). */
  waitingIn(space: number, low: Uint8Array, high: Uint8Array | undefined): readonly Point<T>[] {
    const ranges = this.#rangesOf(space);
    if (ranges === undefined || ranges.waiting.size === 0) return NONE;
    const waiting: Point<T>[] = [];
    ranges.waiting.findIn(waiting, low, high);
    return waiting;
  }

  /** The locked or wanted keys of [low, high). The space stays open until closeSpace(). */
  locksIn(space: number, low: Uint8Array, high: Uint8Array | undefined): readonly Lock<T>[] {
    if (this.#locks === 0) return NONE;
    const ranges = this.#openSpace(space);
    const locks: Lock<T>[] = [];
    if (ranges.keys === undefined && ranges.scanned > SCANS_PER_INDEX * this.#locks) {
      const keys = new IntervalTree<Lock<T>>();
      this.#forEachLock(space, (lock) => {
        putInOrder(keys, lock);
      });
      ranges.keys = keys;
    }
    if (ranges.keys !== undefined) {
      ranges.keys.findIn(locks, low, high);
      return locks;
    }
    ranges.scanned += this.#locks;
    this.#forEachLock(space, (lock) => {
      if (isWithin(lock, low, high)) locks.push(lock);
    });
    return locks;
  }

  // What an owner holds.

  /** Whether the owner holds any lock that shares a key with the point: its request there is an upgrade. */
  holdsAt(owner: LockOwner<T>, point: Point<T>): boolean {
    if (owner.grants === undefined) return false;
    const { space, bytes, start, length, high } = point;
    if (!point.isRange) {
      const lock = this.lockOf(point);
      if (lock !== undefined && grantOf(lock, owner) !== undefined) return true;
      return this.heldAt(space, bytes, start, length).some((grant) => grant.owner === owner);
    }
    if (this.heldIn(space, bytes, high).some((grant) => grant.owner === owner)) return true;
    return this.locksIn(space, bytes, high).some((lock) => grantOf(lock, owner) !== undefined);
  }

  /** Whether the owner holds a range with the key, in a mode that is at least as strong. */
  rangeCoversKey(
    owner: LockOwner<T>,
    space: number,
    bytes: Uint8Array,
    start: number,
    length: number,
    mode: LockMode,
  ): boolean {
    if (this.#spaces.size === 0) return false;
    return this.heldAt(space, bytes, start, length).some((grant) => grant.owner === owner && grant.mode >= mode);
  }

  /** Whether the owner holds one range with all of [low, high), in a mode that is at least as strong. */
  rangeCovers(
    owner: LockOwner<T>,
    space: number,
    low: Uint8Array,
    high: Uint8Array | undefined,
    mode: LockMode,
  ): boolean {
    return this.heldAt(space, low, 0, low.length).some((grant) => {
      if (grant.owner !== owner || grant.mode < mode) return false;
      const end = grant.interval!.high;
      return end === undefined || (high !== undefined && compareBytes(high, 0, high.length, end, 0, end.length) <= 0);
    });
  }

  // Spaces.

  #rangesOf(space: number): SpaceRanges<T> | undefined {
    return this.#spaces.size === 0 ? undefined : this.#spaces.get(space);
  }

  #openSpace(space: number): SpaceRanges<T> {
    let ranges = this.#spaces.get(space);
    if (ranges === undefined) {
      ranges = new SpaceRanges<T>();
      this.#spaces.set(space, ranges);
    }
    return ranges;
  }

  #forEachLock(space: number, call: (lock: Lock<T>) => void): void {
    for (const first of this.#buckets)
      for (let lock = first; lock !== undefined; lock = lock.next) if (lock.space === space) call(lock);
  }
}

function isWithin<T>({ bytes, start, length }: Lock<T>, low: Uint8Array, high: Uint8Array | undefined): boolean {
  if (compareBytes(bytes, start, length, low, 0, low.length) < 0) return false;
  return high === undefined || compareBytes(bytes, start, length, high, 0, high.length) < 0;
}

function putInOrder<T>(keys: IntervalTree<Lock<T>>, lock: Lock<T>): void {
  const bytes = new Uint8Array(lock.length + 1);
  for (let index = 0; index < lock.length; index++) bytes[index] = lock.bytes[lock.start + index]!;
  lock.interval = keys.add(bytes.subarray(0, lock.length), bytes, lock);
}

function bucketOf(space: number, hash: number, bucketCount: number): number {
  // The high bits of a hash brought the key to its shard.
  return (hash ^ Math.imul(space, 0x9e3779b1)) & (bucketCount - 1);
}

function isEqual(a: Uint8Array, aStart: number, b: Uint8Array, bStart: number, length: number): boolean {
  for (let index = 0; index < length; index++) if (a[aStart + index] !== b[bStart + index]) return false;
  return true;
}
