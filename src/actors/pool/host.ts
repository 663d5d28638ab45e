/**
 * The host of a pool: the thread that opened it. It locks the directory, starts and supervises the shard threads, gives client slots to
 * threads that attach and takes them back when they end, and runs checkpoints.
 *
 *   attach     handle port ──attach()──▶ slot, rings, memory          port closes ──▶ reader slots, snapshots, rings come back
 *   shard dies exit ──▶ checkpoint and jobs of it cancelled ──▶ new thread adopts the memory, replays the log ──▶ rings re-attached
 *              five deaths in a minute ──▶ the shard stays down (ERR_SHARD_FAILED); reads go on
 *
 * Must hold: nothing here is on the path of a read or a write. Nothing keeps the process alive but calls in flight.
 * Threads: the host's only.
 */
import { randomBytes } from 'node:crypto';
import { EventEmitter } from 'node:events';
import * as fs from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { MessageChannel, Worker, type MessagePort } from 'node:worker_threads';
import { ConcordError, isDiskFull, toErrorRecord } from '../../shared/errors.js';
import { acquireDirectoryLock, type DirectoryLock } from '../../shared/env/directory-lock.js';
import { NodeEnv } from '../../shared/env/node-env.js';
import { ArenaReader, createArena, type ArenaLayout } from '../../shared/memory/arena.js';
import { toOwnerId } from '../../shared/memory/lock-owner.js';
import {
  PageCache,
  createPageCache,
  type PageCacheLayout,
  type PageCacheStats,
} from '../../shared/memory/page-cache.js';
import { createRing } from '../../shared/memory/ring.js';
import { cacheOwnerOfShard, cacheOwnerOfSlot } from '../../engines/btree/paged/cold-pages.js';
import { coldLayout } from '../../engines/btree/paged/paging.js';
import type { CheckpointHeader } from '../../engines/checkpoint/writer.js';
import type { EngineTuning } from '../../engines/engine.js';
import { createFrameRing } from '../../engines/feed/frame-ring.js';
import { createPrepareJournal } from '../../engines/store/prepare-journal.js';
import { PREPARED_MAX } from '../../engines/store/prepared.js';
import { createRateLimit, setRateLimit } from '../../engines/lsm/compaction/rate-limit.js';
import type { LsmOutcome, LsmTask, WriteFlow } from '../../engines/lsm/types.js';
import type { CheckpointPlan, RecoveryReport } from '../../engines/store/shard-store.js';
import { JOB_READER_SLOT } from '../../engines/store/space-table.js';
import type { SpaceDefinition, SwitchProgress } from '../../engines/store/space.js';
import type { LockHolder } from '../../engines/txn/locks/description.js';
import { COORDINATOR_DIRECTORY, readDecisions } from '../../engines/txn/decision-log.js';
import { CoordinatorSupervisor } from '../coordinator/supervisor.js';
import { BackgroundPool } from '../jobs/background-pool.js';
import { ControlBlock, MAX_CLIENTS, PoolState, ShardCounter, ShardState } from '../control-block.js';
import { ShardHistogram } from '../metrics/board.js';
import { HISTOGRAM_LENGTH, record } from '../metrics/histogram.js';
import { transactionBoardBytes, unlistAll } from '../transaction/board.js';
import { transactionDefaults, type TransactionDefaults } from '../transaction/options.js';
import { tellCheckpoint, tellLsmJob, tellShard, tellSwitch } from '../metrics/tracing.js';
import { exposeControl, remoteControl, type RemoteControl } from '../runtime/control-channel.js';
import { REQUEST_RING_BYTES, RESPONSE_RING_BYTES } from '../shard/request.js';
import type { CompactRequest } from '../shard/shard.js';
import type { ShardControl, ShardEvent, ShardSettings, ShardWorkerData } from '../shard/shard-worker.js';
import type { ClientSetup } from '../client/thread-client.js';
import {
  beginCreation,
  defaultSpaceOf,
  definitionsOf,
  finishCreation,
  inspectDirectory,
  newManifest,
  readManifest,
  removeCreationMarker,
  replaceManifest,
  shardDirectory,
  type Manifest,
  type SpaceRecord,
} from './manifest.js';
import {
  changeOptions,
  durabilityLevel,
  defaultShardCount,
  type DurabilityName,
  type LiveOptions,
  type ResolvedOptions,
} from './options.js';
import { SpaceCatalog } from './space-catalog.js';
import type { SpaceSpec } from './space-options.js';

const PAGE_CACHE_BYTES_MAX = 2 ** 35;
/** Of one transaction in one shard of a store without a directory: no group there is larger. */
const MEMORY_TRANSACTION_BYTES_MAX = 64 << 20;
/** A shard that dies this often within the window stays down. */
const DEATHS_MAX = 5;
const RESTART_WINDOW_MS = 60_000;
/** A log longer than this is checkpointed when the store closes, so that it opens fast. */
const CLOSE_CHECKPOINT_LOG_BYTES = 4 << 20;
/** Memtables of trees go to files before that; so long, at most. */
const CLOSE_FLUSH_MS_MAX = 10_000;
/** Between two looks at a shard that died and whose successor is not up yet. */
const RESTART_POLL_MS = 5;

/** What an attaching thread gets: structured-cloneable. */
export interface AttachReply {
  readonly setup: ClientSetup;
  readonly settings: ClientSettings;
}

export interface ClientSettings {
  readonly directory: string;
  readonly durability: DurabilityName;
  readonly readOnly: boolean;
  /** Which spaces there are: see registry.ts. */
  readonly registry: SharedArrayBuffer;
  /** Imported by each thread before it reads: they register engines. */
  readonly engineModules: readonly string[];
  readonly transactions: TransactionDefaults;
  /** What is open in every thread: see transaction/board.ts. */
  readonly transactionBoard: SharedArrayBuffer;
}

export interface HostEvents {
  /** A shard thread died and a new one took over. */
  'shard-restarted': [{ shard: number; error: ConcordError }];
  /** A shard stays down. */
  'shard-failed': [{ shard: number; error: ConcordError }];
  /** The thread that decides transactions over several shards died and a new one took over; no outcome is lost. */
  'coordinator-restarted': [{ error: ConcordError }];
  /** It stays down: no transaction over several shards can be committed. */
  'coordinator-failed': [{ error: ConcordError }];
  /** A background checkpoint could not be written; the log grows on. */
  'checkpoint-failed': [{ shard: number; error: ConcordError }];
  /** A shard takes the writes of a space more slowly than before, not at all for now, or freely again. */
  backpressure: [BackpressureEvent];
}

export interface BackpressureEvent {
  readonly shard: number;
  /** Name of the space; empty: the pool's own. */
  readonly space: string;
  readonly state: WriteFlow['state'];
  /** What has to catch up; empty when writes are free. */
  readonly cause: WriteFlow['cause'];
  /** Infinity when free, 0 when stopped. */
  readonly bytesPerSecond: number;
}

interface ShardHandle {
  readonly index: number;
  readonly directory: string | undefined;
  worker: Worker;
  remote: RemoteControl<ShardControl>;
  recovery: RecoveryReport | undefined;
  restarts: number[];
  /** The checkpoint that runs now, and the word that cancels it. */
  checkpoint: { done: Promise<void>; cancel: Int32Array } | undefined;
  /** Flushes and compactions its thread has ordered, with the words that cancel them. */
  readonly jobs: Map<Int32Array, Promise<void>>;
  ended: Promise<void>;
  lastError: ConcordError | undefined;
  /** Settles when no restart is under way; restarts run one after another. Never rejects. */
  restarting: Promise<void>;
  /** No client is given to it yet: decisions that its predecessor had a part in may be on their way. */
  isTakingOver: boolean;
  /** The thread is meant to end: nobody takes over. */
  isStopping: boolean;
}

interface AttachedClient {
  readonly client: number;
  readonly rings: { requests: SharedArrayBuffer; responses: SharedArrayBuffer }[];
}

/** Calls an attached thread may make on the host. */
export class ClientGate {
  readonly #host: PoolHost;
  #client: number | undefined;
  #isTaken = false;
  #isGone = false;

  constructor(host: PoolHost) {
    this.#host = host;
  }

  async attach(): Promise<AttachReply> {
    if (this.#isTaken) {
      throw new ConcordError('ERR_CLIENT_LIMIT', 'a handle attaches one thread; make another with db.handle()');
    }
    this.#isTaken = true;
    try {
      const setup = await this.#host.attachClient();
      this.#client = setup.client;
      // The thread may have ended while the shards were told about it.
      if (this.#isGone) await this.detach();
      return { setup, settings: this.#host.settings };
    } catch (error) {
      this.#isTaken = false;
      throw error;
    }
  }

  async detach(): Promise<void> {
    const client = this.#client;
    this.#client = undefined;
    if (client !== undefined) await this.#host.detachClient(client);
  }

  /** The other end of the port is closed: its thread ended, or let go. */
  gone(): Promise<void> {
    this.#isGone = true;
    return this.detach();
  }

  /** Another handle made by an attached thread: the host serves its port. */
  adoptPort(port: MessagePort): void {
    this.#host.serve(port);
  }

  compact(request: CompactRequest): Promise<number> {
    return this.#host.compact(request);
  }

  cancelCompact(id: string): Promise<void> {
    return this.#host.cancelCompact(id);
  }

  configure(change: LiveOptions): Promise<readonly string[]> {
    return this.#host.configure(change);
  }

  checkpoint(directory: string): Promise<void> {
    return this.#host.checkpoint(directory);
  }

  lockHolders(locksMax: number): Promise<LockHolder[][]> {
    return this.#host.lockHolders(locksMax);
  }

  openSpace(name: string, spec: SpaceSpec): Promise<SpaceRecord> {
    return this.#host.openSpace(name, spec);
  }

  dropSpace(id: number): Promise<boolean> {
    return this.#host.dropSpace(id);
  }

  switchEngine(id: number, engine: string, tuning: EngineTuning): Promise<void> {
    return this.#host.switchEngine(id, engine, tuning);
  }

  cancelSwitch(id: number): Promise<void> {
    return this.#host.cancelSwitch(id);
  }

  switchProgress(id: number): Promise<SwitchProgress | undefined> {
    return this.#host.switchProgress(id);
  }
}

export class PoolHost extends EventEmitter<HostEvents> {
  readonly directory: string;
  readonly control: ControlBlock;
  readonly settings: ClientSettings;
  readonly #catalog: SpaceCatalog;
  #options: ResolvedOptions;
  readonly #lock: DirectoryLock | undefined;
  readonly #arenas: ArenaLayout[];
  /** Of pages in files, for all threads and shards. */
  readonly #pageCache: PageCacheLayout | undefined;
  readonly #shards: ShardHandle[] = [];
  readonly #clients = new Map<number, AttachedClient>();
  readonly #leaving = new Set<number>();
  readonly #ports = new Set<MessagePort>();
  /** Of transactions over several shards; a store that is open to read only has none. */
  readonly #coordinator: CoordinatorSupervisor | undefined;
  readonly #background: BackgroundPool;
  /** Of a store without a directory, by shard: what change feeds read. */
  readonly #feedRings: readonly SharedArrayBuffer[];
  /** Of a store without a directory and more than one shard: what each has prepared. */
  readonly #prepareJournals: readonly SharedArrayBuffer[];
  /** Of what its flushes and compactions write. */
  readonly #rate: SharedArrayBuffer;
  /** Of a store that is open to read only: what its shards apply in memory. */
  #decided: ReadonlySet<number> | undefined;
  #closing = false;

  private constructor(
    directory: string,
    manifest: Manifest,
    options: ResolvedOptions,
    lock: DirectoryLock | undefined,
  ) {
    super();
    this.directory = directory;
    this.#options = options;
    this.#lock = lock;
    this.control = ControlBlock.create(manifest.shards);
    this.control.defaultDurability = durabilityLevel(options.durability);
    this.#catalog = new SpaceCatalog(manifest, {
      readOnly: options.readOnly,
      defaultTuning: tuningOf(options),
      save: (changed, before) => {
        if (directory !== ':memory:') replaceManifest(new NodeEnv(), directory, changed, before);
      },
      askShards: (call) => this.#askAll(call),
    });
    this.settings = {
      directory,
      durability: options.durability,
      readOnly: options.readOnly,
      registry: this.#catalog.registry.sab,
      engineModules: options.engineModules,
      transactions: transactionDefaults(options),
      transactionBoard: new SharedArrayBuffer(transactionBoardBytes(MAX_CLIENTS)),
    };
    this.#background = new BackgroundPool(options.backgroundThreads);
    this.#rate = createRateLimit(options.backgroundBytesPerSecond);
    this.#feedRings = directory === ':memory:' ? Array.from({ length: manifest.shards }, () => createFrameRing()) : [];
    const isPrepared = directory === ':memory:' && !options.readOnly && manifest.shards > 1;
    this.#prepareJournals = Array.from({ length: isPrepared ? manifest.shards : 0 }, () =>
      createPrepareJournal(Math.min(options.transactionBytesMax, MEMORY_TRANSACTION_BYTES_MAX), PREPARED_MAX),
    );
    const { memoryBytes } = options;
    if (directory !== ':memory:') {
      const budgetBytes = pageCacheBytes(this.#catalog.definitions(), manifest.shards);
      this.#pageCache = createPageCache({ bytes: Math.max(budgetBytes, options.blockCacheBytes) });
    }
    const storeId = Buffer.from(manifest.storeId, 'hex');
    this.#arenas = Array.from({ length: manifest.shards }, (_, shard) => {
      const arena = createArena({ memoryBytes });
      if (this.#pageCache === undefined) return arena;
      return { ...arena, cold: coldLayout(shardDirectory(directory, shard), storeId, shard, this.#pageCache) };
    });
    if (!options.readOnly) {
      this.#coordinator = new CoordinatorSupervisor({
        control: this.control,
        directory: directory === ':memory:' ? undefined : join(directory, COORDINATOR_DIRECTORY),
        storeId,
        recoveryMode: options.recoveryMode,
        shards: () => this.#shards.map(({ remote }) => remote),
        onRestart: (error) => this.emit('coordinator-restarted', { error }),
        onFailure: (error) => {
          if (!this.#closing) this.emit('coordinator-failed', { error });
        },
      });
    }
  }

  get manifest(): Manifest {
    return this.#catalog.manifest;
  }

  /**
   * Opens or creates the store at `path`; ':memory:' keeps nothing on disk.
   * @throws ERR_NOT_FOUND, ERR_EXISTS, ERR_LOCKED, ERR_OPTION_CONFLICT, ERR_CORRUPT, ERR_FORMAT_VERSION, ERR_MEMORY_FULL, ERR_IO, ERR_PERMISSION,
   *   ERR_DISK_FULL
   */
  static async open(path: string, options: ResolvedOptions): Promise<PoolHost> {
    if (path === ':memory:') {
      const host = new PoolHost(path, manifestOf(options), options, undefined);
      await host.#start(true);
      return host;
    }
    const directory = resolve(path);
    const env = new NodeEnv();
    const before = inspectDirectory(env, directory);
    const creates = before !== 'store' && before !== 'foreign';
    if (before === 'store' && options.errorIfExists) {
      throw new ConcordError('ERR_EXISTS', `${directory} holds a store already`, { directory });
    }
    if (before === 'foreign') {
      throw new ConcordError(
        'ERR_CORRUPT',
        `${directory} is not empty and has no MANIFEST: not a store, or a damaged one`,
        {
          directory,
        },
      );
    }
    if (creates && (!options.createIfMissing || options.readOnly)) {
      throw new ConcordError('ERR_NOT_FOUND', `there is no store at ${directory}`, { directory });
    }
    if (creates) {
      env.makeDirectory(directory);
      env.syncDirectory(dirname(directory));
    }
    const lock = options.readOnly ? undefined : await acquireDirectoryLock(directory);
    try {
      // Another opener may have finished a creation meanwhile.
      const now = inspectDirectory(env, directory);
      if (now === 'store') {
        if (options.errorIfExists)
          throw new ConcordError('ERR_EXISTS', `${directory} holds a store already`, { directory });
        const manifest = readManifest(env, directory);
        checkAgreement(manifest, options, directory);
        if (!options.readOnly) removeCreationMarker(env, directory);
        const host = new PoolHost(directory, manifest, options, lock);
        await host.#start(false);
        return host;
      }
      const manifest = manifestOf(options);
      beginCreation(env, directory, (tree) => {
        fs.rmSync(tree, { recursive: true, force: true });
      });
      const host = new PoolHost(directory, manifest, options, lock);
      await host.#start(true);
      try {
        finishCreation(env, directory, manifest);
      } catch (error) {
        await host.close().catch(() => undefined);
        throw error;
      }
      return host;
    } catch (error) {
      lock?.release();
      throw error;
    }
  }

  // ---- shards ---------------------------------------------------------------------------------------------------------------------------

  async #start(isNew: boolean): Promise<void> {
    if (this.#options.readOnly) {
      try {
        this.#decided = this.#readDecided();
      } catch (error) {
        await this.#background.close();
        throw error;
      }
    }
    const starting = this.#arenas.map(async (_, index) => {
      const handle = this.#launch(index, false, isNew);
      this.#shards[index] = handle.handle;
      return handle.ready;
    });
    if (this.#coordinator !== undefined) starting.push(this.#coordinator.launch());
    const outcomes = await Promise.allSettled(starting);
    const failure = outcomes.find((outcome) => outcome.status === 'rejected');
    if (failure !== undefined) {
      this.#closing = true;
      await this.#terminateShards();
      await Promise.all(this.#shards.map((handle) => this.#cancelJobs(handle)));
      await this.#background.close();
      throw failure.reason;
    }
    let highest = this.#coordinator?.highestId ?? 0;
    for (const { index, recovery } of this.#shards) {
      highest = Math.max(highest, this.control.published(index));
      for (const id of recovery?.prepared ?? []) highest = Math.max(highest, id);
    }
    this.control.nextSequence = highest + 1;
    // What was decided in an earlier life is carried out; of what is prepared besides, shards ask, and hear that it is given up.
    await this.#coordinator?.begin();
    // What a lenient mode passed over must not be met again: the log before it is replaced by a checkpoint.
    const passedOver = this.#shards.some(({ recovery }) => {
      const wal = recovery?.wal;
      return wal !== undefined && (wal.losses.length > 0 || wal.cut !== undefined);
    });
    const { recoveryMode } = this.#options;
    if (passedOver && (recoveryMode === 'point-in-time' || recoveryMode === 'salvage')) await this.checkpointAll();
  }

  /** @throws ERR_CORRUPT, ERR_FORMAT_VERSION, ERR_IO, ERR_PERMISSION */
  #readDecided(): ReadonlySet<number> {
    const { storeId, shards } = this.manifest;
    const decisions = readDecisions({
      env: new NodeEnv(),
      directory: this.directory === ':memory:' ? undefined : join(this.directory, COORDINATOR_DIRECTORY),
      storeId: Buffer.from(storeId, 'hex'),
      shards,
      recoveryMode: this.#options.recoveryMode,
    });
    return new Set(decisions?.decided.keys());
  }

  /** Starts the thread of a shard. `ready` settles when it has recovered. */
  #launch(index: number, adopt: boolean, isNew: boolean): { handle: ShardHandle; ready: Promise<void> } {
    const options = this.#options;
    const directory = this.directory === ':memory:' ? undefined : shardDirectory(this.directory, index);
    const { port1, port2 } = new MessageChannel();
    const workerData: ShardWorkerData = {
      shard: index,
      directory,
      storeId: Buffer.from(this.manifest.storeId, 'hex'),
      control: this.control.sab,
      arena: this.#arenas[index]!,
      port: port2,
      adopt,
      isNew,
      readOnly: options.readOnly,
      spaces: this.#catalog.definitions(),
      engineModules: options.engineModules,
      segmentBytes: options.segmentBytes,
      recoveryMode: options.recoveryMode,
      backgroundThreads: options.backgroundThreads,
      rate: this.#rate,
      feedRing: this.#feedRings[index],
      prepareJournal: this.#prepareJournals[index],
      decided: this.#decided,
      transactions: {
        deadlock: options.deadlock,
        bodyBytesMax: options.transactionBytesMax,
        lockTimeoutMs: options.transactions.lockTimeoutMs,
      },
      settings: settingsOf(options),
    };
    const entry = options.engineModules.length === 0 ? '../shard/shard-thread.js' : '../shard/shard-worker.js';
    const worker = new Worker(new URL(entry, import.meta.url), {
      workerData,
      transferList: [port2],
      name: `concordkv-shard-${index}`,
      stdin: false,
    });
    const known = this.#shards[index];
    const remote = remoteControl<ShardControl>(port1);
    const handle: ShardHandle = known ?? {
      index,
      directory,
      worker,
      remote,
      recovery: undefined,
      restarts: [],
      checkpoint: undefined,
      jobs: new Map(),
      ended: Promise.resolve(),
      lastError: undefined,
      restarting: Promise.resolve(),
      isTakingOver: false,
      isStopping: false,
    };
    if (known !== undefined) {
      known.worker = worker;
      known.remote = remote;
    }
    let isReady = false;
    handle.ended = new Promise((resolve) => {
      // The port closes by itself, behind the thread's last answer; closing it here could drop that.
      worker.once('exit', () => {
        resolve();
      });
    });
    const ready = new Promise<void>((resolve, reject) => {
      worker.on('message', (event: ShardEvent) => {
        if (event.event === 'ready') {
          isReady = true;
          handle.recovery = event.recovery;
          if (!this.#closing) worker.unref();
          resolve();
        } else if (event.event === 'open-failed') {
          reject(ConcordError.fromRecord(event.error));
        } else if (event.event === 'died') {
          handle.lastError = ConcordError.fromRecord(event.error);
        } else if (event.event === 'checkpoint-wanted') {
          void this.#checkpointShard(handle).catch((error: unknown) => this.#checkpointFailed(handle, error));
        } else if (event.event === 'lsm-job') {
          this.#startJob(handle, remote, event.job, event.task, event.priority);
        } else if (event.event === 'backpressure') {
          const space = this.#catalog.registry.withId(event.spaceId)?.name;
          if (space !== undefined) this.emit('backpressure', { shard: index, space, ...event.flow });
        } else {
          void this.#provideSpare(handle);
        }
      });
      worker.on('error', (error: Error) => {
        handle.lastError = new ConcordError(
          'ERR_INTERNAL',
          `shard ${index}: ${error.message}`,
          { shard: index },
          { cause: error },
        );
        reject(handle.lastError);
      });
      worker.once('exit', () => {
        if (!isReady)
          reject(new ConcordError('ERR_INTERNAL', `shard ${index} ended before it was ready`, { shard: index }));
        else if (!handle.isStopping) this.#restart(handle);
      });
    });
    return { handle, ready };
  }

  /** A shard thread died: another one takes over. One after another, however fast they die. */
  #restart(handle: ShardHandle): void {
    this.control.setShardState(handle.index, ShardState.Restarting);
    handle.restarting = handle.restarting.then(() => this.#takeOver(handle));
  }

  async #takeOver(handle: ShardHandle): Promise<void> {
    const { index } = handle;
    handle.isTakingOver = true;
    const error =
      handle.lastError ?? new ConcordError('ERR_INTERNAL', `shard ${index} ended unexpectedly`, { shard: index });
    handle.lastError = undefined;
    if (handle.checkpoint !== undefined) {
      // The dead writer's pin is gone with it: the job must not read on while the successor reuses pages.
      Atomics.store(handle.checkpoint.cancel, 0, 1);
      await handle.checkpoint.done.catch(() => undefined);
    }
    // They read memtables, and write files nobody would ask for.
    await this.#cancelJobs(handle);
    if (this.#pageCache !== undefined) PageCache.recover(this.#pageCache, toOwnerId(cacheOwnerOfShard(index)));
    const now = Date.now();
    handle.restarts = [...handle.restarts.filter((at) => now - at < RESTART_WINDOW_MS), now];
    // Where a log has failed nobody knows what of its end is on the disk: memory that goes on without it, and a log that is replayed later, would part.
    const isLogSound = this.control.shardState(index) !== ShardState.ReadOnly;
    while (isLogSound && handle.restarts.length < DEATHS_MAX && !handle.isStopping) {
      this.control.setShardState(index, ShardState.Restarting);
      this.control.countRestart(index);
      try {
        await this.#launch(index, true, false).ready;
      } catch (cause) {
        handle.lastError = cause instanceof ConcordError ? cause : new ConcordError('ERR_INTERNAL', String(cause));
        handle.restarts.push(Date.now());
        await handle.ended;
        continue;
      }
      await this.#coordinator?.connect(index, handle.remote);
      await this.#coordinator?.roundOver();
      handle.isTakingOver = false;
      for (const client of this.#clients.values()) await this.#attachTo(handle, client);
      this.emit('shard-restarted', { shard: index, error });
      tellShard({ event: 'restarted', shard: index, error });
      return;
    }
    this.control.setShardState(index, ShardState.Failed);
    this.control.endGroup(index, undefined);
    for (const client of this.#clients.keys()) this.control.clientDoorbell(client).unpark();
    if (this.#closing) return;
    this.emit('shard-failed', { shard: index, error: handle.lastError ?? error });
    tellShard({ event: 'failed', shard: index, error: handle.lastError ?? error });
  }

  async #terminateShards(): Promise<void> {
    for (const handle of this.#shards) handle.isStopping = true;
    await this.#coordinator?.terminate();
    await Promise.all(
      this.#shards.map(async (handle) => {
        handle.worker.ref();
        await handle.worker.terminate();
        await handle.restarting;
        // A restart that was under way may have started another one.
        await handle.worker.terminate();
      }),
    );
  }

  /** Asks a shard that is up. @throws ERR_SHARD_FAILED; ERR_SHARD_RESTARTED when it died before it answered */
  async #ask<T>(handle: ShardHandle, call: (remote: RemoteControl<ShardControl>) => Promise<T>): Promise<T> {
    await handle.restarting;
    this.#assertUp(handle);
    try {
      return await call(handle.remote);
    } catch (error) {
      throw this.#lossOf(handle, error);
    }
  }

  /** Asks every shard, those that die meanwhile once more. @throws as #ask, when all have answered */
  async #askAll<T>(call: (remote: RemoteControl<ShardControl>, shard: number) => Promise<T>): Promise<T[]> {
    const outcomes = await Promise.allSettled(
      this.#shards.map(async (handle) => {
        for (;;) {
          try {
            return await this.#ask(handle, (remote) => call(remote, handle.index));
          } catch (error) {
            if (!(error instanceof ConcordError) || error.code !== 'ERR_SHARD_RESTARTED') throw error;
            await new Promise((resolve) => setTimeout(resolve, RESTART_POLL_MS));
          }
        }
      }),
    );
    return outcomes.map((outcome) => {
      if (outcome.status === 'rejected') throw outcome.reason;
      return outcome.value;
    });
  }

  #assertUp({ index }: ShardHandle): void {
    if (this.control.shardState(index) !== ShardState.Failed) return;
    throw new ConcordError('ERR_SHARD_FAILED', `shard ${index} failed repeatedly and stays down`, { shard: index });
  }

  /** A control channel that closed means that the shard died, unless the pool is being closed. */
  #lossOf({ index }: ShardHandle, error: unknown): unknown {
    if (this.#closing || !(error instanceof ConcordError) || error.code !== 'ERR_CLOSED') return error;
    return new ConcordError('ERR_SHARD_RESTARTED', `shard ${index} died meanwhile`, { shard: index }, { cause: error });
  }

  async #provideSpare(handle: ShardHandle): Promise<void> {
    if (handle.directory === undefined || this.#closing) return;
    try {
      const task = { directory: handle.directory, segmentBytes: this.#options.segmentBytes };
      const path = await this.#background.run('preallocate', task);
      if (!(await handle.remote.offerSpare(path))) fs.rmSync(path, { force: true });
    } catch {
      // Without a spare the log extends its next segment as it goes: slower, not wrong.
      await handle.remote.offerSpare('').catch(() => false);
    }
  }

  // ---- flushes and compactions ----------------------------------------------------------------------------------------------------------

  /** Hands a task to the background pool and its outcome back to the thread that ordered it. */
  #startJob(
    handle: ShardHandle,
    remote: RemoteControl<ShardControl>,
    job: number,
    task: LsmTask,
    priority: number,
  ): void {
    // Ordered by a thread that has died meanwhile.
    if (remote !== handle.remote) return;
    const done = this.#runJob(handle, task, priority)
      .then((outcome) => remote.endJob(job, outcome))
      // A thread that died gets no answer: what the job wrote is removed by the next one that opens the tree.
      .catch(() => undefined)
      .finally(() => {
        handle.jobs.delete(task.cancel);
      });
    handle.jobs.set(task.cancel, done);
  }

  async #runJob({ index: shard }: ShardHandle, task: LsmTask, priority: number): Promise<LsmOutcome> {
    const { kind, directory } = task;
    const startedMs = performance.now();
    tellLsmJob({ event: 'begin', kind, shard, directory });
    try {
      const value =
        kind === 'flush'
          ? await this.#background.run('lsmFlush', { ...task, arena: this.#arenas[shard]! }, priority)
          : await this.#background.run('lsmCompact', task, priority);
      const { readBytes, writtenBytes, entriesIn, entriesOut } = value;
      const figures = { readBytes, writtenBytes, entriesIn, entriesOut };
      tellLsmJob({ event: 'end', kind, shard, directory, durationMs: performance.now() - startedMs, ...figures });
      return { value };
    } catch (error) {
      tellLsmJob({ event: 'end', kind, shard, directory, durationMs: performance.now() - startedMs, error });
      return { error: toErrorRecord(error) };
    }
  }

  /** Resolves when none of them runs any more. */
  async #cancelJobs({ jobs }: ShardHandle): Promise<void> {
    for (const cancel of jobs.keys()) {
      Atomics.store(cancel, 0, 1);
      Atomics.notify(cancel, 0);
    }
    await Promise.all(jobs.values());
  }

  // ---- checkpoints ----------------------------------------------------------------------------------------------------------------------

  /** One checkpoint of one shard; joins one that runs already. */
  async #checkpointShard(handle: ShardHandle): Promise<void> {
    if (handle.directory === undefined || this.#options.readOnly) return;
    await handle.restarting;
    this.#assertUp(handle);
    if (handle.checkpoint === undefined) this.#beginJob(handle, (cancel) => this.#runCheckpoint(handle, cancel));
    await handle.checkpoint!.done;
  }

  /** Registers a job that reads a pinned state of the shard: one at a time, cancelled when the shard dies. */
  #beginJob(handle: ShardHandle, run: (cancel: Int32Array) => Promise<void>): void {
    const cancel = new Int32Array(new SharedArrayBuffer(4));
    const done = run(cancel)
      .catch((error: unknown) => {
        const isCancelled = Atomics.load(cancel, 0) !== 0;
        throw this.#lossOf(handle, isCancelled ? new ConcordError('ERR_CLOSED', 'cancelled') : error);
      })
      .finally(() => {
        handle.checkpoint = undefined;
      });
    handle.checkpoint = { done, cancel };
  }

  /** Writes one, and tells how long it took. */
  async #runCheckpoint(handle: ShardHandle, cancel: Int32Array): Promise<void> {
    const { index: shard, directory = '' } = handle;
    const startedMs = performance.now();
    try {
      await this.#writeCheckpoint(handle, cancel);
    } catch (error) {
      tellCheckpoint({ shard, directory, durationMs: performance.now() - startedMs, error });
      throw error;
    }
    const durationMs = performance.now() - startedMs;
    record(this.control.board.shardHistograms(shard), ShardHistogram.Checkpoint * HISTOGRAM_LENGTH, durationMs * 1e6);
    tellCheckpoint({ shard, directory, durationMs });
  }

  async #writeCheckpoint(handle: ShardHandle, cancel: Int32Array): Promise<void> {
    const { remote } = handle;
    const plan = await remote.beginCheckpoint();
    let durable = false;
    let isFull = false;
    try {
      await this.#background.run('checkpoint', {
        directory: handle.directory!,
        header: this.#headerOf(handle, plan),
        arena: this.#arenas[handle.index]!,
        metaUnit: plan.metaUnit,
        entrySpaces: plan.entrySpaces,
        pagedRoots: plan.pagedRoots,
        lsmRoots: plan.lsmRoots,
        engineModules: this.#options.engineModules,
        cancel,
      });
      durable = true;
    } catch (error) {
      isFull = isDiskFull(error);
      throw error;
    } finally {
      this.#clearJobSlot(handle);
      await remote.endCheckpoint(durable, isFull);
    }
  }

  /** A job whose thread died may have left a pin, or hold the latch for reading: the shard would wait for it before it can answer. */
  #clearJobSlot({ index }: ShardHandle): void {
    ArenaReader.clearSlot(this.#arenas[index]!, JOB_READER_SLOT);
  }

  #headerOf(handle: ShardHandle, plan: CheckpointPlan): CheckpointHeader {
    return {
      storeId: Buffer.from(this.manifest.storeId, 'hex'),
      shard: handle.index,
      lsn: plan.lsn,
      replayFromLsn: plan.replayFromLsn,
      publishedSeq: plan.publishedSeq,
      createdAt: Date.now(),
    };
  }

  #checkpointFailed(handle: ShardHandle, error: unknown): void {
    if (this.#closing) return;
    const coded = error instanceof ConcordError ? error : new ConcordError('ERR_INTERNAL', String(error));
    this.emit('checkpoint-failed', { shard: handle.index, error: coded });
  }

  /** Checkpoints every shard now and truncates the logs. */
  async checkpointAll(): Promise<void> {
    await Promise.all(
      this.#shards.map(async (handle) => {
        // One that runs already began before what is to be in this one.
        await handle.checkpoint?.done.catch(() => undefined);
        await this.#checkpointShard(handle);
      }),
    );
  }

  /**
   * Writes a consistent copy of the whole store, as of one snapshot, to a new directory that can be opened.
   * @throws ERR_EXISTS, ERR_IO, ERR_DISK_FULL, ERR_PERMISSION
   */
  async checkpoint(target: string): Promise<void> {
    const directory = resolve(target);
    const env = new NodeEnv();
    if (inspectDirectory(env, directory) === 'store' || inspectDirectory(env, directory) === 'foreign') {
      throw new ConcordError('ERR_EXISTS', `${directory} is not empty`, { directory });
    }
    env.makeDirectory(directory);
    beginCreation(env, directory, (tree) => {
      fs.rmSync(tree, { recursive: true, force: true });
    });
    const manifest = {
      ...this.manifest,
      storeId: randomBytes(16).toString('hex'),
      createdAt: new Date().toISOString(),
    };
    const snapshot = await this.control.openSnapshot(0);
    try {
      const outcomes = await Promise.allSettled(
        this.#shards.map((handle) => this.#exportShard(handle, directory, manifest, snapshot.sequence)),
      );
      // When all have ended: nobody writes to the directory any more.
      for (const outcome of outcomes) if (outcome.status === 'rejected') throw outcome.reason;
    } finally {
      this.control.closeSnapshot(snapshot.slot, 0);
    }
    // A space that was dropped meanwhile is in the parts of some shards only.
    const isThere = new Set(this.manifest.spaces.map(({ id }) => id));
    finishCreation(env, directory, { ...manifest, spaces: manifest.spaces.filter(({ id }) => isThere.has(id)) });
  }

  async #exportShard(handle: ShardHandle, directory: string, manifest: Manifest, snapshotSeq: number): Promise<void> {
    // Pinning goes through the checkpoint door, of which there is one.
    await handle.restarting;
    while (handle.checkpoint !== undefined) await handle.checkpoint.done.catch(() => undefined);
    this.#assertUp(handle);
    const definitions = definitionsOf(manifest);
    const run = async (cancel: Int32Array): Promise<void> => {
      const plan = await handle.remote.beginCheckpoint();
      try {
        const target = shardDirectory(directory, handle.index);
        new NodeEnv().makeDirectory(target);
        await this.#background.run('exportSnapshot', {
          directory: target,
          header: {
            storeId: Buffer.from(manifest.storeId, 'hex'),
            shard: handle.index,
            lsn: 0,
            replayFromLsn: 1,
            publishedSeq: snapshotSeq,
            createdAt: Date.now(),
          },
          arena: this.#arenas[handle.index]!,
          metaUnit: plan.metaUnit,
          // The id of one that came later will be given to another space in the copy.
          entrySpaces: [...plan.entrySpaces, ...plan.lsmSpaces].filter((id) =>
            definitions.some((definition) => definition.id === id),
          ),
          pagedRoots: [],
          lsmRoots: [],
          engineModules: this.#options.engineModules,
          cancel,
          snapshotSeq,
          spaces: definitions,
          memoryBytes: this.#options.memoryBytes,
          segmentBytes: this.#options.segmentBytes,
        });
      } finally {
        this.#clearJobSlot(handle);
        await handle.remote.endCheckpoint(false, false);
      }
    };
    this.#beginJob(handle, run);
    await handle.checkpoint!.done;
  }

  // ---- spaces -----------------------------------------------------------------------------------------------------------------------------

  openSpace(name: string, spec: SpaceSpec): Promise<SpaceRecord> {
    this.#collectCounts();
    return this.#catalog.open(name, spec);
  }

  dropSpace(id: number): Promise<boolean> {
    return this.#catalog.drop(id).finally(() => {
      this.#collectCounts();
    });
  }

  /** What was counted of spaces that are gone is kept together. */
  #collectCounts(): void {
    this.control.board.collect((spaceId) => this.#catalog.registry.withId(spaceId) !== undefined);
  }

  switchEngine(id: number, engine: string, tuning: EngineTuning): Promise<void> {
    return this.#toldOfSwitch(id, engine, () => this.#catalog.switchEngine(id, engine, tuning));
  }

  async #toldOfSwitch(id: number, engine: string, run: () => Promise<void>): Promise<void> {
    const space = this.#catalog.registry.withId(id)?.name ?? '';
    const startedMs = performance.now();
    tellSwitch({ event: 'begin', space, engine });
    try {
      await run();
    } catch (error) {
      tellSwitch({ event: 'failed', space, engine, durationMs: performance.now() - startedMs, error });
      throw error;
    }
    tellSwitch({ event: 'done', space, engine, durationMs: performance.now() - startedMs });
  }

  cancelSwitch(id: number): Promise<void> {
    return this.#catalog.cancelSwitch(id);
  }

  switchProgress(id: number): Promise<SwitchProgress | undefined> {
    return this.#catalog.progress(id);
  }

  /** Changes options while the store is open. Resolves with the names of those that are different now. @throws ERR_INVALID_ARG, ERR_CLOSED */
  async configure(change: LiveOptions): Promise<readonly string[]> {
    const { options, changed } = changeOptions(this.#options, change);
    this.#options = options;
    this.control.defaultDurability = durabilityLevel(options.durability);
    setRateLimit(this.#rate, options.backgroundBytesPerSecond);
    const settings = settingsOf(options);
    // A shard that is down is told when it comes back.
    await Promise.all(this.#shards.map((handle) => handle.remote.configure(settings).catch(() => undefined)));
    return changed;
  }

  /** Removes what no snapshot needs, packs pages, merges tables. Resolves with the versions removed from memory. */
  async compact(request: CompactRequest): Promise<number> {
    const removed = await Promise.all(
      this.#shards.map((handle) => this.#ask(handle, (remote) => remote.compact(request))),
    );
    return removed.reduce((sum, count) => sum + count, 0);
  }

  /** Harmless when it has ended. */
  async cancelCompact(id: string): Promise<void> {
    await Promise.all(this.#shards.map((handle) => handle.remote.cancelCompact(id).catch(() => undefined)));
  }

  /** Problems found by walking every shard's memory. */
  async check(): Promise<string[]> {
    const problems = await Promise.all(this.#shards.map((handle) => this.#ask(handle, (remote) => remote.check())));
    return problems.flatMap((found, shard) => found.map((problem) => `shard ${shard}: ${problem}`));
  }

  get recovery(): (RecoveryReport | undefined)[] {
    return this.#shards.map((handle) => handle.recovery);
  }

  // ---- clients --------------------------------------------------------------------------------------------------------------------------

  /** Of pages read from files by all threads; undefined for a store without files. */
  pageCacheStats(): PageCacheStats | undefined {
    return this.#pageCache === undefined ? undefined : new PageCache(this.#pageCache, toOwnerId(1)).stats();
  }

  /** A slot, rings and memory for one more thread. @throws ERR_CLIENT_LIMIT, ERR_CLOSED */
  async attachClient(): Promise<ClientSetup> {
    if (this.#closing) throw new ConcordError('ERR_CLOSED', 'the store is closed');
    let client = 0;
    while (this.#clients.has(client) || this.#leaving.has(client)) client++;
    if (client >= MAX_CLIENTS) {
      throw new ConcordError('ERR_CLIENT_LIMIT', `${MAX_CLIENTS} threads are attached`, { limit: MAX_CLIENTS });
    }
    const rings = this.#arenas.map(() => ({
      requests: createRing(REQUEST_RING_BYTES),
      responses: createRing(RESPONSE_RING_BYTES),
    }));
    const attached = { client, rings };
    this.#clients.set(client, attached);
    this.control.addClients(1);
    try {
      const [coordinator] = await Promise.all([
        this.#coordinator?.attachClient(client),
        ...this.#shards.map((handle) => this.#attachTo(handle, attached)),
      ]);
      return {
        client,
        control: this.control.sab,
        arenas: this.#arenas,
        rings,
        coordinator,
        feedRings: this.#feedRings,
      };
    } catch (error) {
      await this.detachClient(client);
      throw error;
    }
  }

  async #attachTo(handle: ShardHandle, { client, rings }: AttachedClient): Promise<void> {
    if (handle.isTakingOver) return;
    const { requests, responses } = rings[handle.index]!;
    await handle.remote.attachClient(client, requests, responses).catch((error: unknown) => {
      // A shard that is down now is given all clients when it comes back, as one that takes over is.
      if (!(error instanceof ConcordError) || error.code !== 'ERR_CLOSED') throw error;
    });
  }

  /** The thread is gone, or done: its slots come back when the shards have served what it had published. */
  async detachClient(client: number): Promise<void> {
    if (!this.#clients.delete(client)) return;
    this.#leaving.add(client);
    this.control.addClients(-1);
    for (const arena of this.#arenas) ArenaReader.clearSlot(arena, client);
    if (this.#pageCache !== undefined) PageCache.recover(this.#pageCache, toOwnerId(cacheOwnerOfSlot(client)));
    this.control.closeSnapshotsOf(client);
    try {
      // First: what it had asked to be decided is decided before shards forget what it has prepared.
      const isSettled = (await this.#coordinator?.detachClient(client)) ?? true;
      await Promise.all(
        this.#shards.map((handle) => handle.remote.detachClient(client, isSettled).catch(() => undefined)),
      );
    } finally {
      this.control.board.leave(client);
      unlistAll(this.settings.transactionBoard, client);
      this.#leaving.delete(client);
    }
  }

  /** Serves attach requests on a handle's port until the other end closes, which a thread's end does by itself. */
  serve(port: MessagePort): void {
    const gate = new ClientGate(this);
    this.#ports.add(port);
    exposeControl(gate, port);
    port.unref();
    port.once('close', () => {
      this.#ports.delete(port);
      void gate.gone();
    });
  }

  /** A port for another thread: see serve(). */
  createPort(): MessagePort {
    const { port1, port2 } = new MessageChannel();
    this.serve(port1);
    return port2;
  }

  // ---- end ------------------------------------------------------------------------------------------------------------------------------

  /**
   * Serves what is in the rings, writes checkpoints of long logs, syncs, ends every thread and gives the directory back.
   * The first failure is thrown after everything has been ended.
   */
  async close(): Promise<void> {
    if (this.#closing) return;
    this.#closing = true;
    this.control.poolState = PoolState.Closing;
    const failures: unknown[] = [];
    // Its last decisions want to be applied.
    await this.#coordinator?.drain().catch((error: unknown) => failures.push(error));
    const wereRunning = this.#shards.every(({ index }) => this.control.shardState(index) === ShardState.Running);
    const closing = this.#shards.map(async (handle) => {
      // Closing keeps the process alive until the thread has ended.
      handle.worker.ref();
      try {
        await handle.restarting;
        await handle.checkpoint?.done.catch(() => undefined);
        const state = this.control.shardState(handle.index);
        if (state === ShardState.Running) {
          const counters = this.control.shardCounters(handle.index);
          if (counters[ShardCounter.LogBytes]! > CLOSE_CHECKPOINT_LOG_BYTES) {
            await this.#flushTrees(handle);
            await this.#checkpointShard(handle).catch(() => undefined);
          }
        }
        handle.isStopping = true;
        if (state !== ShardState.Failed) await handle.remote.close();
      } catch (error) {
        failures.push(error);
        await handle.worker.terminate();
      }
      await handle.ended;
      await this.#cancelJobs(handle);
      this.control.setShardState(handle.index, ShardState.Closed);
    });
    await Promise.all(closing);
    const isSafe = wereRunning && failures.length === 0;
    await this.#coordinator?.close(isSafe).catch((error: unknown) => failures.push(error));
    this.control.poolState = PoolState.Closed;
    for (let client = 0; client < MAX_CLIENTS; client++) this.control.clientDoorbell(client).unpark();
    for (const port of this.#ports) port.close();
    await this.#background.close();
    this.#lock?.release();
    if (failures.length > 0) throw failures[0];
  }

  /** So that the next opening has less log to read. A disk that is full or slow must not keep the store open: the log has everything. */
  async #flushTrees(handle: ShardHandle): Promise<void> {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, CLOSE_FLUSH_MS_MAX);
    });
    await Promise.race([handle.remote.flushTrees().catch(() => undefined), late]);
    clearTimeout(timer);
  }

  /** Ends everything at once, without closing: for tests of what a killed process leaves. */
  async crash(): Promise<void> {
    this.#closing = true;
    await this.#terminateShards();
    await Promise.all(this.#shards.map((handle) => this.#cancelJobs(handle)));
    this.control.poolState = PoolState.Closed;
    for (const port of this.#ports) port.close();
    await this.#background.close();
    this.#lock?.release();
  }

  /** Ends a shard's thread wherever it is, as a failure would: for tests. */
  async killShard(index: number): Promise<void> {
    await this.#shards[index]!.worker.terminate();
  }

  /** Transactions that hold or await locks, by shard: a shard that is being replaced tells of none. */
  lockHolders(locksMax: number): Promise<LockHolder[][]> {
    return Promise.all(this.#shards.map(({ remote }) => remote.lockHolders(locksMax).catch(() => [])));
  }

  /** Ends the coordinator's thread wherever it is, as a failure would: for tests. */
  async killCoordinator(): Promise<void> {
    await this.#coordinator?.kill();
  }

  /** What the coordinator counts, see CoordinatorCounter; undefined: there is none. */
  get coordinatorCounters(): Float64Array | undefined {
    return this.#coordinator?.counters;
  }

  /** Ends the threads of the background pool wherever they are: for tests. Resolves with their number. */
  killBackground(): Promise<number> {
    return this.#background.kill();
  }

  /** Log and checkpoint files of the store. */
  filesBytes(): number {
    if (this.directory === ':memory:') return 0;
    let bytes = 0;
    const directories = [
      join(this.directory, COORDINATOR_DIRECTORY),
      ...this.#shards.map(({ directory }) => directory),
    ];
    for (const directory of directories) {
      if (directory === undefined || !fs.existsSync(directory)) continue;
      for (const name of fs.readdirSync(directory)) {
        const stat = fs.statSync(join(directory, name), { throwIfNoEntry: false });
        bytes += (stat?.blocks ?? 0) * 512;
      }
    }
    return bytes;
  }
}

function settingsOf({ checkpointLogBytes, expiry, feed }: ResolvedOptions): ShardSettings {
  return { checkpointLogBytes, expiry, feed };
}

function manifestOf(options: ResolvedOptions): Manifest {
  const { valueEncoding } = options;
  return newManifest(
    {
      storeId: randomBytes(16).toString('hex'),
      shards: options.shardCount ?? defaultShardCount(),
      createdAt: new Date().toISOString(),
    },
    {
      engine: options.engine ?? 'btree',
      keyEncoding: options.keyEncoding ?? 'utf8',
      valueEncoding:
        valueEncoding === undefined ? 'utf8' : typeof valueEncoding === 'string' ? valueEncoding : valueEncoding.name,
    },
  );
}

/** Half of what B+Trees may take of pages that are in files; the other half is the shards' (Pager). Address space until such pages are read. */
function pageCacheBytes(spaces: readonly SpaceDefinition[], shards: number): number {
  const budgets = spaces.reduce((sum, { tuning }) => sum + (tuning.budgetBytes ?? 0), 0);
  return Math.min(PAGE_CACHE_BYTES_MAX, (shards * budgets) / 2);
}

/** What the default space's engine is told: not remembered, but what an empty tree begins with. */
function tuningOf({ order, pageBytes, memtableBytes, budgetBytes, lsm }: ResolvedOptions): EngineTuning {
  return {
    ...(order === undefined ? {} : { order }),
    ...(pageBytes === undefined ? {} : { pageBytes: pageBytes }),
    ...(memtableBytes === undefined ? {} : { memtableBytes }),
    ...(budgetBytes === undefined ? {} : { budgetBytes }),
    ...(Object.keys(lsm).length === 0 ? {} : { lsm }),
  };
}

/** @throws ERR_OPTION_CONFLICT when an option given contradicts the directory. */
function checkAgreement(manifest: Manifest, options: ResolvedOptions, directory: string): void {
  const conflict = (name: string, stored: string | number, given: string | number): ConcordError =>
    new ConcordError('ERR_OPTION_CONFLICT', `${directory} was created with ${name} ${stored}, not ${given}`, {
      option: name,
      stored,
      given,
    });
  if (options.shardCount !== undefined && options.shardCount !== manifest.shards) {
    throw conflict('shards', manifest.shards, options.shardCount);
  }
  const space = defaultSpaceOf(manifest);
  if (options.engine !== undefined && options.engine !== space.engine)
    throw conflict('engine', space.engine, options.engine);
  if (options.keyEncoding !== undefined && options.keyEncoding !== space.keyEncoding) {
    throw conflict('keyEncoding', space.keyEncoding, options.keyEncoding);
  }
  const { valueEncoding } = options;
  const name = typeof valueEncoding === 'object' ? valueEncoding.name : valueEncoding;
  if (name !== undefined && name !== space.valueEncoding) throw conflict('valueEncoding', space.valueEncoding, name);
}
