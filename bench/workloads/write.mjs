/**
 * overwrite: puts to keys that exist, nothing waits for the disk.
 *
 * Answers: how many puts a second one thread gets acknowledged when each is a call of its own awaited by its own caller
 * and 10,000 are in flight, and how many in atomic batches one after another. An acknowledgement means the write survives the death of the
 * process, for each engine. Does not answer: durable writes (see `durable`), several writing threads.
 */
import { Histogram } from '../support/histogram.mjs';
import { closedLoop } from '../support/loops.mjs';
import { makeIds } from '../support/random.mjs';
import { generationOf, idOf, makeValue } from '../support/records.mjs';

export const name = 'write';
export const question = 'overwrites acknowledged before they are on disk';
export const store = 'os';

const IN_FLIGHT = 10_000;
const BATCH_ENTRIES = 1000;

export function rows(scale) {
  const engines = (variant) =>
    ['concordkv', 'lmdb', 'classic-level'].map((engine) => ({ engine, variant, label: engine }));
  const ops = scale.ops(300_000, 20_000);
  return [
    { row: `put, ${IN_FLIGHT} in flight, uniform`, distribution: 'uniform', variant: 'put' },
    { row: `put, ${IN_FLIGHT} in flight, zipfian`, distribution: 'zipfian', variant: 'put' },
    { row: `batch of ${BATCH_ENTRIES}, uniform, entries`, distribution: 'uniform', variant: 'batch' },
  ].map(({ row, distribution, variant }) => ({
    row,
    ops,
    // Its calls wait for a thread of libuv each, so it gets fewer.
    opsOf: { 'classic-level': variant === 'put' ? Math.ceil(ops / 3) : ops },
    params: { distribution },
    contenders: engines(variant),
    writes: true,
  }));
}

export async function run(session, variant, { distribution, ops, round }) {
  const ids = makeIds(
    session.seed,
    `write ${variant} ${distribution} ${round}`,
    distribution,
    session.loadedCount,
    ops,
  );
  return variant === 'batch' ? batches(session, ids) : puts(session, ids, IN_FLIGHT);
}

/** Also what `durable` runs, with other depths. */
export async function puts(session, ids, inFlight, variant = 'put') {
  const { store } = session;
  const histogram = new Histogram();
  const generations = new Uint32Array(ids.length);
  const put = (i) => {
    const id = ids[i];
    const generation = session.issue(id);
    generations[i] = generation;
    return store[variant](session.keys[id], makeValue(id, generation));
  };
  const acknowledge = (i) => session.acknowledge(ids[i], generations[i]);
  const seconds = await closedLoop(inFlight, ids.length, histogram, put, acknowledge);
  return { ops: ids.length, seconds, histograms: { put: histogram.counts } };
}

async function batches(session, ids) {
  const { store } = session;
  const histogram = new Histogram();
  const start = performance.now();
  for (let from = 0; from < ids.length; from += BATCH_ENTRIES) {
    const entries = [];
    for (const id of ids.subarray(from, from + BATCH_ENTRIES)) entries.push(session.entry(id));
    const before = performance.now();
    await store.batch(entries);
    histogram.recordMs(performance.now() - before);
    for (const [, value] of entries) session.acknowledge(idOf(value), generationOf(value));
  }
  const seconds = (performance.now() - start) / 1000;
  return { ops: ids.length, seconds, histograms: { batch: histogram.counts } };
}
