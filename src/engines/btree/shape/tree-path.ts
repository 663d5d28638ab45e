/**
 * Where the last descent went, and ways from there.
 *
 *   level 2      [ root ]                 unit[level], index[level] is the path of the last descent: the page and the child taken.
 *   level 1   [ branch ]…                 It stays right while changes keep the structure, so that neighbouring operations need no
 *   level 0   [ leaf ]  [ leaf ]…         new descent ("finger"); a structural change drops it.
 *
 * The first of the layers that make up the changing tree. Each knows those before it only:
 *
 *   TreePath       this file
 *   TreePages      pages: made, copied before their first change, given back, counted
 *   TreeBranches   the levels above the leaves: children come and go
 *   LeafCells      the cells of one leaf, and the cell to insert
 *   TreeLeaves     inserts and removals; leaves that overflow or underflow
 *   TreeRoom       whether an operation or a group fits in memory; packing where it runs short
 *   TreeChains     values in chains of overflow pages
 *   BTreeWriter    versions: what is put, replaced, hidden, swept (../writer.ts)
 *
 * How a run of entries is cut into pages is planned in parts.ts.
 *
 * Threads: the shard thread only.
 */
import type { ArenaWriter, UnitId } from '../../../shared/memory/arena.js';
import { SEGMENT_UNIT_MASK, SEGMENT_UNIT_SHIFT, UNIT_SHIFT } from '../../../shared/memory/arena.js';
import { COLD } from '../paged/format.js';
import type { Pager } from '../paged/pager.js';
import {
  COUNT_HALFWORD,
  HEIGHT_MAX,
  PAGE_FLAGS_BYTE,
  PAGE_HEADER_BYTES,
  PREFIX_LENGTH_HALFWORD,
  SEQ_BYTES,
  branchOffsetsHalfword,
  childrenWord,
  copyBytes,
  readSeq,
  readVarint,
  skipVarint,
} from '../page.js';
import { compareSeparator, searchBranch, searchLeaf } from '../search.js';

export abstract class TreePath {
  protected readonly arena: ArenaWriter;
  /** Of a tree some of whose leaves may lie in a page file only. */
  pager: Pager | undefined = undefined;

  protected rootUnit: UnitId = 0;
  protected height = 0;

  /** The path: pages and, in branches, the child taken. */
  protected readonly unit = new Int32Array(HEIGHT_MAX + 1);
  protected readonly index = new Int32Array(HEIGHT_MAX + 1);
  protected fingerValid = false;
  #fingerMisses = 0;

  /** The leaf of the path. */
  protected u8!: Uint8Array;
  protected u16!: Uint16Array;
  protected u32!: Uint32Array;
  protected base = 0;

  constructor(arena: ArenaWriter) {
    this.arena = arena;
  }

  protected descend(key: Uint8Array, keyStart: number, keyLength: number, seq: number): void {
    const arena = this.arena;
    let unit = this.rootUnit;
    for (let level = this.height - 1; level > 0; level--) {
      const segment = unit >>> SEGMENT_UNIT_SHIFT;
      const base = (unit & SEGMENT_UNIT_MASK) << UNIT_SHIFT;
      const u16 = arena.u16[segment]!;
      const u32 = arena.u32[segment]!;
      const index = searchBranch(arena.u8[segment]!, u16, u32, base, key, keyStart, keyLength, seq);
      this.unit[level] = unit;
      this.index[level] = index;
      unit = u32[childrenWord(u16, base) + index]!;
      if (unit >= COLD) {
        this.fingerValid = false;
        unit = this.pager!.fault(this.unit[level]!, index);
      }
    }
    this.#enterLeaf(unit);
  }

  #enterLeaf(unit: UnitId): void {
    this.unit[0] = unit;
    this.fingerValid = true;
    this.loadLeaf();
    if (this.u8[this.base + PAGE_FLAGS_BYTE] !== 0) this.u8[this.base + PAGE_FLAGS_BYTE] = 0;
  }

  protected loadLeaf(): void {
    const unit = this.unit[0]!;
    const segment = unit >>> SEGMENT_UNIT_SHIFT;
    this.u8 = this.arena.u8[segment]!;
    this.u16 = this.arena.u16[segment]!;
    this.u32 = this.arena.u32[segment]!;
    this.base = (unit & SEGMENT_UNIT_MASK) << UNIT_SHIFT;
  }

  /**
   * Goes to the leaf of (key, seq) and returns the position there as searchLeaf does. Tries the last path first; when that keeps
   * failing (random keys), only now and then.
   */
  protected locate(key: Uint8Array, keyStart: number, keyLength: number, seq: number): number {
    if (this.fingerValid && (this.#fingerMisses < 8 || (this.#fingerMisses & 15) === 0)) {
      const position = searchLeaf(this.u8, this.u16, this.u32, this.base, key, keyStart, keyLength, seq);
      const at = position < 0 ? ~position : position;
      if (
        (at > 0 || this.isLeftmost()) &&
        (at < this.leafCount() || this.#isBeforeRightSeparator(key, keyStart, keyLength, seq))
      ) {
        this.#fingerMisses = 0;
        return position;
      }
      if (at > 0 && this.#stepRight(key, keyStart, keyLength, seq)) {
        this.#fingerMisses = 0;
        return searchLeaf(this.u8, this.u16, this.u32, this.base, key, keyStart, keyLength, seq);
      }
    }
    this.#fingerMisses++;
    this.descend(key, keyStart, keyLength, seq);
    return searchLeaf(this.u8, this.u16, this.u32, this.base, key, keyStart, keyLength, seq);
  }

  protected leafCount(): number {
    return this.u16[(this.base >>> 1) + COUNT_HALFWORD]!;
  }

  protected isLeftmost(): boolean {
    for (let level = this.height - 1; level > 0; level--) if (this.index[level] !== 0) return false;
    return true;
  }

  /** The lowest level whose page has a child to the right (+1) or left (-1) of the path; 0 if the path runs along that edge. */
  protected turnLevel(direction: 1 | -1): number {
    for (let level = 1; level < this.height; level++) {
      const next = this.index[level]! + direction;
      if (next >= 0 && next < this.countOf(this.unit[level]!)) return level;
    }
    return 0;
  }

  #isBeforeRightSeparator(key: Uint8Array, keyStart: number, keyLength: number, seq: number): boolean {
    const level = this.turnLevel(1);
    return level === 0 || this.#isBeforeSeparator(level, this.index[level]! + 1, key, keyStart, keyLength, seq);
  }

  #isBeforeSeparator(
    level: number,
    index: number,
    key: Uint8Array,
    keyStart: number,
    keyLength: number,
    seq: number,
  ): boolean {
    const unit = this.unit[level]!;
    const segment = unit >>> SEGMENT_UNIT_SHIFT;
    const base = (unit & SEGMENT_UNIT_MASK) << UNIT_SHIFT;
    const { u8, u16, u32 } = this.arena;
    return compareSeparator(u8[segment]!, u16[segment]!, u32[segment]!, base, index, key, keyStart, keyLength, seq) > 0;
  }

  /** From the path's leaf to the next one of its branch, if (key, seq), which is behind the leaf, belongs there: the usual step in a group, which is in order. */
  #stepRight(key: Uint8Array, keyStart: number, keyLength: number, seq: number): boolean {
    const branch = this.unit[1]!;
    const next = this.index[1]! + 1;
    // Of the last one the end is known higher up.
    if (this.height < 2 || next + 1 >= this.countOf(branch)) return false;
    const child = this.childOf(branch, next);
    if (child >= COLD || !this.#isBeforeSeparator(1, next + 1, key, keyStart, keyLength, seq)) return false;
    this.index[1] = next;
    this.#enterLeaf(child);
    return true;
  }

  /** Whether the separator between the leaf and its neighbour cuts through the versions of one key. */
  protected separatorHasSeq(direction: 1 | -1): boolean {
    const level = this.turnLevel(direction);
    if (level === 0) return false;
    const unit = this.unit[level]!;
    const segment = unit >>> SEGMENT_UNIT_SHIFT;
    const base = (unit & SEGMENT_UNIT_MASK) << UNIT_SHIFT;
    const u16 = this.arena.u16[segment]!;
    const entry = this.index[level]! + (direction > 0 ? 1 : 0);
    const cell = base + u16[branchOffsetsHalfword(u16, base) + entry]!;
    return (this.arena.u8[segment]![cell]! & 1) !== 0;
  }

  /** The leaf beside the path's leaf, 0 if there is none. The path stays. */
  protected neighbourLeaf(direction: 1 | -1): UnitId {
    const level = this.turnLevel(direction);
    if (level === 0) return 0;
    let unit = this.#fetchChild(this.unit[level]!, this.index[level]! + direction);
    for (let below = level - 1; below > 0; below--) {
      unit = this.#fetchChild(unit, direction > 0 ? 0 : this.countOf(unit) - 1);
    }
    return unit;
  }

  /** Moves the path to the next leaf. False at the end. */
  protected moveToNextLeaf(): boolean {
    const level = this.turnLevel(1);
    if (level === 0) return false;
    const isValid = this.fingerValid;
    this.fingerValid = false;
    this.index[level]!++;
    for (let below = level - 1; below >= 0; below--) {
      this.unit[below] = this.#fetchChild(this.unit[below + 1]!, this.index[below + 1]!);
      this.index[below] = 0;
    }
    this.fingerValid = isValid;
    this.loadLeaf();
    return true;
  }

  /** Moves the path to the next page of the level and to the first leaf below it. Leaves that are not in memory are passed over. */
  protected moveRight(level: number): boolean {
    for (;;) {
      let turn = level + 1;
      while (turn < this.height && this.index[turn]! + 1 >= this.countOf(this.unit[turn]!)) turn++;
      if (turn === this.height) return false;
      this.index[turn]!++;
      let isCold = false;
      for (let below = turn - 1; below >= 0 && !isCold; below--) {
        const child = this.childOf(this.unit[below + 1]!, this.index[below + 1]!);
        isCold = child >= COLD;
        this.unit[below] = child;
        this.index[below] = 0;
      }
      if (isCold) continue;
      this.loadLeaf();
      return true;
    }
  }

  /** Whether the path runs along the tree's right edge from that level up. */
  protected isRightmostFrom(level: number): boolean {
    for (let at = level; at < this.height; at++) {
      if (this.index[at]! + 1 < this.countOf(this.unit[at]!)) return false;
    }
    return true;
  }

  /** Key and seq of the separator to the right of the leaf, copied; undefined at the right edge. */
  protected rightSeparator(): { key: Uint8Array; seq: number } | undefined {
    const level = this.turnLevel(1);
    if (level === 0) return undefined;
    const unit = this.unit[level]!;
    const segment = unit >>> SEGMENT_UNIT_SHIFT;
    const u8 = this.arena.u8[segment]!;
    const u16 = this.arena.u16[segment]!;
    const base = (unit & SEGMENT_UNIT_MASK) << UNIT_SHIFT;
    const prefixLength = u16[(base >>> 1) + PREFIX_LENGTH_HALFWORD]!;
    let at = base + u16[branchOffsetsHalfword(u16, base) + this.index[level]! + 1]!;
    const lengthAndFlag = readVarint(u8, at);
    at = skipVarint(u8, at);
    let seq = Infinity;
    if ((lengthAndFlag & 1) !== 0) {
      seq = readSeq(u8, at);
      at += SEQ_BYTES;
    }
    const suffixLength = lengthAndFlag >>> 1;
    const key = new Uint8Array(prefixLength + suffixLength);
    copyBytes(u8, base + PAGE_HEADER_BYTES, prefixLength, key, 0);
    copyBytes(u8, at, suffixLength, key, prefixLength);
    return { key, seq };
  }

  protected countOf(unit: UnitId): number {
    return this.arena.u16[unit >>> SEGMENT_UNIT_SHIFT]![
      (((unit & SEGMENT_UNIT_MASK) << UNIT_SHIFT) >>> 1) + COUNT_HALFWORD
    ]!;
  }

  protected childOf(unit: UnitId, index: number): UnitId {
    const segment = unit >>> SEGMENT_UNIT_SHIFT;
    const base = (unit & SEGMENT_UNIT_MASK) << UNIT_SHIFT;
    return this.arena.u32[segment]![childrenWord(this.arena.u16[segment]!, base) + index]!;
  }

  /** The child, brought into memory if it is not there. Before anything is changed: it may fail. */
  #fetchChild(unit: UnitId, index: number): UnitId {
    const child = this.childOf(unit, index);
    return child < COLD ? child : this.pager!.fault(unit, index);
  }

  /** The page left (-1) or right (+1) of the path's at that level, under the same branch; 0 if there is none or it is not in memory. */
  protected siblingOf(level: number, direction: 1 | -1): UnitId {
    const parent = this.unit[level + 1]!;
    const index = this.index[level + 1]! + direction;
    if (index < 0 || index >= this.countOf(parent)) return 0;
    const child = this.childOf(parent, index);
    return child < COLD ? child : 0;
  }

  protected setChildOf(unit: UnitId, index: number, child: UnitId): void {
    const segment = unit >>> SEGMENT_UNIT_SHIFT;
    const base = (unit & SEGMENT_UNIT_MASK) << UNIT_SHIFT;
    this.arena.u32[segment]![childrenWord(this.arena.u16[segment]!, base) + index] = child;
  }
}
