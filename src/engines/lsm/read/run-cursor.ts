/**
 * One run in key order: of each key the newest version ≤ the limit, tombstones among them.
 *
 *   forward    the block's cursor stands on the entry at hand
 *   backward   it stands one entry before it: which version is the newest ≤ the limit shows only when the next one is another key's, or too new. The entry at
 *              hand is a copy of its place; its block stays in one of two buffers
 *
 * Blocks are copied out of the cache, or read from the file: after a few in a row of those more at once, twice as much each time up to READ_AHEAD_BYTES_MAX,
 * into memory of this cursor, and nothing of that goes into the cache. What was read stays good as long as the process lives (no two tables have one cacheId), so a seek back to
 * where the last chunk ended costs no second read.
 *
 * Threads: any, one per cursor, under a pin of a version that has the run.
 */
import type { ArenaReader, UnitId } from '../../../shared/memory/arena.js';
import { FenceCursor } from '../memory/fence-tree.js';
import { BlockBuffer, BlockCursor } from '../table/block.js';
import { Source } from './source.js';
import type { RangePrefix } from './range-prefix.js';
import type { LsmFiles, LsmReadCounters } from './files.js';
import { IndexCursor } from './index-cursor.js';
import { TableViews, type TableView } from './table-view.js';

/** Blocks of a table read from the file one after the other, before more is read than asked for. */
const SEQUENTIAL_BLOCKS = 2;
const READ_AHEAD_BYTES_MIN = 8 * 1024;
const READ_AHEAD_BYTES_MAX = 256 * 1024;

export class RunCursor extends Source {
  #root: UnitId;
  readonly #tables: FenceCursor;
  readonly #index: IndexCursor;
  readonly #views: TableViews;
  /** Of the block; there is one as soon as a seek has found a table. */
  table!: TableView;
  readonly #block = new BlockCursor();
  #limit = Infinity;
  /** Two, so that the entry at hand stays where it is while the walk looks into the next block. */
  #buffer = new BlockBuffer(0);
  #otherBuffer = new BlockBuffer(0);
  #bufferWords: Int32Array = new Int32Array(0);
  #otherWords: Int32Array = new Int32Array(0);
  // Which block #buffer holds, and its plain length.
  #cacheId = 0;
  #offset = -1;
  #length = 0;
  // What was read ahead: stored bytes of one table from an offset on.
  #ahead: Uint8Array | undefined;
  #aheadCacheId = 0;
  #aheadOffset = 0;
  #aheadBytes = 0;
  /** Of the next read. */
  #aheadBytesNext = READ_AHEAD_BYTES_MIN;
  /** The end of the block that was read from a file last, and how many came before it in a row. */
  #lastReadCacheId = 0;
  #lastReadEnd = -1;
  #readsInRow = 0;

  /** The value: bytes[valueStart, valueStart + valueLength), until the next step but one. */
  bytes: Uint8Array;
  /** The same memory, up to its last whole word; values end before that. */
  words: Int32Array;
  valueStart = 0;
  valueLength = 0;
  /** What all keys that will be asked for begin with: tables that have no such key are passed over. */
  prefix: RangePrefix | undefined;

  constructor(arena: ArenaReader, files: LsmFiles, counters: LsmReadCounters, root: UnitId) {
    super();
    this.isMemtable = false;
    this.#root = root;
    this.#tables = new FenceCursor(arena);
    this.#index = new IndexCursor(arena);
    this.#views = new TableViews(arena, files, counters);
    this.bytes = this.#buffer.bytes;
    this.words = this.#bufferWords;
  }

  /** The run of another version: what was read of tables that it has too is still good. */
  setRoot(root: UnitId): void {
    this.#root = root;
    this.#views.clear();
    this.valid = false;
  }

  override seek(
    _metaUnit: UnitId,
    key: Uint8Array | undefined,
    keyLength: number,
    limit: number,
    reverse: boolean,
  ): boolean {
    this.#limit = limit;
    this.valid = false;
    return reverse ? this.#seekBack(key, keyLength) : this.#seekForward(key, keyLength);
  }

  override next(): boolean {
    const block = this.#block;
    do {
      if (!this.#stepForward()) return (this.valid = false);
      // Older versions of the key that was shown.
    } while (block.keyLength === this.keyLength && this.#hasBlockKey());
    return this.#settleForward();
  }

  override prev(): boolean {
    const block = this.#block;
    while (block.valid && block.keyLength === this.keyLength && this.#hasBlockKey()) this.#stepBack();
    return this.#settleBack();
  }

  // ---- forward ----------------------------------------------------------------------------------------------------------------

  #seekForward(key: Uint8Array | undefined, keyLength: number): boolean {
    const tables = this.#tables;
    const index = this.#index;
    let more = key === undefined ? tables.first(this.#root) : tables.seek(this.#root, key, keyLength);
    let isFirst = true;
    for (; more; more = tables.next()) {
      if (!this.#openTable()) continue;
      const block = this.#block;
      let hasBlock = isFirst && key !== undefined ? index.seek(key, keyLength) : index.first();
      for (; hasBlock; hasBlock = index.next()) {
        this.#openBlock();
        if (isFirst && key !== undefined) block.seek(key, keyLength, Infinity);
        else block.seekToFirst();
        if (block.valid) return this.#settleForward();
        isFirst = false;
      }
      isFirst = false;
    }
    return false;
  }

  /** From the entry that the block's cursor stands on to the first version ≤ the limit. */
  #settleForward(): boolean {
    const block = this.#block;
    const limit = this.#limit;
    while (block.seq > limit) if (!this.#stepForward()) return (this.valid = false);
    const { key } = this;
    const { keyLength, key: blockKey } = block;
    for (let index = 0; index < keyLength; index++) key[index] = blockKey[index]!;
    this.keyLength = keyLength;
    this.bytes = block.bytes;
    this.words = this.#bufferWords;
    this.valueStart = block.valueStart;
    this.valueLength = block.valueLength;
    this.seq = block.seq;
    this.flags = block.flags;
    this.expiresAt = block.expiresAt;
    return (this.valid = true);
  }

  #stepForward(): boolean {
    const block = this.#block;
    if (block.next()) return true;
    const index = this.#index;
    while (index.next()) {
      this.#openBlock();
      if (block.seekToFirst()) return true;
    }
    while (this.#tables.next()) {
      if (!this.#openTable()) continue;
      for (let more = index.first(); more; more = index.next()) {
        this.#openBlock();
        if (block.seekToFirst()) return true;
      }
    }
    return false;
  }

  // ---- backward ---------------------------------------------------------------------------------------------------------------

  #seekBack(key: Uint8Array | undefined, keyLength: number): boolean {
    const tables = this.#tables;
    const index = this.#index;
    const block = this.#block;
    // The first table that may have something behind the key has what comes before that, or the one before it has.
    let isFirst = key !== undefined && tables.seek(this.#root, key, keyLength, true);
    for (let more = isFirst || tables.last(this.#root); more; more = tables.prev()) {
      if (this.#openTable()) {
        let isFirstBlock = isFirst && index.seek(key!, keyLength, true);
        for (let hasBlock = isFirstBlock || index.last(); hasBlock; hasBlock = index.prev()) {
          this.#openBlock();
          // No version has a number ≤ -1: to the next larger key.
          if (isFirstBlock) block.seek(key!, keyLength, -1);
          if (isFirstBlock && block.valid) block.prev();
          else block.seekToLast();
          if (block.valid) return this.#settleBack();
          isFirstBlock = false;
        }
      }
      isFirst = false;
    }
    block.valid = false;
    return false;
  }

  /** From the entry that the block's cursor stands on, a key's oldest: its newest version ≤ the limit, else the next smaller key's. */
  #settleBack(): boolean {
    const block = this.#block;
    const limit = this.#limit;
    this.valid = false;
    while (block.valid) {
      if (this.valid && !(block.keyLength === this.keyLength && this.#hasBlockKey())) break;
      if (block.seq > limit) {
        // All that follow of the key are newer still; the next step passes over them.
        if (this.valid) break;
      } else this.#takeFromBlock();
      this.#stepBack();
    }
    return this.valid;
  }

  #takeFromBlock(): void {
    const block = this.#block;
    if (!this.valid) {
      const { keyLength, key: blockKey } = block;
      for (let index = 0; index < keyLength; index++) this.key[index] = blockKey[index]!;
      this.keyLength = keyLength;
    }
    this.bytes = block.bytes;
    this.words = this.#bufferWords;
    this.valueStart = block.valueStart;
    this.valueLength = block.valueLength;
    this.seq = block.seq;
    this.flags = block.flags;
    this.expiresAt = block.expiresAt;
    this.valid = true;
  }

  /** The block's cursor is not valid before the first entry of the run. */
  #stepBack(): void {
    const block = this.#block;
    if (block.prev()) return;
    const index = this.#index;
    while (index.prev()) {
      this.#openBlock();
      if (block.seekToLast()) return;
    }
    while (this.#tables.prev()) {
      if (!this.#openTable()) continue;
      for (let more = index.last(); more; more = index.prev()) {
        this.#openBlock();
        if (block.seekToLast()) return;
      }
    }
  }

  // ---- tables and blocks --------------------------------------------------------------------------------------------------------

  /** False: the table has nothing of the range. */
  #openTable(): boolean {
    const table = this.#views.at(this.#tables.a);
    this.table = table;
    this.#index.open(table);
    if (this.prefix === undefined || table.prefixFilterBytes === 0) return true;
    const hash = this.prefix.hashOf(table.prefixFilterBytes);
    return hash === undefined || table.mayContainPrefix(hash);
  }

  #openBlock(): void {
    const { table } = this;
    const { offset, storedBytes } = this.#index;
    const { cacheId } = table;
    if (cacheId !== this.#cacheId || offset !== this.#offset) {
      const buffer = this.#otherBuffer;
      const words = this.#otherWords;
      this.#otherBuffer = this.#buffer;
      this.#otherWords = this.#bufferWords;
      this.#buffer = buffer;
      this.#bufferWords = words;
      this.#cacheId = 0;
      this.#length = this.#read(offset, storedBytes, buffer);
      const { bytes } = buffer;
      if (words.buffer !== bytes.buffer) {
        this.#bufferWords = new Int32Array(bytes.buffer, bytes.byteOffset, bytes.length >>> 2);
      }
      this.#cacheId = cacheId;
      this.#offset = offset;
    }
    this.#block.open(this.#buffer.bytes, 0, this.#length, table, offset);
  }

  #read(offset: number, storedBytes: number, into: BlockBuffer): number {
    const { table } = this;
    const { cacheId } = table;
    const isAhead = cacheId === this.#aheadCacheId && offset >= this.#aheadOffset;
    if (isAhead && offset + storedBytes <= this.#aheadOffset + this.#aheadBytes)
      return this.#decode(offset, storedBytes, into);
    const length = table.fromCache(offset, into);
    if (length > 0) {
      // Finds ask the cache only where its place was noted.
      if (this.#index.place === 0) this.#index.place = table.foundPlace;
      return length;
    }
    const isNext = cacheId === this.#lastReadCacheId && offset === this.#lastReadEnd;
    this.#readsInRow = isNext ? this.#readsInRow + 1 : 0;
    this.#lastReadCacheId = cacheId;
    this.#lastReadEnd = offset + storedBytes;
    if (this.#readsInRow < SEQUENTIAL_BLOCKS) {
      this.#aheadBytesNext = READ_AHEAD_BYTES_MIN;
      const read = table.readPast(offset, storedBytes, into, true);
      if (table.keptPlace !== 0) this.#index.place = table.keptPlace;
      return read;
    }
    if (storedBytes > READ_AHEAD_BYTES_MAX) return table.readPast(offset, storedBytes, into, false);
    const wanted = Math.max(storedBytes, this.#aheadBytesNext);
    if (this.#ahead === undefined || this.#ahead.length < wanted) this.#ahead = new Uint8Array(wanted);
    this.#aheadBytesNext = Math.min(2 * wanted, READ_AHEAD_BYTES_MAX);
    this.#aheadBytes = 0;
    this.#aheadBytes = table.readStored(offset, storedBytes, this.#ahead.subarray(0, wanted));
    this.#aheadCacheId = cacheId;
    this.#aheadOffset = offset;
    // The file ends within the block: the error is the reader's to make.
    if (this.#aheadBytes < storedBytes) return table.readPast(offset, storedBytes, into, false);
    return this.#decode(offset, storedBytes, into);
  }

  #decode(offset: number, storedBytes: number, into: BlockBuffer): number {
    this.#lastReadCacheId = this.table.cacheId;
    this.#lastReadEnd = offset + storedBytes;
    return this.table.decode(this.#ahead!, offset - this.#aheadOffset, storedBytes, offset, into);
  }

  #hasBlockKey(): boolean {
    const { key, keyLength } = this;
    const other = this.#block.key;
    // The last bytes differ first in most keys that follow each other.
    for (let index = keyLength - 1; index >= 0; index--) if (key[index] !== other[index]) return false;
    return true;
  }
}
