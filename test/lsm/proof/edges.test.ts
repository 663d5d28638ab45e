/** LSM-Trees with nothing in them, on their way elsewhere, or not to be written: what is asked of them ends. */
import { expect, test, vi } from 'vitest';
import { OPTIONS, fill, openLsm } from '../scene.js';
import { scratchDirectory } from '../../support/pool-scene.js';

const LSM = { engine: 'lsm', lsm: OPTIONS.lsm! };

test('compactions and clears of an empty tree end', async () => {
  const db = await openLsm(scratchDirectory(), { shards: 2 });
  await db.compact();
  await db.compact({ gte: 'a', lt: 'b' });
  await db.clear();
  await db.compact();
  await db.space('empty', LSM).compact();
  expect(await db.count()).toBe(0);
});

test('an empty space moves to an LSM-Tree, and holds no log back', async () => {
  const db = await openLsm(scratchDirectory(), { engine: 'btree' });
  const space = db.space('empty', { engine: 'hash' });
  await space.ready;
  await space.switchEngine('lsm', { lsm: OPTIONS.lsm! });
  expect(space.engine).toBe('lsm');
  for (let round = 0; round < 3; round++) {
    await fill(db, 6000, round);
    await db.host!.checkpointAll();
  }
  await db.host!.checkpointAll();
  await vi.waitFor(() => expect(db.stats().shards[0]!.logBytes).toBeLessThanOrEqual(2 * OPTIONS.segmentBytes!), {
    timeout: 100_000,
    interval: 20,
  });
});

test('a compaction of a space that moves to another engine ends as if it had been made', async () => {
  const db = await openLsm(scratchDirectory(), { shards: 2 });
  for (let round = 0; round < 2; round++) {
    const space = db.space(`moved ${round}`, LSM);
    await fill(space, 3000);
    await Promise.all([space.compact(), space.switchEngine('btree'), space.compact({ gte: 'a', lt: 'z' })]);
    expect(space.engine).toBe('btree');
    expect(await space.count()).toBe(3000);
  }
});

test('in a store that was opened read-only there is nothing to compact', async () => {
  const directory = scratchDirectory();
  const db = await openLsm(directory);
  await fill(db, 3000);
  await db.close();
  const reader = await openLsm(directory, { readOnly: true });
  await reader.compact();
  await reader.compact({ gte: 'key', lt: 'key9' });
  await reader.flush();
  expect(await reader.count()).toBe(3000);
});
