/** A transaction that one shard has ended before the process did, and another ends in the next life of the store: with another number, behind what expired. */
import { expect, test } from 'vitest';
import type { FeedPosition } from '../../dist/engines/feed/source.js';
import { withClock } from '../txn/simulation/clock.js';
import { WorldScene } from './world-scene.js';

test('a transaction that a shard ends in a later life, behind what expired, comes whole', async () => {
  const scene = new WorldScene();
  const { world } = scene;
  await withClock(world.clock, world.blocked, async () => {
    scene.open();
    expect(await scene.put(0, 'a', '1')).toBe('done');
    expect(await scene.put(1, 'e', '1', false, Date.now() + 60_000)).toBe('done');
    const feed = scene.feedFrom();
    expect(scene.tell(feed)).toEqual(['0: a=1', '1: e=1']);
    await scene.prepare();
    expect(scene.tell(feed)).toEqual([]);
    const places: (readonly FeedPosition[])[] = [feed.positions];
    // Shard 1 does not come to it.
    for (let i = 0; i < 50; i++) {
      world.clock.nowMs += 5;
      world.stepCoordinator();
      world.stepShard(0);
    }
    expect([scene.valueOf(0, 't0'), scene.valueOf(1, 't1')]).toEqual(['T', undefined]);
    world.lives[0]!.shard.store.sync();
    expect(scene.tell(feed)).toEqual([]);
    places.push(feed.positions);

    world.endProcess();
    world.crash();
    world.clock.nowMs += 120_000;
    // The shard's thread looks for what has expired before it looks at the board.
    const { stepSome } = world;
    world.stepSome = () => {
      world.stepSome = stepSome;
      world.lives[1]!.shard.background(Date.now());
    };
    scene.open();
    await scene.turn(20);
    expect([scene.valueOf(0, 't0'), scene.valueOf(1, 't1'), scene.valueOf(1, 'e')]).toEqual(['T', 'T', undefined]);
    for (let shard = 0; shard < world.shards; shard++) world.lives[shard]!.shard.store.sync();
    const told = scene.feedFrom(places[0]);
    const behind = ['1: e expired', '0: t0=T, 1: t1=T'];
    expect(scene.tell(told)).toEqual(behind);
    for (const place of places) expect(scene.tell(scene.feedFrom(place))).toEqual(behind);
    expect(scene.tell(scene.feedFrom())).toEqual(['0: a=1', '1: e=1', ...behind]);
    expect(scene.tell(scene.feedFrom(told.positions))).toEqual([]);
  });
});
