/** What is left, in the simulated store without chance, of transactions beside a log that has failed: until the process ends, and behind that. */
import { expect, test } from 'vitest';
import { TransactionBodyWriter } from '../../../dist/engines/txn/body.js';
import { CommitRun } from '../../../dist/actors/transaction/commit.js';
import { ConcordError } from '../../../dist/shared/errors.js';
import { withClock } from './clock.js';
import { Isolation, World, type SimClient } from './world.js';

const OS = 1;
const SYNC = 2;
const HOST_SLOT = 0;
/** For time to pass, messages to arrive, shards to ask. */
const LONG = 100;

interface Told {
  what: string;
}

class Scene {
  readonly world: World;
  isCoordinatorStill = false;

  constructor(shards: number) {
    let seed = 1;
    let world = new World({ seed, loss: 'process' });
    while (world.shards !== shards) world = new World({ seed: ++seed, loss: 'process' });
    world.isCalm = true;
    this.world = world;
  }

  async turn(turns: number): Promise<void> {
    const { world } = this;
    for (let turn = 0; turn < turns; turn++) {
      world.unblocked();
      world.clock.nowMs += 5;
      world.supervise();
      for (let shard = 0; shard < world.shards; shard++) world.stepShard(shard);
      if (!this.isCoordinatorStill) world.stepCoordinator();
      while (world.deliverOne());
      for (const client of [...world.clients.values()]) world.stepClient(client);
      for (let i = 0; i < 20; i++) await undefined;
    }
  }

  /** As the host: the first slot that is free. */
  attach(): SimClient {
    let slot = HOST_SLOT;
    while (this.world.clients.has(slot)) slot++;
    return this.world.addClient(slot);
  }

  async leave(client: SimClient): Promise<void> {
    this.world.detachClient(client);
    await this.turn(LONG);
  }

  /** Puts the value under the same key of each shard, as one transaction. */
  commit(client: SimClient, shards: readonly number[], value: string, level: number, key = KEY): Told {
    const told: Told = { what: 'nothing' };
    const id = client.control.takeCommitNumber();
    const mask = shards.reduce((bits, shard) => bits | (1 << shard), 0);
    const parts = shards.map((shard) => {
      const body = new TransactionBodyWriter();
      body.begin(Isolation.ReadCommitted, false, id, 0, Date.now(), mask, 0, 0);
      body.addPut(0, key, key.length, Buffer.from(value), value.length, 0);
      return { shard, body: body.seal(), writes: true };
    });
    const run = new CommitRun(this.world.portOf(client), id, parts, level);
    run.run({
      answered: () => (told.what = 'committed'),
      failed: (error) => (told.what = `${run.state}: ${(error as ConcordError).code}`),
    });
    return told;
  }

  put(client: SimClient, shard: number, key: Buffer, value: string): Told {
    const told: Told = { what: 'nothing' };
    this.world.put(client, shard, key, value, SYNC).then(
      () => (told.what = 'done'),
      (error: unknown) => (told.what = (error as ConcordError).code),
    );
    return told;
  }

  syncFails(path: RegExp): void {
    this.world.env.addRule({ operation: 'sync', path, times: 1, error: 'EIO' });
  }

  get prepared(): number[] {
    return this.world.lives.map((life) => life!.shard.store.prepared.size);
  }

  get known(): number {
    return this.world.coordinator!.actor.coordinator.known;
  }

  /** The process is killed, and the store opened again: what the key holds. */
  async reopened(): Promise<(string | undefined)[]> {
    const { world } = this;
    world.endProcess();
    world.crash();
    world.openProcess();
    const client = this.attach();
    await this.turn(LONG);
    return world.lives.map((_, shard) => client.find(shard, KEY, Infinity).value);
  }
}

const KEY = Buffer.from('key');

async function scene(shards: number, play: (scene: Scene) => Promise<void>): Promise<void> {
  const made = new Scene(shards);
  await withClock(made.world.clock, made.world.blocked, async () => {
    made.world.openProcess();
    await play(made);
  });
}

/** A client of shards 0 and 1 whose second transaction nobody knows the outcome of. */
async function unknownOutcome(at: Scene): Promise<SimClient> {
  const client = at.attach();
  const known = at.commit(client, [0, 1], 'old', SYNC);
  await at.turn(LONG);
  at.syncFails(/coordinator/);
  const unknown = at.commit(client, [0, 1], 'new', SYNC);
  await at.turn(LONG);
  expect([known.what, unknown.what]).toEqual(['committed', 'unknown: ERR_IO']);
  return client;
}

test.each([0, 1, 3])(
  'what may be decided stays prepared and locked when its client goes, and %i others have come and gone',
  async (others) => {
    await scene(2, async (at) => {
      const host = at.attach();
      const { slot } = await unknownOutcome(at);
      await at.leave(at.world.clients.get(slot)!);
      for (let i = 0; i < others; i++) {
        const next = at.attach();
        expect(next.slot).not.toBe(slot);
        await at.turn(10);
        await at.leave(next);
      }
      const write = at.put(host, 0, KEY, 'of another');
      const beside = at.put(host, 0, Buffer.from('beside'), 'x');
      await at.turn(LONG);
      expect([write.what, beside.what]).toEqual(['nothing', 'done']);
      expect(at.prepared).toEqual([1, 1]);
      expect(await at.reopened()).toEqual(['new', 'new']);
    });
  },
);

test('nor does it matter that its slot is another’s: shards are told to keep what it has', async () => {
  await scene(2, async (at) => {
    const host = at.attach();
    const { slot } = await unknownOutcome(at);
    await at.leave(at.world.clients.get(slot)!);
    const next = at.world.addClient(slot);
    await at.turn(10);
    await at.leave(next);
    expect(next.isSettled).toBe(false);
    at.put(host, 0, Buffer.from('beside'), 'x');
    await at.turn(LONG);
    expect(await at.reopened()).toEqual(['new', 'new']);
  });
});

test('a client without such a thing gives its slot back, also when the decision log has failed', async () => {
  await scene(2, async (at) => {
    at.attach();
    await unknownOutcome(at);
    const other = at.attach();
    const refused = at.commit(other, [0, 1], 'newer', SYNC, Buffer.from('beside'));
    await at.turn(LONG);
    await at.leave(other);
    expect(refused.what).toBe('aborted: ERR_READ_ONLY');
    expect(at.attach().slot).toBe(other.slot);
    expect(at.prepared).toEqual([1, 1]);
  });
});

test('a coordinator that begins anew finds what became of it', async () => {
  await scene(2, async (at) => {
    const host = at.attach();
    await at.leave(await unknownOutcome(at));
    at.world.killThread(at.world.coordinator!.thread);
    const write = at.put(host, 0, Buffer.from('beside'), 'x');
    await at.turn(10 * LONG);
    expect([write.what, at.prepared]).toEqual(['done', [0, 0]]);
    const values = [0, 1].map((shard) => host.find(shard, KEY, Infinity).value);
    expect(values[0]).toBe(values[1]);
    expect(await at.reopened()).toEqual(values);
  });
});

test('a shard whose log has failed keeps what it took part in known, and nothing else', async () => {
  await scene(3, async (at) => {
    const client = at.attach();
    // Prepared, and applied by shard 2 when its log has failed.
    at.isCoordinatorStill = true;
    const first = at.commit(client, [0, 2], 'first', OS);
    await at.turn(30);
    at.syncFails(/shard-2/);
    const write = at.put(client, 2, Buffer.from('beside'), 'x');
    await at.turn(30);
    at.isCoordinatorStill = false;
    await at.turn(60);
    expect([first.what, write.what]).toEqual(['committed', 'ERR_IO']);
    for (let i = 1; i <= 50; i++) {
      const next = at.commit(client, [0, 1], `value ${i}`, SYNC);
      await at.turn(10);
      expect(next.what).toBe('committed');
    }
    await at.turn(6 * LONG);
    expect(at.known).toBe(1);
    expect(await at.reopened()).toEqual(['value 50', 'value 50', 'first']);
  });
});

test('a shard that begins anew, and waits for an outcome that the failed log keeps to itself, refuses writes', async () => {
  await scene(2, async (at) => {
    const host = at.attach();
    await unknownOutcome(at);
    at.world.killThread(at.world.lives[0]!.thread);
    await at.turn(LONG);
    const write = at.put(host, 0, Buffer.from('beside'), 'x');
    const other = at.put(host, 1, Buffer.from('beside'), 'x');
    await at.turn(10 * LONG);
    expect([write.what, other.what]).toEqual(['ERR_READ_ONLY', 'done']);
    expect(at.prepared).toEqual([1, 1]);
    expect(await at.reopened()).toEqual(['new', 'new']);
  });
});
