/**
 * All engines side by side: the same random operations give byte-identical iterations, forwards and backwards, over everything and over ranges, at the
 * newest state and at every open snapshot. A model says what they must be. Then each engine is filled from another, as a space that changes its
 * engine is.
 */
import { describe, expect, test } from 'vitest';
import { Random } from '../../dist/shared/random.js';
import { runCount } from '../support/pool-scene.js';
import { MIX, apply, keyAt, randomOperation, type Mix } from './contract-operations.js';
import { ENGINES, EngineScene, ORDERED, expectSame, keyOf, newSeed } from './contract-scene.js';

const FILE = 'differential.test.ts';
const MEMORY_BYTES = 24 << 20;

type Range = readonly [Buffer | undefined, Buffer | undefined];

/** Everything readers can see, over everything and over a few ranges, forwards and backwards. */
function pictures(scene: EngineScene, ranges: readonly Range[]): string[] {
  const lines: string[] = [];
  for (const atSeq of [Infinity, ...scene.snapshots]) {
    for (const [low, high] of ranges) {
      const forwards = scene.lines(atSeq, false, low, high);
      expectSame(
        scene.lines(atSeq, true, low, high).reverse(),
        forwards,
        `${scene.engine.name} at ${atSeq}, backwards`,
      );
      lines.push(`at ${atSeq}`, ...forwards);
    }
  }
  return lines;
}

/** What the model says they must be. */
function modelPictures(scene: EngineScene, ranges: readonly Range[]): string[] {
  return [Infinity, ...scene.snapshots].flatMap((atSeq) =>
    ranges.flatMap(([low, high]) => [
      `at ${atSeq}`,
      ...scene.modelLines(Math.min(atSeq, scene.publishedSeq), low, high),
    ]),
  );
}

function counted(scene: EngineScene): Record<string, number> {
  const { liveEntries, liveKeyBytes, liveValueBytes } = scene.writer.counts();
  return { liveEntries, liveKeyBytes, liveValueBytes };
}

const MIXES: readonly [string, Partial<Mix>][] = [
  ['few keys, so that each has many versions', { keys: 40, large: 0 }],
  ['many keys', { keys: 2000, large: 0.002 }],
  ['many range deletes', { keys: 500, clears: 0.05 }],
  ['large values', { keys: 120, large: 0.08 }],
];

test('there are ordered engines to compare', () => {
  expect(ORDERED.length).toBeGreaterThan(0);
});

describe.each(MIXES)('%s', (_what, mix) => {
  test('the same operations give byte-identical iterations on all engines', () => {
    const random = new Random(newSeed(FILE));
    for (let run = 0; run < runCount(1); run++) {
      const scenes = ENGINES.map((name) => new EngineScene(name, { memoryBytes: MEMORY_BYTES }));
      for (let round = 0; round < 12; round++) {
        for (let groups = random.between(1, 10); groups > 0; groups--) {
          const opens = scenes[0]!.snapshots.length < 4 && random.chance(0.2);
          const closes = scenes[0]!.snapshots.length > 0 && random.chance(0.15);
          const closed = random.below(Math.max(1, scenes[0]!.snapshots.length));
          const isAtomic = random.chance(0.5);
          const sweeps = random.chance(0.08);
          const dies = random.chance(0.05);
          const full = { ...MIX, ...mix, nowMs: scenes[0]!.nowMs };
          const operations = Array.from({ length: random.pick([1, 5, 80]) }, () => randomOperation(random, full));
          for (const scene of scenes) {
            if (opens) scene.snapshot();
            if (closes) scene.releaseSnapshot(closed);
            scene.group(() => {
              for (const operation of operations) apply(scene, operation);
            }, isAtomic);
            if (sweeps) scene.sweep(20);
            if (dies) scene.die();
          }
        }
        const nowMs = scenes[0]!.nowMs + random.below(20);
        const bounds = [keyAt(random.below(600)), keyAt(random.below(600)), keyOf(random.below(3000))].sort(
          Buffer.compare,
        );
        const ranges: Range[] = [
          [undefined, undefined],
          [bounds[0], bounds[1]],
          [bounds[1], undefined],
          [undefined, bounds[2]],
        ];
        for (const scene of scenes) scene.nowMs = nowMs;
        const expected = modelPictures(scenes[0]!, ranges);
        for (const scene of scenes) {
          expectSame(pictures(scene, ranges), expected, scene.engine.name);
          expect(counted(scene)).toEqual(counted(scenes[0]!));
          expect(scene.writer.check()).toEqual([]);
        }
      }
      for (const scene of scenes) scene.verify();
    }
  });
});

test('an engine that is filled from the versions of another shows the same at every snapshot', () => {
  const random = new Random(newSeed(FILE));
  for (const from of ENGINES) {
    const source = new EngineScene(from, { memoryBytes: MEMORY_BYTES });
    for (let round = 0; round < 20; round++) {
      if (round % 4 === 1) source.snapshot();
      source.group(() => {
        for (let count = random.between(1, 150); count > 0; count--)
          apply(source, randomOperation(random, { ...MIX, keys: 400, nowMs: source.nowMs }));
      });
    }
    const ranges: Range[] = [[undefined, undefined]];
    const expected = pictures(source, ranges);
    for (const to of ENGINES) {
      const copy = new EngineScene(to, { memoryBytes: MEMORY_BYTES });
      copy.snapshots = source.snapshots;
      copy.nowMs = source.nowMs;
      // Numbers come in the order of the other engine's keys, not ascending; every slice is a group, and is published.
      let position: Uint8Array | undefined;
      copy.publishedSeq = copy.seq = source.seq;
      do {
        copy.begin(false);
        position = source.writer.visitVersions(
          position,
          37,
          (key, keyLength, value, valueLength, seq, expiresAt, isTombstone) => {
            if (isTombstone) copy.writer.del(key, 0, keyLength, seq);
            else copy.writer.put(key, 0, keyLength, value, 0, valueLength, seq, expiresAt);
          },
        );
        copy.publish();
      } while (position !== undefined);
      for (const [key, versions] of source.model) copy.model.set(key, versions.slice());
      expectSame(pictures(copy, ranges), expected, `${to} filled from ${from}`);
      expect(copy.writer.check()).toEqual([]);
      expect(counted(copy)).toEqual(counted(source));
      // And it goes on as any other.
      copy.group(() => {
        for (let count = 200; count > 0; count--)
          apply(copy, randomOperation(random, { ...MIX, keys: 400, nowMs: copy.nowMs }));
      });
      copy.verify();
    }
  }
});
