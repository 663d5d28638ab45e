/**
 * The process of one engine in the LSM bench: obeys one request at a time over the IPC channel, is idle in between. Everything read is judged.
 *
 *   request { id, method, args } → response { id, result } or { id, error }
 */
import { readFileSync } from 'node:fs';
import { Histogram } from '../support/histogram.mjs';
import { Random } from '../support/random.mjs';
import {
  PREFIX_RECORDS,
  isValueOf,
  isWholeValueOf,
  keyOf,
  missingKeyOf,
  numberOf,
  permutation,
  prefixOf,
  valueOf,
} from './records.mjs';
import { stores } from './stores.mjs';

const BATCH_BYTES_MAX = 100_000;
const BATCH_ENTRIES_MAX = 1000;
const BATCHES_IN_FLIGHT = 4;
/** Keys of reads made before each timed stretch. */
const CHUNK_READS = 10_000;
const READS_IN_FLIGHT = 64;
/** The smallest blocks have twice as many. */
const WARM_STEP_BYTES = 512;

let store;
let shape = { count: 0, valueBytes: 100, soft: false, seed: 1 };
let wrong = 0;
const complaints = [];

function judge(isRight, text) {
  if (isRight) return;
  wrong++;
  if (complaints.length < 5) complaints.push(text());
}

function io() {
  try {
    const text = readFileSync('/proc/self/io', 'utf8');
    return { writtenBytes: Number(/wchar: (\d+)/.exec(text)[1]), readBytes: Number(/rchar: (\d+)/.exec(text)[1]) };
  } catch {
    return { writtenBytes: NaN, readBytes: NaN };
  }
}

function memory() {
  try {
    const text = readFileSync('/proc/self/status', 'utf8');
    const of = (name) => Number(new RegExp(`${name}:\\s+(\\d+)`).exec(text)[1]) * 1024;
    return { rssBytes: of('VmRSS'), peakRssBytes: of('VmHWM') };
  } catch {
    return { rssBytes: process.memoryUsage.rss(), peakRssBytes: NaN };
  }
}

/** Some reads at a time, synchronous where the engine can; only the reads are inside the clock. */
async function timedReads(count, label, keyFor, judgeRead) {
  const random = new Random(shape.seed, label);
  let ms = 0;
  for (let done = 0; done < count;) {
    const size = Math.min(CHUNK_READS, count - done);
    const numbers = Array.from({ length: size }, () => random.below(shape.count));
    const keys = numbers.map(keyFor);
    const began = performance.now();
    if (store.getSync !== undefined) {
      for (let i = 0; i < size; i++) judgeRead(numbers[i], store.getSync(keys[i]));
    } else {
      for (let i = 0; i < size; i += READS_IN_FLIGHT) {
        const values = await store.getMany(keys.slice(i, i + READS_IN_FLIGHT));
        for (let j = 0; j < values.length; j++) judgeRead(numbers[i + j], values[j]);
      }
    }
    ms += performance.now() - began;
    done += size;
  }
  return { ops: count, ms };
}

const methods = {
  async open({ engine, directory, options, ...rest }) {
    shape = { ...shape, ...rest };
    const began = performance.now();
    store = await stores[engine](directory, { ...options, engine });
    return { ms: performance.now() - began };
  },

  async close() {
    await store?.close();
    store = undefined;
    globalThis.gc?.();
  },

  /** Batches of like bytes, some in flight. The latency of each batch counts: a pause of the engine shows there. */
  async fill({ order, count, round }) {
    const { valueBytes, soft, seed } = shape;
    const batchEntries = Math.max(1, Math.min(BATCH_ENTRIES_MAX, Math.floor(BATCH_BYTES_MAX / (valueBytes + 16))));
    const place = order === 'random' ? permutation(count, seed) : (n) => n;
    const latency = new Histogram();
    let maxMs = 0;
    let next = 0;
    const before = io();
    const began = performance.now();
    const writer = async () => {
      while (next < count) {
        const end = Math.min(count, next + batchEntries);
        const entries = [];
        for (; next < end; next++) {
          const n = place(next);
          entries.push([keyOf(n), valueOf(n, round, valueBytes, soft)]);
        }
        const sent = performance.now();
        await store.batch(entries);
        const ms = performance.now() - sent;
        latency.recordMs(ms);
        if (ms > maxMs) maxMs = ms;
      }
    };
    await Promise.all(Array.from({ length: BATCHES_IN_FLIGHT }, writer));
    shape.count = Math.max(shape.count, count);
    return { ops: count, ms: performance.now() - began, maxMs, latency: latency.summary(), before };
  },

  /** Reads so many records, in random order, that each block is among them. */
  async warm() {
    const step = Math.max(1, Math.floor(WARM_STEP_BYTES / (16 + shape.valueBytes)));
    const count = Math.ceil(shape.count / step);
    const place = permutation(count, shape.seed);
    for (let n = 0; n < count; n += READS_IN_FLIGHT) {
      const numbers = Array.from({ length: Math.min(READS_IN_FLIGHT, count - n) }, (_, i) => place(n + i) * step);
      const values =
        store.getSync === undefined
          ? await store.getMany(numbers.map(keyOf))
          : numbers.map((number) => store.getSync(keyOf(number)));
      numbers.forEach((number, i) =>
        judge(isValueOf(number, values[i], shape.valueBytes, shape.soft), () => `read of ${keyOf(number)} is wrong`),
      );
    }
  },

  reads: ({ count, label }) =>
    timedReads(count, label, keyOf, (n, value) =>
      judge(isValueOf(n, value, shape.valueBytes, shape.soft), () => `read of ${keyOf(n)} gave ${value?.length} bytes`),
    ),

  missing: ({ count, label }) =>
    timedReads(count, label, missingKeyOf, (n, value) =>
      judge(value === undefined, () => `read of the missing ${missingKeyOf(n)} gave ${value?.length} bytes`),
    ),

  async scanAll() {
    let n = 0;
    const began = performance.now();
    const entries = await store.scan({}, (key, value) => {
      judge(isValueOf(n, value, shape.valueBytes, shape.soft), () => `scan gave ${key} at place ${n}`);
      n++;
    });
    const ms = performance.now() - began;
    judge(entries === shape.count, () => `scan gave ${entries} entries of ${shape.count}`);
    return { ops: entries, ms };
  },

  /** Ranges of 1 … 100 records. */
  async scanShort({ count, label }) {
    const random = new Random(shape.seed, label);
    let ms = 0;
    for (let i = 0; i < count; i++) {
      const limit = 1 + random.below(100);
      let n = random.below(shape.count - 100);
      const gte = keyOf(n);
      const began = performance.now();
      const found = await store.scan({ gte, limit }, (key, value) => {
        judge(numberOf(value) === n, () => `range scan gave ${key} for ${n}`);
        n++;
      });
      ms += performance.now() - began;
      judge(found === limit, () => `range scan of ${limit} gave ${found}`);
    }
    return { ops: count, ms };
  },

  async scanPrefix({ count, label }) {
    const random = new Random(shape.seed, label);
    let ms = 0;
    for (let i = 0; i < count; i++) {
      let n = random.below(Math.floor(shape.count / PREFIX_RECORDS)) * PREFIX_RECORDS;
      const prefix = prefixOf(n);
      const began = performance.now();
      const found = await store.scan({ prefix }, (key, value) => {
        judge(numberOf(value) === n, () => `prefix scan gave ${key} for ${n}`);
        n++;
      });
      ms += performance.now() - began;
      judge(found === PREFIX_RECORDS, () => `prefix scan gave ${found}`);
    }
    return { ops: count, ms };
  },

  async compact() {
    const began = performance.now();
    await store.compact();
    return { ms: performance.now() - began };
  },

  /** Outside of any measurement: every byte of everything. */
  async verify() {
    let n = 0;
    await store.scan({}, (key, value) => {
      judge(key === keyOf(n) && isWholeValueOf(n, value, shape.valueBytes, shape.soft), () => `${key} is wrong`);
      n++;
    });
    judge(n === shape.count, () => `${n} entries of ${shape.count}`);
    return { entries: n };
  },

  io,
  memory,
  stats: () => store.stats(),
  verdict: () => ({ wrong, complaints }),
};

process.on('message', async ({ id, method, args }) => {
  try {
    process.send({ id, result: await methods[method](args ?? {}) });
  } catch (error) {
    process.send({ id, error: { message: error.stack ?? String(error), code: error.code } });
  }
});

// The parent is gone: so are the reasons to run.
process.on('disconnect', () => process.exit(1));
