/** First-in first-out ring of 32-bit integers that grows. Threads: its owner only. */
export class IntQueue {
  #values = new Int32Array(64);
  #front = 0;
  #count = 0;

  get count(): number {
    return this.#count;
  }

  push(value: number): void {
    if (this.#count === this.#values.length) this.#grow();
    this.#values[(this.#front + this.#count++) & (this.#values.length - 1)] = value;
  }

  /** The oldest; there must be one. */
  shift(): number {
    const value = this.#values[this.#front]!;
    this.#front = (this.#front + 1) & (this.#values.length - 1);
    this.#count--;
    return value;
  }

  clear(): void {
    this.#values = new Int32Array(64);
    this.#front = 0;
    this.#count = 0;
  }

  #grow(): void {
    const grown = new Int32Array(this.#values.length * 2);
    grown.set(this.#values.subarray(this.#front));
    grown.set(this.#values.subarray(0, this.#front), this.#values.length - this.#front);
    this.#values = grown;
    this.#front = 0;
  }
}
