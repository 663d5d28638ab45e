/** A child process killed at random moments: see kill-loop.mjs, which runs by hand for longer. */
import * as fs from 'node:fs';
import * as os from 'node:os';
import * as path from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
// @ts-expect-error a plain JavaScript helper
import { killLoop } from './kill-loop.mjs';

const KILLS = 100;
const SCENE_KILLS = 6;
const ENGINE_KILLS = 2;
const MERGE_KILLS = 3;

let directory: string;

beforeEach(() => {
  directory = fs.mkdtempSync(path.join(os.tmpdir(), 'concordkv-kill-'));
});

afterEach(() => {
  fs.rmSync(directory, { recursive: true, force: true });
});

/** What the lives of a scene meet by chance, and how much of it is enough. */
type Enough = Partial<Record<'acknowledged' | 'drops' | 'switches' | 'expired' | 'tables' | 'leftovers', number>>;

/** Where so few lives have not met enough, more are killed, in a store of their own. */
const ROUNDS_MAX = 8;

async function survive(kills: number, scene: string, engine: string, enough: Enough): Promise<void> {
  const met: Record<string, number> = {};
  const lacking = (): string[] => Object.entries(enough).flatMap(([what, n]) => ((met[what] ?? 0) < n ? [what] : []));
  for (let round = 0; lacking().length > 0; round++) {
    expect(round, `too few of ${lacking().join(', ')}`).toBeLessThan(ROUNDS_MAX);
    const seed = Math.floor(Math.random() * 1_000_000);
    console.log(`replay: npm run test:crash -- --kills ${kills} --scene ${scene} --engine ${engine} --seed ${seed}`);
    const place = path.join(directory, String(round));
    fs.mkdirSync(place);
    const result = (await killLoop({ kills, seed, directory: place, scene, engine })) as Record<string, number>;
    console.log(JSON.stringify(result));
    expect(result['verified']).toBeGreaterThan(kills / 2);
    for (const what of Object.keys(enough)) met[what] = (met[what] ?? 0) + result[what]!;
  }
}

test(`every acknowledged write survives ${KILLS} kills, and nothing else appears`, async () => {
  const seed = Math.floor(Math.random() * 1_000_000);
  console.log(`replay: node test/crash/kill-loop.mjs --kills ${KILLS} --seed ${seed}`);
  const result = await killLoop({ kills: KILLS, seed, directory });
  console.log(`${result.acknowledged} acknowledged writes, ${result.verified} verified lives`);
  expect(result.verified).toBeGreaterThan(KILLS / 2);
  expect(result.acknowledged).toBeGreaterThan(1000);
}, 1_800_000);

test('a store that forgets what it acknowledged in one life is found out by the next', async () => {
  await expect(killLoop({ kills: 4, seed: 1, directory, forget: 4 })).rejects.toThrow(/was acknowledged/);
}, 300_000);

describe('over several spaces, of which some are moved, some dropped and made again, and some hold what expires', () => {
  test(`every engine at once survives ${SCENE_KILLS} kills`, async () => {
    await survive(SCENE_KILLS, 'all', 'all', { acknowledged: 500, drops: 1, switches: 1, expired: 1 });
  }, 900_000);

  test('a store that forgets a life is found out here, too', async () => {
    const scene = { scene: 'all', engine: 'all' };
    await expect(killLoop({ kills: 4, seed: 3, directory, forget: 4, ...scene })).rejects.toThrow(
      /was acknowledged|was made, it is not there|was dropped, it is there|is in \w+, not in/,
    );
  }, 300_000);

  test.each(['btree', 'hash', 'rbtree', 'array', 'memtable', 'lsm'])(
    `%s survives ${ENGINE_KILLS} kills`,
    async (engine) => {
      await survive(ENGINE_KILLS, 'all', engine, { acknowledged: 10 });
    },
    600_000,
  );

  test(`a store that merges tables all the time survives ${MERGE_KILLS} kills`, async () => {
    await survive(MERGE_KILLS, 'compaction', 'lsm', { tables: MERGE_KILLS + 1, leftovers: 1 });
  }, 900_000);
});
