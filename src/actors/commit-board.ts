/**
 * The commit board: which transactions over several shards are decided, and which shards have applied them. A bounded circular log in the pool's
 * control block, so that it outlives the thread of the coordinator, which alone appends, and those of the shards, which each set one bit.
 *
 *   head line    head (entries appended, modulo 2^32) · tail (entries before it are applied everywhere) · claim · round
 *   entries      1,024 × { id f64 · number f64 · participants 2 × u32 · applied 2 × u32 · turn i32 }, entry i at i modulo 1,024
 *   prepared     per shard 16,384 × i32: how many prepared transactions write a key of that hash
 *
 * How a transaction gets one number N on all its shards, above all that was published on each before, and below all that comes after it there:
 * the coordinator sets `claim`, takes N from the commit counter, appends the entry, clears `claim`. A shard that has taken numbers G … for a
 * group waits until `claim` is clear; then every entry with N < G is on the board, and goes into the group's publication, before the group's own
 * operations. An entry with N > G is left for the next group. So N ≤ what a shard has published means: applied there. A shard that died and was
 * replaced, or a coordinator that appends nothing twice (has()), needs no other memory of it.
 *
 * Why no snapshot sees a part. A snapshot's S is a published number. If N < S, whoever published S met the entry on the board, so the opener meets
 * it too, and waits until it is applied everywhere (isUnapplied()). Who waits for a shard that stays down is told so at once.
 *
 * Why no single read sees a part either (mustWait()). Before a shard votes yes it raises the counters of the keys to be written, and lowers them after
 * the outcome is published. A reader that has seen the transaction on another shard finds its entry on the board, and either the counters of its own key
 * raised, and waits for that shard, or the new value.
 *
 * A shard that only reads for a transaction keeps its yes by locks in the memory of its thread. Is it replaced between the decision and the number, others could
 * write there, and become visible, before the transaction that has read what was before them. So the coordinator begins a round (an odd `round`) before it
 * looks how often shards were replaced, and ends it when all that it has accepted since has its number; and who replaces a shard counts that first, and then
 * lets it serve nobody until the round that it meets is over. One of the two sees the other.
 *
 * An entry is written anew only when the one before it in its place is applied everywhere; `turn` says which of them it holds, and a reader that finds
 * another turn than it looks for knows that the one it looks for is done.
 *
 * Threads: each method names who may call it.
 */
import { ConcordError } from '../shared/errors.js';

const ENTRIES = 1024;
const ENTRY_WORDS = 16;
const ID_F64 = 0;
const NUMBER_F64 = 1;
const PARTICIPANTS_LOW = 4;
const PARTICIPANTS_HIGH = 5;
const APPLIED_LOW = 6;
const APPLIED_HIGH = 7;
const TURN = 8;

const HEAD = 0;
const TAIL = 1;
const CLAIM = 2;
const ROUND = 3;
const LINE_WORDS = 16;
const HEAD_BYTES = LINE_WORDS * 4;
/** So many that two of the keys that are prepared at a time hardly share one: who reads a key whose counter is raised waits for the shard. */
const PREPARED_COUNTERS = 1 << 16;
/** No turn: an entry is being written. */
const NO_TURN = 0x7fffffff | 0;

/** Between two looks at a claim that stays: its owner died, and its successor clears it. */
const CLAIM_POLL_MS = 1;
/** How long a read waits for a shard that should apply what is decided. */
const READ_WAIT_MS_MAX = 10_000;
const READ_POLL_MS = 0.05;
const QUICK_LOOKS = 100;

export function commitBoardBytes(shards: number): number {
  return HEAD_BYTES + (ENTRIES * ENTRY_WORDS + shards * PREPARED_COUNTERS) * 4;
}

export interface BoardEntry {
  readonly id: number;
  readonly number: number;
  readonly participantsLow: number;
  readonly participantsHigh: number;
  readonly appliedLow: number;
  readonly appliedHigh: number;
}

export class CommitBoard {
  readonly #words: Int32Array<SharedArrayBuffer>;
  /** Entries, as words and as numbers: entry i begins at word (i & mask) * ENTRY_WORDS. */
  readonly #entries: Int32Array<SharedArrayBuffer>;
  readonly #doubles: Float64Array<SharedArrayBuffer>;
  readonly #prepared: Int32Array<SharedArrayBuffer>;

  readonly #shards: number;
  readonly #isDown: (shard: number) => boolean;

  /** `byte`: a multiple of 64 in zeroed memory. `isDown`: whether a shard will apply nothing any more. */
  constructor(sab: SharedArrayBuffer, byte: number, shards: number, isDown: (shard: number) => boolean = () => false) {
    this.#shards = shards;
    this.#isDown = isDown;
    this.#words = new Int32Array(sab, byte, LINE_WORDS);
    this.#entries = new Int32Array(sab, byte + HEAD_BYTES, ENTRIES * ENTRY_WORDS);
    this.#doubles = new Float64Array(sab, byte + HEAD_BYTES, (ENTRIES * ENTRY_WORDS) / 2);
    this.#prepared = new Int32Array(sab, byte + HEAD_BYTES + ENTRIES * ENTRY_WORDS * 4, shards * PREPARED_COUNTERS);
  }

  get head(): number {
    return Atomics.load(this.#words, HEAD);
  }

  get tail(): number {
    return Atomics.load(this.#words, TAIL);
  }

  /** Without ordering guarantees, for the hot path of reads: a reader that has seen a part of a transaction sees that the board is not empty. */
  get isEmpty(): boolean {
    return this.#words[HEAD] === this.#words[TAIL];
  }

  /** Entries that some shard has not applied, as far as the coordinator knows. */
  get length(): number {
    return (this.head - this.tail) | 0;
  }

  // ---- the coordinator ------------------------------------------------------------------------------------------------------------------

  get isFull(): boolean {
    return this.length >= ENTRIES;
  }

  /** Coordinator: before it takes numbers. */
  claim(): void {
    Atomics.store(this.#words, CLAIM, 1);
  }

  /** Coordinator: what was appended may be met. Also by a successor, and by the host when there will be none. */
  unclaim(): void {
    Atomics.store(this.#words, CLAIM, 0);
    Atomics.notify(this.#words, CLAIM);
  }

  /** Coordinator: before it accepts what depends on shards that have only read. One that has begun goes on. */
  beginRound(): void {
    if ((this.round & 1) === 0) Atomics.add(this.#words, ROUND, 1);
  }

  /** Coordinator: all that it has accepted has its number, or never gets one. */
  endRound(): void {
    if ((this.round & 1) === 1) Atomics.add(this.#words, ROUND, 1);
  }

  /** Host: with a restart counted, what isRoundOver() is asked with. */
  get round(): number {
    return Atomics.load(this.#words, ROUND);
  }

  /** Host: whether all has its number that was accepted before `seen` was read. */
  isRoundOver(seen: number): boolean {
    return (seen & 1) === 0 || this.round !== seen;
  }

  /** Coordinator, under its claim, not if isFull: shard s takes part if bit s of the masks is set. */
  append(id: number, number: number, participantsLow: number, participantsHigh: number): void {
    const turn = this.head;
    const at = (turn & (ENTRIES - 1)) * ENTRY_WORDS;
    const entries = this.#entries;
    Atomics.store(entries, at + TURN, NO_TURN);
    this.#doubles[(at >> 1) + ID_F64] = id;
    this.#doubles[(at >> 1) + NUMBER_F64] = number;
    Atomics.store(entries, at + PARTICIPANTS_LOW, participantsLow);
    Atomics.store(entries, at + PARTICIPANTS_HIGH, participantsHigh);
    Atomics.store(entries, at + APPLIED_LOW, 0);
    Atomics.store(entries, at + APPLIED_HIGH, 0);
    Atomics.store(entries, at + TURN, turn);
    Atomics.store(this.#words, HEAD, (turn + 1) | 0);
  }

  /** Coordinator: advances the tail over what is applied everywhere; each is told once, by whichever coordinator meets it. */
  collect(done: (id: number, number: number) => void): void {
    let tail = this.tail;
    for (const head = this.head; tail !== head && this.#isApplied(tail); tail = (tail + 1) | 0) {
      const at = (tail & (ENTRIES - 1)) * ENTRY_WORDS;
      done(this.#doubles[(at >> 1) + ID_F64]!, this.#doubles[(at >> 1) + NUMBER_F64]!);
    }
    if (tail !== this.tail) Atomics.store(this.#words, TAIL, tail);
  }

  /** Whether the entry, by its place in order, is applied everywhere. */
  #isApplied(index: number): boolean {
    const entries = this.#entries;
    const at = (index & (ENTRIES - 1)) * ENTRY_WORDS;
    return (
      Atomics.load(entries, at + APPLIED_LOW) === entries[at + PARTICIPANTS_LOW] &&
      Atomics.load(entries, at + APPLIED_HIGH) === entries[at + PARTICIPANTS_HIGH]
    );
  }

  /** Coordinator. */
  has(id: number): boolean {
    for (let index = this.tail, { head } = this; index !== head; index = (index + 1) | 0) {
      if (this.#doubles[(((index & (ENTRIES - 1)) * ENTRY_WORDS) >> 1) + ID_F64] === id) return true;
    }
    return false;
  }

  /** Coordinator: what is on the board, oldest first. */
  forEach(visit: (entry: BoardEntry) => void): void {
    const entries = this.#entries;
    for (let index = this.tail, { head } = this; index !== head; index = (index + 1) | 0) {
      const at = (index & (ENTRIES - 1)) * ENTRY_WORDS;
      visit({
        id: this.#doubles[(at >> 1) + ID_F64]!,
        number: this.#doubles[(at >> 1) + NUMBER_F64]!,
        participantsLow: entries[at + PARTICIPANTS_LOW]!,
        participantsHigh: entries[at + PARTICIPANTS_HIGH]!,
        appliedLow: Atomics.load(entries, at + APPLIED_LOW),
        appliedHigh: Atomics.load(entries, at + APPLIED_HIGH),
      });
    }
  }

  // ---- shards ---------------------------------------------------------------------------------------------------------------------------

  /** Shard, with its group's numbers taken: returns when all entries with lower ones are on the board. */
  waitForClaim(): void {
    while (Atomics.load(this.#words, CLAIM) !== 0) Atomics.wait(this.#words, CLAIM, 1, CLAIM_POLL_MS);
  }

  /**
   * Shard: the entries from `from` on that it takes part in and has not applied, in order of their numbers, which are below `below`. Returns where to look
   * next time: at the first that was left, or at the head.
   */
  due(shard: number, from: number, below: number, visit: (id: number, number: number, index: number) => void): number {
    const entries = this.#entries;
    const word = shard < 32 ? PARTICIPANTS_LOW : PARTICIPANTS_HIGH;
    const bit = 1 << (shard & 31);
    const { head, tail } = this;
    let index = ((tail - from) | 0) > 0 ? tail : from;
    for (; index !== head; index = (index + 1) | 0) {
      const at = (index & (ENTRIES - 1)) * ENTRY_WORDS;
      if (Atomics.load(entries, at + TURN) !== index) continue;
      const number = this.#doubles[(at >> 1) + NUMBER_F64]!;
      const id = this.#doubles[(at >> 1) + ID_F64]!;
      if ((Atomics.load(entries, at + word) & bit) === 0) continue;
      if ((Atomics.load(entries, at + word + 2) & bit) !== 0) continue;
      // It is this shard's, and not applied: nobody writes the place anew, if it was the right one.
      if (Atomics.load(entries, at + TURN) !== index) continue;
      if (number >= below) break;
      visit(id, number, index);
    }
    return index;
  }

  /** Shard, after the publication. True: it was the last one, the coordinator may go on. Of several at the same time one at least is told so. */
  setApplied(shard: number, index: number): boolean {
    const at = (index & (ENTRIES - 1)) * ENTRY_WORDS;
    Atomics.or(this.#entries, at + (shard < 32 ? APPLIED_LOW : APPLIED_HIGH), 1 << (shard & 31));
    return this.#isApplied(index);
  }

  /** Shard: a prepared transaction is to write (+1), or has written (-1), a key of this hash. */
  countPrepared(shard: number, hash: number, by: 1 | -1): void {
    const at = shard * PREPARED_COUNTERS + (hash & (PREPARED_COUNTERS - 1));
    Atomics.store(this.#prepared, at, this.#prepared[at]! + by);
  }

  /** A shard that begins: keys of these hashes are prepared there, and no others. What its predecessor had counted, too, is counted at any moment. */
  resetPrepared(shard: number, hashes: readonly number[]): void {
    const counters = new Int32Array(PREPARED_COUNTERS);
    for (const hash of hashes) counters[hash & (PREPARED_COUNTERS - 1)]!++;
    for (let at = 0; at < PREPARED_COUNTERS; at++)
      Atomics.store(this.#prepared, shard * PREPARED_COUNTERS + at, counters[at]!);
  }

  // ---- readers --------------------------------------------------------------------------------------------------------------------------

  /** Any thread: whether a transaction with a number ≤ `sequence` is not applied on all its shards. */
  isUnapplied(sequence: number): boolean {
    return this.#firstUnapplied(sequence) !== undefined;
  }

  /** Any thread, beside what waits for isUnapplied(). @throws ERR_SHARD_FAILED: a shard stays down that would have to apply it */
  assertWillApply(sequence: number): void {
    const index = this.#firstUnapplied(sequence);
    if (index === undefined) return;
    for (let shard = 0; shard < this.#shards; shard++) {
      if (this.#isDown(shard) && this.#mustApply(shard, index)) throw down(shard);
    }
  }

  #firstUnapplied(sequence: number): number | undefined {
    const entries = this.#entries;
    for (let index = this.tail, { head } = this; index !== head; index = (index + 1) | 0) {
      const at = (index & (ENTRIES - 1)) * ENTRY_WORDS;
      const number = this.#doubles[(at >> 1) + NUMBER_F64]!;
      const isOpen = !this.#isApplied(index);
      // Another turn: this one is done.
      if (Atomics.load(entries, at + TURN) !== index) continue;
      if (number > sequence) return undefined;
      if (isOpen) return index;
    }
    return undefined;
  }

  /** Any thread, when the board is not empty: whether a read of a key with this hash may have to wait for its shard. */
  mayBePrepared(shard: number, hash: number): boolean {
    return Atomics.load(this.#prepared, shard * PREPARED_COUNTERS + (hash & (PREPARED_COUNTERS - 1))) !== 0;
  }

  /** Any thread: whether the shard has something to apply among the entries before `head`. */
  isBehind(shard: number, head: number): boolean {
    for (let index = this.tail; ((head - index) | 0) > 0; index = (index + 1) | 0) {
      if (this.#mustApply(shard, index)) return true;
    }
    return false;
  }

  #mustApply(shard: number, index: number): boolean {
    const entries = this.#entries;
    const at = (index & (ENTRIES - 1)) * ENTRY_WORDS;
    const word = shard < 32 ? PARTICIPANTS_LOW : PARTICIPANTS_HIGH;
    const bit = 1 << (shard & 31);
    const isMine = (Atomics.load(entries, at + word) & bit) !== 0;
    const isDone = (Atomics.load(entries, at + word + 2) & bit) !== 0;
    return isMine && !isDone && Atomics.load(entries, at + TURN) === index;
  }

  /** Any thread, blocking: until the shard has applied what is decided now. @throws ERR_TIMEOUT; ERR_SHARD_FAILED: it stays down */
  waitForShardSync(shard: number, waitMsMax: number): void {
    const { head } = this;
    const deadline = Date.now() + Math.min(waitMsMax, READ_WAIT_MS_MAX);
    while (this.isBehind(shard, head)) {
      if (this.#isDown(shard)) throw down(shard);
      if (Date.now() > deadline) throw late(shard);
      Atomics.wait(this.#words, LINE_WORDS - 1, 0, READ_POLL_MS);
    }
  }

  /** The same while the event loop runs. */
  async waitForShard(shard: number, waitMsMax = Infinity): Promise<void> {
    const { head } = this;
    const deadline = Date.now() + Math.min(waitMsMax, READ_WAIT_MS_MAX);
    for (let looks = 0; this.isBehind(shard, head); looks++) {
      if (this.#isDown(shard)) throw down(shard);
      if (Date.now() > deadline) throw late(shard);
      await untilNextLook(looks);
    }
  }
}

/** Between two looks at what another thread will do soon: at first with every turn of the event loop, later without taking a core from that thread. */
export function untilNextLook(looks: number): Promise<void> {
  return new Promise((resolve) => {
    if (looks < QUICK_LOOKS) setImmediate(resolve);
    else setTimeout(resolve, 1);
  });
}

function late(shard: number): ConcordError {
  return new ConcordError('ERR_TIMEOUT', `shard ${shard} has not applied a commit that others have`, { shard });
}

function down(shard: number): ConcordError {
  const text = `shard ${shard} failed repeatedly and stays down; it has not applied a commit that others have: reopen the store`;
  return new ConcordError('ERR_SHARD_FAILED', text, { shard });
}
