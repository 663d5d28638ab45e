/**
 * Every anomaly as the few transactions that show it, on two keys x and y of lists that hold X and Y already. `levels`: those that exclude it; at the others the same
 * transactions are clean.
 *
 * Used twice: by themselves, with X = Y = [], they are the textbook's histories; added to a long clean history they must be found in it.
 */
const ALL = ['read-committed', 'repeatable-read', 'serializable'];
const FROM_SNAPSHOT = ['repeatable-read', 'serializable'];
const SERIALIZABLE = ['serializable'];

/** @typedef {{ x: number, y: number, X: number[], Y: number[], e: number[], after: number }} Place e: elements nobody uses; after: when all else is over */
/** @typedef {import('./history.mjs').Txn} Txn */

/** @type {Record<string, { levels: string[], txns: (place: Place) => Txn[] }>} */
export const PLANTS = {
  G0: {
    levels: ALL,
    txns: ({ x, y, X, Y, e }) => [
      {
        ops: [
          ['a', x, e[0]],
          ['a', y, e[1]],
        ],
      },
      {
        ops: [
          ['a', x, e[2]],
          ['a', y, e[3]],
        ],
      },
      { ops: [['r', x, [...X, e[0], e[2]]]] },
      { ops: [['r', y, [...Y, e[3], e[1]]]] },
    ],
  },
  G1a: {
    levels: ALL,
    txns: ({ x, X, e }) => [{ outcome: 'fail', ops: [['a', x, e[0]]] }, { ops: [['r', x, [...X, e[0]]]] }],
  },
  G1b: {
    levels: ALL,
    txns: ({ x, X, e }) => [
      {
        ops: [
          ['a', x, e[0]],
          ['a', x, e[1]],
        ],
      },
      { ops: [['r', x, [...X, e[0]]]] },
      { ops: [['r', x, [...X, e[0], e[1]]]] },
    ],
  },
  G1c: {
    levels: ALL,
    txns: ({ x, y, X, Y, e }) => [
      {
        ops: [
          ['a', x, e[0]],
          ['r', y, [...Y, e[1]]],
        ],
      },
      {
        ops: [
          ['a', y, e[1]],
          ['r', x, [...X, e[0]]],
        ],
      },
    ],
  },
  OTV: {
    levels: ALL,
    txns: ({ x, y, X, Y, e }) => [
      {
        ops: [
          ['a', x, e[0]],
          ['a', y, e[1]],
        ],
      },
      {
        ops: [
          ['r', x, [...X, e[0]]],
          ['r', y, Y],
        ],
      },
      { ops: [['r', y, [...Y, e[1]]]] },
    ],
  },
  PMP: {
    levels: FROM_SNAPSHOT,
    txns: ({ x, y, X, Y, e }) => [
      {
        ops: [
          [
            's',
            [
              [x, X],
              [y, Y],
            ],
          ],
          [
            's',
            [
              [x, X],
              [y, [...Y, e[0]]],
            ],
          ],
        ],
      },
      { ops: [['a', y, e[0]]] },
    ],
  },
  'lost-update': {
    levels: FROM_SNAPSHOT,
    txns: ({ x, X, e }) => [
      {
        ops: [
          ['r', x, X],
          ['a', x, e[0]],
        ],
      },
      {
        ops: [
          ['r', x, X],
          ['a', x, e[1]],
        ],
      },
      { ops: [['r', x, [...X, e[0], e[1]]]] },
    ],
  },
  'G-single': {
    levels: FROM_SNAPSHOT,
    txns: ({ x, y, X, Y, e }) => [
      {
        ops: [
          ['a', x, e[0]],
          ['a', y, e[1]],
        ],
      },
      {
        ops: [
          ['r', y, Y],
          ['r', x, [...X, e[0]]],
        ],
      },
      { ops: [['r', y, [...Y, e[1]]]] },
    ],
  },
  'G-nonadjacent': {
    levels: FROM_SNAPSHOT,
    txns: ({ x, y, X, Y, e }) => [
      { ops: [['a', x, e[0]]] },
      { ops: [['a', y, e[1]]] },
      {
        ops: [
          ['r', y, Y],
          ['r', x, [...X, e[0]]],
        ],
      },
      {
        ops: [
          ['r', x, X],
          ['r', y, [...Y, e[1]]],
        ],
      },
    ],
  },
  'G2-item': {
    levels: SERIALIZABLE,
    txns: ({ x, y, X, Y, e }) => [
      {
        ops: [
          ['r', x, X],
          ['r', y, Y],
          ['a', x, e[0]],
        ],
      },
      {
        ops: [
          ['r', x, X],
          ['r', y, Y],
          ['a', y, e[1]],
        ],
      },
    ],
  },
  G2: {
    levels: SERIALIZABLE,
    txns: ({ x, y, X, Y, e }) => [
      {
        ops: [
          [
            's',
            [
              [x, X],
              [y, Y],
            ],
          ],
          ['a', x, e[0]],
        ],
      },
      {
        ops: [
          [
            's',
            [
              [x, X],
              [y, Y],
            ],
          ],
          ['a', y, e[1]],
        ],
      },
    ],
  },
  /** The commit is over when the reader begins. */
  'G-single-realtime': {
    levels: ALL,
    txns: ({ x, X, e, after }) => [
      { start: after + 1, end: after + 2, ops: [['a', x, e[0]]] },
      { start: after + 3, end: after + 6, ops: [['r', x, X]] },
      { start: after + 4, end: after + 5, ops: [['r', x, [...X, e[0]]]] },
    ],
  },
  'lost-write': {
    levels: ALL,
    txns: ({ x, X, e, after }) => [
      { start: after + 1, end: after + 2, ops: [['a', x, e[0]]] },
      { start: after + 3, end: after + 4, ops: [['r', x, X]] },
    ],
  },
  internal: {
    levels: ALL,
    txns: ({ x, X, e }) => [
      {
        ops: [
          ['r', x, X],
          ['a', x, e[0]],
          ['r', x, X],
        ],
      },
    ],
  },
  'incompatible-order': {
    levels: ALL,
    txns: ({ x, X, e }) => [
      { ops: [['a', x, e[0]]] },
      { ops: [['a', x, e[1]]] },
      { ops: [['r', x, [...X, e[0], e[1]]]] },
      { ops: [['r', x, [...X, e[1]]]] },
    ],
  },
  'unknown-value': { levels: ALL, txns: ({ x, X, e }) => [{ ops: [['r', x, [...X, e[0]]]] }] },
  'duplicate-value': {
    levels: ALL,
    txns: ({ x, X, e }) => [{ ops: [['a', x, e[0]]] }, { ops: [['r', x, [...X, e[0], e[0]]]] }],
  },
};

/** Of whom nothing is known but that it committed. @param {Txn} txn @param {string} level */
export function planted(txn, level) {
  return { thread: 99, start: 0, end: Infinity, level, ...txn };
}
