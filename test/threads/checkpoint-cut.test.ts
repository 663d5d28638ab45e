/** A checkpoint that is written, and then cannot cut the log. */
import { readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { ConcordPool } from '../../dist/index.js';
import { scratchDirectory } from '../support/pool-scene.js';

test('is not the last one that is asked for', async () => {
  const directory = scratchDirectory();
  const db = await ConcordPool.open(directory, {
    shards: 1,
    segmentBytes: 256 << 10,
    checkpointLogBytes: 1 << 20,
    memoryBytes: 16 << 20,
  });
  const shard = join(directory, 'shard-0000');
  const value = 'v'.repeat(10_000);
  for (let i = 0; i < 60; i++) await db.put('key', value);
  // What is kept of the log for change feeds is looked at: this one will not be found.
  const oldest = readdirSync(shard)
    .filter((name) => name.endsWith('.log'))
    .sort()[0]!;
  rmSync(join(shard, oldest));
  const until = Date.now() + 120_000;
  while (db.stats().shards[0]!.checkpoints === 0 && Date.now() < until) await db.put('key', value);
  expect(db.stats().shards[0]!.checkpoints).toBeGreaterThan(0);
  await db.close();
});
