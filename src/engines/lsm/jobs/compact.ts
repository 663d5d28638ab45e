import type { Env } from '../../../shared/env/env.js';
import { ConcordError } from '../../../shared/errors.js';
import type { CompactionTask, LsmJobResult } from '../types.js';

export function runCompaction(
  env: Env,
  task: CompactionTask,
  onProgress?: (writtenBytes: number) => void,
): LsmJobResult {
  void env;
  void onProgress;
  throw new ConcordError('ERR_INTERNAL', `compaction to level ${task.outputLevel}`);
}
