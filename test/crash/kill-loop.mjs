/**
 * Kill loop: a child process writes to a store and is killed with SIGKILL at a random moment, again and again. Each child first proves
 * that every write acknowledged to its predecessors is there, then goes on.
 *
 *   node test/crash/kill-loop.mjs --kills 1000 [--seed 7] [--dir <folder>] [--keep]
 *
 * The witness is a file outside the store: the child appends a line for each acknowledged write, after the acknowledgement. What the operating
 * system has got survives the death of a process, so a line in the witness is a write that was acknowledged. A write that was acknowledged
 * without its line only makes the check weaker. Exit code 1 when anything is missing, half there, or damaged.
 */
import { fork } from 'node:child_process';
import * as fs from 'node:fs';
import * as os from 'node:os';
import * as path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const CHILD = fileURLToPath(new URL('./kill-child.mjs', import.meta.url));

function mulberry32(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Runs one child until it is killed or says what is wrong. */
function oneLife(options) {
  return new Promise((resolve, reject) => {
    const child = fork(CHILD, [JSON.stringify(options)], { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] });
    let problem;
    let report;
    let killTimer;
    child.on('message', (message) => {
      if (message.problem !== undefined) problem = message.problem;
      if (message.verified !== undefined) {
        report = message;
        if (options.killAfterMs !== undefined) killTimer = setTimeout(() => child.kill('SIGKILL'), options.killAfterMs);
      }
    });
    // Some lives end while the store is still being recovered.
    if (options.killEarlyMs !== undefined) killTimer = setTimeout(() => child.kill('SIGKILL'), options.killEarlyMs);
    child.on('exit', (code, signal) => {
      clearTimeout(killTimer);
      if (problem !== undefined) reject(new Error(problem));
      else if (signal === 'SIGKILL' || (code === 0 && options.last)) resolve(report);
      else reject(new Error(`the child ended with code ${code}, signal ${signal}`));
    });
  });
}

/** @returns {Promise<{ kills: number, verified: number, acknowledged: number, seed: number }>} */
export async function killLoop({ kills, seed, directory, onProgress, shards = 2 }) {
  const random = mulberry32(seed);
  const witness = path.join(directory, 'witness.log');
  const store = path.join(directory, 'store');
  let verified = 0;
  let acknowledged = 0;
  for (let kill = 0; kill <= kills; kill++) {
    const last = kill === kills;
    const early = !last && random() < 0.1;
    const report = await oneLife({
      store,
      witness,
      shards,
      life: kill,
      seed: Math.floor(random() * 2 ** 31),
      last,
      ...(last
        ? {}
        : early
          ? { killEarlyMs: Math.floor(40 + random() * 250) }
          : { killAfterMs: Math.floor(random() * 250) }),
    });
    if (report !== undefined) {
      verified++;
      acknowledged = report.acknowledged;
    }
    onProgress?.({ kill, kills, acknowledged });
  }
  return { kills, verified, acknowledged, seed };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { values } = parseArgs({
    options: {
      kills: { type: 'string', default: '100' },
      seed: { type: 'string', default: String(Date.now() % 1_000_000) },
      dir: { type: 'string' },
      keep: { type: 'boolean', default: false },
    },
  });
  const directory = values.dir ?? fs.mkdtempSync(path.join(os.tmpdir(), 'concordkv-kill-'));
  fs.mkdirSync(directory, { recursive: true });
  const seed = Number(values.seed);
  console.log(`kill loop: ${values.kills} kills, seed ${seed}, directory ${directory}`);
  try {
    const result = await killLoop({
      kills: Number(values.kills),
      seed,
      directory,
      onProgress: ({ kill, kills, acknowledged }) => {
        if (kill % 10 === 0) console.log(`  ${kill}/${kills} kills, ${acknowledged} acknowledged writes checked`);
      },
    });
    console.log(`survived ${result.kills} kills; ${result.acknowledged} acknowledged writes are there`);
    if (!values.keep && values.dir === undefined) fs.rmSync(directory, { recursive: true, force: true });
  } catch (error) {
    console.error(`FAILED: ${error.message}`);
    console.error(
      `replay: node test/crash/kill-loop.mjs --kills ${values.kills} --seed ${seed}; files are in ${directory}`,
    );
    process.exitCode = 1;
  }
}
