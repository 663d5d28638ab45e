/**
 * The Env of one background job: another Env, with what every job needs on the way to the disk.
 *
 *   write ──▶ cancelled? ──▶ rate limit ──▶ the real file      counted, synced every 2 MiB
 *   read  ──▶ cancelled? ──▶ the real file                     counted
 *   open('create') ──▶ remembered: removeCreated() takes all of them away again
 *
 * Synced in steps, so that a job waits for the disk by itself: what it leaves in the disk's queue is what the log and everybody else wait for.
 *
 * So tables and blob files are written by their own writers, which know nothing of jobs. They write in chunks of 256 KiB and more, so this costs nothing.
 *
 * Threads: the job's.
 */
import type { Env, EnvFile, OpenMode } from '../../../shared/env/env.js';
import { ConcordError } from '../../../shared/errors.js';
import { RateLimiter, type RatePriority } from '../compaction/rate-limit.js';

/** Written bytes of a file at which it is synced. */
const SYNC_BYTES = 2 << 20;

export interface JobEnvParameters {
  /** Word 0 not 0: stop. */
  readonly cancel: Int32Array;
  readonly rate: SharedArrayBuffer | undefined;
  readonly priority: RatePriority;
  /** All bytes written so far, after each chunk. */
  readonly onProgress?: ((writtenBytes: number) => void) | undefined;
}

export class JobEnv implements Env {
  readBytes = 0;
  writtenBytes = 0;
  readonly #env: Env;
  readonly #cancel: Int32Array;
  readonly #limiter: RateLimiter;
  readonly #priority: RatePriority;
  readonly #onProgress: ((writtenBytes: number) => void) | undefined;
  readonly #created = new Set<string>();
  readonly #isCancelled = (): boolean => Atomics.load(this.#cancel, 0) !== 0;

  constructor(env: Env, parameters: JobEnvParameters) {
    this.#env = env;
    this.#cancel = parameters.cancel;
    this.#limiter = new RateLimiter(parameters.rate, () => env.now());
    this.#priority = parameters.priority;
    this.#onProgress = parameters.onProgress;
  }

  /** @throws ERR_CLOSED */
  checkCancelled(): void {
    if (this.#isCancelled()) throw new ConcordError('ERR_CLOSED', 'the background job was cancelled');
  }

  beforeWrite(bytes: number): void {
    this.checkCancelled();
    this.#limiter.take(bytes, this.#priority, this.#isCancelled);
    this.checkCancelled();
  }

  afterWrite(bytes: number): void {
    this.writtenBytes += bytes;
    this.#onProgress?.(this.writtenBytes);
  }

  get hasCreated(): boolean {
    return this.#created.size > 0;
  }

  /** Takes away what the job has made: as well as it can, what stays is an orphan that the next open removes. */
  removeCreated(): void {
    for (const path of this.#created) {
      try {
        this.#env.remove(path);
      } catch {
        // An orphan: nothing refers to it.
      }
    }
    this.#created.clear();
  }

  open(path: string, mode: OpenMode): EnvFile {
    const file = this.#env.open(path, mode);
    if (mode === 'create') this.#created.add(path);
    return new JobFile(this, file);
  }

  exists(path: string): boolean {
    return this.#env.exists(path);
  }

  list(directory: string): string[] {
    return this.#env.list(directory);
  }

  makeDirectory(path: string): void {
    this.#env.makeDirectory(path);
  }

  rename(from: string, to: string): void {
    this.#env.rename(from, to);
    if (this.#created.delete(from)) this.#created.add(to);
  }

  remove(path: string): void {
    this.#env.remove(path);
    this.#created.delete(path);
  }

  syncDirectory(path: string): void {
    this.#env.syncDirectory(path);
  }

  now(): number {
    return this.#env.now();
  }

  randomBytes(length: number): Uint8Array {
    return this.#env.randomBytes(length);
  }
}

class JobFile implements EnvFile {
  readonly path: string;
  readonly #env: JobEnv;
  readonly #file: EnvFile;
  #unsyncedBytes = 0;

  constructor(env: JobEnv, file: EnvFile) {
    this.#env = env;
    this.#file = file;
    this.path = file.path;
  }

  read(into: Uint8Array, start: number, length: number, position: number): number {
    this.#env.checkCancelled();
    const bytes = this.#file.read(into, start, length, position);
    this.#env.readBytes += bytes;
    return bytes;
  }

  write(from: Uint8Array, start: number, length: number, position: number): void {
    this.#env.beforeWrite(length);
    this.#file.write(from, start, length, position);
    this.#env.afterWrite(length);
    this.#unsyncedBytes += length;
    if (this.#unsyncedBytes >= SYNC_BYTES) this.sync();
  }

  sync(): void {
    this.#unsyncedBytes = 0;
    this.#file.sync();
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
