/** Spaces in several threads: what one creates, drops or moves, the others know at once. */
import { once } from 'node:events';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { describe, expect, onTestFinished, test } from 'vitest';
import { ConcordPool, type PoolOptions } from '../../dist/index.js';
import { codeOf } from '../support/pool-scene.js';

interface Thread {
  /** Runs the function, which sees nothing but its arguments, in the thread. */
  run<T, A extends unknown[]>(work: (db: ConcordPool, ...args: A) => T | Promise<T>, ...args: A): Promise<T>;
}

async function scene(options?: PoolOptions): Promise<{ db: ConcordPool; thread: () => Promise<Thread> }> {
  const db = await ConcordPool.open(':memory:', { shards: 2, memoryBytes: 64 << 20, ...options });
  const workers: Worker[] = [];
  onTestFinished(async () => {
    await Promise.all(workers.map((worker) => worker.terminate()));
    await db.close();
  });
  const thread = async (): Promise<Thread> => {
    const handle = db.handle();
    const worker = new Worker(new URL('./space-thread.mjs', import.meta.url), {
      workerData: handle,
      transferList: [...handle.transferList],
    });
    workers.push(worker);
    const answer = async (): Promise<unknown> => {
      const [{ value, error }] = (await once(worker, 'message')) as [
        { value?: unknown; error?: { code?: string; message: string } },
      ];
      if (error !== undefined) throw Object.assign(new Error(error.message), { code: error.code });
      return value;
    };
    await answer();
    return {
      run: async (work, ...args) => {
        worker.postMessage({ source: work.toString(), args });
        return (await answer()) as never;
      },
    };
  };
  return { db, thread };
}

describe('in an attached thread', () => {
  test('a space that exists is there at once, also one that came after the thread', async () => {
    const { db, thread } = await scene();
    await db.space('before', { valueEncoding: 'json' }).put('k', 1 as never);
    const other = await thread();
    await db.space('after').put('k', 'v');
    expect(await other.run((pool) => [pool.space('before').getSync('k'), pool.space('after').getSync('k')])).toEqual([
      1,
      'v',
    ]);
    expect(await other.run((pool) => pool.space('before').valueEncodingName)).toBe('json');
    expect(await codeOf(other.run((pool) => pool.space('before', { valueEncoding: 'utf8' }).name))).toBe(
      'ERR_OPTION_CONFLICT',
    );
    expect((await other.run((pool) => pool.spaces())).map(({ name, entries }) => [name, entries])).toEqual([
      ['before', 1],
      ['after', 1],
    ]);
  });

  test('a space can be created, and is there in every other thread', async () => {
    const { db, thread } = await scene();
    const [one, two] = [await thread(), await thread()];
    await one.run(async (pool) => {
      await pool.space('made', { order: 7 }).put('k', 'v', { ttlMs: 1e6 });
    });
    expect(db.space('made').getSync('k')).toBe('v');
    expect(await two.run((pool) => pool.space('made').getEntrySync('k')?.value)).toBe('v');
    expect(await db.spaces()).toMatchObject([{ name: 'made', tuning: { order: 7 } }]);
  });

  test('a space that several threads create at once is one; who contradicts the first is told', async () => {
    const { db, thread } = await scene();
    const threads = [await thread(), await thread()];
    for (let round = 0; round < 10; round++) {
      const outcomes = await Promise.all([
        db
          .space(`s${round}`, { order: 5 })
          .put('main', 'v')
          .then(
            () => 'done',
            (error: { code: string }) => error.code,
          ),
        ...threads.map((each, i) =>
          each.run(
            async (pool, name, order, key) => {
              try {
                await pool.space(name, { order }).put(key, 'v');
                return 'done';
              } catch (error) {
                return (error as { code: string }).code;
              }
            },
            `s${round}`,
            i === 0 ? 5 : 6,
            `t${i}`,
          ),
        ),
      ]);
      const { order } = (await db.spaces()).at(-1)!.tuning;
      expect(outcomes).toEqual([5, 5, 6].map((given) => (given === order ? 'done' : 'ERR_OPTION_CONFLICT')));
    }
    expect(await db.spaces()).toHaveLength(10);
  });

  test('a space that is dropped elsewhere is gone, and its name means the new one', async () => {
    const { db, thread } = await scene();
    const other = await thread();
    await db.space('s').put('k', 'old');
    expect(await other.run((pool) => pool.space('s').getSync('k'))).toBe('old');
    const codes = await other.run(async (pool) => {
      const held = pool.space('s');
      (globalThis as Record<string, unknown>)['held'] = held;
      return held.getSync('k');
    });
    expect(codes).toBe('old');
    await db.dropSpace('s');
    expect(
      await other.run(async () => {
        const held = (globalThis as Record<string, unknown>)['held'] as ReturnType<ConcordPool['space']>;
        const outcome = (work: () => unknown): Promise<string> =>
          Promise.resolve()
            .then(work)
            .then(
              () => 'done',
              (error: { code: string }) => error.code,
            );
        return Promise.all([
          outcome(() => held.getSync('k')),
          outcome(() => held.put('k', 'v')),
          outcome(() => held.count()),
          outcome(() => held.iterator().all()),
        ]);
      }),
    ).toEqual(Array.from({ length: 4 }, () => 'ERR_SPACE_DROPPED'));
    await db.space('s').put('k', 'new');
    expect(await other.run((pool) => pool.space('s').getSync('k'))).toBe('new');
    expect(await other.run((pool) => pool.dropSpace('s'))).toBe(true);
    expect(await db.spaces()).toEqual([]);
  });

  test('a reader that never stops sees each life of a name whole, never one life in another', async () => {
    const { db, thread } = await scene({ durability: 'memory', shards: 1 });
    const other = await thread();
    /** Stop; the highest life that the reader has seen; how often it has met none. */
    const words = new Int32Array(new SharedArrayBuffer(12));
    const reading = other.run(async (pool, shared) => {
      const seen = { reads: 0, found: 0, dropped: 0, lives: 0, wrong: [] as string[] };
      let highest = -1;
      while (Atomics.load(shared, 0) === 0) {
        try {
          const space = pool.space('s', { createIfMissing: false });
          let life: string | undefined;
          for (let i = 0; i < 200; i++) {
            const value = space.getSync(`k${i % 50}`);
            seen.reads++;
            if (value === undefined) continue;
            seen.found++;
            life ??= value.split(':')[0];
            if (value !== `${life}:k${i % 50}`) seen.wrong.push(`${life} ${value}`);
          }
          if (life !== undefined && Number(life) < highest) seen.wrong.push(`${life} after ${highest}`);
          if (life !== undefined && Number(life) > highest) {
            highest = Number(life);
            Atomics.store(shared, 1, highest);
            seen.lives++;
          }
        } catch (error) {
          const { code } = error as { code: string };
          if (code !== 'ERR_SPACE_DROPPED' && code !== 'ERR_SPACE_NOT_FOUND') seen.wrong.push(String(error));
          seen.dropped++;
          Atomics.store(shared, 2, seen.dropped);
        }
        if (seen.reads % 5000 < 200) await new Promise((resolve) => setImmediate(resolve));
      }
      return seen;
    }, words);
    for (let life = 0; life < 150; life++) {
      const space = db.space('s');
      await space.batch(
        Array.from({ length: 50 }, (_, i) => ({ type: 'put' as const, key: `k${i}`, value: `${life}:k${i}` })),
      );
      // Seen or not, it goes; but every tenth one is seen.
      for (let i = 0; (i < 20 || life % 10 === 0) && Atomics.load(words, 1) < life; i++)
        await new Promise((resolve) => setTimeout(resolve, 1));
      await space.drop();
    }
    while (Atomics.load(words, 2) === 0) await new Promise((resolve) => setTimeout(resolve, 1));
    Atomics.store(words, 0, 1);
    const seen = await reading;
    expect(seen.wrong).toEqual([]);
    expect(seen.lives).toBeGreaterThan(10);
    expect(seen.dropped).toBeGreaterThan(0);
    expect(await db.host!.check()).toEqual([]);
  });

  test('engines of engineModules are known, and their spaces can be read, moved and followed', async () => {
    const module = join(import.meta.dirname, 'custom-engine.mjs');
    const { db, thread } = await scene({ engineModules: [module] });
    const other = await thread();
    await db.space('s', { engine: 'custom' }).put('k', 'v');
    expect(await other.run((pool) => [pool.space('s').engine, pool.space('s').getSync('k')])).toEqual(['custom', 'v']);
    const events = await other.run(async (pool) => {
      const progress: { copied: number; total: number }[] = [];
      await pool.space('s').switchEngine('btree', { onProgress: (event) => progress.push(event) });
      return progress;
    });
    expect(events.at(-1)).toEqual({ copied: 1, total: 1 });
    expect([db.space('s').engine, db.space('s').getSync('k')]).toEqual(['btree', 'v']);
    expect(await codeOf(other.run((pool) => pool.space('s').switchEngine('nosuch')))).toBe('ERR_INVALID_ARG');
  });
});
