/** The contract in the head of engines/engine.ts, on every engine: what can be seen of it in one thread. Room, death and hostile bytes: beside this. */
import { describe, expect, test } from 'vitest';
import { publishTrees } from '../../dist/engines/btree/meta.js';
import { OverflowWriter } from '../../dist/engines/btree/overflow.js';
import { FREE_TAG, StaleViewError, engineOfCode, newSweep, rowTag } from '../../dist/engines/engine.js';
import { ArenaReader, ArenaWriter, HEADER_UNITS, createArena } from '../../dist/shared/memory/arena.js';
import { Random } from '../../dist/shared/random.js';
import { runCount } from '../support/pool-scene.js';
import { ENGINES, EngineScene, expectSame, hex, keyOf, newSeed } from './contract-scene.js';
import { keyAt, randomGroup } from './contract-operations.js';

const FILE = 'contract.test.ts';
const text = (string: string): Buffer => Buffer.from(string);

describe.each(ENGINES)('%s', (name) => {
  const { isOrdered, code } = new EngineScene(name, { memoryBytes: 1 << 20 }).engine;

  describe('the table', () => {
    test('knows the engine by its code; a writer has it, its row and its tag', () => {
      const scene = new EngineScene(name, { row: 3, spaceId: 77 });
      expect(engineOfCode(code)).toBe(scene.engine);
      expect(scene.writer).toMatchObject({ code, row: 3, tag: rowTag(77, code) });
      scene.group(() => scene.put(text('key'), text('value')));
      expect(scene.get(text('key'))).toEqual(text('value'));
      scene.verify();
    });
  });

  describe('visibility', () => {
    test('nothing of an atomic group shows before its publication, then all of it', () => {
      const scene = new EngineScene(name);
      scene.group(() => {
        for (let index = 0; index < 100; index++)
          scene.put(keyOf(index), text(`first ${index}`), index % 10 === 9 ? scene.nowMs + 5 : 0);
      });
      const before = scene.lines(Infinity, false);
      expect(before).toHaveLength(100);
      scene.begin();
      for (let index = 0; index < 100; index += 3) scene.put(keyOf(index), text('SECOND!'));
      for (let index = 1; index < 100; index += 3) scene.del(keyOf(index));
      for (let index = 100; index < 150; index++) scene.put(keyOf(index), text('new'));
      scene.removeRange(keyOf(60), keyOf(70));
      for (let index = 62; index < 66; index++) scene.put(keyOf(index), text('again'));
      expectSame(scene.lines(Infinity, false), before, 'before the publication');
      expectSame(scene.lines(Infinity, true).reverse(), before, 'before the publication, backwards');
      expect(scene.get(keyOf(0))).toEqual(text('first 0'));
      expect(scene.get(keyOf(1))).toEqual(text('first 1'));
      expect(scene.get(keyOf(120))).toBeUndefined();
      scene.verify();
      scene.publish();
      expect(scene.get(keyOf(0))).toEqual(text('SECOND!'));
      expect(scene.get(keyOf(1))).toBeUndefined();
      expect(scene.get(keyOf(64))).toEqual(text('again'));
      expect(scene.get(keyOf(120))).toEqual(text('new'));
      scene.verify();
    });

    test('what a group puts and deletes again was never there', () => {
      const scene = new EngineScene(name);
      scene.group(() => {
        scene.put(text('gone'), text('1'));
        scene.put(text('stays'), text('1'));
        scene.put(text('gone'), text('2'));
        scene.del(text('gone'));
        scene.del(text('never'));
      });
      expect(scene.get(text('gone'))).toBeUndefined();
      expect(scene.writer.counts().liveEntries).toBe(1);
      scene.verify();
    });

    test('in a group that is not atomic each key shows its published or its newest value', () => {
      const scene = new EngineScene(name);
      scene.group(() => {
        for (let index = 0; index < 500; index++) scene.put(keyOf(index), text(`generation 0 of ${index}`));
      });
      for (let generation = 1; generation < 8; generation++) {
        scene.begin(false);
        for (let index = 0; index < 500; index += generation)
          scene.put(keyOf(index), text(`generation ${generation} of ${index}`));
        for (let index = 0; index < 500; index++) {
          const [published, newest] = [scene.publishedSeq, Infinity].map((seq) =>
            scene.visible(hex(keyOf(index)), seq),
          );
          const told = scene.get(keyOf(index))!.toString();
          if (told !== published!.value!.toString()) expect(told).toBe(newest!.value!.toString());
        }
        scene.publish();
        scene.verify();
      }
    });

    test('readers see published states only, whatever is going on', () => {
      const random = new Random(newSeed(FILE));
      for (let run = 0; run < runCount(2); run++) {
        const scene = new EngineScene(name);
        for (let round = 0; round < 40; round++) {
          if (scene.snapshots.length < 4 && random.chance(0.3)) scene.snapshot();
          if (scene.snapshots.length > 0 && random.chance(0.25))
            scene.releaseSnapshot(random.below(scene.snapshots.length));
          scene.begin();
          randomGroup(scene, random, 60);
          if (round % 4 === 0) scene.verify();
          scene.publish();
          if (round % 4 === 0 || round === 39) scene.verify();
          scene.nowMs += random.below(10);
          if (round % 13 === 12) scene.sweep();
        }
        scene.verify();
      }
    });
  });

  describe('versions', () => {
    test('a snapshot sees what was there, through overwrites, deletes, range deletes and sweeps', () => {
      const scene = new EngineScene(name);
      scene.group(() => {
        for (let index = 0; index < 50; index++) scene.put(keyOf(index), text('first'));
      });
      const first = scene.snapshot();
      scene.group(() => {
        for (let index = 0; index < 50; index += 2) scene.put(keyOf(index), text('second'));
        for (let index = 1; index < 50; index += 4) scene.del(keyOf(index));
      });
      const second = scene.snapshot();
      scene.group(() => scene.removeRange());
      expect(scene.lines(Infinity, false)).toEqual([]);
      expect(scene.lines(first, false)).toHaveLength(50);
      scene.sweep();
      scene.verify();
      expect(scene.get(keyOf(2), first)).toEqual(text('first'));
      expect(scene.get(keyOf(2), second)).toEqual(text('second'));
      expect(scene.get(keyOf(1), second)).toBeUndefined();
      expect(scene.get(keyOf(2))).toBeUndefined();
      scene.releaseSnapshot(0);
      scene.sweep();
      scene.verify();
      scene.releaseSnapshot(0);
      for (let pass = 0; pass < 3; pass++) scene.sweep();
      expect(scene.writer.counts()).toMatchObject({ cells: 0, liveEntries: 0, liveKeyBytes: 0, liveValueBytes: 0 });
      scene.verify();
    });

    test('a key keeps as many versions as snapshots need, and no others', () => {
      const scene = new EngineScene(name);
      const key = text('counter');
      const snapshots: number[] = [];
      for (let round = 0; round < 300; round++) {
        scene.group(() => scene.put(key, Buffer.alloc(30, round)));
        if (round % 3 === 0) snapshots.push(scene.snapshot());
      }
      for (const [index, seq] of snapshots.entries()) expect(scene.get(key, seq)).toEqual(Buffer.alloc(30, index * 3));
      scene.sweep();
      scene.verify();
      expect(scene.writer.counts().cells).toBeLessThanOrEqual(snapshots.length + 1);
      expect(scene.writer.counts().liveEntries).toBe(1);
      scene.snapshots = [];
      scene.sweep();
      expect(scene.writer.counts().cells).toBe(1);
      scene.verify();
    });

    test('without snapshots a delete leaves nothing', () => {
      const scene = new EngineScene(name);
      for (let round = 0; round < 20; round++) {
        scene.group(() => {
          for (let index = 0; index < 100; index++) scene.put(keyOf(index), Buffer.alloc(round));
        });
        scene.group(() => {
          for (let index = 0; index < 100; index++) expect(scene.del(keyOf(index))).toBe(true);
        });
      }
      scene.sweep();
      expect(scene.writer.counts()).toMatchObject({ cells: 0, liveEntries: 0 });
      scene.verify();
    });

    test('sweeps need not happen: snapshots come and go for long, and memory stays flat', () => {
      const random = new Random(newSeed(FILE));
      const scene = new EngineScene(name, { memoryBytes: 8 << 20 });
      const usedAt: number[] = [];
      for (let round = 0; round < 1200; round++) {
        if (scene.snapshots.length < 3) scene.snapshot();
        else scene.releaseSnapshot(random.below(3));
        scene.group(() => {
          randomGroup(scene, random, 20, { large: 0, clears: 0, keys: 200 });
        });
        if (round === 600 || round === 1199) {
          scene.snapshots = [];
          for (let pass = 0; pass < 3; pass++) scene.sweep();
          scene.arena.reclaim();
          usedAt.push(scene.arena.usedUnits);
          scene.verify();
          expect(scene.writer.counts().cells).toBe(scene.writer.counts().liveEntries);
        }
        // Of the past only what snapshots see matters.
        for (const versions of scene.model.values()) if (versions.length > 60) versions.splice(0, 20);
      }
      expect(usedAt[1]!).toBeLessThanOrEqual(usedAt[0]! * 1.5 + 8);
    });
  });

  describe('expiry', () => {
    test('an entry is absent from its time on, and counts until it is removed', () => {
      const scene = new EngineScene(name);
      const [at, key] = [5000, text('session')];
      scene.group(() => {
        scene.put(key, text('value'), at);
        scene.put(text('stays'), text('value'));
      });
      for (const [nowMs, isThere] of [
        [1, true],
        [at - 1, true],
        [at, false],
        [at + 1, false],
        [2 ** 47, false],
      ] as const) {
        scene.nowMs = nowMs;
        expect(scene.find(key) !== undefined, String(nowMs)).toBe(isThere);
        expect(scene.lines(Infinity, false)).toHaveLength(isThere ? 2 : 1);
        expect(scene.writer.versionOf(key, 0, key.length, nowMs) !== 0).toBe(isThere);
        expect(scene.writer.counts().liveEntries).toBe(2);
        scene.verify();
      }
      expect(scene.writer.versionOf(key, 0, key.length, 0)).toBe(1);
      expect(scene.writer.foundExpiresAt).toBe(at);
      // Of an entry that has expired too it is told what was replaced.
      scene.group(() => expect(scene.put(key, text('again'))).toBe(true));
      expect(scene.get(key)).toEqual(text('again'));
      scene.group(() => scene.put(key, text('once more'), 2 ** 48 - 1));
      expect(scene.find(key)).toEqual({ value: text('once more'), seq: 4, expiresAt: 2 ** 48 - 1 });
      scene.group(() => expect(scene.del(key)).toBe(true));
      expect(scene.writer.replacedExpiresAt).toBe(2 ** 48 - 1);
      expect(scene.writer.replacedSeq).toBe(4);
      scene.verify();
    });

    test('a read at time 0 judges by the clock', () => {
      const scene = new EngineScene(name);
      scene.group(() => {
        scene.put(text('a'), text('past'), Date.now() - 1);
        scene.put(text('b'), text('future'), Date.now() + 1_000_000);
      });
      scene.nowMs = 0;
      expect(scene.get(text('a'))).toBeUndefined();
      expect(scene.get(text('b'))).toEqual(text('future'));
      expect(scene.lines(Infinity, false)).toHaveLength(1);
      expect(scene.lines(Infinity, true)).toHaveLength(1);
    });

    test('a version that has expired hides the one below it from a snapshot, which has its own', () => {
      const scene = new EngineScene(name);
      const key = text('key');
      scene.group(() => scene.put(key, text('old')));
      const old = scene.snapshot();
      scene.group(() => scene.put(key, text('new'), scene.nowMs - 1));
      expect(scene.get(key)).toBeUndefined();
      expect(scene.get(key, old)).toEqual(text('old'));
      scene.verify();
    });

    test('iterations pass over runs of expired entries in both directions', () => {
      const scene = new EngineScene(name);
      scene.group(() => {
        for (let index = 0; index < 1000; index++)
          scene.put(keyOf(index), text('value'), index % 250 === 100 ? 0 : scene.nowMs - (index % 2));
      });
      expect(scene.lines(Infinity, false)).toHaveLength(4);
      expect(scene.lines(Infinity, true)).toHaveLength(4);
      expect(scene.lines(Infinity, false, keyOf(101), keyOf(350))).toEqual([]);
      expect(scene.lines(Infinity, true, keyOf(100), keyOf(351))).toHaveLength(2);
      scene.verify();
    });
  });

  describe('keys and values', () => {
    test('keys of any bytes and lengths are apart and in order', () => {
      const scene = new EngineScene(name);
      const keys = [Buffer.alloc(0), Buffer.alloc(4096, 0xff), Buffer.alloc(4095, 0xff), Buffer.alloc(4096, 0)];
      for (let index = 0; index < 300; index++) keys.push(keyAt(index));
      for (let length = 1; length < 20; length++) keys.push(Buffer.alloc(length), Buffer.alloc(length, 0xff));
      scene.group(() => {
        for (const [index, key] of keys.entries()) scene.put(key, text(String(index)));
      });
      scene.verify();
      for (const bound of keys.slice(0, 60)) {
        expectSame(scene.lines(Infinity, false, bound), scene.modelLines(Infinity, bound), 'from a bound');
        expectSame(
          scene.lines(Infinity, true, undefined, bound).reverse(),
          scene.modelLines(Infinity, undefined, bound),
          'down from a bound',
        );
      }
      scene.group(() => {
        for (const key of keys) scene.del(key);
      });
      expect(scene.writer.counts().liveEntries).toBe(0);
      scene.verify();
    });

    test('values of any length are read whole, and in pieces', () => {
      const scene = new EngineScene(name, { memoryBytes: 32 << 20 });
      const lengths = [
        0, 1, 2, 3, 4, 5, 63, 64, 255, 256, 1000, 2047, 2048, 2049, 4000, 4064, 4065, 4096, 8192, 32_768,
      ];
      lengths.push(65_536, 100_000, 1_000_000);
      const valueOf = (length: number, salt: number): Buffer =>
        Buffer.from(Uint8Array.from({ length }, (_, at) => at * 7 + length + salt));
      for (let salt = 0; salt < 3; salt++) {
        scene.group(() => {
          for (const length of lengths) scene.put(text(`of ${length}`), valueOf(length, salt));
        });
        scene.verify();
        for (const length of lengths) {
          const key = text(`of ${length}`);
          const metaUnit = scene.view.pin(1);
          expect(scene.reader.find(metaUnit, key, key.length, Infinity, 0)).toBe(true);
          const piece = Buffer.alloc(1000, 0xaa);
          for (const from of [0, 1, length >> 1, length - 1, length]) {
            if (from < 0) continue;
            const wanted = valueOf(length, salt).subarray(from, from + 900);
            expect(scene.reader.readValue(piece, 50, from, 900)).toBe(wanted.length);
            expect(piece.subarray(50, 50 + wanted.length).equals(wanted)).toBe(true);
            expect(piece[49]).toBe(0xaa);
            expect(piece[50 + 900]).toBe(0xaa);
          }
          expect(scene.reader.valueUtf8()).toBe(valueOf(length, salt).toString('utf8'));
          scene.reader.release();
          scene.view.unpin(1);
        }
      }
      scene.group(() => scene.removeRange());
      scene.sweep();
      scene.verify();
    });

    test('a value may grow, shrink and grow again', () => {
      const scene = new EngineScene(name);
      for (const length of [10, 100, 12, 3000, 12, 20_000, 0, 20_000, 19_999, 40]) {
        scene.group(() => {
          for (let index = 0; index < 20; index++) scene.put(keyOf(index), Buffer.alloc(length, index));
        });
        scene.verify();
      }
    });

    test('a key or value that is too long changes nothing', () => {
      const scene = new EngineScene(name);
      scene.group(() => scene.put(text('key'), text('value')));
      scene.begin();
      const long = Buffer.alloc(4097);
      expect(() => scene.writer.put(long, 0, long.length, long, 0, 1, 2, 0)).toThrow(
        expect.objectContaining({ code: 'ERR_KEY_TOO_LARGE' }),
      );
      scene.publish();
      scene.verify();
      expect(scene.get(long)).toBeUndefined();
    });

    test('a value that was written to a chain piece by piece is put with its key', () => {
      const scene = new EngineScene(name);
      const key = text('chained');
      for (const [round, length] of [1, 5000, 100_000, 40].entries()) {
        const value = Buffer.from(Uint8Array.from({ length }, (_, at) => at * 13 + round));
        const overflow = new OverflowWriter(scene.arena);
        overflow.begin(length);
        for (let at = 0; at < length; at += 3000) {
          overflow.append(value, at, Math.min(3000, length - at));
          // Other groups come and go meanwhile.
          scene.group(() => scene.put(keyOf(at), text('between')));
        }
        const chain = overflow.finish();
        scene.begin();
        expect(scene.writer.putOverflow(key, 0, key.length, chain, ++scene.seq, 7_000_000)).toBe(round > 0);
        scene.publish();
        expect(scene.find(key)).toEqual({ value, seq: scene.seq, expiresAt: 7_000_000 });
        expect(scene.arena.stagedUnits).toBe(0);
        expect(scene.writer.check()).toEqual([]);
      }
      scene.begin();
      expect(scene.writer.del(key, 0, key.length, ++scene.seq)).toBe(true);
      scene.publish();
      expect(scene.get(key)).toBeUndefined();
      scene.verify();
    });
  });

  describe('range deletes', () => {
    test('bounds are inclusive or not as told, and may be keys that are not there', () => {
      for (const [lowInclusive, highInclusive] of [
        [true, true],
        [true, false],
        [false, true],
        [false, false],
      ] as const) {
        for (const [low, high] of [
          [keyOf(20), keyOf(30)],
          [text('key 000019+'), text('key 000029+')],
          [undefined, keyOf(30)],
          [keyOf(20), undefined],
          [keyOf(30), keyOf(20)],
          [keyOf(20), keyOf(20)],
        ] as const) {
          const scene = new EngineScene(name, { memoryBytes: 1 << 20 });
          scene.group(() => {
            for (let index = 0; index < 50; index++) scene.put(keyOf(index), text('value'));
          });
          const kept = scene.liveKeys().filter((key) => {
            const aboveLow = low === undefined || key > hex(low) || (lowInclusive && key === hex(low));
            const belowHigh = high === undefined || key < hex(high) || (highInclusive && key === hex(high));
            return !(aboveLow && belowHigh);
          });
          scene.begin();
          const { removed, done } = scene.writer.removeRange(
            low,
            lowInclusive,
            high,
            highInclusive,
            Infinity,
            ++scene.seq,
          );
          scene.publish();
          expect({ removed, done }).toEqual({ removed: 50 - kept.length, done: true });
          expect(scene.lines(Infinity, false).map((line) => line.split(' ')[0])).toEqual(kept);
          expect(scene.writer.check()).toEqual([]);
        }
      }
    });

    test.runIf(isOrdered)('in slices of any size it removes the same, and says where to go on', () => {
      for (const limit of [1, 7, 50]) {
        const scene = new EngineScene(name);
        scene.group(() => {
          for (let index = 0; index < 200; index++) scene.put(keyOf(index), text('value'));
        });
        let [removed, from, slices] = [0, keyOf(31) as Uint8Array, 0];
        for (let done = false; !done; slices++) {
          scene.begin();
          const result = scene.writer.removeRange(from, true, keyOf(151), false, limit, ++scene.seq);
          scene.publish();
          expect(result.removed).toBeLessThanOrEqual(limit);
          removed += result.removed;
          done = result.done;
          expect(result.resumeKey === undefined).toBe(done);
          if (!done) from = Buffer.from(result.resumeKey!);
          expect(slices).toBeLessThan(500);
        }
        expect(removed).toBe(120);
        expect(scene.lines(Infinity, false)).toHaveLength(80);
        expect(scene.writer.check()).toEqual([]);
      }
    });
  });

  describe('visits', () => {
    test('every version is shown once, oldest first within a key, in slices of any size', () => {
      const scene = new EngineScene(name);
      for (let round = 0; round < 5; round++) {
        scene.group(() => {
          for (let index = 0; index < 120; index++) {
            const length = index === 50 ? 30_000 + round : (index * round) % 90;
            if ((index + round) % 7 === 3) scene.del(keyOf(index));
            else scene.put(keyOf(index), Buffer.alloc(length, index), index % 5 === 0 ? scene.nowMs + round : 0);
          }
        });
        scene.snapshot();
      }
      // All versions are needed by a snapshot, so the model's history is the engine's.
      const expected = new Map([...scene.model].map(([key, versions]) => [key, versions.map(({ line }) => line)]));
      for (const budget of [1, 7, 100, 1_000_000]) {
        const { lines, slices } = scene.visited(budget);
        const byKey = new Map<string, string[]>();
        let last = '';
        for (const line of lines) {
          const key = line.slice(0, line.indexOf(' '));
          // All versions of a key together.
          if (key !== last) expect(byKey.has(key)).toBe(false);
          last = key;
          byKey.set(key, [...(byKey.get(key) ?? []), line]);
        }
        expect(new Map([...byKey].sort())).toEqual(new Map([...expected].sort()));
        if (isOrdered) expect([...byKey.keys()]).toEqual([...expected.keys()].sort());
        if (budget === 1) expect(slices).toBeGreaterThan(10);
        if (budget === 1_000_000) expect(slices).toBe(1);
      }
    });

    test('what a visit has passed is told for every key, whatever was changed in between', () => {
      const scene = new EngineScene(name);
      const random = new Random(newSeed(FILE));
      scene.group(() => {
        for (let index = 0; index < 400; index++) scene.put(keyOf(index), text(String(index)));
      });
      // A copy kept as the store keeps one when a space moves to another engine.
      const copy = new Map<string, string>();
      let position: Uint8Array | undefined;
      for (let round = 0; ; round++) {
        position = scene.writer.visitVersions(
          position,
          20,
          (key, keyLength, value, valueLength, _seq, _at, isTombstone) => {
            const keyHex = hex(key.subarray(0, keyLength));
            if (isTombstone) copy.delete(keyHex);
            else copy.set(keyHex, hex(value.subarray(0, valueLength)));
          },
        );
        if (position === undefined) break;
        expect(round).toBeLessThan(2000);
        const at = position;
        const hasPassed = (key: Buffer): boolean =>
          scene.writer.isBefore(Buffer.concat([text('??'), key]), 2, key.length, at);
        scene.group(() => {
          for (let change = 0; change < 15; change++) {
            const key = keyOf(random.below(600));
            if (random.chance(0.4)) {
              scene.del(key);
              if (hasPassed(key)) copy.delete(hex(key));
            } else {
              const value = text(`${round} ${change}`);
              scene.put(key, value);
              if (hasPassed(key)) copy.set(hex(key), hex(value));
            }
          }
        });
      }
      const expected = scene.liveKeys().map((key) => [key, hex(scene.live(key)!.value!)]);
      expect([...copy].sort()).toEqual(expected);
    });

    test('an empty engine has nothing to show, sweep or delete', () => {
      const scene = new EngineScene(name);
      expect(scene.visited(10)).toEqual({ lines: [], slices: 1 });
      scene.group(() => {
        expect(scene.del(text('nothing'))).toBe(false);
        expect(scene.removeRange()).toBe(0);
        const state = newSweep();
        scene.writer.sweep(state, 10);
        expect(state).toMatchObject({ done: true, removedCells: 0 });
      });
      scene.verify();
    });
  });

  describe('rows', () => {
    test('a reader of another tag is out of date, one of a row that was never published sees nothing', () => {
      const scene = new EngineScene(name, { row: 1, spaceId: 5 });
      const key = text('key');
      expect(scene.get(key)).toBeUndefined();
      expect(scene.lines(Infinity, false)).toEqual([]);
      scene.group(() => scene.put(key, text('value')));
      const other = scene.engine.openReader(scene.view, 1, 6, 2);
      const otherCursor = scene.engine.openCursor(scene.view, 1, 6, 2);
      const metaUnit = scene.view.pin(2);
      expect(() => other.find(metaUnit, key, key.length, Infinity, 0)).toThrow(StaleViewError);
      other.release();
      expect(() => otherCursor.seek(metaUnit, undefined, 0, Infinity, false, 0)).toThrow(StaleViewError);
      otherCursor.release();
      scene.view.unpin(2);
      scene.writer.tag = rowTag(6, code);
      scene.begin();
      scene.publish();
      expect(() => scene.get(key)).toThrow(StaleViewError);
      expect(() => scene.lines(Infinity, true)).toThrow(StaleViewError);
      expect(other.find(scene.view.pin(2), key, key.length, Infinity, 0)).toBe(true);
      expect(other.copyValue()).toEqual(text('value'));
      other.release();
      scene.view.unpin(2);
      // Nothing is locked by what threw.
      scene.group(() => scene.put(key, text('more')));
      expect(scene.writer.check()).toEqual([]);
    });

    test('destroy gives all memory back and leaves the row to others', () => {
      const scene = new EngineScene(name);
      const random = new Random(newSeed(FILE));
      scene.group(() => {
        randomGroup(scene, random, 2000, { large: 0.02 });
      });
      scene.snapshot();
      scene.group(() => {
        randomGroup(scene, random, 2000, { large: 0.02 });
      });
      scene.writer.destroy();
      publishTrees(scene.arena, scene.seq);
      scene.arena.reclaim();
      expect(scene.arena.retiredUnits).toBe(0);
      // The meta page is what is left.
      expect(scene.arena.usedUnits).toBe(HEADER_UNITS + 1);
      expect(() => scene.get(text('key'))).toThrow(StaleViewError);
      const arena = new ArenaReader(scene.layout);
      expect(arena.published()).not.toBe(0);
      expect(scene.engine.openWriter(scene.arena, 0, 9, {}).counts()).toMatchObject({
        liveEntries: 0,
        cells: 0,
        tag: rowTag(9, code),
      });
      expect(FREE_TAG).not.toBe(rowTag(9, code));
    });

    test('mark reports every page in use, once', () => {
      const scene = new EngineScene(name);
      const random = new Random(newSeed(FILE));
      for (let round = 0; round < 10; round++) {
        if (round % 3 === 1) scene.snapshot();
        scene.group(() => {
          randomGroup(scene, random, 300, { large: 0.02 });
        });
      }
      scene.arena.reclaim();
      let units = 0;
      const seen = new Set<number>();
      scene.engine.mark(scene.view, scene.view.pin(1), 0, (unit, count) => {
        expect(scene.arena.unitsOf(unit)).toBe(count);
        for (let at = unit; at < unit + count; at++) {
          expect(seen.has(at)).toBe(false);
          seen.add(at);
        }
        units += count;
      });
      scene.view.unpin(1);
      // Header and meta page are not the engine's.
      expect(units).toBe(scene.arena.usedUnits - scene.arena.retiredUnits - HEADER_UNITS - 1);
    });

    test('memory and metrics are numbers with names, and grow with what is stored and done', () => {
      const scene = new EngineScene(name);
      const sum = (figures: Readonly<Record<string, number>>): number => {
        for (const [what, figure] of Object.entries(figures)) {
          expect(what).toMatch(/^[a-z][A-Za-z0-9]*$/);
          expect(figure, what).toBeGreaterThanOrEqual(0);
        }
        return Object.values(figures).reduce((total, figure) => total + figure, 0);
      };
      sum(scene.writer.metrics());
      const before = sum(scene.writer.memory());
      scene.group(() => {
        for (let index = 0; index < 2000; index++) scene.put(keyOf(index), Buffer.alloc(40));
      });
      expect(sum(scene.writer.memory())).toBeGreaterThan(before + 2000 * 40);
      expect(sum(scene.writer.memory())).toBeLessThanOrEqual((scene.arena.usedUnits + 64) * 4096);
      sum(scene.writer.metrics());
    });
  });
});

test('engines of all kinds stand in one arena, are published together and survive their writer together', () => {
  const random = new Random(newSeed(FILE));
  const first = new EngineScene(ENGINES[0]!, { memoryBytes: 32 << 20 });
  const scenes = [first];
  for (let index = 1; index < 2 * ENGINES.length; index++)
    scenes.push(new EngineScene(ENGINES[index % ENGINES.length]!, { beside: first, row: index, spaceId: index + 10 }));
  let seq = 0;
  const publish = (): void => {
    publishTrees(first.arena, seq);
    for (const scene of scenes) {
      scene.publishedSeq = seq;
      scene.writer.endGroup();
    }
  };
  for (let round = 0; round < 30; round++) {
    for (const scene of scenes) {
      scene.seq = seq;
      scene.begin();
      randomGroup(scene, random, 40, { keys: 150 });
      seq = scene.seq;
    }
    if (round % 5 === 4) {
      first.die(scenes.slice(1));
      seq = first.publishedSeq;
    } else publish();
    if (round % 6 === 5) for (const scene of scenes) scene.verify();
  }
  publish();
  for (const scene of scenes) scene.verify();
  expect(new ArenaWriter(createArena({ memoryBytes: 1 << 20 })).usedUnits).toBe(HEADER_UNITS);
});
