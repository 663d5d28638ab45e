/**
 * What the caller of transaction() and begin() may choose, and what the store has chosen for those who do not. Threads: any.
 */
import { invalidArgument } from '../../shared/errors.js';
import { Isolation, type IsolationLevel } from '../../engines/txn/body.js';
import type { DeadlockPolicy } from '../../engines/txn/locks/lock-table.js';
import { durabilityLevel, type DurabilityName } from '../pool/options.js';

export type IsolationName = 'read-committed' | 'repeatable-read' | 'serializable';
export type TransactionMode = 'optimistic' | 'pessimistic';

export interface BeginOptions {
  /** What the transaction may see of others: see docs/transactions.md. Default 'serializable'. */
  readonly isolation?: IsolationName | undefined;
  /** optimistic: nothing is locked, the commit looks whether all still holds. pessimistic: what is read and written is locked. Default 'optimistic'. */
  readonly mode?: TransactionMode | undefined;
  /** An integer, -1000 … 1000: who goes first when transactions wait for a place or a lock, and who survives a deadlock. Default 0. */
  readonly priority?: number | undefined;
  /**
   * From the call, attempts and waiting included, until the commit is decided; then it fails with ERR_TRANSACTION_TIMEOUT. Above 0, below 2^31. Default: the
   * store's `transactions.timeoutMs`, 30,000.
   */
  readonly timeoutMs?: number | undefined;
  /**
   * How long one lock is waited for, in pessimistic mode, and by an optimistic commit all that is in its way; then ERR_LOCK_TIMEOUT. Above 0, below 2^31. Default:
   * the store's, 10,000.
   */
  readonly lockTimeoutMs?: number | undefined;
  /** Writes are refused with ERR_TRANSACTION_READ_ONLY. Default false. */
  readonly readOnly?: boolean | undefined;
  /** As for single writes; the votes and the decision of a commit over several shards are at least 'os'. Default: the store's. */
  readonly durability?: DurabilityName | undefined;
  /** Rolls it back when it aborts, unless the commit was decided; what is called then rejects with its reason. */
  readonly signal?: AbortSignal | undefined;
}

export interface TransactionOptions extends BeginOptions {
  /** How often it is tried again after ERR_CONFLICT, ERR_DEADLOCK, ERR_LOCK_TIMEOUT or ERR_BUSY: 0 … 1,000,000. Default: the store's, 10. */
  readonly retries?: number | undefined;
}

/** Of the store: what configuration says. Structured-cloneable. */
export interface TransactionDefaults {
  readonly maxConcurrent: number;
  readonly agingMs: number;
  readonly timeoutMs: number;
  readonly lockTimeoutMs: number;
  readonly retries: number;
  /** Of one transaction in one shard. */
  readonly bytesMax: number;
  readonly deadlock: DeadlockPolicy;
}

/** Beside the writes, in a log segment: its header, that of the frame, and the record that holds them. */
const SEGMENT_REST_BYTES = 16 * 1024;

interface StoreOptions {
  readonly transactions: Omit<TransactionDefaults, 'bytesMax' | 'deadlock'>;
  readonly transactionBytesMax: number;
  readonly segmentBytes: number;
  readonly deadlock: DeadlockPolicy;
}

export function transactionDefaults(options: StoreOptions): TransactionDefaults {
  const { transactions, transactionBytesMax, segmentBytes, deadlock } = options;
  const bytesMax = Math.min(transactionBytesMax, segmentBytes - SEGMENT_REST_BYTES);
  return { ...transactions, bytesMax, deadlock };
}

/** Checked, nothing left out. */
export interface TransactionSettings {
  readonly isolation: IsolationLevel;
  readonly isPessimistic: boolean;
  readonly priority: number;
  readonly timeoutMs: number;
  readonly lockTimeoutMs: number;
  readonly retries: number;
  /** No attempt begins later than this after the first. */
  readonly retryMs: number;
  readonly readOnly: boolean;
  /** undefined: that of the store when it commits. */
  readonly level: number | undefined;
  readonly signal: AbortSignal | undefined;
}

const PRIORITY_MAX = 1000;
/** Timers of the runtime count in 31 bits. */
const TIMER_MS_MAX = 2 ** 31 - 1;
const RETRIES_MAX = 1_000_000;

const LEVEL_OF: Readonly<Record<IsolationName, IsolationLevel>> = {
  'read-committed': Isolation.ReadCommitted,
  'repeatable-read': Isolation.RepeatableRead,
  serializable: Isolation.Serializable,
};
const ISOLATION_NAMES: readonly IsolationName[] = ['read-committed', 'repeatable-read', 'serializable'];

export function isolationName(isolation: number): IsolationName {
  return ISOLATION_NAMES[isolation] ?? 'serializable';
}

const NAMES = new Set([
  'isolation',
  'mode',
  'priority',
  'timeoutMs',
  'lockTimeoutMs',
  'readOnly',
  'durability',
  'signal',
  'retries',
]);

function checkInteger(name: string, value: unknown, min: number, max: number): number {
  if (typeof value !== 'number' || !Number.isInteger(value) || value < min || value > max) {
    throw invalidArgument(`${name} must be an integer from ${min} to ${max}, got ${String(value)}`);
  }
  return value;
}

function checkMs(name: string, value: unknown): number {
  if (typeof value !== 'number' || !(value > 0) || value > TIMER_MS_MAX) {
    throw invalidArgument(`${name} must be a number of milliseconds above 0 and below 2^31, got ${String(value)}`);
  }
  return value;
}

/** What a transaction without options goes by. */
export function defaultSettings(defaults: TransactionDefaults): TransactionSettings {
  return {
    isolation: Isolation.Serializable,
    isPessimistic: false,
    priority: 0,
    timeoutMs: defaults.timeoutMs,
    lockTimeoutMs: defaults.lockTimeoutMs,
    retries: defaults.retries,
    retryMs: Infinity,
    readOnly: false,
    level: undefined,
    signal: undefined,
  };
}

/** @throws ERR_INVALID_ARG naming the option; AbortError */
export function resolveSettings(
  options: TransactionOptions,
  defaults: TransactionSettings,
  takesRetries: boolean,
): TransactionSettings {
  if (typeof options !== 'object' || options === null) throw invalidArgument('options must be an object');
  for (const name in options) {
    if (!NAMES.has(name) || (name === 'retries' && !takesRetries)) {
      throw invalidArgument(`unknown transaction option ${name}`);
    }
  }
  const { isolation, mode, priority, timeoutMs, lockTimeoutMs, readOnly, durability, signal, retries } = options;
  if (isolation !== undefined && !(typeof isolation === 'string' && Object.hasOwn(LEVEL_OF, isolation))) {
    throw invalidArgument(
      `isolation must be 'read-committed', 'repeatable-read' or 'serializable', got ${String(isolation)}`,
    );
  }
  if (mode !== undefined && mode !== 'optimistic' && mode !== 'pessimistic') {
    throw invalidArgument(`mode must be 'optimistic' or 'pessimistic', got ${String(mode)}`);
  }
  if (readOnly !== undefined && typeof readOnly !== 'boolean') throw invalidArgument('readOnly must be true or false');
  if (signal !== undefined && !(signal instanceof AbortSignal)) throw invalidArgument('signal must be an AbortSignal');
  const settings = {
    isolation: isolation === undefined ? defaults.isolation : LEVEL_OF[isolation],
    isPessimistic: mode === 'pessimistic',
    priority: priority === undefined ? 0 : checkInteger('priority', priority, -PRIORITY_MAX, PRIORITY_MAX),
    timeoutMs: timeoutMs === undefined ? defaults.timeoutMs : checkMs('timeoutMs', timeoutMs),
    lockTimeoutMs: lockTimeoutMs === undefined ? defaults.lockTimeoutMs : checkMs('lockTimeoutMs', lockTimeoutMs),
    retries: retries === undefined ? defaults.retries : checkInteger('retries', retries, 0, RETRIES_MAX),
    retryMs: Infinity,
    readOnly: readOnly ?? false,
    level: durability === undefined ? undefined : durabilityLevel(durability),
    signal,
  };
  signal?.throwIfAborted();
  return settings;
}
