/**
 * Chooses what a tree should do next. Pure: the same state gives the same answer, and nothing is read from files.
 *
 *   1. what goes without being read      garbage.ts
 *   2. what the style asks for           leveled.ts, tiered.ts, fifo.ts      scores of 1 and more
 *   3. what somebody asked for           manual.ts
 *   4. garbage that is rewritten         garbage.ts                          if there is much, or the tree is idle
 *   5. what is left in level 0           quiet.ts                            while nobody writes
 *
 * Ask again after each change, and with the plan among the busy ones until there is none: several run at once where they do not meet (tree-view.ts).
 *
 * Threads: any.
 */
import type { LsmOptions } from '../types.js';
import { fifoDueAtMs, pickFifo } from './fifo.js';
import { expiryDueAtMs, pickDrops, pickGarbage } from './garbage.js';
import { pickLeveled } from './leveled.js';
import { isManualDone as isDone, pickManual } from './manual.js';
import type { CompactionPlan, ManualRange, PickState } from './plan.js';
import { pickQuiet } from './quiet.js';
import { pickTiered } from './tiered.js';
import { TreeView } from './tree-view.js';

/** When something that is due by the clock waits for something else (a snapshot), it is looked for this often. */
const RETRY_MS = 60_000;

export function pickCompaction(
  state: PickState,
  options: LsmOptions,
  busy: readonly CompactionPlan[],
): CompactionPlan | undefined {
  if (state.tables.length === 0 && state.tombstones.length === 0 && state.blobs.length === 0) return undefined;
  const view = new TreeView({ state, options, busy });
  const drops = pickDrops(view);
  if (drops !== undefined) return drops;
  const byStyle = pickByStyle(view);
  if (byStyle !== undefined) return byStyle;
  const manual = state.manual === undefined ? undefined : pickManual(view, state.manual);
  return manual ?? pickGarbage(view) ?? pickQuiet(view);
}

function pickByStyle(view: TreeView): CompactionPlan | undefined {
  switch (view.options.style) {
    case 'leveled':
      return pickLeveled(view);
    case 'tiered':
      return pickTiered(view);
    case 'fifo':
      return pickFifo(view);
  }
}

/** Whether everything that was asked for lies where it should, whatever has come since. Plans that run are not waited for: look at them as well. */
export function isManualDone(state: PickState, options: LsmOptions, manual: ManualRange): boolean {
  return isDone(new TreeView({ state, options, busy: [] }), manual);
}

/** When the picker may have something to do by the clock alone, ms since the epoch; Infinity: never. */
export function pickDueAtMs(state: PickState, options: LsmOptions): number {
  const view = new TreeView({ state, options, busy: [] });
  const dueMs = Math.min(options.style === 'fifo' ? fifoDueAtMs(view) : Infinity, expiryDueAtMs(view));
  return dueMs > state.nowMs ? dueMs : state.nowMs + RETRY_MS;
}
