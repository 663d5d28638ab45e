/**
 * The copy-on-write B+Tree's writer: versions, puts, deletes, range deletes, sweeps. The tree itself is shape/, in layers.
 *
 * A key's versions stand together, newest first. An update replaces the old version unless an open snapshot S has old ≤ S < new.
 * A delete removes the key unless an older version must stay; then a tombstone hides it. One that may show before its publication leaves a tombstone
 * that hides nothing (buryCell()): it saves copies, and stands for no entry. A run of versions may reach into the next
 * leaf; operations prune what stands in their own leaf and leave the rest to sweep().
 *
 * If an operation throws ERR_MEMORY_FULL, nothing has changed. Deletes, range deletes and sweeps may use the arena's reserve.
 * Source bytes may lie in shared memory. Threads: the shard thread only. Publish with publishTrees() of meta.ts.
 */
import { readU32LE, writeU32LE } from '../../shared/codec/fixed.js';
import { ConcordError, invalidArgument } from '../../shared/errors.js';
import type { ArenaWriter } from '../../shared/memory/arena.js';
import { SEGMENT_UNIT_MASK, SEGMENT_UNIT_SHIFT, UNIT_BYTES, UNIT_SHIFT } from '../../shared/memory/arena.js';
import {
  EngineCode,
  FREE_TAG,
  type EngineMetrics,
  type EngineWriter,
  type RemoveRangeResult,
  type SweepState,
  type VersionVisit,
  spaceIdOfTag,
} from '../engine.js';
import { BulkLoader } from './bulk.js';
import { checkTree } from './check.js';
import { countLive } from './live-counts.js';
import { TreeTable, type TreeContents, type TreeCounts } from './meta.js';
import { OverflowWriter, type OverflowChain } from './overflow.js';
import {
  COUNT_HALFWORD,
  CellFlag,
  KEY_BYTES_MAX,
  VALUE_BYTES_MAX,
  cellExpiresAt,
  cellLengthsAt,
  childrenWord,
  copyBytes,
  leafOffsetsHalfword,
  readSeq,
  readVarint,
  skipVarint,
} from './page.js';
import { searchLeaf } from './search.js';
import { countPages, newPageMix, type PageMix } from './page-mix.js';
import { PageSizer } from './page-sizer.js';
import { COLD, type PagedRoot } from './paged/format.js';
import { Pager } from './paged/pager.js';
import { pagingOf } from './paged/paging.js';
import { TreeChains } from './shape/tree-chains.js';

export interface BTreeOptions {
  /** 3 … 1000: children of a branch, entries of a leaf. Default: by page size only. */
  readonly order?: number;
  /** 4096, 8192, 16384, 32768, or 'adaptive': by the sizes of the entries, which is the default. */
  readonly pageBytes?: number | 'adaptive';
  /** Of a new tree's row, see rowTag(). Default 0. */
  readonly tag?: number;
  /** Bytes of memory above which leaves are kept in a page file only. Default: no limit. Needs attachPaging(). */
  readonly budgetBytes?: number;
}

export interface BulkEntry {
  readonly key: Uint8Array;
  readonly value: Uint8Array;
  readonly seq: number;
  /** ms since the epoch; 0 or left out: never. */
  readonly expiresAt?: number;
}

const NO_BYTES = new Uint8Array(0);
const NO_SNAPSHOTS = new Float64Array(0);
const EMPTY: TreeContents = {
  rootUnit: 0,
  height: 0,
  cells: 0,
  liveEntries: 0,
  liveKeyBytes: 0,
  liveValueBytes: 0,
  leafPages: 0,
  branchPages: 0,
  treeUnits: 0,
  overflowPages: 0,
  overflowUnits: 0,
  mayExpire: false,
};
/**
 * Longer values go to chains. In pages of 4 and 8 KiB that makes puts of them twice as fast as larger pages would, at the price of up to half a page.
 */
const INLINE_VALUE_BYTES_SMALL = 2048;
const INLINE_VALUE_BYTES_LARGE = 4064;
/** Entries that a range delete looks at per entry that it may remove: tombstones in the range cost time too. */
const RANGE_VISITS_PER_REMOVAL = 8;

export class BTreeWriter extends TreeChains implements EngineWriter {
  readonly code = EngineCode.btree;
  readonly row: number;
  tag: number;
  readonly order: number;
  /** Of the live version that the last put or del replaced; 0 and 0 if there was none or it does not expire. */
  replacedExpiresAt = 0;
  replacedSeq = 0;
  /** Of what versionOf() found, 0: none. */
  foundExpiresAt = 0;

  #mayExpire = false;

  #snapshots: Float64Array = NO_SNAPSHOTS;
  #snapshotCount = 0;

  /** A checkpoint has named the tree, and not yet its root. */
  isAwaitingRoot = false;

  readonly #unitBytes = new Uint8Array(4);
  readonly #scratchKey = new Uint8Array(KEY_BYTES_MAX);
  readonly #visitValue = new Uint8Array(INLINE_VALUE_BYTES_LARGE);
  readonly #visitBases: number[] = [];
  readonly #visitCells: number[] = [];

  /** Opens the tree as it was last published in this arena; options count for a tree that is new. */
  constructor(arena: ArenaWriter, rowIndex: number, options: BTreeOptions = {}) {
    const table = TreeTable.of(arena);
    const row = table.row(rowIndex);
    const isNew = row.rootUnit === 0 && row.cells === 0;
    const order = isNew ? (options.order ?? row.order) : row.order;
    const given = isNew ? (options.pageBytes ?? (row.tag === FREE_TAG ? 'adaptive' : undefined)) : undefined;
    const isAdaptive = given === undefined ? row.isAdaptive === true : given === 'adaptive';
    const pageBytes = typeof given === 'number' ? given : row.pageBytes;
    if (order !== 0 && !(Number.isInteger(order) && order >= 3 && order <= 1000)) {
      throw invalidArgument(`order must be an integer from 3 to 1000, not ${order}`);
    }
    if (pageBytes !== 4096 && pageBytes !== 8192 && pageBytes !== 16384 && pageBytes !== 32768) {
      throw invalidArgument(`pageBytes must be 4096, 8192, 16384, 32768 or 'adaptive', not ${String(pageBytes)}`);
    }
    const hasSmallPages = pageBytes === UNIT_BYTES || isAdaptive;
    const inlineValueBytesMax = hasSmallPages ? INLINE_VALUE_BYTES_SMALL : INLINE_VALUE_BYTES_LARGE;
    super(arena, order, new PageSizer(pageBytes, isAdaptive), inlineValueBytesMax);
    this.row = rowIndex;
    this.tag = row.tag === FREE_TAG ? (options.tag ?? 0) : row.tag;
    this.order = order;
    const paging = pagingOf(arena);
    const hasPager = paging !== undefined && (options.budgetBytes !== undefined || row.isPaged === true);
    const isCounted = hasPager || (!arena.isAdopted && row.cells === row.liveEntries);
    if (isCounted) this.#hold(row);
    else {
      const live = countLive(arena, row, (leaf, count) => {
        arena.tombstonesIn[leaf] = count;
      });
      this.#hold({ ...row, ...live });
      this.tombstones = live.tombstones;
      this.tombstoneKeyBytes = live.tombstoneKeyBytes;
    }
    if (hasPager) {
      this.pager = new Pager(arena, paging, options.budgetBytes ?? Infinity);
      paging.trees.add(this);
      this.isAwaitingRoot = row.isPaged === true && row.height === 0;
      // The row may be older than the file.
      if (row.height > 0) this.pager.adopt(row);
    }
    table.attach(rowIndex, this);
  }

  /** The tree is another one from now on: one without tombstones. The mix is counted if it is not given. */
  #hold(contents: TreeContents, mix?: PageMix): void {
    this.rootUnit = contents.rootUnit;
    this.height = contents.height;
    this.cellCount = contents.cells;
    this.tombstones = 0;
    this.tombstoneKeyBytes = 0;
    this.liveEntries = contents.liveEntries;
    this.liveKeyBytes = contents.liveKeyBytes;
    this.liveValueBytes = contents.liveValueBytes;
    this.leafPages = contents.leafPages;
    this.branchPages = contents.branchPages;
    this.treeUnits = contents.treeUnits;
    this.overflowPages = contents.overflowPages;
    this.overflowUnits = contents.overflowUnits;
    this.#mayExpire = contents.mayExpire === true && contents.cells > 0;
    this.mix.leaves.fill(0);
    this.mix.branches.fill(0);
    if (mix !== undefined) {
      this.mix.leaves.set(mix.leaves);
      this.mix.branches.set(mix.branches);
    } else if (this.height > 0) countPages(this.arena, this.rootUnit, this.height - 1, this.mix);
    this.isMeasured = this.height === 0;
    this.fingerValid = false;
  }

  /** The open snapshots, ascending; the array is kept, not copied. An old version is kept while one of them needs it. */
  setSnapshots(sorted: Float64Array, count: number): void {
    this.#snapshots = sorted;
    this.#snapshotCount = count;
  }

  /** Overwrites and deletes may show before the publication unless the group's operations must show together. */
  beginGroup(_publishedSeq: number, isAtomic: boolean): void {
    this.overwritesInPlace = !isAtomic;
  }

  /** Pages that only readers of older publications need are the arena's to free; leaves beyond the budget go. */
  endGroup(): void {
    const { pager } = this;
    if (pager === undefined) return;
    if (this.height === 1) this.#relieveRoot(pager);
    else if (pager.trim(this.counts())) this.fingerValid = false;
  }

  counts(): TreeCounts {
    return {
      rootUnit: this.rootUnit,
      height: this.height,
      order: this.order,
      pageBytes: UNIT_BYTES << this.sizer.leafClass,
      liveEntries: this.liveEntries,
      liveKeyBytes: this.liveKeyBytes,
      liveValueBytes: this.liveValueBytes,
      cells: this.cellCount,
      leafPages: this.leafPages,
      branchPages: this.branchPages,
      overflowPages: this.overflowPages,
      treeUnits: this.treeUnits,
      overflowUnits: this.overflowUnits,
      isAdaptive: this.sizer.isAdaptive,
      mayExpire: this.#mayExpire,
      isPaged: this.isAwaitingRoot || (this.height > 0 && this.pager?.isOpen === true),
      tag: this.tag,
    };
  }

  // ---- operations ---------------------------------------------------------------------------------------------------------------

  /** True if a live version existed. seq must be above that of every version of the key. */
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
    if (valueLength > this.inlineValueBytesMax) {
      const chain = this.writeChain(value, valueStart, valueLength);
      try {
        return this.putOverflow(key, keyStart, keyLength, chain, seq, expiresAt);
      } catch (error) {
        OverflowWriter.discard(this.arena, chain);
        throw error;
      }
    }
    return this.#put(0, key, keyStart, keyLength, valueLength, value, valueStart, valueLength, seq, expiresAt);
  }

  /** Puts a value that an OverflowWriter of the same arena has written. The tree owns the chain from then on, unless it throws. */
  putOverflow(
    key: Uint8Array,
    keyStart: number,
    keyLength: number,
    chain: OverflowChain,
    seq: number,
    expiresAt: number,
  ): boolean {
    const bytes = this.#unitBytes;
    writeU32LE(bytes, 0, chain.firstUnit);
    const existed = this.#put(
      CellFlag.Overflow,
      key,
      keyStart,
      keyLength,
      chain.totalBytes,
      bytes,
      0,
      4,
      seq,
      expiresAt,
    );
    this.arena.stagedUnits -= chain.units;
    this.overflowPages += chain.pages;
    this.overflowUnits += chain.units;
    return existed;
  }

  /** True if a live version existed. */
  del(key: Uint8Array, keyStart: number, keyLength: number, seq: number): boolean {
    this.replacedExpiresAt = 0;
    this.replacedSeq = 0;
    if (this.height === 0) return false;
    const arena = this.arena;
    const before = arena.reserveMode;
    arena.reserveMode = true;
    try {
      return this.#del(key, keyStart, keyLength, seq);
    } finally {
      arena.reserveMode = before;
    }
  }

  /** Sequence of the live version in the unpublished state, 0 if the key is absent or expired at atMs (0: no expiry is judged). */
  versionOf(key: Uint8Array, keyStart: number, keyLength: number, atMs: number): number {
    this.foundExpiresAt = 0;
    if (this.height === 0) return 0;
    const position = this.locate(key, keyStart, keyLength, Infinity);
    let u8 = this.u8;
    let cell: number;
    if (position >= 0) cell = this.cellAt(position);
    else {
      const unit = ~position === this.leafCount() ? this.#nextLeafOf(key, keyStart, keyLength) : 0;
      if (unit === 0) return 0;
      u8 = this.arena.u8[unit >>> SEGMENT_UNIT_SHIFT]!;
      cell = this.#firstCellOf(unit);
    }
    if ((u8[cell]! & CellFlag.Tombstone) !== 0) return 0;
    const expiresAt = cellExpiresAt(u8, cell);
    if (expiresAt !== 0 && atMs !== 0 && expiresAt <= atMs) return 0;
    this.foundExpiresAt = expiresAt;
    return readSeq(u8, cell + 1);
  }

  /**
   * Deletes live keys from low to high, at most `limit` of them: a slice of a range delete, which becomes visible as one. Undefined bounds
   * are open. All deletes of a slice may share one seq.
   */
  removeRange(
    low: Uint8Array | undefined,
    lowInclusive: boolean,
    high: Uint8Array | undefined,
    highInclusive: boolean,
    limit: number,
    seq: number,
  ): RemoveRangeResult {
    const before = this.overwritesInPlace;
    this.overwritesInPlace = false;
    try {
      return this.#removeRange(low, lowInclusive, high, highInclusive, limit, seq);
    } finally {
      this.overwritesInPlace = before;
    }
  }

  #removeRange(
    low: Uint8Array | undefined,
    lowInclusive: boolean,
    high: Uint8Array | undefined,
    highInclusive: boolean,
    limit: number,
    seq: number,
  ): RemoveRangeResult {
    const key = this.#scratchKey;
    let keyLength = 0;
    // (key, -1) stands behind all versions of the key: the search finds the next key.
    let fromSeq = -1;
    if (low === undefined) fromSeq = Infinity;
    else {
      key.set(low);
      keyLength = low.length;
      if (lowInclusive) fromSeq = Infinity;
    }
    let removed = 0;
    let visits = limit * RANGE_VISITS_PER_REMOVAL + 64;
    while (this.height > 0) {
      let position = this.locate(key, 0, keyLength, fromSeq);
      if (position < 0) position = ~position;
      if (position === this.leafCount()) {
        if (!this.moveToNextLeaf()) break;
        position = 0;
      }
      const cell = this.cellAt(position);
      keyLength = this.copyKey(position, key);
      fromSeq = -1;
      if (high !== undefined) {
        const order = compareBytes(key, 0, keyLength, high);
        if (order > 0 || (order === 0 && !highInclusive)) break;
      }
      if (removed >= limit || visits-- <= 0) return { removed, done: false, resumeKey: key.slice(0, keyLength) };
      if ((this.u8[cell]! & CellFlag.Tombstone) === 0 && this.del(key, 0, keyLength, seq)) removed++;
    }
    return { removed, done: true, resumeKey: undefined };
  }

  /**
   * Removes versions and tombstones that nothing needs any more and merges underfull leaves, over at most `pageBudget` leaves.
   * Ends with state.done. A tombstone whose last older version goes in the same pass may stay until the next one.
   */
  sweep(state: SweepState, pageBudget: number): void {
    const arena = this.arena;
    const before = arena.reserveMode;
    arena.reserveMode = true;
    try {
      for (let pages = 0; pages < pageBudget && !state.done; pages++) {
        if (this.height === 0) {
          state.done = true;
          break;
        }
        const key = state.resumeKey ?? NO_BYTES;
        this.descend(key, 0, key.length, state.resumeKey === undefined ? Infinity : state.resumeSeq);
        const next = this.rightSeparator();
        state.removedCells += this.#sweepLeaf();
        state.resumeKey = next?.key;
        state.resumeSeq = next?.seq ?? Infinity;
        state.done = next === undefined;
      }
    } finally {
      arena.reserveMode = before;
    }
  }

  /** Fills an empty tree from entries in ascending key order, to full pages. On a throw the tree is empty as before. */
  bulkLoad(entries: Iterable<BulkEntry>): void {
    const loader = this.bulkLoader();
    try {
      for (const entry of entries) {
        const { key, value, seq, expiresAt } = entry;
        loader.add(key, 0, key.length, value, 0, value.length, seq, expiresAt ?? 0);
      }
      loader.finish();
    } catch (error) {
      loader.abort();
      throw error;
    }
  }

  /** The same in steps: publications of other trees may come between. The tree must be empty, and stay so until finish(). */
  bulkLoader(): BulkLoader {
    if (this.height !== 0) throw invalidArgument('bulk load needs an empty tree');
    return new BulkLoader(this.arena, this.sizer, this.entriesMax, this.inlineValueBytesMax, (result) => {
      if (this.height !== 0) throw new ConcordError('ERR_INTERNAL', 'the tree was changed during its bulk load');
      this.#hold(result.contents, result.mix);
    });
  }

  /** Drops everything at once: no versions are kept for snapshots. */
  clear(): void {
    const arena = this.arena;
    if (this.height > 0) this.#releaseSubtree(this.rootUnit, this.height - 1);
    this.#hold(EMPTY);
    this.extent.cellBytesMax = 0;
    this.extent.separatorBytesMax = 0;
    this.pager?.drop();
    this.isAwaitingRoot = false;
    arena.reclaim();
  }

  /** Bytes by kind. */
  memory(): Readonly<Record<string, number>> {
    const { pager } = this;
    const coldTreeUnits = pager?.coldTreeUnits ?? 0;
    const coldOverflowUnits = pager?.coldOverflowUnits ?? 0;
    return {
      leafBytes: (unitsOf(this.mix.leaves) - coldTreeUnits) * UNIT_BYTES,
      branchBytes: unitsOf(this.mix.branches) * UNIT_BYTES,
      overflowBytes: (this.overflowUnits - coldOverflowUnits) * UNIT_BYTES,
      ...(pager === undefined ? {} : { coldBytes: (coldTreeUnits + coldOverflowUnits) * UNIT_BYTES }),
    };
  }

  metrics(): EngineMetrics {
    const { leaves, branches } = this.mix;
    return {
      ...this.events,
      /** Of new leaves and branches. */
      leafPageBytes: UNIT_BYTES << this.sizer.leafClass,
      branchPageBytes: UNIT_BYTES << this.sizer.branchClass,
      leaves4KiB: leaves[0]!,
      leaves8KiB: leaves[1]!,
      leaves16KiB: leaves[2]!,
      leaves32KiB: leaves[3]!,
      branches4KiB: branches[0]!,
      branches8KiB: branches[1]!,
      branches16KiB: branches[2]!,
      branches32KiB: branches[3]!,
      ...this.pager?.metrics(),
    };
  }

  /** Problems found, empty when sound. Walks everything. */
  check(): string[] {
    const { problems } = checkTree(this.arena, this.counts());
    if (problems.length === 0 && this.pager === undefined) {
      const { tombstones, tombstoneKeyBytes } = countLive(this.arena, this.counts(), (leaf, count) => {
        const noted = this.arena.tombstonesIn[leaf]!;
        if (noted !== count) problems.push(`leaf at unit ${leaf}: noted ${noted} tombstones, counted ${count}`);
      });
      if (tombstones !== this.tombstones || tombstoneKeyBytes !== this.tombstoneKeyBytes)
        problems.push(
          `noted ${this.tombstones} tombstones with keys of ${this.tombstoneKeyBytes} bytes, counted ${tombstones} of ${tombstoneKeyBytes}`,
        );
    }
    const counted = newPageMix();
    if (problems.length === 0 && this.height > 0) countPages(this.arena, this.rootUnit, this.height - 1, counted);
    for (const kind of ['leaves', 'branches'] as const) {
      if (problems.length === 0 && counted[kind].some((pages, pageClass) => pages !== this.mix[kind][pageClass]))
        problems.push(`${kind} by class: noted ${this.mix[kind].join()}, counted ${counted[kind].join()}`);
    }
    return problems;
  }

  /** Shows versions in key order, oldest first within a key. A position is the key to go on from, inclusive. */
  visitVersions(position: Uint8Array | undefined, budget: number, visit: VersionVisit): Uint8Array | undefined {
    if (this.height === 0) return undefined;
    const key = this.#scratchKey;
    const bases = this.#visitBases;
    const cells = this.#visitCells;
    const from = position ?? NO_BYTES;
    let at = this.locate(from, 0, from.length, Infinity);
    if (at < 0) at = ~at;
    for (let shown = 0; ; shown += cells.length) {
      if (at === this.leafCount()) {
        if (!this.moveToNextLeaf()) return undefined;
        at = 0;
      }
      const keyLength = this.copyKey(at, key);
      if (shown >= budget) return key.slice(0, keyLength);
      // Newest first, as they stand; over the leaf's end if they go on there.
      bases.length = 0;
      cells.length = 0;
      for (let more = true; more;) {
        bases.push(this.unit[0]!);
        cells.push(this.cellAt(at));
        if (++at < this.leafCount()) more = this.sameKeyAsNext(at - 1);
        else {
          // Older versions may be gone from the next leaf, and the separator still be the one that cut them off.
          more = this.#continuesInNextLeaf(at, key, 0, keyLength) && this.moveToNextLeaf();
          if (more) at = 0;
        }
      }
      for (let index = cells.length - 1; index >= 0; index--)
        this.#visit(this.arena.u8[bases[index]! >>> SEGMENT_UNIT_SHIFT]!, cells[index]!, keyLength, visit);
    }
  }

  #visit(u8: Uint8Array, cell: number, keyLength: number, visit: VersionVisit): void {
    const flags = u8[cell]!;
    const lengthsAt = cellLengthsAt(u8, cell);
    const valueLength = readVarint(u8, lengthsAt);
    const suffixLengthAt = skipVarint(u8, lengthsAt);
    const body = skipVarint(u8, suffixLengthAt) + readVarint(u8, suffixLengthAt);
    let value: Uint8Array = this.#visitValue;
    if ((flags & CellFlag.Overflow) === 0) copyBytes(u8, body, valueLength, value, 0);
    else value = this.assembleChain(readU32LE(u8, body), valueLength);
    const seq = readSeq(u8, cell + 1);
    const isTombstone = (flags & CellFlag.Tombstone) !== 0;
    visit(this.#scratchKey, keyLength, value, valueLength, seq, cellExpiresAt(u8, cell), isTombstone);
  }

  isBefore(key: Uint8Array, keyStart: number, keyLength: number, position: Uint8Array): boolean {
    return compareBytes(key, keyStart, keyLength, position) < 0;
  }

  /** Gives everything back and empties the row. */
  destroy(): void {
    this.clear();
    this.pager?.destroy();
    pagingOf(this.arena)?.trees.delete(this);
    TreeTable.of(this.arena).detach(this.row);
  }

  /** The key's leaf, and the next one where versions go on there. */
  fetch(key: Uint8Array, keyStart: number, keyLength: number): void {
    if (this.pager === undefined || this.height < 2) return;
    const position = this.locate(key, keyStart, keyLength, Infinity);
    if ((position < 0 ? ~position : position) + 1 >= this.leafCount() && this.separatorHasSeq(1)) this.neighbourLeaf(1);
  }

  // ---- a tree with a page file --------------------------------------------------------------------------------------------------

  /** Takes the state that a checkpoint names. The caller publishes. @throws ERR_CORRUPT, ERR_MEMORY_FULL, ERR_IO */
  loadRoot(root: PagedRoot): void {
    const { row } = root;
    const rootUnit = this.pager!.load(root);
    this.#hold({ ...row, rootUnit });
    this.isAwaitingRoot = false;
  }

  /** A root leaf cannot go to the file and come back: its chains go without it. The caller publishes. @throws ERR_DISK_FULL, ERR_IO */
  prepareCapture(): void {
    if (this.height === 1 && this.overflowPages > 0 && this.pager?.isOpen === true) this.moveRootChains();
  }

  /** As prepareCapture(), where the root leaf's chains are more than the budget. */
  #relieveRoot(pager: Pager): void {
    if (this.overflowPages === 0 || !pager.isOverBudget(this.counts())) return;
    try {
      this.moveRootChains();
    } catch (error) {
      // A disk that is full keeps a checkpoint from being made, nothing else.
      if (!(error instanceof ConcordError) || error.code === 'ERR_INTERNAL') throw error;
    }
  }

  /** See Pager.writeDirty(). @throws ERR_DISK_FULL, ERR_IO */
  writeDirty(pagesMax: number): boolean {
    this.fingerValid = false;
    return this.pager?.writeDirty(this.counts(), pagesMax) ?? true;
  }

  /** See Pager.capture(). @throws ERR_DISK_FULL, ERR_IO */
  capture(): { readonly root: PagedRoot; readonly generation: number } | undefined {
    this.fingerValid = false;
    const counts = this.counts();
    return this.pager?.capture(counts, spaceIdOfTag(this.tag), counts);
  }

  // ---- versions -----------------------------------------------------------------------------------------------------------------

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
    this.replacedExpiresAt = 0;
    this.replacedSeq = 0;
    if (keyLength > KEY_BYTES_MAX)
      throw new ConcordError('ERR_KEY_TOO_LARGE', `key of ${keyLength} bytes, limit ${KEY_BYTES_MAX}`);
    if (valueLength > VALUE_BYTES_MAX) {
      throw new ConcordError('ERR_VALUE_TOO_LARGE', `value of ${valueLength} bytes, limit ${VALUE_BYTES_MAX}`);
    }
    this.#setCell(flags, key, keyStart, keyLength, valueLength, body, bodyStart, bodyLength, seq);
    if (expiresAt !== 0) {
      this.cellFlags = flags | CellFlag.Expiry;
      this.cellExpiresAt = expiresAt;
      this.#mayExpire = true;
    }
    if (this.height === 0) {
      this.ensureRoom(keyLength + bodyLength + 16, this.arena.reserveMode);
      this.extent.cellBytesMax = Math.max(this.extent.cellBytesMax, keyLength + bodyLength);
      this.#mayExpire = expiresAt !== 0;
      this.plantRoot();
      this.#countLive(1, keyLength, valueLength);
      return false;
    }
    let found = this.locate(key, keyStart, keyLength, Infinity);
    if (this.ensureRoom(keyLength + bodyLength + 16, this.arena.reserveMode, true))
      found = this.locate(key, keyStart, keyLength, Infinity);
    if (keyLength + bodyLength > this.extent.cellBytesMax) this.extent.cellBytesMax = keyLength + bodyLength;
    if (found < 0) {
      const position = ~found;
      const next = position === this.leafCount() ? this.#nextLeafOf(key, keyStart, keyLength) : 0;
      const oldLength = next === 0 ? -1 : this.#noteReplacedIn(next);
      const existed = oldLength >= 0;
      if (existed) this.#countLive(0, 0, valueLength - oldLength);
      else this.#countLive(1, keyLength, valueLength);
      this.insertCell(position, false);
      return existed;
    }
    const cell = this.cellAt(found);
    const existed = (this.u8[cell]! & CellFlag.Tombstone) === 0;
    if (existed) {
      this.#countLive(0, 0, valueLength - readVarint(this.u8, cellLengthsAt(this.u8, cell)));
      this.#noteReplaced(this.u8, cell);
    } else this.#countLive(1, keyLength, valueLength);
    const single = found + 1 === this.leafCount() || !this.sameKeyAsNext(found);
    if (single && !this.#isNeeded(readSeq(this.u8, cell + 1), seq)) {
      if ((this.u8[cell]! & CellFlag.Overflow) !== 0) this.releaseChainOf(cell);
      this.insertCell(found, true);
      return existed;
    }
    if (!single || this.#snapshotCount > 0) this.#pruneVersions(found, seq);
    this.insertCell(found, false);
    return existed;
  }

  #del(key: Uint8Array, keyStart: number, keyLength: number, seq: number): boolean {
    const found = this.locate(key, keyStart, keyLength, Infinity);
    if (found < 0) {
      const position = ~found;
      const next = position === this.leafCount() ? this.#nextLeafOf(key, keyStart, keyLength) : 0;
      if (next === 0) return false;
      const valueLength = this.#noteReplacedIn(next);
      if (valueLength < 0) return false;
      this.ensureRoom(keyLength + 16, true);
      this.#countLive(-1, -keyLength, -valueLength);
      this.#setCell(CellFlag.Tombstone, key, keyStart, keyLength, 0, NO_BYTES, 0, 0, seq);
      this.insertCell(position, false);
      return true;
    }
    const cell = this.cellAt(found);
    if ((this.u8[cell]! & CellFlag.Tombstone) !== 0) return false;
    const maySurvive = !this.isLastVersion(found) || this.#isNeeded(readSeq(this.u8, cell + 1), seq);
    this.ensureRoom(maySurvive ? keyLength + 16 : 0, true);
    const valueLength = readVarint(this.u8, cellLengthsAt(this.u8, cell));
    if (this.overwritesInPlace && !maySurvive) {
      this.#setCell(CellFlag.Tombstone, key, keyStart, keyLength, 0, NO_BYTES, 0, 0, seq);
      if (this.buryCell(found)) {
        this.#countLive(-1, -keyLength, -valueLength);
        return true;
      }
    }
    this.#countLive(-1, -keyLength, -valueLength);
    this.#noteReplaced(this.u8, cell);
    const position = this.makeWritableAndPack(found);
    const left = this.#pruneVersions(position, seq);
    if (left > 0 || this.#continuesInNextLeaf(position, key, keyStart, keyLength)) {
      this.#setCell(CellFlag.Tombstone, key, keyStart, keyLength, 0, NO_BYTES, 0, 0, seq);
      this.insertCell(position, false);
    } else {
      this.settleLeaf();
    }
    return true;
  }

  /**
   * Removes the versions of the key at the position that are not needed below a new version `seq`; returns how many stay in this
   * leaf. Versions after a kept one are judged against that one.
   */
  #pruneVersions(position: number, seq: number): number {
    this.makeWritable(0);
    let newer = seq;
    let kept = 0;
    let more = true;
    while (more) {
      const at = position + kept;
      more = at + 1 < this.leafCount() && this.sameKeyAsNext(at);
      const cell = this.cellAt(at);
      const version = readSeq(this.u8, cell + 1);
      if (this.#isNeeded(version, newer)) {
        newer = version;
        kept++;
      } else {
        this.#dropCell(at);
      }
    }
    return kept;
  }

  #dropCell(position: number): void {
    const cell = this.cellAt(position);
    if ((this.u8[cell]! & CellFlag.Overflow) !== 0) this.releaseChainOf(cell);
    this.removeCell(position);
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

  /** Whether versions of the key, of which none is at or after the position in this leaf, stand in the next one. */
  #continuesInNextLeaf(position: number, key: Uint8Array, keyStart: number, keyLength: number): boolean {
    if (position < this.leafCount() || !this.separatorHasSeq(1)) return false;
    const unit = this.neighbourLeaf(1);
    return unit !== 0 && this.#searchIn(unit, key, keyStart, keyLength) >= 0;
  }

  /** The next leaf, if it begins with the newest version of the key, which then is not in this leaf; else 0. */
  #nextLeafOf(key: Uint8Array, keyStart: number, keyLength: number): number {
    const unit = this.separatorHasSeq(1) ? this.neighbourLeaf(1) : 0;
    return unit !== 0 && this.#searchIn(unit, key, keyStart, keyLength) === 0 ? unit : 0;
  }

  /** Length of the value that the leaf's first cell holds, -1 if it is a tombstone; else it is noted as replaced. */
  #noteReplacedIn(unit: number): number {
    const u8 = this.arena.u8[unit >>> SEGMENT_UNIT_SHIFT]!;
    const cell = this.#firstCellOf(unit);
    if ((u8[cell]! & CellFlag.Tombstone) !== 0) return -1;
    this.#noteReplaced(u8, cell);
    return readVarint(u8, cellLengthsAt(u8, cell));
  }

  #noteReplaced(u8: Uint8Array, cell: number): void {
    if ((u8[cell]! & CellFlag.Expiry) === 0) return;
    this.replacedExpiresAt = cellExpiresAt(u8, cell);
    this.replacedSeq = readSeq(u8, cell + 1);
  }

  #searchIn(unit: number, key: Uint8Array, keyStart: number, keyLength: number): number {
    const { u8, u16, u32 } = this.arena;
    const segment = unit >>> SEGMENT_UNIT_SHIFT;
    const base = (unit & SEGMENT_UNIT_MASK) << UNIT_SHIFT;
    return searchLeaf(u8[segment]!, u16[segment]!, u32[segment]!, base, key, keyStart, keyLength, Infinity);
  }

  #firstCellOf(unit: number): number {
    const u16 = this.arena.u16[unit >>> SEGMENT_UNIT_SHIFT]!;
    const base = (unit & SEGMENT_UNIT_MASK) << UNIT_SHIFT;
    return base + u16[leafOffsetsHalfword(u16, base)]!;
  }

  /** Prunes the path's leaf and settles it. Returns the number of cells removed. */
  #sweepLeaf(): number {
    const count = this.leafCount();
    // Versions of the first key may stand in the leaf before: its last one is then the next newer.
    let newer = this.#newerInLeafBefore();
    const drops: number[] = [];
    let lastKept: number[] = [];
    const endGroup = (continues: boolean): void => {
      // Tombstones with nothing older below them hide nothing.
      while (!continues && lastKept.length > 0) {
        const at = lastKept[lastKept.length - 1]!;
        if ((this.u8[this.cellAt(at)]! & CellFlag.Tombstone) === 0) break;
        lastKept.pop();
        drops.push(at);
      }
      lastKept = [];
    };
    for (let position = 0; position < count; position++) {
      if (position > 0 && !this.sameKeyAsNext(position - 1)) {
        endGroup(false);
        newer = -1;
      }
      const version = readSeq(this.u8, this.cellAt(position) + 1);
      if (newer === -1 || this.#isNeeded(version, newer)) {
        lastKept.push(position);
        newer = version;
      } else {
        drops.push(position);
      }
    }
    const keyLength = this.copyKey(count - 1, this.#scratchKey);
    endGroup(this.#continuesInNextLeaf(count, this.#scratchKey, 0, keyLength));
    if (drops.length > 0) {
      this.ensureRoom(0, true);
      this.makeWritable(0);
      drops.sort((a, b) => b - a);
      for (const position of drops) this.#dropCell(position);
    } else {
      this.frugal = false;
      this.ensureRoom(0, true);
    }
    this.settleLeaf();
    return drops.length;
  }

  /** Seq of the version of the leaf's first key that stands last in the leaf before; -1 if there is none. */
  #newerInLeafBefore(): number {
    if (!this.separatorHasSeq(-1)) return -1;
    const unit = this.neighbourLeaf(-1);
    const keyLength = this.copyKey(0, this.#scratchKey);
    const { u8, u16, u32 } = this.arena;
    const segment = unit >>> SEGMENT_UNIT_SHIFT;
    const base = (unit & SEGMENT_UNIT_MASK) << UNIT_SHIFT;
    const found = searchLeaf(
      u8[segment]!,
      u16[segment]!,
      u32[segment]!,
      base,
      this.#scratchKey,
      0,
      keyLength,
      Infinity,
    );
    if (found < 0) return -1;
    const last = u16[segment]![(base >>> 1) + COUNT_HALFWORD]! - 1;
    return readSeq(u8[segment]!, base + u16[segment]![leafOffsetsHalfword(u16[segment]!, base) + last]! + 1);
  }

  // ---- small parts --------------------------------------------------------------------------------------------------------------

  #setCell(
    flags: number,
    key: Uint8Array,
    keyStart: number,
    keyLength: number,
    valueLength: number,
    body: Uint8Array,
    bodyStart: number,
    bodyLength: number,
    seq: number,
  ): void {
    this.cellFlags = flags;
    this.cellSeq = seq;
    this.cellKey = key;
    this.cellKeyStart = keyStart;
    this.cellKeyLength = keyLength;
    this.cellValueLength = valueLength;
    this.cellBody = body;
    this.cellBodyStart = bodyStart;
    this.cellBodyLength = bodyLength;
  }

  #countLive(entries: number, keyBytes: number, valueBytes: number): void {
    this.liveEntries += entries;
    this.liveKeyBytes += keyBytes;
    this.liveValueBytes += valueBytes;
  }

  #releaseSubtree(unit: number, level: number): void {
    const { u8, u16, u32 } = this.arena;
    const segment = unit >>> SEGMENT_UNIT_SHIFT;
    const base = (unit & SEGMENT_UNIT_MASK) << UNIT_SHIFT;
    const count = u16[segment]![(base >>> 1) + COUNT_HALFWORD]!;
    if (level > 0) {
      const children = childrenWord(u16[segment]!, base);
      for (let index = 0; index < count; index++) {
        const child = u32[segment]![children + index]!;
        if (child < COLD) this.#releaseSubtree(child, level - 1);
      }
    } else if (this.overflowPages > 0) {
      this.unit[0] = unit;
      this.loadLeaf();
      for (let index = 0; index < count; index++) {
        const cell = this.cellAt(index);
        if ((u8[segment]![cell]! & CellFlag.Overflow) === 0) continue;
        // The page file goes as a whole.
        if (readU32LE(u8[segment]!, this.chainAt(cell)) < COLD) this.releaseChainOf(cell);
      }
    }
    this.arena.release(unit);
  }
}

/** Of pages counted by class. */
function unitsOf(pages: Int32Array): number {
  return pages[0]! + 2 * pages[1]! + 4 * pages[2]! + 8 * pages[3]!;
}

function compareBytes(a: Uint8Array, aStart: number, aLength: number, b: Uint8Array): number {
  const length = Math.min(aLength, b.length);
  for (let index = 0; index < length; index++) {
    const difference = a[aStart + index]! - b[index]!;
    if (difference !== 0) return difference;
  }
  return aLength - b.length;
}
