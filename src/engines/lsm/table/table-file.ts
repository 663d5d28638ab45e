import type { Env, EnvFile } from '../../../shared/env/env.js';
import type { CompressionName, LsmIdentity, TableInfo } from '../types.js';
import type { BlockBuffer } from './block.js';
import type { FilterShape } from './filter.js';

/** Behind every block: compression code, crc. */
export declare const TRAILER_BYTES: 5;

/** An open table of which only blocks are read: nothing of the file is looked at before. */
export declare class BlockFile {
  readonly path: string;
  readonly file: EnvFile;
  static open(env: Env, path: string, identity: LsmIdentity, number: number): BlockFile;
  /** Reads, verifies and decompresses a block whose place an index (or FilterShape) gave; plain bytes to into.bytes[0 …); returns their count. @throws ERR_CORRUPT, ERR_IO */
  readBlock(offset: number, storedBytes: number, into: BlockBuffer): number;
  /** The same for bytes that were read by other means: bytes[at, at + storedBytes) as in the file at offset. */
  decodeBlock(bytes: Uint8Array, at: number, storedBytes: number, offset: number, into: BlockBuffer): number;
  close(): void;
}

export interface IndexPartition {
  /** No entry of the partition's blocks is behind (key, seq). */
  readonly key: Uint8Array;
  readonly seq: number;
  readonly offset: number;
  readonly storedBytes: number;
}

export interface TableLayout {
  readonly dataBlocks: number;
  /** Data blocks lie in [0, dataBytes) of the file. */
  readonly dataBytes: number;
  /** Before compression. */
  readonly plainBytes: number;
  readonly compression: CompressionName;
  readonly blockBytes: number;
  readonly restartInterval: number;
  /** Undefined: none. */
  readonly filter: FilterShape | undefined;
  readonly prefixFilter: FilterShape | undefined;
  /** Of keys in the prefix filter; 0: none. */
  readonly prefixFilterBytes: number;
  readonly rootOffset: number;
  readonly rootStoredBytes: number;
}

export declare class TableFile extends BlockFile {
  readonly info: TableInfo;
  readonly layout: TableLayout;
  /** Plain block whose entries lead to the index partitions (see IndexPartition), for a BlockCursor. Partitions are blocks whose entries lead to data blocks: handleOffset(), handleBytes(). */
  readonly root: Uint8Array;
  readonly partitions: readonly IndexPartition[];
  /** Reads footer, properties and root. @throws ERR_CORRUPT, ERR_FORMAT_VERSION, ERR_IO */
  static override open(
    env: Env,
    path: string,
    identity: LsmIdentity,
    number: number,
    expectedBytes?: number,
  ): TableFile;
  /** Partition of the filter, or of the prefix filter. */
  readFilter(shape: FilterShape, partition: number, into: BlockBuffer): number;
}
