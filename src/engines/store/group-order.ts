/**
 * The order in which a group or a batch is applied: by key, so that neighbours in a tree are visited together and each page is found and copied
 * once. Only locality depends on it: all of a group becomes visible at once, and operations on one key keep their order.
 *
 * A radix sort from the last byte to the first, over the first few positions at which keys of the group differ at all: of keys like
 * `user:000000012345` those are the last digits, and a record costs some dozens of nanoseconds. It is stable, so equal keys keep their order; what
 * stands in order already is only looked at. Where many keys agree at those positions, they are sorted again by what comes behind them; a few that
 * agree stay in the order they came in. A key counts as if zeros followed it.
 *
 * Spaces are not told apart: each engine finds its own keys in order, whatever stands between them.
 * Threads: the shard's thread only; one instance per shard, reused.
 */
import { OperationKind, operationKeyAt, readKeyLength } from '../operation.js';

/** Smaller groups gain nothing. */
const SORTED_RECORDS_MIN = 8;
/** Memory is kept for so many; for more it is taken and given back. */
const KEPT_RECORDS_MAX = 4096;
/** Positions that one round sorts by, the most. */
const COLUMNS_MAX = 8;
/** Bytes behind what all keys share among which they are looked for. */
const WINDOW_BYTES = 32;
const DIGITS = 256;
/** Fewer records that agree lie in a page or two of a tree. */
const RUN_RECORDS_MIN = 64;
/** Rounds that sort one record: each looks further into the keys. */
const DEPTH_MAX = 64;

export class GroupOrder {
  /** After sort() returned true: indexes of the records in the order of their keys. */
  order = new Int32Array(KEPT_RECORDS_MAX);
  #positions = new Int32Array(KEPT_RECORDS_MAX);
  #otherPositions = new Int32Array(KEPT_RECORDS_MAX);
  /** Bytes of the records of a run, one column behind the other. */
  #bytesOf = new Uint8Array(COLUMNS_MAX * KEPT_RECORDS_MAX);
  /** How often each byte is in each column; then where the next record with it goes. */
  readonly #places = new Int32Array(COLUMNS_MAX * DIGITS);
  readonly #firstBytes = new Uint8Array(WINDOW_BYTES);
  readonly #differs = new Uint8Array(WINDOW_BYTES);
  /** Positions of the columns behind the shared bytes, ascending. */
  readonly #columns = new Int32Array(COLUMNS_MAX);
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
      this.#positions = new Int32Array(capacity);
      this.#otherPositions = new Int32Array(capacity);
      this.#bytesOf = new Uint8Array(COLUMNS_MAX * capacity);
    }
    this.#bytes = bytes;
    this.#recordAt = recordAt;
    this.#moved = moved;
    const { order } = this;
    for (let i = 0; i < records; i++) order[i] = i;
    if (!this.#isInOrder(records)) this.#sortRun(0, records, 0, 0);
    return true;
  }

  /** Whether the records stand in the order of their keys. Of others it is known after a few. */
  #isInOrder(records: number): boolean {
    const bytes = this.#bytes;
    const recordAt = this.#recordAt;
    const moved = this.#moved;
    let before = operationKeyAt(bytes, recordAt[0]! + moved);
    let beforeLength = readKeyLength(bytes, recordAt[0]! + moved);
    for (let i = 1; i < records; i++) {
      const at = recordAt[i]! + moved;
      const key = operationKeyAt(bytes, at);
      const length = readKeyLength(bytes, at);
      const shorter = length < beforeLength ? length : beforeLength;
      let byte = 0;
      while (byte < shorter && bytes[key + byte] === bytes[before + byte]) byte++;
      if (byte === shorter ? length < beforeLength : bytes[key + byte]! < bytes[before + byte]!) return false;
      before = key;
      beforeLength = length;
    }
    return true;
  }

  /** Sorts order[from … to), whose keys share `known` bytes. */
  #sortRun(from: number, to: number, known: number, depth: number): void {
    const shared = this.#sharedBytes(from, to, known);
    // A key that ends here could not be told from one that goes on with zeros: looking further is no use.
    if (depth > 0 && shared === known) return;
    const columns = this.#findColumns(from, to, shared);
    if (columns === 0) return;
    this.#readColumns(from, to, shared, columns);
    this.#sortByColumns(from, to, columns);
    if (depth === DEPTH_MAX) return;
    // What agrees in all columns goes on behind them; keys that end there are done with.
    const further = shared + this.#columns[columns - 1]! + 1;
    if (to - from < RUN_RECORDS_MIN || !this.#anyLonger(from, to, further)) return;
    for (const [low, high] of this.#runs(from, to, further))
      if (this.#anyLonger(low, high, further)) this.#sortRun(low, high, shared, depth + 1);
  }

  /** Bytes that all keys of the run begin with, at least `known`. */
  #sharedBytes(from: number, to: number, known: number): number {
    const bytes = this.#bytes;
    const recordAt = this.#recordAt;
    const moved = this.#moved;
    const { order } = this;
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
      shared = same;
    }
    return Math.max(known, shared);
  }

  /** The first positions behind the shared bytes at which not all keys have the same byte. Returns how many there are. */
  #findColumns(from: number, to: number, shared: number): number {
    const bytes = this.#bytes;
    const recordAt = this.#recordAt;
    const moved = this.#moved;
    const { order } = this;
    const firstBytes = this.#firstBytes;
    const differs = this.#differs;
    const columns = this.#columns;
    const firstAt = recordAt[order[from]!]! + moved;
    const firstKey = operationKeyAt(bytes, firstAt) + shared;
    const firstLeft = readKeyLength(bytes, firstAt) - shared;
    for (let byte = 0; byte < WINDOW_BYTES; byte++) {
      firstBytes[byte] = byte < firstLeft ? bytes[firstKey + byte]! : 0;
      differs[byte] = 0;
    }
    let window = WINDOW_BYTES;
    let found = 0;
    for (let i = from + 1; i < to; i++) {
      const at = recordAt[order[i]!]! + moved;
      const key = operationKeyAt(bytes, at) + shared;
      const left = readKeyLength(bytes, at) - shared;
      const end = Math.min(window, Math.max(left, firstLeft));
      for (let byte = 0; byte < end; byte++) {
        if (differs[byte] !== 0 || (byte < left ? bytes[key + byte]! : 0) === firstBytes[byte]) continue;
        differs[byte] = 1;
        found++;
        if (found < COLUMNS_MAX) continue;
        // Only the first ones count: what comes behind the last of them is not looked at any more.
        let kept = 0;
        for (window = 0; kept < COLUMNS_MAX; window++) kept += differs[window]!;
        found = COLUMNS_MAX;
      }
    }
    let count = 0;
    for (let byte = 0; byte < window; byte++) if (differs[byte] !== 0) columns[count++] = byte;
    return count;
  }

  /** Takes the bytes of the columns from the keys and counts them. */
  #readColumns(from: number, to: number, shared: number, columnCount: number): void {
    const bytes = this.#bytes;
    const recordAt = this.#recordAt;
    const moved = this.#moved;
    const { order } = this;
    const columns = this.#columns;
    const bytesOf = this.#bytesOf;
    const places = this.#places;
    const count = to - from;
    places.fill(0, 0, columnCount * DIGITS);
    for (let i = 0; i < count; i++) {
      const at = recordAt[order[from + i]!]! + moved;
      const key = operationKeyAt(bytes, at) + shared;
      const left = readKeyLength(bytes, at) - shared;
      for (let column = 0, into = i; column < columnCount; column++, into += count) {
        const position = columns[column]!;
        const byte = position < left ? bytes[key + position]! : 0;
        bytesOf[into] = byte;
        places[column * DIGITS + byte]!++;
      }
    }
  }

  #sortByColumns(from: number, to: number, columnCount: number): void {
    const bytesOf = this.#bytesOf;
    const places = this.#places;
    const count = to - from;
    // Positions in the run, sorted back and forth between two arrays.
    let sorted = this.#positions;
    let other = this.#otherPositions;
    for (let i = 0; i < count; i++) sorted[i] = i;
    for (let column = columnCount - 1; column >= 0; column--) {
      const digits = column * DIGITS;
      let place = 0;
      for (let digit = digits; digit < digits + DIGITS; digit++) {
        const number = places[digit]!;
        places[digit] = place;
        place += number;
      }
      const base = column * count;
      for (let i = 0; i < count; i++) {
        const position = sorted[i]!;
        other[places[digits + bytesOf[base + position]!]!++] = position;
      }
      [sorted, other] = [other, sorted];
    }
    const { order } = this;
    for (let i = 0; i < count; i++) other[i] = order[from + sorted[i]!]!;
    for (let i = 0; i < count; i++) order[from + i] = other[i]!;
  }

  /** Runs of many keys that agree up to the given length, as [from, to). */
  #runs(from: number, to: number, length: number): [number, number][] {
    const runs: [number, number][] = [];
    let runFrom = from;
    for (let i = from + 1; i <= to; i++) {
      if (i < to && this.#agree(this.order[i - 1]!, this.order[i]!, length)) continue;
      if (i - runFrom >= RUN_RECORDS_MIN) runs.push([runFrom, i]);
      runFrom = i;
    }
    return runs;
  }

  /** Whether two keys begin with the same bytes, zeros behind their ends counted. From the end: neighbours in order differ there. */
  #agree(first: number, second: number, length: number): boolean {
    const bytes = this.#bytes;
    const firstAt = this.#recordAt[first]! + this.#moved;
    const secondAt = this.#recordAt[second]! + this.#moved;
    const firstKey = operationKeyAt(bytes, firstAt);
    const secondKey = operationKeyAt(bytes, secondAt);
    const firstLength = readKeyLength(bytes, firstAt);
    const secondLength = readKeyLength(bytes, secondAt);
    for (let byte = length - 1; byte >= 0; byte--) {
      const one = byte < firstLength ? bytes[firstKey + byte]! : 0;
      if (one !== (byte < secondLength ? bytes[secondKey + byte]! : 0)) return false;
    }
    return true;
  }

  /** Whether any key of the run goes on behind `length` bytes. */
  #anyLonger(from: number, to: number, length: number): boolean {
    for (let i = from; i < to; i++) {
      if (readKeyLength(this.#bytes, this.#recordAt[this.order[i]!]! + this.#moved) > length) return true;
    }
    return false;
  }
}
