/**
 * What the background pool does for one shard besides checkpoints: flushes and compactions that its thread has ordered, segments for its log ahead of time.
 *
 * Must hold: none of a dead thread's jobs runs on beside its successor, which gives the memory that they read to others. Threads: the host's.
 */
import * as fs from 'node:fs';
import { toErrorRecord } from '../../shared/errors.js';
import type { ArenaLayout } from '../../shared/memory/arena.js';
import type { LsmOutcome, LsmTask } from '../../engines/lsm/types.js';
import { tellLsmJob } from '../metrics/tracing.js';
import type { RemoteControl } from '../runtime/control-channel.js';
import type { ShardControl } from '../shard/shard-worker.js';
import type { BackgroundPool } from './background-pool.js';

export class ShardJobs {
  readonly #shard: number;
  readonly #arena: ArenaLayout;
  readonly #background: BackgroundPool;
  /** By the words that cancel them. */
  readonly #running = new Map<Int32Array, Promise<void>>();

  constructor(shard: number, arena: ArenaLayout, background: BackgroundPool) {
    this.#shard = shard;
    this.#arena = arena;
    this.#background = background;
  }

  /** A flush or compaction that the thread at `remote` has ordered as its `job`, and is told the outcome of. */
  start(job: number, task: LsmTask, priority: number, remote: RemoteControl<ShardControl>): void {
    const done = this.#run(task, priority)
      .then((outcome) => remote.endJob(job, outcome))
      // A thread that died gets no answer: what the job wrote is removed by the next one that opens the tree.
      .catch(() => undefined)
      .finally(() => {
        this.#running.delete(task.cancel);
      });
    this.#running.set(task.cancel, done);
  }

  async #run(task: LsmTask, priority: number): Promise<LsmOutcome> {
    const shard = this.#shard;
    const { kind, directory } = task;
    const startedMs = performance.now();
    tellLsmJob({ event: 'begin', kind, shard, directory });
    try {
      const value =
        kind === 'flush'
          ? await this.#background.run('lsmFlush', { ...task, arena: this.#arena }, priority)
          : await this.#background.run('lsmCompact', task, priority);
      const { readBytes, writtenBytes, entriesIn, entriesOut } = value;
      const figures = { readBytes, writtenBytes, entriesIn, entriesOut };
      tellLsmJob({ event: 'end', kind, shard, directory, durationMs: performance.now() - startedMs, ...figures });
      return { value };
    } catch (error) {
      tellLsmJob({ event: 'end', kind, shard, directory, durationMs: performance.now() - startedMs, error });
      return { error: toErrorRecord(error) };
    }
  }

  /** Resolves when none runs any more. */
  async cancel(): Promise<void> {
    for (const cancel of this.#running.keys()) {
      Atomics.store(cancel, 0, 1);
      Atomics.notify(cancel, 0);
    }
    await Promise.all(this.#running.values());
  }

  /** A segment for the log in the shard's `directory`, offered to the thread that is there when it is ready. */
  async provideSpare(
    directory: string,
    segmentBytes: number,
    remoteNow: () => RemoteControl<ShardControl>,
  ): Promise<void> {
    try {
      const path = await this.#background.run('preallocate', { directory, segmentBytes });
      if (!(await remoteNow().offerSpare(path))) fs.rmSync(path, { force: true });
    } catch {
      // Without a spare the log extends its next segment as it goes: slower, not wrong.
      await remoteNow()
        .offerSpare('')
        .catch(() => false);
    }
  }
}
