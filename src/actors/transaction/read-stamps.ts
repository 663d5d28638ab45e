/**
 * Whether anything that a transaction may have read has changed: for each shard it read from, the number the shard had published before the first read, and the
 * head of the commit board before the first read of all. While these are the same, and no shard is at work on what readers may see, everything that
 * was read holds at this instant.
 *
 * Why that is exact. A shard raises its applying word before it changes anything readers may see, and publishes a higher number before it lowers the
 * word. hold() looks at the word first, then at the number: had the shard begun after take(), either would tell. A shard that was at work already when
 * take() came leaves the stamp UNSTABLE, which no number equals. Transactions over several shards change what readers may see with their entry on the
 * commit board, before the shards apply it.
 *
 * Threads: one.
 */
import type { ControlBlock } from '../control-block.js';

const UNSTABLE = -1;

export class ReadStamps {
  readonly #control: ControlBlock;
  readonly #published: Float64Array;
  readonly #isTaken: Uint8Array;
  readonly #order: Int32Array;
  #count = 0;
  #head = 0;

  constructor(control: ControlBlock) {
    this.#control = control;
    this.#published = new Float64Array(control.shards);
    this.#isTaken = new Uint8Array(control.shards);
    this.#order = new Int32Array(control.shards);
  }

  reset(): void {
    for (let index = 0; index < this.#count; index++) this.#isTaken[this.#order[index]!] = 0;
    this.#count = 0;
  }

  /** Before a read from the shard. */
  take(shard: number): void {
    if (this.#isTaken[shard] === 1) return;
    if (this.#count === 0) this.#head = this.#control.commits.head;
    this.#isTaken[shard] = 1;
    this.#order[this.#count++] = shard;
    this.#stamp(shard);
  }

  #stamp(shard: number): void {
    const published = this.#control.published(shard);
    this.#published[shard] = this.#control.isApplying(shard) ? UNSTABLE : published;
  }

  /** Whether all that was read since take(), or since renew() and looked at again after it, holds now. */
  hold(): boolean {
    const control = this.#control;
    for (let index = 0; index < this.#count; index++) {
      const shard = this.#order[index]!;
      if (control.isApplying(shard) || control.published(shard) !== this.#published[shard]) return false;
    }
    return control.commits.head === this.#head;
  }

  /** Before everything that was read is looked at again. */
  renew(): void {
    this.#head = this.#control.commits.head;
    for (let index = 0; index < this.#count; index++) this.#stamp(this.#order[index]!);
  }
}
