/**
 * ConcordKV as users get it: shards 'auto', utf8 keys, binary values; durability 'os' or 'sync' for the whole store.
 *
 * An engine module exports `version`, `ordered`, `open(directory, options)` and, where other threads of the process can read the
 * same store, `attach(handle, transferList)`. The store's methods are the variants that workloads name; a method that is missing means the
 * engine has no such thing. Threads: the thread that opened or attached it.
 */
import { createRequire } from 'node:module';

const { ConcordPool } = await load();
const require = createRequire(import.meta.url);

export const version = require('../../package.json').version;
/** Writes to one key take effect in the order of the calls. */
export const ordered = true;

/** The package of this checkout: by name once bench/ is installed, else (the test suite) straight from dist/. */
async function load() {
  try {
    return await import('concordkv');
  } catch (error) {
    if (error.code !== 'ERR_MODULE_NOT_FOUND') throw error;
    return import('../../dist/index.js');
  }
}

export async function open(directory, { durability, rawBytes }) {
  const db = await ConcordPool.open(directory, {
    shards: 'auto',
    durability,
    memoryBytes: Math.max(2 ** 30, rawBytes * 4),
    keyEncoding: 'utf8',
    valueEncoding: 'binary',
  });
  return new Store(db);
}

export async function attach(handle) {
  return new Store(await ConcordPool.attach(handle));
}

class Store {
  #db;
  #oneShard;

  constructor(db) {
    this.#db = db;
    this.#oneShard = db.stats().shards.length === 1;
  }

  getSync(key) {
    return this.#db.getSync(key);
  }

  get(key) {
    return this.#db.get(key);
  }

  getMany(keys) {
    return this.#db.getMany(keys);
  }

  put(key, value) {
    return this.#db.put(key, value);
  }

  /** `entries`: [key, value][]. A batch over several shards is refused, so with more than one it is as many puts at once. */
  batch(entries) {
    if (!this.#oneShard) return Promise.all(entries.map(([key, value]) => this.#db.put(key, value)));
    return this.#db.batch(entries.map(([key, value]) => ({ type: 'put', key, value })));
  }

  /** Visits up to `limit` entries from `start` on (both optional), in key order. */
  scanSync(start, limit, visit) {
    for (const [key, value] of this.#db.iterateSync(rangeFrom(start, limit))) visit(key, value);
  }

  async scan(start, limit, visit) {
    for await (const [key, value] of this.#db.iterator(rangeFrom(start, limit))) visit(key, value);
  }

  async settle() {
    await this.#db.flush();
  }

  /** Shared memory over all shards: in pages, and the most it ever was (what the operating system has committed). */
  memory() {
    const { memoryUsedBytes, memoryHighWaterBytes } = this.#db.stats();
    return { usedBytes: memoryUsedBytes, highWaterBytes: memoryHighWaterBytes };
  }

  handle() {
    const handle = this.#db.handle();
    return { handle, transferList: handle.transferList ?? [] };
  }

  close() {
    return this.#db.close();
  }
}

function rangeFrom(start, limit) {
  const range = {};
  if (start !== undefined) range.gte = start;
  if (limit !== undefined) range.limit = limit;
  return range;
}
