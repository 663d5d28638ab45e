/**
 * Applying operation records: the same function for groups of the living shard and for frames of its log that are replayed.
 *
 * Must hold: a record is applied with the number it was logged with, so that both come to the same state; what it needs was made sure of before it was logged.
 * Threads: the shard's thread only.
 */
import { ConcordError } from '../../shared/errors.js';
import { DEFAULT_SPACE_ID } from '../engine.js';
import {
  CLEAR_HAS_HIGH,
  CLEAR_HAS_LOW,
  OPERATION_EXTENDED,
  OPERATION_HEADER_BYTES,
  OperationKind,
  checkOperation,
  operationKeyAt,
  readBlobReference,
  readKeyLength,
  readOperationExpiry,
  readOperationSpace,
  readValueLength,
} from '../operation.js';
import type { IncomingBlobs } from './blobs.js';
import { GroupOrder } from './group-order.js';
import type { SpaceTable } from './space-table.js';

/** Applies the record at `at` with number `seq`, or from there on. Returns the next free number. @throws ERR_CORRUPT, ERR_MEMORY_FULL */
export function applyRecord(
  spaces: SpaceTable,
  bytes: Uint8Array,
  at: number,
  seq: number,
  blobs: IncomingBlobs,
): number {
  const keyLength = readKeyLength(bytes, at);
  const isExtended = bytes[at + 1]! >= OPERATION_EXTENDED;
  const spaceId = isExtended ? readOperationSpace(bytes, at) : DEFAULT_SPACE_ID;
  const keyStart = operationKeyAt(bytes, at);
  const valueStart = keyStart + keyLength;
  switch (bytes[at]) {
    case OperationKind.Put: {
      const expiresAt = isExtended ? readOperationExpiry(bytes, at) : 0;
      const valueLength = readValueLength(bytes, at);
      spaces.put(spaceId, bytes, keyStart, keyLength, bytes, valueStart, valueLength, seq, expiresAt);
      return seq + 1;
    }
    case OperationKind.Delete:
      spaces.del(spaceId, bytes, keyStart, keyLength, seq);
      return seq + 1;
    case OperationKind.ClearRange: {
      const flags = bytes[at + 1]!;
      const low = flags & CLEAR_HAS_LOW ? bytes.subarray(keyStart, valueStart) : undefined;
      const high =
        flags & CLEAR_HAS_HIGH ? bytes.subarray(valueStart, valueStart + readValueLength(bytes, at)) : undefined;
      spaces.removeRange(spaceId, low, high, seq);
      return seq + 1;
    }
    case OperationKind.Chunk:
      blobs.receive(bytes, at, spaces.lsn);
      return seq + 1;
    case OperationKind.PutBlob: {
      const reference = readBlobReference(bytes, valueStart);
      const blob = blobs.take(reference.client, reference.blob, reference.offset);
      if (blob?.overflow === undefined) throw missingBlob(reference.client, reference.blob);
      const chain = blob.overflow.finish();
      spaces.putOverflow(spaceId, bytes, keyStart, keyLength, chain, seq, readOperationExpiry(bytes, at));
      spaces.noteLsn(blob.firstLsn);
      return seq + 1;
    }
    case OperationKind.ApplyBatch: {
      const reference = readBlobReference(bytes, keyStart + keyLength);
      const blob = blobs.take(reference.client, reference.blob, reference.offset);
      if (blob?.batch === undefined) throw missingBlob(reference.client, reference.blob);
      const next = applyBatch(spaces, blob.batch, blob.totalBytes, reference.count, seq, blobs);
      spaces.noteLsn(blob.firstLsn);
      return next;
    }
    default:
      throw new ConcordError('ERR_CORRUPT', `operation record of unknown kind ${bytes[at]}`);
  }
}

/** The operations of a large batch, in page order. Returns the next free sequence number. */
function applyBatch(
  spaces: SpaceTable,
  batch: Buffer,
  totalBytes: number,
  operations: number,
  seq: number,
  blobs: IncomingBlobs,
): number {
  if (operations * OPERATION_HEADER_BYTES > totalBytes)
    throw new ConcordError('ERR_CORRUPT', `a batch of ${totalBytes} bytes cannot hold ${operations} operations`);
  const recordAt = new Int32Array(operations);
  let records = 0;
  for (let at = 0; at < totalBytes; at += checkOperation(batch, at, totalBytes)) recordAt[records++] = at;
  if (records !== operations)
    throw new ConcordError('ERR_CORRUPT', `a batch of ${records} operations was logged as one of ${operations}`);
  const order = new GroupOrder();
  if (order.sort(batch, recordAt, records, 0)) {
    for (let i = 0; i < records; i++) {
      const index = order.order[i]!;
      applyRecord(spaces, batch, recordAt[index]!, seq + index, blobs);
    }
    return seq + records;
  }
  let next = seq;
  for (let i = 0; i < records; i++) next = applyRecord(spaces, batch, recordAt[i]!, next, blobs);
  return Math.max(next, seq + 1);
}

function missingBlob(client: number, blob: number): ConcordError {
  return new ConcordError('ERR_CORRUPT', `blob ${blob} of client ${client} was named before it was complete`);
}
