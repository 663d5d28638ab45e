/**
 * Stress over threads: four readers and the main thread read while several threads write; each checks what it sees (rules.mjs).
 *
 *   node test/stress/stress.mjs [--seconds 60] [--seed 7] [--directory <folder>] [--durability os]
 *
 * Prints what was done. Exit code 1 when a rule was broken, check() found something, or memory did not stay flat.
 */
import * as fs from 'node:fs';
import * as os from 'node:os';
import * as path from 'node:path';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import { CommandLine, headOf } from '../../scripts/command-line.mjs';
import { ConcordPool } from '../../dist/index.js';
import { FIXED, SHARDS, fixedKey, play } from './rules.mjs';

/** A thread that is told to stop answers within this, or it is stuck. */
const STOP_MS_MAX = 120_000;

function start(db, roles) {
  const handle = db.handle();
  const worker = new Worker(new URL('./thread.mjs', import.meta.url), {
    workerData: { port: handle.port, roles },
    transferList: handle.transferList,
  });
  let playing;
  let report;
  const isPlaying = new Promise((resolve) => (playing = resolve));
  const ended = new Promise((resolve, reject) => {
    report = resolve;
    worker.on('error', reject);
  });
  ended.catch(playing);
  worker.on('message', (message) => (message.playing ? playing() : report(message.report)));
  return { worker, isPlaying, ended };
}

/** @returns {Promise<{ problems: string[], counts: Record<string, number>, memory: object, seed: number }>} */
export async function stress({ seconds, seed, directory, durability = 'os', shards = SHARDS }) {
  const db = await ConcordPool.open(directory, {
    shards,
    durability,
    memoryBytes: 128 << 20,
    segmentBytes: 1 << 20,
    checkpointLogBytes: 4 << 20,
  });
  const problems = [];
  db.events.on('shard-restarted', ({ error }) => problems.push(`a shard restarted: ${error.message}`));
  db.events.on('checkpoint-failed', ({ error }) => problems.push(`a checkpoint failed: ${error.message}`));
  await Promise.all(Array.from({ length: FIXED }, (_, n) => db.put(fixedKey(n), 'never changes')));
  const writers = ['a', 'b', 'main'];
  const threads = [
    [
      { role: 'Writer', writer: 'a', seed: seed + 1 },
      { role: 'Reader', writers, seed: seed + 2 },
    ],
    [
      { role: 'Writer', writer: 'b', seed: seed + 3 },
      { role: 'Reader', writers, seed: seed + 4 },
    ],
    [
      { role: 'Weaver', seed: seed + 5 },
      { role: 'Reader', writers, seed: seed + 6 },
    ],
    [
      { role: 'Photographer', seed: seed + 7 },
      { role: 'Walker', seed: seed + 8 },
      { role: 'Reader', writers, seed: seed + 9 },
    ],
  ].map((roles) => start(db, roles));
  const counts = {};
  const add = (report) => {
    problems.push(...report.problems);
    for (const [what, n] of Object.entries(report.counts)) counts[what] = (counts[what] ?? 0) + n;
  };
  let memory;
  try {
    await Promise.all(threads.map(({ isPlaying }) => isPlaying));
    const started = performance.now();
    const isOver = () => performance.now() - started > seconds * 1000;
    // Memory is looked at when everything has been written once, and at the end.
    const early = new Promise((resolve) => setTimeout(() => resolve(db.stats()), seconds * 400));
    add(
      await play(
        db,
        [
          { role: 'Writer', writer: 'main', seed: seed + 10, callers: 4 },
          { role: 'Reader', writers, seed: seed + 11 },
          { role: 'Photographer', seed: seed + 12 },
        ],
        isOver,
      ),
    );
    const before = await early;
    const after = db.stats();
    memory = {
      earlyBytes: before.memoryHighWaterBytes,
      lateBytes: after.memoryHighWaterBytes,
      dataBytes: after.dataBytes,
    };
  } finally {
    for (const { worker } of threads) worker.postMessage('stop');
  }
  let timer;
  const stuck = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error('a thread did not stop')), STOP_MS_MAX);
  });
  for (const report of await Promise.race([Promise.all(threads.map(({ ended }) => ended)), stuck])) add(report);
  clearTimeout(timer);
  problems.push(...(await db.host.check()));
  // When nobody reads any more, every old version and page goes.
  await db.compact();
  const deadline = performance.now() + 60_000;
  while (db.stats().shards.some((shard) => shard.memory.retiredBytes > 0)) {
    if (performance.now() > deadline) {
      problems.push('pages still wait for readers that are gone');
      break;
    }
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  const stats = db.stats();
  const cells = stats.shards.reduce((sum, { tree }) => sum + tree.cells, 0);
  if (cells !== stats.entries)
    problems.push(`${cells} versions for ${stats.entries} entries when nobody needs old ones`);
  if (stats.openSnapshots !== 0) problems.push(`${stats.openSnapshots} snapshots are still open`);
  await db.close();
  return { problems, counts, memory, seed };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const text = { type: 'string' };
  const line = new CommandLine(headOf(import.meta.url), {
    ...{ seconds: text, seed: text, directory: text, durability: { ...text, default: 'os' } },
  });
  const { values } = line;
  const seconds = line.number('seconds', 1, process.env.STRESS_SECONDS ?? 60);
  const seed = line.whole('seed', 0, Date.now() % 1_000_000);
  const directory = values.directory ?? fs.mkdtempSync(path.join(os.tmpdir(), 'concordkv-stress-'));
  console.log(`stress: ${seconds} s, seed ${seed}, directory ${directory}`);
  const report = await stress({
    seconds,
    seed,
    directory,
    durability: values.durability,
  });
  console.log(report.counts, report.memory);
  if (values.directory === undefined) fs.rmSync(directory, { recursive: true, force: true });
  if (report.problems.length > 0) {
    console.error(report.problems.slice(0, 20).join('\n'));
    console.error(`replay: node test/stress/stress.mjs --seconds ${seconds} --seed ${seed}`);
    process.exitCode = 1;
  }
}
