/** A thread that hosts a pool: gives out handles on request, until it is ended from outside. workerData: { directory }. */
import { parentPort, workerData } from 'node:worker_threads';
import { ConcordPool } from '../../dist/index.js';

const db = await ConcordPool.open(workerData.directory, { shards: 2, durability: 'os', memoryBytes: 64 << 20 });
parentPort.on('message', async (message) => {
  if (message === 'close') {
    await db.close();
    parentPort.close();
    return;
  }
  const { port, transferList } = db.handle();
  parentPort.postMessage(port, transferList);
});
