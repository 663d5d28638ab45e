import type { Env } from '../../../shared/env/env.js';
import { ConcordError } from '../../../shared/errors.js';
import type { ArenaReader } from '../../../shared/memory/arena.js';
import type { FlushTask, LsmJobResult } from '../types.js';

export function runFlush(
  env: Env,
  arena: ArenaReader,
  task: FlushTask,
  onProgress?: (writtenBytes: number) => void,
): LsmJobResult {
  void env;
  void arena;
  void onProgress;
  throw new ConcordError('ERR_INTERNAL', `flush of ${task.descriptor}`);
}
