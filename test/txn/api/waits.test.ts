/** What waits, and for how long: locks that are not granted, reads beside commits, ends of threads and stores. */
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { CommitBoard, commitBoardBytes } from '../../../dist/actors/commit-board.js';
import { ConcordPool } from '../../../dist/index.js';
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
