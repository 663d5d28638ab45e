/**
 * The stores of the transaction bench: accounts with balances, and a transfer between two of them as each store does it best.
 *
 *   open(directory, { durability, ...options }), load(keys, balance), transfer(from, to, amount): promise or nothing (see `isSync`), sum(keys), close()
 *
 * durability 'os': a commit survives the process. 'sync': it has been synced when transfer() is done.
 *
 *   concordkv   db.transaction(fn) with a synchronous function, serializable
 *   lmdb        db.transaction(fn), as lmdb-js batches them; noSync at 'os', awaiting `flushed` at 'sync'
 *   sqlite      better-sqlite3, WAL, prepared statements; all callers' transfers in one BEGIN … COMMIT ("group commit"). 'os' is
 *               synchronous=OFF (SQLite has nothing nearer), 'sync' FULL. A group whose commit has returned answers all its callers
 *
 * Threads: one.
 */
import { createRequire } from 'node:module';
import { join } from 'node:path';

const require = createRequire(import.meta.url);
const VALUE_BYTES = 8;

function bytesOf(balance) {
  const bytes = Buffer.allocUnsafe(VALUE_BYTES);
  bytes.writeDoubleLE(balance, 0);
  return bytes;
}

const balanceOf = (bytes) => bytes.readDoubleLE(0);

export class ConcordStore {
  isSync = false;
  db;
  /** How often a transaction's function ran: attempts. */
  attempts = 0;
  /** Of transferIn(): set by use(). */
  #options;

  async open(directory, { durability, shards, config, transaction }) {
    const { ConcordPool } = await loadConcord();
    this.#options = transaction;
    this.db = await ConcordPool.open(join(directory, 'store'), {
      shards,
      durability,
      memoryBytes: 2 ** 29,
      keyEncoding: 'utf8',
      valueEncoding: 'binary',
      ...config,
    });
  }

  use(options) {
    this.#options = options;
  }

  async load(keys, balance) {
    for (let at = 0; at < keys.length; at += 10_000)
      await Promise.all(keys.slice(at, at + 10_000).map((key) => this.db.put(key, bytesOf(balance))));
  }

  transfer(from, to, amount) {
    return this.db.transaction((tx) => {
      this.attempts++;
      const a = balanceOf(tx.getSync(from));
      const b = balanceOf(tx.getSync(to));
      tx.put(from, bytesOf(a - amount));
      tx.put(to, bytesOf(b + amount));
    }, this.#options);
  }

  /** Takes from the first and gives to the last, and writes all of them; by locks where the options say so. */
  move(keys, amount) {
    const isPessimistic = this.#options?.mode === 'pessimistic';
    return this.db.transaction(async (tx) => {
      this.attempts++;
      const last = keys.length - 1;
      for (let i = 0; i <= last; i++) {
        const balance = balanceOf(isPessimistic ? await tx.getForUpdate(keys[i]) : tx.getSync(keys[i]));
        const change = last === 0 ? 0 : i === 0 ? -amount : i === last ? amount : 0;
        tx.put(keys[i], bytesOf(balance + change));
      }
    }, this.#options);
  }

  sum(keys) {
    return keys.reduce((sum, key) => sum + balanceOf(this.db.getSync(key)), 0);
  }

  close() {
    return this.db.close();
  }
}

/** The package of this checkout: by name once bench/ is installed, else (the test suite) straight from dist/. */
async function loadConcord() {
  try {
    return await import('concordkv');
  } catch (error) {
    if (error.code !== 'ERR_MODULE_NOT_FOUND') throw error;
    return import('../../dist/index.js');
  }
}

class LmdbStore {
  isSync = false;
  attempts = 0;
  #db;
  #isDurable;

  async open(directory, { durability }) {
    const { open } = await import('lmdb');
    this.#isDurable = durability === 'sync';
    this.#db = open({
      path: join(directory, 'store'),
      encoding: 'binary',
      compression: false,
      mapSize: 2 ** 32,
      noSync: !this.#isDurable,
    });
  }

  async load(keys, balance) {
    await this.#db.transaction(() => {
      for (const key of keys) this.#db.put(key, bytesOf(balance));
    });
  }

  async transfer(from, to, amount) {
    const db = this.#db;
    await db.transaction(() => {
      this.attempts++;
      const a = balanceOf(db.getBinary(from));
      const b = balanceOf(db.getBinary(to));
      db.put(from, bytesOf(a - amount));
      db.put(to, bytesOf(b + amount));
    });
    if (this.#isDurable) await db.flushed;
  }

  sum(keys) {
    return keys.reduce((sum, key) => sum + balanceOf(this.#db.getBinary(key)), 0);
  }

  close() {
    return this.#db.close();
  }
}

class SqliteStore {
  isSync = true;
  attempts = 0;
  #db;
  #get;
  #put;
  #begin;
  #commit;

  open(directory, { durability }) {
    const Database = require('better-sqlite3');
    this.#db = new Database(join(directory, 'store.db'));
    this.#db.pragma('journal_mode = WAL');
    this.#db.pragma(`synchronous = ${durability === 'sync' ? 'FULL' : 'OFF'}`);
    this.#db.exec('CREATE TABLE accounts (key TEXT PRIMARY KEY, balance REAL NOT NULL) WITHOUT ROWID');
    this.#get = this.#db.prepare('SELECT balance FROM accounts WHERE key = ?').pluck();
    this.#put = this.#db.prepare('REPLACE INTO accounts (key, balance) VALUES (?, ?)');
    this.#begin = this.#db.prepare('BEGIN IMMEDIATE');
    this.#commit = this.#db.prepare('COMMIT');
  }

  load(keys, balance) {
    this.begin();
    for (const key of keys) this.#put.run(key, balance);
    this.commit();
  }

  begin() {
    this.#begin.run();
  }

  commit() {
    this.#commit.run();
  }

  transfer(from, to, amount) {
    this.attempts++;
    const a = this.#get.get(from);
    const b = this.#get.get(to);
    this.#put.run(from, a - amount);
    this.#put.run(to, b + amount);
  }

  sum(keys) {
    return keys.reduce((sum, key) => sum + this.#get.get(key), 0);
  }

  close() {
    this.#db.close();
  }
}

const stores = { concordkv: ConcordStore, lmdb: LmdbStore, sqlite: SqliteStore };

export function storeOf(engine) {
  return new stores[engine]();
}

/** Version of an engine, or undefined if it cannot be used here. */
export async function versionOf(engine) {
  try {
    if (engine === 'concordkv') return require('../../package.json').version;
    if (engine === 'lmdb') {
      await import('lmdb');
      return (await import('../support/package-version.mjs')).packageVersion('lmdb');
    }
    const Database = require('better-sqlite3');
    const db = new Database(':memory:');
    const sqlite = db.prepare('SELECT sqlite_version()').pluck().get();
    db.close();
    return `${require('better-sqlite3/package.json').version} (SQLite ${sqlite})`;
  } catch {
    return undefined;
  }
}
