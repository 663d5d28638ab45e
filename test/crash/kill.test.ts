/** A child process killed at random moments: see kill-loop.mjs, which runs by hand for longer. */
import * as fs from 'node:fs';
import * as os from 'node:os';
import * as path from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
// @ts-expect-error a plain JavaScript helper
import { killLoop } from './kill-loop.mjs';

const KILLS = 100;

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
