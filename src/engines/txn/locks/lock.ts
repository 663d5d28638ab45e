/**
 * What a lock table is made of: owners and what they hold, requests that wait and what they want, the keys where both meet.
 *
 *   owner ──grants──▶ grant ──lock──▶ lock (a key)        wait ──points──▶ point ──lock──▶ the same
 *                           └─interval─▶ a range                                └─interval─▶ a range
 *
 * Invariants: a lock has at most one grant that is not shared (`strong`); its queue is undefined when empty.
 * What is marked @internal belongs to the table. Threads: the shard's only.
 */
import { compareBytes } from '../../cells/node-writer.js';
import { describeKey, describeRange, type LockDescription } from './description.js';
import { LOWEST_KEY, type Interval } from './interval-tree.js';
import { LockMode, modesConflict } from './mode.js';
import { WaitQueue } from './wait-queue.js';

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

  /** Whether it holds and wants nothing here any more. */
  get isGone(): boolean {
    return this.isReleased || this.woundedBy !== 0;
  }

  /** Whether it waits for nobody any more: so it is in no circle, and who waits for it need not know when that is over. */
  get isPastWaiting(): boolean {
    return this.isGone || (this.isPrepared && this.waits.length === 0);
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
  /** @internal Of an owner's request there is one. */
  readonly points: Point<T>[] = [];
  /** @internal */
  isUpgrade = false;
  /** @internal Blockers as last found; some may be past waiting, and not in its way any more. */
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

  /** @internal The bytes stay the caller's until the request is seated. */
  wantKey(space: number, bytes: Uint8Array, start: number, length: number, hash: number, mode: LockMode): Point<T> {
    const point = new Point<T>(this, space, mode, bytes, start, length, hash, false, undefined);
    this.points.push(point);
    return point;
  }

  /** @internal The range must not be empty. */
  wantRange(space: number, low: Uint8Array | undefined, high: Uint8Array | undefined, mode: LockMode): Point<T> {
    const from = low === undefined ? LOWEST_KEY : copyOf(low);
    const to = high === undefined ? undefined : copyOf(high);
    const point = new Point<T>(this, space, mode, from, 0, from.length, 0, true, to);
    this.points.push(point);
    return point;
  }

  /** What an owner's request wants. */
  describe(): LockDescription {
    const { space, mode, bytes, start, length, isRange, high } = this.points[0]!;
    return isRange ? describeRange(space, mode, bytes, high) : describeKey(space, mode, bytes, start, length);
  }

  /** All that is wanted; the bytes are the wait's own. */
  wanted(): LockPoint[] {
    return this.points.map(({ space, mode, bytes, hash, isRange, high }) =>
      isRange ? { space, mode, low: bytes, high } : { space, mode, key: bytes, hash },
    );
  }
}

/** A key or a range that a request wants. */
export class Point<T> {
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
export class Grant<T> {
  owner!: LockOwner<T>;
  mode: LockMode = LockMode.Shared;
  space = 0;
  lock: Lock<T> | undefined = undefined;
  interval: Interval<Grant<T>> | undefined = undefined;
  /** Others at the same key. */
  next: Grant<T> | undefined = undefined;
  previous: Grant<T> | undefined = undefined;
  nextOfOwner: Grant<T> | undefined = undefined;

  describe(): LockDescription {
    const { space, mode, lock, interval } = this;
    if (lock === undefined) return describeRange(space, mode, interval!.low, interval!.high);
    return describeKey(space, mode, lock.bytes, lock.start, lock.length);
  }
}

/** A key that is locked or wanted. */
export class Lock<T> {
  space = 0;
  hash = 0;
  bytes: Uint8Array;
  start: number;
  length = 0;
  /** Where keys that are short enough are kept. */
  readonly inlineBytes: Uint8Array;
  readonly inlineStart: number;
  /** In its bucket. */
  next: Lock<T> | undefined = undefined;
  grants: Grant<T> | undefined = undefined;
  /** How many of them are shared; the other one, update or exclusive. */
  shared = 0;
  strong: Grant<T> | undefined = undefined;
  queue: WaitQueue<T> | undefined = undefined;
  interval: Interval<Lock<T>> | undefined = undefined;

  constructor(inlineBytes: Uint8Array, inlineStart: number) {
    this.inlineBytes = inlineBytes;
    this.inlineStart = inlineStart;
    this.bytes = inlineBytes;
    this.start = inlineStart;
  }
}

/** The order of owners that policies go by: the same in every shard. */
export function isSenior<T>(a: LockOwner<T>, b: LockOwner<T>): boolean {
  if (a.priority !== b.priority) return a.priority > b.priority;
  if (a.age !== b.age) return a.age < b.age;
  return a.id < b.id;
}

export function grantOf<T>(lock: Lock<T>, owner: LockOwner<T>): Grant<T> | undefined {
  const { strong } = lock;
  if (strong !== undefined && strong.owner === owner) return strong;
  if (lock.shared === 0) return undefined;
  for (let grant = lock.grants; grant !== undefined; grant = grant.next) if (grant.owner === owner) return grant;
  return undefined;
}

/** Whether the other holders of a key let the owner, who holds `own` of it, have it in this mode. */
export function isCompatible<T>(
  lock: Lock<T>,
  owner: LockOwner<T>,
  own: Grant<T> | undefined,
  mode: LockMode,
): boolean {
  const { strong } = lock;
  if (strong !== undefined && strong.owner !== owner && modesConflict(strong.mode, mode)) return false;
  if (mode !== LockMode.Exclusive) return true;
  return lock.shared === (own !== undefined && own.mode === LockMode.Shared ? 1 : 0);
}

export function addGrant<T>(lock: Lock<T>, grant: Grant<T>): void {
  const first = lock.grants;
  grant.lock = lock;
  grant.next = first;
  if (first !== undefined) first.previous = grant;
  lock.grants = grant;
  if (grant.mode === LockMode.Shared) lock.shared++;
  else lock.strong = grant;
}

export function removeGrant<T>(lock: Lock<T>, grant: Grant<T>): void {
  const { next, previous } = grant;
  if (previous === undefined) lock.grants = next;
  else previous.next = next;
  if (next !== undefined) next.previous = previous;
  if (grant.mode === LockMode.Shared) lock.shared--;
  else lock.strong = undefined;
}

export function enqueue<T>(lock: Lock<T>, point: Point<T>): void {
  (lock.queue ??= new WaitQueue<T>()).add(point);
}

/** Where it stood. */
export function dequeue<T>(lock: Lock<T>, point: Point<T>): number {
  const queue = lock.queue!;
  const index = queue.remove(point);
  if (queue.points.length === 0) lock.queue = undefined;
  return index;
}

export function isEmptyRange(low: Uint8Array | undefined, high: Uint8Array | undefined): boolean {
  if (high === undefined) return false;
  const from = low ?? LOWEST_KEY;
  return compareBytes(from, 0, from.length, high, 0, high.length) >= 0;
}

/** Always of its own: the caller's bytes may be a view of a ring. */
function copyOf(bytes: Uint8Array): Uint8Array {
  return bytes.length === 0 ? LOWEST_KEY : Uint8Array.from(bytes);
}
