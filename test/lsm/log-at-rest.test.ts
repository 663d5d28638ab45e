/** What a store at rest keeps of its log: what the tables, or a checkpoint, do not have. */
import { readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test, vi } from 'vitest';
import { ConcordPool, type PoolOptions } from '../../dist/index.js';
import { scratchDirectory } from '../support/pool-scene.js';
import { OPTIONS, keyOf } from './scene.js';

/** Long enough for a log to be worth a checkpoint. */
const VALUE = 'v'.repeat(20_000);
const COUNT = 300;
const SMALL_BYTES = 64 << 10;
/** No checkpoint for the length of the log. */
const MORE: PoolOptions = { checkpointLogBytes: 1 << 30, segmentBytes: 32 << 20, feed: { retainBytes: 0 } };

/** Of the log's files, segments and spares; one may go while they are counted. */
function logBytes(directory: string): number {
  const shard = join(directory, 'shard-0000');
  let bytes = 0;
  for (const name of readdirSync(shard))
    if (/^wal-/.test(name)) bytes += statSync(join(shard, name), { throwIfNoEntry: false })?.size ?? 0;
  return bytes;
}

async function fill(db: ConcordPool): Promise<void> {
  await Promise.all(Array.from({ length: COUNT }, (_, i) => db.put(keyOf(i), VALUE)));
}

function check(db: ConcordPool): void {
  for (let i = 0; i < COUNT; i++) expect(db.getSync(keyOf(i))).toBe(VALUE);
}

test('a store that is closed when its tables have everything has hardly any log', async () => {
  const directory = scratchDirectory();
  let db = await ConcordPool.open(directory, { ...OPTIONS, ...MORE });
  await fill(db);
  await db.compact();
  await db.close();
  expect(logBytes(directory)).toBeLessThan(SMALL_BYTES);
  db = await ConcordPool.open(directory, { ...OPTIONS, ...MORE });
  check(db);
  await db.put('after', 'x');
  await db.close();
  db = await ConcordPool.open(directory, { ...OPTIONS, ...MORE });
  check(db);
  expect(db.getSync('after')).toBe('x');
  await db.close();
});

test('so has one that is closed with a checkpoint of all of it, without tables', async () => {
  const directory = scratchDirectory();
  const options = { ...OPTIONS, ...MORE, engine: 'btree' };
  let db = await ConcordPool.open(directory, options);
  await fill(db);
  // Longer than the data.
  await fill(db);
  await db.close();
  expect(logBytes(directory)).toBeLessThan(SMALL_BYTES);
  db = await ConcordPool.open(directory, options);
  check(db);
  await db.close();
});

test('an open one, to which nobody writes any more, makes an end of its log by itself, and goes on', async () => {
  const directory = scratchDirectory();
  const db = await ConcordPool.open(directory, { ...OPTIONS, ...MORE });
  await fill(db);
  expect(logBytes(directory)).toBeGreaterThan(COUNT * VALUE.length);
  await db.compact();
  await vi.waitFor(
    () => {
      expect(logBytes(directory)).toBeLessThan(SMALL_BYTES);
      expect(db.stats().shards[0]!.checkpoints).toBe(1);
    },
    { timeout: 100_000, interval: 50 },
  );
  check(db);
  await db.put('after', 'x');
  await db.host!.crash();
  const again = await ConcordPool.open(directory, { ...OPTIONS, ...MORE });
  check(again);
  expect(again.getSync('after')).toBe('x');
  await again.close();
});

test('log that is kept for change feeds stays', async () => {
  const directory = scratchDirectory();
  const options = { ...OPTIONS, ...MORE, feed: { retainBytes: 64 << 20 } };
  let db = await ConcordPool.open(directory, options);
  const { token } = db.watch();
  await fill(db);
  await db.compact();
  await db.close();
  expect(logBytes(directory)).toBeGreaterThan(COUNT * VALUE.length);
  db = await ConcordPool.open(directory, options);
  const feed = db.watch({ since: token });
  const seen = new Set<unknown>();
  for await (const { key } of feed) {
    seen.add(key);
    if (seen.size === COUNT) break;
  }
  await db.close();
});
