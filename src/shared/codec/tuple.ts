/**
 * Tuples as bytes whose unsigned order is the order of the tuples. Format, examples and reasons: FORMAT.md.
 *
 *   tuple    = element*                            an extension of a tuple sorts behind it
 *   element  = 05                                  null
 *            | 10 | 11                             false, true
 *            | 20 ordered-double                   number: 8 bytes (fixed.ts)
 *            | 30 bigint                           bigint.ts
 *            | 40 ordered-double                   Date: milliseconds since 1970
 *            | 50 escaped 00                       string: UTF-8
 *            | 60 escaped 00                       bytes
 *            | 70 element* 00                      nested tuple
 *   escaped  = each byte 00 as 00 ff
 *
 * The terminator 00 is below every tag, so what ends first sorts first; ff is above every tag, so the escape 00 ff sorts a zero
 * byte inside a string above the string's end. Canonical: bytes that decode are exactly those that encoding the result
 * gives, so equal tuples are equal keys.
 *
 * Decoding survives any bytes: it reports ERR_DECODE, never reads outside the range and bounds its recursion.
 * Threads: any; decoded values own their memory, also if the source is shared. The decoder keeps its position in a module variable,
 * which is safe because no user code runs inside it.
 */
import { types } from 'node:util';
import { ConcordError, invalidArgument } from '../errors.js';
import { bigintBytes, bigintLength, readBigint, writeBigint } from './bigint.js';
import { copyBytes, prefixUpperBound } from './bytes.js';
import { readOrderedF64, writeOrderedF64 } from './fixed.js';
import { describeType, keyTooLarge, KeyScratch, MAX_KEY_BYTES } from './key-scratch.js';
import { isWellFormed, readUtf8, utf8BytesMax, writeUtf8 } from './text.js';

/** What a tuple may hold. A number and a bigint of the same value are different elements. */
export type TupleElement = null | boolean | number | bigint | string | Uint8Array | Date | Tuple;
export type Tuple = readonly TupleElement[];

/** On disk: never renumber, never reuse. The gaps are for types to come. */
const TupleTag = {
  End: 0x00,
  Null: 0x05,
  False: 0x10,
  True: 0x11,
  Number: 0x20,
  Bigint: 0x30,
  Date: 0x40,
  String: 0x50,
  Bytes: 0x60,
  Tuple: 0x70,
} as const;
/** Behind a 00: the zero byte is content. Above every tag. */
const ESCAPE = 0xff;

/** How many tuples may stand inside each other, the outermost included. Bounds recursion on hostile bytes. */
export const TUPLE_DEPTH_MAX = 64;

/** Milliseconds a Date can hold. */
const DATE_MS_MAX = 8.64e15;

/**
 * Encodes `tuple` at the start of `into` and returns its length in bytes.
 * Throws ERR_INVALID_ARG for what a tuple cannot hold, ERR_KEY_TOO_LARGE beyond MAX_KEY_BYTES.
 */
export function encodeTuple(tuple: unknown, into: KeyScratch): number {
  if (!Array.isArray(tuple)) throw invalidArgument(`a tuple key must be an array, got ${describeType(tuple)}`);
  return encodeElements(tuple, into, 0, 1);
}

function encodeElements(elements: readonly unknown[], into: KeyScratch, at: number, depth: number): number {
  if (depth > TUPLE_DEPTH_MAX) throw invalidArgument(`tuples are nested deeper than ${TUPLE_DEPTH_MAX}`);
  for (let i = 0; i < elements.length; i++) {
    at = encodeElement(elements[i], into, at, depth);
    if (at > MAX_KEY_BYTES) throw keyTooLarge(at);
  }
  return at;
}

/** Writes one element behind `at`; returns the offset behind it. Growth is bounded: oversize input is refused before it is copied. */
function encodeElement(element: unknown, into: KeyScratch, at: number, depth: number): number {
  switch (typeof element) {
    case 'string': {
      at = encodeOpenString(element, into, at);
      into.ensure(at + 1);
      into.bytes[at] = TupleTag.End;
      return at + 1;
    }
    case 'number': {
      if (Number.isNaN(element)) throw invalidArgument('NaN has no place in an order and cannot be part of a tuple');
      into.ensure(at + 9);
      into.bytes[at] = TupleTag.Number;
      writeOrderedF64(into.bytes, at + 1, element);
      return at + 9;
    }
    case 'bigint': {
      const length = bigintBytes(element, MAX_KEY_BYTES);
      if (length < 0) throw keyTooLarge(at + 1 + MAX_KEY_BYTES);
      into.ensure(at + 1 + length);
      into.bytes[at] = TupleTag.Bigint;
      return writeBigint(into.bytes, at + 1, element);
    }
    case 'boolean':
      into.ensure(at + 1);
      into.bytes[at] = element ? TupleTag.True : TupleTag.False;
      return at + 1;
    case 'object':
      return encodeObject(element, into, at, depth);
    default:
      throw invalidArgument(`a tuple cannot hold ${describeType(element)}`);
  }
}

function encodeObject(element: object | null, into: KeyScratch, at: number, depth: number): number {
  if (element === null) {
    into.ensure(at + 1);
    into.bytes[at] = TupleTag.Null;
    return at + 1;
  }
  if (Array.isArray(element)) {
    into.ensure(at + 1);
    into.bytes[at] = TupleTag.Tuple;
    at = encodeElements(element, into, at + 1, depth + 1);
    into.ensure(at + 1);
    into.bytes[at] = TupleTag.End;
    return at + 1;
  }
  if (types.isUint8Array(element)) {
    at = encodeOpenBytes(element, into, at);
    into.ensure(at + 1);
    into.bytes[at] = TupleTag.End;
    return at + 1;
  }
  if (types.isDate(element)) {
    const milliseconds = element.getTime();
    if (Number.isNaN(milliseconds)) throw invalidArgument('an invalid Date cannot be part of a tuple');
    into.ensure(at + 9);
    into.bytes[at] = TupleTag.Date;
    writeOrderedF64(into.bytes, at + 1, milliseconds);
    return at + 9;
  }
  throw invalidArgument(
    `a tuple holds null, boolean, number, bigint, string, Uint8Array, Date and arrays, not ${describeType(element)}`,
  );
}

/** Tag and content of a string, without the terminator. */
function encodeOpenString(text: string, into: KeyScratch, at: number): number {
  if (text.length > MAX_KEY_BYTES) throw keyTooLarge(at + 2 + text.length);
  if (!isWellFormed(text))
    throw invalidArgument('a string with a lone surrogate has no UTF-8 form and cannot be part of a tuple');
  into.ensure(at + 1 + utf8BytesMax(text));
  into.bytes[at] = TupleTag.String;
  return escapeZeros(into, at + 1, at + 1 + writeUtf8(text, into.bytes, at + 1));
}

/** Tag and content of bytes, without the terminator. */
function encodeOpenBytes(content: Uint8Array, into: KeyScratch, at: number): number {
  if (content.length > MAX_KEY_BYTES) throw keyTooLarge(at + 2 + content.length);
  into.ensure(at + 1 + content.length);
  into.bytes[at] = TupleTag.Bytes;
  into.bytes.set(content, at + 1);
  return escapeZeros(into, at + 1, at + 1 + content.length);
}

/** Turns each 00 of [start, end) into 00 ff, in place; returns the new end. Zeros are rare, so they are counted first. */
function escapeZeros(into: KeyScratch, start: number, end: number): number {
  const counted = into.bytes;
  let zeros = 0;
  for (let i = start; i < end; i++) if (counted[i] === 0) zeros++;
  if (zeros === 0) return end;
  into.ensure(end + zeros);
  const bytes = into.bytes;
  // From the back, so that each byte moves once and over nothing unread. Once all zeros are behind, the rest is in place.
  let from = end - 1;
  let to = end + zeros - 1;
  while (to > from) {
    const byte = bytes[from--]!;
    if (byte === 0) bytes[to--] = ESCAPE;
    bytes[to--] = byte;
  }
  return end + zeros;
}

/** Behind the element that was read last; see the file's head. */
let position = 0;

/** The tuple of `bytes[start, end)`, which the caller guarantees to lie inside. Anything malformed is ERR_DECODE. */
export function decodeTuple(bytes: Buffer, start: number, end: number): TupleElement[] {
  const elements: TupleElement[] = [];
  position = start;
  while (position < end) elements.push(decodeElement(bytes, position, end, 1));
  return elements;
}

function malformed(at: number, what: string): ConcordError {
  return new ConcordError('ERR_DECODE', `not a tuple: ${what} at byte ${at}`, { encoding: 'tuple', offset: at });
}

function decodeElement(bytes: Buffer, at: number, end: number, depth: number): TupleElement {
  const tag = bytes[at]!;
  switch (tag) {
    case TupleTag.Null:
      position = at + 1;
      return null;
    case TupleTag.False:
    case TupleTag.True:
      position = at + 1;
      return tag === TupleTag.True;
    case TupleTag.Number: {
      if (at + 9 > end) throw malformed(at, 'a number is cut off');
      const value = readOrderedF64(bytes, at + 1);
      if (Number.isNaN(value)) throw malformed(at, 'NaN');
      position = at + 9;
      return value;
    }
    case TupleTag.Bigint: {
      const length = bigintLength(bytes, at + 1, end);
      if (length < 0) throw malformed(at, 'a malformed bigint');
      position = at + 1 + length;
      return readBigint(bytes, at + 1, length);
    }
    case TupleTag.Date: {
      if (at + 9 > end) throw malformed(at, 'a date is cut off');
      const value = readOrderedF64(bytes, at + 1);
      if (!Number.isInteger(value) || Math.abs(value) > DATE_MS_MAX || Object.is(value, -0))
        throw malformed(at, 'no valid date');
      position = at + 9;
      return new Date(value);
    }
    case TupleTag.String:
      return decodeString(bytes, at, end);
    case TupleTag.Bytes:
      return decodeBytes(bytes, at, end);
    case TupleTag.Tuple: {
      if (depth === TUPLE_DEPTH_MAX) throw malformed(at, `nesting deeper than ${TUPLE_DEPTH_MAX}`);
      const elements: TupleElement[] = [];
      position = at + 1;
      for (;;) {
        if (position >= end) throw malformed(at, 'a nested tuple is not terminated');
        if (bytes[position] === TupleTag.End) break;
        elements.push(decodeElement(bytes, position, end, depth + 1));
      }
      position++;
      return elements;
    }
    default:
      throw malformed(at, `unknown type tag 0x${tag.toString(16).padStart(2, '0')}`);
  }
}

function decodeString(bytes: Buffer, at: number, end: number): string {
  const start = at + 1;
  const terminator = contentEnd(bytes, start, end);
  if (terminator < 0) throw malformed(at, 'a string is not terminated');
  position = terminator + 1;
  let text: string | undefined;
  if (contentEscapes === 0) text = readUtf8(bytes, start, terminator);
  else {
    const content = unescape(bytes, start, terminator);
    text = readUtf8(content, 0, content.length);
  }
  if (text === undefined) throw malformed(at, 'a string is not UTF-8');
  return text;
}

function decodeBytes(bytes: Buffer, at: number, end: number): Uint8Array {
  const start = at + 1;
  const terminator = contentEnd(bytes, start, end);
  if (terminator < 0) throw malformed(at, 'bytes are not terminated');
  position = terminator + 1;
  // A plain Uint8Array with a buffer of its own: what was put in, and safe to transfer to another thread.
  return new Uint8Array(unescape(bytes, start, terminator));
}

/** Zero bytes in the content that contentEnd() passed last. */
let contentEscapes = 0;

/** Offset of the terminator of content that begins at `at`, or -1. */
function contentEnd(bytes: Uint8Array, at: number, end: number): number {
  contentEscapes = 0;
  for (; at < end; at++) {
    if (bytes[at] !== 0) continue;
    if (at + 1 === end || bytes[at + 1] !== ESCAPE) return at;
    contentEscapes++;
    at++;
  }
  return -1;
}

function unescape(bytes: Buffer, start: number, end: number): Buffer {
  if (contentEscapes === 0) return copyBytes(bytes, start, end);
  const content = Buffer.allocUnsafe(end - start - contentEscapes);
  for (let from = start, to = 0; from < end; from++) {
    const byte = bytes[from]!;
    content[to++] = byte;
    if (byte === 0) from++;
  }
  return content;
}

/**
 * The least upper bound of all keys that begin with the elements encoded in `bytes[0, length)`, or undefined for the empty tuple.
 *
 * Raising the last byte would be wrong: ['a'] is 50 61 00 and ["a\0b"] is 50 61 00 ff 62 00, which begins with the same
 * bytes but with another element. Elements begin below ff, so prefix ++ ff is the bound.
 */
export function tuplePrefixEnd(bytes: Uint8Array, length: number): Buffer | undefined {
  if (length === 0) return undefined;
  // Nothing but the prefix itself fits in the limit, and the bound must be a legal key too.
  if (length === MAX_KEY_BYTES) return prefixUpperBound(bytes, length);
  const bound = Buffer.allocUnsafe(length + 1);
  for (let i = 0; i < length; i++) bound[i] = bytes[i]!;
  bound[length] = ESCAPE;
  return bound;
}
