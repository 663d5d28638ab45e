/**
 * A store with many spaces lives at random beside a model of it, and every answer is compared: spaces of all engines, created, dropped and moved from engine to
 * engine while they are written, read and cleared; B+Trees in budgets much too small for them, LSM-Trees that flush and merge all the time; entries that expire,
 * batches and transactions over spaces, snapshots and iterators that stay open meanwhile; checkpoints, copies, reopenings, deaths of shards and of the whole store.
 * What was acknowledged must be there, whole, and nothing else.
 *
 *   npm run stress:spaces -- [--seconds 60] [--seed 7] [--memory] [--dir <folder>] [--plant lost|kept|torn]
 *
 *   --memory   a store without a directory
 *   --dir      where the store is made and removed (default: the temporary directory)
 *   --plant    a fault that must be found: puts or deletes that do nothing, values that lack their end
 *
 * The choices are the seed's, the time is the machine's: a replay does the same steps, and what goes on beside them may fall elsewhere.
 * Exit code 0: nothing wrong. 1: an answer was (the seed is printed, and the last steps). 2: usage.
 */
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { CommandLine, headOf } from '../../../scripts/command-line.mjs';
import { Life, PLANTS } from './life.mjs';

const PROGRESS_MS = 10_000;

/** The command that does the same. */
export function replayOf({ seconds, seed, isInMemory = false, plant }) {
  const rest = `${isInMemory ? ' --memory' : ''}${plant === undefined ? '' : ` --plant ${plant}`}`;
  return `replay: node test/spaces/random/random.mjs --seed ${seed} --seconds ${seconds}${rest}`;
}

/** @returns {Promise<{ problem: string | undefined, steps: string[], counts: Record<string, number> }>} steps: the last ones before the problem */
export async function stressSpaces({ seconds, seed, isInMemory = false, parent = tmpdir(), plant, onProgress }) {
  mkdirSync(parent, { recursive: true });
  const root = mkdtempSync(join(parent, 'concordkv-spaces-'));
  const directory = isInMemory ? ':memory:' : join(root, 'store');
  const life = await Life.begin({ directory, seed, plant });
  const until = performance.now() + seconds * 1000;
  let problem;
  try {
    while (performance.now() < until) {
      await life.step();
      onProgress?.(life.counts);
    }
    await life.end();
  } catch (error) {
    problem = error.stack ?? String(error);
    await life.abandon();
  }
  rmSync(root, { recursive: true, force: true });
  return { problem, steps: problem === undefined ? [] : life.steps, counts: life.counts };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const text = { type: 'string' };
  const line = new CommandLine(headOf(import.meta.url), {
    ...{ seconds: text, seed: text, dir: text, plant: text, memory: { type: 'boolean' } },
  });
  const options = {
    seconds: line.number('seconds', 0, 60),
    seed: line.whole('seed', 0, Math.floor(Math.random() * 1_000_000)),
    plant: line.names('plant', Object.keys(PLANTS))?.[0],
    isInMemory: line.values.memory === true,
    ...(line.values.dir === undefined ? {} : { parent: line.values.dir }),
  };
  console.log(replayOf(options));
  let toldMs = performance.now();
  const onProgress = (counts) => {
    if (performance.now() - toldMs < PROGRESS_MS) return;
    toldMs = performance.now();
    console.log(`  ${JSON.stringify(counts)}`);
  };
  const { problem, steps, counts } = await stressSpaces({ ...options, onProgress });
  console.log(`seed ${options.seed}: ${JSON.stringify(counts)}`);
  if (problem !== undefined) {
    console.error(`${steps.join('\n')}\nWRONG: ${problem}\n${replayOf(options)}`);
    process.exitCode = 1;
  }
}
