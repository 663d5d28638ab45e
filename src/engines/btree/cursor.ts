/**
 * Ordered walk over a pinned tree, both directions: the newest version ≤ atSeq of each key; tombstones and what has expired are skipped.
 *
 * Stays in its leaf as long as it can and moves on by a stack of (page, child). When atSeq is at or above everything published,
 * versions are not looked at.
 * Threads: any, one cursor per thread, valid only under the pin of its meta unit: callers that unpin seek again from the last key.
 */
import {
  SEGMENT_UNIT_MASK,
  SEGMENT_UNIT_SHIFT,
  UNIT_SHIFT,
  type ArenaReader,
  type UnitId,
} from '../../shared/memory/arena.js';
import { StaleViewError, type EngineCursor } from '../engine.js';
import { EntryView } from './entry-view.js';
import { ROW_TAG_WORD, checkHeight, publishedSeqOf, rowMayExpire, rowWord } from './meta.js';
import {
  CLASS_BYTE,
  COUNT_HALFWORD,
  CellFlag,
  HEIGHT_MAX,
  KEY_BYTES_MAX,
  LEAF_SLOT_BYTES,
  PAGE_FLAGS_BYTE,
  PAGE_HEADER_BYTES,
  PREFIX_LENGTH_HALFWORD,
  PageKind,
  cellExpiresAt,
  cellLengthsAt,
  copyBytes,
  corruptPage,
  headsOffset,
  readSeq,
  readVarint,
  skipVarint,
} from './page.js';
import { COLD } from './paged/format.js';
import { checkBranchRoom, checkPage, sameSuffix, searchBranch, searchLeaf } from './search.js';

const NOT_PLAIN = CellFlag.Tombstone | CellFlag.Expiry;

export class BTreeCursor extends EntryView implements EngineCursor {
  readonly row: number;
  /** What the row must say, see rowTag(). */
  readonly tag: number;
  #valid = false;
  #atSeq = Infinity;
  /** The time at which expiry is judged; 0: not asked for yet. */
  #atMs = 0;
  #height = 0;
  readonly #unit = new Int32Array(HEIGHT_MAX + 1);
  readonly #index = new Int32Array(HEIGHT_MAX + 1);

  /** The leaf of the path; the current entry may stand in the one after it when walking backwards. */
  #segment = 0;
  #u8: Uint8Array;
  #u16: Uint16Array;
  #u32: Uint32Array;
  #base = 0;
  #pageEnd = 0;
  #prefixLength = 0;
  #count = 0;
  #heads = 0;
  #offsets = 0;
  /** Forwards: the entry's index. Backwards: the index to look at next. */
  #at = 0;

  #reverse = false;
  /** Every cell of the tree is the live version of a key and never expires. */
  #plain = false;
  readonly #lastKey = new Uint8Array(KEY_BYTES_MAX + 64);
  #lastKeyLength = 0;

  /** slot: see EntryView. */
  constructor(arena: ArenaReader, row: number, tag: number, slot?: number) {
    super(arena, slot);
    this.row = row;
    this.tag = tag;
    this.#u8 = arena.u8[0]!;
    this.#u16 = arena.u16[0]!;
    this.#u32 = arena.u32[0]!;
  }

  get valid(): boolean {
    return this.#valid;
  }

  /**
   * Stands at the first entry with a key ≥ `key` (reverse: the last one with a key ≤ `key`); undefined: the first (last) of all.
   * Expiry is judged at atMs (0: now, the same for the whole walk). Returns valid. @throws StaleViewError, ERR_CORRUPT
   */
  seek(
    metaUnit: UnitId,
    key: Uint8Array | undefined,
    keyLength: number,
    atSeq: number,
    reverse: boolean,
    atMs: number,
  ): boolean {
    this.#valid = false;
    this.#reverse = reverse;
    this.#atMs = atMs;
    const arena = this.arena;
    const row = rowWord(arena, metaUnit, this.row);
    if (row < 0) return false;
    const words = arena.u32[metaUnit >>> SEGMENT_UNIT_SHIFT]!;
    if (words[row + ROW_TAG_WORD] !== this.tag) throw new StaleViewError();
    this.#height = words[row + 1]! & 0xff;
    if (this.#height === 0) return false;
    checkHeight(this.#height);
    this.#atSeq = atSeq >= publishedSeqOf(arena, metaUnit) ? Infinity : atSeq;
    this.#plain =
      this.#atSeq === Infinity &&
      words[row + 2] === words[row + 8] &&
      words[row + 3] === words[row + 9] &&
      !rowMayExpire(words[row + 1]!);
    const root = words[row]!;
    // Backwards from behind all versions of the key.
    const seq = reverse ? -1 : this.#atSeq;
    try {
      if (key === undefined) this.#descendEdge(root, this.#height - 1, reverse);
      else this.#descend(root, key, keyLength, seq);
    } catch (error) {
      if (!this.passesOver(error)) throw error;
      if (!this.#moveLeaf(reverse ? -1 : 1)) return false;
      key = undefined;
    }
    if (key === undefined) return reverse ? this.#backward(this.#count - 1) : this.#forward(0, false);
    let position = searchLeaf(this.#u8, this.#u16, this.#u32, this.#base, key, 0, keyLength, seq);
    if (position < 0) position = ~position;
    return reverse ? this.#backward(position - 1) : this.#forward(position, false);
  }

  /** To the next key upwards. Returns valid. */
  next(): boolean {
    return this.#valid && this.#forward(this.#at + 1, true);
  }

  /** To the next key downwards. Returns valid. */
  prev(): boolean {
    return this.#valid && this.#backward(this.#at);
  }

  /** Nothing is held but the pin, which is the caller's. */
  release(): void {}

  /** The tree is ordered: nothing is sorted ahead. */
  setRange(_low: Uint8Array | undefined, _high: Uint8Array | undefined): void {}

  /** Counts the current entry and all that follow in the walk's direction; ends the walk. */
  count(): number {
    if (!this.#valid) return 0;
    let total = 0;
    if (this.#plain && !this.#reverse) {
      total = this.#count - this.#at;
      while (this.#moveLeaf(1)) total += this.#count;
      this.#valid = false;
      return total;
    }
    if (this.#plain) {
      // The walk is one entry ahead of the current one.
      total = this.#at + 2;
      while (this.#moveLeaf(-1)) total += this.#count;
      this.#valid = false;
      return total;
    }
    do total++;
    while (this.#reverse ? this.prev() : this.next());
    return total;
  }

  /** From the entry `at` on; skip: the entry before has the key that the walk is done with. */
  #forward(at: number, skip: boolean): boolean {
    for (;;) {
      if (at >= this.#count) {
        if (skip) this.#saveKey(this.#count - 1);
        if (!this.#moveLeaf(1)) return this.#end();
        at = 0;
        if (skip) {
          if (this.#hasSavedKey(0)) {
            at = 1;
            continue;
          }
          skip = false;
        }
      } else if (skip) {
        if (this.#sameAsBefore(at)) {
          at++;
          continue;
        }
        skip = false;
      }
      const cell = this.#base + this.#u16[this.#offsets + at]!;
      if (this.#atSeq !== Infinity && readSeq(this.#u8, cell + 1) > this.#atSeq) {
        at++;
        continue;
      }
      if ((this.#u8[cell]! & NOT_PLAIN) !== 0 && this.#isGone(this.#u8, cell)) {
        skip = true;
        at++;
        continue;
      }
      this.view(this.#segment, this.#base, this.#prefixLength, cell, this.#pageEnd);
      if ((this.viewFlags & CellFlag.Overflow) !== 0 && !this.hasWholeValue()) {
        skip = true;
        at++;
        continue;
      }
      this.#at = at;
      return (this.#valid = true);
    }
  }

  /** From the entry `at` down. A key's versions come oldest first: the last visible one counts. */
  #backward(at: number): boolean {
    let found = false;
    for (;;) {
      if (at < 0) {
        if (found) this.#saveKey(0);
        if (!this.#moveLeaf(-1)) break;
        at = this.#count - 1;
        if (found && !this.#hasSavedKey(at)) {
          if (!this.#isViewGone()) break;
          found = false;
        }
      } else if (found && !this.#sameAsBefore(at + 1)) {
        if (!this.#isViewGone()) break;
        found = false;
      }
      const cell = this.#base + this.#u16[this.#offsets + at]!;
      if (this.#atSeq === Infinity || readSeq(this.#u8, cell + 1) <= this.#atSeq) {
        this.view(this.#segment, this.#base, this.#prefixLength, cell, this.#pageEnd);
        found = true;
      }
      at--;
    }
    this.#at = at;
    this.#valid = found && !this.#isViewGone();
    return this.#valid;
  }

  #isViewGone(): boolean {
    return (this.viewFlags & NOT_PLAIN) !== 0 && this.#isGone(this.viewU8, this.viewCell);
  }

  /** Of a cell that is a tombstone or expires. */
  #isGone(u8: Uint8Array, cell: number): boolean {
    if ((u8[cell]! & CellFlag.Tombstone) !== 0) return true;
    if (this.#atMs === 0) this.#atMs = Date.now();
    return cellExpiresAt(u8, cell) <= this.#atMs;
  }

  #end(): boolean {
    this.#valid = false;
    return false;
  }

  #sameAsBefore(at: number): boolean {
    const heads = this.#heads + at;
    if (this.#u32[heads] !== this.#u32[heads - 1]) return false;
    return sameSuffix(
      this.#u8,
      this.#base + this.#u16[this.#offsets + at - 1]!,
      this.#base + this.#u16[this.#offsets + at]!,
    );
  }

  #saveKey(at: number): void {
    const u8 = this.#u8;
    const lengthAt = skipVarint(u8, cellLengthsAt(u8, this.#base + this.#u16[this.#offsets + at]!));
    const suffixLength = readVarint(u8, lengthAt);
    const suffixAt = skipVarint(u8, lengthAt);
    if (this.#prefixLength + suffixLength > KEY_BYTES_MAX || suffixAt + suffixLength > this.#pageEnd) {
      throw corruptPage(this.#unit[0]!, `a key of ${this.#prefixLength + suffixLength} bytes`);
    }
    copyBytes(u8, this.#base + PAGE_HEADER_BYTES, this.#prefixLength, this.#lastKey, 0);
    copyBytes(u8, suffixAt, suffixLength, this.#lastKey, this.#prefixLength);
    this.#lastKeyLength = this.#prefixLength + suffixLength;
  }

  #hasSavedKey(at: number): boolean {
    const u8 = this.#u8;
    const lengthAt = skipVarint(u8, cellLengthsAt(u8, this.#base + this.#u16[this.#offsets + at]!));
    const suffixLength = readVarint(u8, lengthAt);
    const suffixAt = skipVarint(u8, lengthAt);
    const prefixLength = this.#prefixLength;
    if (prefixLength + suffixLength !== this.#lastKeyLength) return false;
    const last = this.#lastKey;
    for (let index = suffixLength - 1; index >= 0; index--) {
      if (u8[suffixAt + index] !== last[prefixLength + index]) return false;
    }
    const prefixAt = this.#base + PAGE_HEADER_BYTES;
    for (let index = 0; index < prefixLength; index++) if (u8[prefixAt + index] !== last[index]) return false;
    return true;
  }

  #descend(root: UnitId, key: Uint8Array, keyLength: number, seq: number): void {
    const arena = this.arena;
    let unit = root;
    for (let level = this.#height - 1; level > 0; level--) {
      this.#checkUnit(unit);
      const segment = unit >>> SEGMENT_UNIT_SHIFT;
      const base = (unit & SEGMENT_UNIT_MASK) << UNIT_SHIFT;
      const u16 = arena.u16[segment]!;
      const u32 = arena.u32[segment]!;
      checkPage(u32, base, unit, PageKind.Branch | (level << 8));
      const index = searchBranch(arena.u8[segment]!, u16, u32, base, key, 0, keyLength, seq);
      this.#unit[level] = unit;
      this.#index[level] = index;
      const half = base >>> 1;
      const children = ((base + headsOffset(u16[half + PREFIX_LENGTH_HALFWORD]!)) >>> 2) + u16[half + COUNT_HALFWORD]!;
      unit = u32[children + index]!;
    }
    this.#enterLeaf(unit);
  }

  /** To the first or last leaf below a page. */
  #descendEdge(top: UnitId, topLevel: number, last: boolean): void {
    let unit = top;
    for (let level = topLevel; level > 0; level--) {
      const count = this.#branchCount(unit, level);
      this.#unit[level] = unit;
      this.#index[level] = last ? count - 1 : 0;
      unit = this.#childOf(unit, last ? count - 1 : 0);
    }
    this.#enterLeaf(unit);
  }

  /** To the leaf after (+1) or before (-1). False, and nothing changed, if there is none. */
  #moveLeaf(direction: 1 | -1): boolean {
    for (let level = 1; level < this.#height; level++) {
      const unit = this.#unit[level]!;
      const next = this.#index[level]! + direction;
      if (next < 0 || next >= this.#branchCount(unit, level)) continue;
      this.#index[level] = next;
      try {
        this.#descendEdge(this.#childOf(unit, next), level - 1, direction < 0);
        return true;
      } catch (error) {
        if (!this.passesOver(error)) throw error;
      }
      // The path leads to what could not be entered: on from there.
      level = 0;
    }
    return false;
  }

  #checkUnit(unit: UnitId): void {
    if (!(unit > 0 && unit < this.arena.totalUnits)) throw corruptPage(unit, 'not a unit of the arena');
  }

  #branchCount(unit: UnitId, level: number): number {
    this.#checkUnit(unit);
    const segment = unit >>> SEGMENT_UNIT_SHIFT;
    const base = (unit & SEGMENT_UNIT_MASK) << UNIT_SHIFT;
    checkPage(this.arena.u32[segment]!, base, unit, PageKind.Branch | (level << 8));
    return checkBranchRoom(this.arena.u8[segment]!, this.arena.u16[segment]!, base, unit);
  }

  #childOf(unit: UnitId, index: number): UnitId {
    const segment = unit >>> SEGMENT_UNIT_SHIFT;
    const base = (unit & SEGMENT_UNIT_MASK) << UNIT_SHIFT;
    const u16 = this.arena.u16[segment]!;
    const half = base >>> 1;
    const children = ((base + headsOffset(u16[half + PREFIX_LENGTH_HALFWORD]!)) >>> 2) + u16[half + COUNT_HALFWORD]!;
    return this.arena.u32[segment]![children + index]!;
  }

  #enterLeaf(leaf: UnitId): void {
    let unit = leaf;
    if (unit >= COLD && this.#height > 1) unit = this.coldChild(this.#unit[1]!, this.#index[1]!);
    else this.#checkUnit(unit);
    const arena = this.arena;
    const segment = unit >>> SEGMENT_UNIT_SHIFT;
    const base = (unit & SEGMENT_UNIT_MASK) << UNIT_SHIFT;
    const u8 = arena.u8[segment]!;
    const u16 = arena.u16[segment]!;
    const u32 = arena.u32[segment]!;
    checkPage(u32, base, unit, PageKind.Leaf);
    if (u8[base + PAGE_FLAGS_BYTE] !== 0) u8[base + PAGE_FLAGS_BYTE] = 0;
    const half = base >>> 1;
    const count = u16[half + COUNT_HALFWORD]!;
    const prefixLength = u16[half + PREFIX_LENGTH_HALFWORD]!;
    const pageBytes = 4096 << (u8[base + CLASS_BYTE]! & 3);
    const headsAt = headsOffset(prefixLength);
    if (count === 0 || headsAt + count * LEAF_SLOT_BYTES > pageBytes) {
      throw corruptPage(unit, `a leaf of ${count} entries does not fit its page`);
    }
    this.#unit[0] = unit;
    this.#segment = segment;
    this.#u8 = u8;
    this.#u16 = u16;
    this.#u32 = u32;
    this.#base = base;
    this.#pageEnd = base + pageBytes;
    this.#prefixLength = prefixLength;
    this.#count = count;
    this.#heads = (base + headsAt) >>> 2;
    this.#offsets = (this.#heads + count) << 1;
  }
}
