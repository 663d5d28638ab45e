/** Options of LSM-Trees: checked, remembered with a space, given anew with each opening for the pool's own. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test, vi } from 'vitest';
import { ConcordPool, loadConfig } from '../../dist/index.js';
import { failureOf, scratchDirectory } from '../support/pool-scene.js';
import { OPTIONS, fill, keyOf, openLsm, valueOf } from './scene.js';

test.each([
  [
    { compression: 'lz5' },
    'option lsm.compression is "lz5": it must be none, lz4 or zstd or a list of none, lz4 or zstd',
  ],
  [{ bitsPerKey: 65 }, 'option lsm.bitsPerKey is 65: it must be an integer from 0 to 64 or monkey'],
  [{ tableByte: 1 }, 'option lsm.tableByte: there is no such option; did you mean lsm.tableBytes?'],
  [{ memtableBytes: 64 }, 'option lsm.memtableBytes is 64: it must be a size from 64KiB to 1GiB'],
  [{ blobValueBytes: 63 }, 'option lsm.blobValueBytes is 63: it must be 0 bytes or a size from 64 bytes to 1GiB'],
  [{ level0Runs: 20, slowdownRuns: 5 }, 'level0Runs 20, slowdownRuns 5 and stopRuns 24 must ascend'],
  [{ slowdownDebtBytes: 2 ** 40, stopDebtBytes: 2 ** 30 }, 'slowdownDebtBytes'],
  [5, 'option lsm is 5: it must be a mapping of keys'],
])('%j is refused for a pool and for a space, and what is wrong is named', async (lsm, message) => {
  const ofPool = await failureOf(ConcordPool.open(':memory:', { engine: 'lsm', lsm } as never));
  expect(ofPool.code).toBe('ERR_INVALID_ARG');
  expect(ofPool.message).toContain(message);
  const db = await openLsm(':memory:', { engine: 'btree' });
  const ofSpace = await failureOf(() => db.space('s', { engine: 'lsm', lsm } as never));
  expect(ofSpace.code).toBe('ERR_INVALID_ARG');
  expect(ofSpace.message).toContain(message);
});

test('a space remembers its options, and others are a conflict', async () => {
  const directory = scratchDirectory();
  const lsm = { ...OPTIONS.lsm, compression: ['none', 'lz4'] as const };
  let db = await openLsm(directory, { engine: 'btree' });
  await db.space('s', { engine: 'lsm', lsm }).ready;
  await db.close();
  db = await openLsm(directory, { engine: 'btree' });
  const [space] = await db.spaces();
  expect(space).toMatchObject({ name: 's', engine: 'lsm', tuning: { lsm } });
  await db.space('s', { engine: 'lsm', lsm }).ready;
  const failure = await failureOf(() => db.space('s', { lsm: { tableBytes: 64 << 10 } }));
  expect(failure).toMatchObject({
    code: 'ERR_OPTION_CONFLICT',
    details: { space: 's', option: 'lsm.tableBytes', stored: 32 << 10, given: 64 << 10 },
  });
  const ofList = await failureOf(() => db.space('s', { lsm: { compression: 'none' } }));
  expect(ofList).toMatchObject({ code: 'ERR_OPTION_CONFLICT', details: { stored: 'none, lz4', given: 'none' } });
});

test('the pool takes other options with each opening, and reads what older ones have written', async () => {
  const directory = scratchDirectory();
  for (const [generation, compression] of (['none', 'lz4', ['none', 'lz4']] as const).entries()) {
    const lsm = { ...OPTIONS.lsm, compression, blockBytes: 1024 << generation, bitsPerKey: generation * 8 };
    const db = await openLsm(directory, { lsm });
    await fill(db, 3000, generation, generation * 1000);
    await db.close();
  }
  const db = await openLsm(directory, { lsm: { ...OPTIONS.lsm, compaction: 'tiered' } });
  const generations = [0, 1, 2, 2, 2];
  for (let i = 0; i < 5000; i += 13) expect(db.getSync(keyOf(i))).toBe(valueOf(i, generations[Math.floor(i / 1000)]!));
  expect(await db.count()).toBe(5000);
});

test('a fifo space keeps what its size allows, and the newest of it', async () => {
  const db = await openLsm(scratchDirectory(), {
    lsm: { ...OPTIONS.lsm, compaction: 'fifo', compression: 'none', fifoBytes: 400 << 10 },
  });
  await fill(db, 20_000);
  await vi.waitFor(
    () => {
      const { levels } = db.stats().spaces[0]!.lsm!;
      const bytes = levels.reduce((sum, level) => sum + level.bytes, 0);
      expect(bytes).toBeGreaterThan(0);
      expect(bytes).toBeLessThanOrEqual(400 << 10);
      expect(db.getSync(keyOf(0))).toBeUndefined();
    },
    { timeout: 100_000, interval: 20 },
  );
  expect(db.getSync(keyOf(19_999))).toBe(valueOf(19_999));
});

test('what a fifo space has dropped and is cleared then does not come back from the log', async () => {
  const directory = scratchDirectory();
  let db = await openLsm(directory, { lsm: { ...OPTIONS.lsm, compaction: 'fifo', fifoTtlMs: 1 } });
  await fill(db, 100);
  await db.compact();
  await vi.waitFor(
    () => {
      expect(db.getSync(keyOf(50))).toBeUndefined();
    },
    { timeout: 100_000, interval: 20 },
  );
  await db.clear({ gte: keyOf(20), lt: keyOf(80) });
  await db.put(keyOf(60), 'new');
  await db.close();
  db = await openLsm(directory, { lsm: OPTIONS.lsm });
  expect(await db.iterator({ gte: keyOf(20), lt: keyOf(80) }).all()).toEqual([[keyOf(60), 'new']]);
});

test('files, variables and flags give them as they give other keys', () => {
  const directory = scratchDirectory();
  mkdirSync(directory, { recursive: true });
  const file = join(directory, 'concordkv.yaml');
  writeFileSync(
    file,
    'store: { engine: lsm, lsm: { memtableBytes: 32MiB, compression: [none, lz4], bitsPerKey: monkey } }',
  );
  const env = { CONCORDKV_LSM_TABLE_BYTES: '8MiB', CONCORDKV_LSM_FIFO_TTL_MS: '2h' };
  const argv = ['--set', 'store.lsm.compaction=fifo', '--block-cache', '256MiB'];
  const { values, origins } = loadConfig({ file, env, argv });
  expect(values.store.lsm).toEqual({
    memtableBytes: 32 << 20,
    compression: ['none', 'lz4'],
    bitsPerKey: 'monkey',
    tableBytes: 8 << 20,
    fifoTtlMs: 7_200_000,
    compaction: 'fifo',
  });
  expect(values.store.blockCacheBytes).toBe(256 << 20);
  expect(origins['store.lsm.tableBytes']).toEqual({ source: 'environment', variable: 'CONCORDKV_LSM_TABLE_BYTES' });
});
