/**
 * What the picker is shown and what it answers: plain data.
 *
 *   PickState ── pickCompaction() ──▶ CompactionPlan ── tasksOf() ──▶ CompactionTask …   (kind 'merge')
 *                                          └──────────▶ one edit of the manifest         (kinds 'move' and 'drop')
 *
 * Threads: any; the shard's writer owns the state.
 */
import type { BlobFileInfo, LsmOptions, RangeTombstone, TableInfo } from '../types.js';

/** A tree as its manifest and its memtables have it, between two groups. */
export interface PickState {
  /** In any order; those of running plans among them. */
  readonly tables: readonly TableInfo[];
  readonly blobs: readonly BlobFileInfo[];
  /**
   * Those that stand in the manifest, and no others: what a tombstone hides is dropped for good, so it must not be one that a crash may still take away with the
   * end of the log. (A flush is given those of its memtable's time as well: they enter the manifest with its tables.)
   */
  readonly tombstones: readonly RangeTombstone[];
  /** Open snapshots, ascending. */
  readonly snapshots: readonly number[];
  /** Smallest number that an operation in a memtable, active or frozen, may have; Infinity if all are empty. */
  readonly memtableSeq: number;
  readonly nowMs: number;
  /** Nothing else has to be done: garbage below the thresholds is looked for as well. */
  readonly isIdle: boolean;
  /** Nothing has been written for a while, and nothing is being flushed. */
  readonly isQuiet?: boolean | undefined;
  readonly manual?: ManualRange | undefined;
}

/** A compaction that somebody asked for: keys in [low, high), undefined: open. */
export interface ManualRange {
  readonly low: Uint8Array | undefined;
  readonly high: Uint8Array | undefined;
  /** What is newer came after it was asked for, and may stay where it is. */
  readonly upToSeq: number;
  /**
   * Tables that were written from this number on are the outcome of the same request: those of the last level are not written again. The next number of
   * a file when it was asked for.
   */
  readonly firstFile: number;
}

export type CompactionCause =
  | 'level0'
  | 'size'
  | 'runs'
  | 'space'
  | 'fifo'
  | 'manual'
  | 'blobs'
  | 'tombstones'
  | 'expired'
  | 'range-tombstones'
  | 'quiet';

export interface CompactionPlan {
  /**
   * merge: tasksOf() makes jobs of it. When all have ended well: the inputs go, the outputs come, in one edit.
   * move: the inputs go to outputLevel as they are: the edit removes them and adds them with that level and run 0.
   * drop: the inputs go, if there are any. No job.
   */
  readonly kind: 'merge' | 'move' | 'drop';
  readonly cause: CompactionCause;
  /** Higher is more urgent; from 1 on it must be done, below it may. */
  readonly score: number;
  /** Runs newest first; each a list of tables in key order, never empty. */
  readonly inputs: readonly (readonly TableInfo[])[];
  readonly outputLevel: number;
  readonly outputRun: number;
  /** Bounds of all inputs. Undefined if there are none. */
  readonly smallest: Uint8Array | undefined;
  readonly largest: Uint8Array | undefined;
  /** Tables older than the inputs, their ranges in key order, put together where they overlap. */
  readonly olderRanges: readonly (readonly [smallest: Uint8Array, largest: Uint8Array])[];
  /** Of the level below the output level. */
  readonly grandparents: readonly TableInfo[];
  readonly collectBlobs: readonly number[];
  /** For the same edit: range tombstones that hide nothing any more, and blob files that nothing refers to. */
  readonly removedTombstones: readonly RangeTombstone[];
  readonly removedBlobs: readonly number[];
}

export interface PickContext {
  readonly state: PickState;
  readonly options: LsmOptions;
  /** Plans whose jobs run. */
  readonly busy: readonly CompactionPlan[];
}
