import type { CompactionPlan } from './plan.js';
import type { CompactionTask, LsmIdentity, LsmOptions, RangeTombstone, TableInfo } from '../types.js';

/** What tasks need besides the plan. */
export interface TaskContext {
  readonly directory: string;
  readonly identity: LsmIdentity;
  readonly options: LsmOptions;
  readonly snapshots: readonly number[];
  readonly tombstones: readonly RangeTombstone[];
  readonly nowMs: number;
  /** Reserves so many numbers of files that follow each other; returns the first. */
  readonly takeFiles: (count: number) => number;
  readonly cancel: Int32Array;
  readonly rate: SharedArrayBuffer | undefined;
  /** Keys that cut a table into parts of about equal size, ascending; left out: only the bounds of tables are known. */
  readonly samplesOf?: ((table: TableInfo) => readonly Uint8Array[]) | undefined;
}

export function tasksOf(plan: CompactionPlan, context: TaskContext, parallelism: number): CompactionTask[] {
  void plan;
  void context;
  void parallelism;
  return [];
}
