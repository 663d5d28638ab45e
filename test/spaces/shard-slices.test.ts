/** What a shard does slice by slice, where a slice does not fit: the frame of its log, its memory, the rows of its meta page. */
import { expect, test } from 'vitest';
import { Shard } from '../../dist/actors/shard/shard.js';
import { ControlBlock } from '../../dist/actors/control-block.js';
import { Condition } from '../../dist/actors/shard/request.js';
import {
  OPERATION_EXTENDED,
  OPERATION_EXTENSION_BYTES,
  OPERATION_HEADER_BYTES,
  OperationKind,
  operationBytes,
  writeOperationExtension,
  writeOperationHeader,
} from '../../dist/engines/operation.js';
import { createArena } from '../../dist/shared/memory/arena.js';
import { MemEnv } from '../../dist/shared/env/mem-env.js';
import { createStore, openStore, readState } from '../support/store-scene.js';
import { ShardScene } from '../support/store-shard.js';

const LATER = Date.now() + 3_600_000;

function spacesIn(engine: string, ids: readonly number[] = [0]) {
  return ids.map((id) => ({ id, engine, tuning: {} }));
}

/** A put of a space, which may expire. */
function extendedPut(key: string, value: string, spaceId: number, expiresAt: number): Buffer {
  const keyBytes = Buffer.from(key);
  const valueBytes = Buffer.from(value);
  const record = Buffer.alloc(operationBytes(keyBytes.length, valueBytes.length, OPERATION_EXTENSION_BYTES));
  writeOperationHeader(record, 0, OperationKind.Put, OPERATION_EXTENDED, keyBytes.length, valueBytes.length);
  writeOperationExtension(record, 0, spaceId, expiresAt);
  keyBytes.copy(record, OPERATION_HEADER_BYTES + OPERATION_EXTENSION_BYTES);
  valueBytes.copy(record, OPERATION_HEADER_BYTES + OPERATION_EXTENSION_BYTES + keyBytes.length);
  return record;
}

/** Entries in each of the spaces but the first, each record in memory of its own. */
function batchOf(entries: number, ids: readonly number[]): Buffer[] {
  return ids.slice(1).flatMap((id) =>
    Array.from({ length: entries }, (_, i) => {
      const record = extendedPut(`k${i}`, 'v', id, 0);
      const own = Buffer.from(new ArrayBuffer(record.length));
      own.set(record);
      return own;
    }),
  );
}

/** A key so long that a few dozen fill a frame of the log. */
const longKey = (i: number): string => `${String(i).padStart(4, '0')}${'k'.repeat(1000)}`;

test('entries that expire together go in as many groups as the log has frames for', async () => {
  const env = new MemEnv();
  createStore(env).close();
  const scene = new ShardScene(env);
  const client = scene.client();
  for (let i = 0; i < 200; i++) {
    const key = longKey(i);
    expect(await scene.outcome(client.operation(key, extendedPut(key, 'v', 0, LATER)))).toBe('done');
  }
  expect(scene.store.spaces.expiringEntries).toBe(200);
  for (let slice = 0; slice < 20 && scene.shard.background(LATER + slice); slice++);
  expect(scene.store.spaces.expiringEntries).toBe(0);
  expect(readState(scene.store).size).toBe(0);
  expect(await scene.outcome(client.put('k', 'v'))).toBe('done');
});

test('what has expired is looked for as often as was told, whatever else brings the shard to its background work', async () => {
  const env = new MemEnv();
  createStore(env).close();
  const scene = new ShardScene(env);
  const client = scene.client();
  const entriesAfter = (ms: number): number => {
    while (scene.shard.background(LATER + ms));
    return readState(scene.store).size;
  };
  const put = async (key: string): Promise<void> => {
    expect(await scene.outcome(client.operation(key, extendedPut(key, 'v', 0, LATER)))).toBe('done');
  };
  scene.shard.expiryIntervalMs = 5000;
  await put('a');
  expect(entriesAfter(0)).toBe(0);
  await put('b');
  expect([1, 1000, 4000].map(entriesAfter)).toEqual([1, 1, 1]);
  expect(entriesAfter(5000)).toBe(0);
  // Shorter from now on, and by a clock that is set back.
  await put('c');
  expect(entriesAfter(6000)).toBe(1);
  scene.shard.expiryIntervalMs = 1000;
  expect(entriesAfter(6000)).toBe(0);
  await put('d');
  expect(entriesAfter(3000)).toBe(0);
});

test('a look for expired entries that could not be taken is taken as soon as it can be, whatever the interval', async () => {
  const env = new MemEnv();
  createStore(env).close();
  const scene = new ShardScene(env);
  const client = scene.client();
  scene.shard.expiryIntervalMs = 3_600_000;
  expect(await scene.outcome(client.operation('a', extendedPut('a', 'v', 0, LATER)))).toBe('done');
  // As before all shards of a store have recovered.
  const { nextSequence } = scene.control;
  scene.control.nextSequence = 0;
  for (let ms = 0; ms < 3; ms++) expect(scene.shard.background(LATER + ms)).toBe(false);
  expect(readState(scene.store).size).toBe(1);
  scene.control.nextSequence = nextSequence;
  while (scene.shard.background(LATER + 3));
  expect(readState(scene.store).size).toBe(0);
});

test.each(['btree', 'hash', 'rbtree', 'array', 'memtable'])(
  'a clear of a space in %s with keys that fill many frames of the log removes them all',
  async (engine) => {
    const env = new MemEnv();
    const spaces = spacesIn(engine);
    createStore(env, { spaces }).close();
    const scene = new ShardScene(env, { spaces });
    const client = scene.client();
    for (let i = 0; i < 200; i++) expect(await scene.outcome(client.put(longKey(i), 'v'))).toBe('done');
    expect(await scene.outcome(client.clear())).toBe('done');
    expect(readState(scene.store).size).toBe(0);
  },
);

test.each(['btree', 'hash', 'rbtree', 'array', 'memtable'])(
  'a clear in %s removes keys beside those that were deleted and put again under a snapshot',
  async (engine) => {
    const env = new MemEnv();
    const spaces = spacesIn(engine);
    createStore(env, { spaces }).close();
    const scene = new ShardScene(env, { spaces });
    const client = scene.client();
    const keys = Array.from({ length: 100 }, (_, i) => `k${i}`);
    for (const key of keys) expect(await scene.outcome(client.put(key, 'first'))).toBe('done');
    const snapshot = await scene.control.openSnapshot(0);
    // Every second one has three versions: an old one, a tombstone, a new one.
    for (let i = 0; i < keys.length; i += 2) {
      expect(await scene.outcome(client.del(keys[i]!))).toBe('done');
      const between = await scene.control.openSnapshot(0);
      expect(await scene.outcome(client.put(keys[i]!, 'second'))).toBe('done');
      if (i > 20) scene.control.closeSnapshot(between.slot, 0);
    }
    expect(await scene.outcome(client.clear())).toBe('done');
    expect([...readState(scene.store).keys()]).toEqual([]);
    expect(readState(scene.store, snapshot.sequence).size).toBe(keys.length);
  },
);

test('a shard that must move more spaces than its meta page has rows for starts, and moves one after the other', () => {
  const env = new MemEnv();
  const ids = [0, ...Array.from({ length: 400 }, (_, i) => i + 2)];
  const arena = createArena({ memoryBytes: 256 << 20 });
  const dead = createStore(env, { spaces: spacesIn('btree', ids), arena, segmentBytes: 16 << 20 });
  const many = batchOf(300, ids);
  dead.beginGroup();
  for (const record of many) dead.append(record, new Int32Array(record.buffer), 0, record.length);
  dead.commit(1, 1, () => undefined);
  dead.close();
  // The thread died, and the manifest says another engine.
  const store = openStore(env, { spaces: spacesIn('hash', ids), arena, adopt: true, segmentBytes: 16 << 20 });
  const control = ControlBlock.create(1);
  control.nextSequence = store.publishedSeq + 1;
  const shard = new Shard(0, store, control);
  for (let slice = 0; slice < 10_000 && shard.background(Date.now()); slice++);
  expect(store.spaces.unfinishedSwitches).toEqual([]);
  for (const { id, engine } of store.spaces.all) expect(engine.counts().liveEntries).toBe(id === 0 ? 0 : 300);
  expect(store.spaces.check()).toEqual([]);
  store.close();
});

test('a long value that has no room in both engines of a space that is being moved is refused', async () => {
  const env = new MemEnv();
  const options = { spaces: spacesIn('btree', [0, 2]), segmentBytes: 1 << 20 };
  createStore(env, options).close();
  const scene = new ShardScene(env, options);
  const client = scene.client();
  // A checkpoint keeps the exchange waiting: the copy has passed every key.
  const plan = scene.store.beginCheckpoint();
  const { spaces } = scene.store;
  spaces.beginSwitch({ id: 2, engine: 'rbtree', tuning: {} });
  for (let slice = 0; slice < 3; slice++) scene.store.switchSlice(spaces.require(2), 100);
  const key = Buffer.from('k');
  const value = Buffer.alloc(2 << 20, 1);
  const source = {
    kind: 'value',
    bytes: value,
    byteCount: value.length,
    count: 0,
    key,
    spaceId: 2,
    expiresAt: 0,
  } as const;
  const meter = undefined as never;
  let outcome = 'pending';
  void client.link.submitBlob(source, 1, Condition.None, 0, 0, undefined, meter, 0).then(
    () => (outcome = 'done'),
    (error: { code: string }) => (outcome = error.code),
  );
  await scene.run();
  expect(outcome).toBe('ERR_MEMORY_FULL');
  expect(await scene.outcome(client.put('k', 'v'))).toBe('done');
  expect(plan.publishedSeq).toBe(0);
  expect(spaces.require(2).building).toBeDefined();
});
