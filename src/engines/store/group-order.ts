/**
 * The order in which a group or a batch is applied: by key, so that neighbours in a tree are visited together and each page is found and copied
 * once. Only locality depends on it: all of a group becomes visible at once, and operations on one key keep their order.
 *
 * A sort key is a float64 of 52 bits: as many bits as there is room for of the key behind what all keys share, then the index. So equal keys keep
 * their order, and a native numeric sort does the work. Where many keys agree in those bits, they are sorted again by what comes behind
 * them; a few that agree stay in the order they came in.
 *
 * Spaces are not told apart: each engine finds its own keys in order, whatever stands between them.
 * Threads: the shard's thread only; one instance per shard, reused.
 */
import { OperationKind, operationKeyAt, readKeyLength } from '../operation.js';

/** Smaller groups gain nothing. */
const SORTED_RECORDS_MIN = 8;
/** Memory is kept for so many; for more it is taken and given back. */
const KEPT_RECORDS_MAX = 4096;
const SORT_KEY_BITS = 52;
const HEAD_BYTES = 6;
const HEAD_BITS = 8 * HEAD_BYTES;
/** Fewer records that agree in their sort keys lie in a page or two of a tree. */
const RUN_RECORDS_MIN = 64;
/** Rounds that sort one record: each looks further into the keys. */
const DEPTH_MAX = 64;

export class GroupOrder {
  /** After sort() returned true: indexes of the records in the order of their keys. */
  order = new Int32Array(KEPT_RECORDS_MAX);
  #sortKeys = new Float64Array(KEPT_RECORDS_MAX);
  #bytes!: Uint8Array;
  #recordAt!: Int32Array;
  #moved = 0;

  /** Records stand at recordAt[i] + moved. False when they are not worth sorting, or are anything but puts and deletes. */
  sort(bytes: Uint8Array, recordAt: Int32Array, records: number, moved: number): boolean {
    if (records < SORTED_RECORDS_MIN) return false;
    for (let i = 0; i < records; i++) {
      const kind = bytes[recordAt[i]! + moved]!;
      if (kind !== OperationKind.Put && kind !== OperationKind.Delete) return false;
    }
    const capacity = Math.max(records, KEPT_RECORDS_MAX);
    if (this.order.length !== capacity) {
      this.order = new Int32Array(capacity);
      this.#sortKeys = new Float64Array(capacity);
    }
    this.#bytes = bytes;
    this.#recordAt = recordAt;
    this.#moved = moved;
    const { order } = this;
    for (let i = 0; i < records; i++) order[i] = i;
    this.#sortRun(0, records, 0, 0);
    return true;
  }

  /** Sorts order[from … to), whose keys share `known` bytes. */
  #sortRun(from: number, to: number, known: number, depth: number): void {
    const bytes = this.#bytes;
    const recordAt = this.#recordAt;
    const moved = this.#moved;
    const { order } = this;
    const sortKeys = this.#sortKeys;
    const count = to - from;
    const firstAt = recordAt[order[from]!]! + moved;
    const firstKey = operationKeyAt(bytes, firstAt);
    let shared = readKeyLength(bytes, firstAt);
    for (let i = from + 1; i < to && shared > known; i++) {
      const at = recordAt[order[i]!]! + moved;
      const key = operationKeyAt(bytes, at);
      const length = readKeyLength(bytes, at);
      if (length < shared) shared = length;
      let same = known;
      while (same < shared && bytes[key + same] === bytes[firstKey + same]) same++;
      shared = Math.max(known, same);
    }
    // A key that ends here could not be told from one that goes on with zeros: looking further is no use.
    if (depth > 0 && shared === known) return;
    // The index in the run: the run stands in the order of the records among those that agreed before.
    const indexBits = 32 - Math.clz32(count - 1);
    const headBits = Math.min(HEAD_BITS, SORT_KEY_BITS - indexBits);
    const scale = 2 ** (HEAD_BITS - headBits);
    const indexes = 2 ** indexBits;
    for (let i = 0; i < count; i++) {
      const at = recordAt[order[from + i]!]! + moved;
      const keyAt = operationKeyAt(bytes, at);
      const end = keyAt + readKeyLength(bytes, at);
      let head = 0;
      for (let byte = keyAt + shared, last = byte + HEAD_BYTES; byte < last; byte++)
        head = head * 256 + (byte < end ? bytes[byte]! : 0);
      sortKeys[i] = Math.floor(head / scale) * indexes + i;
    }
    sortKeys.subarray(0, count).sort();
    const before = order.slice(from, to);
    const bounds: number[] = [];
    let runFrom = 0;
    let runHead = Math.floor(sortKeys[0]! / indexes);
    for (let i = 0; i < count; i++) {
      const head = Math.floor(sortKeys[i]! / indexes);
      order[from + i] = before[sortKeys[i]! - head * indexes]!;
      if (head === runHead) continue;
      if (i - runFrom >= RUN_RECORDS_MIN) bounds.push(runFrom, i);
      runFrom = i;
      runHead = head;
    }
    if (count - runFrom >= RUN_RECORDS_MIN) bounds.push(runFrom, count);
    if (depth === DEPTH_MAX) return;
    // What agrees in the whole bytes of its head goes on behind them; keys that end there are done with.
    const further = shared + (headBits >>> 3);
    for (let bound = 0; bound < bounds.length; bound += 2) {
      const low = from + bounds[bound]!;
      const high = from + bounds[bound + 1]!;
      if (this.#anyLonger(low, high, further)) this.#sortRun(low, high, shared, depth + 1);
    }
  }

  /** Whether any key of the run goes on behind `length` bytes. */
  #anyLonger(from: number, to: number, length: number): boolean {
    for (let i = from; i < to; i++) {
      if (readKeyLength(this.#bytes, this.#recordAt[this.order[i]!]! + this.#moved) > length) return true;
    }
    return false;
  }
}
