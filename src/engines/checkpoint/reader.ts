/**
 * Reads a checkpoint chunk by chunk, and knows the checkpoint files of a directory.
 *
 * Everything is checked before it is handed out: each chunk against its crc, which chains all chunks before it, and at the end the
 * footer. A chunk is right when it is returned, but the file is only complete when nextChunk() has returned undefined.
 * Reads go through one buffer that grows to the largest chunk. Threads: any; readers never remove files.
 */
import { crc32 } from '../../shared/checksum.js';
import { ConcordError } from '../../shared/errors.js';
import type { Env, EnvFile } from '../../shared/env/env.js';
import {
  BLOCK_LENGTH_BYTES,
  CHUNK_BYTES_MAX,
  CRC_BYTES,
  FOOTER_BYTES,
  HEADER_BYTES,
  checkpointLsn,
  corrupt,
  decodeFooter,
  decodeHeader,
  isTemporaryName,
} from './format.js';
import type { CheckpointHeader } from './format.js';

export interface CheckpointReadOptions {
  /** When given, a file of another store or shard is refused. */
  readonly storeId?: Uint8Array | undefined;
  readonly shard?: number | undefined;
  readonly onHeader?: ((header: CheckpointHeader) => void) | undefined;
  /** Asked before each chunk; true ends the reading with ERR_CLOSED. */
  readonly isCancelled?: (() => boolean) | undefined;
}

const BUFFER_BYTES = 1 << 20;

/** Opens the file and checks its header. */
export function readCheckpoint(env: Env, path: string, options: CheckpointReadOptions = {}): CheckpointReader {
  const file = env.open(path, 'read');
  try {
    const reader = new CheckpointReader(file, options);
    options.onHeader?.(reader.header);
    return reader;
  } catch (error) {
    file.close();
    throw error;
  }
}

export class CheckpointReader implements Iterable<Buffer> {
  readonly header: CheckpointHeader;
  readonly fileBytes: number;
  readonly #file: EnvFile;
  readonly #isCancelled: (() => boolean) | undefined;
  /** Holds the file's bytes [#bufferOffset, #bufferOffset + #bufferedBytes). */
  #buffer = Buffer.allocUnsafeSlow(BUFFER_BYTES);
  #bufferOffset = 0;
  #bufferedBytes = 0;
  #position = HEADER_BYTES;
  #crc: number;
  #blockCount = 0;
  #payloadBytes = 0;
  #isDone = false;

  /** See readCheckpoint(). */
  constructor(file: EnvFile, options: CheckpointReadOptions) {
    this.#file = file;
    this.#isCancelled = options.isCancelled;
    this.fileBytes = file.size();
    this.#load(0, Math.min(HEADER_BYTES, this.fileBytes));
    const { header, seed } = decodeHeader(this.#buffer, this.#bufferedBytes, file.path);
    const namedLsn = checkpointLsn(file.path.slice(file.path.lastIndexOf('/') + 1));
    if (namedLsn !== undefined && namedLsn !== header.lsn) {
      throw corrupt(file.path, 32, `the image of record ${header.lsn} under the name of ${namedLsn}`);
    }
    if (options.storeId !== undefined && Buffer.compare(header.storeId, options.storeId) !== 0) {
      const found = Buffer.from(header.storeId).toString('hex');
      throw corrupt(
        file.path,
        16,
        `belongs to store ${found}, expected ${Buffer.from(options.storeId).toString('hex')}`,
      );
    }
    if (options.shard !== undefined && header.shard !== options.shard) {
      throw corrupt(file.path, 12, `belongs to shard ${header.shard}, expected ${options.shard}`);
    }
    this.header = header;
    this.#crc = seed;
  }

  /** The next chunk, valid until the next call; undefined after the last, once the footer has been checked. Then the file is closed. */
  nextChunk(): Buffer | undefined {
    if (this.#isDone) return undefined;
    if (this.#isCancelled?.() === true) {
      this.close();
      throw new ConcordError('ERR_CLOSED', `${this.#file.path}: the reading was cancelled`);
    }
    try {
      return this.#next();
    } catch (error) {
      this.close();
      throw error;
    }
  }

  close(): void {
    if (this.#isDone) return;
    this.#isDone = true;
    this.#file.close();
  }

  *[Symbol.iterator](): Generator<Buffer, void, undefined> {
    try {
      for (let chunk = this.nextChunk(); chunk !== undefined; chunk = this.nextChunk()) yield chunk;
    } finally {
      this.close();
    }
  }

  #next(): Buffer | undefined {
    const offset = this.#position;
    const remaining = this.fileBytes - offset;
    if (remaining < FOOTER_BYTES)
      throw corrupt(this.#file.path, offset, `${remaining} bytes are left where a block or the footer should be`);
    this.#load(offset, FOOTER_BYTES);
    const chunkBytes = this.#buffer.readUInt32LE(offset - this.#bufferOffset);
    if (chunkBytes === 0) {
      this.#checkFooter(offset, remaining);
      this.close();
      return undefined;
    }
    const blockBytes = BLOCK_LENGTH_BYTES + chunkBytes + CRC_BYTES;
    // A footer must follow.
    if (chunkBytes > CHUNK_BYTES_MAX || blockBytes > remaining - FOOTER_BYTES) {
      throw corrupt(
        this.#file.path,
        offset,
        `block ${this.#blockCount} claims ${chunkBytes} bytes, ${remaining} are left`,
      );
    }
    this.#load(offset, blockBytes);
    const at = offset - this.#bufferOffset;
    const computed = crc32(this.#buffer, at, BLOCK_LENGTH_BYTES + chunkBytes, this.#crc);
    const stored = this.#buffer.readUInt32LE(at + BLOCK_LENGTH_BYTES + chunkBytes);
    if (stored !== computed) {
      const text = `block ${this.#blockCount}: stored crc ${stored.toString(16)}, computed ${computed.toString(16)}`;
      throw corrupt(this.#file.path, offset, text);
    }
    this.#crc = computed;
    this.#blockCount++;
    this.#payloadBytes += chunkBytes;
    this.#position = offset + blockBytes;
    return this.#buffer.subarray(at + BLOCK_LENGTH_BYTES, at + BLOCK_LENGTH_BYTES + chunkBytes);
  }

  #checkFooter(offset: number, remaining: number): void {
    const path = this.#file.path;
    const footer = decodeFooter(this.#buffer, offset - this.#bufferOffset, this.#crc);
    if (footer === undefined) throw corrupt(path, offset, 'the footer does not match its crc');
    if (remaining !== FOOTER_BYTES)
      throw corrupt(path, offset + FOOTER_BYTES, `${remaining - FOOTER_BYTES} bytes behind the footer`);
    if (
      footer.fileBytes !== this.fileBytes ||
      footer.blockCount !== this.#blockCount ||
      footer.payloadBytes !== this.#payloadBytes
    ) {
      const expected = `${footer.blockCount} blocks, ${footer.payloadBytes} payload bytes, ${footer.fileBytes} bytes`;
      const found = `${this.#blockCount} blocks, ${this.#payloadBytes} payload bytes, ${this.fileBytes} bytes`;
      throw corrupt(path, offset, `the footer says ${expected}; found ${found}`);
    }
  }

  /** Makes the file's bytes [offset, offset + byteCount) stand in the buffer; reads ahead as far as it reaches. */
  #load(offset: number, byteCount: number): void {
    const bufferEnd = this.#bufferOffset + this.#bufferedBytes;
    if (offset >= this.#bufferOffset && offset + byteCount <= bufferEnd) return;
    const kept = Math.max(0, bufferEnd - offset);
    const keptAt = offset - this.#bufferOffset;
    if (byteCount > this.#buffer.length) {
      let capacity = this.#buffer.length;
      while (capacity < byteCount) capacity *= 2;
      const larger = Buffer.allocUnsafeSlow(capacity);
      larger.set(this.#buffer.subarray(keptAt, keptAt + kept), 0);
      this.#buffer = larger;
    } else if (kept > 0) this.#buffer.copyWithin(0, keptAt, keptAt + kept);
    const wanted = Math.min(this.#buffer.length, this.fileBytes - offset) - kept;
    const read = this.#file.read(this.#buffer, kept, wanted, offset + kept);
    this.#bufferOffset = offset;
    this.#bufferedBytes = kept + read;
    if (this.#bufferedBytes < byteCount) {
      throw corrupt(
        this.#file.path,
        offset + this.#bufferedBytes,
        `the file ended ${byteCount - this.#bufferedBytes} bytes early`,
      );
    }
  }
}

/** The newest finished checkpoint; its content is judged by readCheckpoint(). */
export function findCheckpoint(env: Env, directory: string): { path: string; lsn: number } | undefined {
  let newest: { path: string; lsn: number } | undefined;
  for (const name of env.list(directory)) {
    const lsn = checkpointLsn(name);
    if (lsn !== undefined && (newest === undefined || lsn > newest.lsn)) newest = { path: `${directory}/${name}`, lsn };
  }
  return newest;
}

/** For the directory's owner, at open and before findCheckpoint(): removes what interrupted writers left. Returns the count. */
export function removeTemporaryCheckpoints(env: Env, directory: string): number {
  return removeWhere(env, directory, isTemporaryName);
}

/** Removes finished checkpoints older than `lsn`. Returns the count. */
export function removeCheckpointsBefore(env: Env, directory: string, lsn: number): number {
  return removeWhere(env, directory, (name) => (checkpointLsn(name) ?? Infinity) < lsn);
}

function removeWhere(env: Env, directory: string, isRemoved: (name: string) => boolean): number {
  const names = env.list(directory).filter(isRemoved);
  for (const name of names) env.remove(`${directory}/${name}`);
  if (names.length > 0) env.syncDirectory(directory);
  return names.length;
}
