/**
 * The cells of the path's leaf, and the cell to insert. Knows cells, not what versions mean; never changes the tree's structure.
 *
 * Threads: the shard thread only.
 */
import { SEGMENT_UNIT_MASK, SEGMENT_UNIT_SHIFT, UNIT_SHIFT } from '../../../shared/memory/arena.js';
import type { LeafRun } from '../leaf-run.js';
import {
  CELL_EXPIRY_OFFSET,
  CELL_LENGTHS_OFFSET,
  CELL_START_HALFWORD,
  COUNT_HALFWORD,
  CellFlag,
  EXPIRY_BYTES,
  GARBAGE_HALFWORD,
  LEAF_SLOT_BYTES,
  PAGE_BYTES_MAX,
  PAGE_HEADER_BYTES,
  PREFIX_LENGTH_HALFWORD,
  cellLengthsAt,
  copyBytes,
  headOf,
  headsOffset,
  leafOffsetsHalfword,
  readVarint,
  skipVarint,
  varintBytes,
  writeSeq,
  writeVarint,
} from '../page.js';
import { sameSuffix } from '../search.js';
import { TreeBranches } from './tree-branches.js';

export abstract class LeafCells extends TreeBranches {
  protected cellCount = 0;
  /** Of the cells, and what their keys have in bytes. Not kept up in a tree that has a page file. */
  protected tombstones = 0;
  protected tombstoneKeyBytes = 0;

  /**
   * Whether an overwrite or a delete may show before the publication: set while every operation stands for itself, unset where several must
   * become visible together.
   */
  overwritesInPlace = false;

  /** The cell to insert; its key and body stay where the caller has them. */
  protected cellFlags = 0;
  protected cellSeq = 0;
  /** Counts if the flags say so. */
  protected cellExpiresAt = 0;
  protected cellKey!: Uint8Array;
  protected cellKeyStart = 0;
  protected cellKeyLength = 0;
  protected cellValueLength = 0;
  protected cellBody!: Uint8Array;
  protected cellBodyStart = 0;
  protected cellBodyLength = 0;

  /** Entries of a leaf that stay when it is packed. */
  readonly #kept = new Uint16Array(PAGE_BYTES_MAX / LEAF_SLOT_BYTES);

  protected cellAt(position: number): number {
    return this.base + this.u16[leafOffsetsHalfword(this.u16, this.base) + position]!;
  }

  /** Whether the entries at the position and after it have the same key. */
  protected sameKeyAsNext(position: number): boolean {
    const { u8, u16, u32, base } = this;
    const count = u16[(base >>> 1) + COUNT_HALFWORD]!;
    const heads = (base + headsOffset(u16[(base >>> 1) + PREFIX_LENGTH_HALFWORD]!)) >>> 2;
    if (u32[heads + position] !== u32[heads + position + 1]) return false;
    const offsets = (heads + count) << 1;
    return sameSuffix(u8, base + u16[offsets + position]!, base + u16[offsets + position + 1]!);
  }

  protected leafCellBytes(cell: number): number {
    const lengthAt = cellLengthsAt(this.u8, cell);
    const suffixLengthAt = skipVarint(this.u8, lengthAt);
    const suffixLength = readVarint(this.u8, suffixLengthAt);
    const suffixAt = skipVarint(this.u8, suffixLengthAt);
    const bodyLength = (this.u8[cell]! & CellFlag.Overflow) !== 0 ? 4 : readVarint(this.u8, lengthAt);
    return suffixAt + suffixLength + bodyLength - cell;
  }

  /** Of the cell to insert, in the path's leaf. */
  protected newCellBytes(): number {
    const suffixLength = this.cellKeyLength - this.u16[(this.base >>> 1) + PREFIX_LENGTH_HALFWORD]!;
    return (
      CELL_LENGTHS_OFFSET +
      ((this.cellFlags & CellFlag.Expiry) >> 2) * EXPIRY_BYTES +
      varintBytes(this.cellValueLength) +
      (suffixLength < 0x80 ? 1 : 2) +
      suffixLength +
      this.cellBodyLength
    );
  }

  /** Between the slots and the cells of the path's leaf. */
  protected gapBytes(): number {
    const { u16, base } = this;
    const half = base >>> 1;
    const headsAt = headsOffset(u16[half + PREFIX_LENGTH_HALFWORD]!);
    return u16[half + CELL_START_HALFWORD]! - headsAt - LEAF_SLOT_BYTES * u16[half + COUNT_HALFWORD]!;
  }

  /** Whether the cell to insert has what the keys of the path's leaf have in common. */
  protected sharesPrefix(): boolean {
    const prefixLength = this.u16[(this.base >>> 1) + PREFIX_LENGTH_HALFWORD]!;
    if (this.cellKeyLength < prefixLength) return false;
    const prefixAt = this.base + PAGE_HEADER_BYTES;
    for (let index = 0; index < prefixLength; index++) {
      if (this.u8[prefixAt + index] !== this.cellKey[this.cellKeyStart + index]) return false;
    }
    return true;
  }

  /** Removes a cell from the leaf, which must be writable. */
  protected removeCell(position: number): void {
    const { u16, u32, base } = this;
    const half = base >>> 1;
    const count = u16[half + COUNT_HALFWORD]!;
    const heads = (base + headsOffset(u16[half + PREFIX_LENGTH_HALFWORD]!)) >>> 2;
    const offsets = (heads + count) << 1;
    const cell = u16[offsets + position]!;
    const bytes = this.leafCellBytes(base + cell);
    if ((this.u8[base + cell]! & CellFlag.Tombstone) !== 0) this.noteTombstone(base + cell, -1);
    if (cell === u16[half + CELL_START_HALFWORD]) u16[half + CELL_START_HALFWORD] = cell + bytes;
    else u16[half + GARBAGE_HALFWORD]! += bytes;
    for (let index = position; index + 1 < count; index++) u32[heads + index] = u32[heads + index + 1]!;
    const moved = offsets - 2;
    for (let index = 0; index < position; index++) u16[moved + index] = u16[offsets + index]!;
    for (let index = position; index + 1 < count; index++) u16[moved + index] = u16[offsets + index + 1]!;
    u16[half + COUNT_HALFWORD] = count - 1;
    this.cellCount--;
  }

  /** Puts the cell to insert at the position. The leaf is writable and has room for it. */
  protected addCell(position: number, cellBytes: number): void {
    const { u16, u32, base } = this;
    const half = base >>> 1;
    const count = u16[half + COUNT_HALFWORD]!;
    const prefixLength = u16[half + PREFIX_LENGTH_HALFWORD]!;
    const heads = (base + headsOffset(prefixLength)) >>> 2;
    const offsets = (heads + count) << 1;
    const moved = offsets + 2;
    // The offsets stand behind the heads: they move up first.
    for (let index = count - 1; index >= position; index--) u16[moved + index + 1] = u16[offsets + index]!;
    for (let index = position - 1; index >= 0; index--) u16[moved + index] = u16[offsets + index]!;
    for (let index = count - 1; index >= position; index--) u32[heads + index + 1] = u32[heads + index]!;
    const cell = u16[half + CELL_START_HALFWORD]! - cellBytes;
    u16[half + CELL_START_HALFWORD] = cell;
    u16[half + COUNT_HALFWORD] = count + 1;
    u16[moved + position] = cell;
    this.#writeCell(base + cell);
    if ((this.cellFlags & CellFlag.Tombstone) !== 0) this.noteTombstone(base + cell, 1);
    u32[heads + position] = headOf(this.cellKey, this.cellKeyStart + prefixLength, this.cellKeyLength - prefixLength);
    this.cellCount++;
  }

  /**
   * makeWritable(0) and addCell() in one pass: slots move to their new places as they are copied, and the gap is not copied. Where every group of
   * operations meets other leaves, as random inserts into a large tree do, that is most of what an insert costs.
   */
  protected addCellToCopy(position: number, cellBytes: number): void {
    this.makeWritable(1);
    const { arena, u8: oldBytes, u16: oldHalfwords, u32: oldWords, base: oldBase } = this;
    const old = this.unit[0]!;
    const unit = this.allocateLike(old);
    const u8 = arena.u8[unit >>> SEGMENT_UNIT_SHIFT]!;
    const u16 = arena.u16[unit >>> SEGMENT_UNIT_SHIFT]!;
    const u32 = arena.u32[unit >>> SEGMENT_UNIT_SHIFT]!;
    const base = (unit & SEGMENT_UNIT_MASK) << UNIT_SHIFT;
    const prefixLength = oldHalfwords[(oldBase >>> 1) + PREFIX_LENGTH_HALFWORD]!;
    const count = oldHalfwords[(oldBase >>> 1) + COUNT_HALFWORD]!;
    const cellStart = oldHalfwords[(oldBase >>> 1) + CELL_START_HALFWORD]!;
    const cell = cellStart - cellBytes;
    // What stands before the place keeps its distance from the page's start, what stands behind moves up by a slot.
    const before = (headsOffset(prefixLength) >>> 2) + position;
    const oldWord = oldBase >>> 2;
    const word = base >>> 2;
    for (let index = 0; index < before; index++) u32[word + index] = oldWords[oldWord + index]!;
    const end = before + count - position;
    for (let index = before; index < end; index++) u32[word + index + 1] = oldWords[oldWord + index]!;
    u32[word + before] = headOf(this.cellKey, this.cellKeyStart + prefixLength, this.cellKeyLength - prefixLength);
    const oldOffsets = (oldWord + end) << 1;
    const offsets = (word + end + 1) << 1;
    for (let index = 0; index < position; index++) u16[offsets + index] = oldHalfwords[oldOffsets + index]!;
    u16[offsets + position] = cell;
    for (let index = position; index < count; index++) u16[offsets + index + 1] = oldHalfwords[oldOffsets + index]!;
    u16[(base >>> 1) + COUNT_HALFWORD] = count + 1;
    u16[(base >>> 1) + CELL_START_HALFWORD] = cell;
    const pageBytes = 4096 << this.classOf(old);
    if (u8 === oldBytes) u8.copyWithin(base + cellStart, oldBase + cellStart, oldBase + pageBytes);
    else u8.set(oldBytes.subarray(oldBase + cellStart, oldBase + pageBytes), base + cellStart);
    this.putCopy(0, unit);
    this.#writeCell(base + cell);
    if ((this.cellFlags & CellFlag.Tombstone) !== 0) this.noteTombstone(base + cell, 1);
    this.cellCount++;
  }

  /** Puts the cell to insert in place of the one at the position. The leaf is writable and has room for it. */
  protected replaceWritable(position: number, oldBytes: number, cellBytes: number): void {
    const { u8, u16, base } = this;
    const half = base >>> 1;
    let at = this.cellAt(position) - base;
    if ((u8[base + at]! & CellFlag.Tombstone) !== 0) this.noteTombstone(base + at, -1);
    if (cellBytes <= oldBytes) {
      u16[half + GARBAGE_HALFWORD]! += oldBytes - cellBytes;
    } else {
      at = u16[half + CELL_START_HALFWORD]! - cellBytes;
      u16[half + CELL_START_HALFWORD] = at;
      u16[half + GARBAGE_HALFWORD]! += oldBytes;
      u16[leafOffsetsHalfword(u16, base) + position] = at;
    }
    this.#writeCell(base + at);
    if ((this.cellFlags & CellFlag.Tombstone) !== 0) this.noteTombstone(base + at, 1);
  }

  /** Writes the cell to insert there. */
  #writeCell(cell: number): void {
    const { u8 } = this;
    const prefixLength = this.u16[(this.base >>> 1) + PREFIX_LENGTH_HALFWORD]!;
    const suffixLength = this.cellKeyLength - prefixLength;
    u8[cell] = this.cellFlags;
    writeSeq(u8, cell + 1, this.cellSeq);
    let lengthsAt = cell + CELL_LENGTHS_OFFSET;
    if ((this.cellFlags & CellFlag.Expiry) !== 0) {
      writeSeq(u8, cell + CELL_EXPIRY_OFFSET, this.cellExpiresAt);
      lengthsAt += EXPIRY_BYTES;
    }
    let at = writeVarint(u8, lengthsAt, this.cellValueLength);
    at = writeVarint(u8, at, suffixLength);
    copyBytes(this.cellKey, this.cellKeyStart + prefixLength, suffixLength, u8, at);
    copyBytes(this.cellBody, this.cellBodyStart, this.cellBodyLength, u8, at + suffixLength);
  }

  /** Adds the cell to insert to a run. */
  protected addNewCell(run: LeafRun): void {
    run.addCell(
      this.cellFlags,
      this.cellSeq,
      this.cellExpiresAt,
      this.cellKey,
      this.cellKeyStart,
      this.cellKeyLength,
      this.cellValueLength,
      this.cellBody,
      this.cellBodyStart,
      this.cellBodyLength,
    );
  }

  /** Whether the cell at that offset of the path's leaf, which no snapshot needs, may give its place to the new one before the publication. */
  protected changesInPlace(old: number, oldBytes: number, cellBytes: number): boolean {
    if (!this.overwritesInPlace) return false;
    const flags = this.u8[this.base + old]!;
    // A row says whether entries of its tree may expire, and a page file's what there is: both must stay true as they are published.
    if (((flags ^ this.cellFlags) & CellFlag.Expiry) !== 0) return false;
    if (this.pager !== undefined && (flags !== this.cellFlags || oldBytes !== cellBytes)) return false;
    return (
      ((flags | this.cellFlags) & CellFlag.Overflow) === 0 &&
      !this.arena.isUnpublished(this.unit[0]!) &&
      !this.arena.hasLongPins
    );
  }

  /**
   * A new cell in place of one that no snapshot needs, in a published page: the cell is written where no slot points, then one store of the slot's
   * offset makes it the entry. A reader finds the old cell or the new one, each whole. Saves the copy of the page and of the path above it, and leaves
   * the branches in the readers' caches. False when the page has no room for it.
   *
   * Where no slot points: a cell that an earlier change of this page left behind, once every reader that may stand on it has gone
   * (the writer remembers a few beside the page, see SparePlaces), else the gap. Bytes that are neither in the gap nor in a cell are counted as
   * garbage only after they have become it, so a writer that dies in between leaves a sound page with a few bytes in it that nothing counts. What the dead
   * writer's last changes did to the counts of live entries the successor finds out by counting (live-counts.ts).
   */
  protected replacePublished(position: number, old: number, oldBytes: number, cellBytes: number, gap: number): boolean {
    const { arena, u8, u16, base } = this;
    const unit = this.unit[0]!;
    const half = base >>> 1;
    const offset = leafOffsetsHalfword(u16, base) + position;
    let at = arena.spares.take(unit, cellBytes, arena.safeEpoch);
    if (at === 0 && cellBytes > gap) return false;
    this.pager?.dirtied(this.unit, this.height);
    if (at !== 0) u16[half + GARBAGE_HALFWORD]! -= cellBytes;
    else {
      at = u16[half + CELL_START_HALFWORD]! - cellBytes;
      u16[half + CELL_START_HALFWORD] = at;
    }
    this.#writeCell(base + at);
    if ((u8[base + old]! & CellFlag.Tombstone) !== 0) this.noteTombstone(base + old, -1);
    if ((this.cellFlags & CellFlag.Tombstone) !== 0) this.noteTombstone(base + at, 1);
    Atomics.store(u16, offset, at);
    u16[half + GARBAGE_HALFWORD]! += oldBytes;
    arena.spares.add(unit, old, oldBytes, arena.unpublishedEpoch);
    return true;
  }

  /**
   * As makeWritable(0), but the copy of the leaf has its cells packed; with `drops` those tombstones are left out that hide nothing. The cell at the
   * position stays. Returns where that is now.
   */
  protected compactLeaf(position: number, drops: boolean): number {
    const { arena } = this;
    const count = this.leafCount();
    const kept = this.#kept;
    let keptCount = 0;
    let moved = position;
    for (let index = 0; index < count; index++) {
      if (index === position) moved = keptCount;
      if (drops && index !== position && this.#hidesNothing(index)) this.noteTombstone(this.cellAt(index), -1);
      else kept[keptCount++] = index;
    }
    if (position === count) moved = keptCount;
    this.cellCount -= count - keptCount;
    this.makeWritable(1);
    const old = this.unit[0]!;
    const unit = this.allocateLike(old);
    const u8 = arena.u8[unit >>> SEGMENT_UNIT_SHIFT]!;
    const u16 = arena.u16[unit >>> SEGMENT_UNIT_SHIFT]!;
    const u32 = arena.u32[unit >>> SEGMENT_UNIT_SHIFT]!;
    const base = (unit & SEGMENT_UNIT_MASK) << UNIT_SHIFT;
    const half = base >>> 1;
    const headsAt = headsOffset(this.u16[(this.base >>> 1) + PREFIX_LENGTH_HALFWORD]!);
    for (let word = 0; word < headsAt >>> 2; word++) u32[(base >>> 2) + word] = this.u32[(this.base >>> 2) + word]!;
    const heads = (base + headsAt) >>> 2;
    const oldHeads = (this.base + headsAt) >>> 2;
    const offsets = (heads + keptCount) << 1;
    let end = 4096 << this.classOf(old);
    for (let index = 0; index < keptCount; index++) {
      const from = kept[index]!;
      const cell = this.cellAt(from);
      const bytes = this.leafCellBytes(cell);
      end -= bytes;
      copyBytes(this.u8, cell, bytes, u8, base + end);
      u32[heads + index] = this.u32[oldHeads + from]!;
      u16[offsets + index] = end;
    }
    u16[half + COUNT_HALFWORD] = keptCount;
    u16[half + CELL_START_HALFWORD] = end;
    u16[half + GARBAGE_HALFWORD] = 0;
    this.putCopy(0, unit);
    return moved;
  }

  /** As makeWritable(0), without tombstones that hide nothing. Returns where the cell at the position is now; it stays in any case. */
  protected makeWritableAndPack(position: number): number {
    if (this.canDrop(position)) return this.compactLeaf(position, true);
    this.makeWritable(0);
    return position;
  }

  /** Copies the key at the position; returns its length. */
  protected copyKey(position: number, into: Uint8Array): number {
    const { u8, base } = this;
    const prefixLength = this.u16[(base >>> 1) + PREFIX_LENGTH_HALFWORD]!;
    const suffixLengthAt = skipVarint(u8, cellLengthsAt(u8, this.cellAt(position)));
    const suffixLength = readVarint(u8, suffixLengthAt);
    copyBytes(u8, base + PAGE_HEADER_BYTES, prefixLength, into, 0);
    copyBytes(u8, skipVarint(u8, suffixLengthAt), suffixLength, into, prefixLength);
    return prefixLength + suffixLength;
  }

  /** Whether the leaf has tombstones, other than at the position, that hide nothing. */
  protected canDrop(position: number): boolean {
    if (this.arena.tombstonesIn[this.unit[0]!] === 0 || this.pager !== undefined) return false;
    for (let index = this.leafCount() - 1; index >= 0; index--)
      if (index !== position && this.#hidesNothing(index)) return true;
    return false;
  }

  /** Of a tombstone without an older version of its key behind it. */
  #hidesNothing(position: number): boolean {
    if ((this.u8[this.cellAt(position)]! & CellFlag.Tombstone) === 0) return false;
    return this.isLastVersion(position);
  }

  /** Whether no older version stands behind the one at the position. */
  protected isLastVersion(position: number): boolean {
    return position + 1 < this.leafCount() ? !this.sameKeyAsNext(position) : !this.separatorHasSeq(1);
  }

  /** A tombstone comes into the path's leaf (+1) or goes from it (-1). */
  protected noteTombstone(cell: number, change: 1 | -1): void {
    if (this.pager !== undefined) return;
    const suffixLength = readVarint(this.u8, skipVarint(this.u8, cellLengthsAt(this.u8, cell)));
    this.tombstones += change;
    this.tombstoneKeyBytes += change * (this.u16[(this.base >>> 1) + PREFIX_LENGTH_HALFWORD]! + suffixLength);
    this.arena.tombstonesIn[this.unit[0]!]! += change;
  }

  /** The cell to insert goes to a page through a run, and the pages' counts with it. */
  protected noteNewTombstone(): void {
    if ((this.cellFlags & CellFlag.Tombstone) === 0 || this.pager !== undefined) return;
    this.tombstones++;
    this.tombstoneKeyBytes += this.cellKeyLength;
  }
}
