/** A thread that writes until it is told to stop. workerData: { handle, seed }. */
import { parentPort, workerData } from 'node:worker_threads';
import { ConcordPool } from '../../dist/index.js';
import { runLoad } from './load.mjs';

const { handle, seed } = workerData;
const db = await ConcordPool.attach(handle);
let isOver = false;
parentPort.once('message', () => {
  isOver = true;
});
await runLoad(db, { seed, callers: 4, isOver: () => isOver });
await db.close();
parentPort.close();
