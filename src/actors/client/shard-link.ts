/**
 * One client thread's way to one shard: requests go into its ring, completions come back in ring order.
 *
 *   submit… → ring (or the wait queue while the ring is full) → publish → … → settle()
 *
 * A full ring makes a call wait in the queue, in order; nothing is refused, dropped or spun on. Requests in the queue have bytes of their own.
 * Blobs (long values, long batches) are cut into chunks, a few in flight at a time, so that other calls pass between them; only a call
 * for the key of a blob on its way waits for it.
 *
 * Threads: the client's thread only.
 */
import { ConcordError, type ErrorRecord } from '../../shared/errors.js';
import { RingConsumer, RingProducer } from '../../shared/memory/ring.js';
import {
  BLOB_REFERENCE_BYTES,
  CHUNK_BYTES,
  CHUNK_OF_BATCH,
  OPERATION_HEADER_BYTES,
  OperationKind,
  operationBytes,
  writeBlobReference,
  writeOperationHeader,
} from '../../engines/operation.js';
import {
  COMPLETED_WORD,
  Condition,
  REQUEST_HEADER_BYTES,
  RESPONSE_HEADER_BYTES,
  RequestType,
  ResponseStatus,
  writeRequestHeader,
} from '../shard/request.js';

type Resolve = (applied: boolean) => void;
type Reject = (error: Error) => void;

/** Chunks of one blob in flight: enough to keep the shard busy, few enough to let others pass. */
const BLOB_WINDOW_CHUNKS = 4;
/** Records published to a busy shard without waiting for the end of the microtask. */
const PUBLISH_RECORDS = 64;

interface QueuedRequest {
  readonly bytes: Buffer;
  readonly resolve: Resolve;
  readonly reject: Reject;
  cancelled: boolean;
}

export interface BlobSource {
  readonly kind: 'value' | 'batch';
  readonly bytes: Uint8Array;
  /** Inner operations of a batch. */
  readonly count: number;
  /** Key of the value; empty for a batch. */
  readonly key: Uint8Array;
}

let capturedResolve: Resolve;
let capturedReject: Reject;
const capture = (resolve: Resolve, reject: Reject): void => {
  capturedResolve = resolve;
  capturedReject = reject;
};

export class ShardLink {
  readonly shard: number;
  readonly requests: RingProducer;
  readonly #responses: RingConsumer;
  readonly #client: number;
  /** Called when something was submitted: the client publishes and watches for completions. */
  readonly #onSubmit: () => void;

  // Circular buffers of the promises of requests in the ring, indexed by request number.
  #resolves: (Resolve | undefined)[] = new Array<Resolve | undefined>(1024);
  #rejects: (Reject | undefined)[] = new Array<Reject | undefined>(1024);
  #mask = 1023;
  #issued: number;
  #settled: number;
  #unpublished = 0;
  readonly #answers = new Map<number, { status: number; error: ErrorRecord | undefined }>();

  #queue: QueuedRequest[] = [];
  #queueHead = 0;

  #blobNumber = 0;
  #blobTail: Promise<unknown> = Promise.resolve();
  /** Keys (latin1) of values on their way; later calls for them wait. */
  readonly #blobKeys = new Map<string, Promise<unknown>>();
  /** The last long batch on its way: it may hold any key, so later calls wait for it. */
  #blobBatch: Promise<unknown> | undefined;
  /** Why nothing will be answered any more. */
  #lost: Error | undefined;

  constructor(
    shard: number,
    client: number,
    requestRing: SharedArrayBuffer,
    responseRing: SharedArrayBuffer,
    onSubmit: () => void,
  ) {
    this.shard = shard;
    this.#client = client;
    this.requests = new RingProducer(requestRing);
    this.#responses = new RingConsumer(responseRing);
    this.#onSubmit = onSubmit;
    this.#issued = Atomics.load(this.requests.header, COMPLETED_WORD);
    this.#settled = this.#issued;
  }

  /** Requests that are not settled yet, queued ones included. */
  get pending(): number {
    return ((this.#issued - this.#settled) | 0) + this.#queue.length - this.#queueHead;
  }

  get queued(): number {
    return this.#queue.length - this.#queueHead;
  }

  get blobsOnTheirWay(): number {
    return this.#blobKeys.size + (this.#blobBatch === undefined ? 0 : 1);
  }

  /** What a call for this key must wait for first, if anything. */
  blobFor(key: Uint8Array, length: number): Promise<unknown> | undefined {
    const value = this.#blobKeys.get(Buffer.from(key.buffer, key.byteOffset, length).toString('latin1'));
    const batch = this.#blobBatch;
    return value !== undefined && batch !== undefined ? Promise.all([value, batch]) : (value ?? batch);
  }

  /** All blobs on their way. */
  get blobs(): Promise<unknown> {
    return Promise.allSettled([...this.#blobKeys.values(), this.#blobBatch]);
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
  submit(): Promise<boolean> {
    const promise = new Promise<boolean>(capture);
    this.#push(capturedResolve, capturedReject);
    return promise;
  }

  #push(resolve: Resolve, reject: Reject): void {
    this.#issued = (this.#issued + 1) | 0;
    if (((this.#issued - this.#settled) | 0) > this.#mask) this.#grow();
    const slot = this.#issued & this.#mask;
    this.#resolves[slot] = resolve;
    this.#rejects[slot] = reject;
    if (++this.#unpublished >= PUBLISH_RECORDS) this.publish();
    this.#onSubmit();
  }

  #grow(): void {
    const mask = this.#mask * 2 + 1;
    const resolves = new Array<Resolve | undefined>(mask + 1);
    const rejects = new Array<Reject | undefined>(mask + 1);
    for (let request = this.#settled; request !== this.#issued;) {
      request = (request + 1) | 0;
      resolves[request & mask] = this.#resolves[request & this.#mask];
      rejects[request & mask] = this.#rejects[request & this.#mask];
    }
    this.#resolves = resolves;
    this.#rejects = rejects;
    this.#mask = mask;
  }

  /** A request that found no room: `bytes` is the whole request, owned by the queue. Waits for its turn. */
  enqueue(bytes: Buffer, signal: AbortSignal | undefined): Promise<boolean> {
    if (this.#lost !== undefined) return Promise.reject(this.#lost);
    return new Promise((resolve, reject) => {
      const entry: QueuedRequest = { bytes, resolve, reject, cancelled: false };
      this.#queue.push(entry);
      signal?.addEventListener(
        'abort',
        () => {
          // In the ring it is too late: the shard may have read it.
          if (!this.#queue.includes(entry, this.#queueHead)) return;
          entry.cancelled = true;
          reject(signal.reason as Error);
        },
        { once: true },
      );
      this.#onSubmit();
    });
  }

  /** Moves waiting requests into the ring as far as there is room. */
  #refill(): void {
    while (this.#queueHead < this.#queue.length) {
      const entry = this.#queue[this.#queueHead]!;
      if (!entry.cancelled) {
        const at = this.requests.reserve(entry.bytes.length);
        if (at < 0) break;
        this.requests.bytes.set(entry.bytes, at);
        this.#push(entry.resolve, entry.reject);
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
    this.requests.publish();
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
    while (this.#settled !== completed) {
      const request = (this.#settled + 1) | 0;
      this.#settled = request;
      const slot = request & this.#mask;
      const resolve = this.#resolves[slot]!;
      const reject = this.#rejects[slot]!;
      this.#resolves[slot] = undefined;
      this.#rejects[slot] = undefined;
      count++;
      if (this.#answers.size === 0) {
        resolve(true);
        continue;
      }
      const answer = this.#answers.get(request);
      this.#answers.delete(request);
      if (answer === undefined) resolve(true);
      else if (answer.status === ResponseStatus.ConditionFailed) resolve(false);
      else reject(ConcordError.fromRecord(answer.error!));
    }
    if (this.#queueHead < this.#queue.length) {
      this.#refill();
      this.publish();
    }
    return count;
  }

  #readResponses(): number {
    const ring = this.#responses;
    let count = 0;
    for (let at = ring.next(); at >= 0; at = ring.next()) {
      count++;
      const request = ring.bytes.readInt32LE(at);
      const status = ring.bytes[at + 4]!;
      let error: ErrorRecord | undefined;
      if (status === ResponseStatus.Error) {
        const text = ring.bytes.toString('utf8', at + RESPONSE_HEADER_BYTES, at + ring.length);
        error = JSON.parse(text) as ErrorRecord;
      }
      this.#answers.set(request, { status, error });
    }
    if (count > 0) ring.release();
    return count;
  }

  /** The pool closed or the shard failed for good: nothing more will be answered, now or later. */
  rejectAll(error: Error): void {
    this.#lost = error;
    while (this.#settled !== this.#issued) {
      this.#settled = (this.#settled + 1) | 0;
      this.#rejects[this.#settled & this.#mask]?.(error);
    }
    for (const entry of this.#queue.splice(0)) if (!entry.cancelled) entry.reject(error);
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
  ): Promise<boolean> {
    const sent = this.#blobTail.then(() => this.#sendBlob(source, durability, condition, version, hash, signal));
    const done = sent.catch(() => undefined);
    this.#blobTail = done;
    if (source.kind === 'batch') {
      this.#blobBatch = done;
      void done.then(() => {
        if (this.#blobBatch === done) this.#blobBatch = undefined;
      });
    } else {
      const key = Buffer.from(source.key).toString('latin1');
      this.#blobKeys.set(key, done);
      void done.then(() => {
        if (this.#blobKeys.get(key) === done) this.#blobKeys.delete(key);
      });
    }
    return sent;
  }

  async #sendBlob(
    source: BlobSource,
    durability: number,
    condition: number,
    version: number,
    hash: number,
    signal: AbortSignal | undefined,
  ): Promise<boolean> {
    signal?.throwIfAborted();
    const { bytes, key, count, kind } = source;
    const client = this.#client;
    const blob = (this.#blobNumber = (this.#blobNumber + 1) >>> 0);
    const total = bytes.length;
    const flags = kind === 'batch' ? CHUNK_OF_BATCH : 0;
    const window: Promise<boolean>[] = [];
    try {
      for (let offset = 0; offset < total; offset += CHUNK_BYTES) {
        const length = Math.min(CHUNK_BYTES, total - offset);
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
    } catch (error) {
      await Promise.allSettled(window);
      await this.#send(newRequest(0, 0, 0, 0, 0, RequestType.DropBlob)).catch(() => undefined);
      throw error;
    }
    const last = newRequest(operationBytes(key.length, BLOB_REFERENCE_BYTES), durability, condition, hash, version);
    const opKind = kind === 'batch' ? OperationKind.ApplyBatch : OperationKind.PutBlob;
    writeOperationHeader(last, REQUEST_HEADER_BYTES, opKind, 0, key.length, BLOB_REFERENCE_BYTES);
    last.set(key, REQUEST_HEADER_BYTES + OPERATION_HEADER_BYTES);
    writeBlobReference(last, REQUEST_HEADER_BYTES + OPERATION_HEADER_BYTES + key.length, {
      client,
      blob,
      offset: total,
      count,
    });
    return this.#send(last);
  }

  #send(request: Buffer): Promise<boolean> {
    const waits = this.#queueHead < this.#queue.length || this.#lost !== undefined;
    const at = waits ? -1 : this.requests.reserve(request.length);
    if (at < 0) return this.enqueue(request, undefined);
    this.requests.bytes.set(request, at);
    return this.submit();
  }
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
