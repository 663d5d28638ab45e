/**
 * Arena pages of an LSM-Tree: what all of them have in common.
 *
 *   state ──▶ version ──▶ a fence tree per run ──▶ a table page per table ──▶ a fence tree of its blocks · filter pages
 *     └─────▶ range tombstones
 *
 * All begin with the header of btree/page.ts: kind 7, the level byte says which of the pages below it is. Built where no reader looks, shown by the
 * publication of the row that leads to them, never changed (but for the notes of a fence tree), and retired when no published state leads there any more. None
 * is part of a version that long pins hold: checkpoints pass them over.
 *
 * Shared memory only, never on disk. Threads: reading any, under a pin; building and retiring the shard thread only.
 */
import {
  HEADER_UNITS,
  SEGMENT_UNIT_MASK,
  SEGMENT_UNIT_SHIFT,
  UNIT_SHIFT,
  type ArenaReader,
  type ArenaWriter,
  type UnitId,
} from '../../../shared/memory/arena.js';
import { CLASS_BYTE, COUNT_HALFWORD, KIND_BYTE, LEVEL_BYTE, PageKind, corruptPage } from '../../btree/page.js';

/** Level bytes. */
export const LsmPage = { State: 1, Version: 2, Fence: 3, Table: 4, Filter: 5, Tombstones: 6 } as const;
export type LsmPageKind = (typeof LsmPage)[keyof typeof LsmPage];

const UNITS_OF_CLASS = [1, 2, 4, 8] as const;
export const LSM_PAGE_BYTES_MAX = 32768;

/** Byte offset of the page in its segment. */
export function pageBase(unit: UnitId): number {
  return (unit & SEGMENT_UNIT_MASK) << UNIT_SHIFT;
}

/** Byte offset of the page in its segment. @throws ERR_CORRUPT unless such a page may lie there */
export function checkLsmPage(arena: ArenaReader, unit: UnitId, kind: LsmPageKind): number {
  if (!(unit >= HEADER_UNITS && unit < arena.totalUnits)) throw corruptPage(unit, 'not a unit of the arena');
  const base = (unit & SEGMENT_UNIT_MASK) << UNIT_SHIFT;
  const word = arena.u32[unit >>> SEGMENT_UNIT_SHIFT]![base >>> 2]!;
  if ((word & 0xffff) !== (PageKind.Lsm | (kind << 8))) {
    throw corruptPage(unit, `kind ${word & 0xff} level ${(word >>> 8) & 0xff}, expected ${PageKind.Lsm} and ${kind}`);
  }
  // A page never crosses a multiple of its size, so a sound unit and class cannot lead out of the segment.
  if ((unit & ((1 << ((word >>> 16) & 3)) - 1)) !== 0) throw corruptPage(unit, 'a page of that size cannot begin here');
  return base;
}

/** Bytes of a page that checkLsmPage() has looked at. */
export function lsmPageBytes(arena: ArenaReader, unit: UnitId): number {
  return 4096 << (arena.u8[unit >>> SEGMENT_UNIT_SHIFT]![pageBase(unit) + CLASS_BYTE]! & 3);
}

export function lsmPageUnits(arena: ArenaReader, unit: UnitId): number {
  return 1 << (arena.u8[unit >>> SEGMENT_UNIT_SHIFT]![pageBase(unit) + CLASS_BYTE]! & 3);
}

/** The smallest class that has room for so many bytes; undefined: none has. */
export function classFor(bytes: number): number | undefined {
  for (let pageClass = 0; pageClass <= 3; pageClass++) if (bytes <= 4096 << pageClass) return pageClass;
  return undefined;
}

/** A new page, its header made and the rest of its first 64 bytes zero. @throws ERR_MEMORY_FULL */
export function allocateLsmPage(arena: ArenaWriter, kind: LsmPageKind, pageClass: number): UnitId {
  const unit = arena.allocate(UNITS_OF_CLASS[pageClass]!);
  const segment = unit >>> SEGMENT_UNIT_SHIFT;
  const base = pageBase(unit);
  const u8 = arena.u8[segment]!;
  const words = arena.u32[segment]!;
  u8[base + KIND_BYTE] = PageKind.Lsm;
  u8[base + LEVEL_BYTE] = kind;
  arena.u16[segment]![(base >>> 1) + COUNT_HALFWORD] = 0;
  for (let word = 3; word < 16; word++) words[(base >>> 2) + word] = 0;
  return unit;
}

/** Gives a page back: at once if it was never published, else when its last reader has gone. */
export function releaseLsmPage(arena: ArenaWriter, unit: UnitId): void {
  arena.release(unit, false);
}

/** Whether a page of that class can be had now. */
export function canAllocateClass(arena: ArenaWriter, pageClass: number): boolean {
  const counts = [0, 0, 0, 0];
  counts[pageClass] = 1;
  return arena.canAllocate(counts, arena.reserveMode);
}
