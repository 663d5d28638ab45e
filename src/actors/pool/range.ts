/**
 * Ranges of keys: what the caller writes, and the encoded bounds the shards use. Threads: any.
 */
import { invalidArgument } from '../../shared/errors.js';
import { KeyScratch, type KeyEncoding } from '../../shared/codec/key-encoding.js';
import type { AnySnapshot } from './snapshot.js';

/** Bounds of a range; `prefix` may be combined with bounds, the narrower counts. */
export interface RangeOptions<K> {
  readonly gt?: K;
  readonly gte?: K;
  readonly lt?: K;
  readonly lte?: K;
  /** utf8, binary: keys that begin so. tuple: tuples that begin with these elements. */
  readonly prefix?: K;
}

export interface IteratorOptions<K> extends RangeOptions<K> {
  /** From the last key to the first. Default false. */
  readonly reverse?: boolean;
  /** At most so many entries; -1 or absent: all. */
  readonly limit?: number;
  /** Reads this snapshot; otherwise the state when the iteration begins. */
  readonly snapshot?: AnySnapshot | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** Encoded bounds: low is inclusive, high exclusive; undefined is open. */
export interface EncodedRange {
  readonly low: Buffer | undefined;
  readonly high: Buffer | undefined;
}

const RANGE_NAMES = new Set([
  'gt',
  'gte',
  'lt',
  'lte',
  'prefix',
  'reverse',
  'limit',
  'snapshot',
  'signal',
  'durability',
]);

/** @throws ERR_INVALID_ARG for unknown options and keys that do not encode. */
export function encodeRange<K>(range: RangeOptions<K>, encoding: KeyEncoding): EncodedRange {
  if (typeof range !== 'object' || range === null)
    throw invalidArgument('a range must be an object with gt, gte, lt, lte or prefix');
  for (const name of Object.keys(range)) {
    if (!RANGE_NAMES.has(name)) throw invalidArgument(`unknown range option ${name}`);
  }
  const scratch = new KeyScratch();
  const encode = (key: K): Buffer => {
    const length = encoding.encode(key, scratch);
    return Buffer.from(scratch.bytes.subarray(0, length));
  };
  let low: Buffer | undefined;
  let high: Buffer | undefined;
  const raise = (bound: Buffer): void => {
    if (low === undefined || bound.compare(low) > 0) low = bound;
  };
  const lower = (bound: Buffer | undefined): void => {
    if (bound !== undefined && (high === undefined || bound.compare(high) < 0)) high = bound;
  };
  if (range.gte !== undefined) raise(encode(range.gte));
  if (range.gt !== undefined) raise(after(encode(range.gt)));
  if (range.lt !== undefined) lower(encode(range.lt));
  if (range.lte !== undefined) lower(after(encode(range.lte)));
  if (range.prefix !== undefined) {
    const prefix = encode(range.prefix);
    raise(prefix);
    lower(encoding.prefixEnd(prefix, prefix.length));
  }
  return { low, high };
}

/** The smallest byte string above `key`. */
function after(key: Buffer): Buffer {
  return Buffer.concat([key, Buffer.of(0)]);
}

export function isEmptyRange({ low, high }: EncodedRange): boolean {
  return low !== undefined && high !== undefined && low.compare(high) >= 0;
}

/** Infinity for none. @throws ERR_INVALID_ARG */
export function checkLimit(limit: number | undefined): number {
  if (limit === undefined || limit === -1) return Infinity;
  if (typeof limit !== 'number' || Number.isNaN(limit) || limit < 0)
    throw invalidArgument(`limit must be at least 0, got ${limit}`);
  return Math.floor(limit);
}

/** Of nextv(). @throws ERR_INVALID_ARG */
export function checkCount(count: number): number {
  if (typeof count !== 'number' || Number.isNaN(count))
    throw invalidArgument(`nextv takes a number, got ${String(count)}`);
  return Math.max(1, count);
}
