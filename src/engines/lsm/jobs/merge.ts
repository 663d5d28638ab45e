/**
 * Several runs as one sequence: keys ascending, the versions of a key newest first.
 *
 *   tables of a run ──▶ RunSource (one table after the other) ─┐
 *   tables of a run ──▶ RunSource ─────────────────────────────┼─▶ RunMerge.top, advance()
 *
 * The sources stand in an array in order, the one with the smallest entry first. After a step it is compared with the second: as long as it stays in
 * front, one comparison per entry is all; else it moves back to its place. With the two to some dozens of runs of a compaction that beats a heap, and runs
 * whose ranges do not mix cost nothing extra.
 *
 * Comparisons look at eight bytes first, as two integers, after what all keys of the merge have in common: that follows from its bounds, since every key between
 * two keys begins with what those have in common.
 *
 * Threads: the job's.
 */
import { posix } from 'node:path';
import type { Env } from '../../../shared/env/env.js';
import { compareKeys } from '../compaction/ranges.js';
import { tableName } from '../manifest/names.js';
import { BlockBuffer } from '../table/block.js';
import { TableFile } from '../table/table-file.js';
import { TableIterator } from '../table/table-iterator.js';
import type { LsmIdentity, TableInfo } from '../types.js';

/** Of what reads the files: each source has a window of this size. */
const READ_AHEAD_BYTES = 512 * 1024;

export interface MergeParameters {
  readonly directory: string;
  readonly identity: LsmIdentity;
  /** Newest first; each in key order. */
  readonly runs: readonly (readonly TableInfo[])[];
  /** Only keys in [low, high). */
  readonly low: Uint8Array | undefined;
  readonly high: Uint8Array | undefined;
}

/** One run. */
export class RunSource {
  /** What next() or the constructor arrived at; undefined at the end of the run. */
  entry: TableIterator | undefined;
  /** The eight bytes of the key behind the common ones, order-preserving. */
  head = 0;
  secondHead = 0;
  /** Place among the runs: newer ones have smaller. */
  readonly rank: number;
  readonly #env: Env;
  readonly #parameters: MergeParameters;
  readonly #prefixBytes: number;
  readonly #tables: readonly TableInfo[];
  readonly #ahead = new BlockBuffer(0);
  #next = 0;
  #file: TableFile | undefined;

  constructor(env: Env, parameters: MergeParameters, rank: number, prefixBytes: number) {
    this.#env = env;
    this.#parameters = parameters;
    this.rank = rank;
    this.#prefixBytes = prefixBytes;
    this.#tables = parameters.runs[rank]!;
    try {
      this.#openNext();
    } catch (error) {
      this.close();
      throw error;
    }
  }

  /** False at the end of the run. */
  next(): boolean {
    const { entry } = this;
    if (entry === undefined) return false;
    if (!entry.next()) return this.#openNext();
    this.#readHead(entry);
    return true;
  }

  close(): void {
    const file = this.#file;
    this.#file = undefined;
    this.entry = undefined;
    file?.close();
  }

  #openNext(): boolean {
    const { directory, identity, low, high } = this.#parameters;
    this.close();
    while (this.#next < this.#tables.length) {
      const table = this.#tables[this.#next++]!;
      if (low !== undefined && compareKeys(table.largestKey, low) < 0) continue;
      if (high !== undefined && compareKeys(table.smallestKey, high) >= 0) break;
      const path = posix.join(directory, tableName(table.number));
      const file = TableFile.open(this.#env, path, identity, table.number, table.bytes);
      this.#file = file;
      const entry = new TableIterator(file, READ_AHEAD_BYTES, this.#ahead);
      if (entry.seek(low, high)) {
        this.entry = entry;
        this.#readHead(entry);
        return true;
      }
      this.close();
    }
    return false;
  }

  #readHead(entry: TableIterator): void {
    const { key } = entry;
    const at = this.#prefixBytes;
    if (entry.keyLength >= at + 8) {
      // The sign bit turned over: as integers in the order of the bytes.
      this.head = ((key[at]! << 24) | (key[at + 1]! << 16) | (key[at + 2]! << 8) | key[at + 3]!) ^ 0x80000000;
      this.secondHead = ((key[at + 4]! << 24) | (key[at + 5]! << 16) | (key[at + 6]! << 8) | key[at + 7]!) ^ 0x80000000;
    } else {
      this.head = headOf(key, at, entry.keyLength);
      this.secondHead = headOf(key, at + 4, entry.keyLength);
    }
  }
}

function headOf(key: Uint8Array, at: number, end: number): number {
  let head = 0;
  for (let index = at; index < at + 4; index++) head = (head << 8) | (index < end ? key[index]! : 0);
  return head ^ 0x80000000;
}

export class RunMerge {
  readonly #order: RunSource[] = [];
  readonly #prefixBytes: number;

  constructor(env: Env, parameters: MergeParameters) {
    this.#prefixBytes = commonBytes(parameters);
    try {
      for (let rank = 0; rank < parameters.runs.length; rank++) {
        const source = new RunSource(env, parameters, rank, this.#prefixBytes);
        if (source.entry === undefined) continue;
        this.#order.push(source);
        this.#settle(this.#order.length - 1, -1);
      }
    } catch (error) {
      this.close();
      throw error;
    }
  }

  /** The entry at hand; undefined at the end. */
  get top(): TableIterator | undefined {
    return this.#order.length === 0 ? undefined : this.#order[0]!.entry;
  }

  advance(): void {
    const order = this.#order;
    const first = order[0]!;
    if (!first.next()) {
      order.shift();
      return;
    }
    if (order.length > 1 && this.#compare(first, order[1]!) > 0) this.#settle(0, 1);
  }

  close(): void {
    for (const source of this.#order) source.close();
    this.#order.length = 0;
  }

  /** Moves the source at `from` to its place, up or down; all others are in order. */
  #settle(from: number, step: 1 | -1): void {
    const order = this.#order;
    const source = order[from]!;
    let at = from;
    for (let beside = at + step; beside >= 0 && beside < order.length; beside += step) {
      const other = order[beside]!;
      if (this.#compare(source, other) * step < 0) break;
      order[at] = other;
      at = beside;
    }
    order[at] = source;
  }

  /** Never 0 for two sources. */
  #compare(a: RunSource, b: RunSource): number {
    if (a.head !== b.head) return a.head < b.head ? -1 : 1;
    if (a.secondHead !== b.secondHead) return a.secondHead < b.secondHead ? -1 : 1;
    return this.#compareWhole(a, b);
  }

  #compareWhole(a: RunSource, b: RunSource): number {
    const one = a.entry!;
    const other = b.entry!;
    const length = Math.min(one.keyLength, other.keyLength);
    const oneKey = one.key;
    const otherKey = other.key;
    for (let index = this.#prefixBytes; index < length; index++) {
      const difference = oneKey[index]! - otherKey[index]!;
      if (difference !== 0) return difference;
    }
    if (one.keyLength !== other.keyLength) return one.keyLength - other.keyLength;
    return one.seq === other.seq ? a.rank - b.rank : other.seq - one.seq;
  }
}

/** How many bytes all keys of the merge begin with alike. */
function commonBytes({ runs, low, high }: MergeParameters): number {
  let smallest: Uint8Array | undefined;
  let largest: Uint8Array | undefined;
  for (const run of runs) {
    for (const table of run) {
      if (smallest === undefined || compareKeys(table.smallestKey, smallest) < 0) smallest = table.smallestKey;
      if (largest === undefined || compareKeys(table.largestKey, largest) > 0) largest = table.largestKey;
    }
  }
  if (smallest === undefined || largest === undefined) return 0;
  if (low !== undefined && compareKeys(low, smallest) > 0) smallest = low;
  if (high !== undefined && compareKeys(high, largest) < 0) largest = high;
  let bytes = 0;
  while (bytes < smallest.length && bytes < largest.length && smallest[bytes] === largest[bytes]) bytes++;
  return bytes;
}
