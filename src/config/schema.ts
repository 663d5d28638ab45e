/**
 * The one schema of configuration: every key of a config file, its type, bounds, default, description, and how it may be given and changed.
 *
 *   section    keys of                                              environment           command line
 *   store      a store: the options of ConcordPool.open a file can hold   CONCORDKV_<KEY>       own flags, --set store.<key>=
 *   http       concordkv serve                                      CONCORDKV_HTTP_<KEY>  own flags, --set http.<key>=
 *   log        concordkv serve                                      CONCORDKV_LOG_<KEY>   own flags, --set log.<key>=
 *
 * Whatever else knows keys is derived from here: pool options, flags, environment variables, JSON schema, the file `config init` writes, and the
 * table in docs/configuration.md. Must hold: a key's name ends in its unit (Bytes, Ms), and what changes live is said here and nowhere else.
 * Threads: any.
 */
import { availableParallelism } from 'node:os';
import { z } from 'zod';
import type { BuiltInEngine } from '../engines/engine.js';
import type { BlockVerification, CompactionStyle, CompressionName } from '../engines/lsm/types.js';
import type { WalRecoveryMode } from '../engines/wal/recovery.js';
import type { KeyEncodingName } from '../shared/codec/key-encoding.js';
import type { ValueEncodingName } from '../shared/codec/value-encoding.js';

/** How text becomes a value; bytes and ms take units in text ("128MiB", "5s") and are plain numbers in code. */
export type KeyKind = 'bytes' | 'ms' | 'integer' | 'boolean' | 'text' | 'list';

/**
 * When a new value counts. live: at once, in an open store or running server. restart: at the next open or start. creation: only for what is created
 * with it; a store that exists keeps its own.
 */
export type ChangeTime = 'live' | 'restart' | 'creation';

/** Continues a sentence. */
export const CHANGE_TEXT: Readonly<Record<ChangeTime, string>> = {
  live: 'at once, while the store is open',
  restart: 'with the next open or start',
  creation: 'only for what is created with it',
};

export interface KeyFacts {
  readonly kind: KeyKind;
  /** Begins in lower case, ends without a full stop. */
  readonly description: string;
  readonly changes: ChangeTime;
  /** A flag of its own on the command line; every key can be given by --set. */
  readonly flag?: string;
  /** What it is when nobody gives it: for keys without a default in the schema, or with one that depends on the machine. */
  readonly unset?: string;
  /** Words to propose for a value that is none of them. */
  readonly words?: readonly string[];
  /** Never printed, neither in errors. */
  readonly isSecret?: boolean;
  /** A path, or a list of them: relative ones in a file count from the directory of the file. */
  readonly isPath?: boolean;
}

/** What each key's schema says about itself. */
export const keyFacts = z.registry<KeyFacts>();

function key<T extends z.ZodType>(schema: T, facts: KeyFacts): T {
  keyFacts.add(schema, facts);
  return schema;
}

const KiB = 1024;
const MiB = 1024 * KiB;
const GiB = 1024 * MiB;
/** Timers of the runtime count in 31 bits: 24 days. */
const TIMER_MS_MAX = 24 * 24 * 3_600_000;

/** As many as the control block of a pool has room for; the pool checks that. */
export const SHARDS_MAX = 64;
export const DURABILITIES = ['sync', 'os', 'memory'] as const;
const RECOVERY_MODES = [
  'tolerate-torn-tail',
  'strict',
  'point-in-time',
  'salvage',
] as const satisfies readonly WalRecoveryMode[];
const KEY_ENCODING_NAMES = ['utf8', 'binary', 'tuple'] as const satisfies readonly KeyEncodingName[];
const VALUE_ENCODING_NAMES = ['utf8', 'binary', 'json', 'msgpack'] as const satisfies readonly ValueEncodingName[];
export const ENGINE_NAMES = [
  'btree',
  'hash',
  'rbtree',
  'array',
  'memtable',
  'lsm',
] as const satisfies readonly BuiltInEngine[];
const BLOCK_VERIFICATIONS = ['always', 'once'] as const satisfies readonly BlockVerification[];
const COMPACTION_STYLES = ['leveled', 'tiered', 'fifo'] as const satisfies readonly CompactionStyle[];
const COMPRESSION_NAMES = ['none', 'lz4', 'zstd'] as const satisfies readonly CompressionName[];
const DEADLOCK_POLICIES = ['detect', 'wait-die', 'wound-wait'] as const;
export const LOG_LEVEL_NAMES = ['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent'] as const;

const integer = (min: number, max: number): z.ZodOptional<z.ZodInt> => z.int().min(min).max(max).optional();
const LEVELS_MAX = 7;
/** Sizes of trees: more than any disk holds, and doubles still count single bytes. */
const TREE_BYTES_MAX = 1024 * 1024 * GiB;

/** What an LSM-Tree may be told; engines/lsm/options.ts decides what is not given, and checks what must fit together. */
const lsmShape = {
  compaction: key(z.enum(COMPACTION_STYLES).optional(), {
    kind: 'text',
    description:
      'how tables are merged. leveled: few bytes on disk, fast reads; tiered: fewer rewrites; fifo: only many small runs, the oldest go',
    changes: 'restart',
    unset: 'leveled',
  }),
  memtableBytes: key(integer(64 * KiB, GiB), {
    kind: 'bytes',
    description: 'size at which the memtable is frozen and written to a table',
    changes: 'restart',
    unset: '64MiB, at most an eighth of memoryBytes',
  }),
  frozenMax: key(integer(1, 16), {
    kind: 'integer',
    description: 'frozen memtables that may wait to be written; with more of them writes stop',
    changes: 'restart',
    unset: '3',
  }),
  compression: key(
    z.union([z.enum(COMPRESSION_NAMES), z.array(z.enum(COMPRESSION_NAMES)).min(1).max(LEVELS_MAX)]).optional(),
    {
      kind: 'list',
      description: 'of data blocks: one for all levels, or a list by level, of which the last counts for those below',
      changes: 'restart',
      unset: 'lz4',
    },
  ),
  blockBytes: key(integer(512, 64 * KiB), {
    kind: 'bytes',
    description: 'size of a data block before compression: what a read of one entry reads',
    changes: 'restart',
    unset: '1KiB, on level 0 4KiB',
  }),
  restartInterval: key(integer(1, 256), {
    kind: 'integer',
    description: 'entries of a block between two keys that are stored whole, at most: large ones have more of those',
    changes: 'restart',
    unset: '8',
  }),
  bitsPerKey: key(z.union([z.int().min(0).max(64), z.literal('monkey')]).optional(), {
    kind: 'integer',
    description: 'bits of the filters per key; 0: no filters; monkey: 10 on average, more of them for small levels',
    changes: 'restart',
    unset: '10',
  }),
  prefixFilterBytes: key(integer(0, 255), {
    kind: 'bytes',
    description: 'first bytes of keys that go into a filter for scans of a prefix; 0: none',
    changes: 'restart',
    unset: '0 bytes',
  }),
  verifyBlocks: key(z.enum(BLOCK_VERIFICATIONS).optional(), {
    kind: 'text',
    description:
      'when getSync() and its like check a block that they read from its file: always, or once since the store was opened, which is faster and does not see what goes bad on the disk later',
    changes: 'restart',
    unset: 'always',
  }),
  tableBytes: key(integer(4 * KiB, GiB), {
    kind: 'bytes',
    description: 'size at which another table is begun',
    changes: 'restart',
    unset: '16MiB',
  }),
  level0Runs: key(integer(1, 1000), {
    kind: 'integer',
    description: 'runs of level 0 at which they are merged',
    changes: 'restart',
    unset: '4',
  }),
  slowdownRuns: key(integer(2, 10_000), {
    kind: 'integer',
    description: 'runs of level 0 at which writes slow down',
    changes: 'restart',
    unset: 'three times level0Runs, at least 12',
  }),
  stopRuns: key(integer(3, 20_000), {
    kind: 'integer',
    description: 'runs of level 0 at which writes stop',
    changes: 'restart',
    unset: 'twice slowdownRuns, at least 24',
  }),
  slowdownDebtBytes: key(integer(4 * KiB, TREE_BYTES_MAX), {
    kind: 'bytes',
    description: 'bytes waiting to be merged at which writes slow down',
    changes: 'restart',
    unset: '4GiB',
  }),
  stopDebtBytes: key(integer(8 * KiB, TREE_BYTES_MAX), {
    kind: 'bytes',
    description: 'bytes waiting to be merged at which writes stop',
    changes: 'restart',
    unset: 'four times slowdownDebtBytes, at least 16GiB',
  }),
  levelBytes: key(integer(4 * KiB, TREE_BYTES_MAX), {
    kind: 'bytes',
    description: 'leveled: size of the first level below level 0',
    changes: 'restart',
    unset: '256MiB',
  }),
  levelFactor: key(integer(2, 100), {
    kind: 'integer',
    description: 'leveled: how many times larger each next level is',
    changes: 'restart',
    unset: '10',
  }),
  tieredRunsMin: key(integer(2, 100), {
    kind: 'integer',
    description: 'tiered: runs of like size that are merged at a time',
    changes: 'restart',
    unset: '4',
  }),
  tieredSpacePercent: key(integer(10, 10_000), {
    kind: 'integer',
    description: 'tiered: how large all younger runs may be together, in percent of the oldest',
    changes: 'restart',
    unset: '200',
  }),
  fifoBytes: key(integer(4 * KiB, TREE_BYTES_MAX), {
    kind: 'bytes',
    description: 'fifo: size beyond which the oldest tables go',
    changes: 'restart',
    unset: '1GiB',
  }),
  fifoTtlMs: key(integer(0, 2 ** 47), {
    kind: 'ms',
    description: 'fifo: age at which tables go; 0: never',
    changes: 'restart',
    unset: '0ms',
  }),
  blobValueBytes: key(z.union([z.literal(0), z.int().min(64).max(GiB)]).optional(), {
    kind: 'bytes',
    description: 'values of this size and above go to files of their own, which merges do not rewrite; 0: none do',
    changes: 'restart',
    unset: '0 bytes',
  }),
  blobFileBytes: key(integer(4 * KiB, 4 * GiB), {
    kind: 'bytes',
    description: 'size at which another file of values is begun',
    changes: 'restart',
    unset: '64MiB',
  }),
  blobGarbagePercent: key(integer(1, 100), {
    kind: 'integer',
    description: 'share of a file of values that nothing refers to, in percent, at which it is written anew',
    changes: 'restart',
    unset: '50',
  }),
};

/** Options of an open store that a file can hold; PoolOptions documents them for code. */
const storeShape = {
  engine: key(
    z
      .string()
      .regex(/^[a-z][a-z0-9-]{0,31}$/)
      .optional(),
    {
      kind: 'text',
      description:
        'structure that holds the entries of the default space: btree, hash, rbtree, array, memtable, lsm or one of engineModules',
      changes: 'creation',
      flag: '--engine',
      unset: 'btree',
      words: ENGINE_NAMES,
    },
  ),
  engineModules: key(z.array(z.string().min(1).max(4096)).max(64).default([]), {
    kind: 'list',
    description: 'modules every thread of the pool imports at its start, to register engines of your own',
    changes: 'restart',
    isPath: true,
  }),
  shards: key(z.union([z.literal('auto'), z.int().min(1).max(SHARDS_MAX)]).default('auto'), {
    kind: 'integer',
    description: 'writer threads, each with its own part of the keys; auto: cores - 1, at least 1',
    changes: 'creation',
    flag: '--shards',
  }),
  durability: key(z.enum(DURABILITIES).default('sync'), {
    kind: 'text',
    description:
      'when a write that does not choose is acknowledged. sync: after fdatasync; os: after write(); memory: before the log is written',
    changes: 'live',
    flag: '--durability',
  }),
  // What a write might need at worst is kept free: of less memory hardly any would be left for data.
  memoryBytes: key(
    z
      .int()
      .min(4 * MiB)
      .max(64 * GiB)
      .default(GiB),
    {
      kind: 'bytes',
      description: 'shared memory reserved per shard; the operating system commits it as it is used',
      changes: 'restart',
      flag: '--memory',
    },
  ),
  budgetBytes: key(
    z
      .int()
      .min(MiB)
      .max(64 * GiB)
      .optional(),
    {
      kind: 'bytes',
      description: 'btree: shared memory per shard the default space may use before cold pages live in its file only',
      changes: 'creation',
      unset: 'no budget: all of it stays in memory',
    },
  ),
  memtableBytes: key(
    z
      .int()
      .min(64 * KiB)
      .max(16 * GiB)
      .optional(),
    {
      kind: 'bytes',
      description: 'memtable: size at which it asks to be frozen',
      changes: 'creation',
      unset: 'chosen by the engine',
    },
  ),
  order: key(z.int().min(3).max(1000).optional(), {
    kind: 'integer',
    description: 'btree: most children of a branch and entries of a leaf',
    changes: 'creation',
    unset: 'as many as fit a page',
  }),
  pageBytes: key(
    z.union([z.literal(4096), z.literal(8192), z.literal(16384), z.literal(32768), z.literal('adaptive')]).optional(),
    {
      kind: 'bytes',
      description: 'btree: size of a page; adaptive: by the sizes of the entries seen',
      changes: 'creation',
      unset: 'chosen by the engine',
    },
  ),
  lsm: z.strictObject(lsmShape).prefault({}),
  blockCacheBytes: key(
    z
      .int()
      .min(256 * KiB)
      .max(32 * GiB)
      .default(64 * MiB),
    {
      kind: 'bytes',
      description:
        'cache of blocks read from files, one for all threads and shards; at least half of all budgets of B+Trees',
      changes: 'restart',
      flag: '--block-cache',
    },
  ),
  keyEncoding: key(z.enum(KEY_ENCODING_NAMES).optional(), {
    kind: 'text',
    description: 'what keys are',
    changes: 'creation',
    flag: '--key-encoding',
    unset: 'what the store was created with; utf8 for a new one',
  }),
  valueEncoding: key(z.enum(VALUE_ENCODING_NAMES).optional(), {
    kind: 'text',
    description: 'what values are; an encoding of your own can only be given in code',
    changes: 'creation',
    flag: '--value-encoding',
    unset: 'what the store was created with; utf8 for a new one',
  }),
  readOnly: key(z.boolean().default(false), {
    kind: 'boolean',
    description: 'recover into memory, refuse writes, touch no file',
    changes: 'restart',
  }),
  createIfMissing: key(z.boolean().default(true), {
    kind: 'boolean',
    description: 'create a store where there is none',
    changes: 'restart',
  }),
  recoveryMode: key(z.enum(RECOVERY_MODES).default('tolerate-torn-tail'), {
    kind: 'text',
    description: 'what a damaged log means at open',
    changes: 'restart',
  }),
  // A segment holds the largest request whole, see BATCH_INLINE_MAX_BYTES.
  segmentBytes: key(
    z
      .int()
      .min(256 * KiB)
      .max(GiB)
      .multipleOf(4096)
      .default(32 * MiB),
    { kind: 'bytes', description: 'size of one log segment', changes: 'restart' },
  ),
  checkpointLogBytes: key(
    z
      .int()
      .min(64 * KiB)
      .max(1024 * GiB)
      .default(64 * MiB),
    {
      kind: 'bytes',
      description: 'a checkpoint is written when the log behind the last one is longer than this and than the data',
      changes: 'live',
    },
  ),
  backgroundThreads: key(z.int().min(1).max(64).optional(), {
    kind: 'integer',
    description:
      'threads that write checkpoints and exports and merge tables; one more for what writes wait for, when it is needed',
    changes: 'restart',
    unset: 'one per two cores, at least 1',
  }),
  backgroundBytesPerSecond: key(
    z
      .int()
      .min(0)
      .max(16 * GiB)
      .default(0),
    {
      kind: 'bytes',
      description: 'what flushes and merges of LSM-Trees may write in a second, all together; 0: no limit',
      changes: 'live',
    },
  ),
  expiry: z
    .strictObject({
      intervalMs: key(z.int().min(10).max(TIMER_MS_MAX).default(1000), {
        kind: 'ms',
        description: 'how often a shard removes entries that have expired; reads never show them, whatever this is',
        changes: 'live',
      }),
      batch: key(z.int().min(1).max(65_536).default(1000), {
        kind: 'integer',
        description: 'expired entries a shard removes in one go, so that writes wait no longer than that',
        changes: 'live',
      }),
    })
    .prefault({}),
  feed: z
    .strictObject({
      retainBytes: key(
        z
          .int()
          .min(0)
          .max(1024 * GiB)
          .default(64 * MiB),
        {
          kind: 'bytes',
          description:
            'log that each shard keeps on disk for change feeds, behind what it needs itself: a feed or token that is older is refused; 0: none. Goes first when the disk is full',
          changes: 'live',
        },
      ),
    })
    .prefault({}),
  // As a body it is taken apart and logged whole: in one frame, in one segment.
  transactionBytesMax: key(
    z
      .int()
      .min(64 * KiB)
      .max(GiB)
      .default(32 * MiB),
    {
      kind: 'bytes',
      description:
        'what a transaction may read and write in one shard, as it is sent there; never more than a log segment holds',
      changes: 'restart',
    },
  ),
  deadlock: key(z.enum(DEADLOCK_POLICIES).default('detect'), {
    kind: 'text',
    description:
      'what becomes of transactions that wait for locks in a circle. detect: the one of the lowest priority, then the youngest, fails; wait-die: a younger one never waits for an older one; wound-wait: an older one takes locks away from younger ones',
    changes: 'restart',
  }),
  transactions: z
    .strictObject({
      maxConcurrent: key(z.int().min(1).max(1_000_000).default(1024), {
        kind: 'integer',
        description: 'transactions a thread runs at a time; others wait, by priority',
        changes: 'restart',
      }),
      agingMs: key(z.int().min(1).max(TIMER_MS_MAX).default(10), {
        kind: 'ms',
        description: 'how long a transaction waits for its turn to gain a step of priority',
        changes: 'restart',
      }),
      timeoutMs: key(z.int().min(1).max(TIMER_MS_MAX).default(30_000), {
        kind: 'ms',
        description: 'how long a transaction that does not choose may take, all attempts together',
        changes: 'restart',
      }),
      lockTimeoutMs: key(z.int().min(1).max(TIMER_MS_MAX).default(10_000), {
        kind: 'ms',
        description: 'how long a transaction that does not choose waits for one lock',
        changes: 'restart',
      }),
      retries: key(z.int().min(0).max(1_000_000).default(10), {
        kind: 'integer',
        description: 'how often a transaction that does not choose is tried again after a conflict or deadlock',
        changes: 'restart',
      }),
    })
    .prefault({}),
};

const directoryShape = {
  directory: key(z.string().min(1).max(4096).optional(), {
    kind: 'text',
    description: 'directory of the store; in code it is the argument of open()',
    changes: 'restart',
    flag: '--db',
    unset: 'none',
    isPath: true,
  }),
};

const ms = (min: number, defaultMs: number): z.ZodDefault<z.ZodInt> =>
  z.int().min(min).max(TIMER_MS_MAX).default(defaultMs);

const httpSection = z.strictObject({
  host: key(z.string().min(1).max(255).default('127.0.0.1'), {
    kind: 'text',
    description:
      'address to listen on; there is no authentication, so keep it on loopback or behind something that has',
    changes: 'restart',
    flag: '--host',
  }),
  port: key(z.int().min(0).max(65_535).default(8480), {
    kind: 'integer',
    description: 'port; 0 chooses a free one',
    changes: 'restart',
    flag: '--port',
  }),
  threads: key(
    z
      .int()
      .min(1)
      .max(64)
      .default(Math.max(1, Math.min(4, availableParallelism()))),
    {
      kind: 'integer',
      description: 'threads that serve requests',
      changes: 'restart',
      flag: '--threads',
      unset: 'one per core, at most 4',
    },
  ),
  bodyBytesMax: key(
    z
      .int()
      .min(1)
      .max(GiB)
      .default(64 * MiB),
    {
      kind: 'bytes',
      description: 'longest request body; longer ones are answered 413',
      changes: 'live',
      flag: '--max-body',
    },
  ),
  bodyBytesInFlightMax: key(
    z
      .int()
      .min(1)
      .default(256 * MiB),
    {
      kind: 'bytes',
      description: 'sum of bodies over 64 KiB that one thread holds at once; beyond it 503',
      changes: 'live',
      flag: '--max-bodies',
    },
  ),
  headerBytesMax: key(
    z
      .int()
      .min(KiB)
      .max(MiB)
      .default(16 * KiB),
    { kind: 'bytes', description: 'request line and headers; longer ones are answered 431', changes: 'restart' },
  ),
  connectionsMax: key(z.int().min(1).max(1_000_000).default(1024), {
    kind: 'integer',
    description: 'open connections over all threads; more are closed on accept',
    changes: 'live',
    flag: '--max-connections',
  }),
  headersTimeoutMs: key(ms(1, 15_000), {
    kind: 'ms',
    description: 'from the first byte of a request to the last one of its headers',
    changes: 'live',
  }),
  requestTimeoutMs: key(ms(1, 120_000), {
    kind: 'ms',
    description: 'from the first byte of a request to its last one',
    changes: 'live',
    flag: '--request-timeout',
  }),
  keepAliveTimeoutMs: key(ms(1, 72_000), {
    kind: 'ms',
    description: 'an idle connection is closed after this',
    changes: 'live',
    flag: '--keep-alive',
  }),
  stallTimeoutMs: key(ms(1, 60_000), {
    kind: 'ms',
    description: 'a connection on which no byte moves is cut after this',
    changes: 'live',
  }),
  drainMs: key(ms(0, 10_000), {
    kind: 'ms',
    description: 'how long requests in flight may take after SIGTERM',
    changes: 'live',
    flag: '--drain',
  }),
  backlog: key(z.int().min(1).max(65_535).default(511), {
    kind: 'integer',
    description: 'pending connections in the kernel',
    changes: 'restart',
  }),
});

const logSection = z.strictObject({
  level: key(z.enum(LOG_LEVEL_NAMES).default('info'), {
    kind: 'text',
    description: 'least level of the JSON lines on stdout',
    changes: 'live',
    flag: '--log-level',
  }),
});

/** What ConcordPool.open takes besides a directory, as far as a file can hold it. */
export const storeOptionsSchema = z.strictObject(storeShape);

/** A file may say where its JSON schema is, as editors expect it. */
export const SCHEMA_KEY = '$schema';

export const configSchema = z.strictObject({
  store: z.strictObject({ ...directoryShape, ...storeShape }).prefault({}),
  http: httpSection.prefault({}),
  log: logSection.prefault({}),
});

/** All keys with the values in effect. */
export type Config = z.output<typeof configSchema>;
/** What may be given in code: every key is optional; sizes and times are numbers. */
export type ConfigInput = z.input<typeof configSchema>;
