/**
 * What a shard does for transactions, beside its groups: it keeps the locks, looks again at what was read, votes, applies what is decided.
 *
 *   Transaction   validate ─▶ its writes into the group, like a batch                                   (all of it is in this shard)
 *   Prepare       locks ─▶ validate ─▶ Prepare record into the group ─▶ yes, when the group is logged   (one of several shards)
 *   commit board  ─▶ Resolve records into the next group, with the number of the commit                 (see commit-board.ts)
 *   Release       locks go, and what was prepared, unless it is decided; a Transaction that is set aside is refused, and never applied
 *
 *   a participant:   ── Prepare ──▶ in the group ──logged──▶ prepared ──on the board──▶ resolving ──published──▶ gone
 *                                    │ log failed              │ Release, client gone, coordinator says "aborted"     (log failed: back to prepared)
 *                                    ▼                         ▼
 *                                  gone (vote: no)           gone (Resolve 0, lazily)
 *
 * Requests that meet a lock are set aside with a copy of their bytes, answered Deferred, and taken again when the locks they need are theirs: then they hold
 * them until their group has ended, so nobody overtakes them twice. Commits wait by the priority and the age of their transactions, but not before plain writes
 * of the same keys that their thread has made earlier.
 *
 * Must hold: what is validated stays true until its group is published. So a key that the open group touches, or that another transaction has
 * locked against the access, is waited for. Locks of a prepared transaction go when its outcome is published, not before: a snapshot that saw a later
 * write of a key it has read would see it before the transaction that read the key earlier.
 * A successor of a dead shard finds what is prepared in the log, with its write locks; the read locks are lost, so it serves nothing else until all of those
 * are resolved, which it asks the coordinator for. Threads: the shard's thread only.
 */
import { isUtf8 } from 'node:buffer';
import type { MessagePort } from 'node:worker_threads';
import { assert } from '../../shared/assert.js';
import { ConcordError, type ErrorRecord } from '../../shared/errors.js';
import { hashBytes } from '../../shared/hash.js';
import { IdMap } from '../../shared/id-map.js';
import type { Doorbell } from '../../shared/memory/park.js';
import { checkOperation, operationKeyAt, readKeyLength, readOperationSpace } from '../../engines/operation.js';
import { RESOLVE_RECORD_BYTES, prepareRecordBytes, type PreparedTransaction } from '../../engines/store/prepared.js';
import type { ShardStore } from '../../engines/store/shard-store.js';
import { Isolation, TransactionBody } from '../../engines/txn/body.js';
import type { LockHolder } from '../../engines/txn/locks/description.js';
import type { LockPoint, LockWait } from '../../engines/txn/locks/lock.js';
import { LockTable, type DeadlockPolicy } from '../../engines/txn/locks/lock-table.js';
import { LockMode } from '../../engines/txn/locks/mode.js';
import { Validator } from '../../engines/txn/validator.js';
import { ShardCounter, type ControlBlock } from '../control-block.js';
import type { CoordinatorToShard, ShardToCoordinator } from '../coordinator/messages.js';
import { ShardHistogram } from '../metrics/board.js';
import { HISTOGRAM_LENGTH, record } from '../metrics/histogram.js';
import type { ClientLink } from './client-link.js';
import {
  BODY_IN_CHUNKS,
  BODY_STREAMS_MAX,
  REQUEST_HEADER_BYTES,
  ResponseStatus,
  decodeLockCall,
  type LockCall,
} from './request.js';

const TWO_32 = 2 ** 32;
const NS_PER_MS = 1e6;
/** So long a prepared transaction waits before its shard asks what became of it. */
const ASK_AFTER_MS = 2000;
const ASK_EVERY_MS = 1000;
/** Commits that found no place on the disk are tried again after this. */
const RETRY_MS = 200;
/** Writes and commits that wait for locks: how many, each of which takes a turn of the shard when its lock is free, and what they may take of memory. */
const SET_ASIDE_MAX = 8192;
const SET_ASIDE_BYTES_MAX = 64 << 20;
/** What waiting for a key takes beside the request's bytes. */
const WAITED_KEY_BYTES = 512;

export interface TransactionSettings {
  readonly deadlock: DeadlockPolicy;
  /** Bytes of one transaction's body in one shard, at most. */
  readonly bodyBytesMax: number;
  /** How long a plain write waits for a lock. */
  readonly lockTimeoutMs: number;
}

export const DEFAULT_TRANSACTION_SETTINGS: TransactionSettings = {
  deadlock: 'detect',
  bodyBytesMax: 32 << 20,
  lockTimeoutMs: 5000,
};

/** A request that waits for locks, or has them and is to be taken. */
export class DeferredRequest {
  readonly link: ClientLink;
  readonly request: number;
  readonly bytes: Buffer;
  readonly words: Int32Array;
  readonly length: number;
  /** What it needs locked. */
  points: readonly LockPoint[] = [];
  /** The owner of its locks; 0: it waits for them. */
  holder = 0;
  /** What has come in chunks before it. */
  body: BodyStream | undefined;
  /** Memory that it is counted with; 0: it is not, or no more. */
  countedBytes = 0;
  /** Since when it waits, on performance.now()'s clock; 0: it does not. */
  sinceMs = 0;
  /** Number of its wait in the lock table; 0: it did not wait. */
  wait = 0;
  /** The transaction whose commit it is; 0: a plain write. */
  txn = 0;

  constructor(link: ClientLink, request: number, source: Uint8Array, at: number, length: number) {
    this.link = link;
    this.request = request;
    this.bytes = Buffer.allocUnsafeSlow((length + 7) & ~7);
    this.bytes.set(source.subarray(at, at + length));
    this.words = new Int32Array(this.bytes.buffer);
    this.length = length;
  }
}

/** A lock that a transaction waits for. */
interface WaitingLock {
  readonly link: ClientLink;
  readonly request: number;
  readonly call: LockCall;
  isAnswered: boolean;
  /** As DeferredRequest has it. */
  sinceMs: number;
}

type Waiting = DeferredRequest | WaitingLock;

/** Who comes before whom, and how long he waits. */
interface Rank {
  readonly priority: number;
  /** 0: that of his arrival. */
  readonly age: number;
  readonly waitMs: number;
}

interface BodyStream {
  readonly bytes: Buffer;
  received: number;
}

/** Of a transaction that is prepared here. */
interface Participant {
  /** On performance.now()'s clock; 0: a predecessor has prepared it. */
  readonly sinceMs: number;
  /** Of the keys that it writes. */
  readonly hashes: readonly number[];
}

interface DueCommit {
  readonly id: number;
  readonly number: number;
  readonly index: number;
  /** As PreparedTransaction has it. */
  readonly nextExpiry: number;
}

/** The open group, as far as a transaction must know it. */
export interface OpenGroup {
  /** It holds changes of which it is not known what keys they touch. */
  isOpaque(): boolean;
  /** It holds no change. */
  isEmpty(): boolean;
  /** A change of a key with this hash may be in it. */
  touches(hash: number): boolean;
  touch(hash: number): void;
  /** Whether the writes may go into it, by records of so many bytes: memory, the log, files that keep up. @throws as of a batch */
  admits(bytes: Buffer, start: number, end: number, recordBytes: number): boolean;
}

/** What is to be done with a request: it is done, it is in the group, it must wait for the group's end, it is set aside. */
export const Verdict = { Done: 0, InGroup: 1, Hold: 2, Deferred: 3 } as const;
export type Verdict = (typeof Verdict)[keyof typeof Verdict];

export class ShardTransactions {
  readonly locks: LockTable<Waiting>;
  /** Requests whose locks are theirs, oldest first. */
  readonly ready: DeferredRequest[] = [];
  readonly #index: number;
  readonly #store: ShardStore;
  readonly #control: ControlBlock;
  readonly #settings: TransactionSettings;
  readonly #body = new TransactionBody();
  readonly #validator: Validator;
  #setAside = 0;
  #setAsideBytes = 0;
  /** Commits that are set aside and not taken yet, by transaction. */
  readonly #commitsAside = new IdMap<DeferredRequest>();
  /** Plain writes that are set aside: how many there are of each key's hash, by client. */
  readonly #writesAside = new Map<ClientLink, Map<number, number>>();
  readonly #streams = new Map<ClientLink, Map<number, BodyStream>>();
  /** Of the request at hand. */
  #stream: BodyStream | undefined;
  /** Owners of locks that are no transactions: below zero. */
  #lastHolder = 0;
  /** Where the commit board is looked at next. */
  #cursor: number;
  readonly #due: DueCommit[] = [];
  #dueNotBeforeMs = 0;
  /** What is prepared, until its outcome is published. */
  readonly #participants = new IdMap<Participant>();
  /** Participants that only read, by id: their clients. */
  readonly #readers = new IdMap<number>();
  /** Found in the log of a predecessor: nothing else is served before they are resolved. */
  readonly #inDoubt = new Set<number>();
  #port: MessagePort | undefined;
  /** Hashes of the keys of the body at hand, reads first. */
  #hashes = new Int32Array(64);
  #nextTickMs = 0;
  readonly #beganMs = performance.now();
  readonly #coordinatorBell: Doorbell;
  readonly #histograms: Float64Array;

  constructor(index: number, store: ShardStore, control: ControlBlock, settings: TransactionSettings) {
    this.#index = index;
    this.#store = store;
    this.#control = control;
    this.#coordinatorBell = control.coordinatorDoorbell;
    this.#histograms = control.board.shardHistograms(index);
    this.#settings = settings;
    this.#validator = new Validator(store);
    this.locks = new LockTable<Waiting>(
      { policy: settings.deadlock },
      {
        onGrant: (wait) => {
          this.#granted(wait);
        },
        onFail: ({ context }, error) => {
          this.#failed(context, error.toRecord());
        },
        onWait: (wait) => {
          this.#tellWait(wait);
        },
        onUnwait: (wait) => {
          this.#tell({ type: 'unwait', shard: index, txn: wait.owner!.id, wait: wait.number });
        },
      },
    );
    this.#cursor = control.commits.tail;
    const hashes: number[] = [];
    for (const prepared of store.prepared.all) this.#adopt(prepared, hashes);
    control.commits.resetPrepared(index, hashes);
  }

  /** The write locks of what a predecessor has prepared. `hashes`: their keys' are added. */
  #adopt(prepared: PreparedTransaction, hashes: number[]): void {
    const { id, client, writes } = prepared;
    const owner = this.locks.owner(id, id, 0, client);
    this.locks.markPrepared(owner);
    this.#inDoubt.add(id);
    const own: number[] = [];
    this.#participants.set(id, { sinceMs: 0, hashes: own });
    for (let at = 0; at < writes.length; at += checkOperation(writes, at, writes.length)) {
      const keyAt = operationKeyAt(writes, at);
      const length = readKeyLength(writes, at);
      const hash = hashBytes(writes, keyAt, length);
      this.locks.tryKey(owner, readOperationSpace(writes, at), writes, keyAt, length, hash, LockMode.Exclusive);
      own.push(hash);
    }
    for (const hash of own) hashes.push(hash);
  }

  // ---- the commit board -----------------------------------------------------------------------------------------------------------------

  /** Something is decided and not applied here. */
  get hasDue(): boolean {
    const { commits } = this.#control;
    if (this.#cursor === commits.head) return false;
    // Past the entries of others.
    this.#cursor = commits.due(this.#index, this.#cursor, 0, NOTHING);
    return this.#cursor !== commits.head && (this.#dueNotBeforeMs === 0 || performance.now() >= this.#dueNotBeforeMs);
  }

  /** Nothing but commits is served now. */
  get isInDoubt(): boolean {
    return this.#inDoubt.size > 0;
  }

  /** It is in doubt about something that is not known to be decided, and who was asked has had time to answer. */
  get hearsNothing(): boolean {
    if (!this.isInDoubt || this.#dueNotBeforeMs !== 0 || this.hasDue) return false;
    return performance.now() - this.#beganMs >= ASK_AFTER_MS;
  }

  /** The group has its numbers, `firstSeq` the first: what is decided with lower ones goes before it. */
  addDue(firstSeq: number): void {
    const { commits } = this.#control;
    this.#due.length = 0;
    commits.waitForClaim();
    if (this.#cursor === commits.head) return;
    const { prepared } = this.#store;
    commits.due(this.#index, this.#cursor, firstSeq, (id, number, index) => {
      const found = prepared.get(id);
      this.#due.push({ id, number, index, nextExpiry: found?.nextExpiry ?? Infinity });
      // Not prepared: a predecessor has applied it, or another life of the store had.
      if (found !== undefined) this.#store.addResolve(id, number);
    });
  }

  /** The group is published. Returns when the first of what was decided and is applied with it expires; Infinity: nothing does. */
  published(): number {
    if (this.#due.length === 0) return Infinity;
    const { commits } = this.#control;
    // First: whoever sees that all is applied goes by it. Also of a shard whose log has failed, which applies without a record.
    this.#control.setDecisionsNeededFrom(this.#index, this.#store.decisionsNeededFrom);
    let isLast = false;
    let expiresAt = Infinity;
    const nowMs = performance.now();
    for (const { id, index, nextExpiry } of this.#due) {
      expiresAt = Math.min(expiresAt, nextExpiry);
      const sinceMs = this.#participants.get(id)?.sinceMs ?? 0;
      if (sinceMs > 0) this.#record(ShardHistogram.Prepared, nowMs - sinceMs);
      if (commits.setApplied(this.#index, index)) isLast = true;
      this.#ended(id);
    }
    this.#cursor = (this.#due.at(-1)!.index + 1) | 0;
    this.#due.length = 0;
    this.#dueNotBeforeMs = 0;
    // Where another shard comes later, it rings.
    if (isLast) this.#coordinatorBell.unpark();
    return expiresAt;
  }

  /** The group was not: what was due stays so. */
  notPublished(): void {
    if (this.#due.length === 0) return;
    this.#due.length = 0;
    this.#dueNotBeforeMs = performance.now() + RETRY_MS;
  }

  /** When commits that could not be logged are tried again, on performance.now()'s clock; Infinity: there are none. */
  get dueAgainMs(): number {
    return this.#dueNotBeforeMs === 0 ? Infinity : this.#dueNotBeforeMs;
  }

  /** A prepared transaction has its outcome, and it shows. */
  #ended(id: number): void {
    const participant = this.#participants.get(id);
    if (participant !== undefined) {
      this.#participants.delete(id);
      for (const hash of participant.hashes) this.#control.commits.countPrepared(this.#index, hash, -1);
    }
    if (this.#inDoubt.size > 0) this.#inDoubt.delete(id);
    this.locks.release(id);
  }

  // ---- plain writes ---------------------------------------------------------------------------------------------------------------------

  /** Whether a plain write of the key must wait for a transaction. */
  isLocked(space: number, bytes: Uint8Array, keyAt: number, keyLength: number, hash: number): boolean {
    const { locks } = this;
    if (locks.isFree(hash)) return false;
    return locks.conflict(space, bytes, keyAt, keyLength, hash, LockMode.Exclusive, Infinity) !== 0;
  }

  /** The same for all (checked) records of a batch. */
  isAnyLocked(bytes: Uint8Array, start: number, end: number): boolean {
    if (this.locks.isEmpty) return false;
    for (let at = start; at < end; at += checkOperation(bytes, at, end)) {
      const keyAt = operationKeyAt(bytes, at);
      const length = readKeyLength(bytes, at);
      if (this.isLocked(readOperationSpace(bytes, at), bytes, keyAt, length, hashBytes(bytes, keyAt, length)))
        return true;
    }
    return false;
  }

  /** Whether a clear of the range must wait for a transaction. @throws ERR_DEADLOCK: for one of the same client, which waits for the clear */
  isRangeLocked(link: ClientLink, space: number, low: Uint8Array | undefined, high: Uint8Array | undefined): boolean {
    const { locks } = this;
    const by = locks.isEmpty ? 0 : locks.conflictRange(space, low, high, LockMode.Exclusive, Infinity);
    if (by === 0) return false;
    const owner = locks.findOwner(by);
    if (owner?.client === link.client && !owner.isPrepared) {
      throw new ConcordError('ERR_DEADLOCK', `a transaction of the same thread has locked a part of the range`, { by });
    }
    return true;
  }

  get lockTimeoutMs(): number {
    return this.#settings.lockTimeoutMs;
  }

  /** Sets a request aside until what its records write is free. @throws ERR_BUSY */
  deferWrites(waiting: DeferredRequest, bytes: Uint8Array, start: number, end: number): void {
    const { lockTimeoutMs: waitMs } = this.#settings;
    this.#defer(waiting, pointsOfWrites(bytes, start, end), { priority: 0, age: 0, waitMs });
  }

  #defer(waiting: DeferredRequest, points: readonly LockPoint[], { priority, age, waitMs }: Rank): void {
    const now = Date.now();
    const { link } = waiting;
    this.#countAside(waiting, points);
    waiting.points = points;
    if (waiting.txn !== 0) this.#commitsAside.set(waiting.txn, waiting);
    else this.#countWrites(waiting, 1);
    link.respond(waiting.request, ResponseStatus.Deferred, '');
    const since = age === 0 ? this.#control.nextSequence : age;
    const wait = this.locks.waitAnonymous(points, link.client, since, priority, now + waitMs, now, waiting);
    if (wait === undefined) {
      this.ready.push(waiting);
      return;
    }
    waiting.wait = wait.number;
    if (waiting.holder === 0) waiting.sinceMs = performance.now();
  }

  #countWrites({ link, points }: DeferredRequest, change: 1 | -1): void {
    let counts = this.#writesAside.get(link);
    if (counts === undefined) this.#writesAside.set(link, (counts = new Map<number, number>()));
    for (const { hash } of points) {
      const count = (counts.get(hash!) ?? 0) + change;
      if (count === 0) counts.delete(hash!);
      else counts.set(hash!, count);
    }
    if (counts.size === 0) this.#writesAside.delete(link);
  }

  /** A commit's place among those that wait. #hashes are those of its body. */
  #rankOf(link: ClientLink, body: TransactionBody): Rank {
    const { priority, age, reads, writes } = body;
    const waitMs = body.waitMs === 0 ? this.#settings.lockTimeoutMs : body.waitMs;
    const counts = this.#writesAside.get(link);
    if (counts !== undefined) {
      for (let i = reads; i < reads + writes; i++) {
        if (counts.has(this.#hashes[i]!)) return { priority: Math.min(0, priority), age: 0, waitMs };
      }
    }
    return { priority, age, waitMs };
  }

  /**
   * What is set aside takes memory and time of this thread, which every caller needs: there is a bound. To stop serving a caller's ring instead would keep
   * the commit from it that gives the lock back. @throws ERR_BUSY
   */
  #countAside(waiting: DeferredRequest, points: readonly LockPoint[]): void {
    const { bytes, body } = waiting;
    const countedBytes = bytes.length + (body?.bytes.length ?? 0) + WAITED_KEY_BYTES * (points.length + 1);
    const isTooMuch = this.#setAside >= SET_ASIDE_MAX || this.#setAsideBytes + countedBytes > SET_ASIDE_BYTES_MAX;
    // One alone is let in, whatever its size.
    if (isTooMuch && this.#setAside > 0) {
      throw new ConcordError(
        'ERR_BUSY',
        `shard ${this.#index}: ${this.#setAside} writes of ${this.#setAsideBytes} bytes wait for locks, at most ${SET_ASIDE_MAX} of ${SET_ASIDE_BYTES_MAX} may`,
        { shard: this.#index, waiting: this.#setAside, waitingBytes: this.#setAsideBytes },
      );
    }
    waiting.countedBytes = countedBytes;
    this.#setAside++;
    this.#setAsideBytes += countedBytes;
  }

  #letGo(waiting: DeferredRequest): void {
    if (waiting.countedBytes === 0) return;
    if (waiting.txn !== 0) this.#commitsAside.delete(waiting.txn);
    else this.#countWrites(waiting, -1);
    this.#setAside--;
    this.#setAsideBytes -= waiting.countedBytes;
    waiting.countedBytes = 0;
  }

  /** A deferred request has been taken, and its group has ended, or it was refused. */
  endDeferred(deferred: DeferredRequest): void {
    this.#letGo(deferred);
    if (deferred.holder !== 0) this.locks.release(deferred.holder);
    deferred.holder = 0;
  }

  #granted(wait: LockWait<Waiting>): void {
    const { context } = wait;
    this.#countWait(context);
    if (context instanceof DeferredRequest) this.#grantDeferred(context, wait);
    else this.#grantLock(context);
  }

  /** Nothing it wants is locked against it: it takes the locks, so that nobody comes before it is served. */
  #grantDeferred(deferred: DeferredRequest, { age, priority }: LockWait<Waiting>): void {
    const owner = this.locks.owner(--this.#lastHolder, age, priority, deferred.link.client);
    this.locks.markPrepared(owner);
    deferred.holder = owner.id;
    for (const { space, mode, key, hash, low, high } of deferred.points) {
      if (key === undefined)
        this.locks.tryRange(owner, space, low, high, mode === LockMode.Shared ? mode : LockMode.Exclusive);
      else this.locks.tryKey(owner, space, key, 0, key.length, hash!, mode);
    }
    this.ready.push(deferred);
  }

  #failed(waiting: Waiting, error: ErrorRecord): void {
    const { link, request } = waiting;
    this.#countWait(waiting);
    if (waiting instanceof DeferredRequest) this.#letGo(waiting);
    else waiting.isAnswered = true;
    link.respondError(request, error);
  }

  #countWait({ sinceMs }: Waiting): void {
    if (sinceMs > 0) this.#record(ShardHistogram.LockWait, performance.now() - sinceMs);
  }

  #record(which: number, ms: number): void {
    record(this.#histograms, which * HISTOGRAM_LENGTH, ms * NS_PER_MS);
  }

  /** What there is now, for whoever reads the shard's counters. */
  count(counters: Float64Array): void {
    const { held, waiting, waits, timeouts } = this.locks.figures;
    counters[ShardCounter.Prepared] = this.#participants.size;
    counters[ShardCounter.InDoubt] = this.#inDoubt.size;
    counters[ShardCounter.LocksHeld] = held;
    counters[ShardCounter.LocksAwaited] = waiting;
    counters[ShardCounter.SetAside] = this.#setAside;
    counters[ShardCounter.LockWaits] = waits;
    counters[ShardCounter.LockTimeouts] = timeouts;
    counters[ShardCounter.TransactionConflicts] = this.conflicts;
  }

  // ---- bodies ---------------------------------------------------------------------------------------------------------------------------

  get bodyBytesMax(): number {
    return Math.min(this.#settings.bodyBytesMax, this.#store.transactionBytesMax);
  }

  /** A piece of a long body. `version`: stream · 2^32 + offset. @throws ERR_TRANSACTION_TOO_LARGE, ERR_INTERNAL */
  takeChunk(link: ClientLink, bytes: Buffer, start: number, end: number, totalBytes: number, version: number): void {
    const limitBytes = this.bodyBytesMax;
    if (totalBytes > limitBytes || totalBytes <= 0) {
      throw new ConcordError(
        'ERR_TRANSACTION_TOO_LARGE',
        `the transaction has ${totalBytes} bytes of reads and writes in shard ${this.#index}; the limit is ${limitBytes}`,
        { limitBytes, shard: this.#index },
      );
    }
    const stream = Math.floor(version / TWO_32);
    const offset = version % TWO_32;
    let streams = this.#streams.get(link);
    if (streams === undefined) this.#streams.set(link, (streams = new Map<number, BodyStream>()));
    if (offset === 0) {
      streams.delete(stream);
      if (streams.size >= BODY_STREAMS_MAX) streams.delete(streams.keys().next().value!);
      streams.set(stream, { bytes: Buffer.allocUnsafeSlow(totalBytes), received: 0 });
    }
    const body = streams.get(stream);
    if (body === undefined || body.received !== offset || offset + end - start > body.bytes.length) {
      streams.delete(stream);
      throw lostBody(this.#index);
    }
    bytes.copy(body.bytes, offset, start, end);
    body.received += end - start;
  }

  /** The body of a request: it stands there, or has come in chunks before, which are kept until dropBody(). @throws ERR_CORRUPT, ERR_SHARD_RESTARTED */
  #openBody(
    link: ClientLink,
    bytes: Buffer,
    start: number,
    end: number,
    condition: number,
    version: number,
    deferred: DeferredRequest | undefined,
  ): TransactionBody {
    this.#stream = undefined;
    if (condition !== BODY_IN_CHUNKS) return this.#body.open(bytes, start, end);
    const body = deferred?.body ?? this.#streams.get(link)?.get(Math.floor(version / TWO_32));
    if (body === undefined || body.received !== body.bytes.length) throw lostBody(this.#index);
    this.#stream = body;
    return this.#body.open(body.bytes, 0, body.bytes.length);
  }

  /** A body that has come in chunks is not needed any more. `version`: stream · 2^32. */
  dropBody(link: ClientLink, version: number): void {
    this.#streams.get(link)?.delete(Math.floor(version / TWO_32));
  }

  // ---- commits and votes ----------------------------------------------------------------------------------------------------------------

  /**
   * A Transaction or Prepare. InGroup: it is done when the group is, and `memberOf` says what else depends on that.
   * @throws ERR_CONFLICT, ERR_DEADLOCK, ERR_BUSY, ERR_SHARD_RESTARTED, ERR_SPACE_DROPPED, ERR_MEMORY_FULL, ERR_TRANSACTION_TOO_LARGE, ERR_DISK_FULL
   */
  take(
    link: ClientLink,
    request: number,
    source: Buffer,
    at: number,
    length: number,
    isPrepare: boolean,
    condition: number,
    version: number,
    group: OpenGroup,
    deferred: DeferredRequest | undefined,
  ): Verdict {
    let verdict: Verdict = Verdict.Done;
    let id = 0;
    try {
      const body = this.#openBody(link, source, at + REQUEST_HEADER_BYTES, at + length, condition, version, deferred);
      id = body.id;
      verdict = isPrepare
        ? this.#prepare(link, body, group)
        : this.#commit(link, request, source, at, length, body, group, deferred);
      return verdict;
    } catch (error) {
      // It cannot go on: nobody waits longer for its locks.
      if (id !== 0) this.locks.release(id);
      throw error;
    } finally {
      if (verdict !== Verdict.Hold) {
        // One that is set aside keeps its own.
        if (deferred === undefined && condition === BODY_IN_CHUNKS) this.dropBody(link, version);
        // From here on it cannot be given up.
        if (deferred !== undefined) this.#commitsAside.delete(deferred.txn);
      }
    }
  }

  #commit(
    link: ClientLink,
    request: number,
    source: Buffer,
    at: number,
    length: number,
    body: TransactionBody,
    group: OpenGroup,
    deferred: DeferredRequest | undefined,
  ): Verdict {
    if (this.#isTouched(body, group)) return Verdict.Hold;
    if (body.isPessimistic) this.#checkLocks(body);
    else this.#checkReaders(body);
    if (deferred === undefined && !this.locks.isEmpty) {
      const rank = this.#rankOf(link, body);
      if (this.#isBodyLocked(body, rank)) {
        // It holds locks, here or as a reader of other shards: somebody may wait for it, so it does not wait for others.
        if (body.isPessimistic || body.lockEpoch !== 0) throw this.#lockedBy(0);
        const waiting = new DeferredRequest(link, request, source, at, length);
        waiting.body = this.#stream;
        waiting.txn = body.id;
        this.#defer(waiting, this.#pointsOf(body), rank);
        return Verdict.Deferred;
      }
    }
    this.#validate(body);
    const { bytes, writesStart, writesEnd } = body;
    if (!group.admits(bytes as Buffer, writesStart, writesEnd, writesEnd - writesStart)) return Verdict.Hold;
    const store = this.#store;
    this.#fetch(body);
    store.appendAll(bytes, writesStart, writesEnd);
    if (body.writes > 1) store.holdTogether();
    for (let i = 0; i < body.writes; i++) group.touch(this.#hashes[body.reads + i]!);
    return Verdict.InGroup;
  }

  /** The id of the transaction whose request was taken last; 0: it has none. */
  get idOfLast(): number {
    return this.#body.id;
  }

  hasLocks(id: number): boolean {
    return this.locks.findOwner(id) !== undefined;
  }

  #prepare(link: ClientLink, body: TransactionBody, group: OpenGroup): Verdict {
    const { locks } = this;
    const store = this.#store;
    const { id, writes } = body;
    if (id === 0) throw new ConcordError('ERR_INTERNAL', 'a transaction over several shards has no id');
    const known = store.prepared.get(id);
    // Told twice. What the open group prepares has no place in the log yet: both answers depend on the group.
    if (known !== undefined) return known.firstLsn === 0 ? Verdict.InGroup : Verdict.Done;
    if (this.#isTouched(body, group)) return Verdict.Hold;
    if (!store.prepared.hasRoom) return this.#noRoom(group);
    if (body.isPessimistic) this.#checkLocks(body);
    const owner = locks.owner(id, id, 0, link.client);
    this.#lockAll(body, owner);
    this.#validate(body);
    if (writes === 0) {
      // It votes yes by being done, and holds its locks until it is released.
      locks.markPrepared(owner);
      this.#readers.set(id, link.client);
      return Verdict.Done;
    }
    const { bytes, writesStart, writesEnd } = body;
    // It may be given up in the same group.
    const recordBytes = prepareRecordBytes(writesEnd - writesStart) + RESOLVE_RECORD_BYTES;
    if (!group.admits(bytes as Buffer, writesStart, writesEnd, recordBytes)) {
      if (!body.isPessimistic) locks.release(id);
      return Verdict.Hold;
    }
    this.#fetch(body);
    const key = { id, maskLow: body.maskLow, maskHigh: body.maskHigh, client: link.client };
    store.appendPrepare(key, bytes, writesStart, writesEnd);
    locks.markPrepared(owner);
    const hashes: number[] = [];
    for (let i = 0; i < writes; i++) {
      const hash = this.#hashes[body.reads + i]!;
      hashes.push(hash);
      this.#control.commits.countPrepared(this.#index, hash, 1);
    }
    this.#participants.set(id, { sinceMs: performance.now(), hashes });
    return Verdict.InGroup;
  }

  #noRoom(group: OpenGroup): Verdict {
    if (!group.isEmpty()) return Verdict.Hold;
    throw new ConcordError('ERR_CONFLICT', `shard ${this.#index} waits for the outcome of too many transactions`, {
      shard: this.#index,
    });
  }

  /** The group of a Prepare could not be logged. */
  notPrepared(id: number): void {
    this.#ended(id);
  }

  /** Fills #hashes. True when the group must end before this can be looked at. */
  #isTouched(body: TransactionBody, group: OpenGroup): boolean {
    const count = body.reads + body.writes;
    if (this.#hashes.length < count) this.#hashes = new Int32Array(2 * count);
    const hashes = this.#hashes;
    const { bytes } = body;
    let next = 0;
    for (body.rewindReads(); body.nextRead();) hashes[next++] = hashBytes(bytes, body.keyStart, body.keyLength);
    for (let at = body.writesStart; at < body.writesEnd; at += checkOperation(bytes, at, body.writesEnd)) {
      hashes[next++] = hashBytes(bytes, operationKeyAt(bytes, at), readKeyLength(bytes, at));
    }
    if (group.isEmpty()) return false;
    if (group.isOpaque() || body.ranges > 0) return true;
    for (let i = 0; i < next; i++) if (group.touches(hashes[i]!)) return true;
    return false;
  }

  /** @throws ERR_CONFLICT */
  #validate(body: TransactionBody): void {
    const conflict = this.#validator.validate(body);
    if (conflict === undefined) return;
    this.conflicts++;
    throw new ConcordError('ERR_CONFLICT', 'another transaction has changed what this one has read or writes', {
      shard: this.#index,
      space: conflict.space,
      key: keyText(conflict.key),
    });
  }

  /** Transactions refused because of what others had written. */
  conflicts = 0;

  #fetch(body: TransactionBody): void {
    const store = this.#store;
    if (!store.isPaged) return;
    for (let at = body.writesStart; at < body.writesEnd; at += checkOperation(body.bytes, at, body.writesEnd)) {
      store.fetch(body.bytes, at);
    }
  }

  /**
   * Of an optimistic one that other shards have voted for, with locks on what it has read there (lockEpoch: 1 + how often all shards were replaced before they
   * were asked): a shard that was replaced since has lost them, and others may have written there. @throws ERR_CONFLICT
   */
  #checkReaders({ lockEpoch }: TransactionBody): void {
    if (lockEpoch === 0) return;
    if (1 + this.#control.restarts === lockEpoch) return;
    this.conflicts++;
    throw new ConcordError(
      'ERR_CONFLICT',
      'a shard that had voted was replaced, and the locks it had voted with are gone',
      {
        shard: this.#index,
      },
    );
  }

  /** Of a pessimistic one: what it writes is locked by it, still. @throws ERR_CONFLICT, ERR_DEADLOCK */
  #checkLocks(body: TransactionBody): void {
    const { bytes, id, reads } = body;
    if (body.lockEpoch !== this.#control.shardRestarts(this.#index)) {
      throw new ConcordError('ERR_CONFLICT', `shard ${this.#index} was replaced; the locks held there are lost`, {
        shard: this.#index,
      });
    }
    const owner = this.locks.findOwner(id);
    if (owner !== undefined && owner.woundedBy !== 0) throw this.#lostLocks(id, owner.woundedBy);
    let next = reads;
    for (let at = body.writesStart; at < body.writesEnd; at += checkOperation(bytes, at, body.writesEnd)) {
      const keyAt = operationKeyAt(bytes, at);
      const length = readKeyLength(bytes, at);
      const space = readOperationSpace(bytes, at);
      const hash = this.#hashes[next++]!;
      if (owner === undefined || !this.locks.covers(owner, space, bytes, keyAt, length, hash, LockMode.Exclusive)) {
        throw this.#lostLocks(id, 0);
      }
    }
  }

  #lostLocks(id: number, by: number): ConcordError {
    return new ConcordError('ERR_DEADLOCK', `transaction ${id} has lost its locks in shard ${this.#index}`, {
      shard: this.#index,
      policy: this.#settings.deadlock,
      ...(by !== 0 && { by }),
    });
  }

  /** Whether another transaction has locked what this one has read against a read, or what it writes against a write. */
  #isBodyLocked(body: TransactionBody, { priority, age }: Rank): boolean {
    const { locks } = this;
    const { bytes, id, isPessimistic } = body;
    const since = age === 0 ? Infinity : age;
    const owner = isPessimistic ? locks.findOwner(id) : undefined;
    let next = 0;
    if (body.isolation === Isolation.Serializable) {
      for (body.rewindReads(); body.nextRead(); next++) {
        const { readSpace, keyStart, keyLength } = body;
        const hash = this.#hashes[next]!;
        if (locks.isFree(hash)) continue;
        if (owner !== undefined && locks.covers(owner, readSpace, bytes, keyStart, keyLength, hash, LockMode.Shared))
          continue;
        if (locks.conflict(readSpace, bytes, keyStart, keyLength, hash, LockMode.Shared, since, priority) !== 0)
          return true;
      }
      for (body.rewindRanges(); body.nextRange();) {
        const { low, high } = boundsOf(body);
        if (owner !== undefined && locks.coversRange(owner, body.rangeSpace, low, high, LockMode.Shared)) continue;
        if (locks.conflictRange(body.rangeSpace, low, high, LockMode.Shared, since, priority) !== 0) return true;
      }
    } else next = body.reads;
    if (isPessimistic) return false;
    for (let at = body.writesStart; at < body.writesEnd; at += checkOperation(bytes, at, body.writesEnd)) {
      const hash = this.#hashes[next++]!;
      if (locks.isFree(hash)) continue;
      const keyAt = operationKeyAt(bytes, at);
      const length = readKeyLength(bytes, at);
      const space = readOperationSpace(bytes, at);
      if (locks.conflict(space, bytes, keyAt, length, hash, LockMode.Exclusive, since, priority) !== 0) return true;
    }
    return false;
  }

  #pointsOf(body: TransactionBody): LockPoint[] {
    const points: LockPoint[] = [];
    const { bytes } = body;
    if (body.isolation === Isolation.Serializable) {
      for (body.rewindReads(); body.nextRead();) {
        const key = Buffer.from(bytes.subarray(body.keyStart, body.keyStart + body.keyLength));
        points.push({ space: body.readSpace, mode: LockMode.Shared, key, hash: hashBytes(key, 0, key.length) });
      }
      for (body.rewindRanges(); body.nextRange();) {
        points.push({ space: body.rangeSpace, mode: LockMode.Shared, ...boundsOf(body) });
      }
    }
    if (!body.isPessimistic) points.push(...pointsOfWrites(bytes, body.writesStart, body.writesEnd));
    return points;
  }

  /** Without waiting. @throws ERR_CONFLICT */
  #lockAll(body: TransactionBody, owner: ReturnType<LockTable<Waiting>['owner']>): void {
    const { locks } = this;
    const { bytes } = body;
    // What is written was mostly read before: its exclusive lock covers that.
    let next = body.reads;
    for (let at = body.writesStart; at < body.writesEnd; at += checkOperation(bytes, at, body.writesEnd)) {
      const space = readOperationSpace(bytes, at);
      const keyAt = operationKeyAt(bytes, at);
      const length = readKeyLength(bytes, at);
      const by = locks.tryKey(owner, space, bytes, keyAt, length, this.#hashes[next++]!, LockMode.Exclusive);
      if (by !== 0) throw this.#lockedBy(by);
    }
    if (body.isolation !== Isolation.Serializable) return;
    next = 0;
    for (body.rewindReads(); body.nextRead();) {
      const { readSpace, keyStart, keyLength } = body;
      const by = locks.tryKey(owner, readSpace, bytes, keyStart, keyLength, this.#hashes[next++]!, LockMode.Shared);
      if (by !== 0) throw this.#lockedBy(by);
    }
    for (body.rewindRanges(); body.nextRange();) {
      const { low, high } = boundsOf(body);
      const by = locks.tryRange(owner, body.rangeSpace, low, high, LockMode.Shared);
      if (by !== 0) throw this.#lockedBy(by);
    }
  }

  #lockedBy(by: number): ConcordError {
    this.conflicts++;
    return new ConcordError('ERR_CONFLICT', 'another transaction is about to change what this one has read or writes', {
      shard: this.#index,
      ...(by > 0 && { by }),
    });
  }

  // ---- locks ----------------------------------------------------------------------------------------------------------------------------

  /** A Lock request. Done: it is held. @throws ERR_CONFLICT, ERR_DEADLOCK, ERR_LOCK_TIMEOUT, ERR_SPACE_DROPPED */
  lock(link: ClientLink, request: number, bytes: Buffer, start: number, end: number, group: OpenGroup): Verdict {
    const call = decodeLockCall(bytes, start, end);
    this.#store.spaces.require(call.space);
    // What the group changes is seen by whoever has the lock.
    if (
      !group.isEmpty() &&
      (group.isOpaque() || call.key === undefined || group.touches(hashBytes(call.key, 0, call.key.length)))
    ) {
      return Verdict.Hold;
    }
    const { locks } = this;
    const now = Date.now();
    const owner = locks.owner(call.txn, call.age, call.priority, link.client);
    const waiting: WaitingLock = { link, request, call, isAnswered: false, sinceMs: 0 };
    const mode = MODES[call.mode];
    const deadline = now + Math.max(1, call.timeoutMs);
    const { key } = call;
    const wait =
      key === undefined
        ? locks.acquireRange(
            owner,
            call.space,
            call.range?.low,
            call.range?.high,
            mode === LockMode.Shared ? mode : LockMode.Exclusive,
            deadline,
            now,
            waiting,
          )
        : locks.acquireKey(
            owner,
            call.space,
            key,
            0,
            key.length,
            hashBytes(key, 0, key.length),
            mode,
            deadline,
            now,
            waiting,
          );
    if (wait === undefined) {
      const conflict = this.#conflictOf(call);
      if (conflict !== undefined) throw conflict;
      return Verdict.Done;
    }
    // It may have ended before the call returned: an answer comes once.
    if (!waiting.isAnswered) {
      waiting.sinceMs = performance.now();
      link.respond(request, ResponseStatus.Deferred, '');
    }
    return Verdict.Deferred;
  }

  #grantLock(waiting: WaitingLock): void {
    const { link, request, call } = waiting;
    waiting.isAnswered = true;
    const conflict = this.#conflictOf(call);
    if (conflict === undefined) link.respond(request, ResponseStatus.Done, '');
    else link.respondError(request, conflict.toRecord());
  }

  /** First committer wins: somebody else has changed the key since the transaction's state. */
  #conflictOf({ snapshot, key, space }: LockCall): ConcordError | undefined {
    if (snapshot === 0 || key === undefined) return undefined;
    try {
      const found = this.#store.versionOf(this.#store.spaces.require(space), key, 0, key.length, 0);
      if (found <= snapshot) return undefined;
    } catch (error) {
      return error instanceof ConcordError ? error : new ConcordError('ERR_INTERNAL', String(error));
    }
    this.conflicts++;
    return new ConcordError('ERR_CONFLICT', 'another transaction has changed the key meanwhile', {
      shard: this.#index,
    });
  }

  /** Gives up what the transaction has here. What is decided goes on, and so does a commit that is in the open group. */
  release(id: number): void {
    if (this.#commitsAside.size > 0 && this.#giveUp(id)) return;
    const store = this.#store;
    if (!store.prepared.has(id)) {
      this.#readers.delete(id);
      this.locks.release(id);
      return;
    }
    if (this.#isDecided(id)) return;
    store.addResolve(id, 0);
    this.#ended(id);
  }

  /** A commit that is set aside will not be taken: its caller hears so. False: there is none. */
  #giveUp(id: number): boolean {
    const commit = this.#commitsAside.get(id);
    if (commit === undefined) return false;
    const error = new ConcordError('ERR_TRANSACTION_CLOSED', 'given up while it waited for a lock', {
      shard: this.#index,
    });
    if (this.locks.cancel(commit.wait, error)) return true;
    // The locks are its own already.
    const index = this.ready.indexOf(commit);
    assert(index >= 0, 'a commit that is set aside waits for its locks, or for its turn');
    this.ready.splice(index, 1);
    commit.link.respondError(commit.request, error.toRecord());
    this.endDeferred(commit);
    return true;
  }

  #isDecided(id: number): boolean {
    let isFound = false;
    this.#control.commits.forEach((entry) => {
      isFound ||= entry.id === id;
    });
    return isFound;
  }

  /** What has come of a body goes: its client is gone. */
  dropStream(link: ClientLink): void {
    this.#streams.delete(link);
  }

  /** Whether something of the client waits for its outcome. What is given up does not, although the log is still to hear of it. */
  hasPrepared(client: number): boolean {
    return this.#participants.entries().some(([id]) => this.#store.prepared.get(id)?.client === client);
  }

  /**
   * The client is gone. `isSettled`: the coordinator has done what it had asked for, and nothing else of it will be decided. Otherwise what it has prepared, and
   * has read for that, stays locked until the store is opened again: it may be decided in a log that nobody reads before.
   */
  releaseClient(client: number, isSettled: boolean): void {
    if (isSettled) {
      for (const prepared of this.#store.prepared.all) if (prepared.client === client) this.release(prepared.id);
      for (const [id, reader] of this.#readers.entries()) if (reader === client) this.release(id);
    }
    this.locks.releaseClient(client);
  }

  // ---- time, the coordinator ------------------------------------------------------------------------------------------------------------

  /** When tick() has something to do, ms since the epoch. */
  get tickDueAtMs(): number {
    return Math.min(this.locks.nextDeadlineMs, this.#participants.size > 0 ? this.#nextTickMs : Infinity);
  }

  tick(nowMs: number): void {
    this.locks.tick(nowMs);
    if (this.#participants.size === 0 || nowMs < this.#nextTickMs) return;
    this.#nextTickMs = nowMs + ASK_EVERY_MS;
    const since = performance.now() - ASK_AFTER_MS;
    for (const [id, { sinceMs }] of this.#participants.entries()) {
      if (sinceMs <= since || this.#inDoubt.has(id)) {
        const client = this.#store.prepared.get(id)?.client;
        this.#tell({ type: 'ask', shard: this.#index, txn: id, client });
      }
    }
  }

  /** Messages of the coordinator come here from now on. */
  attachCoordinator(port: MessagePort, wake: () => void): void {
    this.#port?.close();
    this.#port = port;
    port.on('message', (message: CoordinatorToShard) => {
      this.#hear(message);
      wake();
    });
    this.#tell({ type: 'hello', shard: this.#index });
    this.locks.forEachWait((wait) => {
      this.#tellWait(wait);
    });
    this.#nextTickMs = 0;
  }

  #hear(message: CoordinatorToShard): void {
    if (message.type === 'confirm') {
      const { check, waits } = message;
      const holds = waits.every(({ wait, blocker, revision }) => this.locks.isWaitingFor(wait, blocker, revision));
      this.#tell({ type: 'confirmed', shard: this.#index, check, holds });
    } else if (message.type === 'kill') {
      const { wait, cycle, txn } = message;
      this.locks.kill(wait, `transaction ${txn} gave way in a deadlock of ${cycle.length}`, {
        cycle: cycle.map((edge) => ({ ...edge })),
      });
    } else if (message.type === 'outcome') {
      if (!message.committed) this.release(message.txn);
    }
  }

  #tellWait(wait: LockWait<Waiting>): void {
    const { owner, number, revision, blockers, priority, age } = wait;
    const { space, key, mode } = wait.describe();
    this.#tell({
      type: 'wait',
      shard: this.#index,
      txn: owner!.id,
      wait: number,
      revision,
      blockers,
      priority,
      age,
      space,
      key,
      mode,
    });
  }

  #tell(message: ShardToCoordinator): void {
    this.#port?.postMessage(message);
  }

  /** For db.transactions(). */
  list(locksMax: number): LockHolder[] {
    return this.locks.list(locksMax).filter(({ txn }) => txn > 0);
  }
}

const NOTHING = (): void => undefined;
const MODES = { shared: LockMode.Shared, update: LockMode.Update, exclusive: LockMode.Exclusive } as const;

function boundsOf(body: TransactionBody): { low: Uint8Array | undefined; high: Uint8Array | undefined } {
  const { bytes, lowStart, lowLength, highStart, highLength } = body;
  return {
    low: lowLength < 0 ? undefined : bytes.subarray(lowStart, lowStart + lowLength),
    high: highLength < 0 ? undefined : bytes.subarray(highStart, highStart + highLength),
  };
}

/** The keys are copies. */
function pointsOfWrites(bytes: Uint8Array, start: number, end: number): LockPoint[] {
  const points: LockPoint[] = [];
  for (let at = start; at < end; at += checkOperation(bytes, at, end)) {
    const keyAt = operationKeyAt(bytes, at);
    const key = Buffer.from(bytes.subarray(keyAt, keyAt + readKeyLength(bytes, at)));
    points.push({
      space: readOperationSpace(bytes, at),
      mode: LockMode.Exclusive,
      key,
      hash: hashBytes(key, 0, key.length),
    });
  }
  return points;
}

/** As text where it is text, else in hex. */
function keyText(key: Buffer): string {
  return isUtf8(key) ? key.toString('utf8') : `0x${key.toString('hex')}`;
}

function lostBody(shard: number): ConcordError {
  return new ConcordError('ERR_SHARD_RESTARTED', `shard ${shard} lost a part of the transaction; try it again`, {
    shard,
  });
}
