/**
 * Keys and values as text and as JSON, both ways: what the command prints can be given back to it.
 *
 *   utf8     the text itself
 *   binary   "hex:00ff" or "base64:AP8=", other text means its UTF-8 bytes; printed as base64:
 *   tuple    a JSON array; what JSON lacks is {"$bigint":"1"}, {"$date":"2026-01-01T00:00:00.000Z"}, {"$bytes":"AP8="} (base64)
 *   json, msgpack (values)   JSON, with the same three
 */
import { usage } from './exit.js';

export const KEY_ENCODINGS = ['utf8', 'binary', 'tuple'] as const;
export type KeyEncodingName = (typeof KEY_ENCODINGS)[number];
export const VALUE_ENCODINGS = ['utf8', 'binary', 'json', 'msgpack'] as const;
export type ValueEncodingName = (typeof VALUE_ENCODINGS)[number];

type Json = null | boolean | number | string | Json[] | { [name: string]: Json };

/** Values of the store as JSON can carry them. */
function toJson(value: unknown): Json {
  if (value === null || typeof value === 'boolean' || typeof value === 'string') return value;
  if (typeof value === 'number') return Number.isFinite(value) ? value : { $number: String(value) };
  if (typeof value === 'bigint') return { $bigint: String(value) };
  if (value instanceof Date) return { $date: value.toISOString() };
  if (value instanceof Uint8Array) return { $bytes: Buffer.from(value).toString('base64') };
  if (Array.isArray(value)) return value.map(toJson);
  if (typeof value === 'object') {
    return Object.fromEntries(Object.entries(value).map(([name, field]) => [name, toJson(field)]));
  }
  return null;
}

/** The inverse of {@link toJson}. */
export function fromJson(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(fromJson);
  if (typeof value !== 'object' || value === null) return value;
  const entries = Object.entries(value as Record<string, unknown>);
  if (entries.length === 1) {
    const [name, inner] = entries[0]!;
    if (typeof inner === 'string') {
      if (name === '$bigint' && /^-?\d+$/.test(inner)) return BigInt(inner);
      if (name === '$number' && ['NaN', 'Infinity', '-Infinity'].includes(inner)) return Number(inner);
      if (name === '$date' && !Number.isNaN(Date.parse(inner))) return new Date(inner);
      if (name === '$bytes') return Buffer.from(inner, 'base64');
    }
  }
  return Object.fromEntries(entries.map(([name, field]) => [name, fromJson(field)]));
}

function bytesOf(text: string): Buffer {
  if (text.startsWith('hex:')) {
    const digits = text.slice(4);
    if (digits.length % 2 !== 0 || /[^0-9a-f]/i.test(digits))
      throw usage(`"${text}" is not an even number of hex digits`);
    return Buffer.from(digits, 'hex');
  }
  if (text.startsWith('base64:')) {
    const digits = text.slice(7);
    if (!/^[A-Za-z0-9+/_-]*={0,2}$/.test(digits)) throw usage(`"${text}" is not base64`);
    return Buffer.from(digits, 'base64');
  }
  return Buffer.from(text, 'utf8');
}

function parsedJson(text: string, what: string, example: string): unknown {
  try {
    return fromJson(JSON.parse(text));
  } catch (error) {
    throw usage(`${what} must be JSON, such as ${example}: ${(error as Error).message}`);
  }
}

/** A key of the command line. */
export function keyFromText(text: string, encoding: KeyEncodingName): unknown {
  if (encoding === 'utf8') return text;
  if (encoding === 'binary') return bytesOf(text);
  const key = parsedJson(text, 'a key of this store', `'["city","DE"]'`);
  if (!Array.isArray(key))
    throw usage(`a key of this store must be a JSON array, such as '["city","DE"]', not ${text}`);
  return key;
}

/** A value of the command line. */
export function valueFromText(text: string, encoding: ValueEncodingName): unknown {
  if (encoding === 'utf8') return text;
  if (encoding === 'binary') return bytesOf(text);
  return parsedJson(text, 'a value of this store', `'{"population":3}' or '"text"'`);
}

/** A key inside a JSON document: a field of a record to load, or what scan --json printed. */
export function keyFromJson(value: unknown, encoding: KeyEncodingName): unknown {
  if (encoding === 'tuple') return Array.isArray(value) ? fromJson(value) : [fromJson(value)];
  if (typeof value !== 'string' && typeof value !== 'number' && typeof value !== 'boolean') {
    throw new TypeError(`a ${encoding} key must be a string, a number or a boolean`);
  }
  return encoding === 'binary' ? bytesOf(String(value)) : String(value);
}

export function valueFromJson(value: unknown, encoding: ValueEncodingName): unknown {
  if (encoding === 'json' || encoding === 'msgpack') return fromJson(value);
  const text = typeof value === 'string' ? value : JSON.stringify(value);
  return encoding === 'binary' ? bytesOf(text) : text;
}

export function keyToJson(key: unknown): Json {
  return key instanceof Uint8Array ? `base64:${Buffer.from(key).toString('base64')}` : toJson(key);
}

export const valueToJson = keyToJson;

/** For people: text as it is, everything else as in JSON. */
export function toText(value: unknown): string {
  const json = keyToJson(value);
  return typeof json === 'string' ? json : JSON.stringify(json);
}
