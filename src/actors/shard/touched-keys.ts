/**
 * Which keys the open group changes, as far as their hashes tell: a transaction that has read one of them must look at it again when the group has ended.
 * A group that ends early costs its callers a write to the log, so keys are told apart by all 32 bits.
 *
 *   list of hashes ──has()──▶ table of (hash, group): open addressing, a place belongs to the group whose number stands there, so nothing is cleared
 *                             between groups
 *
 * Mostly nobody asks, so what is added is only listed, and comes into the table when somebody does.
 *
 * Threads: the shard's thread only.
 */
const PLACES = 1 << 14;
/** With more keys than this it says yes to all. */
const KEYS_MAX = PLACES >> 1;
/** More than a group's requests mostly are. */
const LISTED_MAX = 4096;

export class TouchedKeys {
  readonly #hashes = new Int32Array(PLACES);
  readonly #groups = new Int32Array(PLACES);
  readonly #listed = new Int32Array(LISTED_MAX);
  #listedCount = 0;
  #group = 1;
  #keys = 0;

  /** A new group begins. */
  clear(): void {
    this.#listedCount = 0;
    this.#keys = 0;
    this.#group = (this.#group + 1) | 0;
    if (this.#group !== 0) return;
    // Numbers come again: what is left of earlier ones goes.
    this.#groups.fill(0);
    this.#group = 1;
  }

  add(hash: number): void {
    if (this.#listedCount === LISTED_MAX) this.#placeListed();
    this.#listed[this.#listedCount++] = hash;
  }

  /** False: no key with this hash was added. */
  has(hash: number): boolean {
    this.#placeListed();
    return this.#keys > KEYS_MAX || this.#groups[this.#placeOf(hash)] === this.#group;
  }

  #placeListed(): void {
    for (let i = 0; i < this.#listedCount && this.#keys <= KEYS_MAX; i++) {
      const hash = this.#listed[i]!;
      const at = this.#placeOf(hash);
      if (this.#groups[at] === this.#group) continue;
      this.#hashes[at] = hash;
      this.#groups[at] = this.#group;
      this.#keys++;
    }
    this.#listedCount = 0;
  }

  /** Where the hash stands, or a place for it. */
  #placeOf(hash: number): number {
    let at = hash & (PLACES - 1);
    while (this.#groups[at] === this.#group && this.#hashes[at] !== hash) at = (at + 1) & (PLACES - 1);
    return at;
  }
}
