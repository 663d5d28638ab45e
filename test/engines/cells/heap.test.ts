/** Memory of nodes: cells never overlap, wait for readers, go back to the arena; bounds are bounds; a successor finds what is in use. */
import { expect, test } from 'vitest';
import '../../../dist/engines/built-in.js';
import { publishTrees } from '../../../dist/engines/btree/meta.js';
import { CellHeap, NODE_BYTES_MAX } from '../../../dist/engines/cells/heap.js';
import { markNodePages, startDescriptor } from '../../../dist/engines/cells/node.js';
import { ArenaReader, ArenaWriter, HEADER_UNITS, createArena } from '../../../dist/shared/memory/arena.js';
import { ConcordError } from '../../../dist/shared/errors.js';
import { Random } from '../../../dist/shared/random.js';
import { newSeed } from '../contract-scene.js';

const FILE = 'cells/heap.test.ts';
const CODE = 9;

interface Scene {
  arena: ArenaWriter;
  heap: CellHeap;
  descriptor: number;
  publish: () => void;
}

function newScene(memoryBytes = 16 << 20): Scene {
  const arena = new ArenaWriter(createArena({ memoryBytes }));
  publishTrees(arena, 0);
  const descriptor = arena.allocate(1);
  startDescriptor(arena, descriptor, CODE, false);
  const heap = new CellHeap(arena);
  heap.start(descriptor);
  return {
    arena,
    heap,
    descriptor,
    publish: () => {
      publishTrees(arena, 0);
      arena.reclaim();
    },
  };
}

/** Bytes [start, end) of the arena. */
function extent(address: number, bytes: number): [number, number] {
  return [(address >>> 0) * 8, (address >>> 0) * 8 + bytes];
}

test('cells of any size lie in slabs, apart from each other, and all memory goes back', () => {
  const random = new Random(newSeed(FILE));
  const { arena, heap, publish } = newScene();
  const used = arena.usedUnits;
  const cells = new Map<number, number>();
  for (let round = 0; round < 300; round++) {
    for (let count = random.below(40); count > 0; count--) {
      const bytes = random.chance(0.05) ? random.between(1, NODE_BYTES_MAX) : random.between(1, 400);
      cells.set(heap.allocate(bytes), bytes);
    }
    for (const address of cells.keys()) {
      if (!random.chance(round < 150 ? 0.1 : 0.3)) continue;
      if (random.chance(0.5)) heap.retire(address);
      else heap.free(address);
      cells.delete(address);
    }
    if (random.chance(0.7)) publish();
    if (random.chance(0.3)) heap.drain();
    if (round % 10 === 0) {
      expect(heap.check(cells.size)).toEqual([]);
      const extents = [...cells].map(([address, bytes]) => extent(address, bytes)).sort((a, b) => a[0] - b[0]);
      for (const [index, [start, end]] of extents.entries()) {
        expect(start).toBeGreaterThanOrEqual(HEADER_UNITS * 4096);
        expect(end).toBeLessThanOrEqual(extents[index + 1]?.[0] ?? Infinity);
        expect(start >>> 15).toBe((end - 1) >>> 15);
      }
    }
  }
  for (const address of cells.keys()) heap.retire(address);
  publish();
  heap.drain();
  expect(heap.check(0)).toEqual([]);
  expect([heap.slabUnits, heap.waitingCells, arena.usedUnits]).toEqual([0, 0, used]);
});

test('many cells of a size take at most 8 % more than they are, above 128 bytes', () => {
  for (const bytes of [129, 136, 200, 257, 300, 513, 700, 1025, 2000, 2100, 4100, 6200]) {
    const { heap } = newScene(64 << 20);
    const count = Math.floor((8 << 20) / bytes);
    for (let index = 0; index < count; index++) heap.allocate(bytes);
    expect([bytes, (heap.slabUnits * 4096) / (count * bytes)]).toSatisfy(
      ([size, factor]: number[]) => factor! < (size! < 1500 ? 1.08 : 1.25),
    );
  }
});

test('a few cells take little: one unit for each size', () => {
  const { heap } = newScene(1 << 30);
  heap.allocate(80);
  heap.allocate(80);
  heap.allocate(200);
  expect(heap.slabUnits).toBe(2);
});

test('a retired cell is used again only when readers that could stand on it have left', () => {
  const { arena, heap, publish } = newScene();
  const reader = new ArenaReader(arena.layout);
  const kept = heap.allocate(80);
  const first = heap.allocate(80);
  publish();
  reader.pin(1);
  heap.retire(first);
  publish();
  heap.drain();
  expect(heap.allocate(80)).not.toBe(first);
  reader.unpin(1);
  reader.pin(2);
  publish();
  heap.drain();
  expect(heap.allocate(80)).toBe(first);
  expect(heap.check(3)).toEqual([]);
  expect(kept).not.toBe(first);
});

test('what unitsNeeded() and unitsNeededAtLeast() tell is never exceeded', () => {
  const random = new Random(newSeed(FILE));
  for (let round = 0; round < 200; round++) {
    const { arena, heap, publish } = newScene(random.chance(0.5) ? 2 << 20 : 64 << 20);
    for (let count = random.below(2000); count > 0; count--) {
      const address = heap.allocate(random.between(1, random.chance(0.1) ? 700 : 200));
      if (random.chance(0.3)) heap.retire(address);
    }
    publish();
    heap.drain();
    const largest = random.pick([40, 300, 3000, 6300]);
    const sizes = Array.from({ length: random.between(1, 80) }, () => random.between(1, largest));
    const bytes = sizes.reduce((sum, size) => sum + size, 0);
    const least = heap.unitsNeededAtLeast(sizes.length, bytes);
    const bound = heap.unitsNeeded(sizes.length, bytes);
    expect(least).toBeLessThanOrEqual(bound);
    const before = arena.usedUnits;
    try {
      for (const size of sizes) heap.allocate(size);
      expect(arena.usedUnits - before).toBeLessThanOrEqual(least);
    } catch (error) {
      expect((error as ConcordError).code).toBe('ERR_MEMORY_FULL');
    }
  }
});

test('a successor takes over what is marked; the rest is free once readers of the dead writer have left', () => {
  const random = new Random(newSeed(FILE));
  const { arena, heap, descriptor, publish } = newScene();
  const kept: number[] = [];
  for (let count = 0; count < 3000; count++) {
    const address = heap.allocate(random.between(10, random.chance(0.02) ? 5000 : 300));
    if (random.chance(0.4)) kept.push(address);
    else if (random.chance(0.5)) heap.retire(address);
  }
  publish();
  const reader = new ArenaReader(arena.layout);
  reader.pin(3);
  const successor = ArenaWriter.adopt(arena.layout, (view, metaUnit, mark) => {
    mark(metaUnit, 1);
    markNodePages(view, descriptor, CODE, mark);
  });
  const adopted = new CellHeap(successor);
  adopted.beginAdoption(descriptor);
  for (const address of kept) adopted.mark(address);
  expect(() => {
    adopted.mark(kept[0]!);
  }).toThrow(/two ways/);
  expect(() => {
    adopted.mark(kept[0]! + 1);
  }).toThrow(/no cell/);
  expect(() => {
    adopted.mark(0);
  }).toThrow(/no cell/);
  adopted.endAdoption();
  expect(adopted.check(kept.length)).toEqual([]);
  const waiting = adopted.waitingCells;
  publishTrees(successor, 0);
  successor.reclaim();
  adopted.drain();
  expect(adopted.waitingCells).toBe(waiting);
  reader.unpin(3);
  publishTrees(successor, 0);
  successor.reclaim();
  adopted.drain();
  expect(adopted.waitingCells).toBe(0);
  expect(adopted.check(kept.length)).toEqual([]);
  for (const address of kept) adopted.free(address);
  expect(adopted.slabUnits).toBe(0);
});

test('a heap that is destroyed gives its pages back', () => {
  const { arena, heap, publish } = newScene();
  const used = arena.usedUnits;
  for (let count = 0; count < 5000; count++) {
    const address = heap.allocate(1 + (count % 500));
    if (count % 3 === 0) heap.retire(address);
  }
  publish();
  heap.destroy();
  publish();
  expect(arena.usedUnits).toBe(used);
});
