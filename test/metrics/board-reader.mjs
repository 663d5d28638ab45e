/** Reads the board as fast as it can until it is told to stop: the total must never fall, and be whole. */
import { parentPort, workerData } from 'node:worker_threads';
import { ControlBlock } from '../../dist/actors/control-block.js';

const { board } = new ControlBlock(workerData.sab);
let wrong = 0;
let reads = 0;
let last = 0;
let isStopped = false;
parentPort.once('message', () => {
  isStopped = true;
});
while (!isStopped) {
  for (let i = 0; i < 20; i++) {
    const total = board.usage().get(undefined).count('Gets');
    if (total < last || total % 1000 !== 0) wrong++;
    last = total;
    reads++;
  }
  if (reads === 20) parentPort.postMessage('reading');
  await new Promise((resolve) => setImmediate(resolve));
}
parentPort.postMessage({ wrong, reads, last: board.usage().get(undefined).count('Gets') });
