/**
 * Options of a pool: types, and how what is given becomes what the pool works with. Keys, bounds and defaults are those of config/schema.ts; an
 * error names every wrong option. Threads: any.
 */
import { availableParallelism } from 'node:os';
import { isAbsolute, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import type { z } from 'zod';
import { Findings, keyAt, nested, nodeOfOptions } from '../../config/check.js';
import type { GivenValue, Origin } from '../../config/check.js';
import { givenValues, loadConfig } from '../../config/load.js';
import { sectionAt } from '../../config/keys.js';
import type { ConfigSection } from '../../config/keys.js';
import { SHARDS_MAX, storeOptionsSchema } from '../../config/schema.js';
import { assert } from '../../shared/assert.js';
import { invalidArgument } from '../../shared/errors.js';
import type { CustomValueEncoding, ValueEncodingName } from '../../shared/codec/value-encoding.js';
import type { KeyEncodingName } from '../../shared/codec/key-encoding.js';
import type { BuiltInEngine } from '../../engines/engine.js';
import type { LsmTuning } from '../../engines/lsm/options.js';
import { Durability, type DurabilityLevel } from '../../engines/store/shard-store.js';
import type { WalRecoveryMode } from '../../engines/wal/recovery.js';
import { MAX_SHARDS } from '../control-block.js';

assert(SHARDS_MAX === MAX_SHARDS, `configuration allows ${SHARDS_MAX} shards, the control block ${MAX_SHARDS}`);

/**
 * When a write is acknowledged. `sync`: after fdatasync, survives a power loss. `os`: after write(), survives the death of the process. `memory`:
 * before the log is written, survives nothing but is on its way to disk.
 */
export type DurabilityName = 'sync' | 'os' | 'memory';

/** How entries that have expired are removed. They are absent for every read from their time on, whatever this says. */
export interface ExpiryOptions {
  /** How often a shard looks for them, 10 ms to 24 days. Default 1000. */
  readonly intervalMs?: number;
  /** How many a shard removes in one go, 1 … 65,536: other writes wait no longer than that. Default 1000. */
  readonly batch?: number;
}

/** What change feeds may count on. */
export interface FeedOptions {
  /**
   * Log that each shard keeps on disk for change feeds, behind what it needs itself: a feed or token that is older gets ERR_FEED_TRUNCATED. 0: none. What is
   * kept goes first when the disk is full. Default 64 MiB.
   */
  readonly retainBytes?: number;
}

/** Options that can change while the store is open. */
export interface LiveOptions {
  /** Default of each write. Default 'sync'. */
  readonly durability?: DurabilityName;
  /** A checkpoint is written when the log behind the last one is longer than this and than the data. Default 64 MiB. */
  readonly checkpointLogBytes?: number;
  /** What flushes and merges of LSM-Trees may write in a second, all together; 0: no limit. Default 0. */
  readonly backgroundBytesPerSecond?: number;
  readonly expiry?: ExpiryOptions;
  readonly feed?: FeedOptions;
}

/** What transactions of a thread that do not choose go by. */
export interface TransactionTuning {
  /** Transactions a thread runs at a time; others wait, by priority. Default 1024. */
  readonly maxConcurrent?: number;
  /** How long a transaction waits for its turn to gain a step of priority. Default 10. */
  readonly agingMs?: number;
  /** Default of timeoutMs. Default 30,000. */
  readonly timeoutMs?: number;
  /** Default of lockTimeoutMs. Default 10,000. */
  readonly lockTimeoutMs?: number;
  /** Default of retries. Default 10. */
  readonly retries?: number;
}

export interface PoolOptions extends LiveOptions {
  /** Structure of the default space, remembered by the directory. An engine of your own needs engineModules. Default 'btree'. */
  readonly engine?: BuiltInEngine | (string & {});
  /** Modules that every thread of the pool imports at its start, to call registerEngine(). Relative paths count from the working directory. */
  readonly engineModules?: readonly string[];
  /** Writer threads, each with its own part of the keys. Fixed when the directory is created. Default 'auto': cores - 1, at least 1. */
  readonly shards?: number | 'auto';
  /** Shared memory reserved per shard, 4 MiB to 64 GiB; the operating system commits it as it is used. Default 1 GiB. */
  readonly memoryBytes?: number;
  /** B+Tree: shared memory per shard that the default space may use before cold pages live in its file only. Default: no budget. */
  readonly budgetBytes?: number;
  /** Memtable: bytes at which it asks to be frozen. */
  readonly memtableBytes?: number;
  /** LSM-Tree: what the default space's is told. Not remembered: it may be another with each opening. */
  readonly lsm?: LsmTuning;
  /**
   * Cache of blocks read from files, one for all threads and shards, 256 KiB to 32 GiB; at least half of all budgets of B+Trees. Memory is committed as
   * it is used. Default 64 MiB.
   */
  readonly blockCacheBytes?: number;
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
  /** B+Tree: size of a page, 4096 … 32768, a power of two; or 'adaptive': by the sizes of the entries seen. */
  readonly pageBytes?: number | 'adaptive';
  /** Bytes of one log segment, a multiple of 4096 from 256 KiB to 1 GiB. Default 32 MiB. */
  readonly segmentBytes?: number;
  /** What a transaction may read and write in one shard, as it is sent there; never more than a log segment holds. Default 32 MiB. */
  readonly transactionBytesMax?: number;
  /** What becomes of transactions that wait for locks in a circle: see docs/transactions.md. Default 'detect'. */
  readonly deadlock?: 'detect' | 'wait-die' | 'wound-wait';
  readonly transactions?: TransactionTuning;
  /** Threads of the background pool; one more serves what writes wait for, when it is needed. Default 1 per two cores, at least 1. */
  readonly backgroundThreads?: number;
  /**
   * Where options that are not given here come from. true: concordkv.json or concordkv.yaml of the working directory, if there is one, and
   * CONCORDKV_* variables. A path: that file and the variables. Default false: nothing but what is given here. See docs/configuration.md.
   */
  readonly config?: boolean | string;
}

export interface ResolvedOptions extends Omit<z.output<typeof storeOptionsSchema>, 'valueEncoding'> {
  readonly errorIfExists: boolean;
  readonly shardCount: number | undefined;
  readonly backgroundThreads: number;
  /** File URLs and names of packages, as import() takes them. */
  readonly engineModules: string[];
  readonly valueEncoding: ValueEncodingName | CustomValueEncoding | undefined;
}

const OPTION: Origin = { source: 'option' };
/** The section of the schema without the directory, which is an argument. */
const STORE_OPTIONS: ConfigSection = {
  path: 'store',
  members: new Map([...sectionAt('store').members].filter(([name]) => name !== 'directory')),
};

/** @throws TypeError (ERR_INVALID_ARG) naming every wrong option; ERR_NOT_FOUND if the file of `config` is not there. */
export function resolveOptions(options: unknown): ResolvedOptions {
  const given = options ?? {};
  if (typeof given !== 'object' || Array.isArray(given)) throw invalidArgument('options must be an object');
  const { config, errorIfExists, valueEncoding, ...rest } = given as Record<string, unknown>;
  const findings = new Findings();
  const customEncoding = typeof valueEncoding === 'object' && valueEncoding !== null ? valueEncoding : undefined;
  findings.addNode(nodeOfOptions(customEncoding === undefined ? { ...rest, valueEncoding } : rest), STORE_OPTIONS);
  if (errorIfExists !== undefined && typeof errorIfExists !== 'boolean') {
    findings.refuse('errorIfExists', OPTION, () => ': it must be true or false');
  }
  if (config !== undefined && typeof config !== 'boolean' && (typeof config !== 'string' || config === '')) {
    findings.refuse('config', OPTION, () => ': it must be true, false or the path of a file');
  }
  findings.throwProblems();

  let values: ReadonlyMap<string, GivenValue> = findings.given;
  if (config !== undefined && config !== false) {
    const loaded = loadConfig({ file: config as string | true });
    for (const warning of loaded.warnings) process.emitWarning(warning, 'ConcordKVWarning');
    const others = [...givenValues(loaded)].filter(([path]) => path.startsWith('store.') && path !== 'store.directory');
    values = new Map([...others, ...values]);
  }
  const parsed = storeOptionsSchema.parse(nested(values)['store'] ?? {});
  findings.checkTogether(parsed);
  findings.throwProblems();
  return {
    ...parsed,
    engineModules: parsed.engineModules.map(moduleUrl),
    valueEncoding: (customEncoding ?? parsed.valueEncoding) as ResolvedOptions['valueEncoding'],
    errorIfExists: errorIfExists === true,
    shardCount: parsed.shards === 'auto' ? undefined : parsed.shards,
    backgroundThreads: parsed.backgroundThreads ?? Math.max(1, availableParallelism() >> 1),
  };
}

/** Files as URLs, which every thread can import; names of packages stay as they are. */
function moduleUrl(name: string): string {
  return /^\.{1,2}[/\\]/.test(name) || isAbsolute(name) ? pathToFileURL(resolve(name)).href : name;
}

const NOT_LIVE = {
  restart: 'it cannot change while the store is open; close the store and open it with the new value',
  creation: 'it cannot change while the store is open; it counts only for what is created with it',
} as const;

/** Options of an open store after a change. */
export interface OptionsChange {
  readonly options: ResolvedOptions;
  /** Paths of what is different now, such as 'expiry.batch'. */
  readonly changed: readonly string[];
}

/**
 * What `change` makes of the options of an open store; the caller hands the new values to who works with them.
 * @throws TypeError (ERR_INVALID_ARG) naming every option that is wrong, or cannot change while the store is open
 */
export function changeOptions(current: ResolvedOptions, change: unknown): OptionsChange {
  if (typeof change !== 'object' || change === null || Array.isArray(change)) {
    throw invalidArgument('the options to change must be an object');
  }
  const findings = new Findings();
  findings.addNode(nodeOfOptions(change), STORE_OPTIONS);
  for (const path of findings.given.keys()) {
    const { changes } = keyAt(path)!;
    if (changes !== 'live') findings.refuse(path, OPTION, () => `: ${NOT_LIVE[changes]}`);
  }
  findings.throwProblems();
  const options: ResolvedOptions = { ...current, expiry: { ...current.expiry }, feed: { ...current.feed } };
  const changed: string[] = [];
  for (const [path, { value }] of findings.given) {
    const segments = path.split('.').slice(1);
    const name = segments.pop()!;
    let at = options as unknown as Record<string, unknown>;
    for (const segment of segments) at = at[segment] as Record<string, unknown>;
    if (at[name] === value) continue;
    at[name] = value;
    changed.push([...segments, name].join('.'));
  }
  return { options, changed };
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
