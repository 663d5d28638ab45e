/**
 * What readers of all threads need of a table: where it lies, its bounds, its filter and its index. One page per table that leads to the rest.
 *
 *   offset  size  field               page (level byte 4)
 *       24     4  number              of the file
 *       28     4  cacheId             names the table in the block cache: unique as long as the process lives
 *       32     4  tree
 *       36     4  level
 *       40     8  smallestSeq         ┐ of all versions in the table
 *       48     8  largestSeq          ┘
 *       56     4  flags               1: the index tree leads to data blocks, else to index partitions in the file; 2: a data block is checked once
 *       60     4  index               root of the index tree, see below
 *       64     4  smallestKeyBytes
 *       68     4  largestKeyBytes
 *       72    20  filter              offset in the file u32 · partitions u32 · lines of a partition u32 · probes u32 · bytes of keys it is about
 *       92    20  prefix filter       u32 (0: all of them); partitions 0: there is none
 *      112     4  fileBytes           the file's size
 *      116     …  smallest key · largest key · pad to 4 · unit of each partition of the filter u32 · of the prefix filter u32; 0: in the file only
 *
 *   filter page (level byte 5)        lines from byte 64 on, as in the file
 *
 * The index tree (fence-tree.ts) leads from the last key that a block may have, or more, to a = offset, b = stored bytes of a data block, or of an index
 * partition: a block of the file whose entries lead to data blocks. The mark of a data block's entry: the block was read and was as it had been written.
 * A table that was installed resident has everything in pages: then a find reads the file for the data block only.
 *
 * Threads: reading any, under a pin; the rest the shard thread only.
 */
import type { Env } from '../../../shared/env/env.js';
import { ConcordError } from '../../../shared/errors.js';
import {
  SEGMENT_UNIT_SHIFT,
  UNIT_BYTES,
  type ArenaReader,
  type ArenaWriter,
  type UnitId,
} from '../../../shared/memory/arena.js';
import { KEY_BYTES_MAX, corruptPage } from '../../btree/page.js';
import { tableName } from '../manifest/names.js';
import { BlockBuffer, BlockCursor, handleBytes, handleOffset } from '../table/block.js';
import type { FilterShape } from '../table/filter.js';
import { TableFile } from '../table/table-file.js';
import type { BlockVerification, LsmIdentity, TableInfo } from '../types.js';
import { FENCE_MARK, FenceTreeBuilder, fenceTreeUnits, walkFenceTree } from './fence-tree.js';
import {
  LSM_PAGE_BYTES_MAX,
  LsmPage,
  allocateLsmPage,
  checkLsmPage,
  classFor,
  lsmPageBytes,
  lsmPageUnits,
  pageBase,
  releaseLsmPage,
} from './page.js';

export const TableWord = {
  number: 6,
  cacheId: 7,
  tree: 8,
  level: 9,
  smallestSeq: 10,
  largestSeq: 12,
  flags: 14,
  index: 15,
  smallestKeyBytes: 16,
  largestKeyBytes: 17,
  filter: 18,
  prefixFilter: 23,
  fileBytes: 28,
} as const;
/** Of the words of a filter. */
export const FilterWord = { offset: 0, partitions: 1, partitionLines: 2, probes: 3, prefixBytes: 4 } as const;
const KEYS_OFFSET = 116;
export const INDEX_IS_RESIDENT = 1;
export const BLOCKS_ARE_CHECKED_ONCE = 2;
export const FILTER_LINES_OFFSET = 64;
const TWO_32 = 4294967296;

export interface InstallOptions {
  /** Filter and index in pages of the arena; else they are read through the block cache. */
  readonly resident: boolean;
  /** Default 'always'. */
  readonly verifyBlocks?: BlockVerification;
}

/** What opening a table and making its page costs, in bytes of its index and filters that could be read instead. */
const TABLE_COST_BYTES = 8192;

/**
 * Reads what the table's file says of itself and makes its pages, in steps, since of a large table some megabytes are read and taken apart:
 *
 *   constructor: opens the file ──▶ blocks of the index … ──▶ partitions of the filters … ──▶ the table's page: `unit`
 *
 * The pages belong to whoever made this until they are reachable from what is published.
 */
export class TableInstallation {
  /** The table's page when advance() has come to the end; 0 before. */
  unit: UnitId = 0;
  readonly #arena: ArenaWriter;
  readonly #file: TableFile;
  readonly #tree: number;
  readonly #info: TableInfo;
  readonly #cacheId: number;
  readonly #resident: boolean;
  readonly #verifiesOnce: boolean;
  readonly #buffer = new BlockBuffer();
  readonly #cursor = new BlockCursor();
  readonly #index: FenceTreeBuilder;
  /** The next partition of the index. */
  #partition = 0;
  /** Those whose lists of pages fit the table's page; the others are as if they were not there. */
  readonly #filter: FilterShape | undefined;
  readonly #prefixFilter: FilterShape | undefined;
  readonly #filterPages: UnitId[] = [];

  /** directory: of the tree. Nothing is left allocated or open when it throws. @throws ERR_CORRUPT, ERR_FORMAT_VERSION, ERR_IO */
  constructor(
    arena: ArenaWriter,
    env: Env,
    directory: string,
    identity: LsmIdentity,
    info: TableInfo,
    cacheId: number,
    { resident, verifyBlocks }: InstallOptions,
  ) {
    const path = `${directory}/${tableName(info.number)}`;
    if (info.bytes >= TWO_32) {
      throw new ConcordError(
        'ERR_CORRUPT',
        `${path}: a table of ${info.bytes} bytes is larger than any that is written`,
        {
          file: path,
        },
      );
    }
    this.#arena = arena;
    this.#tree = identity.tree;
    this.#info = info;
    this.#cacheId = cacheId;
    this.#resident = resident;
    this.#verifiesOnce = verifyBlocks === 'once';
    this.#index = new FenceTreeBuilder(arena);
    this.#file = TableFile.open(env, path, identity, info.number, info.bytes);
    const { filter, prefixFilter } = this.#file.layout;
    if (this.#pageBytes([filter]) <= LSM_PAGE_BYTES_MAX) this.#filter = filter;
    if (this.#pageBytes([filter, prefixFilter]) <= LSM_PAGE_BYTES_MAX) this.#prefixFilter = prefixFilter;
  }

  /**
   * Goes on, by about so many bytes of the file; returns what is left of them: above 0 the table is installed, and the file closed. Nothing is left
   * allocated or open when it throws. @throws ERR_CORRUPT, ERR_IO, ERR_MEMORY_FULL
   */
  advance(bytes: number): number {
    try {
      let left = bytes;
      while (this.#isIndexLeft) {
        if (left <= 0) return 0;
        left -= this.#addPartition();
      }
      while (this.#isFilterLeft) {
        if (left <= 0) return 0;
        left -= this.#addFilterPage();
      }
      this.unit = this.#makePage(this.#index.finish());
      this.#file.close();
      return Math.max(left - TABLE_COST_BYTES, 1);
    } catch (error) {
      this.abort();
      throw error;
    }
  }

  /** Gives back what it has. Not when it has come to the end. */
  abort(): void {
    this.#file.close();
    this.#index.abort();
    for (const page of this.#filterPages.splice(0)) releaseLsmPage(this.#arena, page);
  }

  get #isIndexLeft(): boolean {
    return this.#partition < this.#file.partitions.length;
  }

  /** Returns the bytes that were read. */
  #addPartition(): number {
    const { key, offset, storedBytes } = this.#file.partitions[this.#partition++]!;
    const index = this.#index;
    if (!this.#resident) {
      index.add(key, key.length, offset, storedBytes);
      return 0;
    }
    const length = this.#file.readBlock(offset, storedBytes, this.#buffer);
    const cursor = this.#cursor;
    cursor.open(this.#buffer.bytes, 0, length, this.#file.path, offset);
    for (cursor.seekToFirst(); cursor.valid; cursor.next()) {
      const blockOffset = handleOffset(cursor);
      const blockBytes = handleBytes(cursor);
      // Its top bit would be a mark.
      if (blockOffset + blockBytes > this.#info.bytes || blockBytes >= FENCE_MARK) {
        throw cursor.damage(`leads to ${blockBytes} bytes at ${blockOffset}`);
      }
      index.add(cursor.key, cursor.keyLength, blockOffset, blockBytes);
    }
    return storedBytes;
  }

  get #isFilterLeft(): boolean {
    return this.#resident && this.#filterPages.length < partitionsOf([this.#filter, this.#prefixFilter]);
  }

  /** The next one of all filters' partitions. Returns its bytes. */
  #addFilterPage(): number {
    const arena = this.#arena;
    const index = this.#filterPages.length;
    const first = this.#filter?.partitions ?? 0;
    const isFirst = index < first;
    const shape = isFirst ? this.#filter! : this.#prefixFilter!;
    const partition = isFirst ? index : index - first;
    const bytes = this.#file.readFilter(shape, partition, this.#buffer);
    const unit = allocateLsmPage(arena, LsmPage.Filter, classFor(FILTER_LINES_OFFSET + bytes)!);
    this.#filterPages.push(unit);
    const base = checkLsmPage(arena, unit, LsmPage.Filter);
    arena.u8[unit >>> SEGMENT_UNIT_SHIFT]!.set(this.#buffer.bytes.subarray(0, bytes), base + FILTER_LINES_OFFSET);
    return bytes;
  }

  #pageBytes(filters: readonly (FilterShape | undefined)[]): number {
    const keyBytes = (this.#info.smallestKey.length + this.#info.largestKey.length + 3) & ~3;
    return KEYS_OFFSET + keyBytes + 4 * partitionsOf(filters);
  }

  /** The table's page, which leads to all others. */
  #makePage(index: UnitId): UnitId {
    const arena = this.#arena;
    const info = this.#info;
    const unit = allocateLsmPage(arena, LsmPage.Table, classFor(this.#pageBytes([this.#filter, this.#prefixFilter]))!);
    const segment = unit >>> SEGMENT_UNIT_SHIFT;
    const words = arena.u32[segment]!;
    const base = pageBase(unit);
    const page = base >>> 2;
    words[page + TableWord.number] = info.number;
    words[page + TableWord.cacheId] = this.#cacheId;
    words[page + TableWord.tree] = this.#tree;
    words[page + TableWord.level] = info.level;
    writeWide(words, page + TableWord.smallestSeq, info.smallestSeq);
    writeWide(words, page + TableWord.largestSeq, info.largestSeq);
    words[page + TableWord.flags] =
      (this.#resident ? INDEX_IS_RESIDENT : 0) | (this.#verifiesOnce ? BLOCKS_ARE_CHECKED_ONCE : 0);
    words[page + TableWord.index] = index;
    words[page + TableWord.smallestKeyBytes] = info.smallestKey.length;
    words[page + TableWord.largestKeyBytes] = info.largestKey.length;
    words[page + TableWord.fileBytes] = info.bytes;
    arena.u8[segment]!.set(info.smallestKey, base + KEYS_OFFSET);
    arena.u8[segment]!.set(info.largestKey, base + KEYS_OFFSET + info.smallestKey.length);
    const { prefixFilterBytes } = this.#file.layout;
    writeFilter(words, page + TableWord.filter, this.#filter, 0);
    writeFilter(words, page + TableWord.prefixFilter, this.#prefixFilter, prefixFilterBytes);
    const list = filterListWord(words, page);
    const partitions = partitionsOf([this.#filter, this.#prefixFilter]);
    for (let at = 0; at < partitions; at++) words[list + at] = this.#filterPages[at] ?? 0;
    return unit;
  }
}

function partitionsOf(filters: readonly (FilterShape | undefined)[]): number {
  return filters.reduce((sum, filter) => sum + (filter?.partitions ?? 0), 0);
}

function writeFilter(words: Uint32Array, at: number, shape: FilterShape | undefined, prefixBytes: number): void {
  words[at + FilterWord.offset] = shape?.offset ?? 0;
  words[at + FilterWord.partitions] = shape?.partitions ?? 0;
  words[at + FilterWord.partitionLines] = shape?.partitionLines ?? 0;
  words[at + FilterWord.probes] = shape?.probes ?? 0;
  words[at + FilterWord.prefixBytes] = shape === undefined ? 0 : prefixBytes;
}

function writeWide(words: Uint32Array, at: number, value: number): void {
  words[at] = value >>> 0;
  words[at + 1] = Math.floor(value / TWO_32);
}

/** Word, in the page's segment, of the list of filter pages; the prefix filter's follows. The page was checked. */
export function filterListWord(words: Uint32Array, page: number): number {
  return (
    page +
    ((KEYS_OFFSET + words[page + TableWord.smallestKeyBytes]! + words[page + TableWord.largestKeyBytes]! + 3) >>> 2)
  );
}

/** Word of the table page in its segment. @throws ERR_CORRUPT if something in it would lead out of it */
export function checkTablePage(arena: ArenaReader, unit: UnitId): number {
  const base = checkLsmPage(arena, unit, LsmPage.Table);
  const words = arena.u32[unit >>> SEGMENT_UNIT_SHIFT]!;
  const page = base >>> 2;
  const partitions =
    words[page + TableWord.filter + FilterWord.partitions]! +
    words[page + TableWord.prefixFilter + FilterWord.partitions]!;
  if (
    words[page + TableWord.smallestKeyBytes]! > KEY_BYTES_MAX ||
    words[page + TableWord.largestKeyBytes]! > KEY_BYTES_MAX ||
    (filterListWord(words, page) - page + partitions) * 4 > lsmPageBytes(arena, unit)
  ) {
    throw corruptPage(unit, 'keys or filters of a table reach beyond the page');
  }
  return page;
}

/** < 0 if the table's smallest key is less than the given one, 0 if it is equal. page: of checkTablePage(). */
export function compareSmallestKey(
  arena: ArenaReader,
  unit: UnitId,
  page: number,
  key: Uint8Array,
  keyLength: number,
): number {
  const segment = unit >>> SEGMENT_UNIT_SHIFT;
  const u8 = arena.u8[segment]!;
  const at = page * 4 + KEYS_OFFSET;
  const ownLength = arena.u32[segment]![page + TableWord.smallestKeyBytes]!;
  const length = ownLength < keyLength ? ownLength : keyLength;
  for (let index = 0; index < length; index++) {
    const difference = u8[at + index]! - key[index]!;
    if (difference !== 0) return difference;
  }
  return ownLength - keyLength;
}

/** Reports every page of the table. @throws ERR_CORRUPT */
export function markTable(arena: ArenaReader, unit: UnitId, mark: (unit: UnitId, units: number) => void): void {
  const page = checkTablePage(arena, unit);
  const words = arena.u32[unit >>> SEGMENT_UNIT_SHIFT]!;
  const list = filterListWord(words, page);
  const partitions =
    words[page + TableWord.filter + FilterWord.partitions]! +
    words[page + TableWord.prefixFilter + FilterWord.partitions]!;
  for (let index = 0; index < partitions; index++) {
    const filterUnit = words[list + index]!;
    if (filterUnit === 0) continue;
    checkLsmPage(arena, filterUnit, LsmPage.Filter);
    mark(filterUnit, lsmPageUnits(arena, filterUnit));
  }
  walkFenceTree(arena, words[page + TableWord.index]!, mark, () => undefined);
  mark(unit, lsmPageUnits(arena, unit));
}

/** Units of all pages of the table. */
export function tableUnits(arena: ArenaReader, unit: UnitId): number {
  let sum = 0;
  markTable(arena, unit, (_unit, units) => {
    sum += units;
  });
  return sum;
}

/** Gives all pages of the table back: at once what was never published, else when the last reader has gone. */
export function retireTable(arena: ArenaWriter, unit: UnitId): void {
  markTable(arena, unit, (page) => {
    releaseLsmPage(arena, page);
  });
}

export function isResident(arena: ArenaReader, unit: UnitId): boolean {
  const flags = arena.u32[unit >>> SEGMENT_UNIT_SHIFT]![checkTablePage(arena, unit) + TableWord.flags]!;
  return (flags & INDEX_IS_RESIDENT) !== 0;
}

/** Of blocks, where the table itself cannot be asked. */
const BLOCK_BYTES_USUAL = 1024;
const PARTITION_BYTES_USUAL = 8192;
const FILTER_BITS_USUAL = 10;
/** Besides the key. */
const INDEX_ENTRY_BYTES = 19;

/** About how many units the table will take, from what the manifest says of it: for deciding whether it shall be resident. */
export function tableMetaUnits(
  info: TableInfo,
  options: InstallOptions & { readonly blockBytes?: number; readonly bitsPerKey?: number },
): number {
  const keyBytes = (info.smallestKey.length + info.largestKey.length) / 2;
  const page = 2 + Math.ceil((2 * keyBytes) / UNIT_BYTES);
  const blocks = Math.ceil(Math.max(info.bytes, info.rawBytes) / (options.blockBytes ?? BLOCK_BYTES_USUAL)) + 1;
  const indexKeyBytes = blocks * keyBytes;
  if (!options.resident) {
    const partitions = Math.ceil((indexKeyBytes + 8 * blocks) / PARTITION_BYTES_USUAL);
    return page + fenceTreeUnits(partitions, partitions * keyBytes);
  }
  const filterBytes = (info.entries * (options.bitsPerKey ?? FILTER_BITS_USUAL)) / 8;
  // Keys of blocks that follow each other have much in common, pages are not quite full: one makes up for the other.
  const indexUnits = Math.ceil((blocks * INDEX_ENTRY_BYTES + indexKeyBytes) / UNIT_BYTES) + 8;
  return page + indexUnits + Math.ceil((filterBytes / UNIT_BYTES) * 1.05) + 4;
}
