import type { Env } from '../../../shared/env/env.js';
import type { LsmIdentity, TableInfo, TableOptions } from '../types.js';

export interface TableWriterParameters {
  readonly identity: LsmIdentity;
  readonly number: number;
  readonly level: number;
  readonly run: number;
  readonly options: TableOptions;
  readonly createdAt: number;
}

export declare class TableWriter {
  /** The file must not exist; it gets its name at once. */
  static create(env: Env, path: string, parameters: TableWriterParameters): TableWriter;
  /** Of the file if it were finished now, nearly. */
  readonly bytes: number;
  readonly entries: number;
  /** Keys ascending, seq descending within a key. flags: EntryFlag; expiry stands for itself (expiresAt > 0 sets the flag). */
  add(
    key: Uint8Array,
    keyLength: number,
    value: Uint8Array,
    valueStart: number,
    valueLength: number,
    seq: number,
    flags: number,
    expiresAt: number,
  ): void;
  /** Synced and closed (the directory is not synced). At least one entry. */
  finish(): TableInfo;
  /** Closes and removes the file. */
  abort(): void;
}
