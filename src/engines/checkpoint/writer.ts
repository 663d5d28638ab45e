/**
 * Writes a checkpoint: create(), write() for every chunk, finish().
 *
 * Nothing of it can be found before finish() has synced the content, renamed the file to its final name and synced the directory;
 * only then may the log before it be truncated. Bytes are gathered into writes of 1 MiB; chunks are copied first, so that they may
 * lie in shared memory.
 *
 * The temporary name is unique. A writer that outlives the owner who ordered it (the shard restarted) fails at its rename, because
 * the owner's open removes temporary files before it looks for a checkpoint. An order not yet begun must be withdrawn by the owner.
 * Threads: any, usually a pool worker. Format: format.ts.
 */
import { assert } from '../../shared/assert.js';
import { crc32 } from '../../shared/checksum.js';
import { ConcordError, invalidArgument } from '../../shared/errors.js';
import type { Env, EnvFile } from '../../shared/env/env.js';
import {
  BLOCK_LENGTH_BYTES,
  CHUNK_BYTES_MAX,
  CRC_BYTES,
  FOOTER_BYTES,
  HEADER_BYTES,
  checkpointName,
  encodeFooter,
  encodeHeader,
} from './format.js';
import type { CheckpointHeader } from './format.js';

export type { CheckpointHeader } from './format.js';

export interface CheckpointWriterOptions {
  /** Asked before each chunk; true ends the writing with ERR_CLOSED. */
  readonly isCancelled?: (() => boolean) | undefined;
}

const BUFFER_BYTES = 1 << 20;

export class CheckpointWriter {
  readonly #env: Env;
  readonly #directory: string;
  readonly #temporaryPath: string;
  readonly #finalPath: string;
  readonly #file: EnvFile;
  readonly #isCancelled: (() => boolean) | undefined;
  readonly #buffer = Buffer.allocUnsafeSlow(BUFFER_BYTES);
  #buffered: number;
  #written = 0;
  #crc: number;
  #blockCount = 0;
  #payloadBytes = 0;
  #state: 'open' | 'finished' | 'aborted' = 'open';

  static create(
    env: Env,
    directory: string,
    header: CheckpointHeader,
    options: CheckpointWriterOptions = {},
  ): CheckpointWriter {
    return new CheckpointWriter(env, directory, header, options);
  }

  private constructor(env: Env, directory: string, header: CheckpointHeader, options: CheckpointWriterOptions) {
    this.#crc = encodeHeader(this.#buffer, header);
    this.#buffered = HEADER_BYTES;
    this.#env = env;
    this.#directory = directory;
    this.#isCancelled = options.isCancelled;
    const name = checkpointName(header.lsn);
    const unique = Buffer.from(env.randomBytes(8)).toString('hex');
    this.#temporaryPath = `${directory}/${name.replace(/\.ckpt$/, '')}-${unique}.tmp`;
    this.#finalPath = `${directory}/${name}`;
    this.#file = env.open(this.#temporaryPath, 'create');
  }

  /** One chunk of 1 ..= CHUNK_BYTES_MAX bytes; the reader gives back the same chunks. After a throw the checkpoint is aborted. */
  write(chunk: Uint8Array): void {
    assert(this.#state === 'open', `a checkpoint that is ${this.#state} gets a chunk`);
    if (chunk.length < 1 || chunk.length > CHUNK_BYTES_MAX) {
      throw invalidArgument(`a checkpoint chunk must have 1 ..= ${CHUNK_BYTES_MAX} bytes, got ${chunk.length}`);
    }
    try {
      if (this.#isCancelled?.() === true)
        throw new ConcordError('ERR_CLOSED', `${this.#finalPath}: the checkpoint was cancelled`);
      this.#room(BLOCK_LENGTH_BYTES);
      this.#buffer.writeUInt32LE(chunk.length, this.#buffered);
      let crc = crc32(this.#buffer, this.#buffered, BLOCK_LENGTH_BYTES, this.#crc);
      this.#buffered += BLOCK_LENGTH_BYTES;
      for (let from = 0; from < chunk.length;) {
        this.#room(1);
        const byteCount = Math.min(chunk.length - from, BUFFER_BYTES - this.#buffered);
        this.#buffer.set(byteCount === chunk.length ? chunk : chunk.subarray(from, from + byteCount), this.#buffered);
        crc = crc32(this.#buffer, this.#buffered, byteCount, crc);
        this.#buffered += byteCount;
        from += byteCount;
      }
      this.#room(CRC_BYTES);
      this.#buffer.writeUInt32LE(crc, this.#buffered);
      this.#buffered += CRC_BYTES;
      this.#crc = crc;
      this.#blockCount++;
      this.#payloadBytes += chunk.length;
    } catch (error) {
      this.abort();
      throw error;
    }
  }

  /** The checkpoint is complete and durable when this returns. When it throws, nothing may be truncated or removed for its sake. */
  finish(): { path: string; bytes: number } {
    assert(this.#state === 'open', `a checkpoint that is ${this.#state} is finished`);
    let bytes;
    try {
      this.#room(FOOTER_BYTES);
      bytes = this.#written + this.#buffered + FOOTER_BYTES;
      const footer = { blockCount: this.#blockCount, payloadBytes: this.#payloadBytes, fileBytes: bytes };
      encodeFooter(this.#buffer, this.#buffered, footer, this.#crc);
      this.#buffered += FOOTER_BYTES;
      this.#flush();
      this.#file.sync();
      this.#file.close();
      this.#env.rename(this.#temporaryPath, this.#finalPath);
    } catch (error) {
      this.abort();
      throw error;
    }
    this.#state = 'finished';
    this.#env.syncDirectory(this.#directory);
    return { path: this.#finalPath, bytes };
  }

  /** Removes what was written, as far as that is possible. Harmless after finish(). */
  abort(): void {
    if (this.#state !== 'open') return;
    this.#state = 'aborted';
    for (const step of [() => this.#file.close(), () => this.#env.remove(this.#temporaryPath)]) {
      try {
        step();
      } catch {
        // The owner removes leftovers at its next open.
      }
    }
  }

  #room(byteCount: number): void {
    if (this.#buffered + byteCount > BUFFER_BYTES) this.#flush();
  }

  #flush(): void {
    this.#file.write(this.#buffer, 0, this.#buffered, this.#written);
    this.#written += this.#buffered;
    this.#buffered = 0;
  }
}
