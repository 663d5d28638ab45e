/**
 * A node of the skip list: its links, and how its key compares. What all nodes have in common stands in cells/node.ts.
 *
 *   word 0          older   the next older version of the key, 0: none
 *   word 1          height  links of this node, 1 … HEIGHT_MAX
 *   word 2 … 1 + h  links   the next node on level 0 … h - 1, 0 at the end
 *   then            the cell
 *
 * A node is higher than h with probability 16^-h: the levels are for searches that the express lane does not help. All versions of a key have one height;
 * only the newest is in the list.
 *
 *   word  own words of the descriptor
 *     16  laneRoot      root page of the express lane, 0: none
 *     17  isFrozen      1: nothing changes any more
 *  18 … 31              0 (for range tombstones)
 *  32 … 45  head        where the list begins: a node without a cell, HEIGHT_MAX high
 *
 * Links change by single stores. A node that was taken out keeps its own, so a reader that stands on it finds back into the list.
 * Threads: any, under a pin; pure functions.
 */
import type { ArenaReader, UnitId } from '../../shared/memory/arena.js';
import { cellLengthsAt } from '../btree/page.js';
import { ADDRESS_UNIT_SHIFT, OWN_WORD, corruptNode, nodeSegment, nodeWord } from '../cells/node.js';

export const HEIGHT_WORD = 1;
export const LINKS_WORD = 2;
export const LANE_ROOT_WORD = OWN_WORD;
export const IS_FROZEN_WORD = OWN_WORD + 1;
const HEAD_WORD = 32;

/** More than 16^5 nodes ever need; a level that is empty costs a search one step. */
export const HEIGHT_MAX = 12;

/**
 * Steps of one search: ten times more than a sound list ever takes (a run of 1,000 nodes without a higher one has probability 1e-28), few
 * enough to end within milliseconds in a list that wrong bytes have closed to a circle.
 */
export const SEARCH_STEPS_MAX = 1 << 14;

/** Address of the list's head. */
export function headOfList(descriptor: UnitId): number {
  return (descriptor * (1 << ADDRESS_UNIT_SHIFT) + HEAD_WORD / 2) | 0;
}

/** @throws ERR_CORRUPT if there cannot be such a node */
export function heightOf(arena: ArenaReader, node: number): number {
  const words = arena.u32[nodeSegment(node)];
  const height = words === undefined ? 0 : words[nodeWord(node) + HEIGHT_WORD]!;
  if (!(height >= 1 && height <= HEIGHT_MAX)) throw corruptNode(node, `a height of ${height}`);
  return height;
}

/** Byte offset of the cell in its segment. */
export function cellOf(arena: ArenaReader, node: number): number {
  return (nodeWord(node) + LINKS_WORD + heightOf(arena, node)) << 2;
}

/** The next node on a level below the node's height. */
export function linkOf(arena: ArenaReader, node: number, level: number): number {
  return arena.i32[nodeSegment(node)]![nodeWord(node) + LINKS_WORD + level]!;
}

/** Byte offset of the cell's keyLength. */
export function keyLengthAt(u8: Uint8Array, cell: number): number {
  let at = cellLengthsAt(u8, cell);
  if (u8[at++]! < 0x80) return at;
  const end = at + 4;
  while (at < end && u8[at]! >= 0x80) at++;
  return at + 1;
}

/** < 0 if the node's key is smaller than the given one, 0 if equal. */
export function compareNode(
  arena: ArenaReader,
  node: number,
  key: Uint8Array,
  keyStart: number,
  keyLength: number,
): number {
  const cell = cellOf(arena, node);
  const u8 = arena.u8[nodeSegment(node)]!;
  let at = keyLengthAt(u8, cell);
  let ownLength = u8[at++]!;
  if (ownLength >= 0x80) ownLength = (ownLength & 0x7f) | (u8[at++]! << 7);
  const length = ownLength < keyLength ? ownLength : keyLength;
  for (let index = 0; index < length; index++) {
    const difference = u8[at + index]! - key[keyStart + index]!;
    if (difference !== 0) return difference;
  }
  return ownLength - keyLength;
}
