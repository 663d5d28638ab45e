/**
 * All of a frozen table in order: keys ascending, the versions of a key newest first, tombstones among them. What a job in another thread writes
 * to a file.
 *
 *   for (const walk = new TableWalk(arena, descriptor); walk.next();) … walk.copyKey(), walk.seq, walk.isTombstone, walk.expiresAt, walk.copyValue()
 *
 * Threads: any, while the table is sure to live: under a pin, or while its owner has promised not to destroy it.
 */
import { SEGMENT_UNIT_SHIFT, type ArenaReader, type UnitId } from '../../shared/memory/arena.js';
import { EntryView } from '../btree/entry-view.js';
import { CellFlag, corruptPage, skipVarint } from '../btree/page.js';
import {
  ADDRESS_UNIT_SHIFT,
  checkAddress,
  checkDescriptor,
  corruptNode,
  nodeLimit,
  nodeOffset,
  nodeSegment,
  nodeWord,
  pageWord,
} from '../cells/node.js';
import { EngineCode } from '../engine.js';
import { IS_FROZEN_WORD, cellOf, headOfList, keyLengthAt, linkOf } from './node.js';

export class TableWalk extends EntryView {
  readonly #nodesMax: number;
  /** The key's newest version, and the version at hand. */
  #node: number;
  #version = 0;
  #visited = 0;

  /** The table must be frozen; descriptor 0 is one without entries. */
  constructor(arena: ArenaReader, descriptor: UnitId) {
    super(arena);
    this.#nodesMax = arena.totalUnits * (1 << ADDRESS_UNIT_SHIFT);
    this.#node = 0;
    if (descriptor === 0) return;
    checkDescriptor(arena, descriptor, EngineCode.memtable);
    const words = arena.u32[descriptor >>> SEGMENT_UNIT_SHIFT]!;
    if (words[pageWord(descriptor) + IS_FROZEN_WORD] !== 1)
      throw corruptPage(descriptor, 'a memtable is walked when it is frozen');
    this.#node = headOfList(descriptor);
  }

  get isTombstone(): boolean {
    return (this.viewFlags & CellFlag.Tombstone) !== 0;
  }

  /** Memory that has the value from valueAt on, until the next step. */
  get bytes(): Uint8Array {
    return this.viewU8;
  }

  /** Where the value lies in `bytes`; -1 if it does not lie there in one piece: then readValue() has it. */
  get valueAt(): number {
    if ((this.viewFlags & CellFlag.Overflow) !== 0) return -1;
    const lengthAt = keyLengthAt(this.viewU8, this.viewCell);
    return skipVarint(this.viewU8, lengthAt) + this.keyLength;
  }

  /** To the next version. False at the end. @throws ERR_CORRUPT */
  next(): boolean {
    if (this.#node === 0) return false;
    const { arena } = this;
    const older = this.#version === 0 ? 0 : arena.i32[nodeSegment(this.#version)]![nodeWord(this.#version)]!;
    if (older === 0) this.#node = linkOf(arena, this.#node, 0);
    const version = older === 0 ? this.#node : older;
    this.#version = version;
    if (version === 0) return false;
    checkAddress(arena, version);
    if (++this.#visited > this.#nodesMax) throw corruptNode(version, 'the list goes round');
    const offset = nodeOffset(version);
    this.view(nodeSegment(version), offset, 0, cellOf(arena, version), nodeLimit(offset));
    return true;
  }
}
