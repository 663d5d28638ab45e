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
import { closedLoop, SAMPLE_EVERY } from '../support/loops.mjs';
import { makeIds, Random, Zipfian } from '../support/random.mjs';
import { keysInOrder, makeValue } from '../support/records.mjs';

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

export async function run(session, variant, { mix, distribution, ops, round }) {
  const { store, keys, acked } = session;
  const { kinds, ids, lengths, fresh } = makePlan(session, mix, distribution, ops, round);
  const generations = new Uint32Array(ops);
  const latest = distribution === 'latest';
  const readHistogram = new Histogram();
  const awaitedHistogram = new Histogram();

  let nextId = session.count;
  /** Ids below are all acknowledged: what 'latest' counts back from. */
  let newest = session.count;

  const write = (i, id, key) => {
    const generation = session.issue(id);
    generations[i] = generation;
    return store.put(key, makeValue(id, generation));
  };

  let entries = 0;
  let previous = '';
  const visit = (key, value) => {
    entries++;
    if (key <= previous) session.complain(`${session.engineName}: scan gave ${key} after ${previous}`);
    previous = key;
    session.checkEntry(key, value);
  };
  const beginScan = () => {
    entries = 0;
    previous = '';
  };
  const checkScan = (wanted) => {
    if (entries !== wanted && previous < session.lastKey) {
      session.complain(`${session.engineName}: scan gave ${entries} entries of ${wanted}, up to ${previous}`);
    }
  };
  const scanSync = (i) => {
    beginScan();
    store.scanSync(fresh[i], lengths[i], visit);
    checkScan(lengths[i]);
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
  const readSync = (i, id) => {
    const floor = acked[id];
    session.checkRead(id, store.getSync(keyAt(i, id)), floor);
  };
  const readAsync = async (i, id) => {
    const floor = acked[id];
    session.checkRead(id, await store.get(keyAt(i, id)), floor);
  };
  const modifyAsync = async (i, id) => {
    await readAsync(i, id);
    await write(i, id, keyAt(i, id));
  };

  let sinceSample = 0;
  const timed = (work, i, id) => {
    if (++sinceSample < SAMPLE_EVERY) return work(i, id);
    sinceSample = 0;
    const before = performance.now();
    work(i, id);
    readHistogram.recordMs(performance.now() - before, SAMPLE_EVERY);
  };

  const insertedAt = new Map();
  const operation = (i) => {
    const kind = kinds[i];
    if (kind === INSERT) {
      const id = nextId++;
      insertedAt.set(i, id);
      return write(i, id, session.keyToWrite(id));
    }
    const id = idOf(i);
    if (variant === 'async') {
      if (kind === READ) return readAsync(i, id);
      if (kind === SCAN) return scanAsync(i);
      if (kind === MODIFY) return modifyAsync(i, id);
    } else {
      if (kind === READ) return void timed(readSync, i, id);
      if (kind === SCAN) return void timed(scanSync, i, id);
      if (kind === MODIFY) timed(readSync, i, id);
    }
    return write(i, id, keyAt(i, id));
  };

  const finished = (i) => {
    const kind = kinds[i];
    if (kind === INSERT) {
      session.acknowledge(insertedAt.get(i), generations[i]);
      while (newest < nextId && acked[newest] !== 0) newest++;
    } else if (kind !== READ && kind !== SCAN) {
      session.acknowledge(ids[i], generations[i]);
    }
  };

  const isAwaited = variant === 'async' ? undefined : (i) => kinds[i] !== READ && kinds[i] !== SCAN;
  const seconds = await closedLoop(CALLERS, ops, awaitedHistogram, operation, finished, isAwaited);
  session.count = nextId;
  const histograms =
    variant === 'async'
      ? { 'all awaited': awaitedHistogram.counts }
      : { read: readHistogram.counts, write: awaitedHistogram.counts };
  return { ops, seconds, histograms };
}
