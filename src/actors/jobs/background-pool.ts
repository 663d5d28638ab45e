/**
 * The background pool: Piscina workers for checkpoints, exports and segment preallocation. Started with the first task, ended at close.
 * Threads: the host.
 */
import { Piscina } from 'piscina';
import { ConcordError } from '../../shared/errors.js';
import type * as tasks from './tasks.js';
import type { TaskResult } from './tasks.js';

type Tasks = typeof tasks;
type TaskName = 'checkpoint' | 'exportSnapshot' | 'preallocate';
type ResultOf<N extends TaskName> = Exclude<Awaited<ReturnType<Tasks[N]>>, { error: unknown }>['value'];

/** An idle worker ends after this. */
const IDLE_MS = 5000;

export class BackgroundPool {
  readonly #threads: number;
  #piscina: Piscina | undefined;
  readonly #running = new Set<Promise<unknown>>();

  constructor(threads: number) {
    this.#threads = threads;
  }

  /** @throws the task's coded error; ERR_INTERNAL when the worker died. */
  async run<N extends TaskName>(name: N, task: Parameters<Tasks[N]>[0]): Promise<ResultOf<N>> {
    this.#piscina ??= this.#start();
    const running = this.#piscina.run(task, { name }) as Promise<TaskResult<ResultOf<N>>>;
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

  /** Ends the threads wherever they are: for tests of what follows. Resolves with their number. */
  async kill(): Promise<number> {
    const threads = [...(this.#piscina?.threads ?? [])];
    await Promise.all(threads.map((thread) => thread.terminate()));
    return threads.length;
  }

  #start(): Piscina {
    const piscina = new Piscina({
      filename: new URL('./tasks.js', import.meta.url).href,
      minThreads: 0,
      maxThreads: this.#threads,
      idleTimeout: IDLE_MS,
      atomics: 'async',
    });
    // A worker that dies between tasks is replaced with the next one; a task that was running has rejected by itself.
    piscina.on('error', () => undefined);
    // For tasks that wait in the queue Piscina starts no other worker until a task is added.
    piscina.on('workerDestroy', () => {
      setImmediate(() => {
        if (this.#running.size > 0) void piscina.run(undefined, { name: 'nothing' }).catch(() => undefined);
      });
    });
    return piscina;
  }

  async close(): Promise<void> {
    await Promise.allSettled([...this.#running]);
    await this.#piscina?.destroy();
    this.#piscina = undefined;
  }
}
