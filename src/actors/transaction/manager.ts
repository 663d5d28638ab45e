/**
 * Transactions of one thread: begins them, runs the functions of db.transaction() and tries again, ends them, keeps time.
 *
 *   run(fn): wait for admission ──▶ attempt ──▶ commit ──▶ done
 *                                      ▲           │ conflict, deadlock, lock not granted in time
 *                                      └─ back-off ┘ (full jitter; the age stays, so that who has tried long is not the victim again)
 *
 * A function that returns no promise, in an optimistic transaction, costs three objects and one promise besides what the shards are sent.
 * Threads: the one that owns the client.
 */
import { performance } from 'node:perf_hooks';
import { KeyScratch } from '../../shared/codec/key-encoding.js';
import { ConcordError, invalidArgument } from '../../shared/errors.js';
import { Isolation } from '../../engines/txn/body.js';
import { Promised, PromisedAnswer, type Caller } from '../client/caller.js';
import type { ThreadClient } from '../client/thread-client.js';
import { TransactionPort } from '../client/transaction-port.js';
import type { PoolCore } from '../pool/core.js';
import type { BatchSpaces } from '../pool/batch-spaces.js';
import type { SpaceSource } from '../pool/source.js';
import { Admission } from './admission.js';
import { TransactionBoardPart, TransactionCounter } from './board.js';
import { Phase, TransactionCore, transactionClosed, timedOut } from './core.js';
import { isInsideUpdate } from './inside-update.js';
import {
  defaultSettings,
  resolveSettings,
  type BeginOptions,
  type TransactionDefaults,
  type TransactionOptions,
  type TransactionSettings,
} from './options.js';
import { ReadStamps } from './read-stamps.js';
import { keepBodies, mustSend, sendCommit } from './send.js';
import { Transaction, type BlindWrite } from './transaction.js';
import { WorkingSet } from './working-set.js';

/** Of working sets for later transactions. */
const SETS_KEPT = 64;
/** The first pause is below this, each further one below twice as much. */
const BACK_OFF_MS = 0.5;
const BACK_OFF_MS_MAX = 100;
const BACK_OFF_DOUBLINGS_MAX = 8;
/** An attempt that failed so may succeed if it is made again. Not among them: what leaves the outcome open. */
const TRIED_AGAIN = new Set([
  'ERR_CONFLICT',
  'ERR_DEADLOCK',
  'ERR_LOCK_TIMEOUT',
  'ERR_BUSY',
  'ERR_OWNER_DIED',
  'ERR_SNAPSHOT_LIMIT',
]);
const FAILURE_COUNTERS: Readonly<Record<string, number>> = {
  ERR_CONFLICT: TransactionCounter.Conflicts,
  ERR_DEADLOCK: TransactionCounter.Deadlocks,
  ERR_LOCK_TIMEOUT: TransactionCounter.LockTimeouts,
  ERR_TRANSACTION_TIMEOUT: TransactionCounter.Timeouts,
};
/** The handle is gone, and nobody has committed or rolled back. */
const abandoned = new FinalizationRegistry<TransactionCore>((core) => {
  core.manager.abandon(core);
});

type TransactionFunction<K, V, T> = (tx: Transaction<K, V>) => T | Promise<T>;

/** Of a call whose function has returned, and whose commit is on its way. */
class FirstAttempt<K, V, T> extends Promised<T> implements Caller {
  readonly #manager: TransactionManager;
  readonly core: TransactionCore;
  readonly source: SpaceSource;
  readonly fn: TransactionFunction<K, V, T>;
  readonly result: T;

  constructor(
    manager: TransactionManager,
    core: TransactionCore,
    source: SpaceSource,
    fn: TransactionFunction<K, V, T>,
    result: T,
  ) {
    super();
    this.#manager = manager;
    this.core = core;
    this.source = source;
    this.fn = fn;
    this.result = result;
  }

  answered(): void {
    this.#manager.heard(this, undefined);
  }

  failed(error: Error): void {
    this.#manager.heard(this, error);
  }
}

export class TransactionManager {
  readonly pool: PoolCore;
  readonly client: ThreadClient;
  readonly port: TransactionPort;
  readonly defaults: TransactionDefaults;
  readonly isStoreReadOnly: boolean;
  /** For keys; whatever is in it is used before anything else is called. */
  readonly scratch = new KeyScratch();
  readonly #settings: TransactionSettings;
  readonly #admission: Admission;
  readonly #board: TransactionBoardPart;
  readonly #sets: { set: WorkingSet; stamps: ReadStamps }[] = [];
  /** Those that are open, youngest first. */
  #open: TransactionCore | undefined;
  #timer: NodeJS.Timeout | undefined;
  #timerDueMs = Infinity;

  constructor(pool: PoolCore) {
    this.pool = pool;
    this.client = pool.client;
    this.port = new TransactionPort(pool.client);
    this.defaults = pool.settings.transactions;
    this.isStoreReadOnly = pool.settings.readOnly;
    this.#settings = defaultSettings(this.defaults);
    this.#admission = new Admission(this.defaults.maxConcurrent, this.defaults.agingMs);
    this.#board = new TransactionBoardPart(pool.settings.transactionBoard, pool.client.client);
  }

  /** Open ones, and those that wait to begin. */
  get active(): number {
    return this.#admission.active;
  }

  get waiting(): number {
    return this.#admission.waiting;
  }

  // ---- begin ------------------------------------------------------------------------------------------------------------------------------

  /** @throws ERR_INVALID_ARG, ERR_CLOSED; AbortError */
  begin<K, V>(source: SpaceSource, options: BeginOptions | undefined): Transaction<K, V> {
    this.pool.assertOpen();
    source.assertUsable();
    const settings = options === undefined ? this.#settings : resolveSettings(options, this.#settings, false);
    const nowMs = performance.now();
    this.#admission.enter();
    const core = this.#openCore(settings, 0, nowMs, nowMs + settings.timeoutMs);
    // Nobody tries again: what was read may change, and the state that is read stays.
    core.anchorsFirst = settings.isolation === Isolation.RepeatableRead;
    const { signal } = settings;
    if (signal !== undefined) core.listenTo(signal);
    const transaction = new Transaction<K, V>(core, source);
    abandoned.register(transaction, core, transaction);
    return transaction;
  }

  async commitBegun(core: TransactionCore, handle: object): Promise<void> {
    if (core.isManaged) throw invalidArgument('the transaction commits when its function returns');
    core.assertActive();
    if (isInsideUpdate(core))
      throw invalidArgument('change must not call commit() of the same transaction, which waits for the update');
    try {
      await this.#commit(core);
      this.#end(core, undefined);
    } catch (error) {
      this.#end(core, error);
      throw error;
    } finally {
      abandoned.unregister(handle);
    }
  }

  rollbackBegun(core: TransactionCore, handle: object): Promise<void> {
    if (core.isManaged) {
      return Promise.reject(invalidArgument('the transaction rolls back when its function throws'));
    }
    if (core.phase === Phase.Active) {
      abandoned.unregister(handle);
      this.#end(core, ROLLED_BACK);
    } else if (core.phase !== Phase.Ended) return Promise.reject(transactionClosed());
    return Promise.resolve();
  }

  /** Of a begun one: nobody need call commit() or rollback() for its place to be free. What is called rejects with the error. */
  endFailed(core: TransactionCore, error: Error): void {
    // Calls under way, and who has met the error, look at the working set still.
    core.isShared = true;
    this.#end(core, error);
  }

  /** Of a handle that was thrown away. */
  abandon(core: TransactionCore): void {
    if (core.phase === Phase.Active) this.#end(core, ROLLED_BACK);
  }

  // ---- run --------------------------------------------------------------------------------------------------------------------------------

  run<K, V, T>(
    source: SpaceSource,
    fn: TransactionFunction<K, V, T>,
    options: TransactionOptions | undefined,
  ): Promise<T> {
    let settings = this.#settings;
    try {
      if (typeof fn !== 'function') throw invalidArgument('transaction takes a function');
      this.pool.assertOpen();
      source.assertUsable();
      if (options !== undefined) settings = resolveSettings(options, settings, true);
    } catch (error) {
      return Promise.reject(error);
    }
    const nowMs = performance.now();
    if (source.pending !== undefined) return source.whenReady(() => this.#admitted(source, fn, settings, nowMs));
    if (!this.#admission.tryEnter()) return this.#admitted(source, fn, settings, nowMs);
    return this.#first(source, fn, settings, nowMs);
  }

  async #admitted<K, V, T>(
    source: SpaceSource,
    fn: TransactionFunction<K, V, T>,
    settings: TransactionSettings,
    startedMs: number,
  ): Promise<T> {
    // The space may have been waited for.
    this.#assertMayBegin(settings, startedMs);
    if (!this.#admission.tryEnter()) {
      await this.#waitToEnter(settings, startedMs);
      try {
        this.#assertMayBegin(settings, startedMs);
      } catch (error) {
        this.#admission.leave();
        throw error;
      }
    }
    return await this.#first(source, fn, settings, startedMs);
  }

  /** After a wait: nobody is told of a signal that had aborted before. @throws ERR_CLOSED, ERR_TRANSACTION_TIMEOUT; AbortError */
  #assertMayBegin({ timeoutMs, signal }: TransactionSettings, startedMs: number): void {
    this.pool.assertOpen();
    signal?.throwIfAborted();
    if (performance.now() >= startedMs + timeoutMs) throw timedOut(timeoutMs);
  }

  #waitToEnter({ priority, timeoutMs, signal }: TransactionSettings, startedMs: number): Promise<void> {
    return new Promise((resolve, reject) => {
      const { counts } = this.#board;
      counts[TransactionCounter.Waiting]!++;
      const settle = (): void => {
        counts[TransactionCounter.Waiting]!--;
        clearTimeout(timer);
        signal?.removeEventListener('abort', abort);
      };
      const giveUp = (error: Error): void => {
        leave();
        settle();
        reject(error);
      };
      const abort = (): void => {
        giveUp(signal!.reason as Error);
      };
      const timer = setTimeout(
        () => {
          giveUp(timedOut(timeoutMs));
        },
        Math.max(0, startedMs + timeoutMs - performance.now()),
      );
      signal?.addEventListener('abort', abort, { once: true });
      const leave = this.#admission.wait(priority, performance.now(), () => {
        settle();
        resolve();
      });
    });
  }

  /** The first attempt, in its place already. Without a promise as far as it can be. */
  #first<K, V, T>(
    source: SpaceSource,
    fn: TransactionFunction<K, V, T>,
    settings: TransactionSettings,
    startedMs: number,
  ): Promise<T> {
    const core = this.#openCore(settings, 0, startedMs, startedMs + settings.timeoutMs);
    core.isManaged = true;
    // Who waits for locks meets what was written meanwhile.
    core.anchorsFirst = settings.isPessimistic && settings.isolation === Isolation.RepeatableRead;
    const { signal } = settings;
    if (signal !== undefined) core.listenTo(signal);
    let result: T | Promise<T>;
    try {
      result = fn(new Transaction<K, V>(core, source));
      if (isThenable(result) || core.pendingWrites !== undefined) {
        return this.#rest(core, source, fn, this.#finish(core, result));
      }
      if (this.#mustSend(core)) {
        const attempt = new FirstAttempt(this, core, source, fn, result);
        this.#send(core, attempt);
        return attempt.promise;
      }
    } catch (error) {
      return this.#rest(core, source, fn, Promise.reject(error as Error));
    }
    this.#end(core, undefined);
    return Promise.resolve(result);
  }

  /** The answer to what #first() has sent is here. */
  heard<K, V, T>(attempt: FirstAttempt<K, V, T>, error: Error | undefined): void {
    const { core, source, fn, result } = attempt;
    if (error === undefined) {
      this.#end(core, undefined);
      attempt.resolve(result);
    } else attempt.resolve(this.#rest(core, source, fn, Promise.reject(core.refusal(error))));
  }

  /** Of an attempt whose function was called: waits for its end, and commits. */
  async #finish<T>(core: TransactionCore, result: T | Promise<T>): Promise<T> {
    let value: T;
    if (isThenable(result)) {
      value = await new Promise<T>((resolve, reject) => {
        core.onFailure = reject;
        result.then(resolve, reject);
      });
      core.onFailure = undefined;
    } else value = result;
    await this.#commit(core);
    return value;
  }

  /** What remains of a call when its first attempt is under way: that attempt, and the others. */
  async #rest<K, V, T>(
    first: TransactionCore,
    source: SpaceSource,
    fn: TransactionFunction<K, V, T>,
    firstResult: Promise<T>,
  ): Promise<T> {
    const { settings, age, deadlineMs, startedMs } = first;
    const untilMs = performance.now() + settings.retryMs;
    let core = first;
    let result = firstResult;
    for (let attempt = 0; ; attempt++) {
      let error: unknown;
      try {
        const value = await result;
        this.#end(core, undefined);
        return value;
      } catch (caught) {
        error = caught;
      }
      const isInTime = attempt < settings.retries && performance.now() < untilMs;
      const mayTryAgain = isInTime && isTriedAgain(error) && core.commitRun?.isUnknown !== true;
      const hadReadOnly = core.set.writes === 0;
      // Users may throw undefined.
      this.#end(core, error ?? ROLLED_BACK, mayTryAgain);
      if (!mayTryAgain) throw error;
      try {
        await backOff(attempt, settings.signal);
        if (performance.now() >= deadlineMs) throw timedOut(settings.timeoutMs, error);
        this.pool.assertOpen();
      } catch (why) {
        this.#admission.leave();
        throw why;
      }
      this.#board.counts[TransactionCounter.Retries]!++;
      core = this.#openCore(settings, age, startedMs, deadlineMs);
      core.isManaged = true;
      // What it reads changes too fast for it: it takes a state that stays. Who writes must see the newest.
      core.anchorsFirst =
        settings.isolation === Isolation.RepeatableRead ||
        (settings.isolation === Isolation.Serializable &&
          !settings.isPessimistic &&
          (settings.readOnly || hadReadOnly));
      if (settings.signal !== undefined) core.listenTo(settings.signal);
      result = this.#attempt(core, source, fn);
    }
  }

  async #attempt<K, V, T>(core: TransactionCore, source: SpaceSource, fn: TransactionFunction<K, V, T>): Promise<T> {
    return await this.#finish(core, fn(new Transaction<K, V>(core, source)));
  }

  /**
   * A batch over several shards: blind writes, all or none. Waits for those who have locked its keys for about as long as a single write does.
   * @throws ERR_LOCK_TIMEOUT
   */
  async writeAll(
    operations: readonly BlindWrite[],
    spaces: BatchSpaces,
    level: number,
    signal: AbortSignal | undefined,
  ): Promise<void> {
    const { lockTimeoutMs } = this.#settings;
    const settings = {
      ...this.#settings,
      isolation: Isolation.ReadCommitted,
      level,
      signal,
      retries: Infinity,
      retryMs: lockTimeoutMs,
    };
    const nowMs = performance.now();
    const source = spaces.at(0);
    const write = (tx: Transaction<unknown, unknown>): void => {
      for (const [index, operation] of operations.entries()) {
        const own = spaces.at(index);
        const part = own === source ? tx : tx.space<unknown, unknown>({ source: own });
        part.writeBlind(operation);
      }
    };
    try {
      if (this.#admission.tryEnter()) await this.#first(source, write, settings, nowMs);
      else await this.#admitted(source, write, settings, nowMs);
    } catch (error) {
      // It has read nothing that could have changed: it had to wait.
      if (!(error instanceof ConcordError) || error.code !== 'ERR_CONFLICT') throw error;
      const message = `a batch waited ${lockTimeoutMs} ms for locks`;
      throw new ConcordError('ERR_LOCK_TIMEOUT', message, error.details, { cause: error });
    }
  }

  // ---- commit -----------------------------------------------------------------------------------------------------------------------------

  async #commit(core: TransactionCore): Promise<void> {
    if (core.failure !== undefined) throw core.failure;
    core.phase = Phase.Closing;
    // A write that was waited for may have begun another one.
    for (let pending = core.pendingWrites; pending !== undefined;) {
      await new Promise<void>((resolve, reject) => {
        core.onFailure = reject;
        void pending!.then(() => {
          resolve();
        });
      });
      core.onFailure = undefined;
      const next = core.pendingWrites;
      pending = next === pending ? undefined : next;
    }
    if (!this.#mustSend(core)) return;
    const answer = new PromisedAnswer();
    this.#send(core, answer);
    try {
      await answer.promise;
    } catch (error) {
      throw core.refusal(error as Error);
    }
  }

  /** It is committed now: whether that takes a message. */
  #mustSend(core: TransactionCore): boolean {
    if (core.failure !== undefined) throw core.failure;
    core.phase = Phase.Committing;
    if (mustSend(core)) return true;
    this.#board.counts[TransactionCounter.Silent]!++;
    return false;
  }

  #send(core: TransactionCore, caller: Caller): void {
    this.#board.setCommitting(core.slot);
    sendCommit(core, caller);
    this.#board.counts[core.commitRun === undefined ? TransactionCounter.OneShard : TransactionCounter.ManyShards]!++;
  }

  /** All shards have voted for a commit. */
  votesTook(ms: number): void {
    this.#board.votesTook(ms);
  }

  // ---- their lives ------------------------------------------------------------------------------------------------------------------------

  /** The place of the admission is taken. `age`: of the first attempt; 0: this is it. */
  #openCore(settings: TransactionSettings, age: number, startedMs: number, deadlineMs: number): TransactionCore {
    const kept = this.#sets.pop();
    const set = kept?.set ?? new WorkingSet(this.client.control.shards);
    const stamps = kept?.stamps ?? new ReadStamps(this.client.control);
    const id = this.port.newId();
    const core = new TransactionCore(this, settings, id, age === 0 ? id : age, startedMs, deadlineMs, set, stamps);
    const { counts } = this.#board;
    if (age === 0) counts[TransactionCounter.Begun]!++;
    const { isolation, isPessimistic, priority } = settings;
    core.slot = this.#board.list(id, isolation, isPessimistic, priority, TIME_ORIGIN + startedMs);
    core.after = this.#open;
    if (this.#open !== undefined) this.#open.before = core;
    this.#open = core;
    if (deadlineMs < this.#timerDueMs) this.#arm(deadlineMs);
    return core;
  }

  /** It is over: whatever it holds goes. `error`: why it was not committed. `staysAdmitted`: another attempt follows. */
  #end(core: TransactionCore, error: unknown, staysAdmitted = false): void {
    if (core.phase === Phase.Ended) return;
    core.letGo();
    core.phase = Phase.Ended;
    core.stopListening();
    const { before, after } = core;
    if (before === undefined) this.#open = after;
    else before.after = after;
    if (after !== undefined) after.before = before;
    core.before = undefined;
    core.after = undefined;
    const board = this.#board;
    board.unlist(core.slot);
    if (error === undefined) {
      board.counts[TransactionCounter.Committed]!++;
      board.took(performance.now() - core.startedMs);
    } else this.#countFailure(error);
    if (core.commitRun?.needsBodies === true) keepBodies(core.commitRun);
    if (!core.isShared && this.#sets.length < SETS_KEPT) {
      core.set.reset();
      core.stamps.reset();
      this.#sets.push({ set: core.set, stamps: core.stamps });
    }
    if (!staysAdmitted) this.#admission.leave();
  }

  #countFailure(error: unknown): void {
    const { counts } = this.#board;
    if (error === ROLLED_BACK) counts[TransactionCounter.RolledBack]!++;
    else if (!(error instanceof ConcordError)) counts[TransactionCounter.RolledBack]!++;
    else counts[FAILURE_COUNTERS[error.code] ?? TransactionCounter.OtherFailures]!++;
  }

  #arm(dueMs: number): void {
    clearTimeout(this.#timer);
    this.#timerDueMs = dueMs;
    this.#timer = setTimeout(this.#tick, Math.max(1, Math.ceil(dueMs - performance.now())));
    this.#timer.unref();
  }

  readonly #tick = (): void => {
    const nowMs = performance.now();
    let nextMs = Infinity;
    for (let core = this.#open; core !== undefined;) {
      const { after, deadlineMs } = core;
      if (deadlineMs <= nowMs) core.expire();
      else nextMs = Math.min(nextMs, deadlineMs);
      core = after;
    }
    this.#timerDueMs = Infinity;
    if (nextMs < Infinity) this.#arm(nextMs);
  };

  /** The pool is being closed in this thread: what is open fails. */
  close(error: Error): void {
    for (let core = this.#open; core !== undefined;) {
      const { after } = core;
      // A commit that its one shard was asked for is served, like a write.
      if (core.committer < 0) core.interrupt(error);
      core = after;
    }
    clearTimeout(this.#timer);
    this.#board.clear();
  }
}

const TIME_ORIGIN = performance.timeOrigin;
const ROLLED_BACK = new ConcordError('ERR_TRANSACTION_CLOSED', 'the transaction was rolled back');

function isThenable(value: unknown): value is PromiseLike<unknown> {
  return typeof value === 'object' && value !== null && typeof (value as { then?: unknown }).then === 'function';
}

function isTriedAgain(error: unknown): boolean {
  return error instanceof ConcordError && TRIED_AGAIN.has(error.code);
}

/** A pause of random length, so that those who met do not meet again. */
async function backOff(attempt: number, signal: AbortSignal | undefined): Promise<void> {
  const limitMs = Math.min(BACK_OFF_MS_MAX, BACK_OFF_MS * 2 ** Math.min(attempt, BACK_OFF_DOUBLINGS_MAX));
  const pauseMs = Math.random() * limitMs;
  await new Promise((resolve) => {
    // Timers count whole milliseconds.
    if (pauseMs < 1) setImmediate(resolve);
    else setTimeout(resolve, pauseMs);
  });
  signal?.throwIfAborted();
}
