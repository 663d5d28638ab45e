/** Starts test/support/memory-worker.mjs for the lock and ring tests, and waits for what it reports. */
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';

export interface SceneWorker {
  readonly worker: Worker;
  /** The next message, in order. Rejects when the worker fails or ends without one. */
  message(): Promise<Record<string, number | string>>;
  /** Ends the thread wherever it is; resolves when it runs no more. */
  kill(): Promise<void>;
}

export function startScene(scene: string, data: Record<string, unknown>): SceneWorker {
  const worker = new Worker(new URL('./memory-worker.mjs', import.meta.url), { workerData: { scene, ...data } });
  const inbox: Record<string, number | string>[] = [];
  const waiting: { resolve: (m: Record<string, number | string>) => void; reject: (e: unknown) => void }[] = [];
  let failure: unknown;
  const fail = (error: unknown): void => {
    failure ??= error;
    for (const { reject } of waiting.splice(0)) reject(failure);
  };
  worker.on('message', (m: Record<string, number | string>) => {
    const next = waiting.shift();
    if (next !== undefined) next.resolve(m);
    else inbox.push(m);
  });
  worker.on('error', fail);
  worker.on('exit', (code) => fail(new Error(`scene ${scene} ended with code ${code} before it reported`)));
  return {
    worker,
    message() {
      const first = inbox.shift();
      if (first !== undefined) return Promise.resolve(first);
      if (failure !== undefined) return Promise.reject(failure);
      return new Promise((resolve, reject) => waiting.push({ resolve, reject }));
    },
    async kill() {
      await worker.terminate();
    },
  };
}

/** Resolves when the worker has ended by itself. */
export async function ended(scene: SceneWorker): Promise<void> {
  if (scene.worker.threadId !== -1) await once(scene.worker, 'exit');
}

export function sharedWords(count: number): Int32Array<SharedArrayBuffer> {
  return new Int32Array(new SharedArrayBuffer(count * 4));
}

const UNTIL_MS_MAX = 50_000;

/** Resolves when the fact holds. */
export async function until(holds: () => boolean): Promise<void> {
  for (const endMs = performance.now() + UNTIL_MS_MAX; !holds();) {
    if (performance.now() > endMs) throw new Error(`not within ${UNTIL_MS_MAX} ms: ${String(holds)}`);
    await sleep(1);
  }
}

export function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
