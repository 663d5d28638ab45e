/**
 * One shard's data and log, without threads: spaces over an arena (space-table.ts), write-ahead log, checkpoints; recovery.ts is how it begins. The shard
 * actor feeds it groups of operation records (group-records.ts, apply.ts); tests drive it directly on an in-memory disk.
 *
 *   beginGroup() → append(record)… → commit(level, firstSequence)      log → (sync) → apply → publish
 *
 * Transactions over several shards are prepared by one group and resolved by a later one (prepared.ts):
 *
 *   appendPrepare(…) … addResolve(id, number) …                        the group's other operations come behind what it resolves
 *
 * Must hold: a record is admitted (memory, limits) before it is appended, so a logged group can always be applied; a group whose log write
 * failed leaves no trace in memory; a frame is applied exactly if its last sequence number is above the published one, in life and in recovery.
 * Threads: the shard's thread only.
 */
import { assert } from '../../shared/assert.js';
import { fromSystemError } from '../../shared/errors.js';
import type { ArenaWriter, LongPin } from '../../shared/memory/arena.js';
import { publishTrees } from '../btree/meta.js';
import type { PagedRoot } from '../btree/paged/format.js';
import { capturePaged, closePaged, confirmPaged, pagingOf, preparePaged, writePaged } from '../btree/paged/paging.js';
import { removeCheckpointsBefore } from '../checkpoint/reader.js';
import { BUILDING_SPACE_ID, EngineCode, spaceIdOfTag, type EngineCursor, type EngineWriter } from '../engine.js';
import { lsmSiteOf, type LsmRoot, type LsmSite } from '../lsm/attach.js';
import { LsmFiles } from '../lsm/read/files.js';
import {
  CLEAR_HAS_HIGH,
  CLEAR_HAS_LOW,
  OPERATION_EXPIRED,
  OPERATION_HEADER_BYTES,
  OperationKind,
  PREPARE_KEY_BYTES,
  checkOperation,
  operationKeyAt,
  readBlobReference,
  readKeyLength,
  readOperationSpace,
  writeOperationHeader,
  writePrepareKey,
  type PrepareKey,
} from '../operation.js';
import { applyRecord } from './apply.js';
import { IncomingBlobs } from './blobs.js';
import type { GroupLog } from './group-log.js';
import { GroupOrder } from './group-order.js';
import { GroupRecords } from './group-records.js';
import type { ShardStoreOptions } from './options.js';
import {
  PREPARED_MAX,
  RESOLVE_RECORD_BYTES,
  copyOf,
  prepareRecordBytes,
  type PreparedTransactions,
} from './prepared.js';
import { recoverShard, type RecoveredShard, type RecoveryReport } from './recovery.js';
import type { ExpiredEntry, Space, SpaceTable, TableSweep } from './space-table.js';
import type { SpaceDefinition, SwitchProgress } from './space.js';

export { newTableSweep, type TableSweep } from './space-table.js';

/** How safe a group is before it is acknowledged. Ordered: a group takes the highest its members ask for. */
export const Durability = { Memory: 0, Os: 1, Sync: 2 } as const;
export type DurabilityLevel = (typeof Durability)[keyof typeof Durability];

/** What a checkpoint job needs to read the pinned state from another thread. */
export interface CheckpointPlan {
  readonly metaUnit: number;
  readonly lsn: number;
  /** First frame a recovery from this checkpoint needs: blobs and prepared transactions that are on their way began there. */
  readonly replayFromLsn: number;
  readonly publishedSeq: number;
  /** Spaces that are not written as pages: their entries as of publishedSeq follow the image. */
  readonly entrySpaces: readonly number[];
  /** Spaces whose pages are in files of their own, which must be synced before the checkpoint is finished. */
  readonly pagedRoots: readonly PagedRoot[];
  /** Spaces in LSM-Trees: a checkpoint names the tree, a copy of the store takes their entries. */
  readonly lsmSpaces: readonly number[];
  /** Trees of those that have one: what is in none is in the log. */
  readonly lsmRoots: readonly LsmRoot[];
}

const NO_BYTES = new Uint8Array(0);
/** Kept free in a frame for Resolve records, at most. */
const PREPARED_KEPT_BYTES = PREPARED_MAX * RESOLVE_RECORD_BYTES;
/** Pages that a checkpoint's preparation writes between two groups. */
const PAGES_PER_SLICE = 256;
/** A log up to this may lie there until there is more of it. */
const QUIET_LOG_BYTES = 4 << 20;

export class ShardStore {
  readonly arena: ArenaWriter;
  readonly spaces: SpaceTable;
  /** Transactions over several shards on their way. */
  readonly prepared: PreparedTransactions;
  readonly recovery: RecoveryReport;
  readonly #options: ShardStoreOptions;
  readonly #log: GroupLog;
  #publishedSeq: number;
  /** Those whose pages may be in a file. */
  readonly #pagedTrees: ReadonlySet<unknown> | undefined;
  readonly #lsm: LsmSite | undefined;

  readonly #group: GroupRecords;
  readonly #order = new GroupOrder();
  #holdsTogether = false;
  /** Bytes of committed frames the log still buffers (memory level). */
  #unwrittenBytes = 0;

  readonly #blobs: IncomingBlobs;
  #pin: LongPin | undefined;
  #planned: CheckpointPlan | undefined;
  #checkpointLsn = 0;
  /** The first frame that a recovery from the last checkpoint of this life needs. */
  #replayFromLsn = 1;
  /** The open snapshots, and the number a checkpoint reads at, while one runs. */
  #withCheckpoint = new Float64Array(64);

  private constructor(options: ShardStoreOptions, recovered: RecoveredShard) {
    const { arena, spaces, prepared, log, report, publishedSeq, dropped } = recovered;
    this.#options = options;
    this.arena = arena;
    this.spaces = spaces;
    this.prepared = prepared;
    this.#log = log;
    this.recovery = report;
    this.#publishedSeq = publishedSeq;
    this.#blobs = new IncomingBlobs(arena);
    this.#group = new GroupRecords(log, dropped);
    this.#pagedTrees = pagingOf(arena)?.trees;
    this.#lsm = lsmSiteOf(arena);
    if (this.#lsm !== undefined) {
      this.#lsm.syncLog = () => {
        if (!this.#options.readOnly && (this.#hasSeveralSpaces() || this.#hasUnsettled)) this.sync();
      };
    }
    this.#checkpointLsn = report.checkpoint?.lsn ?? 0;
  }

  /**
   * Recovers the shard: newest checkpoint, then the log behind it. Creates what is missing.
   * @throws ERR_CORRUPT, ERR_FORMAT_VERSION, ERR_MEMORY_FULL, ERR_IO, ERR_PERMISSION, ERR_DISK_FULL
   */
  static open(options: ShardStoreOptions): ShardStore {
    return new ShardStore(options, recoverShard(options));
  }

  /** The engine of the default space. */
  get tree(): EngineWriter {
    return this.spaces.defaultEngine;
  }

  /** The highest sequence number whose effects are visible. */
  get publishedSeq(): number {
    return this.#publishedSeq;
  }

  // ---- a group ----------------------------------------------------------------------------------------------------------------------

  /** Records in the group so far. */
  get groupRecords(): number {
    return this.#group.count;
  }

  /** Prepare and Resolve records in the group so far: they are no `records`. */
  get groupControls(): number {
    return this.prepared.controls;
  }

  /** Sequence numbers the group needs. One with nothing but Prepare and Resolve records takes one. */
  get groupSpan(): number {
    const { span } = this.#group;
    return span === 0 && this.prepared.controls > 0 ? 1 : span;
  }

  get groupBytes(): number {
    return this.#group.bytes;
  }

  beginGroup(): void {
    this.#holdsTogether = false;
    this.#group.begin();
    this.spaces.beginAsking();
  }

  /**
   * Whether the group with so many more operations on a space can surely be applied; `expiring` of them put entries that expire. What is admitted
   * counts into the group. Deletes draw on the arena's reserve.
   */
  admits(
    space: Space,
    operations: number,
    bytes: number,
    expiring: number,
    deletesOnly: boolean,
    largestBytes = Infinity,
  ): boolean {
    return this.spaces.ask(space, operations, bytes, expiring, deletesOnly, largestBytes);
  }

  /** Whether a record of this many bytes fits into the group's frame. What is prepared may have to be resolved in it, too. */
  fits(bytes: number): boolean {
    const kept = this.#group.keptBytes + this.prepared.resolveBytes;
    return this.#group.bytes + kept + bytes <= this.#log.payloadBytesMax;
  }

  /** Bytes of writes (operation records) that a transaction may have here: they fit into a frame, whatever else is prepared. */
  get transactionBytesMax(): number {
    const { payloadBytesMax } = this.#log;
    return payloadBytesMax - prepareRecordBytes(0) - Math.min(PREPARED_KEPT_BYTES, payloadBytesMax >>> 3);
  }

  /** Appends the (checked, admitted) record at `start` of `source`, `length` bytes, a multiple of 4. `words` is the same memory. */
  append(source: Uint8Array, words: Int32Array, start: number, length: number): void {
    this.#group.copy(source, words, start, length);
  }

  /** Appends the (checked, admitted) records of a batch, which stand one behind the other: all are copied at once. */
  appendAll(source: Uint8Array, start: number, end: number): void {
    this.#group.copyAll(source, start, end);
  }

  /**
   * Appends a transaction's Prepare record: from this group on its (admitted, checked) writes, the records in `source` from `start` to `end`, are kept until
   * it is resolved. @throws ERR_CORRUPT when it writes a key twice, ERR_INTERNAL when it is prepared already: nothing is appended
   */
  appendPrepare(key: PrepareKey, source: Uint8Array, start: number, end: number): void {
    const writes = copyOf(source, start, end);
    this.#log.ensure(prepareRecordBytes(writes.length));
    this.prepared.prepare(key, writes);
    const bytes = this.#log.bytes;
    const at = this.#log.position;
    writeOperationHeader(bytes, at, OperationKind.Prepare, 0, PREPARE_KEY_BYTES, writes.length);
    writePrepareKey(bytes, at + OPERATION_HEADER_BYTES, key);
    bytes.set(writes, at + OPERATION_HEADER_BYTES + PREPARE_KEY_BYTES);
    this.#log.position = at + prepareRecordBytes(writes.length);
    this.#group.bytes += prepareRecordBytes(writes.length);
  }

  /**
   * The group resolves a prepared transaction: it is applied with the number of its commit, which is above all that is published and below the group's own,
   * or given up (number 0). A number that is published already was applied by a predecessor: it is only recorded. False: it is not prepared here. May come
   * when the group's numbers are taken already; what is given up also between groups. If the group fails or is discarded, commits must be told again.
   * @throws ERR_CORRUPT, ERR_IO, ERR_MEMORY_FULL: a page that it changes cannot be read; it stays prepared
   */
  addResolve(id: number, number: number): boolean {
    const { prepared } = this;
    const found = prepared.get(id);
    if (found === undefined) return false;
    if (number !== 0 && this.isPaged) {
      const { writes } = found;
      for (let at = 0; at < writes.length; at += checkOperation(writes, at, writes.length)) this.#fetch(writes, at);
    }
    prepared.resolve(found, number);
    if (number !== 0 && found.operations > 1) this.holdTogether();
    return true;
  }

  /** The lowest number in the group that begins with `firstSeq`: what snapshots without a number may see is below. */
  lowestNumber(firstSeq: number): number {
    return Math.min(firstSeq, this.prepared.lowestNumber);
  }

  /**
   * Commits with this number and higher ones must not be forgotten by whoever decides them: a power loss could bring them back as prepared. Infinity: all
   * that are applied are safe. See sync().
   */
  get decisionsNeededFrom(): number {
    return this.prepared.decisionsNeededFrom(this.#log.syncedLsn);
  }

  /** What is prepared or resolved depends on the log being ahead of files. */
  get #hasUnsettled(): boolean {
    return this.prepared.size > 0 || this.decisionsNeededFrom !== Infinity;
  }

  /**
   * What the (admitted) record will change and is not in memory comes there, so that applying it cannot fail for that. Before it is appended, and for
   * a batch before any of its records is.
   * @throws ERR_CORRUPT, ERR_IO, ERR_MEMORY_FULL
   */
  fetch(bytes: Uint8Array, at: number): void {
    if (this.isPaged) this.#fetch(bytes, at);
  }

  /** Whether a space may have pages in a file. */
  get isPaged(): boolean {
    return this.#pagedTrees !== undefined && this.#pagedTrees.size > 0;
  }

  #fetch(bytes: Uint8Array, at: number): void {
    const kind = bytes[at];
    if (kind === OperationKind.Put || kind === OperationKind.Delete || kind === OperationKind.PutBlob) {
      const space = this.spaces.get(readOperationSpace(bytes, at));
      space?.engine.fetch?.(bytes, operationKeyAt(bytes, at), readKeyLength(bytes, at));
    } else if (kind === OperationKind.ApplyBatch) {
      const { client } = readBlobReference(bytes, operationKeyAt(bytes, at) + readKeyLength(bytes, at));
      const batch = this.batchBytes(client);
      if (batch === undefined) return;
      for (let inner = 0; inner < batch.length; inner += checkOperation(batch, inner, batch.length))
        this.#fetch(batch, inner);
    }
  }

  /** Appends one slice of a range delete: [low, high), undefined = unbounded. */
  appendClear(spaceId: number, low: Uint8Array | undefined, high: Uint8Array | undefined): void {
    const flags = (low === undefined ? 0 : CLEAR_HAS_LOW) | (high === undefined ? 0 : CLEAR_HAS_HIGH);
    this.#group.write(OperationKind.ClearRange, flags, spaceId, low ?? NO_BYTES, high ?? NO_BYTES);
  }

  /** Appends the delete of one key, as the shard itself orders it. @throws as fetch(): then it is not appended */
  appendDelete(spaceId: number, key: Uint8Array, isExpiry = false): void {
    if (this.isPaged) this.spaces.get(spaceId)?.engine.fetch?.(key, 0, key.length);
    this.#group.write(OperationKind.Delete, isExpiry ? OPERATION_EXPIRED : 0, spaceId, key, NO_BYTES);
  }

  /** The group holds operations that must become visible together. */
  holdTogether(): void {
    this.#holdsTogether = true;
  }

  /** Gives the group up; nothing happened. What it was to give up is given up by the next one. */
  discardGroup(): void {
    this.prepared.discard();
    this.#group.discard();
  }

  /**
   * Commits the group: log, sync if asked, apply, publish. `beforeApply` runs once the log is safe and sets the open snapshots.
   * @throws ERR_DISK_FULL, ERR_IO: nothing was applied. After a failed sync the log refuses everything (ERR_IO): the shard turns read-only.
   */
  commit(level: DurabilityLevel, firstSeq: number, beforeApply: () => void): void {
    const log = this.#log;
    const { prepared } = this;
    const records = this.#group.end();
    const span = this.groupSpan;
    const builtAt = log.payloadStart;
    // What a thread that dies has applied of a transaction must be in its log: it is not told a second time.
    const safety = prepared.controls > 0 ? Math.max(level, Durability.Os) : level;
    try {
      if (prepared.resolves > 0) this.#appendResolves();
      // At the memory level too: the frame is only buffered, but if there is no place for it the group must not be seen.
      log.commit(firstSeq, span, safety === Durability.Memory);
      const before = log.writtenLsn === log.lastLsn - 1 ? 0 : this.#unwrittenBytes;
      this.#unwrittenBytes = safety === Durability.Memory ? before + this.#group.bytes : 0;
      if (safety === Durability.Sync) log.sync();
    } catch (error) {
      prepared.discard();
      throw fromSystemError(error, 'writing the log', this.#options.directory ?? '');
    }
    this.#group.logged();
    prepared.logged(log.lastLsn);
    beforeApply();
    // The log may have moved the frame to make room.
    this.#apply(records, firstSeq, log.payloadStart - builtAt);
    this.#publish(firstSeq + span - 1);
    prepared.published();
  }

  #appendResolves(): void {
    const log = this.#log;
    log.ensure(this.prepared.resolves * RESOLVE_RECORD_BYTES);
    const { position } = log;
    log.position = this.prepared.writeResolves(log.bytes, position);
    this.#group.bytes += log.position - position;
  }

  /**
   * For a log that has failed for good: applies and publishes the group's commits without it, and gives everything else of the group up. The Prepare
   * records and the decisions are in their logs, so a recovery finds the same.
   */
  commitUnlogged(firstSeq: number, beforeApply: () => void): void {
    const { prepared } = this;
    this.#group.discard();
    prepared.noteUnlogged();
    beforeApply();
    this.#apply(0, firstSeq, 0);
    this.#publish(firstSeq);
    prepared.published();
  }

  /** Frames of the `memory` level that are not written yet go to the operating system. */
  writeOut(): void {
    this.#log.writeOut();
    this.#unwrittenBytes = 0;
  }

  /** fdatasync of everything committed so far. */
  sync(): void {
    this.writeOut();
    this.#log.sync();
  }

  /**
   * Files of one space must not be ahead of a log that others depend on: after a power loss a batch would be there in part. One space by itself is a
   * beginning of what was, with or without the end of its log, and need not wait for a disk.
   */
  #hasSeveralSpaces(): boolean {
    if (this.spaces.expiringEntries > 0) return true;
    let used = 0;
    for (const { engine, building } of this.spaces.all) {
      const { background } = engine;
      if (building !== undefined) return true;
      if (engine.counts().cells > 0 || (background !== undefined && background.neededFromLsn !== Infinity)) used++;
    }
    return used > 1;
  }

  /** Bytes of the memory level that the operating system has not got yet. */
  get unwrittenBytes(): number {
    return this.#unwrittenBytes;
  }

  #apply(records: number, firstSeq: number, moved: number): void {
    const bytes = this.#log.bytes;
    const { at: recordAt, span } = this.#group;
    const { spaces } = this;
    spaces.lsn = this.#log.lastLsn;
    spaces.beginGroup(this.#publishedSeq, this.#holdsTogether);
    if (this.prepared.controls > 0) this.#applyResolves();
    if (records === span && this.#order.sort(bytes, recordAt, records, moved)) {
      const { order } = this.#order;
      for (let i = 0; i < records; i++) {
        const index = order[i]!;
        applyRecord(spaces, bytes, recordAt[index]! + moved, firstSeq + index, this.#blobs);
      }
      return;
    }
    let seq = firstSeq;
    for (let i = 0; i < records; i++) {
      seq = applyRecord(spaces, bytes, recordAt[i]! + moved, seq, this.#blobs);
    }
  }

  /** Their room is kept for them, but where a tree has grown meanwhile it may have become too little. */
  #applyResolves(): void {
    const { arena } = this;
    const before = arena.reserveMode;
    arena.reserveMode = true;
    try {
      this.prepared.apply(this.#publishedSeq);
    } finally {
      arena.reserveMode = before;
    }
  }

  #publish(lastSeq: number): void {
    this.#publishedSeq = lastSeq;
    publishTrees(this.arena, lastSeq);
    this.spaces.endGroup();
    this.arena.reclaim();
  }

  // ---- conditions and ranges ----------------------------------------------------------------------------------------------------------

  /**
   * Version of the entry that lives at `nowMs`, 0 if there is none. Sees published groups only; the caller ends a group that touches the key first.
   */
  versionOf(space: Space, key: Uint8Array, start: number, length: number, nowMs: number): number {
    return space.engine.versionOf(key, start, length, nowMs);
  }

  /**
   * The next up to `entriesMax` live entries from `low` (inclusive) on: how many, the bytes of their keys, and the key behind them (undefined: none
   * follows). Used to cut a clear into slices. Ordered engines only. Their pages are in memory then: see fetch(), which tells what is thrown.
   */
  sliceFrom(
    space: Space,
    low: Uint8Array | undefined,
    entriesMax: number,
  ): { entries: number; keyBytes: number; boundary: Buffer | undefined } {
    const cursor = this.spaces.cursorOf(space);
    const toFetch: Buffer[] | undefined = this.isPaged && space.engine.fetch !== undefined ? [] : undefined;
    let entries = 0;
    let keyBytes = 0;
    let boundary: Buffer | undefined;
    try {
      cursor.seek(this.arena.published(), low, low?.length ?? 0, Infinity, false, 1);
      for (; entries < entriesMax && cursor.valid; entries++, cursor.next()) {
        keyBytes += cursor.keyLength;
        toFetch?.push(keyOf(cursor));
      }
      if (cursor.valid) boundary = keyOf(cursor);
    } finally {
      cursor.release();
    }
    if (boundary !== undefined) toFetch?.push(boundary);
    for (const key of toFetch ?? []) space.engine.fetch!(key, 0, key.length);
    return { entries, keyBytes, boundary };
  }

  /** Sets the numbers of open snapshots for the group about to be applied; the array is kept. */
  setSnapshots(sorted: Float64Array, count: number): void {
    const planned = this.#planned;
    if (planned === undefined || planned.entrySpaces.length + planned.lsmSpaces.length === 0) {
      this.spaces.setSnapshots(sorted, count);
      return;
    }
    // The checkpoint reads engines without pages at its number. (B+Trees keep a version more than they must.)
    if (this.#withCheckpoint.length <= count) this.#withCheckpoint = new Float64Array(2 * count + 1);
    const all = this.#withCheckpoint;
    all.set(sorted.subarray(0, count));
    all[count] = planned.publishedSeq;
    all.subarray(0, count + 1).sort();
    this.spaces.setSnapshots(all, count + 1);
  }

  /** One slice of a sweep; publishes under the same sequence number. */
  sweep(state: TableSweep, pageBudget: number): void {
    this.spaces.sweep(state, this.#publishedSeq, pageBudget);
    this.#publish(this.#publishedSeq);
  }

  // ---- engines that work behind the groups ----------------------------------------------------------------------------------------------

  /** Whether work() has something to do now. */
  get hasWork(): boolean {
    return this.spaces.hasWork || this.#log.hasUnneeded || this.#lsm?.hasCondemned === true;
  }

  /** When it has something to do by itself, ms since the epoch; Infinity: never. */
  get workDueAtMs(): number {
    return this.spaces.workDueAtMs;
  }

  /**
   * Installs what jobs have done, orders new ones, deletes files nobody needs. Between groups, after setSnapshots(); publishes under the same sequence number
   * if something has changed.
   * @throws ERR_IO, ERR_PERMISSION: something cannot be written, and will not be
   */
  work(nowMs: number): void {
    this.#log.removeUnneeded();
    if (this.spaces.work(nowMs)) this.#publish(this.#publishedSeq);
    else this.arena.reclaim();
    // Of trees whose spaces are gone: nobody else may be left to do it.
    this.#lsm?.removeCondemned();
  }

  // ---- spaces ---------------------------------------------------------------------------------------------------------------------------

  /** Between groups. Harmless when it is open. @throws ERR_MEMORY_FULL */
  openSpace(definition: SpaceDefinition): void {
    this.spaces.open(definition);
    this.#publish(this.#publishedSeq);
  }

  /** Between groups. A space that a checkpoint is being written of must wait: see isCheckpointing. */
  dropSpace(spaceId: number): void {
    assert(!this.isCheckpointing, 'a space is dropped under a checkpoint');
    this.spaces.drop(spaceId);
    this.#publish(this.#publishedSeq);
  }

  /** A checkpoint reads engines that are changed in place: they must not go away. */
  get isCheckpointing(): boolean {
    return this.#planned !== undefined;
  }

  /**
   * One slice of moving a space to the engine defined for it. True when the space has it. Between groups.
   * @throws ERR_MEMORY_FULL: the space stays where it was
   */
  switchSlice(space: Space, budget: number): boolean {
    let isCopied;
    try {
      isCopied = this.spaces.switchSlice(space, this.#publishedSeq, budget);
    } catch (error) {
      this.spaces.cancelSwitch(space);
      this.#publish(this.#publishedSeq);
      throw error;
    }
    if (!isCopied || this.isCheckpointing) {
      this.#publish(this.#publishedSeq);
      return false;
    }
    const old = this.spaces.finishSwitch(space);
    this.#publish(this.#publishedSeq);
    // Readers of the old row still hold pins on what they read; the row is gone with the next publication.
    old.destroy();
    this.#publish(this.#publishedSeq);
    return true;
  }

  switchProgress(spaceId: number): SwitchProgress | undefined {
    return this.spaces.progress(spaceId);
  }

  // ---- expiry ---------------------------------------------------------------------------------------------------------------------------

  /**
   * Up to `entriesMax` entries whose time has come, for the caller to delete by a group of its own. Between groups; publishes if it dropped lines
   * that meant nothing any more.
   */
  collectExpired(nowMs: number, entriesMax: number): readonly ExpiredEntry[] {
    const expired: ExpiredEntry[] = [];
    if (this.spaces.collectExpired(nowMs, entriesMax, expired) > 0) this.#publish(this.#publishedSeq);
    return expired;
  }

  // ---- blobs --------------------------------------------------------------------------------------------------------------------------

  /** Whether the named blob has arrived completely, so that its final record may be logged. */
  hasBlob(client: number, blob: number, totalBytes: number): boolean {
    return this.#blobs.isComplete(client, blob, totalBytes);
  }

  /** The records of a batch that has arrived, for checking before it is logged. */
  batchBytes(client: number): Buffer | undefined {
    return this.#blobs.batchOf(client);
  }

  /** The client is gone or gave up: what it had sent of a blob is dropped. */
  dropBlob(client: number): void {
    const dropped = this.#blobs.drop(client);
    if (dropped !== undefined) this.#group.tellDropped(dropped);
  }

  // ---- checkpoints ----------------------------------------------------------------------------------------------------------------------

  /** Bytes of log a recovery would read now. */
  get logBytes(): number {
    return this.#log.sizeBytes;
  }

  /** Bytes of memory the data takes that a checkpoint would write. */
  get dataBytes(): number {
    let units = this.arena.stats().usedUnits;
    for (const { engine } of this.spaces.backgroundSpaces) {
      const { treeUnits, overflowUnits } = engine.counts();
      units -= treeUnits + overflowUnits;
    }
    return Math.max(0, units) * 4096;
  }

  /**
   * Whether the log is longer than it should be, and a checkpoint would make it shorter. An engine whose memory keeps too much of it from being cut is
   * told to write that to files first. Between groups.
   */
  wantsCheckpoint(checkpointLogBytes: number): boolean {
    const { logBytes } = this;
    if (logBytes <= checkpointLogBytes || logBytes <= this.dataBytes) return false;
    const needed = Math.min(this.spaces.neededFromLsn, this.prepared.neededFromLsn);
    if (needed === Infinity || logBytes - this.#log.bytesFrom(needed) > checkpointLogBytes) return true;
    for (const { engine } of this.spaces.backgroundSpaces) {
      const { background } = engine;
      if (background === undefined || background.neededFromLsn === Infinity) continue;
      const heldBytes = this.#log.bytesFrom(background.neededFromLsn);
      if (heldBytes > checkpointLogBytes + 2 * background.logBytesMax) background.freezeBefore(Infinity);
    }
    return false;
  }

  /**
   * While nobody writes: whether engines have in files all that the log holds, so that a checkpoint, which is small, makes an end of the log. Between groups.
   */
  get wantsQuietCheckpoint(): boolean {
    const { logBytes } = this;
    if (logBytes <= QUIET_LOG_BYTES || logBytes <= this.dataBytes || !this.spaces.hasBackgrounds) return false;
    return this.#neededFromLsn === Infinity && this.#replayFromLsn <= this.#log.lastLsn;
  }

  /** The first frame that only the log has something of; Infinity: there is none. */
  get #neededFromLsn(): number {
    return Math.min(this.spaces.neededFromLsn, this.prepared.neededFromLsn, this.#blobs.neededFromLsn);
  }

  get log(): GroupLog {
    return this.#log;
  }

  get checkpointLsn(): number {
    return this.#checkpointLsn;
  }

  /**
   * One slice of what the next beginCheckpoint() would have to write at once. True when there is little left. Between groups.
   * @throws ERR_DISK_FULL, ERR_IO
   */
  prepareCheckpoint(): boolean {
    return writePaged(this.arena, PAGES_PER_SLICE);
  }

  /** Pins the published state for a checkpoint job; the log is synced first, so the checkpoint never holds what the log could still lose. */
  beginCheckpoint(): CheckpointPlan {
    assert(this.#pin === undefined, 'one checkpoint at a time');
    // All that is written of a page file's tree is written here and now; the job only syncs it.
    preparePaged(this.arena);
    // Log that the last checkpoint could not cut is to go with the next one.
    for (const { engine } of this.spaces.backgroundSpaces) engine.background?.freezeBefore(this.#checkpointLsn);
    // What a copy of the store brought, if it could not be written when it was opened.
    this.spaces.relieve(this.#options.env.now(), true);
    this.#publish(this.#publishedSeq);
    this.sync();
    const pagedRoots = capturePaged(this.arena, (tag) => spaceIdOfTag(tag) !== BUILDING_SPACE_ID);
    this.#pin = this.arena.pinLong();
    const lsn = this.#log.lastLsn;
    const entrySpaces: number[] = [];
    const lsmSpaces: number[] = [];
    for (const { id, engine } of this.spaces.all) {
      if (engine.background !== undefined) lsmSpaces.push(id);
      else if (engine.code !== EngineCode.btree) entrySpaces.push(id);
    }
    this.#planned = {
      metaUnit: this.#pin.metaUnit,
      lsn,
      replayFromLsn: Math.min(lsn + 1, this.#neededFromLsn),
      publishedSeq: this.#publishedSeq,
      entrySpaces,
      pagedRoots,
      lsmSpaces,
      lsmRoots: this.#lsm?.capture() ?? [],
    };
    return this.#planned;
  }

  /** The job ended. With `durable`, the file is on disk under its final name: older checkpoints go, the log is truncated. */
  endCheckpoint(durable: boolean): void {
    const plan = this.#planned;
    assert(this.#pin !== undefined && plan !== undefined, 'no checkpoint is open');
    this.arena.unpinLong(this.#pin);
    this.#pin = undefined;
    this.#planned = undefined;
    const { env, directory } = this.#options;
    if (!durable || directory === undefined) return;
    this.#checkpointLsn = plan.lsn;
    this.#replayFromLsn = plan.replayFromLsn;
    removeCheckpointsBefore(env, directory, plan.lsn);
    confirmPaged(this.arena, plan.pagedRoots);
    this.#lsm?.confirm(plan.lsmRoots);
    this.#log.truncate(plan.replayFromLsn - 1, true);
  }

  /** Everything is written and synced; files are closed. */
  close(): void {
    try {
      if (!this.#options.readOnly) this.sync();
    } finally {
      closePaged(this.arena);
      this.#lsm?.close();
      LsmFiles.known(this.arena)?.close();
      this.#log.close();
    }
  }
}

function keyOf(cursor: EngineCursor): Buffer {
  const key = Buffer.alloc(cursor.keyLength);
  cursor.copyKey(key, 0);
  return key;
}
