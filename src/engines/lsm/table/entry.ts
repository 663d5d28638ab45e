/**
 * What an entry of a table is besides its key, value and number. Threads: any; no state.
 */

/** On disk, three bits of an entry's first byte: never renumber, never reuse. */
export const EntryFlag = {
  /** The key was deleted; no value. */
  tombstone: 1,
  /** It has an expiry. */
  expiry: 2,
  /** The value is an encoded BlobReference (blob/format.ts). */
  blob: 4,
} as const;

/** Of a key in a table. */
export const KEY_BYTES_MAX = 4096;
/** Of a value that stands in a table itself. */
export const VALUE_BYTES_MAX = 2 ** 31 - 2 ** 20;
