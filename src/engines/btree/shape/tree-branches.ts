/**
 * The levels above the leaves. Children that replace others come as a list; a branch takes them in its page, is written anew through a
 * run (branch-run.ts), or becomes several, which go to the level above in the same way, and at the top make a new root. A branch that
 * lost children is merged with a sibling or takes some of its.
 *
 * Invariants: a branch has at least two children (one only after a removal that found no memory to merge).
 * Threads: the shard thread only.
 */
import type { ArenaWriter, UnitId } from '../../../shared/memory/arena.js';
import { SEGMENT_UNIT_MASK, SEGMENT_UNIT_SHIFT, UNIT_SHIFT } from '../../../shared/memory/arena.js';
import { branchCellBytes, insertBranchEntry, removeBranchEntry } from '../branch-page.js';
import { BranchRun } from '../branch-run.js';
import { ChildList } from '../child-list.js';
import { COLD } from '../paged/format.js';
import {
  BRANCH_SLOT_BYTES,
  CELL_START_HALFWORD,
  CLASS_BYTE,
  COUNT_HALFWORD,
  PAGE_CLASS_MAX,
  PAGE_HEADER_BYTES,
  PREFIX_LENGTH_HALFWORD,
  childrenWord,
  headsOffset,
} from '../page.js';
import type { PageSizer } from '../page-sizer.js';
import { BranchParts } from './parts.js';
import { FILL_BORROW, FILL_MERGED_MAX, FILL_MIN, TreePages } from './tree-pages.js';

export abstract class TreeBranches extends TreePages {
  /** What the level below hands up. */
  protected readonly children = new ChildList();
  protected readonly branchRun = new BranchRun();
  protected readonly branchParts: BranchParts;

  constructor(arena: ArenaWriter, order: number, sizer: PageSizer) {
    super(arena, order, sizer);
    this.branchParts = new BranchParts(this.branchRun, sizer, this.entriesMax);
  }

  /**
   * Puts the listed children in place of `old` children of the path's branch at that level, from its path index on. The branch is
   * writable. Level = height: they replace the root.
   */
  protected replaceChildren(level: number, old: number): void {
    const children = this.children;
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
      const count = this.countOf(branch);
      const run = this.branchRun;
      run.reset();
      const page = this.#addBranch(branch);
      run.addEntries(page, 0, from + 1);
      run.setChild(from, children.units[0]!);
      run.addChildren(children, 1, added);
      run.addEntries(page, from + old, count);
      const atEnd = from + old === count && this.isRightmostFrom(level + 1);
      this.#writeBranch(level, atEnd);
    }
    if (added < old) this.settleBranch(level);
  }

  #noteSeparators(branch: UnitId): void {
    if (!this.sizer.isAdaptive) return;
    const half = ((branch & SEGMENT_UNIT_MASK) << UNIT_SHIFT) >>> 1;
    const prefixLength = this.arena.u16[branch >>> SEGMENT_UNIT_SHIFT]![half + PREFIX_LENGTH_HALFWORD]!;
    const children = this.children;
    for (let index = 1; index < children.count; index++) {
      const suffixLength = Math.max(0, children.separatorLength[index]! - prefixLength);
      this.sizer.noteSeparator(branchCellBytes(suffixLength, children.separatorSeq[index]!));
    }
  }

  /** The change inside the page, if everything fits as the page is. */
  #replaceInPage(branch: UnitId, from: number, old: number): boolean {
    const children = this.children;
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
    this.branchParts.classKept = this.classOf(old);
    const pageClass = this.branchParts.classOfWhole();
    if (pageClass >= 0) {
      if (this.classOf(old) === pageClass) {
        this.#writeBranchPage(0, total, level, old);
        return;
      }
      this.releasePage(old, false);
      const unit = this.allocatePage(pageClass, false);
      this.#writeBranchPage(0, total, level, unit);
      this.replacePage(level, unit);
      return;
    }
    const parts = this.branchParts.partition(atEnd);
    this.events.pageSplits++;
    this.releasePage(old, false);
    this.writeBranches(parts, level);
    this.replaceChildren(level + 1, 1);
  }

  /** Writes the parts of the branch run as new pages and lists them as children of the level above. */
  protected writeBranches(parts: number, level: number): void {
    const run = this.branchRun;
    const children = this.children;
    const { ends } = this.branchParts;
    children.reset();
    for (let part = 0; part < parts; part++) {
      const from = ends[part]!;
      const to = ends[part + 1]!;
      const unit = this.allocatePage(this.branchParts.classOf(from, to), false);
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
    this.nameFile(unit);
  }

  /** The listed children are all there is on the top level: builds branches above them until one is left. */
  #growRoot(): void {
    const children = this.children;
    while (children.count > 1) {
      this.branchRun.reset();
      this.branchRun.addChildren(children, 0, children.count);
      this.branchParts.classKept = 0;
      let parts = 1;
      if (this.branchParts.classOfWhole() >= 0) this.branchParts.whole();
      else parts = this.branchParts.partition(false);
      this.writeBranches(parts, this.height);
      this.height++;
    }
    this.rootUnit = children.units[0]!;
  }

  /** Removes a child and its separator from the path's branch, which is writable. */
  protected removeChild(level: number, index: number): void {
    const unit = this.unit[level]!;
    const segment = unit >>> SEGMENT_UNIT_SHIFT;
    const { u8, u16, u32 } = this.arena;
    removeBranchEntry(u8[segment]!, u16[segment]!, u32[segment]!, (unit & SEGMENT_UNIT_MASK) << UNIT_SHIFT, index);
  }

  /** After removals from the path's branch, which is writable: drops a root with one child, merges an underfull branch. */
  protected settleBranch(level: number): void {
    const branch = this.unit[level]!;
    const count = this.countOf(branch);
    if (level === this.height - 1) {
      // A leaf that is not in memory cannot be the root; the branch stays above it.
      if (count > 1 || (count === 1 && this.childOf(branch, 0) >= COLD)) return;
      this.rootUnit = count === 0 ? 0 : this.childOf(branch, 0);
      this.height = count === 0 ? 0 : level;
      this.releasePage(branch, false);
      this.#dropThinRoot();
      return;
    }
    if (count === 0) {
      this.releasePage(branch, false);
      this.removeChild(level + 1, this.index[level + 1]!);
      this.settleBranch(level + 1);
      return;
    }
    const fill = this.fillOf(branch, BRANCH_SLOT_BYTES);
    if (this.frugal || (count > 1 && fill >= FILL_MIN)) return;
    const parent = this.unit[level + 1]!;
    const childIndex = this.index[level + 1]!;
    const side = this.emptierSibling(level, BRANCH_SLOT_BYTES);
    if (side === 0) return;
    const sibling = this.siblingOf(level, side);
    if (count > 1 && fill > FILL_BORROW && fill + this.fillOf(sibling, BRANCH_SLOT_BYTES) > FILL_MERGED_MAX) return;
    if (side < 0) this.gatherBranches(sibling, branch, parent, childIndex);
    else this.gatherBranches(branch, sibling, parent, childIndex + 1);
    let parts = 1;
    this.branchParts.classKept = Math.max(this.classOf(branch), this.classOf(sibling));
    if (this.branchParts.classOfWhole() >= 0) {
      this.branchParts.whole();
    } else {
      if (count > 1 && fill > FILL_BORROW) return;
      parts = this.branchParts.partition(false);
      if (parts !== 2) return;
    }
    if (parts === 1) this.events.pageMerges++;
    else this.events.borrows++;
    this.releasePage(branch, false);
    this.releasePage(sibling, false);
    this.writeBranches(parts, level);
    if (side < 0) this.index[level + 1] = childIndex - 1;
    this.replaceChildren(level + 1, 2);
  }

  /** The children of two neighbours as the branch run; between them goes the separator that the parent has at the right one's index. */
  protected gatherBranches(left: UnitId, right: UnitId, parent: UnitId, rightIndex: number): void {
    const run = this.branchRun;
    run.reset();
    const parentPage = this.#addBranch(parent);
    const leftPage = this.#addBranch(left);
    const rightPage = this.#addBranch(right);
    run.addEntries(leftPage, 0, this.countOf(left));
    run.addFirstOf(rightPage, parentPage, rightIndex);
    run.addEntries(rightPage, 1, this.countOf(right));
  }

  #addBranch(unit: UnitId): number {
    return this.branchRun.addPage(
      this.arena.u8[unit >>> SEGMENT_UNIT_SHIFT]!,
      (unit & SEGMENT_UNIT_MASK) << UNIT_SHIFT,
    );
  }

  /** A branch with one child that could not merge may have become the root. */
  #dropThinRoot(): void {
    while (this.height > 1 && this.countOf(this.rootUnit) === 1) {
      const root = this.rootUnit;
      const child = this.childOf(root, 0);
      if (child >= COLD) return;
      this.rootUnit = child;
      this.height--;
      this.releasePage(root, false);
    }
  }
}
