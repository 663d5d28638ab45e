/** Write-ahead log of one shard: recovery. */
import type { Env } from '../../shared/env/env.js';

export type WalRecoveryMode = 'tolerate-torn-tail' | 'strict' | 'point-in-time' | 'salvage';

/** Reused between calls: valid only inside onFrame. */
export interface WalFrame {
  lsn: number;
  firstSeq: number;
  operationCount: number;
  /** The payload is bytes[start, end). */
  bytes: Buffer;
  start: number;
  end: number;
  file: string;
  /** Of the frame in its file. */
  offset: number;
}

export interface WalRecoveryOptions {
  readonly storeId: Uint8Array;
  readonly shard: number;
  /** The first LSN wanted: one more than the checkpoint's, 1 without a checkpoint. */
  readonly fromLsn: number;
  /** Default 'tolerate-torn-tail'. */
  readonly mode?: WalRecoveryMode;
  /** No segment at all is an error (the store was in use before). Default false. */
  readonly mustExist?: boolean;
  readonly onFrame: (frame: WalFrame) => void;
}

export interface WalCut {
  readonly file: string;
  readonly offset: number;
  readonly lsn: number;
  readonly reason: string;
}

export interface WalLoss {
  readonly file: string;
  readonly offset: number;
  readonly lsnFrom: number;
  /** Undefined: unknown, nothing valid follows. */
  readonly lsnTo: number | undefined;
  readonly reason: string;
}

export interface WalSegmentInfo {
  readonly path: string;
  readonly generation: number;
  readonly firstLsn: number;
  readonly usedBytes: number;
}

export interface WalRecovery {
  /** The last LSN recovered, or fromLsn - 1. The writer goes on with the next. */
  readonly lastLsn: number;
  readonly nextGeneration: number;
  /** Delivered to onFrame. */
  readonly frames: number;
  readonly bytes: number;
  readonly cut: WalCut | undefined;
  readonly losses: readonly WalLoss[];
  readonly segments: readonly WalSegmentInfo[];
  /** Frames not known to be durable; WalWriter.open() writes them again and syncs before it goes on. */
  readonly unsyncedTail: { readonly path: string; readonly from: number; readonly to: number } | undefined;
}

export declare function recoverWal(env: Env, directory: string, options: WalRecoveryOptions): WalRecovery;
