/**
 * Tiered compaction: every run is a whole sorted copy of some time, and runs that follow each other in age are merged into one. Few rewrites, more
 * runs to read. All runs are of level 0, but the oldest, which lies in the last level, where tables are compressed and filtered as such.
 *
 * When there are level0Runs runs, in this order:
 *  1. space:  all runs that are younger are together larger than tieredSpacePercent of the oldest: everything is merged
 *  2. runs:   tieredRunsMin or more runs of like size, from the newest on: each next one is not larger than all before together
 *  3. runs:   half way to where writers are slowed, those that follow each other and cost least to be rid of one run
 *
 * Threads: any; pure.
 */
import { LSM_LEVELS } from '../types.js';
import { tieredRunsMax } from './debt.js';
import type { CompactionPlan } from './plan.js';
import type { SortedRun, TreeView } from './tree-view.js';

/** How much larger the next run may be than those before together. */
const LIKE_SIZE = 1.1;

export function pickTiered(view: TreeView): CompactionPlan | undefined {
  const { runs, options } = view;
  const score = runs.length / options.level0Runs;
  if (score < 1 || runs.length < 2) return undefined;
  const oldest = runs.at(-1)!;
  let youngerBytes = 0;
  for (const run of runs) if (run !== oldest) youngerBytes += run.bytes;
  if (youngerBytes * 100 > oldest.bytes * options.tieredSpacePercent) {
    const plan = mergeRuns(view, 'space', score, 0, runs.length);
    if (plan !== undefined) return plan;
  }
  // Running merges cut the list into parts of which each may be merged by itself.
  for (let first = 0; first < runs.length; first++) {
    let count = 0;
    let bytes = 0;
    while (first + count < runs.length) {
      const run = runs[first + count]!;
      if (view.hasBusy(run.tables) || (count > 0 && run.bytes > bytes * LIKE_SIZE)) break;
      bytes += run.bytes;
      count++;
    }
    if (count < Math.max(2, options.tieredRunsMin)) continue;
    const plan = mergeRuns(view, 'runs', score, first, count);
    if (plan !== undefined) return plan;
  }
  // While others are being merged the rest wait, or a run would be merged again with each one that comes.
  if (runs.length <= tieredRunsMax(options) || view.busy.some((plan) => plan.kind === 'merge')) return undefined;
  const cheapest = cheapestRuns(runs);
  return mergeRuns(view, 'runs', score, cheapest.first, cheapest.count);
}

/** The runs that follow each other with the least bytes per run that is gone when they are merged; of equal ones the newest. */
function cheapestRuns(runs: readonly SortedRun[]): { readonly first: number; readonly count: number } {
  let cheapest = { first: 0, count: 2 };
  let cost = Infinity;
  for (let first = 0; first + 1 < runs.length; first++) {
    let bytes = runs[first]!.bytes;
    for (let end = first + 1; end < runs.length; end++) {
      bytes += runs[end]!.bytes;
      const own = bytes / (end - first);
      if (own >= cost) continue;
      cost = own;
      cheapest = { first, count: end - first + 1 };
    }
  }
  return cheapest;
}

function mergeRuns(
  view: TreeView,
  cause: CompactionPlan['cause'],
  score: number,
  first: number,
  count: number,
): CompactionPlan | undefined {
  const { runs } = view;
  const merged: readonly SortedRun[] = runs.slice(first, first + count);
  const isAll = first + count === runs.length;
  const outputLevel = isAll ? LSM_LEVELS - 1 : merged.at(-1)!.level;
  return view.planFor(
    cause,
    score,
    merged.flatMap((run) => run.tables),
    outputLevel,
    isAll,
  );
}
