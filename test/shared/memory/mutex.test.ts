import { describe, expect, test } from 'vitest';
import { OWNER_ID_MAX, toOwnerId } from '../../../dist/shared/memory/lock-owner.js';
import { Mutex } from '../../../dist/shared/memory/mutex.js';
import { ended, sharedWords, sleep, startScene, until } from '../../support/memory-scene.js';

/** Handles of several owners on one mutex; in one thread they stand for threads. */
function handles(...owners: number[]): Mutex[] {
  const words = sharedWords(16);
  return owners.map((owner) => {
    const mutex = new Mutex(words, 0, toOwnerId(owner));
    wordsOf.set(mutex, words);
    return mutex;
  });
}

const wordsOf = new WeakMap<Mutex, Int32Array<SharedArrayBuffer>>();

/** The id that stands in the state word as the next holder. */
function claimantOf(mutex: Mutex): number {
  return (wordsOf.get(mutex)![0]! >> 16) & 0x3fff;
}

describe('scenes', () => {
  test('one owner at a time', () => {
    const [a, b] = handles(1, 2) as [Mutex, Mutex];
    expect(a.owner).toBe(0);
    expect(a.tryAcquire()).toBe('clean');
    expect([a.owner, a.held, b.held]).toEqual([1, true, false]);
    expect(b.tryAcquire()).toBeUndefined();
    expect(a.tryAcquire()).toBeUndefined();
    a.release();
    expect(b.acquire()).toBe('clean');
    expect(b.owner).toBe(2);
    b.release();
    expect(b.owner).toBe(0);
  });

  test('an acquire that takes too long is ERR_TIMEOUT and names the holder', async () => {
    const [a, b] = handles(7, 2) as [Mutex, Mutex];
    a.acquire();
    for (const timeoutMs of [0, 5]) {
      expect(() => b.acquire(timeoutMs)).toThrow(
        expect.objectContaining({ code: 'ERR_TIMEOUT', details: { timeoutMs, owner: 7 } }),
      );
      await expect(b.acquireAsync({ timeoutMs })).rejects.toMatchObject({ code: 'ERR_TIMEOUT' });
    }
    expect(b.acquireWithin(1)).toBeUndefined();
    a.release();
    expect(b.tryAcquire()).toBe('clean');
  });

  test('release and markConsistent without the lock, and a blocking acquire with it, are broken invariants', async () => {
    const [a, b] = handles(1, 2) as [Mutex, Mutex];
    const broken = expect.objectContaining({ code: 'ERR_INTERNAL' });
    expect(() => a.release()).toThrow(broken);
    a.acquire();
    expect(() => b.release()).toThrow(broken);
    expect(() => b.markConsistent()).toThrow(broken);
    expect(() => a.acquire(10)).toThrow(broken);
    expect(() => a.recover(toOwnerId(1))).toThrow(broken);
    a.release();
    expect(() => a.release()).toThrow(broken);
  });

  test('a lock taken from a living holder is noticed at its release', () => {
    const [a, b] = handles(1, 2) as [Mutex, Mutex];
    a.acquire();
    b.recover(toOwnerId(1));
    expect(() => a.release()).toThrow(expect.objectContaining({ code: 'ERR_INTERNAL' }));
  });

  test('wrong arguments are the caller’s mistakes', async () => {
    const words = sharedWords(32);
    for (const id of [0, -1, 1.5, NaN, OWNER_ID_MAX + 1]) expect(() => toOwnerId(id)).toThrow(TypeError);
    for (const index of [1, 8, 32, -16, NaN]) expect(() => new Mutex(words, index, toOwnerId(1))).toThrow(TypeError);
    const mutex = new Mutex(words, 16, toOwnerId(OWNER_ID_MAX));
    for (const timeoutMs of [-1, NaN]) {
      expect(() => mutex.acquire(timeoutMs)).toThrow(TypeError);
      await expect(mutex.acquireAsync({ timeoutMs })).rejects.toThrow(TypeError);
    }
    mutex.acquire();
    expect(mutex.owner).toBe(OWNER_ID_MAX);
  });

  test('asynchronous waiters of one thread and of others all get the lock, one after another', async () => {
    const [a, b, c] = handles(1, 2, OWNER_ID_MAX) as [Mutex, Mutex, Mutex];
    a.acquire();
    let inside = 0;
    let served = 0;
    const task = async (mutex: Mutex): Promise<void> => {
      expect(await mutex.acquireAsync({ timeoutMs: 20_000 })).toBe('clean');
      expect(++inside).toBe(1);
      await sleep(1);
      inside--;
      served++;
      mutex.release();
    };
    const tasks = [a, b, b, c, a, c, b].map(task);
    await sleep(5);
    expect(served).toBe(0);
    a.release();
    await Promise.all(tasks);
    expect(served).toBe(7);
    expect(a.owner).toBe(0);
  });

  test('an abort rejects with its reason, and the lock goes to the others', async () => {
    const [a, b, c] = handles(1, 2, 3) as [Mutex, Mutex, Mutex];
    a.acquire();
    const abort = new AbortController();
    const reason = new Error('changed my mind');
    const given = b.acquireAsync({ signal: abort.signal });
    const waiting = c.acquireAsync({ timeoutMs: 20_000 });
    abort.abort(reason);
    await expect(given).rejects.toBe(reason);
    await expect(b.acquireAsync({ signal: abort.signal })).rejects.toBe(reason);
    a.release();
    expect(await waiting).toBe('clean');
    expect(b.held).toBe(false);
  });

  test('a waiter that is overtaken again and again is handed the lock', async () => {
    const [a, b] = handles(1, 2) as [Mutex, Mutex];
    a.acquire();
    const waiting = b.acquireAsync({ timeoutMs: 20_000 });
    let rounds = 0;
    for (;;) {
      await sleep(2);
      a.release();
      if (a.tryAcquire() === undefined) break;
      expect(++rounds).toBeLessThan(50);
    }
    expect(rounds).toBeGreaterThan(0);
    expect(a.owner).toBe(2);
    expect(await waiting).toBe('clean');
    b.release();
    expect(a.tryAcquire()).toBe('clean');
  });

  /** `b` waits asynchronously and has claimed the lock that `a` holds. */
  async function claimed(a: Mutex, b: Mutex, options: { timeoutMs?: number; signal?: AbortSignal }) {
    a.acquire();
    const waiting = b.acquireAsync(options);
    for (let i = 0; ; i++) {
      await sleep(1);
      if (claimantOf(a) !== 0) break;
      if (i === 200) throw new Error('no claim');
      a.release();
      expect(a.tryAcquire()).toBe('clean');
    }
    return { waiting };
  }

  test('a claim ends with the wait that made it', async () => {
    const [a, b] = handles(1, 2) as [Mutex, Mutex];
    const abort = new AbortController();
    const { waiting } = await claimed(a, b, { signal: abort.signal });
    abort.abort();
    await expect(waiting).rejects.toThrow();
    a.release();
    expect(a.owner).toBe(0);
    const { waiting: second } = await claimed(a, b, { timeoutMs: 3000 });
    await expect(second).rejects.toMatchObject({ code: 'ERR_TIMEOUT' });
    a.release();
    expect(a.owner).toBe(0);
  });

  test('a lock handed to a wait that is aborted in the same moment is free again', async () => {
    const [a, b] = handles(1, 2) as [Mutex, Mutex];
    const abort = new AbortController();
    const { waiting } = await claimed(a, b, { signal: abort.signal });
    a.release();
    expect(a.owner).toBe(2);
    abort.abort();
    await expect(waiting).rejects.toThrow();
    expect(a.owner).toBe(0);
    expect(a.tryAcquire()).toBe('clean');
  });

  test('a lock handed to a thread goes to its blocking acquire rather than deadlock with its event loop', async () => {
    const [a, b] = handles(1, 2) as [Mutex, Mutex];
    const { waiting } = await claimed(a, b, { timeoutMs: 20_000 });
    a.release();
    expect(a.owner).toBe(2);
    expect(b.acquire(1000)).toBe('clean');
    b.release();
    expect(await waiting).toBe('clean');
    b.release();
    expect(a.owner).toBe(0);
  });

  test('after a death every acquirer is told until one repairs', () => {
    const [a, b, supervisor] = handles(1, 2, 9) as [Mutex, Mutex, Mutex];
    a.acquire();
    expect(supervisor.recover(toOwnerId(2))).toBe(false);
    expect(a.owner).toBe(1);
    expect(supervisor.recover(toOwnerId(1))).toBe(true);
    expect(supervisor.recover(toOwnerId(1))).toBe(false);
    expect(b.ownerDied).toBe(true);
    expect(b.acquire()).toBe('owner-died');
    b.release();
    expect(b.tryAcquire()).toBe('owner-died');
    b.markConsistent();
    b.release();
    expect(b.acquire()).toBe('clean');
  });

  test('a dead claimant is passed over, and a lock handed to the dead counts as held by it', async () => {
    const [a, b, c] = handles(1, 2, 3) as [Mutex, Mutex, Mutex];
    // Owner 2 never looks again after this point: its wait only ends with the test.
    const abort = new AbortController();
    void (await claimed(a, b, { signal: abort.signal })).waiting.catch(() => undefined);
    expect(c.recover(toOwnerId(2))).toBe(false);
    a.release();
    expect(a.owner).toBe(0);

    const [d, e, f] = handles(1, 2, 3) as [Mutex, Mutex, Mutex];
    void (await claimed(d, e, { signal: abort.signal })).waiting.catch(() => undefined);
    d.release();
    expect(d.owner).toBe(2);
    expect(f.recover(toOwnerId(2))).toBe(true);
    expect(f.tryAcquire()).toBe('owner-died');
    abort.abort();
  });

  test('a claim outlives the death of the holder', async () => {
    const [a, b, c] = handles(1, 2, 3) as [Mutex, Mutex, Mutex];
    const { waiting } = await claimed(a, b, { timeoutMs: 20_000 });
    expect(c.recover(toOwnerId(1))).toBe(true);
    expect(c.tryAcquire()).toBeUndefined();
    expect(await waiting).toBe('owner-died');
  });
});

describe('threads', () => {
  test('a plain counter under the mutex is exact with four blocking threads and an event loop', async () => {
    const words = sharedWords(32);
    const count = 20_000;
    const workers = [1, 2, 3, 4].map((owner) => startScene('mutexCount', { words, owner, count }));
    const mutex = new Mutex(words, 0, toOwnerId(5));
    const done = Promise.all(workers.map((w) => w.message()));
    for (let i = 0; i < 200; i++) {
      await mutex.acquireAsync({ timeoutMs: 20_000 });
      words[16]!++;
      mutex.release();
    }
    await done;
    expect(words[16]).toBe(4 * count + 200);
    await Promise.all(workers.map(ended));
  });

  test('a terminated holder’s lock goes to the waiters, who learn of its death', async () => {
    const words = sharedWords(32);
    const supervisor = new Mutex(words, 0, toOwnerId(9));
    const holder = startScene('mutexHold', { words, owner: 1 });
    await holder.message();
    const waiter = startScene('mutexWait', { words, owner: 2, timeoutMs: 100_000 });
    await waiter.message();
    const mine = supervisor.acquireAsync();
    const short = startScene('mutexWait', { words, owner: 3, timeoutMs: 50 });
    await short.message();
    expect(await short.message()).toEqual({ code: 'ERR_TIMEOUT' });
    await holder.kill();
    expect(supervisor.owner).toBe(1);
    expect(supervisor.recover(toOwnerId(1))).toBe(true);
    expect(await mine).toBe('owner-died');
    supervisor.release();
    expect(await waiter.message()).toEqual({ found: 'owner-died' });
  });

  test('a terminated waiter does not keep a wake-up from the others', async () => {
    for (let round = 0; round < 8; round++) {
      const words = sharedWords(32);
      const mine = new Mutex(words, 0, toOwnerId(9));
      mine.acquire();
      const doomed = startScene(round % 2 === 0 ? 'mutexWait' : 'mutexWaitAsync', {
        words,
        owner: 1,
        timeoutMs: 20_000,
      });
      await doomed.message();
      await sleep(5);
      const waiter = startScene('mutexWait', { words, owner: 2, timeoutMs: 100_000 });
      await waiter.message();
      await sleep(5);
      // Wake-up and termination race for the first in the queue.
      const dying = doomed.kill();
      if (round % 4 >= 2) await sleep(0);
      mine.release();
      await dying;
      mine.recover(toOwnerId(1));
      expect(['clean', 'owner-died']).toContain((await waiter.message())['found']);
    }
  });

  test('threads terminated anywhere leave no half change unannounced and no lock behind', async () => {
    const words = sharedWords(32);
    const supervisor = new Mutex(words, 0, toOwnerId(9));
    for (let round = 0; round < 10; round++) {
      const workers = [1, 2].map((owner) => startScene('mutexPair', { words, owner }));
      await Promise.all(workers.map((w) => w.message()));
      const before = words[16]!;
      await until(() => Atomics.load(words, 16) !== before);
      await sleep(3 + round);
      await workers[0]!.kill();
      supervisor.recover(toOwnerId(1));
      await sleep(3);
      await workers[1]!.kill();
      supervisor.recover(toOwnerId(2));
      if (supervisor.acquire(5000) === 'owner-died') {
        words[17] = words[16]!;
        supervisor.markConsistent();
      }
      expect(words[16]).toBe(words[17]);
      supervisor.release();
      expect(words[16]).toBeGreaterThan(before);
    }
    expect(words[18]).toBe(0);
  });
});
