/**
 * Background tasks that writes may wait for, and those that run often: a thread that is started for one of them has little to load. As tasks.ts otherwise.
 * Threads: pool workers.
 */
import { NodeEnv } from '../../shared/env/node-env.js';
import { ArenaReader, type ArenaLayout } from '../../shared/memory/arena.js';
import type { CompactionTask, FlushTask, LsmJobResult } from '../../engines/lsm/types.js';
import { preallocateSegment } from '../../engines/wal/preallocate.js';
import { attempt, type TaskResult } from './task-result.js';

/** Writes a frozen memtable, which the shard keeps meanwhile, as tables. */
export function lsmFlush(task: FlushTask & { readonly arena: ArenaLayout }): Promise<TaskResult<LsmJobResult>> {
  return attempt(async () => {
    // Loaded with the first: most stores have no LSM-Tree.
    const { runFlush } = await import('../../engines/lsm/jobs/flush.js');
    return runFlush(new NodeEnv(), new ArenaReader(task.arena), task);
  });
}

/** Merges tables. */
export function lsmCompact(task: CompactionTask): Promise<TaskResult<LsmJobResult>> {
  return attempt(async () => {
    const { runCompaction } = await import('../../engines/lsm/jobs/compact.js');
    return runCompaction(new NodeEnv(), task);
  });
}

/** Makes a zero-filled, synced log segment; returns its path. */
export function preallocate(task: { directory: string; segmentBytes: number }): Promise<TaskResult<string>> {
  return attempt(() => preallocateSegment(new NodeEnv(), task.directory, task.segmentBytes));
}

/** Makes the pool start a worker for the tasks that wait. */
export function nothing(): void {}
