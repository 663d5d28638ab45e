/**
 * Robust mutex: one state word and one epoch word on a 64-byte line.
 *
 *   word 0  state   bit 0        CONTENDED: somebody may be waiting
 *                   bit 1        OWNER_DIED: a holder died, nobody has called markConsistent() since
 *                   bits 2..15   the holder's id, 0 when free
 *                   bits 16..29  id of the waiter that gets the lock next, 0 when there is none
 *   word 1  epoch   goes up with every release that wakes; asynchronous waiters wait on this word
 *
 *   FREE ──acquire──▶ HELD ──a waiter registers──▶ CONTENDED ──release──▶ FREE, waiters woken, they race
 *                                                       └──release, with a claim──▶ HELD by the claimant
 *
 * Holder, claim and flags share one word, so that every step is a single compare-and-exchange and a thread that dies between any
 * two of its instructions leaves a state that recover() can read.
 *
 * Waking. Blocking waiters wait on the state and are woken one at a time; whoever has waited takes the lock as CONTENDED, since
 * others may still sleep. Asynchronous waiters are woken all at once: one whose event loop is busy, or whose caller gave up,
 * must not sit on the only wake-up. A waiter that runs out of time looks at the lock once more and registers again, so that a
 * wake-up meant for it is handed on.
 *
 * Fairness. Newcomers may overtake sleepers: it is much faster. A waiter that was overtaken CLAIM_AFTER_LOSSES times claims the
 * lock, and the next release hands it over directly; so nobody waits for ever.
 *
 * Death. recover() frees what a dead thread held and sets OWNER_DIED; it also wakes all waiters, because a wake-up may have gone to the dead one.
 * A thread that died with the lock just handed to it counts as a holder.
 *
 * Invariants: not recursive. Only the holder's thread releases. A free state has no claim.
 * Threads: any; acquire() blocks the thread: workers only, or where waiting is known to be short. A thread with an acquireAsync()
 * under way must not block on something that needs the same lock: the lock may be handed to it meanwhile.
 */
import { assert } from '../assert.js';
import { ConcordError, invalidArgument } from '../errors.js';
import {
  AbortWatch,
  changeOf,
  checkTimeout,
  deadlineAfter,
  remainingMs,
  type AcquireOptions,
  type Acquired,
  type OwnerId,
  type Recoverable,
} from './lock-owner.js';

/** Int32 words a mutex takes: one cache line. Its index must be a multiple of this. */
export const MUTEX_WORDS = 16;

const STATE = 0;
const EPOCH = 1;

const CONTENDED = 1;
const OWNER_DIED = 2;
const OWNER_SHIFT = 2;
const CLAIM_SHIFT = 16;
const ID_MASK = 0x3fff;

/** About a microsecond of looking before sleeping: waking a thread costs fifty times as much. */
const SPIN_LOADS = 64;
const CLAIM_AFTER_LOSSES = 4;

export class Mutex implements Recoverable {
  readonly #words: Int32Array<SharedArrayBuffer>;
  readonly #state: number;
  readonly #epoch: number;
  readonly #me: OwnerId;
  /** This thread holds the lock through this handle. State says "me" without it: handed over, not yet picked up. */
  #held = false;
  /** One waiter of this thread may claim, for a claim names only the thread. */
  #claiming = false;
  /** The state the last failed attempt left. */
  #seen = 0;

  /** `words` lies over zeroed shared memory; `index` is the first of MUTEX_WORDS words. */
  constructor(words: Int32Array<SharedArrayBuffer>, index: number, owner: OwnerId) {
    if (!Number.isInteger(index) || index < 0 || index % MUTEX_WORDS !== 0 || index + MUTEX_WORDS > words.length) {
      throw invalidArgument(`a mutex needs ${MUTEX_WORDS} aligned words, got index ${index} of ${words.length}`);
    }
    this.#words = words;
    this.#state = index + STATE;
    this.#epoch = index + EPOCH;
    this.#me = owner;
  }

  /** Takes the lock if it is free now; undefined if not. */
  tryAcquire(): Acquired | undefined {
    return !this.#held && this.#attempt(false, false) ? this.#condition() : undefined;
  }

  /** Takes the lock, blocking the thread. ERR_TIMEOUT when that takes too long. */
  acquire(timeoutMs = Infinity): Acquired {
    return this.acquireWithin(timeoutMs) ?? this.#throwTimeout(timeoutMs);
  }

  /** As acquire(), but undefined when time is up. */
  acquireWithin(timeoutMs: number): Acquired | undefined {
    checkTimeout(timeoutMs);
    assert(!this.#held, 'mutex: a blocking acquire by the thread that holds it would never end');
    if (this.#attempt(false, false)) return this.#condition();
    if (timeoutMs === 0) return undefined;
    for (let i = 0; i < SPIN_LOADS; i++) {
      if (ownerOf(Atomics.load(this.#words, this.#state)) === 0 && this.#attempt(false, false))
        return this.#condition();
    }
    const deadline = deadlineAfter(timeoutMs);
    let lossCount = 0;
    let mayClaim = false;
    try {
      for (;;) {
        if (this.#attempt(true, mayClaim)) return this.#condition();
        const leftMs = remainingMs(deadline);
        if (leftMs <= 0) return mayClaim && this.#withdrawClaim() ? this.#condition() : undefined;
        Atomics.wait(this.#words, this.#state, this.#seen, leftMs);
        if (!mayClaim && ++lossCount >= CLAIM_AFTER_LOSSES && !this.#claiming) mayClaim = this.#claiming = true;
      }
    } finally {
      if (mayClaim) this.#claiming = false;
    }
  }

  /** Takes the lock while the event loop goes on. Rejects with ERR_TIMEOUT, or the signal's reason. */
  async acquireAsync(options: AcquireOptions = {}): Promise<Acquired> {
    return (await this.acquireWithinAsync(options)) ?? this.#throwTimeout(options.timeoutMs ?? Infinity);
  }

  /** As acquireAsync(), but undefined when time is up. */
  async acquireWithinAsync(options: AcquireOptions): Promise<Acquired | undefined> {
    const timeoutMs = options.timeoutMs ?? Infinity;
    checkTimeout(timeoutMs);
    options.signal?.throwIfAborted();
    if (!this.#held && this.#attempt(false, false)) return this.#condition();
    if (timeoutMs === 0) return undefined;
    const watch = AbortWatch.of(options.signal);
    const deadline = deadlineAfter(timeoutMs);
    let lossCount = 0;
    let mayClaim = false;
    try {
      for (;;) {
        // The epoch first: a release after the attempt below moves it on, and the wait returns at once.
        const epoch = Atomics.load(this.#words, this.#epoch);
        if (this.#attempt(true, mayClaim)) return this.#condition();
        const leftMs = remainingMs(deadline);
        if (leftMs <= 0) return mayClaim && this.#withdrawClaim() ? this.#condition() : undefined;
        await changeOf(this.#words, this.#epoch, epoch, leftMs, watch);
        if (!mayClaim && ++lossCount >= CLAIM_AFTER_LOSSES && !this.#claiming) mayClaim = this.#claiming = true;
      }
    } catch (error) {
      if (mayClaim && this.#withdrawClaim()) this.release();
      throw error;
    } finally {
      if (mayClaim) this.#claiming = false;
      watch?.dispose();
    }
  }

  /** Frees the lock, or hands it to the waiter that claimed it. Releasing a lock this thread does not hold is a broken invariant. */
  release(): void {
    assert(this.#held, 'mutex: release by a thread that does not hold it');
    this.#held = false;
    let state = Atomics.load(this.#words, this.#state);
    for (;;) {
      assert(ownerOf(state) === this.#me, 'mutex: the lock was taken from a living holder');
      const now = Atomics.compareExchange(this.#words, this.#state, state, successorOf(state));
      if (now === state) break;
      state = now;
    }
    // A hand-over wakes everyone: the claimant may be any of them.
    if ((state & CONTENDED) !== 0) this.#wake(claimOf(state) === 0 ? 1 : Infinity);
  }

  /** The holder has repaired what the lock guards after 'owner-died'. */
  markConsistent(): void {
    assert(this.#held, 'mutex: markConsistent by a thread that does not hold it');
    Atomics.and(this.#words, this.#state, ~OWNER_DIED);
  }

  /** `mayHaveChanged`: false if the thread held it without changing what it guards; then nobody is told. */
  recover(deadOwner: OwnerId, mayHaveChanged = true): boolean {
    assert(deadOwner !== this.#me, 'mutex: a thread cannot outlive itself');
    let state = Atomics.load(this.#words, this.#state);
    for (;;) {
      let next = claimOf(state) === deadOwner ? state & ~(ID_MASK << CLAIM_SHIFT) : state;
      if (ownerOf(state) === deadOwner) next = successorOf(next) | (mayHaveChanged ? OWNER_DIED : 0);
      const now = Atomics.compareExchange(this.#words, this.#state, state, next);
      if (now === state) break;
      state = now;
    }
    this.#wake(Infinity);
    return mayHaveChanged && ownerOf(state) === deadOwner;
  }

  /** The holder's id at this moment, 0 when the lock is free. */
  get owner(): number {
    return ownerOf(Atomics.load(this.#words, this.#state));
  }

  /** The same without ordering guarantees: a hint. */
  get seemsHeld(): boolean {
    return ownerOf(this.#words[this.#state]!) !== 0;
  }

  /** What one who took the lock at this moment would find; undefined while somebody holds it. */
  get freeCondition(): Acquired | undefined {
    const state = Atomics.load(this.#words, this.#state);
    if (ownerOf(state) !== 0) return undefined;
    return (state & OWNER_DIED) !== 0 ? 'owner-died' : 'clean';
  }

  /** Whether a holder died and nobody has called markConsistent() since. */
  get ownerDied(): boolean {
    return (Atomics.load(this.#words, this.#state) & OWNER_DIED) !== 0;
  }

  /** Whether this thread holds the lock. */
  get held(): boolean {
    return this.#held;
  }

  /** Takes the lock if it is free or handed to this thread. If not, `waiting` registers, and `claim` asks to be the next. */
  #attempt(waiting: boolean, claim: boolean): boolean {
    const registered = waiting ? CONTENDED : 0;
    let state = Atomics.load(this.#words, this.#state);
    for (;;) {
      const owner = ownerOf(state);
      if (owner === this.#me && !this.#held) {
        this.#held = true;
        return true;
      }
      let next = state | registered;
      if (owner === 0) next |= this.#me << OWNER_SHIFT;
      else if (claim && claimOf(state) === 0) next |= this.#me << CLAIM_SHIFT;
      const now = next === state ? state : Atomics.compareExchange(this.#words, this.#state, state, next);
      if (now === state) {
        this.#seen = next;
        return owner === 0 ? (this.#held = true) : false;
      }
      state = now;
    }
  }

  /** Gives up the claim. True when the lock had been handed over before that: then this thread holds it. */
  #withdrawClaim(): boolean {
    let state = Atomics.load(this.#words, this.#state);
    for (;;) {
      if (ownerOf(state) === this.#me && !this.#held) {
        this.#held = true;
        return true;
      }
      if (claimOf(state) !== this.#me) return false;
      const now = Atomics.compareExchange(this.#words, this.#state, state, state & ~(ID_MASK << CLAIM_SHIFT));
      if (now === state) return false;
      state = now;
    }
  }

  #wake(blockingCount: number): void {
    Atomics.add(this.#words, this.#epoch, 1);
    Atomics.notify(this.#words, this.#state, blockingCount);
    Atomics.notify(this.#words, this.#epoch);
  }

  #condition(): Acquired {
    return this.ownerDied ? 'owner-died' : 'clean';
  }

  #throwTimeout(timeoutMs: number): never {
    const owner = this.owner;
    throw new ConcordError('ERR_TIMEOUT', `mutex not acquired within ${timeoutMs} ms; held by owner ${owner}`, {
      timeoutMs,
      owner,
    });
  }
}

/** The holder's id in a mutex state word, 0 when free. */
function ownerOf(state: number): number {
  return (state >> OWNER_SHIFT) & ID_MASK;
}

function claimOf(state: number): number {
  return (state >> CLAIM_SHIFT) & ID_MASK;
}

/** The state after its holder has gone: free, or handed to the claimant. Waiters that this wakes register again by themselves. */
function successorOf(state: number): number {
  return (state & OWNER_DIED) | (claimOf(state) << OWNER_SHIFT);
}
