/**
 * Grows random cities, `width` at once, each city by one caller at a time. As a worker: for some time, beside the readers. As a process of its
 * own (node writing.mjs <store> <witness>): until it is killed, and everything it knows to be acknowledged goes into the witness
 * file, which is no part of the store:
 *
 *   ? <city> <revision>     about to be written        ! <city> <revision>     acknowledged durable
 *
 * A city is its number in key order. A line is handed to the operating system before the next step, so it outlives this process.
 */
import { once } from 'node:events';
import { openSync, writeSync } from 'node:fs';
import { createHistogram } from 'node:perf_hooks';
import { isMainThread, parentPort, workerData } from 'node:worker_threads';
import { fileURLToPath } from 'node:url';
import { ConcordPool } from 'concordkv';
import { grow, randomOf } from './cities.mjs';
import { allCityKeys } from './reading.mjs';

const WIDTH = 64;

async function growRandomly(db, keys, until, seed, begun, done) {
  const random = randomOf(seed);
  const busy = new Set();
  const run = async () => {
    while (!until()) {
      let city = Math.floor(random() * keys.length);
      while (busy.has(city)) city = (city + 1) % keys.length;
      busy.add(city);
      const startedMs = performance.now();
      const record = await grow(db, keys[city], (next) => begun?.(city, next.revision));
      done(city, record.revision, performance.now() - startedMs);
      busy.delete(city);
    }
  };
  await Promise.all(Array.from({ length: WIDTH }, run));
}

if (!isMainThread && workerData?.role === 'writer') {
  const db = await ConcordPool.attach(workerData.handle);
  const keys = await allCityKeys(db);
  parentPort.postMessage('ready');
  await once(parentPort, 'message');
  const histogram = createHistogram();
  const startedMs = performance.now();
  let updates = 0;
  await growRandomly(
    db,
    keys,
    () => performance.now() - startedMs >= workerData.ms,
    workerData.seed,
    undefined,
    (_city, _revision, ms) => {
      updates++;
      histogram.record(Math.max(1, Math.round(ms * 1e6)));
    },
  );
  const ms = performance.now() - startedMs;
  await db.close();
  parentPort.postMessage({
    updates,
    ms,
    p50Us: histogram.percentile(50) / 1000,
    p99Us: histogram.percentile(99) / 1000,
  });
  parentPort.close();
} else if (isMainThread && process.argv[1] === fileURLToPath(import.meta.url)) {
  const [, , directory, witnessFile] = process.argv;
  const witness = openSync(witnessFile, 'a', 0o600);
  const db = await ConcordPool.open(directory, { createIfMissing: false });
  const keys = await allCityKeys(db);
  await growRandomly(
    db,
    keys,
    () => false,
    process.pid,
    (city, revision) => writeSync(witness, `? ${city} ${revision}\n`),
    (city, revision) => writeSync(witness, `! ${city} ${revision}\n`),
  );
}
