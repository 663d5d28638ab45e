/** What the contract of engines asks beyond puts and reads: tags of rows, visits of all versions, giving everything back. */
import { describe, expect, it } from 'vitest';
import { checkArena } from '../../../dist/engines/btree/check.js';
import { BTreeCursor } from '../../../dist/engines/btree/cursor.js';
import { publishTrees } from '../../../dist/engines/btree/meta.js';
import { BTreeReader } from '../../../dist/engines/btree/reader.js';
import { BTreeWriter } from '../../../dist/engines/btree/writer.js';
import { FREE_TAG, StaleViewError, engineNamed, engineOfCode, newSweep, rowTag } from '../../../dist/engines/engine.js';
import '../../../dist/engines/built-in.js';
import { ArenaReader, ArenaWriter, createArena } from '../../../dist/shared/memory/arena.js';
import { Scene, hex } from './support.js';

const MIB = 1 << 20;
const keyOf = (index: number): Buffer => Buffer.from(`k${String(index).padStart(5, '0')}`);

describe('rows', () => {
  it('a reader whose tag is not the row’s is out of date', () => {
    const arena = new ArenaWriter(createArena({ memoryBytes: MIB }));
    const key = keyOf(1);
    const tree = new BTreeWriter(arena, 0, { tag: rowTag(7, 0) });
    tree.put(key, 0, key.length, key, 0, key.length, 1, 0);
    const view = new ArenaReader(arena.layout);
    const reader = new BTreeReader(view, 0, rowTag(7, 0));
    const cursor = new BTreeCursor(view, 0, rowTag(7, 0));
    // Nothing is published yet: an empty tree.
    expect(reader.find(view.pin(0), key, key.length, Infinity, 0)).toBe(false);
    let meta = publishTrees(arena, 1);
    expect(reader.find(meta, key, key.length, Infinity, 0)).toBe(true);
    expect(cursor.seek(meta, undefined, 0, Infinity, false, 0)).toBe(true);
    tree.tag = rowTag(8, 0);
    meta = publishTrees(arena, 1);
    expect(() => reader.find(meta, key, key.length, Infinity, 0)).toThrow(StaleViewError);
    expect(() => cursor.seek(meta, undefined, 0, Infinity, true, 0)).toThrow(StaleViewError);
    expect(new BTreeReader(view, 0, rowTag(8, 0)).find(meta, key, key.length, Infinity, 0)).toBe(true);
    tree.destroy();
    meta = publishTrees(arena, 1);
    expect(() => new BTreeReader(view, 0, rowTag(8, 0)).find(meta, key, key.length, Infinity, 0)).toThrow(
      StaleViewError,
    );
  });

  it('a destroyed tree gives all its memory back and leaves its row to others', () => {
    const scene = new Scene({}, 8 * MIB);
    for (let round = 0; round < 200; round++) {
      for (let index = 0; index < 200; index++) scene.put(keyOf(index), Buffer.alloc(index % 50 === 0 ? 9000 : 40));
      if (round % 2 === 0) scene.publish();
      scene.tree.destroy();
      scene.model.clear();
      scene.publish();
      scene.arena.reclaim();
      expect(checkArena(scene.arena)).toEqual([]);
      expect(scene.arena.usedUnits).toBe(8 + 1);
      scene.tree = new BTreeWriter(scene.arena, 0);
      expect(scene.tree.counts()).toMatchObject({ cells: 0, tag: 0, overflowUnits: 0 });
    }
  });

  it('the engine of the table opens all three faces of a row', () => {
    const arena = new ArenaWriter(createArena({ memoryBytes: MIB }));
    const engine = engineNamed('btree');
    expect(engineOfCode(engine.code)).toBe(engine);
    const tree = engine.openWriter(arena, 2, 9, { order: 5, memtableBytes: 1 });
    expect(tree).toMatchObject({ row: 2, code: 0, tag: rowTag(9, 0) });
    for (let index = 0; index < 100; index++) tree.put(keyOf(index), 0, 6, keyOf(index), 0, 6, index + 1, 0);
    expect(tree.counts().order).toBe(5);
    const meta = publishTrees(arena, 100);
    const view = new ArenaReader(arena.layout);
    const reader = engine.openReader(view, 2, 9, 0);
    expect(reader.find(meta, keyOf(42), 6, Infinity, 0)).toBe(true);
    expect(reader.valueUtf8()).toBe('k00042');
    reader.release();
    const cursor = engine.openCursor(view, 2, 9, 0);
    cursor.setRange(keyOf(10), keyOf(20));
    expect(cursor.seek(meta, keyOf(10), 6, Infinity, false, 0)).toBe(true);
    cursor.release();
    const marked = new Set<number>();
    engine.mark(view, meta, 2, (unit) => marked.add(unit));
    expect(marked.size).toBe(tree.counts().leafPages + tree.counts().branchPages);
    // A row between that nobody uses.
    expect(() => engine.openReader(view, 1, 9, 0).find(meta, keyOf(42), 6, Infinity, 0)).toThrow(StaleViewError);
    expect(FREE_TAG).not.toBe(tree.tag);
  });
});

describe('visitVersions', () => {
  interface Visited {
    key: string;
    value: string;
    seq: number;
    expiresAt: number;
    isTombstone: boolean;
  }

  function visitAll(tree: BTreeWriter, budget: number): { visited: Visited[]; slices: number } {
    const visited: Visited[] = [];
    let slices = 0;
    let position: Uint8Array | undefined;
    do {
      position = tree.visitVersions(
        position,
        budget,
        (key, keyLength, value, valueLength, seq, expiresAt, isTombstone) => {
          visited.push({
            key: hex(key.subarray(0, keyLength)),
            value: hex(value.subarray(0, valueLength)),
            seq,
            expiresAt,
            isTombstone,
          });
        },
      );
      slices++;
    } while (position !== undefined);
    return { visited, slices };
  }

  it('shows every version in key order, oldest first within a key, in slices of the budget', () => {
    for (const options of [{}, { order: 3 }, { pageBytes: 16384 }]) {
      const scene = new Scene(options);
      for (let round = 0; round < 5; round++) {
        for (let index = 0; index < 120; index++) {
          const length = index === 50 ? 30_000 + round : (index * round) % 90;
          if ((index + round) % 7 === 3) scene.del(keyOf(index));
          else scene.put(keyOf(index), Buffer.alloc(length, index + round), index % 5 === 0 ? scene.nowMs + round : 0);
        }
        scene.snapshot();
      }
      // All versions are needed by a snapshot, so the model's history is the tree's.
      const expected = [...scene.model.keys()].sort().flatMap((key) =>
        scene.model.get(key)!.map(({ seq, value, expiresAt }) => ({
          key,
          value: hex(value ?? Buffer.alloc(0)),
          seq,
          expiresAt,
          isTombstone: value === undefined,
        })),
      );
      for (const budget of [1, 7, 100, 1_000_000]) {
        const { visited, slices } = visitAll(scene.tree, budget);
        expect(visited).toEqual(expected);
        if (budget === 1) expect(slices).toBe(scene.model.size);
        if (budget === 1_000_000) expect(slices).toBe(1);
      }
      scene.verify();
    }
  });

  it('goes on from its position whatever was changed in between', () => {
    const scene = new Scene({ order: 4 });
    for (let index = 0; index < 400; index += 2) scene.put(keyOf(index), Buffer.from('even'));
    const seen: string[] = [];
    let position: Uint8Array | undefined;
    for (let round = 0; ; round++) {
      position = scene.tree.visitVersions(position, 20, (key, keyLength) => {
        seen.push(Buffer.from(key.subarray(0, keyLength)).toString());
      });
      if (position === undefined) break;
      const next = Buffer.from(position);
      expect(scene.tree.isBefore(next, 0, next.length, position)).toBe(false);
      expect(scene.tree.isBefore(Buffer.from(seen.at(-1)!), 0, 6, position)).toBe(true);
      // The next one itself goes, one appears behind it, and one before it that the visit has passed.
      scene.del(next);
      scene.put(Buffer.from(`${next.toString()}+`), Buffer.from('new'));
      scene.put(keyOf(1), Buffer.alloc(round));
      if (round % 2 === 0) scene.publish();
    }
    expect(seen).toEqual([...new Set(seen)].sort());
    expect(seen.filter((key) => key.endsWith('+'))).toHaveLength(9);
    expect(seen).not.toContain('k00001');
    scene.verify();
  });

  it('shows each version under its own key where older ones, cut off into the next leaf, are gone', () => {
    for (const order of [3, 4, 0]) {
      const scene = new Scene(order === 0 ? {} : { order });
      // Every version is needed: those of most keys reach over several leaves.
      for (let round = 0; round < (order === 0 ? 60 : 8); round++) {
        for (let index = 0; index < 40; index++) scene.put(keyOf(index), Buffer.alloc(50, round));
        scene.snapshot();
      }
      while (scene.snapshots.length > 0) scene.releaseSnapshot(0);
      scene.publish();
      // A sweep takes the older ones leaf by leaf; the separators stay as they were cut.
      const sweep = newSweep();
      while (!sweep.done) {
        scene.tree.sweep(sweep, 1);
        for (const budget of [7, 1_000_000]) {
          const newest = new Map(visitAll(scene.tree, budget).visited.map(({ key, value }) => [key, value]));
          for (const key of scene.model.keys()) expect(newest.get(key)).toBe(hex(scene.live(key)!.value!));
        }
      }
      expect(visitAll(scene.tree, 1_000_000).visited).toHaveLength(40);
    }
  });

  it('an empty tree has nothing to show', () => {
    expect(visitAll(new Scene().tree, 10)).toEqual({ visited: [], slices: 1 });
  });
});

describe('metrics', () => {
  it('count splits, merges, copies and overwrites', () => {
    const scene = new Scene();
    for (let index = 0; index < 2000; index++) scene.put(keyOf((index * 7919) % 2000), Buffer.alloc(40));
    scene.publish();
    const filled = scene.tree.metrics();
    expect(filled['pageSplits']).toBeGreaterThanOrEqual(scene.tree.counts().leafPages - 1);
    expect(filled['pagesCopied']).toBe(0);
    scene.put(keyOf(77), Buffer.alloc(39));
    expect(scene.tree.metrics()['pagesCopied']).toBe(scene.tree.counts().height);
    for (let index = 0; index < 1990; index++) scene.del(keyOf(index));
    expect(scene.tree.metrics()['pageMerges']).toBeGreaterThan(5);
    const { leafBytes, branchBytes, overflowBytes } = scene.tree.memory();
    const { treeUnits } = scene.tree.counts();
    expect(leafBytes! + branchBytes!).toBe(treeUnits * 4096);
    expect(overflowBytes).toBe(0);
  });
});
