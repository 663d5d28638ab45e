/**
 * Retired pages waiting for readers: a first-in first-out ring of (unit, birth epoch, retire epoch) in typed arrays.
 * Retire epochs never decrease from front to back. Threads: the arena's writer only.
 */
export class RetireQueue {
  #units = new Int32Array(1024);
  #births = new Float64Array(1024);
  #retires = new Float64Array(1024);
  #front = 0;
  #count = 0;

  get count(): number {
    return this.#count;
  }

  push(unit: number, birth: number, retire: number): void {
    if (this.#count === this.#units.length) this.#grow();
    const at = (this.#front + this.#count) & (this.#units.length - 1);
    this.#units[at] = unit;
    this.#births[at] = birth;
    this.#retires[at] = retire;
    this.#count++;
  }

  frontUnit(): number {
    return this.#units[this.#front]!;
  }

  frontBirth(): number {
    return this.#births[this.#front]!;
  }

  /** Infinity when empty. */
  frontRetire(): number {
    return this.#count === 0 ? Infinity : this.#retires[this.#front]!;
  }

  shift(): void {
    this.#front = (this.#front + 1) & (this.#units.length - 1);
    this.#count--;
  }

  forEach(visit: (unit: number, birth: number, retire: number) => void): void {
    for (let index = 0; index < this.#count; index++) {
      const at = (this.#front + index) & (this.#units.length - 1);
      visit(this.#units[at]!, this.#births[at]!, this.#retires[at]!);
    }
  }

  #grow(): void {
    const length = this.#units.length;
    const units = new Int32Array(length * 2);
    const births = new Float64Array(length * 2);
    const retires = new Float64Array(length * 2);
    for (let index = 0; index < length; index++) {
      const at = (this.#front + index) & (length - 1);
      units[index] = this.#units[at]!;
      births[index] = this.#births[at]!;
      retires[index] = this.#retires[at]!;
    }
    this.#units = units;
    this.#births = births;
    this.#retires = retires;
    this.#front = 0;
  }
}
