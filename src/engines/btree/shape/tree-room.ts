/**
 * Memory: whether what is to come fits, and what is done where it runs short.
 *
 *   a group       admits() says for certain, before it is logged. Of large groups by a bound that counts on packing (admission.ts).
 *   an operation  ensureRoom() before anything changes: else the operation throws and has changed nothing.
 *   packing       pages of the group that fit together are merged; what becomes free is free at once.
 *   frugality     what still does not fit does without siblings: it neither shifts nor merges.
 *
 * Threads: the shard thread only.
 */
import type { ArenaWriter, UnitId } from '../../../shared/memory/arena.js';
import { UNIT_BYTES } from '../../../shared/memory/arena.js';
import { measureCells, pagesByBytes } from '../admission.js';
import { overflowUnits } from '../overflow.js';
import { BRANCH_SLOT_BYTES, KEY_BYTES_MAX, LEAF_SLOT_BYTES, PAGE_CLASS_MAX, readSeq } from '../page.js';
import type { PageSizer } from '../page-sizer.js';
import { TreeLeaves } from './tree-leaves.js';

/** Leaves beside its own that an operation may bring into memory. */
const FETCHED_PAGES = 4;
/** Leaves that must have overflowed in between before pages are packed again. */
const PACK_SPILLS_MIN = 128;
/** Of two pages of a class that may go into one: header and prefix, up to a quarter of the page, count twice in the sum. */
const PAIR_FILL_MAX = 1.27;
const NO_KEY = new Uint8Array(0);
/** Pages per level that must be free before an operation, see ensureRoom(). */
const SLACK_PAGES = 3;
/** With four children per branch so many levels make 2^24 pages, all that an arena can hold. */
const LEVELS_GROWN_MAX = 12;

export abstract class TreeRoom extends TreeLeaves {
  /** Longer values go to an overflow chain. */
  readonly inlineValueBytesMax: number;
  /** Entries that are neither hidden nor tombstones, and what they have; the writer counts. */
  protected liveEntries = 0;
  protected liveKeyBytes = 0;
  protected liveValueBytes = 0;
  /** The extent is that of the whole tree. */
  protected isMeasured = false;

  readonly #packKey = new Uint8Array(KEY_BYTES_MAX);
  readonly #wanted = new Int32Array(4);

  constructor(arena: ArenaWriter, order: number, sizer: PageSizer, inlineValueBytesMax: number) {
    super(arena, order, sizer);
    this.inlineValueBytesMax = inlineValueBytesMax;
  }

  /**
   * A safe bound of the units that a group of operations may allocate; bytes: keys and values of its puts. Values already in a chain
   * count with their key only. largestBytes: key and value of the largest put; large groups need much less if it is known. Memory in pieces
   * can fail a group of large cells all the same: admits() knows about that too.
   */
  unitsNeeded(operations: number, bytes: number, largestBytes = Infinity): number {
    // What pages are made in the group is decided now at the latest: the bounds rest on it.
    this.sizer.decide(this.arena.unpublishedEpoch);
    return Math.min(
      this.#unitsByOperations(operations, bytes, largestBytes),
      this.#pagesByBytes(operations, bytes, largestBytes) * this.#unitsPerPage(),
    );
  }

  #unitsByOperations(operations: number, bytes: number, largestBytes: number): number {
    const largeCells = largeCellsOf(operations, bytes, largestBytes);
    return (
      this.#pagesNeeded(operations) * this.#unitsPerPage() +
      (largeCells > 0 ? largeCells * 3 + this.#slackPages() : 0) * 8 +
      overflowUnits(bytes) +
      1
    );
  }

  /** See admission.ts; Infinity where it does not apply. */
  #pagesByBytes(operations: number, bytes: number, largestBytes: number): number {
    // Smaller groups are bounded well enough by their operations.
    if (operations < PACK_SPILLS_MIN || largestBytes > this.inlineValueBytesMax || this.orderLimited) return Infinity;
    // Older versions are not measured.
    if (this.cellCount !== this.liveEntries + this.tombstones || this.pager !== undefined) return Infinity;
    const pageBytes = UNIT_BYTES << this.sizer.leafClass;
    if (4 * largestBytes > pageBytes) return Infinity;
    if (!this.isMeasured) {
      if (this.height > 0) measureCells(this.arena, this.rootUnit, this.height - 1, this.extent);
      this.isMeasured = true;
    }
    const tree = {
      ...this.extent,
      pageBytes,
      leafPages: this.leafPages,
      branchPages: this.branchPages,
      entries: this.cellCount,
      entryBytes: this.liveKeyBytes + this.liveValueBytes + this.tombstoneKeyBytes,
    };
    // The tree may grow by some levels meanwhile.
    const levels = this.height + LEVELS_GROWN_MAX;
    return (
      pagesByBytes(tree, operations, bytes, largestBytes) + PACK_SPILLS_MIN * (levels + 2) + SLACK_PAGES * (levels + 2)
    );
  }

  /**
   * Whether a group can be applied for certain, now and whatever its keys are: a caller that asks before it logs the group can always
   * apply it. May wait up to 50 ms for readers when memory is short.
   */
  admits(operations: number, bytes: number, deletesOnly = false, largestBytes = Infinity): boolean {
    const arena = this.arena;
    this.sizer.decide(arena.unpublishedEpoch);
    const needed = this.#unitsByOperations(operations, bytes, largestBytes);
    if (needed > arena.freeUnits(deletesOnly)) arena.reclaim();
    const unitsPerPage = this.#unitsPerPage();
    const counts = [0, 0, 0, 0];
    if (needed > arena.freeUnits(deletesOnly)) {
      const pages = this.#pagesByBytes(operations, bytes, largestBytes);
      if (pages * unitsPerPage > arena.freeUnits(deletesOnly)) return false;
      counts[31 - Math.clz32(unitsPerPage)] = pages;
      return arena.canAllocate(counts, deletesOnly);
    }
    const largeCells = largeCellsOf(operations, bytes, largestBytes);
    if (unitsPerPage === 1 && largeCells === 0) return true;
    counts[0] = overflowUnits(bytes) + 1;
    counts[3] = largeCells > 0 ? largeCells * 3 + this.#slackPages() : 0;
    counts[31 - Math.clz32(unitsPerPage)]! += this.#pagesNeeded(operations);
    return arena.canAllocate(counts, deletesOnly);
  }

  /** Where classes differ each page may break up a whole block of the largest; no more blocks than pages can be broken up. */
  #unitsPerPage(): number {
    return 1 << this.largestClass();
  }

  #pagesNeeded(operations: number): number {
    const levels = Math.max(this.height, 1);
    // Each operation copies at most its leaf and one sibling and adds one leaf. On each level of branches likewise; new branches
    // come from full ones, of which each splits once, and then only after it took in half a page of children.
    // A leaf larger than they are made now comes apart in three.
    const partsAdded = this.largestClass() > this.sizer.leafClass ? 2 : 1;
    const leaves = Math.min(2 * operations, this.leafPages) + operations * partsAdded;
    const copied = Math.min(2 * operations * (levels - 1), this.branchPages);
    const added = this.orderLimited
      ? operations * levels
      : Math.min(operations * (levels - 1), this.branchPages) + (operations >>> 2);
    // Leaves that are not in memory must come there first.
    const fetched = this.pager === undefined ? 0 : Math.min(2 * operations, this.pager.coldTreeUnits) + FETCHED_PAGES;
    return leaves + copied + added + fetched + this.#slackPages();
  }

  /** What ensureRoom() asks to be free before the last operation too. */
  #slackPages(): number {
    return SLACK_PAGES * (Math.max(this.height, 1) + 2);
  }

  /**
   * Throws ERR_MEMORY_FULL unless the worst case of one operation fits, if need be without siblings. cellBytes 0: it inserts nothing. True, with
   * mayPack only, when pages were packed for the cell at hand: its place is another one now.
   */
  protected ensureRoom(cellBytes: number, reserve: boolean, mayPack = false): boolean {
    const arena = this.arena;
    this.frugal = false;
    let pageClass = Math.max(this.sizer.leafClass, this.sizer.branchClass);
    while (pageClass < PAGE_CLASS_MAX && 4 * cellBytes > 4096 << pageClass) pageClass++;
    // #slackPages() follows this.
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
    // Without siblings: a copy of the path and a split on every level; what inserts nothing only copies the path.
    if (cellBytes > 0) wanted[pageClass] = 2 * (this.height + 1);
    else for (let level = 0; level < this.height; level++) wanted[this.classOf(this.unit[level]!)]!++;
    if (arena.canAllocate(wanted, reserve)) return false;
    throw arena.memoryFull(pages << pageClass);
  }

  /** Each packing looks at all leaves: enough of them must be new since the last one. */
  #isWorthPacking(): boolean {
    return this.height > 1 && this.spills >= PACK_SPILLS_MIN && this.spillEpoch === this.arena.unpublishedEpoch;
  }

  /**
   * Merges neighbours among the pages that are not published yet, leaves and the branches above them, wherever two fit one page. What is merged away
   * is free at once. Afterwards the bound of admission.ts holds. The path is lost.
   */
  #packFresh(): void {
    this.spills = 0;
    const { arena } = this;
    const reserveBefore = arena.reserveMode;
    // It takes a page or two before it gives many.
    arena.reserveMode = true;
    try {
      for (let level = 0; level < 2; level++) {
        this.descend(NO_KEY, 0, 0, Infinity);
        do {
          while (this.height > level + 1 && this.#mergeWithRight(level));
        } while (this.height > level + 1 && this.moveRight(level));
      }
    } finally {
      arena.reserveMode = reserveBefore;
      this.fingerValid = false;
    }
  }

  /** Merges the path's page with the one right of it if both are fresh, under one branch, and fit one page. The path then leads to the result. */
  #mergeWithRight(level: number): boolean {
    const left = this.unit[level]!;
    const right = this.siblingOf(level, 1);
    if (right === 0 || !this.arena.isUnpublished(left) || !this.arena.isUnpublished(right)) return false;
    if (!this.#gatherPair(level, left, right)) return false;
    const keyLength = this.copyKey(0, this.#packKey);
    const seq = readSeq(this.u8, this.cellAt(0) + 1);
    this.frugal = this.arena.freeUnits(true) < (2 * this.height + 2) << PAGE_CLASS_MAX;
    this.events.pageMerges++;
    this.releasePage(left, level === 0);
    this.releasePage(right, level === 0);
    if (level === 0) this.writeLeaves(1);
    else this.writeBranches(1, level);
    this.replaceChildren(level + 1, 2);
    this.descend(this.#packKey, 0, keyLength, seq);
    return true;
  }

  /** The entries of the path's page and the one right of it as a run that is one part; false if they do not fit one page. */
  #gatherPair(level: number, left: UnitId, right: UnitId): boolean {
    const slotBytes = level === 0 ? LEAF_SLOT_BYTES : BRANCH_SLOT_BYTES;
    const classKept = Math.max(this.classOf(left), this.classOf(right));
    if (
      this.classOf(left) === this.classOf(right) &&
      this.fillOf(left, slotBytes) + this.fillOf(right, slotBytes) > PAIR_FILL_MAX
    )
      return false;
    if (level === 0) {
      this.leafRun.reset();
      this.addLeaf(left);
      this.addLeaf(right);
    } else this.gatherBranches(left, right, this.unit[level + 1]!, this.index[level + 1]! + 1);
    const plan = level === 0 ? this.leafParts : this.branchParts;
    plan.classKept = classKept;
    plan.whole();
    return plan.fit(1);
  }
}

/** Cells above a quarter of a unit bring pages of up to 8 units, three for each. */
function largeCellsOf(operations: number, bytes: number, largestBytes: number): number {
  if (largestBytes <= (UNIT_BYTES >>> 2) - 64) return 0;
  return Math.min(operations, Math.floor(bytes / ((UNIT_BYTES >>> 2) - 64)));
}
