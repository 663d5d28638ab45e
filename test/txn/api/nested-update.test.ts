/** update() or commit() within the change function of an update(): they would wait for each other, and it is told at once. */
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { ConcordPool, type Transaction } from '../../../dist/index.js';

let db: ConcordPool;
beforeAll(async () => {
  db = await ConcordPool.open(':memory:', { shards: 2, durability: 'os', memoryBytes: 16 << 20 });
});
afterAll(async () => {
  await db.close();
});
beforeEach(async () => {
  await db.clear();
});

const NESTED: [string, (tx: Transaction) => Promise<unknown>][] = [
  [
    'at once',
    (tx) =>
      tx.update('a', async () => {
        await tx.update('b', () => '1');
        return '2';
      }),
  ],
  [
    'after a wait',
    (tx) =>
      tx.update('a', async () => {
        await tx.get('c');
        await sleep(1);
        await tx.update('a', () => '1');
        return '2';
      }),
  ],
  ['by a function that returns the promise', (tx) => tx.update('a', () => tx.update('b', () => '1'))],
  [
    'in another space, three deep in flows',
    (tx) =>
      tx.update('a', async () => {
        const flow = async (): Promise<unknown> => {
          await sleep(1);
          return await Promise.all([tx.space(db).update('b', () => '1')]);
        };
        await flow();
        return '2';
      }),
  ],
  [
    'by way of another transaction',
    (tx) =>
      tx.update('a', async () => {
        await db.transaction((other) =>
          other.update('b', async () => {
            await sleep(1);
            return await tx.update('c', () => '1');
          }),
        );
        return '2';
      }),
  ],
];

test.each(NESTED)('is refused: %s', async (_, nest) => {
  const startedMs = performance.now();
  await expect(db.transaction(nest)).rejects.toMatchObject({ code: 'ERR_INVALID_ARG', name: 'TypeError' });
  await expect(db.transaction(nest, { mode: 'pessimistic' })).rejects.toThrow(/update/);
  // It takes thirty seconds to wait for.
  expect(performance.now() - startedMs).toBeLessThan(25_000);
  expect(await db.count()).toBe(0);
});

test.each([
  ['at once', 0],
  ['after a wait', 1],
])('so is a commit: %s', async (_, pauseMs) => {
  const tx = await db.begin({ timeoutMs: 20_000 });
  const updated = tx.update('a', async () => {
    if (pauseMs > 0) await sleep(pauseMs);
    await tx.commit();
    return '1';
  });
  await expect(updated).rejects.toThrow(/commit/);
  await expect(tx.commit()).rejects.toMatchObject({ code: 'ERR_INVALID_ARG' });
  expect(await db.count()).toBe(0);
  // Another transaction's is its own affair.
  const outer = await db.begin();
  await outer.update('a', async () => {
    const inner = await db.begin();
    await inner.put('b', '1');
    await inner.commit();
    return '2';
  });
  await outer.commit();
  expect([await db.get('a'), await db.get('b')]).toEqual(['2', '1']);
});

test('other flows, other transactions, and what a change function has left behind, may update', async () => {
  let left: Promise<unknown> | undefined;
  const n = await db.transaction(async (tx) => {
    const add = (pauseMs: number): Promise<string | undefined> =>
      tx.update('n', async (value) => {
        await sleep(pauseMs);
        return String(Number(value ?? 0) + 1);
      });
    // Flows that were begun before, while, and after a change function runs.
    const flow = sleep(2).then(() => add(0));
    const first = tx.update('n', async (value) => {
      const ended = sleep(20).then(() => first);
      left = ended.then(() => add(0));
      await db.transaction((other) => other.update('of another', async () => Promise.resolve('1')));
      await sleep(5);
      return String(Number(value ?? 0) + 1);
    });
    await Promise.all([first, flow, add(1), add(0), tx.update('n', (value) => String(Number(value ?? 0) + 1))]);
    await left;
    return await tx.get('n');
  });
  expect([n, await db.get('n'), await db.get('of another')]).toEqual(['6', '6', '1']);
});

test('what a change function throws is no obstacle to updates of later transactions', async () => {
  const mine = new Error('mine');
  for (const change of [
    (): never => {
      throw mine;
    },
    async (): Promise<never> => {
      await sleep(1);
      throw mine;
    },
  ]) {
    await expect(db.transaction((tx) => tx.update('a', change))).rejects.toBe(mine);
    expect(await db.transaction((tx) => tx.update('a', () => '1'))).toBe('1');
  }
});
