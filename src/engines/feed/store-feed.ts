/**
 * The feed of a whole store: the feeds of its shards, merged. Of each shard the units come in the order of their commits; between shards roughly so. A
 * transaction over several shards is delivered whole, once: it stands at the head of each of its shards until the last has it.
 *
 *   shard 0   put 3 · txn 7 ▒ put 9        shard 0 waits at 7
 *   shard 1   put 4 · put 5 · txn 7 ▒      delivered: 3 4 5 7(both parts) 9
 *
 * Nothing waits for ever: every shard meets the transactions over several of them in the order of their numbers.
 *
 * A feed may begin between the parts of a transaction, but not within one: when a shard has passed its number and neither holds it nor has it prepared, it
 * began before the feed did, and the other parts are passed over. A shard that still has it prepared ends it in a later life of the store, with another
 * number, and may have logged other groups before. When a shard's log takes nothing more and does not hold it, the feed is stuck: what the shard has is
 * told only by the log of the next opening. Threads: the reader's.
 */
import type { FeedToken } from './token.js';
import type { FeedLimits, FeedPosition } from './source.js';
import type { FeedUnit, ShardFeed } from './shard-feed.js';

/** Frames looked at by one call, at most. */
const FRAMES_MAX = 16;

/** The next to be delivered, and never whole. */
export interface StuckTransaction {
  readonly id: number;
  /** That has it, and waits. */
  readonly shard: number;
  /** Whose log ended without it. */
  readonly missingIn: number;
}

type LimitsOf = (shard: number) => FeedLimits;

export class StoreFeed {
  readonly #shards: readonly ShardFeed[];
  /** As this feed began: its first unit is to go on behind some records. */
  #partial: { readonly position: FeedPosition; readonly shard: number; readonly records: number } | undefined;
  #ready: ShardFeed[] = [];
  #stuck: StuckTransaction | undefined;

  constructor(shards: readonly ShardFeed[], partial: FeedToken['partial']) {
    this.#shards = shards;
    if (partial !== undefined) this.#partial = { ...partial, position: shards[partial.shard]!.position };
  }

  /** What is still to be passed of the unit it begins with. */
  get partial(): FeedToken['partial'] {
    const partial = this.#partial;
    return partial === undefined ? undefined : { shard: partial.shard, records: partial.records };
  }

  get positions(): FeedPosition[] {
    return this.#shards.map((shard) => shard.position);
  }

  /** Records of the unit that is ready which were delivered before, if this feed goes on within it. */
  get recordsToPass(): number {
    return this.#partial === undefined || this.#ready.length === 0 ? 0 : this.#partial.records;
  }

  /** The parts of the unit that next() has found, by shard. */
  get ready(): readonly ShardFeed[] {
    return this.#ready;
  }

  /** Why next() said so. */
  get stuck(): StuckTransaction | undefined {
    return this.#stuck;
  }

  /**
   * Looks for the next unit, which is then `ready` until done(). 'more': it has looked at a good deal and found none yet. 'stuck': see there.
   * @throws ERR_FEED_TRUNCATED, ERR_CORRUPT, ERR_IO
   */
  next(limitsOf: LimitsOf): 'ready' | 'more' | 'end' | 'stuck' {
    let frames = 0;
    this.#stuck = undefined;
    for (;;) {
      let isAtEnd = true;
      for (const shard of this.#shards) {
        while (shard.head === undefined && frames < FRAMES_MAX) {
          if (!shard.advance(limitsOf(shard.shard))) break;
          frames++;
          isAtEnd = false;
        }
      }
      // With frames left every shard has its head, or is at its end.
      const passed = this.#choose(limitsOf, frames < FRAMES_MAX);
      if (this.#ready.length > 0) return 'ready';
      if (this.#stuck !== undefined) return 'stuck';
      if (passed) continue;
      if (isAtEnd) return 'end';
      if (frames >= FRAMES_MAX) return 'more';
    }
  }

  /** What is ready has been delivered. */
  done(): void {
    this.#partial = undefined;
    for (const shard of this.#ready) shard.pass();
    this.#ready = [];
  }

  /** Of those that may go, the unit with the lowest number. True: one was passed over instead. `isAll`: nothing else will come before it. */
  #choose(limitsOf: LimitsOf, isAll: boolean): boolean {
    let best: ShardFeed | undefined;
    let bestSeq = Infinity;
    let missingIn: number | undefined;
    // First of all the unit that was begun: a token can tell of one only.
    for (const shard of this.#begun ?? this.#shards) {
      const { head } = shard;
      if (head === undefined || head.seq >= bestSeq) continue;
      let missing: number | undefined;
      if (head.transaction !== undefined) {
        const state = this.#stateOf(shard, head);
        if (state === 'begun-before') {
          shard.pass();
          return true;
        }
        if (state === 'waiting') {
          missing = isAll ? this.#endedWithout(shard, head, limitsOf) : undefined;
          if (missing === undefined) continue;
        }
      }
      best = shard;
      bestSeq = head.seq;
      missingIn = missing;
    }
    if (best === undefined) return false;
    if (missingIn !== undefined) {
      this.#stuck = { id: best.head!.transaction!.id, shard: best.shard, missingIn };
      return false;
    }
    const id = best.head!.transaction?.id;
    this.#ready = id === undefined ? [best] : this.#shards.filter(({ head }) => head?.transaction?.id === id);
    return false;
  }

  /** The shard of the unit that is to go on. A feed that wants other changes now may not have it. */
  get #begun(): [ShardFeed] | undefined {
    const partial = this.#partial;
    if (partial === undefined) return undefined;
    const shard = this.#shards[partial.shard]!;
    const { lsn, unit } = shard.position;
    if (lsn === partial.position.lsn && unit === partial.position.unit) return [shard];
    this.#partial = undefined;
    return undefined;
  }

  #stateOf(own: ShardFeed, { transaction, seq }: FeedUnit): 'whole' | 'waiting' | 'begun-before' {
    const { id, maskLow, maskHigh } = transaction!;
    let isWhole = true;
    for (const other of this.#shards) {
      if (other === own || !isIn(other.shard, maskLow, maskHigh)) continue;
      if (other.head?.transaction?.id === id) continue;
      isWhole = false;
      if (!other.holds(id) && other.settledSeq >= seq && !other.hasPrepared(id)) return 'begun-before';
    }
    return isWhole ? 'whole' : 'waiting';
  }

  /** A shard that will not log its part: every group that could has a higher number than the transaction, and than all that will come. */
  #endedWithout(own: ShardFeed, { transaction, seq }: FeedUnit, limitsOf: LimitsOf): number | undefined {
    const { id, maskLow, maskHigh } = transaction!;
    for (const other of this.#shards) {
      if (other === own || !isIn(other.shard, maskLow, maskHigh) || other.holds(id)) continue;
      const { lastSeq } = limitsOf(other.shard);
      if (lastSeq < seq || other.settledSeq >= lastSeq) return other.shard;
    }
    return undefined;
  }
}

function isIn(shard: number, maskLow: number, maskHigh: number): boolean {
  return (((shard < 32 ? maskLow : maskHigh) >>> (shard & 31)) & 1) !== 0;
}
