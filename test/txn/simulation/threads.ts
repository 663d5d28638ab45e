/**
 * Threads of the simulation: they all run in one, a call at a time. At each point where a thread touches the disk or a word that others see, it may be
 * interrupted by others, and may be killed: then nothing it does from there on happens, its `finally` blocks included.
 */
import type { Env, EnvFile, OpenMode } from '../../../dist/shared/env/env.js';

/** No ConcordError, so that no handler mistakes it for a failed call. */
export class Killed extends Error {
  constructor(readonly thread: SimThread) {
    super(`${thread.name} was killed`);
  }
}

/** Everything in memory is gone. */
export class ProcessKilled extends Error {
  constructor() {
    super('the process was killed');
  }
}

export class SimThread {
  isDead = false;
  /** In the middle of a step: it may be interrupted, not entered. */
  isBusy = false;

  constructor(readonly name: string) {}
}

/** Called by a thread wherever others may come between. @throws Killed, ProcessKilled */
export type Point = (thread: SimThread, what: string) => void;

/** A thread's way to the disk. */
export class ThreadEnv implements Env {
  readonly #inner: Env;
  readonly #thread: SimThread;
  readonly #point: Point;

  constructor(inner: Env, thread: SimThread, point: Point) {
    this.#inner = inner;
    this.#thread = thread;
    this.#point = point;
  }

  open(path: string, mode: OpenMode): EnvFile {
    this.#point(this.#thread, `open ${path}`);
    const file = this.#inner.open(path, mode);
    const point = (what: string): void => {
      this.#point(this.#thread, `${what} ${path}`);
    };
    return {
      path,
      read: (into, start, length, position) => file.read(into, start, length, position),
      write: (from, start, length, position) => {
        point('write');
        file.write(from, start, length, position);
      },
      sync: () => {
        point('sync');
        file.sync();
      },
      size: () => file.size(),
      truncate: (length) => {
        point('truncate');
        file.truncate(length);
      },
      close: () => {
        file.close();
      },
    };
  }

  exists(path: string): boolean {
    return this.#inner.exists(path);
  }

  list(directory: string): string[] {
    return this.#inner.list(directory);
  }

  makeDirectory(path: string): void {
    this.#point(this.#thread, `makeDirectory ${path}`);
    this.#inner.makeDirectory(path);
  }

  rename(from: string, to: string): void {
    this.#point(this.#thread, `rename ${from}`);
    this.#inner.rename(from, to);
  }

  remove(path: string): void {
    this.#point(this.#thread, `remove ${path}`);
    this.#inner.remove(path);
  }

  syncDirectory(path: string): void {
    this.#point(this.#thread, `syncDirectory ${path}`);
    this.#inner.syncDirectory(path);
  }

  now(): number {
    return Date.now();
  }

  randomBytes(length: number): Uint8Array {
    return this.#inner.randomBytes(length);
  }
}

/** Puts a point before each of the methods; the object goes on working on its private fields. */
export function instrument<T extends object>(
  target: T,
  names: readonly (keyof T & string)[],
  point: (what: string) => void,
): void {
  for (const name of names) {
    const method = (target[name] as (...args: unknown[]) => unknown).bind(target);
    Object.defineProperty(target, name, {
      configurable: true,
      value: (...args: unknown[]) => {
        point(name);
        return method(...args);
      },
    });
  }
}

/** Replaces a method of one object: for planted faults, and for what blocks. */
export function replace<T extends object, N extends keyof T & string>(target: T, name: N, value: T[N]): void {
  Object.defineProperty(target, name, { configurable: true, value });
}
