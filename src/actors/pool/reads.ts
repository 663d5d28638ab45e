/**
 * The reading half of a space, shared by the space itself (newest state) and by snapshots (state at one sequence number).
 * Reads run in the caller's thread on shared memory: encode the key, pin, search, copy, unpin. Threads: the one that owns the client.
 */
import { KeyScratch, MAX_KEY_BYTES, type KeyEncodingName } from '../../shared/codec/key-encoding.js';
import { ConcordError, invalidArgument } from '../../shared/errors.js';
import { EXPIRY_SPACE_ID, engineCodeOfTag, engineOfCode } from '../../engines/engine.js';
import { COLD_ATTEMPTS_MAX, ColdReadError } from '../../engines/lsm/read/cold.js';
import type { SpaceView } from '../client/space-view.js';
import type { ThreadClient } from '../client/thread-client.js';
import { Counter } from '../metrics/board.js';
import type { SpaceMeter } from '../metrics/meters.js';
import { isTraced, traced } from '../metrics/tracing.js';
import { ConcordIterator, ConcordSyncIterator, decodeRaw, type ScanPlan } from './iterators.js';
import {
  checkLimit,
  encodeRange,
  isEmptyRange,
  type EncodedRange,
  type IteratorOptions,
  type RangeOptions,
} from './range.js';
import { ScanCursor, type RawValue } from './scan.js';
import type { AnySnapshot, Snapshot } from './snapshot.js';
import type { SpaceSource } from './source.js';

/** Values longer than this are read piece by piece by get(), with the event loop running in between. */
const PIECEWISE_BYTES_MIN = 1 << 20;
/** Of getMany(). A power of two below 1,024. */
const GETS_AT_ONCE = 64;
/** Entries counted under one pin. */
const COUNT_ENTRIES_PER_PIN = 4096;

export interface ReadOptions extends SyncReadOptions {
  readonly signal?: AbortSignal | undefined;
}

export interface SyncReadOptions {
  /** Reads this state instead of the newest one: a snapshot of the pool or of any of its spaces. */
  readonly snapshot?: AnySnapshot | undefined;
}

/** An entry with the version that put's `ifVersion` takes. */
export interface Entry<K, V> {
  readonly key: K;
  readonly value: V;
  /** Sequence number of the write: grows with every change of any key, survives restarts. */
  readonly version: number;
  /** When the entry ceases to be, ms since the epoch; not there if it never does. */
  readonly expiresAt?: number;
}

/** A line of the index of what expires: time, space, number, key. */
const KEY_BYTES_MAX = 16 + MAX_KEY_BYTES;
const EMPTY_RANGE: EncodedRange = { low: undefined, high: undefined };

/**
 * What a writer that died has locked is given free by the host, in whose thread this may be: its event loop comes round before the caller can try again. A
 * caller that tries again at once would keep it from that for ever.
 */
async function rethrowLater(error: unknown): Promise<never> {
  if (error instanceof ConcordError && error.code === 'ERR_OWNER_DIED') {
    await new Promise((resolve) => setImmediate(resolve));
  }
  throw error;
}

export abstract class Reads<K, V> {
  /** @internal */
  readonly source: SpaceSource;
  protected readonly client: ThreadClient;
  protected readonly scratch = new KeyScratch();

  constructor(source: SpaceSource) {
    this.source = source;
    this.client = source.client;
  }

  /** Infinity: the newest state. */
  protected abstract get readSeq(): number;
  /** Time by which expiry is judged, ms since the epoch; 0: that of each read. */
  protected abstract get readMs(): number;
  /** @throws ERR_CLOSED, ERR_SPACE_DROPPED */
  protected abstract assertOpen(): void;

  /** Empty: the pool's own. */
  protected get spaceName(): string {
    return this.source.name;
  }

  get keyEncodingName(): KeyEncodingName {
    return this.source.keyEncoding.name;
  }

  get valueEncodingName(): string {
    return this.source.valueEncoding.name;
  }

  /** For a read of the key whose `length` bytes are in the scratch. */
  #viewOf(length: number): SpaceView {
    const { source, scratch } = this;
    return this.readSeq === Infinity ? source.newestViewOf(scratch, length) : source.viewOf(scratch, length);
  }

  /** Before it, with the event loop running: undefined when nothing is to be waited for. The scratch may be another's after that. */
  #whenNewest(length: number): Promise<void> | undefined {
    return this.readSeq === Infinity ? this.source.whenNewest(this.scratch, length) : undefined;
  }

  /**
   * The value, copied from shared memory in this thread, or undefined. No message, no lock: about a microsecond.
   * @throws ERR_INVALID_ARG, ERR_KEY_TOO_LARGE, ERR_CLOSED, ERR_SPACE_DROPPED, ERR_DECODE, ERR_CORRUPT
   */
  getSync(key: K, options?: SyncReadOptions): V | undefined {
    if (options !== undefined) return this.#at(options).getSync(key);
    this.assertOpen();
    const { source, scratch } = this;
    const length = source.keyEncoding.encode(key, scratch);
    const view = this.#viewOf(length);
    if (!view.find(scratch.bytes, length, this.readSeq, this.readMs)) return undefined;
    let raw: RawValue;
    try {
      raw = source.isText ? view.reader.valueUtf8() : view.reader.copyValue();
    } finally {
      view.release();
    }
    return decodeRaw(raw, source.valueEncoding) as V;
  }

  /**
   * As getSync(), but the event loop runs while a file is read (of a space that is not all in memory), and values above 1 MiB are copied piece by piece.
   * @throws as getSync; AbortError
   */
  get(key: K, options?: ReadOptions): Promise<V | undefined> {
    if (!isTraced()) return this.#get(key, options);
    return traced({ operation: 'get', space: this.spaceName, key }, () => this.#get(key, options));
  }

  /**
   * Waits, with the event loop running, until what a read of the key needs is in memory; `cold` is what is missing. When true, `take` has been called while the
   * view stood at the entry: whoever waits for this promise comes later than others who wait for the same block, and they move the view.
   * @throws as getSync; AbortError
   */
  async #load(
    view: SpaceView,
    key: Buffer,
    cold: ColdReadError,
    signal: AbortSignal | undefined,
    take: () => void,
  ): Promise<boolean> {
    const taken = (isFound: boolean): boolean => {
      if (!isFound) return false;
      try {
        take();
      } finally {
        view.release();
      }
      return true;
    };
    let missing = cold;
    for (let attempt = 1; attempt < COLD_ATTEMPTS_MAX; attempt++) {
      await missing.load();
      signal?.throwIfAborted();
      this.assertOpen();
      const outcome = view.tryFind(key, key.length, this.readSeq, this.readMs, false);
      if (!(outcome instanceof ColdReadError)) return taken(outcome);
      missing = outcome;
    }
    // Others need the room as badly: this one waits for the file.
    return taken(view.findUncounted(key, key.length, this.readSeq, this.readMs));
  }

  /**
   * So that a synchronous read of the key which follows at once need not wait for a file. @throws as get()
   * `isNewest`: what was decided when it was called has been waited for. Once, for more may be decided all the time.
   */
  async #warm(key: K, signal: AbortSignal | undefined, isNewest = false): Promise<void> {
    if (this.source.pending !== undefined) await this.source.pending;
    const { source, scratch } = this;
    const mayBeCold = source.views.some((view) => view.mayBeCold);
    if (!mayBeCold && this.client.control.commits.isEmpty) return;
    this.assertOpen();
    const length = source.keyEncoding.encode(key, scratch);
    const newest = isNewest ? undefined : this.#whenNewest(length);
    if (newest !== undefined) {
      await newest;
      signal?.throwIfAborted();
      return this.#warm(key, signal, true);
    }
    if (!mayBeCold) return;
    const view = source.viewOf(scratch, length);
    const outcome = view.tryFind(scratch.bytes, length, this.readSeq, this.readMs, false);
    if (outcome instanceof ColdReadError) {
      await this.#load(view, Buffer.from(scratch.bytes.subarray(0, length)), outcome, signal, () => undefined);
    } else if (outcome) view.release();
  }

  /** `isNewest`: as of #warm(). */
  async #get(key: K, options?: ReadOptions, isNewest = false): Promise<V | undefined> {
    const signal = checkSignal(options);
    if (options?.snapshot !== undefined) return this.#at(options).#get(key, { signal });
    if (this.source.pending !== undefined) await this.source.pending;
    this.assertOpen();
    const { source, scratch } = this;
    const length = source.keyEncoding.encode(key, scratch);
    const newest = isNewest ? undefined : this.#whenNewest(length);
    if (newest !== undefined) {
      await newest;
      signal?.throwIfAborted();
      return this.#get(key, { signal }, true);
    }
    const view = source.viewOf(scratch, length);
    const readMs = this.readMs;
    let outcome: boolean | ColdReadError;
    try {
      outcome = view.mayBeCold
        ? view.tryFind(scratch.bytes, length, this.readSeq, readMs, true)
        : view.find(scratch.bytes, length, this.readSeq, readMs);
    } catch (error) {
      return rethrowLater(error);
    }
    let own: Buffer | undefined;
    let raw: RawValue | undefined;
    const take = (): void => {
      if (view.reader.valueLength < PIECEWISE_BYTES_MIN) {
        raw = source.isText ? view.reader.valueUtf8() : view.reader.copyValue();
      }
    };
    if (outcome instanceof ColdReadError) {
      own = Buffer.from(scratch.bytes.subarray(0, length));
      if (!(await this.#load(view, own, outcome, signal, take))) {
        view.meter.counts[Counter.Misses]!++;
        return undefined;
      }
    } else if (outcome) {
      try {
        take();
      } finally {
        view.release();
      }
    } else return undefined;
    if (raw === undefined) {
      own ??= Buffer.from(scratch.bytes.subarray(0, length));
      raw = await this.#readPiecewise(view, own, readMs, signal);
      if (raw === undefined) return undefined;
    }
    return decodeRaw(raw, source.valueEncoding) as V;
  }

  async #readPiecewise(
    view: SpaceView,
    key: Buffer,
    readMs: number,
    signal: AbortSignal | undefined,
  ): Promise<RawValue | undefined> {
    const { control, client: slot } = this.client;
    // Begun in time, it is read to its end.
    const atMs = readMs === 0 ? Date.now() : readMs;
    const held = this.readSeq === Infinity ? await control.openSnapshot(slot) : undefined;
    const atSeq = held?.sequence ?? this.readSeq;
    try {
      let value: Buffer | undefined;
      for (let from = 0; value === undefined || from < value.length; from += PIECEWISE_BYTES_MIN) {
        if (!view.findUncounted(key, key.length, atSeq, atMs)) return undefined;
        try {
          value ??= Buffer.allocUnsafeSlow(view.reader.valueLength);
          view.reader.readValue(value, from, from, Math.min(PIECEWISE_BYTES_MIN, value.length - from));
        } finally {
          view.release();
        }
        await new Promise((resolve) => setImmediate(resolve));
        signal?.throwIfAborted();
        this.assertOpen();
      }
      return this.source.isText ? value.toString('utf8') : value;
    } finally {
      if (held !== undefined) control.closeSnapshot(held.slot, slot);
    }
  }

  /** Values in the order of the keys, undefined where absent. Each is read by itself: for one state of all, read a snapshot. */
  getManySync(keys: readonly K[], options?: SyncReadOptions): (V | undefined)[] {
    if (!Array.isArray(keys)) throw invalidArgument('getMany takes an array of keys');
    const reads = this.#at(options);
    return keys.map((key) => reads.getSync(key as K));
  }

  /** @see getManySync */
  getMany(keys: readonly K[], options?: ReadOptions): Promise<(V | undefined)[]> {
    if (!isTraced()) return this.#getMany(keys, options);
    const context = { operation: 'getMany', space: this.spaceName, entries: countOf(keys) } as const;
    return traced(context, () => this.#getMany(keys, options));
  }

  async #getMany(keys: readonly K[], options?: ReadOptions): Promise<(V | undefined)[]> {
    const signal = checkSignal(options);
    if (!Array.isArray(keys)) throw invalidArgument('getMany takes an array of keys');
    const reads = this.#at(options);
    const values: (V | undefined)[] = [];
    // Some at a time, so that what must be read from files is read at once.
    for (let from = 0; from < keys.length; from += GETS_AT_ONCE) {
      const some: Promise<V | undefined>[] = [];
      for (let at = from; at < Math.min(keys.length, from + GETS_AT_ONCE); at++) some.push(reads.#get(keys[at] as K));
      for (const value of await Promise.all(some)) values.push(value);
      if ((from & 1023) === 1024 - GETS_AT_ONCE) {
        await new Promise((resolve) => setImmediate(resolve));
        signal?.throwIfAborted();
      }
    }
    return values;
  }

  /** Whether the key is there. */
  hasSync(key: K, options?: SyncReadOptions): boolean {
    if (options !== undefined) return this.#at(options).hasSync(key);
    this.assertOpen();
    const { source, scratch } = this;
    const length = source.keyEncoding.encode(key, scratch);
    const view = this.#viewOf(length);
    if (!view.find(scratch.bytes, length, this.readSeq, this.readMs)) return false;
    view.release();
    return true;
  }

  has(key: K, options?: ReadOptions): Promise<boolean> {
    if (!isTraced()) return this.#has(key, options);
    return traced({ operation: 'has', space: this.spaceName, key }, () => this.#has(key, options));
  }

  async #has(key: K, options?: ReadOptions): Promise<boolean> {
    const signal = checkSignal(options);
    try {
      await this.#at(options).#warm(key, signal);
      return this.hasSync(key, options);
    } catch (error) {
      return rethrowLater(error);
    }
  }

  /** The entry with its version and, if it expires, when; or undefined. */
  getEntrySync(key: K, options?: SyncReadOptions): Entry<K, V> | undefined {
    if (options !== undefined) return this.#at(options).getEntrySync(key);
    this.assertOpen();
    const { source, scratch } = this;
    const length = source.keyEncoding.encode(key, scratch);
    const view = this.#viewOf(length);
    if (!view.find(scratch.bytes, length, this.readSeq, this.readMs)) return undefined;
    let raw: RawValue;
    let version: number;
    let expiresAt: number;
    try {
      const { reader } = view;
      version = reader.seq;
      expiresAt = reader.expiresAt;
      raw = source.isText ? reader.valueUtf8() : reader.copyValue();
    } finally {
      view.release();
    }
    const value = decodeRaw(raw, source.valueEncoding) as V;
    return expiresAt === 0 ? { key, value, version } : { key, value, version, expiresAt };
  }

  getEntry(key: K, options?: ReadOptions): Promise<Entry<K, V> | undefined> {
    if (!isTraced()) return this.entryOf(key, options);
    return traced({ operation: 'getEntry', space: this.spaceName, key }, () => this.entryOf(key, options));
  }

  /** getEntry(), untraced. */
  protected async entryOf(key: K, options?: ReadOptions): Promise<Entry<K, V> | undefined> {
    const signal = checkSignal(options);
    try {
      await this.#at(options).#warm(key, signal);
      return this.getEntrySync(key, options);
    } catch (error) {
      return rethrowLater(error);
    }
  }

  /** Itself, or what the snapshot of the options sees of this space. @throws ERR_INVALID_ARG */
  #at(options: SyncReadOptions | undefined): Reads<K, V> {
    if (options === undefined) return this;
    if (typeof options !== 'object' || options === null) throw invalidArgument('options must be an object');
    const snapshot: unknown = options.snapshot;
    if (snapshot === undefined) return this;
    if (!(snapshot instanceof Reads) || snapshot.client !== this.client || !('readsOf' in snapshot)) {
      throw invalidArgument('snapshot must be what snapshot() of this pool gave');
    }
    return (snapshot as Snapshot<K, V>).readsOf<K, V>(this.source);
  }

  // ---- ranges ---------------------------------------------------------------------------------------------------------------------------

  #plan<T>(
    options: IteratorOptions<K> | undefined,
    wantKeys: boolean,
    wantValues: boolean,
    entry: (key: unknown, value: unknown) => T,
  ): ScanPlan<T> {
    const reads = this.#at(options);
    reads.assertOpen();
    const { source } = this;
    const range = options === undefined ? EMPTY_RANGE : encodeRange(options, source.keyEncoding);
    const signal = options?.signal;
    if (signal !== undefined && !(signal instanceof AbortSignal))
      throw invalidArgument('signal must be an AbortSignal');
    return {
      client: this.client,
      views: source.views,
      spaceName: () => this.spaceName,
      keyEncoding: source.keyEncoding,
      valueEncoding: source.valueEncoding,
      range,
      reverse: options?.reverse ?? false,
      limit: isEmptyRange(range) ? 0 : checkLimit(options?.limit),
      wantKeys,
      wantValues,
      signal,
      atSeq: reads.readSeq === Infinity ? undefined : reads.readSeq,
      atMs: reads.readMs,
      assertOpen: () => {
        reads.assertOpen();
      },
      entry,
    };
  }

  #iterator<T>(
    options: IteratorOptions<K> | undefined,
    wantKeys: boolean,
    wantValues: boolean,
    entry: (key: unknown, value: unknown) => T,
  ): ConcordIterator<T> {
    const plan = this.#plan(options, wantKeys, wantValues, entry);
    if (this.source.pending === undefined) return new ConcordIterator(plan);
    return new ConcordIterator(plan, () =>
      this.source.whenReady(() => Promise.resolve(this.#plan(options, wantKeys, wantValues, entry))),
    );
  }

  /** Entries in key order, as [key, value]. One consistent state over all shards; memory does not grow with the number of entries. */
  iterator(options?: IteratorOptions<K>): ConcordIterator<[K, V]> {
    return this.#iterator(options, true, true, (key, value): [K, V] => [key as K, value as V]);
  }

  /** Keys in order. */
  keys(options?: IteratorOptions<K>): ConcordIterator<K> {
    return this.#iterator(options, true, false, (key) => key as K);
  }

  /** Values in key order. */
  values(options?: IteratorOptions<K>): ConcordIterator<V> {
    return this.#iterator(options, false, true, (_, value) => value as V);
  }

  /** Entries in key order, in this thread, without a promise. Opening waits (blocking, < 1 ms) for groups that are being published. */
  iterateSync(options?: IteratorOptions<K>): ConcordSyncIterator<[K, V]> {
    return new ConcordSyncIterator(this.#plan(options, true, true, (key, value): [K, V] => [key as K, value as V]));
  }

  keysSync(options?: IteratorOptions<K>): ConcordSyncIterator<K> {
    return new ConcordSyncIterator(this.#plan(options, true, false, (key) => key as K));
  }

  [Symbol.asyncIterator](): ConcordIterator<[K, V]> {
    return this.iterator();
  }

  /**
   * Number of entries. Without a range, of the newest state, in constant time, unless entries that have expired wait to be removed or the engine does
   * not look for what a write replaces (lsm); otherwise by walking the range.
   */
  count(options?: RangeOptions<K> & ReadOptions): Promise<number> {
    if (!isTraced()) return this.#count(options);
    return traced({ operation: 'count', space: this.spaceName }, () => this.#count(options));
  }

  async #count(options?: RangeOptions<K> & ReadOptions): Promise<number> {
    const signal = checkSignal(options);
    if (this.source.pending !== undefined) await this.source.pending;
    const reads = this.#at(options);
    reads.assertOpen();
    const { source } = this;
    const range = options === undefined ? EMPTY_RANGE : encodeRange(options, source.keyEncoding);
    if (isEmptyRange(range)) return 0;
    const isNewest = reads.readSeq === Infinity;
    if (range.low === undefined && range.high === undefined && isNewest && !this.#holdsExpired()) {
      const counts = source.views.map((view) => view.counts());
      if (counts.every(({ tag }) => engineOfCode(engineCodeOfTag(tag)).countsExactly !== false)) {
        return counts.reduce((sum, { liveEntries }) => sum + liveEntries, 0);
      }
    }
    const { control, client: slot } = this.client;
    const held = isNewest ? await control.openSnapshot(slot) : undefined;
    const atSeq = held?.sequence ?? reads.readSeq;
    const atMs = reads.readMs === 0 ? Date.now() : reads.readMs;
    source.views[0]!.meter.counts[Counter.Scans]!++;
    try {
      let count = 0;
      for (const view of source.views) {
        const counter = new RangeCounter(view, range, atSeq, atMs);
        while (!counter.countSome()) {
          await new Promise((resolve) => setImmediate(resolve));
          signal?.throwIfAborted();
          reads.assertOpen();
        }
        count += counter.count;
      }
      return count;
    } finally {
      if (held !== undefined) control.closeSnapshot(held.slot, slot);
    }
  }

  /** Whether entries, of whatever space, have expired and are still counted. */
  #holdsExpired(): boolean {
    const now = Date.now();
    return this.client.viewsOf(EXPIRY_SPACE_ID).some((view) => {
      if (view.counts().liveEntries === 0) return false;
      return view.untilFresh((metaUnit) => {
        const { cursor } = view;
        const first = Buffer.alloc(KEY_BYTES_MAX);
        try {
          // The index begins with what expires first: its keys begin with the time, in 48 bits.
          if (!cursor.seek(metaUnit, undefined, 0, Infinity, false, 0)) return false;
          cursor.copyKey(first, 0);
        } finally {
          cursor.release();
          view.release();
        }
        return first.readUIntBE(0, 6) <= now;
      });
    });
  }
}

/** Counts the entries of a range in one shard, a stretch at a time. */
class RangeCounter {
  count = 0;
  readonly #range: EncodedRange;
  readonly #atSeq: number;
  readonly #atMs: number;
  readonly #cursor: ScanCursor;
  readonly #meter: SpaceMeter;
  #resume: Buffer | undefined;

  constructor(view: SpaceView, range: EncodedRange, atSeq: number, atMs: number) {
    this.#range = range;
    this.#atSeq = atSeq;
    this.#atMs = atMs;
    this.#cursor = new ScanCursor(view, range);
    this.#meter = view.meter;
    this.#resume = range.low;
  }

  /** True when nothing is left. */
  countSome(): boolean {
    const { high } = this.#range;
    const startedMs = performance.now();
    const before = this.count;
    const isLast = this.#cursor.read((cursor, metaUnit) => {
      const resume = this.#resume;
      cursor.seek(metaUnit, resume, resume?.length ?? 0, this.#atSeq, false, this.#atMs);
      let inPin = 0;
      for (; cursor.valid && inPin < COUNT_ENTRIES_PER_PIN; inPin++) {
        if (high !== undefined && cursor.compareKey(high, high.length) >= 0) break;
        cursor.next();
      }
      const more = cursor.valid && inPin === COUNT_ENTRIES_PER_PIN;
      if (more) {
        this.#resume = Buffer.allocUnsafe(cursor.keyLength);
        cursor.copyKey(this.#resume, 0);
      }
      this.count += inPin;
      return !more;
    });
    this.#meter.chunkTook(performance.now() - startedMs, this.count - before);
    return isLast;
  }
}

/** Of what a caller gave; undefined if it is no array, which will be refused. */
export function countOf(list: unknown): number {
  return Array.isArray(list) ? list.length : 0;
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
