/** Transactions that are prepared in a shard's store by one group and resolved by another, on each engine: small scenes. */
import { describe, expect, test } from 'vitest';
import { Durability, ShardStore } from '../../../dist/engines/store/shard-store.js';
import type { ShardStoreOptions } from '../../../dist/engines/store/options.js';
import { PREPARED_MAX } from '../../../dist/engines/store/prepared.js';
import { OperationKind } from '../../../dist/engines/operation.js';
import { inspectSegment } from '../../../dist/engines/wal/inspect.js';
import { WalWriter } from '../../../dist/engines/wal/writer.js';
import { FaultEnv } from '../../../dist/shared/env/fault-env.js';
import type { Env } from '../../../dist/shared/env/env.js';
import { MemEnv } from '../../../dist/shared/env/mem-env.js';
import { ConcordError } from '../../../dist/shared/errors.js';
import { Random } from '../../../dist/shared/random.js';
import {
  DIRECTORY,
  SEGMENT_BYTES,
  SHARD,
  STORE_ID,
  checkpoint,
  createStore,
  failure,
  openStore,
} from '../../support/store-scene.js';
import {
  ENGINES,
  appendPrepare,
  appendWrites,
  commitGroup,
  newArena,
  readAll,
  recordsOf,
  spacesOf,
} from './workload.js';
import type { Write } from './workload.js';

const text = (value: string | undefined): Uint8Array | undefined =>
  value === undefined ? undefined : Buffer.from(value);

const put = (key: string, value: string, expiresAt = 0): Write => ({ space: 0, key, value: text(value), expiresAt });
const del = (key: string): Write => ({ space: 0, key, value: undefined });
const elsewhere = (key: string, value?: string): Write => ({ space: 2, key, value: text(value) });

/** A store, its disk, and the numbers it takes. */
class Scene {
  env: MemEnv;
  faults: FaultEnv;
  store: ShardStore;
  next: number;
  readonly engine: string;
  readonly written = new Map<number, readonly Write[]>();

  constructor(engine: string, options: Partial<ShardStoreOptions> = {}) {
    this.engine = engine;
    this.env = new MemEnv({ seed: 1 });
    this.faults = new FaultEnv(this.env);
    this.store = createStore(this.faults, { spaces: spacesOf(engine), arena: newArena(), ...options });
    this.next = 1;
  }

  /** One group. Commits take their numbers first. Returns them. */
  group(
    {
      writes = [],
      prepare = {},
      commit = [],
      abort = [],
      level = Durability.Os,
    }: {
      writes?: readonly Write[];
      prepare?: Readonly<Record<number, readonly Write[]>>;
      commit?: readonly number[];
      abort?: readonly number[];
      level?: 0 | 1 | 2;
    },
    snapshots: readonly number[] = [],
  ): number[] {
    const { store } = this;
    const numbers = commit.map(() => this.next++);
    store.beginGroup();
    appendWrites(store, writes);
    for (const [id, prepared] of Object.entries(prepare)) appendPrepare(store, Number(id), prepared);
    for (const id of abort) expect(store.addResolve(id, 0)).toBe(true);
    commit.forEach((id, index) => {
      expect(store.addResolve(id, numbers[index]!)).toBe(true);
    });
    const first = this.next;
    this.next += store.groupSpan;
    commitGroup(store, level, first, snapshots);
    expect(store.publishedSeq).toBe(this.next - 1);
    return numbers;
  }

  /** In the open group, which is committed: prepares one transaction, and remembers what it writes. */
  prepareOne(id: number, writes: readonly Write[]): void {
    this.written.set(id, writes);
    appendPrepare(this.store, id, writes);
    commitGroup(this.store, Durability.Os, this.next++);
  }

  /** Key, with the space if it is not the default one → value. */
  state(atSeq = Infinity): Record<string, string> {
    const state: Record<string, string> = {};
    const { store } = this;
    for (const space of store.spaces.all) {
      const cursor = store.spaces.cursorOf(space);
      cursor.setRange(undefined, undefined);
      cursor.seek(store.arena.published(), undefined, 0, atSeq, false, 1);
      for (; cursor.valid; cursor.next()) {
        const key = Buffer.alloc(cursor.keyLength);
        cursor.copyKey(key, 0);
        state[(space.id === 0 ? '' : `${space.id}/`) + key.toString()] = cursor.copyValue().toString();
      }
      cursor.release();
    }
    return state;
  }

  checkpoint(): void {
    checkpoint(this.faults, this.store);
  }

  /** The process is killed; another one opens the store. */
  kill(options: Partial<ShardStoreOptions> = {}): void {
    this.env = this.env.crash(new Random(1), 'keep-all');
    this.faults = new FaultEnv(this.env);
    this.store = openStore(this.faults, { spaces: spacesOf(this.engine), arena: newArena(), ...options });
    this.next = Math.max(this.next, this.store.publishedSeq + 1);
  }

  /** The thread dies; another one takes over its memory. */
  adopt(): void {
    this.env = this.env.crash(new Random(1), 'keep-all');
    this.faults = new FaultEnv(this.env);
    this.store = openStore(this.faults, {
      spaces: spacesOf(this.engine),
      arena: this.store.arena.layout,
      adopt: true,
    });
    this.next = Math.max(this.next, this.store.publishedSeq + 1);
  }

  get prepared(): number[] {
    return Array.from(this.store.prepared.all, ({ id }) => id);
  }

  expectSound(): void {
    for (const { engine } of this.store.spaces.all) expect(engine.check()).toEqual([]);
  }
}

describe.each(ENGINES)('a transaction in a store of the %s engine', (engine) => {
  test('that is prepared shows nothing, takes no number of its own, and keeps its writes', () => {
    const scene = new Scene(engine);
    scene.group({ writes: [put('a', '1'), put('b', '1')] });
    scene.store.beginGroup();
    appendPrepare(scene.store, 77, [put('a', '2'), del('b'), elsewhere('c', '2')]);
    expect(scene.store.groupRecords).toBe(0);
    expect(scene.store.groupControls).toBe(1);
    expect(scene.store.groupSpan).toBe(1);
    expect(scene.store.prepared.has(77)).toBe(true);
    expect(scene.prepared).toEqual([]);
    commitGroup(scene.store, Durability.Os, 3);
    expect(scene.store.publishedSeq).toBe(3);
    expect(scene.state()).toEqual({ a: '1', b: '1' });
    const prepared = scene.store.prepared.get(77)!;
    expect(prepared).toMatchObject({ id: 77, maskLow: 3, maskHigh: 0, client: 0, operations: 3, firstLsn: 2 });
    expect(prepared.writes.equals(recordsOf([put('a', '2'), del('b'), elsewhere('c', '2')]))).toBe(true);
  });

  test('that is committed shows whole, with its number, beside what else is in the group', () => {
    const scene = new Scene(engine);
    scene.group({ writes: [put('a', '1'), put('b', '1')] });
    scene.group({ prepare: { 77: [put('a', '2'), del('b'), elsewhere('c', '2')] } });
    const before = scene.store.publishedSeq;
    const [number] = scene.group({ commit: [77], writes: [put('d', '3'), put('e', '3')] }, [before]);
    expect(scene.state()).toEqual({ a: '2', d: '3', e: '3', '2/c': '2' });
    expect(scene.state(before)).toEqual({ a: '1', b: '1' });
    const space = scene.store.spaces.require(0);
    const key = Buffer.from('a');
    expect(scene.store.versionOf(space, key, 0, 1, 0)).toBe(number);
    expect(scene.prepared).toEqual([]);
    scene.expectSound();
  });

  test('that is given up leaves nothing', () => {
    const scene = new Scene(engine);
    scene.group({ writes: [put('a', '1')] });
    scene.group({ prepare: { 77: [put('a', '2')], 78: [put('b', '2')] } });
    scene.group({ abort: [77], commit: [78] });
    expect(scene.state()).toEqual({ a: '1', b: '2' });
    scene.kill();
    expect([scene.prepared, scene.state()]).toEqual([[], { a: '1', b: '2' }]);
  });

  test('may be prepared and given up by the same group', () => {
    const scene = new Scene(engine);
    scene.group({ prepare: { 77: [put('a', '2')] }, abort: [77], writes: [put('b', '1')] });
    expect([scene.prepared, scene.state()]).toEqual([[], { b: '1' }]);
    scene.kill();
    expect([scene.prepared, scene.state()]).toEqual([[], { b: '1' }]);
  });

  test('is found as prepared by a recovery, and can be resolved then, either way', () => {
    for (const isCommitted of [true, false]) {
      const scene = new Scene(engine);
      scene.group({ writes: [put('a', '1'), put('b', '1')] });
      scene.group({ prepare: { 77: [put('a', '2'), del('b')] }, writes: [put('c', '1')] });
      scene.kill();
      expect(scene.store.recovery.prepared).toEqual([77]);
      expect([scene.prepared, scene.state()]).toEqual([[77], { a: '1', b: '1', c: '1' }]);
      scene.group(isCommitted ? { commit: [77] } : { abort: [77] });
      const expected = isCommitted ? { a: '2', c: '1' } : { a: '1', b: '1', c: '1' };
      expect(scene.state()).toEqual(expected);
      scene.kill();
      expect([scene.prepared, scene.state()]).toEqual([[], expected]);
      scene.expectSound();
    }
  });

  test('keeps the log from being cut by a checkpoint, and no longer than it is prepared', () => {
    const scene = new Scene(engine);
    scene.group({ writes: [put('a', '1')] });
    scene.group({ prepare: { 77: [put('a', '2')] } });
    for (let i = 0; i < 5; i++) scene.group({ writes: [put(`k${i}`, 'v')] });
    scene.checkpoint();
    const plan = scene.store.beginCheckpoint();
    // What an LSM-Tree has in memory only keeps it, too.
    expect(plan.replayFromLsn).toBe(engine === 'lsm' ? 1 : 2);
    scene.store.endCheckpoint(false);
    scene.kill();
    expect([scene.prepared, scene.state()['a']]).toEqual([[77], '1']);
    scene.checkpoint();
    scene.group({ commit: [77] });
    scene.kill();
    expect([scene.prepared, scene.state()['a']]).toEqual([[], '2']);
    // The Resolve record is covered from here on.
    scene.checkpoint();
    scene.group({ writes: [put('z', 'v')] });
    const last = scene.store.beginCheckpoint();
    if (engine !== 'lsm') expect(last.replayFromLsn).toBe(last.lsn + 1);
    scene.store.endCheckpoint(false);
    scene.kill();
    expect([scene.prepared, scene.state()['a'], scene.state()['z']]).toEqual([[], '2', 'v']);
    scene.expectSound();
  });

  test('is there once however its checkpoint and its resolution follow each other', () => {
    for (const steps of ['pckr', 'pcrk', 'prck', 'cprk', 'pkcr', 'prkc', 'pckrckw', 'prckwk']) {
      const scene = new Scene(engine);
      scene.group({ writes: [put('a', '1'), elsewhere('b', '1')] });
      for (const step of steps) {
        if (step === 'p') scene.group({ prepare: { 9: [put('a', '2'), elsewhere('b'), elsewhere('c', '2')] } });
        else if (step === 'r') scene.group({ commit: [9], writes: [put('d', '3')] });
        else if (step === 'c') scene.checkpoint();
        else if (step === 'w') scene.group({ writes: [put('e', '4')] });
        else scene.kill();
      }
      scene.kill();
      const { e, ...rest } = scene.state();
      expect([steps, rest]).toEqual([steps, { a: '2', d: '3', '2/c': '2' }]);
      expect(e).toBe(steps.includes('w') ? '4' : undefined);
      expect(scene.prepared).toEqual([]);
    }
  });

  test('can be resolved in another order than it was prepared in', () => {
    const scene = new Scene(engine);
    scene.group({ prepare: { 1: [put('a', '1')] } });
    scene.group({ prepare: { 2: [put('b', '2')], 3: [put('c', '3')] } });
    scene.group({ commit: [3] });
    scene.kill();
    expect([scene.prepared, scene.state()]).toEqual([[1, 2], { c: '3' }]);
    scene.checkpoint();
    scene.group({ commit: [2] });
    scene.kill();
    expect([scene.prepared, scene.state()]).toEqual([[1], { b: '2', c: '3' }]);
    scene.group({ commit: [1] });
    scene.kill();
    expect([scene.prepared, scene.state()]).toEqual([[], { a: '1', b: '2', c: '3' }]);
  });

  test('that its thread had logged as committed and not applied when it died is applied by the successor', () => {
    const scene = new Scene(engine);
    scene.group({ writes: [put('a', '1'), put('b', '1')] });
    scene.group({ prepare: { 77: [put('a', '2'), del('b'), elsewhere('c', '2')] } });
    const { store } = scene;
    store.beginGroup();
    appendWrites(store, [put('d', '3')]);
    expect(store.addResolve(77, 4)).toBe(true);
    const death = new Error('the thread dies');
    expect(() => {
      store.commit(Durability.Os, 5, () => {
        throw death;
      });
    }).toThrow(death);
    scene.adopt();
    expect([scene.prepared, scene.state()]).toEqual([[], { a: '2', d: '3', '2/c': '2' }]);
    scene.expectSound();
    scene.kill();
    expect([scene.prepared, scene.state()]).toEqual([[], { a: '2', d: '3', '2/c': '2' }]);
  });

  test('that is prepared when its thread dies is prepared in the successor', () => {
    const scene = new Scene(engine);
    scene.group({ prepare: { 77: [put('a', '2')] } });
    scene.checkpoint();
    scene.group({ writes: [put('b', '1')] });
    scene.adopt();
    expect([scene.prepared, scene.state()]).toEqual([[77], { b: '1' }]);
    scene.group({ commit: [77] });
    expect(scene.state()).toEqual({ a: '2', b: '1' });
  });

  test('whose record is all there is in a group of the memory level is not lost with its thread', () => {
    const scene = new Scene(engine);
    scene.group({ prepare: { 77: [put('a', '2')] }, level: Durability.Memory });
    expect(scene.store.log.writtenLsn).toBe(scene.store.log.lastLsn);
    scene.group({ writes: [put('b', '1')], level: Durability.Memory });
    expect(scene.store.log.writtenLsn).toBeLessThan(scene.store.log.lastLsn);
    scene.group({ commit: [77], level: Durability.Memory });
    expect(scene.store.log.writtenLsn).toBe(scene.store.log.lastLsn);
    scene.kill();
    expect([scene.prepared, scene.state()]).toEqual([[], { a: '2', b: '1' }]);
  });

  test('passes over what it writes to a space that is dropped meanwhile', () => {
    for (const isKilled of [true, false]) {
      const scene = new Scene(engine);
      scene.group({ prepare: { 77: [put('a', '2'), elsewhere('b', '2')] } });
      scene.store.dropSpace(2);
      if (isKilled) scene.kill({ spaces: spacesOf(engine).slice(0, 1) });
      scene.group({ commit: [77] });
      expect(scene.state()).toEqual({ a: '2' });
      scene.kill({ spaces: spacesOf(engine).slice(0, 1) });
      expect([scene.prepared, scene.state()]).toEqual([[], { a: '2' }]);
    }
  });

  test('whose group finds no room on disk was never prepared; what the group was to resolve stays prepared', () => {
    const scene = new Scene(engine);
    scene.group({ prepare: { 1: [put('a', '1')], 2: [put('b', '2')] } });
    const rule = scene.faults.addRule({ operation: 'write', error: 'ENOSPC' });
    expect(failure(() => scene.group({ prepare: { 3: [put('c', '3')] }, commit: [1], abort: [2] })).code).toBe(
      'ERR_DISK_FULL',
    );
    expect(rule.firedCount).toBe(1);
    scene.faults.removeAllRules();
    expect([scene.prepared, scene.state()]).toEqual([[1, 2], {}]);
    expect(scene.store.prepared.has(3)).toBe(false);
    // What was given up is given up by the next group, without being told again; what was committed is told again.
    expect(scene.store.groupControls).toBe(1);
    scene.group({ writes: [put('d', '4')] });
    expect([scene.prepared, scene.state()]).toEqual([[1], { d: '4' }]);
    scene.group({ commit: [1] });
    scene.kill();
    expect([scene.prepared, scene.state()]).toEqual([[], { a: '1', d: '4' }]);
  });

  test('is applied without a log when that has failed for good, and its decision is needed until the end', () => {
    const scene = new Scene(engine);
    scene.group({ writes: [put('a', '1'), put('b', '1')], level: Durability.Sync });
    scene.group({ prepare: { 77: [put('a', '2'), del('b')], 78: [put('c', '2')] }, level: Durability.Sync });
    expect(scene.store.decisionsNeededFrom).toBe(Infinity);
    scene.faults.addRule({ operation: 'sync', error: 'EIO' });
    expect(failure(() => scene.group({ commit: [77], level: Durability.Sync })).code).toBe('ERR_IO');
    expect(scene.state()).toEqual({ a: '1', b: '1' });
    expect(failure(() => scene.store.beginGroup()).code).toBe('ERR_IO');
    scene.store.discardGroup();
    const { store } = scene;
    const number = scene.next++;
    expect(store.addResolve(77, number)).toBe(true);
    store.commitUnlogged(scene.next++, () => {
      store.setSnapshots(new Float64Array(0), 0);
    });
    expect([scene.prepared, scene.state()]).toEqual([[78], { a: '2' }]);
    expect(store.decisionsNeededFrom).toBe(number);
    // Another thread, a log that works: it does not know, and is told that it was applied.
    scene.adopt();
    expect(scene.state()).toEqual({ a: '2' });
    if (scene.prepared.includes(77)) {
      scene.store.beginGroup();
      expect(scene.store.addResolve(77, number)).toBe(true);
      commitGroup(scene.store, Durability.Os, scene.next++);
    }
    expect([scene.prepared, scene.state()]).toEqual([[78], { a: '2' }]);
    scene.group({ commit: [78] });
    scene.kill();
    expect([scene.prepared, scene.state()]).toEqual([[], { a: '2', c: '2' }]);
    scene.expectSound();
  });

  test('may write many keys, in any order', () => {
    const scene = new Scene(engine);
    const keys = Array.from({ length: 300 }, (_, index) => `key-${(index * 7919) % 1000}`);
    scene.group({ writes: keys.slice(0, 100).map((key) => put(key, 'old')) });
    scene.group({ prepare: { 5: keys.map((key) => put(key, `new ${key}`)) } });
    scene.group({ commit: [5] });
    const expected = Object.fromEntries(keys.map((key) => [key, `new ${key}`]));
    expect(scene.state()).toEqual(expected);
    scene.kill();
    expect(scene.state()).toEqual(expected);
    scene.expectSound();
  });

  test('that only writes some of many spaces moves to the new engine of one that is being moved', () => {
    const scene = new Scene(engine);
    const target = engine === 'hash' ? 'btree' : 'hash';
    scene.group({ writes: Array.from({ length: 60 }, (_, index) => put(`key-${index}`, 'old')) });
    scene.group({ prepare: { 5: [put('key-1', 'new'), put('key-59', 'new'), del('key-30')] } });
    scene.store.spaces.beginSwitch({ id: 0, engine: target, tuning: {} });
    const space = scene.store.spaces.require(0);
    scene.store.switchSlice(space, 20);
    scene.group({ commit: [5] });
    for (let i = 0; i < 50 && space.building !== undefined; i++) scene.store.switchSlice(space, 20);
    expect(space.building).toBeUndefined();
    const state = scene.state();
    expect([state['key-1'], state['key-59'], state['key-30'], Object.keys(state).length]).toEqual([
      'new',
      'new',
      undefined,
      59,
    ]);
    scene.expectSound();
  });
});

describe('what a transaction writes', () => {
  const isExpired = 1000;

  test('expires each by itself, though all of it has one number and one time', () => {
    const scene = new Scene('btree');
    scene.group({
      prepare: { 5: [put('a', '1', isExpired), put('b', '1', isExpired), put('c', '1', isExpired), put('d', '1')] },
    });
    scene.group({ commit: [5] });
    expect(scene.store.spaces.expiringEntries).toBe(3);
    // One is written anew: only its line goes.
    scene.group({ writes: [put('b', '2')] });
    expect(scene.store.spaces.expiringEntries).toBe(2);
    const keys = (): string[] => scene.store.collectExpired(2000, 10).map(({ key }) => key.toString());
    expect(keys().sort()).toEqual(['a', 'c']);
    scene.kill();
    expect(scene.store.spaces.expiringEntries).toBe(2);
    scene.checkpoint();
    scene.kill();
    expect(keys().sort()).toEqual(['a', 'c']);
    scene.store.beginGroup();
    for (const { spaceId, key } of scene.store.collectExpired(2000, 10)) scene.store.appendDelete(spaceId, key);
    commitGroup(scene.store, Durability.Os, scene.next);
    expect(scene.store.spaces.expiringEntries).toBe(0);
    scene.expectSound();
  });

  test('must not be one key twice: few or many, the transaction is refused and the group goes on', () => {
    const scene = new Scene('btree');
    const many = Array.from({ length: 40 }, (_, index) => put(`k${index}`, 'v'));
    for (const twice of [
      [put('a', '1'), del('a')],
      [...many, put('k7', 'again')],
    ]) {
      scene.store.beginGroup();
      appendWrites(scene.store, [put('b', '1')]);
      expect(failure(() => appendPrepare(scene.store, 5, twice)).code).toBe('ERR_CORRUPT');
      expect(scene.store.groupControls).toBe(0);
      commitGroup(scene.store, Durability.Os, scene.next++);
    }
    // In another space, or as the beginning of another, it is another key.
    scene.group({ prepare: { 5: [put('a', '1'), elsewhere('a', '1'), put('aa', '1')] } });
    scene.group({ prepare: { 6: [...many, elsewhere('k7', 'v')] } });
    scene.kill();
    expect([scene.prepared, scene.state()]).toEqual([[5, 6], { b: '1' }]);
  });

  test('is prepared once', () => {
    const scene = new Scene('btree');
    scene.group({ prepare: { 5: [put('a', '1')] } });
    scene.store.beginGroup();
    expect(failure(() => appendPrepare(scene.store, 5, [put('a', '1')])).code).toBe('ERR_INTERNAL');
    appendPrepare(scene.store, 6, [put('b', '1')]);
    expect(failure(() => appendPrepare(scene.store, 6, [put('b', '1')])).code).toBe('ERR_INTERNAL');
    scene.store.discardGroup();
    expect(scene.store.prepared.has(6)).toBe(false);
  });

  test('is resolved though frames are full: room for the records is kept in each', () => {
    const scene = new Scene('btree');
    const { store } = scene;
    for (let id = 1; id <= 100; id++) scene.group({ prepare: { [id]: [put(`k${id}`, 'v')] } });
    store.beginGroup();
    let bytes = 0;
    for (; ; bytes += 4096) {
      const one = [put(`fill-${bytes}`, 'x'.repeat(4000))];
      const size = recordsOf(one).length;
      if (!store.fits(size)) break;
      appendWrites(store, one);
    }
    expect(bytes).toBeGreaterThan(SEGMENT_BYTES / 2);
    const numbers = Array.from({ length: 100 }, () => scene.next++);
    for (let id = 1; id <= 100; id++) expect(store.addResolve(id, numbers[id - 1]!)).toBe(true);
    commitGroup(store, Durability.Os, scene.next);
    expect(scene.prepared).toEqual([]);
    scene.kill();
    expect(scene.state()['k100']).toBe('v');
  });

  test('fits into a frame if it has at most the bytes that the store tells', () => {
    const scene = new Scene('btree');
    const limit = scene.store.transactionBytesMax;
    const one = (valueBytes: number): Write => put('k', 'x'.repeat(valueBytes));
    let valueBytes = limit - recordsOf([one(0)]).length;
    while (recordsOf([one(valueBytes)]).length > limit) valueBytes--;
    scene.group({ prepare: { 5: [one(valueBytes)] } });
    scene.group({ commit: [5] });
    scene.kill();
    expect(scene.state()['k']!.length).toBe(valueBytes);
  });

  test('is limited to a number of transactions at a time', () => {
    const scene = new Scene('btree');
    for (let id = 1; id <= PREPARED_MAX; id += 64) {
      expect(scene.store.prepared.hasRoom).toBe(true);
      scene.group({
        prepare: Object.fromEntries(Array.from({ length: 64 }, (_, i) => [id + i, [put(`k${id + i}`, 'v')]])),
      });
    }
    expect(scene.store.prepared.hasRoom).toBe(false);
    scene.group({ abort: [1] });
    expect(scene.store.prepared.hasRoom).toBe(true);
  });

  test('needs its decision until the Resolve record is synced', () => {
    const scene = new Scene('btree');
    scene.group({ prepare: { 5: [put('a', '1')], 6: [put('b', '1')], 7: [put('c', '1')] } });
    const [first] = scene.group({ commit: [5] });
    scene.group({ commit: [6] });
    expect(scene.store.decisionsNeededFrom).toBe(first);
    scene.group({ abort: [7] });
    scene.store.sync();
    expect(scene.store.decisionsNeededFrom).toBe(Infinity);
    expect(scene.store.addResolve(5, 99)).toBe(false);
  });

  test('is kept in memory where there is no log', () => {
    const store = ShardStore.open({
      env: new MemEnv(),
      directory: undefined,
      storeId: STORE_ID,
      shard: SHARD,
      arena: newArena(),
      spaces: spacesOf('btree'),
    });
    store.beginGroup();
    appendPrepare(store, 5, [put('a', '1')]);
    commitGroup(store, Durability.Sync, 1);
    store.beginGroup();
    store.addResolve(5, 2);
    expect(store.lowestNumber(3)).toBe(2);
    commitGroup(store, Durability.Sync, 3);
    expect([...readAll(store).keys()]).toEqual(['0/a']);
    expect(store.decisionsNeededFrom).toBe(Infinity);
  });
});

describe('a log', () => {
  /** Writes frames by hand, into the log that the store left. */
  function appendFrame(env: Env, build: (store: ShardStore) => void): void {
    const store = openStore(env, { spaces: spacesOf('btree') });
    build(store);
    store.close();
  }

  test('with a commit of a transaction that was never prepared is damaged, and says where', () => {
    const env = new MemEnv({ seed: 1 });
    createStore(env, { spaces: spacesOf('btree') }).close();
    appendFrame(env, (store) => {
      const { log } = store;
      expect(log).toBeInstanceOf(WalWriter);
      log.begin();
      log.ensure(24);
      log.bytes.fill(0, log.position, log.position + 24);
      log.bytes[log.position] = OperationKind.Resolve;
      log.bytes[log.position + 2] = 16;
      log.bytes.writeDoubleLE(5, log.position + 8);
      log.bytes.writeDoubleLE(7, log.position + 16);
      log.position += 24;
      log.commit(8, 1);
    });
    const error = failure(() => openStore(env, { spaces: spacesOf('btree') }));
    expect(error.code).toBe('ERR_CORRUPT');
    expect(error.message).toMatch(/wal-\d+\.log at 4144: a transaction is committed with number 7/);
    expect(error.details).toMatchObject({ offset: 4144 });
    // Salvage goes past it.
    const store = openStore(env, { spaces: spacesOf('btree'), recoveryMode: 'salvage' });
    expect([store.publishedSeq, readAll(store).size]).toEqual([8, 0]);
  });

  test('with a Resolve record that other records follow is damaged', () => {
    const env = new MemEnv({ seed: 1 });
    createStore(env, { spaces: spacesOf('btree') }).close();
    appendFrame(env, (store) => {
      const { log } = store;
      log.begin();
      log.ensure(100);
      const put = recordsOf([{ space: 0, key: 'k', value: Buffer.from('v') }]);
      log.bytes.fill(0, log.position, log.position + 24);
      log.bytes[log.position] = OperationKind.Resolve;
      log.bytes[log.position + 2] = 16;
      log.bytes.writeDoubleLE(5, log.position + 8);
      log.bytes.set(put, log.position + 24);
      log.position += 24 + put.length;
      log.commit(8, 1);
    });
    expect(failure(() => openStore(env, { spaces: spacesOf('btree') })).code).toBe('ERR_CORRUPT');
  });

  test('that has lost frames gives up, when it is salvaged, what was prepared before them', () => {
    const scene = new Scene('btree');
    const level = Durability.Sync;
    scene.group({ prepare: { 5: [put('a', '1')] }, level });
    scene.group({ writes: [put('b', '1')], level });
    scene.group({ prepare: { 6: [put('c', '1')] }, level });
    scene.group({ writes: [put('d', '1')], level });
    scene.store.close();
    const path = `${DIRECTORY}/wal-0000000001.log`;
    const { frames } = inspectSegment(scene.env, path);
    const file = scene.env.open(path, 'write');
    file.write(Buffer.from([0xff]), 0, 1, frames[1]!.offset + 50);
    file.close();
    expect(failure(() => openStore(scene.env, { spaces: spacesOf('btree') })).code).toBe('ERR_CORRUPT');
    const store = openStore(scene.env, { spaces: spacesOf('btree'), recoveryMode: 'salvage' });
    expect(store.recovery.abandoned).toEqual([5]);
    expect(store.recovery.prepared).toEqual([6]);
    expect([...readAll(store).keys()]).toEqual(['0/d']);
    const upTo = openStore(scene.env.crash(new Random(1), 'keep-all'), {
      spaces: spacesOf('btree'),
      recoveryMode: 'point-in-time',
    });
    expect([upTo.recovery.prepared, upTo.recovery.abandoned, readAll(upTo).size]).toEqual([[5], [], 0]);
  });
});

describe.each(ENGINES)('memory that is nearly full, in a store of the %s engine,', (engine) => {
  test('has room for all that is prepared, whatever else is written', () => {
    for (let seed = 1; seed <= 3; seed++) {
      const random = new Random(seed);
      const scene = new Scene(engine, {
        arena: newArena(engine === 'btree' || engine === 'paged' ? 10 << 20 : 4 << 20),
        segmentBytes: 1 << 20,
      });
      const { store } = scene;
      let filled = 0;
      const fill = (): void => {
        // Ordinary writes, as long as they are admitted.
        for (let refused = 0, groups = 0; refused < 3 && groups < 1000; groups++) {
          const count = random.pick([1, 1, 5, 30]);
          const writes = Array.from({ length: count }, () =>
            put(`fill-${String(random.below(40_000)).padStart(5, '0')}`, 'x'.repeat(random.pick([1, 50, 400, 3000]))),
          );
          store.beginGroup();
          if (admits(store, writes)) {
            appendWrites(store, writes);
            commitGroup(store, Durability.Os, scene.next);
            scene.next += writes.length;
            filled++;
          } else {
            store.discardGroup();
            refused++;
          }
        }
      };
      for (let id = 1; id <= 25; id++) {
        const writes = Array.from({ length: random.pick([1, 3, 8, 20]) }, (_, index) =>
          put(`txn-${id}-${index}`, 'y'.repeat(random.pick([1, 50, 400, 2500])), index % 3 === 0 ? 2 ** 41 : 0),
        );
        store.beginGroup();
        if (admits(store, writes)) scene.prepareOne(id, writes);
        else store.discardGroup();
        if (id % 8 === 0) fill();
      }
      fill();
      expect(filled).toBeGreaterThan(3);
      expect(store.prepared.size).toBeGreaterThan(3);
      const expected: string[] = [];
      while (store.prepared.size > 0) {
        const ids = scene.prepared.filter(() => random.below(3) === 0);
        for (const id of ids) for (const { key } of scene.written.get(id)!) expected.push(key);
        if (ids.length > 0) scene.group({ commit: ids });
        else fill();
      }
      const state = scene.state();
      expect(expected.filter((key) => state[key] === undefined)).toEqual([]);
      scene.expectSound();
    }
  });
});

function admits(store: ShardStore, writes: readonly Write[]): boolean {
  const bytes = writes.reduce((sum, write) => sum + recordsOf([write]).length, 0);
  const largest = Math.max(...writes.map((write) => write.key.length + (write.value?.length ?? 0)));
  const expiring = writes.filter(({ expiresAt = 0 }) => expiresAt !== 0).length;
  if (!store.fits(bytes + 32)) return false;
  try {
    return store.admits(store.spaces.require(0), writes.length, bytes, expiring, false, largest);
  } catch (error) {
    if (error instanceof ConcordError && error.code === 'ERR_MEMORY_FULL') return false;
    throw error;
  }
}
