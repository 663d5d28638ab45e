/** Threads that read and write at once, briefly. For longer: node test/stress/stress.mjs --seconds 600. */
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { ConcordPool } from '../../dist/index.js';
import { newDirectory, removeDirectory } from '../threads/scene.js';
// @ts-expect-error a plain JavaScript helper
import { stress } from './stress.mjs';

const SECONDS = Number(process.env['STRESS_SECONDS'] ?? 6);

const ENOUGH = { writes: 6, reads: 1000, batches: 6, steps: 6, snapshots: 6, walks: 6 };

interface Report {
  problems: string[];
  counts: Record<string, number>;
  memory: { earlyBytes: number; lateBytes: number };
}

test(
  'threads under stress read whole values, their own writes, consistent snapshots and complete ranges; memory stays flat',
  async () => {
    const directory = newDirectory();
    // Something of everything must be done, or nothing is shown. Where others have the cores that takes longer.
    let lacking = Object.keys(ENOUGH);
    for (let seconds = SECONDS; lacking.length > 0; seconds *= 3) {
      expect(seconds, `too few of ${lacking.join(', ')}`).toBeLessThan(SECONDS * 10);
      const seed = Math.floor(Math.random() * 1_000_000);
      console.log(`replay: node test/stress/stress.mjs --seconds ${seconds} --seed ${seed}`);
      const place = join(directory, String(seconds));
      const { problems, counts, memory }: Report = await stress({ seconds, seed, directory: place });
      console.log(JSON.stringify({ counts, memory }));
      expect(problems).toEqual([]);
      expect(memory.lateBytes).toBeLessThan(memory.earlyBytes * 2 + (4 << 20));
      lacking = Object.entries(ENOUGH).flatMap(([what, least]) => ((counts[what] ?? 0) < least ? [what] : []));
    }
    removeDirectory(directory);
  },
  SECONDS * 13_000 + 300_000,
);

test('200,000 puts that nobody awaits all finish; memory is bounded by what the caller holds', async () => {
  const PUTS = 200_000;
  const directory = newDirectory();
  const db = await ConcordPool.open(directory, { shards: 1, durability: 'sync', memoryBytes: 256 << 20 });
  const value = 'v'.repeat(100);
  const usedBytes = (): number => {
    const { heapUsed, external } = process.memoryUsage();
    return heapUsed + external;
  };
  let queued = 0;
  // The ring takes what it has room for; the rest waits in the caller's thread. Where that one has lost its core the shard may have kept up with it.
  for (let round = 0; queued <= PUTS / 2 && round < 5; round++) {
    const before = usedBytes();
    let done = 0;
    let highest = 0;
    const puts: Promise<unknown>[] = [];
    for (let i = 0; i < PUTS; i++) puts.push(db.put(`key${i % 50_000}`, value).then(() => done++));
    const stats = db.stats();
    expect(stats.pendingCalls).toBe(PUTS);
    queued = stats.queuedCalls;
    const timer = setInterval(() => (highest = Math.max(highest, usedBytes())), 5);
    await Promise.all(puts);
    clearInterval(timer);
    expect(done).toBe(PUTS);
    expect(db.stats().pendingCalls).toBe(0);
    expect(db.stats().queuedCalls).toBe(0);
    console.log(`${Math.round((highest - before) / PUTS)} bytes per waiting put, ${db.stats().shards[0]!.syncs} syncs`);
    expect((highest - before) / PUTS).toBeLessThan(2500);
  }
  expect(queued).toBeGreaterThan(PUTS / 2);
  expect(await db.count()).toBe(50_000);
  await db.close();
  removeDirectory(directory);
});
