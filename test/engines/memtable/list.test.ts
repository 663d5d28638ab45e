/** The skip list and its express lane: order on every level after any changes, keys that are hard on heads, a writer that dies between two stores. */
import { describe, expect, it } from 'vitest';
import { publishTrees } from '../../../dist/engines/btree/meta.js';
import { Random } from '../../../dist/shared/random.js';
import { EngineScene, hex, newSeed } from '../contract-scene.js';

const open = (memoryBytes = 32 << 20): EngineScene => new EngineScene('memtable', { memoryBytes });

/** Each makes key number `index` of many. */
const KEY_SHAPES: Readonly<Record<string, (index: number, random: Random) => Buffer>> = {
  'digits behind a prefix': (index) => Buffer.from(`user:${String(index).padStart(12, '0')}`),
  'random bytes of any length': (_index, random) => Buffer.from(random.bytes(random.below(40))),
  'one prefix longer than any head, apart in the last byte': (index) =>
    Buffer.concat([Buffer.alloc(300, 0x61), Buffer.from([index >> 8, index])]),
  'equal in 60 bits, apart in the four that heads leave out': (index) =>
    Buffer.from([0x70, 1, 2, 3, 4, 5, 6, index >> 8, index]),
  'zeros: each key is the start of the next': (index) => Buffer.alloc(index % 600),
  'two groups with nothing in common': (index) =>
    Buffer.from(`${index % 2 === 0 ? 'a long prefix that is shared/' : 'zebra/'}${index}`),
  'the longest keys, apart at the end': (index) =>
    Buffer.concat([Buffer.alloc(4094, index % 3), Buffer.from([index >> 8, index])]),
};

describe('the skip list', () => {
  for (const [shape, makeKey] of Object.entries(KEY_SHAPES)) {
    it(`is in order on every level, and its lane whole, after random changes: ${shape}`, () => {
      const random = new Random(newSeed('memtable/list.test.ts'));
      const scene = open(shape.startsWith('the longest') ? 64 << 20 : undefined);
      const keys: Buffer[] = [];
      const span = shape.startsWith('the longest') ? 400 : 3000;
      for (let round = 0; round < 12; round++) {
        // Grows, is overwritten, shrinks to nothing, grows again.
        const deletes = round % 6 === 5 ? 1 : round % 3 === 2 ? 0.6 : 0.1;
        scene.group(() => {
          for (let count = 0; count < span / 2; count++) {
            if (random.chance(deletes) && keys.length > 0) {
              scene.del(random.pick(keys));
            } else {
              const key = makeKey(random.below(span), random);
              keys.push(key);
              scene.put(key, Buffer.from(hex(key).slice(-8)));
            }
          }
          if (round % 6 === 5) for (const key of keys.splice(0)) scene.del(key);
        });
        expect(scene.writer.check()).toEqual([]);
        const live = scene.liveKeys();
        expect(scene.writer.metrics()['laneNodes']).toBe(live.length);
        if (round % 6 === 5) expect(live).toEqual([]);
      }
      for (const key of new Set(keys.map(hex))) {
        expect(scene.get(Buffer.from(key, 'hex'))).toEqual(scene.live(key)?.value);
      }
      const absent = [Buffer.from(''), Buffer.from('\0'), Buffer.from('user:'), Buffer.alloc(9, 0xff)];
      for (const key of absent) expect(scene.get(key)).toEqual(scene.live(hex(key))?.value);
      expect(scene.lines(Infinity, false)).toEqual(scene.modelLines(Infinity));
      expect(scene.lines(Infinity, true).reverse()).toEqual(scene.modelLines(Infinity));
    });
  }

  it.each([
    ['ascending', (index: number) => index],
    ['descending', (index: number) => 20_000 - index],
    ['in runs', (index: number) => (index % 40) * 1000 + Math.floor(index / 40)],
  ])('takes 20,000 keys %s, then the same again', (_name, orderOf) => {
    const scene = open();
    const keyOf = (index: number): Buffer => Buffer.from(`k${String(orderOf(index)).padStart(9, '0')}`);
    for (const generation of ['first', 'second']) {
      for (let start = 0; start < 20_000; start += 500) {
        scene.group(() => {
          for (let index = start; index < start + 500; index++) {
            const existed = scene.put(keyOf(index), Buffer.from(`${generation} ${index}`));
            if (existed !== (generation === 'second')) expect.fail(`${generation} ${index}: ${String(existed)}`);
          }
        });
      }
      expect(scene.writer.check()).toEqual([]);
      // Where many blocks are split at once, a group's share of pages may not do for all.
      expect(scene.writer.metrics()['laneNodes']).toBeGreaterThan(19_900);
      expect(scene.get(keyOf(777))?.toString()).toBe(`${generation} 777`);
    }
    expect(scene.lines(Infinity, false)).toEqual(scene.modelLines(Infinity));
  });

  it('gives pages of the lane back when keys go', () => {
    const scene = open();
    const keyOf = (index: number): Buffer => Buffer.from(`k${String(index).padStart(9, '0')}`);
    scene.group(() => {
      for (let index = 0; index < 20_000; index++) scene.put(keyOf(index), Buffer.alloc(0));
    });
    const full = scene.writer.metrics()['lanePages']!;
    scene.group(() => {
      for (let index = 0; index < 20_000; index++) if (index % 5000 !== 0) scene.del(keyOf(index));
    });
    expect(scene.writer.check()).toEqual([]);
    expect(full).toBeGreaterThan(50);
    expect(scene.writer.metrics()['lanePages']).toBeLessThan(10);
    scene.verifyReads();
  });

  it('answers in a full arena, where the lane has to leave nodes out', () => {
    const scene = open(512 << 10);
    const keyOf = (index: number): Buffer => Buffer.from(`k${String((index * 7919) % 65_536).padStart(9, '0')}`);
    const present: number[] = [];
    for (let index = 0, isFull = false; !isFull; index++) {
      scene.begin();
      // Not asking admits(): the lane finds no page sooner or later.
      try {
        scene.put(keyOf(index), Buffer.alloc(20));
        present.push(index);
      } catch (error) {
        expect(error).toMatchObject({ code: 'ERR_MEMORY_FULL' });
        isFull = true;
      }
      scene.publish();
    }
    expect(present.length).toBeGreaterThan(2000);
    expect(scene.writer.check()).toEqual([]);
    for (const index of present) expect(scene.get(keyOf(index))).toBeDefined();
    // Cells become free here and there, pages do not; new keys come all at one place.
    for (let start = 0; start < present.length; start += 20) {
      scene.group(() => {
        for (const index of present.slice(start, start + 20)) if (index % 3 === 0) scene.del(keyOf(index));
      });
    }
    let added = 0;
    for (let isFull = false; !isFull; added++) {
      scene.begin();
      try {
        scene.put(Buffer.from(`k00003000 ${String(added).padStart(4, '0')}`), Buffer.alloc(15));
      } catch (error) {
        expect(error).toMatchObject({ code: 'ERR_MEMORY_FULL' });
        isFull = true;
      }
      scene.publish();
    }
    expect(scene.writer.check()).toEqual([]);
    const leftOut = scene.liveKeys().length - scene.writer.metrics()['laneNodes']!;
    expect(leftOut).toBeGreaterThan(0);
    scene.verifyReads();
    for (let start = 0; start < added; start += 20) {
      scene.group(() => {
        for (let index = start; index < start + 20; index++)
          scene.del(Buffer.from(`k00003000 ${String(index).padStart(4, '0')}`));
      });
    }
    scene.verify();
  });
});

describe('a writer that dies between two stores', () => {
  it('leaves the published state, whichever store was its last', () => {
    const random = new Random(newSeed('memtable/list.test.ts'));
    const scene = open(8 << 20);
    const keyOf = (index: number): Buffer => Buffer.from(`key ${String(index).padStart(5, '0')}`);
    scene.group(() => {
      for (let index = 0; index < 400; index += 2) scene.put(keyOf(index), Buffer.from(`old ${index}`));
    });
    const { store } = Atomics;
    const death = new Error('the thread died');
    let deaths = 0;
    let deathsInEndGroup = 0;
    for (let round = 0; round < 400; round++) {
      const last = 1 + (round < 120 ? round : random.below(120));
      if (random.chance(0.2)) scene.snapshot();
      if (scene.snapshots.length > 0 && random.chance(0.4)) scene.releaseSnapshot(0);
      let stores = 0;
      const dying = (array: never, index: number, value: never): never => {
        if (++stores === last) throw death;
        return store(array, index, value);
      };
      let wasReached = false;
      let isPublished = false;
      scene.begin();
      Atomics.store = dying as typeof store;
      try {
        for (let count = 0; count < 60; count++) {
          const key = keyOf(random.below(400));
          if (random.chance(0.4)) scene.del(key);
          else scene.put(key, Buffer.from(`${round} ${count}`));
        }
        Atomics.store = store;
        publishTrees(scene.arena, scene.seq);
        scene.publishedSeq = scene.seq;
        isPublished = true;
        Atomics.store = dying as typeof store;
        scene.writer.endGroup();
      } catch (error) {
        if (error !== death) throw error;
        wasReached = true;
        deaths++;
        if (isPublished) deathsInEndGroup++;
      } finally {
        Atomics.store = store;
      }
      if (wasReached) scene.die();
      if (round % 8 === 0) scene.verify();
      else expect(scene.writer.check()).toEqual([]);
    }
    expect(deaths).toBeGreaterThan(150);
    expect(deathsInEndGroup).toBeGreaterThan(5);
    while (scene.snapshots.length > 0) scene.releaseSnapshot(0);
    scene.sweep();
    scene.verify();
    expect(scene.writer.counts().cells).toBe(scene.liveKeys().length);
  });
});
