/** Applied decisions against a map: whatever is added, noted and removed, all that is left is found whole, and nothing else. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { AppliedDecisions } from '../../../dist/engines/txn/applied-decisions.js';

const recordOf = (id: number) => ({
  id,
  maskLow: (id * 7) | 0,
  maskHigh: -(id % 1000) | 0,
  client: (id * 13) >>> 0,
  order: id * 3,
});

describe('applied decisions', () => {
  test('agree with a map after any sequence of changes', () => {
    const id = fc.oneof(fc.integer({ min: 1, max: 300 }), fc.integer({ min: 1, max: 2 ** 48 - 1 }));
    const step = fc.record({ kind: fc.constantFrom('add', 'add', 'delete', 'end'), id });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 400 }), (steps) => {
        const table = new AppliedDecisions();
        const model = new Map<number, boolean>();
        for (const { kind, id } of steps) {
          if (kind === 'add' && !model.has(id)) {
            table.add(recordOf(id));
            model.set(id, false);
          } else if (kind === 'delete') expect(table.delete(id)).toBe(model.delete(id));
          else if (kind === 'end') {
            expect(table.noteEnding(id)).toBe(model.get(id) === false);
            if (model.has(id)) model.set(id, true);
          }
        }
        expect(table.size).toBe(model.size);
        for (const [id, isEnding] of model) {
          expect(table.get(id)).toEqual(recordOf(id));
          expect(table.isEnding(id)).toBe(isEnding);
        }
        const byId = (a: { id: number }, b: { id: number }): number => a.id - b.id;
        expect([...table.values()].sort(byId)).toEqual([...model.keys()].map(recordOf).sort(byId));
      }),
      { numRuns: 200 },
    );
  });

  test('are found whole while many come and the oldest go', () => {
    const table = new AppliedDecisions();
    const first = 2 ** 33;
    let oldest = first;
    for (let id = first; id < first + 200_000; id++) {
      table.add(recordOf(id));
      if (id % 3 === 0) table.delete(oldest++);
    }
    expect(table.size).toBe(first + 200_000 - oldest);
    for (let id = oldest; id < first + 200_000; id += 97) expect(table.get(id)).toEqual(recordOf(id));
    expect(table.has(oldest - 1)).toBe(false);
    for (let id = oldest; id < first + 200_000; id++) table.delete(id);
    expect([...table.values()]).toEqual([]);
    table.add(recordOf(4));
    expect([...table.values()]).toEqual([recordOf(4)]);
  });
});
