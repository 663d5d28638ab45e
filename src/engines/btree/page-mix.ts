/** How many leaves and branches of each class a tree has. Threads: countPages any under a pin, or the tree's writer. */
import {
  SEGMENT_UNIT_MASK,
  SEGMENT_UNIT_SHIFT,
  UNIT_SHIFT,
  type ArenaReader,
  type UnitId,
} from '../../shared/memory/arena.js';
import { COLD, classOf } from './paged/format.js';
import { CLASS_BYTE, COUNT_HALFWORD, PAGE_CLASS_MAX, childrenWord } from './page.js';

export interface PageMix {
  /** Indexed by class. */
  readonly leaves: Int32Array;
  readonly branches: Int32Array;
}

export function newPageMix(): PageMix {
  return { leaves: new Int32Array(PAGE_CLASS_MAX + 1), branches: new Int32Array(PAGE_CLASS_MAX + 1) };
}

/** Looks at all branches and at one byte of each leaf that is in memory. The tree is sound. */
export function countPages(arena: ArenaReader, unit: UnitId, level: number, mix: PageMix): void {
  if (unit >= COLD) {
    mix.leaves[classOf(unit)]!++;
    return;
  }
  const segment = unit >>> SEGMENT_UNIT_SHIFT;
  const base = (unit & SEGMENT_UNIT_MASK) << UNIT_SHIFT;
  const pageClass = arena.u8[segment]![base + CLASS_BYTE]! & PAGE_CLASS_MAX;
  if (level === 0) {
    mix.leaves[pageClass]!++;
    return;
  }
  mix.branches[pageClass]!++;
  const u16 = arena.u16[segment]!;
  const u32 = arena.u32[segment]!;
  const count = u16[(base >>> 1) + COUNT_HALFWORD]!;
  const children = childrenWord(u16, base);
  for (let index = 0; index < count; index++) countPages(arena, u32[children + index]!, level - 1, mix);
}
