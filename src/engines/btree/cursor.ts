/** Ordered reads of a pinned tree: signatures. */
import type { ArenaReader, UnitId } from '../../shared/memory/arena.js';

/** Any thread, valid only while pinned under the meta unit of seek. */
export declare class BTreeCursor {
  constructor(arena: ArenaReader, treeIndex: number);
  /**
   * Stands at the first entry with a key ≥ `key` (reverse: the last entry with a key ≤ `key`); undefined = the first (last) of all.
   * Returns valid.
   */
  seek(
    metaUnit: UnitId,
    key: Uint8Array | undefined,
    keyLength: number,
    atSeq: number,
    reverse: boolean,
  ): boolean;
  /** To the next key (upwards); after seek with reverse = false. Returns valid. */
  next(): boolean;
  /** To the key before (downwards); after seek with reverse = true. Returns valid. */
  prev(): boolean;
  get valid(): boolean;
  get keyLength(): number;
  /** Returns keyLength. */
  copyKey(into: Uint8Array, at: number): number;
  /** < 0 if the current key is smaller than `key`. */
  compareKey(key: Uint8Array, keyLength: number): number;
  get seq(): number;
  get valueLength(): number;
  copyValue(): Buffer;
  valueUtf8(): string;
  readValue(into: Uint8Array, at: number, from: number, length: number): number;
}
