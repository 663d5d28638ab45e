/**
 * What a leveled tree does while nobody writes: runs of level 0 that are too few to be due are merged all the same, so that reads meet one run less for each of
 * them. A load that ends leaves up to level0Runs - 1 of them behind, and most trees are read more than they are written.
 *
 * It must be worth its bytes, since what is written later would have been merged with the same tables anyway:
 *
 *   downwards   at most REST_FACTOR bytes of the base level are rewritten for each byte that leaves level 0
 *   among them  no run is larger than all others together, so each byte is rewritten once per doubling
 *
 * and no plan is larger than PLAN_BYTES_MAX. So bursts of writes with pauses between them cost a few more rewrites per byte at most.
 *
 * Threads: any; pure.
 */
import type { LsmOptions } from '../types.js';
import { levelTargets, type TreeShape } from './debt.js';
import type { CompactionPlan } from './plan.js';
import type { SortedRun, TreeView } from './tree-view.js';

/** Below everything else. */
const QUIET_SCORE = 0.25;
const REST_FACTOR = 3;
const PLAN_BYTES_MAX = 2 ** 30;
/** Of memtableBytes: less in a memtable stays there; so much is stored whatever follows, as it would be soon. */
const MEMTABLE_SHARE_MIN = 1 / 16;
const MEMTABLE_SHARE_MAX = 1 / 2;

/** Undefined: nothing is worth it, or something runs already. */
export function pickQuiet(view: TreeView): CompactionPlan | undefined {
  const { state, options, level0, targets, busy } = view;
  if (state.isQuiet !== true || options.style !== 'leveled' || level0.length === 0 || busy.length > 0) return undefined;
  const seeds = level0.flatMap(({ tables }) => tables);
  const down = view.planFor('quiet', QUIET_SCORE, seeds, targets.base, true);
  if (down !== undefined) {
    const bytes = { level0: 0, rest: 0 };
    for (const table of down.inputs.flat()) bytes[table.level === 0 ? 'level0' : 'rest'] += table.bytes;
    if (down.kind === 'move' || isWorth(bytes.level0, bytes.rest)) return down;
  }
  const runs = newestOfLikeSize(level0);
  if (runs.length < 2) return undefined;
  return view.planFor(
    'quiet',
    QUIET_SCORE,
    runs.flatMap(({ tables }) => tables),
    0,
    false,
  );
}

function isWorth(bytes: number, restBytes: number): boolean {
  return restBytes <= REST_FACTOR * bytes && bytes + restBytes <= PLAN_BYTES_MAX;
}

/** As many as there are of which none is larger than the others together. */
function newestOfLikeSize(level0: readonly SortedRun[]): readonly SortedRun[] {
  for (let count = level0.length; count >= 2; count--) {
    const runs = level0.slice(0, count);
    const sum = runs.reduce((total, { bytes }) => total + bytes, 0);
    if (sum <= PLAN_BYTES_MAX && runs.every(({ bytes }) => 2 * bytes <= sum)) return runs;
  }
  return [];
}

/**
 * Whether a memtable should become a run now: because all of level 0 would then go down with it, or because it is nearly one. bytes: of its entries; share: of
 * memtableBytes, that it takes.
 */
export function isQuietFlush(bytes: number, share: number, shape: TreeShape, options: LsmOptions): boolean {
  if (options.style !== 'leveled' || share < MEMTABLE_SHARE_MIN) return false;
  if (share >= MEMTABLE_SHARE_MAX) return true;
  const { base } = levelTargets(shape.bytes, options);
  return isWorth(bytes + shape.bytes[0]!, shape.bytes[base]!);
}
