/** What a transaction leaves behind when it ends, however that comes: no snapshot. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { ConcordPool, type BeginOptions, type Transaction } from '../../../dist/index.js';

/** As many as a store has. */
const SNAPSHOTS = 1024;

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
