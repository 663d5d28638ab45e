/** Growable typed arrays and a map of number pairs: what keeps a history of a million transactions in some hundred MiB. */

const FIRST_CAPACITY = 1024;

/** A typed array that grows. @template {Uint8Array | Int32Array | Float64Array} A */
export class Column {
  /** @param {new (length: number) => A} Type */
  constructor(Type) {
    this.Type = Type;
    this.array = new Type(FIRST_CAPACITY);
    this.length = 0;
  }

  /** @param {number} value */
  push(value) {
    if (this.length === this.array.length) this.#grow(this.length + 1);
    this.array[this.length++] = value;
  }

  /** @param {number} index */
  get(index) {
    return this.array[index];
  }

  /** Entries up to the index spring up as zeros. @param {number} index @param {number} value */
  set(index, value) {
    if (index >= this.array.length) this.#grow(index + 1);
    if (index >= this.length) this.length = index + 1;
    this.array[index] = value;
  }

  /** What was pushed, as one array of its own. */
  take() {
    return this.array.slice(0, this.length);
  }

  /** @param {number} least */
  #grow(least) {
    const grown = new this.Type(Math.max(least, this.array.length * 2));
    grown.set(this.array);
    this.array = grown;
  }
}

/** (a, b) → value; all three are 32-bit integers, value ≥ 0. Open addressing. */
export class PairMap {
  #mask = FIRST_CAPACITY - 1;
  #a = new Int32Array(FIRST_CAPACITY);
  #b = new Int32Array(FIRST_CAPACITY);
  /** Value + 1; 0: free. */
  #values = new Int32Array(FIRST_CAPACITY);
  size = 0;

  /** @param {number} a @param {number} b */
  #slotOf(a, b) {
    let hash = Math.imul(a ^ 0x2c1b3c6d, 0x85ebca6b) ^ Math.imul(b + 0x9e3779b9, 0xc2b2ae35);
    hash ^= hash >>> 15;
    let slot = hash & this.#mask;
    while (this.#values[slot] !== 0 && (this.#a[slot] !== a || this.#b[slot] !== b)) slot = (slot + 1) & this.#mask;
    return slot;
  }

  /** -1: none. @param {number} a @param {number} b */
  get(a, b) {
    return this.#values[this.#slotOf(a, b)] - 1;
  }

  /** @param {number} a @param {number} b @param {number} value */
  set(a, b, value) {
    if (this.size * 2 > this.#mask) this.#grow();
    const slot = this.#slotOf(a, b);
    if (this.#values[slot] === 0) this.size++;
    this.#a[slot] = a;
    this.#b[slot] = b;
    this.#values[slot] = value + 1;
  }

  #grow() {
    const [a, b, values] = [this.#a, this.#b, this.#values];
    const capacity = values.length * 2;
    this.#mask = capacity - 1;
    this.#a = new Int32Array(capacity);
    this.#b = new Int32Array(capacity);
    this.#values = new Int32Array(capacity);
    for (let slot = 0; slot < values.length; slot++) {
      if (values[slot] === 0) continue;
      const to = this.#slotOf(a[slot], b[slot]);
      this.#a[to] = a[slot];
      this.#b[to] = b[slot];
      this.#values[to] = values[slot];
    }
  }
}
