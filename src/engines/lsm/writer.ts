/**
 * The writer of an LSM-Tree: memtables in shared memory, tables in files, and the page that shows both.
 *
 *   put, del ──▶ active memtable ──full──▶ frozen ones ──flush──▶ tables of level 0 ──compactions──▶ tables further down
 *                     └───────────────────────┴──── state page ────────┴── version, range tombstones       one publication shows all of it
 *
 * Writes are blind: a put or del looks nothing up, so whether it replaced anything is not known, and counts are estimates. Deletes leave tombstones, a range
 * that is removed leaves one for all of it.
 *
 * A flush: the frozen memtable is read by a job from shared memory. Jobs of several memtables may run at a time; they are installed oldest first, so that
 * "everything up to storedSeq is in tables" is one number. What readers need of large tables is made ready in slices before. Then the memtable goes, behind its readers, and the log before it is not needed any more.
 *
 * The state page leads to all memtables that have a descriptor, newest first. Freezing changes nothing in it: to readers a frozen memtable is like any. A
 * new memtable is listed with its first operation, before anything is put into it.
 *
 * Failures. A job that failed is tried again, later each time, with new numbers of files. While a disk is full memtables wait, reads go on, and writes
 * meet the flow() of a tree that is behind. What the manifest refuses is not done; see manifest.ts.
 *
 * Without files (a store in memory, an engine by itself) there is one memtable that grows, deletes remove, and nothing of the rest exists.
 *
 * Threads: the shard's thread only.
 */
import { assert } from '../../shared/assert.js';
import { ConcordError, type ErrorRecord } from '../../shared/errors.js';
import { UNIT_BYTES, type ArenaWriter, type UnitId } from '../../shared/memory/arena.js';
import { publishedSeqOf, TreeTable } from '../btree/meta.js';
import type { OverflowChain } from '../btree/overflow.js';
import { KEY_BYTES_MAX } from '../btree/page.js';
import { compareBytes } from '../cells/node-writer.js';
import {
  BUILDING_SPACE_ID,
  EngineCode,
  FREE_TAG,
  rowTag,
  spaceIdOfTag,
  type EngineBackground,
  type EngineCounts,
  type EngineMetrics,
  type EngineTuning,
  type EngineWriter,
  type RemoveRangeResult,
  type SweepState,
  type VersionVisit,
} from '../engine.js';
import { MemtableWriter } from '../memtable/writer.js';
import { SHARD_READER_SLOT } from '../reader-slots.js';
import { lsmSiteOf, type AttachedTree, type LsmSite } from './attach.js';
import { Compactions } from './compactions.js';
import {
  pendingDebtBytes,
  readAmplification,
  spaceAmplification,
  writeAmplification,
  writeFlow,
} from './compaction/debt.js';
import { isQuietFlush } from './compaction/quiet.js';
import type { LevelFigures, LsmFigures } from './figures.js';
import { cancelJob, retryMs } from './job-control.js';
import { runFlush } from './jobs/flush.js';
import type { VersionEdit } from './manifest/manifest.js';
import { checkState } from './manifest/state.js';
import { buildState, readState, retireState } from './memory/state-page.js';
import { readVersion } from './memory/version-page.js';
import { resolveLsmOptions } from './options.js';
import { LsmCursor } from './read/cursor.js';
import { LsmFiles } from './read/files.js';
import { LsmReader } from './read/reader.js';
import { VersionWalk } from './read/version-walk.js';
import type { LsmRoot } from './root.js';
import { LsmTree } from './tree.js';
import {
  LSM_LEVELS,
  type FlushTask,
  type LsmJobResult,
  type LsmOptions,
  type LsmOutcome,
  type RangeTombstone,
  type WriteFlow,
} from './types.js';

/** Flushes of one tree that run at a time. */
const FLUSHES_MAX = 2;
/** Before all compactions. */
const FLUSH_PRIORITY = 1e6;
/** Failures in a row after which a tree whose memtables cannot be written takes no more writes. */
const FLUSH_ATTEMPTS_MAX = 12;
/** For the state page, and the descriptor of a memtable that is begun. */
const STATE_UNITS = 12;
/** Range tombstones of one memtable: every read asks all of them, and compactions get rid of those that the manifest knows. */
const ACTIVE_TOMBSTONES_MAX = 128;
/** Less than this is not worth a table, however little memory is left. */
const FREEZE_BYTES_MIN = 64 * 1024;
const NO_SNAPSHOTS = new Float64Array(0);

interface Frozen {
  readonly memtable: MemtableWriter;
  /** Every operation of the tree up to this number is here or in older ones. */
  readonly upToSeq: number;
  readonly firstLsn: number;
  readonly run: number;
  readonly memoryBytes: number;
  readonly counts: EngineCounts;
  job: { readonly cancel: Int32Array; readonly firstFile: number; readonly files: number } | undefined;
  outcome: LsmOutcome | undefined;
  result: LsmJobResult | undefined;
  attempts: number;
  retryAtMs: number;
}

interface FlushWaiter {
  /** Of the youngest memtable that it waits for. */
  readonly run: number;
  readonly done: (error?: Error) => void;
}

/** What files hold, for counts(). */
interface StoredCounts {
  readonly entries: number;
  readonly tombstones: number;
  readonly rawBytes: number;
}

const NOTHING_STORED: StoredCounts = { entries: 0, tombstones: 0, rawBytes: 0 };

export class LsmWriter implements EngineWriter, EngineBackground, AttachedTree {
  readonly code = EngineCode.lsm;
  readonly row: number;
  tag: number;
  foundExpiresAt = 0;
  readonly options: LsmOptions;
  readonly background?: EngineBackground;

  readonly #arena: ArenaWriter;
  readonly #table: TreeTable;
  readonly #site: LsmSite | undefined;
  readonly #compactions: Compactions;
  #tree: LsmTree | undefined;
  #active: MemtableWriter;
  #activeFirstLsn = Infinity;
  /** Range tombstones of its time. */
  #activeTombstones = 0;
  /** Oldest first. */
  #frozen: Frozen[] = [];
  /** Those that the manifest does not know yet. */
  #unflushed: RangeTombstone[] = [];
  /** What the next publication shows. */
  #state: UnitId = 0;
  #isActiveListed = false;
  #stored: StoredCounts = NOTHING_STORED;
  #storedOfVersion: UnitId = 0;
  #nextRun = 1;

  #snapshots: Float64Array = NO_SNAPSHOTS;
  #snapshotCount = 0;
  /** Something has changed since work() looked. */
  #isDirty = true;
  #isDiskFull = false;
  #isDestroyed = false;
  /** Of a destroyed tree: its entries are in another engine now; its directory is on its way out. */
  #wasMoved = false;
  /** Readers of before may read its files. */
  #goneEpoch = 0;
  #isGone = false;
  /** Nothing can be installed before: memory or disk were full. */
  #retryAtMs = 0;
  #installFailures = 0;
  readonly #waiters: FlushWaiter[] = [];
  #reader: LsmReader | undefined;
  #walk: VersionWalk | undefined;

  #userBytes = 0;
  #operations = 0;
  #flushes = 0;
  #flushedBytes = 0;
  #flushMs = 0;
  #failedJobs = 0;

  /** On the row as it was last published. @throws ERR_CORRUPT, ERR_IO, ERR_MEMORY_FULL, ERR_INVALID_ARG */
  constructor(arena: ArenaWriter, row: number, spaceId: number, tuning: EngineTuning) {
    this.#arena = arena;
    this.#table = TreeTable.of(arena);
    this.#site = lsmSiteOf(arena);
    this.row = row;
    this.options = resolveLsmOptions(tuning.lsm, arena.totalUnits * UNIT_BYTES);
    if (this.#site !== undefined) this.background = this;
    const before = this.#table.row(row);
    this.tag = before.tag === FREE_TAG ? rowTag(spaceId, EngineCode.lsm) : before.tag;
    this.#active = this.#newMemtable(0);
    this.#compactions = new Compactions(this.options, this.#site);
    this.#compactions.onEnd = () => {
      this.#isDirty = true;
      if (this.#isDestroyed) this.#jobEnded();
    };
    const counts = this.#table.attach(row, this);
    if (counts.rootUnit !== 0) this.#adopt(counts.rootUnit);
    this.#site?.trees.add(this);
  }

  #newMemtable(descriptor: UnitId): MemtableWriter {
    return new MemtableWriter(this.#arena, this.row, spaceIdOfTag(this.tag), {
      memtableBytes: this.options.memtableBytes,
      keepTombstones: this.#site !== undefined,
      descriptor,
    });
  }

  /** With files nothing is looked up, so nothing is known of what an operation replaced. */
  get replacedExpiresAt(): number {
    return this.#site === undefined ? this.#active.replacedExpiresAt : 0;
  }

  get replacedSeq(): number {
    return this.#site === undefined ? this.#active.replacedSeq : 0;
  }

  // ---- opening ----------------------------------------------------------------------------------------------------------------------

  /** What a dead writer has published. Its manifest may be a step ahead. */
  #adopt(stateUnit: UnitId): void {
    const arena = this.#arena;
    const site = this.#site;
    const state = readState(arena, stateUnit);
    const memtables = state.memtables.map((descriptor) => this.#newMemtable(descriptor)).reverse();
    if (site !== undefined && state.tree !== 0)
      this.#tree = LsmTree.open(site, state.tree, state.version, this.options.verifyBlocks);
    const { storedSeq } = this;
    const newest = memtables.at(-1);
    if (newest !== undefined && !newest.isFrozen) {
      this.#active = newest;
      memtables.pop();
      this.#activeFirstLsn = site?.adoptedFromLsn ?? Infinity;
    }
    this.#setNextRun();
    for (const memtable of memtables) {
      // In tables by an edit that was not published.
      if (memtable.largestSeq <= storedSeq) memtable.destroy();
      else this.#frozen.push(this.#frozenOf(memtable, memtable.largestSeq, site?.adoptedFromLsn ?? 0));
    }
    this.#unflushed = state.tombstones.filter(({ seq }) => seq > storedSeq);
    if (this.#unflushed.length > 0) this.#activeFirstLsn = Math.min(this.#activeFirstLsn, site?.adoptedFromLsn ?? 0);
    this.#activeTombstones = this.#unflushed.length;
    this.#state = stateUnit;
    this.#showState();
  }

  /** @throws ERR_CORRUPT, ERR_FORMAT_VERSION, ERR_IO, ERR_MEMORY_FULL */
  loadRoot(root: LsmRoot): void {
    const site = this.#site;
    assert(
      site !== undefined && this.#tree === undefined && this.#state === 0,
      'a tree is loaded into an empty writer',
    );
    const tree = LsmTree.open(site, root.tree, 0, this.options.verifyBlocks);
    this.#tree = tree;
    if (tree.state.storedSeq < root.storedSeq) {
      throw new ConcordError(
        'ERR_CORRUPT',
        `${tree.directory}: the manifest has stored ${tree.state.storedSeq}, and the checkpoint knew of ${root.storedSeq}`,
        { file: tree.directory, offset: 0 },
      );
    }
    this.#setNextRun();
    this.#showState();
  }

  tidy(): void {
    this.#tree?.deleteObsolete();
  }

  #setNextRun(): void {
    for (const { level, run } of this.#tree?.state.tables.values() ?? []) {
      if (level === 0 && run >= this.#nextRun) this.#nextRun = run + 1;
    }
  }

  get tree(): number {
    return this.#tree?.number ?? 0;
  }

  get storedSeq(): number {
    return this.#tree?.state.storedSeq ?? 0;
  }

  /** The highest number in tables: numbers go on behind it, whatever the log has lost. */
  get largestSeq(): number {
    let largest = this.storedSeq;
    for (const table of this.#tree?.state.tables.values() ?? []) largest = Math.max(largest, table.largestSeq);
    return largest;
  }

  // ---- the state page ---------------------------------------------------------------------------------------------------------------

  #tombstones(): readonly RangeTombstone[] {
    const flushed = this.#tree?.state.tombstones ?? [];
    return this.#unflushed.length === 0 ? flushed : [...flushed, ...this.#unflushed];
  }

  /** A page that leads to these; 0: there is nothing to lead to. @throws ERR_MEMORY_FULL, and nothing has changed */
  #buildState(version: UnitId, frozen: readonly Frozen[], tombstones: readonly RangeTombstone[]): UnitId {
    const memtables: UnitId[] = [];
    if (this.#active.descriptorUnit !== 0) memtables.push(this.#active.descriptorUnit);
    for (let index = frozen.length - 1; index >= 0; index--) {
      const { descriptorUnit } = frozen[index]!.memtable;
      if (descriptorUnit !== 0) memtables.push(descriptorUnit);
    }
    const { tree } = this;
    if (tree === 0 && memtables.length === 0 && tombstones.length === 0) return 0;
    const arena = this.#arena;
    const before = arena.reserveMode;
    arena.reserveMode = true;
    try {
      return buildState(arena, { tree, version, memtables, tombstones });
    } finally {
      arena.reserveMode = before;
    }
  }

  /** From the next publication on. */
  #setState(state: UnitId): void {
    if (this.#state !== 0) retireState(this.#arena, this.#state);
    this.#state = state;
    this.#isActiveListed = this.#active.descriptorUnit !== 0;
  }

  #showState(): void {
    this.#setState(this.#buildState(this.#tree?.version ?? 0, this.#frozen, this.#tombstones()));
  }

  /** The active memtable gets its descriptor, and readers know of it. @throws ERR_MEMORY_FULL, and nothing has changed */
  #listActive(): void {
    const arena = this.#arena;
    const before = arena.reserveMode;
    arena.reserveMode = true;
    try {
      this.#active.begin();
    } finally {
      arena.reserveMode = before;
    }
    this.#showState();
  }

  // ---- operations -------------------------------------------------------------------------------------------------------------------

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
    if (!this.#isActiveListed) this.#listActive();
    const existed = this.#active.put(key, keyStart, keyLength, value, valueStart, valueLength, seq, expiresAt);
    this.#userBytes += keyLength + valueLength;
    this.#operations++;
    return existed;
  }

  putOverflow(
    key: Uint8Array,
    keyStart: number,
    keyLength: number,
    chain: OverflowChain,
    seq: number,
    expiresAt: number,
  ): boolean {
    if (!this.#isActiveListed) this.#listActive();
    const existed = this.#active.putOverflow(key, keyStart, keyLength, chain, seq, expiresAt);
    this.#userBytes += keyLength + chain.totalBytes;
    this.#operations++;
    return existed;
  }

  del(key: Uint8Array, keyStart: number, keyLength: number, seq: number): boolean {
    if (!this.#isActiveListed) this.#listActive();
    this.#userBytes += keyLength;
    this.#operations++;
    return this.#active.del(key, keyStart, keyLength, seq);
  }

  /** What the group has put is seen, its tombstones too. @throws ERR_CORRUPT, ERR_IO */
  versionOf(key: Uint8Array, keyStart: number, keyLength: number, atMs: number): number {
    this.foundExpiresAt = 0;
    const found = this.#active.lookup(key, keyStart, keyLength);
    let seq: number;
    let expiresAt: number;
    if (found !== undefined) {
      if (found.isTombstone) return 0;
      ({ seq, expiresAt } = found);
    } else {
      if (this.#tree === undefined && this.#frozen.length === 0) return 0;
      const reader = this.#openReader();
      const bytes = keyStart === 0 ? key : key.subarray(keyStart, keyStart + keyLength);
      try {
        // Time 1: nothing has expired yet. The published state is what older memtables and tables hold.
        if (!reader.find(this.#arena.published(), bytes, keyLength, Infinity, 1)) return 0;
        ({ seq, expiresAt } = reader);
      } finally {
        reader.release();
      }
    }
    for (const tombstone of this.#unflushed) {
      if (tombstone.seq > seq && isWithinRange(key, keyStart, keyLength, tombstone)) return 0;
    }
    if (found !== undefined) {
      for (const tombstone of this.#tree?.state.tombstones ?? []) {
        if (tombstone.seq > seq && isWithinRange(key, keyStart, keyLength, tombstone)) return 0;
      }
    }
    if (expiresAt !== 0 && atMs !== 0 && expiresAt <= atMs) return 0;
    this.foundExpiresAt = expiresAt;
    return seq;
  }

  #openReader(): LsmReader {
    return (this.#reader ??= new LsmReader(this.#arena, this.row, spaceIdOfTag(this.tag), SHARD_READER_SLOT));
  }

  removeRange(
    low: Uint8Array | undefined,
    lowInclusive: boolean,
    high: Uint8Array | undefined,
    highInclusive: boolean,
    limit: number,
    seq: number,
    resume?: Uint8Array,
  ): RemoveRangeResult {
    if (this.#site === undefined) {
      if (!this.#isActiveListed) this.#listActive();
      return this.#active.removeRange(low, lowInclusive, high, highInclusive, limit, seq, resume);
    }
    const from = shortened(low === undefined || lowInclusive ? low : after(low));
    const to = shortened(high === undefined || !highInclusive ? high : after(high));
    const isBehindAll = low !== undefined && from === undefined;
    if (isBehindAll || (from !== undefined && to !== undefined && Buffer.compare(from, to) >= 0)) {
      return { removed: 0, done: true, resumeKey: undefined };
    }
    if (limit !== Infinity) return this.#removeOneByOne(from, to, limit, seq);
    this.#operations++;
    this.#unflushed.push({
      seq,
      low: from === undefined ? undefined : Uint8Array.from(from),
      high: to === undefined ? undefined : Uint8Array.from(to),
    });
    try {
      this.#showState();
    } catch (error) {
      this.#unflushed.pop();
      throw error;
    }
    this.#activeTombstones++;
    return { removed: 0, done: true, resumeKey: undefined };
  }

  /** Of the published entries. */
  #removeOneByOne(
    low: Uint8Array | undefined,
    high: Uint8Array | undefined,
    limit: number,
    seq: number,
  ): RemoveRangeResult {
    const cursor = new LsmCursor(this.#arena, this.row, spaceIdOfTag(this.tag), SHARD_READER_SLOT);
    const keys: Uint8Array[] = [];
    let resumeKey: Uint8Array | undefined;
    try {
      cursor.seek(this.#arena.published(), low, low?.length ?? 0, Infinity, false, 1);
      for (; cursor.valid && (high === undefined || cursor.compareKey(high, high.length) < 0); cursor.next()) {
        const key = new Uint8Array(cursor.keyLength);
        cursor.copyKey(key, 0);
        if (keys.length === limit) {
          resumeKey = key;
          break;
        }
        keys.push(key);
      }
    } finally {
      cursor.release();
    }
    for (const key of keys) this.del(key, 0, key.length, seq);
    return { removed: keys.length, done: resumeKey === undefined, resumeKey };
  }

  // ---- groups -----------------------------------------------------------------------------------------------------------------------

  setSnapshots(sorted: Float64Array, count: number): void {
    this.#snapshots = sorted;
    this.#snapshotCount = count;
    this.#active.setSnapshots(sorted, count);
  }

  beginGroup(publishedSeq: number, isAtomic: boolean): void {
    this.#active.beginGroup(publishedSeq, isAtomic);
  }

  endGroup(): void {
    this.#active.endGroup();
    if (this.#mustFreeze()) this.#freeze();
  }

  noteLsn(lsn: number): void {
    if (lsn < this.#activeFirstLsn) this.#activeFirstLsn = lsn;
  }

  get neededFromLsn(): number {
    let needed = this.#activeFirstLsn;
    for (const { firstLsn } of this.#frozen) if (firstLsn < needed) needed = firstLsn;
    return needed;
  }

  #mustFreeze(): boolean {
    const site = this.#site;
    if (site === undefined || site.readOnly) return false;
    const active = this.#active;
    if (active.isFull || this.#activeTombstones >= ACTIVE_TOMBSTONES_MAX) return true;
    return this.#isMemoryShort() && active.memoryBytes >= FREEZE_BYTES_MIN;
  }

  /** Other trees, or other engines, have used up what memtables were to have. */
  #isMemoryShort(): boolean {
    const arena = this.#arena;
    return arena.freeUnits() < arena.totalUnits >>> 4;
  }

  /** The active memtable waits for its flush from now on. Between groups. False: it holds nothing. */
  #freeze(): boolean {
    const active = this.#active;
    if (active.counts().cells === 0 && this.#unflushed.length === 0) {
      // Groups that touched the tree have left nothing in it: no log is needed for that, and a move here has nothing to store.
      this.#activeFirstLsn = Infinity;
      return false;
    }
    const publishedSeq = publishedSeqOf(this.#arena, this.#arena.published());
    const upToSeq = Math.min(publishedSeq, this.#site?.replayedSeq ?? Infinity);
    const firstLsn = this.#activeFirstLsn;
    active.freeze();
    this.#frozen.push(this.#frozenOf(active, upToSeq, firstLsn));
    this.#active = this.#newMemtable(0);
    this.#active.setSnapshots(this.#snapshots, this.#snapshotCount);
    this.#activeFirstLsn = Infinity;
    this.#activeTombstones = 0;
    this.#isActiveListed = false;
    this.#isDirty = true;
    return true;
  }

  #frozenOf(memtable: MemtableWriter, upToSeq: number, firstLsn: number): Frozen {
    return {
      memtable,
      upToSeq,
      firstLsn,
      run: this.#nextRun++,
      memoryBytes: memtable.memoryBytes,
      counts: memtable.counts(),
      job: undefined,
      outcome: undefined,
      result: undefined,
      attempts: 0,
      retryAtMs: 0,
    };
  }

  admits(operations: number, bytes: number, deletesOnly: boolean): boolean {
    if (this.#isActiveListed) return this.#active.admits(operations, bytes, deletesOnly);
    return this.#active.admits(operations, bytes + STATE_UNITS * UNIT_BYTES, deletesOnly);
  }

  unitsNeeded(operations: number, bytes: number): number {
    return this.#active.unitsNeeded(operations, bytes) + (this.#isActiveListed ? 0 : STATE_UNITS);
  }

  // ---- work between groups ------------------------------------------------------------------------------------------------------------

  get hasWork(): boolean {
    const site = this.#site;
    if (site === undefined || site.readOnly || this.#isDestroyed) return false;
    return this.#isDirty || site.hasJobHere || site.hasCondemned || this.#tree?.hasObsolete === true;
  }

  get workDueAtMs(): number {
    const site = this.#site;
    if (site === undefined || site.readOnly || this.#isDestroyed) return Infinity;
    let dueAtMs = this.#compactions.dueAtMs;
    // What waits for a job's end is not due by the clock.
    if (this.#frozen[0]?.result !== undefined) dueAtMs = Math.min(dueAtMs, this.#retryAtMs);
    const running = this.#frozen.filter(({ job }) => job !== undefined).length;
    const next = this.#frozen.find(({ job, result }) => job === undefined && result === undefined);
    if (next !== undefined && running < FLUSHES_MAX) {
      dueAtMs = Math.min(dueAtMs, Math.max(next.retryAtMs, this.#retryAtMs));
    }
    return dueAtMs;
  }

  work(nowMs: number): boolean {
    const site = this.#site;
    if (site === undefined || site.readOnly || this.#isDestroyed) return false;
    this.#isDirty = false;
    site.runJobHere();
    if (this.#isMemoryShort() && this.#active.memoryBytes >= FREEZE_BYTES_MIN) this.#freeze();
    let hasChanged = this.#installFlushes(nowMs);
    if (this.#mustStoreInQuiet(nowMs)) this.#freeze();
    this.#startFlushes(nowMs);
    const tree = this.#tree;
    if (tree !== undefined) {
      if (this.#workCompactions(tree, nowMs)) hasChanged = true;
      tree.deleteObsolete();
    } else if (this.#frozen.length === 0) {
      // Nothing was ever put into a file, and nothing is on its way to one.
      this.#compactions.answerAll();
    }
    site.removeCondemned();
    this.#answerWaiters();
    return hasChanged;
  }

  /** Nobody writes, and what is in memory would go down to one run with what is left in level 0, or is much. */
  #mustStoreInQuiet(nowMs: number): boolean {
    const tree = this.#tree;
    const compactions = this.#compactions;
    if (tree === undefined || this.#frozen.length > 0 || compactions.isRunning) return false;
    if (!compactions.isQuiet(this.#operations, nowMs)) return false;
    const { liveKeyBytes, liveValueBytes } = this.#active.counts();
    const share = this.#active.memoryBytes / this.options.memtableBytes;
    return isQuietFlush(liveKeyBytes + liveValueBytes, share, tree.shape, this.options);
  }

  #snapshotList(): number[] {
    return Array.from(this.#snapshots.subarray(0, this.#snapshotCount));
  }

  #workCompactions(tree: LsmTree, nowMs: number): boolean {
    return this.#compactions.work(
      {
        tree,
        snapshots: this.#snapshotList(),
        memtableSeq: this.#memtableSeq(),
        operations: this.#operations,
        isFlushing: this.#frozen.length > 0,
        oldestRun: this.#oldestRun,
        nowMs,
      },
      (edit) => {
        this.#change(tree, edit, this.#frozen, this.#unflushed);
      },
    );
  }

  #memtableSeq(): number {
    let smallest = this.#active.smallestSeq;
    for (const { memtable } of this.#frozen) smallest = Math.min(smallest, memtable.smallestSeq);
    return smallest;
  }

  /** The edit, and the state that it leads to with these memtables and these tombstones besides its own. @throws as LsmTree.change() */
  #change(tree: LsmTree, edit: VersionEdit, frozen: readonly Frozen[], unflushed: readonly RangeTombstone[]): void {
    const removed = new Set(edit.removedTombstones?.map(tombstoneName));
    const kept = tree.state.tombstones.filter((tombstone) => !removed.has(tombstoneName(tombstone)));
    const tombstones = [...kept, ...(edit.addedTombstones ?? []), ...unflushed];
    const spaceId = spaceIdOfTag(this.tag);
    const isNamed = spaceId === BUILDING_SPACE_ID || tree.state.spaceId === spaceId;
    const state = tree.change(
      isNamed ? edit : { ...edit, spaceId },
      (version) => this.#buildState(version, frozen, tombstones),
      (shown) => {
        if (shown !== 0) retireState(this.#arena, shown);
      },
    );
    this.#setState(state);
  }

  // ---- flushes ------------------------------------------------------------------------------------------------------------------------

  /** Those that are done, oldest first. @throws ERR_IO, ERR_PERMISSION */
  #installFlushes(nowMs: number): boolean {
    let hasChanged = false;
    for (const frozen of this.#frozen) this.#takeOutcome(frozen, nowMs);
    while (this.#frozen.length > 0 && nowMs >= this.#retryAtMs) {
      const frozen = this.#frozen[0]!;
      if (frozen.result === undefined) break;
      try {
        if (this.#tree?.prepare(frozen.result.tables) === false) {
          this.#isDirty = true;
          break;
        }
        this.#installFlush(frozen, frozen.result);
        this.#installFailures = 0;
        hasChanged = true;
      } catch (error) {
        this.#installFailed(error, nowMs);
        break;
      }
    }
    return hasChanged;
  }

  /** @throws ERR_IO, ERR_PERMISSION, ERR_CORRUPT: trying again is of no use */
  #installFailed(error: unknown, nowMs: number): void {
    if (!(error instanceof ConcordError)) throw error;
    this.#failedJobs++;
    this.#installFailures++;
    this.#isDiskFull = error.code === 'ERR_DISK_FULL';
    const isPassing = error.code === 'ERR_DISK_FULL' || error.code === 'ERR_MEMORY_FULL';
    if (!isPassing && (this.#installFailures > FLUSH_ATTEMPTS_MAX || error.code === 'ERR_INTERNAL')) throw error;
    this.#retryAtMs = nowMs + retryMs(this.#installFailures);
  }

  #takeOutcome(frozen: Frozen, nowMs: number): void {
    const { outcome, job } = frozen;
    if (outcome === undefined) return;
    frozen.outcome = undefined;
    frozen.job = undefined;
    if ('value' in outcome) {
      frozen.result = outcome.value;
      this.#isDiskFull = false;
      return;
    }
    this.#flushFailed(frozen, outcome.error, nowMs);
    if (job !== undefined) this.#tree?.deleteLeftovers(job.firstFile, job.files);
  }

  /** @throws when it has failed too often, and not for lack of space */
  #flushFailed(frozen: Frozen, error: ErrorRecord, nowMs: number): void {
    this.#failedJobs++;
    frozen.attempts++;
    frozen.retryAtMs = nowMs + retryMs(frozen.attempts);
    this.#isDiskFull = error.code === 'ERR_DISK_FULL';
    const isPassing = this.#isDiskFull || error.code === 'ERR_CLOSED' || error.code === 'ERR_MEMORY_FULL';
    if (!isPassing && frozen.attempts >= FLUSH_ATTEMPTS_MAX) throw ConcordError.fromRecord(error);
  }

  #installFlush(frozen: Frozen, result: LsmJobResult): void {
    const tree = this.#tree!;
    const { upToSeq, memtable } = frozen;
    const addedTombstones = this.#unflushed.filter(({ seq }) => seq <= upToSeq);
    const unflushed = this.#unflushed.filter(({ seq }) => seq > upToSeq);
    const edit: VersionEdit = {
      addedTables: result.tables,
      addedBlobs: result.blobs,
      addedTombstones,
      storedSeq: Math.max(upToSeq, this.storedSeq),
    };
    this.#change(tree, edit, this.#frozen.slice(1), unflushed);
    this.#frozen.shift();
    this.#unflushed = unflushed;
    memtable.destroy();
    this.#flushes++;
    this.#flushedBytes += result.writtenBytes;
    this.#flushMs += result.durationMs;
    this.#compactions.treeChanged();
    this.#isDirty = true;
  }

  #startFlushes(nowMs: number): void {
    if (nowMs < this.#retryAtMs) return;
    let running = 0;
    for (const frozen of this.#frozen) {
      if (running >= FLUSHES_MAX) return;
      if (frozen.job === undefined && frozen.result === undefined) {
        // Younger ones do not begin before: they could not be installed either.
        if (nowMs < frozen.retryAtMs) return;
        try {
          this.#startFlush(frozen, nowMs);
        } catch (error) {
          if (!(error instanceof ConcordError) || error.code === 'ERR_INTERNAL') throw error;
          this.#flushFailed(frozen, error.toRecord(), nowMs);
          return;
        }
      }
      if (frozen.job !== undefined) running++;
    }
  }

  #startFlush(frozen: Frozen, nowMs: number): void {
    const site = this.#site!;
    const task = this.#flushTask(frozen, nowMs);
    if (task === undefined) {
      frozen.result = NOTHING_WRITTEN;
      this.#isDirty = true;
      return;
    }
    frozen.job = { cancel: task.cancel, firstFile: task.firstFile, files: task.files };
    site.jobs.start(task, FLUSH_PRIORITY - (frozen.run % FLUSH_PRIORITY) / FLUSH_PRIORITY, (outcome) => {
      frozen.outcome = outcome;
      this.#isDirty = true;
      if (this.#isDestroyed) this.#jobEnded();
    });
  }

  /** Undefined: there is nothing to write. @throws ERR_IO, ERR_DISK_FULL, ERR_PERMISSION */
  #flushTask(frozen: Frozen, nowMs: number): FlushTask | undefined {
    const site = this.#site!;
    const tree = (this.#tree ??= LsmTree.create(site, this.options.verifyBlocks));
    const { memtable, run, memoryBytes } = frozen;
    if (frozen.counts.cells === 0) return undefined;
    const { tableBytes, blobValueBytes, blobFileBytes, tables } = this.options;
    const blobFiles = blobValueBytes === Infinity ? 0 : Math.ceil(memoryBytes / blobFileBytes) + 2;
    const files = 2 * Math.ceil(memoryBytes / tableBytes) + blobFiles + 4;
    return {
      kind: 'flush',
      directory: tree.directory,
      identity: tree.identity,
      descriptor: memtable.descriptorUnit,
      arena: undefined,
      run,
      firstFile: tree.takeFiles(files),
      files,
      options: tables[0]!,
      tableBytes,
      blobValueBytes,
      blobFileBytes,
      snapshots: this.#snapshotList(),
      // Those that the manifest will know when the tables are in it: what they hide is dropped for good.
      tombstones: [...tree.state.tombstones, ...this.#unflushed.filter(({ seq }) => seq <= frozen.upToSeq)],
      nowMs,
      isBottom: this.#frozen[0] === frozen && tree.state.tables.size === 0,
      cancel: new Int32Array(new SharedArrayBuffer(4)),
      rate: site.rate,
    };
  }

  relieve(nowMs: number): boolean {
    const site = this.#site;
    if (site === undefined || site.readOnly) return false;
    this.#freeze();
    if (this.#frozen.length === 0) return false;
    while (this.#frozen.length > 0) {
      const frozen = this.#frozen[0]!;
      assert(frozen.job === undefined, 'a flush is running already');
      const task = frozen.result === undefined ? this.#flushTask(frozen, nowMs) : undefined;
      // Kept, should it be the installation that fails.
      frozen.result ??= task === undefined ? NOTHING_WRITTEN : runFlush(site.env, this.#arena, task);
      this.#installFlush(frozen, frozen.result);
    }
    return true;
  }

  // ---- what the store asks for ----------------------------------------------------------------------------------------------------------

  flush(done: (error?: Error) => void): void {
    if (this.#site?.readOnly === true) {
      done();
      return;
    }
    this.#freeze();
    this.#waiters.push({ run: this.#frozen.at(-1)?.run ?? 0, done });
    this.#isDirty = true;
  }

  compactRange(low: Uint8Array | undefined, high: Uint8Array | undefined, done: (error?: Error) => void): () => void {
    if (this.#site?.readOnly === true) {
      // Nothing will ever be merged here.
      done();
      return () => undefined;
    }
    const upToSeq = publishedSeqOf(this.#arena, this.#arena.published());
    this.#freeze();
    this.#isDirty = true;
    return this.#compactions.request(low, high, upToSeq, this.#frozen.at(-1)?.run ?? 0, done);
  }

  /** Memtables that hold log from before that frame go to tables. Between groups. */
  freezeBefore(lsn: number): void {
    if (this.#activeFirstLsn <= lsn) this.#freeze();
  }

  #answerWaiters(): void {
    const oldestRun = this.#oldestRun;
    const waiters = this.#waiters;
    for (let index = waiters.length - 1; index >= 0; index--) {
      if (waiters[index]!.run < oldestRun) waiters.splice(index, 1)[0]!.done();
    }
  }

  /** Of the memtables that wait for their flush. */
  get #oldestRun(): number {
    return this.#frozen[0]?.run ?? Infinity;
  }

  get dropsEntries(): boolean {
    return this.options.style === 'fifo';
  }

  get logBytesMax(): number {
    const { memtableBytes, frozenMax } = this.options;
    return memtableBytes * (frozenMax + 1);
  }

  flow(): WriteFlow {
    const active = this.#active;
    const tree = this.#tree;
    const { options } = this;
    // Memory comes back with the next flush: until then writes wait, rather than fail.
    if (this.#frozen.length > 0 && this.#arena.freeUnits() < this.#arena.totalUnits >>> 5) {
      return { state: 'stopped', bytesPerSecond: 0, cause: this.#isDiskFull ? 'disk-full' : 'memtables' };
    }
    return writeFlow(
      {
        frozen: this.#frozen.length,
        activeFill: Math.min(1, active.memoryBytes / options.memtableBytes),
        level0Runs: tree?.shape.runs ?? 0,
        debtBytes: tree === undefined ? 0 : pendingDebtBytes(tree.shape, options),
        isDiskFull: this.#isDiskFull || this.#compactions.isDiskFull,
      },
      options,
    );
  }

  figures(): LsmFigures {
    const state = this.#tree?.state;
    const tables = [...(state?.tables.values() ?? [])];
    const levels = Array.from({ length: LSM_LEVELS }, (_, level): LevelFigures => {
      const own = tables.filter((table) => table.level === level);
      const sum = (of: (table: (typeof own)[number]) => number): number =>
        own.reduce((total, table) => total + of(table), 0);
      return {
        level,
        tables: own.length,
        runs: level === 0 ? new Set(own.map(({ run }) => run)).size : Math.min(1, own.length),
        bytes: sum(({ bytes }) => bytes),
        entries: sum(({ entries }) => entries),
        tombstones: sum(({ tombstones }) => tombstones),
        rawBytes: sum(({ rawBytes }) => rawBytes),
      };
    });
    const blobs = [...(state?.blobs.values() ?? [])];
    const blobBytes = blobs.reduce((total, { bytes }) => total + bytes, 0);
    const recordBytes = blobs.reduce((total, blob) => total + blob.recordBytes, 0);
    let usedBytes = 0;
    for (const table of tables) for (const { bytes } of table.blobs) usedBytes += bytes;
    const blobGarbageBytes = Math.max(0, recordBytes - usedBytes);
    const frozenBytes = this.#frozen.reduce((total, { memoryBytes }) => total + memoryBytes, 0);
    const compactions = this.#compactions.figures;
    return {
      tree: this.tree,
      levels,
      blobFiles: blobs.length,
      blobBytes,
      blobGarbageBytes,
      rangeTombstones: this.#tombstones().length,
      memtableBytes: this.#active.memoryBytes + frozenBytes,
      frozenMemtables: this.#frozen.length,
      frozenBytes,
      metadataBytes: (this.#tree?.residentUnits ?? 0) * UNIT_BYTES,
      flow: this.flow(),
      pendingDebtBytes: this.#tree === undefined ? 0 : pendingDebtBytes(this.#tree.shape, this.options),
      runningJobs: this.#frozen.filter(({ job }) => job !== undefined).length + compactions.runningTasks,
      obsoleteFiles: this.#tree?.obsoleteFiles ?? 0,
      userBytes: this.#userBytes,
      flushes: this.#flushes,
      flushedBytes: this.#flushedBytes,
      flushMs: this.#flushMs,
      compactions: compactions.compactions,
      trivialMoves: compactions.trivialMoves,
      compactionReadBytes: compactions.readBytes,
      compactionWrittenBytes: compactions.writtenBytes,
      compactionMs: compactions.durationMs,
      failedJobs: this.#failedJobs + compactions.failedJobs,
      writeAmplification: writeAmplification(this.#flushedBytes + compactions.writtenBytes, this.#userBytes),
      readAmplification: this.#tree === undefined ? 0 : readAmplification(this.#tree.shape),
      spaceAmplification: spaceAmplification(tables, blobBytes, blobGarbageBytes),
    };
  }

  // ---- whole contents -------------------------------------------------------------------------------------------------------------------

  sweep(state: SweepState, budget: number): void {
    if (this.#site === undefined) this.#active.sweep(state, budget);
    else state.done = true;
  }

  visitVersions(position: Uint8Array | undefined, budget: number, visit: VersionVisit): Uint8Array | undefined {
    if (this.#site === undefined) return this.#active.visitVersions(position, budget, visit);
    this.#walk ??= new VersionWalk(this.#arena, this.row, spaceIdOfTag(this.tag), SHARD_READER_SLOT);
    return this.#walk.visit(this.#arena.published(), position, budget, visit);
  }

  isBefore(key: Uint8Array, keyStart: number, keyLength: number, position: Uint8Array): boolean {
    return compareBytes(key, keyStart, keyLength, position, 0, position.length) < 0;
  }

  #storedCounts(): StoredCounts {
    const tree = this.#tree;
    if (tree === undefined || tree.version === 0) return NOTHING_STORED;
    if (tree.version === this.#storedOfVersion) return this.#stored;
    let entries = 0;
    let tombstones = 0;
    let rawBytes = 0;
    for (const table of tree.state.tables.values()) {
      entries += table.entries;
      tombstones += table.tombstones;
      rawBytes += table.rawBytes;
    }
    this.#storedOfVersion = tree.version;
    return (this.#stored = { entries, tombstones, rawBytes });
  }

  counts(): EngineCounts {
    const active = this.#active.counts();
    const stored = this.#storedCounts();
    let { liveEntries, liveKeyBytes, liveValueBytes, cells, leafPages, branchPages, overflowPages } = active;
    let { treeUnits, overflowUnits } = active;
    for (const { counts } of this.#frozen) {
      liveEntries += counts.liveEntries;
      liveKeyBytes += counts.liveKeyBytes;
      liveValueBytes += counts.liveValueBytes;
      cells += counts.cells;
      leafPages += counts.leafPages;
      branchPages += counts.branchPages;
      overflowPages += counts.overflowPages;
      treeUnits += counts.treeUnits;
      overflowUnits += counts.overflowUnits;
    }
    return {
      rootUnit: this.#state,
      height: 0,
      order: 0,
      pageBytes: 4096,
      // Of tables: a tombstone hides one entry, mostly.
      liveEntries: liveEntries + Math.max(0, stored.entries - 2 * stored.tombstones),
      liveKeyBytes,
      liveValueBytes: liveValueBytes + stored.rawBytes,
      cells: cells + stored.entries,
      leafPages,
      branchPages,
      overflowPages,
      treeUnits: treeUnits + (this.#tree?.residentUnits ?? 0) + (this.#state === 0 ? 0 : 1),
      overflowUnits,
      tag: this.tag,
    };
  }

  memory(): Readonly<Record<string, number>> {
    let memtables = this.#active.memoryBytes;
    for (const { memoryBytes } of this.#frozen) memtables += memoryBytes;
    return { memtables, metadata: (this.#tree?.residentUnits ?? 0) * UNIT_BYTES };
  }

  metrics(): EngineMetrics {
    const { compactions, trivialMoves, failedJobs, readBytes, writtenBytes } = this.#compactions.figures;
    return {
      flushes: this.#flushes,
      flushedBytes: this.#flushedBytes,
      compactions,
      trivialMoves,
      compactionReadBytes: readBytes,
      compactionWrittenBytes: writtenBytes,
      failedJobs: this.#failedJobs + failedJobs,
      frozenMemtables: this.#frozen.length,
    };
  }

  check(): string[] {
    const problems = this.#active.check().map((problem) => `active memtable: ${problem}`);
    this.#frozen.forEach(({ memtable }, index) => {
      for (const problem of memtable.check()) problems.push(`frozen memtable ${index}: ${problem}`);
    });
    const tree = this.#tree;
    if (tree === undefined) return problems;
    problems.push(...checkState(tree.state));
    try {
      const shown = tree.version === 0 ? new Map<number, UnitId>() : readVersion(this.#arena, tree.version);
      const { tables } = tree.state;
      for (const number of tables.keys())
        if (!shown.has(number)) problems.push(`table ${number} is not in the version`);
      for (const number of shown.keys())
        if (!tables.has(number)) problems.push(`table ${number} is not in the manifest`);
    } catch (error) {
      if (!(error instanceof ConcordError)) throw error;
      problems.push(error.message);
    }
    return problems;
  }

  // ---- the end ----------------------------------------------------------------------------------------------------------------------------

  destroy(): void {
    this.#isDestroyed = true;
    this.#wasMoved = spaceIdOfTag(this.tag) === BUILDING_SPACE_ID;
    this.#goneEpoch = this.#arena.unpublishedEpoch;
    this.#cancelJobs();
    this.#active.destroy();
    // A job that still runs reads its memtable: that one goes when the job has ended.
    for (const { memtable, job } of this.#frozen) if (job === undefined) memtable.destroy();
    this.#frozen = this.#frozen.filter(({ job }) => job !== undefined);
    this.#setState(0);
    this.#tree?.retirePages();
    this.#unflushed = [];
    this.#isActiveListed = false;
    this.#table.detach(this.row);
    this.#jobEnded();
  }

  /** Of a destroyed tree: when the last one has ended, its directory may go. */
  #jobEnded(): void {
    this.#frozen = this.#frozen.filter((frozen) => {
      if (frozen.outcome !== undefined) frozen.memtable.destroy();
      return frozen.outcome === undefined;
    });
    if (this.#isGone || this.#frozen.length > 0 || this.#compactions.isRunning) return;
    this.#isGone = true;
    const site = this.#site;
    const tree = this.#tree;
    if (site === undefined) return;
    site.trees.delete(this);
    if (tree === undefined) return;
    tree.close();
    LsmFiles.known(this.#arena)?.close(tree.number);
    site.condemn(tree.number, this.#wasMoved, this.#goneEpoch);
  }

  #cancelJobs(): void {
    for (const { job } of this.#frozen) if (job !== undefined) cancelJob(job.cancel);
    this.#compactions.cancelAll();
    const error = new ConcordError('ERR_CLOSED', 'the space was dropped, or the store is being closed');
    for (const { done } of this.#waiters.splice(0)) done(error);
  }

  /** The store is closed: jobs are told to stop, nothing more is installed. What the last merges have replaced goes, all at once: nobody waits for a slice. */
  close(): void {
    this.#isDestroyed = true;
    this.#cancelJobs();
    const tree = this.#tree;
    if (tree === undefined) return;
    this.#arena.reclaim();
    tree.deleteObsolete(Infinity);
    tree.close();
  }
}

const NOTHING_WRITTEN: LsmJobResult = {
  tables: [],
  blobs: [],
  readBytes: 0,
  writtenBytes: 0,
  entriesIn: 0,
  entriesOut: 0,
  durationMs: 0,
};

/** The smallest key behind this one. */
function after(key: Uint8Array): Uint8Array {
  const next = new Uint8Array(key.length + 1);
  next.set(key);
  return next;
}

/** A bound that parts keys alike and is no longer than one. Undefined: all keys lie below it. */
function shortened(bound: Uint8Array | undefined): Uint8Array | undefined {
  if (bound === undefined || bound.length <= KEY_BYTES_MAX) return bound;
  // What is cut off only keys that are too long could begin with: the next one is not longer than what is left.
  let end = KEY_BYTES_MAX;
  while (end > 0 && bound[end - 1] === 0xff) end--;
  if (end === 0) return undefined;
  const next = bound.slice(0, end);
  next[end - 1]!++;
  return next;
}

function isWithinRange(key: Uint8Array, keyStart: number, keyLength: number, { low, high }: RangeTombstone): boolean {
  if (low !== undefined && compareBytes(key, keyStart, keyLength, low, 0, low.length) < 0) return false;
  return high === undefined || compareBytes(key, keyStart, keyLength, high, 0, high.length) < 0;
}

function tombstoneName({ seq, low, high }: RangeTombstone): string {
  const bound = (key: Uint8Array | undefined): string =>
    key === undefined ? '' : `=${Buffer.from(key).toString('hex')}`;
  return `${seq}${bound(low)}:${bound(high)}`;
}
