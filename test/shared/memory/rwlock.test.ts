import { describe, expect, test, vi } from 'vitest';
import { toOwnerId } from '../../../dist/shared/memory/lock-owner.js';
import { RwLock, rwLockWords } from '../../../dist/shared/memory/rwlock.js';
import { ended, sharedWords, sleep, startScene, until } from '../../support/memory-scene.js';

const OWNERS = 8;
/** First of the plain words the lock of a thread test guards. */
const BASE = rwLockWords(OWNERS);

/** Handles of several owners on one lock; in one thread they stand for threads. */
function handles(...owners: number[]): RwLock[] {
  const words = sharedWords(rwLockWords(OWNERS));
  return owners.map((owner) => new RwLock(words, 0, OWNERS, toOwnerId(owner)));
}

const broken = expect.objectContaining({ code: 'ERR_INTERNAL' });

describe('scenes', () => {
  test('many read, one writes, never both', () => {
    const [a, b, c] = handles(1, 2, OWNERS) as [RwLock, RwLock, RwLock];
    expect([a.acquireRead(), b.acquireRead(), b.tryAcquireRead()]).toEqual(['clean', 'clean', 'clean']);
    expect(a.readers).toBe(3);
    expect(c.tryAcquireWrite()).toBeUndefined();
    a.releaseRead();
    b.releaseRead();
    expect(c.tryAcquireWrite()).toBeUndefined();
    b.releaseRead();
    expect(c.tryAcquireWrite()).toBe('clean');
    expect(a.writer).toBe(OWNERS);
    expect(a.tryAcquireRead()).toBeUndefined();
    expect(b.tryAcquireWrite()).toBeUndefined();
    expect(a.readers).toBe(0);
    c.releaseWrite();
    expect(a.acquireWrite()).toBe('clean');
    a.releaseWrite();
    expect(b.acquireRead()).toBe('clean');
  });

  test('an acquire that takes too long is ERR_TIMEOUT and leaves nothing behind', async () => {
    const [a, b] = handles(1, 2) as [RwLock, RwLock];
    a.acquireRead();
    for (const timeoutMs of [0, 5]) {
      // The mutex is given back before the error is made, so no writer is named.
      const expected = { code: 'ERR_TIMEOUT', details: { timeoutMs, owner: 0, readers: 1 } };
      expect(() => b.acquireWrite(timeoutMs)).toThrow(expect.objectContaining(expected));
      await expect(b.acquireWriteAsync({ timeoutMs })).rejects.toMatchObject({ code: 'ERR_TIMEOUT' });
    }
    expect(b.writer).toBe(0);
    expect(a.tryAcquireRead()).toBe('clean');
    a.releaseRead();
    a.releaseRead();
    a.acquireWrite();
    for (const timeoutMs of [0, 5]) {
      expect(() => b.acquireRead(timeoutMs)).toThrow(
        expect.objectContaining({ code: 'ERR_TIMEOUT', details: { timeoutMs, owner: 1, readers: 0 } }),
      );
      await expect(b.acquireReadAsync({ timeoutMs })).rejects.toMatchObject({ code: 'ERR_TIMEOUT' });
      expect(() => b.acquireWrite(timeoutMs)).toThrow(expect.objectContaining({ code: 'ERR_TIMEOUT' }));
    }
    a.releaseWrite();
    expect(b.readers).toBe(0);
    expect(b.acquireWrite(0)).toBe('clean');
  });

  test('a writer that comes between a reader’s look and its count turns the reader away', () => {
    const [a, b] = handles(1, 2) as [RwLock, RwLock];
    const add = vi.spyOn(Atomics, 'add').mockImplementationOnce((words, index, value) => {
      expect(b.tryAcquireWrite()).toBe('clean');
      add.mockRestore();
      return Atomics.add(words as Int32Array, index, value as number);
    });
    expect(a.tryAcquireRead()).toBeUndefined();
    expect([a.readers, a.writer]).toEqual([0, 2]);
  });

  test('a reader that comes between a writer’s two looks keeps the writer out', () => {
    const [a, b] = handles(1, 2) as [RwLock, RwLock];
    const exchange = vi.spyOn(Atomics, 'compareExchange').mockImplementationOnce((words, index, from, to) => {
      expect(b.tryAcquireRead()).toBe('clean');
      exchange.mockRestore();
      return Atomics.compareExchange(words as Int32Array, index, from as number, to as number);
    });
    expect(a.tryAcquireWrite()).toBeUndefined();
    expect([a.readers, a.writer]).toEqual([1, 0]);
  });

  test('a waiting writer goes before new readers', async () => {
    const [a, b, c] = handles(1, 2, 3) as [RwLock, RwLock, RwLock];
    a.acquireRead();
    const order: string[] = [];
    const writing = b.acquireWriteAsync().then(() => order.push('write'));
    const reading = c.acquireReadAsync().then(() => order.push('read'));
    await sleep(5);
    expect(order).toEqual([]);
    expect(c.tryAcquireRead()).toBeUndefined();
    a.releaseRead();
    await writing;
    await sleep(5);
    expect(order).toEqual(['write']);
    b.releaseWrite();
    await reading;
    expect(order).toEqual(['write', 'read']);
  });

  test('readers waiting together come in together', async () => {
    const [a, b, c] = handles(1, 2, 3) as [RwLock, RwLock, RwLock];
    a.acquireWrite();
    const reads = [b.acquireReadAsync(), b.acquireReadAsync(), c.acquireReadAsync()];
    await sleep(5);
    a.releaseWrite();
    expect(await Promise.all(reads)).toEqual(['clean', 'clean', 'clean']);
    expect(a.readers).toBe(3);
  });

  test('a thread that reads may read again though a writer waits, so it cannot wait for itself', async () => {
    const [a, b] = handles(1, 2) as [RwLock, RwLock];
    a.acquireRead();
    const writing = b.acquireWriteAsync();
    expect(a.acquireRead(1000)).toBe('clean');
    a.releaseRead();
    a.releaseRead();
    expect(await writing).toBe('clean');
  });

  test('a thread whose asynchronous write waits for readers may still read', async () => {
    const [a, b] = handles(1, 2) as [RwLock, RwLock];
    a.acquireRead();
    const writing = b.acquireWriteAsync();
    expect(b.acquireRead(1000)).toBe('clean');
    a.releaseRead();
    await sleep(5);
    expect(b.readers).toBe(1);
    b.releaseRead();
    expect(await writing).toBe('clean');
  });

  test('releases without a hold and acquires that wait for oneself are broken invariants', () => {
    const [a, b] = handles(1, 2) as [RwLock, RwLock];
    expect(() => a.releaseRead()).toThrow(broken);
    expect(() => a.releaseWrite()).toThrow(broken);
    expect(() => a.markConsistent()).toThrow(broken);
    a.acquireRead();
    expect(() => a.acquireWrite(10)).toThrow(broken);
    expect(() => b.releaseRead()).toThrow(broken);
    a.releaseRead();
    a.acquireWrite();
    expect(() => a.acquireRead(10)).toThrow(broken);
    expect(() => a.acquireWrite(10)).toThrow(broken);
    expect(() => b.releaseWrite()).toThrow(broken);
  });

  test('wrong arguments are the caller’s mistakes', async () => {
    const words = sharedWords(rwLockWords(2) + 16);
    for (const [index, ownersMax, owner] of [
      [0, 2, 3],
      [0, 0, 1],
      [0, 1.5, 1],
      [8, 2, 1],
      [32, 2, 1],
    ] as const) {
      expect(() => new RwLock(words, index, ownersMax, toOwnerId(owner))).toThrow(TypeError);
    }
    const lock = new RwLock(words, 16, 2, toOwnerId(2));
    expect(() => lock.acquireRead(-1)).toThrow(TypeError);
    expect(() => lock.acquireWrite(NaN)).toThrow(TypeError);
    await expect(lock.acquireReadAsync({ timeoutMs: -1 })).rejects.toThrow(TypeError);
    await expect(lock.acquireWriteAsync({ timeoutMs: -1 })).rejects.toThrow(TypeError);
  });

  test('an abort rejects with its reason and lets the others in', async () => {
    const [a, b, c] = handles(1, 2, 3) as [RwLock, RwLock, RwLock];
    a.acquireRead();
    const abort = new AbortController();
    const reason = new Error('changed my mind');
    const draining = b.acquireWriteAsync({ signal: abort.signal });
    const queued = c.acquireWriteAsync({ signal: abort.signal });
    const reading = c.acquireReadAsync({ timeoutMs: 20_000 });
    await sleep(5);
    expect(a.writer).toBe(2);
    abort.abort(reason);
    await expect(draining).rejects.toBe(reason);
    await expect(queued).rejects.toBe(reason);
    expect(await reading).toBe('clean');
    await expect(b.acquireReadAsync({ signal: abort.signal })).rejects.toBe(reason);
    expect(a.readers).toBe(2);
    expect(a.writer).toBe(0);
  });

  test('a reader turned away by writer after writer gets in', async () => {
    const [a, b] = handles(1, 2) as [RwLock, RwLock];
    a.acquireWrite();
    const reading = b.acquireReadAsync({ timeoutMs: 20_000 });
    let rounds = 0;
    for (; rounds < 200; rounds++) {
      await sleep(1);
      // No pause in which the reader could look: it gets in only because the mutex is kept for it.
      a.releaseWrite();
      if (a.tryAcquireWrite() === undefined) break;
    }
    expect(rounds).toBeGreaterThan(1);
    expect(rounds).toBeLessThan(200);
    await reading;
    expect(b.readers).toBe(1);
  });

  test('a dead reader’s holds are given back, others’ are not', async () => {
    const [a, b, c, supervisor] = handles(1, 2, 3, 4) as [RwLock, RwLock, RwLock, RwLock];
    a.acquireRead();
    a.acquireRead();
    b.acquireRead();
    const writing = c.acquireWriteAsync({ timeoutMs: 20_000 });
    expect(supervisor.recover(toOwnerId(1))).toBe(false);
    expect(supervisor.readers).toBe(1);
    b.releaseRead();
    expect(await writing).toBe('clean');
    expect(supervisor.recover(toOwnerId(7000))).toBe(false);
  });

  test('after a writer’s death readers and writers are told until a writer repairs', async () => {
    const [a, b, c, supervisor] = handles(1, 2, 3, 4) as [RwLock, RwLock, RwLock, RwLock];
    a.acquireWrite();
    const reading = b.acquireReadAsync({ timeoutMs: 20_000 });
    expect(supervisor.recover(toOwnerId(1))).toBe(true);
    expect(await reading).toBe('owner-died');
    expect(await c.acquireReadAsync()).toBe('owner-died');
    c.releaseRead();
    b.releaseRead();
    expect(c.acquireWrite()).toBe('owner-died');
    c.releaseWrite();
    expect(await c.acquireWriteAsync()).toBe('owner-died');
    c.markConsistent();
    c.releaseWrite();
    expect(b.acquireRead()).toBe('clean');
    expect(b.readers).toBe(1);
  });
});

describe('threads', () => {
  test('no reader sees half a write, and no write is lost', async () => {
    const words = sharedWords(BASE + 16);
    const rounds = 20_000;
    const workers = [1, 2, 3, 4].map((owner) =>
      startScene('rwTorture', {
        words,
        ownersMax: OWNERS,
        owner,
        base: BASE,
        rounds,
        writeEvery: owner === 4 ? 2 : 10,
      }),
    );
    const done = Promise.all(workers.map((w) => w.message()));
    const lock = new RwLock(words, 0, OWNERS, toOwnerId(5));
    let mine = 0;
    for (let i = 0; i < 100; i++) {
      await lock.acquireReadAsync();
      const seen = new Set(words.subarray(BASE, BASE + 4));
      lock.releaseRead();
      expect(seen.size).toBe(1);
      await lock.acquireWriteAsync();
      for (let w = 0; w < 4; w++) words[BASE + w]!++;
      mine++;
      lock.releaseWrite();
    }
    const results = await done;
    expect(results.map((r) => r['torn'])).toEqual([0, 0, 0, 0]);
    const writes = results.reduce((sum, r) => sum + Number(r['writes']), mine);
    expect(Array.from(words.subarray(BASE, BASE + 4))).toEqual([writes, writes, writes, writes]);
    expect([lock.readers, lock.writer]).toEqual([0, 0]);
    await Promise.all(workers.map(ended));
  });

  test('two threads that write without pause do not starve readers', async () => {
    const words = sharedWords(BASE + 16);
    const hogs = [1, 2].map((owner) => startScene('rwHog', { words, ownersMax: OWNERS, owner, stop: BASE }));
    await Promise.all(hogs.map((h) => h.message()));
    await until(() => [1, 2].every((owner) => Atomics.load(words, BASE + owner) === 1));
    const lock = new RwLock(words, 0, OWNERS, toOwnerId(3));
    let met = 0;
    while (met < 20) {
      if (lock.writer !== 0) met++;
      lock.acquireRead(30_000);
      lock.releaseRead();
      await lock.acquireReadAsync({ timeoutMs: 30_000 });
      lock.releaseRead();
    }
    Atomics.store(words, BASE, 1);
    for (const hog of hogs) expect((await hog.message())['writes']).toBeGreaterThan(0);
    await Promise.all(hogs.map(ended));
  });

  test('a terminated reader’s holds and a terminated writer’s hold go to who waits', async () => {
    const words = sharedWords(BASE + 16);
    const supervisor = new RwLock(words, 0, OWNERS, toOwnerId(8));
    const options = { words, ownersMax: OWNERS };
    const reader = startScene('rwHold', { ...options, owner: 1, role: 'read', count: 3 });
    await reader.message();
    const writer = startScene('rwWait', { ...options, owner: 2, role: 'write', timeoutMs: 100_000 });
    const short = startScene('rwWait', { ...options, owner: 3, role: 'write', timeoutMs: 50 });
    await Promise.all([writer.message(), short.message()]);
    expect(await short.message()).toEqual({ code: 'ERR_TIMEOUT' });
    expect(supervisor.readers).toBe(3);
    await reader.kill();
    expect(supervisor.recover(toOwnerId(1))).toBe(false);
    expect(await writer.message()).toEqual({ found: 'clean' });

    const holder = startScene('rwHold', { ...options, owner: 1, role: 'write', count: 1 });
    await holder.message();
    const waiting = startScene('rwWait', { ...options, owner: 2, role: 'read', timeoutMs: 100_000 });
    await waiting.message();
    const mine = supervisor.acquireReadAsync();
    await sleep(20);
    await holder.kill();
    expect(supervisor.recover(toOwnerId(1))).toBe(true);
    expect(await waiting.message()).toEqual({ found: 'owner-died' });
    expect(await mine).toBe('owner-died');
  });

  test('threads terminated anywhere leave no half write unannounced and no hold behind', async () => {
    const words = sharedWords(BASE + 16);
    const supervisor = new RwLock(words, 0, OWNERS, toOwnerId(8));
    for (let round = 0; round < 10; round++) {
      const before = words[BASE]!;
      const workers = [1, 2].map((owner) => startScene('rwPair', { words, ownersMax: OWNERS, owner, base: BASE }));
      await Promise.all(workers.map((w) => w.message()));
      await until(() => Atomics.load(words, BASE) !== before);
      await sleep(3 + round);
      for (const owner of [1, 2]) {
        await workers[owner - 1]!.kill();
        supervisor.recover(toOwnerId(owner));
        await sleep(2);
      }
      if (supervisor.acquireWrite(5000) === 'owner-died') {
        words[BASE + 1] = words[BASE]!;
        supervisor.markConsistent();
      }
      expect(words[BASE]).toBe(words[BASE + 1]);
      expect(supervisor.readers).toBe(0);
      supervisor.releaseWrite();
      expect(words[BASE]).toBeGreaterThan(before);
    }
    expect(words[BASE + 2]).toBe(0);
  });
});
