/** xorshift32: the same numbers in every thread from the same seed. */
export function makeRandom(seed) {
  let x = seed | 0 || 1;
  return () => {
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    return x >>> 0;
  };
}

/** FNV-1a over words. */
export function mix(hash, word) {
  return Math.imul(hash ^ word, 0x01000193);
}
