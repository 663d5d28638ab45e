/** The checker of single keys must find what no order explains, and accept what one does. */
import { describe, expect, test } from 'vitest';
import { checkLinearizable } from '../../support/history/linearizability.mjs';
import { makeRandom } from '../../support/memory-random.mjs';

interface Operation {
  kind: string;
  key: number;
  start: number;
  end: number;
  value?: number;
  expected?: number;
  done?: boolean;
}

const seed = Number(process.env['SEED'] ?? Math.floor(Math.random() * 1_000_000));
console.log(`replay: SEED=${seed} npx vitest run test/txn/linearizability/checker.test.ts`);

/** 'put 1' at [start, end] and so on; key 0. */
function op(text: string, start: number, end: number): Operation {
  const [kind, ...words] = text.split(' ');
  const n = words.map(Number);
  const base = { kind: kind!, key: 0, start, end };
  if (kind === 'get' || kind === 'put') return { ...base, value: n[0]! };
  if (kind === 'del') return base;
  if (kind === 'update') return { ...base, expected: n[0]!, value: n[1]! };
  return { ...base, expected: n[0]!, value: n[1]!, ...(words[2] === '?' ? {} : { done: words[2] === 'true' }) };
}

const holds = (...operations: Operation[]): boolean => checkLinearizable(operations as never).isLinearizable;

describe('accepts', () => {
  test.each<[string, Operation[]]>([
    [
      'calls one after the other',
      [op('get 0', 1, 2), op('put 1', 3, 4), op('get 1', 5, 6), op('del', 7, 8), op('get 0', 9, 10)],
    ],
    ['a read beside a write that sees it or not', [op('put 1', 1, 6), op('get 0', 2, 3), op('get 1', 4, 5)]],
    ['writes in either order', [op('put 1', 1, 4), op('put 2', 2, 3), op('get 1', 5, 6)]],
    ['the other order', [op('put 1', 1, 4), op('put 2', 2, 3), op('get 2', 5, 6)]],
    [
      'a write of unknown outcome that never shows',
      [op('put 1', 1, Infinity), op('get 0', 2, 3), op('put 2', 4, 5), op('get 2', 6, 7)],
    ],
    ['one that shows late', [op('put 1', 1, Infinity), op('put 2', 4, 5), op('get 2', 6, 7), op('get 1', 8, 9)]],
    [
      'a chain of three open writes, seen in passing',
      [op('put 1', 1, 9), op('update 1 2', 1.5, 9.5), op('cas 2 3 true', 2, 8), op('get 2', 3, 4), op('get 3', 5, 6)],
    ],
    [
      'a condition that fails, for the value in between',
      [op('put 1', 1, 2), op('put 2', 3, 8), op('cas 1 9 false', 4, 5), op('get 2', 6, 7)],
    ],
    [
      'a condition of unknown outcome, either way',
      [op('put 1', 1, 2), op('cas 1 5 ?', 3, Infinity), op('get 1', 4, 5), op('get 5', 6, 7)],
    ],
  ])('%s', (_, operations) => expect(holds(...operations)).toBe(true));
});

describe('finds', () => {
  test.each<[string, Operation[]]>([
    ['a stale read', [op('put 1', 1, 2), op('put 2', 3, 4), op('get 1', 5, 6)]],
    ['a lost write', [op('put 1', 1, 2), op('get 0', 3, 4)]],
    ['a value from nowhere', [op('put 1', 1, 2), op('get 7', 3, 4)]],
    ['a value from the future', [op('get 1', 1, 2), op('put 1', 3, 4)]],
    ['going back', [op('put 1', 1, 8), op('get 1', 2, 3), op('get 0', 4, 5)]],
    ['a deletion undone', [op('put 1', 1, 2), op('del', 3, 4), op('get 1', 5, 6)]],
    ['two successes of one condition', [op('put 1', 1, 2), op('cas 1 2 true', 3, 6), op('cas 1 3 true', 4, 5)]],
    ['a lost update', [op('put 1', 1, 2), op('update 1 2', 3, 6), op('update 1 3', 4, 5)]],
    ['a condition that fails though it held', [op('put 1', 1, 2), op('cas 1 2 false', 3, 4)]],
    [
      'a condition that succeeds though it did not hold',
      [op('put 1', 1, 2), op('put 2', 3, 4), op('cas 1 3 true', 5, 6)],
    ],
    [
      'readers that see two writes in two orders',
      [op('put 1', 1, 20), op('put 2', 1.5, 20.5), op('get 1', 2, 3), op('get 2', 4, 5), op('get 1', 6, 7)],
    ],
    [
      'an unknown write that shows, goes, and shows again',
      [op('put 1', 1, Infinity), op('get 1', 2, 3), op('put 2', 4, 5), op('get 2', 6, 7), op('get 1', 8, 9)],
    ],
  ])('%s', (_, operations) => expect(holds(...operations)).toBe(false));
});

function forgotten({ kind, key, start, value, expected }: Operation): Operation {
  const known = kind === 'cas' ? { value: value!, expected: expected! } : value === undefined ? {} : { value };
  return { kind, key, start, end: Infinity, ...known };
}

/** What a perfect register under concurrent callers answers: each call takes effect at a random moment inside it. */
function simulated(
  random: () => number,
  count: number,
  keys: number,
  callers: number,
  unknownPart = 0.005,
): Operation[] {
  let clock = 0;
  let values = 0;
  const state = new Array<number>(keys).fill(0);
  const running: { operation: Operation; hasHappened: boolean }[] = [];
  const done: Operation[] = [];
  while (done.length < count) {
    if (running.length < callers && random() % 2 === 0) {
      const key = random() % keys;
      const kind = ['get', 'get', 'put', 'del', 'cas', 'update'][random() % 6]!;
      const operation: Operation = { kind, key, start: ++clock, end: Infinity };
      if (kind === 'put' || kind === 'cas' || kind === 'update') operation.value = ++values;
      if (kind === 'cas') operation.expected = random() % 2 === 0 ? state[key]! : random() % (values + 1);
      running.push({ operation, hasHappened: false });
      continue;
    }
    if (running.length === 0) continue;
    const one = running[random() % running.length]!;
    const { operation } = one;
    const { key } = operation;
    if (!one.hasHappened) {
      one.hasHappened = true;
      if (operation.kind === 'get') operation.value = state[key]!;
      else if (operation.kind === 'put') state[key] = operation.value!;
      else if (operation.kind === 'del') state[key] = 0;
      else if (operation.kind === 'update') {
        operation.expected = state[key]!;
        state[key] = operation.value!;
      } else {
        operation.done = state[key] === operation.expected;
        if (operation.done) state[key] = operation.value!;
      }
      continue;
    }
    running.splice(running.indexOf(one), 1);
    // Of some the caller never learns.
    if (random() / 2 ** 32 < unknownPart) done.push(forgotten(operation));
    else done.push({ ...operation, end: ++clock });
  }
  return [...done, ...running.map(({ operation }) => forgotten(operation))];
}

test('answers of a perfect register are accepted, whoever calls at once', () => {
  const random = makeRandom(seed);
  for (let round = 0; round < 20; round++) {
    const operations = simulated(random, 600, 5, 1 + (random() % 10));
    expect(checkLinearizable(operations as never).problems).toEqual([]);
  }
});

test('one answer that is changed is found', () => {
  const random = makeRandom(seed + 1);
  let changed = 0;
  for (let round = 0; round < 40; round++) {
    const operations = simulated(random, 300, 2, 1 + (random() % 6));
    const reads = operations.filter(({ kind, end }) => kind === 'get' && end !== Infinity);
    const read = reads[random() % reads.length]!;
    // What was written long before, or is written long after.
    const others = operations.filter(
      ({ kind, key, start, end }) => kind === 'put' && key === read.key && (end + 100 < read.start || start > read.end),
    );
    if (others.length === 0) continue;
    const other = others[random() % others.length]!;
    const wasOverwritten = operations.some(
      ({ kind, key, start, end }) => kind === 'put' && key === read.key && start > other.end && end < read.start,
    );
    if (other.start < read.end && !wasOverwritten) continue;
    read.value = other.value!;
    changed++;
    expect(checkLinearizable(operations as never).isLinearizable).toBe(false);
  }
  expect(changed).toBeGreaterThan(10);
});

test('operations of 12 callers on 20 keys take hardly longer each when they are ten times as many', () => {
  const cpuMs = (histories: number, count: number): number => {
    // Calls that nobody ever hears of stay open, and few keys would have too many of them.
    const all = Array.from({ length: histories }, (_, i) => simulated(makeRandom(seed + 2 + i), count, 20, 12, 0));
    const before = process.cpuUsage();
    for (const operations of all) expect(checkLinearizable(operations as never).problems).toEqual([]);
    const { user, system } = process.cpuUsage(before);
    return (user + system) / 1000;
  };
  const [tenTimesFew, many] = [cpuMs(10, 5000), cpuMs(1, 50_000)];
  console.log(`ten times 5,000 operations: ${Math.round(tenTimesFew)} ms, 50,000: ${Math.round(many)} ms`);
  // Ten times as long, if the time went with the square.
  expect(many).toBeLessThan(7 * tenTimesFew);
});
