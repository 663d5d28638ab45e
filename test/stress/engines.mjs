/**
 * Readers in four threads while one engine takes millions of random writes: puts, overwrites, deletes, range deletes, expiring values, in atomic groups and
 * others, with snapshots that come and go, sweeps, and deaths of the writer. The arena is so small that everything in it is used again and again. What readers
 * must and must not see stands in the head of engines-rules.mjs.
 *
 *   node test/stress/engines.mjs [--engine all|name,name] [--writes 10000000] [--readers 4] [--keys 20000] [--seed n]
 *
 * Exit code 1 if a reader or the check at the end found a problem.
 */
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import { CommandLine, headOf } from '../../scripts/command-line.mjs';
import '../../dist/engines/built-in.js';
import { publishTrees } from '../../dist/engines/btree/meta.js';
import { engineNamed, engineNames, newSweep } from '../../dist/engines/engine.js';
import { markRows } from '../../dist/engines/store/space-table.js';
import { ArenaReader, ArenaWriter, createArena } from '../../dist/shared/memory/arena.js';
import { makeRandom } from '../support/memory-random.mjs';
import {
  Board,
  DELETED,
  KEY_BYTES,
  NOW_MS,
  PAIRED_KEYS,
  SNAPSHOTS,
  VALUE_BYTES_MAX,
  expiryOf,
  generationOf,
  isAbsent,
  readKey,
  writeKey,
  writeValue,
} from './engines-rules.mjs';

const GROUP_MAX = 200;
/** Between two lines that tell how far it is. */
const PROGRESS_MS = 10_000;
const SLOT = 0;
const MEMORY_BYTES = 24 << 20;

class Run {
  problems = [];
  counts = { writes: 0, groups: 0, deletes: 0, rangeDeletes: 0, snapshots: 0, sweeps: 0, deaths: 0, full: 0 };
  #key = Buffer.alloc(KEY_BYTES);
  #high = Buffer.alloc(KEY_BYTES);
  #value = Buffer.alloc(VALUE_BYTES_MAX);
  #seq = 0;
  #publishedSeq = 0;
  #snapshots = [];
  #snapshotOf = new Array(SNAPSHOTS).fill(-1);
  #touched = new Int32Array(GROUP_MAX * 64);
  #touchedCount = 0;
  #sweep = newSweep();

  constructor({ name, keys, seed }) {
    this.engine = engineNamed(name);
    this.random = makeRandom(seed);
    this.board = new Board(keys);
    this.layout = createArena({ memoryBytes: MEMORY_BYTES });
    this.arena = new ArenaWriter(this.layout);
    this.writer = this.engine.openWriter(this.arena, 0, 0, {});
    this.#publish();
  }

  #publish() {
    publishTrees(this.arena, this.#seq);
    this.#publishedSeq = this.#seq;
    const { announced, published } = this.board;
    for (let index = 0; index < this.#touchedCount; index++) {
      const key = this.#touched[index];
      Atomics.store(published, key, announced[key]);
    }
    this.#touchedCount = 0;
    this.writer.endGroup();
    this.counts.groups++;
  }

  #begin(isAtomic) {
    const sorted = Float64Array.from(this.#snapshots).sort();
    this.writer.setSnapshots(sorted, sorted.length);
    this.writer.beginGroup(this.#publishedSeq, isAtomic);
  }

  #announce(key, generation) {
    Atomics.store(this.board.announced, key, generation);
    this.#touched[this.#touchedCount++] = key;
  }

  #write(key, generation) {
    this.#announce(key, generation);
    writeKey(this.#key, key);
    const seq = ++this.#seq;
    if (key >= PAIRED_KEYS && (generation & 7) === DELETED) {
      this.writer.del(this.#key, 0, KEY_BYTES, seq);
      this.counts.deletes++;
    } else {
      const length = writeValue(this.#value, key, generation);
      this.writer.put(this.#key, 0, KEY_BYTES, this.#value, 0, length, seq, expiryOf(key, generation));
    }
    this.counts.writes++;
  }

  #removeRange(low, high) {
    for (let key = low; key < high; key++) this.#announce(key, this.board.announced[key] | DELETED);
    writeKey(this.#key, low);
    writeKey(this.#high, high);
    this.writer.removeRange(this.#key, true, this.#high, false, Infinity, ++this.#seq);
    this.counts.rangeDeletes++;
    this.counts.writes++;
  }

  /** One group of random operations, published; or its writer dies before that. */
  group() {
    const { random, board } = this;
    const { announced } = board;
    const isAtomic = random() % 4 !== 0;
    const operations = 1 + (random() % (random() % 8 === 0 ? GROUP_MAX : 40));
    // A page of its own per value is the most that chance can ask for in a group; the average is far below.
    if (!this.#makeRoom(operations + 40, operations * 160 + VALUE_BYTES_MAX * 2)) return;
    this.#begin(isAtomic);
    for (let count = 0; count < operations; count++) {
      if (isAtomic && random() % 16 === 0) {
        const first = (random() % (PAIRED_KEYS / 2)) * 2;
        const generation = announced[first] + 1;
        this.#write(first, generation);
        this.#write(first + 1, generation);
      } else if (random() % 2000 === 0) {
        const low = PAIRED_KEYS + (random() % (board.keys - PAIRED_KEYS - 20));
        this.#removeRange(low, low + 1 + (random() % 20));
      } else {
        const key = PAIRED_KEYS + (random() % (board.keys - PAIRED_KEYS));
        this.#write(key, announced[key] + 1);
      }
    }
    if (isAtomic && random() % 4000 === 0) this.#die();
    else this.#publish();
  }

  /** Room as a shard asks for it. False after it had to wait. */
  #makeRoom(operations, bytes) {
    const sorted = Float64Array.from(this.#snapshots).sort();
    this.writer.setSnapshots(sorted, sorted.length);
    if (this.writer.admits(operations, bytes, false)) return true;
    this.counts.full++;
    if (this.counts.full > 100_000)
      throw new Error(`${this.engine.name} is always full: ${JSON.stringify(this.arena.stats())}`);
    for (let index = 0; index < SNAPSHOTS; index++) this.#closeSnapshot(index);
    this.sweepSlice();
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1);
    this.arena.reclaim();
    return false;
  }

  #die() {
    // What was announced and lost may never come: generations go on behind it. Readers may have seen nothing of it.
    this.#touchedCount = 0;
    this.arena = ArenaWriter.adopt(this.layout, markRows);
    this.writer = this.engine.openWriter(this.arena, 0, 0, {});
    this.#seq = this.#publishedSeq;
    this.#sweep = newSweep();
    this.counts.deaths++;
  }

  turnSnapshot() {
    const index = this.random() % SNAPSHOTS;
    if (this.#snapshotOf[index] >= 0) {
      this.#closeSnapshot(index);
      return;
    }
    this.#snapshotOf[index] = this.#publishedSeq;
    this.#snapshots.push(this.#publishedSeq);
    this.board.openSnapshot(index, this.#publishedSeq);
    this.counts.snapshots++;
  }

  #closeSnapshot(index) {
    const seq = this.#snapshotOf[index];
    if (seq < 0) return;
    this.board.closeSnapshot(index);
    this.#snapshots.splice(this.#snapshots.indexOf(seq), 1);
    this.#snapshotOf[index] = -1;
  }

  sweepSlice() {
    this.#begin(false);
    try {
      this.writer.sweep(this.#sweep, 50);
    } catch (error) {
      // As in a shard: readers that got no turn hold all there is, and what is thin stays thin.
      if (error.code !== 'ERR_MEMORY_FULL') throw error;
      this.#sweep.done = true;
    }
    this.#publish();
    if (!this.#sweep.done) return;
    this.#sweep = newSweep();
    this.counts.sweeps++;
  }

  /** Everything that is there, when all readers are gone. */
  verify() {
    for (let index = 0; index < SNAPSHOTS; index++) this.#closeSnapshot(index);
    for (let pass = 0; pass < 2; pass++) {
      const sweep = newSweep();
      while (!sweep.done) {
        this.#begin(false);
        this.writer.sweep(sweep, 200);
        this.#publish();
      }
    }
    this.arena.reclaim();
    let complaints = 0;
    const complain = (what) => {
      if (complaints++ < 10) this.problems.push(`${this.engine.name}, at the end: ${what}`);
    };
    for (const problem of this.writer.check().slice(0, 5)) complain(problem);
    if (this.arena.retiredUnits !== 0) complain(`${this.arena.retiredUnits} units wait for readers that are gone`);
    const { published, keys } = this.board;
    let live = 0;
    let visible = 0;
    for (let key = 0; key < keys; key++) {
      const generation = published[key];
      const isDeleted = generation === 0 || (key >= PAIRED_KEYS && (generation & 7) === DELETED);
      if (!isDeleted) live++;
      if (!isAbsent(key, generation)) visible++;
    }
    const counts = this.writer.counts();
    if (counts.liveEntries !== live) complain(`${counts.liveEntries} live entries, expected ${live}`);
    if (counts.cells !== live) complain(`${counts.cells} versions without any snapshot, expected ${live}`);
    const view = new ArenaReader(this.layout);
    const cursor = this.engine.openCursor(view, 0, 0, SLOT);
    cursor.setRange(undefined, undefined);
    cursor.seek(view.pin(SLOT), undefined, 0, Infinity, false, NOW_MS);
    for (; cursor.valid; cursor.next(), visible--) {
      cursor.copyKey(this.#key, 0);
      const key = readKey(this.#key);
      const generation = generationOf(cursor.copyValue(), key);
      if (generation !== published[key]) complain(`key ${key} is at ${generation}, expected ${published[key]}`);
    }
    cursor.release();
    view.unpin(SLOT);
    if (visible !== 0) complain(`${visible} entries more were expected`);
  }
}

function startReader(run, { name, keys, seed }, slot) {
  const worker = new Worker(new URL('./engines-reader.mjs', import.meta.url), {
    workerData: { layout: run.layout, name, slot, keys, memory: run.board.memory, seed: seed * 31 + slot },
  });
  const next = () =>
    new Promise((resolve, reject) => {
      worker.once('message', resolve);
      worker.once('error', reject);
    });
  const ready = next();
  return { worker, ready, report: ready.then(next) };
}

/** Returns { problems, counts, reads, seconds }. */
export async function stressEngine({ name, writes, seed, readers = 4, keys = 20_000, onProgress }) {
  const options = { name, keys, seed };
  const run = new Run(options);
  const threads = Array.from({ length: readers }, (_, index) => startReader(run, options, index + 1));
  const reads = {};
  const started = performance.now();
  try {
    await Promise.all(threads.map(({ ready }) => ready));
    let [lastTurn, lastSweep] = [0, 0];
    let usedEarly = 0;
    while (run.counts.writes < writes) {
      for (let count = 0; count < 64 && run.counts.writes < writes; count++) {
        run.group();
        if (run.counts.writes - lastTurn > 15_000) {
          lastTurn = run.counts.writes;
          run.turnSnapshot();
        }
        if (run.counts.writes - lastSweep > 2000) {
          lastSweep = run.counts.writes;
          run.sweepSlice();
        }
      }
      if (usedEarly === 0 && run.counts.writes > writes / 2) usedEarly = run.arena.usedUnits;
      onProgress?.(run.counts.writes);
      // Messages of readers that failed.
      await new Promise((resolve) => setImmediate(resolve));
    }
    if (run.arena.usedUnits > usedEarly * 2 + 256) {
      run.problems.push(`${name}: ${run.arena.usedUnits} units in use, ${usedEarly} at half time`);
    }
  } finally {
    run.board.end();
  }
  const seconds = (performance.now() - started) / 1000;
  for (const { worker, report } of threads) {
    const { problems, counts } = await report;
    run.problems.push(...problems);
    for (const [what, count] of Object.entries(counts)) reads[what] = (reads[what] ?? 0) + count;
    await worker.terminate();
  }
  run.verify();
  return { problems: run.problems, counts: run.counts, reads, seconds };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const text = { type: 'string' };
  const line = new CommandLine(headOf(import.meta.url), {
    ...{ engine: text, writes: text, readers: text, keys: text, seed: text },
  });
  const all = engineNames();
  const names = line.values.engine === 'all' ? all : line.names('engine', all, all.join(','));
  const writes = line.whole('writes', 1, 10_000_000);
  const readers = line.whole('readers', 1, 4);
  const keys = line.whole('keys', PAIRED_KEYS, 20_000);
  const seed = line.whole('seed', 0, Math.floor(Math.random() * 1_000_000));
  for (const name of names) {
    console.log(
      `replay: node test/stress/engines.mjs --engine ${name} --writes ${writes} --readers ${readers} --keys ${keys} --seed ${seed}`,
    );
    let toldMs = performance.now();
    const onProgress = (done) => {
      if (performance.now() - toldMs < PROGRESS_MS) return;
      toldMs = performance.now();
      console.log(`  ${name}: ${done} of ${writes} writes`);
    };
    const { problems, counts, reads, seconds } = await stressEngine({ name, writes, seed, readers, keys, onProgress });
    console.log(`${name}: ${seconds.toFixed(1)} s ${JSON.stringify(counts)} ${JSON.stringify(reads)}`);
    for (const problem of problems) console.error(problem);
    if (problems.length > 0) process.exitCode = 1;
  }
}
