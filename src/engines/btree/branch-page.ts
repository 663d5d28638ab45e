/**
 * Entries of a branch page that may be changed in place: one comes, one goes, and the three arrays close up.
 *
 * Must hold: count, cellStart and garbage say what the page holds; entry 0 has no separator. The caller has made the page its own and found the room.
 * Threads: the shard thread only.
 */
import type { UnitId } from '../../shared/memory/arena.js';
import {
  CELL_START_HALFWORD,
  COUNT_HALFWORD,
  GARBAGE_HALFWORD,
  PREFIX_LENGTH_HALFWORD,
  SEQ_BYTES,
  copyBytes,
  headOf,
  headsOffset,
  readVarint,
  writeSeq,
  writeVarint,
} from './page.js';

export function branchCellBytes(suffixLength: number, seq: number): number {
  return (suffixLength < 0x40 ? 1 : 2) + suffixLength + (seq === Infinity ? 0 : SEQ_BYTES);
}

/** Entry 0 has no separator: when it goes, the next one loses its own. */
export function removeBranchEntry(
  u8: Uint8Array,
  u16: Uint16Array,
  u32: Uint32Array,
  base: number,
  index: number,
): void {
  const half = base >>> 1;
  const count = u16[half + COUNT_HALFWORD]!;
  const heads = (base + headsOffset(u16[half + PREFIX_LENGTH_HALFWORD]!)) >>> 2;
  const children = heads + count;
  const offsets = (heads + 2 * count) << 1;
  const dead = index === 0 ? 1 : index;
  if (dead < count) {
    const cell = u16[offsets + dead]!;
    const lengthAndFlag = readVarint(u8, base + cell);
    const bytes = branchCellBytes(lengthAndFlag >>> 1, (lengthAndFlag & 1) === 0 ? Infinity : 0);
    if (cell === u16[half + CELL_START_HALFWORD]) u16[half + CELL_START_HALFWORD] = cell + bytes;
    else u16[half + GARBAGE_HALFWORD]! += bytes;
  }
  for (let at = dead; at + 1 < count; at++) u32[heads + at] = u32[heads + at + 1]!;
  const movedChildren = children - 1;
  for (let at = 0; at < index; at++) u32[movedChildren + at] = u32[children + at]!;
  for (let at = index; at + 1 < count; at++) u32[movedChildren + at] = u32[children + at + 1]!;
  const movedOffsets = offsets - 4;
  for (let at = 0; at < dead; at++) u16[movedOffsets + at] = u16[offsets + at]!;
  for (let at = dead; at + 1 < count; at++) u16[movedOffsets + at] = u16[offsets + at + 1]!;
  u16[half + COUNT_HALFWORD] = count - 1;
}

/** The (key, seq) fits between its neighbours, and into the page. */
export function insertBranchEntry(
  u8: Uint8Array,
  u16: Uint16Array,
  u32: Uint32Array,
  base: number,
  index: number,
  child: UnitId,
  key: Uint8Array,
  keyStart: number,
  keyLength: number,
  seq: number,
): void {
  const half = base >>> 1;
  const count = u16[half + COUNT_HALFWORD]!;
  const prefixLength = u16[half + PREFIX_LENGTH_HALFWORD]!;
  const suffixLength = keyLength - prefixLength;
  const heads = (base + headsOffset(prefixLength)) >>> 2;
  const children = heads + count;
  const offsets = (heads + 2 * count) << 1;
  const movedOffsets = offsets + 4;
  for (let at = count - 1; at >= index; at--) u16[movedOffsets + at + 1] = u16[offsets + at]!;
  for (let at = index - 1; at >= 0; at--) u16[movedOffsets + at] = u16[offsets + at]!;
  const movedChildren = children + 1;
  for (let at = count - 1; at >= index; at--) u32[movedChildren + at + 1] = u32[children + at]!;
  for (let at = index - 1; at >= 0; at--) u32[movedChildren + at] = u32[children + at]!;
  for (let at = count - 1; at >= index; at--) u32[heads + at + 1] = u32[heads + at]!;
  const cell = u16[half + CELL_START_HALFWORD]! - branchCellBytes(suffixLength, seq);
  let at = writeVarint(u8, base + cell, suffixLength * 2 + (seq === Infinity ? 0 : 1));
  if (seq !== Infinity) {
    writeSeq(u8, at, seq);
    at += SEQ_BYTES;
  }
  copyBytes(key, keyStart + prefixLength, suffixLength, u8, at);
  u16[half + CELL_START_HALFWORD] = cell;
  u16[half + COUNT_HALFWORD] = count + 1;
  u16[movedOffsets + index] = cell;
  u32[movedChildren + index] = child;
  u32[heads + index] = headOf(key, keyStart + prefixLength, suffixLength);
}
