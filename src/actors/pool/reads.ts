/**
 * The reading half of a pool, shared by the pool itself (newest state) and by snapshots (state at one sequence number).
 * Reads run in the caller's thread on shared memory: encode the key, pin, search, copy, unpin. Threads: the one that owns the client.
 */
import { KeyScratch, type KeyEncoding } from '../../shared/codec/key-encoding.js';
import type { ValueEncoding } from '../../shared/codec/value-encoding.js';
import { ConcordError, invalidArgument } from '../../shared/errors.js';
import { hashBytes, slotOf } from '../../shared/hash.js';
import { treeCounts } from '../../engines/btree/meta.js';
import { DEFAULT_TREE } from '../../engines/store/shard-store.js';
import type { ShardView, ThreadClient } from '../client/thread-client.js';
import { ConcordIterator, ConcordSyncIterator, decodeRaw, type ScanPlan } from './iterators.js';
import {
  checkLimit,
  encodeRange,
  isEmptyRange,
  type EncodedRange,
  type IteratorOptions,
  type RangeOptions,
} from './range.js';
import type { RawValue } from './scan.js';
import type { Snapshot } from './snapshot.js';

/** Values longer than this are read piece by piece by get(), with the event loop running in between. */
const PIECEWISE_BYTES_MIN = 1 << 20;
/** Entries counted under one pin. */
const COUNT_ENTRIES_PER_PIN = 4096;

export interface ReadOptions {
  readonly signal?: AbortSignal;
}

/** An entry with the version that put's `ifVersion` takes. */
export interface Entry<K, V> {
  readonly key: K;
  readonly value: V;
  /** Sequence number of the write: grows with every change of any key, survives restarts. */
  readonly version: number;
}

const EMPTY_RANGE: EncodedRange = { low: undefined, high: undefined };

export abstract class Reads<K, V> {
  protected readonly client: ThreadClient;
  protected readonly keyEncoding: KeyEncoding;
  protected readonly valueEncoding: ValueEncoding;
  protected readonly scratch = new KeyScratch();
  readonly #isText: boolean;
  readonly #slots: Uint8Array;
  readonly #only: ShardView | undefined;

  constructor(client: ThreadClient, keyEncoding: KeyEncoding, valueEncoding: ValueEncoding) {
    this.client = client;
    this.keyEncoding = keyEncoding;
    this.valueEncoding = valueEncoding;
    this.#isText = valueEncoding.form === 'text';
    this.#slots = client.control.slots;
    this.#only = client.shards.length === 1 ? client.shards[0] : undefined;
  }

  /** Infinity: the newest state. */
  protected abstract get readSeq(): number;
  /** @throws ERR_CLOSED */
  protected abstract assertOpen(): void;

  /** The shard of the key whose `length` bytes are in the scratch. */
  protected viewOf(length: number): ShardView {
    return this.#only ?? this.client.shards[this.#slots[slotOf(hashBytes(this.scratch.bytes, 0, length))]!]!;
  }

  /**
   * The value, copied from shared memory in this thread, or undefined. No message, no lock: about a microsecond.
   * @throws ERR_INVALID_ARG, ERR_KEY_TOO_LARGE, ERR_CLOSED, ERR_DECODE, ERR_CORRUPT
   */
  getSync(key: K): V | undefined {
    this.assertOpen();
    const length = this.keyEncoding.encode(key, this.scratch);
    const { arena, reader } = this.viewOf(length);
    const slot = this.client.client;
    let raw: RawValue;
    const metaUnit = arena.pin(slot);
    try {
      if (!reader.find(metaUnit, DEFAULT_TREE, this.scratch.bytes, length, this.readSeq)) return undefined;
      raw = this.#isText ? reader.valueUtf8() : reader.copyValue();
    } finally {
      arena.unpin(slot);
    }
    return decodeRaw(raw, this.valueEncoding) as V;
  }

  /** As getSync(); values above 1 MiB are copied piece by piece, with the event loop running in between. @throws as getSync; AbortError */
  async get(key: K, options?: ReadOptions): Promise<V | undefined> {
    const signal = checkSignal(options);
    this.assertOpen();
    const length = this.keyEncoding.encode(key, this.scratch);
    const view = this.viewOf(length);
    const { arena, reader } = view;
    const slot = this.client.client;
    let raw: RawValue | undefined;
    const metaUnit = arena.pin(slot);
    try {
      if (!reader.find(metaUnit, DEFAULT_TREE, this.scratch.bytes, length, this.readSeq)) return undefined;
      if (reader.valueLength < PIECEWISE_BYTES_MIN) raw = this.#isText ? reader.valueUtf8() : reader.copyValue();
    } finally {
      arena.unpin(slot);
    }
    if (raw === undefined) {
      raw = await this.#readPiecewise(view, Buffer.from(this.scratch.bytes.subarray(0, length)), signal);
      if (raw === undefined) return undefined;
    }
    return decodeRaw(raw, this.valueEncoding) as V;
  }

  async #readPiecewise(view: ShardView, key: Buffer, signal: AbortSignal | undefined): Promise<RawValue | undefined> {
    const { control, client: slot } = this.client;
    const held = this.readSeq === Infinity ? await control.openSnapshot(slot) : undefined;
    const atSeq = held?.sequence ?? this.readSeq;
    const { arena, reader } = view;
    try {
      let value: Buffer | undefined;
      for (let from = 0; value === undefined || from < value.length; from += PIECEWISE_BYTES_MIN) {
        const metaUnit = arena.pin(slot);
        try {
          if (!reader.find(metaUnit, DEFAULT_TREE, key, key.length, atSeq)) return undefined;
          value ??= Buffer.allocUnsafeSlow(reader.valueLength);
          reader.readValue(value, from, from, Math.min(PIECEWISE_BYTES_MIN, value.length - from));
        } finally {
          arena.unpin(slot);
        }
        await new Promise((resolve) => setImmediate(resolve));
        signal?.throwIfAborted();
        this.assertOpen();
      }
      return this.#isText ? value.toString('utf8') : value;
    } finally {
      if (held !== undefined) control.closeSnapshot(held.slot, slot);
    }
  }

  /** Values in the order of the keys, undefined where absent. Each is read by itself: for one state of all, read a snapshot. */
  getManySync(keys: readonly K[]): (V | undefined)[] {
    if (!Array.isArray(keys)) throw invalidArgument('getMany takes an array of keys');
    return keys.map((key) => this.getSync(key as K));
  }

  /** @see getManySync */
  async getMany(keys: readonly K[], options?: ReadOptions): Promise<(V | undefined)[]> {
    const signal = checkSignal(options);
    if (!Array.isArray(keys)) throw invalidArgument('getMany takes an array of keys');
    const values: (V | undefined)[] = [];
    for (const [index, key] of keys.entries()) {
      values.push(await this.get(key as K));
      if ((index & 1023) === 1023) {
        await new Promise((resolve) => setImmediate(resolve));
        signal?.throwIfAborted();
      }
    }
    return values;
  }

  /** Whether the key is there. */
  hasSync(key: K): boolean {
    return this.#versionSync(key) !== 0;
  }

  async has(key: K, options?: ReadOptions): Promise<boolean> {
    checkSignal(options);
    return await Promise.resolve(this.hasSync(key));
  }

  #versionSync(key: K): number {
    this.assertOpen();
    const length = this.keyEncoding.encode(key, this.scratch);
    const { arena, reader } = this.viewOf(length);
    const metaUnit = arena.pin(this.client.client);
    try {
      return reader.find(metaUnit, DEFAULT_TREE, this.scratch.bytes, length, this.readSeq) ? reader.seq : 0;
    } finally {
      arena.unpin(this.client.client);
    }
  }

  /** The entry with its version, or undefined. */
  getEntrySync(key: K): Entry<K, V> | undefined {
    this.assertOpen();
    const length = this.keyEncoding.encode(key, this.scratch);
    const { arena, reader } = this.viewOf(length);
    let raw: RawValue;
    let version: number;
    const metaUnit = arena.pin(this.client.client);
    try {
      if (!reader.find(metaUnit, DEFAULT_TREE, this.scratch.bytes, length, this.readSeq)) return undefined;
      version = reader.seq;
      raw = this.#isText ? reader.valueUtf8() : reader.copyValue();
    } finally {
      arena.unpin(this.client.client);
    }
    return { key, value: decodeRaw(raw, this.valueEncoding) as V, version };
  }

  async getEntry(key: K, options?: ReadOptions): Promise<Entry<K, V> | undefined> {
    checkSignal(options);
    return await Promise.resolve(this.getEntrySync(key));
  }

  /** The snapshot of the options, which must be one of this pool. @throws ERR_INVALID_ARG */
  #givenSnapshot(options: { readonly snapshot?: Snapshot<K, V> | undefined } | undefined): Snapshot<K, V> | undefined {
    const snapshot = options?.snapshot;
    if (snapshot === undefined) return undefined;
    if (!(snapshot instanceof Reads) || snapshot.client !== this.client) {
      throw invalidArgument('snapshot must be what snapshot() of this pool gave');
    }
    return snapshot;
  }

  // ---- ranges ---------------------------------------------------------------------------------------------------------------------------

  #plan<T>(
    options: IteratorOptions<K, V> | undefined,
    wantKeys: boolean,
    wantValues: boolean,
    entry: (key: unknown, value: unknown) => T,
  ): ScanPlan<T> {
    this.assertOpen();
    const range = options === undefined ? EMPTY_RANGE : encodeRange(options, this.keyEncoding);
    const snapshot = this.#givenSnapshot(options);
    const signal = options?.signal;
    if (signal !== undefined && !(signal instanceof AbortSignal))
      throw invalidArgument('signal must be an AbortSignal');
    return {
      client: this.client,
      keyEncoding: this.keyEncoding,
      valueEncoding: this.valueEncoding,
      range,
      reverse: options?.reverse ?? false,
      limit: isEmptyRange(range) ? 0 : checkLimit(options?.limit),
      wantKeys,
      wantValues,
      signal,
      atSeq: snapshot?.sequence ?? (this.readSeq === Infinity ? undefined : this.readSeq),
      assertOpen:
        snapshot === undefined
          ? () => {
              this.assertOpen();
            }
          : () => {
              snapshot.assertOpen();
            },
      entry,
    };
  }

  /** Entries in key order, as [key, value]. One consistent state over all shards; memory does not grow with the number of entries. */
  iterator(options?: IteratorOptions<K, V>): ConcordIterator<[K, V]> {
    return new ConcordIterator(this.#plan(options, true, true, (key, value): [K, V] => [key as K, value as V]));
  }

  /** Keys in order. */
  keys(options?: IteratorOptions<K, V>): ConcordIterator<K> {
    return new ConcordIterator(this.#plan(options, true, false, (key) => key as K));
  }

  /** Values in key order. */
  values(options?: IteratorOptions<K, V>): ConcordIterator<V> {
    return new ConcordIterator(this.#plan(options, false, true, (_, value) => value as V));
  }

  /** Entries in key order, in this thread, without a promise. Opening waits (blocking, < 1 ms) for groups that are being published. */
  iterateSync(options?: IteratorOptions<K, V>): ConcordSyncIterator<[K, V]> {
    return new ConcordSyncIterator(this.#plan(options, true, true, (key, value): [K, V] => [key as K, value as V]));
  }

  keysSync(options?: IteratorOptions<K, V>): ConcordSyncIterator<K> {
    return new ConcordSyncIterator(this.#plan(options, true, false, (key) => key as K));
  }

  [Symbol.asyncIterator](): ConcordIterator<[K, V]> {
    return this.iterator();
  }

  /** Number of entries; without a range, of the whole store, in constant time. */
  async count(
    options?: RangeOptions<K> & ReadOptions & { readonly snapshot?: Snapshot<K, V> | undefined },
  ): Promise<number> {
    const signal = checkSignal(options);
    this.assertOpen();
    const range = options === undefined ? EMPTY_RANGE : encodeRange(options, this.keyEncoding);
    if (isEmptyRange(range)) return 0;
    const given = this.#givenSnapshot(options);
    given?.assertOpen();
    const readSeq = given?.sequence ?? this.readSeq;
    if (range.low === undefined && range.high === undefined && readSeq === Infinity) {
      return this.liveEntries();
    }
    const { control, client: slot } = this.client;
    const held = readSeq === Infinity ? await control.openSnapshot(slot) : undefined;
    const atSeq = held?.sequence ?? readSeq;
    try {
      let count = 0;
      for (const { arena, cursor } of this.client.shards) {
        let resume = range.low;
        for (let more = true; more;) {
          const metaUnit = arena.pin(slot);
          try {
            cursor.seek(metaUnit, resume, resume?.length ?? 0, atSeq, false);
            let inPin = 0;
            for (; cursor.valid && inPin < COUNT_ENTRIES_PER_PIN; inPin++) {
              if (range.high !== undefined && cursor.compareKey(range.high, range.high.length) >= 0) break;
              count++;
              cursor.next();
            }
            more = cursor.valid && inPin === COUNT_ENTRIES_PER_PIN;
            if (more) {
              resume = Buffer.allocUnsafe(cursor.keyLength);
              cursor.copyKey(resume, 0);
            }
          } finally {
            arena.unpin(slot);
          }
          if (more) await new Promise((resolve) => setImmediate(resolve));
          signal?.throwIfAborted();
          this.assertOpen();
        }
      }
      return count;
    } finally {
      if (held !== undefined) control.closeSnapshot(held.slot, slot);
    }
  }

  protected liveEntries(): number {
    let entries = 0;
    for (const { arena } of this.client.shards) {
      const metaUnit = arena.pin(this.client.client);
      try {
        entries += treeCounts(arena, metaUnit, DEFAULT_TREE).liveEntries;
      } finally {
        arena.unpin(this.client.client);
      }
    }
    return entries;
  }
}

/** The signal of the options, not yet aborted. @throws AbortError, ERR_INVALID_ARG */
export function checkSignal(
  options: { readonly signal?: AbortSignal | undefined } | undefined,
): AbortSignal | undefined {
  if (options === undefined) return undefined;
  if (typeof options !== 'object' || options === null) throw invalidArgument('options must be an object');
  const { signal } = options;
  if (signal === undefined) return undefined;
  if (!(signal instanceof AbortSignal)) throw invalidArgument('signal must be an AbortSignal');
  signal.throwIfAborted();
  return signal;
}

export function closed(what: string): ConcordError {
  return new ConcordError('ERR_CLOSED', `the ${what} is closed`);
}
