/**
 * Seeded randomness: every engine sees the same keys in the same order, and a seed replays a run.
 *
 * Zipfian follows Gray et al., "Quickly generating billion-record synthetic databases" (as YCSB does), theta 0.99. Rank 0 is
 * the most popular; `scrambled` spreads the ranks over all ids, so that popular keys are not neighbours.
 * Threads: any; no state is shared.
 */
const TWO_TO_32 = 4294967296;

/** A bijection on 32-bit numbers (the finalizer of MurmurHash3): distinct ids stay distinct. */
export function mix32(number) {
  let x = number;
  x ^= x >>> 16;
  x = Math.imul(x, 0x85ebca6b);
  x ^= x >>> 13;
  x = Math.imul(x, 0xc2b2ae35);
  x ^= x >>> 16;
  return x >>> 0;
}

/** xoshiro128**, seeded from a number and a label, so that each purpose has a stream of its own. */
export class Random {
  #a;
  #b;
  #c;
  #d;

  constructor(seed, label) {
    let state = seed >>> 0;
    for (let i = 0; i < label.length; i++) state = Math.imul(state ^ label.charCodeAt(i), 0x01000193);
    this.#a = mix32(state + 1);
    this.#b = mix32(state + 2);
    this.#c = mix32(state + 3);
    this.#d = mix32(state + 4);
  }

  /** u32 */
  next() {
    const result = Math.imul(rotateLeft(Math.imul(this.#b, 5), 7), 9) >>> 0;
    const t = this.#b << 9;
    this.#c ^= this.#a;
    this.#d ^= this.#b;
    this.#b ^= this.#c;
    this.#a ^= this.#d;
    this.#c ^= t;
    this.#d = rotateLeft(this.#d, 11);
    return result;
  }

  /** In [0, 1). */
  fraction() {
    return this.next() / TWO_TO_32;
  }

  /** In [0, bound). */
  below(bound) {
    return Math.floor(this.fraction() * bound);
  }
}

function rotateLeft(x, bits) {
  return (x << bits) | (x >>> (32 - bits));
}

const THETA = 0.99;
const zetas = new Map();

function zeta(count) {
  let sum = zetas.get(count);
  if (sum === undefined) {
    sum = 0;
    for (let i = 1; i <= count; i++) sum += 1 / Math.pow(i, THETA);
    zetas.set(count, sum);
  }
  return sum;
}

export class Zipfian {
  #count;
  #zeta;
  #alpha = 1 / (1 - THETA);
  #eta;
  #second = 1 + Math.pow(0.5, THETA);
  #random;

  constructor(count, random) {
    this.#count = count;
    this.#zeta = zeta(count);
    this.#eta = (1 - Math.pow(2 / count, 1 - THETA)) / (1 - zeta(2) / this.#zeta);
    this.#random = random;
  }

  rank() {
    const u = this.#random.fraction();
    const scaled = u * this.#zeta;
    if (scaled < 1) return 0;
    if (scaled < this.#second) return Math.min(1, this.#count - 1);
    const rank = Math.floor(this.#count * Math.pow(this.#eta * u - this.#eta + 1, this.#alpha));
    return rank < this.#count ? rank : this.#count - 1;
  }

  scrambled() {
    return mix32(this.rank() ^ 0x2545f491) % this.#count;
  }
}

/** `ops` ids below `count`, 'uniform' or 'zipfian' (scrambled). */
export function makeIds(seed, label, distribution, count, ops) {
  const random = new Random(seed, label);
  const ids = new Uint32Array(ops);
  if (distribution === 'uniform') {
    for (let i = 0; i < ops; i++) ids[i] = random.below(count);
  } else {
    const zipfian = new Zipfian(count, random);
    for (let i = 0; i < ops; i++) ids[i] = zipfian.scrambled();
  }
  return ids;
}
