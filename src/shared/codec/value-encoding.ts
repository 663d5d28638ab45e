/**
 * Value encodings: what the caller calls a value, to and from stored bytes.
 *
 *   utf8      string ↔ UTF-8                         binary    Uint8Array ↔ the same bytes
 *   json      JSON.stringify ↔ JSON.parse            msgpack   see msgpack.ts
 *   custom    { name, encode, decode }
 *
 * Encoding has two steps, so that a string is written once, straight into a ring, with no bytes made for it in between:
 *
 *   const encoded = encoding.encode(value);                  checked; a string or bytes
 *   const at = ring.reserve(encodedBytesMax(encoded));       exact or an upper bound
 *   const length = writeEncoded(encoded, ring.bytes, at);    give the rest back
 *
 * What the encoded form is made of: a `binary` value is the caller's own array, not a copy. A writer that must wait for room
 * writes later than the caller called, and copies first (encodedToBytes) if the caller may have changed it meanwhile.
 *
 * Threads: any. A directory remembers its value encoding by name; a custom one must be given again at each open and attach.
 */
import { ConcordError, invalidArgument } from '../errors.js';
import { copyBytes, isBytes, putBytes } from './bytes.js';
import { describeType, wrongType } from './key-scratch.js';
import { decodeMsgpack, encodeMsgpack } from './msgpack.js';
import { isWellFormed, readUtf8, utf8BytesMax, writeUtf8 } from './text.js';

/** A checked value on its way to memory: a well-formed string stands for its UTF-8. */
export type Encoded = string | Uint8Array;

export type ValueEncodingName = 'utf8' | 'binary' | 'json' | 'msgpack';

/** An encoding of the caller's own. `decode` gets bytes it may keep; both are called in whatever thread reads or writes. */
export interface CustomValueEncoding<V = unknown> {
  /** Stored in the directory, so that a store is not read with the wrong encoding: letters, digits, `.`, `_`, `-`, at most 64. */
  readonly name: string;
  encode(value: V): Uint8Array | string;
  decode(bytes: Uint8Array): V;
}

export interface ValueEncoding<V = unknown> {
  readonly name: string;
  /** Whether stored bytes are text: then a reader that can make a string itself calls decodeText() and skips the bytes. */
  readonly form: 'text' | 'bytes';
  /** Throws ERR_INVALID_ARG for a value this encoding cannot hold; undefined and functions always are such. */
  encode(value: unknown): Encoded;
  /** The value of `bytes[start, end)`, which may be shared memory; it owns its memory. Throws ERR_DECODE. */
  decode(bytes: Buffer, start: number, end: number): V;
  /** The same of bytes that are handed over: the value may keep or be them. */
  decodeOwned(bytes: Buffer): V;
  /** The same of stored text that has been read as a string. ERR_DECODE if `form` is 'bytes'. */
  decodeText(text: string): V;
}

/** Room that {@link writeEncoded} needs: exact for bytes and long strings, an upper bound for short strings. */
export function encodedBytesMax(encoded: Encoded): number {
  return typeof encoded === 'string' ? utf8BytesMax(encoded) : encoded.length;
}

/** Writes the encoded value at `at` and returns its length in bytes. There must be room for {@link encodedBytesMax}. */
export function writeEncoded(encoded: Encoded, into: Buffer, at: number): number {
  if (typeof encoded === 'string') return writeUtf8(encoded, into, at);
  putBytes(encoded, into, at);
  return encoded.length;
}

/** The encoded value in memory of its own. */
export function encodedToBytes(encoded: Encoded): Buffer {
  return typeof encoded === 'string' ? Buffer.from(encoded, 'utf8') : Buffer.from(encoded);
}

function decodeError(encoding: string, reason: string, cause?: unknown): ConcordError {
  return new ConcordError(
    'ERR_DECODE',
    `a stored value does not decode as '${encoding}': ${reason}`,
    { encoding },
    cause === undefined ? undefined : { cause },
  );
}

function cannotHold(encoding: string, value: unknown): TypeError {
  return invalidArgument(`the '${encoding}' encoding cannot hold ${describeType(value)}`);
}

/** The caller's mistake, with what the encoder said about it. */
function encodeError(encoding: string, cause: unknown): TypeError {
  if (cause instanceof TypeError && (cause as { code?: unknown }).code === 'ERR_INVALID_ARG') return cause;
  const error = invalidArgument(`a value does not encode as '${encoding}': ${messageOf(cause)}`);
  error.cause = cause;
  return error;
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

export const utf8Values: ValueEncoding<string> = {
  name: 'utf8',
  form: 'text',
  encode(value) {
    if (typeof value !== 'string') throw wrongType('a value', 'a string', 'utf8', value);
    if (!isWellFormed(value)) throw invalidArgument('a value with a lone surrogate has no UTF-8 form');
    return value;
  },
  decode(bytes, start, end) {
    const text = readUtf8(bytes, start, end);
    if (text === undefined) throw decodeError('utf8', 'it is not UTF-8');
    return text;
  },
  decodeOwned(bytes) {
    return this.decode(bytes, 0, bytes.length);
  },
  decodeText: (text) => text,
};

export const binaryValues: ValueEncoding<Buffer> = {
  name: 'binary',
  form: 'bytes',
  encode(value) {
    if (!isBytes(value)) throw wrongType('a value', 'a Uint8Array', 'binary', value);
    return value;
  },
  decode: copyBytes,
  decodeOwned: (bytes) => bytes,
  decodeText() {
    throw decodeError('binary', 'it is not text');
  },
};

export const jsonValues: ValueEncoding = {
  name: 'json',
  form: 'text',
  encode(value) {
    let text: string | undefined;
    try {
      text = JSON.stringify(value);
    } catch (cause) {
      throw encodeError('json', cause);
    }
    // Undefined, functions and symbols have no JSON, and neither has an object whose toJSON() returns one of them.
    if (text === undefined) throw cannotHold('json', value);
    return text;
  },
  decode(bytes, start, end) {
    const text = readUtf8(bytes, start, end);
    if (text === undefined) throw decodeError('json', 'it is not UTF-8');
    return this.decodeText(text);
  },
  decodeOwned(bytes) {
    return this.decode(bytes, 0, bytes.length);
  },
  decodeText(text) {
    try {
      return JSON.parse(text) as unknown;
    } catch (cause) {
      throw decodeError('json', messageOf(cause), cause);
    }
  },
};

export const msgpackValues: ValueEncoding = {
  name: 'msgpack',
  form: 'bytes',
  encode(value) {
    if (value === undefined) throw cannotHold('msgpack', value);
    try {
      return encodeMsgpack(value);
    } catch (cause) {
      throw encodeError('msgpack', cause);
    }
  },
  decode(bytes, start, end) {
    try {
      return decodeMsgpack(bytes, start, end);
    } catch (cause) {
      throw decodeError('msgpack', messageOf(cause), cause);
    }
  },
  decodeOwned(bytes) {
    return this.decode(bytes, 0, bytes.length);
  },
  decodeText() {
    throw decodeError('msgpack', 'it is not text');
  },
};

const VALUE_ENCODINGS: Readonly<Record<ValueEncodingName, ValueEncoding>> = {
  utf8: utf8Values,
  binary: binaryValues,
  json: jsonValues,
  msgpack: msgpackValues,
};

function customValues(custom: CustomValueEncoding): ValueEncoding {
  const { name } = custom;
  return {
    name,
    form: 'bytes',
    encode(value) {
      if (value === undefined || typeof value === 'function') throw cannotHold(name, value);
      let encoded: unknown;
      try {
        encoded = custom.encode(value);
      } catch (cause) {
        throw encodeError(name, cause);
      }
      if (isBytes(encoded)) return encoded;
      if (typeof encoded !== 'string') {
        throw invalidArgument(
          `encode() of '${name}' must return a Uint8Array or a string, got ${describeType(encoded)}`,
        );
      }
      if (!isWellFormed(encoded))
        throw invalidArgument(`encode() of '${name}' returned a string with a lone surrogate`);
      return encoded;
    },
    decode(bytes, start, end) {
      return this.decodeOwned(copyBytes(bytes, start, end));
    },
    decodeOwned(bytes) {
      try {
        return custom.decode(bytes);
      } catch (cause) {
        throw decodeError(name, messageOf(cause), cause);
      }
    },
    decodeText() {
      throw decodeError(name, 'it is not text');
    },
  };
}

function isCustom(option: unknown): option is CustomValueEncoding {
  const { name, encode, decode } = (option ?? {}) as Partial<Record<keyof CustomValueEncoding, unknown>>;
  return typeof name === 'string' && typeof encode === 'function' && typeof decode === 'function';
}

/** The encoding an option names or is; ERR_INVALID_ARG for anything else. */
export function resolveValueEncoding(option: unknown): ValueEncoding {
  if (typeof option === 'string') {
    if (Object.hasOwn(VALUE_ENCODINGS, option)) return VALUE_ENCODINGS[option as ValueEncodingName];
    throw invalidArgument(`valueEncoding must be 'utf8', 'binary', 'json', 'msgpack' or an object, got '${option}'`);
  }
  if (!isCustom(option)) {
    throw invalidArgument(
      `valueEncoding must be a name or an object with name, encode() and decode(), got ${describeType(option)}`,
    );
  }
  if (!/^[\w.-]{1,64}$/.test(option.name)) {
    throw invalidArgument(
      `the name of a custom valueEncoding must be 1 to 64 letters, digits, '.', '_' or '-', got '${option.name}'`,
    );
  }
  if (Object.hasOwn(VALUE_ENCODINGS, option.name)) {
    throw invalidArgument(`a custom valueEncoding cannot be called '${option.name}': that name is taken`);
  }
  return customValues(option);
}
