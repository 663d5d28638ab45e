/**
 * Channels of node:diagnostics_channel, for those who want to see single calls. Costs nothing that can be measured while nobody listens.
 *
 *   tracingChannel('concordkv:operation')   asynchronous calls, and begin(): start, end, asyncStart, asyncEnd, error, in the calling thread
 *   concordkv:checkpoint · concordkv:lsm · concordkv:switch · concordkv:shard          messages, in the thread that opened the pool
 *
 * docs/metrics.md describes the messages. Threads: any.
 */
import { channel, tracingChannel } from 'node:diagnostics_channel';

export type TracedOperation =
  | 'get'
  | 'getMany'
  | 'getEntry'
  | 'has'
  | 'count'
  | 'iterate'
  | 'put'
  | 'del'
  | 'update'
  | 'batch'
  | 'transaction'
  | 'begin'
  | 'commit'
  | 'rollback'
  | 'clear'
  | 'flush'
  | 'snapshot'
  | 'compact'
  | 'switchEngine';

/** What subscribers of concordkv:operation are given: one object per call, to which they may add. */
export interface OperationContext {
  readonly operation: TracedOperation;
  /** Empty: the pool's own. */
  readonly space: string;
  /** As the caller gave it. */
  readonly key?: unknown;
  /** Of writes. */
  readonly durability?: string;
  /** Of commit and rollback: the transaction's id. */
  readonly transaction?: number;
  /** Of batch and getMany: how many it was given; of iterate: how many the chunk holds, set before asyncEnd. */
  entries?: number;
  /** Set before `error`, by Node. */
  error?: unknown;
  /** Set before `asyncStart`, by Node. */
  result?: unknown;
}

export interface CheckpointMessage {
  readonly shard: number;
  readonly directory: string;
  readonly durationMs: number;
  /** Why it was not written. */
  readonly error?: unknown;
}

export interface SwitchMessage {
  readonly event: 'begin' | 'done' | 'failed';
  readonly space: string;
  /** Where it moves to. */
  readonly engine: string;
  readonly durationMs?: number;
  readonly error?: unknown;
}

export interface ShardMessage {
  readonly event: 'restarted' | 'failed';
  readonly shard: number;
  readonly error: unknown;
}

/** A flush or a compaction of an LSM-Tree. */
export interface LsmJobMessage {
  readonly event: 'begin' | 'end';
  readonly kind: 'flush' | 'compact';
  readonly shard: number;
  /** Of the tree's files. */
  readonly directory: string;
  /** At the end. It may have waited for a thread first. */
  readonly durationMs?: number;
  readonly readBytes?: number;
  readonly writtenBytes?: number;
  readonly entriesIn?: number;
  readonly entriesOut?: number;
  /** Why it failed; ERR_CLOSED: it was cancelled. */
  readonly error?: unknown;
}

const operations = tracingChannel<unknown, OperationContext>('concordkv:operation');
const { start, end, asyncStart, asyncEnd, error } = operations;

const checkpoints = channel('concordkv:checkpoint');
const switches = channel('concordkv:switch');
const shards = channel('concordkv:shard');
const lsmJobs = channel('concordkv:lsm');

/** Whether somebody listens to operations. (A tracing channel has no such property in every version of Node.) */
export function isTraced(): boolean {
  return (
    start.hasSubscribers ||
    end.hasSubscribers ||
    asyncStart.hasSubscribers ||
    asyncEnd.hasSubscribers ||
    error.hasSubscribers
  );
}

/** Runs the call and tells of it. */
export function traced<T>(context: OperationContext, run: () => Promise<T>): Promise<T> {
  return operations.tracePromise(run, context);
}

/** The same of a call that does not wait: start, then end. */
export function tracedSync<T>(context: OperationContext, run: () => T): T {
  return operations.traceSync(run, context);
}

export function tellCheckpoint(message: CheckpointMessage): void {
  if (checkpoints.hasSubscribers) checkpoints.publish(message);
}

export function tellSwitch(message: SwitchMessage): void {
  if (switches.hasSubscribers) switches.publish(message);
}

export function tellShard(message: ShardMessage): void {
  if (shards.hasSubscribers) shards.publish(message);
}

export function tellLsmJob(message: LsmJobMessage): void {
  if (lsmJobs.hasSubscribers) lsmJobs.publish(message);
}
