/** Transactions of several threads: listed in each, with their locks; admission; threads that end in the middle. */
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { afterEach, expect, test, vi } from 'vitest';
import { ConcordPool, type PoolOptions } from '../../../dist/index.js';

const pools: ConcordPool[] = [];
const workers: Worker[] = [];

async function open(options: PoolOptions = {}): Promise<ConcordPool> {
  const db = await ConcordPool.open(':memory:', { shards: 2, durability: 'os', memoryBytes: 16 << 20, ...options });
  pools.push(db);
  return db;
}

async function thread(db: ConcordPool): Promise<Worker> {
  const handle = db.handle();
  const worker = new Worker(new URL('./thread.mjs', import.meta.url), {
    workerData: handle,
    transferList: [...handle.transferList],
  });
  workers.push(worker);
  await once(worker, 'message');
  return worker;
}

let asked = 0;

function ask(worker: Worker, what: string, ...args: unknown[]): Promise<unknown> {
  const number = ++asked;
  worker.postMessage({ number, what, args });
  return new Promise((resolve, reject) => {
    const hear = (answer: { number: number; result?: unknown; code?: string }): void => {
      if (answer.number !== number) return;
      worker.off('message', hear);
      if (answer.code === undefined) resolve(answer.result);
      else reject(new Error(answer.code));
    };
    worker.on('message', hear);
  });
}

afterEach(async () => {
  for (const worker of workers.splice(0)) await worker.terminate();
  for (const db of pools.splice(0)) await db.close();
});

test('what is open in any thread is listed in every thread, with the locks held and awaited', async () => {
  const db = await open();
  const other = await thread(db);
  const users = db.space('users');
  await users.ready;
  const tx = db.begin({ mode: 'pessimistic', priority: 7, isolation: 'repeatable-read' });
  await tx.put('a', '1');
  await tx.space(users).put('u', '1');
  const waiting = ask(other, 'put', 'a', '2');
  const infos = await vi.waitFor(async () => {
    const found = (await ask(other, 'list')) as Awaited<ReturnType<typeof db.transactions>>;
    expect(found).toHaveLength(2);
    expect(found[1]!.awaited).toHaveLength(1);
    return found;
  }, 60_000);
  const [mine, its] = infos;
  expect(mine).toMatchObject({
    id: tx.id,
    client: 0,
    state: 'active',
    isolation: 'repeatable-read',
    mode: 'pessimistic',
    priority: 7,
    heldCount: 2,
    awaited: [],
  });
  expect(mine!.held).toEqual(
    expect.arrayContaining([
      expect.objectContaining({ space: '', mode: 'exclusive', key: 'a' }),
      expect.objectContaining({ space: 'users', mode: 'exclusive', key: 'u' }),
    ]),
  );
  expect(its).toMatchObject({ mode: 'pessimistic', isolation: 'serializable', heldCount: 0 });
  expect(its!.client).not.toBe(0);
  expect(its!.awaited[0]).toMatchObject({ space: '', mode: 'exclusive', key: 'a', waitsFor: [tx.id] });
  expect(its!.awaited[0]!.sinceMs).toBeLessThan(300_000);
  await tx.commit();
  await waiting;
  expect(await db.transactions()).toEqual([]);
  expect(await db.get('a')).toBe('2');
  expect(db.stats().transactions).toMatchObject({
    begun: 2,
    committed: 2,
    open: 0,
    waiting: 0,
    manyShards: expect.any(Number) as number,
  });
});

test('a thread that ends leaves neither locks nor listings', async () => {
  const db = await open();
  const other = await thread(db);
  await ask(other, 'hold', ['a', 'b', 'c']);
  expect(await db.transactions()).toMatchObject([{ heldCount: 3, mode: 'pessimistic' }]);
  const put = db.put('a', 'mine');
  await other.terminate();
  await put;
  await vi.waitFor(async () => {
    expect(await db.transactions()).toEqual([]);
  }, 60_000);
  expect(await db.getMany(['a', 'b'])).toEqual(['mine', undefined]);
});

test('a thread runs so many at a time; the others enter by priority, and give up at their signal or time', async () => {
  const db = await open({ transactions: { maxConcurrent: 2, agingMs: 1000 } });
  const order: string[] = [];
  let letGo: () => void = () => undefined;
  const gate = new Promise<void>((resolve) => {
    letGo = resolve;
  });
  const run = (name: string, options = {}): Promise<void> =>
    db.transaction(async (tx) => {
      order.push(name);
      if (name.startsWith('holder')) await gate;
      void tx.put(name, '1');
    }, options);
  const holders = [run('holder 1'), run('holder 2')];
  const controller = new AbortController();
  const low = run('low', { priority: -5 });
  const aborted = run('aborted', { priority: 1000, signal: controller.signal });
  const late = run('late', { timeoutMs: 30 });
  const high = run('high', { priority: 5 });
  const middle = run('middle');
  expect(db.stats().transactions).toMatchObject({ open: 2, waiting: 5 });
  controller.abort(new Error('enough'));
  await expect(aborted).rejects.toThrow('enough');
  await expect(late).rejects.toMatchObject({ code: 'ERR_TRANSACTION_TIMEOUT' });
  // begin() does not wait.
  const begun = db.begin();
  await begun.rollback();
  letGo();
  await Promise.all([...holders, low, high, middle]);
  expect(order).toEqual(['holder 1', 'holder 2', 'high', 'middle', 'low']);
  expect(db.stats().transactions).toMatchObject({ open: 0, waiting: 0, rolledBack: 1, committed: 5 });
});

test('a stream of high priority does not keep a low one from its turn', async () => {
  const agingMs = 2;
  const difference = 50;
  const db = await open({ transactions: { maxConcurrent: 1, agingMs } });
  let isOver = false;
  /** When the last of those that have had their turn had come. */
  let lastCameMs = 0;
  const busy = async (): Promise<void> => {
    while (!isOver) {
      const cameMs = performance.now();
      const turn = async (): Promise<void> => {
        lastCameMs = Math.max(lastCameMs, cameMs);
        await sleep(0);
      };
      await db.transaction(turn, { priority: difference });
    }
  };
  const stream = Array.from({ length: 8 }, busy);
  await sleep(5);
  let lastBeforeMs = Infinity;
  const low = db.transaction(() => void (lastBeforeMs = lastCameMs), { priority: 0 });
  const cameMs = performance.now();
  await low;
  isOver = true;
  await Promise.all(stream);
  // None of the stream that came later than the bound says went before it, however long each one took.
  expect(lastBeforeMs).toBeLessThanOrEqual(cameMs + difference * agingMs + 1);
});

test('closing the pool ends what is open', async () => {
  const db = await open();
  const tx = db.begin({ mode: 'pessimistic' });
  await tx.put('a', '1');
  const running = db.transaction(() => sleep(5000));
  const closed = expect(running).rejects.toMatchObject({ code: 'ERR_CLOSED' });
  await db.close();
  await closed;
  await expect(tx.commit()).rejects.toMatchObject({ code: 'ERR_CLOSED' });
  await expect(db.transaction(() => 1)).rejects.toMatchObject({ code: 'ERR_CLOSED' });
});
