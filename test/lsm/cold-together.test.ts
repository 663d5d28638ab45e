/** Reads that wait for the same block of a file at the same time. */
import { expect, test } from 'vitest';
import { scratchDirectory } from '../support/pool-scene.js';
import { fill, keyOf, openLsm, valueOf } from './scene.js';

test('reads that wait for one block together each get their own value', async () => {
  const directory = scratchDirectory();
  const count = 4000;
  let db = await openLsm(directory);
  await fill(db, count);
  await db.compact();
  await db.close();
  db = await openLsm(directory);
  // Neighbours, so that many are in one block, none of which was read before.
  const keys = Array.from({ length: count }, (_, i) => keyOf(i));
  const values = await db.getMany(keys);
  expect(values.filter((value, i) => value !== valueOf(i))).toEqual([]);
  await db.close();
  db = await openLsm(directory);
  const entries = await Promise.all(keys.slice(0, 500).map((key) => db.getEntry(key)));
  expect(entries.map((entry) => entry?.value)).toEqual(keys.slice(0, 500).map((_, i) => valueOf(i)));
});
