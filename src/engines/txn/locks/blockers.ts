/**
 * Who holds a request up: holders it conflicts with, and waiters before it that it conflicts with. What is said to hold it up is less than that, see
 * lock-table.ts.
 *
 * Threads: the shard's only.
 */
import type { LockIndex } from './lock-index.js';
import { comesBefore, countBefore, type Grant, type LockOwner, type LockWait, type Point } from './lock.js';
import { LockMode, modesConflict } from './mode.js';

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

  /** Whether these are the blockers that the request had when they were kept last. */
  isAsKept(wait: LockWait<T>): boolean {
    return (
      wait.hasPassed === this.#hasPassed && isSame(wait.found, this.#found) && isSame(wait.effective, this.#effective)
    );
  }

  #meetAtKey(wait: LockWait<T>, point: Point<T>): boolean {
    const { lock, mode, space, bytes, start, length } = point;
    let isHeld = false;
    if (lock !== undefined) {
      const { queue } = lock;
      let isCut = false;
      if (queue !== undefined) {
        for (let index = countBefore(queue, wait) - 1; index >= 0; index--) {
          const other = queue[index]!;
          if (!modesConflict(other.mode, mode) || !this.#meetWaiter(wait, other.wait)) continue;
          isHeld = true;
          // It waits for all that is further ahead, unless it passes somebody. For wait-die holders matter, and all of them are looked at.
          if (other.mode === LockMode.Exclusive && !this.#isWaitDie && !other.wait.hasPassed) {
            if (other.wait.owner === undefined && wait.owner !== undefined) continue;
            isCut = true;
            break;
          }
        }
      }
      if (!isCut && this.#meetHolders(wait, point, lock.grants)) isHeld = true;
    }
    if (!this.#index.hasSpaces) return isHeld;
    if (this.#meetWaiters(wait, point, this.#index.waitingAt(space, bytes, start, length))) isHeld = true;
    if (this.#meetRangeHolders(wait, point, this.#index.heldAt(space, bytes, start, length))) isHeld = true;
    return isHeld;
  }

  #meetAtRange(wait: LockWait<T>, point: Point<T>): boolean {
    const { space, bytes: low, high } = point;
    let isHeld = this.#meetWaiters(wait, point, this.#index.waitingIn(space, low, high));
    if (this.#meetRangeHolders(wait, point, this.#index.heldIn(space, low, high))) isHeld = true;
    for (const { grants, queue } of this.#index.locksIn(space, low, high)) {
      if (this.#meetHolders(wait, point, grants)) isHeld = true;
      if (queue !== undefined && this.#meetWaiters(wait, point, queue)) isHeld = true;
    }
    return isHeld;
  }

  /** The holders of a key. */
  #meetHolders({ owner }: LockWait<T>, { mode }: Point<T>, first: Grant<T> | undefined): boolean {
    let isHeld = false;
    for (let grant = first; grant !== undefined; grant = grant.next) {
      if (grant.owner === owner || !modesConflict(grant.mode, mode)) continue;
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
    if (owner.blockerMark === this.#mark) return;
    owner.blockerMark = this.#mark;
    this.#found.push(owner);
  }

  #addEffective(owner: LockOwner<T>): void {
    if (owner.effectiveMark === this.#mark) return;
    owner.effectiveMark = this.#mark;
    this.#effective.push(owner);
  }
}

function isSame<V>(a: readonly V[], b: readonly V[]): boolean {
  if (a.length !== b.length) return false;
  for (let index = 0; index < a.length; index++) if (a[index] !== b[index]) return false;
  return true;
}
