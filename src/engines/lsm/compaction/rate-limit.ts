/**
 * Bytes per second that all background jobs of a store may write: one token bucket in shared memory, asked before each chunk.
 *
 *   word 0  rate     tokens per second, 0: no limit; who waits sleeps on this word, so a change wakes it
 *        1  balance  tokens at hand, may be negative: a chunk is taken as a whole
 *        2  last     when tokens were last added, ms since the epoch, low 32 bits
 *
 * A token is 64 bytes. Whoever asks adds what has come in since `last`: one compare-and-exchange decides who. A thread that dies in between loses
 * some tokens, nothing stays locked.
 *
 * Flushes go first: a compaction waits until the balance is above zero, a flush only until it is above a debt of FLUSH_DEBT_MS. So while flushes write as
 * fast as they may, compactions wait, though never longer than PATIENCE_MS for one chunk: a job that stands still for ever would keep its inputs busy.
 *
 * Threads: any; take() blocks: workers only.
 */
import { invalidArgument } from '../../../shared/errors.js';

const RATE_WORD = 0;
const BALANCE_WORD = 1;
const LAST_WORD = 2;
const WORDS = 16;

const TOKEN_SHIFT = 6;
const TOKEN_BYTES = 1 << TOKEN_SHIFT;
/** What may come at once after a pause. */
const BURST_MS = 100;
const FLUSH_DEBT_MS = 250;
const PATIENCE_MS = 2000;
/** Between two looks at the cancel word. */
const SLEEP_MS_MAX = 50;
const TOKENS_PER_SECOND_MAX = 2 ** 28;
/** Chunks far larger than the rate must not wrap the balance. */
const BALANCE_MIN = -(2 ** 29);

export type RatePriority = 'flush' | 'compaction';

/** Shared by all threads of a store. bytesPerSecond 0: no limit. */
export function createRateLimit(bytesPerSecond: number): SharedArrayBuffer {
  const buffer = new SharedArrayBuffer(WORDS * 4);
  setRateLimit(buffer, bytesPerSecond);
  return buffer;
}

/** Takes effect at once, for those who wait as well. @throws ERR_INVALID_ARG */
export function setRateLimit(buffer: SharedArrayBuffer, bytesPerSecond: number): void {
  if (!(bytesPerSecond >= 0)) throw invalidArgument(`a rate of ${bytesPerSecond} bytes per second`);
  const words = new Int32Array(buffer);
  const rate = bytesPerSecond === 0 ? 0 : Math.ceil(bytesPerSecond / TOKEN_BYTES);
  Atomics.store(words, BALANCE_WORD, 0);
  Atomics.store(words, RATE_WORD, Math.min(rate, TOKENS_PER_SECOND_MAX));
  Atomics.notify(words, RATE_WORD);
}

export class RateLimiter {
  readonly #words: Int32Array<SharedArrayBuffer> | undefined;
  readonly #now: () => number;

  /** Without a buffer nothing is limited. `now`: ms since the epoch, of the thread's Env. */
  constructor(buffer: SharedArrayBuffer | undefined, now: () => number) {
    this.#words = buffer === undefined ? undefined : new Int32Array(buffer);
    this.#now = now;
  }

  /** Blocks until the bytes may be written, or `isCancelled` says so. Returns the ms that it waited. */
  take(bytes: number, priority: RatePriority, isCancelled: () => boolean): number {
    const words = this.#words;
    if (words === undefined) return 0;
    const tokens = Math.ceil(bytes / TOKEN_BYTES);
    let waitedMs = 0;
    for (;;) {
      const rate = Atomics.load(words, RATE_WORD);
      if (rate === 0) return waitedMs;
      this.#refill(words, rate);
      const floor = priority === 'flush' ? -Math.ceil((rate * FLUSH_DEBT_MS) / 1000) : 0;
      const balance = Atomics.load(words, BALANCE_WORD);
      if (balance > floor || waitedMs >= PATIENCE_MS) {
        if (balance > BALANCE_MIN) Atomics.sub(words, BALANCE_WORD, Math.min(tokens, -BALANCE_MIN));
        return waitedMs;
      }
      if (isCancelled()) return waitedMs;
      const missingMs = ((floor - balance + 1) * 1000) / rate;
      const sleepMs = Math.min(Math.max(missingMs, 1), SLEEP_MS_MAX);
      // Counted by what was asked for: a clock that stands still (one of a test) must not stop the job.
      waitedMs += sleepMs;
      Atomics.wait(words, RATE_WORD, rate, sleepMs);
    }
  }

  #refill(words: Int32Array<SharedArrayBuffer>, rate: number): void {
    const now = this.#now() | 0;
    const last = Atomics.load(words, LAST_WORD);
    // As a difference of low halves; a clock that was set back counts as no time.
    const elapsedMs = (now - last) | 0;
    if (elapsedMs === 0) return;
    const burst = Math.max(1, Math.ceil((rate * BURST_MS) / 1000));
    const earned = elapsedMs < 0 ? 0 : Math.min(Math.floor((elapsedMs * rate) / 1000), 2 ** 30);
    // At low rates the time goes on counting until it is worth a token.
    if (elapsedMs > 0 && earned === 0) return;
    if (Atomics.compareExchange(words, LAST_WORD, last, now) !== last) return;
    const before = Atomics.load(words, BALANCE_WORD);
    const added = Math.min(earned, burst - before);
    if (added > 0) Atomics.add(words, BALANCE_WORD, added);
  }
}
