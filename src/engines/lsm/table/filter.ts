/**
 * Blocked Bloom filters: a key sets all its bits in one line of 64 bytes, so a look costs one cache line, in memory or in a partition that was read
 * (Putze, Sanders, Singler: Cache-, Hash- and Space-Efficient Bloom Filters, 2007).
 *
 *   key ─ two hashes ─ h1 → line (0 ..< lines) → partition floor(line / partitionLines), its line line % partitionLines
 *                      h2 → bits of the line: the top nine bits of h2, h2·φ, h2·φ², …, as many as there are probes
 *
 * The hashes are independent, 64 bits together: with one of 32 bits a filter of ten million keys would take every four-hundredth missing key for one of its own,
 * however many bits it has. They are made once per lookup and serve all tables.
 *
 * Partitions are of equal size and addressed by hash, so each can be read by itself without a directory. On disk: never change hash or probes of an existing
 * format version. Threads: any; no state but the caller's.
 */
import { assert } from '../../../shared/assert.js';

export const FILTER_LINE_BYTES = 64;
const LINE_BITS = 8 * FILTER_LINE_BYTES;
/** No partition has more: 16,128 bytes, so that with a page's header it fits 16 KiB. */
export const FILTER_PARTITION_LINES_MAX = 252;
const PROBES_MAX = 16;
export const BITS_PER_KEY_MAX = 64;
/** 2^32 divided by the golden ratio, odd: multiplying by it moves new bits to the top. */
const PHI = 0x9e3779b1;
const SEED_1 = 0x6c736d31;
const SEED_2 = 0x27d4eb2f;

/** Two 32-bit hashes of a key (signed, so that they are small integers). */
export class KeyHash {
  h1 = 0;
  h2 = 0;

  /** Two MurmurHash3 side by side, with different constants, over the same loads. */
  set(key: Uint8Array, start: number, length: number): void {
    let h1 = SEED_1;
    let h2 = SEED_2;
    let at = start;
    const end = start + length;
    for (const lastWord = end - 4; at <= lastWord; at += 4) {
      const word = key[at]! | (key[at + 1]! << 8) | (key[at + 2]! << 16) | (key[at + 3]! << 24);
      let mixed = Math.imul(word, 0xcc9e2d51);
      mixed = (mixed << 15) | (mixed >>> 17);
      h1 ^= Math.imul(mixed, 0x1b873593);
      h1 = (h1 << 13) | (h1 >>> 19);
      h1 = (Math.imul(h1, 5) + 0xe6546b64) | 0;
      mixed = Math.imul(word, 0x85ebca77);
      mixed = (mixed << 16) | (mixed >>> 16);
      h2 ^= Math.imul(mixed, 0xc2b2ae3d);
      h2 = (h2 << 14) | (h2 >>> 18);
      h2 = (Math.imul(h2, 5) + 0x38495ab5) | 0;
    }
    if (at < end) {
      let word = key[at]!;
      if (at + 1 < end) word |= key[at + 1]! << 8;
      if (at + 2 < end) word |= key[at + 2]! << 16;
      let mixed = Math.imul(word, 0xcc9e2d51);
      mixed = (mixed << 15) | (mixed >>> 17);
      h1 ^= Math.imul(mixed, 0x1b873593);
      mixed = Math.imul(word, 0x85ebca77);
      mixed = (mixed << 16) | (mixed >>> 16);
      h2 ^= Math.imul(mixed, 0xc2b2ae3d);
    }
    h1 ^= length;
    h1 = Math.imul(h1 ^ (h1 >>> 16), 0x85ebca6b);
    h1 = Math.imul(h1 ^ (h1 >>> 13), 0xc2b2ae35);
    this.h1 = h1 ^ (h1 >>> 16);
    h2 ^= length;
    h2 = Math.imul(h2 ^ (h2 >>> 15), 0x2c1b3c6d);
    h2 = Math.imul(h2 ^ (h2 >>> 12), 0x297a2d39);
    this.h2 = h2 ^ (h2 >>> 15);
  }
}

/** How a filter of a table is cut. */
export interface FilterShape {
  /** In the file, of partition 0; the others follow, each partitionLines × 64 bytes and a block's trailer. */
  readonly offset: number;
  /** Keys, or prefixes, it was made from. */
  readonly keys: number;
  readonly partitions: number;
  readonly partitionLines: number;
  readonly probes: number;
}

/** The line (0 ..< lines) of a key; lines = partitions × partitionLines. */
export function filterLine(h1: number, lines: number): number {
  return Math.floor(((h1 >>> 0) * lines) / 0x1_0000_0000);
}

/** Whether the line at bytes[at, at + 64) has all bits of a key. */
export function lineMayContain(bytes: Uint8Array, at: number, h2: number, probes: number): boolean {
  let hash = h2;
  for (let probe = 0; probe < probes; probe++) {
    if ((bytes[at + (hash >>> 26)]! & (1 << ((hash >>> 23) & 7))) === 0) return false;
    hash = Math.imul(hash, PHI);
  }
  return true;
}

function addToLine(bytes: Uint8Array, at: number, h2: number, probes: number): void {
  let hash = h2;
  for (let probe = 0; probe < probes; probe++) {
    bytes[at + (hash >>> 26)]! |= 1 << ((hash >>> 23) & 7);
    hash = Math.imul(hash, PHI);
  }
}

/** A function of its own: the loop is all that is compiled for it, and stays so. */
function addAll(bytes: Uint8Array, lines: number, hashes: Int32Array, keys: number, probes: number): void {
  for (let at = 0; at < 2 * keys; at += 2) {
    addToLine(bytes, filterLine(hashes[at]!, lines) * FILTER_LINE_BYTES, hashes[at + 1]!, probes);
  }
}

/** Collects hashes, then makes the lines. */
export class FilterBuilder {
  keys = 0;
  readonly #bitsPerKey: number;
  #hashes = new Int32Array(2 * 1024);

  /** bitsPerKey: above 0. */
  constructor(bitsPerKey: number) {
    this.#bitsPerKey = bitsPerKey;
  }

  add(hash: KeyHash): void {
    const at = 2 * this.keys++;
    if (at === this.#hashes.length) {
      const larger = new Int32Array(2 * at);
      larger.set(this.#hashes);
      this.#hashes = larger;
    }
    this.#hashes[at] = hash.h1;
    this.#hashes[at + 1] = hash.h2;
  }

  /** Of finish(), about. */
  get bytes(): number {
    return Math.ceil((this.keys * this.#bitsPerKey) / 8);
  }

  /** The lines of all partitions one after the other. At least one key must have been added. */
  finish(): { bytes: Uint8Array; partitions: number; partitionLines: number; probes: number } {
    assert(this.keys > 0, 'a filter has keys');
    const wanted = Math.max(1, Math.ceil((this.keys * this.#bitsPerKey) / LINE_BITS));
    const partitions = Math.ceil(wanted / FILTER_PARTITION_LINES_MAX);
    const partitionLines = Math.ceil(wanted / partitions);
    const lines = partitions * partitionLines;
    const probes = probesFor((lines * LINE_BITS) / this.keys);
    const bytes = new Uint8Array(lines * FILTER_LINE_BYTES);
    addAll(bytes, lines, this.#hashes, this.keys, probes);
    return { bytes, partitions, partitionLines, probes };
  }
}

/**
 * Share of missing keys that a blocked filter takes for present: the mean over the lines' loads, which are Poisson distributed, of a plain Bloom filter of 512
 * bits with that many keys (Putze et al., equation 3).
 */
export function blockedFalsePositiveRate(bitsPerKey: number, probes: number): number {
  const mean = LINE_BITS / bitsPerKey;
  const keysMax = Math.ceil(mean + 12 * Math.sqrt(mean) + 20);
  let rate = 0;
  let logFactorial = 0;
  for (let keys = 0; keys <= keysMax; keys++) {
    if (keys > 1) logFactorial += Math.log(keys);
    const share = Math.exp(keys * Math.log(mean) - mean - logFactorial);
    rate += share * (1 - (1 - 1 / LINE_BITS) ** (probes * keys)) ** probes;
  }
  return rate;
}

/** The number of probes with the fewest false positives. */
export function probesFor(bitsPerKey: number): number {
  let best = 1;
  let bestRate = Infinity;
  for (let probes = 1; probes <= PROBES_MAX; probes++) {
    const rate = blockedFalsePositiveRate(bitsPerKey, probes);
    // The rate has one minimum.
    if (rate >= bestRate) break;
    bestRate = rate;
    best = probes;
  }
  return best;
}

/**
 * Bits per key by level that make the sum of the false positives of all runs least, with the memory that `bitsPerKey` everywhere would take (Dayan,
 * Athanassoulis, Idreos: Monkey, 2017): the rate of a run is proportional to its entries, so small levels get more bits and the last one fewer, or none.
 * `runs`: of each level, 1 unless given. Levels without entries get what the smallest one gets, or bitsPerKey.
 */
export function monkeyBitsPerKey(
  levelEntries: readonly number[],
  bitsPerKey: number,
  runs: readonly number[] = [],
): number[] {
  const perRun = levelEntries.map((entries, level) => entries / Math.max(1, runs[level] ?? 1));
  const budget = bitsPerKey * levelEntries.reduce((sum, entries) => sum + entries, 0) * Math.LN2 ** 2;
  const order = perRun.map((_, level) => level).filter((level) => levelEntries[level]! > 0);
  order.sort((a, b) => perRun[b]! - perRun[a]!);
  // Σ entries · −ln(rate) = budget with rate = share · perRun; runs whose rate would be 1 or more have no filter, the largest first.
  const bits = perRun.map(() => bitsPerKey);
  for (let first = 0; first < order.length; first++) {
    let entries = 0;
    let weighted = 0;
    for (let index = first; index < order.length; index++) {
      const level = order[index]!;
      entries += levelEntries[level]!;
      weighted += levelEntries[level]! * Math.log(perRun[level]!);
    }
    const logShare = -(budget + weighted) / entries;
    if (logShare + Math.log(perRun[order[first]!]!) >= 0 && first + 1 < order.length) {
      bits[order[first]!] = 0;
      continue;
    }
    for (let index = first; index < order.length; index++) {
      const level = order[index]!;
      const wanted = -(logShare + Math.log(perRun[level]!)) / Math.LN2 ** 2;
      bits[level] = Math.min(BITS_PER_KEY_MAX, Math.max(0, wanted));
    }
    break;
  }
  const smallest = order.at(-1);
  return bits.map((value, level) => (levelEntries[level]! > 0 || smallest === undefined ? value : bits[smallest]!));
}
