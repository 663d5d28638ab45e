/**
 * The express lane: an index over the nodes of a skip list, so that a search starts beside its target.
 *
 *   block (1 KiB)   header of 32 bytes · nodes u32[82] · high u32[82] · low u32[82]          four blocks in a page
 *     level 0       nodes: of the list
 *     level n       nodes: blocks of level n - 1; a block's number is unit × 4 + place in the page
 *   (high, low)     60 bits of a key behind the `prefixLength` bytes that all keys of the block share; the last four bits: the node's height.
 *                   On level n a key that is ≤ every key of the block there and > every key of the block before
 *   header          24 bytes of the page's header (first block; else nothing) · count u16 · prefixLength u16 · LANE_TAG + level u32
 *
 * A skip list touches two or three nodes on each level if every fourth is higher, and in a large one each is a miss of cache and TLB (170 ns measured, for a key compare
 * of 15). Heads stand close together: a search through the lane costs about two misses for all levels, and mostly names the very node. At 1 M
 * entries lookups are four times as fast as without it; with only every fourth or sixteenth node in the lane, twice or one and a half times.
 *
 * Correctness does not depend on it. The one invariant: a node leaves the lane before it is freed, and no word of `nodes`, not even behind the count,
 * still has its address then. Where the lane leads is a hint: a search compares
 * the key of the node it was given, goes on from there upwards and forwards if it is smaller than what it looks for, and starts at the list's head
 * if it is not. That is why blocks may change in place under their readers, by plain stores of words: half-shifted arrays, heads beside the address
 * of another entry, a new prefix length beside old heads cost steps, never an answer. And it is why a search need not check that its key shares the
 * prefix. The writer does check: for it alone heads are exact.
 *
 * A block that was emptied is used again at once, but never for nodes if it was for blocks, or the other way round. Blocks are small because entries are
 * shifted one word at a time: it is most of the price of an insert.
 *
 * All pages hang on the descriptor's list of pages, so that they are found whatever the writer was doing when it died; the next one retires them
 * and builds the lane anew. When memory is short a node is left out.
 * Threads: LaneView any, under a pin; its writer (lane-writer.ts) the shard thread only.
 */
import { SEGMENT_UNIT_SHIFT, UNIT_SHIFT, type ArenaReader } from '../../shared/memory/arena.js';
import { headOf } from '../btree/page.js';
import { compareNode } from './node.js';

/** Blocks of a page: 2^2. */
export const PAGE_BLOCK_SHIFT = 2;
export const PAGE_BLOCKS = 1 << PAGE_BLOCK_SHIFT;
const BLOCK_WORD_SHIFT = UNIT_SHIFT - 2 - PAGE_BLOCK_SHIFT;
export const BLOCK_SEGMENT_SHIFT = SEGMENT_UNIT_SHIFT + PAGE_BLOCK_SHIFT;
const BLOCK_SEGMENT_MASK = (1 << BLOCK_SEGMENT_SHIFT) - 1;
/** Low half: entries. High half: bytes of the prefix. */
export const COUNT_WORD = 6;
export const TAG_WORD = 7;
export const NODES_WORD = 8;
/** Entries of a block. */
export const LANE_BLOCK_ENTRIES = Math.floor(((1 << BLOCK_WORD_SHIFT) - NODES_WORD) / 3);
export const HIGH_WORD = NODES_WORD + LANE_BLOCK_ENTRIES;
export const LOW_WORD = HIGH_WORD + LANE_BLOCK_ENTRIES;
/** 41^6 entries in half-full blocks: more than addresses. */
export const LANE_LEVELS_MAX = 7;
export const LANE_TAG = 0x6c614e00;
/** Bits of `low` that are not of the key. */
export const HEIGHT_BITS = 4;
export const HEIGHT_MASK = (1 << HEIGHT_BITS) - 1;

export const NONE = 0;

/** Index of the block's first word in its segment. */
export function wordOf(block: number): number {
  return (block & BLOCK_SEGMENT_MASK) << BLOCK_WORD_SHIFT;
}

/** Level of a block, -1 if it is none. */
export function levelOf(arena: ArenaReader, block: number): number {
  const tag = arena.u32[block >>> BLOCK_SEGMENT_SHIFT]?.[wordOf(block) + TAG_WORD] ?? 0;
  const level = tag - LANE_TAG;
  return level >= 0 && level < LANE_LEVELS_MAX ? level : -1;
}

/** The leftmost node below an entry of a block of that level, 0 if there is none. */
export function firstNode(arena: ArenaReader, entry: number, level: number): number {
  for (; level > 0; level--) {
    if (levelOf(arena, entry) !== level - 1) return NONE;
    entry = arena.i32[entry >>> BLOCK_SEGMENT_SHIFT]![wordOf(entry) + NODES_WORD]!;
  }
  return entry;
}

export function headsEqual(u32: Uint32Array, word: number, index: number, high: number, low: number): boolean {
  return u32[word + HIGH_WORD + index] === high && u32[word + LOW_WORD + index]! >>> HEIGHT_BITS === low;
}

/** First entry from `from` on whose heads are not smaller. */
export function ceilingByHeads(u32: Uint32Array, word: number, count: number, high: number, low: number): number {
  const highs = word + HIGH_WORD;
  const lows = word + LOW_WORD;
  let from = 0;
  let to = count;
  while (from < to) {
    const middle = (from + to) >>> 1;
    const head = u32[highs + middle]!;
    if (head < high || (head === high && u32[lows + middle]! >>> HEIGHT_BITS < low)) from = middle + 1;
    else to = middle;
  }
  return from;
}

/** Among the entries from `from` on that have the heads of the key, the first whose whole key is not smaller; the one behind them if all are. */
export function ceilingOfEqual(
  arena: ArenaReader,
  block: number,
  from: number,
  count: number,
  level: number,
  high: number,
  low: number,
  key: Uint8Array,
  keyStart: number,
  keyLength: number,
): number {
  const word = wordOf(block);
  const u32 = arena.u32[block >>> BLOCK_SEGMENT_SHIFT]!;
  let to = from;
  while (to < count && headsEqual(u32, word, to, high, low)) to++;
  while (from < to) {
    const middle = (from + to) >>> 1;
    const node = firstNode(arena, u32[word + NODES_WORD + middle]! | 0, level);
    if (node !== NONE && compareNode(arena, node, key, keyStart, keyLength) < 0) from = middle + 1;
    else to = middle;
  }
  return from;
}

/** The way through the lane for searches. Any thread, under a pin; one per search. */
export class LaneView {
  readonly #arena: ArenaReader;
  /** A node that probably stands shortly before the key; 0: no idea. */
  before = NONE;
  /** The node after it, if its heads are those of the key, else 0. */
  match = NONE;

  constructor(arena: ArenaReader) {
    this.#arena = arena;
  }

  /** Sets `before` and `match`: to be compared, see the head. */
  seek(rootBlock: number, key: Uint8Array, keyStart: number, keyLength: number): void {
    const arena = this.#arena;
    this.before = NONE;
    this.match = NONE;
    let block = rootBlock;
    let prefixLength = -1;
    let high = 0;
    let low = 0;
    for (let level = levelOf(arena, block); level >= 0; level--) {
      const segment = block >>> BLOCK_SEGMENT_SHIFT;
      const u32 = arena.u32[segment]!;
      const word = wordOf(block);
      const header = u32[word + COUNT_WORD]!;
      const count = header & 0xffff;
      if (count === 0 || count > LANE_BLOCK_ENTRIES) return;
      if (header >>> 16 !== prefixLength) {
        prefixLength = header >>> 16;
        const at = keyStart + prefixLength;
        const length = keyLength - prefixLength;
        high = headOf(key, at, length);
        low = headOf(key, at + 4, length - 4) >>> HEIGHT_BITS;
      }
      let ceiling = ceilingByHeads(u32, word, count, high, low);
      let isEqual = ceiling < count && headsEqual(u32, word, ceiling, high, low);
      // One entry alone is compared by whoever asked. On higher levels it is a hop forward from the block before.
      if (isEqual && ceiling + 1 < count && headsEqual(u32, word, ceiling + 1, high, low)) {
        ceiling = ceilingOfEqual(arena, block, ceiling, count, level, high, low, key, keyStart, keyLength);
        isEqual = ceiling < count && headsEqual(u32, word, ceiling, high, low);
      }
      const i32 = arena.i32[segment]!;
      const nodes = word + NODES_WORD;
      if (level === 0) {
        if (ceiling > 0) this.before = i32[nodes + ceiling - 1]!;
        if (isEqual) this.match = i32[nodes + ceiling]!;
        return;
      }
      block = i32[nodes + (ceiling === 0 ? 0 : ceiling - 1)]!;
      // It may have become another block since: then the way ends here.
      if (levelOf(arena, block) !== level - 1) return;
    }
  }
}
