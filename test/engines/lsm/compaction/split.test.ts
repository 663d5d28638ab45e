/** A plan in parts: every key in exactly one, about equal bytes in each. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { CompactionPlan } from '../../../../dist/engines/lsm/compaction/plan.js';
import { tasksOf, type TaskContext } from '../../../../dist/engines/lsm/compaction/split.js';
import type { CompactionTask, LsmOptions, TableInfo } from '../../../../dist/engines/lsm/types.js';
import { TINY } from '../jobs/scene.js';
import { ENTRY_BYTES, keyOf, numberOf, tableOf } from './simulation.js';

const OPTIONS: LsmOptions = { ...TINY, tableBytes: 10 * ENTRY_BYTES };

function contextOf(changes: Partial<TaskContext> = {}): TaskContext & { files: [number, number][] } {
  const files: [number, number][] = [];
  let nextFile = 100;
  return {
    directory: '/tree',
    identity: { storeId: new Uint8Array(16), shard: 0, tree: 1 },
    options: OPTIONS,
    snapshots: [5, 6],
    tombstones: [],
    nowMs: 77,
    takeFiles: (count) => {
      files.push([nextFile, count]);
      nextFile += count;
      return nextFile - count;
    },
    cancel: new Int32Array(1),
    rate: undefined,
    files,
    ...changes,
  };
}

function planOf(runs: readonly (readonly TableInfo[])[], changes: Partial<CompactionPlan> = {}): CompactionPlan {
  return {
    kind: 'merge',
    cause: 'size',
    score: 1,
    inputs: runs,
    outputLevel: 3,
    outputRun: 0,
    smallest: keyOf(0),
    largest: keyOf(1e6),
    olderRanges: [],
    grandparents: [],
    collectBlobs: [],
    removedTombstones: [],
    removedBlobs: [],
    ...changes,
  };
}

/** A run of tables of ten keys each, `step` apart. */
function runOf(level: number, run: number, tables: number, step: number, firstKey = 1): TableInfo[] {
  return Array.from({ length: tables }, (_, index) => {
    const keys = Array.from({ length: 10 }, (__, key) => firstKey + (index * 10 + key) * step);
    return tableOf(1000 * level + 100 * run + index, level, run, keys);
  });
}

function isIn({ low, high }: CompactionTask, key: Uint8Array): boolean {
  return (low === undefined || Buffer.compare(key, low) >= 0) && (high === undefined || Buffer.compare(key, high) < 0);
}

describe('tasks of a plan', () => {
  it('cover every key once, with every table that has some in the range', () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.integer({ min: 1, max: 30 }), fc.integer({ min: 1, max: 50 }), fc.nat({ max: 500 })), {
          minLength: 1,
          maxLength: 5,
        }),
        fc.integer({ min: 1, max: 8 }),
        (shapes, parallelism) => {
          const runs = shapes.map(([tables, step, first], index) => runOf(0, 9 - index, tables, step, first + 1));
          const context = contextOf();
          const tasks = tasksOf(planOf(runs), context, parallelism);
          expect(tasks.length).toBeGreaterThanOrEqual(1);
          expect(tasks.length).toBeLessThanOrEqual(parallelism);
          for (let index = 1; index < tasks.length; index++) {
            expect(Buffer.compare(tasks[index]!.low!, tasks[index - 1]!.high!)).toBeGreaterThanOrEqual(0);
          }
          for (const table of runs.flat()) {
            for (const key of [table.smallestKey, table.largestKey]) {
              const owners = tasks.filter((task) => isIn(task, key));
              expect(owners.length).toBe(1);
              expect(owners[0]!.inputs.flat()).toContain(table);
            }
          }
          for (const task of tasks) {
            for (const run of task.inputs) expect(run.length).toBeGreaterThan(0);
            const ages = task.inputs.map((run) => run[0]!.run);
            expect(ages).toEqual([...ages].sort((a, b) => b - a));
          }
          // Numbers of files are their own.
          expect(tasks.map(({ firstFile, files }) => [firstFile, files])).toEqual(context.files);
        },
      ),
      { numRuns: 200 },
    );
  });

  it('are about equally large', () => {
    const runs = [runOf(0, 2, 50, 20), runOf(1, 0, 100, 10)];
    for (const parallelism of [2, 3, 4]) {
      const tasks = tasksOf(planOf(runs), contextOf(), parallelism);
      expect(tasks.length).toBe(parallelism);
      // A table on the bound is in both, so bytes are counted by keys of the first level.
      const share = tasks.map((task) => {
        const low = task.low === undefined ? 0 : numberOf(task.low);
        const high = task.high === undefined ? 10_000 : numberOf(task.high);
        return (high - low) / 10_000;
      });
      for (const one of share) expect(Math.abs(one - 1 / parallelism)).toBeLessThan(0.05);
    }
  });

  it('are one when there is little to do, or where there is no place for a cut', () => {
    expect(tasksOf(planOf([runOf(0, 1, 3, 1)]), contextOf(), 8).length).toBe(1);
    const narrow = { ...tableOf(1, 0, 1, [7]), bytes: 1e9 };
    expect(tasksOf(planOf([[narrow]]), contextOf(), 8).length).toBe(1);
  });

  it('are cut where keys may be when nothing is known of the inside of tables', () => {
    const large = { ...tableOf(1, 0, 1, [1000, 9000]), bytes: 1e6 };
    const tasks = tasksOf(planOf([[large], [{ ...large, number: 2, run: 0 }]]), contextOf(), 4);
    expect(tasks.map(({ low }) => low && numberOf(low))).toEqual([undefined, 3000, 5000, 7000]);
    expect(tasks.map(({ high }) => high && numberOf(high))).toEqual([3000, 5000, 7000, undefined]);
    const words = { ...large, smallestKey: Buffer.from('user:aaron'), largestKey: Buffer.from('user:zoe') };
    const [first, second] = tasksOf(planOf([[words]]), contextOf(), 2);
    expect(Buffer.from(first!.high!).toString('latin1')).toMatch(/^user:[l-o]/);
    expect(second!.low).toEqual(first!.high);
  });

  it('use keys from inside of tables', () => {
    const large = { ...tableOf(1, 0, 1, [1, 1000]), bytes: 1e6 };
    const samplesOf = (): Uint8Array[] => [100, 200, 300, 400, 500, 600, 700, 800, 900].map(keyOf);
    const tasks = tasksOf(planOf([[large]]), contextOf({ samplesOf }), 2);
    expect(tasks.map(({ low, high }) => [low && numberOf(low), high && numberOf(high)])).toEqual([
      [undefined, 500],
      [500, undefined],
    ]);
  });

  it('know of what is older and of the level below no more than lies in their range', () => {
    const runs = [runOf(0, 2, 50, 2)];
    const olderRanges = [
      [keyOf(10), keyOf(20)],
      [keyOf(900), keyOf(950)],
    ] as const;
    const grandparents = runOf(4, 0, 10, 10);
    const tasks = tasksOf(planOf(runs, { olderRanges, grandparents }), contextOf(), 2);
    expect(tasks.length).toBe(2);
    expect(tasks.map((task) => task.olderRanges.length)).toEqual([1, 1]);
    const known = tasks.flatMap((task) => task.grandparents);
    expect(new Set(known).size).toBe(10);
    expect(known.length).toBeLessThanOrEqual(11);
  });

  it('of moves and drops are none', () => {
    expect(tasksOf(planOf([runOf(0, 1, 3, 1)], { kind: 'move' }), contextOf(), 2)).toEqual([]);
    expect(tasksOf(planOf([], { kind: 'drop' }), contextOf(), 2)).toEqual([]);
  });
});
