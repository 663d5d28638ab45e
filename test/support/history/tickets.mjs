/** Points of time for all threads: a counter in shared memory. Whoever takes a higher ticket took it later. */
export class Tickets {
  #words;

  constructor(memory = new SharedArrayBuffer(64)) {
    this.memory = memory;
    this.#words = new Int32Array(memory);
  }

  /** From 1. */
  take() {
    return Atomics.add(this.#words, 0, 1) + 1;
  }

  /** How many have been taken. */
  get taken() {
    return Atomics.load(this.#words, 0);
  }

  /** Tells all threads to come to an end. */
  end() {
    Atomics.store(this.#words, 1, 1);
  }

  get isOver() {
    return Atomics.load(this.#words, 1) !== 0;
  }

  /** Counts what is done. */
  count(n = 1) {
    return Atomics.add(this.#words, 2, n) + n;
  }

  get counted() {
    return Atomics.load(this.#words, 2);
  }
}
