/**
 * npm run soak -- --minutes 30: a store under mixed load for as long as it is asked for: batches, deletes, clears, large values, snapshots, readers in
 * two threads, and a SIGKILL every few seconds. After each, everything is compared with a model kept here. Memory, open files and disk must stay flat.
 *
 * Exit code 0: nothing wrong. 1: something was (the seed is printed). 2: usage.
 */
import { fork } from 'node:child_process';
import { lstatSync, mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { CommandLine } from '../../scripts/command-line.mjs';
import { keyOf, randomOf, valueOf } from './model.mjs';

const HELP = `npm run soak -- [options]

  --minutes <n>     how long (default 30; fractions are fine)
  --engine <name>   engine of the default space (default lsm)
  --ids <n>         records (default 60000)
  --kill <seconds>  longest time between two SIGKILLs; 0: none (default 20)
  --seed <n>        default: by the clock; printed
  --dir <folder>    where the store is made and removed (default: the temporary directory)
`;
const CHILD = fileURLToPath(new URL('./child.mjs', import.meta.url));
const CHUNK_WRITES = 2000;
const MIB = 2 ** 20;
const PREFIXES = 1000;

function parseOptions() {
  const text = { type: 'string' };
  const line = new CommandLine(HELP, { minutes: text, engine: text, ids: text, kill: text, seed: text, dir: text });
  return {
    minutes: line.number('minutes', 0.05, 30),
    ids: line.whole('ids', 5000, 60_000),
    killSeconds: line.number('kill', 0, 20),
    seed: line.whole('seed', 0, Date.now() % 1_000_000),
    engine: line.values.engine ?? 'lsm',
    parent: line.values.dir ?? tmpdir(),
  };
}

const options = parseOptions();
const { ids, seed } = options;
const random = randomOf(seed);
mkdirSync(options.parent, { recursive: true });
const root = mkdtempSync(join(options.parent, 'concordkv-soak-'));
const directory = join(root, 'store');

/** Small limits, so that every part of the machinery is at work all the time. */
const tuning =
  options.engine === 'lsm'
    ? { lsm: { memtableBytes: 2 * MIB, tableBytes: MIB, levelBytes: 4 * MIB, blobValueBytes: 16_384 } }
    : {};
const poolOptions = {
  engine: options.engine,
  shards: 1,
  durability: 'os',
  valueEncoding: 'binary',
  memoryBytes: (options.engine === 'lsm' ? 128 : 768) * MIB,
  checkpointLogBytes: 8 * MIB,
  segmentBytes: 4 * MIB,
  ...tuning,
};

const settled = new Int32Array(ids);
/** Writes sent whose answer did not come: id → generation. */
const maybe = new Map();
const problems = [];
const samples = [];
const counts = { writes: 0, chunks: 0, kills: 0, checks: 0, clears: 0 };
let generation = 0;
let child;

function problem(text) {
  problems.push(text);
  process.stdout.write(`WRONG: ${text}\n`);
}

class Child {
  #process = fork(CHILD, { serialization: 'advanced' });
  #waiting = new Map();
  #nextId = 1;
  isKilled = false;
  gone = new Promise((resolve) => {
    this.#process.once('exit', (code, signal) => {
      if (!this.isKilled && code !== 0) problem(`the store's process ended by itself: ${signal ?? code}`);
      for (const { reject } of this.#waiting.values()) reject(new Error('killed'));
      this.#waiting.clear();
      resolve();
    });
  });

  constructor() {
    this.#process.on('message', ({ event, text, id, result, error }) => {
      if (event === 'problem') {
        problem(text);
        return;
      }
      const waiting = this.#waiting.get(id);
      this.#waiting.delete(id);
      if (error === undefined) waiting.resolve(result);
      else waiting.reject(new Error(error));
    });
  }

  call(method, args) {
    return new Promise((resolve, reject) => {
      const id = this.#nextId++;
      this.#waiting.set(id, { resolve, reject });
      this.#process.send({ id, method, args }, () => undefined);
    });
  }

  kill() {
    this.isKilled = true;
    this.#process.kill('SIGKILL');
  }
}

function diskBytes() {
  let sum = 0;
  for (const entry of readdirSync(directory, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue;
    const path = join(entry.parentPath ?? entry.path, entry.name);
    try {
      sum += lstatSync(path).blocks * 512;
    } catch {
      // Gone since it was listed.
    }
  }
  return sum;
}

async function start() {
  child = new Child();
  const { openMs } = await child.call('open', { directory, options: poolOptions, ids, seed: random.next() });
  const { outcome, entries } = await child.call('check', { settled, maybe: [...maybe] });
  for (const [id, found] of outcome) settled[id] = found;
  maybe.clear();
  counts.checks++;
  return { openMs, entries };
}

/** No record twice, so that each is either as before or as written. */
function nextChunk() {
  const chosen = new Set();
  const hot = random.below(4) === 0 ? 500 : ids;
  while (chosen.size < Math.min(CHUNK_WRITES, hot / 2)) chosen.add(random.below(hot));
  return [...chosen].map((id) => [id, random.below(5) === 0 ? -++generation : ++generation]);
}

async function runChunk() {
  const writes = nextChunk();
  const clear = random.below(50) === 0 ? clearOf(String(random.below(PREFIXES)).padStart(3, '0')) : undefined;
  for (const [id, written] of writes) maybe.set(id, written);
  if (clear !== undefined) for (const id of clear.ids) if (!maybe.has(id)) maybe.set(id, -++generation);
  // A record that is written and then cleared in one chunk could be three things: it is left out.
  const cleared = new Set(clear?.ids);
  const sent = writes.filter(([id]) => !cleared.has(id));
  for (const [id] of writes) if (cleared.has(id)) maybe.set(id, -++generation);
  const found = await child.call('chunk', {
    writes: sent,
    batchEntries: 1 + random.below(60),
    seed: random.next(),
    clear,
  });
  for (const [id, written] of maybe) settled[id] = written;
  maybe.clear();
  counts.writes += sent.length;
  counts.chunks++;
  if (clear !== undefined) counts.clears++;
  return found;
}

const byPrefix = new Map();
for (let id = 0; id < ids; id++) {
  const prefix = keyOf(id).slice(0, 9);
  if (!byPrefix.has(prefix)) byPrefix.set(prefix, []);
  byPrefix.get(prefix).push(id);
}

function clearOf(digits) {
  const prefix = `soak:${digits}:`;
  return { prefix, ids: byPrefix.get(prefix) ?? [] };
}

/** Live bytes by the model. */
function liveBytes() {
  let sum = 0;
  for (let id = 0; id < ids; id++) if (settled[id] > 0) sum += valueOf(id, settled[id]).length + 17;
  return sum;
}

function median(numbers) {
  return [...numbers].sort((a, b) => a - b)[numbers.length >> 1];
}

/** The last third against the middle one: the first is warming up. */
function checkFlat(name, of, slackBytes) {
  if (samples.length < 9) return;
  const third = Math.floor(samples.length / 3);
  const middle = median(samples.slice(third, 2 * third).map(of));
  const last = median(samples.slice(2 * third).map(of));
  process.stdout.write(`${name}: ${Math.round(middle)} in the middle third, ${Math.round(last)} in the last\n`);
  if (last > 1.25 * middle + slackBytes) problem(`${name} grows: ${Math.round(middle)} to ${Math.round(last)}`);
}

async function main() {
  process.stdout.write(
    `engine ${options.engine}, ${ids} records, ${options.minutes} minutes, --seed ${seed}, ${directory}\n`,
  );
  const beganMs = performance.now();
  const endMs = beganMs + options.minutes * 60_000;
  let toldMs = beganMs;
  await start();
  while (performance.now() < endMs && problems.length === 0) {
    const livesMs = options.killSeconds === 0 ? Infinity : 1000 + random.below(options.killSeconds * 1000);
    const dieAt = performance.now() + livesMs;
    const timer = livesMs === Infinity ? undefined : setTimeout(() => child.kill(), livesMs);
    try {
      for (let chunk = 0; performance.now() < endMs && problems.length === 0; chunk++) {
        const found = await runChunk();
        if (chunk % 5 === 4) samples.push({ ...found, diskBytes: diskBytes() });
        if (performance.now() - toldMs > 10_000) {
          toldMs = performance.now();
          const { rssBytes = 0, files = 0, diskBytes: disk = 0 } = samples.at(-1) ?? {};
          process.stdout.write(
            `${((toldMs - beganMs) / 60_000).toFixed(1)} min: ${counts.writes} writes, ${counts.kills} kills, ${counts.clears} clears, ` +
              `rss ${(rssBytes / MIB).toFixed(0)} MiB, ${files} files, disk ${(disk / MIB).toFixed(0)} MiB\n`,
          );
        }
      }
    } catch (error) {
      if (!child.isKilled) problem(error.stack ?? String(error));
    }
    clearTimeout(timer);
    if (performance.now() >= endMs || problems.length > 0) break;
    if (performance.now() < dieAt && !child.isKilled) continue;
    await child.gone;
    counts.kills++;
    await start();
  }
  if (!child.isKilled && problems.length === 0) {
    await child.call('check', { settled, maybe: [...maybe] });
    await child.call('end').catch(() => undefined);
  } else if (!child.isKilled) child.kill();
  await child.gone;
  // In order, after an end in order.
  if (problems.length === 0) {
    await start();
    await child.call('end').catch(() => undefined);
    await child.gone;
  }
  const live = liveBytes();
  process.stdout.write(
    `${counts.writes} writes in ${counts.chunks} chunks, ${counts.kills} kills, ${counts.checks} checks of everything, ${counts.clears} clears; ` +
      `${(live / MIB).toFixed(0)} MiB live, ${(diskBytes() / MIB).toFixed(0)} MiB on disk\n`,
  );
  checkFlat('resident bytes', ({ rssBytes }) => rssBytes, 64 * MIB);
  checkFlat('open files', ({ files }) => files, 40);
  checkFlat('disk bytes', (sample) => sample.diskBytes, 64 * MIB);
  process.stdout.write(problems.length === 0 ? 'nothing wrong\n' : `${problems.length} wrong; seed ${seed}\n`);
  rmSync(root, { recursive: true, force: true, maxRetries: 5 });
  process.exitCode = problems.length === 0 ? 0 : 1;
}

for (const signal of ['SIGINT', 'SIGTERM']) {
  process.on(signal, () => {
    child?.kill();
    rmSync(root, { recursive: true, force: true, maxRetries: 5 });
    process.exit(130);
  });
}
try {
  await main();
} catch (error) {
  child?.kill();
  rmSync(root, { recursive: true, force: true, maxRetries: 5 });
  process.stderr.write(`${error.stack ?? error}\nseed ${seed}\n`);
  process.exitCode = 1;
}
