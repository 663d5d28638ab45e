/**
 * MessagePack for values: what is written reads back as the same value, or is refused when it is written.
 *
 * Writing is the npm package's encoder, watched by a hook that sees every object before the package does:
 *   bigint             extension type 0, written as in bigint.ts: any size, and never confused with a number
 *   Date               extension type -1, MessagePack's timestamp; an invalid one is refused (the package writes 1970)
 *   Map, Set           refused (the package writes empty maps)
 *   lone surrogates    refused (the package replaces them in long strings only)
 *   undefined          left out of maps, null in arrays, as in JSON; -0 becomes 0, as in JSON
 *
 * Reading is our own, because the package's decoder drops a U+FEFF at the beginning of long strings, accepts malformed UTF-8, takes no
 * shared memory, and reserves arrays of whatever size five bytes claim. This one reads shared memory in place, copies what
 * it returns, allocates in proportion to its input, and bounds its recursion. Integers beyond 2^53, which only other programs
 * write, become bigints.
 *
 * Threads: any. The encoder is safe under re-entry (a getter that encodes); no user code runs inside the decoder, so its position can
 * be a module variable.
 */
import { types } from 'node:util';
import {
  decodeTimestampExtension,
  encodeDateToTimeSpec,
  Encoder,
  encodeTimeSpecToTimestamp,
  EXT_TIMESTAMP,
  ExtData,
  ExtensionCodec,
} from '@msgpack/msgpack';
import { invalidArgument } from '../errors.js';
import { bigintBytes, bigintLength, readBigint, writeBigint } from './bigint.js';
import { readF64BE, readU16BE, readU32BE } from './fixed.js';
import { describeType } from './key-scratch.js';
import { isWellFormed, readUtf8 } from './text.js';

/** On disk: never change. */
const EXT_BIGINT = 0;
/** Values inside values. Deep enough for any document, shallow enough for every later recursion over the result. */
const MSGPACK_DEPTH_MAX = 128;
/** An encoder keeps its buffer; one that has grown beyond this is let go. */
const ENCODER_BYTES_KEPT_MAX = 1 << 20;

const extensions = new ExtensionCodec();
extensions.register({
  type: EXT_TIMESTAMP,
  encode(value) {
    if (!types.isDate(value)) return null;
    if (Number.isNaN(value.getTime())) throw invalidArgument("the 'msgpack' encoding cannot hold an invalid Date");
    return encodeTimeSpecToTimestamp(encodeDateToTimeSpec(value));
  },
  decode: decodeTimestampExtension,
});
extensions.register({
  type: EXT_BIGINT,
  encode(value) {
    if (typeof value === 'bigint') {
      const length = bigintBytes(value);
      if (length < 0) throw invalidArgument('a bigint of more than 524,280 bits is too large for a value');
      const bytes = Buffer.allocUnsafe(length);
      writeBigint(bytes, 0, value);
      return bytes;
    }
    if (types.isMap(value) || types.isSet(value)) {
      throw invalidArgument(`the 'msgpack' encoding cannot hold ${describeType(value)}; use an object or an array`);
    }
    // Strings do not come here themselves, but everything that holds one does.
    if (Array.isArray(value)) for (const item of value) checkText(item);
    else if (typeof value === 'object' && value !== null && !ArrayBuffer.isView(value)) {
      for (const [key, item] of Object.entries(value)) {
        checkText(key);
        checkText(item);
      }
    }
    return null;
  },
  // Never called: decoding is below.
  decode: (data) => data,
});

function checkText(value: unknown): void {
  if (typeof value === 'string' && !isWellFormed(value))
    throw invalidArgument('a string with a lone surrogate has no UTF-8 form');
}

function createEncoder(): Encoder {
  return new Encoder({ extensionCodec: extensions, ignoreUndefined: true, maxDepth: MSGPACK_DEPTH_MAX });
}

let encoder = createEncoder();

/** Bytes of a value, in memory of their own. Throws what the package or a getter throws. */
export function encodeMsgpack(value: unknown): Buffer {
  checkText(value);
  const borrowed = encoder.encodeSharedRef(value);
  const bytes = Buffer.allocUnsafe(borrowed.length);
  bytes.set(borrowed);
  if (borrowed.length > ENCODER_BYTES_KEPT_MAX) encoder = createEncoder();
  return bytes;
}

/** Behind what was read last; see the file's head. */
let position = 0;

/** The value of `bytes[start, end)`; it owns its memory. Throws a RangeError that says what is malformed. */
export function decodeMsgpack(bytes: Buffer, start: number, end: number): unknown {
  position = start;
  const value = readValue(bytes, end, 1);
  if (position !== end) throw new RangeError(`${end - position} bytes are left over`);
  return value;
}

/** Moves over `length` bytes and returns where they begin. */
function take(length: number, end: number): number {
  const at = position;
  if (length > end - at) throw new RangeError('the bytes end inside a value');
  position = at + length;
  return at;
}

function readValue(bytes: Buffer, end: number, depth: number): unknown {
  const head = bytes[take(1, end)]!;
  if (head < 0x80) return head;
  if (head < 0x90) return readMap(bytes, end, head - 0x80, depth);
  if (head < 0xa0) return readArray(bytes, end, head - 0x90, depth);
  if (head < 0xc0) return readString(bytes, end, head - 0xa0);
  if (head >= 0xe0) return head - 0x100;
  switch (head) {
    case 0xc0:
      return null;
    case 0xc2:
      return false;
    case 0xc3:
      return true;
    case 0xc4:
      return readBinary(bytes, end, readU8(bytes, end));
    case 0xc5:
      return readBinary(bytes, end, readU16(bytes, end));
    case 0xc6:
      return readBinary(bytes, end, readU32(bytes, end));
    case 0xc7:
      return readExtension(bytes, end, readU8(bytes, end));
    case 0xc8:
      return readExtension(bytes, end, readU16(bytes, end));
    case 0xc9:
      return readExtension(bytes, end, readU32(bytes, end));
    case 0xca:
      return bytes.readFloatBE(take(4, end));
    case 0xcb:
      return readF64BE(bytes, take(8, end));
    case 0xcc:
      return readU8(bytes, end);
    case 0xcd:
      return readU16(bytes, end);
    case 0xce:
      return readU32(bytes, end);
    case 0xcf:
      return joinWords(readU32(bytes, end), readU32(bytes, end));
    case 0xd0:
      return (readU8(bytes, end) << 24) >> 24;
    case 0xd1:
      return (readU16(bytes, end) << 16) >> 16;
    case 0xd2:
      return readU32(bytes, end) | 0;
    case 0xd3:
      return joinWords(readU32(bytes, end) | 0, readU32(bytes, end));
    case 0xd4:
    case 0xd5:
    case 0xd6:
    case 0xd7:
    case 0xd8:
      return readExtension(bytes, end, 1 << (head - 0xd4));
    case 0xd9:
      return readString(bytes, end, readU8(bytes, end));
    case 0xda:
      return readString(bytes, end, readU16(bytes, end));
    case 0xdb:
      return readString(bytes, end, readU32(bytes, end));
    case 0xdc:
      return readArray(bytes, end, readU16(bytes, end), depth);
    case 0xdd:
      return readArray(bytes, end, readU32(bytes, end), depth);
    case 0xde:
      return readMap(bytes, end, readU16(bytes, end), depth);
    case 0xdf:
      return readMap(bytes, end, readU32(bytes, end), depth);
    default:
      throw new RangeError(`0x${head.toString(16)} begins no value`);
  }
}

function readU8(bytes: Buffer, end: number): number {
  return bytes[take(1, end)]!;
}

function readU16(bytes: Buffer, end: number): number {
  return readU16BE(bytes, take(2, end));
}

function readU32(bytes: Buffer, end: number): number {
  return readU32BE(bytes, take(4, end));
}

/** An integer of 64 bits: a number if it is exact as one. */
function joinWords(high: number, low: number): number | bigint {
  const value = high * 2 ** 32 + low;
  return Number.isSafeInteger(value) ? value : (BigInt(high) << 32n) + BigInt(low);
}

function readArray(bytes: Buffer, end: number, count: number, depth: number): unknown[] {
  checkDepth(depth);
  // Grows as values are found: the count is only a claim.
  const items: unknown[] = [];
  for (let i = 0; i < count; i++) items.push(readValue(bytes, end, depth + 1));
  return items;
}

function readMap(bytes: Buffer, end: number, count: number, depth: number): Record<string, unknown> {
  checkDepth(depth);
  const map: Record<string, unknown> = {};
  for (let i = 0; i < count; i++) {
    const key = readKey(bytes, end);
    const value = readValue(bytes, end, depth + 1);
    // Assigning would set the prototype.
    if (key === '__proto__')
      Object.defineProperty(map, key, { value, writable: true, enumerable: true, configurable: true });
    else map[key] = value;
  }
  return map;
}

function checkDepth(depth: number): void {
  if (depth > MSGPACK_DEPTH_MAX) throw new RangeError(`values are nested deeper than ${MSGPACK_DEPTH_MAX}`);
}

/**
 * Short keys met before, by a cheap hash of their bytes: documents repeat their keys, and a string that exists needs no call into native
 * code and no second hashing by the object it goes into. A newcomer takes the place of what was there.
 */
const keyCache: (string | undefined)[] = new Array<string | undefined>(256).fill(undefined);
const CACHED_KEY_BYTES_MAX = 24;

function readKey(bytes: Buffer, end: number): string {
  const head = position < end ? bytes[position]! : 0;
  const length = head - 0xa0;
  if (length < 0 || length > CACHED_KEY_BYTES_MAX || length >= end - position) return readAnyKey(bytes, end);
  const at = position + 1;
  let hash = length;
  for (let i = 0; i < length; i++) hash = (Math.imul(hash, 31) + bytes[at + i]!) | 0;
  const slot = (hash ^ (hash >>> 8)) & 0xff;
  const cached = keyCache[slot];
  if (cached !== undefined && isAsciiAt(cached, bytes, at, length)) {
    position = at + length;
    return cached;
  }
  const key = readAnyKey(bytes, end);
  keyCache[slot] = key;
  return key;
}

/** True if the bytes are this string in ASCII. */
function isAsciiAt(text: string, bytes: Buffer, at: number, length: number): boolean {
  if (text.length !== length) return false;
  for (let i = 0; i < length; i++) {
    const byte = bytes[at + i]!;
    if (byte > 0x7f || text.charCodeAt(i) !== byte) return false;
  }
  return true;
}

function readAnyKey(bytes: Buffer, end: number): string {
  // As deep as allowed, so that a key which is an array or a map is refused unread.
  const key = readValue(bytes, end, MSGPACK_DEPTH_MAX + 1);
  if (typeof key === 'string') return key;
  // Other programs write numbers as keys; in JavaScript these are strings.
  if (typeof key === 'number') return String(key);
  throw new RangeError(`a map has ${describeType(key)} as a key`);
}

function readString(bytes: Buffer, end: number, length: number): string {
  const at = take(length, end);
  const text = readUtf8(bytes, at, at + length);
  if (text === undefined) throw new RangeError('a string is not UTF-8');
  return text;
}

/** A plain Uint8Array with a buffer of its own: what was put in, and safe to transfer to another thread. */
function readBinary(bytes: Buffer, end: number, length: number): Uint8Array {
  const at = take(length, end);
  return new Uint8Array(bytes.subarray(at, at + length));
}

function readExtension(bytes: Buffer, end: number, length: number): unknown {
  const type = (readU8(bytes, end) << 24) >> 24;
  if (type === EXT_BIGINT) {
    const at = take(length, end);
    if (bigintLength(bytes, at, at + length) !== length) throw new RangeError('a bigint is malformed');
    return readBigint(bytes, at, length);
  }
  const content = readBinary(bytes, end, length);
  if (type !== EXT_TIMESTAMP) return new ExtData(type, content);
  const date = decodeTimestampExtension(content);
  if (Number.isNaN(date.getTime())) throw new RangeError('a timestamp is beyond what a Date holds');
  return date;
}
