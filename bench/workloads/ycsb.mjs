/**
 * YCSB core workloads, 64 callers in a closed loop on one thread, acknowledged before they are on disk.
 *
 *   A 50 % read, 50 % update      B 95 % read, 5 % update      C 100 % read
 *   D 95 % read of the latest, 5 % insert      E 95 % scan of 1..100 entries, 5 % insert      F 50 % read, 50 % read-modify-write
 *
 * Answers: throughput of mixed work as a service thread meets it, with uniform and scrambled-zipfian (0.99) keys; D draws from the newest.
 * Reads and scans are synchronous calls where the engine has them, so only writes are awaited; classic-level is measured that way
 * and once with asynchronous reads. As in YCSB, the read-modify-write of F is not atomic. Does not answer: several client threads, data larger than memory.
 */
import { Histogram } from '../support/histogram.mjs';
import { mixedLoop, SAMPLE_EVERY } from '../support/loops.mjs';
import { makeIds, Random, Zipfian } from '../support/random.mjs';
import { keysInOrder, makeValue, Notes } from '../support/records.mjs';

export const name = 'ycsb';
export const question = 'mixed work, 64 callers on one thread';
export const store = 'os';

const CALLERS = 64;
const SCAN_ENTRIES_MAX = 100;

const MIXES = {
  A: { other: 'update', share: 0.5, ops: [400_000, 10_000], distributions: ['uniform', 'zipfian'] },
  B: { other: 'update', share: 0.05, ops: [800_000, 15_000], distributions: ['uniform', 'zipfian'] },
  C: { other: 'read', share: 0, ops: [800_000, 15_000], distributions: ['uniform', 'zipfian'] },
  D: { other: 'insert', share: 0.05, ops: [800_000, 15_000], distributions: ['latest'] },
  E: { other: 'insert', share: 0.05, main: 'scan', ops: [20_000, 1500], distributions: ['uniform', 'zipfian'] },
  F: { other: 'modify', share: 0.5, ops: [400_000, 10_000], distributions: ['uniform', 'zipfian'] },
};

/** Ids that inserts may take up over one row; the keys must be made before. */
export const insertsPerOp = 0.06;

export function rows(scale) {
  const list = [];
  for (const [mix, { ops, distributions, main, other }] of Object.entries(MIXES)) {
    for (const distribution of distributions) {
      if (scale.quick && (mix === 'C' || distribution === 'uniform')) continue;
      const contenders = [
        { engine: 'concordkv', variant: 'sync', label: 'concordkv' },
        { engine: 'lmdb', variant: 'sync', label: 'lmdb noSync' },
        { engine: 'classic-level', variant: main === 'scan' ? 'async' : 'sync', label: 'classic-level' },
      ];
      if (!scale.quick && main !== 'scan') {
        contenders.push({ engine: 'classic-level', variant: 'async', label: 'classic-level async reads' });
      }
      list.push({
        row: `${mix}, ${distribution}`,
        ops: scale.ops(...ops),
        params: { mix, distribution },
        contenders,
        writes: other !== 'read',
        inserts: other === 'insert',
      });
    }
  }
  return list;
}

const READ = 0;
const SCAN = 1;
const UPDATE = 2;
const INSERT = 3;
const MODIFY = 4;
const KINDS = { read: READ, scan: SCAN, update: UPDATE, insert: INSERT, modify: MODIFY };

/** All of a turn's decisions, made before the clock starts. For 'latest', ids are distances from the newest. */
function makePlan(session, mix, distribution, ops, round) {
  const { main = 'read', other, share } = MIXES[mix];
  const label = `ycsb ${mix} ${distribution} ${round}`;
  const random = new Random(session.seed, `${label} kinds`);
  const kinds = new Uint8Array(ops);
  const lengths = new Uint8Array(ops);
  for (let i = 0; i < ops; i++) {
    kinds[i] = KINDS[random.fraction() < share ? other : main];
    lengths[i] = 1 + random.below(SCAN_ENTRIES_MAX);
  }
  let ids;
  if (distribution === 'latest') {
    const zipfian = new Zipfian(session.loadedCount, new Random(session.seed, label));
    ids = Uint32Array.from({ length: ops }, () => zipfian.rank());
  } else {
    ids = makeIds(session.seed, label, distribution, session.loadedCount, ops);
  }
  // 'latest' is known only as the run goes: its keys come from the table of all keys.
  return { kinds, ids, lengths, fresh: distribution === 'latest' ? undefined : keysInOrder(ids) };
}

/**
 * Reads are noted in the loop and judged when the clock has stopped, by replaying who was acknowledged when: a read must be no older than what was
 * acknowledged before it began. Operations begin in the order of their numbers, so the number of the next one tells when.
 */
class Journal {
  #notes;
  /** By operation. */
  #ids;
  #generations;
  #hasRead;
  /** Writes in the order of their acknowledgements, and the number of the operation that began next. */
  #acked;
  #ackedBefore;
  #ackedCount = 0;

  constructor(ops) {
    this.#notes = new Notes(ops);
    this.#ids = new Uint32Array(ops);
    this.#generations = new Uint32Array(ops);
    this.#hasRead = new Uint8Array(ops);
    this.#acked = new Uint32Array(ops);
    this.#ackedBefore = new Uint32Array(ops);
  }

  read(i, id, value) {
    this.#ids[i] = id;
    this.#hasRead[i] = 1;
    this.#notes.note(i, value);
  }

  write(i, id, generation) {
    this.#ids[i] = id;
    this.#generations[i] = generation;
  }

  acknowledged(i, next) {
    this.#acked[this.#ackedCount] = i;
    this.#ackedBefore[this.#ackedCount++] = next;
  }

  judge(session) {
    const { acked } = session;
    let seen = 0;
    for (let i = 0; i <= this.#ids.length; i++) {
      for (; seen < this.#ackedCount && this.#ackedBefore[seen] <= i; seen++) {
        const write = this.#acked[seen];
        session.acknowledge(this.#ids[write], this.#generations[write]);
      }
      if (this.#hasRead[i] === 1) session.checkNote(this.#notes, i, this.#ids[i], acked[this.#ids[i]]);
    }
  }
}

export async function run(session, variant, { mix, distribution, ops, round }) {
  const { store, keys } = session;
  const { kinds, ids, lengths, fresh } = makePlan(session, mix, distribution, ops, round);
  const latest = distribution === 'latest';
  const readHistogram = new Histogram();
  const awaitedHistogram = new Histogram();
  const journal = new Journal(ops);

  const firstNew = session.count;
  let nextId = firstNew;
  /** Ids below are all acknowledged: what 'latest' counts back from. */
  let newest = firstNew;
  const insertedAt = new Uint32Array(ops);
  const isInserted = new Uint8Array(ops);

  let entries = 0;
  let previous = '';
  const visit = (key, value) => {
    entries++;
    if (key <= previous) session.complain(`${session.engineName}: scan gave ${key} after ${previous}`);
    previous = key;
    session.checkEntry(key, value);
  };
  const scanSync = (i) => {
    entries = 0;
    previous = '';
    store.scanSync(fresh[i], lengths[i], visit);
    if (entries !== lengths[i] && previous < session.lastKey) {
      session.complain(`${session.engineName}: scan gave ${entries} entries of ${lengths[i]}, up to ${previous}`);
    }
  };
  const scanAsync = async (i) => {
    let seen = 0;
    let last = '';
    await store.scan(fresh[i], lengths[i], (key, value) => {
      seen++;
      if (key <= last) session.complain(`${session.engineName}: scan gave ${key} after ${last}`);
      last = key;
      session.checkEntry(key, value);
    });
    if (seen !== lengths[i] && last < session.lastKey) session.complain(`${session.engineName}: short scan`);
  };

  const idOf = (i) => (latest ? Math.max(newest - 1 - ids[i], 0) : ids[i]);
  const keyAt = (i, id) => (latest ? keys[id] : fresh[i]);
  const readSync = (i) => {
    const id = idOf(i);
    journal.read(i, id, store.getSync(keyAt(i, id)));
  };
  const readAsync = async (i, id) => {
    journal.read(i, id, await store.get(keyAt(i, id)));
  };
  const put = (i, id, key) => {
    const generation = session.issue(id);
    journal.write(i, id, generation);
    return store.put(key, makeValue(id, generation));
  };
  const modifyAsync = async (i, id) => {
    await readAsync(i, id);
    await put(i, id, keyAt(i, id));
  };

  let untilSample = SAMPLE_EVERY;
  const timed = (work, i) => {
    const before = performance.now();
    work(i);
    readHistogram.recordMs(performance.now() - before, SAMPLE_EVERY);
    untilSample = SAMPLE_EVERY;
  };

  const isAsync = variant === 'async';
  const isAwaited = isAsync ? () => true : (i) => kinds[i] !== READ && kinds[i] !== SCAN;
  const operation = (i) => {
    const kind = kinds[i];
    if (!isAsync && kind !== UPDATE && kind !== INSERT) {
      const work = kind === SCAN ? scanSync : readSync;
      if (--untilSample === 0) timed(work, i);
      else work(i);
      return kind === MODIFY ? put(i, ids[i], fresh[i]) : undefined;
    }
    if (kind === INSERT) {
      const id = nextId++;
      insertedAt[i] = id - firstNew;
      return put(i, id, session.keyToWrite(id));
    }
    const id = idOf(i);
    if (kind === READ) return readAsync(i, id);
    if (kind === SCAN) return scanAsync(i);
    if (kind === MODIFY) return modifyAsync(i, id);
    return put(i, id, keyAt(i, id));
  };

  const finished = (i, next) => {
    const kind = kinds[i];
    if (kind === READ || kind === SCAN) return;
    journal.acknowledged(i, next);
    if (kind !== INSERT) return;
    isInserted[insertedAt[i]] = 1;
    while (newest < nextId && isInserted[newest - firstNew] === 1) newest++;
  };

  const seconds = await mixedLoop(CALLERS, ops, awaitedHistogram, operation, finished, isAwaited);
  session.count = nextId;
  journal.judge(session);
  const histograms = isAsync
    ? { 'all awaited': awaitedHistogram.counts }
    : { read: readHistogram.counts, write: awaitedHistogram.counts };
  return { ops, seconds, histograms };
}
