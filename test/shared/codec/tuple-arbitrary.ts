/**
 * Random tuples, biased towards what breaks encoders: zero bytes, prefixes of each other, edges of numbers, characters beyond
 * U+FFFF. And the order of tuples as the documentation states it, written without a look at the bytes.
 */
import fc from 'fast-check';
import type { Tuple, TupleElement } from '../../../dist/shared/codec/tuple.js';

const numbers = fc.oneof(
  fc.double({ noNaN: true }),
  fc.integer(),
  fc.constantFrom(-Infinity, -Number.MAX_VALUE, -1, -Number.MIN_VALUE, -0, 0, Number.MIN_VALUE, 1, 2 ** 53, Infinity),
);
const bigints = fc.oneof(
  fc.bigInt({ min: -(2n ** 2000n), max: 2n ** 2000n }),
  fc.bigInt({ min: -300n, max: 300n }),
  fc
    .tuple(fc.nat(1100), fc.constantFrom(-1n, 0n, 1n), fc.constantFrom(1n, -1n))
    .map(([bits, delta, sign]) => sign * ((1n << BigInt(bits)) + delta)),
);
export const strings = fc.oneof(
  fc.string({ unit: 'binary' }),
  fc.string({ unit: fc.constantFrom('\0', '\u0001', 'a', 'ÿ', '\ufffd', '\uffff', '😀'), maxLength: 6 }),
);
const byteArrays = fc.oneof(
  fc.uint8Array(),
  fc.array(fc.constantFrom(0, 1, 0xfe, 0xff), { maxLength: 6 }).map((bytes) => Uint8Array.from(bytes)),
);
const dates = fc.date({ noInvalidDate: true });

export const elements: fc.Arbitrary<TupleElement> = fc.letrec<{ element: TupleElement; tuple: Tuple }>((tie) => ({
  element: fc.oneof(
    { depthSize: 'small', withCrossShrink: true },
    fc.constantFrom(null, false, true, '', 0, 0n),
    numbers,
    bigints,
    strings,
    byteArrays,
    dates,
    tie('tuple'),
  ),
  tuple: fc.array(tie('element'), { maxLength: 4 }),
})).element;
export const tuples: fc.Arbitrary<Tuple> = fc.array(elements, { maxLength: 5 });

/** null < false < true < numbers < bigints < dates < strings < bytes < tuples. */
function rank(element: TupleElement): number {
  if (element === null) return 0;
  if (typeof element === 'boolean') return element ? 2 : 1;
  if (typeof element === 'number') return 3;
  if (typeof element === 'bigint') return 4;
  if (element instanceof Date) return 5;
  if (typeof element === 'string') return 6;
  return element instanceof Uint8Array ? 7 : 8;
}

function sign<T extends number | bigint>(a: T, b: T): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

/** Lists compare item by item; what ends first is less. */
function compareLists<T>(a: readonly T[], b: readonly T[], compare: (x: T, y: T) => number): number {
  for (let i = 0; i < a.length && i < b.length; i++) {
    const order = compare(a[i]!, b[i]!);
    if (order !== 0) return order;
  }
  return sign(a.length, b.length);
}

function compareElements(a: TupleElement, b: TupleElement): number {
  if (rank(a) !== rank(b)) return sign(rank(a), rank(b));
  if (typeof a === 'number' && typeof b === 'number') {
    if (a === 0 && b === 0) return Number(Object.is(b, -0)) - Number(Object.is(a, -0));
    return sign(a, b);
  }
  if (typeof a === 'bigint' && typeof b === 'bigint') return sign(a, b);
  if (a instanceof Date && b instanceof Date) return sign(a.getTime(), b.getTime());
  // The order of UTF-8 bytes is the order of code points.
  if (typeof a === 'string' && typeof b === 'string') {
    return compareLists(Array.from(a), Array.from(b), (x, y) => sign(x.codePointAt(0)!, y.codePointAt(0)!));
  }
  if (a instanceof Uint8Array && b instanceof Uint8Array) return compareLists(Array.from(a), Array.from(b), sign);
  if (Array.isArray(a) && Array.isArray(b)) return compareTuples(a as Tuple, b as Tuple);
  return 0;
}

export function compareTuples(a: Tuple, b: Tuple): number {
  return compareLists(a, b, compareElements);
}
