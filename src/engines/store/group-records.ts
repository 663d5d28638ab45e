/**
 * The operation records of the group that is being built, where they stand in the log's buffer.
 *
 *   begin() ──▶ copy(), copyAll(), write() … ──▶ end(): the log commits the frame, then they are applied from its buffer
 *                                            └─▶ discard(): nothing happened
 *
 * The first record of a group is preceded by those that tell which blobs were given up since the last one: a replay would hold on to their memory.
 * Must hold: what comes here is whole, checked and admitted. Places are as of the time they are noted; a log that makes room may move the frame.
 * Threads: the shard's thread only.
 */
import { assert } from '../../shared/assert.js';
import { DEFAULT_SPACE_ID } from '../engine.js';
import {
  BLOB_REFERENCE_BYTES,
  CHUNK_OF_BATCH,
  OPERATION_EXTENDED,
  OPERATION_EXTENSION_BYTES,
  OPERATION_HEADER_BYTES,
  OperationKind,
  checkOperation,
  operationBytes,
  operationSpan,
  writeBlobReference,
  writeOperationExtension,
  writeOperationHeader,
} from '../operation.js';
import type { DroppedBlob } from './blobs.js';
import type { GroupLog } from './group-log.js';

const DROP_RECORD_BYTES = OPERATION_HEADER_BYTES + BLOB_REFERENCE_BYTES;
/** Records up to this are copied word by word: a call costs more. */
const WORDWISE_BYTES_MAX = 512;

export class GroupRecords {
  /** Where each of them begins. */
  at = new Int32Array(1024);
  count = 0;
  /** Sequence numbers they take. */
  span = 0;
  /** Of the frame's payload: theirs, and of what else the store puts there. */
  bytes = 0;
  readonly #log: GroupLog;
  /** The memory under the log's buffer, as words. */
  #logWords: Int32Array = new Int32Array(0);
  #wordsAreOf: Buffer | undefined;
  /** Blobs given up that no committed group has told of. */
  readonly #dropped: DroppedBlob[];
  /** How many of them the open group tells of. */
  #droppedTold = 0;

  constructor(log: GroupLog, dropped: readonly DroppedBlob[]) {
    this.#log = log;
    this.#dropped = [...dropped];
  }

  begin(): void {
    assert(this.count === 0, 'a group is open');
    this.#log.begin();
    this.#droppedTold = 0;
    this.span = 0;
    this.bytes = 0;
  }

  /** No more come; the log may have moved them when they are applied. Returns how many there are. */
  end(): number {
    const { count } = this;
    this.count = 0;
    return count;
  }

  /** The frame is in the log. */
  logged(): void {
    this.#dropped.splice(0, this.#droppedTold);
  }

  discard(): void {
    this.count = 0;
    this.span = 0;
    this.bytes = 0;
    this.#log.discard();
  }

  /** The next group tells of it. */
  tellDropped(blob: DroppedBlob): void {
    this.#dropped.push(blob);
  }

  /** Kept free for what a group may have to tell of. */
  get keptBytes(): number {
    return this.#dropped.length * DROP_RECORD_BYTES;
  }

  /** The record at `start` of `source`, `length` bytes, a multiple of 4. `words` is the same memory. */
  copy(source: Uint8Array, words: Int32Array, start: number, length: number): void {
    if (this.count === 0 && this.#dropped.length > 0) this.#writeDropped();
    const at = this.#room(length);
    const target = this.#log.bytes;
    if (length <= WORDWISE_BYTES_MAX && ((target.byteOffset + at) & 3) === 0) {
      const targetWords = this.#wordsOf(target);
      let to = (target.byteOffset + at) >> 2;
      for (let from = start >> 2, end = (start + length) >> 2; from < end; from++, to++) targetWords[to] = words[from]!;
    } else {
      target.set(source.subarray(start, start + length), at);
    }
    this.#added(at, length);
  }

  /** The records that stand one behind the other from `start` to `end` of `source`. */
  copyAll(source: Uint8Array, start: number, end: number): void {
    if (this.count === 0 && this.#dropped.length > 0) this.#writeDropped();
    const length = end - start;
    const at = this.#room(length);
    const bytes = this.#log.bytes;
    bytes.set(source.subarray(start, end), at);
    let { count } = this;
    let span = 0;
    for (let record = at; record < at + length;) {
      if (count === this.at.length) this.#grow();
      this.at[count++] = record;
      span += operationSpan(bytes, record);
      record += checkOperation(bytes, record, at + length);
    }
    this.#log.position = at + length;
    this.count = count;
    this.span += span;
    this.bytes += length;
  }

  /** A record that the shard itself orders. */
  write(kind: number, flags: number, spaceId: number, key: Uint8Array, value: Uint8Array): void {
    if (this.count === 0 && this.#dropped.length > 0) this.#writeDropped();
    const extensionBytes = spaceId === DEFAULT_SPACE_ID ? 0 : OPERATION_EXTENSION_BYTES;
    const length = operationBytes(key.length, value.length, extensionBytes);
    const at = this.#room(length);
    const bytes = this.#log.bytes;
    bytes.fill(0, at, at + length);
    const extended = extensionBytes === 0 ? 0 : OPERATION_EXTENDED;
    writeOperationHeader(bytes, at, kind, flags | extended, key.length, value.length);
    if (extensionBytes > 0) writeOperationExtension(bytes, at, spaceId, 0);
    const keyAt = at + OPERATION_HEADER_BYTES + extensionBytes;
    bytes.set(key, keyAt);
    bytes.set(value, keyAt + key.length);
    this.#added(at, length);
  }

  /** One empty first chunk for each. They stay listed until a group with them is committed. */
  #writeDropped(): void {
    for (const { client, blob, ofBatch } of this.#dropped) {
      const at = this.#room(DROP_RECORD_BYTES);
      const bytes = this.#log.bytes;
      const flags = ofBatch ? CHUNK_OF_BATCH : 0;
      writeOperationHeader(bytes, at, OperationKind.Chunk, flags, BLOB_REFERENCE_BYTES, 0);
      writeBlobReference(bytes, at + OPERATION_HEADER_BYTES, { client, blob, offset: 0, count: 0 });
      this.#added(at, DROP_RECORD_BYTES);
    }
    this.#droppedTold = this.#dropped.length;
  }

  #room(length: number): number {
    this.#log.ensure(length);
    return this.#log.position;
  }

  #added(at: number, length: number): void {
    this.#log.position = at + length;
    if (this.count === this.at.length) this.#grow();
    this.at[this.count++] = at;
    this.span += operationSpan(this.#log.bytes, at);
    this.bytes += length;
  }

  #grow(): void {
    const grown = new Int32Array(this.at.length * 2);
    grown.set(this.at);
    this.at = grown;
  }

  #wordsOf(bytes: Buffer): Int32Array {
    // To ask a Buffer for its memory costs more than to copy a record.
    if (bytes !== this.#wordsAreOf) {
      this.#wordsAreOf = bytes;
      this.#logWords = new Int32Array(bytes.buffer, 0, bytes.buffer.byteLength >> 2);
    }
    return this.#logWords;
  }
}
