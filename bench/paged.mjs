/**
 * A store larger than its memory: how fast it is written, read, scanned, reopened after an end in order and after a SIGKILL, and what it takes.
 * Not answered here: other engines, several shards. The operating system keeps the page file in its own cache as far as it has room,
 * so a "read from the file" is mostly a system call and a checksum, not a disk.
 *
 *   node bench/paged.mjs [--entries 1000000] [--value 1000] [--budget 128] [--memory 320] [--reads 200000] [--writes 100000] [--page 4096]
 *                        [--dir <folder>] [--keep] [--from 0]
 *                        [--phases load,reads,hot,writes,scan,checkpoint,reopen,kill,verify]
 *
 * Sizes in MiB, values in bytes. Phases may be run one by one on a kept directory, and a load may go on from an entry. Values prove themselves; any wrong one ends the run.
 */
import { fork } from 'node:child_process';
import * as fs from 'node:fs';
import * as os from 'node:os';
import * as path from 'node:path';
import { CommandLine, headOf } from '../scripts/command-line.mjs';
import { ConcordPool } from '../dist/index.js';

const ALL_PHASES = 'load,reads,hot,writes,scan,checkpoint,reopen,kill,verify';
const text = { type: 'string' };
const flag = { type: 'boolean', default: false };
const line = new CommandLine(headOf(import.meta.url), {
  ...{ entries: text, value: text, budget: text, memory: text, reads: text, writes: text, dir: text, keep: flag },
  ...{ from: text, page: text, phases: text, victim: flag },
});
const { values: args } = line;
const entries = line.whole('entries', 1, 1_000_000);
const first = line.whole('from', 0, 0);
const valueBytes = line.whole('value', 16, 1000);
const budget = line.number('budget', 1, 128);
const budgetBytes = budget * 2 ** 20;
const memoryBytes = line.number('memory', 1, Math.max(64, 2.5 * budget)) * 2 ** 20;
const directory = args.dir ?? fs.mkdtempSync(path.join(os.tmpdir(), 'concordkv-paged-'));
const options = { shards: 1, memoryBytes, budgetBytes, durability: 'os', valueEncoding: 'binary' };
if (args.page !== undefined) options.pageBytes = args.page === 'adaptive' ? 'adaptive' : Number(args.page);
const IN_FLIGHT = 1000;

let state = 42;
function random() {
  state = (state + 0x6d2b79f5) >>> 0;
  let t = Math.imul(state ^ (state >>> 15), 1 | state);
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
  return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
}

const keyOf = (n) => `user${String(n).padStart(12, '0')}`;

function valueOf(n) {
  const value = Buffer.alloc(valueBytes, n & 0xff);
  value.writeUInt32LE(n, 0);
  return value;
}

function prove(n, value) {
  if (value?.length === valueBytes && value.readUInt32LE(0) === n && value[valueBytes - 1] === (n & 0xff)) return;
  throw new Error(`${keyOf(n)} has the wrong value ${value?.subarray(0, 8).toString('hex')}`);
}

async function put(count, numberOf) {
  for (let from = 0; from < count; from += IN_FLIGHT) {
    const length = Math.min(IN_FLIGHT, count - from);
    await Promise.all(Array.from({ length }, (_, i) => numberOf(from + i)).map((n) => db.put(keyOf(n), valueOf(n))));
  }
}

if (args.victim) {
  // Writes until its parent kills it.
  const db = await ConcordPool.open(directory, options);
  process.send('writing');
  for (;;) {
    const some = Array.from({ length: IN_FLIGHT }, () => Math.floor(random() * entries));
    await Promise.all(some.map((n) => db.put(keyOf(n), valueOf(n))));
  }
}

let db = await ConcordPool.open(directory, options);

const mib = (bytes) => `${(bytes / 2 ** 20).toFixed(0)} MiB`;

function memory() {
  const [shard] = db.stats().shards;
  const cache = db.host.pageCacheStats();
  return `arena ${mib(shard.memory.usedBytes)}, cache ${mib(cache.usedBytes)}, rss ${mib(process.memoryUsage().rss)}`;
}

async function phase(name, count, work) {
  const { host } = db;
  const counted = host.pageCacheStats();
  const began = performance.now();
  await work();
  const ms = performance.now() - began;
  const after = db.host.pageCacheStats();
  // A store that was opened meanwhile counts from 0.
  const before = db.host === host ? counted : { hits: 0, misses: 0 };
  const hits = after.hits - before.hits;
  const misses = after.misses - before.misses;
  const rate = count === 0 ? '' : `${((count / ms) * 1000).toFixed(0).padStart(9)}/s `;
  const looks =
    hits + misses === 0
      ? ''
      : `; ${hits} from the cache, ${misses} from the file (${((100 * hits) / (hits + misses)).toFixed(1)} % hits)`;
  console.log(`${name.padEnd(34)} ${ms.toFixed(0).padStart(7)} ms ${rate.padEnd(12)} ${memory()}${looks}`);
}

function readRandom(count, numberOf) {
  for (let i = 0; i < count; i++) {
    const n = numberOf();
    prove(n, db.getSync(keyOf(n)));
  }
}

const reads = line.whole('reads', 0, 200_000);
const writes = line.whole('writes', 0, 100_000);
const hot = Math.max(1, Math.floor(entries / 50));
const phases = {
  load: () => phase('load, ascending', entries - first, () => put(entries - first, (i) => first + i)),
  reads: () => phase('read, all keys alike', reads, () => readRandom(reads, () => Math.floor(random() * entries))),
  hot: () =>
    phase('read, 9 of 10 among 2 % of the keys', reads, () =>
      readRandom(reads, () => Math.floor(random() * (random() < 0.9 ? hot : entries))),
    ),
  writes: () => phase('overwrite, all keys alike', writes, () => put(writes, () => Math.floor(random() * entries))),
  scan: () =>
    phase('scan, keys and values', entries, async () => {
      let n = 0;
      for (const [key, value] of db.iterateSync()) {
        if (key !== keyOf(n)) throw new Error(`${key} instead of ${keyOf(n)}`);
        prove(n++, value);
      }
      if (n !== entries) throw new Error(`${n} entries instead of ${entries}`);
    }),
  checkpoint: () => phase('checkpoint', 0, () => db.host.checkpointAll()),
  reopen: () =>
    phase('close and open', 0, async () => {
      await db.close();
      db = await ConcordPool.open(directory, options);
    }),
  kill: async () => {
    await db.close();
    const victim = fork(process.argv[1], [...process.argv.slice(2), '--victim', '--dir', directory]);
    await new Promise((resolve) => victim.once('message', resolve));
    await new Promise((resolve) => setTimeout(resolve, 3000));
    victim.kill('SIGKILL');
    await new Promise((resolve) => victim.once('exit', resolve));
    const began = performance.now();
    db = await ConcordPool.open(directory, options);
    const [recovery] = db.recovery;
    console.log(
      `open after SIGKILL: ${(performance.now() - began).toFixed(0)} ms, ${recovery.operationsReplayed} operations from the log`,
    );
    await phase('read, all keys alike', 20_000, () => readRandom(20_000, () => Math.floor(random() * entries)));
  },
  verify: async () => {
    await db.close();
    const began = performance.now();
    const { ok, problems, entries: found } = await ConcordPool.verify(directory);
    console.log(
      `verify: ${ok ? 'sound' : problems[0].message}, ${found} entries, ${(performance.now() - began).toFixed(0)} ms`,
    );
    if (!ok || found !== entries) process.exitCode = 1;
    db = await ConcordPool.open(directory, options);
  },
};

console.log(
  `${entries} entries of ${valueBytes} bytes (${mib(entries * (valueBytes + 16))}), budget ${mib(budgetBytes)}, arena ${mib(memoryBytes)}, ${directory}`,
);
for (const name of line.names('phases', ALL_PHASES.split(','), ALL_PHASES)) await phases[name]();
await db.close();
const shard = path.join(directory, 'shard-0000');
for (const name of fs.readdirSync(shard).filter((file) => file.endsWith('.pages'))) {
  console.log(`${name}: ${mib(fs.statSync(path.join(shard, name)).size)}`);
}
if (!args.keep && args.dir === undefined) fs.rmSync(directory, { recursive: true, force: true });
