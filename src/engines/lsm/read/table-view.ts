/**
 * A table as readers see it: its page in the arena, its filter, its blocks by way of cache and file.
 *
 *   block of the table ──▶ bytes of this thread's own (loaded()) · the shared cache · the file, and then the cache
 *
 * What the table's pages say is looked at, and checked, once per version: they never change while it lasts.
 * Threads: any, one TableViews per reader or cursor, under a pin of a version that has the tables.
 */
import { SEGMENT_UNIT_SHIFT, type ArenaReader, type UnitId } from '../../../shared/memory/arena.js';
import { ConcordError } from '../../../shared/errors.js';
import { corruptPage } from '../../btree/page.js';
import { LsmPage, checkLsmPage, lsmPageBytes, pageBase } from '../memory/page.js';
import {
  FILTER_LINES_OFFSET,
  FilterWord,
  BLOCKS_ARE_CHECKED_ONCE,
  INDEX_IS_RESIDENT,
  TableWord,
  checkTablePage,
  compareSmallestKey,
  filterListWord,
} from '../memory/table-meta.js';
import type { BlockBuffer } from '../table/block.js';
import { FILTER_LINE_BYTES, filterLine, lineMayContain, type KeyHash } from '../table/filter.js';
import { TRAILER_BYTES } from '../table/table-file.js';
import { ColdReadError } from './cold.js';
import { loadedBlockKey, type LsmFiles, type LsmReadCounters, type OpenTable } from './files.js';

const TWO_32 = 4294967296;

/** More tables than that, and the views are made anew. */
const VIEWS_MAX = 4096;

/** The tables that a reader or cursor has met in the version at hand. */
export class TableViews {
  readonly #arena: ArenaReader;
  readonly #files: LsmFiles;
  readonly #counters: LsmReadCounters;
  readonly #views = new Map<UnitId, TableView>();

  constructor(arena: ArenaReader, files: LsmFiles, counters: LsmReadCounters) {
    this.#arena = arena;
    this.#files = files;
    this.#counters = counters;
  }

  /** Of the table page. @throws ERR_CORRUPT */
  at(unit: UnitId): TableView {
    return this.#views.get(unit) ?? this.#make(unit);
  }

  /** Another version is at hand: by now a unit may be another table's. */
  clear(): void {
    if (this.#views.size > 0) this.#views.clear();
  }

  #make(unit: UnitId): TableView {
    const view = new TableView(this.#arena, this.#files, this.#counters, unit);
    if (this.#views.size >= VIEWS_MAX) this.#views.clear();
    this.#views.set(unit, view);
    return view;
  }
}

/** How a filter of a table is cut, and where its partitions are. */
class FilterView {
  readonly partitions: number;
  /** Of a partition. */
  readonly partitionLines: number;
  readonly lines: number;
  readonly probes: number;
  /** In the file, of the first partition. */
  readonly offset: number;
  /** Units of the partitions that were looked at and are in memory. */
  readonly pages: Uint32Array;
  /** Word of the table page's segment with the unit of the first partition. */
  readonly list: number;

  constructor(words: Uint32Array, shape: number, list: number) {
    this.partitions = words[shape + FilterWord.partitions]!;
    this.partitionLines = words[shape + FilterWord.partitionLines]!;
    this.lines = this.partitions * this.partitionLines;
    this.probes = words[shape + FilterWord.probes]!;
    this.offset = words[shape + FilterWord.offset]!;
    this.pages = new Uint32Array(this.partitions);
    this.list = list;
  }
}

export class TableView {
  readonly arena: ArenaReader;
  readonly files: LsmFiles;
  readonly counters: LsmReadCounters;
  readonly number: number;
  readonly cacheId: number;
  readonly tree: number;
  readonly indexRoot: UnitId;
  readonly isIndexResident: boolean;
  readonly verifiesOnce: boolean;
  /** Of all versions in the table. */
  readonly smallestSeq: number;
  readonly largestSeq: number;
  readonly hasFilter: boolean;
  /** Bytes of a key that the prefix filter is about; 0: there is none. */
  readonly prefixFilterBytes: number;
  /** Throws ColdReadError instead of reading a file. */
  avoidsDisk = false;
  /** Where in the cache fromCache() found the last block. */
  foundPlace = 0;
  /** Where in the cache the last of the reads below has put the block, 0: it has not. */
  keptPlace = 0;
  #file: OpenTable | undefined;
  readonly #unit: UnitId;
  readonly #words: Uint32Array;
  readonly #page: number;
  readonly #filter: FilterView;
  readonly #prefixFilter: FilterView;

  /** Of the table page. @throws ERR_CORRUPT */
  constructor(arena: ArenaReader, files: LsmFiles, counters: LsmReadCounters, unit: UnitId) {
    this.arena = arena;
    this.files = files;
    this.counters = counters;
    const page = checkTablePage(arena, unit);
    const words = arena.u32[unit >>> SEGMENT_UNIT_SHIFT]!;
    this.#unit = unit;
    this.#page = page;
    this.#words = words;
    this.number = words[page + TableWord.number]!;
    this.cacheId = words[page + TableWord.cacheId]!;
    this.tree = words[page + TableWord.tree]!;
    this.indexRoot = words[page + TableWord.index]!;
    this.isIndexResident = (words[page + TableWord.flags]! & INDEX_IS_RESIDENT) !== 0;
    this.verifiesOnce = (words[page + TableWord.flags]! & BLOCKS_ARE_CHECKED_ONCE) !== 0;
    this.smallestSeq = words[page + TableWord.smallestSeq]! + words[page + TableWord.smallestSeq + 1]! * TWO_32;
    this.largestSeq = words[page + TableWord.largestSeq]! + words[page + TableWord.largestSeq + 1]! * TWO_32;
    const list = filterListWord(words, page);
    this.#filter = new FilterView(words, page + TableWord.filter, list);
    this.#prefixFilter = new FilterView(words, page + TableWord.prefixFilter, list + this.#filter.partitions);
    for (const { partitions, partitionLines } of [this.#filter, this.#prefixFilter]) {
      if (partitions > 0 && partitionLines === 0) throw corruptPage(unit, 'a filter without lines');
    }
    this.hasFilter = this.#filter.partitions !== 0;
    const prefixBytes = words[page + TableWord.prefixFilter + FilterWord.prefixBytes]!;
    this.prefixFilterBytes = this.#prefixFilter.partitions === 0 ? 0 : prefixBytes;
  }

  get path(): string {
    return this.files.tablePath(this.tree, this.number);
  }

  compareSmallestKey(key: Uint8Array, keyLength: number): number {
    return compareSmallestKey(this.arena, this.#unit, this.#page, key, keyLength);
  }

  /** False: the key is not in the table. hasFilter. @throws ERR_CORRUPT, ERR_IO, ColdReadError */
  mayContain(hash: KeyHash): boolean {
    this.counters.filterChecks++;
    if (this.#asks(this.#filter, hash)) return true;
    this.counters.filterNegatives++;
    return false;
  }

  /** False: no key of the table begins so. prefixFilterBytes > 0; hash: of so many bytes. */
  mayContainPrefix(hash: KeyHash): boolean {
    if (this.#asks(this.#prefixFilter, hash)) return true;
    this.counters.prefixNegatives++;
    return false;
  }

  #asks(filter: FilterView, hash: KeyHash): boolean {
    const { partitionLines, probes } = filter;
    const line = filterLine(hash.h1, filter.lines);
    const partition = Math.floor(line / partitionLines);
    const lineAt = (line - partition * partitionLines) * FILTER_LINE_BYTES;
    let unit = filter.pages[partition]!;
    if (unit === 0) {
      unit = this.#words[filter.list + partition]!;
      if (unit === 0) return this.#asksFile(filter, partition, lineAt, hash.h2);
      this.#checkFilterPage(unit, partitionLines);
      filter.pages[partition] = unit;
    }
    const u8 = this.arena.u8[unit >>> SEGMENT_UNIT_SHIFT]!;
    return lineMayContain(u8, pageBase(unit) + FILTER_LINES_OFFSET + lineAt, hash.h2, probes);
  }

  #checkFilterPage(unit: UnitId, lines: number): void {
    checkLsmPage(this.arena, unit, LsmPage.Filter);
    if (FILTER_LINES_OFFSET + lines * FILTER_LINE_BYTES > lsmPageBytes(this.arena, unit)) {
      throw corruptPage(unit, `${lines} lines of a filter do not fit the page`);
    }
  }

  /** A filter's partition that is in the file: only one line of it is wanted. */
  #asksFile(filter: FilterView, partition: number, lineAt: number, h2: number): boolean {
    const { cacheId, files } = this;
    const { probes } = filter;
    const storedBytes = filter.partitionLines * FILTER_LINE_BYTES + TRAILER_BYTES;
    const offset = filter.offset + partition * storedBytes;
    const { filterPart } = files;
    if (filterPart.cacheId !== cacheId || filterPart.offset !== offset) {
      const { cache } = files;
      const length = cache?.locate(cacheId, offset) ?? 0;
      if (length > 0) {
        const answer = lineMayContain(cache!.foundBytes, cache!.foundAt + lineAt, h2, probes);
        if (cache!.confirm() && lineAt + FILTER_LINE_BYTES <= length) {
          this.counters.blocksFromCache++;
          return answer;
        }
      }
      filterPart.cacheId = 0;
      this.readPast(offset, storedBytes, filterPart.buffer, true);
      filterPart.cacheId = cacheId;
      filterPart.offset = offset;
    }
    return lineMayContain(filterPart.buffer.bytes, lineAt, h2, probes);
  }

  /** The plain block to into.bytes[0 …); returns its length. @throws ERR_CORRUPT, ERR_IO, ColdReadError */
  read(offset: number, storedBytes: number, into: BlockBuffer): number {
    this.keptPlace = 0;
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
    this.foundPlace = cache!.foundPlace;
    return length;
  }

  /** Stored bytes of the file from a block on, as many as there is room for; at least that block's. Not decoded, not checked. */
  readStored(offset: number, storedBytes: number, into: Uint8Array): number {
    this.checkPlace(offset, storedBytes);
    const { file } = this.#open().reader;
    const fileBytes = this.#words[this.#page + TableWord.fileBytes]!;
    const read = file.read(into, 0, Math.min(into.length, fileBytes - offset), offset);
    this.counters.bytesFromFile += read;
    return read;
  }

  /** A block that readStored() brought, at bytes[at …). */
  decode(bytes: Uint8Array, at: number, storedBytes: number, offset: number, into: BlockBuffer): number {
    this.counters.blocksFromFile++;
    return this.#open().reader.decodeBlock(bytes, at, storedBytes, offset, into);
  }

  /**
   * The same for a block of entries that is not in the cache: it goes there if it is likely to be wanted again. isVerified: was found whole before, and need not be
   * checked; but what goes into the cache, where others take it as it is, always is.
   */
  readEntries(offset: number, storedBytes: number, into: BlockBuffer, isVerified: boolean): number {
    this.keptPlace = 0;
    const length = this.#fromLoaded(offset, into);
    if (length > 0) return length;
    const keeps = this.files.isWorthKeeping(this.cacheId, offset);
    return this.#fromFile(offset, storedBytes, into, keeps, isVerified && !keeps);
  }

  /** The same for a block that is not in the cache. keeps: it goes there. */
  readPast(offset: number, storedBytes: number, into: BlockBuffer, keeps: boolean): number {
    this.keptPlace = 0;
    const length = this.#fromLoaded(offset, into);
    return length > 0 ? length : this.#fromFile(offset, storedBytes, into, keeps);
  }

  /** 0: no load has brought it. */
  #fromLoaded(offset: number, into: BlockBuffer): number {
    const loaded = this.files.loadedBlock(this.cacheId, offset);
    if (loaded === undefined) return 0;
    into.reserve(loaded.length).set(loaded, 0);
    return loaded.length;
  }

  #open(): OpenTable {
    return (this.#file = this.files.tableAgain(this.#file, this.tree, this.number));
  }

  #fromFile(offset: number, storedBytes: number, into: BlockBuffer, keeps: boolean, isVerified = false): number {
    const { files } = this;
    this.checkPlace(offset, storedBytes);
    const { reader } = this.#open();
    if (this.avoidsDisk) throw this.#cold(offset, storedBytes, keeps);
    const length = reader.readBlock(offset, storedBytes, into, isVerified);
    this.counters.blocksFromFile++;
    this.counters.bytesFromFile += storedBytes;
    const { cache } = files;
    const isKept =
      keeps && files.inserts && cache !== undefined && cache.insert(this.cacheId, offset, into.bytes, 0, length);
    if (isKept) this.keptPlace = cache.insertedPlace;
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

  #cold(offset: number, storedBytes: number, keeps: boolean): ColdReadError {
    const { files, cacheId, counters } = this;
    const file = this.#open();
    counters.coldReads++;
    return ColdReadError.of(() =>
      files.load(loadedBlockKey(cacheId, offset), async () => {
        // Closed since: the find will open it again, or has another state.
        if (file.isDropped) return undefined;
        files.hold(file);
        try {
          const { reader } = file;
          const stored = Buffer.allocUnsafeSlow(storedBytes);
          const read =
            reader.file.readAsync === undefined
              ? reader.file.read(stored, 0, storedBytes, offset)
              : await reader.file.readAsync(stored, 0, storedBytes, offset);
          counters.blocksFromFile++;
          counters.bytesFromFile += read;
          if (read < storedBytes) throw this.#short(file, offset, read, storedBytes);
          const plain = reader.plainBlock(stored, 0, storedBytes, offset);
          if (keeps && files.inserts) files.cache?.insert(cacheId, offset, plain, 0, plain.length);
          return plain;
        } finally {
          files.letGo(file);
        }
      }),
    );
  }
}
