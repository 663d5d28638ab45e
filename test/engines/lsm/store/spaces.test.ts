/** LSM-Trees among other spaces of a shard: moves between engines, drops, copies of the store, checkpoints that are damaged. */
import { expect, test } from 'vitest';
import { coldLayout } from '../../../../dist/engines/btree/paged/paging.js';
import { writeImage } from '../../../../dist/engines/btree/image.js';
import { writeEntries } from '../../../../dist/engines/checkpoint/entries.js';
import { CheckpointWriter } from '../../../../dist/engines/checkpoint/writer.js';
import { decodeLsmRoot, lsmRootChunk } from '../../../../dist/engines/lsm/root.js';
import type { ShardStoreOptions } from '../../../../dist/engines/store/options.js';
import { Durability, ShardStore } from '../../../../dist/engines/store/shard-store.js';
import {
  OPERATION_EXTENDED,
  OPERATION_EXTENSION_BYTES,
  OPERATION_HEADER_BYTES,
  OperationKind,
  operationBytes,
  writeOperationExtension,
  writeOperationHeader,
} from '../../../../dist/engines/operation.js';
import { JOB_READER_SLOT } from '../../../../dist/engines/store/space-table.js';
import type { SpaceDefinition } from '../../../../dist/engines/store/space.js';
import { WalWriter } from '../../../../dist/engines/wal/writer.js';
import { MemEnv } from '../../../../dist/shared/env/mem-env.js';
import { Random } from '../../../../dist/shared/random.js';
import { ArenaReader } from '../../../../dist/shared/memory/arena.js';
import { LsmFiles } from '../../../../dist/engines/lsm/read/files.js';
import { expectGolden, hex } from '../../../shared/codec/golden-file.js';
import {
  DIRECTORY,
  SEGMENT_BYTES,
  SHARD,
  STORE_ID,
  applied,
  checkpoint,
  commit,
  createStore,
  failure,
  openStore,
  readState,
  type Operation,
  type State,
} from '../../../support/store-scene.js';
import { TINY } from './scene.js';

const tuning = { lsm: TINY };
const BTREE: SpaceDefinition = { id: 0, engine: 'btree', tuning: {} };
const LSM: SpaceDefinition = { id: 0, engine: 'lsm', tuning };
const NO_SNAPSHOTS = new Float64Array(0);
const put = (i: number, text: string): Operation => ({
  kind: 'put',
  key: `k${String(i).padStart(5, '0')}`,
  value: Buffer.from(text.padEnd(120, '.')),
});

function recordIn(spaceId: number, key: string, value: string): Buffer {
  const extension = spaceId === 0 ? 0 : OPERATION_EXTENSION_BYTES;
  const bytes = Buffer.from(new ArrayBuffer(operationBytes(key.length, value.length, extension)));
  const flags = extension === 0 ? 0 : OPERATION_EXTENDED;
  writeOperationHeader(bytes, 0, OperationKind.Put, flags, key.length, value.length);
  if (extension > 0) writeOperationExtension(bytes, 0, spaceId, 0);
  bytes.write(key, OPERATION_HEADER_BYTES + extension);
  bytes.write(value, OPERATION_HEADER_BYTES + extension + key.length);
  return bytes;
}

function entriesIn(store: ShardStore, spaceId: number): string[] {
  const cursor = store.spaces.cursorOf(store.spaces.require(spaceId));
  const lines: string[] = [];
  cursor.setRange(undefined, undefined);
  for (cursor.seek(store.arena.published(), undefined, 0, Infinity, false, 1); cursor.valid; cursor.next()) {
    const key = Buffer.alloc(cursor.keyLength);
    cursor.copyKey(key, 0);
    lines.push(`${key.toString()} ${cursor.copyValue().toString()}`);
  }
  cursor.release();
  return lines;
}

class Life {
  env = new MemEnv();
  store: ShardStore;
  state: State = new Map();
  nowMs = 1_000_000;

  constructor(readonly options: Partial<ShardStoreOptions>) {
    this.store = createStore(this.env, options);
  }

  apply(operations: readonly Operation[]): void {
    for (let at = 0; at < operations.length; at += 50) commit(this.store, Durability.Os, operations.slice(at, at + 50));
    this.state = applied(this.state, operations);
  }

  fill(text: string, from = 0, to = 1500): void {
    this.apply(Array.from({ length: to - from }, (_, i) => put(from + i, `${text} ${i}`)));
  }

  settle(): void {
    for (let round = 0; round < 5000; round++) {
      this.store.setSnapshots(NO_SNAPSHOTS, 0);
      this.store.work(this.nowMs);
      if (!this.store.hasWork && this.store.workDueAtMs > this.nowMs + 20_000) return;
      if (!this.store.hasWork) this.nowMs = Math.max(this.nowMs, this.store.workDueAtMs);
    }
    throw new Error('there is no end of work');
  }

  /** Moves the default space as a shard does. */
  move(definition: SpaceDefinition, between: () => void = () => undefined): void {
    const { store } = this;
    store.spaces.beginSwitch(definition);
    for (let slice = 0; slice < 2000; slice++) {
      store.setSnapshots(NO_SNAPSHOTS, 0);
      const space = store.spaces.require(0);
      if (space.building?.engine.background?.flow().state !== 'stopped' && store.switchSlice(space, 100)) return;
      if (slice === 3) between();
      store.work(this.nowMs);
    }
    throw new Error('the move does not end');
  }

  reopen(options: Partial<ShardStoreOptions> = {}): void {
    this.store.close();
    this.store = openStore(this.env, { ...this.options, ...options });
  }

  trees(): string[] {
    return this.env.list(DIRECTORY).filter((name) => name.startsWith('lsm-'));
  }

  check(): void {
    expect(readState(this.store)).toEqual(this.state);
    expect(this.store.spaces.check()).toEqual([]);
  }
}

test('a space is moved into an LSM-Tree and back, while it is written', () => {
  const life = new Life({ spaces: [BTREE] });
  life.fill('first');
  life.move(LSM, () => life.fill('during', 0, 400));
  life.check();
  expect(life.store.spaces.require(0).engine.background).toBeDefined();
  life.fill('in the tree', 300, 700);
  life.reopen({ spaces: [LSM] });
  // No checkpoint knows of the tree yet: the old engine is moved once more.
  life.check();
  if (life.store.spaces.unfinishedSwitches.length > 0) life.move(LSM);
  life.check();
  checkpoint(life.env, life.store);
  life.reopen({ spaces: [LSM] });
  expect(life.store.spaces.unfinishedSwitches).toEqual([]);
  life.check();
  life.settle();
  expect(life.trees()).toHaveLength(1);

  life.move(BTREE, () => life.fill('back', 1000, 1300));
  life.check();
  // The last checkpoint names the tree: it stays until there is another one.
  life.settle();
  expect(life.trees()).toHaveLength(1);
  const [tree] = life.trees();
  life.reopen({ spaces: [BTREE] });
  life.check();
  if (life.store.spaces.unfinishedSwitches.length > 0) life.move(BTREE);
  life.check();
  checkpoint(life.env, life.store);
  life.reopen({ spaces: [BTREE] });
  life.check();
  expect(life.trees()).not.toContain(tree);
});

test('what expires is listed when its space leaves the LSM-Tree', () => {
  const life = new Life({ spaces: [LSM] });
  life.fill('first', 0, 100);
  // Directly, as records of this scene do not expire.
  life.store.spaces.beginGroup(life.store.publishedSeq, false);
  const key = Buffer.from('expires');
  life.store.spaces.put(0, key, 0, key.length, key, 0, key.length, life.store.publishedSeq, 2_000_000);
  expect(life.store.spaces.expiringEntries).toBe(0);
  life.fill('second', 0, 10);
  life.settle();
  life.move(BTREE);
  expect(life.store.spaces.expiringEntries).toBe(1);
});

test('lines of the index that a space has left behind go without a look at its tables', () => {
  const life = new Life({ spaces: [BTREE] });
  life.fill('first', 0, 100);
  life.store.spaces.beginGroup(life.store.publishedSeq, false);
  const key = Buffer.from('expires');
  life.store.spaces.put(0, key, 0, key.length, key, 0, key.length, life.store.publishedSeq, 2_000_000);
  life.fill('second', 0, 10);
  life.move(LSM);
  expect(life.store.spaces.expiringEntries).toBe(1);
  // No block of a table can be read.
  for (const tree of life.trees()) {
    for (const name of life.env.list(`${DIRECTORY}/${tree}`).filter((file) => file.endsWith('.sst'))) {
      const file = life.env.open(`${DIRECTORY}/${tree}/${name}`, 'write');
      file.write(new Uint8Array(1000).fill(0x55), 0, 1000, 0);
      file.close();
    }
  }
  expect(life.store.collectExpired(2_000_001, 100)).toEqual([]);
  expect(life.store.spaces.expiringEntries).toBe(0);
});

test('the files of a dropped space go when no reader can be there, and those that nobody names with the next open', () => {
  const second: SpaceDefinition = { id: 7, engine: 'lsm', tuning };
  const life = new Life({ spaces: [LSM, second] });
  life.fill('first');
  life.settle();
  checkpoint(life.env, life.store);
  // A tree of its own for the second space.
  const { store } = life;
  const value = Buffer.alloc(200, 'v');
  for (let group = 0; group < 20; group++) {
    store.spaces.lsn = store.log.lastLsn;
    store.spaces.beginGroup(store.publishedSeq, false);
    for (let i = 0; i < 50; i++) {
      const key = Buffer.from(`second ${group} ${i}`);
      store.spaces.put(7, key, 0, key.length, value, 0, value.length, store.publishedSeq, 0);
    }
    life.fill(`again ${group}`, 0, 50);
  }
  life.settle();
  expect(life.trees()).toHaveLength(2);
  const metaUnit = store.arena.pin(3);
  expect(metaUnit).toBeGreaterThan(0);
  store.dropSpace(7);
  store.work(life.nowMs);
  expect(life.trees()).toHaveLength(2);
  store.arena.unpin(3);
  store.arena.reclaim();
  life.settle();
  expect(life.trees()).toHaveLength(1);
  life.check();
  // What a dead process left behind.
  life.env.makeDirectory(`${DIRECTORY}/lsm-99`);
  const file = life.env.open(`${DIRECTORY}/lsm-99/000001.sst`, 'create');
  file.close();
  life.reopen({ spaces: [LSM] });
  expect(life.trees()).toHaveLength(1);
  life.check();
});

test('a copy of the store has the entries, and is a tree of its own when it is opened', () => {
  const life = new Life({ spaces: [LSM] });
  life.fill('first', 0, 4000);
  life.settle();
  life.fill('second', 100, 300);
  const plan = life.store.beginCheckpoint();
  expect(plan.lsmSpaces).toEqual([0]);
  const copy = new MemEnv();
  copy.makeDirectory(DIRECTORY);
  for (let at = DIRECTORY; at !== ''; at = at.slice(0, at.lastIndexOf('/'))) copy.syncDirectory(at.slice(0, at.lastIndexOf('/')) || '/'); // prettier-ignore
  const header = { storeId: STORE_ID, shard: SHARD, lsn: 0, publishedSeq: plan.publishedSeq, createdAt: 0 };
  const writer = CheckpointWriter.create(copy, DIRECTORY, header);
  const arena = new ArenaReader(life.store.arena.layout);
  LsmFiles.attach(arena, life.env, coldLayout(DIRECTORY, STORE_ID, SHARD, undefined), 0);
  const emit = (chunk: Uint8Array): void => {
    writer.write(chunk);
  };
  writeImage(arena, plan.metaUnit, emit);
  for (const space of plan.lsmSpaces) writeEntries(arena, JOB_READER_SLOT, space, plan.publishedSeq, emit);
  writer.finish();
  life.store.endCheckpoint(false);
  WalWriter.create(copy, DIRECTORY, { storeId: STORE_ID, shard: SHARD, segmentBytes: SEGMENT_BYTES }).close();

  life.env = copy;
  life.store = openStore(copy, { spaces: [LSM] });
  life.check();
  expect(life.trees()).toHaveLength(1);
  life.fill('third', 0, 50);
  // Until a checkpoint names the tree, the entries are loaded again.
  life.store = openStore(life.env.crash(new Random(1), 'keep-all'), { spaces: [LSM] });
  life.check();
  life.store.close();
  life.store = openStore(copy, { spaces: [LSM] });
  checkpoint(copy, life.store);
  life.settle();
  life.reopen();
  life.check();
  expect(life.trees()).toHaveLength(1);
});

test('after a power loss a group that touched a tree and another engine is in both or in none', () => {
  const other: SpaceDefinition = { id: 7, engine: 'btree', tuning: {} };
  const spaces = [LSM, other];
  const random = new Random(11);
  const policies = ['drop-all', 'random', 'keep-all'] as const;
  let lost = 0;
  for (let life = 0; life < 30; life++) {
    const env = new MemEnv();
    const store = createStore(env, { spaces });
    const last = 30 + random.below(60);
    for (let group = 1; group <= last; group++) {
      store.beginGroup();
      for (const spaceId of [0, 7]) {
        for (let i = 0; i < 20; i++) {
          const bytes = recordIn(spaceId, `k${group} ${i}`, `${group}`.padEnd(100, '.'));
          store.append(bytes, new Int32Array(bytes.buffer), 0, bytes.length);
        }
      }
      store.commit(Durability.Os, store.publishedSeq + 1, () => {
        store.setSnapshots(NO_SNAPSHOTS, 0);
      });
      // A flush is installed as soon as it can be: its end of the log is not synced by itself yet.
      while (store.hasWork) store.work(1_000_000);
      if (group === 20) checkpoint(env, store);
    }
    const found = openStore(env.crash(random, random.pick(policies)), { spaces });
    expect(entriesIn(found, 0)).toEqual(entriesIn(found, 7));
    if (found.publishedSeq < store.publishedSeq) lost++;
  }
  expect(lost).toBeGreaterThan(2);
});

test('a tree is found by its manifest when the checkpoint is damaged', () => {
  const life = new Life({ spaces: [LSM] });
  life.fill('first', 0, 3000);
  life.settle();
  checkpoint(life.env, life.store);
  life.fill('second', 0, 100);
  life.settle();
  life.store.close();
  for (const name of life.env.list(DIRECTORY)) {
    if (!name.endsWith('.ckpt')) continue;
    const file = life.env.open(`${DIRECTORY}/${name}`, 'write');
    file.write(Buffer.from('damage'), 0, 6, 40);
    file.close();
  }
  expect(failure(() => openStore(life.env, { spaces: [LSM] })).code).toBe('ERR_CORRUPT');
  life.store = openStore(life.env, { spaces: [LSM], ignoreCheckpoint: true, recoveryMode: 'salvage' });
  life.check();
});

test('a checkpoint that names a tree which is not there is damage', () => {
  const life = new Life({ spaces: [LSM] });
  life.fill('first', 0, 3000);
  life.settle();
  checkpoint(life.env, life.store);
  life.store.close();
  const [tree] = life.trees();
  for (const name of life.env.list(`${DIRECTORY}/${tree!}`)) life.env.remove(`${DIRECTORY}/${tree!}/${name}`);
  const error = failure(() => openStore(life.env, { spaces: [LSM] }));
  expect(error.code).toBe('ERR_CORRUPT');
  expect(error.message).toContain(tree);
});

test('bytes of a root in a checkpoint: golden, and nothing else is taken for one', () => {
  const root = { spaceId: 12, tree: 3, storedSeq: 0x0102_0304_0506 };
  const chunk = lsmRootChunk(root);
  const piece = (from: number, to: number): string => hex(chunk.subarray(from, to));
  expectGolden('lsm-root.txt', [
    [piece(0, 4), 'magic "CKVL"'],
    [piece(4, 8), 'space 12'],
    [piece(8, 12), 'tree 3'],
    [piece(12, 16), 'zero'],
    [piece(16, 24), 'storedSeq 0x010203040506, two zero bytes'],
  ]);
  expect(decodeLsmRoot(chunk)).toEqual(root);
  const damaged = (change: (bytes: Uint8Array) => void): Uint8Array => {
    const bytes = Uint8Array.from(chunk);
    change(bytes);
    return bytes;
  };
  for (const bytes of [
    chunk.subarray(0, 23),
    damaged((bytes) => bytes.fill(0, 0, 1)),
    damaged((bytes) => bytes.fill(0, 8, 12)),
    damaged((bytes) => bytes.fill(1, 12, 13)),
    damaged((bytes) => bytes.fill(1, 23, 24)),
  ]) {
    expect(failure(() => decodeLsmRoot(bytes)).code).toBe('ERR_CORRUPT');
  }
});
