/** Write-ahead log of one shard: the writer. */
import type { Env } from '../../shared/env/env.js';
import type { WalRecovery } from './recovery.js';

export interface WalOptions {
  /** 16 bytes. */
  readonly storeId: Uint8Array;
  readonly shard: number;
  /** 64 KiB ..= 1 GiB, a multiple of 4096. Default 32 MiB. */
  readonly segmentBytes?: number;
  /** Largest payload of one frame. Default 8 MiB, less if a segment is smaller. */
  readonly payloadBytesMax?: number;
  /** Without a ready spare a segment is preallocated in steps of this size. Default 4 MiB. */
  readonly preallocateBytes?: number;
  /** Recycled segments kept for reuse. Default 4. */
  readonly spareSegmentsMax?: number;
}

export declare class WalWriter {
  /** A log for a new store, in a directory that exists and has no segments. The first frame gets `nextLsn` (default 1). */
  static create(env: Env, directory: string, options: WalOptions, nextLsn?: number): WalWriter;
  /** Goes on after a recovery, in a new segment of a new generation. */
  static open(env: Env, directory: string, options: WalOptions, recovery: WalRecovery): WalWriter;

  /** The buffer to write the payload into, at bytes[position…]. Replaced by ensure() when it grows. */
  bytes: Buffer;
  position: number;
  begin(): void;
  /** Room for `byteCount` more bytes at `position`. ERR_BATCH_TOO_LARGE beyond the largest payload. */
  ensure(byteCount: number): void;
  /** Returns the LSN. `buffered`: keep the frame in memory until the next write, writeOut() or sync(). */
  commit(firstSeq: number, operationCount: number, buffered?: boolean): number;
  /** Drops the frame under construction. */
  discard(): void;
  /** Writes the buffered frames. */
  writeOut(): void;
  /** Everything committed so far is durable when it returns. */
  sync(): void;
  /** LSN of the last committed frame, buffered ones included. */
  get lastLsn(): number;
  /** LSN of the last frame handed to the operating system. */
  get writtenLsn(): number;
  get syncedLsn(): number;
  /** Bytes of frames and headers in the segments that are still needed. */
  get sizeBytes(): number;
  get segmentCount(): number;
  /** 0 ..= 1 */
  get currentSegmentFill(): number;
  get payloadBytesMax(): number;
  /** Set once an fdatasync (or the repair of a failed write) failed: nothing can be appended any more. */
  get failure(): Error | undefined;
  wantsSpare(): boolean;
  /** Takes a file made by preallocateSegment(). False: not needed or gone. */
  offerSpare(path: string): boolean;
  /** Frames up to and including `lsn` are no longer needed. */
  truncate(lsn: number): void;
  /** Writes and syncs what is buffered, then closes. */
  close(): void;
}

/** Makes a zero-filled, synced file for WalWriter.offerSpare() under a unique name in the log's directory; returns its path. Any thread. */
export declare function preallocateSegment(env: Env, directory: string, segmentBytes: number): string;
