/** What is the hash table's own: buckets, collisions, the order of visits, sorted walks. The contract of all engines: test/engines/contract*.test.ts. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import '../../../dist/engines/built-in.js';
import { FIRST_BUCKETS, TABLE_SEED, bitsOf, bucketOf, reverseBits } from '../../../dist/engines/hash/format.js';
import { sortedKeys } from '../../../dist/engines/hash/key-sort.js';
import { HashWriter } from '../../../dist/engines/hash/writer.js';
import { hashBytes } from '../../../dist/shared/hash.js';
import { Random } from '../../../dist/shared/random.js';
import { EngineScene, hex, keyOf, newSeed } from '../contract-scene.js';

const FILE = 'hash/table.test.ts';

describe('buckets', () => {
  test('each hash has one bucket, and buckets in reversed order cover all hashes', () => {
    for (const buckets of [512, 513, 700, 1000, 1023, 1024, 1025, 5000]) {
      const seen = new Set<number>();
      for (let order = 0; order < 2 ** 32;) {
        const hash = reverseBits(order) | 0;
        const bucket = bucketOf(hash, buckets);
        expect(seen.has(bucket)).toBe(false);
        seen.add(bucket);
        const step = 2 ** (32 - bitsOf(hash, buckets));
        expect(bucketOf(reverseBits(order + step - 1) | 0, buckets)).toBe(bucket);
        order += step;
      }
      expect(seen.size).toBe(buckets);
    }
  });

  test('reversing bits twice is nothing', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 2 ** 32 - 1 }), (value) => {
        expect(reverseBits(reverseBits(value))).toBe(value);
        expect(reverseBits(value)).toBe(
          Number.parseInt([...value.toString(2).padStart(32, '0')].reverse().join(''), 2),
        );
      }),
    );
  });

  test('a split changes the bucket of its own keys only', () => {
    fc.assert(
      fc.property(fc.integer(), fc.integer({ min: FIRST_BUCKETS, max: 2 ** 28 }), (hash, buckets) => {
        const before = bucketOf(hash, buckets);
        const after = bucketOf(hash, buckets + 1);
        const source = buckets - 2 ** Math.floor(Math.log2(buckets));
        expect(after === before || (after === buckets && before === source)).toBe(true);
      }),
    );
  });

  test('there are three for two keys, over several pages of them, and the table is sound at every size', () => {
    const scene = new EngineScene('hash', { memoryBytes: 16 << 20 });
    const writer = scene.writer as HashWriter;
    let seq = 0;
    for (let keys = 0; keys < 6000;) {
      writer.beginGroup(seq, false);
      for (let count = 0; count < 97; count++, keys++) {
        const key = keyOf(keys);
        writer.put(key, 0, key.length, key, 0, key.length, ++seq, 0);
      }
      expect(writer.check()).toEqual([]);
      expect(writer.buckets).toBe(Math.max(FIRST_BUCKETS, Math.floor(((keys - 1) * 3) / 2) + 1));
    }
    expect(writer.metrics()).toMatchObject({ buckets: writer.buckets, bucketSplits: writer.buckets - FIRST_BUCKETS });
  });
});

describe('keys of one hash', () => {
  const pairs = collisions(6);

  test('are apart, are deleted apart, and survive the writer', () => {
    const scene = new EngineScene('hash');
    scene.group(() => {
      for (const pair of pairs) for (const key of pair) scene.put(key, Buffer.concat([key, key]));
    });
    scene.verify();
    scene.snapshot();
    scene.group(() => {
      for (const [first] of pairs) scene.del(first);
    });
    scene.verify();
    scene.die();
    scene.verify();
    scene.group(() => {
      for (const [first, second] of pairs) {
        scene.del(second);
        scene.put(first, Buffer.from('again'));
      }
    });
    scene.verify();
  });

  test('stand in the order of visits by their bytes', () => {
    const scene = new EngineScene('hash');
    scene.group(() => {
      for (const pair of pairs) for (const key of pair) scene.put(key, key);
    });
    const { writer } = scene;
    const whole = scene.visited(1000).lines;
    expect(scene.visited(1).lines).toEqual(whole);
    let position: Uint8Array | undefined;
    const passed: Buffer[] = [];
    do {
      for (const key of passed)
        expect(position !== undefined && writer.isBefore(key, 0, key.length, position)).toBe(true);
      position = writer.visitVersions(position, 1, (key, keyLength) =>
        passed.push(Buffer.from(key.subarray(0, keyLength))),
      );
    } while (position !== undefined);
  });
});

test('a visit shows every key that stays once, while the table grows between its slices', () => {
  const random = new Random(newSeed(FILE));
  const scene = new EngineScene('hash');
  const stays = new Set<string>();
  scene.group(() => {
    for (let index = 0; index < 700; index++) {
      scene.put(keyOf(index), keyOf(index));
      stays.add(hex(keyOf(index)));
    }
  });
  const seen = new Map<string, number>();
  let position: Uint8Array | undefined;
  let next = 700;
  do {
    position = scene.writer.visitVersions(position, random.between(1, 20), (key, keyLength) => {
      const name = hex(key.subarray(0, keyLength));
      seen.set(name, (seen.get(name) ?? 0) + 1);
    });
    scene.group(() => {
      for (let count = random.below(60); count > 0; count--) scene.put(keyOf(next++), Buffer.of(1));
    });
  } while (position !== undefined);
  for (const name of stays) expect(seen.get(name)).toBe(1);
  for (const count of seen.values()) expect(count).toBe(1);
  expect(next).toBeGreaterThan(2000);
});

describe('sorted walks', () => {
  test('a snapshot is copied once, whatever is written, and from the range that was set', () => {
    const scene = new EngineScene('hash');
    scene.group(() => {
      for (let index = 0; index < 500; index++) scene.put(keyOf(index), Buffer.of(index));
    });
    const snapshot = scene.snapshot();
    const { cursor, view } = scene;
    const walk = (from: Buffer | undefined, reverse: boolean, limit: number): string[] => {
      const keys: string[] = [];
      const metaUnit = view.pin(1);
      let more = cursor.seek(metaUnit, from, from?.length ?? 0, snapshot, reverse, scene.nowMs);
      for (; more && keys.length < limit; more = reverse ? cursor.prev() : cursor.next()) {
        const key = Buffer.alloc(cursor.keyLength);
        cursor.copyKey(key, 0);
        keys.push(hex(key));
      }
      cursor.release();
      view.unpin(1);
      return keys;
    };
    const named = (first: number, end: number): string[] =>
      Array.from({ length: end - first }, (_, index) => hex(keyOf(first + index)));
    cursor.setRange(keyOf(100), keyOf(300));
    expect(walk(undefined, false, 1000)).toEqual(named(100, 300));
    scene.group(() => {
      for (let index = 0; index < 500; index += 2) scene.del(keyOf(index));
      for (let index = 0; index < 3000; index++) scene.put(keyOf(10_000 + index), Buffer.of(1));
    });
    expect(walk(keyOf(150), false, 20)).toEqual(named(150, 170));
    expect(walk(keyOf(150), true, 20)).toEqual(named(131, 151).reverse());
    expect(walk(undefined, true, 3)).toEqual(named(297, 300).reverse());
    cursor.setRange(undefined, keyOf(5));
    expect(walk(undefined, false, 1000)).toEqual(named(0, 5));
  });

  test('byte strings come out as Buffer.compare sorts them', () => {
    const bytes = fc.oneof(
      fc.uint8Array({ maxLength: 12 }),
      fc.uint8Array({ maxLength: 9, max: 1 }),
      fc.integer({ min: 0, max: 5000 }).map((index) => keyOf(index)),
      fc.constant(new Uint8Array(0)),
    );
    fc.assert(
      fc.property(fc.array(bytes, { maxLength: 400 }), (keys) => {
        const offsets = new Float64Array(keys.length + 1);
        for (const [index, key] of keys.entries()) offsets[index + 1] = offsets[index]! + key.length;
        const order = sortedKeys(Buffer.concat(keys), offsets, keys.length);
        const sorted = keys.map((key) => hex(key)).sort();
        expect([...order].map((index) => hex(keys[index]!))).toEqual(sorted);
        expect(new Set(order).size).toBe(keys.length);
      }),
    );
  });
});

test('in a table without room for buckets keys are found in longer ones, and buckets come when there is room', () => {
  const scene = new EngineScene('hash', { memoryBytes: 512 * 1024 });
  const { arena } = scene;
  const writer = scene.writer as HashWriter;
  scene.group(() => {
    for (let index = 0; index < 300; index++) scene.put(keyOf(index), Buffer.alloc(20));
  });
  // Cells that are free, but no pages.
  scene.group(() => {
    for (let index = 300; index < 1500; index++) scene.put(keyOf(index), Buffer.alloc(20));
  });
  expect(writer.buckets).toBeGreaterThan(FIRST_BUCKETS);
  scene.group(() => {
    for (let index = 300; index < 1500; index++) scene.del(keyOf(index));
  });
  const buckets = writer.buckets;
  const pages: number[] = [];
  for (;;) {
    try {
      pages.push(arena.allocate(1));
    } catch {
      break;
    }
  }
  for (let index = 300; index < 1500; index += 10) {
    scene.group(() => {
      for (let count = 0; count < 10; count++) {
        if (writer.admits(1, 60, false)) scene.put(keyOf(index + count), Buffer.alloc(20));
      }
    });
  }
  scene.verify();
  for (const page of pages) arena.free(page);
  scene.group(() => {
    for (let index = 300; index < 2500; index++) scene.put(keyOf(index), Buffer.alloc(20));
  });
  expect(writer.buckets).toBeGreaterThan(buckets);
  scene.verify();
});

/** Pairs of keys of equal hash: among 400,000 there are about 18. */
function collisions(count: number): [Buffer, Buffer][] {
  const byHash = new Map<number, number>();
  const pairs: [Buffer, Buffer][] = [];
  const nameOf = (index: number): Buffer => Buffer.from(`c${index}`);
  for (let index = 0; pairs.length < count; index++) {
    const key = nameOf(index);
    const hash = hashBytes(key, 0, key.length, TABLE_SEED);
    const other = byHash.get(hash);
    if (other !== undefined) pairs.push([nameOf(other), key]);
    byHash.set(hash, index);
  }
  return pairs;
}
