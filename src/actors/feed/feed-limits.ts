/**
 * How far a feed may go in a shard, as the control block tells. What a shard publishes is in its log, until that fails for good: decided transactions are applied
 * without it then, and a write that failed may stand in the file, below their numbers.
 *
 * Threads: any.
 */
import type { FeedLimits } from '../../engines/feed/source.js';
import { ShardCounter, ShardState, type ControlBlock } from '../control-block.js';

export function feedLimitsOf(control: ControlBlock, shard: number, durable: boolean): () => FeedLimits {
  const counters = control.shardCounters(shard);
  return () => {
    // In this order: see logEnd().
    const publishedSeq = control.published(shard);
    const logEnd = control.logEnd(shard);
    const isDown = control.shardState(shard) === ShardState.Failed;
    const lastSeq = isDown ? Math.min(logEnd, publishedSeq) : logEnd;
    const syncedLsn = counters[ShardCounter.LogSyncedLsn]!;
    return { publishedSeq: Math.min(publishedSeq, lastSeq), lastSeq, syncedLsn, durable };
  };
}
