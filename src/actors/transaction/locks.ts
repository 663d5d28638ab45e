/**
 * The locks of a pessimistic transaction: which it has, which it waits for, and in which life of each shard it took the first one there.
 *
 * A lock that was not granted in time fails the call that asked for it; whatever else goes wrong (deadlock, a version above the snapshot, a shard
 * that was replaced and has forgotten its locks) fails the transaction, so that others get on at once.
 * Threads: the one that owns the client.
 */
import { ConcordError } from '../../shared/errors.js';
import { Isolation } from '../../engines/txn/body.js';
import type { LockModeName } from '../../engines/txn/locks/mode.js';
import type { SpaceSource } from '../pool/source.js';
import type { TransactionCore } from './core.js';
import type { KeyEntry } from './working-set.js';

/** In order of strength. */
export const LockMode = { None: 0, Shared: 1, Update: 2, Exclusive: 3 } as const;
const MODE_NAMES: readonly LockModeName[] = ['shared', 'shared', 'update', 'exclusive'];

const NO_EPOCH = -1;

export class LockBook {
  readonly #core: TransactionCore;
  readonly #epochs: Int32Array;
  readonly #waits = new Set<(error: Error) => void>();
  #isReleased = false;
  /** Ranges are locked, on every shard. */
  hasRanges = false;

  constructor(core: TransactionCore) {
    this.#core = core;
    this.#epochs = new Int32Array(core.control.shards).fill(NO_EPOCH);
    core.isShared = true;
  }

  has(shard: number): boolean {
    return this.#epochs[shard] !== NO_EPOCH;
  }

  /** Restarts of the shard before the first lock was asked for there; 0: none was. */
  epochOf(shard: number): number {
    return Math.max(0, this.#epochs[shard]!);
  }

  /** @throws ERR_CONFLICT: a shard was replaced since; it does not know the locks it had granted */
  assertHeld(): void {
    const { port } = this.#core.manager;
    for (let shard = 0; shard < this.#epochs.length; shard++) {
      const epoch = this.#epochs[shard]!;
      if (epoch !== NO_EPOCH && port.restarts(shard) !== epoch) throw this.#fail(locksLost(shard));
    }
  }

  /** undefined: it is held. Nobody need look at the promise. */
  lockKey(entry: KeyEntry, mode: number): Promise<void> | undefined {
    if (entry.lockMode >= mode) return entry.lockWait;
    const { lockWait: before } = entry;
    const ask = (): Promise<void> =>
      this.#ask(entry.shard, mode, entry.spaceId, this.#snapshotFor(), entry.key.subarray(0, entry.keyLength));
    const asked = before === undefined ? ask() : before.then(ask);
    const wait: Promise<void> = asked.then(
      () => {
        entry.lockHeld = mode;
        if (entry.lockWait === wait) entry.lockWait = undefined;
      },
      (error: unknown) => {
        if (entry.lockWait === wait) {
          entry.lockWait = undefined;
          entry.lockMode = entry.lockHeld;
        }
        throw error;
      },
    );
    wait.catch(() => undefined);
    entry.lockMode = mode;
    entry.lockWait = wait;
    return wait;
  }

  /** repeatable-read: nobody may have written the key since the state that is read. */
  #snapshotFor(): number {
    const { isolation, snapshotAt } = this.#core;
    return isolation === Isolation.RepeatableRead && snapshotAt > 0 ? snapshotAt : 0;
  }

  async lockRange(source: SpaceSource, low: Buffer | undefined, high: Buffer | undefined, mode: number): Promise<void> {
    this.hasRanges = true;
    const waits = source.views.map((_, shard) => this.#ask(shard, mode, source.spaceId, 0, undefined, { low, high }));
    await Promise.all(waits);
  }

  #ask(
    shard: number,
    mode: number,
    space: number,
    snapshot: number,
    key: Uint8Array | undefined,
    range?: { low: Buffer | undefined; high: Buffer | undefined },
  ): Promise<void> {
    const core = this.#core;
    const { port } = core.manager;
    return new Promise<void>((resolve, reject) => {
      core.assertAlive();
      if (this.#epochs[shard] === NO_EPOCH) this.#epochs[shard] = port.restarts(shard);
      else if (this.#epochs[shard] !== port.restarts(shard)) throw this.#fail(locksLost(shard));
      const timeoutMs = Math.max(1, Math.min(core.settings.lockTimeoutMs, core.deadlineMs - performance.now()));
      this.#waits.add(reject);
      port
        .lock(shard, {
          txn: core.id,
          age: core.age,
          priority: core.settings.priority,
          mode: MODE_NAMES[mode]!,
          space,
          key,
          range,
          timeoutMs,
          snapshot,
        })
        .then(
          () => {
            this.#waits.delete(reject);
            // It came too late: nobody wants it any more.
            if (this.#isReleased) port.release(shard, core.id);
            resolve();
          },
          (error: unknown) => {
            this.#waits.delete(reject);
            const isLate = error instanceof ConcordError && error.code === 'ERR_LOCK_TIMEOUT';
            const isLost = error instanceof ConcordError && error.code === 'ERR_SHARD_RESTARTED';
            if (isLate) reject(error);
            else reject(this.#fail(isLost ? locksLost(shard, error) : (error as Error)));
          },
        );
    });
  }

  #fail(error: Error): Error {
    this.#core.fail(error);
    return error;
  }

  /** All locks go, and those that are waited for are not waited for any more. Safe to call again. */
  releaseAll(): void {
    if (this.#isReleased) return;
    this.#isReleased = true;
    const core = this.#core;
    for (const [shard, epoch] of this.#epochs.entries()) {
      if (epoch !== NO_EPOCH) core.manager.port.release(shard, core.id);
    }
    if (this.#waits.size === 0) return;
    const error = core.failure ?? new ConcordError('ERR_TRANSACTION_CLOSED', 'the transaction has ended');
    for (const reject of this.#waits) reject(error);
    this.#waits.clear();
  }
}

/** Nothing was applied: it can be tried again. */
function locksLost(shard: number, cause?: unknown): ConcordError {
  return new ConcordError(
    'ERR_CONFLICT',
    `shard ${shard} was replaced, and the locks the transaction had there are gone`,
    { shard },
    { cause },
  );
}
