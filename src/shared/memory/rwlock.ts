/**
 * Robust reader–writer lock with writer preference: a mutex for the writers and one counter per owner for the readers.
 *
 *   line 0    the writers' mutex (mutex.ts)
 *   line 1    word 16  gate      epoch; goes up when readers may come in again
 *             word 17  knocking  1 when readers may be waiting at the gate
 *             word 18  drain     epoch; goes up when a reader leaves while a writer is there
 *   line 2…   word 32 + 16 × (owner − 1): how many reads that owner holds
 *
 * A reader raises its own counter, then looks at the mutex: free, and it is in; held, and it lowers the counter and waits at the
 * gate. A writer takes the mutex, then waits until every counter is 0. Both orders are sequentially consistent, so one of the two
 * sees the other. Readers touch no word in common but read-shared ones: reads scale with the threads. There is no total that a
 * dying reader could leave wrong; recover() sets its counter to 0.
 *
 * Preference. From the moment a writer has the mutex no new reader comes in, and a chain of writers may pass the mutex on among
 * themselves. A reader that the gate turned away DETOUR_AFTER_LOSSES times queues for the mutex like a writer, enters while it
 * holds it and passes it on; the mutex hands itself to waiters that lose too often, so readers do not starve either.
 *
 * Death. A dead reader has changed nothing: its holds are given back. After a dead writer every acquirer, reader or writer, gets
 * 'owner-died' until a writer calls markConsistent().
 *
 * Nesting. A blocking acquireRead() by a thread that reads already, or whose acquireWriteAsync() is waiting for readers to leave,
 * is let in at once: the writer that bars the way cannot be in, and the thread would wait for itself. acquireReadAsync() always waits behind a writer: a task that holds a read must not await
 * another. A read hold cannot become a write hold.
 * Threads: any; the blocking calls are for workers, or where waiting is known to be short.
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
import { Mutex, MUTEX_WORDS } from './mutex.js';

const LINE_WORDS = 16;
const GATE = MUTEX_WORDS;
const KNOCKING = MUTEX_WORDS + 1;
const DRAIN = MUTEX_WORDS + 2;
const READERS = MUTEX_WORDS + LINE_WORDS;

/** About a microsecond, as in the mutex. */
const SPIN_LOADS = 64;
const DETOUR_AFTER_LOSSES = 4;

/** Int32 words a lock for owners 1 ..= ownersMax takes. Its index must be a multiple of 16. */
export function rwLockWords(ownersMax: number): number {
  return READERS + ownersMax * LINE_WORDS;
}

export class RwLock implements Recoverable {
  readonly #words: Int32Array<SharedArrayBuffer>;
  readonly #mutex: Mutex;
  readonly #gate: number;
  readonly #knocking: number;
  readonly #drain: number;
  /** Word of owner 1's counter. */
  readonly #readers: number;
  readonly #ownersMax: number;
  /** Word of this thread's counter. */
  readonly #mine: number;
  /** Reads this thread holds through this handle. */
  #readCount = 0;
  /** This thread is in as a writer: it has the mutex, and the readers have left. */
  #writing = false;

  /** `words` lies over zeroed shared memory; `index` is the first of rwLockWords(ownersMax) words. */
  constructor(words: Int32Array<SharedArrayBuffer>, index: number, ownersMax: number, owner: OwnerId) {
    if (!Number.isInteger(ownersMax) || ownersMax < 1 || owner > ownersMax) {
      throw invalidArgument(`owner ${owner} has no place in a lock for ${ownersMax} owners`);
    }
    if (index + rwLockWords(ownersMax) > words.length) {
      throw invalidArgument(`the lock needs ${rwLockWords(ownersMax)} words, got index ${index} of ${words.length}`);
    }
    this.#mutex = new Mutex(words, index, owner);
    this.#words = words;
    this.#gate = index + GATE;
    this.#knocking = index + KNOCKING;
    this.#drain = index + DRAIN;
    this.#readers = index + READERS;
    this.#ownersMax = ownersMax;
    this.#mine = this.#readers + (owner - 1) * LINE_WORDS;
  }

  /** A read hold if there is no writer; undefined if there is. */
  tryAcquireRead(): Acquired | undefined {
    // What counts is the look behind the addition.
    return this.#mutex.seemsHeld ? undefined : this.#enter();
  }

  /** A read hold, blocking the thread. ERR_TIMEOUT when that takes too long. */
  acquireRead(timeoutMs = Infinity): Acquired {
    checkTimeout(timeoutMs);
    assert(!this.#writing, 'rwlock: a blocking read by the thread that writes would never end');
    // A read of this thread keeps writers out; and a writer of this thread that still waits cannot come in while it blocks.
    if (this.#readCount > 0 || this.#mutex.held) {
      this.#readCount++;
      Atomics.add(this.#words, this.#mine, 1);
      return this.#condition();
    }
    for (let i = 0; i < SPIN_LOADS; i++) {
      const found = this.tryAcquireRead();
      if (found !== undefined) return found;
    }
    const deadline = deadlineAfter(timeoutMs);
    for (let lossCount = 0; lossCount < DETOUR_AFTER_LOSSES; lossCount++) {
      const gate = this.#knock();
      const found = this.#enterBehindKnock();
      if (found !== undefined) return found;
      const leftMs = remainingMs(deadline);
      if (leftMs <= 0) this.#throwTimeout('read', timeoutMs);
      Atomics.wait(this.#words, this.#gate, gate, leftMs);
    }
    const found = this.#mutex.acquireWithin(Math.max(0, remainingMs(deadline)));
    if (found === undefined) this.#throwTimeout('read', timeoutMs);
    this.#enterByDetour();
    return found;
  }

  /** A read hold, while the event loop goes on. Rejects with ERR_TIMEOUT, or the signal's reason. */
  async acquireReadAsync(options: AcquireOptions = {}): Promise<Acquired> {
    const timeoutMs = options.timeoutMs ?? Infinity;
    checkTimeout(timeoutMs);
    options.signal?.throwIfAborted();
    const atOnce = this.tryAcquireRead();
    if (atOnce !== undefined) return atOnce;
    const deadline = deadlineAfter(timeoutMs);
    const watch = AbortWatch.of(options.signal);
    try {
      for (let lossCount = 0; lossCount < DETOUR_AFTER_LOSSES; lossCount++) {
        const gate = this.#knock();
        const found = this.#enterBehindKnock();
        if (found !== undefined) return found;
        const leftMs = remainingMs(deadline);
        if (leftMs <= 0) this.#throwTimeout('read', timeoutMs);
        await changeOf(this.#words, this.#gate, gate, leftMs, watch);
      }
    } finally {
      watch?.dispose();
    }
    const leftMs = Math.max(0, remainingMs(deadline));
    const found = await this.#mutex.acquireWithinAsync({ timeoutMs: leftMs, signal: options.signal });
    if (found === undefined) this.#throwTimeout('read', timeoutMs);
    this.#enterByDetour();
    return found;
  }

  /** Gives one read hold back. */
  releaseRead(): void {
    assert(this.#readCount > 0, 'rwlock: release of a read by a thread that holds none');
    this.#leave();
  }

  /** The write hold if nobody reads or writes; undefined otherwise. */
  tryAcquireWrite(): Acquired | undefined {
    if (!this.#drained()) return undefined;
    const found = this.#mutex.tryAcquire();
    if (found === undefined) return undefined;
    if (this.#drained()) {
      this.#writing = true;
      return found;
    }
    this.#releaseMutex();
    return undefined;
  }

  /** The write hold, blocking the thread. ERR_TIMEOUT when that takes too long. */
  acquireWrite(timeoutMs = Infinity): Acquired {
    checkTimeout(timeoutMs);
    assert(this.#readCount === 0, 'rwlock: a blocking write by a thread that reads would never end');
    const deadline = deadlineAfter(timeoutMs);
    const found = this.#mutex.acquireWithin(timeoutMs);
    if (found === undefined) this.#throwTimeout('write', timeoutMs);
    for (;;) {
      // The epoch first: a reader that leaves after the look below moves it on.
      const drain = Atomics.load(this.#words, this.#drain);
      if (this.#drained()) {
        this.#writing = true;
        return found;
      }
      const leftMs = remainingMs(deadline);
      if (leftMs <= 0) {
        this.#releaseMutex();
        this.#throwTimeout('write', timeoutMs);
      }
      Atomics.wait(this.#words, this.#drain, drain, leftMs);
    }
  }

  /** The write hold, while the event loop goes on. Rejects with ERR_TIMEOUT, or the signal's reason. */
  async acquireWriteAsync(options: AcquireOptions = {}): Promise<Acquired> {
    const timeoutMs = options.timeoutMs ?? Infinity;
    checkTimeout(timeoutMs);
    const deadline = deadlineAfter(timeoutMs);
    const found = await this.#mutex.acquireWithinAsync(options);
    if (found === undefined) this.#throwTimeout('write', timeoutMs);
    let watch: AbortWatch | undefined;
    try {
      watch = AbortWatch.of(options.signal);
      for (;;) {
        const drain = Atomics.load(this.#words, this.#drain);
        if (this.#drained()) {
          this.#writing = true;
          return found;
        }
        const leftMs = remainingMs(deadline);
        if (leftMs <= 0) this.#throwTimeout('write', timeoutMs);
        await changeOf(this.#words, this.#drain, drain, leftMs, watch);
      }
    } catch (error) {
      this.#releaseMutex();
      throw error;
    } finally {
      watch?.dispose();
    }
  }

  /** Gives the write hold back. */
  releaseWrite(): void {
    assert(this.#writing, 'rwlock: release of a write by a thread that does not hold it');
    this.#writing = false;
    this.#releaseMutex();
  }

  /** The writer has repaired what the lock guards after 'owner-died'. */
  markConsistent(): void {
    assert(this.#writing, 'rwlock: markConsistent by a thread that does not write');
    this.#mutex.markConsistent();
  }

  /** `mayWrite`: false of a thread that never asks for the write hold. As a reader it may have had the mutex, see Preference. */
  recover(deadOwner: OwnerId, mayWrite = true): boolean {
    if (deadOwner <= this.#ownersMax) {
      Atomics.store(this.#words, this.#readers + (deadOwner - 1) * LINE_WORDS, 0);
      this.#ringDrain();
    }
    const wasWriting = this.#mutex.recover(deadOwner, mayWrite);
    this.#openGate();
    return wasWriting;
  }

  /** Reads held at this moment by all owners. A reader that is being turned away may be among them. For statistics and tests. */
  get readers(): number {
    let count = 0;
    for (let i = 0; i < this.#ownersMax; i++) count += Atomics.load(this.#words, this.#readers + i * LINE_WORDS);
    return count;
  }

  /** The id of the thread that writes, or waits for the readers to leave; 0 for none. */
  get writer(): number {
    return this.#mutex.owner;
  }

  /** What a reader finds that is in now; undefined if a writer is. */
  #enter(): Acquired | undefined {
    this.#readCount++;
    Atomics.add(this.#words, this.#mine, 1);
    const found = this.#mutex.freeCondition;
    if (found === undefined) this.#leave();
    return found;
  }

  /** The look that decides whether to wait: a hint may be from before the knock, and a release that did not see that wakes nobody. */
  #enterBehindKnock(): Acquired | undefined {
    return this.#mutex.owner === 0 ? this.#enter() : undefined;
  }

  /** With the mutex held there is no writer, and none comes before it is passed on. */
  #enterByDetour(): void {
    this.#readCount++;
    Atomics.add(this.#words, this.#mine, 1);
    this.#releaseMutex();
  }

  #leave(): void {
    this.#readCount--;
    Atomics.sub(this.#words, this.#mine, 1);
    if (this.#mutex.owner !== 0) this.#ringDrain();
  }

  /** Before the last look at the mutex; a release after that look finds the flag up. Returns the epoch to wait on. */
  #knock(): number {
    const gate = Atomics.load(this.#words, this.#gate);
    Atomics.store(this.#words, this.#knocking, 1);
    return gate;
  }

  #drained(): boolean {
    for (let i = 0; i < this.#ownersMax; i++) {
      if (Atomics.load(this.#words, this.#readers + i * LINE_WORDS) !== 0) return false;
    }
    return true;
  }

  #releaseMutex(): void {
    this.#mutex.release();
    if (Atomics.load(this.#words, this.#knocking) !== 0) this.#openGate();
  }

  #openGate(): void {
    Atomics.store(this.#words, this.#knocking, 0);
    Atomics.add(this.#words, this.#gate, 1);
    Atomics.notify(this.#words, this.#gate);
  }

  #ringDrain(): void {
    Atomics.add(this.#words, this.#drain, 1);
    Atomics.notify(this.#words, this.#drain);
  }

  #condition(): Acquired {
    return this.#mutex.ownerDied ? 'owner-died' : 'clean';
  }

  #throwTimeout(role: string, timeoutMs: number): never {
    const owner = this.writer;
    const readers = this.readers;
    throw new ConcordError(
      'ERR_TIMEOUT',
      `${role} lock not acquired within ${timeoutMs} ms; writer is owner ${owner}, ${readers} reads are held`,
      { timeoutMs, owner, readers },
    );
  }
}
