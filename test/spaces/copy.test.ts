/** Copies of a store that are made while its spaces come and go. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { ConcordPool } from '../../dist/index.js';
import { scratchDirectory } from '../support/pool-scene.js';

test.each(['btree', 'hash'])(
  'a copy does not hold a space in %s that was dropped while it was made',
  async (engine) => {
    const directory = scratchDirectory();
    const db = await ConcordPool.open(join(directory, 'store'), { shards: 2, memoryBytes: 64 << 20 });
    onTestFinished(() => db.close());
    const gone = db.space('gone', { engine });
    const stays = db.space('stays', { engine });
    for (const space of [gone, stays])
      await Promise.all(Array.from({ length: 500 }, (_, i) => space.put(`k${i}`, 'v')));
    const copied = db.checkpoint(join(directory, 'copy'));
    // It has begun, and knows which spaces there are.
    while (!existsSync(join(directory, 'copy', 'CREATING'))) await new Promise((resolve) => setImmediate(resolve));
    await Promise.all([copied, gone.drop()]);

    const copy = await ConcordPool.open(join(directory, 'copy'), { memoryBytes: 64 << 20 });
    try {
      expect(await copy.space('stays').count()).toBe(500);
      expect(() => copy.space('gone', { createIfMissing: false })).toThrow(
        expect.objectContaining({ code: 'ERR_SPACE_NOT_FOUND' }),
      );
      // The name is free for another one, which is empty.
      const again = copy.space('gone', { engine });
      await again.ready;
      expect(await again.count()).toBe(0);
    } finally {
      await copy.close();
    }
  },
);
