/**
 * Reads an engine whose pages hold anything. In a thread of its own, so that an endless walk can be told from a long one: the case's number is counted up in
 * shared memory. workerData: { name, seed, cases, progress }. Posts { problems, corrupt, answered } at the end.
 */
import { parentPort, workerData } from 'node:worker_threads';
import '../../dist/engines/built-in.js';
import { publishTrees } from '../../dist/engines/btree/meta.js';
import { engineNamed } from '../../dist/engines/engine.js';
import { ConcordError } from '../../dist/shared/errors.js';
import { ArenaReader, ArenaWriter, createArena } from '../../dist/shared/memory/arena.js';
import { Random } from '../../dist/shared/random.js';

const { name, seed, cases, progress } = workerData;
const KEYS = 500;
const SLOT = 1;
const NOW_MS = 1_000_000;
/** No arena of this size holds more entries than that, whatever its bytes say. */
const ENTRIES_MAX = 300_000;
const UNIT_BYTES = 4096;

const words = new Int32Array(progress);
const random = new Random(seed);
const layout = createArena({ memoryBytes: 2 << 20 });
const arena = new ArenaWriter(layout);
const engine = engineNamed(name);
const writer = engine.openWriter(arena, 0, 0, {});
const keyOf = (index) => Buffer.from(`key ${String(index).padStart(6, '0')}`);

// Values of all kinds, and versions that a snapshot keeps.
let seq = 0;
function group(snapshots, step, valueOf) {
  writer.setSnapshots(Float64Array.from(snapshots), snapshots.length);
  writer.beginGroup(seq, true);
  for (let index = 0; index < KEYS; index += step) {
    const key = keyOf(index);
    const value = valueOf(index);
    if (value === undefined) writer.del(key, 0, key.length, ++seq);
    else writer.put(key, 0, key.length, value, 0, value.length, ++seq, index % 5 === 0 ? NOW_MS + 5 : 0);
  }
  publishTrees(arena, seq);
  writer.endGroup();
}
group([], 1, (index) => Buffer.alloc(index % 100 === 50 ? 12_000 : index % 60, index));
const snapshot = seq;
group([snapshot], 4, () => Buffer.from('second'));
group([snapshot], 7, () => undefined);

const view = new ArenaReader(layout);
const reader = engine.openReader(view, 0, 0, SLOT);
const cursor = engine.openCursor(view, 0, 0, SLOT);
const metaUnit = view.published();
const pages = [];
engine.mark(view, metaUnit, 0, (unit, units) => pages.push({ unit, units }));
const memory = Buffer.from(layout.segments[0]);
const clean = Buffer.from(memory);

const problems = [];
const counts = { corrupt: 0, answered: 0 };
let title = '';

/** Runs it; anything but an answer or ERR_CORRUPT is a problem. */
function orCorrupt(what, read) {
  view.pin(SLOT);
  try {
    read();
    counts.answered++;
  } catch (error) {
    if (error instanceof ConcordError && error.code === 'ERR_CORRUPT') counts.corrupt++;
    else if (problems.length < 10) problems.push(`${title}, ${what}: ${error.stack}`);
  } finally {
    reader.release();
    cursor.release();
    view.unpin(SLOT);
  }
}

const keyBytes = Buffer.alloc(4096);

function readEverything() {
  for (const atSeq of [Infinity, snapshot]) {
    for (let index = random.below(11); index < KEYS + 20; index += 11) {
      orCorrupt('find', () => {
        const key = keyOf(index);
        if (reader.find(metaUnit, key, key.length, atSeq, NOW_MS)) reader.copyValue();
      });
    }
    for (const reverse of [false, true]) {
      orCorrupt(reverse ? 'a scan backwards' : 'a scan', () => {
        cursor.setRange(undefined, undefined);
        let entries = 0;
        for (
          let more = cursor.seek(metaUnit, undefined, 0, atSeq, reverse, NOW_MS);
          more;
          more = reverse ? cursor.prev() : cursor.next()
        ) {
          if (cursor.keyLength <= keyBytes.length) cursor.copyKey(keyBytes, 0);
          if (entries % 16 === 0) cursor.copyValue();
          if (++entries > ENTRIES_MAX) throw new Error(`${entries} entries`);
        }
      });
    }
    orCorrupt('a seek', () => {
      const key = keyOf(random.below(KEYS));
      cursor.setRange(undefined, undefined);
      if (cursor.seek(metaUnit, key, key.length, atSeq, random.chance(0.5), NOW_MS)) cursor.valueUtf8();
    });
  }
  orCorrupt('mark', () => {
    engine.mark(view, metaUnit, 0, () => undefined);
  });
}

/** Words that lead somewhere: what pages hold at the places of links. */
function someWord() {
  const { unit, units } = random.pick(pages);
  return memory.readUInt32LE(unit * UNIT_BYTES + random.below(units * (UNIT_BYTES / 4)) * 4);
}

function damage() {
  const kind = random.below(4);
  const page = random.pick(pages);
  const at = page.unit * UNIT_BYTES;
  const bytes = page.units * UNIT_BYTES;
  if (kind === 0) {
    title = 'a few bytes';
    for (let count = random.between(1, 8); count > 0; count--) {
      const other = random.pick(pages);
      const offset = random.chance(0.5) ? random.below(320) : random.below(other.units * UNIT_BYTES);
      memory[other.unit * UNIT_BYTES + offset] = random.nextU32();
    }
  } else if (kind === 1) {
    title = 'a page of noise';
    const from = random.pick([0, 4, 24]);
    memory.set(random.bytes(bytes - from), at + from);
  } else if (kind === 2) {
    title = 'words from elsewhere';
    for (let count = random.between(1, 40); count > 0; count--) {
      const other = random.pick(pages);
      const word = random.chance(0.5)
        ? someWord()
        : random.pick(pages).unit * (random.chance(0.5) ? 1 : 512) + random.below(512);
      memory.writeUInt32LE(word >>> 0, other.unit * UNIT_BYTES + random.below(other.units * (UNIT_BYTES / 4)) * 4);
    }
  } else {
    title = 'a page that is another one';
    const other = random.pick(pages);
    memory.set(
      clean.subarray(other.unit * UNIT_BYTES, other.unit * UNIT_BYTES + Math.min(bytes, other.units * UNIT_BYTES)),
      at,
    );
  }
}

for (let index = 0; index < cases && problems.length === 0; index++) {
  damage();
  title += ` (case ${index})`;
  readEverything();
  memory.set(clean);
  Atomics.store(words, 0, index + 1);
}

// Nothing is left behind: no latch is held, what is clean reads as before.
title = 'afterwards';
memory.set(clean);
const { corrupt } = counts;
readEverything();
if (counts.corrupt !== corrupt) problems.push('clean pages read as corrupt');
group([snapshot], 3, () => Buffer.from('third'));
problems.push(...writer.check());
parentPort.postMessage({ problems, ...counts });
