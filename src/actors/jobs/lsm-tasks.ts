/**
 * Background tasks of LSM-Trees. As tasks.ts otherwise; `npm run build` puts all they load into this one file (scripts/bundle.mjs).
 * Threads: pool workers.
 */
import { NodeEnv } from '../../shared/env/node-env.js';
import { ArenaReader, type ArenaLayout } from '../../shared/memory/arena.js';
import { runCompaction } from '../../engines/lsm/jobs/compact.js';
import { runFlush } from '../../engines/lsm/jobs/flush.js';
import type { CompactionTask, FlushTask, LsmJobResult } from '../../engines/lsm/types.js';
import { attempt, type TaskResult } from './task-result.js';

/** Writes a frozen memtable, which the shard keeps meanwhile, as tables. */
export function lsmFlush(task: FlushTask & { readonly arena: ArenaLayout }): Promise<TaskResult<LsmJobResult>> {
  return attempt(() => runFlush(new NodeEnv(), new ArenaReader(task.arena), task));
}

/** Merges tables. */
export function lsmCompact(task: CompactionTask): Promise<TaskResult<LsmJobResult>> {
  return attempt(() => runCompaction(new NodeEnv(), task));
}
