/** What readers meet that costs them time: told to who observes them. */
import { Worker } from 'node:worker_threads';
import { expect, test } from 'vitest';
import { forgetReads, observeReads } from '../../dist/engines/cells/read-events.js';
import { engineNamed } from '../../dist/engines/engine.js';
import { createEngine } from '../../dist/engines/standalone.js';
import { ArenaReader } from '../../dist/shared/memory/arena.js';

const READER_SLOT = 2;
const KEY = Buffer.from('key');

function observed(): { retries: number; waitsMs: number[]; retried(): void; waitedForLatch(forMs: number): void } {
  return {
    retries: 0,
    waitsMs: [],
    retried() {
      this.retries++;
    },
    waitedForLatch(forMs) {
      this.waitsMs.push(forMs);
    },
  };
}

test('a reader that meets only a version newer than its publication begins again, and tells', () => {
  for (const name of ['hash', 'rbtree', 'array', 'memtable']) {
    const engine = createEngine(name, { memoryBytes: 4 << 20 });
    const arena = new ArenaReader(engine.layout);
    const events = observed();
    observeReads(arena, 0, events);
    const reader = engineNamed(name).openReader(arena, 0, 0, READER_SLOT);
    engine.set(KEY, Buffer.from('1'));
    const metaUnit = arena.pin(READER_SLOT);
    expect(reader.find(metaUnit, KEY, KEY.length, Infinity, 0)).toBe(true);
    reader.release();
    expect(events.retries).toBe(0);
    // Nobody needs the first version.
    engine.set(KEY, Buffer.from('2'));
    expect(reader.find(metaUnit, KEY, KEY.length, Infinity, 0)).toBe(true);
    expect(reader.valueUtf8()).toBe('2');
    reader.release();
    arena.unpin(READER_SLOT);
    expect(events).toMatchObject({ retries: 1, waitsMs: [] });
    engine.destroy();
  }
});

test('a reader that waits for a writer tells how long', async () => {
  const engine = createEngine('rbtree', { memoryBytes: 4 << 20 });
  engine.set(KEY, Buffer.from('1'));
  const arena = new ArenaReader(engine.layout);
  const events = observed();
  observeReads(arena, 0, events);
  const reader = engineNamed('rbtree').openReader(arena, 0, 0, READER_SLOT);
  const unobserved = engineNamed('rbtree').openReader(new ArenaReader(engine.layout), 0, 0, READER_SLOT + 1);
  const worker = new Worker(new URL('./latch-holder.mjs', import.meta.url), {
    workerData: { layout: engine.layout, slot: 3, holdMs: 50 },
  });
  await new Promise((resolve, reject) => worker.once('message', resolve).once('error', reject));
  const metaUnit = arena.pin(READER_SLOT);
  expect(reader.find(metaUnit, KEY, KEY.length, Infinity, 0)).toBe(true);
  reader.release();
  expect(events.waitsMs).toHaveLength(1);
  expect(events.waitsMs[0]).toBeGreaterThan(20);
  expect(reader.find(metaUnit, KEY, KEY.length, Infinity, 0)).toBe(true);
  reader.release();
  expect(unobserved.find(metaUnit, KEY, KEY.length, Infinity, 0)).toBe(true);
  unobserved.release();
  arena.unpin(READER_SLOT);
  expect(events.waitsMs).toHaveLength(1);
  forgetReads(arena, 0);
  await worker.terminate();
  engine.destroy();
});
