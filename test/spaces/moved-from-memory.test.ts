/** A space that leaves an LSM-Tree which has no files yet: all it holds is in the log, before the last checkpoint's end. */
import { expect, test } from 'vitest';
import { ConcordPool, type PoolOptions } from '../../dist/index.js';
import { scratchDirectory } from '../support/pool-scene.js';

test('what a checkpoint left to the log survives a move to another engine and a restart', async () => {
  const directory = scratchDirectory();
  const options: PoolOptions = {
    shards: 1,
    memoryBytes: 64 << 20,
    segmentBytes: 256 << 10,
    checkpointLogBytes: 1 << 20,
  };
  let db = await ConcordPool.open(directory, options);
  const large = Array.from({ length: 60 }, (_, index) => `large${index}`);
  await Promise.all(large.map((key) => db.put(key, 'x'.repeat(60_000))));
  const space = db.space('s', { engine: 'lsm' });
  await space.put('k', 'v');
  // The log is longer than the data now, and all but its end is of no use.
  await Promise.all(large.map((key) => db.del(key)));
  await expect.poll(() => db.stats().shards[0]!.checkpoints, { timeout: 10_000 }).toBeGreaterThan(0);
  await space.switchEngine('btree');
  await db.close();
  db = await ConcordPool.open(directory, options);
  expect(db.space('s').getSync('k')).toBe('v');
  await db.close();
});
