/** Shard threads and pool workers that die at any moment: callers learn it, readers do not notice, nothing acknowledged is lost. */
import { once } from 'node:events';
import * as fs from 'node:fs';
import * as path from 'node:path';
import { Worker } from 'node:worker_threads';
import { expect, test } from 'vitest';
import type { ControlBlock } from '../../dist/actors/control-block.js';
import { ConcordPool, type ErrorCode, type PoolOptions } from '../../dist/index.js';
// @ts-expect-error a plain JavaScript helper
import { Load } from '../support/threads-load.mjs';
import { hashBytes } from '../../dist/shared/hash.js';
import { filesOf, keysOfShard } from '../support/pool-scene.js';
import { newDirectory, removeDirectory, sleep, until } from './scene.js';

const SHARDS = 2;
/** A shard stays down after five deaths in a minute. */
const DEATHS_BORNE = 4;
/** What each thread does under load, at least. */
const ENOUGH = { acknowledged: 100, reads: 1000 };
const options: PoolOptions = {
  shards: SHARDS,
  durability: 'os',
  memoryBytes: 192 << 20,
  segmentBytes: 256 << 10,
  checkpointLogBytes: 256 << 10,
};

interface Report {
  acknowledged: number;
  reads: number;
  failures: Record<string, number>;
  problems: string[];
}

function codeOf(work: Promise<unknown>): Promise<ErrorCode | 'done'> {
  return work.then(
    () => 'done' as const,
    (error: { code: ErrorCode }) => error.code,
  );
}

/** A key on each shard. */
function keysPerShard(): string[] {
  return Array.from({ length: SHARDS }, (_, shard) => keysOfShard(shard, SHARDS, 1, 'probe')[0]!);
}

/** Kills a shard until its host gives it up, and resolves with the event that says so. `meanwhile`: before the last time, when the shard is up. */
async function killForGood(db: ConcordPool, shard: number, meanwhile: () => void = () => undefined): Promise<unknown> {
  const failed = once(db.events, 'shard-failed');
  const status = (): { state: string; restarts: number } => db.stats().shards[shard]!;
  for (let death = 1; death <= DEATHS_BORNE + 1; death++) {
    await until('the shard is up', () => status().state === 'running');
    if (death > DEATHS_BORNE) meanwhile();
    await db.host!.killShard(shard);
    if (death <= DEATHS_BORNE) await until('its death is noticed', () => status().restarts === death);
  }
  const [event] = await failed;
  return event;
}

async function underLoad(
  db: ConcordPool,
  seed: number,
  disturb: () => Promise<void>,
): Promise<{ load: { verify(db?: ConcordPool): string[] }; reports: Report[] }> {
  const load = new Load(db, { name: 'main', seed, callers: 40, largeEvery: 50 });
  const handle = db.handle();
  const worker = new Worker(new URL('../support/threads-load-worker.mjs', import.meta.url), {
    workerData: { port: handle.port, load: { name: 'worker', seed: seed + 1, callers: 40, largeEvery: 70 } },
    transferList: [...handle.transferList],
  });
  await once(worker, 'message');
  const reported = once(worker, 'message') as Promise<[{ report: Report }]>;
  const running: Promise<void> = load.run();
  await disturb();
  load.stop(ENOUGH);
  worker.postMessage(ENOUGH);
  await running;
  const [{ report }] = await reported;
  load.verify();
  return { load, reports: [load.report as Report, report] };
}

test.each([1, 2, 3])(
  'shards that are killed under load lose nothing that was acknowledged (round %i)',
  async (round) => {
    const seed = Math.floor(Math.random() * 1e9) + round;
    console.log(`seed ${seed}`);
    const directory = newDirectory();
    const db = await ConcordPool.open(directory, options);
    const restarted: number[] = [];
    db.events.on('shard-restarted', ({ shard }) => restarted.push(shard));
    const { load, reports } = await underLoad(db, seed, async () => {
      for (let death = 0; death < DEATHS_BORNE; death++) {
        for (let shard = 0; shard < SHARDS; shard++) {
          // Now and then the successor is met while it begins; a thread's start takes long beside that.
          if (Math.random() < 0.8) {
            await until('the shard is up', () => db.stats().shards[shard]!.state === 'running');
            await sleep(Math.random() * 250);
          } else {
            await sleep(Math.random() * 30);
          }
          await db.host!.killShard(shard);
        }
      }
    });
    await until('every shard is back', () => db.stats().shards.every(({ state }) => state === 'running'));
    for (const report of reports) {
      expect(report.problems).toEqual([]);
    }
    // A kill can meet a successor before it was ready, so restarts may be fewer than kills; and they are told when clients are attached again, too.
    await until('each shard has told of a restart', () => new Set(restarted).size === SHARDS);
    expect(await db.host!.check()).toEqual([]);
    await until('no page waits for a reader', () => db.stats().shards.every(({ memory }) => memory.retiredBytes === 0));
    await db.host!.checkpointAll();
    await db.close();

    const again = await ConcordPool.open(directory, options);
    expect(load.verify(again)).toEqual([]);
    expect(await again.host!.check()).toEqual([]);
    await again.close();
    removeDirectory(directory);
  },
);

test('versions go on growing after a restart and after a reopen', async () => {
  const directory = newDirectory();
  let db = await ConcordPool.open(directory, options);
  await db.put('key', 'one');
  const first = db.getEntrySync('key')!.version;
  for (let shard = 0; shard < SHARDS; shard++) await db.host!.killShard(shard);
  await db.put('key', 'two');
  const second = db.getEntrySync('key')!.version;
  expect(second).toBeGreaterThan(first);
  await db.close();
  db = await ConcordPool.open(directory, options);
  expect(db.getEntrySync('key')!.version).toBe(second);
  expect(await db.put('key', 'three', { ifVersion: second })).toBe(true);
  expect(db.getEntrySync('key')!.version).toBeGreaterThan(second);
  await db.close();
  removeDirectory(directory);
});

test('snapshots and iterators see the same before, during and after the death of a shard', async () => {
  const directory = newDirectory();
  const db = await ConcordPool.open(directory, options);
  await Promise.all(Array.from({ length: 2000 }, (_, i) => db.put(`key${i}`, `old ${i}`)));
  const snapshot = await db.snapshot();
  const before = await snapshot.iterator().all();
  const iterator = db.iterator();
  const listed = await iterator.nextv(10);
  const overwriting = Promise.allSettled(
    Array.from({ length: 2000 }, (_, i) => (i % 3 === 0 ? db.del(`key${i}`) : db.put(`key${i}`, `new ${i}`))),
  );
  for (let shard = 0; shard < SHARDS; shard++) await db.host!.killShard(shard);
  expect(await snapshot.iterator().all()).toEqual(before);
  await overwriting;
  await Promise.all(Array.from({ length: 2000 }, (_, i) => db.put(`key${i}`, `newer ${i}`)));
  expect(await snapshot.iterator().all()).toEqual(before);
  for (;;) {
    const more = await iterator.nextv(500);
    if (more.length === 0) break;
    listed.push(...more);
  }
  expect(listed).toEqual(before);
  await snapshot.close();
  await db.compact();
  expect(db.stats().shards.reduce((sum, { tree }) => sum + tree.cells, 0)).toBe(2000);
  await db.close();
  removeDirectory(directory);
});

/** Of what was being written when its thread died, something may be left. */
function unfinishedIn(directory: string): string[] {
  return filesOf(directory).filter((file) => /checkpoint-[^/]*\.tmp$/.test(file));
}

/** Until a checkpoint is being written that was not `before`, or it is over without having been seen. */
async function beingWritten(directory: string, before: readonly string[], checkpoint: Promise<unknown>): Promise<void> {
  let isOver = false;
  void checkpoint.then(() => (isOver = true));
  while (!isOver && unfinishedIn(directory).every((file) => before.includes(file)))
    await new Promise((resolve) => setImmediate(resolve));
}

test('a checkpoint in flight is cancelled with its shard, and the next one works', async () => {
  const directory = newDirectory();
  const db = await ConcordPool.open(directory, { ...options, checkpointLogBytes: 1 << 30 });
  const value = 'v'.repeat(60_000);
  await Promise.all(Array.from({ length: 1000 }, (_, i) => db.put(`key${i}`, value)));
  let cancelled = 0;
  for (let i = 0; i < DEATHS_BORNE; i++) {
    const before = unfinishedIn(directory);
    const checkpoint = codeOf(db.host!.checkpointAll());
    await beingWritten(path.join(directory, 'shard-0000'), before, checkpoint);
    if (i > 0) await sleep(i * 4);
    await db.host!.killShard(0);
    const code = await checkpoint;
    expect(['done', 'ERR_SHARD_RESTARTED']).toContain(code);
    if (code !== 'done') cancelled++;
    await until('the shard is back', () => db.stats().shards[0]!.state === 'running');
  }
  expect(cancelled).toBeGreaterThan(0);
  await db.host!.checkpointAll();
  await until('no page waits', () => db.stats().shards.every(({ memory }) => memory.retiredBytes === 0));
  expect(db.stats().shards.every(({ checkpointLsn }) => checkpointLsn > 0)).toBe(true);
  await db.close();
  const again = await ConcordPool.open(directory, options);
  expect(await again.count()).toBe(1000);
  expect(again.recovery!.every((report) => report?.checkpoint !== undefined)).toBe(true);
  await again.close();
  removeDirectory(directory);
});

test('a pool worker that dies fails its checkpoint only; the store goes on and the next one works', async () => {
  const directory = newDirectory();
  const db = await ConcordPool.open(directory, { ...options, checkpointLogBytes: 1 << 30 });
  const value = 'v'.repeat(60_000);
  await Promise.all(Array.from({ length: 1000 }, (_, i) => db.put(`key${i}`, value)));
  // The first one starts the worker; later ones meet it at work.
  await db.host!.checkpointAll();
  let failed = 0;
  for (let i = 0; i < 5; i++) {
    await Promise.all(Array.from({ length: 300 }, (_, n) => db.put(`key${n}`, value)));
    const before = unfinishedIn(directory);
    const checkpoint = codeOf(db.host!.checkpointAll());
    await beingWritten(directory, before, checkpoint);
    if (i > 0) await sleep(i * 4);
    await db.host!.killBackground();
    const code = await checkpoint;
    expect(['done', 'ERR_INTERNAL']).toContain(code);
    if (code !== 'done') failed++;
    expect(await db.put('key', `round ${i}`)).toBe(true);
    expect(db.getSync('key')).toBe(`round ${i}`);
  }
  expect(failed).toBeGreaterThan(0);
  await db.host!.checkpointAll();
  expect(db.stats().shards.every(({ restarts }) => restarts === 0)).toBe(true);
  await until('no page waits', () => db.stats().shards.every(({ memory }) => memory.retiredBytes === 0));
  await db.close();
  const again = await ConcordPool.open(directory, options);
  expect(await again.count()).toBe(1001);
  await again.close();
  removeDirectory(directory);
});

test('threads that attach while a shard is down are served when it is back, each once', async () => {
  const db = await ConcordPool.open(':memory:', { ...options });
  await db.put('key', 'value');
  for (let round = 0; round < DEATHS_BORNE; round++) {
    const killing = db.host!.killShard(round % SHARDS);
    const handles = Array.from({ length: 5 }, () => db.handle());
    if (round % 2 === 0) await killing;
    const clients = await Promise.all(handles.map((handle) => ConcordPool.attach(handle)));
    for (const client of clients) expect(client.getSync('key')).toBe('value');
    const puts = clients.flatMap((client, n) =>
      Array.from({ length: 50 }, (_, i) => codeOf(client.put(`round${round}:${n}:${i}`, 'value'))),
    );
    const codes = await Promise.all(puts);
    expect(codes.every((code) => code === 'done' || code === 'ERR_SHARD_RESTARTED')).toBe(true);
    await killing;
    for (const client of clients) {
      expect(await codeOf(client.flush())).toMatch(/done|ERR_SHARD_RESTARTED/);
      expect(client.stats().pendingCalls).toBe(0);
      await client.close();
    }
  }
  await until('every shard is back', () => db.stats().shards.every(({ state }) => state === 'running'));
  await until('all slots but one are free', () => db.stats().clients === 1);
  expect(await db.host!.check()).toEqual([]);
  await db.close();
});

test('after five deaths in a minute a shard stays down: writes say so, reads and the other shards go on, close() works', async () => {
  const directory = newDirectory();
  const db = await ConcordPool.open(directory, options);
  const [keyOfFailed, keyOfOther] = keysPerShard() as [string, string];
  await db.put(keyOfFailed, 'kept');
  await db.put(keyOfOther, 'kept');
  const handle = db.handle();
  const attached = await ConcordPool.attach(handle);
  const inFlight: Promise<ErrorCode | 'done'>[] = [];
  const event = await killForGood(db, 0, () => {
    for (let i = 0; i < 200; i++) inFlight.push(codeOf(db.put(keyOfFailed, 'in flight')));
    inFlight.push(codeOf(attached.put(keyOfFailed, 'x'.repeat(20 << 20))));
  });
  expect(event).toMatchObject({ shard: 0 });
  for (const code of await Promise.all(inFlight)) expect(['done', 'ERR_SHARD_FAILED']).toContain(code);
  for (const client of [db, attached]) {
    expect(await codeOf(client.put(keyOfFailed, 'refused'))).toBe('ERR_SHARD_FAILED');
    expect(await codeOf(client.del(keyOfFailed))).toBe('ERR_SHARD_FAILED');
    expect(await codeOf(client.put(keyOfFailed, 'x'.repeat(1 << 20)))).toBe('ERR_SHARD_FAILED');
    expect(await codeOf(client.flush())).toBe('ERR_SHARD_FAILED');
    expect(client.getSync(keyOfFailed)).toMatch(/^(kept|in flight)/);
    expect(await client.put(keyOfOther, 'goes on')).toBe(true);
    expect(client.getSync(keyOfOther)).toBe('goes on');
    expect((await client.iterator().all()).length).toBe(2);
  }
  expect(await codeOf(db.host!.checkpointAll())).toBe('ERR_SHARD_FAILED');
  expect(await codeOf(db.compact())).toBe('ERR_SHARD_FAILED');
  expect(db.stats().shards.map(({ state }) => state)).toEqual(['failed', 'running']);
  await attached.close();
  await db.close();
  const again = await ConcordPool.open(directory, options);
  expect(again.getSync(keyOfOther)).toBe('goes on');
  expect(again.getSync(keyOfFailed)).toMatch(/^(kept|in flight)/);
  await again.close();
  removeDirectory(directory);
});

test('a shard that dies after its log has failed is not replaced: it stays down, and reads go on', async () => {
  const directory = newDirectory();
  const db = await ConcordPool.open(directory, { ...options, checkpointLogBytes: 1 << 30 });
  const [key] = keysPerShard() as [string];
  await db.put(key, 'kept');
  // Its log comes to the end of a segment, and cannot make another one.
  const place = path.join(directory, 'shard-0000');
  fs.renameSync(place, `${place}-away`);
  let code: ErrorCode | 'done' = 'done';
  for (let i = 0; i < 100 && code === 'done'; i++) code = await codeOf(db.put(key, 'x'.repeat(30_000)));
  expect(code).toBe('ERR_IO');
  const last = db.getSync(key);
  await until('the shard takes no writes', () => db.stats().shards[0]!.state === 'read-only');
  fs.renameSync(`${place}-away`, place);
  const failed = once(db.events, 'shard-failed');
  await db.host!.killShard(0);
  await failed;
  expect(db.stats().shards[0]).toMatchObject({ state: 'failed', restarts: 0 });
  expect(await codeOf(db.put(key, 'refused'))).toBe('ERR_SHARD_FAILED');
  expect(db.getSync(key)).toBe(last);
  await db.close();
  const again = await ConcordPool.open(directory, options);
  expect(again.getSync(key)).toBe(last);
  await again.close();
  removeDirectory(directory);
});

test('a commit that a shard cannot apply any more, as it stays down, holds nobody up: what would have to wait is told so', async () => {
  const directory = newDirectory();
  const db = await ConcordPool.open(directory, options);
  const [keyOfFailed, keyOfOther] = keysPerShard() as [string, string];
  await db.put(keyOfFailed, 'kept');
  await db.put(keyOfOther, 'kept');
  await killForGood(db, 0);
  // As the coordinator would have left it that decided just before: shard 1 has applied it, shard 0 never will.
  const { control } = db.host!;
  const hash = hashBytes(Buffer.from(keyOfFailed), 0, keyOfFailed.length);
  control.commits.countPrepared(0, hash, 1);
  control.commits.append(2 ** 40, control.nextSequence, 1, 0);
  await db.put(keyOfOther, 'goes on');
  const handle = db.handle();
  const attached = await ConcordPool.attach(handle);
  for (const client of [db, attached]) {
    expect(await codeOf(client.get(keyOfFailed))).toBe('ERR_SHARD_FAILED');
    expect(() => client.getSync(keyOfFailed)).toThrow(expect.objectContaining({ code: 'ERR_SHARD_FAILED' }) as Error);
    expect(await codeOf(client.snapshot())).toBe('ERR_SHARD_FAILED');
    expect(await codeOf(client.transaction((tx) => tx.get(keyOfFailed)))).toBe('ERR_SHARD_FAILED');
    expect(await codeOf(client.transaction((tx) => tx.getSync(keyOfFailed)))).toBe('ERR_SHARD_FAILED');
    expect(await client.get(keyOfOther)).toBe('goes on');
    expect(await client.transaction((tx) => tx.get(keyOfOther))).toBe('goes on');
    expect(client.stats().openSnapshots).toBe(0);
  }
  await attached.close();
  await db.close();
  removeDirectory(directory);
});

test('a commit that a shard is slow to apply holds a transaction up until its deadline, not longer', async () => {
  const db = await ConcordPool.open(':memory:', { ...options, durability: 'os' });
  const [key] = keysPerShard() as [string];
  const { commits } = (db as unknown as { client: { control: ControlBlock } }).client.control;
  await db.put(key, 'kept');
  // Always something to apply, as of a shard whose disk is full.
  commits.countPrepared(0, hashBytes(Buffer.from(key), 0, key.length), 1);
  Object.defineProperty(commits, 'isEmpty', { get: () => false, configurable: true });
  Object.defineProperty(commits, 'isBehind', { value: () => true, configurable: true });
  const options50 = { timeoutMs: 50, retries: 0 };
  expect(await codeOf(db.transaction((tx) => tx.get(key), options50))).toBe('ERR_TRANSACTION_TIMEOUT');
  expect(await codeOf(db.transaction((tx) => tx.getSync(key), options50))).toBe('ERR_TRANSACTION_TIMEOUT');
  Reflect.deleteProperty(commits, 'isEmpty');
  Reflect.deleteProperty(commits, 'isBehind');
  commits.countPrepared(0, hashBytes(Buffer.from(key), 0, key.length), -1);
  await db.close();
});

test('a store that is closed while a shard is being restarted closes', async () => {
  for (let round = 0; round < 4; round++) {
    const directory = newDirectory();
    const db = await ConcordPool.open(directory, options);
    await Promise.all(Array.from({ length: 200 }, (_, i) => db.put(`key${i}`, 'value')));
    const killing = db.host!.killShard(0);
    if (round % 2 === 0) await killing;
    if (round > 1) await sleep(15);
    await codeOf(db.close());
    await killing;
    const again = await ConcordPool.open(directory, options);
    expect(await again.count()).toBe(200);
    await again.close();
    removeDirectory(directory);
  }
});
