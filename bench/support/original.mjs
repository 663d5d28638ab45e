/**
 * The C original's figures, measured on 2 cores of the kind this project is measured on: gcc -O2, calls within the process, nothing durable. One
 * thread and one kind of operation for the engines: keys of 17 bytes, values of 40, mean after warming up. Millions of operations per second as
 * [lowest, highest] of several runs; a single number where the runs agreed.
 *
 * Its lookups hand out a pointer (hash, rbtree, array) or a copy (btree, memtable): `lookup` says which of ours they compare with.
 */
export const ORIGINAL_CONFIGURATION =
  'the C original: gcc -O2, 2 cores, one thread, in process, nothing durable, key 17 B + value 40 B';

/** engine → lookup, memory, records → order → set and get. */
export const ORIGINAL = {
  btree: {
    lookup: 'get',
    bytesPerEntry: 146.3,
    records: {
      1_000: { sequential: { set: [7.4, 7.4], get: [10.4, 10.4] }, shuffled: { set: [4.0, 4.0], get: [7.7, 7.7] } },
      100_000: {
        sequential: { set: [2.18, 2.29], get: [4.62, 4.67] },
        shuffled: { set: [1.01, 1.18], get: [1.47, 1.68] },
      },
      1_000_000: {
        sequential: { set: [1.67, 1.74], get: [3.69, 3.81] },
        shuffled: { set: [0.36, 0.46], get: [0.39, 0.53] },
      },
    },
  },
  memtable: {
    lookup: 'get',
    bytesPerEntry: 192,
    records: {
      1_000: { sequential: { set: [3.67, 3.67], get: [12.2, 12.2] } },
      100_000: {
        sequential: { set: [1.37, 1.4], get: [6.75, 7.06] },
        shuffled: { set: [0.7, 0.76], get: [1.4, 1.54] },
      },
      1_000_000: {
        sequential: { set: [1.09, 1.12], get: [5.05, 5.11] },
        shuffled: { set: [0.37, 0.39], get: [0.51, 0.56] },
      },
    },
  },
  hash: {
    lookup: 'has',
    bytesPerEntry: 177.6,
    records: {
      1_000: { sequential: { set: [6.7, 6.7], get: [31.9, 31.9] } },
      100_000: {
        sequential: { set: [1.89, 1.92], get: [9.3, 10.1] },
        shuffled: { set: [1.23, 1.29], get: [6.8, 7.5] },
      },
      // A million in random order ends with "double free".
      1_000_000: { sequential: { set: [1.44, 1.48], get: [5.29, 5.44] } },
    },
  },
  rbtree: {
    lookup: 'has',
    bytesPerEntry: 160,
    records: {
      1_000: { sequential: { set: [7.8, 7.8], get: [12.8, 12.8] } },
      100_000: {
        sequential: { set: [3.63, 3.73], get: [8.4, 8.6] },
        shuffled: { set: [0.92, 0.98], get: [1.48, 1.58] },
      },
      1_000_000: {
        sequential: { set: [3.07, 3.09], get: [5.9, 6.1] },
        shuffled: { set: [0.46, 0.47], get: [0.61, 0.65] },
      },
    },
  },
  array: {
    lookup: 'has',
    bytesPerEntry: 113.9,
    // It holds 1,024 at most.
    records: { 1_000: { sequential: { set: [0.69, 0.69], get: [0.77, 0.77] } } },
  },
};

/** 8 threads on one B+Tree of 100,000 live keys, random ones, 2,000,000 operations in all: millions per second. */
export const ORIGINAL_MIXES = {
  '95 get / 5 set': [0.68, 0.95],
  '30 get / 20 delete / 50 set': [0.79, 0.9],
};
