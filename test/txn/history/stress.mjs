/**
 * Transactions by the million, judged by the history checker. USAGE says how it is called.
 *
 * So many transactions for each level (--seconds: or as long), in rounds with keys of their own, each judged when it is over. Of three rounds one has few keys that
 * everybody wants, one more, one many (--groups: all have so many groups of keys). --kills: shards and the coordinator die meanwhile. The store is opened anew for
 * each round: a shard that dies five times in a minute would stay down.
 * With --plant a fault is put into the store (faults/), which must be found: the same rounds, until one is not clean. What only a loss of power shows, as votes that
 * are not synced, is planted in the simulation (test/txn/simulation/plants.ts).
 */
import * as fs from 'node:fs';
import * as os from 'node:os';
import * as path from 'node:path';
import { fileURLToPath } from 'node:url';
import { CommandLine } from '../../../scripts/command-line.mjs';
import { ConcordPool } from '../../../dist/index.js';
import { LEVELS } from '../../support/history/history.mjs';
import { runHistory } from './run.mjs';

/** In the folder faults. */
export const FAULTS = ['no-validation', 'no-ranges', 'no-range-locks', 'lost-votes'];
const USAGE = `npm run stress:txn -- [options]: histories of transactions, judged

  --transactions 1000000   of each level; --seconds n: as long as that instead
  --level all              all, or some of ${LEVELS.join(', ')}, mixed, with commas
  --mode mixed             optimistic, pessimistic or mixed
  --kind both              list, register or both
  --shards 3  --threads 2  --callers 8 (of each thread)
  --groups n               groups of keys in use; default: rounds of 6, 24 and 96
  --kills                  shards and the coordinator die meanwhile
  --durability os          memory, os or sync
  --seed n  --directory d  default: of the clock; a temporary folder
  --plant all              a fault that must be found: ${FAULTS.join(', ')}, or each of them

Exit code 1 when a round was not clean, or check() found something; with --plant: when nothing was found.
`;
const PER_ROUND = 20_000;
/** Enough to show a fault. */
const PER_PLANTED_ROUND = 2000;
/** Groups of keys in use at a time: much contention, some, little. */
const GROUPS = [6, 24, 96];

/** @returns {Promise<{ problems: string[], totals: Record<string, number> }>} */
export async function stressTransactions(options) {
  const {
    transactions,
    seconds,
    level,
    mode,
    kinds,
    shards,
    threads,
    callers,
    groups,
    kills,
    durability,
    seed,
    directory,
    plant,
  } = options;
  const engineModules = plant === undefined ? [] : [fileURLToPath(new URL(`./faults/${plant}.mjs`, import.meta.url))];
  const perRound = plant === undefined ? PER_ROUND : PER_PLANTED_ROUND;
  const problems = [];
  const totals = { transactions: 0, committed: 0, edges: 0, deaths: 0 };
  const started = performance.now();
  const isOver = (done) =>
    seconds === undefined ? done >= transactions : performance.now() - started > seconds * 1000;
  for (let round = 0, done = 0; problems.length === 0 && !isOver(done); round++) {
    const db = await ConcordPool.open(directory, {
      ...{ shards, durability, memoryBytes: 192 << 20, segmentBytes: 4 << 20, checkpointLogBytes: 16 << 20 },
      engineModules,
    });
    db.events.on('shard-restarted', () => totals.deaths++);
    const size = seconds === undefined ? Math.min(perRound, transactions - done) : perRound;
    const kind = kinds[round % kinds.length];
    const inUse = groups ?? GROUPS[round % GROUPS.length];
    const report = await runHistory(db, {
      ...{ transactions: size, kind, level, mode, threads, callers, groups: inUse, kills, seed: seed + round },
      // What is planted is to be found soon.
      isStrict: plant !== undefined || shards === 1,
    });
    done += report.transactions;
    totals.transactions += report.transactions;
    totals.committed += report.committed;
    totals.edges += report.edges;
    const speed = Math.round(report.transactions / report.seconds);
    console.log(
      `${level}, ${mode}, ${kind}, ${inUse} groups: ${report.transactions} transactions (${done} so far), ${report.committed} committed, ${speed}/s, ` +
        `${report.edges} edges judged in ${report.checkSeconds.toFixed(1)} s${kills ? `, deaths ${JSON.stringify(report.deaths)}` : ''}`,
    );
    console.log(`  ${JSON.stringify(report.counts)}`);
    if (!report.isClean) problems.push(`round ${round}, seed ${seed + round}: ${report.text}`);
    problems.push(...(await db.host.check()));
    await db.close();
  }
  return { problems, totals };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const text = { type: 'string' };
  const line = new CommandLine(USAGE, {
    ...{ transactions: text, seconds: text, level: { ...text, default: 'all' }, mode: { ...text, default: 'mixed' } },
    ...{ kind: { ...text, default: 'both' }, shards: text, threads: text, callers: text, groups: text },
    ...{ kills: { type: 'boolean', default: false }, durability: { ...text, default: 'os' }, seed: text },
    ...{ directory: text, plant: text },
  });
  const { values } = line;
  const transactions = line.whole('transactions', 1, 1_000_000);
  const seconds = line.number('seconds', 1);
  const sizes = {
    shards: line.whole('shards', 1, 3),
    threads: line.whole('threads', 1, 2),
    callers: line.whole('callers', 1, 8),
    groups: line.whole('groups', 1),
  };
  const plants = values.plant === 'all' ? FAULTS : (line.names('plant', FAULTS) ?? [undefined]);
  const isPlanted = values.plant !== undefined;
  const all = [...LEVELS, 'mixed'];
  const levels = values.level !== 'all' ? line.names('level', all) : isPlanted ? ['serializable'] : all;
  const seed = line.whole('seed', 0, Date.now() % 1_000_000);
  console.log(`stress: levels ${levels.join(', ')}, seed ${seed}`);
  for (const [plant, level] of plants.flatMap((each) => levels.map((one) => [each, one]))) {
    const directory = values.directory ?? fs.mkdtempSync(path.join(os.tmpdir(), 'concordkv-history-'));
    const { problems, totals } = await stressTransactions({
      ...{ transactions, seconds, level, mode: values.mode, kills: values.kills, seed, directory },
      kinds: values.kind === 'both' ? ['list', 'register'] : [values.kind],
      ...sizes,
      durability: values.durability,
      plant,
    });
    console.log(`${level}: ${JSON.stringify(totals)}`);
    if (values.directory === undefined) fs.rmSync(directory, { recursive: true, force: true });
    if (problems.length > 0 === isPlanted) {
      if (isPlanted) console.log(`${plant} was found: ${problems[0].slice(0, 300)}`);
      continue;
    }
    console.error(isPlanted ? `${plant} was not found` : problems.slice(0, 20).join('\n'));
    process.exitCode = 1;
    break;
  }
}
