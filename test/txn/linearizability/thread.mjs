/** A thread of callers. workerData: { port, options }. */
import { parentPort, workerData } from 'node:worker_threads';
import { ConcordPool } from '../../../dist/index.js';
import { call } from './callers.mjs';

const db = await ConcordPool.attach({ port: workerData.port });
parentPort.postMessage({ ready: true });
const report = await call(db, workerData.options);
await db.close();
parentPort.postMessage({ report });
