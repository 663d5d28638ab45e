/**
 * Kill loop: a child process writes to a store and is killed with SIGKILL at a random moment, again and again. Each child first proves
 * that every write acknowledged to its predecessors is there and nothing else is, then goes on.
 *
 *   node test/crash/kill-loop.mjs --kills 1000 [--seed 7] [--dir <folder>] [--keep] [--callers 32] [--burst 1] [--durability memory] [--forget 5] [--budget]
 *
 *   node test/crash/kill-loop.mjs --scene all --engine all [--kills …] [--seed …] [--budget]
 *
 * With --scene or --engine a child (scene-child.mjs) writes to several spaces: in one engine (--engine btree|hash|rbtree|array|memtable|lsm) or in all of
 * them (all); and beside that (--scene) does nothing else (writes), moves spaces from engine to engine (switch), lets entries expire (expiry), drops spaces and
 * makes them again (drop), writes much and has it merged all the time (compaction, for --engine lsm), or all of it (all).
 *
 * With --budget the store keeps 1 MiB per shard in memory and most of its pages in files, of values ten times as long.
 *
 * The witness is a file outside the store: the child adds a line before each call, and one after it was acknowledged. What the operating system has
 * got survives the death of a process, so a line in the witness is a call that was begun, or acknowledged. Calls without their second line may have
 * happened or not, wholly. Exit code 1 when anything is missing, half there, damaged or too much.
 *
 * The loop must be able to fail. With `--durability memory --callers 8 --burst 400` it does sooner or later: that level promises nothing when the
 * process dies, but what it has acknowledged reaches the operating system within microseconds once the shard is idle. With `--forget 5` it
 * does for certain: the store is put back to an earlier state before that life.
 */
import * as fs from 'node:fs';
import * as os from 'node:os';
import * as path from 'node:path';
import { fileURLToPath } from 'node:url';
import { CommandLine, headOf } from '../../scripts/command-line.mjs';
import { conceive, live } from '../support/lives.mjs';

const CHILD = fileURLToPath(new URL('./kill-child.mjs', import.meta.url));
const SCENE_CHILD = fileURLToPath(new URL('./scene-child.mjs', import.meta.url));
const ENGINES = ['btree', 'hash', 'rbtree', 'array', 'memtable', 'lsm', 'all'];
const SCENES = ['writes', 'switch', 'expiry', 'drop', 'compaction', 'all'];
/** Lives that may be killed before they have written anything: of scenes, before they have made the spaces they lack. */
const MAKING_PART = 0.2;
/** Lives of scenes that read every file of the store before they open it. */
const VERIFY_PART = 0.5;
/** A life is killed at a random moment after it began to write. */
const WRITING_MS_MAX = 200;
const SCENE_MS_MAX = 400;
/** More would leave no room for moves and drops. */
const SCENE_CALLERS_MAX = 8;
/** One life in ten is killed while it still recovers. */
const EARLY_PART = 0.1;
const EARLY_MS_MAX = 200;
/** What a life's moment differs from that of the one before it: multiples of the golden section lie well spread, however few lives there are. */
const MOMENT_STEP = 0.618034;
/** A life that has not verified by then hangs. */
const VERIFY_MS_MAX = 180_000;

function mulberry32(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/**
 * @returns {Promise<{ kills, verified, acknowledged, seed, drops, switches, expired, interrupted, tables, leftovers }>} all numbers: lives that verified, lines they found; of
 *   scenes: drops and moves that were acknowledged, entries that had expired, lives that began with a move or a drop that was not finished,
 *   tables of LSM-Trees they found, and files of tables and blobs whose jobs had not ended
 */
export async function killLoop({
  kills,
  seed,
  directory,
  onProgress,
  shards = 2,
  callers = 32,
  burst = 1,
  durability,
  forget,
  budget = false,
  engine,
  scene,
}) {
  const isScene = engine !== undefined || scene !== undefined;
  const script = isScene ? SCENE_CHILD : CHILD;
  const random = mulberry32(seed);
  const firstMoment = random();
  const witness = path.join(directory, 'witness.log');
  const store = path.join(directory, 'store');
  let verified = 0;
  let acknowledged = 0;
  const happened = { drops: 0, switches: 0, expired: 0, interrupted: 0, tables: 0, leftovers: 0 };
  let earlyKills = 0;
  let child = conceive(script);
  let heir;
  try {
    for (let kill = 0; kill <= kills; kill++) {
      const last = kill === kills;
      // However few lives there are, half of them verify, and the last one that is killed was at its work: there is something to look at.
      const isAtWork = forget !== undefined || kill === kills - 1;
      const isEarly = !last && random() < EARLY_PART && !isAtWork && ++earlyKills <= kills / 2;
      const moment = (firstMoment + kill * MOMENT_STEP) % 1;
      if (kill + 1 === forget) fs.cpSync(store, `${store}.earlier`, { recursive: true });
      if (kill === forget) {
        fs.rmSync(store, { recursive: true });
        fs.renameSync(`${store}.earlier`, store);
      }
      heir = last ? undefined : conceive(script);
      const options = {
        store,
        witness,
        shards,
        callers,
        burst,
        durability,
        budget,
        ...(isScene
          ? {
              callers: Math.min(callers, SCENE_CALLERS_MAX),
              engine: engine ?? 'all',
              scene: scene ?? 'all',
              verifies: last || random() < VERIFY_PART,
            }
          : {}),
        life: kill,
        seed: Math.floor(random() * 2 ** 31),
        last,
        ...(isEarly ? { killEarlyMs: moment * EARLY_MS_MAX } : {}),
      };
      const working = isScene && !isAtWork ? 'running' : 'atWork';
      const killFrom = !isAtWork && random() < MAKING_PART ? 'verified' : working;
      const killAfterMs = last ? undefined : moment * (isScene ? SCENE_MS_MAX : WRITING_MS_MAX);
      const report = await live(child, options, VERIFY_MS_MAX, (message) =>
        message[killFrom] === undefined ? undefined : killAfterMs,
      );
      if (report !== undefined) {
        verified++;
        // Lines of one life; the witness starts over with each that verified.
        acknowledged += report.acknowledged;
        for (const name of Object.keys(happened)) happened[name] += report[name] ?? 0;
      }
      child = heir;
      onProgress?.({ kill, kills, acknowledged });
    }
  } finally {
    heir?.kill('SIGKILL');
  }
  return { kills, verified, acknowledged, seed, ...happened };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const text = { type: 'string' };
  const flag = { type: 'boolean', default: false };
  const line = new CommandLine(headOf(import.meta.url), {
    ...{ kills: text, seed: text, dir: text, keep: flag, callers: text, burst: text, durability: text, forget: text },
    ...{ budget: flag, engine: text, scene: text },
  });
  const { values } = line;
  line.names('engine', ENGINES);
  line.names('scene', SCENES);
  const kills = line.whole('kills', 1, 100);
  const directory = values.dir ?? fs.mkdtempSync(path.join(os.tmpdir(), 'concordkv-kill-'));
  fs.mkdirSync(directory, { recursive: true });
  const seed = line.whole('seed', 0, Date.now() % 1_000_000);
  console.log(`kill loop: ${kills} kills, seed ${seed}, directory ${directory}`);
  try {
    const result = await killLoop({
      kills,
      seed,
      directory,
      callers: line.whole('callers', 1, 32),
      burst: line.whole('burst', 1, 1),
      durability: values.durability,
      forget: line.whole('forget', 1),
      budget: values.budget,
      engine: values.engine,
      scene: values.scene,
      onProgress: ({ kill, acknowledged }) => {
        if (kill % 10 === 0) console.log(`  ${kill}/${kills} kills, ${acknowledged} acknowledged writes checked`);
      },
    });
    console.log(`survived ${result.kills} kills; ${result.acknowledged} acknowledged writes were there`);
    if (values.engine !== undefined || values.scene !== undefined) {
      const { switches, interrupted, drops, expired, tables, leftovers } = result;
      console.log(
        `${switches} moves, ${interrupted} lives met one unfinished; ${drops} drops; ${expired} entries expired`,
      );
      console.log(`${tables} tables were met, and ${leftovers} files of jobs that had not ended`);
    }
    if (!values.keep && values.dir === undefined) fs.rmSync(directory, { recursive: true, force: true });
  } catch (error) {
    console.error(`FAILED: ${error.message}`);
    const flags = ['engine', 'scene', 'durability', 'forget', 'callers', 'burst'].filter((name) => values[name]);
    const more = flags.map((name) => ` --${name} ${values[name]}`).join('') + (values.budget ? ' --budget' : '');
    console.error(`replay: node test/crash/kill-loop.mjs --kills ${kills} --seed ${seed}${more}`);
    console.error(`files are in ${directory}`);
    process.exitCode = 1;
  }
}
