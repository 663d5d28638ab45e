/**
 * Fifo: the oldest runs go when the tables are together larger than fifoBytes or when they are older than fifoTtlMs. For data that is only of interest for
 * a while, in a store whose size is bounded.
 *
 * Nothing is merged until there are RUNS_MAX runs, each of which a read may have to ask: then small ones that follow each other become one, which goes as one.
 * It has the age of its oldest entries, so they are of about the same time, as long as there is a choice.
 *
 * Only from the oldest on, so that no older version comes to light; what an open snapshot may see stays until it is closed.
 *
 * Threads: any; pure.
 */
import type { TableInfo } from '../types.js';
import type { CompactionPlan } from './plan.js';
import type { SortedRun, TreeView } from './tree-view.js';

const RUNS_MAX = 256;
/** Runs that become one. */
const MERGED_RUNS = 8;
/** Of fifoBytes and fifoTtlMs: what one run may hold. */
const RUN_SHARE = 1 / 64;
/** More than this are merged whatever they hold: a version page has room for about twice as many. */
const RUNS_LIMIT = 1000;

export function pickFifo(view: TreeView): CompactionPlan | undefined {
  const { options, runs, state } = view;
  let bytes = 0;
  for (const run of runs) bytes += run.bytes;
  const dropped: TableInfo[] = [];
  for (let rank = runs.length - 1; rank >= 0; rank--) {
    const run = runs[rank]!;
    // Tables of a run hold different keys: each may go by itself. A run goes on only when the one behind it is gone as a whole.
    let isWhole = true;
    for (const table of [...run.tables].sort((a, b) => a.largestSeq - b.largestSeq)) {
      const isTooMuch = bytes > options.fifoBytes;
      // createdAt is that of a table's oldest entries, so it says something of all of them only where nothing was merged.
      const isTooOld = options.fifoTtlMs > 0 && table.level === 0 && table.createdAt + options.fifoTtlMs <= state.nowMs;
      const isSeen = view.lastSnapshot >= table.smallestSeq;
      if ((isTooMuch || isTooOld) && !isSeen && !view.isBusy(table)) {
        dropped.push(table);
        bytes -= table.bytes;
      } else isWhole = false;
    }
    if (!isWhole) break;
  }
  if (dropped.length === 0) return mergeSmallRuns(view);
  return view.dropFor('fifo', dropped, { removedTombstones: [], removedBlobs: [] });
}

function mergeSmallRuns(view: TreeView): CompactionPlan | undefined {
  const { level0, options } = view;
  if (level0.length <= RUNS_MAX) return undefined;
  const mustMerge = level0.length > RUNS_LIMIT;
  const bytesMax = mustMerge ? Infinity : options.fifoBytes * RUN_SHARE;
  const msMax = mustMerge || options.fifoTtlMs === 0 ? Infinity : options.fifoTtlMs * RUN_SHARE;
  let best: readonly SortedRun[] | undefined;
  let bestBytes = Infinity;
  for (let first = 0; first + MERGED_RUNS <= level0.length; first++) {
    const runs = level0.slice(first, first + MERGED_RUNS);
    if (runs.some((run) => view.hasBusy(run.tables))) continue;
    const bytes = runs.reduce((sum, run) => sum + run.bytes, 0);
    if (bytes > bytesMax || bytes >= bestBytes || spanMs(runs) > msMax) continue;
    best = runs;
    bestBytes = bytes;
  }
  if (best === undefined) return undefined;
  const tables = best.flatMap((run) => run.tables);
  return view.planFor('fifo', level0.length / RUNS_MAX, tables, 0, false);
}

function spanMs(runs: readonly SortedRun[]): number {
  let first = Infinity;
  let last = 0;
  for (const run of runs) {
    for (const { createdAt } of run.tables) {
      first = Math.min(first, createdAt);
      last = Math.max(last, createdAt);
    }
  }
  return last - first;
}

/** When a table becomes too old, ms since the epoch; Infinity: never. */
export function fifoDueAtMs(view: TreeView): number {
  if (view.options.fifoTtlMs === 0) return Infinity;
  let due = Infinity;
  for (const run of view.level0) {
    for (const table of run.tables) due = Math.min(due, table.createdAt + view.options.fifoTtlMs);
  }
  return due;
}
