/** Stores larger than their memory, through the pool: threads that read, shards that die, and reopening. */
import * as fs from 'node:fs';
import * as path from 'node:path';
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { expect, test } from 'vitest';
import { ConcordPool, type PoolOptions } from '../../../dist/index.js';
import { Random } from '../../../dist/shared/random.js';
import { newDirectory, removeDirectory, sleep, until } from '../../threads/scene.js';

const MIB = 1 << 20;

const keyOf = (n: number): string => `user${String(n).padStart(10, '0')}`;

/** Number, generation, and a pattern that follows from both. */
function valueOf(n: number, generation: number, bytes: number): Buffer {
  const value = Buffer.alloc(bytes, (n * 31 + generation * 7) & 0xff);
  value.writeUInt32LE(n, 0);
  value.writeUInt32LE(generation, 4);
  return value;
}

/** The generation, when the value is whole and the key's. */
function generationOf(n: number, value: Buffer | undefined): number {
  expect(value).toBeDefined();
  const generation = value!.readUInt32LE(4);
  expect(valueOf(n, generation, value!.length).equals(value!)).toBe(true);
  return generation;
}

async function inBatches(count: number, size: number, put: (n: number) => { key: string; value: Buffer }, db: Store) {
  for (let from = 0; from < count; from += size) {
    const length = Math.min(size, count - from);
    await Promise.all(
      Array.from({ length }, (_, i) => {
        const { key, value } = put(from + i);
        return db.put(key, value);
      }),
    );
  }
}

type Store = ConcordPool<string, Buffer>;

function open(directory: string, options: PoolOptions): Promise<Store> {
  return ConcordPool.open<string, Buffer>(directory, { valueEncoding: 'binary', durability: 'os', ...options });
}

test('64 MiB live in a budget of 8 MiB: written, read, scanned, checkpointed, reopened, verified', async () => {
  const directory = newDirectory();
  const options: PoolOptions = {
    shards: 1,
    memoryBytes: 40 * MIB,
    budgetBytes: 8 * MIB,
    segmentBytes: 4 * MIB,
    // None begins by itself: it would hold memory until it ends, and be joined by the one that is to have everything.
    checkpointLogBytes: 1024 * MIB,
  };
  const count = 64_000;
  const bytes = 1000;
  const random = new Random(64);
  let db = await open(directory, options);
  await inBatches(count, 400, (n) => ({ key: keyOf(n), value: valueOf(n, 0, bytes) }), db);
  const usedBytes = (): number => db.stats().shards[0]!.memory.usedBytes;
  expect(usedBytes()).toBeLessThan(16 * MIB);
  const generations = new Uint32Array(count);
  for (let round = 1; round <= 10; round++) {
    const some = Array.from({ length: 400 }, () => random.below(count));
    await Promise.all(some.map((n) => db.put(keyOf(n), valueOf(n, round, bytes))));
    for (const n of some) generations[n] = round;
  }
  for (let i = 0; i < 4000; i++) {
    const n = random.below(count);
    expect(generationOf(n, db.getSync(keyOf(n)))).toBe(generations[n]);
  }
  expect(usedBytes()).toBeLessThan(16 * MIB);
  await db.host!.checkpointAll();
  const backup = path.join(directory, '..', `${path.basename(directory)}-copy`);
  await db.close();

  db = await open(directory, options);
  expect(db.recovery![0]!.operationsReplayed).toBe(0);
  let next = 0;
  for await (const [key, value] of db.iterator()) {
    expect(key).toBe(keyOf(next));
    expect(generationOf(next, value)).toBe(generations[next]);
    next++;
  }
  expect(next).toBe(count);
  expect(usedBytes()).toBeLessThan(16 * MIB);
  expect(await db.host!.check()).toEqual([]);
  await db.close();
  expect(await ConcordPool.verify(directory)).toMatchObject({ ok: true, entries: count });
  expect(await ConcordPool.restore(directory, backup)).toMatchObject({ ok: true, entries: count });
  removeDirectory(backup);

  // A page that went bad since is found, and named.
  const shard = path.join(directory, 'shard-0000');
  const file = fs.readdirSync(shard).find((name) => name.endsWith('.pages'))!;
  const damaged = fs.openSync(path.join(shard, file), 'r+');
  for (let slot = 100; slot < 140; slot++) fs.writeSync(damaged, 'damage', slot * 4096 + 2000);
  fs.closeSync(damaged);
  const report = await ConcordPool.verify(directory);
  expect(report.ok).toBe(false);
  expect(report.problems.some(({ message }) => message.includes(file) && message.includes('stored crc'))).toBe(true);
  removeDirectory(directory);
});

test('threads read whole values that never go back, while leaves come and go and shards are killed', async () => {
  const directory = newDirectory();
  const options: PoolOptions = {
    shards: 2,
    memoryBytes: 12 * MIB,
    budgetBytes: MIB,
    segmentBytes: MIB,
    checkpointLogBytes: 2 * MIB,
  };
  const count = 8000;
  const seed = Math.floor(Math.random() * 1e9);
  console.log(`seed ${seed}`);
  const random = new Random(seed);
  let db = await open(directory, options);
  const bytesOf = (n: number): number => (n % 50 === 0 ? 9000 : 300 + (n % 700));
  await inBatches(count, 200, (n) => ({ key: keyOf(n), value: valueOf(n, 1, bytesOf(n)) }), db);

  const threads = [1, 2].map((index) => {
    const handle = db.handle();
    const worker = new Worker(new URL('./paged-reader.mjs', import.meta.url), {
      workerData: { port: handle.port, count, seed: seed + index },
      transferList: [...handle.transferList],
    });
    const report = once(worker, 'message') as Promise<[{ reads: number; scanned: number; problems: string[] }]>;
    return { worker, report };
  });
  const acknowledged = new Uint32Array(count).fill(1);
  const restarted: number[] = [];
  db.events.on('shard-restarted', ({ shard }) => restarted.push(shard));
  const until2 = Date.now() + 4000;
  const writing = (async () => {
    for (let generation = 2; Date.now() < until2; generation++) {
      const some = [...new Set(Array.from({ length: 60 }, () => random.below(count)))];
      await Promise.all(
        some.map((n) =>
          db.put(keyOf(n), valueOf(n, generation, bytesOf(n))).then(
            () => (acknowledged[n] = generation),
            (error: { code: string }) => {
              expect(error.code).toBe('ERR_SHARD_RESTARTED');
            },
          ),
        ),
      );
    }
  })();
  for (let death = 0; death < 3; death++) {
    await sleep(500 + random.below(400));
    await until('the shard is up', () => db.stats().shards[death % 2]!.state === 'running');
    await db.host!.killShard(death % 2);
  }
  await writing;
  for (const { worker } of threads) worker.postMessage('stop');
  for (const { report } of threads) {
    const [{ reads, scanned, problems }] = await report;
    expect(problems).toEqual([]);
    expect(reads).toBeGreaterThan(500);
    expect(scanned).toBeGreaterThan(count);
  }
  await until('every shard is back', () => db.stats().shards.every(({ state }) => state === 'running'));
  expect(restarted.length).toBeGreaterThan(0);
  const check = (): void => {
    for (let n = 0; n < count; n++) {
      expect(generationOf(n, db.getSync(keyOf(n)))).toBeGreaterThanOrEqual(acknowledged[n]!);
    }
  };
  check();
  expect(await db.host!.check()).toEqual([]);
  await db.host!.checkpointAll();
  await expect.poll(() => Math.max(...db.stats().shards.map(({ memory }) => memory.usedBytes))).toBeLessThan(4 * MIB);
  await db.close();
  db = await open(directory, options);
  check();
  expect(await db.host!.check()).toEqual([]);
  await db.close();
  removeDirectory(directory);
});

test('writes that need a damaged page are refused, one by one; all others go on', async () => {
  const directory = newDirectory();
  const options: PoolOptions = {
    shards: 1,
    memoryBytes: 24 * MIB,
    budgetBytes: MIB,
    segmentBytes: MIB,
    pageBytes: 4096,
  };
  const count = 4000;
  let db = await open(directory, options);
  await inBatches(count, 200, (n) => ({ key: keyOf(n), value: valueOf(n, 1, 600) }), db);
  // Values in chains, of which one page will be damaged too.
  for (let n = 0; n < 12; n++) await db.put(`long${n}`, valueOf(n, 1, 70_000));
  await db.host!.checkpointAll();
  const copy = `${directory}-copy`;
  await db.checkpoint(copy);
  await db.close();
  expect(await ConcordPool.verify(copy)).toMatchObject({ ok: true, entries: count + 12 });
  removeDirectory(copy);
  const shard = path.join(directory, 'shard-0000');
  const file = path.join(
    shard,
    fs.readdirSync(shard).find((name) => name.endsWith('.pages'))!,
  );
  const bytes = fs.readFileSync(file);
  const descriptor = fs.openSync(file, 'r+');
  for (let slot = 8, damaged = 0; damaged < 10; slot++) {
    if (bytes[slot * 4096] !== 1) continue;
    fs.writeSync(descriptor, 'damage', slot * 4096 + 1000);
    damaged++;
  }
  let chainPage = 8;
  while (bytes[chainPage * 4096] !== 3) chainPage++;
  fs.writeSync(descriptor, 'damage', chainPage * 4096 + 1000);
  fs.closeSync(descriptor);

  db = await open(directory, options);
  const refused = async (work: Promise<unknown>): Promise<number> => {
    try {
      await work;
      return 0;
    } catch (error) {
      expect(error).toMatchObject({ code: 'ERR_CORRUPT', details: { file } });
      return 1;
    }
  };
  const all = Array.from({ length: count }, (_, n) => n);
  const puts = await Promise.all(all.map((n) => refused(db.put(keyOf(n), valueOf(n, 2, 600)))));
  const refusals = puts.reduce((sum, one) => sum + one, 0);
  expect(refusals).toBeGreaterThan(20);
  expect(refusals).toBeLessThan(100);
  const bad = puts.indexOf(1);
  const good = puts.indexOf(0);
  const batch = [bad, good].map((n) => ({ type: 'put' as const, key: keyOf(n), value: valueOf(n, 3, 600) }));
  expect(await refused(db.batch(batch))).toBe(1);
  expect(await refused(db.batch(batch.reverse()))).toBe(1);
  expect(await refused(db.del(keyOf(bad)))).toBe(1);
  expect(generationOf(good, db.getSync(keyOf(good)))).toBe(2);
  expect(db.stats().shards[0]!).toMatchObject({ state: 'running', restarts: 0 });
  await db.close();

  const repaired = await ConcordPool.repair(directory);
  expect(repaired.losses.filter(({ details }) => details['file'] === file).length).toBeGreaterThanOrEqual(11);
  db = await open(directory, options);
  let whole = 0;
  let lost = 0;
  for (let n = 0; n < count; n++) {
    const value = db.getSync(keyOf(n));
    if (value === undefined) lost++;
    else if (generationOf(n, value) === 2) whole++;
  }
  expect({ whole, lost }).toEqual({ whole: count - refusals, lost: refusals });
  let long = 0;
  for (let n = 0; n < 12; n++) {
    const value = db.getSync(`long${n}`);
    if (value !== undefined && generationOf(n, value) === 1) long++;
  }
  expect(long).toBe(11);
  expect(await db.host!.check()).toEqual([]);
  await db.close();
  expect(await ConcordPool.verify(directory)).toMatchObject({ ok: true, entries: whole + long });
  removeDirectory(directory);
});

test('a space with a budget is dropped with its file, and one may become another engine and back', async () => {
  const directory = newDirectory();
  let db = await open(directory, { shards: 1, memoryBytes: 48 * MIB, segmentBytes: MIB });
  const pages = (): string[] =>
    fs.readdirSync(path.join(directory, 'shard-0000')).filter((name) => name.endsWith('.pages'));
  const tuning = { engine: 'btree', budgetBytes: 256 * 1024, valueEncoding: 'binary' } as const;
  const kept = db.space('kept', tuning);
  const gone = db.space('gone', tuning);
  await kept.ready;
  await gone.ready;
  for (let n = 0; n < 3000; n += 100) {
    for (const space of [kept, gone]) {
      await space.batch(
        Array.from({ length: 100 }, (_, i) => ({
          type: 'put' as const,
          key: keyOf(n + i),
          value: valueOf(n + i, 1, 500),
        })),
      );
    }
  }
  expect(pages().length).toBe(2);
  await db.dropSpace('gone');
  await db.host!.checkpointAll();
  await until('its file is gone', () => pages().length === 1);
  await kept.switchEngine('rbtree');
  for (let n = 0; n < 3000; n += 7) expect(generationOf(n, kept.getSync(keyOf(n)) as Buffer)).toBe(1);
  await db.host!.checkpointAll();
  await until('the other file is gone', () => pages().length === 0);
  await kept.switchEngine('btree');
  for (let n = 0; n < 3000; n += 7) expect(generationOf(n, kept.getSync(keyOf(n)) as Buffer)).toBe(1);
  await db.close();
  db = await open(directory, { shards: 1, memoryBytes: 48 * MIB, segmentBytes: MIB });
  const again = db.space('kept');
  await again.ready;
  for (let n = 0; n < 3000; n += 7) expect(generationOf(n, again.getSync(keyOf(n)) as Buffer)).toBe(1);
  expect(await db.host!.check()).toEqual([]);
  await db.close();
  removeDirectory(directory);
});
