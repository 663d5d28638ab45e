/**
 * npm run bench: ConcordKV beside its peers, in one run. Method, engines and workloads: README.md.
 *
 * Exit code 0: ran, and every value read back was right. 1: a wrong value, or an engine failed. 2: usage.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { CommandLine } from '../scripts/command-line.mjs';
import { killChildren } from './support/child.mjs';
import { describeMachine, revision } from './support/machine.mjs';
import { KEY_BYTES, VALUE_BYTES } from './support/records.mjs';
import { formatConfiguration, formatMemory, formatTargets, formatWorkload } from './support/report.mjs';
import { OURS, PEERS, runSuite, SIZES, WORKLOADS } from './suite.mjs';
import { judge } from './targets.mjs';

const HELP = `npm run bench -- [options]

  --quick            under a minute: fewer entries, shorter rounds; a smoke signal, not a measurement
  --only <names>     workloads, separated by commas: ${WORKLOADS.join(', ')}
  --rows <text>      rows whose name contains the text, such as 'B,' of ycsb
  --n <count>        entries in the store (default ${SIZES.full.n}, with --quick ${SIZES.quick.n})
  --rounds <count>   timed rounds of each contender (default ${SIZES.full.rounds})
  --seed <number>    seed of keys' order and mixes (default 1)
  --peers <names>    ${PEERS.join(', ')}; or none (default all)
  --dir <directory>  where the stores are made and removed (default: the temporary directory); use the disk you care about
  --json <file>      where the figures go (default bench/results/<date>.json)

Exit code 1 if any value read back is wrong.
`;

const here = fileURLToPath(new URL('.', import.meta.url));

function parseOptions() {
  const text = { type: 'string' };
  const line = new CommandLine(HELP, {
    ...{ quick: { type: 'boolean', default: false }, only: text, rows: text, n: text, rounds: text, seed: text },
    ...{ peers: text, dir: text, json: text },
  });
  const { values } = line;
  const only = line.names('only', WORKLOADS);
  return {
    quick: values.quick,
    only: only === undefined ? undefined : new Set(only),
    rows: values.rows,
    peers: values.peers === 'none' ? [] : line.names('peers', PEERS, PEERS.join(',')),
    n: line.whole('n', 200),
    rounds: line.whole('rounds', 1),
    seed: line.whole('seed', 0, 1),
    parent: values.dir ?? tmpdir(),
    json: values.json,
  };
}

/** The peers are a package of their own, so that users of ConcordKV never install them. */
function installPeers(peers) {
  if (peers.every((name) => existsSync(join(here, 'node_modules', name)))) return;
  process.stdout.write('installing the peers (npm ci --prefix bench) …\n');
  const npm = spawnSync('npm', ['ci', '--prefix', here, '--no-audit', '--no-fund'], {
    stdio: 'inherit',
    shell: process.platform === 'win32',
  });
  if (npm.status !== 0) throw new Error('npm ci --prefix bench failed; --peers none measures ConcordKV alone');
}

async function main() {
  const options = parseOptions();
  const { quick, seed, peers } = options;
  if (!existsSync(join(here, '../dist/index.js'))) throw new Error('dist/index.js is missing: npm run build');
  installPeers(peers);

  mkdirSync(options.parent, { recursive: true });
  const directory = mkdtempSync(join(options.parent, 'concordkv-bench-'));
  process.on('exit', () => {
    killChildren();
    rmSync(directory, { recursive: true, force: true, maxRetries: 5 });
  });
  for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => process.exit(130));

  const date = new Date().toISOString();
  const configuration = {
    date,
    revision: revision(here),
    machine: describeMachine(directory),
    seed,
    quick,
    recordBytes: { key: KEY_BYTES, value: VALUE_BYTES },
  };
  const live = process.stderr.isTTY;
  const progress = (text) => live && process.stderr.write(`\r\x1b[K${text.slice(0, 100)}`);
  const print = (text) => {
    if (live) process.stderr.write('\r\x1b[K');
    process.stdout.write(`${text}\n`);
  };
  const start = performance.now();
  const size = quick ? SIZES.quick : SIZES.full;
  const suiteOptions = {
    size,
    n: options.n,
    rounds: options.rounds,
    seed,
    peers,
    only: options.only,
    rows: options.rows,
    directory,
  };
  print(`ConcordKV beside ${peers.join(', ') || 'nobody'}. A peer's cell ends in how many times as fast ${OURS} is.`);
  const results = await runSuite(suiteOptions, {
    onWorkload: (name, question, rows) => print(formatWorkload(name, question, rows)),
    onProgress: progress,
  });
  const targets = judge(results);
  const seconds = (performance.now() - start) / 1000;

  print(formatMemory(results.memory));
  print(formatTargets(targets, results.scale.n));
  print(`\n${formatConfiguration({ ...configuration, versions: results.versions, scale: results.scale })}`);
  print(
    `${results.verifiedEntries.toLocaleString('en')} entries read back whole, ${results.wrong} wrong; ${seconds.toFixed(0)} s`,
  );
  for (const complaint of results.complaints.slice(0, 20)) print(`WRONG ${complaint}`);

  const file = options.json ?? join(here, 'results', `${date.replaceAll(':', '-')}${quick ? '-quick' : ''}.json`);
  mkdirSync(join(file, '..'), { recursive: true });
  writeFileSync(file, `${JSON.stringify({ ...configuration, ...results, targets, seconds }, null, 1)}\n`);
  print(`figures: ${file}`);
  if (results.wrong > 0) process.exitCode = 1;
}

try {
  await main();
} catch (error) {
  process.stderr.write(`\n${error.stack ?? error}\n`);
  process.exit(1);
}
