/**
 * Options of a pool: types, defaults, validation. One schema; errors name the option. Threads: any.
 */
import { availableParallelism } from 'node:os';
import { z } from 'zod';
import { invalidArgument } from '../../shared/errors.js';
import type { CustomValueEncoding, ValueEncodingName } from '../../shared/codec/value-encoding.js';
import type { KeyEncodingName } from '../../shared/codec/key-encoding.js';
import { Durability, type DurabilityLevel } from '../../engines/store/shard-store.js';
import type { WalRecoveryMode } from '../../engines/wal/recovery.js';
import { MAX_SHARDS } from '../control-block.js';

/**
 * When a write is acknowledged. `sync`: after fdatasync, survives a power loss. `os`: after write(), survives the death of the process. `memory`:
 * before the log is written, survives nothing but is on its way to disk.
 */
export type DurabilityName = 'sync' | 'os' | 'memory';

export interface PoolOptions {
  /** Writer threads, each with its own part of the keys. Fixed when the directory is created. Default 'auto': cores - 1, at least 1. */
  readonly shards?: number | 'auto';
  /** Default of each write. Default 'sync'. */
  readonly durability?: DurabilityName;
  /** Shared memory reserved per shard, 4 MiB to 64 GiB; the operating system commits it as it is used. Default 1 GiB. */
  readonly memoryBytes?: number;
  /** Remembered by the directory. Default 'utf8'. */
  readonly keyEncoding?: KeyEncodingName;
  /** Remembered by the directory; a custom one must be given at each open. Default 'utf8'. */
  readonly valueEncoding?: ValueEncodingName | CustomValueEncoding;
  /** Recover into memory, refuse writes, touch no file. Default false. */
  readonly readOnly?: boolean;
  /** Default true. */
  readonly createIfMissing?: boolean;
  /** Default false. */
  readonly errorIfExists?: boolean;
  /** What a damaged log means at open; see docs/architecture.md. Default 'tolerate-torn-tail'. */
  readonly recoveryMode?: WalRecoveryMode;
  /** B+Tree: most children of a branch and entries of a leaf, 3 … 1000. Default: as many as fit a page. */
  readonly order?: number;
  /** B+Tree: size of a page, 4096 … 32768, a power of two. Default 4096. */
  readonly pageBytes?: number;
  /** Bytes of one log segment, a multiple of 4096 from 256 KiB to 1 GiB. Default 32 MiB. */
  readonly segmentBytes?: number;
  /** A checkpoint is written when the log behind the last one is longer than this and than the data. Default 64 MiB. */
  readonly checkpointLogBytes?: number;
  /** Threads of the background pool. Default 1 per two cores, at least 1. */
  readonly backgroundThreads?: number;
}

/** What a write might need at worst is kept free: of less memory hardly any would be left for data. */
const MIN_MEMORY_BYTES = 4 << 20;
/** A segment holds the largest request whole, see BATCH_INLINE_MAX_BYTES. */
const MIN_SEGMENT_BYTES = 256 * 1024;
const MAX_MEMORY_BYTES = 64 * 2 ** 30;

const schema = z.strictObject({
  shards: z.union([z.literal('auto'), z.int().min(1).max(MAX_SHARDS)]).default('auto'),
  durability: z.enum(['sync', 'os', 'memory']).default('sync'),
  memoryBytes: z
    .int()
    .min(MIN_MEMORY_BYTES)
    .max(MAX_MEMORY_BYTES)
    .default(2 ** 30),
  keyEncoding: z.enum(['utf8', 'binary', 'tuple']).optional(),
  valueEncoding: z.unknown().optional(),
  readOnly: z.boolean().default(false),
  createIfMissing: z.boolean().default(true),
  errorIfExists: z.boolean().default(false),
  recoveryMode: z.enum(['tolerate-torn-tail', 'strict', 'point-in-time', 'salvage']).default('tolerate-torn-tail'),
  order: z.int().min(3).max(1000).optional(),
  pageBytes: z.union([z.literal(4096), z.literal(8192), z.literal(16384), z.literal(32768)]).optional(),
  segmentBytes: z
    .int()
    .min(MIN_SEGMENT_BYTES)
    .max(2 ** 30)
    .multipleOf(4096)
    .default(32 * 2 ** 20),
  checkpointLogBytes: z
    .int()
    .min(64 * 1024)
    .max(2 ** 40)
    .default(64 * 2 ** 20),
  backgroundThreads: z.int().min(1).max(64).optional(),
});

export interface ResolvedOptions extends z.output<typeof schema> {
  readonly shardCount: number | undefined;
  readonly backgroundThreads: number;
  readonly valueEncoding: ValueEncodingName | CustomValueEncoding | undefined;
}

/** @throws TypeError (ERR_INVALID_ARG) naming every wrong option. */
export function resolveOptions(options: unknown): ResolvedOptions {
  const parsed = schema.safeParse(options ?? {});
  if (!parsed.success) {
    const problems = parsed.error.issues.map((issue) => {
      const where = issue.path.length > 0 ? `option ${issue.path.join('.')}` : 'options';
      return `${where}: ${issue.message}`;
    });
    throw invalidArgument(problems.join('; '));
  }
  const cores = availableParallelism();
  return {
    ...parsed.data,
    valueEncoding: parsed.data.valueEncoding as ResolvedOptions['valueEncoding'],
    shardCount: parsed.data.shards === 'auto' ? undefined : parsed.data.shards,
    backgroundThreads: parsed.data.backgroundThreads ?? Math.max(1, cores >> 1),
  };
}

/** Shards of a new store when none are asked for. */
export function defaultShardCount(): number {
  return Math.max(1, Math.min(MAX_SHARDS, availableParallelism() - 1));
}

const LEVELS: Readonly<Record<DurabilityName, DurabilityLevel>> = {
  memory: Durability.Memory,
  os: Durability.Os,
  sync: Durability.Sync,
};

export function durabilityLevel(name: unknown): DurabilityLevel {
  if (name === 'sync' || name === 'os' || name === 'memory') return LEVELS[name];
  throw invalidArgument(`durability must be 'sync', 'os' or 'memory', got ${String(name)}`);
}
