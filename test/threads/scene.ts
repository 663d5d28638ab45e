/** Starts threads that are attached to a pool (test/support/threads-client.mjs) and waits for what they do. */
import * as fs from 'node:fs';
import * as os from 'node:os';
import * as path from 'node:path';
import { Worker } from 'node:worker_threads';
import type { ConcordPool } from '../../dist/index.js';

export type End = 'return' | 'exit' | 'throw' | 'terminate';

export interface ClientThread {
  readonly worker: Worker;
  /** The scene is under way; rejects when the thread ends before. */
  readonly ready: Promise<unknown>;
  /** Its exit code. */
  readonly ended: Promise<number>;
  call(request: { put?: [string, string]; get?: string }): Promise<unknown>;
}

export function startClient(db: ConcordPool, scene: string, end: End, attachments = 1): ClientThread {
  const handles = Array.from({ length: attachments }, () => db.handle());
  const worker = new Worker(new URL('../support/threads-client.mjs', import.meta.url), {
    workerData: { ports: handles.map(({ port }) => port), scene, end },
    transferList: handles.map(({ port }) => port),
    stderr: true,
  });
  // Its failure is part of the scene.
  const errors: Error[] = [];
  worker.on('error', (error: Error) => errors.push(error));
  const ended = new Promise<number>((resolve) => worker.once('exit', resolve));
  const ready = new Promise((resolve, reject) => {
    worker.on('message', (message) => {
      if (message === 'ready') resolve(message);
    });
    void ended.then((code) => reject(errors[0] ?? new Error(`scene ${scene} ended with code ${code}`)));
  });
  ready.catch(() => undefined);
  let calls = 0;
  return {
    worker,
    ready,
    ended,
    call(request) {
      const id = ++calls;
      worker.postMessage({ id, ...request });
      return new Promise((resolve, reject) => {
        const listen = (message: { id?: number; result?: unknown; code?: string }): void => {
          if (message.id !== id) return;
          worker.off('message', listen);
          if (message.code === undefined) resolve(message.result);
          else reject(new Error(message.code));
        };
        worker.on('message', listen);
        void ended.then(() => reject(new Error('the thread ended')));
      });
    },
  };
}

const LOOK_EVERY_MS = 5;

/** Polls until the fact holds; fails with what is seen instead. */
export async function until(
  what: string,
  holds: () => boolean,
  timeoutMs = 60_000,
  seen?: () => unknown,
): Promise<void> {
  // Looks are counted, not the time: others may keep this process from the cores for long.
  for (let left = timeoutMs / LOOK_EVERY_MS; !holds(); left--) {
    if (left <= 0) {
      throw new Error(
        `not within ${timeoutMs} ms: ${what}${seen === undefined ? '' : `; seen: ${JSON.stringify(seen())}`}`,
      );
    }
    await sleep(LOOK_EVERY_MS);
  }
}

export function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

export function newDirectory(): string {
  return fs.mkdtempSync(path.join(os.tmpdir(), 'concordkv-threads-'));
}

export function removeDirectory(directory: string): void {
  fs.rmSync(directory, { recursive: true, force: true });
}
