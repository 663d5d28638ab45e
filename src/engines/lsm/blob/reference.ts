/**
 * A reference to a value in a blob file: the value of a table's entry with EntryFlag.blob.
 *
 *   file varint32 · offset varint53 · recordBytes varint53 · valueBytes varint53
 *
 * Threads: any; no state.
 */
import { readVarint32, readVarint53, varintBytes, writeVarint32, writeVarint53 } from '../../../shared/codec/varint.js';
import type { BlobReference } from '../types.js';

/** No encoded reference is longer. */
export const BLOB_REFERENCE_BYTES_MAX = 5 + 3 * 8;

/** Returns the place behind it. */
export function encodeBlobReference(into: Uint8Array, at: number, reference: BlobReference): number {
  at = writeVarint32(into, at, reference.file);
  at = writeVarint53(into, at, reference.offset);
  at = writeVarint53(into, at, reference.recordBytes);
  return writeVarint53(into, at, reference.valueBytes);
}

/** Undefined: bytes[at, end) are none. */
export function decodeBlobReference(bytes: Uint8Array, at: number, end: number): BlobReference | undefined {
  const file = readVarint32(bytes, at, end);
  if (file < 1) return undefined;
  at += varintBytes(file);
  const offset = readVarint53(bytes, at, end);
  if (offset < 0) return undefined;
  at += varintBytes(offset);
  const recordBytes = readVarint53(bytes, at, end);
  if (recordBytes < 0) return undefined;
  at += varintBytes(recordBytes);
  const valueBytes = readVarint53(bytes, at, end);
  if (valueBytes < 0 || at + varintBytes(valueBytes) !== end) return undefined;
  return { file, offset, recordBytes, valueBytes };
}
