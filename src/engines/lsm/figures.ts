/** What an LSM-Tree tells of itself, for stats and metrics: plain data. Counters begin with the writer. Threads: any. */
import type { WriteFlow } from './types.js';

export interface LevelFigures {
  readonly level: number;
  readonly tables: number;
  /** Sorted runs: level 0 has several, the others one or none. */
  readonly runs: number;
  /** Of the files. */
  readonly bytes: number;
  readonly entries: number;
  readonly tombstones: number;
  /** Of keys and values as they were put. */
  readonly rawBytes: number;
}

export interface LsmFigures {
  readonly tree: number;
  readonly levels: readonly LevelFigures[];
  readonly blobFiles: number;
  readonly blobBytes: number;
  /** Of blob records that no table refers to. */
  readonly blobGarbageBytes: number;
  readonly rangeTombstones: number;
  /** Memory of the active memtable and of the frozen ones. */
  readonly memtableBytes: number;
  readonly frozenMemtables: number;
  readonly frozenBytes: number;
  /** Memory of table metadata, versions and the state page. */
  readonly metadataBytes: number;
  readonly flow: WriteFlow;
  readonly pendingDebtBytes: number;
  readonly runningJobs: number;
  /** Files that go when their last readers have left. */
  readonly obsoleteFiles: number;
  /** Keys and values that were put. */
  readonly userBytes: number;
  readonly flushes: number;
  readonly flushedBytes: number;
  readonly flushMs: number;
  readonly compactions: number;
  readonly trivialMoves: number;
  readonly compactionReadBytes: number;
  readonly compactionWrittenBytes: number;
  readonly compactionMs: number;
  readonly failedJobs: number;
  /** Bytes of tables and blob files written per byte that was put; 0 before the first flush. */
  readonly writeAmplification: number;
  /** Tables that a read of an absent key would look at without filters. */
  readonly readAmplification: number;
  /** Bytes of files per byte of the last level. */
  readonly spaceAmplification: number;
}
