/** Who may begin, and in which order. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { Admission } from '../../../dist/actors/transaction/admission.js';

test('as many as there are places enter at once, the others in the order of priority and age', () => {
  const admission = new Admission(2, 10);
  expect([admission.tryEnter(), admission.tryEnter(), admission.tryEnter()]).toEqual([true, true, false]);
  const entered: string[] = [];
  const wait = (name: string, priority: number, atMs: number): (() => void) =>
    admission.wait(priority, atMs, () => entered.push(name));
  wait('low', 0, 0);
  wait('high', 5, 1);
  wait('same as high', 5, 1);
  wait('aged', 3, -100);
  const gone = wait('gone', 1000, 0);
  gone();
  gone();
  expect(admission.waiting).toBe(4);
  for (let i = 0; i < 5; i++) admission.leave();
  expect(entered).toEqual(['aged', 'high', 'same as high', 'low']);
  expect([admission.active, admission.waiting]).toEqual([1, 0]);
});

test('nobody overtakes by coming when a place is just free', () => {
  const admission = new Admission(1, 10);
  admission.tryEnter();
  const entered: string[] = [];
  admission.wait(0, 0, () => entered.push('first'));
  admission.leave();
  expect(entered).toEqual(['first']);
  expect(admission.tryEnter()).toBe(false);
});

test('a stream of high priority does not starve a low one: it waits (difference × agingMs) at most, and for those who came before', () => {
  const agingMs = 10;
  for (const difference of [1, 100, 2000]) {
    const admission = new Admission(1, agingMs);
    admission.enter();
    let enteredMs = -1;
    let now = 0;
    admission.wait(-difference, 0, () => {
      enteredMs = now;
    });
    // Each takes one millisecond, and there are always ten more that wait.
    for (now = 0; enteredMs < 0 && now < 10 * difference * agingMs + 1000; now++) {
      while (admission.waiting < 11) admission.wait(0, now, () => undefined);
      admission.leave();
    }
    expect(enteredMs).toBeGreaterThanOrEqual(difference * agingMs - 11);
    expect(enteredMs).toBeLessThanOrEqual(difference * agingMs + 12);
  }
});

test('the order is that of since − priority × agingMs, whatever comes and goes', () => {
  fc.assert(
    fc.property(
      fc.array(
        fc.record({ priority: fc.integer({ min: -1000, max: 1000 }), atMs: fc.nat(1000), leaves: fc.boolean() }),
      ),
      (list) => {
        const admission = new Admission(1, 3);
        admission.enter();
        const entered: number[] = [];
        const cancels = list.map(({ priority, atMs }, index) =>
          admission.wait(priority, atMs, () => entered.push(index)),
        );
        for (const [index, { leaves }] of list.entries()) if (leaves) cancels[index]!();
        for (let i = 0; i <= list.length; i++) admission.leave();
        const order = (index: number): number => list[index]!.atMs - list[index]!.priority * 3;
        const expected = [...list.keys()]
          .filter((index) => !list[index]!.leaves)
          .sort((a, b) => order(a) - order(b) || a - b);
        expect(entered).toEqual(expected);
      },
    ),
  );
});
