/** A thread with transactions of its own: does what it is told. */
import { parentPort, workerData } from 'node:worker_threads';
import { ConcordPool } from '../../../dist/index.js';

const db = await ConcordPool.attach(workerData);
const kept = [];

const calls = {
  list: () => db.transactions(),
  async hold(keys) {
    const tx = db.begin({ mode: 'pessimistic' });
    kept.push(tx);
    for (const key of keys) await tx.put(key, 'held');
  },
  put: (key, value) => db.transaction((tx) => tx.put(key, value), { mode: 'pessimistic' }),
};

parentPort.on('message', ({ number, what, args }) => {
  calls[what](...args).then(
    (result) => parentPort.postMessage({ number, result }),
    (error) => parentPort.postMessage({ number, code: error.code ?? error.message }),
  );
});
parentPort.postMessage({});
