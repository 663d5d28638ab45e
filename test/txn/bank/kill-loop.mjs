/**
 * The bank under SIGKILL: a process with three threads transfers money between accounts on all shards and is killed at a random moment, again and again. Each life audits what
 * it finds first: every account against the slips of the transfers, the sum, and a slip for every transfer that was acknowledged.
 *
 *   node test/txn/bank/kill-loop.mjs [--kills 100] [--seed 7] [--shards 3] [--forget 5] [--dir <folder>] [--keep]
 *
 * The loop must be able to fail: with --forget the log of one shard is put back to what it was before that life. Exit code 1 when an audit found something.
 */
import * as fs from 'node:fs';
import * as os from 'node:os';
import * as path from 'node:path';
import { fileURLToPath } from 'node:url';
import { CommandLine, headOf } from '../../../scripts/command-line.mjs';
import { conceive, live } from '../../support/lives.mjs';
import { makeRandom } from '../../support/memory-random.mjs';

const CHILD = fileURLToPath(new URL('./bank-child.mjs', import.meta.url));
/** A life is killed at a random moment after so many transfers, whatever speed the machine has; or when it has taken too long for them. */
const TRANSFERS_MIN = 20;
const TRANSFERS_MAX = 100;
const MOMENT_MS_MAX = 20;
const WORKING_MS_MAX = 120_000;
/** One life in eight is killed while it still recovers. */
const EARLY_ONE_IN = 8;
const EARLY_MS_MAX = 250;
const AUDIT_MS_MAX = 180_000;

/** After so many transfers, at a random moment. */
function afterTransfers(killAfter, killMoment) {
  let isDue = false;
  return (message, isVerified) => {
    if (!isVerified || isDue) return undefined;
    isDue = (message.done ?? 0) >= killAfter;
    if (isDue) return killMoment * MOMENT_MS_MAX;
    return message.verified === undefined ? undefined : WORKING_MS_MAX;
  };
}

/** @returns {Promise<{ kills: number, audits: number, acknowledged: number }>} acknowledged: transfers, of all lives */
export async function bankLoop({ kills, seed, directory, shards = 3, forget, onProgress }) {
  const next = makeRandom(seed);
  for (let warm = 0; warm < 8; warm++) next();
  const random = () => next() / 2 ** 32;
  const store = path.join(directory, 'store');
  const witness = path.join(directory, 'witness.log');
  let audits = 0;
  let acknowledged = 0;
  let child = conceive(CHILD);
  let heir;
  try {
    for (let kill = 0; kill <= kills; kill++) {
      const last = kill === kills;
      // The last one that is killed was at its work: there is something to look at.
      const isEarly = kill < kills - 1 && forget === undefined && next() % EARLY_ONE_IN === 0;
      const moment = random();
      const killAfter = TRANSFERS_MIN + (next() % (TRANSFERS_MAX - TRANSFERS_MIN));
      const shard = path.join(store, 'shard-0000');
      if (kill + 1 === forget) fs.cpSync(shard, `${store}.earlier`, { recursive: true });
      if (kill === forget) {
        fs.rmSync(shard, { recursive: true });
        fs.renameSync(`${store}.earlier`, shard);
      }
      heir = last ? undefined : conceive(CHILD);
      const options = {
        ...{ store, witness, shards, life: kill, seed: next() >>> 1, last },
        ...(isEarly ? { killEarlyMs: moment * EARLY_MS_MAX } : {}),
      };
      const killIn = last ? () => undefined : afterTransfers(killAfter, moment);
      const report = await live(child, options, AUDIT_MS_MAX, killIn);
      if (report !== undefined) {
        audits++;
        acknowledged = report.acknowledged;
      }
      child = heir;
      onProgress?.({ kill, kills, acknowledged });
    }
  } finally {
    heir?.kill('SIGKILL');
  }
  return { kills, audits, acknowledged };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const text = { type: 'string' };
  const line = new CommandLine(headOf(import.meta.url), {
    ...{ kills: text, seed: text, shards: text, forget: text, dir: text, keep: { type: 'boolean', default: false } },
  });
  const { values } = line;
  const kills = line.whole('kills', 1, 100);
  const seed = line.whole('seed', 0, Date.now() % 1_000_000);
  const directory = values.dir ?? fs.mkdtempSync(path.join(os.tmpdir(), 'concordkv-bank-'));
  fs.mkdirSync(directory, { recursive: true });
  console.log(`bank: ${kills} kills, seed ${seed}, directory ${directory}`);
  try {
    const result = await bankLoop({
      kills,
      seed,
      shards: line.whole('shards', 2, 3),
      forget: line.whole('forget', 1),
      directory,
      onProgress: ({ kill, acknowledged }) => {
        if (kill % 10 === 0) console.log(`${kill} of ${kills} kills, ${acknowledged} acknowledged transfers`);
      },
    });
    console.log(JSON.stringify(result));
    if (!values.keep) fs.rmSync(directory, { recursive: true, force: true });
  } catch (error) {
    console.error(error.message);
    process.exitCode = 1;
  }
}
