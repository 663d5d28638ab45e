/**
 * Writes a blob file: one record after the other, each for one value, whole or in pieces. Memory: a chunk and the bytes of the next write, however long
 * a value is.
 *
 * The file gets its name at once; until finish() has synced it nothing may refer to it. What a crash leaves is an orphan.
 * Threads: any; an object belongs to one thread. Bytes: format.ts.
 */
import { assert } from '../../../shared/assert.js';
import { crc32 } from '../../../shared/checksum.js';
import { U48_MAX, writeU16LE, writeU32LE, writeU48LE } from '../../../shared/codec/fixed.js';
import type { Env, EnvFile } from '../../../shared/env/env.js';
import { checkCompression, compress } from '../table/compression.js';
import { KEY_BYTES_MAX } from '../table/entry.js';
import { TRAILER_BYTES, identitySeed, sealBlock, seedAt } from '../table/format.js';
import {
  CompressionCode,
  type BlobFileInfo,
  type BlobReference,
  type CompressionName,
  type LsmIdentity,
} from '../types.js';
import { BLOB_KIND, CHUNK_BYTES, RECORD_HEADER_BYTES, chunkCount, encodeBlobFooter, headerBytes } from './format.js';

/** The file grows by so much at a time. */
const WRITE_BYTES = 512 * 1024;
/** The rest holds a chunk, which lz4 may have made a little larger. */
const OUT_BYTES = WRITE_BYTES + 128 * 1024;

export interface BlobWriterParameters {
  readonly identity: LsmIdentity;
  readonly number: number;
  readonly compression: CompressionName;
  readonly createdAt: number;
}

export class BlobWriter {
  readonly path: string;
  readonly number: number;
  records = 0;
  readonly #env: Env;
  readonly #file: EnvFile;
  readonly #parameters: BlobWriterParameters;
  readonly #seed: number;
  readonly #out = new Uint8Array(OUT_BYTES);
  #outAt = 0;
  /** Where out[0] will lie. */
  #outOffset = 0;
  #isOver = false;

  /** Header of the record that was begun; its chunks' sizes come as they are written. Empty: none was begun. */
  #header = new Uint8Array(0);
  #recordOffset = 0;
  #valueBytes = 0;
  #missingBytes = 0;
  #chunk = 0;
  readonly #gathered = new Uint8Array(CHUNK_BYTES);
  #gatheredBytes = 0;

  private constructor(env: Env, path: string, parameters: BlobWriterParameters) {
    checkCompression(parameters.compression);
    this.path = path;
    this.number = parameters.number;
    this.#env = env;
    this.#parameters = parameters;
    this.#seed = identitySeed(BLOB_KIND, parameters.identity, parameters.number);
    this.#file = env.open(path, 'create');
  }

  /** The file must not exist. @throws ERR_INVALID_ARG, ERR_IO, ERR_DISK_FULL */
  static create(env: Env, path: string, parameters: BlobWriterParameters): BlobWriter {
    return new BlobWriter(env, path, parameters);
  }

  /** Of the file, without its footer. */
  get bytes(): number {
    return this.#outOffset + this.#outAt;
  }

  /** Written to the file so far. */
  get writtenBytes(): number {
    return this.#outOffset;
  }

  /** One whole value. @throws ERR_IO, ERR_DISK_FULL: then abort() is what is left */
  append(
    key: Uint8Array,
    keyLength: number,
    value: Uint8Array,
    valueStart: number,
    valueLength: number,
    seq: number,
  ): BlobReference {
    this.begin(key, keyLength, valueLength, seq);
    this.piece(value, valueStart, valueLength);
    return this.end();
  }

  /** Begins the record of a value that comes in pieces. */
  begin(key: Uint8Array, keyLength: number, valueBytes: number, seq: number): void {
    assert(this.#header.length === 0 && !this.#isOver, 'one record at a time');
    assert(keyLength <= KEY_BYTES_MAX && valueBytes <= U48_MAX && seq <= U48_MAX, 'a record fits a blob file');
    const header = new Uint8Array(headerBytes(keyLength, valueBytes));
    writeU16LE(header, 4, keyLength);
    writeU48LE(header, 8, valueBytes);
    writeU48LE(header, 14, seq);
    header.set(key.subarray(0, keyLength), RECORD_HEADER_BYTES + 4 * chunkCount(valueBytes));
    this.#header = header;
    this.#recordOffset = this.bytes;
    this.#valueBytes = valueBytes;
    this.#missingBytes = valueBytes;
    this.#chunk = 0;
    // Room for it: end() puts it there.
    if (header.length > OUT_BYTES - this.#outAt) this.#flush();
    if (header.length > OUT_BYTES) this.#outOffset += header.length;
    else this.#outAt += header.length;
  }

  piece(bytes: Uint8Array, start: number, length: number): void {
    assert(length <= this.#missingBytes, 'a value has the bytes it was begun with');
    this.#missingBytes -= length;
    let at = start;
    const end = start + length;
    while (at < end) {
      if (this.#gatheredBytes === 0 && (end - at >= CHUNK_BYTES || this.#missingBytes === 0)) {
        const whole = Math.min(CHUNK_BYTES, end - at);
        this.#writeChunk(bytes, at, whole);
        at += whole;
        continue;
      }
      const taken = Math.min(end - at, CHUNK_BYTES - this.#gatheredBytes);
      this.#gathered.set(bytes.subarray(at, at + taken), this.#gatheredBytes);
      this.#gatheredBytes += taken;
      at += taken;
      if (this.#gatheredBytes === CHUNK_BYTES) this.#endChunk();
    }
  }

  end(): BlobReference {
    assert(this.#header.length > 0 && this.#missingBytes === 0, 'a value is whole when it ends');
    if (this.#gatheredBytes > 0) this.#endChunk();
    const header = this.#header;
    const offset = this.#recordOffset;
    writeU32LE(header, 0, crc32(header, 4, header.length - 4, seedAt(offset, this.#seed)));
    if (offset >= this.#outOffset) this.#out.set(header, offset - this.#outOffset);
    else this.#file.write(header, 0, header.length, offset);
    this.#header = new Uint8Array(0);
    this.records++;
    return {
      file: this.number,
      offset,
      recordBytes: this.bytes - offset,
      valueBytes: this.#valueBytes,
    };
  }

  /** Footer; synced and closed. The directory is the caller's to sync. @throws ERR_IO, ERR_DISK_FULL */
  finish(): BlobFileInfo {
    assert(this.#header.length === 0 && !this.#isOver, 'a file ends behind a record');
    const { identity, number, createdAt } = this.#parameters;
    const recordBytes = this.bytes;
    this.#flush();
    const info: BlobFileInfo = { number, bytes: 0, records: this.records, recordBytes, createdAt };
    const footerBytes = encodeBlobFooter(info, identity).length;
    const finished = { ...info, bytes: recordBytes + footerBytes };
    this.#file.write(encodeBlobFooter(finished, identity), 0, footerBytes, recordBytes);
    this.#file.sync();
    this.#isOver = true;
    this.#file.close();
    return finished;
  }

  /** Closes and removes the file. Never throws: what stays is an orphan. */
  abort(): void {
    if (this.#isOver) return;
    this.#isOver = true;
    try {
      this.#file.close();
      this.#env.remove(this.path);
    } catch {
      // The error that led here is what the caller wants to know of.
    }
  }

  #endChunk(): void {
    this.#writeChunk(this.#gathered, 0, this.#gatheredBytes);
    this.#gatheredBytes = 0;
  }

  #writeChunk(bytes: Uint8Array, start: number, length: number): void {
    const { compression } = this.#parameters;
    const packed = compression === 'none' ? undefined : compress(compression, bytes, length, start);
    const storedBytes = (packed?.length ?? length) + TRAILER_BYTES;
    if (storedBytes > OUT_BYTES - this.#outAt) this.#flush();
    const offset = this.bytes;
    this.#out.set(packed ?? bytes.subarray(start, start + length), this.#outAt);
    const code = packed === undefined ? CompressionCode.none : CompressionCode[compression];
    this.#outAt = sealBlock(this.#out, this.#outAt, storedBytes - TRAILER_BYTES, code, offset, this.#seed);
    writeU32LE(this.#header, RECORD_HEADER_BYTES + 4 * this.#chunk++, storedBytes);
    if (this.#outAt >= WRITE_BYTES) this.#flush();
  }

  #flush(): void {
    if (this.#outAt === 0) return;
    this.#file.write(this.#out, 0, this.#outAt, this.#outOffset);
    this.#outOffset += this.#outAt;
    this.#outAt = 0;
  }
}
