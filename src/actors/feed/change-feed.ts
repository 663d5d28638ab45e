/**
 * The change feed: what is committed, as an async iterator. It reads the log, as far as that is published, in the thread that asks for changes: no
 * shard knows of it or waits for it, and it holds nothing open between two calls.
 *
 *   next() ─ log of each shard ─ units ─ merged ─ decoded        nothing there: while a call waits, at the next ring of the shards' bell
 *
 * A store without files has no log: its shards keep the last frames in shared memory while somebody watches.
 *
 * Ends (done) when it is closed, or the store is; rejects once with what went wrong, and is at its end then. Threads: the one that made it.
 */
import { ConcordError } from '../../shared/errors.js';
import { NodeEnv } from '../../shared/env/node-env.js';
import { FrameRingTail } from '../../engines/feed/frame-ring.js';
import { LogTail } from '../../engines/feed/log-tail.js';
import { ShardFeed, type RawChange } from '../../engines/feed/shard-feed.js';
import type { FeedLimits, FeedPosition, FeedSource } from '../../engines/feed/source.js';
import { StoreFeed, type StuckTransaction } from '../../engines/feed/store-feed.js';
import { decodeToken, encodeToken, type FeedToken } from '../../engines/feed/token.js';
import { truncated } from '../../engines/feed/source.js';
import { ShardState } from '../control-block.js';
import { CallOrder } from '../pool/call-order.js';
import type { PoolCore } from '../pool/core.js';
import type { SpaceSource } from '../pool/source.js';
import { ClearChange, DelChange, PutChange, type Change, type ChangePlace } from './changes.js';
import { feedLimitsOf } from './feed-limits.js';
import { Watched, resolveWatch, type ResolvedWatch } from './watched.js';

/** After this long the event loop gets a turn. */
const YIELD_MS = 4;
/** Looked again at the latest: for the end of the store, which rings no bell. */
const PARK_MS_MAX = 100;
/** While something is published that has not come yet: it will be written, or another shard has to publish its part. */
const POLL_MS = 4;

/** Ends what is kept for feeds that were dropped without an end. */
const abandoned = new FinalizationRegistry<() => void>((release) => {
  release();
});

/** The unit that is being delivered. */
interface Delivery {
  readonly parts: readonly ShardFeed[];
  readonly id: number;
  readonly isJoined: boolean;
  readonly size: number;
  /** Records that were delivered before. */
  readonly recordsToPass: number;
  part: number;
  changes: ReturnType<ShardFeed['changes']>;
  /** Records of the parts before this one. */
  recordsBefore: number;
  /** Changes of it that came, or were passed. */
  index: number;
}

export class ChangeFeed<K = string, V = string> implements AsyncIterableIterator<Change<K, V>>, AsyncDisposable {
  readonly #core: PoolCore;
  readonly #options: ResolvedWatch;
  readonly #storeId: Uint8Array;
  readonly #sources: readonly FeedSource[];
  readonly #limits: readonly (() => FeedLimits)[];
  readonly #from: FeedToken;
  /** As of the last change delivered, by shard. Replaced, never changed: changes hold on to it. */
  #positions: readonly FeedPosition[];
  #partial: FeedToken['partial'];
  #watched: Watched | undefined;
  #feed: StoreFeed | undefined;
  #delivery: Delivery | undefined;
  #isEnded = false;
  #wake: (() => void) | undefined;
  readonly #calls = new CallOrder();
  #lastYieldMs = 0;
  readonly #release: () => void;

  /** @internal Made by watch(). @throws ERR_INVALID_ARG, ERR_SPACE_NOT_FOUND, ERR_UNSUPPORTED, ERR_IO */
  constructor(source: SpaceSource, options: unknown, takesSpaces: boolean) {
    const { core } = source;
    const { client } = core;
    const { control } = client;
    this.#core = core;
    this.#options = resolveWatch(source, options, takesSpaces);
    const { since, durable, signal } = this.#options;
    const env = new NodeEnv();
    let storeId: Uint8Array = new Uint8Array(16);
    this.#sources = client.shards.map(({ arena }, shard) => {
      const { cold } = arena.layout;
      if (cold !== undefined) {
        storeId = cold.storeId;
        return new LogTail(env, cold.directory, cold.storeId, shard);
      }
      const feed = client.feedRings[shard];
      if (feed === undefined) throw new ConcordError('ERR_INTERNAL', `shard ${shard} has neither files nor a ring`);
      return new FrameRingTail(feed, shard);
    });
    this.#storeId = storeId;
    this.#limits = this.#sources.map((_, shard) => feedLimitsOf(control, shard, durable));
    const releases = this.#sources.map((watched) => watched.watch(client.client));
    this.#release = () => {
      // Otherwise the slot may be another thread's by now.
      if (!client.closed) for (const release of releases) release();
    };
    abandoned.register(this, this.#release, this);
    try {
      this.#from = this.#placeOf(since);
    } catch (error) {
      this.#release();
      throw error;
    }
    this.#positions = this.#from.positions;
    this.#partial = this.#from.partial;
    signal?.addEventListener('abort', this.#onAbort, { once: true });
  }

  #placeOf(since: string): FeedToken {
    if (since === 'now') {
      const positions = this.#sources.map((tail, shard) => tail.end(() => this.#limits[shard]!().publishedSeq));
      return { positions, partial: undefined };
    }
    if (since === 'beginning') return this.#beginning();
    return decodeToken(since, this.#storeId, this.#sources.length);
  }

  readonly #onAbort = (): void => {
    this.#wake?.();
  };

  #beginning(): FeedToken {
    return { positions: this.#sources.map((source) => source.beginning()), partial: undefined };
  }

  /** watch({ since: token }) goes on where this feed is: behind what it has delivered, and what it has passed over since. */
  get token(): string {
    return encodeToken(this.#storeId, { positions: this.#positions, partial: this.#partial });
  }

  /**
   * The next change; waits for one. Done when the feed was closed, or the store.
   * @throws ERR_FEED_TRUNCATED (details.oldest: token of the oldest change there is), ERR_CORRUPT, ERR_DECODE, ERR_SPACE_DROPPED, ERR_OPTION_CONFLICT,
   *   ERR_IO; ERR_READ_ONLY, ERR_SHARD_FAILED (details.token: where to go on when the store was opened anew); AbortError
   */
  next(): Promise<IteratorResult<Change<K, V>, undefined>> {
    if (this.#calls.isAtRest && this.#delivery !== undefined && this.#options.signal?.aborted !== true) {
      try {
        const change = this.#take();
        if (change !== undefined) return Promise.resolve({ done: false, value: change });
      } catch (error) {
        this.#end();
        return Promise.reject(error);
      }
    }
    return this.#calls.run(async () => {
      try {
        const value = await this.#pull();
        return value === undefined ? ({ done: true, value: undefined } as const) : { done: false as const, value };
      } catch (error) {
        const isOpen = this.#isOpen;
        this.#end();
        // Files that are gone because the store is.
        if (!isOpen && this.#options.signal?.aborted !== true) return { done: true, value: undefined } as const;
        throw this.#told(error);
      }
    });
  }

  /** Ends the feed, and the calls that wait. Harmless when it has ended. */
  close(): Promise<void> {
    this.#end();
    return Promise.resolve();
  }

  return(): Promise<IteratorResult<Change<K, V>, undefined>> {
    this.#end();
    return Promise.resolve({ done: true, value: undefined });
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #end(): void {
    this.#isEnded = true;
    this.#delivery = undefined;
    this.#feed = undefined;
    abandoned.unregister(this);
    this.#release();
    this.#options.signal?.removeEventListener('abort', this.#onAbort);
    this.#wake?.();
  }

  /** With what a caller needs to go on. */
  #told(error: unknown): unknown {
    if (!(error instanceof ConcordError) || error.code !== 'ERR_FEED_TRUNCATED') return error;
    let oldest: string | undefined;
    try {
      oldest = encodeToken(this.#storeId, this.#beginning());
    } catch {
      // Then there is none.
    }
    const { code, message, details } = error;
    return new ConcordError(code, message, oldest === undefined ? details : { ...details, oldest }, { cause: error });
  }

  get #isOpen(): boolean {
    const { client } = this.#core;
    return !client.closed && client.control.isOpen;
  }

  /** Undefined: the feed has ended. */
  async #pull(): Promise<Change<K, V> | undefined> {
    this.#lastYieldMs = performance.now();
    for (;;) {
      if (this.#isEnded) return undefined;
      this.#options.signal?.throwIfAborted();
      const change = this.#take();
      if (change !== undefined) return change;
      if (!this.#isOpen) {
        this.#end();
        return undefined;
      }
      const feed = this.#feed ?? (await this.#begin());
      if (feed === undefined) continue;
      const outcome = this.#look(feed);
      if (outcome !== 'end') {
        if (performance.now() - this.#lastYieldMs > YIELD_MS) {
          await new Promise((resolve) => setImmediate(resolve));
          this.#lastYieldMs = performance.now();
        }
        continue;
      }
      this.#assertSpaces();
      this.#positions = feed.positions;
      this.#partial = feed.partial;
      await this.#park(feed);
      this.#lastYieldMs = performance.now();
    }
  }

  #look(feed: StoreFeed): ReturnType<StoreFeed['next']> {
    const outcome = feed.next((shard) => this.#limits[shard]!());
    if (outcome === 'ready') this.#deliver(feed);
    if (outcome === 'stuck') {
      this.#positions = feed.positions;
      this.#partial = feed.partial;
      throw this.#stuckError(feed.stuck!);
    }
    return outcome;
  }

  /** As the writes of the shard are refused. The next opening of the store logs what is missing. */
  #stuckError({ id, shard, missingIn }: StuckTransaction): ConcordError {
    const isDown = this.#core.client.control.shardState(missingIn) === ShardState.Failed;
    const text = `shard ${missingIn} logs nothing any more, and has not logged its part of transaction ${id}, which shard ${shard} has; reopen the store`;
    const details = { shard: missingIn, transaction: id, token: this.token };
    return new ConcordError(isDown ? 'ERR_SHARD_FAILED' : 'ERR_READ_ONLY', text, details);
  }

  /** Until there may be news. */
  async #park(feed: StoreFeed): Promise<void> {
    const { client } = this.#core;
    const { feedBell: bell } = client.control;
    const epoch = bell.begin(client.client);
    try {
      // What was published before the bell was heard rang for nobody.
      if (this.#isEnded || this.#options.signal?.aborted === true || this.#look(feed) !== 'end') return;
      const isPublished = this.#positions.some(({ seq }, shard) => this.#limits[shard]!().publishedSeq > seq);
      const waitMs = isPublished ? POLL_MS : PARK_MS_MAX;
      // The timer keeps the process alive, as a call that waits does; a wait for a bell does not.
      await Promise.race([this.#sleep(waitMs), bell.wait(epoch, waitMs)]);
      this.#wake?.();
    } finally {
      if (!client.closed) bell.end(client.client);
    }
  }

  /** Spaces that were being created when the feed was made are there now. */
  async #begin(): Promise<StoreFeed | undefined> {
    for (const source of this.#options.sources ?? []) {
      const { pending } = source;
      if (pending !== undefined) await pending;
    }
    if (this.#isEnded || this.#feed !== undefined) return this.#feed;
    this.#assertSpaces();
    this.#watched = new Watched(this.#core, this.#options);
    const { positions, partial } = this.#from;
    const filter = this.#watched;
    const shards = this.#sources.map((source, shard) => {
      const position = positions[shard]!;
      const { publishedSeq } = this.#limits[shard]!();
      if (publishedSeq < position.seq) {
        const text = `it is at number ${publishedSeq}, the token at ${position.seq}: the store was set back`;
        throw truncated(shard, position.lsn, text);
      }
      return new ShardFeed(shard, source, filter, position);
    });
    this.#feed = new StoreFeed(shards, partial);
    return this.#feed;
  }

  /** @throws ERR_SPACE_DROPPED, why one could not be created */
  #assertSpaces(): void {
    for (const source of this.#options.sources ?? []) {
      try {
        source.assertUsable();
      } catch (error) {
        if (!(error instanceof ConcordError) || error.code !== 'ERR_CLOSED') throw error;
        // This thread lets go of the space: a feed of it ends as one whose store is closed.
        this.#end();
      }
    }
  }

  #sleep(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(() => {
        this.#wake = undefined;
        resolve();
      }, ms);
      this.#wake = () => {
        this.#wake = undefined;
        clearTimeout(timer);
        resolve();
      };
    });
  }

  // ---- delivering -------------------------------------------------------------------------------------------------------------------------

  #deliver(feed: StoreFeed): void {
    const parts = feed.ready;
    const { isJoined } = parts[0]!.head!;
    const size = isJoined ? parts.reduce((sum, part) => sum + part.countWanted(), 0) : 1;
    if (size === 0) {
      this.#passUnit(feed, parts);
      return;
    }
    // A token within the unit stands right before it.
    this.#moveTo(parts);
    this.#delivery = {
      parts,
      id: Math.min(...parts.map(({ head }) => head!.seq)),
      isJoined,
      size,
      recordsToPass: feed.recordsToPass,
      part: 0,
      changes: parts[0]!.changes(),
      recordsBefore: 0,
      index: 0,
    };
  }

  #passUnit(feed: StoreFeed, parts: readonly ShardFeed[]): void {
    feed.done();
    this.#moveTo(parts);
    this.#partial = feed.partial;
    this.#delivery = undefined;
  }

  #moveTo(parts: readonly ShardFeed[]): void {
    const positions = [...this.#positions];
    for (const part of parts) positions[part.shard] = part.position;
    this.#positions = positions;
  }

  /** The next change of what is being delivered; undefined when there is none left. */
  #take(): Change<K, V> | undefined {
    for (;;) {
      const delivery = this.#delivery;
      if (delivery === undefined) return undefined;
      const step = delivery.changes.next();
      if (step.done === true) {
        delivery.recordsBefore += step.value;
        delivery.part++;
        const part = delivery.parts[delivery.part];
        if (part === undefined) this.#passUnit(this.#feed!, delivery.parts);
        else delivery.changes = part.changes();
        continue;
      }
      const record = delivery.recordsBefore + step.value.record;
      const index = delivery.index++;
      const isLast = index === delivery.size - 1;
      const { shard } = delivery.parts[delivery.part]!;
      if (isLast) this.#passUnit(this.#feed!, delivery.parts);
      else this.#partial = { shard: delivery.parts[0]!.shard, records: record + 1 };
      if (record < delivery.recordsToPass) continue;
      const change = this.#changeOf(step.value.change, shard, delivery, index);
      if (change !== undefined) return change;
    }
  }

  /** Undefined: its space was dropped in this moment. */
  #changeOf(raw: RawChange, shard: number, delivery: Delivery, index: number): Change<K, V> | undefined {
    const space = this.#watched!.space(raw.spaceId);
    if (space === undefined) return undefined;
    const { name, keyEncoding, valueEncoding } = space;
    const { id, size, isJoined } = delivery;
    const storeId = this.#storeId;
    const token = { positions: this.#positions, partial: this.#partial };
    const place: ChangePlace = {
      space: name,
      shard,
      version: raw.seq,
      transaction: isJoined ? { id, size, index, last: index === size - 1 } : undefined,
      token: () => encodeToken(storeId, token),
    };
    if (raw.kind === 'clear') {
      const { low, high } = raw;
      const { slots } = this.#core.client.control;
      return new ClearChange<K>(place, low && Buffer.from(low), high && Buffer.from(high), keyEncoding, slots);
    }
    const key = keyEncoding.decode(raw.bytes, raw.keyAt, raw.keyAt + raw.keyLength) as K;
    if (raw.kind === 'del') return new DelChange<K>(place, key, raw.isExpiry ? 'expired' : 'deleted');
    const value = valueEncoding.decode(raw.value, raw.valueAt, raw.valueAt + raw.valueLength) as V;
    return new PutChange<K, V>(place, key, value, raw.expiresAt === 0 ? undefined : raw.expiresAt);
  }
}
