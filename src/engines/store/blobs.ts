/**
 * Blobs on their way in: large values and large batches, which come in chunks before the record that puts them in place.
 *
 *   first chunk ──▶ a value: its overflow pages fill      ──take()──▶ its final record makes an entry of them, or applies them
 *                   a batch: its records are collected    ──drop()──▶ given up: by its client, or since another one of that client begins
 *
 * Must hold: a client sends its blobs one after another, so each client slot has at most one. Chunks are log records: a replay of all frames from
 * neededFromLsn on has the same blobs. What is not in order, or of a blob that was given up, goes nowhere.
 * Threads: the shard's thread only.
 */
import { ConcordError } from '../../shared/errors.js';
import type { ArenaWriter } from '../../shared/memory/arena.js';
import { OverflowWriter } from '../btree/overflow.js';
import {
  BLOB_REFERENCE_BYTES,
  CHUNK_OF_BATCH,
  MAX_BATCH_BYTES,
  OPERATION_HEADER_BYTES,
  readBlobReference,
  readValueLength,
} from '../operation.js';

export interface IncomingBlob {
  readonly blob: number;
  readonly ofBatch: boolean;
  readonly totalBytes: number;
  /** Of a value: the chain that it fills. */
  readonly overflow: OverflowWriter | undefined;
  /** Of a batch: its operation records. */
  readonly batch: Buffer | undefined;
  receivedBytes: number;
  /** Frame of its first chunk. */
  readonly firstLsn: number;
}

export interface DroppedBlob {
  readonly client: number;
  readonly blob: number;
  readonly ofBatch: boolean;
}

export class IncomingBlobs {
  readonly #arena: ArenaWriter;
  /** By client slot. */
  readonly #blobs = new Map<number, IncomingBlob>();

  constructor(arena: ArenaWriter) {
    this.#arena = arena;
  }

  /** The Chunk record at `at`, of frame `lsn`. @throws ERR_CORRUPT, ERR_MEMORY_FULL */
  receive(bytes: Uint8Array, at: number, lsn: number): void {
    const { client, blob, offset, count: totalBytes } = readBlobReference(bytes, at + OPERATION_HEADER_BYTES);
    if (offset === 0) {
      // Without bytes: its client gave it up.
      if (totalBytes === 0) {
        if (this.#blobs.get(client)?.blob === blob) this.drop(client);
        return;
      }
      this.drop(client);
      this.#blobs.set(client, this.#begin(blob, totalBytes, bytes[at + 1] === CHUNK_OF_BATCH, lsn));
    }
    const incoming = this.#blobs.get(client);
    // A chunk of a blob that was dropped meanwhile (its client gave up, memory ran out) goes nowhere.
    if (incoming?.blob !== blob || incoming.receivedBytes !== offset) return;
    const length = readValueLength(bytes, at);
    if (offset + length > incoming.totalBytes) throw new ConcordError('ERR_CORRUPT', 'blob chunk beyond its total');
    const start = at + OPERATION_HEADER_BYTES + BLOB_REFERENCE_BYTES;
    if (incoming.batch !== undefined) incoming.batch.set(bytes.subarray(start, start + length), offset);
    else incoming.overflow!.append(bytes, start, length);
    incoming.receivedBytes += length;
  }

  #begin(blob: number, totalBytes: number, ofBatch: boolean, firstLsn: number): IncomingBlob {
    let overflow: OverflowWriter | undefined;
    let batch: Buffer | undefined;
    if (ofBatch) {
      if (totalBytes > MAX_BATCH_BYTES) throw new ConcordError('ERR_CORRUPT', 'batch blob above the limit');
      batch = Buffer.allocUnsafeSlow(totalBytes);
    } else {
      overflow = new OverflowWriter(this.#arena);
      overflow.begin(totalBytes);
    }
    return { blob, ofBatch, totalBytes, overflow, batch, receivedBytes: 0, firstLsn };
  }

  /** Whether all of the named blob is here. */
  isComplete(client: number, blob: number, totalBytes: number): boolean {
    const incoming = this.#blobs.get(client);
    return incoming?.blob === blob && incoming.receivedBytes === totalBytes;
  }

  /** The named blob, for whoever puts it in place. Undefined: it is not here, or not all of it. */
  take(client: number, blob: number, totalBytes: number): IncomingBlob | undefined {
    if (!this.isComplete(client, blob, totalBytes)) return undefined;
    const incoming = this.#blobs.get(client);
    this.#blobs.delete(client);
    return incoming;
  }

  /** Records of the batch that a client sends. */
  batchOf(client: number): Buffer | undefined {
    return this.#blobs.get(client)?.batch;
  }

  /** What the client had sent goes. */
  drop(client: number): DroppedBlob | undefined {
    const incoming = this.#blobs.get(client);
    if (incoming === undefined) return undefined;
    const { blob, ofBatch, overflow } = incoming;
    overflow?.abort();
    this.#blobs.delete(client);
    return { client, blob, ofBatch };
  }

  dropAll(): DroppedBlob[] {
    return Array.from(this.#blobs.keys(), (client) => this.drop(client)!);
  }

  /** First frame that carries a chunk of one; Infinity: there is none. */
  get neededFromLsn(): number {
    let lsn = Infinity;
    for (const { firstLsn } of this.#blobs.values()) lsn = Math.min(lsn, firstLsn);
    return lsn;
  }
}
