/** Background workers and shards that die while an LSM-Tree is written and merged: nothing acknowledged is lost, and no file is left behind. */
import { readdirSync } from 'node:fs';
import { expect, test, vi } from 'vitest';
import { sleep, until } from '../threads/scene.js';
import { scratchDirectory } from '../support/pool-scene.js';
import { fill, isQuiet, keyOf, openLsm, treesOf, underLoad, valueOf } from './scene.js';

const WAIT = { timeout: 100_000, interval: 20 };

/** Files of a tree that its manifest should name. */
function dataFiles(tree: string): string[] {
  return readdirSync(tree).filter((name) => /\.(sst|blob|tmp)$/.test(name));
}

test('workers that die while they write and merge tables fail their jobs only, which are done again', async () => {
  const seed = Math.floor(Math.random() * 1e9);
  console.log(`seed ${seed}`);
  const directory = scratchDirectory();
  const db = await openLsm(directory);
  let killed = 0;
  const { load, reports } = await underLoad(db, seed, async () => {
    while (killed < 10) {
      await sleep(50 + Math.random() * 150);
      killed += await db.host!.killBackground();
    }
  });
  for (const { problems } of reports) expect(problems).toEqual([]);
  await db.compact();
  expect(load.verify()).toEqual([]);
  await vi.waitFor(() => expect(isQuiet(db)).toBe(true), WAIT);
  expect(await db.host!.check()).toEqual([]);
  await db.close();
  const again = await openLsm(directory);
  expect(load.verify(again)).toEqual([]);
});

test('shards that die while tables are written and merged lose nothing, and leave no file that is not named', async () => {
  const seed = Math.floor(Math.random() * 1e9);
  console.log(`seed ${seed}`);
  const directory = scratchDirectory();
  const db = await openLsm(directory, { shards: 2 });
  const { load, reports } = await underLoad(db, seed, async () => {
    for (let death = 0; death < 4; death++) {
      for (let shard = 0; shard < 2; shard++) {
        await until('the shard is up', () => db.stats().shards[shard]!.state === 'running');
        await sleep(Math.random() * 400);
        await db.host!.killShard(shard);
      }
    }
  });
  await until('every shard is back', () => db.stats().shards.every(({ state }) => state === 'running'));
  for (const { problems, acknowledged } of reports) {
    expect(problems).toEqual([]);
    expect(acknowledged).toBeGreaterThan(50);
  }
  expect(await db.host!.check()).toEqual([]);
  await db.compact();
  expect(load.verify()).toEqual([]);
  await db.host!.checkpointAll();
  await db.close();
  const again = await openLsm(directory, { shards: 2 });
  expect(load.verify(again)).toEqual([]);
  await vi.waitFor(() => {
    const named = again
      .stats()
      .spaces[0]!.lsm!.shards.map(
        ({ levels, blobFiles, obsoleteFiles }) =>
          blobFiles + obsoleteFiles + levels.reduce((sum, { tables }) => sum + tables, 0),
      );
    expect(isQuiet(again)).toBe(true);
    expect(Math.min(...named)).toBeGreaterThan(0);
    expect(treesOf(directory).map((tree) => dataFiles(tree).length)).toEqual(named);
  }, WAIT);
});

test('a snapshot sees the same before, during and after the death of its shard', async () => {
  const db = await openLsm(scratchDirectory());
  await fill(db, 4000);
  const snapshot = await db.snapshot();
  await fill(db, 4000, 1);
  const expected = Array.from({ length: 4000 }, (_, i) => valueOf(i));
  expect(await snapshot.values().all()).toEqual(expected);
  const merging = db.compact().catch((error: { code: string }) => error.code);
  await db.host!.killShard(0);
  expect(snapshot.getSync(keyOf(77))).toBe(valueOf(77));
  expect(await snapshot.values().all()).toEqual(expected);
  expect([undefined, 'ERR_SHARD_RESTARTED', 'ERR_CLOSED', 0]).toContain(await merging);
  await until('the shard is back', () => db.stats().shards[0]!.state === 'running');
  await fill(db, 2000, 2);
  await db.compact();
  expect(await snapshot.values().all()).toEqual(expected);
  await snapshot.close();
  await db.compact();
  expect(db.getSync(keyOf(1))).toBe(valueOf(1, 2));
  expect(db.getSync(keyOf(3999))).toBe(valueOf(3999, 1));
});
