import type { TableFile } from './table-file.js';

/** A table from a key on, in order, reading ahead: for jobs. */
export declare class TableIterator {
  constructor(table: TableFile, readAheadBytes?: number);
  readonly valid: boolean;
  readonly key: Uint8Array;
  readonly keyLength: number;
  readonly bytes: Uint8Array;
  readonly valueStart: number;
  readonly valueLength: number;
  readonly seq: number;
  readonly flags: number;
  readonly expiresAt: number;
  /** Of the file, so far. */
  readonly readBytes: number;
  /** To the first entry of a key ≥ low (undefined: the first); invalid from the first key ≥ high on. */
  seek(low: Uint8Array | undefined, high: Uint8Array | undefined): boolean;
  next(): boolean;
}
