/**
 * The background pool: Piscina workers for checkpoints, exports, segment preallocation, and the flushes and compactions of LSM-Trees. Started with the
 * first task, ended at close.
 *
 * Tasks wait here, not in Piscina: the one of highest priority goes first, among equals the oldest. Bulk tasks (what may take long) run on as many
 * workers as the pool was made with; quick ones, which writes may wait for, have one worker more, so that a flush never waits for a compaction.
 * Threads: the host.
 */
import { createRequire } from 'node:module';
import type * as piscinaPackage from 'piscina';
import type { Piscina } from 'piscina';
import { ConcordError } from '../../shared/errors.js';
import type * as fileTasks from './file-tasks.js';
import type * as lsmTasks from './lsm-tasks.js';
import type { TaskResult } from './task-result.js';
import type * as tasks from './tasks.js';

type Tasks = typeof tasks & typeof lsmTasks & typeof fileTasks;
export type TaskName = 'checkpoint' | 'exportSnapshot' | 'preallocate' | 'lsmFlush' | 'lsmCompact';
type ResultOf<N extends TaskName> = Exclude<Awaited<ReturnType<Tasks[N]>>, { error: unknown }>['value'];

/** An idle worker ends after this. */
const IDLE_MS = 5000;
/** Of a worker: tasks keep little of what they make, and three times as much as they make in a merge would lie there uncollected. */
const YOUNG_GENERATION_MIB = 6;

const QUICK: ReadonlySet<TaskName> = new Set<TaskName>(['preallocate', 'lsmFlush']);

interface WaitingTask {
  readonly name: TaskName;
  readonly priority: number;
  readonly isQuick: boolean;
  /** Runs it; settles when it has ended, never rejects. */
  readonly run: () => Promise<void>;
}

export class BackgroundPool {
  readonly #threads: number;
  #piscina: Piscina | undefined;
  /** Of tasks that were handed over and have not ended, waiting ones included. */
  readonly #running = new Set<Promise<unknown>>();
  /** By descending priority. */
  readonly #waiting: WaitingTask[] = [];
  #bulkRunning = 0;
  #allRunning = 0;
  #isClosed = false;

  constructor(threads: number) {
    this.#threads = threads;
  }

  /** Higher priorities first. @throws the task's coded error; ERR_INTERNAL when the worker died; ERR_CLOSED. */
  async run<N extends TaskName>(name: N, task: Parameters<Tasks[N]>[0], priority = Infinity): Promise<ResultOf<N>> {
    if (this.#isClosed) throw new ConcordError('ERR_CLOSED', 'the background pool is closed');
    const running = this.#enqueue(name, task, priority) as Promise<TaskResult<ResultOf<N>>>;
    this.#running.add(running);
    let result: TaskResult<ResultOf<N>>;
    try {
      result = await running;
    } catch (cause) {
      throw new ConcordError('ERR_INTERNAL', `background task ${name} died: ${String(cause)}`, {}, { cause });
    } finally {
      this.#running.delete(running);
    }
    if ('error' in result) throw ConcordError.fromRecord(result.error);
    return result.value;
  }

  #enqueue(name: TaskName, task: unknown, priority: number): Promise<unknown> {
    return new Promise((resolve, reject) => {
      const run = async (): Promise<void> => {
        try {
          this.#piscina ??= this.#start();
          resolve(await this.#piscina.run({ name, task }));
        } catch (error) {
          reject(error);
        }
      };
      const waiting = { name, priority, isQuick: QUICK.has(name), run };
      const behind = this.#waiting.findIndex((other) => other.priority < priority);
      this.#waiting.splice(behind < 0 ? this.#waiting.length : behind, 0, waiting);
      this.#dispatch();
    });
  }

  #dispatch(): void {
    for (let i = 0; i < this.#waiting.length && this.#allRunning <= this.#threads;) {
      const task = this.#waiting[i]!;
      if (!task.isQuick && this.#bulkRunning >= this.#threads) {
        i++;
        continue;
      }
      this.#waiting.splice(i, 1);
      this.#allRunning++;
      if (!task.isQuick) this.#bulkRunning++;
      void task.run().then(() => {
        this.#allRunning--;
        if (!task.isQuick) this.#bulkRunning--;
        this.#dispatch();
      });
    }
  }

  /** Ends the threads wherever they are: for tests of what follows. Resolves with their number. */
  async kill(): Promise<number> {
    const threads = [...(this.#piscina?.threads ?? [])];
    await Promise.all(threads.map((thread) => thread.terminate()));
    return threads.length;
  }

  #start(): Piscina {
    // Not before it is needed: most processes that open a store for a moment have no tasks.
    const { Piscina } = createRequire(import.meta.url)('piscina') as typeof piscinaPackage;
    const piscina = new Piscina({
      filename: new URL('./task-entry.cjs', import.meta.url).href,
      minThreads: 0,
      // One more for what is quick.
      maxThreads: this.#threads + 1,
      idleTimeout: IDLE_MS,
      atomics: 'async',
      resourceLimits: { maxYoungGenerationSizeMb: YOUNG_GENERATION_MIB },
    });
    // A worker that dies between tasks is replaced with the next one; a task that was running has rejected by itself.
    piscina.on('error', () => undefined);
    // For tasks that wait in the queue Piscina starts no other worker until a task is added.
    piscina.on('workerDestroy', () => {
      setImmediate(() => {
        if (this.#running.size > 0) void piscina.run({ name: 'nothing', task: undefined }).catch(() => undefined);
      });
    });
    return piscina;
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    await Promise.allSettled([...this.#running]);
    await this.#piscina?.destroy();
    this.#piscina = undefined;
  }
}
