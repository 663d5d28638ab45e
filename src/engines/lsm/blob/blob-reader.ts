/**
 * Reads values of a blob file, whole or in parts; of a long value only the chunks that are asked for.
 *
 * What is handed out is exactly what was written for that reference, or there is an error that names file and offset: checksums cover the file's
 * identity and the place. Nothing but the last record's header is kept.
 * Threads: any; an object belongs to one thread.
 */
import { crc32 } from '../../../shared/checksum.js';
import { readU16LE, readU32LE, readU48LE } from '../../../shared/codec/fixed.js';
import type { Env, EnvFile } from '../../../shared/env/env.js';
import { BlockBuffer } from '../table/block.js';
import { decompress } from '../table/compression.js';
import { KEY_BYTES_MAX } from '../table/entry.js';
import {
  FOOTER_BYTES,
  TRAILER_BYTES,
  checkOwner,
  damaged,
  identitySeed,
  openBlock,
  seedAt,
  type FooterIdentity,
} from '../table/format.js';
import { openExisting } from '../table/table-file.js';
import { CompressionCode, type BlobFileInfo, type BlobReference, type LsmIdentity } from '../types.js';
import { BLOB_KIND, CHUNK_BYTES, RECORD_HEADER_BYTES, chunkCount, decodeBlobFooter, headerBytes } from './format.js';

/** A record up to here is read with one call; of a larger one first the header, then chunks, so many bytes at a time. */
const READ_BYTES = 256 * 1024;

/** A record's header, as walk() shows it. */
export interface BlobRecord {
  readonly key: Uint8Array;
  readonly seq: number;
  readonly reference: BlobReference;
}

export class BlobReader {
  readonly path: string;
  readonly #file: EnvFile;
  readonly #seed: number;
  readonly #number: number;
  readonly #identity: LsmIdentity;
  #fileBytes = -1;
  readonly #read = new BlockBuffer(0);
  /** The header that was read last: of the record at #offset (-1: none), with the place of each of its chunks and of their end. */
  readonly #header = new BlockBuffer(256);
  #offset = -1;
  #recordBytes = 0;
  #valueBytes = 0;
  #keyBytes = 0;
  #chunkOffsets = new Float64Array(8);

  private constructor(file: EnvFile, identity: LsmIdentity, number: number) {
    this.path = file.path;
    this.#file = file;
    this.#identity = identity;
    this.#number = number;
    this.#seed = identitySeed(BLOB_KIND, identity, number);
  }

  /** Nothing of the file is looked at before the first read. @throws ERR_CORRUPT (missing), ERR_IO, ERR_PERMISSION */
  static open(env: Env, path: string, identity: LsmIdentity, number: number): BlobReader {
    return new BlobReader(openExisting(env, path, 'blob file'), identity, number);
  }

  /** Any blob file: its footer says whose it is. @throws ERR_CORRUPT, ERR_FORMAT_VERSION, ERR_IO */
  static openAny(env: Env, path: string): { readonly reader: BlobReader; readonly owner: FooterIdentity } {
    const file = openExisting(env, path, 'blob file');
    try {
      const { owner } = readFooter(file);
      return { reader: new BlobReader(file, owner, owner.number), owner };
    } catch (error) {
      file.close();
      throw error;
    }
  }

  /** What the footer says. @throws ERR_CORRUPT, ERR_FORMAT_VERSION, ERR_IO */
  readInfo(expectedBytes?: number): BlobFileInfo {
    const { owner, info } = readFooter(this.#file, expectedBytes);
    checkOwner(owner, this.#identity, this.#number, this.path);
    return info;
  }

  /**
   * Bytes [from, from + length) of the value, as far as it goes, to into[at …). Returns how many. @throws ERR_CORRUPT, ERR_IO, ERR_UNSUPPORTED
   */
  read(reference: BlobReference, into: Uint8Array, at: number, from: number, length: number): number {
    const { offset, recordBytes, valueBytes } = reference;
    const end = Math.min(from + length, valueBytes);
    this.#checkPlace(offset, recordBytes);
    let held = 0;
    if (offset !== this.#offset || recordBytes <= READ_BYTES) {
      held = Math.min(recordBytes, Math.max(READ_BYTES, RECORD_HEADER_BYTES));
      this.#fill(offset, held);
      if (this.#offset !== offset) this.#openHeader(offset, held);
    }
    if (this.#valueBytes !== valueBytes || this.#recordBytes !== recordBytes || reference.file !== this.#number) {
      const text =
        `record of ${this.#recordBytes} bytes for ${this.#valueBytes} of value in file ${this.#number}, ` +
        `referred to as ${recordBytes} for ${valueBytes} in file ${reference.file}`;
      throw damaged(this.path, offset, text);
    }
    if (from >= end) return 0;
    let done = from;
    // Of the file: what #read has.
    let heldFrom = offset;
    for (let chunk = Math.floor(from / CHUNK_BYTES); done < end; chunk++) {
      const chunkOffset = this.#chunkOffsets[chunk]!;
      const storedBytes = this.#chunkOffsets[chunk + 1]! - chunkOffset;
      if (chunkOffset < heldFrom || chunkOffset + storedBytes > heldFrom + held) {
        const last = Math.floor((end - 1) / CHUNK_BYTES);
        held = Math.max(storedBytes, Math.min(READ_BYTES, this.#chunkOffsets[last + 1]! - chunkOffset));
        heldFrom = chunkOffset;
        this.#fill(heldFrom, held);
      }
      const chunkStart = chunk * CHUNK_BYTES;
      const plainBytes = Math.min(CHUNK_BYTES, valueBytes - chunkStart);
      const start = done - chunkStart;
      const count = Math.min(plainBytes, end - chunkStart) - start;
      this.#copyChunk(chunkOffset, storedBytes, chunkOffset - heldFrom, plainBytes, start, count, into, at);
      at += count;
      done += count;
    }
    return end - from;
  }

  /** Shows the headers of all records, in order; their chunks are not looked at. @throws ERR_CORRUPT, ERR_IO */
  walk(visit: (record: BlobRecord) => void): void {
    const { recordBytes: allBytes, records } = this.readInfo();
    let offset = 0;
    let count = 0;
    while (offset < allBytes) {
      const held = Math.min(allBytes - offset, RECORD_HEADER_BYTES + KEY_BYTES_MAX);
      this.#fill(offset, held);
      this.#openHeader(offset, held);
      const recordBytes = this.#recordBytes;
      const valueBytes = this.#valueBytes;
      const header = this.#header.bytes;
      const keyAt = headerBytes(0, valueBytes);
      visit({
        key: header.slice(keyAt, keyAt + this.#keyBytes),
        seq: readU48LE(header, 14),
        reference: { file: this.#number, offset, recordBytes, valueBytes },
      });
      offset += recordBytes;
      count++;
    }
    if (offset !== allBytes || count !== records) {
      throw damaged(this.path, offset, `${count} records end at ${offset}, the footer has ${records} in ${allBytes}`);
    }
  }

  close(): void {
    this.#file.close();
  }

  #checkPlace(offset: number, recordBytes: number): void {
    if (this.#fileBytes < 0) this.#fileBytes = this.#file.size();
    if (recordBytes < RECORD_HEADER_BYTES || offset + recordBytes > this.#fileBytes - FOOTER_BYTES) {
      throw damaged(this.path, offset, `a record of ${recordBytes} bytes in a file of ${this.#fileBytes}`);
    }
  }

  /** [offset, offset + length) of the file to #read. */
  #fill(offset: number, length: number): void {
    const read = this.#file.read(this.#read.reserve(length), 0, length, offset);
    if (read < length) throw damaged(this.path, offset, `record: ${read} of ${length} bytes`);
  }

  /** Verifies the header of the record at `offset`, of which #read holds the beginning. */
  #openHeader(offset: number, held: number): void {
    this.#offset = -1;
    let bytes = this.#read.bytes;
    if (this.#fileBytes < 0) this.#fileBytes = this.#file.size();
    const room = this.#fileBytes - FOOTER_BYTES - offset;
    if (held < RECORD_HEADER_BYTES) throw damaged(this.path, offset, `a record of ${held} bytes`);
    const keyBytes = readU16LE(bytes, 4);
    const valueBytes = readU48LE(bytes, 8);
    const length = headerBytes(keyBytes, valueBytes);
    // Before anything is allocated for it.
    if (keyBytes > KEY_BYTES_MAX || length > room) {
      throw damaged(this.path, offset, `record: a key of ${keyBytes} bytes, a value of ${valueBytes}`);
    }
    if (length > held) {
      this.#fill(offset, length);
      bytes = this.#read.bytes;
    }
    const stored = readU32LE(bytes, 0);
    const computed = crc32(bytes, 4, length - 4, seedAt(offset, this.#seed));
    if (stored !== computed) {
      const text = `record: stored crc ${stored.toString(16)}, computed ${computed.toString(16)}`;
      throw damaged(this.path, offset, text);
    }
    const chunks = chunkCount(valueBytes);
    if (this.#chunkOffsets.length <= chunks) this.#chunkOffsets = new Float64Array(2 * chunks + 1);
    let at = offset + length;
    for (let chunk = 0; chunk < chunks; chunk++) {
      this.#chunkOffsets[chunk] = at;
      const storedBytes = readU32LE(bytes, RECORD_HEADER_BYTES + 4 * chunk);
      if (storedBytes <= TRAILER_BYTES || storedBytes > CHUNK_BYTES + TRAILER_BYTES) {
        throw damaged(this.path, offset, `record: chunk ${chunk} of ${storedBytes} bytes`);
      }
      at += storedBytes;
    }
    this.#chunkOffsets[chunks] = at;
    if (at - offset > room) throw damaged(this.path, offset, `a record of ${at - offset} bytes`);
    this.#header.reserve(length).set(bytes.subarray(0, length));
    this.#keyBytes = keyBytes;
    this.#valueBytes = valueBytes;
    this.#recordBytes = at - offset;
    this.#offset = offset;
  }

  /** Bytes [start, start + count) of a chunk that lies at #read[at …), to into[to …). */
  #copyChunk(
    offset: number,
    storedBytes: number,
    at: number,
    plainBytes: number,
    start: number,
    count: number,
    into: Uint8Array,
    to: number,
  ): void {
    const { bytes } = this.#read;
    const code = openBlock(bytes, at, storedBytes, offset, this.#seed, this.path);
    if (code === CompressionCode.none) {
      if (storedBytes - TRAILER_BYTES !== plainBytes) {
        throw damaged(this.path, offset, `a chunk of ${storedBytes - TRAILER_BYTES} bytes, expected ${plainBytes}`);
      }
      into.set(bytes.subarray(at + start, at + start + count), to);
      return;
    }
    const plain = decompress(code, bytes, at, storedBytes - TRAILER_BYTES);
    if (plain?.length !== plainBytes) {
      throw damaged(this.path, offset, `chunk does not decompress to ${plainBytes} bytes with code ${code}`);
    }
    into.set(plain.subarray(start, start + count), to);
  }
}

function readFooter(
  file: EnvFile,
  expectedBytes?: number,
): { readonly owner: FooterIdentity; readonly info: BlobFileInfo } {
  const fileBytes = file.size();
  if (expectedBytes !== undefined && fileBytes !== expectedBytes) {
    const offset = Math.min(fileBytes, expectedBytes);
    throw damaged(file.path, offset, `a file of ${fileBytes} bytes, expected ${expectedBytes}`);
  }
  if (fileBytes < FOOTER_BYTES) throw damaged(file.path, fileBytes, `a file of ${fileBytes} bytes is no blob file`);
  const bytes = Buffer.alloc(FOOTER_BYTES);
  const read = file.read(bytes, 0, FOOTER_BYTES, fileBytes - FOOTER_BYTES);
  if (read < FOOTER_BYTES) throw damaged(file.path, fileBytes - FOOTER_BYTES, `footer: ${read} bytes`);
  return decodeBlobFooter(bytes, fileBytes, file.path);
}
