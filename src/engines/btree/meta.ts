/**
 * The meta page: one per publication, with a row for every tree of the arena. One store of the arena's meta word publishes all trees
 * together.
 *
 *   offset  size  field
 *        0    24  page header   kind 4, count = trees
 *       24     8  publishedSeq  the highest sequence number that this publication shows
 *       32     4  magic         META_MAGIC
 *       36    28  reserved      0
 *       64    64  row           per tree:
 *                   0  root u32 · 4  height u8 · 5  shape u8 · 6  order u16 (0 = by page size only)
 *                   8  liveEntries · 16  liveKeyBytes · 24  liveValueBytes · 32  cells      u64 each, below 2^53
 *                  40  leafPages u32 · 44  branchPages u32 · 48  overflowPages u32
 *                  52  treeUnits u32 (leaf and branch) · 56  overflowUnits u32 · 60  tag u32 (space and engine, see rowTag())
 *
 * shape: bits 0 … 1 class of new leaves, bit 5 pages may be in a page file (paged/format.ts), bit 6 entries may expire, bit 7 page sizes are adaptive.
 * Other engines than the B+Tree use root, height and the page counts as they like; the rest means the same everywhere.
 *
 * 63 trees fit one unit; with more the page takes the next class. Threads: reading any, under a pin; TreeTable the writer only.
 */
import { ConcordError, invalidArgument } from '../../shared/errors.js';
import {
  SEGMENT_UNIT_MASK,
  SEGMENT_UNIT_SHIFT,
  UNIT_SHIFT,
  type ArenaReader,
  type ArenaWriter,
  type UnitId,
} from '../../shared/memory/arena.js';
import { FREE_TAG, spaceIdOfTag } from '../engine.js';
import { COUNT_HALFWORD, HEIGHT_MAX, KIND_BYTE, LEVEL_BYTE, PAGE_CLASS_MAX, PageKind, corruptPage } from './page.js';

// Named here because it completes the meta page's contract; the two files need each other's functions only when called.
export { markTrees } from './walk.js';

const META_MAGIC = 0x54654d43; // "CMeT"
export const ROW_WORDS = 16;
/** In a row. */
export const ROW_TAG_WORD = 15;
/** In the shape byte. */
const IS_PAGED = 0x20;
const MAY_EXPIRE = 0x40;
const IS_ADAPTIVE = 0x80;
const SEQ_WORD = 6;
const MAGIC_WORD = 8;
const ROWS_WORD = 16;
export const TREE_COUNT_MAX = 511;
const TWO_32 = 4294967296;

/** What a tree holds. */
export interface TreeContents {
  readonly rootUnit: UnitId;
  readonly height: number;
  readonly liveEntries: number;
  readonly liveKeyBytes: number;
  readonly liveValueBytes: number;
  /** All versions and tombstones. */
  readonly cells: number;
  readonly leafPages: number;
  readonly branchPages: number;
  readonly overflowPages: number;
  /** Leaf and branch pages in 4 KiB units. */
  readonly treeUnits: number;
  readonly overflowUnits: number;
  /** An entry that expires was put since the tree was empty. Left out: no. */
  readonly mayExpire?: boolean;
}

export interface TreeCounts extends TreeContents {
  readonly order: number;
  /** Of new leaves. */
  readonly pageBytes: number;
  /** Page sizes follow the sizes of the entries. Left out: no. */
  readonly isAdaptive?: boolean;
  /** Some of its pages may be in a page file: children and chains may be references. Left out: no. */
  readonly isPaged?: boolean;
  /** Space and engine: see rowTag(). */
  readonly tag: number;
}

/** Something whose row goes into the next meta page. */
export interface TreeRowSource {
  counts(): TreeCounts;
}

function writeU64(words: Uint32Array, at: number, value: number): void {
  words[at] = value >>> 0;
  words[at + 1] = Math.floor(value / TWO_32);
}

function readU64(words: Uint32Array, at: number): number {
  return words[at]! + words[at + 1]! * TWO_32;
}

export function writeRow(words: Uint32Array, at: number, counts: TreeCounts): void {
  const baseClass = 31 - Math.clz32(counts.pageBytes >>> UNIT_SHIFT);
  words[at] = counts.rootUnit;
  const shape =
    baseClass |
    (counts.isPaged === true ? IS_PAGED : 0) |
    (counts.mayExpire === true ? MAY_EXPIRE : 0) |
    (counts.isAdaptive === true ? IS_ADAPTIVE : 0);
  words[at + 1] = counts.height | (shape << 8) | (counts.order << 16);
  writeU64(words, at + 2, counts.liveEntries);
  writeU64(words, at + 4, counts.liveKeyBytes);
  writeU64(words, at + 6, counts.liveValueBytes);
  writeU64(words, at + 8, counts.cells);
  words[at + 10] = counts.leafPages;
  words[at + 11] = counts.branchPages;
  words[at + 12] = counts.overflowPages;
  words[at + 13] = counts.treeUnits;
  words[at + 14] = counts.overflowUnits;
  words[at + ROW_TAG_WORD] = counts.tag;
}

export function readRow(words: Uint32Array, at: number): TreeCounts {
  const shape = words[at + 1]!;
  return {
    rootUnit: words[at]!,
    height: shape & 0xff,
    order: shape >>> 16,
    pageBytes: 4096 << ((shape >>> 8) & PAGE_CLASS_MAX),
    isAdaptive: ((shape >>> 8) & IS_ADAPTIVE) !== 0,
    mayExpire: ((shape >>> 8) & MAY_EXPIRE) !== 0,
    isPaged: ((shape >>> 8) & IS_PAGED) !== 0,
    liveEntries: readU64(words, at + 2),
    liveKeyBytes: readU64(words, at + 4),
    liveValueBytes: readU64(words, at + 6),
    cells: readU64(words, at + 8),
    leafPages: words[at + 10]!,
    branchPages: words[at + 11]!,
    overflowPages: words[at + 12]!,
    treeUnits: words[at + 13]!,
    overflowUnits: words[at + 14]!,
    tag: words[at + ROW_TAG_WORD]!,
  };
}

/** First word of the meta page in its segment's u32 view. ERR_CORRUPT if it is none. */
function metaWord(arena: ArenaReader, metaUnit: UnitId): number {
  if (!(metaUnit > 0 && metaUnit < arena.totalUnits)) throw corruptPage(metaUnit, 'not a unit of the arena');
  const words = arena.u32[metaUnit >>> SEGMENT_UNIT_SHIFT]!;
  const word = (metaUnit & SEGMENT_UNIT_MASK) << (UNIT_SHIFT - 2);
  if ((words[word]! & 0xff) !== PageKind.Meta || words[word + MAGIC_WORD] !== META_MAGIC) {
    throw corruptPage(metaUnit, 'not a meta page');
  }
  return word;
}

/** The sequence number that was given to the publication; 0 when nothing was published. */
export function publishedSeqOf(arena: ArenaReader, metaUnit: UnitId): number {
  if (metaUnit === 0) return 0;
  return readU64(arena.u32[metaUnit >>> SEGMENT_UNIT_SHIFT]!, metaWord(arena, metaUnit) + SEQ_WORD);
}

export function treeCount(arena: ArenaReader, metaUnit: UnitId): number {
  if (metaUnit === 0) return 0;
  const word = metaWord(arena, metaUnit);
  const count = arena.u16[metaUnit >>> SEGMENT_UNIT_SHIFT]![word * 2 + COUNT_HALFWORD]!;
  return Math.min(count, TREE_COUNT_MAX);
}

/** Word of the tree's row in the meta page's segment, -1 if the tree was never published. */
export function rowWord(arena: ArenaReader, metaUnit: UnitId, treeIndex: number): number {
  if (metaUnit === 0) return -1;
  const word = metaWord(arena, metaUnit);
  const count = arena.u16[metaUnit >>> SEGMENT_UNIT_SHIFT]![word * 2 + COUNT_HALFWORD]!;
  return treeIndex < count ? word + ROWS_WORD + treeIndex * ROW_WORDS : -1;
}

/** Whether a row whose second word this is may hold entries that expire. */
export function rowMayExpire(shapeWord: number): boolean {
  return ((shapeWord >>> 8) & MAY_EXPIRE) !== 0;
}

/** Index of the row that holds the space in the publication, -1 if none does. */
export function rowOfSpace(arena: ArenaReader, metaUnit: UnitId, spaceId: number): number {
  if (metaUnit === 0) return -1;
  const word = metaWord(arena, metaUnit);
  const words = arena.u32[metaUnit >>> SEGMENT_UNIT_SHIFT]!;
  const count = treeCount(arena, metaUnit);
  for (let index = 0; index < count; index++) {
    const tag = words[word + ROWS_WORD + index * ROW_WORDS + ROW_TAG_WORD]!;
    if (tag !== FREE_TAG && spaceIdOfTag(tag) === spaceId) return index;
  }
  return -1;
}

const EMPTY_ROW = new Uint32Array(ROW_WORDS);
EMPTY_ROW[ROW_TAG_WORD] = FREE_TAG;

export function treeCounts(arena: ArenaReader, metaUnit: UnitId, treeIndex: number): TreeCounts {
  const word = rowWord(arena, metaUnit, treeIndex);
  return word < 0 ? readRow(EMPTY_ROW, 0) : readRow(arena.u32[metaUnit >>> SEGMENT_UNIT_SHIFT]!, word);
}

/** The rows of all trees as the next publication will show them. One per ArenaWriter. */
export class TreeTable {
  static readonly #tables = new WeakMap<ArenaWriter, TreeTable>();
  readonly #arena: ArenaWriter;
  #rows: Uint32Array;
  #count: number;
  readonly #sources = new Map<number, TreeRowSource>();

  static of(arena: ArenaWriter): TreeTable {
    let table = this.#tables.get(arena);
    if (table === undefined) this.#tables.set(arena, (table = new TreeTable(arena)));
    return table;
  }

  private constructor(arena: ArenaWriter) {
    this.#arena = arena;
    const metaUnit = arena.published();
    this.#count = treeCount(arena, metaUnit);
    this.#rows = new Uint32Array(Math.max(this.#count, 4) * ROW_WORDS);
    for (let index = 0; index < this.#count; index++) {
      writeRow(this.#rows, index * ROW_WORDS, treeCounts(arena, metaUnit, index));
    }
  }

  get count(): number {
    return this.#count;
  }

  /** What the tree's row says now; a tree that is new gets an empty row. */
  attach(treeIndex: number, source: TreeRowSource): TreeCounts {
    if (!(Number.isInteger(treeIndex) && treeIndex >= 0 && treeIndex < TREE_COUNT_MAX)) {
      throw invalidArgument(`tree index ${treeIndex} is not below ${TREE_COUNT_MAX}`);
    }
    const row = this.row(treeIndex);
    this.#sources.set(treeIndex, source);
    return row;
  }

  /** The tree is gone: its row is empty from the next publication on. */
  detach(treeIndex: number): void {
    this.#sources.delete(treeIndex);
    if (treeIndex < this.#count) this.#rows.set(EMPTY_ROW, treeIndex * ROW_WORDS);
  }

  /** The lowest row that no tree uses. */
  freeRow(): number {
    let index = 0;
    while (this.#sources.has(index) || (index < this.#count && this.row(index).tag !== FREE_TAG)) index++;
    return index;
  }

  row(treeIndex: number): TreeCounts {
    return treeIndex < this.#count ? readRow(this.#rows, treeIndex * ROW_WORDS) : readRow(EMPTY_ROW, 0);
  }

  setRow(treeIndex: number, counts: TreeCounts): void {
    if ((treeIndex + 1) * ROW_WORDS > this.#rows.length) {
      const rows = new Uint32Array(Math.max(this.#rows.length * 2, (treeIndex + 1) * ROW_WORDS));
      rows.set(this.#rows);
      this.#rows = rows;
    }
    for (; this.#count <= treeIndex; this.#count++) this.#rows.set(EMPTY_ROW, this.#count * ROW_WORDS);
    writeRow(this.#rows, treeIndex * ROW_WORDS, counts);
  }

  /** Brings the rows up to date with their writers. */
  refresh(): void {
    for (const [index, source] of this.#sources) this.setRow(index, source.counts());
  }

  publish(publishedSeq: number): UnitId {
    this.refresh();
    const arena = this.#arena;
    const bytes = (ROWS_WORD + this.#count * ROW_WORDS) * 4;
    const units = bytes <= 4096 ? 1 : bytes <= 8192 ? 2 : bytes <= 16384 ? 4 : 8;
    const unit = arena.allocateForPublication(units);
    if (unit === 0) {
      // Readers hold everything, even what is kept for this. Then no operation can have changed anything since the last one.
      if (this.#rowsArePublished()) return arena.published();
      throw arena.memoryFull(units);
    }
    const words = arena.u32[unit >>> SEGMENT_UNIT_SHIFT]!;
    const word = (unit & SEGMENT_UNIT_MASK) << (UNIT_SHIFT - 2);
    const u8 = arena.u8[unit >>> SEGMENT_UNIT_SHIFT]!;
    u8[word * 4 + KIND_BYTE] = PageKind.Meta;
    u8[word * 4 + LEVEL_BYTE] = 0;
    arena.u16[unit >>> SEGMENT_UNIT_SHIFT]![word * 2 + COUNT_HALFWORD] = this.#count;
    for (let index = 3; index < ROWS_WORD; index++) words[word + index] = 0;
    writeU64(words, word + SEQ_WORD, publishedSeq);
    words[word + MAGIC_WORD] = META_MAGIC;
    const rows = this.#rows;
    const rowWords = this.#count * ROW_WORDS;
    for (let index = 0; index < rowWords; index++) words[word + ROWS_WORD + index] = rows[index]!;
    arena.publish(unit);
    return unit;
  }

  #rowsArePublished(): boolean {
    const arena = this.#arena;
    const metaUnit = arena.published();
    if (metaUnit === 0 || treeCount(arena, metaUnit) !== this.#count) return false;
    const words = arena.u32[metaUnit >>> SEGMENT_UNIT_SHIFT]!;
    const word = rowWord(arena, metaUnit, 0);
    for (let index = 0; index < this.#count * ROW_WORDS; index++) {
      if (words[word + index] !== this.#rows[index]) return false;
    }
    return true;
  }
}

/**
 * Fills a meta page from all BTreeWriters of the arena and publishes them together. publishedSeq: at least every seq in the trees.
 * Succeeds in full memory too: arenas keep pages back for it. The shard thread only.
 */
export function publishTrees(arena: ArenaWriter, publishedSeq: number): UnitId {
  return TreeTable.of(arena).publish(publishedSeq);
}

/** A row that hostile bytes could have written: ERR_CORRUPT if its height is impossible. */
export function checkHeight(height: number): void {
  if (height > HEIGHT_MAX)
    throw new ConcordError('ERR_CORRUPT', `tree of height ${height}, at most ${HEIGHT_MAX} are possible`);
}
