/**
 * The memtable's writer: versions, groups and room are those of all engines with nodes (cells/node-writer.ts), the structure is a skip list.
 *
 * Two ways to use it:
 *
 *   a space's engine             deletes remove; old versions stay while snapshots need them
 *   a level 0 of an LSM-Tree     `keepTombstones`: a delete always leaves a tombstone, also of a key that is not here, because it hides what lower levels
 *                                have. When isFull the owner lets the group end, calls freeze() and begins a new table in another row. Readers of any
 *                                thread read the frozen one by its descriptor unit (reader.ts), a job writes it to a file (walk.ts), and
 *                                destroy() drops it: page by page, not node by node.
 *
 * A frozen table never changes again: operations throw, sweeps do nothing. Heights come from a generator that starts anew with each writer: which
 * nodes are high does not matter, only that it does not depend on keys.
 *
 * Threads: the shard thread only.
 */
import { assert } from '../../shared/assert.js';
import type { ArenaWriter, UnitId } from '../../shared/memory/arena.js';
import { SEGMENT_UNIT_SHIFT, UNIT_BYTES } from '../../shared/memory/arena.js';
import { CellFlag, cellExpiresAt, readSeq } from '../btree/page.js';
import { nodeSegment, nodeWord, pageWord } from '../cells/node.js';
import { NodeEngineWriter } from '../cells/node-writer.js';
import { EngineCode, type EngineMetrics, type SweepState } from '../engine.js';
import { ExpressLane, LANE_GROUP_PAGES, LANE_OPERATIONS_PER_PAGE } from './lane-writer.js';
import { ListSearch, SkipList } from './list.js';
import {
  HEIGHT_MAX,
  HEIGHT_WORD,
  IS_FROZEN_WORD,
  LANE_ROOT_WORD,
  cellOf,
  headOfList,
  heightOf,
  linkOf,
} from './node.js';

export interface MemtableOptions {
  /** Bytes of memory at which the table is full. Default 64 MiB. */
  readonly memtableBytes?: number | undefined;
  /** Deletes leave tombstones, whatever is below them. Default false. */
  readonly keepTombstones?: boolean | undefined;
  /** The table has no row: its owner remembers the descriptor. 0: a new one. Left out: it has the row. */
  readonly descriptor?: UnitId | undefined;
}

/** What lookup() found. */
export interface MemtableEntry {
  readonly seq: number;
  readonly isTombstone: boolean;
  /** 0: never. */
  readonly expiresAt: number;
}

export interface MemtableStatistics {
  /** Live keys. */
  readonly entries: number;
  /** Keys whose newest version is a tombstone. */
  readonly tombstones: number;
  /** All versions, tombstones among them. */
  readonly versions: number;
  /** Of keys and values of live entries. */
  readonly liveBytes: number;
  /** Memory in use: pages of nodes, lane, overflow chains and the descriptor. */
  readonly memoryBytes: number;
  /** Copies; undefined if the table is empty. */
  readonly smallestKey: Uint8Array | undefined;
  readonly largestKey: Uint8Array | undefined;
  /** Bounds of the numbers of all versions; exact unless versions were removed. 0 if the table is empty. */
  readonly smallestSeq: number;
  readonly largestSeq: number;
}

export const MEMTABLE_BYTES_DEFAULT = 64 << 20;
const LINK_WORDS_MAX = 1 + HEIGHT_MAX;
const HEIGHT_SEED = 0x2545f491;

export class MemtableWriter extends NodeEngineWriter {
  readonly memtableBytes: number;
  readonly #keepTombstones: boolean;
  readonly #lane: ExpressLane;
  readonly #list: SkipList;
  readonly #search: ListSearch;
  #isFrozen = false;
  #random = HEIGHT_SEED;
  /** Of the node that linkWordsFor() was asked for. */
  #height = 1;
  /** Where firstNode() and nextNode() are. */
  #walkNode = 0;
  #tombstones = 0;
  #smallestSeq = Infinity;
  #largestSeq = 0;

  constructor(arena: ArenaWriter, row: number, spaceId: number, options: MemtableOptions = {}) {
    const keepTombstones = options.keepTombstones === true;
    super(arena, row, spaceId, {
      code: EngineCode.memtable,
      linkWordsMax: LINK_WORDS_MAX,
      isLocked: false,
      isOrdered: true,
      keepsTombstones: keepTombstones,
      descriptor: options.descriptor,
    });
    this.memtableBytes = options.memtableBytes ?? MEMTABLE_BYTES_DEFAULT;
    this.#keepTombstones = keepTombstones;
    this.#lane = new ExpressLane(arena, {
      allocate: () => this.allocatePage(1),
      retire: (unit) => {
        this.retirePage(unit);
      },
      all: () => this.ownPages(),
    });
    this.#list = new SkipList(arena, this.#lane);
    this.#search = new ListSearch(arena);
    this.openRow();
  }

  /** Page by which readers of other threads find a table that has no space of its own; 0 while it is empty. */
  get descriptorUnit(): UnitId {
    return this.descriptor;
  }

  /** Makes the descriptor of a new table, so that readers can be told of it. @throws ERR_MEMORY_FULL, and nothing has changed */
  override begin(): void {
    super.begin();
  }

  /** Bounds of the numbers of all versions that were put: a number below smallestSeq is in none. Infinity and 0 if there are none. */
  get smallestSeq(): number {
    return this.#smallestSeq;
  }

  get largestSeq(): number {
    return this.#largestSeq;
  }

  /** The newest version in the state being built, a tombstone too; undefined if there is none. */
  lookup(key: Uint8Array, keyStart: number, keyLength: number): MemtableEntry | undefined {
    if (this.descriptor === 0) return undefined;
    const node = this.locate(key, keyStart, keyLength);
    if (node === 0) return undefined;
    const u8 = this.arena.u8[nodeSegment(node)]!;
    const cell = cellOf(this.arena, node);
    return { seq: this.seqOf(node), isTombstone: this.#isTombstoneNode(node), expiresAt: cellExpiresAt(u8, cell) };
  }

  /** Memory in use has reached memtableBytes. */
  get isFull(): boolean {
    return this.memoryBytes >= this.memtableBytes;
  }

  get memoryBytes(): number {
    const { treeUnits, overflowUnits } = this.counts();
    return (treeUnits + overflowUnits) * UNIT_BYTES;
  }

  get isFrozen(): boolean {
    return this.#isFrozen;
  }

  /** From now on nothing changes any more. Between groups. */
  freeze(): void {
    assert(this.publishedSeq === Infinity, 'a memtable is frozen between groups');
    this.#isFrozen = true;
    if (this.descriptor !== 0) Atomics.store(this.#descriptorWords(), pageWord(this.descriptor) + IS_FROZEN_WORD, 1);
  }

  statistics(): MemtableStatistics {
    const counts = this.counts();
    const isEmpty = this.descriptor === 0 || counts.cells === 0;
    const head = headOfList(this.descriptor);
    return {
      entries: counts.liveEntries,
      tombstones: this.#tombstones,
      versions: counts.cells,
      liveBytes: counts.liveKeyBytes + counts.liveValueBytes,
      memoryBytes: this.memoryBytes,
      smallestKey: isEmpty ? undefined : this.positionOf(linkOf(this.arena, head, 0)),
      largestKey: isEmpty ? undefined : this.positionOf(this.#search.last(head)),
      smallestSeq: isEmpty ? 0 : this.#smallestSeq,
      largestSeq: isEmpty ? 0 : this.#largestSeq,
    };
  }

  override beginGroup(publishedSeq: number, isAtomic: boolean): void {
    super.beginGroup(publishedSeq, isAtomic);
    this.#lane.beginGroup();
  }

  override sweep(state: SweepState, budget: number): void {
    if (this.#isFrozen) state.done = true;
    else super.sweep(state, budget);
  }

  override destroy(): void {
    super.destroy();
    this.#lane.forget();
    this.#list.forget();
    this.#tombstones = 0;
    this.#smallestSeq = Infinity;
    this.#largestSeq = 0;
  }

  // ---- what the base asks for ---------------------------------------------------------------------------------------------------

  protected override beforeChange(): void {
    assert(!this.#isFrozen, 'a frozen memtable does not change');
  }

  protected override addGrowth(counts: number[], operations: number, deletesOnly: boolean): void {
    // Deletes put tombstones in the place of nodes, unless they leave some where nothing was.
    if (deletesOnly && !this.#keepTombstones) return;
    counts[0]! += LANE_GROUP_PAGES + Math.ceil(operations / LANE_OPERATIONS_PER_PAGE);
  }

  protected override linkWordsFor(old: number): number {
    this.#height = old === 0 ? this.#randomHeight() : heightOf(this.arena, old);
    return 1 + this.#height;
  }

  protected override cellOffset(address: number): number {
    return cellOf(this.arena, address) - ((nodeWord(address) << 2) | 0);
  }

  protected override locate(key: Uint8Array, keyStart: number, keyLength: number): number {
    return this.#list.locate(key, keyStart, keyLength);
  }

  protected override insertNode(address: number): void {
    this.#setHeight(address, this.#height);
    this.#lane.countOperation();
    this.#list.insert(address, this.#height);
    this.#count(address);
  }

  protected override replaceNode(old: number, address: number): void {
    this.#setHeight(address, heightOf(this.arena, old));
    this.#list.replace(old, address);
    if (this.#isTombstoneNode(old)) this.#tombstones--;
    this.#count(address);
  }

  protected override removeNode(old: number): void {
    this.#list.remove(old);
    if (this.#isTombstoneNode(old)) this.#tombstones--;
  }

  protected override firstNode(position: Uint8Array | undefined): number {
    const head = headOfList(this.descriptor);
    this.#walkNode =
      position === undefined
        ? linkOf(this.arena, head, 0)
        : this.#search.seek(head, this.#lane.rootBlock, position, 0, position.length);
    return this.#walkNode;
  }

  protected override nextNode(): number {
    return (this.#walkNode = linkOf(this.arena, this.#walkNode, 0));
  }

  protected override startStructure(): void {
    assert(!this.#isFrozen, 'a frozen memtable does not change');
    const head = headOfList(this.descriptor);
    this.#setHeight(head, HEIGHT_MAX);
    this.#list.open(head);
    this.#openLane();
  }

  protected override adoptStructure(): void {
    this.#isFrozen = this.#descriptorWords()[pageWord(this.descriptor) + IS_FROZEN_WORD] !== 0;
    const head = headOfList(this.descriptor);
    heightOf(this.arena, head);
    this.#list.open(head);
    this.#openLane();
    this.#list.relink();
    for (let node = linkOf(this.arena, head, 0); node !== 0; node = linkOf(this.arena, node, 0)) {
      this.#count(node);
      for (let at = this.olderOf(node); at !== 0; at = this.olderOf(at)) this.#countSeq(this.seqOf(at));
    }
  }

  protected override checkStructure(problems: string[]): void {
    this.#list.check(problems);
    let tombstones = 0;
    for (let node = this.firstNode(undefined); node !== 0; node = this.nextNode()) {
      if (this.#isTombstoneNode(node)) tombstones++;
    }
    if (tombstones !== this.#tombstones) problems.push(`${tombstones} tombstones found, ${this.#tombstones} counted`);
  }

  protected override structureMetrics(): EngineMetrics {
    return { tombstones: this.#tombstones, laneNodes: this.#lane.entries, lanePages: this.pageUnits };
  }

  // ---- small parts --------------------------------------------------------------------------------------------------------------

  #openLane(): void {
    this.#lane.open(this.#descriptorWords(), pageWord(this.descriptor) + LANE_ROOT_WORD);
  }

  #descriptorWords(): Uint32Array {
    return this.arena.u32[this.descriptor >>> SEGMENT_UNIT_SHIFT]!;
  }

  #setHeight(address: number, height: number): void {
    this.arena.u32[nodeSegment(address)]![nodeWord(address) + HEIGHT_WORD] = height;
  }

  /** xorshift32: each four leading zero bits make the node one higher. */
  #randomHeight(): number {
    let state = this.#random;
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    this.#random = state;
    const height = 1 + (Math.clz32(state) >>> 2);
    return height < HEIGHT_MAX ? height : HEIGHT_MAX;
  }

  #isTombstoneNode(address: number): boolean {
    return (this.arena.u8[nodeSegment(address)]![cellOf(this.arena, address)]! & CellFlag.Tombstone) !== 0;
  }

  /** A node that has come into the list. */
  #count(address: number): void {
    const u8 = this.arena.u8[nodeSegment(address)]!;
    const cell = cellOf(this.arena, address);
    if ((u8[cell]! & CellFlag.Tombstone) !== 0) this.#tombstones++;
    this.#countSeq(readSeq(u8, cell + 1));
  }

  #countSeq(seq: number): void {
    if (seq < this.#smallestSeq) this.#smallestSeq = seq;
    if (seq > this.#largestSeq) this.#largestSeq = seq;
  }
}
