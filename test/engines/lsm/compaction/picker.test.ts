/** What is merged with what, and when: rules of every plan, and where a tree comes to rest. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { levelTargets, pendingDebtBytes, shapeOf } from '../../../../dist/engines/lsm/compaction/debt.js';
import { isManualDone, pickCompaction, pickDueAtMs } from '../../../../dist/engines/lsm/compaction/picker.js';
import { LSM_LEVELS, type LsmOptions, type TableInfo } from '../../../../dist/engines/lsm/types.js';
import { TreeView } from '../../../../dist/engines/lsm/compaction/tree-view.js';
import type { CompactionPlan } from '../../../../dist/engines/lsm/compaction/plan.js';
import { Random } from '../../../../dist/shared/random.js';
import { TINY } from '../jobs/scene.js';
import { ENTRY_BYTES, Simulation, keyOf, numberOf, tableOf } from './simulation.js';

const MEMTABLE_ENTRIES = 100;

const SMALL: LsmOptions = {
  ...TINY,
  tableBytes: 25 * ENTRY_BYTES,
  level0Runs: 4,
  slowdownRuns: 12,
  stopRuns: 24,
  levelBytes: 4 * MEMTABLE_ENTRIES * ENTRY_BYTES,
  levelFactor: 10,
};

const seeds = fc.integer({ min: 1, max: 2 ** 31 });

function memtable(random: Random, keys: number, entries = MEMTABLE_ENTRIES): number[] {
  return Array.from({ length: entries }, () => 1 + random.below(keys));
}

describe('the picker', () => {
  for (const style of ['leveled', 'tiered', 'fifo'] as const) {
    it(`chooses nothing that would put a version above a newer one: ${style}`, () => {
      fc.assert(
        fc.property(
          seeds,
          fc.integer({ min: 1, max: 4 }),
          fc.integer({ min: 50, max: 5000 }),
          (seed, parallelism, keys) => {
            const random = new Random(seed);
            const simulation = new Simulation({ ...SMALL, style, fifoBytes: 40_000 }, parallelism);
            for (let step = 0; step < 120; step++) {
              const choice = random.below(10);
              if (choice < 4) {
                // Some memtables hold a part of the keys only.
                const width = random.below(2) === 0 ? keys : 1 + random.below(keys);
                const from = random.below(keys - width + 1);
                simulation.flush(memtable(random, width).map((key) => key + from));
              } else if (choice < 7) {
                const plan = simulation.pick({ isIdle: random.below(4) === 0 });
                if (plan !== undefined) simulation.start(plan);
              } else if (simulation.running.length > 0) simulation.finish(random.below(simulation.running.length));
            }
            simulation.settle();
          },
        ),
        { numRuns: 30 },
      );
    });
  }

  it('brings a leveled tree to rest within its targets, whatever was written', () => {
    fc.assert(
      fc.property(seeds, fc.integer({ min: 100, max: 20_000 }), (seed, keys) => {
        const random = new Random(seed);
        const simulation = new Simulation(SMALL, 2, false);
        for (let flush = 0; flush < 60; flush++) {
          simulation.flush(memtable(random, keys));
          if (random.below(3) === 0) simulation.settle();
        }
        simulation.settle();
        const shape = shapeOf([...simulation.tables.values()]);
        const targets = levelTargets(shape.bytes, SMALL);
        expect(shape.runs).toBeLessThan(SMALL.level0Runs);
        for (let level = 1; level < LSM_LEVELS - 1; level++) {
          expect(shape.bytes[level]!).toBeLessThanOrEqual(targets.bytes[level]!);
        }
        expect(pendingDebtBytes(shape, SMALL)).toBe(0);
        expect(simulation.pick()).toBeUndefined();
      }),
      { numRuns: 20 },
    );
  });

  it('writes leveled trees a bounded number of times, tiered ones less often, and keeps most in the last level', () => {
    const amplifications = (['leveled', 'tiered'] as const).map((style) => {
      const random = new Random(7);
      const simulation = new Simulation({ ...SMALL, style, tableBytes: 100 * ENTRY_BYTES, tieredRunsMin: 4 }, 2, false);
      for (let flush = 0; flush < 200; flush++) {
        simulation.flush(memtable(random, 1e9));
        simulation.settle();
        expect(simulation.level0Runs).toBeLessThan(SMALL.slowdownRuns);
      }
      if (style === 'leveled') {
        expect(simulation.bytesOf(LSM_LEVELS - 1) / simulation.flushedBytes).toBeGreaterThan(0.6);
      }
      return simulation.writtenBytes / simulation.flushedBytes;
    });
    const [leveled, tiered] = amplifications as [number, number];
    expect(leveled).toBeLessThan(11);
    expect(tiered).toBeGreaterThan(1);
    expect(tiered).toBeLessThan(leveled / 1.5);
  });

  it('moves tables that meet nothing instead of writing them anew', () => {
    const simulation = new Simulation(SMALL, 2, false);
    for (let flush = 0; flush < 100; flush++) {
      simulation.flush(Array.from({ length: MEMTABLE_ENTRIES }, (_, index) => flush * MEMTABLE_ENTRIES + index + 1));
      simulation.settle();
    }
    expect(simulation.writtenBytes).toBe(simulation.flushedBytes);
    expect(simulation.level0Runs).toBeLessThan(SMALL.level0Runs);
  });

  it('rewrites such tables when the next level is compressed otherwise', () => {
    const tables = SMALL.tables.map((table, level) =>
      level === 6 ? { ...table, compression: 'lz4' as const } : table,
    );
    const simulation = new Simulation({ ...SMALL, tables }, 2);
    for (let flush = 0; flush < 4; flush++) simulation.flush([flush * 10 + 1, flush * 10 + 2]);
    expect(simulation.pick()).toMatchObject({ kind: 'merge', cause: 'level0', outputLevel: 6 });
  });

  it('merges the newest runs of level 0 with each other while the base level is busy', () => {
    const random = new Random(9);
    const simulation = new Simulation(SMALL, 3);
    for (let flush = 0; flush < 4; flush++) simulation.flush(memtable(random, 1000));
    simulation.start(simulation.pick()!);
    expect(simulation.running[0]).toMatchObject({ cause: 'level0', outputLevel: 6 });
    for (let flush = 0; flush < 5; flush++) simulation.flush(memtable(random, 1000));
    const plan = simulation.pick()!;
    expect(plan).toMatchObject({ kind: 'merge', cause: 'level0', outputLevel: 0, outputRun: 9 });
    expect(plan.inputs.length).toBe(5);
    simulation.start(plan);
    expect(simulation.pick()).toBeUndefined();
    simulation.finish(0);
    simulation.finish(0);
    expect(simulation.level0Runs).toBe(1);
  });

  it('serves level 0 before other levels when writers are about to be slowed', () => {
    const simulation = new Simulation(SMALL, 1);
    const fill = (level: number, count: number): void => {
      for (let index = 0; index < count; index++) {
        const number = simulation.nextFile++;
        const keys = Array.from({ length: 25 }, (_, key) => index * 25 + key + 1);
        simulation.tables.set(number, tableOf(number, level, 0, keys));
        simulation.keys.set(number, keys);
      }
    };
    fill(6, 1000);
    fill(5, 900);
    simulation.flush([1, 9000]);
    expect(simulation.pick()).toMatchObject({ cause: 'size' });
    for (let flush = 0; flush < SMALL.slowdownRuns - 1; flush++) simulation.flush([1, 9000]);
    expect(simulation.pick()).toMatchObject({ cause: 'level0' });
  });

  it('drops the oldest tables of a fifo tree when it is too large or they are too old, never what a snapshot sees', () => {
    const options: LsmOptions = { ...SMALL, style: 'fifo', fifoBytes: 10 * ENTRY_BYTES, fifoTtlMs: 500 };
    const simulation = new Simulation(options, 1);
    for (let flush = 0; flush < 4; flush++) {
      simulation.flush([1, 2, 3]);
      simulation.nowMs += 100;
    }
    const runsOf = (tables: readonly TableInfo[]): number[] => tables.map(({ run }) => run).sort();
    // Four runs of 3 entries: one is too much.
    expect(runsOf(simulation.pick()!.inputs.flat())).toEqual([1]);
    // A table's number stands for its seq here.
    expect(simulation.pick({ snapshots: [1] })).toBeUndefined();
    simulation.start(simulation.pick()!);
    expect(simulation.pick()).toBeUndefined();
    expect(pickDueAtMs(simulation.state(), options)).toBe(1600);
    simulation.nowMs = 1700;
    expect(runsOf(simulation.pick()!.inputs.flat())).toEqual([2, 3]);
  });

  it('merges small runs of a fifo tree when there are very many, those of about the same time', () => {
    const random = new Random(3);
    const options: LsmOptions = { ...SMALL, style: 'fifo', fifoBytes: 100_000 * ENTRY_BYTES, fifoTtlMs: 1e6 };
    const simulation = new Simulation(options, 2);
    for (let flush = 0; flush < 2000; flush++) {
      simulation.flush(memtable(random, 300, 3));
      simulation.nowMs += flush < 1000 ? 10 : 20_000;
      if (flush % 10 === 0) {
        const plan = simulation.pick();
        if (plan?.kind === 'merge') {
          const times = plan.inputs.flat().map(({ createdAt }) => createdAt);
          expect(Math.max(...times) - Math.min(...times)).toBeLessThanOrEqual(1e6 / 64);
        }
        simulation.settle();
      }
      expect(new Set([...simulation.tables.values()].map(({ run }) => run)).size).toBeLessThan(600);
    }
  });

  it('brings what was asked for down to the last level, and says when it is done', () => {
    fc.assert(
      fc.property(seeds, fc.integer({ min: 0, max: 3000 }), fc.integer({ min: 0, max: 3000 }), (seed, one, other) => {
        const random = new Random(seed);
        const simulation = new Simulation(SMALL, 2);
        for (let flush = 0; flush < 30; flush++) {
          simulation.flush(memtable(random, 3000));
          if (flush % 10 !== 9) simulation.settle();
        }
        const low = Math.min(one, other);
        const high = Math.max(one, other) + 1;
        const manual = {
          low: keyOf(low),
          high: keyOf(high),
          upToSeq: simulation.seq,
          firstFile: simulation.nextFile,
        };
        simulation.settle({ manual });
        expect(isManualDone(simulation.state(), SMALL, manual)).toBe(true);
        for (const table of simulation.tables.values()) {
          if (table.level === 6) continue;
          expect(numberOf(table.largestKey) < low || numberOf(table.smallestKey) >= high).toBe(true);
        }
        // What comes later is not part of it.
        simulation.flush([low]);
        expect(isManualDone(simulation.state(), SMALL, manual)).toBe(true);
        expect(isManualDone(simulation.state(), SMALL, { ...manual, upToSeq: simulation.seq })).toBe(false);
      }),
      { numRuns: 20 },
    );
  });

  it('drops what a range tombstone hides without reading it, and the tombstone when it hides nothing more', () => {
    const simulation = new Simulation(SMALL, 1);
    simulation.flush([10, 20]);
    simulation.flush([15, 40]);
    const tombstone = { seq: 3, low: keyOf(5), high: keyOf(30) };
    const state = { tombstones: [tombstone] };
    expect(simulation.pick({ ...state, snapshots: [2] })).toBeUndefined();
    const plan = simulation.pick(state)!;
    expect(plan).toMatchObject({ kind: 'drop', cause: 'range-tombstones', removedTombstones: [] });
    expect(plan.inputs.flat().map(({ number }) => number)).toEqual([1]);
    simulation.start(plan);
    // The other one is cut: worth it when there is nothing else to do.
    expect(simulation.pick(state)).toBeUndefined();
    expect(simulation.pick({ ...state, isIdle: true })).toMatchObject({
      kind: 'merge',
      cause: 'range-tombstones',
      outputLevel: 0,
      outputRun: 2,
    });
    simulation.tables.delete(2);
    expect(simulation.pick({ ...state, memtableSeq: 2 })).toBeUndefined();
    expect(simulation.pick({ ...state, memtableSeq: 4 })).toMatchObject({
      kind: 'drop',
      inputs: [],
      removedTombstones: [tombstone],
    });
    expect(pickCompaction(simulation.state(), SMALL, [])).toBeUndefined();
  });

  it('drops tables of which everything has expired when nothing lies below and no snapshot sees them', () => {
    const simulation = new Simulation(SMALL, 1);
    simulation.flush([10, 20]);
    const expiring = { expiring: 2, firstExpiry: 1500, lastExpiry: 2000 };
    simulation.tables.set(1, { ...simulation.tables.get(1)!, ...expiring });
    expect(simulation.pick()).toBeUndefined();
    expect(pickDueAtMs(simulation.state(), SMALL)).toBe(1650);
    simulation.nowMs = 2000;
    expect(simulation.pick({ snapshots: [1] })).toBeUndefined();
    const plan = simulation.pick();
    expect(plan).toMatchObject({ kind: 'drop', cause: 'expired' });
    simulation.flush([15, 40]);
    simulation.tables.set(2, { ...simulation.tables.get(2)!, ...expiring });
    expect(
      simulation
        .pick()!
        .inputs.flat()
        .map(({ number }) => number),
    ).toEqual([1]);
  });

  it('rewrites tables with versions that were kept for snapshots which are closed', () => {
    const simulation = new Simulation(SMALL, 1);
    simulation.flush([10, 20]);
    const table = simulation.tables.get(1)!;
    const isIdle = true;
    simulation.tables.set(1, { ...table, entries: 20, keys: 18, smallestSeq: 5, largestSeq: 9 });
    expect(simulation.pick({ isIdle, snapshots: [5] })).toBeUndefined();
    expect(simulation.pick({ isIdle: false, snapshots: [4, 9] })).toBeUndefined();
    expect(simulation.pick({ isIdle, snapshots: [4, 9] })).toMatchObject({ kind: 'merge', outputLevel: 0 });
    const manual = { low: undefined, high: undefined, upToSeq: 10, firstFile: 2 };
    simulation.tables.set(1, { ...table, level: 6, run: 0, entries: 20, keys: 19, smallestSeq: 5, largestSeq: 9 });
    expect(simulation.pick({ isIdle, snapshots: [] })).toBeUndefined();
    expect(simulation.pick({ manual, snapshots: [8] })).toBeUndefined();
    expect(simulation.pick({ manual, snapshots: [] })).toMatchObject({ kind: 'merge', cause: 'manual' });
    // A manifest of the first format does not know.
    simulation.tables.set(1, { ...simulation.tables.get(1)!, keys: 0 });
    expect(simulation.pick({ isIdle, manual, snapshots: [] })).toBeUndefined();
  });

  it('drops blob files without references, and rewrites tables for those with much garbage', () => {
    const simulation = new Simulation(SMALL, 1);
    simulation.flush([10, 20]);
    const blob = { number: 50, bytes: 1000, records: 10, recordBytes: 900, createdAt: 1 };
    const uses = (bytes: number): void => {
      simulation.tables.set(1, { ...simulation.tables.get(1)!, blobs: [{ file: 50, bytes }] });
    };
    expect(simulation.pick({ blobs: [blob] })).toMatchObject({ kind: 'drop', cause: 'blobs', removedBlobs: [50] });
    uses(800);
    expect(simulation.pick({ blobs: [blob], isIdle: true })).toBeUndefined();
    uses(300);
    expect(simulation.pick({ blobs: [blob] })).toMatchObject({ kind: 'merge', cause: 'blobs', collectBlobs: [50] });
    const large = { ...blob, number: 51, recordBytes: 9000 };
    simulation.tables.set(1, {
      ...simulation.tables.get(1)!,
      blobs: [
        { file: 50, bytes: 300 },
        { file: 51, bytes: 9000 },
      ],
    });
    expect(simulation.pick({ blobs: [blob, large] })).toBeUndefined();
    expect(simulation.pick({ blobs: [blob, large], isIdle: true })).toMatchObject({
      cause: 'blobs',
      collectBlobs: [50],
    });
  });
});

describe('a plan for chosen tables', () => {
  const level5 = [
    [1, 2],
    [10, 11],
    [20, 21],
  ].map((keys, index) => tableOf(index + 1, 5, 0, keys));
  const viewOf = (tables: readonly TableInfo[], busy: readonly CompactionPlan[]): TreeView =>
    new TreeView({ state: { ...new Simulation(SMALL, 1).state(), tables }, options: SMALL, busy });

  it('puts nothing between what a running one may write', () => {
    const view = viewOf(level5, []);
    const outer = view.planFor('manual', 1, [level5[0]!, level5[2]!], 6, false)!;
    expect(outer.inputs).toEqual([[level5[0], level5[2]]]);
    expect(viewOf(level5, [outer]).planFor('manual', 1, [level5[1]!], 6, false)).toBeUndefined();
    expect(viewOf(level5, [outer]).planFor('manual', 1, [level5[1]!], 6, true)).toBeUndefined();
    expect(viewOf(level5, []).planFor('manual', 1, [level5[1]!], 6, true)).toMatchObject({ kind: 'move' });
  });

  it('takes along what lies between those that are rewritten where they are', () => {
    const plan = viewOf(level5, []).planFor('blobs', 1, [level5[0]!, level5[2]!], 5, false)!;
    expect(plan).toMatchObject({ kind: 'merge', outputLevel: 5, inputs: [level5] });
  });

  it('takes along, on the way down, whatever lies between', () => {
    const upper = tableOf(7, 0, 3, [5, 12]);
    const middle = tableOf(8, 0, 2, [12, 20]);
    const apart = tableOf(9, 0, 1, [30, 40]);
    const last = tableOf(10, 6, 0, [21, 22]);
    const plan = viewOf([...level5, upper, middle, apart, last], []).planFor('manual', 1, [upper], 6, true)!;
    expect(plan.kind).toBe('merge');
    expect(plan.inputs.map((run) => run.map(({ number }) => number))).toEqual([[7], [8], [2, 3], [10]]);
  });
});
