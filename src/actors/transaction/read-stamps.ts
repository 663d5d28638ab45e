/**
 * Whether anything that a transaction may have read has changed: for each shard it read from, how often the shard had begun to change what readers see
 * (ControlBlock.changes) before the first read, and the head of the commit board before the first read of all. While these are the same, everything that was
 * read holds at this instant.
 *
 * Why that is exact. A shard raises its applying word, then counts, then changes what readers may see. take() reads the count, then looks at the word: had the shard
 * counted before that and not ended, the word would tell, and the stamp is NaN, which no count equals; whatever begins later is counted. Transactions over
 * several shards change what readers may see with their entry on the commit board, before the shards apply it.
 *
 * Threads: one.
 */
import type { ControlBlock } from '../control-block.js';

export class ReadStamps {
  readonly #control: ControlBlock;
  readonly #changes: Float64Array;
  readonly #isTaken: Uint8Array;
  readonly #order: Int32Array;
  #count = 0;
  #head = 0;

  constructor(control: ControlBlock) {
    this.#control = control;
    this.#changes = new Float64Array(control.shards);
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
    const changes = this.#control.changes(shard);
    this.#changes[shard] = this.#control.isApplying(shard) ? NaN : changes;
  }

  /** Whether all that was read since take(), or since renew() and looked at again after it, holds now. */
  hold(): boolean {
    const control = this.#control;
    for (let index = 0; index < this.#count; index++) {
      const shard = this.#order[index]!;
      if (control.changes(shard) !== this.#changes[shard]) return false;
    }
    return control.shards === 1 || control.commits.head === this.#head;
  }

  /** Before everything that was read is looked at again. */
  renew(): void {
    this.#head = this.#control.commits.head;
    for (let index = 0; index < this.#count; index++) this.#stamp(this.#order[index]!);
  }
}
