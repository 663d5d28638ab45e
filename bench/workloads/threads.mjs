/**
 * threads: synchronous reads in worker threads that share the store of the main thread.
 *
 * Answers: whether two reading threads get twice the reads of one, and what is left of one thread's reads (and their latency) while
 * the main thread keeps 10,000 puts in flight to the same shard. On a machine with two cores the last row has three busy threads
 * (reader, caller, writer of the shard), so it also shows how little the writing side leaves idle. Does not answer: how more cores scale.
 */
import { Worker } from 'node:worker_threads';
import { Histogram } from '../support/histogram.mjs';
import { makeIds } from '../support/random.mjs';
import { makeValue } from '../support/records.mjs';

export const name = 'threads';
export const question = 'reads in worker threads, alone, in pairs, beside a writer';
export const store = 'os';

const IN_FLIGHT = 10_000;
/** The writer gets up to speed before the reader starts, and outlasts it. */
const WRITER_LEAD_MS = 200;

export function rows(scale) {
  const contenders = [
    { engine: 'concordkv', variant: 'getSync', label: 'concordkv' },
    { engine: 'lmdb', variant: 'getSync', label: 'lmdb getBinary' },
  ];
  const durationMs = scale.durationMs;
  const row = (title, params) => ({
    row: title,
    ops: 0,
    params: { durationMs, distribution: 'uniform', ...params },
    contenders,
  });
  return [
    row('getSync, 1 thread', { threads: 1 }),
    row('getSync, 2 threads', { threads: 2 }),
    { ...row('getSync, 1 thread beside a saturating writer', { threads: 1, writer: true }), writes: true },
  ];
}

export async function run(session, variant, { threads, writer, durationMs, distribution, round }) {
  const readers = await attachReaders(session, threads);
  const delayMs = writer ? WRITER_LEAD_MS : 20;
  const runs = readers.slice(0, threads).map((reader, index) =>
    reader.run({
      variant,
      distribution,
      label: `threads ${round} ${index}`,
      delayMs,
      durationMs,
    }),
  );
  const written = writer ? await saturate(session, delayMs + durationMs + 50, round) : undefined;
  const results = await Promise.all(runs);
  const histogram = new Histogram();
  let ops = 0;
  let perSecond = 0;
  for (const result of results) {
    histogram.merge(result.counts);
    ops += result.ops;
    perSecond += result.ops / result.seconds;
    for (let i = 0; i < result.wrong; i++)
      session.complain(`${session.engineName}: a reading thread met a wrong value`);
  }
  return {
    ops,
    seconds: ops / perSecond,
    histograms: { read: histogram.counts },
    ...(written === undefined ? {} : { extra: { writesPerSecond: written } }),
  };
}

async function attachReaders(session, count) {
  let attachment = session.attachments.get(name);
  if (attachment === undefined) {
    const readers = [];
    attachment = { readers, close: () => Promise.all(readers.map((reader) => reader.close())) };
    session.attachments.set(name, attachment);
  }
  while (attachment.readers.length < count) attachment.readers.push(await Reader.start(session));
  return attachment.readers;
}

/** A worker running reader-thread.mjs. */
class Reader {
  #worker;
  #answer;

  static async start(session) {
    const { handle, transferList } = session.store.handle();
    const { engineName, seed, loadedCount } = session;
    const reader = new Reader();
    reader.#worker = new Worker(new URL('../support/reader-thread.mjs', import.meta.url), {
      workerData: { engineName, seed, loadedCount, handle },
      transferList,
    });
    reader.#worker.on('message', (message) => reader.#answer.resolve(message));
    reader.#worker.on('error', (error) => reader.#answer.reject(error));
    await reader.#expect();
    return reader;
  }

  #expect() {
    return new Promise((resolve, reject) => {
      this.#answer = { resolve, reject };
    });
  }

  run(request) {
    const answer = this.#expect();
    this.#worker.postMessage(request);
    return answer;
  }

  async close() {
    const closed = this.#expect();
    this.#worker.postMessage('close');
    await closed;
    await this.#worker.terminate();
  }
}

/** Puts with 10,000 in flight until the time is over. Returns puts acknowledged per second. */
async function saturate(session, durationMs, round) {
  const { store, keys, loadedCount } = session;
  const ids = makeIds(session.seed, `threads writer ${round}`, 'uniform', loadedCount, 1 << 17);
  const start = performance.now();
  const deadline = start + durationMs;
  let writes = 0;
  const caller = async () => {
    while (performance.now() < deadline) {
      const id = ids[writes++ & (ids.length - 1)];
      const generation = session.issue(id);
      await store.put(keys[id], makeValue(id, generation));
      session.acknowledge(id, generation);
    }
  };
  const callers = [];
  for (let i = 0; i < IN_FLIGHT; i++) callers.push(caller());
  await Promise.all(callers);
  return Math.round((writes / (performance.now() - start)) * 1000);
}
