/**
 * The host's side of one shard: starts its thread, asks it, replaces it when it dies.
 *
 *   start() ─▶ 'ready': recovered  ─▶  Running ── thread dies ─▶ Restarting: its checkpoint and jobs are cancelled
 *                                         ▲                          │ a new thread adopts the memory, replays the log
 *                                         └── clients are given to it ┴─▶ what was decided on the dead one's word has its number
 *   five deaths in a minute, or a log that had failed ─▶ Failed: it stays down, reads go on
 *
 * Must hold: a shard has one thread at a time, and nothing reads memory on behalf of a dead one when the next begins. Threads: the host's.
 */
import { ConcordError } from '../../shared/errors.js';
import type { ArenaLayout } from '../../shared/memory/arena.js';
import { toOwnerId } from '../../shared/memory/lock-owner.js';
import { PageCache } from '../../shared/memory/page-cache.js';
import { cacheOwnerOfShard } from '../../engines/btree/paged/cold-pages.js';
import type { WriteFlow } from '../../engines/lsm/types.js';
import type { RecoveryReport } from '../../engines/store/recovery.js';
import type { ClientSetup } from '../client/thread-client.js';
import { MAX_CLIENTS, ShardState, type ControlBlock } from '../control-block.js';
import type { BackgroundPool } from '../jobs/background-pool.js';
import { ShardJobs } from '../jobs/shard-jobs.js';
import { tellShard } from '../metrics/tracing.js';
import type { RemoteControl } from '../runtime/control-channel.js';
import { ThreadSupervisor, type ThreadFailure } from '../runtime/thread-supervisor.js';
import { ShardCheckpoints } from './checkpoints.js';
import type { ShardControl, ShardEvent, ShardWorkerData } from './shard-worker.js';

/** What a thread tells while it serves, and before that that it does. */
type Heard = Exclude<ShardEvent, ThreadFailure>;

/** What its threads are started with as long as the store is open. */
type ShardConstants = Omit<ShardWorkerData, 'control' | 'port' | 'adopt' | 'isNew' | 'spaces' | 'settings' | 'decided'>;

export interface ShardSupervisorOptions {
  readonly control: ControlBlock;
  readonly background: BackgroundPool;
  readonly constants: ShardConstants;
  /** And what is as it is when a thread starts. */
  readonly current: () => Pick<ShardWorkerData, 'spaces' | 'settings' | 'decided'>;
  readonly isClosing: () => boolean;
  /** A successor has recovered. Resolves when it may serve clients. */
  readonly onRecovered: () => Promise<void>;
  /** It may be given clients. Resolves when it has those there are. */
  readonly onTakenOver: () => Promise<void>;
  readonly onRestart: (error: ConcordError) => void;
  readonly onFailure: (error: ConcordError) => void;
  readonly onCheckpointFailure: (error: unknown) => void;
  readonly onFlow: (spaceId: number, flow: WriteFlow) => void;
}

export class ShardSupervisor extends ThreadSupervisor<ShardControl, Heard> {
  readonly index: number;
  readonly directory: string | undefined;
  readonly arena: ArenaLayout;
  readonly checkpoints: ShardCheckpoints;
  /** What its thread found when it began. */
  recovery: RecoveryReport | undefined;
  readonly #options: ShardSupervisorOptions;
  readonly #jobs: ShardJobs;
  /** No client is given to it yet: decisions that its predecessor had a part in may be on their way. */
  #isTakingOver = false;

  constructor(options: ShardSupervisorOptions) {
    const { shard, directory, arena } = options.constants;
    super(`shard ${shard}`, { shard });
    this.index = shard;
    this.directory = directory;
    this.arena = arena;
    this.#options = options;
    this.#jobs = new ShardJobs(shard, arena, options.background);
    this.checkpoints = new ShardCheckpoints(this, options);
  }

  protected get isClosing(): boolean {
    return this.#options.isClosing();
  }

  /** Starts the first thread. Resolves when it has recovered. @throws what that throws */
  start(isNew: boolean): Promise<void> {
    return this.#launch(false, isNew);
  }

  #launch(adopt: boolean, isNew: boolean): Promise<void> {
    const { control, constants, current } = this.#options;
    // Other engines register with the single modules.
    const entry = constants.engineModules.length === 0 ? './shard-thread.js' : './shard-worker.js';
    return this.launchThread(
      `concordkv-shard-${this.index}`,
      new URL(entry, import.meta.url),
      (port): ShardWorkerData => ({ ...constants, ...current(), control: control.sab, port, adopt, isNew }),
    );
  }

  protected hear(event: Heard, remote: RemoteControl<ShardControl>): void {
    const { constants, isClosing, onCheckpointFailure, onFlow } = this.#options;
    switch (event.event) {
      case 'ready':
        this.recovery = event.recovery;
        break;
      case 'checkpoint-wanted':
        void this.checkpoints.write().catch(onCheckpointFailure);
        break;
      case 'lsm-job':
        // Ordered by a thread that has died meanwhile: nobody would ask for it.
        if (remote === this.remote) this.#jobs.start(event.job, event.task, event.priority, remote);
        break;
      case 'spare-wanted':
        if (this.directory === undefined || isClosing()) break;
        void this.#jobs.provideSpare(this.directory, constants.segmentBytes, () => this.remote);
        break;
      case 'backpressure':
        onFlow(event.spaceId, event.flow);
    }
  }

  /** The thread died: another one takes over. */
  protected onDeath(): void {
    const { control } = this.#options;
    // Where a log has failed nobody knows what of its end is on the disk: memory that goes on without it, and a log that is replayed later, would part.
    // One that is read-only because its coordinator stays down would be so again.
    const mayGoOn = control.shardState(this.index) !== ShardState.ReadOnly;
    control.setShardState(this.index, ShardState.Restarting);
    this.restart((error) => this.#takeOver(error, mayGoOn));
  }

  async #takeOver(error: ConcordError, mayGoOn: boolean): Promise<void> {
    const { index } = this;
    const { onRecovered, onTakenOver, onRestart } = this.#options;
    this.#isTakingOver = true;
    await this.checkpoints.cancel();
    await this.cancelJobs();
    const { cold } = this.arena;
    if (cold?.cache !== undefined) PageCache.recover(cold.cache, toOwnerId(cacheOwnerOfShard(index)));
    const reason = mayGoOn ? await this.replace(error, () => this.#launchAgain()) : error;
    if (reason !== undefined) {
      this.#staysDown(reason);
      return;
    }
    await onRecovered();
    this.#isTakingOver = false;
    await onTakenOver();
    onRestart(error);
    tellShard({ event: 'restarted', shard: index, error });
  }

  #launchAgain(): Promise<void> {
    const { control } = this.#options;
    control.setShardState(this.index, ShardState.Restarting);
    control.countRestart(this.index);
    return this.#launch(true, false);
  }

  #staysDown(error: ConcordError): void {
    const { index } = this;
    const { control, isClosing, onFailure } = this.#options;
    control.setShardState(index, ShardState.Failed);
    control.endGroup(index, undefined);
    for (let client = 0; client < MAX_CLIENTS; client++) control.clientDoorbell(client).unpark();
    if (isClosing()) return;
    onFailure(error);
    tellShard({ event: 'failed', shard: index, error });
  }

  /** Ends the thread and all that works for it, wherever they are, and lets no other follow: reads go on, nothing is written. */
  async takeDown(error: ConcordError): Promise<void> {
    await this.terminate();
    await this.checkpoints.cancel();
    await this.cancelJobs();
    if (this.#options.control.shardState(this.index) !== ShardState.Failed) this.#staysDown(error);
  }

  /** Asks the thread when it is up. @throws ERR_SHARD_FAILED; ERR_SHARD_RESTARTED when it died before it answered */
  async ask<T>(call: (remote: RemoteControl<ShardControl>) => Promise<T>): Promise<T> {
    await this.restarted;
    const remote = this.requireUp();
    try {
      return await call(remote);
    } catch (error) {
      throw this.lossOf(error);
    }
  }

  /** @throws ERR_SHARD_FAILED: it stays down */
  requireUp(): RemoteControl<ShardControl> {
    const { index } = this;
    if (this.#options.control.shardState(index) !== ShardState.Failed) return this.remote;
    throw new ConcordError('ERR_SHARD_FAILED', `shard ${index} stays down`, { shard: index });
  }

  /** What a call's failure means: a control channel that closed means that the thread died, unless the store is being closed. */
  lossOf(error: unknown): unknown {
    const { index } = this;
    if (this.#options.isClosing() || !(error instanceof ConcordError) || error.code !== 'ERR_CLOSED') return error;
    return new ConcordError('ERR_SHARD_RESTARTED', `shard ${index} died meanwhile`, { shard: index }, { cause: error });
  }

  /** Rings of one more client. One that is down, or takes over, is given all clients when it may serve. */
  async attachClient(client: number, rings: ClientSetup['rings'][number]): Promise<void> {
    if (this.#isTakingOver) return;
    await this.remote.attachClient(client, rings.requests, rings.responses).catch((error: unknown) => {
      if (!(error instanceof ConcordError) || error.code !== 'ERR_CLOSED') throw error;
    });
  }

  /** Flushes and compactions: resolves when none runs any more. */
  cancelJobs(): Promise<void> {
    return this.#jobs.cancel();
  }

  /** The thread closes its files and ends. @throws what it could not do, when it has ended */
  close(): Promise<void> {
    return this.end(() => this.remote.close());
  }
}
