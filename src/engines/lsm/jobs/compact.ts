/**
 * Merges tables, within a range of keys, into tables of one level.
 *
 * Threads: a pool worker's. It reads files that nobody changes and writes new ones; its task is all it knows. After an error no file of it is left, as
 * well as can be done.
 */
import type { Env } from '../../../shared/env/env.js';
import { invalidArgument } from '../../../shared/errors.js';
import type { CompactionTask, LsmJobResult } from '../types.js';
import { JobEnv } from './job-env.js';
import { RunMerge } from './merge.js';
import { JobOutput } from './output.js';
import { VersionRules } from './versions.js';

/** @throws ERR_CLOSED when cancelled, ERR_DISK_FULL, ERR_IO, ERR_CORRUPT */
export function runCompaction(
  env: Env,
  task: CompactionTask,
  onProgress?: (writtenBytes: number) => void,
): LsmJobResult {
  const jobEnv = new JobEnv(env, { cancel: task.cancel, rate: task.rate, priority: 'compaction', onProgress });
  const rules = new VersionRules({
    snapshots: task.snapshots,
    tombstones: task.tombstones,
    nowMs: task.nowMs,
    older: task.olderRanges,
  });
  let createdAt = Infinity;
  for (const run of task.inputs) for (const table of run) createdAt = Math.min(createdAt, table.createdAt);
  if (createdAt === Infinity) throw invalidArgument('a compaction without tables');
  const output = new JobOutput(jobEnv, rules, { ...task, level: task.outputLevel, run: task.outputRun, createdAt });
  let merge: RunMerge | undefined;
  try {
    jobEnv.checkCancelled();
    merge = new RunMerge(jobEnv, {
      directory: task.directory,
      identity: task.identity,
      runs: task.inputs,
      low: task.low,
      high: task.high,
    });
    for (let entry = merge.top; entry !== undefined; entry = merge.top) {
      const { seq, flags, expiresAt } = entry;
      if (output.offer(entry.key, entry.keyLength, seq, flags, expiresAt)) {
        output.write(entry.bytes, entry.valueStart, entry.valueLength, seq, flags, expiresAt);
      }
      merge.advance();
    }
    return output.finish();
  } catch (error) {
    output.abort();
    throw error;
  } finally {
    merge?.close();
  }
}
