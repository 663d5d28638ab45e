/**
 * A tree in order, for the picker: sorted runs newest first, what is busy, and how a choice of tables becomes a plan.
 *
 *   rank 0          newest run of level 0
 *   …               …
 *   rank n - 1      oldest run of level 0
 *   then            levels 1 … 6, those that have tables
 *
 * What a plan must hold to:
 *  1. Contiguity in age. For every key, what lies between an input and the place of the output is an input too: otherwise a version would come to lie
 *     above a newer one. Going down the ranks with the bounds of all inputs so far, whatever overlaps them is taken along.
 *  2. At the output level the bounds of all inputs are free: outputs may span gaps between inputs. So what overlaps them there is an input too, and no
 *     running plan has outputs there.
 *  3. No table is in two plans.
 * What arrives while a plan runs is newer than its inputs, and what other plans move stays within the bounds of their inputs, which are in the state until
 * they end. So the older ranges of a plan stay true for as long as it runs.
 *
 * Threads: any; made anew for each question.
 */
import { LSM_LEVELS, type LsmOptions, type RangeTombstone, type TableInfo } from '../types.js';
import { levelTargets, shapeOf, type LevelTargets, type TreeShape } from './debt.js';
import type { CompactionCause, CompactionPlan, PickContext, PickState } from './plan.js';
import { compareKeys, overlaps, unionOf } from './ranges.js';

export interface SortedRun {
  readonly level: number;
  readonly run: number;
  /** In key order, never empty. */
  readonly tables: readonly TableInfo[];
  readonly bytes: number;
}

/** Tables' worth of the next level that a table may overlap and still be moved there without a merge, or be the outcome of one. */
const MOVE_OVERLAP_TABLES_MAX = 10;

export class TreeView {
  readonly state: PickState;
  readonly options: LsmOptions;
  readonly busy: readonly CompactionPlan[];
  readonly shape: TreeShape;
  readonly targets: LevelTargets;
  /** By rank. */
  readonly runs: readonly SortedRun[];
  readonly level0: readonly SortedRun[];
  /** By level; [0] is empty. */
  readonly levels: readonly (readonly TableInfo[])[];
  readonly lastSnapshot: number;
  /** Those of the state that are not empty. */
  readonly tombstones: readonly RangeTombstone[];
  readonly #busyTables = new Set<number>();
  #garbageBlobs: ReadonlySet<number> | undefined;

  constructor({ state, options, busy }: PickContext) {
    this.state = state;
    this.options = options;
    this.busy = busy;
    for (const plan of busy) for (const run of plan.inputs) for (const table of run) this.#busyTables.add(table.number);
    const level0 = new Map<number, TableInfo[]>();
    const levels = Array.from({ length: LSM_LEVELS }, (): TableInfo[] => []);
    for (const table of state.tables) {
      if (table.level > 0) levels[table.level]!.push(table);
      else {
        const run = level0.get(table.run);
        if (run === undefined) level0.set(table.run, [table]);
        else run.push(table);
      }
    }
    const runs: SortedRun[] = [];
    for (const [run, tables] of [...level0].sort((a, b) => b[0] - a[0])) runs.push(sortedRun(0, run, tables));
    this.level0 = [...runs];
    for (let level = 1; level < LSM_LEVELS; level++) {
      if (levels[level]!.length > 0) runs.push(sortedRun(level, 0, levels[level]!));
    }
    this.runs = runs;
    this.levels = levels;
    this.shape = shapeOf(state.tables);
    this.targets = levelTargets(this.shape.bytes, options);
    this.lastSnapshot = state.snapshots.at(-1) ?? -1;
    this.tombstones = state.tombstones.filter(
      ({ low, high }) => low === undefined || high === undefined || compareKeys(low, high) < 0,
    );
  }

  isBusy(table: TableInfo): boolean {
    return this.#busyTables.has(table.number);
  }

  hasBusy(tables: readonly TableInfo[]): boolean {
    return this.#busyTables.size > 0 && tables.some((table) => this.#busyTables.has(table.number));
  }

  /** Whether an open snapshot n has from ≤ n < to. */
  hasSnapshotIn(from: number, to: number): boolean {
    return this.state.snapshots.some((number) => number >= from && number < to);
  }

  /** The deepest level that has tables, 0 if none below has. */
  get lastLevel(): number {
    const last = this.runs.at(-1);
    return last === undefined ? 0 : last.level;
  }

  /** Whether something that may be older than the table's entries overlaps it: a run behind its own. */
  hasOlder(table: TableInfo): boolean {
    for (const run of this.runs) {
      const isOlder = run.level > table.level || (run.level === 0 && table.level === 0 && run.run < table.run);
      if (isOlder && overlapping(run.tables, table.smallestKey, table.largestKey).length > 0) return true;
    }
    return false;
  }

  /** Blob files of which at least the options' share is garbage. */
  get garbageBlobs(): ReadonlySet<number> {
    if (this.#garbageBlobs !== undefined) return this.#garbageBlobs;
    const garbage = new Set<number>();
    if (this.state.blobs.length > 0) {
      const live = liveBlobBytes(this.state.tables);
      for (const blob of this.state.blobs) {
        const share = blob.recordBytes > 0 ? 1 - (live.get(blob.number) ?? 0) / blob.recordBytes : 1;
        if (share >= this.options.blobGarbage) garbage.add(blob.number);
      }
    }
    this.#garbageBlobs = garbage;
    return garbage;
  }

  /**
   * The plan that merges the seeds into outputLevel, with all that must come along; a move where nothing needs to be rewritten. Undefined: something of it
   * is busy. Seeds of level outputLevel itself are rewritten where they are: they lie next to each other in one run.
   */
  planFor(
    cause: CompactionCause,
    score: number,
    seeds: readonly TableInfo[],
    outputLevel: number,
    mayMove: boolean,
  ): CompactionPlan | undefined {
    if (seeds.length === 0 || this.hasBusy(seeds)) return undefined;
    const chosen = new Set(seeds);
    const inputs: (readonly TableInfo[])[] = [];
    let smallest: Uint8Array | undefined;
    let largest: Uint8Array | undefined;
    let outputRun = 0;
    for (const run of this.runs) {
      if (run.level > outputLevel) break;
      const bySeed = run.tables.filter((table) => chosen.has(table));
      let tables: readonly TableInfo[] = bySeed;
      if (smallest !== undefined && largest !== undefined) {
        const beside = overlapping(run.tables, smallest, largest);
        if (beside.length > 0) tables = bySeed.length === 0 ? beside : unionInOrder(run.tables, bySeed, beside);
      }
      if (tables.length === 0) continue;
      // What lies between seeds that are rewritten where they are: outputs may span it.
      if (run.level === outputLevel) {
        tables = run.tables.slice(run.tables.indexOf(tables[0]!), run.tables.indexOf(tables.at(-1)!) + 1);
      }
      if (this.hasBusy(tables)) return undefined;
      if (inputs.length === 0) outputRun = outputLevel === 0 ? run.run : 0;
      inputs.push(tables);
      smallest = smaller(smallest, tables[0]!.smallestKey);
      largest = larger(largest, tables.at(-1)!.largestKey);
      if (outputLevel === 0 && bySeed.length > 0) for (const table of bySeed) chosen.delete(table);
      // A run of level 0: nothing below its oldest input comes along.
      if (outputLevel === 0 && chosen.size === 0) break;
    }
    if (smallest === undefined || largest === undefined) return undefined;
    if (outputLevel > 0 && this.#isOutputOfBusy(outputLevel, smallest, largest)) return undefined;
    if (mayMove) {
      const moved = this.#moveFor(cause, score, inputs, outputLevel);
      if (moved !== undefined) return moved;
    }
    return this.#finishPlan('merge', cause, score, inputs, outputLevel, outputRun);
  }

  /** Tables that go without being read. */
  dropFor(
    cause: CompactionCause,
    tables: readonly TableInfo[],
    removed: Pick<CompactionPlan, 'removedTombstones' | 'removedBlobs'>,
  ): CompactionPlan {
    const chosen = new Set(tables);
    const inputs = this.runs
      .map((run) => run.tables.filter((table) => chosen.has(table)))
      .filter((run) => run.length > 0);
    return { ...this.#finishPlan('drop', cause, DROP_SCORE, inputs, inputs[0]?.[0]?.level ?? 0, 0), ...removed };
  }

  /** Inputs of upper levels that overlap neither each other nor anything at the output level go there as they are. */
  #moveFor(
    cause: CompactionCause,
    score: number,
    inputs: readonly (readonly TableInfo[])[],
    outputLevel: number,
  ): CompactionPlan | undefined {
    const { tables: tableOptions, tableBytes } = this.options;
    if (outputLevel === 0) return undefined;
    const upper = inputs
      .map((run) => run.filter((table) => table.level !== outputLevel))
      .filter((run) => run.length > 0);
    const all = upper.flat().sort((a, b) => compareKeys(a.smallestKey, b.smallestKey));
    if (all.length === 0) return undefined;
    for (let index = 0; index < all.length; index++) {
      const table = all[index]!;
      const before = all[index - 1];
      if (before !== undefined && compareKeys(before.largestKey, table.smallestKey) >= 0) return undefined;
      if (tableOptions[table.level]!.compression !== tableOptions[outputLevel]!.compression) return undefined;
      if (table.blobs.some((use) => this.garbageBlobs.has(use.file))) return undefined;
      if (overlapping(this.levels[outputLevel]!, table.smallestKey, table.largestKey).length > 0) return undefined;
      const below = overlapping(this.levels[outputLevel + 1] ?? [], table.smallestKey, table.largestKey);
      if (bytesOf(below) > MOVE_OVERLAP_TABLES_MAX * Math.max(tableBytes, table.bytes)) return undefined;
    }
    return this.#finishPlan('move', cause, score, upper, outputLevel, 0);
  }

  #finishPlan(
    kind: CompactionPlan['kind'],
    cause: CompactionCause,
    score: number,
    inputs: readonly (readonly TableInfo[])[],
    outputLevel: number,
    outputRun: number,
  ): CompactionPlan {
    let smallest: Uint8Array | undefined;
    let largest: Uint8Array | undefined;
    for (const run of inputs) {
      smallest = smaller(smallest, run[0]!.smallestKey);
      largest = larger(largest, run.at(-1)!.largestKey);
    }
    const plan = { kind, cause, score, inputs, outputLevel, outputRun, smallest, largest };
    const nothing = { olderRanges: [], grandparents: [], collectBlobs: [], removedTombstones: [], removedBlobs: [] };
    if (kind !== 'merge' || smallest === undefined || largest === undefined) return { ...plan, ...nothing };
    const oldest = inputs.at(-1)![0]!;
    const older: TableInfo[] = [];
    for (const run of this.runs) {
      const isOlder = run.level > outputLevel || (outputLevel === 0 && run.level === 0 && run.run < oldest.run);
      if (isOlder) older.push(...overlapping(run.tables, smallest, largest));
    }
    return {
      ...plan,
      ...nothing,
      olderRanges: unionOf(older.map((table) => [table.smallestKey, table.largestKey] as const)),
      grandparents: outputLevel === 0 ? [] : overlapping(this.levels[outputLevel + 1] ?? [], smallest, largest),
      collectBlobs: this.#collectFrom(inputs),
    };
  }

  #collectFrom(inputs: readonly (readonly TableInfo[])[]): number[] {
    const { garbageBlobs } = this;
    const files = new Set<number>();
    if (garbageBlobs.size > 0) {
      for (const run of inputs) {
        for (const table of run) for (const use of table.blobs) if (garbageBlobs.has(use.file)) files.add(use.file);
      }
    }
    return [...files].sort((a, b) => a - b);
  }

  #isOutputOfBusy(level: number, smallest: Uint8Array, largest: Uint8Array): boolean {
    return this.busy.some(
      (plan) =>
        plan.outputLevel === level &&
        plan.kind !== 'drop' &&
        plan.smallest !== undefined &&
        plan.largest !== undefined &&
        overlaps(plan.smallest, plan.largest, smallest, largest),
    );
  }
}

/** Above all scores: it costs nothing. */
const DROP_SCORE = 1e6;

function sortedRun(level: number, run: number, tables: TableInfo[]): SortedRun {
  tables.sort((a, b) => compareKeys(a.smallestKey, b.smallestKey));
  return { level, run, tables, bytes: bytesOf(tables) };
}

export function bytesOf(tables: readonly TableInfo[]): number {
  let bytes = 0;
  for (const table of tables) bytes += table.bytes;
  return bytes;
}

/** Bytes of records that tables refer to, by blob file. */
export function liveBlobBytes(tables: readonly TableInfo[]): Map<number, number> {
  const live = new Map<number, number>();
  for (const table of tables) for (const use of table.blobs) live.set(use.file, (live.get(use.file) ?? 0) + use.bytes);
  return live;
}

/** Of tables in key order that do not overlap each other, those that overlap [smallest, largest]. */
export function overlapping(tables: readonly TableInfo[], smallest: Uint8Array, largest: Uint8Array): TableInfo[] {
  let low = 0;
  let high = tables.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (compareKeys(tables[middle]!.largestKey, smallest) < 0) low = middle + 1;
    else high = middle;
  }
  const first = low;
  while (low < tables.length && compareKeys(tables[low]!.smallestKey, largest) <= 0) low++;
  return tables.slice(first, low);
}

function unionInOrder(
  all: readonly TableInfo[],
  some: readonly TableInfo[],
  others: readonly TableInfo[],
): TableInfo[] {
  const chosen = new Set([...some, ...others]);
  return all.filter((table) => chosen.has(table));
}

function smaller(a: Uint8Array | undefined, b: Uint8Array): Uint8Array {
  return a === undefined || compareKeys(b, a) < 0 ? b : a;
}

function larger(a: Uint8Array | undefined, b: Uint8Array): Uint8Array {
  return a === undefined || compareKeys(b, a) > 0 ? b : a;
}
