/**
 * Entry of a further server thread: attaches to the pool, takes its own descriptor of the listening socket, serves until told to drain.
 * Threads: worker threads started by server.ts only.
 */
import { parentPort, workerData } from 'node:worker_threads';
import { ConcordPool } from '../../pool/concord-pool.js';
import type { PoolHandle } from '../../pool/concord-pool.js';
import { HttpCounters } from './counters.js';
import { duplicateListener } from './listener.js';
import { createLog } from './log.js';
import type { FromThread, ThreadData, ToThread } from './protocol.js';
import { Serving } from './serving.js';
import type { HttpStore } from './store.js';

const data = workerData as ThreadData<PoolHandle>;
const port = parentPort!;
const tell = (message: FromThread): void => port.postMessage(message);

const log = createLog(data.options.logLevel, data.thread);
const store: HttpStore = await ConcordPool.attach<string, Buffer>(data.handle);
const serving = new Serving({
  store,
  options: data.options,
  counters: new HttpCounters(data.counterMemory, data.thread),
  log,
  draining: false,
});
await serving.listen(await duplicateListener(data.listenerFd));
port.on('message', (message: ToThread) => {
  if (message.kind === 'configure') {
    serving.configure(message.options);
    return;
  }
  void serving.drain().then(async ({ cut }) => {
    await store.close();
    tell({ kind: 'drained', cut });
    port.close();
  });
});
tell({ kind: 'listening' });
