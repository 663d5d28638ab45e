/**
 * Looks at one table file, without changing it: what stands in it, and whether everything in it agrees. Same decoders as readers and jobs.
 * Threads: any.
 */
import type { Env } from '../../../shared/env/env.js';
import { ConcordError } from '../../../shared/errors.js';
import { decodeBlobReference } from '../blob/reference.js';
import { type CompressionName, type LsmIdentity, type TableInfo } from '../types.js';
import { BlockBuffer, BlockCursor, handleBytes, handleOffset } from './block.js';
import { compressionName } from './compression.js';
import { EntryFlag, KEY_BYTES_MAX } from './entry.js';
import {
  FILTER_LINE_BYTES,
  KeyHash,
  blockedFalsePositiveRate,
  filterLine,
  lineMayContain,
  type FilterShape,
} from './filter.js';
import { TABLE_FORMAT_VERSION, TRAILER_BYTES, type TableFooter } from './format.js';
import { TableFile, type IndexPartition, type TableLayout } from './table-file.js';

/** Further ones are counted only. */
const PROBLEMS_LISTED_MAX = 100;

export interface TableProblem {
  readonly file: string;
  readonly offset: number;
  readonly text: string;
}

export interface TableBlockReport {
  readonly offset: number;
  /** In the file, trailer included. */
  readonly storedBytes: number;
  readonly plainBytes: number;
  readonly compression: CompressionName;
  readonly entries: number;
  readonly tombstones: number;
  readonly firstKey: Uint8Array;
  readonly lastKey: Uint8Array;
  readonly smallestSeq: number;
  readonly largestSeq: number;
}

export interface TableFilterReport extends FilterShape {
  readonly bytes: number;
  readonly bitsPerKey: number;
  /** Share of bits that are set. */
  readonly fill: number;
  /** By the theory of blocked filters. */
  readonly falsePositiveRate: number;
}

export interface TableReport {
  readonly path: string;
  readonly formatVersion: number;
  readonly identity: LsmIdentity;
  readonly footer: TableFooter;
  readonly info: TableInfo;
  readonly layout: TableLayout;
  readonly filter: TableFilterReport | undefined;
  readonly prefixFilter: TableFilterReport | undefined;
  readonly index: readonly (IndexPartition & { readonly blocks: number })[];
  /** Empty unless asked for. */
  readonly blocks: readonly TableBlockReport[];
  readonly problems: readonly TableProblem[];
  readonly problemCount: number;
}

/** @throws ERR_CORRUPT, ERR_FORMAT_VERSION when footer, properties or the root of the index are not those of a table; ERR_IO */
export function inspectTable(env: Env, path: string, options: { readonly listBlocks?: boolean } = {}): TableReport {
  const table = TableFile.open(env, path);
  try {
    return new Inspection(table, options.listBlocks === true).run();
  } finally {
    table.close();
  }
}

class Inspection {
  readonly #table: TableFile;
  readonly #listBlocks: boolean;
  readonly #problems: TableProblem[] = [];
  #problemCount = 0;
  readonly #blocks: TableBlockReport[] = [];
  readonly #into = new BlockBuffer();
  readonly #cursor = new BlockCursor();
  readonly #hash = new KeyHash();
  #filter: LoadedFilter | undefined;
  #prefixFilter: LoadedFilter | undefined;
  #firstKey = Buffer.alloc(0);
  readonly #lastKey = Buffer.alloc(KEY_BYTES_MAX);
  #lastKeyLength = -1;
  #lastSeq = 0;
  /** Where the next data block must begin. */
  #blockAt = 0;
  #dataBlocks = 0;
  #plainBytes = 0;
  #keys = 0;
  #entries = 0;
  #tombstones = 0;
  #rawBytes = 0;
  #smallestSeq = Infinity;
  #largestSeq = 0;
  #expiring = 0;
  #firstExpiry = Infinity;
  #lastExpiry = 0;
  readonly #blobs = new Map<number, number>();
  #isWhole = true;

  constructor(table: TableFile, listBlocks: boolean) {
    this.#table = table;
    this.#listBlocks = listBlocks;
  }

  run(): TableReport {
    const table = this.#table;
    const { layout, info, footer } = table;
    this.#filter = this.#loadFilter(layout.filter);
    this.#prefixFilter = this.#loadFilter(layout.prefixFilter);
    const index: (IndexPartition & { readonly blocks: number })[] = [];
    this.#guarded(layout.rootOffset, () => {
      for (const partition of table.partitions) {
        let blocks = 0;
        this.#guarded(partition.offset, () => {
          blocks = this.#readPartition(partition);
        });
        index.push({ ...partition, blocks });
      }
    });
    if (this.#isWhole) this.#compare(info, layout);
    return {
      path: table.path,
      formatVersion: TABLE_FORMAT_VERSION,
      identity: table.identity,
      footer,
      info,
      layout,
      filter: this.#filter?.report(),
      prefixFilter: this.#prefixFilter?.report(),
      index,
      blocks: this.#blocks,
      problems: this.#problems,
      problemCount: this.#problemCount,
    };
  }

  /** What fails is a problem, and what is counted is not the whole any more. */
  #guarded(offset: number, look: () => void): boolean {
    try {
      look();
      return true;
    } catch (error) {
      if (!(error instanceof ConcordError) || (error.code !== 'ERR_CORRUPT' && error.code !== 'ERR_UNSUPPORTED')) {
        throw error;
      }
      this.#isWhole = false;
      this.#problem(Number(error.details['offset'] ?? offset), error.message);
      return false;
    }
  }

  #problem(offset: number, text: string): void {
    const file = this.#table.path;
    const whole = text.startsWith(file) ? text : `${file} at ${offset}: ${text}`;
    if (this.#problemCount++ < PROBLEMS_LISTED_MAX) this.#problems.push({ file, offset, text: whole });
  }

  #loadFilter(shape: FilterShape | undefined): LoadedFilter | undefined {
    if (shape === undefined) return undefined;
    const { partitions, partitionLines } = shape;
    const partitionBytes = partitionLines * FILTER_LINE_BYTES;
    const filter = new LoadedFilter(shape, new Uint8Array(partitions * partitionBytes));
    let isRead = true;
    for (let partition = 0; partition < partitions; partition++) {
      const offset = shape.offset + partition * (partitionBytes + TRAILER_BYTES);
      isRead =
        this.#guarded(offset, () => {
          const bytes = this.#table.readFilter(shape, partition, this.#into);
          filter.bytes.set(this.#into.bytes.subarray(0, bytes), partition * partitionBytes);
        }) && isRead;
    }
    return isRead ? filter : undefined;
  }

  #readPartition(partition: IndexPartition): number {
    const table = this.#table;
    const bytes = new BlockBuffer(0);
    const plainBytes = table.readBlock(partition.offset, partition.storedBytes, bytes);
    const index = new BlockCursor();
    index.open(bytes.bytes, 0, plainBytes, table.path, partition.offset);
    const wrong = index.check();
    if (wrong !== undefined) this.#problem(partition.offset, `index partition: ${wrong}`);
    let blocks = 0;
    for (let more = index.seekToFirst(); more; more = index.next()) {
      const offset = handleOffset(index);
      const storedBytes = handleBytes(index);
      if (offset !== this.#blockAt || offset + storedBytes > table.layout.dataBytes) {
        throw index.damage(`leads to ${storedBytes} bytes at ${offset}, expected a block at ${this.#blockAt}`);
      }
      this.#blockAt = offset + storedBytes;
      blocks++;
      this.#dataBlocks++;
      this.#guarded(offset, () => this.#readData(offset, storedBytes, index));
    }
    const key = Buffer.from(index.key.buffer, index.key.byteOffset, index.keyLength);
    if (key.compare(partition.key) !== 0 || index.seq !== partition.seq) {
      this.#problem(partition.offset, 'index partition: its last entry is not the one in the root');
    }
    return blocks;
  }

  #readData(offset: number, storedBytes: number, index: BlockCursor): void {
    const table = this.#table;
    const code = table.blockCode(offset, storedBytes);
    const plainBytes = table.readBlock(offset, storedBytes, this.#into);
    this.#plainBytes += plainBytes;
    const cursor = this.#cursor;
    cursor.open(this.#into.bytes, 0, plainBytes, table.path, offset);
    const wrong = cursor.check();
    if (wrong !== undefined) {
      this.#isWhole = false;
      this.#problem(offset, `data block: ${wrong}`);
      return;
    }
    const before = { keys: this.#entries, tombstones: this.#tombstones };
    let firstKey: Uint8Array | undefined;
    let smallestSeq = Infinity;
    let largestSeq = 0;
    for (let more = cursor.seekToFirst(); more; more = cursor.next()) {
      firstKey ??= cursor.key.slice(0, cursor.keyLength);
      smallestSeq = Math.min(smallestSeq, cursor.seq);
      largestSeq = Math.max(largestSeq, cursor.seq);
      this.#readEntry(cursor, offset);
    }
    this.#smallestSeq = Math.min(this.#smallestSeq, smallestSeq);
    this.#largestSeq = Math.max(this.#largestSeq, largestSeq);
    const separated = this.#lastKey.compare(index.key, 0, index.keyLength, 0, this.#lastKeyLength);
    if (separated > 0 || (separated === 0 && this.#lastSeq < index.seq)) {
      this.#problem(offset, 'data block: its last entry comes behind its entry in the index');
    }
    if (!this.#listBlocks) return;
    this.#blocks.push({
      offset,
      storedBytes,
      plainBytes,
      compression: compressionName(code) ?? 'none',
      entries: this.#entries - before.keys,
      tombstones: this.#tombstones - before.tombstones,
      firstKey: firstKey!,
      lastKey: Uint8Array.from(this.#lastKey.subarray(0, this.#lastKeyLength)),
      smallestSeq,
      largestSeq,
    });
  }

  #readEntry(cursor: BlockCursor, offset: number): void {
    const { key, keyLength, seq, flags, expiresAt } = cursor;
    const order = this.#lastKeyLength < 0 ? -1 : this.#lastKey.compare(key, 0, keyLength, 0, this.#lastKeyLength);
    if (order > 0 || (order === 0 && this.#lastSeq <= seq)) {
      this.#problem(offset, `data block: entry ${this.#entries} of the table is out of order`);
    }
    if (order !== 0) this.#readKey(key, keyLength, offset);
    this.#lastKey.set(key.subarray(0, keyLength));
    this.#lastKeyLength = keyLength;
    this.#lastSeq = seq;
    this.#entries++;
    this.#rawBytes += keyLength;
    if ((flags & EntryFlag.tombstone) !== 0) {
      this.#tombstones++;
    } else if ((flags & EntryFlag.blob) === 0) {
      this.#rawBytes += cursor.valueLength;
    } else {
      const end = cursor.valueStart + cursor.valueLength;
      const reference = decodeBlobReference(cursor.bytes, cursor.valueStart, end);
      if (reference === undefined) {
        this.#problem(offset, `data block: entry ${this.#entries - 1} of the table has no good reference`);
      } else {
        this.#rawBytes += reference.valueBytes;
        this.#blobs.set(reference.file, (this.#blobs.get(reference.file) ?? 0) + reference.recordBytes);
      }
    }
    if (expiresAt > 0) {
      this.#expiring++;
      this.#firstExpiry = Math.min(this.#firstExpiry, expiresAt);
      this.#lastExpiry = Math.max(this.#lastExpiry, expiresAt);
    }
  }

  #readKey(key: Uint8Array, keyLength: number, offset: number): void {
    if (this.#keys++ === 0) this.#firstKey = Buffer.from(key.subarray(0, keyLength));
    this.#hash.set(key, 0, keyLength);
    if (this.#filter !== undefined && !this.#filter.mayContain(this.#hash)) {
      this.#problem(offset, `data block: a key (entry ${this.#entries} of the table) is not in the filter`);
    }
    const { prefixFilterBytes } = this.#table.layout;
    if (this.#prefixFilter === undefined || keyLength < prefixFilterBytes) return;
    this.#hash.set(key, 0, prefixFilterBytes);
    if (!this.#prefixFilter.mayContain(this.#hash)) {
      this.#problem(offset, `data block: a prefix (entry ${this.#entries} of the table) is not in the prefix filter`);
    }
  }

  /** What was counted with what the properties say. */
  #compare(info: TableInfo, layout: TableLayout): void {
    const offset = this.#table.footer.propertiesOffset;
    const same = (name: string, said: number, found: number): void => {
      if (said !== found) this.#problem(offset, `properties: ${name} ${said}, found ${found}`);
    };
    same('dataBytes', layout.dataBytes, this.#blockAt);
    same('dataBlocks', layout.dataBlocks, this.#dataBlocks);
    same('plainBytes', layout.plainBytes, this.#plainBytes);
    same('entries', info.entries, this.#entries);
    same('keys', info.keys, this.#keys);
    same('tombstones', info.tombstones, this.#tombstones);
    same('rawBytes', info.rawBytes, this.#rawBytes);
    same('smallestSeq', info.smallestSeq, this.#smallestSeq);
    same('largestSeq', info.largestSeq, this.#largestSeq);
    same('expiring', info.expiring, this.#expiring);
    same('firstExpiry', info.firstExpiry, this.#expiring === 0 ? 0 : this.#firstExpiry);
    same('lastExpiry', info.lastExpiry, this.#lastExpiry);
    if (layout.filter !== undefined) same('keys of the filter', layout.filter.keys, this.#keys);
    const largest = this.#lastKey.subarray(0, this.#lastKeyLength);
    if (largest.compare(info.largestKey) !== 0) this.#problem(offset, 'properties: the largest key is another');
    if (this.#firstKey.compare(info.smallestKey) !== 0) {
      this.#problem(offset, 'properties: the smallest key is another');
    }
    const said = info.blobs.map(({ file, bytes }) => `${file}:${bytes}`).join(' ');
    const found = [...this.#blobs]
      .sort(([a], [b]) => a - b)
      .map(([file, bytes]) => `${file}:${bytes}`)
      .join(' ');
    if (said !== found) this.#problem(offset, `properties: blobs ${said}, found ${found}`);
  }
}

class LoadedFilter {
  readonly bytes: Uint8Array;
  readonly #shape: FilterShape;
  readonly #lines: number;

  constructor(shape: FilterShape, bytes: Uint8Array) {
    this.#shape = shape;
    this.bytes = bytes;
    this.#lines = shape.partitions * shape.partitionLines;
  }

  mayContain(hash: KeyHash): boolean {
    const line = filterLine(hash.h1, this.#lines);
    return lineMayContain(this.bytes, line * FILTER_LINE_BYTES, hash.h2, this.#shape.probes);
  }

  report(): TableFilterReport {
    let bits = 0;
    for (const byte of this.bytes) {
      for (let rest = byte; rest !== 0; rest &= rest - 1) bits++;
    }
    const bitsPerKey = (8 * this.bytes.length) / this.#shape.keys;
    return {
      ...this.#shape,
      bytes: this.bytes.length,
      bitsPerKey,
      fill: bits / (8 * this.bytes.length),
      falsePositiveRate: blockedFalsePositiveRate(bitsPerKey, this.#shape.probes),
    };
  }
}
