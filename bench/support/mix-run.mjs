/**
 * The mixed load: eight client threads on one B+Tree of one shard with 100,000 live keys, acknowledged in memory. Every get is checked as it is read, and
 * everything that is left at the end is read back. Before the clock starts the threads run a part of it on a space that is not looked at.
 *
 * Beside the rate stands what it is made of: CPU time per operation, of the clients, of the shard's thread, and of the rest (collectors, compilers,
 * the main thread), and the parts of the shard's groups. No more can come out than the cores have time for, nor more writes than the one thread of
 * the shard can apply: `bound` says how much that is.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { ConcordPool } from '../../dist/index.js';
import { isValueOf, keyOf, valueOf } from './mix-records.mjs';
import { cpuMsOfThreads } from './thread-cpu.mjs';

export const MIXES = {
  '95 get / 5 set': { get: 95, delete: 0 },
  '30 get / 20 delete / 50 set': { get: 30, delete: 20 },
};
export const THREADS = 8;
export const LIVE_KEYS = 100_000;
/** Writes of a thread that are not acknowledged, at most. */
export const IN_FLIGHT = 4096;
const LOAD_BATCH = 1000;
/** Operations per thread: what is compiled again when more is known of the types is compiled by then. */
const WARM_UP = 150_000;
const WARM_UP_SPACE = 'warm-up';

/** Sum of what a histogram of the stats holds that was added since. */
function addedUs(before, after) {
  return after.count * after.meanUs - before.count * before.meanUs;
}

/** Wall time of the shard per operation of a group, by part, µs: of the groups that are timed. */
function partsOf(before, after) {
  const groups = after.latency.apply.count - before.latency.apply.count;
  const records = groups * ((after.operations - before.operations) / (after.groups - before.groups));
  if (!(records > 0)) return undefined;
  const part = (name) => addedUs(before.latency[name], after.latency[name]) / records;
  return {
    recordsPerGroup: Math.round(records / groups),
    logUs: part('log'),
    applyUs: part('apply'),
    answerUs: part('answer'),
  };
}

/** µs per operation and the most that can come out, M/s; undefined where the system does not tell. */
function costOf(before, after, reports, processMs, operations) {
  if (reports.some(({ cpuMs, id }) => cpuMs === undefined || id === undefined)) return undefined;
  const clients = new Set(reports.map(({ id }) => id));
  const perOperation = (ms) => (ms * 1000) / operations;
  const clientUs = perOperation(reports.reduce((total, { cpuMs }) => total + cpuMs, 0));
  let shardMs = 0;
  // The busiest thread that is no client: with writes enough to matter it is the shard's.
  for (const [id, ms] of after) if (!clients.has(id)) shardMs = Math.max(shardMs, ms - (before.get(id) ?? 0));
  const shardUs = perOperation(shardMs);
  const totalUs = perOperation(processMs);
  const cores = Math.min(availableParallelism(), THREADS + 1);
  return {
    clientUs,
    shardUs,
    restUs: Math.max(0, totalUs - clientUs - shardUs),
    totalUs,
    cores,
    bound: Math.min(cores / totalUs, 1 / shardUs),
  };
}

/** { millionsPerSecond, hits, misses, wrong, failed, left, cost, parts } of one run of `operations` in all. */
export async function runMix(name, operations, seed, keys) {
  const directory = mkdtempSync(join(tmpdir(), 'concordkv-mix-'));
  const mix = MIXES[name];
  const db = await ConcordPool.open(directory, { shards: 1, durability: 'memory', memoryBytes: 512 << 20 });
  try {
    const options = { engine: 'btree', keyEncoding: 'binary', valueEncoding: 'binary' };
    const space = db.space('bench', options);
    await space.ready;
    await db.space(WARM_UP_SPACE, options).ready;
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
          warmUpSpace: WARM_UP_SPACE,
          warmUp: WARM_UP,
          thread,
          operations: Math.floor(operations / THREADS),
          keys,
          mix,
          inFlight: IN_FLIGHT,
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
    const statsBefore = db.stats().shards[0];
    const threadsBefore = cpuMsOfThreads();
    const processBefore = process.cpuUsage();
    Atomics.store(new Int32Array(gate), 0, 1);
    Atomics.notify(new Int32Array(gate), 0);
    const reports = await Promise.all(threads.map(({ report }) => report));
    const used = process.cpuUsage(processBefore);
    const threadsAfter = cpuMsOfThreads();
    const parts = partsOf(statsBefore, db.stats().shards[0]);
    await Promise.all(threads.map(({ ended }) => ended));
    const sum = (what) => reports.reduce((total, report) => total + report[what], 0);
    const started = Math.min(...reports.map((report) => report.started));
    const ended = Math.max(...reports.map((report) => report.ended));
    let [left, wrong] = [0, sum('wrong')];
    const ids = new Map(Array.from({ length: keys }, (_, id) => [keyOf(id).toString('latin1'), id]));
    for (const [key, value] of space.iterateSync()) {
      left++;
      if (!isValueOf(value, ids.get(key.toString('latin1')) ?? -1)) wrong++;
    }
    if (mix.delete === 0 && (left !== keys || sum('misses') > 0)) wrong += Math.abs(keys - left) + sum('misses');
    const done = Math.floor(operations / THREADS) * THREADS;
    return {
      mix: name,
      operations: done,
      millionsPerSecond: done / (ended - started) / 1000,
      cost: costOf(threadsBefore, threadsAfter, reports, (used.user + used.system) / 1000, done),
      parts,
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
