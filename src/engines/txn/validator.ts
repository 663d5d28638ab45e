/**
 * Whether what a transaction has read still holds, in one shard, between two groups. Nothing is changed; looking up single keys allocates nothing.
 *
 *   serializable      each key read has the same newest version as then (0: none), each range scanned shows the same versions now as at its snapshot
 *   read-committed    nothing
 *
 * A repeatable-read transaction comes as a serializable one that has read what it writes and nothing else.
 * Expiry is judged by the transaction's own time, so an entry that has expired meanwhile is no conflict. A version that came and went since is none either:
 * the state is what it was. A range needs its snapshot to be open still, or old versions may be gone.
 * Threads: the shard's thread only; one instance per shard, reused.
 */
import type { ShardStore } from '../store/shard-store.js';
import type { Space } from '../store/space-table.js';
import { Isolation, type TransactionBody } from './body.js';

/** Where a transaction met another. */
export interface ConflictInfo {
  readonly space: number;
  /** The key, or of a range the first that shows something else. */
  readonly key: Buffer;
}

/** Entries of a range that are compared at a time: cursors hold what keeps the shard from writing. */
const RANGE_ENTRIES = 1024;
/** Memory for keys of a range is kept for the next one. */
const KEPT_KEY_BYTES = 1 << 20;

export class Validator {
  readonly #store: ShardStore;
  // A part of a range as it was: keys one behind the other, where each ends, their versions.
  #keys = new Uint8Array(0);
  #ends = new Int32Array(0);
  #seqs = new Float64Array(0);

  constructor(store: ShardStore) {
    this.#store = store;
  }

  /**
   * Undefined: it holds. The body is open; no group that touches its keys is.
   * @throws ERR_SPACE_DROPPED; where values must be read from files: ERR_IO, ERR_CORRUPT, ERR_MEMORY_FULL
   */
  validate(body: TransactionBody): ConflictInfo | undefined {
    if (body.isolation === Isolation.ReadCommitted) return undefined;
    return this.#validateReads(body) ?? this.#validateRanges(body);
  }

  #validateReads(body: TransactionBody): ConflictInfo | undefined {
    const { bytes, readMs } = body;
    for (body.rewindReads(); body.nextRead();) {
      const { readSpace, keyStart, keyLength } = body;
      const space = this.#store.spaces.require(readSpace);
      if (this.#store.versionOf(space, bytes, keyStart, keyLength, readMs) !== body.readSeq)
        return conflict(readSpace, bytes, keyStart, keyLength);
    }
    return undefined;
  }

  #validateRanges(body: TransactionBody): ConflictInfo | undefined {
    const { bytes, snapshot } = body;
    for (body.rewindRanges(); body.nextRange();) {
      const { rangeSpace, lowStart, lowLength, highStart, highLength } = body;
      const low = lowLength < 0 ? undefined : bytes.subarray(lowStart, lowStart + lowLength);
      const high = highLength < 0 ? undefined : bytes.subarray(highStart, highStart + highLength);
      const key = this.#firstDifference(this.#store.spaces.require(rangeSpace), low, high, snapshot, body.readMs);
      if (key !== undefined) return { space: rangeSpace, key };
    }
    return undefined;
  }

  /** The first key of [low, high) with another version now than at the snapshot. */
  #firstDifference(
    space: Space,
    low: Uint8Array | undefined,
    high: Uint8Array | undefined,
    snapshot: number,
    readMs: number,
  ): Buffer | undefined {
    const { spaces } = this.#store;
    const cursor = spaces.cursorOf(space);
    cursor.setRange(low, high);
    // Without an order of its own an engine sorts all keys for each seek.
    const entriesMax = spaces.isOrdered(space) ? RANGE_ENTRIES : Infinity;
    try {
      let from = low;
      for (let isFirst = true; ; isFirst = false) {
        const entries = this.#readPart(space, from, !isFirst, high, entriesMax, snapshot, readMs);
        const isLast = entries < entriesMax;
        const key = this.#comparePart(space, from, !isFirst, high, entries, isLast, readMs);
        if (key !== undefined || isLast) return key;
        from = this.#keys.slice(this.#ends[entries - 2], this.#ends[entries - 1]);
      }
    } finally {
      cursor.setRange(undefined, undefined);
      if (this.#keys.length > KEPT_KEY_BYTES) this.#keys = new Uint8Array(0);
      if (this.#ends.length > RANGE_ENTRIES) this.#growEntries(0);
    }
  }

  /** Remembers the next entries as the snapshot sees them. `isPast`: the first key is not wanted itself. */
  #readPart(
    space: Space,
    from: Uint8Array | undefined,
    isPast: boolean,
    high: Uint8Array | undefined,
    entriesMax: number,
    snapshot: number,
    readMs: number,
  ): number {
    const { spaces, arena } = this.#store;
    const cursor = spaces.cursorOf(space);
    let entries = 0;
    let end = 0;
    try {
      cursor.seek(arena.published(), from, from?.length ?? 0, snapshot, false, readMs);
      if (isPast && cursor.valid && cursor.compareKey(from!, from!.length) === 0) cursor.next();
      for (; entries < entriesMax && cursor.valid; cursor.next()) {
        if (high !== undefined && cursor.compareKey(high, high.length) >= 0) break;
        if (end + cursor.keyLength > this.#keys.length) this.#growKeys(end + cursor.keyLength);
        if (entries === this.#ends.length) this.#growEntries(entries);
        end += cursor.copyKey(this.#keys, end);
        this.#ends[entries] = end;
        this.#seqs[entries++] = cursor.seq;
      }
    } finally {
      cursor.release();
    }
    return entries;
  }

  #growEntries(kept: number): void {
    const entries = Math.max(RANGE_ENTRIES, 2 * kept);
    const ends = new Int32Array(entries);
    const seqs = new Float64Array(entries);
    ends.set(this.#ends.subarray(0, kept));
    seqs.set(this.#seqs.subarray(0, kept));
    this.#ends = ends;
    this.#seqs = seqs;
  }

  #growKeys(bytes: number): void {
    const grown = new Uint8Array(Math.max(4096, 2 * bytes));
    grown.set(this.#keys);
    this.#keys = grown;
  }

  /** Compares what is there now with what was remembered. isLast: nothing may follow. */
  #comparePart(
    space: Space,
    from: Uint8Array | undefined,
    isPast: boolean,
    high: Uint8Array | undefined,
    entries: number,
    isLast: boolean,
    readMs: number,
  ): Buffer | undefined {
    const { spaces, arena } = this.#store;
    const cursor = spaces.cursorOf(space);
    try {
      cursor.seek(arena.published(), from, from?.length ?? 0, Infinity, false, readMs);
      if (isPast && cursor.valid && cursor.compareKey(from!, from!.length) === 0) cursor.next();
      for (let entry = 0, start = 0; entry < entries; entry++, cursor.next()) {
        const end = this.#ends[entry]!;
        const key = this.#keys.subarray(start, end);
        const order = cursor.valid ? cursor.compareKey(key, key.length) : 1;
        if (order !== 0 || cursor.seq !== this.#seqs[entry]) {
          // One that is new, or one that is gone or has changed.
          if (order >= 0) return Buffer.from(key);
          return keyOf(cursor);
        }
        start = end;
      }
      if (!isLast || !cursor.valid) return undefined;
      return high !== undefined && cursor.compareKey(high, high.length) >= 0 ? undefined : keyOf(cursor);
    } finally {
      cursor.release();
    }
  }
}

function conflict(space: number, bytes: Uint8Array, keyStart: number, keyLength: number): ConflictInfo {
  return { space, key: Buffer.from(bytes.subarray(keyStart, keyStart + keyLength)) };
}

function keyOf(cursor: { readonly keyLength: number; copyKey(into: Uint8Array, at: number): number }): Buffer {
  const key = Buffer.allocUnsafe(cursor.keyLength);
  cursor.copyKey(key, 0);
  return key;
}
