/** A disk of a given size that runs full while memtables are written and tables are merged. */
import { expect, test } from 'vitest';
import { LsmScene, TINY, type Change } from '../store/scene.js';

const KEYS = 700;

function fill(scene: LsmScene, generation: number): void {
  for (let at = 0; at < KEYS; at += 25) {
    scene.commit(
      Array.from({ length: 25 }, (_, index): Change => {
        const key = `k${String(at + index).padStart(4, '0')}`;
        // Not to be compressed to nothing.
        const value = `${generation} ${((at + index + 1) * 7919 * (generation + 3)).toString(36).repeat(20)}`;
        return { kind: 'put', key, value };
      }),
    );
  }
}

/** Lets jobs fail until nothing new is tried at this time. */
function tryAll(scene: LsmScene): void {
  for (let round = 0; round < 200; round++) {
    scene.work();
    if (!scene.jobs.runNext() && !scene.store.hasWork) return;
  }
}

const tables = (scene: LsmScene): string[] => scene.files().filter((name) => name.endsWith('.sst'));

test('a flush on a full disk leaves nothing of itself, and is made when there is space', () => {
  const scene = new LsmScene();
  fill(scene, 1);
  scene.flush();
  fill(scene, 2);
  expect(scene.writer.figures().frozenMemtables).toBeGreaterThan(0);
  const usedBytes = scene.mem.usedBytes;
  const before = tables(scene);
  let failed = 0;
  for (const spare of [0, 4 << 10, 12 << 10]) {
    scene.mem.setCapacity(usedBytes + spare);
    tryAll(scene);
    expect(scene.writer.figures().failedJobs).toBeGreaterThan(failed);
    failed = scene.writer.figures().failedJobs;
    expect(scene.writer.figures().frozenMemtables).toBeGreaterThan(0);
    expect(scene.difference(true)).toBeUndefined();
    // Later than any next attempt.
    scene.nowMs += 120_000;
  }
  expect(tables(scene)).toEqual(expect.arrayContaining(before));
  scene.mem.setCapacity(Infinity);
  scene.settle();
  expect(scene.writer.flow().state).toBe('free');
  expect(scene.writer.figures().frozenMemtables).toBe(0);
  expect(tables(scene)).toHaveLength(scene.shape().reduce((sum, count) => sum + count));
  expect(scene.difference(true)).toBeUndefined();
  scene.reopen();
  expect(scene.difference(true)).toBeUndefined();
});

test('a compaction on a full disk gives back what it took, keeps its inputs, and is made when there is space', () => {
  const scene = new LsmScene({ tuning: { ...TINY, level0Runs: 2, slowdownRuns: 30, stopRuns: 60 } });
  for (let generation = 1; generation < 5; generation++) {
    fill(scene, generation);
    scene.writer.flush(() => undefined);
  }
  // Flushes only: they come before compactions.
  for (let round = 0; scene.writer.figures().frozenMemtables > 0; round++) {
    expect(round).toBeLessThan(100);
    scene.work();
    if (scene.jobs.waiting.some(({ kind }) => kind === 'flush')) scene.jobs.runNext();
  }
  const inputs = tables(scene);
  const usedBytes = scene.mem.usedBytes;
  scene.mem.setCapacity(usedBytes + (8 << 10));
  for (let round = 0; round < 3; round++) {
    tryAll(scene);
    scene.nowMs += 120_000;
    expect(tables(scene)).toEqual(expect.arrayContaining(inputs));
    expect(scene.difference(true)).toBeUndefined();
  }
  expect(scene.writer.figures().failedJobs).toBeGreaterThan(0);
  expect(scene.mem.usedBytes).toBeLessThanOrEqual(usedBytes + (8 << 10));
  scene.mem.setCapacity(Infinity);
  scene.compact();
  expect(scene.writer.flow().state).toBe('free');
  expect(scene.writer.counts().cells).toBe(KEYS);
  expect(tables(scene)).toHaveLength(scene.shape().reduce((sum, count) => sum + count));
  expect(scene.difference(true)).toBeUndefined();
});
