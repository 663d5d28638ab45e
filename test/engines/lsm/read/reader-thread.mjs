/**
 * Reads a tree in a thread of its own until word 0 of `stop` is set: every key is always there, its value tells key and generation, and generations of a key
 * never go back. Sets the word of its own when it has read enough for a test. Tells how much it read, and the first thing that was wrong.
 */
import { parentPort, workerData } from 'node:worker_threads';
import { ArenaReader } from '../../../../dist/shared/memory/arena.js';
import { LsmCursor } from '../../../../dist/engines/lsm/read/cursor.js';
import { LsmFiles } from '../../../../dist/engines/lsm/read/files.js';
import { LsmReader } from '../../../../dist/engines/lsm/read/reader.js';

const { layout, slot, space, keys, stop, word } = workerData;
const arena = new ArenaReader(layout);
const reader = new LsmReader(arena, 0, space, slot);
const cursor = new LsmCursor(arena, 0, space, slot);
const generations = new Map();
let finds = 0;
let scans = 0;
let openFilesMost = 0;

const keyOf = (index) => Buffer.from(`key ${String(index).padStart(5, '0')}`);

function check(index, value) {
  const [key, generation, tail] = value.toString('latin1').split('/');
  if (key !== String(index)) throw new Error(`key ${index} has the value of ${key}`);
  if (tail !== 'x'.repeat((index * 7 + Number(generation)) % 200)) throw new Error(`key ${index} has a torn value`);
  const known = generations.get(index) ?? -1;
  if (Number(generation) < known) throw new Error(`key ${index} went from ${known} back to ${generation}`);
  generations.set(index, Number(generation));
}

let wrong;
try {
  parentPort.postMessage('ready');
  for (let seed = slot + 1; Atomics.load(stop, 0) === 0;) {
    if (finds > 100 && scans > 1) Atomics.store(stop, word, 1);
    for (let count = 0; count < 200; count++) {
      seed = (Math.imul(seed, 1103515245) + 12345) >>> 0;
      const index = (seed >>> 8) % keys;
      const key = keyOf(index);
      const metaUnit = arena.pin(slot);
      try {
        if (!reader.find(metaUnit, key, key.length, Infinity, 1)) throw new Error(`key ${index} is not there`);
        check(index, reader.copyValue());
        if (reader.find(metaUnit, Buffer.from(`key ${index}-`), 6, Infinity, 1))
          throw new Error('a key that never was');
      } finally {
        reader.release();
        arena.unpin(slot);
      }
      finds++;
    }
    for (const reverse of [false, true]) {
      const metaUnit = arena.pin(slot);
      try {
        let count = 0;
        let more = cursor.seek(metaUnit, undefined, 0, Infinity, reverse, 1);
        for (; more; more = reverse ? cursor.prev() : cursor.next()) {
          const index = reverse ? keys - 1 - count : count;
          if (cursor.compareKey(keyOf(index), 9) !== 0) throw new Error(`entry ${count} of a scan is another key's`);
          check(index, cursor.copyValue());
          count++;
        }
        if (count !== keys) throw new Error(`${count} of ${keys} keys`);
      } finally {
        cursor.release();
        arena.unpin(slot);
      }
      scans++;
    }
    openFilesMost = Math.max(openFilesMost, LsmFiles.of(arena, slot).openFiles);
  }
} catch (error) {
  wrong = error.stack;
}
LsmFiles.known(arena)?.close();
parentPort.postMessage({ finds, scans, wrong, openFilesMost });
