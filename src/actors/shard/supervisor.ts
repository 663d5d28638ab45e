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
import { MessageChannel, Worker } from 'node:worker_threads';
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
import { remoteControl, type RemoteControl } from '../runtime/control-channel.js';
import { ShardCheckpoints } from './checkpoints.js';
import type { ShardControl, ShardEvent, ShardWorkerData } from './shard-worker.js';

/** A shard that dies this often within the window stays down. */
const DEATHS_MAX = 5;
const RESTART_WINDOW_MS = 60_000;

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

export class ShardSupervisor {
  readonly index: number;
  readonly directory: string | undefined;
  readonly arena: ArenaLayout;
  readonly checkpoints: ShardCheckpoints;
  /** What its thread found when it began. */
  recovery: RecoveryReport | undefined;
  readonly #options: ShardSupervisorOptions;
  readonly #jobs: ShardJobs;
  #worker: Worker | undefined;
  #remote: RemoteControl<ShardControl> | undefined;
  #ended: Promise<void> = Promise.resolve();
  #restarting: Promise<void> = Promise.resolve();
  #deaths: number[] = [];
  #lastError: ConcordError | undefined;
  /** No client is given to it yet: decisions that its predecessor had a part in may be on their way. */
  #isTakingOver = false;
  /** The thread is meant to end: nobody takes over. */
  #isStopping = false;

  constructor(options: ShardSupervisorOptions) {
    const { shard, directory, arena } = options.constants;
    this.index = shard;
    this.directory = directory;
    this.arena = arena;
    this.#options = options;
    this.#jobs = new ShardJobs(shard, arena, options.background);
    this.checkpoints = new ShardCheckpoints(this, options);
  }

  /** Its thread; one that is gone answers every call with ERR_CLOSED. */
  get remote(): RemoteControl<ShardControl> {
    return this.#remote!;
  }

  /** Resolves when no restart is under way; restarts run one after another. Never rejects. */
  get restarted(): Promise<void> {
    return this.#restarting;
  }

  /** Starts the first thread. Resolves when it has recovered. @throws what that throws */
  start(isNew: boolean): Promise<void> {
    return this.#launch(false, isNew);
  }

  #launch(adopt: boolean, isNew: boolean): Promise<void> {
    const { index } = this;
    const { control, constants, current, isClosing } = this.#options;
    const { port1, port2 } = new MessageChannel();
    const workerData: ShardWorkerData = {
      ...constants,
      ...current(),
      control: control.sab,
      port: port2,
      adopt,
      isNew,
    };
    // Other engines register with the single modules.
    const entry = constants.engineModules.length === 0 ? './shard-thread.js' : './shard-worker.js';
    const worker = new Worker(new URL(entry, import.meta.url), {
      workerData,
      transferList: [port2],
      name: `concordkv-shard-${index}`,
      stdin: false,
    });
    const remote = remoteControl<ShardControl>(port1);
    this.#worker = worker;
    this.#remote = remote;
    this.#ended = new Promise((resolve) => {
      // The port closes by itself, behind the thread's last answer; closing it here could drop that.
      worker.once('exit', () => {
        resolve();
      });
    });
    let isReady = false;
    return new Promise<void>((resolve, reject) => {
      worker.on('message', (event: ShardEvent) => {
        if (event.event === 'ready') {
          isReady = true;
          this.recovery = event.recovery;
          if (!isClosing()) worker.unref();
          resolve();
        } else if (event.event === 'open-failed') reject(ConcordError.fromRecord(event.error));
        else this.#hear(event, remote);
      });
      worker.on('error', (cause: Error) => {
        this.#lastError = this.#internal(`shard ${index}: ${cause.message}`, cause);
        reject(this.#lastError);
      });
      worker.once('exit', () => {
        if (!isReady) reject(this.#internal(`shard ${index} ended before it was ready`));
        else if (!this.#isStopping) this.#restart();
      });
    });
  }

  /** What the thread at `remote` tells while it serves. */
  #hear(event: Exclude<ShardEvent, { event: 'ready' | 'open-failed' }>, remote: RemoteControl<ShardControl>): void {
    const { constants, isClosing, onCheckpointFailure, onFlow } = this.#options;
    switch (event.event) {
      case 'died':
        this.#lastError = ConcordError.fromRecord(event.error);
        break;
      case 'checkpoint-wanted':
        void this.checkpoints.write().catch(onCheckpointFailure);
        break;
      case 'lsm-job':
        // Ordered by a thread that has died meanwhile: nobody would ask for it.
        if (remote === this.#remote) this.#jobs.start(event.job, event.task, event.priority, remote);
        break;
      case 'spare-wanted':
        if (this.directory === undefined || isClosing()) break;
        void this.#jobs.provideSpare(this.directory, constants.segmentBytes, () => this.remote);
        break;
      case 'backpressure':
        onFlow(event.spaceId, event.flow);
    }
  }

  #internal(message: string, cause?: Error): ConcordError {
    return new ConcordError('ERR_INTERNAL', message, { shard: this.index }, cause === undefined ? {} : { cause });
  }

  /** The thread died: another one takes over. One after another, however fast they die. */
  #restart(): void {
    const { control } = this.#options;
    // Where a log has failed nobody knows what of its end is on the disk: memory that goes on without it, and a log that is replayed later, would part.
    // One that is read-only because its coordinator stays down would be so again.
    const mayGoOn = control.shardState(this.index) !== ShardState.ReadOnly;
    control.setShardState(this.index, ShardState.Restarting);
    this.#restarting = this.#restarting.then(() => this.#takeOver(mayGoOn));
  }

  async #takeOver(mayGoOn: boolean): Promise<void> {
    const { index } = this;
    const { control, onRecovered, onTakenOver, onRestart } = this.#options;
    this.#isTakingOver = true;
    const error = this.#lastError ?? this.#internal(`shard ${index} ended unexpectedly`);
    this.#lastError = undefined;
    await this.checkpoints.cancel();
    await this.cancelJobs();
    const { cold } = this.arena;
    if (cold?.cache !== undefined) PageCache.recover(cold.cache, toOwnerId(cacheOwnerOfShard(index)));
    const now = Date.now();
    this.#deaths = [...this.#deaths.filter((at) => now - at < RESTART_WINDOW_MS), now];
    while (mayGoOn && this.#deaths.length < DEATHS_MAX && !this.#isStopping) {
      control.setShardState(index, ShardState.Restarting);
      control.countRestart(index);
      try {
        await this.#launch(true, false);
      } catch (cause) {
        this.#lastError = cause instanceof ConcordError ? cause : this.#internal(String(cause));
        this.#deaths.push(Date.now());
        await this.#ended;
        continue;
      }
      await onRecovered();
      this.#isTakingOver = false;
      await onTakenOver();
      onRestart(error);
      tellShard({ event: 'restarted', shard: index, error });
      return;
    }
    this.#staysDown(this.#lastError ?? error);
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

  /** Asks the thread when it is up. @throws ERR_SHARD_FAILED; ERR_SHARD_RESTARTED when it died before it answered */
  async ask<T>(call: (remote: RemoteControl<ShardControl>) => Promise<T>): Promise<T> {
    await this.#restarting;
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

  /** The process stays alive until the thread has ended. */
  ref(): void {
    this.#worker?.ref();
  }

  /** Nobody takes over from now on. */
  stopRestarts(): void {
    this.#isStopping = true;
  }

  /** The thread closes its files and ends. @throws what it could not do, when it has ended */
  async close(): Promise<void> {
    this.#isStopping = true;
    try {
      await this.remote.close();
    } catch (error) {
      await this.#worker?.terminate();
      throw error;
    } finally {
      await this.#ended;
    }
  }

  /** Ends the thread wherever it is, and lets no other follow. */
  async terminate(): Promise<void> {
    this.#isStopping = true;
    this.#worker?.ref();
    await this.#worker?.terminate();
    await this.#restarting;
    // A restart that was under way may have started another one.
    await this.#worker?.terminate();
  }

  /** Ends the thread wherever it is, as a failure would: for tests. */
  async kill(): Promise<void> {
    await this.#worker?.terminate();
  }
}
