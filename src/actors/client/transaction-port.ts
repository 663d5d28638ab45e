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
import { PromisedAnswer, type Caller } from './caller.js';
import { newRequest, type ShardLink } from './shard-link.js';
import type { ThreadClient } from './thread-client.js';

export type { LockCall } from '../shard/request.js';

const TWO_32 = 2 ** 32;
const CHUNKS_IN_FLIGHT = 4;
/** The body of a decision, as decision-queue.ts reads it: the transaction, the masks of those that write, the vote epoch. */
const decision = new Int32Array(6);
const decisionNumbers = new Float64Array(decision.buffer);
const nothing = new Int32Array(0);

export class TransactionPort {
  readonly #client: ThreadClient;
  #streams = 0;
  /** By shard: bodies that are being sent in chunks, and who waits for their turn. */
  readonly #sending = new Map<number, { active: number; readonly waiting: (() => void)[] }>();
  /** Commits whose bodies are on their way in chunks: whether they were given up. */
  readonly #unsent = new Map<number, boolean>();

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

  /**
   * Validates and applies all of a transaction, in the one shard it writes to; the caller hears ERR_CONFLICT, … or that it was done. The body may be used again
   * when this returns. @throws ERR_CLOSED, ERR_SHARD_FAILED: nothing was sent
   */
  commitOne(shard: number, body: TransactionBodyWriter, level: number, caller: Caller): void {
    this.#sendBody(RequestType.Transaction, shard, body, level, caller);
  }

  /** As commitOne(), but done means: the shard votes yes, and holds what it needs to commit. */
  prepare(shard: number, body: TransactionBodyWriter, level: number, caller: Caller): void {
    this.#sendBody(RequestType.Prepare, shard, body, level, caller);
  }

  #sendBody(type: number, shard: number, body: TransactionBodyWriter, level: number, caller: Caller): void {
    const link = this.#link(shard);
    const { bytes, length } = body;
    const at = length > BODY_INLINE_MAX_BYTES ? -1 : link.reserve(length);
    if (at < 0) {
      const commit = type === RequestType.Transaction ? body.id : 0;
      this.#sendOwn(link, type, commit, Buffer.from(bytes.subarray(0, length)), level, caller);
      return;
    }
    const { requests } = link;
    writeRequestHeader(requests.bytes, requests.words, at, type, level, 0, 0, 0);
    const { words } = body;
    for (let from = 0, to = (at + REQUEST_HEADER_BYTES) >> 2, end = length >> 2; from < end; from++, to++) {
      requests.words[to] = words[from]!;
    }
    link.submitFor(caller);
  }

  /** `commit`: id of a transaction that may be given up, or 0. */
  #sendOwn(link: ShardLink, type: number, commit: number, body: Buffer, level: number, caller: Caller): void {
    if (body.length > BODY_INLINE_MAX_BYTES) {
      this.#sendInChunks(link, type, commit, body, level).then(
        (isApplied) => {
          caller.answered(isApplied);
        },
        (error: unknown) => {
          caller.failed(error as Error);
        },
      );
      return;
    }
    const request = newRequest(body.length, level, 0, 0, 0, type);
    request.set(body, REQUEST_HEADER_BYTES);
    sendFor(caller, link, request);
  }

  async #sendInChunks(link: ShardLink, type: number, commit: number, body: Buffer, level: number): Promise<boolean> {
    if (commit !== 0) this.#unsent.set(commit, false);
    await this.#beginStream(link.shard);
    const stream = (this.#streams = (this.#streams + 1) & 0xfffff);
    const window: Promise<boolean>[] = [];
    let sent: Promise<boolean>;
    try {
      this.#checkUnsent(commit);
      for (let offset = 0; offset < body.length; offset += BODY_INLINE_MAX_BYTES) {
        const chunk = body.subarray(offset, offset + BODY_INLINE_MAX_BYTES);
        const version = stream * TWO_32 + offset;
        const request = newRequest(chunk.length, 0, 0, body.length, version, RequestType.BodyChunk);
        request.set(chunk, REQUEST_HEADER_BYTES);
        window.push(send(link, request));
        // The first is refused if all of it is too much.
        if (window.length >= CHUNKS_IN_FLIGHT || offset === 0) await window.shift();
        this.#checkUnsent(commit);
      }
      await Promise.all(window.splice(0));
      this.#checkUnsent(commit);
      sent = send(link, newRequest(0, level, BODY_IN_CHUNKS, 0, stream * TWO_32, type));
    } catch (error) {
      await Promise.allSettled(window);
      if (this.#unsent.get(commit) === true) {
        const drop = newRequest(0, 0, BODY_IN_CHUNKS, 0, stream * TWO_32, RequestType.Release);
        sendFor(nobody, link, drop);
      }
      throw error;
    } finally {
      this.#unsent.delete(commit);
      // The request that uses it is in the ring before the next one's chunks.
      this.#endStream(link.shard);
    }
    return sent;
  }

  /** @throws ERR_TRANSACTION_CLOSED: it was given up */
  #checkUnsent(commit: number): void {
    if (this.#unsent.get(commit) !== true) return;
    throw new ConcordError('ERR_TRANSACTION_CLOSED', 'given up before all of it was sent');
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
   * All shards of the masks have voted yes. Done: committed, and visible on each of them. The caller hears ERR_CONFLICT: it was given up meanwhile;
   * ERR_READ_ONLY, ERR_DISK_FULL: nothing was decided; ERR_SHARD_FAILED. @throws ERR_CLOSED, ERR_SHARD_FAILED: nothing was sent
   */
  decide(txn: number, maskLow: number, maskHigh: number, level: number, voteEpoch: number, caller: Caller): void {
    const link = this.#client.requireCoordinator();
    decisionNumbers[0] = txn;
    decision[2] = maskLow;
    decision[3] = maskHigh;
    decisionNumbers[2] = voteEpoch;
    sendWords(caller, link, RequestType.Decide, level, 0, decision);
  }

  /** Locks of the transaction go, and what it has prepared, unless it was decided. Nobody waits for it: a shard that is down has forgotten them anyway. */
  release(shard: number, txn: number): void {
    const { link } = this.#client.shards[shard]!;
    sendWords(nobody, link, RequestType.Release, 0, txn, nothing);
  }

  /** What commitOne() has asked for is not done if it waits for locks, or is not sent: its caller hears ERR_TRANSACTION_CLOSED then, and otherwise what became of it. */
  giveUp(shard: number, txn: number): void {
    // What uses the chunks would come behind the Release.
    if (this.#unsent.has(txn)) this.#unsent.set(txn, true);
    else this.release(shard, txn);
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
  const caller = new PromisedAnswer();
  sendFor(caller, link, request);
  return caller.promise;
}

function sendFor(caller: Caller, link: ShardLink, request: Buffer): void {
  const at = link.reserve(request.length - REQUEST_HEADER_BYTES);
  if (at < 0) {
    link.enqueueFor(caller, request, undefined);
    return;
  }
  link.requests.bytes.set(request, at);
  link.submitFor(caller);
}

/** A short request, which has no memory of its own while the ring has room. */
function sendWords(
  caller: Caller,
  link: ShardLink,
  type: number,
  level: number,
  version: number,
  body: Int32Array,
): void {
  const at = link.reserve(body.byteLength);
  if (at < 0) {
    const request = newRequest(body.byteLength, level, 0, 0, version, type);
    request.set(new Uint8Array(body.buffer), REQUEST_HEADER_BYTES);
    link.enqueueFor(caller, request, undefined);
    return;
  }
  const { bytes, words } = link.requests;
  writeRequestHeader(bytes, words, at, type, level, 0, 0, version);
  const start = (at + REQUEST_HEADER_BYTES) >> 2;
  for (let i = 0; i < body.length; i++) words[start + i] = body[i]!;
  link.submitFor(caller);
}

/** Whatever becomes of it. */
const nobody: Caller = {
  answered() {
    // It was done.
  },
  failed() {
    // The shard is gone, and what it held with it.
  },
};
