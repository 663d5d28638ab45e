/** A pool whose disk is full for a while: writes are refused with a code, reads go on, and when there is room it goes on by itself. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { scratchDirectory } from '../../support/pool-scene.js';

const childPath = fileURLToPath(new URL('./full-disk-child.mjs', import.meta.url));
const faultsPath = fileURLToPath(new URL('../../support/pool-faults.mjs', import.meta.url));

interface Report {
  /** Of refused writes, by code. */
  readonly codes: Readonly<Record<string, number>>;
  readonly wrong: readonly string[];
  /** As told by the event. */
  readonly causes: readonly string[];
  readonly refusedAt: number;
  readonly refusedStill: boolean;
  readonly refusalMs: number;
  readonly takenAfterMs: number;
  readonly filled: boolean;
  readonly frozen: number;
  readonly check: readonly string[];
  readonly verified: boolean;
}

test('with no room for tables writes end in ERR_DISK_FULL, reads do not, and with room all goes on', async () => {
  const directory = scratchDirectory();
  const child = spawn(process.execPath, ['--import', faultsPath, childPath, join(directory, 'store')], {
    stdio: ['ignore', 'pipe', 'inherit'],
    env: { ...process.env, CONCORDKV_FAULTS: join(directory, 'faults.json') },
  });
  let text = '';
  child.stdout.setEncoding('utf8').on('data', (data: string) => (text += data));
  const [code] = (await once(child, 'close')) as [number | null];
  expect(code, text).toBe(0);
  const report = JSON.parse(text) as Report;
  expect(report.wrong).toEqual([]);
  expect(Object.keys(report.codes)).toEqual(['ERR_DISK_FULL']);
  expect(report.refusedAt).toBeLessThan(40);
  expect(report.refusedStill).toBe(true);
  expect(report.refusalMs).toBeLessThan(20_000);
  expect(report.causes).toContain('stopped disk-full');
  expect(report.causes.at(-1)).toMatch(/^free/);
  expect(report.takenAfterMs).toBeLessThan(60_000);
  expect(report).toMatchObject({ filled: true, frozen: 0, check: [], verified: true });
});
