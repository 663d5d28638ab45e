/** Readers in threads while the writer moves the list and its lane under them. */
import { Worker } from 'node:worker_threads';
import { afterEach, expect, it } from 'vitest';
import { Random } from '../../../dist/shared/random.js';
import { EngineScene, newSeed } from '../contract-scene.js';

const LOAD_MS = 3000;
/** Grown, shrunk and grown again, however little of the machine this test gets. */
const GROUPS_MIN = 180;
const workers: Worker[] = [];
afterEach(async () => {
  await Promise.all(workers.splice(0).map((worker) => worker.terminate()));
});

it('a key that is always there is found by every reader, while others around it come and go', async () => {
  const random = new Random(newSeed('memtable/threads.test.ts'));
  const scene = new EngineScene('memtable', { memoryBytes: 64 << 20 });
  // Prefixes of several lengths: blocks of the lane change theirs all the time.
  const stems = ['s', 'sa', 'sa long stem that many keys share/', 'sb'];
  const stableKeys = Array.from({ length: 2000 }, (_, index) => `${stems[index % 4]!}${index}`);
  scene.group(() => {
    for (const key of stableKeys) scene.put(Buffer.from(key), Buffer.from(`${key}=0`));
  });
  const control = new SharedArrayBuffer(8);
  const state = new Int32Array(control);
  const told = Array.from({ length: 3 }, (_, index) => {
    const worker = new Worker(new URL('./lane-reader.mjs', import.meta.url), {
      workerData: { layout: scene.layout, slot: 10 + index, stableKeys, control },
    });
    workers.push(worker);
    return new Promise<Record<string, number>>((resolve, reject) => {
      worker.once('message', resolve);
      worker.once('error', reject);
    });
  });
  // A reader that fails ends before it is told to.
  let isOver = false;
  void Promise.race(told).then(
    () => (isOver = true),
    () => (isOver = true),
  );
  const { writer } = scene;
  let seq = scene.seq;
  const put = (text: string, value: string): void => {
    const key = Buffer.from(text);
    const bytes = Buffer.from(value);
    writer.put(key, 0, key.length, bytes, 0, bytes.length, ++seq, 0);
  };
  const present: string[] = [];
  const change = (grows: boolean): void => {
    for (let count = 0; count < 100; count++) {
      const kind = random.below(10);
      if (kind === 0) {
        const key = random.pick(stableKeys);
        put(key, `${key}=${seq}`);
      } else if (grows ? kind < 8 : kind < 2) {
        // Never with the stem of a stable key at its start: the walks count those.
        const key = `${random.pick(['a', 'r', 't', 'rrrrrrrrrrrrrrrrrrrrr'])}${random.below(1e6)}`;
        present.push(key);
        put(key, `${key}=${seq}`);
      } else if (present.length > 0) {
        const index = random.below(present.length);
        const key = Buffer.from(present[index]!);
        present[index] = present.at(-1)!;
        present.pop();
        writer.del(key, 0, key.length, ++seq);
      }
    }
  };
  const started = performance.now();
  let groups = 0;
  let full = 0;
  const isShort = (): boolean => groups - full < GROUPS_MIN || Atomics.load(state, 1) < told.length;
  for (; !isOver && (performance.now() - started < LOAD_MS || isShort()); groups++) {
    scene.begin();
    try {
      change(Math.floor(groups / 60) % 2 === 0);
    } catch (error) {
      // A reader that is kept from its core may hold what the writer needs: it goes on with the next group.
      expect(error).toMatchObject({ code: 'ERR_MEMORY_FULL' });
      full++;
    }
    scene.seq = seq;
    scene.publish();
    if (groups % 20 === 0) await new Promise((resolve) => setImmediate(resolve));
  }
  Atomics.store(state, 0, 1);
  for (const result of await Promise.all(told)) {
    expect(result).toMatchObject({ misses: 0, torn: 0, outOfOrder: 0, missedByWalk: 0 });
    expect(result['reads']).toBeGreaterThan(0);
  }
  expect(writer.check()).toEqual([]);
});
