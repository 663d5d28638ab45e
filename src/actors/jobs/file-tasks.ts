/**
 * Background tasks of little code: a thread that is started for one of them has little to load. As tasks.ts otherwise.
 * Threads: pool workers.
 */
import { NodeEnv } from '../../shared/env/node-env.js';
import { preallocateSegment } from '../../engines/wal/preallocate.js';
import { attempt, type TaskResult } from './task-result.js';

/** Makes a zero-filled, synced log segment; returns its path. */
export function preallocate(task: { directory: string; segmentBytes: number }): Promise<TaskResult<string>> {
  return attempt(() => preallocateSegment(new NodeEnv(), task.directory, task.segmentBytes));
}

/** Makes the pool start a worker for the tasks that wait. */
export function nothing(): void {}
