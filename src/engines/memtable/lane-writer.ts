/**
 * The writer's side of the express lane: what it is, and what must hold for its readers, stands in lane.ts.
 *
 * For the writer heads are exact, since it checks that a key shares the prefixes on its way. So locate() mostly tells a key's neighbours without a look at
 * any node but the one before it, and the heights beside the heads tell where the levels above are to be linked.
 * Threads: the shard thread only.
 */
import { assert } from '../../shared/assert.js';
import { SEGMENT_UNIT_SHIFT, type ArenaWriter, type UnitId } from '../../shared/memory/arena.js';
import { KEY_BYTES_MAX, headOf, readVarint, skipVarint } from '../btree/page.js';
import { nodeSegment } from '../cells/node.js';
import {
  BLOCK_SEGMENT_SHIFT,
  COUNT_WORD,
  HEIGHT_BITS,
  HEIGHT_MASK,
  HIGH_WORD,
  LANE_BLOCK_ENTRIES,
  LANE_LEVELS_MAX,
  LANE_TAG,
  LOW_WORD,
  NODES_WORD,
  NONE,
  PAGE_BLOCKS,
  PAGE_BLOCK_SHIFT,
  TAG_WORD,
  ceilingByHeads,
  ceilingOfEqual,
  firstNode,
  headsEqual,
  levelOf,
  wordOf,
} from './lane.js';
import { cellOf, heightOf, keyLengthAt } from './node.js';

/** Blocks that are looked through for a high node before the list itself is searched. */
const LEFT_BLOCKS_MAX = 16;
/** Pages that a group may take whatever it does, and operations for each further one: what admission must count with. */
export const LANE_GROUP_PAGES = 3;
export const LANE_OPERATIONS_PER_PAGE = 64;

/** Where the lane's pages come from: they are all pages that the engine has of its own. */
export interface LanePages {
  /** A page of one unit. @throws ERR_MEMORY_FULL */
  allocate(): UnitId;
  /** Out of readers' way, to be freed when those that may stand on it have left. */
  retire(unit: UnitId): void;
  all(): UnitId[];
}

/** The writer's side. */
export class ExpressLane {
  readonly #arena: ArenaWriter;
  readonly #pages: LanePages;
  /** Where the root's number stands: in the descriptor. */
  #words: Uint32Array;
  #rootWord = 0;
  #rootBlock = NONE;
  /** The way of the last descent, by level: block, and the entry that it took (-1: before the first). */
  readonly #pathBlocks = new Uint32Array(LANE_LEVELS_MAX);
  readonly #pathEntries = new Int32Array(LANE_LEVELS_MAX);
  /** The same for blocks further left, see beforeAt(). */
  readonly #leftBlocks = new Uint32Array(LANE_LEVELS_MAX);
  readonly #leftEntries = new Int32Array(LANE_LEVELS_MAX);
  /** The longest prefix of a block on the path: where the key shares it with those there, the path is right. */
  #pathPrefixLength = 0;
  /** The path leads beside the taken key for certain, and nothing has changed since. */
  #isLocated = false;
  /** The path's block of level 1 is tried first: the last two keys were both below it, and it has not changed since. */
  #isNear = false;
  /** Of the key that is looked for or taken in. */
  #keyBytes: Uint8Array;
  #keyAt = 0;
  #keyLength = 0;
  #sharedOrder = 0;
  /** Its heads behind a prefix of so many bytes; -1: not made yet. */
  #headsPrefixLength = -1;
  #high = 0;
  #low = 0;
  /** In operations; see LANE_OPERATIONS_PER_PAGE. */
  #credit = Infinity;
  #entries = 0;
  /** Blocks in use of each page. */
  readonly #blocksOfPage = new Map<UnitId, number>();
  /** Blocks that may be taken: of nodes, and of blocks. */
  #freeNodeBlocks: number[] = [];
  #freeBranchBlocks: number[] = [];
  /** What locate() found: the last node before the key, and the node after it if it stands in the same block. */
  before = NONE;
  after = NONE;
  /** `after` may have the key itself; else it is greater. */
  mayMatch = false;

  constructor(arena: ArenaWriter, pages: LanePages) {
    this.#arena = arena;
    this.#pages = pages;
    this.#words = arena.u32[0]!;
    this.#keyBytes = arena.u8[0]!;
  }

  /** `rootWord`: in the segment's words. What a former writer left is retired: the lane is empty. */
  open(words: Uint32Array, rootWord: number): void {
    this.#words = words;
    this.#rootWord = rootWord;
    this.clear();
  }

  get rootBlock(): number {
    return this.#rootBlock;
  }

  /** Nodes in it; fewer than in the list if memory was short. */
  get entries(): number {
    return this.#entries;
  }

  /** A group begins: it may take LANE_GROUP_PAGES pages, and one more for LANE_OPERATIONS_PER_PAGE operations each. */
  beginGroup(): void {
    this.#credit = LANE_GROUP_PAGES * LANE_OPERATIONS_PER_PAGE;
  }

  countOperation(): void {
    this.#credit++;
  }

  // ---- the writer's own searches ------------------------------------------------------------------------------------------------

  /**
   * Finds the key's place. True: `before` is smaller than the key, and `after`, if not 0, is not smaller and follows it in the lane. False: the lane
   * does not know. The bytes must stay as they are until the place is used.
   */
  locate(key: Uint8Array, keyStart: number, keyLength: number): boolean {
    this.#isLocated = false;
    if (this.#rootBlock === 0) return false;
    this.#setKey(key, keyStart, keyLength);
    if (!this.#isNear || !this.#descendNear()) {
      const parent = this.#pathBlocks[1]!;
      this.#descend(0, false);
      this.#isNear = this.#pathBlocks[1] === parent && this.#rootBlock !== this.#pathBlocks[0];
    }
    const floor = this.#pathEntries[0]!;
    if (floor < 0) return false;
    const block = this.#pathBlocks[0]!;
    const before = this.#nodeAt(block, floor);
    if (this.#sharedWith(before) < this.#pathPrefixLength || this.#sharedOrder >= 0) return false;
    this.before = before;
    this.#takeAfter(block, floor + 1);
    this.#isLocated = true;
    return true;
  }

  #takeAfter(block: number, index: number): void {
    this.after = NONE;
    this.mayMatch = false;
    if (index >= this.#countOf(block)) return;
    this.after = this.#nodeAt(block, index);
    this.#makeHeads(this.#prefixLengthOf(block));
    const u32 = this.#arena.u32[block >>> BLOCK_SEGMENT_SHIFT]!;
    this.mayMatch = headsEqual(u32, wordOf(block), index, this.#high, this.#low >>> HEIGHT_BITS);
  }

  /** The place of a key behind `before`, which insert() or replace() has just put there: false if the lane does not know that it fits there. */
  locateNext(key: Uint8Array, keyStart: number, keyLength: number): boolean {
    if (!this.#isLocated) return false;
    this.#setKey(key, keyStart, keyLength);
    this.#isLocated = this.#sharedWith(this.before) >= this.#pathPrefixLength && this.#sharedOrder < 0;
    if (this.#isLocated) this.#takeAfter(this.#pathBlocks[0]!, this.#pathEntries[0]! + 1);
    return this.#isLocated;
  }

  /** The last node up to the located place that is higher than `level`; 0 if none is near. */
  beforeAt(level: number): number {
    if (!this.#isLocated) return NONE;
    let block = this.#pathBlocks[0]!;
    let index = this.#pathEntries[0]!;
    for (let blocks = 0; blocks < LEFT_BLOCKS_MAX && block !== NONE; blocks++) {
      const u32 = this.#arena.u32[block >>> BLOCK_SEGMENT_SHIFT]!;
      const lows = wordOf(block) + LOW_WORD;
      for (; index >= 0; index--) {
        if ((u32[lows + index]! & HEIGHT_MASK) > level) return this.#nodeAt(block, index);
      }
      block = this.#blockToTheLeft(blocks === 0);
      index = block === NONE ? -1 : this.#countOf(block) - 1;
    }
    return NONE;
  }

  /** The block of nodes before the located one, or before the one this has returned. */
  #blockToTheLeft(isFirst: boolean): number {
    const blocks = this.#leftBlocks;
    const entries = this.#leftEntries;
    if (isFirst) {
      blocks.set(this.#pathBlocks);
      entries.set(this.#pathEntries);
    }
    const top = levelOf(this.#arena, this.#rootBlock);
    let level = 1;
    while (level <= top && entries[level] === 0) level++;
    if (level > top) return NONE;
    entries[level]!--;
    for (; level > 0; level--) {
      const below = this.#nodeAt(blocks[level]!, entries[level]!);
      blocks[level - 1] = below;
      entries[level - 1] = this.#countOf(below) - 1;
    }
    return blocks[0]!;
  }

  /** The first node behind the located place that is higher than `level`; 0 if the block has none. */
  afterAt(level: number): number {
    if (!this.#isLocated) return NONE;
    const block = this.#pathBlocks[0]!;
    const u32 = this.#arena.u32[block >>> BLOCK_SEGMENT_SHIFT]!;
    const lows = wordOf(block) + LOW_WORD;
    const count = this.#countOf(block);
    for (let index = this.#pathEntries[0]! + 1; index < count; index++) {
      if ((u32[lows + index]! & HEIGHT_MASK) > level) return this.#nodeAt(block, index);
    }
    return NONE;
  }

  // ---- changes ------------------------------------------------------------------------------------------------------------------

  /**
   * Takes the node in; it must be in the list, by a store that is a fence. At the located place, which moves behind it. Left out if there is no memory
   * for it.
   */
  insert(node: number): void {
    const block = this.#pathBlocks[0]!;
    if (this.#isLocated && this.#countOf(block) < LANE_BLOCK_ENTRIES) {
      this.#insertAt(block, ++this.#pathEntries[0]!, node, node);
      this.before = node;
      this.#entries++;
      return;
    }
    this.#isLocated = false;
    this.#isNear = false;
    if (this.#add(0, node, node)) this.#entries++;
  }

  /** The new node has the key and the height of the old one. */
  replace(old: number, node: number): void {
    this.#fence();
    // At the located place the path stays good, and moves behind the node.
    const isHere = this.#isLocated && this.after === old;
    const index = this.#find(old);
    this.#isLocated = isHere && index >= 0;
    if (index < 0) return;
    this.#setNode(this.#pathBlocks[0]!, index, node);
    this.#pathEntries[0] = index;
    this.before = node;
  }

  /** Before the node leaves the list. */
  remove(node: number): void {
    const index = this.#find(node);
    this.#isLocated = false;
    this.#isNear = false;
    if (index < 0) return;
    this.#pathEntries[0] = index;
    this.#removeEntry(0);
    this.#entries--;
  }

  /** Takes in a node that is behind all others. For lists that are built in order. */
  append(node: number): void {
    this.#fence();
    this.#isLocated = false;
    this.#isNear = false;
    if (this.#add(0, node, node)) this.#entries++;
  }

  /** Whoever meets the node's address in the lane must see the node: processors that reorder stores could show the plain ones below first. */
  #fence(): void {
    Atomics.add(this.#words, this.#rootWord, 0);
  }

  /** Retires all pages. Readers start at the list's head from now on. */
  clear(): void {
    this.#isLocated = false;
    this.#isNear = false;
    this.#setRoot(0);
    for (const unit of this.#pages.all()) this.#pages.retire(unit);
    this.#forgetBlocks();
  }

  /** The pages went with the engine. */
  forget(): void {
    this.#isLocated = false;
    this.#isNear = false;
    this.#rootBlock = NONE;
    this.#forgetBlocks();
  }

  #forgetBlocks(): void {
    this.#entries = 0;
    this.#blocksOfPage.clear();
    this.#freeNodeBlocks = [];
    this.#freeBranchBlocks = [];
  }

  /** Problems found: entries out of order, or of nodes that are not in the list. `nodes`: those of the list, with a number in its order. */
  check(nodes: ReadonlyMap<number, number>, problems: string[]): void {
    const reachable = new Set<number>();
    let lastRank = -1;
    let entries = 0;
    const walk = (block: number, level: number): void => {
      if (levelOf(this.#arena, block) !== level || reachable.has(block)) {
        problems.push(`express lane: block ${block} is not one of level ${level}, or two ways lead to it`);
        return;
      }
      reachable.add(block);
      const count = this.#countOf(block);
      if (count === 0) problems.push(`express lane: block ${block} is empty`);
      for (let index = 0; index < count; index++) {
        const entry = this.#nodeAt(block, index);
        if (level > 0) {
          walk(entry, level - 1);
          continue;
        }
        entries++;
        const rank = nodes.get(entry);
        if (rank === undefined) problems.push(`express lane: node ${entry} is not in the list`);
        else if (rank <= lastRank) problems.push(`express lane: node ${entry} is out of order`);
        else lastRank = rank;
        const height = this.#arena.u32[block >>> BLOCK_SEGMENT_SHIFT]![wordOf(block) + LOW_WORD + index]! & HEIGHT_MASK;
        if (rank !== undefined && height !== heightOf(this.#arena, entry))
          problems.push(`express lane: node ${entry} has another height`);
      }
    };
    if (this.#rootBlock !== NONE) walk(this.#rootBlock, levelOf(this.#arena, this.#rootBlock));
    if (entries !== this.#entries) problems.push(`express lane: ${entries} nodes found, ${this.#entries} counted`);
    const pages = new Map<UnitId, number>();
    for (const block of reachable) {
      pages.set(block >>> PAGE_BLOCK_SHIFT, (pages.get(block >>> PAGE_BLOCK_SHIFT) ?? 0) + 1);
      this.#checkVacant(block, problems);
    }
    for (const unit of this.#pages.all()) {
      if (pages.get(unit) === undefined || pages.get(unit) !== this.#blocksOfPage.get(unit))
        problems.push(`express lane: page ${unit} has other blocks than are counted`);
    }
    for (const block of this.#freeNodeBlocks.concat(this.#freeBranchBlocks)) this.#checkVacant(block, problems);
  }

  #checkVacant(block: number, problems: string[]): void {
    for (let index = this.#countOf(block); index < LANE_BLOCK_ENTRIES; index++) {
      if (this.#nodeAt(block, index) !== NONE)
        problems.push(`express lane: block ${block} names a node behind its end`);
    }
  }

  // ---- entries ------------------------------------------------------------------------------------------------------------------

  /** Puts an entry on a level; `node`: the first node below it, or itself. False if memory is short. */
  #add(level: number, entry: number, node: number): boolean {
    for (;;) {
      if (this.#rootBlock === NONE) return this.#plantRoot(level, entry, NONE);
      this.#takeKey(node);
      this.#descend(level, true);
      const block = this.#pathBlocks[level]!;
      const count = this.#countOf(block);
      const index = this.#pathEntries[level]! + 1;
      if (count < LANE_BLOCK_ENTRIES) {
        this.#insertAt(block, index, entry, level === 0 ? node : NONE);
        if (level === 0) {
          this.#pathEntries[0] = index;
          this.before = node;
          this.#isLocated = true;
        }
        return true;
      }
      // Ascending keys leave full blocks behind.
      const isAppend = index === count && this.#isLast(level);
      const right = this.#newBlock(level);
      if (right === NONE) return false;
      const middle = count >>> 1;
      if (isAppend) {
        this.#setNode(right, 0, entry);
        this.#setCount(right, 1);
        this.#fillHeads(right, level, KEY_BYTES_MAX);
      } else {
        this.#copyEntries(block, middle, count, right);
        this.#sharpenHeads(right, level);
      }
      const isIn =
        block === this.#rootBlock
          ? this.#plantRoot(level + 1, block, right)
          : this.#add(level + 1, right, firstNode(this.#arena, this.#nodeAt(right, 0), level));
      if (!isIn) {
        this.#dropBlock(right);
        return false;
      }
      if (isAppend) return true;
      this.#cut(block, middle);
      this.#sharpenHeads(block, level);
    }
  }

  /** A new root with one or two entries. */
  #plantRoot(level: number, left: number, right: number): boolean {
    if (level >= LANE_LEVELS_MAX) return false;
    const block = this.#newBlock(level);
    if (block === NONE) return false;
    this.#setNode(block, 0, left);
    if (right !== NONE) this.#setNode(block, 1, right);
    this.#setCount(block, right === NONE ? 1 : 2);
    this.#fillHeads(block, level, KEY_BYTES_MAX);
    this.#setRoot(block);
    return true;
  }

  #setRoot(block: number): void {
    Atomics.store(this.#words, this.#rootWord, block);
    this.#rootBlock = block;
  }

  /** An entry with the heads of the taken key; `node`: of which its height is taken, 0: none. */
  #insertAt(block: number, index: number, entry: number, node: number): void {
    const count = this.#countOf(block);
    const i32 = this.#arena.i32[block >>> BLOCK_SEGMENT_SHIFT]!;
    const nodes = wordOf(block) + NODES_WORD;
    const end = nodes + index;
    for (let at = nodes + count; at > end; at--) {
      i32[at] = i32[at - 1]!;
      i32[at + LANE_BLOCK_ENTRIES] = i32[at + LANE_BLOCK_ENTRIES - 1]!;
      i32[at + 2 * LANE_BLOCK_ENTRIES] = i32[at + 2 * LANE_BLOCK_ENTRIES - 1]!;
    }
    i32[end] = entry;
    this.#setHeads(block, index, node);
    this.#setCount(block, count + 1);
  }

  /** The entry that the path names on the level; blocks that become empty go. */
  #removeEntry(level: number): void {
    const block = this.#pathBlocks[level]!;
    const count = this.#countOf(block) - 1;
    if (count === 0) {
      if (block === this.#rootBlock) this.#setRoot(0);
      else this.#removeEntry(level + 1);
      this.#dropBlock(block);
      return;
    }
    const i32 = this.#arena.i32[block >>> BLOCK_SEGMENT_SHIFT]!;
    const nodes = wordOf(block) + NODES_WORD;
    for (let at = nodes + this.#pathEntries[level]!; at < nodes + count; at++) {
      i32[at] = i32[at + 1]!;
      i32[at + LANE_BLOCK_ENTRIES] = i32[at + LANE_BLOCK_ENTRIES + 1]!;
      i32[at + 2 * LANE_BLOCK_ENTRIES] = i32[at + 2 * LANE_BLOCK_ENTRIES + 1]!;
    }
    this.#cut(block, count);
    if (count === 1 && level > 0 && block === this.#rootBlock) {
      this.#setRoot(i32[nodes]!);
      this.#dropBlock(block);
    }
  }

  /** Lowers the count. Not even behind it may an address stay: readers' loads of count and entry may come in any order. */
  #cut(block: number, count: number): void {
    const before = this.#countOf(block);
    this.#setCount(block, count);
    for (let index = count; index < before; index++) this.#setNode(block, index, NONE);
  }

  /** The upper entries go to the empty block on the right; they stay here too until the count is lowered. */
  #copyEntries(block: number, from: number, to: number, right: number): void {
    const source = this.#arena.u32[block >>> BLOCK_SEGMENT_SHIFT]!;
    const target = this.#arena.u32[right >>> BLOCK_SEGMENT_SHIFT]!;
    for (let array = NODES_WORD; array <= LOW_WORD; array += LANE_BLOCK_ENTRIES) {
      const start = wordOf(block) + array;
      let at = wordOf(right) + array;
      for (let index = from; index < to; index++) target[at++] = source[start + index]!;
    }
    this.#setPrefixLength(right, this.#prefixLengthOf(block));
    this.#setCount(right, to - from);
  }

  // ---- ways ---------------------------------------------------------------------------------------------------------------------

  /**
   * From the root to the block on the level where the taken key belongs; each path entry is the last one smaller than the key. `widens`: the key is
   * going to stand there, so the blocks on its way must share their prefix with it.
   */
  #descend(toLevel: number, widens: boolean): void {
    const arena = this.#arena;
    let block = this.#rootBlock;
    let prefixLengthMax = 0;
    for (let level = levelOf(arena, block); ; level--) {
      assert(level >= toLevel && levelOf(arena, block) === level, 'the express lane leads down level by level');
      let prefixLength = this.#prefixLengthOf(block);
      if (widens && prefixLength > 0) {
        const shared = this.#sharedWith(firstNode(arena, this.#nodeAt(block, 0), level));
        if (shared < prefixLength) {
          this.#fillHeads(block, level, shared);
          prefixLength = shared;
        }
      }
      if (prefixLength > prefixLengthMax) prefixLengthMax = prefixLength;
      const floor = this.#floorIn(block, level, prefixLength);
      this.#pathBlocks[level] = block;
      this.#pathEntries[level] = floor;
      if (level === toLevel) break;
      if (floor < 0) {
        // Keys before the first block belong to it too, and its entry must be ≤ all of them before the block is ever split.
        this.#pathEntries[level] = 0;
        if (widens) this.#setHeads(block, 0, 0);
      }
      block = this.#nodeAt(block, this.#pathEntries[level]!);
    }
    this.#pathPrefixLength = prefixLengthMax;
  }

  /**
   * The same from the block of level 1 that the path leads through, to level 0: right if the key comes before an entry there and behind another, which
   * most keys of a sorted group do. False if it may belong elsewhere. As after #descend(), the path is good for a key that shares its prefixes.
   */
  #descendNear(): boolean {
    const block = this.#pathBlocks[1]!;
    const prefixLength = this.#prefixLengthOf(block);
    const floor = this.#floorIn(block, 1, prefixLength);
    if (floor < 0 || floor + 1 >= this.#countOf(block)) return false;
    this.#pathEntries[1] = floor;
    const leaf = this.#nodeAt(block, floor);
    const leafPrefixLength = this.#prefixLengthOf(leaf);
    this.#pathBlocks[0] = leaf;
    this.#pathEntries[0] = this.#floorIn(leaf, 0, leafPrefixLength);
    this.#pathPrefixLength = Math.max(prefixLength, leafPrefixLength);
    return true;
  }

  /** Last entry smaller than the taken key, which shares the prefix; -1 if none is. */
  #floorIn(block: number, level: number, prefixLength: number): number {
    this.#makeHeads(prefixLength);
    const high = this.#high;
    const low = this.#low >>> HEIGHT_BITS;
    const u32 = this.#arena.u32[block >>> BLOCK_SEGMENT_SHIFT]!;
    const word = wordOf(block);
    const count = u32[word + COUNT_WORD]! & 0xffff;
    const ceiling = ceilingByHeads(u32, word, count, high, low);
    if (ceiling === count || !headsEqual(u32, word, ceiling, high, low)) return ceiling - 1;
    const keyBytes = this.#keyBytes;
    const keyStart = this.#keyAt;
    return (
      ceilingOfEqual(this.#arena, block, ceiling, count, level, high, low, keyBytes, keyStart, this.#keyLength) - 1
    );
  }

  /** Leads the path to the block with the node and returns its entry; -1 if the node was left out. */
  #find(node: number): number {
    const root = this.#rootBlock;
    if (root === 0) return -1;
    if (!this.#isLocated || this.after !== node) {
      this.#takeKey(node);
      this.#descend(0, false);
    }
    // The way leads to what is smaller: the first node of a block is found behind the end of the block before.
    if (this.#pathEntries[0]! + 1 === this.#countOf(this.#pathBlocks[0]!)) this.#stepRight();
    const block = this.#pathBlocks[0]!;
    const index = this.#pathEntries[0]! + 1;
    if (index < this.#countOf(block) && this.#nodeAt(block, index) === node) return index;
    // Too important to rest on the order of heads alone: an address that stays here outlives its node.
    this.#isNear = false;
    return this.#scan(root, levelOf(this.#arena, root), node) ? this.#pathEntries[0]! : -1;
  }

  /** From the end of a block to before the first entry of the next one, if there is one. */
  #stepRight(): void {
    const top = levelOf(this.#arena, this.#rootBlock);
    let level = 1;
    while (level <= top && this.#pathEntries[level]! + 1 === this.#countOf(this.#pathBlocks[level]!)) level++;
    if (level > top) return;
    this.#pathEntries[level]!++;
    for (; level > 0; level--) {
      this.#pathBlocks[level - 1] = this.#nodeAt(this.#pathBlocks[level]!, this.#pathEntries[level]!);
      this.#pathEntries[level - 1] = level > 1 ? 0 : -1;
    }
  }

  #scan(block: number, level: number, node: number): boolean {
    this.#pathBlocks[level] = block;
    const count = this.#countOf(block);
    for (let index = 0; index < count; index++) {
      this.#pathEntries[level] = index;
      const entry = this.#nodeAt(block, index);
      if (level === 0 ? entry === node : this.#scan(entry, level - 1, node)) return true;
    }
    return false;
  }

  #isLast(fromLevel: number): boolean {
    for (let level = levelOf(this.#arena, this.#rootBlock); level > fromLevel; level--) {
      if (this.#pathEntries[level] !== this.#countOf(this.#pathBlocks[level]!) - 1) return false;
    }
    return true;
  }

  // ---- heads --------------------------------------------------------------------------------------------------------------------

  #setKey(key: Uint8Array, keyStart: number, keyLength: number): void {
    this.#keyBytes = key;
    this.#keyAt = keyStart;
    this.#keyLength = keyLength;
    this.#headsPrefixLength = -1;
  }

  #makeHeads(prefixLength: number): void {
    if (prefixLength === this.#headsPrefixLength) return;
    this.#headsPrefixLength = prefixLength;
    const at = this.#keyAt + prefixLength;
    const length = this.#keyLength - prefixLength;
    this.#high = headOf(this.#keyBytes, at, length);
    this.#low = headOf(this.#keyBytes, at + 4, length - 4);
  }

  #takeKey(node: number): void {
    const u8 = this.#arena.u8[nodeSegment(node)]!;
    const lengthAt = keyLengthAt(u8, cellOf(this.#arena, node));
    this.#setKey(u8, skipVarint(u8, lengthAt), readVarint(u8, lengthAt));
  }

  /** Bytes that the taken key and the node's have in common at their start. Sets #sharedOrder: < 0 if the node's is smaller. */
  #sharedWith(node: number): number {
    const u8 = this.#arena.u8[nodeSegment(node)]!;
    const lengthAt = keyLengthAt(u8, cellOf(this.#arena, node));
    const ownLength = readVarint(u8, lengthAt);
    const ownAt = skipVarint(u8, lengthAt);
    const keyBytes = this.#keyBytes;
    const keyAt = this.#keyAt;
    const length = ownLength < this.#keyLength ? ownLength : this.#keyLength;
    this.#sharedOrder = ownLength - this.#keyLength;
    for (let index = 0; index < length; index++) {
      const difference = u8[ownAt + index]! - keyBytes[keyAt + index]!;
      if (difference !== 0) {
        this.#sharedOrder = difference;
        return index;
      }
    }
    return length;
  }

  /** Of an entry: those of the taken key, and the height of the node (0: none). */
  #setHeads(block: number, index: number, node: number): void {
    const u32 = this.#arena.u32[block >>> BLOCK_SEGMENT_SHIFT]!;
    const word = wordOf(block) + index;
    const height = node === NONE ? 0 : heightOf(this.#arena, node);
    this.#makeHeads(this.#prefixLengthOf(block));
    u32[word + HIGH_WORD] = this.#high;
    u32[word + LOW_WORD] = (this.#low & ~HEIGHT_MASK) | height;
  }

  /** Takes the longest prefix that all keys below the block share, up to the given length, and makes the heads anew. */
  #fillHeads(block: number, level: number, prefixLengthMax: number): void {
    const keyBytes = this.#keyBytes;
    const keyAt = this.#keyAt;
    const keyLength = this.#keyLength;
    const count = this.#countOf(block);
    this.#takeKey(this.#lastNode(block, level));
    const shared = this.#sharedWith(firstNode(this.#arena, this.#nodeAt(block, 0), level));
    this.#setPrefixLength(block, Math.min(shared, prefixLengthMax));
    for (let index = 0; index < count; index++) {
      const node = firstNode(this.#arena, this.#nodeAt(block, index), level);
      this.#takeKey(node);
      this.#setHeads(block, index, level === 0 ? node : 0);
    }
    this.#setKey(keyBytes, keyAt, keyLength);
  }

  /** After a split: new heads if half of each is the same all over the block now. They cost a look at every node. */
  #sharpenHeads(block: number, level: number): void {
    const u32 = this.#arena.u32[block >>> BLOCK_SEGMENT_SHIFT]!;
    const highs = wordOf(block) + HIGH_WORD;
    if (u32[highs] === u32[highs + this.#countOf(block) - 1]!) this.#fillHeads(block, level, KEY_BYTES_MAX);
  }

  #lastNode(block: number, level: number): number {
    let entry = this.#nodeAt(block, this.#countOf(block) - 1);
    for (; level > 0; level--) entry = this.#nodeAt(entry, this.#countOf(entry) - 1);
    return entry;
  }

  // ---- blocks -------------------------------------------------------------------------------------------------------------------

  /** 0 if memory is short, or the group's share is used up. */
  #newBlock(level: number): number {
    const free = level === 0 ? this.#freeNodeBlocks : this.#freeBranchBlocks;
    if (free.length === 0) this.#addPage(free);
    const block = free.pop() ?? NONE;
    if (block === NONE) return NONE;
    const unit = block >>> PAGE_BLOCK_SHIFT;
    this.#blocksOfPage.set(unit, this.#blocksOfPage.get(unit)! + 1);
    this.#setPrefixLength(block, 0);
    this.#arena.u32[block >>> BLOCK_SEGMENT_SHIFT]![wordOf(block) + TAG_WORD] = LANE_TAG + level;
    return block;
  }

  #addPage(free: number[]): void {
    const arena = this.#arena;
    if (this.#credit < LANE_OPERATIONS_PER_PAGE || arena.freeUnits() === 0) return;
    this.#credit -= LANE_OPERATIONS_PER_PAGE;
    const unit = this.#pages.allocate();
    const words = arena.u32[unit >>> SEGMENT_UNIT_SHIFT]!;
    this.#blocksOfPage.set(unit, 0);
    for (let index = PAGE_BLOCKS - 1; index >= 0; index--) {
      const block = unit * PAGE_BLOCKS + index;
      // The page's header stands before the first block's.
      words.fill(0, wordOf(block) + COUNT_WORD, wordOf(block) + HIGH_WORD);
      free.push(block);
    }
  }

  /** Nothing of the lane refers to the block any more. */
  #dropBlock(block: number): void {
    this.#cut(block, 0);
    const isOfNodes = levelOf(this.#arena, block) === 0;
    const unit = block >>> PAGE_BLOCK_SHIFT;
    const left = this.#blocksOfPage.get(unit)! - 1;
    if (left > 0) {
      this.#blocksOfPage.set(unit, left);
      (isOfNodes ? this.#freeNodeBlocks : this.#freeBranchBlocks).push(block);
      return;
    }
    this.#blocksOfPage.delete(unit);
    const isElsewhere = (other: number): boolean => other >>> PAGE_BLOCK_SHIFT !== unit;
    if (isOfNodes) this.#freeNodeBlocks = this.#freeNodeBlocks.filter(isElsewhere);
    else this.#freeBranchBlocks = this.#freeBranchBlocks.filter(isElsewhere);
    this.#pages.retire(unit);
  }

  #nodeAt(block: number, index: number): number {
    return this.#arena.i32[block >>> BLOCK_SEGMENT_SHIFT]![wordOf(block) + NODES_WORD + index]!;
  }

  #setNode(block: number, index: number, entry: number): void {
    this.#arena.i32[block >>> BLOCK_SEGMENT_SHIFT]![wordOf(block) + NODES_WORD + index] = entry;
  }

  #countOf(block: number): number {
    return this.#arena.u32[block >>> BLOCK_SEGMENT_SHIFT]![wordOf(block) + COUNT_WORD]! & 0xffff;
  }

  #setCount(block: number, count: number): void {
    const words = this.#arena.u32[block >>> BLOCK_SEGMENT_SHIFT]!;
    const at = wordOf(block) + COUNT_WORD;
    words[at] = (words[at]! & 0xffff0000) | count;
  }

  #prefixLengthOf(block: number): number {
    return this.#arena.u32[block >>> BLOCK_SEGMENT_SHIFT]![wordOf(block) + COUNT_WORD]! >>> 16;
  }

  #setPrefixLength(block: number, prefixLength: number): void {
    const words = this.#arena.u32[block >>> BLOCK_SEGMENT_SHIFT]!;
    const at = wordOf(block) + COUNT_WORD;
    words[at] = (words[at]! & 0xffff) | (prefixLength << 16);
  }
}
