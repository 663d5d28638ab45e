/** Transfers between accounts on all shards: the sum is always right, whoever dies. For longer: BANK_KILLS=50 npx vitest run test/txn/bank, or node test/txn/bank/kill-loop.mjs --kills 1000. */
import { once } from 'node:events';
import * as path from 'node:path';
import { Worker } from 'node:worker_threads';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { ConcordPool } from '../../../dist/index.js';
import { newDirectory, removeDirectory, sleep } from '../../threads/scene.js';
import { Tickets } from '../../support/history/tickets.mjs';
// @ts-expect-error a plain JavaScript helper
import { Killer } from '../history/run.mjs';
// @ts-expect-error a plain JavaScript helper
import { audit, openAccounts, placeOf, readWitness, transfer } from './bank-rules.mjs';
// @ts-expect-error a plain JavaScript helper
import { bankLoop } from './kill-loop.mjs';

const KILLS = Number(process.env['BANK_KILLS'] ?? 3);
const LOAD_MS = 2000;
const TRANSFERS = 150;

let directory: string;

beforeEach(() => {
  directory = newDirectory();
});

afterEach(() => {
  removeDirectory(directory);
});

const newSeed = (): number => Math.floor(Math.random() * 1_000_000);

describe('of a process that is killed', () => {
  test(`${KILLS} times: every account is what the transfers say, and none that was acknowledged is missing`, async () => {
    const seed = newSeed();
    console.log(`replay: node test/txn/bank/kill-loop.mjs --kills ${KILLS} --seed ${seed}`);
    const result = await bankLoop({ kills: KILLS, seed, directory });
    console.log(JSON.stringify(result));
    expect(result.audits).toBeGreaterThan(1);
    expect(result.acknowledged).toBeGreaterThanOrEqual(20);
  }, 600_000);

  test('a shard that forgets a life is found out by the next', async () => {
    await expect(bankLoop({ kills: 2, seed: 1, directory, forget: 2 })).rejects.toThrow(/slip|the sum is/);
  }, 600_000);
});

test('while three threads transfer and shards and the coordinator die, every snapshot shows the whole sum', async () => {
  const witness = path.join(directory, 'witness.log');
  const options = { shards: 3, durability: 'os', memoryBytes: 128 << 20 } as const;
  let db = await ConcordPool.open(path.join(directory, 'store'), options);
  await openAccounts(db);
  const seed = newSeed();
  console.log(`seed ${seed}`);
  const tickets = new Tickets();
  const { memory } = tickets;
  const optionsOf = (thread: number): object => ({
    ...{ thread, memory, firstNumber: 0, callers: 5 },
    seed: seed + thread,
    witness,
  });
  const threads = await Promise.all(
    [1, 2].map(async (thread) => {
      const handle = db.handle();
      const worker = new Worker(new URL('./thread.mjs', import.meta.url), {
        workerData: { port: handle.port, options: optionsOf(thread) },
        transferList: [...handle.transferList],
      });
      await once(worker, 'message');
      return { worker, report: once(worker, 'message') };
    }),
  );
  let isOver = false;
  let snapshots = 0;
  const own = transfer(db, { ...optionsOf(0), isOver: () => isOver });
  const killer = new Killer(db);
  const deadline = performance.now() + LOAD_MS;
  while (performance.now() < deadline || tickets.counted < TRANSFERS || snapshots < 3) {
    expect(await audit(db)).toEqual([]);
    snapshots++;
    await sleep(20);
  }
  await killer.stop();
  isOver = true;
  for (const { worker } of threads) worker.postMessage('stop');
  const reports = [
    await own,
    ...(await Promise.all(threads.map(({ report }) => report))).map(([{ report }]) => report),
  ];
  const failures = reports.map((report: { failures: object }) => report.failures);
  const done = reports.reduce((sum: number, report: { done: number }) => sum + report.done, 0);
  console.log(JSON.stringify({ done, snapshots, failures, deaths: killer.deaths }));
  expect(await audit(db, readWitness(witness))).toEqual([]);
  expect(done).toBeGreaterThanOrEqual(TRANSFERS);
  expect(snapshots).toBeGreaterThan(2);
  await db.close();

  db = await ConcordPool.open(path.join(directory, 'store'), options);
  await placeOf(db, 1).space.count();
  expect(await audit(db, readWitness(witness))).toEqual([]);
  await db.close();
});

test('an audit finds money that came from nowhere, and transfers without a slip', async () => {
  const db = await ConcordPool.open(':memory:', { shards: 2, memoryBytes: 64 << 20 });
  await openAccounts(db);
  expect(await audit(db)).toEqual([]);
  const { space, key } = placeOf(db, 0) as { space: ConcordPool; key: string };
  await space.put(key, '1001');
  expect(await audit(db)).toEqual(['account 0 holds 1001, its slips say 1000', 'the sum is 40001, not 40000']);
  await space.put(key, '1000');
  expect(await audit(db, { acknowledged: [[0, 7]] })).toEqual([
    'transfer 7 of thread 0 was acknowledged, it has no slip',
  ]);
  await db.close();
});
