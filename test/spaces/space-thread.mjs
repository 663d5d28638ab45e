/** A thread that attaches to the pool of its workerData and runs functions it is sent: see attached.test.ts. */
import { parentPort, workerData } from 'node:worker_threads';
import { ConcordPool } from '../../dist/index.js';

const db = await ConcordPool.attach(workerData);
parentPort.on('message', async ({ source, args }) => {
  try {
    const work = new Function(`return (${source});`)();
    parentPort.postMessage({ value: await work(db, ...args) });
  } catch (error) {
    parentPort.postMessage({ error: { code: error.code, message: String(error) } });
  }
});
parentPort.postMessage({ value: 'attached' });
