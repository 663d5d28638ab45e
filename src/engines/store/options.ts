/** What a shard's store is opened with, and by which its recovery goes. Threads: any; plain data. */
import type { Env } from '../../shared/env/env.js';
import type { ArenaLayout } from '../../shared/memory/arena.js';
import type { LsmJobs } from '../lsm/types.js';
import type { WalRecoveryMode } from '../wal/recovery.js';
import type { SpaceDefinition } from './space.js';

export interface ShardStoreOptions {
  readonly env: Env;
  /** Where WAL and checkpoints live; undefined keeps everything in memory. */
  readonly directory: string | undefined;
  readonly storeId: Uint8Array;
  readonly shard: number;
  readonly arena: ArenaLayout;
  /** The arena holds a published state of a writer that died; take it over instead of loading the checkpoint. */
  readonly adopt?: boolean;
  /** Every space of the store. Default: only the default one, a B+Tree. */
  readonly spaces?: readonly SpaceDefinition[] | undefined;
  readonly segmentBytes?: number;
  /** Log that is kept for change feeds behind what a recovery needs. Default 0. */
  readonly retainBytes?: number | undefined;
  readonly recoveryMode?: WalRecoveryMode;
  /** The shard is being created: there need not be a log yet. */
  readonly isNew?: boolean;
  /** Salvage: the checkpoint is damaged, recover from the log alone. */
  readonly ignoreCheckpoint?: boolean;
  /** Recover into memory, never touch a file. */
  readonly readOnly?: boolean;
  /** Readers of an adopted arena may hold snapshots: the replay keeps the versions they need. */
  readonly snapshots?: OpenSnapshots | undefined;
  /** Who does the jobs of engines that work behind the groups. Default: work() does them itself. */
  readonly jobs?: LsmJobs | undefined;
  /** Token bucket of their I/O (lsm/compaction/rate-limit.ts). */
  readonly rate?: SharedArrayBuffer | undefined;
  /** Of a store without a directory: where change feeds find its last frames (feed/frame-ring.ts). */
  readonly feedRing?: SharedArrayBuffer | undefined;
  /** Of a store without a directory: where what is prepared outlives the thread (prepare-journal.ts). */
  readonly prepareJournal?: SharedArrayBuffer | undefined;
}

/** Numbers of open snapshots, ascending. */
export interface OpenSnapshots {
  readonly sequences: Float64Array<ArrayBuffer>;
  readonly count: number;
}

export const NO_OPEN_SNAPSHOTS: OpenSnapshots = { sequences: new Float64Array(0), count: 0 };
