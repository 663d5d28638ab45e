/**
 * Threads play transactions and the history checker judges what they saw: at each level, in each mode, mixed, over several shards, spaces and engines. For longer:
 * TRANSACTIONS=20000 npx vitest run test/txn/history/history.test.ts, or node test/txn/history/stress.mjs --transactions 1000000.
 */
import { fileURLToPath } from 'node:url';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { ConcordPool } from '../../../dist/index.js';
import { newDirectory, removeDirectory } from '../../threads/scene.js';
// @ts-expect-error a plain JavaScript helper
import { runHistory as untypedRun } from './run.mjs';

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
const runHistory = untypedRun as (db: ConcordPool, options: object) => Promise<Report>;

const TRANSACTIONS = Number(process.env['TRANSACTIONS'] ?? 500);
const FAULTY_TRANSACTIONS = 1200;
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

function open(shards = SHARDS, engineModules: string[] = [], place = directory): Promise<ConcordPool> {
  return ConcordPool.open(place, { shards, durability: 'os', memoryBytes: 96 << 20, engineModules });
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
    db = await open(SHARDS, [], place);
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
  test.each(['serializable', 'mixed'])(
    '%s',
    async (level) => {
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
    },
    120_000,
  );
});

describe('the checker finds what is switched off in the store:', () => {
  /** The threads of shards import a module that takes it away. Few keys, so that it shows at once. */
  const withFault = async (fault: string): Promise<Report> => {
    const db = await open(SHARDS, [fileURLToPath(new URL(`./faults/${fault}.mjs`, import.meta.url))]);
    const options = { kind: 'list', level: 'serializable', mode: 'optimistic', groups: 3, seed: newSeed() };
    const report = await runHistory(db, { ...options, transactions: FAULTY_TRANSACTIONS });
    await db.close();
    console.log(report.names.join(', '), JSON.stringify(report.counts));
    return report;
  };

  test('the validation of what was read', async () => {
    expect((await withFault('no-validation')).names).toContain('lost-update');
  });

  test('that of the ranges', async () => {
    expect((await withFault('no-ranges')).names.join()).toMatch(/G2/);
  });

  test('the log of what a shard has voted for, when it dies', async () => {
    expect((await withFault('lost-votes')).names).toContain('lost-write');
  });
});
