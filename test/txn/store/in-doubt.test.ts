/** A shard that has something prepared, and nobody who could say what became of it. */
import { expect, test } from 'vitest';
import { ShardState } from '../../../dist/actors/control-block.js';
import { Durability } from '../../../dist/engines/store/shard-store.js';
import { MemEnv } from '../../../dist/shared/env/mem-env.js';
import { Random } from '../../../dist/shared/random.js';
import { createStore } from '../../support/store-scene.js';
import { ShardScene } from '../../support/store-shard.js';
import { appendPrepare, commitGroup } from './workload.js';

const ID = 77;

/** Of client 0, in the log of a process that was killed. */
function scene(): ShardScene {
  const env = new MemEnv({ seed: 1 });
  const store = createStore(env);
  store.beginGroup();
  appendPrepare(store, ID, [{ space: 0, key: 'a', value: Buffer.from('1') }]);
  commitGroup(store, Durability.Sync, 1);
  return new ShardScene(env.crash(new Random(1), 'keep-all'));
}

test('requests wait while the coordinator can be asked, and are refused when it stays down', async () => {
  const at = scene();
  const { control, store } = at;
  const client = at.client();
  const early = client.put('b', '1');
  expect(await at.outcome(early)).toBe('pending');
  control.coordinatorState = ShardState.Failed;
  expect(await at.outcome(early)).toBe('ERR_READ_ONLY');
  expect(client.errors[0]!.message).toContain('reopen the store');
  expect(await at.outcome(client.put('c', '1'))).toBe('ERR_READ_ONLY');
  expect(control.shardState(0)).toBe(ShardState.ReadOnly);
  expect(store.prepared.has(ID)).toBe(true);
});

test('a shard that waits for outcomes is not kept awake by requests that it does not serve yet', async () => {
  const at = scene();
  const { control } = at;
  const early = at.client().put('b', '1');
  expect(await at.outcome(early)).toBe('pending');
  expect(at.shard.hasWork).toBe(false);
  // The outcome wakes it, and then the request does.
  control.commits.append(ID, control.nextSequence++, 1, 0);
  expect(at.shard.hasWork).toBe(true);
  at.shard.step();
  expect(at.shard.transactions.isInDoubt).toBe(false);
  expect(at.shard.hasWork).toBe(true);
  expect(await at.outcome(early)).toBe('done');
});

test('a shard that waits for outcomes is woken by the end of who could tell them', async () => {
  const at = scene();
  expect(await at.outcome(at.client().put('b', '1'))).toBe('pending');
  expect(at.shard.hasWork).toBe(false);
  at.control.coordinatorState = ShardState.Failed;
  expect(at.shard.hasWork).toBe(true);
});

test('a shard that waits for outcomes can be closed with requests that it has not served', async () => {
  const at = scene();
  const client = at.client();
  expect(await at.outcome(client.put('b', '1'))).toBe('pending');
  expect(at.shard.hasUnfinished).toBe(false);
});

test.each([true, false])(
  'a client that goes takes what it has prepared with it only if that is settled (%s)',
  async (isSettled) => {
    const at = scene();
    at.client();
    const other = at.client();
    await at.run();
    const gone = at.shard.detach(0);
    await at.run();
    await gone;
    // Another shard may have a commit of it to serve yet.
    expect(at.shard.transactions.locks.findOwner(ID)).toBeDefined();
    expect(at.store.prepared.has(ID)).toBe(true);
    expect([0, 1].map((client) => at.shard.hasPrepared(client))).toEqual([true, false]);
    at.shard.release(0, isSettled);
    await at.run();
    expect(at.shard.hasPrepared(0)).toBe(!isSettled);
    expect(at.shard.transactions.isInDoubt).toBe(!isSettled);
    expect(at.shard.transactions.locks.findOwner(ID) === undefined).toBe(isSettled);
    expect(await at.outcome(other.put('a', '2'))).toBe(isSettled ? 'done' : 'pending');
    expect(at.store.prepared.has(ID)).toBe(!isSettled);
  },
);
