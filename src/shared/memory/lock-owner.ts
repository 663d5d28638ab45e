/**
 * What the locks of this folder share: owner ids, what an acquire reports, deadlines and waiting without blocking.
 *
 * An owner is one thread. Whoever attaches threads gives each a small number that no living thread has, and reuses it only after
 * every lock has been told of the death of the former bearer (recover). A lock handle (Mutex, RwLock, SeqLock object) belongs to
 * one thread, and a thread has one handle per lock: handles keep in their own memory what the thread holds.
 *
 * Threads: any.
 */
import { invalidArgument } from '../errors.js';

/** A thread, as the locks know it: 1 ..= OWNER_ID_MAX. */
export type OwnerId = number & { readonly brand: 'OwnerId' };

/** Two ids and two flags fit one lock word without its sign bit. */
export const OWNER_ID_MAX = (1 << 14) - 1;

export function toOwnerId(id: number): OwnerId {
  if (!Number.isInteger(id) || id < 1 || id > OWNER_ID_MAX) {
    throw invalidArgument(`an owner id is 1 to ${OWNER_ID_MAX}, got ${id}`);
  }
  return id as OwnerId;
}

/**
 * How a lock was found. 'owner-died': a thread died while it could change what the lock guards, so that may be half changed.
 * Every acquirer is told until one of them has repaired it and called markConsistent().
 */
export type Acquired = 'clean' | 'owner-died';

export interface AcquireOptions {
  /** 0: try once. Infinity (the default): wait for ever. */
  readonly timeoutMs?: number | undefined;
  /** An abort rejects with the signal's reason. */
  readonly signal?: AbortSignal | undefined;
}

/** A lock that can be told of a thread's death. */
export interface Recoverable {
  /**
   * Gives back what the dead thread held and wakes every waiter, since a wake-up may have gone to the dead one. True when the
   * death may have left what the lock guards half changed. Call it once the thread is known to run no more (its 'exit' event).
   */
  recover(deadOwner: OwnerId): boolean;
}

export function checkTimeout(timeoutMs: number): void {
  if (!(timeoutMs >= 0)) throw invalidArgument(`a timeout is 0 or more milliseconds, got ${timeoutMs}`);
}

/** The point in time, on performance.now()'s clock, at which the timeout has passed. */
export function deadlineAfter(timeoutMs: number): number {
  return timeoutMs === Infinity ? Infinity : performance.now() + timeoutMs;
}

export function remainingMs(deadline: number): number {
  return deadline === Infinity ? Infinity : deadline - performance.now();
}

/** A waitAsync cannot be withdrawn; this bounds how long one stands in the queue after its caller has aborted. */
const ABORTABLE_WAIT_MS_MAX = 1000;

/** An abort signal as something to race a wait against. Dispose it, or the signal keeps the listener. */
export class AbortWatch {
  readonly #signal: AbortSignal;
  readonly #onAbort: () => void;
  readonly #aborted: Promise<void>;

  private constructor(signal: AbortSignal) {
    this.#signal = signal;
    let resolveAborted!: () => void;
    this.#aborted = new Promise((resolve) => {
      resolveAborted = resolve;
    });
    this.#onAbort = resolveAborted;
    signal.addEventListener('abort', this.#onAbort, { once: true });
  }

  /** Throws when the signal is aborted already. */
  static of(signal: AbortSignal | undefined): AbortWatch | undefined {
    signal?.throwIfAborted();
    return signal === undefined ? undefined : new AbortWatch(signal);
  }

  /** Resolves at the abort, never rejects. */
  get aborted(): Promise<void> {
    return this.#aborted;
  }

  throwIfAborted(): void {
    this.#signal.throwIfAborted();
  }

  dispose(): void {
    this.#signal.removeEventListener('abort', this.#onAbort);
  }
}

/**
 * Lets the event loop run until the word may have changed from `seen`, or a while has passed: the caller looks again in a loop.
 * Throws the signal's reason after an abort.
 */
export async function changeOf(
  words: Int32Array<SharedArrayBuffer>,
  index: number,
  seen: number,
  timeoutMs: number,
  watch: AbortWatch | undefined,
): Promise<void> {
  if (watch === undefined) {
    const wait = Atomics.waitAsync(words, index, seen, timeoutMs);
    if (wait.async) await wait.value;
    return;
  }
  const wait = Atomics.waitAsync(words, index, seen, Math.min(timeoutMs, ABORTABLE_WAIT_MS_MAX));
  if (!wait.async) return;
  await Promise.race([wait.value, watch.aborted]);
  watch.throwIfAborted();
}
