/**
 * Who holds a request up: holders it conflicts with, and waiters before it that it conflicts with. What is said to hold it up is less than that, see
 * lock-table.ts.
 *
 * Threads: the shard's only.
 */
import type { LockIndex } from './lock-index.js';
import type { Grant, Lock, LockOwner, LockWait, Point } from './lock.js';
import { CONFLICTING_MODES, LockMode, isIn, modesConflict, type LockModes } from './mode.js';
import { comesBefore } from './wait-queue.js';

export class BlockerSearch<T> {
  readonly #index: LockIndex<T>;
  readonly #isWaitDie: boolean;
  #found: LockOwner<T>[] = [];
  #effective: LockOwner<T>[] = [];
  #hasPassed = false;
  /** Of this search: owners that bear it are in the lists already. */
  #mark = 0;

  constructor(index: LockIndex<T>, isWaitDie: boolean) {
    this.#index = index;
    this.#isWaitDie = isWaitDie;
  }

  /** The transactions that the last search found. The array is the caller's, as is the next. */
  get found(): LockOwner<T>[] {
    return this.#found;
  }

  /** Holders, directly or behind others (wait-die only). */
  get effective(): LockOwner<T>[] {
    return this.#effective;
  }

  /** Whether somebody before the request did not hold it up, because that one waits for it. */
  get hasPassed(): boolean {
    return this.#hasPassed;
  }

  /** Finds who holds a request up: false, nobody. True with nobody found: waiters that are no transactions. */
  run(wait: LockWait<T>): boolean {
    this.#found = [];
    this.#effective = [];
    this.#hasPassed = false;
    this.#mark++;
    let isHeld = false;
    for (const point of wait.points) {
      if (point.isRange ? this.#meetAtRange(wait, point) : this.#meetAtKey(wait, point)) isHeld = true;
    }
    return isHeld;
  }

  /** Whether what was kept last tells who comes behind as much: it differs at most in owners that wait for nobody. */
  isAsGood(wait: LockWait<T>): boolean {
    const mark = this.#mark;
    return (
      wait.hasPassed === this.#hasPassed &&
      isAsGood(wait.found, this.#found, (owner) => owner.blockerMark === mark) &&
      isAsGood(wait.effective, this.#effective, (owner) => owner.effectiveMark === mark)
    );
  }

  /**
   * Whether the waiter stands for what is ahead of it and in its way, to those behind whom it holds up. One that passes somebody does not. For wait-die holders
   * matter, and all of them are looked at; those of plain writes are handed on.
   */
  standsForOthers({ hasPassed, owner }: LockWait<T>): boolean {
    return !hasPassed && !(this.#isWaitDie && owner !== undefined);
  }

  #meetAtKey(wait: LockWait<T>, point: Point<T>): boolean {
    const { lock, space, bytes, start, length } = point;
    let isHeld = lock !== undefined && this.#meetInOrder(wait, point, lock);
    if (!this.#index.hasSpaces) return isHeld;
    if (this.#meetWaiters(wait, point, this.#index.waitingAt(space, bytes, start, length))) isHeld = true;
    if (this.#meetRangeHolders(wait, point, this.#index.heldAt(space, bytes, start, length))) isHeld = true;
    return isHeld;
  }

  /** At a key: waiters from the nearest on, until those met stand for all that is further ahead; else holders, too. */
  #meetInOrder(wait: LockWait<T>, { mode }: Point<T>, lock: Lock<T>): boolean {
    const { queue } = lock;
    let isHeld = false;
    let modes = CONFLICTING_MODES[mode]!;
    if (queue !== undefined) {
      const { points } = queue;
      for (let index = queue.countBefore(wait) - 1; index >= 0; index--) {
        const other = points[index]!;
        if (!modesConflict(other.mode, mode)) continue;
        if (isIn(modes, other.mode)) {
          if (!this.#meetWaiter(wait, other.wait)) continue;
          isHeld = true;
        }
        if (!this.standsForOthers(other.wait)) continue;
        modes &= ~CONFLICTING_MODES[other.mode]!;
        if (modes === 0) return true;
      }
    }
    return this.#meetHolders(wait, modes, lock) || isHeld;
  }

  #meetAtRange(wait: LockWait<T>, point: Point<T>): boolean {
    const { space, bytes: low, high } = point;
    let isHeld = this.#meetWaiters(wait, point, this.#index.waitingIn(space, low, high));
    if (this.#meetRangeHolders(wait, point, this.#index.heldIn(space, low, high))) isHeld = true;
    for (const lock of this.#index.locksIn(space, low, high)) {
      if (this.#meetHolders(wait, CONFLICTING_MODES[point.mode]!, lock)) isHeld = true;
      if (lock.queue !== undefined && this.#meetWaiters(wait, point, lock.queue.points)) isHeld = true;
    }
    return isHeld;
  }

  /** The holders of a key, of these modes. */
  #meetHolders({ owner }: LockWait<T>, modes: LockModes, { grants, shared, strong }: Lock<T>): boolean {
    let isHeld = false;
    if (strong !== undefined && strong.owner !== owner && isIn(modes, strong.mode)) {
      this.#meetHolder(strong.owner);
      isHeld = true;
    }
    if (shared === 0 || !isIn(modes, LockMode.Shared)) return isHeld;
    for (let grant = grants; grant !== undefined; grant = grant.next) {
      if (grant.owner === owner || grant.mode !== LockMode.Shared) continue;
      this.#meetHolder(grant.owner);
      isHeld = true;
    }
    return isHeld;
  }

  #meetRangeHolders({ owner }: LockWait<T>, { mode }: Point<T>, grants: readonly Grant<T>[]): boolean {
    let isHeld = false;
    for (const grant of grants) {
      if (grant.owner === owner || !modesConflict(grant.mode, mode)) continue;
      this.#meetHolder(grant.owner);
      isHeld = true;
    }
    return isHeld;
  }

  #meetWaiters(wait: LockWait<T>, { mode }: Point<T>, others: readonly Point<T>[]): boolean {
    let isHeld = false;
    for (const other of others)
      if (modesConflict(other.mode, mode) && this.#meetWaiter(wait, other.wait)) isHeld = true;
    return isHeld;
  }

  #meetHolder(holder: LockOwner<T>): void {
    this.#addFound(holder);
    if (this.#isWaitDie) this.#addEffective(holder);
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
      for (const blocker of other.found) this.#addFound(blocker);
    } else {
      this.#addFound(other.owner);
    }
    for (const holder of other.effective) this.#addEffective(holder);
    return true;
  }

  #addFound(owner: LockOwner<T>): void {
    if (owner.blockerMark === this.#mark || owner.isGone) return;
    owner.blockerMark = this.#mark;
    this.#found.push(owner);
  }

  #addEffective(owner: LockOwner<T>): void {
    if (owner.effectiveMark === this.#mark || owner.isGone) return;
    owner.effectiveMark = this.#mark;
    this.#effective.push(owner);
  }
}

/** Whether two lists without doubles have the same members, but for those that wait for nobody. `isInNow`: whether it is in the second. */
function isAsGood<T>(
  before: readonly LockOwner<T>[],
  now: readonly LockOwner<T>[],
  isInNow: (owner: LockOwner<T>) => boolean,
): boolean {
  let common = 0;
  for (const owner of before) {
    if (owner.isPastWaiting) continue;
    if (!isInNow(owner)) return false;
    common++;
  }
  for (const owner of now) if (!owner.isPastWaiting) common--;
  return common === 0;
}
