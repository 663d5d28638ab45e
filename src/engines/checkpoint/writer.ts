/** Checkpoint files: the writer. */
import type { Env } from '../../shared/env/env.js';

export interface CheckpointHeader {
  /** 16 bytes. */
  readonly storeId: Uint8Array;
  readonly shard: number;
  /** The last log frame whose effects are in the image; recovery replays from lsn + 1. */
  readonly lsn: number;
  readonly publishedSeq: number;
  /** Milliseconds since the epoch. */
  readonly createdAt: number;
  readonly trimSeq?: number | undefined;
}

export interface CheckpointWriterOptions {
  /** Asked between chunks; true ends the writing with ERR_CLOSED. */
  readonly isCancelled?: (() => boolean) | undefined;
}

export declare class CheckpointWriter {
  static create(
    env: Env,
    directory: string,
    header: CheckpointHeader,
    options?: CheckpointWriterOptions,
  ): CheckpointWriter;
  /** One chunk of 1 ..= CHUNK_BYTES_MAX bytes; the reader gives back the same chunks. */
  write(chunk: Uint8Array): void;
  finish(): { path: string; bytes: number };
  /** Removes what was written. Harmless after finish(). */
  abort(): void;
}
