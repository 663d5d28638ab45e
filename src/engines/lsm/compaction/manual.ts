/**
 * A compaction that somebody asked for: level by level, in plans of bounded size, until everything in the range that was there lies in the last level,
 * and what is garbage there has been rewritten once.
 *
 * Threads: any; pure.
 */
import { LSM_LEVELS, type TableInfo } from '../types.js';
import { hasGarbage, rewriteFirst } from './garbage.js';
import type { CompactionPlan, ManualRange } from './plan.js';
import { meets } from './ranges.js';
import type { TreeView } from './tree-view.js';

/** Of one level, that go to the next in one plan. */
const TABLES_MAX = 8;
const MANUAL_SCORE = 2;

/** Undefined: nothing left to do, or what is left is busy: see isManualDone(). */
export function pickManual(view: TreeView, range: ManualRange): CompactionPlan | undefined {
  if (view.options.style === 'fifo') return undefined;
  const bottom = bottomLevel(view);
  const level0 = view.level0.flatMap((run) => run.tables.filter((table) => isAsked(table, range)));
  if (level0.length > 0) {
    const base = view.options.style === 'tiered' ? LSM_LEVELS - 1 : view.targets.base;
    return view.planFor('manual', MANUAL_SCORE, level0, base, true);
  }
  for (let level = 1; level < bottom; level++) {
    const tables = view.levels[level]!.filter((table) => isAsked(table, range));
    for (let first = 0; first < tables.length; first += TABLES_MAX) {
      const some = tables.slice(first, first + TABLES_MAX);
      const plan = view.planFor('manual', MANUAL_SCORE, some, level + 1, true);
      if (plan !== undefined) return plan;
    }
    // What is newer must not pass what is older: the next level begins when this one is empty.
    if (tables.length > 0) return undefined;
  }
  const mustRewrite = (table: TableInfo): boolean => isDue(view, table, range, bottom);
  return rewriteFirst(view, 'manual', MANUAL_SCORE, mustRewrite, mustRewrite);
}

export function isManualDone(view: TreeView, range: ManualRange): boolean {
  if (view.options.style === 'fifo') return true;
  const bottom = bottomLevel(view);
  return !view.state.tables.some(
    (table) => (table.level < bottom && isAsked(table, range)) || isDue(view, table, range, bottom),
  );
}

function bottomLevel(view: TreeView): number {
  if (view.options.style === 'tiered') return LSM_LEVELS - 1;
  return Math.max(view.lastLevel, view.targets.base);
}

/** In the range, with entries that were there. */
function isAsked(table: TableInfo, range: ManualRange): boolean {
  return table.smallestSeq <= range.upToSeq && meets(table.smallestKey, table.largestKey, range.low, range.high);
}

/** In the last level, not written on behalf of this request, and with something that can go. */
function isDue(view: TreeView, table: TableInfo, range: ManualRange, bottom: number): boolean {
  return table.level === bottom && table.number < range.firstFile && isAsked(table, range) && hasGarbage(view, table);
}
