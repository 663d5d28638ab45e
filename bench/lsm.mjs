/**
 * npm run bench:lsm: the LSM-Tree beside LevelDB (classic-level) and RocksDB (rocksdb-native), in one run, alternating.
 *
 * Each engine has a process of its own and the same block cache: one that holds all of the data ("warm") or a tenth of it. LevelDB is there twice: with
 * its own size of a memtable (4 MiB), and with ours (--write). Writes are acknowledged by the operating system. A fill counts to its end: until no engine computes any more, so that what
 * compaction puts off is paid; what an engine does only because nobody writes any more counts in bytes and CPU. Bytes written are those of the process's write calls, log included, over the raw bytes: write amplification by the same
 * rule for all. Not answered here: several shards, fdatasync on each write, several reading threads (npm run bench).
 *
 * Exit code 0: ran, and every value read was right. 1: a wrong value, or an engine failed. 2: usage.
 */
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { CommandLine } from '../scripts/command-line.mjs';
import { KEY_BYTES } from './lsm/records.mjs';
import { packageOf, stores, versionOf } from './lsm/stores.mjs';
import { Child, killChildren } from './support/child.mjs';
import {
  describeMachine,
  diskBytes,
  machineCpuSeconds,
  revision,
  syncDisks,
  waitUntilIdle,
} from './support/machine.mjs';

const OURS = 'concordkv';
const LEVEL = 'classic-level';
const PHASES = ['fillseq', 'fillrandom', 'warm', 'cold', 'threads'];
const MIB = 2 ** 20;

const HELP = `npm run bench:lsm -- [options]

  --entries <counts>  entries, separated by commas (default 1000000; 10000000 takes about half an hour with both sizes of values)
  --values <bytes>    sizes of values (default 100,1000)
  --engines <names>   ${Object.keys(stores).join(', ')} (default all)
  --phases <names>    ${PHASES.join(', ')} (default all)
                      fillseq, fillrandom: writes; warm: reads with a cache for all; cold: reads with a cache of a tenth;
                      threads: a compaction of everything with one background thread and with two
  --reads <count>     reads of a row (default 200000)
  --write <MiB>       size of a memtable of ConcordKV and classic-level-tuned (default 64)
  --compression       lz4 for ConcordKV, snappy for LevelDB, on values of which half can be compressed (default off, values that cannot)
  --rounds <count>    rounds of each row of reads (default 3)
  --seed <number>     default 1
  --dir <directory>   where the stores are made and removed (default: the temporary directory)
  --json <file>       where the figures go (default bench/results/lsm-<date>.json)
  --quick             100,000 entries of 100 bytes: a smoke signal, not a measurement
`;

/** Of the store that is compacted as a whole: memtables of this size make so many runs at most. */
const UNMERGED_RUN_BYTES = 16 * MIB;
const UNMERGED_RUNS_MAX = 1000;

const here = fileURLToPath(new URL('.', import.meta.url));
const CHILD = fileURLToPath(new URL('./lsm/child.mjs', import.meta.url));

function parseOptions() {
  const text = { type: 'string' };
  const flag = { type: 'boolean', default: false };
  const line = new CommandLine(HELP, {
    ...{ entries: text, values: text, engines: text, phases: text, reads: text, write: text, rounds: text },
    ...{ seed: text, dir: text, json: text, compression: flag, quick: flag },
  });
  const { values } = line;
  const { quick } = values;
  const all = Object.keys(stores);
  return {
    entries: line.wholes('entries', 10_000, quick ? '100000' : '1000000'),
    valueBytes: line.wholes('values', 16, quick ? '100' : '100,1000'),
    engines: line.names('engines', all, all.join(',')),
    phases: new Set(line.names('phases', PHASES, PHASES.join(','))),
    reads: line.whole('reads', 1000, quick ? 20_000 : 200_000),
    writeBytes: line.whole('write', 1, 64) * MIB,
    rounds: line.whole('rounds', 1, quick ? 1 : 3),
    seed: line.whole('seed', 0, 1),
    parent: values.dir ?? tmpdir(),
    json: values.json,
    compression: values.compression,
    quick,
  };
}

const SETTLE_MS = 300;
/** What an engine does only when nobody has written for a while has begun by then. */
const QUIET_MS = 1500;

const median = (numbers) => [...numbers].sort((a, b) => a - b)[numbers.length >> 1];

/** What one engine does in one configuration: rows of figures, by name. */
class Contender {
  name;
  child;
  directory;
  #options;
  #shape;

  constructor(name, directory, options, shape) {
    this.name = name;
    this.directory = directory;
    this.#options = options;
    this.#shape = shape;
    this.child = new Child(name, CHILD);
  }

  open(options = {}) {
    mkdirSync(this.directory, { recursive: true });
    return this.child.call('open', {
      engine: this.name,
      directory: join(this.directory, 'store'),
      options: { ...this.#options, ...options },
      ...this.#shape,
    });
  }

  /** Another process: what earlier work left in this one's memory is gone. */
  async restart(options) {
    await this.child.call('close');
    await noteVerdict(this);
    await this.child.end();
    this.child = new Child(this.name, CHILD);
    await this.open(options);
    await this.settle(QUIET_MS);
  }

  settle(windowMs = SETTLE_MS) {
    return waitUntilIdle([this.child.pid], windowMs, 600_000);
  }

  async empty() {
    await this.child.call('close');
    rmSync(this.directory, { recursive: true, force: true });
  }
}

async function fill(contender, order, count, rawBytes, report) {
  await contender.empty();
  await contender.open({ cacheBytes: Math.ceil(rawBytes / 10) });
  const began = performance.now();
  const cpuBefore = machineCpuSeconds();
  const { ms, maxMs, latency, before } = await contender.child.call('fill', { order, count, round: 1 });
  await contender.settle();
  // The window that found nothing to do is not the engine's.
  const settledMs = performance.now() - began - 2 * SETTLE_MS;
  // What is done because nobody writes any more would not be done in a longer fill: its time is left out, its bytes and its computing are not.
  await contender.settle(QUIET_MS);
  const after = await contender.child.call('io');
  const memory = await contender.child.call('memory');
  const disk = diskBytes(contender.directory);
  report(`${order === 'random' ? 'fillrandom' : 'fillseq'}`, contender.name, {
    perSecond: (count / Math.max(ms, settledMs)) * 1000,
    acknowledgedPerSecond: (count / ms) * 1000,
    maxMs,
    latency,
    writeAmplification: (after.writtenBytes - before.writtenBytes) / rawBytes,
    diskBytes: disk,
    diskPerRaw: disk / rawBytes,
    ...memory,
    cpuSeconds: machineCpuSeconds() - cpuBefore,
  });
}

async function reads(contenders, prefix, options, rounds, report) {
  const { count, scans, only } = options;
  const rows = [
    ['readrandom', 'reads', { count, label: 'random' }],
    ['readmissing', 'missing', { count, label: 'missing' }],
    ['scan all', 'scanAll', {}],
    ['scans of 1-100', 'scanShort', { count: scans, label: 'short' }],
    ['prefix scans', 'scanPrefix', { count: scans, label: 'prefix' }],
  ];
  for (const [row, method, args] of rows) {
    if (only !== undefined && row !== only) continue;
    const rates = new Map(contenders.map(({ name }) => [name, []]));
    // So that the cache holds what it can, whatever the size of an engine's blocks.
    if (row === 'readrandom') for (const { child } of contenders) await child.call('warm');
    // One round more, which warms code and is not counted.
    for (let round = 0; round <= rounds; round++) {
      for (const { name, child } of contenders) {
        const { ops, ms } = await child.call(method, { ...args, label: `${args.label}${round}` });
        if (round > 0) rates.get(name).push((ops / ms) * 1000);
      }
    }
    for (const [name, figures] of rates) report(`${prefix}: ${row}`, name, { perSecond: median(figures), figures });
  }
  for (const { name, child } of contenders) report(`${prefix}: memory`, name, await child.call('memory'));
}

/**
 * The whole of a store that was filled in random order, compacted with one background thread and with two. Until then nothing is merged, so that both have the
 * same before them: runs of level 0 with everything in it twice.
 */
async function threads(directory, options, shape, count, report) {
  for (const workers of [1, 2]) {
    const contender = new Contender(
      OURS,
      join(directory, `threads-${workers}`),
      { ...options, writeBytes: UNMERGED_RUN_BYTES, threads: workers, lsm: { level0Runs: UNMERGED_RUNS_MAX } },
      shape,
    );
    try {
      await contender.open();
      for (const round of [1, 2]) await contender.child.call('fill', { order: 'random', count, round });
      const { ms } = await contender.child.call('compact');
      report(`compact all, ${workers} worker${workers === 1 ? '' : 's'}`, OURS, { ms, perSecond: (count / ms) * 1000 });
      await contender.child.call('verify');
      await noteVerdict(contender);
    } finally {
      await contender.empty().catch(() => undefined);
      await contender.child.end();
    }
  }
}

let wrong = 0;

async function noteVerdict({ name, child }) {
  const verdict = await child.call('verdict');
  wrong += verdict.wrong;
  for (const text of verdict.complaints) process.stdout.write(`WRONG ${name}: ${text}\n`);
}

function ratioOf(rows, row, figure = 'perSecond', peer = LEVEL) {
  const engines = rows.get(row);
  const ours = engines?.get(OURS)?.[figure];
  const theirs = engines?.get(peer)?.[figure];
  return ours === undefined || theirs === undefined ? undefined : ours / theirs;
}

function residentMib(rows, row) {
  return (rows.get(row)?.get(OURS)?.rssBytes ?? NaN) / MIB;
}

/** [what, at least or at most, bound, measured]. */
function targets(rows) {
  const list = [
    ['fillrandom: x LevelDB', '>=', 1, ratioOf(rows, 'fillrandom')],
    ['fillseq: x LevelDB', '>', 1, ratioOf(rows, 'fillseq')],
    ['readrandom, warm: x LevelDB', '>=', 1.5, ratioOf(rows, 'warm: readrandom')],
    ['readrandom, cache of a tenth, neither checks again: x LevelDB', '>=', 1, ratioOf(rows, 'cold: readrandom')],
    ['readmissing, warm: x LevelDB', '>=', 3, ratioOf(rows, 'warm: readmissing')],
    ['scan of all: x LevelDB', '>=', 1, ratioOf(rows, 'warm: scan all')],
    ['scans of 1-100: x LevelDB', '>=', 1.2, ratioOf(rows, 'warm: scans of 1-100')],
    ['prefix scans: x LevelDB', '>=', 1.2, ratioOf(rows, 'warm: prefix scans')],
    ['disk after compaction: x LevelDB', '<=', 1.15, ratioOf(rows, 'compacted and closed', 'diskBytes')],
    ['write amplification: x LevelDB', '<=', 1.3, ratioOf(rows, 'fillrandom', 'writeAmplification')],
    ['longest wait for a batch, ms', '<=', 100, rows.get('fillrandom')?.get(OURS)?.maxMs],
    ['resident memory, cache of a tenth: after fillrandom, MiB', '<=', 512, residentMib(rows, 'fillrandom')],
    ['resident memory, cache of a tenth: after reads, MiB', '<=', 512, residentMib(rows, 'cold: memory')],
  ];
  const one = rows.get('compact all, 1 worker')?.get(OURS)?.ms;
  const two = rows.get('compact all, 2 workers')?.get(OURS)?.ms;
  list.push(['compaction with 2 workers: x 1 worker', '>', 1.05, one === undefined ? undefined : one / two]);
  return list;
}

function grid(lines) {
  const widths = lines[0].map((_, column) => Math.max(...lines.map((line) => line[column].length)));
  const show = (line) =>
    `| ${line.map((text, at) => (at === 0 ? text.padEnd(widths[at]) : text.padStart(widths[at]))).join(' | ')} |`;
  const rule = `|${widths.map((width, at) => (at === 0 ? '-'.repeat(width + 2) : `${'-'.repeat(width + 1)}:`)).join('|')}|`;
  return [show(lines[0]), rule, ...lines.slice(1).map(show)].join('\n');
}

function amount(number) {
  if (number >= 1e6) return `${(number / 1e6).toFixed(2)}M`;
  if (number >= 1e4) return `${(number / 1e3).toFixed(0)}k`;
  if (number >= 1e3) return `${(number / 1e3).toFixed(1)}k`;
  return number.toFixed(number < 10 ? 2 : 0);
}

function printRows(rows, engines) {
  const lines = [['per second', ...engines]];
  const details = [['', 'engine', 'p50/p99/p99.9/max of a batch, ms', 'write amp.', 'disk / raw', 'RSS, MiB', 'CPU s']];
  for (const [row, figures] of rows) {
    if ([...figures.values()].some(({ perSecond }) => perSecond !== undefined)) {
      const ours = figures.get(OURS)?.perSecond;
      lines.push([
        row,
        ...engines.map((engine) => {
          const rate = figures.get(engine)?.perSecond;
          if (rate === undefined) return '-';
          return engine === OURS || ours === undefined
            ? amount(rate)
            : `${amount(rate)} (${(ours / rate).toFixed(2)}x)`;
        }),
      ]);
    }
    for (const [engine, { latency, maxMs, writeAmplification, diskPerRaw, rssBytes, cpuSeconds }] of figures) {
      if (rssBytes === undefined && diskPerRaw === undefined) continue;
      const ms = (us) => (us / 1000).toFixed(1);
      details.push([
        row,
        engine,
        latency === undefined
          ? '-'
          : `${ms(latency.p50Us)}/${ms(latency.p99Us)}/${ms(latency.p999Us)}/${maxMs.toFixed(0)}`,
        writeAmplification?.toFixed(2) ?? '-',
        diskPerRaw?.toFixed(2) ?? '-',
        rssBytes === undefined ? '-' : (rssBytes / MIB).toFixed(0),
        cpuSeconds?.toFixed(0) ?? '-',
      ]);
    }
  }
  process.stdout.write(`${grid(lines)}\n\n${grid(details)}\n\n`);
}

function printTargets(rows) {
  const lines = [['target', 'needed', 'measured', '']];
  for (const [what, relation, bound, measured] of targets(rows)) {
    const isKnown = measured !== undefined && !Number.isNaN(measured);
    const isMet = isKnown && { '>=': measured >= bound, '>': measured > bound, '<=': measured <= bound }[relation];
    lines.push([
      what,
      `${relation} ${bound}`,
      isKnown ? measured.toFixed(2) : '-',
      !isKnown ? 'not measured' : isMet ? 'met' : 'missed',
    ]);
  }
  process.stdout.write(`${grid(lines)}\n`);
}

async function configuration(directory, options, count, valueBytes, say) {
  const { engines, phases, rounds, seed, compression } = options;
  const rawBytes = count * (KEY_BYTES + valueBytes);
  const shape = { valueBytes, soft: compression, seed, count };
  const base = {
    writeBytes: options.writeBytes,
    cacheBytes: Math.ceil(1.5 * rawBytes),
    compression,
    verify: 'once',
    threads: 2,
  };
  const rows = new Map();
  const report = (row, engine, figures) => {
    if (!rows.has(row)) rows.set(row, new Map());
    rows.get(row).set(engine, figures);
    if (figures.perSecond !== undefined) say(`${row}: ${engine} ${amount(figures.perSecond)}/s`);
  };
  const contenders = engines.map((name) => new Contender(name, join(directory, name), base, shape));
  try {
    for (const order of ['seq', 'random']) {
      const isNeeded = phases.has(`fill${order}`) || (order === 'random' && (phases.has('warm') || phases.has('cold')));
      if (!isNeeded) continue;
      for (const contender of contenders) {
        await fill(contender, order, count, rawBytes, report);
        syncDisks();
      }
    }
    for (const phase of ['warm', 'cold']) {
      if (!phases.has(phase)) continue;
      const cacheBytes = phase === 'warm' ? base.cacheBytes : Math.ceil(rawBytes / 10);
      for (const contender of contenders) await contender.restart({ cacheBytes });
      await reads(contenders, phase, { count: options.reads, scans: Math.ceil(options.reads / 20) }, rounds, report);
    }
    if (phases.has('cold') && engines.includes(OURS)) {
      // What a block costs that is checked each time it comes from its file. LevelDB never checks; it stands beside for the ratio.
      const some = contenders.filter(({ name }) => name === OURS || name === LEVEL);
      for (const contender of some) await contender.restart({ cacheBytes: Math.ceil(rawBytes / 10), verify: 'always' });
      await reads(some, 'cold, ConcordKV checks always', { count: options.reads, only: 'readrandom' }, rounds, report);
    }
    for (const contender of contenders) {
      if (rows.size === 0) continue;
      await contender.child.call('verify');
      await noteVerdict(contender);
      await contender.child.call('compact');
      await contender.child.call('close');
      const disk = diskBytes(contender.directory);
      report('compacted and closed', contender.name, { diskBytes: disk, diskPerRaw: disk / rawBytes });
    }
  } finally {
    for (const contender of contenders) {
      await contender.empty().catch(() => undefined);
      await contender.child.end();
    }
  }
  if (phases.has('threads') && engines.includes(OURS)) await threads(directory, base, shape, count, report);
  return rows;
}

async function main() {
  const options = parseOptions();
  if (!existsSync(join(here, '../dist/index.js'))) throw new Error('dist/index.js is missing: npm run build');
  for (const name of options.engines) {
    if (!existsSync(join(here, 'node_modules', packageOf(name))))
      throw new Error(`${name} is not installed: npm ci --prefix bench`);
  }
  mkdirSync(options.parent, { recursive: true });
  const directory = mkdtempSync(join(options.parent, 'concordkv-lsm-'));
  process.on('exit', () => {
    killChildren();
    rmSync(directory, { recursive: true, force: true, maxRetries: 5 });
  });
  for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => process.exit(130));
  const date = new Date().toISOString();
  const machine = describeMachine(directory);
  const versions = Object.fromEntries(options.engines.map((name) => [name, versionOf(name)]));
  const all = [];
  const say = (text) => process.stderr.write(`  ${text}\n`);
  process.stdout.write(
    `${date}  revision ${revision(here)}${options.quick ? '  QUICK: a smoke signal, not a measurement' : ''}\n` +
      `node ${machine.node}, ${machine.cores} x ${machine.cpu}, ${machine.memoryGiB} GiB, ${machine.kernel}, disk ${machine.disk}\n` +
      `${Object.entries(versions)
        .map(([name, version]) => `${name} ${version}`)
        .join(
          ', ',
        )}; ${options.writeBytes / MIB} MiB for writes, compression ${options.compression ? 'on' : 'off'}, seed ${options.seed}, ` +
      `median of ${options.rounds} alternating rounds\n`,
  );
  for (const count of options.entries) {
    for (const valueBytes of options.valueBytes) {
      process.stdout.write(`\n## ${count.toLocaleString('en')} entries of ${KEY_BYTES} + ${valueBytes} bytes\n\n`);
      const rows = await configuration(directory, options, count, valueBytes, say);
      printRows(rows, options.engines);
      printTargets(rows);
      all.push({
        count,
        valueBytes,
        rows: Object.fromEntries([...rows].map(([row, figures]) => [row, Object.fromEntries(figures)])),
      });
    }
  }
  const file = options.json ?? join(here, 'results', `lsm-${date.replaceAll(':', '-')}.json`);
  mkdirSync(join(file, '..'), { recursive: true });
  writeFileSync(
    file,
    JSON.stringify(
      { date, machine, versions, options: { ...options, phases: [...options.phases] }, results: all },
      null,
      2,
    ),
  );
  process.stdout.write(`\n${wrong} wrong; figures: ${file}\n`);
  if (wrong > 0) process.exitCode = 1;
}

main().catch((error) => {
  process.stderr.write(`${error.stack ?? error}\n`);
  process.exit(1);
});
