/**
 * Who has sent a request, and is told what became of it. Most are promises; what sends many requests, or goes on with the answer at once, is told itself.
 * Threads: the client's.
 */
export interface Caller {
  /** The request was done; false: its condition did not hold. Must not throw: others are told after it. */
  answered(isApplied: boolean): void;
  /** Must not throw. */
  failed(error: Error): void;
}

let resolveOfLast: (value: unknown) => void;
let rejectOfLast: (error: unknown) => void;
/** One function for all promises: a closure less for each. */
const capture = (resolve: (value: unknown) => void, reject: (error: unknown) => void): void => {
  resolveOfLast = resolve;
  rejectOfLast = reject;
};

/** A promise with both its ends. */
export class Promised<T> {
  readonly promise = new Promise(capture) as Promise<T>;
  readonly resolve: (value: T | PromiseLike<T>) => void = resolveOfLast;
  readonly reject: (error: unknown) => void = rejectOfLast;
}

/** The caller is whoever waits for the promise. */
export class PromisedAnswer extends Promised<boolean> implements Caller {
  answered(isApplied: boolean): void {
    this.resolve(isApplied);
  }

  failed(error: Error): void {
    this.reject(error);
  }
}
