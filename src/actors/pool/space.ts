/**
 * A named space: keys and values of its own, in an engine of its own, in the log and the shards of the pool. Has the methods of the pool, and reads and
 * writes nobody else's entries; batches and snapshots go over several spaces.
 *
 * A space the store knows is usable at once, in every thread. An unknown one is created by the host meanwhile: writes and asynchronous reads wait for
 * that, synchronous reads find it empty. Threads: an instance belongs to the thread that made it.
 */
import { resolveKeyEncoding } from '../../shared/codec/key-encoding.js';
import { resolveValueEncoding, type ValueEncoding } from '../../shared/codec/value-encoding.js';
import { ConcordError, invalidArgument } from '../../shared/errors.js';
import { engineNamed } from '../../engines/engine.js';
import { ChangeFeed } from '../feed/change-feed.js';
import type { WatchOptions } from '../feed/watched.js';
import { isTraced, traced } from '../metrics/tracing.js';
import { closed, type PoolCore } from './core.js';
import { Keyspace } from './keyspace.js';
import type { SpaceRecord } from './manifest.js';
import { NO_SPACE_ID, SpaceSource, spaceNotCreated } from './source.js';
import {
  checkSpaceAgreement,
  checkSpaceName,
  resolveSpaceOptions,
  resolveTuning,
  type SpaceOptions,
  type TuningOptions,
} from './space-options.js';
import { collectStats, type PoolStats } from './stats.js';

export interface SwitchProgressEvent {
  /** Versions copied so far, of about `total`: writes go on meanwhile. */
  readonly copied: number;
  readonly total: number;
}

export interface SwitchOptions extends TuningOptions {
  /** Takes the switch back: shards that have made it make it back. */
  readonly signal?: AbortSignal;
  /** Called about ten times a second, and at the end. */
  readonly onProgress?: (progress: SwitchProgressEvent) => void;
}

const PROGRESS_MS = 100;

/** A source whose space may not be there yet, or not any more. */
class NamedSource extends SpaceSource {
  override readonly name: string;
  readonly #given: ValueEncoding | undefined;
  /** Version of the registry at which the space was last known to be there. */
  #seenVersion = -1;
  #pending: Promise<void> | undefined;
  #failure: Error | undefined;
  /** Calls made before the space was there, in order. */
  #waiting: { run: () => void; fail: (error: Error) => void }[] = [];

  constructor(core: PoolCore, name: string, options: SpaceOptions | undefined) {
    const { spec, valueEncoding, createIfMissing } = resolveSpaceOptions(options);
    const record = core.registry.named(name);
    if (record !== undefined) checkSpaceAgreement(record, spec);
    else if (!createIfMissing) throw spaceNotFound(name);
    else if (core.settings.readOnly) throw new ConcordError('ERR_READ_ONLY', 'the store was opened read-only');
    super(
      core,
      record?.id ?? NO_SPACE_ID,
      resolveKeyEncoding(record?.keyEncoding ?? spec.keyEncoding ?? 'utf8'),
      record === undefined
        ? (valueEncoding ?? resolveValueEncoding('utf8'))
        : core.encodingFor(`the space ${name}`, record.valueEncoding, valueEncoding),
    );
    this.name = name;
    this.#given = valueEncoding;
    if (record !== undefined) return;
    this.#pending = core.gate.openSpace(name, spec).then(
      (created) => {
        this.#bind(created);
      },
      (error: unknown) => {
        this.fail(error as Error);
        throw error;
      },
    );
    // Whoever waits for it learns of the failure.
    this.#pending.catch(() => undefined);
  }

  #bind(record: SpaceRecord): void {
    if (this.#pending === undefined || this.#failure !== undefined) return;
    this.#pending = undefined;
    try {
      const encoding = this.core.encodingFor(`the space ${this.name}`, record.valueEncoding, this.#given);
      this.rebind(record.id, resolveKeyEncoding(record.keyEncoding), encoding);
    } catch (error) {
      this.fail(error as Error);
      return;
    }
    // In the order of the calls, before any that comes later.
    for (const { run } of this.#waiting.splice(0)) run();
  }

  /** Nothing more is done through this source. */
  fail(error: Error): void {
    this.#failure ??= error;
    this.#pending = undefined;
    for (const { fail } of this.#waiting.splice(0)) fail(error);
  }

  override get pending(): Promise<void> | undefined {
    return this.#pending;
  }

  get failure(): Error | undefined {
    return this.#failure;
  }

  override assertUsable(): void {
    this.core.assertOpen();
    if (this.#failure !== undefined) throw this.#failure;
    if (this.core.registry.version !== this.#seenVersion) this.#look();
  }

  #look(): void {
    const { registry } = this.core;
    const { version } = registry;
    if (this.#pending !== undefined) {
      // Created by another thread, or by this one and the answer is on its way.
      const record = registry.named(this.name);
      if (record !== undefined) this.#bind(record);
      return;
    }
    if (registry.withId(this.spaceId) === undefined) {
      this.client.forgetViews(this.spaceId);
      this.fail(spaceDropped(this.name));
      // Asks every space, this one, too.
      this.core.forgetDropped();
      throw this.#failure!;
    }
    this.#seenVersion = version;
  }

  override whenReady<T>(work: () => Promise<T>): Promise<T> {
    if (this.#pending === undefined) return work();
    return new Promise<T>((resolve, reject) => {
      this.#waiting.push({
        run: () => {
          work().then(resolve, reject);
        },
        fail: reject,
      });
    });
  }
}

export class Space<K = string, V = string> extends Keyspace<K, V> {
  readonly name: string;
  readonly #source: NamedSource;

  /** @internal Made by db.space(). @throws ERR_INVALID_ARG, ERR_OPTION_CONFLICT, ERR_SPACE_NOT_FOUND, ERR_READ_ONLY */
  constructor(core: PoolCore, name: string, options: SpaceOptions | undefined) {
    const source = new NamedSource(core, checkSpaceName(name), options);
    super(source);
    this.name = name;
    this.#source = source;
  }

  /**
   * Resolves when the space exists. Every asynchronous method waits for it by itself; values and keys handed over before must not be changed until
   * their calls settle. @throws ERR_OPTION_CONFLICT, ERR_SPACE_LIMIT, ERR_READ_ONLY, ERR_DISK_FULL, ERR_IO, ERR_MEMORY_FULL, ERR_CLOSED
   */
  get ready(): Promise<void> {
    const { failure } = this.#source;
    if (failure !== undefined) return Promise.reject(failure);
    return this.#source.pending ?? Promise.resolve();
  }

  /** What the engine is called that holds it now. @throws ERR_SPACE_DROPPED, ERR_SPACE_NOT_FOUND (it is not {@link ready}), ERR_CLOSED */
  get engine(): string {
    return this.#record().engine;
  }

  #record(): SpaceRecord {
    this.source.assertUsable();
    const record = this.source.core.registry.withId(this.source.spaceId);
    if (record === undefined) throw spaceNotCreated(this.name);
    return record;
  }

  /** @internal Neither dropped nor closed nor failed. */
  get isUsable(): boolean {
    try {
      this.source.assertUsable();
      return true;
    } catch {
      return false;
    }
  }

  /** @internal Of a space that is ready. @throws ERR_OPTION_CONFLICT, ERR_INVALID_ARG */
  checkOptions(options: SpaceOptions | undefined): void {
    if (options === undefined) return;
    const { spec, valueEncoding } = resolveSpaceOptions(options);
    checkSpaceAgreement(this.#record(), spec);
    if (valueEncoding !== undefined) this.source.valueEncoding = valueEncoding;
  }

  /**
   * Removes the space with all its entries, in every thread; its memory comes back. Nothing of it survives, and the name is free. Resolves with false
   * if it was dropped already. @throws ERR_READ_ONLY, ERR_DISK_FULL, ERR_IO, ERR_CLOSED
   */
  async drop(): Promise<boolean> {
    const { source } = this;
    source.core.assertOpen();
    await source.pending;
    const isDropped = await source.core.gate.dropSpace(source.spaceId);
    source.client.forgetViews(source.spaceId);
    this.#source.fail(spaceDropped(this.name));
    source.core.forget(this);
    return isDropped;
  }

  /**
   * Moves the space to another engine while it is used: a copy is filled in the background and takes the old one's place in one step per shard. A
   * switch that was begun is finished, also after a restart.
   * @throws ERR_INVALID_ARG, ERR_CONFLICT (a switch to another engine is under way), ERR_MEMORY_FULL, ERR_READ_ONLY; AbortError
   */
  switchEngine(engine: string, options?: SwitchOptions): Promise<void> {
    return switchEngineOf(this.source, engine, options);
  }

  /** What is committed in this space, in every thread, as it is written to the log: see docs/feed.md. @throws ERR_INVALID_ARG, ERR_SPACE_DROPPED, ERR_CLOSED */
  watch(options: WatchOptions<K> = {}): ChangeFeed<K, V> {
    this.source.assertUsable();
    return new ChangeFeed<K, V>(this.source, options, false);
  }

  /** Numbers of this moment: entries, bytes and trees are the space's own, the rest is the pool's. */
  stats(): PoolStats {
    this.source.assertUsable();
    return collectStats(this.source, false, undefined);
  }

  /** Lets go of this object: later calls through it reject with ERR_CLOSED. The space stays. */
  close(): Promise<void> {
    this.#source.fail(closed('space'));
    this.source.core.forget(this);
    return Promise.resolve();
  }
}

/** @internal */
export function switchEngineOf(source: SpaceSource, engine: string, options?: SwitchOptions): Promise<void> {
  if (!isTraced()) return switchTo(source, engine, options);
  return traced({ operation: 'switchEngine', space: source.name }, () => switchTo(source, engine, options));
}

async function switchTo(source: SpaceSource, engine: string, options: SwitchOptions = {}): Promise<void> {
  if (typeof engine !== 'string') throw invalidArgument(`an engine's name must be a string, got ${typeof engine}`);
  engineNamed(engine);
  if (typeof options !== 'object' || options === null) throw invalidArgument('options must be an object');
  const { signal, onProgress, ...tuning } = options;
  if (signal !== undefined && !(signal instanceof AbortSignal)) throw invalidArgument('signal must be an AbortSignal');
  if (onProgress !== undefined && typeof onProgress !== 'function')
    throw invalidArgument('onProgress must be a function');
  signal?.throwIfAborted();
  await source.pending;
  source.assertUsable();
  const { gate } = source.core;
  const { spaceId } = source;
  let isDone = false;
  const switched = gate.switchEngine(spaceId, engine, resolveTuning(tuning)).finally(() => {
    isDone = true;
  });
  const waits: Promise<void>[] = [switched];
  let abort: (() => void) | undefined;
  if (signal !== undefined) {
    waits.push(
      new Promise<never>((_, reject) => {
        abort = () => {
          gate.cancelSwitch(spaceId).catch(() => undefined);
          reject(signal.reason as Error);
        };
        signal.addEventListener('abort', abort, { once: true });
      }),
    );
  }
  const report = async (): Promise<void> => {
    const progress = await gate.switchProgress(spaceId).catch(() => undefined);
    if (progress !== undefined) onProgress!(progress);
  };
  const reporting = async (): Promise<never> => {
    for (;;) {
      await new Promise((resolve) => setTimeout(resolve, PROGRESS_MS).unref());
      if (isDone || signal?.aborted === true) return await new Promise<never>(() => undefined);
      await report();
    }
  };
  // What onProgress throws ends the waiting, too.
  if (onProgress !== undefined) waits.push(reporting());
  try {
    await Promise.race(waits);
    if (onProgress !== undefined) {
      const total = source.views.reduce((sum, view) => sum + view.counts().cells, 0);
      onProgress({ copied: total, total });
    }
  } finally {
    isDone = true;
    switched.catch(() => undefined);
    if (abort !== undefined) signal!.removeEventListener('abort', abort);
  }
}

function spaceNotFound(name: string): ConcordError {
  return new ConcordError('ERR_SPACE_NOT_FOUND', `the store has no space ${name}`, { space: name });
}

function spaceDropped(name: string): ConcordError {
  return new ConcordError('ERR_SPACE_DROPPED', `the space ${name} was dropped`, { space: name });
}
