/**
 * What the pool, its spaces and its snapshots share in one thread: the client, the registry of spaces, and the way to the host for what only the
 * host may do. Threads: the one that owns the client.
 */
import type { CustomValueEncoding, ValueEncoding } from '../../shared/codec/value-encoding.js';
import { resolveValueEncoding } from '../../shared/codec/value-encoding.js';
import { ConcordError } from '../../shared/errors.js';
import { DEFAULT_SPACE_ID, type EngineTuning } from '../../engines/engine.js';
import type { LockHolder } from '../../engines/txn/locks/description.js';
import type { SwitchProgress } from '../../engines/store/space.js';
import type { CompactRequest } from '../shard/compactions.js';
import type { ThreadClient } from '../client/thread-client.js';
import type { ClientSettings } from './client-gate.js';
import type { SpaceRecord } from './manifest.js';
import type { LiveOptions } from './options.js';
import { SpaceRegistry } from './registry.js';
import type { Space } from './space.js';
import type { SpaceOptions, SpaceSpec } from './space-options.js';
import { TransactionManager } from '../transaction/manager.js';

/** Calls on the host: its own methods in the thread that opened the pool, a control channel in others. */
export interface PoolGate {
  openSpace(name: string, spec: SpaceSpec): Promise<SpaceRecord>;
  dropSpace(id: number): Promise<boolean>;
  switchEngine(id: number, engine: string, tuning: EngineTuning): Promise<void>;
  cancelSwitch(id: number): Promise<void>;
  switchProgress(id: number): Promise<SwitchProgress | undefined>;
  compact(request: CompactRequest): Promise<number>;
  cancelCompact(id: string): Promise<void>;
  configure(change: LiveOptions): Promise<readonly string[]>;
  checkpoint(directory: string): Promise<void>;
  /** By shard; at most `locksMax` of the locks that each transaction holds are named. */
  lockHolders(locksMax: number): Promise<LockHolder[][]>;
}

export class PoolCore {
  readonly client: ThreadClient;
  readonly settings: ClientSettings;
  readonly registry: SpaceRegistry;
  readonly gate: PoolGate;
  readonly #spaces = new Map<string, Space<unknown, unknown>>();
  readonly #makeSpace: (name: string, options: SpaceOptions | undefined) => Space<unknown, unknown>;
  /** Custom encodings this thread was given, by name. */
  readonly #encodings = new Map<string, ValueEncoding>();
  #transactions: TransactionManager | undefined;

  constructor(
    client: ThreadClient,
    settings: ClientSettings,
    gate: PoolGate,
    makeSpace: (name: string, options: SpaceOptions | undefined) => Space<unknown, unknown>,
  ) {
    this.client = client;
    this.settings = settings;
    this.gate = gate;
    this.#makeSpace = makeSpace;
    this.registry = new SpaceRegistry(settings.registry);
  }

  /** Of this thread; made when the first transaction begins. */
  get transactions(): TransactionManager {
    return (this.#transactions ??= new TransactionManager(this));
  }

  /** Those that are open fail. */
  closeTransactions(): void {
    this.#transactions?.close(closed('store'));
  }

  /** Durability of calls that do not say. */
  get level(): number {
    return this.client.control.defaultDurability;
  }

  /** @throws ERR_CLOSED */
  assertOpen(): void {
    if (this.client.closed || !this.client.control.isOpen) throw closed('store');
  }

  /** The thread's object for a space, made when there is none. @throws ERR_INVALID_ARG, ERR_OPTION_CONFLICT, ERR_SPACE_NOT_FOUND */
  space(name: string, options?: SpaceOptions): Space<unknown, unknown> {
    const known = this.#spaces.get(name);
    if (known?.isUsable === true) {
      // While it is being created, only the host can say whether these options agree.
      if (options !== undefined && known.source.pending !== undefined) return this.#makeSpace(name, options);
      known.checkOptions(options);
      return known;
    }
    const space = this.#makeSpace(name, options);
    this.#spaces.set(name, space);
    return space;
  }

  /** The space is gone, or its object of no use any more. */
  forget(space: Space<unknown, unknown>): void {
    if (this.#spaces.get(space.name) === space) this.#spaces.delete(space.name);
  }

  /** Spaces that were dropped, maybe by other threads, leave nothing behind here. */
  forgetDropped(): void {
    for (const space of [...this.#spaces.values()]) if (!space.isUsable) this.forget(space);
  }

  /** The encoding of that name: the one given, one that was given for another space, or a built-in one. @throws ERR_OPTION_CONFLICT */
  encodingFor(what: string, name: string, given: ValueEncoding | undefined): ValueEncoding {
    if (given !== undefined) {
      if (given.name !== name) {
        throw new ConcordError('ERR_OPTION_CONFLICT', `${what} has valueEncoding ${name}, not ${given.name}`, {
          option: 'valueEncoding',
          stored: name,
          given: given.name,
        });
      }
      this.#encodings.set(name, given);
      return given;
    }
    const known = this.#encodings.get(name);
    if (known !== undefined) return known;
    try {
      return resolveValueEncoding(name);
    } catch {
      throw new ConcordError(
        'ERR_OPTION_CONFLICT',
        `${what} has the custom valueEncoding ${name}: pass it as an option`,
        { option: 'valueEncoding', stored: name },
      );
    }
  }

  get defaultRecord(): SpaceRecord {
    return this.registry.withId(DEFAULT_SPACE_ID)!;
  }
}

export function closed(what: string): ConcordError {
  return new ConcordError('ERR_CLOSED', `the ${what} is closed`);
}

/** What a user may give as the encoding of values, resolved. @throws ERR_INVALID_ARG */
export function givenEncoding(option: string | CustomValueEncoding | undefined): ValueEncoding | undefined {
  return option === undefined ? undefined : resolveValueEncoding(option);
}
