/** Options that change while the store is open. */
import { Worker } from 'node:worker_threads';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { ConcordPool } from '../../dist/index.js';
import { codeOf } from '../support/pool-scene.js';
import { makeDirectory, removeDirectory } from '../support/pool-scene.js';

describe('configure', () => {
  let db: ConcordPool;
  let directory: string;

  beforeAll(async () => {
    directory = makeDirectory();
    db = await ConcordPool.open(directory, { shards: 1, durability: 'sync' });
  });

  afterAll(async () => {
    await db.close();
    removeDirectory(directory);
  });

  test('changes the durability of writes that do not say, in every thread', async () => {
    const syncs = (): number => db.stats().shards[0]!.syncs;
    await db.put('a', '1');
    const before = syncs();
    await db.put('a', '2');
    expect(syncs()).toBe(before + 1);
    expect(await db.configure({ durability: 'os' })).toEqual(['durability']);
    await db.put('a', '3');
    expect(syncs()).toBe(before + 1);
    const handle = db.handle();
    const worker = new Worker(
      `const { workerData, parentPort } = require('node:worker_threads');
       import(workerData.module).then(async ({ ConcordPool }) => {
         const db = await ConcordPool.attach(workerData.db);
         await db.put('b', '1');
         const changed = await db.configure({ durability: 'sync' });
         await db.put('b', '2');
         await db.close();
         parentPort.postMessage(changed);
       });`,
      {
        eval: true,
        workerData: { db: handle, module: new URL('../../dist/index.js', import.meta.url).href },
        transferList: [...handle.transferList],
      },
    );
    const changed = await new Promise((resolve, reject) => {
      worker.once('message', resolve);
      worker.once('error', reject);
    });
    expect(changed).toEqual(['durability']);
    expect(syncs()).toBe(before + 2);
    await db.put('c', '1');
    expect(syncs()).toBe(before + 3);
  });

  test('says nothing changed when nothing did', async () => {
    expect(await db.configure({ durability: 'sync' })).toEqual([]);
    expect(await db.configure({})).toEqual([]);
  });

  test('removes expired entries as often as it is told', async () => {
    // The interval counts from a look that has removed something.
    await db.put('gone', 'x', { ttlMs: 1 });
    await expect.poll(() => db.stats().shards[0]!.expired).toBe(1);
    await db.configure({ expiry: { intervalMs: 3_600_000, batch: 10 } });
    for (let i = 0; i < 25; i++) await db.put(`gone ${i}`, 'x', { ttlMs: 1 });
    await new Promise((resolve) => setTimeout(resolve, 30));
    expect(await db.has('gone 1')).toBe(false);
    expect(db.stats().entries).toBeGreaterThanOrEqual(25);
    await db.configure({ expiry: { intervalMs: 10 } });
    await expect.poll(() => db.stats().entries).toBeLessThan(10);
  });

  test('a short log limit brings a checkpoint', async () => {
    const checkpoints = (): number => db.stats().shards[0]!.checkpoints;
    const before = checkpoints();
    await db.configure({ checkpointLogBytes: 64 * 1024 });
    const value = 'v'.repeat(10_000);
    for (let i = 0; i < 200; i++) await db.put('same', value, { durability: 'os' });
    await expect.poll(checkpoints).toBeGreaterThan(before);
  });

  test('names what cannot change, and changes nothing then', async () => {
    const change = { durability: 'os', memoryBytes: 1 << 30 } as never;
    expect(await codeOf(db.configure(change))).toBe('ERR_INVALID_ARG');
    await expect(db.configure(change)).rejects.toThrow(/memoryBytes.*cannot change while the store is open/s);
    expect(await db.configure({ durability: 'sync' })).toEqual([]);
  });
});
