/**
 * Death: a writer may die between any two lines. Its successor on the same row finds what was published, all of it and nothing else; nothing leaks, and
 * readers that were under way go on.
 */
import { Worker } from 'node:worker_threads';
import { describe, expect, test } from 'vitest';
import { publishTrees, publishedSeqOf } from '../../dist/engines/btree/meta.js';
import { engineNamed } from '../../dist/engines/engine.js';
import { markRows } from '../../dist/engines/store/space-table.js';
import { ArenaReader, ArenaWriter, createArena } from '../../dist/shared/memory/arena.js';
import { Random } from '../../dist/shared/random.js';
import { runCount } from '../support/pool-scene.js';
// @ts-expect-error a plain JavaScript helper
import { groupOf as untypedGroupOf } from './contract-death-groups.mjs';
import { randomGroup, type Operation } from './contract-operations.js';
import { ENGINES, EngineScene, expectSame, hex, newSeed } from './contract-scene.js';

const FILE = 'contract-death.test.ts';
const groupOf = untypedGroupOf as (seed: number, group: number) => Exclude<Operation, { kind: 'clear' }>[];

describe.each(ENGINES)('%s', (name) => {
  test('a successor finds what was published, whatever its predecessor had begun', () => {
    const random = new Random(newSeed(FILE));
    for (let run = 0; run < runCount(2); run++) {
      const scene = new EngineScene(name);
      for (let round = 0; round < 60; round++) {
        if (scene.snapshots.length < 3 && random.chance(0.2)) scene.snapshot();
        if (random.chance(0.15)) scene.releaseSnapshot(0);
        scene.begin();
        randomGroup(scene, random, random.pick([1, 10, 200]), { large: 0.01 });
        if (random.chance(0.5)) {
          scene.die();
          // Deaths may follow one another.
          if (random.chance(0.3)) scene.die();
          if (round % 5 === 0) scene.verify();
        } else scene.publish();
      }
      scene.verify();
    }
  });

  test('nothing leaks when writers die with unpublished work again and again', () => {
    const random = new Random(newSeed(FILE));
    const scene = new EngineScene(name, { memoryBytes: 2 << 20 });
    scene.group(() => {
      randomGroup(scene, random, 300, { large: 0 });
    });
    const used: number[] = [];
    for (let round = 0; round < 300; round++) {
      scene.begin();
      // More than a hundredth of the arena each time.
      for (let index = 0; index < 20; index++) scene.put(Buffer.from(`lost ${index}`), Buffer.alloc(2000, round));
      scene.die();
      scene.group(() => scene.del(Buffer.from('nothing')));
      scene.arena.reclaim();
      used.push(scene.arena.usedUnits);
    }
    expect(used.at(-1)!).toBeLessThanOrEqual(used[10]! + 2);
    scene.verify();
  });

  test('a reader that stands in the old state when the writer dies goes on reading it', () => {
    const scene = new EngineScene(name);
    scene.group(() => {
      for (let index = 0; index < 500; index++)
        scene.put(Buffer.from(`k${index}`), Buffer.alloc(20, index), index % 3 === 0 ? scene.nowMs + 100 : 0);
    });
    const snapshot = scene.snapshot();
    const before = scene.lines(snapshot, false);
    for (let round = 0; round < 10; round++) {
      scene.begin();
      for (let index = round; index < 500; index += 3) scene.del(Buffer.from(`k${index}`));
      for (let index = 0; index < 50; index++) scene.put(Buffer.from(`new${index}`), Buffer.alloc(round));
      if (round % 2 === 0) scene.publish();
      scene.die();
      expectSame(scene.lines(snapshot, false), before, `after death ${round}`);
      scene.verify();
    }
  });

  test('a writer thread that is terminated at any moment leaves the published state, and the next one goes on from there', async () => {
    const seed = newSeed(FILE);
    const random = new Random(seed);
    const layout = createArena({ memoryBytes: 8 << 20 });
    const engine = engineNamed(name);
    // The writers adopt: there must be something to adopt.
    const first = new ArenaWriter(layout);
    engine.openWriter(first, 0, 0, {});
    publishTrees(first, 0);
    const model = new Map<string, { value: Buffer; expiresAt: number; seq: number }>();
    const progress = new SharedArrayBuffer(4);
    const words = new Int32Array(progress);
    const slot = 3;
    let [group, seq] = [0, 0];
    for (let death = 0; death < runCount(6); death++) {
      const target = group + random.between(1, 60);
      const worker = new Worker(new URL('./contract-death-writer.mjs', import.meta.url), {
        workerData: { layout, name, seed, fromGroup: group, fromSeq: seq, progress },
      });
      const failed = new Promise<never>((_, reject) => worker.once('error', reject));
      failed.catch(() => undefined);
      while (Atomics.load(words, 0) < target) {
        const step = Atomics.waitAsync(words, 0, Atomics.load(words, 0), 10_000);
        if (step.async) await Promise.race([step.value, failed]);
      }
      if (random.chance(0.5)) await new Promise((resolve) => setTimeout(resolve, random.below(3)));
      await worker.terminate();

      const view = new ArenaReader(layout);
      ArenaReader.clearSlot(layout, slot);
      const arena = ArenaWriter.adopt(layout, markRows);
      const writer = engine.openWriter(arena, 0, 0, {});
      const publishedSeq = publishedSeqOf(view, view.published());
      while (seq < publishedSeq) {
        for (const operation of groupOf(seed, group)) {
          seq++;
          if (operation.kind === 'del') model.delete(hex(operation.key));
          else {
            const { key, value, expiresAt } = operation;
            model.set(hex(key), { value, expiresAt, seq });
          }
        }
        group++;
      }
      expect(seq).toBe(publishedSeq);
      expect(writer.check()).toEqual([]);
      expect(writer.counts().liveEntries).toBe(model.size);
      const cursor = engine.openCursor(view, 0, 0, slot);
      const expected = [...model].sort(([a], [b]) => (a < b ? -1 : 1));
      for (const reverse of [false, true]) {
        const found: [string, { value: Buffer; expiresAt: number; seq: number }][] = [];
        cursor.setRange(undefined, undefined);
        cursor.seek(view.pin(slot), undefined, 0, Infinity, reverse, 1);
        while (cursor.valid) {
          const key = Buffer.alloc(cursor.keyLength);
          cursor.copyKey(key, 0);
          found.push([hex(key), { value: cursor.copyValue(), expiresAt: cursor.expiresAt, seq: cursor.seq }]);
          if (reverse) cursor.prev();
          else cursor.next();
        }
        cursor.release();
        view.unpin(slot);
        const lineOf = ([key, entry]: (typeof found)[number]): string =>
          `${key} ${entry.seq} ${entry.expiresAt} ${entry.value.toString('latin1')}`;
        expectSame((reverse ? found.reverse() : found).map(lineOf), expected.map(lineOf), `death ${death}`);
      }
    }
    expect(group).toBeGreaterThan(20);
  });
});
