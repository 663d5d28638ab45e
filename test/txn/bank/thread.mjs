/** A thread of tellers. workerData: { port, options }; ends when told to. */
import { parentPort, workerData } from 'node:worker_threads';
import { ConcordPool } from '../../../dist/index.js';
import { transfer } from './bank-rules.mjs';

let isOver = false;
parentPort.once('message', () => {
  isOver = true;
});
const db = await ConcordPool.attach({ port: workerData.port });
parentPort.postMessage({ ready: true });
const report = await transfer(db, { ...workerData.options, isOver: () => isOver });
await db.close();
parentPort.postMessage({ report });
