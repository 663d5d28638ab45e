import type { Env } from '../../../shared/env/env.js';
import type { BlobFileInfo, BlobReference, CompressionName, LsmIdentity } from '../types.js';

export declare class BlobWriter {
  static create(
    env: Env,
    path: string,
    parameters: {
      readonly identity: LsmIdentity;
      readonly number: number;
      readonly compression: CompressionName;
      readonly createdAt: number;
    },
  ): BlobWriter;
  readonly bytes: number;
  readonly records: number;
  append(
    key: Uint8Array,
    keyLength: number,
    value: Uint8Array,
    valueStart: number,
    valueLength: number,
    seq: number,
  ): BlobReference;
  /** A value in pieces: begin, then pieces of valueBytes in all, then end. */
  begin(key: Uint8Array, keyLength: number, valueBytes: number, seq: number): void;
  piece(bytes: Uint8Array, start: number, length: number): void;
  end(): BlobReference;
  /** Synced and closed. */
  finish(): BlobFileInfo;
  abort(): void;
}
