/**
 * The client slots of a store: which threads are attached, and the rings they share with the shards.
 *
 *   attach()   a free slot, rings ──▶ shards, coordinator
 *   detach()   pins, snapshots come back ──▶ coordinator: all that it asked for is decided ──▶ shards forget it ──▶ the slot is free
 *                                                        │ nobody can say what of it is
 *                                                        └──▶ shards keep what it has prepared, if they have any ──▶ the slot stays taken until the store is opened again
 *
 * Must hold: a slot is given to another thread when no shard knows the last one any more: shards tell by the slot whose a prepared transaction is, and would give
 * up, with the next one's, what may be decided. A shard that takes over is given those that are attached then.
 * Threads: the host's.
 */
import { ConcordError } from '../../shared/errors.js';
import { createRing } from '../../shared/memory/ring.js';
import type { ClientSetup } from '../client/thread-client.js';
import { MAX_CLIENTS, type ControlBlock } from '../control-block.js';
import type { CoordinatorSupervisor } from '../coordinator/supervisor.js';
import { REQUEST_RING_BYTES, RESPONSE_RING_BYTES } from '../shard/request.js';
import type { ShardSupervisor } from '../shard/supervisor.js';
import { unlistAll } from '../transaction/board.js';
import type { StoreMemory } from './store-memory.js';

export class ClientSlots {
  readonly #control: ControlBlock;
  readonly #memory: StoreMemory;
  readonly #shards: readonly ShardSupervisor[];
  readonly #coordinator: CoordinatorSupervisor | undefined;
  readonly #transactionBoard: SharedArrayBuffer;
  /** Rings by shard. */
  readonly #clients = new Map<number, ClientSetup['rings']>();
  readonly #leaving = new Set<number>();
  /** Of threads that are gone, and have left behind what may be decided. */
  readonly #kept = new Set<number>();

  constructor(
    control: ControlBlock,
    memory: StoreMemory,
    shards: readonly ShardSupervisor[],
    coordinator: CoordinatorSupervisor | undefined,
    transactionBoard: SharedArrayBuffer,
  ) {
    this.#control = control;
    this.#memory = memory;
    this.#shards = shards;
    this.#coordinator = coordinator;
    this.#transactionBoard = transactionBoard;
  }

  /** A slot, rings and memory for one more thread. @throws ERR_CLIENT_LIMIT */
  async attach(): Promise<ClientSetup> {
    let client = 0;
    while (this.#clients.has(client) || this.#leaving.has(client) || this.#kept.has(client)) client++;
    if (client >= MAX_CLIENTS) throw this.#noneFree();
    const rings = this.#shards.map(() => ({
      requests: createRing(REQUEST_RING_BYTES),
      responses: createRing(RESPONSE_RING_BYTES),
    }));
    this.#clients.set(client, rings);
    this.#control.addClients(1);
    const { arenas, feedRings } = this.#memory;
    try {
      const [coordinator] = await Promise.all([
        this.#coordinator?.attachClient(client),
        ...this.#shards.map((shard) => shard.attachClient(client, rings[shard.index]!)),
      ]);
      return { client, control: this.#control.sab, arenas, rings, coordinator, feedRings };
    } catch (error) {
      await this.detach(client);
      throw error;
    }
  }

  #noneFree(): ConcordError {
    const kept = this.#kept.size;
    if (kept === 0)
      return new ConcordError('ERR_CLIENT_LIMIT', `${MAX_CLIENTS} threads are attached`, { limit: MAX_CLIENTS });
    const text = `${MAX_CLIENTS - kept} threads are attached; ${kept} that are gone have left transactions of which only the next opening knows the outcome`;
    return new ConcordError('ERR_CLIENT_LIMIT', text, { limit: MAX_CLIENTS, kept });
  }

  /** A shard that took over is given all that are attached. */
  async attachAllTo(shard: ShardSupervisor): Promise<void> {
    for (const [client, rings] of this.#clients) await shard.attachClient(client, rings[shard.index]!);
  }

  /**
   * The thread is gone, or done. Resolves when the shards have served what it had published: then its slot comes back, unless something is left of which nobody
   * knows what it will be.
   */
  async detach(client: number): Promise<void> {
    if (!this.#clients.delete(client)) return;
    this.#leaving.add(client);
    this.#control.addClients(-1);
    this.#memory.clearClient(client);
    this.#control.closeSnapshotsOf(client);
    this.#control.feedBell.clear(client);
    let isFree = false;
    try {
      // First: what it had asked to be decided is decided before shards forget what it has prepared.
      let isSettled = (await this.#coordinator?.detachClient(client)) ?? true;
      await Promise.all(this.#shards.map(({ remote }) => remote.detachClient(client).catch(() => undefined)));
      // What is prepared nowhere nobody can halve, whatever a coordinator that is down has logged.
      isSettled ||= !(await this.#isPrepared(client));
      // Only now: a commit in one shard may stand on locks in others.
      await Promise.all(
        this.#shards.map(({ remote }) => remote.releaseClient(client, isSettled).catch(() => undefined)),
      );
      isFree = isSettled;
    } finally {
      this.#control.board.leave(client);
      unlistAll(this.#transactionBoard, client);
      if (!isFree) this.#kept.add(client);
      this.#leaving.delete(client);
    }
  }

  /** Somewhere; of a shard that cannot say: perhaps. */
  async #isPrepared(client: number): Promise<boolean> {
    const answers = await Promise.all(this.#shards.map(({ remote }) => remote.hasPrepared(client).catch(() => true)));
    return answers.includes(true);
  }
}
