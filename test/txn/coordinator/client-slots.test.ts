/** Which slot a thread gets, after others that have left something behind or have not. */
import { expect, test } from 'vitest';
import { ControlBlock, MAX_CLIENTS } from '../../../dist/actors/control-block.js';
import { ClientSlots } from '../../../dist/actors/pool/client-slots.js';
import { transactionBoardBytes } from '../../../dist/actors/transaction/board.js';

const SHARDS = 2;

/** Shards and a coordinator that are answers. */
class Scene {
  readonly control = ControlBlock.create(SHARDS);
  /** What the coordinator says of a client that leaves. */
  isSettled = true;
  /** Of each shard: whether it has something prepared of whoever asks; undefined: it is down. */
  readonly prepared: (boolean | undefined)[] = [false, false];
  readonly released: string[] = [];
  readonly slots = new ClientSlots(
    this.control,
    { arenas: [], feedRings: [], clearClient: () => undefined } as never,
    Array.from({ length: SHARDS }, (_, index) => ({
      index,
      attachClient: () => Promise.resolve(),
      remote: {
        detachClient: () => Promise.resolve(),
        hasPrepared: async () => {
          await null;
          if (this.prepared[index] === undefined) throw new Error('it is down');
          return this.prepared[index];
        },
        releaseClient: (client: number, isSettled: boolean) => {
          this.released.push(`${index}: ${client} ${isSettled ? 'forgotten' : 'kept'}`);
          return Promise.resolve();
        },
      },
    })) as never,
    {
      attachClient: () => Promise.resolve(undefined),
      detachClient: () => Promise.resolve(this.isSettled),
    } as never,
    new SharedArrayBuffer(transactionBoardBytes(MAX_CLIENTS)),
  );

  async attach(): Promise<number> {
    return (await this.slots.attach()).client;
  }

  /** One comes and goes. Its slot. */
  async visit(): Promise<number> {
    const client = await this.attach();
    await this.slots.detach(client);
    return client;
  }
}

test('the slot of one that is gone is given to the next', async () => {
  const scene = new Scene();
  expect([await scene.attach(), await scene.visit(), await scene.visit()]).toEqual([0, 1, 1]);
  expect(scene.released).toEqual(['0: 1 forgotten', '1: 1 forgotten', '0: 1 forgotten', '1: 1 forgotten']);
});

test('the slot of one that may have something decided stays taken', async () => {
  const scene = new Scene();
  await scene.attach();
  scene.isSettled = false;
  scene.prepared[1] = true;
  expect(await scene.visit()).toBe(1);
  expect(scene.released).toEqual(['0: 1 kept', '1: 1 kept']);
  expect(scene.control.clients).toBe(1);
  scene.isSettled = true;
  expect([await scene.visit(), await scene.visit()]).toEqual([2, 2]);
});

test('where no coordinator is left that could say, those of which no shard has anything prepared give their slots back', async () => {
  const scene = new Scene();
  scene.isSettled = false;
  expect([await scene.visit(), await scene.visit()]).toEqual([0, 0]);
  expect(scene.released.at(-1)).toBe('1: 0 forgotten');
  scene.prepared[0] = undefined;
  expect([await scene.visit(), await scene.visit()]).toEqual([0, 1]);
  expect(scene.released.at(-1)).toBe('1: 1 kept');
});

test('when no slot is left it is told how many come back only when the store is opened again', async () => {
  const scene = new Scene();
  scene.isSettled = false;
  scene.prepared[0] = true;
  for (let client = 0; client < MAX_CLIENTS; client++) expect(await scene.visit()).toBe(client);
  await expect(scene.attach()).rejects.toMatchObject({
    code: 'ERR_CLIENT_LIMIT',
    message: expect.stringContaining('0 threads are attached; 256 that are gone'),
    details: { limit: MAX_CLIENTS, kept: MAX_CLIENTS },
  });
});
