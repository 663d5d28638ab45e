/**
 * readrandom: point reads of keys that exist, from one thread, nothing else running.
 *
 * Answers: what a read costs the calling thread when the data is in memory, for a value the caller may keep (a fresh copy) and, for lmdb,
 * for one that the next read overwrites; what the promise-returning forms cost. Does not answer: reads beside writers
 * or other readers (see `threads`), misses, data larger than memory.
 */
import { Histogram } from '../support/histogram.mjs';
import { closedLoop, syncLoop } from '../support/loops.mjs';
import { makeIds } from '../support/random.mjs';
import { keysInOrder, Notes } from '../support/records.mjs';

export const name = 'read';
export const question = 'point reads from one thread, data in memory';
export const store = 'os';

const CALLERS = 64;
const MANY_KEYS = 100;

export function rows(scale) {
  const ops = scale.ops(1_000_000, 30_000);
  const list = ['uniform', 'zipfian'].map((distribution) => ({
    row: `getSync, ${distribution}`,
    ops,
    params: { distribution },
    contenders: [
      { engine: 'concordkv', variant: 'getSync', label: 'concordkv' },
      { engine: 'lmdb', variant: 'getSync', label: 'lmdb getBinary' },
      { engine: 'lmdb', variant: 'getFast', label: 'lmdb getBinaryFast' },
      { engine: 'classic-level', variant: 'getSync', label: 'classic-level' },
    ],
  }));
  list.push(
    {
      row: `get, ${CALLERS} callers, uniform`,
      ops: Math.ceil(ops / 2),
      params: { distribution: 'uniform' },
      contenders: [
        { engine: 'concordkv', variant: 'get', label: 'concordkv' },
        { engine: 'classic-level', variant: 'get', label: 'classic-level' },
      ],
    },
    {
      row: `getMany of ${MANY_KEYS}, uniform, keys`,
      ops: Math.ceil(ops / 2),
      params: { distribution: 'uniform' },
      contenders: [
        { engine: 'concordkv', variant: 'getMany', label: 'concordkv' },
        { engine: 'lmdb', variant: 'getMany', label: 'lmdb getBinary' },
        { engine: 'classic-level', variant: 'getMany', label: 'classic-level' },
      ],
    },
  );
  return list;
}

export async function run(session, variant, { distribution, ops, round }) {
  const { store, acked } = session;
  const ids = makeIds(session.seed, `read ${distribution} ${round}`, distribution, session.loadedCount, ops);
  const keys = keysInOrder(ids);
  if (variant === 'get') {
    const histogram = new Histogram();
    const get = (i) => store.get(keys[i]);
    const check = (i, value) => session.checkRead(ids[i], value, acked[ids[i]]);
    const seconds = await closedLoop(CALLERS, ops, histogram, get, check);
    return { ops, seconds, histograms: { read: histogram.counts } };
  }
  if (variant === 'getMany') return getMany(session, ids, keys);
  const notes = new Notes(ops);
  const turn =
    variant === 'getFast'
      ? syncLoop(ops, (i) => notes.note(i, store.getFast(keys[i])))
      : syncLoop(ops, (i) => notes.note(i, store.getSync(keys[i])));
  for (let i = 0; i < ops; i++) session.checkNote(notes, i, ids[i], 0);
  return turn;
}

async function getMany(session, ids, keys) {
  const { store } = session;
  const histogram = new Histogram();
  const start = performance.now();
  for (let from = 0; from < ids.length; from += MANY_KEYS) {
    const wanted = [];
    for (let i = from; i < Math.min(from + MANY_KEYS, ids.length); i++) wanted.push(keys[i]);
    const before = performance.now();
    const values = await store.getMany(wanted);
    histogram.recordMs(performance.now() - before);
    for (let i = 0; i < wanted.length; i++) session.checkRead(ids[from + i], values[i], 0);
  }
  const seconds = (performance.now() - start) / 1000;
  return { ops: ids.length, seconds, histograms: { call: histogram.counts } };
}
