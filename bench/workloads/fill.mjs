/**
 * fillseq, fillrandom: filling an empty store.
 *
 * Answers: how fast an empty store takes n records, in key order as batches and in random order as single puts, and what they then
 * take in memory and on disk. Does not answer: what a store costs that has been overwritten for days (see `write`), or one that
 * outgrows memory.
 */
import { Histogram } from '../support/histogram.mjs';
import { closedLoop } from '../support/loops.mjs';
import { makeValue } from '../support/records.mjs';

export const name = 'fill';
export const question = 'filling an empty store; memory and disk afterwards';
export const store = 'empty';

const IN_FLIGHT = 10_000;
const BATCH_ENTRIES = 1000;

export function rows(scale) {
  const contenders = ['concordkv', 'lmdb', 'classic-level'].map((engine) => ({
    engine,
    variant: 'put',
    label: engine,
  }));
  const common = { ops: scale.n, contenders, rounds: scale.quick ? 1 : 3, warmupOps: Math.min(scale.n, 100_000) };
  return [
    { ...common, row: `fillseq, batches of ${BATCH_ENTRIES}`, params: { order: 'sequential' } },
    { ...common, row: `fillrandom, ${IN_FLIGHT} in flight`, params: { order: 'random' } },
  ];
}

export function run(session, variant, { order, ops }) {
  return order === 'sequential' ? fillSequential(session, ops) : fillRandom(session, ops);
}

async function fillSequential(session, ops) {
  const { store, keys } = session;
  const ids = Uint32Array.from({ length: ops }, (_, id) => id).sort((a, b) => (keys[a] < keys[b] ? -1 : 1));
  const histogram = new Histogram();
  const start = performance.now();
  for (let from = 0; from < ops; from += BATCH_ENTRIES) {
    const entries = [];
    for (let i = from; i < Math.min(from + BATCH_ENTRIES, ops); i++) entries.push(session.entry(ids[i]));
    const before = performance.now();
    await store.batch(entries);
    histogram.recordMs(performance.now() - before);
  }
  const seconds = (performance.now() - start) / 1000;
  session.acked.set(session.issued);
  session.count = ops;
  return { ops, seconds, histograms: { batch: histogram.counts } };
}

/** Ids are in random key order by their making (records.mjs). */
async function fillRandom(session, ops) {
  const { store } = session;
  const histogram = new Histogram();
  const put = (id) => store.put(session.keyToWrite(id), makeValue(id, session.issue(id)));
  const acknowledge = (id) => {
    session.acked[id] = session.issued[id];
  };
  const seconds = await closedLoop(IN_FLIGHT, ops, histogram, put, acknowledge);
  session.count = ops;
  return { ops, seconds, histograms: { put: histogram.counts } };
}
