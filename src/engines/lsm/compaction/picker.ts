import type { CompactionPlan, PickState } from './plan.js';
import type { LsmOptions } from '../types.js';

export function pickCompaction(
  state: PickState,
  options: LsmOptions,
  busy: readonly CompactionPlan[],
): CompactionPlan | undefined {
  void state;
  void options;
  void busy;
  return undefined;
}

/** When the picker may have something to do by the clock alone, ms since the epoch; Infinity: never. */
export function pickDueAtMs(state: PickState, options: LsmOptions): number {
  void state;
  void options;
  return Infinity;
}
