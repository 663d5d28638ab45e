/** Holds the latch of an arena as a writer does: until a reader waits for it, and for a while then. */
import { parentPort, workerData } from 'node:worker_threads';
import { ArenaReader } from '../../dist/shared/memory/arena.js';
import { MUTEX_WORDS } from '../../dist/shared/memory/mutex.js';

const { layout, slot, holdMs } = workerData;
/** Of the latch, see rwlock.ts: 1 when readers may be waiting. */
const KNOCKING = MUTEX_WORDS + 1;
const nobody = new Int32Array(new SharedArrayBuffer(4));
const words = new Int32Array(layout.latch);
const latch = new ArenaReader(layout).latch(slot);
latch.acquireWrite();
parentPort.postMessage('held');
while (Atomics.load(words, KNOCKING) === 0) Atomics.wait(nobody, 0, 0, 1);
Atomics.wait(nobody, 0, 0, holdMs);
latch.releaseWrite();
