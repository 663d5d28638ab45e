/** Client threads that end in the middle of something: the others go on, and everything the dead held comes back. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { ConcordPool } from '../../dist/index.js';
import { newDirectory, removeDirectory, sleep, startClient, until, type ClientThread, type End } from './scene.js';

const KEYS = 500;
const VALUE = 'value'.padEnd(300, '.');

let directory: string;
let db: ConcordPool;
let witness: ClientThread;

beforeAll(async () => {
  directory = newDirectory();
  db = await ConcordPool.open(directory, { shards: 2, durability: 'os', memoryBytes: 256 << 20 });
  await Promise.all(Array.from({ length: KEYS }, (_, i) => db.put(`key${i}`, VALUE)));
  witness = startClient(db, 'serve', 'terminate');
  await witness.ready;
});

afterAll(async () => {
  await witness.worker.terminate();
  await db.close();
  removeDirectory(directory);
});

const ATTACHED_AT_REST = 2;

async function everythingIsBack(): Promise<void> {
  await until(
    'client slots come back',
    () => db.stats().clients === ATTACHED_AT_REST,
    60_000,
    () => db.stats().clients,
  );
  await until(
    'snapshots come back',
    () => db.stats().openSnapshots === 0,
    60_000,
    () => db.stats().openSnapshots,
  );
  // Another thread writes and reads, and so does this one.
  const stamp = `value ${performance.now()}`;
  expect(await witness.call({ put: ['theirs', stamp] })).toBe(true);
  expect(db.getSync('theirs')).toBe(stamp);
  expect(await db.put('ours', stamp)).toBe(true);
  expect(await witness.call({ get: 'ours' })).toBe(stamp);
  const retired = (): number => db.stats().shards.reduce((sum, { memory }) => sum + memory.retiredBytes, 0);
  await until('no page waits for a reader', () => retired() === 0, 60_000, retired);
  expect(await db.host!.check()).toEqual([]);
}

/** Overwrites what the dead may have pinned, so that pages must wait for it. */
async function churn(): Promise<void> {
  for (let round = 0; round < 3; round++) {
    await Promise.all(Array.from({ length: KEYS }, (_, i) => db.put(`key${i}`, VALUE)));
  }
}

const scenes = ['reads', 'writes', 'large', 'iterator', 'snapshot', 'update', 'attach'];
const ends: End[] = ['return', 'exit', 'throw', 'terminate'];

describe.each(scenes)('a thread in the middle of %s', (scene) => {
  // What never returns by itself can be ended from outside only.
  test.each(ends)('that ends by %s harms nobody', async (end) => {
    const client = startClient(db, scene, end);
    await client.ready;
    const churning = churn();
    if (end === 'terminate') {
      await sleep(Math.random() * 30);
      await client.worker.terminate();
    }
    const code = await client.ended;
    if (end === 'return') expect(code).toBe(0);
    else expect(code).not.toBe(0);
    await churning;
    await everythingIsBack();
  });
});

test('pages a dead reader had pinned are kept while it lives and come back when it is dead', async () => {
  const reader = startClient(db, 'pinned', 'terminate');
  await reader.ready;
  await churn();
  const retired = (): number => db.stats().shards.reduce((sum, { memory }) => sum + memory.retiredBytes, 0);
  await until('pages wait for it', () => retired() > 0);
  await sleep(50);
  expect(retired()).toBeGreaterThan(0);
  await reader.worker.terminate();
  await everythingIsBack();
});

test('a dead writer leaves whole entries, and what it had published before it died is served', async () => {
  const writer = startClient(db, 'writes', 'terminate');
  await writer.ready;
  await writer.worker.terminate();
  await everythingIsBack();
  let found = 0;
  for await (const [, value] of db.iterator({ prefix: 'written' })) {
    expect(value.length).toBe(200);
    found++;
  }
  expect(found).toBeGreaterThan(0);
});

test('a value that was half sent is not there, or whole', async () => {
  await db.del('large');
  const writer = startClient(db, 'large', 'terminate');
  await writer.ready;
  await sleep(10);
  await writer.worker.terminate();
  await everythingIsBack();
  const value = db.getSync('large');
  if (value !== undefined) expect(value).toHaveLength(48 << 20);
  await db.del('large');
  await db.compact();
  const used = (): number => db.stats().memoryUsedBytes;
  await until('its memory is back', () => used() < 32 << 20, 60_000, used);
});

test('600 attachments that are terminated fit 256 client slots one after another', async () => {
  const ATTACHMENTS = 30;
  for (let round = 0; round < 10; round++) {
    const threads = [0, 1].map(() => startClient(db, 'attach', 'terminate', ATTACHMENTS));
    await Promise.all(
      threads.map(async ({ worker, ready }, index) => {
        await ready;
        // One is ended when it is attached, the other while the host is at it.
        if (index === 0) {
          await new Promise<void>((resolve) => {
            worker.on('message', (message) => message === 'attached' && resolve());
          });
        }
        await worker.terminate();
      }),
    );
  }
  await everythingIsBack();
});

test('a thread beyond the last client slot is refused with ERR_CLIENT_LIMIT, and attaches when one is free', async () => {
  const handles = Array.from({ length: 256 - ATTACHED_AT_REST }, () => db.handle());
  const attached = await Promise.all(handles.map((handle) => ConcordPool.attach(handle)));
  const one = db.handle();
  await expect(ConcordPool.attach(one)).rejects.toMatchObject({ code: 'ERR_CLIENT_LIMIT' });
  await attached.pop()!.close();
  await until('the slot is free', () => db.stats().clients === 255);
  const last = await ConcordPool.attach(one);
  expect(last.getSync('key1')).toBe(VALUE);
  await last.close();
  await Promise.all(attached.map((client) => client.close()));
  await everythingIsBack();
});

test('a handle of a pool that is closed is refused with ERR_CLOSED', async () => {
  const other = await ConcordPool.open(':memory:', { shards: 1, memoryBytes: 8 << 20 });
  const handle = other.handle();
  await other.close();
  await expect(ConcordPool.attach(handle)).rejects.toMatchObject({ code: 'ERR_CLOSED' });
});
