/** Files that a thread has opened to read tables are closed with the store, and when their space is gone. */
import { existsSync, readdirSync, readlinkSync } from 'node:fs';
import { expect, test, vi } from 'vitest';
import { scratchDirectory } from '../support/pool-scene.js';
import { fill, keyOf, openLsm } from './scene.js';

const FDS = '/proc/self/fd';

function openTables(directory: string): string[] {
  const paths = readdirSync(FDS).map((fd) => {
    try {
      return readlinkSync(`${FDS}/${fd}`);
    } catch {
      return '';
    }
  });
  return paths.filter((path) => path.startsWith(directory) && /\.(sst|blob)/.test(path));
}

test.runIf(existsSync(FDS))('no file of a table stays open behind a store or a space', async () => {
  const directory = scratchDirectory();
  let db = await openLsm(directory);
  await fill(db, 5000);
  await db.compact();
  await db.host!.checkpointAll();
  for (let life = 0; life < 2; life++) {
    await db.close();
    expect(openTables(directory)).toEqual([]);
    db = await openLsm(directory);
    for (let i = 0; i < 5000; i += 50) db.getSync(keyOf(i));
    expect(openTables(directory).length).toBeGreaterThan(1);
  }
  const space = await db.space('other', { engine: 'lsm' });
  await fill(space, 5000);
  await db.compact();
  for (let i = 0; i < 5000; i += 50) space.getSync(keyOf(i));
  expect(openTables(directory).filter((path) => path.includes('lsm-2')).length).toBeGreaterThan(0);
  await db.dropSpace('other');
  // A merge that was under way closes its files when it has been told.
  await vi.waitFor(() => expect(openTables(directory).filter((path) => path.includes('lsm-2'))).toEqual([]), {
    timeout: 100_000,
    interval: 20,
  });
});
