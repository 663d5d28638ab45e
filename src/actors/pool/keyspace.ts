/**
 * A keyspace: the reading and the writing half of a space, the pool's own or a named one.
 *
 * Writes go to the shard that owns the key and resolve when they are as durable as asked, and visible. Writes of one thread to one key take effect in
 * the order of the calls. The same key is on the same shard in every space, so what belongs together can share a batch.
 * Threads: an instance belongs to the thread that made it.
 */
import { encodedBytesMax, encodedToBytes, writeEncoded } from '../../shared/codec/value-encoding.js';
import { ConcordError, invalidArgument } from '../../shared/errors.js';
import { hashBytes } from '../../shared/hash.js';
import {
  BATCH_INLINE_MAX_BYTES,
  BLOB_MIN_BYTES,
  CLEAR_HAS_HIGH,
  CLEAR_HAS_LOW,
  MAX_BATCH_BYTES,
  MAX_VALUE_BYTES,
  OPERATION_EXTENDED,
  OPERATION_EXTENSION_BYTES,
  OPERATION_HEADER_BYTES,
  OPERATION_JOINED,
  OperationKind,
  operationBytes,
  operationKeyAt,
  readKeyLength,
  readValueLength,
  writeOperationExtension,
  writeOperationHeader,
} from '../../engines/operation.js';
import { BatchSpaces } from './batch-spaces.js';
import { KeyFilter, newRequest, type ShardLink } from '../client/shard-link.js';
import type { SpaceView } from '../client/space-view.js';
import { Counter } from '../metrics/board.js';
import type { SpaceMeter } from '../metrics/meters.js';
import { isTraced, traced, tracedSync, type OperationContext, type TracedOperation } from '../metrics/tracing.js';
import { Condition, REQUEST_HEADER_BYTES, RequestType, writeRequestHeader } from '../shard/request.js';
import { durabilityLevel, type DurabilityName } from './options.js';
import { encodeRange, isEmptyRange, type RangeOptions } from './range.js';
import { Reads, checkSignal, countOf } from './reads.js';
import { Snapshot } from './snapshot.js';
import type { SpaceSource } from './source.js';
import type { BeginOptions, TransactionOptions } from '../transaction/options.js';
import type { BlindWrite, Transaction } from '../transaction/transaction.js';

export interface WriteOptions {
  /** Overrides the store's default for this call. */
  readonly durability?: DurabilityName | undefined;
  /** Rejects with AbortError while the call still waits for room; a call the shard has is not taken back. */
  readonly signal?: AbortSignal | undefined;
}

export interface TtlOptions {
  /** The entry ceases to be after so many milliseconds. Default: never. */
  readonly ttlMs?: number | undefined;
}

export interface PutOptions extends WriteOptions, TtlOptions {
  /** Only if the key is absent (an expired entry is); otherwise nothing happens and the promise resolves to false. */
  readonly ifAbsent?: boolean | undefined;
  /** Only if the entry has this version (0: is absent); otherwise nothing happens and the promise resolves to false. */
  readonly ifVersion?: number | undefined;
}

export interface DelOptions extends WriteOptions {
  readonly ifVersion?: number | undefined;
}

/** On the space whose batch() is called. */
export type BatchOperation<K, V> =
  | { readonly type: 'put'; readonly key: K; readonly value: V; readonly ttlMs?: number | undefined }
  | { readonly type: 'del'; readonly key: K };

/** On the space it names: one of the pool, the pool's own (by the pool itself), or a name the store knows. */
export type SpaceBatchOperation = BatchOperation<unknown, unknown> & { readonly space: AnySpace | string };

/** A pool or a space, whatever its types. */
export interface AnySpace {
  /** @internal */
  readonly source: SpaceSource;
}

/** A range of this space's keys; without bounds, all of all spaces. */
export interface CompactOptions<K> extends RangeOptions<K> {
  /** Ends it; what has been merged stays merged. */
  readonly signal?: AbortSignal | undefined;
}

/** By this thread: they tell one from another. */
let compactions = 0;

/** How often update() tries again after losing to other writers. */
const UPDATE_ATTEMPTS_MAX = 1000;
/** Where batches of this thread are put together; each is copied before the next one begins. A batch that does not fit has memory of its own. */
const BATCH_SCRATCH_BYTES = BATCH_INLINE_MAX_BYTES + 64 * 1024;
let batchScratch: Buffer | undefined;
/** Times are 48 bits. */
const EXPIRES_AT_MAX = 2 ** 48 - 1;

/** What a request is to be put together from, beside key and value. */
interface WriteShape {
  readonly level: number;
  readonly condition: number;
  readonly version: number;
  readonly spaceId: number;
  /** 0: never. */
  readonly expiresAt: number;
}

export abstract class Keyspace<K, V> extends Reads<K, V> implements AnySpace {
  protected get readSeq(): number {
    return Infinity;
  }

  protected get readMs(): number {
    return 0;
  }

  protected assertOpen(): void {
    this.source.assertUsable();
  }

  // ---- writes ---------------------------------------------------------------------------------------------------------------------------

  /**
   * Sets the value. Resolves true when the write is durable as asked and visible to every thread; false if a condition did not hold.
   * When the shard is behind, the call waits its turn. Bytes above 64 KiB must not be changed until the promise settles.
   * @throws ERR_INVALID_ARG, ERR_KEY_TOO_LARGE, ERR_VALUE_TOO_LARGE, ERR_CLOSED, ERR_SPACE_DROPPED, ERR_READ_ONLY, ERR_MEMORY_FULL, ERR_DISK_FULL,
   *   ERR_IO, ERR_LOCK_TIMEOUT, ERR_BUSY, ERR_SHARD_RESTARTED (outcome unknown), ERR_SHARD_FAILED; AbortError
   */
  put(key: K, value: V, options?: PutOptions): Promise<boolean> {
    if (!isTraced()) return this.#putNow(key, value, options);
    return traced(this.#contextOf('put', options, { key }), () => this.#putNow(key, value, options));
  }

  #contextOf(operation: TracedOperation, options: unknown, more?: Partial<OperationContext>): OperationContext {
    const durability = (options as WriteOptions | null | undefined)?.durability ?? this.source.core.settings.durability;
    return { operation, space: this.spaceName, durability, ...more };
  }

  #putNow(key: K, value: V, options: PutOptions | undefined): Promise<boolean> {
    try {
      const { source } = this;
      if (source.pending !== undefined) return source.whenReady(() => this.#putNow(key, value, options));
      source.assertUsable();
      let { level } = source.core;
      let condition: number = Condition.None;
      let version = 0;
      let expiresAt = 0;
      let signal: AbortSignal | undefined;
      if (options !== undefined) {
        signal = checkSignal(options);
        if (options.durability !== undefined) level = durabilityLevel(options.durability);
        if (options.ifVersion !== undefined) {
          version = checkVersion(options.ifVersion);
          condition = Condition.IfVersion;
        }
        if (options.ifAbsent === true) {
          if (condition !== Condition.None) throw invalidArgument('ifAbsent and ifVersion exclude each other');
          condition = Condition.IfAbsent;
        }
        if (options.ttlMs !== undefined) expiresAt = expiresAfter(options.ttlMs);
      }
      return this.#put(key, value, level, condition, version, expiresAt, signal);
    } catch (error) {
      return Promise.reject(error);
    }
  }

  #put(
    key: K,
    value: V,
    level: number,
    condition: number,
    version: number,
    expiresAt: number,
    signal: AbortSignal | undefined,
  ): Promise<boolean> {
    const { source, scratch } = this;
    const encoded = source.valueEncoding.encode(value);
    const length = source.keyEncoding.encode(key, scratch);
    const view = source.viewOf(scratch, length);
    const link = this.#writable(view);
    const { meter } = view;
    const { spaceId } = source;
    const bytesOfKey = scratch.bytes;
    const hash = hashBytes(bytesOfKey, 0, length);
    let valueBytes = encodedBytesMax(encoded);
    if (valueBytes > BLOB_MIN_BYTES) {
      const bytes = typeof encoded === 'string' ? encodedToBytes(encoded) : encoded;
      if (bytes.length > MAX_VALUE_BYTES) throw valueTooLarge(bytes.length);
      const own = Buffer.from(bytesOfKey.subarray(0, length));
      const byteCount = bytes.length;
      const blob = { kind: 'value' as const, bytes, byteCount, count: 0, key: own, spaceId, expiresAt };
      const sinceMs = performance.now();
      meter.counts[Counter.Puts]!++;
      return link.inOrder(own, hash, () =>
        link.submitBlob(blob, level, condition, version, hash, signal, meter, sinceMs),
      );
    }
    meter.counts[Counter.Puts]!++;
    if (link.mustWait(bytesOfKey, length, hash)) {
      const own = Buffer.from(bytesOfKey.subarray(0, length));
      const shape = { level, condition, version, spaceId, expiresAt };
      const request = putRequest(own, encodedToBytes(encoded), hash, shape);
      const sinceMs = performance.now();
      return link.inOrder(own, hash, () => sendRequest(link, request, signal, meter, sinceMs));
    }
    const extensionBytes = extensionBytesOf(spaceId, expiresAt);
    const recordBytesMax = operationBytes(length, valueBytes, extensionBytes);
    const at = link.reserve(recordBytesMax);
    if (at < 0) {
      const shape = { level, condition, version, spaceId, expiresAt };
      const request = putRequest(bytesOfKey.subarray(0, length), encodedToBytes(encoded), hash, shape);
      return link.enqueue(request, signal, meter);
    }
    const { bytes, words } = link.requests;
    writeRequestHeader(bytes, words, at, RequestType.Operation, level, condition, hash, version);
    const start = at + REQUEST_HEADER_BYTES;
    const keyStart = start + OPERATION_HEADER_BYTES + extensionBytes;
    // The last word is zeroed first: it may hold padding.
    words[(start + recordBytesMax - 4) >> 2] = 0;
    for (let i = 0; i < length; i++) bytes[keyStart + i] = bytesOfKey[i]!;
    const written = writeEncoded(encoded, bytes, keyStart + length);
    if (written !== valueBytes) {
      valueBytes = written;
      const recordBytes = operationBytes(length, written, extensionBytes);
      for (let pad = keyStart + length + written; pad < start + recordBytes; pad++) bytes[pad] = 0;
      link.requests.shrink(at, REQUEST_HEADER_BYTES + recordBytes);
    }
    writeHead(bytes, start, OperationKind.Put, length, valueBytes, spaceId, expiresAt);
    return link.submit(meter);
  }

  /** The link of a shard that takes writes. @throws ERR_CLOSED, ERR_SHARD_FAILED, ERR_READ_ONLY */
  #writable({ line: { link } }: SpaceView): ShardLink {
    this.client.assertWritable(link.shard);
    if (this.source.core.settings.readOnly) throw new ConcordError('ERR_READ_ONLY', 'the store was opened read-only');
    return link;
  }

  #levelOf(options: WriteOptions | undefined): number {
    return options?.durability === undefined ? this.source.core.level : durabilityLevel(options.durability);
  }

  /** Removes the key; true also if it was not there, false if `ifVersion` did not hold. @throws as put */
  del(key: K, options?: DelOptions): Promise<boolean> {
    if (!isTraced()) return this.#delNow(key, options);
    return traced(this.#contextOf('del', options, { key }), () => this.#delNow(key, options));
  }

  #delNow(key: K, options: DelOptions | undefined): Promise<boolean> {
    try {
      const { source, scratch } = this;
      if (source.pending !== undefined) return source.whenReady(() => this.#delNow(key, options));
      source.assertUsable();
      const signal = checkSignal(options);
      const level = this.#levelOf(options);
      const version = options?.ifVersion === undefined ? 0 : checkVersion(options.ifVersion);
      const condition = options?.ifVersion === undefined ? Condition.None : Condition.IfVersion;
      const length = source.keyEncoding.encode(key, scratch);
      const view = source.viewOf(scratch, length);
      const link = this.#writable(view);
      const bytesOfKey = scratch.bytes;
      const hash = hashBytes(bytesOfKey, 0, length);
      const { spaceId } = source;
      const { meter } = view;
      meter.counts[Counter.Deletes]!++;
      if (link.mustWait(bytesOfKey, length, hash)) {
        const own = Buffer.from(bytesOfKey.subarray(0, length));
        const request = delRequest(own, hash, level, condition, version, spaceId);
        const sinceMs = performance.now();
        return link.inOrder(own, hash, () => sendRequest(link, request, signal, meter, sinceMs));
      }
      const recordBytes = operationBytes(length, 0, extensionBytesOf(spaceId, 0));
      const at = link.reserve(recordBytes);
      if (at < 0) {
        const own = bytesOfKey.subarray(0, length);
        return link.enqueue(delRequest(own, hash, level, condition, version, spaceId), signal, meter);
      }
      const { bytes, words } = link.requests;
      writeRequestHeader(bytes, words, at, RequestType.Operation, level, condition, hash, version);
      const start = at + REQUEST_HEADER_BYTES;
      // The last word may hold padding.
      words[(start + recordBytes - 4) >> 2] = 0;
      const keyStart = writeHead(bytes, start, OperationKind.Delete, length, 0, spaceId, 0);
      for (let i = 0; i < length; i++) bytes[keyStart + i] = bytesOfKey[i]!;
      return link.submit(meter);
    } catch (error) {
      return Promise.reject(error);
    }
  }

  /**
   * Atomic read-modify-write: `change` gets the value (undefined if absent or expired) and returns the new one (undefined: delete). It runs in this
   * thread, and again if another writer came between. Resolves with what is stored. Without ttlMs an entry that expires keeps its time.
   * @throws what `change` throws; ERR_CONFLICT after 1,000 attempts; as put
   */
  update(
    key: K,
    change: (value: V | undefined) => V | undefined | Promise<V | undefined>,
    options?: WriteOptions & TtlOptions,
  ): Promise<V | undefined> {
    if (!isTraced()) return this.#update(key, change, options);
    return traced(this.#contextOf('update', options, { key }), () => this.#update(key, change, options));
  }

  async #update(
    key: K,
    change: (value: V | undefined) => V | undefined | Promise<V | undefined>,
    options: (WriteOptions & TtlOptions) | undefined,
  ): Promise<V | undefined> {
    if (typeof change !== 'function') throw invalidArgument('update takes a function');
    const signal = checkSignal(options);
    const level = this.#levelOf(options);
    const ttlMs = options?.ttlMs;
    if (ttlMs !== undefined) expiresAfter(ttlMs);
    for (let attempt = 0; attempt < UPDATE_ATTEMPTS_MAX; attempt++) {
      signal?.throwIfAborted();
      const entry = await this.entryOf(key);
      const value = await change(entry?.value);
      const version = entry?.version ?? 0;
      if (value === undefined) {
        if (version === 0 || (await this.#delNow(key, { ...options, ifVersion: version }))) return undefined;
      } else {
        const expiresAt = ttlMs === undefined ? (entry?.expiresAt ?? 0) : expiresAfter(ttlMs);
        if (await this.#put(key, value, level, Condition.IfVersion, version, expiresAt, signal)) return value;
      }
    }
    throw new ConcordError(
      'ERR_CONFLICT',
      `update gave up after ${UPDATE_ATTEMPTS_MAX} attempts: the key changes too often`,
    );
  }

  /**
   * Runs the function with a transaction on this space (tx.space() gives others), and commits when it returns or its promise resolves; rolls back when it
   * throws, and rethrows that. After a conflict, a deadlock, or a lock that was not granted in time, it is run again, `retries` times at most (default 10): it
   * should do nothing else that cannot be done twice. Resolves with what it returned. docs/transactions.md says what each isolation allows.
   * @throws ERR_INVALID_ARG, ERR_CONFLICT, ERR_DEADLOCK, ERR_LOCK_TIMEOUT, ERR_BUSY, ERR_TRANSACTION_TIMEOUT, ERR_TRANSACTION_TOO_LARGE,
   *   ERR_TRANSACTION_READ_ONLY, ERR_CLOSED; as put (ERR_SHARD_RESTARTED, ERR_IO, ERR_SHARD_FAILED: outcome unknown); the reason of the signal
   */
  transaction<T>(fn: (tx: Transaction<K, V>) => T | Promise<T>, options?: TransactionOptions): Promise<T> {
    const { source } = this;
    const { transactions } = source.core;
    if (!isTraced()) return transactions.run<K, V, T>(source, fn, options);
    return traced(this.#contextOf('transaction', options), () => transactions.run<K, V, T>(source, fn, options));
  }

  /**
   * A transaction on this space that the caller commits or rolls back: `await using tx = db.begin()` rolls back what is left open. It counts among the
   * transactions of the thread, but does not wait for a place, and is not tried again. Its time (`timeoutMs`) runs from this call on.
   * @throws ERR_INVALID_ARG, ERR_CLOSED, ERR_SPACE_DROPPED; the reason of a signal that was aborted before
   */
  begin(options?: BeginOptions): Transaction<K, V> {
    const { source } = this;
    const { transactions } = source.core;
    if (!isTraced()) return transactions.begin<K, V>(source, options);
    return tracedSync(this.#contextOf('begin', options), () => transactions.begin<K, V>(source, options));
  }

  /**
   * Applies all operations or none, at once, whatever their spaces and shards. An operation is on this space, or on the one it names; of several on
   * one key the last one counts.
   * @throws ERR_BATCH_TOO_LARGE, ERR_TRANSACTION_TOO_LARGE (over several shards), ERR_SPACE_NOT_FOUND; as put
   */
  batch(operations: readonly (BatchOperation<K, V> | SpaceBatchOperation)[], options?: WriteOptions): Promise<void> {
    if (!isTraced()) return this.#batch(operations, options);
    const context = this.#contextOf('batch', options, { entries: countOf(operations) });
    return traced(context, () => this.#batch(operations, options));
  }

  async #batch(
    operations: readonly (BatchOperation<K, V> | SpaceBatchOperation)[],
    options: WriteOptions | undefined,
  ): Promise<void> {
    const signal = checkSignal(options);
    this.source.core.assertOpen();
    if (!Array.isArray(operations)) throw invalidArgument('batch takes an array of operations');
    if (operations.length === 0) return;
    const level = this.#levelOf(options);
    const own = operations as readonly (BatchOperation<K, V> | SpaceBatchOperation)[];
    const spaces = this.#spacesOf(own);
    const missing = spaces.distinct.find(({ pending }) => pending !== undefined);
    if (missing !== undefined) return missing.whenReady(() => this.#batch(operations, options));
    for (const source of spaces.distinct) source.assertUsable();
    const encoded = this.#encodeBatch(own, spaces);
    if (encoded === undefined) {
      const writes = this.#encodeEach(own, spaces);
      await this.#inOrder(writes, spaces, () => this.source.core.transactions.writeAll(writes, spaces, level, signal));
      this.source.views[0]!.meter.counts[Counter.Batches]!++;
      return;
    }
    const { records, link } = encoded;
    const sinceMs = performance.now();
    const { meter } = this.source.views[0]!;
    meter.counts[Counter.Batches]!++;
    for (let index = 0; index < own.length; index++) {
      const { counts } = spaces.at(index).views[0]!.meter;
      counts[own[index]!.type === 'put' ? Counter.Puts : Counter.Deletes]!++;
    }
    if (records.length > BATCH_INLINE_MAX_BYTES) {
      const blob = {
        kind: 'batch' as const,
        bytes: records.buffer === batchScratch?.buffer ? Buffer.from(records) : records,
        byteCount: records.length,
        count: operations.length,
        key: Buffer.alloc(0),
        spaceId: 0,
        expiresAt: 0,
      };
      await link.inOrderOfAll(keysOfRecords(records), () =>
        link.submitBlob(blob, level, Condition.None, 0, 0, signal, meter, sinceMs),
      );
      return;
    }
    const isWaiting = link.isWaiting;
    const at = isWaiting ? -1 : link.reserve(records.length);
    if (at >= 0) {
      const { bytes, words } = link.requests;
      writeRequestHeader(bytes, words, at, RequestType.Batch, level, Condition.None, operations.length, 0);
      bytes.set(records, at + REQUEST_HEADER_BYTES);
      await link.submit(meter, sinceMs);
      return;
    }
    const request = newRequest(records.length, level, Condition.None, operations.length, 0, RequestType.Batch);
    request.set(records, REQUEST_HEADER_BYTES);
    const send = (): Promise<boolean> => sendRequest(link, request, signal, meter, sinceMs);
    await (isWaiting ? link.inOrderOfAll(keysOfRecords(records), send) : send());
  }

  /** A batch over several shards comes after the calls this thread made before it for the same keys, and before those it makes later. */
  #inOrder(writes: readonly BlindWrite[], spaces: BatchSpaces, run: () => Promise<void>): Promise<void> {
    const filters = new Map<ShardLink, KeyFilter>();
    for (const [index, { hash }] of writes.entries()) {
      const { link } = spaces.at(index).viewOfHash(hash).line;
      let filter = filters.get(link);
      if (filter === undefined) filters.set(link, (filter = new KeyFilter()));
      filter.add(hash);
    }
    let settle!: () => void;
    const done = new Promise<void>((resolve) => (settle = resolve));
    const before = [...filters].flatMap(([link, keys]) => link.holdBack(keys, done));
    const running = before.length === 0 ? run() : Promise.all(before).then(run);
    return running.finally(settle);
  }

  /** The space of each operation. @throws ERR_INVALID_ARG, ERR_SPACE_NOT_FOUND */
  #spacesOf(operations: readonly unknown[]): BatchSpaces {
    const { source: own } = this;
    let each: SpaceSource[] | undefined;
    for (let index = 0; index < operations.length; index++) {
      const space: unknown = (operations[index] as Partial<SpaceBatchOperation> | undefined)?.space;
      if (space === undefined) {
        each?.push(own);
        continue;
      }
      each ??= new Array<SpaceSource>(index).fill(own);
      each.push(this.#spaceNamed(space));
    }
    return new BatchSpaces(own, each);
  }

  #spaceNamed(space: unknown): SpaceSource {
    if (typeof space === 'string') return this.source.core.space(space, { createIfMissing: false }).source;
    if (!(space instanceof Keyspace) || space.client !== this.client)
      throw invalidArgument('space must be a space of this pool, or the name of one');
    return space.source;
  }

  /** The records are good until the next call: they may stand in the scratch buffer. undefined: the keys live on several shards. */
  #encodeBatch(
    operations: readonly (BatchOperation<unknown, unknown> | SpaceBatchOperation)[],
    spaces: BatchSpaces,
  ): { records: Buffer; link: ShardLink } | undefined {
    const { scratch } = this;
    // Out of reach while values are encoded: an encoding of the caller's own may come back here.
    const kept = batchScratch ?? Buffer.allocUnsafeSlow(BATCH_SCRATCH_BYTES);
    batchScratch = undefined;
    let records = kept;
    let end = 0;
    let link: ShardLink | undefined;
    let lastAt = -1;
    for (let index = 0; index < operations.length; index++) {
      const operation = operations[index]!;
      checkOperation(operation);
      const source = spaces.at(index);
      const encoded = operation.type === 'put' ? source.valueEncoding.encode(operation.value) : '';
      const expiresAt = operation.type === 'put' && operation.ttlMs !== undefined ? expiresAfter(operation.ttlMs) : 0;
      const length = source.keyEncoding.encode(operation.key, scratch);
      const view = source.viewOf(scratch, length);
      const owner = view.line.link;
      if (owner !== link) this.#writable(view);
      link ??= owner;
      if (owner !== link) {
        batchScratch = kept;
        return undefined;
      }
      const extensionBytes = extensionBytesOf(source.spaceId, expiresAt);
      const recordBytesMax = operationBytes(length, encodedBytesMax(encoded), extensionBytes);
      if (encodedBytesMax(encoded) > 3 * MAX_VALUE_BYTES) throw valueTooLarge(encodedBytesMax(encoded));
      if (end + recordBytesMax > records.length) {
        const grown = Buffer.allocUnsafeSlow(Math.max(records.length * 2, end + recordBytesMax));
        records.copy(grown, 0, 0, end);
        records = grown;
      }
      const keyStart = end + OPERATION_HEADER_BYTES + extensionBytes;
      for (let byte = 0; byte < length; byte++) records[keyStart + byte] = scratch.bytes[byte]!;
      const valueBytes = writeEncoded(encoded, records, keyStart + length);
      if (valueBytes > MAX_VALUE_BYTES) throw valueTooLarge(valueBytes);
      const kind = operation.type === 'put' ? OperationKind.Put : OperationKind.Delete;
      writeHead(records, end, kind, length, valueBytes, source.spaceId, expiresAt);
      if (lastAt >= 0) records[lastAt + 1]! |= OPERATION_JOINED;
      lastAt = end;
      let paddingAt = keyStart + length + valueBytes;
      end += operationBytes(length, valueBytes, extensionBytes);
      while (paddingAt < end) records[paddingAt++] = 0;
      if (end > MAX_BATCH_BYTES) {
        throw new ConcordError('ERR_BATCH_TOO_LARGE', `a batch holds at most ${MAX_BATCH_BYTES} bytes`, {
          limitBytes: MAX_BATCH_BYTES,
        });
      }
    }
    batchScratch = kept;
    return { records: records.subarray(0, end), link: link! };
  }

  /** Each operation by itself: what the caller does with keys and values later changes nothing. @throws ERR_INVALID_ARG; as put */
  #encodeEach(
    operations: readonly (BatchOperation<unknown, unknown> | SpaceBatchOperation)[],
    spaces: BatchSpaces,
  ): BlindWrite[] {
    const { scratch } = this;
    return operations.map((operation, index) => {
      checkOperation(operation);
      const source = spaces.at(index);
      let value: string | Buffer | undefined;
      let expiresAt = 0;
      if (operation.type === 'put') {
        const encoded = source.valueEncoding.encode(operation.value);
        value = typeof encoded === 'string' ? encoded : Buffer.from(encoded);
        if (operation.ttlMs !== undefined) expiresAt = expiresAfter(operation.ttlMs);
      }
      const length = source.keyEncoding.encode(operation.key, scratch);
      const key = Buffer.from(scratch.bytes.subarray(0, length));
      return { key, hash: hashBytes(key, 0, length), value, expiresAt };
    });
  }

  /**
   * Removes a range, or everything. Not one change: it goes in slices, so that other callers pass between them; a snapshot taken before still
   * sees all of it. Calls this thread makes later come after it. @throws as put
   */
  clear(options: RangeOptions<K> & WriteOptions = {}): Promise<void> {
    if (!isTraced()) return this.#clear(options);
    return traced(this.#contextOf('clear', options), () => this.#clear(options));
  }

  async #clear(options: RangeOptions<K> & WriteOptions): Promise<void> {
    const { source } = this;
    if (source.pending !== undefined) return source.whenReady(() => this.#clear(options));
    const signal = checkSignal(options);
    source.assertUsable();
    const level = this.#levelOf(options);
    const range = encodeRange(options, source.keyEncoding);
    if (isEmptyRange(range)) return;
    source.views[0]!.meter.counts[Counter.Clears]!++;
    const low = range.low ?? Buffer.alloc(0);
    const high = range.high ?? Buffer.alloc(0);
    const flags = (range.low === undefined ? 0 : CLEAR_HAS_LOW) | (range.high === undefined ? 0 : CLEAR_HAS_HIGH);
    const { spaceId } = source;
    const recordBytes = operationBytes(low.length, high.length, extensionBytesOf(spaceId, 0));
    await Promise.all(
      source.views.map(async (view) => {
        const link = this.#writable(view);
        const request = newRequest(recordBytes, level, 0, 0, 0, RequestType.Clear);
        const at = REQUEST_HEADER_BYTES;
        const keyStart = writeHead(request, at, OperationKind.ClearRange, low.length, high.length, spaceId, 0, flags);
        request.set(low, keyStart);
        request.set(high, keyStart + low.length);
        const send = (): Promise<boolean> => sendRequest(link, request, signal);
        await (link.isWaiting ? link.inOrderOfAll(undefined, send) : send());
      }),
    );
  }

  /** Everything acknowledged before, in any space, at any level and by any thread, is on disk when it resolves. @throws ERR_IO, ERR_DISK_FULL, ERR_CLOSED */
  flush(): Promise<void> {
    if (!isTraced()) return this.#flush();
    return traced({ operation: 'flush', space: this.spaceName }, () => this.#flush());
  }

  async #flush(): Promise<void> {
    if (this.source.pending !== undefined) await this.source.pending;
    await Promise.all(
      this.client.shards.map(async ({ link }) => {
        this.client.assertWritable(link.shard);
        if (this.source.core.settings.readOnly) return;
        await link.whenSent();
        await sendRequest(link, newRequest(0, 0, 0, 0, 0, RequestType.Flush), undefined);
      }),
    );
  }

  /** One state of the whole store, over all shards and spaces; it reads this space. @throws ERR_SNAPSHOT_LIMIT, ERR_CLOSED, ERR_TIMEOUT */
  snapshot(): Promise<Snapshot<K, V>> {
    if (!isTraced()) return this.#snapshot();
    return traced({ operation: 'snapshot', space: this.spaceName }, () => this.#snapshot());
  }

  async #snapshot(): Promise<Snapshot<K, V>> {
    const { source } = this;
    if (source.pending !== undefined) await source.pending;
    source.assertUsable();
    return new Snapshot<K, V>(source, await this.client.control.openSnapshot(this.client.client));
  }

  /**
   * Drops versions no snapshot needs and packs thin pages, in all spaces, while the store is used; LSM-Trees are merged down to their last level.
   * With a range, an LSM-Tree merges only what this space has in it. Resolves with the versions dropped from memory.
   * @throws ERR_CONFLICT when one is under way, ERR_CLOSED, ERR_SPACE_DROPPED, ERR_SHARD_RESTARTED, ERR_DISK_FULL, ERR_IO; AbortError
   */
  compact(options?: CompactOptions<K>): Promise<number> {
    if (!isTraced()) return this.#compact(options);
    return traced({ operation: 'compact', space: this.spaceName }, () => this.#compact(options));
  }

  async #compact(options: CompactOptions<K> | undefined): Promise<number> {
    const signal = checkSignal(options);
    const { source } = this;
    if (source.pending !== undefined) await source.pending;
    source.assertUsable();
    const { gate } = source.core;
    const id = `${this.client.client}:${++compactions}`;
    const range = options === undefined ? undefined : encodeRange(options, source.keyEncoding);
    if (range !== undefined && isEmptyRange(range)) return 0;
    const { low, high } = range ?? {};
    const spaceId = low === undefined && high === undefined ? undefined : source.spaceId;
    const running = gate.compact({ id, spaceId, low, high });
    if (signal === undefined) return await running;
    const abort = (): void => {
      gate.cancelCompact(id).catch(() => undefined);
    };
    signal.addEventListener('abort', abort, { once: true });
    try {
      return await running;
    } finally {
      signal.removeEventListener('abort', abort);
      signal.throwIfAborted();
    }
  }
}

function checkOperation(operation: unknown): void {
  const type = (operation as { readonly type?: unknown } | null | undefined)?.type;
  if (type !== 'put' && type !== 'del')
    throw invalidArgument(`a batch operation has type 'put' or 'del', got ${String(type)}`);
}

function extensionBytesOf(spaceId: number, expiresAt: number): number {
  return spaceId === 0 && expiresAt === 0 ? 0 : OPERATION_EXTENSION_BYTES;
}

/** Writes the header and, where it is needed, the extension of a record. Returns where the key begins. */
function writeHead(
  bytes: Uint8Array,
  at: number,
  kind: number,
  keyLength: number,
  valueLength: number,
  spaceId: number,
  expiresAt: number,
  flags = 0,
): number {
  if (extensionBytesOf(spaceId, expiresAt) === 0) {
    writeOperationHeader(bytes, at, kind, flags, keyLength, valueLength);
    return at + OPERATION_HEADER_BYTES;
  }
  writeOperationHeader(bytes, at, kind, flags | OPERATION_EXTENDED, keyLength, valueLength);
  writeOperationExtension(bytes, at, spaceId, expiresAt);
  return at + OPERATION_HEADER_BYTES + OPERATION_EXTENSION_BYTES;
}

function putRequest(key: Uint8Array, value: Uint8Array, hash: number, shape: WriteShape): Buffer {
  const { level, condition, version, spaceId, expiresAt } = shape;
  const recordBytes = operationBytes(key.length, value.length, extensionBytesOf(spaceId, expiresAt));
  const request = newRequest(recordBytes, level, condition, hash, version);
  const at = REQUEST_HEADER_BYTES;
  const keyStart = writeHead(request, at, OperationKind.Put, key.length, value.length, spaceId, expiresAt);
  request.set(key, keyStart);
  request.set(value, keyStart + key.length);
  return request;
}

function delRequest(
  key: Uint8Array,
  hash: number,
  level: number,
  condition: number,
  version: number,
  spaceId: number,
): Buffer {
  const recordBytes = operationBytes(key.length, 0, extensionBytesOf(spaceId, 0));
  const request = newRequest(recordBytes, level, condition, hash, version);
  request.set(key, writeHead(request, REQUEST_HEADER_BYTES, OperationKind.Delete, key.length, 0, spaceId, 0));
  return request;
}

/** Hashes of the keys of a batch. */
function keysOfRecords(records: Buffer): KeyFilter {
  const keys = new KeyFilter();
  for (let at = 0; at < records.length;) {
    const keyLength = readKeyLength(records, at);
    const keyAt = operationKeyAt(records, at);
    keys.add(hashBytes(records, keyAt, keyLength));
    at += operationBytes(keyLength, readValueLength(records, at), keyAt - at - OPERATION_HEADER_BYTES);
  }
  return keys;
}

function sendRequest(
  link: ShardLink,
  request: Buffer,
  signal: AbortSignal | undefined,
  meter?: SpaceMeter,
  sinceMs?: number,
): Promise<boolean> {
  // A call that waited for others may have been given up meanwhile.
  if (signal?.aborted === true) return Promise.reject(signal.reason as Error);
  const at = link.reserve(request.length - REQUEST_HEADER_BYTES);
  if (at < 0) return link.enqueue(request, signal, meter, sinceMs);
  link.requests.bytes.set(request, at);
  return link.submit(meter, sinceMs);
}

function checkVersion(version: unknown): number {
  if (typeof version !== 'number' || !Number.isSafeInteger(version) || version < 0) {
    throw invalidArgument(`ifVersion must be a version number, got ${String(version)}`);
  }
  return version;
}

/** When an entry put now ceases to be: never before its time. @throws ERR_INVALID_ARG */
function expiresAfter(ttlMs: unknown): number {
  const expiresAt = typeof ttlMs === 'number' && ttlMs > 0 ? Math.ceil(Date.now() + ttlMs) : NaN;
  if (!(expiresAt <= EXPIRES_AT_MAX)) {
    throw invalidArgument(`ttlMs must be a positive number of milliseconds below 2^48, got ${String(ttlMs)}`);
  }
  return expiresAt;
}

function valueTooLarge(valueBytes: number): ConcordError {
  return new ConcordError(
    'ERR_VALUE_TOO_LARGE',
    `a value of ${valueBytes} bytes is longer than the limit of ${MAX_VALUE_BYTES}`,
    {
      valueBytes,
      limitBytes: MAX_VALUE_BYTES,
    },
  );
}
