/**
 * The board of transactions: which are open, in any thread, and what became of the others. One region of shared memory with a part per client thread,
 * which that thread alone writes, plainly.
 *
 *   part    counters (TransactionCounter) · durations, times of votes (histograms) · slots
 *   slot    turn i32 (0: free) · state i32 · flags i32 (isolation, mode) · priority i32 · id f64 · began f64 (ms since the epoch)
 *
 * A reader that meets another turn after it has read a slot than before has read a mixture, and passes over it. Counters outlive their thread: the next
 * one in its place adds to them. There are as many slots in a part as a thread may run transactions at a time, within LISTED_MIN … LISTED_MAX; begin() does not wait, so
 * there may be more: those are counted, not listed. What was never used takes no memory.
 * Threads: each method says whose.
 */
import { MAX_CLIENTS } from '../control-block.js';
import { HISTOGRAM_LENGTH, Histogram, addHistogram, record } from '../metrics/histogram.js';

/** Numbers may change from version to version. */
export const TransactionCounter = {
  Begun: 0,
  Committed: 1,
  RolledBack: 2,
  Retries: 3,
  Conflicts: 4,
  Deadlocks: 5,
  LockTimeouts: 6,
  Timeouts: 7,
  OtherFailures: 8,
  /** Of the committed: without a message, with one, with votes. */
  Silent: 9,
  OneShard: 10,
  ManyShards: 11,
  Waiting: 12,
} as const;
const COUNTERS = 16;

/** Listed at a time, per thread. */
const LISTED_MIN = 1024;
const LISTED_MAX = 16_384;
const SLOT_BYTES = 32;
const DURATIONS = COUNTERS;
const VOTES = DURATIONS + HISTOGRAM_LENGTH;
const COUNTS_LENGTH = VOTES + HISTOGRAM_LENGTH;
const SLOTS_BYTE = COUNTS_LENGTH * 8;
const TURN = 0;
const STATE = 1;
const FLAGS = 2;
const PRIORITY = 3;
const ID_F64 = 2;
const BEGAN_F64 = 3;

export const ListedState = { Active: 1, Committing: 2 } as const;
const FLAG_PESSIMISTIC = 4;

export interface ListedTransaction {
  readonly client: number;
  readonly id: number;
  readonly state: number;
  readonly isolation: number;
  readonly isPessimistic: boolean;
  readonly priority: number;
  /** ms since the epoch. */
  readonly beganAt: number;
}

/** For MAX_CLIENTS threads that run so many transactions at a time. */
export function transactionBoardBytes(maxConcurrent: number): number {
  const listed = Math.min(Math.max(maxConcurrent, LISTED_MIN), LISTED_MAX);
  return MAX_CLIENTS * Math.ceil((SLOTS_BYTE + listed * SLOT_BYTES) / 64) * 64;
}

function partBytes(sab: SharedArrayBuffer): number {
  return sab.byteLength / MAX_CLIENTS;
}

/** Slots of the client, as words and as doubles. */
function slotsOf(sab: SharedArrayBuffer, client: number): { words: Int32Array; doubles: Float64Array; count: number } {
  const at = client * partBytes(sab) + SLOTS_BYTE;
  const count = Math.floor((partBytes(sab) - SLOTS_BYTE) / SLOT_BYTES);
  const words = new Int32Array(sab, at, (count * SLOT_BYTES) / 4);
  return { words, doubles: new Float64Array(sab, at, (count * SLOT_BYTES) / 8), count };
}

function countsOf(sab: SharedArrayBuffer, client: number): Float64Array {
  return new Float64Array(sab, client * partBytes(sab), COUNTS_LENGTH);
}

/** A thread's own part. */
export class TransactionBoardPart {
  readonly counts: Float64Array;
  readonly #words: Int32Array;
  readonly #doubles: Float64Array;
  readonly #free: Int32Array;
  #freeCount = 0;
  #turn = 0;

  constructor(sab: SharedArrayBuffer, client: number) {
    const { words, doubles, count } = slotsOf(sab, client);
    this.counts = countsOf(sab, client);
    this.#words = words;
    this.#doubles = doubles;
    this.#free = new Int32Array(count);
    this.clear();
  }

  /** What a thread left here that had this place before, or this one, when it goes. */
  clear(): void {
    const { length } = this.#free;
    for (let slot = 0; slot < length; slot++) {
      this.#words[slot * (SLOT_BYTES / 4) + TURN] = 0;
      this.#free[slot] = length - 1 - slot;
    }
    this.#freeCount = length;
    this.counts[TransactionCounter.Waiting] = 0;
  }

  /** -1: there is no room. */
  list(id: number, isolation: number, isPessimistic: boolean, priority: number, beganAt: number): number {
    if (this.#freeCount === 0) return -1;
    const slot = this.#free[--this.#freeCount]!;
    const at = slot * (SLOT_BYTES / 4);
    const words = this.#words;
    words[at + STATE] = ListedState.Active;
    words[at + FLAGS] = isolation | (isPessimistic ? FLAG_PESSIMISTIC : 0);
    words[at + PRIORITY] = priority;
    this.#doubles[slot * 4 + ID_F64] = id;
    this.#doubles[slot * 4 + BEGAN_F64] = beganAt;
    this.#turn = (this.#turn + 1) | 0 || 1;
    words[at + TURN] = this.#turn;
    return slot;
  }

  setCommitting(slot: number): void {
    if (slot >= 0) this.#words[slot * (SLOT_BYTES / 4) + STATE] = ListedState.Committing;
  }

  unlist(slot: number): void {
    if (slot < 0) return;
    this.#words[slot * (SLOT_BYTES / 4) + TURN] = 0;
    this.#free[this.#freeCount++] = slot;
  }

  took(ms: number): void {
    record(this.counts, DURATIONS, ms * 1e6);
  }

  /** All shards have voted for it. */
  votesTook(ms: number): void {
    record(this.counts, VOTES, ms * 1e6);
  }
}

/** Any thread: what all of them have open. */
export function listedTransactions(sab: SharedArrayBuffer): ListedTransaction[] {
  const listed: ListedTransaction[] = [];
  for (let client = 0; client < MAX_CLIENTS; client++) {
    if (countsOf(sab, client)[TransactionCounter.Begun] === 0) continue;
    const { words, doubles, count } = slotsOf(sab, client);
    for (let slot = 0; slot < count; slot++) {
      const word = slot * (SLOT_BYTES / 4);
      const turn = Atomics.load(words, word + TURN);
      if (turn === 0) continue;
      const flags = words[word + FLAGS]!;
      const found = {
        client,
        id: doubles[slot * 4 + ID_F64]!,
        state: words[word + STATE]!,
        isolation: flags & 3,
        isPessimistic: (flags & FLAG_PESSIMISTIC) !== 0,
        priority: words[word + PRIORITY]!,
        beganAt: doubles[slot * 4 + BEGAN_F64]!,
      };
      if (Atomics.load(words, word + TURN) === turn) listed.push(found);
    }
  }
  return listed.sort((a, b) => a.id - b.id);
}

/** Any thread, for the client's: what a thread that died has left open is not open any more. */
export function unlistAll(sab: SharedArrayBuffer, client: number): void {
  if (countsOf(sab, client)[TransactionCounter.Begun] === 0) return;
  const { words, count } = slotsOf(sab, client);
  for (let slot = 0; slot < count; slot++) words[slot * (SLOT_BYTES / 4) + TURN] = 0;
}

/** Any thread: counters and times of all threads, those that have left included. */
export function transactionTotals(sab: SharedArrayBuffer): {
  readonly counts: Float64Array;
  readonly durations: Histogram;
  readonly votes: Histogram;
} {
  const sums = new Float64Array(COUNTS_LENGTH);
  for (let client = 0; client < MAX_CLIENTS; client++) {
    const counts = countsOf(sab, client);
    if (counts[TransactionCounter.Begun] === 0) continue;
    for (let index = 0; index < COUNTERS; index++) sums[index]! += counts[index]!;
    addHistogram(sums, DURATIONS, counts, DURATIONS);
    addHistogram(sums, VOTES, counts, VOTES);
  }
  return { counts: sums, durations: new Histogram(sums, DURATIONS), votes: new Histogram(sums, VOTES) };
}
