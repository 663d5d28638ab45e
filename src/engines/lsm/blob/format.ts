/**
 * Bytes of a blob file: large values, which tables refer to. Worked example and reasons: FORMAT.md beside this file.
 *
 *   record · record · … · footer
 *
 *   record    offset  size  field
 *                  0     4  crc          crc32 over [4, end of the key), seeded with crc32 over the record's offset (u48), seeded with the identity
 *                  4     2  keyBytes     u16
 *                  6     2  zero
 *                  8     6  valueBytes   u48
 *                 14     6  seq          u48
 *                 20   4×n  chunkBytes   u32 for each chunk, as it lies in the file, trailer included
 *                        k  key
 *                           chunks       64 KiB of the value each, the last one the rest; stored like a table's blocks: bytes, code, crc
 *
 *   footer    offset  size  field        the last 96 bytes of the file
 *                  0    40  identity     as in a table's footer, magic "CKV-BLB\n", version 1
 *                 40     8  fileBytes    u48, two zero bytes
 *                 48     8  records      u48, two zero bytes
 *                 56     8  recordBytes  u48, two zero bytes
 *                 64     8  createdAt    u48 milliseconds, two zero bytes
 *                 72    20  zero
 *                 92     4  crc          crc32 over [0, 92)
 *
 * Versions: 1, the first. Golden bytes: test/golden/lsm-blob.txt. Threads: any; no state.
 */
import {
  FOOTER_BYTES,
  checkFooter,
  damaged,
  sealFooter,
  writeIdentity,
  type FileKind,
  type FooterIdentity,
} from '../table/format.js';
import type { BlobFileInfo, LsmIdentity } from '../types.js';

export { BLOB_REFERENCE_BYTES_MAX, decodeBlobReference, encodeBlobReference } from './reference.js';

const BLOB_FORMAT_VERSION = 1;
export const BLOB_KIND: FileKind = {
  magic: Buffer.from('CKV-BLB\n', 'latin1'),
  version: BLOB_FORMAT_VERSION,
  what: 'blob file',
};
export const RECORD_HEADER_BYTES = 20;
/** Of the value, in each chunk but the last. */
export const CHUNK_BYTES = 64 * 1024;

export function chunkCount(valueBytes: number): number {
  return Math.ceil(valueBytes / CHUNK_BYTES);
}

/** Of a record before its chunks. */
export function headerBytes(keyBytes: number, valueBytes: number): number {
  return RECORD_HEADER_BYTES + 4 * chunkCount(valueBytes) + keyBytes;
}

export function encodeBlobFooter(info: BlobFileInfo, identity: LsmIdentity): Buffer {
  const bytes = Buffer.alloc(FOOTER_BYTES);
  writeIdentity(bytes, BLOB_KIND, identity, info.number);
  bytes.writeUIntLE(info.bytes, 40, 6);
  bytes.writeUIntLE(info.records, 48, 6);
  bytes.writeUIntLE(info.recordBytes, 56, 6);
  bytes.writeUIntLE(info.createdAt, 64, 6);
  sealFooter(bytes);
  return bytes;
}

/** @throws ERR_CORRUPT, ERR_FORMAT_VERSION */
export function decodeBlobFooter(
  bytes: Buffer,
  fileBytes: number,
  file: string,
): { readonly owner: FooterIdentity; readonly info: BlobFileInfo } {
  const owner = checkFooter(bytes, 0, BLOB_KIND, fileBytes, file);
  const info: BlobFileInfo = {
    number: owner.number,
    bytes: fileBytes,
    records: bytes.readUIntLE(48, 6),
    recordBytes: bytes.readUIntLE(56, 6),
    createdAt: bytes.readUIntLE(64, 6),
  };
  if (info.recordBytes + FOOTER_BYTES !== fileBytes || info.records * RECORD_HEADER_BYTES > info.recordBytes) {
    const text = `footer: ${info.records} records of ${info.recordBytes} bytes in a file of ${fileBytes}`;
    throw damaged(file, fileBytes - FOOTER_BYTES, text);
  }
  return { owner, info };
}
