/**
 * Prepares a segment file ahead of need: zero-filled and synced, so that a later fdatasync carries data only and no metadata.
 *
 * The name is unique and the file gets its final ending only when it is complete. So a preparation that outlives the writer that
 * ordered it (the shard restarted meanwhile) never touches a file that a new writer has put to use: WalWriter.open() removes
 * unfinished files, after which the late rename fails; and a finished one that was adopted has another name.
 *
 * Threads: any, best a pool worker; takes about 50 ms for 32 MiB.
 */
import { invalidArgument } from '../../shared/errors.js';
import type { Env, EnvFile } from '../../shared/env/env.js';
import { SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN } from './format.js';

const ZEROS = Buffer.alloc(1 << 20);
/** A spare is synced in steps: a shard that syncs its log meanwhile waits behind one of them, not behind all of it. */
const SYNC_BYTES = 2 << 20;

export function writeZeros(file: EnvFile, from: number, to: number): void {
  for (let at = from; at < to; at += ZEROS.length) file.write(ZEROS, 0, Math.min(ZEROS.length, to - at), at);
}

/** Removes a file that may be gone already or may refuse to go; the next open cleans up. */
export function removeQuietly(env: Env, path: string): void {
  try {
    env.remove(path);
  } catch {
    // Nothing depends on it.
  }
}

/** The path of a new spare in the log's directory, for WalWriter.offerSpare(). Its name is not yet durable; it need not be. */
export function preallocateSegment(env: Env, directory: string, segmentBytes: number): string {
  if (!Number.isInteger(segmentBytes) || segmentBytes < SEGMENT_BYTES_MIN || segmentBytes > SEGMENT_BYTES_MAX) {
    throw invalidArgument(`segmentBytes must be ${SEGMENT_BYTES_MIN} ..= ${SEGMENT_BYTES_MAX}, got ${segmentBytes}`);
  }
  const stem = `${directory}/wal-${Buffer.from(env.randomBytes(8)).toString('hex')}`;
  const temporaryPath = `${stem}.tmp`;
  const file = env.open(temporaryPath, 'create');
  try {
    try {
      for (let at = 0; at < segmentBytes; at += SYNC_BYTES) {
        writeZeros(file, at, Math.min(segmentBytes, at + SYNC_BYTES));
        file.sync();
      }
    } finally {
      file.close();
    }
    env.rename(temporaryPath, `${stem}.spare`);
  } catch (error) {
    removeQuietly(env, temporaryPath);
    throw error;
  }
  return `${stem}.spare`;
}
