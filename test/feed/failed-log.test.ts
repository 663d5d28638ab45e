/** A log that has failed for good, with a transaction prepared in its shard: what a feed tells then. */
import { describe, expect, test } from 'vitest';
import { feedLimitsOf } from '../../dist/actors/feed/feed-limits.js';
import { ShardState } from '../../dist/actors/control-block.js';
import { LogTail } from '../../dist/engines/feed/log-tail.js';
import { withClock } from '../txn/simulation/clock.js';
import { STORE_ID, WorldScene } from './world-scene.js';

describe('when the log of a shard has failed', () => {
  test('a change that failed is not told, nothing waits in silence, and a reopened store tells the rest', async () => {
    const scene = new WorldScene();
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
    const scene = new WorldScene();
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
