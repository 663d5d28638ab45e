/** A shard whose LSM-Tree cannot go on waits, rather than ask again and again. */
import { expect, test } from 'vitest';
import { Random } from '../../../../dist/shared/random.js';
import { LsmScene } from './scene.js';

const VALUE = 'v'.repeat(300);

function fill(scene: LsmScene, from: number, to: number): void {
  for (let index = from; index < to; index += 50) {
    scene.commit(
      Array.from({ length: 50 }, (_, i) => ({ kind: 'put' as const, key: `key-${index + i}`, value: VALUE })),
    );
  }
}

/** All that can be done now is done. */
function rest(scene: LsmScene): void {
  for (let round = 0; round < 1000; round++) {
    scene.work();
    if (scene.jobs.runNext() || scene.store.hasWork) continue;
    if (scene.store.workDueAtMs > scene.nowMs) return;
  }
  throw new Error(`there is no end of work: ${JSON.stringify(scene.describe())}`);
}

test('while the disk is full the shard has nothing to do until the next attempt', () => {
  const scene = new LsmScene({ memoryBytes: 4 << 20 });
  fill(scene, 0, 1500);
  scene.flush();
  fill(scene, 500, 2000);
  scene.work();
  // All memtables are in tables; what compactions have done cannot be noted any more.
  while (scene.writer.figures().frozenMemtables > 0) {
    scene.jobs.runNext();
    scene.work();
  }
  scene.env.fillDisk(/lsm-/);
  for (let round = 0; round < 200; round++) {
    rest(scene);
    scene.nowMs += 170;
  }
  expect(scene.writer.figures().failedJobs).toBeGreaterThan(0);
  scene.env.freeDisk();
  scene.settle();
  expect(scene.difference()).toBeUndefined();
});

test('a successor that cannot write to the manifest waits too, with files of before to be removed', () => {
  const scene = new LsmScene();
  fill(scene, 0, 1500);
  scene.flush();
  fill(scene, 500, 2000);
  scene.adopt(new Random(1));
  scene.env.fillDisk(/MANIFEST/);
  scene.view.pin(9);
  for (let round = 0; round < 50; round++) {
    rest(scene);
    if (round === 5) scene.view.unpin(9);
    scene.nowMs += 170;
  }
  scene.env.freeDisk();
  scene.settle();
  expect(scene.difference()).toBeUndefined();
});

test('attempts to begin a tree on a full disk leave no directories behind', () => {
  const scene = new LsmScene({ memoryBytes: 4 << 20 });
  scene.env.fillDisk(/lsm-\d+.(MANIFEST|CURRENT)/);
  fill(scene, 0, 1000);
  for (let round = 0; round < 20; round++) {
    rest(scene);
    scene.nowMs += 20_000;
  }
  expect(scene.directories().length).toBeLessThanOrEqual(1);
  scene.env.freeDisk();
  scene.settle();
  expect(scene.directories()).toEqual([`lsm-${scene.writer.tree}`]);
  expect(scene.difference(true)).toBeUndefined();
});
