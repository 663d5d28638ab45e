/** Transactions as their users see them: reads, writes, savepoints, ranges, the end, options. */
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { ConcordPool, type Transaction, type TransactionOptions } from '../../../dist/index.js';

const EACH: { mode: 'optimistic' | 'pessimistic'; isolation: 'read-committed' | 'repeatable-read' | 'serializable' }[] =
  [];
for (const mode of ['optimistic', 'pessimistic'] as const) {
  for (const isolation of ['read-committed', 'repeatable-read', 'serializable'] as const)
    EACH.push({ mode, isolation });
}

let db: ConcordPool;
beforeAll(async () => {
  db = await ConcordPool.open(':memory:', { shards: 3, durability: 'os', memoryBytes: 64 << 20 });
});
afterAll(async () => {
  await db.close();
});
beforeEach(async () => {
  await db.clear();
});

/** Locks of begun transactions go a moment after they have ended. */
async function isFree(key: string): Promise<void> {
  await db.put(key, 'free', { signal: AbortSignal.timeout(60_000) });
}

describe.each(EACH)('$mode, $isolation', (level) => {
  test('commits what the function wrote when it returns, and resolves with what it returned', async () => {
    await db.put('a', '1');
    const result = await db.transaction(async (tx) => {
      const before = await tx.get('a');
      void tx.put('a', '2');
      void tx.put('b', '3');
      void tx.del('c');
      return before;
    }, level);
    expect(result).toBe('1');
    expect(await db.getMany(['a', 'b', 'c'])).toEqual(['2', '3', undefined]);
    expect(await db.transaction((tx) => tx.getSync('b'), level)).toBe('3');
  });

  test('rolls back what the function wrote when it throws, and rethrows exactly that', async () => {
    const mine = new Error('mine');
    for (const fails of [
      (): never => {
        throw mine;
      },
      async (): Promise<never> => {
        await sleep(1);
        throw mine;
      },
    ]) {
      const failed = db.transaction((tx) => {
        void tx.put('a', '1');
        void tx.put('b', '1');
        return fails();
      }, level);
      await expect(failed).rejects.toBe(mine);
    }
    expect(await db.count()).toBe(0);
    await isFree('a');
  });

  test('what is thrown may be undefined, and nothing is committed, nor counted so', async () => {
    const { committed } = db.stats().transactions;
    const failed = db.transaction((tx) => {
      void tx.put('a', '1');
      void tx.update('b', () => Promise.reject());
    }, level);
    await expect(failed).rejects.toHaveProperty('code', 'ERR_TRANSACTION_CLOSED');
    const begun = db.begin(level);
    void begun.put('a', '1');
    await expect(begun.update('b', () => Promise.reject())).rejects.toBeUndefined();
    expect(begun.state).toBe('ended');
    await expect(begun.commit()).rejects.toHaveProperty('code', 'ERR_TRANSACTION_CLOSED');
    const thrown = db.transaction((tx) => {
      void tx.put('a', '1');
      throw undefined;
    }, level);
    await expect(thrown).rejects.toBeUndefined();
    expect(db.stats().transactions.committed).toBe(committed);
    expect(await db.count()).toBe(0);
  });

  test('reads what it has written, by every method, and nobody else does before the commit', async () => {
    await db.batch([
      { type: 'put', key: 'a', value: 'old a' },
      { type: 'put', key: 'b', value: 'old b' },
    ]);
    const tx = db.begin(level);
    await tx.put('a', 'new a');
    await tx.put('c', 'new c');
    await tx.del('b');
    expect(tx.getSync('a')).toBe('new a');
    expect(await tx.get('a')).toBe('new a');
    expect(await tx.getForUpdate('c')).toBe('new c');
    expect(tx.getManySync(['a', 'b', 'c', 'd'])).toEqual(['new a', undefined, 'new c', undefined]);
    expect(await tx.getMany(['a', 'b', 'c', 'd'])).toEqual(['new a', undefined, 'new c', undefined]);
    expect([tx.hasSync('a'), tx.hasSync('b'), await tx.has('c'), await tx.has('b')]).toEqual([
      true,
      false,
      true,
      false,
    ]);
    expect(tx.getEntrySync('a')).toEqual({ key: 'a', value: 'new a', version: 0 });
    expect(await tx.getEntry('b')).toBeUndefined();
    expect(await tx.iterator().all()).toEqual([
      ['a', 'new a'],
      ['c', 'new c'],
    ]);
    expect(await db.getMany(['a', 'b', 'c'])).toEqual(['old a', 'old b', undefined]);
    await tx.commit();
    expect(await db.getMany(['a', 'b', 'c'])).toEqual(['new a', undefined, 'new c']);
  });

  test('works on several spaces at once', async () => {
    const users = db.space<string, { name: string }>('users', { valueEncoding: 'json' });
    await db.transaction(async (tx) => {
      void tx.put('count', '1');
      const inUsers = tx.space<string, { name: string }>(users);
      void inUsers.put('u1', { name: 'Ada' });
      expect(await inUsers.get('u1')).toEqual({ name: 'Ada' });
      expect(tx.space(users)).toBe(inUsers);
    }, level);
    expect(await users.get('u1')).toEqual({ name: 'Ada' });
    await users.transaction(async (tx) => {
      void tx.put('u2', { name: 'Bo' });
      expect(await tx.space('users').get('u1')).toEqual({ name: 'Ada' });
      void tx.space(db).put('count', '2');
    }, level);
    expect([await users.get('u2'), await db.get('count')]).toEqual([{ name: 'Bo' }, '2']);
    await users.clear();
  });

  test('conditions are those of what it sees, and hold when it commits', async () => {
    await db.put('a', '1');
    const { version } = (await db.getEntry('a'))!;
    await db.transaction(async (tx) => {
      expect(await tx.put('a', 'x', { ifAbsent: true })).toBe(false);
      expect(await tx.put('b', '1', { ifAbsent: true })).toBe(true);
      expect(await tx.put('b', '2', { ifAbsent: true })).toBe(false);
      expect(await tx.put('a', '2', { ifVersion: version + 1 })).toBe(false);
      expect(await tx.put('a', '2', { ifVersion: version })).toBe(true);
      expect(await tx.del('a', { ifVersion: version })).toBe(false);
      expect(await tx.del('c', { ifVersion: 0 })).toBe(true);
    }, level);
    expect(await db.getMany(['a', 'b'])).toEqual(['2', '1']);
    if (level.mode === 'pessimistic') return;
    const tx = db.begin(level);
    expect(await tx.put('once', 'tx', { ifAbsent: true })).toBe(true);
    await db.put('once', 'other');
    await expect(tx.commit()).rejects.toMatchObject({ code: 'ERR_CONFLICT' });
    expect(await db.get('once')).toBe('other');
  });

  test('update is atomic, also when several flows of the transaction update one key', async () => {
    await db.put('n', '0');
    await Promise.all(
      Array.from({ length: 4 }, () =>
        db.transaction(
          async (tx) => {
            const add = (): Promise<string | undefined> =>
              tx.update('n', async (value) => {
                await sleep(0);
                return String(Number(value) + 1);
              });
            const first = add();
            void add();
            await first;
          },
          { ...level, retries: 1000 },
        ),
      ),
    );
    expect(await db.get('n')).toBe('8');
    expect(await db.transaction((tx) => tx.update('n', () => undefined), level)).toBeUndefined();
    expect(await db.get('n')).toBeUndefined();
  });

  test('savepoints take writes back, nested, by name', async () => {
    await db.put('k', 'before');
    await db.transaction(async (tx) => {
      void tx.put('k', '1');
      tx.savepoint('one');
      void tx.put('k', '2');
      void tx.put('new', '2');
      const made = tx.savepoint();
      void tx.del('k');
      expect(await tx.get('k')).toBeUndefined();
      tx.rollbackTo(made);
      expect([await tx.get('k'), await tx.get('new')]).toEqual(['2', '2']);
      tx.rollbackTo('one');
      expect([await tx.get('k'), await tx.get('new')]).toEqual(['1', undefined]);
      expect(() => {
        tx.rollbackTo(made);
      }).toThrow(expect.objectContaining({ code: 'ERR_SAVEPOINT_NOT_FOUND' }) as Error);
      void tx.put('kept', '1');
      tx.savepoint('two');
      void tx.put('kept', '2');
      tx.release('one');
      expect(() => {
        tx.release('two');
      }).toThrow(expect.objectContaining({ code: 'ERR_SAVEPOINT_NOT_FOUND' }) as Error);
    }, level);
    expect(await db.getMany(['k', 'new', 'kept'])).toEqual(['1', undefined, '2']);
  });

  test('values are what they were when they were put', async () => {
    const list = db.space<string, number[]>('lists', { valueEncoding: 'json' });
    await list.ready;
    const bytes = db.space<string, Buffer>('bytes', { valueEncoding: 'binary' });
    await bytes.ready;
    await db.transaction((tx) => {
      const value = [1];
      void tx.space<string, number[]>(list).put('l', value);
      value.push(2);
      const raw = Buffer.from('ab');
      void tx.space<string, Buffer>(bytes).put('b', raw);
      raw[0] = 0x78;
    }, level);
    expect([await list.get('l'), String(await bytes.get('b'))]).toEqual([[1], 'ab']);
  });

  test('entries that expire do so inside and outside', async () => {
    await db.transaction(async (tx) => {
      void tx.put('long', 'x', { ttlMs: 3_600_000 });
      void tx.put('short', 'x', { ttlMs: 40 });
      expect(await tx.get('long')).toBe('x');
      expect((await tx.getEntry('long'))!.expiresAt).toBeGreaterThan(Date.now());
      await sleep(50);
      expect(await tx.get('short')).toBeUndefined();
      expect(await tx.keys().all()).toEqual(['long']);
    }, level);
    expect(await db.getMany(['long', 'short'])).toEqual(['x', undefined]);
  });

  test('after its end nothing can be done with it', async () => {
    const tx = db.begin(level);
    const part = tx.space(db);
    await tx.put('a', '1');
    await tx.commit();
    expect(tx.state).toBe('ended');
    const closed = expect.objectContaining({ code: 'ERR_TRANSACTION_CLOSED' }) as Error;
    expect(() => tx.getSync('a')).toThrow(closed);
    expect(() => part.hasSync('a')).toThrow(closed);
    expect(() => tx.savepoint()).toThrow(closed);
    expect(() => tx.iterator()).toThrow(closed);
    for (const call of [
      () => tx.get('a'),
      () => tx.put('a', '2'),
      () => part.del('a'),
      () => tx.commit(),
      () => tx.getForUpdate('a'),
      () => tx.lockRange(),
      () => tx.update('a', () => 'x'),
    ]) {
      await expect(call()).rejects.toMatchObject({ code: 'ERR_TRANSACTION_CLOSED' });
    }
    await tx.rollback();
    expect(await db.get('a')).toBe('1');
  });

  test('await using rolls back what is open', async () => {
    {
      await using tx = db.begin(level);
      await tx.put('a', '1');
    }
    await isFree('a');
    expect(await db.get('a')).toBe('free');
    await using committed = db.begin(level);
    await committed.put('a', '2');
    await committed.commit();
    expect(await db.get('a')).toBe('2');
  });

  test('an iterator walks what is stored and what was written, in both directions, with bounds and limits', async () => {
    for (const key of ['b', 'd', 'f', 'h', 'pa', 'pc']) await db.put(key, `stored ${key}`);
    await db.transaction(async (tx) => {
      for (const key of ['a', 'd', 'e', 'i', 'pb']) void tx.put(key, `own ${key}`);
      void tx.del('f');
      void tx.del('nothing');
      const all = ['a', 'b', 'd', 'e', 'h', 'i', 'pa', 'pb', 'pc'];
      const reversed = all.toReversed();
      expect(await tx.keys().all()).toEqual(all);
      expect(await tx.keys({ reverse: true }).all()).toEqual(reversed);
      expect([...tx.keysSync()]).toEqual(all);
      expect([...tx.iterateSync({ gte: 'd', lte: 'e' })]).toEqual([
        ['d', 'own d'],
        ['e', 'own e'],
      ]);
      for (let limit = 0; limit <= 10; limit++) {
        expect(await tx.keys({ limit }).all()).toEqual(all.slice(0, limit));
        expect([...tx.keysSync({ limit, reverse: true })]).toEqual(reversed.slice(0, limit));
      }
      expect(await tx.keys({ prefix: 'p' }).all()).toEqual(['pa', 'pb', 'pc']);
      expect(await tx.keys({ gt: 'b', lt: 'i' }).all()).toEqual(['d', 'e', 'h']);
      expect(await tx.keys({ gt: 'b', lt: 'b' }).all()).toEqual([]);
      expect(await tx.values({ gte: 'h', lt: 'p' }).all()).toEqual(['stored h', 'own i']);
      // What is written while it runs is not seen by it.
      const seen: string[] = [];
      for await (const key of tx.keys()) {
        seen.push(key);
        void tx.put(`${key}+`, 'later');
        void tx.put(key, 'again');
      }
      expect(seen).toEqual(all);
      expect(await tx.iterator().nextv(3)).toEqual([
        ['a', 'again'],
        ['a+', 'later'],
        ['b', 'again'],
      ]);
    }, level);
    expect(await db.count()).toBe(18);
  });

  const count = level.isolation === 'serializable' ? 100_000 : 10_000;
  test(`${count} writes commit as one`, async () => {
    await using large = await ConcordPool.open(':memory:', { shards: 2, durability: 'os', memoryBytes: 512 << 20 });
    await large.transaction(
      (tx) => {
        for (let i = 0; i < count; i++) void tx.put(`big ${i}`, String(i));
        expect(tx.getSync('big 7777')).toBe('7777');
      },
      { ...level, timeoutMs: 200_000 },
    );
    expect(await large.count({ prefix: 'big ' })).toBe(count);
  });
});

describe('what is refused', () => {
  const wrong: [string, unknown][] = [
    ['isolation', 'snapshot'],
    ['isolation', 3],
    ['mode', 'fast'],
    ['priority', 1001],
    ['priority', 0.5],
    ['priority', '1'],
    ['timeoutMs', 0],
    ['timeoutMs', 2 ** 31],
    ['timeoutMs', Infinity],
    ['lockTimeoutMs', -1],
    ['retries', -1],
    ['retries', 1.5],
    ['readOnly', 'yes'],
    ['durability', 'disk'],
    ['signal', {}],
    ['isolationLevel', 'serializable'],
  ];
  test.each(wrong)('%s: %j is a TypeError that names it', async (name, value) => {
    const options = { [name]: value } as TransactionOptions;
    await expect(db.transaction(() => 1, options)).rejects.toMatchObject({
      code: 'ERR_INVALID_ARG',
      message: expect.stringContaining(name) as string,
    });
    expect(() => db.begin(options)).toThrow(TypeError);
  });

  test('no function, options that are no object, retries of begin()', async () => {
    await expect(db.transaction(undefined as never)).rejects.toBeInstanceOf(TypeError);
    await expect(db.transaction(() => 1, 5 as never)).rejects.toBeInstanceOf(TypeError);
    expect(() => db.begin({ retries: 1 } as never)).toThrow(/retries/);
  });

  test('keys and values that do not encode fail the transaction, awaited or not', async () => {
    await expect(db.transaction((tx) => void tx.put('a', undefined as never))).rejects.toBeInstanceOf(TypeError);
    await expect(
      db.transaction(async (tx) => {
        void tx.put('a', '1');
        await tx.put(5 as never, '1');
      }),
    ).rejects.toBeInstanceOf(TypeError);
    await expect(db.transaction((tx) => tx.getSync({} as never))).rejects.toBeInstanceOf(TypeError);
    await expect(db.transaction((tx) => tx.put('a', '1', { ifAbsent: true, ifVersion: 3 }))).rejects.toThrow(/exclude/);
    await expect(db.transaction((tx) => tx.put('a', '1', { ttlMs: -1 }))).rejects.toThrow(/ttlMs/);
    await expect(db.transaction((tx) => tx.iterator({ snapshot: 1 } as never).all())).rejects.toThrow(/snapshot/);
    expect(await db.get('a')).toBeUndefined();
  });

  test('what is no number for nextv(): its answer would say that there is nothing more', async () => {
    await db.put('a', '1');
    await using tx = db.begin();
    for (const count of [undefined, Number.NaN, '3']) {
      for (const iterator of [db.keys(), tx.keys()])
        await expect(iterator.nextv(count as number)).rejects.toMatchObject({ code: 'ERR_INVALID_ARG' });
    }
    expect(await tx.keys().nextv(0)).toEqual(['a']);
  });

  test('a function cannot commit or roll back by itself', async () => {
    await expect(db.transaction((tx) => tx.commit())).rejects.toThrow(/returns/);
    await expect(db.transaction((tx) => tx.rollback())).rejects.toThrow(/throws/);
  });

  test('writes of a transaction that was begun to read only', async () => {
    for (const write of [
      (tx: Transaction) => tx.put('a', '1'),
      (tx: Transaction) => tx.del('a'),
      (tx: Transaction) => tx.update('a', () => '1'),
    ]) {
      await expect(db.transaction(write, { readOnly: true })).rejects.toMatchObject({
        code: 'ERR_TRANSACTION_READ_ONLY',
      });
    }
    expect(await db.transaction((tx) => tx.getSync('a'), { readOnly: true })).toBeUndefined();
  });

  test('a space of another pool, or one that is not there', async () => {
    const other = await ConcordPool.open(':memory:', { shards: 1, memoryBytes: 8 << 20 });
    await expect(db.transaction((tx) => tx.space(other).get('a'))).rejects.toBeInstanceOf(TypeError);
    await expect(db.transaction((tx) => tx.space('no such space').get('a'))).rejects.toMatchObject({
      code: 'ERR_SPACE_NOT_FOUND',
    });
    await other.close();
  });

  test('more than transactionBytesMax in one shard', async () => {
    const small = await ConcordPool.open(':memory:', { shards: 2, memoryBytes: 8 << 20, transactionBytesMax: 65536 });
    const failed = small.transaction((tx) => {
      for (let i = 0; i < 2000; i++) void tx.put(`key ${i}`, 'v'.repeat(100));
    });
    await expect(failed).rejects.toMatchObject({ code: 'ERR_TRANSACTION_TOO_LARGE', details: { limitBytes: 65536 } });
    // Reads count, too.
    await small.batch(Array.from({ length: 2500 }, (_, i) => ({ type: 'put', key: `k${i}`, value: 'x' })));
    const read = small.transaction((tx) => {
      for (let i = 0; i < 2500; i++) tx.getSync(`k${i} ${'long'.repeat(10)}`);
      void tx.put('k1', 'y');
    });
    await expect(read).rejects.toMatchObject({ code: 'ERR_TRANSACTION_TOO_LARGE' });
    expect(await small.get('k1')).toBe('x');
    await small.close();
  });

  test('more than transactionBytesMax of values that only savepoints can bring back', async () => {
    const small = await ConcordPool.open(':memory:', { shards: 1, memoryBytes: 8 << 20, transactionBytesMax: 65536 });
    const value = 'v'.repeat(1000);
    let rounds = 0;
    const failed = small.transaction((tx) => {
      for (; rounds < 1000; rounds++) {
        tx.savepoint();
        void tx.put('k', value);
      }
    });
    await expect(failed).rejects.toMatchObject({ code: 'ERR_TRANSACTION_TOO_LARGE', details: { limitBytes: 65536 } });
    expect(rounds).toBeGreaterThan(55);
    expect(rounds).toBeLessThan(70);
    // What is released or taken back makes room again.
    await small.transaction((tx) => {
      void tx.put('k', value);
      for (let i = 0; i < 1000; i++) {
        tx.savepoint('released');
        void tx.put('k', value);
        tx.release('released');
        tx.savepoint('taken back');
        void tx.put('k', 'other');
        void tx.put('k', value);
        tx.rollbackTo('taken back');
        tx.release('taken back');
      }
    });
    expect(await small.get('k')).toBe(value);
    await small.close();
  });
});

describe('conflicts', () => {
  test('a transaction whose read was changed is run again, and has its age still', async () => {
    await db.put('a', '0');
    const ids: number[] = [];
    const result = await db.transaction(async (tx) => {
      ids.push(tx.id);
      const value = Number(tx.getSync('a'));
      if (ids.length < 4) await db.put('a', String(value + 10));
      void tx.put('b', String(value));
      return value;
    });
    expect(result).toBe(30);
    expect(await db.get('b')).toBe('30');
    expect(new Set(ids).size).toBe(4);
  });

  test('retries: 0 gives up at once, and the error can be told', async () => {
    await db.put('a', '0');
    let runs = 0;
    const failed = db.transaction(
      async (tx) => {
        runs++;
        tx.getSync('a');
        await db.put('a', '1');
        void tx.put('b', '1');
      },
      { retries: 0 },
    );
    await expect(failed).rejects.toMatchObject({ code: 'ERR_CONFLICT', retryable: true });
    expect([runs, await db.get('b')]).toEqual([1, undefined]);
  });

  test('reads of one transaction are of one state, whatever is written between them', async () => {
    await db.batch([
      { type: 'put', key: 'x', value: '0' },
      { type: 'put', key: 'y', value: '0' },
    ]);
    let stop = false;
    const writer = (async () => {
      for (let i = 1; !stop; i++) {
        await db.batch([
          { type: 'put', key: 'x', value: String(i) },
          { type: 'put', key: 'y', value: String(i) },
        ]);
      }
    })();
    for (let i = 0; i < 300; i++) {
      const [x, y] = await db.transaction(
        async (tx) => {
          const first = tx.getSync('x');
          if (i % 3 === 0) await sleep(0);
          return [first, i % 2 === 0 ? tx.getSync('y') : await tx.get('y')];
        },
        { isolation: i % 2 === 0 ? 'serializable' : 'repeatable-read', retries: 1000 },
      );
      expect(x).toBe(y);
    }
    stop = true;
    await writer;
  });

  test('a key that was absent and came, or went and came back, is noticed', async () => {
    const tx = db.begin();
    expect(tx.getSync('phantom')).toBeUndefined();
    await db.put('phantom', '1');
    await tx.put('other', '1');
    await expect(tx.commit()).rejects.toMatchObject({ code: 'ERR_CONFLICT' });
    const ranged = db.begin();
    expect([...ranged.keysSync({ prefix: 'r' })]).toEqual([]);
    await db.put('r1', '1');
    await ranged.put('other', '1');
    await expect(ranged.commit()).rejects.toMatchObject({ code: 'ERR_CONFLICT' });
  });

  test('a scan that ended early conflicts with nothing it has not looked at', async () => {
    for (const key of ['a', 'b', 'c', 'd']) await db.put(key, '1');
    const tx = db.begin();
    for await (const key of tx.keys()) if (key === 'b') break;
    await db.put('d', '2');
    await db.del('c');
    await tx.put('z', '1');
    await tx.commit();
    const reverse = db.begin();
    expect([...reverse.keysSync({ reverse: true, limit: 1 })]).toEqual(['z']);
    await db.put('a', '3');
    await reverse.put('y', '1');
    await reverse.commit();
    const limited = db.begin();
    expect(await limited.keys({ limit: 2 }).all()).toEqual(['a', 'b']);
    await db.put('aa', '3');
    await limited.put('x', '1');
    await expect(limited.commit()).rejects.toMatchObject({ code: 'ERR_CONFLICT' });
  });

  test('repeatable-read: the first committer wins, also over a key that was not read', async () => {
    await db.put('a', '1');
    await db.put('w', '1');
    for (const change of [() => db.put('w', '2'), () => db.del('w')]) {
      await db.put('w', '1');
      const tx = db.begin({ isolation: 'repeatable-read' });
      tx.getSync('a');
      await tx.put('w', '3');
      await change();
      await expect(tx.commit()).rejects.toMatchObject({ code: 'ERR_CONFLICT' });
    }
    // Written after the state was read, before put() was called.
    await db.put('w', '1');
    const late = db.begin({ isolation: 'repeatable-read' });
    expect(await late.keys({ prefix: 'a' }).all()).toEqual(['a']);
    await db.put('w', '2');
    await late.put('w', '3');
    await expect(late.commit()).rejects.toMatchObject({ code: 'ERR_CONFLICT' });
    // What was only read may change.
    const skewed = db.begin({ isolation: 'repeatable-read' });
    skewed.getSync('a');
    await db.put('a', '2');
    await skewed.put('v', '1');
    await skewed.commit();
  });

  test('getForUpdate and lockRange hold to the commit at every isolation', async () => {
    for (const isolation of ['read-committed', 'repeatable-read', 'serializable'] as const) {
      await db.put('a', '1');
      const tx = db.begin({ isolation });
      expect(await tx.getForUpdate('a')).toBe('1');
      await db.put('a', '2');
      await tx.put('b', '1');
      await expect(tx.commit()).rejects.toMatchObject({ code: 'ERR_CONFLICT' });
      const ranged = db.begin({ isolation });
      await ranged.lockRange({ prefix: 'range' });
      await db.put(`range ${isolation}`, '1');
      await ranged.put('b', '1');
      await expect(ranged.commit()).rejects.toMatchObject({ code: 'ERR_CONFLICT' });
    }
  });
});

describe('locks', () => {
  const pessimistic = { mode: 'pessimistic' } as const;

  test('a put waits for who holds the key; what fails there is told by the commit, not as an unhandled rejection', async () => {
    const unhandled: unknown[] = [];
    const note = (error: unknown): void => void unhandled.push(error);
    process.on('unhandledRejection', note);
    const first = db.begin(pessimistic);
    await first.put('a', 'first');
    const second = db.begin({ ...pessimistic, lockTimeoutMs: 50 });
    void second.put('a', 'second');
    await expect(second.commit()).rejects.toMatchObject({ code: 'ERR_LOCK_TIMEOUT', retryable: true });
    const third = db.begin(pessimistic);
    const put = third.put('a', 'third');
    await sleep(20);
    await first.commit();
    expect(await put).toBe(true);
    await third.commit();
    expect(await db.get('a')).toBe('third');
    await sleep(10);
    process.off('unhandledRejection', note);
    expect(unhandled).toEqual([]);
  });

  test('a lock that was not granted in time fails that call alone, where the caller looks at it', async () => {
    const first = db.begin(pessimistic);
    await first.getForUpdate('a');
    const second = db.begin({ ...pessimistic, lockTimeoutMs: 30 });
    await expect(second.getForUpdate('a')).rejects.toMatchObject({ code: 'ERR_LOCK_TIMEOUT' });
    await second.put('b', 'still here');
    await second.commit();
    await first.rollback();
    expect(await db.get('b')).toBe('still here');
  });

  test('a deadlock has a victim, which is run again, and both get through', async () => {
    await Promise.all(
      [
        ['a', 'b'],
        ['b', 'a'],
      ].map(([one, two], index) =>
        db.transaction(
          async (tx) => {
            await tx.getForUpdate(one!);
            await sleep(20);
            await tx.getForUpdate(two!);
            void tx.put(one!, String(index));
            void tx.put(two!, String(index));
          },
          { ...pessimistic, retries: 50 },
        ),
      ),
    );
    expect(await db.get('a')).toBe(await db.get('b'));
  });

  test('a range that is locked takes no new key until the transaction ends', async () => {
    const tx = db.begin(pessimistic);
    expect(await tx.keys({ prefix: 'r' }).all()).toEqual([]);
    const other = db.put('r1', 'x');
    expect(await Promise.race([other, sleep(60, 'waits')])).toBe('waits');
    await tx.put('r2', 'own');
    await tx.commit();
    await other;
    expect(await db.getMany(['r1', 'r2'])).toEqual(['x', 'own']);
  });

  test('counters of many flows lose nothing', async () => {
    await Promise.all(
      Array.from({ length: 40 }, (_, i) =>
        db.transaction(
          async (tx) => {
            const n = Number((await tx.getForUpdate('n')) ?? 0);
            void tx.put('n', String(n + 1));
            void tx.put(`of ${i}`, '1');
          },
          { ...pessimistic, retries: 100 },
        ),
      ),
    );
    expect(await db.get('n')).toBe('40');
  });
});

describe('time and signals', () => {
  test('a transaction ends when its time is up, whatever its function does', async () => {
    let letGo: () => void = () => undefined;
    const gate = new Promise<void>((resolve) => {
      letGo = resolve;
    });
    let late: unknown;
    const failed = db.transaction(
      async (tx) => {
        void tx.put('a', '1');
        await gate;
        late = await tx.get('a').catch((error: unknown) => error);
      },
      { timeoutMs: 50, mode: 'pessimistic' },
    );
    // The function has not come to its end.
    await expect(failed).rejects.toMatchObject({ code: 'ERR_TRANSACTION_TIMEOUT', details: { timeoutMs: 50 } });
    await isFree('a');
    letGo();
    await expect.poll(() => late).toMatchObject({ code: 'ERR_TRANSACTION_TIMEOUT' });
    const tx = db.begin({ timeoutMs: 1000 });
    await tx.put('b', '1');
    await sleep(1040);
    await expect(tx.commit()).rejects.toMatchObject({ code: 'ERR_TRANSACTION_TIMEOUT' });
    expect(await db.get('b')).toBeUndefined();
  });

  test('the time of all attempts counts', async () => {
    await db.put('a', '0');
    const failed = db.transaction(
      async (tx) => {
        tx.getSync('a');
        await db.put('a', 'x');
        await sleep(5);
        await tx.put('b', '1');
      },
      { timeoutMs: 100, retries: 1_000_000 },
    );
    await expect(failed).rejects.toMatchObject({ code: 'ERR_TRANSACTION_TIMEOUT' });
  });

  test('a signal rolls it back with its reason', async () => {
    const reason = new Error('not any more');
    const controller = new AbortController();
    const failed = db.transaction(
      async (tx) => {
        void tx.put('a', '1');
        await sleep(1000);
      },
      { signal: controller.signal, mode: 'pessimistic' },
    );
    await sleep(10);
    controller.abort(reason);
    await expect(failed).rejects.toBe(reason);
    await expect(db.transaction(() => 1, { signal: controller.signal })).rejects.toBe(reason);
    expect(() => db.begin({ signal: controller.signal })).toThrow(reason);
    await isFree('a');
  });

  test('a handle that is thrown away gives its locks back', async () => {
    const gc = (globalThis as { gc?: () => void }).gc;
    const { setFlagsFromString } = await import('node:v8');
    const { runInNewContext } = await import('node:vm');
    setFlagsFromString('--expose-gc');
    const before = db.stats().openSnapshots;
    const collect = gc ?? (runInNewContext('gc') as () => void);
    await (async () => {
      const tx = db.begin({ mode: 'pessimistic' });
      await tx.put('thrown', '1');
      tx.keysSync().next();
    })();
    const put = db.put('thrown', 'free');
    let isDone = false;
    void put.then(() => {
      isDone = true;
    });
    // What the tests before have left may go meanwhile, too.
    const isBack = (): boolean => isDone && db.stats().openSnapshots <= before;
    for (let i = 0; i < 1000 && !isBack(); i++) {
      collect();
      await sleep(20);
    }
    expect(isDone).toBe(true);
    expect(db.stats().openSnapshots).toBeLessThanOrEqual(before);
  });
});

describe('flows of one transaction', () => {
  test('reads, writes and scans at the same time are safe, and all count', async () => {
    await db.batch(Array.from({ length: 200 }, (_, i) => ({ type: 'put', key: `k${i}`, value: '1' })));
    for (const level of EACH) {
      const sum = await db.transaction(async (tx) => {
        const flows = await Promise.all([
          ...Array.from({ length: 50 }, async (_, i) => Number(await tx.get(`k${i}`))),
          tx
            .keys({ prefix: 'k' })
            .all()
            .then((keys) => keys.length),
          ...Array.from({ length: 50 }, async (_, i) => {
            await tx.put(`w${i}`, String(i));
            return Number(await tx.get(`w${i}`));
          }),
        ]);
        return flows.reduce((a, b) => a + b, 0);
      }, level);
      expect(sum).toBe(50 + 200 + (49 * 50) / 2);
      expect(await db.count({ prefix: 'w' })).toBe(50);
      await db.clear({ prefix: 'w' });
    }
  });

  test('what was called and not awaited is in the commit', async () => {
    for (const level of EACH) {
      await db.put('n', '0');
      await db.transaction((tx) => {
        void tx.update('n', (value) => String(Number(value) + 1));
        void tx.update('n', (value) => String(Number(value) + 1));
        void tx.put('m', 'x', { ifAbsent: true });
      }, level);
      expect(await db.getMany(['n', 'm'])).toEqual(['2', 'x']);
      await db.del('m');
    }
  });
});

test('a batch over several shards is all or nothing, the last of several on one key counts', async () => {
  const spaces = await Promise.all(
    ['s1', 's2'].map(async (name) => {
      const space = db.space(name);
      await space.ready;
      return space;
    }),
  );
  await db.batch([
    ...Array.from({ length: 50 }, (_, i) => ({ type: 'put' as const, key: `b${i}`, value: String(i) })),
    { type: 'put', key: 'b7', value: 'last' },
    { type: 'del', key: 'b8' },
    { type: 'put', key: 'in s1', value: '1', space: spaces[0]! },
    { type: 'put', key: 'in s2', value: '2', space: 's2', ttlMs: 100_000 },
  ]);
  expect(await db.count({ prefix: 'b' })).toBe(49);
  expect(await db.get('b7')).toBe('last');
  expect([await spaces[0]!.get('in s1'), await spaces[1]!.get('in s2')]).toEqual(['1', '2']);
  await expect(
    db.batch([
      ...Array.from({ length: 50 }, (_, i) => ({ type: 'put' as const, key: `c${i}`, value: 'x' })),
      { type: 'put', key: 'bad', value: undefined as never },
    ]),
  ).rejects.toBeInstanceOf(TypeError);
  expect(await db.count({ prefix: 'c' })).toBe(0);
});
