/**
 * The bell of change feeds: two words in shared memory. Shards ring it when something is published, written or synced; while no feed waits, that is
 * one load.
 *
 *   word 0  feeds that wait, or are about to        word 1  epoch: grows with every ring that somebody hears
 *
 * A feed, in this order, or it misses a ring: begin() → looks once more → wait(). A thread that dies between them leaves shards ringing, which
 * costs each group a microsecond. Threads: any.
 */
export class FeedBell {
  readonly #words: Int32Array<SharedArrayBuffer>;
  readonly #waiters: number;
  readonly #epoch: number;

  /** Over two zeroed words from `index` on. */
  constructor(words: Int32Array<SharedArrayBuffer>, index: number) {
    this.#words = words;
    this.#waiters = index;
    this.#epoch = index + 1;
  }

  /** Behind what is news, which was stored with Atomics. */
  ring(): void {
    if (Atomics.load(this.#words, this.#waiters) === 0) return;
    Atomics.add(this.#words, this.#epoch, 1);
    Atomics.notify(this.#words, this.#epoch);
  }

  /** From here on a ring ends the wait() that is given what this returns. Each is followed by one end(). */
  begin(): number {
    Atomics.add(this.#words, this.#waiters, 1);
    return Atomics.load(this.#words, this.#epoch);
  }

  end(): void {
    Atomics.sub(this.#words, this.#waiters, 1);
  }

  /** Settles at the next ring since begin(), or when the time is over. Does not keep the process alive. */
  async wait(epoch: number, timeoutMs: number): Promise<void> {
    const wait = Atomics.waitAsync(this.#words, this.#epoch, epoch, timeoutMs);
    if (wait.async) await wait.value;
  }
}
