/**
 * The host's end of a handle's port: what the thread at the other end may ask of the host.
 *
 *   attach ──▶ slot, rings, memory          port closes, which a thread's end does by itself ──▶ what it was given comes back
 *
 * Must hold: one thread for each handle; what was given comes back once, also when the thread ends while it attaches. Threads: the host's.
 */
import type { MessagePort } from 'node:worker_threads';
import { ConcordError } from '../../shared/errors.js';
import type { EngineTuning } from '../../engines/engine.js';
import type { SwitchProgress } from '../../engines/store/space.js';
import type { LockHolder } from '../../engines/txn/locks/description.js';
import type { ClientSetup } from '../client/thread-client.js';
import type { CompactRequest } from '../shard/compactions.js';
import type { TransactionDefaults } from '../transaction/options.js';
import type { PoolHost } from './host.js';
import type { SpaceRecord } from './manifest.js';
import type { DurabilityName, LiveOptions } from './options.js';
import type { SpaceSpec } from './space-options.js';

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
