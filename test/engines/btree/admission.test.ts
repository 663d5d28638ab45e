/**
 * Large groups: what is admitted is applied, and takes no more than was said. Histories are random; the seed is in the name of the test.
 */
import { describe, expect, it } from 'vitest';
import { pagesByBytes } from '../../../dist/engines/btree/admission.js';
import { checkArena } from '../../../dist/engines/btree/check.js';
import { publishTrees } from '../../../dist/engines/btree/meta.js';
import { BTreeWriter } from '../../../dist/engines/btree/writer.js';
import { ArenaWriter, createArena } from '../../../dist/shared/memory/arena.js';

const MIB = 1 << 20;
const VALUE = Buffer.alloc(4096, 7);

function xorshift(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % below;
  };
}

/** Leaves just so many units free. */
function ballast(arena: ArenaWriter, free: number): void {
  while (arena.freeUnits() > free) arena.allocate(1);
}

interface Operation {
  key: Buffer;
  /** Undefined: a delete. */
  valueLength: number | undefined;
}

function apply(tree: BTreeWriter, operations: readonly Operation[], firstSeq: number): number {
  let seq = firstSeq;
  for (const { key, valueLength } of operations) {
    if (valueLength === undefined) tree.del(key, 0, key.length, seq++);
    else tree.put(key, 0, key.length, VALUE, 0, valueLength, seq++, 0);
  }
  return seq;
}

function needs(operations: readonly Operation[]): { bytes: number; largest: number } {
  let bytes = 0;
  let largest = 0;
  for (const { key, valueLength = 0 } of operations) {
    bytes += key.length + valueLength;
    largest = Math.max(largest, key.length + valueLength);
  }
  return { bytes, largest };
}

/** Keys that are unkind to a bound: common prefixes that end suddenly, runs, descents, one key again and again, deletes in between. */
const PATTERNS: Record<string, (random: (below: number) => number, index: number) => Operation> = {
  random: (random) => ({ key: Buffer.from(`k${random(1 << 30)}`), valueLength: random(120) }),
  ascending: (random, index) => ({ key: Buffer.from(`k${String(index).padStart(9, '0')}`), valueLength: random(60) }),
  descending: (random, index) => ({
    key: Buffer.from(`k${String(1e8 - index).padStart(9, '0')}`),
    valueLength: random(60),
  }),
  'prefixes that end suddenly': (random) => {
    const family = 'abcdefghij'[random(10)]!.repeat(150);
    const cut = random(4) === 0 ? random(150) : 150;
    return {
      key: Buffer.from(`${family.slice(0, cut)}${String.fromCharCode(97 + random(26))}${random(300)}`),
      valueLength: random(20),
    };
  },
  'leaves made and emptied': (random, index) => {
    const key = Buffer.from(`k${String(random(3000)).padStart(6, '0')}${index % 3}`);
    return { key, valueLength: random(3) === 0 ? undefined : random(200) };
  },
};

describe('a group that is admitted by its bytes', () => {
  for (const [name, pattern] of Object.entries(PATTERNS)) {
    for (const pageBytes of [4096, 16384]) {
      const seed = 77 + name.length + pageBytes;
      it(`is applied within the units it was told, after another: ${name}, pages of ${pageBytes}, seed ${seed}`, () => {
        const random = xorshift(seed);
        const arena = new ArenaWriter(createArena({ memoryBytes: 512 * MIB }));
        const tree = new BTreeWriter(arena, 0, { pageBytes });
        let seq = 1;
        for (const count of [3000, 300, 6000, 1000]) {
          const operations = Array.from({ length: count }, (_, index) => pattern(random, index));
          const { bytes, largest } = needs(operations);
          const said = tree.unitsNeeded(count, bytes, largest);
          expect(said).toBeLessThanOrEqual(tree.unitsNeeded(count, bytes));
          expect(tree.admits(count, bytes, false, largest)).toBe(true);
          const before = arena.usedUnits;
          let most = 0;
          for (const operation of operations) {
            seq = apply(tree, [operation], seq);
            most = Math.max(most, arena.usedUnits - before);
          }
          expect(most).toBeLessThanOrEqual(said);
          publishTrees(arena, seq);
          arena.reclaim();
          expect(tree.check()).toEqual([]);
        }
      });
    }
  }

  it('is applied where exactly that much memory is free', () => {
    for (const [name, pattern] of Object.entries(PATTERNS)) {
      const random = xorshift(4711);
      const arena = new ArenaWriter(createArena({ memoryBytes: 256 * MIB }));
      const tree = new BTreeWriter(arena, 0, { pageBytes: 4096 });
      let seq = apply(
        tree,
        Array.from({ length: 2000 }, (_, index) => pattern(random, index)),
        1,
      );
      publishTrees(arena, seq);
      arena.reclaim();
      const operations = Array.from({ length: 20_000 }, (_, index) => pattern(random, index));
      const { bytes, largest } = needs(operations);
      const said = tree.unitsNeeded(operations.length, bytes, largest);
      expect(said, name).toBeLessThan(tree.unitsNeeded(operations.length, bytes));
      ballast(arena, said - 1);
      expect(tree.admits(operations.length, bytes, false, largest), name).toBe(false);
      const free = arena.freeUnits();
      expect(free).toBe(said - 1);
      const more = new ArenaWriter(createArena({ memoryBytes: 256 * MIB }));
      const same = new BTreeWriter(more, 0, { pageBytes: 4096 });
      const again = xorshift(4711);
      seq = apply(
        same,
        Array.from({ length: 2000 }, (_, index) => pattern(again, index)),
        1,
      );
      publishTrees(more, seq);
      more.reclaim();
      ballast(more, said);
      expect(same.admits(operations.length, bytes, false, largest), name).toBe(true);
      seq = apply(same, operations, seq);
      publishTrees(more, seq);
      expect(same.check(), name).toEqual([]);
    }
  });
});

describe('before memory is called full', () => {
  it('what the group has made is packed', () => {
    for (const pageBytes of [4096, 8192]) {
      const random = xorshift(99);
      const arena = new ArenaWriter(createArena({ memoryBytes: 2000 * pageBytes }));
      const tree = new BTreeWriter(arena, 0, { pageBytes });
      const model = new Map<string, number>();
      let seq = 1;
      const put = (key: string): void => {
        tree.put(Buffer.from(key), 0, key.length, VALUE, 0, 100, seq, 0);
        model.set(key, seq++);
      };
      while (arena.freeUnits() > arena.totalUnits >> 2) put(`k${random(1 << 30)}`);
      // Leaves of a third to two thirds, which deletes leave as they are; what comes then goes elsewhere.
      for (const key of model.keys()) {
        if (random(5) < 2) continue;
        tree.del(Buffer.from(key), 0, key.length, seq++);
        model.delete(key);
      }
      const before = tree.metrics()['pageMerges']!;
      const leaves = tree.counts().leafPages;
      expect(() => {
        for (let index = 0; ; index++) put(`z${String(index).padStart(9, '0')}`);
      }).toThrow(expect.objectContaining({ code: 'ERR_MEMORY_FULL' }));
      expect(tree.metrics()['pageMerges']! - before).toBeGreaterThan(leaves / 10);
      const { liveKeyBytes, liveValueBytes, treeUnits } = tree.counts();
      expect((liveKeyBytes + liveValueBytes) / (treeUnits * 4096)).toBeGreaterThan(0.7);
      expect(tree.counts().liveEntries).toBe(model.size);
      expect(tree.check()).toEqual([]);
      for (const [key, version] of model) expect(tree.versionOf(Buffer.from(key), 0, key.length, 0)).toBe(version);
      publishTrees(arena, seq);
      expect(tree.check()).toEqual([]);
    }
  });

  it('published pages are left alone: readers are on them', () => {
    const random = xorshift(5);
    const arena = new ArenaWriter(createArena({ memoryBytes: 8 * MIB }));
    const tree = new BTreeWriter(arena, 0);
    let seq = 1;
    for (; arena.freeUnits() > 200; seq++) {
      const key = `k${random(1 << 30)}`;
      tree.put(Buffer.from(key), 0, key.length, VALUE, 0, 100, seq, 0);
      if (seq % 100 === 0) publishTrees(arena, seq);
    }
    publishTrees(arena, seq);
    const { pageMerges } = tree.metrics();
    const { leafPages } = tree.counts();
    expect(() => {
      for (;;) {
        const key = `k${random(1 << 30)}`;
        tree.put(Buffer.from(key), 0, key.length, VALUE, 0, 100, seq++, 0);
      }
    }).toThrow(expect.objectContaining({ code: 'ERR_MEMORY_FULL' }));
    expect(tree.counts().leafPages).toBeGreaterThanOrEqual(leafPages);
    expect(tree.metrics()['pageMerges']! - pageMerges!).toBeLessThan(leafPages / 10);
    expect(tree.check()).toEqual([]);
    publishTrees(arena, seq);
    expect(checkArena(arena)).toEqual([]);
  });
});

it('500,000 puts of 16 + 100 bytes fit an empty gigabyte, and 500,000 more beside them', () => {
  const arena = new ArenaWriter(createArena({ memoryBytes: 1024 * MIB }));
  const tree = new BTreeWriter(arena, 0);
  const key = Buffer.alloc(16, 'k');
  let seq = 1;
  for (let batch = 0; batch < 2; batch++) {
    expect(tree.admits(500_000, 500_000 * 124, false)).toBe(false);
    expect(tree.admits(500_000, 500_000 * 124, false, 116)).toBe(true);
    for (let index = 0; index < 500_000; index++) {
      key.writeUInt32BE(batch * 500_000 + index, 12);
      tree.put(key, 0, 16, VALUE, 0, 100, seq++, 0);
    }
    publishTrees(arena, seq);
  }
  expect(tree.counts().liveEntries).toBe(1_000_000);
  expect(checkArena(arena)).toEqual([]);
});

describe('the bound by bytes', () => {
  const empty = {
    cellBytesMax: 0,
    separatorBytesMax: 0,
    pageBytes: 4096,
    leafPages: 0,
    branchPages: 0,
    entries: 0,
    entryBytes: 0,
  };

  it('is a few times the pages that the cells fill', () => {
    const pages = pagesByBytes(empty, 500_000, 500_000 * 116, 116);
    const filled = (500_000 * 139) / 4096;
    expect(pages).toBeGreaterThan(2 * filled);
    expect(pages).toBeLessThan(4 * filled);
  });

  it('says nothing where cells take more than a quarter of a page', () => {
    expect(pagesByBytes(empty, 1000, 500_000, 1001)).toBe(Infinity);
    expect(pagesByBytes({ ...empty, cellBytesMax: 1500 }, 1000, 50_000, 50)).toBe(Infinity);
    expect(pagesByBytes({ ...empty, separatorBytesMax: 600 }, 1000, 50_000, 50)).toBe(Infinity);
    expect(pagesByBytes({ ...empty, pageBytes: 16384 }, 1000, 500_000, 1001)).toBeLessThan(1000);
  });
});
