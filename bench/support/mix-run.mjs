/**
 * The mixed load: eight client threads on one B+Tree of one shard with 100,000 live keys, acknowledged in memory. Every get is checked as it is read, and
 * everything that is left at the end is read back.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { ConcordPool } from '../../dist/index.js';
import { isValueOf, keyOf, valueOf } from './mix-records.mjs';

export const MIXES = {
  '95 get / 5 set': { get: 95, delete: 0 },
  '30 get / 20 delete / 50 set': { get: 30, delete: 20 },
};
const THREADS = 8;
const LIVE_KEYS = 100_000;
const LOAD_BATCH = 1000;

/** { millionsPerSecond, hits, misses, wrong, failed, left } of one run of `operations` in all. */
export async function runMix(name, operations, seed, keys = LIVE_KEYS) {
  const directory = mkdtempSync(join(tmpdir(), 'concordkv-mix-'));
  const mix = MIXES[name];
  const db = await ConcordPool.open(directory, { shards: 1, durability: 'memory', memoryBytes: 512 << 20 });
  try {
    const space = db.space('bench', { engine: 'btree' });
    await space.ready;
    for (let from = 0; from < keys; from += LOAD_BATCH) {
      const puts = [];
      for (let id = from; id < Math.min(from + LOAD_BATCH, keys); id++)
        puts.push(space.put(keyOf(id), valueOf(id, id)));
      await Promise.all(puts);
    }
    const gate = new SharedArrayBuffer(4);
    const threads = Array.from({ length: THREADS }, (_, thread) => {
      const handle = db.handle();
      const worker = new Worker(new URL('./mix-thread.mjs', import.meta.url), {
        workerData: {
          handle,
          space: 'bench',
          thread,
          operations: Math.floor(operations / THREADS),
          keys,
          mix,
          seed,
          gate,
        },
        transferList: handle.transferList,
      });
      const next = () =>
        new Promise((resolve, reject) => {
          worker.once('message', resolve);
          worker.once('error', reject);
        });
      const ready = next();
      return { worker, ready, report: ready.then(next), ended: new Promise((resolve) => worker.once('exit', resolve)) };
    });
    await Promise.all(threads.map(({ ready }) => ready));
    Atomics.store(new Int32Array(gate), 0, 1);
    Atomics.notify(new Int32Array(gate), 0);
    const reports = await Promise.all(threads.map(({ report }) => report));
    await Promise.all(threads.map(({ ended }) => ended));
    const sum = (what) => reports.reduce((total, report) => total + report[what], 0);
    const started = Math.min(...reports.map((report) => report.started));
    const ended = Math.max(...reports.map((report) => report.ended));
    let [left, wrong] = [0, sum('wrong')];
    const ids = new Map(Array.from({ length: keys }, (_, id) => [keyOf(id), id]));
    for (const [key, value] of space.iterateSync()) {
      left++;
      if (!isValueOf(value, ids.get(key) ?? -1)) wrong++;
    }
    if (mix.delete === 0 && (left !== keys || sum('misses') > 0)) wrong += Math.abs(keys - left) + sum('misses');
    return {
      mix: name,
      operations: Math.floor(operations / THREADS) * THREADS,
      millionsPerSecond: (Math.floor(operations / THREADS) * THREADS) / (ended - started) / 1000,
      hits: sum('hits'),
      misses: sum('misses'),
      failed: sum('failed'),
      wrong,
      left,
    };
  } finally {
    await db.close();
    rmSync(directory, { recursive: true, force: true });
  }
}
