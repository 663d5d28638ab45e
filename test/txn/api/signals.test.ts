/** Signals and deadlines, wherever a transaction is when they come: before it has begun, and while an iterator of it waits for its lock. */
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { ConcordPool } from '../../../dist/index.js';

const reason = new Error('not any more');

let db: ConcordPool;
beforeEach(async () => {
  const transactions = { maxConcurrent: 1 };
  db = await ConcordPool.open(':memory:', { shards: 2, durability: 'os', memoryBytes: 64 << 20, transactions });
});
afterEach(async () => {
  // Whatever was refused has given its place back.
  expect(await db.transaction(() => 'has a place', { timeoutMs: 60_000 })).toBe('has a place');
  expect(db.stats().transactions).toMatchObject({ open: 0, waiting: 0 });
  await db.close();
});

describe('a transaction that has not begun', () => {
  test('does not when its signal aborts while its space is being created', async () => {
    const space = db.space('fresh');
    const controller = new AbortController();
    let runs = 0;
    const run = space.transaction(
      (tx) => {
        runs++;
        void tx.put('a', '1');
      },
      { signal: controller.signal },
    );
    controller.abort(reason);
    await expect(run).rejects.toBe(reason);
    expect([runs, await space.get('a')]).toEqual([0, undefined]);
  });

  test('does not when its time is over before its space is there', async () => {
    const space = db.space('fresh');
    let runs = 0;
    const run = space.transaction(() => void runs++, { timeoutMs: 0.01 });
    await expect(run).rejects.toMatchObject({ code: 'ERR_TRANSACTION_TIMEOUT' });
    expect(runs).toBe(0);
  });

  test('does not when its signal aborts in the moment in which it gets its place', async () => {
    const first = db.begin();
    const controller = new AbortController();
    let runs = 0;
    const run = db.transaction(() => void runs++, { signal: controller.signal });
    const next = db.transaction(() => 'next');
    void first.rollback();
    controller.abort(reason);
    await expect(run).rejects.toBe(reason);
    expect([runs, await next]).toEqual([0, 'next']);
  });

  test('does not when its time is over in the moment in which it gets its place', async () => {
    const first = db.begin();
    let runs = 0;
    const run = db.transaction(() => void runs++, { timeoutMs: 20 });
    // The timer has not been served.
    for (const untilMs = performance.now() + 30; performance.now() < untilMs;);
    void first.rollback();
    await expect(run).rejects.toMatchObject({ code: 'ERR_TRANSACTION_TIMEOUT' });
    expect(runs).toBe(0);
  });

  test('rejects with the reason, and does not wait for a place, when its signal has aborted while its space was created', async () => {
    const first = db.begin();
    const controller = new AbortController();
    const run = db.space('fresh').transaction(() => 'ran', { signal: controller.signal });
    controller.abort(reason);
    await expect(run).rejects.toBe(reason);
    await first.rollback();
  });
});

describe('an iterator that waits for its range', () => {
  test('ends with the reason of its signal, and its transaction goes on', async () => {
    const holder = db.begin({ mode: 'pessimistic' });
    await holder.put('k1', 'held');
    const waiter = db.begin({ mode: 'pessimistic' });
    const controller = new AbortController();
    const iterator = waiter.iterator({ signal: controller.signal });
    const entries = iterator.all();
    await sleep(50);
    controller.abort(reason);
    await expect(entries).rejects.toBe(reason);
    expect(await iterator.next()).toEqual({ done: true, value: undefined });
    // Nobody has let go meanwhile.
    expect(holder.state).toBe('active');
    await holder.commit();
    expect(await waiter.iterator({ signal: new AbortController().signal }).all()).toEqual([['k1', 'held']]);
    await waiter.put('k2', 'mine');
    await waiter.commit();
    expect(await db.get('k2')).toBe('mine');
  });
});
