/** The public face of ConcordKV: everything a user may import. */
export {
  ConcordPool,
  type BatchOperation,
  type DelOptions,
  type PoolHandle,
  type PutOptions,
  type WriteOptions,
} from './actors/pool/concord-pool.js';
export type { ConcordIterator, ConcordSyncIterator } from './actors/pool/iterators.js';
export type { Problem, RepairReport, VerifyReport } from './actors/pool/maintenance.js';
export type { DurabilityName, PoolOptions } from './actors/pool/options.js';
export type { IteratorOptions, RangeOptions } from './actors/pool/range.js';
export type { Entry, ReadOptions } from './actors/pool/reads.js';
export { Snapshot } from './actors/pool/snapshot.js';
export type { PoolStats, ShardStats } from './actors/pool/stats.js';
export { MAX_BATCH_BYTES, MAX_VALUE_BYTES } from './engines/operation.js';
export { MAX_KEY_BYTES, type KeyEncodingName } from './shared/codec/key-encoding.js';
export { type TupleElement } from './shared/codec/tuple.js';
export type { CustomValueEncoding, ValueEncodingName } from './shared/codec/value-encoding.js';
export { ConcordError, ERROR_TABLE, type ErrorCode, type ErrorDetails } from './shared/errors.js';
