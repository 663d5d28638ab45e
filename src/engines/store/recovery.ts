/**
 * The recovery of one shard: the memory of a writer that died, or the newest checkpoint, then the log behind it.
 *
 *   arena: adopted, or empty ──▶ checkpoint ──▶ files of trees ──▶ log: replay.ts ──▶ a log to go on with
 *
 * Must hold: what was published is published again, with the same numbers; new numbers begin behind all that is in files, whatever the log has lost. Files that a
 * replay fills are never ahead of a log that is not on the disk. Read only: no file is touched.
 * Threads: the shard's thread, before it serves anybody.
 */
import { dirname } from 'node:path';
import { ConcordError } from '../../shared/errors.js';
import type { Env } from '../../shared/env/env.js';
import { ArenaWriter } from '../../shared/memory/arena.js';
import { publishTrees, publishedSeqOf } from '../btree/meta.js';
import { cacheOwnerOfShard } from '../btree/paged/cold-pages.js';
import { attachPaging, coldLayout, finishPagedLoad } from '../btree/paged/paging.js';
import { findCheckpoint, readCheckpoint, removeTemporaryCheckpoints } from '../checkpoint/reader.js';
import { DEFAULT_SPACE_ID } from '../engine.js';
import { FrameRingWriter } from '../feed/frame-ring.js';
import { attachLsm, lsmSiteOf } from '../lsm/attach.js';
import { LsmFiles } from '../lsm/read/files.js';
import { segmentGeneration } from '../wal/format.js';
import { recoverWal, type WalRecovery } from '../wal/recovery.js';
import { WalWriter } from '../wal/writer.js';
import type { DroppedBlob } from './blobs.js';
import { MemoryLog, type GroupLog } from './group-log.js';
import { loadCheckpoint } from './load-checkpoint.js';
import type { ShardStoreOptions } from './options.js';
import { PrepareJournal } from './prepare-journal.js';
import { PREPARED_MAX, PreparedTransactions } from './prepared.js';
import { Replay } from './replay.js';
import type { SpaceDefinition } from './space.js';
import { SpaceTable, markRows } from './space-table.js';

const ONLY_DEFAULT_SPACE: readonly SpaceDefinition[] = [{ id: DEFAULT_SPACE_ID, engine: 'btree', tuning: {} }];

export interface RecoveryReport {
  /** Entries and bytes that came from the checkpoint file; undefined when there was none. */
  readonly checkpoint: { readonly path: string; readonly lsn: number } | undefined;
  readonly wal: WalRecovery | undefined;
  readonly operationsReplayed: number;
  /** Transactions that are prepared here, and wait for the decision. */
  readonly prepared: readonly number[];
  /** Salvage: those that were prepared before frames that are lost. What became of them is not known: they are given up. */
  readonly abandoned: readonly number[];
}

/** What a store begins with. */
export interface RecoveredShard {
  readonly arena: ArenaWriter;
  readonly spaces: SpaceTable;
  readonly prepared: PreparedTransactions;
  readonly log: GroupLog;
  readonly report: RecoveryReport;
  readonly publishedSeq: number;
  /** Blobs without an end: the log is to say that they are given up. */
  readonly dropped: readonly DroppedBlob[];
}

/** @throws ERR_CORRUPT, ERR_FORMAT_VERSION, ERR_MEMORY_FULL, ERR_IO, ERR_PERMISSION, ERR_DISK_FULL */
export function recoverShard(options: ShardStoreOptions): RecoveredShard {
  const { directory } = options;
  const exists = directory !== undefined && findOrMake(directory, options);
  const found = exists && !options.ignoreCheckpoint ? findCheckpoint(options.env, directory) : undefined;
  const arena = openArena(options);
  const { spaces, replayFromLsn } = openSpaces(arena, found?.path, options);
  const base = publishedSeqOf(arena, arena.published());
  const { prepareJournal } = options;
  const journal = prepareJournal === undefined ? undefined : new PrepareJournal(prepareJournal, PREPARED_MAX);
  const prepared = new PreparedTransactions(spaces, journal);
  if (directory === undefined) {
    prepared.endReplay();
    const ring = options.feedRing === undefined ? undefined : new FrameRingWriter(options.feedRing, base);
    const report: RecoveryReport = {
      checkpoint: undefined,
      wal: undefined,
      operationsReplayed: 0,
      prepared: Array.from(prepared.all, ({ id }) => id),
      abandoned: [],
    };
    return { arena, spaces, prepared, log: new MemoryLog(ring), report, publishedSeq: base, dropped: [] };
  }
  const replay = new Replay(spaces, prepared, arena, base, options);
  holdFilesBack(arena, directory, options);
  const wal = recoverWal(options.env, directory, {
    storeId: options.storeId,
    shard: options.shard,
    fromLsn: replayFromLsn,
    syncedLsn: found?.lsn,
    mode: options.recoveryMode ?? 'tolerate-torn-tail',
    mustExist: exists && !options.isNew,
    onFrame: (frame) => {
      replay.frame(frame);
    },
  });
  const dropped = replay.finish();
  const lostUpTo = wal.losses.reduce((lsn, { lsnFrom, lsnTo }) => Math.max(lsn, lsnTo ?? lsnFrom), 0);
  const abandoned = prepared.forgetBefore(lostUpTo);
  prepared.endReplay();
  // Numbers go on behind all that is in files, whatever the log has lost.
  const publishedSeq = Math.max(replay.publishedSeq, spaces.storedSeqMax);
  if (publishedSeq > replay.publishedSeq) publishTrees(arena, publishedSeq);
  // What the log has lost must not be met again: with all of the rest in files, the checkpoint that follows needs nothing from before it.
  if (passesOver(wal, options) && spaces.relieveAll(options.env.now())) publishTrees(arena, publishedSeq);
  // The log of the dead writer ended before its memory did (memory level): files are to have what no log has.
  if (base > replay.logSeq && options.adopt) {
    for (const { engine } of spaces.backgroundSpaces) engine.background?.freezeBefore(Infinity);
  }
  const report: RecoveryReport = {
    checkpoint: found,
    wal,
    operationsReplayed: replay.operations,
    prepared: Array.from(prepared.all, ({ id }) => id),
    abandoned,
  };
  return { arena, spaces, prepared, log: openLog(directory, options, wal), report, publishedSeq, dropped };
}

/** Whether the log begins anew behind something that a lenient mode did not read. */
function passesOver({ cut, losses }: WalRecovery, { adopt, readOnly, recoveryMode }: ShardStoreOptions): boolean {
  if (adopt || readOnly || (recoveryMode !== 'point-in-time' && recoveryMode !== 'salvage')) return false;
  return cut !== undefined || losses.length > 0;
}

/** Whether the shard's directory was there; it is afterwards, unless nothing is to be written. @throws ERR_CORRUPT: it has to be */
function findOrMake(directory: string, { env, shard, isNew, readOnly }: ShardStoreOptions): boolean {
  const exists = env.exists(directory);
  if (!exists && (!isNew || readOnly)) {
    throw new ConcordError('ERR_CORRUPT', `${directory}: the directory of shard ${shard} is missing`, {
      file: directory,
      shard,
    });
  }
  if (readOnly) return exists;
  if (exists) removeTemporaryCheckpoints(env, directory);
  else {
    env.makeDirectory(directory);
    env.syncDirectory(dirname(directory));
  }
  return exists;
}

/** With what engines need that have files of their own. */
function openArena(options: ShardStoreOptions): ArenaWriter {
  const { env, directory, storeId, shard } = options;
  // Whoever starts a successor has ended the jobs that read for checkpoints.
  if (options.adopt) ArenaWriter.endLongPins(options.arena);
  const arena = options.adopt ? ArenaWriter.adopt(options.arena, markRows) : new ArenaWriter(options.arena);
  if (directory === undefined) return arena;
  const readOnly = options.readOnly === true;
  const layout = options.arena.cold ?? coldLayout(directory, storeId, shard, undefined);
  attachPaging(arena, env, layout, readOnly);
  LsmFiles.attach(arena, env, layout, cacheOwnerOfShard(shard));
  const { jobs, rate } = options;
  attachLsm(arena, { env, layout, jobs, rate, readOnly, adopted: options.adopt === true });
  return arena;
}

/** All spaces, as the checkpoint or the adopted arena has them, and the first frame that is to be replayed. */
function openSpaces(
  arena: ArenaWriter,
  checkpoint: string | undefined,
  options: ShardStoreOptions,
): { spaces: SpaceTable; replayFromLsn: number } {
  const { env, storeId, shard, adopt, ignoreCheckpoint } = options;
  const definitions = options.spaces ?? ONLY_DEFAULT_SPACE;
  const site = lsmSiteOf(arena);
  let replayFromLsn = 1;
  let spaces: SpaceTable | undefined;
  if (checkpoint !== undefined) {
    const reader = readCheckpoint(env, checkpoint, { storeId, shard });
    try {
      replayFromLsn = reader.header.replayFromLsn ?? reader.header.lsn + 1;
      if (site !== undefined) site.adoptedFromLsn = replayFromLsn;
      if (!adopt) spaces = loadCheckpoint(arena, reader, definitions, options);
    } finally {
      reader.close();
    }
  }
  spaces ??= new SpaceTable(arena, definitions);
  // A damaged checkpoint may still be wanted with its files.
  if (!adopt && !ignoreCheckpoint) finishPagedLoad(arena);
  if (!ignoreCheckpoint) site?.finishLoad();
  else if (!adopt) site?.loadByManifests();
  // A row that is new, or was given up, shows.
  publishTrees(arena, publishedSeqOf(arena, arena.published()));
  return { spaces, replayFromLsn };
}

/** Files that a replay fills must not outlive the rest of their groups, which the log alone may have, and not on disk yet. */
function holdFilesBack(arena: ArenaWriter, directory: string, { env, readOnly }: ShardStoreOptions): void {
  const site = lsmSiteOf(arena);
  if (site === undefined || readOnly) return;
  site.syncLog = () => {
    syncSegments(env, directory);
    site.syncLog = () => undefined;
  };
}

function openLog(directory: string, options: ShardStoreOptions, found: WalRecovery): GroupLog {
  const { env, storeId, shard, segmentBytes, retainBytes } = options;
  if (options.readOnly) return new MemoryLog();
  const walOptions = { storeId, shard, ...(segmentBytes === undefined ? {} : { segmentBytes }), retainBytes };
  return WalWriter.open(env, directory, walOptions, found);
}

/** What a process that was killed had written of its log, and perhaps not synced. @throws ERR_IO */
function syncSegments(env: Env, directory: string): void {
  for (const name of env.list(directory)) {
    if (segmentGeneration(name) === undefined) continue;
    const file = env.open(`${directory}/${name}`, 'write');
    try {
      file.sync();
    } finally {
      file.close();
    }
  }
}
