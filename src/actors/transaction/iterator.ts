/**
 * Iterators of a transaction: what is stored, as the transaction sees it, with what it has written itself laid over it.
 *
 *   stored entries (snapshot, all shards merged) ─┐
 *                                                 ├─▶ smaller key first; its own write hides the stored entry of that key; deletes give nothing
 *   own writes, sorted, as of the beginning ──────┘
 *
 * What was given out is told to the transaction as it goes (RangeRead), so that a loop that ends early does not conflict with what it never looked at.
 * Threads: the one that owns the client.
 */
import { binaryKeys } from '../../shared/codec/key-encoding.js';
import { Counter } from '../metrics/board.js';
import { CallOrder } from '../pool/call-order.js';
import { decodeRaw } from '../pool/iterators.js';
import { checkCount, type EncodedRange } from '../pool/range.js';
import { MergedScan, ShardScan } from '../pool/scan.js';
import type { SpaceSource } from '../pool/source.js';
import type { RangeRead, TransactionCore } from './core.js';
import type { OwnWrite } from './working-set.js';

/** After this long the event loop gets a turn. */
const YIELD_MS = 4;

export interface OverlayPlan<T> {
  readonly core: TransactionCore;
  readonly source: SpaceSource;
  readonly range: EncodedRange;
  readonly reverse: boolean;
  readonly limit: number;
  readonly wantValues: boolean;
  readonly wantKeys: boolean;
  readonly signal: AbortSignal | undefined;
  readonly entry: (key: unknown, value: unknown) => T;
  /** The handle: while the iterator is used, the transaction is not abandoned. */
  readonly owner: object;
}

/** How an iterator reads: at which state, and what of it the commit must find unchanged. */
export interface Footing {
  readonly atSeq: number;
  readonly atMs: number;
  /** undefined: nothing. */
  readonly read: RangeRead | undefined;
  /** A snapshot of its own, which the core knows, to be given back. */
  readonly slot: number;
}

const NO_SLOT = -1;

class Overlay<T> {
  readonly #plan: OverlayPlan<T>;
  readonly #footing: Footing;
  readonly #scan: MergedScan;
  readonly #own: readonly OwnWrite[];
  #ownAt: number;
  #remaining: number;
  #hasStored = false;
  #isOver = false;
  #isCounted = false;
  #isClosed = false;

  constructor(plan: OverlayPlan<T>, footing: Footing) {
    this.#plan = plan;
    this.#footing = footing;
    const { core, source, range, reverse, limit, wantValues } = plan;
    this.#own = core.set.sortedWrites(source.spaceId, range.low, range.high);
    this.#ownAt = reverse ? this.#own.length - 1 : 0;
    this.#remaining = limit;
    const shape = { range, reverse, wantKeys: true, wantValues, merges: source.views.length > 1 };
    const parts = source.views.map(
      (view) => new ShardScan(view, core.control, shape, binaryKeys, source.valueEncoding),
    );
    // Own deletes may hide as many.
    this.#scan = new MergedScan(parts, reverse, limit + this.#own.length);
  }

  get needsChunk(): boolean {
    return !this.#hasStored && this.#scan.needsChunk && !this.#scan.isFinished;
  }

  fill(): void {
    if (!this.#isCounted) {
      this.#isCounted = true;
      this.#plan.source.views[0]!.meter.counts[Counter.Scans]!++;
    }
    this.#scan.fill(this.#footing.atSeq, this.#footing.atMs);
  }

  /** The next entry; undefined at the end, or when fill() must come first. */
  next(): [T] | undefined {
    const { reverse } = this.#plan;
    while (!this.#isOver && this.#remaining > 0) {
      if (this.needsChunk) return undefined;
      if (!this.#hasStored) this.#hasStored = this.#scan.advance();
      const own = this.#own[this.#ownAt];
      if (!this.#hasStored && own === undefined) break;
      // Keys were decoded as bytes.
      const storedKey = this.#hasStored ? (this.#scan.key as Buffer) : undefined;
      let order = own === undefined ? -1 : 1;
      if (own !== undefined && storedKey !== undefined) {
        order = storedKey.compare(own.key, 0, own.keyLength);
        if (reverse) order = -order;
      }
      if (order <= 0) this.#reached(storedKey!);
      if (order < 0) {
        const raw = this.#plan.wantValues ? this.#scan.value : undefined;
        this.#hasStored = false;
        this.#remaining--;
        return [
          this.#entry(storedKey!, raw === undefined ? undefined : decodeRaw(raw, this.#plan.source.valueEncoding)),
        ];
      }
      if (order === 0) this.#hasStored = false;
      this.#ownAt += reverse ? -1 : 1;
      const { write } = own!;
      if (!write.isPut || (write.expiresAt !== 0 && write.expiresAt <= Date.now())) continue;
      this.#remaining--;
      const { valueEncoding } = this.#plan.source;
      const value = this.#plan.wantValues ? valueEncoding.decode(write.value, 0, write.length) : undefined;
      const key = Buffer.from(own!.key.subarray(0, own!.keyLength));
      if (order > 0) this.#reached(key);
      return [this.#entry(key, value)];
    }
    this.#isOver = true;
    // With a limit it has seen no more than what it gave.
    if (this.#remaining > 0) this.#sawAll();
    return undefined;
  }

  get isOver(): boolean {
    return this.#isOver;
  }

  #entry(key: Buffer, value: unknown): T {
    const { wantKeys, source, entry } = this.#plan;
    return entry(wantKeys ? source.keyEncoding.decode(key, 0, key.length) : undefined, value);
  }

  /** The scan has looked at everything up to this key. */
  #reached(key: Buffer): void {
    const { read } = this.#footing;
    if (read === undefined) return;
    read.isEmpty = false;
    if (this.#plan.reverse) read.low = key;
    else read.high = Buffer.concat([key, ZERO]);
  }

  #sawAll(): void {
    const { read } = this.#footing;
    if (read === undefined) return;
    const { range, reverse } = this.#plan;
    read.isEmpty = false;
    if (reverse) read.low = range.low;
    else read.high = range.high;
  }

  close(): void {
    this.#isOver = true;
    if (this.#footing.slot === NO_SLOT || this.#isClosed) return;
    this.#isClosed = true;
    this.#plan.core.giveBackSlot(this.#footing.slot);
  }
}

const ZERO = Buffer.of(0);

/** What tx.iterator(), keys() and values() return. */
export class TransactionIterator<T> implements AsyncIterableIterator<T> {
  readonly #plan: OverlayPlan<T>;
  readonly #footing: () => Promise<Footing>;
  #overlay: Overlay<T> | undefined;
  #isClosed = false;
  #lastYield = performance.now();
  readonly #calls = new CallOrder(() => {
    this.#end();
  });

  /** @internal */
  constructor(plan: OverlayPlan<T>, footing: () => Promise<Footing>) {
    this.#plan = plan;
    this.#footing = footing;
  }

  /** The next entry, or done. @throws ERR_CONFLICT, ERR_DEADLOCK, ERR_LOCK_TIMEOUT, ERR_TRANSACTION_CLOSED, ERR_CLOSED, ERR_DECODE; AbortError */
  next(): Promise<IteratorResult<T, undefined>> {
    const overlay = this.#overlay;
    if (this.#calls.isAtRest && overlay !== undefined && !this.#isClosed && !overlay.needsChunk) {
      try {
        this.#check();
        const found = overlay.next();
        if (found !== undefined) return Promise.resolve({ done: false, value: found[0] });
        if (overlay.isOver) {
          this.#end();
          return Promise.resolve({ done: true, value: undefined });
        }
      } catch (error) {
        this.#end();
        return Promise.reject(error);
      }
    }
    return this.#calls.run(async () => {
      const [found] = await this.#read(1);
      return found === undefined ? { done: true, value: undefined } : { done: false, value: found[0] };
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

  #check(): void {
    const { core, source, signal } = this.#plan;
    core.assertActive();
    source.assertUsable();
    signal?.throwIfAborted();
  }

  async #read(count: number): Promise<[T][]> {
    const entries: [T][] = [];
    if (this.#isClosed) return entries;
    this.#check();
    if (this.#overlay === undefined) {
      const footing = await this.#footing();
      this.#overlay = new Overlay(this.#plan, footing);
      this.#check();
    }
    const overlay = this.#overlay;
    while (entries.length < count && !this.#isClosed) {
      if (overlay.needsChunk) {
        if (performance.now() - this.#lastYield > YIELD_MS) {
          await new Promise((resolve) => setImmediate(resolve));
          this.#lastYield = performance.now();
          this.#check();
        }
        overlay.fill();
      }
      const found = overlay.next();
      if (found !== undefined) entries.push(found);
      else if (overlay.isOver) this.#end();
    }
    return entries;
  }

  #end(): void {
    this.#isClosed = true;
    this.#overlay?.close();
  }

  /** Harmless when it has ended. */
  close(): Promise<void> {
    return this.#calls.run(() => {
      this.#end();
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

/** What tx.iterateSync() returns. */
export class TransactionSyncIterator<T> implements IterableIterator<T> {
  readonly #plan: OverlayPlan<T>;
  readonly #footing: () => Footing;
  #overlay: Overlay<T> | undefined;
  #isClosed = false;

  /** @internal */
  constructor(plan: OverlayPlan<T>, footing: () => Footing) {
    this.#plan = plan;
    this.#footing = footing;
  }

  next(): IteratorResult<T, undefined> {
    if (this.#isClosed) return { done: true, value: undefined };
    const { core, source } = this.#plan;
    try {
      core.assertActive();
      source.assertUsable();
      const overlay = (this.#overlay ??= new Overlay(this.#plan, this.#footing()));
      while (!overlay.isOver) {
        if (overlay.needsChunk) overlay.fill();
        const found = overlay.next();
        if (found !== undefined) return { done: false, value: found[0] };
      }
    } catch (error) {
      this.#end();
      throw error;
    }
    this.#end();
    return { done: true, value: undefined };
  }

  #end(): void {
    this.#isClosed = true;
    this.#overlay?.close();
  }

  return(): IteratorResult<T, undefined> {
    this.#end();
    return { done: true, value: undefined };
  }

  [Symbol.iterator](): this {
    return this;
  }
}
