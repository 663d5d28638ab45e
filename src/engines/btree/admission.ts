/**
 * How many pages a large group may take at most: a bound by bytes, where the bound by operations (each may split a leaf) asks for absurdly much.
 *
 * It holds for trees whose cells, old and new, are at most a quarter of the pages that leaves are made with now, C bytes: then no page needs a
 * larger one. The order must be by page size, all cells live, and no leaf in a page file.
 *
 * A page is fresh if it was made in this group. Published pages do not change, so what the group takes is its fresh pages. When memory runs short
 * the tree packs them (TreeRoom.#packFresh): then no two fresh neighbours under one branch fit one page together, neither leaves nor branches of
 * level 1. Call it packed. Let there be L leaves and B branches before the group; n operations with S bytes of whole cells; F bytes of whole
 * cells before. A whole cell is key, value, and at most CELL_OVERHEAD_BYTES for all else, slot included.
 *
 *  1. A page with the cells of two leaves takes at most their whole cells + PAGE_OVERHEAD_BYTES, whatever prefixes they have. So two fresh
 *     neighbours in a packed tree have more than C - PAGE_OVERHEAD_BYTES of whole cells, and a run of r fresh leaves under one branch has
 *     floor(r / 2) such pairs. All whole cells are at most F + S.    N0 <= A + R0,    A = 2 (F + S) / (C - PAGE_OVERHEAD_BYTES)
 *  2. Runs: one per fresh branch of level 1, and one more behind each published leaf that stands between fresh ones. Between two leaves that stayed
 *     published there are fresh ones only if one between them was replaced, and an operation replaces at most two: its leaf and a sibling.
 *     R0 <= N1 + D,    D = min(2 n, L)
 *  3. In the same way for branches of level 1. A child costs a branch at most its separator, s bytes, + SEPARATOR_OVERHEAD_BYTES, so two that do not
 *     fit one page have together at least f = (C - PAGE_OVERHEAD_BYTES - 10) / (s + SEPARATOR_OVERHEAD_BYTES) children, and all have at most N0 + L.
 *     N1 <= 2 (N0 + L) / f + R1,    R1 <= N2 + B
 *  4. Any branch has two children, but for those of B that a shortage of memory left with one. Above level 1 there are, fresh or not, at most
 *     N1 + 2 B branches, and on level 2 half of it: N2 <= (N1 + B) / 2 + B.
 *  3 + 4.  N1 <= 4 (N0 + L) / f + 5 B            1 + 2 + that.  N0 <= (A + D + 4 L / f + 5 B) / (1 - 4 / f)
 *  Sum:    N0 + N1 + (N1 + 2 B)
 *
 * Between two packings a leaf overflows at least PACK_SPILLS_MIN times, each time adding at most two leaves (one, where no page is larger than C)
 * and one branch per level; the caller adds that, and what must be free before an operation. It counts each page as one of the largest class that the
 * tree has: in so many blocks of that size there is always a whole one free, however the smaller pages lie.
 * What a delete removes lowers nothing above; what it copies is in D.
 *
 * Threads: the tree's writer only; pure functions, except that measureCells() reads the tree.
 */
import {
  SEGMENT_UNIT_MASK,
  SEGMENT_UNIT_SHIFT,
  UNIT_SHIFT,
  type ArenaReader,
  type UnitId,
} from '../../shared/memory/arena.js';
import {
  CELL_LENGTHS_OFFSET,
  CellFlag,
  COUNT_HALFWORD,
  EXPIRY_BYTES,
  LEAF_SLOT_BYTES,
  PAGE_HEADER_BYTES,
  PREFIX_LENGTH_HALFWORD,
  SEQ_BYTES,
  BRANCH_SLOT_BYTES,
  cellLengthsAt,
  headsOffset,
  readVarint,
  skipVarint,
} from './page.js';

/** Flags, seq, expiry, both lengths (values that stand in the leaf are below 2^14), slot. */
const CELL_OVERHEAD_BYTES = CELL_LENGTHS_OFFSET + EXPIRY_BYTES + 2 + 2 + LEAF_SLOT_BYTES;
/** Header and padding of the prefix; the prefix itself is in the cells it was taken from. */
const PAGE_OVERHEAD_BYTES = PAGE_HEADER_BYTES + 3;
/** Length, seq, slot. */
const SEPARATOR_OVERHEAD_BYTES = 2 + SEQ_BYTES + BRANCH_SLOT_BYTES;
/** Below it branches would be too many for the bound to be worth anything. */
const CHILDREN_MIN = 8;

/** What a tree has at most. */
export interface Extent {
  /** Key and value of one cell. */
  cellBytesMax: number;
  separatorBytesMax: number;
}

export interface TreeFacts extends Extent {
  /** Of every page. */
  readonly pageBytes: number;
  readonly leafPages: number;
  readonly branchPages: number;
  readonly entries: number;
  /** Keys and values of all of them. */
  readonly entryBytes: number;
}

/** Pages that a packed tree has of a group at most; Infinity where the argument does not hold. largestBytes: key and value of one put. */
export function pagesByBytes(tree: TreeFacts, operations: number, bytes: number, largestBytes: number): number {
  const { pageBytes, leafPages, branchPages, entries, entryBytes } = tree;
  const cellBytesMax = Math.max(tree.cellBytesMax, largestBytes) + CELL_OVERHEAD_BYTES;
  if (4 * cellBytesMax > pageBytes) return Infinity;
  const separatorBytesMax = Math.max(tree.separatorBytesMax, largestBytes);
  const children = Math.floor(
    (pageBytes - PAGE_OVERHEAD_BYTES - BRANCH_SLOT_BYTES) / (separatorBytesMax + SEPARATOR_OVERHEAD_BYTES),
  );
  if (children < CHILDREN_MIN) return Infinity;
  const wholeCells = bytes + entryBytes + (operations + entries) * CELL_OVERHEAD_BYTES;
  const leavesByBytes = (2 * wholeCells) / (pageBytes - PAGE_OVERHEAD_BYTES);
  const replaced = Math.min(2 * operations, leafPages);
  const perBranch = 4 / children;
  const leaves = (leavesByBytes + replaced + perBranch * leafPages + 5 * branchPages) / (1 - perBranch);
  const branches = perBranch * (leaves + leafPages) + 5 * branchPages;
  return Math.ceil(leaves + 2 * branches + 2 * branchPages);
}

/** Raises the extent to that of the subtree. The tree is sound and all of it in memory. */
export function measureCells(arena: ArenaReader, unit: UnitId, level: number, extent: Extent): void {
  const segment = unit >>> SEGMENT_UNIT_SHIFT;
  const base = (unit & SEGMENT_UNIT_MASK) << UNIT_SHIFT;
  const u8 = arena.u8[segment]!;
  const u16 = arena.u16[segment]!;
  const u32 = arena.u32[segment]!;
  const half = base >>> 1;
  const count = u16[half + COUNT_HALFWORD]!;
  const prefixLength = u16[half + PREFIX_LENGTH_HALFWORD]!;
  const heads = (base + headsOffset(prefixLength)) >>> 2;
  if (level === 0) {
    const offsets = (heads + count) << 1;
    for (let index = 0; index < count; index++) {
      const cell = base + u16[offsets + index]!;
      const lengthsAt = cellLengthsAt(u8, cell);
      const bodyLength = (u8[cell]! & CellFlag.Overflow) !== 0 ? 4 : readVarint(u8, lengthsAt);
      const bytes = prefixLength + readVarint(u8, skipVarint(u8, lengthsAt)) + bodyLength;
      if (bytes > extent.cellBytesMax) extent.cellBytesMax = bytes;
    }
    return;
  }
  const children = heads + count;
  const offsets = (heads + 2 * count) << 1;
  for (let index = 0; index < count; index++) {
    if (index > 0) {
      const bytes = prefixLength + (readVarint(u8, base + u16[offsets + index]!) >>> 1);
      if (bytes > extent.separatorBytesMax) extent.separatorBytesMax = bytes;
    }
    measureCells(arena, u32[children + index]!, level - 1, extent);
  }
}
