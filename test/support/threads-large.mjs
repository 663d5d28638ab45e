/** Puts large values one after another and watches its own event loop. workerData: { port, valueBytes, count }. */
import { parentPort, workerData } from 'node:worker_threads';
import { ConcordPool } from '../../dist/index.js';

const { port, valueBytes, count } = workerData;
const db = await ConcordPool.attach({ port });
const values = Array.from({ length: count }, (_, i) => Buffer.alloc(valueBytes, 97 + i));

let turns = 0;
let longestTurnMs = 0;
let last = performance.now();
const timer = setInterval(() => {
  const now = performance.now();
  longestTurnMs = Math.max(longestTurnMs, now - last);
  last = now;
  turns++;
}, 1);

parentPort.postMessage('ready');
await new Promise((resolve) => parentPort.once('message', resolve));
last = performance.now();
const started = last;
for (const [i, value] of values.entries()) await db.put(`large${i}`, value);
const putMs = performance.now() - started;
const putLongestTurnMs = longestTurnMs;
longestTurnMs = 0;
last = performance.now();
let isRight = true;
const readStarted = last;
for (let i = 0; i < count; i++) {
  const value = await db.get(`large${i}`);
  isRight &&= value.length === valueBytes && value[0] === 97 + i && value[valueBytes - 1] === 97 + i;
}
const getMs = performance.now() - readStarted;
clearInterval(timer);
parentPort.postMessage({ putMs, putLongestTurnMs, getMs, getLongestTurnMs: longestTurnMs, turns, isRight });
await db.close();
