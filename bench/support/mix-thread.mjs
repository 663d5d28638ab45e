/**
 * One client thread of the mixed load of bench/engines.mjs: attaches to the pool, prepares its operations, runs some of them on another space until they
 * are compiled, waits for the start, runs them with a bounded number of writes in flight, and reports.
 * workerData: { handle, space, warmUpSpace, thread, operations, warmUp, keys, mix, inFlight, seed, gate }.
 */
import { parentPort, workerData } from 'node:worker_threads';
import { ConcordPool } from '../../dist/index.js';
import { isValueOf, keyOf, valueOf } from './mix-records.mjs';
import { Random } from './random.mjs';
import { ownCpuMs, ownThreadId } from './thread-cpu.mjs';

const GET = 0;
const DELETE = 1;
const SET = 2;
/** When as many writes as may be are not acknowledged, the oldest of these parts of them is waited for. */
const PARTS = 8;

const { handle, space, warmUpSpace, thread, operations, warmUp, keys, mix, inFlight, seed, gate } = workerData;
const db = await ConcordPool.attach(handle);

const random = new Random(seed, `mix ${thread}`);
const kinds = new Uint8Array(operations);
const ids = new Uint32Array(operations);
for (let index = 0; index < operations; index++) {
  const draw = random.below(100);
  kinds[index] = draw < mix.get ? GET : draw < mix.get + mix.delete ? DELETE : SET;
  ids[index] = random.below(keys);
}
const counts = { hits: 0, misses: 0, wrong: 0, failed: 0 };
// A call that nobody waits for and that fails ends here: a handler for each would cost as much as the call.
process.on('unhandledRejection', () => {
  counts.failed++;
});

async function run(target, from, to) {
  const parts = [];
  let inPart = 0;
  let last;
  for (let index = from; index < to; index++) {
    const kind = kinds[index];
    const id = ids[index];
    const key = keyOf(id);
    if (kind === GET) {
      const value = target.getSync(key);
      if (value === undefined) counts.misses++;
      else if (isValueOf(value, id)) counts.hits++;
      else counts.wrong++;
      continue;
    }
    // The key's memory is used again: the call has copied it. Calls of a thread are answered in their order: waiting for one is waiting for all before it.
    last = kind === SET ? target.put(key, valueOf(id, index)) : target.del(key);
    if (++inPart >= inFlight / PARTS) {
      inPart = 0;
      if (parts.push(last) === PARTS) await parts.shift();
    }
  }
  await last;
}

// Each thread compiles for itself, and the load is over in two seconds: without this a third of it would be a test of the compiler.
await run(db.space(warmUpSpace), 0, Math.min(warmUp, operations));
for (const what of Object.keys(counts)) counts[what] = 0;

parentPort.postMessage('ready');
Atomics.wait(new Int32Array(gate), 0, 0);
const cpuBeforeMs = ownCpuMs();
const started = performance.timeOrigin + performance.now();
await run(db.space(space), 0, operations);
const ended = performance.timeOrigin + performance.now();
const cpuMs = cpuBeforeMs === undefined ? undefined : ownCpuMs() - cpuBeforeMs;
parentPort.postMessage({ ...counts, started, ended, cpuMs, id: ownThreadId() });
await db.close();
