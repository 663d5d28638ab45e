/**
 * Sequence lock: readers never write and never block the writer; they read, then check that nothing moved meanwhile.
 *
 *   word 0  sequence  even: at rest; odd: a writer is in the middle
 *   word 1  owner     id of the writer in the middle, 0 for none
 *
 *   writer:  begin() … plain stores … end()          reader:  read(() => copy the fields out)
 *
 * The reader's function may run on half-changed data, any number of times: it only copies, follows no link it has not checked, and
 * has no effects. What it returns (or throws) counts only when the sequence was even before and the same after. 2^31 writes
 * during one read would go unnoticed.
 *
 * The fields themselves are read and written plainly, and a processor may move plain accesses over an atomic one in one
 * direction. A full fence (exchange, then load, on a word nobody shares) after the odd sequence is stored and before it is checked
 * keeps them in place on every processor.
 *
 * Writers exclude each other by other means (one writer thread, or a mutex); begin() asserts it. A writer that died in the middle leaves
 * its id and an odd sequence: readers time out rather than see its half change, until recover() has repaired it.
 *
 * Threads: readers any; read() spins, then sleeps in short naps: on an event loop use tryRead() or readAsync().
 */
import { assert } from '../assert.js';
import { ConcordError, invalidArgument } from '../errors.js';
import { checkTimeout, deadlineAfter, remainingMs, type OwnerId } from './lock-owner.js';

/** Int32 words a sequence lock takes: one cache line. Its index must be a multiple of this. */
export const SEQLOCK_WORDS = 16;

const SEQUENCE = 0;
const OWNER = 1;

const SPIN_TRIES = 100;
/** A writer is in the middle for microseconds, unless its thread was suspended. */
const NAP_MS = 0.1;
const SEQLOCK_READ_TIMEOUT_MS = 1000;

const fenceWords = new Int32Array(new SharedArrayBuffer(64));

/** The release half of the exchange keeps what is before, the load what is after. */
function fullFence(): void {
  Atomics.exchange(fenceWords, 0, 0);
  Atomics.load(fenceWords, 0);
}

export class SeqLock {
  readonly #words: Int32Array<SharedArrayBuffer>;
  readonly #sequence: number;
  readonly #owner: number;
  readonly #me: OwnerId;

  /** `words` lies over zeroed shared memory; `index` is the first of SEQLOCK_WORDS words. */
  constructor(words: Int32Array<SharedArrayBuffer>, index: number, owner: OwnerId) {
    if (!Number.isInteger(index) || index < 0 || index % SEQLOCK_WORDS !== 0 || index + SEQLOCK_WORDS > words.length) {
      throw invalidArgument(
        `a sequence lock needs ${SEQLOCK_WORDS} aligned words, got index ${index} of ${words.length}`,
      );
    }
    this.#words = words;
    this.#sequence = index + SEQUENCE;
    this.#owner = index + OWNER;
    this.#me = owner;
  }

  /** Writer: from here on the fields may change. */
  begin(): void {
    const other = Atomics.compareExchange(this.#words, this.#owner, 0, this.#me);
    assert(other === 0, 'seqlock: two writers at once');
    Atomics.add(this.#words, this.#sequence, 1);
    fullFence();
  }

  /** Writer: the fields are whole again. */
  end(): void {
    assert(Atomics.load(this.#words, this.#owner) === this.#me, 'seqlock: end without begin');
    // A store is a release: the plain stores before it stay before it.
    Atomics.store(this.#words, this.#sequence, Atomics.load(this.#words, this.#sequence) + 1);
    Atomics.store(this.#words, this.#owner, 0);
  }

  /** Writer: begin, change, end. A change that throws leaves the fields locked, as a death would: see recover(). */
  write(change: () => void): void {
    this.begin();
    change();
    this.end();
  }

  /** Reader without a closure: the sequence to hand to readValid(), or undefined while a writer is in the middle. */
  readBegin(): number | undefined {
    const sequence = Atomics.load(this.#words, this.#sequence);
    return (sequence & 1) === 0 ? sequence : undefined;
  }

  /** Reader: whether everything read since readBegin() belongs together. */
  readValid(sequence: number): boolean {
    fullFence();
    return Atomics.load(this.#words, this.#sequence) === sequence;
  }

  /** What `copy` returns from one consistent state; undefined when a writer was in the way `tries` times. */
  tryRead<T>(copy: () => T, tries = SPIN_TRIES): { value: T } | undefined {
    for (let i = 0; i < tries; i++) {
      const sequence = this.readBegin();
      if (sequence === undefined) continue;
      let value: T;
      try {
        value = copy();
      } catch (error) {
        // Half-changed data may make it throw; whole data throwing is the caller's.
        if (this.readValid(sequence)) throw error;
        continue;
      }
      if (this.readValid(sequence)) return { value };
    }
    return undefined;
  }

  /**
   * What `copy` returns from one consistent state. Spins, then sleeps in naps. When time is up: `fallback`'s result (for example a
   * read under the writers' mutex), or ERR_TIMEOUT without one.
   */
  read<T>(copy: () => T, options: { timeoutMs?: number; fallback?: () => T } = {}): T {
    const timeoutMs = options.timeoutMs ?? SEQLOCK_READ_TIMEOUT_MS;
    checkTimeout(timeoutMs);
    let found = this.tryRead(copy);
    if (found !== undefined) return found.value;
    const deadline = deadlineAfter(timeoutMs);
    while (remainingMs(deadline) > 0) {
      // A sleep that nobody cuts short: the writer pays nothing for waiting readers.
      Atomics.wait(fenceWords, 8, 0, NAP_MS);
      found = this.tryRead(copy);
      if (found !== undefined) return found.value;
    }
    return options.fallback !== undefined ? options.fallback() : this.#throwTimeout(timeoutMs);
  }

  /** As read(), but lets the event loop run between tries. */
  async readAsync<T>(copy: () => T, options: { timeoutMs?: number; fallback?: () => T } = {}): Promise<T> {
    const timeoutMs = options.timeoutMs ?? SEQLOCK_READ_TIMEOUT_MS;
    checkTimeout(timeoutMs);
    let found = this.tryRead(copy);
    if (found !== undefined) return found.value;
    const deadline = deadlineAfter(timeoutMs);
    while (remainingMs(deadline) > 0) {
      await new Promise((resolve) => setTimeout(resolve, 1));
      found = this.tryRead(copy);
      if (found !== undefined) return found.value;
    }
    return options.fallback !== undefined ? options.fallback() : this.#throwTimeout(timeoutMs);
  }

  /**
   * The dead thread will never finish its write: takes its place, lets `repair` make the fields whole and ends the write. True when it
   * died in the middle. If `repair` throws, readers stay locked out and recover() may be called again.
   */
  recover(deadOwner: OwnerId, repair: () => void): boolean {
    if (Atomics.load(this.#words, this.#owner) !== deadOwner) return false;
    const sequence = Atomics.load(this.#words, this.#sequence);
    const inTheMiddle = (sequence & 1) === 1;
    if (inTheMiddle) {
      repair();
      Atomics.store(this.#words, this.#sequence, sequence + 1);
    }
    Atomics.store(this.#words, this.#owner, 0);
    return inTheMiddle;
  }

  /** The id of the writer in the middle, 0 for none. */
  get writer(): number {
    return Atomics.load(this.#words, this.#owner);
  }

  #throwTimeout(timeoutMs: number): never {
    const owner = this.writer;
    throw new ConcordError('ERR_TIMEOUT', `no consistent read within ${timeoutMs} ms; writer is owner ${owner}`, {
      timeoutMs,
      owner,
    });
  }
}
