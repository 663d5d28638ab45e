/**
 * A place in a table's index: which block comes next, where it lies.
 *
 *   resident     the fence tree of the table page leads to data blocks
 *   else         it leads to partitions, blocks of the file whose entries lead to data blocks
 *
 * Threads: any, one per reader or cursor, under a pin of a version that has the table.
 */
import type { ArenaReader } from '../../../shared/memory/arena.js';
import { FENCE_MARK, FenceCursor } from '../memory/fence-tree.js';
import { BlockBuffer, BlockCursor, handleBytes, handleOffset } from '../table/block.js';
import type { TableView } from './table-view.js';

export class IndexCursor {
  readonly #fences: FenceCursor;
  #table: TableView | undefined;
  #isResident = true;
  #buffer: BlockBuffer | undefined;
  #partition: BlockCursor | undefined;
  // What #buffer holds.
  #cacheId = 0;
  #partitionOffset = 0;
  #partitionLength = 0;
  /** Of the data block. */
  offset = 0;
  storedBytes = 0;
  valid = false;

  constructor(arena: ArenaReader) {
    this.#fences = new FenceCursor(arena);
  }

  /** Then one of the others. The view must stay open on the table. */
  open(table: TableView): void {
    this.#table = table;
    this.#isResident = table.isIndexResident;
    this.valid = false;
  }

  /** To the first block that may hold an entry whose key is ≥ the given one, or > it. @throws ERR_CORRUPT, ERR_IO, ColdReadError */
  seek(key: Uint8Array, keyLength: number, isAfter = false): boolean {
    const fences = this.#fences;
    let more = fences.seek(this.#table!.indexRoot, key, keyLength, isAfter);
    if (this.#isResident) return this.#takeFence(more);
    // The bound of a partition can be a larger one than that of its last block.
    let isFirst = true;
    while (more) {
      const partition = this.#openPartition();
      if (isFirst) partition.seek(key, keyLength, isAfter ? -1 : Infinity);
      else partition.seekToFirst();
      if (partition.valid) return this.#takeEntry();
      isFirst = false;
      more = fences.next();
    }
    return (this.valid = false);
  }

  /** Whether the block that seek() found ends with that key or a bound equal to it: then the next one may begin with it too. */
  boundEquals(key: Uint8Array, keyLength: number): boolean {
    if (this.#isResident) return this.#fences.keyEquals(key, keyLength);
    const partition = this.#partition!;
    if (partition.keyLength !== keyLength) return false;
    for (let index = 0; index < keyLength; index++) if (partition.key[index] !== key[index]) return false;
    return true;
  }

  /** Whether some thread has read the block that seek() has found, and it was as it had been written. */
  get isVerified(): boolean {
    return this.#isResident && this.#fences.b >= FENCE_MARK;
  }

  noteVerified(): void {
    if (this.#isResident) this.#fences.mark();
  }

  /** Whether a place that is set is there for the next find, of any thread. */
  get notesPlaces(): boolean {
    return this.#isResident;
  }

  /** Where in the cache a reader found the block that seek() has found, or 0. */
  get place(): number {
    return this.#isResident ? this.#fences.note : 0;
  }

  set place(place: number) {
    if (this.#isResident) this.#fences.note = place;
  }

  first(): boolean {
    return this.#edge(false);
  }

  last(): boolean {
    return this.#edge(true);
  }

  next(): boolean {
    return this.valid && this.#step(true);
  }

  prev(): boolean {
    return this.valid && this.#step(false);
  }

  #edge(atEnd: boolean): boolean {
    const fences = this.#fences;
    const root = this.#table!.indexRoot;
    const more = atEnd ? fences.last(root) : fences.first(root);
    return this.#isResident ? this.#takeFence(more) : this.#enterPartitions(more, !atEnd);
  }

  #step(forward: boolean): boolean {
    const fences = this.#fences;
    if (this.#isResident) return this.#takeFence(forward ? fences.next() : fences.prev());
    const partition = this.#partition!;
    if (forward ? partition.next() : partition.prev()) return this.#takeEntry();
    return this.#enterPartitions(forward ? fences.next() : fences.prev(), forward);
  }

  #enterPartitions(has: boolean, forward: boolean): boolean {
    const fences = this.#fences;
    for (let more = has; more; more = forward ? fences.next() : fences.prev()) {
      const partition = this.#openPartition();
      if (forward ? partition.seekToFirst() : partition.seekToLast()) return this.#takeEntry();
    }
    return (this.valid = false);
  }

  #takeFence(has: boolean): boolean {
    const fences = this.#fences;
    this.offset = fences.a;
    this.storedBytes = fences.b & ~FENCE_MARK;
    return (this.valid = has);
  }

  #takeEntry(): boolean {
    const partition = this.#partition!;
    this.offset = handleOffset(partition);
    this.storedBytes = handleBytes(partition);
    return (this.valid = true);
  }

  #openPartition(): BlockCursor {
    const table = this.#table!;
    const { a: offset, b: storedBytes } = this.#fences;
    const buffer = (this.#buffer ??= new BlockBuffer(16384));
    const partition = (this.#partition ??= new BlockCursor());
    if (this.#cacheId !== table.cacheId || this.#partitionOffset !== offset) {
      this.#cacheId = 0;
      this.#partitionLength = table.read(offset, storedBytes, buffer);
      this.#cacheId = table.cacheId;
      this.#partitionOffset = offset;
    }
    partition.open(buffer.bytes, 0, this.#partitionLength, table, offset);
    return partition;
  }
}
