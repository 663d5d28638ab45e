/**
 * Point reads of a pinned tree: a binary search per level, straight in shared memory, without locks.
 *
 * Bytes are checked as far as a wrong one could lead outside the arena or into an endless walk (ERR_CORRUPT); whether pages are
 * sound is for check() and image load. Threads: any, one reader per thread, between pin and unpin; after find() returned true, the
 * view of the entry stays good until unpin or the next find().
 */
import {
  SEGMENT_UNIT_MASK,
  SEGMENT_UNIT_SHIFT,
  UNIT_SHIFT,
  type ArenaReader,
  type UnitId,
} from '../../shared/memory/arena.js';
import { StaleViewError, type EngineReader } from '../engine.js';
import { BTreeCursor } from './cursor.js';
import { EntryView } from './entry-view.js';
import { ROW_TAG_WORD, checkHeight, rowWord } from './meta.js';
import {
  CLASS_BYTE,
  COUNT_HALFWORD,
  CellFlag,
  PAGE_FLAGS_BYTE,
  PREFIX_LENGTH_HALFWORD,
  PageKind,
  cellExpiresAt,
  corruptPage,
  headsOffset,
} from './page.js';
import { COLD } from './paged/format.js';
import { checkPage, searchBranch, searchLeaf } from './search.js';

const NOT_PLAIN = CellFlag.Tombstone | CellFlag.Expiry;

export class BTreeReader extends EntryView implements EngineReader {
  readonly row: number;
  /** What the row must say, see rowTag(). */
  readonly tag: number;
  /** Of no meaning: what is stored was loaded, so the compiler keeps the loads. */
  protected ahead = 0;
  #cursor: BTreeCursor | undefined;

  readonly #slot: number | undefined;

  /** slot: see EntryView. */
  constructor(arena: ArenaReader, row: number, tag: number, slot?: number) {
    super(arena, slot);
    this.#slot = slot;
    this.row = row;
    this.tag = tag;
  }

  /**
   * Finds the newest version ≤ atSeq (Infinity: the newest) of the key; false if there is none, it is a tombstone or expired at atMs (0: now).
   * A row that was never published is an empty tree. @throws StaleViewError, ERR_CORRUPT
   */
  find(metaUnit: UnitId, key: Uint8Array, keyLength: number, atSeq: number, atMs: number): boolean {
    const arena = this.arena;
    const row = rowWord(arena, metaUnit, this.row);
    if (row < 0) return false;
    const metaWords = arena.u32[metaUnit >>> SEGMENT_UNIT_SHIFT]!;
    if (metaWords[row + ROW_TAG_WORD] !== this.tag) throw new StaleViewError();
    let unit = metaWords[row]!;
    const height = metaWords[row + 1]! & 0xff;
    if (height === 0) return false;
    checkHeight(height);
    const totalUnits = arena.totalUnits;
    let branch = 0;
    let at = 0;
    for (let level = height - 1; level > 0; level--) {
      if (unit === 0 || unit >= totalUnits) throw corruptPage(unit, 'not a unit of the arena');
      const segment = unit >>> SEGMENT_UNIT_SHIFT;
      const base = (unit & SEGMENT_UNIT_MASK) << UNIT_SHIFT;
      const u16 = arena.u16[segment]!;
      const u32 = arena.u32[segment]!;
      checkPage(u32, base, unit, PageKind.Branch | (level << 8));
      const index = searchBranch(arena.u8[segment]!, u16, u32, base, key, 0, keyLength, atSeq);
      const half = base >>> 1;
      const children = ((base + headsOffset(u16[half + PREFIX_LENGTH_HALFWORD]!)) >>> 2) + u16[half + COUNT_HALFWORD]!;
      branch = unit;
      at = index;
      unit = u32[children + index]!;
    }
    if (unit === 0 || unit >= totalUnits) {
      if (unit < COLD || branch === 0) throw corruptPage(unit, 'not a unit of the arena');
      unit = this.coldChild(branch, at);
    }
    const segment = unit >>> SEGMENT_UNIT_SHIFT;
    const base = (unit & SEGMENT_UNIT_MASK) << UNIT_SHIFT;
    const u8 = arena.u8[segment]!;
    const u16 = arena.u16[segment]!;
    const u32 = arena.u32[segment]!;
    const word = base >>> 2;
    // The heads and offsets of most leaves fill their first four cache lines. Asked for before the header has said how many there are, the four
    // come from memory together; a search would wait for one after the other.
    this.ahead = (u32[word + 16]! ^ u32[word + 32]! ^ u32[word + 48]!) & 1;
    checkPage(u32, base, unit, PageKind.Leaf);
    if (u8[base + PAGE_FLAGS_BYTE] !== 0) u8[base + PAGE_FLAGS_BYTE] = 0;
    const position = searchLeaf(u8, u16, u32, base, key, 0, keyLength, atSeq);
    const half = base >>> 1;
    const count = u16[half + COUNT_HALFWORD]!;
    if (position < 0) {
      // The versions of a key may go on in the next leaf.
      if (~position === count && height > 1) return this.#findBeyond(metaUnit, key, keyLength, atSeq, atMs);
      return false;
    }
    const prefixLength = u16[half + PREFIX_LENGTH_HALFWORD]!;
    const offsets = (((base + headsOffset(prefixLength)) >>> 2) + count) << 1;
    const cell = base + u16[offsets + position]!;
    if ((u8[cell]! & NOT_PLAIN) !== 0 && isGone(u8, cell, atMs)) return false;
    this.view(segment, base, prefixLength, cell, base + (4096 << (u8[base + CLASS_BYTE]! & 3)));
    return true;
  }

  /** Nothing is held but the pin, which is the caller's. */
  release(): void {}

  #findBeyond(metaUnit: UnitId, key: Uint8Array, keyLength: number, atSeq: number, atMs: number): boolean {
    const cursor = (this.#cursor ??= new BTreeCursor(this.arena, this.row, this.tag, this.#slot));
    if (!cursor.seek(metaUnit, key, keyLength, atSeq, false, atMs) || cursor.compareKey(key, keyLength) !== 0)
      return false;
    this.viewSame(cursor);
    return true;
  }
}

/** Of a cell that is a tombstone or expires. */
function isGone(u8: Uint8Array, cell: number, atMs: number): boolean {
  return (u8[cell]! & CellFlag.Tombstone) !== 0 || cellExpiresAt(u8, cell) <= (atMs === 0 ? Date.now() : atMs);
}
