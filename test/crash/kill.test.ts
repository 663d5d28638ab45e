import * as fs from 'node:fs';
import * as os from 'node:os';
import * as path from 'node:path';
import { expect, test } from 'vitest';
// @ts-expect-error a plain JavaScript helper
import { killLoop } from './kill-loop.mjs';

const KILLS = 100;

test(`every acknowledged write survives ${KILLS} kills`, async () => {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'concordkv-kill-'));
  const seed = Math.floor(Math.random() * 1_000_000);
  console.log(`replay: node test/crash/kill-loop.mjs --kills ${KILLS} --seed ${seed}`);
  const result = await killLoop({ kills: KILLS, seed, directory });
  expect(result.verified).toBeGreaterThan(KILLS * 0.8);
  expect(result.acknowledged).toBeGreaterThan(1000);
  fs.rmSync(directory, { recursive: true, force: true });
}, 600_000);
