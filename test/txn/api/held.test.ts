/** What callers may count on: a lock that was not granted is not held, a guarded key does not change unnoticed, a batch is what it was when it was called. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { ConcordPool } from '../../../dist/index.js';
import { keysOfShard } from '../../support/pool-scene.js';

const SHARDS = 3;
let db: ConcordPool;
beforeAll(async () => {
  db = await ConcordPool.open(':memory:', { shards: SHARDS, memoryBytes: 64 << 20 });
});
afterAll(async () => {
  await db.close();
});

const [a, b] = [keysOfShard(0, SHARDS, 1)[0]!, keysOfShard(1, SHARDS, 1)[0]!];

describe('locks that were not granted in time', () => {
  test('are asked for again, also when a stronger one was asked for meanwhile', async () => {
    await db.put(a, '0');
    const holder = db.begin({ mode: 'pessimistic' });
    await holder.put(a, '1');
    const tx = db.begin({ mode: 'pessimistic', lockTimeoutMs: 50 });
    const both = await Promise.allSettled([tx.get(a), tx.getForUpdate(a)]);
    for (const one of both) expect(one).toMatchObject({ status: 'rejected', reason: { code: 'ERR_LOCK_TIMEOUT' } });
    await expect(tx.get(a)).rejects.toMatchObject({ code: 'ERR_LOCK_TIMEOUT' });
    await expect(tx.getForUpdate(a)).rejects.toMatchObject({ code: 'ERR_LOCK_TIMEOUT' });
    await holder.commit();
    expect(await tx.get(a)).toBe('1');
    await tx.commit();
  });

  test('leave the weaker one that is held', async () => {
    await db.put(a, '0');
    const other = db.begin({ mode: 'pessimistic' });
    expect(await other.get(a)).toBe('0');
    const tx = db.begin({ mode: 'pessimistic', lockTimeoutMs: 50 });
    expect(await tx.get(a)).toBe('0');
    await expect(tx.put(a, '1')).rejects.toMatchObject({ code: 'ERR_LOCK_TIMEOUT' });
    await tx.rollback();
    const reader = db.begin({ mode: 'pessimistic', lockTimeoutMs: 50 });
    expect(await reader.get(a)).toBe('0');
    // An exclusive lock is refused while `other` reads; the shared one stays, and keeps writers out when `other` has ended.
    const upgrade = reader.getForUpdate(a);
    expect(await upgrade).toBe('0');
    await other.rollback();
    const writer = db.begin({ mode: 'pessimistic', lockTimeoutMs: 50 });
    await expect(writer.put(a, '2')).rejects.toMatchObject({ code: 'ERR_LOCK_TIMEOUT' });
    await writer.rollback();
    await reader.rollback();
  });
});

describe('guarded keys', () => {
  test.each(['read-committed', 'repeatable-read', 'serializable'] as const)(
    '%s: a key that somebody else has changed is not taken for what it was',
    async (isolation) => {
      await db.put(a, '1');
      for (const look of ['getForUpdate', 'update'] as const) {
        const tx = db.begin({ isolation });
        const value = await tx.getForUpdate(a);
        await db.put(a, `${value}0`);
        const looked = look === 'update' ? tx.update(a, (now) => `${now}!`) : tx.getForUpdate(a);
        if (isolation === 'repeatable-read') {
          expect(await looked).toMatch(/^1/);
          void tx.put(a, 'lost');
          await expect(tx.commit()).rejects.toMatchObject({ code: 'ERR_CONFLICT' });
        } else await expect(looked).rejects.toMatchObject({ code: 'ERR_CONFLICT' });
        await tx.rollback();
        await db.put(a, '1');
      }
    },
  );
});

describe('locks of a shard that was replaced', () => {
  test('a transaction that has lost some reads nothing more', async () => {
    const directory = mkdtempSync(join(tmpdir(), 'concordkv-test-'));
    const store = await ConcordPool.open(directory, { shards: SHARDS, memoryBytes: 64 << 20, durability: 'os' });
    try {
      await store.batch([
        { type: 'put', key: a, value: '0' },
        { type: 'put', key: b, value: '0' },
      ]);
      const tx = store.begin({ mode: 'pessimistic' });
      const seen = [await tx.get(a)];
      await store.host!.killShard(0);
      await expect.poll(() => store.stats().shards.every(({ state }) => state === 'running')).toBe(true);
      await store.transaction((other) => {
        void other.put(a, '1');
        void other.put(b, '-1');
      });
      await expect(tx.get(b)).rejects.toMatchObject({ code: 'ERR_CONFLICT' });
      expect(seen).toEqual(['0']);
      expect(tx.state).toBe('ended');
      await expect(tx.commit()).rejects.toMatchObject({ code: 'ERR_CONFLICT' });
    } finally {
      await store.close();
      rmSync(directory, { recursive: true, force: true });
    }
  });
});

test.each(['read-committed', 'repeatable-read', 'serializable'] as const)(
  '%s: a key that was got for update does not change unnoticed, also where the transaction had written it, or has taken that back',
  async (isolation) => {
    const store = await ConcordPool.open(':memory:', { shards: SHARDS });
    for (const isTakenBack of [false, true]) {
      await store.put('a', 'before');
      await using tx = store.begin({ isolation });
      tx.savepoint('first');
      await tx.put('a', 'mine');
      expect(await tx.getForUpdate('a')).toBe('mine');
      if (isTakenBack) tx.rollbackTo('first');
      await store.put('a', 'theirs');
      await tx.put('b', 'mine');
      await expect(tx.commit()).rejects.toMatchObject({ code: 'ERR_CONFLICT' });
      expect(await store.getMany(['a', 'b'])).toEqual(['theirs', undefined]);
    }
    await store.close();
  },
);

describe('a batch over several shards', () => {
  test('stores what keys and values were when it was called, whatever it waits for', async () => {
    const store = await ConcordPool.open(':memory:', {
      shards: SHARDS,
      keyEncoding: 'binary',
      valueEncoding: 'json',
      transactions: { maxConcurrent: 1 },
    });
    const keys = Array.from({ length: 8 }, (_, i) => Buffer.from(`k${i}`));
    const write = (n: number): { readonly done: Promise<void> } => {
      const value = { n };
      const used = keys.map((key) => Buffer.from(key));
      const done = store.batch(used.map((key) => ({ type: 'put', key, value })));
      value.n = -1;
      for (const key of used) key.fill(0x78);
      return { done };
    };
    const everywhere = async (n: number): Promise<void> => {
      expect(await store.getMany(keys)).toEqual(keys.map(() => ({ n })));
      expect(await store.count()).toBe(keys.length);
    };
    // Until it is admitted.
    const open = store.begin();
    const first = write(1);
    await open.rollback();
    await first.done;
    await everywhere(1);
    // Until a lock is free, which takes several attempts.
    const holder = store.begin({ mode: 'pessimistic' });
    await holder.put(keys[3]!, { n: 9 });
    const second = write(2);
    setTimeout(() => void holder.rollback(), 100);
    await second.done;
    await everywhere(2);
    await store.close();
  });

  test('refuses an operation of another type, wherever it stands', async () => {
    await db.clear();
    const keys = [a, b, ...keysOfShard(2, SHARDS, 1)];
    await db.batch(keys.map((key) => ({ type: 'put', key, value: 'kept' })));
    for (let bad = 0; bad < keys.length; bad++) {
      const operations = keys.map((key, index) => ({ type: index === bad ? 'delete' : 'put', key, value: 'x' }));
      await expect(db.batch(operations as never)).rejects.toMatchObject({ code: 'ERR_INVALID_ARG' });
    }
    expect(await db.getMany(keys)).toEqual(keys.map(() => 'kept'));
  });
});
