/**
 * Writes a frozen memtable as tables of level 0, straight from shared memory.
 *
 * What it leaves out follows the rules of versions.ts: versions that no snapshot needs, what range tombstones hide, and where nothing older lies below,
 * tombstones as well. So there may be no table at all in the end.
 *
 * Threads: a pool worker's; the shard keeps the memtable until the job has ended. After an error no file of it is left, as well as can be done.
 */
import type { Env } from '../../../shared/env/env.js';
import type { ArenaReader } from '../../../shared/memory/arena.js';
import { TableWalk } from '../../memtable/walk.js';
import { EntryFlag, KEY_BYTES_MAX } from '../table/entry.js';
import type { FlushTask, LsmJobResult } from '../types.js';
import { JobEnv } from './job-env.js';
import { JobOutput, PIECE_BYTES } from './output.js';
import { VersionRules } from './versions.js';

/** @throws ERR_CLOSED when cancelled, ERR_DISK_FULL, ERR_IO, ERR_CORRUPT */
export function runFlush(
  env: Env,
  arena: ArenaReader,
  task: FlushTask,
  onProgress?: (writtenBytes: number) => void,
): LsmJobResult {
  const jobEnv = new JobEnv(env, { cancel: task.cancel, rate: task.rate, priority: 'flush', onProgress });
  const rules = new VersionRules({
    snapshots: task.snapshots,
    tombstones: task.tombstones,
    nowMs: task.nowMs,
    older: task.isBottom ? [] : undefined,
  });
  const output = new JobOutput(jobEnv, rules, {
    ...task,
    level: 0,
    grandparents: [],
    collectBlobs: [],
    createdAt: task.nowMs,
  });
  try {
    jobEnv.checkCancelled();
    const key = new Uint8Array(KEY_BYTES_MAX);
    const value = new Uint8Array(PIECE_BYTES);
    const walk = new TableWalk(arena, task.descriptor);
    while (walk.next()) {
      const { seq, expiresAt } = walk;
      const keyLength = walk.copyKey(key, 0);
      const flags = walk.isTombstone ? EntryFlag.tombstone : 0;
      if (!output.offer(key, keyLength, seq, flags, expiresAt)) continue;
      const { valueLength, valueAt } = walk;
      if (valueAt >= 0 && !output.isBlob(valueLength)) {
        output.write(walk.bytes, valueAt, valueLength, seq, flags, expiresAt);
      } else if (valueLength <= PIECE_BYTES) {
        walk.readValue(value, 0, 0, valueLength);
        output.write(value, 0, valueLength, seq, flags, expiresAt);
      } else if (output.isBlob(valueLength)) {
        output.beginPieces(valueLength, seq);
        for (let from = 0; from < valueLength; from += PIECE_BYTES) {
          output.piece(value, 0, walk.readValue(value, 0, from, PIECE_BYTES));
        }
        output.endPieces(seq, flags, expiresAt);
      } else {
        output.write(walk.copyValue(), 0, valueLength, seq, flags, expiresAt);
      }
    }
    return output.finish();
  } catch (error) {
    output.abort();
    throw error;
  }
}
