/**
 * The host of a pool: the thread that opened it. It puts the store together and takes it apart, and answers what concerns all of it: spaces, options,
 * checkpoints, copies.
 *
 *   open   directory, lock ──▶ memory ──▶ shards and coordinator recover ──▶ what was decided is applied ──▶ MANIFEST of a new store
 *   close  clients are refused ──▶ decisions applied ──▶ checkpoints of long logs ──▶ shards, coordinator, background pool end ──▶ lock
 *
 * Each part has a file: the directory open-directory.ts, shared memory store-memory.ts, a shard's thread shard/supervisor.ts, the coordinator's
 * coordinator/supervisor.ts, spaces space-catalog.ts, attached threads client-slots.ts and client-gate.ts.
 * Must hold: nothing here is on the path of a read or a write. Nothing keeps the process alive but calls in flight.
 * Threads: the host's only.
 */
import { randomBytes } from 'node:crypto';
import { EventEmitter } from 'node:events';
import * as fs from 'node:fs';
import { join } from 'node:path';
import { MessageChannel, type MessagePort } from 'node:worker_threads';
import { ConcordError } from '../../shared/errors.js';
import type { DirectoryLock } from '../../shared/env/directory-lock.js';
import { NodeEnv } from '../../shared/env/node-env.js';
import type { PageCacheStats } from '../../shared/memory/page-cache.js';
import type { EngineTuning } from '../../engines/engine.js';
import { setRateLimit } from '../../engines/lsm/compaction/rate-limit.js';
import type { WriteFlow } from '../../engines/lsm/types.js';
import type { RecoveryReport } from '../../engines/store/recovery.js';
import type { SwitchProgress } from '../../engines/store/space.js';
import type { LockHolder } from '../../engines/txn/locks/description.js';
import { COORDINATOR_DIRECTORY, readDecisions } from '../../engines/txn/decision-log.js';
import { CoordinatorSupervisor } from '../coordinator/supervisor.js';
import { BackgroundPool } from '../jobs/background-pool.js';
import { ControlBlock, MAX_CLIENTS, PoolState, ShardCounter, ShardState } from '../control-block.js';
import { transactionBoardBytes } from '../transaction/board.js';
import { transactionDefaults } from '../transaction/options.js';
import { tellSwitch } from '../metrics/tracing.js';
import { exposeControl, type RemoteControl } from '../runtime/control-channel.js';
import type { CompactRequest } from '../shard/compactions.js';
import type { ShardControl, ShardSettings } from '../shard/shard-worker.js';
import { ShardSupervisor } from '../shard/supervisor.js';
import type { ClientSetup } from '../client/thread-client.js';
import { ClientGate, type ClientSettings } from './client-gate.js';
import { ClientSlots } from './client-slots.js';
import {
  definitionsOf,
  finishCreation,
  replaceManifest,
  shardDirectory,
  type Manifest,
  type SpaceRecord,
} from './manifest.js';
import { IN_MEMORY, beginCopy, openDirectory, type OpenedDirectory } from './open-directory.js';
import { changeOptions, durabilityLevel, type LiveOptions, type ResolvedOptions } from './options.js';
import { SpaceCatalog } from './space-catalog.js';
import type { SpaceSpec } from './space-options.js';
import { StoreMemory } from './store-memory.js';

/** A log longer than this is checkpointed when the store closes, so that it opens fast. */
const CLOSE_CHECKPOINT_LOG_BYTES = 4 << 20;
/** Memtables of trees go to files before that; so long, at most. */
const CLOSE_FLUSH_MS_MAX = 10_000;
/** Between two looks at a shard that died and whose successor is not up yet. */
const RESTART_POLL_MS = 5;

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

export class PoolHost extends EventEmitter<HostEvents> {
  readonly directory: string;
  readonly control: ControlBlock;
  readonly settings: ClientSettings;
  readonly #catalog: SpaceCatalog;
  #options: ResolvedOptions;
  readonly #lock: DirectoryLock | undefined;
  readonly #memory: StoreMemory;
  readonly #background: BackgroundPool;
  readonly #shards: readonly ShardSupervisor[];
  /** Of transactions over several shards; a store that is open to read only has none. */
  readonly #coordinator: CoordinatorSupervisor | undefined;
  readonly #clients: ClientSlots;
  readonly #ports = new Set<MessagePort>();
  /** Of a store that is open to read only: what its shards apply in memory. */
  #decided: ReadonlySet<number> | undefined;
  #closing = false;
  /** The directory is another's by now, or gone. */
  #lost: ConcordError | undefined;
  /** Resolves when the threads of a store that lost its directory have ended. */
  #losing: Promise<void> | undefined;

  private constructor({ directory, manifest, lock }: OpenedDirectory, options: ResolvedOptions) {
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
        if (this.#lost !== undefined) throw this.#lost;
        if (this.#isOnDisk) replaceManifest(new NodeEnv(), directory, changed, before);
      },
      askShards: (call) => this.#askAll(call),
    });
    const transactionBoard = new SharedArrayBuffer(transactionBoardBytes(options.transactions.maxConcurrent));
    this.settings = {
      directory,
      durability: options.durability,
      readOnly: options.readOnly,
      registry: this.#catalog.registry.sab,
      engineModules: options.engineModules,
      transactions: transactionDefaults(options),
      transactionBoard,
    };
    const onDisk = this.#isOnDisk ? directory : undefined;
    this.#memory = new StoreMemory(onDisk, manifest, this.#catalog.definitions(), options);
    this.#background = new BackgroundPool(options.backgroundThreads);
    this.#shards = this.#memory.arenas.map((_, shard) => this.#supervise(shard));
    if (!options.readOnly) {
      this.#coordinator = new CoordinatorSupervisor({
        control: this.control,
        directory: this.#decisionDirectory,
        storeId: storeIdOf(manifest),
        recoveryMode: options.recoveryMode,
        shards: () => this.#shards.map(({ remote }) => remote),
        onRestart: (error) => this.emit('coordinator-restarted', { error }),
        onFailure: (error) => {
          if (!this.#closing) this.emit('coordinator-failed', { error });
        },
      });
    }
    this.#clients = new ClientSlots(this.control, this.#memory, this.#shards, this.#coordinator, transactionBoard);
    lock?.watch((error) => {
      if (!this.#closing) this.#losing = this.#lose(error);
    });
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
    const opened = await openDirectory(path, options);
    try {
      const host = new PoolHost(opened, options);
      await host.#start(opened.isNew);
      if (opened.isNew && host.#isOnDisk) await host.#finishCreation();
      return host;
    } catch (error) {
      opened.lock?.release();
      throw error;
    }
  }

  async #finishCreation(): Promise<void> {
    try {
      finishCreation(new NodeEnv(), this.directory, this.manifest);
    } catch (error) {
      await this.close().catch(() => undefined);
      throw error;
    }
  }

  get #isOnDisk(): boolean {
    return this.directory !== IN_MEMORY;
  }

  get #decisionDirectory(): string | undefined {
    return this.#isOnDisk ? join(this.directory, COORDINATOR_DIRECTORY) : undefined;
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
    // What is decided would wait for such a shard for ever.
    const staysDown = new Promise<never>((_, reject) => {
      this.once('shard-failed', ({ error }) => {
        reject(error);
      });
    });
    try {
      await Promise.race([this.#startThreads(isNew), staysDown]);
    } catch (error) {
      this.#closing = true;
      await this.#terminateShards();
      await this.#background.close();
      throw this.#lost ?? endOfThread(error);
    }
  }

  async #startThreads(isNew: boolean): Promise<void> {
    const starting = this.#shards.map((shard) => shard.start(isNew));
    if (this.#coordinator !== undefined) starting.push(this.#coordinator.launch());
    const outcomes = await Promise.allSettled(starting);
    const failure = outcomes.find((outcome) => outcome.status === 'rejected');
    if (failure !== undefined) throw failure.reason;
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
    const decisions = readDecisions({
      env: new NodeEnv(),
      directory: this.#decisionDirectory,
      storeId: storeIdOf(this.manifest),
      shards: this.manifest.shards,
      recoveryMode: this.#options.recoveryMode,
    });
    return new Set(decisions?.decided.keys());
  }

  #supervise(shard: number): ShardSupervisor {
    const options = this.#options;
    const memory = this.#memory;
    return new ShardSupervisor({
      control: this.control,
      background: this.#background,
      constants: {
        shard,
        directory: this.#isOnDisk ? shardDirectory(this.directory, shard) : undefined,
        storeId: storeIdOf(this.manifest),
        arena: memory.arenas[shard]!,
        readOnly: options.readOnly,
        engineModules: options.engineModules,
        segmentBytes: options.segmentBytes,
        recoveryMode: options.recoveryMode,
        backgroundThreads: options.backgroundThreads,
        rate: memory.rate,
        feedRing: memory.feedRings[shard],
        prepareJournal: memory.prepareJournals[shard],
        transactions: {
          deadlock: options.deadlock,
          bodyBytesMax: options.transactionBytesMax,
          lockTimeoutMs: options.transactions.lockTimeoutMs,
        },
      },
      current: () => ({
        spaces: this.#catalog.definitions(),
        settings: settingsOf(this.#options),
        decided: this.#decided,
      }),
      isClosing: () => this.#closing,
      onRecovered: async () => {
        await this.#coordinator?.connect(shard, this.#shards[shard]!.remote);
        await this.#coordinator?.roundOver();
      },
      onTakenOver: () => this.#clients.attachAllTo(this.#shards[shard]!),
      onRestart: (error) => this.emit('shard-restarted', { shard, error }),
      onFailure: (error) => this.emit('shard-failed', { shard, error }),
      onCheckpointFailure: (error) => {
        if (this.#closing) return;
        const coded = error instanceof ConcordError ? error : new ConcordError('ERR_INTERNAL', String(error));
        this.emit('checkpoint-failed', { shard, error: coded });
      },
      onFlow: (spaceId, flow) => {
        const space = this.#catalog.registry.withId(spaceId)?.name;
        if (space !== undefined) this.emit('backpressure', { shard, space, ...flow });
      },
    });
  }

  /** Another process owns the directory by now, or nobody does: what this one wrote to it would be damage, or lost. */
  async #lose(error: ConcordError): Promise<void> {
    this.#lost = error;
    await Promise.all(this.#shards.map((shard) => shard.takeDown(error)));
    await this.#coordinator?.takeDown(error);
  }

  async #terminateShards(): Promise<void> {
    for (const shard of this.#shards) shard.stopRestarts();
    await this.#losing;
    await this.#coordinator?.terminate();
    await Promise.all(this.#shards.map((shard) => shard.terminate()));
    await Promise.all(this.#shards.map((shard) => shard.cancelJobs()));
  }

  /** Asks every shard, those that die meanwhile once more. @throws as ask(), when all have answered */
  async #askAll<T>(call: (remote: RemoteControl<ShardControl>, shard: number) => Promise<T>): Promise<T[]> {
    const outcomes = await Promise.allSettled(
      this.#shards.map(async (shard) => {
        for (;;) {
          try {
            return await shard.ask((remote) => call(remote, shard.index));
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

  // ---- checkpoints ----------------------------------------------------------------------------------------------------------------------

  /** Checkpoints every shard now and truncates the logs. */
  async checkpointAll(): Promise<void> {
    await Promise.all(
      this.#shards.map(async ({ checkpoints }) => {
        // One that runs already began before what is to be in this one.
        await checkpoints.ended();
        await checkpoints.write();
      }),
    );
  }

  /**
   * Writes a consistent copy of the whole store, as of one snapshot, to a new directory that can be opened.
   * @throws ERR_EXISTS, ERR_IO, ERR_DISK_FULL, ERR_PERMISSION
   */
  async checkpoint(target: string): Promise<void> {
    const directory = beginCopy(target);
    const manifest = {
      ...this.manifest,
      storeId: randomBytes(16).toString('hex'),
      createdAt: new Date().toISOString(),
    };
    const snapshot = await this.control.openSnapshot(0);
    try {
      const outcomes = await Promise.allSettled(
        this.#shards.map(({ index, checkpoints }) =>
          checkpoints.copyTo({
            directory: shardDirectory(directory, index),
            storeId: storeIdOf(manifest),
            spaces: definitionsOf(manifest),
            snapshotSeq: snapshot.sequence,
            memoryBytes: this.#options.memoryBytes,
          }),
        ),
      );
      // When all have ended: nobody writes to the directory any more.
      for (const outcome of outcomes) if (outcome.status === 'rejected') throw outcome.reason;
    } finally {
      this.control.closeSnapshot(snapshot.slot, 0);
    }
    // A space that was dropped meanwhile is in the parts of some shards only.
    const isThere = new Set(this.manifest.spaces.map(({ id }) => id));
    finishCreation(new NodeEnv(), directory, {
      ...manifest,
      spaces: manifest.spaces.filter(({ id }) => isThere.has(id)),
    });
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
    setRateLimit(this.#memory.rate, options.backgroundBytesPerSecond);
    const settings = settingsOf(options);
    // A shard that is down is told when it comes back.
    await Promise.all(this.#shards.map(({ remote }) => remote.configure(settings).catch(() => undefined)));
    return changed;
  }

  /** Removes what no snapshot needs, packs pages, merges tables. Resolves with the versions removed from memory. */
  async compact(request: CompactRequest): Promise<number> {
    const removed = await Promise.all(this.#shards.map((shard) => shard.ask((remote) => remote.compact(request))));
    return removed.reduce((sum, count) => sum + count, 0);
  }

  /** Harmless when it has ended. */
  async cancelCompact(id: string): Promise<void> {
    await Promise.all(this.#shards.map(({ remote }) => remote.cancelCompact(id).catch(() => undefined)));
  }

  /** Problems found by walking every shard's memory. */
  async check(): Promise<string[]> {
    const problems = await Promise.all(this.#shards.map((shard) => shard.ask((remote) => remote.check())));
    return problems.flatMap((found, shard) => found.map((problem) => `shard ${shard}: ${problem}`));
  }

  get recovery(): (RecoveryReport | undefined)[] {
    return this.#shards.map(({ recovery }) => recovery);
  }

  // ---- clients --------------------------------------------------------------------------------------------------------------------------

  /** Of pages read from files by all threads; undefined for a store without files. */
  pageCacheStats(): PageCacheStats | undefined {
    return this.#memory.pageCacheStats();
  }

  /** A slot, rings and memory for one more thread. @throws ERR_CLIENT_LIMIT, ERR_CLOSED */
  async attachClient(): Promise<ClientSetup> {
    if (this.#closing) throw new ConcordError('ERR_CLOSED', 'the store is closed');
    return this.#clients.attach();
  }

  /** The thread is gone, or done. */
  detachClient(client: number): Promise<void> {
    return this.#clients.detach(client);
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
    await this.#losing;
    const failures: unknown[] = [];
    // Its last decisions want to be applied.
    await this.#coordinator?.drain().catch((error: unknown) => failures.push(error));
    const wereRunning = this.#shards.every(({ index }) => this.control.shardState(index) === ShardState.Running);
    const closing = this.#shards.map((shard) =>
      this.#closeShard(shard).catch((error: unknown) => failures.push(error)),
    );
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

  async #closeShard(shard: ShardSupervisor): Promise<void> {
    const { index, checkpoints } = shard;
    // Closing keeps the process alive until the thread has ended.
    shard.ref();
    await shard.restarted;
    await checkpoints.ended();
    const state = this.control.shardState(index);
    if (state === ShardState.Running) {
      const counters = this.control.shardCounters(index);
      if (counters[ShardCounter.LogBytes]! > CLOSE_CHECKPOINT_LOG_BYTES) {
        await flushTrees(shard);
        await checkpoints.write().catch(() => undefined);
      }
    }
    try {
      if (state !== ShardState.Failed) await shard.close();
    } finally {
      await shard.cancelJobs();
      this.control.setShardState(index, ShardState.Closed);
    }
  }

  /** Ends everything at once, without closing: for tests of what a killed process leaves. */
  async crash(): Promise<void> {
    this.#closing = true;
    await this.#terminateShards();
    this.control.poolState = PoolState.Closed;
    for (const port of this.#ports) port.close();
    await this.#background.close();
    this.#lock?.release();
  }

  /** Ends a shard's thread wherever it is, as a failure would: for tests. */
  async killShard(index: number): Promise<void> {
    await this.#shards[index]!.kill();
  }

  /** Transactions that hold or await locks, by shard: a shard that is being replaced tells of none. */
  lockHolders(locksMax: number): Promise<LockHolder[][]> {
    return Promise.all(this.#shards.map(({ remote }) => remote.lockHolders(locksMax).catch(() => [])));
  }

  /** Ends the coordinator's thread wherever it is, as a failure would: for tests. */
  async killCoordinator(): Promise<void> {
    await this.#coordinator?.kill();
  }

  /** Ends the threads of the background pool wherever they are: for tests. Resolves with their number. */
  killBackground(): Promise<number> {
    return this.#background.kill();
  }

  /** Log and checkpoint files of the store. */
  filesBytes(): number {
    let bytes = 0;
    const directories = [this.#decisionDirectory, ...this.#shards.map(({ directory }) => directory)];
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

/** A control channel that closed means that its thread died. */
function endOfThread(error: unknown): unknown {
  if (!(error instanceof ConcordError) || error.code !== 'ERR_CLOSED') return error;
  return new ConcordError('ERR_INTERNAL', 'a thread died while the store was being opened', {}, { cause: error });
}

function settingsOf({ checkpointLogBytes, expiry, feed }: ResolvedOptions): ShardSettings {
  return { checkpointLogBytes, expiry, feed };
}

function storeIdOf({ storeId }: Manifest): Uint8Array {
  return Buffer.from(storeId, 'hex');
}

/** So that the next opening has less log to read. A disk that is full or slow must not keep the store open: the log has everything. */
async function flushTrees({ remote }: ShardSupervisor): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, CLOSE_FLUSH_MS_MAX);
  });
  await Promise.race([remote.flushTrees().catch(() => undefined), late]);
  clearTimeout(timer);
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
