/**
 * A reading thread of the `threads` workload: attaches to the store of its parent and reads random keys for a given time.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { parentPort, workerData } from 'node:worker_threads';
import { Histogram } from './histogram.mjs';
import { SAMPLE_EVERY } from './loops.mjs';
import { makeIds } from './random.mjs';
import { idOf, isValue, keysInOrder } from './records.mjs';

const { engineName, seed, loadedCount, handle } = workerData;
const IDS = 1 << 18;

const engine = await import(new URL(`../engines/${engineName}.mjs`, import.meta.url));
const store = await engine.attach(handle);
const idsByLabel = new Map();

parentPort.on('message', async (request) => {
  if (request === 'close') {
    await store.close();
    parentPort.postMessage('closed');
    return;
  }
  const asked = performance.now();
  const { variant, distribution, label, delayMs, durationMs } = request;
  if (!idsByLabel.has(label)) {
    idsByLabel.clear();
    const ids = makeIds(seed, label, distribution, loadedCount, IDS);
    idsByLabel.set(label, { ids, keys: keysInOrder(ids) });
  }
  await sleep(Math.max(0, delayMs - (performance.now() - asked)));
  parentPort.postMessage(readFor(variant, idsByLabel.get(label), durationMs));
});
parentPort.postMessage('ready');

function readFor(variant, { ids, keys }, durationMs) {
  const histogram = new Histogram();
  const start = performance.now();
  const deadline = start + durationMs;
  let ops = 0;
  let wrong = 0;
  let now = start;
  while (now < deadline) {
    for (let i = 1; i < SAMPLE_EVERY; i++) {
      const at = ops++ & (IDS - 1);
      const id = ids[at];
      const value = store[variant](keys[at]);
      if (!isValue(value) || idOf(value) !== id) wrong++;
    }
    const at = ops++ & (IDS - 1);
    const id = ids[at];
    const before = performance.now();
    const value = store[variant](keys[at]);
    now = performance.now();
    histogram.recordMs(now - before, SAMPLE_EVERY);
    if (!isValue(value) || idOf(value) !== id) wrong++;
  }
  return { ops, wrong, seconds: (now - start) / 1000, counts: histogram.counts };
}
