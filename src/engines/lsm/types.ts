/**
 * What the parts of the LSM-Tree tell each other: plain data that travels between threads, and the ports through which the writer reaches the rest.
 *
 *   writer (shard's thread)  memtables · manifest · version in shared memory · picks and orders jobs
 *     └─ LsmJobs ──▶ jobs (pool workers)   frozen memtable or tables in, tables and blob files out; they never touch manifest or shared memory
 *   readers (any thread)     state page → memtables → version → table metadata → block cache → files
 *
 * Order. The versions of a key lie newest first along: active memtable, frozen ones (newest first), runs of level 0 by descending `run`, level 1, 2, …
 * A run is a list of tables whose keys do not overlap. So whoever finds a version ≤ its number on the way has found the newest one.
 *
 * Numbers of files (u32, ≥ 1) are given by the manifest, to tables and blob files alike, and never twice in one tree. Keys are bytes in memcmp order,
 * 0 … 4,096 of them. Sequence numbers and times (ms since the epoch, 0: none) are below 2^48, sizes below 2^53.
 */
import type { ErrorRecord } from '../../shared/errors.js';
import type { ArenaLayout } from '../../shared/memory/arena.js';

/** Level 0 … 6. */
export const LSM_LEVELS = 7;

/** On disk, in block trailers: never renumber, never reuse. */
export const CompressionCode = { none: 0, lz4: 1, zstd: 2 } as const;
export type CompressionName = keyof typeof CompressionCode;

/** Whose files these are: in every header and the seed of every checksum, so that a file of another tree is never taken for one of this. */
export interface LsmIdentity {
  readonly storeId: Uint8Array;
  readonly shard: number;
  /** Number of the tree within the shard: its directory is lsm-<tree>. */
  readonly tree: number;
}

/** A table as the manifest knows it; the table's own properties say the same. */
export interface TableInfo {
  readonly number: number;
  readonly level: number;
  /** Level 0: place among the runs, higher is newer; tables of one run share it. Other levels: 0. */
  readonly run: number;
  /** Size of the file. */
  readonly bytes: number;
  /** All versions, tombstones among them. */
  readonly entries: number;
  /** Different ones; the other entries are hidden by a newer version, and were kept for a snapshot. 0: unknown, told by a manifest of format 1. */
  readonly keys: number;
  readonly tombstones: number;
  /** Of keys and values as they were put (values in blob files included). */
  readonly rawBytes: number;
  readonly smallestKey: Uint8Array;
  readonly largestKey: Uint8Array;
  readonly smallestSeq: number;
  readonly largestSeq: number;
  /** Entries with an expiry, and the first and last of those times (0 if there are none). */
  readonly expiring: number;
  readonly firstExpiry: number;
  readonly lastExpiry: number;
  /** Bytes of records that entries of this table refer to, by blob file. */
  readonly blobs: readonly BlobUse[];
  /** When the oldest of its data was flushed, ms since the epoch. */
  readonly createdAt: number;
}

export interface BlobUse {
  readonly file: number;
  readonly bytes: number;
}

/** A finished blob file. Never changes. */
export interface BlobFileInfo {
  readonly number: number;
  /** Size of the file. */
  readonly bytes: number;
  readonly records: number;
  /** Of the records: what BlobUse counts against. */
  readonly recordBytes: number;
  readonly createdAt: number;
}

/** Where a value lies in a blob file. */
export interface BlobReference {
  readonly file: number;
  readonly offset: number;
  /** Of the whole record in the file. */
  readonly recordBytes: number;
  readonly valueBytes: number;
}

/**
 * Deletes every version below `seq` of the keys in [low, high); undefined: open. Not kept in tables: the active list stands in the state page and, when the
 * memtable of its time is flushed, in the manifest, until no table or memtable holds anything older in the range. Each covers many keys: small ranges
 * are deleted key by key.
 */
export interface RangeTombstone {
  readonly seq: number;
  readonly low: Uint8Array | undefined;
  readonly high: Uint8Array | undefined;
}

/** How tables are written. */
export interface TableOptions {
  /** Of a data block before compression; a larger entry has a block of its own. */
  readonly blockBytes: number;
  readonly restartInterval: number;
  readonly compression: CompressionName;
  /** Of the filter; 0: no filter. */
  readonly bitsPerKey: number;
  /** Keys' first bytes that go into the prefix filter; 0: none. */
  readonly prefixFilterBytes: number;
}

export type CompactionStyle = 'leveled' | 'tiered' | 'fifo';

/** When a synchronous point read checks a block that it reads from its file: each time, or the first time since the store was opened. */
export type BlockVerification = 'always' | 'once';

/** Options of a tree with everything decided: see resolveLsmOptions(). */
export interface LsmOptions {
  readonly style: CompactionStyle;
  /** Size at which the active memtable is frozen. */
  readonly memtableBytes: number;
  /** Frozen memtables that wait for their flush, at most: then writes stop. */
  readonly frozenMax: number;
  /** By level. */
  readonly tables: readonly TableOptions[];
  readonly verifyBlocks: BlockVerification;
  /** Size at which a job begins another table. */
  readonly tableBytes: number;
  /** Runs of level 0 that make it due. */
  readonly level0Runs: number;
  readonly slowdownRuns: number;
  readonly stopRuns: number;
  /** Pending compaction debt at which writes are slowed, and stopped. */
  readonly slowdownDebtBytes: number;
  readonly stopDebtBytes: number;
  /** Leveled: the target of the first level below 0 that is used, and how many times larger each next one is. */
  readonly levelBytes: number;
  readonly levelFactor: number;
  /** Tiered: runs of like size that are merged, and how much larger all younger runs together may be than the oldest, in percent. */
  readonly tieredRunsMin: number;
  readonly tieredSpacePercent: number;
  /** Fifo: the oldest tables go beyond this size, or when they are this old (0: never). */
  readonly fifoBytes: number;
  readonly fifoTtlMs: number;
  /** Values from this size on go to blob files; Infinity: none. */
  readonly blobValueBytes: number;
  readonly blobFileBytes: number;
  /** Share of a blob file that nothing refers to, at which it is collected. */
  readonly blobGarbage: number;
}

/** Writes the frozen memtable as tables of level 0. */
export interface FlushTask {
  readonly kind: 'flush';
  readonly directory: string;
  readonly identity: LsmIdentity;
  /** Of the memtable; the shard keeps it until the job ended. The host adds the layout. */
  readonly descriptor: number;
  readonly arena: ArenaLayout | undefined;
  readonly run: number;
  /** First of the numbers of files the job may use, and how many. */
  readonly firstFile: number;
  readonly files: number;
  readonly options: TableOptions;
  readonly tableBytes: number;
  readonly blobValueBytes: number;
  readonly blobFileBytes: number;
  /** Open snapshots, ascending: versions that none of them needs are left out. The published number is always among what is needed. */
  readonly snapshots: readonly number[];
  readonly tombstones: readonly RangeTombstone[];
  readonly nowMs: number;
  /** Nothing older lies below: tombstones and expired entries that no snapshot needs may go at once. */
  readonly isBottom: boolean;
  /** Word 0 not 0: stop. */
  readonly cancel: Int32Array;
  /** Shared token bucket for background I/O (compaction/rate-limit.ts). */
  readonly rate: SharedArrayBuffer | undefined;
}

/** Merges tables, within a range of keys, into tables of one level. */
export interface CompactionTask {
  readonly kind: 'compact';
  readonly directory: string;
  readonly identity: LsmIdentity;
  /** Runs newest first; each a list of tables in key order. */
  readonly inputs: readonly (readonly TableInfo[])[];
  /** Only keys in [low, high): a sub-compaction. */
  readonly low: Uint8Array | undefined;
  readonly high: Uint8Array | undefined;
  readonly outputLevel: number;
  readonly outputRun: number;
  /** Ranges of keys that something older than the inputs holds: outside of them tombstones and the like need not be kept. In key order. */
  readonly olderRanges: readonly (readonly [smallest: Uint8Array, largest: Uint8Array])[];
  /** Bounds of the next level's tables, ascending: outputs are cut so that none overlaps too many of them. */
  readonly grandparents: readonly TableInfo[];
  readonly firstFile: number;
  readonly files: number;
  readonly options: TableOptions;
  readonly tableBytes: number;
  readonly blobValueBytes: number;
  readonly blobFileBytes: number;
  /** Blob files whose values are written anew. */
  readonly collectBlobs: readonly number[];
  readonly snapshots: readonly number[];
  readonly tombstones: readonly RangeTombstone[];
  readonly nowMs: number;
  readonly cancel: Int32Array;
  readonly rate: SharedArrayBuffer | undefined;
}

export type LsmTask = FlushTask | CompactionTask;

export interface LsmJobResult {
  /** In key order, written and synced; their directory entries too. */
  readonly tables: readonly TableInfo[];
  readonly blobs: readonly BlobFileInfo[];
  readonly readBytes: number;
  readonly writtenBytes: number;
  readonly entriesIn: number;
  readonly entriesOut: number;
  readonly durationMs: number;
}

export type LsmOutcome = { readonly value: LsmJobResult } | { readonly error: ErrorRecord };

/** Where the writer sends its jobs: the background pool, or in tests the same thread. */
export interface LsmJobs {
  /**
   * Starts the task soon. `done` is called in the shard's thread, never from within start(), once, unless the shard ends before; it may
   * come with an error when a worker died. Higher priority first among those that wait.
   */
  start(task: LsmTask, priority: number, done: (outcome: LsmOutcome) => void): void;
  /** Tasks that may run at the same time: sub-compactions beyond it wait. */
  readonly parallelism: number;
}

/** How fast a tree takes writes. */
export interface WriteFlow {
  readonly state: 'free' | 'slowed' | 'stopped';
  /** Bytes per second while slowed; Infinity when free, 0 when stopped. */
  readonly bytesPerSecond: number;
  /** What it is for: memtables, level0, debt; empty when free. */
  readonly cause: '' | 'memtables' | 'level0' | 'debt' | 'disk-full';
}
