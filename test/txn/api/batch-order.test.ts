/** Batches over several shards that one thread makes without waiting for each other. */
import { expect, test } from 'vitest';
import { ConcordPool } from '../../../dist/index.js';

test('overlapping batches over shards, puts and deletes of one thread take effect in the order of the calls', async () => {
  const db = await ConcordPool.open(':memory:', { shards: 3 });
  const keys = Array.from({ length: 6 }, (_, i) => `key${i}`);
  for (let round = 0; round < 30; round++) {
    const calls: Promise<unknown>[] = [];
    for (let i = 0; i < 8; i++) {
      calls.push(db.batch(keys.map((key) => ({ type: 'put', key, value: `${round}-${i}` }))));
      calls.push(db.put(keys[i % 6]!, `${round}-${i}-put`));
    }
    calls.push(db.batch(keys.slice(1).map((key) => ({ type: 'put', key, value: `${round}-last` }))));
    calls.push(db.del(keys[0]!));
    await Promise.all(calls);
    expect(await db.getMany(keys)).toEqual([undefined, ...keys.slice(1).map(() => `${round}-last`)]);
  }
  await db.close();
});
