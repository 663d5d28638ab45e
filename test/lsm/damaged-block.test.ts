/** A block that cannot be read keeps no shard from its work: what does not need it goes on, and it can be cleared away. */
import { closeSync, openSync, readdirSync, readSync, statSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { codeOf, scratchDirectory } from '../support/pool-scene.js';
import { fill, keyOf, openLsm, treesOf, valueOf } from './scene.js';

/** The first block of every table is damaged; one of few entries, whose footer these bytes would reach, stays as it is. */
function damageFirstBlocks(directory: string): void {
  for (const tree of treesOf(directory)) {
    for (const name of readdirSync(tree).filter((file) => file.endsWith('.sst'))) {
      if (statSync(join(tree, name)).size < 4096) continue;
      const file = openSync(join(tree, name), 'r+');
      const bytes = Buffer.alloc(256);
      readSync(file, bytes, 0, 256, 128);
      for (let at = 0; at < 256; at++) bytes[at]! ^= 0x55;
      writeSync(file, bytes, 0, 256, 128);
      closeSync(file);
    }
  }
}

test('a range with a damaged block is cleared by one record', async () => {
  const directory = scratchDirectory();
  let db = await openLsm(directory);
  await fill(db, 5000);
  await db.compact();
  // What is in tables is not replayed.
  await db.host!.checkpointAll();
  await db.close();
  damageFirstBlocks(directory);
  db = await openLsm(directory);
  let restarts = 0;
  db.host!.on('shard-restarted', () => restarts++);
  expect(await codeOf(db.get(keyOf(0)))).toBe('ERR_CORRUPT');
  await db.clear({ gte: keyOf(0), lt: keyOf(4900) });
  expect(await db.get(keyOf(0))).toBeUndefined();
  await db.put(keyOf(0), valueOf(0, 1));
  expect(await db.get(keyOf(0))).toBe(valueOf(0, 1));
  expect(restarts).toBe(0);
});
