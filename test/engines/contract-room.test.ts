/**
 * Room: what admits() allows can be applied, at every fill level; a full arena takes deletes; an operation that finds no room changes nothing; what was
 * deleted can be filled again.
 */
import { describe, expect, test } from 'vitest';
import { ConcordError } from '../../dist/shared/errors.js';
import { Random } from '../../dist/shared/random.js';
import { runCount } from '../support/pool-scene.js';
import { MIX, apply, randomOperation, type Operation } from './contract-operations.js';
import { ENGINES, EngineScene, expectSame, hex, keyOf, newSeed } from './contract-scene.js';

const FILE = 'contract-room.test.ts';

function isFull(error: unknown): boolean {
  expect(error).toBeInstanceOf(ConcordError);
  expect((error as ConcordError).code).toBe('ERR_MEMORY_FULL');
  return true;
}

describe.each(ENGINES)('%s', (name) => {
  test.each([256, 1024])('in %i KiB a group that is admitted is applied, however full it is', (kib) => {
    const random = new Random(newSeed(FILE));
    for (let run = 0; run < runCount(1); run++) {
      const scene = new EngineScene(name, { memoryBytes: kib * 1024 });
      let [admitted, refused] = [0, 0];
      // Half of the runs fill up and stay full; half breathe.
      const deletes = run % 2 === 0 ? 0.05 : 0.5;
      for (let round = 0; round < 250; round++) {
        const size = random.chance(0.1) ? random.between(50, 300) : random.between(1, 12);
        const isPurge = random.chance(deletes * 0.1);
        const operations: Operation[] = [];
        let bytes = 0;
        while (operations.length < size) {
          const operation = randomOperation(random, { ...MIX, keys: 3000, large: 0.01, clears: 0, nowMs: scene.nowMs });
          if (operation.kind === 'clear' || (isPurge && operation.kind === 'put')) continue;
          bytes += operation.key.length + (operation.kind === 'put' ? operation.value.length : 0);
          operations.push(operation);
        }
        if (random.chance(0.05) && scene.snapshots.length < 3) scene.snapshot();
        if (random.chance(0.05)) scene.releaseSnapshot(0);
        const deletesOnly = operations.every(({ kind }) => kind === 'del');
        const sorted = Float64Array.from(scene.snapshots);
        scene.writer.setSnapshots(sorted, sorted.length);
        if (!scene.writer.admits(operations.length, bytes, deletesOnly)) {
          refused++;
          if (random.chance(0.2)) scene.snapshots = [];
          if (random.chance(0.2)) scene.sweep();
          continue;
        }
        admitted++;
        scene.group(() => {
          for (const operation of operations) apply(scene, operation);
        }, random.chance(0.5));
        if (admitted % 25 === 0) scene.verify();
      }
      scene.verify();
      expect(admitted).toBeGreaterThan(20);
      expect(refused).toBeGreaterThan(0);
    }
  });

  test('an operation that finds no room changes nothing, and the group goes on', () => {
    const random = new Random(newSeed(FILE));
    for (let run = 0; run < runCount(1); run++) {
      const scene = new EngineScene(name, { memoryBytes: 256 * 1024 });
      if (run % 2 === 1) scene.snapshot();
      let refused = 0;
      for (let round = 0; round < 250 && refused < 200; round++) {
        scene.group(() => {
          for (let count = random.between(1, 20); count > 0; count--) {
            const operation = randomOperation(random, {
              ...MIX,
              keys: 4000,
              large: 0.02,
              clears: 0,
              nowMs: scene.nowMs,
            });
            if (operation.kind !== 'put') continue;
            try {
              apply(scene, operation);
            } catch (error) {
              isFull(error);
              refused++;
              if (refused % 8 === 1) scene.verifyWriter();
            }
          }
        });
        if (round % 30 === 29) scene.verify();
        if (round % 60 !== 59) continue;
        const low = keyOf(random.below(2000));
        const keys = scene.liveKeys().filter((key) => key >= hex(low));
        const bytes = keys.reduce((sum, key) => sum + key.length / 2, 0);
        if (scene.writer.admits(keys.length, bytes, true)) scene.group(() => scene.removeRange(low));
      }
      scene.verify();
      expect(refused).toBeGreaterThan(5);
    }
  });

  test('a full arena takes deletes of everything, one by one, and can be filled again as far as before', () => {
    const scene = new EngineScene(name, { memoryBytes: 512 * 1024 });
    const value = Buffer.alloc(40);
    const fill = (): number => {
      for (let index = 0; ; index++) {
        if (!scene.writer.admits(1, 10 + value.length, false)) return index;
        scene.group(() => scene.put(keyOf(index), value));
      }
    };
    let first = 0;
    for (let round = 0; round < 3; round++) {
      const count = fill();
      first ||= count;
      expect(count).toBeGreaterThanOrEqual(first * 0.9);
      expect(count).toBeGreaterThan(500);
      // Beyond what is kept for deletes nothing goes in, whoever asks.
      scene.begin();
      expect(() => {
        for (let index = count; ; index++) scene.put(keyOf(index), value);
      }).toThrow(expect.objectContaining({ code: 'ERR_MEMORY_FULL' }));
      scene.publish();
      scene.verify();
      const keys = scene.liveKeys().map((key) => Buffer.from(key, 'hex'));
      for (const key of round % 2 === 0 ? keys : keys.reverse()) {
        expect(scene.writer.admits(1, key.length, true)).toBe(true);
        scene.group(() => expect(scene.del(key)).toBe(true));
      }
      scene.sweep();
      expect(scene.writer.counts()).toMatchObject({ liveEntries: 0, cells: 0 });
      scene.verify();
    }
  });

  test('in a full arena an open snapshot keeps what it needs while everything is deleted', () => {
    const scene = new EngineScene(name, { memoryBytes: 512 * 1024 });
    for (let index = 0; scene.writer.admits(1, 60, false); index++)
      scene.group(() => scene.put(keyOf(index), Buffer.alloc(40, index)));
    const count = scene.writer.counts().liveEntries;
    const all = scene.lines(Infinity, false);
    const snapshot = scene.snapshot();
    let deleted = 0;
    for (const key of scene.liveKeys()) {
      const bytes = Buffer.from(key, 'hex');
      scene.writer.setSnapshots(Float64Array.of(snapshot), 1);
      // A tombstone may take room, so it may be refused; but then nothing has changed.
      if (!scene.writer.admits(1, bytes.length, true)) break;
      scene.group(() => scene.del(bytes));
      deleted++;
    }
    expect(deleted).toBeGreaterThan(0);
    expectSame(scene.lines(snapshot, false), all, 'at the snapshot');
    expect(scene.writer.counts().liveEntries).toBe(count - deleted);
    scene.verify();
    scene.snapshots = [];
    scene.sweep();
    scene.sweep();
    expect(scene.writer.counts().cells).toBe(count - deleted);
    scene.verify();
  });
});
