/**
 * Leveled compaction: level 0 goes to the base level when it has enough runs, and each level below gives tables to the next one when it is above its
 * target (debt.ts: levelTargets). The largest score is served first; level 0 counts more when writers are about to be slowed.
 *
 * Within a level the table goes that is cheapest to get rid of: least bytes of the next level per byte of its own, tombstones counting in its favour (they
 * free what lies below); the oldest among equals. Neighbours that fit between the same tables of the next level come along for nothing.
 *
 * While level 0 cannot be merged downwards, because the base level is busy, its newest runs are merged with each other, or readers would pay for it.
 *
 * Threads: any; pure.
 */
import { LSM_LEVELS, type TableInfo } from '../types.js';
import type { CompactionPlan } from './plan.js';
import { compareKeys } from './ranges.js';
import { bytesOf, overlapping, type SortedRun, type TreeView } from './tree-view.js';

/** Of the inputs of one compaction that grows by neighbours, in tables' worth. */
const EXPANDED_TABLES_MAX = 25;
/** Runs of level 0 beyond their trigger before they are merged with each other. */
const RUNS_BEYOND_TRIGGER = 2;
const URGENCY = 10;

interface Candidate {
  readonly level: number;
  readonly score: number;
}

export function pickLeveled(view: TreeView): CompactionPlan | undefined {
  const candidates = scores(view).filter(({ score }) => score >= 1);
  candidates.sort((a, b) => b.score - a.score);
  for (const { level, score } of candidates) {
    const plan = level === 0 ? pickLevel0(view, score) : pickLevel(view, level, score);
    if (plan !== undefined) return plan;
  }
  return undefined;
}

function scores(view: TreeView): Candidate[] {
  const { options, targets } = view;
  // What running plans take away counts as gone.
  const leaving = new Array<number>(LSM_LEVELS).fill(0);
  for (const plan of view.busy) {
    for (const run of plan.inputs) {
      for (const table of run) if (table.level < plan.outputLevel) leaving[table.level]! += table.bytes;
    }
  }
  const idleRuns = view.level0.filter((run) => !view.hasBusy(run.tables)).length;
  const level0 = idleRuns / options.level0Runs;
  const isUrgent = view.level0.length * 2 >= options.level0Runs + options.slowdownRuns;
  const found: Candidate[] = [{ level: 0, score: isUrgent ? level0 * URGENCY : level0 }];
  for (let level = 1; level < LSM_LEVELS - 1; level++) {
    const target = targets.bytes[level]!;
    const bytes = view.shape.bytes[level]! - leaving[level]!;
    if (bytes > 0) found.push({ level, score: target > 0 ? bytes / target : URGENCY });
  }
  return found;
}

function pickLevel0(view: TreeView, score: number): CompactionPlan | undefined {
  const { options, level0, targets } = view;
  const seeds = level0.filter((run) => !view.hasBusy(run.tables)).flatMap((run) => run.tables);
  const plan = view.planFor('level0', score, seeds, targets.base, true);
  if (plan !== undefined) return plan;
  if (level0.length < options.level0Runs + RUNS_BEYOND_TRIGGER) return undefined;
  return view.planFor(
    'level0',
    score,
    newestRuns(view).flatMap((run) => run.tables),
    0,
    false,
  );
}

/** The newest runs that are not busy, as long as each makes it cheaper to be rid of one run; none if they are few. */
function newestRuns(view: TreeView): readonly SortedRun[] {
  const { level0, options } = view;
  let count = 0;
  let bytes = 0;
  let bytesPerRun = Infinity;
  for (const run of level0) {
    if (view.hasBusy(run.tables)) break;
    const sum = bytes + run.bytes;
    if (count > 0 && sum / count > bytesPerRun) break;
    if (count > 0) bytesPerRun = sum / count;
    bytes = sum;
    count++;
  }
  return count >= Math.max(2, options.level0Runs) ? level0.slice(0, count) : [];
}

/** From a level that is not the last to the next one. Also for tables that somebody else has chosen: `among`. */
export function pickLevel(
  view: TreeView,
  level: number,
  score: number,
  among: readonly TableInfo[] = view.levels[level]!,
  cause: CompactionPlan['cause'] = 'size',
): CompactionPlan | undefined {
  const next = view.levels[level + 1]!;
  const ordered: { readonly table: TableInfo; readonly cost: number }[] = [];
  let at = 0;
  for (const table of among) {
    while (at < next.length && compareKeys(next[at]!.largestKey, table.smallestKey) < 0) at++;
    if (view.isBusy(table)) continue;
    let overlapBytes = 0;
    let isFree = true;
    for (let index = at; index < next.length; index++) {
      const other = next[index]!;
      if (compareKeys(other.smallestKey, table.largestKey) > 0) break;
      overlapBytes += other.bytes;
      if (view.isBusy(other)) isFree = false;
    }
    if (!isFree) continue;
    const tombstoneShare = table.entries > 0 ? table.tombstones / table.entries : 0;
    ordered.push({ table, cost: overlapBytes / Math.max(1, table.bytes) / (1 + 2 * tombstoneShare) });
  }
  ordered.sort((a, b) => a.cost - b.cost || a.table.number - b.table.number);
  for (const { table } of ordered) {
    const plan = view.planFor(cause, score, withNeighbours(view, level, table), level + 1, true);
    if (plan !== undefined) return plan;
  }
  return undefined;
}

/** The table and those beside it that meet no more tables of the next level than it does. */
function withNeighbours(view: TreeView, level: number, table: TableInfo): readonly TableInfo[] {
  const { options, levels } = view;
  const below = overlapping(levels[level + 1]!, table.smallestKey, table.largestKey);
  if (below.length === 0) return [table];
  const tables = levels[level]!;
  const bytesMax = EXPANDED_TABLES_MAX * options.tableBytes;
  const low = below[0]!.smallestKey;
  const high = below.at(-1)!.largestKey;
  let first = tables.indexOf(table);
  let last = first;
  let bytes = bytesOf(below) + table.bytes;
  const fits = (other: TableInfo | undefined): other is TableInfo =>
    other !== undefined &&
    !view.isBusy(other) &&
    bytes + other.bytes <= bytesMax &&
    compareKeys(other.smallestKey, low) >= 0 &&
    compareKeys(other.largestKey, high) <= 0;
  for (let other = tables[first - 1]; fits(other); other = tables[first - 1]) {
    bytes += other.bytes;
    first--;
  }
  for (let other = tables[last + 1]; fits(other); other = tables[last + 1]) {
    bytes += other.bytes;
    last++;
  }
  return tables.slice(first, last + 1);
}
