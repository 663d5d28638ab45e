/**
 * Numbers of a pool, read from shared memory without asking any thread. Threads: any client.
 */
import { treeCounts, type TreeCounts } from '../../engines/btree/meta.js';
import { DEFAULT_TREE } from '../../engines/store/shard-store.js';
import { ShardCounter, ShardState } from '../control-block.js';
import type { ThreadClient } from '../client/thread-client.js';

const UNIT_BYTES = 4096;

export interface ShardStats {
  readonly shard: number;
  readonly state: 'starting' | 'running' | 'restarting' | 'read-only' | 'failed' | 'closed';
  readonly restarts: number;
  /** Sequence number of the newest visible write. */
  readonly publishedSeq: number;
  readonly groups: number;
  readonly requests: number;
  readonly operations: number;
  readonly syncs: number;
  readonly conditionsFailed: number;
  readonly errors: number;
  readonly checkpoints: number;
  /** Log a recovery would read, bytes. */
  readonly logBytes: number;
  readonly logLsn: number;
  readonly logSyncedLsn: number;
  readonly checkpointLsn: number;
  readonly memory: {
    /** Reserved. */
    readonly capacityBytes: number;
    /** In pages that hold data, or that a reader may still see. */
    readonly usedBytes: number;
    /** Of these: waiting for readers to leave. */
    readonly retiredBytes: number;
    /** Most that was ever used: what the operating system has committed. */
    readonly highWaterBytes: number;
  };
  readonly tree: TreeCounts;
}

export interface PoolStats {
  readonly entries: number;
  /** Live key and value bytes. */
  readonly dataBytes: number;
  readonly memoryUsedBytes: number;
  readonly memoryHighWaterBytes: number;
  readonly memoryCapacityBytes: number;
  readonly logBytes: number;
  /** Files of the store, as allocated; undefined in attached threads. */
  readonly diskBytes: number | undefined;
  /** Attached threads, this one included. */
  readonly clients: number;
  readonly openSnapshots: number;
  /** Age of the oldest open snapshot or iterator, ms; 0 when there is none. */
  readonly oldestSnapshotMs: number;
  /** Calls of this thread that are not settled. */
  readonly pendingCalls: number;
  /** Of these: waiting because the ring is full. */
  readonly queuedCalls: number;
  readonly shards: readonly ShardStats[];
}

const STATE_NAMES: Readonly<Record<number, ShardStats['state']>> = {
  [ShardState.Starting]: 'starting',
  [ShardState.Running]: 'running',
  [ShardState.Restarting]: 'restarting',
  [ShardState.ReadOnly]: 'read-only',
  [ShardState.Failed]: 'failed',
  [ShardState.Closed]: 'closed',
};

export function collectStats(client: ThreadClient, diskBytes: number | undefined): PoolStats {
  const { control } = client;
  const shards = client.shards.map(({ arena }, shard): ShardStats => {
    const counters = control.shardCounters(shard);
    const memory = arena.stats();
    const metaUnit = arena.pin(client.client);
    let tree: TreeCounts;
    try {
      tree = treeCounts(arena, metaUnit, DEFAULT_TREE);
    } finally {
      arena.unpin(client.client);
    }
    return {
      shard,
      state: STATE_NAMES[control.shardState(shard)] ?? 'starting',
      restarts: control.shardRestarts(shard),
      publishedSeq: control.published(shard),
      groups: counters[ShardCounter.Groups]!,
      requests: counters[ShardCounter.Requests]!,
      operations: counters[ShardCounter.Operations]!,
      syncs: counters[ShardCounter.Syncs]!,
      conditionsFailed: counters[ShardCounter.ConditionsFailed]!,
      errors: counters[ShardCounter.Errors]!,
      checkpoints: counters[ShardCounter.Checkpoints]!,
      logBytes: counters[ShardCounter.LogBytes]!,
      logLsn: counters[ShardCounter.LogLastLsn]!,
      logSyncedLsn: counters[ShardCounter.LogSyncedLsn]!,
      checkpointLsn: counters[ShardCounter.CheckpointLsn]!,
      memory: {
        capacityBytes: memory.totalUnits * UNIT_BYTES,
        usedBytes: memory.usedUnits * UNIT_BYTES,
        retiredBytes: memory.retiredUnits * UNIT_BYTES,
        highWaterBytes: memory.highWaterUnits * UNIT_BYTES,
      },
      tree,
    };
  });
  const sum = (of: (stats: ShardStats) => number): number => shards.reduce((total, stats) => total + of(stats), 0);
  const oldest = control.oldestSnapshotOpenedAt();
  return {
    entries: sum(({ tree }) => tree.liveEntries),
    dataBytes: sum(({ tree }) => tree.liveKeyBytes + tree.liveValueBytes),
    memoryUsedBytes: sum(({ memory }) => memory.usedBytes),
    memoryHighWaterBytes: sum(({ memory }) => memory.highWaterBytes),
    memoryCapacityBytes: sum(({ memory }) => memory.capacityBytes),
    logBytes: sum(({ logBytes }) => logBytes),
    diskBytes,
    clients: control.clients,
    openSnapshots: control.openSnapshots,
    oldestSnapshotMs: oldest === undefined ? 0 : Math.max(0, Date.now() - oldest),
    pendingCalls: client.pending,
    queuedCalls: client.shards.reduce((total, { link }) => total + link.queued, 0),
    shards,
  };
}
