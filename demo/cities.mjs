/**
 * The city store of the demo: its keys, and updates that keep a record and its place in the population order together.
 *
 *   ['city', country, name, id]                      → the record, JSON
 *   ['population', country, population, name, id]    → null, so that a range scan gives the cities of a country by size
 *
 * The two keys may live on different shards, and a batch is atomic within one. So the order is kept by the sequence of writes, which
 * works with any number of shards:
 *
 *   1. put the new order entry   2. put the record   3. delete the old order entry
 *
 * The record is the truth. At every moment, also after a kill between two steps, the order entry of the record's population is there;
 * an entry that disagrees with its record is left over or ahead of it, and readers pass over it. Within one snapshot each city is
 * therefore met exactly once. sweep() deletes what a kill left over.
 */
export const cityKey = (city) => ['city', city.country, city.name, city.cityId];

export const orderKey = (record) => ['population', record.country, record.population, record.name, record.cityId];

const recordKeyOf = ([, country, , name, cityId]) => ['city', country, name, cityId];

/** What is stored for a city: the data set's fields and how often we have changed it. Readers can check a record by itself. */
export function firstRecord(city) {
  return { ...city, basePopulation: city.population, revision: 0 };
}

export function nextRecord(record) {
  const revision = record.revision + 1;
  return { ...record, revision, population: record.basePopulation + revision };
}

/** What is wrong with a record found under this key, if anything. */
export function problemOf(key, record) {
  if (record === undefined) return 'is missing';
  if (record.cityId !== key[3] || record.name !== key[2] || record.country !== key[1]) return 'is another city';
  if (record.population !== record.basePopulation + record.revision) return 'has a population of another revision';
  return undefined;
}

/** Grows a city by one. One caller per city at a time; acknowledged when all three writes are. */
export async function grow(db, key, onBegin) {
  const old = db.getSync(key);
  const record = nextRecord(old);
  onBegin?.(record);
  await db.put(orderKey(record), null);
  await db.put(key, record);
  await db.del(orderKey(old));
  return record;
}

/** The largest cities of a country, by one range scan over its order entries. */
export async function largest(db, country, count) {
  const snapshot = await db.snapshot();
  const cities = [];
  try {
    for await (const key of snapshot.keys({ prefix: ['population', country], reverse: true })) {
      const record = snapshot.getSync(recordKeyOf(key));
      if (record?.population !== key[2]) continue;
      cities.push(record);
      if (cities.length === count) break;
    }
  } finally {
    await snapshot.close();
  }
  return cities;
}

/** Deletes order entries that disagree with their record; returns how many there were. Nobody may write meanwhile. */
export async function sweep(db) {
  const stale = [];
  for await (const key of db.keys({ prefix: ['population'] })) {
    if (db.getSync(recordKeyOf(key))?.population !== key[2]) stale.push(key);
  }
  await Promise.all(stale.map((key) => db.del(key)));
  return stale.length;
}

/** Runs work(index) for each of the numbers 0 … count - 1, at most `width` at once. */
export async function inParallel(count, width, work) {
  let next = 0;
  const run = async () => {
    while (next < count) await work(next++);
  };
  await Promise.all(Array.from({ length: Math.min(width, count) }, run));
}

/** A small deterministic generator (mulberry32). */
export function randomOf(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}
