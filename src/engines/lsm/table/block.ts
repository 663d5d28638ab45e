export declare class BlockBuilder {
  constructor(restartInterval: number);
  /** Bytes that finish() would return now. */
  readonly bytes: number;
  readonly entries: number;
  add(
    key: Uint8Array,
    keyLength: number,
    value: Uint8Array,
    valueStart: number,
    valueLength: number,
    seq: number,
    flags: number,
    expiresAt: number,
  ): void;
}

/** A block's plain bytes; grows. */
export declare class BlockBuffer {
  bytes: Uint8Array;
  reserve(byteCount: number): Uint8Array;
}

/** One position in a block. Throws ERR_CORRUPT naming file and offset given to open(). */
export declare class BlockCursor {
  readonly valid: boolean;
  /** The key is key[0, keyLength): a scratch of the cursor. */
  readonly key: Uint8Array;
  readonly keyLength: number;
  /** The block's bytes; the value is bytes[valueStart, valueStart + valueLength). */
  readonly bytes: Uint8Array;
  readonly valueStart: number;
  readonly valueLength: number;
  readonly seq: number;
  /** EntryFlag. */
  readonly flags: number;
  readonly expiresAt: number;
  /** The plain block is bytes[start, end). file and offset: for messages. */
  open(bytes: Uint8Array, start: number, end: number, file: string, offset: number): void;
  /** To the first entry ≥ (key, atSeq): a larger key, or the key's first version with seq ≤ atSeq. True if it has that key. valid is false when it lies behind the block. */
  seek(key: Uint8Array, keyLength: number, atSeq: number): boolean;
  seekToFirst(): boolean;
  seekToLast(): boolean;
  next(): boolean;
  prev(): boolean;
}

/** Of an index entry that cursor stands on: where the block it is for lies. */
export declare function handleOffset(cursor: BlockCursor): number;
/** Stored bytes, trailer included: what readBlock() wants. */
export declare function handleBytes(cursor: BlockCursor): number;
