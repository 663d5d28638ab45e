/**
 * Ordered walks over a hash table, which has no order of keys: the cursor copies the keys in its range out of the table, sorts them, and then looks
 * each one up. The first seek takes about 1 µs per key of the table, and memory for the keys in range.
 *
 * At a snapshot's number the set of keys is one for all: it is copied once and used again by every later seek with the same number and range. At Infinity
 * each seek copies anew, and the result is good for one chunk. setRange() tells which keys will be asked for, low ≤ key < high.
 *
 * While it copies, the table may change. A key that shows at the number stays in the table, and a bucket that is split meanwhile is read again.
 * Threads: any, one per thread, between pin and unpin.
 */
import { ConcordError } from '../../shared/errors.js';
import type { ArenaReader, UnitId } from '../../shared/memory/arena.js';
import { publishedSeqOf } from '../btree/meta.js';
import { CellFlag, copyBytes } from '../btree/page.js';
import { EngineCode, type EngineCursor } from '../engine.js';
import {
  checkAddress,
  corruptNode,
  nodeOffset,
  nodeSegment,
  nodeWord,
  readCell,
  type NodeCell,
} from '../cells/node.js';
import { NodeView } from '../cells/node-view.js';
import { compareBytes, isWithin } from '../cells/node-writer.js';
import { CELL_OFFSET, HASH_LINK, NEXT_LINK, bitsOf, bucketOf, reverseBits } from './format.js';
import { sortedKeys } from './key-sort.js';
import { BucketMap, lookUp } from './reader.js';

/** What a Buffer holds at most, with room to double. */
const COPY_BYTES_MAX = 2 ** 32 - 1;

export class HashCursor extends NodeView implements EngineCursor {
  valid = false;
  readonly #buckets: BucketMap;
  readonly #cell: NodeCell = { flags: 0, keyAt: 0, keyLength: 0, bodyAt: 0, valueLength: 0 };
  #low: Uint8Array | undefined;
  #high: Uint8Array | undefined;

  // The sorted copy.
  #copySeq = -1;
  #copyDescriptor: UnitId = 0;
  #bytes: Uint8Array = new Uint8Array(0);
  #offsets = new Float64Array(1);
  #count = 0;
  #order: Uint32Array = new Uint32Array(0);
  #position = 0;

  constructor(arena: ArenaReader, row: number, spaceId: number, slot: number) {
    super(arena, row, spaceId, EngineCode.hash, slot, false);
    this.#buckets = new BucketMap(arena);
  }

  protected cellOffset(): number {
    return CELL_OFFSET;
  }

  setRange(low: Uint8Array | undefined, high: Uint8Array | undefined): void {
    this.#low = low === undefined ? undefined : Uint8Array.from(low);
    this.#high = high === undefined ? undefined : Uint8Array.from(high);
    this.#forget();
  }

  seek(
    metaUnit: UnitId,
    key: Uint8Array | undefined,
    keyLength: number,
    atSeq: number,
    reverse: boolean,
    atMs: number,
  ): boolean {
    this.valid = false;
    const descriptor = this.enterRow(metaUnit, atSeq, atMs);
    if (descriptor === 0) return false;
    this.#buckets.open(descriptor);
    if (atSeq === Infinity || atSeq !== this.#copySeq || descriptor !== this.#copyDescriptor) {
      this.#copy();
      this.#copySeq = atSeq;
      this.#copyDescriptor = descriptor;
    }
    if (key === undefined) this.#position = reverse ? this.#count - 1 : 0;
    else this.#position = reverse ? this.#placeOf(key, keyLength, true) - 1 : this.#placeOf(key, keyLength, false);
    return this.#settle(!reverse);
  }

  next(): boolean {
    if (!this.valid) return false;
    this.#position++;
    return this.#settle(true);
  }

  prev(): boolean {
    if (!this.valid) return false;
    this.#position--;
    return this.#settle(false);
  }

  override release(): void {
    this.valid = false;
    super.release();
  }

  #forget(): void {
    this.#copySeq = -1;
    this.#count = 0;
    this.#bytes = new Uint8Array(0);
    this.#offsets = new Float64Array(1);
    this.#order = new Uint32Array(0);
  }

  /** How many keys are before the given one, or in front of what is behind it. */
  #placeOf(key: Uint8Array, keyLength: number, behind: boolean): number {
    let low = 0;
    let high = this.#count;
    while (low < high) {
      const middle = (low + high) >>> 1;
      const index = this.#order[middle]!;
      const at = this.#offsets[index]!;
      const order = compareBytes(this.#bytes, at, this.#offsets[index + 1]! - at, key, 0, keyLength);
      if (order < 0 || (behind && order === 0)) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  #settle(forward: boolean): boolean {
    const { arena } = this;
    for (; this.#position >= 0 && this.#position < this.#count; this.#position += forward ? 1 : -1) {
      const index = this.#order[this.#position]!;
      const at = this.#offsets[index]!;
      const key = this.#bytes.subarray(at, this.#offsets[index + 1]);
      for (;;) {
        const head = lookUp(arena, this.#buckets, key, key.length);
        if (head === 0) break;
        const version = this.versionAt(head);
        if (version !== 0) {
          if (this.show(version)) return (this.valid = true);
          break;
        }
        const metaUnit = this.newerMeta();
        if (metaUnit === 0) break;
        this.limitSeq = publishedSeqOf(arena, metaUnit);
        this.limitMeta = metaUnit;
      }
    }
    return (this.valid = false);
  }

  // ---- the copy -----------------------------------------------------------------------------------------------------------------

  #copy(): void {
    this.#count = 0;
    this.#copySeq = -1;
    const { arena } = this;
    const map = this.#buckets;
    let order = 0;
    while (order < 2 ** 32) {
      const hash = reverseBits(order) | 0;
      const before = this.#count;
      const buckets = map.buckets;
      const bits = bitsOf(hash, buckets);
      let node = map.first(bucketOf(hash, buckets));
      for (let steps = 0; node !== 0; steps++) {
        checkAddress(arena, node);
        if (steps > arena.totalUnits * 512) throw corruptNode(node, 'its bucket goes round');
        const words = arena.i32[nodeSegment(node)]!;
        // What a split has not cut off yet is met again in its own bucket.
        const isOwn = ((words[nodeWord(node) + HASH_LINK]! ^ hash) & (-1 >>> (32 - bits))) === 0;
        if (isOwn) this.#copyKey(node);
        node = Atomics.load(words, nodeWord(node) + NEXT_LINK);
      }
      if (bitsOf(hash, map.buckets) === bits) order += 2 ** (32 - bits);
      else this.#count = before;
    }
    this.#order = sortedKeys(this.#bytes, this.#offsets, this.#count);
  }

  #copyKey(node: number): void {
    // Versions that show now may be gone when their publication's readers need them no more: such a key is looked up all the same.
    const version = this.versionAt(node);
    if (version === 0 && this.limitMeta === 0) return;
    const u8 = this.arena.u8[nodeSegment(node)]!;
    if (version !== 0) {
      const versionCell = nodeOffset(version) + CELL_OFFSET;
      if ((this.arena.u8[nodeSegment(version)]![versionCell]! & CellFlag.Tombstone) !== 0) return;
    }
    const { keyAt, keyLength } = readCell(u8, node, nodeOffset(node) + CELL_OFFSET, this.#cell);
    if (this.#isInRange(u8, keyAt, keyLength)) this.#append(u8, keyAt, keyLength);
  }

  #isInRange(u8: Uint8Array, keyAt: number, keyLength: number): boolean {
    if (this.#low === undefined && this.#high === undefined) return true;
    return isWithin(u8.subarray(keyAt, keyAt + keyLength), keyLength, this.#low, true, this.#high, false);
  }

  #append(u8: Uint8Array, keyAt: number, keyLength: number): void {
    const end = this.#offsets[this.#count]!;
    if (end + keyLength > this.#bytes.length) {
      if (end + keyLength > COPY_BYTES_MAX) {
        throw new ConcordError('ERR_MEMORY_FULL', `the keys in range take more than ${COPY_BYTES_MAX} bytes`);
      }
      const grown = new Uint8Array(Math.min(COPY_BYTES_MAX, Math.max(4096, 2 * (end + keyLength))));
      grown.set(this.#bytes.subarray(0, end));
      this.#bytes = grown;
    }
    copyBytes(u8, keyAt, keyLength, this.#bytes, end);
    this.#count++;
    if (this.#count === this.#offsets.length) {
      const grown = new Float64Array(this.#offsets.length * 2);
      grown.set(this.#offsets);
      this.#offsets = grown;
    }
    this.#offsets[this.#count] = end + keyLength;
  }
}
