/**
 * The one table of failures. Gateways map codes through the rows here and never switch on message text.
 *
 * Absence of a key is `undefined`, never an error. A caller's mistake (wrong type, unknown option) is a plain TypeError
 * carrying `code: 'ERR_INVALID_ARG'`. Everything else is a ConcordError with a code of this table. Codes are stable: a retired
 * code is never reused, and a test keeps this table and the README's equal.
 *
 * Threads: any. Errors cross threads as {@link ErrorRecord}, because structured clone drops `code`.
 */
export const ERROR_TABLE = {
  ERR_CLOSED: { retryable: false, httpStatus: 503, text: 'the store, snapshot or iterator is closed' },
  ERR_LOCKED: { retryable: true, httpStatus: 503, text: 'the data directory is open in another process' },
  ERR_NOT_FOUND: { retryable: false, httpStatus: 404, text: 'there is no store at this path' },
  ERR_EXISTS: { retryable: false, httpStatus: 409, text: 'a store exists at this path already' },
  ERR_OPTION_CONFLICT: {
    retryable: false,
    httpStatus: 400,
    text: 'an option contradicts what the store was created with',
  },
  ERR_SPACE_NOT_FOUND: { retryable: false, httpStatus: 404, text: 'the store has no space of this name' },
  ERR_SPACE_DROPPED: { retryable: false, httpStatus: 410, text: 'the space was dropped' },
  ERR_SPACE_LIMIT: { retryable: false, httpStatus: 507, text: 'the store holds as many spaces as it can' },
  ERR_READ_ONLY: { retryable: false, httpStatus: 403, text: 'the store or the shard accepts no writes' },
  ERR_KEY_TOO_LARGE: { retryable: false, httpStatus: 414, text: 'the encoded key is longer than the limit' },
  ERR_VALUE_TOO_LARGE: { retryable: false, httpStatus: 413, text: 'the encoded value is longer than the limit' },
  ERR_BATCH_TOO_LARGE: { retryable: false, httpStatus: 413, text: 'the batch is larger than the limit' },
  ERR_CONFLICT: { retryable: true, httpStatus: 409, text: 'another writer kept changing the key' },
  ERR_DEADLOCK: { retryable: true, httpStatus: 409, text: 'transactions waited for each other; this one gave way' },
  ERR_LOCK_TIMEOUT: { retryable: true, httpStatus: 409, text: 'a lock was not granted in time' },
  ERR_BUSY: { retryable: true, httpStatus: 503, text: 'too many writes wait for locks in the shard' },
  ERR_TRANSACTION_TIMEOUT: { retryable: false, httpStatus: 504, text: 'the transaction took longer than it may' },
  ERR_TRANSACTION_CLOSED: { retryable: false, httpStatus: 409, text: 'the transaction has ended' },
  ERR_TRANSACTION_TOO_LARGE: { retryable: false, httpStatus: 413, text: 'the transaction is larger than the limit' },
  ERR_TRANSACTION_READ_ONLY: { retryable: false, httpStatus: 403, text: 'the transaction was begun to read only' },
  ERR_SAVEPOINT_NOT_FOUND: { retryable: false, httpStatus: 404, text: 'the transaction has no savepoint of this name' },
  ERR_FEED_TRUNCATED: { retryable: false, httpStatus: 410, text: 'the log no longer holds the changes asked for' },
  ERR_DECODE: { retryable: false, httpStatus: 500, text: 'stored bytes do not decode with the chosen encoding' },
  ERR_MEMORY_FULL: { retryable: true, httpStatus: 507, text: 'the shared memory of the shard is used up' },
  ERR_DISK_FULL: { retryable: true, httpStatus: 507, text: 'no space is left on the device' },
  ERR_IO: { retryable: false, httpStatus: 500, text: 'the operating system refused a file operation' },
  ERR_PERMISSION: { retryable: false, httpStatus: 500, text: 'the process may not read or write a file of the store' },
  ERR_CORRUPT: { retryable: false, httpStatus: 500, text: 'bytes on disk or in memory are not what was written' },
  ERR_FORMAT_VERSION: {
    retryable: false,
    httpStatus: 500,
    text: 'the file has a format version this release cannot read',
  },
  ERR_UNSUPPORTED: { retryable: false, httpStatus: 501, text: 'this runtime lacks what the data needs' },
  ERR_TIMEOUT: { retryable: true, httpStatus: 504, text: 'the deadline passed' },
  ERR_SNAPSHOT_LIMIT: { retryable: true, httpStatus: 503, text: 'all snapshot slots are in use' },
  ERR_CLIENT_LIMIT: { retryable: true, httpStatus: 503, text: 'all client slots are in use' },
  ERR_SHARD_RESTARTED: {
    retryable: true,
    httpStatus: 503,
    text: 'the shard restarted; the outcome of the call is unknown',
  },
  ERR_SHARD_FAILED: {
    retryable: false,
    httpStatus: 503,
    text: 'the shard stays down: it failed repeatedly, or while it was read-only (its log or its coordinator had failed), or lost its directory',
  },
  ERR_OWNER_DIED: { retryable: true, httpStatus: 503, text: 'the thread that held the lock died' },
  ERR_INTERNAL: { retryable: false, httpStatus: 500, text: 'an invariant is broken' },
} as const satisfies Record<string, { retryable: boolean; httpStatus: number; text: string }>;

export type ErrorCode = keyof typeof ERROR_TABLE;

/** Facts of a failure that a program may read: file, offset, limit, pid … Structured-clone safe. */
export type ErrorDetails = Readonly<Record<string, DetailValue>>;
export type DetailValue =
  string | number | boolean | null | readonly DetailValue[] | { readonly [name: string]: DetailValue };

/** What crosses threads in place of an Error. */
export interface ErrorRecord {
  readonly code: ErrorCode;
  readonly message: string;
  readonly details: ErrorDetails;
}

/** A failure with a stable `code`. `retryable`: the same call may succeed later, unchanged. */
export class ConcordError extends Error {
  readonly code: ErrorCode;
  readonly details: ErrorDetails;

  constructor(code: ErrorCode, message: string, details: ErrorDetails = {}, options?: ErrorOptions) {
    super(message, options);
    this.name = 'ConcordError';
    this.code = code;
    this.details = details;
  }

  get retryable(): boolean {
    return ERROR_TABLE[this.code].retryable;
  }

  get httpStatus(): number {
    return ERROR_TABLE[this.code].httpStatus;
  }

  toRecord(): ErrorRecord {
    return { code: this.code, message: this.message, details: this.details };
  }

  static fromRecord(record: ErrorRecord): ConcordError {
    return new ConcordError(record.code, record.message, record.details);
  }
}

/** A caller's mistake: TypeError with `code: 'ERR_INVALID_ARG'`. */
export function invalidArgument(message: string): TypeError & { code: 'ERR_INVALID_ARG' } {
  return Object.assign(new TypeError(message), { code: 'ERR_INVALID_ARG' as const });
}

/** Turns an error of the operating system into a coded one that names the file; passes coded errors through. */
export function fromSystemError(error: unknown, doing: string, file: string): ConcordError {
  if (error instanceof ConcordError) return error;
  const code = (error as NodeJS.ErrnoException | null)?.code;
  const details = { file, errno: code ?? 'unknown' };
  const message = `${doing} ${file}: ${error instanceof Error ? error.message : String(error)}`;
  if (code === 'ENOSPC' || code === 'EDQUOT')
    return new ConcordError('ERR_DISK_FULL', message, details, { cause: error });
  if (code === 'EACCES' || code === 'EPERM' || code === 'EROFS')
    return new ConcordError('ERR_PERMISSION', message, details, { cause: error });
  return new ConcordError('ERR_IO', message, details, { cause: error });
}

export function isDiskFull(error: unknown): boolean {
  return error instanceof ConcordError && error.code === 'ERR_DISK_FULL';
}

/** A failure as a record, whatever was thrown. */
export function toErrorRecord(error: unknown): ErrorRecord {
  if (error instanceof ConcordError) return error.toRecord();
  const message = error instanceof Error ? (error.stack ?? error.message) : String(error);
  return { code: 'ERR_INTERNAL', message, details: {} };
}
