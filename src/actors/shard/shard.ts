/**
 * The shard: a state machine that drains its clients' rings into groups and commits them. step() does one group; the thread shell
 * (shard-worker.ts) calls it in a loop and parks when there is nothing to do. Tests call it directly.
 *
 *   step()         rings ─▶ take: lock? condition? room? ─▶ the store's group ─▶ numbers ─▶ commit ─▶ answers; then a slice of each clear (clear.ts)
 *   background()   locks that time out, engines' files, what expires, spaces that move or go (space-moves.ts)
 *   idle()         frames of the memory level, sweeps (compactions.ts)
 *
 * Transactions are transactions.ts, how fast spaces take writes write-gates.ts.
 * Must hold: requests of one client take effect in the order of its ring; a request is completed only when its group is published at
 * the durability it asked for, or it has a response; a group is all or nothing. A client that dies leaves whole requests or none in its ring.
 * Threads: the shard's thread only.
 */
import { assert } from '../../shared/assert.js';
import { ConcordError, toErrorRecord, type ErrorRecord } from '../../shared/errors.js';
import { hashBytes } from '../../shared/hash.js';
import {
  BLOB_REFERENCE_BYTES,
  OPERATION_EXTENDED,
  OPERATION_HEADER_BYTES,
  OperationKind,
  checkOperation,
  operationKeyAt,
  readBlobReference,
  readKeyLength,
  readOperationExpiry,
  readOperationSpace,
  readValueLength,
} from '../../engines/operation.js';
import { Durability, type DurabilityLevel, type ShardStore } from '../../engines/store/shard-store.js';
import type { WriteFlow } from '../../engines/lsm/types.js';
import type { SpaceDefinition, SwitchProgress } from '../../engines/store/space.js';
import type { Space } from '../../engines/store/space-table.js';
import { MAX_SNAPSHOTS, ShardCounter, ShardState, type ControlBlock } from '../control-block.js';
import { ShardMeter } from '../metrics/shard-meter.js';
import type { SyncClock } from '../metrics/timed-env.js';
import { RequestAtHand } from './request-at-hand.js';
import { BODY_IN_CHUNKS, Condition, RequestType, ResponseStatus, readRequestVersion } from './request.js';
import { BatchNeeds } from './batch-needs.js';
import {
  DEFAULT_TRANSACTION_SETTINGS,
  type DeferredRequest,
  ShardTransactions,
  Verdict,
  type OpenGroup,
  type TransactionSettings,
} from './transactions.js';
import { appendClear, clearOf, deleteBytes, type ClearInProgress } from './clear.js';
import { ClientLink } from './client-link.js';
import { Compactions } from './compactions.js';
import { GroupMembers } from './group-members.js';
import { coordinatorGone, memoryFull, readOnly } from './refusals.js';
import { SpaceMoves, type Unseen } from './space-moves.js';
import { TouchedKeys } from './touched-keys.js';
import { WriteGates, mustAskFlow } from './write-gates.js';

/** Bounds of one group: latency of the callers in it, and pages that are dirty at once. */
const GROUP_RECORDS_MAX = 4096;
const GROUP_BYTES_MAX = 512 * 1024;
/** Buffered frames of the memory level are written when they are this long, or the shard is idle. */
const UNWRITTEN_BYTES_MAX = 1 << 20;
const EXPIRY_RETRY_MS = 1000;
/** Of a clear that cannot go on: not failures of the log. */
const REFUSALS: ReadonlySet<string> = new Set([
  'ERR_MEMORY_FULL',
  'ERR_READ_ONLY',
  'ERR_SPACE_DROPPED',
  'ERR_BATCH_TOO_LARGE',
  'ERR_LOCK_TIMEOUT',
  'ERR_DEADLOCK',
]);
/** A clear that meets a lock looks again after this. */
const CLEAR_RETRY_MS = 1;
/** So long decisions are kept for outcomes that are logged and not synced: of a shard without writes, and of one that has them. */
const SETTLE_IDLE_MS = 1000;
const SETTLE_BUSY_MS = 5000;

/** What else depends on a request's group. */
interface GroupNote {
  readonly deferred: DeferredRequest | undefined;
  /** Transaction that is prepared by it; 0: none. */
  readonly prepares: number;
  /** Transaction that ends with it; 0: none. */
  readonly ends: number;
}

export class Shard {
  readonly index: number;
  readonly store: ShardStore;
  readonly #counters: Float64Array;
  readonly #control: ControlBlock;
  readonly #meter: ShardMeter;
  readonly #links: ClientLink[] = [];
  /** Clients that are gone, and still hold what they had locked. */
  readonly #detached = new Set<number>();
  readonly #snapshots = new Float64Array(MAX_SNAPSHOTS);
  readonly #touched = new TouchedKeys();
  #groupHasBatch = false;
  #level: DurabilityLevel = Durability.Memory;
  #syncAsked = false;
  #next = 0;
  readonly #hand = new RequestAtHand();
  /** Requests with records in the open group, to answer them if it fails. */
  readonly #members = new GroupMembers();
  readonly #groupNotes: GroupNote[] = [];
  /** As the coordinator was told last. */
  #decisionsNeeded = 0;
  /** Locks, votes, what is decided. */
  readonly transactions: ShardTransactions;
  readonly #openGroup: OpenGroup = {
    isOpaque: () => this.#groupHasBatch,
    isEmpty: () => this.store.groupRecords === 0,
    touches: (hash) => this.#touched.has(hash),
    touch: (hash) => {
      this.#touched.add(hash);
    },
    admits: (bytes, start, end, recordBytes) => this.#admitsAll(this.#needs.of(bytes, start, end), recordBytes),
  };
  readonly #needs: BatchNeeds;
  /** Of engines that work behind the groups: how fast they take writes. */
  readonly #gates: WriteGates;
  /** Spaces on their way to another engine, and those that are to go. */
  readonly moves: SpaceMoves;
  /** Versions that nobody needs go. */
  readonly compactions: Compactions;
  /** Entries that expire in one group. */
  expiryBatch = 1000;
  /** Between two looks for entries that have expired. */
  expiryIntervalMs = 0;
  /** What the request at hand must wait, ms. */
  #waitMs = 0;
  /** Told when a space takes writes more slowly, not at all, or freely again. */
  onFlow: (spaceId: number, flow: WriteFlow) => void = () => undefined;
  /** Since when outcomes are in the log that may not be on the disk, on performance.now()'s clock; 0: not known. */
  #unsettledSinceMs = 0;
  /** As counted at the last look. */
  #groupsSettled = 0;
  /** When the first entry expires, as far as known; 0: look. */
  #expiryDueAt = 0;
  /** When all that had expired was removed last. */
  #expiredAt = 0;
  #readOnlyCause: ErrorRecord | undefined;

  /** `clock`: of the store's machine. */
  constructor(
    index: number,
    store: ShardStore,
    control: ControlBlock,
    clock: SyncClock = { syncMs: 0 },
    settings: TransactionSettings = DEFAULT_TRANSACTION_SETTINGS,
  ) {
    this.index = index;
    this.store = store;
    this.#control = control;
    this.#needs = new BatchNeeds(store);
    this.#counters = control.shardCounters(index);
    this.#meter = new ShardMeter(control.board, index, clock);
    this.#countLog();
    control.endGroup(index, store.publishedSeq);
    control.setLogEnd(index, undefined);
    this.#gates = new WriteGates(store.spaces, (spaceId, flow) => {
      this.#meter.changed();
      if (flow.cause === 'disk-full') this.diskIsFull();
      this.onFlow(spaceId, flow);
    });
    const unseen: Unseen = (work) => this.#unseen(work);
    this.moves = new SpaceMoves(index, store, this.#gates, unseen);
    this.compactions = new Compactions(store, this.#counters, unseen);
    this.transactions = new ShardTransactions(index, store, control, settings);
  }

  /** Serves a client's rings from now on. A shard that took over from a dead one answers what the dead one had taken. */
  attach(client: number, requestRing: SharedArrayBuffer, responseRing: SharedArrayBuffer): void {
    // A thread that attaches while the shard is being restarted is announced twice: as a new one, and with all the others.
    if (this.#links.some((other) => other.client === client)) return;
    const link = new ClientLink(client, requestRing, responseRing, this.#control.clientDoorbell(client));
    this.#links.push(link);
    if (link.taken === 0) return;
    const error = new ConcordError('ERR_SHARD_RESTARTED', `shard ${this.index} restarted; the outcome is unknown`, {
      shard: this.index,
    }).toRecord();
    link.respond(0, ResponseStatus.Forgotten, JSON.stringify(error));
    if (link.taken === link.completed) {
      link.complete();
      return;
    }
    for (let request = (link.completed + 1) | 0; ; request = (request + 1) | 0) {
      link.respondError(request, error);
      if (request === link.taken) break;
    }
    link.complete();
  }

  /**
   * The client is gone: serves what it had published, drops what it had begun, then resolves. What it holds here stays locked until release(): another shard
   * may still have a commit of it to serve that was validated because of these locks.
   */
  detach(client: number): Promise<void> {
    const link = this.#links.find((candidate) => candidate.client === client);
    if (link === undefined) return Promise.resolve();
    return new Promise((resolve) => {
      link.leaving = () => {
        this.store.dropBlob(client);
        this.transactions.dropStream(link);
        this.#detached.add(client);
        resolve();
      };
      this.#removeLeaving();
    });
  }

  /** Behind detach(): whether something of the client is prepared. */
  hasPrepared(client: number): boolean {
    return this.transactions.hasPrepared(client);
  }

  /** Every shard has detached it: its locks go; what it has prepared only if it `isSettled`: if nothing of it will be decided. */
  release(client: number, isSettled: boolean): void {
    // A successor of the one that has detached it knows nothing of its locks, and asks for what is prepared.
    if (this.#detached.delete(client)) this.transactions.releaseClient(client, isSettled);
  }

  #removeLeaving(): void {
    for (let i = this.#links.length - 1; i >= 0; i--) {
      const link = this.#links[i]!;
      if (link.leaving === undefined || !link.idle) continue;
      this.#links.splice(i, 1);
      link.leaving();
    }
  }

  /** The second look before parking. */
  get hasWork(): boolean {
    if (this.moves.hasWork || this.store.hasWork || this.transactions.hasDue) return true;
    return this.transactions.ready.length > 0 || this.#hasRequests(performance.now());
  }

  /** What must be done before the shard may end. */
  get hasUnfinished(): boolean {
    const { transactions } = this;
    // Who could say what became of what is prepared may be gone already: the next opening asks.
    if (transactions.isInDoubt) return transactions.hasDue;
    return transactions.hasDue || transactions.ready.length > 0 || this.#hasRequests(Infinity);
  }

  /** Requests are taken, be it to refuse them. */
  get #isServing(): boolean {
    return !this.transactions.isInDoubt || this.#readOnlyCause !== undefined;
  }

  /** Of those that are held, the ones that need not wait at `nowMs`. */
  #hasRequests(nowMs: number): boolean {
    if (this.compactions.isSweeping) return true;
    // The board, the coordinator's answer, or its end wakes a shard that waits for outcomes: requests do not.
    if (!this.#isServing && !this.#isForsaken) return false;
    for (const link of this.#links) {
      if (link.backlog.length > 0 && link.responses.free() > link.backlog[0]!.length + 16) return true;
      if (link.backlog.length > 0) continue;
      if (link.held !== undefined) {
        if (nowMs >= link.heldUntilMs) return true;
      } else if (link.clear !== undefined) {
        if (nowMs >= link.clear.blockedUntilMs) return true;
      } else if (link.requests.pending()) return true;
    }
    return false;
  }

  /** When a request that is held is looked at next, on performance.now()'s clock; Infinity: none is. */
  get heldDueMs(): number {
    let dueMs = Infinity;
    for (const { held, heldUntilMs, clear } of this.#links) {
      if (held !== undefined) dueMs = Math.min(dueMs, heldUntilMs);
      if (clear !== undefined && clear.blockedUntilMs > 0) dueMs = Math.min(dueMs, clear.blockedUntilMs);
    }
    return Math.min(dueMs, this.transactions.dueAgainMs);
  }

  get clientCount(): number {
    return this.#links.length;
  }

  /** Takes up to one group of requests and commits it. Returns the number of requests taken. */
  step(): number {
    const links = this.#links;
    const { transactions } = this;
    if (links.length === 0 && transactions.ready.length === 0 && !transactions.hasDue) return 0;
    this.#touched.clear();
    this.#groupHasBatch = false;
    this.#level = Durability.Memory;
    this.#syncAsked = false;
    this.#beginGroup();
    let taken = transactions.ready.length === 0 ? 0 : this.#takeReady();
    if (transactions.isInDoubt) this.#lookForCoordinator();
    const count = transactions.ready.length === 0 && this.#isServing ? links.length : 0;
    this.#next = (this.#next + 1) % Math.max(1, count);
    for (let i = 0; i < count; i++) {
      const link = links[(this.#next + i) % count]!;
      if (link.backlog.length > 0 && !link.flushBacklog()) continue;
      if (link.clear !== undefined) continue;
      taken += this.#drain(link);
      if (this.#isFull()) break;
    }
    const hasDue = transactions.hasDue;
    if (taken > 0 || hasDue) {
      this.#commitGroup(hasDue);
      for (const link of links) if (link.completed !== link.taken) link.complete();
      this.#meter.answered();
      this.#counters[ShardCounter.Requests]! += taken;
    } else {
      this.store.discardGroup();
    }
    for (const link of links) {
      if (link.clear === undefined || transactions.isInDoubt) continue;
      if (link.clear.blockedUntilMs > 0 && performance.now() < link.clear.blockedUntilMs) continue;
      this.#clearSlice(link);
      taken++;
    }
    if (links.some((link) => link.leaving !== undefined)) this.#removeLeaving();
    transactions.count(this.#counters);
    this.#tellNews();
    return taken + (hasDue ? 1 : 0);
  }

  /** Answers to requests that were deferred. */
  #tellNews(): void {
    for (const link of this.#links) if (link.hasNews) link.complete();
  }

  /** Requests that have waited for locks, and have them. Those that do not fit go into the next group, and everything else after them. */
  #takeReady(): number {
    const { ready } = this.transactions;
    let taken = 0;
    while (ready.length > 0 && !this.#isFull()) {
      const deferred = ready[0]!;
      this.#hand.setDeferred(deferred);
      const verdict = this.#take();
      if (verdict === Verdict.Hold) break;
      ready.shift();
      taken++;
      if (verdict === Verdict.Done) this.transactions.endDeferred(deferred);
    }
    return taken;
  }

  /** A shard that is read-only takes requests too, to refuse them. */
  #beginGroup(): void {
    if (this.#readOnlyCause !== undefined) {
      this.store.discardGroup();
      return;
    }
    try {
      this.store.beginGroup();
    } catch (error) {
      // The log has failed outside a group, at the begin of a checkpoint.
      this.#failed(error);
      this.store.discardGroup();
    }
  }

  #isFull(): boolean {
    return this.store.groupRecords >= GROUP_RECORDS_MAX || this.store.groupBytes >= GROUP_BYTES_MAX;
  }

  /** Moves requests of one ring into the group; stops at a full group or at a request that must wait for it. */
  #drain(link: ClientLink): number {
    let taken = 0;
    const held = link.held;
    if (held !== undefined) {
      if (link.heldUntilMs > 0 && performance.now() < link.heldUntilMs) return 0;
      this.#hand.set(link, link.taken, held.bytes, held.words, 0, held.length);
      if (this.#take() === Verdict.Hold) return 0;
      link.held = undefined;
      taken++;
    }
    const { requests } = link;
    while (link.clear === undefined && !this.#isFull()) {
      const at = requests.next();
      if (at < 0) break;
      link.taken = (link.taken + 1) | 0;
      const { length } = requests;
      this.#hand.set(link, link.taken, requests.bytes, requests.words, at, length);
      const outcome = this.#take();
      if (outcome === Verdict.Hold) {
        const bytes = Buffer.allocUnsafeSlow((length + 7) & ~7);
        requests.bytes.copy(bytes, 0, at, at + length);
        link.held = { bytes, words: new Int32Array(bytes.buffer), length };
        break;
      }
      taken++;
    }
    return taken;
  }

  /** Looks at the request at hand. */
  #take(): Verdict {
    const { link, number } = this.#hand;
    try {
      const type = this.#hand.head & 0xff;
      // Nearly all are: they are spared a call.
      const outcome = type === RequestType.Operation ? this.#takeOperation() : this.#takeOther(type);
      if (outcome === Verdict.Hold) {
        link.heldUntilMs = this.#waitMs === 0 ? 0 : performance.now() + this.#waitMs;
        this.#waitMs = 0;
      }
      return outcome;
    } catch (error) {
      link.respondError(number, toErrorRecord(error));
      return Verdict.Done;
    }
  }

  #takeOther(type: number): Verdict {
    const { store, transactions } = this;
    const { link, number, bytes, words, at, start, end } = this.#hand;
    if (type === RequestType.Flush) {
      this.#syncAsked = true;
      // Not to be called done when the group, or its sync, fails.
      this.#noteMember(undefined);
      return Verdict.InGroup;
    }
    if (type === RequestType.Release) {
      const version = readRequestVersion(bytes, at);
      if (conditionOf(words[at >> 2]!) === BODY_IN_CHUNKS) transactions.dropBody(link, version);
      else transactions.release(version);
      return Verdict.Done;
    }
    if (type === RequestType.DropBlob) {
      store.dropBlob(link.client);
      return Verdict.Done;
    }
    if (this.#readOnlyCause !== undefined) throw readOnly(this.index, this.#readOnlyCause);

    switch (type) {
      case RequestType.Batch:
        return this.#takeBatch();
      case RequestType.Transaction:
      case RequestType.Prepare:
        return this.#takeTransaction();
      case RequestType.Lock:
        return transactions.lock(link, number, bytes, start, end, this.#openGroup);
      case RequestType.BodyChunk:
        transactions.takeChunk(link, bytes, start, end, words[(at >> 2) + 1]! >>> 0, readRequestVersion(bytes, at));
        return Verdict.Done;
      case RequestType.Clear:
        link.clear = this.#clearOf(bytes, start, end, durabilityOf(words[at >> 2]!));
        return Verdict.Done;
      default:
        throw new ConcordError('ERR_INTERNAL', `unknown request type ${type}`);
    }
  }

  /** A single write, a chunk of a blob, or the record that ends one. */
  #takeOperation(): Verdict {
    if (this.#readOnlyCause !== undefined) throw readOnly(this.index, this.#readOnlyCause);
    const { store, transactions } = this;
    const { link, bytes, words, at, head, start, end, deferred } = this.#hand;
    const size = checkOperation(bytes, start, end);
    const kind = bytes[start]!;
    const condition = conditionOf(head);
    const hash = words[(at >> 2) + 1]!;
    const isExtended = bytes[start + 1]! >= OPERATION_EXTENDED;
    const space = store.spaces.require(isExtended ? readOperationSpace(bytes, start) : 0);
    if (mustAskFlow(space) && kind !== OperationKind.Chunk && !this.#mayWrite(space)) return Verdict.Hold;
    if (deferred === undefined && kind !== OperationKind.Chunk && kind !== OperationKind.ApplyBatch) {
      const keyLength = readKeyLength(bytes, start);
      if (transactions.isLocked(space.id, bytes, operationKeyAt(bytes, start), keyLength, hash)) {
        transactions.deferWrites(this.#hand.setAside(), bytes, start, end);
        return Verdict.Deferred;
      }
    }
    if (condition !== Condition.None) {
      if (this.#groupHasBatch || this.#touched.has(hash)) return Verdict.Hold;
      const version = store.versionOf(
        space,
        bytes,
        operationKeyAt(bytes, start),
        readKeyLength(bytes, start),
        Date.now(),
      );
      const expected = condition === Condition.IfAbsent ? 0 : readRequestVersion(bytes, at);
      if (version !== expected) {
        if (kind === OperationKind.PutBlob) store.dropBlob(link.client);
        this.#counters[ShardCounter.ConditionsFailed]!++;
        link.respond(this.#hand.number, ResponseStatus.ConditionFailed, '');
        return Verdict.Done;
      }
    }
    if (kind === OperationKind.ClearRange) throw new ConcordError('ERR_INTERNAL', 'a clear is a request of its own');
    if (kind === OperationKind.PutBlob || kind === OperationKind.ApplyBatch) {
      const outcome = this.#admitBlob();
      if (outcome !== Verdict.Done) return outcome;
      if (kind === OperationKind.ApplyBatch) this.#noteBatch();
    }
    const needed =
      kind === OperationKind.Chunk
        ? chunkAdmissionBytes(bytes, start)
        : kind === OperationKind.PutBlob && space.building !== undefined
          ? size + blobBytes(bytes, start)
          : size;
    const expiresAt = isExtended ? readOperationExpiry(bytes, start) : 0;
    const expiring = expiresAt === 0 ? 0 : 1;
    const largestBytes = Math.max(size, needed);
    if (!this.#admit(space, 1, needed, size, expiring, kind === OperationKind.Delete, largestBytes))
      return Verdict.Hold;
    store.fetch(bytes, start);
    if (expiresAt !== 0) this.#expiryDueAt = Math.min(this.#expiryDueAt, expiresAt);
    if (mustAskFlow(space)) this.#gates.took(space, needed);
    store.append(bytes, words, start, size);
    this.#touched.add(hash);
    this.#join(durabilityOf(head));
    return Verdict.InGroup;
  }

  #takeBatch(): Verdict {
    const { store, transactions } = this;
    const { bytes, head, start, end, deferred } = this.#hand;
    const batch = this.#needs.of(bytes, start, end);
    if (deferred === undefined && transactions.isAnyLocked(bytes, start, end)) {
      transactions.deferWrites(this.#hand.setAside(), bytes, start, end);
      return Verdict.Deferred;
    }
    if (!this.#admitsAll(batch, end - start)) return Verdict.Hold;
    if (store.isPaged) {
      for (let record = start; record < end; record += checkOperation(bytes, record, end)) store.fetch(bytes, record);
    }
    store.appendAll(bytes, start, end);
    this.#noteBatch();
    this.#join(durabilityOf(head));
    return Verdict.InGroup;
  }

  /** One that writes here only, or its part here of a larger one. */
  #takeTransaction(): Verdict {
    const { transactions } = this;
    const { link, number, bytes, at, length, head, deferred } = this.#hand;
    const isPrepare = (head & 0xff) === RequestType.Prepare;
    const condition = conditionOf(head);
    const version = readRequestVersion(bytes, at);
    const verdict = transactions.take(
      link,
      number,
      bytes,
      at,
      length,
      isPrepare,
      condition,
      version,
      this.#openGroup,
      deferred,
    );
    if (verdict !== Verdict.InGroup) return verdict;
    const id = transactions.idOfLast;
    // A vote must outlive the process.
    const safety = isPrepare ? Math.max(durabilityOf(head), Durability.Os) : durabilityOf(head);
    if (safety > this.#level) this.#level = safety as DurabilityLevel;
    const ends = !isPrepare && transactions.hasLocks(id) ? id : 0;
    const isNoted = isPrepare || ends !== 0 || deferred !== undefined;
    this.#noteMember(isNoted ? { deferred, prepares: isPrepare ? id : 0, ends } : undefined);
    return verdict;
  }

  #clearOf(bytes: Buffer, start: number, end: number, level: DurabilityLevel): ClearInProgress {
    const clear = clearOf(bytes, start, end, level);
    this.store.spaces.require(clear.spaceId);
    return clear;
  }

  /** The records of the request at hand are in the group. */
  #join(level: DurabilityLevel): void {
    const { deferred } = this.#hand;
    if (level > this.#level) this.#level = level;
    this.#noteMember(deferred === undefined ? undefined : { deferred, prepares: 0, ends: 0 });
  }

  /** The fate of the request at hand is the group's. */
  #noteMember(note: GroupNote | undefined): void {
    this.#members.add(this.#hand.link, this.#hand.number);
    if (note !== undefined) this.#groupNotes.push(note);
  }

  #noteBatch(): void {
    this.#groupHasBatch = true;
    this.store.holdTogether();
  }

  /** The final record of a blob: everything it names must be here and must be fit to be applied. */
  #admitBlob(): Verdict {
    const { store, transactions } = this;
    const { link, bytes, start, deferred } = this.#hand;
    const reference = readBlobReference(bytes, operationKeyAt(bytes, start) + readKeyLength(bytes, start));
    // Its last chunks may be in this very group: they are applied when it commits.
    if (store.groupRecords > 0) return Verdict.Hold;
    if (reference.client !== link.client || !store.hasBlob(reference.client, reference.blob, reference.offset)) {
      throw new ConcordError(
        'ERR_SHARD_RESTARTED',
        `shard ${this.index} lost a large value on its way; send it again`,
        {
          shard: this.index,
        },
      );
    }
    if (bytes[start] !== OperationKind.ApplyBatch) return Verdict.Done;
    const bytesOfBatch = store.batchBytes(link.client)!;
    for (let at = 0; at < bytesOfBatch.length;) at += checkOperation(bytesOfBatch, at, bytesOfBatch.length);
    const batch = this.#needs.of(bytesOfBatch, 0, bytesOfBatch.length);
    if (batch.operations !== reference.count)
      throw new ConcordError('ERR_INTERNAL', 'a batch holds another number of operations');
    if (deferred === undefined && transactions.isAnyLocked(bytesOfBatch, 0, bytesOfBatch.length)) {
      transactions.deferWrites(this.#hand.setAside(), bytesOfBatch, 0, bytesOfBatch.length);
      return Verdict.Deferred;
    }
    // The group is empty: room there is, or there is none; but files may have to keep up.
    return this.#admitsAll(batch, 0) ? Verdict.Done : Verdict.Hold;
  }

  // ---- the flow of writes ---------------------------------------------------------------------------------------------------------------

  /** Whether files keep up with what is written; if not, the request is to be held for a while. @throws ERR_DISK_FULL */
  #mayWrite(space: Space): boolean {
    this.#waitMs = this.#gates.waitMs(space);
    return this.#waitMs === 0;
  }

  #mayWriteAll(batch: BatchNeeds): boolean {
    for (const { space } of batch.spaces) if (mustAskFlow(space) && !this.#mayWrite(space)) return false;
    return true;
  }

  /** Whether files keep up with a batch, and there is room for it in memory and log. Then it counts. */
  #admitsAll(batch: BatchNeeds, recordBytes: number): boolean {
    if (!this.#mayWriteAll(batch) || !this.#admitBatch(batch, recordBytes)) return false;
    for (const { space, bytes } of batch.spaces) this.#gates.took(space, bytes);
    return true;
  }

  /** As #admit, for all spaces of a batch. */
  #admitBatch(batch: BatchNeeds, recordBytes: number): boolean {
    const { deletesOnly } = batch;
    try {
      for (const { space, operations, bytes, expiring, largestBytes, nextExpiry } of batch.spaces) {
        if (!this.#admit(space, operations, bytes, recordBytes, expiring, deletesOnly, largestBytes)) return false;
        if (nextExpiry !== 0) this.#expiryDueAt = Math.min(this.#expiryDueAt, nextExpiry);
      }
    } catch (error) {
      // It is refused whole, with what it had asked of its other spaces. Nothing else is in the group.
      if (this.store.groupBytes === 0) this.store.spaces.beginAsking();
      throw error;
    }
    return true;
  }

  /**
   * True when the memory for `bytes` and the place in the log for `recordBytes` are sure. False when they may be once this group is published.
   * @throws ERR_MEMORY_FULL, ERR_BATCH_TOO_LARGE
   */
  #admit(
    space: Space,
    operations: number,
    bytes: number,
    recordBytes: number,
    expiring: number,
    deletesOnly: boolean,
    largestBytes = Infinity,
  ): boolean {
    const { store } = this;
    if (!store.fits(recordBytes)) {
      if (store.groupBytes > 0) return false;
      const limit = store.log.payloadBytesMax;
      throw new ConcordError('ERR_BATCH_TOO_LARGE', `${recordBytes} bytes of records, a log segment holds ${limit}`, {
        limit,
      });
    }
    if (store.admits(space, operations, bytes, expiring, deletesOnly, largestBytes)) return true;
    if (store.groupBytes > 0) return false;
    store.arena.reclaim();
    if (store.admits(space, operations, bytes, expiring, deletesOnly, largestBytes)) return true;
    throw memoryFull(this.index, store.arena);
  }

  /** `hasDue`: something is decided that goes before it. */
  #commitGroup(hasDue: boolean): void {
    const { store, transactions } = this;
    let failure: ErrorRecord | undefined;
    try {
      if (this.#readOnlyCause !== undefined) {
        if (hasDue) this.#commitUnlogged();
        // Throws: what the log does not hold is not safe.
        if (this.#syncAsked) store.sync();
      } else if (store.groupRecords === 0 && store.prepared.controls === 0 && !hasDue) {
        store.discardGroup();
        if (this.#syncAsked) {
          store.sync();
          this.#counters[ShardCounter.Syncs]!++;
          this.#countLog();
          this.#control.feedBell.ring();
        }
      } else {
        // Before the log is written, so that a successor never takes these requests a second time.
        for (const link of this.#links) link.release();
        const records = store.groupRecords;
        this.#commit(this.#syncAsked ? Durability.Sync : this.#level);
        this.#counters[ShardCounter.Operations]! += records;
      }
    } catch (error) {
      failure = this.#failed(error);
      // It may be open still: what is decided, and goes before it, has failed.
      store.discardGroup();
      this.#members.respondError(failure);
    }
    for (const note of this.#groupNotes) {
      const { deferred, prepares, ends } = note;
      if (failure !== undefined && prepares !== 0) transactions.notPrepared(prepares);
      if (failure === undefined && ends !== 0) transactions.release(ends);
      if (deferred === undefined) continue;
      if (failure === undefined) deferred.link.respond(deferred.request, ResponseStatus.Done, '');
      transactions.endDeferred(deferred);
    }
    this.#members.clear();
    if (this.#groupNotes.length > 0) this.#groupNotes.length = 0;
  }

  /** Takes numbers, commits the store's group, behind what is decided with lower ones; announces the publication. */
  #commit(level: DurabilityLevel): void {
    const { store, transactions } = this;
    const span = Math.max(1, store.groupSpan);
    const records = store.groupRecords;
    this.#meter.begin(level === Durability.Sync);
    const firstSeq = this.#control.takeSequences(this.index, span);
    assert(firstSeq > store.publishedSeq, 'a number is taken twice');
    let published: number | undefined;
    try {
      transactions.addDue(firstSeq);
      // Otherwise all that is due was applied by a predecessor.
      if (records > 0 || store.prepared.controls > 0) {
        store.commit(level, firstSeq, () => {
          this.#meter.logged();
          this.#beginApplying(firstSeq);
        });
      } else store.discardGroup();
      published = store.publishedSeq;
    } finally {
      this.#control.endGroup(this.index, published);
      if (published === undefined) transactions.notPublished();
    }
    this.#meter.applied(records);
    this.#counters[ShardCounter.Groups]!++;
    if (level === Durability.Sync) this.#counters[ShardCounter.Syncs]!++;
    if (store.unwrittenBytes > UNWRITTEN_BYTES_MAX) this.#writeOut();
    // What the coordinator goes by when it sees that something is applied.
    this.#countLog();
    // A look between the vote and now has not seen what expires of it.
    this.#expiryDueAt = Math.min(this.#expiryDueAt, transactions.published());
    this.#control.feedBell.ring();
  }

  #beginApplying(firstSeq: number): void {
    const { store } = this;
    this.#control.beginApplying(this.index);
    const floor = store.lowestNumber(firstSeq) - 1;
    store.setSnapshots(this.#snapshots, this.#control.readSnapshots(this.#snapshots, floor));
  }

  /** The log has failed for good: what is decided is applied all the same, as the next opening will. */
  #commitUnlogged(): void {
    const { store, transactions } = this;
    const firstSeq = this.#control.takeSequences(this.index, 1);
    let published: number | undefined;
    try {
      transactions.addDue(firstSeq);
      store.commitUnlogged(firstSeq, () => {
        this.#beginApplying(firstSeq);
      });
      published = firstSeq;
    } finally {
      this.#control.endGroup(this.index, published);
      if (published === undefined) transactions.notPublished();
    }
    // Before the coordinator sees that it is applied: it must not forget what no log here holds.
    this.#countLog();
    transactions.published();
  }

  /** Frames of the memory level go to the operating system. Their groups are acknowledged: a failure is nobody's answer. */
  #writeOut(): void {
    try {
      this.store.writeOut();
    } catch (error) {
      this.#failed(error);
    }
  }

  /** Something of this shard found no place: log that is kept for change feeds is the first to go. */
  diskIsFull(): void {
    if (this.store.log.dropRetained()) this.#countLog();
  }

  /** Log kept for change feeds, from now on. @throws ERR_IO, ERR_PERMISSION */
  retainLog(bytes: number): void {
    this.store.log.retain(bytes);
    this.#countLog();
  }

  /** An I/O error: what it means for the shard. */
  #failed(error: unknown): ErrorRecord {
    this.#counters[ShardCounter.Errors]!++;
    if (!(error instanceof ConcordError)) throw error;
    // Of memory: what is decided finds no room for a page that it changes. It is tried again.
    if (error.code === 'ERR_DISK_FULL') this.diskIsFull();
    if (error.code === 'ERR_DISK_FULL' || error.code === 'ERR_MEMORY_FULL') return error.toRecord();
    if (error.code === 'ERR_IO' || error.code === 'ERR_PERMISSION') {
      this.#refuseWrites(error.toRecord());
      return error.toRecord();
    }
    // A broken invariant stops the shard; the supervisor restarts it from its log.
    throw error;
  }

  /** A shard that waits for outcomes which nobody can tell before the store is opened again refuses writes, rather than to let all wait. */
  #lookForCoordinator(): void {
    if (this.#readOnlyCause !== undefined || !this.#isForsaken) return;
    this.#refuseWrites(coordinatorGone(this.index, this.#control.coordinatorState === ShardState.Failed));
  }

  get #isForsaken(): boolean {
    const { coordinatorState } = this.#control;
    // One whose log has failed still tells what it knows.
    const isSilent = coordinatorState === ShardState.ReadOnly && this.transactions.hearsNothing;
    return isSilent || coordinatorState === ShardState.Failed;
  }

  /** From here on nothing is logged; what failed may be in the file. */
  #refuseWrites(cause: ErrorRecord): void {
    const control = this.#control;
    // What is published since has no log: see #commitUnlogged().
    if (this.#readOnlyCause === undefined) control.setLogEnd(this.index, this.store.publishedSeq);
    this.#readOnlyCause = cause;
    control.setShardState(this.index, ShardState.ReadOnly);
    control.feedBell.ring();
  }

  /** The next slice of a client's clear, as a group of its own. */
  #clearSlice(link: ClientLink): void {
    const { store } = this;
    const clear = link.clear!;
    try {
      if (this.#readOnlyCause !== undefined) throw readOnly(this.index, this.#readOnlyCause);
      const space = store.spaces.require(clear.spaceId);
      if (this.#isClearBlocked(link, clear)) return;
      store.beginGroup();
      let isLast: boolean;
      try {
        isLast = appendClear(this.index, store, space, clear);
      } catch (error) {
        // Nothing is logged yet: what cannot be read, or finds no room, ends the clear and nothing else.
        if (!(error instanceof ConcordError) || error.code === 'ERR_INTERNAL') throw error;
        store.discardGroup();
        link.respondError(link.taken, error.toRecord());
        link.clear = undefined;
        link.complete();
        return;
      }
      if (store.groupRecords > 0) this.#commit(clear.level);
      else store.discardGroup();
      this.#counters[ShardCounter.ClearSlices]!++;
      if (!isLast) return;
    } catch (error) {
      if (store.groupRecords > 0) store.discardGroup();
      const isRefusal = error instanceof ConcordError && REFUSALS.has(error.code);
      link.respondError(link.taken, isRefusal ? error.toRecord() : this.#failed(error));
    }
    link.clear = undefined;
    link.complete();
  }

  /** @throws ERR_LOCK_TIMEOUT, ERR_DEADLOCK */
  #isClearBlocked(link: ClientLink, clear: ClearInProgress): boolean {
    const { transactions } = this;
    if (!transactions.isRangeLocked(link, clear.spaceId, clear.low, clear.high)) {
      clear.blockedSinceMs = 0;
      clear.blockedUntilMs = 0;
      return false;
    }
    const now = performance.now();
    if (clear.blockedSinceMs === 0) clear.blockedSinceMs = now;
    if (now - clear.blockedSinceMs > transactions.lockTimeoutMs) {
      throw new ConcordError('ERR_LOCK_TIMEOUT', 'a part of the range stayed locked by a transaction', {
        timeoutMs: transactions.lockTimeoutMs,
      });
    }
    clear.blockedUntilMs = now + CLEAR_RETRY_MS;
    return true;
  }

  // ---- idle work ------------------------------------------------------------------------------------------------------------------------

  /** Work for a shard without requests: buffered frames are written, retired pages come back. True when there is more to do. */
  idle(): boolean {
    const { store } = this;
    if (store.unwrittenBytes > 0 && this.#readOnlyCause === undefined) {
      this.#writeOut();
      this.#countLog();
      this.#control.feedBell.ring();
    }
    if (this.compactions.isSweeping) this.compactions.sweepSlice();
    else store.arena.reclaim();
    return this.compactions.isSweeping;
  }

  /**
   * Work that goes on beside requests, a slice at a time: entries that expire, spaces on their way to another engine, spaces to be dropped. Call it
   * between steps. True when there is more to do at once.
   */
  background(nowMs: number): boolean {
    let hasMore = false;
    this.transactions.tick(nowMs);
    this.#tellNews();
    if (this.store.hasWork || nowMs >= this.store.workDueAtMs) hasMore = this.#engineWork(nowMs);
    this.#gates.look(performance.now());
    this.#settleOutcomes(performance.now());
    hasMore = this.#expire(nowMs) || hasMore;
    if (this.moves.hasWork) hasMore = this.moves.work() || hasMore;
    return hasMore;
  }

  /**
   * Outcomes of transactions over several shards are logged without a sync of their own, and the coordinator keeps their decisions until one has come by. Where
   * none does, this is it.
   */
  #settleOutcomes(nowMs: number): void {
    const { store } = this;
    if (this.#readOnlyCause !== undefined || store.decisionsNeededFrom === Infinity) {
      this.#unsettledSinceMs = 0;
      return;
    }
    const groups = this.#counters[ShardCounter.Groups]!;
    const isIdle = groups === this.#groupsSettled;
    this.#groupsSettled = groups;
    if (this.#unsettledSinceMs === 0) this.#unsettledSinceMs = nowMs;
    if (nowMs - this.#unsettledSinceMs < (isIdle ? SETTLE_IDLE_MS : SETTLE_BUSY_MS)) return;
    this.#unsettledSinceMs = 0;
    try {
      store.sync();
      this.#counters[ShardCounter.Syncs]!++;
    } catch (error) {
      this.#failed(error);
    }
    this.#countLog();
    this.#control.feedBell.ring();
  }

  /** Engines install what their jobs have done, and order new ones. True when there is more to do at once. */
  #engineWork(nowMs: number): boolean {
    const { store } = this;
    try {
      this.#unseen(() => {
        store.work(nowMs);
      });
    } catch (error) {
      this.#failed(error);
    }
    this.#gates.lookAgain();
    this.#countLog();
    return store.hasWork;
  }

  /** When engines have something to do behind the groups by themselves, ms since the epoch. */
  get workDueAtMs(): number {
    return this.store.workDueAtMs;
  }

  /** When entries may expire next, ms since the epoch. */
  get expiryDueAt(): number {
    return this.#expiryDueAt;
  }

  /** Deletes what has expired, a slice at a time, and then nothing until the next look is due. True when there is more. */
  #expire(nowMs: number): boolean {
    if (nowMs < this.#expiryDueAt) return false;
    const sinceMs = nowMs - this.#expiredAt;
    // The loop counts by another clock, which may be a fraction ahead. One that was set back holds nothing up.
    if (sinceMs >= 0 && sinceMs + 1 < this.expiryIntervalMs) return false;
    return this.#expireSlice(nowMs);
  }

  /** Deletes some of the entries whose time has come, as a group of its own. True when there are more. */
  #expireSlice(nowMs: number): boolean {
    const { store } = this;
    // Other shards of the store are still recovering: which numbers were never used is not known yet.
    if (this.#control.nextSequence === 0) return false;
    this.#expiryDueAt = Infinity;
    if (store.spaces.expiringEntries === 0 || this.#readOnlyCause !== undefined) return false;
    const listed = store.spaces.expiringEntries;
    this.#control.beginApplying(this.index);
    let expired;
    try {
      expired = store.collectExpired(nowMs, this.expiryBatch);
    } finally {
      this.#control.endGroup(this.index, undefined);
    }
    try {
      store.beginGroup();
      let admitted = 0;
      for (const { spaceId, key } of expired) {
        // The rest goes into the next group.
        if (!store.fits(deleteBytes(key))) break;
        if (this.transactions.isLocked(spaceId, key, 0, key.length, hashBytes(key, 0, key.length))) continue;
        if (!store.admits(store.spaces.require(spaceId), 1, key.length, 0, true)) break;
        try {
          store.appendDelete(spaceId, key, true);
        } catch (error) {
          // Its page cannot be read: the entry stays, as one that has expired.
          if (!(error instanceof ConcordError) || error.code === 'ERR_INTERNAL') throw error;
          continue;
        }
        admitted++;
      }
      if (admitted > 0) this.#commit(Durability.Memory);
      else store.discardGroup();
      this.#counters[ShardCounter.Expired]! += admitted;
      // Where there is no room for a delete, or none on disk, another look must not come at once.
      const due = store.spaces.nextExpiry();
      const isStuck = due <= nowMs && store.spaces.expiringEntries >= listed;
      this.#expiryDueAt = isStuck ? nowMs + EXPIRY_RETRY_MS : due;
      if (due > nowMs) this.#expiredAt = nowMs;
    } catch (error) {
      if (store.groupRecords > 0) store.discardGroup();
      this.#failed(error);
      this.#expiryDueAt = nowMs + EXPIRY_RETRY_MS;
    }
    return this.#expiryDueAt <= nowMs;
  }

  // ---- spaces -----------------------------------------------------------------------------------------------------------------------------

  /** Harmless when it is open. @throws ERR_MEMORY_FULL */
  openSpace(definition: SpaceDefinition): void {
    this.#unseen(() => {
      this.store.openSpace(definition);
    });
  }

  /** When report() has something new to tell, on performance.now()'s clock; Infinity: nothing. */
  get reportDueMs(): number {
    return this.#meter.reportDueMs;
  }

  /** Tells every thread what the engines count. Between groups. */
  report(): void {
    this.#meter.report(
      this.store.spaces.all,
      (spaceId) => this.store.switchProgress(spaceId),
      ({ engine }) => this.#gates.figuresOf(engine.background!),
    );
  }

  switchProgress(spaceId: number): SwitchProgress | undefined {
    return this.store.switchProgress(spaceId);
  }

  /** Changes that no key's value shows: no log record, no sequence number, but scans without a snapshot must notice. */
  #unseen<T>(work: () => T): T {
    const { store } = this;
    this.#control.beginApplying(this.index);
    this.#meter.changed();
    try {
      store.setSnapshots(this.#snapshots, this.#control.readSnapshots(this.#snapshots, store.publishedSeq));
      return work();
    } finally {
      this.#control.endGroup(this.index, undefined);
    }
  }

  /** Called after each group and each checkpoint. */
  #countLog(): void {
    const { log, checkpointLsn } = this.store;
    const counters = this.#counters;
    counters[ShardCounter.LogBytes] = log.sizeBytes;
    counters[ShardCounter.RetainedLogBytes] = log.retainedBytes;
    counters[ShardCounter.LogLastLsn] = log.lastLsn;
    counters[ShardCounter.LogSyncedLsn] = log.syncedLsn;
    counters[ShardCounter.CheckpointLsn] = checkpointLsn;
    counters[ShardCounter.Clients] = this.#links.length;
    const needed = this.store.decisionsNeededFrom;
    if (needed === this.#decisionsNeeded) return;
    this.#decisionsNeeded = needed;
    this.#control.setDecisionsNeededFrom(this.index, needed);
  }

  /** A checkpoint ended. */
  endCheckpoint(durable: boolean): void {
    this.store.endCheckpoint(durable);
    if (durable) this.#counters[ShardCounter.Checkpoints]!++;
    this.#countLog();
  }
}

/** Of a PutBlob: the length of its value, of which a space that is being moved needs a second copy. */
function blobBytes(bytes: Buffer, start: number): number {
  return readBlobReference(bytes, operationKeyAt(bytes, start) + readKeyLength(bytes, start)).offset;
}

/** The first chunk of a value reserves room for all of it, so that a value is refused before it is sent. */
function chunkAdmissionBytes(bytes: Buffer, start: number): number {
  const { offset, count } = readBlobReference(bytes, start + OPERATION_HEADER_BYTES);
  return offset === 0 ? count + BLOB_REFERENCE_BYTES : readValueLength(bytes, start);
}

/** `head`: the first word of a request, see request.ts. */
function durabilityOf(head: number): DurabilityLevel {
  return Math.min((head >>> 8) & 0xff, Durability.Sync) as DurabilityLevel;
}

function conditionOf(head: number): number {
  return (head >>> 16) & 0xff;
}
