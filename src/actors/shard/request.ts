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
 *                      16     …  operation record(s), see engines/operation.ts
 *
 *   response            0     4  request      number of the request, counted per ring, modulo 2^32
 *                       4     1  status       ResponseStatus
 *                       8     …  JSON of an ErrorRecord, for Error
 *
 * A request that is simply done has no response: the shard advances `completed` in the request ring's header, and the client settles its
 * promises in order. Responses for a request are published before `completed` passes it.
 *
 *   request ring, user lines   0  taken      requests the shard has read; announced count; announced position
 *                              1  completed  requests that are settled
 *
 * A shard that dies leaves the count of requests it took and the ring's released position to its successor. They are two words, so the new count
 * is announced together with the position it belongs to, then release() stores that position: whichever store was the last one, takenCount()
 * knows which count goes with the position found, and no request is taken twice or skipped.
 */
import { RING_USER_LINE_WORDS, RING_USER_WORDS } from '../../shared/memory/ring.js';

export const RequestType = { Operation: 1, Batch: 2, Clear: 3, Flush: 4, DropBlob: 5 } as const;
export const Condition = { None: 0, IfAbsent: 1, IfVersion: 2 } as const;
export const ResponseStatus = { ConditionFailed: 1, Error: 2 } as const;

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
  if (condition === Condition.IfVersion) {
    f64[0] = version;
    bytes.set(f64Bytes, at + 8);
  }
}

export function readRequestVersion(bytes: Uint8Array, at: number): number {
  for (let i = 0; i < 8; i++) f64Bytes[i] = bytes[at + 8 + i]!;
  return f64[0]!;
}
