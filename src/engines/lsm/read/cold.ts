/**
 * What a reader that must not wait for a disk throws when it would have to: the way to get the block without blocking the thread.
 *
 *   reader.avoidsDisk = true
 *   for (let attempt = 0; ; attempt++) {
 *     pin; try { reader.find(…) … } catch (error) { if (error instanceof ColdReadError) cold = error; else throw error } finally { release, unpin }
 *     await cold.load()
 *   }
 *
 * What load() brought is in the shared cache, if it takes it, and for a while in memory of this thread, so the retried find comes further. Where many
 * finds at once push each other's blocks out, or a tree changes all the time, it may need more rounds than there are blocks on its way: after
 * COLD_ATTEMPTS_MAX the caller reads with avoidsDisk off.
 * Not for users. Threads: where it was thrown.
 */
export const COLD_ATTEMPTS_MAX = 32;

export class ColdReadError extends Error {
  readonly #load: () => Promise<void>;

  /** Made with every read of a file and never shown: it has no stack, which would cost more than that read. */
  static of(load: () => Promise<void>): ColdReadError {
    const { stackTraceLimit } = Error;
    // Not an assignment: where it cannot be changed, a stack is made.
    Reflect.set(Error, 'stackTraceLimit', 0);
    try {
      return new ColdReadError(load);
    } finally {
      Reflect.set(Error, 'stackTraceLimit', stackTraceLimit);
    }
  }

  private constructor(load: () => Promise<void>) {
    super('a block is not in memory');
    this.name = 'ColdReadError';
    this.#load = load;
  }

  /** Once. Not under a pin: the file stays open as long as it takes. @throws ERR_CORRUPT, ERR_IO */
  load(): Promise<void> {
    return this.#load();
  }
}
