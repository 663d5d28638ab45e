/**
 * Reads a tree from its own thread while the test writes: every value holds its key, a generation and a checksum over both, so a
 * value that was overwritten under a reader's feet cannot pass. Posts { reads, scans, bad } when told to stop; `flags`: whether to stop, and for each slot
 * whether its reader has seen enough for a test.
 */
import { parentPort, workerData } from 'node:worker_threads';
import { ArenaReader } from '../../../dist/shared/memory/arena.js';
import { BTreeCursor } from '../../../dist/engines/btree/cursor.js';
import { publishedSeqOf } from '../../../dist/engines/btree/meta.js';
import { BTreeReader } from '../../../dist/engines/btree/reader.js';

const { layout, slot, keyCount, flags } = workerData;
const stop = new Int32Array(flags);
const arena = new ArenaReader(layout);
const find = new BTreeReader(arena, 0, 0);
const cursor = new BTreeCursor(arena, 0, 0);
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
let lastSeq = 0;

while (Atomics.load(stop, 0) === 0 && bad.length === 0) {
  const meta = arena.pin(slot);
  try {
    const seq = publishedSeqOf(arena, meta);
    if (seq < lastSeq) bad.push(`published seq went back from ${lastSeq} to ${seq}`);
    lastSeq = seq;
    for (let turn = 0; turn < 50; turn++) {
      const index = random() % keyCount;
      if (!find.find(meta, key, keyOf(index), Infinity, 0)) continue;
      const generation = verify(index, find.copyValue());
      if (generation < (newest.get(index) ?? 0)) bad.push(`key ${index} went back to generation ${generation}`);
      newest.set(index, generation);
      reads++;
    }
    if (random() % 20 === 0) {
      let before = -1;
      const reverse = random() % 2 === 0;
      let entries = 0;
      let more = cursor.seek(meta, undefined, 0, Infinity, reverse, 0);
      for (; more; more = reverse ? cursor.prev() : cursor.next()) {
        const length = cursor.copyKey(key, 0);
        const index = Number(key.toString('latin1', 1, length));
        if (before >= 0 && (reverse ? index >= before : index <= before))
          bad.push(`scan went from ${before} to ${index}`);
        before = index;
        verify(index, cursor.copyValue());
        if (++entries > 2000) break;
      }
      scans++;
    }
    if (reads > 1000 && scans > 5) Atomics.store(stop, slot, 1);
  } catch (error) {
    bad.push(String(error));
  }
  arena.unpin(slot);
}
parentPort.postMessage({ reads, scans, bad });
