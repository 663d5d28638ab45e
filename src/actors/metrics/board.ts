/**
 * The board: the part of the control block in which every thread of a pool counts what it does, so that any thread can read all of it at once, without
 * asking. Nobody waits for anybody: a number has one writer, which adds to it plainly.
 *
 *   sequence lock   over which block is whose
 *   blocks          { state, owner, space, then Counter and three histograms }; one per client thread and space it uses
 *   pending         per client and shard: calls that are not settled
 *   shards          histograms of groups (their shard's thread) and of checkpoints (the host's)
 *   documents       per shard: sequence lock, length, JSON of what only the shard knows
 *   coordinator     counters and histograms of the coordinator's thread
 *
 * Blocks 0 … MAX_CLIENTS are fixed: one per client slot for spaces that found no block of their own, and one for those of threads that left. The others are
 * claimed by a thread that uses a space, which sets `state` last. The host alone takes blocks away: when a thread has left, or a space is gone, it
 * adds the block to another one, zeroes and frees it, under the sequence lock; so nothing is lost, and no reader counts it twice.
 *
 *   Free ──claim──▶ Claiming ──▶ Used ──the space was dropped──▶ Retired ──host──▶ Free             Used, of a thread that left ──host──▶ owner Left, or Free
 *
 * Threads: any; each method says whose.
 */
import { EXPIRY_SPACE_ID, SPACE_ID_MAX } from '../../engines/engine.js';
import { toOwnerId } from '../../shared/memory/lock-owner.js';
import { SEQLOCK_WORDS, SeqLock } from '../../shared/memory/seqlock.js';
import { COORDINATOR_COUNTERS } from '../coordinator/counters.js';
import { HISTOGRAM_LENGTH, Histogram, addHistogram } from './histogram.js';

/** What is counted per thread and space. In shared memory only: numbers may change with LAYOUT_VERSION of the control block. */
export const Counter = {
  Gets: 0,
  Misses: 1,
  Scans: 2,
  ScanChunks: 3,
  ScannedEntries: 4,
  Puts: 5,
  Deletes: 6,
  Batches: 7,
  Clears: 8,
  Conflicts: 9,
  Failures: 10,
  ReadRetries: 11,
  ViewRenewals: 12,
  LatchWaits: 13,
  LatchWaitNs: 14,
  FilterChecks: 15,
  FilterNegatives: 16,
  FilterFalsePositives: 17,
  BlocksFromCache: 18,
  BlocksFromFile: 19,
  BytesFromFile: 20,
  BlobReads: 21,
  ColdReads: 22,
  PrefixNegatives: 23,
} as const;
export type CounterName = keyof typeof Counter;

export const COUNTERS = 24;
export const READ_HISTOGRAM = COUNTERS;
export const WRITE_HISTOGRAM = READ_HISTOGRAM + HISTOGRAM_LENGTH;
export const SCAN_HISTOGRAM = WRITE_HISTOGRAM + HISTOGRAM_LENGTH;
export const BLOCK_LENGTH = SCAN_HISTOGRAM + HISTOGRAM_LENGTH;

/** What is told of groups, checkpoints, and transactions over several shards from the vote to the outcome. Nanoseconds, but for the first. */
export const ShardHistogram = {
  GroupRecords: 0,
  Log: 1,
  Sync: 2,
  Apply: 3,
  Answer: 4,
  Checkpoint: 5,
  LockWait: 6,
  Prepared: 7,
} as const;
const SHARD_HISTOGRAMS = 8;

/** Of transactions over several shards, nanoseconds: from the request to the log; from there until every shard has applied it. */
export const CoordinatorHistogram = { Decision: 0, Apply: 1 } as const;
const COORDINATOR_HISTOGRAMS = 2;

const LINE_BYTES = 64;
const BLOCK_BYTES = LINE_BYTES + Math.ceil((BLOCK_LENGTH * 8) / LINE_BYTES) * LINE_BYTES;
/** Beside the fixed ones. 13 KiB each, of which the operating system commits what is used. */
const FREE_BLOCKS = 1024;

const STATE = 0;
const OWNER = 1;
const SPACE = 2;
const State = { Free: 0, Claiming: 1, Used: 2, Retired: 3 } as const;
/** Owner of what threads counted that have left. */
const LEFT = 0x7fffffff;
/** Space of a fixed block. */
const OTHER_SPACES = -1;

const COORDINATOR_BYTES =
  Math.ceil(((COORDINATOR_COUNTERS + COORDINATOR_HISTOGRAMS * HISTOGRAM_LENGTH) * 8) / LINE_BYTES) * LINE_BYTES;
const SHARD_BYTES = Math.ceil((SHARD_HISTOGRAMS * HISTOGRAM_LENGTH * 8) / LINE_BYTES) * LINE_BYTES;
/** 400 spaces of a kilobyte fit. */
const DOCUMENT_BYTES = 512 << 10;
const DOCUMENT_LENGTH_WORD = SEQLOCK_WORDS;
const DOCUMENT_TEXT_BYTE = 2 * LINE_BYTES;

/** A lock has one writer at a time; a shard's successor has the dead one's id. */
const WRITER = toOwnerId(1);

function layoutOf(clients: number, shards: number) {
  const blocks = clients + 1 + FREE_BLOCKS;
  const pendingAt = LINE_BYTES + blocks * BLOCK_BYTES;
  const shardsAt = pendingAt + Math.ceil((clients * shards * 4) / LINE_BYTES) * LINE_BYTES;
  const documentsAt = shardsAt + shards * SHARD_BYTES;
  const coordinatorAt = documentsAt + shards * DOCUMENT_BYTES;
  return { blocks, pendingAt, shardsAt, documentsAt, coordinatorAt, bytes: coordinatorAt + COORDINATOR_BYTES };
}

/** Bytes of the control block the board takes. */
export function boardBytes(clients: number, shards: number): number {
  return layoutOf(clients, shards).bytes;
}

/** What is known of one space, or of all, over all threads. */
export class UsageTotals {
  readonly counts = new Float64Array(BLOCK_LENGTH);

  add(block: Float64Array): void {
    addBlock(this.counts, block);
  }

  count(name: CounterName): number {
    return this.counts[Counter[name]]!;
  }

  get reads(): Histogram {
    return new Histogram(this.counts, READ_HISTOGRAM);
  }

  get writes(): Histogram {
    return new Histogram(this.counts, WRITE_HISTOGRAM);
  }

  get scans(): Histogram {
    return new Histogram(this.counts, SCAN_HISTOGRAM);
  }
}

function addBlock(into: Float64Array, from: Float64Array): void {
  for (let i = 0; i < COUNTERS; i++) into[i]! += from[i]!;
  for (const base of [READ_HISTOGRAM, WRITE_HISTOGRAM, SCAN_HISTOGRAM]) addHistogram(into, base, from, base);
}

export class MetricsBoard {
  readonly #sab: SharedArrayBuffer;
  readonly #at: number;
  readonly #words: Int32Array<SharedArrayBuffer>;
  readonly #clients: number;
  readonly #shards: number;
  readonly #layout: ReturnType<typeof layoutOf>;
  readonly #lock: SeqLock;

  /** Over `boardBytes` zeroed bytes from `at` on, a multiple of 64. */
  constructor(sab: SharedArrayBuffer, at: number, clients: number, shards: number) {
    this.#sab = sab;
    this.#at = at;
    this.#clients = clients;
    this.#shards = shards;
    this.#layout = layoutOf(clients, shards);
    this.#words = new Int32Array(sab, at, this.#layout.bytes / 4);
    this.#lock = new SeqLock(this.#words, 0, WRITER);
  }

  // ---- blocks ---------------------------------------------------------------------------------------------------------------------------

  #word(block: number, word: number): number {
    return (LINE_BYTES + block * BLOCK_BYTES) / 4 + word;
  }

  #countsOf(block: number): Float64Array {
    return new Float64Array(this.#sab, this.#at + LINE_BYTES + block * BLOCK_BYTES + LINE_BYTES, BLOCK_LENGTH);
  }

  #stateOf(block: number): number {
    return Atomics.load(this.#words, this.#word(block, STATE));
  }

  #ownerOf(block: number): number {
    return this.#words[this.#word(block, OWNER)]!;
  }

  #spaceOf(block: number): number {
    return this.#words[this.#word(block, SPACE)]!;
  }

  #tryClaim(block: number, owner: number, spaceId: number): boolean {
    const state = this.#word(block, STATE);
    if (Atomics.compareExchange(this.#words, state, State.Free, State.Claiming) !== State.Free) return false;
    this.#words[this.#word(block, OWNER)] = owner;
    this.#words[this.#word(block, SPACE)] = spaceId;
    Atomics.store(this.#words, state, State.Used);
    return true;
  }

  #claimFree(owner: number, spaceId: number): number {
    for (let block = this.#clients + 1; block < this.#layout.blocks; block++) {
      if (this.#tryClaim(block, owner, spaceId)) return block;
    }
    return -1;
  }

  /** The client's thread: where it counts what it does with a space. Spaces for which there is no block share one. */
  claim(client: number, spaceId: number): { readonly block: number; readonly counts: Float64Array } {
    const owner = client + 1;
    let block = -1;
    if (spaceId !== EXPIRY_SPACE_ID && spaceId < SPACE_ID_MAX) block = this.#claimFree(owner, spaceId);
    if (block < 0) {
      block = client;
      this.#tryClaim(block, owner, OTHER_SPACES);
    }
    return { block, counts: this.#countsOf(block) };
  }

  /** The client's thread: it will not write to the block again, since the space was dropped. */
  retire(block: number): void {
    if (block > this.#clients) Atomics.store(this.#words, this.#word(block, STATE), State.Retired);
  }

  /** Host: a client's thread has left; what it counted stays. */
  leave(client: number): void {
    this.#lock.write(() => {
      for (let block = 0; block < this.#layout.blocks; block++) {
        if (this.#stateOf(block) !== State.Free && this.#ownerOf(block) === client + 1) this.#moveToLeft(block);
      }
    });
    const pending = this.#pendingOf(client);
    pending.fill(0);
  }

  /** Host: spaces were dropped; their blocks are of use to others. */
  collect(isAlive: (spaceId: number) => boolean): void {
    this.#lock.write(() => {
      for (let block = this.#clients + 1; block < this.#layout.blocks; block++) {
        const state = this.#stateOf(block);
        const isDead = state === State.Used && this.#ownerOf(block) === LEFT && !isAlive(this.#spaceOf(block));
        if (isDead || state === State.Retired) this.#merge(block, this.#others());
      }
    });
  }

  /** Where everything is counted that has no other place. */
  #others(): number {
    this.#tryClaim(this.#clients, LEFT, OTHER_SPACES);
    return this.#clients;
  }

  /** Under the lock. A block of a space that has none of threads that left becomes that. */
  #moveToLeft(block: number): void {
    // Died while it claimed the block: nothing was counted.
    if (this.#stateOf(block) === State.Claiming) {
      Atomics.store(this.#words, this.#word(block, STATE), State.Free);
      return;
    }
    const spaceId = this.#spaceOf(block);
    let target = this.#others();
    if (spaceId !== OTHER_SPACES && this.#stateOf(block) === State.Used) {
      for (let other = this.#clients + 1; other < this.#layout.blocks; other++) {
        if (this.#stateOf(other) !== State.Used || this.#ownerOf(other) !== LEFT || this.#spaceOf(other) !== spaceId)
          continue;
        target = other;
        break;
      }
      if (target === this.#clients) {
        this.#words[this.#word(block, OWNER)] = LEFT;
        return;
      }
    }
    this.#merge(block, target);
  }

  /** Under the lock. */
  #merge(block: number, target: number): void {
    const counts = this.#countsOf(block);
    addBlock(this.#countsOf(target), counts);
    counts.fill(0);
    this.#words[this.#word(block, OWNER)] = 0;
    Atomics.store(this.#words, this.#word(block, STATE), State.Free);
  }

  /** Any thread: what was counted, by space; under undefined everything, also of spaces that are gone. */
  usage(): Map<number | undefined, UsageTotals> {
    return this.#lock.read(() => {
      const all = new UsageTotals();
      const usage = new Map<number | undefined, UsageTotals>([[undefined, all]]);
      for (let block = 0; block < this.#layout.blocks; block++) {
        const state = this.#stateOf(block);
        if (state !== State.Used && state !== State.Retired) continue;
        const counts = this.#countsOf(block);
        all.add(counts);
        const spaceId = this.#spaceOf(block);
        let totals = usage.get(spaceId);
        if (totals === undefined) usage.set(spaceId, (totals = new UsageTotals()));
        totals.add(counts);
      }
      return usage;
    });
  }

  /** Blocks that nobody uses: for tests. */
  get freeBlocks(): number {
    let free = 0;
    for (let block = this.#clients + 1; block < this.#layout.blocks; block++)
      if (this.#stateOf(block) === State.Free) free++;
    return free;
  }

  // ---- calls in flight ------------------------------------------------------------------------------------------------------------------

  #pendingOf(client: number): Int32Array {
    return new Int32Array(this.#sab, this.#at + this.#layout.pendingAt + client * this.#shards * 4, this.#shards);
  }

  /** The client's thread writes how many of its calls to each shard are not settled. */
  pendingOf(client: number): Int32Array {
    return this.#pendingOf(client);
  }

  /** Any thread: calls of all threads to the shard that are not settled. */
  pendingAt(shard: number): number {
    const words = new Int32Array(this.#sab, this.#at + this.#layout.pendingAt, this.#clients * this.#shards);
    let sum = 0;
    for (let at = shard; at < words.length; at += this.#shards) sum += words[at]!;
    return sum;
  }

  // ---- shards ---------------------------------------------------------------------------------------------------------------------------

  /** Histograms of a shard, see ShardHistogram; HISTOGRAM_LENGTH each. */
  shardHistograms(shard: number): Float64Array {
    const at = this.#at + this.#layout.shardsAt + shard * SHARD_BYTES;
    return new Float64Array(this.#sab, at, SHARD_HISTOGRAMS * HISTOGRAM_LENGTH);
  }

  /** The coordinator's thread counts here, see CoordinatorCounter. */
  coordinatorCounters(): Float64Array<SharedArrayBuffer> {
    return new Float64Array(this.#sab, this.#at + this.#layout.coordinatorAt, COORDINATOR_COUNTERS);
  }

  /** See CoordinatorHistogram; HISTOGRAM_LENGTH each. */
  coordinatorHistograms(): Float64Array {
    const at = this.#at + this.#layout.coordinatorAt + COORDINATOR_COUNTERS * 8;
    return new Float64Array(this.#sab, at, COORDINATOR_HISTOGRAMS * HISTOGRAM_LENGTH);
  }

  shardDocument(shard: number): SharedDocument {
    return new SharedDocument(this.#sab, this.#at + this.#layout.documentsAt + shard * DOCUMENT_BYTES, DOCUMENT_BYTES);
  }
}

/** A JSON document that one thread replaces and any thread reads. */
export class SharedDocument {
  readonly #words: Int32Array<SharedArrayBuffer>;
  readonly #bytes: Buffer;
  readonly #lock: SeqLock;

  constructor(sab: SharedArrayBuffer, at: number, bytes: number) {
    this.#words = new Int32Array(sab, at, bytes / 4);
    this.#bytes = Buffer.from(sab, at, bytes);
    this.#lock = new SeqLock(this.#words, 0, WRITER);
  }

  /** Bytes a document may have. */
  get roomBytes(): number {
    return this.#bytes.length - DOCUMENT_TEXT_BYTE;
  }

  /** The writer's thread, before it writes: its predecessor may have died in the middle. */
  takeOver(): void {
    this.#lock.recover(WRITER, () => {
      this.#words[DOCUMENT_LENGTH_WORD] = 0;
    });
  }

  /** The writer's thread. False when there is no room for it: the one before stays. */
  write(text: string): boolean {
    const document = Buffer.from(text);
    if (document.length > this.roomBytes) return false;
    this.#lock.write(() => {
      this.#words[DOCUMENT_LENGTH_WORD] = document.length;
      this.#bytes.set(document, DOCUMENT_TEXT_BYTE);
    });
    return true;
  }

  /** Any thread; undefined when there is none. A writer that died in the middle leaves none until its successor is there. */
  read(): string | undefined {
    const found = this.#lock.tryRead(() => {
      const length = Math.min(this.#words[DOCUMENT_LENGTH_WORD]!, this.roomBytes);
      return Buffer.from(this.#bytes.subarray(DOCUMENT_TEXT_BYTE, DOCUMENT_TEXT_BYTE + length));
    });
    return found === undefined || found.value.length === 0 ? undefined : found.value.toString('utf8');
  }
}
