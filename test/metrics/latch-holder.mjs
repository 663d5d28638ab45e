/** Holds the latch of an arena as a writer does, for a while. */
import { parentPort, workerData } from 'node:worker_threads';
import { ArenaReader } from '../../dist/shared/memory/arena.js';

const { layout, slot, holdMs } = workerData;
const latch = new ArenaReader(layout).latch(slot);
latch.acquireWrite();
parentPort.postMessage('held');
Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, holdMs);
latch.releaseWrite();
