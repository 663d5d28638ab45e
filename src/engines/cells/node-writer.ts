/**
 * What the writers of all engines with nodes have in common: versions, groups, room, adoption, counts. An engine adds its structure.
 *
 *   structure ──▶ newest version ──older──▶ version ──older──▶ version ──▶ 0          one entry of the structure per key
 *
 * Visibility. Nodes are linked as they are applied, before the meta page is published. A reader at Infinity therefore reads at the publishedSeq of
 * the meta page it pinned: a node with a higher number sends it on to `older`. While a group is applied its publishedSeq counts as one more
 * open snapshot: a put keeps the old version below the new one, a delete links a tombstone. After the publication endGroup() goes through the
 * keys of the group and removes what no snapshot needs: versions, then tombstones with nothing below, physically. So after
 * endGroup() without snapshots the structure holds one node per live key.
 *
 * Why readers need no lock for this. Every change that shows is one Atomics.store of one word, of a node that is complete, so whoever reads the
 * word with Atomics.load also reads the node. A reader whose first version is ≤ its number is right: no change makes it wrong. A reader that met newer
 * ones first may find nothing below them, or an older version than it should (which a snapshot keeps): what stood there when it pinned can have gone,
 * but only with endGroup() or a sweep, which come after a publication that the reader has not seen. It looks at the published meta word after it
 * loaded `older`, which was stored after that publication: so it sees the new word and reads again at the new number. If the word is the one it pinned, nothing
 * was lost and the key is absent. Nodes out of the structure keep their words until every reader that pinned before has left.
 *
 * Death. A successor finds nodes with numbers above the published one where the dead writer was within a group: it puts the newest published
 * version in their place. Nothing else can be half done, except what the engine's own steps leave (adoptStructure()). The lists of memory are
 * in node.ts; counts are made anew by the walk.
 *
 * Nodes are in one list at a time while more than one version stands at their key: of the group, then of the sweep. A node that
 * leaves the structure while listed stays allocated until the list comes to it.
 *
 * Threads: the shard's thread only.
 */
import { readU32LE } from '../../shared/codec/fixed.js';
import { ConcordError } from '../../shared/errors.js';
import { SEGMENT_UNIT_SHIFT, type ArenaWriter, type UnitId } from '../../shared/memory/arena.js';
import { WordCopy } from '../../shared/memory/word-copy.js';
import {
  CellFlag,
  KEY_BYTES_MAX,
  KIND_BYTE,
  NEXT_WORD,
  PageKind,
  SEQ_BYTES,
  VALUE_BYTES_MAX,
  cellExpiresAt,
  copyBytes,
  readSeq,
  varintBytes,
  writeSeq,
  writeVarint,
} from '../btree/page.js';
import { publishedSeqOf, TreeTable } from '../btree/meta.js';
import { OverflowWriter, walkChain, type OverflowChain } from '../btree/overflow.js';
import {
  FREE_TAG,
  rowTag,
  type EngineCounts,
  type EngineMetrics,
  type EngineWriter,
  type RemoveRangeResult,
  type SweepState,
  type VersionVisit,
} from '../engine.js';
import { CellHeap, NODE_BYTES_MAX } from './heap.js';
import { IntQueue } from './int-queue.js';
import { WriterLatch } from './latch.js';
import {
  ADDRESSED_UNITS_MAX,
  CHAIN_LINK_WORD,
  FIRST_CHAIN_WORD,
  FIRST_PAGE_WORD,
  INLINE_VALUE_BYTES_MAX,
  NodeFlag,
  checkAddress,
  checkDescriptor,
  corruptNode,
  nodeOffset,
  nodeSegment,
  nodeWord,
  pageWord,
  readCell,
  startDescriptor,
  walkChainPages,
  type NodeCell,
} from './node.js';
import { PageList } from './page-list.js';

export interface NodeEngineOptions {
  readonly code: number;
  /** Words of links per node, the most a node may have. */
  readonly linkWordsMax: number;
  /** Readers hold the arena's read latch while they are in the structure; the writer takes the write latch around its steps. */
  readonly isLocked: boolean;
  /** Key order is the engine's own order. */
  readonly isOrdered: boolean;
  /** Deletes always leave a tombstone, which only destroy() removes. */
  readonly keepsTombstones?: boolean;
  /** Part of another engine, which knows its descriptor: there is no row of its own. 0: nothing is there yet. Left out: it has a row. */
  readonly descriptor?: UnitId | undefined;
}

const NO_SNAPSHOTS = new Float64Array(0);
const NO_BYTES = new Uint8Array(0);
const RANGE_VISITS_PER_REMOVAL = 8;
/** Nodes that a sweep looks at per unit of its budget. */
const SWEEP_NODES = 32;
/** Flags, number, expiry, lengths of value and key. */
const CELL_OVERHEAD_MAX = 1 + SEQ_BYTES + 6 + 5 + 2;
/** Lists are rid of nodes that are only there to be freed when so many have come together. */
const DEAD_LISTED_MAX = 1024;

export abstract class NodeEngineWriter implements EngineWriter {
  readonly code: number;
  readonly row: number;
  tag: number;
  replacedExpiresAt = 0;
  replacedSeq = 0;
  foundExpiresAt = 0;

  protected readonly arena: ArenaWriter;
  protected readonly heap: CellHeap;
  /** The descriptor page, 0 before the first put. */
  protected descriptor: UnitId = 0;
  /** For walks: the cell that readNode() took apart. */
  protected readonly cell: NodeCell = { flags: 0, keyAt: 0, keyLength: 0, bodyAt: 0, valueLength: 0 };
  protected liveEntries = 0;
  /** Keys in the structure, those with a tombstone among them. */
  protected keyCount = 0;
  /** Readers' number until the publication. Infinity outside of groups: then every version counts as published. */
  protected publishedSeq = Infinity;

  readonly #table: TreeTable;
  readonly #options: NodeEngineOptions;
  readonly #latch: WriterLatch | undefined;
  readonly #chains: PageList;
  readonly #pages: PageList;
  readonly #overflow: OverflowWriter;
  readonly #nodeOverhead: number;

  #liveKeyBytes = 0;
  #liveValueBytes = 0;
  #cells = 0;
  #overflowPages = 0;
  #overflowUnits = 0;
  #pageUnits = 0;

  #snapshots: Float64Array = NO_SNAPSHOTS;
  #snapshotCount = 0;
  /** Nodes of the group at whose keys more stands than one live version. */
  readonly #touched = new IntQueue();
  /** The same from earlier groups, while snapshots need it. */
  readonly #listed = new IntQueue();
  #deadListed = 0;

  readonly #unitBytes = new Uint8Array(4);
  readonly #scratchKey = new Uint8Array(KEY_BYTES_MAX);
  #scratchValue = new Uint8Array(INLINE_VALUE_BYTES_MAX);
  readonly #growth = [0, 0, 0, 0];
  readonly #copy = new WordCopy();
  #prunedCells = 0;
  #sweptCells = 0;

  /** The subclass calls openRow() at the end of its own constructor. */
  constructor(arena: ArenaWriter, row: number, spaceId: number, options: NodeEngineOptions) {
    this.arena = arena;
    this.row = row;
    this.code = options.code;
    this.#options = options;
    this.#table = TreeTable.of(arena);
    this.heap = new CellHeap(arena);
    this.#chains = new PageList(arena, FIRST_CHAIN_WORD, CHAIN_LINK_WORD);
    this.#pages = new PageList(arena, FIRST_PAGE_WORD, NEXT_WORD);
    this.#overflow = new OverflowWriter(arena);
    this.#nodeOverhead = 4 + 4 * options.linkWordsMax + CELL_OVERHEAD_MAX;
    const latch = options.isLocked ? WriterLatch.of(arena) : undefined;
    this.#latch = latch;
    // Whoever waits for readers must not hold what readers wait for.
    if (latch !== undefined) {
      this.heap.beforeGrowth = () => {
        latch.release();
      };
    }
    const tag = options.descriptor === undefined ? this.#table.row(row).tag : FREE_TAG;
    this.tag = tag === FREE_TAG ? rowTag(spaceId, options.code) : tag;
  }

  // ---- what an engine supplies ----------------------------------------------------------------------------------------------------
  // All of it is called with a descriptor there. Steps that show are single stores; locked engines are called with the latch held.

  /** Links of the node to come, at most linkWordsMax; `old`: the node it will replace, 0 for none. */
  protected abstract linkWordsFor(old: number): number;
  /** Byte offset of the node's cell from the node. */
  protected abstract cellOffset(address: number): number;
  /** Address of the newest version of the key, 0 if there is none. The place is remembered for the step that follows. */
  protected abstract locate(key: Uint8Array, keyStart: number, keyLength: number): number;
  /** A new key, at the place. May throw ERR_MEMORY_FULL before it changed anything. */
  protected abstract insertNode(address: number): void;
  /** `address` takes the place of `old`; the links of `old` stay as they are for readers that stand on it. Links of `address` are set anew. */
  protected abstract replaceNode(old: number, address: number): void;
  /** The key leaves the structure. */
  protected abstract removeNode(old: number): void;
  /** First node at or after the position in the engine's own order, 0 at the end. Remembers the place for nextNode(). */
  protected abstract firstNode(position: Uint8Array | undefined): number;
  /** The node behind it, 0 at the end. Not after changes. */
  protected abstract nextNode(): number;
  /** A new descriptor: what the engine keeps in it. May allocate pages. */
  protected abstract startStructure(): void;
  /** After a predecessor: completes or takes back its last step, and prepares the engine's own fields. @throws ERR_CORRUPT */
  protected abstract adoptStructure(): void;
  /** Problems of the structure, the order of nodes among them. */
  protected abstract checkStructure(problems: string[]): void;

  /** Adds pages by log2 of their units that so many more nodes can make the structure need. */
  protected addGrowth(_counts: number[], _operations: number, _deletesOnly: boolean): void {
    // Links are in the nodes.
  }

  /** Before an operation, when nothing is locked: the engine may grow its structure. */
  protected beforeChange(): void {
    // Nothing to grow.
  }

  protected structureMetrics(): EngineMetrics {
    return {};
  }

  /** Position of a node in the engine's own order. */
  protected positionOf(address: number): Uint8Array {
    const { keyAt, keyLength } = this.readNode(address);
    return this.arena.u8[nodeSegment(address)]!.slice(keyAt, keyAt + keyLength);
  }

  isBefore(key: Uint8Array, keyStart: number, keyLength: number, position: Uint8Array): boolean {
    return compareBytes(key, keyStart, keyLength, position, 0, position.length) < 0;
  }

  // ---- operations ---------------------------------------------------------------------------------------------------------------

  put(
    key: Uint8Array,
    keyStart: number,
    keyLength: number,
    value: Uint8Array,
    valueStart: number,
    valueLength: number,
    seq: number,
    expiresAt: number,
  ): boolean {
    if (valueLength > INLINE_VALUE_BYTES_MAX) {
      const chain = this.#writeChain(keyLength, value, valueStart, valueLength);
      try {
        return this.putOverflow(key, keyStart, keyLength, chain, seq, expiresAt);
      } catch (error) {
        OverflowWriter.discard(this.arena, chain);
        throw error;
      }
    }
    return this.#put(0, key, keyStart, keyLength, valueLength, value, valueStart, valueLength, seq, expiresAt);
  }

  putOverflow(
    key: Uint8Array,
    keyStart: number,
    keyLength: number,
    chain: OverflowChain,
    seq: number,
    expiresAt: number,
  ): boolean {
    const bytes = this.#unitBytes;
    bytes[0] = chain.firstUnit;
    bytes[1] = chain.firstUnit >>> 8;
    bytes[2] = chain.firstUnit >>> 16;
    bytes[3] = chain.firstUnit >>> 24;
    const { totalBytes, firstUnit } = chain;
    if (this.descriptor === 0) this.#start();
    // Listed before a node refers to it: a successor takes back what no node refers to.
    this.#chains.add(firstUnit);
    let existed: boolean;
    try {
      existed = this.#put(CellFlag.Overflow, key, keyStart, keyLength, totalBytes, bytes, 0, 4, seq, expiresAt);
    } catch (error) {
      this.#chains.remove(firstUnit);
      throw error;
    }
    this.arena.stagedUnits -= chain.units;
    this.#overflowPages += chain.pages;
    this.#overflowUnits += chain.units;
    return existed;
  }

  #put(
    flags: number,
    key: Uint8Array,
    keyStart: number,
    keyLength: number,
    valueLength: number,
    body: Uint8Array,
    bodyStart: number,
    bodyLength: number,
    seq: number,
    expiresAt: number,
  ): boolean {
    checkLengths(keyLength, valueLength);
    if (this.descriptor === 0) this.#start();
    this.beforeChange();
    const old = this.locate(key, keyStart, keyLength);
    const cellFlags = expiresAt === 0 ? flags : flags | CellFlag.Expiry;
    const node = this.#newNode(
      old,
      cellFlags,
      key,
      keyStart,
      keyLength,
      valueLength,
      body,
      bodyStart,
      bodyLength,
      seq,
      expiresAt,
    );
    if (old === 0) {
      this.#link(0, node);
      this.replacedSeq = 0;
      this.replacedExpiresAt = 0;
      this.#countLive(1, keyLength, valueLength);
      return false;
    }
    const u8 = this.arena.u8[nodeSegment(old)]!;
    const oldCell = nodeOffset(old) + this.cellOffset(old);
    const oldSeq = readSeq(u8, oldCell + 1);
    const existed = (u8[oldCell]! & CellFlag.Tombstone) === 0;
    this.replacedExpiresAt = existed ? cellExpiresAt(u8, oldCell) : 0;
    this.replacedSeq = this.replacedExpiresAt === 0 ? 0 : oldSeq;
    const oldLength = existed ? this.#valueLengthOf(old) : 0;
    this.#replace(old, oldSeq, node, seq);
    if (existed) this.#countLive(0, 0, valueLength - oldLength);
    else this.#countLive(1, keyLength, valueLength);
    return existed;
  }

  del(key: Uint8Array, keyStart: number, keyLength: number, seq: number): boolean {
    this.replacedSeq = 0;
    this.replacedExpiresAt = 0;
    const keepsTombstones = this.#options.keepsTombstones === true;
    if (this.descriptor === 0 && !keepsTombstones) return false;
    const arena = this.arena;
    const before = arena.reserveMode;
    arena.reserveMode = true;
    try {
      if (this.descriptor === 0) this.#start();
      this.beforeChange();
      const old = this.locate(key, keyStart, keyLength);
      if (old === 0) {
        if (!keepsTombstones) return false;
        checkLengths(keyLength, 0);
        this.#link(0, this.#newTombstone(0, key, keyStart, keyLength, seq));
        return false;
      }
      const u8 = arena.u8[nodeSegment(old)]!;
      const oldCell = nodeOffset(old) + this.cellOffset(old);
      if ((u8[oldCell]! & CellFlag.Tombstone) !== 0) return false;
      const oldSeq = readSeq(u8, oldCell + 1);
      const oldExpiresAt = cellExpiresAt(u8, oldCell);
      const oldLength = this.#valueLengthOf(old);
      const isHidden = oldSeq > this.publishedSeq && !this.#isNeeded(oldSeq, seq);
      if (isHidden && !keepsTombstones && this.olderOf(old) === 0) {
        this.#unlink(old);
      } else {
        const node = this.#newTombstone(old, key, keyStart, keyLength, seq);
        this.#replace(old, oldSeq, node, seq);
      }
      this.replacedSeq = oldExpiresAt === 0 ? 0 : oldSeq;
      this.replacedExpiresAt = oldExpiresAt;
      this.#countLive(-1, -keyLength, -oldLength);
      return true;
    } finally {
      arena.reserveMode = before;
    }
  }

  versionOf(key: Uint8Array, keyStart: number, keyLength: number, atMs: number): number {
    this.foundExpiresAt = 0;
    if (this.descriptor === 0) return 0;
    const node = this.locate(key, keyStart, keyLength);
    if (node === 0) return 0;
    const u8 = this.arena.u8[nodeSegment(node)]!;
    const cell = nodeOffset(node) + this.cellOffset(node);
    if ((u8[cell]! & CellFlag.Tombstone) !== 0) return 0;
    const expiresAt = cellExpiresAt(u8, cell);
    if (expiresAt !== 0 && atMs !== 0 && expiresAt <= atMs) return 0;
    this.foundExpiresAt = expiresAt;
    return readSeq(u8, cell + 1);
  }

  /** `resume`: of an unordered engine, the resumeKey of the slice before. */
  removeRange(
    low: Uint8Array | undefined,
    lowInclusive: boolean,
    high: Uint8Array | undefined,
    highInclusive: boolean,
    limit: number,
    seq: number,
    resume?: Uint8Array,
  ): RemoveRangeResult {
    const { isOrdered } = this.#options;
    const key = this.#scratchKey;
    let removed = 0;
    let visits = limit * RANGE_VISITS_PER_REMOVAL + 64;
    let node = this.descriptor === 0 ? 0 : this.firstNode(resume ?? (isOrdered ? low : undefined));
    while (node !== 0) {
      const { flags, keyLength } = this.#copyKey(node, key);
      const isInRange = isWithin(key, keyLength, low, lowInclusive, high, highInclusive);
      if (isOrdered && high !== undefined && !isInRange) {
        const order = compareBytes(key, 0, keyLength, high, 0, high.length);
        if (order > 0 || (order === 0 && !highInclusive)) break;
      }
      if (removed >= limit || visits-- <= 0) return { removed, done: false, resumeKey: this.positionOf(node) };
      if (isInRange && (flags & CellFlag.Tombstone) === 0) {
        const position = this.positionOf(node);
        if (this.del(key, 0, keyLength, seq)) removed++;
        node = this.firstNode(position);
        // A tombstone may stand at the key.
        if (node !== 0 && this.compareKey(node, key, 0, keyLength) === 0) node = this.nextNode();
      } else {
        node = this.nextNode();
      }
    }
    return { removed, done: true, resumeKey: undefined };
  }

  // ---- groups and versions ------------------------------------------------------------------------------------------------------

  setSnapshots(sorted: Float64Array, count: number): void {
    this.#snapshots = sorted;
    this.#snapshotCount = count;
  }

  beginGroup(publishedSeq: number, _isAtomic: boolean): void {
    this.publishedSeq = publishedSeq;
    this.heap.drain();
  }

  endGroup(): void {
    this.publishedSeq = Infinity;
    this.#copy.forget();
    const { arena } = this;
    const before = arena.reserveMode;
    arena.reserveMode = true;
    try {
      const touched = this.#touched;
      for (let count = touched.count; count > 0; count--) {
        const node = touched.shift();
        if (this.#settleListed(node)) this.#listed.push(node);
      }
    } finally {
      arena.reserveMode = before;
      this.#latch?.release();
    }
    if (this.#deadListed > DEAD_LISTED_MAX && this.#deadListed > this.#listed.count >>> 1) {
      for (let count = this.#listed.count; count > 0; count--) {
        const node = this.#listed.shift();
        if (this.#isDead(node)) this.#freeDead(node);
        else this.#listed.push(node);
      }
    }
  }

  /** Looks at keys that had more than one live version when they were last changed. */
  sweep(state: SweepState, budget: number): void {
    const arena = this.arena;
    const before = arena.reserveMode;
    arena.reserveMode = true;
    const cells = this.#cells;
    try {
      let left = Math.min(state.resumeSeq, this.#listed.count);
      for (let visits = budget * SWEEP_NODES; visits > 0 && left > 0; visits--, left--) {
        const node = this.#listed.shift();
        if (this.#settleListed(node)) this.#listed.push(node);
      }
      state.resumeSeq = left;
      state.done = left === 0;
    } finally {
      arena.reserveMode = before;
      this.#latch?.release();
    }
    state.removedCells += cells - this.#cells;
    this.#sweptCells += cells - this.#cells;
    this.heap.reclaim();
  }

  /** Removes what nothing needs at the key of a listed node. True if something is left to look at again. */
  #settleListed(node: number): boolean {
    if (this.#isDead(node)) {
      this.#freeDead(node);
      return false;
    }
    const u8 = this.arena.u8[nodeSegment(node)]!;
    const cell = nodeOffset(node) + this.cellOffset(node);
    // Off the list first: if it leaves the structure below, it is freed like any other.
    u8[cell]! &= ~NodeFlag.Listed;
    if (this.#prune(node)) return false;
    if (this.olderOf(node) === 0 && (u8[cell]! & CellFlag.Tombstone) === 0) return false;
    // What is only kept for an LSM's lower levels is not worth another look.
    if (this.#options.keepsTombstones === true && this.olderOf(node) === 0) return false;
    u8[cell]! |= NodeFlag.Listed;
    return true;
  }

  /** Removes versions below the node that no snapshot needs, and tombstones that hide nothing. True if the node itself went. */
  #prune(node: number): boolean {
    let newer = node;
    let newerSeq = this.seqOf(node);
    for (let at = this.olderOf(node); at !== 0;) {
      const older = this.olderOf(at);
      const seq = this.seqOf(at);
      if (this.#isNeeded(seq, newerSeq)) {
        newer = at;
        newerSeq = seq;
      } else {
        this.#setOlder(newer, older);
        this.#drop(at);
        this.#prunedCells++;
      }
      at = older;
    }
    if (this.#options.keepsTombstones === true) return false;
    while (newer !== node && this.#isTombstone(newer)) {
      let before = node;
      for (let at = this.olderOf(before); at !== newer; at = this.olderOf(before)) before = at;
      this.#setOlder(before, 0);
      this.#drop(newer);
      this.#prunedCells++;
      newer = before;
    }
    if (newer !== node || !this.#isTombstone(node)) return false;
    const u8 = this.arena.u8[nodeSegment(node)]!;
    const { keyAt, keyLength } = this.readNode(node);
    // A newer version may stand above it: then the tombstone goes with that one's prune.
    if (this.locate(u8, keyAt, keyLength) !== node) return false;
    this.#unlink(node);
    this.#prunedCells++;
    return true;
  }

  /** Whether an open snapshot S has version ≤ S < newer. */
  #isNeeded(version: number, newer: number): boolean {
    let high = this.#snapshotCount;
    if (high === 0) return false;
    const snapshots = this.#snapshots;
    let low = 0;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (snapshots[middle]! < version) low = middle + 1;
      else high = middle;
    }
    return low < this.#snapshotCount && snapshots[low]! < newer;
  }

  /** Puts the node above `old`, or above what `old` stands on if nobody can need `old`. */
  #replace(old: number, oldSeq: number, node: number, seq: number): void {
    const isHidden = oldSeq > this.publishedSeq && !this.#isNeeded(oldSeq, seq);
    const older = isHidden ? this.olderOf(old) : old;
    this.arena.i32[nodeSegment(node)]![nodeWord(node)] = older;
    this.#link(old, node);
    if (isHidden) this.#drop(old);
    if (older !== 0 || this.#isTombstone(node)) this.#touch(node);
  }

  #link(old: number, node: number): void {
    const latch = this.#latch;
    latch?.enter(this.descriptor);
    try {
      if (old === 0) this.insertNode(node);
      else this.replaceNode(old, node);
    } catch (error) {
      // The node has not been linked, so nobody has seen it.
      if (error instanceof ConcordError && error.code === 'ERR_MEMORY_FULL') {
        latch?.leave();
        this.heap.free(node);
      }
      throw error;
    }
    latch?.leave();
    this.#cells++;
    if (old === 0) this.keyCount++;
  }

  #unlink(node: number): void {
    const latch = this.#latch;
    latch?.enter(this.descriptor);
    this.removeNode(node);
    latch?.leave();
    this.keyCount--;
    this.#drop(node);
  }

  /** The node is out of the structure and of every chain. */
  #drop(node: number): void {
    this.#cells--;
    const u8 = this.arena.u8[nodeSegment(node)]!;
    const cell = nodeOffset(node) + this.cellOffset(node);
    const flags = u8[cell]!;
    if ((flags & CellFlag.Overflow) !== 0) this.#releaseChainOf(node);
    if ((flags & NodeFlag.Listed) !== 0) {
      u8[cell] = flags | NodeFlag.Dead;
      this.#deadListed++;
    } else {
      this.heap.retire(node);
    }
  }

  #touch(node: number): void {
    const u8 = this.arena.u8[nodeSegment(node)]!;
    u8[nodeOffset(node) + this.cellOffset(node)]! |= NodeFlag.Listed;
    this.#touched.push(node);
  }

  #isDead(node: number): boolean {
    const u8 = this.arena.u8[nodeSegment(node)]!;
    return (u8[nodeOffset(node) + this.cellOffset(node)]! & NodeFlag.Dead) !== 0;
  }

  #freeDead(node: number): void {
    this.#deadListed--;
    this.heap.retire(node);
  }

  // ---- nodes --------------------------------------------------------------------------------------------------------------------

  protected olderOf(address: number): number {
    return this.arena.i32[nodeSegment(address)]![nodeWord(address)]!;
  }

  #setOlder(address: number, older: number): void {
    Atomics.store(this.arena.i32[nodeSegment(address)]!, nodeWord(address), older);
  }

  protected seqOf(address: number): number {
    return readSeq(this.arena.u8[nodeSegment(address)]!, nodeOffset(address) + this.cellOffset(address) + 1);
  }

  #isTombstone(address: number): boolean {
    const u8 = this.arena.u8[nodeSegment(address)]!;
    return (u8[nodeOffset(address) + this.cellOffset(address)]! & CellFlag.Tombstone) !== 0;
  }

  #valueLengthOf(address: number): number {
    return this.readNode(address).valueLength;
  }

  /** Takes the node's cell apart; the result is good until the next call. @throws ERR_CORRUPT */
  protected readNode(address: number): NodeCell {
    const u8 = this.arena.u8[nodeSegment(address)]!;
    return readCell(u8, address, nodeOffset(address) + this.cellOffset(address), this.cell);
  }

  /** < 0 if the node's key is smaller than the given one. */
  protected compareKey(address: number, key: Uint8Array, keyStart: number, keyLength: number): number {
    const cell = this.readNode(address);
    const u8 = this.arena.u8[nodeSegment(address)]!;
    return compareBytes(u8, cell.keyAt, cell.keyLength, key, keyStart, keyLength);
  }

  #copyKey(address: number, into: Uint8Array): NodeCell {
    const cell = this.readNode(address);
    copyBytes(this.arena.u8[nodeSegment(address)]!, cell.keyAt, cell.keyLength, into, 0);
    return cell;
  }

  #newTombstone(old: number, key: Uint8Array, keyStart: number, keyLength: number, seq: number): number {
    return this.#newNode(old, CellFlag.Tombstone, key, keyStart, keyLength, 0, NO_BYTES, 0, 0, seq, 0);
  }

  /** A complete node that nothing refers to. @throws ERR_MEMORY_FULL */
  #newNode(
    old: number,
    flags: number,
    key: Uint8Array,
    keyStart: number,
    keyLength: number,
    valueLength: number,
    body: Uint8Array,
    bodyStart: number,
    bodyLength: number,
    seq: number,
    expiresAt: number,
  ): number {
    const cellOffset = 4 + 4 * this.linkWordsFor(old);
    const expiryBytes = expiresAt === 0 ? 0 : SEQ_BYTES;
    const lengthBytes = varintBytes(valueLength) + varintBytes(keyLength);
    const bytes = cellOffset + 1 + SEQ_BYTES + expiryBytes + lengthBytes + keyLength + bodyLength;
    if (bytes > NODE_BYTES_MAX) throw new ConcordError('ERR_INTERNAL', `a node of ${bytes} bytes`);
    const address = this.heap.allocate(bytes);
    const segment = nodeSegment(address);
    const u8 = this.arena.u8[segment]!;
    this.arena.i32[segment]![nodeWord(address)] = 0;
    let at = nodeOffset(address) + cellOffset;
    u8[at] = flags;
    writeSeq(u8, at + 1, seq);
    at += 1 + SEQ_BYTES;
    if (expiryBytes !== 0) {
      writeSeq(u8, at, expiresAt);
      at += SEQ_BYTES;
    }
    at = writeVarint(u8, at, valueLength);
    at = writeVarint(u8, at, keyLength);
    if (body === key && bodyStart === keyStart + keyLength) {
      this.#copy.copy(key, keyStart, keyLength + bodyLength, u8, this.arena.i32[segment]!, at);
    } else {
      copyBytes(key, keyStart, keyLength, u8, at);
      copyBytes(body, bodyStart, bodyLength, u8, at + keyLength);
    }
    return address;
  }

  // ---- the engine's own pages -----------------------------------------------------------------------------------------------------

  /** A page of the engine's own; its words from 6 on hold anything. @throws ERR_MEMORY_FULL */
  protected allocatePage(units: 1 | 2 | 4 | 8): UnitId {
    this.#latch?.release();
    const arena = this.arena;
    const unit = arena.allocate(units);
    const segment = unit >>> SEGMENT_UNIT_SHIFT;
    const word = pageWord(unit);
    const words = arena.u32[segment]!;
    words[word + 3] = 0;
    words[word + 4] = 0;
    arena.u8[segment]![word * 4 + KIND_BYTE] = PageKind.Engine;
    this.#pages.add(unit);
    this.#pageUnits += units;
    return unit;
  }

  /** The page is out of readers' way from now on. */
  protected retirePage(unit: UnitId): void {
    this.#pages.remove(unit);
    this.#pageUnits -= this.arena.unitsOf(unit);
    this.arena.retire(unit);
  }

  /** All of them: what a dead writer did not link is found here. */
  protected ownPages(): UnitId[] {
    return [...this.#pages.units];
  }

  protected get pageUnits(): number {
    return this.#pageUnits;
  }

  // ---- room ---------------------------------------------------------------------------------------------------------------------

  unitsNeeded(operations: number, bytes: number): number {
    const growth = this.#growth.fill(0);
    this.addGrowth(growth, operations, false);
    return (
      (this.descriptor === 0 ? 1 : 0) +
      this.heap.unitsNeeded(operations, bytes + operations * this.#nodeOverhead) +
      growth[0]! +
      2 * growth[1]! +
      4 * growth[2]! +
      8 * growth[3]!
    );
  }

  admits(operations: number, bytes: number, deletesOnly: boolean): boolean {
    const { arena, heap } = this;
    const nodeBytes = bytes + operations * this.#nodeOverhead;
    const growth = this.#growth.fill(0);
    this.addGrowth(growth, operations, deletesOnly);
    growth[0]! += this.descriptor === 0 ? 1 : 0;
    const pairs = heap.pairsNeeded(nodeBytes);
    const needsPages = growth[1]! + growth[2]! + growth[3]! + pairs > 0;
    const free = arena.freeUnits(deletesOnly);
    const needed = heap.unitsNeeded(operations, nodeBytes);
    if (!needsPages && needed + growth[0]! <= free) return true;
    // Much more is free than a bound that is quickly found: usual, and asked for each operation of a group.
    growth[0]! += needed;
    growth[1]! += pairs;
    const bound = growth[0]! + 2 * growth[1]! + 4 * growth[2]! + 8 * growth[3]!;
    if (4 * bound <= free && arena.canAllocate(growth, deletesOnly)) return true;
    growth[0]! -= needed;
    growth[1]! -= pairs;
    heap.reclaim();
    arena.reclaim();
    // Of the units needed, two are side by side for each large node.
    growth[0]! += Math.max(0, Math.min(needed, heap.unitsNeededAtLeast(operations, nodeBytes)) - 2 * pairs);
    growth[1]! += pairs;
    return arena.canAllocate(growth, deletesOnly);
  }

  // ---- whole contents -------------------------------------------------------------------------------------------------------------

  visitVersions(position: Uint8Array | undefined, budget: number, visit: VersionVisit): Uint8Array | undefined {
    if (this.descriptor === 0) return undefined;
    const versions: number[] = [];
    let visits = 0;
    for (let node = this.firstNode(position); node !== 0; node = this.nextNode()) {
      if (visits >= budget) return this.positionOf(node);
      versions.length = 0;
      for (let at = node; at !== 0; at = this.olderOf(at)) versions.push(at);
      visits += versions.length;
      for (let index = versions.length - 1; index >= 0; index--) this.#visitNode(versions[index]!, visit);
    }
    return undefined;
  }

  #visitNode(address: number, visit: VersionVisit): void {
    const u8 = this.arena.u8[nodeSegment(address)]!;
    const { flags, keyLength, valueLength, bodyAt } = this.#copyKey(address, this.#scratchKey);
    if (this.#scratchValue.length < valueLength) this.#scratchValue = new Uint8Array(valueLength);
    const value = this.#scratchValue;
    if ((flags & CellFlag.Overflow) !== 0) {
      let filled = 0;
      walkChain(this.arena, readU32LE(u8, bodyAt), valueLength, (unit, _pageClass, payloadAt, payloadBytes) => {
        const bytes = this.arena.u8[unit >>> SEGMENT_UNIT_SHIFT]!;
        value.set(bytes.subarray(payloadAt, payloadAt + payloadBytes), filled);
        filled += payloadBytes;
      });
    } else {
      copyBytes(u8, bodyAt, valueLength, value, 0);
    }
    const cell = nodeOffset(address) + this.cellOffset(address);
    visit(
      this.#scratchKey,
      keyLength,
      value,
      valueLength,
      readSeq(u8, cell + 1),
      cellExpiresAt(u8, cell),
      (flags & CellFlag.Tombstone) !== 0,
    );
    if (value.length > INLINE_VALUE_BYTES_MAX * 32) this.#scratchValue = new Uint8Array(INLINE_VALUE_BYTES_MAX);
  }

  counts(): EngineCounts {
    // Asked for at the publication: the group has been applied.
    this.#latch?.release();
    return {
      rootUnit: this.descriptor,
      height: 0,
      order: 0,
      pageBytes: 4096,
      liveEntries: this.liveEntries,
      liveKeyBytes: this.#liveKeyBytes,
      liveValueBytes: this.#liveValueBytes,
      cells: this.#cells,
      leafPages: this.heap.slabCount,
      branchPages: this.#pages.size + (this.descriptor === 0 ? 0 : 1),
      overflowPages: this.#overflowPages,
      treeUnits: this.heap.slabUnits + this.#pageUnits + (this.descriptor === 0 ? 0 : 1),
      overflowUnits: this.#overflowUnits,
      tag: this.tag,
    };
  }

  memory(): Readonly<Record<string, number>> {
    return {
      nodes: this.heap.slabUnits * 4096,
      structure: (this.#pageUnits + (this.descriptor === 0 ? 0 : 1)) * 4096,
      overflow: this.#overflowUnits * 4096,
    };
  }

  metrics(): EngineMetrics {
    return {
      prunedVersions: this.#prunedCells,
      sweptVersions: this.#sweptCells,
      slabsAdded: this.heap.slabsAdded,
      slabsRemoved: this.heap.slabsRemoved,
      waitingNodes: this.heap.waitingCells,
      ...(this.#latch === undefined ? {} : { latchTaken: this.#latch.acquired }),
      ...this.structureMetrics(),
    };
  }

  check(): string[] {
    const problems: string[] = [];
    if (this.descriptor === 0) return problems;
    try {
      this.#checkNodes(problems);
      this.checkStructure(problems);
    } catch (error) {
      if (!(error instanceof ConcordError)) throw error;
      problems.push(error.message);
    }
    return problems;
  }

  #checkNodes(problems: string[]): void {
    let entries = 0;
    let keyBytes = 0;
    let valueBytes = 0;
    let cells = 0;
    let overflowUnits = 0;
    const chains = new Set<UnitId>();
    const seen = new Set<number>();
    for (let node = this.firstNode(undefined); node !== 0; node = this.nextNode()) {
      let newerSeq = Infinity;
      for (let at = node; at !== 0; at = this.olderOf(at)) {
        checkAddress(this.arena, at);
        if (seen.has(at)) throw corruptNode(at, 'two ways lead to it');
        seen.add(at);
        cells++;
        const seq = this.seqOf(at);
        if (!(seq < newerSeq)) problems.push(`${corruptNode(at, `number ${seq} below ${newerSeq}`).message}`);
        newerSeq = seq;
        const { flags, keyLength, valueLength, keyAt, bodyAt } = this.readNode(at);
        const u8 = this.arena.u8[nodeSegment(at)]!;
        if ((flags & CellFlag.Overflow) !== 0) {
          const firstUnit = readU32LE(u8, bodyAt);
          if (chains.has(firstUnit) || !this.#chains.has(firstUnit)) {
            problems.push(corruptNode(at, `chain ${firstUnit} is not listed, or another's`).message);
          }
          chains.add(firstUnit);
          walkChain(this.arena, firstUnit, valueLength, (_unit, pageClass) => {
            overflowUnits += 1 << pageClass;
          });
        }
        if (at !== node) {
          if (this.compareKey(node, u8, keyAt, keyLength) !== 0)
            problems.push(corruptNode(at, 'not of the key above').message);
        } else if ((flags & CellFlag.Tombstone) === 0) {
          entries++;
          keyBytes += keyLength;
          valueBytes += valueLength;
        }
      }
    }
    const compare = (name: string, found: number, counted: number): void => {
      if (found !== counted) problems.push(`${name}: ${found} found, ${counted} counted`);
    };
    compare('live entries', entries, this.liveEntries);
    compare('live key bytes', keyBytes, this.#liveKeyBytes);
    compare('live value bytes', valueBytes, this.#liveValueBytes);
    compare('cells', cells, this.#cells);
    compare('overflow units', overflowUnits, this.#overflowUnits);
    compare('overflow chains', chains.size, this.#chains.size);
    problems.push(...this.heap.check(this.#cells + this.#deadListed));
  }

  destroy(): void {
    const arena = this.arena;
    // What has no row is in no version that a long pin holds: a table that has been written to a file gives its memory back while a checkpoint runs.
    const isPinnable = this.#options.descriptor === undefined;
    this.#latch?.release();
    if (this.descriptor !== 0) {
      for (const firstUnit of this.#chains.units) {
        walkChainPages(arena, firstUnit, (unit) => {
          arena.retire(unit, isPinnable);
        });
      }
      for (const unit of this.#pages.units) arena.retire(unit, isPinnable);
      this.heap.destroy(isPinnable);
      arena.retire(this.descriptor, isPinnable);
    }
    this.#chains.forget();
    this.#pages.forget();
    this.#touched.clear();
    this.#listed.clear();
    this.#deadListed = 0;
    this.descriptor = 0;
    this.liveEntries = 0;
    this.keyCount = 0;
    this.#liveKeyBytes = 0;
    this.#liveValueBytes = 0;
    this.#cells = 0;
    this.#overflowPages = 0;
    this.#overflowUnits = 0;
    this.#pageUnits = 0;
    if (this.#options.descriptor === undefined) this.#table.detach(this.row);
  }

  // ---- opening ------------------------------------------------------------------------------------------------------------------

  /** Opens the row as it was last published. @throws ERR_CORRUPT */
  protected openRow(): void {
    const descriptor = this.#options.descriptor ?? this.#table.attach(this.row, this).rootUnit;
    if (descriptor !== 0) this.#adopt(descriptor);
  }

  /** Makes the descriptor, which else comes with the first operation. @throws ERR_MEMORY_FULL, and nothing has changed */
  protected begin(): void {
    if (this.descriptor === 0) this.#start();
  }

  /** @throws ERR_MEMORY_FULL, and nothing has changed */
  #start(): void {
    this.#latch?.release();
    const arena = this.arena;
    const unit = arena.allocate(1);
    // What stands in the descriptor may have an address too.
    if (unit >= ADDRESSED_UNITS_MAX) {
      arena.free(unit);
      throw arena.memoryFull(1);
    }
    startDescriptor(arena, unit, this.code, this.#options.isLocked);
    this.#latch?.started(unit);
    this.descriptor = unit;
    this.heap.start(unit);
    this.#chains.open(unit, PageKind.Overflow);
    this.#pages.open(unit, PageKind.Engine);
    try {
      this.startStructure();
    } catch (error) {
      for (const page of this.ownPages()) {
        this.#pages.remove(page);
        arena.free(page);
      }
      this.#pageUnits = 0;
      this.heap.destroy();
      this.#chains.forget();
      this.#pages.forget();
      this.descriptor = 0;
      arena.free(unit);
      throw error;
    }
  }

  #adopt(descriptor: UnitId): void {
    const arena = this.arena;
    checkDescriptor(arena, descriptor, this.code);
    this.descriptor = descriptor;
    this.#chains.open(descriptor, PageKind.Overflow);
    this.#pages.open(descriptor, PageKind.Engine);
    for (const unit of this.#pages.units) this.#pageUnits += arena.unitsOf(unit);
    this.heap.beginAdoption(descriptor);
    this.adoptStructure();
    const publishedSeq = publishedSeqOf(arena, arena.published());
    const chains = new Set<UnitId>();
    const unpublished: number[] = [];
    for (let node = this.firstNode(undefined); node !== 0; node = this.nextNode()) {
      checkAddress(arena, node);
      if (this.seqOf(node) > publishedSeq) unpublished.push(node);
      else this.#adoptVersions(node, chains);
    }
    for (const node of unpublished) this.#takeBack(node, publishedSeq, chains);
    this.heap.endAdoption();
    for (const firstUnit of [...this.#chains.units]) {
      if (chains.has(firstUnit)) continue;
      this.#chains.remove(firstUnit);
      walkChainPages(arena, firstUnit, (unit) => {
        arena.retire(unit);
      });
    }
    this.#latch?.release();
    this.#latch?.opened(descriptor);
  }

  /** Counts and marks a key's versions. */
  #adoptVersions(node: number, chains: Set<UnitId>): void {
    const arena = this.arena;
    this.keyCount++;
    for (let at = node; at !== 0; at = this.olderOf(at)) {
      checkAddress(arena, at);
      this.heap.mark(at);
      this.#cells++;
      const u8 = arena.u8[nodeSegment(at)]!;
      const cell = nodeOffset(at) + this.cellOffset(at);
      const flags = u8[cell]!;
      if ((flags & (NodeFlag.Listed | NodeFlag.Dead)) !== 0) u8[cell] = flags & ~(NodeFlag.Listed | NodeFlag.Dead);
      const { valueLength, keyLength, bodyAt } = this.readNode(at);
      if ((flags & CellFlag.Overflow) !== 0) {
        const firstUnit = readU32LE(u8, bodyAt);
        if (!this.#chains.has(firstUnit) || chains.has(firstUnit)) {
          throw corruptNode(at, `chain ${firstUnit} is not listed, or another's`);
        }
        chains.add(firstUnit);
        walkChain(arena, firstUnit, valueLength, (_unit, pageClass) => {
          this.#overflowPages++;
          this.#overflowUnits += 1 << pageClass;
        });
      }
      if (at === node && (flags & CellFlag.Tombstone) === 0) this.#countLive(1, keyLength, valueLength);
    }
    if (this.olderOf(node) !== 0 || this.#isTombstone(node)) this.#touch(node);
  }

  /** The key's versions above the published number were never seen: they go. */
  #takeBack(node: number, publishedSeq: number, chains: Set<UnitId>): void {
    const { keyAt, keyLength } = this.readNode(node);
    let published = this.olderOf(node);
    while (published !== 0) {
      checkAddress(this.arena, published);
      if (this.seqOf(published) <= publishedSeq) break;
      published = this.olderOf(published);
    }
    const key = this.arena.u8[nodeSegment(node)]!;
    if (this.locate(key, keyAt, keyLength) !== node) throw corruptNode(node, 'it is not found by its key');
    this.#latch?.enter(this.descriptor);
    if (published === 0) this.removeNode(node);
    else this.replaceNode(node, published);
    this.#latch?.leave();
    if (published !== 0) this.#adoptVersions(published, chains);
  }

  // ---- small parts --------------------------------------------------------------------------------------------------------------

  #countLive(entries: number, keyBytes: number, valueBytes: number): void {
    this.liveEntries += entries;
    this.#liveKeyBytes += keyBytes;
    this.#liveValueBytes += valueBytes;
  }

  #writeChain(keyLength: number, value: Uint8Array, start: number, length: number): OverflowChain {
    checkLengths(keyLength, length);
    this.#latch?.release();
    return this.#overflow.write(value, start, length);
  }

  #releaseChainOf(address: number): void {
    const { bodyAt, valueLength } = this.readNode(address);
    const firstUnit = readU32LE(this.arena.u8[nodeSegment(address)]!, bodyAt);
    this.#chains.remove(firstUnit);
    walkChain(this.arena, firstUnit, valueLength, (unit, pageClass) => {
      this.#overflowPages--;
      this.#overflowUnits -= 1 << pageClass;
      this.arena.retire(unit);
    });
  }
}

function checkLengths(keyLength: number, valueLength: number): void {
  if (keyLength > KEY_BYTES_MAX) {
    throw new ConcordError('ERR_KEY_TOO_LARGE', `key of ${keyLength} bytes, limit ${KEY_BYTES_MAX}`);
  }
  if (valueLength > VALUE_BYTES_MAX) {
    throw new ConcordError('ERR_VALUE_TOO_LARGE', `value of ${valueLength} bytes, limit ${VALUE_BYTES_MAX}`);
  }
}

/** < 0 if a sorts before b. */
export function compareBytes(
  a: Uint8Array,
  aStart: number,
  aLength: number,
  b: Uint8Array,
  bStart: number,
  bLength: number,
): number {
  const length = aLength < bLength ? aLength : bLength;
  for (let index = 0; index < length; index++) {
    const difference = a[aStart + index]! - b[bStart + index]!;
    if (difference !== 0) return difference;
  }
  return aLength - bLength;
}

export function isWithin(
  key: Uint8Array,
  keyLength: number,
  low: Uint8Array | undefined,
  lowInclusive: boolean,
  high: Uint8Array | undefined,
  highInclusive: boolean,
): boolean {
  if (low !== undefined) {
    const order = compareBytes(key, 0, keyLength, low, 0, low.length);
    if (order < 0 || (order === 0 && !lowInclusive)) return false;
  }
  if (high !== undefined) {
    const order = compareBytes(key, 0, keyLength, high, 0, high.length);
    if (order > 0 || (order === 0 && !highInclusive)) return false;
  }
  return true;
}
