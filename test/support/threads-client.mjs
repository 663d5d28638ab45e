/**
 * A thread attached to a pool, in the middle of something when its end comes. workerData: { ports, scene, end, … }.
 *
 * `end` is how: 'return' (its work is done), 'exit' (process.exit), 'throw' (an uncaught exception), 'terminate' (the parent does it, at a moment
 * of its own, so the scene goes on forever). It posts 'ready' when the scene is under way.
 */
import { parentPort, workerData } from 'node:worker_threads';
import { ConcordPool } from '../../dist/index.js';

const { ports, scene, end } = workerData;

function tell(message) {
  parentPort.postMessage(message);
}

/** The end, from inside: after the event loop has had a turn, so that what was published is on its way. */
function finish() {
  if (end === 'exit') process.exit(3);
  if (end === 'throw') throw new Error('this thread was meant to fail');
}

const forever = () => new Promise(() => setInterval(() => undefined, 1000));
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

const scenes = {
  /** Reads in a loop that never yields: the end meets it inside a read, pinned or not. */
  async reads(db) {
    tell('ready');
    for (let i = 0; end === 'terminate' || i < 200_000; i++) {
      const value = db.getSync(`key${i % 500}`);
      if (value !== undefined && !value.startsWith('value')) throw new Error(`read ${value.slice(0, 40)}`);
    }
    finish();
  },

  /** More writes than its rings hold, none awaited. */
  async writes(db) {
    const value = 'value'.padEnd(200, 'w');
    for (let i = 0; i < 60_000; i++) db.put(`written${i % 5000}`, value).catch(() => undefined);
    tell('ready');
    await pause(5);
    if (end === 'terminate') await forever();
    finish();
  },

  /** A value that takes many chunks, on its way. */
  async large(db) {
    const value = 'value'.padEnd(48 << 20, 'l');
    db.put('large', value).catch(() => undefined);
    tell('ready');
    await pause(10);
    if (end === 'terminate') await forever();
    finish();
  },

  async iterator(db) {
    for (let i = 0; i < 5; i++) {
      const entries = db.iterator()[Symbol.asyncIterator]();
      for (let read = 0; read < 3; read++) await entries.next();
      const sync = db.iterateSync();
      for (let read = 0; read < 3; read++) sync.next();
      // Kept: nothing may be given back by the garbage collector.
      (globalThis.kept ??= []).push(entries, sync);
    }
    tell('ready');
    if (end === 'terminate') await forever();
    finish();
  },

  async snapshot(db) {
    globalThis.kept = [];
    for (let i = 0; i < 10; i++) globalThis.kept.push(await db.snapshot());
    tell('ready');
    if (end === 'terminate') await forever();
    finish();
  },

  async update(db) {
    const run = async () => {
      for (let i = 0; end === 'terminate' || i < 200; i++) {
        await db.update('counter', (value) => String(Number(value ?? 0) + 1));
      }
    };
    const all = Promise.all(Array.from({ length: 8 }, run));
    tell('ready');
    await all;
    finish();
  },

  /** Holds a pin, as a reader that is stopped inside a read does. */
  async pinned(db) {
    for (const { arena } of db.client.shards) arena.pin(db.client.client);
    tell('ready');
    if (end === 'terminate') for (;;);
    finish();
  },

  /** Waits for messages: { put: [key, value] } or { get: key }. */
  async serve(db) {
    parentPort.on('message', async ({ id, put, get }) => {
      try {
        if (put !== undefined) tell({ id, result: await db.put(...put) });
        else tell({ id, result: db.getSync(get) });
      } catch (error) {
        tell({ id, code: error.code ?? error.message });
      }
    });
    tell('ready');
    await forever();
  },
};

if (scene === 'attach') {
  // The end comes while the host gives it its slot.
  const attaching = ports.map((port) => ConcordPool.attach({ port }));
  tell('ready');
  finish();
  await Promise.all(attaching);
  tell('attached');
  if (end === 'terminate') await forever();
} else {
  const [db] = await Promise.all(ports.map((port) => ConcordPool.attach({ port })));
  await scenes[scene](db);
}
