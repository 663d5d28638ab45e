/**
 * The order in which a group is applied: by key, so that neighbours in the tree are visited together and each page is found and copied once. Only
 * locality depends on it: all of a group becomes visible at once, and operations on one key keep their order.
 *
 * A sort key is a float64 of 52 bits: five bytes of the key behind what all keys of the group share, then the index in the group. So equal keys
 * keep their order, and a native numeric sort does the work. Keys that agree in those bytes stay in arrival order among themselves.
 *
 * Threads: the shard's thread only; one instance per shard, reused.
 */
import { OPERATION_HEADER_BYTES, OperationKind, readKeyLength } from '../operation.js';

/** Smaller groups gain nothing. */
const SORTED_RECORDS_MIN = 8;
/** The index takes 12 bits of a sort key. */
const SORTED_RECORDS_MAX = 4096;
const HEAD_BYTES = 5;

export class GroupOrder {
  /** After sort() returned true: indexes of the group's records in the order of their keys. */
  readonly order = new Int32Array(SORTED_RECORDS_MAX);
  readonly #sortKeys = new Float64Array(SORTED_RECORDS_MAX);

  /** Records stand at recordAt[i] + moved. False when the group is not worth sorting, or holds anything but puts and deletes. */
  sort(bytes: Uint8Array, recordAt: Int32Array, records: number, moved: number): boolean {
    if (records < SORTED_RECORDS_MIN || records > SORTED_RECORDS_MAX) return false;
    const firstKey = recordAt[0]! + moved + OPERATION_HEADER_BYTES;
    let shared = readKeyLength(bytes, recordAt[0]! + moved);
    for (let i = 0; i < records; i++) {
      const at = recordAt[i]! + moved;
      const kind = bytes[at]!;
      if (kind !== OperationKind.Put && kind !== OperationKind.Delete) return false;
      const key = at + OPERATION_HEADER_BYTES;
      const length = readKeyLength(bytes, at);
      if (length < shared) shared = length;
      let same = 0;
      while (same < shared && bytes[key + same] === bytes[firstKey + same]) same++;
      shared = same;
    }
    const sortKeys = this.#sortKeys;
    for (let i = 0; i < records; i++) {
      const at = recordAt[i]! + moved;
      const length = readKeyLength(bytes, at);
      const head = at + OPERATION_HEADER_BYTES + shared;
      const end = at + OPERATION_HEADER_BYTES + length;
      let sortKey = 0;
      for (let j = 0; j < HEAD_BYTES; j++) sortKey = sortKey * 256 + (head + j < end ? bytes[head + j]! : 0);
      sortKeys[i] = sortKey * SORTED_RECORDS_MAX + i;
    }
    sortKeys.subarray(0, records).sort();
    const { order } = this;
    for (let i = 0; i < records; i++) order[i] = sortKeys[i]! % SORTED_RECORDS_MAX;
    return true;
  }
}
