/** One thread of the stress test: attaches, plays its roles until told to stop, reports. workerData: { port, roles }. */
import { parentPort, workerData } from 'node:worker_threads';
import { ConcordPool } from '../../dist/index.js';
import { play } from './rules.mjs';

let isOver = false;
parentPort.once('message', () => {
  isOver = true;
});
const db = await ConcordPool.attach({ port: workerData.port });
parentPort.postMessage({ playing: true });
const report = await play(db, workerData.roles, () => isOver);
await db.close();
parentPort.postMessage({ report });
