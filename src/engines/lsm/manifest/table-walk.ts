/**
 * All entries of a table that can be read, in order: what is damaged is told, with the keys that may be lost with it, and passed over. For verify and
 * repair, which look at every byte; jobs and readers stop at the first damage.
 *
 * Threads: any; an object belongs to one thread.
 */
import { crc32 } from '../../../shared/checksum.js';
import { readU32LE } from '../../../shared/codec/fixed.js';
import { readVarint53, varintBytes } from '../../../shared/codec/varint.js';
import type { Env } from '../../../shared/env/env.js';
import { ConcordError } from '../../../shared/errors.js';
import { BlockBuffer, BlockCursor, handleBytes, handleOffset } from '../table/block.js';
import { decompress } from '../table/compression.js';
import { TABLE_KIND, TRAILER_BYTES, damaged, identitySeed, seedAt } from '../table/format.js';
import { openExisting, type IndexPartition, type TableFile } from '../table/table-file.js';
import { CompressionCode, type LsmIdentity } from '../types.js';

/** Keys above `low` (undefined: from the first on) and up to `high` (undefined: to the last). */
export interface LostKeys {
  readonly low: Uint8Array | undefined;
  readonly high: Uint8Array | undefined;
}

export type DamageSink = (error: ConcordError, lost: LostKeys) => void;

/** Where a data block lies, and the bound of its entries: none of them comes behind (key, seq). */
interface BlockPlace {
  readonly offset: number;
  readonly storedBytes: number;
  readonly key: Uint8Array;
  readonly seq: number;
}

/** A file that cannot be read, or is not what was written. Anything else, a full disk or a format of a later release, is nobody's loss. */
export function isLoss(error: unknown): error is ConcordError {
  return error instanceof ConcordError && (error.code === 'ERR_CORRUPT' || error.code === 'ERR_IO');
}

export class TableWalk implements EntryWalk {
  /** Stands on the entry while `valid`. */
  readonly cursor = new BlockCursor();
  valid = false;
  /** Blocks that were read. */
  blocks = 0;
  /** Their bytes in the file. */
  blockBytes = 0;
  readonly #table: TableFile;
  readonly #onDamage: DamageSink;
  readonly #partitions: readonly IndexPartition[];
  #partition = 0;
  #blocks: BlockPlace[] = [];
  #block = 0;
  readonly #index = new BlockCursor();
  readonly #buffer = new BlockBuffer(0);
  /** Of the last block: its bound, and its last entry. */
  #boundKey: Uint8Array | undefined;
  #lastKey: Uint8Array | undefined;
  #lastSeq = 0;

  constructor(table: TableFile, onDamage: DamageSink) {
    this.#table = table;
    this.#onDamage = onDamage;
    this.#partitions = this.#try(() => table.partitions, table.info.largestKey) ?? [];
  }

  /** To the next entry, at first to the first one. */
  next(): boolean {
    this.valid = (this.valid && this.cursor.next()) || this.#nextBlock();
    return this.valid;
  }

  #nextBlock(): boolean {
    for (;;) {
      if (this.#block === this.#blocks.length && !this.#nextPartition()) return false;
      const place = this.#blocks[this.#block++]!;
      const isOpen = this.#try(() => this.#openBlock(place), place.key) === true;
      this.#boundKey = place.key;
      if (isOpen) return true;
    }
  }

  #nextPartition(): boolean {
    while (this.#partition < this.#partitions.length) {
      const partition = this.#partitions[this.#partition++]!;
      this.#blocks = this.#try(() => this.#placesOf(partition), partition.key) ?? [];
      this.#block = 0;
      if (this.#blocks.length > 0) return true;
      this.#boundKey = partition.key;
    }
    return false;
  }

  #placesOf(partition: IndexPartition): BlockPlace[] {
    const index = this.#index;
    const { path, layout } = this.#table;
    const plainBytes = this.#table.readBlock(partition.offset, partition.storedBytes, this.#buffer);
    index.open(this.#buffer.bytes, 0, plainBytes, path, partition.offset);
    const problem = index.check();
    if (problem !== undefined) throw index.damage(`of the index: ${problem}`);
    const places: BlockPlace[] = [];
    for (let more = index.seekToFirst(); more; more = index.next()) {
      const offset = handleOffset(index);
      const storedBytes = handleBytes(index);
      const expected = places.at(-1);
      if (
        offset + storedBytes > layout.dataBytes ||
        (expected !== undefined && offset !== expected.offset + expected.storedBytes)
      ) {
        throw index.damage(`leads to ${storedBytes} bytes at ${offset}`);
      }
      places.push({ offset, storedBytes, key: index.key.slice(0, index.keyLength), seq: index.seq });
    }
    const last = places.at(-1);
    if (last === undefined || Buffer.compare(last.key, partition.key) !== 0 || last.seq !== partition.seq) {
      throw index.damage('does not end where the root says');
    }
    return places;
  }

  /** The cursor on the first entry of the block, all of which is checked. */
  #openBlock({ offset, storedBytes, key, seq }: BlockPlace): true {
    const { cursor } = this;
    const plainBytes = this.#table.readBlock(offset, storedBytes, this.#buffer);
    cursor.open(this.#buffer.bytes, 0, plainBytes, this.#table.path, offset);
    const problem = cursor.check();
    if (problem !== undefined) throw cursor.damage(problem);
    cursor.seekToLast();
    const order = Buffer.compare(cursor.key.subarray(0, cursor.keyLength), key);
    if (order > 0 || (order === 0 && cursor.seq < seq)) throw cursor.damage('is behind the bound in the index');
    const lastKey = cursor.key.slice(0, cursor.keyLength);
    const lastSeq = cursor.seq;
    if (!cursor.seekToFirst()) throw cursor.damage('has no entry');
    if (this.#lastKey !== undefined) {
      const gap = Buffer.compare(cursor.key.subarray(0, cursor.keyLength), this.#lastKey);
      if (gap < 0 || (gap === 0 && cursor.seq >= this.#lastSeq)) throw cursor.damage('is not behind the block before');
    }
    this.#lastKey = lastKey;
    this.#lastSeq = lastSeq;
    this.blocks++;
    this.blockBytes += storedBytes;
    return true;
  }

  #try<T>(work: () => T, high: Uint8Array): T | undefined {
    try {
      return work();
    } catch (error) {
      if (!isLoss(error)) throw error;
      this.#onDamage(error, { low: this.#boundKey, high });
      return undefined;
    }
  }
}

/** What repair reads from, with or without an index. */
export interface EntryWalk {
  readonly cursor: BlockCursor;
  readonly valid: boolean;
  next(): boolean;
}

/** A larger file is not searched: it would have to be held in memory. */
const SCAN_BYTES_MAX = 2 ** 30;
const CODE_MAX = Math.max(...Object.values(CompressionCode));

/**
 * The data blocks of a table whose footer, properties or index cannot be read. They lie one behind the other from the beginning of the file, and where one
 * ends its checksum tells: it is looked for byte by byte. Ends at the first thing that is no data block: a filter, the index, damage.
 */
export class TableScan implements EntryWalk {
  readonly cursor = new BlockCursor();
  valid = false;
  readonly #path: string;
  readonly #bytes: Uint8Array;
  readonly #seed: number;
  readonly #plain = new BlockBuffer(0);
  /** Of the blocks so far: place and bytes, to know the index when it comes. */
  readonly #places: { readonly offset: number; readonly storedBytes: number }[] = [];
  #at = 0;
  #lastKey: Uint8Array | undefined;
  #lastSeq = 0;

  /** @throws ERR_IO, ERR_CORRUPT when the file is missing or too large */
  constructor(env: Env, path: string, identity: LsmIdentity, number: number) {
    this.#path = path;
    this.#seed = identitySeed(TABLE_KIND, identity, number);
    const file = openExisting(env, path, 'table');
    try {
      const size = file.size();
      if (size > SCAN_BYTES_MAX) throw damaged(path, 0, `a file of ${size} bytes is not searched without its index`);
      const bytes = new Uint8Array(size);
      this.#bytes = bytes.subarray(0, file.read(bytes, 0, size, 0));
    } finally {
      file.close();
    }
  }

  next(): boolean {
    this.valid = (this.valid && this.cursor.next()) || this.#nextBlock();
    return this.valid;
  }

  #nextBlock(): boolean {
    const offset = this.#at;
    const storedBytes = this.#lengthAt(offset);
    if (storedBytes === 0) return false;
    const { cursor } = this;
    try {
      const plainBytes = this.#open(offset, storedBytes);
      cursor.open(this.#plain.bytes, 0, plainBytes, this.#path, offset);
      if (cursor.check() !== undefined || this.#isIndex() || !cursor.seekToFirst()) return false;
      if (this.#lastKey !== undefined) {
        const order = Buffer.compare(cursor.key.subarray(0, cursor.keyLength), this.#lastKey);
        if (order < 0 || (order === 0 && cursor.seq >= this.#lastSeq)) return false;
      }
      cursor.seekToLast();
      this.#lastKey = cursor.key.slice(0, cursor.keyLength);
      this.#lastSeq = cursor.seq;
      cursor.seekToFirst();
    } catch (error) {
      if (!isLoss(error)) throw error;
      return false;
    }
    this.#places.push({ offset, storedBytes });
    this.#at = offset + storedBytes;
    return true;
  }

  /** Bytes of the block that begins there, trailer included; 0: none does. */
  #lengthAt(offset: number): number {
    const bytes = this.#bytes;
    const last = bytes.length - 4;
    let crc = seedAt(offset, this.#seed);
    for (let at = offset; at < last; at++) {
      crc = crc32(bytes, at, 1, crc);
      if (bytes[at]! <= CODE_MAX && readU32LE(bytes, at + 1) === crc) return at + TRAILER_BYTES - offset;
    }
    return 0;
  }

  #open(offset: number, storedBytes: number): number {
    const code = this.#bytes[offset + storedBytes - TRAILER_BYTES]!;
    const length = storedBytes - TRAILER_BYTES;
    const stored = this.#bytes.subarray(offset, offset + length);
    const plain = code === CompressionCode.none ? stored : decompress(code, this.#bytes, offset, length);
    if (plain === undefined) throw damaged(this.#path, offset, `block does not decompress with code ${code}`);
    this.#plain.reserve(plain.length).set(plain);
    return plain.length;
  }

  /** An index has an entry for each block there was, and each leads to it. */
  #isIndex(): boolean {
    const { cursor } = this;
    let index = 0;
    for (let more = cursor.seekToFirst(); more; more = cursor.next()) {
      const place = this.#places[index++];
      const end = cursor.valueStart + cursor.valueLength;
      const offset = readVarint53(cursor.bytes, cursor.valueStart, end);
      if (place === undefined || offset !== place.offset) return false;
      const bytesAt = cursor.valueStart + varintBytes(offset);
      if (readVarint53(cursor.bytes, bytesAt, end) !== place.storedBytes) return false;
    }
    return index > 0;
  }
}

/** A table that a merge reads from. */
export interface OpenedTable {
  readonly walk: EntryWalk;
  close(): void;
}

/**
 * Several tables as one: by key, the newest version first, each version once. A table is open while the walk is within its keys.
 */
export class MergedWalk {
  readonly #pending: { readonly smallestKey: Uint8Array; readonly open: () => OpenedTable | undefined }[];
  #active: OpenedTable[] = [];
  #current: EntryWalk | undefined;
  readonly #key = Buffer.alloc(4096);
  #keyLength = -1;
  #seq = 0;

  /** open: undefined when the table cannot be read at all. */
  constructor(tables: readonly { readonly smallestKey: Uint8Array; readonly open: () => OpenedTable | undefined }[]) {
    this.#pending = [...tables].sort((a, b) => Buffer.compare(a.smallestKey, b.smallestKey)).reverse();
  }

  /** The walk that stands on the next entry; undefined at the end. */
  next(): BlockCursor | undefined {
    for (;;) {
      if (this.#current !== undefined) {
        this.#current.next();
        this.#current = undefined;
      }
      const walk = this.#first();
      if (walk === undefined) return undefined;
      this.#current = walk;
      const { key, keyLength, seq } = walk.cursor;
      const isSame = keyLength === this.#keyLength && this.#key.compare(key, 0, keyLength, 0, keyLength) === 0;
      if (isSame && seq === this.#seq) continue;
      this.#key.set(key.subarray(0, keyLength));
      this.#keyLength = keyLength;
      this.#seq = seq;
      return walk.cursor;
    }
  }

  close(): void {
    for (const table of this.#active) table.close();
    this.#active = [];
  }

  #first(): EntryWalk | undefined {
    let least: EntryWalk | undefined;
    for (let at = this.#active.length - 1; at >= 0; at--) {
      const table = this.#active[at]!;
      const { walk } = table;
      if (!walk.valid) {
        table.close();
        this.#active.splice(at, 1);
      } else if (least === undefined || isBefore(walk.cursor, least.cursor)) least = walk;
    }
    for (let next = this.#pending.at(-1); next !== undefined; next = this.#pending.at(-1)) {
      if (
        least !== undefined &&
        Buffer.compare(next.smallestKey, least.cursor.key.subarray(0, least.cursor.keyLength)) > 0
      )
        break;
      this.#pending.pop();
      const opened = next.open();
      if (opened === undefined) continue;
      this.#active.push(opened);
      if (opened.walk.next() && (least === undefined || isBefore(opened.walk.cursor, least.cursor)))
        least = opened.walk;
    }
    return least;
  }
}

function isBefore(a: BlockCursor, b: BlockCursor): boolean {
  const order = Buffer.compare(a.key.subarray(0, a.keyLength), b.key.subarray(0, b.keyLength));
  return order < 0 || (order === 0 && a.seq > b.seq);
}
