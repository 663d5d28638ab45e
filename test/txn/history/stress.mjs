/**
 * Transactions by the million, judged by the history checker.
 *
 *   node test/txn/history/stress.mjs [--transactions 1000000] [--level all|serializable,…|mixed] [--mode mixed|optimistic|pessimistic] [--kind list|register|both]
 *     [--seconds n] [--shards 3] [--threads 2] [--callers 8] [--groups n] [--kills] [--durability os] [--seed 7] [--directory <folder>]
 *
 * So many transactions for each level (--seconds: or as long), in rounds with keys of their own, each judged when it is over. Of three rounds one has few keys that
 * everybody wants, one more, one many (--groups: all have so many groups of keys). --kills: shards and the coordinator die meanwhile. The store is opened anew for
 * each round: a shard that dies five times in a minute would stay down.
 * Exit code 1 when a round was not clean, or check() found something in the end.
 */
import * as fs from 'node:fs';
import * as os from 'node:os';
import * as path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { ConcordPool } from '../../../dist/index.js';
import { LEVELS } from '../../support/history/history.mjs';
import { runHistory } from './run.mjs';

const PER_ROUND = 20_000;
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
  } = options;
  const problems = [];
  const totals = { transactions: 0, committed: 0, edges: 0, deaths: 0 };
  const started = performance.now();
  const isOver = (done) =>
    seconds === undefined ? done >= transactions : performance.now() - started > seconds * 1000;
  for (let round = 0, done = 0; problems.length === 0 && !isOver(done); round++) {
    const db = await ConcordPool.open(directory, {
      ...{ shards, durability, memoryBytes: 192 << 20, segmentBytes: 4 << 20, checkpointLogBytes: 16 << 20 },
    });
    db.events.on('shard-restarted', () => totals.deaths++);
    const size = seconds === undefined ? Math.min(PER_ROUND, transactions - done) : PER_ROUND;
    const kind = kinds[round % kinds.length];
    const inUse = groups ?? GROUPS[round % GROUPS.length];
    const report = await runHistory(db, {
      ...{ transactions: size, kind, level, mode, threads, callers, groups: inUse, kills, seed: seed + round },
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
  const { values } = parseArgs({
    options: {
      transactions: { type: 'string', default: '1000000' },
      seconds: { type: 'string' },
      level: { type: 'string', default: 'all' },
      mode: { type: 'string', default: 'mixed' },
      kind: { type: 'string', default: 'both' },
      shards: { type: 'string', default: '3' },
      threads: { type: 'string', default: '2' },
      callers: { type: 'string', default: '8' },
      groups: { type: 'string' },
      kills: { type: 'boolean', default: false },
      durability: { type: 'string', default: 'os' },
      seed: { type: 'string', default: String(Date.now() % 1_000_000) },
      directory: { type: 'string' },
    },
  });
  const levels = values.level === 'all' ? [...LEVELS, 'mixed'] : values.level.split(',');
  const seed = Number(values.seed);
  console.log(`stress: levels ${levels.join(', ')}, seed ${seed}`);
  for (const level of levels) {
    const directory = values.directory ?? fs.mkdtempSync(path.join(os.tmpdir(), 'concordkv-history-'));
    const { problems, totals } = await stressTransactions({
      ...{ transactions: Number(values.transactions), level, mode: values.mode, kills: values.kills, seed, directory },
      seconds: values.seconds === undefined ? undefined : Number(values.seconds),
      kinds: values.kind === 'both' ? ['list', 'register'] : [values.kind],
      ...{ shards: Number(values.shards), threads: Number(values.threads), callers: Number(values.callers) },
      groups: values.groups === undefined ? undefined : Number(values.groups),
      durability: values.durability,
    });
    console.log(`${level}: ${JSON.stringify(totals)}`);
    if (values.directory === undefined) fs.rmSync(directory, { recursive: true, force: true });
    if (problems.length === 0) continue;
    console.error(problems.slice(0, 20).join('\n'));
    process.exitCode = 1;
    break;
  }
}
