/**
 * The changing tree: path, copy-on-write, room in pages, split, shift, merge, root. Knows cells, not what versions mean.
 *
 *   level 2      [ root ]                 unit[level], index[level] is the path of the last descent: the page and the child taken.
 *   level 1   [ branch ]…                 It stays right while changes keep the structure, so that neighbouring operations need no
 *   level 0   [ leaf ]  [ leaf ]…         new descent ("finger"); a structural change drops it.
 *
 * A page born since the last publication is changed in place; any other is copied first, and the pages above it. So a fresh page
 * has only fresh ancestors. One exception: an entry of a published leaf may be exchanged by one store, see overwritesInPlace, #replaceCell(). Pages that overflow or underflow go through a run (leaf-run.ts) into new pages: one page again
 * (compaction, another prefix or class), two shared with a sibling that has room, or a split. Ascending inserts leave full pages.
 *
 * A large group is admitted by a bound that counts on packing: when memory runs short, pages of the group that fit together are merged
 * (admission.ts).
 *
 * Invariants: every leaf but a root leaf has an entry; a branch has at least two children (one only after a removal that found
 * no memory to merge). Nothing changes before ensureRoom() has found memory for the worst case.
 * Threads: the shard thread only.
 */
import type { ArenaWriter, UnitId } from '../../shared/memory/arena.js';
import { SEGMENT_UNIT_MASK, SEGMENT_UNIT_SHIFT, UNIT_SHIFT } from '../../shared/memory/arena.js';
import type { Extent } from './admission.js';
import { branchCellBytes, insertBranchEntry, removeBranchEntry } from './branch-page.js';
import { BranchRun } from './branch-run.js';
import { ChildList } from './child-list.js';
import { LeafRun } from './leaf-run.js';
import { newPageMix } from './page-mix.js';
import { PageSizer } from './page-sizer.js';
import { COLD } from './paged/format.js';
import type { Pager } from './paged/pager.js';
import {
  BRANCH_SLOT_BYTES,
  CELL_EXPIRY_OFFSET,
  CELL_LENGTHS_OFFSET,
  CELL_START_HALFWORD,
  CLASS_BYTE,
  COUNT_HALFWORD,
  CellFlag,
  EXPIRY_BYTES,
  GARBAGE_HALFWORD,
  HEIGHT_MAX,
  KEY_BYTES_MAX,
  LEAF_SLOT_BYTES,
  LEVEL_BYTE,
  NEXT_WORD,
  PAGE_BYTES_MAX,
  PAGE_CLASS_MAX,
  PAGE_FLAGS_BYTE,
  PAGE_HEADER_BYTES,
  PREFIX_LENGTH_HALFWORD,
  RESERVED_HALFWORD,
  SEQ_BYTES,
  branchOffsetsHalfword,
  cellLengthsAt,
  childrenWord,
  copyBytes,
  headOf,
  headsOffset,
  leafOffsetsHalfword,
  readSeq,
  readVarint,
  skipVarint,
  varintBytes,
  writeSeq,
  writeVarint,
} from './page.js';
import { compareSeparator, sameSuffix, searchBranch, searchLeaf } from './search.js';

/** A page below this fill looks for a sibling to merge with; below half of it, entries are moved over from a full sibling. */
const FILL_MIN = 0.4;
const FILL_BORROW = 0.2;
/** A merged page keeps some room, so that it does not split at once. */
const FILL_MERGED_MAX = 0.9;
/**
 * A sibling takes entries over if this share of it is free. Measured on random inserts of 57 bytes: 0.4 saves a twelfth of the memory against 0.5 and
 * costs a tenth of the speed, 0.125 saves a tenth more and makes inserts half as slow again: two pages are rewritten for a few free slots. Pages
 * that a split has just made are half full and stay apart.
 */
const SHIFT_ROOM_MIN = 0.5;
/** A compaction that leaves less room than this share of the page would come again with the next insert. */
const COMPACTION_GAIN_SHIFT = 5;
const GAP_BYTES_SKIPPED = 256;
/** No sibling and no merge is worth more pages than this. */
const NO_LIMIT = 0xffff;

const UNITS_OF_CLASS = [1, 2, 4, 8] as const;

/** Leaves beside its own that an operation may bring into memory. */
export const FETCHED_PAGES = 4;

/** Leaves that must have overflowed in between before pages are packed again. */
export const PACK_SPILLS_MIN = 128;
/** Of two pages of a class that may go into one: header and prefix, up to a quarter of the page, count twice in the sum. */
const PAIR_FILL_MAX = 1.27;
const NO_KEY = new Uint8Array(0);

/** Overwrites in place that packing a leaf must make room for. */
const OVERWRITE_ROOM_CELLS = 3;
/** A leaf that packing leaves less free than this share of it loses its tombstones, too. */
const PACKED_ROOM_SHIFT = 3;

export abstract class TreeShape {
  protected readonly arena: ArenaWriter;
  protected readonly entriesMax: number;
  protected readonly orderLimited: boolean;
  /** Of what is written anew. */
  protected readonly sizer: PageSizer;
  /** Of a tree some of whose leaves may lie in a page file only. */
  pager: Pager | undefined = undefined;

  protected rootUnit: UnitId = 0;
  protected height = 0;
  protected cellCount = 0;
  /** Of the cells, and what their keys have in bytes. Not kept up in a tree that has a page file. */
  protected tombstones = 0;
  protected tombstoneKeyBytes = 0;
  protected leafPages = 0;
  protected branchPages = 0;
  protected treeUnits = 0;
  /** leafPages and branchPages by class. */
  protected readonly mix = newPageMix();

  /** The path: pages and, in branches, the child taken. */
  protected readonly unit = new Int32Array(HEIGHT_MAX + 1);
  protected readonly index = new Int32Array(HEIGHT_MAX + 1);
  protected fingerValid = false;
  #fingerMisses = 0;

  /** The leaf of the path. */
  protected u8!: Uint8Array;
  protected u16!: Uint16Array;
  protected u32!: Uint32Array;
  protected base = 0;

  /** What has been put and cut; of a tree that was there before, once it was measured. */
  protected readonly extent: Extent = { cellBytesMax: 0, separatorBytesMax: 0 };
  /** Leaves that overflowed since the last publication or packing, and the epoch they are counted in. */
  #spills = 0;
  #spillEpoch = 0;

  /** Where the last insert went: an ascending run of inserts is recognised by it. */
  #lastInsertUnit = 0;
  #lastInsertAt = -2;
  /** Set while memory is short: no shifting or merging, which need pages of siblings. */
  protected frugal = false;

  /**
   * Whether an overwrite or a delete may show before the publication: set while every operation stands for itself, unset where several must
   * become visible together.
   */
  overwritesInPlace = false;

  /** The cell to insert; its key and body stay where the caller has them. */
  protected cellFlags = 0;
  protected cellSeq = 0;
  /** Counts if the flags say so. */
  protected cellExpiresAt = 0;
  protected cellKey!: Uint8Array;
  protected cellKeyStart = 0;
  protected cellKeyLength = 0;
  protected cellValueLength = 0;
  protected cellBody!: Uint8Array;
  protected cellBodyStart = 0;
  protected cellBodyLength = 0;

  /** Since the writer was made, for metrics(). */
  protected readonly events = {
    /** Pages that were divided, and those begun beside a full one by ascending inserts. */
    pageSplits: 0,
    pageMerges: 0,
    /** An underfull page took entries from its sibling. */
    borrows: 0,
    /** A full page gave entries to its sibling. */
    shifts: 0,
    /** Copies before the first change since a publication. */
    pagesCopied: 0,
    overwritesInPlace: 0,
    /** Deletes that left a tombstone which hides nothing. */
    burials: 0,
  };

  protected readonly leafRun = new LeafRun();
  readonly #packKey = new Uint8Array(KEY_BYTES_MAX);
  protected readonly branchRun = new BranchRun();
  readonly #children = new ChildList();
  #cuts = new Int32Array(64);
  /** A part that does not fit a page of the class for new ones may have one of up to this class. */
  #classKept = 0;
  #weights = new Float64Array(1024);
  /** Entries of a leaf that stay when it is packed. */
  readonly #kept = new Uint16Array(PAGE_BYTES_MAX / LEAF_SLOT_BYTES);
  readonly #wanted = new Int32Array(4);

  constructor(arena: ArenaWriter, order: number, sizer: PageSizer) {
    this.arena = arena;
    this.orderLimited = order !== 0;
    this.entriesMax = order === 0 ? NO_LIMIT : order;
    this.sizer = sizer;
  }

  // ---- path ---------------------------------------------------------------------------------------------------------------------

  protected descend(key: Uint8Array, keyStart: number, keyLength: number, seq: number): void {
    const arena = this.arena;
    let unit = this.rootUnit;
    for (let level = this.height - 1; level > 0; level--) {
      const segment = unit >>> SEGMENT_UNIT_SHIFT;
      const base = (unit & SEGMENT_UNIT_MASK) << UNIT_SHIFT;
      const u16 = arena.u16[segment]!;
      const u32 = arena.u32[segment]!;
      const index = searchBranch(arena.u8[segment]!, u16, u32, base, key, keyStart, keyLength, seq);
      this.unit[level] = unit;
      this.index[level] = index;
      unit = u32[childrenWord(u16, base) + index]!;
      if (unit >= COLD) {
        this.fingerValid = false;
        unit = this.pager!.fault(this.unit[level]!, index);
      }
    }
    this.#enterLeaf(unit);
  }

  #enterLeaf(unit: UnitId): void {
    this.unit[0] = unit;
    this.fingerValid = true;
    this.loadLeaf();
    if (this.u8[this.base + PAGE_FLAGS_BYTE] !== 0) this.u8[this.base + PAGE_FLAGS_BYTE] = 0;
  }

  protected loadLeaf(): void {
    const unit = this.unit[0]!;
    const segment = unit >>> SEGMENT_UNIT_SHIFT;
    this.u8 = this.arena.u8[segment]!;
    this.u16 = this.arena.u16[segment]!;
    this.u32 = this.arena.u32[segment]!;
    this.base = (unit & SEGMENT_UNIT_MASK) << UNIT_SHIFT;
  }

  /**
   * Goes to the leaf of (key, seq) and returns the position there as searchLeaf does. Tries the last path first; when that keeps
   * failing (random keys), only now and then.
   */
  protected locate(key: Uint8Array, keyStart: number, keyLength: number, seq: number): number {
    if (this.fingerValid && (this.#fingerMisses < 8 || (this.#fingerMisses & 15) === 0)) {
      const position = searchLeaf(this.u8, this.u16, this.u32, this.base, key, keyStart, keyLength, seq);
      const at = position < 0 ? ~position : position;
      if (
        (at > 0 || this.isLeftmost()) &&
        (at < this.leafCount() || this.#isBeforeRightSeparator(key, keyStart, keyLength, seq))
      ) {
        this.#fingerMisses = 0;
        return position;
      }
      if (at > 0 && this.#stepRight(key, keyStart, keyLength, seq)) {
        this.#fingerMisses = 0;
        return searchLeaf(this.u8, this.u16, this.u32, this.base, key, keyStart, keyLength, seq);
      }
    }
    this.#fingerMisses++;
    this.descend(key, keyStart, keyLength, seq);
    return searchLeaf(this.u8, this.u16, this.u32, this.base, key, keyStart, keyLength, seq);
  }

  protected leafCount(): number {
    return this.u16[(this.base >>> 1) + COUNT_HALFWORD]!;
  }

  protected isLeftmost(): boolean {
    for (let level = this.height - 1; level > 0; level--) if (this.index[level] !== 0) return false;
    return true;
  }

  /** The lowest level whose page has a child to the right (+1) or left (-1) of the path; 0 if the path runs along that edge. */
  protected turnLevel(direction: 1 | -1): number {
    for (let level = 1; level < this.height; level++) {
      const next = this.index[level]! + direction;
      if (next >= 0 && next < this.#countOf(this.unit[level]!)) return level;
    }
    return 0;
  }

  #isBeforeRightSeparator(key: Uint8Array, keyStart: number, keyLength: number, seq: number): boolean {
    const level = this.turnLevel(1);
    return level === 0 || this.#isBeforeSeparator(level, this.index[level]! + 1, key, keyStart, keyLength, seq);
  }

  #isBeforeSeparator(
    level: number,
    index: number,
    key: Uint8Array,
    keyStart: number,
    keyLength: number,
    seq: number,
  ): boolean {
    const unit = this.unit[level]!;
    const segment = unit >>> SEGMENT_UNIT_SHIFT;
    const base = (unit & SEGMENT_UNIT_MASK) << UNIT_SHIFT;
    const { u8, u16, u32 } = this.arena;
    return compareSeparator(u8[segment]!, u16[segment]!, u32[segment]!, base, index, key, keyStart, keyLength, seq) > 0;
  }

  /** From the path's leaf to the next one of its branch, if (key, seq), which is behind the leaf, belongs there: the usual step in a group, which is in order. */
  #stepRight(key: Uint8Array, keyStart: number, keyLength: number, seq: number): boolean {
    const branch = this.unit[1]!;
    const next = this.index[1]! + 1;
    // Of the last one the end is known higher up.
    if (this.height < 2 || next + 1 >= this.#countOf(branch)) return false;
    const child = this.#childOf(branch, next);
    if (child >= COLD || !this.#isBeforeSeparator(1, next + 1, key, keyStart, keyLength, seq)) return false;
    this.index[1] = next;
    this.#enterLeaf(child);
    return true;
  }

  /** Whether the separator between the leaf and its neighbour cuts through the versions of one key. */
  protected separatorHasSeq(direction: 1 | -1): boolean {
    const level = this.turnLevel(direction);
    if (level === 0) return false;
    const unit = this.unit[level]!;
    const segment = unit >>> SEGMENT_UNIT_SHIFT;
    const base = (unit & SEGMENT_UNIT_MASK) << UNIT_SHIFT;
    const u16 = this.arena.u16[segment]!;
    const entry = this.index[level]! + (direction > 0 ? 1 : 0);
    const cell = base + u16[branchOffsetsHalfword(u16, base) + entry]!;
    return (this.arena.u8[segment]![cell]! & 1) !== 0;
  }

  /** The leaf beside the path's leaf, 0 if there is none. The path stays. */
  protected neighbourLeaf(direction: 1 | -1): UnitId {
    const level = this.turnLevel(direction);
    if (level === 0) return 0;
    let unit = this.#fetchChild(this.unit[level]!, this.index[level]! + direction);
    for (let below = level - 1; below > 0; below--) {
      unit = this.#fetchChild(unit, direction > 0 ? 0 : this.#countOf(unit) - 1);
    }
    return unit;
  }

  /** Moves the path to the next leaf. False at the end. */
  protected moveToNextLeaf(): boolean {
    const level = this.turnLevel(1);
    if (level === 0) return false;
    const isValid = this.fingerValid;
    this.fingerValid = false;
    this.index[level]!++;
    for (let below = level - 1; below >= 0; below--) {
      this.unit[below] = this.#fetchChild(this.unit[below + 1]!, this.index[below + 1]!);
      this.index[below] = 0;
    }
    this.fingerValid = isValid;
    this.loadLeaf();
    return true;
  }

  /** Key and seq of the separator to the right of the leaf, copied; undefined at the right edge. */
  protected rightSeparator(): { key: Uint8Array; seq: number } | undefined {
    const level = this.turnLevel(1);
    if (level === 0) return undefined;
    const unit = this.unit[level]!;
    const segment = unit >>> SEGMENT_UNIT_SHIFT;
    const u8 = this.arena.u8[segment]!;
    const u16 = this.arena.u16[segment]!;
    const base = (unit & SEGMENT_UNIT_MASK) << UNIT_SHIFT;
    const prefixLength = u16[(base >>> 1) + PREFIX_LENGTH_HALFWORD]!;
    let at = base + u16[branchOffsetsHalfword(u16, base) + this.index[level]! + 1]!;
    const lengthAndFlag = readVarint(u8, at);
    at = skipVarint(u8, at);
    let seq = Infinity;
    if ((lengthAndFlag & 1) !== 0) {
      seq = readSeq(u8, at);
      at += SEQ_BYTES;
    }
    const suffixLength = lengthAndFlag >>> 1;
    const key = new Uint8Array(prefixLength + suffixLength);
    copyBytes(u8, base + PAGE_HEADER_BYTES, prefixLength, key, 0);
    copyBytes(u8, at, suffixLength, key, prefixLength);
    return { key, seq };
  }

  #countOf(unit: UnitId): number {
    return this.arena.u16[unit >>> SEGMENT_UNIT_SHIFT]![
      (((unit & SEGMENT_UNIT_MASK) << UNIT_SHIFT) >>> 1) + COUNT_HALFWORD
    ]!;
  }

  #childOf(unit: UnitId, index: number): UnitId {
    const segment = unit >>> SEGMENT_UNIT_SHIFT;
    const base = (unit & SEGMENT_UNIT_MASK) << UNIT_SHIFT;
    return this.arena.u32[segment]![childrenWord(this.arena.u16[segment]!, base) + index]!;
  }

  /** The child, brought into memory if it is not there. Before anything is changed: it may fail. */
  #fetchChild(unit: UnitId, index: number): UnitId {
    const child = this.#childOf(unit, index);
    return child < COLD ? child : this.pager!.fault(unit, index);
  }

  /** The leaf beside another, if it is in memory: none is fetched only to share its room. 0 if not. */
  #siblingOf(unit: UnitId, index: number): UnitId {
    const child = this.#childOf(unit, index);
    return child < COLD ? child : 0;
  }

  #setChildOf(unit: UnitId, index: number, child: UnitId): void {
    const segment = unit >>> SEGMENT_UNIT_SHIFT;
    const base = (unit & SEGMENT_UNIT_MASK) << UNIT_SHIFT;
    this.arena.u32[segment]![childrenWord(this.arena.u16[segment]!, base) + index] = child;
  }

  // ---- pages --------------------------------------------------------------------------------------------------------------------

  /**
   * Throws ERR_MEMORY_FULL unless the worst case of one operation fits. With `reserve` falls back to doing without merges. True, with mayPack
   * only, when pages were packed for the cell at hand: its place is another one now.
   */
  protected ensureRoom(cellBytes: number, reserve: boolean, mayPack = false): boolean {
    const arena = this.arena;
    this.frugal = false;
    let pageClass = Math.max(this.sizer.leafClass, this.sizer.branchClass);
    while (pageClass < PAGE_CLASS_MAX && 4 * cellBytes > 4096 << pageClass) pageClass++;
    // BTreeWriter.#slackPages() follows this.
    const pages = 3 * (this.height + 1) + 2 + (this.pager === undefined ? 0 : FETCHED_PAGES);
    const uniform = this.treeUnits === (this.leafPages + this.branchPages) << pageClass;
    // A sibling may have any class.
    if (!uniform) pageClass = Math.max(pageClass, this.largestClass());
    // One-unit pages cannot fail by fragmentation, and there is plenty: the usual case.
    if (uniform && pageClass === 0 && arena.freeUnits(reserve) >= pages) return false;
    const wanted = this.#wanted.fill(0);
    wanted[pageClass] = pages;
    if (arena.canAllocate(wanted, reserve)) return false;
    if (mayPack && this.#isWorthPacking()) {
      this.#packFresh();
      this.descend(this.cellKey, this.cellKeyStart, this.cellKeyLength, Infinity);
      this.ensureRoom(cellBytes, reserve);
      return true;
    }
    this.frugal = true;
    wanted.fill(0);
    // Without siblings: a copy of the path and a split on every level; a delete only copies the path.
    wanted[pageClass] = reserve ? 0 : 2 * (this.height + 1);
    if (reserve) for (let level = 0; level < this.height; level++) wanted[this.#classOf(this.unit[level]!)]!++;
    if (arena.canAllocate(wanted, reserve)) return false;
    throw arena.memoryFull(pages << pageClass);
  }

  /** Of the pages that are there and of those made now, where no cell asks for more. */
  protected largestClass(): number {
    const { leaves, branches } = this.mix;
    let pageClass = Math.max(this.sizer.leafClass, this.sizer.branchClass);
    for (let larger = pageClass + 1; larger <= PAGE_CLASS_MAX; larger++)
      if (leaves[larger]! + branches[larger]! > 0) pageClass = larger;
    return pageClass;
  }

  #classOf(unit: UnitId): number {
    return this.arena.u8[unit >>> SEGMENT_UNIT_SHIFT]![((unit & SEGMENT_UNIT_MASK) << UNIT_SHIFT) + CLASS_BYTE]! & 3;
  }

  #allocatePage(pageClass: number, isLeaf: boolean): UnitId {
    const unit = this.arena.allocate(UNITS_OF_CLASS[pageClass]!);
    if (isLeaf) {
      this.leafPages++;
      this.mix.leaves[pageClass]!++;
    } else {
      this.branchPages++;
      this.mix.branches[pageClass]!++;
    }
    this.treeUnits += 1 << pageClass;
    return unit;
  }

  #releasePage(unit: UnitId, isLeaf: boolean): void {
    const pageClass = this.#classOf(unit);
    if (isLeaf) {
      this.leafPages--;
      this.mix.leaves[pageClass]!--;
    } else {
      this.branchPages--;
      this.mix.branches[pageClass]!--;
    }
    this.treeUnits -= 1 << pageClass;
    this.pager?.superseded(unit);
    this.arena.release(unit, this.pager?.isOpen !== true);
  }

  /** Makes the pages of the path from the root down to the level private to this writer. */
  protected makeWritable(level: number): void {
    const arena = this.arena;
    if (level >= this.height || arena.isUnpublished(this.unit[level]!)) return;
    for (let at = this.height - 1; at >= level; at--) {
      const old = this.unit[at]!;
      if (arena.isUnpublished(old)) continue;
      const pageClass = this.#classOf(old);
      const unit = arena.allocate(UNITS_OF_CLASS[pageClass]!);
      this.#copyPage(old, unit, pageClass);
      this.events.pagesCopied++;
      arena.tombstonesIn[unit] = arena.tombstonesIn[old]!;
      this.pager?.superseded(old);
      arena.retire(old, this.pager?.isOpen !== true);
      this.unit[at] = unit;
      if (at === this.height - 1) this.rootUnit = unit;
      else this.#setChildOf(this.unit[at + 1]!, this.index[at + 1]!, unit);
      if (this.#lastInsertUnit === old) this.#lastInsertUnit = unit;
    }
    if (level === 0) this.loadLeaf();
  }

  #copyPage(from: UnitId, to: UnitId, pageClass: number): void {
    const arena = this.arena;
    const bytes = 4096 << pageClass;
    const source = arena.u8[from >>> SEGMENT_UNIT_SHIFT]!;
    const target = arena.u8[to >>> SEGMENT_UNIT_SHIFT]!;
    const sourceBase = (from & SEGMENT_UNIT_MASK) << UNIT_SHIFT;
    const targetBase = (to & SEGMENT_UNIT_MASK) << UNIT_SHIFT;
    if (source === target) {
      // A wide gap is cheaper to skip than to drag through the cache.
      const halfwords = arena.u16[from >>> SEGMENT_UNIT_SHIFT]!;
      const cellStart = halfwords[(sourceBase >>> 1) + CELL_START_HALFWORD]!;
      const slotsEnd =
        headsOffset(halfwords[(sourceBase >>> 1) + PREFIX_LENGTH_HALFWORD]!) +
        halfwords[(sourceBase >>> 1) + COUNT_HALFWORD]! *
          (source[sourceBase + LEVEL_BYTE] === 0 ? LEAF_SLOT_BYTES : BRANCH_SLOT_BYTES);
      if (cellStart - slotsEnd > GAP_BYTES_SKIPPED) {
        target.copyWithin(targetBase, sourceBase, sourceBase + slotsEnd);
        target.copyWithin(targetBase + cellStart, sourceBase + cellStart, sourceBase + bytes);
      } else {
        target.copyWithin(targetBase, sourceBase, sourceBase + bytes);
      }
    } else target.set(source.subarray(sourceBase, sourceBase + bytes), targetBase);
    const words = arena.u32[to >>> SEGMENT_UNIT_SHIFT]!;
    const halfwords = arena.u16[to >>> SEGMENT_UNIT_SHIFT]!;
    words[(targetBase >>> 2) + 1] = arena.unpublishedEpochLow;
    halfwords[(targetBase >>> 1) + 4] = arena.unpublishedEpochHigh;
    words[(targetBase >>> 2) + NEXT_WORD] = 0;
    target[targetBase + PAGE_FLAGS_BYTE] = 0;
  }

  /**
   * As makeWritable(0), but the copy of the leaf has its cells packed; with `drops` those tombstones are left out that hide nothing. The cell at the
   * position stays. Returns where that is now.
   */
  #compactLeaf(position: number, drops: boolean): number {
    const arena = this.arena;
    const count = this.leafCount();
    const kept = this.#kept;
    let keptCount = 0;
    let moved = position;
    for (let index = 0; index < count; index++) {
      if (index === position) moved = keptCount;
      if (drops && index !== position && this.#hidesNothing(index)) this.#noteTombstone(this.cellAt(index), -1);
      else kept[keptCount++] = index;
    }
    if (position === count) moved = keptCount;
    this.cellCount -= count - keptCount;
    this.makeWritable(1);
    const old = this.unit[0]!;
    const pageClass = this.#classOf(old);
    const unit = arena.allocate(UNITS_OF_CLASS[pageClass]!);
    const u8 = arena.u8[unit >>> SEGMENT_UNIT_SHIFT]!;
    const u16 = arena.u16[unit >>> SEGMENT_UNIT_SHIFT]!;
    const u32 = arena.u32[unit >>> SEGMENT_UNIT_SHIFT]!;
    const base = (unit & SEGMENT_UNIT_MASK) << UNIT_SHIFT;
    const half = base >>> 1;
    const headsAt = headsOffset(this.u16[(this.base >>> 1) + PREFIX_LENGTH_HALFWORD]!);
    for (let word = 0; word < headsAt >>> 2; word++) u32[(base >>> 2) + word] = this.u32[(this.base >>> 2) + word]!;
    const heads = (base + headsAt) >>> 2;
    const oldHeads = (this.base + headsAt) >>> 2;
    const offsets = (heads + keptCount) << 1;
    let end = 4096 << pageClass;
    for (let index = 0; index < keptCount; index++) {
      const from = kept[index]!;
      const cell = this.cellAt(from);
      const bytes = this.leafCellBytes(cell);
      end -= bytes;
      copyBytes(this.u8, cell, bytes, u8, base + end);
      u32[heads + index] = this.u32[oldHeads + from]!;
      u16[offsets + index] = end;
    }
    u16[half + COUNT_HALFWORD] = keptCount;
    u16[half + CELL_START_HALFWORD] = end;
    u16[half + GARBAGE_HALFWORD] = 0;
    u32[(base >>> 2) + 1] = arena.unpublishedEpochLow;
    u16[half + 4] = arena.unpublishedEpochHigh;
    u32[(base >>> 2) + NEXT_WORD] = 0;
    u8[base + PAGE_FLAGS_BYTE] = 0;
    arena.tombstonesIn[unit] = arena.tombstonesIn[old]!;
    this.pager?.superseded(old);
    arena.release(old, this.pager?.isOpen !== true);
    this.events.pagesCopied++;
    if (this.#lastInsertUnit === old) this.#lastInsertUnit = unit;
    this.#replacePage(0, unit);
    return moved;
  }

  /** As makeWritable(0), without tombstones that hide nothing. Returns where the cell at the position is now; it stays in any case. */
  protected makeWritableAndPack(position: number): number {
    if (this.#canDrop(position)) return this.#compactLeaf(position, true);
    this.makeWritable(0);
    return position;
  }

  /** Whether the leaf has tombstones, other than at the position, that hide nothing. */
  #canDrop(position: number): boolean {
    if (this.arena.tombstonesIn[this.unit[0]!] === 0 || this.pager !== undefined) return false;
    for (let index = this.leafCount() - 1; index >= 0; index--)
      if (index !== position && this.#hidesNothing(index)) return true;
    return false;
  }

  /** Of a tombstone without an older version of its key behind it. */
  #hidesNothing(position: number): boolean {
    if ((this.u8[this.cellAt(position)]! & CellFlag.Tombstone) === 0) return false;
    return position + 1 < this.leafCount() ? !this.sameKeyAsNext(position) : !this.separatorHasSeq(1);
  }

  /** A tombstone comes into the path's leaf (+1) or goes from it (-1). */
  #noteTombstone(cell: number, change: 1 | -1): void {
    if (this.pager !== undefined) return;
    const suffixLength = readVarint(this.u8, skipVarint(this.u8, cellLengthsAt(this.u8, cell)));
    this.tombstones += change;
    this.tombstoneKeyBytes += change * (this.u16[(this.base >>> 1) + PREFIX_LENGTH_HALFWORD]! + suffixLength);
    this.arena.tombstonesIn[this.unit[0]!]! += change;
  }

  /** Puts a page in place of the path's page at that level, without other change of structure. */
  #replacePage(level: number, unit: UnitId): void {
    this.unit[level] = unit;
    if (level === this.height - 1) this.rootUnit = unit;
    else this.#setChildOf(this.unit[level + 1]!, this.index[level + 1]!, unit);
    if (level === 0) this.loadLeaf();
  }

  // ---- leaf cells ---------------------------------------------------------------------------------------------------------------

  protected cellAt(position: number): number {
    return this.base + this.u16[leafOffsetsHalfword(this.u16, this.base) + position]!;
  }

  /** Whether the entries at the position and after it have the same key. */
  protected sameKeyAsNext(position: number): boolean {
    const { u8, u16, u32, base } = this;
    const count = u16[(base >>> 1) + COUNT_HALFWORD]!;
    const heads = (base + headsOffset(u16[(base >>> 1) + PREFIX_LENGTH_HALFWORD]!)) >>> 2;
    if (u32[heads + position] !== u32[heads + position + 1]) return false;
    const offsets = (heads + count) << 1;
    return sameSuffix(u8, base + u16[offsets + position]!, base + u16[offsets + position + 1]!);
  }

  protected leafCellBytes(cell: number): number {
    const lengthAt = cellLengthsAt(this.u8, cell);
    const suffixLengthAt = skipVarint(this.u8, lengthAt);
    const suffixLength = readVarint(this.u8, suffixLengthAt);
    const suffixAt = skipVarint(this.u8, suffixLengthAt);
    const bodyLength = (this.u8[cell]! & CellFlag.Overflow) !== 0 ? 4 : readVarint(this.u8, lengthAt);
    return suffixAt + suffixLength + bodyLength - cell;
  }

  /** Removes a cell from the leaf, which must be writable. */
  protected removeCell(position: number): void {
    const { u16, u32, base } = this;
    const half = base >>> 1;
    const count = u16[half + COUNT_HALFWORD]!;
    const heads = (base + headsOffset(u16[half + PREFIX_LENGTH_HALFWORD]!)) >>> 2;
    const offsets = (heads + count) << 1;
    const cell = u16[offsets + position]!;
    const bytes = this.leafCellBytes(base + cell);
    if ((this.u8[base + cell]! & CellFlag.Tombstone) !== 0) this.#noteTombstone(base + cell, -1);
    if (cell === u16[half + CELL_START_HALFWORD]) u16[half + CELL_START_HALFWORD] = cell + bytes;
    else u16[half + GARBAGE_HALFWORD]! += bytes;
    for (let index = position; index + 1 < count; index++) u32[heads + index] = u32[heads + index + 1]!;
    const moved = offsets - 2;
    for (let index = 0; index < position; index++) u16[moved + index] = u16[offsets + index]!;
    for (let index = position; index + 1 < count; index++) u16[moved + index] = u16[offsets + index + 1]!;
    u16[half + COUNT_HALFWORD] = count - 1;
    this.cellCount--;
  }

  /** Makes the first root leaf out of the cell. */
  protected plantRoot(): void {
    const run = this.leafRun;
    run.reset();
    this.#addNewCell(run);
    const prefixLength = 0;
    this.sizer.noteCell(run.cellBytes(0, 0));
    this.sizer.decide(this.arena.unpublishedEpoch);
    const pageClass = run.classFor(0, 1, prefixLength, this.sizer.leafClass, true);
    const unit = this.#allocatePage(pageClass, true);
    this.#writeLeaf(run, 0, 1, prefixLength, unit);
    this.rootUnit = unit;
    this.height = 1;
    this.cellCount++;
    this.unit[0] = unit;
    this.index[0] = 0;
    this.fingerValid = true;
    this.#lastInsertUnit = unit;
    this.#lastInsertAt = 0;
    this.loadLeaf();
  }

  /**
   * A new cell in place of one that no snapshot needs, in a published page: the cell is written where no slot points, then one store of the slot's
   * offset makes it the entry. A reader finds the old cell or the new one, each whole. Saves the copy of the page and of the path above it, and leaves
   * the branches in the readers' caches. False when the page has no room for it.
   *
   * Where no slot points: a cell that an earlier change of this page left behind, once every reader that may stand on it has gone
   * (the writer remembers a few beside the page, see SparePlaces), else the gap. Bytes that are neither in the gap nor in a cell are counted as
   * garbage only after they have become it, so a writer that dies in between leaves a sound page with a few bytes in it that nothing counts. What the dead
   * writer's last changes did to the counts of live entries the successor finds out by counting (live-counts.ts).
   */
  #replaceCell(position: number, old: number, oldBytes: number, cellBytes: number, gap: number): boolean {
    const { arena, u8, u16, base } = this;
    const unit = this.unit[0]!;
    const half = base >>> 1;
    const prefixLength = u16[half + PREFIX_LENGTH_HALFWORD]!;
    const offset = leafOffsetsHalfword(u16, base) + position;
    let at = arena.spares.take(unit, cellBytes, arena.safeEpoch);
    if (at === 0 && cellBytes > gap) return false;
    this.pager?.dirtied(this.unit, this.height);
    if (at !== 0) u16[half + GARBAGE_HALFWORD]! -= cellBytes;
    else {
      at = u16[half + CELL_START_HALFWORD]! - cellBytes;
      u16[half + CELL_START_HALFWORD] = at;
    }
    this.#writeCell(base + at, this.cellKeyLength - prefixLength, prefixLength);
    if ((u8[base + old]! & CellFlag.Tombstone) !== 0) this.#noteTombstone(base + old, -1);
    if ((this.cellFlags & CellFlag.Tombstone) !== 0) this.#noteTombstone(base + at, 1);
    Atomics.store(u16, offset, at);
    u16[half + GARBAGE_HALFWORD]! += oldBytes;
    arena.spares.add(unit, old, oldBytes, arena.unpublishedEpoch);
    return true;
  }

  /** Whether the cell at that offset of the path's leaf, which no snapshot needs, may give its place to the new one before the publication. */
  #changesInPlace(old: number, oldBytes: number, cellBytes: number): boolean {
    if (!this.overwritesInPlace) return false;
    const flags = this.u8[this.base + old]!;
    // A row says whether entries of its tree may expire, and a page file's what there is: both must stay true as they are published.
    if (((flags ^ this.cellFlags) & CellFlag.Expiry) !== 0) return false;
    if (this.pager !== undefined && (flags !== this.cellFlags || oldBytes !== cellBytes)) return false;
    return (
      ((flags | this.cellFlags) & CellFlag.Overflow) === 0 &&
      !this.arena.isUnpublished(this.unit[0]!) &&
      !this.arena.hasLongPins
    );
  }

  /**
   * The cell, a tombstone, in place of the only version of its key, which no snapshot needs: like an overwrite it mostly needs no copy of the leaf
   * and its path. It hides nothing, and goes when the leaf has no room for an insert; a put of the key takes its place without a copy, too.
   * False where tombstones would become more than live entries, and where the leaf may be merged with another after a removal. The caller
   * has called ensureRoom().
   */
  protected buryCell(position: number): boolean {
    if (this.orderLimited || this.pager !== undefined) return false;
    const leaf = this.unit[0]!;
    if (2 * (this.arena.tombstonesIn[leaf]! + 1) > this.leafCount()) return false;
    const old = this.cellAt(position);
    if ((this.u8[old]! & (CellFlag.Overflow | CellFlag.Expiry)) !== 0) return false;
    const left = this.#usedBytes(leaf, LEAF_SLOT_BYTES) - this.leafCellBytes(old);
    if (left < FILL_MIN * (4096 << this.#classOf(leaf))) return false;
    this.#takePlace(position, this.#newCellBytes());
    this.events.burials++;
    return true;
  }

  /** Of the cell to insert, in the path's leaf. */
  #newCellBytes(): number {
    const suffixLength = this.cellKeyLength - this.u16[(this.base >>> 1) + PREFIX_LENGTH_HALFWORD]!;
    return (
      CELL_LENGTHS_OFFSET +
      ((this.cellFlags & CellFlag.Expiry) >> 2) * EXPIRY_BYTES +
      varintBytes(this.cellValueLength) +
      (suffixLength < 0x80 ? 1 : 2) +
      suffixLength +
      this.cellBodyLength
    );
  }

  /** Inserts the cell at the position of the path's leaf; with `replace`, in place of the cell there. The path may be lost. */
  protected insertCell(position: number, replace: boolean): void {
    const { u16, base } = this;
    const half = base >>> 1;
    const count = u16[half + COUNT_HALFWORD]!;
    const prefixLength = u16[half + PREFIX_LENGTH_HALFWORD]!;
    if (!replace && !this.#sharesPrefix(prefixLength)) {
      this.#spillLeaf(position, 0);
      return;
    }
    const cellBytes = this.#newCellBytes();
    this.sizer.noteCell(cellBytes);
    const pageClass = this.u8[base + CLASS_BYTE]! & 3;
    if (4 * cellBytes > 4096 << pageClass && pageClass < PAGE_CLASS_MAX) {
      this.#spillLeaf(position, replace ? 1 : 0);
      return;
    }
    if (replace) {
      this.#takePlace(position, cellBytes);
      return;
    }
    if (cellBytes + LEAF_SLOT_BYTES > this.#gapBytes() || count >= this.entriesMax) {
      if (this.#canDrop(position)) this.insertCell(this.#compactLeaf(position, true), false);
      else this.#spillLeaf(position, 0);
      return;
    }
    this.makeWritable(0);
    this.#openSlot(position, count, prefixLength, cellBytes, this.cellKeyLength - prefixLength);
    this.cellCount++;
    this.#lastInsertUnit = this.unit[0]!;
    this.#lastInsertAt = position;
  }

  /** Between the slots and the cells of the path's leaf. */
  #gapBytes(): number {
    const { u16, base } = this;
    const half = base >>> 1;
    const headsAt = headsOffset(u16[half + PREFIX_LENGTH_HALFWORD]!);
    return u16[half + CELL_START_HALFWORD]! - headsAt - LEAF_SLOT_BYTES * u16[half + COUNT_HALFWORD]!;
  }

  /** The cell to insert in place of the one at the position, which nobody needs. The path may be lost. */
  #takePlace(position: number, cellBytes: number): void {
    const { u8, u16, base } = this;
    const half = base >>> 1;
    const prefixLength = u16[half + PREFIX_LENGTH_HALFWORD]!;
    const old = this.cellAt(position) - base;
    const oldBytes = this.leafCellBytes(base + old);
    const gap = this.#gapBytes();
    if (this.#changesInPlace(old, oldBytes, cellBytes)) {
      if (this.#replaceCell(position, old, oldBytes, cellBytes, gap)) {
        this.events.overwritesInPlace++;
        return;
      }
      // The copy that is due anyway leaves room for the next overwrites.
      const garbage = u16[half + GARBAGE_HALFWORD]!;
      const drops = garbage < (4096 << this.#classOf(this.unit[0]!)) >>> PACKED_ROOM_SHIFT && this.#canDrop(position);
      if (drops || garbage >= OVERWRITE_ROOM_CELLS * cellBytes) {
        this.#takePlace(this.#compactLeaf(position, drops), cellBytes);
        return;
      }
    }
    if (cellBytes > oldBytes && cellBytes > gap) {
      if (this.#canDrop(position)) this.#takePlace(this.#compactLeaf(position, true), cellBytes);
      else this.#spillLeaf(position, 1);
      return;
    }
    this.makeWritable(0);
    const writable = this.base >>> 1;
    let at = this.cellAt(position) - this.base;
    if ((u8[base + old]! & CellFlag.Tombstone) !== 0) this.#noteTombstone(this.base + at, -1);
    if (cellBytes <= oldBytes) {
      this.u16[writable + GARBAGE_HALFWORD]! += oldBytes - cellBytes;
    } else {
      at = this.u16[writable + CELL_START_HALFWORD]! - cellBytes;
      this.u16[writable + CELL_START_HALFWORD] = at;
      this.u16[writable + GARBAGE_HALFWORD]! += oldBytes;
      this.u16[leafOffsetsHalfword(this.u16, this.base) + position] = at;
    }
    this.#writeCell(this.base + at, this.cellKeyLength - prefixLength, prefixLength);
    if ((this.cellFlags & CellFlag.Tombstone) !== 0) this.#noteTombstone(this.base + at, 1);
  }

  #openSlot(position: number, count: number, prefixLength: number, cellBytes: number, suffixLength: number): void {
    const { u16, u32, base } = this;
    const half = base >>> 1;
    const heads = (base + headsOffset(prefixLength)) >>> 2;
    const offsets = (heads + count) << 1;
    const moved = offsets + 2;
    // The offsets stand behind the heads: they move up first.
    for (let index = count - 1; index >= position; index--) u16[moved + index + 1] = u16[offsets + index]!;
    for (let index = position - 1; index >= 0; index--) u16[moved + index] = u16[offsets + index]!;
    for (let index = count - 1; index >= position; index--) u32[heads + index + 1] = u32[heads + index]!;
    const cell = u16[half + CELL_START_HALFWORD]! - cellBytes;
    u16[half + CELL_START_HALFWORD] = cell;
    u16[half + COUNT_HALFWORD] = count + 1;
    u16[moved + position] = cell;
    this.#writeCell(base + cell, suffixLength, prefixLength);
    if ((this.cellFlags & CellFlag.Tombstone) !== 0) this.#noteTombstone(base + cell, 1);
    u32[heads + position] = headOf(this.cellKey, this.cellKeyStart + prefixLength, suffixLength);
  }

  #writeCell(cell: number, suffixLength: number, prefixLength: number): void {
    const u8 = this.u8;
    u8[cell] = this.cellFlags;
    writeSeq(u8, cell + 1, this.cellSeq);
    let lengthsAt = cell + CELL_LENGTHS_OFFSET;
    if ((this.cellFlags & CellFlag.Expiry) !== 0) {
      writeSeq(u8, cell + CELL_EXPIRY_OFFSET, this.cellExpiresAt);
      lengthsAt += EXPIRY_BYTES;
    }
    let at = writeVarint(u8, lengthsAt, this.cellValueLength);
    at = writeVarint(u8, at, suffixLength);
    copyBytes(this.cellKey, this.cellKeyStart + prefixLength, suffixLength, u8, at);
    copyBytes(this.cellBody, this.cellBodyStart, this.cellBodyLength, u8, at + suffixLength);
  }

  #sharesPrefix(prefixLength: number): boolean {
    if (this.cellKeyLength < prefixLength) return false;
    const prefixAt = this.base + PAGE_HEADER_BYTES;
    for (let index = 0; index < prefixLength; index++) {
      if (this.u8[prefixAt + index] !== this.cellKey[this.cellKeyStart + index]) return false;
    }
    return true;
  }

  /** The cell to insert goes to a page through a run, and the pages' counts with it. */
  #noteNewTombstone(): void {
    if ((this.cellFlags & CellFlag.Tombstone) === 0 || this.pager !== undefined) return;
    this.tombstones++;
    this.tombstoneKeyBytes += this.cellKeyLength;
  }

  #addNewCell(run: LeafRun): void {
    run.addCell(
      this.cellFlags,
      this.cellSeq,
      this.cellExpiresAt,
      this.cellKey,
      this.cellKeyStart,
      this.cellKeyLength,
      this.cellValueLength,
      this.cellBody,
      this.cellBodyStart,
      this.cellBodyLength,
    );
  }

  // ---- leaf structure -----------------------------------------------------------------------------------------------------------

  /** The new cell does not fit its leaf as it is: rewrites it as one page, with a sibling, or as several. */
  #spillLeaf(position: number, drop: number): void {
    const count = this.leafCount();
    const leaf = this.unit[0]!;
    const run = this.leafRun;
    run.reset();
    this.sizer.decide(this.arena.unpublishedEpoch);
    this.#noteSpill();
    this.makeWritable(1);
    this.cellCount += 1 - drop;
    if (drop !== 0 && (this.u8[this.cellAt(position)]! & CellFlag.Tombstone) !== 0)
      this.#noteTombstone(this.cellAt(position), -1);
    this.#noteNewTombstone();
    const page = run.addPage(this.u8, this.base);
    run.addEntries(page, 0, position);
    this.#addNewCell(run);
    run.addEntries(page, position + drop, count);
    const total = run.count;
    const prefixLength = run.commonPrefix(0, total - 1);
    this.#classKept = this.#classOf(leaf);
    const pageClass = total <= this.entriesMax ? this.#leafClassFor(0, total, prefixLength) : -1;
    if (pageClass >= 0) {
      const used = this.#runBytes(0, total, prefixLength);
      const gained = (4096 << pageClass) - used;
      const samePrefix = prefixLength === this.u16[(this.base >>> 1) + PREFIX_LENGTH_HALFWORD];
      const worth = gained >= (4096 << pageClass) >>> COMPACTION_GAIN_SHIFT;
      if (worth || !samePrefix || pageClass !== this.#classOf(leaf) || total === 1) {
        this.#rewriteLeaf(total, prefixLength, pageClass);
        this.#lastInsertUnit = this.unit[0]!;
        this.#lastInsertAt = position;
        return;
      }
    }
    if (this.#spillAscending(position, drop, total)) return;
    if (this.#spillToSibling(position, drop, count)) return;
    // A page larger than pages are made now goes down by one class, or stays in its own: it makes two or three, not many.
    this.#classKept = this.#classOf(leaf) - 1;
    let parts = this.#partitionLeaves(total, 2, 2);
    if (parts < 0 && this.#cutOff(position, total)) parts = 2;
    if (parts < 0 && this.#classKept >= this.sizer.leafClass) {
      parts = this.#partitionLeaves(total, 3, 3);
      this.#classKept++;
      if (parts < 0) parts = this.#partitionLeaves(total, 2, 2);
    }
    if (parts < 0) parts = this.#partitionLeaves(total, 3, NO_LIMIT);
    this.events.pageSplits++;
    this.#releasePage(leaf, true);
    this.#writeLeaves(parts);
    this.#replaceChildren(1, 1);
  }

  #runBytes(from: number, to: number, prefixLength: number): number {
    let bytes = headsOffset(prefixLength);
    for (let index = from; index < to; index++) bytes += this.leafRun.cellBytes(index, prefixLength) + LEAF_SLOT_BYTES;
    return bytes;
  }

  /** The whole run becomes the path's leaf. */
  #rewriteLeaf(total: number, prefixLength: number, pageClass: number): void {
    const old = this.unit[0]!;
    if (this.arena.isUnpublished(old) && this.#classOf(old) === pageClass) {
      this.leafRun.write(0, total, prefixLength, this.u8, this.u16, this.u32, this.base);
      this.arena.tombstonesIn[old] = this.tombstones === 0 ? 0 : this.leafRun.tombstones(0, total);
      if (this.pager !== undefined) this.u16[(this.base >>> 1) + RESERVED_HALFWORD] = this.pager.number;
      return;
    }
    this.#releasePage(old, true);
    const unit = this.#allocatePage(pageClass, true);
    this.#writeLeaf(this.leafRun, 0, total, prefixLength, unit);
    this.#replacePage(0, unit);
  }

  /** Ascending inserts leave the old leaf as it is and start a new one. */
  #spillAscending(position: number, drop: number, total: number): boolean {
    if (drop !== 0 || position !== total - 1 || total < 2) return false;
    const ascending = this.#lastInsertUnit === this.unit[0] && this.#lastInsertAt === position - 1;
    if (!ascending && this.turnLevel(1) !== 0) return false;
    const run = this.leafRun;
    const prefixLength = Math.min(run.commonPrefix(total - 2, total - 1), run.keyLength(total - 1));
    const unit = this.#allocatePage(run.classFor(total - 1, total, prefixLength, this.sizer.leafClass, true), true);
    this.#writeLeaf(run, total - 1, total, prefixLength, unit);
    const children = this.#children;
    children.reset();
    children.add(this.unit[0]!, 0, Infinity);
    this.#addLeafChild(unit, total - 1);
    this.events.pageSplits++;
    this.#replaceChildren(1, 1);
    this.#lastInsertUnit = unit;
    this.#lastInsertAt = 0;
    return true;
  }

  /** Shares the entries with the emptier sibling under the same parent, if it has room. */
  #spillToSibling(position: number, drop: number, count: number): boolean {
    if (this.height < 2 || this.frugal) return false;
    const parent = this.unit[1]!;
    const childIndex = this.index[1]!;
    const left = childIndex > 0 ? this.#siblingOf(parent, childIndex - 1) : 0;
    const right = childIndex + 1 < this.#countOf(parent) ? this.#siblingOf(parent, childIndex + 1) : 0;
    const leftRoom = this.#siblingRoom(left);
    const rightRoom = this.#siblingRoom(right);
    if (leftRoom === 0 && rightRoom === 0) return false;
    const run = this.leafRun;
    const useLeft = leftRoom > rightRoom;
    const sibling = useLeft ? left : right;
    const siblingU8 = this.arena.u8[sibling >>> SEGMENT_UNIT_SHIFT]!;
    const siblingBase = (sibling & SEGMENT_UNIT_MASK) << UNIT_SHIFT;
    const siblingCount = this.#countOf(sibling);
    run.reset();
    if (useLeft) run.addEntries(run.addPage(siblingU8, siblingBase), 0, siblingCount);
    const page = run.addPage(this.u8, this.base);
    run.addEntries(page, 0, position);
    this.#addNewCell(run);
    run.addEntries(page, position + drop, count);
    if (!useLeft) run.addEntries(run.addPage(siblingU8, siblingBase), 0, siblingCount);
    this.#classKept = this.#classOf(sibling);
    const parts = this.#partitionLeaves(run.count, 2, 2);
    if (parts < 0) {
      run.reset();
      const own = run.addPage(this.u8, this.base);
      run.addEntries(own, 0, position);
      this.#addNewCell(run);
      run.addEntries(own, position + drop, count);
      return false;
    }
    this.events.shifts++;
    this.#releasePage(this.unit[0]!, true);
    this.#releasePage(sibling, true);
    this.#writeLeaves(parts);
    if (useLeft) this.index[1] = childIndex - 1;
    this.#replaceChildren(1, 2);
    return true;
  }

  /** Free bytes (or entries, as bytes) of a sibling worth shifting to; 0 if it is not. */
  #siblingRoom(unit: UnitId): number {
    if (unit === 0 || this.#classOf(unit) !== this.#classOf(this.unit[0]!)) return 0;
    const room = 1 - this.#fillOf(unit, LEAF_SLOT_BYTES);
    return room >= SHIFT_ROOM_MIN ? room : 0;
  }

  /** Share of the page that is used, by bytes or by order, whichever is more. */
  #fillOf(unit: UnitId, slotBytes: number): number {
    const segment = unit >>> SEGMENT_UNIT_SHIFT;
    const base = (unit & SEGMENT_UNIT_MASK) << UNIT_SHIFT;
    const u16 = this.arena.u16[segment]!;
    const half = base >>> 1;
    const filled = this.#usedBytes(unit, slotBytes) / (4096 << this.#classOf(unit));
    return Math.max(filled, this.orderLimited ? u16[half + COUNT_HALFWORD]! / this.entriesMax : 0);
  }

  #usedBytes(unit: UnitId, slotBytes: number): number {
    const u16 = this.arena.u16[unit >>> SEGMENT_UNIT_SHIFT]!;
    const half = ((unit & SEGMENT_UNIT_MASK) << UNIT_SHIFT) >>> 1;
    const cells = (4096 << this.#classOf(unit)) - u16[half + CELL_START_HALFWORD]! - u16[half + GARBAGE_HALFWORD]!;
    return headsOffset(u16[half + PREFIX_LENGTH_HALFWORD]!) + u16[half + COUNT_HALFWORD]! * slotBytes + cells;
  }

  /** Cuts the leaf run into at least `partsMin` pages of about equal bytes; ends in #cuts. -1 if more than `partsMax` are needed. */
  #partitionLeaves(total: number, partsMin: number, partsMax: number): number {
    const run = this.leafRun;
    const prefixLength = run.commonPrefix(0, total - 1);
    const weights = this.#reserveWeights(total);
    for (let index = 0; index < total; index++) weights[index] = run.cellBytes(index, prefixLength) + LEAF_SLOT_BYTES;
    for (let parts = partsMin; parts <= Math.min(partsMax, total); parts++) {
      if (this.#cut(total, parts, 1, true) && this.#leafPartsFit(parts)) return parts;
      if (this.orderLimited && this.#cut(total, parts, 1, false) && this.#leafPartsFit(parts)) return parts;
    }
    return -1;
  }

  #leafPartsFit(parts: number): boolean {
    const cuts = this.#cuts;
    for (let part = 0; part < parts; part++) {
      const from = cuts[part]!;
      const to = cuts[part + 1]!;
      if (to - from > this.entriesMax) return false;
      const prefixLength = this.#leafPrefix(from, to);
      if (this.#leafClassFor(from, to, prefixLength) < 0) return false;
    }
    return true;
  }

  /**
   * The class of a part: that for new pages if it fits, else up to that of the page it comes from. -1 if it fits neither.
   */
  #leafClassFor(from: number, to: number, prefixLength: number): number {
    const run = this.leafRun;
    const { leafClass } = this.sizer;
    const pageClass = run.classFor(from, to, prefixLength, leafClass, to - from === 1);
    if (pageClass >= 0 || this.#classKept <= leafClass) return pageClass;
    const grown = run.classFor(from, to, prefixLength, leafClass, true);
    return grown <= this.#classKept ? grown : -1;
  }

  /**
   * Cuts a new entry off from the others, if it stands at an end. A key that does not share the page's prefix can only stand there, and
   * beside it the others would no longer fit in any few pages: apart from it they fit as they did.
   */
  #cutOff(position: number, total: number): boolean {
    if (position !== 0 && position !== total - 1) return false;
    this.#cuts[0] = 0;
    this.#cuts[1] = position === 0 ? 1 : total - 1;
    this.#cuts[2] = total;
    return this.#leafPartsFit(2);
  }

  /** A page of one entry takes its prefix from its neighbour: its whole key would fit no other. */
  #leafPrefix(from: number, to: number): number {
    const run = this.leafRun;
    if (to - from > 1) return run.commonPrefix(from, to - 1);
    if (from > 0) return run.commonPrefix(from - 1, from);
    return to < run.count ? run.commonPrefix(from, to) : 0;
  }

  #reserveWeights(total: number): Float64Array {
    if (this.#weights.length < total) this.#weights = new Float64Array(total * 2);
    return this.#weights;
  }

  /** Cuts [0, total) into parts of about equal weight (or count), each of at least `entriesMin`. False if there are too few. */
  #cut(total: number, parts: number, entriesMin: number, byWeight: boolean): boolean {
    if (total < parts * entriesMin) return false;
    if (this.#cuts.length < parts + 1) this.#cuts = new Int32Array((parts + 1) * 2);
    const cuts = this.#cuts;
    const weights = this.#weights;
    let sum = 0;
    if (byWeight) for (let index = 0; index < total; index++) sum += weights[index]!;
    else sum = total;
    let before = 0;
    let at = 0;
    cuts[0] = 0;
    for (let part = 1; part < parts; part++) {
      const goal = (sum * part) / parts;
      const first = cuts[part - 1]! + entriesMin;
      const last = total - (parts - part) * entriesMin;
      while (at < last) {
        const weight = byWeight ? weights[at]! : 1;
        if (at >= first && before + weight / 2 > goal) break;
        before += weight;
        at++;
      }
      cuts[part] = at;
    }
    cuts[parts] = total;
    return true;
  }

  /** Writes the parts of the leaf run as new pages and lists them as children. */
  #writeLeaves(parts: number): void {
    this.#children.reset();
    const run = this.leafRun;
    const cuts = this.#cuts;
    for (let part = 0; part < parts; part++) {
      const from = cuts[part]!;
      const to = cuts[part + 1]!;
      const prefixLength = this.#leafPrefix(from, to);
      const unit = this.#allocatePage(this.#leafClassFor(from, to, prefixLength), true);
      this.#writeLeaf(run, from, to, prefixLength, unit);
      if (part === 0) this.#children.add(unit, 0, Infinity);
      else this.#addLeafChild(unit, from);
    }
  }

  /** Lists a leaf that starts with that entry of the run, with the shortest separator from the entry before. */
  #addLeafChild(unit: UnitId, first: number): void {
    const run = this.leafRun;
    const shared = run.commonPrefix(first - 1, first);
    const keyLength = run.keyLength(first);
    // Equal keys: the cut goes through the versions of one key, and the separator needs the seq.
    const cutsVersions = shared === keyLength;
    const length = cutsVersions ? keyLength : shared + 1;
    const at = this.#children.add(unit, length, cutsVersions ? run.seqOf(first) : Infinity);
    run.copyKey(first, length, this.#children.memory, at);
    if (length > this.extent.separatorBytesMax) this.extent.separatorBytesMax = length;
  }

  #writeLeaf(run: LeafRun, from: number, to: number, prefixLength: number, unit: UnitId): void {
    const segment = unit >>> SEGMENT_UNIT_SHIFT;
    const { u8, u16, u32 } = this.arena;
    run.write(
      from,
      to,
      prefixLength,
      u8[segment]!,
      u16[segment]!,
      u32[segment]!,
      (unit & SEGMENT_UNIT_MASK) << UNIT_SHIFT,
    );
    if (this.tombstones > 0) this.arena.tombstonesIn[unit] = run.tombstones(from, to);
    this.#nameFile(unit);
  }

  /** A page whose references are the page file's says which file that is. */
  #nameFile(unit: UnitId): void {
    if (this.pager === undefined) return;
    const half = ((unit & SEGMENT_UNIT_MASK) << UNIT_SHIFT) >>> 1;
    this.arena.u16[unit >>> SEGMENT_UNIT_SHIFT]![half + RESERVED_HALFWORD] = this.pager.number;
  }

  /** After removals from the path's leaf: an empty leaf goes away, an underfull one merges with a sibling. The path may be lost. */
  protected settleLeaf(): void {
    const leaf = this.unit[0]!;
    const count = this.leafCount();
    if (count === 0) {
      this.makeWritable(1);
      this.#releasePage(leaf, true);
      this.fingerValid = false;
      if (this.height === 1) {
        this.rootUnit = 0;
        this.height = 0;
        return;
      }
      this.#removeChild(1, this.index[1]!);
      this.#settleBranch(1);
      return;
    }
    const fill = this.#fillOf(leaf, LEAF_SLOT_BYTES);
    if (fill >= FILL_MIN || this.frugal) return;
    if (this.#classOf(leaf) > this.sizer.leafClass && this.#shrinkLeaf()) return;
    if (this.height < 2) return;
    const parent = this.unit[1]!;
    const childIndex = this.index[1]!;
    const left = childIndex > 0 ? this.#siblingOf(parent, childIndex - 1) : 0;
    const right = childIndex + 1 < this.#countOf(parent) ? this.#siblingOf(parent, childIndex + 1) : 0;
    const leftFill = left === 0 ? 2 : this.#fillOf(left, LEAF_SLOT_BYTES);
    const rightFill = right === 0 ? 2 : this.#fillOf(right, LEAF_SLOT_BYTES);
    const useLeft = leftFill < rightFill;
    const sibling = useLeft ? left : right;
    const siblingFill = useLeft ? leftFill : rightFill;
    if (sibling === 0) return;
    const sameClass = this.#classOf(sibling) === this.#classOf(leaf);
    if (sameClass && fill + siblingFill > FILL_MERGED_MAX && fill > FILL_BORROW) return;
    const run = this.leafRun;
    run.reset();
    this.#addLeaf(useLeft ? sibling : leaf);
    this.#addLeaf(useLeft ? leaf : sibling);
    const total = run.count;
    const prefixLength = run.commonPrefix(0, total - 1);
    // They may go together into a page as large as the larger of them.
    this.#classKept = Math.max(this.#classOf(leaf), this.#classOf(sibling));
    const pageClass = total <= this.entriesMax ? this.#leafClassFor(0, total, prefixLength) : -1;
    let parts = 1;
    if (pageClass >= 0 && this.#runBytes(0, total, prefixLength) <= FILL_MERGED_MAX * (4096 << pageClass)) {
      this.#cut(total, 1, 1, false);
    } else {
      if (fill > FILL_BORROW) return;
      parts = this.#partitionLeaves(total, 2, 2);
      if (parts < 0) return;
    }
    if (parts === 1) this.events.pageMerges++;
    else this.events.borrows++;
    this.makeWritable(1);
    this.#releasePage(leaf, true);
    this.#releasePage(sibling, true);
    this.#writeLeaves(parts);
    if (useLeft) this.index[1] = childIndex - 1;
    this.#replaceChildren(1, 2);
  }

  /** Writes the leaf into a smaller page, if one holds it. */
  #shrinkLeaf(): boolean {
    this.sizer.decide(this.arena.unpublishedEpoch);
    const run = this.leafRun;
    run.reset();
    this.#addLeaf(this.unit[0]!);
    const total = run.count;
    const prefixLength = total === 1 ? 0 : run.commonPrefix(0, total - 1);
    const pageClass = run.classFor(0, total, prefixLength, this.sizer.leafClass, true);
    if (pageClass < 0 || pageClass >= this.#classOf(this.unit[0]!)) return false;
    this.makeWritable(1);
    this.#rewriteLeaf(total, prefixLength, pageClass);
    return true;
  }

  #addLeaf(unit: UnitId): void {
    const page = this.leafRun.addPage(
      this.arena.u8[unit >>> SEGMENT_UNIT_SHIFT]!,
      (unit & SEGMENT_UNIT_MASK) << UNIT_SHIFT,
    );
    this.leafRun.addEntries(page, 0, this.#countOf(unit));
  }

  // ---- branch structure ---------------------------------------------------------------------------------------------------------

  /**
   * Puts the listed children in place of `old` children of the path's branch at that level, from its path index on. The branch is
   * writable. Level = height: they replace the root.
   */
  #replaceChildren(level: number, old: number): void {
    const children = this.#children;
    const added = children.count;
    this.fingerValid = false;
    if (level === this.height) {
      this.#growRoot();
      return;
    }
    const branch = this.unit[level]!;
    const from = this.index[level]!;
    this.#noteSeparators(branch);
    if (!this.#replaceInPage(branch, from, old)) {
      const count = this.#countOf(branch);
      const run = this.branchRun;
      run.reset();
      const segment = branch >>> SEGMENT_UNIT_SHIFT;
      const page = run.addPage(this.arena.u8[segment]!, (branch & SEGMENT_UNIT_MASK) << UNIT_SHIFT);
      run.addEntries(page, 0, from + 1);
      run.setChild(from, children.units[0]!);
      run.addChildren(children, 1, added);
      run.addEntries(page, from + old, count);
      const atEnd = from + old === count && this.#isRightmostFrom(level + 1);
      this.#writeBranch(level, atEnd);
    }
    if (added < old) this.#settleBranch(level);
  }

  #noteSeparators(branch: UnitId): void {
    if (!this.sizer.isAdaptive) return;
    const half = ((branch & SEGMENT_UNIT_MASK) << UNIT_SHIFT) >>> 1;
    const prefixLength = this.arena.u16[branch >>> SEGMENT_UNIT_SHIFT]![half + PREFIX_LENGTH_HALFWORD]!;
    const children = this.#children;
    for (let index = 1; index < children.count; index++) {
      const suffixLength = Math.max(0, children.separatorLength[index]! - prefixLength);
      this.sizer.noteSeparator(branchCellBytes(suffixLength, children.separatorSeq[index]!));
    }
  }

  #isRightmostFrom(level: number): boolean {
    for (let at = level; at < this.height; at++) {
      if (this.index[at]! + 1 < this.#countOf(this.unit[at]!)) return false;
    }
    return true;
  }

  /** The change inside the page, if everything fits as the page is. */
  #replaceInPage(branch: UnitId, from: number, old: number): boolean {
    const children = this.#children;
    const added = children.count;
    const segment = branch >>> SEGMENT_UNIT_SHIFT;
    const u8 = this.arena.u8[segment]!;
    const u16 = this.arena.u16[segment]!;
    const u32 = this.arena.u32[segment]!;
    const base = (branch & SEGMENT_UNIT_MASK) << UNIT_SHIFT;
    const half = base >>> 1;
    const count = u16[half + COUNT_HALFWORD]!;
    const prefixLength = u16[half + PREFIX_LENGTH_HALFWORD]!;
    if (added > 1) {
      if (count - old + added > this.entriesMax) return false;
      const pageClass = u8[base + CLASS_BYTE]! & 3;
      let needed = 0;
      for (let index = 1; index < added; index++) {
        const length = children.separatorLength[index]!;
        if (length < prefixLength) return false;
        for (let byte = 0; byte < prefixLength; byte++) {
          if (u8[base + PAGE_HEADER_BYTES + byte] !== children.memory[children.separatorAt[index]! + byte])
            return false;
        }
        const bytes = branchCellBytes(length - prefixLength, children.separatorSeq[index]!);
        if (4 * bytes > 4096 << pageClass && pageClass < PAGE_CLASS_MAX) return false;
        needed += bytes + BRANCH_SLOT_BYTES;
      }
      const gap = u16[half + CELL_START_HALFWORD]! - headsOffset(prefixLength) - BRANCH_SLOT_BYTES * count;
      if (gap + BRANCH_SLOT_BYTES * (old - 1) < needed) return false;
    }
    for (let index = 1; index < old; index++) removeBranchEntry(u8, u16, u32, base, from + 1);
    u32[childrenWord(u16, base) + from] = children.units[0]!;
    for (let index = 1; index < added; index++) {
      insertBranchEntry(
        u8,
        u16,
        u32,
        base,
        from + index,
        children.units[index]!,
        children.memory,
        children.separatorAt[index]!,
        children.separatorLength[index]!,
        children.separatorSeq[index]!,
      );
    }
    return true;
  }

  /** The whole branch run becomes the path's branch at that level, or several that the level above takes in. */
  #writeBranch(level: number, atEnd: boolean): void {
    const run = this.branchRun;
    const total = run.count;
    const old = this.unit[level]!;
    this.#classKept = this.#classOf(old);
    const pageClass = total <= this.entriesMax ? this.#branchClassFor(0, total) : -1;
    if (pageClass >= 0) {
      if (this.#classOf(old) === pageClass) {
        this.#writeBranchPage(0, total, level, old);
        return;
      }
      this.#releasePage(old, false);
      const unit = this.#allocatePage(pageClass, false);
      this.#writeBranchPage(0, total, level, unit);
      this.#replacePage(level, unit);
      return;
    }
    this.#classKept = this.#classOf(old);
    const parts = this.#partitionBranches(total, atEnd);
    this.events.pageSplits++;
    this.#releasePage(old, false);
    this.#writeBranches(parts, level);
    this.#replaceChildren(level + 1, 1);
  }

  #partitionBranches(total: number, atEnd: boolean): number {
    // Ascending inserts: the left page stays full.
    if (atEnd && total >= 4) {
      this.#cuts[0] = 0;
      this.#cuts[1] = total - 2;
      this.#cuts[2] = total;
      if (this.#branchPartsFit(2)) return 2;
    }
    const run = this.branchRun;
    const prefixLength = run.prefixFor(0, total);
    const weights = this.#reserveWeights(total);
    weights[0] = BRANCH_SLOT_BYTES;
    for (let index = 1; index < total; index++) weights[index] = run.cellBytes(index, prefixLength) + BRANCH_SLOT_BYTES;
    for (let parts = 2; parts <= total >>> 1; parts++) {
      if (this.#cut(total, parts, 2, true) && this.#branchPartsFit(parts)) return parts;
      if (parts === 2 && total >= 4 && (this.#cutBranchAt(2, total) || this.#cutBranchAt(total - 2, total))) return 2;
      if (this.orderLimited && this.#cut(total, parts, 2, false) && this.#branchPartsFit(parts)) return parts;
    }
    return -1;
  }

  /** In two: for a new separator that does not share the prefix of the others, which then stands at an end (see #cutOff). */
  #cutBranchAt(at: number, total: number): boolean {
    this.#cuts[0] = 0;
    this.#cuts[1] = at;
    this.#cuts[2] = total;
    return this.#branchPartsFit(2);
  }

  /** As #leafClassFor. */
  #branchClassFor(from: number, to: number): number {
    const run = this.branchRun;
    const { branchClass } = this.sizer;
    const prefixLength = run.prefixFor(from, to);
    const pageClass = run.classFor(from, to, prefixLength, branchClass, to - from <= 3);
    if (pageClass >= 0 || this.#classKept <= branchClass) return pageClass;
    const grown = run.classFor(from, to, prefixLength, branchClass, true);
    return grown <= this.#classKept ? grown : -1;
  }

  #branchPartsFit(parts: number): boolean {
    const cuts = this.#cuts;
    for (let part = 0; part < parts; part++) {
      const from = cuts[part]!;
      const to = cuts[part + 1]!;
      if (to - from > this.entriesMax) return false;
      if (this.#branchClassFor(from, to) < 0) return false;
    }
    return true;
  }

  /** Writes the parts of the branch run as new pages and lists them as children of the level above. */
  #writeBranches(parts: number, level: number): void {
    const run = this.branchRun;
    const children = this.#children;
    const cuts = this.#cuts;
    children.reset();
    for (let part = 0; part < parts; part++) {
      const from = cuts[part]!;
      const to = cuts[part + 1]!;
      const unit = this.#allocatePage(this.#branchClassFor(from, to), false);
      this.#writeBranchPage(from, to, level, unit);
      if (part === 0) {
        children.add(unit, 0, Infinity);
      } else {
        const length = run.keyLength(from);
        const at = children.add(unit, length, run.seqOf(from));
        run.copyKey(from, length, children.memory, at);
      }
    }
  }

  #writeBranchPage(from: number, to: number, level: number, unit: UnitId): void {
    const segment = unit >>> SEGMENT_UNIT_SHIFT;
    const { u8, u16, u32 } = this.arena;
    const base = (unit & SEGMENT_UNIT_MASK) << UNIT_SHIFT;
    const prefixLength = this.branchRun.prefixFor(from, to);
    this.branchRun.write(from, to, prefixLength, level, u8[segment]!, u16[segment]!, u32[segment]!, base);
    this.#nameFile(unit);
  }

  /** The listed children are all there is on the top level: builds branches above them until one is left. */
  #growRoot(): void {
    const children = this.#children;
    while (children.count > 1) {
      const run = this.branchRun;
      run.reset();
      run.addChildren(children, 0, children.count);
      const total = run.count;
      this.#classKept = 0;
      const fits = total <= this.entriesMax && this.#branchClassFor(0, total) >= 0;
      let parts = 1;
      if (fits) this.#cut(total, 1, 1, false);
      else parts = this.#partitionBranches(total, false);
      this.#writeBranches(parts, this.height);
      this.height++;
    }
    this.rootUnit = children.units[0]!;
  }

  /** Removes a child and its separator from the path's branch, which is writable. */
  #removeChild(level: number, index: number): void {
    const unit = this.unit[level]!;
    const segment = unit >>> SEGMENT_UNIT_SHIFT;
    const { u8, u16, u32 } = this.arena;
    removeBranchEntry(u8[segment]!, u16[segment]!, u32[segment]!, (unit & SEGMENT_UNIT_MASK) << UNIT_SHIFT, index);
  }

  /** After removals from the path's branch, which is writable: drops a root with one child, merges an underfull branch. */
  #settleBranch(level: number): void {
    const branch = this.unit[level]!;
    const count = this.#countOf(branch);
    if (level === this.height - 1) {
      // A leaf that is not in memory cannot be the root; the branch stays above it.
      if (count > 1 || (count === 1 && this.#childOf(branch, 0) >= COLD)) return;
      this.rootUnit = count === 0 ? 0 : this.#childOf(branch, 0);
      this.height = count === 0 ? 0 : level;
      this.#releasePage(branch, false);
      this.#dropThinRoot();
      return;
    }
    if (count === 0) {
      this.#releasePage(branch, false);
      this.#removeChild(level + 1, this.index[level + 1]!);
      this.#settleBranch(level + 1);
      return;
    }
    const fill = this.#fillOf(branch, BRANCH_SLOT_BYTES);
    if (this.frugal || (count > 1 && fill >= FILL_MIN)) return;
    const parent = this.unit[level + 1]!;
    const childIndex = this.index[level + 1]!;
    if (this.#countOf(parent) < 2) return;
    const left = childIndex > 0 ? this.#childOf(parent, childIndex - 1) : 0;
    const right = childIndex + 1 < this.#countOf(parent) ? this.#childOf(parent, childIndex + 1) : 0;
    const leftFill = left === 0 ? 2 : this.#fillOf(left, BRANCH_SLOT_BYTES);
    const rightFill = right === 0 ? 2 : this.#fillOf(right, BRANCH_SLOT_BYTES);
    const useLeft = leftFill < rightFill;
    const sibling = useLeft ? left : right;
    if (count > 1 && fill > FILL_BORROW && fill + Math.min(leftFill, rightFill) > FILL_MERGED_MAX) return;
    const run = this.branchRun;
    run.reset();
    const rightIndex = useLeft ? childIndex : childIndex + 1;
    const parentPage = this.#addBranch(parent);
    const leftPage = this.#addBranch(useLeft ? sibling : branch);
    const rightPage = this.#addBranch(useLeft ? branch : sibling);
    run.addEntries(leftPage, 0, this.#countOf(useLeft ? sibling : branch));
    run.addFirstOf(rightPage, parentPage, rightIndex);
    run.addEntries(rightPage, 1, this.#countOf(useLeft ? branch : sibling));
    const total = run.count;
    let parts = 1;
    this.#classKept = Math.max(this.#classOf(branch), this.#classOf(sibling));
    if (total <= this.entriesMax && this.#branchClassFor(0, total) >= 0) {
      this.#cut(total, 1, 1, false);
    } else {
      if (count > 1 && fill > FILL_BORROW) return;
      parts = this.#partitionBranches(total, false);
      if (parts !== 2) return;
    }
    if (parts === 1) this.events.pageMerges++;
    else this.events.borrows++;
    this.#releasePage(branch, false);
    this.#releasePage(sibling, false);
    this.#writeBranches(parts, level);
    if (useLeft) this.index[level + 1] = childIndex - 1;
    this.#replaceChildren(level + 1, 2);
  }

  #addBranch(unit: UnitId): number {
    return this.branchRun.addPage(
      this.arena.u8[unit >>> SEGMENT_UNIT_SHIFT]!,
      (unit & SEGMENT_UNIT_MASK) << UNIT_SHIFT,
    );
  }

  // ---- packing ------------------------------------------------------------------------------------------------------------------

  #noteSpill(): void {
    const epoch = this.arena.unpublishedEpoch;
    if (epoch !== this.#spillEpoch) {
      this.#spillEpoch = epoch;
      this.#spills = 0;
    }
    this.#spills++;
  }

  /** Each packing looks at all leaves: enough of them must be new since the last one. */
  #isWorthPacking(): boolean {
    return this.height > 1 && this.#spills >= PACK_SPILLS_MIN && this.#spillEpoch === this.arena.unpublishedEpoch;
  }

  /**
   * Merges neighbours among the pages that are not published yet, leaves and the branches above them, wherever two fit one page. What is merged away
   * is free at once. Afterwards the bound of admission.ts holds. The path is lost.
   */
  #packFresh(): void {
    this.#spills = 0;
    const { arena } = this;
    const reserveBefore = arena.reserveMode;
    // It takes a page or two before it gives many.
    arena.reserveMode = true;
    try {
      for (let level = 0; level < 2; level++) {
        this.descend(NO_KEY, 0, 0, Infinity);
        do {
          while (this.height > level + 1 && this.#mergeWithRight(level));
        } while (this.height > level + 1 && this.#moveRight(level));
      }
    } finally {
      arena.reserveMode = reserveBefore;
      this.fingerValid = false;
    }
  }

  /** Merges the path's page with the one right of it if both are fresh, under one branch, and fit one page. The path then leads to the result. */
  #mergeWithRight(level: number): boolean {
    const parent = this.unit[level + 1]!;
    const childIndex = this.index[level + 1]!;
    if (childIndex + 1 >= this.#countOf(parent)) return false;
    const left = this.unit[level]!;
    const right = this.#childOf(parent, childIndex + 1);
    if (right >= COLD || !this.arena.isUnpublished(left) || !this.arena.isUnpublished(right)) return false;
    this.#classKept = Math.max(this.#classOf(left), this.#classOf(right));
    if (!this.#gatherPair(level, left, right, parent, childIndex + 1)) return false;
    const { keyLength, seq } = this.#firstKey();
    this.frugal = this.arena.freeUnits(true) < (2 * this.height + 2) << PAGE_CLASS_MAX;
    this.events.pageMerges++;
    this.#releasePage(left, level === 0);
    this.#releasePage(right, level === 0);
    if (level === 0) this.#writeLeaves(1);
    else this.#writeBranches(1, level);
    this.#replaceChildren(level + 1, 2);
    this.descend(this.#packKey, 0, keyLength, seq);
    return true;
  }

  /** The entries of two neighbours as a run that is cut into one part; false if they do not fit one page. */
  #gatherPair(level: number, left: UnitId, right: UnitId, parent: UnitId, rightIndex: number): boolean {
    const slotBytes = level === 0 ? LEAF_SLOT_BYTES : BRANCH_SLOT_BYTES;
    if (
      this.#classOf(left) === this.#classOf(right) &&
      this.#fillOf(left, slotBytes) + this.#fillOf(right, slotBytes) > PAIR_FILL_MAX
    )
      return false;
    if (level === 0) {
      this.leafRun.reset();
      this.#addLeaf(left);
      this.#addLeaf(right);
      this.#cut(this.leafRun.count, 1, 1, false);
      return this.#leafPartsFit(1);
    }
    const run = this.branchRun;
    run.reset();
    const parentPage = this.#addBranch(parent);
    const leftPage = this.#addBranch(left);
    const rightPage = this.#addBranch(right);
    run.addEntries(leftPage, 0, this.#countOf(left));
    run.addFirstOf(rightPage, parentPage, rightIndex);
    run.addEntries(rightPage, 1, this.#countOf(right));
    this.#cut(run.count, 1, 1, false);
    return this.#branchPartsFit(1);
  }

  /** Copies key and number of the first entry of the path's leaf to #packKey. */
  #firstKey(): { keyLength: number; seq: number } {
    const { u8, base } = this;
    const prefixLength = this.u16[(base >>> 1) + PREFIX_LENGTH_HALFWORD]!;
    const cell = this.cellAt(0);
    const suffixLengthAt = skipVarint(u8, cellLengthsAt(u8, cell));
    const suffixLength = readVarint(u8, suffixLengthAt);
    copyBytes(u8, base + PAGE_HEADER_BYTES, prefixLength, this.#packKey, 0);
    copyBytes(u8, skipVarint(u8, suffixLengthAt), suffixLength, this.#packKey, prefixLength);
    return { keyLength: prefixLength + suffixLength, seq: readSeq(u8, cell + 1) };
  }

  /** Moves the path to the next page of the level and to the first leaf below it. Leaves that are not in memory are passed over. */
  #moveRight(level: number): boolean {
    for (;;) {
      let turn = level + 1;
      while (turn < this.height && this.index[turn]! + 1 >= this.#countOf(this.unit[turn]!)) turn++;
      if (turn === this.height) return false;
      this.index[turn]!++;
      let isCold = false;
      for (let below = turn - 1; below >= 0 && !isCold; below--) {
        const child = this.#childOf(this.unit[below + 1]!, this.index[below + 1]!);
        isCold = child >= COLD;
        this.unit[below] = child;
        this.index[below] = 0;
      }
      if (isCold) continue;
      this.loadLeaf();
      return true;
    }
  }

  /** A branch with one child that could not merge may have become the root. */
  #dropThinRoot(): void {
    while (this.height > 1 && this.#countOf(this.rootUnit) === 1) {
      const root = this.rootUnit;
      const child = this.#childOf(root, 0);
      if (child >= COLD) return;
      this.rootUnit = child;
      this.height--;
      this.#releasePage(root, false);
    }
  }
}
