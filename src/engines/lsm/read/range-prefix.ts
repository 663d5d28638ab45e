/** What all keys of a range begin with, for prefix filters. Threads: any; one per cursor. */
import { KeyHash } from '../table/filter.js';
import { compareKeys } from './view.js';

export class RangePrefix {
  readonly #low: Uint8Array;
  readonly #high: Uint8Array;
  readonly #hash = new KeyHash();
  /** What #hash, or that there is none, was found for. */
  #bytes = 0;
  #isCommon = false;

  /** Of keys in [low, high). */
  constructor(low: Uint8Array, high: Uint8Array) {
    // Not slice(): that of a Buffer is the same memory.
    this.#low = new Uint8Array(low);
    this.#high = new Uint8Array(high);
  }

  /** Of the first so many bytes of every key in the range; undefined: they differ, or some key has fewer. */
  hashOf(prefixBytes: number): KeyHash | undefined {
    if (prefixBytes !== this.#bytes) {
      this.#bytes = prefixBytes;
      this.#isCommon = this.#areCommon(prefixBytes);
      if (this.#isCommon) this.#hash.set(this.#low, 0, prefixBytes);
    }
    return this.#isCommon ? this.#hash : undefined;
  }

  /** Keys ≥ low that do not begin as low does are ≥ the next prefix of that length: all of them are if high is not behind it. */
  #areCommon(prefixBytes: number): boolean {
    const low = this.#low;
    if (low.length < prefixBytes) return false;
    const next = low.slice(0, prefixBytes);
    let at = prefixBytes - 1;
    while (at >= 0 && next[at] === 0xff) at--;
    if (at < 0) return true;
    next[at]!++;
    return compareKeys(this.#high, this.#high.length, next, at + 1) <= 0;
  }
}
