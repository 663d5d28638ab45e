/**
 * What the log has begun and not ended: values and batches on their way in chunks, prepared transactions. Kept by their places in the log, and as
 * bytes as long as these are few: beyond that they are read again when they end.
 *
 * Threads: the reader's.
 */
import { ConcordError } from '../../shared/errors.js';
import type { FeedFrame, FeedSource } from './source.js';

/** A stretch of a frame, now or later. */
export interface Piece {
  readonly generation: number;
  /** Of its frame. */
  readonly frameOffset: number;
  readonly lsn: number;
  /** In the frame's payload. */
  readonly at: number;
  readonly length: number;
  bytes: Buffer | undefined;
}

/** A value, a batch or a transaction's writes: pieces that follow one another. */
export interface Stretch {
  readonly totalBytes: number;
  readonly pieces: readonly Piece[];
}

interface Incoming {
  readonly blob: number;
  readonly totalBytes: number;
  receivedBytes: number;
  readonly pieces: Piece[];
}

export interface Prepared {
  readonly maskLow: number;
  readonly maskHigh: number;
  readonly writes: Stretch;
}

export class Unfinished {
  /** One per client: it sends its blobs one after another. */
  readonly #incoming = new Map<number, Incoming>();
  readonly #prepared = new Map<number, Prepared>();
  readonly #keptBytesMax: number;
  #keptBytes = 0;

  constructor(keptBytesMax: number) {
    this.#keptBytesMax = keptBytesMax;
  }

  clear(): void {
    this.#incoming.clear();
    this.#prepared.clear();
    this.#keptBytes = 0;
  }

  /** As the shard does: see IncomingBlobs in store/blobs.ts. `at`: of the bytes, in frame.bytes. */
  chunk(
    frame: FeedFrame,
    at: number,
    length: number,
    reference: { readonly client: number; readonly blob: number; readonly offset: number; readonly count: number },
  ): void {
    const { client, blob, offset, count } = reference;
    let incoming = this.#incoming.get(client);
    if (offset === 0) {
      if (count === 0) {
        if (incoming?.blob === blob) this.#dropIncoming(client);
        return;
      }
      this.#dropIncoming(client);
      incoming = { blob, totalBytes: count, receivedBytes: 0, pieces: [] };
      this.#incoming.set(client, incoming);
    }
    if (incoming?.blob !== blob || incoming.receivedBytes !== offset) return;
    if (offset + length > incoming.totalBytes) {
      const place = frame.payloadOffset + at - frame.start;
      throw new ConcordError('ERR_CORRUPT', `${frame.file} at ${place}: a chunk beyond the end of its value`, {
        file: frame.file,
        offset: place,
      });
    }
    incoming.receivedBytes += length;
    incoming.pieces.push(this.#keep(frame, at, length));
  }

  /** What a record names that ends a blob; undefined if it has not been seen from its beginning. */
  takeBlob(client: number, blob: number, totalBytes: number): Stretch | undefined {
    const incoming = this.#incoming.get(client);
    if (incoming?.blob !== blob || incoming.receivedBytes !== totalBytes) return undefined;
    this.#incoming.delete(client);
    this.#letGo(incoming.pieces);
    return incoming;
  }

  /** `at`: of the writes, in frame.bytes. */
  prepare(frame: FeedFrame, id: number, maskLow: number, maskHigh: number, at: number, length: number): void {
    this.takePrepared(id);
    const writes = { totalBytes: length, pieces: [this.#keep(frame, at, length)] };
    this.#prepared.set(id, { maskLow, maskHigh, writes });
  }

  hasPrepared(id: number): boolean {
    return this.#prepared.has(id);
  }

  takePrepared(id: number): Prepared | undefined {
    const prepared = this.#prepared.get(id);
    if (prepared === undefined) return undefined;
    this.#prepared.delete(id);
    this.#letGo(prepared.writes.pieces);
    return prepared;
  }

  #dropIncoming(client: number): void {
    const incoming = this.#incoming.get(client);
    if (incoming === undefined) return;
    this.#incoming.delete(client);
    this.#letGo(incoming.pieces);
  }

  #keep(frame: FeedFrame, at: number, length: number): Piece {
    const isKept = this.#keptBytes + length <= this.#keptBytesMax;
    if (isKept) this.#keptBytes += length;
    return {
      generation: frame.generation,
      frameOffset: frame.offset,
      lsn: frame.lsn,
      at: at - frame.start,
      length,
      // A copy: the bytes around it are to be given back.
      bytes: isKept ? Buffer.from(frame.bytes.subarray(at, at + length)) : undefined,
    };
  }

  #letGo(pieces: readonly Piece[]): void {
    for (const { bytes, length } of pieces) if (bytes !== undefined) this.#keptBytes -= length;
  }
}

/** All of it, in one stretch of memory. @throws ERR_FEED_TRUNCATED, ERR_CORRUPT, ERR_IO */
export function loadStretch(source: FeedSource, { totalBytes, pieces }: Stretch): Buffer {
  if (pieces.length === 1 && pieces[0]!.bytes !== undefined) return pieces[0]!.bytes;
  const whole = Buffer.allocUnsafeSlow(totalBytes);
  let at = 0;
  let frame: FeedFrame | undefined;
  for (const piece of pieces) {
    let { bytes } = piece;
    if (bytes === undefined) {
      // Pieces of one frame follow one another.
      if (frame?.lsn !== piece.lsn) frame = source.reload(piece.generation, piece.frameOffset, piece.lsn);
      const start = frame.start + piece.at;
      bytes = frame.bytes.subarray(start, start + piece.length);
    }
    whole.set(bytes, at);
    at += piece.length;
  }
  return whole;
}
