import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { checkArena } from '../../../dist/engines/btree/check.js';
import { loadImage, writeImage } from '../../../dist/engines/btree/image.js';
import { publishTrees, publishedSeqOf, treeCount, treeCounts } from '../../../dist/engines/btree/meta.js';
import { BTreeCursor } from '../../../dist/engines/btree/cursor.js';
import { BTreeReader } from '../../../dist/engines/btree/reader.js';
import { BTreeWriter } from '../../../dist/engines/btree/writer.js';
import { ArenaReader, ArenaWriter, createArena } from '../../../dist/shared/memory/arena.js';
import { Scene } from './support.js';

const MIB = 1 << 20;
/** Of every ninth entry, some of them with chains; some are over by the time that verify() reads at. */
const expiryOf = (index: number): number => (index % 9 === 5 ? 999_500 + index : 0);
const keyOf = (index: number): Buffer => Buffer.from(`key ${String(index).padStart(8, '0')}`);

function imageOf(arena: ArenaReader, meta: number): Buffer {
  const chunks: Buffer[] = [];
  writeImage(arena, meta, (chunk) => {
    expect(chunk.length).toBeLessThanOrEqual(256 * 1024);
    chunks.push(Buffer.from(chunk));
  });
  return Buffer.concat(chunks);
}

function load(bytes: Buffer, pieceBytes: number, memoryBytes = 32 * MIB): ArenaWriter {
  const arena = new ArenaWriter(createArena({ memoryBytes }));
  let at = 0;
  loadImage(arena, () => {
    if (at >= bytes.length) return undefined;
    const piece = bytes.subarray(at, at + pieceBytes);
    at += pieceBytes;
    return piece;
  });
  return arena;
}

function richScene(): Scene {
  const scene = new Scene({ order: 20 }, 32 * MIB);
  for (let index = 0; index < 900; index++)
    scene.put(keyOf(index), Buffer.alloc(index % 40 === 0 ? 20_000 + index : index % 97, index), expiryOf(index));
  scene.snapshot();
  for (let index = 0; index < 900; index += 2) scene.put(keyOf(index), Buffer.from('newer'));
  for (let index = 0; index < 900; index += 5) scene.del(keyOf(index));
  scene.publish();
  return scene;
}

describe('image', () => {
  it('brings back every version, count and sequence number, in chunks of any size', () => {
    const scene = richScene();
    const bytes = imageOf(scene.reader, scene.meta);
    for (const pieceBytes of [1, 7, 4096, 256 * 1024, 1 << 30]) {
      if (pieceBytes === 1 && bytes.length > 4 * MIB) continue;
      const loaded = Object.assign(Object.create(Object.getPrototypeOf(scene) as object) as Scene, scene);
      loaded.arena = load(bytes, pieceBytes);
      loaded.reader = new ArenaReader(loaded.arena.layout);
      loaded.tree = new BTreeWriter(loaded.arena, 0);
      loaded.cursor = new BTreeCursor(loaded.reader, 0, 0);
      loaded.find = new BTreeReader(loaded.reader, 0, 0);
      expect(publishedSeqOf(loaded.arena, loaded.arena.published())).toBe(scene.seq);
      expect({ ...loaded.tree.counts(), rootUnit: 0 }).toEqual({ ...scene.tree.counts(), rootUnit: 0 });
      const snapshots = Float64Array.from(scene.snapshots);
      loaded.tree.setSnapshots(snapshots, snapshots.length);
      loaded.verify();
    }
  });

  it('of a pinned version is not disturbed by writes that go on', () => {
    const scene = richScene();
    const quiet = imageOf(scene.reader, scene.meta);
    const pin = scene.arena.pinLong();
    const chunks: Buffer[] = [];
    let round = 0;
    writeImage(scene.reader, pin.metaUnit, (chunk) => {
      chunks.push(Buffer.from(chunk));
      for (let index = 0; index < 300; index++) scene.put(keyOf((round * 300 + index) % 1000), Buffer.alloc(50, round));
      scene.publish();
      scene.arena.reclaim();
      round++;
    });
    expect(round).toBeGreaterThan(1);
    expect(Buffer.concat(chunks).equals(quiet)).toBe(true);
    scene.arena.unpinLong(pin);
    scene.verify();
  });

  it('of several trees, and of none', () => {
    const arena = new ArenaWriter(createArena({ memoryBytes: 8 * MIB }));
    for (const index of [0, 2, 5]) {
      const tree = new BTreeWriter(arena, index, { order: 3 + index });
      for (let entry = 0; entry < 10 * index; entry++) tree.put(keyOf(entry), 0, 12, keyOf(index), 0, 12, entry + 1, 0);
    }
    const meta = publishTrees(arena, 99);
    const loaded = load(imageOf(arena, meta), 100);
    expect(treeCount(loaded, loaded.published())).toBe(6);
    expect(new BTreeWriter(loaded, 5).counts()).toMatchObject({ liveEntries: 50, order: 8 });
    expect(checkArena(loaded)).toEqual([]);
    const empty = load(imageOf(arena, 0), 100);
    expect(treeCount(empty, empty.published())).toBe(0);
    expect(publishedSeqOf(empty, empty.published())).toBe(0);
  });

  it('that does not fit fails with a code and leaves the arena empty', () => {
    const scene = richScene();
    const bytes = imageOf(scene.reader, scene.meta);
    const arena = new ArenaWriter(createArena({ memoryBytes: 256 * 1024 }));
    let given = false;
    expect(() => {
      loadImage(arena, () => (given ? undefined : ((given = true), bytes)));
    }).toThrow(expect.objectContaining({ code: 'ERR_MEMORY_FULL' }));
    expect(arena.usedUnits).toBe(8);
    expect(arena.published()).toBe(0);
  });

  it('of a later version is refused', () => {
    const scene = richScene();
    const bytes = imageOf(scene.reader, scene.meta);
    bytes[8] = 2;
    expect(() => load(bytes, 4096)).toThrow(expect.objectContaining({ code: 'ERR_FORMAT_VERSION' }));
  });

  it('cut anywhere is refused', () => {
    const scene = new Scene({ order: 4 });
    for (let index = 0; index < 40; index++) scene.put(keyOf(index), Buffer.alloc(index === 9 ? 9000 : 5));
    scene.publish();
    const bytes = imageOf(scene.reader, scene.meta);
    for (let length = 0; length < bytes.length; length += length < 200 ? 1 : 97) {
      expect(() => load(bytes.subarray(0, length), 4096, MIB)).toThrow(
        expect.objectContaining({ code: 'ERR_CORRUPT' }),
      );
    }
    expect(() => load(Buffer.concat([bytes, Buffer.from([0])]), 4096, MIB)).toThrow(
      expect.objectContaining({ code: 'ERR_CORRUPT' }),
    );
  });

  it('in which a cell claims a chain that is not there is refused', () => {
    const scene = new Scene({ order: 4 });
    for (let index = 0; index < 40; index++) scene.put(keyOf(index), Buffer.alloc(5));
    scene.publish();
    const bytes = imageOf(scene.reader, scene.meta);
    let claims = 0;
    for (let at = 0; at < bytes.length; at++) {
      const hostile = Buffer.from(bytes);
      hostile[at] = 2; // CellFlag.Overflow, wherever a cell's flags are
      let arena: ArenaWriter;
      try {
        arena = load(hostile, 4096, MIB);
      } catch (error) {
        if (String(error).includes('chain')) claims++;
        continue;
      }
      const problems = checkArena(arena).filter((problem) => problem.includes('chain'));
      expect(problems, `byte ${at}`).toEqual([]);
    }
    expect(claims).toBeGreaterThanOrEqual(40);
  });

  it('with any bytes changed loads sound pages or is refused', () => {
    const scene = new Scene({ order: 6 });
    for (let index = 0; index < 120; index++)
      scene.put(keyOf(index), Buffer.alloc(index % 30 === 9 ? 9000 : index % 50));
    scene.publish();
    const bytes = imageOf(scene.reader, scene.meta);
    let refused = 0;
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.nat(bytes.length - 1), fc.nat(255)), { minLength: 1, maxLength: 6 }),
        fc.boolean(),
        (changes, low) => {
          const hostile = Buffer.from(bytes);
          for (const [at, byte] of changes) hostile[low ? at % 4000 : at] = byte;
          let arena: ArenaWriter;
          try {
            arena = load(hostile, 5000, 2 * MIB);
          } catch (error) {
            expect(['ERR_CORRUPT', 'ERR_FORMAT_VERSION']).toContain((error as { code?: string }).code);
            refused++;
            return;
          }
          const cursor = new BTreeCursor(arena, 0, treeCounts(arena, arena.published(), 0).tag);
          let entries = 0;
          for (
            let more = cursor.seek(arena.published(), undefined, 0, Infinity, false, 0);
            more;
            more = cursor.next()
          ) {
            expect(cursor.copyValue().length).toBe(cursor.valueLength);
            entries++;
          }
          expect(entries).toBeLessThanOrEqual(120);
        },
      ),
      { numRuns: 600 },
    );
    expect(refused).toBeGreaterThan(50);
  });
});
