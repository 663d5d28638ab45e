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
 * What a waiter is said to wait for: in the queue of a key the nearest exclusive request before it stands for all that is further ahead. So a queue
 * of n costs n edges, a lock that changes hands changes one, and every cycle of the full graph is one of this graph.
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
import { compareBytes } from '../cells/node-writer.js';
import { ConcordError } from '../../shared/errors.js';
import type { ErrorDetails } from '../../shared/errors.js';
import { assert } from '../../shared/assert.js';
import { IntervalTree, LOWEST_KEY } from './interval-tree.js';
import type { Interval } from './interval-tree.js';

/** Two locks of different owners conflict when their modes add up to 2 or more. Ranges know shared and exclusive only. */
export const LockMode = { Shared: 0, Update: 1, Exclusive: 2 } as const;
export type LockMode = (typeof LockMode)[keyof typeof LockMode];
export type LockModeName = 'shared' | 'update' | 'exclusive';
const MODE_NAMES: readonly LockModeName[] = ['shared', 'update', 'exclusive'];

export function lockModeName(mode: LockMode): LockModeName {
  return MODE_NAMES[mode]!;
}

export type DeadlockPolicy = 'detect' | 'wait-die' | 'wound-wait';

/** What tryKey() and conflict() answer when an anonymous waiter is in the way. */
export const ANONYMOUS = -1;

/** Keys whose hashes agree in these bits share a counter. */
const COUNTERS = 8192;
const BUCKETS_MIN = 1024;
/** Keys up to this length are copied into a block that their lock keeps. */
const INLINE_KEY_BYTES = 32;
const INLINE_KEYS_PER_BLOCK = 1024;
/** Objects kept for reuse, of each kind. */
const POOLED_MAX = 8192;
/** Keys are put in order when so many times their number were looked through for ranges. */
const SCANS_PER_INDEX = 16;
/** The order of so few keys is given up with the last range. */
const INDEXED_KEYS_KEPT_MIN = 256;
const CONFLICT = 2;

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

/** What an anonymous waiter wants. Bytes are copied. */
export interface LockPoint {
  readonly space: number;
  readonly mode: LockMode;
  /** A key, with its hash; or, without it, the range [low, high), open where undefined. */
  readonly key?: Uint8Array;
  readonly hash?: number;
  readonly low?: Uint8Array | undefined;
  readonly high?: Uint8Array | undefined;
}

export interface LockDescription {
  readonly space: number;
  readonly key?: Uint8Array;
  readonly low?: Uint8Array;
  readonly high?: Uint8Array;
  readonly mode: LockModeName;
}

export interface AwaitedLock extends LockDescription {
  readonly sinceMs: number;
  readonly waitsFor: readonly number[];
}

export interface LockHolder {
  readonly txn: number;
  readonly client: number;
  readonly priority: number;
  readonly age: number;
  readonly isPrepared: boolean;
  readonly isWounded: boolean;
  readonly heldCount: number;
  /** As many as were asked for. */
  readonly held: readonly LockDescription[];
  readonly awaited: readonly AwaitedLock[];
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

/** A transaction that holds or wants locks here. Made by LockTable.owner(), gone with release(). */
export class LockOwner<T> {
  readonly id: number;
  readonly age: number;
  readonly priority: number;
  readonly client: number;
  /** Set by markPrepared(). */
  isPrepared = false;
  /** Who took the locks away; 0: nobody did. */
  woundedBy = 0;
  /** Set by release(): it cannot lock anything any more. */
  isReleased = false;
  heldCount = 0;
  /** @internal */
  grants: Grant<T> | undefined = undefined;
  /** @internal */
  readonly waits: LockWait<T>[] = [];
  /** @internal Marks of the searches that met it. */
  blockerMark = 0;
  /** @internal */
  effectiveMark = 0;

  constructor(id: number, age: number, priority: number, client: number) {
    this.id = id;
    this.age = age;
    this.priority = priority;
    this.client = client;
  }
}

/** A request that waits. `context` is the caller's. */
export class LockWait<T> {
  /** Unique in the life of the table; counts up from 1. */
  readonly number: number;
  /** Undefined: anonymous. */
  readonly owner: LockOwner<T> | undefined;
  readonly client: number;
  readonly age: number;
  readonly priority: number;
  readonly deadlineMs: number;
  readonly sinceMs: number;
  readonly context: T;
  /** Ids of the transactions it waits for, as last told. */
  blockers: readonly number[] = [];
  /** Counts the changes of `blockers`; 0: not told yet. */
  revision = 0;
  /** @internal For each of `blockers` the revision since which it is one without a break. */
  blockedSince: readonly number[] = [];
  /** @internal */
  readonly points: Point<T>[] = [];
  /** @internal */
  isUpgrade = false;
  /** @internal Blockers as last found. */
  found: LockOwner<T>[] = [];
  /** @internal Holders it waits for, directly or behind others (wait-die only). */
  effective: LockOwner<T>[] = [];
  /** @internal Whether somebody before it does not hold it up, because that one waits for it. */
  hasPassed = false;
  /** @internal To be looked at again. */
  isQueued = false;
  /** @internal Blockers are to be told. */
  isDirty = false;
  /** @internal */
  isSeated = false;

  constructor(
    number: number,
    owner: LockOwner<T> | undefined,
    client: number,
    age: number,
    priority: number,
    deadlineMs: number,
    sinceMs: number,
    context: T,
  ) {
    this.number = number;
    this.owner = owner;
    this.client = client;
    this.age = age;
    this.priority = priority;
    this.deadlineMs = deadlineMs;
    this.sinceMs = sinceMs;
    this.context = context;
  }

  /** What an owner's request wants. */
  describe(): LockDescription {
    return describePoint(this.points[0]!);
  }

  /** All that is wanted; the bytes are the wait's own. */
  wanted(): LockPoint[] {
    return this.points.map(({ space, mode, bytes, hash, isRange, high }) =>
      isRange ? { space, mode, low: bytes, high } : { space, mode, key: bytes, hash },
    );
  }
}

/** A key or a range that a request wants. */
class Point<T> {
  readonly wait: LockWait<T>;
  readonly space: number;
  readonly mode: LockMode;
  /** The key; of a range where it begins. */
  bytes: Uint8Array;
  start: number;
  readonly length: number;
  readonly hash: number;
  readonly isRange: boolean;
  readonly high: Uint8Array | undefined;
  lock: Lock<T> | undefined = undefined;
  interval: Interval<Point<T>> | undefined = undefined;

  constructor(
    wait: LockWait<T>,
    space: number,
    mode: LockMode,
    bytes: Uint8Array,
    start: number,
    length: number,
    hash: number,
    isRange: boolean,
    high: Uint8Array | undefined,
  ) {
    this.wait = wait;
    this.space = space;
    this.mode = mode;
    this.bytes = bytes;
    this.start = start;
    this.length = length;
    this.hash = hash;
    this.isRange = isRange;
    this.high = high;
  }
}

/** A lock that is held: of a key (lock) or of a range (interval). */
class Grant<T> {
  owner!: LockOwner<T>;
  mode: LockMode = LockMode.Shared;
  space = 0;
  lock: Lock<T> | undefined = undefined;
  interval: Interval<Grant<T>> | undefined = undefined;
  /** Others at the same key. */
  next: Grant<T> | undefined = undefined;
  previous: Grant<T> | undefined = undefined;
  nextOfOwner: Grant<T> | undefined = undefined;
}

/** A key that is locked or wanted. */
class Lock<T> {
  space = 0;
  hash = 0;
  bytes: Uint8Array;
  start: number;
  length = 0;
  /** Where keys that are short enough are kept. */
  readonly inlineBytes: Uint8Array;
  readonly inlineStart: number;
  next: Lock<T> | undefined = undefined;
  grants: Grant<T> | undefined = undefined;
  /** How many of them are shared; the other one, update or exclusive. */
  shared = 0;
  strong: Grant<T> | undefined = undefined;
  /** In order. */
  queue: Point<T>[] | undefined = undefined;
  /** Whether one owner waits here more than once. */
  hasTwins = false;
  interval: Interval<Lock<T>> | undefined = undefined;

  constructor(inlineBytes: Uint8Array, inlineStart: number) {
    this.inlineBytes = inlineBytes;
    this.inlineStart = inlineStart;
    this.bytes = inlineBytes;
    this.start = inlineStart;
  }
}

/** The ranges of a space that are held or wanted. */
class SpaceRanges<T> {
  readonly held = new IntervalTree<Grant<T>>();
  readonly waiting = new IntervalTree<Point<T>>();
  /** The locked keys of the space in order, once that pays. */
  keys: IntervalTree<Lock<T>> | undefined = undefined;
  /** Keys that were looked through for want of an order. */
  scanned = 0;
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
  readonly #owners = new Map<number, LockOwner<T>>();
  /** Seated waits by number. */
  readonly #waits = new Map<number, LockWait<T>>();
  readonly #deadlines = new DeadlineHeap<T>();
  #waitNumbers = 0;

  /** Locked or wanted keys by hash: isFree() looks at nothing else. */
  readonly #counters = new Int32Array(COUNTERS);
  /** Ranges held or wanted, in all spaces. */
  #ranges = 0;
  #buckets: (Lock<T> | undefined)[] = new Array<Lock<T> | undefined>(BUCKETS_MIN).fill(undefined);
  #locks = 0;
  readonly #spaces = new Map<number, SpaceRanges<T>>();

  #freeLocks: Lock<T> | undefined = undefined;
  #freeLockCount = 0;
  #freeGrants: Grant<T> | undefined = undefined;
  #freeGrantCount = 0;
  #inlineBlock = new Uint8Array(0);
  #inlineUsed = 0;

  /** What the last collect() found. */
  #found: LockOwner<T>[] = [];
  #effective: LockOwner<T>[] = [];
  #hasPassed = false;
  #mark = 0;

  #isSettling = false;
  /** To be looked at again, oldest change first. */
  #work: LockWait<T>[] = [];
  #failures: { readonly wait: LockWait<T>; readonly error: ConcordError }[] = [];
  #dirty: LockWait<T>[] = [];

  constructor(options: LockTableOptions, events: LockEvents<T>) {
    this.#policy = options.policy;
    this.#locksPerOwnerMax = options.locksPerOwnerMax ?? Infinity;
    this.#events = events;
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
    return this.#locks === 0 && this.#ranges === 0;
  }

  /** Whether surely nothing is locked or wanted that holds a key of this hash, in any space. False says nothing. */
  isFree(hash: number): boolean {
    return this.#counters[hash & (COUNTERS - 1)] === 0 && this.#ranges === 0;
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
    assert(!owner.isReleased, 'an owner locks nothing after its release');
    if (owner.woundedBy !== 0) throw woundedError(owner);
    if (this.#grantFreeKey(owner, space, bytes, start, length, hash, mode)) return undefined;
    const wait = new LockWait<T>(
      ++this.#waitNumbers,
      owner,
      owner.client,
      owner.age,
      owner.priority,
      deadlineMs,
      nowMs,
      context,
    );
    wait.points.push(new Point<T>(wait, space, mode, bytes, start, length, hash, false, undefined));
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
    assert(mode !== LockMode.Update, 'ranges are locked shared or exclusive');
    assert(!owner.isReleased, 'an owner locks nothing after its release');
    if (owner.woundedBy !== 0) throw woundedError(owner);
    if (isEmptyRange(low, high)) return undefined;
    const wait = new LockWait<T>(
      ++this.#waitNumbers,
      owner,
      owner.client,
      owner.age,
      owner.priority,
      deadlineMs,
      nowMs,
      context,
    );
    const from = copyOf(low ?? LOWEST_KEY);
    const to = high === undefined ? undefined : copyOf(high);
    wait.points.push(new Point<T>(wait, space, mode, from, 0, from.length, 0, true, to));
    if (this.#coversPoint(owner, wait.points[0]!)) return undefined;
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
    assert(!owner.isReleased, 'an owner locks nothing after its release');
    if (owner.woundedBy !== 0) return owner.woundedBy;
    if (this.#grantFreeKey(owner, space, bytes, start, length, hash, mode)) return 0;
    const probe = new LockWait<T>(0, owner, owner.client, owner.age, owner.priority, Infinity, 0, undefined as T);
    const point = new Point<T>(probe, space, mode, bytes, start, length, hash, false, undefined);
    probe.points.push(point);
    return this.#tryPoint(probe, point);
  }

  /** As tryKey(). */
  tryRange(
    owner: LockOwner<T>,
    space: number,
    low: Uint8Array | undefined,
    high: Uint8Array | undefined,
    mode: LockMode,
  ): number {
    assert(mode !== LockMode.Update, 'ranges are locked shared or exclusive');
    assert(!owner.isReleased, 'an owner locks nothing after its release');
    if (owner.woundedBy !== 0) return owner.woundedBy;
    if (isEmptyRange(low, high)) return 0;
    const probe = new LockWait<T>(0, owner, owner.client, owner.age, owner.priority, Infinity, 0, undefined as T);
    const from = copyOf(low ?? LOWEST_KEY);
    const to = high === undefined ? undefined : copyOf(high);
    const point = new Point<T>(probe, space, mode, from, 0, from.length, 0, true, to);
    probe.points.push(point);
    if (this.#coversPoint(owner, point)) return 0;
    return this.#tryPoint(probe, point);
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
    const lock = this.#find(space, bytes, start, length, hash);
    if (lock !== undefined) {
      const grant = grantOf(lock, owner);
      if (grant !== undefined && grant.mode >= mode) return true;
    }
    return this.#heldRangeCoversKey(owner, space, bytes, start, length, mode);
  }

  /** Whether the owner holds one lock of a range that holds all of [low, high) and is at least as strong. */
  coversRange(
    owner: LockOwner<T>,
    space: number,
    low: Uint8Array | undefined,
    high: Uint8Array | undefined,
    mode: LockMode,
  ): boolean {
    if (isEmptyRange(low, high)) return true;
    return this.#heldRangeCovers(owner, space, low ?? LOWEST_KEY, high, mode);
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
    const lock = this.#find(space, bytes, start, length, hash);
    if (lock === undefined && this.#spaces.get(space) === undefined) return 0;
    const probe = new LockWait<T>(Infinity, undefined, 0, age, priority, Infinity, 0, undefined as T);
    const point = new Point<T>(probe, space, mode, bytes, start, length, hash, false, undefined);
    point.lock = lock;
    probe.points.push(point);
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
    const probe = new LockWait<T>(Infinity, undefined, 0, age, priority, Infinity, 0, undefined as T);
    const from = low ?? LOWEST_KEY;
    probe.points.push(new Point<T>(probe, space, mode, from, 0, from.length, 0, true, high));
    this.#openSpace(space);
    const id = this.#inTheWay(probe);
    this.#closeSpace(space);
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
      if (key !== undefined) {
        wait.points.push(new Point<T>(wait, space, mode, key, 0, key.length, hash ?? 0, false, undefined));
      } else if (!isEmptyRange(low, high)) {
        const from = copyOf(low ?? LOWEST_KEY);
        const to = high === undefined ? undefined : copyOf(high);
        wait.points.push(new Point<T>(wait, space, mode, from, 0, from.length, 0, true, to));
      }
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
    for (const owner of [...this.#owners.values()]) {
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
    if (wait === undefined) return false;
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
        held.push(describeGrant(grant));
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
          waitsFor: wait.found.map((blocker) => blocker.id),
        })),
      });
    }
    return holders;
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
    const lock = this.#find(space, bytes, start, length, hash);
    const ranges = this.#spaces.size === 0 ? undefined : this.#spaces.get(space);
    const hasRanges = ranges !== undefined && (ranges.held.size > 0 || ranges.waiting.size > 0);
    if (lock === undefined) {
      if (hasRanges) return this.#heldRangeCoversKey(owner, space, bytes, start, length, mode);
      if (owner.heldCount >= this.#locksPerOwnerMax) throw this.#tooManyError(owner);
      this.#grantKey(owner, this.#addLock(space, bytes, start, length, hash), mode, undefined);
      return true;
    }
    const own = grantOf(lock, owner);
    if (own !== undefined && own.mode >= mode) return true;
    if (hasRanges || lock.queue !== undefined)
      return this.#heldRangeCoversKey(owner, space, bytes, start, length, mode);
    if (!isCompatible(lock, owner, own, mode)) return false;
    if (own === undefined && owner.heldCount >= this.#locksPerOwnerMax) throw this.#tooManyError(owner);
    this.#grantKey(owner, lock, mode, own);
    return true;
  }

  #checkRoom(owner: LockOwner<T>, point: Point<T>): void {
    if (owner.heldCount < this.#locksPerOwnerMax) return;
    const { space, bytes, start, length, hash } = point;
    const lock = point.isRange ? undefined : this.#find(space, bytes, start, length, hash);
    if (lock === undefined || grantOf(lock, owner) === undefined) throw this.#tooManyError(owner);
  }

  #tooManyError(owner: LockOwner<T>): ConcordError {
    return new ConcordError(
      'ERR_TRANSACTION_TOO_LARGE',
      `transaction ${owner.id} holds ${owner.heldCount} locks in this shard, and may hold ${this.#locksPerOwnerMax}`,
      { txn: owner.id, limitLocks: this.#locksPerOwnerMax },
    );
  }

  /** The long way. */
  #request(wait: LockWait<T>): LockWait<T> | undefined {
    const { owner } = wait;
    if (owner !== undefined) this.#checkRoom(owner, wait.points[0]!);
    this.#seat(wait);
    let isHeld = this.#collect(wait);
    if (isHeld && owner !== undefined && this.#policy !== 'detect') {
      if (this.#mustDie(owner)) {
        this.#unseat(wait, false);
        this.#figures.died++;
        throw diedError(owner, this.#found);
      }
      if (this.#woundJuniors(owner)) isHeld = this.#collect(wait);
    }
    if (!isHeld) {
      if (owner === undefined) this.#unseat(wait, false);
      else this.#grantSeated(wait);
      this.#settle();
      return undefined;
    }
    if (wait.deadlineMs <= wait.sinceMs) {
      this.#unseat(wait, false);
      this.#figures.timeouts++;
      // What was wounded for it goes on to others.
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

  #tryPoint(probe: LockWait<T>, point: Point<T>): number {
    const owner = probe.owner!;
    this.#checkRoom(owner, point);
    if (point.isRange) this.#openSpace(point.space);
    probe.isUpgrade = this.#holdsAt(owner, point);
    if (!point.isRange) point.lock = this.#find(point.space, point.bytes, point.start, point.length, point.hash);
    const id = this.#inTheWay(probe);
    if (id === 0) {
      this.#grantPoint(owner, point);
      this.#settle();
    } else if (point.isRange) {
      this.#closeSpace(point.space);
    }
    return id;
  }

  #inTheWay(probe: LockWait<T>): number {
    if (!this.#collect(probe)) return 0;
    return this.#found.length === 0 ? ANONYMOUS : this.#found[0]!.id;
  }

  // Who is in the way of whom.

  /** Finds who holds a request up: false, nobody. #found: the transactions; #effective: holders, directly or behind others (wait-die). */
  #collect(wait: LockWait<T>): boolean {
    this.#found = [];
    this.#effective = [];
    this.#hasPassed = false;
    this.#mark++;
    let isHeld = false;
    for (const point of wait.points) {
      if (point.isRange ? this.#collectRange(wait, point) : this.#collectKey(wait, point)) isHeld = true;
    }
    return isHeld;
  }

  #collectKey(wait: LockWait<T>, point: Point<T>): boolean {
    const { lock, mode } = point;
    const { owner } = wait;
    let isHeld = false;
    if (lock !== undefined) {
      let isCut = false;
      const { queue } = lock;
      if (queue !== undefined) {
        for (let index = queue.length - 1; index >= 0; index--) {
          const other = queue[index]!;
          if (other.mode + mode < CONFLICT || !this.#meetWaiter(wait, other.wait)) continue;
          isHeld = true;
          // It waits for all that is further ahead, unless it passes somebody. For wait-die holders matter, and all of them are looked at.
          if (other.mode === LockMode.Exclusive && this.#policy !== 'wait-die' && !other.wait.hasPassed) {
            if (other.wait.owner === undefined && owner !== undefined) continue;
            isCut = true;
            break;
          }
        }
      }
      if (!isCut) {
        for (let grant = lock.grants; grant !== undefined; grant = grant.next)
          if (grant.owner !== owner && grant.mode + mode >= CONFLICT) {
            this.#meetHolder(grant.owner);
            isHeld = true;
          }
      }
    }
    const ranges = this.#spaces.size === 0 ? undefined : this.#spaces.get(point.space);
    if (ranges === undefined) return isHeld;
    if (ranges.waiting.size > 0) {
      const waiting: Point<T>[] = [];
      ranges.waiting.findAt(waiting, point.bytes, point.start, point.length);
      for (const other of waiting)
        if (other.mode + mode >= CONFLICT && this.#meetWaiter(wait, other.wait)) isHeld = true;
    }
    if (ranges.held.size > 0) {
      const held: Grant<T>[] = [];
      ranges.held.findAt(held, point.bytes, point.start, point.length);
      for (const grant of held)
        if (grant.owner !== owner && grant.mode + mode >= CONFLICT) {
          this.#meetHolder(grant.owner);
          isHeld = true;
        }
    }
    return isHeld;
  }

  #collectRange(wait: LockWait<T>, point: Point<T>): boolean {
    const { mode, bytes: low, high } = point;
    const { owner } = wait;
    const ranges = this.#spaces.get(point.space)!;
    let isHeld = false;
    const waiting: Point<T>[] = [];
    ranges.waiting.findIn(waiting, low, high);
    for (const other of waiting) if (other.mode + mode >= CONFLICT && this.#meetWaiter(wait, other.wait)) isHeld = true;
    const held: Grant<T>[] = [];
    ranges.held.findIn(held, low, high);
    for (const grant of held)
      if (grant.owner !== owner && grant.mode + mode >= CONFLICT) {
        this.#meetHolder(grant.owner);
        isHeld = true;
      }
    for (const lock of this.#locksIn(point.space, low, high)) {
      for (let grant = lock.grants; grant !== undefined; grant = grant.next)
        if (grant.owner !== owner && grant.mode + mode >= CONFLICT) {
          this.#meetHolder(grant.owner);
          isHeld = true;
        }
      if (lock.queue === undefined) continue;
      for (const other of lock.queue)
        if (other.mode + mode >= CONFLICT && this.#meetWaiter(wait, other.wait)) isHeld = true;
    }
    return isHeld;
  }

  #meetHolder(holder: LockOwner<T>): void {
    if (holder.blockerMark !== this.#mark) {
      holder.blockerMark = this.#mark;
      this.#found.push(holder);
    }
    if (this.#policy === 'wait-die' && holder.effectiveMark !== this.#mark) {
      holder.effectiveMark = this.#mark;
      this.#effective.push(holder);
    }
  }

  /** Whether a waiter that conflicts comes before the request, and so holds it up. */
  #meetWaiter(wait: LockWait<T>, other: LockWait<T>): boolean {
    const { owner } = wait;
    if (other === wait || (owner !== undefined && other.owner === owner) || !comesBefore(other, wait)) return false;
    if (owner !== undefined && (other.found.includes(owner) || other.effective.includes(owner))) {
      this.#hasPassed = true;
      return false;
    }
    if (other.owner === undefined) {
      for (const blocker of other.found) this.#meetBlocker(blocker);
    } else {
      this.#meetBlocker(other.owner);
    }
    for (const holder of other.effective) {
      if (holder.effectiveMark === this.#mark) continue;
      holder.effectiveMark = this.#mark;
      this.#effective.push(holder);
    }
    return true;
  }

  #meetBlocker(blocker: LockOwner<T>): void {
    if (blocker.blockerMark === this.#mark) return;
    blocker.blockerMark = this.#mark;
    this.#found.push(blocker);
  }

  /** After collect(): whether the policy lets the owner not wait for what was found. */
  #mustDie(owner: LockOwner<T>): boolean {
    if (this.#policy !== 'wait-die') return false;
    for (const holder of this.#effective) if (!holder.isPrepared && isSenior(holder, owner)) return true;
    return false;
  }

  /** After collect(): takes the locks of those found that are junior to the owner; whether there were any. */
  #woundJuniors(owner: LockOwner<T>): boolean {
    if (this.#policy !== 'wound-wait') return false;
    const juniors = this.#found.filter((other) => !other.isPrepared && isSenior(owner, other));
    for (const junior of juniors) {
      junior.woundedBy = owner.id;
      this.#figures.wounded++;
      this.#dropOwner(junior, woundedError(junior));
      this.#events.onWound?.(junior, owner);
    }
    return juniors.length > 0;
  }

  /** Whether the owner holds any lock that shares a key with the point: its request there is an upgrade. */
  #holdsAt(owner: LockOwner<T>, point: Point<T>): boolean {
    if (owner.grants === undefined) return false;
    const ranges = this.#spaces.get(point.space);
    if (!point.isRange) {
      const lock = this.#find(point.space, point.bytes, point.start, point.length, point.hash);
      if (lock !== undefined && grantOf(lock, owner) !== undefined) return true;
      if (ranges === undefined || ranges.held.size === 0) return false;
      const held: Grant<T>[] = [];
      ranges.held.findAt(held, point.bytes, point.start, point.length);
      return held.some((grant) => grant.owner === owner);
    }
    if (ranges === undefined) return false;
    const held: Grant<T>[] = [];
    ranges.held.findIn(held, point.bytes, point.high);
    if (held.some((grant) => grant.owner === owner)) return true;
    return this.#locksIn(point.space, point.bytes, point.high).some((lock) => grantOf(lock, owner) !== undefined);
  }

  #coversPoint(owner: LockOwner<T>, point: Point<T>): boolean {
    if (point.isRange) return this.#heldRangeCovers(owner, point.space, point.bytes, point.high, point.mode);
    return this.covers(owner, point.space, point.bytes, point.start, point.length, point.hash, point.mode);
  }

  #heldRangeCoversKey(
    owner: LockOwner<T>,
    space: number,
    bytes: Uint8Array,
    start: number,
    length: number,
    mode: LockMode,
  ): boolean {
    const ranges = this.#spaces.size === 0 ? undefined : this.#spaces.get(space);
    if (ranges === undefined || ranges.held.size === 0) return false;
    const held: Grant<T>[] = [];
    ranges.held.findAt(held, bytes, start, length);
    return held.some((grant) => grant.owner === owner && grant.mode >= mode);
  }

  #heldRangeCovers(
    owner: LockOwner<T>,
    space: number,
    low: Uint8Array,
    high: Uint8Array | undefined,
    mode: LockMode,
  ): boolean {
    const ranges = this.#spaces.get(space);
    if (ranges === undefined || ranges.held.size === 0) return false;
    const held: Grant<T>[] = [];
    ranges.held.findAt(held, low, 0, low.length);
    return held.some(({ owner: holder, mode: heldMode, interval }) => {
      if (holder !== owner || heldMode < mode) return false;
      const end = interval!.high;
      return end === undefined || (high !== undefined && compareBytes(high, 0, high.length, end, 0, end.length) <= 0);
    });
  }

  // Queues.

  /** Puts a request into the queues of what it wants. Nobody is told yet. */
  #seat(wait: LockWait<T>): void {
    const { owner } = wait;
    if (owner !== undefined) {
      const point = wait.points[0]!;
      if (point.isRange) this.#openSpace(point.space);
      wait.isUpgrade = this.#holdsAt(owner, point);
      owner.waits.push(wait);
      this.#figures.waiting++;
    } else {
      this.#figures.waitingAnonymous++;
    }
    wait.isSeated = true;
    this.#waits.set(wait.number, wait);
    for (const point of wait.points) {
      if (point.isRange) {
        this.#ranges++;
        point.interval = this.#openSpace(point.space).waiting.add(point.bytes, point.high, point);
        continue;
      }
      const { space, bytes, start, length, hash } = point;
      const lock = this.#find(space, bytes, start, length, hash) ?? this.#addLock(space, bytes, start, length, hash);
      point.lock = lock;
      // Of its own: it is asked for when the lock may have gone to another key.
      point.bytes = lock.bytes.slice(lock.start, lock.start + length);
      point.start = 0;
      this.#enqueue(lock, point);
    }
  }

  #enqueue(lock: Lock<T>, point: Point<T>): void {
    const { queue } = lock;
    if (queue === undefined) {
      lock.queue = [point];
      return;
    }
    const { owner } = point.wait;
    if (owner !== undefined && owner.waits.length > 1 && queue.some((other) => other.wait.owner === owner))
      lock.hasTwins = true;
    let low = 0;
    let high = queue.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (comesBefore(point.wait, queue[middle]!.wait)) high = middle;
      else low = middle + 1;
    }
    if (low === queue.length) queue.push(point);
    else queue.splice(low, 0, point);
  }

  #dequeue(lock: Lock<T>, point: Point<T>): number {
    const queue = lock.queue!;
    if (queue.length === 1) {
      lock.queue = undefined;
      lock.hasTwins = false;
      return 0;
    }
    const index = queue[0] === point ? 0 : queue.indexOf(point);
    if (index === 0) queue.shift();
    else queue.splice(index, 1);
    return index;
  }

  /** Takes a request out of the queues; `touch`: who came behind it is looked at again. */
  #unseat(wait: LockWait<T>, touch: boolean): void {
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
        this.#ranges--;
        this.#spaces.get(point.space)!.waiting.remove(point.interval!);
        if (touch) this.#touchRange(point.space, point.bytes, point.high);
        this.#closeSpace(point.space);
        continue;
      }
      const lock = point.lock!;
      const index = this.#dequeue(lock, point);
      if (touch) this.#touchKey(lock, index);
      this.#dropFree(lock);
    }
  }

  /** The waiters of a key from an index on are looked at again, up to one that stands for what is further ahead; and ranges that hold the key. */
  #touchKey(lock: Lock<T>, from: number): void {
    const { queue } = lock;
    if (queue !== undefined) {
      const toEnd = lock.hasTwins || this.#policy === 'wait-die';
      for (let index = from; index < queue.length; index++) {
        const point = queue[index]!;
        this.#look(point.wait);
        if (point.mode !== LockMode.Exclusive || point.wait.owner === undefined || toEnd) continue;
        if (!point.wait.hasPassed) break;
      }
    }
    if (this.#spaces.size > 0) this.#touchRangesAt(lock.space, lock.bytes, lock.start, lock.length);
  }

  #touchRangesAt(space: number, bytes: Uint8Array, start: number, length: number): void {
    const ranges = this.#spaces.get(space);
    if (ranges === undefined || ranges.waiting.size === 0) return;
    const waiting: Point<T>[] = [];
    ranges.waiting.findAt(waiting, bytes, start, length);
    for (const point of waiting) this.#look(point.wait);
  }

  #touchRange(space: number, low: Uint8Array, high: Uint8Array | undefined): void {
    const ranges = this.#spaces.get(space)!;
    const waiting: Point<T>[] = [];
    ranges.waiting.findIn(waiting, low, high);
    for (const point of waiting) this.#look(point.wait);
    if (this.#waits.size === 0) return;
    for (const { queue } of this.#locksIn(space, low, high))
      if (queue !== undefined) for (const point of queue) this.#look(point.wait);
  }

  /** Who may come behind a seated request is looked at again. */
  #touchOthers(wait: LockWait<T>): void {
    for (const point of wait.points) {
      if (point.isRange) this.#touchRange(point.space, point.bytes, point.high);
      else {
        const { queue } = point.lock!;
        if (queue!.length > 1) this.#touchKey(point.lock!, queue!.indexOf(point) + 1);
        else if (this.#spaces.size > 0) this.#touchRangesAt(point.space, point.bytes, point.start, point.length);
      }
    }
  }

  #look(wait: LockWait<T>): void {
    if (wait.isQueued) return;
    wait.isQueued = true;
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
          if (wait.isSeated) this.#lookAt(wait);
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
    let isHeld = this.#collect(wait);
    if (isHeld && owner !== undefined && this.#policy !== 'detect') {
      if (this.#mustDie(owner)) {
        this.#figures.died++;
        this.#fail(wait, diedError(owner, this.#found));
        return;
      }
      if (this.#woundJuniors(owner)) isHeld = this.#collect(wait);
    }
    if (isHeld) {
      if (
        wait.hasPassed === this.#hasPassed &&
        isSame(wait.found, this.#found) &&
        isSame(wait.effective, this.#effective)
      )
        return;
      this.#keepFound(wait);
      this.#touchOthers(wait);
      return;
    }
    if (owner === undefined) this.#unseat(wait, true);
    else this.#grantSeated(wait);
    this.#tellEnd(wait);
    this.#events.onGrant(wait);
  }

  #keepFound(wait: LockWait<T>): void {
    wait.found = this.#found;
    wait.effective = this.#effective;
    wait.hasPassed = this.#hasPassed;
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
    this.#unseat(wait, true);
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
    this.#unseat(wait, true);
  }

  /** The lock is the owner's; who waits there is looked at again. The owner's other requests there are upgrades now. */
  #grantPoint(owner: LockOwner<T>, point: Point<T>): void {
    const { space, mode } = point;
    if (point.isRange) {
      const ranges = this.#openSpace(space);
      const grant = this.#takeGrant(owner, mode, space);
      this.#ranges++;
      grant.interval = ranges.held.add(point.bytes, point.high, grant);
      this.#touchRange(space, point.bytes, point.high);
    } else if (!this.#heldRangeCoversKey(owner, space, point.bytes, point.start, point.length, mode)) {
      const { bytes, start, length, hash } = point;
      const lock =
        point.lock ?? this.#find(space, bytes, start, length, hash) ?? this.#addLock(space, bytes, start, length, hash);
      this.#grantKey(owner, lock, mode, grantOf(lock, owner));
      this.#touchKey(lock, 0);
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
    const grant = this.#takeGrant(owner, mode, lock.space);
    grant.lock = lock;
    const first = lock.grants;
    grant.next = first;
    if (first !== undefined) first.previous = grant;
    lock.grants = grant;
    if (mode === LockMode.Shared) lock.shared++;
    else lock.strong = grant;
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
      if (wait === granted || wait.isUpgrade || !this.#holdsAt(owner, point)) continue;
      if (point.isRange) {
        wait.isUpgrade = true;
        this.#touchRange(point.space, point.bytes, point.high);
      } else {
        const lock = point.lock!;
        this.#dequeue(lock, point);
        wait.isUpgrade = true;
        this.#enqueue(lock, point);
        lock.hasTwins = true;
        this.#touchKey(lock, 0);
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
    const { lock, interval } = grant;
    if (lock !== undefined) {
      const { next, previous } = grant;
      if (previous === undefined) lock.grants = next;
      else previous.next = next;
      if (next !== undefined) next.previous = previous;
      if (grant.mode === LockMode.Shared) lock.shared--;
      else lock.strong = undefined;
      if (lock.queue !== undefined || this.#spaces.size > 0) this.#touchKey(lock, 0);
      this.#dropFree(lock);
    } else {
      const { space } = grant;
      this.#ranges--;
      this.#spaces.get(space)!.held.remove(interval!);
      this.#touchRange(space, interval!.low, interval!.high);
      this.#closeSpace(space);
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

  // Keys.

  #find(space: number, bytes: Uint8Array, start: number, length: number, hash: number): Lock<T> | undefined {
    if (this.#counters[hash & (COUNTERS - 1)] === 0) return undefined;
    let lock = this.#buckets[bucketOf(space, hash, this.#buckets.length)];
    while (lock !== undefined) {
      if (
        lock.hash === hash &&
        lock.space === space &&
        lock.length === length &&
        isEqual(lock.bytes, lock.start, bytes, start, length)
      )
        return lock;
      lock = lock.next;
    }
    return undefined;
  }

  #addLock(space: number, bytes: Uint8Array, start: number, length: number, hash: number): Lock<T> {
    if (this.#locks === this.#buckets.length) this.#rehash(this.#buckets.length * 2);
    let lock = this.#freeLocks;
    if (lock === undefined) lock = this.#newLock();
    else {
      this.#freeLocks = lock.next;
      this.#freeLockCount--;
    }
    if (length <= INLINE_KEY_BYTES) {
      lock.bytes = lock.inlineBytes;
      lock.start = lock.inlineStart;
    } else {
      lock.bytes = new Uint8Array(length);
      lock.start = 0;
    }
    const { bytes: into, start: at } = lock;
    for (let index = 0; index < length; index++) into[at + index] = bytes[start + index]!;
    lock.space = space;
    lock.hash = hash;
    lock.length = length;
    const bucket = bucketOf(space, hash, this.#buckets.length);
    lock.next = this.#buckets[bucket];
    this.#buckets[bucket] = lock;
    this.#locks++;
    this.#counters[hash & (COUNTERS - 1)]!++;
    if (this.#spaces.size > 0) {
      const ranges = this.#spaces.get(space);
      if (ranges?.keys !== undefined) indexLock(ranges.keys, lock);
    }
    return lock;
  }

  #newLock(): Lock<T> {
    if (this.#inlineUsed === this.#inlineBlock.length) {
      this.#inlineBlock = new Uint8Array(INLINE_KEYS_PER_BLOCK * INLINE_KEY_BYTES);
      this.#inlineUsed = 0;
    }
    const lock = new Lock<T>(this.#inlineBlock, this.#inlineUsed);
    this.#inlineUsed += INLINE_KEY_BYTES;
    return lock;
  }

  /** Forgets a key that nobody holds or wants. */
  #dropFree(lock: Lock<T>): void {
    if (lock.grants !== undefined || lock.queue !== undefined) return;
    const bucket = bucketOf(lock.space, lock.hash, this.#buckets.length);
    let at = this.#buckets[bucket];
    if (at === lock) this.#buckets[bucket] = lock.next;
    else {
      while (at!.next !== lock) at = at!.next;
      at!.next = lock.next;
    }
    this.#locks--;
    this.#counters[lock.hash & (COUNTERS - 1)]!--;
    if (lock.interval !== undefined) {
      this.#spaces.get(lock.space)!.keys!.remove(lock.interval);
      lock.interval = undefined;
    }
    if (this.#spaces.size > 0 && this.#locks === INDEXED_KEYS_KEPT_MIN)
      for (const space of [...this.#spaces.keys()]) this.#closeSpace(space);
    if (this.#locks === 0 && this.#buckets.length > BUCKETS_MIN * 64) this.#rehash(BUCKETS_MIN);
    if (this.#freeLockCount >= POOLED_MAX) return;
    lock.bytes = lock.inlineBytes;
    lock.next = this.#freeLocks;
    this.#freeLocks = lock;
    this.#freeLockCount++;
  }

  #rehash(bucketCount: number): void {
    const before = this.#buckets;
    const buckets = new Array<Lock<T> | undefined>(bucketCount).fill(undefined);
    for (const first of before) {
      let lock = first;
      while (lock !== undefined) {
        const { next } = lock;
        const bucket = bucketOf(lock.space, lock.hash, bucketCount);
        lock.next = buckets[bucket];
        buckets[bucket] = lock;
        lock = next;
      }
    }
    this.#buckets = buckets;
  }

  #openSpace(space: number): SpaceRanges<T> {
    let ranges = this.#spaces.get(space);
    if (ranges === undefined) {
      ranges = new SpaceRanges<T>();
      this.#spaces.set(space, ranges);
    }
    return ranges;
  }

  /** Forgets a space when no range is left, unless what was learnt would be dear to learn again. */
  #closeSpace(space: number): void {
    const ranges = this.#spaces.get(space);
    if (ranges === undefined || ranges.held.size > 0 || ranges.waiting.size > 0) return;
    if (this.#locks > INDEXED_KEYS_KEPT_MIN) return;
    if (ranges.keys !== undefined) {
      const locks: Lock<T>[] = [];
      ranges.keys.findIn(locks, LOWEST_KEY, undefined);
      for (const lock of locks) lock.interval = undefined;
    }
    this.#spaces.delete(space);
  }

  /** The locked or wanted keys of [low, high) of a space that is open. */
  #locksIn(space: number, low: Uint8Array, high: Uint8Array | undefined): Lock<T>[] {
    const ranges = this.#spaces.get(space)!;
    const locks: Lock<T>[] = [];
    if (ranges.keys === undefined && ranges.scanned > SCANS_PER_INDEX * this.#locks) {
      ranges.keys = new IntervalTree<Lock<T>>();
      for (const first of this.#buckets)
        for (let lock = first; lock !== undefined; lock = lock.next)
          if (lock.space === space) indexLock(ranges.keys, lock);
    }
    if (ranges.keys !== undefined) {
      ranges.keys.findIn(locks, low, high);
      return locks;
    }
    ranges.scanned += this.#locks;
    if (this.#locks === 0) return locks;
    for (const first of this.#buckets)
      for (let lock = first; lock !== undefined; lock = lock.next)
        if (lock.space === space && isWithin(lock, low, high)) locks.push(lock);
    return locks;
  }
}

/** Waits by deadline; those that ended stay until their time, or until they are most of it. */
class DeadlineHeap<T> {
  #waits: LockWait<T>[] = [];
  /** Compacted when it has grown to this. */
  #compactAt = 1024;

  get firstMs(): number {
    return this.#waits.length === 0 ? Infinity : this.#waits[0]!.deadlineMs;
  }

  add(wait: LockWait<T>): void {
    if (this.#waits.length >= this.#compactAt) this.#compact();
    this.#rise(wait);
  }

  /** The next whose deadline has passed. */
  take(nowMs: number): LockWait<T> | undefined {
    const first = this.#waits[0];
    if (first === undefined || first.deadlineMs > nowMs) return undefined;
    const last = this.#waits.pop()!;
    if (this.#waits.length > 0) this.#sink(last);
    return first;
  }

  #compact(): void {
    const seated = this.#waits.filter((wait) => wait.isSeated);
    // Sorted is a heap.
    seated.sort((a, b) => a.deadlineMs - b.deadlineMs);
    this.#waits = seated;
    this.#compactAt = Math.max(1024, seated.length * 2);
  }

  #rise(wait: LockWait<T>): void {
    const waits = this.#waits;
    let at = waits.length;
    waits.push(wait);
    while (at > 0) {
      const parent = (at - 1) >>> 1;
      const above = waits[parent]!;
      if (above.deadlineMs <= wait.deadlineMs) break;
      waits[at] = above;
      at = parent;
    }
    waits[at] = wait;
  }

  #sink(wait: LockWait<T>): void {
    const waits = this.#waits;
    const count = waits.length;
    let at = 0;
    for (;;) {
      let child = at * 2 + 1;
      if (child >= count) break;
      if (child + 1 < count && waits[child + 1]!.deadlineMs < waits[child]!.deadlineMs) child++;
      const below = waits[child]!;
      if (below.deadlineMs >= wait.deadlineMs) break;
      waits[at] = below;
      at = child;
    }
    waits[at] = wait;
  }
}

/** The order of waiters. */
function comesBefore<T>(a: LockWait<T>, b: LockWait<T>): boolean {
  if (a.isUpgrade !== b.isUpgrade) return a.isUpgrade;
  if (a.priority !== b.priority) return a.priority > b.priority;
  if (a.age !== b.age) return a.age < b.age;
  return a.number < b.number;
}

/** The order of owners that policies go by: the same in every shard. */
function isSenior<T>(a: LockOwner<T>, b: LockOwner<T>): boolean {
  if (a.priority !== b.priority) return a.priority > b.priority;
  if (a.age !== b.age) return a.age < b.age;
  return a.id < b.id;
}

function grantOf<T>(lock: Lock<T>, owner: LockOwner<T>): Grant<T> | undefined {
  const { strong } = lock;
  if (strong !== undefined && strong.owner === owner) return strong;
  if (lock.shared === 0) return undefined;
  for (let grant = lock.grants; grant !== undefined; grant = grant.next) if (grant.owner === owner) return grant;
  return undefined;
}

function isCompatible<T>(lock: Lock<T>, owner: LockOwner<T>, own: Grant<T> | undefined, mode: LockMode): boolean {
  const { strong } = lock;
  if (strong !== undefined && strong.owner !== owner && strong.mode + mode >= CONFLICT) return false;
  if (mode !== LockMode.Exclusive) return true;
  return lock.shared === (own !== undefined && own.mode === LockMode.Shared ? 1 : 0);
}

function isWithin<T>({ bytes, start, length }: Lock<T>, low: Uint8Array, high: Uint8Array | undefined): boolean {
  if (compareBytes(bytes, start, length, low, 0, low.length) < 0) return false;
  return high === undefined || compareBytes(bytes, start, length, high, 0, high.length) < 0;
}

function indexLock<T>(keys: IntervalTree<Lock<T>>, lock: Lock<T>): void {
  const bytes = new Uint8Array(lock.length + 1);
  for (let index = 0; index < lock.length; index++) bytes[index] = lock.bytes[lock.start + index]!;
  lock.interval = keys.add(bytes.subarray(0, lock.length), bytes, lock);
}

function bucketOf(space: number, hash: number, bucketCount: number): number {
  // The high bits of a hash brought the key to its shard.
  return (hash ^ Math.imul(space, 0x9e3779b1)) & (bucketCount - 1);
}

function isEqual(a: Uint8Array, aStart: number, b: Uint8Array, bStart: number, length: number): boolean {
  for (let index = 0; index < length; index++) if (a[aStart + index] !== b[bStart + index]) return false;
  return true;
}

function isSame<V>(a: readonly V[], b: readonly V[]): boolean {
  if (a.length !== b.length) return false;
  for (let index = 0; index < a.length; index++) if (a[index] !== b[index]) return false;
  return true;
}

function isEmptyRange(low: Uint8Array | undefined, high: Uint8Array | undefined): boolean {
  if (high === undefined) return false;
  const from = low ?? LOWEST_KEY;
  return compareBytes(from, 0, from.length, high, 0, high.length) >= 0;
}

/** Always of its own: the caller's bytes may be a view of a ring. */
function copyOf(bytes: Uint8Array): Uint8Array {
  return bytes.length === 0 ? LOWEST_KEY : Uint8Array.from(bytes);
}

/** A key or a range in words: UTF-8 where it is, else 0x and hex digits. */
export function lockText({ key, low, high }: Pick<LockDescription, 'key' | 'low' | 'high'>): string {
  if (key !== undefined) return keyText(key);
  return `[${low === undefined ? '' : keyText(low)}, ${high === undefined ? '' : keyText(high)})`;
}

const utf8 = new TextDecoder('utf-8', { fatal: true });

function keyText(key: Uint8Array): string {
  try {
    const text = utf8.decode(key);
    // Control characters would not be seen.
    if (!/\p{Cc}/u.test(text)) return text;
  } catch {
    // Not UTF-8.
  }
  return `0x${Buffer.from(key.buffer, key.byteOffset, key.length).toString('hex')}`;
}

function describePoint<T>(point: Point<T>): LockDescription {
  const { space, mode, bytes, start, length, isRange, high } = point;
  return describe(space, mode, Uint8Array.from(bytes.subarray(start, start + length)), isRange, high);
}

function describeGrant<T>(grant: Grant<T>): LockDescription {
  const { space, mode, lock, interval } = grant;
  if (lock === undefined) return describe(space, mode, interval!.low, true, interval!.high);
  return describe(
    space,
    mode,
    Uint8Array.from(lock.bytes.subarray(lock.start, lock.start + lock.length)),
    false,
    undefined,
  );
}

function describe(
  space: number,
  mode: LockMode,
  bytes: Uint8Array,
  isRange: boolean,
  high: Uint8Array | undefined,
): LockDescription {
  const name = lockModeName(mode);
  if (!isRange) return { space, key: bytes, mode: name };
  return { space, mode: name, ...(bytes.length > 0 && { low: bytes }), ...(high !== undefined && { high }) };
}

function closedError(): ConcordError {
  return new ConcordError('ERR_TRANSACTION_CLOSED', 'the transaction ended while it waited for a lock');
}

function timeoutError<T>(wait: LockWait<T>): ConcordError {
  const waitedMs = wait.deadlineMs - wait.sinceMs;
  const who = wait.owner === undefined ? 'a write' : `transaction ${wait.owner.id}`;
  const blocker = wait.found[0]?.id ?? 0;
  return new ConcordError(
    'ERR_LOCK_TIMEOUT',
    `${who} waited ${Math.max(0, waitedMs)} ms for a lock${blocker === 0 ? '' : ` that transaction ${blocker} holds or wants before it`}`,
    { txn: wait.owner?.id ?? 0, waitsFor: blocker, waitedMs: Math.max(0, waitedMs) },
  );
}

function diedError<T>(owner: LockOwner<T>, found: readonly LockOwner<T>[]): ConcordError {
  const blocker = found[0]?.id ?? 0;
  return new ConcordError(
    'ERR_DEADLOCK',
    `transaction ${owner.id} would wait for the senior transaction ${blocker}, which wait-die does not allow`,
    { txn: owner.id, policy: 'wait-die', waitsFor: blocker },
  );
}

function woundedError<T>(owner: LockOwner<T>): ConcordError {
  return new ConcordError(
    'ERR_DEADLOCK',
    `transaction ${owner.id} lost its locks to the senior transaction ${owner.woundedBy} (wound-wait)`,
    { txn: owner.id, policy: 'wound-wait', woundedBy: owner.woundedBy },
  );
}
