/** Transactions that wait for each other, as their users meet it: who fails under each policy, with what, and that the others get on. */
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { ConcordPool, type Transaction } from '../../../dist/index.js';
import { keysOfShard } from '../../support/pool-scene.js';

const SHARDS = 2;
const [a, b] = [keysOfShard(0, SHARDS, 1)[0]!, keysOfShard(1, SHARDS, 1)[0]!];

interface Edge {
  readonly txn: number;
  readonly waitsFor: number;
  readonly key: unknown;
}

interface Failure {
  readonly code: string;
  readonly details: { readonly policy?: string; readonly cycle?: readonly Edge[] };
}

/** Nothing must be decided by time. */
const LONG_MS = 60_000;
let db: ConcordPool;
/** 'committed', or why not. */
const endOf = async (tx: Transaction, key: string): Promise<'committed' | Failure> => {
  try {
    await tx.put(key, 'mine');
    await tx.commit();
    return 'committed';
  } catch (error) {
    await tx.rollback();
    return error as Failure;
  }
};

describe.each(['detect', 'wait-die', 'wound-wait'] as const)('%s', (deadlock) => {
  beforeEach(async () => {
    db = await ConcordPool.open(':memory:', { shards: SHARDS, memoryBytes: 64 << 20, deadlock });
    await db.batch([a, b].map((key) => ({ type: 'put', key, value: '0' })));
  });
  afterEach(async () => {
    await db.close();
  });
  const begin = (priority = 0): Transaction =>
    db.begin({ mode: 'pessimistic', priority, lockTimeoutMs: LONG_MS, timeoutMs: LONG_MS });

  // The one of the lowest priority, of these the youngest.
  test.each([
    [0, 0, 1],
    [0, 5, 0],
    [5, 0, 1],
    [-3, -2, 0],
  ])(
    'of two of priorities %i and %i that share a key and want to write it, number %i fails',
    async (first, second, fails) => {
      const both = [begin(first), begin(second)];
      for (const tx of both) expect(await tx.get(a)).toBe('0');
      const ends = await Promise.all(both.map((tx) => endOf(tx, a)));
      expect(ends[1 - fails]).toBe('committed');
      expect(ends[fails]).toMatchObject({ code: 'ERR_DEADLOCK' });
      expect(await db.get(a)).toBe('mine');
      expect(await db.transactions()).toEqual([]);
    },
  );

  test('of three in a circle over two shards one fails, and the others commit', async () => {
    const c = keysOfShard(0, SHARDS, 2)[1]!;
    const keys = [a, b, c];
    const all = [begin(2), begin(1), begin(3)];
    // A senior one may have taken a lock away by now: then its owner hears of it.
    for (const [index, tx] of all.entries()) await tx.put(keys[index]!, String(index));
    const ends = await Promise.all(all.map((tx, index) => endOf(tx, keys[(index + 1) % 3]!)));
    const failures = ends.filter((end): end is Failure => end !== 'committed');
    expect(failures.length).toBeGreaterThan(0);
    for (const failure of failures) expect(failure).toMatchObject({ code: 'ERR_DEADLOCK' });
    if (deadlock !== 'detect') {
      // Nobody of the highest priority dies or is wounded.
      expect(ends[2]).toBe('committed');
      for (const { details } of failures) expect(details.policy).toBe(deadlock);
      return;
    }
    expect(ends.map((end) => end === 'committed')).toEqual([true, false, true]);
    const { cycle } = failures[0]!.details;
    const ids = all.map(({ id }) => id);
    expect(new Set(cycle!.map(({ txn }) => txn))).toEqual(new Set(ids));
    for (const { txn, waitsFor, key } of cycle!) {
      const index = ids.indexOf(txn);
      expect(waitsFor).toBe(ids[(index + 1) % 3]);
      expect(String(key)).toContain(keys[(index + 1) % 3]);
    }
  });

  test('transaction() tries again, and everybody gets through', async () => {
    const increment = (first: string, second: string): Promise<void> =>
      db.transaction(
        async (tx) => {
          void tx.put(first, String(Number(await tx.getForUpdate(first)) + 1));
          void tx.put(second, String(Number(await tx.getForUpdate(second)) + 1));
        },
        { mode: 'pessimistic', retries: 1000, lockTimeoutMs: LONG_MS, timeoutMs: LONG_MS },
      );
    const calls = Array.from({ length: 40 }, (_, i) => (i % 2 === 0 ? increment(a, b) : increment(b, a)));
    await Promise.all(calls);
    expect(await db.getMany([a, b])).toEqual(['40', '40']);
  });
});

test('wound-wait: who has only read under a lock that was taken away does not commit', async () => {
  db = await ConcordPool.open(':memory:', { shards: SHARDS, memoryBytes: 64 << 20, deadlock: 'wound-wait' });
  await db.batch([a, b].map((key) => ({ type: 'put', key, value: '0' })));
  const junior = db.begin({ mode: 'pessimistic' });
  expect(await junior.get(a)).toBe('0');
  const senior = db.begin({ mode: 'pessimistic', priority: 5 });
  await senior.put(a, '1');
  await senior.put(b, '1');
  await senior.commit();
  await junior.get(b).catch(() => undefined);
  await expect(junior.commit()).rejects.toMatchObject({ code: 'ERR_DEADLOCK' });
  const ranger = db.begin({ mode: 'pessimistic' });
  expect(await ranger.keys({ gte: a, lte: a }).all()).toEqual([a]);
  const other = db.begin({ mode: 'pessimistic', priority: 5 });
  await other.put(a, '2');
  await other.commit();
  await expect(ranger.commit()).rejects.toMatchObject({ code: 'ERR_DEADLOCK' });
  await db.close();
});
