/**
 * Point reads of an LSM-Tree: the newest version that shows, wherever it lies.
 *
 *   memtables, newest first ──▶ runs, newest first: the run's table for the key ─▶ filter ─▶ index ─▶ block
 *
 * Versions of a key lie newest first along this way, so the first one ≤ the number of the read is the one; a tombstone, a newer range tombstone or an expiry
 * that has passed makes it absence. The key is hashed once for all filters; a run that has answered one find after the other is not asked for its filters.
 *
 * A block in the shared cache is searched where it lies: the entry is copied, and then believed if the block was still there (PageCache.locate). Only a block
 * that is read twice in a row is copied whole. So a find copies the entry and nothing else, and the value's copy is what copyValue() hands out. Where in the
 * cache a block was found is noted in the table's index, for the next find of any thread.
 *
 * With avoidsDisk a find never waits for a file: see cold.ts.
 * Threads: any, one object per thread, between pin and unpin.
 */
import type { ArenaReader, UnitId } from '../../../shared/memory/arena.js';
import { CopyPool, POOLED_BYTES_MAX } from '../../../shared/memory/copy-pool.js';
import { WORD_COPY_BYTES_MAX, copyWords } from '../../../shared/memory/copy-words.js';
import { KEY_BYTES_MAX } from '../../btree/page.js';
import type { EngineReader } from '../../engine.js';
import { TableReader } from '../../memtable/reader.js';
import { FenceCursor } from '../memory/fence-tree.js';
import { BlockBuffer, BlockCursor } from '../table/block.js';
import { EntryFlag } from '../table/entry.js';
import { KeyHash } from '../table/filter.js';
import type { BlobReference } from '../types.js';
import { copyBlob, mustBeLoaded, readBlob, referenceAt } from './blob-values.js';
import { IndexCursor } from './index-cursor.js';
import { TableViews, type TableView } from './table-view.js';
import { LsmView, compareKeys } from './view.js';

const NO_BYTES = Buffer.alloc(0);
/** Finds in a row that a run answered, after which its filters are not asked until it does not: asking costs a tenth of a find. */
const SURE_FINDS = 64;

export class LsmReader extends LsmView implements EngineReader {
  readonly #memtable: TableReader;
  readonly #fences: FenceCursor;
  readonly #index: IndexCursor;
  readonly #block = new BlockCursor();
  readonly #hash = new KeyHash();
  #isHashed = false;
  /** By run: finds in a row for which it had a version. */
  #sureFinds = new Uint8Array(0);
  #tables: TableViews | undefined;
  /** Of the state that they are from. */
  #tablesGeneration = -1;
  /** A find that would wait for a file throws ColdReadError. */
  avoidsDisk = false;
  // The block that was copied whole.
  readonly #own = new BlockBuffer();
  /** Its memory, and the same up to its last whole word; values end before that. */
  #ownBytes: Uint8Array = NO_BYTES;
  #ownWords: Int32Array = new Int32Array(0);
  #ownCacheId = 0;
  #ownOffset = 0;
  #ownLength = 0;
  // The block that was searched last.
  #lastCacheId = 0;
  #lastOffset = 0;

  // The entry at hand: the memtable's, or the one below.
  #isInMemtable = false;
  #seq = 0;
  #flags = 0;
  #expiresAt = 0;
  readonly #key = new Uint8Array(KEY_BYTES_MAX);
  #keyLength = 0;
  /** Its value, in memory of its own: copyValue() gives it away the first time. */
  #value: Buffer = NO_BYTES;
  #isValueGiven = false;
  #blob: BlobReference | undefined;
  readonly #pool = new CopyPool();

  constructor(arena: ArenaReader, row: number, spaceId: number, slot: number) {
    super(arena, row, spaceId, slot);
    this.#memtable = new TableReader(arena, slot, spaceId);
    this.#fences = new FenceCursor(arena);
    this.#index = new IndexCursor(arena);
  }

  find(metaUnit: UnitId, key: Uint8Array, keyLength: number, atSeq: number, atMs: number): boolean {
    this.#blob = undefined;
    if (!this.enter(metaUnit)) return false;
    // Whatever stands in a table or the list of range tombstones was published before the pinned state.
    const cover = this.tombstones.length === 0 ? 0 : this.coverOf(key, keyLength, atSeq);
    const { memtables, runs } = this;
    const memtable = this.#memtable;
    for (let index = 0; index < memtables.length; index++) {
      if (!memtable.open(memtables[index]!).find(metaUnit, key, keyLength, atSeq, atMs)) continue;
      this.#isInMemtable = true;
      if (memtable.isTombstone || (cover !== 0 && memtable.seq < cover)) return false;
      const { expiresAt } = memtable;
      return expiresAt === 0 || expiresAt > (atMs === 0 ? Date.now() : atMs);
    }
    if (runs.length === 0) return false;
    this.#isHashed = false;
    const tables = (this.#tables ??= new TableViews(this.arena, this.files, this.counters));
    if (this.#tablesGeneration !== this.generation) {
      tables.clear();
      this.#tablesGeneration = this.generation;
      this.#sureFinds = new Uint8Array(runs.length);
    }
    const fences = this.#fences;
    for (let index = 0; index < runs.length; index++) {
      if (!fences.seek(runs[index]!.root, key, keyLength)) continue;
      const table = tables.at(fences.a);
      table.avoidsDisk = this.avoidsDisk;
      // All that it has of the key is cleared.
      if (cover !== 0 && table.largestSeq < cover) continue;
      if (!this.#findInTable(table, index, key, keyLength, atSeq)) continue;
      this.#isInMemtable = false;
      if ((this.#flags & EntryFlag.tombstone) !== 0 || (cover !== 0 && this.#seq < cover)) return false;
      if (this.#expiresAt !== 0 && this.#expiresAt <= (atMs === 0 ? Date.now() : atMs)) return false;
      if ((this.#flags & EntryFlag.blob) !== 0) this.#takeBlob(table);
      return true;
    }
    return false;
  }

  release(): void {
    // A pin is all that finds take; what the entry's value needs of it, it has no more.
  }

  get seq(): number {
    return this.#isInMemtable ? this.#memtable.seq : this.#seq;
  }

  get expiresAt(): number {
    return this.#isInMemtable ? this.#memtable.expiresAt : this.#expiresAt;
  }

  get keyLength(): number {
    return this.#isInMemtable ? this.#memtable.keyLength : this.#keyLength;
  }

  get valueLength(): number {
    if (this.#isInMemtable) return this.#memtable.valueLength;
    return this.#blob === undefined ? this.#value.length : this.#blob.valueBytes;
  }

  copyKey(into: Uint8Array, at: number): number {
    if (this.#isInMemtable) return this.#memtable.copyKey(into, at);
    const length = this.#keyLength;
    for (let index = 0; index < length; index++) into[at + index] = this.#key[index]!;
    return length;
  }

  compareKey(key: Uint8Array, keyLength: number): number {
    if (this.#isInMemtable) return this.#memtable.compareKey(key, keyLength);
    return compareKeys(this.#key, this.#keyLength, key, keyLength);
  }

  /** @throws of a value in a blob file: ERR_CORRUPT, ERR_IO */
  copyValue(): Buffer {
    if (this.#isInMemtable) return this.#memtable.copyValue();
    const reference = this.#blob;
    if (reference !== undefined) {
      return copyBlob(this.files, this.counters, this.tree, reference);
    }
    if (this.#isValueGiven) return Buffer.from(this.#value);
    this.#isValueGiven = true;
    return this.#value;
  }

  valueUtf8(): string {
    if (this.#isInMemtable) return this.#memtable.valueUtf8();
    return this.#blob === undefined ? this.#value.toString('utf8') : this.copyValue().toString('utf8');
  }

  readValue(into: Uint8Array, at: number, from: number, length: number): number {
    if (this.#isInMemtable) return this.#memtable.readValue(into, at, from, length);
    const reference = this.#blob;
    if (reference !== undefined) {
      return readBlob(this.files, this.counters, this.tree, reference, into, at, from, length);
    }
    const wanted = Math.min(length, this.#value.length - from);
    if (wanted <= 0) return 0;
    into.set(this.#value.subarray(from, from + wanted), at);
    return wanted;
  }

  /** Takes the newest version ≤ limit that the table, one of the run's, has. False: it has none. */
  #findInTable(table: TableView, run: number, key: Uint8Array, keyLength: number, limit: number): boolean {
    if (limit !== Infinity && table.smallestSeq > limit) return false;
    const sureFinds = this.#sureFinds;
    const sure = sureFinds[run]!;
    const asksFilter = table.hasFilter && sure < SURE_FINDS;
    if (asksFilter) {
      if (!this.#isHashed) {
        this.#hash.set(key, 0, keyLength);
        this.#isHashed = true;
      }
      if (!table.mayContain(this.#hash)) {
        sureFinds[run] = 0;
        return false;
      }
    } else if (!table.hasFilter && table.compareSmallestKey(key, keyLength) > 0) return false;
    const index = this.#index;
    index.open(table);
    for (let more = index.seek(key, keyLength); more; more = index.next()) {
      if (this.#findInBlock(table, key, keyLength, limit)) {
        if (asksFilter) sureFinds[run] = sure + 1;
        return true;
      }
      // Its older versions stand in the next block only if this one's bound is the key itself.
      if (this.#block.valid || !index.boundEquals(key, keyLength)) break;
    }
    sureFinds[run] = 0;
    if (asksFilter && limit === Infinity) this.counters.filterFalsePositives++;
    return false;
  }

  /** In the block that the index has found. */
  #findInBlock(table: TableView, key: Uint8Array, keyLength: number, limit: number): boolean {
    const { offset, storedBytes } = this.#index;
    const block = this.#block;
    const { cacheId } = table;
    const own = this.#own;
    if (cacheId !== this.#ownCacheId || offset !== this.#ownOffset) {
      const isAgain = cacheId === this.#lastCacheId && offset === this.#lastOffset;
      if (!isAgain) {
        this.#lastCacheId = cacheId;
        this.#lastOffset = offset;
        const answer = this.#findInPlace(table, key, keyLength, limit);
        if (answer >= 0) return answer === 1;
      }
      this.#ownCacheId = 0;
      const index = this.#index;
      const isVerified = table.verifiesOnce && index.isVerified;
      this.#ownLength = isAgain
        ? table.read(offset, storedBytes, own)
        : table.readEntries(offset, storedBytes, own, isVerified);
      if (table.verifiesOnce && !isVerified) index.noteVerified();
      if (table.keptPlace !== 0) index.place = table.keptPlace;
      this.#ownCacheId = cacheId;
      this.#ownOffset = offset;
    }
    const { bytes } = own;
    if (this.#ownBytes !== bytes) {
      this.#ownBytes = bytes;
      this.#ownWords = new Int32Array(bytes.buffer, 0, bytes.length >>> 2);
    }
    block.open(bytes, 0, this.#ownLength, table, offset);
    if (!block.seek(key, keyLength, limit)) return false;
    this.#take(key, keyLength, this.#ownWords);
    return true;
  }

  /** In the cache: 1 found, 0 not there, -1: the block is not in the cache, or was not until the end. */
  #findInPlace(table: TableView, key: Uint8Array, keyLength: number, limit: number): number {
    const { cache } = table.files;
    if (cache === undefined) return -1;
    const index = this.#index;
    const { offset, place } = index;
    // Who puts a block into the cache, or finds it there, notes the place. One that nobody has noted since it came is read from the file: that costs less than to
    // ask each time.
    if (place === 0 && index.notesPlaces && !this.avoidsDisk) {
      cache.countMiss(table.cacheId, offset);
      return -1;
    }
    const length = cache.locate(table.cacheId, offset, index.storedBytes, place);
    if (length === 0) {
      // Looking there once more would be for nothing.
      if (place !== 0) index.place = 0;
      return -1;
    }
    if (cache.foundPlace !== place) index.place = cache.foundPlace;
    const block = this.#block;
    let isFound: boolean;
    try {
      block.open(cache.foundBytes, cache.foundAt, cache.foundAt + length, table, offset);
      isFound = block.seek(key, keyLength, limit);
      if (isFound) this.#take(key, keyLength, cache.foundWords);
    } catch {
      // Something else stands there by now; or else the file will tell.
      cache.confirm();
      return -1;
    }
    if (!cache.confirm()) return -1;
    table.counters.blocksFromCache++;
    return isFound ? 1 : 0;
  }

  /** Copies the entry that the block's cursor stands on. words: the memory it stands in. */
  #take(key: Uint8Array, keyLength: number, words: Int32Array): void {
    const block = this.#block;
    const { valueLength, valueStart, bytes } = block;
    this.#seq = block.seq;
    this.#flags = block.flags;
    this.#expiresAt = block.expiresAt;
    const own = this.#key;
    for (let index = 0; index < keyLength; index++) own[index] = key[index]!;
    this.#keyLength = keyLength;
    this.#isValueGiven = false;
    if (valueLength > POOLED_BYTES_MAX) {
      const value = Buffer.allocUnsafeSlow(valueLength);
      value.set(bytes.subarray(valueStart, valueStart + valueLength));
      this.#value = value;
      return;
    }
    const pool = this.#pool;
    const value = pool.take(valueLength);
    if (valueLength <= WORD_COPY_BYTES_MAX) {
      copyWords(words, bytes, valueStart, valueLength, pool.words, value.byteOffset >>> 2, value);
    } else {
      value.set(bytes.subarray(valueStart, valueStart + valueLength));
    }
    this.#value = value;
  }

  #takeBlob(table: TableView): void {
    const reference = referenceAt(this.#value, 0, this.#value.length, table.path);
    if (this.avoidsDisk) mustBeLoaded(this.files, this.counters, this.tree, reference);
    this.#blob = reference;
  }
}
