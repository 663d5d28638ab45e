/**
 * One thread's side of the board: where it counts what it does with each space. A meter is made when the space is first used.
 * Threads: the client's.
 */
import type { ReadEvents } from '../../engines/cells/read-events.js';
import type { LsmReadCounters } from '../../engines/lsm/read/files.js';
import { BLOCK_LENGTH, Counter, READ_HISTOGRAM, SCAN_HISTOGRAM, WRITE_HISTOGRAM, type MetricsBoard } from './board.js';
import { LARGEST, SUM, bucketOf, record } from './histogram.js';

/** One of so many point reads is timed: the clock costs a tenth of a read. A power of two. */
export const READS_PER_SAMPLE = 64;

const NS_PER_MS = 1e6;

/** Counts of reads of tables, on the board. */
class TableMeter implements LsmReadCounters {
  readonly #meter: { readonly counts: Float64Array };

  constructor(meter: { readonly counts: Float64Array }) {
    this.#meter = meter;
  }

  get filterChecks(): number {
    return this.#meter.counts[Counter.FilterChecks]!;
  }

  set filterChecks(count: number) {
    this.#meter.counts[Counter.FilterChecks] = count;
  }

  get filterNegatives(): number {
    return this.#meter.counts[Counter.FilterNegatives]!;
  }

  set filterNegatives(count: number) {
    this.#meter.counts[Counter.FilterNegatives] = count;
  }

  get filterFalsePositives(): number {
    return this.#meter.counts[Counter.FilterFalsePositives]!;
  }

  set filterFalsePositives(count: number) {
    this.#meter.counts[Counter.FilterFalsePositives] = count;
  }

  get blocksFromCache(): number {
    return this.#meter.counts[Counter.BlocksFromCache]!;
  }

  set blocksFromCache(count: number) {
    this.#meter.counts[Counter.BlocksFromCache] = count;
  }

  get blocksFromFile(): number {
    return this.#meter.counts[Counter.BlocksFromFile]!;
  }

  set blocksFromFile(count: number) {
    this.#meter.counts[Counter.BlocksFromFile] = count;
  }

  get bytesFromFile(): number {
    return this.#meter.counts[Counter.BytesFromFile]!;
  }

  set bytesFromFile(count: number) {
    this.#meter.counts[Counter.BytesFromFile] = count;
  }

  get blobReads(): number {
    return this.#meter.counts[Counter.BlobReads]!;
  }

  set blobReads(count: number) {
    this.#meter.counts[Counter.BlobReads] = count;
  }

  get coldReads(): number {
    return this.#meter.counts[Counter.ColdReads]!;
  }

  set coldReads(count: number) {
    this.#meter.counts[Counter.ColdReads] = count;
  }

  get prefixNegatives(): number {
    return this.#meter.counts[Counter.PrefixNegatives]!;
  }

  set prefixNegatives(count: number) {
    this.#meter.counts[Counter.PrefixNegatives] = count;
  }
}

export class SpaceMeter implements ReadEvents {
  /** See Counter: the caller adds to them. Nobody's any more when the space is gone, or the thread has let go of the pool. */
  counts: Float64Array;
  readonly tables: LsmReadCounters = new TableMeter(this);
  readonly #block: number;
  readonly #board: MetricsBoard | undefined;
  #lastMs = NaN;
  #lastBucket = 0;

  private constructor(board: MetricsBoard | undefined, block: number, counts: Float64Array) {
    this.#board = board;
    this.#block = block;
    this.counts = counts;
  }

  static on(board: MetricsBoard, client: number, spaceId: number): SpaceMeter {
    const { block, counts } = board.claim(client, spaceId);
    return new SpaceMeter(board, block, counts);
  }

  /** Of a thread that has no place on the board any more. */
  static unseen(): SpaceMeter {
    return new SpaceMeter(undefined, -1, new Float64Array(BLOCK_LENGTH));
  }

  retried(): void {
    this.counts[Counter.ReadRetries]!++;
  }

  waitedForLatch(forMs: number): void {
    this.counts[Counter.LatchWaits]!++;
    this.counts[Counter.LatchWaitNs]! += forMs * NS_PER_MS;
  }

  readTook(forMs: number): void {
    record(this.counts, READ_HISTOGRAM, forMs * NS_PER_MS);
  }

  /** Many that are settled together took equally long. */
  writeTook(forMs: number): void {
    const { counts } = this;
    const ns = forMs * NS_PER_MS;
    if (forMs !== this.#lastMs) {
      this.#lastMs = forMs;
      this.#lastBucket = bucketOf(ns);
      const longest = WRITE_HISTOGRAM + LARGEST;
      if (ns > counts[longest]!) counts[longest] = ns;
    }
    counts[WRITE_HISTOGRAM + this.#lastBucket]!++;
    counts[WRITE_HISTOGRAM + SUM]! += ns;
  }

  chunkTook(forMs: number, entries: number): void {
    this.counts[Counter.ScanChunks]!++;
    this.counts[Counter.ScannedEntries]! += entries;
    record(this.counts, SCAN_HISTOGRAM, forMs * NS_PER_MS);
  }

  /** Counts on, where nobody looks. `isGone`: the space, not the thread. */
  detach(isGone: boolean): void {
    this.counts = new Float64Array(BLOCK_LENGTH);
    if (isGone) this.#board?.retire(this.#block);
  }
}

export class ThreadMeters {
  readonly #board: MetricsBoard;
  readonly #client: number;
  readonly #meters = new Map<number, SpaceMeter>();
  #isDetached = false;

  constructor(board: MetricsBoard, client: number) {
    this.#board = board;
    this.#client = client;
  }

  of(spaceId: number): SpaceMeter {
    let meter = this.#meters.get(spaceId);
    if (meter === undefined) {
      if (this.#isDetached) return SpaceMeter.unseen();
      meter = SpaceMeter.on(this.#board, this.#client, spaceId);
      this.#meters.set(spaceId, meter);
    }
    return meter;
  }

  /** The space is gone. */
  forget(spaceId: number): void {
    this.#meters.get(spaceId)?.detach(true);
    this.#meters.delete(spaceId);
  }

  /** The thread's slot goes to another one. */
  detach(): void {
    this.#isDetached = true;
    for (const meter of this.#meters.values()) meter.detach(false);
  }
}
