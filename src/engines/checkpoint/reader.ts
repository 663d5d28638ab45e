/** Checkpoint files: reader, and the files of a directory. */
import type { Env } from '../../shared/env/env.js';
import type { CheckpointHeader } from './writer.js';

export interface CheckpointReadOptions {
  /** When given, a file of another store or shard is refused. */
  readonly storeId?: Uint8Array | undefined;
  readonly shard?: number | undefined;
  readonly onHeader?: ((header: CheckpointHeader) => void) | undefined;
  readonly isCancelled?: (() => boolean) | undefined;
}

export declare class CheckpointReader implements Iterable<Buffer> {
  readonly header: CheckpointHeader;
  readonly fileBytes: number;
  /** The next chunk, valid until the next call; undefined after the last, once the footer has been checked. */
  nextChunk(): Buffer | undefined;
  close(): void;
  [Symbol.iterator](): Iterator<Buffer>;
}

export declare function readCheckpoint(env: Env, path: string, options?: CheckpointReadOptions): CheckpointReader;

/** The newest finished checkpoint. */
export declare function findCheckpoint(env: Env, directory: string): { path: string; lsn: number } | undefined;
/** For the directory's owner, at open: removes what interrupted writers left. Returns the count. */
export declare function removeTemporaryCheckpoints(env: Env, directory: string): number;
/** Removes finished checkpoints older than `lsn`. Returns the count. */
export declare function removeCheckpointsBefore(env: Env, directory: string, lsn: number): number;
