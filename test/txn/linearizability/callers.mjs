/**
 * What the threads of the linearizability test do: operations of every kind on few keys, each recorded with the tickets before its call and after its answer.
 *
 * Keys are used for a while, then others: a call whose outcome nobody learns stays open for the checker as long as its key is used.
 */
import { makeRandom } from '../../support/memory-random.mjs';
import { Tickets } from '../../support/history/tickets.mjs';

export const ENGINES = ['btree', 'hash', 'lsm', 'rbtree'];
const KEYS = 8;
/** So many tickets a set of keys is in use. */
const TICKETS_PER_SET = 6000;
/** The call has certainly not happened. */
const FAILED = new Set(['ERR_CONFLICT', 'ERR_DEADLOCK', 'ERR_LOCK_TIMEOUT', 'ERR_SHARD_FAILED']);

/**
 * @param {import('../../../dist/index.js').ConcordPool} db
 * @param {{ callers: number, seed: number, thread: number, memory: SharedArrayBuffer, transactions: boolean }} options
 */
export async function call(db, { callers, seed, thread, memory, transactions }) {
  const tickets = new Tickets(memory);
  const spaces = ENGINES.map((engine) => db.space(`linear-${engine}`, { engine }));
  const operations = [];
  const failures = {};
  let values = 0;
  const random = makeRandom(seed);
  for (let warm = 0; warm < 8; warm++) random();

  /** Runs one call; `act` returns what is to be recorded beside the times. */
  async function record(key, act) {
    const operation = { kind: 'get', key, start: tickets.take(), end: Infinity };
    try {
      await act(operation);
      operation.end = tickets.take();
    } catch (error) {
      if (error.code === undefined) throw error;
      failures[error.code] = (failures[error.code] ?? 0) + 1;
      if (operation.kind === 'get' || FAILED.has(error.code)) return;
    }
    operations.push(operation);
    tickets.count();
  }

  async function one() {
    const key = Math.floor(tickets.taken / TICKETS_PER_SET) * KEYS + (random() % KEYS);
    const space = spaces[key % spaces.length];
    const name = `key${key}`;
    // Unique among all threads.
    const value = thread * 2 ** 22 + ++values;
    const text = String(value);
    const kind = random() % (transactions ? 12 : 10);
    const numberOf = (stored) => (stored === undefined ? 0 : Number(stored));
    if (kind < 2) {
      await record(key, (operation) => {
        operation.value = numberOf(space.getSync(name));
      });
    } else if (kind < 3) {
      await record(key, async (operation) => {
        operation.value = numberOf(await space.get(name));
      });
    } else if (kind < 5) {
      await record(key, (operation) => {
        Object.assign(operation, { kind: 'put', value });
        return space.put(name, text);
      });
    } else if (kind < 6) {
      await record(key, (operation) => {
        operation.kind = 'del';
        return space.del(name);
      });
    } else if (kind < 7) {
      await record(key, async (operation) => {
        Object.assign(operation, { kind: 'cas', expected: 0, value });
        operation.done = await space.put(name, text, { ifAbsent: true });
      });
    } else if (kind < 9) {
      let entry;
      await record(key, async (operation) => {
        entry = await space.getEntry(name);
        operation.value = numberOf(entry?.value);
      });
      const isDelete = random() % 4 === 0;
      await record(key, async (operation) => {
        Object.assign(operation, { kind: 'cas', expected: numberOf(entry?.value), value: isDelete ? 0 : value });
        const ifVersion = entry?.version ?? 0;
        operation.done = await (isDelete ? space.del(name, { ifVersion }) : space.put(name, text, { ifVersion }));
      });
    } else if (kind < 10) {
      await record(key, async (operation) => {
        operation.kind = 'update';
        operation.value = value;
        await space.update(name, (stored) => {
          operation.expected = numberOf(stored);
          return text;
        });
      });
    } else {
      const options = { mode: kind === 10 ? 'optimistic' : 'pessimistic', retries: 0 };
      await record(key, async (operation) => {
        operation.kind = 'update';
        operation.value = value;
        await db.transaction(async (tx) => {
          const own = tx.space(space);
          operation.expected = numberOf(await (kind === 10 ? own.get(name) : own.getForUpdate(name)));
          // It is on several shards now and then.
          if (random() % 3 === 0) void own.put(`aside${random() % 64}`, text);
          await own.put(name, text);
        }, options);
      });
    }
  }

  async function caller() {
    while (!tickets.isOver) {
      await one();
      // Reads from shared memory leave no turn to others by themselves.
      if (random() % 4 === 0) await new Promise((resolve) => setImmediate(resolve));
    }
  }

  await Promise.all(Array.from({ length: callers }, caller));
  return { operations, failures };
}
