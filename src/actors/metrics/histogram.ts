/**
 * Log-linear histograms in shared memory, in the manner of HDR: 16 buckets per power of two, so what is read back is wrong by 3.2 % at most.
 *
 *   [0, 576)  buckets      576  sum      577  largest value            one f64 each, at a base in the owner's array
 *
 *   value < 16: its own bucket        otherwise bucket = 16 × (exponent - 3) + the four bits below the highest one
 *
 * Values are nanoseconds up to 2^39 (nine minutes; longer ones count in the last bucket), or plain counts. Doubles, since 32 bits of a busy counter last
 * an hour. One thread writes a histogram, plainly; a reader may see a value in its bucket and not yet in the sum.
 * Threads: written by one, read by any.
 */
const SUB_BUCKETS = 16;
const EXPONENT_MAX = 38;
export const HISTOGRAM_BUCKETS = (EXPONENT_MAX - 2) * SUB_BUCKETS;
/** From a histogram's base. */
export const SUM = HISTOGRAM_BUCKETS;
export const LARGEST = HISTOGRAM_BUCKETS + 1;
/** Doubles a histogram takes. */
export const HISTOGRAM_LENGTH = HISTOGRAM_BUCKETS + 2;

export function bucketOf(value: number): number {
  if (value < 2 ** 31) {
    // Also what is negative: a clock that was set back.
    if (value < SUB_BUCKETS) return value > 0 ? value | 0 : 0;
    const bits = value | 0;
    const exponent = 31 - Math.clz32(bits);
    return ((exponent - 3) << 4) + ((bits >>> (exponent - 4)) & 15);
  }
  if (!(value < 2 ** (EXPONENT_MAX + 1))) return HISTOGRAM_BUCKETS - 1;
  const bits = (value / 65536) | 0;
  const exponent = 31 - Math.clz32(bits);
  return ((exponent + 13) << 4) + ((bits >>> (exponent - 4)) & 15);
}

/** Smallest value of a bucket. */
export function bucketLow(bucket: number): number {
  if (bucket < SUB_BUCKETS) return bucket;
  return (SUB_BUCKETS + (bucket & 15)) * 2 ** ((bucket >> 4) - 1);
}

/** The value a bucket stands for: the middle of the whole numbers in it. */
export function bucketValue(bucket: number): number {
  return bucket < SUB_BUCKETS ? bucket : (bucketLow(bucket) + bucketLow(bucket + 1) - 1) / 2;
}

/** `times` equal values at once: what came with one message. */
export function record(into: Float64Array, base: number, value: number, times = 1): void {
  into[base + bucketOf(value)]! += times;
  into[base + SUM]! += value * times;
  if (value > into[base + LARGEST]!) into[base + LARGEST] = value;
}

/** Adds a histogram to another one. */
export function addHistogram(into: Float64Array, base: number, from: Float64Array, fromBase: number): void {
  for (let i = 0; i <= SUM; i++) into[base + i]! += from[fromBase + i]!;
  into[base + LARGEST] = Math.max(into[base + LARGEST]!, from[fromBase + LARGEST]!);
}

/** A copy of a histogram that can be asked. */
export class Histogram {
  readonly #data = new Float64Array(HISTOGRAM_LENGTH);

  constructor(from?: Float64Array, base = 0) {
    if (from !== undefined) this.add(from, base);
  }

  add(from: Float64Array, base: number): void {
    addHistogram(this.#data, 0, from, base);
  }

  addAll(other: Histogram): void {
    addHistogram(this.#data, 0, other.#data, 0);
  }

  get count(): number {
    let count = 0;
    for (let bucket = 0; bucket < HISTOGRAM_BUCKETS; bucket++) count += this.#data[bucket]!;
    return count;
  }

  get sum(): number {
    return this.#data[SUM]!;
  }

  get largest(): number {
    return this.#data[LARGEST]!;
  }

  /** The value that the given part of all values does not exceed; 0 when there is none. */
  quantile(part: number): number {
    const rank = Math.max(1, Math.ceil(part * this.count));
    let seen = 0;
    for (let bucket = 0; bucket < HISTOGRAM_BUCKETS; bucket++) {
      seen += this.#data[bucket]!;
      if (seen >= rank) return Math.min(bucketValue(bucket), this.largest);
    }
    return 0;
  }

  /** How many values are at most each of the bounds, which ascend. A bucket counts where its middle is. */
  cumulative(bounds: readonly number[]): number[] {
    const counts: number[] = [];
    let bucket = 0;
    let seen = 0;
    for (const bound of bounds) {
      for (; bucket < HISTOGRAM_BUCKETS && bucketValue(bucket) <= bound; bucket++) seen += this.#data[bucket]!;
      counts.push(seen);
    }
    return counts;
  }
}
