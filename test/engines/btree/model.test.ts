/** Random histories against a model that knows every version, under many shapes of trees. fast-check prints the seed on failure. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { newSweep } from '../../../dist/engines/engine.js';
import { Scene } from './support.js';

type Step =
  | { type: 'put'; key: number; value: number; expiry: number }
  | { type: 'del'; key: number }
  | { type: 'publish' }
  | { type: 'snapshot' }
  | { type: 'release'; which: number }
  | { type: 'time'; passes: number }
  | { type: 'sweep'; pages: number }
  | { type: 'range'; low: number; high: number; lowInclusive: boolean; highInclusive: boolean; limit: number };

const step = (keys: number, values: number): fc.Arbitrary<Step> =>
  fc.oneof(
    {
      weight: 30,
      arbitrary: fc.record({
        type: fc.constant('put' as const),
        key: fc.nat(keys - 1),
        value: fc.nat(values),
        expiry: fc.nat(40),
      }),
    },
    { weight: 14, arbitrary: fc.record({ type: fc.constant('del' as const), key: fc.nat(keys - 1) }) },
    { weight: 4, arbitrary: fc.record({ type: fc.constant('publish' as const) }) },
    { weight: 2, arbitrary: fc.record({ type: fc.constant('snapshot' as const) }) },
    { weight: 2, arbitrary: fc.record({ type: fc.constant('release' as const), which: fc.nat(5) }) },
    { weight: 1, arbitrary: fc.record({ type: fc.constant('time' as const), passes: fc.nat(10) }) },
    {
      weight: 1,
      arbitrary: fc.record({ type: fc.constant('sweep' as const), pages: fc.integer({ min: 1, max: 20 }) }),
    },
    {
      weight: 1,
      arbitrary: fc.record({
        type: fc.constant('range' as const),
        low: fc.nat(keys - 1),
        high: fc.nat(keys - 1),
        lowInclusive: fc.boolean(),
        highInclusive: fc.boolean(),
        limit: fc.integer({ min: 1, max: 40 }),
      }),
    },
  );

function run(scene: Scene, steps: Step[], keyOf: (key: number) => Buffer, valueOf: (value: number) => Buffer): void {
  for (const step of steps) {
    switch (step.type) {
      case 'put':
        // Four in five never expire.
        scene.put(keyOf(step.key), valueOf(step.value), step.expiry < 8 ? scene.nowMs + step.expiry - 1 : 0);
        break;
      case 'del':
        scene.del(keyOf(step.key));
        break;
      case 'publish':
        scene.publish();
        break;
      case 'snapshot':
        scene.snapshot();
        break;
      case 'release':
        if (scene.snapshots.length > 0) scene.releaseSnapshot(step.which % scene.snapshots.length);
        break;
      case 'time':
        scene.nowMs += step.passes;
        break;
      case 'sweep': {
        const state = newSweep();
        for (let rounds = 0; !state.done; rounds++) {
          expect(rounds).toBeLessThan(10_000);
          scene.tree.sweep(state, step.pages);
        }
        break;
      }
      case 'range':
        scene.removeRange(keyOf(step.low), step.lowInclusive, keyOf(step.high), step.highInclusive, step.limit);
        break;
    }
  }
  scene.verify();
  expect(scene.tree.check()).toEqual([]);
  scene.snapshots.length = 0;
  scene.setSnapshots();
  for (let pass = 0; pass < 8; pass++) {
    const state = newSweep();
    while (!state.done) scene.tree.sweep(state, 1000);
  }
  expect(scene.tree.counts().cells).toBe(scene.tree.counts().liveEntries);
  scene.verify();
  for (const key of scene.liveKeys()) scene.del(Buffer.from(key, 'hex'));
  scene.verify();
  expect(scene.tree.counts()).toMatchObject({ rootUnit: 0, height: 0, cells: 0, treeUnits: 0, overflowUnits: 0 });
  scene.publish();
  scene.arena.reclaim();
  expect(scene.arena.usedUnits).toBe(8 + 1);
}

const shapes: {
  name: string;
  order?: number;
  pageBytes?: number | 'adaptive';
  keys: number;
  keyOf: (key: number) => Buffer;
  valueOf: (value: number) => Buffer;
  steps: number;
}[] = [];
const shortKey = (key: number): Buffer => Buffer.from(key === 0 ? '' : `k${key.toString(36)}`);
const mixedValue = (value: number): Buffer => Buffer.alloc(value, value & 0xff);
for (const order of [3, 4, 7, 1000, undefined]) {
  shapes.push({
    name: `order ${order ?? 'by page'}, short keys`,
    order,
    keys: 120,
    keyOf: shortKey,
    valueOf: mixedValue,
    steps: 600,
  });
}
for (const pageBytes of [8192, 16384, 32768]) {
  shapes.push({
    name: `pages of ${pageBytes}`,
    pageBytes,
    keys: 200,
    keyOf: shortKey,
    valueOf: (value) => Buffer.alloc(value * 3, value),
    steps: 500,
  });
}
shapes.push({
  name: 'adaptive pages, sizes that change in waves',
  pageBytes: 'adaptive',
  keys: 150,
  keyOf: shortKey,
  valueOf: (value) => Buffer.alloc((value % 3 === 0 ? 12 : 1) * value, value),
  steps: 800,
});
shapes.push({
  name: 'adaptive pages, long keys',
  pageBytes: 'adaptive',
  keys: 100,
  keyOf: (key) => Buffer.concat([Buffer.alloc((key * 397) % 700, 0x62), Buffer.from(`${key}`)]),
  valueOf: mixedValue,
  steps: 500,
});
shapes.push({
  name: 'keys that share 4,000 bytes',
  keys: 60,
  keyOf: (key) => Buffer.concat([Buffer.alloc(4000, 0x61), Buffer.from(`${key * 7919}`)]),
  valueOf: mixedValue,
  steps: 300,
});
shapes.push({
  name: 'keys of 0 to 4096 bytes without common prefix',
  keys: 80,
  keyOf: (key) => Buffer.alloc((key * 997) % 4097, key),
  valueOf: mixedValue,
  steps: 300,
});
shapes.push({
  name: 'values from 0 bytes to several overflow pages',
  keys: 40,
  keyOf: shortKey,
  valueOf: (value) => Buffer.alloc(value * value, value),
  steps: 200,
});
shapes.push({
  name: 'order 3, large keys and values',
  order: 3,
  keys: 40,
  keyOf: (key) => Buffer.concat([Buffer.alloc((key * 331) % 3000, 0x62), Buffer.from(`${key}`)]),
  valueOf: (value) => Buffer.alloc(value * 17, value),
  steps: 250,
});
shapes.push({
  name: 'few keys with many versions',
  order: 4,
  keys: 4,
  keyOf: shortKey,
  valueOf: mixedValue,
  steps: 500,
});

describe('random histories give the answers of the model', () => {
  for (const shape of shapes) {
    it(shape.name, () => {
      const options = {
        ...(shape.order === undefined ? {} : { order: shape.order }),
        ...(shape.pageBytes === undefined ? {} : { pageBytes: shape.pageBytes }),
      };
      fc.assert(
        fc.property(
          fc.array(step(shape.keys, 300), { minLength: shape.steps >> 1, maxLength: shape.steps, size: 'max' }),
          (steps) => {
            run(new Scene(options), steps, shape.keyOf, shape.valueOf);
          },
        ),
        { numRuns: 12 },
      );
    });
  }
});
