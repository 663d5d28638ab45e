/** Which blocks a point read leaves in the cache. */
import { expect, test } from 'vitest';
import { LsmFiles } from '../../../../dist/engines/lsm/read/files.js';
import { MemEnv } from '../../../../dist/shared/env/mem-env.js';
import { createPageCache, type PageCache } from '../../../../dist/shared/memory/page-cache.js';
import { Random } from '../../../../dist/shared/random.js';
import { ArenaReader, createArena } from '../../../../dist/shared/memory/arena.js';

const BLOCK = new Uint8Array(4096);

function filesWith(cacheBytes: number, owner = 1): { files: LsmFiles; cache: PageCache } {
  const cache = createPageCache({ bytes: cacheBytes });
  const layout = createArena({ memoryBytes: 1 << 20 });
  const cold = { directory: '/', storeId: new Uint8Array(16), shard: 0, cache } as never;
  const files = LsmFiles.attach(new ArenaReader(layout), new MemEnv(), cold, owner);
  return { files, cache: files.cache! };
}

/** A read of a block: whether it was in the cache, and whether it went there. */
function read({ files, cache }: ReturnType<typeof filesWith>, block: number): { hit: boolean; kept: boolean } {
  if (cache.locate(7, block * 4096) > 0 && cache.confirm()) return { hit: true, kept: false };
  const kept = files.isWorthKeeping(7, block * 4096);
  if (kept) cache.insert(7, block * 4096, BLOCK, 0, BLOCK.length);
  return { hit: false, kept };
}

test('as long as there is room every block is kept', () => {
  const scene = filesWith(8 << 20);
  for (let block = 0; block < 1500; block++) expect(read(scene, block).kept).toBe(true);
});

test('in a full cache most blocks that are read once are not, and one that is read again at once is', () => {
  const scene = filesWith(4 << 20);
  const random = new Random(5);
  for (let index = 0; index < 5000; index++) read(scene, random.below(100_000));
  let kept = 0;
  for (let index = 0; index < 5000; index++) if (read(scene, random.below(100_000)).kept) kept++;
  expect(kept).toBeLessThan(500);
  for (let block = 200_000; block < 200_100; block++) {
    expect(read(scene, block)).toEqual({ hit: false, kept: false });
    expect(read(scene, block)).toEqual({ hit: false, kept: true });
    expect(read(scene, block).hit).toBe(true);
  }
});

test('what is read often fills the cache, whatever else is read once between', () => {
  const scene = filesWith(4 << 20);
  const random = new Random(9);
  let hits = 0;
  for (let index = 0; index < 60_000; index++) {
    const isHot = random.below(2) === 0;
    const { hit } = read(scene, isHot ? random.below(600) : 1000 + random.below(1_000_000));
    if (isHot && index > 30_000 && hit) hits++;
  }
  expect(hits / 15_000).toBeGreaterThan(0.9);
});

test('who may not insert keeps nothing', () => {
  expect(read(filesWith(4 << 20, 0), 1).kept).toBe(false);
});
