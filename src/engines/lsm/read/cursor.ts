/**
 * An LSM-Tree in key order: memtables and runs merged, in both directions.
 *
 *   sources (newest first) ──▶ heap by (key, age) ──▶ the newest version of each key ──▶ not a tombstone, not covered by a range tombstone, not expired
 *
 * Each source shows one version per key, the newest ≤ the number of the read, so the top of the heap is a key's newest version and sources behind it with the
 * same key have older ones: they are passed over with it. Where one source is left the heap costs nothing.
 *
 * A turn from one direction to the other seeks all sources anew. A seek from one chunk of a scan to the next finds the blocks where the last one left them.
 *
 * Threads: any, one object per thread, between pin and unpin.
 */
import type { ArenaReader, UnitId } from '../../../shared/memory/arena.js';
import { CopyPool } from '../../../shared/memory/copy-pool.js';
import { WORD_COPY_BYTES_MAX, copyWords } from '../../../shared/memory/copy-words.js';
import { KEY_BYTES_MAX } from '../../btree/page.js';
import type { EngineCursor } from '../../engine.js';
import { EntryFlag } from '../table/entry.js';
import type { BlobReference } from '../types.js';
import { copyBlob, readBlob, referenceAt } from './blob-values.js';
import { RangePrefix } from './range-prefix.js';
import { RunCursor } from './run-cursor.js';
import { MemtableSource, type Source } from './source.js';
import { LsmView, compareKeys } from './view.js';

/** Up to here a loop is faster than a call into the engine's copy. */
const LOOP_BYTES_MAX = 128;

export class LsmCursor extends LsmView implements EngineCursor {
  valid = false;
  readonly #memtables: MemtableSource[] = [];
  readonly #runs: RunCursor[] = [];
  /** Of the current state: so many of each are in use. */
  #generation = -1;
  #prefix: RangePrefix | undefined;
  readonly #heap: Source[] = [];
  #heapSize = 0;
  #reverse = false;
  // As of the last seek.
  #metaUnit: UnitId = 0;
  #atSeq = Infinity;
  #atMs = 0;
  /** The key that is passed. */
  readonly #passed = new Uint8Array(KEY_BYTES_MAX);

  // The entry at hand: one of the two.
  #memtable: MemtableSource | undefined;
  #run: RunCursor | undefined;
  #blob: BlobReference | undefined;
  readonly #pool = new CopyPool();
  /** Over the memory of the last value that became text. */
  #text: Buffer = Buffer.alloc(0);

  constructor(arena: ArenaReader, row: number, spaceId: number, slot: number) {
    super(arena, row, spaceId, slot);
  }

  seek(
    metaUnit: UnitId,
    key: Uint8Array | undefined,
    keyLength: number,
    atSeq: number,
    reverse: boolean,
    atMs: number,
  ): boolean {
    this.valid = false;
    if (!this.enter(metaUnit)) return false;
    if (this.#generation !== this.generation) this.#makeSources();
    this.#metaUnit = metaUnit;
    this.#atSeq = atSeq;
    this.#atMs = atMs;
    this.#reverse = reverse;
    this.#heapSize = 0;
    const memtables = this.memtables.length;
    for (let index = 0; index < memtables; index++) {
      const source = this.#memtables[index]!;
      if (source.seek(metaUnit, key, keyLength, atSeq, reverse, atMs)) this.#push(source);
    }
    for (let index = 0; index < this.runs.length; index++) {
      const source = this.#runs[index]!;
      if (source.seek(metaUnit, key, keyLength, atSeq, reverse)) this.#push(source);
    }
    return this.#settle();
  }

  next(): boolean {
    if (!this.valid) return false;
    if (this.#reverse) return this.#turn(false);
    this.#pass();
    return this.#settle();
  }

  prev(): boolean {
    if (!this.valid) return false;
    if (!this.#reverse) return this.#turn(true);
    this.#pass();
    return this.#settle();
  }

  release(): void {
    this.valid = false;
  }

  /** A hint until the next call: tables whose prefix filter has no key of the range are passed over. */
  setRange(low: Uint8Array | undefined, high: Uint8Array | undefined): void {
    this.#prefix = low === undefined || high === undefined ? undefined : new RangePrefix(low, high);
    for (const run of this.#runs) run.prefix = this.#prefix;
  }

  get seq(): number {
    return this.#entry().seq;
  }

  get expiresAt(): number {
    return this.#entry().expiresAt;
  }

  get keyLength(): number {
    return this.#entry().keyLength;
  }

  get valueLength(): number {
    if (this.#memtable !== undefined) return this.#memtable.cursor.valueLength;
    const run = this.#run!;
    return (run.flags & EntryFlag.blob) === 0 ? run.valueLength : this.#reference(run).valueBytes;
  }

  copyKey(into: Uint8Array, at: number): number {
    const { key, keyLength } = this.#entry();
    for (let index = 0; index < keyLength; index++) into[at + index] = key[index]!;
    return keyLength;
  }

  compareKey(key: Uint8Array, keyLength: number): number {
    const source = this.#entry();
    return compareKeys(source.key, source.keyLength, key, keyLength);
  }

  /** @throws of a value in a blob file: ERR_CORRUPT, ERR_IO */
  copyValue(): Buffer {
    if (this.#memtable !== undefined) return this.#memtable.cursor.copyValue();
    const run = this.#run!;
    if ((run.flags & EntryFlag.blob) !== 0) {
      const reference = this.#reference(run);
      return copyBlob(this.files, this.counters, this.tree, reference);
    }
    const { bytes, valueStart, valueLength } = run;
    if (valueLength <= WORD_COPY_BYTES_MAX) {
      const pool = this.#pool;
      const value = pool.take(valueLength);
      copyWords(run.words, bytes, valueStart, valueLength, pool.words, value.byteOffset >>> 2, value);
      return value;
    }
    const value = Buffer.allocUnsafe(valueLength);
    value.set(bytes.subarray(valueStart, valueStart + valueLength));
    return value;
  }

  valueUtf8(): string {
    if (this.#memtable !== undefined) return this.#memtable.cursor.valueUtf8();
    const run = this.#run!;
    if ((run.flags & EntryFlag.blob) !== 0) return this.copyValue().toString('utf8');
    const { bytes } = run;
    if (this.#text.buffer !== bytes.buffer) this.#text = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
    return this.#text.toString('utf8', run.valueStart, run.valueStart + run.valueLength);
  }

  readValue(into: Uint8Array, at: number, from: number, length: number): number {
    if (this.#memtable !== undefined) return this.#memtable.cursor.readValue(into, at, from, length);
    const run = this.#run!;
    if ((run.flags & EntryFlag.blob) !== 0) {
      return readBlob(this.files, this.counters, this.tree, this.#reference(run), into, at, from, length);
    }
    const wanted = Math.min(length, run.valueLength - from);
    if (wanted <= 0) return 0;
    copy(run.bytes, run.valueStart + from, wanted, into, at);
    return wanted;
  }

  #entry(): Source {
    return this.#memtable ?? this.#run!;
  }

  #reference(run: RunCursor): BlobReference {
    return (this.#blob ??= referenceAt(run.bytes, run.valueStart, run.valueStart + run.valueLength, run.table.path));
  }

  // ---- the merge ----------------------------------------------------------------------------------------------------------------

  #makeSources(): void {
    const { arena, memtables, runs } = this;
    this.#memtable = undefined;
    this.#run = undefined;
    memtables.forEach((descriptor, index) => {
      const source = (this.#memtables[index] ??= new MemtableSource(arena, this.slot, this.spaceId));
      source.setDescriptor(descriptor);
      source.age = index;
    });
    runs.forEach(({ root }, index) => {
      const source = (this.#runs[index] ??= new RunCursor(arena, this.files, this.counters, root));
      source.setRoot(root);
      source.prefix = this.#prefix;
      source.age = memtables.length + index;
    });
    // Others hold on to blocks that nobody will read.
    this.#memtables.length = memtables.length;
    this.#runs.length = runs.length;
    this.#heap.length = 0;
    this.#heapSize = 0;
    this.#generation = this.generation;
  }

  /** To the first entry from the top of the heap on that shows. */
  #settle(): boolean {
    while (this.#heapSize > 0) {
      const source = this.#heap[0]!;
      if (this.#shows(source)) {
        this.#blob = undefined;
        if (source.isMemtable) {
          this.#memtable = source as MemtableSource;
          this.#run = undefined;
        } else {
          this.#run = source as RunCursor;
          this.#memtable = undefined;
        }
        return (this.valid = true);
      }
      this.#pass();
    }
    return (this.valid = false);
  }

  #shows(source: Source): boolean {
    if ((source.flags & EntryFlag.tombstone) !== 0) return false;
    if (source.expiresAt !== 0) {
      if (this.#atMs === 0) this.#atMs = Date.now();
      if (source.expiresAt <= this.#atMs) return false;
    }
    return this.tombstones.length === 0 || this.coverOf(source.key, source.keyLength, this.#atSeq) <= source.seq;
  }

  /** All sources beyond the key at the top. */
  #pass(): void {
    const top = this.#heap[0]!;
    if (this.#heapSize === 1) {
      if (!(this.#reverse ? top.prev() : top.next())) this.#heapSize = 0;
      return;
    }
    const passed = this.#passed;
    const { key, keyLength } = top;
    for (let index = 0; index < keyLength; index++) passed[index] = key[index]!;
    do this.#advanceTop();
    while (this.#heapSize > 0 && this.#heap[0]!.keyLength === keyLength && this.#topIs(passed, keyLength));
  }

  #topIs(key: Uint8Array, keyLength: number): boolean {
    const other = this.#heap[0]!.key;
    for (let index = keyLength - 1; index >= 0; index--) if (other[index] !== key[index]) return false;
    return true;
  }

  #advanceTop(): void {
    const heap = this.#heap;
    const top = heap[0]!;
    if (!(this.#reverse ? top.prev() : top.next())) {
      const last = --this.#heapSize;
      if (last === 0) return;
      heap[0] = heap[last]!;
    }
    this.#sink();
  }

  #push(source: Source): void {
    const heap = this.#heap;
    let at = this.#heapSize++;
    while (at > 0) {
      const parent = (at - 1) >>> 1;
      if (!this.#isBefore(source, heap[parent]!)) break;
      heap[at] = heap[parent]!;
      at = parent;
    }
    heap[at] = source;
  }

  /** The top to its place. */
  #sink(): void {
    const heap = this.#heap;
    const size = this.#heapSize;
    const source = heap[0]!;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= size) break;
      if (child + 1 < size && this.#isBefore(heap[child + 1]!, heap[child]!)) child++;
      if (!this.#isBefore(heap[child]!, source)) break;
      heap[at] = heap[child]!;
      at = child;
    }
    heap[at] = source;
  }

  #isBefore(one: Source, other: Source): boolean {
    const order = compareKeys(one.key, one.keyLength, other.key, other.keyLength);
    if (order === 0) return one.age < other.age;
    return order < 0 !== this.#reverse;
  }

  /** To the neighbour of the entry at hand in the other direction. */
  #turn(reverse: boolean): boolean {
    const { key, keyLength } = this.#entry();
    const from = key.slice(0, keyLength);
    if (!this.seek(this.#metaUnit, from, keyLength, this.#atSeq, reverse, this.#atMs)) return false;
    if (this.compareKey(from, keyLength) !== 0) return true;
    this.#pass();
    return this.#settle();
  }
}

function copy(from: Uint8Array, start: number, length: number, to: Uint8Array, at: number): void {
  if (length > LOOP_BYTES_MAX) to.set(from.subarray(start, start + length), at);
  else for (let index = 0; index < length; index++) to[at + index] = from[start + index]!;
}
