/**
 * Fifo: nothing is merged; the oldest runs go when the tables are together larger than fifoBytes or when they are older than fifoTtlMs. For data that is
 * only of interest for a while, in a store whose size is bounded.
 *
 * Only from the oldest on, so that no older version comes to light; what an open snapshot may see stays until it is closed.
 *
 * Threads: any; pure.
 */
import type { TableInfo } from '../types.js';
import type { CompactionPlan } from './plan.js';
import type { TreeView } from './tree-view.js';

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
  if (dropped.length === 0) return undefined;
  return view.dropFor('fifo', dropped, { removedTombstones: [], removedBlobs: [] });
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
