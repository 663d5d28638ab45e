import { expect, test } from 'vitest';
import { publishTrees, treeCounts } from '../../../dist/engines/btree/meta.js';
import { BTreeReader } from '../../../dist/engines/btree/reader.js';
import { BTreeWriter } from '../../../dist/engines/btree/writer.js';
import { ArenaReader, ArenaWriter, createArena } from '../../../dist/shared/memory/arena.js';

const KEYS = 25;
const keyOf = (index: number): Buffer => Buffer.from(`key${String(index).padStart(4, '0')}`);
const valueOf = (index: number, generation: number): Buffer => Buffer.from(`${index}:${generation};`.padEnd(100, 'v'));

function scene() {
  const layout = createArena({ memoryBytes: 8 << 20 });
  const arena = new ArenaWriter(layout);
  const tree = new BTreeWriter(arena, 0);
  let seq = 0;
  const put = (index: number, generation: number): void => {
    const key = keyOf(index);
    const value = valueOf(index, generation);
    tree.put(key, 0, key.length, value, 0, value.length, ++seq, 0);
  };
  const publish = (): void => {
    publishTrees(arena, seq);
    arena.reclaim();
  };
  for (let index = 0; index < KEYS; index++) put(index, 0);
  publish();
  const reader = new ArenaReader(layout);
  const entries = new BTreeReader(reader, 0, 0);
  const read = (metaUnit: number, index: number): string | undefined => {
    const key = keyOf(index);
    return entries.find(metaUnit, key, key.length, Infinity, 0) ? entries.valueUtf8() : undefined;
  };
  const root = (): number => treeCounts(reader, reader.published(), 0).rootUnit;
  return { arena, tree, put, publish, reader, read, root };
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
