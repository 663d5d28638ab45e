/**
 * Reads an engine from its own thread while the test writes: every value holds its key, a generation and a checksum over both, so a value that was
 * written over under a reader's feet cannot pass. What was read of a key once must not go back to an older generation, and keys of the lower
 * half, which are never deleted, must not be missing. Posts { reads, scans, bad } when told to stop; `flags`: whether to stop, how many readers have
 * begun, and for each slot whether its reader has seen enough for a test.
 */
import { parentPort, workerData } from 'node:worker_threads';
import '../../../dist/engines/built-in.js';
import { publishedSeqOf } from '../../../dist/engines/btree/meta.js';
import { engineNamed } from '../../../dist/engines/engine.js';
import { ArenaReader } from '../../../dist/shared/memory/arena.js';

const { layout, slot, keyCount, flags, name } = workerData;
const stop = new Int32Array(flags);
const arena = new ArenaReader(layout);
const engine = engineNamed(name);
const find = engine.openReader(arena, 0, 0, slot);
const cursor = engine.openCursor(arena, 0, 0, slot);
const bad = [];
let reads = 0;
let scans = 0;
let state = 88172645 + slot;
const random = () => {
  state ^= state << 13;
  state ^= state >>> 17;
  state ^= state << 5;
  return state >>> 0;
};

/** value = 'index generation sum padding'; sum = (index * 31 + generation) % 65521. */
function verify(index, value) {
  const [ownIndex, generation, sum] = value.toString('latin1').split(' ', 3).map(Number);
  if (ownIndex !== index || sum !== (index * 31 + generation) % 65521)
    bad.push(`key ${index}: ${value.toString('latin1', 0, 40)}`);
  return generation;
}

const key = Buffer.alloc(16);
const keyOf = (index) => key.write(`k${String(index).padStart(9, '0')}`, 0, 'latin1');
const newest = new Map();

function point(meta) {
  const index = random() % keyCount;
  if (!find.find(meta, key, keyOf(index), Infinity, 0)) {
    if (index < keyCount / 2) bad.push(`key ${index} is missing`);
    return;
  }
  const generation = verify(index, find.copyValue());
  if (generation < (newest.get(index) ?? 0)) bad.push(`key ${index} went back to generation ${generation}`);
  newest.set(index, generation);
  reads++;
}

function scan(meta) {
  const reverse = random() % 2 === 0;
  let before = -1;
  let lower = 0;
  let entries = 0;
  let more = cursor.seek(meta, undefined, 0, Infinity, reverse, 0);
  for (; more; more = reverse ? cursor.prev() : cursor.next()) {
    const length = cursor.copyKey(key, 0);
    const index = Number(key.toString('latin1', 1, length));
    if (entries++ > 0 && (reverse ? index >= before : index <= before)) bad.push(`${index} after ${before}`);
    before = index;
    if (index < keyCount / 2) lower++;
    if (entries % 16 === 0) verify(index, cursor.copyValue());
  }
  if (lower !== Math.ceil(keyCount / 2)) bad.push(`${lower} of the keys that are never deleted`);
  scans++;
}

Atomics.add(stop, 1, 1);
while (Atomics.load(stop, 0) === 0 && bad.length === 0) {
  const meta = arena.pin(slot);
  try {
    // The test publishes the lower half before anything else.
    if (publishedSeqOf(arena, meta) > 0) {
      for (let turn = 0; turn < 50; turn++) point(meta);
      if (random() % 20 === 0) scan(meta);
    }
    if (reads > 1000 && scans > 3) Atomics.store(stop, 1 + slot, 1);
  } catch (error) {
    bad.push(String(error?.stack ?? error));
  } finally {
    find.release();
    cursor.release();
    arena.unpin(slot);
  }
}
parentPort.postMessage({ reads, scans, bad: bad.slice(0, 5) });
