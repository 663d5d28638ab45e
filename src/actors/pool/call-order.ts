/**
 * The calls of an asynchronous iterator: they run one after another, in the order they were made, and `onFailure` is called when one fails.
 * Threads: the one that made it.
 */
export class CallOrder {
  readonly #onFailure: () => void;
  #tail: Promise<unknown> = Promise.resolve();
  /** Calls that wait for others, or are at work. */
  #calls = 0;

  constructor(onFailure: () => void = () => undefined) {
    this.#onFailure = onFailure;
  }

  /** Nobody waits, nobody is at work: what can be answered at once may be. */
  get isAtRest(): boolean {
    return this.#calls === 0;
  }

  run<R>(work: () => Promise<R>): Promise<R> {
    this.#calls++;
    const done = this.#tail.then(async () => {
      try {
        return await work();
      } catch (error) {
        this.#onFailure();
        throw error;
      } finally {
        // Before the caller goes on: its next call may find the entry here.
        this.#calls--;
      }
    });
    this.#tail = done.catch(() => undefined);
    return done;
  }
}
