/** Pools on LSM-Trees with limits so small that a few thousand entries go through every level. */
import { once } from 'node:events';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { onTestFinished } from 'vitest';
import { ConcordPool, type LsmTuning, type PoolOptions } from '../../dist/index.js';
// @ts-expect-error a plain JavaScript helper
import { Load } from '../support/threads-load.mjs';

export const TINY: LsmTuning = {
  memtableBytes: 128 << 10,
  tableBytes: 32 << 10,
  levelBytes: 128 << 10,
  levelFactor: 4,
  blobValueBytes: 16 << 10,
  blobFileBytes: 256 << 10,
};

export const OPTIONS: PoolOptions = {
  shards: 1,
  engine: 'lsm',
  lsm: TINY,
  durability: 'os',
  memoryBytes: 64 << 20,
  segmentBytes: 512 << 10,
  checkpointLogBytes: 512 << 10,
};

/** Closed when the test has finished, if the test has not done so. */
export async function openLsm(directory: string, more: PoolOptions = {}): Promise<ConcordPool> {
  const db = await ConcordPool.open(directory, { ...OPTIONS, ...more });
  onTestFinished(() => db.close());
  return db;
}

export function keyOf(i: number): string {
  return `key${String(i).padStart(8, '0')}`;
}

/** What tells of its key and of the time it was written. */
export function valueOf(i: number, generation = 0): string {
  return `${keyOf(i)}:${generation}:`.padEnd(60 + (i % 70), String.fromCharCode(97 + (generation % 26)));
}

type Store = Pick<ConcordPool, 'put'>;

/** Puts entries from … from + count, a few hundred at a time. */
export async function fill(store: Store, count: number, generation = 0, from = 0): Promise<void> {
  const step = 500;
  for (let at = from; at < from + count; at += step) {
    const puts: Promise<boolean>[] = [];
    for (let i = at; i < Math.min(at + step, from + count); i++) puts.push(store.put(keyOf(i), valueOf(i, generation)));
    await Promise.all(puts);
  }
}

/** Flushes and merges that are under way have ended, and what they left is told. */
export function isQuiet(db: ConcordPool, space = 0): boolean {
  const lsm = db.stats().spaces[space]!.lsm;
  return lsm !== undefined && lsm.runningJobs === 0 && lsm.frozenMemtables === 0;
}

/** Directories of trees below the store's. */
export function treesOf(directory: string): string[] {
  return readdirSync(directory, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isDirectory() && /^lsm-\d+$/.test(entry.name))
    .map((entry) => join(entry.parentPath, entry.name))
    .sort();
}

interface Report {
  readonly acknowledged: number;
  readonly reads: number;
  readonly problems: string[];
}

/** What each load does at least, however long it takes. */
const LEAST = { acknowledged: 101, reads: 1 };

/** Loads from this thread and another one, while `disturb` goes on. What was acknowledged is there at any time, and nothing else. */
export async function underLoad(
  db: ConcordPool,
  seed: number,
  disturb: () => Promise<void>,
): Promise<{ load: { verify(db?: ConcordPool): string[] }; reports: Report[] }> {
  const shape = { callers: 40, keys: 2000, largeEvery: 40 };
  const load = new Load(db, { name: 'main', seed, ...shape });
  const handle = db.handle();
  const worker = new Worker(new URL('../support/threads-load-worker.mjs', import.meta.url), {
    workerData: { port: handle.port, load: { name: 'worker', seed: seed + 1, ...shape } },
    transferList: [...handle.transferList],
  });
  await once(worker, 'message');
  const reported = once(worker, 'message') as Promise<[{ report: Report }]>;
  const running: Promise<void> = load.run();
  await disturb();
  load.stop(LEAST);
  worker.postMessage(LEAST);
  await running;
  const [{ report }] = await reported;
  load.verify();
  return { load, reports: [load.report as Report, report] };
}
