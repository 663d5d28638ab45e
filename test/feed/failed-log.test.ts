/** A log that has failed for good, with a transaction prepared in its shard: what a feed tells then, in a store in one thread (test/txn/simulation/world.ts). */
import { describe, expect, test } from 'vitest';
import { TransactionBodyWriter, Isolation } from '../../dist/engines/txn/body.js';
import { CommitRun } from '../../dist/actors/transaction/commit.js';
import { feedLimitsOf } from '../../dist/actors/feed/feed-limits.js';
import { ShardState } from '../../dist/actors/control-block.js';
import { LogTail } from '../../dist/engines/feed/log-tail.js';
import { ShardFeed } from '../../dist/engines/feed/shard-feed.js';
import type { FeedPosition } from '../../dist/engines/feed/source.js';
import { StoreFeed } from '../../dist/engines/feed/store-feed.js';
import { Durability } from '../../dist/engines/store/shard-store.js';
import { ALL } from './scene.js';
import { withClock } from '../txn/simulation/clock.js';
import { World, type SimClient } from '../txn/simulation/world.js';

const STORE_ID = new Uint8Array(16).fill(7);
const KEYS = [Buffer.from('t0'), Buffer.from('t1')] as const;

class Scene {
  readonly world = new World({ seed: 5, loss: 'process' });
  client!: SimClient;

  open(): void {
    const { world } = this;
    world.isCalm = true;
    world.openProcess();
    this.client = world.addClient(0);
  }

  /** Everybody runs, the coordinator unless it `rests`. */
  async turn(times: number, rests = false): Promise<void> {
    const { world } = this;
    for (let k = 0; k < times; k++) {
      world.unblocked();
      world.clock.nowMs += 5;
      world.supervise();
      for (let shard = 0; shard < world.shards; shard++) world.stepShard(shard);
      if (!rests) world.stepCoordinator();
      while (world.deliverOne());
      for (const client of world.clients.values()) world.stepClient(client);
      for (let i = 0; i < 20; i++) await undefined;
    }
  }

  async put(shard: number, key: string, value: string, rests = false): Promise<unknown> {
    const level = shard === 1 ? Durability.Sync : Durability.Os;
    const done = this.world.put(this.client, shard, Buffer.from(key), value, level).then(
      () => 'done',
      (error: unknown) => (error as { code?: unknown }).code,
    );
    await this.turn(30, rests);
    return done;
  }

  /** A transaction over shards 0 and 1 is prepared in both, and asks for its decision. */
  async prepare(): Promise<void> {
    const { client, world } = this;
    const id = client.control.takeCommitNumber();
    const parts = [0, 1].map((shard) => {
      const body = new TransactionBodyWriter();
      body.begin(Isolation.ReadCommitted, false, id, 0, Date.now(), 3, 0, 0);
      body.addPut(0, KEYS[shard]!, 2, Buffer.from('T'), 1, 0);
      return { shard, body: body.seal(), writes: true };
    });
    const run = new CommitRun(world.portOf(client), id, parts, Durability.Os);
    run.run({ answered: () => undefined, failed: () => undefined } as never);
    await this.turn(30, true);
    expect([0, 1].map((shard) => world.lives[shard]!.shard.store.prepared.size)).toEqual([1, 1]);
  }

  feedFrom(positions?: readonly FeedPosition[]): StoreFeed {
    const { world } = this;
    const shards = world.lives.map((_, shard) => {
      const tail = new LogTail(world.env, world.directoryOf(shard), STORE_ID, shard);
      return new ShardFeed(shard, tail, ALL, positions?.[shard] ?? tail.beginning());
    });
    return new StoreFeed(shards, undefined);
  }

  /** What comes now, a unit a row. */
  tell(feed: StoreFeed): string[] {
    const limits = this.world.lives.map((_, shard) => feedLimitsOf(this.world.control, shard, false));
    const rows: string[] = [];
    for (;;) {
      const outcome = feed.next((shard) => limits[shard]!());
      if (outcome === 'more') continue;
      if (outcome === 'stuck') rows.push(`stuck in ${feed.stuck!.shard} for ${feed.stuck!.missingIn}`);
      if (outcome !== 'ready') return rows;
      const texts: string[] = [];
      for (const part of feed.ready)
        for (const { change } of part.changes()) {
          const { bytes, keyAt, keyLength, value, valueAt, valueLength } = change;
          const key = bytes.toString('utf8', keyAt, keyAt + keyLength);
          texts.push(`${part.shard}: ${key}=${value.toString('utf8', valueAt, valueAt + valueLength)}`);
        }
      feed.done();
      rows.push(texts.join(', '));
    }
  }

  valueOf(shard: number, key: string): unknown {
    return this.client.find(shard, Buffer.from(key), Infinity).value;
  }
}

describe('when the log of a shard has failed', () => {
  test('a change that failed is not told, nothing waits in silence, and a reopened store tells the rest', async () => {
    const scene = new Scene();
    const { world } = scene;
    await withClock(world.clock, world.blocked, async () => {
      scene.open();
      expect(await scene.put(0, 'a', '1')).toBe('done');
      expect(await scene.put(1, 'b', '1')).toBe('done');
      const feed = scene.feedFrom();
      expect(scene.tell(feed)).toEqual(['0: a=1', '1: b=1']);
      await scene.prepare();
      world.env.addRule({ operation: 'sync', path: /shard-1/, times: 1, error: 'EIO' });
      expect(await scene.put(1, 'z', 'x', true)).toBe('ERR_IO');
      expect(world.control.shardState(1)).toBe(ShardState.ReadOnly);
      const vouched = world.control.logEnd(1);
      expect(vouched).toBe(world.control.published(1));
      expect(scene.tell(feed)).toEqual([]);

      await scene.turn(100);
      expect([scene.valueOf(0, 't0'), scene.valueOf(1, 't1'), scene.valueOf(1, 'z')]).toEqual(['T', 'T', undefined]);
      expect(world.control.published(1)).toBeGreaterThan(vouched);
      expect(world.control.logEnd(1)).toBe(vouched);
      expect(await scene.put(0, 'a', '2')).toBe('done');
      expect(scene.tell(feed)).toEqual(['stuck in 0 for 1']);
      const { positions } = feed;
      expect(scene.tell(scene.feedFrom(positions))).toEqual(['stuck in 0 for 1']);

      world.endProcess();
      world.crash();
      scene.open();
      await scene.turn(20);
      expect(world.control.logEnd(1)).toBe(Infinity);
      // The write that failed was in the file: nobody was told that it would not come.
      const isThere = scene.valueOf(1, 'z') === 'x';
      const again = scene.tell(scene.feedFrom(positions));
      expect(again).toContain('0: t0=T, 1: t1=T');
      expect([...again].sort()).toEqual(['0: a=2', '0: t0=T, 1: t1=T', ...(isThere ? ['1: z=x'] : [])]);
    });
  });

  test('what other shards have is told up to the transaction that cannot come whole', async () => {
    const scene = new Scene();
    const { world } = scene;
    await withClock(world.clock, world.blocked, async () => {
      scene.open();
      await scene.prepare();
      expect(await scene.put(0, 'a', '1', true)).toBe('done');
      expect(await scene.put(1, 'b', '1', true)).toBe('done');
      world.env.addRule({ operation: 'sync', path: /shard-1/, times: 1, error: 'EIO' });
      expect(await scene.put(1, 'z', 'x', true)).toBe('ERR_IO');
      await scene.turn(100);
      for (let i = 0; i < 40; i++) await scene.put(0, 'a', String(i + 2));
      expect(scene.tell(scene.feedFrom())).toEqual(['0: a=1', '1: b=1', 'stuck in 0 for 1']);
      // Behind it there is nothing in the way.
      const tails = world.lives.map((_, shard) => new LogTail(world.env, world.directoryOf(shard), STORE_ID, shard));
      const now = tails.map((tail, shard) => tail.end(() => feedLimitsOf(world.control, shard, false)().publishedSeq));
      const feed = scene.feedFrom(now);
      await scene.put(0, 'c', '3');
      expect(scene.tell(feed)).toEqual(['0: c=3']);
    });
  });
});
