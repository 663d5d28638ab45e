/** Entries that expire: what readers, cursors and the writer make of them. The model test has random histories of them. */
import { afterEach, describe, expect, it, vi } from 'vitest';
import { publishTrees, treeCounts } from '../../../dist/engines/btree/meta.js';
import { BTreeWriter } from '../../../dist/engines/btree/writer.js';
import { newSweep } from '../../../dist/engines/engine.js';
import { OverflowWriter } from '../../../dist/engines/btree/overflow.js';
import { Scene } from './support.js';

const keyOf = (index: number): Buffer => Buffer.from(`k${String(index).padStart(5, '0')}`);
const NOW = 1_000_000;

afterEach(() => {
  vi.restoreAllMocks();
});

/** Every third entry expires at NOW + its index. */
function filled(entries = 300): Scene {
  const scene = new Scene();
  for (let index = 0; index < entries; index++) {
    scene.put(keyOf(index), Buffer.alloc(30, index), index % 3 === 0 ? NOW + index : 0);
  }
  scene.verify();
  return scene;
}

describe('an entry that expires', () => {
  it('is there until its time and absent from it on, for every way of reading', () => {
    const scene = filled();
    for (const time of [NOW - 1, NOW, NOW + 149, NOW + 150, NOW + 151, NOW + 1000]) {
      scene.nowMs = time;
      scene.verify();
    }
    expect(scene.tree.counts().liveEntries).toBe(300);
  });

  it('is judged by the clock when the caller gives no time, which is asked once per walk and not at all without expiry', () => {
    const scene = filled();
    const clock = vi.spyOn(Date, 'now').mockReturnValue(NOW + 150);
    const meta = scene.reader.pin(0);
    const key = keyOf(150);
    expect(scene.find.find(meta, key, key.length, Infinity, 0)).toBe(false);
    expect(clock).toHaveBeenCalledTimes(1);
    expect(scene.find.find(meta, keyOf(1), key.length, Infinity, 0)).toBe(true);
    expect(scene.find.expiresAt).toBe(0);
    expect(clock).toHaveBeenCalledTimes(1);
    let entries = 0;
    for (let more = scene.cursor.seek(meta, undefined, 0, Infinity, false, 0); more; more = scene.cursor.next())
      entries++;
    expect(entries).toBe(300 - 51);
    expect(clock).toHaveBeenCalledTimes(2);
    scene.cursor.release();
    scene.reader.unpin(0);
  });

  it('hides its older versions too, and a snapshot sees the version of its number as long as that lives', () => {
    const scene = new Scene();
    scene.put(keyOf(1), Buffer.from('for ever'));
    scene.snapshot();
    scene.put(keyOf(1), Buffer.from('for a while'), NOW + 10);
    scene.nowMs = NOW + 10;
    scene.verify();
    expect(scene.keysAt(Infinity)).toEqual([]);
    expect(scene.keysAt(1)).toHaveLength(1);
  });

  it('may have a value in a chain', () => {
    const scene = new Scene();
    const value = Buffer.alloc(70_000, 7);
    scene.put(keyOf(1), value, NOW + 5);
    const writer = new OverflowWriter(scene.arena);
    writer.begin(value.length);
    writer.append(value, 0, value.length);
    expect(scene.tree.putOverflow(keyOf(2), 0, 6, writer.finish(), ++scene.seq, NOW + 6)).toBe(false);
    scene.model.set(keyOf(2).toString('hex'), [{ seq: scene.seq, value, expiresAt: NOW + 6 }]);
    scene.verify();
    scene.nowMs = NOW + 5;
    scene.verify();
    scene.del(keyOf(1));
    scene.del(keyOf(2));
    scene.verify();
    expect(scene.tree.counts().overflowUnits).toBe(0);
  });

  it('is overwritten in place by one of the same size that expires too, and by no other', () => {
    // One leaf with room.
    const scene = filled(50);
    const inPlace = (): number => scene.tree.metrics()['overwritesInPlace']!;
    scene.tree.beginGroup(scene.seq, false);
    scene.put(keyOf(30), Buffer.alloc(30, 1), NOW + 7);
    expect(inPlace()).toBe(1);
    scene.put(keyOf(33), Buffer.alloc(30, 1));
    expect(inPlace()).toBe(1);
    scene.put(keyOf(31), Buffer.alloc(30, 1), NOW + 7);
    expect(inPlace()).toBe(1);
    scene.publish();
    scene.tree.endGroup();
    scene.tree.beginGroup(scene.seq, true);
    scene.put(keyOf(36), Buffer.alloc(30, 1), NOW + 7);
    expect(inPlace()).toBe(1);
    scene.verify();
    scene.nowMs = NOW + 7;
    scene.verify();
  });

  it('is told of in the row until the tree is empty, which a writer that takes over reads there', () => {
    const scene = new Scene();
    scene.put(keyOf(0), Buffer.from('x'));
    scene.publish();
    const mayExpire = (): boolean | undefined => treeCounts(scene.arena, scene.meta, 0).mayExpire;
    expect(mayExpire()).toBe(false);
    scene.put(keyOf(1), Buffer.from('x'), NOW);
    scene.publish();
    expect(mayExpire()).toBe(true);
    scene.tree = new BTreeWriter(scene.arena, 0);
    expect(scene.tree.counts().mayExpire).toBe(true);
    scene.del(keyOf(0));
    scene.del(keyOf(1));
    scene.put(keyOf(0), Buffer.from('x'));
    scene.publish();
    expect(mayExpire()).toBe(false);
    scene.put(keyOf(1), Buffer.from('x'), NOW);
    scene.tree.clear();
    publishTrees(scene.arena, scene.seq);
    scene.meta = scene.arena.published();
    expect(mayExpire()).toBe(false);
  });

  it('is bulk loaded as it is put', () => {
    const scene = new Scene();
    scene.tree.bulkLoad(
      Array.from({ length: 500 }, (_, index) => ({
        key: keyOf(index),
        value: Buffer.alloc(index === 9 ? 9000 : 20, index),
        seq: index + 1,
        expiresAt: index % 2 === 0 ? NOW + index : 0,
      })),
    );
    for (let index = 0; index < 500; index++) {
      const value = Buffer.alloc(index === 9 ? 9000 : 20, index);
      const expiresAt = index % 2 === 0 ? NOW + index : 0;
      scene.model.set(keyOf(index).toString('hex'), [{ seq: index + 1, value, expiresAt }]);
    }
    scene.seq = 500;
    scene.verify();
    scene.nowMs = NOW + 250;
    scene.verify();
  });

  it('stays through sweeps: only the store removes what has expired', () => {
    const scene = filled();
    scene.nowMs = NOW + 1000;
    const sweep = newSweep();
    while (!sweep.done) scene.tree.sweep(sweep, 10);
    expect(sweep.removedCells).toBe(0);
    expect(scene.tree.counts().liveEntries).toBe(300);
    scene.verify();
  });
});

describe('versionOf', () => {
  it('judges expiry at the time given, and says when what it found expires', () => {
    const scene = filled();
    const { tree } = scene;
    expect(tree.versionOf(keyOf(30), 0, 6, NOW + 29)).toBe(31);
    expect(tree.foundExpiresAt).toBe(NOW + 30);
    expect(tree.versionOf(keyOf(30), 0, 6, NOW + 30)).toBe(0);
    expect(tree.foundExpiresAt).toBe(0);
    expect(tree.versionOf(keyOf(30), 0, 6, 0)).toBe(31);
    expect(tree.versionOf(keyOf(31), 0, 6, NOW * 2)).toBe(32);
    expect(tree.foundExpiresAt).toBe(0);
  });
});
