/** The copy-on-write B+Tree's writer: signatures. */
import type { ArenaWriter } from '../../shared/memory/arena.js';
import type { TreeCounts } from './meta.js';
import type { OverflowChain } from './overflow.js';

export interface BTreeOptions {
  /** 3 … 1000: children of a branch, entries of a leaf; default: by page size only. */
  readonly order?: number;
  /** 4096, 8192, 16384 or 32768. */
  readonly pageBytes?: number;
}

export interface RemoveRangeResult {
  readonly removed: number;
  readonly done: boolean;
  readonly resumeKey: Uint8Array | undefined;
}

export interface SweepState {
  resumeKey: Uint8Array | undefined;
  done: boolean;
  removedCells: number;
}

export interface BulkEntry {
  readonly key: Uint8Array;
  readonly value: Uint8Array;
  readonly seq: number;
}

/** Shard thread only. Publish with publishTrees(arena, seq) of meta.ts. */
export declare class BTreeWriter {
  constructor(arena: ArenaWriter, treeIndex: number, options?: BTreeOptions);
  setSnapshots(sorted: Float64Array, count: number, keepNewest: boolean): void;
  /** True if a live version existed. */
  put(
    key: Uint8Array,
    keyStart: number,
    keyLength: number,
    value: Uint8Array,
    valueStart: number,
    valueLength: number,
    seq: number,
  ): boolean;
  putOverflow(key: Uint8Array, keyStart: number, keyLength: number, chain: OverflowChain, seq: number): boolean;
  /** True if a live version existed. */
  del(key: Uint8Array, keyStart: number, keyLength: number, seq: number): boolean;
  /** Sequence of the live version in the unpublished state, 0 if absent. */
  versionOf(key: Uint8Array, keyStart: number, keyLength: number): number;
  removeRange(
    low: Uint8Array | undefined,
    lowInclusive: boolean,
    high: Uint8Array | undefined,
    highInclusive: boolean,
    limit: number,
    seq: number,
  ): RemoveRangeResult;
  sweep(state: SweepState, pageBudget: number): void;
  bulkLoad(entries: Iterable<BulkEntry>): void;
  unitsNeeded(operations: number, bytes: number): number;
  stats(): TreeCounts;
  /** Problems found, empty when sound. */
  check(): string[];
}
