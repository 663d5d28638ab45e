/**
 * The pool's control block: one SharedArrayBuffer that every attached thread maps. It holds the commit counter, what each shard has
 * published and not yet published, the table of open snapshots, one line per client thread, and the board of metrics.
 *
 *   line 0      magic, layout version, shards, pool state, attached clients, open snapshots, crowded until (ms, modulo 2^32)
 *   line 1      commit counter (i64): the next sequence number to hand out · coordinator's state · restarts
 *   line 2      the coordinator's doorbell · bell of change feeds
 *   per shard   pending (i64) · published (i64) · applying (i64) · state · restarts · decisions needed from (i64) · log ends at (i64) · doorbell
 *   per client  doorbell
 *   slots       4,096 × u8: the shard of each hash slot
 *   counters    per shard 32 × f64, written by the shard after each group (see ShardCounter)
 *   feeds       who waits for the bell: a tally of clients
 *   snapshots   1,024 × { owner, ready, sequence (i64), opened at (f64 ms) }
 *   board       what is counted and timed: see metrics/board.ts
 *   commits     transactions over several shards on their way: see commit-board.ts
 *
 * Why a snapshot is consistent. A shard, for each group: (1) pending := lower bound, (2) takes numbers, (3) writes the log,
 * (4) applying := a stamp no other group has, (5) reads the snapshot table, (6) applies, (7) publishes, (8) published := last, applying := pending := 0.
 * An opener: (a) claims a slot without a number, (b) waits for groups that were applying already, (c) takes S = the highest published
 * number, stores it in the slot, looks again and goes back to (b) without a number if a higher one is published by now, (d) waits until no
 * shard has 0 < pending ≤ S and no transaction with a number ≤ S waits to be applied (commit-board.ts). A group whose (5) missed the claim was applying at (b) and is published, so within S. A group whose (5) saw
 * the claim without a number keeps the newest version below its own first number of each key. That is what S needs: the groups of its shard
 * before it are within S, since one above S that was published before this (5) would have been found at the second look of (c). A group
 * whose (5) saw the number keeps what it needs. A group not seen at (d) took its numbers after S was published: they are above S. All words
 * are read and written with Atomics, whose total order the argument uses.
 *
 * Threads: any; each word names its writer. Sequence numbers are 48 bits, held in JS numbers; BigInt appears once per group only.
 */
import { ConcordError } from '../shared/errors.js';
import { HASH_SLOTS } from '../shared/hash.js';
import { TALLY_CLIENTS, TALLY_WORDS } from '../shared/memory/client-tally.js';
import { Doorbell } from '../shared/memory/park.js';
import { FeedBell } from './feed/feed-bell.js';
import { CommitBoard, commitBoardBytes, untilNextLook } from './commit-board.js';
import { MetricsBoard, boardBytes } from './metrics/board.js';

export const MAX_SHARDS = 64;
/** Client threads at one time. Slot 0 is the host's own client. */
export const MAX_CLIENTS = TALLY_CLIENTS;
export const MAX_SNAPSHOTS = 1024;

const MAGIC = 0x434b5643;
const LAYOUT_VERSION = 5;
const LINE_BYTES = 64;
const LINE_WORDS = LINE_BYTES / 4;

const HEADER_MAGIC = 0;
const HEADER_VERSION = 1;
const HEADER_SHARDS = 2;
const HEADER_STATE = 3;
const HEADER_CLIENTS = 4;
const HEADER_OPEN_SNAPSHOTS = 5;
const HEADER_CROWDED_UNTIL = 6;
const HEADER_DURABILITY = 7;

const COUNTER_LINE = 1;
const COORDINATOR_STATE_WORD = COUNTER_LINE * LINE_WORDS + 4;
const COORDINATOR_RESTARTS_WORD = COUNTER_LINE * LINE_WORDS + 5;
const COORDINATOR_BELL_LINE = 2;
const FEED_BELL_WORD = COORDINATOR_BELL_LINE * LINE_WORDS + 8;
const SHARDS_LINE = 3;
/** Lines per shard: one for the sequence words, one for the doorbell. */
const SHARD_LINES = 2;
const SHARD_PENDING_I64 = 0;
const SHARD_PUBLISHED_I64 = 1;
const SHARD_APPLYING_I64 = 2;
const SHARD_STATE_WORD = 6;
const SHARD_RESTARTS_WORD = 7;
const SHARD_CHANGES_WORD = 10;
const SHARD_DECISIONS_I64 = 4;
/** The first number that its log does not vouch for; 0: it goes on. */
const SHARD_LOG_END_I64 = 6;
const CLIENTS_LINE = SHARDS_LINE + MAX_SHARDS * SHARD_LINES;
const FEEDS_LINE = CLIENTS_LINE + MAX_CLIENTS;
const SNAPSHOTS_LINE = FEEDS_LINE + Math.ceil(TALLY_WORDS / LINE_WORDS);
const SNAPSHOT_WORDS = 8;
const SNAPSHOT_OWNER = 0;
const SNAPSHOT_READY = 1;
const SNAPSHOT_SEQUENCE_I64 = 1;
const SNAPSHOT_OPENED_F64 = 2;
const SLOTS_BYTE = SNAPSHOTS_LINE * LINE_BYTES + MAX_SNAPSHOTS * SNAPSHOT_WORDS * 4;
const COUNTERS_BYTE = SLOTS_BYTE + HASH_SLOTS;
const COUNTERS_PER_SHARD = 32;
const BOARD_BYTE = COUNTERS_BYTE + MAX_SHARDS * COUNTERS_PER_SHARD * 8;

/** Index of each counter of a shard. A reader may see a value of one group ago. */
export const ShardCounter = {
  Groups: 0,
  Requests: 1,
  Operations: 2,
  Syncs: 3,
  ConditionsFailed: 4,
  Errors: 5,
  ClearSlices: 6,
  SweptPages: 7,
  LogBytes: 8,
  LogLastLsn: 9,
  LogSyncedLsn: 10,
  CheckpointLsn: 11,
  Checkpoints: 12,
  Clients: 13,
  Expired: 14,
  RetainedLogBytes: 15,
  /** Of transactions, see ShardTransactions.count(). */
  Prepared: 16,
  InDoubt: 17,
  LocksHeld: 18,
  LocksAwaited: 19,
  SetAside: 20,
  LockWaits: 21,
  LockTimeouts: 22,
  TransactionConflicts: 23,
} as const;

export const PoolState = { Open: 1, Closing: 2, Closed: 3 } as const;
export const ShardState = { Starting: 0, Running: 1, Restarting: 2, ReadOnly: 3, Failed: 4, Closed: 5 } as const;

/** How long one round of waiting for a shard's publication lasts, ms. */
const PUBLICATION_POLL_MS = 0.05;

export class ControlBlock {
  readonly sab: SharedArrayBuffer;
  readonly shards: number;
  readonly #words: Int32Array<SharedArrayBuffer>;
  readonly #longs: BigInt64Array;
  readonly #doubles: Float64Array;
  /** Shard of each hash slot. */
  readonly slots: Uint8Array;
  readonly board: MetricsBoard;
  readonly commits: CommitBoard;
  /** Rung by shards for change feeds. */
  readonly feedBell: FeedBell;
  /** This thread gave its client slot back: the snapshots under that number are another thread's now. */
  detached = false;
  #snapshotHint = 0;
  #applyingStamp = 0n;

  constructor(sab: SharedArrayBuffer) {
    this.sab = sab;
    this.#words = new Int32Array(sab);
    this.#longs = new BigInt64Array(sab);
    this.#doubles = new Float64Array(sab);
    this.slots = new Uint8Array(sab, SLOTS_BYTE, HASH_SLOTS);
    if (this.#words[HEADER_MAGIC] !== MAGIC || this.#words[HEADER_VERSION] !== LAYOUT_VERSION) {
      throw new ConcordError('ERR_FORMAT_VERSION', 'the handle belongs to another version of ConcordKV');
    }
    this.shards = this.#words[HEADER_SHARDS]!;
    this.board = new MetricsBoard(sab, BOARD_BYTE, MAX_CLIENTS, this.shards);
    this.feedBell = new FeedBell(this.#words, FEED_BELL_WORD, FEEDS_LINE * LINE_WORDS);
    this.commits = new CommitBoard(
      sab,
      commitsByte(this.shards),
      this.shards,
      (shard) => this.shardState(shard) === ShardState.Failed,
    );
  }

  static create(shards: number): ControlBlock {
    const sab = new SharedArrayBuffer(commitsByte(shards) + commitBoardBytes(shards));
    const words = new Int32Array(sab);
    words[HEADER_MAGIC] = MAGIC;
    words[HEADER_VERSION] = LAYOUT_VERSION;
    words[HEADER_SHARDS] = shards;
    words[HEADER_STATE] = PoolState.Open;
    const control = new ControlBlock(sab);
    for (let slot = 0; slot < HASH_SLOTS; slot++) control.slots[slot] = Math.floor((slot * shards) / HASH_SLOTS);
    return control;
  }

  /** Counters of a shard, see ShardCounter. */
  shardCounters(shard: number): Float64Array {
    return new Float64Array(this.sab, COUNTERS_BYTE + shard * COUNTERS_PER_SHARD * 8, COUNTERS_PER_SHARD);
  }

  /** Without ordering guarantees, for the hot path: a reader that races with close() may still be served. */
  get isOpen(): boolean {
    return this.#words[HEADER_STATE] === PoolState.Open;
  }

  get poolState(): number {
    return Atomics.load(this.#words, HEADER_STATE);
  }

  /** Host only. */
  set poolState(state: number) {
    Atomics.store(this.#words, HEADER_STATE, state);
  }

  /** Durability level of writes that do not say. Without ordering guarantees: a change reaches other threads within microseconds. */
  get defaultDurability(): number {
    return this.#words[HEADER_DURABILITY]!;
  }

  /** Host only. */
  set defaultDurability(level: number) {
    Atomics.store(this.#words, HEADER_DURABILITY, level);
  }

  /** Threads attached now, the host's included. */
  get clients(): number {
    return Atomics.load(this.#words, HEADER_CLIENTS);
  }

  /** Host only. */
  addClients(count: number): void {
    Atomics.add(this.#words, HEADER_CLIENTS, count);
  }

  /** A shard that waited awake was interrupted: for `forMs` from now no shard should wait so. (Clients poll from their event loop, between other work.) */
  noteCrowded(forMs: number): void {
    Atomics.store(this.#words, HEADER_CROWDED_UNTIL, (Date.now() + forMs) | 0);
  }

  /** Whether every thread that could run lacks a core: more threads of the pool than cores, or other work was noticed lately. */
  isCrowded(cores: number): boolean {
    if (this.clients + this.shards > cores) return true;
    const until = Atomics.load(this.#words, HEADER_CROWDED_UNTIL);
    return until !== 0 && ((until - (Date.now() | 0)) | 0) > 0;
  }

  // ---- sequence numbers -------------------------------------------------------------------------------------------------------

  /** Host, when every shard has recovered: the first number that was never used. Before that it is 0, and no shard may take any. */
  set nextSequence(sequence: number) {
    Atomics.store(this.#longs, (COUNTER_LINE * LINE_BYTES) / 8, BigInt(sequence));
  }

  get nextSequence(): number {
    return Number(Atomics.load(this.#longs, (COUNTER_LINE * LINE_BYTES) / 8));
  }

  #shardLong(shard: number, which: number): number {
    return ((SHARDS_LINE + shard * SHARD_LINES) * LINE_BYTES) / 8 + which;
  }

  /** Shard thread: takes `count` numbers, having announced a lower bound of them. Returns the first. */
  takeSequences(shard: number, count: number): number {
    const counter = (COUNTER_LINE * LINE_BYTES) / 8;
    Atomics.store(this.#longs, this.#shardLong(shard, SHARD_PENDING_I64), Atomics.load(this.#longs, counter));
    return Number(Atomics.add(this.#longs, counter, BigInt(count)));
  }

  /** A number of its own, for a transaction: the coordinator's under its claim, or any thread's as the id of one. */
  takeCommitNumber(): number {
    return Number(Atomics.add(this.#longs, (COUNTER_LINE * LINE_BYTES) / 8, 1n));
  }

  /** Shard thread: from here on the snapshot table is read for this group. */
  beginApplying(shard: number): void {
    this.#applyingStamp += 1n;
    Atomics.store(this.#longs, this.#shardLong(shard, SHARD_APPLYING_I64), this.#applyingStamp);
    // Last: who sees the new count sees that the shard is applying, or has been.
    Atomics.add(this.#words, (SHARDS_LINE + shard * SHARD_LINES) * LINE_WORDS + SHARD_CHANGES_WORD, 1);
  }

  /** Grows whenever the shard begins to change what readers may see. While it is the same, and the shard was not applying when it was read, nothing has changed. */
  changes(shard: number): number {
    return Atomics.load(this.#words, (SHARDS_LINE + shard * SHARD_LINES) * LINE_WORDS + SHARD_CHANGES_WORD);
  }

  /** Whether the shard is changing what readers may see. Between two calls that say no, with one meta page published, nothing changed. */
  isApplying(shard: number): boolean {
    const word = 2 * this.#shardLong(shard, SHARD_APPLYING_I64);
    return Atomics.load(this.#words, word) !== 0 || Atomics.load(this.#words, word + 1) !== 0;
  }

  /** Shard thread: the group is visible (or, with undefined, was given up and its numbers are never used). */
  endGroup(shard: number, lastSequence: number | undefined): void {
    if (lastSequence !== undefined) {
      Atomics.store(this.#longs, this.#shardLong(shard, SHARD_PUBLISHED_I64), BigInt(lastSequence));
    }
    Atomics.store(this.#longs, this.#shardLong(shard, SHARD_APPLYING_I64), 0n);
    Atomics.store(this.#longs, this.#shardLong(shard, SHARD_PENDING_I64), 0n);
  }

  published(shard: number): number {
    return Number(Atomics.load(this.#longs, this.#shardLong(shard, SHARD_PUBLISHED_I64)));
  }

  /**
   * Coordinator: the lowest number of a transaction that the shard has applied and could lose and ask for again; Infinity: none. Decisions with this number or a
   * higher one must not be forgotten.
   */
  decisionsNeededFrom(shard: number): number {
    const number = Number(Atomics.load(this.#longs, this.#shardLong(shard, SHARD_DECISIONS_I64)));
    return number === 0 ? Infinity : number;
  }

  /** Shard thread. */
  setDecisionsNeededFrom(shard: number, number: number): void {
    const long = this.#shardLong(shard, SHARD_DECISIONS_I64);
    Atomics.store(this.#longs, long, number === Infinity ? 0n : BigInt(number));
  }

  /**
   * Shard thread: its log takes nothing more, and vouches for numbers up to this one. Before anything is published without it, or anybody reads. With
   * undefined: it is a successor's, whose log goes on.
   */
  setLogEnd(shard: number, lastSequence: number | undefined): void {
    const number = lastSequence === undefined ? 0n : BigInt(lastSequence + 1);
    Atomics.store(this.#longs, this.#shardLong(shard, SHARD_LOG_END_I64), number);
  }

  /** The last number that the log of the shard vouches for; Infinity: it goes on. To be loaded behind published(), or that may be of no log. */
  logEnd(shard: number): number {
    const number = Number(Atomics.load(this.#longs, this.#shardLong(shard, SHARD_LOG_END_I64)));
    return number === 0 ? Infinity : number - 1;
  }

  #pending(shard: number): number {
    return Number(Atomics.load(this.#longs, this.#shardLong(shard, SHARD_PENDING_I64)));
  }

  #applying(shard: number): number {
    return Number(Atomics.load(this.#longs, this.#shardLong(shard, SHARD_APPLYING_I64)));
  }

  // ---- shards and doorbells -----------------------------------------------------------------------------------------------------

  shardState(shard: number): number {
    return Atomics.load(this.#words, (SHARDS_LINE + shard * SHARD_LINES) * LINE_WORDS + SHARD_STATE_WORD);
  }

  setShardState(shard: number, state: number): void {
    Atomics.store(this.#words, (SHARDS_LINE + shard * SHARD_LINES) * LINE_WORDS + SHARD_STATE_WORD, state);
  }

  shardRestarts(shard: number): number {
    return Atomics.load(this.#words, (SHARDS_LINE + shard * SHARD_LINES) * LINE_WORDS + SHARD_RESTARTS_WORD);
  }

  /** How often shards were replaced. */
  get restarts(): number {
    let restarts = 0;
    for (let shard = 0; shard < this.shards; shard++) restarts += this.shardRestarts(shard);
    return restarts;
  }

  /** Host only. */
  countRestart(shard: number): void {
    Atomics.add(this.#words, (SHARDS_LINE + shard * SHARD_LINES) * LINE_WORDS + SHARD_RESTARTS_WORD, 1);
  }

  shardDoorbell(shard: number): Doorbell {
    return new Doorbell(this.#words, (SHARDS_LINE + shard * SHARD_LINES + 1) * LINE_WORDS);
  }

  /** As of a shard. */
  get coordinatorState(): number {
    return Atomics.load(this.#words, COORDINATOR_STATE_WORD);
  }

  set coordinatorState(state: number) {
    Atomics.store(this.#words, COORDINATOR_STATE_WORD, state);
  }

  get coordinatorRestarts(): number {
    return Atomics.load(this.#words, COORDINATOR_RESTARTS_WORD);
  }

  /** Host only. */
  countCoordinatorRestart(): void {
    Atomics.add(this.#words, COORDINATOR_RESTARTS_WORD, 1);
  }

  get coordinatorDoorbell(): Doorbell {
    return new Doorbell(this.#words, COORDINATOR_BELL_LINE * LINE_WORDS);
  }

  clientDoorbell(client: number): Doorbell {
    return new Doorbell(this.#words, (CLIENTS_LINE + client) * LINE_WORDS);
  }

  // ---- snapshots ------------------------------------------------------------------------------------------------------------------

  get openSnapshots(): number {
    return Atomics.load(this.#words, HEADER_OPEN_SNAPSHOTS);
  }

  /**
   * Shard thread, after beginApplying: fills `into` with the sequence numbers of open snapshots, ascending, and returns their count.
   * One that has no number yet counts as `floor`, the last number before the group.
   */
  readSnapshots(into: Float64Array, floor: number): number {
    if (Atomics.load(this.#words, HEADER_OPEN_SNAPSHOTS) === 0) return 0;
    let count = 0;
    let hasFloor = false;
    for (let slot = 0; slot < MAX_SNAPSHOTS; slot++) {
      const word = SNAPSHOTS_LINE * LINE_WORDS + slot * SNAPSHOT_WORDS;
      if (Atomics.load(this.#words, word + SNAPSHOT_OWNER) === 0) continue;
      if (Atomics.load(this.#words, word + SNAPSHOT_READY) === 1) {
        into[count++] = Number(Atomics.load(this.#longs, (word >> 1) + SNAPSHOT_SEQUENCE_I64));
      } else if (!hasFloor) {
        into[count++] = floor;
        hasFloor = true;
      }
    }
    if (count > 1) into.subarray(0, count).sort();
    return count;
  }

  /** Oldest open snapshot in ms since the epoch, or undefined. */
  oldestSnapshotOpenedAt(): number | undefined {
    let oldest: number | undefined;
    for (let slot = 0; slot < MAX_SNAPSHOTS; slot++) {
      const word = SNAPSHOTS_LINE * LINE_WORDS + slot * SNAPSHOT_WORDS;
      if (Atomics.load(this.#words, word + SNAPSHOT_OWNER) === 0) continue;
      const openedAt = this.#doubles[(word >> 1) + SNAPSHOT_OPENED_F64]!;
      if (oldest === undefined || openedAt < oldest) oldest = openedAt;
    }
    return oldest;
  }

  /** Steps (a): claims a slot. @throws ERR_SNAPSHOT_LIMIT */
  #claimSnapshot(client: number): number {
    Atomics.add(this.#words, HEADER_OPEN_SNAPSHOTS, 1);
    for (let i = 0; i < MAX_SNAPSHOTS; i++) {
      const slot = (this.#snapshotHint + i) % MAX_SNAPSHOTS;
      const word = SNAPSHOTS_LINE * LINE_WORDS + slot * SNAPSHOT_WORDS;
      if (Atomics.compareExchange(this.#words, word + SNAPSHOT_OWNER, 0, client + 1) === 0) {
        this.#snapshotHint = (slot + 1) % MAX_SNAPSHOTS;
        this.#doubles[(word >> 1) + SNAPSHOT_OPENED_F64] = Date.now();
        return slot;
      }
    }
    Atomics.sub(this.#words, HEADER_OPEN_SNAPSHOTS, 1);
    throw new ConcordError('ERR_SNAPSHOT_LIMIT', `all ${MAX_SNAPSHOTS} snapshots are open; close some first`, {
      limit: MAX_SNAPSHOTS,
    });
  }

  #highestPublished(): number {
    let highest = 0;
    for (let shard = 0; shard < this.shards; shard++) highest = Math.max(highest, this.published(shard));
    return highest;
  }

  #isPublishedUpTo(sequence: number): boolean {
    for (let shard = 0; shard < this.shards; shard++) {
      const pending = this.#pending(shard);
      if (pending !== 0 && pending <= sequence) return false;
    }
    return !this.commits.isUnapplied(sequence);
  }

  /** Steps (b) to (d) as a generator that yields while it must wait. @throws ERR_SHARD_FAILED: it would have to wait for ever */
  *#settleSnapshot(slot: number): Generator<void, number, void> {
    const word = SNAPSHOTS_LINE * LINE_WORDS + slot * SNAPSHOT_WORDS;
    for (;;) {
      for (let shard = 0; shard < this.shards; shard++) {
        const applying = this.#applying(shard);
        while (applying !== 0 && this.#applying(shard) === applying) yield;
      }
      const sequence = this.#highestPublished();
      Atomics.store(this.#longs, (word >> 1) + SNAPSHOT_SEQUENCE_I64, BigInt(sequence));
      Atomics.store(this.#words, word + SNAPSHOT_READY, 1);
      // Two groups of a shard may have come between the look and the store: the second would keep only the first's versions.
      if (this.#highestPublished() === sequence) {
        while (!this.#isPublishedUpTo(sequence)) {
          this.commits.assertWillApply(sequence);
          yield;
        }
        return sequence;
      }
      Atomics.store(this.#words, word + SNAPSHOT_READY, 0);
    }
  }

  /**
   * Opens a snapshot, blocking the thread until the groups that were being applied are published (usually < 1 ms).
   * @throws ERR_SNAPSHOT_LIMIT, ERR_TIMEOUT, ERR_SHARD_FAILED
   */
  openSnapshotSync(client: number): { slot: number; sequence: number } {
    const slot = this.#claimSnapshot(client);
    const settling = this.#settleSnapshot(slot);
    const deadline = Date.now() + SNAPSHOT_WAIT_MS_MAX;
    for (;;) {
      const sequence = this.#nextLook(settling, slot, client, deadline);
      if (sequence !== undefined) return { slot, sequence };
      Atomics.wait(this.#words, HEADER_MAGIC, MAGIC, PUBLICATION_POLL_MS);
    }
  }

  /** The same without blocking: waits on the event loop. */
  async openSnapshot(client: number): Promise<{ slot: number; sequence: number }> {
    const slot = this.#claimSnapshot(client);
    const settling = this.#settleSnapshot(slot);
    const deadline = Date.now() + SNAPSHOT_WAIT_MS_MAX;
    for (let looks = 0; ; looks++) {
      const sequence = this.#nextLook(settling, slot, client, deadline);
      if (sequence !== undefined) return { slot, sequence };
      await untilNextLook(looks);
    }
  }

  /** The snapshot's number once it has one. Whatever is thrown, the slot is given back. */
  #nextLook(settling: Iterator<void, number>, slot: number, client: number, deadline: number): number | undefined {
    try {
      const step = settling.next();
      if (step.done) return step.value;
      if (Date.now() <= deadline) return undefined;
      throw new ConcordError('ERR_TIMEOUT', `a shard did not publish within ${SNAPSHOT_WAIT_MS_MAX} ms`);
    } catch (error) {
      this.closeSnapshot(slot, client);
      throw error;
    }
  }

  /** Gives the slot back, if `client` still owns it (a dead client's slots are taken back by the host). */
  closeSnapshot(slot: number, client: number): void {
    if (this.detached) return;
    const word = SNAPSHOTS_LINE * LINE_WORDS + slot * SNAPSHOT_WORDS;
    if (Atomics.load(this.#words, word + SNAPSHOT_OWNER) !== client + 1) return;
    Atomics.store(this.#words, word + SNAPSHOT_READY, 0);
    if (Atomics.compareExchange(this.#words, word + SNAPSHOT_OWNER, client + 1, 0) === client + 1) {
      Atomics.sub(this.#words, HEADER_OPEN_SNAPSHOTS, 1);
    }
  }

  /** Host, when a client thread died: closes what it left open. */
  closeSnapshotsOf(client: number): void {
    for (let slot = 0; slot < MAX_SNAPSHOTS; slot++) this.closeSnapshot(slot, client);
  }
}

/** A shard that does not publish within this time is dead or stuck; the opener gives up with ERR_TIMEOUT. */
const SNAPSHOT_WAIT_MS_MAX = 10_000;

function commitsByte(shards: number): number {
  return Math.ceil((BOARD_BYTE + boardBytes(MAX_CLIENTS, shards)) / LINE_BYTES) * LINE_BYTES;
}
