/**
 * ConcordPool: the store as its users see it. The thread that opens it hosts the shards; any other thread attaches with a handle and has the
 * same methods on the same memory.
 *
 * Reads run in the caller's thread. Writes go to the shard that owns the key and resolve when they are as durable as asked, and visible. Writes of
 * one thread to one key take effect in the order of the calls. Threads: an instance belongs to the thread that made it.
 */
import { EventEmitter } from 'node:events';
import { MessageChannel, MessagePort } from 'node:worker_threads';
import { resolveKeyEncoding, type KeyEncoding } from '../../shared/codec/key-encoding.js';
import {
  encodedBytesMax,
  encodedToBytes,
  resolveValueEncoding,
  writeEncoded,
  type CustomValueEncoding,
  type Encoded,
  type ValueEncoding,
} from '../../shared/codec/value-encoding.js';
import { ConcordError, invalidArgument } from '../../shared/errors.js';
import { hashBytes } from '../../shared/hash.js';
import {
  BATCH_INLINE_MAX_BYTES,
  BLOB_MIN_BYTES,
  CLEAR_HAS_HIGH,
  CLEAR_HAS_LOW,
  MAX_BATCH_BYTES,
  MAX_VALUE_BYTES,
  OPERATION_HEADER_BYTES,
  OperationKind,
  operationBytes,
  readKeyLength,
  readValueLength,
  writeOperationHeader,
} from '../../engines/operation.js';
import type { RecoveryReport } from '../../engines/store/shard-store.js';
import { ThreadClient, type ShardView } from '../client/thread-client.js';
import { ControlBlock } from '../control-block.js';
import { KeyFilter, newRequest } from '../client/shard-link.js';
import { remoteControl, type RemoteControl } from '../runtime/control-channel.js';
import { Condition, REQUEST_HEADER_BYTES, RequestType, writeRequestHeader } from '../shard/request.js';
import { PoolHost, type ClientGate, type ClientSettings, type HostEvents } from './host.js';
import { renderMetrics } from './metrics.js';
import { durabilityLevel, resolveOptions, type DurabilityName, type PoolOptions } from './options.js';
import { encodeRange, isEmptyRange, type RangeOptions } from './range.js';
import { Reads, checkSignal, closed } from './reads.js';
import { Snapshot } from './snapshot.js';
import { collectStats, type PoolStats } from './stats.js';
import { repairStore, restoreStore, verifyStore, type RepairReport, type VerifyReport } from './maintenance.js';

export interface WriteOptions {
  /** Overrides the store's default for this call. */
  readonly durability?: DurabilityName;
  /** Rejects with AbortError while the call still waits for room; a call the shard has is not taken back. */
  readonly signal?: AbortSignal;
}

export interface PutOptions extends WriteOptions {
  /** Only if the key is absent; otherwise nothing happens and the promise resolves to false. */
  readonly ifAbsent?: boolean;
  /** Only if the entry has this version (0: is absent); otherwise nothing happens and the promise resolves to false. */
  readonly ifVersion?: number;
}

export interface DelOptions extends WriteOptions {
  readonly ifVersion?: number;
}

export type BatchOperation<K, V> =
  { readonly type: 'put'; readonly key: K; readonly value: V } | { readonly type: 'del'; readonly key: K };

/** Lets another thread attach: pass it in workerData or postMessage, with its transferList. */
export interface PoolHandle {
  readonly port: MessagePort;
  /** The pool's control block: tells a thread that comes late that the pool has closed, which a port does not. */
  readonly control: SharedArrayBuffer;
  /** What must be transferred with it. Not part of what is sent. */
  readonly transferList: readonly MessagePort[];
}

/** A thread that hosts a pool and does not answer within this time is stuck, or ended while the handle was on its way. */
const ATTACH_MS_MAX = 30_000;

/** How often update() tries again after losing to other writers. */
const UPDATE_ATTEMPTS_MAX = 1000;

export class ConcordPool<K = string, V = string> extends Reads<K, V> implements AsyncDisposable {
  readonly directory: string;
  /** 'shard-restarted', 'shard-failed', 'checkpoint-failed' (in the thread that opened the pool), 'closed'. */
  readonly events = new EventEmitter<HostEvents & { closed: [] }>();
  readonly #host: PoolHost | undefined;
  readonly #gate: RemoteControl<ClientGate> | undefined;
  readonly #gatePort: MessagePort | undefined;
  readonly #settings: ClientSettings;
  readonly #level: number;
  #closing: Promise<void> | undefined;

  private constructor(
    client: ThreadClient,
    settings: ClientSettings,
    keyEncoding: KeyEncoding,
    valueEncoding: ValueEncoding,
    host: PoolHost | undefined,
    gate: { control: RemoteControl<ClientGate>; port: MessagePort } | undefined,
  ) {
    super(client, keyEncoding, valueEncoding);
    this.directory = settings.directory;
    this.#settings = settings;
    this.#level = durabilityLevel(settings.durability);
    this.#host = host;
    this.#gate = gate?.control;
    this.#gatePort = gate?.port;
    if (host !== undefined) {
      for (const name of ['shard-restarted', 'shard-failed', 'checkpoint-failed'] as const) {
        host.on(name, (event) => this.events.emit(name, event));
      }
    }
  }

  /**
   * Opens the store in a directory, creating it if need be; ':memory:' keeps nothing on disk. The types are the caller's word.
   * @throws ERR_INVALID_ARG, ERR_NOT_FOUND, ERR_EXISTS, ERR_LOCKED (details.pid: the owner), ERR_OPTION_CONFLICT, ERR_CORRUPT (details.file,
   *   details.offset), ERR_FORMAT_VERSION, ERR_MEMORY_FULL, ERR_PERMISSION, ERR_DISK_FULL, ERR_IO
   */
  static async open<K = string, V = string>(directory: string, options?: PoolOptions): Promise<ConcordPool<K, V>> {
    if (typeof directory !== 'string' || directory === '')
      throw invalidArgument('the directory must be a non-empty string');
    const resolved = resolveOptions(options);
    const given = resolved.valueEncoding;
    if (given !== undefined) resolveValueEncoding(given);
    const host = await PoolHost.open(directory, resolved);
    try {
      const { settings } = host;
      const valueEncoding = encodingFor(settings.valueEncoding, given);
      const client = new ThreadClient(await host.attachClient());
      return new ConcordPool<K, V>(
        client,
        settings,
        resolveKeyEncoding(settings.keyEncoding),
        valueEncoding,
        host,
        undefined,
      );
    } catch (error) {
      await host.close();
      throw error;
    }
  }

  /**
   * Uses a pool that another thread of the process has opened.
   * @param options.valueEncoding the custom encoding the pool was opened with, if it was
   * @throws ERR_CLOSED, ERR_CLIENT_LIMIT, ERR_OPTION_CONFLICT, ERR_INVALID_ARG, ERR_TIMEOUT
   */
  static async attach<K = string, V = string>(
    handle: Pick<PoolHandle, 'port'> & Partial<Pick<PoolHandle, 'control'>>,
    options?: { readonly valueEncoding?: CustomValueEncoding },
  ): Promise<ConcordPool<K, V>> {
    const { port, control } = (handle ?? {}) as Partial<PoolHandle>;
    if (!(port instanceof MessagePort))
      throw invalidArgument('attach takes what db.handle() returned, passed with its transferList');
    if (control !== undefined && !new ControlBlock(control).isOpen) throw closed('store');
    const gate = remoteControl<ClientGate>(port);
    const { setup, settings } = await answered(gate.attach(), port);
    let valueEncoding: ValueEncoding;
    try {
      valueEncoding = encodingFor(settings.valueEncoding, options?.valueEncoding);
    } catch (error) {
      await gate.detach().catch(() => undefined);
      port.close();
      throw error;
    }
    const client = new ThreadClient(setup);
    // The pool was closed, or the thread that hosted it ended: nobody will answer.
    port.once('close', () => {
      client.abandon(closed('store'));
    });
    return new ConcordPool<K, V>(client, settings, resolveKeyEncoding(settings.keyEncoding), valueEncoding, undefined, {
      control: gate,
      port,
    });
  }

  /** For another thread: one handle attaches one thread. */
  handle(): PoolHandle {
    this.assertOpen();
    let port: MessagePort;
    if (this.#host !== undefined) port = this.#host.createPort();
    else {
      const channel = new MessageChannel();
      void this.#gate!.adoptPort(channel.port1).catch(() => {
        channel.port2.close();
      });
      port = channel.port2;
    }
    // The list is not enumerable, so that structured clone does not meet the port a second time.
    return Object.defineProperty({ port, control: this.client.control.sab }, 'transferList', {
      value: [port],
    }) as PoolHandle;
  }

  protected get readSeq(): number {
    return Infinity;
  }

  protected assertOpen(): void {
    if (this.client.closed || !this.client.control.isOpen) throw closed('store');
  }

  // ---- writes ---------------------------------------------------------------------------------------------------------------------------

  /**
   * Sets the value. Resolves true when the write is durable as asked and visible to every thread; false if a condition did not hold.
   * When the shard is behind, the call waits its turn. Bytes above 64 KiB must not be changed until the promise settles.
   * @throws ERR_INVALID_ARG, ERR_KEY_TOO_LARGE, ERR_VALUE_TOO_LARGE, ERR_CLOSED, ERR_READ_ONLY, ERR_MEMORY_FULL, ERR_DISK_FULL, ERR_IO,
   *   ERR_SHARD_RESTARTED (outcome unknown), ERR_SHARD_FAILED; AbortError
   */
  put(key: K, value: V, options?: PutOptions): Promise<boolean> {
    try {
      let level = this.#level;
      let condition: number = Condition.None;
      let version = 0;
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
      }
      const encoded = this.valueEncoding.encode(value);
      const length = this.keyEncoding.encode(key, this.scratch);
      const view = this.#writable(length);
      return this.#putEncoded(view, length, encoded, level, condition, version, signal);
    } catch (error) {
      return Promise.reject(error);
    }
  }

  #writable(length: number): ShardView {
    const view = this.viewOf(length);
    this.client.assertWritable(view.link.shard);
    if (this.#settings.readOnly) throw new ConcordError('ERR_READ_ONLY', 'the store was opened read-only');
    return view;
  }

  #putEncoded(
    view: ShardView,
    length: number,
    encoded: Encoded,
    level: number,
    condition: number,
    version: number,
    signal: AbortSignal | undefined,
  ): Promise<boolean> {
    const { link } = view;
    const key = this.scratch.bytes;
    const hash = hashBytes(key, 0, length);
    let valueBytes = encodedBytesMax(encoded);
    if (valueBytes > BLOB_MIN_BYTES) {
      const bytes = typeof encoded === 'string' ? encodedToBytes(encoded) : encoded;
      if (bytes.length > MAX_VALUE_BYTES) throw valueTooLarge(bytes.length);
      const source = { kind: 'value' as const, bytes, count: 0, key: Buffer.from(key.subarray(0, length)) };
      return link.inOrder(source.key, hash, () => link.submitBlob(source, level, condition, version, hash, signal));
    }
    if (link.mustWait(key, length, hash)) {
      const own = Buffer.from(key.subarray(0, length));
      const request = putRequest(own, encodedToBytes(encoded), level, condition, hash, version);
      return link.inOrder(own, hash, () => sendRequest(view, request, signal));
    }
    const recordBytesMax = operationBytes(length, valueBytes);
    const at = link.reserve(recordBytesMax);
    if (at < 0) {
      const own = key.subarray(0, length);
      return link.enqueue(putRequest(own, encodedToBytes(encoded), level, condition, hash, version), signal);
    }
    const { bytes, words } = link.requests;
    writeRequestHeader(bytes, words, at, RequestType.Operation, level, condition, hash, version);
    const start = at + REQUEST_HEADER_BYTES;
    const keyStart = start + OPERATION_HEADER_BYTES;
    // The last word is zeroed first: it may hold padding.
    words[(start + recordBytesMax - 4) >> 2] = 0;
    for (let i = 0; i < length; i++) bytes[keyStart + i] = key[i]!;
    const written = writeEncoded(encoded, bytes, keyStart + length);
    if (written !== valueBytes) {
      valueBytes = written;
      const recordBytes = operationBytes(length, written);
      for (let pad = keyStart + length + written; pad < start + recordBytes; pad++) bytes[pad] = 0;
      link.requests.shrink(at, REQUEST_HEADER_BYTES + recordBytes);
    }
    writeOperationHeader(bytes, start, OperationKind.Put, 0, length, valueBytes);
    return link.submit();
  }

  /** Removes the key; true also if it was not there, false if `ifVersion` did not hold. @throws as put */
  del(key: K, options?: DelOptions): Promise<boolean> {
    try {
      const signal = checkSignal(options);
      const level = options?.durability === undefined ? this.#level : durabilityLevel(options.durability);
      const version = options?.ifVersion === undefined ? 0 : checkVersion(options.ifVersion);
      const condition = options?.ifVersion === undefined ? Condition.None : Condition.IfVersion;
      const length = this.keyEncoding.encode(key, this.scratch);
      const view = this.#writable(length);
      const { link } = view;
      const own = Buffer.from(this.scratch.bytes.subarray(0, length));
      const hash = hashBytes(own, 0, own.length);
      const request = newRequest(operationBytes(own.length, 0), level, condition, hash, version);
      writeOperationHeader(request, REQUEST_HEADER_BYTES, OperationKind.Delete, 0, own.length, 0);
      request.set(own, REQUEST_HEADER_BYTES + OPERATION_HEADER_BYTES);
      const send = (): Promise<boolean> => sendRequest(view, request, signal);
      return link.mustWait(own, own.length, hash) ? link.inOrder(own, hash, send) : send();
    } catch (error) {
      return Promise.reject(error);
    }
  }

  /**
   * Atomic read-modify-write: `change` gets the value (undefined if absent) and returns the new one (undefined: delete). It runs in this thread, and
   * again if another writer came between. Resolves with what is stored.
   * @throws what `change` throws; ERR_CONFLICT after 1,000 attempts; as put
   */
  async update(
    key: K,
    change: (value: V | undefined) => V | undefined | Promise<V | undefined>,
    options?: WriteOptions,
  ): Promise<V | undefined> {
    if (typeof change !== 'function') throw invalidArgument('update takes a function');
    for (let attempt = 0; attempt < UPDATE_ATTEMPTS_MAX; attempt++) {
      const entry = await this.getEntry(key);
      const value = await change(entry?.value);
      if (value === undefined) {
        if (entry === undefined || (await this.del(key, { ...options, ifVersion: entry.version }))) return undefined;
      } else if (await this.put(key, value, { ...options, ifVersion: entry?.version ?? 0 })) {
        return value;
      }
    }
    throw new ConcordError(
      'ERR_CONFLICT',
      `update gave up after ${UPDATE_ATTEMPTS_MAX} attempts: the key changes too often`,
    );
  }

  /**
   * Applies all operations or none, at once. Their keys must live on one shard; with one shard they always do.
   * @throws ERR_BATCH_CROSS_SHARD (nothing was applied), ERR_BATCH_TOO_LARGE; as put
   */
  async batch(operations: readonly BatchOperation<K, V>[], options?: WriteOptions): Promise<void> {
    const signal = checkSignal(options);
    this.assertOpen();
    if (!Array.isArray(operations)) throw invalidArgument('batch takes an array of operations');
    if (operations.length === 0) return;
    const level = options?.durability === undefined ? this.#level : durabilityLevel(options.durability);
    const { records, view } = this.#encodeBatch(operations as readonly BatchOperation<K, V>[]);
    const { link } = view;
    if (records.length > BATCH_INLINE_MAX_BYTES) {
      const source = { kind: 'batch' as const, bytes: records, count: operations.length, key: Buffer.alloc(0) };
      await link.inOrderOfAll(keysOfRecords(records), () =>
        link.submitBlob(source, level, Condition.None, 0, 0, signal),
      );
      return;
    }
    const request = newRequest(records.length, level, Condition.None, operations.length, 0, RequestType.Batch);
    request.set(records, REQUEST_HEADER_BYTES);
    const send = (): Promise<boolean> => sendRequest(view, request, signal);
    await (link.isWaiting ? link.inOrderOfAll(keysOfRecords(records), send) : send());
  }

  #encodeBatch(operations: readonly BatchOperation<K, V>[]): { records: Buffer; view: ShardView } {
    let records = Buffer.alloc(Math.min(1 << 16, operations.length * 64));
    let end = 0;
    let view: ShardView | undefined;
    for (const operation of operations) {
      const type: unknown = (operation as Partial<BatchOperation<K, V>> | undefined)?.type;
      if (type !== 'put' && type !== 'del')
        throw invalidArgument(`a batch operation has type 'put' or 'del', got ${String(type)}`);
      const encoded = operation.type === 'put' ? this.valueEncoding.encode(operation.value) : '';
      const length = this.keyEncoding.encode(operation.key, this.scratch);
      const owner = this.#writable(length);
      view ??= owner;
      if (owner !== view) {
        throw new ConcordError(
          'ERR_BATCH_CROSS_SHARD',
          `keys of the batch live on shards ${view.link.shard} and ${owner.link.shard}; nothing was applied`,
          { shard: view.link.shard, otherShard: owner.link.shard },
        );
      }
      const recordBytesMax = operationBytes(length, encodedBytesMax(encoded));
      if (encodedBytesMax(encoded) > 3 * MAX_VALUE_BYTES) throw valueTooLarge(encodedBytesMax(encoded));
      if (end + recordBytesMax > records.length) {
        const grown = Buffer.alloc(Math.max(records.length * 2, end + recordBytesMax));
        records.copy(grown, 0, 0, end);
        records = grown;
      }
      const keyStart = end + OPERATION_HEADER_BYTES;
      records.set(this.scratch.bytes.subarray(0, length), keyStart);
      const valueBytes = writeEncoded(encoded, records, keyStart + length);
      if (valueBytes > MAX_VALUE_BYTES) throw valueTooLarge(valueBytes);
      const kind = operation.type === 'put' ? OperationKind.Put : OperationKind.Delete;
      writeOperationHeader(records, end, kind, 0, length, valueBytes);
      end += operationBytes(length, valueBytes);
      if (end > MAX_BATCH_BYTES) {
        throw new ConcordError('ERR_BATCH_TOO_LARGE', `a batch holds at most ${MAX_BATCH_BYTES} bytes`, {
          limitBytes: MAX_BATCH_BYTES,
        });
      }
    }
    return { records: records.subarray(0, end), view: view! };
  }

  /**
   * Removes a range, or everything. Not one change: it goes in slices, so that other callers pass between them; a snapshot taken before still
   * sees all of it. Calls this thread makes later come after it. @throws as put
   */
  async clear(options: RangeOptions<K> & WriteOptions = {}): Promise<void> {
    const signal = checkSignal(options);
    this.assertOpen();
    const level = options.durability === undefined ? this.#level : durabilityLevel(options.durability);
    const range = encodeRange(options, this.keyEncoding);
    if (isEmptyRange(range)) return;
    const low = range.low ?? Buffer.alloc(0);
    const high = range.high ?? Buffer.alloc(0);
    const flags = (range.low === undefined ? 0 : CLEAR_HAS_LOW) | (range.high === undefined ? 0 : CLEAR_HAS_HIGH);
    await Promise.all(
      this.client.shards.map(async (view) => {
        this.client.assertWritable(view.link.shard);
        if (this.#settings.readOnly) throw new ConcordError('ERR_READ_ONLY', 'the store was opened read-only');
        const request = newRequest(operationBytes(low.length, high.length), level, 0, 0, 0, RequestType.Clear);
        writeOperationHeader(request, REQUEST_HEADER_BYTES, OperationKind.ClearRange, flags, low.length, high.length);
        request.set(low, REQUEST_HEADER_BYTES + OPERATION_HEADER_BYTES);
        request.set(high, REQUEST_HEADER_BYTES + OPERATION_HEADER_BYTES + low.length);
        const send = (): Promise<boolean> => sendRequest(view, request, signal);
        await (view.link.isWaiting ? view.link.inOrderOfAll(undefined, send) : send());
      }),
    );
  }

  /** Everything acknowledged before, at any level and by any thread, is on disk when it resolves. @throws ERR_IO, ERR_DISK_FULL, ERR_CLOSED */
  async flush(): Promise<void> {
    await Promise.all(
      this.client.shards.map(async (view) => {
        this.client.assertWritable(view.link.shard);
        if (this.#settings.readOnly) return;
        await view.link.whenSent();
        await sendRequest(view, newRequest(0, 0, 0, 0, 0, RequestType.Flush), undefined);
      }),
    );
  }

  // ---- snapshots, maintenance -----------------------------------------------------------------------------------------------------------

  /** One state of the whole store, over all shards. @throws ERR_SNAPSHOT_LIMIT, ERR_CLOSED, ERR_TIMEOUT */
  async snapshot(): Promise<Snapshot<K, V>> {
    this.assertOpen();
    const held = await this.client.control.openSnapshot(this.client.client);
    return new Snapshot<K, V>(this.client, this.keyEncoding, this.valueEncoding, held);
  }

  /** Drops versions no snapshot needs and packs thin pages, while the store is used. Resolves with the versions dropped. */
  async compact(): Promise<number> {
    this.assertOpen();
    return this.#host === undefined ? await this.#gate!.compact() : await this.#host.compact();
  }

  /** Writes a consistent copy, as of now, to a new directory that can be opened. @throws ERR_EXISTS, ERR_DISK_FULL, ERR_IO, ERR_PERMISSION */
  async checkpoint(directory: string): Promise<void> {
    this.assertOpen();
    if (typeof directory !== 'string' || directory === '')
      throw invalidArgument('the directory must be a non-empty string');
    await this.flush();
    if (this.#host === undefined) await this.#gate!.checkpoint(directory);
    else await this.#host.exportTo(directory);
  }

  /** Numbers of this moment, read from shared memory. Keys and units are in {@link PoolStats}. */
  stats(): PoolStats {
    return collectStats(this.client, this.#host?.filesBytes());
  }

  /** The same as Prometheus text. */
  metrics(): Promise<string> {
    return renderMetrics(this.stats());
  }

  /** What opening found, per shard; undefined in attached threads. */
  get recovery(): (RecoveryReport | undefined)[] | undefined {
    return this.#host?.recovery;
  }

  /** @internal The host: undefined in attached threads. */
  get host(): PoolHost | undefined {
    return this.#host;
  }

  /**
   * Waits for this thread's calls, then lets go. In the thread that opened the pool it ends the pool: everything in flight is served, synced and
   * checkpointed, threads end, the directory is free. Calls made later reject with ERR_CLOSED.
   */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    this.client.close();
    for (const { link } of this.client.shards) await link.whenSent();
    await this.client.whenIdle();
    try {
      if (this.#host !== undefined) await this.#host.close();
      else await this.#gate!.detach().catch(() => undefined);
    } finally {
      this.#gatePort?.close();
      this.client.abandon(closed('store'));
      this.events.emit('closed');
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  // ---- directories ------------------------------------------------------------------------------------------------------------------------

  /** Reads every file of a store that is not open and checks all of it. Changes nothing. @throws ERR_NOT_FOUND, ERR_LOCKED */
  static verify(directory: string): Promise<VerifyReport> {
    return verifyStore(directory);
  }

  /** Rebuilds a damaged store from what is still readable, and says what was lost. The old files are kept beside it. */
  static repair(directory: string): Promise<RepairReport> {
    return repairStore(directory);
  }

  /** Copies a store that is not open (a checkpoint, a backup) to a new directory, and verifies the copy. @throws ERR_EXISTS, ERR_CORRUPT */
  static restore(from: string, to: string): Promise<VerifyReport> {
    return restoreStore(from, to);
  }
}

/** The answer of the hosting thread. @throws ERR_TIMEOUT */
async function answered<T>(answer: Promise<T>, port: MessagePort): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      port.close();
      reject(
        new ConcordError('ERR_TIMEOUT', `the thread that opened the pool did not answer within ${ATTACH_MS_MAX} ms`),
      );
    }, ATTACH_MS_MAX);
  });
  try {
    return await Promise.race([answer, late]);
  } finally {
    clearTimeout(timer);
  }
}

function putRequest(
  key: Uint8Array,
  value: Uint8Array,
  level: number,
  condition: number,
  hash: number,
  version: number,
): Buffer {
  const request = newRequest(operationBytes(key.length, value.length), level, condition, hash, version);
  writeOperationHeader(request, REQUEST_HEADER_BYTES, OperationKind.Put, 0, key.length, value.length);
  request.set(key, REQUEST_HEADER_BYTES + OPERATION_HEADER_BYTES);
  request.set(value, REQUEST_HEADER_BYTES + OPERATION_HEADER_BYTES + key.length);
  return request;
}

/** Hashes of the keys of a batch. */
function keysOfRecords(records: Buffer): KeyFilter {
  const keys = new KeyFilter();
  for (let at = 0; at < records.length;) {
    const keyLength = readKeyLength(records, at);
    keys.add(hashBytes(records, at + OPERATION_HEADER_BYTES, keyLength));
    at += operationBytes(keyLength, readValueLength(records, at));
  }
  return keys;
}

function sendRequest({ link }: ShardView, request: Buffer, signal: AbortSignal | undefined): Promise<boolean> {
  // A call that waited for others may have been given up meanwhile.
  if (signal?.aborted === true) return Promise.reject(signal.reason as Error);
  const at = link.reserve(request.length - REQUEST_HEADER_BYTES);
  if (at < 0) return link.enqueue(request, signal);
  link.requests.bytes.set(request, at);
  return link.submit();
}

function encodingFor(name: string, given: PoolOptions['valueEncoding']): ValueEncoding {
  if (given !== undefined) {
    const encoding = resolveValueEncoding(given);
    if (encoding.name !== name) {
      throw new ConcordError('ERR_OPTION_CONFLICT', `the store has valueEncoding ${name}, not ${encoding.name}`, {
        option: 'valueEncoding',
        stored: name,
        given: encoding.name,
      });
    }
    return encoding;
  }
  try {
    return resolveValueEncoding(name);
  } catch {
    throw new ConcordError(
      'ERR_OPTION_CONFLICT',
      `the store has the custom valueEncoding ${name}: pass it as an option`,
      {
        option: 'valueEncoding',
        stored: name,
      },
    );
  }
}

function checkVersion(version: unknown): number {
  if (typeof version !== 'number' || !Number.isSafeInteger(version) || version < 0) {
    throw invalidArgument(`ifVersion must be a version number, got ${String(version)}`);
  }
  return version;
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
