/** One reader of the engine stress test: reads until the board says it is over, judges by the rules in engines-rules.mjs, reports. */
import { parentPort, workerData } from 'node:worker_threads';
import '../../dist/engines/built-in.js';
import { engineNamed } from '../../dist/engines/engine.js';
import { ArenaReader } from '../../dist/shared/memory/arena.js';
import { makeRandom } from '../support/memory-random.mjs';
import {
  Board,
  KEY_BYTES,
  NOW_MS,
  PAIRED_KEYS,
  SNAPSHOTS,
  expiryOf,
  generationOf,
  isAbsent,
  mayBeAbsent,
  readKey,
  writeKey,
} from './engines-rules.mjs';

const { layout, name, slot, keys, memory, seed } = workerData;
const board = new Board(keys, memory);
const { announced, published } = board;
const engine = engineNamed(name);
const arena = new ArenaReader(layout);
const reader = engine.openReader(arena, 0, 0, slot);
const cursor = engine.openCursor(arena, 0, 0, slot);
const random = makeRandom(seed);
const keyBytes = Buffer.alloc(KEY_BYTES);
const highBytes = Buffer.alloc(KEY_BYTES);
const problems = [];
const counts = { reads: 0, absent: 0, pairs: 0, snapshotReads: 0, outlivedSnapshots: 0, scans: 0, snapshotScans: 0 };
/** Of each key, the newest generation this reader has seen. */
const seen = new Int32Array(keys);
const WINDOW = 40;
const floors = new Int32Array(WINDOW);
const found = new Int32Array(WINDOW);
const ABSENT = -1;

function complain(what) {
  if (problems.length < 20) problems.push(`${name}, reader ${slot}: ${what}`);
}

/** Generation under a pin of its own, ABSENT if there is none. */
function read(key, atSeq) {
  writeKey(keyBytes, key);
  const metaUnit = arena.pin(slot);
  try {
    if (!reader.find(metaUnit, keyBytes, KEY_BYTES, atSeq, NOW_MS)) return ABSENT;
    return generationAt(reader, key);
  } finally {
    reader.release();
    arena.unpin(slot);
  }
}

/** The judgement of rule 1. */
function generationAt(entry, key) {
  const value = entry.copyValue();
  const generation = generationOf(value, key);
  if (generation < 0) complain(`key ${key} holds ${value.length} bytes that are no value of it: ${head(value)}`);
  else if (isAbsent(key, generation)) complain(`key ${key} shows generation ${generation}, which is none to be seen`);
  else if (entry.expiresAt !== expiryOf(key, generation)) {
    complain(`key ${key}, generation ${generation}: expires at ${entry.expiresAt}`);
  }
  return generation;
}

function head(value) {
  return value.subarray(0, 24).toString('hex');
}

/** Rules 2 to 4. */
function judge(key, generation, least, most) {
  if (generation === ABSENT) {
    counts.absent++;
    if (!mayBeAbsent(key, least, most))
      complain(`key ${key} is absent, but its generations ${least} to ${most} are not`);
    return;
  }
  if (generation < least || generation > most) {
    complain(`key ${key} shows generation ${generation}, not one of ${least} to ${most}`);
  }
  if (generation > seen[key]) seen[key] = generation;
}

function leastOf(key) {
  return Math.max(Atomics.load(published, key), seen[key]);
}

function readOne() {
  const key = random() % keys;
  const least = leastOf(key);
  const generation = read(key, Infinity);
  judge(key, generation, least, Atomics.load(announced, key));
  counts.reads++;
}

function readPair() {
  const first = (random() % (PAIRED_KEYS / 2)) * 2;
  const [least, leastSecond] = [leastOf(first), leastOf(first + 1)];
  const one = read(first, Infinity);
  const other = read(first + 1, Infinity);
  judge(first, one, least, Atomics.load(announced, first));
  judge(first + 1, other, leastSecond, Atomics.load(announced, first + 1));
  if (other < one) complain(`pair ${first}: generation ${one}, then ${other}: a group was seen in part`);
  counts.pairs++;
}

/** What must be there at a snapshot. */
function generationAtSnapshot(index, key) {
  const generation = board.atSnapshot[index][key];
  return isAbsent(key, generation) ? ABSENT : generation;
}

function readAtSnapshot() {
  const index = random() % SNAPSHOTS;
  const id = board.snapshotId(index);
  if ((id & 1) === 0) return;
  const seq = board.snapshotSeq(index);
  for (let count = 0; count < 16; count++) {
    const key = random() % keys;
    const expected = generationAtSnapshot(index, key);
    const before = problems.length;
    const generation = read(key, seq);
    if (board.snapshotId(index) !== id) {
      counts.outlivedSnapshots++;
      problems.length = before;
      return;
    }
    if (generation !== expected) complain(`key ${key} at ${seq}: generation ${generation}, expected ${expected}`);
    counts.snapshotReads++;
  }
}

/** Fills `found` with the generations of keys [low, low + WINDOW). */
function scanWindow(low, atSeq, reverse) {
  found.fill(ABSENT);
  const high = low + WINDOW;
  writeKey(keyBytes, low);
  writeKey(highBytes, high);
  const lowBytes = Buffer.from(keyBytes);
  const metaUnit = arena.pin(slot);
  try {
    cursor.setRange(lowBytes, highBytes);
    cursor.seek(metaUnit, reverse ? highBytes : lowBytes, KEY_BYTES, atSeq, reverse, NOW_MS);
    if (reverse && cursor.valid && cursor.compareKey(highBytes, KEY_BYTES) === 0) cursor.prev();
    let last = reverse ? high : low - 1;
    while (cursor.valid) {
      if (reverse ? cursor.compareKey(lowBytes, KEY_BYTES) < 0 : cursor.compareKey(highBytes, KEY_BYTES) >= 0) break;
      cursor.copyKey(keyBytes, 0);
      const key = readKey(keyBytes);
      if (!(key >= low && key < high) || (reverse ? key >= last : key <= last)) {
        complain(`a scan of ${low} to ${high}${reverse ? ', backwards,' : ''} went from ${last} to ${key}`);
        break;
      }
      last = key;
      found[key - low] = generationAt(cursor, key);
      if (reverse) cursor.prev();
      else cursor.next();
    }
  } finally {
    cursor.release();
    arena.unpin(slot);
  }
}

function scan() {
  const low = random() % (keys - WINDOW);
  for (let index = 0; index < WINDOW; index++) floors[index] = leastOf(low + index);
  scanWindow(low, Infinity, random() % 2 === 0);
  for (let index = 0; index < WINDOW; index++) {
    judge(low + index, found[index], floors[index], Atomics.load(announced, low + index));
  }
  counts.scans++;
}

function scanAtSnapshot() {
  const index = random() % SNAPSHOTS;
  const id = board.snapshotId(index);
  if ((id & 1) === 0) return;
  const seq = board.snapshotSeq(index);
  const low = random() % (keys - WINDOW);
  for (let at = 0; at < WINDOW; at++) floors[at] = generationAtSnapshot(index, low + at);
  const before = problems.length;
  scanWindow(low, seq, random() % 2 === 0);
  if (board.snapshotId(index) !== id) {
    counts.outlivedSnapshots++;
    problems.length = before;
    return;
  }
  for (let at = 0; at < WINDOW; at++) {
    if (found[at] !== floors[at]) complain(`a scan at ${seq}: key ${low + at} is ${found[at]}, expected ${floors[at]}`);
  }
  counts.snapshotScans++;
}

/** One scan per so many rounds: an engine without order sorts all of its keys for it. */
const scanEvery = engine.isOrdered ? 8 : 1500;

parentPort.postMessage('ready');
try {
  for (let round = slot; !board.isOver && problems.length < 20; round++) {
    for (let count = 0; count < 32; count++) readOne();
    readPair();
    if (round % 4 === 0) readAtSnapshot();
    if (round % scanEvery === 0) scan();
    if (round % (scanEvery * 2) === 1) scanAtSnapshot();
  }
} catch (error) {
  complain(`${error.code ?? ''} ${error.stack}`);
}
parentPort.postMessage({ problems, counts });
