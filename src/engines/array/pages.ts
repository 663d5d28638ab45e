/**
 * The sorted array in shared memory, and the search in it.
 *
 *   descriptor page                       directory page (1 … 8 units)          block (1 unit)
 *   ┌──────────────────────────┐          ┌────────┬──────────────────┐         ┌────────┬──────────────────┐
 *   │ … count │ directory pages ├────────▶ │ header │ blocks, ascending ├───────▶ │ header │ nodes, ascending │
 *   └──────────────────────────┘          └────────┴──────────────────┘         └────────┴──────────────────┘
 *
 * The array is cut into blocks of up to 1,018 addresses, so that an insert moves at most that many words, a full block splits into two, and nothing
 * is ever rebuilt: the cost of an insert is bounded by the search, half a block, and half a directory page once in some hundred inserts. (One
 * flat array with a delta beside it needs the same search and a merge of everything once per delta: 2 ms at a million entries.) No block and no
 * directory page is empty.
 *
 * Header: as every page's (btree/page.ts), kind Engine, level 1 in a block, 2 in a directory page; count at its place. the engine's list of pages links them by their next word. Entries from byte 24 on.
 * Threads: any, with the arena's latch held, or as its only writer.
 */
import { PAGE_BIRTH_LOW_WORD, SEGMENT_UNIT_SHIFT, type ArenaReader, type UnitId } from '../../shared/memory/arena.js';
import { ConcordError } from '../../shared/errors.js';
import {
  CLASS_BYTE,
  COUNT_HALFWORD,
  PAGE_HEADER_BYTES,
  PageKind,
  cellLengthsAt,
  corruptPage,
  skipVarint,
} from '../btree/page.js';
import { OWN_WORD, checkAddress, nodeOffset, nodeSegment, pageWord } from '../cells/node.js';

export const BLOCK_LEVEL = 1;
export const DIRECTORY_LEVEL = 2;
export const HEADER_WORDS = PAGE_HEADER_BYTES / 4;
export const BLOCK_SLOTS = 4096 / 4 - HEADER_WORDS;
/** Directory pages of the descriptor: with half-full pages still 10^9 entries. */
export const DIRECTORIES_MAX = 512;
/** Finds in a row that may miss the last place before it is tried less often. */
const FINGER_MISSES_MAX = 4;
const FINGER_RETRY_MASK = 31;
/** Word of the descriptor: a count of changes. Behind it stands the count of directory pages, then those. */
export const VERSION_WORD = OWN_WORD;
export const TOP_WORD = VERSION_WORD + 1;
/** The cell stands behind word 0. */
export const CELL_OFFSET_BYTES = 4;

export function slotsOf(pageClass: number): number {
  return ((4096 << pageClass) >>> 2) - HEADER_WORDS;
}

export function corruptArray(what: string): ConcordError {
  return new ConcordError('ERR_CORRUPT', `array: ${what}`);
}

/**
 * A place in the array: slot `slot` of block `block` of directory page `directory`. After find() without success it is the place where the key would
 * stand, which may be behind the last slot of its block.
 */
export class ArrayPlace {
  protected readonly arena: ArenaReader;
  #top: Int32Array;
  #topAt = 0;
  directory = 0;
  block = 0;
  slot = 0;
  /** Of the block that the place is in. */
  blockUnit: UnitId = 0;
  /** Bytes that the key of the last comparison shares with the node's, from the first on. */
  #common = 0;
  #lowCommon = 0;
  #highCommon = 0;
  #found = 0;
  /** The node of the last findNear() or insert stands at the place. */
  #hasFinger = false;
  #fingerMisses = 0;
  #findCount = 0;
  /** The array as the place knows it: where its descriptor page is, when that was born, and how often the array had changed. */
  #descriptor: UnitId = 0;
  #birth = 0;
  #version = 0;
  /** Where openKey() found the key, in its segment. */
  protected keyAt = 0;
  protected keyLength = 0;

  constructor(arena: ArenaReader, descriptorUnit: UnitId) {
    this.arena = arena;
    this.#top = arena.i32[0]!;
    this.enter(descriptorUnit);
  }

  /** The array of that descriptor from now on. Forgets the place if it is another one, or has changed. */
  enter(descriptorUnit: UnitId): void {
    const words = this.arena.i32[descriptorUnit >>> SEGMENT_UNIT_SHIFT]!;
    const word = pageWord(descriptorUnit);
    const birth = words[word + PAGE_BIRTH_LOW_WORD]!;
    const version = words[word + VERSION_WORD]!;
    if (this.#descriptor === descriptorUnit && this.#birth === birth && this.#version === version) return;
    this.#descriptor = descriptorUnit;
    this.#birth = birth;
    this.#version = version;
    this.#top = words;
    this.#topAt = word + TOP_WORD;
    this.#hasFinger = false;
  }

  get directoryCount(): number {
    const count = this.#top[this.#topAt]!;
    if (count < 0 || count > DIRECTORIES_MAX) throw corruptArray(`${count} directory pages`);
    return count;
  }

  /** A page grows while readers are about: whoever reads its new place reads the new page. */
  directoryUnit(index: number): UnitId {
    return Atomics.load(this.#top, this.#topAt + 1 + index);
  }

  /** Entries of a page. @throws ERR_CORRUPT if it is no page of that level */
  countOf(unit: UnitId, level: number): number {
    const arena = this.arena;
    if (!(unit > 0 && unit < arena.totalUnits)) throw corruptPage(unit, 'not a unit of the arena');
    const segment = unit >>> SEGMENT_UNIT_SHIFT;
    const word = pageWord(unit);
    if ((arena.i32[segment]![word]! & 0xffff) !== (PageKind.Engine | (level << 8))) {
      throw corruptPage(unit, `not a page of level ${level} of an array`);
    }
    const count = arena.u16[segment]![word * 2 + COUNT_HALFWORD]!;
    if (count === 0 || count > slotsOf(arena.u8[segment]![word * 4 + CLASS_BYTE]! & 3)) {
      throw corruptPage(unit, `a page of an array with ${count} entries`);
    }
    return count;
  }

  wordAt(unit: UnitId, index: number): number {
    return this.arena.i32[unit >>> SEGMENT_UNIT_SHIFT]![pageWord(unit) + HEADER_WORDS + index]!;
  }

  /** find() that looks beside the last place first: keys that come in ascending order are there. */
  findNear(key: Uint8Array, keyStart: number, keyLength: number): number {
    if (this.#hasFinger && (this.#fingerMisses < FINGER_MISSES_MAX || (this.#findCount++ & FINGER_RETRY_MASK) === 0)) {
      this.#fingerMisses++;
      const here = this.wordAt(this.blockUnit, this.slot);
      const order = this.compare(here, key, keyStart, keyLength, 0);
      if (order === 0) return here;
      if (order > 0) {
        const next = this.slot + 1;
        if (next < this.countOf(this.blockUnit, BLOCK_LEVEL)) {
          const node = this.wordAt(this.blockUnit, next);
          const nextOrder = this.compare(node, key, keyStart, keyLength, 0);
          if (nextOrder <= 0) {
            this.#fingerMisses = 0;
            this.slot = next;
            return nextOrder === 0 ? node : 0;
          }
        } else if (this.isLastBlock()) {
          this.#fingerMisses = 0;
          this.slot = next;
          this.#hasFinger = false;
          return 0;
        }
      }
    }
    const node = this.find(key, keyStart, keyLength);
    this.#hasFinger = node !== 0;
    return node;
  }

  /** A node stands at the place. */
  protected rememberPlace(): void {
    this.#hasFinger = true;
  }

  /** The next findNear() starts from the top: the array has changed elsewhere, or the place was used for something else. */
  forgetPlace(): void {
    this.#hasFinger = false;
  }

  protected isLastBlock(): boolean {
    return (
      this.directory === this.directoryCount - 1 &&
      this.block === this.countOf(this.directoryUnit(this.directory), DIRECTORY_LEVEL) - 1
    );
  }

  /** Address of the node with the key, 0 if there is none. */
  find(key: Uint8Array, keyStart: number, keyLength: number): number {
    this.#lowCommon = 0;
    this.#highCommon = 0;
    this.#found = 0;
    this.directory = 0;
    this.block = 0;
    this.slot = 0;
    const directories = this.directoryCount;
    if (directories === 0) return 0;
    if (directories > 1) this.directory = this.#lastNotAbove(0, DIRECTORY_LEVEL, directories, key, keyStart, keyLength);
    const directoryUnit = this.directoryUnit(this.directory);
    const blocks = this.countOf(directoryUnit, DIRECTORY_LEVEL);
    if (this.#found === 0)
      this.block = this.#lastNotAbove(directoryUnit, BLOCK_LEVEL, blocks, key, keyStart, keyLength);
    this.blockUnit = this.wordAt(directoryUnit, this.block);
    const slots = this.countOf(this.blockUnit, BLOCK_LEVEL);
    if (this.#found !== 0) return this.#found;
    this.#searchBlock(0, slots, key, keyStart, keyLength);
    return this.#found;
  }

  /** Searches the slots [low, high) of the place's block. */
  #searchBlock(low: number, high: number, key: Uint8Array, keyStart: number, keyLength: number): void {
    const words = this.arena.i32[this.blockUnit >>> SEGMENT_UNIT_SHIFT]!;
    const first = pageWord(this.blockUnit) + HEADER_WORDS;
    while (low < high) {
      const middle = (low + high) >>> 1;
      const node = words[first + middle]!;
      const order = this.#compareOn(node, key, keyStart, keyLength);
      if (order > 0) low = middle + 1;
      else if (order < 0) high = middle;
      else {
        this.slot = middle;
        this.#found = node;
        return;
      }
    }
    this.slot = low;
  }

  /** Index of the last child of the page whose first node is not above the key; 0 if all are above. */
  #lastNotAbove(
    unit: UnitId,
    childLevel: number,
    count: number,
    key: Uint8Array,
    keyStart: number,
    keyLength: number,
  ): number {
    let low = 0;
    let high = count;
    while (low < high) {
      const middle = (low + high) >>> 1;
      let child = unit === 0 ? this.directoryUnit(middle) : this.wordAt(unit, middle);
      if (childLevel === DIRECTORY_LEVEL) {
        this.countOf(child, DIRECTORY_LEVEL);
        child = this.wordAt(child, 0);
      }
      if (!(child > 0 && child < this.arena.totalUnits)) throw corruptPage(child, 'not a unit of the arena');
      const node = this.wordAt(child, 0);
      const order = this.#compareOn(node, key, keyStart, keyLength);
      if (order > 0) low = middle + 1;
      else if (order < 0) high = middle;
      else {
        this.#found = node;
        return middle;
      }
    }
    return low === 0 ? 0 : low - 1;
  }

  /** compare(), and remembers what the nearest nodes on both sides have in common with the key: so has all between them. */
  #compareOn(node: number, key: Uint8Array, keyStart: number, keyLength: number): number {
    const skip = this.#lowCommon < this.#highCommon ? this.#lowCommon : this.#highCommon;
    const order = this.compare(node, key, keyStart, keyLength, skip);
    if (order > 0) this.#lowCommon = this.#common;
    else this.#highCommon = this.#common;
    return order;
  }

  /** > 0 if the key is above the node's; the first `skip` bytes are known to be equal. */
  compare(node: number, key: Uint8Array, keyStart: number, keyLength: number, skip: number): number {
    checkAddress(this.arena, node);
    const u8 = this.openKey(node);
    const length = this.keyLength;
    const at = this.keyAt;
    const shorter = length < keyLength ? length : keyLength;
    let index = skip;
    let order = 0;
    for (; index < shorter; index++) {
      order = key[keyStart + index]! - u8[at + index]!;
      if (order !== 0) break;
    }
    this.#common = index;
    return order !== 0 ? order : keyLength - length;
  }

  /** The bytes that the node's key stands in; keyAt and keyLength say where. */
  protected openKey(node: number): Uint8Array {
    const u8 = this.arena.u8[nodeSegment(node)]!;
    let at = cellLengthsAt(u8, nodeOffset(node) + CELL_OFFSET_BYTES);
    at = u8[at]! < 0x80 ? at + 1 : skipVarint(u8, at);
    let length = u8[at++]!;
    if (length >= 0x80) length = (length & 0x7f) | (u8[at++]! << 7);
    this.keyAt = at;
    this.keyLength = length;
    return u8;
  }

  /** To the first (side 0) or last (side 1) node, 0 if there is none. */
  edge(side: 0 | 1): number {
    const directories = this.directoryCount;
    if (directories === 0) return 0;
    this.directory = side === 0 ? 0 : directories - 1;
    return this.#enterDirectory(side);
  }

  /** After find() without success: the node that stands where the key would, or behind it; 0 if there is none. */
  nodeOrNext(): number {
    if (this.directoryCount === 0) return 0;
    if (this.slot < this.countOf(this.blockUnit, BLOCK_LEVEL)) return this.wordAt(this.blockUnit, this.slot);
    return this.step(1);
  }

  /** To the next node (side 1) or the one before (side 0), 0 at the end. */
  step(side: 0 | 1): number {
    if (this.directoryCount === 0) return 0;
    if (side === 1) {
      if (this.slot + 1 < this.countOf(this.blockUnit, BLOCK_LEVEL)) return this.wordAt(this.blockUnit, ++this.slot);
    } else if (this.slot > 0) {
      // After find() without success the slot may be the one behind the last.
      return this.wordAt(this.blockUnit, --this.slot);
    }
    const move = side === 1 ? 1 : -1;
    const directoryUnit = this.directoryUnit(this.directory);
    const block = this.block + move;
    if (block >= 0 && block < this.countOf(directoryUnit, DIRECTORY_LEVEL)) {
      this.block = block;
      return this.#enterBlock(this.wordAt(directoryUnit, block), side === 1 ? 0 : 1);
    }
    const directory = this.directory + move;
    if (directory < 0 || directory >= this.directoryCount) return 0;
    this.directory = directory;
    return this.#enterDirectory(side === 1 ? 0 : 1);
  }

  #enterDirectory(side: 0 | 1): number {
    const unit = this.directoryUnit(this.directory);
    const count = this.countOf(unit, DIRECTORY_LEVEL);
    this.block = side === 0 ? 0 : count - 1;
    return this.#enterBlock(this.wordAt(unit, this.block), side);
  }

  #enterBlock(unit: UnitId, side: 0 | 1): number {
    const count = this.countOf(unit, BLOCK_LEVEL);
    this.blockUnit = unit;
    this.slot = side === 0 ? 0 : count - 1;
    return this.wordAt(unit, this.slot);
  }
}
