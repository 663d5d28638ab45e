/**
 * A reader of the soak: point reads and short ranges, each value judged by itself and by the generation that was settled before the read began.
 */
import { setImmediate as turn } from 'node:timers/promises';
import { parentPort, workerData } from 'node:worker_threads';
import { ConcordPool } from '../../dist/index.js';
import { generationOf, idOfKey, keyOf, randomOf } from './model.mjs';

const { handle, floors, ids, seed } = workerData;
const random = randomOf(seed);
const db = await ConcordPool.attach(handle);
let isOver = false;
parentPort.on('message', () => {
  isOver = true;
});

/** floor: of before the read; later writes may have begun or ended since. */
function judge(id, value, floor) {
  const generation = value === undefined ? 0 : generationOf(id, value);
  if (value !== undefined && generation === 0) parentPort.postMessage(`record ${id}: ${value.length} wrong bytes`);
  const isUndisturbed = Atomics.load(floors, id) === floor && floor !== 0;
  if (isUndisturbed && generation !== floor) {
    // A write between the two looks would have set the floor to 0 and then to another generation.
    parentPort.postMessage(`record ${id}: generation ${generation}, settled ${floor}`);
  }
}

while (!isOver) {
  for (let i = 0; i < 200; i++) {
    const id = random.below(ids);
    const floor = Atomics.load(floors, id);
    judge(id, db.getSync(keyOf(id)), floor);
  }
  const id = random.below(ids);
  const floor = Atomics.load(floors, id);
  judge(id, await db.get(keyOf(id)), floor);
  let before = '';
  for (const [key, value] of db.iterateSync({ gte: keyOf(random.below(ids)), limit: 20, reverse: (id & 1) === 1 })) {
    if (before !== '' && key < before !== ((id & 1) === 1)) parentPort.postMessage(`${key} behind ${before}`);
    before = key;
    if (generationOf(idOfKey(key), value) === 0) parentPort.postMessage(`range: wrong bytes at ${key}`);
  }
  await turn();
}
await db.close();
parentPort.close();
