/**
 * Cuts a plan into tasks by ranges of keys, so that several workers share one compaction: about equal bytes each, every key in exactly one of them.
 *
 * Where cuts may be: at the bounds of the input tables, and at keys inside of them: those that the caller knows, or else guesses, as if keys were spread evenly
 * between the bounds. The bytes of a table count as evenly spread over the points it spans. A wrong guess makes unequal tasks, nothing worse.
 *
 * Threads: any; the shard's writer.
 */
import {
  LSM_LEVELS,
  type CompactionTask,
  type LsmIdentity,
  type LsmOptions,
  type RangeTombstone,
  type TableInfo,
} from '../types.js';
import type { CompactionPlan } from './plan.js';
import { compareKeys, meets } from './ranges.js';

/** What tasks need besides the plan. */
export interface TaskContext {
  readonly directory: string;
  readonly identity: LsmIdentity;
  readonly options: LsmOptions;
  readonly snapshots: readonly number[];
  /** Those that stand in the manifest: see PickState.tombstones. */
  readonly tombstones: readonly RangeTombstone[];
  readonly nowMs: number;
  /** Reserves so many numbers of files that follow each other; returns the first. */
  readonly takeFiles: (count: number) => number;
  readonly cancel: Int32Array;
  readonly rate: SharedArrayBuffer | undefined;
  /** Keys that cut a table into parts of about equal size, ascending; left out: only the bounds of tables are known. */
  readonly samplesOf?: ((table: TableInfo) => readonly Uint8Array[]) | undefined;
}

/** Less is not worth a job of its own, in tables' worth of input. */
const TASK_TABLES_MIN = 2;
const GUESSED_PARTS = 8;
/** As many as a number holds exactly. */
const GUESSED_BYTES = 6;
/** Of entries in a table besides keys and values, generously. */
const ENTRY_BYTES = 24;

export function tasksOf(plan: CompactionPlan, context: TaskContext, parallelism: number): CompactionTask[] {
  if (plan.kind !== 'merge') return [];
  const tables = plan.inputs.flat();
  let work = 0;
  for (const table of tables) work += workOf(table);
  const count = Math.min(parallelism, Math.floor(work / (TASK_TABLES_MIN * context.options.tableBytes)));
  const cuts = count >= 2 ? cutsOf(tables, count, context) : [];
  const tasks: CompactionTask[] = [];
  for (let index = 0; index <= cuts.length; index++) {
    const task = taskOf(plan, context, cuts[index - 1], cuts[index]);
    if (task !== undefined) tasks.push(task);
  }
  return tasks;
}

/** What a merge has to do for the table: before compression, since that is what its entries take. */
function workOf(table: TableInfo): number {
  return Math.max(table.bytes, table.rawBytes);
}

/** Keys that cut [smallest, largest] into GUESSED_PARTS parts if keys are spread evenly: by the bytes behind those that both have in common. */
function pointsBetween(smallest: Uint8Array, largest: Uint8Array): Uint8Array[] {
  let common = 0;
  while (common < smallest.length && common < largest.length && smallest[common] === largest[common]) common++;
  const from = numberAt(smallest, common);
  const step = (numberAt(largest, common) - from) / GUESSED_PARTS;
  if (step < 1) return [];
  const points: Uint8Array[] = [];
  for (let part = 1; part < GUESSED_PARTS; part++) {
    const point = new Uint8Array(common + GUESSED_BYTES);
    point.set(smallest.subarray(0, common));
    let rest = Math.floor(from + part * step);
    for (let at = point.length - 1; at >= common; at--) {
      point[at] = rest % 256;
      rest = Math.floor(rest / 256);
    }
    points.push(point);
  }
  return points;
}

function numberAt(key: Uint8Array, at: number): number {
  let number = 0;
  for (let index = at; index < at + GUESSED_BYTES; index++) number = number * 256 + (key[index] ?? 0);
  return number;
}

/** Ascending keys, at most count - 1: each part holds about bytes / count. */
function cutsOf(tables: readonly TableInfo[], count: number, context: TaskContext): Uint8Array[] {
  const points: Uint8Array[] = [];
  for (const table of tables) {
    points.push(table.smallestKey);
    points.push(...(context.samplesOf?.(table) ?? pointsBetween(table.smallestKey, table.largestKey)));
  }
  points.sort(compareKeys);
  const unique = points.filter((point, index) => index === 0 || compareKeys(points[index - 1]!, point) < 0);
  // weights[i]: bytes from points i on to the next one.
  const weights = new Float64Array(unique.length);
  let total = 0;
  for (const table of tables) {
    const first = lowerBound(unique, table.smallestKey);
    let end = first;
    while (end < unique.length && compareKeys(unique[end]!, table.largestKey) <= 0) end++;
    const spanned = Math.max(1, end - first);
    for (let index = first; index < first + spanned && index < unique.length; index++) {
      weights[index]! += workOf(table) / spanned;
    }
    total += workOf(table);
  }
  const cuts: Uint8Array[] = [];
  let sum = 0;
  for (let index = 0; index + 1 < unique.length && cuts.length + 1 < count; index++) {
    const before = sum;
    sum += weights[index]!;
    const wanted = (total * (cuts.length + 1)) / count;
    if (sum < wanted) continue;
    // Whichever side of the point is nearer to what is wanted.
    const isBefore =
      index > 0 &&
      wanted - before < sum - wanted &&
      (cuts.length === 0 || compareKeys(cuts.at(-1)!, unique[index]!) < 0);
    cuts.push(isBefore ? unique[index]! : unique[index + 1]!);
  }
  return cuts;
}

function lowerBound(points: readonly Uint8Array[], key: Uint8Array): number {
  let low = 0;
  let high = points.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (compareKeys(points[middle]!, key) < 0) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** Undefined if nothing of the inputs lies in the range. */
function taskOf(
  plan: CompactionPlan,
  context: TaskContext,
  low: Uint8Array | undefined,
  high: Uint8Array | undefined,
): CompactionTask | undefined {
  const { options } = context;
  const isIn = (smallest: Uint8Array, largest: Uint8Array): boolean => meets(smallest, largest, low, high);
  const inputs = plan.inputs
    .map((run) => run.filter((table) => isIn(table.smallestKey, table.largestKey)))
    .filter((run) => run.length > 0);
  if (inputs.length === 0) return undefined;
  const grandparents = plan.grandparents.filter((table) => isIn(table.smallestKey, table.largestKey));
  // Values come out of blob files again only if they are collected or were put before the option was given.
  let plainBytes = 0;
  for (const run of inputs) {
    for (const table of run) plainBytes += Math.max(table.bytes, table.rawBytes + table.entries * ENTRY_BYTES);
  }
  const files =
    4 +
    2 * Math.ceil(plainBytes / options.tableBytes) +
    Math.ceil(plainBytes / options.blobFileBytes) +
    grandparents.length +
    4 * context.tombstones.length;
  return {
    kind: 'compact',
    directory: context.directory,
    identity: context.identity,
    inputs,
    low,
    high,
    outputLevel: plan.outputLevel,
    outputRun: plan.outputRun,
    olderRanges: plan.olderRanges.filter(([smallest, largest]) => isIn(smallest, largest)),
    grandparents,
    firstFile: context.takeFiles(files),
    files,
    options: options.tables[Math.min(plan.outputLevel, LSM_LEVELS - 1)]!,
    tableBytes: options.tableBytes,
    blobValueBytes: options.blobValueBytes,
    blobFileBytes: options.blobFileBytes,
    collectBlobs: plan.collectBlobs,
    snapshots: context.snapshots,
    tombstones: context.tombstones,
    nowMs: context.nowMs,
    cancel: context.cancel,
    rate: context.rate,
  };
}
