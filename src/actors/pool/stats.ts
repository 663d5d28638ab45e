/**
 * Numbers of a pool, read from shared memory without asking any thread. Threads: any client.
 */
import type { TreeCounts } from '../../engines/btree/meta.js';
import { UNIT_BYTES } from '../../shared/memory/arena.js';
import type { SpaceView } from '../client/space-view.js';
import { ShardCounter, ShardState } from '../control-block.js';
import type { SpaceRecord } from './manifest.js';
import type { SpaceSource } from './source.js';

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
  /** Entries removed because their time had come. */
  readonly expired: number;
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
  /** The space's row: what its engine holds in this shard. */
  readonly tree: TreeCounts;
}

/** One space over all shards. */
export interface SpaceStats {
  /** Empty: the pool's own. */
  readonly name: string;
  readonly engine: string;
  /** Those that have expired count until they are removed. */
  readonly entries: number;
  /** Live key and value bytes. */
  readonly dataBytes: number;
  /** Versions and tombstones kept, the live entries included. */
  readonly cells: number;
  /** Memory of pages that hold entries, and of chains that hold long values. */
  readonly pageBytes: number;
  readonly overflowBytes: number;
}

export interface PoolStats {
  /** Of all spaces; asked of a space, its own. */
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
  /** The pool's own space first, then the named ones in the order of their creation. Asked of a space, only itself. */
  readonly spaces: readonly SpaceStats[];
}

const STATE_NAMES: Readonly<Record<number, ShardStats['state']>> = {
  [ShardState.Starting]: 'starting',
  [ShardState.Running]: 'running',
  [ShardState.Restarting]: 'restarting',
  [ShardState.ReadOnly]: 'read-only',
  [ShardState.Failed]: 'failed',
  [ShardState.Closed]: 'closed',
};

/** Numbers of a space over all shards. */
export function spaceStats({ name, engine }: SpaceRecord, views: readonly SpaceView[]): SpaceStats {
  let entries = 0;
  let dataBytes = 0;
  let cells = 0;
  let pageBytes = 0;
  let overflowBytes = 0;
  for (const view of views) {
    const counts = view.counts();
    entries += counts.liveEntries;
    dataBytes += counts.liveKeyBytes + counts.liveValueBytes;
    cells += counts.cells;
    pageBytes += counts.treeUnits * UNIT_BYTES;
    overflowBytes += counts.overflowUnits * UNIT_BYTES;
  }
  return { name, engine, entries, dataBytes, cells, pageBytes, overflowBytes };
}

/** `ofAll`: of every space of the store, with the source's rows per shard; otherwise of the source alone. */
export function collectStats(source: SpaceSource, ofAll: boolean, diskBytes: number | undefined): PoolStats {
  const { client, core } = source;
  const { control } = client;
  const records = ofAll ? core.registry.all() : [core.registry.withId(source.spaceId)!];
  const spaces = records.map((record) => spaceStats(record, client.viewsOf(record.id)));
  const shards = source.views.map((view, shard): ShardStats => {
    const counters = control.shardCounters(shard);
    const memory = view.arena.stats();
    const tree = view.counts();
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
      expired: counters[ShardCounter.Expired]!,
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
    entries: spaces.reduce((total, { entries }) => total + entries, 0),
    dataBytes: spaces.reduce((total, { dataBytes }) => total + dataBytes, 0),
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
    spaces,
  };
}
