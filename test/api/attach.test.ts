/** One pool in several threads: the same methods on the same memory, each thread with its own end. */
import { once } from 'node:events';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { describe, expect, onTestFinished, test } from 'vitest';
import { ConcordPool, type PoolHandle, type PoolStats } from '../../dist/index.js';
import { codeOf, failureOf, scratchDirectory } from '../support/pool-scene.js';

interface Answer {
  readonly result?: unknown;
  readonly code?: string;
}

interface Thread {
  readonly worker: Worker;
  ask(what: string, fields?: Record<string, unknown>): Promise<unknown>;
}

/** A thread attached with the handle. */
async function thread({ port }: Pick<PoolHandle, 'port'>): Promise<Thread> {
  const worker = new Worker(new URL('../support/pool-thread.mjs', import.meta.url), {
    workerData: { handle: { port } },
    transferList: [port],
  });
  onTestFinished(async () => void (await worker.terminate()));
  await once(worker, 'message');
  return {
    worker,
    async ask(what, fields = {}) {
      worker.postMessage({ do: what, ...fields });
      const [answer] = (await once(worker, 'message')) as [Answer];
      if (answer.code !== undefined) throw Object.assign(new Error('in the thread'), answer);
      return answer.result;
    },
  };
}

async function until(holds: () => boolean): Promise<void> {
  while (!holds()) await new Promise((resolve) => setTimeout(resolve, 5));
}

describe.each([1, 3])('with %i shards', (shards) => {
  test('what one thread wrote every thread reads', async () => {
    const db = await ConcordPool.open(':memory:', { shards });
    const threads = await Promise.all([thread(db.handle()), thread(db.handle()), thread(db.handle())]);
    expect(db.stats().clients).toBe(4);
    await db.put('main', '1');
    for (const [i, { ask }] of threads.entries()) {
      expect(await ask('get', { key: 'main' })).toBe('1');
      expect(await ask('put', { key: `thread ${i}`, value: String(i) })).toBe(true);
      expect(db.getSync(`thread ${i}`)).toBe(String(i));
    }
    await Promise.all(threads.map(({ ask }, i) => ask('puts', { from: i * 2000, count: 2000 })));
    const entries = await db.iterator().all();
    expect(entries).toHaveLength(6004);
    for (const { ask } of threads) {
      expect(await ask('entries')).toEqual(entries);
      expect(await ask('snapshotEntries')).toEqual(entries);
      expect(((await ask('stats')) as PoolStats).entries).toBe(6004);
    }
    await db.close();
  });

  test('updates of several threads to one key lose nothing', async () => {
    const db = await ConcordPool.open(':memory:', { shards });
    const threads = await Promise.all([thread(db.handle()), thread(db.handle())]);
    const own = (async () => {
      for (let i = 0; i < 100; i++) await db.update('counter', (old) => String(Number(old ?? 0) + 1));
    })();
    await Promise.all([own, ...threads.map(({ ask }) => ask('add', { key: 'counter', times: 100 }))]);
    expect(db.getSync('counter')).toBe('300');
    await db.close();
  });
});

test('an attached thread compacts, checkpoints and makes handles as the first one does', async () => {
  const root = scratchDirectory();
  const db = await ConcordPool.open(join(root, 'store'), { shards: 2 });
  const first = await thread(db.handle());
  await first.ask('puts', { from: 0, count: 500 });
  expect(await first.ask('compact')).toEqual(expect.any(Number));
  await first.ask('checkpoint', { directory: join(root, 'copy') });
  expect(await first.ask('facts')).toEqual({ directory: join(root, 'store'), recovery: undefined, host: undefined });
  await expect(first.ask('checkpoint', { directory: join(root, 'copy') })).rejects.toMatchObject({
    code: 'ERR_EXISTS',
  });
  const second = await thread((await first.ask('handle')) as Pick<PoolHandle, 'port'>);
  expect(await second.ask('get', { key: 't7' })).toBe('value 7');
  // The thread that made the handle goes; the one it let in stays.
  await first.worker.terminate();
  await until(() => db.stats().clients === 2);
  expect(await second.ask('put', { key: 'after', value: 'x' })).toBe(true);
  expect(db.getSync('after')).toBe('x');
  await db.close();
  const copy = await ConcordPool.open(join(root, 'copy'));
  expect(await copy.count()).toBe(500);
  await copy.close();
});

test('a thread that closes leaves the pool to the others, and its slot to the next', async () => {
  const db = await ConcordPool.open(':memory:', { shards: 1 });
  const one = await thread(db.handle());
  await one.ask('put', { key: 'a', value: '1' });
  await one.ask('close');
  await until(() => db.stats().clients === 1);
  expect(db.getSync('a')).toBe('1');
  const two = await thread(db.handle());
  expect(await two.ask('get', { key: 'a' })).toBe('1');
  await db.close();
});

test('when the first thread closes, calls in the others fail with ERR_CLOSED', async () => {
  const db = await ConcordPool.open(':memory:', { shards: 1 });
  const other = await thread(db.handle());
  await other.ask('put', { key: 'a', value: '1' });
  const attached = await ConcordPool.attach(db.handle());
  await db.close();
  for (const what of ['put', 'get', 'entries', 'snapshotEntries', 'compact', 'add', 'handle']) {
    await expect(other.ask(what, { key: 'a', value: '2', times: 1 }), what).rejects.toMatchObject({
      code: 'ERR_CLOSED',
    });
  }
  expect(await codeOf(() => attached.getSync('a'))).toBe('ERR_CLOSED');
  expect(await codeOf(attached.put('a', '2'))).toBe('ERR_CLOSED');
  expect(await codeOf(attached.compact())).toBe('ERR_CLOSED');
  await other.ask('close');
  await attached.close();
});

describe('a handle', () => {
  test('attaches one thread', async () => {
    const db = await ConcordPool.open(':memory:', { shards: 1 });
    const handle = db.handle();
    const attached = await ConcordPool.attach(handle);
    expect(await failureOf(ConcordPool.attach(handle))).toMatchObject({ code: 'ERR_CLIENT_LIMIT' });
    await attached.put('a', '1');
    expect(db.getSync('a')).toBe('1');
    await attached.close();
    await db.close();
  });

  test('can be cloned with its transfer list, and its list is not enumerated', async () => {
    const db = await ConcordPool.open(':memory:', { shards: 1 });
    const handle = db.handle();
    expect(Object.keys(handle)).toEqual(['port', 'control']);
    const copy = structuredClone(handle, { transfer: [...handle.transferList] });
    const attached = await ConcordPool.attach(copy);
    await attached.close();
    await db.close();
  });

  test('of a closed pool is refused with ERR_CLOSED, before and after the close is known', async () => {
    const db = await ConcordPool.open(':memory:', { shards: 1 });
    const [early, late] = [db.handle(), db.handle()];
    const closing = db.close();
    expect(await codeOf(() => db.handle())).toBe('ERR_CLOSED');
    expect(await codeOf(ConcordPool.attach(early))).toBe('ERR_CLOSED');
    await closing;
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(await codeOf(ConcordPool.attach(late))).toBe('ERR_CLOSED');
  });

  test('that reaches its thread after the pool has closed is refused there', async () => {
    const db = await ConcordPool.open(':memory:', { shards: 1 });
    const handle = db.handle();
    const waitFor = new Int32Array(new SharedArrayBuffer(4));
    const worker = new Worker(new URL('../support/pool-thread.mjs', import.meta.url), {
      workerData: { handle, waitFor },
      transferList: [...handle.transferList],
    });
    onTestFinished(async () => void (await worker.terminate()));
    await once(worker, 'online');
    await db.close();
    Atomics.store(waitFor, 0, 1);
    Atomics.notify(waitFor, 0);
    const [answer] = (await once(worker, 'message')) as [Answer];
    expect(answer.code).toBe('ERR_CLOSED');
  });
});
