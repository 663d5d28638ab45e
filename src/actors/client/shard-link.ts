/**
 * One client thread's way to one shard: requests go into its ring, completions come back in ring order.
 *
 *   submit… → ring (or the wait queue while the ring is full) → publish → … → settle()
 *
 * A full ring makes a call wait in the queue, in order; nothing is refused, dropped or spun on. Requests in the queue have bytes of their own.
 * A request that waits for a lock is answered Deferred: those behind it are settled before it, and it by an answer of its own.
 *
 * Blobs (long values, long batches) are cut into chunks, a few in flight at a time, so that other calls pass between them. A call that must
 * not overtake a blob (same key, a batch that may hold the key, a clear) waits for it, and then others wait for that call.
 *
 * Threads: the client's thread only.
 */
import { performance } from 'node:perf_hooks';
import { ConcordError, invalidArgument, type ErrorRecord } from '../../shared/errors.js';
import { RingConsumer, RingProducer } from '../../shared/memory/ring.js';
import {
  BLOB_REFERENCE_BYTES,
  CHUNK_BYTES,
  CHUNK_OF_BATCH,
  OPERATION_EXTENDED,
  OPERATION_EXTENSION_BYTES,
  OPERATION_HEADER_BYTES,
  OperationKind,
  operationBytes,
  operationKeyAt,
  writeBlobReference,
  writeOperationExtension,
  writeOperationHeader,
} from '../../engines/operation.js';
import { Counter } from '../metrics/board.js';
import type { SpaceMeter } from '../metrics/meters.js';
import {
  COMPLETED_WORD,
  Condition,
  REQUEST_HEADER_BYTES,
  RESPONSE_HEADER_BYTES,
  RequestType,
  ResponseStatus,
  writeRequestHeader,
} from '../shard/request.js';
import { PromisedAnswer, type Caller } from './caller.js';

/** Chunks of one blob in flight: enough to keep the shard busy, few enough to let others pass. */
const BLOB_WINDOW_CHUNKS = 4;
/**
 * Records that are published without waiting for the client to come round: few enough that the shard works while the caller goes on, enough
 * that a burst of durable writes is not cut into many small groups.
 */
const PUBLISH_RECORDS = 8;
/** So much is some tenths of a millisecond of work for the shard: it begins while the caller makes the next batch. */
const PUBLISH_BYTES = 32 * 1024;

/** Its shard has said that it takes longer. */
interface DeferredRequest {
  readonly caller: Caller;
  readonly meter: SpaceMeter | undefined;
  readonly sinceMs: number;
}

interface Answer {
  readonly status: number;
  readonly error: ErrorRecord | undefined;
}

interface QueuedRequest {
  readonly bytes: Buffer;
  readonly caller: Caller;
  readonly signal: AbortSignal | undefined;
  readonly meter: SpaceMeter | undefined;
  readonly sinceMs: number;
  cancelled: boolean;
}

/** A batch or a clear that is not in the ring yet: calls for keys it may touch wait for it. */
interface Barrier {
  /** Which keys, by their hashes; undefined: all. */
  readonly keys: KeyFilter | undefined;
  readonly done: Promise<unknown>;
}

const FILTER_BITS = 1 << 17;

/** Tells of a hash that it is surely not among those added, or may be. */
export class KeyFilter {
  readonly #bits = new Uint8Array(FILTER_BITS >> 3);

  add(hash: number): void {
    const bit = hash & (FILTER_BITS - 1);
    this.#bits[bit >> 3]! |= 1 << (bit & 7);
  }

  mayHave(hash: number): boolean {
    const bit = hash & (FILTER_BITS - 1);
    return (this.#bits[bit >> 3]! & (1 << (bit & 7))) !== 0;
  }
}

export interface BlobSource {
  readonly kind: 'value' | 'batch';
  readonly bytes: Uint8Array;
  /** Length of the bytes when the call was made: their buffer may be the caller's, and be detached or resized later. */
  readonly byteCount: number;
  /** Inner operations of a batch. */
  readonly count: number;
  /** Key of the value; empty for a batch. */
  readonly key: Uint8Array;
  /** Of the value; 0 for a batch, whose operations say for themselves. */
  readonly spaceId: number;
  /** Of the value; 0: never. */
  readonly expiresAt: number;
}

export class ShardLink {
  readonly shard: number;
  readonly requests: RingProducer;
  readonly #responses: RingConsumer;
  readonly #client: number;
  /** Called when something was submitted: the client publishes and watches for completions. */
  readonly #onSubmit: () => void;
  /** Called when enough was submitted to be published before the client does: it wakes the shard. */
  readonly #onPublish: () => void;
  /** So many records are. */
  readonly #publishRecords: number;

  // Circular buffers of the callers of requests in the ring, indexed by request number.
  #callers: (Caller | undefined)[] = new Array<Caller | undefined>(1024);
  /** Who counts what becomes of the request; undefined: nobody. */
  #meters: (SpaceMeter | undefined)[] = new Array<SpaceMeter | undefined>(1024);
  /** When it was made, on performance.now()'s clock. */
  #since = new Float64Array(1024);
  #mask = 1023;
  #issued: number;
  #settled: number;
  #unpublished = 0;
  /** When the first of the requests that are not published was made: that of all of them, for the clock is dear. */
  #batchMs = 0;
  readonly #answers = new Map<number, Answer>();
  /** By request number. */
  readonly #deferred = new Map<number, DeferredRequest>();

  #queue: QueuedRequest[] = [];
  #queueHead = 0;
  /** Queued requests of each signal: one listener serves them all. */
  readonly #abortable = new Map<AbortSignal, { readonly entries: Set<QueuedRequest>; readonly listener: () => void }>();

  #blobNumber = 0;
  #blobTail: Promise<unknown> = Promise.resolve();
  /** The last call of each key (latin1) that is on its way or waits. */
  readonly #waits = new Map<string, Promise<unknown>>();
  readonly #barriers: Barrier[] = [];
  /** Why nothing will be answered any more. */
  #lost: Error | undefined;
  /** Requests were published, or room for answers was given back, since the doorbell was rung: a wake-up for nothing costs both sides more than a request. */
  #hasNews = false;

  constructor(
    shard: number,
    client: number,
    requestRing: SharedArrayBuffer,
    responseRing: SharedArrayBuffer,
    onSubmit: () => void,
    onPublish: () => void = () => undefined,
    publishRecords = PUBLISH_RECORDS,
  ) {
    this.shard = shard;
    this.#client = client;
    this.requests = new RingProducer(requestRing);
    this.#responses = new RingConsumer(responseRing);
    this.#onSubmit = onSubmit;
    this.#onPublish = onPublish;
    this.#publishRecords = publishRecords;
    this.#issued = Atomics.load(this.requests.header, COMPLETED_WORD);
    this.#settled = this.#issued;
  }

  /** Requests that are not settled yet, queued ones included. */
  get pending(): number {
    return ((this.#issued - this.#settled) | 0) + this.#deferred.size + this.#queue.length - this.#queueHead;
  }

  get queued(): number {
    return this.#queue.length - this.#queueHead;
  }

  /** Some calls have not reached the ring: a new one may have to wait for them, see {@link inOrder}. */
  get isWaiting(): boolean {
    return this.#waits.size > 0 || this.#barriers.length > 0;
  }

  /** Whether a call for this key must wait, so that it does not overtake an earlier one. */
  mustWait(key: Uint8Array, length: number, hash: number): boolean {
    if (!this.isWaiting) return false;
    return this.#waits.has(nameOf(key, length)) || this.#barriers.some(({ keys }) => keys?.mayHave(hash) ?? true);
  }

  /** Sends a call for one key when the calls before it that touch the key are through. Later calls for the key wait for it. */
  inOrder(key: Uint8Array, hash: number, send: () => Promise<boolean>): Promise<boolean> {
    const name = nameOf(key, key.length);
    const before = this.#barriers.filter(({ keys }) => keys?.mayHave(hash) ?? true).map(({ done }) => done);
    const last = this.#waits.get(name);
    if (last !== undefined) before.push(last);
    const sent = before.length === 0 ? send() : Promise.all(before).then(send);
    const done = settled(sent);
    this.#waits.set(name, done);
    void done.then(() => {
      if (this.#waits.get(name) === done) this.#waits.delete(name);
    });
    return sent;
  }

  /** Sends a call for many keys when everything before it is through. Later calls for these keys (undefined: for any) wait for it. */
  inOrderOfAll(keys: KeyFilter | undefined, send: () => Promise<boolean>): Promise<boolean> {
    const before = [...this.#waits.values(), ...this.#barriers.map(({ done }) => done)];
    const sent = before.length === 0 ? send() : Promise.all(before).then(send);
    const barrier = { keys, done: settled(sent) };
    this.#barriers.push(barrier);
    void barrier.done.then(() => {
      this.#barriers.splice(this.#barriers.indexOf(barrier), 1);
    });
    return sent;
  }

  /** Later calls for these keys wait until `done` has settled. Returns what a call for them that is made now must wait for. */
  holdBack(keys: KeyFilter, done: Promise<unknown>): Promise<unknown>[] {
    const before = [...this.#waits.values(), ...this.#barriers.map((barrier) => barrier.done)];
    const barrier = { keys, done: settled(done) };
    this.#barriers.push(barrier);
    void barrier.done.then(() => {
      this.#barriers.splice(this.#barriers.indexOf(barrier), 1);
    });
    return before;
  }

  /** Resolves when every call made so far has reached the ring or the queue before it. */
  async whenSent(): Promise<void> {
    while (this.isWaiting) await Promise.all([...this.#waits.values(), ...this.#barriers.map(({ done }) => done)]);
  }

  /**
   * Room in the ring for a request with `recordBytes` bytes of records: the offset of the request, or -1 when the call must wait
   * (then {@link enqueue}). The caller writes the header and records, then calls {@link submit}.
   */
  reserve(recordBytes: number): number {
    if (this.#queueHead < this.#queue.length || this.#lost !== undefined) return -1;
    const at = this.requests.reserve(REQUEST_HEADER_BYTES + recordBytes);
    if (at < 0) this.publish();
    return at;
  }

  /** The reserved request is written: gives its promise. */
  submit(meter?: SpaceMeter, sinceMs?: number): Promise<boolean> {
    const caller = new PromisedAnswer();
    this.submitFor(caller, meter, sinceMs);
    return caller.promise;
  }

  /** The same, and the caller is told when it is settled. */
  submitFor(caller: Caller, meter?: SpaceMeter, sinceMs?: number): void {
    if (this.#unpublished === 0) this.#batchMs = performance.now();
    this.#push(caller, meter, sinceMs ?? this.#batchMs);
  }

  #push(caller: Caller, meter: SpaceMeter | undefined, sinceMs: number): void {
    this.#issued = (this.#issued + 1) | 0;
    if (((this.#issued - this.#settled) | 0) > this.#mask) this.#grow();
    const slot = this.#issued & this.#mask;
    this.#callers[slot] = caller;
    this.#meters[slot] = meter;
    this.#since[slot] = sinceMs;
    if (++this.#unpublished >= this.#publishRecords || this.requests.unpublishedBytes >= PUBLISH_BYTES) {
      this.publish();
      this.#hasNews = false;
      this.#onPublish();
    }
    this.#onSubmit();
  }

  #grow(): void {
    const mask = this.#mask * 2 + 1;
    const callers = new Array<Caller | undefined>(mask + 1);
    const meters = new Array<SpaceMeter | undefined>(mask + 1);
    const since = new Float64Array(mask + 1);
    for (let request = this.#settled; request !== this.#issued;) {
      request = (request + 1) | 0;
      callers[request & mask] = this.#callers[request & this.#mask];
      meters[request & mask] = this.#meters[request & this.#mask];
      since[request & mask] = this.#since[request & this.#mask]!;
    }
    this.#callers = callers;
    this.#meters = meters;
    this.#since = since;
    this.#mask = mask;
  }

  /** A request that found no room: `bytes` is the whole request, owned by the queue. Waits for its turn. */
  enqueue(
    bytes: Buffer,
    signal: AbortSignal | undefined,
    meter?: SpaceMeter,
    sinceMs = performance.now(),
  ): Promise<boolean> {
    const caller = new PromisedAnswer();
    this.enqueueFor(caller, bytes, signal, meter, sinceMs);
    return caller.promise;
  }

  /** The same, and the caller is told when it is settled. */
  enqueueFor(
    caller: Caller,
    bytes: Buffer,
    signal: AbortSignal | undefined,
    meter?: SpaceMeter,
    sinceMs = performance.now(),
  ): void {
    if (this.#lost !== undefined) {
      caller.failed(this.#lost);
      return;
    }
    const entry: QueuedRequest = { bytes, caller, signal, meter, sinceMs, cancelled: false };
    this.#queue.push(entry);
    if (signal !== undefined) this.#watch(signal, entry);
    this.#onSubmit();
  }

  /** While the request is queued its signal takes it back; in the ring it is too late: the shard may have read it. */
  #watch(signal: AbortSignal, entry: QueuedRequest): void {
    const known = this.#abortable.get(signal);
    if (known !== undefined) {
      known.entries.add(entry);
      return;
    }
    const entries = new Set([entry]);
    const listener = (): void => {
      this.#abortable.delete(signal);
      for (const each of entries) {
        each.cancelled = true;
        each.caller.failed(signal.reason as Error);
      }
    };
    this.#abortable.set(signal, { entries, listener });
    signal.addEventListener('abort', listener, { once: true });
  }

  #unwatch(entry: QueuedRequest): void {
    const { signal } = entry;
    if (signal === undefined) return;
    const known = this.#abortable.get(signal);
    if (known === undefined || !known.entries.delete(entry) || known.entries.size > 0) return;
    this.#abortable.delete(signal);
    signal.removeEventListener('abort', known.listener);
  }

  /** Moves waiting requests into the ring as far as there is room. */
  #refill(): void {
    while (this.#queueHead < this.#queue.length) {
      const entry = this.#queue[this.#queueHead]!;
      if (!entry.cancelled) {
        const at = this.requests.reserve(entry.bytes.length);
        if (at < 0) break;
        this.requests.bytes.set(entry.bytes, at);
        this.#unwatch(entry);
        this.#push(entry.caller, entry.meter, entry.sinceMs);
      }
      this.#queueHead++;
    }
    if (this.#queueHead === this.#queue.length) {
      this.#queue.length = 0;
      this.#queueHead = 0;
    } else if (this.#queueHead > 4096) {
      this.#queue.splice(0, this.#queueHead);
      this.#queueHead = 0;
    }
  }

  /** Makes what is in the ring visible to the shard. */
  publish(): void {
    this.#unpublished = 0;
    if (!this.requests.hasUnpublished) return;
    this.#hasNews = true;
    this.requests.publish();
  }

  /** Whether the shard may be asleep over something it has not been woken for; the caller rings. */
  takeNews(): boolean {
    const hasNews = this.#hasNews;
    this.#hasNews = false;
    return hasNews;
  }

  /** Whether settle() would do something: the second look before parking. */
  get hasAnswers(): boolean {
    return Atomics.load(this.requests.header, COMPLETED_WORD) !== this.#settled || this.#responses.pending();
  }

  /**
   * Settles what the shard completed; refills the ring. Returns the number of answers and completions met: unless it is 0 the shard may have
   * waited for the room they took.
   */
  settle(): number {
    if (this.#lost !== undefined) return 0;
    const completed = Atomics.load(this.requests.header, COMPLETED_WORD);
    let count = this.#readResponses();
    const nowMs = this.#settled === completed ? 0 : performance.now();
    while (this.#settled !== completed) {
      const request = (this.#settled + 1) | 0;
      this.#settled = request;
      const slot = request & this.#mask;
      const caller = this.#callers[slot]!;
      this.#callers[slot] = undefined;
      const meter = this.#meters[slot];
      this.#meters[slot] = undefined;
      count++;
      const answer = this.#answers.size === 0 ? undefined : this.#answers.get(request);
      if (answer !== undefined) {
        this.#answers.delete(request);
        const call = { caller, meter, sinceMs: this.#since[slot]! };
        if (answer.status === ResponseStatus.Deferred) this.#deferred.set(request, call);
        else this.#settleCall(call, answer, nowMs);
        continue;
      }
      if (meter !== undefined) meter.writeTook(nowMs - this.#since[slot]!);
      caller.answered(true);
    }
    if (this.#queueHead < this.#queue.length) {
      this.#refill();
      this.publish();
    }
    return count;
  }

  #settleCall({ caller, meter, sinceMs }: DeferredRequest, { status, error }: Answer, nowMs: number): void {
    if (meter !== undefined) meter.writeTook(nowMs - sinceMs);
    if (status === ResponseStatus.Done) caller.answered(true);
    else if (status === ResponseStatus.ConditionFailed) {
      if (meter !== undefined) meter.counts[Counter.Conflicts]!++;
      caller.answered(false);
    } else {
      if (meter !== undefined) meter.counts[Counter.Failures]!++;
      caller.failed(ConcordError.fromRecord(error!));
    }
  }

  /** The shard that had deferred them is dead. */
  #forgetDeferred(answer: Answer): void {
    for (const [request, { status }] of this.#answers) {
      if (status === ResponseStatus.Deferred) this.#answers.set(request, answer);
    }
    for (const call of this.#deferred.values()) this.#settleCall(call, answer, performance.now());
    this.#deferred.clear();
  }

  #readResponses(): number {
    const ring = this.#responses;
    let count = 0;
    for (let at = ring.next(); at >= 0; at = ring.next()) {
      count++;
      const request = ring.bytes.readInt32LE(at);
      const status = ring.bytes[at + 4]!;
      let error: ErrorRecord | undefined;
      if (status === ResponseStatus.Error || status === ResponseStatus.Forgotten) {
        const text = ring.bytes.toString('utf8', at + RESPONSE_HEADER_BYTES, at + ring.length);
        error = JSON.parse(text) as ErrorRecord;
      }
      const deferred = this.#deferred.get(request);
      if (status === ResponseStatus.Forgotten) {
        this.#forgetDeferred({ status: ResponseStatus.Error, error });
      } else if (deferred === undefined) this.#answers.set(request, { status, error });
      else {
        this.#deferred.delete(request);
        this.#settleCall(deferred, { status, error }, performance.now());
      }
    }
    if (count > 0) {
      ring.release();
      this.#hasNews = true;
    }
    return count;
  }

  /** The pool closed or the shard failed for good: nothing more will be answered, now or later. */
  rejectAll(error: Error): void {
    // What was answered before is not lost.
    this.settle();
    this.#lost = error;
    const deferred = [...this.#deferred.values()];
    this.#deferred.clear();
    for (const { meter, caller } of deferred) {
      if (meter !== undefined) meter.counts[Counter.Failures]!++;
      caller.failed(error);
    }
    while (this.#settled !== this.#issued) {
      this.#settled = (this.#settled + 1) | 0;
      const slot = this.#settled & this.#mask;
      const meter = this.#meters[slot];
      if (meter !== undefined) meter.counts[Counter.Failures]!++;
      this.#meters[slot] = undefined;
      const caller = this.#callers[slot];
      this.#callers[slot] = undefined;
      caller?.failed(error);
    }
    for (const entry of this.#queue.splice(0).slice(this.#queueHead)) {
      this.#unwatch(entry);
      if (!entry.cancelled) entry.caller.failed(error);
    }
    this.#queueHead = 0;
  }

  // ---- blobs ------------------------------------------------------------------------------------------------------------------------

  /** Sends a blob in chunks and then the record that uses it. `source.bytes` must not change until the promise settles. */
  submitBlob(
    source: BlobSource,
    durability: number,
    condition: number,
    version: number,
    hash: number,
    signal: AbortSignal | undefined,
    meter: SpaceMeter,
    sinceMs: number,
  ): Promise<boolean> {
    const sent = this.#blobTail.then(() =>
      this.#sendBlob(source, durability, condition, version, hash, signal, meter, sinceMs),
    );
    this.#blobTail = settled(sent);
    return sent;
  }

  async #sendBlob(
    source: BlobSource,
    durability: number,
    condition: number,
    version: number,
    hash: number,
    signal: AbortSignal | undefined,
    meter: SpaceMeter,
    sinceMs: number,
  ): Promise<boolean> {
    signal?.throwIfAborted();
    const { bytes, byteCount: total, kind } = source;
    const client = this.#client;
    const blob = (this.#blobNumber = (this.#blobNumber + 1) >>> 0);
    const flags = kind === 'batch' ? CHUNK_OF_BATCH : 0;
    const window: Promise<boolean>[] = [];
    try {
      for (let offset = 0; offset < total; offset += CHUNK_BYTES) {
        const length = Math.min(CHUNK_BYTES, total - offset);
        if (bytes.length !== total)
          throw invalidArgument(`a value of ${total} bytes has ${bytes.length} while it is written`);
        const request = newRequest(operationBytes(BLOB_REFERENCE_BYTES, length), durability, Condition.None, hash, 0);
        const at = REQUEST_HEADER_BYTES;
        writeOperationHeader(request, at, OperationKind.Chunk, flags, BLOB_REFERENCE_BYTES, length);
        const reference = { client, blob, offset, count: offset === 0 ? total : 0 };
        writeBlobReference(request, at + OPERATION_HEADER_BYTES, reference);
        request.set(bytes.subarray(offset, offset + length), at + OPERATION_HEADER_BYTES + BLOB_REFERENCE_BYTES);
        window.push(this.#send(request));
        if (window.length >= BLOB_WINDOW_CHUNKS || offset === 0) await window.shift();
        signal?.throwIfAborted();
      }
      await Promise.all(window.splice(0));
      return await this.#send(this.#lastOfBlob(source, blob, durability, condition, version, hash), meter, sinceMs);
    } catch (error) {
      await Promise.allSettled(window);
      await this.#send(newRequest(0, 0, 0, 0, 0, RequestType.DropBlob)).catch(() => undefined);
      throw error;
    }
  }

  /** The record that uses a blob whose chunks have been taken. */
  #lastOfBlob(
    { kind, key, byteCount, count, spaceId, expiresAt }: BlobSource,
    blob: number,
    durability: number,
    condition: number,
    version: number,
    hash: number,
  ): Buffer {
    const isExtended = spaceId !== 0 || expiresAt !== 0;
    const extensionBytes = isExtended ? OPERATION_EXTENSION_BYTES : 0;
    const recordBytes = operationBytes(key.length, BLOB_REFERENCE_BYTES, extensionBytes);
    const last = newRequest(recordBytes, durability, condition, hash, version);
    const at = REQUEST_HEADER_BYTES;
    const opKind = kind === 'batch' ? OperationKind.ApplyBatch : OperationKind.PutBlob;
    writeOperationHeader(last, at, opKind, isExtended ? OPERATION_EXTENDED : 0, key.length, BLOB_REFERENCE_BYTES);
    if (isExtended) writeOperationExtension(last, at, spaceId, expiresAt);
    const keyStart = operationKeyAt(last, at);
    last.set(key, keyStart);
    writeBlobReference(last, keyStart + key.length, {
      client: this.#client,
      blob,
      offset: byteCount,
      count,
    });
    return last;
  }

  #send(request: Buffer, meter?: SpaceMeter, sinceMs?: number): Promise<boolean> {
    const waits = this.#queueHead < this.#queue.length || this.#lost !== undefined;
    const at = waits ? -1 : this.requests.reserve(request.length);
    if (at < 0) return this.enqueue(request, undefined, meter, sinceMs);
    this.requests.bytes.set(request, at);
    return this.submit(meter, sinceMs);
  }
}

function nameOf(key: Uint8Array, length: number): string {
  return Buffer.from(key.buffer, key.byteOffset, length).toString('latin1');
}

/** Resolves when the promise has been settled, either way. */
function settled(promise: Promise<unknown>): Promise<unknown> {
  return promise.then(
    () => undefined,
    () => undefined,
  );
}

/** A request in memory of its own, header written, records zeroed. */
export function newRequest(
  recordBytes: number,
  durability: number,
  condition: number,
  hash: number,
  version: number,
  type: number = RequestType.Operation,
): Buffer {
  const request = Buffer.alloc((REQUEST_HEADER_BYTES + recordBytes + 7) & ~7);
  const words = new Int32Array(request.buffer, request.byteOffset, request.length >> 2);
  writeRequestHeader(request, words, 0, type, durability, condition, hash, version);
  return request.subarray(0, REQUEST_HEADER_BYTES + recordBytes);
}
