import { expect, test } from 'vitest';
import { BTreeCursor } from '../../../dist/engines/btree/cursor.js';
import { publishTrees, treeCounts } from '../../../dist/engines/btree/meta.js';
import { BTreeReader } from '../../../dist/engines/btree/reader.js';
import { BTreeWriter } from '../../../dist/engines/btree/writer.js';
import { markTrees } from '../../../dist/engines/btree/walk.js';
import { ArenaReader, ArenaWriter, createArena } from '../../../dist/shared/memory/arena.js';
import { Random } from '../../../dist/shared/random.js';

const KEYS = 25;
const keyOf = (index: number): Buffer => Buffer.from(`key${String(index).padStart(4, '0')}`);
const valueOf = (index: number, generation: number, bytes = 100): Buffer =>
  Buffer.from(`${index}:${generation};`.padEnd(bytes, 'v'));

function scene() {
  const layout = createArena({ memoryBytes: 8 << 20 });
  const arena = new ArenaWriter(layout);
  const tree = new BTreeWriter(arena, 0);
  let seq = 0;
  const put = (index: number, generation: number, bytes?: number): void => {
    const key = keyOf(index);
    const value = valueOf(index, generation, bytes);
    tree.put(key, 0, key.length, value, 0, value.length, ++seq, 0);
  };
  const del = (index: number): boolean => {
    const key = keyOf(index);
    return tree.del(key, 0, key.length, ++seq);
  };
  const lastSeq = (): number => seq;
  const publish = (): void => {
    publishTrees(arena, seq);
    arena.reclaim();
  };
  for (let index = 0; index < KEYS; index++) put(index, 0);
  publish();
  const reader = new ArenaReader(layout);
  const entries = new BTreeReader(reader, 0, 0);
  const read = (metaUnit: number, index: number, atSeq = Infinity): string | undefined => {
    const key = keyOf(index);
    return entries.find(metaUnit, key, key.length, atSeq, 0) ? entries.valueUtf8() : undefined;
  };
  const root = (): number => treeCounts(reader, reader.published(), 0).rootUnit;
  return { layout, arena, tree, put, del, lastSeq, publish, reader, read, root };
}

test('an overwrite of equal size that stands for itself replaces its cell without a copy of the page', () => {
  const { tree, put, publish, reader, read, root } = scene();
  const before = root();
  tree.overwritesInPlace = true;
  for (let generation = 1; generation <= 200; generation++) {
    const index = generation % KEYS;
    put(index, generation);
    publish();
    expect(read(reader.published(), index)).toBe(valueOf(index, generation).toString());
  }
  expect(root()).toBe(before);
  expect(tree.check()).toEqual([]);
});

test('several overwrites of one leaf in a group take the places that those of the group before have left', () => {
  const { tree, put, publish, reader, read, root } = scene();
  const before = root();
  tree.overwritesInPlace = true;
  for (let generation = 1; generation <= 200; generation++) {
    const written = [0, 1, 2, 3].map((index) => (generation * 4 + index) % KEYS);
    // No longer than before: the leaf has room for a few cells, not for all of these.
    for (const index of written) put(index, generation, 100 - (generation % 2));
    publish();
    for (const index of written)
      expect(read(reader.published(), index)).toBe(valueOf(index, generation, 100 - (generation % 2)).toString());
    expect(tree.check()).toEqual([]);
  }
  expect(root()).toBe(before);
});

test('operations in the order of their keys find each leaf from the one before it, also where versions of a key go over several', () => {
  const { tree, put, del, lastSeq, publish, reader, read } = scene();
  const random = new Random(7);
  const written = new Map(Array.from({ length: KEYS }, (_, index) => [index, 0]));
  const openSnapshots = new Float64Array(2000);
  for (let generation = 1; generation <= 60; generation++) {
    tree.overwritesInPlace = generation % 3 !== 0;
    // Of every moment, or none.
    for (let i = 0; i < openSnapshots.length; i++) openSnapshots[i] = lastSeq() + i;
    tree.setSnapshots(openSnapshots, generation % 2 === 0 ? openSnapshots.length : 0);
    for (let index = 0; index < 3000; index += 1 + random.below(1 + (generation % 40))) {
      if (random.below(4) === 0) {
        expect(del(index)).toBe(written.delete(index));
      } else {
        put(index, generation, 20 + random.below(60));
        written.set(index, generation);
      }
      if (index % 700 >= 3) continue;
      // With snapshots all of these stay, which are more than a leaf holds.
      for (let i = 0; i < 30; i++) put(index, generation, 100);
      written.set(index, generation);
    }
    publish();
    if (generation % 10 === 0) expect(tree.check()).toEqual([]);
  }
  for (const [index, generation] of written)
    expect(read(reader.published(), index)?.startsWith(`${index}:${generation};`)).toBe(true);
});

test('overwrites that belong together are invisible until their publication', () => {
  const { tree, put, publish, reader, read, root } = scene();
  const before = root();
  tree.overwritesInPlace = false;
  const metaUnit = reader.pin(1);
  put(3, 1);
  put(4, 1);
  expect(read(metaUnit, 3)).toBe(valueOf(3, 0).toString());
  expect(read(metaUnit, 4)).toBe(valueOf(4, 0).toString());
  reader.unpin(1);
  publish();
  expect(root()).not.toBe(before);
  expect(read(reader.published(), 3)).toBe(valueOf(3, 1).toString());
});

test('a version that is being read as a whole is copied, not overwritten', () => {
  const { arena, tree, put, publish, read } = scene();
  tree.overwritesInPlace = true;
  const pin = arena.pinLong();
  put(5, 1);
  publish();
  expect(read(pin.metaUnit, 5)).toBe(valueOf(5, 0).toString());
  arena.unpinLong(pin);
});

test('the cell a pinned reader may stand on is not used again', () => {
  const { tree, put, publish, reader } = scene();
  tree.overwritesInPlace = true;
  put(7, 1);
  publish();
  const slow = new BTreeReader(reader, 0, 0);
  const metaUnit = reader.pin(2);
  const key = keyOf(7);
  expect(slow.find(metaUnit, key, key.length, Infinity, 0)).toBe(true);
  for (let generation = 2; generation < 60; generation++) {
    put(7, generation);
    publish();
  }
  expect(slow.valueUtf8()).toBe(valueOf(7, 1).toString());
  reader.unpin(2);
  expect(tree.check()).toEqual([]);
});

test('an overwrite of another size replaces its cell without a copy of the page, too', () => {
  const { tree, put, publish, reader, read, root } = scene();
  const before = root();
  tree.overwritesInPlace = true;
  for (let generation = 1; generation <= 12; generation++) {
    const bytes = 80 + 3 * generation;
    put(generation, generation, bytes);
    publish();
    expect(read(reader.published(), generation)).toBe(valueOf(generation, generation, bytes).toString());
  }
  expect(root()).toBe(before);
  expect(tree.check()).toEqual([]);
});

test('a delete that stands for itself, and a put of its key after it, copy no page', () => {
  const { tree, put, del, publish, reader, read, root } = scene();
  const before = root();
  tree.overwritesInPlace = true;
  for (let generation = 1; generation <= 50; generation++) {
    const index = generation % KEYS;
    expect(del(index)).toBe(true);
    expect(del(index)).toBe(false);
    expect(read(reader.published(), index)).toBeUndefined();
    publish();
    expect(tree.counts().liveEntries).toBe(KEYS - 1);
    expect(tree.versionOf(keyOf(index), 0, 7, 0)).toBe(0);
    put(index, generation);
    publish();
    expect(tree.counts().liveEntries).toBe(KEYS);
    expect(read(reader.published(), index)).toBe(valueOf(index, generation).toString());
  }
  expect(root()).toBe(before);
  expect(tree.check()).toEqual([]);
});

test('what a snapshot, a checkpoint or a group that belongs together needs is not deleted in place', () => {
  const { arena, tree, del, lastSeq, publish, reader, read } = scene();
  tree.overwritesInPlace = true;
  const snapshot = lastSeq();
  tree.setSnapshots(Float64Array.of(snapshot), 1);
  del(3);
  publish();
  expect(read(reader.published(), 3)).toBeUndefined();
  expect(read(reader.published(), 3, snapshot)).toBe(valueOf(3, 0).toString());
  tree.setSnapshots(new Float64Array(0), 0);
  const pin = arena.pinLong();
  del(4);
  publish();
  expect(read(pin.metaUnit, 4)).toBe(valueOf(4, 0).toString());
  arena.unpinLong(pin);
  tree.overwritesInPlace = false;
  const metaUnit = reader.pin(1);
  del(5);
  expect(read(metaUnit, 5)).toBe(valueOf(5, 0).toString());
  reader.unpin(1);
  publish();
  expect(read(reader.published(), 5)).toBeUndefined();
  expect(tree.check()).toEqual([]);
});

test('a range is cleared when that is published, and leaves no tombstones', () => {
  const { tree, lastSeq, publish, reader, read } = scene();
  tree.overwritesInPlace = true;
  const metaUnit = reader.pin(1);
  expect(tree.removeRange(keyOf(3), true, keyOf(6), false, Infinity, lastSeq())).toMatchObject({ removed: 3 });
  for (let index = 0; index < KEYS; index++) expect(read(metaUnit, index)).toBe(valueOf(index, 0).toString());
  reader.unpin(1);
  publish();
  expect(tree.counts()).toMatchObject({ cells: KEYS - 3, liveEntries: KEYS - 3 });
  expect(tree.overwritesInPlace).toBe(true);
});

test('no leaf keeps more tombstones than live entries, and deletes of all there is give the memory back', () => {
  const { tree, put, del, publish } = scene();
  tree.overwritesInPlace = true;
  const count = 2000;
  for (let index = KEYS; index < count; index++) put(index, 0);
  publish();
  for (let index = 0; index < count; index++) {
    expect(del((index * 7) % count)).toBe(true);
    publish();
    const { cells, liveEntries } = tree.counts();
    expect(cells - liveEntries).toBeLessThanOrEqual(Math.max(liveEntries, 1));
  }
  expect(tree.counts()).toMatchObject({ liveEntries: 0, cells: 0, leafPages: 0, treeUnits: 0 });
  expect(tree.check()).toEqual([]);
});

test('tombstones give their room to inserts before a leaf is split', () => {
  const { tree, put, del, publish } = scene();
  tree.overwritesInPlace = true;
  for (let index = 2 * KEYS; tree.counts().leafPages === 1; index++) put(index, 0);
  publish();
  const { leafPages } = tree.counts();
  const splits = tree.metrics()['pageSplits'];
  for (let index = 0; index < 8; index++) del(index);
  publish();
  for (let index = 0; index < 8; index++) put(KEYS + index, 0);
  publish();
  expect(tree.counts().leafPages).toBe(leafPages);
  expect(tree.metrics()['pageSplits']).toBe(splits);
  expect(tree.check()).toEqual([]);
});

test('the successor of a writer that died in a group counts what its last changes left', () => {
  const { layout, tree, put, del, publish, lastSeq } = scene();
  tree.overwritesInPlace = true;
  del(1);
  del(2);
  publish();
  // Never published.
  del(3);
  put(2, 1, 90);
  put(4, 1, 120);
  const arena = ArenaWriter.adopt(layout, markTrees);
  const successor = new BTreeWriter(arena, 0);
  expect(successor.check()).toEqual([]);
  expect(successor.counts()).toMatchObject({
    liveEntries: KEYS - 2,
    cells: KEYS,
    liveKeyBytes: 7 * (KEYS - 2),
    liveValueBytes: 100 * (KEYS - 4) + 90 + 120,
  });
  publishTrees(arena, lastSeq());
  expect(successor.check()).toEqual([]);
});

test.each([1, 2, 3, 4])('a tree changed in place is a map, across deaths of its writer, seed %i', (seed) => {
  const random = new Random(seed);
  const layout = createArena({ memoryBytes: 16 << 20 });
  let arena = new ArenaWriter(layout);
  let tree = new BTreeWriter(arena, 0, { pageBytes: seed % 2 === 0 ? 4096 : 8192 });
  const reader = new ArenaReader(layout);
  const model = new Map<number, string>();
  const snapshots: { seq: number; state: Map<number, string> }[] = [];
  const keys = 400;
  let seq = 0;
  const contents = (atSeq: number): Map<number, string> => {
    const cursor = new BTreeCursor(reader, 0, 0);
    const found = new Map<number, string>();
    for (let more = cursor.seek(reader.published(), undefined, 0, atSeq, false, 0); more; more = cursor.next())
      found.set(Number(cursor.keyUtf8().slice(3)), cursor.valueUtf8());
    return found;
  };
  const sorted = (state: Map<number, string>): [number, string][] => [...state].sort(([a], [b]) => a - b);
  for (let group = 0; group < 150; group++) {
    tree.setSnapshots(
      Float64Array.from(snapshots, (snapshot) => snapshot.seq),
      snapshots.length,
    );
    tree.beginGroup(seq, random.below(5) === 0);
    const isAtomic = !tree.overwritesInPlace;
    const operations = 1 + random.below(60);
    for (let operation = 0; operation < operations; operation++) {
      const index = random.below(keys);
      const key = keyOf(index);
      if (random.below(100) < (group % 100 < 50 ? 30 : 60)) {
        expect(tree.del(key, 0, key.length, ++seq)).toBe(model.delete(index));
      } else {
        const value = valueOf(index, seq, random.below(30) === 0 ? 3000 : 20 + random.below(60));
        expect(tree.put(key, 0, key.length, value, 0, value.length, ++seq, 0)).toBe(model.has(index));
        model.set(index, value.toString());
      }
    }
    if (!isAtomic && snapshots.length === 0 && random.below(10) === 0) {
      // Dies: what it changed in place stays, the rest is applied again.
      arena = ArenaWriter.adopt(layout, markTrees);
      tree = new BTreeWriter(arena, 0);
      expect(tree.check()).toEqual([]);
      for (let index = 0; index < keys; index++) {
        const key = keyOf(index);
        const value = model.get(index);
        if (value === undefined) tree.del(key, 0, key.length, ++seq);
        else tree.put(key, 0, key.length, Buffer.from(value), 0, value.length, ++seq, 0);
      }
    }
    publishTrees(arena, seq);
    arena.reclaim();
    expect(tree.check()).toEqual([]);
    expect(tree.counts().liveEntries).toBe(model.size);
    expect(sorted(contents(Infinity))).toEqual(sorted(model));
    for (const snapshot of snapshots) expect(sorted(contents(snapshot.seq))).toEqual(sorted(snapshot.state));
    if (snapshots.length > 0 && random.below(8) === 0) snapshots.shift();
    if (random.below(10) === 0) snapshots.push({ seq, state: new Map(model) });
    if (random.below(40) === 0) {
      const state = { done: false, removedCells: 0, resumeKey: undefined, resumeSeq: Infinity };
      while (!state.done) tree.sweep(state, 4);
      publishTrees(arena, seq);
      expect(tree.check()).toEqual([]);
      expect(sorted(contents(Infinity))).toEqual(sorted(model));
    }
  }
});
