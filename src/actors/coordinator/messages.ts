/**
 * What a shard and the coordinator tell each other besides the commit board, over a MessagePort of their own. The host makes a pair for each shard, and
 * a new one when either thread is replaced: what was under way on the old one is lost, and both sides bear that. A port that closes means that the other
 * thread is gone. Threads: any; plain data.
 */
import type { LockModeName } from '../shard/request.js';

export type ShardToCoordinator = WaitMessage | UnwaitMessage | ConfirmedMessage | AskMessage;
export type CoordinatorToShard = ConfirmMessage | KillMessage | OutcomeMessage;

/** A transaction waits for a lock here, or for others than before. */
export interface WaitMessage {
  readonly type: 'wait';
  readonly shard: number;
  readonly txn: number;
  /** Unique among the waits of this life of the shard's thread. */
  readonly wait: number;
  /** Ids of transactions that hold what it waits for, or stand before it. */
  readonly blockers: readonly number[];
  /** UTF-8 text, or 0x and hex digits. */
  readonly key: string;
  readonly space: number;
  readonly mode: LockModeName;
  readonly priority: number;
  readonly age: number;
}

export interface UnwaitMessage {
  readonly type: 'unwait';
  readonly shard: number;
  readonly txn: number;
  readonly wait: number;
}

/** Do these waits stand now, each for that blocker? */
export interface ConfirmMessage {
  readonly type: 'confirm';
  readonly check: number;
  readonly waits: readonly { readonly txn: number; readonly wait: number; readonly blocker: number }[];
}

export interface ConfirmedMessage {
  readonly type: 'confirmed';
  readonly shard: number;
  readonly check: number;
  /** All of them. */
  readonly holds: boolean;
}

/** The wait ends with ERR_DEADLOCK. */
export interface KillMessage {
  readonly type: 'kill';
  readonly txn: number;
  readonly wait: number;
  readonly cycle: readonly {
    readonly txn: number;
    readonly waitsFor: number;
    readonly shard: number;
    readonly space: number;
    readonly key: string;
    readonly mode: LockModeName;
  }[];
}

/** The transaction of a client is prepared here and nothing is heard of its outcome. To be asked again until there is an answer. */
export interface AskMessage {
  readonly type: 'ask';
  readonly shard: number;
  readonly txn: number;
  readonly client: number;
}

/**
 * The answer. Committed: it stands on the commit board, or will, or was applied here already; nothing is to be done for the message. Not committed: it never
 * will be; what is prepared goes. No answer: not known yet.
 */
export interface OutcomeMessage {
  readonly type: 'outcome';
  readonly txn: number;
  readonly isCommitted: boolean;
}
