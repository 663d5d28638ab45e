/** Stores that were left with transactions on their way: what reads them, mends them or copies them shows all of each or nothing. */
import * as fs from 'node:fs';
import { join } from 'node:path';
import { afterEach, expect, test, vi } from 'vitest';
import { ConcordPool } from '../../../dist/index.js';
import { CoordinatorSupervisor } from '../../../dist/actors/coordinator/supervisor.js';
import { ShardSupervisor } from '../../../dist/actors/shard/supervisor.js';
import { definitionsOf, readManifest, shardDirectory } from '../../../dist/actors/pool/manifest.js';
import { Durability, ShardStore } from '../../../dist/engines/store/shard-store.js';
import { DecisionLog } from '../../../dist/engines/txn/decision-log.js';
import { NodeEnv } from '../../../dist/shared/env/node-env.js';
import { createArena } from '../../../dist/shared/memory/arena.js';
import { keysOfShard } from '../../support/pool-scene.js';
import { newDirectory, removeDirectory } from '../../threads/scene.js';
import { appendPrepare, commitGroup } from './workload.js';

const SHARDS = 2;
const ENGINES = ['btree', 'lsm', 'hash'] as const;
const DECIDED = 900;
const UNDECIDED = 901;
const keys = Array.from({ length: SHARDS }, (_, shard) => keysOfShard(shard, SHARDS, 2, 'key'));

const directories: string[] = [];
afterEach(() => {
  vi.restoreAllMocks();
  for (const directory of directories.splice(0)) removeDirectory(directory);
});

function newPath(): string {
  const base = newDirectory();
  directories.push(base);
  return join(base, 'store');
}

/**
 * Both transactions write a key of each shard. The first is decided, and was applied in shard 0 when the process ended; nobody has decided the second.
 */
async function leave(engine: (typeof ENGINES)[number]): Promise<string> {
  const path = newPath();
  const db = await ConcordPool.open(path, { shards: SHARDS, memoryBytes: 16 << 20, engine });
  for (const key of keys.flat()) await db.put(key, 'old');
  await db.close();
  const env = new NodeEnv();
  const manifest = readManifest(env, path);
  const storeId = Buffer.from(manifest.storeId, 'hex');
  for (let shard = 0; shard < SHARDS; shard++) {
    const store = ShardStore.open({
      env,
      directory: shardDirectory(path, shard),
      storeId,
      shard,
      arena: createArena({ memoryBytes: 16 << 20 }),
      spaces: definitionsOf(manifest),
    });
    const next = 1000;
    const put = (key: string) => [{ space: 0, key, value: Buffer.from('new') }];
    store.beginGroup();
    appendPrepare(store, DECIDED, put(keys[shard]![0]!));
    appendPrepare(store, UNDECIDED, put(keys[shard]![1]!));
    commitGroup(store, Durability.Sync, next);
    if (shard === 0) {
      store.beginGroup();
      store.addResolve(DECIDED, next + 1);
      commitGroup(store, Durability.Sync, next + 2);
    }
    store.close();
  }
  const log = DecisionLog.open({ env, directory: join(path, 'coordinator'), storeId, shards: SHARDS });
  log.decide(DECIDED, 3, 0, 0);
  log.write();
  log.sync();
  log.close();
  return path;
}

async function expectWhole(path: string, readOnly = false): Promise<void> {
  const db = await ConcordPool.open(path, { memoryBytes: 16 << 20, readOnly });
  try {
    for (let shard = 0; shard < SHARDS; shard++) {
      expect([db.getSync(keys[shard]![0]!), db.getSync(keys[shard]![1]!)]).toEqual(['new', 'old']);
    }
    const snapshot = await db.snapshot();
    for (const [key] of keys) expect(await db.get(key!, { snapshot })).toBe('new');
    snapshot.close();
  } finally {
    await db.close();
  }
}

test.each(ENGINES)(
  'a %s store that is opened to read only shows what is decided, and stays as it was',
  async (engine) => {
    const path = await leave(engine);
    await expectWhole(path, true);
    await expectWhole(path, true);
    await expectWhole(path);
  },
);

test('a feed of a store that is opened to read only says where it ends; opened to be written, it goes on there', async () => {
  const path = await leave('btree');
  const told: string[] = [];
  const reader = await ConcordPool.open(path, { memoryBytes: 16 << 20, readOnly: true });
  let token = '';
  try {
    for await (const { key, value } of reader.watch({ since: 'beginning' }) as AsyncIterable<{
      key: string;
      value: string;
    }>)
      told.push(`${key}=${value}`);
  } catch (error) {
    expect(error).toMatchObject({ code: 'ERR_READ_ONLY', details: { shard: 1, transaction: DECIDED } });
    token = (error as { details: { token: string } }).details.token;
  } finally {
    await reader.close();
  }
  expect(told.sort()).toEqual(
    keys
      .flat()
      .map((key) => `${key}=old`)
      .sort(),
  );
  const db = await ConcordPool.open(path, { memoryBytes: 16 << 20 });
  try {
    const feed = db.watch({ since: token });
    for (const index of [0, 1])
      expect((await feed.next()).value).toMatchObject({ value: 'new', transaction: { size: 2, index } });
    await feed.close();
  } finally {
    await db.close();
  }
});

test('a verification counts them, and what they bring', async () => {
  const path = await leave('btree');
  expect(await ConcordPool.verify(path)).toMatchObject({
    ok: true,
    entries: 4,
    transactions: { prepared: 2, decided: 1 },
  });
  await expectWhole(path);
  expect(await ConcordPool.verify(path)).toMatchObject({ ok: true, transactions: { decided: 0 } });
});

test('a verification finds damage of the decision log', async () => {
  const path = await leave('btree');
  damageDecisions(path);
  const report = await ConcordPool.verify(path);
  expect(report.ok).toBe(false);
  expect(report.problems[0]!.message).toContain('coordinator');
  await expect(ConcordPool.open(path, { memoryBytes: 16 << 20, readOnly: true })).rejects.toMatchObject({
    code: report.problems[0]!.code,
  });
});

test.each(ENGINES)('a repaired %s store has what was decided', async (engine) => {
  const path = await leave(engine);
  expect(await ConcordPool.repair(path)).toMatchObject({ ok: true, losses: [], entries: 4 });
  await expectWhole(path);
});

test('a repair whose decisions are lost says which transactions it gave up, and where', async () => {
  const path = await leave('btree');
  damageDecisions(path);
  const { ok, losses } = await ConcordPool.repair(path);
  expect(ok).toBe(false);
  const named = losses.filter(({ details }) => details['transaction'] === DECIDED);
  expect(named.map(({ details }) => details['shard'])).toEqual([1]);
});

test('a restored copy carries out what was decided', async () => {
  const path = await leave('btree');
  const copy = join(newPath(), 'copy');
  fs.mkdirSync(join(copy, '..'), { recursive: true });
  await ConcordPool.restore(path, copy);
  await expectWhole(copy);
  await expectWhole(path);
});

/** In the head of its segment: no torn end. */
function damageDecisions(path: string): void {
  const directory = join(path, 'coordinator');
  const [segment] = fs.readdirSync(directory).sort();
  const file = fs.openSync(join(directory, segment!), 'r+');
  fs.writeSync(file, Buffer.from([0xff, 0xff]), 0, 2, 0);
  fs.closeSync(file);
}

/** What becomes of an opening in which something happens before, or while, what is decided is applied. */
async function openWhile(happens: (begun: () => Promise<void>, all: Threads) => Promise<void>): Promise<unknown> {
  const path = await leave('btree');
  const shards: ShardSupervisor[] = [];
  const { start } = ShardSupervisor.prototype;
  vi.spyOn(ShardSupervisor.prototype, 'start').mockImplementation(function (this: ShardSupervisor, isNew) {
    shards.push(this);
    return start.call(this, isNew);
  });
  const { begin } = CoordinatorSupervisor.prototype;
  vi.spyOn(CoordinatorSupervisor.prototype, 'begin').mockImplementationOnce(function (this: CoordinatorSupervisor) {
    return happens(() => begin.call(this), { coordinator: this, shards });
  });
  const opened = await ConcordPool.open(path, { memoryBytes: 16 << 20 }).catch((error: unknown) => error);
  vi.restoreAllMocks();
  // Nobody is left who would write there, too.
  for (const { remote } of shards) await expect(remote.check()).rejects.toMatchObject({ code: 'ERR_CLOSED' });
  await expectWhole(path);
  return opened;
}

interface Threads {
  readonly coordinator: CoordinatorSupervisor;
  readonly shards: readonly ShardSupervisor[];
}

test('an opening whose coordinator dies before what is decided is applied fails, and ends every thread', async () => {
  const opened = await openWhile(async (begun, { coordinator }) => {
    const end = begun();
    void coordinator.kill();
    await end;
  });
  expect(opened).toMatchObject({ code: 'ERR_INTERNAL', message: expect.stringContaining('died') as string });
});

test('an opening fails, and does not wait, where a shard stays down that has to apply what is decided', async () => {
  const opened = await openWhile(async (begun, { shards }) => {
    const shard = shards[1]!;
    for (let death = 0; death < 5; death++) {
      await shard.kill();
      await new Promise((resolve) => setTimeout(resolve, 20));
      await shard.restarted;
    }
    await begun();
  });
  expect(opened).toMatchObject({ code: 'ERR_INTERNAL', details: { shard: 1 } });
});
