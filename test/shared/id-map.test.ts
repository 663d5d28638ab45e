/** Maps by id against Map: whatever is set and removed, all that is left is found, and nothing else. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { IdMap } from '../../dist/shared/id-map.js';

/** Ids that share their low bits stand behind one another. */
const anyId = fc.oneof(
  fc.integer({ min: 1, max: 300 }),
  fc.integer({ min: -100, max: -1 }),
  fc.integer({ min: 1, max: 40 }).map((n) => n * 2 ** 32 + 5),
  fc.integer({ min: 1, max: 2 ** 48 - 1 }),
);

describe('a map by id', () => {
  test('agrees with Map after any sequence of changes', () => {
    const step = fc.record({ kind: fc.constantFrom('set', 'set', 'delete', 'clear'), id: anyId, value: fc.nat() });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 500 }), (steps) => {
        const map = new IdMap<number>();
        const model = new Map<number, number>();
        for (const [index, { kind, id, value }] of steps.entries()) {
          if (kind === 'set') {
            map.set(id, value);
            model.set(id, value);
          } else if (kind === 'delete') expect(map.delete(id)).toBe(model.delete(id));
          else if (index % 50 === 49) {
            map.clear();
            model.clear();
          }
          expect(map.size).toBe(model.size);
          expect(map.get(id)).toBe(model.get(id));
          expect(map.has(id)).toBe(model.has(id));
        }
        for (const [id, value] of model) expect(map.get(id)).toBe(value);
        expect(map.entries()).toEqual([...model].sort(([a], [b]) => a - b));
      }),
      { numRuns: 300 },
    );
  });

  test('does not find what is no id', () => {
    const map = new IdMap<string>();
    map.set(7, 'seven');
    for (const id of [0, -0, NaN, 7.5, Infinity]) {
      expect(map.get(id)).toBe(undefined);
      expect(map.delete(id)).toBe(false);
    }
    expect(map.values()).toEqual(['seven']);
  });

  test('keeps nothing of what has gone', () => {
    const map = new IdMap<object>();
    for (let id = 1; id <= 100_000; id++) {
      map.set(id, {});
      if (id > 1000) map.delete(id - 1000);
    }
    expect(map.size).toBe(1000);
    expect(map.get(99_000)).toBe(undefined);
    expect(map.get(99_001)).toEqual({});
  });
});
