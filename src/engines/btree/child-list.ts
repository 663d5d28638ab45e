/**
 * Children that replace some in a branch: what a split, shift or merge of one level hands to the level above.
 *
 * Each child but the first comes with the separator before it: (key, seq), seq Infinity = before all versions of the key. The first
 * takes the separator of the place where it goes. Threads: the tree's writer only; reused.
 */
import { PAGE_BYTES_MAX } from './page.js';

export class ChildList {
  count = 0;
  units = new Int32Array(64);
  separatorAt = new Int32Array(64);
  separatorLength = new Int32Array(64);
  separatorSeq = new Float64Array(64);
  memory = new Uint8Array(PAGE_BYTES_MAX);
  #memoryUsed = 0;

  reset(): void {
    this.count = 0;
    this.#memoryUsed = 0;
  }

  /** Adds a child; returns where in `memory` the caller writes its separator. */
  add(unit: number, separatorLength: number, separatorSeq: number): number {
    if (this.count === this.units.length) this.#growEntries();
    const at = this.#memoryUsed;
    if (at + separatorLength > this.memory.length) {
      const larger = new Uint8Array(Math.max(this.memory.length * 2, at + separatorLength));
      larger.set(this.memory.subarray(0, at));
      this.memory = larger;
    }
    this.#memoryUsed = at + separatorLength;
    const index = this.count++;
    this.units[index] = unit;
    this.separatorAt[index] = at;
    this.separatorLength[index] = separatorLength;
    this.separatorSeq[index] = separatorSeq;
    return at;
  }

  #growEntries(): void {
    const capacity = this.units.length * 2;
    const grow = <A extends Int32Array | Float64Array>(old: A, larger: A): A => {
      larger.set(old);
      return larger;
    };
    this.units = grow(this.units, new Int32Array(capacity));
    this.separatorAt = grow(this.separatorAt, new Int32Array(capacity));
    this.separatorLength = grow(this.separatorLength, new Int32Array(capacity));
    this.separatorSeq = grow(this.separatorSeq, new Float64Array(capacity));
  }
}
