/** A map that follows the feed holds what the store holds: under load of several threads, from any token on, over restarts and kills. */
import { fork, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { describe, expect, onTestFinished, test } from 'vitest';
import { ConcordPool, type Change, type PoolOptions } from '../../dist/index.js';
import { scratchDirectory, shardOf } from '../support/pool-scene.js';
import { sleep, until } from '../threads/scene.js';
// @ts-expect-error a plain JavaScript helper
import { Replica as PlainReplica, differences, entriesOf, runLoad } from './load.mjs';

interface ReplicaLike {
  readonly entries: Map<string, { readonly value: string; readonly expiresAt: number | undefined }>;
  readonly live: Map<string, string>;
  changes: number;
  apply(change: unknown): void;
}
const Replica = PlainReplica as new () => ReplicaLike;

const seed = Number(process.env['CONCORDKV_TEST_SEED'] ?? Math.floor(Math.random() * 2 ** 31));
/** That end by a kill. */
const LIVES = Number(process.env['FEED_LIVES'] ?? 2);
const options: PoolOptions = {
  shards: 3,
  memoryBytes: 32 << 20,
  segmentBytes: 1 << 20,
  checkpointLogBytes: 1 << 30,
  expiry: { intervalMs: 20 },
};

/** Reads until the map is what the store holds, or for a minute. */
async function catchUp(db: ConcordPool, replica: ReplicaLike, what: string): Promise<void> {
  let found: string[] = [];
  for (const deadline = Date.now() + 60_000; Date.now() < deadline; await sleep(30)) {
    found = differences(replica.live, await entriesOf(db)) as string[];
    if (found.length === 0) return;
  }
  expect(found, `${what}, seed ${seed}`).toEqual([]);
}

function follow(feed: AsyncIterable<unknown>, replica: ReplicaLike, seen?: unknown[]): Promise<void> {
  return (async () => {
    for await (const change of feed) {
      replica.apply(change);
      seen?.push(change);
    }
  })();
}

async function underLoad(
  db: ConcordPool,
  seedOfLoad: number,
  ms: number,
  threads = 1,
  isEnough = (): boolean => true,
): Promise<void> {
  const workers = Array.from({ length: threads }, (_, i) => {
    const handle = db.handle();
    return new Worker(new URL('./load-thread.mjs', import.meta.url), {
      workerData: { handle, seed: seedOfLoad + 1 + i },
      transferList: [...handle.transferList],
    });
  });
  const failures: Error[] = [];
  const ended = workers.map((worker) => {
    worker.on('error', (error: Error) => failures.push(error));
    return once(worker, 'exit');
  });
  const until = performance.now() + ms;
  const atLast = until + 60_000;
  const isOver = (): boolean => performance.now() > (isEnough() ? until : atLast);
  await runLoad(db, { seed: seedOfLoad, callers: 4, isOver });
  for (const worker of workers) worker.postMessage('stop');
  await Promise.all(ended);
  expect(failures).toEqual([]);
}

describe('a map that follows the feed', () => {
  test('holds what the store holds, whatever several threads do', async () => {
    const db = await ConcordPool.open(`${scratchDirectory()}/store`, options);
    onTestFinished(() => db.close());
    const replica = new Replica();
    const feed = db.watch({ space: '*' });
    const following = follow(feed, replica);
    await underLoad(db, seed, 800, 2, () => replica.changes > 300);
    await catchUp(db, replica, 'behind the load');
    expect(replica.changes).toBeGreaterThan(300);
    await feed.close();
    await following;
  });

  test('holds what a store in memory holds', async () => {
    const db = await ConcordPool.open(':memory:', { shards: 3, memoryBytes: 64 << 20, expiry: { intervalMs: 20 } });
    onTestFinished(() => db.close());
    const replica = new Replica();
    const feed = db.watch({ space: '*' });
    const following = follow(feed, replica);
    await underLoad(db, seed + 50, 500, 2, () => replica.changes > 300);
    await catchUp(db, replica, 'behind the load');
    await feed.close();
    await following;
  });

  test('that begins anew with the token of any change it saw is told exactly the rest', async () => {
    const directory = scratchDirectory();
    let db = await ConcordPool.open(`${directory}/store`, options);
    onTestFinished(() => db.close());
    const seen: Change[] = [];
    const replica = new Replica();
    const feed = db.watch({ space: '*' });
    const following = follow(feed, replica, seen);
    await underLoad(db, seed + 10, 300, 1, () => seen.length > 100);
    await catchUp(db, replica, 'behind the load');
    // Else more would come when the feed has ended, at a place among the others that depends on the shards.
    await until('all that expires has gone', () =>
      [...replica.entries.values()].every(({ expiresAt }) => expiresAt === undefined),
    );
    await feed.close();
    await following;
    await db.close();
    db = await ConcordPool.open(`${directory}/store`, options);
    const textOf = ({ type, space, shard, version, ...rest }: Change): string =>
      `${shard} ${version} ${type} ${space}/${'key' in rest ? rest.key : ''}`;
    const perShard = (changes: readonly Change[]): string[][] =>
      [0, 1, 2].map((shard) => changes.filter((change) => change.shard === shard).map(textOf));
    // All of the first fifty; of the rest every so many, so that it takes a moment only.
    const stride = Math.ceil(seen.length / 40);
    for (let i = 0; i < seen.length; i += i < 50 ? 1 : stride) {
      const rest: Change[] = [];
      const again = db.watch({ space: '*', since: seen[i]!.token });
      while (rest.length < seen.length - i - 1) {
        const { value, done } = await again.next();
        if (done === true) break;
        rest.push(value as Change);
      }
      await again.close();
      expect(perShard(rest), `behind change ${i} of ${seen.length}, seed ${seed}`).toEqual(perShard(seen.slice(i + 1)));
      expect(rest[0]?.transaction, `behind change ${i}`).toEqual(
        rest[0] === undefined ? undefined : seen.find((change) => textOf(change) === textOf(rest[0]!))!.transaction,
      );
    }
  });

  test('goes on over restarts of the store and of its shards', async () => {
    const directory = scratchDirectory();
    const replica = new Replica();
    let since = 'beginning';
    for (let life = 0; life < 4; life++) {
      const db = await ConcordPool.open(`${directory}/store`, options);
      const feed = db.watch({ space: '*', since });
      const toldBefore = replica.changes;
      const following = follow(feed, replica);
      const load = underLoad(db, seed + 100 * life, 400, 0).catch((error: unknown) => {
        // Calls that a dead shard had taken.
        if ((error as { code?: string }).code !== 'ERR_SHARD_RESTARTED') throw error;
      });
      if (life % 2 === 1) {
        await db.flush();
        await until('the feed of this life has told something', () => replica.changes > toldBefore);
      }
      await load;
      // Sometimes in the middle: the rest comes in the next life.
      if (life === 3) await catchUp(db, replica, `life ${life}`);
      else if (life === 1) {
        await db.flush();
        await db.host!.killShard(life % 3);
        await db.put('after', String(life)).catch(() => undefined);
        await catchUp(db, replica, `life ${life}, behind the death of a shard`);
      }
      await db.close();
      await following;
      // What it had at hand when the store was closed it has told, too.
      since = feed.token;
    }
  });

  test('loses nothing and meets nothing twice when the process is killed', async () => {
    const directory = scratchDirectory();
    const replica = new Replica();
    let token = 'beginning';
    let entries: Map<string, string> | undefined;
    for (let life = 0; entries === undefined; life++) {
      const isLast = life === LIVES;
      const child = fork(
        new URL('./kill-child.mjs', import.meta.url),
        [`${directory}/store`, String(seed + life), token, ...(isLast ? ['last'] : [])],
        { stdio: ['ignore', 'ignore', 'pipe', 'ipc'] },
      );
      let complaint = '';
      child.stderr!.on('data', (text) => (complaint += String(text)));
      let count = 0;
      child.on('message', (message: Message) => {
        if ('entries' in message) {
          entries = new Map(message.entries);
          return;
        }
        count++;
        token = message.token;
        replica.apply({ ...message, covers: (key: string) => covers(message, key) });
      });
      const exited = ended(child);
      if (!isLast) {
        for (const deadline = Date.now() + 60_000; count < 200 && Date.now() < deadline && complaint === '';)
          await sleep(10);
        child.kill('SIGKILL');
      }
      await exited;
      expect(complaint, `life ${life}, seed ${seed}`).toBe('');
    }
    const now = replica.live;
    // What expired while the last life looked is in neither.
    const found = (differences(now, entries) as string[]).filter((text) => !text.includes('brief'));
    expect(found, `seed ${seed}`).toEqual([]);
    expect(replica.changes).toBeGreaterThan(300);
  });
});

type Message =
  | { readonly entries: [string, string][] }
  | {
      readonly type: string;
      readonly space: string;
      readonly shard: number;
      readonly token: string;
      readonly low?: string;
      readonly high?: string;
    };

function covers({ shard, low, high }: Exclude<Message, { entries: unknown }>, key: string): boolean {
  if (shardOf(key, 3) !== shard) return false;
  return (low === undefined || key >= low) && (high === undefined || key < high);
}

function ended(child: ChildProcess): Promise<void> {
  // 'close': all that it had sent has come.
  return new Promise((resolve) => child.once('close', () => resolve()));
}
