/**
 * lmdb-js: compression off, default keys ('ordered-binary', strings), values as raw bytes, a map large enough never to be resized.
 *
 * durability 'os' is `noSync: true`: a commit is in the page cache, nothing waits for the disk. durability 'sync' is lmdb-js as it
 * comes (overlapping sync): `put()` resolves when the commit is visible, `putDurable()` also awaits `db.flushed`, which is when it
 * is on disk. Reads are synchronous calls; `getSync` is getBinary (a fresh copy), `getFast` is getBinaryFast (a shared buffer that
 * the next read overwrites).
 */
import { open as openLmdb } from 'lmdb';
import { packageVersion } from '../support/package-version.mjs';

export const version = packageVersion('lmdb');
export const ordered = true;

export async function open(directory, { durability, rawBytes }) {
  const options = {
    path: directory,
    encoding: 'binary',
    compression: false,
    mapSize: Math.max(2 ** 32, rawBytes * 16),
    noSync: durability === 'os',
  };
  return new Store(openLmdb(options), options);
}

export async function attach(options) {
  return new Store(openLmdb(options), options);
}

class Store {
  #db;
  #options;

  constructor(db, options) {
    this.#db = db;
    this.#options = options;
  }

  getSync(key) {
    return this.#db.getBinary(key);
  }

  getFast(key) {
    return this.#db.getBinaryFast(key);
  }

  getMany(keys) {
    return this.#db.getMany(keys);
  }

  put(key, value) {
    return this.#db.put(key, value);
  }

  async putDurable(key, value) {
    await this.#db.put(key, value);
    await this.#db.flushed;
  }

  batch(entries) {
    return this.#db.batch(() => {
      for (const [key, value] of entries) this.#db.put(key, value);
    });
  }

  scanSync(start, limit, visit) {
    for (const { key, value } of this.#db.getRange(start === undefined ? {} : { start, limit })) visit(key, value);
  }

  async settle() {
    await this.#db.flushed;
  }

  handle() {
    return { handle: this.#options, transferList: [] };
  }

  close() {
    return this.#db.close();
  }
}
