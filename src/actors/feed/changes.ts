/**
 * What a change feed delivers. Values of a change are its own; its token is made when it is asked for. Threads: the feed's.
 */
import { hashBytes, slotOf } from '../../shared/hash.js';
import { KeyScratch, type KeyEncoding } from '../../shared/codec/key-encoding.js';
import type { RangeOptions } from '../pool/range.js';

/** Changes that were committed together: a batch, or a transaction. They come one behind the other, and all of them. */
export interface ChangeTransaction {
  /** Different for any two. */
  readonly id: number;
  /** Changes of it that this feed delivers. */
  readonly size: number;
  /** Of this change, from 0. */
  readonly index: number;
  /** index is size - 1: what was committed together is complete. */
  readonly last: boolean;
}

/** Where a change stands, for the feed that makes it. */
export interface ChangePlace {
  /** Name of the space; empty: the pool's own. */
  readonly space: string;
  readonly shard: number;
  readonly version: number;
  readonly transaction: ChangeTransaction | undefined;
  /** Makes the token. */
  readonly token: () => string;
}

class ChangeBase {
  /** Name of the space; empty: the pool's own. */
  readonly space: string;
  /** Changes of one shard come in the order of their commits. */
  readonly shard: number;
  /** Number of the commit; of a put the version that its entry has. */
  readonly version: number;
  /** Undefined: the change was made by itself. */
  readonly transaction: ChangeTransaction | undefined;
  readonly #token: () => string;

  constructor({ space, shard, version, transaction, token }: ChangePlace) {
    this.space = space;
    this.shard = shard;
    this.version = version;
    this.transaction = transaction;
    this.#token = token;
  }

  /** watch({ since: token }) goes on behind this change. */
  get token(): string {
    return this.#token();
  }
}

/** The key has this value now. */
export class PutChange<K = string, V = string> extends ChangeBase {
  readonly type = 'put';
  readonly key: K;
  readonly value: V;
  /** When the entry ceases to be, ms since the epoch; undefined: never. */
  readonly expiresAt: number | undefined;

  constructor(place: ChangePlace, key: K, value: V, expiresAt: number | undefined) {
    super(place);
    this.key = key;
    this.value = value;
    this.expiresAt = expiresAt;
  }
}

/** The key has no value now. It may have had none before. */
export class DelChange<K = string> extends ChangeBase {
  readonly type = 'del';
  readonly key: K;
  /** Whether somebody has deleted it, or its time had come. */
  readonly cause: 'deleted' | 'expired';

  constructor(place: ChangePlace, key: K, cause: 'deleted' | 'expired') {
    super(place);
    this.key = key;
    this.cause = cause;
  }
}

/** No key that this change covers has a value now. A clear() goes in slices, and each shard clears its own keys. */
export class ClearChange<K = string> extends ChangeBase {
  readonly type = 'clear';
  /** Encoded bounds in the store's order: from `low` on, up to and without `high`; undefined: open. */
  readonly low: Buffer | undefined;
  readonly high: Buffer | undefined;
  readonly #keyEncoding: KeyEncoding;
  readonly #slots: Uint8Array;

  constructor(
    place: ChangePlace,
    low: Buffer | undefined,
    high: Buffer | undefined,
    keyEncoding: KeyEncoding,
    slots: Uint8Array,
  ) {
    super(place);
    this.low = low;
    this.high = high;
    this.#keyEncoding = keyEncoding;
    this.#slots = slots;
  }

  /** Whether it has removed this key: the key is in the range, and lives on the shard. @throws ERR_INVALID_ARG, ERR_KEY_TOO_LARGE */
  covers(key: K): boolean {
    const scratch = new KeyScratch();
    const length = this.#keyEncoding.encode(key, scratch);
    if (this.#slots[slotOf(hashBytes(scratch.bytes, 0, length))] !== this.shard) return false;
    const bytes = scratch.bytes.subarray(0, length);
    if (this.low !== undefined && Buffer.compare(bytes, this.low) < 0) return false;
    return this.high === undefined || Buffer.compare(bytes, this.high) < 0;
  }

  /** The bounds as keys; undefined where one is no key, as the end of a prefix may be. */
  get range(): Pick<RangeOptions<K>, 'gt' | 'gte' | 'lt' | 'lte'> | undefined {
    const low = this.low === undefined ? {} : this.#bound(this.low, 'gte', 'gt');
    const high = this.high === undefined ? {} : this.#bound(this.high, 'lt', 'lte');
    return low === undefined || high === undefined ? undefined : { ...low, ...high };
  }

  /** A bound that is no key may be the one right behind a key. */
  #bound(bytes: Buffer, name: string, nameBehind: string): Record<string, K> | undefined {
    const key = this.#decode(bytes, bytes.length);
    if (key !== undefined) return { [name]: key[0] };
    const before = bytes.at(-1) === 0 ? this.#decode(bytes, bytes.length - 1) : undefined;
    return before === undefined ? undefined : { [nameBehind]: before[0] };
  }

  #decode(bytes: Buffer, length: number): [K] | undefined {
    try {
      return [this.#keyEncoding.decode(bytes, 0, length) as K];
    } catch {
      return undefined;
    }
  }
}

/** Tell them apart by `type`. */
export type Change<K = string, V = string> = PutChange<K, V> | DelChange<K> | ClearChange<K>;
