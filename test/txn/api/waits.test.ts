/** What waits, and for how long: locks that are not granted, reads beside commits, ends of threads and stores. */
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { CommitBoard, commitBoardBytes } from '../../../dist/actors/commit-board.js';
import { ConcordPool, type Transaction } from '../../../dist/index.js';
import { hashBytes } from '../../../dist/shared/hash.js';

const codeOf = (error: unknown): string => (error as { code: string }).code;

let db: ConcordPool;
beforeAll(async () => {
  db = await ConcordPool.open(':memory:', { shards: 2, durability: 'os', memoryBytes: 64 << 20 });
});
afterAll(async () => {
  await db.close();
});

describe('a lock that is not granted', () => {
  test('is waited for as long as was said, not until its shard looks around', async () => {
    const holder = db.begin({ mode: 'pessimistic' });
    await holder.getForUpdate('locked');
    const tookMs: number[] = [];
    // One that was on time is enough: others may have had the cores.
    for (let i = 0; i < 5 || (i < 50 && Math.min(...tookMs) >= 500); i++) {
      const begunMs = performance.now();
      await using waiter = db.begin({ mode: 'pessimistic', lockTimeoutMs: 50 });
      await expect(waiter.getForUpdate('locked')).rejects.toMatchObject({ code: 'ERR_LOCK_TIMEOUT' });
      tookMs.push(performance.now() - begunMs);
    }
    await holder.rollback();
    expect(Math.min(...tookMs)).toBeGreaterThan(45);
    expect(Math.min(...tookMs)).toBeLessThan(500);
  });
});

test('a batch waits for locks as long as a put, over one shard or several, and says so', async () => {
  const lockTimeoutMs = 400;
  const store = await ConcordPool.open(':memory:', { shards: 2, transactions: { lockTimeoutMs } });
  const keys = Array.from({ length: 10 }, (_, i) => `k${i}`);
  await using holder = store.begin({ mode: 'pessimistic' });
  await holder.put(keys[0]!, 'held');
  for (const written of [keys.slice(0, 1), keys]) {
    const begunMs = performance.now();
    const batch = store.batch(written.map((key) => ({ type: 'put', key, value: 'batch' })));
    await expect(batch).rejects.toMatchObject({ code: 'ERR_LOCK_TIMEOUT' });
    expect(performance.now() - begunMs).toBeGreaterThan(lockTimeoutMs - 5);
  }
  expect(await store.count()).toBe(0);
  const waiting = store.batch(keys.map((key) => ({ type: 'put', key, value: 'batch' })));
  await holder.commit();
  await waiting;
  expect(await store.getMany(keys)).toEqual(keys.map(() => 'batch'));
  await store.close();
}, 20_000);

describe('a key that a transaction may change', () => {
  test('is read while other shards have commits to apply and its own has none', async () => {
    const { commits } = (db as unknown as { client: { control: { commits: CommitBoard } } }).client.control;
    let asked = 0;
    const waitForShard = commits.waitForShard.bind(commits);
    commits.waitForShard = async (shard) => {
      if (++asked > 10) throw new Error('it is asked for over and over');
      await waitForShard(shard);
    };
    const key = Buffer.from('prepared');
    const hash = hashBytes(key, 0, key.length);
    await db.put('prepared', 'before');
    for (const shard of [0, 1]) commits.countPrepared(shard, hash, 1);
    // Entries that others are about to apply, all the time.
    Object.defineProperty(commits, 'isEmpty', { get: () => false, configurable: true });
    try {
      expect(await db.get('prepared')).toBe('before');
      expect(await db.has('prepared')).toBe(true);
      expect(await db.getMany(['prepared', 'other'])).toEqual(['before', undefined]);
    } finally {
      Reflect.deleteProperty(commits, 'isEmpty');
      for (const shard of [0, 1]) commits.countPrepared(shard, hash, -1);
      commits.waitForShard = waitForShard;
    }
  });
});

describe('writes that meet a lock', () => {
  test('wait in bounded memory: who comes too late is refused with a code, the others are put when it is free', async () => {
    const holder = db.begin({ mode: 'pessimistic', timeoutMs: 200_000 });
    await holder.getForUpdate('hot');
    const PUTS = 100_000;
    const outcomes = { put: 0, ERR_BUSY: 0, ERR_LOCK_TIMEOUT: 0 };
    const puts = Array.from({ length: PUTS }, (_, i) =>
      db.put('hot', String(i), { durability: 'memory' }).then(
        () => void outcomes.put++,
        // On a busy machine some have waited for too long.
        ({ code }: { code: keyof typeof outcomes }) => void outcomes[code]++,
      ),
    );
    await vi.waitUntil(() => outcomes.ERR_BUSY > 0, { timeout: 60_000 });
    // Others are served all the time, and so is the transaction.
    await db.put('cold', 'served');
    void holder.put('hot', 'mine');
    await holder.commit();
    await Promise.all(puts);
    const { put, ERR_BUSY: refused, ERR_LOCK_TIMEOUT: late } = outcomes;
    expect(put + refused + late).toBe(PUTS);
    expect(refused).toBeGreaterThan(0);
    expect(put + late).toBeGreaterThanOrEqual(8192);
    // What was counted is counted off: as many may wait again.
    const again = db.begin({ mode: 'pessimistic', timeoutMs: 200_000 });
    await again.getForUpdate('hot');
    const later = Array.from({ length: 8192 }, () => db.put('hot', 'later', { durability: 'memory' }));
    const ended = Promise.allSettled(later);
    // Behind them all: they have been looked at.
    await db.flush();
    await again.rollback();
    const codes = (await ended).map((end) => (end.status === 'fulfilled' ? 'put' : codeOf(end.reason)));
    expect(codes).not.toContain('ERR_BUSY');
    expect(codes).toContain('put');
    expect(await db.get('hot')).toBe('later');
  });
});

describe('a commit in one shard', () => {
  test('waits for a lock that is in its way, also with a body that has come in pieces', async () => {
    for (const value of ['short', 'v'.repeat(200 << 10)]) {
      const holder = db.begin({ mode: 'pessimistic' });
      await holder.getForUpdate('held');
      let outcome = 'waits';
      const commit = db
        .transaction((tx) => void tx.put('held', value), { retries: 0 })
        .then(
          () => (outcome = 'ok'),
          (error: Error) => (outcome = error.message),
        );
      await new Promise((resolve) => setTimeout(resolve, 50));
      expect(outcome).toBe('waits');
      await holder.rollback();
      expect(await commit).toBe('ok');
      expect(await db.get('held')).toBe(value);
    }
  });
});

/** Who gives up by himself has ended before; a lock is waited for twice as long by those who say nothing. */
const LATE_MS = 5000;

/** A transaction that has locked the key. */
async function lockKey(key: string): Promise<Transaction> {
  const holder = db.begin({ mode: 'pessimistic' });
  await holder.getForUpdate(key);
  return holder;
}

describe('a commit that waits behind a lock', () => {
  const values = [
    ['short', 'short'],
    ['in pieces', 'v'.repeat(300 << 10)],
  ] as const;

  /** What the call rejects with, and that it does so long before the lock is free. */
  async function refusalOf(key: string, call: () => Promise<unknown>): Promise<unknown> {
    const holder = await lockKey(key);
    const begunMs = performance.now();
    const refusal: unknown = await call().then(
      () => 'committed',
      (error: unknown) => error,
    );
    expect(performance.now() - begunMs).toBeLessThan(LATE_MS);
    await holder.rollback();
    return refusal;
  }

  test.each(values)('ends when its transaction may last no longer: %s', async (name, value) => {
    const key = `timeout ${name}`;
    const timeoutMs = 100;
    const run = (): Promise<void> => db.transaction((tx) => void tx.put(key, value), { timeoutMs });
    expect(await refusalOf(key, run)).toMatchObject({ code: 'ERR_TRANSACTION_TIMEOUT', details: { timeoutMs } });
    const begun = (): Promise<void> => {
      const tx = db.begin({ timeoutMs });
      void tx.put(key, value);
      return tx.commit();
    };
    expect(await refusalOf(key, begun)).toMatchObject({ code: 'ERR_TRANSACTION_TIMEOUT' });
    await db.flush();
    expect(await db.get(key)).toBe(undefined);
  });

  test.each(values)('ends when its signal says so: %s', async (name, value) => {
    const key = `signal ${name}`;
    const signalled = async (begin: (signal: AbortSignal) => Promise<void>): Promise<void> => {
      const controller = new AbortController();
      const reason = new Error('not needed any more');
      setTimeout(() => {
        controller.abort(reason);
      }, 100);
      expect(await refusalOf(key, () => begin(controller.signal))).toBe(reason);
    };
    await signalled((signal) => db.transaction((tx) => void tx.put(key, value), { signal }));
    await signalled((signal) => {
      const tx = db.begin({ timeoutMs: 60_000, signal });
      void tx.put(key, value);
      return tx.commit();
    });
    await db.flush();
    expect(await db.get(key)).toBe(undefined);
  });

  test('ends when the lock took longer than lockTimeoutMs, and is tried again as often as was said', async () => {
    const key = 'lock timeout';
    let calls = 0;
    const run = (): Promise<void> =>
      db.transaction(
        (tx) => {
          calls++;
          void tx.put(key, 'late');
        },
        { lockTimeoutMs: 50, retries: 2 },
      );
    expect(await refusalOf(key, run)).toMatchObject({ code: 'ERR_LOCK_TIMEOUT' });
    expect(calls).toBe(3);
    await db.flush();
    expect(await db.get(key)).toBe(undefined);
  });

  test('waits as long as its own lockTimeoutMs says, while other commits in the shard end before', async () => {
    const key = 'patience';
    const holder = await lockKey(key);
    const patient = db.transaction((tx) => void tx.put(key, 'patient'), { lockTimeoutMs: 60_000, retries: 0 });
    const hasty = db.transaction((tx) => void tx.put(key, 'hasty'), { lockTimeoutMs: 20, retries: 0 });
    await expect(hasty).rejects.toMatchObject({ code: 'ERR_LOCK_TIMEOUT' });
    await holder.rollback();
    await patient;
    expect(await db.get(key)).toBe('patient');
  });

  test('goes by the priority of its transaction, then by its age', async () => {
    const key = 'queue';
    const ended: string[] = [];
    const commit = (name: string, tx: Transaction): Promise<unknown> => {
      void tx.put(key, name);
      return tx.commit().then(() => ended.push(name));
    };
    const holder = await lockKey(key);
    const [low, old, young, high] = [-1000, 0, 0, 1000].map((priority) => db.begin({ priority }));
    const commits = [commit('low', low!), commit('young', young!), commit('old', old!), commit('high', high!)];
    // Behind them: they have been looked at.
    await db.flush();
    await holder.rollback();
    await Promise.all(commits);
    expect(ended).toEqual(['high', 'old', 'young', 'low']);
    expect(await db.get(key)).toBe('low');
  });

  test('comes behind the puts that its thread has called before it, whatever its priority and its age', async () => {
    const key = 'in order';
    for (const priority of [0, 1000]) {
      const holder = await lockKey(key);
      const tx = db.begin({ priority });
      void tx.put(key, 'of the transaction');
      const put = db.put(key, 'put');
      const commit = tx.commit();
      const ended: string[] = [];
      const ends = [put.then(() => ended.push('put')), commit.then(() => ended.push('commit'))];
      await db.flush();
      await holder.rollback();
      await Promise.all(ends);
      expect(ended).toEqual(['put', 'commit']);
      expect(await db.get(key)).toBe('of the transaction');
    }
  });

  test('that was given up lets others take its turn', async () => {
    const key = 'turn';
    const holder = await lockKey(key);
    const controller = new AbortController();
    const first = db.transaction((tx) => void tx.put(key, 'first'), { priority: 1000, signal: controller.signal });
    const second = db.put(key, 'second');
    await db.flush();
    controller.abort(new Error('enough'));
    await expect(first).rejects.toThrow('enough');
    await holder.rollback();
    await second;
    expect(await db.get(key)).toBe('second');
    await db.transaction((tx) => void tx.put(key, 'third'));
    expect(await db.get(key)).toBe('third');
  });

  test.each(values)(
    'is answered with what is stored, however close its end and that of the lock are: %s',
    async (name, value) => {
      const tries = name === 'short' ? 600 : 60;
      const outcomes = new Map<string, 'committed' | 'given up'>();
      const pause = async (turns: number): Promise<void> => {
        for (let turn = 0; turn < turns; turn++) await new Promise((resolve) => setImmediate(resolve));
      };
      for (let i = 0; i < tries; i++) {
        const key = `race ${name} ${i}`;
        const holder = await lockKey(key);
        const controller = new AbortController();
        const tx = db.begin({ signal: controller.signal });
        void tx.put(key, value);
        const commit = tx.commit().then(
          () => 'committed' as const,
          (error: Error) => {
            expect(error.message).toBe('enough');
            return 'given up' as const;
          },
        );
        await pause(i % 4);
        const free = (): Promise<void> => holder.rollback();
        const abort = (): void => {
          controller.abort(new Error('enough'));
        };
        const [sooner, later] = i % 3 === 0 ? [abort, free] : [free, abort];
        const freed = sooner();
        // Of every tenth the outcome is certain.
        if (i % 10 === 0) await commit;
        else await pause((i >> 2) % 5);
        await Promise.all([freed, later()]);
        const outcome = await commit;
        outcomes.set(key, outcome);
        expect(await db.get(key)).toBe(outcome === 'committed' ? value : undefined);
      }
      await db.flush();
      for (const [key, outcome] of outcomes) {
        expect(await db.get(key)).toBe(outcome === 'committed' ? value : undefined);
      }
      expect(new Set(outcomes.values())).toEqual(new Set(['committed', 'given up']));
    },
  );
});

describe('transactions that are too long for one request', () => {
  test('are all committed, however many a thread commits at once', async () => {
    const value = 'v'.repeat(150 << 10);
    const names = Array.from({ length: 40 }, (_, index) => `long-${index}`);
    // Over one shard, and over both.
    const commits = names.map((name) => db.transaction((tx) => void tx.put(name, value), { retries: 0 }));
    const pairs = names.map((name) =>
      db.transaction(
        (tx) => {
          for (const end of ['a', 'b', 'c']) void tx.put(`${name}-${end}`, value);
        },
        { retries: 0 },
      ),
    );
    await Promise.all([...commits, ...pairs]);
    for (const name of names) {
      for (const end of ['', '-a', '-b', '-c']) expect(await db.get(name + end)).toBe(value);
    }
  });
});

describe('a shard that takes over', () => {
  test('counts what its predecessor had prepared, and not for a moment less', () => {
    const board = new CommitBoard(new SharedArrayBuffer(commitBoardBytes(2)), 0, 2);
    for (const hash of [7, 7, 8]) board.countPrepared(1, hash, 1);
    const { store } = Atomics;
    let least = Infinity;
    const spy = vi.spyOn(Atomics, 'store').mockImplementation(((words: Int32Array, at: number, value: number) => {
      const stored = store(words, at, value);
      least = Math.min(least, Number(board.mayBePrepared(1, 7)));
      return stored;
    }) as typeof Atomics.store);
    try {
      board.resetPrepared(1, [7]);
    } finally {
      spy.mockRestore();
    }
    expect(least).toBe(1);
    expect([board.mayBePrepared(1, 7), board.mayBePrepared(1, 8), board.mayBePrepared(0, 7)]).toEqual([
      true,
      false,
      false,
    ]);
    board.countPrepared(1, 7, -1);
    expect(board.mayBePrepared(1, 7)).toBe(false);
  });
});
