/**
 * A table as readers see it: its page in the arena, its filter, its blocks by way of cache and file.
 *
 *   block of the table ──▶ bytes of this thread's own (loaded()) · the shared cache · the file, and then the cache
 *
 * Threads: any, one per reader or cursor, under a pin of a version that has the table.
 */
import { SEGMENT_UNIT_SHIFT, type ArenaReader, type UnitId } from '../../../shared/memory/arena.js';
import { ConcordError } from '../../../shared/errors.js';
import { corruptPage } from '../../btree/page.js';
import { LsmPage, checkLsmPage, lsmPageBytes } from '../memory/page.js';
import {
  FILTER_LINES_OFFSET,
  FilterWord,
  INDEX_IS_RESIDENT,
  TableWord,
  checkTablePage,
  compareSmallestKey,
  filterListWord,
} from '../memory/table-meta.js';
import { BlockBuffer } from '../table/block.js';
import { FILTER_LINE_BYTES, filterLine, lineMayContain, type KeyHash } from '../table/filter.js';
import { TRAILER_BYTES } from '../table/table-file.js';
import { ColdReadError } from './cold.js';
import { loadedBlockKey, type LsmFiles, type LsmReadCounters, type OpenTable } from './files.js';

const TWO_32 = 4294967296;

export class TableView {
  readonly arena: ArenaReader;
  readonly files: LsmFiles;
  readonly counters: LsmReadCounters;
  /** Of the table, since open(). */
  unit: UnitId = 0;
  number = 0;
  cacheId = 0;
  tree = 0;
  indexRoot: UnitId = 0;
  isIndexResident = false;
  /** Throws ColdReadError instead of reading a file. */
  avoidsDisk = false;
  #words: Uint32Array;
  #page = 0;
  #filterBuffer: BlockBuffer | undefined;
  // The partition of a filter that #filterBuffer holds.
  #filterCacheId = 0;
  #filterOffset = 0;

  constructor(arena: ArenaReader, files: LsmFiles, counters: LsmReadCounters) {
    this.arena = arena;
    this.files = files;
    this.counters = counters;
    this.#words = arena.u32[0]!;
  }

  /** @throws ERR_CORRUPT */
  open(unit: UnitId): void {
    const page = checkTablePage(this.arena, unit);
    const words = this.arena.u32[unit >>> SEGMENT_UNIT_SHIFT]!;
    this.unit = unit;
    this.#page = page;
    this.#words = words;
    this.number = words[page + TableWord.number]!;
    this.cacheId = words[page + TableWord.cacheId]!;
    this.tree = words[page + TableWord.tree]!;
    this.indexRoot = words[page + TableWord.index]!;
    this.isIndexResident = (words[page + TableWord.flags]! & INDEX_IS_RESIDENT) !== 0;
  }

  get smallestSeq(): number {
    const at = this.#page + TableWord.smallestSeq;
    return this.#words[at]! + this.#words[at + 1]! * TWO_32;
  }

  get largestSeq(): number {
    const at = this.#page + TableWord.largestSeq;
    return this.#words[at]! + this.#words[at + 1]! * TWO_32;
  }

  get path(): string {
    return this.files.tablePath(this.tree, this.number);
  }

  get hasFilter(): boolean {
    return this.#words[this.#page + TableWord.filter + FilterWord.partitions] !== 0;
  }

  /** Bytes of a key that the prefix filter is about; 0: there is none. */
  get prefixFilterBytes(): number {
    const at = this.#page + TableWord.prefixFilter;
    return this.#words[at + FilterWord.partitions] === 0 ? 0 : this.#words[at + FilterWord.prefixBytes]!;
  }

  compareSmallestKey(key: Uint8Array, keyLength: number): number {
    return compareSmallestKey(this.arena, this.unit, this.#page, key, keyLength);
  }

  /** False: the key is not in the table. hasFilter. @throws ERR_CORRUPT, ERR_IO, ColdReadError */
  mayContain(hash: KeyHash): boolean {
    this.counters.filterChecks++;
    if (this.#asks(this.#page + TableWord.filter, filterListWord(this.#words, this.#page), hash)) return true;
    this.counters.filterNegatives++;
    return false;
  }

  /** False: no key of the table begins so. prefixFilterBytes > 0; hash: of so many bytes. */
  mayContainPrefix(hash: KeyHash): boolean {
    const words = this.#words;
    const partitions = words[this.#page + TableWord.filter + FilterWord.partitions]!;
    const list = filterListWord(words, this.#page) + partitions;
    if (this.#asks(this.#page + TableWord.prefixFilter, list, hash)) return true;
    this.counters.prefixNegatives++;
    return false;
  }

  #asks(shape: number, list: number, hash: KeyHash): boolean {
    const words = this.#words;
    const lines = words[shape + FilterWord.partitionLines]!;
    const line = filterLine(hash.h1, words[shape + FilterWord.partitions]! * lines);
    const partition = Math.floor(line / lines);
    const lineAt = (line - partition * lines) * FILTER_LINE_BYTES;
    const unit = words[list + partition]!;
    const probes = words[shape + FilterWord.probes]!;
    if (unit !== 0) {
      const base = checkLsmPage(this.arena, unit, LsmPage.Filter);
      if (FILTER_LINES_OFFSET + lines * FILTER_LINE_BYTES > lsmPageBytes(this.arena, unit)) {
        throw corruptPage(unit, `${lines} lines of a filter do not fit the page`);
      }
      const u8 = this.arena.u8[unit >>> SEGMENT_UNIT_SHIFT]!;
      return lineMayContain(u8, base + FILTER_LINES_OFFSET + lineAt, hash.h2, probes);
    }
    const storedBytes = lines * FILTER_LINE_BYTES + TRAILER_BYTES;
    const offset = words[shape + FilterWord.offset]! + partition * storedBytes;
    return this.#asksFile(offset, storedBytes, lineAt, hash.h2, probes);
  }

  /** A filter's partition that is in the file: only one line of it is wanted. */
  #asksFile(offset: number, storedBytes: number, lineAt: number, h2: number, probes: number): boolean {
    const buffer = (this.#filterBuffer ??= new BlockBuffer(storedBytes));
    if (this.#filterCacheId !== this.cacheId || this.#filterOffset !== offset) {
      const { cache } = this.files;
      const length = cache?.locate(this.cacheId, offset) ?? 0;
      if (length > 0) {
        const answer = lineMayContain(cache!.foundBytes, cache!.foundAt + lineAt, h2, probes);
        if (cache!.confirm() && lineAt + FILTER_LINE_BYTES <= length) {
          this.counters.blocksFromCache++;
          return answer;
        }
      }
      this.#filterCacheId = 0;
      this.readPast(offset, storedBytes, buffer, true);
      this.#filterCacheId = this.cacheId;
      this.#filterOffset = offset;
    }
    return lineMayContain(buffer.bytes, lineAt, h2, probes);
  }

  /** The plain block to into.bytes[0 …); returns its length. @throws ERR_CORRUPT, ERR_IO, ColdReadError */
  read(offset: number, storedBytes: number, into: BlockBuffer): number {
    const length = this.fromCache(offset, into);
    return length > 0 ? length : this.readPast(offset, storedBytes, into, true);
  }

  /** 0: it is not in the cache. */
  fromCache(offset: number, into: BlockBuffer): number {
    const { cache } = this.files;
    const length = cache?.locate(this.cacheId, offset) ?? 0;
    if (length === 0) return 0;
    const { foundBytes, foundAt } = cache!;
    into.reserve(length).set(foundBytes.subarray(foundAt, foundAt + length), 0);
    if (!cache!.confirm()) return 0;
    this.counters.blocksFromCache++;
    return length;
  }

  /** Stored bytes of the file from a block on, as many as there is room for; at least that block's. Not decoded, not checked. */
  readStored(offset: number, storedBytes: number, into: Uint8Array): number {
    this.checkPlace(offset, storedBytes);
    const { file } = this.files.table(this.tree, this.number).reader;
    const fileBytes = this.#words[this.#page + TableWord.fileBytes]!;
    const read = file.read(into, 0, Math.min(into.length, fileBytes - offset), offset);
    this.counters.bytesFromFile += read;
    return read;
  }

  /** A block that readStored() brought, at bytes[at …). */
  decode(bytes: Uint8Array, at: number, storedBytes: number, offset: number, into: BlockBuffer): number {
    this.counters.blocksFromFile++;
    return this.files.table(this.tree, this.number).reader.decodeBlock(bytes, at, storedBytes, offset, into);
  }

  /** The same for a block of entries that is not in the cache: it goes there if it is likely to be wanted again. */
  readEntries(offset: number, storedBytes: number, into: BlockBuffer): number {
    return this.readPast(offset, storedBytes, into, this.files.isWorthKeeping(this.cacheId, offset));
  }

  /** The same for a block that is not in the cache. keeps: it goes there. */
  readPast(offset: number, storedBytes: number, into: BlockBuffer, keeps: boolean): number {
    const { files, cacheId } = this;
    const loaded = files.loadedBlock(cacheId, offset);
    if (loaded !== undefined) {
      into.reserve(loaded.length).set(loaded, 0);
      return loaded.length;
    }
    this.checkPlace(offset, storedBytes);
    const { reader } = files.table(this.tree, this.number);
    if (this.avoidsDisk) throw this.#cold(offset, storedBytes);
    const length = reader.readBlock(offset, storedBytes, into);
    this.counters.blocksFromFile++;
    this.counters.bytesFromFile += storedBytes;
    if (keeps && files.inserts) files.cache?.insert(cacheId, offset, into.bytes, 0, length);
    return length;
  }

  /** ERR_CORRUPT unless the block can lie there: before room is made for it. */
  checkPlace(offset: number, storedBytes: number): void {
    const fileBytes = this.#words[this.#page + TableWord.fileBytes]!;
    if (storedBytes > TRAILER_BYTES && offset + storedBytes <= fileBytes) return;
    const file = this.path;
    throw new ConcordError('ERR_CORRUPT', `${file} at ${offset}: a block of ${storedBytes} bytes in ${fileBytes}`, {
      file,
      offset,
    });
  }

  #short(file: OpenTable, offset: number, read: number, storedBytes: number): ConcordError {
    const { path } = file.reader;
    return new ConcordError('ERR_CORRUPT', `${path} at ${offset}: block: ${read} of ${storedBytes} bytes`, {
      file: path,
      offset,
    });
  }

  #cold(offset: number, storedBytes: number): ColdReadError {
    const { files, cacheId, counters } = this;
    const file = files.table(this.tree, this.number);
    counters.coldReads++;
    return new ColdReadError(() =>
      files.load(loadedBlockKey(cacheId, offset), async () => {
        // Closed since: the find will open it again, or has another state.
        if (file.isDropped) return undefined;
        files.hold(file);
        try {
          const { reader } = file;
          const stored = new Uint8Array(storedBytes);
          const read =
            reader.file.readAsync === undefined
              ? reader.file.read(stored, 0, storedBytes, offset)
              : await reader.file.readAsync(stored, 0, storedBytes, offset);
          counters.blocksFromFile++;
          counters.bytesFromFile += read;
          if (read < storedBytes) throw this.#short(file, offset, read, storedBytes);
          const buffer = new BlockBuffer(2 * storedBytes);
          const length = reader.decodeBlock(stored, 0, storedBytes, offset, buffer);
          if (files.inserts) files.cache?.insert(cacheId, offset, buffer.bytes, 0, length);
          return buffer.bytes.subarray(0, length);
        } finally {
          files.letGo(file);
        }
      }),
    );
  }
}
