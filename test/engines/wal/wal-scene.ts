/** Scenes for log tests: a directory on some Env, frames that verify themselves, and tools to damage files. */
import { WalWriter } from '../../../dist/engines/wal/writer.js';
import type { WalOptions } from '../../../dist/engines/wal/writer.js';
import { recoverWal } from '../../../dist/engines/wal/recovery.js';
import type { WalRecovery, WalRecoveryOptions } from '../../../dist/engines/wal/recovery.js';
import { ConcordError } from '../../../dist/shared/errors.js';
import type { Env } from '../../../dist/shared/env/env.js';

export const DIRECTORY = '/store/wal';
export const STORE_ID = Buffer.from('00112233445566778899aabbccddeeff', 'hex');
export const SHARD = 3;
export const SMALL: WalOptions = { storeId: STORE_ID, shard: SHARD, segmentBytes: 64 << 10, preallocateBytes: 4096 };

/** A record as the tests know it: the payload follows from lsn, seed and size. */
export interface Record {
  readonly lsn: number;
  readonly firstSeq: number;
  readonly operationCount: number;
  readonly payload: string;
}

export function payloadOf(lsn: number, payloadBytes: number, salt = 0): Buffer {
  const payload = Buffer.alloc(payloadBytes);
  let state = (Math.imul(lsn, 0x9e3779b1) ^ Math.imul(salt + 1, 0x85ebca6b)) >>> 0;
  for (let i = 0; i < payloadBytes; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    payload[i] = state >>> 24;
  }
  return payload;
}

export function append(
  writer: WalWriter,
  payload: Uint8Array,
  firstSeq = writer.lastLsn + 100,
  operationCount = 1,
  buffered = false,
): Record {
  writer.begin();
  writer.ensure(payload.length);
  writer.bytes.set(payload, writer.position);
  writer.position += payload.length;
  const lsn = writer.commit(firstSeq, operationCount, buffered);
  return { lsn, firstSeq, operationCount, payload: Buffer.from(payload).toString('hex') };
}

export function appendMany(writer: WalWriter, count: number, payloadBytes = 40): Record[] {
  return Array.from({ length: count }, () => append(writer, payloadOf(writer.lastLsn + 1, payloadBytes)));
}

export interface Recovered extends WalRecovery {
  readonly records: Record[];
}

export function recover(env: Env, options: Partial<WalRecoveryOptions> = {}): Recovered {
  const records: Record[] = [];
  const recovery = recoverWal(env, DIRECTORY, {
    storeId: STORE_ID,
    shard: SHARD,
    fromLsn: 1,
    onFrame: (frame) => {
      records.push({
        lsn: frame.lsn,
        firstSeq: frame.firstSeq,
        operationCount: frame.operationCount,
        payload: frame.bytes.toString('hex', frame.start, frame.end),
      });
    },
    ...options,
  });
  return { ...recovery, records };
}

export function lsns(records: readonly { lsn: number }[]): number[] {
  return records.map((record) => record.lsn);
}

/** The coded error a call throws; fails the test when it returns. */
export function failure(call: () => unknown): ConcordError {
  try {
    call();
  } catch (error) {
    if (error instanceof ConcordError) return error;
    throw error;
  }
  throw new Error('the call should have failed');
}

export function readFile(env: Env, path: string): Buffer {
  const file = env.open(path, 'read');
  try {
    const bytes = Buffer.alloc(file.size());
    file.read(bytes, 0, bytes.length, 0);
    return bytes;
  } finally {
    file.close();
  }
}

export function writeFile(env: Env, path: string, bytes: Uint8Array): void {
  if (env.exists(path)) env.remove(path);
  const file = env.open(path, 'create');
  file.write(bytes, 0, bytes.length, 0);
  file.close();
}

export function overwrite(env: Env, path: string, offset: number, bytes: Uint8Array): void {
  const file = env.open(path, 'write');
  file.write(bytes, 0, bytes.length, offset);
  file.close();
}

export function truncateFile(env: Env, path: string, length: number): void {
  const file = env.open(path, 'write');
  file.truncate(length);
  file.close();
}

export function segmentPaths(env: Env): string[] {
  return env
    .list(DIRECTORY)
    .filter((name) => name.endsWith('.log'))
    .map((name) => `${DIRECTORY}/${name}`);
}

/** The same Env with a stopped clock and chosen random bytes, for golden bytes. */
export function withFixedSurroundings(env: Env, nowMs: number, randomByte: number): Env {
  return {
    open: (path, mode) => env.open(path, mode),
    exists: (path) => env.exists(path),
    list: (directory) => env.list(directory),
    makeDirectory: (path) => env.makeDirectory(path),
    rename: (from, to) => env.rename(from, to),
    remove: (path) => env.remove(path),
    syncDirectory: (path) => env.syncDirectory(path),
    now: () => nowMs,
    randomBytes: (length) => new Uint8Array(length).fill(randomByte),
  };
}
