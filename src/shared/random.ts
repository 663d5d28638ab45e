/**
 * Seeded pseudo-random numbers (xoshiro128**, period 2^128 - 1) for tests, crash simulation and sampling. The same seed gives the
 * same sequence on every machine and release, so a failure is replayed from its seed alone. Not for secrets: those come from
 * Env.randomBytes.
 *
 * Threads: any; one instance belongs to one thread.
 */
import { invalidArgument } from './errors.js';

export class Random {
  private readonly state = new Uint32Array(4);

  /** `seed`: any finite number; its 64 IEEE bits are folded to 32, so there are about four thousand million sequences. */
  constructor(seed: number) {
    if (!Number.isFinite(seed)) throw invalidArgument(`seed must be a finite number, got ${seed}`);
    const bits = new Uint32Array(new Float64Array([seed + 0]).buffer);
    // splitmix32 over both words. It visits each 32-bit value once per pass, so the state cannot become all zeros.
    let counter = bits[0]! ^ Math.imul(bits[1]!, 0x9e3779b1);
    for (let index = 0; index < 4; index++) {
      counter = (counter + 0x9e3779b9) | 0;
      let mixed = counter ^ (counter >>> 16);
      mixed = Math.imul(mixed, 0x21f0aaad);
      mixed ^= mixed >>> 15;
      mixed = Math.imul(mixed, 0x735a2d97);
      this.state[index] = mixed ^ (mixed >>> 15);
    }
  }

  /** Uniform in 0 ..= 2^32 - 1. */
  nextU32(): number {
    const state = this.state;
    const s1 = state[1]!;
    const scrambled = Math.imul(s1, 5);
    const result = Math.imul((scrambled << 7) | (scrambled >>> 25), 9) >>> 0;
    const s2 = state[2]! ^ state[0]!;
    const s3 = state[3]! ^ s1;
    state[1] = s1 ^ s2;
    state[0] = state[0]! ^ s3;
    state[2] = s2 ^ (s1 << 9);
    state[3] = (s3 << 11) | (s3 >>> 21);
    return result;
  }

  /** Uniform in [0, 1) with 53 random bits. */
  nextFloat(): number {
    const high = this.nextU32() >>> 5;
    const low = this.nextU32() >>> 6;
    return (high * 0x4000000 + low) / 0x20000000000000;
  }

  /** Uniform integer in 0 ..= bound - 1; `bound` is 1 ..= 2^53. */
  below(bound: number): number {
    if (!Number.isSafeInteger(bound - 1) || bound < 1)
      throw invalidArgument(`bound must be in 1 ..= 2^53, got ${bound}`);
    if (bound > 0x100000000) return Math.floor(this.nextFloat() * bound);
    // Values above the last multiple of `bound` would favour small results.
    const limit = 0x100000000 - (0x100000000 % bound);
    let value = this.nextU32();
    while (value >= limit) value = this.nextU32();
    return value % bound;
  }

  /** Uniform integer in low ..= high. */
  between(low: number, high: number): number {
    return low + this.below(high - low + 1);
  }

  /** True with the given probability. */
  chance(probability: number): boolean {
    return this.nextFloat() < probability;
  }

  pick<T>(items: readonly T[]): T {
    if (items.length === 0) throw invalidArgument('pick needs at least one item');
    return items[this.below(items.length)]!;
  }

  bytes(length: number): Uint8Array {
    const bytes = new Uint8Array(length);
    for (let index = 0; index < length; index += 4) {
      const word = this.nextU32();
      for (let byte = 0; byte < 4 && index + byte < length; byte++) bytes[index + byte] = word >>> (8 * byte);
    }
    return bytes;
  }

  /** An independent generator, so that one part of a test may draw more numbers without shifting the other part's. */
  fork(): Random {
    return new Random(this.nextU32() + this.nextU32() / 0x100000000);
  }
}
