/** How far a tree is behind, how fast it takes writes, and how fast its jobs may write. */
import { Worker } from 'node:worker_threads';
import { describe, expect, it } from 'vitest';
import {
  levelTargets,
  pendingDebtBytes,
  readAmplification,
  shapeOf,
  spaceAmplification,
  writeFlow,
  type FlowState,
} from '../../../../dist/engines/lsm/compaction/debt.js';
import { RateLimiter, createRateLimit, setRateLimit } from '../../../../dist/engines/lsm/compaction/rate-limit.js';
import type { LsmOptions } from '../../../../dist/engines/lsm/types.js';
import { TINY } from '../jobs/scene.js';
import { tableOf } from './simulation.js';

const MIB = 2 ** 20;
const OPTIONS: LsmOptions = {
  ...TINY,
  frozenMax: 3,
  level0Runs: 4,
  slowdownRuns: 12,
  stopRuns: 24,
  slowdownDebtBytes: 100 * MIB,
  stopDebtBytes: 400 * MIB,
  levelBytes: 100 * MIB,
  levelFactor: 10,
};
const CALM: FlowState = { frozen: 0, activeFill: 0, level0Runs: 0, debtBytes: 0, isDiskFull: false };

describe('the flow of writes', () => {
  it('is free until a slowdown trigger', () => {
    const busy = { ...CALM, frozen: 2, activeFill: 1, level0Runs: 12, debtBytes: 100 * MIB };
    expect(writeFlow(busy, OPTIONS)).toEqual({ state: 'free', bytesPerSecond: Infinity, cause: '' });
  });

  it('goes down without a step, and stops at the stop trigger only', () => {
    const walks: ((x: number) => FlowState)[] = [
      (x) => ({ ...CALM, level0Runs: 12 + 12 * x }),
      (x) => ({ ...CALM, debtBytes: (100 + 300 * x) * MIB }),
      (x) => ({ ...CALM, frozen: 3, activeFill: x }),
    ];
    for (const [index, at] of walks.entries()) {
      let before = 128 * MIB;
      for (let percent = 1; percent < 100; percent++) {
        const flow = writeFlow(at(percent / 100), OPTIONS);
        expect(flow).toMatchObject({ state: 'slowed', cause: ['level0', 'debt', 'memtables'][index] });
        expect(flow.bytesPerSecond).toBeLessThanOrEqual(before);
        expect(flow.bytesPerSecond).toBeGreaterThan(before * 0.9);
        before = flow.bytesPerSecond;
      }
      expect(before).toBeGreaterThanOrEqual(MIB);
      expect(writeFlow(at(1), OPTIONS)).toMatchObject({ state: 'stopped', bytesPerSecond: 0 });
    }
  });

  it('says when the disk is full, and knows no runs in a fifo tree', () => {
    const full = { ...CALM, frozen: 3, activeFill: 1, isDiskFull: true };
    expect(writeFlow(full, OPTIONS)).toEqual({ state: 'stopped', bytesPerSecond: 0, cause: 'disk-full' });
    expect(writeFlow({ ...CALM, level0Runs: 1000 }, { ...OPTIONS, style: 'fifo' }).state).toBe('free');
  });
});

describe('the debt of a leveled tree', () => {
  const tables = (bytes: readonly number[], runs = 1): ReturnType<typeof tableOf>[] =>
    bytes.flatMap((size, level) => {
      const count = level === 0 ? runs : 1;
      if (size === 0) return [];
      return Array.from({ length: count }, (_, index) => ({
        ...tableOf(level * 100 + index + 1, level, level === 0 ? index + 1 : 0, [1, 2]),
        bytes: (size * MIB) / count,
      }));
    });

  it('is nothing within the targets', () => {
    const shape = shapeOf(tables([50, 0, 0, 0, 0, 100, 1000], 3));
    expect(levelTargets(shape.bytes, OPTIONS)).toMatchObject({ base: 5 });
    expect(pendingDebtBytes(shape, OPTIONS)).toBe(0);
  });

  it('grows with runs of level 0 and with what levels have too much', () => {
    const runs = pendingDebtBytes(shapeOf(tables([200, 0, 0, 0, 0, 100, 1000], 4)), OPTIONS);
    expect(runs).toBeGreaterThanOrEqual(300 * MIB);
    const excess = pendingDebtBytes(shapeOf(tables([0, 0, 0, 0, 0, 150, 1000])), OPTIONS);
    expect(excess).toBeGreaterThanOrEqual(50 * MIB);
    expect(excess).toBeLessThan(600 * MIB);
    expect(pendingDebtBytes(shapeOf(tables([0, 0, 0, 0, 0, 200, 1000])), OPTIONS)).toBeGreaterThan(excess);
  });

  it('has targets from the last level upwards, a base near levelBytes', () => {
    for (const [last, base] of [
      [10, 6],
      [300, 6],
      [400, 5],
      [3000, 5],
      [4000, 4],
      [40_000, 3],
    ] as const) {
      const targets = levelTargets(shapeOf(tables([0, 0, 0, 0, 0, 0, last])).bytes, OPTIONS);
      expect([last, targets.base]).toEqual([last, base]);
      const baseBytes = targets.bytes[base]! / MIB;
      expect(baseBytes).toBeGreaterThan(31);
      expect(baseBytes).toBeLessThan(317);
      for (let level = base + 1; level < 7; level++) {
        expect(targets.bytes[level]! / targets.bytes[level - 1]!).toBeCloseTo(10);
      }
    }
  });

  it('of a tiered tree are runs beyond those that may stay', () => {
    const tiered = { ...OPTIONS, style: 'tiered' } as const;
    expect(pendingDebtBytes(shapeOf(tables([8000, 0, 0, 0, 0, 0, 9000], 8)), tiered)).toBe(0);
    expect(pendingDebtBytes(shapeOf(tables([1000, 0, 0, 0, 0, 0, 9000], 10)), tiered)).toBe(400 * MIB);
    expect(pendingDebtBytes(shapeOf(tables([8000], 80)), { ...OPTIONS, style: 'fifo' })).toBe(0);
  });

  it('goes with figures of amplification', () => {
    const some = tables([30, 0, 0, 0, 0, 100, 1000], 3);
    expect(readAmplification(shapeOf(some))).toBe(5);
    expect(spaceAmplification(some)).toBeCloseTo(1.13);
    expect(spaceAmplification(some, 1000 * MIB, 500 * MIB)).toBeCloseTo(2130 / 1500);
    expect(spaceAmplification([])).toBe(1);
    expect(spaceAmplification(tables([40], 4))).toBeCloseTo(4);
  });
});

describe('the rate limit', () => {
  const never = (): boolean => false;
  const clock = (): number => Date.now();

  it('lets so many bytes pass per second, all threads together', async () => {
    const buffer = createRateLimit(4 * MIB);
    const source = `
      const { parentPort, workerData } = require('node:worker_threads');
      import(workerData.module).then(({ RateLimiter }) => {
        const limiter = new RateLimiter(workerData.buffer, () => Date.now());
        let waitedMs = 0;
        const began = Date.now();
        for (let chunk = 0; chunk < 48; chunk++) waitedMs += limiter.take(65536, 'compaction', () => false);
        parentPort.postMessage({ began, ended: Date.now(), waitedMs });
      });`;
    const module = new URL('../../../../dist/engines/lsm/compaction/rate-limit.js', import.meta.url).href;
    const reports = await Promise.all(
      [1, 2].map(
        () =>
          new Promise<{ began: number; ended: number; waitedMs: number }>((resolve, reject) => {
            const worker = new Worker(source, { eval: true, workerData: { buffer, module } });
            worker.once('message', resolve).once('error', reject);
          }),
      ),
    );
    // 3 MiB each are 1500 ms, but for the burst at the beginning and what each overdraws at its end; and no long wait for what is there.
    const tookMs = Math.max(...reports.map(({ ended }) => ended)) - Math.min(...reports.map(({ began }) => began));
    expect(tookMs).toBeGreaterThan(1300);
    for (const { waitedMs } of reports) expect(waitedMs).toBeLessThan(2000);
  });

  it('lets everything pass at 0, and takes a new rate at once', async () => {
    const buffer = createRateLimit(0);
    const limiter = new RateLimiter(buffer, clock);
    for (let chunk = 0; chunk < 1000; chunk++) expect(limiter.take(MIB, 'compaction', never)).toBe(0);
    setRateLimit(buffer, 1000);
    const source = `
      const { workerData } = require('node:worker_threads');
      import(workerData.module).then(({ setRateLimit }) => setTimeout(() => setRateLimit(workerData.buffer, 0), 100));`;
    const module = new URL('../../../../dist/engines/lsm/compaction/rate-limit.js', import.meta.url).href;
    const worker = new Worker(source, { eval: true, workerData: { buffer, module } });
    await new Promise((resolve) => worker.once('online', resolve));
    // At the old rate each of these waits two seconds.
    let waitedMs = 0;
    for (let chunk = 0; chunk < 100; chunk++) waitedMs += limiter.take(100_000, 'compaction', never);
    expect(waitedMs).toBeLessThan(50_000);
    await worker.terminate();
  });

  it('serves flushes first', () => {
    const buffer = createRateLimit(MIB);
    let now = 1000;
    const limiter = new RateLimiter(buffer, () => now);
    const passes = (): boolean => {
      now += 10;
      return false;
    };
    limiter.take(100 * 1024, 'flush', passes);
    expect(limiter.take(64 * 1024, 'flush', passes)).toBe(0);
    expect(limiter.take(64 * 1024, 'compaction', passes)).toBeGreaterThan(0);
  });

  it('ends to wait when the job is cancelled, and in the end when the clock stands still', () => {
    const buffer = createRateLimit(1000);
    let now = 1000;
    const limiter = new RateLimiter(buffer, () => now);
    now = 2000;
    limiter.take(MIB, 'compaction', never);
    let asked = 0;
    limiter.take(MIB, 'compaction', () => ++asked > 1);
    expect(asked).toBe(2);
    const waitedMs = limiter.take(MIB, 'compaction', never);
    expect(waitedMs).toBeGreaterThanOrEqual(2000);
    expect(waitedMs).toBeLessThan(2100);
  });

  it('takes no rate that is none', () => {
    for (const rate of [-1, NaN]) expect(() => createRateLimit(rate)).toThrow(/bytes per second/);
  });
});
