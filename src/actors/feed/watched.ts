/**
 * What a change feed watches: the options of watch(), and which spaces and keys they mean. Threads: the feed's.
 */
import { invalidArgument } from '../../shared/errors.js';
import type { KeyEncoding } from '../../shared/codec/key-encoding.js';
import type { ValueEncoding } from '../../shared/codec/value-encoding.js';
import { resolveKeyEncoding } from '../../shared/codec/key-encoding.js';
import type { FeedFilter } from '../../engines/feed/shard-feed.js';
import type { PoolCore } from '../pool/core.js';
import { encodeRange, type EncodedRange, type RangeOptions } from '../pool/range.js';
import type { SpaceSource } from '../pool/source.js';

/** Without bounds, all keys. Clears are delivered that touch the range. */
export interface WatchOptions<K> extends RangeOptions<K> {
  /**
   * 'now' (default): what is committed from this call on. 'beginning': from the oldest change that the log still has. Or the token of a change, or of a feed:
   * what comes behind it.
   */
  readonly since?: string | undefined;
  /** Only what is on the disk for certain, so that no power loss can take back what was delivered. Default false. */
  readonly durable?: boolean | undefined;
  /** Ends the feed: its next() rejects with AbortError. */
  readonly signal?: AbortSignal | undefined;
}

/** For the feeds of a pool: what they watch may be several spaces. */
export interface PoolWatchOptions<K> extends WatchOptions<K> {
  /** A name or several, '' for the pool's own (default), '*' for all that there are. Bounds go with one space. */
  readonly space?: string | readonly string[] | undefined;
}

const ALL = '*';
const NAMES = new Set(['gt', 'gte', 'lt', 'lte', 'prefix', 'since', 'durable', 'signal', 'space']);

/** How entries of a space are to be read. */
export interface WatchedSpace {
  readonly name: string;
  readonly keyEncoding: KeyEncoding;
  readonly valueEncoding: ValueEncoding;
}

export interface ResolvedWatch {
  readonly since: string;
  readonly durable: boolean;
  readonly signal: AbortSignal | undefined;
  /** The spaces that are watched; undefined: all. */
  readonly sources: readonly SpaceSource[] | undefined;
  readonly bounds: RangeOptions<unknown>;
}

/** @throws ERR_INVALID_ARG, ERR_SPACE_NOT_FOUND */
export function resolveWatch(source: SpaceSource, options: unknown, takesSpaces: boolean): ResolvedWatch {
  if (typeof options !== 'object' || options === null) throw invalidArgument('options must be an object');
  for (const name of Object.keys(options)) {
    if (!NAMES.has(name) || (name === 'space' && !takesSpaces)) throw invalidArgument(`unknown watch option ${name}`);
  }
  const { since = 'now', durable = false, signal, space, ...bounds } = options as PoolWatchOptions<unknown>;
  if (typeof since !== 'string') throw invalidArgument("since must be 'now', 'beginning' or a token");
  if (typeof durable !== 'boolean') throw invalidArgument('durable must be a boolean');
  if (signal !== undefined && !(signal instanceof AbortSignal)) throw invalidArgument('signal must be an AbortSignal');
  const sources = sourcesOf(source, space);
  const isBounded = Object.values(bounds).some((bound) => bound !== undefined);
  if (isBounded && sources?.length !== 1) throw invalidArgument('bounds of keys go with one space');
  return { since, durable, signal, sources, bounds };
}

function sourcesOf(own: SpaceSource, space: unknown): SpaceSource[] | undefined {
  if (space === undefined) return [own];
  if (space === ALL) return undefined;
  const names: unknown[] = Array.isArray(space) ? space : [space];
  if (names.length === 0) throw invalidArgument('space must name at least one space');
  return names.map((name) => {
    if (typeof name !== 'string' || name === ALL)
      throw invalidArgument("space must be the name of a space, an array of names, or '*'");
    return name === '' ? own : own.core.space(name, { createIfMissing: false }).source;
  });
}

export class Watched implements FeedFilter {
  readonly #core: PoolCore;
  /** Of which source the spaces are named, by id; undefined: all. */
  readonly #sources: ReadonlyMap<number, SpaceSource> | undefined;
  readonly #range: EncodedRange;
  readonly #spaces = new Map<number, WatchedSpace>();

  /** Of spaces that exist. @throws ERR_INVALID_ARG */
  constructor(core: PoolCore, { sources, bounds }: ResolvedWatch) {
    this.#core = core;
    this.#sources = sources && new Map(sources.map((source) => [source.spaceId, source]));
    this.#range =
      sources?.length === 1 ? encodeRange(bounds, sources[0]!.keyEncoding) : { low: undefined, high: undefined };
  }

  wants(spaceId: number, bytes: Buffer, keyAt: number, keyLength: number): boolean {
    if (!this.#isWatched(spaceId)) return false;
    const { low, high } = this.#range;
    const end = keyAt + keyLength;
    if (low !== undefined && low.compare(bytes, keyAt, end) > 0) return false;
    return high === undefined || high.compare(bytes, keyAt, end) > 0;
  }

  wantsRange(spaceId: number, low: Buffer | undefined, high: Buffer | undefined): boolean {
    if (!this.#isWatched(spaceId)) return false;
    const { low: ownLow, high: ownHigh } = this.#range;
    if (low !== undefined && ownHigh !== undefined && low.compare(ownHigh) >= 0) return false;
    return high === undefined || ownLow === undefined || high.compare(ownLow) > 0;
  }

  /** What the store does not know any more was dropped. */
  #isWatched(spaceId: number): boolean {
    if (this.#sources !== undefined) return this.#sources.has(spaceId);
    return this.#core.registry.withId(spaceId) !== undefined;
  }

  /** Of a space that is watched. @throws ERR_OPTION_CONFLICT: it has an encoding that this thread was not given */
  space(spaceId: number): WatchedSpace | undefined {
    const known = this.#spaces.get(spaceId) ?? this.#sources?.get(spaceId);
    if (known !== undefined) return known;
    const record = this.#core.registry.withId(spaceId);
    if (record === undefined) return undefined;
    const { name } = record;
    const valueEncoding = this.#core.encodingFor(`the space ${name}`, record.valueEncoding, undefined);
    const space = { name, keyEncoding: resolveKeyEncoding(record.keyEncoding), valueEncoding };
    this.#spaces.set(spaceId, space);
    return space;
  }
}
