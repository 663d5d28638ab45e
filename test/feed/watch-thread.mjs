/** A thread attached to a pool: writes, and tells what its own feed told of that. workerData: { handle, writes }. */
import { parentPort, workerData } from 'node:worker_threads';
import { ConcordPool } from '../../dist/index.js';

const { handle, writes } = workerData;
const db = await ConcordPool.attach(handle);
const feed = db.watch();
for (let i = 0; i < writes; i++) void db.put(`t${i}`, String(i));
const seen = [];
for await (const change of feed) {
  seen.push(`${change.key}=${change.value}`);
  if (seen.length === writes) break;
}
parentPort.postMessage(seen);
await db.close();
