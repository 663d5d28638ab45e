/**
 * What travels between a client thread and a shard: requests in the client's ring, responses in a second ring going back.
 *
 *   request        offset  size  field
 *                       0     1  type         RequestType
 *                       1     1  durability   0 memory, 1 os, 2 sync
 *                       2     1  condition    Condition
 *                       3     1  zero
 *                       4     4  hash / count key hash; Batch: number of records
 *                       8     8  version      f64, for Condition.IfVersion
 *                      16     …  operation record(s), see engines/operation.ts; others: see below
 *
 *     Transaction, Prepare   body as in engines/txn/body.ts; condition 1: it has come in chunks before, `version` is its stream
 *     BodyChunk              hash: bytes of the whole body; version: stream · 2^32 + offset; then bytes of a body
 *     Lock                   see writeLockRequest()
 *     Release                version: id of the transaction; condition 1: the stream of a body that has come in chunks, which nobody will use
 *     Decide                 id f64 · participants 2 × u32 · vote epoch f64 (to the coordinator)
 *
 *   response            0     4  request      number of the request, counted per ring, modulo 2^32
 *                       4     1  status       ResponseStatus
 *                       8     …  JSON of an ErrorRecord, for Error and Forgotten
 *
 * A request that is simply done has no response: the shard advances `completed` in the request ring's header, and the client settles its
 * promises in order. Responses for a request are published before `completed` passes it. A request that must wait for a lock does not keep those
 * behind it waiting: it is answered Deferred, `completed` passes it, and a second response with its number settles it. A shard that takes over from
 * a dead one says Forgotten: what was deferred before is lost.
 *
 *   request ring, user lines   0  taken      requests the shard has read; announced count; announced position
 *                              1  completed  requests that are settled
 *
 * A shard that dies leaves the count of requests it took and the ring's released position to its successor. They are two words, so the new count
 * is announced together with the position it belongs to, then release() stores that position: whichever store was the last one, takenCount()
 * knows which count goes with the position found, and no request is taken twice or skipped.
 */
import { ConcordError } from '../../shared/errors.js';
import { RING_USER_LINE_WORDS, RING_USER_WORDS } from '../../shared/memory/ring.js';
import { isNumber } from '../../engines/operation.js';
import { LOCK_MODE_NAMES, type LockModeName } from '../../engines/txn/locks/mode.js';

export const RequestType = {
  Operation: 1,
  Batch: 2,
  Clear: 3,
  Flush: 4,
  DropBlob: 5,
  Transaction: 6,
  Prepare: 7,
  Lock: 8,
  Release: 9,
  BodyChunk: 10,
  Decide: 11,
} as const;
export const Condition = { None: 0, IfAbsent: 1, IfVersion: 2 } as const;
export const ResponseStatus = { ConditionFailed: 1, Error: 2, Deferred: 3, Done: 4, Forgotten: 5 } as const;
/** Condition of a Transaction or Prepare whose body has come in chunks, and of a Release that drops such a body. */
export const BODY_IN_CHUNKS = 1;
/** Body bytes in one request; longer ones come in chunks of this. */
export const BODY_INLINE_MAX_BYTES = 128 * 1024;
/** Bodies of one client that are on their way to a shard in chunks, at most. It forgets the oldest of more. */
export const BODY_STREAMS_MAX = 16;

export const REQUEST_HEADER_BYTES = 16;
export const RESPONSE_HEADER_BYTES = 8;

/** Written by the shard: indexes in the request ring's header. */
const TAKEN_WORD = RING_USER_WORDS;
const ANNOUNCED_COUNT_WORD = RING_USER_WORDS + 1;
const ANNOUNCED_POSITION_WORD = RING_USER_WORDS + 2;
export const COMPLETED_WORD = RING_USER_WORDS + RING_USER_LINE_WORDS;

/** Positions are multiples of 8. */
const NO_POSITION = 1;

/** Shard, before release(): `taken` requests end at `position`. */
export function announceTaken(header: Int32Array<SharedArrayBuffer>, taken: number, position: number): void {
  Atomics.store(header, ANNOUNCED_POSITION_WORD, NO_POSITION);
  Atomics.store(header, ANNOUNCED_COUNT_WORD, taken);
  Atomics.store(header, ANNOUNCED_POSITION_WORD, position);
}

/** Shard, after release(). */
export function confirmTaken(header: Int32Array<SharedArrayBuffer>, taken: number): void {
  Atomics.store(header, TAKEN_WORD, taken);
}

/** A shard that begins to serve the ring: how many requests were taken up to the released `position`. */
export function takenCount(header: Int32Array<SharedArrayBuffer>, position: number): number {
  const isAnnounced = Atomics.load(header, ANNOUNCED_POSITION_WORD) === position;
  return Atomics.load(header, isAnnounced ? ANNOUNCED_COUNT_WORD : TAKEN_WORD);
}

/** A client's request ring: bounds what one thread has in flight, in bytes. */
export const REQUEST_RING_BYTES = 4 << 20;
export const RESPONSE_RING_BYTES = 64 << 10;

const f64 = new Float64Array(1);
const f64Bytes = new Uint8Array(f64.buffer);

export function writeRequestHeader(
  bytes: Uint8Array,
  words: Int32Array,
  at: number,
  type: number,
  durability: number,
  condition: number,
  hash: number,
  version: number,
): void {
  words[at >> 2] = type | (durability << 8) | (condition << 16);
  words[(at >> 2) + 1] = hash;
  if (version !== 0 || condition === Condition.IfVersion) {
    f64[0] = version;
    for (let i = 0; i < 8; i++) bytes[at + 8 + i] = f64Bytes[i]!;
  }
}

export function readRequestVersion(bytes: Uint8Array, at: number): number {
  for (let i = 0; i < 8; i++) f64Bytes[i] = bytes[at + 8 + i]!;
  return f64[0]!;
}

// ---- locks ------------------------------------------------------------------------------------------------------------------------------

export interface LockCall {
  /** Id of the transaction. */
  readonly txn: number;
  /** Id of its first attempt: the lower, the older. */
  readonly age: number;
  readonly priority: number;
  readonly mode: LockModeName;
  /** Id of the space. */
  readonly space: number;
  /** Of a key; otherwise the range is meant. */
  readonly key?: Uint8Array | undefined;
  /** [low, high), undefined: open. */
  readonly range?: { readonly low?: Uint8Array | undefined; readonly high?: Uint8Array | undefined } | undefined;
  /** How long the shard lets it wait. */
  readonly timeoutMs: number;
  /** A version of the key above it is a conflict (ERR_CONFLICT); 0: none is. */
  readonly snapshot: number;
}

const LOCK_HEAD_BYTES = 48;
const LOCK_OPEN = 0xffff;

/**
 * The body of a Lock request, little-endian: txn f64 · age f64 · snapshot f64 · timeoutMs f64 · priority i32 · space u32 · mode u8 · kind u8 (0 key, 1 range)
 * · lowLength u16 · highLength u16 (0xffff: open) · zero u16 · low or key · high.
 */
export function encodeLockCall(call: LockCall): Buffer {
  const low = call.key ?? call.range?.low;
  const high = call.key === undefined ? call.range?.high : undefined;
  const bytes = Buffer.alloc(LOCK_HEAD_BYTES + (low?.length ?? 0) + (high?.length ?? 0));
  bytes.writeDoubleLE(call.txn, 0);
  bytes.writeDoubleLE(call.age, 8);
  bytes.writeDoubleLE(call.snapshot, 16);
  bytes.writeDoubleLE(call.timeoutMs, 24);
  bytes.writeInt32LE(call.priority, 32);
  bytes.writeUInt32LE(call.space, 36);
  bytes[40] = LOCK_MODE_NAMES.indexOf(call.mode);
  bytes[41] = call.key === undefined ? 1 : 0;
  bytes.writeUInt16LE(low?.length ?? LOCK_OPEN, 42);
  bytes.writeUInt16LE(high?.length ?? LOCK_OPEN, 44);
  if (low !== undefined) bytes.set(low, LOCK_HEAD_BYTES);
  if (high !== undefined) bytes.set(high, LOCK_HEAD_BYTES + (low?.length ?? 0));
  return bytes;
}

/** The keys are copies. @throws ERR_INTERNAL */
export function decodeLockCall(bytes: Buffer, at: number, end: number): LockCall {
  const isWhole = end - at >= LOCK_HEAD_BYTES;
  const lowLength = isWhole ? bytes.readUInt16LE(at + 42) : 0;
  const highLength = isWhole ? bytes.readUInt16LE(at + 44) : 0;
  const lowEnd = at + LOCK_HEAD_BYTES + (lowLength === LOCK_OPEN ? 0 : lowLength);
  const highEnd = lowEnd + (highLength === LOCK_OPEN ? 0 : highLength);
  const mode = LOCK_MODE_NAMES[bytes[at + 40]!];
  const txn = isWhole ? bytes.readDoubleLE(at) : 0;
  if (!isWhole || highEnd > end || mode === undefined || !isNumber(txn) || txn === 0) {
    throw new ConcordError('ERR_INTERNAL', `a lock request of ${end - at} bytes`);
  }
  const low = lowLength === LOCK_OPEN ? undefined : Buffer.from(bytes.subarray(at + LOCK_HEAD_BYTES, lowEnd));
  const high = highLength === LOCK_OPEN ? undefined : Buffer.from(bytes.subarray(lowEnd, highEnd));
  const call = {
    txn,
    age: bytes.readDoubleLE(at + 8),
    snapshot: bytes.readDoubleLE(at + 16),
    timeoutMs: bytes.readDoubleLE(at + 24),
    priority: bytes.readInt32LE(at + 32),
    space: bytes.readUInt32LE(at + 36),
    mode,
  };
  return bytes[at + 41] === 0 ? { ...call, key: low ?? Buffer.alloc(0) } : { ...call, range: { low, high } };
}
