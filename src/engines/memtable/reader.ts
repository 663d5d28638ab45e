/**
 * Reads of a memtable from any thread, by the row of a space or by a table's descriptor.
 *
 *   MemtableReader, MemtableCursor   a space: what an engine's reader and cursor show
 *   TableReader, TableCursor         one table of an LSM-Tree: they also tell tombstones, which hide what lower levels have. An entry that has expired
 *                                    is handed over like any other: it hides lower levels too, and whether it shows is the caller's to say
 *
 * Threads: any, one object per thread, between pin and unpin.
 */
import { SEGMENT_UNIT_SHIFT, type ArenaReader, type UnitId } from '../../shared/memory/arena.js';
import { publishedSeqOf } from '../btree/meta.js';
import { CellFlag, KEY_BYTES_MAX, readVarint, skipVarint } from '../btree/page.js';
import { NodeCursor } from '../cells/node-cursor.js';
import { NodeReader } from '../cells/node-reader.js';
import { compareBytes } from '../cells/node-writer.js';
import { checkDescriptor, corruptNode, nodeLimit, nodeOffset, nodeSegment, nodeWord, pageWord } from '../cells/node.js';
import { DEFAULT_SPACE_ID, EngineCode } from '../engine.js';
import { ListSearch } from './list.js';
import { LANE_ROOT_WORD, cellOf, headOfList, keyLengthAt, linkOf } from './node.js';

function laneRootOf(arena: ArenaReader, descriptor: UnitId): UnitId {
  return arena.u32[descriptor >>> SEGMENT_UNIT_SHIFT]![pageWord(descriptor) + LANE_ROOT_WORD]!;
}

export class MemtableReader extends NodeReader {
  readonly #search: ListSearch;

  constructor(arena: ArenaReader, row: number, spaceId: number, slot: number) {
    super(arena, row, spaceId, EngineCode.memtable, slot, false);
    this.#search = new ListSearch(arena);
  }

  protected override cellOffset(address: number): number {
    return cellOf(this.arena, address) - (nodeWord(address) << 2);
  }

  protected override lookup(descriptor: UnitId, key: Uint8Array, keyLength: number): number {
    const search = this.#search;
    const node = search.seek(headOfList(descriptor), laneRootOf(this.arena, descriptor), key, 0, keyLength);
    return search.isEqual ? node : 0;
  }
}

export class MemtableCursor extends NodeCursor {
  readonly #search: ListSearch;
  #head = 0;
  #laneRoot: UnitId = 0;
  #node = 0;
  /** Steps forward since the last search. */
  #steps = 0;
  readonly #key = new Uint8Array(KEY_BYTES_MAX);

  constructor(arena: ArenaReader, row: number, spaceId: number, slot: number) {
    super(arena, row, spaceId, EngineCode.memtable, slot, false);
    this.#search = new ListSearch(arena);
  }

  protected override cellOffset(address: number): number {
    return cellOf(this.arena, address) - (nodeWord(address) << 2);
  }

  protected override seekNode(
    descriptor: UnitId,
    key: Uint8Array | undefined,
    keyLength: number,
    reverse: boolean,
  ): number {
    const search = this.#search;
    const head = headOfList(descriptor);
    const laneRoot = laneRootOf(this.arena, descriptor);
    this.#head = head;
    this.#steps = 0;
    this.#laneRoot = laneRoot;
    if (key === undefined) return (this.#node = reverse ? search.last(head) : linkOf(this.arena, head, 0));
    this.#node = search.seek(head, laneRoot, key, 0, keyLength);
    if (reverse && !search.isEqual) this.#node = search.seekBefore(head, laneRoot, key, 0, keyLength);
    return this.#node;
  }

  protected override stepNode(forward: boolean): number {
    const node = this.#node;
    if (forward) {
      // A node has three granules and more.
      if (++this.#steps > this.arena.totalUnits * 170) throw corruptNode(node, 'the list goes round');
      return (this.#node = linkOf(this.arena, node, 0));
    }
    // Links lead forward only: back is a search for what comes before the key.
    const u8 = this.arena.u8[nodeSegment(node)]!;
    const lengthAt = keyLengthAt(u8, cellOf(this.arena, node));
    const keyLength = Math.min(readVarint(u8, lengthAt), KEY_BYTES_MAX);
    const keyAt = skipVarint(u8, lengthAt);
    for (let index = 0; index < keyLength; index++) this.#key[index] = u8[keyAt + index]!;
    const before = this.#search.seekBefore(this.#head, this.#laneRoot, this.#key, 0, keyLength);
    if (before !== 0) {
      // Each step back leads to a smaller key, or a wrong word could keep the walk where it is.
      const bytes = this.arena.u8[nodeSegment(before)]!;
      const beforeLengthAt = keyLengthAt(bytes, cellOf(this.arena, before));
      const beforeLength = Math.min(readVarint(bytes, beforeLengthAt), KEY_BYTES_MAX);
      if (compareBytes(bytes, skipVarint(bytes, beforeLengthAt), beforeLength, this.#key, 0, keyLength) >= 0) {
        throw corruptNode(before, 'it does not come before the node behind it');
      }
    }
    return (this.#node = before);
  }
}

export class TableReader extends MemtableReader {
  #descriptor: UnitId = 0;

  /** `spaceId`: whose events of reading these are. */
  constructor(arena: ArenaReader, slot: number, spaceId: number = DEFAULT_SPACE_ID) {
    super(arena, 0, spaceId, slot);
  }

  get isTombstone(): boolean {
    return (this.viewFlags & CellFlag.Tombstone) !== 0;
  }

  /** The table that find() looks in, pinned by the caller; 0: one without entries. */
  open(descriptor: UnitId): this {
    this.#descriptor = descriptor;
    return this;
  }

  protected override enterRow(metaUnit: UnitId, atSeq: number, atMs: number): UnitId {
    this.limitSeq = atSeq === Infinity ? publishedSeqOf(this.arena, metaUnit) : atSeq;
    this.limitMeta = atSeq === Infinity ? metaUnit : 0;
    this.atMs = atMs;
    if (this.#descriptor !== 0) checkDescriptor(this.arena, this.#descriptor, this.code);
    return this.#descriptor;
  }

  protected override show(address: number): boolean {
    const offset = nodeOffset(address);
    this.view(nodeSegment(address), offset, 0, offset + this.cellOffset(address), nodeLimit(offset));
    return true;
  }
}

export class TableCursor extends MemtableCursor {
  #descriptor: UnitId = 0;

  /** `spaceId`: whose events of reading these are. */
  constructor(arena: ArenaReader, slot: number, spaceId: number = DEFAULT_SPACE_ID) {
    super(arena, 0, spaceId, slot);
  }

  get isTombstone(): boolean {
    return (this.viewFlags & CellFlag.Tombstone) !== 0;
  }

  /** The table that seek() goes to, pinned by the caller; 0: one without entries. */
  open(descriptor: UnitId): this {
    this.#descriptor = descriptor;
    return this;
  }

  protected override enterRow(metaUnit: UnitId, atSeq: number, atMs: number): UnitId {
    this.limitSeq = atSeq === Infinity ? publishedSeqOf(this.arena, metaUnit) : atSeq;
    this.limitMeta = atSeq === Infinity ? metaUnit : 0;
    this.atMs = atMs;
    if (this.#descriptor !== 0) checkDescriptor(this.arena, this.#descriptor, this.code);
    return this.#descriptor;
  }

  protected override show(address: number): boolean {
    const offset = nodeOffset(address);
    this.view(nodeSegment(address), offset, 0, offset + this.cellOffset(address), nodeLimit(offset));
    return true;
  }
}
