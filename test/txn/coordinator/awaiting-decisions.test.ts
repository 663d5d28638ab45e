import { expect, test } from 'vitest';
import { AwaitingDecisions } from '../../../dist/engines/txn/awaiting-decisions.js';
import { Random } from '../../../dist/shared/random.js';

const SHARDS = 40;

class Scene {
  readonly neededFrom = new Array<number>(SHARDS).fill(Infinity);
  looks = 0;
  readonly awaiting = new AwaitingDecisions({
    count: SHARDS,
    decisionsNeededFrom: (shard) => {
      this.looks++;
      return this.neededFrom[shard]!;
    },
  });

  add(id: number, number: number, ...shards: number[]): void {
    const [low, high] = masksOf(shards);
    this.awaiting.add(id, number, low, high);
  }

  release(): number[] {
    const ids: number[] = [];
    this.awaiting.release((id) => ids.push(id));
    return ids;
  }
}

function masksOf(shards: readonly number[]): [low: number, high: number] {
  let low = 0;
  let high = 0;
  for (const shard of shards) {
    if (shard < 32) low |= 1 << shard;
    else high |= 1 << (shard - 32);
  }
  return [low, high];
}

test('what all have on disk is told at once, once', () => {
  const scene = new Scene();
  scene.add(7, 100, 0, 31, 32, 39);
  expect([scene.release(), scene.release()]).toEqual([[7], []]);
});

test('what one shard may ask for waits for it, and nobody waits behind it', () => {
  const scene = new Scene();
  scene.neededFrom[31] = 100;
  scene.add(6, 99, 0, 31);
  scene.add(7, 100, 0, 31);
  scene.add(8, 101, 0, 1);
  scene.add(9, 102, 30, 31, 32);
  expect(scene.release()).toEqual([6, 8]);
  scene.neededFrom[31] = 101;
  expect(scene.release()).toEqual([7]);
  scene.neededFrom[31] = Infinity;
  expect(scene.release()).toEqual([9]);
});

test('what one shard after the other may ask for waits for each of them', () => {
  const scene = new Scene();
  scene.neededFrom[3] = 50;
  scene.neededFrom[35] = 60;
  scene.add(7, 100, 3, 35);
  expect(scene.release()).toEqual([]);
  scene.neededFrom[3] = 101;
  expect(scene.release()).toEqual([]);
  // Others are applied meanwhile, by a shard that has told before that it needs none so old.
  scene.neededFrom[3] = 100;
  scene.neededFrom[35] = 101;
  expect(scene.release()).toEqual([]);
  scene.neededFrom[3] = 200;
  expect(scene.release()).toEqual([7]);
});

test('while nothing waits no shard is looked at', () => {
  const scene = new Scene();
  scene.release();
  scene.add(7, 100, 3);
  scene.awaiting.clear();
  expect(scene.release()).toEqual([]);
  expect(scene.looks).toBe(0);
});

test.each([1, 2, 3])('exactly those are told that no participant needs (seed %i)', (seed) => {
  const random = new Random(seed);
  const scene = new Scene();
  const waiting = new Map<number, { number: number; shards: number[] }>();
  let number = 0;
  // Some never come forward from here on.
  const isStuck = scene.neededFrom.map(() => random.chance(0.1));
  for (let step = 0; step < 500; step++) {
    for (let i = random.below(6); i > 0; i--) {
      const shards = [...new Set([random.below(SHARDS), random.below(SHARDS), random.below(SHARDS)])];
      const id = 1_000_000 - ++number;
      waiting.set(id, { number, shards });
      scene.add(id, number, ...shards);
      for (const shard of shards) scene.neededFrom[shard] = Math.min(scene.neededFrom[shard]!, number);
    }
    for (let shard = 0; shard < SHARDS; shard++) {
      if ((isStuck[shard]! && step > 100) || random.chance(0.9)) continue;
      const needed = scene.neededFrom[shard]!;
      scene.neededFrom[shard] = random.chance(0.5) ? Infinity : Math.min(needed + random.below(50), number + 1);
    }
    const free: number[] = [];
    for (const [id, { number: own, shards }] of waiting)
      if (shards.every((shard) => scene.neededFrom[shard]! > own)) free.push(id);
    for (const id of free) waiting.delete(id);
    expect(scene.release().sort((a, b) => b - a)).toEqual(free);
  }
  expect(waiting.size).toBeGreaterThan(0);
});
