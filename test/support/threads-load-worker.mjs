/** A Load in a thread of its own. Any message ends it, see Load.stop(); 'running' and { report } come back. */
import { parentPort, workerData } from 'node:worker_threads';
import { ConcordPool } from '../../dist/index.js';
import { Load } from './threads-load.mjs';

const db = await ConcordPool.attach({ port: workerData.port });
const load = new Load(db, workerData.load);
parentPort.once('message', (least) => load.stop(least));
const running = load.run();
parentPort.postMessage('running');
await running;
load.verify();
parentPort.postMessage({ report: load.report });
await db.close();
