/**
 * What a shard and the coordinator tell each other besides the commit board, over a MessagePort of their own. The host makes a pair for each shard, and
 * a new one when either thread is replaced: what was under way on the old one is lost, and both sides bear that. Threads: any; plain data.
 */
import type { CycleEdge, EdgeQuestion } from '../../engines/txn/wait-graph.js';

export type ShardToCoordinator =
  /** The shard's thread, or the port, is new: what was told of waits before means nothing any more. All that go on follow. */
  | { readonly type: 'hello'; readonly shard: number }
  | WaitMessage
  | { readonly type: 'unwait'; readonly shard: number; readonly txn: number; readonly wait: number }
  | { readonly type: 'confirmed'; readonly shard: number; readonly check: number; readonly holds: boolean }
  | AskMessage;

export type CoordinatorToShard =
  /** Have these waits gone on, each for that blocker, since that revision? */
  | { readonly type: 'confirm'; readonly check: number; readonly waits: readonly EdgeQuestion[] }
  /** The wait ends with ERR_DEADLOCK. */
  | { readonly type: 'kill'; readonly txn: number; readonly wait: number; readonly cycle: readonly CycleEdge[] }
  | OutcomeMessage;

/** A transaction waits for a lock here, or for others than before. */
export interface WaitMessage {
  readonly type: 'wait';
  readonly shard: number;
  readonly txn: number;
  /** Unique among the waits of this life of the shard's thread. */
  readonly wait: number;
  /** Counts the changes of the blockers, from 1. */
  readonly revision: number;
  /** Ids of transactions that hold what it waits for, or stand before it. */
  readonly blockers: readonly number[];
  readonly priority: number;
  readonly age: number;
  readonly space: number;
  /** In words; bytes are put into words by who tells of them. */
  readonly key: string | Uint8Array | undefined;
  readonly mode: string;
}

/** The transaction is prepared here and nothing is heard of its outcome. To be asked again until there is an answer. */
export interface AskMessage {
  readonly type: 'ask';
  readonly shard: number;
  readonly txn: number;
  /** Slot of its client, if that is known: what was given up is forgotten when that client has gone. */
  readonly client?: number | undefined;
}

/**
 * The answer. Committed: it stands on the commit board, or will, or was applied here already; nothing is to be done for the message. Not committed: it never
 * will be; what is prepared goes. No answer: not known yet.
 */
export interface OutcomeMessage {
  readonly type: 'outcome';
  readonly txn: number;
  readonly committed: boolean;
}
