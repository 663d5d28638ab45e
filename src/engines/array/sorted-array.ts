/**
 * The sorted array as its writer changes it: insert, replace, remove at the place that locate() went to; and the repair.
 *
 * Stores are ordered so that at any moment a walk over all blocks meets every node that is in the array in key order, some of them more than
 * once. So the repair after a writer's death is one rule: keep a node if it is above the last one kept.
 *
 *   insert   the last slot is doubled behind the end, then counted; the slots above the place move up one by one from the end, each
 *            doubling its neighbour; the node takes the place of a double. At the end of a block: stored, then counted.
 *   remove   the slots above move down one by one, then the count. The only node of a block goes with its block.
 *   split    the upper half is copied to a new block, which is inserted into the directory page; then the old block's count goes down.
 *   merge    the right block is copied behind the left one, counted there, and then removed from its directory page.
 *
 * Directory pages and the list of them in the descriptor change by the same steps. Stores of a dead thread are seen in program order by whoever
 * runs after its end is known; living readers are kept out by the latch.
 *
 * Threads: the shard thread only, with the latch held for writing around each change.
 */
import { SEGMENT_UNIT_SHIFT, type ArenaReader, type ArenaWriter, type UnitId } from '../../shared/memory/arena.js';
import { CLASS_BYTE, COUNT_HALFWORD, LEVEL_BYTE, PAGE_CLASS_MAX } from '../btree/page.js';
import { pageWord } from '../cells/node.js';
import {
  ArrayPlace,
  BLOCK_LEVEL,
  BLOCK_SLOTS,
  DIRECTORIES_MAX,
  DIRECTORY_LEVEL,
  HEADER_WORDS,
  TOP_WORD,
  VERSION_WORD,
  slotsOf,
} from './pages.js';

/** A page less than a quarter full goes into a neighbour if both fill at most three quarters of it. */
const MERGE_BELOW_SHIFT = 2;
const UNITS_OF_CLASS = [1, 2, 4, 8] as const;

/** Where the pages of the array come from: the engine's list of them, which a successor finds. */
export interface PageSource {
  allocatePage(units: 1 | 2 | 4 | 8): UnitId;
  retirePage(unit: UnitId): void;
  /** All pages, those that a dead writer had not put to use yet among them. */
  ownPages(): UnitId[];
}

/** Pages that prepare() keeps ready. */
const SPARES_MAX = 2;

/** A safe bound of the units that a directory page with so much room needs to take in so many blocks. */
function directoryGrowth(pageClass: number, room: number, blocks: number): number {
  let units = 0;
  // It grows as soon as it is full.
  for (let to = pageClass + 1; room <= blocks && to <= PAGE_CLASS_MAX; to++) {
    room += slotsOf(to) - slotsOf(to - 1);
    units += 1 << to;
  }
  return room <= blocks ? units + 1 + Math.ceil((4 * blocks) / BLOCK_SLOTS) : units;
}

/** The same of an array that is empty. */
export function unitsNeededByNew(inserts: number): number {
  const blocks = 1 + Math.ceil((2 * inserts) / BLOCK_SLOTS);
  return blocks + 1 + SPARES_MAX + directoryGrowth(0, BLOCK_SLOTS, blocks);
}

/** The list of directory pages in the descriptor, where a page is meant. */
const TOP = 0;

function pageClassOf(arena: ArenaReader, unit: UnitId): number {
  return arena.u8[unit >>> SEGMENT_UNIT_SHIFT]![pageWord(unit) * 4 + CLASS_BYTE]! & 3;
}

export class SortedArray extends ArrayPlace {
  readonly #writer: ArenaWriter;
  readonly #topWords: Int32Array;
  readonly #topAt: number;
  /** Pages of one unit for what the next insert may need: an insert itself asks for no memory. */
  readonly #spares: UnitId[] = [];
  /** A directory page may have become full since prepare() looked. */
  #mayBeFull = true;
  /** A directory page is full and could not grow: an insert may split it. */
  #mustSplitDirectory = false;
  blocks = 0;
  #fullBlocks = 0;
  splits = 0;
  merges = 0;
  /** For tests: called after each store that a dying thread could stop behind. */
  onStore: (() => void) | undefined;

  readonly #pages: PageSource;
  readonly #slotsMax: number;
  readonly #blockSlots: number;

  /**
   * Repairs what a dead writer left. `slotsMax`: for tests, fewer entries in a page of one unit than
   * fit. @throws ERR_CORRUPT
   */
  constructor(arena: ArenaWriter, descriptorUnit: UnitId, pages: PageSource, slotsMax = BLOCK_SLOTS) {
    super(arena, descriptorUnit);
    this.#pages = pages;
    this.#slotsMax = slotsMax;
    this.#blockSlots = this.#slots(0);
    this.#writer = arena;
    this.#topWords = arena.i32[descriptorUnit >>> SEGMENT_UNIT_SHIFT]!;
    this.#topAt = pageWord(descriptorUnit) + TOP_WORD;
    this.#repair();
  }

  /** Node with the key or 0, and remembers the place. */
  locate(key: Uint8Array, keyStart: number, keyLength: number): number {
    return this.findNear(key, keyStart, keyLength);
  }

  /**
   * Before each operation, without the latch: has the pages ready that it may need, as far as memory goes, and lets a full directory page grow. The
   * place stays.
   */
  prepare(): void {
    let wanted = 0;
    if (this.#fullBlocks > 0) {
      if (this.#mayBeFull) this.#growDirectories();
      wanted = this.#mustSplitDirectory ? 2 : 1;
    } else if (this.directoryCount === 0) {
      wanted = 2;
    }
    while (this.#spares.length < wanted && this.#writer.freeUnits(this.#writer.reserveMode) > 0) {
      this.#spares.push(this.#pages.allocatePage(1));
    }
  }

  /** Puts the node where locate() found nothing, after prepare(). On ERR_MEMORY_FULL nothing has changed. */
  insert(node: number): void {
    this.#startChange();
    this.forgetPlace();
    if (this.directoryCount === 0) {
      this.#plant(node);
    } else {
      let count = this.countOf(this.blockUnit, BLOCK_LEVEL);
      if (count === this.#blockSlots) {
        if (this.slot === count && this.isLastBlock()) return this.#addBlock(node, true);
        if (this.slot === 0 && this.block === 0 && this.directory === 0) return this.#addBlock(node, false);
        this.#splitBlock();
        count = this.countOf(this.blockUnit, BLOCK_LEVEL);
      }
      this.#insertWord(this.blockUnit, this.slot, count, node);
      if (count + 1 === this.#blockSlots) this.#fullBlocks++;
    }
    this.rememberPlace();
  }

  /** Puts the node in place of the one that locate() found. One store. */
  replace(node: number): void {
    this.#startChange();
    this.arena.i32[this.blockUnit >>> SEGMENT_UNIT_SHIFT]![pageWord(this.blockUnit) + HEADER_WORDS + this.slot] = node;
    this.onStore?.();
  }

  /** Takes out the node that locate() found. */
  remove(): void {
    this.#startChange();
    this.forgetPlace();
    const count = this.countOf(this.blockUnit, BLOCK_LEVEL);
    if (count === this.#blockSlots) this.#fullBlocks--;
    if (count === 1) {
      this.#removeChild(this.directoryUnit(this.directory), this.block);
      return;
    }
    this.#removeWord(this.blockUnit, this.slot, count);
    if (count - 1 < this.#blockSlots >>> MERGE_BELOW_SHIFT) {
      this.#mergeChild(this.directoryUnit(this.directory), this.block);
    }
  }

  /** A safe bound of the units that so many inserts may take, spares included. */
  unitsNeeded(inserts: number): number {
    // A block splits when it is full: those that are full now, and any again after half a block of inserts.
    const splits = Math.min(inserts, this.#fullBlocks) + Math.ceil((2 * inserts) / this.#blockSlots);
    let units = splits + SPARES_MAX;
    for (let index = 0; index < this.directoryCount; index++) {
      const unit = this.directoryUnit(index);
      const pageClass = pageClassOf(this.arena, unit);
      units += directoryGrowth(pageClass, slotsOf(pageClass) - this.countOf(unit, DIRECTORY_LEVEL), splits);
    }
    return units;
  }

  /** Adds the problems found; returns the number of nodes. */
  check(problems: string[]): number {
    let nodes = 0;
    let blocks = 0;
    let fullBlocks = 0;
    let before = 0;
    const seen = new Set<UnitId>(this.#spares);
    const see = (unit: UnitId): void => {
      if (seen.has(unit)) problems.push(`array: page ${unit} is listed twice`);
      seen.add(unit);
    };
    for (let directory = 0; directory < this.directoryCount; directory++) {
      const directoryUnit = this.directoryUnit(directory);
      const blockCount = this.countOf(directoryUnit, DIRECTORY_LEVEL);
      see(directoryUnit);
      blocks += blockCount;
      for (let block = 0; block < blockCount && problems.length < 20; block++) {
        const unit = this.wordAt(directoryUnit, block);
        const count = this.countOf(unit, BLOCK_LEVEL);
        see(unit);
        for (let slot = 0; slot < count; slot++) {
          const node = this.wordAt(unit, slot);
          if (before !== 0 && !this.#isAscending(before, node)) {
            problems.push(`array: slot ${slot} of block ${unit} is not above the one before`);
          }
          before = node;
        }
        nodes += count;
        if (count === this.#blockSlots) fullBlocks++;
      }
    }
    if (blocks !== this.blocks) problems.push(`array: ${blocks} blocks, counted ${this.blocks}`);
    if (fullBlocks !== this.#fullBlocks) problems.push(`array: ${fullBlocks} full blocks, counted ${this.#fullBlocks}`);
    for (const unit of this.#pages.ownPages()) {
      if (!seen.delete(unit)) problems.push(`array: page ${unit} is not in the array`);
    }
    if (seen.size > 0) problems.push(`array: page ${[...seen][0]!} is not in the list of pages`);
    return nodes;
  }

  /** Entries in a page of so many units. */
  #slots(pageClass: number): number {
    return Math.min(slotsOf(pageClass), this.#slotsMax << pageClass);
  }

  // ---- blocks -------------------------------------------------------------------------------------------------------------------

  /** The first node of all. */
  #plant(node: number): void {
    this.#needSpares(2);
    const block = this.#takeSpare(BLOCK_LEVEL);
    const directory = this.#takeSpare(DIRECTORY_LEVEL);
    this.#fill(block, node);
    this.#fill(directory, block);
    this.blocks = 1;
    if (this.#blockSlots === 1) this.#fullBlocks = 1;
    this.directory = 0;
    this.block = 0;
    this.slot = 0;
    this.blockUnit = block;
    this.#insertWord(TOP, 0, 0, directory);
  }

  /** A block of the node alone, before or behind the place's: what comes in order leaves full blocks behind. */
  #addBlock(node: number, isBehind: boolean): void {
    this.#makeDirectoryRoom();
    const unit = this.#takeSpare(BLOCK_LEVEL);
    this.#fill(unit, node);
    if (isBehind) this.block++;
    this.#insertBlock(unit);
    this.blockUnit = unit;
    this.slot = 0;
    this.rememberPlace();
  }

  /** Halves the full block of the place; the place goes with the half it is in. */
  #splitBlock(): void {
    this.#makeDirectoryRoom();
    const left = this.blockUnit;
    const right = this.#takeSpare(BLOCK_LEVEL);
    const half = this.#blockSlots >>> 1;
    this.#copyWords(left, half, right, 0, this.#blockSlots - half);
    this.#setCount(right, this.#blockSlots - half);
    this.block++;
    this.#insertBlock(right);
    this.#setCount(left, half);
    this.#fullBlocks--;
    this.splits++;
    if (this.slot > half) {
      this.blockUnit = right;
      this.slot -= half;
    } else {
      this.block--;
    }
  }

  /** Lists a block at the place's `block` of its directory page. */
  #insertBlock(unit: UnitId): void {
    const directory = this.directoryUnit(this.directory);
    const count = this.countOf(directory, DIRECTORY_LEVEL);
    this.#insertWord(directory, this.block, count, unit);
    this.blocks++;
    if (count + 1 === this.#slots(pageClassOf(this.arena, directory))) this.#mayBeFull = true;
  }

  /** The place's directory page gets room for one more block, and there is a page for that. @throws ERR_MEMORY_FULL, and nothing has changed */
  #makeDirectoryRoom(): void {
    const old = this.directoryUnit(this.directory);
    const count = this.countOf(old, DIRECTORY_LEVEL);
    if (count < this.#slots(pageClassOf(this.arena, old))) {
      this.#needSpares(1);
      return;
    }
    this.#needSpares(2);
    if (this.directoryCount === DIRECTORIES_MAX) throw this.#writer.memoryFull(1);
    const right = this.#takeSpare(DIRECTORY_LEVEL);
    const moved = Math.min(count, this.#slots(0)) >>> 1;
    const left = count - moved;
    this.#copyWords(old, left, right, 0, moved);
    this.#setCount(right, moved);
    this.#insertWord(TOP, this.directory + 1, this.directoryCount, right);
    this.#setCount(old, left);
    this.#mayBeFull = true;
    if (this.block >= left) {
      this.directory++;
      this.block -= left;
    }
  }

  /** Each full directory page is copied to a larger one, which takes its place by one store: readers on the old one go on undisturbed. */
  #growDirectories(): void {
    this.#mayBeFull = false;
    this.#mustSplitDirectory = false;
    for (let index = 0; index < this.directoryCount; index++) {
      const old = this.directoryUnit(index);
      const pageClass = pageClassOf(this.arena, old);
      const count = this.countOf(old, DIRECTORY_LEVEL);
      if (count < this.#slots(pageClass)) continue;
      if (pageClass === PAGE_CLASS_MAX || !this.#canHave(pageClass + 1)) {
        this.#mustSplitDirectory = true;
        continue;
      }
      const larger = this.#pages.allocatePage(UNITS_OF_CLASS[pageClass + 1]!);
      this.#setLevel(larger, DIRECTORY_LEVEL);
      this.#copyWords(old, 0, larger, 0, count);
      this.#setCount(larger, count);
      Atomics.store(this.#topWords, this.#topAt + 1 + index, larger);
      this.onStore?.();
      this.#pages.retirePage(old);
    }
  }

  #canHave(pageClass: number): boolean {
    const arena = this.#writer;
    // The reserve is for what deletes need.
    if (arena.reserveMode || arena.freeUnits() < 2 << pageClass) return false;
    const wanted = [0, 0, 0, 0];
    wanted[pageClass] = 1;
    return arena.canAllocate(wanted, false);
  }

  #needSpares(count: number): void {
    if (this.#spares.length < count) throw this.#writer.memoryFull(count);
  }

  /** Takes the child at `index` out of a directory page, or of the list of those. */
  #removeChild(parent: UnitId, index: number): void {
    const count = parent === TOP ? this.directoryCount : this.countOf(parent, DIRECTORY_LEVEL);
    const child = parent === TOP ? this.directoryUnit(index) : this.wordAt(parent, index);
    if (parent === TOP) {
      this.#removeWord(TOP, index, count);
    } else {
      if (count === 1) {
        this.#removeChild(TOP, this.directory);
      } else {
        this.#removeWord(parent, index, count);
        if (count - 1 < this.#slots(pageClassOf(this.arena, parent)) >>> MERGE_BELOW_SHIFT) {
          this.#mergeChild(TOP, this.directory);
        }
      }
      this.blocks--;
    }
    this.#pages.retirePage(child);
  }

  /** Joins the child at `index` with a neighbour below the same parent, if both fill one page to no more than three quarters. */
  #mergeChild(parent: UnitId, index: number): void {
    const level = parent === TOP ? DIRECTORY_LEVEL : BLOCK_LEVEL;
    const count = parent === TOP ? this.directoryCount : this.countOf(parent, DIRECTORY_LEVEL);
    const childAt = (at: number): UnitId => (parent === TOP ? this.directoryUnit(at) : this.wordAt(parent, at));
    for (let left = index; left >= index - 1; left--) {
      if (left < 0 || left + 1 >= count) continue;
      const into = childAt(left);
      const from = childAt(left + 1);
      const intoCount = this.countOf(into, level);
      const fromCount = this.countOf(from, level);
      const slots = this.#slots(pageClassOf(this.arena, into));
      if (intoCount + fromCount > slots - (slots >>> MERGE_BELOW_SHIFT)) continue;
      this.#copyWords(from, 0, into, intoCount, fromCount);
      this.#setCount(into, intoCount + fromCount);
      this.merges++;
      this.#removeChild(parent, left + 1);
      return;
    }
  }

  // ---- repair -------------------------------------------------------------------------------------------------------------------

  #repair(): void {
    const kept = new Set<UnitId>();
    let last = 0;
    let directory = 0;
    while (directory < this.directoryCount) {
      const directoryUnit = this.directoryUnit(directory);
      let blockCount = kept.has(directoryUnit) ? 0 : this.countOf(directoryUnit, DIRECTORY_LEVEL);
      let block = 0;
      while (block < blockCount) {
        const unit = this.wordAt(directoryUnit, block);
        // A block that is listed once more has nothing that is above the last entry.
        const count = this.countOf(unit, BLOCK_LEVEL);
        let keptSlots = 0;
        for (let slot = 0; slot < count; slot++) {
          const node = this.wordAt(unit, slot);
          if (last !== 0 && !this.#isAscending(last, node)) continue;
          last = node;
          if (keptSlots !== slot) {
            this.arena.i32[unit >>> SEGMENT_UNIT_SHIFT]![pageWord(unit) + HEADER_WORDS + keptSlots] = node;
          }
          keptSlots++;
        }
        if (keptSlots > 0) {
          if (keptSlots < count) this.#setCount(unit, keptSlots);
          kept.add(unit);
          if (keptSlots === this.#blockSlots) this.#fullBlocks++;
          block++;
          continue;
        }
        if (blockCount === 1) break;
        this.#removeWord(directoryUnit, block, blockCount);
        blockCount--;
      }
      if (block > 0) {
        kept.add(directoryUnit);
        this.blocks += blockCount;
        directory++;
      } else {
        this.#removeWord(TOP, directory, this.directoryCount);
      }
    }
    for (const unit of this.#pages.ownPages()) if (!kept.has(unit)) this.#pages.retirePage(unit);
  }

  // ---- words --------------------------------------------------------------------------------------------------------------------

  #takeSpare(level: number): UnitId {
    const unit = this.#spares.pop()!;
    this.#setLevel(unit, level);
    return unit;
  }

  #setLevel(unit: UnitId, level: number): void {
    this.arena.u8[unit >>> SEGMENT_UNIT_SHIFT]![pageWord(unit) * 4 + LEVEL_BYTE] = level;
  }

  /** Places that readers keep are good for the array before. First, so that this is known of a change that its writer did not survive. */
  #startChange(): void {
    this.#topWords[this.#topAt + VERSION_WORD - TOP_WORD]!++;
    this.onStore?.();
  }

  /** Of a page that is not listed yet. */
  #fill(unit: UnitId, value: number): void {
    this.arena.i32[unit >>> SEGMENT_UNIT_SHIFT]![pageWord(unit) + HEADER_WORDS] = value;
    this.#setCount(unit, 1);
  }

  #copyWords(from: UnitId, fromIndex: number, to: UnitId, toIndex: number, count: number): void {
    const source = this.arena.i32[from >>> SEGMENT_UNIT_SHIFT]!;
    const target = this.arena.i32[to >>> SEGMENT_UNIT_SHIFT]!;
    const sourceAt = pageWord(from) + HEADER_WORDS + fromIndex;
    const targetAt = pageWord(to) + HEADER_WORDS + toIndex;
    for (let index = 0; index < count; index++) target[targetAt + index] = source[sourceAt + index]!;
  }

  #setCount(unit: UnitId, count: number): void {
    if (unit === TOP) this.#topWords[this.#topAt] = count;
    else this.arena.u16[unit >>> SEGMENT_UNIT_SHIFT]![pageWord(unit) * 2 + COUNT_HALFWORD] = count;
    this.onStore?.();
  }

  #insertWord(unit: UnitId, index: number, count: number, value: number): void {
    const words = unit === TOP ? this.#topWords : this.arena.i32[unit >>> SEGMENT_UNIT_SHIFT]!;
    const first = unit === TOP ? this.#topAt + 1 : pageWord(unit) + HEADER_WORDS;
    if (index === count) {
      words[first + count] = value;
      this.onStore?.();
      this.#setCount(unit, count + 1);
      return;
    }
    words[first + count] = words[first + count - 1]!;
    this.onStore?.();
    this.#setCount(unit, count + 1);
    // Word by word: a native move of shared memory by 4 bytes goes byte by byte.
    const stored = this.onStore;
    for (let at = first + count - 1; at > first + index; at--) {
      words[at] = words[at - 1]!;
      if (stored !== undefined) stored();
    }
    words[first + index] = value;
    this.onStore?.();
  }

  #removeWord(unit: UnitId, index: number, count: number): void {
    const words = unit === TOP ? this.#topWords : this.arena.i32[unit >>> SEGMENT_UNIT_SHIFT]!;
    const first = unit === TOP ? this.#topAt + 1 : pageWord(unit) + HEADER_WORDS;
    const end = first + count - 1;
    const stored = this.onStore;
    for (let at = first + index; at < end; at++) {
      words[at] = words[at + 1]!;
      if (stored !== undefined) stored();
    }
    this.#setCount(unit, count - 1);
  }

  #isAscending(low: number, high: number): boolean {
    const u8 = this.openKey(low);
    return this.compare(high, u8, this.keyAt, this.keyLength, 0) < 0;
  }
}
