/** Moments of the snapshot protocol (see src/actors/control-block.ts), held still in one thread. */
import { expect, test } from 'vitest';
import { newControl, newLink, newRings, newShard, put, readAt } from './one-thread.js';

function twoShards() {
  const control = newControl(2);
  const shard = newShard(control, 0);
  const rings = newRings();
  const link = newLink(1, rings);
  shard.attach(1, rings.requests, rings.responses);
  return { control, shard, link };
}

test('groups that a shard publishes while a snapshot is being opened keep the version the snapshot will need', async () => {
  const { control, shard, link } = twoShards();
  // Shard 1 has taken a number and is slow: a snapshot that begins now cannot be ready before shard 1 has published.
  const slow = control.takeSequences(1, 1);
  void put(link, 'key', 'old');
  shard.step();
  const opening = control.openSnapshot(1);
  void put(link, 'key', 'newer');
  void put(link, 'key', 'newer still');
  shard.step();
  void put(link, 'key', 'newest');
  shard.step();
  control.beginApplying(1);
  control.endGroup(1, slow);
  const { sequence } = await opening;
  expect(readAt(shard, 'key', sequence)).toBe('old');
  expect(readAt(shard, 'key', Infinity)).toBe('newest');
});

test('the versions kept for a snapshot that was opening go when it is closed', async () => {
  const { control, shard, link } = twoShards();
  const slow = control.takeSequences(1, 1);
  void put(link, 'key', 'old');
  shard.step();
  const opening = control.openSnapshot(1);
  for (let i = 0; i < 20; i++) {
    void put(link, 'key', `version ${i}`);
    shard.step();
  }
  control.endGroup(1, slow);
  const { slot, sequence } = await opening;
  control.closeSnapshot(slot, 1);
  void put(link, 'key', 'last');
  shard.step();
  expect(readAt(shard, 'key', sequence)).toBeUndefined();
  expect(shard.store.tree.counts().cells).toBe(1);
});

test('a snapshot without a number counts as the last number before the group that asks', async () => {
  const { control, shard, link } = twoShards();
  void put(link, 'key', 'old');
  shard.step();
  const into = new Float64Array(8);
  expect(control.readSnapshots(into, 41)).toBe(0);
  control.beginApplying(1);
  const opening = control.openSnapshot(1);
  expect(Array.from(into.subarray(0, control.readSnapshots(into, 41)))).toEqual([41]);
  control.endGroup(1, undefined);
  const { sequence } = await opening;
  expect(Array.from(into.subarray(0, control.readSnapshots(into, 41)))).toEqual([sequence]);
});

test('a snapshot has its number, and versions are kept for it alone, while it waits for a slow shard', async () => {
  const { control, shard, link } = twoShards();
  const slow = control.takeSequences(1, 1);
  void put(link, 'key', 'old');
  shard.step();
  const opening = control.openSnapshot(1);
  for (let i = 0; i < 50; i++) {
    void put(link, 'key', `version ${i}`);
    shard.step();
  }
  expect(shard.store.tree.counts().cells).toBe(2);
  control.endGroup(1, slow);
  expect(readAt(shard, 'key', (await opening).sequence)).toBe('old');
});

test('a thread that gave its slot back cannot close the snapshots of the thread that has it now', async () => {
  const { control } = twoShards();
  const { slot } = await control.openSnapshot(3);
  control.detached = true;
  control.closeSnapshot(slot, 3);
  expect(control.openSnapshots).toBe(1);
  control.detached = false;
  control.closeSnapshot(slot, 3);
  expect(control.openSnapshots).toBe(0);
});
