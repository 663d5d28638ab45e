/**
 * The real machine: files through node:fs, the wall clock, and the system's random bytes.
 *
 * Files are created with mode 0600 and directories with 0700: stored data is nobody else's business. Buffers may lie over an
 * ArrayBuffer or a SharedArrayBuffer. A short write is continued, an interrupted call repeated. `sync` is fdatasync.
 *
 * A failed sync poisons the file: the kernel may have dropped the dirty pages and would report the next sync as good, so every later
 * write, truncate or sync throws ERR_IO. The owner reopens the file and decides from its content.
 *
 * Threads: one NodeEnv per thread; calls block the thread, but for readAsync and syncAsync.
 */
import { randomBytes } from 'node:crypto';
import * as fs from 'node:fs';
import { ConcordError, fromSystemError } from '../errors.js';
import type { Env, EnvFile, OpenMode } from './env.js';

const FILE_MODE = 0o600;
const DIRECTORY_MODE = 0o700;

/** Linux moves at most 2^31 - 4096 bytes in one call, and Node refuses more than 2^31 - 1. */
const TRANSFER_BYTES_MAX = 1 << 30;

/** A local file never answers EAGAIN; some network and FUSE file systems do while a server restarts. */
const AGAIN_ATTEMPTS_MAX = 2000;
const AGAIN_PAUSE_MS = 1;

/** Linux only. Nobody looks when a store's file was read, and noting it costs a tenth of a read from the system's cache. */
const NO_ACCESS_TIME = (fs.constants as { readonly O_NOATIME?: number }).O_NOATIME ?? 0;

const OPEN_FLAGS: Record<OpenMode, number> = {
  read: fs.constants.O_RDONLY | NO_ACCESS_TIME,
  write: fs.constants.O_RDWR,
  create: fs.constants.O_RDWR | fs.constants.O_CREAT | fs.constants.O_EXCL,
};

export class NodeEnv implements Env {
  open(path: string, mode: OpenMode): EnvFile {
    return new NodeFile(
      path,
      attempt('open', path, () => openDescriptor(path, mode)),
    );
  }

  exists(path: string): boolean {
    // Not existsSync: that answers false for a directory that may not be searched, and absence must not be guessed.
    try {
      fs.statSync(path);
      return true;
    } catch (error) {
      const code = (error as NodeJS.ErrnoException).code;
      if (code === 'ENOENT' || code === 'ENOTDIR') return false;
      throw coded(error, 'look up', path);
    }
  }

  list(directory: string): string[] {
    return attempt('list', directory, () => fs.readdirSync(directory).sort());
  }

  makeDirectory(path: string): void {
    attempt('make directory', path, () => fs.mkdirSync(path, { recursive: true, mode: DIRECTORY_MODE }));
  }

  rename(from: string, to: string): void {
    attempt('rename', from, () => fs.renameSync(from, to));
  }

  remove(path: string): void {
    attempt('remove', path, () => fs.unlinkSync(path));
  }

  removeDirectory(path: string): void {
    attempt('remove directory', path, () => fs.rmdirSync(path));
  }

  syncDirectory(path: string): void {
    // Windows opens no directories; NTFS journals its names by itself.
    if (process.platform === 'win32') return;
    attempt('sync directory', path, () => {
      const descriptor = fs.openSync(path, fs.constants.O_RDONLY | fs.constants.O_DIRECTORY);
      try {
        fs.fsyncSync(descriptor);
      } finally {
        fs.closeSync(descriptor);
      }
    });
  }

  now(): number {
    return Date.now();
  }

  randomBytes(length: number): Uint8Array {
    return randomBytes(length);
  }
}

class NodeFile implements EnvFile {
  private closed = false;
  private poison: ConcordError | undefined;

  constructor(
    readonly path: string,
    private readonly descriptor: number,
  ) {}

  read(into: Uint8Array, start: number, length: number, position: number): number {
    this.mustBeOpen();
    let done = 0;
    let againCount = 0;
    while (done < length) {
      const want = Math.min(length - done, TRANSFER_BYTES_MAX);
      let count: number;
      try {
        count = fs.readSync(this.descriptor, into, start + done, want, position + done);
      } catch (error) {
        againCount = retryOrThrow(error, againCount, 'read', this.path);
        continue;
      }
      if (count === 0) break;
      done += count;
    }
    return done;
  }

  async readAsync(into: Uint8Array, start: number, length: number, position: number): Promise<number> {
    this.mustBeOpen();
    let done = 0;
    let againCount = 0;
    while (done < length) {
      const want = Math.min(length - done, TRANSFER_BYTES_MAX);
      let count: number;
      try {
        count = await readOnce(this.descriptor, into, start + done, want, position + done);
      } catch (error) {
        if (!mayRepeat(error, againCount)) throw coded(error, 'read', this.path);
        againCount++;
        await new Promise<void>((resolve) => setTimeout(resolve, AGAIN_PAUSE_MS));
        continue;
      }
      if (count === 0) break;
      done += count;
    }
    return done;
  }

  write(from: Uint8Array, start: number, length: number, position: number): void {
    this.mustBeOpen();
    this.mustBeTrusted('write');
    let done = 0;
    let againCount = 0;
    while (done < length) {
      const want = Math.min(length - done, TRANSFER_BYTES_MAX);
      let count: number;
      try {
        count = fs.writeSync(this.descriptor, from, start + done, want, position + done);
      } catch (error) {
        againCount = retryOrThrow(error, againCount, 'write', this.path);
        continue;
      }
      if (count === 0) {
        throw new ConcordError('ERR_IO', `write ${this.path}: the system took 0 of ${want} bytes`, { file: this.path });
      }
      done += count;
    }
  }

  sync(): void {
    this.mustBeOpen();
    this.mustBeTrusted('sync');
    try {
      fs.fdatasyncSync(this.descriptor);
    } catch (error) {
      this.poison = fromSystemError(error, 'sync', this.path);
      throw this.poison;
    }
  }

  async syncAsync(): Promise<void> {
    this.mustBeOpen();
    this.mustBeTrusted('sync');
    try {
      await dataSync(this.descriptor);
    } catch (error) {
      this.poison = fromSystemError(error, 'sync', this.path);
      throw this.poison;
    }
  }

  size(): number {
    this.mustBeOpen();
    return attempt('size of', this.path, () => fs.fstatSync(this.descriptor).size);
  }

  truncate(length: number): void {
    this.mustBeOpen();
    this.mustBeTrusted('truncate');
    attempt('truncate', this.path, () => fs.ftruncateSync(this.descriptor, length));
  }

  close(): void {
    if (this.closed) return;
    // Whatever close answers, the descriptor is gone; using the number again could hit another file.
    this.closed = true;
    attempt('close', this.path, () => fs.closeSync(this.descriptor));
  }

  private mustBeOpen(): void {
    if (this.closed) throw new ConcordError('ERR_INTERNAL', `${this.path} is used after close`, { file: this.path });
  }

  private mustBeTrusted(doing: string): void {
    if (this.poison === undefined) return;
    throw new ConcordError(
      'ERR_IO',
      `${doing} ${this.path}: an earlier sync failed, the file's content is unknown`,
      { file: this.path, poisoned: true },
      { cause: this.poison },
    );
  }
}

function openDescriptor(path: string, mode: OpenMode): number {
  const flags = OPEN_FLAGS[mode];
  try {
    return fs.openSync(path, flags, FILE_MODE);
  } catch (error) {
    // Only the owner of a file may leave its times alone.
    if ((error as NodeJS.ErrnoException).code !== 'EPERM' || (flags & NO_ACCESS_TIME) === 0) throw error;
    return fs.openSync(path, flags & ~NO_ACCESS_TIME, FILE_MODE);
  }
}

function attempt<T>(doing: string, path: string, call: () => T): T {
  try {
    return call();
  } catch (error) {
    throw coded(error, doing, path);
  }
}

function readOnce(
  descriptor: number,
  into: Uint8Array,
  start: number,
  length: number,
  position: number,
): Promise<number> {
  return new Promise((resolve, reject) => {
    fs.read(descriptor, into, start, length, position, (error, count) => {
      if (error === null) resolve(count);
      else reject(error);
    });
  });
}

function dataSync(descriptor: number): Promise<void> {
  return new Promise((resolve, reject) => {
    fs.fdatasync(descriptor, (error) => {
      if (error === null) resolve();
      else reject(error);
    });
  });
}

function mayRepeat(error: unknown, againCount: number): boolean {
  const code = (error as NodeJS.ErrnoException).code;
  return code === 'EINTR' || (code === 'EAGAIN' && againCount < AGAIN_ATTEMPTS_MAX);
}

/** Returns when the call may be repeated, with the new count of EAGAINs; throws otherwise. */
function retryOrThrow(error: unknown, againCount: number, doing: string, path: string): number {
  const code = (error as NodeJS.ErrnoException).code;
  if (code === 'EINTR') return againCount;
  if (code === 'EAGAIN' && againCount < AGAIN_ATTEMPTS_MAX) {
    Atomics.wait(PAUSE_WORD, 0, 0, AGAIN_PAUSE_MS);
    return againCount + 1;
  }
  throw coded(error, doing, path);
}

/** Nobody notifies it: waiting on it is a sleep. */
const PAUSE_WORD = new Int32Array(new SharedArrayBuffer(4));

/** Node's complaints about arguments are our mistakes, not the machine's: they pass unchanged. */
function coded(error: unknown, doing: string, path: string): unknown {
  return (error as NodeJS.ErrnoException).syscall === undefined ? error : fromSystemError(error, doing, path);
}
