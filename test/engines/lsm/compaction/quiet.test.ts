/** What a tree does while nobody writes: what it chooses, what that costs, and that it gives way. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { isQuietFlush } from '../../../../dist/engines/lsm/compaction/quiet.js';
import { shapeOf } from '../../../../dist/engines/lsm/compaction/debt.js';
import type { LsmOptions } from '../../../../dist/engines/lsm/types.js';
import { Random } from '../../../../dist/shared/random.js';
import { TINY } from '../jobs/scene.js';
import { LsmScene } from '../store/scene.js';
import { ENTRY_BYTES, Simulation } from './simulation.js';

const OPTIONS: LsmOptions = {
  ...TINY,
  tableBytes: 25 * ENTRY_BYTES,
  level0Runs: 4,
  slowdownRuns: 12,
  stopRuns: 24,
  levelBytes: 1e6 * ENTRY_BYTES,
  levelFactor: 10,
};
const QUIET = { isQuiet: true };

function spread(random: Random, count: number, keys = 1e6): number[] {
  return Array.from({ length: count }, () => 1 + random.below(keys));
}

describe('the picker of a quiet tree', () => {
  it('merges runs that are too few to be due down to the base level', () => {
    const simulation = new Simulation(OPTIONS, 1);
    simulation.flush(spread(new Random(1), 100));
    simulation.flush(spread(new Random(2), 100));
    expect(simulation.pick()).toBeUndefined();
    const plan = simulation.pick(QUIET)!;
    expect(plan).toMatchObject({ kind: 'merge', cause: 'quiet', outputLevel: 6 });
    expect(plan.score).toBeLessThan(1);
    simulation.start(plan);
    // Nothing besides it.
    simulation.flush(spread(new Random(3), 100));
    expect(simulation.pick(QUIET)).toBeUndefined();
    simulation.finish(0);
    expect(simulation.level0Runs).toBe(1);
  });

  it('leaves a base level alone that is too large for what would come, and merges level 0 by itself', () => {
    const random = new Random(4);
    const simulation = new Simulation(OPTIONS, 1);
    simulation.flush(spread(random, 2000));
    simulation.settle(QUIET);
    expect(simulation.level0Runs).toBe(0);
    simulation.flush(spread(random, 100));
    expect(simulation.pick(QUIET)).toBeUndefined();
    simulation.flush(spread(random, 100));
    const plan = simulation.pick(QUIET)!;
    expect(plan).toMatchObject({ kind: 'merge', cause: 'quiet', outputLevel: 0, outputRun: 3 });
    simulation.start(plan);
    simulation.finish(0);
    // A small run is not merged with one that is larger.
    simulation.flush(spread(random, 50));
    expect(simulation.pick(QUIET)).toBeUndefined();
    simulation.flush(spread(random, 600));
    expect(simulation.pick(QUIET)).toMatchObject({ cause: 'quiet', outputLevel: 6 });
  });

  it('moves what meets nothing, however large the tree is', () => {
    const simulation = new Simulation(OPTIONS, 1);
    const ascending = (from: number, count: number): number[] => Array.from({ length: count }, (_, at) => from + at);
    simulation.flush(ascending(1, 5000));
    simulation.settle(QUIET);
    simulation.flush(ascending(6000, 10));
    expect(simulation.pick(QUIET)).toMatchObject({ kind: 'move', outputLevel: 6 });
  });

  it('does nothing in trees that are tiered or fifo', () => {
    for (const style of ['tiered', 'fifo'] as const) {
      const simulation = new Simulation({ ...OPTIONS, style }, 1);
      simulation.flush([1, 5]);
      simulation.flush([2, 6]);
      expect(simulation.pick(QUIET)).toBeUndefined();
    }
  });

  it('writes each byte a few times more at most, and comes to an end, whatever is written between its turns', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 2 ** 31 }), fc.integer({ min: 1, max: 200 }), (seed, most) => {
        const random = new Random(seed);
        const simulation = new Simulation(OPTIONS, 1);
        for (let flush = 0; flush < 60; flush++) {
          simulation.flush(spread(random, 1 + random.below(most)));
          simulation.settle(QUIET);
          expect(simulation.pick(QUIET)).toBeUndefined();
        }
        // A flush, a doubling each in level 0, and four for the way down; those that level0Runs asks for besides.
        expect(simulation.writtenBytes / simulation.flushedBytes).toBeLessThan(1 + Math.log2(60) + 4);
      }),
      { numRuns: 25 },
    );
  });
});

it('a memtable is stored in quiet where all of level 0 would go down with it, at a price, or when it is half full', () => {
  const options = { ...OPTIONS, memtableBytes: 320 * ENTRY_BYTES };
  const simulation = new Simulation(options, 1);
  const flushes = (entries: number): boolean =>
    isQuietFlush(entries * ENTRY_BYTES, entries / 320, shapeOf([...simulation.tables.values()]), options);
  expect(flushes(19)).toBe(false);
  expect(flushes(20)).toBe(true);
  simulation.flush(spread(new Random(1), 300));
  simulation.settle(QUIET);
  expect(flushes(50)).toBe(false);
  expect(flushes(100)).toBe(true);
  simulation.flush(spread(new Random(2), 2000));
  simulation.settle(QUIET);
  expect(flushes(159)).toBe(false);
  expect(flushes(160)).toBe(true);
  expect(isQuietFlush(1e6, 1, shapeOf([]), { ...options, style: 'tiered' })).toBe(false);
});

describe('a store whose tree is quiet', () => {
  const tuning = { memtableBytes: 64 << 10, tableBytes: 16 << 10, level0Runs: 4, blockBytes: 1024 };
  const VALUE = 'v'.repeat(100);
  let next = 0;

  /** In an order that no run follows. */
  function write(scene: LsmScene, entries: number): void {
    for (let at = 0; at < entries; at += 20) {
      scene.commit(
        Array.from({ length: 20 }, () => {
          return { kind: 'put' as const, key: `k${String((next++ * 7919) % 100_003).padStart(6, '0')}`, value: VALUE };
        }),
      );
    }
  }

  /** All that can be done now is done. */
  function rest(scene: LsmScene, runsJobs = true): void {
    for (let round = 0; round < 1000; round++) {
      scene.work();
      if ((runsJobs && scene.jobs.runNext()) || scene.store.hasWork) continue;
      if (scene.store.workDueAtMs > scene.nowMs) return;
    }
    throw new Error(`there is no end of work: ${JSON.stringify(scene.describe())}`);
  }

  function written(runs: number): LsmScene {
    const scene = new LsmScene({ tuning });
    while (scene.writer.figures().flushes < runs) {
      write(scene, 20);
      rest(scene);
    }
    write(scene, 100);
    rest(scene);
    return scene;
  }

  it('has one run and an empty memtable a second after the last write, and not before', () => {
    const scene = written(3);
    scene.nowMs += 999;
    rest(scene);
    expect(scene.writer.figures().readAmplification).toBe(3);
    expect(scene.store.workDueAtMs).toBeLessThanOrEqual(scene.nowMs + 1);
    scene.nowMs += 1;
    rest(scene);
    const { readAmplification, memtableBytes, levels, failedJobs } = scene.writer.figures();
    expect(readAmplification).toBe(1);
    expect(memtableBytes).toBe(0);
    expect(levels[0]!.tables).toBe(0);
    expect(failedJobs).toBe(0);
    expect(scene.difference()).toBeUndefined();
    // And then it waits for nothing that comes soon.
    expect(scene.store.workDueAtMs).toBeGreaterThan(scene.nowMs + 900);
    scene.close();
  });

  it('gives it up when memory is full again, leaves nothing behind, and waits longer the next time', () => {
    const scene = written(1);
    scene.nowMs += 1000;
    // The memtable is stored, and then the merge waits for a worker.
    for (let round = 0; scene.jobs.waiting[0]?.kind !== 'compact'; round++) {
      expect(round).toBeLessThan(20);
      scene.work();
      if (scene.jobs.waiting[0]?.kind === 'flush') scene.jobs.runNext();
    }
    const [merge] = scene.jobs.waiting;
    const { flushes } = scene.writer.figures();
    while (scene.writer.figures().frozenMemtables === 0) write(scene, 20);
    scene.work();
    expect(merge!.cancel[0]).toBe(1);
    rest(scene);
    expect(scene.writer.figures().flushes).toBe(flushes + 1);
    expect(scene.writer.figures().failedJobs).toBe(0);
    const { levels } = scene.writer.figures();
    const tables = scene.files().filter((name) => name.endsWith('.sst'));
    expect(tables.length).toBe(levels.reduce((sum, level) => sum + level.tables, 0));
    scene.nowMs += 1999;
    rest(scene);
    expect(scene.writer.figures().readAmplification).toBeGreaterThan(1);
    scene.nowMs += 1;
    rest(scene);
    expect(scene.writer.figures().readAmplification).toBe(1);
    expect(scene.difference()).toBeUndefined();
    scene.close();
  });
});
