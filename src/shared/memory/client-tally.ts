/**
 * How many of something each client thread has, for others to see whether anybody has any: a count per client, and a bit for each that is not zero.
 *
 *   words   8 × u32: one bit per client · 256 × i32: counts
 *
 * What a thread had that died is taken back with clear(), so a bit outlives its thread for a moment only. Threads: add() and remove() are the client's, clear()
 * is for whoever knows that it is gone; isAny any.
 */
import { invalidArgument } from '../errors.js';

/** Client slots of a store. */
export const TALLY_CLIENTS = 256;
const BIT_WORDS = TALLY_CLIENTS / 32;
export const TALLY_WORDS = BIT_WORDS + TALLY_CLIENTS;

export class ClientTally {
  readonly #words: Int32Array;
  readonly #bits: number;
  readonly #counts: number;

  /** Over TALLY_WORDS zeroed words of shared memory from `index` on. */
  constructor(words: Int32Array, index: number) {
    if (index + TALLY_WORDS > words.length)
      throw invalidArgument(`a tally needs ${TALLY_WORDS} words, got index ${index} of ${words.length}`);
    this.#words = words;
    this.#bits = index;
    this.#counts = index + BIT_WORDS;
  }

  /** Behind a store with Atomics it misses nobody who had come before that store and looks at what was stored again. */
  get isAny(): boolean {
    const words = this.#words;
    // One atomic load orders the others, which are plain and cost next to nothing: shards ask at every group.
    let bits = Atomics.load(words, this.#bits);
    for (let word = this.#bits + 1; word < this.#counts; word++) bits |= words[word]!;
    return bits !== 0;
  }

  /** From here on isAny. */
  add(client: number): void {
    if (Atomics.add(this.#words, this.#counts + client, 1) > 0) return;
    Atomics.or(this.#words, this.#bits + (client >>> 5), 1 << (client & 31));
  }

  remove(client: number): void {
    if (Atomics.sub(this.#words, this.#counts + client, 1) === 1) this.#clearBit(client);
  }

  clear(client: number): void {
    Atomics.store(this.#words, this.#counts + client, 0);
    this.#clearBit(client);
  }

  #clearBit(client: number): void {
    Atomics.and(this.#words, this.#bits + (client >>> 5), ~(1 << (client & 31)));
  }
}
