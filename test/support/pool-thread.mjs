/**
 * A thread that attaches to a pool and does what it is told, one message after another: { do, … } in, { result } or { code, message } out.
 */
import { parentPort, workerData } from 'node:worker_threads';
import { ConcordPool } from '../../dist/index.js';

const scenes = {
  async put({ key, value }) {
    return await db.put(key, value);
  },
  get: ({ key }) => db.getSync(key),
  async puts({ from, count }) {
    await Promise.all(Array.from({ length: count }, (_, i) => db.put(`t${from + i}`, `value ${from + i}`)));
  },
  async add({ key, times }) {
    for (let i = 0; i < times; i++) await db.update(key, (old) => String(Number(old ?? 0) + 1));
  },
  entries: () => [...db.iterateSync()],
  async snapshotEntries() {
    const snapshot = await db.snapshot();
    const entries = await snapshot.iterator().all();
    await snapshot.close();
    return entries;
  },
  compact: () => db.compact(),
  checkpoint: ({ directory }) => db.checkpoint(directory),
  stats: () => db.stats(),
  facts: () => ({ directory: db.directory, recovery: db.recovery, host: db.host }),
  /** A handle for a third thread, made by an attached one. */
  handle() {
    const { port, transferList } = db.handle();
    parentPort.postMessage({ result: { port } }, [...transferList]);
  },
  close: () => db.close(),
};

// A thread may come late.
if (workerData.waitFor !== undefined) Atomics.wait(workerData.waitFor, 0, 0);
let db;
try {
  db = await ConcordPool.attach(workerData.handle);
} catch (error) {
  parentPort.postMessage({ code: error.code, message: error.message });
  process.exit(0);
}
parentPort.postMessage({ result: 'attached' });
parentPort.on('message', async (message) => {
  try {
    const result = await scenes[message.do](message);
    if (message.do !== 'handle') parentPort.postMessage({ result });
  } catch (error) {
    parentPort.postMessage({ code: error.code, message: error.message });
  }
  if (message.do === 'close') parentPort.close();
});
