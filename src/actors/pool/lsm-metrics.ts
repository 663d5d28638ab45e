/**
 * Prometheus text of LSM-Trees and of the block cache: families that a store has only if it has such spaces, or files. Labels: space (empty: the pool's
 * own), shard, level, kind. docs/metrics.md lists them. Threads: any client.
 */
import { Counter, Gauge, type Registry } from 'prom-client';
import type { LevelFigures } from '../../engines/lsm/figures.js';
import type { LsmReadStats, LsmShardStats } from './lsm-stats.js';
import type { BlockCacheStats, PoolStats, SpaceStats } from './stats.js';

type Row<T> = readonly [name: string, help: string, of: (figures: T) => number];
type KindRow<T> = readonly [name: string, help: string, of: Readonly<Record<string, (figures: T) => number>>];

const CACHE_GAUGES: readonly Row<BlockCacheStats>[] = [
  ['concordkv_block_cache_capacity_bytes', 'Memory reserved for blocks of files.', (stats) => stats.capacityBytes],
  ['concordkv_block_cache_used_bytes', 'Of these, in use.', (stats) => stats.usedBytes],
];
const CACHE_COUNTERS: readonly Row<BlockCacheStats>[] = [
  ['concordkv_block_cache_hits_total', 'Lookups that found their block.', (stats) => stats.hits],
  ['concordkv_block_cache_misses_total', 'Lookups that did not.', (stats) => stats.misses],
  ['concordkv_block_cache_insertions_total', 'Blocks that came in.', (stats) => stats.insertions],
  ['concordkv_block_cache_evictions_total', 'Blocks that had to go.', (stats) => stats.evictions],
];

const LEVEL_GAUGES: readonly Row<LevelFigures>[] = [
  ['concordkv_lsm_level_tables', 'Tables by level.', (level) => level.tables],
  ['concordkv_lsm_level_runs', 'Sorted runs by level.', (level) => level.runs],
  ['concordkv_lsm_level_bytes', 'Bytes of tables by level.', (level) => level.bytes],
  ['concordkv_lsm_level_versions', 'Versions and tombstones by level.', (level) => level.entries],
];

const STATES = { free: 0, slowed: 1, stopped: 2 } as const;

const GAUGES: readonly Row<LsmShardStats>[] = [
  ['concordkv_lsm_blob_files', 'Files of long values.', (lsm) => lsm.blobFiles],
  ['concordkv_lsm_range_tombstones', 'Clears of ranges that files still need.', (lsm) => lsm.rangeTombstones],
  ['concordkv_lsm_frozen_memtables', 'Memtables that wait to be written.', (lsm) => lsm.frozenMemtables],
  ['concordkv_lsm_metadata_bytes', 'Memory of what is kept of tables.', (lsm) => lsm.metadataBytes],
  ['concordkv_lsm_pending_debt_bytes', 'Bytes that are still to be merged.', (lsm) => lsm.pendingDebtBytes],
  ['concordkv_lsm_running_jobs', 'Flushes and merges under way.', (lsm) => lsm.runningJobs],
  ['concordkv_lsm_obsolete_files', 'Files that go when their readers have left.', (lsm) => lsm.obsoleteFiles],
  [
    'concordkv_lsm_write_state',
    'How writes are taken: 0 freely, 1 slowed, 2 not now.',
    (lsm) => STATES[lsm.flow.state],
  ],
  ['concordkv_lsm_write_amplification_ratio', 'Bytes written to files per byte put.', (lsm) => lsm.writeAmplification],
  [
    'concordkv_lsm_read_amplification_ratio',
    'Tables a read of an absent key would look at without filters.',
    (lsm) => lsm.readAmplification,
  ],
  [
    'concordkv_lsm_space_amplification_ratio',
    'Bytes of files per byte of the last level.',
    (lsm) => lsm.spaceAmplification,
  ],
];

const KIND_GAUGES: readonly KindRow<LsmShardStats>[] = [
  [
    'concordkv_lsm_memtable_bytes',
    'Memory of memtables.',
    { active: (lsm) => lsm.memtableBytes - lsm.frozenBytes, frozen: (lsm) => lsm.frozenBytes },
  ],
  [
    'concordkv_lsm_blob_bytes',
    'Bytes of files of long values: referred to, or not any more.',
    { live: (lsm) => lsm.blobBytes - lsm.blobGarbageBytes, garbage: (lsm) => lsm.blobGarbageBytes },
  ],
];

const COUNTERS: readonly Row<LsmShardStats>[] = [
  ['concordkv_lsm_user_bytes_total', 'Keys and values that were put.', (lsm) => lsm.userBytes],
  ['concordkv_lsm_flushes_total', 'Memtables written.', (lsm) => lsm.flushes],
  ['concordkv_lsm_flushed_bytes_total', 'Bytes they took.', (lsm) => lsm.flushedBytes],
  ['concordkv_lsm_flush_seconds_total', 'Time that took.', (lsm) => lsm.flushMs / 1000],
  ['concordkv_lsm_compactions_total', 'Merges done.', (lsm) => lsm.compactions],
  ['concordkv_lsm_compaction_read_bytes_total', 'Bytes merges read.', (lsm) => lsm.compactionReadBytes],
  ['concordkv_lsm_compaction_written_bytes_total', 'Bytes merges wrote.', (lsm) => lsm.compactionWrittenBytes],
  ['concordkv_lsm_compaction_seconds_total', 'Time merges took.', (lsm) => lsm.compactionMs / 1000],
  ['concordkv_lsm_trivial_moves_total', 'Tables that changed level as they were.', (lsm) => lsm.trivialMoves],
  ['concordkv_lsm_failed_jobs_total', 'Flushes and merges that failed.', (lsm) => lsm.failedJobs],
  ['concordkv_lsm_stalls_total', 'Times in which writes waited for files.', (lsm) => lsm.stalls],
];

const STALL_CAUSES = ['memtables', 'level0', 'debt', 'disk-full'] as const;

const READ_COUNTERS: readonly Row<LsmReadStats>[] = [
  ['concordkv_lsm_filter_checks_total', 'Filters that were asked.', (reads) => reads.filterChecks],
  ['concordkv_lsm_filter_negatives_total', 'Of these: the key is not there.', (reads) => reads.filterNegatives],
  [
    'concordkv_lsm_filter_false_positives_total',
    'Of the others: the key was not there either.',
    (reads) => reads.filterFalsePositives,
  ],
  ['concordkv_lsm_prefix_negatives_total', 'Tables that scans passed over.', (reads) => reads.prefixNegatives],
  ['concordkv_lsm_file_read_bytes_total', 'Bytes read from tables.', (reads) => reads.bytesFromFile],
  ['concordkv_lsm_blob_reads_total', 'Values read from files of long values.', (reads) => reads.blobReads],
  ['concordkv_lsm_cold_reads_total', 'Reads that let their thread go on meanwhile.', (reads) => reads.coldReads],
];

/** Only of stores with files. */
export function renderBlockCache(registry: Registry, { blockCache }: PoolStats): void {
  if (blockCache === undefined) return;
  const registers = [registry];
  for (const [name, help, of] of CACHE_GAUGES) new Gauge({ name, help, registers }).set(of(blockCache));
  for (const [name, help, of] of CACHE_COUNTERS) new Counter({ name, help, registers }).inc(of(blockCache));
}

/** Only of stores with LSM-Trees. */
export function renderLsm(registry: Registry, spaces: readonly SpaceStats[]): void {
  const trees = spaces.flatMap(({ name, lsm }) => (lsm === undefined ? [] : [{ space: name, lsm }]));
  if (trees.length === 0) return;
  const parts = trees.flatMap(({ space, lsm }) =>
    lsm.shards.map((figures) => ({ labels: { space, shard: figures.shard }, figures })),
  );
  const registers = [registry];
  const perSpace = { labelNames: ['space'], registers };
  const perShard = { labelNames: ['space', 'shard'], registers };
  const perKind = { labelNames: ['space', 'shard', 'kind'], registers };
  for (const [name, help, of] of LEVEL_GAUGES) {
    const gauge = new Gauge({ name, help, labelNames: ['space', 'shard', 'level'], registers });
    for (const { labels, figures } of parts) {
      for (const level of figures.levels) gauge.set({ ...labels, level: level.level }, of(level));
    }
  }
  for (const [name, help, of] of GAUGES) {
    const gauge = new Gauge({ name, help, ...perShard });
    for (const { labels, figures } of parts) gauge.set(labels, of(figures));
  }
  for (const [name, help, kinds] of KIND_GAUGES) {
    const gauge = new Gauge({ name, help, ...perKind });
    for (const { labels, figures } of parts) {
      for (const [kind, of] of Object.entries(kinds)) gauge.set({ ...labels, kind }, of(figures));
    }
  }
  for (const [name, help, of] of COUNTERS) {
    const counter = new Counter({ name, help, ...perShard });
    for (const { labels, figures } of parts) counter.inc(labels, of(figures));
  }
  const stalled = new Counter({
    name: 'concordkv_lsm_stall_seconds_total',
    help: 'How long they waited, by what had to catch up.',
    ...perKind,
  });
  for (const { labels, figures } of parts) {
    for (const kind of STALL_CAUSES) stalled.inc({ ...labels, kind }, (figures.stalledMs[kind] ?? 0) / 1000);
  }
  for (const [name, help, of] of READ_COUNTERS) {
    const counter = new Counter({ name, help, ...perSpace });
    for (const { space, lsm } of trees) counter.inc({ space }, of(lsm.reads));
  }
  const blocks = new Counter({
    name: 'concordkv_lsm_blocks_total',
    help: 'Blocks of tables that reads used, by where they were.',
    labelNames: ['space', 'kind'],
    registers,
  });
  for (const { space, lsm } of trees) {
    blocks.inc({ space, kind: 'cache' }, lsm.reads.blocksFromCache);
    blocks.inc({ space, kind: 'file' }, lsm.reads.blocksFromFile);
  }
}
