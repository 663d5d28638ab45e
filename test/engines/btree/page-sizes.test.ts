/** Page sizes that follow the sizes of entries. The model test has random histories of such trees. */
import { describe, expect, it } from 'vitest';
import { publishTrees, treeCounts } from '../../../dist/engines/btree/meta.js';
import { PageSizer } from '../../../dist/engines/btree/page-sizer.js';
import { BTreeWriter } from '../../../dist/engines/btree/writer.js';
import { ArenaWriter, createArena } from '../../../dist/shared/memory/arena.js';

const MIB = 1 << 20;
const VALUE = Buffer.alloc(4096, 3);
const keyOf = (index: number): Buffer => Buffer.from(`k${String((index * 7919) % 100_003).padStart(9, '0')}`);

function fill(tree: BTreeWriter, arena: ArenaWriter, from: number, to: number, valueBytes: number): void {
  for (let index = from; index < to; index++) {
    const key = keyOf(index);
    tree.put(key, 0, key.length, VALUE, 0, valueBytes, index + 1, 0);
    if (index % 100 === 99) publishTrees(arena, index + 1);
  }
  publishTrees(arena, to);
}

function leaves(tree: BTreeWriter): number[] {
  const metrics = tree.metrics();
  return ['leaves4KiB', 'leaves8KiB', 'leaves16KiB', 'leaves32KiB'].map((name) => metrics[name]!);
}

describe('adaptive page sizes', () => {
  it('small entries get pages of 4 KiB, those of 600 to 1,000 bytes pages of 8 KiB, from the first page on', () => {
    for (const [valueBytes, expected] of [
      [100, 0],
      [500, 0],
      [620, 1],
      [1000, 1],
    ] as const) {
      const arena = new ArenaWriter(createArena({ memoryBytes: 32 * MIB }));
      const tree = new BTreeWriter(arena, 0, { pageBytes: 'adaptive' });
      fill(tree, arena, 0, 4000, valueBytes);
      const mix = leaves(tree);
      expect(mix[expected], `${valueBytes}`).toBe(tree.counts().leafPages);
      expect(tree.counts().pageBytes).toBe(4096 << expected);
      expect(tree.check()).toEqual([]);
    }
  });

  it('follow entries that change their size, page by page as they are written anew', () => {
    const arena = new ArenaWriter(createArena({ memoryBytes: 64 * MIB }));
    const tree = new BTreeWriter(arena, 0, { pageBytes: 'adaptive' });
    fill(tree, arena, 0, 3000, 100);
    expect(leaves(tree).slice(1)).toEqual([0, 0, 0]);
    const small = leaves(tree)[0]!;
    fill(tree, arena, 3000, 3400, 900);
    expect(tree.counts().pageBytes).toBe(8192);
    // Only where something was inserted.
    expect(leaves(tree)[0]).toBeGreaterThan(0);
    expect(leaves(tree)[1]).toBeGreaterThan(10);
    expect(tree.check()).toEqual([]);
    fill(tree, arena, 3400, 9000, 900);
    expect(leaves(tree)[0]).toBeLessThan(small / 4);
    for (let index = 3000; index < 9000; index++) tree.del(keyOf(index), 0, 10, 10_000);
    fill(tree, arena, 10_000, 20_000, 60);
    expect(tree.counts().pageBytes).toBe(4096);
    expect(leaves(tree)[1]! * 2).toBeLessThan(leaves(tree)[0]!);
    expect(tree.check()).toEqual([]);
  });

  it('change between groups only', () => {
    const arena = new ArenaWriter(createArena({ memoryBytes: 32 * MIB }));
    const tree = new BTreeWriter(arena, 0, { pageBytes: 'adaptive' });
    fill(tree, arena, 0, 1000, 50);
    for (let index = 1000; index < 3000; index++) {
      const key = keyOf(index);
      tree.put(key, 0, key.length, VALUE, 0, 900, index + 1, 0);
      // Nothing but the first page of the group may have decided.
      if (index > 1001) expect(tree.metrics()['leafPageBytes']).toBe(4096);
    }
    publishTrees(arena, 3000);
    fill(tree, arena, 3000, 3100, 900);
    expect(tree.metrics()['leafPageBytes']).toBe(8192);
  });

  it('are the default of new trees; a tree keeps what it was made with', () => {
    const arena = new ArenaWriter(createArena({ memoryBytes: 32 * MIB }));
    fill(new BTreeWriter(arena, 0), arena, 0, 2000, 800);
    fill(new BTreeWriter(arena, 1, { pageBytes: 4096 }), arena, 0, 2000, 800);
    const meta = arena.published();
    expect(treeCounts(arena, meta, 0)).toMatchObject({ isAdaptive: true, pageBytes: 8192 });
    expect(treeCounts(arena, meta, 1)).toMatchObject({ isAdaptive: false, pageBytes: 4096 });
    const again = new BTreeWriter(arena, 0, { pageBytes: 16384 });
    expect(again.counts()).toMatchObject({ isAdaptive: true, pageBytes: 8192 });
    expect(again.check()).toEqual([]);
    const fixed = new BTreeWriter(arena, 1, { pageBytes: 'adaptive' });
    fill(fixed, arena, 2000, 3000, 800);
    expect(fixed.counts()).toMatchObject({ isAdaptive: false, pageBytes: 4096 });
    expect(fixed.check()).toEqual([]);
  });

  it('are chosen by what a bulk load has seen', () => {
    const arena = new ArenaWriter(createArena({ memoryBytes: 32 * MIB }));
    const tree = new BTreeWriter(arena, 0);
    tree.bulkLoad(
      Array.from({ length: 3000 }, (_, index) => ({
        key: Buffer.from(String(index).padStart(8, '0')),
        value: VALUE.subarray(0, index < 1000 ? 40 : 900),
        seq: index + 1,
      })),
    );
    expect(leaves(tree)[0]).toBeGreaterThan(10);
    expect(leaves(tree)[1]).toBeGreaterThan(150);
    expect(tree.check()).toEqual([]);
  });

  it('make branches larger where separators are long', () => {
    const arena = new ArenaWriter(createArena({ memoryBytes: 64 * MIB }));
    const tree = new BTreeWriter(arena, 0);
    for (let index = 0; index < 6000; index++) {
      // What tells neighbours apart stands at the end, and there is no common prefix to speak of.
      const number = (index * 7919) % 6000;
      const key = Buffer.from(
        `${String.fromCharCode(97 + (number % 26)).repeat(180)}${String(number).padStart(6, '0')}`,
      );
      tree.put(key, 0, key.length, VALUE, 0, 10, index + 1, 0);
      if (index % 50 === 49) publishTrees(arena, index + 1);
    }
    expect(tree.metrics()['branchPageBytes']).toBeGreaterThan(4096);
    expect(tree.check()).toEqual([]);
  });
});

describe('the sizer', () => {
  it('does not go to and fro between two classes', () => {
    const sizer = new PageSizer(4096, true);
    let changes = 0;
    let before = sizer.leafClass;
    for (let epoch = 1; epoch < 2000; epoch++) {
      // Around the border of 4 and 8 KiB.
      for (let cell = 0; cell < 20; cell++) sizer.noteCell(579 + ((epoch * 7 + cell * 13) % 41) - 20);
      sizer.decide(epoch);
      if (sizer.leafClass !== before) changes++;
      before = sizer.leafClass;
    }
    expect(changes).toBeLessThanOrEqual(1);
  });

  it('of a fixed size never changes', () => {
    const sizer = new PageSizer(16384, false);
    for (let epoch = 1; epoch < 100; epoch++) {
      sizer.noteCell(3000);
      sizer.noteSeparator(300);
      sizer.decide(epoch);
    }
    expect(sizer).toMatchObject({ leafClass: 2, branchClass: 2 });
  });
});
