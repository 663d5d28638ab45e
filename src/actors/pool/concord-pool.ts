/**
 * ConcordPool: the store as its users see it. The thread that opens it hosts the shards; any other thread attaches with a handle and has the
 * same methods on the same memory.
 *
 * Reads run in the caller's thread. Writes go to the shard that owns the key and resolve when they are as durable as asked, and visible. Writes of
 * one thread to one key take effect in the order of the calls. Threads: an instance belongs to the thread that made it.
 */
import { EventEmitter } from 'node:events';
import { MessageChannel, MessagePort } from 'node:worker_threads';
import { resolveKeyEncoding } from '../../shared/codec/key-encoding.js';
import type { CustomValueEncoding, ValueEncoding } from '../../shared/codec/value-encoding.js';
import { ConcordError, invalidArgument } from '../../shared/errors.js';
import { DEFAULT_SPACE_ID } from '../../engines/engine.js';
import type { RecoveryReport } from '../../engines/store/recovery.js';
import { ThreadClient, type ClientSetup } from '../client/thread-client.js';
import { ControlBlock } from '../control-block.js';
import { ChangeFeed } from '../feed/change-feed.js';
import type { PoolWatchOptions } from '../feed/watched.js';
import { remoteControl, type RemoteControl } from '../runtime/control-channel.js';
import { PoolCore, closed, givenEncoding } from './core.js';
import type { ClientGate, ClientSettings } from './client-gate.js';
import { PoolHost, type HostEvents } from './host.js';
import { Keyspace } from './keyspace.js';
import {
  repairStore,
  restoreStore,
  verifyStore,
  type MaintenanceOptions,
  type RepairReport,
  type VerifyReport,
} from './maintenance.js';
import type { MetricsOptions } from './metrics.js';
import { resolveOptions, type LiveOptions, type PoolOptions } from './options.js';
import { SpaceSource } from './source.js';
import { listTransactions, type TransactionInfo } from '../transaction/listing.js';
import { Space, switchEngineOf, type SwitchOptions } from './space.js';
import { checkSpaceName, type SpaceOptions, type TuningOptions } from './space-options.js';
import { collectStats, spaceStats, statsBasis, type PoolStats, type SpaceStats } from './stats.js';

/** What db.spaces() tells of a space. */
export interface SpaceInfo extends SpaceStats {
  readonly keyEncoding: string;
  readonly valueEncoding: string;
  /** As it was created, or switched, with. */
  readonly tuning: TuningOptions;
  /** ISO 8601. */
  readonly createdAt: string;
}

/** Lets another thread attach: pass it in workerData or postMessage, with its transferList. */
export interface PoolHandle {
  readonly port: MessagePort;
  /** The pool's control block: tells a thread that comes late that the pool has closed, which a port does not. */
  readonly control: SharedArrayBuffer;
  /** What must be transferred with it. Not part of what is sent. */
  readonly transferList: readonly MessagePort[];
}

/** A thread that hosts a pool and does not answer within this time is stuck, or ended while the handle was on its way. */
const ATTACH_MS_MAX = 30_000;

export class ConcordPool<K = string, V = string> extends Keyspace<K, V> implements AsyncDisposable {
  readonly directory: string;
  /**
   * 'shard-restarted', 'shard-failed', 'coordinator-restarted', 'coordinator-failed', 'checkpoint-failed', 'backpressure' (in the thread that opened
   * the pool), 'closed'.
   */
  readonly events = new EventEmitter<HostEvents & { closed: [] }>();
  readonly #core: PoolCore;
  readonly #host: PoolHost | undefined;
  readonly #gate: RemoteControl<ClientGate> | undefined;
  readonly #gatePort: MessagePort | undefined;
  #closing: Promise<void> | undefined;

  private constructor(
    core: PoolCore,
    source: SpaceSource,
    host: PoolHost | undefined,
    gate: { control: RemoteControl<ClientGate>; port: MessagePort } | undefined,
  ) {
    super(source);
    this.#core = core;
    this.directory = core.settings.directory;
    this.#host = host;
    this.#gate = gate?.control;
    this.#gatePort = gate?.port;
    if (host !== undefined) {
      for (const name of ['shard-restarted', 'shard-failed', 'checkpoint-failed'] as const) {
        host.on(name, (event) => this.events.emit(name, event));
      }
      for (const name of ['coordinator-restarted', 'coordinator-failed'] as const) {
        host.on(name, (event) => this.events.emit(name, event));
      }
      host.on('backpressure', (event) => this.events.emit('backpressure', event));
    }
  }

  /**
   * Opens the store in a directory, creating it if need be; ':memory:' keeps nothing on disk. The types are the caller's word.
   * @throws ERR_INVALID_ARG, ERR_NOT_FOUND, ERR_EXISTS, ERR_LOCKED (details.pid: the owner), ERR_OPTION_CONFLICT, ERR_CORRUPT (details.file,
   *   details.offset), ERR_FORMAT_VERSION, ERR_MEMORY_FULL, ERR_PERMISSION, ERR_DISK_FULL, ERR_IO
   */
  static async open<K = string, V = string>(directory: string, options?: PoolOptions): Promise<ConcordPool<K, V>> {
    if (typeof directory !== 'string' || directory === '')
      throw invalidArgument('the directory must be a non-empty string');
    const resolved = resolveOptions(options);
    const given = givenEncoding(resolved.valueEncoding);
    await loadModules(resolved.engineModules);
    const host = await PoolHost.open(directory, resolved);
    try {
      const { core, source } = ownSpace(await host.attachClient(), host.settings, host, given);
      return new ConcordPool<K, V>(core, source, host, undefined);
    } catch (error) {
      await host.close();
      throw error;
    }
  }

  /**
   * Uses a pool that another thread of the process has opened.
   * @param options.valueEncoding the custom encoding the pool was opened with, if it was
   * @throws ERR_CLOSED, ERR_CLIENT_LIMIT, ERR_OPTION_CONFLICT, ERR_INVALID_ARG, ERR_TIMEOUT
   */
  static async attach<K = string, V = string>(
    handle: Pick<PoolHandle, 'port'> & Partial<Pick<PoolHandle, 'control'>>,
    options?: { readonly valueEncoding?: CustomValueEncoding },
  ): Promise<ConcordPool<K, V>> {
    const { port, control } = (handle ?? {}) as Partial<PoolHandle>;
    if (!(port instanceof MessagePort))
      throw invalidArgument('attach takes what db.handle() returned, passed with its transferList');
    if (control !== undefined && !new ControlBlock(control).isOpen) throw closed('store');
    const gate = remoteControl<ClientGate>(port);
    const { setup, settings } = await answered(gate.attach(), port);
    try {
      await loadModules(settings.engineModules);
      const { core, source } = ownSpace(setup, settings, gate, givenEncoding(options?.valueEncoding));
      // The pool was closed, or the thread that hosted it ended: nobody will answer.
      port.once('close', () => {
        core.client.abandon(closed('store'));
      });
      return new ConcordPool<K, V>(core, source, undefined, { control: gate, port });
    } catch (error) {
      await gate.detach().catch(() => undefined);
      port.close();
      throw error;
    }
  }

  /** For another thread: one handle attaches one thread. */
  handle(): PoolHandle {
    this.assertOpen();
    let port: MessagePort;
    if (this.#host !== undefined) port = this.#host.createPort();
    else {
      const channel = new MessageChannel();
      void this.#gate!.adoptPort(channel.port1).catch(() => {
        channel.port2.close();
      });
      port = channel.port2;
    }
    // The list is not enumerable, so that structured clone does not meet the port a second time.
    return Object.defineProperty({ port, control: this.client.control.sab }, 'transferList', {
      value: [port],
    }) as PoolHandle;
  }

  // ---- spaces -----------------------------------------------------------------------------------------------------------------------------

  /**
   * A named space with keys and values of its own, in an engine of its own. One the store knows is usable at once; an unknown one is created
   * meanwhile, see {@link Space.ready}. Options given for a known one must agree with it. The types are the caller's word.
   * @throws ERR_INVALID_ARG, ERR_OPTION_CONFLICT (details: option, stored, given), ERR_SPACE_NOT_FOUND, ERR_READ_ONLY, ERR_CLOSED
   */
  space<SK = string, SV = string>(name: string, options?: SpaceOptions): Space<SK, SV> {
    this.assertOpen();
    return this.#core.space(checkSpaceName(name), options) as unknown as Space<SK, SV>;
  }

  /** The named spaces, in the order of their creation. */
  spaces(): Promise<SpaceInfo[]> {
    try {
      this.assertOpen();
      const records = this.#core.registry.all().filter(({ id }) => id !== DEFAULT_SPACE_ID);
      const basis = statsBasis(this.source);
      return Promise.resolve(
        records.map((record) => {
          const { keyEncoding, valueEncoding, tuning, createdAt } = record;
          const stats = spaceStats(record, this.client.viewsOf(record.id), basis);
          return { ...stats, keyEncoding, valueEncoding, tuning: tuning as TuningOptions, createdAt };
        }),
      );
    } catch (error) {
      return Promise.reject(error);
    }
  }

  /** Removes a space with all its entries: see {@link Space.drop}. Resolves with false if there is none of that name. */
  async dropSpace(name: string): Promise<boolean> {
    this.assertOpen();
    const record = this.#core.registry.named(checkSpaceName(name));
    if (record === undefined) return false;
    const isDropped = await this.#core.gate.dropSpace(record.id);
    this.client.forgetViews(record.id);
    this.#core.forgetDropped();
    return isDropped;
  }

  /** Moves the pool's own space to another engine while it is used: see {@link Space.switchEngine}. */
  switchEngine(engine: string, options?: SwitchOptions): Promise<void> {
    return switchEngineOf(this.source, engine, options);
  }

  /** What the engine of the pool's own space is called. */
  get engine(): string {
    return this.#core.defaultRecord.engine;
  }

  // ---- changes ----------------------------------------------------------------------------------------------------------------------------

  /**
   * What is committed, in this and every other thread, as it is written to the log: see docs/feed.md. Of the pool's own space, or of those named.
   * @throws ERR_INVALID_ARG, ERR_SPACE_NOT_FOUND, ERR_CLOSED
   */
  watch<WK = K, WV = V>(options: PoolWatchOptions<WK> = {}): ChangeFeed<WK, WV> {
    this.assertOpen();
    return new ChangeFeed<WK, WV>(this.source, options, true);
  }

  // ---- transactions -----------------------------------------------------------------------------------------------------------------------

  /**
   * Open transactions of all threads, oldest first, with the locks they hold and await. Of this moment, more or less. Of each thread it lists as many at a time as
   * `transactions.maxConcurrent` says, 1,024 at least and 16,384 at most; of others, which are possible with begin(), those that hold or await locks.
   * @throws ERR_CLOSED
   */
  async transactions(): Promise<TransactionInfo[]> {
    this.assertOpen();
    return await listTransactions(this.#core);
  }

  // ---- maintenance ------------------------------------------------------------------------------------------------------------------------

  /**
   * Changes options while the store is open, for all threads: durability, checkpointLogBytes, backgroundBytesPerSecond, expiry, feed. Resolves with the names of those that are
   * different now. @throws ERR_INVALID_ARG naming what is wrong or cannot change, ERR_CLOSED
   */
  async configure(change: LiveOptions): Promise<readonly string[]> {
    this.#core.assertOpen();
    return await this.#core.gate.configure(change);
  }

  /** Writes a consistent copy, as of now, to a new directory that can be opened. @throws ERR_EXISTS, ERR_DISK_FULL, ERR_IO, ERR_PERMISSION */
  async checkpoint(directory: string): Promise<void> {
    this.assertOpen();
    if (typeof directory !== 'string' || directory === '')
      throw invalidArgument('the directory must be a non-empty string');
    await this.flush();
    await this.#core.gate.checkpoint(directory);
  }

  /** Numbers of this moment, read from shared memory. Keys and units are in {@link PoolStats}. */
  stats(): PoolStats {
    return collectStats(this.source, true, this.#host?.filesBytes());
  }

  /** The same as Prometheus text: docs/metrics.md lists the names. */
  async metrics(options?: MetricsOptions): Promise<string> {
    // What it needs is a fifth of all files, and many programs never ask.
    const { renderMetrics } = await import('./metrics.js');
    return await renderMetrics(this.source, this.#host?.filesBytes(), options);
  }

  /** What opening found, per shard; undefined in attached threads. */
  get recovery(): (RecoveryReport | undefined)[] | undefined {
    return this.#host?.recovery;
  }

  /** @internal The host: undefined in attached threads. */
  get host(): PoolHost | undefined {
    return this.#host;
  }

  /**
   * Waits for this thread's calls, then lets go. In the thread that opened the pool it ends the pool: everything in flight is served, synced and
   * checkpointed, threads end, the directory is free. Calls made later reject with ERR_CLOSED. So do, and write nothing: transactions that are open, batches
   * over several shards that are not decided yet, updates that have not sent their write, and reads under way.
   */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    this.#core.closeTransactions();
    this.client.close();
    for (const { link } of this.client.shards) await link.whenSent();
    await this.client.whenIdle();
    // The slot may be another thread's soon; nothing is in flight any more.
    this.client.meters.detach();
    try {
      if (this.#host !== undefined) await this.#host.close();
      else await this.#gate!.detach().catch(() => undefined);
    } finally {
      this.#gatePort?.close();
      this.client.abandon(closed('store'));
      this.events.emit('closed');
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  // ---- directories ------------------------------------------------------------------------------------------------------------------------

  /** Reads every file of a store that is not open and checks all of it. Changes nothing. @throws ERR_NOT_FOUND, ERR_LOCKED */
  static verify(directory: string, options?: MaintenanceOptions): Promise<VerifyReport> {
    return verifyStore(directory, options);
  }

  /** Rebuilds a damaged store from what is still readable, and says what was lost. The old files are kept beside it. */
  static repair(directory: string, options?: MaintenanceOptions): Promise<RepairReport> {
    return repairStore(directory, options);
  }

  /** Copies a store that is not open (a checkpoint, a backup) to a new directory, and verifies the copy. @throws ERR_EXISTS, ERR_CORRUPT */
  static restore(from: string, to: string, options?: MaintenanceOptions): Promise<VerifyReport> {
    return restoreStore(from, to, options);
  }
}

/** The answer of the hosting thread. @throws ERR_TIMEOUT */
async function answered<T>(answer: Promise<T>, port: MessagePort): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      port.close();
      reject(
        new ConcordError('ERR_TIMEOUT', `the thread that opened the pool did not answer within ${ATTACH_MS_MAX} ms`),
      );
    }, ATTACH_MS_MAX);
  });
  try {
    return await Promise.race([answer, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** They register engines in this thread. */
/** @throws ERR_INVALID_ARG: one cannot be loaded, or refuses to */
async function loadModules(modules: readonly string[]): Promise<void> {
  for (const module of modules) {
    try {
      await import(module);
    } catch (cause) {
      const reason = cause instanceof Error ? cause.message : String(cause);
      throw Object.assign(invalidArgument(`engineModules: ${module} cannot be loaded: ${reason}`), { cause });
    }
  }
}

/** What a thread needs for the pool's own space. @throws ERR_OPTION_CONFLICT */
function ownSpace(
  setup: ClientSetup,
  settings: ClientSettings,
  gate: PoolHost | RemoteControl<ClientGate>,
  given: ValueEncoding | undefined,
): { core: PoolCore; source: SpaceSource } {
  const core: PoolCore = new PoolCore(
    new ThreadClient(setup),
    settings,
    gate,
    (name, options) => new Space<unknown, unknown>(core, name, options),
  );
  const { keyEncoding, valueEncoding } = core.defaultRecord;
  const encoding = core.encodingFor('the store', valueEncoding, given);
  return { core, source: new SpaceSource(core, DEFAULT_SPACE_ID, resolveKeyEncoding(keyEncoding), encoding) };
}
