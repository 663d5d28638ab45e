/** A thread that writes to another space than the stopped one, and tells when it has. */
import { parentPort, workerData } from 'node:worker_threads';
import { ConcordPool } from '../../dist/index.js';

const db = await ConcordPool.attach(workerData.handle);
const other = db.space('other', { engine: 'btree' });
await other.ready;
for (let i = 0; i < 20; i++) await other.put(`key${i}`, 'value');
parentPort.postMessage('written');
await db.close();
