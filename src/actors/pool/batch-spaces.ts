/** The space of each operation of a batch: mostly the same of all, and then nothing is kept for each. Threads: the client's. */
import type { SpaceSource } from './source.js';

export class BatchSpaces {
  /** Each space once. */
  readonly distinct: readonly SpaceSource[];
  readonly #one: SpaceSource;
  readonly #each: readonly SpaceSource[] | undefined;

  /** each: by operation; undefined: all are on the one. */
  constructor(one: SpaceSource, each: readonly SpaceSource[] | undefined) {
    this.#one = one;
    this.#each = each;
    this.distinct = each === undefined ? [one] : [...new Set(each)];
  }

  at(index: number): SpaceSource {
    return this.#each === undefined ? this.#one : this.#each[index]!;
  }
}
