/**
 * Threads play transactions and the history checker judges what they saw: at each level, in each mode, mixed, over several shards, spaces and engines. For longer:
 * TRANSACTIONS=20000 npx vitest run test/txn/history/history.test.ts, or node test/txn/history/stress.mjs --transactions 1000000.
 */
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { ConcordPool } from '../../../dist/index.js';
import { newDirectory, removeDirectory } from '../../threads/scene.js';
// @ts-expect-error a plain JavaScript helper
import { runHistory as untypedRun } from './run.mjs';
// @ts-expect-error a plain JavaScript helper
import { FAULTS as untypedFaults, stressTransactions as untypedStress } from './stress.mjs';

interface Report {
  isClean: boolean;
  names: string[];
  text: string;
  counts: Record<string, number>;
  transactions: number;
  committed: number;
  edges: number;
  seconds: number;
  checkSeconds: number;
  deaths?: { shards: number; coordinator: number };
}
const FAULTS = untypedFaults as string[];
const stressTransactions = untypedStress as (options: object) => Promise<{ problems: string[] }>;
const runHistory = untypedRun as (db: ConcordPool, options: object) => Promise<Report>;

const TRANSACTIONS = Number(process.env['TRANSACTIONS'] ?? 500);
const SHARDS = 3;

let directory: string;

beforeEach(() => {
  directory = newDirectory();
});

afterEach(() => {
  removeDirectory(directory);
});

function newSeed(): number {
  const seed = Number(process.env['SEED'] ?? Math.floor(Math.random() * 1_000_000));
  console.log(`seed ${seed}`);
  return seed;
}

function open(shards = SHARDS, place = directory): Promise<ConcordPool> {
  return ConcordPool.open(place, { shards, durability: 'os', memoryBytes: 96 << 20 });
}

function expectClean({ text, counts, transactions, committed, edges, seconds, checkSeconds, deaths }: Report): void {
  const figures = {
    transactions,
    committed,
    edges,
    seconds,
    checkSeconds,
    ...(deaths === undefined ? {} : { deaths }),
  };
  console.log(JSON.stringify({ ...figures, counts }));
  expect(text).toBe('');
  // Something was shown.
  expect(counts['committed']).toBeGreaterThan(transactions / 10);
  expect(edges).toBeGreaterThan(transactions);
}

const LEVELS = ['read-committed', 'repeatable-read', 'serializable', 'mixed'];
const MODES = ['optimistic', 'pessimistic', 'mixed'];
const CASES = LEVELS.flatMap((level) => MODES.map((mode) => ({ level, mode }))).filter(
  ({ level, mode }) => level === 'mixed' || mode !== 'mixed',
);

describe('transactions of two threads over three shards keep their level', () => {
  // One store for all: each case has keys of its own, and threads that have run for a while run faster.
  let db: ConcordPool;
  let place: string;

  beforeAll(async () => {
    place = newDirectory();
    db = await open(SHARDS, place);
  });

  afterAll(async () => {
    expect(await db.host!.check()).toEqual([]);
    await db.close();
    removeDirectory(place);
  });

  test.each(CASES)('$level, $mode: lists', async ({ level, mode }) => {
    expectClean(await runHistory(db, { transactions: TRANSACTIONS, kind: 'list', level, mode, seed: newSeed() }));
  });

  test.each([
    { level: 'read-committed', mode: 'optimistic' },
    { level: 'serializable', mode: 'optimistic' },
    { level: 'mixed', mode: 'mixed' },
  ])('$level, $mode: registers', async ({ level, mode }) => {
    expectClean(await runHistory(db, { transactions: TRANSACTIONS, kind: 'register', level, mode, seed: newSeed() }));
  });
});

test('in a store of one shard, too', async () => {
  const db = await open(1);
  const options = { transactions: TRANSACTIONS, level: 'mixed', mode: 'mixed' };
  expectClean(await runHistory(db, { ...options, kind: 'list', seed: newSeed() }));
  expectClean(await runHistory(db, { ...options, kind: 'register', seed: newSeed() }));
  await db.close();
});

describe('so they do while shards and the coordinator die', () => {
  test.each(['serializable', 'mixed'])('%s', async (level) => {
    const db = await open();
    const options = {
      transactions: TRANSACTIONS * 3,
      kind: 'list',
      level,
      mode: 'mixed',
      kills: true,
      seed: newSeed(),
    };
    const report = await runHistory(db, options);
    expectClean(report);
    expect(report.deaths!.shards + report.deaths!.coordinator).toBeGreaterThan(0);
    expect(await db.host!.check()).toEqual([]);
    await db.close();
  });
});

describe('the rounds of the stress, of much and of little contention, find what is switched off in the store:', () => {
  /** The threads of shards import a module that takes it away. */
  test.each([
    { plant: 'no-validation', what: 'the validation of what was read', finding: /lost-update/ },
    { plant: 'no-ranges', what: 'that of the ranges', finding: /G2/ },
    { plant: 'no-range-locks', what: 'the locks of ranges', finding: /G2/ },
    { plant: 'lost-votes', what: 'the log of what a shard has voted for, when it dies', finding: /lost-write/ },
  ])(
    '$what',
    async ({ plant, finding }) => {
      expect(FAULTS).toContain(plant);
      const { problems } = await stressTransactions({
        ...{ plant, directory, transactions: 60_000, level: 'serializable', mode: 'mixed', kinds: ['list'] },
        ...{ shards: SHARDS, threads: 2, callers: 8, kills: false, durability: 'os', seed: newSeed() },
      });
      expect(problems.join('\n')).toMatch(finding);
    },
    300_000,
  );
});
