/**
 * One thread's requests about transactions: locks, commits, votes, decisions. What they mean together is up to actors/transaction; here they are
 * written into the rings. Threads: the one that owns the client.
 */
import { ConcordError } from '../../shared/errors.js';
import type { TransactionBodyWriter } from '../../engines/txn/body.js';
import {
  BODY_INLINE_MAX_BYTES,
  BODY_IN_CHUNKS,
  BODY_STREAMS_MAX,
  REQUEST_HEADER_BYTES,
  RequestType,
  encodeLockCall,
  writeRequestHeader,
  type LockCall,
} from '../shard/request.js';
import { newRequest, type ShardLink } from './shard-link.js';
import type { ThreadClient } from './thread-client.js';

export type { LockCall } from '../shard/request.js';

const TWO_32 = 2 ** 32;
const CHUNKS_IN_FLIGHT = 4;
/** As decision-queue.ts reads it. */
const DECISION_BYTES = 24;

export class TransactionPort {
  readonly #client: ThreadClient;
  #streams = 0;
  /** By shard: bodies that are being sent in chunks, and who waits for their turn. */
  readonly #sending = new Map<number, { active: number; readonly waiting: (() => void)[] }>();

  constructor(client: ThreadClient) {
    this.#client = client;
  }

  /** A number no other transaction has or had, in any life of the store; later ones are higher. */
  newId(): number {
    return this.#client.control.takeCommitNumber();
  }

  /** How often the shard was replaced: locks do not survive it. */
  restarts(shard: number): number {
    return this.#client.control.shardRestarts(shard);
  }

  /**
   * Resolves when the lock is held.
   * @throws ERR_DEADLOCK, ERR_LOCK_TIMEOUT, ERR_CONFLICT, ERR_SHARD_RESTARTED, ERR_SPACE_DROPPED, ERR_CLOSED, ERR_SHARD_FAILED
   */
  async lock(shard: number, call: LockCall): Promise<void> {
    const link = this.#link(shard);
    const body = encodeLockCall(call);
    const request = newRequest(body.length, 0, 0, 0, 0, RequestType.Lock);
    request.set(body, REQUEST_HEADER_BYTES);
    await send(link, request);
  }

  /** Validates and applies all of a transaction, in the one shard it writes to. The body may be used again when this returns. @throws ERR_CONFLICT, … */
  commitOne(shard: number, body: TransactionBodyWriter, level: number): Promise<boolean> {
    return this.#sendBody(RequestType.Transaction, shard, body, level);
  }

  /** Resolved: the shard votes yes, and holds what it needs to commit. The body may be used again when this returns. @throws ERR_CONFLICT, … */
  prepare(shard: number, body: TransactionBodyWriter, level: number): Promise<boolean> {
    return this.#sendBody(RequestType.Prepare, shard, body, level);
  }

  #sendBody(type: number, shard: number, body: TransactionBodyWriter, level: number): Promise<boolean> {
    const link = this.#link(shard);
    const { bytes, length } = body;
    if (length > BODY_INLINE_MAX_BYTES) {
      return this.#sendOwn(link, type, Buffer.from(bytes.subarray(0, length)), level);
    }
    const at = link.reserve(length);
    if (at < 0) return this.#sendOwn(link, type, Buffer.from(bytes.subarray(0, length)), level);
    const { requests } = link;
    writeRequestHeader(requests.bytes, requests.words, at, type, level, 0, 0, 0);
    const { words } = body;
    for (let from = 0, to = (at + REQUEST_HEADER_BYTES) >> 2, end = length >> 2; from < end; from++, to++) {
      requests.words[to] = words[from]!;
    }
    return link.submit();
  }

  async #sendOwn(link: ShardLink, type: number, body: Buffer, level: number): Promise<boolean> {
    if (body.length <= BODY_INLINE_MAX_BYTES) {
      const request = newRequest(body.length, level, 0, 0, 0, type);
      request.set(body, REQUEST_HEADER_BYTES);
      return send(link, request);
    }
    await this.#beginStream(link.shard);
    const stream = (this.#streams = (this.#streams + 1) & 0xfffff);
    const window: Promise<boolean>[] = [];
    let sent: Promise<boolean>;
    try {
      for (let offset = 0; offset < body.length; offset += BODY_INLINE_MAX_BYTES) {
        const chunk = body.subarray(offset, offset + BODY_INLINE_MAX_BYTES);
        const version = stream * TWO_32 + offset;
        const request = newRequest(chunk.length, 0, 0, body.length, version, RequestType.BodyChunk);
        request.set(chunk, REQUEST_HEADER_BYTES);
        window.push(send(link, request));
        // The first is refused if all of it is too much.
        if (window.length >= CHUNKS_IN_FLIGHT || offset === 0) await window.shift();
      }
      await Promise.all(window.splice(0));
      sent = send(link, newRequest(0, level, BODY_IN_CHUNKS, 0, stream * TWO_32, type));
    } catch (error) {
      await Promise.allSettled(window);
      throw error;
    } finally {
      // The request that uses it is in the ring before the next one's chunks.
      this.#endStream(link.shard);
    }
    return sent;
  }

  async #beginStream(shard: number): Promise<void> {
    let sending = this.#sending.get(shard);
    if (sending === undefined) this.#sending.set(shard, (sending = { active: 0, waiting: [] }));
    const { waiting } = sending;
    if (sending.active < BODY_STREAMS_MAX) sending.active++;
    else await new Promise<void>((resolve) => waiting.push(resolve));
  }

  /** Whoever waits longest has the place. */
  #endStream(shard: number): void {
    const sending = this.#sending.get(shard)!;
    const next = sending.waiting.shift();
    if (next === undefined) sending.active--;
    else next();
  }

  /**
   * All shards of the masks have voted yes. Resolved: committed, and visible on each of them.
   * @throws ERR_CONFLICT: it was given up meanwhile; ERR_READ_ONLY, ERR_DISK_FULL: nothing was decided; ERR_SHARD_FAILED
   */
  async decide(txn: number, maskLow: number, maskHigh: number, level: number, voteEpoch: number): Promise<void> {
    const link = this.#client.requireCoordinator();
    const request = newRequest(DECISION_BYTES, level, 0, 0, 0, RequestType.Decide);
    request.writeDoubleLE(txn, REQUEST_HEADER_BYTES);
    request.writeInt32LE(maskLow | 0, REQUEST_HEADER_BYTES + 8);
    request.writeInt32LE(maskHigh | 0, REQUEST_HEADER_BYTES + 12);
    request.writeDoubleLE(voteEpoch, REQUEST_HEADER_BYTES + 16);
    await send(link, request);
  }

  /** Locks of the transaction go, and what it has prepared, unless it was decided. Nobody waits for it: a shard that is down has forgotten them anyway. */
  release(shard: number, txn: number): void {
    const { link } = this.#client.shards[shard]!;
    send(link, newRequest(0, 0, 0, 0, txn, RequestType.Release)).catch(() => undefined);
  }

  /** @throws ERR_CLOSED, ERR_SHARD_FAILED */
  #link(shard: number): ShardLink {
    this.#client.assertWritable(shard);
    const line = this.#client.shards[shard];
    if (line === undefined) throw new ConcordError('ERR_INTERNAL', `there is no shard ${shard}`);
    return line.link;
  }
}

function send(link: ShardLink, request: Buffer): Promise<boolean> {
  const at = link.reserve(request.length - REQUEST_HEADER_BYTES);
  if (at < 0) return link.enqueue(request, undefined);
  link.requests.bytes.set(request, at);
  return link.submit();
}
