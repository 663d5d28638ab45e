/**
 * Jobs in the thread that orders them: for stores without a background pool, tools that open one, and tests, which decide when a job runs and how it ends.
 *
 * Threads: the one of the store.
 */
import type { Env } from '../../shared/env/env.js';
import { toErrorRecord } from '../../shared/errors.js';
import { ArenaReader, type ArenaLayout } from '../../shared/memory/arena.js';
import { runCompaction } from './jobs/compact.js';
import { runFlush } from './jobs/flush.js';
import type { LsmJobResult, LsmJobs, LsmOutcome, LsmTask } from './types.js';

interface WaitingJob {
  readonly task: LsmTask;
  readonly priority: number;
  readonly done: (outcome: LsmOutcome) => void;
}

export class InlineJobs implements LsmJobs {
  readonly parallelism: number;
  readonly #env: Env;
  readonly #layout: ArenaLayout;
  #reader: ArenaReader | undefined;
  #waiting: WaitingJob[] = [];

  constructor(env: Env, layout: ArenaLayout, parallelism = 1) {
    this.#env = env;
    this.#layout = layout;
    this.parallelism = parallelism;
  }

  start(task: LsmTask, priority: number, done: (outcome: LsmOutcome) => void): void {
    this.#waiting.push({ task, priority, done });
  }

  get waiting(): readonly LsmTask[] {
    return this.#waiting.map(({ task }) => task);
  }

  /** Runs the most urgent job, if one waits. `change`: what becomes of it. */
  runNext(change: (outcome: LsmOutcome) => LsmOutcome = (outcome) => outcome): boolean {
    let next: WaitingJob | undefined;
    for (const job of this.#waiting) if (next === undefined || job.priority > next.priority) next = job;
    if (next === undefined) return false;
    const job = next;
    this.#waiting = this.#waiting.filter((other) => other !== job);
    let outcome: LsmOutcome;
    try {
      outcome = { value: this.run(job.task) };
    } catch (error) {
      outcome = { error: toErrorRecord(error) };
    }
    job.done(change(outcome));
    return true;
  }

  run(task: LsmTask): LsmJobResult {
    if (task.kind === 'compact') return runCompaction(this.#env, task);
    this.#reader ??= new ArenaReader(this.#layout);
    return runFlush(this.#env, this.#reader, task);
  }

  /** Those that wait are forgotten: their thread ends. */
  forget(): void {
    this.#waiting = [];
  }
}
