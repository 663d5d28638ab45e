/**
 * All versions in a memtable, frozen or not, in key order. Threads: the shard thread, between groups; or any under a pin, of a frozen table.
 */
import { SEGMENT_UNIT_SHIFT, type ArenaReader, type UnitId } from '../../../shared/memory/arena.js';
import { EntryView } from '../../btree/entry-view.js';
import { CellFlag, KEY_BYTES_MAX } from '../../btree/page.js';
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
} from '../../cells/node.js';
import { EngineCode } from '../../engine.js';
import { ListSearch } from '../../memtable/list.js';
import { LANE_ROOT_WORD, cellOf, headOfList, linkOf } from '../../memtable/node.js';

export class MemtableVersions extends EntryView {
  readonly #search: ListSearch;
  readonly #descriptor: UnitId;
  readonly #stepsMax: number;
  #steps = 0;
  #node = 0;
  /** Of the node at hand. */
  readonly key = new Uint8Array(KEY_BYTES_MAX);
  keyBytes = 0;

  constructor(arena: ArenaReader, descriptor: UnitId) {
    super(arena);
    checkDescriptor(arena, descriptor, EngineCode.memtable);
    this.#descriptor = descriptor;
    this.#search = new ListSearch(arena);
    this.#stepsMax = arena.totalUnits * (1 << ADDRESS_UNIT_SHIFT);
  }

  get valid(): boolean {
    return this.#node !== 0;
  }

  /** To the first key ≥ the given one; undefined: the first. @throws ERR_CORRUPT */
  seek(key: Uint8Array | undefined): void {
    const { arena } = this;
    const descriptor = this.#descriptor;
    const head = headOfList(descriptor);
    this.#steps = 0;
    if (key === undefined) {
      this.#enter(linkOf(arena, head, 0));
      return;
    }
    const words = arena.u32[descriptor >>> SEGMENT_UNIT_SHIFT]!;
    const laneRoot = words[pageWord(descriptor) + LANE_ROOT_WORD]!;
    this.#enter(this.#search.seek(head, laneRoot, key, 0, key.length));
  }

  /** To the next key. */
  next(): void {
    this.#enter(linkOf(this.arena, this.#node, 0));
  }

  /** Addresses of the key's versions, newest first, behind what `into` has. */
  addVersions(into: number[]): void {
    const { arena } = this;
    for (let address = this.#node; address !== 0; address = arena.i32[nodeSegment(address)]![nodeWord(address)]!) {
      checkAddress(arena, address);
      this.#count(address);
      into.push(address);
    }
  }

  /** Takes a version as the entry at hand. */
  show(address: number): void {
    const offset = nodeOffset(address);
    this.view(nodeSegment(address), offset, 0, cellOf(this.arena, address), nodeLimit(offset));
  }

  get isTombstone(): boolean {
    return (this.viewFlags & CellFlag.Tombstone) !== 0;
  }

  #enter(node: number): void {
    this.#node = node;
    if (node === 0) return;
    checkAddress(this.arena, node);
    this.#count(node);
    this.show(node);
    if (this.keyLength > KEY_BYTES_MAX) throw corruptNode(node, `a key of ${this.keyLength} bytes`);
    this.keyBytes = this.copyKey(this.key, 0);
  }

  #count(address: number): void {
    if (++this.#steps > this.#stepsMax) throw corruptNode(address, 'the list goes round');
  }
}
