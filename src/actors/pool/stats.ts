/**
 * Numbers of a pool, read from shared memory without asking any thread. Threads: any client.
 */
import type { TreeCounts } from '../../engines/btree/meta.js';
import { UNIT_BYTES } from '../../shared/memory/arena.js';
import { toOwnerId } from '../../shared/memory/lock-owner.js';
import { PageCache } from '../../shared/memory/page-cache.js';
import type { SpaceView } from '../client/space-view.js';
import { ShardCounter, ShardState, type ControlBlock } from '../control-block.js';
import { CoordinatorCounter } from '../coordinator/counters.js';
import { CoordinatorHistogram, ShardHistogram, UsageTotals } from '../metrics/board.js';
import { HISTOGRAM_LENGTH, Histogram } from '../metrics/histogram.js';
import { readShardReport, type ShardReport } from '../metrics/shard-meter.js';
import { lsmStats, type LsmStats } from './lsm-stats.js';
import type { SpaceRecord } from './manifest.js';
import type { SpaceSource } from './source.js';
import { TransactionCounter, listedTransactions, transactionTotals } from '../transaction/board.js';

/** Durations, microseconds, 3.2 % wrong at most. */
export interface LatencyStats {
  /** How many were timed. */
  readonly count: number;
  readonly meanUs: number;
  readonly p50Us: number;
  readonly p99Us: number;
  readonly p999Us: number;
  readonly maxUs: number;
}

/** What was asked, by all threads, those that have left included. */
export interface OperationStats {
  /** Point reads of any kind. */
  readonly gets: number;
  readonly hits: number;
  readonly misses: number;
  /** Iterators that were begun, and counts of ranges. */
  readonly scans: number;
  readonly scanChunks: number;
  readonly scannedEntries: number;
  /** Handed to a shard, those in batches included. */
  readonly puts: number;
  readonly deletes: number;
  /** Counted where batch() was called. */
  readonly batches: number;
  readonly clears: number;
  /** Conditional writes whose condition did not hold. */
  readonly conflicts: number;
  /** Writes that a shard refused, or did not answer. */
  readonly failures: number;
  /** Reads that began again, since what they met was newer than what they had begun with. */
  readonly readRetries: number;
  /** Reads that began again, since the space had another engine. */
  readonly viewRenewals: number;
  /** Reads that waited for a writer, and for how long. */
  readonly latchWaits: number;
  readonly latchWaitUs: number;
}

/** One of 64 point reads is timed, every write (until its promise settles), every chunk of a scan. */
export interface OperationLatencies {
  readonly read: LatencyStats;
  readonly write: LatencyStats;
  readonly scan: LatencyStats;
}

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
  /** Calls of all threads that are not settled. */
  readonly pendingRequests: number;
  /** Operation records per group. */
  readonly groupRecords: { readonly mean: number; readonly p50: number; readonly p99: number; readonly max: number };
  /** Parts of a group's time: all groups that are synced are timed, one of eight others. And checkpoints. */
  readonly latency: {
    readonly log: LatencyStats;
    readonly sync: LatencyStats;
    readonly apply: LatencyStats;
    readonly answer: LatencyStats;
    readonly checkpoint: LatencyStats;
  };
  /** Locks of keys and ranges, those of transactions and those of writes that were set aside for them. Now: held; awaited by transactions; writes and commits that wait for locks. */
  readonly locks: {
    readonly held: number;
    readonly awaited: number;
    readonly setAside: number;
    /** Since the thread was started: requests that waited; of these, that waited too long. */
    readonly waits: number;
    readonly timeouts: number;
    /** From the request until the lock was granted or refused, of those that waited. */
    readonly wait: LatencyStats;
  };
  /** Of transactions over several shards, and of all that commit here. */
  readonly transactions: {
    /** Now: voted for here, and not applied or given up. */
    readonly prepared: number;
    /** Of these: found in the log of a predecessor; the shard serves nothing else until their outcome is known. */
    readonly inDoubt: number;
    /** Refused because of what others had written or locked, since the thread was started. */
    readonly conflicts: number;
    /** From the vote until what was decided shows here. */
    readonly voteToOutcome: LatencyStats;
  };
  /** Spaces on their way to another engine, and how many versions have been copied. Up to 250 ms old. */
  readonly moving: readonly {
    readonly space: string;
    readonly engine: string;
    readonly copied: number;
    readonly total: number;
  }[];
  /** Log a recovery would read, bytes. */
  readonly logBytes: number;
  /** Log kept for change feeds behind that, bytes. */
  readonly retainedLogBytes: number;
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
  /** Those that have expired count until they are removed. Of an LSM-Tree an estimate, as the next ones: it does not look for what a write replaces. */
  readonly entries: number;
  /** Live key and value bytes. */
  readonly dataBytes: number;
  /** Of these. */
  readonly keyBytes: number;
  readonly valueBytes: number;
  /** Versions and tombstones kept, the live entries included. */
  readonly cells: number;
  /** Memory of pages that hold entries, and of chains that hold long values. */
  readonly pageBytes: number;
  readonly overflowBytes: number;
  /** Bytes by kind, as the engine tells. Up to 250 ms old, as engineMetrics is. */
  readonly memory: Readonly<Record<string, number>>;
  readonly operations: OperationStats;
  readonly latency: OperationLatencies;
  /** What the engine counts, since its shards were started last: names are its own. */
  readonly engineMetrics: Readonly<Record<string, number>>;
  /** Of a space in an LSM-Tree. */
  readonly lsm: LsmStats | undefined;
}

/** The cache of blocks read from files, for all threads and shards. Counts of all of its life. */
export interface BlockCacheStats {
  /** Reserved; memory is committed as it is used. */
  readonly capacityBytes: number;
  readonly usedBytes: number;
  readonly hits: number;
  readonly misses: number;
  /** Part of the lookups that found their block; 0 before the first. */
  readonly hitRate: number;
  readonly insertions: number;
  readonly evictions: number;
}

/** Of all threads, those that have left included, since the store was opened. */
export interface TransactionStats {
  /** Attempts that are not over are of one transaction. */
  readonly begun: number;
  readonly committed: number;
  /** By rollback(), by what a function threw, by a signal. */
  readonly rolledBack: number;
  /** Attempts after the first. */
  readonly retries: number;
  /** Attempts that failed, by why. */
  readonly conflicts: number;
  readonly deadlocks: number;
  readonly lockTimeouts: number;
  readonly timeouts: number;
  readonly otherFailures: number;
  /** Commits that were asked for: without a message, of one shard, of several. */
  readonly silent: number;
  readonly oneShard: number;
  readonly manyShards: number;
  readonly open: number;
  /** For a place. */
  readonly waiting: number;
  /** From the call to the answer, of what was committed. */
  readonly durations: LatencyStats;
  /** From the first request until all shards had voted yes, of commits in several shards. */
  readonly votes: LatencyStats;
}

/** Of the thread that decides transactions that write in several shards. Counts begin anew with a new thread, times do not. */
export interface CoordinatorStats {
  readonly restarts: number;
  /** To commit; refused or given up; of these, given up because nothing was heard of them. */
  readonly decisions: number;
  readonly aborts: number;
  readonly fences: number;
  /** Frames of decisions, and syncs, of its log. */
  readonly frames: number;
  readonly syncs: number;
  readonly logBytes: number;
  /** Transactions that it keeps in mind. */
  readonly known: number;
  /** Waits for locks that it knows of now, and those that it has ended because they were a circle. */
  readonly lockWaits: number;
  readonly deadlocks: number;
  /** Times its thread was woken, or woke by itself. */
  readonly wakeups: number;
  /** From the request to decide until the decision is logged, as durable as asked. */
  readonly decision: LatencyStats;
  /** From there until every shard has applied it. */
  readonly apply: LatencyStats;
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
  /** Undefined for a store in memory. */
  readonly blockCache: BlockCacheStats | undefined;
  /** Of all spaces, those that were dropped included; asked of a space, its own. */
  readonly operations: OperationStats;
  readonly latency: OperationLatencies;
  readonly transactions: TransactionStats;
  readonly coordinator: CoordinatorStats;
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

/** To whole nanoseconds. */
function microseconds(ns: number): number {
  return Math.round(ns) / 1000;
}

function latencyOf(histogram: Histogram): LatencyStats {
  const { count } = histogram;
  const quantileUs = (part: number): number => microseconds(histogram.quantile(part));
  return {
    count,
    meanUs: count === 0 ? 0 : microseconds(histogram.sum / count),
    p50Us: quantileUs(0.5),
    p99Us: quantileUs(0.99),
    p999Us: quantileUs(0.999),
    maxUs: microseconds(histogram.largest),
  };
}

function operationsOf(usage: UsageTotals): OperationStats {
  const gets = usage.count('Gets');
  const misses = usage.count('Misses');
  return {
    gets,
    hits: gets - misses,
    misses,
    scans: usage.count('Scans'),
    scanChunks: usage.count('ScanChunks'),
    scannedEntries: usage.count('ScannedEntries'),
    puts: usage.count('Puts'),
    deletes: usage.count('Deletes'),
    batches: usage.count('Batches'),
    clears: usage.count('Clears'),
    conflicts: usage.count('Conflicts'),
    failures: usage.count('Failures'),
    readRetries: usage.count('ReadRetries'),
    viewRenewals: usage.count('ViewRenewals'),
    latchWaits: usage.count('LatchWaits'),
    latchWaitUs: microseconds(usage.count('LatchWaitNs')),
  };
}

function latenciesOf(usage: UsageTotals): OperationLatencies {
  return { read: latencyOf(usage.reads), write: latencyOf(usage.writes), scan: latencyOf(usage.scans) };
}

/** Sizes of pages are not to be added up over shards. */
const LARGEST_COUNTS = /PageBytes$/;

function addUp(sums: Record<string, number>, numbers: Readonly<Record<string, number>>): void {
  for (const [name, value] of Object.entries(numbers)) {
    const sum = sums[name] ?? 0;
    sums[name] = LARGEST_COUNTS.test(name) ? Math.max(sum, value) : sum + value;
  }
}

/** What of many spaces is collected once. */
export interface StatsBasis {
  readonly usage: Map<number | undefined, UsageTotals>;
  readonly reports: readonly (ShardReport | undefined)[];
}

export function statsBasis({ client }: SpaceSource): StatsBasis {
  const { board } = client.control;
  return { usage: board.usage(), reports: client.shards.map((_, shard) => readShardReport(board, shard)) };
}

/** Numbers of a space over all shards. */
export function spaceStats(
  { id, name, engine }: SpaceRecord,
  views: readonly SpaceView[],
  basis: StatsBasis,
): SpaceStats {
  let entries = 0;
  let keyBytes = 0;
  let valueBytes = 0;
  let cells = 0;
  let pageBytes = 0;
  let overflowBytes = 0;
  for (const view of views) {
    const counts = view.counts();
    entries += counts.liveEntries;
    keyBytes += counts.liveKeyBytes;
    valueBytes += counts.liveValueBytes;
    cells += counts.cells;
    pageBytes += counts.treeUnits * UNIT_BYTES;
    overflowBytes += counts.overflowUnits * UNIT_BYTES;
  }
  const memory: Record<string, number> = {};
  const engineMetrics: Record<string, number> = {};
  for (const report of basis.reports) {
    for (const space of report?.spaces ?? []) {
      if (space.id !== id) continue;
      // The unit belongs to the name, whatever an engine of somebody else's calls it.
      const named = Object.entries(space.memory).map(([kind, bytes]) => [
        /Bytes$/.test(kind) ? kind : `${kind}Bytes`,
        bytes,
      ]);
      addUp(memory, Object.fromEntries(named) as Record<string, number>);
      addUp(engineMetrics, space.metrics);
    }
  }
  const usage = basis.usage.get(id) ?? new UsageTotals();
  return {
    name,
    engine,
    entries,
    dataBytes: keyBytes + valueBytes,
    keyBytes,
    valueBytes,
    cells,
    pageBytes,
    overflowBytes,
    memory,
    operations: operationsOf(usage),
    latency: latenciesOf(usage),
    engineMetrics,
    lsm: lsmStats(id, basis.reports, usage),
  };
}

function transactionStats(board: SharedArrayBuffer): TransactionStats {
  const { counts, durations, votes } = transactionTotals(board);
  const count = (name: keyof typeof TransactionCounter): number => counts[TransactionCounter[name]]!;
  return {
    begun: count('Begun'),
    committed: count('Committed'),
    rolledBack: count('RolledBack'),
    retries: count('Retries'),
    conflicts: count('Conflicts'),
    deadlocks: count('Deadlocks'),
    lockTimeouts: count('LockTimeouts'),
    timeouts: count('Timeouts'),
    otherFailures: count('OtherFailures'),
    silent: count('Silent'),
    oneShard: count('OneShard'),
    manyShards: count('ManyShards'),
    open: listedTransactions(board).length,
    waiting: count('Waiting'),
    durations: latencyOf(durations),
    votes: latencyOf(votes),
  };
}

function coordinatorStats({ board, coordinatorRestarts }: ControlBlock): CoordinatorStats {
  const counters = board.coordinatorCounters();
  const histograms = board.coordinatorHistograms();
  const count = (name: keyof typeof CoordinatorCounter): number => counters[CoordinatorCounter[name]]!;
  const latency = (which: number): LatencyStats => latencyOf(new Histogram(histograms, which * HISTOGRAM_LENGTH));
  return {
    restarts: coordinatorRestarts,
    decisions: count('Decisions'),
    aborts: count('Aborts'),
    fences: count('Fences'),
    frames: count('Groups'),
    syncs: count('Syncs'),
    logBytes: count('LogBytes'),
    known: count('Known'),
    lockWaits: count('Waiting'),
    deadlocks: count('Deadlocks'),
    wakeups: count('Wakeups'),
    decision: latency(CoordinatorHistogram.Decision),
    apply: latency(CoordinatorHistogram.Apply),
  };
}

function blockCacheStats(view: SpaceView): BlockCacheStats | undefined {
  const cache = view.arena.layout.cold?.cache;
  if (cache === undefined) return undefined;
  // Who only looks needs no name of its own.
  const { bytes, usedBytes, hits, misses, insertions, evictions } = new PageCache(cache, toOwnerId(1)).stats();
  const hitRate = hits / Math.max(1, hits + misses);
  return { capacityBytes: bytes, usedBytes, hits, misses, hitRate, insertions, evictions };
}

/** `ofAll`: of every space of the store, with the source's rows per shard; otherwise of the source alone. */
export function collectStats(
  source: SpaceSource,
  ofAll: boolean,
  diskBytes: number | undefined,
  basis = statsBasis(source),
): PoolStats {
  const { client, core } = source;
  const { control } = client;
  const records = ofAll ? core.registry.all() : [core.registry.withId(source.spaceId)!];
  const spaces = records.map((record) => spaceStats(record, client.viewsOf(record.id), basis));
  const shards = source.views.map((view, shard): ShardStats => {
    const counters = control.shardCounters(shard);
    const memory = view.arena.stats();
    const tree = view.counts();
    const histograms = control.board.shardHistograms(shard);
    const histogram = (which: number): Histogram => new Histogram(histograms, which * HISTOGRAM_LENGTH);
    const groupRecords = histogram(ShardHistogram.GroupRecords);
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
      pendingRequests: control.board.pendingAt(shard),
      groupRecords: {
        mean: groupRecords.sum / Math.max(1, groupRecords.count),
        p50: groupRecords.quantile(0.5),
        p99: groupRecords.quantile(0.99),
        max: groupRecords.largest,
      },
      latency: {
        log: latencyOf(histogram(ShardHistogram.Log)),
        sync: latencyOf(histogram(ShardHistogram.Sync)),
        apply: latencyOf(histogram(ShardHistogram.Apply)),
        answer: latencyOf(histogram(ShardHistogram.Answer)),
        checkpoint: latencyOf(histogram(ShardHistogram.Checkpoint)),
      },
      locks: {
        held: counters[ShardCounter.LocksHeld]!,
        awaited: counters[ShardCounter.LocksAwaited]!,
        setAside: counters[ShardCounter.SetAside]!,
        waits: counters[ShardCounter.LockWaits]!,
        timeouts: counters[ShardCounter.LockTimeouts]!,
        wait: latencyOf(histogram(ShardHistogram.LockWait)),
      },
      transactions: {
        prepared: counters[ShardCounter.Prepared]!,
        inDoubt: counters[ShardCounter.InDoubt]!,
        conflicts: counters[ShardCounter.TransactionConflicts]!,
        voteToOutcome: latencyOf(histogram(ShardHistogram.Prepared)),
      },
      moving: (basis.reports[shard]?.spaces ?? []).flatMap(({ id, moving }) => {
        const record = core.registry.withId(id);
        return moving === undefined || record === undefined ? [] : [{ space: record.name, ...moving }];
      }),
      logBytes: counters[ShardCounter.LogBytes]!,
      retainedLogBytes: counters[ShardCounter.RetainedLogBytes]!,
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
  const usage = basis.usage.get(ofAll ? undefined : source.spaceId) ?? new UsageTotals();
  return {
    entries: spaces.reduce((total, { entries }) => total + entries, 0),
    dataBytes: spaces.reduce((total, { dataBytes }) => total + dataBytes, 0),
    memoryUsedBytes: sum(({ memory }) => memory.usedBytes),
    memoryHighWaterBytes: sum(({ memory }) => memory.highWaterBytes),
    memoryCapacityBytes: sum(({ memory }) => memory.capacityBytes),
    logBytes: sum(({ logBytes }) => logBytes),
    diskBytes,
    blockCache: blockCacheStats(source.views[0]!),
    operations: operationsOf(usage),
    latency: latenciesOf(usage),
    transactions: transactionStats(core.settings.transactionBoard),
    coordinator: coordinatorStats(control),
    clients: control.clients,
    openSnapshots: control.openSnapshots,
    oldestSnapshotMs: oldest === undefined ? 0 : Math.max(0, Date.now() - oldest),
    pendingCalls: client.pending,
    queuedCalls: client.shards.reduce((total, { link }) => total + link.queued, 0),
    shards,
    spaces,
  };
}
