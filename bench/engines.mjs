/**
 * The engines by themselves, beside the figures of the C original. Answers: how fast one thread that owns an engine fills it and looks things up, and what
 * memory an entry takes; how much eight client threads get out of one B+Tree through a pool. Does not answer: logs, disks, scans, values of other
 * sizes.
 *
 *   node bench/engines.mjs                              all engines at 1 k, 100 k and 1 M records, then the mixed load: about eight minutes
 *   node bench/engines.mjs --quick                      1 k and 20 k, few rounds: a smoke signal
 *   node bench/engines.mjs --engines hash,btree --records 1000000 --no-mix
 *   node bench/engines.mjs --mix 30                     only the mixed loads whose name contains the text
 *   node --cpu-prof bench/engines.mjs --engines hash --in-process --no-mix
 *
 * The C figures are of another machine. So engines of the same shapes in C are compiled here (cc or $CC; without one they are left out) and run before
 * and after each of ours: lines that say "here" beside those that say "then".
 *
 * Each engine has a process of its own (--in-process: this one, and no C), so that none is compiled with another's types. Keys of 17 bytes, values of 40; put in groups of
 * 500 that are published together, or one by one; looked up in the same kind of order by has(), without a copy, and get(), with one. A figure is the
 * median of its rounds. Exit code 1 if anything read back is wrong; a missed target is told, not punished.
 */
import { fork } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { CommandLine, headOf } from '../scripts/command-line.mjs';
import '../dist/engines/built-in.js';
import { engineNames } from '../dist/engines/engine.js';
import { GROUP, KEY_BYTES, VALUE_BYTES, measureEngine } from './support/engine-run.mjs';
import { describeMachine, revision } from './support/machine.mjs';
import { IN_FLIGHT, LIVE_KEYS, MIXES, runMix } from './support/mix-run.mjs';
import { ORIGINAL, ORIGINAL_CONFIGURATION, ORIGINAL_MIXES } from './support/original.mjs';
import { Reference } from './support/reference.mjs';

const BASELINE_ENGINES = ['hash', 'btree', 'rbtree', 'memtable', 'array'];
const MILLION = 1_000_000;
const FULL_ROUNDS = new Map([
  [1000, 200],
  [100_000, 5],
  [MILLION, 3],
]);
const ONE_BY_ONE_RECORDS = 1000;

function planOf(records, isQuick) {
  return records.flatMap((count) => {
    const rounds = isQuick ? Math.min(20, Math.ceil(20_000 / count)) : (FULL_ROUNDS.get(count) ?? 3);
    const groups = ['sequential', 'shuffled'].map((order) => ({ records: count, order, rounds, oneByOne: false }));
    return count === ONE_BY_ONE_RECORDS
      ? [...groups, { records: count, order: 'shuffled', rounds, oneByOne: true }]
      : groups;
  });
}

function inChild(request) {
  const child = fork(fileURLToPath(new URL('./support/engine-run.mjs', import.meta.url)), ['--child']);
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('exit', (code) => reject(new Error(`${request.engine}: its process ended with ${code}`)));
    child.once('message', ({ rows, error }) => (error === undefined ? resolve(rows) : reject(new Error(error))));
    child.send(request);
  });
}

/** { rows, mixes, reference, failures }: what was measured, and what read back wrong. With a reference, it runs before and after each of ours. */
export async function runEngines({
  reference,
  engines,
  records,
  isQuick,
  seed,
  inProcess,
  mixNames,
  mixOperations,
  mixKeys = LIVE_KEYS,
  onRows,
}) {
  const rows = [];
  const failures = [];
  for (const engine of engines) {
    const request = { engine, plan: planOf(records, isQuick), seed };
    try {
      await reference?.measure(engine, request.plan, seed);
      const measured = inProcess ? measureEngine(request) : await inChild(request);
      await reference?.measure(engine, request.plan, seed + 1);
      rows.push(...measured);
      onRows?.(measured);
    } catch (error) {
      failures.push(`${engine}: ${error.stack}`);
    }
  }
  const mixes = [];
  for (const mix of mixNames) {
    await reference?.measureMix(mix, mixOperations, mixKeys, seed);
    const result = await runMix(mix, mixOperations, seed, mixKeys);
    await reference?.measureMix(mix, mixOperations, mixKeys, seed + 1);
    mixes.push(result);
    if (result.failed + result.wrong > 0) failures.push(`${mix}: ${result.failed} calls failed, ${result.wrong} wrong`);
  }
  return { rows, mixes, reference, failures };
}

// ---- targets ------------------------------------------------------------------------------------------------------------------------------------

/** [engine, order, what, the original's figure, share of it that is promised]. A million records. */
const SPEED_TARGETS = [
  ['btree', 'shuffled', 'set', 0.46, 1],
  ['btree', 'shuffled', 'get', 0.53, 1],
  ['memtable', 'shuffled', 'set', 0.39, 1],
  ['memtable', 'shuffled', 'get', 0.56, 1],
  // In random order the original's hash ends with an error.
  ['hash', 'sequential', 'set', 1.44, 0.5],
  ['hash', 'sequential', 'get', 5.29, 0.5],
  ['rbtree', 'shuffled', 'set', 0.46, 0.5],
  ['rbtree', 'shuffled', 'get', 0.61, 0.5],
  ['rbtree', 'sequential', 'set', 3.07, 0.5],
  ['rbtree', 'sequential', 'get', 5.9, 0.5],
];

/**
 * One line per target: { name, needed, measured, verdict, neededHere, verdictHere }. What is needed are the recorded figures of the original; what is
 * needed here, the same share of the best the reference reached.
 */
export function judgeEngines({ rows, mixes, reference }) {
  const find = (engine, order) =>
    rows.find((row) => row.engine === engine && row.order === order && row.records === MILLION && !row.oneByOne);
  const verdicts = [];
  const verdictOf = (measured, isMet) => (measured === undefined ? 'not run' : isMet(measured) ? 'met' : 'MISSED');
  const add = (name, needed, measured, isMet) =>
    verdicts.push({ name, needed, measured, verdict: verdictOf(measured, (rate) => isMet(rate, needed)) });
  const addRate = (name, needed, neededHere, measured, isMet) => {
    add(name, needed, measured, isMet);
    if (neededHere !== undefined)
      Object.assign(verdicts.at(-1), {
        neededHere,
        verdictHere: verdictOf(measured, (rate) => isMet(rate, neededHere)),
      });
  };
  for (const [engine, order, what, original, share] of SPEED_TARGETS) {
    const ours = what === 'get' ? ORIGINAL[engine].lookup : what;
    const needed = original * share;
    const of = share === 1 ? `above ${original}` : `half of ${original}`;
    const best = reference?.of({ engine, records: MILLION, order })?.[what][1];
    addRate(`${engine}, 1 M ${order}, ${ours}: ${of} M/s`, needed, best && best * share, find(engine, order)?.[ours], (rate, asked) => rate > asked); // prettier-ignore
  }
  for (const [engine, { bytesPerEntry }] of Object.entries(ORIGINAL)) {
    const measured = ['sequential', 'shuffled'].flatMap((order) => find(engine, order)?.bytesPerEntry ?? []);
    add(`${engine}, bytes per entry, both orders: below`, bytesPerEntry, measured.length < 2 ? undefined : Math.max(...measured), (bytes) => bytes < bytesPerEntry); // prettier-ignore
  }
  add('array holds', MILLION, find('array', 'shuffled')?.records, (held) => held >= MILLION);
  for (const [mix, [, best]] of Object.entries(ORIGINAL_MIXES)) {
    const measured = mixes.find((result) => result.mix === mix);
    addRate(`8 threads, B+Tree of 100 k, ${mix}: above M/s`, best, reference?.ofMix(mix)?.[1], measured?.millionsPerSecond, (rate, asked) => rate > asked && measured.failed + measured.wrong === 0); // prettier-ignore
  }
  return verdicts;
}

// ---- output -------------------------------------------------------------------------------------------------------------------------------------

const HEADER = [
  'engine',
  'records',
  'order',
  'set',
  'has',
  'get',
  'B/entry',
  'C',
  'C set',
  'C get',
  'set/C',
  'has/C',
  'get/C',
  'C B/entry',
];
const figure = (number) => (number === undefined ? '-' : number >= 100 ? number.toFixed(0) : number.toFixed(2));
const range = (of) =>
  of === undefined ? '-' : figure(of[0]) === figure(of[1]) ? figure(of[0]) : `${figure(of[0])}-${figure(of[1])}`;

/** A line with the recorded figures of the original, and one with those of the reference if it ran. */
function linesOf(row, reference) {
  const { engine, records, order, oneByOne, set, has, get, bytesPerEntry } = row;
  const original = ORIGINAL[engine];
  const recorded = oneByOne ? undefined : original?.records[records]?.[order];
  const here = reference?.of(row);
  const times = (ours, theirs) => (theirs === undefined ? '-' : `${figure(ours / theirs[1])}x`);
  const ratios = (figures) => [times(set, figures?.set), times(has, figures?.get), times(get, figures?.get)];
  const ours = [
    engine,
    records.toLocaleString('en'),
    oneByOne ? `${order}, singly` : order,
    figure(set),
    figure(has),
    figure(get),
    figure(bytesPerEntry),
  ];
  const bytesThen = records === MILLION || engine === 'array' ? figure(original?.bytesPerEntry) : '-';
  const then = [...ours, 'then', range(recorded?.set), range(recorded?.get), ...ratios(recorded), bytesThen];
  if (here === undefined) return [then];
  return [
    then,
    [...ours.map(() => ''), 'here', range(here.set), range(here.get), ...ratios(here), range(here.bytesPerEntry)],
  ];
}

function printGrid(lines) {
  const widths = lines[0].map((_, column) => Math.max(...lines.map((line) => line[column].length)));
  for (const line of lines) {
    console.log(line.map((text, column) => (column === 0 || column === 2 ? text.padEnd(widths[column]) : text.padStart(widths[column]))).join('  ')); // prettier-ignore
  }
}

/** What the mixed load is made of, and what follows from it. */
function printCost(cost, parts) {
  if (cost !== undefined) {
    const { clientUs, shardUs, restUs, totalUs, cores, bound } = cost;
    console.log(
      `  CPU per operation: clients ${figure(clientUs)} + shard ${figure(shardUs)} + collectors, compilers and others ${figure(restUs)} = ` +
        `${figure(totalUs)} us: at most ${figure(bound)} M/s on ${cores} cores`,
    );
  }
  if (parts !== undefined) {
    console.log(
      `  shard, per write, in groups of ${parts.recordsPerGroup}: number and log ${figure(parts.logUs)}, apply and publish ` +
        `${figure(parts.applyUs)}, answer ${figure(parts.answerUs)} us (wall)`,
    );
  }
}

async function main() {
  const text = { type: 'string' };
  const flag = { type: 'boolean', default: false };
  const line = new CommandLine(headOf(import.meta.url), {
    ...{ quick: flag, engines: text, records: text, seed: text, json: text },
    ...{ 'in-process': flag, mix: text, 'no-mix': flag },
  });
  const { values } = line;
  const isQuick = values.quick;
  const ofAll = values.mix === undefined ? BASELINE_ENGINES.filter((name) => engineNames().includes(name)) : [];
  const engines = line.names('engines', engineNames()) ?? ofAll;
  const mixNames = values['no-mix'] ? [] : Object.keys(MIXES).filter((name) => name.includes(values.mix ?? ''));
  const records = line.wholes('records', 1, isQuick ? '1000,20000' : [...FULL_ROUNDS.keys()].join(','));
  const machine = describeMachine('.');
  const configuration = {
    machine,
    revision: revision('.'),
    keyBytes: KEY_BYTES,
    valueBytes: VALUE_BYTES,
    group: GROUP,
    seed: line.whole('seed', 0, 1),
    isQuick,
    original: ORIGINAL_CONFIGURATION,
  };
  console.log(`revision ${configuration.revision}, node ${machine.node}, ${machine.cores} x ${machine.cpu}`);
  console.log(
    `key ${KEY_BYTES} B + value ${VALUE_BYTES} B, groups of ${GROUP}, one thread, no log; millions of operations per second`,
  );
  const reference = values['in-process'] ? undefined : Reference.compile();
  process.once('exit', () => reference?.remove());
  console.log(`C then: ${ORIGINAL_CONFIGURATION}; ratios are to its best figure`);
  console.log(
    `C here: ${reference === undefined ? 'not run' : `the same shapes, ${reference.configuration}, before and after ours`}`,
  );
  console.log('has() hands out no copy, as C hash, rbtree and array do; get() copies, as C btree and memtable do\n');
  const result = await runEngines({
    reference,
    engines,
    records,
    isQuick,
    seed: configuration.seed,
    inProcess: values['in-process'],
    mixNames,
    mixOperations: isQuick ? 80_000 : 4_000_000,
    onRows: (rows) => {
      printGrid([HEADER, ...rows.flatMap((row) => linesOf(row, reference))]);
      console.log('');
    },
  });
  for (const { mix, operations, millionsPerSecond, hits, misses, failed, wrong, left, cost, parts } of result.mixes) {
    const [low, high] = ORIGINAL_MIXES[mix];
    const here = reference?.ofMix(mix);
    console.log(
      `8 client threads with at most ${IN_FLIGHT} writes in flight each, B+Tree of 100,000 keys, ${mix}, ${operations.toLocaleString('en')} operations, durability memory: ` +
        `${figure(millionsPerSecond)} M/s (C then ${low}-${high}, ${figure(millionsPerSecond / high)}x; ` +
        `here ${range(here)}, ${here === undefined ? '-' : figure(millionsPerSecond / here[1])}x); ` +
        `${hits} hits, ${misses} misses, ${left} keys left, ${failed} failed, ${wrong} wrong`,
    );
    printCost(cost, parts);
  }
  const verdicts = judgeEngines(result);
  console.log('');
  printGrid([
    ['target', 'needed', '', 'measured', 'needed here', ''],
    ...verdicts.map(({ name, needed, measured, verdict, neededHere, verdictHere }) => [
      name,
      figure(needed),
      verdict,
      figure(measured),
      figure(neededHere),
      verdictHere ?? '-',
    ]),
  ]);
  for (const failure of result.failures) console.error(`\nWRONG: ${failure}`);
  if (values.json !== undefined)
    writeFileSync(values.json, `${JSON.stringify({ configuration, ...result, verdicts }, null, 2)}\n`);
  if (result.failures.length > 0) process.exitCode = 1;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await main();
