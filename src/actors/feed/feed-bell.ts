/**
 * The bell of change feeds, in shared memory. Shards ring it when something is published, written or synced; while no feed waits, that is
 * a look at half a cache line.
 *
 *   word 0  epoch: grows with every ring that somebody hears        tally  of clients: feeds that wait, or are about to
 *
 * A feed, in this order, or it misses a ring: begin() → looks once more → wait(). Of a thread that dies between them clear() takes it back. Threads: any.
 */
import { ClientTally } from '../../shared/memory/client-tally.js';

export class FeedBell {
  readonly #words: Int32Array<SharedArrayBuffer>;
  readonly #epoch: number;
  readonly #waiters: ClientTally;

  /** Over a zeroed word at `epoch`, and TALLY_WORDS from `tally` on. */
  constructor(words: Int32Array<SharedArrayBuffer>, epoch: number, tally: number) {
    this.#words = words;
    this.#epoch = epoch;
    this.#waiters = new ClientTally(words, tally);
  }

  /** Behind what is news, which was stored with Atomics. */
  ring(): void {
    if (!this.#waiters.isAny) return;
    Atomics.add(this.#words, this.#epoch, 1);
    Atomics.notify(this.#words, this.#epoch);
  }

  /** From here on a ring ends the wait() that is given what this returns. Each is followed by one end(), unless the client has given its slot back. */
  begin(client: number): number {
    this.#waiters.add(client);
    return Atomics.load(this.#words, this.#epoch);
  }

  end(client: number): void {
    this.#waiters.remove(client);
  }

  /** Whether a feed waits, or is about to. */
  get isHeard(): boolean {
    return this.#waiters.isAny;
  }

  /** Host: the client is gone. */
  clear(client: number): void {
    this.#waiters.clear(client);
  }

  /** Settles at the next ring since begin(), or when the time is over. Does not keep the process alive. */
  async wait(epoch: number, timeoutMs: number): Promise<void> {
    const wait = Atomics.waitAsync(this.#words, this.#epoch, epoch, timeoutMs);
    if (wait.async) await wait.value;
  }
}
