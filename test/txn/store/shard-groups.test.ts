/** Votes, and what is decided, in the groups of a shard: groups that they fill, or that cannot be committed with them, and what of them expires. */
import { expect, test, vi } from 'vitest';
import { newRequest } from '../../../dist/actors/client/shard-link.js';
import { REQUEST_HEADER_BYTES, RequestType } from '../../../dist/actors/shard/request.js';
import { Durability } from '../../../dist/engines/store/shard-store.js';
import { Isolation, TransactionBodyWriter } from '../../../dist/engines/txn/body.js';
import { ConcordError } from '../../../dist/shared/errors.js';
import { MemEnv } from '../../../dist/shared/env/mem-env.js';
import { ShardScene, type Client } from '../../support/store-shard.js';

function scene(): ShardScene {
  return new ShardScene(new MemEnv({ seed: 1 }), { isNew: true, segmentBytes: 64 << 10 });
}

/** 'yes', or the code of the refusal. */
function send(client: Client, request: Buffer): Promise<string> {
  const { link } = client;
  const at = link.reserve(request.length - REQUEST_HEADER_BYTES);
  link.requests.bytes.set(request, at);
  return link.submit().then(
    () => 'yes',
    (error: unknown) => (error as ConcordError).code,
  );
}

function prepare(client: Client, id: number, key: string, valueBytes: number, expiresAt = 0): Promise<string> {
  const body = new TransactionBodyWriter();
  body.begin(Isolation.ReadCommitted, false, id, 0, Date.now(), 1, 0, 0);
  body.addPut(0, Buffer.from(key), key.length, Buffer.alloc(valueBytes, 'x'), valueBytes, expiresAt);
  body.seal();
  const request = newRequest(body.length, Durability.Os, 0, 0, 0, RequestType.Prepare);
  request.set(body.bytes.subarray(0, body.length), REQUEST_HEADER_BYTES);
  return send(client, request);
}

function release(client: Client, id: number): Promise<string> {
  return send(client, newRequest(0, 0, 0, 0, id, RequestType.Release));
}

test('a vote that has no place in the log beside another one waits for the next group', async () => {
  const at = scene();
  const { control, store } = at;
  const client = at.client();
  const small = prepare(client, control.takeCommitNumber(), 'a', 10_000);
  const large = prepare(client, control.takeCommitNumber(), 'b', store.transactionBytesMax - 500);
  await at.run();
  expect(await Promise.all([small, large])).toEqual(['yes', 'yes']);
  expect(store.prepared.size).toBe(2);
});

test('a group that votes have filled to the last byte has room for their outcomes', async () => {
  const at = scene();
  const { control, store } = at;
  const client = at.client();
  for (let left = 0; left < 250; left += 4) {
    const first = control.takeCommitNumber();
    const second = control.takeCommitNumber();
    const votes = [
      prepare(client, first, 'a', 20_000),
      prepare(client, second, 'b', store.log.payloadBytesMax - 20_000 - left),
    ];
    void release(client, first);
    void release(client, second);
    await at.run();
    expect(await Promise.all(votes)).toEqual(['yes', 'yes']);
    expect(store.prepared.size).toBe(0);
  }
});

test('a group that goes with something decided, for which no page is free, is given up whole, and the shard goes on', async () => {
  const at = scene();
  const { control, store } = at;
  const client = at.client();
  const decided = control.takeCommitNumber();
  const other = control.takeCommitNumber();
  const first = prepare(client, decided, 'a', 10);
  await at.run();
  expect(await first).toBe('yes');
  control.commits.append(decided, control.takeCommitNumber(), 1, 0);
  vi.spyOn(store, 'addResolve').mockImplementationOnce(() => {
    throw new ConcordError('ERR_MEMORY_FULL', 'no page is free');
  });
  const put = client.put('b', '1');
  const vote = prepare(client, other, 'c', 10);
  await at.run();
  expect(await Promise.all([put, vote])).toEqual(['ERR_MEMORY_FULL', 'ERR_MEMORY_FULL']);
  expect([decided, other].map((id) => store.prepared.has(id))).toEqual([true, false]);
  expect(control.commits.isUnapplied(Infinity)).toBe(true);
  expect(await at.outcome(client.put('b', '2'))).toBe('done');
  expect(control.commits.isUnapplied(Infinity)).toBe(false);
  expect(store.prepared.size).toBe(0);
});

test('what expires of a transaction is looked for when it is applied, however long it was prepared', async () => {
  const at = scene();
  const { control, store, shard } = at;
  const client = at.client();
  const id = control.takeCommitNumber();
  const expiresAt = Date.now() + 5;
  const vote = prepare(client, id, 'a', 10, expiresAt);
  await at.run();
  expect(await vote).toBe('yes');
  shard.background(expiresAt + 10);
  control.commits.append(id, control.takeCommitNumber(), 1, 0);
  await at.run();
  expect(store.spaces.expiringEntries).toBe(1);
  shard.background(expiresAt + 5000);
  expect(store.spaces.expiringEntries).toBe(0);
});
