/** A child process killed at random moments: see kill-loop.mjs, which runs by hand for longer. */
import * as fs from 'node:fs';
import * as os from 'node:os';
import * as path from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
// @ts-expect-error a plain JavaScript helper
import { killLoop } from './kill-loop.mjs';

const KILLS = 100;
const SCENE_KILLS = 8;
const ENGINE_KILLS = 3;
const MERGE_KILLS = 4;

let directory: string;

beforeEach(() => {
  directory = fs.mkdtempSync(path.join(os.tmpdir(), 'concordkv-kill-'));
});

afterEach(() => {
  fs.rmSync(directory, { recursive: true, force: true });
});

test(`every acknowledged write survives ${KILLS} kills, and nothing else appears`, async () => {
  const seed = Math.floor(Math.random() * 1_000_000);
  console.log(`replay: node test/crash/kill-loop.mjs --kills ${KILLS} --seed ${seed}`);
  const result = await killLoop({ kills: KILLS, seed, directory });
  console.log(`${result.acknowledged} acknowledged writes, ${result.verified} verified lives`);
  expect(result.verified).toBeGreaterThan(KILLS * 0.8);
  expect(result.acknowledged).toBeGreaterThan(1000);
}, 600_000);

test('a store that forgets what it acknowledged in one life is found out by the next', async () => {
  await expect(killLoop({ kills: 4, seed: 1, directory, forget: 4 })).rejects.toThrow(/was acknowledged/);
}, 60_000);

describe('over several spaces, of which some are moved, some dropped and made again, and some hold what expires', () => {
  test(`every engine at once survives ${SCENE_KILLS} kills`, async () => {
    const seed = Math.floor(Math.random() * 1_000_000);
    console.log(`replay: npm run test:crash -- --kills ${SCENE_KILLS} --scene all --engine all --seed ${seed}`);
    const result = await killLoop({ kills: SCENE_KILLS, seed, directory, scene: 'all', engine: 'all' });
    console.log(JSON.stringify(result));
    expect(result.verified).toBeGreaterThan(SCENE_KILLS / 2);
    expect(result.acknowledged).toBeGreaterThan(500);
    expect(result.drops).toBeGreaterThan(0);
    expect(result.switches).toBeGreaterThan(0);
    expect(result.expired).toBeGreaterThan(0);
  }, 300_000);

  test('a store that forgets a life is found out here, too', async () => {
    const scene = { scene: 'all', engine: 'all' };
    await expect(killLoop({ kills: 4, seed: 3, directory, forget: 4, ...scene })).rejects.toThrow(
      /was acknowledged|was made, it is not there|was dropped, it is there|is in \w+, not in/,
    );
  }, 120_000);

  test.each(['btree', 'hash', 'rbtree', 'array', 'memtable', 'lsm'])(
    `%s survives ${ENGINE_KILLS} kills`,
    async (engine) => {
      const seed = Math.floor(Math.random() * 1_000_000);
      console.log(
        `replay: npm run test:crash -- --kills ${ENGINE_KILLS} --scene all --engine ${engine} --seed ${seed}`,
      );
      const result = await killLoop({ kills: ENGINE_KILLS, seed, directory, scene: 'all', engine });
      console.log(JSON.stringify(result));
      expect(result.verified).toBeGreaterThan(ENGINE_KILLS / 2);
      expect(result.acknowledged).toBeGreaterThan(100);
    },
    300_000,
  );

  test(`a store that merges tables all the time survives ${MERGE_KILLS} kills`, async () => {
    const seed = Math.floor(Math.random() * 1_000_000);
    console.log(`replay: npm run test:crash -- --kills ${MERGE_KILLS} --scene compaction --engine lsm --seed ${seed}`);
    const result = await killLoop({ kills: MERGE_KILLS, seed, directory, scene: 'compaction', engine: 'lsm' });
    console.log(JSON.stringify(result));
    expect(result.verified).toBeGreaterThan(MERGE_KILLS / 2);
    expect(result.tables).toBeGreaterThan(MERGE_KILLS);
    expect(result.leftovers).toBeGreaterThan(0);
  }, 300_000);
});
