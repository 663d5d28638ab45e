/** What a transaction leaves behind when it ends, however that comes: no snapshot, no place, no listing. */
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { ConcordPool, type BeginOptions, type Transaction } from '../../../dist/index.js';

/** As many as a store has. */
const SNAPSHOTS = 1024;
const PLACES = 4;

let db: ConcordPool;
beforeAll(async () => {
  db = await ConcordPool.open(':memory:', { shards: 2, durability: 'os', memoryBytes: 64 << 20 });
  await db.batch(Array.from({ length: 10 }, (_, i) => ({ type: 'put', key: `k${i}`, value: 'v' })));
});
afterAll(async () => {
  await db.close();
});

type Walk = 'iterator' | 'iterateSync';
const OPEN_WALKS: [string, BeginOptions, Walk][] = [
  ['read-committed', { isolation: 'read-committed' }, 'iterateSync'],
  ['read-committed', { isolation: 'read-committed' }, 'iterator'],
  ['pessimistic serializable', { mode: 'pessimistic' }, 'iterator'],
  ['pessimistic read-committed', { mode: 'pessimistic', isolation: 'read-committed' }, 'iterateSync'],
  ['optimistic serializable', {}, 'iterator'],
];

describe.each(OPEN_WALKS)('%s, %j, %s(): an iterator that was left open', (_, options, walk) => {
  const step = async (tx: Transaction): Promise<void> => void (await tx[walk]().next());

  test('has no snapshot when its transaction is over, committed, rolled back or failed', async () => {
    const before = db.stats().openSnapshots;
    await db.transaction(step, options);
    expect(db.stats().openSnapshots).toBe(before);
    const mine = new Error('mine');
    const failed = db.transaction(async (tx) => {
      await step(tx);
      throw mine;
    }, options);
    await expect(failed).rejects.toBe(mine);
    expect(db.stats().openSnapshots).toBe(before);
    const begun = db.begin(options);
    await step(begun);
    await step(begun);
    await begun.rollback();
    expect(db.stats().openSnapshots).toBe(before);
    const late = db.begin({ ...options, timeoutMs: 200 });
    // On a busy machine its time may be over sooner.
    await step(late).catch(() => undefined);
    await expect.poll(() => late.state).toBe('ended');
    expect(db.stats().openSnapshots).toBe(before);
  });

  test('costs no later one its snapshot', async () => {
    for (let i = 0; i <= SNAPSHOTS; i++) await db.transaction(step, { ...options, retries: 0 });
    const snapshot = await db.snapshot();
    await snapshot.close();
  });

  test('gives nothing more, and closing it takes nobody else a snapshot away', async () => {
    const tx = db.begin(options);
    const left = tx[walk]();
    await left.next();
    await tx.rollback();
    // Has the place in which the iterator's was.
    const snapshot = await db.snapshot();
    const open = db.stats().openSnapshots;
    const next = async (): Promise<unknown> => await left.next();
    await expect(next()).rejects.toMatchObject({ code: 'ERR_TRANSACTION_CLOSED' });
    await left.return();
    expect(db.stats().openSnapshots).toBe(open);
    await snapshot.close();
    expect(await next()).toEqual({ done: true, value: undefined });
  });

  test('gives its snapshot back once when it is closed before the end', async () => {
    const before = db.stats().openSnapshots;
    const tx = db.begin(options);
    const first = tx[walk]();
    await first.next();
    const held = db.stats().openSnapshots;
    await first.return();
    // In the place of the first.
    const second = tx[walk]();
    await second.next();
    await first.return();
    expect(db.stats().openSnapshots).toBe(held);
    await tx.rollback();
    expect(db.stats().openSnapshots).toBe(before);
  });
});

describe('a begun transaction that has failed', () => {
  let few: ConcordPool;
  beforeAll(async () => {
    const transactions = { maxConcurrent: PLACES };
    few = await ConcordPool.open(':memory:', { shards: 1, durability: 'os', memoryBytes: 16 << 20, transactions });
  });
  afterAll(async () => {
    await few.close();
  });
  const isRoom = async (): Promise<void> => {
    expect(await few.transactions()).toEqual([]);
    expect(await few.transaction((tx) => tx.id > 0, { timeoutMs: 60_000 })).toBe(true);
  };

  test('has no place and no listing any more when its time is over, before anybody looks at it', async () => {
    const begun = Array.from({ length: PLACES }, (_, i) => {
      const tx = few.begin({ timeoutMs: 50, mode: 'pessimistic' });
      void tx.put(`k${i}`, 'v');
      return tx;
    });
    await expect.poll(() => begun.every((tx) => tx.state === 'ended')).toBe(true);
    await isRoom();
    // Nor the locks.
    for (let i = 0; i < PLACES; i++) await few.put(`k${i}`, 'free');
    const late = { code: 'ERR_TRANSACTION_TIMEOUT' };
    for (const tx of begun) {
      await expect(tx.get('k0')).rejects.toMatchObject(late);
      await expect(tx.commit()).rejects.toMatchObject(late);
      await expect(tx.commit()).rejects.toMatchObject(late);
      await tx.rollback();
    }
    await isRoom();
  });

  test('has none after its signal, or a conflict', async () => {
    const reason = new Error('not any more');
    const controller = new AbortController();
    const aborted = few.begin({ signal: controller.signal });
    const begun = Array.from({ length: PLACES }, () => few.begin());
    await few.put('c', '0');
    for (const tx of begun) tx.getSync('c');
    await few.put('c', '1');
    await few.put('d', '1');
    controller.abort(reason);
    for (const tx of begun) expect(() => tx.getSync('c')).toThrow(expect.objectContaining({ code: 'ERR_CONFLICT' }));
    await isRoom();
    await expect(aborted.commit()).rejects.toBe(reason);
    for (const tx of begun) await expect(tx.commit()).rejects.toMatchObject({ code: 'ERR_CONFLICT' });
  });

  test('is counted by why it failed, once', async () => {
    const before = few.stats().transactions;
    const tx = few.begin({ timeoutMs: 20 });
    await expect.poll(() => tx.state).toBe('ended');
    await expect(tx.commit()).rejects.toMatchObject({ code: 'ERR_TRANSACTION_TIMEOUT' });
    await tx.rollback();
    const after = few.stats().transactions;
    expect([after.begun - before.begun, after.timeouts - before.timeouts]).toEqual([1, 1]);
    expect([after.rolledBack - before.rolledBack, after.open]).toEqual([0, 0]);
  });

  test('refuses writes that are not awaited without an unhandled rejection: the commit tells', async () => {
    const unhandled: unknown[] = [];
    const note = (error: unknown): void => void unhandled.push(error);
    process.on('unhandledRejection', note);
    const tx = few.begin({ timeoutMs: 20 });
    await expect.poll(() => tx.state).toBe('ended');
    void tx.put('a', '1');
    void tx.del('a');
    void tx.update('a', () => '1');
    await sleep(10);
    process.off('unhandledRejection', note);
    expect(unhandled).toEqual([]);
    await expect(tx.commit()).rejects.toMatchObject({ code: 'ERR_TRANSACTION_TIMEOUT' });
  });
});

describe('what is open is listed', () => {
  test('as many as may run at a time, and more', async () => {
    const begun = Array.from({ length: 1000 }, () => db.begin());
    expect((await db.transactions()).map(({ id }) => id)).toEqual(begun.map(({ id }) => id));
    expect(db.stats().transactions.open).toBe(1000);
    for (const tx of begun) await tx.rollback();
    expect(await db.transactions()).toEqual([]);
  });

  test('as many as maxConcurrent says, where that is more', async () => {
    const transactions = { maxConcurrent: 3000 };
    await using wide = await ConcordPool.open(':memory:', { shards: 1, memoryBytes: 16 << 20, transactions });
    const begun = Array.from({ length: 3000 }, () => wide.begin());
    expect(await wide.transactions()).toHaveLength(3000);
    for (const tx of begun) await tx.rollback();
    expect(await wide.transactions()).toEqual([]);
  });
});
