/**
 * Reading a table file: its blocks by their place (BlockFile), and what footer, properties and the root of the index say (TableFile).
 *
 * A block that is handed out is exactly what was written at that place of that very file, or there is an error that names file and offset: its
 * checksum covers the file's identity and the offset, and is left out only where the caller says that it was right before. Nothing here is cached.
 * Threads: any; an object belongs to one thread.
 */
import { crc32 } from '../../../shared/checksum.js';
import type { Env, EnvFile } from '../../../shared/env/env.js';
import { CompressionCode, type CompressionName, type LsmIdentity, type TableInfo } from '../types.js';
import { BlockBuffer, BlockCursor, handleBytes, handleOffset } from './block.js';
import { decompress } from './compression.js';
import { FILTER_LINE_BYTES, type FilterShape } from './filter.js';
import {
  FOOTER_BYTES,
  TABLE_KIND,
  TRAILER_BYTES,
  checkOwner,
  damaged,
  decodeProperties,
  decodeTableFooter,
  filterEnd,
  identitySeed,
  openBlock,
  type TableFooter,
} from './format.js';

export { TRAILER_BYTES } from './format.js';

/** Footer, properties and root are mostly within the last bytes of a file: one read. */
const TAIL_BYTES = 16 * 1024;
/** Blocks up to here are read without a look at the file's size. */
const UNASKED_BYTES_MAX = 1 << 20;

/** Something refers to the file: that it is not there is damage. */
export function openExisting(env: Env, path: string, what: string): EnvFile {
  try {
    return env.open(path, 'read');
  } catch (error) {
    if (env.exists(path)) throw error;
    throw damaged(path, 0, `the ${what} is missing`, error);
  }
}

/** An open table of which only blocks are read: nothing of the file is looked at before. */
export class BlockFile {
  readonly path: string;
  readonly file: EnvFile;
  readonly #seed: number;
  readonly #stored = new BlockBuffer(0);

  protected constructor(file: EnvFile, seed: number) {
    this.file = file;
    this.path = file.path;
    this.#seed = seed;
  }

  /** @throws ERR_CORRUPT (missing), ERR_IO, ERR_PERMISSION */
  static open(env: Env, path: string, identity: LsmIdentity, number: number): BlockFile {
    return new BlockFile(openExisting(env, path, 'table'), identitySeed(TABLE_KIND, identity, number));
  }

  /**
   * Reads, verifies and decompresses the block at a place that an index or a FilterShape gave. Its plain bytes are into.bytes[0, returned count).
   * isVerified: its checksum was right at another time, and is not looked at.
   * @throws ERR_CORRUPT, ERR_IO, ERR_UNSUPPORTED
   */
  readBlock(offset: number, storedBytes: number, into: BlockBuffer, isVerified = false): number {
    this.#checkPlace(offset, storedBytes);
    const bytes = into.reserve(storedBytes);
    const read = this.file.read(bytes, 0, storedBytes, offset);
    if (read < storedBytes) throw damaged(this.path, offset, `block: ${read} of ${storedBytes} bytes`);
    const code = isVerified
      ? bytes[storedBytes - TRAILER_BYTES]!
      : openBlock(bytes, 0, storedBytes, offset, this.#seed, this.path);
    if (code === CompressionCode.none) return storedBytes - TRAILER_BYTES;
    const plain = this.#decompress(code, bytes, 0, storedBytes, offset);
    into.reserve(plain.length).set(plain);
    return plain.length;
  }

  /** The same for what was read by other means: bytes[at, at + storedBytes), as it stands in the file at `offset`. @throws as readBlock() */
  decodeBlock(bytes: Uint8Array, at: number, storedBytes: number, offset: number, into: BlockBuffer): number {
    const plain = this.plainBlock(bytes, at, storedBytes, offset);
    into.reserve(plain.length).set(plain);
    return plain.length;
  }

  /** The same as they are: a part of `bytes` if they are not compressed. @throws as readBlock() */
  plainBlock(bytes: Uint8Array, at: number, storedBytes: number, offset: number): Uint8Array {
    const code = openBlock(bytes, at, storedBytes, offset, this.#seed, this.path);
    if (code === CompressionCode.none) return bytes.subarray(at, at + storedBytes - TRAILER_BYTES);
    return this.#decompress(code, bytes, at, storedBytes, offset);
  }

  /**
   * Verifies such bytes and opens the cursor on them: where they lie if they are not compressed, else in `into`. Returns the plain bytes.
   * @throws as readBlock()
   */
  openCursor(
    cursor: BlockCursor,
    bytes: Uint8Array,
    at: number,
    storedBytes: number,
    offset: number,
    into: BlockBuffer,
  ): number {
    const code = openBlock(bytes, at, storedBytes, offset, this.#seed, this.path);
    if (code === CompressionCode.none) {
      const plainBytes = storedBytes - TRAILER_BYTES;
      cursor.open(bytes, at, at + plainBytes, this.path, offset);
      return plainBytes;
    }
    const plain = this.#decompress(code, bytes, at, storedBytes, offset);
    into.reserve(plain.length).set(plain);
    cursor.open(into.bytes, 0, plain.length, this.path, offset);
    return plain.length;
  }

  /** The compression code of a block that lies in the file, verified. */
  blockCode(offset: number, storedBytes: number): number {
    this.#checkPlace(offset, storedBytes);
    const bytes = this.#stored.reserve(storedBytes);
    const read = this.file.read(bytes, 0, storedBytes, offset);
    if (read < storedBytes) throw damaged(this.path, offset, `block: ${read} of ${storedBytes} bytes`);
    return openBlock(bytes, 0, storedBytes, offset, this.#seed, this.path);
  }

  close(): void {
    this.file.close();
  }

  /** A wrong length must not cost its memory. */
  #checkPlace(offset: number, storedBytes: number): void {
    if (storedBytes > UNASKED_BYTES_MAX && offset + storedBytes > this.file.size()) {
      throw damaged(this.path, offset, `a block of ${storedBytes} bytes in a file of ${this.file.size()}`);
    }
  }

  #decompress(code: number, bytes: Uint8Array, at: number, storedBytes: number, offset: number): Uint8Array {
    const plain = decompress(code, bytes, at, storedBytes - TRAILER_BYTES);
    if (plain === undefined) throw damaged(this.path, offset, `block does not decompress with code ${code}`);
    return plain;
  }
}

/** An entry of the root. */
export interface IndexPartition {
  /** No entry of the partition's blocks comes behind (key, seq). */
  readonly key: Uint8Array;
  readonly seq: number;
  readonly offset: number;
  /** Trailer included. */
  readonly storedBytes: number;
}

export interface TableLayout {
  readonly dataBlocks: number;
  /** Data blocks lie in [0, dataBytes) of the file, one behind the other. */
  readonly dataBytes: number;
  /** Of the data blocks before compression. */
  readonly plainBytes: number;
  /** As asked for; each block says itself how it is stored. */
  readonly compression: CompressionName;
  readonly blockBytes: number;
  readonly restartInterval: number;
  /** Undefined: there is none. */
  readonly filter: FilterShape | undefined;
  readonly prefixFilter: FilterShape | undefined;
  /** Bytes of a key that went into the prefix filter, if it has so many; 0: none. */
  readonly prefixFilterBytes: number;
  readonly rootOffset: number;
  readonly rootStoredBytes: number;
}

export class TableFile extends BlockFile {
  readonly identity: LsmIdentity;
  readonly info: TableInfo;
  readonly layout: TableLayout;
  readonly footer: TableFooter;
  /**
   * Plain block with an entry for each partition of the index: (key, seq) as in IndexPartition, the value a handle. Partitions are such blocks too, of
   * handles of data blocks. seek(key, length, atSeq) on either finds the one block that holds the key's newest version ≤ atSeq, if there is one.
   */
  readonly root: Uint8Array;
  #partitions: readonly IndexPartition[] | undefined;

  private constructor(file: EnvFile, seed: number, footer: TableFooter, tail: Buffer, tailAt: number) {
    super(file, seed);
    this.footer = footer;
    const into = new BlockBuffer(0);
    const plain = (offset: number, storedBytes: number): number =>
      offset >= tailAt
        ? this.decodeBlock(tail, offset - tailAt, storedBytes, offset, into)
        : this.readBlock(offset, storedBytes, into);
    const propertiesBytes = plain(footer.propertiesOffset, footer.propertiesBytes);
    const { info, layout } = decodeProperties(into.bytes, propertiesBytes, footer, file.path);
    this.info = info;
    this.layout = layout;
    const rootBytes = plain(footer.rootOffset, footer.rootBytes);
    this.root = into.bytes.slice(0, rootBytes);
    this.identity = { storeId: footer.storeId, shard: footer.shard, tree: footer.tree };
  }

  /**
   * Reads footer, properties and root. Without an owner (identity and number) any table will do: the file says whose it is.
   * @throws ERR_CORRUPT, ERR_FORMAT_VERSION, ERR_IO, ERR_UNSUPPORTED
   */
  static override open(
    env: Env,
    path: string,
    identity?: LsmIdentity,
    number?: number,
    expectedBytes?: number,
  ): TableFile {
    const file = openExisting(env, path, 'table');
    try {
      const fileBytes = file.size();
      if (expectedBytes !== undefined && fileBytes !== expectedBytes) {
        throw damaged(
          path,
          Math.min(fileBytes, expectedBytes),
          `a file of ${fileBytes} bytes, expected ${expectedBytes}`,
        );
      }
      if (fileBytes < FOOTER_BYTES) throw damaged(path, fileBytes, `a file of ${fileBytes} bytes is no table`);
      const tailBytes = Math.min(fileBytes, TAIL_BYTES);
      const tailAt = fileBytes - tailBytes;
      const tail = Buffer.alloc(tailBytes);
      const read = file.read(tail, 0, tailBytes, tailAt);
      if (read < tailBytes) throw damaged(path, tailAt + read, `the file ends ${tailBytes - read} bytes too soon`);
      const footer = decodeTableFooter(tail, tailBytes - FOOTER_BYTES, fileBytes, path);
      if (identity !== undefined) checkOwner(footer, identity, number ?? footer.number, path);
      const seed = crc32(tail, tailBytes - FOOTER_BYTES, 40);
      return new TableFile(file, seed, footer, tail, tailAt);
    } catch (error) {
      file.close();
      throw error;
    }
  }

  get partitions(): readonly IndexPartition[] {
    this.#partitions ??= this.#readPartitions();
    return this.#partitions;
  }

  /** A partition's lines to into.bytes[0 …). @throws as readBlock() */
  readFilter(shape: FilterShape, partition: number, into: BlockBuffer): number {
    const bytes = shape.partitionLines * FILTER_LINE_BYTES;
    const offset = shape.offset + partition * (bytes + TRAILER_BYTES);
    const read = this.readBlock(offset, bytes + TRAILER_BYTES, into);
    if (read !== bytes) throw damaged(this.path, offset, `filter partition of ${read} bytes, expected ${bytes}`);
    return read;
  }

  #readPartitions(): IndexPartition[] {
    const { filter, prefixFilter, dataBytes, rootOffset } = this.layout;
    const cursor = new BlockCursor();
    cursor.open(this.root, 0, this.root.length, this.path, rootOffset);
    let at =
      prefixFilter !== undefined ? filterEnd(prefixFilter) : filter !== undefined ? filterEnd(filter) : dataBytes;
    const partitions: IndexPartition[] = [];
    for (let more = cursor.seekToFirst(); more; more = cursor.next()) {
      const offset = handleOffset(cursor);
      const storedBytes = handleBytes(cursor);
      if (offset !== at || storedBytes <= TRAILER_BYTES || offset + storedBytes > rootOffset) {
        throw cursor.damage(`leads to ${storedBytes} bytes at ${offset}`);
      }
      at = offset + storedBytes;
      partitions.push({ key: cursor.key.slice(0, cursor.keyLength), seq: cursor.seq, offset, storedBytes });
    }
    if (at !== rootOffset) throw damaged(this.path, rootOffset, `index partitions end at ${at}, not at the root`);
    return partitions;
  }
}
