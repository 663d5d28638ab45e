/**
 * Prometheus text of a pool. Names follow Prometheus conventions: concordkv_<what>_<unit>, counters end in _total, times are in seconds.
 * docs/metrics.md lists them. Labels: shard; space (empty: the pool's own) and engine; kind. Those of LSM-Trees are in lsm-metrics.ts.
 * Threads: any client.
 */
import { Counter, Gauge, Histogram as PrometheusHistogram, Registry } from 'prom-client';
import { invalidArgument } from '../../shared/errors.js';
import { CoordinatorHistogram, ShardHistogram, UsageTotals } from '../metrics/board.js';
import { HISTOGRAM_LENGTH, Histogram } from '../metrics/histogram.js';
import { renderBlockCache, renderLsm } from './lsm-metrics.js';
import type { SpaceSource } from './source.js';
import {
  collectStats,
  statsBasis,
  type CoordinatorStats,
  type PoolStats,
  type ShardStats,
  type SpaceStats,
  type TransactionStats,
} from './stats.js';
import { transactionTotals } from '../transaction/board.js';

export interface MetricsOptions {
  /** Without it no line names a space: for stores of many. Default true. */
  readonly spaces?: boolean | undefined;
}

type Row<T> = readonly [name: string, help: string, of: (stats: T) => number];

const POOL_GAUGES: readonly Row<PoolStats>[] = [
  ['concordkv_entries', 'Live entries.', (stats) => stats.entries],
  ['concordkv_data_bytes', 'Live key and value bytes.', (stats) => stats.dataBytes],
  ['concordkv_disk_bytes', 'Bytes of log and checkpoint files.', (stats) => stats.diskBytes ?? 0],
  ['concordkv_clients', 'Attached threads.', (stats) => stats.clients],
  ['concordkv_snapshots', 'Open snapshots and iterators.', (stats) => stats.openSnapshots],
  ['concordkv_snapshot_oldest_seconds', 'Age of the oldest open snapshot.', (stats) => stats.oldestSnapshotMs / 1000],
  ['concordkv_pending_calls', 'Calls of this thread that are not settled.', (stats) => stats.pendingCalls],
  ['concordkv_queued_calls', 'Calls of this thread that wait for room.', (stats) => stats.queuedCalls],
];

const SHARD_GAUGES: readonly Row<ShardStats>[] = [
  ['concordkv_shard_up', '1 while the shard takes writes.', (stats) => (stats.state === 'running' ? 1 : 0)],
  ['concordkv_shard_pending_requests', 'Calls of all threads that are not settled.', (stats) => stats.pendingRequests],
  ['concordkv_memory_used_bytes', 'Shared memory in use.', (stats) => stats.memory.usedBytes],
  ['concordkv_memory_retired_bytes', 'Of these, waiting for readers.', (stats) => stats.memory.retiredBytes],
  ['concordkv_memory_high_water_bytes', 'Most shared memory ever used.', (stats) => stats.memory.highWaterBytes],
  ['concordkv_memory_capacity_bytes', 'Shared memory reserved.', (stats) => stats.memory.capacityBytes],
  ['concordkv_log_bytes', 'Log a recovery would read.', (stats) => stats.logBytes],
  ['concordkv_log_retained_bytes', 'Log kept for change feeds behind that.', (stats) => stats.retainedLogBytes],
  ['concordkv_locks_held', 'Locks of keys and ranges that are held.', ({ locks }) => locks.held],
  ['concordkv_locks_awaited', 'Locks that transactions wait for.', ({ locks }) => locks.awaited],
  ['concordkv_writes_set_aside', 'Writes and commits that wait for locks.', ({ locks }) => locks.setAside],
  [
    'concordkv_transactions_prepared',
    'Transactions voted for, whose outcome is not applied.',
    ({ transactions }) => transactions.prepared,
  ],
  [
    'concordkv_transactions_in_doubt',
    'Of these: found in the log of a predecessor.',
    ({ transactions }) => transactions.inDoubt,
  ],
  ['concordkv_tree_height', 'Levels of the default space.', (stats) => stats.tree.height],
  ['concordkv_tree_leaf_pages', 'Leaf pages.', (stats) => stats.tree.leafPages],
  ['concordkv_tree_branch_pages', 'Branch pages.', (stats) => stats.tree.branchPages],
  ['concordkv_tree_overflow_pages', 'Overflow pages.', (stats) => stats.tree.overflowPages],
];

const SHARD_COUNTERS: readonly Row<ShardStats>[] = [
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
  ['concordkv_lock_waits_total', 'Requests that waited for a lock.', ({ locks }) => locks.waits],
  ['concordkv_lock_timeouts_total', 'Of these, those that waited too long.', ({ locks }) => locks.timeouts],
  [
    'concordkv_transaction_conflicts_total',
    'Commits, votes and locks refused because of what others had written or locked.',
    ({ transactions }) => transactions.conflicts,
  ],
  ['concordkv_shard_restarts_total', 'Times the shard thread was restarted.', (stats) => stats.restarts],
];

const COORDINATOR_GAUGES: readonly Row<CoordinatorStats>[] = [
  ['concordkv_coordinator_log_bytes', 'Log of decisions.', (stats) => stats.logBytes],
  ['concordkv_coordinator_known_transactions', 'Transactions the coordinator keeps in mind.', (stats) => stats.known],
  ['concordkv_coordinator_lock_waits', 'Waits for locks it knows of.', (stats) => stats.lockWaits],
];

const COORDINATOR_COUNTERS: readonly Row<CoordinatorStats>[] = [
  ['concordkv_coordinator_decisions_total', 'Transactions decided to be committed.', (stats) => stats.decisions],
  ['concordkv_coordinator_aborts_total', 'Transactions refused or given up.', (stats) => stats.aborts],
  ['concordkv_coordinator_fences_total', 'Of these: nothing was heard of them.', (stats) => stats.fences],
  ['concordkv_coordinator_frames_total', 'Frames of decisions in its log.', (stats) => stats.frames],
  ['concordkv_coordinator_syncs_total', 'fdatasync calls on its log.', (stats) => stats.syncs],
  ['concordkv_coordinator_deadlocks_total', 'Waits ended because they were a circle.', (stats) => stats.deadlocks],
  ['concordkv_coordinator_wakeups_total', 'Times its thread was woken.', (stats) => stats.wakeups],
  ['concordkv_coordinator_restarts_total', 'Times its thread was restarted.', (stats) => stats.restarts],
];

const SPACE_GAUGES: readonly Row<SpaceStats>[] = [
  ['concordkv_space_entries', 'Live entries.', (stats) => stats.entries],
  ['concordkv_space_data_bytes', 'Live key and value bytes.', (stats) => stats.dataBytes],
  ['concordkv_space_key_bytes', 'Live key bytes.', (stats) => stats.keyBytes],
  ['concordkv_space_value_bytes', 'Live value bytes.', (stats) => stats.valueBytes],
  ['concordkv_space_versions', 'Versions and tombstones kept.', (stats) => stats.cells],
  ['concordkv_space_page_bytes', 'Memory of pages that hold entries.', (stats) => stats.pageBytes],
  ['concordkv_space_overflow_bytes', 'Memory of chains that hold long values.', (stats) => stats.overflowBytes],
];

const SPACE_COUNTERS: readonly Row<SpaceStats>[] = [
  ['concordkv_space_scanned_entries_total', 'Entries that scans met.', ({ operations }) => operations.scannedEntries],
  [
    'concordkv_space_conflicts_total',
    'Conditional writes whose condition did not hold.',
    ({ operations }) => operations.conflicts,
  ],
  [
    'concordkv_space_write_failures_total',
    'Writes a shard refused or did not answer.',
    ({ operations }) => operations.failures,
  ],
  [
    'concordkv_space_read_retries_total',
    'Reads that began again with a newer publication.',
    ({ operations }) => operations.readRetries,
  ],
  [
    'concordkv_space_view_renewals_total',
    'Reads that began again with another engine.',
    ({ operations }) => operations.viewRenewals,
  ],
  ['concordkv_space_latch_waits_total', 'Reads that waited for a writer.', ({ operations }) => operations.latchWaits],
  ['concordkv_space_latch_wait_seconds_total', 'Time they waited.', ({ operations }) => operations.latchWaitUs / 1e6],
];

/** Labelled by kind. */
const OPERATION_KINDS: Readonly<Record<string, (stats: SpaceStats) => number>> = {
  get: ({ operations }) => operations.gets,
  scan: ({ operations }) => operations.scans,
  put: ({ operations }) => operations.puts,
  del: ({ operations }) => operations.deletes,
  batch: ({ operations }) => operations.batches,
  clear: ({ operations }) => operations.clears,
};
const GET_KINDS: Readonly<Record<string, (stats: SpaceStats) => number>> = {
  hit: ({ operations }) => operations.hits,
  miss: ({ operations }) => operations.misses,
};

const NS_PER_SECOND = 1e9;
/** Of durations, seconds. */
const SECONDS_BOUNDS = [
  1e-6, 2.5e-6, 5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.1, 1, 10,
];
/** Of counts of records. */
const RECORDS_BOUNDS = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024];

/** Labelled by kind. */
const TRANSACTION_OUTCOMES: Readonly<Record<string, (stats: TransactionStats) => number>> = {
  committed: (stats) => stats.committed,
  rolled_back: (stats) => stats.rolledBack,
  conflict: (stats) => stats.conflicts,
  deadlock: (stats) => stats.deadlocks,
  lock_timeout: (stats) => stats.lockTimeouts,
  timeout: (stats) => stats.timeouts,
  other_failure: (stats) => stats.otherFailures,
};
const COMMIT_KINDS: Readonly<Record<string, (stats: TransactionStats) => number>> = {
  silent: (stats) => stats.silent,
  one_shard: (stats) => stats.oneShard,
  many_shards: (stats) => stats.manyShards,
};

type Labels = Readonly<Record<string, string | number>>;

type HistogramText = Awaited<ReturnType<PrometheusHistogram['get']>>;

/** A Prometheus histogram of values that were counted elsewhere. */
class FilledHistogram extends PrometheusHistogram {
  readonly #name: string;
  readonly #help: string;
  readonly #bounds: readonly number[];
  readonly #unit: number;
  readonly #values: { labels: Labels; value: number; metricName: string }[] = [];

  /** `unit`: what one of the bounds is, in what was counted. */
  constructor(registry: Registry, name: string, help: string, bounds: readonly number[], unit: number) {
    super({ name, help, buckets: [...bounds], registers: [registry] });
    this.#name = name;
    this.#help = help;
    this.#bounds = bounds;
    this.#unit = unit;
  }

  fill(labels: Labels, from: Histogram): void {
    const name = this.#name;
    const { count } = from;
    const counts = from.cumulative(this.#bounds.map((bound) => bound * this.#unit));
    for (const [index, bound] of this.#bounds.entries()) {
      this.#values.push({ labels: { ...labels, le: bound }, value: counts[index]!, metricName: `${name}_bucket` });
    }
    this.#values.push({ labels: { ...labels, le: '+Inf' }, value: count, metricName: `${name}_bucket` });
    this.#values.push({ labels, value: from.sum / this.#unit, metricName: `${name}_sum` });
    this.#values.push({ labels, value: count, metricName: `${name}_count` });
  }

  override get(): Promise<HistogramText> {
    return Promise.resolve({
      name: this.#name,
      help: this.#help,
      // Declared as an enum, which there is none of at run time.
      type: 'histogram' as unknown as HistogramText['type'],
      values: this.#values,
      aggregator: 'sum',
      collect: () => undefined,
    });
  }

  /** What the registry asks for instead of get(). */
  getForPromString(): Promise<HistogramText> {
    return this.get();
  }
}

/** @throws ERR_INVALID_ARG */
export async function renderMetrics(
  source: SpaceSource,
  diskBytes: number | undefined,
  options: MetricsOptions = {},
): Promise<string> {
  if (typeof options !== 'object' || options === null) throw invalidArgument('options must be an object');
  const { spaces: withSpaces = true } = options;
  if (typeof withSpaces !== 'boolean') throw invalidArgument('spaces must be true or false');
  const basis = statsBasis(source);
  const stats = collectStats(source, true, diskBytes, basis);
  const registry = new Registry();
  const registers = [registry];
  for (const [name, help, of] of POOL_GAUGES) new Gauge({ name, help, registers }).set(of(stats));

  const perShard = { labelNames: ['shard'], registers };
  for (const [name, help, of] of SHARD_GAUGES) {
    const gauge = new Gauge({ name, help, ...perShard });
    for (const shard of stats.shards) gauge.set({ shard: shard.shard }, of(shard));
  }
  for (const [name, help, of] of SHARD_COUNTERS) {
    const counter = new Counter({ name, help, ...perShard });
    for (const shard of stats.shards) counter.inc({ shard: shard.shard }, of(shard));
  }
  renderGroups(source, registry);
  renderBlockCache(registry, stats);
  renderTransactions(source, stats, registry);
  if (withSpaces) renderSpaces(source, stats, basis.usage, registry);
  else {
    const all = basis.usage.get(undefined)!;
    renderLatencies(registry, [{ labels: {}, usage: all }]);
  }
  return await registry.metrics();
}

function renderGroups(source: SpaceSource, registry: Registry): void {
  const { board, shards } = source.client.control;
  const seconds = (name: string, help: string): FilledHistogram =>
    new FilledHistogram(registry, name, help, SECONDS_BOUNDS, NS_PER_SECOND);
  const records = new FilledHistogram(
    registry,
    'concordkv_group_records',
    'Operation records per group.',
    RECORDS_BOUNDS,
    1,
  );
  const parts = seconds('concordkv_group_duration_seconds', 'Time of groups, by its part: log, sync, apply, answer.');
  const checkpoints = seconds('concordkv_checkpoint_duration_seconds', 'Time of checkpoints.');
  const lockWaits = seconds('concordkv_lock_wait_seconds', 'Time of waits for locks, granted or not.');
  const votes = seconds(
    'concordkv_vote_to_outcome_seconds',
    'Time from the vote of the shard until the outcome shows.',
  );
  for (let shard = 0; shard < shards; shard++) {
    const counts = board.shardHistograms(shard);
    const histogram = (which: number): Histogram => new Histogram(counts, which * HISTOGRAM_LENGTH);
    records.fill({ shard }, histogram(ShardHistogram.GroupRecords));
    parts.fill({ shard, kind: 'log' }, histogram(ShardHistogram.Log));
    parts.fill({ shard, kind: 'sync' }, histogram(ShardHistogram.Sync));
    parts.fill({ shard, kind: 'apply' }, histogram(ShardHistogram.Apply));
    parts.fill({ shard, kind: 'answer' }, histogram(ShardHistogram.Answer));
    checkpoints.fill({ shard }, histogram(ShardHistogram.Checkpoint));
    lockWaits.fill({ shard }, histogram(ShardHistogram.LockWait));
    votes.fill({ shard }, histogram(ShardHistogram.Prepared));
  }
}

function renderTransactions({ core, client }: SpaceSource, all: PoolStats, registry: Registry): void {
  const { transactions: stats, coordinator } = all;
  const registers = [registry];
  const name = 'concordkv_transaction';
  const gauge = (what: string, help: string, value: number): void => {
    new Gauge({ name: `${name}s_${what}`, help, registers }).set(value);
  };
  gauge('open', 'Open transactions of all threads.', stats.open);
  gauge('waiting', 'Transactions that wait for a place.', stats.waiting);
  new Counter({ name: `${name}s_begun_total`, help: 'Transactions begun.', registers }).inc(stats.begun);
  new Counter({ name: `${name}_retries_total`, help: 'Attempts after the first.', registers }).inc(stats.retries);
  const perKind = { labelNames: ['kind'], registers };
  const ends = new Counter({ name: `${name}_attempts_total`, help: 'Attempts that ended, by how.', ...perKind });
  for (const [kind, of] of Object.entries(TRANSACTION_OUTCOMES)) ends.inc({ kind }, of(stats));
  const commits = new Counter({ name: `${name}_commits_total`, help: 'Commits asked for, by shards.', ...perKind });
  for (const [kind, of] of Object.entries(COMMIT_KINDS)) commits.inc({ kind }, of(stats));
  const help = 'Time of transactions that were committed.';
  const durations = new FilledHistogram(registry, `${name}_duration_seconds`, help, SECONDS_BOUNDS, NS_PER_SECOND);
  const totals = transactionTotals(core.settings.transactionBoard);
  durations.fill({}, totals.durations);

  for (const [row, rowHelp, of] of COORDINATOR_GAUGES)
    new Gauge({ name: row, help: rowHelp, registers }).set(of(coordinator));
  for (const [row, rowHelp, of] of COORDINATOR_COUNTERS)
    new Counter({ name: row, help: rowHelp, registers }).inc(of(coordinator));
  const { board } = client.control;
  const phases = new FilledHistogram(
    registry,
    `${name}_phase_duration_seconds`,
    'Time of commits in several shards, by phase: votes, decision, apply.',
    SECONDS_BOUNDS,
    NS_PER_SECOND,
  );
  const times = board.coordinatorHistograms();
  phases.fill({ kind: 'votes' }, totals.votes);
  phases.fill({ kind: 'decision' }, new Histogram(times, CoordinatorHistogram.Decision * HISTOGRAM_LENGTH));
  phases.fill({ kind: 'apply' }, new Histogram(times, CoordinatorHistogram.Apply * HISTOGRAM_LENGTH));
}

function renderLatencies(registry: Registry, of: readonly { labels: Labels; usage: UsageTotals }[]): void {
  const seconds = (name: string, help: string): FilledHistogram =>
    new FilledHistogram(registry, name, help, SECONDS_BOUNDS, NS_PER_SECOND);
  const reads = seconds('concordkv_read_duration_seconds', 'Time of point reads, one of 64.');
  const writes = seconds('concordkv_write_duration_seconds', 'Time of writes until their promises settle.');
  const chunks = seconds('concordkv_scan_chunk_duration_seconds', 'Time of chunks of scans.');
  for (const { labels, usage } of of) {
    reads.fill(labels, usage.reads);
    writes.fill(labels, usage.writes);
    chunks.fill(labels, usage.scans);
  }
}

function renderSpaces(
  { core }: SpaceSource,
  { spaces }: PoolStats,
  usage: ReadonlyMap<number | undefined, UsageTotals>,
  registry: Registry,
): void {
  const registers = [registry];
  const perSpace = { labelNames: ['space', 'engine'], registers };
  const perKind = { labelNames: ['space', 'engine', 'kind'], registers };
  const labelsOf = ({ name, engine }: SpaceStats): { space: string; engine: string } => ({ space: name, engine });
  for (const [name, help, of] of SPACE_GAUGES) {
    const gauge = new Gauge({ name, help, ...perSpace });
    for (const space of spaces) gauge.set(labelsOf(space), of(space));
  }
  for (const [name, help, of] of SPACE_COUNTERS) {
    const counter = new Counter({ name, help, ...perSpace });
    for (const space of spaces) counter.inc(labelsOf(space), of(space));
  }
  const operations = new Counter({
    name: 'concordkv_space_operations_total',
    help: 'Operations asked for, by kind.',
    ...perKind,
  });
  const gets = new Counter({ name: 'concordkv_space_gets_total', help: 'Point reads, by what they met.', ...perKind });
  const memory = new Gauge({
    name: 'concordkv_engine_memory_bytes',
    help: 'Memory of the engine, by kind.',
    ...perKind,
  });
  const engine = new Gauge({
    name: 'concordkv_engine_metric',
    help: 'What the engine counts; names and meanings are its own.',
    ...perKind,
  });
  for (const space of spaces) {
    const labels = labelsOf(space);
    for (const [kind, of] of Object.entries(OPERATION_KINDS)) operations.inc({ ...labels, kind }, of(space));
    for (const [kind, of] of Object.entries(GET_KINDS)) gets.inc({ ...labels, kind }, of(space));
    for (const [name, bytes] of Object.entries(space.memory)) {
      memory.set({ ...labels, kind: snakeCase(name.replace(/Bytes$/, '')) }, bytes);
    }
    for (const [name, value] of Object.entries(space.engineMetrics))
      engine.set({ ...labels, kind: snakeCase(name) }, value);
  }
  renderLsm(registry, spaces);
  renderLatencies(
    registry,
    spaces.map((space) => ({
      labels: labelsOf(space),
      usage: usage.get(idOf(core.registry, space.name)) ?? new UsageTotals(),
    })),
  );
}

function idOf(registry: SpaceSource['core']['registry'], name: string): number {
  return registry.named(name)?.id ?? -1;
}

function snakeCase(name: string): string {
  return name
    .replace('KiB', 'Kib')
    .replace(/(?<=[a-z\d])[A-Z]/g, (letter) => `_${letter}`)
    .toLowerCase();
}
