import { Worker } from 'node:worker_threads';
import { describe, expect, test } from 'vitest';
import { toOwnerId } from '../../../dist/shared/memory/lock-owner.js';
import { BLOCK_BYTES_MAX, PageCache, createPageCache } from '../../../dist/shared/memory/page-cache.js';
import { Random } from '../../../dist/shared/random.js';

const ME = toOwnerId(1);
const MIB = 1 << 20;

function cacheOf(bytes: number): PageCache {
  return new PageCache(createPageCache({ bytes }), ME);
}

/** Every byte follows from the key, so a block proves itself. */
function blockOf(file: number, block: number, length: number): Buffer {
  const bytes = Buffer.alloc(length);
  for (let i = 0; i < length; i++) bytes[i] = (file * 31 + block * 7 + i * 13 + (i >>> 8)) & 0xff;
  return bytes;
}

const into = new Uint8Array(BLOCK_BYTES_MAX);

function isThere(cache: PageCache, file: number, block: number, length: number): boolean {
  const read = cache.read(file, block, into, 0);
  if (read === 0) return false;
  expect(read).toBe(length);
  expect(blockOf(file, block, length).equals(into.subarray(0, read))).toBe(true);
  return true;
}

describe('a page cache', () => {
  test('gives back what was put in, of any size, and nothing else', () => {
    const cache = cacheOf(2 * MIB);
    const lengths = [1, 31, 32, 4096, 5000, 32768, BLOCK_BYTES_MAX];
    lengths.forEach((length, i) => {
      expect(cache.insert(7, i, blockOf(7, i, length), 0, length)).toBe(true);
    });
    lengths.forEach((length, i) => {
      expect(isThere(cache, 7, i, length)).toBe(true);
    });
    expect(cache.read(8, 0, into, 0)).toBe(0);
    expect(cache.read(7, 100, into, 0)).toBe(0);
    expect(cache.insert(7, 50, into, 0, 0)).toBe(false);
    expect(cache.insert(7, 50, new Uint8Array(BLOCK_BYTES_MAX + 1), 0, BLOCK_BYTES_MAX + 1)).toBe(false);
  });

  test('a place, never 0, leads to the block as long as it is there, and to nothing else', () => {
    const cache = cacheOf(2 * MIB);
    for (let block = 0; block < 20; block++) {
      expect(cache.insert(3, block, blockOf(3, block, 1000), 0, 1000)).toBe(true);
      const { insertedPlace } = cache;
      expect(insertedPlace).not.toBe(0);
      expect(cache.locate(3, block)).toBe(1000);
      expect(cache.foundPlace).toBe(insertedPlace);
      expect(cache.confirm()).toBe(true);
      expect(cache.locate(3, block, 1000, insertedPlace)).toBe(1000);
      expect(cache.confirm()).toBe(true);
      // Of a block that is there already.
      expect(cache.insert(3, block, blockOf(3, block, 1000), 0, 1000)).toBe(true);
      expect(cache.insertedPlace).toBe(insertedPlace);
      expect(cache.locate(3, block + 100, 1000, insertedPlace)).toBe(0);
    }
  });

  test('copies into the middle of a buffer, and nothing when the buffer is too short', () => {
    const cache = cacheOf(MIB);
    cache.insert(1, 1, blockOf(1, 1, 100), 0, 100);
    const target = new Uint8Array(110);
    expect(cache.read(1, 1, target, 10)).toBe(100);
    expect(blockOf(1, 1, 100).equals(target.subarray(10))).toBe(true);
    expect(target.subarray(0, 10).every((byte) => byte === 0)).toBe(true);
    expect(cache.read(1, 1, target, 11)).toBe(0);
  });

  test('shows a block where it lies, and says whether it was there until the end', () => {
    const cache = cacheOf(256 * 1024);
    expect(cache.locate(1, 1)).toBe(0);
    cache.insert(1, 1, blockOf(1, 1, 4096), 0, 4096);
    expect(cache.locate(1, 1)).toBe(4096);
    const { foundBytes, foundWords, foundAt } = cache;
    expect(foundWords.buffer).toBe(foundBytes.buffer);
    expect(blockOf(1, 1, 4096).equals(foundBytes.subarray(foundAt, foundAt + 4096))).toBe(true);
    expect(cache.confirm()).toBe(true);
    expect(cache.stats()).toMatchObject({ hits: 1, misses: 1 });
    // Not read again for as long as the cache takes to forget it.
    expect(cache.locate(1, 1)).toBe(4096);
    for (let block = 2; block < 400; block++) cache.insert(1, block, blockOf(1, block, 4096), 0, 4096);
    expect(cache.confirm()).toBe(false);
    expect(cache.stats()).toMatchObject({ hits: 1, misses: 2 });
  });

  test('finds a block at the place where it was found before, and elsewhere when it is no longer there', () => {
    const random = new Random(7);
    const cache = cacheOf(256 * 1024);
    const places = new Map<number, number>();
    const lengthOf = (block: number): number => 100 + ((block * 97) % 3000);
    let again = 0;
    let moved = 0;
    for (let i = 0; i < 20_000; i++) {
      const block = Math.floor(random.nextFloat() ** 2 * 400);
      const length = lengthOf(block);
      const known = places.get(block) ?? 0;
      // Now and then another block's place, or none at all.
      const place = i % 10 === 0 ? Math.floor(random.nextFloat() * 2 ** 32) : (places.get((i * 7) % 400) ?? 0);
      const found = cache.locate(3, block, length, i % 3 === 0 ? place : known);
      if (found === 0) {
        cache.insert(3, block, blockOf(3, block, length), 0, length);
        continue;
      }
      const { foundBytes, foundAt, foundPlace } = cache;
      expect(found).toBe(length);
      expect(blockOf(3, block, length).equals(foundBytes.subarray(foundAt, foundAt + length))).toBe(true);
      expect(cache.confirm()).toBe(true);
      if (known === foundPlace) again++;
      else if (known !== 0) moved++;
      places.set(block, foundPlace);
    }
    expect(again).toBeGreaterThan(1000);
    expect(moved).toBeGreaterThan(100);
  });

  test('forgets a block on request and takes its new content', () => {
    const cache = cacheOf(MIB);
    cache.insert(1, 1, blockOf(1, 1, 4096), 0, 4096);
    cache.forget(1, 1);
    expect(cache.read(1, 1, into, 0)).toBe(0);
    cache.insert(1, 1, Buffer.alloc(4096, 9), 0, 4096);
    expect(cache.read(1, 1, into, 0)).toBe(4096);
    expect(into[100]).toBe(9);
  });

  test.each([1024, 4096])('holds nearly as many blocks of %i bytes as its own allow', (length) => {
    const count = (16 * MIB) / length;
    const cache = cacheOf(4 * MIB);
    for (let i = 0; i < count; i++) cache.insert(1, i, blockOf(1, i, length), 0, length);
    let held = 0;
    for (let i = 0; i < count; i++) if (isThere(cache, 1, i, length)) held++;
    expect(held).toBeGreaterThan((0.85 * 4 * MIB) / length);
    const stats = cache.stats();
    expect(stats.bytes).toBeLessThanOrEqual(4 * MIB);
    expect(stats.usedBytes).toBeGreaterThan(0.85 * 4 * MIB);
    expect(stats.insertions - stats.evictions).toBe(held);
    expect(stats.hits + stats.misses).toBe(count);
    expect(stats.hits).toBe(held);
  });

  test('keeps what is read again through a scan of ten times its size', () => {
    const cache = cacheOf(4 * MIB);
    const hot = 300;
    const touchHot = (): number => {
      let hits = 0;
      for (let i = 0; i < hot; i++) {
        if (isThere(cache, 1, i, 4096)) hits++;
        else cache.insert(1, i, blockOf(1, i, 4096), 0, 4096);
      }
      return hits;
    };
    for (let round = 0; round < 6; round++) touchHot();
    for (let i = 0; i < 10_240; i++) {
      if (cache.read(2, i, into, 0) === 0) cache.insert(2, i, blockOf(2, i, 4096), 0, 4096);
    }
    expect(touchHot()).toBeGreaterThan(0.9 * hot);
  });

  test('random keys and sizes never give wrong bytes', () => {
    const random = new Random(20261122);
    for (const bytes of [256 * 1024, MIB, 3 * MIB]) {
      const cache = cacheOf(bytes);
      const lengthOf = (block: number): number =>
        1 + (((block * 2654435761) >>> 0) % (block % 9 === 0 ? 40_000 : 5000));
      let hits = 0;
      for (let i = 0; i < 8000; i++) {
        const block = Math.floor(random.nextFloat() ** 3 * 600);
        const length = lengthOf(block);
        if (isThere(cache, 3, block, length)) hits++;
        else cache.insert(3, block, blockOf(3, block, length), 0, length);
        if (i % 97 === 0) {
          cache.forget(3, block);
          expect(cache.read(3, block, into, 0)).toBe(0);
        }
      }
      expect(hits).toBeGreaterThan(1000);
    }
  });

  test('a stripe whose holder died still answers, takes nothing, and works again once it is emptied', () => {
    const layout = createPageCache({ bytes: MIB });
    const cache = new PageCache(layout, ME);
    cache.insert(1, 1, blockOf(1, 1, 4096), 0, 4096);
    // As a thread leaves it that dies inside insert().
    const control = new Int32Array(layout.stripes[0]!);
    const lockWord = 16;
    Atomics.store(control, lockWord, 5);
    expect(isThere(cache, 1, 1, 4096)).toBe(true);
    expect(cache.insert(1, 2, blockOf(1, 2, 4096), 0, 4096)).toBe(false);
    expect(cache.stats().skipped).toBe(1);
    expect(PageCache.recover(layout, toOwnerId(4))).toBe(0);
    expect(PageCache.recover(layout, toOwnerId(5))).toBe(1);
    expect(cache.read(1, 1, into, 0)).toBe(0);
    expect(cache.insert(1, 2, blockOf(1, 2, 4096), 0, 4096)).toBe(true);
    expect(isThere(cache, 1, 2, 4096)).toBe(true);
    for (let i = 0; i < 1000; i++) cache.insert(1, i, blockOf(1, i, 4096), 0, 4096);
    expect(isThere(cache, 1, 999, 4096)).toBe(true);
  });

  test('sizes that make no sense are refused', () => {
    expect(() => createPageCache({ bytes: 1000 })).toThrow('262144 to');
    expect(() => createPageCache({ bytes: NaN })).toThrow('262144 to');
  });
});

test('threads that insert, read, forget and are killed in the middle never see a torn block', async () => {
  const layout = createPageCache({ bytes: MIB });
  const script = new URL('./cache-thread.mjs', import.meta.url);
  const control = new Int32Array(new SharedArrayBuffer(64));
  const hasDoneEnough = (owner: number): boolean => Atomics.load(control, owner) === 1;
  const start = (owner: number): Worker =>
    new Worker(script, { workerData: { layout, owner, seed: 1000 + owner, control } });
  const reports: { hits: number; inserted: number }[] = [];
  const stayers = [1, 2, 3].map((owner) => {
    const worker = start(owner);
    return new Promise<void>((resolve, reject) => {
      worker.on('message', (report: { hits: number; inserted: number }) => reports.push(report));
      worker.on('error', reject);
      worker.on('exit', () => {
        resolve();
      });
    });
  });
  let killed = 0;
  // One that has seen a wrong byte ends before it is told to.
  let isOver = false;
  void Promise.race(stayers).then(
    () => (isOver = true),
    () => (isOver = true),
  );
  const killer = (async () => {
    const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));
    const end = performance.now() + 2000;
    // On a slow machine longer, until there were enough deaths.
    while (!isOver && (performance.now() < end || killed <= 3 || ![1, 2, 3].every(hasDoneEnough))) {
      Atomics.store(control, 9, 0);
      const victim = start(9);
      while (!isOver && !hasDoneEnough(9)) await pause(5);
      await pause(Math.random() * 60);
      await victim.terminate();
      PageCache.recover(layout, toOwnerId(9));
      killed++;
    }
    Atomics.store(control, 0, 1);
  })();
  await Promise.all([...stayers, killer]);
  expect(reports).toHaveLength(3);
  expect(killed).toBeGreaterThan(3);
  for (const { hits, inserted } of reports) {
    expect(hits).toBeGreaterThan(100);
    expect(inserted).toBeGreaterThan(100);
  }
  const cache = new PageCache(layout, ME);
  expect(cache.insert(1, 4_000_000, blockOf(1, 4_000_000, 4096), 0, 4096)).toBe(true);
});
