/** The history checker must find what it is there for: hand-written histories of every anomaly, the same hidden in long clean ones, and an imagined store's faults. */
import { describe, expect, test } from 'vitest';
import { check as untypedCheck, textOfReport } from '../../support/history/check.mjs';
import { History } from '../../support/history/history.mjs';
import { PLANTS, planted } from '../../support/history/plants.mjs';
import { FAULTS, historyOf, simulate } from '../../support/history/simulate.mjs';
import { makeRandom } from '../../support/memory-random.mjs';

const LEVELS = ['read-committed', 'repeatable-read', 'serializable'] as const;
type Level = (typeof LEVELS)[number];
const check = untypedCheck as (history: unknown, options?: object) => ReturnType<typeof untypedCheck>;

const seed = Number(process.env['SEED'] ?? Math.floor(Math.random() * 1_000_000));
/** Of what is tried at random: more for longer. */
const ROUNDS = Number(process.env['ROUNDS'] ?? 1);
console.log(`replay: SEED=${seed} npx vitest run test/txn/history/checker.test.ts`);

describe.each(LEVELS)('at %s', (level) => {
  test.each(Object.entries(PLANTS))(
    'a hand-written %s is found where the level excludes it',
    (name, { levels, txns }) => {
      const place = { x: 0, y: 1, X: [], Y: [], e: [1, 2, 3, 4], after: 100 };
      const report = check(
        historyOf(
          'list',
          txns(place).map((txn) => planted(txn, level)),
        ),
      );
      if (levels.includes(level)) expect(report.names).toContain(name);
      else expect(textOfReport(report)).toBe('');
    },
  );

  const clean = simulate({ seed, txns: 2000, level });

  test.each(Object.entries(PLANTS))(
    'a %s is found in 2,000 clean transactions, wherever it is',
    (name, { levels, txns }) => {
      const random = makeRandom(seed + 1);
      const after = Math.max(...clean.txns.map(({ end }) => (end === Infinity ? 0 : end)));
      for (let round = 0; round < ROUNDS; round++) {
        // Two keys that are written to no more.
        const x = random() % (clean.lists.length - 1);
        const y = x + 1 + (random() % (clean.lists.length - x - 1));
        const e = [1, 2, 3, 4].map((n) => 1_000_000 + n);
        const place = { x, y, X: clean.lists[x]!, Y: clean.lists[y]!, e, after };
        const all = [...clean.txns];
        for (const txn of txns(place)) all.splice(random() % all.length, 0, planted(txn, level));
        const report = check(historyOf('list', all));
        if (levels.includes(level)) expect(report.names, `keys ${x} and ${y}`).toContain(name);
        else expect(textOfReport(report)).toBe('');
      }
    },
  );

  test('histories of a store without faults are clean', () => {
    for (let round = 0; round < 4 * ROUNDS; round++) {
      const { txns } = simulate({ seed: seed + round, txns: 1500, level, concurrency: 2 + (round % 9) });
      const report = check(historyOf('list', txns));
      expect(textOfReport(report)).toBe('');
      expect(report.committed).toBeGreaterThan(300);
    }
  });

  const faults = Object.entries(FAULTS).filter(([, levels]) => levels.includes(level));
  test.each(faults)('a store with %s is found out', (fault) => {
    let found = 0;
    for (let round = 0; round < 4 * ROUNDS; round++) {
      const { txns } = simulate({ seed: seed + round, txns: 2000, level, fault: fault as keyof typeof FAULTS });
      if (!check(historyOf('list', txns)).isClean) found++;
    }
    expect(found).toBeGreaterThanOrEqual(3 * ROUNDS);
  });
});

test('levels may be mixed in one history: it is judged by what each of its transactions was promised', () => {
  for (let round = 0; round < 4 * ROUNDS; round++) {
    const { txns } = simulate({ seed: seed + round, txns: 1500, level: 'mixed' });
    expect(textOfReport(check(historyOf('list', txns)))).toBe('');
  }
  const skewed = (first: Level, second: Level): unknown[] => [
    {
      level: first,
      ops: [
        ['r', 0, []],
        ['r', 1, []],
        ['a', 0, 1],
      ],
    },
    {
      level: second,
      ops: [
        ['r', 0, []],
        ['r', 1, []],
        ['a', 1, 2],
      ],
    },
  ];
  const namesOf = (txns: unknown[]): string[] => check(historyOf('list', txns as never)).names;
  expect(namesOf(skewed('serializable', 'serializable'))).toEqual(['G2-item']);
  // Neither the snapshot's reader nor the other one could know.
  expect(namesOf(skewed('serializable', 'repeatable-read'))).toEqual([]);
  expect(namesOf(skewed('repeatable-read', 'serializable'))).toEqual([]);
});

test('a weaker history is not clean at a stronger level', () => {
  const snapshot = historyOf('list', simulate({ seed, txns: 3000, level: 'repeatable-read' }).txns);
  expect(check(snapshot, { level: 'serializable' }).names).toEqual(expect.arrayContaining(['G2-item', 'G2']));
  const committed = historyOf('list', simulate({ seed, txns: 3000, level: 'read-committed' }).txns);
  expect(check(committed, { level: 'repeatable-read' }).names).toEqual(expect.arrayContaining(['G-single']));
});

describe('details of lists', () => {
  const names = (...txns: object[]): string[] => check(historyOf('list', txns as never)).names;

  test('a transaction of unknown outcome may have happened, or not, or late', () => {
    const unknown = {
      outcome: 'info',
      start: 1,
      ops: [
        ['a', 0, 1],
        ['a', 1, 2],
      ],
    };
    expect(
      names(unknown, {
        start: 2,
        end: 3,
        ops: [
          ['r', 0, []],
          ['r', 1, []],
        ],
      }),
    ).toEqual([]);
    expect(
      names(unknown, {
        start: 2,
        end: 3,
        ops: [
          ['r', 0, [1]],
          ['r', 1, [2]],
        ],
      }),
    ).toEqual([]);
    const early = {
      start: 2,
      end: 3,
      ops: [
        ['r', 0, []],
        ['r', 1, []],
      ],
    };
    expect(
      names(unknown, early, {
        start: 4,
        end: 5,
        ops: [
          ['r', 0, [1]],
          ['r', 1, [2]],
        ],
      }),
    ).toEqual([]);
    // But not half.
    expect(
      names(unknown, {
        start: 2,
        end: 3,
        ops: [
          ['r', 0, [1]],
          ['r', 1, []],
        ],
      }),
    ).toEqual(['OTV']);
    const late = { start: 6, end: 7, ops: [['r', 1, []]] };
    expect(names(unknown, { start: 4, end: 5, ops: [['r', 0, [1]]] }, late)).toEqual(['G-single-realtime']);
  });

  test('reads of own writes are judged by what the transaction wrote on', () => {
    expect(
      names({
        ops: [
          ['r', 0, []],
          ['a', 0, 1],
          ['r', 0, [1]],
          ['a', 0, 2],
          ['r', 0, [1, 2]],
        ],
      }),
    ).toEqual([]);
    expect(
      names({
        ops: [
          ['a', 0, 1],
          ['r', 0, [1]],
        ],
      }),
    ).toEqual([]);
    expect(
      names({
        ops: [
          ['a', 0, 1],
          ['a', 0, 2],
          ['r', 0, [2]],
        ],
      }),
    ).toEqual(['internal']);
    const other = { ops: [['a', 0, 5]] };
    expect(
      names(other, {
        ops: [
          ['a', 0, 1],
          ['r', 0, [5, 1]],
        ],
      }),
    ).toEqual([]);
    expect(
      names(other, {
        ops: [
          ['r', 0, []],
          ['a', 0, 1],
          ['r', 0, [5, 1]],
        ],
      }),
    ).toContain('internal');
    // Of a transaction that failed, too.
    expect(
      names({
        outcome: 'fail',
        ops: [
          ['r', 0, []],
          ['a', 0, 1],
          ['r', 0, []],
        ],
      }),
    ).toEqual(['internal']);
  });

  test('the order of a thread counts where the order of time is left out', () => {
    const txns = [
      { thread: 1, start: 1, end: 2, ops: [['a', 0, 1]] },
      { thread: 1, start: 3, end: 4, ops: [['r', 0, []]] },
      { thread: 2, start: 5, end: 6, ops: [['r', 0, [1]]] },
    ] as never;
    const history = historyOf('list', txns);
    expect(check(history).names).toEqual(['G-single-realtime']);
    expect(check(history, { realTime: false }).names).toEqual([]);
    expect(check(history, { realTime: false, sessions: true }).names).toEqual(['G-single-session']);
  });

  test('a causal reverse is one where the order is strict; a stale read always is', () => {
    const first = { start: 1, end: 10, ops: [['a', 0, 1]] };
    const second = { start: 2, end: 4, ops: [['a', 1, 2]] };
    const snapshot = {
      start: 3,
      end: 9,
      ops: [
        ['r', 0, [1]],
        ['r', 1, []],
      ],
    };
    const behind = { start: 5, end: 6, ops: [['r', 0, []]] };
    const reversed = historyOf('list', [first, second, snapshot, behind] as never);
    expect(check(reversed).names).toEqual(['G-nonadjacent-realtime']);
    expect(check(reversed, { realTime: false }).names).toEqual([]);
    expect(check(reversed, { isStrict: false }).names).toEqual([]);
    // Behind the one that has seen the first.
    const stale = { start: 11, end: 12, ops: [['r', 0, []]] };
    const both = historyOf('list', [first, second, snapshot, behind, stale] as never);
    expect(check(both, { isStrict: false }).names).toEqual(['G-single-realtime']);
  });

  test('cycles through many transactions are found, the shortest is told', () => {
    const LENGTH = 500;
    const txns = Array.from({ length: LENGTH }, (_, n) => ({
      ops: [
        ['a', n, n + 1],
        ['r', (n + 1) % LENGTH, [((n + 1) % LENGTH) + 1]],
      ],
    }));
    const report = check(historyOf('list', txns as never));
    expect(report.names).toEqual(['G1c']);
    expect(report.findings[0]!.txns.length).toBe(LENGTH);
    const txnsShort = [
      ...txns,
      {
        ops: [
          ['a', 9000, 9000],
          ['r', 9001, [9001]],
        ],
      },
      {
        ops: [
          ['a', 9001, 9001],
          ['r', 9000, [9000]],
        ],
      },
    ];
    const lengths = check(historyOf('list', txnsShort as never)).findings.map((finding) => finding.txns.length);
    expect(lengths).toContain(2);
  });
});

describe('registers', () => {
  const report = (level: Level, ...txns: object[]): string[] =>
    check(historyOf('register', txns.map((txn) => planted(txn as never, level)) as never)).names;
  const cases: [name: string, levels: readonly string[], txns: object[]][] = [
    ['G1a', LEVELS, [{ outcome: 'fail', ops: [['w', 0, 1]] }, { ops: [['r', 0, 1, 5]] }]],
    [
      'G1b',
      LEVELS,
      [
        {
          ops: [
            ['w', 0, 1],
            ['w', 0, 2],
          ],
        },
        { ops: [['r', 0, 1, 5]] },
      ],
    ],
    [
      'G1c',
      LEVELS,
      [
        {
          ops: [
            ['w', 0, 1],
            ['r', 1, 2, 6],
          ],
        },
        {
          ops: [
            ['w', 1, 2],
            ['r', 0, 1, 5],
          ],
        },
      ],
    ],
    [
      'G0',
      LEVELS,
      [
        {
          ops: [
            ['w', 0, 1],
            ['w', 1, 2],
          ],
        },
        {
          ops: [
            ['w', 0, 3],
            ['w', 1, 4],
          ],
        },
        { ops: [['r', 0, 1, 5]] },
        { ops: [['r', 0, 3, 6]] },
        { ops: [['r', 1, 4, 5]] },
        { ops: [['r', 1, 2, 6]] },
      ],
    ],
    [
      'OTV',
      LEVELS,
      [
        {
          ops: [
            ['w', 0, 1],
            ['w', 1, 2],
          ],
        },
        {
          ops: [
            ['r', 0, 1, 5],
            ['r', 1, 0],
          ],
        },
        { ops: [['r', 1, 2, 5]] },
      ],
    ],
    [
      'G-single',
      ['repeatable-read', 'serializable'],
      [
        {
          ops: [
            ['w', 0, 1],
            ['w', 1, 2],
          ],
        },
        {
          ops: [
            ['r', 1, 0],
            ['r', 0, 1, 5],
          ],
        },
        { ops: [['r', 1, 2, 5]] },
      ],
    ],
    [
      'lost-update',
      ['repeatable-read', 'serializable'],
      [
        {
          ops: [
            ['r', 0, 0],
            ['w', 0, 1],
          ],
        },
        {
          ops: [
            ['r', 0, 0],
            ['w', 0, 2],
          ],
        },
      ],
    ],
    [
      'G2-item',
      ['serializable'],
      [
        {
          ops: [
            ['r', 0, 0],
            ['r', 1, 0],
            ['w', 0, 1],
          ],
        },
        {
          ops: [
            ['r', 0, 0],
            ['r', 1, 0],
            ['w', 1, 2],
          ],
        },
        {
          ops: [
            ['r', 0, 1, 5],
            ['r', 1, 2, 6],
          ],
        },
      ],
    ],
    ['unknown-value', LEVELS, [{ ops: [['r', 0, 7, 5]] }]],
    ['duplicate-value', LEVELS, [{ ops: [['w', 0, 7]] }, { ops: [['w', 0, 7]] }]],
    [
      'internal',
      LEVELS,
      [
        {
          ops: [
            ['w', 0, 7],
            ['r', 0, 0],
          ],
        },
      ],
    ],
    ['incompatible-order', LEVELS, [{ ops: [['w', 0, 7]] }, { ops: [['r', 0, 7, 3]] }, { ops: [['r', 0, 7, 4]] }]],
  ];
  describe.each(LEVELS)('at %s', (level) => {
    test.each(cases)('%s is found where the level excludes it', (name, levels, txns) => {
      const names = report(level, ...txns);
      if (levels.includes(level)) expect(names).toContain(name);
      else expect(names).toEqual([]);
    });
  });

  test('without version numbers the order follows from who read what before writing', () => {
    // 0 → 1 → 2 by reads; the last one reads 1 of key 0 and what was written to key 1 with 2.
    const chain = [
      {
        ops: [
          ['r', 0, 0],
          ['w', 0, 1],
        ],
      },
      {
        ops: [
          ['r', 0, 1],
          ['w', 0, 2],
          ['w', 1, 5],
        ],
      },
    ];
    expect(
      report('repeatable-read', ...chain, {
        ops: [
          ['r', 0, 2],
          ['r', 1, 5],
        ],
      }),
    ).toEqual([]);
    expect(
      report('repeatable-read', ...chain, {
        ops: [
          ['r', 0, 1],
          ['r', 1, 5],
        ],
      }),
    ).toEqual(['G-single']);
    expect(
      report('read-committed', ...chain, {
        ops: [
          ['r', 1, 5],
          ['r', 0, 1],
        ],
      }),
    ).toEqual(['OTV']);
    const circle = [
      {
        ops: [
          ['r', 0, 2],
          ['w', 0, 1],
        ],
      },
      {
        ops: [
          ['r', 0, 1],
          ['w', 0, 2],
        ],
      },
    ];
    expect(report('read-committed', ...circle)).toContain('cyclic-versions');
  });
});

test('histories of several threads become one, whatever each of them had seen of a list', () => {
  const { txns } = simulate({ seed, txns: 4000, level: 'serializable' });
  const whole = historyOf('list', txns);
  const parts = [new History('list'), new History('list'), new History('list')];
  txns.forEach((txn, index) => parts[index % 3]!.add(txn as never));
  const merged = new History('list');
  for (const part of parts) merged.addParts(structuredClone(part.toParts()) as never);
  const expected = check(whole);
  const report = check(merged);
  expect(textOfReport(report)).toBe('');
  const { committed, nodes, edges } = report;
  expect({ committed, nodes, edges }).toEqual({
    committed: expected.committed,
    nodes: expected.nodes,
    edges: expected.edges,
  });
});

test('transactions take hardly longer each to check when they are ten times as many', () => {
  const cpuMs = (txns: number, seedOfOne: number): number => {
    const history = historyOf('list', simulate({ seed: seedOfOne, txns, level: 'serializable', concurrency: 16 }).txns);
    const before = process.cpuUsage();
    const report = check(history);
    const { user, system } = process.cpuUsage(before);
    expect(textOfReport(report)).toBe('');
    return (user + system) / 1000;
  };
  let tenTimesFew = 0;
  for (let i = 0; i < 10; i++) tenTimesFew += cpuMs(10_000, seed + i);
  const many = cpuMs(100_000, seed);
  console.log(`ten times 10,000 transactions: ${Math.round(tenTimesFew)} ms, 100,000: ${Math.round(many)} ms`);
  // Ten times as long, if the time went with the square.
  expect(many).toBeLessThan(7 * tenTimesFew);
});
