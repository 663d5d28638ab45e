// A thread that reads a store larger than its memory until told to stop, every key once at least: values prove themselves, and never go back.
import { parentPort, workerData } from 'node:worker_threads';
import { ConcordPool } from '../../../dist/index.js';
import { Random } from '../../../dist/shared/random.js';

const { port, count, seed } = workerData;
const db = await ConcordPool.attach({ port });
const random = new Random(seed);
const seen = new Uint32Array(count);
const problems = [];
let reads = 0;
let scanned = 0;
let stopping = false;
parentPort.on('message', () => (stopping = true));

const keyOf = (n) => `user${String(n).padStart(10, '0')}`;

function judge(n, value) {
  if (value === undefined) return problems.push(`${n} is missing`);
  const generation = value.readUInt32LE(4);
  if (value.readUInt32LE(0) !== n) problems.push(`${n} has the value of ${value.readUInt32LE(0)}`);
  if (generation < seen[n]) problems.push(`${n} went from ${seen[n]} back to ${generation}`);
  seen[n] = generation;
  const byte = (n * 31 + generation * 7) & 0xff;
  for (let at = 8; at < value.length; at++) if (value[at] !== byte) return problems.push(`${n} is torn at ${at}`);
}

while ((!stopping || reads <= 500 || scanned <= count) && problems.length < 10) {
  for (let i = 0; i < 200; i++) {
    const n = random.below(count);
    judge(n, db.getSync(keyOf(n)));
    reads++;
  }
  let next = random.below(count);
  const end = Math.min(count, next + 1000);
  for (const [key, value] of db.iterateSync({ gte: keyOf(next), lt: keyOf(end) })) {
    if (key !== keyOf(next)) problems.push(`${key} instead of ${keyOf(next)}`);
    judge(next, value);
    next++;
    scanned++;
  }
  if (next !== end) problems.push(`a scan ended at ${next} instead of ${end}`);
  await new Promise((resolve) => setImmediate(resolve));
}
await db.close();
parentPort.postMessage({ reads, scanned, problems });
parentPort.close();
