/** A thread that reads, and writes a little, then lets go of the pool or just ends. */
import { workerData } from 'node:worker_threads';
import { ConcordPool } from '../../dist/index.js';

const { port, control, gets, detaches } = workerData;
const db = await ConcordPool.attach({ port, control });
for (let i = 0; i < gets; i++) db.getSync(i % 2 === 0 ? 'k' : 'not there');
const space = db.space('s');
space.getSync('a');
await space.put('a', '2');
if (detaches) await db.close();
else process.exit(0);
