/**
 * Ways to open a pool, for the conformance suite: in memory or in a directory, with any options, in this thread or hosted by another one.
 */
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { ConcordPool, type PoolHandle, type PoolOptions } from '../../dist/index.js';
import type { EngineTarget, Store, StoreOptions } from '../conformance/suite.js';
import { keysOfShard, makeDirectory, removeDirectory } from './pool-scene.js';

/** Reserved, not committed: room for the worst that a batch of 100,000 operations might need. */
const MEMORY_BYTES = 4 * 2 ** 30;

export interface PoolTarget extends EngineTarget {
  /** Removes the directories. */
  dispose(): void;
}

function named(root: string, name: string | undefined, number: number): string {
  return join(root, name ?? `store-${number}`);
}

/** A pool opened in the test's own thread. `where` 'memory' keeps nothing. */
export function poolTarget(
  where: 'memory' | 'directory',
  options: PoolOptions & { readonly shards: number },
  isThorough = false,
): PoolTarget {
  const root = makeDirectory();
  let stores = 0;
  return {
    durable: where === 'directory',
    oneShard: options.shards === 1,
    isThorough,
    countsExactly: options.engine !== 'lsm',
    batchKeys: (count, prefix) => keysOfShard(0, options.shards, count, prefix),
    open<K, V>(own: StoreOptions = {}, name?: string) {
      const directory = where === 'memory' ? ':memory:' : named(root, name, ++stores);
      return ConcordPool.open<K, V>(directory, { memoryBytes: MEMORY_BYTES, ...options, ...own });
    },
    dispose: () => {
      removeDirectory(root);
    },
  };
}

/** A pool that another thread hosts: the test's thread is attached with a handle. */
export function attachedTarget(options: PoolOptions & { readonly shards: number }, isThorough = false): PoolTarget {
  const root = makeDirectory();
  let stores = 0;
  return {
    durable: true,
    oneShard: options.shards === 1,
    isThorough,
    batchKeys: (count, prefix) => keysOfShard(0, options.shards, count, prefix),
    async open<K, V>(own: StoreOptions = {}, name?: string): Promise<Store<K, V>> {
      const custom = typeof own.valueEncoding === 'object' ? own.valueEncoding : undefined;
      const hosted = {
        memoryBytes: MEMORY_BYTES,
        ...options,
        ...own,
        valueEncoding: custom?.name ?? own.valueEncoding ?? 'utf8',
      };
      const worker = new Worker(new URL('./pool-host.mjs', import.meta.url), {
        workerData: { directory: named(root, name, ++stores), options: hosted, isCustom: custom !== undefined },
      });
      const ended = new Promise<void>((resolve) => worker.once('exit', () => resolve()));
      const handle = await new Promise<Pick<PoolHandle, 'port'>>((resolve, reject) => {
        worker.once('message', resolve);
        worker.once('error', reject);
      });
      const db = await ConcordPool.attach<K, V>(handle, custom === undefined ? {} : { valueEncoding: custom });
      const close = async (): Promise<void> => {
        await db.close();
        worker.postMessage('close');
        await ended;
      };
      // Everything is the attached pool's, except that closing it ends the host too.
      return new Proxy(db, {
        get(target, property) {
          if (property === 'close') return close;
          const value = Reflect.get(target, property, target) as unknown;
          return typeof value === 'function' ? (value as (...args: unknown[]) => unknown).bind(target) : value;
        },
      });
    },
    dispose: () => {
      removeDirectory(root);
    },
  };
}

/** A named space of a pool in memory that has other spaces, too. */
export function spaceTarget(
  options: PoolOptions & { readonly shards: number },
  engine: string,
  isThorough = false,
): PoolTarget {
  return {
    durable: false,
    oneShard: options.shards === 1,
    isThorough,
    batchKeys: (count, prefix) => keysOfShard(0, options.shards, count, prefix),
    async open<K, V>(own: StoreOptions = {}): Promise<Store<K, V>> {
      const db = await ConcordPool.open(':memory:', { memoryBytes: MEMORY_BYTES, ...options });
      // Neighbours with the same keys, before and behind it.
      const before = db.space('before', { engine: 'hash' });
      await before.put('a', 'not yours');
      const space = db.space<K, V>('space', { engine, ...own });
      await space.ready;
      const behind = db.space('behind', { engine: 'btree' });
      await behind.put('a', 'not yours');
      await db.put('a', 'not yours');
      const close = async (): Promise<void> => {
        await db.close();
      };
      return new Proxy(space, {
        get(target, property) {
          if (property === 'close') return close;
          const value = Reflect.get(target, property, target) as unknown;
          return typeof value === 'function' ? (value as (...args: unknown[]) => unknown).bind(target) : value;
        },
      });
    },
    dispose: () => undefined,
  };
}
