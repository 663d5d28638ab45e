/**
 * The real machine with a clock at its syncs: how much of the time of a group is the disk's. Syncs that nobody waits for do not count. Threads: as NodeEnv.
 */
import type { EnvFile, OpenMode } from '../../shared/env/env.js';
import { NodeEnv } from '../../shared/env/node-env.js';

export interface SyncClock {
  /** Time spent in syncs since whoever reads it set it to 0. */
  syncMs: number;
}

export class TimedEnv extends NodeEnv implements SyncClock {
  syncMs = 0;

  override open(path: string, mode: OpenMode): EnvFile {
    const file = super.open(path, mode);
    return mode === 'read' ? file : new TimedFile(file, this);
  }
}

class TimedFile implements EnvFile {
  readonly path: string;
  readonly #file: EnvFile;
  readonly #clock: SyncClock;

  constructor(file: EnvFile, clock: SyncClock) {
    this.path = file.path;
    this.#file = file;
    this.#clock = clock;
  }

  sync(): void {
    const startedMs = performance.now();
    try {
      this.#file.sync();
    } finally {
      this.#clock.syncMs += performance.now() - startedMs;
    }
  }

  async syncAsync(): Promise<void> {
    const file = this.#file;
    if (file.syncAsync === undefined) this.sync();
    else await file.syncAsync();
  }

  read(into: Uint8Array, start: number, length: number, position: number): number {
    return this.#file.read(into, start, length, position);
  }

  write(from: Uint8Array, start: number, length: number, position: number): void {
    this.#file.write(from, start, length, position);
  }

  size(): number {
    return this.#file.size();
  }

  truncate(length: number): void {
    this.#file.truncate(length);
  }

  close(): void {
    this.#file.close();
  }
}
