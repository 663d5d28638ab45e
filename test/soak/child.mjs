/**
 * The store of the soak: a process that is killed at any time. It applies chunks of writes that its parent thought up, while two reader threads and
 * snapshots look on, and tells what it finds.
 *
 *   parent → open · check (what must be there) · chunk (writes) · end            child → answers, and 'problem' whenever something is wrong
 */
import { readdirSync, readFileSync } from 'node:fs';
import { Worker } from 'node:worker_threads';
import { ConcordPool } from '../../dist/index.js';
import { generationOf, idOfKey, keyOf, randomOf, valueOf } from './model.mjs';

const READERS = 2;
const SNAPSHOT_READS = 200;

let db;
/** What readers may rely on: the settled generation of each record, 0 while a write of it is in flight. */
let floors;
const workers = [];

function problem(text) {
  process.send({ event: 'problem', text });
}

/** The generation found at the record: 0 for none. */
function lookUp(reads, id) {
  const value = reads.getSync(keyOf(id));
  if (value === undefined) return 0;
  const generation = generationOf(id, value);
  if (generation === 0) problem(`record ${id} holds ${value.length} wrong bytes`);
  return generation;
}

const methods = {
  async open({ directory, options, ids, seed }) {
    const began = performance.now();
    db = await ConcordPool.open(directory, options);
    const openMs = performance.now() - began;
    floors = new Int32Array(new SharedArrayBuffer(4 * ids));
    for (let reader = 0; reader < READERS; reader++) {
      const handle = db.handle();
      const worker = new Worker(new URL('./reader.mjs', import.meta.url), {
        workerData: { handle, floors, ids, seed: seed + reader },
        transferList: handle.transferList,
      });
      worker.on('message', (text) => problem(`reader ${reader}: ${text}`));
      worker.on('error', (error) => problem(`reader ${reader} died: ${error.stack}`));
      workers.push(worker);
    }
    return { openMs };
  },

  /**
   * Everything by a scan. settled as in model.mjs; maybe: [id, generation of a write that may have happened, negative for a delete]. Returns what became of those.
   */
  async check({ settled, maybe }) {
    const found = new Int32Array(settled.length);
    let entries = 0;
    let before = '';
    for await (const [key, value] of db.iterator()) {
      if (key <= before) problem(`the scan gave ${key} behind ${before}`);
      before = key;
      const id = idOfKey(key);
      const generation = generationOf(id, value);
      if (generation === 0) problem(`the scan gave ${value.length} wrong bytes for ${key}`);
      found[id] = generation;
      entries++;
    }
    const open = new Map(maybe);
    const outcome = [];
    for (let id = 0; id < settled.length; id++) {
      const expected = Math.max(0, settled[id]);
      const other = open.get(id);
      if (found[id] === expected && other === undefined) continue;
      if (other !== undefined && found[id] === Math.max(0, other)) outcome.push([id, other]);
      else if (found[id] === expected) outcome.push([id, settled[id]]);
      else problem(`record ${id}: found generation ${found[id]}, acknowledged ${settled[id]}, in flight ${other}`);
    }
    // Readers are at work: what may be in either state must not have a floor for even a moment.
    for (let id = 0; id < settled.length; id++) Atomics.store(floors, id, open.has(id) ? 0 : Math.max(0, settled[id]));
    // Point reads agree with the scan.
    const random = randomOf(entries + 1);
    for (let i = 0; i < 1000; i++) {
      const id = random.below(settled.length);
      if (lookUp(db, id) !== found[id]) problem(`record ${id}: a read and the scan disagree`);
    }
    return { entries, outcome };
  },

  /** writes: [id, generation] pairs, negative for a delete, no id twice; batches of them go together. A snapshot of before sees nothing of it. */
  async chunk({ writes, batchEntries, seed, clear }) {
    const random = randomOf(seed);
    const before = new Map();
    const snapshot = await db.snapshot();
    try {
      for (let i = 0; i < SNAPSHOT_READS; i++) {
        const [id] = writes[random.below(writes.length)];
        before.set(id, lookUp(snapshot, id));
      }
      for (const [id] of writes) Atomics.store(floors, id, 0);
      const calls = [];
      for (let at = 0; at < writes.length;) {
        const size = 1 + random.below(batchEntries);
        const group = writes.slice(at, at + size);
        at += size;
        const operations = group.map(([id, generation]) =>
          generation < 0
            ? { type: 'del', key: keyOf(id) }
            : { type: 'put', key: keyOf(id), value: valueOf(id, generation) },
        );
        calls.push(operations.length === 1 ? single(operations[0]) : db.batch(operations));
        if (calls.length >= 64) await Promise.all(calls.splice(0));
      }
      await Promise.all(calls);
      for (const [id, generation] of writes) Atomics.store(floors, id, Math.max(0, generation));
      for (const [id, generation] of before) {
        const seen = lookUp(snapshot, id);
        if (seen !== generation) problem(`snapshot: record ${id} had generation ${generation}, and now ${seen}`);
      }
    } finally {
      await snapshot.close();
    }
    if (clear !== undefined) {
      for (const id of clear.ids) Atomics.store(floors, id, 0);
      await db.clear({ prefix: clear.prefix });
    }
    return usage();
  },

  usage: () => usage(),

  async end() {
    for (const worker of workers) worker.postMessage('end');
    await Promise.all(workers.map((worker) => new Promise((resolve) => worker.once('exit', resolve))));
    await db.close();
    setImmediate(() => process.disconnect());
  },
};

function single({ type, key, value }) {
  return type === 'del' ? db.del(key) : db.put(key, value);
}

function usage() {
  const files = process.platform === 'linux' ? readdirSync('/proc/self/fd').length : 0;
  const rss =
    process.platform === 'linux'
      ? Number(/VmRSS:\s+(\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))[1]) * 1024
      : process.memoryUsage.rss();
  return { files, rssBytes: rss };
}

process.on('message', async ({ id, method, args }) => {
  try {
    process.send({ id, result: await methods[method](args ?? {}) });
  } catch (error) {
    process.send({ id, error: error.stack ?? String(error) });
  }
});

// The parent is gone: so are the reasons to run.
process.on('disconnect', () => process.exit(0));
