/**
 * Which keys the open group changes, as far as their hashes tell: a transaction that has read one of them must look at it again when the group has ended.
 * A group that ends early costs its callers a write to the log, so keys are told apart by all 32 bits.
 *
 *   table of (hash, group): open addressing, a place belongs to the group whose number stands there, so nothing is cleared between groups
 *
 * Threads: the shard's thread only.
 */
const PLACES = 1 << 14;
/** With more keys than this it says yes to all. */
const KEYS_MAX = PLACES >> 1;

export class TouchedKeys {
  readonly #hashes = new Int32Array(PLACES);
  readonly #groups = new Int32Array(PLACES);
  #group = 1;
  #keys = 0;

  /** A new group begins. */
  clear(): void {
    this.#keys = 0;
    this.#group = (this.#group + 1) | 0;
    if (this.#group !== 0) return;
    // Numbers come again: what is left of earlier ones goes.
    this.#groups.fill(0);
    this.#group = 1;
  }

  add(hash: number): void {
    if (this.#keys > KEYS_MAX) return;
    const at = this.#placeOf(hash);
    if (this.#groups[at] === this.#group) return;
    this.#hashes[at] = hash;
    this.#groups[at] = this.#group;
    this.#keys++;
  }

  /** False: no key with this hash was added. */
  has(hash: number): boolean {
    return this.#keys > KEYS_MAX || this.#groups[this.#placeOf(hash)] === this.#group;
  }

  /** Where the hash stands, or a place for it. */
  #placeOf(hash: number): number {
    let at = hash & (PLACES - 1);
    while (this.#groups[at] === this.#group && this.#hashes[at] !== hash) at = (at + 1) & (PLACES - 1);
    return at;
  }
}
