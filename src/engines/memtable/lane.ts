/**
 * The express lane: an index over the nodes of a skip list, so that a search starts beside its target.
 *
 *   page (4 KiB)   header 24 bytes · nodes u32[339] · high u32[339] · low u32[339]
 *     level 0      nodes: of the list
 *     level n      nodes: pages of level n - 1
 *   (high, low)    60 bits of a key behind the `prefixLength` bytes that all keys of the page share; the last four bits: the node's height.
 *                  On level n a key that is ≤ every key of the page there and > every key of the page before
 *   header         kind PageKind.Engine · level · class · LANE_FLAG · birth · count u16 at 10 · prefixLength u16 at 12 · next page of the lane at 20
 *
 * A skip list touches two or three nodes on each level, and in a large one each is a miss of cache and TLB (170 ns measured, for a key compare
 * of 15). Heads stand close together: a search through the lane costs about two misses for all levels, and mostly names the very node. At 1 M
 * entries lookups are four times as fast as without it; with only every fourth or sixteenth node in the lane, twice or one and a half times.
 *
 * Correctness does not depend on it. The one invariant: a node leaves the lane before it is freed. Where the lane leads is a hint: a search compares
 * the key of the node it was given, goes on from there upwards and forwards if it is smaller than what it looks for, and starts at the list's head
 * if it is not. That is why pages may change in place under their readers, by plain stores of words: half-shifted arrays, heads beside the address
 * of another entry, a new prefix length beside old heads cost steps, never an answer. And it is why a search need not check that its key shares the
 * prefix. The writer does check: for it alone heads are exact.
 *
 * All pages hang on the descriptor's list of pages, so that they are found whatever the writer was doing when it died; the next one retires them
 * and builds the lane anew. When memory is short a node is left out.
 * Threads: LaneView any, under a pin; ExpressLane the shard thread only.
 */
import { assert } from '../../shared/assert.js';
import {
  SEGMENT_UNIT_MASK,
  SEGMENT_UNIT_SHIFT,
  UNIT_SHIFT,
  type ArenaReader,
  type ArenaWriter,
  type UnitId,
} from '../../shared/memory/arena.js';
import {
  COUNT_HALFWORD,
  KEY_BYTES_MAX,
  LEVEL_BYTE,
  PREFIX_LENGTH_HALFWORD,
  PageKind,
  headOf,
  readVarint,
  skipVarint,
} from '../btree/page.js';
import { nodeSegment, pageWord } from '../cells/node.js';
import { cellOf, compareNode, heightOf, keyLengthAt } from './node.js';

const NODES_WORD = 6;
/** Entries of a page. */
export const LANE_PAGE_ENTRIES = 339;
const HIGH_WORD = NODES_WORD + LANE_PAGE_ENTRIES;
const LOW_WORD = HIGH_WORD + LANE_PAGE_ENTRIES;
assert(LOW_WORD + LANE_PAGE_ENTRIES <= 1024, 'a lane page fits its unit');
/** 169^5 entries in half-full pages: more than addresses. */
const LANE_LEVELS_MAX = 6;
/** Bits of `low` that are not of the key. */
const HEIGHT_BITS = 4;
const HEIGHT_MASK = (1 << HEIGHT_BITS) - 1;
/** Pages that a group may take whatever it does, and operations for each further one: what admission must count with. */
export const LANE_GROUP_PAGES = 3;
export const LANE_OPERATIONS_PER_PAGE = 64;

/** Stands in the flags of the lane's pages. */
const LANE_FLAG = 0x4c;
const FLAGS_BYTE = 3;
const NONE = 0;

/** Level of a page of a lane, -1 if it is none. */
function levelOf(arena: ArenaReader, unit: UnitId): number {
  if (!(unit > 0 && unit < arena.totalUnits)) return -1;
  const header = arena.u32[unit >>> SEGMENT_UNIT_SHIFT]![(unit & SEGMENT_UNIT_MASK) << (UNIT_SHIFT - 2)]!;
  if ((header & 0xff0000ff) >>> 0 !== ((LANE_FLAG << 24) | PageKind.Engine) >>> 0) return -1;
  const level = (header >>> (8 * LEVEL_BYTE)) & 0xff;
  return level < LANE_LEVELS_MAX ? level : -1;
}

/** The leftmost node below an entry of a page of that level, 0 if there is none. */
function firstNode(arena: ArenaReader, entry: number, level: number): number {
  for (; level > 0; level--) {
    if (levelOf(arena, entry) !== level - 1) return NONE;
    entry = arena.u32[entry >>> SEGMENT_UNIT_SHIFT]![pageWord(entry) + NODES_WORD]!;
  }
  return entry;
}

function headsEqual(u32: Uint32Array, word: number, index: number, high: number, low: number): boolean {
  return u32[word + HIGH_WORD + index] === high && u32[word + LOW_WORD + index]! >>> HEIGHT_BITS === low;
}

/**
 * Last entry of the page whose key is smaller than the given one, -1 if none is. By heads; of entries that have the heads of the key, by their
 * whole keys. One that is alone with them counts as not smaller unless `isExact`: a reader looks at it anyway.
 */
function floorInPage(
  arena: ArenaReader,
  unit: UnitId,
  count: number,
  level: number,
  key: Uint8Array,
  keyStart: number,
  keyLength: number,
  isExact: boolean,
): number {
  const segment = unit >>> SEGMENT_UNIT_SHIFT;
  const word = pageWord(unit);
  const u32 = arena.u32[segment]!;
  const prefixLength = arena.u16[segment]![word * 2 + PREFIX_LENGTH_HALFWORD]!;
  const high = headOf(key, keyStart + prefixLength, keyLength - prefixLength);
  const low = headOf(key, keyStart + prefixLength + 4, keyLength - prefixLength - 4) >>> HEIGHT_BITS;
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
  if (from === count || !headsEqual(u32, word, from, high, low)) return from - 1;
  if (!isExact && (from + 1 === count || !headsEqual(u32, word, from + 1, high, low))) return from - 1;
  to = from + 1;
  for (let step = 1; to < count && headsEqual(u32, word, to, high, low); step <<= 1) to += step;
  if (to > count) to = count;
  while (from < to) {
    const middle = (from + to) >>> 1;
    const node = headsEqual(u32, word, middle, high, low)
      ? firstNode(arena, u32[word + NODES_WORD + middle]!, level)
      : NONE;
    if (node !== NONE && compareNode(arena, node, key, keyStart, keyLength) < 0) from = middle + 1;
    else to = middle;
  }
  return from - 1;
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
  seek(rootUnit: UnitId, key: Uint8Array, keyStart: number, keyLength: number): void {
    const arena = this.#arena;
    let unit = rootUnit;
    let level = levelOf(arena, unit);
    this.before = NONE;
    this.match = NONE;
    while (level >= 0) {
      const segment = unit >>> SEGMENT_UNIT_SHIFT;
      const word = pageWord(unit);
      const count = arena.u16[segment]![word * 2 + COUNT_HALFWORD]!;
      if (count === 0 || count > LANE_PAGE_ENTRIES) return;
      const floor = floorInPage(arena, unit, count, level, key, keyStart, keyLength, false);
      const nodes = word + NODES_WORD;
      if (level === 0) {
        const i32 = arena.i32[segment]!;
        if (floor >= 0) this.before = i32[nodes + floor]!;
        if (floor + 1 < count) {
          const keyAt = keyStart + arena.u16[segment]![word * 2 + PREFIX_LENGTH_HALFWORD]!;
          const head = arena.u32[segment]![word + HIGH_WORD + floor + 1]!;
          if (head === headOf(key, keyAt, keyStart + keyLength - keyAt)) this.match = i32[nodes + floor + 1]!;
        }
        return;
      }
      unit = arena.u32[segment]![nodes + (floor < 0 ? 0 : floor)]!;
      // It may have become another page since: then the way ends here.
      level = levelOf(arena, unit) === level - 1 ? level - 1 : -1;
    }
  }
}

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
  /** Where the root page stands: in the descriptor. */
  #words: Uint32Array;
  #rootWord = 0;
  #rootUnit: UnitId = 0;
  /** The way of the last descent, by level: page, and the entry that it took (-1: before the first). */
  readonly #pathUnits = new Uint32Array(LANE_LEVELS_MAX);
  readonly #pathEntries = new Int32Array(LANE_LEVELS_MAX);
  /** The longest prefix of a page on the path: shared with its keys, the path is right. */
  #pathPrefixLength = 0;
  /** The path leads beside the taken key for certain, and nothing has changed since. */
  #isLocated = false;
  /** Of the key that is looked for or taken in. */
  #keyBytes: Uint8Array;
  #keyAt = 0;
  #keyLength = 0;
  #sharedOrder = 0;
  /** In operations; see LANE_OPERATIONS_PER_PAGE. */
  #credit = Infinity;
  /** What locate() found: the last node before the key, and the node after it as far as it stands in the same page. */
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

  get rootUnit(): UnitId {
    return this.#rootUnit;
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
    if (this.#rootUnit === 0) return false;
    this.#setKey(key, keyStart, keyLength);
    this.#descend(0, false);
    const floor = this.#pathEntries[0]!;
    if (floor < 0) return false;
    const unit = this.#pathUnits[0]!;
    const before = this.#nodeAt(unit, floor);
    if (this.#sharedWith(before) < this.#pathPrefixLength || this.#sharedOrder >= 0) return false;
    this.before = before;
    this.#takeAfter(unit, floor + 1);
    this.#isLocated = true;
    return true;
  }

  #takeAfter(unit: UnitId, index: number): void {
    this.after = NONE;
    this.mayMatch = false;
    if (index >= this.#countOf(unit)) return;
    this.after = this.#nodeAt(unit, index);
    const prefixLength = this.#prefixLengthOf(unit);
    const high = headOf(this.#keyBytes, this.#keyAt + prefixLength, this.#keyLength - prefixLength);
    this.mayMatch = this.#arena.u32[unit >>> SEGMENT_UNIT_SHIFT]![pageWord(unit) + HIGH_WORD + index] === high;
  }

  /** The place of a key behind `before`, which insert() or replace() has just put there: false if the lane does not know that it fits there. */
  locateNext(key: Uint8Array, keyStart: number, keyLength: number): boolean {
    if (!this.#isLocated) return false;
    this.#setKey(key, keyStart, keyLength);
    this.#isLocated = this.#sharedWith(this.before) >= this.#pathPrefixLength && this.#sharedOrder < 0;
    if (this.#isLocated) this.#takeAfter(this.#pathUnits[0]!, this.#pathEntries[0]! + 1);
    return this.#isLocated;
  }

  /** Among the entries of the page up to the located place, the last node higher than `level`; 0 if there is none. */
  beforeAt(level: number): number {
    return this.#isLocated ? this.#nodeHigherThan(level, this.#pathEntries[0]!, -1) : NONE;
  }

  /** The first node behind the located place that is higher than `level`; 0 if the page has none. */
  afterAt(level: number): number {
    return this.#isLocated ? this.#nodeHigherThan(level, this.#pathEntries[0]! + 1, 1) : NONE;
  }

  #nodeHigherThan(level: number, index: number, step: 1 | -1): number {
    const unit = this.#pathUnits[0]!;
    const u32 = this.#arena.u32[unit >>> SEGMENT_UNIT_SHIFT]!;
    const lows = pageWord(unit) + LOW_WORD;
    const end = step > 0 ? this.#countOf(unit) : -1;
    for (; index !== end; index += step) {
      if ((u32[lows + index]! & HEIGHT_MASK) > level) return this.#nodeAt(unit, index);
    }
    return NONE;
  }

  // ---- changes ------------------------------------------------------------------------------------------------------------------

  /** Takes the node in; it must be in the list. At the located place, which moves behind it. Left out if there is no memory for it. */
  insert(node: number): void {
    const unit = this.#pathUnits[0]!;
    if (this.#isLocated && this.#countOf(unit) < LANE_PAGE_ENTRIES) {
      this.#insertAt(unit, ++this.#pathEntries[0]!, node, node);
      this.before = node;
      return;
    }
    this.#isLocated = false;
    this.#add(0, node, node);
  }

  /** The new node has the key and the height of the old one. */
  replace(old: number, node: number): void {
    // At the located place the path stays good, and moves behind the node.
    const isHere = this.#isLocated && this.after === old;
    const index = this.#find(old);
    this.#isLocated = isHere && index >= 0;
    if (index < 0) return;
    this.#setNode(this.#pathUnits[0]!, index, node);
    this.#pathEntries[0] = index;
    this.before = node;
  }

  /** Before the node leaves the list. */
  remove(node: number): void {
    const index = this.#find(node);
    this.#isLocated = false;
    if (index < 0) return;
    this.#pathEntries[0] = index;
    this.#removeEntry(0);
  }

  /** Takes in a node that is behind all others. For lists that are built in order. */
  append(node: number): void {
    this.#isLocated = false;
    this.#add(0, node, node);
  }

  /** Retires all pages. Readers start at the list's head from now on. */
  clear(): void {
    this.#isLocated = false;
    this.#setRoot(0);
    for (const unit of this.#pages.all()) this.#pages.retire(unit);
  }

  /** The pages went with the engine. */
  forget(): void {
    this.#isLocated = false;
    this.#rootUnit = 0;
  }

  /** Problems found: entries out of order, or of nodes that are not in the list. `nodes`: those of the list, with a number in its order. */
  check(nodes: ReadonlyMap<number, number>, problems: string[]): void {
    if (this.#rootUnit === 0) return;
    const reachable = new Set<UnitId>();
    let lastRank = -1;
    const walk = (unit: UnitId, level: number): void => {
      if (levelOf(this.#arena, unit) !== level || reachable.has(unit)) {
        problems.push(`express lane: unit ${unit} is not a page of level ${level}, or two ways lead to it`);
        return;
      }
      reachable.add(unit);
      const count = this.#countOf(unit);
      if (count === 0) problems.push(`express lane: page ${unit} is empty`);
      for (let index = 0; index < count; index++) {
        const entry = this.#nodeAt(unit, index);
        if (level > 0) {
          walk(entry, level - 1);
          continue;
        }
        const rank = nodes.get(entry);
        if (rank === undefined) problems.push(`express lane: node ${entry} is not in the list`);
        else if (rank <= lastRank) problems.push(`express lane: node ${entry} is out of order`);
        else lastRank = rank;
        const height = this.#arena.u32[unit >>> SEGMENT_UNIT_SHIFT]![pageWord(unit) + LOW_WORD + index]! & HEIGHT_MASK;
        if (rank !== undefined && height !== heightOf(this.#arena, entry))
          problems.push(`express lane: node ${entry} has another height`);
      }
    };
    walk(this.#rootUnit, levelOf(this.#arena, this.#rootUnit));
    for (const unit of this.#pages.all()) {
      if (!reachable.has(unit)) problems.push(`express lane: page ${unit} is not reachable`);
    }
  }

  // ---- entries ------------------------------------------------------------------------------------------------------------------

  /** Puts an entry on a level; `node`: the first node below it, or itself. False if memory is short. */
  #add(level: number, entry: number, node: number): boolean {
    for (;;) {
      if (this.#rootUnit === 0) return this.#plantRoot(level, entry, 0);
      this.#takeKey(node);
      this.#descend(level, true);
      const unit = this.#pathUnits[level]!;
      const count = this.#countOf(unit);
      const index = this.#pathEntries[level]! + 1;
      if (count < LANE_PAGE_ENTRIES) {
        this.#insertAt(unit, index, entry, level === 0 ? node : 0);
        return true;
      }
      // Ascending keys leave full pages behind.
      const isAppend = index === count && this.#isLast(level);
      const right = this.#newPage(level);
      if (right === 0) return false;
      const middle = count >>> 1;
      if (isAppend) {
        this.#setNode(right, 0, entry);
        this.#setCount(right, 1);
        this.#fillHeads(right, level, KEY_BYTES_MAX);
      } else {
        this.#copyEntries(unit, middle, count, right);
        this.#sharpenHeads(right, level);
      }
      const isIn =
        unit === this.#rootUnit
          ? this.#plantRoot(level + 1, unit, right)
          : this.#add(level + 1, right, firstNode(this.#arena, this.#nodeAt(right, 0), level));
      if (!isIn) {
        this.#pages.retire(right);
        return false;
      }
      if (isAppend) return true;
      this.#setCount(unit, middle);
      this.#sharpenHeads(unit, level);
    }
  }

  /** A new root with one or two entries. */
  #plantRoot(level: number, left: number, right: number): boolean {
    if (level >= LANE_LEVELS_MAX) return false;
    const unit = this.#newPage(level);
    if (unit === 0) return false;
    this.#setNode(unit, 0, left);
    if (right !== 0) this.#setNode(unit, 1, right);
    this.#setCount(unit, right === 0 ? 1 : 2);
    this.#fillHeads(unit, level, KEY_BYTES_MAX);
    this.#setRoot(unit);
    return true;
  }

  #setRoot(unit: UnitId): void {
    Atomics.store(this.#words, this.#rootWord, unit);
    this.#rootUnit = unit;
  }

  /** An entry with the heads of the taken key; `node`: of which its height is taken, 0: none. */
  #insertAt(unit: UnitId, index: number, entry: number, node: number): void {
    const count = this.#countOf(unit);
    const u32 = this.#arena.u32[unit >>> SEGMENT_UNIT_SHIFT]!;
    const nodes = pageWord(unit) + NODES_WORD;
    const end = nodes + index;
    for (let at = nodes + count; at > end; at--) {
      u32[at] = u32[at - 1]!;
      u32[at + LANE_PAGE_ENTRIES] = u32[at + LANE_PAGE_ENTRIES - 1]!;
      u32[at + 2 * LANE_PAGE_ENTRIES] = u32[at + 2 * LANE_PAGE_ENTRIES - 1]!;
    }
    u32[end] = entry;
    this.#setHeads(unit, index, node);
    this.#setCount(unit, count + 1);
  }

  /** The entry that the path names on the level; pages that become empty go. */
  #removeEntry(level: number): void {
    const unit = this.#pathUnits[level]!;
    const count = this.#countOf(unit) - 1;
    if (count === 0) {
      if (unit === this.#rootUnit) this.#setRoot(0);
      else this.#removeEntry(level + 1);
      this.#pages.retire(unit);
      return;
    }
    const u32 = this.#arena.u32[unit >>> SEGMENT_UNIT_SHIFT]!;
    const nodes = pageWord(unit) + NODES_WORD;
    for (let at = nodes + this.#pathEntries[level]!; at < nodes + count; at++) {
      u32[at] = u32[at + 1]!;
      u32[at + LANE_PAGE_ENTRIES] = u32[at + LANE_PAGE_ENTRIES + 1]!;
      u32[at + 2 * LANE_PAGE_ENTRIES] = u32[at + 2 * LANE_PAGE_ENTRIES + 1]!;
    }
    u32[nodes + count] = NONE;
    this.#setCount(unit, count);
    if (count === 1 && level > 0 && unit === this.#rootUnit) {
      this.#setRoot(u32[nodes]!);
      this.#pages.retire(unit);
    }
  }

  /** The upper entries go to the empty page on the right; they stay here too until the count is lowered. */
  #copyEntries(unit: UnitId, from: number, to: number, right: UnitId): void {
    const source = this.#arena.u32[unit >>> SEGMENT_UNIT_SHIFT]!;
    const target = this.#arena.u32[right >>> SEGMENT_UNIT_SHIFT]!;
    for (let array = NODES_WORD; array <= LOW_WORD; array += LANE_PAGE_ENTRIES) {
      const start = pageWord(unit) + array;
      let at = pageWord(right) + array;
      for (let index = from; index < to; index++) target[at++] = source[start + index]!;
    }
    this.#setPrefixLength(right, this.#prefixLengthOf(unit));
    this.#setCount(right, to - from);
  }

  // ---- ways ---------------------------------------------------------------------------------------------------------------------

  /**
   * From the root to the page on the level where the taken key belongs; each path entry is the last one smaller than the key. `widens`: the key is
   * going to stand there, so the pages on its way must share their prefix with it.
   */
  #descend(toLevel: number, widens: boolean): void {
    const arena = this.#arena;
    let unit = this.#rootUnit;
    let prefixLengthMax = 0;
    for (let level = levelOf(arena, unit); ; level--) {
      assert(level >= toLevel && levelOf(arena, unit) === level, 'the express lane leads down level by level');
      const prefixLength = this.#prefixLengthOf(unit);
      if (widens && prefixLength > 0) {
        const shared = this.#sharedWith(firstNode(arena, this.#nodeAt(unit, 0), level));
        if (shared < prefixLength) this.#fillHeads(unit, level, shared);
      }
      if (prefixLength > prefixLengthMax) prefixLengthMax = prefixLength;
      const floor = floorInPage(
        arena,
        unit,
        this.#countOf(unit),
        level,
        this.#keyBytes,
        this.#keyAt,
        this.#keyLength,
        true,
      );
      this.#pathUnits[level] = unit;
      this.#pathEntries[level] = floor;
      if (level === toLevel) break;
      if (floor < 0) {
        // Keys before the first page belong to it too, and its entry must be ≤ all of them before the page is ever split.
        this.#pathEntries[level] = 0;
        if (widens) this.#setHeads(unit, 0, 0);
      }
      unit = this.#nodeAt(unit, this.#pathEntries[level]!);
    }
    this.#pathPrefixLength = prefixLengthMax;
  }

  /** Leads the path to the page with the node and returns its entry; -1 if the node was left out. */
  #find(node: number): number {
    const root = this.#rootUnit;
    if (root === 0) return -1;
    if (!this.#isLocated || this.after !== node) {
      this.#takeKey(node);
      this.#descend(0, false);
    }
    // The way leads to what is smaller: the first node of a page is found behind the end of the page before.
    if (this.#pathEntries[0]! + 1 === this.#countOf(this.#pathUnits[0]!)) this.#stepRight();
    const unit = this.#pathUnits[0]!;
    const index = this.#pathEntries[0]! + 1;
    if (index < this.#countOf(unit) && this.#nodeAt(unit, index) === node) return index;
    // Too important to rest on the order of heads alone: an address that stays here outlives its node.
    return this.#scan(root, levelOf(this.#arena, root), node) ? this.#pathEntries[0]! : -1;
  }

  /** From the end of a page to before the first entry of the next one, if there is one. */
  #stepRight(): void {
    const top = levelOf(this.#arena, this.#rootUnit);
    let level = 1;
    while (level <= top && this.#pathEntries[level]! + 1 === this.#countOf(this.#pathUnits[level]!)) level++;
    if (level > top) return;
    this.#pathEntries[level]!++;
    for (; level > 0; level--) {
      this.#pathUnits[level - 1] = this.#nodeAt(this.#pathUnits[level]!, this.#pathEntries[level]!);
      this.#pathEntries[level - 1] = level > 1 ? 0 : -1;
    }
  }

  #scan(unit: UnitId, level: number, node: number): boolean {
    this.#pathUnits[level] = unit;
    const count = this.#countOf(unit);
    for (let index = 0; index < count; index++) {
      this.#pathEntries[level] = index;
      const entry = this.#nodeAt(unit, index);
      if (level === 0 ? entry === node : this.#scan(entry, level - 1, node)) return true;
    }
    return false;
  }

  #isLast(fromLevel: number): boolean {
    for (let level = levelOf(this.#arena, this.#rootUnit); level > fromLevel; level--) {
      if (this.#pathEntries[level] !== this.#countOf(this.#pathUnits[level]!) - 1) return false;
    }
    return true;
  }

  // ---- heads --------------------------------------------------------------------------------------------------------------------

  #setKey(key: Uint8Array, keyStart: number, keyLength: number): void {
    this.#keyBytes = key;
    this.#keyAt = keyStart;
    this.#keyLength = keyLength;
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
  #setHeads(unit: UnitId, index: number, node: number): void {
    const u32 = this.#arena.u32[unit >>> SEGMENT_UNIT_SHIFT]!;
    const prefixLength = this.#prefixLengthOf(unit);
    const keyAt = this.#keyAt + prefixLength;
    const keyLength = this.#keyLength - prefixLength;
    const word = pageWord(unit) + index;
    const height = node === 0 ? 0 : heightOf(this.#arena, node);
    u32[word + HIGH_WORD] = headOf(this.#keyBytes, keyAt, keyLength);
    u32[word + LOW_WORD] = (headOf(this.#keyBytes, keyAt + 4, keyLength - 4) & ~HEIGHT_MASK) | height;
  }

  /** Takes the longest prefix that all keys below the page share, up to the given length, and makes the heads anew. */
  #fillHeads(unit: UnitId, level: number, prefixLengthMax: number): void {
    const keyBytes = this.#keyBytes;
    const keyAt = this.#keyAt;
    const keyLength = this.#keyLength;
    const count = this.#countOf(unit);
    this.#takeKey(this.#lastNode(unit, level));
    const shared = this.#sharedWith(firstNode(this.#arena, this.#nodeAt(unit, 0), level));
    this.#setPrefixLength(unit, Math.min(shared, prefixLengthMax));
    for (let index = 0; index < count; index++) {
      const node = firstNode(this.#arena, this.#nodeAt(unit, index), level);
      this.#takeKey(node);
      this.#setHeads(unit, index, level === 0 ? node : 0);
    }
    this.#setKey(keyBytes, keyAt, keyLength);
  }

  /** After a split: new heads if half of each is the same all over the page now. They cost a look at every node. */
  #sharpenHeads(unit: UnitId, level: number): void {
    const u32 = this.#arena.u32[unit >>> SEGMENT_UNIT_SHIFT]!;
    const highs = pageWord(unit) + HIGH_WORD;
    if (u32[highs] === u32[highs + this.#countOf(unit) - 1]!) this.#fillHeads(unit, level, KEY_BYTES_MAX);
  }

  #lastNode(unit: UnitId, level: number): number {
    let entry = this.#nodeAt(unit, this.#countOf(unit) - 1);
    for (; level > 0; level--) entry = this.#nodeAt(entry, this.#countOf(entry) - 1);
    return entry;
  }

  // ---- pages --------------------------------------------------------------------------------------------------------------------

  /** 0 if memory is short, or the group's share is used up. */
  #newPage(level: number): UnitId {
    const arena = this.#arena;
    if (this.#credit < LANE_OPERATIONS_PER_PAGE || arena.freeUnits() === 0) return 0;
    this.#credit -= LANE_OPERATIONS_PER_PAGE;
    const unit = this.#pages.allocate();
    const u8 = arena.u8[unit >>> SEGMENT_UNIT_SHIFT]!;
    const base = (unit & SEGMENT_UNIT_MASK) << UNIT_SHIFT;
    u8[base + LEVEL_BYTE] = level;
    u8[base + FLAGS_BYTE] = LANE_FLAG;
    this.#setCount(unit, 0);
    this.#setPrefixLength(unit, 0);
    return unit;
  }

  #nodeAt(unit: UnitId, index: number): number {
    return this.#arena.i32[unit >>> SEGMENT_UNIT_SHIFT]![pageWord(unit) + NODES_WORD + index]!;
  }

  #setNode(unit: UnitId, index: number, entry: number): void {
    this.#arena.i32[unit >>> SEGMENT_UNIT_SHIFT]![pageWord(unit) + NODES_WORD + index] = entry;
  }

  #countOf(unit: UnitId): number {
    return this.#arena.u16[unit >>> SEGMENT_UNIT_SHIFT]![pageWord(unit) * 2 + COUNT_HALFWORD]!;
  }

  #setCount(unit: UnitId, count: number): void {
    this.#arena.u16[unit >>> SEGMENT_UNIT_SHIFT]![pageWord(unit) * 2 + COUNT_HALFWORD] = count;
  }

  #prefixLengthOf(unit: UnitId): number {
    return this.#arena.u16[unit >>> SEGMENT_UNIT_SHIFT]![pageWord(unit) * 2 + PREFIX_LENGTH_HALFWORD]!;
  }

  #setPrefixLength(unit: UnitId, prefixLength: number): void {
    this.#arena.u16[unit >>> SEGMENT_UNIT_SHIFT]![pageWord(unit) * 2 + PREFIX_LENGTH_HALFWORD] = prefixLength;
  }
}
