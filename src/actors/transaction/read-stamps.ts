/**
 * Whether anything that a transaction may have read has changed: for each shard it read from, how often the shard had begun to change what readers see
 * (ControlBlock.changes) before the first read, and the head of the commit board before the first read of all. While these are the same, everything that was
 * read holds at this instant.
 *
 * Why that is exact. A shard raises its applying word, then counts, then changes what readers may see. take() reads the count, then looks at the word: had the shard
 * counted before that and not ended, the word would tell, and no stamp holds then; whatever begins later is counted. Transactions over
 * several shards change what readers may see with their entry on the commit board, before the shards apply it.
 *
 * Threads: one.
 */
import type { ControlBlock } from '../control-block.js';

export class ReadStamps {
  readonly #control: ControlBlock;
  readonly #changes: Int32Array;
  readonly #isTaken: Uint8Array;
  readonly #order: Int32Array;
  #count = 0;
  /** Of the first shard. */
  #first = 0;
  #firstChanges = 0;
  /** A shard was changing something when its stamp was taken. */
  #isBroken = false;
  #head = 0;

  constructor(control: ControlBlock) {
    this.#control = control;
    this.#changes = new Int32Array(control.shards);
    this.#isTaken = new Uint8Array(control.shards);
    this.#order = new Int32Array(control.shards);
  }

  reset(): void {
    for (let index = 0; index < this.#count; index++) this.#isTaken[this.#order[index]!] = 0;
    this.#count = 0;
    this.#isBroken = false;
  }

  /** Before a read from the shard. */
  take(shard: number): void {
    if (this.#isTaken[shard] === 0) this.#take(shard);
  }

  #take(shard: number): void {
    if (this.#count === 0) this.#head = this.#control.commits.head;
    this.#isTaken[shard] = 1;
    this.#order[this.#count] = shard;
    this.#stamp(this.#count++);
  }

  #stamp(index: number): void {
    const shard = this.#order[index]!;
    const changes = this.#control.changes(shard);
    if (this.#control.isApplying(shard)) this.#isBroken = true;
    this.#changes[index] = changes;
    if (index > 0) return;
    this.#first = shard;
    this.#firstChanges = changes;
  }

  /** Whether all that was read since take(), or since renew() and looked at again after it, holds now. */
  hold(): boolean {
    const control = this.#control;
    if (this.#isBroken || control.changes(this.#first) !== this.#firstChanges) return false;
    return control.shards === 1 || this.#othersHold();
  }

  #othersHold(): boolean {
    const control = this.#control;
    for (let index = 1; index < this.#count; index++) {
      if (control.changes(this.#order[index]!) !== this.#changes[index]) return false;
    }
    return control.commits.head === this.#head;
  }

  /** Before everything that was read is looked at again. */
  renew(): void {
    this.#head = this.#control.commits.head;
    this.#isBroken = false;
    for (let index = 0; index < this.#count; index++) this.#stamp(index);
  }
}
