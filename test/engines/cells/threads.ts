/** Readers in two threads on an engine that changes under them, in an arena so small that memory is used again and again. */
import { Worker } from 'node:worker_threads';
import '../../../dist/engines/built-in.js';
import { publishTrees } from '../../../dist/engines/btree/meta.js';
import { engineNamed, newSweep } from '../../../dist/engines/engine.js';
import { ArenaWriter, createArena } from '../../../dist/shared/memory/arena.js';
import { Random } from '../../../dist/shared/random.js';
import { expect } from '../../support/expect.js';

const DURATION_MS = Number(process.env['DURATION'] ?? 3) * 1000;
const KEYS = 3000;

export interface ThreadsOptions {
  readonly seed: number;
  readonly memoryBytes?: number;
}

export async function readWhileWriting(name: string, { seed, memoryBytes = 6 << 20 }: ThreadsOptions): Promise<void> {
  const arena = new ArenaWriter(createArena({ memoryBytes }));
  publishTrees(arena, 0);
  const writer = engineNamed(name).openWriter(arena, 0, 0, {});
  const random = new Random(seed);
  const generations = new Uint32Array(KEYS);
  let seq = 0;
  const put = (index: number): void => {
    const key = Buffer.from(`k${String(index).padStart(9, '0')}`);
    const generation = ++generations[index]!;
    const text = `${index} ${generation} ${(index * 31 + generation) % 65521} `;
    const value = Buffer.from(text.padEnd(random.chance(0.01) ? 5000 : 30 + random.below(200), '.'));
    writer.put(key, 0, key.length, value, 0, value.length, ++seq, 0);
  };
  const snapshots = new Float64Array(1);
  let open = 0;
  const group = (work: () => void): void => {
    writer.setSnapshots(snapshots, open);
    writer.beginGroup(publishedSeq, false);
    try {
      work();
    } finally {
      publishTrees(arena, seq);
      publishedSeq = seq;
      arena.reclaim();
      writer.endGroup();
    }
  };
  let publishedSeq = 0;
  group(() => {
    for (let index = 0; index < KEYS / 2; index++) put(index);
  });

  const flags = new SharedArrayBuffer(16);
  const words = new Int32Array(flags);
  const workers = [1, 2].map(
    (slot) =>
      new Worker(new URL('./self-verifying-reader.mjs', import.meta.url), {
        workerData: { layout: arena.layout, slot, keyCount: KEYS, flags, name },
      }),
  );
  const results = workers.map(
    (worker) =>
      new Promise<{ reads: number; scans: number; bad: string[] }>((resolve, reject) => {
        worker.on('message', resolve);
        worker.on('error', reject);
      }),
  );
  // Threads take long to start where others work too.
  while (Atomics.load(words, 1) < workers.length) await new Promise((resolve) => setTimeout(resolve, 5));
  let publications = 0;
  let full = 0;
  // A reader that has found something wrong ends before it is told to.
  let isOver = false;
  void Promise.race(results).then(
    () => (isOver = true),
    () => (isOver = true),
  );
  const end = performance.now() + DURATION_MS;
  // On a slow machine longer, until both have read enough of what changes.
  const isShort = (): boolean =>
    publications - full <= 300 || [1, 2].some((slot) => Atomics.load(words, 1 + slot) === 0);
  const change = (): void => {
    for (let operations = random.between(1, 60); operations > 0; operations--) {
      const index = random.below(KEYS);
      if (index >= KEYS / 2 && random.chance(0.4)) {
        const key = Buffer.from(`k${String(index).padStart(9, '0')}`);
        writer.del(key, 0, key.length, ++seq);
      } else {
        put(index);
      }
    }
  };
  try {
    while (!isOver && (performance.now() < end || isShort())) {
      if (random.chance(0.01)) {
        open = 1 - open;
        snapshots[0] = publishedSeq;
      }
      try {
        group(change);
      } catch (error) {
        // Readers may hold what the writer needs: it goes on with the next group.
        expect(error).toMatchObject({ code: 'ERR_MEMORY_FULL' });
        full++;
      }
      if (++publications % 200 === 0) {
        group(() => {
          writer.sweep(newSweep(), 100);
        });
        await new Promise((resolve) => setImmediate(resolve));
      }
    }
  } finally {
    Atomics.store(words, 0, 1);
  }
  const outcomes = await Promise.all(results);
  await Promise.all(workers.map((worker) => worker.terminate()));
  for (const { reads, scans, bad } of outcomes) {
    expect(bad).toEqual([]);
    expect(reads).toBeGreaterThan(1000);
    expect(scans).toBeGreaterThan(3);
  }
  expect(publications - full).toBeGreaterThan(300);
  // Nobody holds anything any more: there is room for every group.
  open = 0;
  for (let count = 0; count < 100; count++) group(change);
  expect(writer.check()).toEqual([]);
}
