/**
 * Nodes: what the engines other than the B+Tree keep their entries in. Offsets, addresses, the descriptor page of such an engine.
 *
 *   offset  size  field       node
 *        0     4  older       address of the next older version of the key that must stay readable, 0 = none
 *        4   4·k  links       the engine's own words
 *    4+4·k     …  cell        a leaf cell as in btree/page.ts, the key whole: flags · seq · [expiresAt] · valueLength · keyLength · key · value or
 *                             (overflow) first unit u32
 *
 * An address counts 8-byte granules from the arena's start: unit × 512 + offset / 8. It is held as a signed 32-bit number, so that V8 never
 * boxes it; 2^32 granules are 32 GiB, and memory above that is not used for nodes. 0 is no address: the first units are the arena's header.
 * Only `older`, the links and two bits of the cell's flags ever change in a node that readers may see; all are single words or bytes.
 *
 *   offset  size  field       descriptor page: one unit per engine, kind 6, level = engine code; the root of its row
 *       24     4  magic       DESCRIPTOR_MAGIC
 *       28     4  firstSlab   pages of nodes, linked by their next word (heap.ts)
 *       32     4  firstChain  first pages of overflow chains, linked by CHAIN_LINK_WORD
 *       36     4  firstPage   the engine's own pages, linked by their next word
 *       40     4  isLocked    1: changed in place under the arena's latch
 *       64     …  own words   of the engine
 *
 * Whatever the engine has allocated hangs on one of the three lists, published or not: marking for adoption is a walk of lists, and does not
 * depend on the structure. What a dead writer had allocated and not used is found by the successor, which walks the structure too.
 * Shared memory only, never on disk. Threads: any; pure functions.
 */
import {
  HEADER_UNITS,
  SEGMENT_UNIT_MASK,
  SEGMENT_UNIT_SHIFT,
  UNIT_SHIFT,
  type ArenaReader,
  type UnitId,
} from '../../shared/memory/arena.js';
import { ConcordError } from '../../shared/errors.js';
import { walkChain } from '../btree/overflow.js';
import {
  CLASS_BYTE,
  CellFlag,
  KIND_BYTE,
  LEVEL_BYTE,
  NEXT_WORD,
  PageKind,
  cellLengthsAt,
  corruptPage,
  readVarint,
  skipVarint,
} from '../btree/page.js';

export const GRANULE_BYTES = 8;
/** Granules of a unit: 2^9. */
export const ADDRESS_UNIT_SHIFT = 9;
export const ADDRESS_SEGMENT_SHIFT = ADDRESS_UNIT_SHIFT + SEGMENT_UNIT_SHIFT;
export const ADDRESS_SEGMENT_MASK = 2 ** ADDRESS_SEGMENT_SHIFT - 1;
/** Units that an address can name. */
export const ADDRESSED_UNITS_MAX = 2 ** (32 - ADDRESS_UNIT_SHIFT);
/** Longer values go to overflow chains. */
export const INLINE_VALUE_BYTES_MAX = 2048;

/** Beside CellFlag, in the flags of a node's cell; the writer's own. */
export const NodeFlag = {
  /** Red–black trees: the node is red. */
  Red: 0x20,
  /** The node stands in the writer's list of nodes to look at again. */
  Listed: 0x40,
  /** Out of the structure, but still in that list, which frees it. */
  Dead: 0x80,
} as const;
const NODE_FLAGS_KNOWN =
  CellFlag.Tombstone | CellFlag.Overflow | CellFlag.Expiry | NodeFlag.Red | NodeFlag.Listed | NodeFlag.Dead;

const DESCRIPTOR_MAGIC = 0x654e4b43; // "CKNe"
export const MAGIC_WORD = 6;
export const FIRST_SLAB_WORD = 7;
export const FIRST_CHAIN_WORD = 8;
export const FIRST_PAGE_WORD = 9;
const IS_LOCKED_WORD = 10;
/** First word of the descriptor that is the engine's. */
export const OWN_WORD = 16;
/** In the first page of an overflow chain of a node: the first page of the next chain. */
export const CHAIN_LINK_WORD = 4;

/** Byte offset of the node in its segment. */
export function nodeOffset(address: number): number {
  return (address & ADDRESS_SEGMENT_MASK) << 3;
}

/** Word of the node in its segment. */
export function nodeWord(address: number): number {
  return (address & ADDRESS_SEGMENT_MASK) << 1;
}

export function nodeSegment(address: number): number {
  return address >>> ADDRESS_SEGMENT_SHIFT;
}

/** Pages never cross a multiple of 32 KiB: nothing of the node lies behind the next one. Byte offset in the segment. */
export function nodeLimit(offset: number): number {
  return (offset | 0x7fff) + 1;
}

/** Word of the page in its segment. */
export function pageWord(unit: UnitId): number {
  return (unit & SEGMENT_UNIT_MASK) << (UNIT_SHIFT - 2);
}

export function corruptNode(address: number, what: string): ConcordError {
  const unit = address >>> ADDRESS_UNIT_SHIFT;
  return new ConcordError('ERR_CORRUPT', `node at unit ${unit} + ${(address & 511) * GRANULE_BYTES}: ${what}`, {
    unit,
  });
}

/** ERR_CORRUPT unless pages of the arena lie there. */
export function checkAddress(arena: ArenaReader, address: number): void {
  const unit = address >>> ADDRESS_UNIT_SHIFT;
  if (!(unit >= HEADER_UNITS && unit < arena.totalUnits)) throw corruptNode(address, 'not in the arena');
}

/** ERR_CORRUPT unless the unit is the descriptor of an engine with that code. */
export function checkDescriptor(arena: ArenaReader, unit: UnitId, code: number): void {
  if (!(unit >= HEADER_UNITS && unit < arena.totalUnits)) throw corruptPage(unit, 'not a unit of the arena');
  const segment = unit >>> SEGMENT_UNIT_SHIFT;
  const words = arena.u32[segment]!;
  const word = pageWord(unit);
  if ((words[word]! & 0xffff) !== (PageKind.Engine | (code << 8)) || words[word + MAGIC_WORD] !== DESCRIPTOR_MAGIC) {
    throw corruptPage(unit, `not the descriptor of an engine with code ${code}`);
  }
}

export function startDescriptor(arena: ArenaReader, unit: UnitId, code: number, isLocked: boolean): void {
  const words = arena.u32[unit >>> SEGMENT_UNIT_SHIFT]!;
  const u8 = arena.u8[unit >>> SEGMENT_UNIT_SHIFT]!;
  const word = pageWord(unit);
  for (let index = 3; index < 1 << (UNIT_SHIFT - 2); index++) words[word + index] = 0;
  u8[word * 4 + KIND_BYTE] = PageKind.Engine;
  u8[word * 4 + LEVEL_BYTE] = code;
  words[word + MAGIC_WORD] = DESCRIPTOR_MAGIC;
  words[word + IS_LOCKED_WORD] = isLocked ? 1 : 0;
}

/** Whether the row's root is the descriptor of an engine that is changed under the latch. */
export function isLockedDescriptor(arena: ArenaReader, unit: UnitId): boolean {
  if (!(unit >= HEADER_UNITS && unit < arena.totalUnits)) return false;
  const words = arena.u32[unit >>> SEGMENT_UNIT_SHIFT]!;
  const word = pageWord(unit);
  return (
    (words[word]! & 0xff) === PageKind.Engine &&
    words[word + MAGIC_WORD] === DESCRIPTOR_MAGIC &&
    words[word + IS_LOCKED_WORD] === 1
  );
}

/** Visits a list of pages that begins in a word of the descriptor. ERR_CORRUPT where it cannot be one. */
export function walkPages(
  arena: ArenaReader,
  descriptor: UnitId,
  firstWord: number,
  linkWord: number,
  kind: number,
  visit: (unit: UnitId, units: number) => void,
): void {
  let unit = arena.u32[descriptor >>> SEGMENT_UNIT_SHIFT]![pageWord(descriptor) + firstWord]!;
  for (let count = 0; unit !== 0; count++) {
    if (!(unit >= HEADER_UNITS && unit < arena.totalUnits) || count > arena.totalUnits) {
      throw corruptPage(unit, 'not a unit of the arena, or a list of pages goes round');
    }
    const segment = unit >>> SEGMENT_UNIT_SHIFT;
    const word = pageWord(unit);
    const u8 = arena.u8[segment]!;
    if (u8[word * 4 + KIND_BYTE] !== kind)
      throw corruptPage(unit, `kind ${u8[word * 4 + KIND_BYTE]!}, expected ${kind}`);
    const next = arena.u32[segment]![word + linkWord]!;
    visit(unit, 1 << (u8[word * 4 + CLASS_BYTE]! & 3));
    unit = next;
  }
}

/** All bytes of the first chain page's overflow chain. */
function chainBytes(arena: ArenaReader, firstUnit: UnitId): number {
  let bytes = 0;
  let unit = firstUnit;
  for (let count = 0; unit !== 0; count++) {
    if (!(unit >= HEADER_UNITS && unit < arena.totalUnits) || count > arena.totalUnits) {
      throw corruptPage(unit, 'not a unit of the arena, or a chain goes round');
    }
    const word = pageWord(unit);
    const words = arena.u32[unit >>> SEGMENT_UNIT_SHIFT]!;
    bytes += words[word + 3]!;
    unit = words[word + NEXT_WORD]!;
  }
  return bytes;
}

export function walkChainPages(
  arena: ArenaReader,
  firstUnit: UnitId,
  visit: (unit: UnitId, units: number) => void,
): void {
  walkChain(arena, firstUnit, chainBytes(arena, firstUnit), (unit, pageClass) => {
    visit(unit, 1 << pageClass);
  });
}

/**
 * Reports every page of the engine whose descriptor that is. Only for the published version: pages of these engines are changed in place, so
 * an older meta page leads to the same ones, or to nothing.
 */
export function markNodePages(
  arena: ArenaReader,
  descriptor: UnitId,
  code: number,
  mark: (unit: UnitId, units: number) => void,
): void {
  if (descriptor === 0) return;
  checkDescriptor(arena, descriptor, code);
  mark(descriptor, 1);
  walkPages(arena, descriptor, FIRST_SLAB_WORD, NEXT_WORD, PageKind.Slab, mark);
  walkPages(arena, descriptor, FIRST_PAGE_WORD, NEXT_WORD, PageKind.Engine, mark);
  walkPages(arena, descriptor, FIRST_CHAIN_WORD, CHAIN_LINK_WORD, PageKind.Overflow, (firstUnit) => {
    walkChainPages(arena, firstUnit, mark);
  });
}

/** A cell taken apart, for walks that are not hot. */
export interface NodeCell {
  flags: number;
  /** Byte offsets in the segment. */
  keyAt: number;
  keyLength: number;
  bodyAt: number;
  valueLength: number;
}

/** ERR_CORRUPT if the cell does not lie in its page. */
export function readCell(u8: Uint8Array, address: number, cell: number, into: NodeCell): NodeCell {
  const flags = u8[cell]!;
  const lengthsAt = cellLengthsAt(u8, cell);
  const keyLengthAt = skipVarint(u8, lengthsAt);
  into.flags = flags;
  into.valueLength = readVarint(u8, lengthsAt);
  into.keyLength = readVarint(u8, keyLengthAt);
  into.keyAt = skipVarint(u8, keyLengthAt);
  into.bodyAt = into.keyAt + into.keyLength;
  const bodyBytes = (flags & CellFlag.Overflow) !== 0 ? 4 : into.valueLength;
  if ((flags & ~NODE_FLAGS_KNOWN) !== 0) throw corruptNode(address, `unknown flags ${flags}`);
  if (!(into.bodyAt + bodyBytes <= nodeLimit(nodeOffset(address))))
    throw corruptNode(address, 'a cell reaches beyond its page');
  return into;
}
