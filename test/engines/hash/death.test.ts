/** The writer of a hash table dies between any two of its stores: its successor finds what was published, sound, and goes on. */
import { expect, test } from 'vitest';
import { publishedSeqOf } from '../../../dist/engines/btree/meta.js';
import { Random } from '../../../dist/shared/random.js';
import { killedAtStore } from '../cells/kill.js';
import { EngineScene, keyOf, newSeed } from '../contract-scene.js';
import { randomGroup } from '../contract-operations.js';

const FILE = 'hash/death.test.ts';

test('after a death at any store of a group, a publication, a prune or a sweep, all is as it was published', () => {
  const seed = newSeed(FILE);
  let deaths = 0;
  for (let round = 0; round < 3; round++) {
    for (let index = 0; ; index++) {
      // Each death on the same history, so that every store of it is met.
      const random = new Random(seed + round);
      const scene = new EngineScene('hash', { memoryBytes: 2 << 20 });
      // Around as many keys as make the first buckets split.
      const keys = 320 + 20 * round;
      scene.group(() => {
        for (let key = 0; key < keys; key++) scene.put(keyOf(key), Buffer.alloc(key % 50, key));
      });
      if (round % 2 === 1) scene.snapshot();
      scene.group(() => {
        randomGroup(scene, random, 30, { large: 0.1, keys });
      });
      const killed = killedAtStore(index, () => {
        scene.begin();
        for (let count = 0; count < 10; count++) randomGroup(scene, random, 3, { large: 0.2, keys: keys * 2 });
        scene.put(keyOf(100_000 + index), Buffer.from('new'));
      });
      scene.die();
      expect(scene.writer.check()).toEqual([]);
      scene.verify();
      scene.group(() => {
        randomGroup(scene, random, 40, { keys });
      });
      scene.verify();
      if (!killed) break;
      deaths++;
    }
  }
  expect(deaths).toBeGreaterThan(30);
});

test('a death while the group before is cleaned up loses nothing of it', () => {
  const seed = newSeed(FILE);
  let deaths = 0;
  for (let index = 0; ; index++) {
    const random = new Random(seed);
    const scene = new EngineScene('hash', { memoryBytes: 2 << 20 });
    scene.group(() => {
      randomGroup(scene, random, 200, { keys: 100, large: 0.05, clears: 0 });
    });
    scene.begin();
    randomGroup(scene, random, 60, { keys: 100, large: 0.05, clears: 0 });
    for (let key = 0; key < 30; key++) scene.del(keyOf(key));
    const before = scene.publishedSeq;
    const { writer } = scene;
    const killed = killedAtStore(index, () => {
      scene.publish();
    });
    // The meta word is what publishes: a death before it leaves the state before.
    scene.publishedSeq = publishedSeqOf(scene.arena, scene.arena.published());
    expect([before, scene.seq]).toContain(scene.publishedSeq);
    scene.die();
    expect(scene.writer).not.toBe(writer);
    scene.verify();
    if (!killed) break;
    deaths++;
  }
  expect(deaths).toBeGreaterThan(3);
});
