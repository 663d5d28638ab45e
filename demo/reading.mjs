/**
 * Reads random cities for some time and checks each: in the main thread in slices, so that its event loop lives on, in a worker the same way.
 * Every 16th read is timed. Started as a worker it attaches to the pool, reports when it is ready, and begins when told.
 */
import { once } from 'node:events';
import { createHistogram } from 'node:perf_hooks';
import { isMainThread, parentPort, workerData } from 'node:worker_threads';
import { ConcordPool } from 'concordkv';
import { problemOf, randomOf } from './cities.mjs';

const SLICE_READS = 512;
const TIMED_MASK = 15;

export async function readRandomly(db, keys, ms, seed) {
  const random = randomOf(seed);
  const histogram = createHistogram();
  const startedMs = performance.now();
  const endMs = startedMs + ms;
  let reads = 0;
  let changed = 0;
  let nowMs = startedMs;
  while (nowMs < endMs) {
    for (let slice = 0; slice < SLICE_READS; slice++) {
      const key = keys[Math.floor(random() * keys.length)];
      let record;
      if ((reads++ & TIMED_MASK) === 0) {
        const begunMs = performance.now();
        record = db.getSync(key);
        histogram.record(Math.max(1, Math.round((performance.now() - begunMs) * 1e6)));
      } else record = db.getSync(key);
      const problem = problemOf(key, record);
      if (problem) throw new Error(`${JSON.stringify(key)} ${problem}`);
      if (record.revision > 0) changed++;
    }
    await new Promise((resolve) => setImmediate(resolve));
    nowMs = performance.now();
  }
  return {
    reads,
    changed,
    ms: nowMs - startedMs,
    p50Us: histogram.percentile(50) / 1000,
    p99Us: histogram.percentile(99) / 1000,
  };
}

export async function allCityKeys(db) {
  const keys = [];
  for await (const key of db.keys({ prefix: ['city'] })) keys.push(key);
  return keys;
}

if (!isMainThread && workerData?.role === 'reader') {
  const db = await ConcordPool.attach(workerData.handle);
  const keys = await allCityKeys(db);
  parentPort.postMessage('ready');
  await once(parentPort, 'message');
  const result = await readRandomly(db, keys, workerData.ms, workerData.seed);
  await db.close();
  parentPort.postMessage(result);
  parentPort.close();
}
