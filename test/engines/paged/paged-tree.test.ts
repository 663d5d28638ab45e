import { describe, expect, test } from 'vitest';
import { writeImage } from '../../../dist/engines/btree/image.js';
import { checkArena } from '../../../dist/engines/btree/check.js';
import { newSweep } from '../../../dist/engines/engine.js';
import { FaultEnv } from '../../../dist/shared/env/fault-env.js';
import { MemEnv } from '../../../dist/shared/env/mem-env.js';
import { Random } from '../../../dist/shared/random.js';
import { failure, overwrite, readFile } from '../wal/wal-scene.js';
import { DIRECTORY, PagedScene, type PagedOptions } from './support.js';

const KIB = 1024;

const keyOf = (n: number): Buffer => Buffer.from(`key-${String(n).padStart(7, '0')}`);
const valueOf = (n: number, length: number): Buffer => Buffer.alloc(length, `${n}.`);

/** Puts [from, to), publishing every `group` entries as a store does. */
function fill(scene: PagedScene, from: number, to: number, length: number, group = 50): void {
  for (let n = from; n < to; n++) {
    scene.put(keyOf(n), valueOf(n, length));
    if ((n - from) % group === group - 1) scene.publish();
  }
  scene.publish();
}

describe('a tree with a budget', () => {
  test('keeps to it while it grows to many times its size, and gives back everything', () => {
    const scene = new PagedScene({ budgetBytes: 256 * KIB });
    let most = 0;
    for (let n = 0; n < 4000; n += 100) {
      fill(scene, n, n + 100, 400, 50);
      most = Math.max(most, scene.residentBytes);
    }
    expect(scene.coldBytes).toBeGreaterThan(1200 * KIB);
    expect(most).toBeLessThanOrEqual(256 * KIB);
    expect(scene.arena.usedUnits * 4096).toBeLessThan(512 * KIB);
    scene.verify();
  });

  test('a small one never makes a file', () => {
    const scene = new PagedScene({ budgetBytes: 256 * KIB });
    fill(scene, 0, 300, 400);
    scene.checkpoint();
    expect(scene.env.list(DIRECTORY)).toEqual([]);
    scene.reopen();
    scene.verify();
  });

  test('leaves that are read stay, leaves that nobody reads go', () => {
    const scene = new PagedScene({ budgetBytes: 512 * KIB });
    fill(scene, 0, 4000, 400);
    const hot = Array.from({ length: 200 }, (_, i) => keyOf(i * 3));
    const readHot = (): void => {
      const meta = scene.reader.pin(0);
      for (const key of hot) expect(scene.find.find(meta, key, key.length, Infinity, 0)).toBe(true);
      scene.reader.unpin(0);
    };
    // Into memory by a writer's look, then kept by readers' looks while others come and go.
    for (const [i, key] of hot.entries()) {
      scene.tree.versionOf(key, 0, key.length, 0);
      if (i % 20 !== 19) continue;
      scene.publish();
      readHot();
    }
    for (let n = 2000; n < 3000; n += 20) {
      readHot();
      fill(scene, n, n + 20, 400);
    }
    const faults = scene.tree.metrics()['pageFaults']!;
    for (const key of hot) scene.tree.versionOf(key, 0, key.length, 0);
    expect(scene.tree.metrics()['pageFaults']! - faults).toBeLessThan(8);
  });

  test('long values go to the file with their leaves, and are read in pieces from there', () => {
    const scene = new PagedScene({ budgetBytes: 256 * KIB, cacheBytes: 512 * KIB });
    for (let n = 0; n < 120; n++) {
      scene.put(keyOf(n), valueOf(n, n % 3 === 0 ? 100_000 + n : 3000));
      scene.publish();
    }
    expect(scene.residentBytes).toBeLessThanOrEqual(256 * KIB);
    expect(scene.coldBytes).toBeGreaterThan(3500 * KIB);
    scene.verify();
    const key = keyOf(60);
    const meta = scene.reader.pin(0);
    expect(scene.find.find(meta, key, key.length, Infinity, 0)).toBe(true);
    const pieces = Buffer.alloc(scene.find.valueLength);
    for (let at = 0; at < pieces.length; at += 7001) scene.find.readValue(pieces, at, at, 7001);
    scene.reader.unpin(0);
    expect(pieces.equals(valueOf(60, 100_060))).toBe(true);
    for (let n = 0; n < 120; n += 2) scene.del(keyOf(n));
    for (let n = 1; n < 120; n += 4) scene.put(keyOf(n), valueOf(n, 50_000));
    scene.verify();
    scene.checkpoint();
    scene.reopen();
    scene.verify();
    scene.adopt();
    scene.verify();
    for (let n = 0; n < 120; n++) scene.del(keyOf(n));
    scene.verify();
    expect(scene.tree.counts()).toMatchObject({ overflowPages: 0, overflowUnits: 0, treeUnits: 0, height: 0 });
    scene.checkpoint();
    expect(scene.env.list(DIRECTORY).length).toBeLessThanOrEqual(1);
  });

  test('a root leaf with long values is captured, and comes back', () => {
    const scene = new PagedScene({ budgetBytes: 128 * KIB });
    for (let n = 0; n < 200; n++) scene.put(keyOf(n), valueOf(n, 3000));
    scene.publish();
    for (let n = 3; n < 200; n++) scene.del(keyOf(n));
    scene.publish();
    const sweep = newSweep();
    while (!sweep.done) scene.tree.sweep(sweep, 10);
    scene.publish();
    for (let n = 0; n < 3; n++) scene.put(keyOf(n), valueOf(n + 1, 9000));
    scene.publish();
    expect(scene.tree.counts()).toMatchObject({ height: 1, isPaged: true });
    scene.checkpoint();
    scene.verify();
    scene.reopen();
    expect(scene.tree.counts()).toMatchObject({ height: 1, isPaged: true });
    scene.put(keyOf(1), valueOf(5, 20_000));
    scene.verify();
    scene.checkpoint();
    scene.reopen();
    scene.verify();
  });

  test('a checkpoint writes what changed and nothing else', () => {
    const scene = new PagedScene({ budgetBytes: 256 * KIB });
    fill(scene, 0, 3000, 400);
    scene.checkpoint();
    const written = (): number => scene.tree.metrics()['pagesWritten']!;
    let before = written();
    scene.checkpoint();
    expect(written() - before).toBe(0);
    before = written();
    scene.put(keyOf(2500), valueOf(1, 400));
    scene.checkpoint();
    expect(written() - before).toBe(scene.tree.counts().height);
  });

  test('the file does not grow without end under overwrites and checkpoints', () => {
    const scene = new PagedScene({ budgetBytes: 256 * KIB });
    const random = new Random(5);
    fill(scene, 0, 2000, 400);
    scene.checkpoint();
    const sizes: number[] = [];
    for (let round = 0; round < 10; round++) {
      for (let i = 0; i < 700; i++) {
        scene.put(keyOf(random.below(2000)), valueOf(random.below(100), 400));
        if (i % 50 === 49) scene.publish();
      }
      scene.checkpoint();
      sizes.push(scene.tree.metrics()['pageFileBytes']!);
    }
    expect(Math.max(...sizes.slice(5))).toBeLessThanOrEqual(1.3 * Math.max(...sizes.slice(2, 5)));
    scene.verify();
  });

  test('a file that a cleared tree leaves behind goes with the next checkpoint', () => {
    const scene = new PagedScene({ budgetBytes: 128 * KIB });
    fill(scene, 0, 2000, 400);
    scene.checkpoint();
    expect(scene.env.list(DIRECTORY)).toEqual(['tree-00001.pages']);
    scene.tree.clear();
    scene.model.clear();
    scene.publish();
    fill(scene, 0, 2000, 300);
    expect(scene.env.list(DIRECTORY)).toEqual(['tree-00001.pages', 'tree-00002.pages']);
    scene.checkpoint();
    expect(scene.env.list(DIRECTORY)).toEqual(['tree-00002.pages']);
    scene.reopen();
    scene.verify();
    scene.tree.destroy();
    scene.publish();
    scene.checkpoint();
    expect(scene.env.list(DIRECTORY)).toEqual([]);
  });
});

describe('while a checkpoint is being written', () => {
  test('a tree with a file keeps to its budget', () => {
    const scene = new PagedScene({ budgetBytes: 256 * KIB });
    fill(scene, 0, 2000, 400);
    const random = new Random(9);
    const pin = scene.arena.pinLong();
    for (let i = 0; i < 3000; i++) {
      scene.put(keyOf(random.below(2000)), valueOf(i, 400));
      if (i % 50 === 49) scene.publish();
    }
    expect(scene.arena.usedUnits * 4096).toBeLessThan(700 * KIB);
    scene.arena.unpinLong(pin);
    scene.verify();
  });

  test('a tree without a file gets none, and the image has all of it', () => {
    const scene = new PagedScene({ budgetBytes: 64 * KIB });
    fill(scene, 0, 100, 400);
    const pin = scene.arena.pinLong();
    const { model, seq } = scene;
    const before = new Map([...model].map(([key, versions]) => [key, [...versions]]));
    fill(scene, 50, 500, 400);
    expect(scene.env.list(DIRECTORY)).toEqual([]);
    const image: Uint8Array[] = [];
    writeImage(scene.reader, pin.metaUnit, (chunk) => image.push(chunk.slice()));
    scene.arena.unpinLong(pin);
    fill(scene, 500, 600, 400);
    expect(scene.env.list(DIRECTORY)).toEqual(['tree-00001.pages']);
    scene.verify();
    scene.reopen(scene.env, { image, roots: [] });
    model.clear();
    for (const [key, versions] of before) model.set(key, versions);
    scene.seq = seq;
    scene.verify();
  });
});

describe('an end', () => {
  test('after a checkpoint that was not finished the one before is opened, whatever was written since', () => {
    const scene = new PagedScene({ budgetBytes: 128 * KIB });
    const random = new Random(77);
    fill(scene, 0, 2000, 400);
    for (let round = 0; round < 6; round++) {
      scene.checkpoint();
      const before = structuredClone(scene.model);
      const { seq } = scene;
      for (let i = 0; i < 800; i++) {
        const key = keyOf(random.below(2200));
        if (random.chance(0.3)) scene.del(key);
        else scene.put(key, valueOf(i, 100 + random.below(500)));
        if (i % 30 === 29) scene.publish();
        if (i === 400 && round % 2 === 0) scene.checkpoint(false);
      }
      scene.reopen((scene.env as MemEnv).crash(new Random(round), 'random'));
      scene.model.clear();
      for (const [key, versions] of before) {
        scene.model.set(
          key,
          versions.map((version) => ({
            ...version,
            value: version.value === undefined ? undefined : Buffer.from(version.value),
          })),
        );
      }
      scene.seq = seq;
      scene.verify();
    }
  });

  test('of the writer between any two groups leaves the published tree', () => {
    const scene = new PagedScene({ budgetBytes: 128 * KIB, cacheBytes: 256 * KIB });
    const random = new Random(78);
    fill(scene, 0, 2000, 400);
    for (let round = 0; round < 6; round++) {
      for (let i = 0; i < 400; i++) {
        const key = keyOf(random.below(2200));
        if (random.chance(0.4)) scene.del(key);
        else scene.put(key, valueOf(i, 100 + random.below(500)));
        if (i % 30 === 29) scene.publish();
        if (i === 200) scene.checkpoint(round % 3 !== 0);
      }
      scene.publish();
      // Work that is never published.
      for (let i = 0; i < 20; i++) {
        const key = keyOf(5000 + i);
        scene.tree.put(key, 0, key.length, key, 0, key.length, scene.seq + 1 + i, 0);
        scene.tree.del(keyOf(i), 0, 11, scene.seq + 100 + i);
      }
      scene.adopt();
      scene.verify();
    }
    scene.checkpoint();
    scene.reopen();
    scene.verify();
  });
});

describe('failing files', () => {
  test('while the disk is full leaves stay in memory, and go when there is room again', () => {
    const env = new FaultEnv(new MemEnv());
    const scene = new PagedScene({ budgetBytes: 128 * KIB, env });
    fill(scene, 0, 1000, 400);
    const rule = env.addRule({ operation: 'write', error: 'ENOSPC' });
    fill(scene, 1000, 2000, 400);
    expect(scene.residentBytes).toBeGreaterThan(128 * KIB);
    expect(failure(() => scene.checkpoint()).code).toBe('ERR_DISK_FULL');
    scene.arena.longPins().forEach((pin) => {
      scene.arena.unpinLong(pin);
    });
    scene.verify();
    rule.remove();
    for (let i = 0; i < 120; i++) fill(scene, 2000 + i * 10, 2010 + i * 10, 400);
    expect(scene.residentBytes).toBeLessThanOrEqual(128 * KIB);
    scene.checkpoint();
    scene.reopen();
    scene.verify();
  });

  test('a damaged page is named by file and offset, and costs its own keys only', () => {
    const scene = new PagedScene({ budgetBytes: 128 * KIB });
    fill(scene, 0, 1500, 400);
    scene.checkpoint();
    const path = `${DIRECTORY}/tree-00001.pages`;
    const size = readFile(scene.env, path).length;
    const offset = 20 * 4096;
    expect(size).toBeGreaterThan(offset + 4096);
    overwrite(scene.env, path, offset + 700, Buffer.from('damage'));
    const meta = scene.reader.pin(0);
    let damaged = 0;
    for (let n = 0; n < 1500; n++) {
      const key = keyOf(n);
      try {
        expect(scene.find.find(meta, key, key.length, Infinity, 0)).toBe(true);
        expect(scene.find.copyValue().equals(valueOf(n, 400))).toBe(true);
      } catch (error) {
        expect(error).toMatchObject({ code: 'ERR_CORRUPT', details: { file: path, offset } });
        damaged++;
      }
    }
    scene.reader.unpin(0);
    expect(damaged).toBeGreaterThan(3);
    expect(damaged).toBeLessThan(12);
    expect(scene.tree.check().filter((problem: string) => problem.includes(`${path} at ${offset}`))).toHaveLength(1);
  });
});

describe('random life', () => {
  const shapes: (PagedOptions & { name: string; values: (n: number) => number; keys: number })[] = [
    { name: 'small entries', budgetBytes: 64 * KIB, keys: 2000, values: (n) => n % 120 },
    { name: 'with a cache', budgetBytes: 64 * KIB, cacheBytes: 256 * KIB, keys: 1500, values: (n) => n % 300 },
    { name: 'order 4', order: 4, budgetBytes: 128 * KIB, keys: 400, values: (n) => n % 50 },
    { name: '16 KiB pages', pageBytes: 16384, budgetBytes: 256 * KIB, keys: 800, values: (n) => (n * 37) % 3000 },
    { name: 'all sizes', budgetBytes: 128 * KIB, keys: 300, values: (n) => [10, 900, 2500, 6000, 40_000][n % 5]! + n },
    { name: 'adaptive', pageBytes: 'adaptive', budgetBytes: 128 * KIB, keys: 900, values: (n) => (n * 7) % 1500 },
  ];
  for (const { name, values, keys, ...options } of shapes) {
    test(`${name}: equal to the model through checkpoints, reopening and deaths`, () => {
      const seed = 4000 + name.length;
      const random = new Random(seed);
      const scene = new PagedScene({ ...options, memoryBytes: 32 << 20 });
      const saved: { model: typeof scene.model; seq: number }[] = [];
      const copyModel = (): typeof scene.model => new Map([...scene.model].map(([key, list]) => [key, [...list]]));
      for (let step = 0; step < 1500; step++) {
        const choice = random.nextFloat();
        const key = keyOf(random.below(keys));
        if (choice < 0.6) {
          const expiresAt = random.chance(0.05) ? scene.nowMs + random.below(20) : 0;
          scene.put(key, valueOf(step, values(random.below(10_000))), expiresAt);
        } else if (choice < 0.85) scene.del(key);
        else if (choice < 0.93) scene.publish();
        else if (choice < 0.94) scene.snapshot();
        else if (choice < 0.955 && scene.snapshots.length > 0)
          scene.releaseSnapshot(random.below(scene.snapshots.length));
        else if (choice < 0.96) {
          const low = random.below(keys);
          scene.removeRange(keyOf(low), true, keyOf(low + random.below(60)), false, 1 + random.below(20));
        } else if (choice < 0.965) {
          const sweep = newSweep();
          while (!sweep.done) scene.tree.sweep(sweep, 7);
        } else if (choice < 0.97) scene.nowMs += 5;
        else if (choice < 0.98) {
          scene.checkpoint(random.chance(0.8));
          if (scene.checkpointed !== undefined) saved[0] = { model: copyModel(), seq: scene.seq };
        } else if (choice < 0.982) {
          scene.publish();
          scene.adopt();
        } else if (choice < 0.984) {
          scene.checkpoint();
          // Snapshots are of a life.
          while (scene.snapshots.length > 0) scene.releaseSnapshot(0);
          scene.reopen((scene.env as MemEnv).crash(random, 'random'));
        }
        if (step % 250 === 249) scene.verify();
      }
      scene.verify();
      scene.publish();
      expect(checkArena(scene.arena)).toEqual([]);
    });
  }
});
