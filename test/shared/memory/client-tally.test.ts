import fc from 'fast-check';
import { expect, test } from 'vitest';
import { ClientTally, TALLY_CLIENTS, TALLY_WORDS } from '../../../dist/shared/memory/client-tally.js';

const AROUND = 3;

test('tells of every client alone, and takes it back', () => {
  const words = new Int32Array(new SharedArrayBuffer((TALLY_WORDS + 2 * AROUND) * 4)).fill(-1);
  words.fill(0, AROUND, AROUND + TALLY_WORDS);
  const tally = new ClientTally(words, AROUND);
  for (let client = 0; client < TALLY_CLIENTS; client++) {
    expect(tally.isAny).toBe(false);
    tally.add(client);
    tally.add(client);
    expect(tally.isAny).toBe(true);
    tally.remove(client);
    expect(tally.isAny).toBe(true);
    if (client % 2 === 0) tally.remove(client);
    else tally.clear(client);
  }
  expect(words.every((word, index) => word === (index < AROUND || index >= AROUND + TALLY_WORDS ? -1 : 0))).toBe(true);
});

test('is as a count per client would be', () => {
  const calls = fc.array(
    fc.tuple(fc.constantFrom('add', 'remove', 'clear'), fc.integer({ max: TALLY_CLIENTS - 1, min: 0 })),
  );
  fc.assert(
    fc.property(calls, (all) => {
      const tally = new ClientTally(new Int32Array(new SharedArrayBuffer(TALLY_WORDS * 4)), 0);
      const counts = new Map<number, number>();
      for (const [call, client] of all) {
        const count = counts.get(client) ?? 0;
        // Nobody gives back what he has not.
        if (call === 'remove' && count === 0) continue;
        tally[call](client);
        counts.set(client, call === 'add' ? count + 1 : call === 'remove' ? count - 1 : 0);
        expect(tally.isAny).toBe([...counts.values()].some((held) => held > 0));
      }
    }),
  );
});

test('refuses memory that is too small', () => {
  const words = new Int32Array(new SharedArrayBuffer(TALLY_WORDS * 4));
  expect(() => new ClientTally(words, 1)).toThrow(expect.objectContaining({ code: 'ERR_INVALID_ARG' }));
});
