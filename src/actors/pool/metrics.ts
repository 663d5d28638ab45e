/**
 * Prometheus text of a pool's stats. Names follow Prometheus conventions: concordkv_<what>_<unit>, counters end in _total.
 * Threads: any client.
 */
import { Counter, Gauge, Registry } from 'prom-client';
import type { PoolStats, ShardStats, SpaceStats } from './stats.js';

const POOL_GAUGES: readonly (readonly [name: string, help: string, of: (stats: PoolStats) => number])[] = [
  ['concordkv_entries', 'Live entries.', (stats) => stats.entries],
  ['concordkv_data_bytes', 'Live key and value bytes.', (stats) => stats.dataBytes],
  ['concordkv_disk_bytes', 'Bytes of log and checkpoint files.', (stats) => stats.diskBytes ?? 0],
  ['concordkv_clients', 'Attached threads.', (stats) => stats.clients],
  ['concordkv_snapshots', 'Open snapshots and iterators.', (stats) => stats.openSnapshots],
  ['concordkv_snapshot_oldest_seconds', 'Age of the oldest open snapshot.', (stats) => stats.oldestSnapshotMs / 1000],
  ['concordkv_pending_calls', 'Calls of this thread that are not settled.', (stats) => stats.pendingCalls],
  ['concordkv_queued_calls', 'Calls of this thread that wait for room.', (stats) => stats.queuedCalls],
];

const SHARD_GAUGES: readonly (readonly [name: string, help: string, of: (stats: ShardStats) => number])[] = [
  ['concordkv_shard_up', '1 while the shard takes writes.', (stats) => (stats.state === 'running' ? 1 : 0)],
  ['concordkv_memory_used_bytes', 'Shared memory in use.', (stats) => stats.memory.usedBytes],
  ['concordkv_memory_retired_bytes', 'Of these, waiting for readers.', (stats) => stats.memory.retiredBytes],
  ['concordkv_memory_high_water_bytes', 'Most shared memory ever used.', (stats) => stats.memory.highWaterBytes],
  ['concordkv_memory_capacity_bytes', 'Shared memory reserved.', (stats) => stats.memory.capacityBytes],
  ['concordkv_log_bytes', 'Log a recovery would read.', (stats) => stats.logBytes],
  ['concordkv_tree_height', 'Levels of the default space.', (stats) => stats.tree.height],
  ['concordkv_tree_leaf_pages', 'Leaf pages.', (stats) => stats.tree.leafPages],
  ['concordkv_tree_branch_pages', 'Branch pages.', (stats) => stats.tree.branchPages],
  ['concordkv_tree_overflow_pages', 'Overflow pages.', (stats) => stats.tree.overflowPages],
];

const SHARD_COUNTERS: readonly (readonly [name: string, help: string, of: (stats: ShardStats) => number])[] = [
  ['concordkv_requests_total', 'Requests served.', (stats) => stats.requests],
  ['concordkv_operations_total', 'Operation records applied.', (stats) => stats.operations],
  ['concordkv_groups_total', 'Groups committed.', (stats) => stats.groups],
  ['concordkv_log_syncs_total', 'fdatasync calls on the log.', (stats) => stats.syncs],
  [
    'concordkv_conditions_failed_total',
    'Conditional writes whose condition did not hold.',
    (stats) => stats.conditionsFailed,
  ],
  ['concordkv_write_errors_total', 'Groups that failed.', (stats) => stats.errors],
  ['concordkv_expired_total', 'Entries removed because their time had come.', (stats) => stats.expired],
  ['concordkv_checkpoints_total', 'Checkpoints written.', (stats) => stats.checkpoints],
  ['concordkv_shard_restarts_total', 'Times the shard thread was restarted.', (stats) => stats.restarts],
];

/** Label `space` is empty for the pool's own. */
const SPACE_GAUGES: readonly (readonly [name: string, help: string, of: (stats: SpaceStats) => number])[] = [
  ['concordkv_space_entries', 'Live entries.', (stats) => stats.entries],
  ['concordkv_space_data_bytes', 'Live key and value bytes.', (stats) => stats.dataBytes],
  ['concordkv_space_versions', 'Versions and tombstones kept.', (stats) => stats.cells],
  ['concordkv_space_page_bytes', 'Memory of pages that hold entries.', (stats) => stats.pageBytes],
  ['concordkv_space_overflow_bytes', 'Memory of chains that hold long values.', (stats) => stats.overflowBytes],
];

export function renderMetrics(stats: PoolStats): Promise<string> {
  const registry = new Registry();
  const registers = [registry];
  for (const [name, help, of] of POOL_GAUGES) new Gauge({ name, help, registers }).set(of(stats));
  for (const [name, help, of] of SHARD_GAUGES) {
    const gauge = new Gauge({ name, help, labelNames: ['shard'], registers });
    for (const shard of stats.shards) gauge.set({ shard: shard.shard }, of(shard));
  }
  for (const [name, help, of] of SHARD_COUNTERS) {
    const counter = new Counter({ name, help, labelNames: ['shard'], registers });
    for (const shard of stats.shards) counter.inc({ shard: shard.shard }, of(shard));
  }
  for (const [name, help, of] of SPACE_GAUGES) {
    const gauge = new Gauge({ name, help, labelNames: ['space', 'engine'], registers });
    for (const space of stats.spaces) gauge.set({ space: space.name, engine: space.engine }, of(space));
  }
  return registry.metrics();
}
