/**
 * Key encodings: what the caller calls a key, to and from the bytes the engines order and hash.
 *
 *   utf8     string ↔ UTF-8; order is that of the bytes, which is code point order (JavaScript's < differs beyond U+FFFF)
 *   binary   Uint8Array ↔ the same bytes
 *   tuple    array ↔ order-preserving tuple, see tuple.ts
 *
 * A directory remembers its key encoding by name. Every encoding is exact: decode(encode(key)) equals key; and every key of
 * 0 ..= MAX_KEY_BYTES encoded bytes is legal, the empty one included.
 * Threads: any; encodings are stateless, the scratch is the caller's.
 */
import { ConcordError, invalidArgument } from '../errors.js';
import { copyBytes, isBytes, prefixUpperBound, putBytes } from './bytes.js';
import { describeType, keyTooLarge, type KeyScratch, MAX_KEY_BYTES, wrongType } from './key-scratch.js';
import { ASCII_LOOP_LENGTH_MAX, isWellFormed, readUtf8, utf8BytesMax, writeAscii, writeUtf8 } from './text.js';
import { decodeTuple, encodeTuple, tuplePrefixEnd, type TupleElement } from './tuple.js';

export { KeyScratch, MAX_KEY_BYTES } from './key-scratch.js';
export { prefixUpperBound } from './bytes.js';

export type KeyEncodingName = 'utf8' | 'binary' | 'tuple';

export interface KeyEncoding<K = unknown> {
  readonly name: KeyEncodingName;
  /**
   * Writes the key to the start of `scratch.bytes` and returns its length. Throws ERR_INVALID_ARG for a value that is no key
   * of this encoding, ERR_KEY_TOO_LARGE beyond MAX_KEY_BYTES.
   */
  encode(key: unknown, scratch: KeyScratch): number;
  /** The key of `bytes[start, end)`; it owns its memory. Throws ERR_DECODE if these bytes are no key of this encoding. */
  decode(bytes: Buffer, start: number, end: number): K;
  /**
   * Exclusive upper bound of the keys that begin with the encoded prefix `bytes[0, length)`; the prefix itself is the inclusive
   * lower one. Undefined: no upper end.
   */
  prefixEnd(bytes: Uint8Array, length: number): Buffer | undefined;
}

export const utf8Keys: KeyEncoding<string> = {
  name: 'utf8',

  encode(key, scratch) {
    if (typeof key !== 'string') throw wrongType('a key', 'a string', 'utf8', key);
    const length = key.length;
    if (length <= ASCII_LOOP_LENGTH_MAX) {
      scratch.ensure(ASCII_LOOP_LENGTH_MAX);
      if (writeAscii(key, scratch.bytes, 0)) return length;
    }
    // A code unit takes at least one byte: refuse before making room.
    if (length > MAX_KEY_BYTES) throw keyTooLarge(Buffer.byteLength(key));
    if (!isWellFormed(key)) throw invalidArgument('a key with a lone surrogate has no UTF-8 form');
    scratch.ensure(utf8BytesMax(key));
    const keyBytes = writeUtf8(key, scratch.bytes, 0);
    if (keyBytes > MAX_KEY_BYTES) throw keyTooLarge(keyBytes);
    return keyBytes;
  },

  decode(bytes, start, end) {
    const key = readUtf8(bytes, start, end);
    if (key === undefined) throw new ConcordError('ERR_DECODE', 'a stored key is not UTF-8', { encoding: 'utf8' });
    return key;
  },

  prefixEnd: prefixUpperBound,
};

export const binaryKeys: KeyEncoding<Buffer> = {
  name: 'binary',

  encode(key, scratch) {
    if (!isBytes(key)) throw wrongType('a key', 'a Uint8Array', 'binary', key);
    if (key.length > MAX_KEY_BYTES) throw keyTooLarge(key.length);
    scratch.ensure(key.length);
    putBytes(key, scratch.bytes, 0);
    return key.length;
  },

  decode: copyBytes,
  prefixEnd: prefixUpperBound,
};

const tupleKeys: KeyEncoding<TupleElement[]> = {
  name: 'tuple',
  encode: encodeTuple,
  decode: decodeTuple,
  prefixEnd: tuplePrefixEnd,
};

const KEY_ENCODINGS = { utf8: utf8Keys, binary: binaryKeys, tuple: tupleKeys } as const;

/** The encoding an option names; ERR_INVALID_ARG for anything else. */
export function resolveKeyEncoding(option: unknown): KeyEncoding {
  if (typeof option === 'string' && Object.hasOwn(KEY_ENCODINGS, option))
    return KEY_ENCODINGS[option as KeyEncodingName];
  const got = typeof option === 'string' ? `'${option}'` : describeType(option);
  throw invalidArgument(`keyEncoding must be 'utf8', 'binary' or 'tuple', got ${got}`);
}
