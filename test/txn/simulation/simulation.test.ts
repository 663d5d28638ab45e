/**
 * Transactions over several shards in a simulated store, seed after seed (simulation.ts), and with one promise of the protocol taken away at a time
 * (plants.ts): each such fault must be found.
 *
 *   TXN_SIMULATION_SEED=7        the first seed (default: any)
 *   TXN_SIMULATION_SEEDS=20000   so many (default 200; a thousand take half a minute of one core)
 *     They can be shared out: seeds 1 to 20000 are TXN_SIMULATION_SEED=1 and =10001 with 10000 each.
 *   TXN_SIMULATION_TRACE=1       tells what happens; best with one seed
 */
import { describe, expect, test } from 'vitest';
import { PLANTS, type Plant } from './plants.js';
import { simulate, type Report } from './simulation.js';
import type { Loss } from './world.js';

const { TXN_SIMULATION_SEED, TXN_SIMULATION_SEEDS, TXN_SIMULATION_TRACE } = process.env;
const FIRST = Number(TXN_SIMULATION_SEED ?? Math.floor(Math.random() * 1e9));
const SEEDS = Number(TXN_SIMULATION_SEEDS ?? 200);
const FAILURES_SHOWN = 5;
/** Fixed: of these one is known to show the fault. */
const PLANT_SEEDS_MAX = 1000;

function lossOf(seed: number): Loss {
  return seed % 2 === 0 ? 'process' : 'power';
}

function replayOf(seed: number): string {
  return `replay: TXN_SIMULATION_SEED=${seed} TXN_SIMULATION_SEEDS=1 TXN_SIMULATION_TRACE=1 npx vitest run test/txn/simulation -t seeds`;
}

describe('transactions in a simulated store', () => {
  test(`are atomic, isolated, durable and forgotten, in ${SEEDS} seeds`, async () => {
    const failures: string[] = [];
    const sum = { committed: 0, aborted: 0, unknown: 0, snapshots: 0, processes: 0, threadKills: 0 };
    for (let seed = FIRST; seed < FIRST + SEEDS && failures.length < FAILURES_SHOWN; seed++) {
      const lines: string[] = [];
      const trace = TXN_SIMULATION_TRACE === undefined ? undefined : (line: string): number => lines.push(line);
      const report = await simulate({ seed, loss: lossOf(seed), trace });
      if (lines.length > 0) console.log(lines.join('\n'));
      if (report.problem !== undefined) failures.push(`${report.problem}\n${replayOf(seed)}`);
      for (const name of ['committed', 'aborted', 'unknown', 'snapshots', 'processes'] as const)
        sum[name] += report[name];
      sum.threadKills += report.counts.threadKills;
    }
    expect(failures.join('\n\n')).toBe('');
    if (SEEDS < 100) return;
    // It looked at something.
    expect(sum.committed).toBeGreaterThan(SEEDS);
    expect(sum.snapshots).toBeGreaterThan(SEEDS);
    expect(sum.aborted).toBeGreaterThan(SEEDS / 2);
    expect(sum.unknown).toBeGreaterThan(SEEDS / 10);
    expect(sum.processes).toBeGreaterThan(SEEDS * 1.5);
    expect(sum.threadKills).toBeGreaterThan(SEEDS);
  }, 3_600_000);

  /**
   * Seeds that have failed once, where others would have to be many to show the same.
   * 4066: the decision waits for a new coordinator; meanwhile a shard that only reads is replaced, and its key is written.
   * 106483363: a client is gone before a shard has served its commit, which stands on what it has locked in another one.
   */
  test.each([4066, 106_483_363])('are so in seed %i', async (seed) => {
    expect((await simulate({ seed, loss: lossOf(seed) })).problem).toBeUndefined();
  });

  test('have the same history whenever a seed is run', async () => {
    const historyOf = async (seed: number): Promise<{ report: Report; lines: string[] }> => {
      const lines: string[] = [];
      const report = await simulate({ seed, loss: lossOf(seed), trace: (line) => lines.push(line) });
      return { report, lines };
    };
    for (const seed of [FIRST, FIRST + 1]) {
      const one = await historyOf(seed);
      expect(one.lines.length).toBeGreaterThan(10);
      expect(await historyOf(seed)).toEqual(one);
    }
  });
});

/** First seeds that show each fault, and what is lost in the case. */
const SHOWN: Record<Plant, { readonly loss: Loss; readonly from: number }> = {
  'votes are not synced': { loss: 'power', from: 1 },
  'decisions are not synced': { loss: 'power', from: 1 },
  'decisions are not logged': { loss: 'power', from: 1 },
  'applied before it is published': { loss: 'process', from: 1 },
  'given up without a fence': { loss: 'process', from: 1 },
  'forgotten before all shards have it on disk': { loss: 'power', from: 140 },
  'snapshots do not wait for the board': { loss: 'process', from: 1 },
  'reads do not wait for the board': { loss: 'process', from: 1 },
  'locks of prepared transactions are not kept': { loss: 'process', from: 1 },
  'lost votes are not noticed': { loss: 'process', from: 1 },
};

describe('the simulation finds that', () => {
  test.each(PLANTS)('%s', async (plant) => {
    const { loss, from } = SHOWN[plant];
    for (let seed = from; seed < from + PLANT_SEEDS_MAX; seed++) {
      const { problem } = await simulate({ seed, loss, plant });
      if (problem === undefined) continue;
      console.log(`seed ${seed}: ${problem.slice(0, 200)}`);
      return;
    }
    throw new Error(`not one of ${PLANT_SEEDS_MAX} seeds has shown it`);
  });
});
