/** Copies of values out of shared memory. Threads: any; no state. */

/** Up to here copying by words is faster than the native copy, which costs 200 ns out of shared memory. At most POOLED_BYTES_MAX. */
export const WORD_COPY_BYTES_MAX = 768;

/**
 * from and fromBytes are one memory, to and toBytes another, and the copy begins at a word of it. Whole words by words, the last 1 … 3 bytes one by one, so
 * that nothing beyond source or target is touched.
 */
export function copyWords(
  from: Int32Array,
  fromBytes: Uint8Array,
  start: number,
  length: number,
  to: Int32Array,
  toWord: number,
  toBytes: Uint8Array,
): void {
  const words = length >>> 2;
  const shift = (start & 3) << 3;
  let source = start >>> 2;
  const end = toWord + words;
  if (shift === 0) {
    for (let word = toWord; word < end; word++) to[word] = from[source++]!;
  } else if (words > 0) {
    const back = 32 - shift;
    let low = from[source]!;
    for (let word = toWord; word < end; word++) {
      const high = from[++source]!;
      to[word] = (low >>> shift) | (high << back);
      low = high;
    }
  }
  for (let index = words << 2; index < length; index++) toBytes[index] = fromBytes[start + index]!;
}
