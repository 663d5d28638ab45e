/**
 * Iterators over entries, keys or values: asynchronous ones that let other work of the thread run, and synchronous ones.
 * Each reads one state of the whole store: the snapshot it was given, or the one it opens when it begins. Ends by itself at the
 * last entry, with return() (break in a loop), close() or its snapshot's end. Threads: the one that made it.
 */
import { ConcordError } from '../../shared/errors.js';
import type { KeyEncoding } from '../../shared/codec/key-encoding.js';
import type { ValueEncoding } from '../../shared/codec/value-encoding.js';
import type { SpaceView } from '../client/space-view.js';
import type { ThreadClient } from '../client/thread-client.js';
import { Counter } from '../metrics/board.js';
import { isTraced, traced, type OperationContext } from '../metrics/tracing.js';
import { CallOrder } from './call-order.js';
import { checkCount, type EncodedRange } from './range.js';
import { MergedScan, ShardScan, type RawValue } from './scan.js';

/** A chunk of about 0.2 ms each; after this long the event loop gets a turn. */
const YIELD_MS = 4;

export interface ScanPlan<T> {
  readonly client: ThreadClient;
  readonly views: readonly SpaceView[];
  /** Of the space, for those who trace. */
  readonly spaceName: () => string;
  readonly keyEncoding: KeyEncoding;
  readonly valueEncoding: ValueEncoding;
  readonly range: EncodedRange;
  readonly reverse: boolean;
  readonly limit: number;
  readonly wantKeys: boolean;
  readonly wantValues: boolean;
  readonly signal: AbortSignal | undefined;
  /** Sequence number of a snapshot the caller holds; undefined: open one. */
  readonly atSeq: number | undefined;
  /** The snapshot's time, by which expiry is judged; 0: when the iteration begins. */
  readonly atMs: number;
  /** Throws when the store or the snapshot is closed. */
  readonly assertOpen: () => void;
  readonly entry: (key: unknown, value: unknown) => T;
}

interface HeldSnapshot {
  readonly slot: number;
  readonly sequence: number;
}

/** Gives snapshots back that an iterator dropped without ending. */
const abandoned = new FinalizationRegistry<{ client: ThreadClient; held: { slot: number | undefined } }>(
  ({ client, held }) => {
    if (held.slot !== undefined) client.control.closeSnapshot(held.slot, client.client);
  },
);

class ScanBase<T> {
  protected plan: ScanPlan<T>;
  protected scan: MergedScan;
  protected atSeq: number | undefined;
  protected closed = false;
  #atMs: number;
  #isCounted = false;
  readonly #held: { slot: number | undefined } = { slot: undefined };

  constructor(plan: ScanPlan<T>) {
    this.plan = plan;
    this.scan = scanOf(plan);
    this.atSeq = plan.atSeq;
    this.#atMs = plan.atMs;
  }

  protected replan(plan: ScanPlan<T>): void {
    this.plan = plan;
    this.scan = scanOf(plan);
  }

  protected fill(): void {
    if (this.#atMs === 0) this.#atMs = Date.now();
    if (!this.#isCounted) {
      this.#isCounted = true;
      this.plan.views[0]!.meter.counts[Counter.Scans]!++;
    }
    this.scan.fill(this.atSeq ?? Infinity, this.#atMs);
  }

  /** One shard and few entries: the pinned root of the only chunk is the snapshot. */
  protected get needsSnapshot(): boolean {
    return this.atSeq === undefined && !(this.plan.client.shards.length === 1 && this.plan.limit <= 100);
  }

  protected hold(snapshot: HeldSnapshot): void {
    this.#held.slot = snapshot.slot;
    this.atSeq = snapshot.sequence;
    abandoned.register(this, { client: this.plan.client, held: this.#held }, this);
  }

  protected release(): void {
    this.closed = true;
    if (this.#held.slot === undefined) return;
    abandoned.unregister(this);
    this.plan.client.control.closeSnapshot(this.#held.slot, this.plan.client.client);
    this.#held.slot = undefined;
  }

  protected take(): T {
    const { plan, scan } = this;
    return plan.entry(scan.key, plan.wantValues ? decodeRaw(scan.value, plan.valueEncoding) : undefined);
  }
}

function scanOf<T>(plan: ScanPlan<T>): MergedScan {
  const { client, views, range, reverse, wantKeys, wantValues } = plan;
  const shape = { range, reverse, wantKeys, wantValues, merges: views.length > 1 };
  const parts = views.map((view) => new ShardScan(view, client.control, shape, plan.keyEncoding, plan.valueEncoding));
  return new MergedScan(parts, reverse, plan.limit);
}

export function decodeRaw(raw: RawValue, encoding: ValueEncoding): unknown {
  return typeof raw === 'string' ? encoding.decodeText(raw) : encoding.decodeOwned(raw);
}

/** What db.iterator(), keys() and values() return: an async iterator with abstract-level's methods. */
export class ConcordIterator<T> extends ScanBase<T> implements AsyncIterableIterator<T> {
  #lastYield = performance.now();
  readonly #calls = new CallOrder(() => {
    this.release();
  });
  /** The space is being created: the plan to begin with comes when it is there. */
  #latePlan: (() => Promise<ScanPlan<T>>) | undefined;

  constructor(plan: ScanPlan<T>, latePlan?: () => Promise<ScanPlan<T>>) {
    super(plan);
    this.#latePlan = latePlan;
  }

  /** The next entry, or done. @throws ERR_CLOSED, ERR_DECODE, ERR_CORRUPT; AbortError */
  next(): Promise<IteratorResult<T, undefined>> {
    // The common case: the entry is here already, and nobody else is waiting.
    const isAtRest = this.#calls.isAtRest && this.#latePlan === undefined && !this.closed;
    if (isAtRest && !this.scan.needsChunk && this.plan.signal?.aborted !== true) {
      try {
        this.plan.assertOpen();
        if (this.scan.advance()) return Promise.resolve({ done: false, value: this.take() });
        this.release();
        return Promise.resolve({ done: true, value: undefined });
      } catch (error) {
        this.release();
        return Promise.reject(error);
      }
    }
    return this.#calls.run(async () => {
      const [value] = await this.#read(1);
      return value === undefined ? { done: true, value: undefined } : { done: false, value: value[0] };
    });
  }

  /** Up to `count` entries, one at least; an empty array at the end. @throws ERR_INVALID_ARG; as next */
  nextv(count: number): Promise<T[]> {
    return this.#calls.run(async () => (await this.#read(checkCount(count))).map((boxed) => boxed[0]));
  }

  /** All that is left. */
  async all(): Promise<T[]> {
    const entries: T[] = [];
    for await (const entry of this) entries.push(entry);
    return entries;
  }

  async #read(count: number): Promise<[T][]> {
    const late = this.#latePlan;
    this.#latePlan = undefined;
    if (late !== undefined) this.replan(await late());
    const { plan, scan } = this;
    const entries: [T][] = [];
    while (entries.length < count && !this.closed) {
      plan.signal?.throwIfAborted();
      plan.assertOpen();
      if (scan.needsChunk && !scan.isFinished) {
        await (isTraced() ? this.#fetchTraced() : this.#fetch());
        continue;
      }
      if (scan.advance()) entries.push([this.take()]);
      else if (!scan.needsChunk || scan.isFinished) this.release();
    }
    return entries;
  }

  #fetchTraced(): Promise<void> {
    const context: OperationContext = { operation: 'iterate', space: this.plan.spaceName() };
    const before = this.scan.readyEntries;
    return traced(context, async () => {
      await this.#fetch();
      context.entries = Math.max(0, this.scan.readyEntries - before);
    });
  }

  /** Reads the next chunk of each shard that has none, or finds that a snapshot is needed and takes it. */
  async #fetch(): Promise<void> {
    const { plan, scan } = this;
    if (this.needsSnapshot) this.hold(await plan.client.control.openSnapshot(plan.client.client));
    else if (performance.now() - this.#lastYield > YIELD_MS) {
      await new Promise((resolve) => setImmediate(resolve));
      this.#lastYield = performance.now();
      plan.assertOpen();
    }
    this.fill();
    if (this.atSeq !== undefined || scan.holdsAll) return;
    this.hold(await plan.client.control.openSnapshot(plan.client.client));
    scan.restart();
  }

  /** Gives the snapshot back. Harmless when it has ended. */
  close(): Promise<void> {
    return this.#calls.run(() => {
      this.release();
      return Promise.resolve();
    });
  }

  async return(): Promise<IteratorResult<T, undefined>> {
    await this.close();
    return { done: true, value: undefined };
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

/** What db.iterateSync() returns. */
export class ConcordSyncIterator<T> extends ScanBase<T> implements IterableIterator<T> {
  next(): IteratorResult<T, undefined> {
    if (this.closed) return { done: true, value: undefined };
    const { plan, scan } = this;
    try {
      if (scan.needsChunk && !scan.isFinished) {
        plan.assertOpen();
        if (this.needsSnapshot) this.hold(plan.client.control.openSnapshotSync(plan.client.client));
        this.fill();
        if (this.atSeq === undefined && !scan.holdsAll) {
          this.hold(plan.client.control.openSnapshotSync(plan.client.client));
          scan.restart();
          return this.next();
        }
      }
      if (scan.advance()) return { done: false, value: this.take() };
    } catch (error) {
      this.release();
      throw error;
    }
    this.release();
    return { done: true, value: undefined };
  }

  return(): IteratorResult<T, undefined> {
    this.release();
    return { done: true, value: undefined };
  }

  [Symbol.iterator](): this {
    return this;
  }
}

/** Rejects calls on something closed. */
export function closedError(what: string): ConcordError {
  return new ConcordError('ERR_CLOSED', `the ${what} is closed`);
}
