/**
 * The process of one store in the transaction bench: obeys one request at a time over the IPC channel, is idle in between.
 *
 *   request { id, method, args } → response { id, result } or { id, error }
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { Histogram } from '../support/histogram.mjs';
import { profileClock } from '../support/http-profile.mjs';
import { Random } from '../support/random.mjs';
import { cpuMsOfThreads } from '../support/thread-cpu.mjs';
import { Draw, indexesByShard, keyOf, keysOf } from './accounts.mjs';
import { storeOf } from './stores.mjs';

const BALANCE = 1000;
const AMOUNT_MAX = 10;
/** One transfer in so many is timed. */
const TIMED_EVERY = 8;

let store;
let keys = [];
let byShard = [];
let seed = 1;
/** Threads there were before the store was opened, and those that came with it, in that order. */
let threadsBefore = [];
let threadsOfStore = [];

/** CPU of this process between two times: main thread, the store's threads in the order they began, the rest. */
class CpuMeter {
  #before = cpuMsOfThreads();
  #began = performance.now();

  read(transactions) {
    const after = cpuMsOfThreads();
    const ms = performance.now() - this.#began;
    const used = (id) => (after.get(id) ?? 0) - (this.#before.get(id) ?? 0);
    const perTransaction = (value) => (value * 1000) / transactions;
    const main = String(process.pid);
    let rest = 0;
    for (const id of after.keys()) if (id !== main && !threadsOfStore.includes(id)) rest += used(id);
    return {
      mainUs: perTransaction(used(main)),
      storeUs: threadsOfStore.map((id) => perTransaction(used(id))),
      otherUs: perTransaction(rest),
      cores: [...after.keys()].reduce((sum, id) => sum + used(id), 0) / ms,
    };
  }
}

/** `callers` loops that each do the next when the last is done, until the time is up. next(): a promise. */
async function closedLoop(callers, ms, next) {
  const histogram = new Histogram();
  let done = 0;
  let failed = 0;
  const codes = new Map();
  const began = performance.now();
  const end = began + ms;
  const loop = async () => {
    for (let i = 0; performance.now() < end; i++) {
      const at = i % TIMED_EVERY === 0 ? performance.now() : 0;
      try {
        await next();
        done++;
      } catch (error) {
        if (error.code === undefined) throw error;
        failed++;
        codes.set(error.code, (codes.get(error.code) ?? 0) + 1);
      }
      if (at !== 0) histogram.recordMs(performance.now() - at);
    }
  };
  await Promise.all(Array.from({ length: callers }, loop));
  return { done, failed, codes: [...codes], ms: performance.now() - began, latency: histogram.summary() };
}

function transferDraw({ pick, theta = 0, label }) {
  const random = new Random(seed, label);
  const draw = new Draw(keys.length, theta, random);
  const pair = [0, 0];
  return () => {
    if (pick === 'cross') {
      // Of two shards that differ.
      const first = random.below(byShard.length);
      const second = (first + 1 + random.below(byShard.length - 1)) % byShard.length;
      pair[0] = byShard[first][random.below(byShard[first].length)];
      pair[1] = byShard[second][random.below(byShard[second].length)];
    } else {
      draw.pair(pair);
    }
    // Strings of their own, as a program's keys are.
    return [keyOf(pair[0]), keyOf(pair[1]), 1 + random.below(AMOUNT_MAX)];
  };
}

const percentile = (sorted, q) => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * q))];

const methods = {
  async open({ engine, directory, accounts, shards = 1, seed: seedOfRun, ...options }) {
    seed = seedOfRun;
    keys = keysOf(accounts);
    byShard = engine === 'concordkv' ? await indexesByShard(keys, shards) : [];
    store = storeOf(engine);
    threadsBefore = [...cpuMsOfThreads().keys()];
    await store.open(directory, { shards, ...options });
    threadsOfStore = [...cpuMsOfThreads().keys()].filter((id) => !threadsBefore.includes(id));
    await store.load(keys, BALANCE);
  },

  /** Transfers; every `lost` is money that is gone, or came from nowhere. */
  async transfers({ ms, callers, pick, theta, label }) {
    const draw = transferDraw({ pick, theta, label });
    globalThis.gc?.();
    const attemptsBefore = store.attempts;
    const meter = new CpuMeter();
    const beganUs = profileClock();
    let result;
    if (store.isSync) {
      // Nobody else can call meanwhile: a group is what all callers want.
      const histogram = new Histogram();
      const began = performance.now();
      let done = 0;
      while (performance.now() - began < ms) {
        const at = performance.now();
        store.begin();
        for (let caller = 0; caller < callers; caller++) store.transfer(...draw());
        store.commit();
        done += callers;
        histogram.recordMs(performance.now() - at, callers / TIMED_EVERY);
      }
      result = { done, failed: 0, codes: [], ms: performance.now() - began, latency: histogram.summary() };
    } else {
      result = await closedLoop(callers, ms, () => store.transfer(...draw()));
    }
    const cpu = meter.read(result.done);
    return {
      ...result,
      clockUs: [beganUs, profileClock()],
      perSecond: (result.done / result.ms) * 1000,
      attempts: store.attempts - attemptsBefore,
      cpu,
      lost: store.sum(keys) - keys.length * BALANCE,
    };
  },

  /** Transactions under contention: over accounts by Zipf's law, or over a number of shards, a key of each. */
  async contend({ ms, callers, theta, touched, label, options }) {
    store.use(options);
    const random = new Random(seed, label);
    const draw = transferDraw({ theta, label });
    const order = byShard.map((_, index) => index);
    const next = () => {
      if (touched === undefined) {
        const [from, to, amount] = draw();
        return store.move([from, to], amount);
      }
      for (let i = 0; i < touched; i++) {
        const j = i + random.below(order.length - i);
        [order[i], order[j]] = [order[j], order[i]];
      }
      const chosen = order.slice(0, touched).map((shard) => keyOf(byShard[shard][random.below(byShard[shard].length)]));
      return store.move(chosen, 1 + random.below(AMOUNT_MAX));
    };
    const attemptsBefore = store.attempts;
    const meter = new CpuMeter();
    const result = await closedLoop(callers, ms, next);
    const attempts = store.attempts - attemptsBefore;
    const cpu = meter.read(result.done);
    store.use(undefined);
    return {
      ...result,
      perSecond: (result.done / result.ms) * 1000,
      attempts,
      aborted: attempts === 0 ? 0 : (attempts - result.done) / attempts,
      cpu,
      lost: store.sum(keys) - keys.length * BALANCE,
    };
  },

  /** Ten gets: by themselves, in a transaction, in a transaction that is begun to read only. ns per ten. */
  async reads({ count, rounds, gets }) {
    const { db } = store;
    const random = new Random(seed, 'reads');
    const sets = Array.from({ length: count }, () => Array.from({ length: gets }, () => random.below(keys.length)));
    let bytes = 0;
    const plain = (set) => {
      for (let i = 0; i < gets; i++) bytes += db.getSync(set[i]).length;
    };
    let set;
    const inside = (tx) => {
      for (let i = 0; i < gets; i++) bytes += tx.getSync(set[i]).length;
    };
    const readOnly = { readOnly: true };
    const ways = {
      plain: async (chosen) => {
        for (const one of chosen) {
          plain(one);
          // The promise that a transaction costs anyway is not the store's.
          await undefined;
        }
      },
      transaction: async (chosen) => {
        for (set of chosen) await db.transaction(inside);
      },
      readOnly: async (chosen) => {
        for (set of chosen) await db.transaction(inside, readOnly);
      },
    };
    const figures = { plain: [], transaction: [], readOnly: [] };
    // The first two rounds warm up.
    for (let round = -2; round < rounds; round++) {
      for (const [name, way] of Object.entries(ways)) {
        // Made anew, in the order of their use, before the clock starts.
        const chosen = sets.map((one) => one.map(keyOf));
        const began = performance.now();
        await way(chosen);
        if (round >= 0) figures[name].push(((performance.now() - began) * 1e6) / count);
      }
    }
    if (bytes === 0) throw new Error('nothing was read');
    return figures;
  },

  /**
   * `waiting` transactions wait in a chain, each for a key of the one before. Then two more close a circle, again and again: ms from the call that closes it to
   * the error of the one that gave way. And circles of all of them, `long` times.
   */
  async deadlocks({ waiting, times, long }) {
    const { db } = store;
    const options = { mode: 'pessimistic', timeoutMs: 600_000, lockTimeoutMs: 600_000 };
    const chainKey = (index) => `chain${index}`;
    const gaveWay = [];

    const timesMs = [];
    const longMs = [];
    const ended = (promise) =>
      promise.then(
        () => undefined,
        (error) => error,
      );

    const buildChain = async () => {
      const chain = Array.from({ length: waiting + 1 }, () => db.begin(options));
      for (const [index, tx] of chain.entries()) await tx.getForUpdate(chainKey(index));
      const waits = chain.slice(1).map((tx, index) => ended(tx.getForUpdate(chainKey(index))));
      // The coordinator hears of them.
      await sleep(200);
      return { chain, waits };
    };

    const first = await buildChain();
    for (let i = 0; i < times; i++) {
      const [a, b] = [db.begin(options), db.begin(options)];
      // Behind the chain: both also are what others could wait for.
      await a.getForUpdate(`left${i}`);
      await b.getForUpdate(`right${i}`);
      const waits = ended(a.getForUpdate(`right${i}`));
      await sleep(2);
      const began = performance.now();
      const error = await ended(b.getForUpdate(`left${i}`));
      timesMs.push(performance.now() - began);
      gaveWay.push(error?.code);
      await b.rollback();
      await waits;
      await a.rollback();
    }
    for (let i = 0; ; i++) {
      if (i === long) break;
      const { chain, waits } = i === 0 ? first : await buildChain();
      const began = performance.now();
      // The oldest waits for the youngest, who gives way.
      const closing = ended(chain[0].getForUpdate(chainKey(waiting)));
      const error = await waits.at(-1);
      longMs.push(performance.now() - began);
      gaveWay.push(error?.code);
      await chain.at(-1).rollback();
      await closing;
      for (const tx of chain.slice(0, -1)) await tx.rollback();
      await Promise.all(waits);
    }
    if (long === 0) for (const tx of first.chain) await tx.rollback();
    for (const code of gaveWay)
      if (code !== 'ERR_DEADLOCK') throw new Error(`a transaction that should have given way ended with ${code}`);
    timesMs.sort((x, y) => x - y);
    longMs.sort((x, y) => x - y);
    const summary = (sorted) =>
      sorted.length === 0
        ? undefined
        : {
            count: sorted.length,
            p50Ms: percentile(sorted, 0.5),
            p99Ms: percentile(sorted, 0.99),
            maxMs: sorted.at(-1),
          };
    return { pair: summary(timesMs), circle: summary(longMs) };
  },

  async close() {
    await store?.close();
    store = undefined;
  },

  /** Exits, when the answer is on its way. */
  leave() {
    setTimeout(() => process.exit(0), 50);
  },
};

process.on('message', ({ id, method, args }) => {
  Promise.resolve()
    .then(() => methods[method](args))
    .then(
      (result) => process.send({ id, result }),
      (error) => process.send({ id, error: { message: error.stack ?? error.message, code: error.code } }),
    );
});
process.on('disconnect', () => process.exit(0));
