/**
 * Doorbell: lets one thread sleep until another has news for it. Two words on a 64-byte line of their own.
 *
 *   word 0  flag   0 while awake; while parked or about to park, the ticket (never 0)
 *   word 1  epoch  goes up by one with every ring; the sleeper waits on this word
 *
 * The parker, always in this order, or a wake-up can be lost:
 *
 *   bell.raise();                                   // 1. flag up
 *   if (thereIsWork()) bell.lower();                // 2. look once more
 *   else bell.parkSync(timeoutMs);                  // 3. sleep (or await bell.parkAsync(timeoutMs)); lowers the flag
 *
 * The ringer publishes its news with an Atomics.store (or a stronger operation), then calls unpark(). All these accesses are
 * sequentially consistent, so either the parker's second look sees the news, or the ringer's load sees the flag. While nobody is
 * parked unpark() is one load.
 *
 * The ringer moves the epoch before it takes the flag down. A ringer that dies in between leaves the flag up, so the next
 * unpark(), for example the supervisor's for the dead thread, still wakes the sleeper. The ticket in the flag keeps a slow ringer
 * from taking down the flag of a later parking.
 *
 * Invariants: one parker per doorbell at a time; any number of ringers. A wake-up may come without news: look again in a loop.
 * Threads: any may unpark(). parkSync() blocks the thread: workers only. A pending parkAsync() does not keep the process alive.
 */
import { assert } from '../assert.js';
import { invalidArgument } from '../errors.js';

/** Int32 words a doorbell takes: one cache line. Its index must be a multiple of this. */
export const DOORBELL_WORDS = 16;

const FLAG = 0;
const EPOCH = 1;

export type ParkResult = 'rung' | 'timed-out';

export class Doorbell {
  readonly #words: Int32Array<SharedArrayBuffer>;
  readonly #flag: number;
  readonly #epoch: number;
  /** The epoch read by the last raise(). */
  #raisedAt = 0;
  #raised = false;

  /** `words` lies over zeroed shared memory; `index` is the first of DOORBELL_WORDS words. */
  constructor(words: Int32Array<SharedArrayBuffer>, index: number) {
    if (
      !Number.isInteger(index) ||
      index < 0 ||
      index % DOORBELL_WORDS !== 0 ||
      index + DOORBELL_WORDS > words.length
    ) {
      throw invalidArgument(`a doorbell needs ${DOORBELL_WORDS} aligned words, got index ${index} of ${words.length}`);
    }
    this.#words = words;
    this.#flag = index + FLAG;
    this.#epoch = index + EPOCH;
  }

  /** Parker, step 1: from here on a ring is not lost. */
  raise(): void {
    const epoch = Atomics.load(this.#words, this.#epoch);
    this.#raisedAt = epoch;
    this.#raised = true;
    Atomics.store(this.#words, this.#flag, ticketOf(epoch));
  }

  /** Parker: there is work after all. */
  lower(): void {
    this.#raised = false;
    Atomics.store(this.#words, this.#flag, 0);
  }

  /** Parker, step 3: blocks the thread until the bell rings. */
  parkSync(timeoutMs = Infinity): ParkResult {
    assert(this.#raised, 'park without raise');
    const outcome = Atomics.wait(this.#words, this.#epoch, this.#raisedAt, timeoutMs);
    this.lower();
    return outcome === 'timed-out' ? 'timed-out' : 'rung';
  }

  /** Parker, step 3, for a thread whose event loop must go on. */
  async parkAsync(timeoutMs = Infinity): Promise<ParkResult> {
    assert(this.#raised, 'park without raise');
    const raisedAt = this.#raisedAt;
    const wait = Atomics.waitAsync(this.#words, this.#epoch, raisedAt, timeoutMs);
    const outcome = wait.async ? await wait.value : wait.value;
    // The thread may have lowered the flag and parked anew while this wait was on its way back; that parking's flag stays up.
    if (this.#raised && this.#raisedAt === raisedAt) this.lower();
    return outcome === 'timed-out' ? 'timed-out' : 'rung';
  }

  /** Ringer: wakes the parked thread. True when somebody was parked. Call it after the news is published. */
  unpark(): boolean {
    const ticket = Atomics.load(this.#words, this.#flag);
    if (ticket === 0) return false;
    Atomics.add(this.#words, this.#epoch, 1);
    // Everyone, not one: a parkAsync() that its caller has given up on still stands in the queue and would take the only wake-up.
    Atomics.notify(this.#words, this.#epoch);
    Atomics.compareExchange(this.#words, this.#flag, ticket, 0);
    return true;
  }

  /** Whether a thread is parked, or about to. For statistics and tests. */
  get parked(): boolean {
    return Atomics.load(this.#words, this.#flag) !== 0;
  }
}

/** Odd, so never 0, and different for any two epochs less than 2^31 rings apart. */
function ticketOf(epoch: number): number {
  return (epoch << 1) | 1;
}
