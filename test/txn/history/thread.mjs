/** A thread of the history tests. workerData: { port, options }. */
import { parentPort, workerData } from 'node:worker_threads';
import { ConcordPool } from '../../../dist/index.js';
import { play } from './workload.mjs';

const db = await ConcordPool.attach({ port: workerData.port });
parentPort.postMessage({ ready: true });
const report = await play(db, workerData.options);
await db.close();
parentPort.postMessage({ report });
