/** A space on its way to another engine, when the exchange must wait for a checkpoint: what changes meanwhile is changed in both. */
import { expect, test } from 'vitest';
import { Durability, newTableSweep } from '../../../dist/engines/store/shard-store.js';
import { MemEnv } from '../../../dist/shared/env/mem-env.js';
import {
  applied,
  commit,
  createStore,
  openStore,
  readState,
  writeCheckpoint,
  type Operation,
} from '../../support/store-scene.js';

const ENGINES = ['btree', 'hash', 'rbtree', 'array', 'memtable'];
const PAIRS = ENGINES.flatMap((from) => ENGINES.filter((to) => to !== from).map((to) => [from, to] as const));
const ENTRIES = 100;

const put = (i: number, text: string): Operation => ({ kind: 'put', key: `k${i}`, value: Buffer.from(text) });
const del = (i: number): Operation => ({ kind: 'del', key: `k${i}` });

test.each(PAIRS)(
  'from %s to %s: deletes and puts between the copy and the exchange are in the new engine',
  (from, to) => {
    const env = new MemEnv();
    const spacesIn = (engine: string) => [{ id: 0, engine, tuning: {} }];
    const store = createStore(env, { spaces: spacesIn(from) });
    let state: ReadonlyMap<string, string> = new Map();
    const apply = (operations: Operation[]): void => {
      commit(store, Durability.Os, operations);
      state = applied(state, operations);
    };
    apply(Array.from({ length: ENTRIES }, (_, i) => put(i, `first ${i}`)));
    const plan = store.beginCheckpoint();
    const space = store.spaces.require(0);
    store.spaces.beginSwitch(spacesIn(to)[0]!);
    // Several slices, the last of which finds nothing more; then it waits.
    for (let slice = 0; slice < 12; slice++) expect(store.switchSlice(space, 20)).toBe(false);
    apply([...Array.from({ length: ENTRIES / 2 }, (_, i) => del(2 * i)), put(1, 'second'), put(ENTRIES, 'new')]);
    expect(store.switchSlice(space, 20)).toBe(false);
    apply([put(0, 'again'), del(1)]);
    writeCheckpoint(env, store, plan);
    store.endCheckpoint(true);
    expect(store.switchSlice(space, 20)).toBe(true);
    expect(readState(store)).toEqual(state);
    expect(store.spaces.check()).toEqual([]);
    // What only the checkpoint needed has moved, too; nothing holds it any more.
    store.setSnapshots(new Float64Array(0), 0);
    const sweep = newTableSweep();
    while (!sweep.done) store.sweep(sweep, 50);
    expect(store.spaces.require(0).engine.counts().cells).toBe(state.size);
    expect(readState(store)).toEqual(state);
    store.close();

    const again = openStore(env, { spaces: spacesIn(to) });
    expect(readState(again)).toEqual(state);
    again.close();
  },
);
