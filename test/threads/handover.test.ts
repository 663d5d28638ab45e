/** What a shard that dies leaves to its successor in the rings, in one thread. */
import { expect, test } from 'vitest';
import { ConcordError } from '../../dist/shared/errors.js';
import { RingConsumer } from '../../dist/shared/memory/ring.js';
import { announceTaken, confirmTaken, takenCount } from '../../dist/actors/shard/request.js';
import { newArena, newControl, newLink, newRings, newShard, put, readAt } from './one-thread.js';
import { ArenaReader } from '../../dist/shared/memory/arena.js';
import { ShardStore } from '../../dist/engines/store/shard-store.js';
import { MemEnv } from '../../dist/shared/env/mem-env.js';
import { Shard } from '../../dist/actors/shard/shard.js';

test('the count of taken requests always goes with the released position, wherever the shard died', () => {
  // The stores of one hand-over, in order; a shard can die after any of them.
  const steps = 5;
  for (let died = 0; died <= steps; died++) {
    const { requests } = newRings();
    const link = newLink(1, { requests, responses: newRings().responses });
    for (let i = 0; i < 6; i++) void put(link, `key ${i}`, 'value');
    const consumer = new RingConsumer(requests);
    const { header } = consumer;
    for (let i = 0; i < 2; i++) consumer.next();
    announceTaken(header, 2, consumer.position);
    consumer.release();
    confirmTaken(header, 2);
    for (let i = 0; i < 3; i++) consumer.next();
    // The second hand-over stops after `died` stores.
    const before = header.slice();
    announceTaken(header, 5, consumer.position);
    consumer.release();
    confirmTaken(header, 5);
    const after = header.slice();
    const changed = [...after.keys()].filter((word) => before[word] !== after[word]);
    expect(changed.length).toBe(4);
    const [released, taken, announcedCount, announcedPosition] = changed as [number, number, number, number];
    header.set(before);
    const stores: [number, number][] = [
      [announcedPosition, 1],
      [announcedCount, after[announcedCount]!],
      [announcedPosition, after[announcedPosition]!],
      [released, after[released]!],
      [taken, after[taken]!],
    ];
    expect(stores.length).toBe(steps);
    for (const [word, value] of stores.slice(0, died)) header[word] = value;
    const successor = new RingConsumer(requests);
    const count = takenCount(header, successor.position);
    let left = 0;
    while (successor.next() >= 0) left++;
    expect(count + left).toBe(6);
  }
});

test('a successor refuses what its predecessor had taken and serves what it had not', async () => {
  const control = newControl(1);
  const arena = newArena();
  const shard = newShard(control, 0, arena);
  const rings = newRings();
  const link = newLink(1, rings);
  shard.attach(1, rings.requests, rings.responses);
  const done = put(link, 'a', 'done');
  shard.step();
  link.settle();
  expect(await done).toBe(true);

  // It dies when the next group is in hand: numbers are taken, nothing is written.
  const lost = [put(link, 'a', 'lost'), put(link, 'b', 'lost')];
  const takeSequences = control.takeSequences.bind(control);
  control.takeSequences = () => {
    throw new Error('dies here');
  };
  expect(() => shard.step()).toThrow('dies here');
  control.takeSequences = takeSequences;
  const later = put(link, 'c', 'served');
  const store = ShardStore.open({
    env: new MemEnv(),
    directory: undefined,
    storeId: new Uint8Array(16),
    shard: 0,
    arena,
    adopt: true,
  });
  const successor = new Shard(0, store, control);
  successor.attach(1, rings.requests, rings.responses);
  successor.step();
  link.settle();
  for (const promise of lost) await expect(promise).rejects.toMatchObject({ code: 'ERR_SHARD_RESTARTED' });
  expect(await later).toBe(true);
  expect(readAt(successor, 'a', Infinity)).toBe('done');
  expect(readAt(successor, 'b', Infinity)).toBeUndefined();
  expect(readAt(successor, 'c', Infinity)).toBe('served');
  expect(store.tree.check()).toEqual([]);
});

test('a client that is announced twice is served once', async () => {
  const shard = newShard(newControl(1), 0);
  const rings = newRings();
  const link = newLink(1, rings);
  shard.attach(1, rings.requests, rings.responses);
  shard.attach(1, rings.requests, rings.responses);
  expect(shard.clientCount).toBe(1);
  const puts = Array.from({ length: 10 }, (_, i) => put(link, `key ${i}`, 'value'));
  shard.step();
  link.settle();
  expect(await Promise.all(puts)).toEqual(puts.map(() => true));
  expect(link.pending).toBe(0);
});

test('a link whose shard is lost rejects what is open and what comes later, and settles nothing', async () => {
  const shard = newShard(newControl(1), 0);
  const rings = newRings();
  const link = newLink(1, rings);
  shard.attach(1, rings.requests, rings.responses);
  const open = put(link, 'key', 'value');
  link.rejectAll(new ConcordError('ERR_SHARD_FAILED', 'shard 0 stays down'));
  await expect(open).rejects.toMatchObject({ code: 'ERR_SHARD_FAILED' });
  expect(link.pending).toBe(0);
  expect(link.reserve(100)).toBe(-1);
  await expect(link.enqueue(Buffer.alloc(16), undefined)).rejects.toMatchObject({ code: 'ERR_SHARD_FAILED' });
  shard.step();
  expect(link.settle()).toBe(0);
});

test('a successor ends the checkpoint pins of its predecessor', () => {
  const arena = newArena();
  const shard = newShard(newControl(1), 0, arena);
  shard.store.beginCheckpoint();
  expect(shard.store.arena.longPins().length).toBe(1);
  const store = ShardStore.open({
    env: new MemEnv(),
    directory: undefined,
    storeId: new Uint8Array(16),
    shard: 0,
    arena,
    adopt: true,
  });
  expect(store.arena.longPins()).toEqual([]);
  expect(new ArenaReader(arena).published()).not.toBe(0);
  store.beginCheckpoint();
});
