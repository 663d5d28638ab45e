/**
 * Looks for keys that are always there, among others that come and go: each must be found, whole, whatever the lane does meanwhile. `control`: whether to
 * stop, and how many readers have read and walked.
 */
import { parentPort, workerData } from 'node:worker_threads';
import { ArenaReader } from '../../../dist/shared/memory/arena.js';
import { memtableEngine } from '../../../dist/engines/memtable/engine.js';

const { layout, slot, stableKeys, control } = workerData;
const arena = new ArenaReader(layout);
const reader = memtableEngine.openReader(arena, 0, 0, slot);
const cursor = memtableEngine.openCursor(arena, 0, 0, slot);
const keys = stableKeys.map((text) => Buffer.from(text));
let reads = 0;
let misses = 0;
let torn = 0;
let outOfOrder = 0;
let missedByWalk = 0;
let hasLooked = false;
const state = new Int32Array(control);
for (let turn = slot; Atomics.load(state, 0) === 0; turn++) {
  const metaUnit = arena.pin(slot);
  for (let count = 0; count < 50; count++) {
    const key = keys[(turn * 7919 + count * 104_729) % keys.length];
    reads++;
    if (!reader.find(metaUnit, key, key.length, Infinity, 0)) misses++;
    else if (
      reader.compareKey(key, key.length) !== 0 ||
      !reader.copyValue().toString().startsWith(`${key.toString()}=`)
    )
      torn++;
  }
  reader.release();
  if (turn % 40 === 0) {
    let last = Buffer.alloc(0);
    let stable = 0;
    for (cursor.seek(metaUnit, undefined, 0, Infinity, false, 0); cursor.valid; cursor.next()) {
      const key = Buffer.alloc(cursor.keyLength);
      cursor.copyKey(key, 0);
      if (Buffer.compare(last, key) >= 0) outOfOrder++;
      if (!cursor.copyValue().toString().startsWith(`${key.toString()}=`)) torn++;
      if (key[0] === 0x73) stable++;
      last = key;
    }
    cursor.release();
    if (stable !== keys.length) missedByWalk++;
  }
  arena.unpin(slot);
  if (!hasLooked && turn % 40 === 0) {
    hasLooked = true;
    Atomics.add(state, 1, 1);
  }
}
parentPort.postMessage({ reads, misses, torn, outOfOrder, missedByWalk });
