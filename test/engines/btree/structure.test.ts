/** Shapes, fills and limits: what the model tests do not see. */
import { describe, expect, it } from 'vitest';
import { checkArena } from '../../../dist/engines/btree/check.js';
import { markTrees, publishTrees, publishedSeqOf, treeCount, treeCounts } from '../../../dist/engines/btree/meta.js';
import { BTreeCursor } from '../../../dist/engines/btree/cursor.js';
import { BTreeReader } from '../../../dist/engines/btree/reader.js';
import { OverflowWriter } from '../../../dist/engines/btree/overflow.js';
import { BTreeWriter } from '../../../dist/engines/btree/writer.js';
import { newSweep } from '../../../dist/engines/engine.js';
import { ArenaReader, ArenaWriter, createArena } from '../../../dist/shared/memory/arena.js';
import { Scene, hex } from './support.js';

const MIB = 1 << 20;
const key16 = (index: number): Buffer => Buffer.from(`k${String(index).padStart(15, '0')}`);

/** The same order in every run. */
function shuffled(count: number): number[] {
  const order = Array.from({ length: count }, (_, index) => index);
  let state = 12345;
  for (let index = count - 1; index > 0; index--) {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0;
    const other = (state >>> 8) % (index + 1);
    [order[index], order[other]] = [order[other]!, order[index]!];
  }
  return order;
}

function putAll(tree: BTreeWriter, order: Iterable<number>, value: Uint8Array, publish: (seq: number) => void): number {
  let seq = 0;
  for (const index of order) {
    const key = key16(index);
    tree.put(key, 0, key.length, value, 0, value.length, ++seq, 0);
    if (seq % 500 === 0) publish(seq);
  }
  publish(seq);
  return seq;
}

describe('fill', () => {
  const count = 30_000;
  const raw = count * 116;
  const value = Buffer.alloc(100, 1);

  it('random inserts take at most 1.65 of the raw bytes', () => {
    const scene = new Scene({}, 64 * MIB);
    putAll(scene.tree, shuffled(count), value, (seq) => publishTrees(scene.arena, seq));
    scene.arena.reclaim();
    expect(checkArena(scene.arena)).toEqual([]);
    expect((scene.arena.usedUnits * 4096) / raw).toBeLessThan(1.65);
  });

  it('ascending inserts leave full pages', () => {
    const scene = new Scene({}, 64 * MIB);
    putAll(scene.tree, Array(count).keys(), value, (seq) => publishTrees(scene.arena, seq));
    scene.arena.reclaim();
    expect(checkArena(scene.arena)).toEqual([]);
    expect((scene.arena.usedUnits * 4096) / raw).toBeLessThan(1.15);
  });

  it('a bulk load takes at most 1.15 of the raw bytes', () => {
    const scene = new Scene({}, 64 * MIB);
    scene.tree.bulkLoad(
      (function* () {
        for (let index = 0; index < count; index++) yield { key: key16(index), value, seq: index + 1 };
      })(),
    );
    publishTrees(scene.arena, count);
    expect(checkArena(scene.arena)).toEqual([]);
    expect((scene.arena.usedUnits * 4096) / raw).toBeLessThan(1.15);
  });

  it('insert and delete cycles leave the used memory flat', () => {
    const scene = new Scene({}, 64 * MIB);
    const used: number[] = [];
    let seq = 0;
    for (let cycle = 0; cycle < 6; cycle++) {
      for (const index of shuffled(4000)) {
        const key = key16(index);
        scene.tree.put(key, 0, 16, value, 0, 100, ++seq, 0);
        if (seq % 100 === 0) publishTrees(scene.arena, seq);
      }
      for (const index of shuffled(4000)) {
        if (index % 10 === 0) continue;
        const key = key16(index);
        expect(scene.tree.del(key, 0, 16, ++seq, 0)).toBe(true);
        if (seq % 100 === 0) publishTrees(scene.arena, seq);
      }
      publishTrees(scene.arena, seq);
      scene.arena.reclaim();
      expect(checkArena(scene.arena)).toEqual([]);
      used.push(scene.arena.usedUnits);
    }
    expect(Math.max(...used)).toBeLessThanOrEqual(used[0]! * 1.3);
    expect(scene.tree.counts().leafPages).toBeLessThan(40);
  });
});

describe('bulk load', () => {
  for (const options of [{}, { order: 3 }, { order: 7 }, { pageBytes: 32768 }]) {
    it(`of any size gives what puts give, ${JSON.stringify(options)}`, () => {
      for (const count of [0, 1, 2, 3, 4, 5, 8, 28, 100, 1000]) {
        const scene = new Scene(options, 32 * MIB);
        const entries = Array.from({ length: count }, (_, index) => ({
          key: Buffer.concat([Buffer.alloc(index % 37 === 36 ? 3000 : 3, 0x61), key16(index)]),
          value: Buffer.alloc(index % 50 === 49 ? 5000 : (index * 7) % 300, index),
          seq: index + 1,
        })).sort((a, b) => Buffer.compare(a.key, b.key));
        scene.tree.bulkLoad(entries);
        for (const entry of entries)
          scene.model.set(hex(entry.key), [{ seq: entry.seq, value: entry.value, expiresAt: 0 }]);
        scene.seq = count;
        scene.verify();
        if (count > 5) {
          scene.put(entries[count >> 1]!.key, Buffer.from('changed'));
          scene.del(entries[0]!.key);
          scene.verify();
        }
      }
    });
  }

  it('refuses keys out of order and leaves the tree empty', () => {
    const scene = new Scene();
    const value = Buffer.alloc(3000);
    for (const keys of [
      ['b', 'a'],
      ['a', 'a'],
      ['ab', 'a'],
    ]) {
      expect(() => {
        scene.tree.bulkLoad(keys.map((key) => ({ key: Buffer.from(key), value, seq: 1 })));
      }).toThrow(TypeError);
      expect(checkArena(scene.arena)).toEqual([]);
      expect(scene.arena.usedUnits).toBe(8);
    }
  });

  it('that runs out of memory leaves the tree empty', () => {
    const scene = new Scene({}, 1 * MIB);
    expect(() => {
      scene.tree.bulkLoad(
        (function* () {
          for (let index = 0; ; index++) yield { key: key16(index), value: Buffer.alloc(500), seq: 1 };
        })(),
      );
    }).toThrow(expect.objectContaining({ code: 'ERR_MEMORY_FULL' }));
    expect(checkArena(scene.arena)).toEqual([]);
    expect(scene.arena.usedUnits).toBe(8);
  });
});

describe('full memory', () => {
  for (const [name, keyBytes, valueBytes] of [
    ['small cells', 16, 100],
    ['large cells', 2000, 1500],
    ['overflow values', 16, 9000],
  ] as const) {
    it(`fails puts without a trace, keeps reads, and lets deletes make room: ${name}`, () => {
      const scene = new Scene({}, MIB);
      const keyOf = (index: number): Buffer =>
        Buffer.concat([Buffer.alloc(keyBytes - 16, (index * 7) & 0xff), key16(index)]);
      const value = Buffer.alloc(valueBytes, 5);
      let count = 0;
      for (; ; count++) {
        const key = keyOf(count);
        const before = scene.tree.counts();
        try {
          scene.put(key, value);
        } catch (error) {
          expect(error).toMatchObject({ code: 'ERR_MEMORY_FULL' });
          scene.seq--;
          expect({ ...scene.tree.counts(), rootUnit: 0 }).toEqual({ ...before, rootUnit: 0 });
          break;
        }
        if (count % 5 === 0) scene.publish();
      }
      expect(count).toBeGreaterThan(20);
      scene.verify();
      for (let index = 0; index < count; index++) {
        scene.del(keyOf(index));
        if (index % 3 === 0) scene.publish();
      }
      scene.verify();
      scene.put(keyOf(0), value);
      scene.verify();
    });
  }

  for (const [name, options, usesReserve] of [
    ['order 3', { order: 3 }, false],
    ['order 5', { order: 5 }, false],
    ['with the reserve', {}, true],
  ] as const) {
    it(`fails deletes that insert a tombstone without a trace, too: ${name}`, () => {
      const scene = new Scene(options, MIB);
      const order = shuffled(3000);
      let failed = 0;
      for (let round = 0; round < 6; round++) {
        for (const index of order) {
          const before = { ...scene.tree.counts(), rootUnit: 0 };
          scene.arena.reserveMode = usesReserve;
          try {
            if ((index + round) % 2 === 0) scene.put(key16(index), Buffer.alloc(index % 200, round));
            else scene.del(key16(index));
          } catch (error) {
            expect(error).toMatchObject({ code: 'ERR_MEMORY_FULL' });
            scene.seq--;
            expect({ ...scene.tree.counts(), rootUnit: 0 }).toEqual(before);
            failed++;
          }
          scene.arena.reserveMode = false;
          if (index % 10 === 0) scene.publish();
        }
        scene.snapshot();
      }
      expect(failed).toBeGreaterThan(100);
      scene.verify();
    });
  }

  it('deletes that must do without siblings leave branches with one child, which are sound', () => {
    const scene = new Scene({ order: 3 }, 4 * MIB);
    const count = 800;
    for (let index = 0; index < count; index++) {
      scene.put(key16(index), Buffer.alloc(10));
      if (index % 10 === 0) scene.publish();
    }
    // A long value takes the rest.
    const filler = Buffer.from('filler');
    for (let bytes = 4 * MIB; ; bytes -= 4096) {
      try {
        scene.put(filler, Buffer.alloc(bytes));
        break;
      } catch (error) {
        expect(error).toMatchObject({ code: 'ERR_MEMORY_FULL' });
        scene.seq--;
      }
    }
    scene.publish();
    let failed = 0;
    for (const index of shuffled(count).slice(0, count - 50)) {
      try {
        scene.arena.reserveMode = true;
        scene.del(key16(index));
      } catch (error) {
        expect(error).toMatchObject({ code: 'ERR_MEMORY_FULL' });
        scene.seq--;
        failed++;
        expect(checkArena(scene.arena)).toEqual([]);
        scene.publish();
      }
    }
    scene.arena.reserveMode = false;
    expect(failed).toBeGreaterThan(0);
    scene.verify();
    scene.del(filler);
    scene.publish();
    for (const index of shuffled(count)) {
      scene.del(key16(index));
      scene.publish();
    }
    scene.verify();
    expect(scene.tree.counts()).toMatchObject({ leafPages: 0, branchPages: 0 });
  });

  it('unitsNeeded is never exceeded by the group it was asked for', () => {
    let state = 99;
    const random = (below: number): number => {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      return (state >>> 8) % below;
    };
    for (const options of [{}, { order: 3 }, { order: 9 }, { pageBytes: 8192 }]) {
      const scene = new Scene(options, 128 * MIB);
      for (let group = 0; group < 60; group++) {
        const operations = 1 + random(200);
        const cells = Array.from({ length: operations }, () => ({
          key: key16(random(5000)),
          value: Buffer.alloc(random(10) === 0 ? random(6000) : random(150)),
          remove: random(4) === 0,
        }));
        const bytes = cells.reduce((sum, cell) => sum + (cell.remove ? 0 : cell.key.length + cell.value.length), 0);
        const bound = scene.tree.unitsNeeded(operations, bytes);
        expect(scene.tree.admits(operations, bytes)).toBe(true);
        const before = scene.arena.usedUnits;
        let most = before;
        for (const cell of cells) {
          scene.seq++;
          if (cell.remove) scene.tree.del(cell.key, 0, 16, scene.seq);
          else scene.tree.put(cell.key, 0, 16, cell.value, 0, cell.value.length, scene.seq, 0);
          most = Math.max(most, scene.arena.usedUnits);
        }
        publishTrees(scene.arena, scene.seq);
        expect(most - before).toBeLessThanOrEqual(bound);
      }
      expect(checkArena(scene.arena)).toEqual([]);
    }
  });
});

describe('admission', () => {
  it('a group that was admitted always applies, in an arena filled to the brim', () => {
    let state = 4711;
    const random = (below: number): number => {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      return (state >>> 8) % below;
    };
    const scene = new Scene({}, 5 * MIB);
    let refused = 0;
    for (let group = 0; group < 1500; group++) {
      const deletesOnly = refused > 0 && group % 4 === 0;
      const operations = 1 + random(6);
      const cells = Array.from({ length: operations }, () => ({
        key: Buffer.concat([key16(random(1200)), Buffer.alloc(random(4) === 0 ? random(3500) : 0, 0x61)]),
        value: Buffer.alloc(random(3) === 0 ? random(2000) : random(200)),
      }));
      const bytes = cells.reduce((sum, cell) => sum + cell.key.length + cell.value.length, 0);
      if (!scene.tree.admits(operations, bytes, deletesOnly)) {
        refused++;
        continue;
      }
      const keys = deletesOnly ? [...scene.model.keys()] : [];
      for (const { key, value } of cells) {
        if (deletesOnly) scene.del(Buffer.from(keys[random(keys.length)]!, 'hex'));
        else scene.put(key, value);
      }
      scene.publish();
    }
    expect(refused).toBeGreaterThan(20);
    expect(scene.tree.counts().liveEntries).toBeGreaterThan(100);
    scene.verify();
  });
});

describe('several trees in one arena', () => {
  it('are published together and keep their counts', () => {
    const arena = new ArenaWriter(createArena({ memoryBytes: 64 * MIB }));
    const reader = new ArenaReader(arena.layout);
    const trees = Array.from({ length: 200 }, (_, index) => new BTreeWriter(arena, index, { order: 3 + index }));
    for (const [index, tree] of trees.entries()) {
      for (let entry = 0; entry <= index; entry++) tree.put(key16(entry), 0, 16, key16(index), 0, 16, entry + 1, 0);
    }
    const meta = publishTrees(arena, 777);
    expect(checkArena(arena)).toEqual([]);
    expect(reader.pin(0)).toBe(meta);
    expect(treeCount(reader, meta)).toBe(200);
    expect(publishedSeqOf(reader, meta)).toBe(777);
    expect(treeCounts(reader, meta, 150)).toMatchObject({ liveEntries: 151, order: 153, liveKeyBytes: 151 * 16 });
    expect(treeCounts(reader, meta, 200)).toMatchObject({ liveEntries: 0, height: 0 });
    const find = new BTreeReader(reader, 150, 0);
    expect(find.find(meta, key16(150), 16, Infinity, 0)).toBe(true);
    expect(find.valueUtf8()).toBe(key16(150).toString());
    expect(find.find(meta, key16(151), 16, Infinity, 0)).toBe(false);
    expect(new BTreeReader(reader, 300, 0).find(meta, key16(1), 16, Infinity, 0)).toBe(false);
    reader.unpin(0);
    trees[150]!.clear();
    publishTrees(arena, 778);
    expect(checkArena(arena)).toEqual([]);
  });

  it('an unknown tree and an arena before its first publication are empty', () => {
    const reader = new ArenaReader(createArena({ memoryBytes: MIB }));
    const meta = reader.pin(0);
    expect(meta).toBe(0);
    expect(new BTreeReader(reader, 0, 0).find(meta, key16(0), 16, Infinity, 0)).toBe(false);
    expect(new BTreeCursor(reader, 0, 0).seek(meta, undefined, 0, Infinity, false, 0)).toBe(false);
    expect(treeCount(reader, meta)).toBe(0);
  });
});

describe('adoption of a tree', () => {
  it('finds the last published state, sound and writable', () => {
    const scene = new Scene({ order: 5 });
    for (let index = 0; index < 500; index++) scene.put(key16(index), Buffer.alloc(index % 7 === 0 ? 4000 : 20, index));
    scene.snapshot();
    for (let index = 0; index < 500; index += 3) scene.put(key16(index), Buffer.from('second'));
    scene.publish();
    const lostKey = Buffer.from('never published');
    scene.tree.put(lostKey, 0, lostKey.length, lostKey, 0, 3, scene.seq + 1, 0);
    const overflow = new OverflowWriter(scene.arena);
    overflow.begin(50_000);
    overflow.append(Buffer.alloc(30_000), 0, 30_000);
    scene.arena = ArenaWriter.adopt(scene.arena.layout, markTrees);
    scene.tree = new BTreeWriter(scene.arena, 0);
    expect(scene.tree.order).toBe(5);
    expect(scene.tree.versionOf(lostKey, 0, lostKey.length, 0)).toBe(0);
    const snapshots = Float64Array.from(scene.snapshots);
    scene.tree.setSnapshots(snapshots, 1);
    scene.verify();
    for (let index = 0; index < 500; index += 2) scene.del(key16(index));
    scene.verify();
  });
});

describe('overflow chains', () => {
  it('are filled across publications and read in pieces', () => {
    const scene = new Scene({}, 32 * MIB);
    const bytes = Buffer.alloc(3_000_001);
    for (let at = 0; at < bytes.length; at++) bytes[at] = (at * 31 + (at >>> 12)) & 0xff;
    const overflow = new OverflowWriter(scene.arena);
    overflow.begin(bytes.length);
    for (let at = 0; at < bytes.length; at += 70_001) {
      overflow.append(bytes, at, Math.min(70_001, bytes.length - at));
      scene.put(key16(at), Buffer.from('between'));
      expect(checkArena(scene.arena)).toEqual([]);
      scene.publish();
    }
    const chain = overflow.finish();
    expect(scene.tree.putOverflow(Buffer.from('large'), 0, 5, chain, ++scene.seq, 0)).toBe(false);
    scene.model.set(hex(Buffer.from('large')), [{ seq: scene.seq, value: bytes, expiresAt: 0 }]);
    scene.verify();
    const meta = scene.reader.pin(0);
    expect(scene.find.find(meta, Buffer.from('large'), 5, Infinity, 0)).toBe(true);
    const copy = Buffer.alloc(bytes.length);
    for (let at = 0; at < bytes.length; at += 99_991)
      expect(scene.find.readValue(copy, at, at, 99_991)).toBe(Math.min(99_991, bytes.length - at));
    expect(copy.equals(bytes)).toBe(true);
    expect(scene.find.readValue(copy, 0, 5, 10)).toBe(10);
    expect(copy.subarray(0, 10).equals(bytes.subarray(5, 15))).toBe(true);
    expect(scene.find.readValue(copy, 0, bytes.length, 10)).toBe(0);
    scene.reader.unpin(0);
    scene.del(Buffer.from('large'));
    scene.verify();
    scene.publish();
    scene.arena.reclaim();
    expect(scene.tree.counts().overflowUnits).toBe(0);
  });

  it('that are aborted or discarded leave nothing behind', () => {
    const scene = new Scene();
    const overflow = new OverflowWriter(scene.arena);
    overflow.begin(100_000);
    overflow.append(Buffer.alloc(60_000), 0, 60_000);
    overflow.abort();
    overflow.abort();
    overflow.begin(10);
    overflow.append(Buffer.alloc(10), 0, 10);
    OverflowWriter.discard(scene.arena, overflow.finish());
    expect(scene.arena.stagedUnits).toBe(0);
    expect(scene.arena.usedUnits).toBe(8);
    expect(() => {
      overflow.append(Buffer.alloc(1), 0, 1);
    }).toThrow(expect.objectContaining({ code: 'ERR_INTERNAL' }));
  });

  it('take smaller pages when memory is in pieces', () => {
    const scene = new Scene({}, 2 * MIB);
    const units: number[] = [];
    while (scene.arena.freeUnits(true) > 0) units.push(scene.arena.allocate(1, { reserve: true }));
    units.forEach((unit, index) => {
      if (index % 2 === 0) scene.arena.free(unit);
    });
    const value = Buffer.alloc(300_000, 3);
    scene.tree.put(Buffer.from('k'), 0, 1, value, 0, value.length, 1, 0);
    publishTrees(scene.arena, 1);
    expect(scene.tree.counts().overflowPages).toBeGreaterThan(40);
    const meta = scene.reader.pin(0);
    expect(scene.find.find(meta, Buffer.from('k'), 1, Infinity, 0)).toBe(true);
    expect(scene.find.copyValue().equals(value)).toBe(true);
  });
});

describe('cursor', () => {
  const scene = new Scene({ order: 4 });
  for (let index = 0; index < 200; index++) scene.put(key16(index * 2), Buffer.from(String(index)));
  scene.publish();

  it('seeks to the bound or the entry beside it, both ways', () => {
    const meta = scene.reader.pin(0);
    for (let index = 0; index < 400; index++) {
      const up = index % 2 === 0 ? index : index + 1;
      const found = scene.cursor.seek(meta, key16(index), 16, Infinity, false, 0);
      expect(found).toBe(up < 400);
      if (found) expect(scene.cursor.compareKey(key16(up), 16)).toBe(0);
      const down = index % 2 === 0 ? index : index - 1;
      expect(scene.cursor.seek(meta, key16(index), 16, Infinity, true, 0)).toBe(true);
      expect(scene.cursor.keyUtf8()).toBe(key16(down).toString());
      expect(scene.cursor.compareKey(key16(down + 1), 16)).toBeLessThan(0);
    }
    expect(scene.cursor.seek(meta, Buffer.from('a'), 1, Infinity, true, 0)).toBe(false);
    expect(scene.cursor.seek(meta, Buffer.from('z'), 1, Infinity, false, 0)).toBe(false);
    expect(scene.cursor.next()).toBe(false);
    scene.reader.unpin(0);
  });

  it('walks from any bound to the end, both ways, and counts as many', () => {
    const meta = scene.reader.pin(0);
    const { cursor } = scene;
    const all = Array.from({ length: 200 }, (_, index) => index);
    for (const bound of [0, 5, 10, 11, 61, 397, 398, 1000]) {
      const upwards = all.filter((index) => index * 2 >= bound);
      const seen: string[] = [];
      for (let more = cursor.seek(meta, key16(bound), 16, Infinity, false, 0); more; more = cursor.next())
        seen.push(cursor.valueUtf8());
      expect(seen).toEqual(upwards.map(String));
      expect(cursor.next()).toBe(false);
      expect(cursor.seek(meta, key16(bound), 16, Infinity, false, 0) ? cursor.count() : 0).toBe(upwards.length);
      const downwards = all.filter((index) => index * 2 <= bound).reverse();
      seen.length = 0;
      for (let more = cursor.seek(meta, key16(bound), 16, Infinity, true, 0); more; more = cursor.prev())
        seen.push(cursor.valueUtf8());
      expect(seen).toEqual(downwards.map(String));
      expect(cursor.prev()).toBe(false);
      expect(cursor.seek(meta, key16(bound), 16, Infinity, true, 0) ? cursor.count() : 0).toBe(downwards.length);
    }
    scene.reader.unpin(0);
  });
});

describe('values of every length and alignment', () => {
  it('come back as fresh copies', () => {
    const scene = new Scene();
    for (let length = 0; length < 1100; length += length < 70 ? 1 : 13) {
      scene.put(Buffer.from(`${length}`), Buffer.from(Array.from({ length }, (_, at) => (at * 7 + length) & 0xff)));
    }
    scene.verify();
  });
});

describe('sweep', () => {
  it('works in slices and merges what deletes left thin', () => {
    const scene = new Scene({}, 32 * MIB);
    for (let index = 0; index < 3000; index++) scene.put(key16(index), Buffer.alloc(100, index));
    scene.snapshot();
    for (let index = 0; index < 3000; index++) if (index % 10 !== 0) scene.del(key16(index));
    scene.publish();
    expect(scene.tree.counts().cells).toBeGreaterThan(5000);
    scene.releaseSnapshot(0);
    const state = newSweep();
    let slices = 0;
    for (; !state.done; slices++) {
      scene.tree.sweep(state, 5);
      scene.publish();
    }
    expect(slices).toBeGreaterThan(5);
    expect(scene.tree.counts().cells).toBe(300);
    expect(scene.tree.counts().leafPages).toBeLessThan(25);
    scene.verify();
  });
});
