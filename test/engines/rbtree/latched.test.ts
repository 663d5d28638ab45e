/**
 * The two engines whose structure changes under the latch, rbtree and array: writers that die between two stores of a step, readers that meet the latch of
 * the dead, and bytes that cannot be. What every engine must do stands in test/engines/contract*.test.ts.
 */
import { Worker } from 'node:worker_threads';
import { describe, expect, it } from 'vitest';
import { arrayEngine } from '../../../dist/engines/array/engine.js';
import { ArrayWriter } from '../../../dist/engines/array/writer.js';
import { publishTrees, publishedSeqOf } from '../../../dist/engines/btree/meta.js';
import type { Engine, EngineWriter } from '../../../dist/engines/engine.js';
import { rbtreeEngine } from '../../../dist/engines/rbtree/engine.js';
import { RbTreeWriter } from '../../../dist/engines/rbtree/writer.js';
import { ConcordError } from '../../../dist/shared/errors.js';
import { ArenaReader, ArenaWriter, createArena, type ArenaLayout } from '../../../dist/shared/memory/arena.js';
import { randomFrom } from './loose-nodes.js';

const SLOT = 1;
const NO_SNAPSHOTS = new Float64Array(0);

class Killed extends Error {}

class KillableTree extends RbTreeWriter {
  setHook(hook: () => void): void {
    this.tree!.onStore = hook;
  }
}

class KillableArray extends ArrayWriter {
  setHook(hook: () => void): void {
    this.array!.onStore = hook;
  }
}

type Killable = EngineWriter & { setHook(hook: () => void): void };

interface Subject {
  readonly engine: Engine;
  open(arena: ArenaWriter): Killable;
}

const SUBJECTS: Subject[] = [
  { engine: rbtreeEngine, open: (arena) => new KillableTree(arena, 0, 0) },
  { engine: arrayEngine, open: (arena) => new KillableArray(arena, 0, 0) },
];

function adopt(layout: ArenaLayout, engine: Engine): ArenaWriter {
  return ArenaWriter.adopt(layout, (arena, metaUnit, mark) => {
    mark(metaUnit, 1);
    engine.mark(arena, metaUnit, 0, mark);
  });
}

class Scene {
  readonly layout: ArenaLayout;
  arena: ArenaWriter;
  writer: Killable;
  readonly view: ArenaReader;
  seq = 0;

  constructor(
    readonly subject: Subject,
    memoryBytes = 4 << 20,
  ) {
    this.layout = createArena({ memoryBytes });
    this.arena = new ArenaWriter(this.layout);
    this.writer = subject.open(this.arena);
    this.view = new ArenaReader(this.layout);
  }

  begin(): void {
    this.writer.setSnapshots(NO_SNAPSHOTS, 0);
    this.writer.beginGroup(publishedSeqOf(this.arena, this.arena.published()), true);
  }

  publish(): void {
    publishTrees(this.arena, this.seq);
    this.writer.endGroup();
  }

  put(key: string, value: string): void {
    this.writer.put(Buffer.from(key), 0, key.length, Buffer.from(value), 0, value.length, ++this.seq, 0);
  }

  del(key: string): void {
    this.writer.del(Buffer.from(key), 0, key.length, ++this.seq);
  }

  succeed(): void {
    this.arena = adopt(this.layout, this.subject.engine);
    this.writer = this.subject.open(this.arena);
  }

  /** What readers see, in order. */
  contents(): [string, string][] {
    const cursor = this.subject.engine.openCursor(this.view, 0, 0, SLOT);
    const entries: [string, string][] = [];
    const metaUnit = this.view.pin(SLOT);
    const key = Buffer.alloc(64);
    for (let more = cursor.seek(metaUnit, undefined, 0, Infinity, false, 0); more; more = cursor.next()) {
      entries.push([key.toString('latin1', 0, cursor.copyKey(key, 0)), cursor.valueUtf8()]);
    }
    cursor.release();
    this.view.unpin(SLOT);
    return entries;
  }
}

const keyOf = (index: number): string => `k${String(index).padStart(5, '0')}`;

describe.each(SUBJECTS)('$engine.name', (subject) => {
  it('a successor finds the published state, whatever store of a group was the last', () => {
    const seed = (Date.now() & 0xffff) | 1;
    console.log(`seed ${seed}`);
    const random = randomFrom(seed);
    const scene = new Scene(subject);
    const model = new Map<string, string>();
    scene.begin();
    for (let index = 0; index < 3000; index++) {
      const key = keyOf(random(6000));
      scene.put(key, 'first');
      model.set(key, 'first');
    }
    scene.publish();
    let kills = 0;
    for (let round = 0; round < 120; round++) {
      const before = [...model].sort(([a], [b]) => (a < b ? -1 : 1));
      let left = 1 + random(round % 3 === 0 ? 40 : 4000);
      scene.begin();
      scene.writer.setHook(() => {
        if (--left === 0) throw new Killed();
      });
      try {
        for (let operation = 0; operation < 40; operation++) {
          const key = keyOf(random(6000));
          if (random(3) === 0) {
            scene.del(key);
            model.delete(key);
          } else {
            scene.put(key, `${round}`);
            model.set(key, `${round}`);
          }
        }
        left = Infinity;
        scene.publish();
      } catch (error) {
        if (!(error instanceof Killed)) throw error;
        kills++;
        model.clear();
        for (const [key, value] of before) model.set(key, value);
        scene.succeed();
        scene.seq += 100;
      }
      if (round % 5 === 4) expect(scene.writer.check()).toEqual([]);
      expect(scene.contents()).toEqual([...model].sort(([a], [b]) => (a < b ? -1 : 1)));
    }
    expect(kills).toBeGreaterThan(30);
    expect(scene.writer.check()).toEqual([]);
    scene.begin();
    for (const key of model.keys()) scene.del(key);
    scene.publish();
    expect(scene.writer.check()).toEqual([]);
    expect(scene.writer.counts()).toMatchObject({ liveEntries: 0, cells: 0 });
    scene.writer.destroy();
    for (let publication = 0; publication < 3; publication++) publishTrees(scene.arena, ++scene.seq);
    scene.arena.reclaim();
    // The header and a meta page.
    expect(scene.arena.usedUnits).toBe(9);
  });

  it('a read by a thread that would have to hear of the death first ends, and is answered after it', () => {
    const scene = new Scene(subject);
    scene.begin();
    scene.put('k', 'published');
    scene.publish();
    scene.begin();
    scene.put('k', 'never published');
    // The writer is dead, and nobody has told the latch.
    const read = (): string | false => {
      const reader = subject.engine.openReader(scene.view, 0, 0, SLOT);
      try {
        return reader.find(scene.view.pin(SLOT), Buffer.from('k'), 1, Infinity, 0) && reader.valueUtf8();
      } finally {
        reader.release();
        scene.view.unpin(SLOT);
      }
    };
    scene.view.latchWaitMsMax = 30;
    expect(read).toThrow(expect.objectContaining({ code: 'ERR_OWNER_DIED' }));
    // The latch knows, and the space may be half changed.
    const arena = adopt(scene.layout, subject.engine);
    expect(read).toThrow(expect.objectContaining({ code: 'ERR_OWNER_DIED' }));
    scene.writer = subject.open(arena);
    expect(read()).toBe('published');
    expect(scene.view.latch(SLOT).readers).toBe(0);
  });

  it('a reader that dies in its turn at the latch leaves nothing to repair', () => {
    const scene = new Scene(subject);
    scene.begin();
    scene.put('k', 'published');
    scene.publish();
    // As a reader that was turned away too often has it, until it is in.
    new ArenaReader(scene.layout).latch(5).acquireWrite();
    expect(scene.view.latch(SLOT).tryAcquireRead()).toBe(undefined);
    ArenaReader.clearSlot(scene.layout, 5);
    scene.view.latchWaitMsMax = 30;
    expect(scene.contents()).toEqual([['k', 'published']]);
    expect(scene.view.latch(SLOT).acquireRead()).toBe('clean');
    scene.view.latch(SLOT).releaseRead();
  });

  it('a reader that meets the latch of a dead writer waits for the successor, and then reads', async () => {
    const scene = new Scene(subject);
    scene.begin();
    for (let index = 0; index < 1000; index++) scene.put(keyOf(index), 'published');
    scene.publish();
    scene.begin();
    // The latch is held until the group has been applied.
    scene.put(keyOf(500), 'never published');
    adopt(scene.layout, subject.engine);
    const state = new Int32Array(new SharedArrayBuffer(4));
    const worker = new Worker(
      `const { workerData: { layout, state, name, base }, parentPort } = require('node:worker_threads');
       (async () => {
         const { ArenaReader } = await import(base + 'shared/memory/arena.js');
         await import(base + 'engines/btree/engine.js');
         const engine = (await import(base + 'engines/' + name + '/engine.js'))[name + 'Engine'];
         const arena = new ArenaReader(layout);
         const reader = engine.openReader(arena, 0, 0, 7);
         Atomics.store(state, 0, 1);
         const key = Buffer.from('k00500');
         const found = reader.find(arena.pin(7), key, key.length, Infinity, 0);
         parentPort.postMessage([Atomics.load(state, 0), found && reader.valueUtf8()]);
         reader.release();
         arena.unpin(7);
       })();`,
      {
        eval: true,
        workerData: {
          layout: scene.layout,
          state,
          name: subject.engine.name,
          base: new URL('../../../dist/', import.meta.url).href,
        },
      },
    );
    const answer = new Promise((resolve, reject) => {
      worker.once('message', resolve);
      worker.once('error', reject);
    });
    while (Atomics.load(state, 0) === 0) await new Promise((resolve) => setTimeout(resolve, 5));
    await new Promise((resolve) => setTimeout(resolve, 100));
    Atomics.store(state, 0, 2);
    scene.succeed();
    expect(await answer).toEqual([2, 'published']);
    await worker.terminate();
  });

  it('any wrong byte ends in ERR_CORRUPT or a wrong answer, never outside the arena or in an endless walk', () => {
    const seed = (Date.now() & 0xffff) | 1;
    console.log(`seed ${seed}`);
    const random = randomFrom(seed);
    const scene = new Scene(subject, 1 << 20);
    scene.begin();
    for (let index = 0; index < 2500; index++) scene.put(keyOf((index * 7919) % 2500), `value ${index}`);
    scene.publish();
    const u8 = scene.arena.u8[0]!;
    const start = 8 * 4096;
    const bytes = scene.arena.stats().highWaterUnits * 4096 - start;
    const sound = u8.slice(start, start + bytes);
    const descriptor = scene.writer.counts().rootUnit * 4096;
    const reader = subject.engine.openReader(scene.view, 0, 0, SLOT);
    const cursor = subject.engine.openCursor(scene.view, 0, 0, SLOT);
    let refused = 0;
    for (let round = 0; round < 300; round++) {
      for (let wrong = 1 + random(round % 2 === 0 ? 3 : 400); wrong > 0; wrong--) {
        const near = random(4) === 0 ? descriptor + 24 + random(60) : start + random(bytes);
        u8[near] = random(256);
      }
      const key = Buffer.alloc(32);
      const metaUnit = scene.view.pin(SLOT);
      try {
        for (let reads = 0; reads < 20; reads++) {
          const length = key.write(keyOf(random(2500)), 'latin1');
          if (reader.find(metaUnit, key, length, Infinity, 0)) reader.copyValue();
          reader.release();
        }
        const reverse = round % 2 === 0;
        let more = cursor.seek(metaUnit, undefined, 0, Infinity, reverse, 0);
        for (; more; more = reverse ? cursor.prev() : cursor.next()) cursor.copyValue();
      } catch (error) {
        if (!(error instanceof ConcordError) || error.code !== 'ERR_CORRUPT') {
          // The row has another tag, or the meta page is none.
          if (!(error instanceof Error) || error.name !== 'StaleViewError') throw error;
        }
        refused++;
      }
      reader.release();
      cursor.release();
      scene.view.unpin(SLOT);
      u8.set(sound, start);
    }
    expect(refused).toBeGreaterThan(20);
    expect(scene.contents()).toHaveLength(2500);
    expect(scene.writer.check()).toEqual([]);
  });
});
