/** Single-key operations of several threads at once: for each key there is an order that explains every answer. */
import { afterEach, beforeEach, expect, test } from 'vitest';
import { ConcordPool } from '../../../dist/index.js';
import { newDirectory, removeDirectory, sleep, until } from '../../threads/scene.js';
// @ts-expect-error a plain JavaScript helper
import { runLinearizability as untypedRun } from './run.mjs';

interface Report {
  problems: string[];
  operations: number;
  keys: number;
  kinds: Record<string, number>;
  failures: Record<string, number>;
}
const runLinearizability = untypedRun as (db: ConcordPool, options: object) => Promise<Report>;

const OPERATIONS = Number(process.env['OPERATIONS'] ?? 6000);
const SHARDS = 2;
/** A shard stays down after five deaths in a minute. */
const DEATHS_BORNE = 4;
const KINDS = ['get', 'put', 'del', 'cas', 'update'];

let directory: string;
let db: ConcordPool;

beforeEach(async () => {
  directory = newDirectory();
  db = await ConcordPool.open(directory, { shards: SHARDS, durability: 'os', memoryBytes: 128 << 20 });
});

afterEach(async () => {
  await db.close();
  removeDirectory(directory);
});

test(`${OPERATIONS} gets, puts, deletes, conditions, updates and transactions of three threads have an order`, async () => {
  const seed = Number(process.env['SEED'] ?? Math.floor(Math.random() * 1_000_000));
  console.log(`replay: SEED=${seed} npx vitest run test/txn/linearizability/threads.test.ts`);
  const { problems, operations, kinds, failures } = await runLinearizability(db, { operations: OPERATIONS, seed });
  console.log(JSON.stringify({ operations, kinds, failures }));
  expect(problems).toEqual([]);
  expect(operations).toBeGreaterThanOrEqual(OPERATIONS);
  for (const kind of KINDS) expect(kinds[kind], kind).toBeGreaterThan(OPERATIONS / 100);
});

test('so they have when shards die meanwhile: what nobody was told has happened or not', async () => {
  const seed = Number(process.env['SEED'] ?? Math.floor(Math.random() * 1_000_000));
  console.log(`seed ${seed}`);
  let deaths = 0;
  const disturb = async (isOver: () => boolean): Promise<void> => {
    while (!isOver() && deaths < DEATHS_BORNE * SHARDS) {
      const shard = deaths % SHARDS;
      await until('the shard is up', () => db.stats().shards[shard]!.state === 'running');
      await sleep(Math.random() * 200);
      await db.host!.killShard(shard);
      deaths++;
    }
    await until('all are up', () => db.stats().shards.every(({ state }) => state === 'running'));
  };
  const report = await runLinearizability(db, { operations: OPERATIONS, seed, disturb });
  const { problems, operations, kinds, failures } = report;
  console.log(JSON.stringify({ operations, kinds, failures, deaths }));
  expect(problems).toEqual([]);
  expect(deaths).toBeGreaterThan(0);
});
