/** What a store without a directory has prepared outlives its thread: the journal by itself, and stores that take over. */
import { describe, expect, test } from 'vitest';
import { PrepareJournal, createPrepareJournal } from '../../../dist/engines/store/prepare-journal.js';
import { PREPARED_MAX } from '../../../dist/engines/store/prepared.js';
import { Durability, ShardStore } from '../../../dist/engines/store/shard-store.js';
import { FenceTable, createFenceTable } from '../../../dist/engines/txn/fence-table.js';
import { MemEnv } from '../../../dist/shared/env/mem-env.js';
import { createArena, type ArenaLayout } from '../../../dist/shared/memory/arena.js';
import { Random } from '../../../dist/shared/random.js';
import { SHARD, STORE_ID, failure } from '../../support/store-scene.js';
import { appendPrepare, commitGroup, readAll, type Write } from './workload.js';

const LINES = 8;
const keyOf = (id: number) => ({ id, maskLow: id | 0x8000_0000 | 0, maskHigh: -1, client: id % 7 });

describe('a journal', () => {
  test('gives a successor what was added and not removed, whatever came and went', () => {
    const random = new Random(7);
    const sab = createPrepareJournal(0, LINES);
    let journal = new PrepareJournal(sab, LINES);
    const model = new Map<number, Buffer>();
    let refused = 0;
    for (let step = 0; step < 1000; step++) {
      const id = step + 1;
      const ids = [...model.keys()];
      if (random.below(2) === 0 && ids.length > 0) {
        const gone = ids[random.below(ids.length)]!;
        journal.remove(gone);
        model.delete(gone);
      } else {
        const bytes = random.below(4) === 0 ? random.below(8 << 20) : random.below(300);
        const writes = Buffer.alloc(bytes, id);
        if (journal.add(keyOf(id), writes)) model.set(id, writes.subarray(0, 64));
        else refused++;
      }
      if (step % 10 !== 0) continue;
      journal = new PrepareJournal(sab, LINES);
      const found = journal.entries();
      expect(found.map(({ key }) => key).sort((a, b) => a.id - b.id)).toEqual(
        [...model.keys()].sort((a, b) => a - b).map(keyOf),
      );
      for (const { key, writes } of found) expect(writes.subarray(0, 64).equals(model.get(key.id)!)).toBe(true);
    }
    expect(refused).toBeGreaterThan(0);
  });

  test('passes over what a thread had not finished when it died, and writes over it', () => {
    const sab = createPrepareJournal(1000, LINES);
    const journal = new PrepareJournal(sab, LINES);
    journal.add(keyOf(1), Buffer.alloc(100, 1));
    journal.add(keyOf(2), Buffer.alloc(100, 2));
    // All but the last store of the second.
    const states = new Int32Array(sab);
    expect([states[0], states[8]]).toEqual([1, 1]);
    Atomics.store(states, 8, 0);
    const next = new PrepareJournal(sab, LINES);
    expect(next.entries().map(({ key }) => key.id)).toEqual([1]);
    expect(next.add(keyOf(3), Buffer.alloc(100, 3))).toBe(true);
    const found = new PrepareJournal(sab, LINES).entries().map(({ key, writes }) => [key.id, writes[0]!] as const);
    expect(new Map(found)).toEqual(
      new Map([
        [1, 1],
        [3, 3],
      ]),
    );
  });

  test('holds one transaction of the size it was made for', () => {
    const journal = new PrepareJournal(createPrepareJournal(64 << 20, LINES), LINES);
    expect(journal.add(keyOf(1), Buffer.alloc(64 << 20))).toBe(true);
    expect(journal.add(keyOf(2), Buffer.alloc(64 << 20))).toBe(false);
    journal.remove(1);
    expect(journal.add(keyOf(2), Buffer.alloc(64 << 20))).toBe(true);
  });
});

test('fences outlive the thread that set them, until they are cleared', () => {
  const sab = createFenceTable(3);
  const fences = new FenceTable(sab);
  for (const id of [11, 12, 13]) fences.set(id, id % 10);
  fences.set(12, 2);
  expect(fences.room).toBe(0);
  fences.clear(11);
  fences.clear(99);
  expect([...new FenceTable(sab).recovered]).toEqual(
    expect.arrayContaining([
      [12, 2],
      [13, 3],
    ]),
  );
  expect(new FenceTable(sab).recovered.size).toBe(2);
  expect(new FenceTable(sab).room).toBe(1);
});

describe('a store without a directory', () => {
  const put = (key: string, value: string): Write => ({ space: 0, key, value: Buffer.from(value) });
  const options = (arena: ArenaLayout, prepareJournal: SharedArrayBuffer, adopt: boolean) => ({
    env: new MemEnv({ seed: 1 }),
    directory: undefined,
    storeId: STORE_ID,
    shard: SHARD,
    arena,
    adopt,
    prepareJournal,
  });
  const open = () => {
    const arena = createArena({ memoryBytes: 4 << 20 });
    const journal = createPrepareJournal(1 << 20, PREPARED_MAX);
    return {
      store: ShardStore.open(options(arena, journal, false)),
      adopt: () => ShardStore.open(options(arena, journal, true)),
    };
  };

  test('finds what its predecessor has prepared, and applies it when it hears so', () => {
    const { store, adopt } = open();
    store.beginGroup();
    appendPrepare(store, 77, [put('a', '1'), put('b', '1')]);
    appendPrepare(store, 78, [put('c', '1')]);
    commitGroup(store, Durability.Os, 1);
    const next = adopt();
    expect([...next.recovery.prepared].sort()).toEqual([77, 78]);
    expect(readAll(next).size).toBe(0);
    next.beginGroup();
    expect(next.addResolve(77, 2)).toBe(true);
    expect(next.addResolve(78, 0)).toBe(true);
    commitGroup(next, Durability.Os, 3);
    expect(readAll(next).size).toBe(2);
    const last = adopt();
    expect(last.recovery.prepared).toEqual([]);
    expect(readAll(last).size).toBe(2);
  });

  test('whose thread dies behind a publication applies nothing twice', () => {
    const { store, adopt } = open();
    store.beginGroup();
    appendPrepare(store, 77, [put('a', '1')]);
    commitGroup(store, Durability.Os, 1);
    store.beginGroup();
    store.addResolve(77, 2);
    // The line is cleared behind the publication: a thread that dies between the two.
    store.prepared.published = () => {
      throw new Error('dead');
    };
    expect(() => {
      commitGroup(store, Durability.Os, 3);
    }).toThrow('dead');
    const next = adopt();
    expect(next.recovery.prepared).toEqual([77]);
    expect(readAll(next).size).toBe(1);
    next.beginGroup();
    expect(next.addResolve(77, 2)).toBe(true);
    commitGroup(next, Durability.Os, 4);
    expect(readAll(next).size).toBe(1);
    expect(adopt().recovery.prepared).toEqual([]);
  });

  test('forgets what a group that is given up was to prepare', () => {
    const { store, adopt } = open();
    store.beginGroup();
    appendPrepare(store, 77, [put('a', '1')]);
    store.discardGroup();
    expect(adopt().recovery.prepared).toEqual([]);
  });

  test('that has no room left for what is prepared refuses more', () => {
    const arena = createArena({ memoryBytes: 4 << 20 });
    const journal = createPrepareJournal(0, 1);
    const store = ShardStore.open({ ...options(arena, journal, false) });
    store.beginGroup();
    const value = 'x'.repeat(20_000);
    const code = (id: number): string | undefined => {
      try {
        appendPrepare(store, id, [put(`k${id}`, value)]);
        return undefined;
      } catch (error) {
        return failure(() => {
          throw error;
        }).code;
      }
    };
    let id = 1;
    while (id < 3000 && code(id) === undefined) id++;
    expect(code(id)).toBe('ERR_CONFLICT');
    expect(store.groupControls).toBe(id - 1);
    store.discardGroup();
    store.beginGroup();
    expect(code(id)).toBeUndefined();
  });
});
