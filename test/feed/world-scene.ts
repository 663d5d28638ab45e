/** A store in one thread (test/txn/simulation/world.ts), driven by hand, with a transaction over its shards 0 and 1 and a feed that reads their logs. */
import { expect } from 'vitest';
import { TransactionBodyWriter, Isolation } from '../../dist/engines/txn/body.js';
import { CommitRun } from '../../dist/actors/transaction/commit.js';
import { feedLimitsOf } from '../../dist/actors/feed/feed-limits.js';
import { LogTail } from '../../dist/engines/feed/log-tail.js';
import { ShardFeed } from '../../dist/engines/feed/shard-feed.js';
import type { FeedPosition } from '../../dist/engines/feed/source.js';
import { StoreFeed } from '../../dist/engines/feed/store-feed.js';
import { Durability } from '../../dist/engines/store/shard-store.js';
import { ALL } from './scene.js';
import { World, type SimClient } from '../txn/simulation/world.js';

export const STORE_ID = new Uint8Array(16).fill(7);
const KEYS = [Buffer.from('t0'), Buffer.from('t1')] as const;

export class WorldScene {
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

  async put(shard: number, key: string, value: string, rests = false, expiresAt = 0): Promise<unknown> {
    const level = shard === 1 ? Durability.Sync : Durability.Os;
    const done = this.world.put(this.client, shard, Buffer.from(key), value, level, expiresAt).then(
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
          if (change.isExpiry) texts.push(`${part.shard}: ${key} expired`);
          else texts.push(`${part.shard}: ${key}=${value.toString('utf8', valueAt, valueAt + valueLength)}`);
        }
      feed.done();
      rows.push(texts.join(', '));
    }
  }

  valueOf(shard: number, key: string): unknown {
    return this.client.find(shard, Buffer.from(key), Infinity).value;
  }
}
