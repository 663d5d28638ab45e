/**
 * Operation records: what a change looks like as bytes. The same record travels in a client's ring, stands in a WAL frame and is
 * applied by the shard, so a change is copied once from ring to log and never re-encoded.
 *
 *   offset  size  field        (little-endian; a record starts and ends on a multiple of 4)
 *        0     1  kind         OperationKind
 *        1     1  flags        see below; unknown flags are refused
 *        2     2  keyLength    bytes
 *        4     4  valueLength  bytes
 *        8    12  extension    only with OPERATION_EXTENDED: space u32 · expiresAt u48 ms, 0 = never · zero u16
 *        …     k  key
 *        …     v  value
 *        …        zero padding to a multiple of 4
 *
 * Without an extension an operation is of the default space and its entry never expires.
 *
 * Values above BLOB_MIN_BYTES and batches above BATCH_INLINE_MAX_BYTES travel as Chunk records that are interleaved with other callers'
 * operations, followed by one PutBlob or ApplyBatch that names them; so no caller waits for the whole of another's 64 MiB.
 *
 * Each record takes `span` sequence numbers: one, or for ApplyBatch one per inner operation. Prepare and Resolve take none: what a transaction
 * over several shards writes has the number of its commit, in all of them.
 *
 *   Prepare   key    txn f64 · mask low u32 · mask high u32 · client u32 · zero u32     mask: shards that it writes to, one bit each
 *             value  its writes here: Put and Delete records as in a batch, one per key
 *   Resolve   key    txn f64 · number f64 (0: it was given up)                          value: none
 *
 * OPERATION_JOINED says that the next record belongs to the same atomic unit: all of a batch or transaction but the last carry it.
 * OPERATION_EXPIRED says that a Delete is the shard's own, of an entry whose time had come: it is applied like any other, and change feeds tell it.
 * Golden bytes: test/golden/operation.txt. Threads: any; pure functions.
 */
import { readU32LE, writeU32LE } from '../shared/codec/fixed.js';
import { ConcordError } from '../shared/errors.js';
import { SPACE_ID_MAX } from './engine.js';

/** On disk: never renumber, never reuse. */
export const OperationKind = {
  Put: 1,
  Delete: 2,
  ClearRange: 3,
  Chunk: 4,
  PutBlob: 5,
  ApplyBatch: 6,
  Prepare: 7,
  Resolve: 8,
} as const;

/** Flags of ClearRange: which bounds are there. Key = low bound (inclusive), value = high bound (exclusive). */
export const CLEAR_HAS_LOW = 1;
export const CLEAR_HAS_HIGH = 2;
/** Flag of Chunk: the bytes are operation records of a batch, kept on the heap; otherwise they are a value's. */
export const CHUNK_OF_BATCH = 1;

/** Flag of Put, Delete, ClearRange and PutBlob: the extension is there. */
export const OPERATION_EXTENDED = 0x80;
/** Flag of Put, Delete and PutBlob: the next record belongs to the same batch or transaction. */
export const OPERATION_JOINED = 0x40;
/** Flag of Delete: the time of the entry had come. */
export const OPERATION_EXPIRED = 0x20;

export const OPERATION_HEADER_BYTES = 8;
export const OPERATION_EXTENSION_BYTES = 12;
/** Key of Chunk, value of PutBlob and ApplyBatch. */
export const BLOB_REFERENCE_BYTES = 24;
/** Key of Prepare. */
export const PREPARE_KEY_BYTES = 24;
/** Key of Resolve. */
export const RESOLVE_KEY_BYTES = 16;
/** Sequence numbers and transaction ids have 48 bits. */
export const NUMBER_MAX = 2 ** 48 - 1;

/** Longest value, in bytes. */
export const MAX_VALUE_BYTES = 256 * 1024 * 1024;
/** Largest batch, in bytes of operation records. */
export const MAX_BATCH_BYTES = 256 * 1024 * 1024;
/** Values longer than this go through chunks. */
export const BLOB_MIN_BYTES = 64 * 1024;
/** Batches longer than this (bytes of operation records) go through chunks. Any request fits the smallest log segment. */
export const BATCH_INLINE_MAX_BYTES = 128 * 1024;
/** Payload of one Chunk record. */
export const CHUNK_BYTES = 64 * 1024;

/** Bytes of a record, padding included. `extensionBytes`: 0 or OPERATION_EXTENSION_BYTES. */
export function operationBytes(keyLength: number, valueLength: number, extensionBytes = 0): number {
  return (OPERATION_HEADER_BYTES + extensionBytes + keyLength + valueLength + 3) & ~3;
}

/** Where the record's key begins. */
export function operationKeyAt(bytes: Uint8Array, at: number): number {
  return bytes[at + 1]! >= OPERATION_EXTENDED
    ? at + OPERATION_HEADER_BYTES + OPERATION_EXTENSION_BYTES
    : at + OPERATION_HEADER_BYTES;
}

/** Of a record whose header says OPERATION_EXTENDED. */
export function writeOperationExtension(bytes: Uint8Array, at: number, spaceId: number, expiresAt: number): void {
  const low = expiresAt >>> 0;
  const high = (expiresAt - low) / TWO_32;
  bytes[at + 8] = spaceId;
  bytes[at + 9] = spaceId >>> 8;
  bytes[at + 10] = spaceId >>> 16;
  bytes[at + 11] = spaceId >>> 24;
  bytes[at + 12] = low;
  bytes[at + 13] = low >>> 8;
  bytes[at + 14] = low >>> 16;
  bytes[at + 15] = low >>> 24;
  bytes[at + 16] = high;
  bytes[at + 17] = high >>> 8;
  bytes[at + 18] = 0;
  bytes[at + 19] = 0;
}

/** 0, the default space, without an extension. */
export function readOperationSpace(bytes: Uint8Array, at: number): number {
  if (bytes[at + 1]! < OPERATION_EXTENDED) return 0;
  return (bytes[at + 8]! | (bytes[at + 9]! << 8) | (bytes[at + 10]! << 16) | (bytes[at + 11]! << 24)) >>> 0;
}

/** Milliseconds since the epoch; 0: never. */
export function readOperationExpiry(bytes: Uint8Array, at: number): number {
  if (bytes[at + 1]! < OPERATION_EXTENDED) return 0;
  return (
    ((bytes[at + 12]! | (bytes[at + 13]! << 8) | (bytes[at + 14]! << 16) | (bytes[at + 15]! << 24)) >>> 0) +
    (bytes[at + 16]! | (bytes[at + 17]! << 8)) * TWO_32
  );
}

const TWO_32 = 4294967296;

/** Writes the eight header bytes. */
export function writeOperationHeader(
  bytes: Uint8Array,
  at: number,
  kind: number,
  flags: number,
  keyLength: number,
  valueLength: number,
): void {
  bytes[at] = kind;
  bytes[at + 1] = flags;
  bytes[at + 2] = keyLength;
  bytes[at + 3] = keyLength >>> 8;
  bytes[at + 4] = valueLength;
  bytes[at + 5] = valueLength >>> 8;
  bytes[at + 6] = valueLength >>> 16;
  bytes[at + 7] = valueLength >>> 24;
}

export function readKeyLength(bytes: Uint8Array, at: number): number {
  return bytes[at + 2]! | (bytes[at + 3]! << 8);
}

export function readValueLength(bytes: Uint8Array, at: number): number {
  return (bytes[at + 4]! | (bytes[at + 5]! << 8) | (bytes[at + 6]! << 16) | (bytes[at + 7]! << 24)) >>> 0;
}

/** Names a blob: who sends it (client slot), its number at that client, and a position (Chunk) or total length. */
export interface BlobReference {
  client: number;
  blob: number;
  /** Chunk: where these bytes begin; 0 starts the blob anew. PutBlob, ApplyBatch: total bytes. */
  offset: number;
  /** ApplyBatch: number of inner operations. Chunk with offset 0: total bytes, 0 if the blob is given up. Otherwise 0. */
  count: number;
}

/** 24 bytes: client u32 · blob u32 · offset f64 · count u32 · zero u32. */
export function writeBlobReference(bytes: Uint8Array, at: number, reference: BlobReference): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset + at, BLOB_REFERENCE_BYTES);
  view.setUint32(0, reference.client, true);
  view.setUint32(4, reference.blob, true);
  view.setFloat64(8, reference.offset, true);
  view.setUint32(16, reference.count, true);
  view.setUint32(20, 0, true);
}

export function readBlobReference(bytes: Uint8Array, at: number): BlobReference {
  const view = new DataView(bytes.buffer, bytes.byteOffset + at, BLOB_REFERENCE_BYTES);
  const offset = view.getFloat64(8, true);
  if (!Number.isSafeInteger(offset) || offset < 0 || offset > MAX_VALUE_BYTES) {
    throw new ConcordError('ERR_CORRUPT', `operation record: blob offset ${offset} is out of range`);
  }
  return { client: view.getUint32(0, true), blob: view.getUint32(4, true), offset, count: view.getUint32(16, true) };
}

const f64 = new Float64Array(1);
const f64Bytes = new Uint8Array(f64.buffer);

/** An f64 at any place. */
function readNumber(bytes: Uint8Array, at: number): number {
  for (let i = 0; i < 8; i++) f64Bytes[i] = bytes[at + i]!;
  return f64[0]!;
}

export function writeNumber(bytes: Uint8Array, at: number, value: number): void {
  f64[0] = value;
  for (let i = 0; i < 8; i++) bytes[at + i] = f64Bytes[i]!;
}

/** Whether it may be a sequence number or a transaction's id, or 0 for none. */
export function isNumber(value: number): boolean {
  return value >= 0 && value <= NUMBER_MAX && Math.floor(value) === value && !Object.is(value, -0);
}

/** Of a prepared transaction: what stands in its record beside the writes. */
export interface PrepareKey {
  id: number;
  /** Shards that it writes to: bit s of (high, low). */
  maskLow: number;
  maskHigh: number;
  /** Slot of the client that asked for it. */
  client: number;
}

export function writePrepareKey(bytes: Uint8Array, at: number, { id, maskLow, maskHigh, client }: PrepareKey): void {
  writeNumber(bytes, at, id);
  writeU32LE(bytes, at + 8, maskLow);
  writeU32LE(bytes, at + 12, maskHigh);
  writeU32LE(bytes, at + 16, client);
  writeU32LE(bytes, at + 20, 0);
}

/** Of a (checked) Prepare record. */
export function readPrepareKey(bytes: Uint8Array, at: number): PrepareKey {
  const key = at + OPERATION_HEADER_BYTES;
  return {
    id: readNumber(bytes, key),
    maskLow: readU32LE(bytes, key + 8),
    maskHigh: readU32LE(bytes, key + 12),
    client: readU32LE(bytes, key + 16),
  };
}

/** Of a (checked) Prepare or Resolve record. */
export function readTransactionId(bytes: Uint8Array, at: number): number {
  return readNumber(bytes, at + OPERATION_HEADER_BYTES);
}

/** Of a (checked) Resolve record: 0 for a transaction that was given up. */
export function readResolveNumber(bytes: Uint8Array, at: number): number {
  return readNumber(bytes, at + OPERATION_HEADER_BYTES + 8);
}

/**
 * Checks the record at `at` against `end` and returns its size in bytes, padding included.
 * @throws ERR_CORRUPT when any field is impossible; after a normal return every offset derived from the header is in bounds.
 */
export function checkOperation(bytes: Uint8Array, at: number, end: number): number {
  if (at + OPERATION_HEADER_BYTES > end) throw corrupt(at, 'header is cut off');
  const kind = bytes[at]!;
  const flags = bytes[at + 1]!;
  const keyLength = readKeyLength(bytes, at);
  const valueLength = readValueLength(bytes, at);
  const extensionBytes = flags >= OPERATION_EXTENDED ? OPERATION_EXTENSION_BYTES : 0;
  const size = OPERATION_HEADER_BYTES + extensionBytes + keyLength + valueLength;
  if (size > end - at || ((size + 3) & ~3) > end - at) throw corrupt(at, `${size} bytes do not fit into ${end - at}`);
  let flagsKnown = 0;
  if (kind === OperationKind.Put || kind === OperationKind.Delete) {
    flagsKnown = OPERATION_EXTENDED | OPERATION_JOINED;
    if (kind === OperationKind.Delete) flagsKnown |= OPERATION_EXPIRED;
  } else if (kind === OperationKind.Chunk) {
    flagsKnown = CHUNK_OF_BATCH;
    if (keyLength !== BLOB_REFERENCE_BYTES) throw corrupt(at, 'chunk without a blob reference');
    const { offset, count } = readBlobReference(bytes, at + OPERATION_HEADER_BYTES);
    if (offset === 0 && (count > MAX_VALUE_BYTES || valueLength > count)) throw corrupt(at, `a blob of ${count} bytes`);
  } else if (kind === OperationKind.PutBlob || kind === OperationKind.ApplyBatch) {
    if (kind === OperationKind.PutBlob) flagsKnown = OPERATION_EXTENDED | OPERATION_JOINED;
    if (valueLength !== BLOB_REFERENCE_BYTES) throw corrupt(at, 'blob operation without a blob reference');
  } else if (kind === OperationKind.ClearRange) {
    flagsKnown = OPERATION_EXTENDED | CLEAR_HAS_LOW | CLEAR_HAS_HIGH;
  } else if (kind === OperationKind.Prepare) {
    checkPrepare(bytes, at, keyLength, valueLength);
  } else if (kind === OperationKind.Resolve) {
    checkResolve(bytes, at, keyLength, valueLength);
  } else {
    throw corrupt(at, `unknown kind ${kind}`);
  }
  if ((flags & ~flagsKnown) !== 0) throw corrupt(at, `unknown flags ${flags} of kind ${kind}`);
  if (extensionBytes > 0) {
    if (readOperationSpace(bytes, at) > SPACE_ID_MAX || bytes[at + 18] !== 0 || bytes[at + 19] !== 0)
      throw corrupt(at, 'an impossible extension');
    if (kind !== OperationKind.Put && kind !== OperationKind.PutBlob && readOperationExpiry(bytes, at) !== 0)
      throw corrupt(at, 'only what is put expires');
  }
  return (size + 3) & ~3;
}

/**
 * Checks records that are all Put or Delete and belong together: the writes of a transaction, [start, end). Returns how many there are.
 * @throws ERR_CORRUPT
 */
export function checkWrites(bytes: Uint8Array, start: number, end: number): number {
  let writes = 0;
  for (let at = start; at < end;) {
    const size = end - at < OPERATION_HEADER_BYTES ? 0 : checkWrite(bytes, at, end);
    if (size === 0) throw corrupt(at, 'a write of a transaction is cut off');
    const isJoined = (bytes[at + 1]! & OPERATION_JOINED) !== 0;
    at += size;
    if (isJoined !== at < end) throw corrupt(at - size, 'the writes of a transaction are not joined, or with nothing');
    writes++;
  }
  return writes;
}

function checkWrite(bytes: Uint8Array, at: number, end: number): number {
  // Looked at first: a Prepare within a Prepare would be checked within a check.
  const kind = bytes[at];
  if (kind !== OperationKind.Put && kind !== OperationKind.Delete)
    throw corrupt(at, `a transaction cannot write by operations of kind ${kind}`);
  return checkOperation(bytes, at, end);
}

function checkPrepare(bytes: Uint8Array, at: number, keyLength: number, valueLength: number): void {
  if (bytes[at + 1] !== 0 || keyLength !== PREPARE_KEY_BYTES || valueLength === 0)
    throw corrupt(at, 'a prepared transaction without its id, or without writes');
  const key = at + OPERATION_HEADER_BYTES;
  const txn = readNumber(bytes, key);
  if (!isNumber(txn) || txn === 0) throw corrupt(at, `impossible transaction ${txn}`);
  for (let byte = key + 20; byte < key + 24; byte++)
    if (bytes[byte] !== 0) throw corrupt(at, 'bytes that must be zero');
  const start = key + PREPARE_KEY_BYTES;
  checkWrites(bytes, start, start + valueLength);
}

function checkResolve(bytes: Uint8Array, at: number, keyLength: number, valueLength: number): void {
  if (bytes[at + 1] !== 0 || keyLength !== RESOLVE_KEY_BYTES || valueLength !== 0)
    throw corrupt(at, 'the end of a transaction without its id');
  const txn = readNumber(bytes, at + OPERATION_HEADER_BYTES);
  const number = readNumber(bytes, at + OPERATION_HEADER_BYTES + 8);
  if (!isNumber(txn) || txn === 0 || !isNumber(number))
    throw corrupt(at, `impossible transaction ${txn} with number ${number}`);
}

/** Sequence numbers the (checked) record takes. */
export function operationSpan(bytes: Uint8Array, at: number): number {
  const kind = bytes[at]!;
  if (kind < OperationKind.ApplyBatch) return 1;
  if (kind !== OperationKind.ApplyBatch) return 0;
  return Math.max(1, readBlobReference(bytes, operationKeyAt(bytes, at) + readKeyLength(bytes, at)).count);
}

function corrupt(at: number, what: string): ConcordError {
  return new ConcordError('ERR_CORRUPT', `operation record at ${at}: ${what}`, { offset: at });
}
