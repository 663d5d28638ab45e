/**
 * The seam between the engine and the machine: files, clock, randomness. Engines reach the outside only through an Env, so every
 * engine test can run in one thread, on an in-memory disk, with injected faults, under a seed.
 *
 * Three file systems implement it: node-env (the real one), mem-env (in memory, with the crash semantics of a disk:
 * what was not synced may be lost, torn or reordered, directory entries included) and fault-env (wraps another, injects errors).
 *
 * Calls are synchronous but for readAsync and syncAsync: the shard thread that owns a file does nothing else meanwhile, and one blocking fdatasync costs half
 * of an asynchronous one. Failures are ConcordErrors that name the file (see fromSystemError). Threads: one Env per thread.
 */

/** An open file. Positions are absolute byte offsets; there is no cursor. */
export interface EnvFile {
  readonly path: string;
  /** Bytes read, short only at end of file. */
  read(into: Uint8Array, start: number, length: number, position: number): number;
  /**
   * The same without blocking the thread; the bytes of `into` are nobody else's until it settles, and the file must stay open as long. Left out: the
   * file cannot do that, read() will do.
   */
  readAsync?(into: Uint8Array, start: number, length: number, position: number): Promise<number>;
  /** Writes all of it or throws; after a throw the range's content is undefined. */
  write(from: Uint8Array, start: number, length: number, position: number): void;
  /** fdatasync: content and size are durable when it returns. After a throw the file must not be trusted again. */
  sync(): void;
  /**
   * The same without blocking the thread, for what was written before the call; the file must stay open until it settles. The system reports a failed
   * write-back once to each handle, so a handle of which a sync is under way is no witness for another: whoever calls sync() meanwhile has one of his own.
   * Left out: the file cannot do that.
   */
  syncAsync?(): Promise<void>;
  size(): number;
  truncate(length: number): void;
  close(): void;
}

export type OpenMode =
  /** Must exist; never written. */
  | 'read'
  /** Must exist. */
  | 'write'
  /** Must not exist (O_EXCL); created with mode 0600. */
  | 'create';

export interface Env {
  open(path: string, mode: OpenMode): EnvFile;
  exists(path: string): boolean;
  /** Names in the directory, sorted. */
  list(directory: string): string[];
  /** Recursive, mode 0700. Existing directories are fine. */
  makeDirectory(path: string): void;
  /** Atomic, replaces the target; durable only after syncDirectory. */
  rename(from: string, to: string): void;
  remove(path: string): void;
  /** An empty directory. Left out: directories stay. */
  removeDirectory?(path: string): void;
  /** fsync of a directory: creations, renames and removals in it are durable when it returns. */
  syncDirectory(path: string): void;
  /** Milliseconds since the epoch. */
  now(): number;
  /** Cryptographic bytes, or seeded ones in tests. */
  randomBytes(length: number): Uint8Array;
}
