/**
 * The locks of one shard: who holds which keys and ranges, who waits for them, in which order they come.
 *
 *                 holds → shared  update  exclusive   range shared  range exclusive
 *   wants shared            yes     yes       -           yes             -
 *         update            yes      -        -           yes             -
 *         exclusive          -       -        -            -              -
 *         range shared      yes     yes       -           yes             -
 *         range exclusive    -       -        -            -              -
 *
 * A key lock meets every range of its space that holds the key, whether the key exists or not: so gaps are locked too. Nobody's own locks are in
 * their way, and a lock that one's stronger or wider lock covers is granted without a trace.
 *
 * Owners are transactions. *Anonymous* waiters (plain writes, one-shard commits) hold nothing: they are called when nothing they want is locked
 * against them, and do their work in that call.
 *
 * Order: upgrades (requests where the owner holds something already) go first, then higher priority, then lower age, then who came first. A request waits for every
 * holder it conflicts with and for every waiter before it that it conflicts with, even where the holders would let it pass, so nobody is overtaken
 * forever. A waiter that itself waits for the requester never holds it up.
 *
 * What a waiter is said to wait for: in the queue of a key the nearest request that is in its way stands for all further ahead that are in the way of that
 * one. So a queue of n costs n edges, a lock that changes hands changes one and looks at who is next, and every cycle of the full graph is one of this graph. Who waits
 * for nobody (prepared, ended) may be named for longer than it is in the way: it is in no cycle.
 *
 * Policies. detect: waits and their blockers are told (onWait, onUnwait), and somebody who sees all shards ends one of a cycle (kill). wait-die: a
 * request fails as soon as it waits, directly or behind others, for a holder that is senior (higher priority, then older) to its owner. wound-wait: a
 * request takes the locks of all that it waits for and that are junior; they fail at their next step here. In neither does anybody wait for ever:
 * of those that would, the most junior (most senior) has nobody left to wait for. Prepared owners are neither wounded nor died for: their end is near.
 *
 * Nothing escalates by itself: a lock stands for what was asked, and `locksPerOwnerMax` refuses what is too much.
 *
 * Invariants: no two owners ever hold locks that conflict; a waiter that nobody holds up is granted before the call that made it so returns; a
 * table without locks and waiters is empty. onGrant and onFail run in the order of the queues; what they call of the table happens at once, what
 * follows from it after them.
 *
 * Threads: its shard's thread only. No clock: times are parameters, in milliseconds of any one clock.
 */
import { assert } from '../../../shared/assert.js';
import { ConcordError, type ErrorDetails } from '../../../shared/errors.js';
import { IdMap } from '../../../shared/id-map.js';
import { BlockerSearch } from './blockers.js';
import { DeadlineHeap } from './deadlines.js';
import type { LockDescription, LockHolder } from './description.js';
import { closedError, diedError, timeoutError, tooManyError, woundedError } from './errors.js';
import { LOWEST_KEY } from './interval-tree.js';
import { LockIndex } from './lock-index.js';
import {
  addGrant,
  dequeue,
  enqueue,
  Grant,
  grantOf,
  isCompatible,
  isEmptyRange,
  isSenior,
  LockOwner,
  LockWait,
  removeGrant,
  type Lock,
  type LockPoint,
  type Point,
} from './lock.js';
import { CONFLICTING_MODES, ENCLOSED_MODES, LockMode, isIn, modesConflict } from './mode.js';

export type DeadlockPolicy = 'detect' | 'wait-die' | 'wound-wait';

/** What tryKey() and conflict() answer when an anonymous waiter is in the way. */
const ANONYMOUS = -1;

/** Grants kept for reuse. */
const POOLED_MAX = 8192;

export interface LockTableOptions {
  readonly policy: DeadlockPolicy;
  /** Locks that one owner may hold, the most; more is ERR_TRANSACTION_TOO_LARGE. Default: no limit. */
  readonly locksPerOwnerMax?: number;
}

/** What the table tells. onGrant and onFail are called when the table is whole, and may call it again; the others only take notice. */
export interface LockEvents<T> {
  /** A waiting request has its lock; an anonymous one may do its work now, before this call returns. */
  onGrant(wait: LockWait<T>): void;
  /** A waiting request ended without its lock. */
  onFail(wait: LockWait<T>, error: ConcordError): void;
  /** `detect` only: an owner's wait began, or its blockers are others now. `blockers` and `revision` are up to date. */
  onWait?(wait: LockWait<T>): void;
  /** A wait that was told has ended, in whatever way. */
  onUnwait?(wait: LockWait<T>): void;
  /** `wound-wait` only: an owner lost its locks here to `by`. */
  onWound?(owner: LockOwner<T>, by: LockOwner<T>): void;
}

export interface LockFigures {
  /** Locks held now; owners' requests and anonymous ones that wait now. */
  held: number;
  waiting: number;
  waitingAnonymous: number;
  /** Since the table began. */
  grants: number;
  waits: number;
  upgrades: number;
  timeouts: number;
  deadlocks: number;
  died: number;
  wounded: number;
}

export class LockTable<T> {
  readonly #events: LockEvents<T>;
  readonly #policy: DeadlockPolicy;
  readonly #locksPerOwnerMax: number;
  readonly #figures: LockFigures = {
    held: 0,
    waiting: 0,
    waitingAnonymous: 0,
    grants: 0,
    waits: 0,
    upgrades: 0,
    timeouts: 0,
    deadlocks: 0,
    died: 0,
    wounded: 0,
  };
  readonly #owners = new IdMap<LockOwner<T>>();
  /** Seated waits by number. */
  readonly #waits = new Map<number, LockWait<T>>();
  readonly #deadlines = new DeadlineHeap<T>();
  #waitNumbers = 0;

  readonly #index = new LockIndex<T>();
  readonly #search: BlockerSearch<T>;

  #freeGrants: Grant<T> | undefined = undefined;
  #freeGrantCount = 0;

  #isSettling = false;
  /** To be looked at again, oldest change first. */
  #work: LockWait<T>[] = [];
  #failures: { readonly wait: LockWait<T>; readonly error: ConcordError }[] = [];
  #dirty: LockWait<T>[] = [];

  constructor(options: LockTableOptions, events: LockEvents<T>) {
    this.#policy = options.policy;
    this.#locksPerOwnerMax = options.locksPerOwnerMax ?? Infinity;
    this.#events = events;
    this.#search = new BlockerSearch<T>(this.#index, options.policy === 'wait-die');
  }

  get policy(): DeadlockPolicy {
    return this.#policy;
  }

  /** Figures as they are now; the object changes with the table. */
  get figures(): Readonly<LockFigures> {
    return this.#figures;
  }

  /** Whether nothing is locked or wanted. */
  get isEmpty(): boolean {
    return this.#index.isEmpty;
  }

  /** Whether surely nothing is locked or wanted that holds a key of this hash, in any space. False says nothing. */
  isFree(hash: number): boolean {
    return this.#index.isFree(hash);
  }

  /** The owner of this id, made if it is new. It stays until release(). */
  owner(id: number, age: number, priority: number, client: number): LockOwner<T> {
    let owner = this.#owners.get(id);
    if (owner === undefined) {
      owner = new LockOwner<T>(id, age, priority, client);
      this.#owners.set(id, owner);
    }
    return owner;
  }

  findOwner(id: number): LockOwner<T> | undefined {
    return this.#owners.get(id);
  }

  /**
   * Locks the key bytes[start, start + length). Undefined: it is locked. Otherwise the request waits, and onGrant or onFail ends it; that may have
   * happened before this returns.
   * Fails at once with ERR_DEADLOCK (wait-die, or the owner was wounded), ERR_LOCK_TIMEOUT (the deadline is not after now) or
   * ERR_TRANSACTION_TOO_LARGE.
   */
  acquireKey(
    owner: LockOwner<T>,
    space: number,
    bytes: Uint8Array,
    start: number,
    length: number,
    hash: number,
    mode: LockMode,
    deadlineMs: number,
    nowMs: number,
    context: T,
  ): LockWait<T> | undefined {
    checkOwner(owner);
    if (this.#grantFreeKey(owner, space, bytes, start, length, hash, mode)) return undefined;
    const wait = this.#newWait(owner, deadlineMs, nowMs, context);
    wait.wantKey(space, bytes, start, length, hash, mode);
    return this.#request(wait);
  }

  /** Locks all keys of [low, high), open where undefined, whether they exist or not. As acquireKey(). An empty range is locked by everybody. */
  acquireRange(
    owner: LockOwner<T>,
    space: number,
    low: Uint8Array | undefined,
    high: Uint8Array | undefined,
    mode: LockMode,
    deadlineMs: number,
    nowMs: number,
    context: T,
  ): LockWait<T> | undefined {
    checkRangeMode(mode);
    checkOwner(owner);
    if (this.coversRange(owner, space, low, high, mode)) return undefined;
    const wait = this.#newWait(owner, deadlineMs, nowMs, context);
    wait.wantRange(space, low, high, mode);
    return this.#request(wait);
  }

  /**
   * Locks the key if nobody is in the way, waiters before it included; 0: it is locked, else who is in the way (ANONYMOUS: a waiter that is no
   * transaction). Several at once: the caller releases the owner when one of them fails.
   */
  tryKey(
    owner: LockOwner<T>,
    space: number,
    bytes: Uint8Array,
    start: number,
    length: number,
    hash: number,
    mode: LockMode,
  ): number {
    checkAlive(owner);
    if (owner.woundedBy !== 0) return owner.woundedBy;
    if (this.#grantFreeKey(owner, space, bytes, start, length, hash, mode)) return 0;
    return this.#tryPoint(owner, probeOf<T>(owner).wantKey(space, bytes, start, length, hash, mode));
  }

  /** As tryKey(). */
  tryRange(
    owner: LockOwner<T>,
    space: number,
    low: Uint8Array | undefined,
    high: Uint8Array | undefined,
    mode: LockMode,
  ): number {
    checkRangeMode(mode);
    checkAlive(owner);
    if (owner.woundedBy !== 0) return owner.woundedBy;
    if (this.coversRange(owner, space, low, high, mode)) return 0;
    return this.#tryPoint(owner, probeOf<T>(owner).wantRange(space, low, high, mode));
  }

  /** Whether the owner holds a lock of the key that is at least as strong: of the key itself or of a range. */
  covers(
    owner: LockOwner<T>,
    space: number,
    bytes: Uint8Array,
    start: number,
    length: number,
    hash: number,
    mode: LockMode,
  ): boolean {
    const lock = this.#index.find(space, bytes, start, length, hash);
    if (lock !== undefined) {
      const grant = grantOf(lock, owner);
      if (grant !== undefined && grant.mode >= mode) return true;
    }
    return this.#index.rangeCoversKey(owner, space, bytes, start, length, mode);
  }

  /** Whether the owner holds one lock of a range that holds all of [low, high) and is at least as strong. An empty range is everybody's. */
  coversRange(
    owner: LockOwner<T>,
    space: number,
    low: Uint8Array | undefined,
    high: Uint8Array | undefined,
    mode: LockMode,
  ): boolean {
    if (isEmptyRange(low, high)) return true;
    return this.#index.rangeCovers(owner, space, low ?? LOWEST_KEY, high, mode);
  }

  /** Who would be in the way of a plain access to the key: 0 nobody, else a transaction's id, or ANONYMOUS. */
  conflict(
    space: number,
    bytes: Uint8Array,
    start: number,
    length: number,
    hash: number,
    mode: LockMode,
    age: number,
    priority = 0,
  ): number {
    if (this.isFree(hash)) return 0;
    const lock = this.#index.find(space, bytes, start, length, hash);
    if (lock === undefined && !this.#index.hasRanges(space)) return 0;
    const probe = anonymousProbe<T>(age, priority);
    probe.wantKey(space, bytes, start, length, hash, mode).lock = lock;
    return this.#inTheWay(probe);
  }

  /** As conflict(), for a change of all keys of [low, high). */
  conflictRange(
    space: number,
    low: Uint8Array | undefined,
    high: Uint8Array | undefined,
    mode: LockMode,
    age: number,
    priority = 0,
  ): number {
    if (this.isEmpty || isEmptyRange(low, high)) return 0;
    const probe = anonymousProbe<T>(age, priority);
    probe.wantRange(space, low, high, mode);
    const id = this.#inTheWay(probe);
    this.#index.closeSpace(space);
    return id;
  }

  /**
   * Waits, holding nothing, until none of the points is locked against it and none who comes before wants them. Undefined: that is so now.
   * Fails at once with ERR_LOCK_TIMEOUT when the deadline is not after now. Range points must not be empty.
   */
  waitAnonymous(
    points: readonly LockPoint[],
    client: number,
    age: number,
    priority: number,
    deadlineMs: number,
    nowMs: number,
    context: T,
  ): LockWait<T> | undefined {
    const wait = new LockWait<T>(++this.#waitNumbers, undefined, client, age, priority, deadlineMs, nowMs, context);
    for (const { space, mode, key, hash, low, high } of points) {
      if (key !== undefined) wait.wantKey(space, key, 0, key.length, hash ?? 0, mode);
      else if (!isEmptyRange(low, high)) wait.wantRange(space, low, high, mode);
    }
    return wait.points.length === 0 ? undefined : this.#request(wait);
  }

  /** Ends a transaction here: its locks go to who comes next, its waiting requests fail with ERR_TRANSACTION_CLOSED. Unknown ids are nothing to do. */
  release(id: number): void {
    const owner = this.#owners.get(id);
    if (owner === undefined) return;
    this.#owners.delete(id);
    owner.isReleased = true;
    this.#dropOwner(owner, undefined);
    this.#settle();
  }

  /** Ends all transactions of a client that are not prepared, and its anonymous waiters. */
  releaseClient(client: number): void {
    for (const owner of this.#owners.values()) {
      if (owner.client !== client || owner.isPrepared) continue;
      this.#owners.delete(owner.id);
      owner.isReleased = true;
      this.#dropOwner(owner, undefined);
    }
    for (const wait of [...this.#waits.values()])
      if (wait.owner === undefined && wait.client === client) this.#fail(wait, closedError());
    this.#settle();
  }

  /** From here on nobody takes the owner's locks away, whatever happens to its client: only release() does. */
  markPrepared(owner: LockOwner<T>): void {
    owner.isPrepared = true;
    // Who waits for it need not die any more; who would wound it, waits. Blockers stay as they are.
  }

  /** Ends an owner's wait, if it still waits, with ERR_DEADLOCK. */
  kill(waitNumber: number, message: string, details: ErrorDetails): boolean {
    const wait = this.#waits.get(waitNumber);
    if (wait?.owner === undefined) return false;
    this.#figures.deadlocks++;
    this.#fail(wait, new ConcordError('ERR_DEADLOCK', message, details));
    this.#settle();
    return true;
  }

  /** Ends a wait, if it still waits, with an error of the caller's. */
  cancel(waitNumber: number, error: ConcordError): boolean {
    const wait = this.#waits.get(waitNumber);
    if (wait === undefined) return false;
    this.#fail(wait, error);
    this.#settle();
    return true;
  }

  /** Whether this wait goes on and has waited for `blocker` without a break since it told `revision`. */
  isWaitingFor(waitNumber: number, blocker: number, revision: number): boolean {
    const wait = this.#waits.get(waitNumber);
    // One that waits for nobody may be told of for longer than it is in the way.
    if (wait === undefined || (this.#owners.get(blocker)?.isPastWaiting ?? true)) return false;
    const index = wait.blockers.indexOf(blocker);
    return index >= 0 && wait.blockedSince[index]! <= revision;
  }

  /** No deadline passes before this; Infinity: none waits with a deadline. */
  get nextDeadlineMs(): number {
    return this.#deadlines.firstMs;
  }

  /** Fails what waited too long with ERR_LOCK_TIMEOUT. */
  tick(nowMs: number): void {
    if (this.#deadlines.firstMs > nowMs) return;
    for (let wait = this.#deadlines.take(nowMs); wait !== undefined; wait = this.#deadlines.take(nowMs)) {
      if (!wait.isSeated) continue;
      this.#figures.timeouts++;
      this.#fail(wait, timeoutError(wait));
    }
    this.#settle();
  }

  /** Seated waits of owners, told anew: for who lost what was told before. */
  forEachWait(call: (wait: LockWait<T>) => void): void {
    for (const wait of this.#waits.values()) if (wait.owner !== undefined && wait.revision > 0) call(wait);
  }

  /** Who holds and awaits what; at most `locksMax` held locks are named of each. */
  list(locksMax: number): LockHolder[] {
    const holders: LockHolder[] = [];
    for (const owner of this.#owners.values()) {
      const held: LockDescription[] = [];
      for (let grant = owner.grants; grant !== undefined && held.length < locksMax; grant = grant.nextOfOwner)
        held.push(grant.describe());
      holders.push({
        txn: owner.id,
        client: owner.client,
        priority: owner.priority,
        age: owner.age,
        isPrepared: owner.isPrepared,
        isWounded: owner.woundedBy !== 0,
        heldCount: owner.heldCount,
        held,
        awaited: owner.waits.map((wait) => ({
          ...wait.describe(),
          sinceMs: wait.sinceMs,
          waitsFor: this.#blockersNow(wait),
        })),
      });
    }
    return holders;
  }

  #blockersNow(wait: LockWait<T>): number[] {
    this.#search.run(wait);
    return this.#search.found.map(({ id }) => id);
  }

  // Requests.

  /** The short way: no waiters, no ranges, no conflict. */
  #grantFreeKey(
    owner: LockOwner<T>,
    space: number,
    bytes: Uint8Array,
    start: number,
    length: number,
    hash: number,
    mode: LockMode,
  ): boolean {
    const lock = this.#index.find(space, bytes, start, length, hash);
    const hasRanges = this.#index.hasRanges(space);
    if (lock === undefined) {
      if (hasRanges) return this.#index.rangeCoversKey(owner, space, bytes, start, length, mode);
      if (owner.heldCount >= this.#locksPerOwnerMax) throw tooManyError(owner, this.#locksPerOwnerMax);
      this.#grantKey(owner, this.#index.add(space, bytes, start, length, hash), mode, undefined);
      return true;
    }
    const own = grantOf(lock, owner);
    if (own !== undefined && own.mode >= mode) return true;
    if (hasRanges || lock.queue !== undefined)
      return this.#index.rangeCoversKey(owner, space, bytes, start, length, mode);
    if (!isCompatible(lock, owner, own, mode)) return false;
    if (own === undefined && owner.heldCount >= this.#locksPerOwnerMax)
      throw tooManyError(owner, this.#locksPerOwnerMax);
    this.#grantKey(owner, lock, mode, own);
    return true;
  }

  #checkRoom(owner: LockOwner<T>, point: Point<T>): void {
    if (owner.heldCount < this.#locksPerOwnerMax) return;
    const lock = point.isRange ? undefined : this.#index.lockOf(point);
    if (lock === undefined || grantOf(lock, owner) === undefined) throw tooManyError(owner, this.#locksPerOwnerMax);
  }

  #newWait(owner: LockOwner<T>, deadlineMs: number, nowMs: number, context: T): LockWait<T> {
    const { client, age, priority } = owner;
    return new LockWait<T>(++this.#waitNumbers, owner, client, age, priority, deadlineMs, nowMs, context);
  }

  /** The long way. */
  #request(wait: LockWait<T>): LockWait<T> | undefined {
    const { owner } = wait;
    if (owner !== undefined) this.#checkRoom(owner, wait.points[0]!);
    this.#seat(wait);
    const verdict = this.#judge(wait);
    if (verdict === 'dies') {
      this.#unseat(wait, 'tried');
      throw diedError(owner!, this.#search.found);
    }
    if (verdict === 'passes') {
      if (owner === undefined) this.#unseat(wait, 'tried');
      else this.#grantSeated(wait);
      this.#settle();
      return undefined;
    }
    if (wait.deadlineMs <= wait.sinceMs) {
      // What was wounded for it goes on to others.
      this.#unseat(wait, 'gave up');
      this.#figures.timeouts++;
      this.#settle();
      throw timeoutError(wait);
    }
    this.#keepFound(wait);
    this.#figures.waits++;
    if (wait.deadlineMs !== Infinity) this.#deadlines.add(wait);
    this.#touchOthers(wait);
    this.#settle();
    return wait;
  }

  #tryPoint(owner: LockOwner<T>, point: Point<T>): number {
    const { wait: probe } = point;
    this.#checkRoom(owner, point);
    probe.isUpgrade = this.#index.holdsAt(owner, point);
    if (!point.isRange) point.lock = this.#index.lockOf(point);
    const id = this.#inTheWay(probe);
    if (id === 0) {
      this.#grantPoint(owner, point);
      this.#settle();
    } else if (point.isRange) {
      this.#index.closeSpace(point.space);
    }
    return id;
  }

  #inTheWay(probe: LockWait<T>): number {
    if (!this.#search.run(probe)) return 0;
    return this.#search.found[0]?.id ?? ANONYMOUS;
  }

  /** Looks who holds a seated request up, and does what the policy says. */
  #judge(wait: LockWait<T>): 'passes' | 'waits' | 'dies' {
    if (!this.#search.run(wait)) return 'passes';
    const { owner } = wait;
    if (owner === undefined) return 'waits';
    if (this.#policy === 'wait-die' && this.#mustDie(owner)) {
      this.#figures.died++;
      return 'dies';
    }
    if (this.#policy === 'wound-wait' && this.#woundJuniors(owner) && !this.#search.run(wait)) return 'passes';
    return 'waits';
  }

  /** Whether wait-die does not let the owner wait for what was found. */
  #mustDie(owner: LockOwner<T>): boolean {
    return this.#search.effective.some((holder) => !holder.isPrepared && isSenior(holder, owner));
  }

  /** Takes the locks of those found that are junior to the owner; whether there were any. */
  #woundJuniors(owner: LockOwner<T>): boolean {
    const juniors = this.#search.found.filter((other) => !other.isPrepared && isSenior(owner, other));
    for (const junior of juniors) {
      junior.woundedBy = owner.id;
      this.#figures.wounded++;
      this.#dropOwner(junior, woundedError(junior));
      this.#events.onWound?.(junior, owner);
    }
    return juniors.length > 0;
  }

  // Queues.

  /** Puts a request into the queues of what it wants. Nobody is told yet. */
  #seat(wait: LockWait<T>): void {
    const { owner } = wait;
    if (owner !== undefined) {
      wait.isUpgrade = this.#index.holdsAt(owner, wait.points[0]!);
      owner.waits.push(wait);
      this.#figures.waiting++;
    } else {
      this.#figures.waitingAnonymous++;
    }
    wait.isSeated = true;
    this.#waits.set(wait.number, wait);
    for (const point of wait.points) {
      if (point.isRange) {
        point.interval = this.#index.wantRange(point);
        continue;
      }
      const lock = this.#lockOf(point);
      point.lock = lock;
      // Of its own: it is asked for when the lock may have gone to another key.
      point.bytes = lock.bytes.slice(lock.start, lock.start + lock.length);
      point.start = 0;
      enqueue(lock, point);
    }
  }

  #lockOf(point: Point<T>): Lock<T> {
    const { space, bytes, start, length, hash } = point;
    return this.#index.lockOf(point) ?? this.#index.add(space, bytes, start, length, hash);
  }

  /** Takes a request out of the queues. Who came behind it is looked at again, unless it was only tried. */
  #unseat(wait: LockWait<T>, why: 'tried' | 'granted' | 'gave up'): void {
    const { owner } = wait;
    wait.isSeated = false;
    this.#waits.delete(wait.number);
    if (owner !== undefined) {
      owner.waits.splice(owner.waits.indexOf(wait), 1);
      this.#figures.waiting--;
    } else {
      this.#figures.waitingAnonymous--;
    }
    for (const point of wait.points) {
      if (point.isRange) {
        this.#index.dropWantedRange(point);
        if (why !== 'tried') this.#touchRange(point.space, point.bytes, point.high);
        this.#index.closeSpace(point.space);
        continue;
      }
      const lock = point.lock!;
      const index = dequeue(lock, point);
      if (why !== 'tried') this.#touchKey(lock, index, point.mode, why === 'gave up');
      this.#index.dropUnused(lock);
    }
  }

  /**
   * Who waits for the key and may be concerned by a change of that mode is looked at again, from the index on where it was: not those behind others who stand
   * for the change. Where a waiter gave up, those who found it may have to look further ahead than it. And ranges that hold the key.
   */
  #touchKey(lock: Lock<T>, from: number, mode: LockMode, hasGivenUp = false): void {
    const { queue } = lock;
    if (queue !== undefined) {
      const { points, isIrregular } = queue;
      let concerned = CONFLICTING_MODES[mode]!;
      for (let index = from; index < points.length && queue.idleOf(concerned) > 0; index++) {
        const { mode: own, wait } = points[index]!;
        if (isIn(concerned, own)) this.#look(wait);
        if (isIrregular || !this.#search.standsForOthers(wait)) continue;
        if (hasGivenUp) concerned &= ~ENCLOSED_MODES[own]!;
        else if (modesConflict(own, mode)) concerned &= ~CONFLICTING_MODES[own]!;
      }
    }
    if (this.#index.hasSpaces) this.#touchRangesAt(lock.space, lock.bytes, lock.start, lock.length);
  }

  #touchRangesAt(space: number, bytes: Uint8Array, start: number, length: number): void {
    for (const point of this.#index.waitingAt(space, bytes, start, length)) this.#look(point.wait);
  }

  #touchRange(space: number, low: Uint8Array, high: Uint8Array | undefined): void {
    for (const point of this.#index.waitingIn(space, low, high)) this.#look(point.wait);
    if (this.#waits.size === 0) return;
    for (const { queue } of this.#index.locksIn(space, low, high))
      if (queue !== undefined) for (const point of queue.points) this.#look(point.wait);
  }

  /** Who may come behind a seated request is looked at again. */
  #touchOthers(wait: LockWait<T>): void {
    for (const point of wait.points) {
      if (point.isRange) this.#touchRange(point.space, point.bytes, point.high);
      else {
        const lock = point.lock!;
        this.#touchKey(lock, lock.queue!.indexOf(point) + 1, point.mode);
      }
    }
  }

  #look(wait: LockWait<T>): void {
    if (wait.isQueued || !wait.isSeated) return;
    wait.isQueued = true;
    for (const { lock, mode } of wait.points) lock?.queue?.countIdle(mode, -1);
    this.#work.push(wait);
  }

  /** Looks at all that changed until nothing does, then tells what changed. A call from a callback leaves it to the outer one. */
  #settle(): void {
    if (this.#isSettling || (this.#work.length === 0 && this.#failures.length === 0 && this.#dirty.length === 0))
      return;
    this.#isSettling = true;
    try {
      while (this.#work.length > 0 || this.#failures.length > 0) {
        const failures = this.#failures;
        this.#failures = [];
        for (const { wait, error } of failures) this.#events.onFail(wait, error);
        const work = this.#work;
        this.#work = [];
        for (const wait of work) {
          wait.isQueued = false;
          if (!wait.isSeated) continue;
          for (const { lock, mode } of wait.points) lock?.queue?.countIdle(mode, 1);
          this.#lookAt(wait);
        }
      }
      const dirty = this.#dirty;
      this.#dirty = [];
      for (const wait of dirty) this.#tell(wait);
    } finally {
      this.#isSettling = false;
    }
    // A callback of the last loop may have changed something.
    this.#settle();
  }

  #lookAt(wait: LockWait<T>): void {
    const { owner } = wait;
    const verdict = this.#judge(wait);
    if (verdict === 'dies') {
      this.#fail(wait, diedError(owner!, this.#search.found));
      return;
    }
    if (verdict === 'waits') {
      const isNews = !this.#search.isAsGood(wait);
      this.#keepFound(wait);
      if (isNews) this.#touchOthers(wait);
      return;
    }
    if (owner === undefined) this.#unseat(wait, 'granted');
    else this.#grantSeated(wait);
    this.#tellEnd(wait);
    this.#events.onGrant(wait);
  }

  #keepFound(wait: LockWait<T>): void {
    wait.found = this.#search.found;
    wait.effective = this.#search.effective;
    wait.hasPassed = this.#search.hasPassed;
    if (wait.hasPassed) for (const { lock } of wait.points) if (lock !== undefined) lock.queue!.isIrregular = true;
    if (this.#policy !== 'detect' || wait.owner === undefined || wait.isDirty) return;
    wait.isDirty = true;
    this.#dirty.push(wait);
  }

  #tell(wait: LockWait<T>): void {
    wait.isDirty = false;
    if (!wait.isSeated) return;
    const { found, blockers, blockedSince } = wait;
    if (found.length === blockers.length && found.every((blocker) => blockers.includes(blocker.id))) return;
    const revision = ++wait.revision;
    wait.blockedSince = found.map(({ id }) => {
      const index = blockers.indexOf(id);
      return index < 0 ? revision : blockedSince[index]!;
    });
    wait.blockers = found.map(({ id }) => id);
    this.#events.onWait?.(wait);
  }

  #tellEnd(wait: LockWait<T>): void {
    if (wait.revision > 0) this.#events.onUnwait?.(wait);
  }

  #fail(wait: LockWait<T>, error: ConcordError): void {
    if (!wait.isSeated) return;
    this.#unseat(wait, 'gave up');
    this.#tellEnd(wait);
    this.#failures.push({ wait, error });
  }

  // Grants.

  /** Gives a seated request its lock. */
  #grantSeated(wait: LockWait<T>): void {
    const point = wait.points[0]!;
    const owner = wait.owner!;
    // The lock first, so that the key does not go with its last waiter.
    this.#grantPoint(owner, point);
    // Behind it, too: its point may have stood for all that was ahead.
    this.#unseat(wait, 'granted');
  }

  /** The lock is the owner's; who waits there is looked at again. The owner's other requests there are upgrades now. */
  #grantPoint(owner: LockOwner<T>, point: Point<T>): void {
    const { space, mode } = point;
    if (point.isRange) {
      const grant = this.#takeGrant(owner, mode, space);
      grant.interval = this.#index.holdRange(space, point.bytes, point.high, grant);
      this.#touchRange(space, point.bytes, point.high);
    } else if (!this.#index.rangeCoversKey(owner, space, point.bytes, point.start, point.length, mode)) {
      const lock = point.lock ?? this.#lockOf(point);
      this.#grantKey(owner, lock, mode, grantOf(lock, owner));
      this.#touchKey(lock, 0, mode);
    }
    if (owner.waits.length > 0) this.#raise(owner, point.wait);
  }

  #grantKey(owner: LockOwner<T>, lock: Lock<T>, mode: LockMode, own: Grant<T> | undefined): void {
    if (own !== undefined) {
      if (own.mode >= mode) return;
      if (own.mode === LockMode.Shared) lock.shared--;
      own.mode = mode;
      lock.strong = own;
      this.#figures.upgrades++;
      return;
    }
    addGrant(lock, this.#takeGrant(owner, mode, lock.space));
  }

  #takeGrant(owner: LockOwner<T>, mode: LockMode, space: number): Grant<T> {
    let grant = this.#freeGrants;
    if (grant === undefined) grant = new Grant<T>();
    else {
      this.#freeGrants = grant.next;
      this.#freeGrantCount--;
      grant.next = undefined;
    }
    grant.owner = owner;
    grant.mode = mode;
    grant.space = space;
    grant.nextOfOwner = owner.grants;
    owner.grants = grant;
    owner.heldCount++;
    this.#figures.held++;
    this.#figures.grants++;
    return grant;
  }

  /** Requests of an owner that became upgrades move to the front. */
  #raise(owner: LockOwner<T>, granted: LockWait<T>): void {
    for (const wait of owner.waits) {
      const point = wait.points[0]!;
      if (wait === granted || wait.isUpgrade || !this.#index.holdsAt(owner, point)) continue;
      if (point.isRange) {
        wait.isUpgrade = true;
        this.#touchRange(point.space, point.bytes, point.high);
      } else {
        const lock = point.lock!;
        dequeue(lock, point);
        wait.isUpgrade = true;
        enqueue(lock, point);
        lock.queue!.isIrregular = true;
        this.#touchKey(lock, 0, point.mode);
      }
      this.#look(wait);
    }
  }

  /** Takes all that an owner holds, and ends its waits. `error`: what they end with. */
  #dropOwner(owner: LockOwner<T>, error: ConcordError | undefined): void {
    if (owner.waits.length > 0) for (const wait of [...owner.waits]) this.#fail(wait, error ?? closedError());
    let grant = owner.grants;
    owner.grants = undefined;
    this.#figures.held -= owner.heldCount;
    owner.heldCount = 0;
    while (grant !== undefined) {
      const next: Grant<T> | undefined = grant.nextOfOwner;
      this.#dropGrant(grant);
      grant = next;
    }
  }

  #dropGrant(grant: Grant<T>): void {
    const { lock, interval, mode } = grant;
    if (lock !== undefined) {
      removeGrant(lock, grant);
      if ((lock.queue !== undefined || this.#index.hasSpaces) && !isOneOfMany(lock, mode))
        this.#touchKey(lock, 0, mode);
      this.#index.dropUnused(lock);
    } else {
      const { space } = grant;
      this.#index.dropHeldRange(space, interval!);
      this.#touchRange(space, interval!.low, interval!.high);
      this.#index.closeSpace(space);
    }
    if (this.#freeGrantCount >= POOLED_MAX) return;
    grant.lock = undefined;
    grant.interval = undefined;
    grant.previous = undefined;
    grant.nextOfOwner = undefined;
    grant.next = this.#freeGrants;
    this.#freeGrants = grant;
    this.#freeGrantCount++;
  }
}

/**
 * Whether a shared lock that went leaves so many others that nobody can have been let in by it. Those who wait for all of them are told when half of them are
 * gone, not of each.
 */
function isOneOfMany<T>({ shared }: Lock<T>, mode: LockMode): boolean {
  return mode === LockMode.Shared && shared > 1 && (shared & (shared - 1)) !== 0;
}

function checkRangeMode(mode: LockMode): void {
  assert(mode !== LockMode.Update, 'ranges are locked shared or exclusive');
}

function checkAlive<T>(owner: LockOwner<T>): void {
  assert(!owner.isReleased, 'an owner locks nothing after its release');
}

function checkOwner<T>(owner: LockOwner<T>): void {
  checkAlive(owner);
  if (owner.woundedBy !== 0) throw woundedError(owner);
}

/** A request of an owner that is asked about and never seated. */
function probeOf<T>(owner: LockOwner<T>): LockWait<T> {
  return new LockWait<T>(0, owner, owner.client, owner.age, owner.priority, Infinity, 0, undefined as T);
}

/** The same of nobody: it comes last of its age. */
function anonymousProbe<T>(age: number, priority: number): LockWait<T> {
  return new LockWait<T>(Infinity, undefined, 0, age, priority, Infinity, 0, undefined as T);
}
