/**
 * A thousand lives of each engine: in one arena nothing is left behind in shared memory, and the process does not grow.
 */
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { describe, expect, test } from 'vitest';
import { publishTrees } from '../../dist/engines/btree/meta.js';
import { createEngine } from '../../dist/engines/standalone.js';
import { HEADER_UNITS } from '../../dist/shared/memory/arena.js';
import { ENGINES, EngineScene, keyOf } from './contract-scene.js';

const CYCLES = 1000;
setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as () => void;
const keys = Array.from({ length: 60 }, (_, index) => keyOf(index));
const values = Array.from({ length: 60 }, (_, index) => Buffer.alloc(index % 20 === 7 ? 6000 : index, index));

describe.each(ENGINES)('%s', (name) => {
  test('a thousand engines after each other in one arena leave nothing in shared memory', async () => {
    const scene = new EngineScene(name, { memoryBytes: 4 << 20 });
    let rssEarly = 0;
    for (let cycle = 0; cycle < CYCLES; cycle++) {
      const writer = scene.engine.openWriter(scene.arena, cycle % 3, 9, {});
      // Some die with a snapshot open, some unpublished, some empty.
      const snapshots = Float64Array.of(scene.seq);
      for (let group = 0; group < cycle % 4; group++) {
        writer.setSnapshots(snapshots, group === 2 ? 1 : 0);
        writer.beginGroup(scene.seq, group % 2 === 0);
        for (const [index, key] of keys.entries()) {
          if ((index + group) % 4 === 3) writer.del(key, 0, key.length, ++scene.seq);
          else writer.put(key, 0, key.length, values[index]!, 0, values[index]!.length, ++scene.seq, index % 5);
        }
        if (group < 2) {
          publishTrees(scene.arena, scene.seq);
          writer.endGroup();
        }
      }
      writer.destroy();
      publishTrees(scene.arena, scene.seq);
      scene.arena.reclaim();
      expect([cycle, scene.arena.usedUnits, scene.arena.retiredUnits]).toEqual([cycle, HEADER_UNITS + 1, 0]);
      if (cycle === CYCLES / 4) rssEarly = collectedBytes();
    }
    // On a busy machine memory is given back late.
    await expect.poll(() => collectedBytes() - rssEarly).toBeLessThan(24 << 20);
  });

  test('a thousand engines with an arena of their own leave no resident memory', async () => {
    const cycle = (count: number): void => {
      // Memory that is given back late is given back in pieces that the process keeps: that is not the engine's doing.
      if (count % 25 === 0) collect();
      const engine = createEngine(name, { memoryBytes: 1 << 20 });
      engine.setMany(keys.map((key, index) => [key, values[index]!]));
      engine.delete(keys[5]!);
      expect(engine.count).toBe(keys.length - 1);
      expect([...engine.iterate({ limit: 2 })]).toHaveLength(2);
      engine.destroy();
    };
    for (let count = 0; count < CYCLES / 4; count++) cycle(count);
    const early = collectedBytes();
    for (let count = 0; count < (CYCLES * 3) / 4; count++) cycle(count);
    // All of them kept would be 750 MiB reserved, and 75 MiB that were touched.
    await expect.poll(() => collectedBytes() - early).toBeLessThan(32 << 20);
  });
});

/** Resident bytes after what can be collected is. */
function collectedBytes(): number {
  for (let round = 0; round < 4; round++) collect();
  return process.memoryUsage.rss();
}
