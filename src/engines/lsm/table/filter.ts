/** Two 32-bit hashes of a key: made once per lookup, used for every table. */
export declare class KeyHash {
  h1: number;
  h2: number;
  set(key: Uint8Array, start: number, length: number): void;
}

/** How a filter is cut: lines of 64 bytes in partitions of equal size; a key belongs to one line. */
export interface FilterShape {
  /** Of the file: where partition 0 lies; the others follow, each partitionLines × 64 + TRAILER_BYTES. */
  readonly offset: number;
  /** Keys, or prefixes, it was made from. */
  readonly keys: number;
  readonly partitions: number;
  readonly partitionLines: number;
  /** Bits of a line that a key sets, at most. */
  readonly probes: number;
}
/** No partition has more: 16,128 bytes. */
export declare const FILTER_PARTITION_LINES_MAX: 252;
export declare const FILTER_LINE_BYTES: 64;

/** The line (0 ..< lines) of a key; its partition is floor(line / partitionLines), its place there line % partitionLines. */
export declare function filterLine(h1: number, lines: number): number;
/** at: where the line begins. */
export declare function lineMayContain(bytes: Uint8Array, at: number, h2: number, probes: number): boolean;

export declare function blockedFalsePositiveRate(bitsPerKey: number, probes: number): number;
export declare function probesFor(bitsPerKey: number): number;
/** Bits per key by level that make the sum of false positives least, for the same memory as bitsPerKey everywhere. runs: of each level, 1 unless given. */
export declare function monkeyBitsPerKey(
  levelEntries: readonly number[],
  bitsPerKey: number,
  runs?: readonly number[],
): number[];
