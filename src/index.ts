/** The public face of ConcordKV: everything a user may import. */
export { ConcordPool, type PoolHandle, type SpaceInfo } from './actors/pool/concord-pool.js';
export type { ChangeFeed } from './actors/feed/change-feed.js';
export type { Change, ChangeTransaction, ClearChange, DelChange, PutChange } from './actors/feed/changes.js';
export type { PoolWatchOptions, WatchOptions } from './actors/feed/watched.js';
export type { ConcordIterator, ConcordSyncIterator } from './actors/pool/iterators.js';
export type {
  AnySpace,
  BatchOperation,
  CompactOptions,
  DelOptions,
  Keyspace,
  PutOptions,
  SpaceBatchOperation,
  TtlOptions,
  WriteOptions,
} from './actors/pool/keyspace.js';
export type {
  MaintenanceOptions,
  PreparedReport,
  Problem,
  RepairReport,
  VerifyReport,
} from './actors/pool/maintenance.js';
export type {
  DurabilityName,
  ExpiryOptions,
  FeedOptions,
  LiveOptions,
  PoolOptions,
  TransactionTuning,
} from './actors/pool/options.js';
export type { IteratorOptions, RangeOptions } from './actors/pool/range.js';
export type { Entry, ReadOptions, Reads, SyncReadOptions } from './actors/pool/reads.js';
export { Snapshot, type AnySnapshot, type SnapshotReads } from './actors/pool/snapshot.js';
export { Space, type SwitchOptions, type SwitchProgressEvent } from './actors/pool/space.js';
export type { SpaceOptions, TuningOptions } from './actors/pool/space-options.js';
export type { BackpressureEvent, HostEvents } from './actors/pool/host.js';
export {
  Transaction,
  type TransactionDelOptions,
  type TransactionPutOptions,
  type TransactionRangeOptions,
  type TransactionReads,
  type TransactionSpace,
} from './actors/transaction/transaction.js';
export type { AwaitedLockInfo, LockInfo, TransactionInfo } from './actors/transaction/listing.js';
export type { TransactionIterator, TransactionSyncIterator } from './actors/transaction/iterator.js';
export type { BeginOptions, IsolationName, TransactionMode, TransactionOptions } from './actors/transaction/options.js';
export type { DeadlockPolicy } from './engines/txn/locks/lock-table.js';
export type { LockModeName } from './engines/txn/locks/mode.js';
export type { LsmTuning } from './engines/lsm/options.js';
export type { BlockVerification, CompactionStyle, CompressionName, WriteFlow } from './engines/lsm/types.js';
export type { RecoveryReport } from './engines/store/recovery.js';
export type { WalCut, WalLoss, WalRecovery, WalRecoveryMode, WalSegmentInfo } from './engines/wal/recovery.js';
export type {
  CheckpointMessage,
  LsmJobMessage,
  OperationContext,
  ShardMessage,
  SwitchMessage,
  TracedOperation,
} from './actors/metrics/tracing.js';
export type { MetricsOptions } from './actors/pool/metrics.js';
export type { LsmReport } from './actors/metrics/shard-meter.js';
export type { LsmReadStats, LsmShardStats, LsmStats } from './actors/pool/lsm-stats.js';
export type { StallCause, StallFigures } from './actors/shard/write-gate.js';
export type { LevelFigures, LsmFigures } from './engines/lsm/figures.js';
export type {
  BlockCacheStats,
  LatencyStats,
  OperationLatencies,
  OperationStats,
  PoolStats,
  ShardStats,
  SpaceStats,
  TransactionStats,
} from './actors/pool/stats.js';
export {
  engineNames,
  registerEngine,
  type BuiltInEngine,
  type Engine,
  type EngineBackground,
  type EngineCounts,
  type EngineCursor,
  type EngineEntry,
  type EngineMetrics,
  type EngineReader,
  type EngineWriter,
  type RemoveRangeResult,
  type SweepState,
  type VersionVisit,
} from './engines/engine.js';
export type { TreeRowSource } from './engines/btree/meta.js';
export type { OverflowChain } from './engines/btree/overflow.js';
export {
  createEngine,
  type RawRange,
  type StandaloneEngine,
  type StandaloneOptions,
  type WriteExpiry,
} from './engines/standalone.js';
export { loadConfig, type LoadConfigOptions, type LoadedConfig } from './config/load.js';
export type { Config, ConfigInput } from './config/schema.js';
export type { ConfigError, ConfigProblem, Origin } from './config/check.js';
export { MAX_BATCH_BYTES, MAX_VALUE_BYTES } from './engines/operation.js';
export { MAX_KEY_BYTES, type KeyEncodingName } from './shared/codec/key-encoding.js';
export { type Tuple, type TupleElement } from './shared/codec/tuple.js';
export type { CustomValueEncoding, ValueEncodingName } from './shared/codec/value-encoding.js';
export type {
  ArenaLayout,
  ArenaReader,
  ArenaStats,
  ArenaWalk,
  ArenaWriter,
  LongPin,
  UnitId,
} from './shared/memory/arena.js';
export {
  ConcordError,
  ERROR_TABLE,
  type DetailValue,
  type ErrorCode,
  type ErrorDetails,
  type ErrorRecord,
} from './shared/errors.js';
