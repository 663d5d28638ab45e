/**
 * Random operations on a pool, for tests of the feed: puts, deletes, batches, transactions, large values, clears,
 * entries that expire, several spaces. In any thread.
 */
import { patternText } from './text.mjs';

/** 32 bits from a seed. */
export function randomOf(seed) {
  let state = seed >>> 0;
  return (bound) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) % bound;
  };
}

const LEVELS = ['memory', 'memory', 'os', 'os', 'os', 'os', 'os', 'sync'];

/** Runs until `isOver()`. Calls that fail because the store ends are over, too. */
export async function runLoad(db, { seed, callers, isOver, expiring = true }) {
  const json = db.space('json', { valueEncoding: 'json' });
  const hash = db.space('hash', { engine: 'hash' });
  await Promise.all([json.ready, hash.ready]);
  const random = randomOf(seed);
  let count = 0;
  const step = async () => {
    const n = ++count;
    const key = `k${random(120)}`;
    const durability = LEVELS[random(8)];
    const options = { durability };
    switch (random(24)) {
      case 0:
        await db.put(key, patternText(60_000 + random(140_000), n), options);
        break;
      case 1:
        await db.clear({ gte: key, lt: `${key}5` });
        break;
      case 2:
        await (random(30) === 0 ? db.clear() : json.clear({ prefix: key }));
        break;
      case 3:
      case 4: {
        // Any keys of one shard: those that differ behind nothing that is hashed are few, so the same key in several spaces.
        const value = `${seed}:${n}`;
        await db.batch(
          [
            { type: 'put', key, value },
            { type: 'put', key, value: { of: value }, space: json },
            { type: 'put', key, value, space: hash },
            { type: 'put', key, value: `${value} again` },
          ],
          options,
        );
        break;
      }
      case 5:
        await db.batch(
          [
            { type: 'put', key, value: patternText(150_000, n) },
            { type: 'del', key, space: hash },
          ],
          options,
        );
        break;
      case 6:
        if (expiring) await db.put(key, `${seed}:${n} brief`, { ...options, ttlMs: 5 + random(60) });
        break;
      case 7:
      case 8:
      case 9:
        await db.del(key, options);
        break;
      case 10:
        await hash.del(key, options);
        break;
      case 11:
      case 12:
        await hash.put(key, `${seed}:${n}`, options);
        break;
      case 14:
      case 15:
        // Over several shards and spaces; who loses to another is not tried again here.
        await db
          .transaction(async (transaction) => {
            const old = await transaction.get(key);
            for (let i = 0; i < 5; i++)
              await transaction.put(`k${random(120)}`, `${seed}:${n}:${i} with ${old?.length}`);
            await transaction.space(hash).put(key, `${seed}:${n} in it`);
            await transaction.del(`k${random(120)}`);
          }, options)
          .catch((error) => {
            if (error.retryable !== true) throw error;
          });
        break;
      case 13:
        await json.put(key, [seed, n], options);
        break;
      default:
        await db.put(key, `${seed}:${n}`, options);
    }
  };
  await Promise.all(
    Array.from({ length: callers }, async () => {
      while (!isOver()) await step();
    }),
  );
}

/** What the store holds: 'space/key' → value as JSON. */
export async function entriesOf(db) {
  const entries = new Map();
  for (const name of ['', 'json', 'hash']) {
    const space = name === '' ? db : db.space(name, name === 'json' ? { valueEncoding: 'json' } : { engine: 'hash' });
    for await (const [key, value] of space.iterator()) entries.set(`${name}/${key}`, JSON.stringify(value));
  }
  return entries;
}

/** A map that follows a feed. */
export class Replica {
  entries = new Map();
  changes = 0;
  /** By shard: numbers only grow, and none comes twice. */
  #last = new Map();
  #open;

  apply(change) {
    this.changes++;
    const { type, space, shard, version, transaction } = change;
    const last = this.#last.get(shard) ?? 0;
    if (transaction === undefined || transaction.index === 0) {
      if (this.#open !== undefined) throw new Error(`change ${version} stands within transaction ${this.#open.id}`);
      if (version <= last) throw new Error(`shard ${shard}: change ${version} comes behind ${last}`);
    }
    if (transaction !== undefined) {
      const { id, size, index, last: isLast } = transaction;
      const expected = this.#open === undefined ? 0 : this.#open.index + 1;
      if (index !== expected || (this.#open !== undefined && this.#open.id !== id) || isLast !== (index === size - 1))
        throw new Error(`change ${index} of ${size} of transaction ${id} where ${expected} should be`);
      this.#open = isLast ? undefined : { id, index };
    }
    this.#last.set(shard, Math.max(last, version));
    if (type === 'clear') {
      for (const entry of [...this.entries.keys()]) {
        const at = entry.indexOf('/');
        if (entry.slice(0, at) === space && change.covers(entry.slice(at + 1))) this.entries.delete(entry);
      }
      return;
    }
    const entry = `${space}/${change.key}`;
    if (type === 'del') this.entries.delete(entry);
    else this.entries.set(entry, { value: JSON.stringify(change.value), expiresAt: change.expiresAt });
  }

  /** As entriesOf(): what has expired is gone. */
  get live() {
    const now = Date.now();
    const live = new Map();
    for (const [key, { value, expiresAt }] of this.entries) {
      if (expiresAt === undefined || expiresAt > now) live.set(key, value);
    }
    return live;
  }
}

/** What differs between two maps; empty when they are equal. */
export function differences(a, b) {
  const found = [];
  for (const [key, value] of a)
    if (b.get(key) !== value) found.push(`${key}: ${brief(value)} and ${brief(b.get(key))}`);
  for (const [key, value] of b) if (!a.has(key)) found.push(`${key}: nothing and ${brief(value)}`);
  return found.slice(0, 10);
}

function brief(value) {
  return value === undefined ? 'nothing' : value.length < 60 ? value : `${value.slice(0, 40)}… (${value.length})`;
}
