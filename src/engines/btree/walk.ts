/**
 * Walks all pages below a meta page, children before their parents. For marking (ArenaWriter.adopt) and images.
 * What lies in a page file only is passed over. Only what a walk needs is checked: units, kinds, levels, counts. Threads: any, under a pin.
 */
import { readU32LE } from '../../shared/codec/fixed.js';
import {
  SEGMENT_UNIT_MASK,
  SEGMENT_UNIT_SHIFT,
  UNIT_SHIFT,
  type ArenaReader,
  type UnitId,
} from '../../shared/memory/arena.js';
import { checkHeight, treeCount, treeCounts } from './meta.js';
import { walkChain } from './overflow.js';
import {
  CLASS_BYTE,
  COUNT_HALFWORD,
  CellFlag,
  LEAF_SLOT_BYTES,
  PREFIX_LENGTH_HALFWORD,
  PageKind,
  cellLengthsAt,
  childrenWord,
  corruptPage,
  headsOffset,
  readVarint,
  skipVarint,
} from './page.js';
import { COLD } from './paged/format.js';
import { checkBranchRoom, checkPage } from './search.js';

export interface PageVisitor {
  /** Once per overflow cell, before the leaf that it stands in; `cellBody` is the byte offset of the first unit in the leaf's segment. */
  chain(firstUnit: UnitId, totalBytes: number, leaf: UnitId, cellBody: number): void;
  /** Leaves and branches; after everything below them. */
  page(unit: UnitId, level: number): void;
}

export function walkTree(
  arena: ArenaReader,
  rootUnit: UnitId,
  height: number,
  hasOverflow: boolean,
  visitor: PageVisitor,
): void {
  checkHeight(height);
  if (height > 0) walkPage(arena, rootUnit, height - 1, hasOverflow, visitor);
}

function walkPage(arena: ArenaReader, unit: UnitId, level: number, hasOverflow: boolean, visitor: PageVisitor): void {
  if (!(unit > 0 && unit < arena.totalUnits)) throw corruptPage(unit, 'not a unit of the arena');
  const segment = unit >>> SEGMENT_UNIT_SHIFT;
  const base = (unit & SEGMENT_UNIT_MASK) << UNIT_SHIFT;
  const u8 = arena.u8[segment]!;
  const u16 = arena.u16[segment]!;
  const u32 = arena.u32[segment]!;
  const half = base >>> 1;
  checkPage(u32, base, unit, level === 0 ? PageKind.Leaf : PageKind.Branch | (level << 8));
  if (level > 0) {
    const count = checkBranchRoom(u8, u16, base, unit);
    const children = childrenWord(u16, base);
    for (let index = 0; index < count; index++) {
      const child = u32[children + index]!;
      if (child < COLD) walkPage(arena, child, level - 1, hasOverflow, visitor);
    }
  } else if (hasOverflow) {
    const count = u16[half + COUNT_HALFWORD]!;
    const headsAt = headsOffset(u16[half + PREFIX_LENGTH_HALFWORD]!);
    const pageBytes = 4096 << u8[base + CLASS_BYTE]!;
    if (headsAt + count * LEAF_SLOT_BYTES > pageBytes)
      throw corruptPage(unit, `a leaf of ${count} entries does not fit its page`);
    const offsets = ((base + headsAt) >>> 1) + 2 * count;
    for (let index = 0; index < count; index++) {
      const cell = base + u16[offsets + index]!;
      if ((u8[cell]! & CellFlag.Overflow) === 0) continue;
      const suffixLengthAt = skipVarint(u8, cellLengthsAt(u8, cell));
      const body = skipVarint(u8, suffixLengthAt) + readVarint(u8, suffixLengthAt);
      if (!(body + 4 <= base + pageBytes)) throw corruptPage(unit, 'a cell reaches beyond its page');
      const firstUnit = readU32LE(u8, body);
      if (firstUnit < COLD) visitor.chain(firstUnit, readVarint(u8, cellLengthsAt(u8, cell)), unit, body);
    }
  }
  visitor.page(unit, level);
}

function markPage(arena: ArenaReader, unit: UnitId, mark: (unit: UnitId, units: number) => void): void {
  const base = (unit & SEGMENT_UNIT_MASK) << UNIT_SHIFT;
  mark(unit, 1 << (arena.u8[unit >>> SEGMENT_UNIT_SHIFT]![base + CLASS_BYTE]! & 3));
}

/** Reports the meta page itself. */
export function markMetaPage(arena: ArenaReader, metaUnit: UnitId, mark: (unit: UnitId, units: number) => void): void {
  markPage(arena, metaUnit, mark);
}

/** Reports every page of one tree. */
export function markTree(
  arena: ArenaReader,
  metaUnit: UnitId,
  treeIndex: number,
  mark: (unit: UnitId, units: number) => void,
): void {
  const counts = treeCounts(arena, metaUnit, treeIndex);
  walkTree(arena, counts.rootUnit, counts.height, counts.overflowPages > 0, {
    page: (unit) => {
      markPage(arena, unit, mark);
    },
    chain: (firstUnit, totalBytes) => {
      walkChain(arena, firstUnit, totalBytes, (unit) => {
        markPage(arena, unit, mark);
      });
    },
  });
}

/** The walk for ArenaWriter.adopt where every row is a B+Tree: every page reachable from a meta page, and that page. */
export function markTrees(arena: ArenaReader, metaUnit: UnitId, mark: (unit: UnitId, units: number) => void): void {
  markMetaPage(arena, metaUnit, mark);
  const count = treeCount(arena, metaUnit);
  for (let index = 0; index < count; index++) markTree(arena, metaUnit, index, mark);
}
