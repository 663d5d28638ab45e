/**
 * Numbers of LSM-Trees: what the shards report of theirs, put together over the shards of a space, with what all threads have counted while they read.
 * Threads: any client.
 */
import type { LevelFigures } from '../../engines/lsm/figures.js';
import type { UsageTotals } from '../metrics/board.js';
import type { LsmReport, ShardReport } from '../metrics/shard-meter.js';

/** What reads met, by all threads. */
export interface LsmReadStats {
  /** Filters that were asked, and of these, those that knew that the key is not there. */
  readonly filterChecks: number;
  readonly filterNegatives: number;
  /** Filters that let a read through to a data block without the key. */
  readonly filterFalsePositives: number;
  /** Tables that a scan passed over by the filter of a prefix. */
  readonly prefixNegatives: number;
  /** Blocks of tables: data, indexes, filters. */
  readonly blocksFromCache: number;
  readonly blocksFromFile: number;
  readonly bytesFromFile: number;
  /** Values read from blob files. */
  readonly blobReads: number;
  /** Asynchronous reads that let the thread go on while a block was read. */
  readonly coldReads: number;
}

/** Numbers of the tree in one shard; up to 250 ms old. */
export interface LsmShardStats extends LsmReport {
  readonly shard: number;
}

/** An LSM-Tree over all shards. Counts begin anew when a shard's thread is restarted, but for those of `reads`. */
export interface LsmStats {
  /** Levels that have tables. */
  readonly levels: readonly LevelFigures[];
  readonly blobFiles: number;
  readonly blobBytes: number;
  /** Of these: of values that nothing refers to any more. */
  readonly blobGarbageBytes: number;
  readonly rangeTombstones: number;
  /** Memory: of memtables, of frozen ones that wait to be written, of what is kept of tables. */
  readonly memtableBytes: number;
  readonly frozenMemtables: number;
  readonly frozenBytes: number;
  readonly metadataBytes: number;
  /** Bytes that are still to be merged until each level has its size. */
  readonly pendingDebtBytes: number;
  readonly runningJobs: number;
  /** Files that go when their last readers have left. */
  readonly obsoleteFiles: number;
  /** Of keys and values that were put. */
  readonly userBytes: number;
  readonly flushes: number;
  readonly flushedBytes: number;
  readonly flushMs: number;
  readonly compactions: number;
  /** Tables that went to another level without being written anew. */
  readonly trivialMoves: number;
  readonly compactionReadBytes: number;
  readonly compactionWrittenBytes: number;
  readonly compactionMs: number;
  readonly failedJobs: number;
  /** Times in which writes waited for files, and for how long in all, by cause. */
  readonly stalls: number;
  readonly stalledMs: Readonly<Record<string, number>>;
  /** Bytes written to files per byte that was put; 0 before the first flush. */
  readonly writeAmplification: number;
  /** Of the worst shard: tables that a read of an absent key would look at without filters. */
  readonly readAmplification: number;
  /** Bytes of files per byte of the last level. */
  readonly spaceAmplification: number;
  readonly reads: LsmReadStats;
  readonly shards: readonly LsmShardStats[];
}

function readsOf(usage: UsageTotals): LsmReadStats {
  return {
    filterChecks: usage.count('FilterChecks'),
    filterNegatives: usage.count('FilterNegatives'),
    filterFalsePositives: usage.count('FilterFalsePositives'),
    prefixNegatives: usage.count('PrefixNegatives'),
    blocksFromCache: usage.count('BlocksFromCache'),
    blocksFromFile: usage.count('BlocksFromFile'),
    bytesFromFile: usage.count('BytesFromFile'),
    blobReads: usage.count('BlobReads'),
    coldReads: usage.count('ColdReads'),
  };
}

function levelsOf(shards: readonly LsmShardStats[]): LevelFigures[] {
  const levels = new Map<number, LevelFigures>();
  for (const figures of shards.flatMap((shard) => shard.levels)) {
    const sum = levels.get(figures.level);
    if (sum === undefined) levels.set(figures.level, figures);
    else {
      levels.set(figures.level, {
        level: figures.level,
        tables: sum.tables + figures.tables,
        runs: Math.max(sum.runs, figures.runs),
        bytes: sum.bytes + figures.bytes,
        entries: sum.entries + figures.entries,
        tombstones: sum.tombstones + figures.tombstones,
        rawBytes: sum.rawBytes + figures.rawBytes,
      });
    }
  }
  return [...levels.values()].filter(({ tables }) => tables > 0).sort((a, b) => a.level - b.level);
}

/** Undefined: no shard holds the space in an LSM-Tree. */
export function lsmStats(
  spaceId: number,
  reports: readonly (ShardReport | undefined)[],
  usage: UsageTotals,
): LsmStats | undefined {
  const shards = reports.flatMap((report, shard): LsmShardStats[] => {
    const lsm = report?.spaces.find(({ id }) => id === spaceId)?.lsm;
    return lsm === undefined ? [] : [{ shard, ...lsm }];
  });
  if (shards.length === 0) return undefined;
  const sum = (of: (figures: LsmShardStats) => number): number => shards.reduce((total, one) => total + of(one), 0);
  const stalledMs: Record<string, number> = {};
  for (const shard of shards) {
    for (const [cause, ms] of Object.entries(shard.stalledMs)) stalledMs[cause] = (stalledMs[cause] ?? 0) + ms;
  }
  const userBytes = sum((one) => one.userBytes);
  const flushedBytes = sum((one) => one.flushedBytes);
  const compactionWrittenBytes = sum((one) => one.compactionWrittenBytes);
  const fileBytes = (one: LsmShardStats): number =>
    one.blobBytes + one.levels.reduce((total, { bytes }) => total + bytes, 0);
  const neededBytes = sum((one) => fileBytes(one) / Math.max(1, one.spaceAmplification));
  return {
    levels: levelsOf(shards),
    blobFiles: sum((one) => one.blobFiles),
    blobBytes: sum((one) => one.blobBytes),
    blobGarbageBytes: sum((one) => one.blobGarbageBytes),
    rangeTombstones: sum((one) => one.rangeTombstones),
    memtableBytes: sum((one) => one.memtableBytes),
    frozenMemtables: sum((one) => one.frozenMemtables),
    frozenBytes: sum((one) => one.frozenBytes),
    metadataBytes: sum((one) => one.metadataBytes),
    pendingDebtBytes: sum((one) => one.pendingDebtBytes),
    runningJobs: sum((one) => one.runningJobs),
    obsoleteFiles: sum((one) => one.obsoleteFiles),
    userBytes,
    flushes: sum((one) => one.flushes),
    flushedBytes,
    flushMs: sum((one) => one.flushMs),
    compactions: sum((one) => one.compactions),
    trivialMoves: sum((one) => one.trivialMoves),
    compactionReadBytes: sum((one) => one.compactionReadBytes),
    compactionWrittenBytes,
    compactionMs: sum((one) => one.compactionMs),
    failedJobs: sum((one) => one.failedJobs),
    stalls: sum((one) => one.stalls),
    stalledMs,
    writeAmplification: userBytes === 0 ? 0 : (flushedBytes + compactionWrittenBytes) / userBytes,
    readAmplification: Math.max(...shards.map((one) => one.readAmplification)),
    spaceAmplification: neededBytes === 0 ? 1 : sum(fileBytes) / neededBytes,
    reads: readsOf(usage),
    shards,
  };
}
