/** What iterators cost their callers. */
import { expect, test } from 'vitest';
import { ConcordPool } from '../../dist/index.js';

test('an entry of a chunk that was read is handed over at once, to for await too', async () => {
  const db = await ConcordPool.open(':memory:', { shards: 1, durability: 'memory' });
  await Promise.all(Array.from({ length: 50 }, (_, i) => db.put(`key ${i}`, 'value')));
  const iterator = db.iterator();
  await iterator.next();
  for (let i = 1; i < 50; i++) {
    let isThere = false;
    const next = iterator.next().then(() => {
      isThere = true;
    });
    await Promise.resolve();
    expect(isThere, `entry ${i}`).toBe(true);
    await next;
  }
  await db.close();
});

test('calls of next() made at once are answered in their order', async () => {
  const db = await ConcordPool.open(':memory:', { shards: 2, durability: 'memory' });
  const keys = Array.from({ length: 1500 }, (_, i) => `key ${String(i).padStart(4, '0')}`);
  await Promise.all(keys.map((key) => db.put(key, 'value')));
  const iterator = db.keys();
  const results = await Promise.all(Array.from({ length: 1501 }, () => iterator.next()));
  expect(results.map(({ value }) => value)).toEqual([...keys, undefined]);
  expect(results.at(-1)!.done).toBe(true);
  await db.close();
});
