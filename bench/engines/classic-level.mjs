/**
 * classic-level (LevelDB): utf8 keys, buffer values, compression off, a block cache that holds the whole data set, as the other
 * engines have all of it in memory. durability 'os' is its default write, 'sync' is `{ sync: true }` on every write.
 *
 * Writes run on libuv's threads, so two writes to one key in flight at once may take effect in either order. Other threads of the
 * process are not measured.
 */
import { ClassicLevel } from 'classic-level';
import { packageVersion } from '../support/package-version.mjs';

export const version = packageVersion('classic-level');
export const ordered = false;

const SCAN_ENTRIES = 1000;

export async function open(directory, { durability, rawBytes }) {
  const db = new ClassicLevel(directory, {
    keyEncoding: 'utf8',
    valueEncoding: 'buffer',
    compression: false,
    cacheSize: Math.max(64 * 2 ** 20, rawBytes * 2),
  });
  await db.open();
  return new Store(db, { sync: durability === 'sync' });
}

class Store {
  #db;
  #writeOptions;

  constructor(db, writeOptions) {
    this.#db = db;
    this.#writeOptions = writeOptions;
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
    return this.#db.put(key, value, this.#writeOptions);
  }

  batch(entries) {
    return this.#db.batch(
      entries.map(([key, value]) => ({ type: 'put', key, value })),
      this.#writeOptions,
    );
  }

  async scan(start, limit, visit) {
    const range = { highWaterMarkBytes: 2 ** 20 };
    if (start !== undefined) range.gte = start;
    if (limit !== undefined) range.limit = limit;
    const iterator = this.#db.iterator(range);
    try {
      for (;;) {
        const entries = await iterator.nextv(Math.min(limit ?? SCAN_ENTRIES, SCAN_ENTRIES));
        if (entries.length === 0) break;
        for (const [key, value] of entries) visit(key, value);
      }
    } finally {
      await iterator.close();
    }
  }

  async settle() {}

  close() {
    return this.#db.close();
  }
}
