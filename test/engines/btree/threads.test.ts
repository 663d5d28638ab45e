/** Real reader threads on a tree that changes under them, in an arena small enough that every page is reused many times. */
import { Worker } from 'node:worker_threads';
import { expect, it } from 'vitest';
import { checkArena } from '../../../dist/engines/btree/check.js';
import { publishTrees } from '../../../dist/engines/btree/meta.js';
import { BTreeWriter } from '../../../dist/engines/btree/writer.js';
import { newSweep } from '../../../dist/engines/engine.js';
import { ArenaReader, ArenaWriter, createArena } from '../../../dist/shared/memory/arena.js';

const DURATION_MS = Number(process.env['DURATION'] ?? 4) * 1000;
const KEYS = 3000;

it('readers in two threads see only whole values of published states while pages are reused', async () => {
  const arena = new ArenaWriter(createArena({ memoryBytes: 6 << 20 }));
  const tree = new BTreeWriter(arena, 0, { order: 16 });
  const flags = new SharedArrayBuffer(12);
  const stop = new Int32Array(flags);
  const workers = [1, 2].map(
    (slot) =>
      new Worker(new URL('./self-verifying-reader.mjs', import.meta.url), {
        workerData: { layout: arena.layout, slot, keyCount: KEYS, flags },
      }),
  );
  const results = workers.map(
    (worker) =>
      new Promise<{ reads: number; scans: number; bad: string[] }>((resolve, reject) => {
        worker.on('message', resolve);
        worker.on('error', reject);
      }),
  );
  let seq = 0;
  let state = 2463534242;
  const random = (below: number): number => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % below;
  };
  const generations = new Uint32Array(KEYS);
  const end = performance.now() + DURATION_MS;
  let publications = 0;
  let full = 0;
  // A reader that has found something wrong ends before it is told to.
  let isOver = false;
  void Promise.race(results).then(
    () => (isOver = true),
    () => (isOver = true),
  );
  // On a slow machine longer, until both have read enough of what changes.
  const isShort = (): boolean => publications <= 500 || [1, 2].some((slot) => Atomics.load(stop, slot) === 0);
  try {
    while (!isOver && (performance.now() < end || isShort())) {
      for (let operation = 1 + random(60); operation > 0; operation--) {
        const index = random(KEYS);
        const key = Buffer.from(`k${String(index).padStart(9, '0')}`);
        seq++;
        try {
          if (random(4) === 0) {
            tree.del(key, 0, key.length, seq);
          } else {
            const generation = ++generations[index]!;
            const text = `${index} ${generation} ${(index * 31 + generation) % 65521} `;
            const value = Buffer.from(text.padEnd(random(12) === 0 ? 5000 : 30 + random(200), '.'));
            tree.put(key, 0, key.length, value, 0, value.length, seq, 0);
          }
        } catch (error) {
          // Readers may hold what the writer needs: it goes on with the next group.
          expect(error).toMatchObject({ code: 'ERR_MEMORY_FULL' });
          full++;
          break;
        }
      }
      publishTrees(arena, seq);
      publications++;
      if (publications % 500 === 0) {
        try {
          tree.sweep(newSweep(), 100);
        } catch (error) {
          // As above: nothing was changed, a later sweep goes on.
          expect(error).toMatchObject({ code: 'ERR_MEMORY_FULL' });
          full++;
        }
        await new Promise((resolve) => setImmediate(resolve));
      }
    }
  } finally {
    Atomics.store(stop, 0, 1);
  }
  const outcomes = await Promise.all(results);
  await Promise.all(workers.map((worker) => worker.terminate()));
  for (const { reads, scans, bad } of outcomes) {
    expect(bad).toEqual([]);
    expect(reads).toBeGreaterThan(1000);
    expect(scans).toBeGreaterThan(5);
  }
  expect(publications).toBeGreaterThan(500);
  expect(full).toBeLessThan(publications);
  publishTrees(arena, seq);
  arena.reclaim();
  expect(arena.retiredUnits).toBe(0);
  expect(checkArena(arena)).toEqual([]);
});

it('a reader thread that is terminated while pinned holds memory only until its slot is cleared', async () => {
  const arena = new ArenaWriter(createArena({ memoryBytes: 2 << 20 }));
  const tree = new BTreeWriter(arena, 0);
  const value = Buffer.alloc(100);
  const put = (index: number, seq: number): void => {
    const key = Buffer.from(`k${String(index).padStart(9, '0')}`);
    tree.put(key, 0, key.length, value, 0, value.length, seq, 0);
  };
  for (let index = 0; index < 1000; index++) put(index, index + 1);
  publishTrees(arena, 1000);
  const worker = new Worker(
    `const { workerData, parentPort } = require('node:worker_threads');
     import(workerData.module).then(({ ArenaReader }) => {
       new ArenaReader(workerData.layout).pin(9);
       parentPort.postMessage('pinned');
       setInterval(() => {}, 1000);
     });`,
    {
      eval: true,
      workerData: {
        layout: arena.layout,
        module: new URL('../../../dist/shared/memory/arena.js', import.meta.url).href,
      },
    },
  );
  await new Promise((resolve) => worker.once('message', resolve));
  for (let index = 0; index < 1000; index++) put(index, 1001 + index);
  publishTrees(arena, 2000);
  await worker.terminate();
  arena.reclaim();
  expect(arena.retiredUnits).toBeGreaterThan(20);
  ArenaReader.clearSlot(arena.layout, 9);
  arena.reclaim();
  expect(arena.retiredUnits).toBe(0);
  expect(checkArena(arena)).toEqual([]);
});
