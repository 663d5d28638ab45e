/** The coordinator's thread, and those of shards, are killed under load of transfers over two shards: no transfer is halved, no answer is false. */
import { afterEach, expect, test, vi } from 'vitest';
import { ConcordPool, type PoolOptions } from '../../../dist/index.js';
import { keysOfShard } from '../../support/pool-scene.js';
import { newDirectory, removeDirectory, sleep, until } from '../../threads/scene.js';

const SHARDS = 2;
const ACCOUNTS = 40;
const START = 1000;
const options: PoolOptions = { shards: SHARDS, durability: 'os', memoryBytes: 64 << 20, valueEncoding: 'json' };

const directories: string[] = [];
afterEach(() => {
  for (const directory of directories.splice(0)) removeDirectory(directory);
});

function directory(): string {
  const made = newDirectory();
  directories.push(made);
  return made;
}

type Bank = ConcordPool<string, { balance: number; last: string }>;

/** Accounts of both shards, in turn. */
const accounts = Array.from({ length: ACCOUNTS }, (_, i) => {
  return keysOfShard(i % SHARDS, SHARDS, 1 + (i >> 1), 'account')[i >> 1]!;
});

async function open(where: string, more: Partial<PoolOptions> = {}): Promise<Bank> {
  return (await ConcordPool.open(where, { ...options, ...more })) as unknown as Bank;
}

async function fill(db: Bank): Promise<void> {
  for (const account of accounts) await db.put(account, { balance: START, last: '' });
}

interface Load {
  done: number;
  failures: Map<string, number>;
  /** The last transfer of each account that was told to be done, by number. */
  stop(): Promise<void>;
}

/** Transfers from an account of one shard to one of the other. */
function transfers(db: Bank, callers: number): Load {
  let isStopping = false;
  let number = 0;
  const load: Load = {
    done: 0,
    failures: new Map(),
    async stop() {
      isStopping = true;
      await Promise.all(running);
    },
  };
  const one = async (): Promise<void> => {
    const from = 2 * Math.floor(Math.random() * (ACCOUNTS / 2));
    const to = 2 * Math.floor(Math.random() * (ACCOUNTS / 2)) + 1;
    const id = `t${++number}`;
    const amount = 1 + Math.floor(Math.random() * 10);
    await db.transaction((tx) => {
      const a = tx.getSync(accounts[from]!)!;
      const b = tx.getSync(accounts[to]!)!;
      void tx.put(accounts[from]!, { balance: a.balance - amount, last: id });
      void tx.put(accounts[to]!, { balance: b.balance + amount, last: id });
    });
    load.done++;
  };
  const running = Array.from({ length: callers }, async () => {
    while (!isStopping) {
      try {
        await one();
      } catch (error) {
        const { code } = error as { code?: string };
        if (code === undefined) throw error;
        load.failures.set(code, (load.failures.get(code) ?? 0) + 1);
        await sleep(1);
      }
    }
  });
  return load;
}

/** Waits until the load has gone on, each time for another while: what is killed then is killed anywhere. */
function someMore(load: Load): Promise<void> {
  const enough = load.done + 20 + Math.floor(Math.random() * 50);
  return until(
    'transfers go on',
    () => load.done > enough,
    60_000,
    () => [...load.failures],
  );
}

function sumOf(db: Bank): number {
  return accounts.reduce((sum, account) => sum + db.getSync(account)!.balance, 0);
}

test.each(['os', 'sync'] as const)(
  'a coordinator that is killed under load (%s) loses and halves nothing',
  async (durability) => {
    const where = directory();
    let db = await open(where, { durability });
    await fill(db);
    const restarts: unknown[] = [];
    db.host!.on('coordinator-restarted', (event) => restarts.push(event));
    const load = transfers(db, 16);
    for (let death = 0; death < 3; death++) {
      await someMore(load);
      await db.host!.killCoordinator();
      await until('another one took over', () => restarts.length === death + 1);
    }
    await someMore(load);
    await load.stop();
    expect([...load.failures.keys()].filter((code) => code !== 'ERR_CONFLICT')).toEqual([]);
    expect(sumOf(db)).toBe(ACCOUNTS * START);
    await db.close();
    db = await open(where);
    expect(sumOf(db)).toBe(ACCOUNTS * START);
    await db.close();
  },
);

test('a store without a directory bears the death of its coordinator too', async () => {
  const db = await open(':memory:');
  await fill(db);
  const load = transfers(db, 16);
  for (let death = 0; death < 3; death++) {
    await someMore(load);
    await db.host!.killCoordinator();
  }
  await someMore(load);
  await load.stop();
  expect(sumOf(db)).toBe(ACCOUNTS * START);
  await db.close();
});

test('shards of a store without a directory that are killed, with the coordinator or without, halve nothing', async () => {
  const db = await open(':memory:');
  await fill(db);
  const load = transfers(db, 16);
  for (let death = 0; death < 3; death++) {
    await someMore(load);
    const kills = [db.host!.killShard(death % SHARDS)];
    if (death % 2 === 1) kills.push(db.host!.killCoordinator());
    await Promise.all(kills);
    await until('the shard is back', () => db.stats().shards.every(({ state }) => state === 'running'));
    // Also what it has found prepared, whoever had asked for that and is there still.
    await db.put(keysOfShard(death % SHARDS, SHARDS, 1, 'other')[0]!, { balance: 0, last: '' });
  }
  await load.stop();
  expect(sumOf(db)).toBe(ACCOUNTS * START);
  expect(await db.transactions()).toEqual([]);
  await db.close();
});

test('shards and the coordinator that are killed in turn halve nothing', async () => {
  const where = directory();
  let db = await open(where);
  await fill(db);
  const load = transfers(db, 16);
  for (let death = 0; death < 3; death++) {
    await someMore(load);
    const kills = [db.host!.killShard(death % SHARDS)];
    if (death % 2 === 0) kills.push(db.host!.killCoordinator());
    await Promise.all(kills);
    await until('the shard is back', () => db.stats().shards.every(({ state }) => state === 'running'));
  }
  await someMore(load);
  await load.stop();
  expect(sumOf(db)).toBe(ACCOUNTS * START);
  await db.close();
  db = await open(where);
  expect(sumOf(db)).toBe(ACCOUNTS * START);
  await db.close();
});

test('a store whose threads all end at once is whole when it is opened again', async () => {
  const where = directory();
  let db = await open(where);
  await fill(db);
  for (let round = 0; round < 3; round++) {
    const load = transfers(db, 16);
    await someMore(load);
    await db.host!.crash();
    void load.stop().catch(() => undefined);
    db = await open(where);
    expect(sumOf(db)).toBe(ACCOUNTS * START);
  }
  await db.close();
});

test('a coordinator that dies again and again stays down: plain writes go on, transactions over shards say so', async () => {
  const db = await open(directory());
  await fill(db);
  let failed: { error: { code: string } } | undefined;
  db.host!.on('coordinator-failed', (event) => (failed = event));
  let restarts = 0;
  db.host!.on('coordinator-restarted', () => restarts++);
  for (let death = 0; death < 5; death++) {
    await db.host!.killCoordinator();
    await until('it was noticed', () => restarts === death + 1 || failed !== undefined);
  }
  await until('it stays down', () => failed !== undefined);
  expect(failed!.error.code).toBe('ERR_INTERNAL');
  const across = db.transaction((tx) => {
    void tx.put(accounts[0]!, { balance: 1, last: '' });
    void tx.put(accounts[1]!, { balance: 1, last: '' });
  });
  await expect(across).rejects.toMatchObject({ code: 'ERR_SHARD_FAILED' });
  expect(sumOf(db)).toBe(ACCOUNTS * START);
  await db.put('plain', { balance: 0, last: 'x' });
  await db.transaction((tx) => tx.put(accounts[2]!, { balance: START, last: 'one shard' }));
  expect(db.getSync(accounts[2]!)!.last).toBe('one shard');
  // Threads come and go as before: of none of them anything is prepared.
  const slots = new Set<number>();
  for (let thread = 0; thread < 3; thread++) {
    const { client } = await db.host!.attachClient();
    slots.add(client);
    await db.host!.detachClient(client);
  }
  expect(slots.size).toBe(1);
  await db.close();
});

test('decisions of many callers share frames, and the log stays small', async () => {
  const db = await open(directory());
  await fill(db);
  const load = transfers(db, 64);
  await until('a few hundred are through', () => load.done > 300);
  await load.stop();
  // It counts when it has answered.
  await vi.waitFor(() => {
    const { decisions, frames, logBytes, decision, apply } = db.stats().coordinator;
    expect(decisions).toBeGreaterThanOrEqual(load.done);
    expect(frames).toBeLessThan(decisions);
    expect(logBytes).toBeLessThan(9 << 20);
    expect([decision.count, apply.count]).toEqual([decisions, decisions]);
  }, 60_000);
  await db.close();
});

test.each(['os', 'sync'] as const)(
  'a store that goes quiet (%s) lets its decisions end by itself',
  async (durability) => {
    const where = directory();
    let db = await open(where, { durability });
    await fill(db);
    const load = transfers(db, 8);
    await until('some are through, and some are known', () => load.done > 30 && db.stats().coordinator.known > 0);
    await load.stop();
    await until('none is known any more', () => db.stats().coordinator.known === 0);
    await db.host!.crash();
    db = await open(where);
    expect(sumOf(db)).toBe(ACCOUNTS * START);
    await db.close();
  },
);

test('an idle store does not keep its coordinator awake', async () => {
  const db = await open(directory());
  await fill(db);
  await db.transaction((tx) => {
    void tx.put(accounts[0]!, { balance: START, last: 'a' });
    void tx.put(accounts[1]!, { balance: START, last: 'a' });
  });
  await until('it has told of its decision', () => db.stats().coordinator.decisions === 1);
  await until('the transaction is over', () => db.stats().coordinator.known === 0);
  // It looks around by itself once a second, and nobody rings. The first times may be behind its last work.
  const wakeups = (): number => db.stats().coordinator.wakeups;
  let tookMs = 0;
  for (let attempt = 0; attempt < 5 && tookMs <= 1500; attempt++) {
    const begun = performance.now();
    const first = wakeups() + 1;
    await until('it woke', () => wakeups() >= first);
    await until('it woke three times', () => wakeups() >= first + 3);
    tookMs = performance.now() - begun;
  }
  expect(tookMs).toBeGreaterThan(1500);
  await db.close();
});
