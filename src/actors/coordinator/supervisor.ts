/**
 * The host's side of the coordinator: starts its thread, connects it with shards and clients, replaces it when it dies.
 *
 *   launch()  ─▶  'ready': log recovered  ─▶  begin(): shards, clients, then what was decided goes to the board  ─▶  Running
 *                      ▲                                                                                        │ thread dies
 *                      └──────────────────────────── Restarting ◀──────────────────────────────────────────────┘
 *   five deaths in a minute ─▶ Failed: what is decided stays so, nothing more is, until the store is opened again
 *
 * A client's rings are kept until the coordinator has served all that was in them: a successor meets them too, also of a client that is gone. Only
 * then may shards forget what that client has prepared.
 * Threads: the host's.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { MessageChannel, type MessagePort } from 'node:worker_threads';
import { ConcordError } from '../../shared/errors.js';
import { createRing } from '../../shared/memory/ring.js';
import { createFenceTable } from '../../engines/txn/fence-table.js';
import type { WalRecovery, WalRecoveryMode } from '../../engines/wal/recovery.js';
import { MAX_CLIENTS, ShardState, type ControlBlock } from '../control-block.js';
import { ThreadSupervisor, type ThreadFailure } from '../runtime/thread-supervisor.js';
import type { CoordinatorControl, CoordinatorEvent, CoordinatorWorkerData } from './coordinator-worker.js';
import { DECISION_RESPONSE_RING_BYTES, DECISION_RING_BYTES } from './decision-queue.js';

const ROUND_POLL_MS = 2;

export interface CoordinatorRings {
  readonly requests: SharedArrayBuffer;
  readonly responses: SharedArrayBuffer;
}

/** What the coordinator needs of a shard's control. */
export interface ShardEnd {
  attachCoordinator(port: MessagePort): Promise<void>;
}

export interface SupervisorOptions {
  readonly control: ControlBlock;
  /** Of the decision log; undefined: the store keeps nothing on disk. */
  readonly directory: string | undefined;
  readonly storeId: Uint8Array;
  readonly recoveryMode: WalRecoveryMode | undefined;
  /** Those that are up or will be: one that does not answer is connected when it is back. */
  readonly shards: () => readonly ShardEnd[];
  readonly onRestart: (error: ConcordError) => void;
  readonly onFailure: (error: ConcordError) => void;
}

type Heard = Exclude<CoordinatorEvent, ThreadFailure>;

export class CoordinatorSupervisor extends ThreadSupervisor<CoordinatorControl, Heard> {
  readonly #options: SupervisorOptions;
  readonly #rings = new Map<number, CoordinatorRings>();
  readonly #fences: SharedArrayBuffer | undefined;
  /** What the thread found in its log. */
  recovery: WalRecovery | undefined;
  /** Of all ids in the log; no transaction may have one of them again. */
  highestId = 0;

  constructor(options: SupervisorOptions) {
    super('the coordinator');
    this.#options = options;
    if (options.directory === undefined) this.#fences = createFenceTable();
  }

  protected get isClosing(): boolean {
    return this.isStopping;
  }

  get #isFailed(): boolean {
    return this.#options.control.coordinatorState === ShardState.Failed;
  }

  /** Starts the thread. Resolves when its log is recovered. @throws what that throws */
  launch(isRestart = false): Promise<void> {
    const { control, directory, storeId, recoveryMode } = this.#options;
    return this.launchThread(
      'concordkv-coordinator',
      new URL('./coordinator-worker.js', import.meta.url),
      (port): CoordinatorWorkerData => ({
        directory,
        storeId,
        control: control.sab,
        fences: this.#fences,
        port,
        isRestart,
        recoveryMode,
      }),
    );
  }

  /** Every shard has recovered. Resolves when all that was decided before is applied; after a restart of the thread alone: when it stands on the board. @throws ERR_CLOSED: it died */
  async begin(): Promise<void> {
    const remote = this.remote;
    await Promise.all(this.#options.shards().map((end, shard) => this.connect(shard, end)));
    for (const [client, rings] of this.#rings) await remote.attachClient(client, rings.requests, rings.responses);
    await remote.begin();
  }

  /** Gives the shard and the coordinator the two ends of a port. One that is down now is connected when it is back. */
  async connect(shard: number, end: ShardEnd): Promise<void> {
    const { port1, port2 } = new MessageChannel();
    await Promise.allSettled([this.remote.attachShard(shard, port1), end.attachCoordinator(port2)]);
  }

  /**
   * A shard was replaced, and that is counted. Resolves when every transaction that was decided on its word has its number: then it may serve. Where no
   * coordinator is left to give it one, nothing is waited for: what is decided is applied when the store is opened again.
   */
  async roundOver(): Promise<void> {
    const { commits } = this.#options.control;
    const { round } = commits;
    while (!commits.isRoundOver(round) && !this.#isFailed && !this.isStopping) await sleep(ROUND_POLL_MS);
  }

  protected hear(ready: Heard): void {
    this.recovery = ready.recovery;
    this.highestId = Math.max(this.highestId, ready.highestId);
  }

  protected onDeath(): void {
    this.#options.control.coordinatorState = ShardState.Restarting;
    // It may have died between taking a number and appending the entry. A shard that waits for that can neither be talked to nor be connected with a successor,
    // which begins only when all are. What was not appended is decided in the log: the successor appends it, with another number.
    this.#options.control.commits.unclaim();
    this.restart((error) => this.#takeOver(error));
  }

  async #takeOver(error: ConcordError): Promise<void> {
    const { control } = this.#options;
    const reason = await this.replace(error, () => {
      control.countCoordinatorRestart();
      return this.launch(true);
    });
    if (reason === undefined) {
      // One that dies meanwhile is replaced by the restart that its end has asked for.
      await this.begin().catch(() => undefined);
      this.#options.onRestart(error);
      return;
    }
    this.#staysDown();
    if (!this.isStopping) this.#options.onFailure(reason);
  }

  #staysDown(): void {
    const { control } = this.#options;
    control.coordinatorState = ShardState.Failed;
    // Shards would wait for what it was about to append.
    control.commits.unclaim();
    for (let shard = 0; shard < control.shards; shard++) control.shardDoorbell(shard).unpark();
    for (let client = 0; client < MAX_CLIENTS; client++) control.clientDoorbell(client).unpark();
  }

  /** Ends the thread wherever it is, and lets no other follow: nothing more is decided. */
  async takeDown(error: ConcordError): Promise<void> {
    await this.terminate();
    if (this.#isFailed) return;
    this.#staysDown();
    this.#options.onFailure(error);
  }

  /** Rings for one more client. */
  async attachClient(client: number): Promise<CoordinatorRings> {
    const rings = {
      requests: createRing(DECISION_RING_BYTES),
      responses: createRing(DECISION_RESPONSE_RING_BYTES),
    };
    this.#rings.set(client, rings);
    // One that is down is given all clients when it comes back.
    await this.remote.attachClient(client, rings.requests, rings.responses).catch(unlessGone);
    return rings;
  }

  /**
   * The client is gone. Resolves when all it had asked for is decided or refused: only then shards may forget what it has prepared. False: nobody knows, for
   * no coordinator is left that could say, or its log has failed with something of the client's in it; they must keep it.
   */
  async detachClient(client: number): Promise<boolean> {
    if (!this.#rings.has(client)) return true;
    let isSettled: boolean | undefined;
    while (isSettled === undefined) {
      await this.restarted;
      if (this.#isFailed || this.isStopping) break;
      try {
        isSettled = await this.remote.detachClient(client);
      } catch (error) {
        unlessGone(error);
        // The thread's end may not be known here yet.
        await this.ended;
      }
    }
    this.#rings.delete(client);
    return isSettled ?? false;
  }

  /** The clients are gone, the shards are not. Resolves when they have applied what is decided, or do not come to it. */
  async drain(): Promise<void> {
    this.ref();
    await this.restarted;
    this.stopRestarts();
    if (!this.#isFailed) await this.remote.drain();
  }

  /** Behind drain(). `isSafe`: all shards have closed their logs, with what they had applied. */
  async close(isSafe: boolean): Promise<void> {
    try {
      await this.end(async () => {
        if (!this.#isFailed) await this.remote.close(isSafe);
      });
    } finally {
      this.#options.control.coordinatorState = ShardState.Closed;
    }
  }
}

function unlessGone(error: unknown): void {
  if (!(error instanceof ConcordError) || error.code !== 'ERR_CLOSED') throw error;
}
