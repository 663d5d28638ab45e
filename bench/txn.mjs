/**
 * npm run bench:txn: transactions of ConcordKV beside lmdb-js and better-sqlite3, in one run, alternating.
 *
 *   transfers   between two random accounts (read 2, write 2, serializable), so many concurrent callers on one thread, at `os` and at `sync`; ConcordKV with one
 *               shard, and with two whose accounts are always on different shards ("cross")
 *   reads       ten gets by themselves, and in a transaction
 *   contention  throughput and aborts over Zipf's exponent and over the shards a transaction touches, optimistic and pessimistic; a table and a chart
 *   deadlocks   from the call that closes a circle to the error of the one that gives way, a thousand others waiting
 *
 * After each row all balances are summed: what is lost must be 0. Not answered here: several client threads, larger transactions, other isolation levels.
 *
 * Exit code 0: ran, and nothing was lost. 1: money was lost, or a store failed. 2: usage.
 */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { CommandLine } from '../scripts/command-line.mjs';
import { Child, killChildren } from './support/child.mjs';
import { describeMachine, revision, syncDisks, waitUntilIdle } from './support/machine.mjs';
import { profileArguments } from './support/http-profile.mjs';
import { functionsOf } from './txn/profile.mjs';
import { drawContention } from './txn/chart.mjs';
import { versionOf } from './txn/stores.mjs';

const PHASES = ['transfers', 'reads', 'contention', 'deadlocks'];
const LEVELS = ['os', 'sync'];
const SETTLE_MS = 200;

const HELP = `npm run bench:txn -- [options]

  --phases <names>    ${PHASES.join(', ')} (default all)
  --peers <names>     lmdb, sqlite or none (default: those that are installed)
  --levels <names>    ${LEVELS.join(', ')} (default both)
  --accounts <count>  default 100000
  --callers <count>   concurrent callers (default 64)
  --ms <ms>           one round of a row (default 1500)
  --warm <ms>         the round before, which is not counted (default 6000: the compiler is busy for that long)
  --rounds <count>    rounds of a row (default 3)
  --thetas <list>     of Zipf's law (default 0,0.8,0.99,1.2)
  --shards <list>     how many shards a transaction touches, of eight (default 1,2,4,8)
  --waiting <count>   transactions that wait beside a deadlock (default 1000)
  --deadlocks <count> circles of two (default 200); a twentieth as many circles of all
  --seed <number>     default 1
  --dir <directory>   where the stores are made and removed (default: the temporary directory)
  --svg <file>        the chart (default bench/txn/contention.svg)
  --json <file>       where the figures go (default bench/results/txn-<date>.json)
  --profile           what the time of ConcordKV's threads goes to, by function, at the end of each store
  --quick             short rounds, few accounts: a smoke signal, not a measurement; no files
`;

const here = fileURLToPath(new URL('.', import.meta.url));
const CHILD = fileURLToPath(new URL('./txn/child.mjs', import.meta.url));

function parseOptions() {
  const text = { type: 'string' };
  const flag = { type: 'boolean', default: false };
  const line = new CommandLine(HELP, {
    ...{ quick: flag, profile: flag, phases: text, peers: text, levels: text, accounts: text, callers: text, ms: text },
    ...{ warm: text, rounds: text, thetas: text, shards: text, waiting: text, deadlocks: text, seed: text },
    ...{ dir: text, svg: text, json: text },
  });
  const { values } = line;
  const { quick } = values;
  const thetas = line.list('thetas', quick ? '0,0.99' : '0,0.8,0.99,1.2').map(Number);
  for (const theta of thetas) if (!(theta >= 0 && theta <= 5)) line.refuse(`--thetas: ${theta} is not from 0 to 5`);
  const shards = line.wholes('shards', 1, quick ? '1,2' : '1,2,4,8');
  for (const count of shards) if (count > 8) line.refuse(`--shards: ${count} is not from 1 to 8`);
  return {
    phases: line.names('phases', PHASES, PHASES.join(',')),
    peers: values.peers === 'none' ? [] : line.names('peers', ['lmdb', 'sqlite'], 'lmdb,sqlite'),
    levels: line.names('levels', LEVELS, LEVELS.join(',')),
    accounts: line.whole('accounts', 100, quick ? 5000 : 100_000),
    callers: line.whole('callers', 1, 64),
    ms: line.whole('ms', 10, quick ? 200 : 1500),
    warmMs: line.whole('warm', 1, quick ? 100 : 6000),
    rounds: line.whole('rounds', 1, quick ? 1 : 3),
    thetas,
    shards,
    waiting: line.whole('waiting', 1, quick ? 50 : 1000),
    deadlocks: line.whole('deadlocks', 1, quick ? 10 : 200),
    seed: line.whole('seed', 0, 1),
    parent: values.dir ?? tmpdir(),
    svg: values.svg ?? (quick ? undefined : join(here, 'txn', 'contention.svg')),
    json: values.json,
    profile: values.profile,
    quick,
  };
}

const median = (numbers) => [...numbers].sort((a, b) => a - b)[numbers.length >> 1];
const count = (number) => Math.round(number).toLocaleString('en-US');
const us = (number) => (number >= 1000 ? `${(number / 1000).toFixed(1)} ms` : `${number.toFixed(0)} µs`);
const percent = (share) => `${(share * 100).toFixed(share < 0.1 ? 2 : 1)} %`;

function print(rows) {
  const widths = rows[0].map((_, column) => Math.max(...rows.map((row) => String(row[column]).length)));
  for (const row of rows) {
    const cells = row.map((cell, column) =>
      column === 0 ? String(cell).padEnd(widths[column]) : String(cell).padStart(widths[column]),
    );
    process.stdout.write(`  ${cells.join('  ')}\n`);
  }
}

/** A store in a process of its own. */
class Contender {
  /** When it was measured, on the clock of profiles. */
  windows = [];

  constructor(name, engine, directory, options) {
    this.name = name;
    this.engine = engine;
    this.directory = directory;
    this.options = options;
    if (options.profile && engine === 'concordkv') this.profile = `${directory}-profile`;
    this.child = new Child(name, CHILD, this.profile === undefined ? [] : profileArguments(this.profile));
  }

  async open() {
    mkdirSync(this.directory, { recursive: true });
    await this.child.call('open', { engine: this.engine, directory: this.directory, ...this.options });
  }

  async end() {
    await this.child.call('close');
    if (this.profile === undefined) await this.child.end();
    else await this.#tellProfile();
    rmSync(this.directory, { recursive: true, force: true });
  }

  /** The profiles are written when the process leaves. */
  async #tellProfile() {
    await this.child.call('leave');
    await this.child.left();
    for (const { thread, lines } of functionsOf(this.profile, this.windows)) {
      process.stdout.write(`\n${this.name}, ${thread}: where its time goes\n`);
      for (const [share, name] of lines) process.stdout.write(`  ${(share * 100).toFixed(1).padStart(5)} %  ${name}\n`);
    }
    rmSync(this.profile, { recursive: true, force: true });
  }
}

/** CPU of a transaction by thread: the caller's, the store's in the order they began, the rest (compiler, collector, disk). */
function cpuText({ mainUs, storeUs, otherUs, cores }) {
  const store = storeUs.map((value) => value.toFixed(1)).join(' + ');
  return `${mainUs.toFixed(1)} | ${store || '–'} | ${otherUs.toFixed(1)} µs, ${cores.toFixed(2)} cores`;
}

let lost = 0;

/** What was lost counts, and is told. */
function judge(name, result) {
  if (result.lost === 0) return;
  lost++;
  process.stdout.write(`  LOST: ${name}: the sum of all balances is off by ${result.lost}\n`);
}

/** Rounds of all, alternating; the first of each warms up. Medians, and the figures of the median round. */
async function alternate(contenders, options, method, args) {
  const rounds = new Map(contenders.map((contender) => [contender, []]));
  for (let round = 0; round <= options.rounds; round++) {
    for (const contender of contenders) {
      const ms = round === 0 ? options.warmMs : options.ms;
      const result = await contender.child.call(method, { ...args(contender), ms, label: `${method}${round}` });
      judge(contender.name, result);
      if (round > 0) {
        rounds.get(contender).push(result);
        contender.windows.push(result.clockUs);
      }
      await waitUntilIdle([contender.child.pid], SETTLE_MS, 10_000);
    }
  }
  return new Map(
    [...rounds].map(([contender, results]) => {
      const middle = median(results.map(({ perSecond }) => perSecond));
      return [contender, results.find(({ perSecond }) => perSecond === middle)];
    }),
  );
}

async function transfers(options, parent, figures) {
  const { accounts, callers, seed } = options;
  for (const durability of options.levels) {
    const shape = { durability, accounts, seed, profile: options.profile };
    const contenders = [
      new Contender('concordkv, 1 shard', 'concordkv', join(parent, 'one'), { ...shape, shards: 1 }),
      new Contender('concordkv, 2 shards, random', 'concordkv', join(parent, 'two'), { ...shape, shards: 2 }),
      new Contender('concordkv, 2 shards, cross', 'concordkv', join(parent, 'cross'), { ...shape, shards: 2 }),
      ...options.peers.map((peer) => new Contender(peer, peer, join(parent, peer), shape)),
    ];
    const cross = contenders[2];
    for (const contender of contenders) await contender.open();
    syncDisks();
    const results = await alternate(contenders, options, 'transfers', (contender) => ({
      callers,
      pick: contender === cross ? 'cross' : 'random',
    }));
    const lmdb = [...results].find(([{ engine }]) => engine === 'lmdb')?.[1];
    process.stdout.write(`\ntransfers, durability ${durability}, ${callers} callers, ${count(accounts)} accounts\n`);
    print([
      ['', 'transfers/s', '× lmdb', 'aborted', 'p50', 'p99', 'CPU: caller | store threads | rest'],
      ...[...results].map(([{ name, engine }, result]) => [
        name,
        count(result.perSecond),
        lmdb === undefined ? '' : (result.perSecond / lmdb.perSecond).toFixed(2),
        engine === 'concordkv' ? percent((result.attempts - result.done) / Math.max(1, result.attempts)) : '',
        us(result.latency.p50Us),
        us(result.latency.p99Us),
        cpuText(result.cpu),
      ]),
    ]);
    for (const [{ name }, result] of results) figures.push({ phase: 'transfers', durability, name, ...result });
    for (const contender of contenders) await contender.end();
  }
}

async function reads(options, parent, figures) {
  process.stdout.write(`\nread-only transactions of 10 gets, µs each (ratio to 10 plain getSync)\n`);
  const rows = [['', 'plain', 'transaction', '', 'readOnly: true', '']];
  for (const shards of [1, 2]) {
    const shape = { durability: 'os', accounts: options.accounts, seed: options.seed, shards };
    const contender = new Contender(`reads, ${shards}`, 'concordkv', join(parent, `reads${shards}`), shape);
    await contender.open();
    const args = { count: options.quick ? 2000 : 20_000, rounds: options.rounds * 2 + 1, gets: 10 };
    const result = await contender.child.call('reads', args);
    const plain = median(result.plain);
    const ratio = (name) => `${(median(result[name]) / plain).toFixed(2)}×`;
    const took = (name) => (median(result[name]) / 1000).toFixed(2);
    rows.push([
      `${shards} shard${shards === 1 ? '' : 's'}`,
      took('plain'),
      took('transaction'),
      ratio('transaction'),
      took('readOnly'),
      ratio('readOnly'),
    ]);
    figures.push({ phase: 'reads', shards, ...result });
    await contender.end();
  }
  print(rows);
}

async function contention(options, parent, figures) {
  const { callers, accounts, seed, thetas } = options;
  const modes = ['optimistic', 'pessimistic'];
  const points = { zipf: [], shards: [] };
  // What the compiler has not met yet: transactions of one shard, or of several, by locks or not.
  const warmed = new Set();
  const measure = async (contender, name, args, into, x) => {
    for (const mode of modes) {
      // An abort is an attempt more, not an error.
      const transaction = { mode, retries: 100_000, timeoutMs: 60_000, lockTimeoutMs: 30_000 };
      const call = (ms, label) =>
        contender.child.call('contend', { ...args, ms, callers, label, options: transaction });
      const path = `${contender.name}, ${mode}, ${args.touched === 1 ? 'one shard' : 'several'}`;
      // Each of eight shards compiles for itself.
      const firstMs = args.touched > 1 ? 3 * options.warmMs : options.warmMs;
      await call(warmed.has(path) ? Math.ceil(options.ms / 4) : firstMs, `${name} warm`);
      warmed.add(path);
      const result = await call(options.ms, name);
      judge(`${name}, ${mode}`, result);
      into.push({ x, mode, perSecond: result.perSecond, aborted: result.aborted });
      figures.push({ phase: 'contention', name, x, mode, ...result });
    }
  };
  const table = (title, head, into, xs) => {
    process.stdout.write(`\n${title}\n`);
    print([
      [head, ...modes.flatMap((mode) => [`${mode}/s`, 'aborted'])],
      ...xs.map((x) => [
        x,
        ...modes.flatMap((mode) => {
          const point = into.find((one) => one.x === x && one.mode === mode);
          return [count(point.perSecond), percent(point.aborted)];
        }),
      ]),
    ]);
  };

  const two = new Contender('contention', 'concordkv', join(parent, 'zipf'), {
    durability: 'os',
    accounts,
    seed,
    shards: 2,
  });
  await two.open();
  for (const theta of thetas) await measure(two, `zipf ${theta}`, { theta }, points.zipf, theta);
  await two.end();
  table(`transfers over ${count(accounts)} accounts by Zipf's law, 2 shards`, 'exponent', points.zipf, thetas);

  const eight = new Contender('shards', 'concordkv', join(parent, 'eight'), {
    durability: 'os',
    accounts,
    seed,
    shards: 8,
    config: { memoryBytes: 2 ** 30 },
  });
  await eight.open();
  for (const touched of options.shards)
    await measure(eight, `${touched} of 8 shards`, { touched }, points.shards, touched);
  await eight.end();
  table(
    'transactions that read and write one key in each of so many shards, of 8',
    'shards',
    points.shards,
    options.shards,
  );

  if (options.svg !== undefined) {
    writeFileSync(
      options.svg,
      drawContention(points, `${callers} callers, durability os, ${count(accounts)} accounts`),
    );
    process.stdout.write(`\nchart: ${options.svg}\n`);
  }
}

async function deadlocks(options, parent, figures) {
  const { seed, waiting } = options;
  const contender = new Contender('deadlocks', 'concordkv', join(parent, 'deadlocks'), {
    durability: 'os',
    accounts: 100,
    seed,
    shards: 2,
    config: { transactions: { maxConcurrent: 4 * waiting + 100 } },
  });
  await contender.open();
  const result = await contender.child.call('deadlocks', {
    waiting,
    times: options.deadlocks,
    long: Math.ceil(options.deadlocks / 20),
  });
  await contender.end();
  process.stdout.write(
    `\ndeadlocks, from the closing call to the victim's error, ${count(waiting)} transactions waiting, ms\n`,
  );
  const row = (name, { count: times, p50Ms, p99Ms, maxMs }) => [
    name,
    times,
    p50Ms.toFixed(2),
    p99Ms.toFixed(2),
    maxMs.toFixed(2),
  ];
  print([
    ['', 'times', 'median', 'p99', 'max'],
    row('circles of two beside them', result.pair),
    row('circles of all of them', result.circle),
  ]);
  figures.push({ phase: 'deadlocks', waiting, ...result });
}

const options = parseOptions();
const parent = mkdtempSync(join(options.parent, 'concordkv-bench-txn-'));
for (const [signal, code] of [
  ['SIGINT', 130],
  ['SIGTERM', 143],
]) {
  process.on(signal, () => {
    killChildren();
    rmSync(parent, { recursive: true, force: true });
    process.exit(code);
  });
}

const versions = { concordkv: await versionOf('concordkv') };
for (const peer of [...options.peers]) {
  versions[peer] = await versionOf(peer);
  if (versions[peer] !== undefined) continue;
  process.stdout.write(`${peer} is not installed: left out (bench/README.md)\n`);
  options.peers.splice(options.peers.indexOf(peer), 1);
}
const machine = describeMachine(parent);
const source = revision(here);
process.stdout.write(
  `${Object.entries(versions)
    .filter(([, version]) => version !== undefined)
    .map(([name, version]) => `${name} ${version}`)
    .join(', ')}; revision ${source}\n${machine.cpu}, ${machine.cores} cores, Node ${machine.node}, ${machine.disk}\n`,
);

const run = { transfers, reads, contention, deadlocks };
const figures = [];
try {
  for (const phase of PHASES) if (options.phases.includes(phase)) await run[phase](options, parent, figures);
} catch (error) {
  process.stderr.write(`${error.stack}\n`);
  process.exitCode = 1;
} finally {
  killChildren();
  rmSync(parent, { recursive: true, force: true });
}
if (lost > 0) process.exitCode = 1;
if (!options.quick || options.json !== undefined) {
  const date = new Date().toISOString();
  const file = options.json ?? join(here, 'results', `txn-${date}.json`);
  mkdirSync(join(here, 'results'), { recursive: true });
  writeFileSync(file, JSON.stringify({ date, machine, revision: source, versions, options, figures }, null, 1));
  process.stdout.write(`figures: ${file}\n`);
}
