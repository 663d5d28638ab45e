/**
 * The tree's pages: made, copied before their first change, given back, counted by class.
 *
 * A page born since the last publication is changed in place; any other is copied first, and the pages above it. So a fresh page
 * has only fresh ancestors. One exception: an entry of a published leaf may be exchanged by one store, see LeafCells.replacePublished().
 *
 * Threads: the shard thread only.
 */
import type { ArenaWriter, UnitId } from '../../../shared/memory/arena.js';
import {
  PAGE_BIRTH_HIGH_HALFWORD,
  PAGE_BIRTH_LOW_WORD,
  SEGMENT_UNIT_MASK,
  SEGMENT_UNIT_SHIFT,
  UNIT_SHIFT,
} from '../../../shared/memory/arena.js';
import { newPageMix } from '../page-mix.js';
import type { PageSizer } from '../page-sizer.js';
import {
  BRANCH_SLOT_BYTES,
  CELL_START_HALFWORD,
  CLASS_BYTE,
  COUNT_HALFWORD,
  GARBAGE_HALFWORD,
  LEAF_SLOT_BYTES,
  LEVEL_BYTE,
  NEXT_WORD,
  PAGE_CLASS_MAX,
  PAGE_FLAGS_BYTE,
  PREFIX_LENGTH_HALFWORD,
  RESERVED_HALFWORD,
  UNITS_OF_CLASS,
  headsOffset,
} from '../page.js';
import { ENTRIES_UNLIMITED } from './parts.js';
import { TreePath } from './tree-path.js';

/** A page below this fill looks for a sibling to merge with; below half of it, entries are moved over from a full sibling. */
export const FILL_MIN = 0.4;
export const FILL_BORROW = 0.2;
/** A merged page keeps some room, so that it does not split at once. */
export const FILL_MERGED_MAX = 0.9;
const GAP_BYTES_SKIPPED = 256;

export abstract class TreePages extends TreePath {
  /** Of a branch or leaf. */
  protected readonly entriesMax: number;
  protected readonly orderLimited: boolean;
  /** Of what is written anew. */
  protected readonly sizer: PageSizer;

  protected leafPages = 0;
  protected branchPages = 0;
  protected treeUnits = 0;
  /** leafPages and branchPages by class. */
  protected readonly mix = newPageMix();

  /** Where the last insert went: an ascending run of inserts is recognised by it. Follows the page when that is copied. */
  protected lastInsertUnit = 0;
  protected lastInsertAt = -2;
  /** Set while memory is short: no shifting or merging, which need pages of siblings. */
  protected frugal = false;

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

  /** order 0: as many entries as fit a page. */
  constructor(arena: ArenaWriter, order: number, sizer: PageSizer) {
    super(arena);
    this.orderLimited = order !== 0;
    this.entriesMax = order === 0 ? ENTRIES_UNLIMITED : order;
    this.sizer = sizer;
  }

  /** Of the pages that are there and of those made now, where no cell asks for more. */
  protected largestClass(): number {
    const { leaves, branches } = this.mix;
    let pageClass = Math.max(this.sizer.leafClass, this.sizer.branchClass);
    for (let larger = pageClass + 1; larger <= PAGE_CLASS_MAX; larger++)
      if (leaves[larger]! + branches[larger]! > 0) pageClass = larger;
    return pageClass;
  }

  protected classOf(unit: UnitId): number {
    return this.arena.u8[unit >>> SEGMENT_UNIT_SHIFT]![((unit & SEGMENT_UNIT_MASK) << UNIT_SHIFT) + CLASS_BYTE]! & 3;
  }

  /** Share of the page that is used, by bytes or by order, whichever is more. */
  protected fillOf(unit: UnitId, slotBytes: number): number {
    const segment = unit >>> SEGMENT_UNIT_SHIFT;
    const base = (unit & SEGMENT_UNIT_MASK) << UNIT_SHIFT;
    const u16 = this.arena.u16[segment]!;
    const half = base >>> 1;
    const filled = this.usedBytes(unit, slotBytes) / (4096 << this.classOf(unit));
    return Math.max(filled, this.orderLimited ? u16[half + COUNT_HALFWORD]! / this.entriesMax : 0);
  }

  protected usedBytes(unit: UnitId, slotBytes: number): number {
    const u16 = this.arena.u16[unit >>> SEGMENT_UNIT_SHIFT]!;
    const half = ((unit & SEGMENT_UNIT_MASK) << UNIT_SHIFT) >>> 1;
    const cells = (4096 << this.classOf(unit)) - u16[half + CELL_START_HALFWORD]! - u16[half + GARBAGE_HALFWORD]!;
    return headsOffset(u16[half + PREFIX_LENGTH_HALFWORD]!) + u16[half + COUNT_HALFWORD]! * slotBytes + cells;
  }

  /** On which side of the path's page at that level its emptier sibling stands, -1 or 1; 0 if it has none in memory. */
  protected emptierSibling(level: number, slotBytes: number): -1 | 0 | 1 {
    const left = this.siblingOf(level, -1);
    const right = this.siblingOf(level, 1);
    if (right === 0) return left === 0 ? 0 : -1;
    return left !== 0 && this.fillOf(left, slotBytes) < this.fillOf(right, slotBytes) ? -1 : 1;
  }

  protected allocatePage(pageClass: number, isLeaf: boolean): UnitId {
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

  protected releasePage(unit: UnitId, isLeaf: boolean): void {
    const pageClass = this.classOf(unit);
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
      const unit = this.allocateLike(old);
      this.#copyPage(old, unit);
      this.putCopy(at, unit);
    }
  }

  #copyPage(from: UnitId, to: UnitId): void {
    const arena = this.arena;
    const bytes = 4096 << this.classOf(from);
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
  }

  /** A page of the same class, for a copy. */
  protected allocateLike(unit: UnitId): UnitId {
    return this.arena.allocate(UNITS_OF_CLASS[this.classOf(unit)]!);
  }

  /** Puts a copy of the path's page at that level, as it was or packed, in its place. */
  protected putCopy(level: number, unit: UnitId): void {
    const { arena } = this;
    const old = this.unit[level]!;
    const segment = unit >>> SEGMENT_UNIT_SHIFT;
    const base = (unit & SEGMENT_UNIT_MASK) << UNIT_SHIFT;
    const u32 = arena.u32[segment]!;
    u32[(base >>> 2) + PAGE_BIRTH_LOW_WORD] = arena.unpublishedEpochLow;
    arena.u16[segment]![(base >>> 1) + PAGE_BIRTH_HIGH_HALFWORD] = arena.unpublishedEpochHigh;
    u32[(base >>> 2) + NEXT_WORD] = 0;
    arena.u8[segment]![base + PAGE_FLAGS_BYTE] = 0;
    arena.tombstonesIn[unit] = arena.tombstonesIn[old]!;
    this.events.pagesCopied++;
    this.pager?.superseded(old);
    arena.release(old, this.pager?.isOpen !== true);
    if (this.lastInsertUnit === old) this.lastInsertUnit = unit;
    this.replacePage(level, unit);
  }

  /** Puts a page in place of the path's page at that level, without other change of structure. */
  protected replacePage(level: number, unit: UnitId): void {
    this.unit[level] = unit;
    if (level === this.height - 1) this.rootUnit = unit;
    else this.setChildOf(this.unit[level + 1]!, this.index[level + 1]!, unit);
    if (level === 0) this.loadLeaf();
  }

  /** A page whose references are the page file's says which file that is. */
  protected nameFile(unit: UnitId): void {
    if (this.pager === undefined) return;
    const half = ((unit & SEGMENT_UNIT_MASK) << UNIT_SHIFT) >>> 1;
    this.arena.u16[unit >>> SEGMENT_UNIT_SHIFT]![half + RESERVED_HALFWORD] = this.pager.number;
  }
}
