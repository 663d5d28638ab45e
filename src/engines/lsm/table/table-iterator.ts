/**
 * A table in order, from a key on to a bound, with large reads ahead: for jobs, which read all of a range once. Nothing goes through a cache.
 *
 * Blocks lie one behind the other, so a read fetches many; blocks that are not compressed are walked where they were read.
 * Threads: any; an object belongs to one thread.
 */
import { BlockBuffer, BlockCursor, handleBytes, handleOffset } from './block.js';
import { damaged } from './format.js';
import type { TableFile } from './table-file.js';

export const READ_AHEAD_BYTES = 256 * 1024;

export class TableIterator {
  valid = false;
  /** Of the file, so far. */
  readBytes = 0;
  readonly #table: TableFile;
  readonly #readAhead: number;
  readonly #cursor = new BlockCursor();
  readonly #root = new BlockCursor();
  readonly #index = new BlockCursor();
  readonly #indexBytes = new BlockBuffer(0);
  readonly #plain = new BlockBuffer(0);
  /** Bytes of the file from #aheadOffset on. */
  readonly #ahead: BlockBuffer;
  #aheadOffset = 0;
  #aheadBytes = 0;
  #high: Uint8Array | undefined;

  /** `ahead`: what is read goes there; who walks one table after the other needs memory for one only. */
  constructor(table: TableFile, readAheadBytes = READ_AHEAD_BYTES, ahead = new BlockBuffer(0)) {
    this.#table = table;
    this.#readAhead = readAheadBytes;
    this.#ahead = ahead;
  }

  /** The key is key[0, keyLength), good until the next step. */
  get key(): Uint8Array {
    return this.#cursor.key;
  }

  get keyLength(): number {
    return this.#cursor.keyLength;
  }

  /** The value is bytes[valueStart, valueStart + valueLength), good until the next step. */
  get bytes(): Uint8Array {
    return this.#cursor.bytes;
  }

  get valueStart(): number {
    return this.#cursor.valueStart;
  }

  get valueLength(): number {
    return this.#cursor.valueLength;
  }

  get seq(): number {
    return this.#cursor.seq;
  }

  /** EntryFlag. */
  get flags(): number {
    return this.#cursor.flags;
  }

  get expiresAt(): number {
    return this.#cursor.expiresAt;
  }

  /** To the newest version of the first key ≥ low (undefined: the first). The table ends before the first key ≥ high. @throws as TableFile.readBlock() */
  seek(low: Uint8Array | undefined, high: Uint8Array | undefined): boolean {
    const { root, path, layout } = this.#table;
    this.#high = high;
    this.#root.open(root, 0, root.length, path, layout.rootOffset);
    if (low === undefined) this.#root.seekToFirst();
    else this.#root.seek(low, low.length, Infinity);
    this.valid = false;
    if (!this.#root.valid) return false;
    this.#openPartition();
    if (low === undefined) this.#index.seekToFirst();
    else this.#index.seek(low, low.length, Infinity);
    if (!this.#index.valid) return this.#nextBlock();
    this.#openBlock();
    if (low === undefined) this.#cursor.seekToFirst();
    else this.#cursor.seek(low, low.length, Infinity);
    return this.#cursor.valid ? this.#checkHigh() : this.#nextBlock();
  }

  /** @throws as TableFile.readBlock() */
  next(): boolean {
    return this.#cursor.next() ? this.#checkHigh() : this.#nextBlock();
  }

  #checkHigh(): boolean {
    const high = this.#high;
    if (high === undefined) {
      this.valid = true;
      return true;
    }
    const { key, keyLength } = this.#cursor;
    const most = Math.min(keyLength, high.length);
    let at = 0;
    while (at < most && key[at] === high[at]) at++;
    this.valid = at < most ? key[at]! < high[at]! : keyLength < high.length;
    return this.valid;
  }

  /** To the first entry of the next block. */
  #nextBlock(): boolean {
    if (!this.#index.next()) {
      if (!this.#root.next()) {
        this.valid = false;
        return false;
      }
      this.#openPartition();
      this.#index.seekToFirst();
    }
    this.#openBlock();
    this.#cursor.seekToFirst();
    return this.#checkHigh();
  }

  #openPartition(): void {
    const offset = handleOffset(this.#root);
    const storedBytes = handleBytes(this.#root);
    const plainBytes = this.#table.readBlock(offset, storedBytes, this.#indexBytes);
    this.readBytes += storedBytes;
    this.#index.open(this.#indexBytes.bytes, 0, plainBytes, this.#table.path, offset);
  }

  #openBlock(): void {
    const table = this.#table;
    const offset = handleOffset(this.#index);
    const storedBytes = handleBytes(this.#index);
    const { dataBytes } = table.layout;
    if (storedBytes > dataBytes - offset) throw this.#index.damage(`leads to ${storedBytes} bytes at ${offset}`);
    if (offset < this.#aheadOffset || offset + storedBytes > this.#aheadOffset + this.#aheadBytes) {
      const wanted = Math.min(dataBytes - offset, Math.max(storedBytes, this.#readAhead));
      this.#aheadOffset = offset;
      this.#aheadBytes = table.file.read(this.#ahead.reserve(wanted), 0, wanted, offset);
      this.readBytes += this.#aheadBytes;
      if (this.#aheadBytes < storedBytes) {
        throw damaged(table.path, offset, `block: ${this.#aheadBytes} of ${storedBytes} bytes`);
      }
    }
    table.openCursor(this.#cursor, this.#ahead.bytes, offset - this.#aheadOffset, storedBytes, offset, this.#plain);
  }
}
