/**
 * The page format of the B+Tree: offsets, sizes, kinds. Shared by writer, readers, images and checks. FORMAT.md beside this file
 * has the picture and worked examples; golden bytes: test/golden/btree-pages.txt.
 *
 *   offset  size  field         every page
 *        0     1  kind          PageKind
 *        1     1  level         0 = leaf, one more per level above; 0 in overflow and meta pages
 *        2     1  class         log2 of the page's 4 KiB units, 0 … 3
 *        3     1  flags         0, or PAGE_UNREAD in memory
 *        4     6  birth         epoch of the publication that first showed the page (owned by the arena)
 *       10     2  count         entries (leaf, branch), trees (meta), 0 (overflow)
 *       12     2  prefixLength  leaf, branch; in overflow pages bytes 12 … 15 are the payload length
 *       14     2  cellStart     first byte of the cell area
 *       16     2  garbage       bytes of the cell area that belong to no cell
 *       18     2  reserved      0; number of the page file in a tree that has one (paged/format.ts)
 *       20     4  next          overflow: next page of the chain, 0 at its end; else 0, or where the page file has this page as it is
 *
 *   leaf     prefix · pad to 4 · heads u32[count] · offsets u16[count] · gap · cells
 *   branch   prefix · pad to 4 · heads u32[count] · children u32[count] · offsets u16[count] · gap · cells
 *
 * A head is the first 4 bytes, big-endian and zero-padded, of the key after the page's prefix: numbers in key order, so that a
 * search stays in one small array and touches a cell only where heads are equal.
 *
 *   leaf cell    flags u8 · seq u48 · expiresAt u48 ms if CellFlag.Expiry · valueLength varint · suffixLength varint · suffix
 *                · value or (overflow) first unit u32
 *   branch cell  suffixLength × 2 + hasSeq varint · seq u48 if hasSeq · suffix
 *
 * Order is (key ascending, seq descending). Entry i of a branch leads to everything ≥ its separator and < the next one; a separator
 * without seq stands before all versions of its key. Entry 0 has no separator: head 0, offset 0, no cell.
 * Integers are little-endian. The gap and the garbage hold anything.
 */
import { ConcordError } from '../../shared/errors.js';
import type { UnitId } from '../../shared/memory/arena.js';

// In images on disk: never renumber, never reuse.
// Slab, Engine and Lsm never stand in images: entries of other engines go to disk one by one.
export const PageKind = { Leaf: 1, Branch: 2, Overflow: 3, Meta: 4, Slab: 5, Engine: 6, Lsm: 7 } as const;

export const PAGE_HEADER_BYTES = 24;
export const KIND_BYTE = 0;
export const LEVEL_BYTE = 1;
export const CLASS_BYTE = 2;
export const PAGE_FLAGS_BYTE = 3;
/** Of a leaf: nobody has looked at it since this was set. Readers take it away; only the pager sets it. */
export const PAGE_UNREAD = 1;
export const COUNT_HALFWORD = 5;
export const PREFIX_LENGTH_HALFWORD = 6;
export const CELL_START_HALFWORD = 7;
export const GARBAGE_HALFWORD = 8;
export const RESERVED_HALFWORD = 9;
export const PAYLOAD_BYTES_WORD = 3;
export const NEXT_WORD = 5;

export const LEAF_SLOT_BYTES = 6;
export const BRANCH_SLOT_BYTES = 10;
export const SEQ_BYTES = 6;
export const PAGE_CLASS_MAX = 3;
export const UNITS_OF_CLASS = [1, 2, 4, 8] as const;
export const PAGE_BYTES_MAX = 32768;
export const HEIGHT_MAX = 64;
export const KEY_BYTES_MAX = 4096;
export const VALUE_BYTES_MAX = 0x7fffffff;

/** Bits of a leaf cell's flags. */
export const CellFlag = {
  Tombstone: 1,
  Overflow: 2,
  /** Six bytes of expiry time follow the seq. Never on a tombstone. */
  Expiry: 4,
} as const;
export const CELL_FLAGS_KNOWN = CellFlag.Tombstone | CellFlag.Overflow | CellFlag.Expiry;
/** Offset of the expiry time in a leaf cell that has one. */
export const CELL_EXPIRY_OFFSET = 1 + SEQ_BYTES;
export const EXPIRY_BYTES = 6;
/** Offset of valueLength in a leaf cell that does not expire: flags and seq come before it. */
export const CELL_LENGTHS_OFFSET = 1 + SEQ_BYTES;

const TWO_32 = 4294967296;

/** Offset of the heads array from the page's start. */
export function headsOffset(prefixLength: number): number {
  return PAGE_HEADER_BYTES + ((prefixLength + 3) & ~3);
}

/** Word index of a branch's children array. */
export function childrenWord(u16: Uint16Array, base: number): number {
  const half = base >>> 1;
  return ((base + headsOffset(u16[half + PREFIX_LENGTH_HALFWORD]!)) >>> 2) + u16[half + COUNT_HALFWORD]!;
}

/** Halfword index of a branch's offsets array. */
export function branchOffsetsHalfword(u16: Uint16Array, base: number): number {
  const half = base >>> 1;
  return (((base + headsOffset(u16[half + PREFIX_LENGTH_HALFWORD]!)) >>> 2) + 2 * u16[half + COUNT_HALFWORD]!) << 1;
}

/** Halfword index of a leaf's offsets array. */
export function leafOffsetsHalfword(u16: Uint16Array, base: number): number {
  const half = base >>> 1;
  return (((base + headsOffset(u16[half + PREFIX_LENGTH_HALFWORD]!)) >>> 2) + u16[half + COUNT_HALFWORD]!) << 1;
}

export function varintBytes(value: number): number {
  if (value < 0x80) return 1;
  if (value < 0x4000) return 2;
  if (value < 0x200000) return 3;
  return value < 0x10000000 ? 4 : 5;
}

/** Returns the offset after it. */
export function writeVarint(u8: Uint8Array, at: number, value: number): number {
  while (value >= 0x80) {
    u8[at++] = value | 0x80;
    value >>>= 7;
  }
  u8[at++] = value;
  return at;
}

/** At most 5 bytes. A sixth continuation byte is not looked at; lengths are checked against the page by the caller. */
export function readVarint(u8: Uint8Array, at: number): number {
  let value = u8[at]!;
  if (value < 0x80) return value;
  value &= 0x7f;
  for (let shift = 7; shift <= 28; shift += 7) {
    const byte = u8[++at]!;
    value |= (byte & 0x7f) << shift;
    if (byte < 0x80) break;
  }
  return value >>> 0;
}

/** Where valueLength stands in the leaf cell: behind the expiry time, if there is one. */
export function cellLengthsAt(u8: Uint8Array, cell: number): number {
  return cell + CELL_LENGTHS_OFFSET + ((u8[cell]! & CellFlag.Expiry) >> 2) * EXPIRY_BYTES;
}

/** When the leaf cell expires, in ms since the epoch; 0: never. */
export function cellExpiresAt(u8: Uint8Array, cell: number): number {
  return (u8[cell]! & CellFlag.Expiry) === 0 ? 0 : readSeq(u8, cell + CELL_EXPIRY_OFFSET);
}

/** Offset after the varint at `at`. */
export function skipVarint(u8: Uint8Array, at: number): number {
  if (u8[at]! < 0x80) return at + 1;
  const end = at + 5;
  while (u8[at]! >= 0x80 && at < end) at++;
  return at + 1;
}

export function readSeq(u8: Uint8Array, at: number): number {
  return (
    (u8[at]! | (u8[at + 1]! << 8) | (u8[at + 2]! << 16) | (u8[at + 3]! << 24)) +
    (u8[at + 3]! >= 0x80 ? TWO_32 : 0) +
    (u8[at + 4]! | (u8[at + 5]! << 8)) * TWO_32
  );
}

export function writeSeq(u8: Uint8Array, at: number, seq: number): void {
  const low = seq >>> 0;
  const high = (seq - low) / TWO_32;
  u8[at] = low;
  u8[at + 1] = low >>> 8;
  u8[at + 2] = low >>> 16;
  u8[at + 3] = low >>> 24;
  u8[at + 4] = high;
  u8[at + 5] = high >>> 8;
}

/** Byte by byte up to a few cache lines, native above: a native copy costs 200 ns before its first byte. */
export function copyBytes(from: Uint8Array, start: number, length: number, to: Uint8Array, at: number): void {
  if (length > 512) {
    to.set(from.subarray(start, start + length), at);
    return;
  }
  for (let index = 0; index < length; index++) to[at + index] = from[start + index]!;
}

export function corruptPage(unit: UnitId, what: string): ConcordError {
  return new ConcordError('ERR_CORRUPT', `page at unit ${unit}: ${what}`, { unit });
}

/** The first 4 bytes big-endian, zero-padded. */
export function headOf(key: Uint8Array, start: number, length: number): number {
  if (length >= 4) {
    return ((key[start]! << 24) | (key[start + 1]! << 16) | (key[start + 2]! << 8) | key[start + 3]!) >>> 0;
  }
  let head = 0;
  for (let index = 0; index < 4; index++) head = (head << 8) | (index < length ? key[start + index]! : 0);
  return head >>> 0;
}
