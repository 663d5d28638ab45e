/**
 * Accounts and how they are drawn: uniformly, by Zipf's law with any exponent, or one of each shard. Seeded. Threads: any.
 */
import { mix32 } from '../support/random.mjs';

/** Of equal length, in no order. */
export function keyOf(index) {
  return `a${mix32(index).toString(16).padStart(8, '0')}${String(index).padStart(7, '0')}`;
}

export function keysOf(count) {
  return Array.from({ length: count }, (_, index) => keyOf(index));
}

/** The accounts of each shard, as the store spreads them: equal parts of the upper 12 bits of the key's hash. */
export async function indexesByShard(keys, shards) {
  const { hashBytes, slotOf, HASH_SLOTS } = await import('../../dist/shared/hash.js');
  const byShard = Array.from({ length: shards }, () => []);
  for (const [index, key] of keys.entries()) {
    const bytes = Buffer.from(key);
    byShard[Math.floor((slotOf(hashBytes(bytes, 0, bytes.length)) * shards) / HASH_SLOTS)].push(index);
  }
  return byShard;
}

/** Draws indexes below `count`, the index r with a weight of 1 / (r + 1) ** theta; 0: all alike. */
export class Draw {
  #random;
  #count;
  #cumulative;

  constructor(count, theta, random) {
    this.#random = random;
    this.#count = count;
    if (theta === 0) return;
    this.#cumulative = new Float64Array(count);
    let sum = 0;
    for (let rank = 0; rank < count; rank++) this.#cumulative[rank] = sum += (rank + 1) ** -theta;
  }

  next() {
    const cumulative = this.#cumulative;
    if (cumulative === undefined) return this.#random.below(this.#count);
    const wanted = this.#random.fraction() * cumulative[this.#count - 1];
    let low = 0;
    let high = this.#count - 1;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (cumulative[middle] > wanted) high = middle;
      else low = middle + 1;
    }
    return low;
  }

  /** Two that differ. */
  pair(into) {
    into[0] = this.next();
    do into[1] = this.next();
    while (into[1] === into[0]);
  }
}
