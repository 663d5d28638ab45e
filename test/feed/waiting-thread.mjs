/** A thread attached to a pool: says when its feed waits, and waits for ever. workerData: { handle }. */
import { parentPort, workerData } from 'node:worker_threads';
import { ConcordPool } from '../../dist/index.js';

const db = await ConcordPool.attach(workerData.handle);
const next = db.watch().next();
parentPort.postMessage('watches');
await next;
