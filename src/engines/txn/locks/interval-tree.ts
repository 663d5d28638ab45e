/**
 * Ranges of keys, found by a key or by a range that they overlap: a treap ordered by where a range begins, each node knowing the farthest end below
 * it. Adding, removing and the first answer cost O(log n), each further answer a few steps.
 *
 * A range is [low, high): low an empty key when it is open below, high undefined when it is open above. A single key is the range from itself to
 * itself with a zero byte behind. Bytes are kept, not copied: who adds them leaves them as they are.
 *
 * Threads: its owner only.
 */
import { compareBytes } from '../../cells/node-writer.js';

export const LOWEST_KEY = new Uint8Array(0);

/** A range in a tree, and what it stands for. */
export class Interval<V> {
  readonly low: Uint8Array;
  /** Exclusive; undefined: no end. */
  readonly high: Uint8Array | undefined;
  readonly value: V;
  /** Tells ranges apart that begin with the same key. */
  readonly order: number;
  readonly rank: number;
  /** The farthest end of this range and all below it. */
  farthest: Uint8Array | undefined;
  left: Interval<V> | undefined;
  right: Interval<V> | undefined;

  constructor(low: Uint8Array, high: Uint8Array | undefined, value: V, order: number, rank: number) {
    this.low = low;
    this.high = high;
    this.value = value;
    this.order = order;
    this.rank = rank;
    this.farthest = high;
  }
}

export class IntervalTree<V> {
  #root: Interval<V> | undefined;
  #size = 0;
  #orders = 0;
  /** Ranks only keep the tree flat; the same calls give the same tree. */
  #random = 0x2545f491;

  get size(): number {
    return this.#size;
  }

  add(low: Uint8Array, high: Uint8Array | undefined, value: V): Interval<V> {
    let random = this.#random;
    random ^= random << 13;
    random ^= random >>> 17;
    random ^= random << 5;
    this.#random = random;
    const node = new Interval(low, high, value, ++this.#orders, random);
    this.#root = insert(this.#root, node);
    this.#size++;
    return node;
  }

  /** The range must be in this tree. */
  remove(node: Interval<V>): void {
    this.#root = take(this.#root, node);
    this.#size--;
  }

  /** Appends to `into` what stands for the ranges that hold the key bytes[start, start + length), by where they begin. */
  findAt(into: V[], bytes: Uint8Array, start: number, length: number): void {
    if (this.#root !== undefined) collectAt(this.#root, into, bytes, start, length);
  }

  /** Appends to `into` what stands for the ranges that share a key with [low, high), by where they begin. */
  findIn(into: V[], low: Uint8Array, high: Uint8Array | undefined): void {
    if (this.#root !== undefined) collectIn(this.#root, into, low, high);
  }
}

function compare(a: Uint8Array, b: Uint8Array): number {
  return compareBytes(a, 0, a.length, b, 0, b.length);
}

function precedes<V>(a: Interval<V>, b: Interval<V>): boolean {
  const order = compare(a.low, b.low);
  return order === 0 ? a.order < b.order : order < 0;
}

function farther(a: Uint8Array | undefined, b: Uint8Array | undefined): Uint8Array | undefined {
  if (a === undefined || b === undefined) return undefined;
  return compare(a, b) >= 0 ? a : b;
}

function renew<V>(node: Interval<V>): void {
  let farthest = node.high;
  if (node.left !== undefined) farthest = farther(farthest, node.left.farthest);
  if (node.right !== undefined) farthest = farther(farthest, node.right.farthest);
  node.farthest = farthest;
}

function insert<V>(at: Interval<V> | undefined, node: Interval<V>): Interval<V> {
  if (at === undefined) return node;
  if (precedes(node, at)) {
    const left = insert(at.left, node);
    at.left = left;
    if (left.rank > at.rank) {
      at.left = left.right;
      left.right = at;
      renew(at);
      renew(left);
      return left;
    }
  } else {
    const right = insert(at.right, node);
    at.right = right;
    if (right.rank > at.rank) {
      at.right = right.left;
      right.left = at;
      renew(at);
      renew(right);
      return right;
    }
  }
  at.farthest = farther(at.farthest, node.high);
  return at;
}

function take<V>(at: Interval<V> | undefined, node: Interval<V>): Interval<V> | undefined {
  if (at === undefined) return undefined;
  if (at === node) return join(at.left, at.right);
  if (precedes(node, at)) at.left = take(at.left, node);
  else at.right = take(at.right, node);
  renew(at);
  return at;
}

/** All of `left` lies before all of `right`. */
function join<V>(left: Interval<V> | undefined, right: Interval<V> | undefined): Interval<V> | undefined {
  if (left === undefined) return right;
  if (right === undefined) return left;
  if (left.rank > right.rank) {
    left.right = join(left.right, right);
    renew(left);
    return left;
  }
  right.left = join(left, right.left);
  renew(right);
  return right;
}

function endsAfter(end: Uint8Array | undefined, bytes: Uint8Array, start: number, length: number): boolean {
  return end === undefined || compareBytes(end, 0, end.length, bytes, start, length) > 0;
}

function collectAt<V>(node: Interval<V>, into: V[], bytes: Uint8Array, start: number, length: number): void {
  if (!endsAfter(node.farthest, bytes, start, length)) return;
  if (node.left !== undefined) collectAt(node.left, into, bytes, start, length);
  if (compareBytes(node.low, 0, node.low.length, bytes, start, length) > 0) return;
  if (endsAfter(node.high, bytes, start, length)) into.push(node.value);
  if (node.right !== undefined) collectAt(node.right, into, bytes, start, length);
}

function collectIn<V>(node: Interval<V>, into: V[], low: Uint8Array, high: Uint8Array | undefined): void {
  if (!endsAfter(node.farthest, low, 0, low.length)) return;
  if (node.left !== undefined) collectIn(node.left, into, low, high);
  if (high !== undefined && compare(node.low, high) >= 0) return;
  if (endsAfter(node.high, low, 0, low.length)) into.push(node.value);
  if (node.right !== undefined) collectIn(node.right, into, low, high);
}
