/** Scenes for the coordinator: a decision log on some Env, a board and shards that apply when they are told. */
import { CommitBoard, commitBoardBytes } from '../../../dist/actors/commit-board.js';
import { DecisionLog, type DecisionLogOptions } from '../../../dist/engines/txn/decision-log.js';
import type { Env } from '../../../dist/shared/env/env.js';
import { ConcordError, type ErrorRecord } from '../../../dist/shared/errors.js';

export const DIRECTORY = '/store/coordinator';
export const STORE_ID = Buffer.from('00112233445566778899aabbccddeeff', 'hex');
export const SHARDS = 3;
export const SEGMENT_BYTES = 64 << 10;

export function logOptions(env: Env, more: Partial<DecisionLogOptions> = {}): DecisionLogOptions {
  return { env, directory: DIRECTORY, storeId: STORE_ID, shards: SHARDS, segmentBytes: SEGMENT_BYTES, ...more };
}

export function openLog(env: Env, more: Partial<DecisionLogOptions> = {}): DecisionLog {
  return DecisionLog.open(logOptions(env, more));
}

export function idsOf(log: DecisionLog): { decided: number[]; fenced: number[] } {
  return { decided: [...log.recovered.decided.keys()], fenced: [...log.recovered.fenced.keys()] };
}

/** The coded error a call throws; fails the test when it returns. */
export function failure(call: () => unknown): ConcordError {
  try {
    call();
  } catch (error) {
    if (error instanceof ConcordError) return error;
    throw error;
  }
  throw new Error('it did not throw');
}

export function newBoard(shards = SHARDS): CommitBoard {
  return new CommitBoard(new SharedArrayBuffer(commitBoardBytes(shards)), 0, shards);
}

export type Answer = 'done' | ErrorRecord;
