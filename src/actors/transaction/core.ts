/**
 * One attempt of a transaction, behind the handle its user has: its state, what it has read and is going to write, and how reads of several keys stay
 * one state although nothing is locked and, mostly, no snapshot is open.
 *
 * The floating state (optimistic; repeatable-read and serializable). Reads take the newest version and remember its number. Before a read is
 * given out, everything read before must still hold at one instant, now: then the transaction is one that happened at that instant, so far.
 *
 *   1. Nothing has changed in the shards read from (ReadStamps): two loads per shard.
 *   2. Otherwise, up to RECHECKS_MAX keys are looked up again, the one just read included. A version number that is there twice was there all the
 *      time in between. Absence is not like that (put and deleted in between): one absent key is looked at first, and all others held at that instant.
 *      Two cannot be done so.
 *   3. Otherwise the transaction anchors: a snapshot S is opened, everything read must be what S sees (or ERR_CONFLICT), and reads are at S from then on.
 *
 * Scans anchor before they begin. read-committed does none of this: its reads are single ones.
 *
 *   Active ──commit()──▶ Closing ──what was begun has ended──▶ Committing ──▶ Ended         rollback(), a failure: ──▶ Ended
 *
 * Pessimistic: reads that hold their lock cannot change and are left out of 1. and 2.; see locks.ts.
 * Threads: the one that owns the client.
 */
import { isMainThread } from 'node:worker_threads';
import { ConcordError } from '../../shared/errors.js';
import { slotOf } from '../../shared/hash.js';
import { Isolation, type IsolationLevel, type TransactionBodyWriter } from '../../engines/txn/body.js';
import { COLD_ATTEMPTS_MAX, ColdReadError } from '../../engines/lsm/read/cold.js';
import type { SpaceView } from '../client/space-view.js';
import type { ThreadClient } from '../client/thread-client.js';
import type { ControlBlock } from '../control-block.js';
import type { SpaceSource } from '../pool/source.js';
import type { CommitRun } from './commit.js';
import { LockBook } from './locks.js';
import type { TransactionManager } from './manager.js';
import type { TransactionSettings } from './options.js';
import type { ReadStamps } from './read-stamps.js';
import { NOT_READ, type KeyEntry, type WorkingSet } from './working-set.js';

/** Keys looked up again before a snapshot is the cheaper way. */
const RECHECKS_MAX = 4;
/** The main thread is mostly the one that replaces a dead shard: it must not wait for one for long. */
const MAIN_WAIT_MS_MAX = 1000;

export const Phase = { Active: 0, Closing: 1, Committing: 2, Ended: 3 } as const;

/** A scan that the commit must find unchanged; the bounds are those of what was really given out. */
export interface RangeRead {
  readonly source: SpaceSource;
  low: Buffer | undefined;
  high: Buffer | undefined;
  /** Nothing was given out. */
  isEmpty: boolean;
}

export class TransactionCore {
  readonly manager: TransactionManager;
  readonly client: ThreadClient;
  readonly control: ControlBlock;
  readonly settings: TransactionSettings;
  readonly isolation: IsolationLevel;
  readonly isPessimistic: boolean;
  readonly #floats: boolean;
  readonly id: number;
  /** Id of the first attempt. */
  readonly age: number;
  /** performance.now() when it is over. */
  readonly deadlineMs: number;
  readonly startedMs: number;
  set: WorkingSet;
  stamps: ReadStamps;
  phase: number = Phase.Active;
  /** Why nothing more can be done in it. */
  failure: Error | undefined;
  /** Told when it is interrupted. */
  onFailure: ((error: Error) => void) | undefined;
  /** Time by which expiry is judged; 0: that of each read. */
  readMs = 0;
  /** The snapshot it reads at, or -1. */
  snapshotAt = -1;
  #snapshotSlot = -1;
  /** Of snapshots that its open iterators have of their own. */
  #ownSlots: Set<number> | undefined;
  #anchoring: Promise<void> | undefined;
  /** Reads begin with a snapshot: an attempt before this one had read what did not stay, or nobody will try again. */
  anchorsFirst = false;
  /** What the commit waits for, while it can still be given up. */
  commitRun: CommitRun<TransactionBodyWriter> | undefined;
  /** The one shard that was asked to commit it, or -1. */
  committer = -1;
  /** Why that shard was told to give it up. */
  #givenUp: Error | undefined;
  ranges: RangeRead[] | undefined;
  /** Names that were made up. */
  savepoints = 0;
  /** Updates run one after another. */
  lastUpdate: Promise<unknown> | undefined;
  #locks: LockBook | undefined;
  /** Calls that write and are not through: the commit waits for them. */
  #pendingWrites: Promise<unknown> | undefined;
  /** Something may come back later and look at the working set: no other transaction may have it. */
  isShared = false;
  /** Its function's return commits it. */
  isManaged = false;
  #listener: (() => void) | undefined;
  /** In the manager's list of those that are open. */
  before: TransactionCore | undefined;
  after: TransactionCore | undefined;
  /** On the board of transactions. */
  slot = -1;

  constructor(
    manager: TransactionManager,
    settings: TransactionSettings,
    id: number,
    age: number,
    startedMs: number,
    deadlineMs: number,
    set: WorkingSet,
    stamps: ReadStamps,
  ) {
    this.manager = manager;
    this.client = manager.client;
    this.control = manager.client.control;
    this.settings = settings;
    this.isolation = settings.isolation;
    this.isPessimistic = settings.isPessimistic;
    this.#floats = !settings.isPessimistic && settings.isolation !== Isolation.ReadCommitted;
    this.id = id;
    this.age = age;
    this.startedMs = startedMs;
    this.deadlineMs = deadlineMs;
    this.set = set;
    this.stamps = stamps;
  }

  // ---- state ------------------------------------------------------------------------------------------------------------------------------

  /** For calls of the user. @throws ERR_TRANSACTION_CLOSED, why it failed */
  assertActive(): void {
    if (this.phase !== Phase.Active || this.failure !== undefined) throw this.#whyClosed();
  }

  /** For what was begun while it was active. @throws ERR_TRANSACTION_CLOSED, why it failed */
  assertAlive(): void {
    if (this.phase > Phase.Closing || this.failure !== undefined) throw this.#whyClosed();
  }

  #whyClosed(): Error {
    return this.failure ?? transactionClosed();
  }

  /** @throws ERR_TRANSACTION_READ_ONLY, ERR_READ_ONLY, as assertActive() */
  assertWritable(): void {
    this.assertActive();
    if (this.settings.readOnly) {
      throw new ConcordError('ERR_TRANSACTION_READ_ONLY', 'the transaction was begun with readOnly: it cannot write');
    }
    if (this.manager.isStoreReadOnly) throw new ConcordError('ERR_READ_ONLY', 'the store was opened read-only');
  }

  /** Nothing more happens in it: what it holds goes at once, calls under way and later ones fail with the error. */
  fail(error: Error | undefined): void {
    if (this.failure !== undefined || this.phase >= Phase.Committing) return;
    // Users may throw undefined.
    this.failure = error ?? transactionClosed();
    this.letGo();
    if (!this.isManaged && this.phase === Phase.Active) this.manager.endFailed(this, this.failure);
  }

  /** From outside: its time is up, or its signal says so. What is decided stays. */
  interrupt(error: Error): void {
    if (this.phase === Phase.Ended || this.failure !== undefined) return;
    if (this.phase === Phase.Committing) {
      if (this.commitRun === undefined) this.#giveUp(error);
      else this.commitRun.abort(error);
      return;
    }
    this.fail(error);
    this.onFailure?.(error);
  }

  /** One that waits in its shard for a lock will not be applied. The answer says whether it was: the shard may have begun. */
  #giveUp(error: Error): void {
    // One that holds locks waits for none.
    if (this.committer < 0 || this.isPessimistic || this.#givenUp !== undefined) return;
    this.#givenUp = error;
    this.manager.port.giveUp(this.committer, this.id);
  }

  /** The commit was refused: what its caller hears. */
  refusal(error: Error): Error {
    if (this.committer < 0 || !(error instanceof ConcordError)) return error;
    if (error.code === 'ERR_TRANSACTION_CLOSED') return this.#givenUp ?? error;
    // The shard lets it wait no longer than it may last, and may come to the end before the timer does.
    const isOver = error.code === 'ERR_LOCK_TIMEOUT' && performance.now() + 1 >= this.deadlineMs;
    return isOver ? timedOut(this.settings.timeoutMs, error) : error;
  }

  /** Its time is over. */
  expire(): void {
    this.interrupt(timedOut(this.settings.timeoutMs));
  }

  listenTo(signal: AbortSignal): void {
    this.#listener = () => {
      this.interrupt(signal.reason as Error);
    };
    signal.addEventListener('abort', this.#listener, { once: true });
  }

  stopListening(): void {
    if (this.#listener === undefined) return;
    this.settings.signal?.removeEventListener('abort', this.#listener);
    this.#listener = undefined;
  }

  /** Locks and snapshots, those of iterators that were left open included. Safe to call twice. */
  letGo(): void {
    this.#locks?.releaseAll();
    this.closeSnapshot();
    if (this.#ownSlots === undefined) return;
    for (const slot of this.#ownSlots) this.control.closeSnapshot(slot, this.client.client);
    this.#ownSlots = undefined;
  }

  /** An iterator has a snapshot of its own, until it gives it back or the transaction ends. Only while the transaction is alive. */
  ownSlot(slot: number): void {
    (this.#ownSlots ??= new Set()).add(slot);
  }

  /** The iterator is closed. What the transaction's end has given back may be another snapshot's by now. */
  giveBackSlot(slot: number): void {
    if (this.#ownSlots?.delete(slot) === true) this.control.closeSnapshot(slot, this.client.client);
  }

  closeSnapshot(): void {
    if (this.#snapshotSlot < 0) return;
    const slot = this.#snapshotSlot;
    this.#snapshotSlot = -1;
    this.control.closeSnapshot(slot, this.client.client);
  }

  get locks(): LockBook {
    return (this.#locks ??= new LockBook(this));
  }

  get hasLocks(): boolean {
    return this.#locks !== undefined;
  }

  /** The commit waits for it; what becomes of it is the caller's of `work`, and the commit's too. */
  track<T>(work: Promise<T>): Promise<T> {
    this.isShared = true;
    const before = this.#pendingWrites;
    const settled = work.catch((error: unknown) => {
      this.fail(error as Error | undefined);
    });
    this.#pendingWrites = before === undefined ? settled : before.then(() => settled);
    return work;
  }

  /** Settles when the calls that write are through; undefined: none is under way. */
  get pendingWrites(): Promise<unknown> | undefined {
    return this.#pendingWrites;
  }

  // ---- keys -------------------------------------------------------------------------------------------------------------------------------

  shardOf(source: SpaceSource, hash: number): number {
    return source.views.length === 1 ? 0 : this.control.slots[slotOf(hash)]!;
  }

  /** Before the first read or write: its time is that of the first one. */
  open(): void {
    if (this.readMs === 0 && this.isolation !== Isolation.ReadCommitted) this.readMs = Date.now();
  }

  /** A read must open the snapshot first. */
  get mustAnchor(): boolean {
    return this.anchorsFirst && this.snapshotAt < 0;
  }

  get readsAtSnapshot(): boolean {
    return this.snapshotAt >= 0 && this.isolation !== Isolation.ReadCommitted;
  }

  /** What is decided, and may show elsewhere already, shows in the shard, too, when it returns. @throws ERR_TIMEOUT, ERR_SHARD_FAILED */
  #awaitNewest(shard: number, hash: number): void {
    const { commits } = this.control;
    if (this.control.shards === 1 || commits.isEmpty || !commits.mayBePrepared(shard, hash)) return;
    try {
      commits.waitForShardSync(shard, Math.min(isMainThread ? MAIN_WAIT_MS_MAX : Infinity, this.#remainingMs));
    } catch (error) {
      this.#failWait(error);
    }
  }

  /** A wait that lasts no longer than the transaction may: if that is over, it says more than the end of the wait. @throws always */
  #failWait(error: unknown): never {
    // Waits count whole milliseconds, and may come to the end before the timer does.
    if (performance.now() + 1 >= this.deadlineMs) this.expire();
    this.assertAlive();
    throw error;
  }

  get #remainingMs(): number {
    return Math.max(0, this.deadlineMs - performance.now());
  }

  /**
   * Finds the key as the transaction sees it. When true, the view's reader stands at the version, and the caller calls release(). What was found
   * counts only after settle() has said so.
   */
  find(view: SpaceView, shard: number, hash: number, key: Uint8Array, keyLength: number): boolean {
    if (this.readsAtSnapshot) return view.find(key, keyLength, this.snapshotAt, this.readMs);
    if (this.isolation !== Isolation.ReadCommitted) this.stamps.take(shard);
    this.#awaitNewest(shard, hash);
    return view.find(key, keyLength, Infinity, this.readMs);
  }

  /** Whether reads take the newest version, and their numbers are all there is to them. */
  get canFloat(): boolean {
    return this.#floats && this.snapshotAt < 0 && !this.anchorsFirst;
  }

  /** find(), while canFloat. */
  findNewest(view: SpaceView, shard: number, hash: number, key: Uint8Array, keyLength: number): boolean {
    this.stamps.take(shard);
    this.#awaitNewest(shard, hash);
    return view.find(key, keyLength, Infinity, this.readMs);
  }

  /** Nothing that was read before has changed. */
  hold(): boolean {
    const { set } = this;
    return set.noted + set.floatingCount === 0 || this.stamps.hold();
  }

  /** find(), but it does not wait for a file: what must be loaded first is returned, and nothing is held. */
  tryFind(view: SpaceView, shard: number, hash: number, key: Uint8Array, keyLength: number): boolean | ColdReadError {
    if (!view.mayBeCold) return this.find(view, shard, hash, key, keyLength);
    const atSeq = this.readsAtSnapshot ? this.snapshotAt : Infinity;
    if (atSeq === Infinity && this.isolation !== Isolation.ReadCommitted) this.stamps.take(shard);
    return view.tryFind(key, keyLength, atSeq, this.readMs, true);
  }

  /** Whether a read must wait until the shard has applied what is decided, and may show elsewhere already. */
  mustWaitFor(shard: number, hash: number): boolean {
    const { commits } = this.control;
    if (this.control.shards === 1 || commits.isEmpty || this.readsAtSnapshot) return false;
    return commits.mayBePrepared(shard, hash);
  }

  /** So that the next find() of the key need not wait, neither for a shard nor for a file. undefined: it need not. */
  warm(
    source: SpaceSource,
    view: SpaceView,
    shard: number,
    hash: number,
    key: Uint8Array,
    keyLength: number,
  ): Promise<void> | undefined {
    const mustWait = this.mustWaitFor(shard, hash);
    if (!mustWait && !view.mayBeCold) return undefined;
    this.isShared = true;
    return this.#warm(source, view, shard, Buffer.from(key.subarray(0, keyLength)), mustWait);
  }

  async #warm(source: SpaceSource, view: SpaceView, shard: number, key: Buffer, mustWait: boolean): Promise<void> {
    if (mustWait) {
      try {
        await this.control.commits.waitForShard(shard, this.#remainingMs);
      } catch (error) {
        this.#failWait(error);
      }
      this.assertAlive();
    }
    if (!view.mayBeCold) return;
    const atSeq = this.readsAtSnapshot ? this.snapshotAt : Infinity;
    for (let attempt = 1; attempt < COLD_ATTEMPTS_MAX; attempt++) {
      const outcome = view.tryFind(key, key.length, atSeq, this.readMs, false);
      if (!(outcome instanceof ColdReadError)) {
        if (outcome) view.release();
        return;
      }
      await outcome.load();
      this.assertAlive();
      source.assertUsable();
    }
  }

  /** Number of the version of the key that a read at the number (Infinity: the newest) finds, 0 if none. */
  #versionAt(entry: KeyEntry, atSeq: number): number {
    const view = entry.source.views[entry.shard]!;
    if (atSeq === Infinity) this.#awaitNewest(entry.shard, entry.hash);
    if (!view.find(entry.key, entry.keyLength, atSeq, this.readMs)) return 0;
    const { seq } = view.reader;
    view.release();
    return seq;
  }

  // ---- the floating state -----------------------------------------------------------------------------------------------------------------

  /**
   * The entry was found with this number (0: not found) by find(), just now. True: it may be given out, and is remembered. False: the
   * transaction has an anchor now, or must get one by anchor() first; then the key must be read again.
   * @throws ERR_CONFLICT what was read before does not hold any more
   */
  settle(entry: KeyEntry, seq: number): boolean {
    const { set } = this;
    if (this.isolation === Isolation.ReadCommitted) return true;
    set.unfold();
    // After the find: what it has found may be of a time when they were gone.
    this.#locks?.assertHeld();
    if (this.readsAtSnapshot) {
      if (entry.seen !== NOT_READ && entry.seen !== seq) throw changedMeanwhile(entry);
      set.noteRead(entry, seq);
      return true;
    }
    const isLocked = entry.lockHeld > 0;
    if (entry.seen !== NOT_READ) {
      if (entry.seen !== seq) throw changedMeanwhile(entry);
      return true;
    }
    const others = set.floatingCount;
    if (others === 0 || this.stamps.hold()) {
      this.#remember(entry, seq, isLocked);
      return true;
    }
    if (others + (isLocked ? 0 : 1) > RECHECKS_MAX || set.floatingAbsent + (seq === 0 && !isLocked ? 1 : 0) > 1)
      return false;
    this.stamps.renew();
    this.#remember(entry, seq, isLocked);
    this.#recheck(0);
    this.#recheck(1);
    return true;
  }

  #remember(entry: KeyEntry, seq: number, isLocked: boolean): void {
    this.set.noteRead(entry, seq);
    if (isLocked) return;
    this.set.noteFloating(entry);
  }

  /** 0: what was absent, 1: what was there. @throws ERR_CONFLICT */
  #recheck(which: 0 | 1): void {
    const { floating, floatingCount } = this.set;
    for (let index = 0; index < floatingCount; index++) {
      const entry = floating[index]!;
      if ((entry.seen === 0 ? 0 : 1) !== which) continue;
      if (this.#versionAt(entry, Infinity) !== entry.seen) throw changedMeanwhile(entry);
    }
  }

  /**
   * repeatable-read, before a key is written that was not read: the version it has in the state that is read, for the commit must find that one.
   * @throws ERR_CONFLICT
   */
  noteBlind(entry: KeyEntry): void {
    if (this.isolation !== Isolation.RepeatableRead || this.isPessimistic) return;
    // With a snapshot, or one to come, it is found there when the transaction commits.
    if (entry.seen !== NOT_READ || this.snapshotAt >= 0 || this.anchorsFirst) return;
    this.stamps.take(entry.shard);
    if (!this.settle(entry, this.#versionAt(entry, Infinity))) this.anchorSync();
  }

  /** The same when it commits, of a key that was not read before there was a snapshot. */
  noteBlindAtSnapshot(entry: KeyEntry): void {
    if (this.isolation !== Isolation.RepeatableRead || entry.seen !== NOT_READ || this.snapshotAt < 0) return;
    this.set.noteRead(entry, this.#versionAt(entry, this.snapshotAt));
  }

  /** The commit looks whether the key still has this version, whatever the isolation. @throws ERR_CONFLICT: it had another one before */
  guard(entry: KeyEntry, seq: number): void {
    if (entry.isGuarded && entry.seen !== NOT_READ && entry.seen !== seq) throw changedMeanwhile(entry);
    entry.isGuarded = true;
    if (this.isolation !== Isolation.ReadCommitted) return;
    this.set.noteRead(entry, seq);
    entry.seen = seq;
  }

  /** The commit finds [low, high) as it is at the anchor, or fails. */
  addRange(source: SpaceSource, low: Buffer | undefined, high: Buffer | undefined): RangeRead {
    const range = { source, low, high, isEmpty: false };
    (this.ranges ??= []).push(range);
    return range;
  }

  /** Opens the snapshot, blocking. @throws ERR_CONFLICT, ERR_SNAPSHOT_LIMIT, ERR_TIMEOUT */
  anchorSync(): void {
    if (this.snapshotAt >= 0) return;
    this.open();
    this.#adopt(this.control.openSnapshotSync(this.client.client));
  }

  /** The same while the event loop runs. */
  anchor(): Promise<void> {
    if (this.snapshotAt >= 0) return Promise.resolve();
    this.open();
    this.isShared = true;
    this.#anchoring ??= this.#anchor().finally(() => {
      this.#anchoring = undefined;
    });
    return this.#anchoring;
  }

  async #anchor(): Promise<void> {
    const held = await this.control.openSnapshot(this.client.client);
    if (this.snapshotAt >= 0 || this.phase > Phase.Closing || this.failure !== undefined) {
      this.control.closeSnapshot(held.slot, this.client.client);
      this.assertAlive();
      return;
    }
    this.#adopt(held);
  }

  #adopt(held: { slot: number; sequence: number }): void {
    this.#snapshotSlot = held.slot;
    this.snapshotAt = held.sequence;
    this.#checkReadsAt(held.sequence);
  }

  /**
   * A locked range is read at a snapshot of its own, the newest state: what was read without a lock before must be of that state, too. (What is read later is
   * compared with that, and the range stays.) @throws ERR_CONFLICT
   */
  checkFloatingAt(sequence: number): void {
    this.#locks?.assertHeld();
    if (this.set.noted + this.set.floatingCount > 0) this.#checkReadsAt(sequence);
  }

  #checkReadsAt(sequence: number): void {
    const { set } = this;
    set.unfold();
    if (this.isolation === Isolation.ReadCommitted || set.reads === 0) return;
    for (let index = 0; index < set.count; index++) {
      const entry = set.entries[index]!;
      if (entry.seen === NOT_READ) continue;
      if (this.#versionAt(entry, sequence) !== entry.seen) throw changedMeanwhile(entry);
    }
  }
}

export function transactionClosed(): ConcordError {
  return new ConcordError('ERR_TRANSACTION_CLOSED', 'the transaction has ended');
}

function changedMeanwhile(entry: KeyEntry): ConcordError {
  return new ConcordError('ERR_CONFLICT', 'a key the transaction has read was changed meanwhile', {
    space: entry.source.name,
    shard: entry.shard,
  });
}

export function timedOut(timeoutMs: number, cause?: unknown): ConcordError {
  return new ConcordError(
    'ERR_TRANSACTION_TIMEOUT',
    `the transaction was not decided within ${timeoutMs} ms`,
    { timeoutMs },
    cause === undefined ? undefined : { cause },
  );
}
