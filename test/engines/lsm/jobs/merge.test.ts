/** Whatever is merged with whatever, every read at every number that somebody may ask for gives what it gave before; and nothing needless stays. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { TreeView } from '../../../../dist/engines/lsm/compaction/tree-view.js';
import { LSM_LEVELS } from '../../../../dist/engines/lsm/types.js';
import { MemEnv } from '../../../../dist/shared/env/mem-env.js';
import { TINY, Tree } from './scene.js';

const KEYS = 24;
const keyOf = (index: number): string => `key${String(index % KEYS).padStart(index % 3 === 0 ? 3 : 2, '0')}`;

type Step =
  | { readonly kind: 'put'; readonly key: number; readonly size: number; readonly ttlMs: number }
  | { readonly kind: 'del'; readonly key: number }
  | { readonly kind: 'clear'; readonly low: number; readonly high: number }
  | { readonly kind: 'flush' | 'snapshot' }
  | { readonly kind: 'release' | 'finish'; readonly which: number }
  | { readonly kind: 'pick'; readonly isIdle: boolean }
  | { readonly kind: 'choose'; readonly bits: number; readonly level: number; readonly mayMove: boolean }
  | { readonly kind: 'time'; readonly ms: number };

const number = fc.nat({ max: 1 << 20 });
const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 12,
    arbitrary: fc.record({
      kind: fc.constant('put' as const),
      key: number,
      size: fc.constantFrom(3, 20, 90, 90, 400),
      ttlMs: fc.constantFrom(0, 0, 0, 0, 10, 100),
    }),
  },
  { weight: 4, arbitrary: fc.record({ kind: fc.constant('del' as const), key: number }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('clear' as const), low: number, high: number }) },
  { weight: 4, arbitrary: fc.record({ kind: fc.constant('flush' as const) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('snapshot' as const) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('release' as const), which: number }) },
  { weight: 3, arbitrary: fc.record({ kind: fc.constant('pick' as const), isIdle: fc.boolean() }) },
  { weight: 3, arbitrary: fc.record({ kind: fc.constant('finish' as const), which: number }) },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constant('choose' as const),
      bits: number,
      level: fc.nat({ max: LSM_LEVELS - 1 }),
      mayMove: fc.boolean(),
    }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('time' as const), ms: fc.constantFrom(5, 50, 200) }) },
);

function apply(tree: Tree, one: Step): void {
  switch (one.kind) {
    case 'put': {
      const value = `${tree.seq + 1}:`.padEnd(one.size, 'x');
      tree.put(keyOf(one.key), value, one.ttlMs === 0 ? 0 : tree.nowMs + one.ttlMs);
      return;
    }
    case 'del':
      tree.del(keyOf(one.key));
      return;
    case 'clear': {
      const [low, high] = [keyOf(one.low), keyOf(one.high)].sort();
      tree.clear(one.low % 7 === 0 ? undefined : low, one.high % 7 === 0 ? undefined : high);
      return;
    }
    case 'flush':
      tree.flush();
      return;
    case 'snapshot':
      tree.snapshots.push({ seq: tree.seq, atMs: tree.nowMs });
      return;
    case 'release':
      if (tree.snapshots.length > 0) tree.snapshots.splice(one.which % tree.snapshots.length, 1);
      return;
    case 'pick': {
      const plan = tree.pick(one.isIdle);
      if (plan === undefined) return;
      tree.start(plan);
      // Edits without jobs are made at once.
      if (plan.kind !== 'merge') tree.finish(tree.running.length - 1);
      return;
    }
    case 'finish':
      if (tree.running.length > 0) tree.finish(one.which % tree.running.length);
      return;
    case 'choose': {
      // Any tables that lie above the level, or next to each other in it.
      const view = new TreeView({ state: tree.pickState(), options: tree.options, busy: tree.plans });
      const upper = view.runs.flatMap((run) => (run.level < one.level ? run.tables : []));
      let seeds = upper.filter((_, index) => ((one.bits >>> (index % 20)) & 1) === 1);
      if (one.level === 0 || seeds.length === 0) {
        const runs = view.runs.filter((run) => run.level === one.level);
        const run = runs[one.bits % Math.max(1, runs.length)];
        seeds = run === undefined ? [] : run.tables.slice(one.bits % run.tables.length);
      }
      const plan = view.planFor('manual', 1, seeds, one.level, one.mayMove);
      if (plan === undefined) return;
      tree.start(plan);
      if (plan.kind !== 'merge') tree.finish(tree.running.length - 1);
      return;
    }
    case 'time':
      tree.nowMs += one.ms;
  }
}

describe('compactions of any legal choice', () => {
  for (const [name, options] of [
    ['leveled', TINY],
    ['leveled, with blob files', { ...TINY, blobValueBytes: 64 }],
    ['tiered', { ...TINY, style: 'tiered', level0Runs: 3 }],
    ['leveled, large tables', { ...TINY, tableBytes: 1 << 20, levelBytes: 1 << 14 }],
  ] as const) {
    it(`change no read and keep nothing that is not needed: ${name}`, () => {
      fc.assert(
        fc.property(fc.array(step, { minLength: 20, maxLength: 160 }), (steps) => {
          const tree = new Tree(new MemEnv(), options);
          for (const one of steps) {
            apply(tree, one);
            if (one.kind !== 'put' && one.kind !== 'del') tree.checkReads();
          }
          tree.flush();
          tree.settle(true);
          tree.checkReads();
          tree.checkFiles();
          tree.mergeAll();
          tree.checkReads();
          tree.checkExact();
          tree.snapshots = [];
          tree.settle(true);
          tree.mergeAll();
          tree.checkReads();
          tree.checkExact();
          tree.settle(true);
          // Nothing is left to hide anything from, and nothing that nobody refers to.
          expect(tree.tombstones).toEqual([]);
          for (const table of tree.tables.values()) expect(table.tombstones).toBe(0);
          tree.checkFiles();
        }),
        { numRuns: 150, endOnFailure: false },
      );
    });
  }
});
