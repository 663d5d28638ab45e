/**
 * Inserts and removals in the path's leaf, and what they do to the leaves. Pages that overflow or underflow go through a run (leaf-run.ts)
 * into new pages: one page again (compaction, another prefix or class), two shared with a sibling that has room, or a split. Ascending
 * inserts leave full pages.
 *
 * Invariants: every leaf but a root leaf has an entry. Nothing changes before TreeRoom.ensureRoom() has found memory for the worst case.
 * Threads: the shard thread only.
 */
import type { ArenaWriter, UnitId } from '../../../shared/memory/arena.js';
import { SEGMENT_UNIT_MASK, SEGMENT_UNIT_SHIFT, UNIT_SHIFT } from '../../../shared/memory/arena.js';
import type { Extent } from '../admission.js';
import { LeafRun } from '../leaf-run.js';
import {
  CLASS_BYTE,
  CellFlag,
  GARBAGE_HALFWORD,
  LEAF_SLOT_BYTES,
  PAGE_CLASS_MAX,
  PREFIX_LENGTH_HALFWORD,
} from '../page.js';
import type { PageSizer } from '../page-sizer.js';
import { LeafCells } from './leaf-cells.js';
import { ENTRIES_UNLIMITED, LeafParts } from './parts.js';
import { FILL_BORROW, FILL_MERGED_MAX, FILL_MIN } from './tree-pages.js';

/**
 * A sibling takes entries over if this share of it is free. Measured on random inserts of 57 bytes: 0.4 saves a twelfth of the memory against 0.5 and
 * costs a tenth of the speed, 0.125 saves a tenth more and makes inserts half as slow again: two pages are rewritten for a few free slots. Pages
 * that a split has just made are half full and stay apart.
 */
const SHIFT_ROOM_MIN = 0.5;
/** A compaction that leaves less room than this share of the page would come again with the next insert. */
const COMPACTION_GAIN_SHIFT = 5;
/** Overwrites in place that packing a leaf must make room for. */
const OVERWRITE_ROOM_CELLS = 3;
/** A leaf that packing leaves less free than this share of it loses its tombstones, too. */
const PACKED_ROOM_SHIFT = 3;

export abstract class TreeLeaves extends LeafCells {
  /** What has been put and cut; of a tree that was there before, once it was measured. */
  protected readonly extent: Extent = { cellBytesMax: 0, separatorBytesMax: 0 };
  /** Leaves that overflowed since the last publication or packing, and the epoch they are counted in. */
  protected spills = 0;
  protected spillEpoch = 0;

  protected readonly leafRun = new LeafRun();
  protected readonly leafParts: LeafParts;

  constructor(arena: ArenaWriter, order: number, sizer: PageSizer) {
    super(arena, order, sizer);
    this.leafParts = new LeafParts(this.leafRun, sizer, this.entriesMax);
  }

  /** Makes the first root leaf out of the cell. */
  protected plantRoot(): void {
    const run = this.leafRun;
    run.reset();
    this.addNewCell(run);
    this.sizer.noteCell(run.cellBytes(0, 0));
    this.sizer.decide(this.arena.unpublishedEpoch);
    const unit = this.allocatePage(run.classFor(0, 1, 0, this.sizer.leafClass, true), true);
    this.#writeLeaf(0, 1, 0, unit);
    this.rootUnit = unit;
    this.height = 1;
    this.cellCount++;
    this.unit[0] = unit;
    this.index[0] = 0;
    this.fingerValid = true;
    this.lastInsertUnit = unit;
    this.lastInsertAt = 0;
    this.loadLeaf();
  }

  /** Inserts the cell at the position of the path's leaf; with `replace`, in place of the cell there. The path may be lost. */
  protected insertCell(position: number, replace: boolean): void {
    if (!replace && !this.sharesPrefix()) {
      this.#spillLeaf(position, 0);
      return;
    }
    const cellBytes = this.newCellBytes();
    this.sizer.noteCell(cellBytes);
    const pageClass = this.u8[this.base + CLASS_BYTE]! & 3;
    if (4 * cellBytes > 4096 << pageClass && pageClass < PAGE_CLASS_MAX) {
      this.#spillLeaf(position, replace ? 1 : 0);
      return;
    }
    if (replace) {
      this.#takePlace(position, cellBytes);
      return;
    }
    if (cellBytes + LEAF_SLOT_BYTES > this.gapBytes() || this.leafCount() >= this.entriesMax) {
      if (this.canDrop(position)) this.insertCell(this.compactLeaf(position, true), false);
      else this.#spillLeaf(position, 0);
      return;
    }
    if (this.arena.isUnpublished(this.unit[0]!)) this.addCell(position, cellBytes);
    else this.addCellToCopy(position, cellBytes);
    this.lastInsertUnit = this.unit[0]!;
    this.lastInsertAt = position;
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
    const left = this.usedBytes(leaf, LEAF_SLOT_BYTES) - this.leafCellBytes(old);
    if (left < FILL_MIN * (4096 << this.classOf(leaf))) return false;
    this.#takePlace(position, this.newCellBytes());
    this.events.burials++;
    return true;
  }

  /** The cell to insert in place of the one at the position, which nobody needs. The path may be lost. */
  #takePlace(position: number, cellBytes: number): void {
    const old = this.cellAt(position) - this.base;
    const oldBytes = this.leafCellBytes(this.base + old);
    const gap = this.gapBytes();
    if (this.changesInPlace(old, oldBytes, cellBytes)) {
      if (this.replacePublished(position, old, oldBytes, cellBytes, gap)) {
        this.events.overwritesInPlace++;
        return;
      }
      // The copy that is due anyway leaves room for the next overwrites.
      const garbage = this.u16[(this.base >>> 1) + GARBAGE_HALFWORD]!;
      const drops = garbage < (4096 << this.classOf(this.unit[0]!)) >>> PACKED_ROOM_SHIFT && this.canDrop(position);
      if (drops || garbage >= OVERWRITE_ROOM_CELLS * cellBytes) {
        this.#takePlace(this.compactLeaf(position, drops), cellBytes);
        return;
      }
    }
    if (cellBytes > oldBytes && cellBytes > gap) {
      if (this.canDrop(position)) this.#takePlace(this.compactLeaf(position, true), cellBytes);
      else this.#spillLeaf(position, 1);
      return;
    }
    this.makeWritable(0);
    this.replaceWritable(position, oldBytes, cellBytes);
  }

  /** The new cell does not fit its leaf as it is: rewrites it as one page, with a sibling, or as several. `drop` 1: without the cell at the position. */
  #spillLeaf(position: number, drop: 0 | 1): void {
    const leaf = this.unit[0]!;
    this.sizer.decide(this.arena.unpublishedEpoch);
    this.#noteSpill();
    this.makeWritable(1);
    this.cellCount += 1 - drop;
    if (drop !== 0 && (this.u8[this.cellAt(position)]! & CellFlag.Tombstone) !== 0)
      this.noteTombstone(this.cellAt(position), -1);
    this.noteNewTombstone();
    this.leafRun.reset();
    this.#addLeafWithCell(position, drop);
    if (this.#spillCompacted(position)) return;
    if (drop === 0 && this.#spillAscending(position)) return;
    if (this.#spillToSibling(position, drop)) return;
    const parts = this.#planSplit(position);
    this.events.pageSplits++;
    this.releasePage(leaf, true);
    this.writeLeaves(parts);
    this.replaceChildren(1, 1);
  }

  /** The path's leaf with the cell to insert. */
  #addLeafWithCell(position: number, drop: 0 | 1): void {
    const run = this.leafRun;
    const page = run.addPage(this.u8, this.base);
    run.addEntries(page, 0, position);
    this.addNewCell(run);
    run.addEntries(page, position + drop, this.leafCount());
  }

  /** Rewrites the leaf as one page, if that is not full again at once. */
  #spillCompacted(position: number): boolean {
    const total = this.leafRun.count;
    const prefixLength = this.leafRun.commonPrefix(0, total - 1);
    const oldClass = this.classOf(this.unit[0]!);
    this.leafParts.classKept = oldClass;
    const pageClass = this.leafParts.classFor(0, total, prefixLength);
    if (pageClass < 0) return false;
    const pageBytes = 4096 << pageClass;
    const isRoomy = pageBytes - this.leafParts.usedBytes(prefixLength) >= pageBytes >>> COMPACTION_GAIN_SHIFT;
    const hasSamePrefix = prefixLength === this.u16[(this.base >>> 1) + PREFIX_LENGTH_HALFWORD];
    if (!isRoomy && hasSamePrefix && pageClass === oldClass && total > 1) return false;
    this.#rewriteLeaf(prefixLength, pageClass);
    this.lastInsertUnit = this.unit[0]!;
    this.lastInsertAt = position;
    return true;
  }

  /** In how many pages the run goes, by itself. */
  #planSplit(position: number): number {
    const plan = this.leafParts;
    // A page larger than pages are made now goes down by one class, or stays in its own: it makes two or three, not many.
    plan.classKept = this.classOf(this.unit[0]!) - 1;
    let parts = plan.partition(2, 2);
    if (parts < 0 && plan.cutOff(position)) parts = 2;
    if (parts < 0 && plan.classKept >= this.sizer.leafClass) {
      parts = plan.partition(3, 3);
      plan.classKept++;
      if (parts < 0) parts = plan.partition(2, 2);
    }
    return parts < 0 ? plan.partition(3, ENTRIES_UNLIMITED) : parts;
  }

  /** The whole run becomes the path's leaf. */
  #rewriteLeaf(prefixLength: number, pageClass: number): void {
    const old = this.unit[0]!;
    const total = this.leafRun.count;
    if (this.arena.isUnpublished(old) && this.classOf(old) === pageClass) {
      this.leafRun.write(0, total, prefixLength, this.u8, this.u16, this.u32, this.base);
      this.arena.tombstonesIn[old] = this.tombstones === 0 ? 0 : this.leafRun.tombstones(0, total);
      this.nameFile(old);
      return;
    }
    this.releasePage(old, true);
    const unit = this.allocatePage(pageClass, true);
    this.#writeLeaf(0, total, prefixLength, unit);
    this.replacePage(0, unit);
  }

  /** Ascending inserts leave the old leaf as it is and start a new one. */
  #spillAscending(position: number): boolean {
    const run = this.leafRun;
    const total = run.count;
    if (position !== total - 1 || total < 2) return false;
    const ascending = this.lastInsertUnit === this.unit[0] && this.lastInsertAt === position - 1;
    if (!ascending && this.turnLevel(1) !== 0) return false;
    const prefixLength = Math.min(run.commonPrefix(total - 2, total - 1), run.keyLength(total - 1));
    const unit = this.allocatePage(run.classFor(total - 1, total, prefixLength, this.sizer.leafClass, true), true);
    this.#writeLeaf(total - 1, total, prefixLength, unit);
    const children = this.children;
    children.reset();
    children.add(this.unit[0]!, 0, Infinity);
    this.#addLeafChild(unit, total - 1);
    this.events.pageSplits++;
    this.replaceChildren(1, 1);
    this.lastInsertUnit = unit;
    this.lastInsertAt = 0;
    return true;
  }

  /** Shares the entries with the emptier sibling under the same parent, if it has room. */
  #spillToSibling(position: number, drop: 0 | 1): boolean {
    if (this.height < 2 || this.frugal) return false;
    const leftRoom = this.#siblingRoom(-1);
    const rightRoom = this.#siblingRoom(1);
    if (leftRoom === 0 && rightRoom === 0) return false;
    const run = this.leafRun;
    const useLeft = leftRoom > rightRoom;
    const sibling = this.siblingOf(0, useLeft ? -1 : 1);
    run.reset();
    if (useLeft) this.addLeaf(sibling);
    this.#addLeafWithCell(position, drop);
    if (!useLeft) this.addLeaf(sibling);
    this.leafParts.classKept = this.classOf(sibling);
    const parts = this.leafParts.partition(2, 2);
    if (parts < 0) {
      run.reset();
      this.#addLeafWithCell(position, drop);
      return false;
    }
    this.events.shifts++;
    this.#replacePair(sibling, useLeft, parts);
    return true;
  }

  /** The free share of the sibling on that side, if it is worth shifting to; 0 if it is not. */
  #siblingRoom(side: 1 | -1): number {
    const sibling = this.siblingOf(0, side);
    if (sibling === 0 || this.classOf(sibling) !== this.classOf(this.unit[0]!)) return 0;
    const room = 1 - this.fillOf(sibling, LEAF_SLOT_BYTES);
    return room >= SHIFT_ROOM_MIN ? room : 0;
  }

  /** The parts of the run in place of the path's leaf and its sibling. */
  #replacePair(sibling: UnitId, isLeft: boolean, parts: number): void {
    this.releasePage(this.unit[0]!, true);
    this.releasePage(sibling, true);
    this.writeLeaves(parts);
    if (isLeft) this.index[1]!--;
    this.replaceChildren(1, 2);
  }

  /** After removals from the path's leaf: an empty leaf goes away, an underfull one merges with a sibling. The path may be lost. */
  protected settleLeaf(): void {
    const leaf = this.unit[0]!;
    const count = this.leafCount();
    if (count === 0) {
      this.makeWritable(1);
      this.releasePage(leaf, true);
      this.fingerValid = false;
      if (this.height === 1) {
        this.rootUnit = 0;
        this.height = 0;
        return;
      }
      this.removeChild(1, this.index[1]!);
      this.settleBranch(1);
      return;
    }
    const fill = this.fillOf(leaf, LEAF_SLOT_BYTES);
    if (fill >= FILL_MIN || this.frugal) return;
    if (this.classOf(leaf) > this.sizer.leafClass && this.#shrinkLeaf()) return;
    if (this.height < 2) return;
    const side = this.emptierSibling(0, LEAF_SLOT_BYTES);
    if (side === 0) return;
    const sibling = this.siblingOf(0, side);
    const sameClass = this.classOf(sibling) === this.classOf(leaf);
    if (sameClass && fill + this.fillOf(sibling, LEAF_SLOT_BYTES) > FILL_MERGED_MAX && fill > FILL_BORROW) return;
    const run = this.leafRun;
    run.reset();
    this.addLeaf(side < 0 ? sibling : leaf);
    this.addLeaf(side < 0 ? leaf : sibling);
    const prefixLength = run.commonPrefix(0, run.count - 1);
    // They may go together into a page as large as the larger of them.
    this.leafParts.classKept = Math.max(this.classOf(leaf), this.classOf(sibling));
    const pageClass = this.leafParts.classFor(0, run.count, prefixLength);
    let parts = 1;
    if (pageClass >= 0 && this.leafParts.usedBytes(prefixLength) <= FILL_MERGED_MAX * (4096 << pageClass)) {
      this.leafParts.whole();
    } else {
      if (fill > FILL_BORROW) return;
      parts = this.leafParts.partition(2, 2);
      if (parts < 0) return;
    }
    if (parts === 1) this.events.pageMerges++;
    else this.events.borrows++;
    this.makeWritable(1);
    this.#replacePair(sibling, side < 0, parts);
  }

  /** Writes the leaf into a smaller page, if one holds it. */
  #shrinkLeaf(): boolean {
    this.sizer.decide(this.arena.unpublishedEpoch);
    const run = this.leafRun;
    run.reset();
    this.addLeaf(this.unit[0]!);
    const total = run.count;
    const prefixLength = total === 1 ? 0 : run.commonPrefix(0, total - 1);
    const pageClass = run.classFor(0, total, prefixLength, this.sizer.leafClass, true);
    if (pageClass < 0 || pageClass >= this.classOf(this.unit[0]!)) return false;
    this.makeWritable(1);
    this.#rewriteLeaf(prefixLength, pageClass);
    return true;
  }

  /** The leaf's entries, to the run. */
  protected addLeaf(unit: UnitId): void {
    const page = this.leafRun.addPage(
      this.arena.u8[unit >>> SEGMENT_UNIT_SHIFT]!,
      (unit & SEGMENT_UNIT_MASK) << UNIT_SHIFT,
    );
    this.leafRun.addEntries(page, 0, this.countOf(unit));
  }

  /** Writes the parts of the leaf run as new pages and lists them as children. */
  protected writeLeaves(parts: number): void {
    this.children.reset();
    const { ends } = this.leafParts;
    for (let part = 0; part < parts; part++) {
      const from = ends[part]!;
      const to = ends[part + 1]!;
      const prefixLength = this.leafParts.prefixOf(from, to);
      const unit = this.allocatePage(this.leafParts.classFor(from, to, prefixLength), true);
      this.#writeLeaf(from, to, prefixLength, unit);
      if (part === 0) this.children.add(unit, 0, Infinity);
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
    const at = this.children.add(unit, length, cutsVersions ? run.seqOf(first) : Infinity);
    run.copyKey(first, length, this.children.memory, at);
    if (length > this.extent.separatorBytesMax) this.extent.separatorBytesMax = length;
  }

  #writeLeaf(from: number, to: number, prefixLength: number, unit: UnitId): void {
    const segment = unit >>> SEGMENT_UNIT_SHIFT;
    const { u8, u16, u32 } = this.arena;
    this.leafRun.write(
      from,
      to,
      prefixLength,
      u8[segment]!,
      u16[segment]!,
      u32[segment]!,
      (unit & SEGMENT_UNIT_MASK) << UNIT_SHIFT,
    );
    if (this.tombstones > 0) this.arena.tombstonesIn[unit] = this.leafRun.tombstones(from, to);
    this.nameFile(unit);
  }

  #noteSpill(): void {
    const epoch = this.arena.unpublishedEpoch;
    if (epoch !== this.spillEpoch) {
      this.spillEpoch = epoch;
      this.spills = 0;
    }
    this.spills++;
  }
}
