/** The sorted array by itself: its order after any history, and a writer that dies between any two stores. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { NEXT_WORD, PageKind } from '../../../dist/engines/btree/page.js';
import { FIRST_PAGE_WORD } from '../../../dist/engines/cells/node.js';
import { PageList } from '../../../dist/engines/cells/page-list.js';
import { TOP_WORD } from '../../../dist/engines/array/pages.js';
import { SortedArray, type PageSource } from '../../../dist/engines/array/sorted-array.js';
import { LooseNodes, randomFrom } from '../rbtree/loose-nodes.js';

class Scene {
  readonly nodes: LooseNodes;
  array: SortedArray;
  readonly model = new Map<string, number>();

  readonly slotsMax: number | undefined;

  constructor(memoryBytes = 16 << 20, slotsMax?: number) {
    this.slotsMax = slotsMax;
    this.nodes = new LooseNodes(memoryBytes, 0);
    this.array = this.open();
  }

  open(): SortedArray {
    const { arena, descriptorUnit } = this.nodes;
    const list = new PageList(arena, FIRST_PAGE_WORD, NEXT_WORD);
    list.open(descriptorUnit, PageKind.Engine);
    const pages: PageSource = {
      allocatePage(units) {
        const unit = arena.allocate(units);
        arena.u8[0]![unit * 4096] = PageKind.Engine;
        list.add(unit);
        return unit;
      },
      retirePage(unit) {
        list.remove(unit);
        arena.retire(unit);
      },
      ownPages: () => [...list.units],
    };
    return (this.array = new SortedArray(arena, descriptorUnit, pages, this.slotsMax));
  }

  locate(key: string): number {
    return this.array.locate(Buffer.from(key), 0, Buffer.byteLength(key));
  }

  put(key: string): void {
    const found = this.locate(key);
    if (found !== (this.model.get(key) ?? 0)) throw new Error(`${key} is found at ${found}`);
    const node = this.nodes.make(key);
    this.array.prepare();
    if (found === 0) this.array.insert(node);
    else this.array.replace(node);
    this.model.set(key, node);
  }

  del(key: string): void {
    const found = this.locate(key);
    if (found !== (this.model.get(key) ?? 0)) throw new Error(`${key} is found at ${found}`);
    if (found === 0) return;
    this.array.remove();
    this.model.delete(key);
  }

  walk(side: 0 | 1): string[] {
    const keys: string[] = [];
    for (let node = this.array.edge(side); node !== 0; node = this.array.step(side === 0 ? 1 : 0)) {
      keys.push(this.nodes.keyOf(node));
      if (keys.length > this.model.size + 1) throw new Error('the walk does not end');
    }
    this.array.forgetPlace();
    return keys;
  }

  verify(): void {
    const problems: string[] = [];
    expect(this.array.check(problems)).toBe(this.model.size);
    expect(problems).toEqual([]);
    const keys = [...this.model.keys()].sort();
    expect(this.walk(0)).toEqual(keys);
    expect(this.walk(1)).toEqual(keys.reverse());
  }
}

/** Of the pages that hold blocks. */
function directoryUnits({ array, nodes }: Scene): number {
  let units = 0;
  for (let index = 0; index < array.directoryCount; index++) {
    units += nodes.arena.unitsOf(array.directoryUnit(index));
  }
  return units;
}

const keyOf = (index: number): string => `k${String(index).padStart(6, '0')}`;

describe('after any history', () => {
  const step = fc.record({ put: fc.boolean(), key: fc.nat(5000), run: fc.integer({ min: -400, max: 400 }) });
  it('the array holds the right keys in order', () => {
    fc.assert(
      fc.property(fc.array(step, { minLength: 20, maxLength: 60, size: 'max' }), (steps) => {
        const scene = new Scene();
        for (const { put, key, run } of steps) {
          for (let offset = 0; Math.abs(offset) <= Math.abs(run); offset += run < 0 ? -1 : 1) {
            if (put) scene.put(keyOf(key + offset));
            else scene.del(keyOf(key + offset));
          }
        }
        scene.verify();
        scene.nodes.die();
        scene.open();
        scene.verify();
      }),
      { numRuns: 15 },
    );
  });

  for (const [name, order] of [
    ['ascending', (index: number) => index],
    ['descending', (index: number) => 29_999 - index],
    ['shuffled', (index: number) => (index * 7919) % 30_000],
  ] as const) {
    it(`30,000 ${name} keys in and out again, and every page comes back`, () => {
      const scene = new Scene();
      for (let index = 0; index < 30_000; index++) scene.put(keyOf(order(index)));
      scene.verify();
      const { blocks } = scene.array;
      expect(blocks).toBeLessThan(name === 'shuffled' ? 60 : 31);
      for (let index = 0; index < 30_000; index++) if (index % 5 !== 0) scene.del(keyOf(index));
      scene.verify();
      expect(scene.array.blocks).toBeLessThan(blocks / 2);
      for (let index = 0; index < 30_000; index++) scene.del(keyOf(order(29_999 - index)));
      scene.verify();
      expect(scene.array.directoryCount).toBe(0);
      expect(scene.array.blocks).toBe(0);
    });
  }

  it('small pages split, merge, grow and go through three levels', () => {
    fc.assert(
      fc.property(fc.array(step, { minLength: 20, maxLength: 40, size: 'max' }), (steps) => {
        // Nothing is published, so no page that was replaced comes back.
        const scene = new Scene(128 << 20, 4);
        for (const { put, key, run } of steps) {
          const low = key % 700;
          for (let offset = 0; Math.abs(offset) <= Math.abs(run); offset += run < 0 ? -1 : 1) {
            if (put) scene.put(keyOf(low + offset));
            else scene.del(keyOf(low + offset));
          }
        }
        scene.verify();
        for (const key of scene.model.keys()) scene.del(key);
        scene.verify();
        expect(scene.array.blocks).toBe(0);
      }),
      { numRuns: 30 },
    );
  });
});

describe('a writer that dies', () => {
  class Killed extends Error {}

  it('leaves every entry in its place, whatever store was its last', () => {
    const seed = (Date.now() & 0xffff) | 1;
    console.log(`seed ${seed}`);
    const random = randomFrom(seed);
    const scene = new Scene(2 << 20, 4);
    let kills = 0;
    let directoriesMax = 0;
    for (let turn = 0; turn < 900; turn++) {
      const key = keyOf(random(400));
      const isPut = random(10) < (turn < 500 ? 8 : 1);
      if (isPut === scene.model.has(key)) continue;
      const bytes = Buffer.from(key);
      const node = isPut ? scene.nodes.make(key) : 0;
      const before = [...scene.model.keys()].sort();
      if (isPut) scene.model.set(key, node);
      else scene.model.delete(key);
      const after = [...scene.model.keys()].sort();
      // From the published memory each time, so that what an operation frees at once is free in each try.
      scene.nodes.die();
      scene.nodes.remember();
      for (let stores = 1; ; stores++) {
        scene.nodes.restore();
        scene.nodes.die();
        scene.open();
        let left = stores;
        scene.array.onStore = () => {
          if (--left === 0) throw new Killed();
        };
        try {
          expect(scene.array.locate(bytes, 0, bytes.length) === 0).toBe(isPut);
          scene.array.prepare();
          if (isPut) scene.array.insert(node);
          else scene.array.remove();
          break;
        } catch (error) {
          if (!(error instanceof Killed)) throw error;
        }
        kills++;
        scene.nodes.die();
        scene.open();
        const keys = scene.walk(0);
        if (keys.length === before.length) expect(keys).toEqual(before);
        else expect(keys).toEqual(after);
        const problems: string[] = [];
        expect(scene.array.check(problems)).toBe(keys.length);
        expect(problems).toEqual([]);
        // Nothing is lost for good: the next writer finds every unit that is not the array's free.
        scene.nodes.die();
        expect(scene.nodes.usedUnits).toBe(scene.open().blocks + directoryUnits(scene));
      }
      scene.array.onStore = undefined;
      scene.verify();
      directoriesMax = Math.max(directoriesMax, scene.array.directoryCount);
    }
    expect(kills).toBeGreaterThan(2000);
    expect(directoriesMax).toBeGreaterThan(1);
  });
});

it('without room for another block an insert changes nothing', () => {
  const scene = new Scene(1 << 20, 4);
  for (let index = 0; index < 100; index++) scene.put(keyOf(index * 10));
  const nodes = Array.from({ length: 300 }, (_, index) => scene.nodes.make(keyOf(index * 3 + 1)));
  while (scene.nodes.arena.freeUnits() > 0) scene.nodes.arena.allocate(1);
  let refused = 0;
  for (const [index, node] of nodes.entries()) {
    const key = keyOf(index * 3 + 1);
    if (scene.locate(key) !== 0) continue;
    try {
      scene.array.prepare();
      scene.array.insert(node);
      scene.model.set(key, node);
    } catch (error) {
      expect(error).toMatchObject({ code: 'ERR_MEMORY_FULL' });
      refused++;
      if (refused % 20 === 1) scene.verify();
    }
  }
  expect(refused).toBeGreaterThan(50);
  scene.verify();
});

it('slots, counts and pages that cannot be are refused', () => {
  const scene = new Scene(2 << 20, 4);
  for (let index = 0; index < 100; index++) scene.put(keyOf(index));
  const words = scene.nodes.arena.u32[0]!;
  const top = scene.nodes.descriptorUnit * 1024 + TOP_WORD;
  const directory = words[top + 1]! * 1024;
  const block = words[directory + 6]! * 1024;
  for (const [word, value] of [
    [top, 100_000],
    [top + 1, 0xffffffff],
    [top + 1, words[directory + 6]!],
    [directory, 0],
    [directory + 2, 0xffff0000],
    [directory + 2, 0],
    [directory + 6, 0x7fffffff],
    [directory + 6, 1],
    [block + 2, 0],
    [block + 6, 0],
    [block + 6, 0xffffffff],
  ] as const) {
    const before = words[word]!;
    words[word] = value;
    expect(() => {
      scene.array.forgetPlace();
      scene.locate(keyOf(0));
      for (let node = scene.array.edge(0); node !== 0; node = scene.array.step(1)) scene.locate(keyOf(0));
    }).toThrowError(expect.objectContaining({ code: 'ERR_CORRUPT' }));
    words[word] = before;
  }
  scene.verify();
});
