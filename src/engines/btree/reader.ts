/** Point reads of a pinned tree: signatures. */
import type { ArenaReader, UnitId } from '../../shared/memory/arena.js';

/** Any thread, between pin and unpin. */
export declare class BTreeReader {
  constructor(arena: ArenaReader);
  /** atSeq Infinity = newest. After true: seq, valueLength, copyValue, valueUtf8, readValue. */
  find(metaUnit: UnitId, treeIndex: number, key: Uint8Array, keyLength: number, atSeq: number): boolean;
  get seq(): number;
  get valueLength(): number;
  copyValue(): Buffer;
  valueUtf8(): string;
  /** Copies value bytes [from, from + length) to into[at …]; returns bytes copied. */
  readValue(into: Uint8Array, at: number, from: number, length: number): number;
}
