/**
 * Writes a table file, from entries in order. Memory: a block, a part of the index, 8 bytes for each key's hash, and the bytes of the next write.
 *
 * The file gets its name at once; until finish() has synced it nothing may refer to it. What a crash leaves is an orphan.
 * Threads: any; an object belongs to one thread. Bytes: format.ts, block.ts, filter.ts.
 */
import type { Env, EnvFile } from '../../../shared/env/env.js';
import { assert } from '../../../shared/assert.js';
import { U48_MAX } from '../../../shared/codec/fixed.js';
import { ConcordError, invalidArgument } from '../../../shared/errors.js';
import { decodeBlobReference } from '../blob/reference.js';
import { CompressionCode, type BlobUse, type LsmIdentity, type TableInfo, type TableOptions } from '../types.js';
import { BlockBuilder, HANDLE_BYTES_MAX, RESTART_INTERVAL_MAX, copy, writeHandle } from './block.js';
import { checkCompression, compress } from './compression.js';
import { EntryFlag, KEY_BYTES_MAX, VALUE_BYTES_MAX } from './entry.js';
import { BITS_PER_KEY_MAX, FILTER_LINE_BYTES, FilterBuilder, KeyHash, type FilterShape } from './filter.js';
import {
  FOOTER_BYTES,
  TABLE_BYTES_MAX,
  TABLE_KIND,
  TRAILER_BYTES,
  encodeProperties,
  encodeTableFooter,
  identitySeed,
  sealBlock,
} from './format.js';
import type { TableLayout } from './table-file.js';

/** The file grows by so much at a time. */
const WRITE_BYTES = 512 * 1024;
const OUT_BYTES = WRITE_BYTES + 64 * 1024;
const INDEX_PARTITION_BYTES = 16 * 1024;
/** With keys of 4 KiB a partition has so many entries nevertheless: the root stays small, and 64 KiB, what a block cache takes, hold it. */
const INDEX_PARTITION_ENTRIES_MIN = 8;
const INDEX_RESTART_INTERVAL = 8;
const BLOCK_BYTES_MIN = 128;
/** So that a block, unless a single entry is larger, fits a block cache. */
export const BLOCK_BYTES_MAX = 64 * 1024;

export interface TableWriterParameters {
  readonly identity: LsmIdentity;
  readonly number: number;
  readonly level: number;
  readonly run: number;
  readonly options: TableOptions;
  readonly createdAt: number;
}

/** @throws ERR_INVALID_ARG */
function checkTableOptions(options: TableOptions): void {
  const { blockBytes, restartInterval, bitsPerKey, prefixFilterBytes } = options;
  if (!(Number.isInteger(blockBytes) && blockBytes >= BLOCK_BYTES_MIN && blockBytes <= BLOCK_BYTES_MAX)) {
    throw invalidArgument(`blockBytes is ${BLOCK_BYTES_MIN} to ${BLOCK_BYTES_MAX}, got ${blockBytes}`);
  }
  if (!(Number.isInteger(restartInterval) && restartInterval >= 1 && restartInterval <= RESTART_INTERVAL_MAX)) {
    throw invalidArgument(`restartInterval is 1 to ${RESTART_INTERVAL_MAX}, got ${restartInterval}`);
  }
  if (!(bitsPerKey >= 0 && bitsPerKey <= BITS_PER_KEY_MAX)) {
    throw invalidArgument(`bitsPerKey is 0 to ${BITS_PER_KEY_MAX}, got ${bitsPerKey}`);
  }
  if (!(Number.isInteger(prefixFilterBytes) && prefixFilterBytes >= 0 && prefixFilterBytes <= KEY_BYTES_MAX)) {
    throw invalidArgument(`prefixFilterBytes is 0 to ${KEY_BYTES_MAX}, got ${prefixFilterBytes}`);
  }
  checkCompression(options.compression);
}

export class TableWriter {
  readonly path: string;
  readonly #env: Env;
  readonly #file: EnvFile;
  readonly #parameters: TableWriterParameters;
  readonly #seed: number;
  readonly #blockBytes: number;
  readonly #block: BlockBuilder;
  readonly #index = new BlockBuilder(INDEX_RESTART_INTERVAL, 2 * INDEX_PARTITION_BYTES);
  readonly #root = new BlockBuilder(INDEX_RESTART_INTERVAL, 1024);
  /** Finished partitions of the index: they go to the file behind the filters. */
  readonly #partitions: { readonly bytes: Uint8Array; readonly key: Uint8Array; readonly seq: number }[] = [];
  #partitionBytes = 0;
  readonly #hash = new KeyHash();
  readonly #filter: FilterBuilder | undefined;
  readonly #prefixFilter: FilterBuilder | undefined;
  readonly #out = new Uint8Array(OUT_BYTES);
  #outAt = 0;
  /** Where out[0] will lie. */
  #outOffset = 0;
  #isOver = false;

  /** The place of the finished block that the index does not have yet: its separator depends on the next key. */
  #pendingBytes = 0;
  #pendingOffset = 0;
  #pendingSeq = 0;
  readonly #pendingKey = new Uint8Array(KEY_BYTES_MAX);
  #pendingKeyLength = 0;
  readonly #separator = new Uint8Array(KEY_BYTES_MAX);
  readonly #handle = new Uint8Array(HANDLE_BYTES_MAX);

  readonly #lastKey = new Uint8Array(KEY_BYTES_MAX);
  #lastKeyLength = -1;
  /** Bytes that the key at hand begins with like the last one. */
  #shared = 0;
  #lastSeq = 0;
  #entries = 0;
  #keys = 0;
  #tombstones = 0;
  #rawBytes = 0;
  #smallestKey = new Uint8Array(0);
  #smallestSeq = Infinity;
  #largestSeq = 0;
  #expiring = 0;
  #firstExpiry = Infinity;
  #lastExpiry = 0;
  readonly #blobs = new Map<number, number>();
  #dataBlocks = 0;
  #plainBytes = 0;

  private constructor(env: Env, path: string, parameters: TableWriterParameters) {
    const { options } = parameters;
    checkTableOptions(options);
    this.path = path;
    this.#env = env;
    this.#parameters = parameters;
    this.#seed = identitySeed(TABLE_KIND, parameters.identity, parameters.number);
    this.#blockBytes = options.blockBytes;
    this.#block = new BlockBuilder(options.restartInterval, 2 * options.blockBytes);
    if (options.bitsPerKey > 0) this.#filter = new FilterBuilder(options.bitsPerKey);
    if (options.bitsPerKey > 0 && options.prefixFilterBytes > 0) {
      this.#prefixFilter = new FilterBuilder(options.bitsPerKey);
    }
    this.#file = env.open(path, 'create');
  }

  /** The file must not exist. @throws ERR_INVALID_ARG, ERR_IO, ERR_DISK_FULL */
  static create(env: Env, path: string, parameters: TableWriterParameters): TableWriter {
    return new TableWriter(env, path, parameters);
  }

  /** Of the file if it were finished now, nearly. */
  get bytes(): number {
    const written = this.#outOffset + this.#outAt + this.#block.bytes + this.#partitionBytes + this.#index.bytes;
    return written + (this.#filter?.bytes ?? 0) + (this.#prefixFilter?.bytes ?? 0) + FOOTER_BYTES;
  }

  /** Written to the file so far. */
  get writtenBytes(): number {
    return this.#outOffset;
  }

  get entries(): number {
    return this.#entries;
  }

  /**
   * Keys ascending, within a key seq descending. flags: EntryFlag.tombstone or .blob; .expiry is set where expiresAt > 0. A tombstone's value is not looked at;
   * a blob entry's is an encoded BlobReference. @throws ERR_IO, ERR_DISK_FULL: then abort() is what is left
   */
  add(
    key: Uint8Array,
    keyLength: number,
    value: Uint8Array,
    valueStart: number,
    valueLength: number,
    seq: number,
    flags: number,
    expiresAt: number,
  ): void {
    const isTombstone = (flags & EntryFlag.tombstone) !== 0;
    const length = isTombstone ? 0 : valueLength;
    const isNewKey = this.#checkOrder(key, keyLength, seq);
    if (length > VALUE_BYTES_MAX) {
      throw new ConcordError(
        'ERR_VALUE_TOO_LARGE',
        `a table's value has at most ${VALUE_BYTES_MAX} bytes, not ${length}`,
      );
    }
    let rawBytes = keyLength + length;
    if ((flags & EntryFlag.blob) !== 0 && !isTombstone) {
      const reference = decodeBlobReference(value, valueStart, valueStart + length);
      assert(reference !== undefined, 'the value of a blob entry is a reference');
      rawBytes = keyLength + reference.valueBytes;
      this.#blobs.set(reference.file, (this.#blobs.get(reference.file) ?? 0) + reference.recordBytes);
    }
    const block = this.#block;
    if (block.entries > 0 && block.bytesWith(keyLength, length) > this.#blockBytes) this.#endBlock();
    if (this.#pendingBytes > 0) this.#addToIndex(key, keyLength, isNewKey);

    let entryFlags = isTombstone ? EntryFlag.tombstone : flags & EntryFlag.blob;
    if (expiresAt > 0) {
      entryFlags |= EntryFlag.expiry;
      this.#expiring++;
      if (expiresAt < this.#firstExpiry) this.#firstExpiry = expiresAt;
      if (expiresAt > this.#lastExpiry) this.#lastExpiry = expiresAt;
    }
    block.add(key, keyLength, value, valueStart, length, seq, entryFlags, expiresAt, this.#shared);
    this.#entries++;
    this.#rawBytes += rawBytes;
    if (isTombstone) this.#tombstones++;
    if (seq < this.#smallestSeq) this.#smallestSeq = seq;
    if (seq > this.#largestSeq) this.#largestSeq = seq;
    this.#lastSeq = seq;
    if (isNewKey) this.#newKey(key, keyLength);
  }

  /** The rest of the file, synced; closed. The directory is the caller's to sync. At least one entry must have been added. @throws ERR_IO, ERR_DISK_FULL */
  finish(): TableInfo {
    assert(this.#entries > 0 && !this.#isOver, 'a table has entries, and one end');
    const { identity, number, level, run, options, createdAt } = this.#parameters;
    this.#endBlock();
    this.#addLastToIndex();
    const dataBytes = this.#offset;
    const filter = this.#filter === undefined ? undefined : this.#writeFilter(this.#filter);
    const prefixFilter =
      this.#prefixFilter === undefined || this.#prefixFilter.keys === 0
        ? undefined
        : this.#writeFilter(this.#prefixFilter);
    for (const { bytes, key, seq } of this.#partitions) {
      const offset = this.#offset;
      this.#writeBlock(bytes, bytes.length, CompressionCode.none);
      const handleBytes = writeHandle(this.#handle, 0, offset, bytes.length + TRAILER_BYTES);
      this.#root.add(key, key.length, this.#handle, 0, handleBytes, seq, 0, 0);
    }
    const rootOffset = this.#offset;
    const rootBytes = this.#root.finish();
    this.#writeBlock(this.#root.buffer, rootBytes, CompressionCode.none);

    const propertiesOffset = this.#offset;
    const layout: TableLayout = {
      dataBlocks: this.#dataBlocks,
      dataBytes,
      plainBytes: this.#plainBytes,
      compression: options.compression,
      blockBytes: options.blockBytes,
      restartInterval: options.restartInterval,
      filter,
      prefixFilter,
      prefixFilterBytes: prefixFilter === undefined ? 0 : options.prefixFilterBytes,
      rootOffset,
      rootStoredBytes: rootBytes + TRAILER_BYTES,
    };
    const blobs: BlobUse[] = [...this.#blobs].map(([file, bytes]) => ({ file, bytes })).sort((a, b) => a.file - b.file);
    const info: Omit<TableInfo, 'bytes'> = {
      number,
      level,
      run,
      entries: this.#entries,
      keys: this.#keys,
      tombstones: this.#tombstones,
      rawBytes: this.#rawBytes,
      smallestKey: this.#smallestKey,
      largestKey: this.#lastKey.slice(0, this.#lastKeyLength),
      smallestSeq: this.#smallestSeq,
      largestSeq: this.#largestSeq,
      expiring: this.#expiring,
      firstExpiry: this.#expiring === 0 ? 0 : this.#firstExpiry,
      lastExpiry: this.#lastExpiry,
      blobs,
      createdAt,
    };
    const properties = encodeProperties({ info: { ...info, bytes: 0 }, layout }, CompressionCode[options.compression]);
    this.#writeBlock(properties, properties.length, CompressionCode.none);
    const propertiesBytes = properties.length + TRAILER_BYTES;
    const fileBytes = this.#offset + FOOTER_BYTES;
    if (fileBytes > TABLE_BYTES_MAX) {
      throw new ConcordError('ERR_INTERNAL', `${this.path}: a table of ${fileBytes} bytes, at most ${TABLE_BYTES_MAX}`);
    }
    const footer = encodeTableFooter({
      ...identity,
      number,
      fileBytes,
      propertiesOffset,
      propertiesBytes,
      rootOffset,
      rootBytes: rootBytes + TRAILER_BYTES,
    });
    this.#write(footer, footer.length);
    this.#flush();
    this.#file.sync();
    this.#isOver = true;
    this.#file.close();
    return { ...info, bytes: fileBytes };
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

  get #offset(): number {
    return this.#outOffset + this.#outAt;
  }

  /** Whether the key is another than the last one. */
  #checkOrder(key: Uint8Array, keyLength: number, seq: number): boolean {
    assert(keyLength <= KEY_BYTES_MAX && seq >= 0 && seq <= U48_MAX && !this.#isOver, 'an entry fits a table');
    const last = this.#lastKey;
    const most = Math.min(keyLength, this.#lastKeyLength);
    let at = 0;
    while (at < most && key[at] === last[at]) at++;
    this.#shared = at;
    if (at < most) {
      assert(key[at]! > last[at]!, 'keys of a table ascend');
      return true;
    }
    if (keyLength === this.#lastKeyLength) {
      assert(seq < this.#lastSeq, 'versions of a key descend');
      return false;
    }
    assert(keyLength > this.#lastKeyLength, 'keys of a table ascend');
    return true;
  }

  #newKey(key: Uint8Array, keyLength: number): void {
    const last = this.#lastKey;
    if (this.#filter !== undefined) {
      this.#hash.set(key, 0, keyLength);
      this.#filter.add(this.#hash);
    }
    const prefixBytes = this.#parameters.options.prefixFilterBytes;
    if (this.#prefixFilter !== undefined && keyLength >= prefixBytes) {
      let at = 0;
      if (this.#lastKeyLength >= prefixBytes) while (at < prefixBytes && key[at] === last[at]) at++;
      if (at < prefixBytes) {
        this.#hash.set(key, 0, prefixBytes);
        this.#prefixFilter.add(this.#hash);
      }
    }
    if (this.#keys++ === 0) this.#smallestKey = Uint8Array.from(key.subarray(0, keyLength));
    copy(key, this.#shared, keyLength - this.#shared, last, this.#shared);
    this.#lastKeyLength = keyLength;
  }

  #endBlock(): void {
    const block = this.#block;
    this.#pendingKeyLength = block.lastKeyLength;
    copy(block.lastKey, 0, block.lastKeyLength, this.#pendingKey, 0);
    this.#pendingSeq = this.#lastSeq;
    this.#pendingOffset = this.#offset;
    const plainBytes = block.finish();
    this.#plainBytes += plainBytes;
    this.#dataBlocks++;
    const { compression } = this.#parameters.options;
    const packed = compression === 'none' ? undefined : compress(compression, block.buffer, plainBytes);
    if (packed === undefined) this.#writeBlock(block.buffer, plainBytes, CompressionCode.none);
    else this.#writeBlock(packed, packed.length, CompressionCode[compression]);
    this.#pendingBytes = this.#offset - this.#pendingOffset;
  }

  /** The finished block, whose successor begins with this key. */
  #addToIndex(nextKey: Uint8Array, nextKeyLength: number, isOtherKey: boolean): void {
    if (!isOtherKey) {
      // The versions of one key go on in the next block: the number says where they part.
      this.#addSeparator(this.#pendingKey, this.#pendingKeyLength, this.#pendingSeq);
      return;
    }
    const length = separate(this.#pendingKey, this.#pendingKeyLength, nextKey, nextKeyLength, this.#separator);
    this.#addSeparator(this.#separator, length, 0);
  }

  #addLastToIndex(): void {
    this.#addSeparator(this.#pendingKey, this.#pendingKeyLength, 0);
    this.#endPartition();
  }

  #addSeparator(key: Uint8Array, keyLength: number, seq: number): void {
    const index = this.#index;
    if (
      index.entries >= INDEX_PARTITION_ENTRIES_MIN &&
      index.bytesWith(keyLength, HANDLE_BYTES_MAX) > INDEX_PARTITION_BYTES
    ) {
      this.#endPartition();
    }
    const handleBytes = writeHandle(this.#handle, 0, this.#pendingOffset, this.#pendingBytes);
    index.add(key, keyLength, this.#handle, 0, handleBytes, seq, 0, 0);
    this.#partitionSeq = seq;
    this.#pendingBytes = 0;
  }

  #partitionSeq = 0;

  #endPartition(): void {
    const index = this.#index;
    const key = index.lastKey.slice(0, index.lastKeyLength);
    const bytes = index.buffer.slice(0, index.finish());
    this.#partitions.push({ bytes, key, seq: this.#partitionSeq });
    this.#partitionBytes += bytes.length + 2 * TRAILER_BYTES + key.length;
  }

  #writeFilter(builder: FilterBuilder): FilterShape {
    const offset = this.#offset;
    const { keys } = builder;
    const { bytes, partitions, partitionLines, probes } = builder.finish();
    const partitionBytes = partitionLines * FILTER_LINE_BYTES;
    for (let partition = 0; partition < partitions; partition++) {
      const start = partition * partitionBytes;
      this.#writeBlock(bytes.subarray(start, start + partitionBytes), partitionBytes, CompressionCode.none);
    }
    return { offset, keys, partitions, partitionLines, probes };
  }

  /** The block bytes[0, length) with its trailer. */
  #writeBlock(bytes: Uint8Array, length: number, code: number): void {
    const offset = this.#offset;
    if (length + TRAILER_BYTES > OUT_BYTES - this.#outAt) {
      this.#flush();
      if (length + TRAILER_BYTES > OUT_BYTES) {
        const whole = new Uint8Array(length + TRAILER_BYTES);
        whole.set(bytes.subarray(0, length));
        sealBlock(whole, 0, length, code, offset, this.#seed);
        this.#file.write(whole, 0, whole.length, offset);
        this.#outOffset += whole.length;
        return;
      }
    }
    this.#out.set(bytes.subarray(0, length), this.#outAt);
    this.#outAt = sealBlock(this.#out, this.#outAt, length, code, offset, this.#seed);
    if (this.#outAt >= WRITE_BYTES) this.#flush();
  }

  #write(bytes: Uint8Array, length: number): void {
    if (length > OUT_BYTES - this.#outAt) this.#flush();
    this.#out.set(bytes.subarray(0, length), this.#outAt);
    this.#outAt += length;
  }

  #flush(): void {
    if (this.#outAt === 0) return;
    this.#file.write(this.#out, 0, this.#outAt, this.#outOffset);
    this.#outOffset += this.#outAt;
    this.#outAt = 0;
  }
}

/** A short key with last ≤ key < next, for last < next. Returns its length. */
export function separate(
  last: Uint8Array,
  lastLength: number,
  next: Uint8Array,
  nextLength: number,
  into: Uint8Array,
): number {
  const most = Math.min(lastLength, nextLength);
  let same = 0;
  while (same < most && last[same] === next[same]) same++;
  if (same === lastLength) {
    copy(last, 0, lastLength, into, 0);
    return lastLength;
  }
  if (nextLength > same + 1) {
    copy(next, 0, same + 1, into, 0);
    return same + 1;
  }
  if (last[same]! + 1 < next[same]!) {
    copy(last, 0, same, into, 0);
    into[same] = last[same]! + 1;
    return same + 1;
  }
  let at = same + 1;
  while (at < lastLength && last[at] === 0xff) at++;
  if (at < lastLength) {
    copy(last, 0, at, into, 0);
    into[at] = last[at]! + 1;
    return at + 1;
  }
  copy(last, 0, lastLength, into, 0);
  return lastLength;
}
