/**
 * Bulk load: builds a tree bottom-up from entries in ascending key order, each page filled before the next is begun.
 *
 *   add → leaf run → full leaf → branch run of level 1 → full branch → branch run of level 2 …
 *
 * A branch run keeps back its last two children, so that the last branch of a level is never left with one. Nothing refers to the
 * pages until finish(); a writer that dies before leaves nothing behind. Threads: the shard thread only.
 */
import { invalidArgument } from '../../shared/errors.js';
import {
  SEGMENT_UNIT_MASK,
  SEGMENT_UNIT_SHIFT,
  UNIT_SHIFT,
  type ArenaWriter,
  type UnitId,
} from '../../shared/memory/arena.js';
import { BranchRun } from './branch-run.js';
import { LeafRun } from './leaf-run.js';
import type { TreeContents } from './meta.js';
import { newPageMix, type PageMix } from './page-mix.js';
import type { PageSizer } from './page-sizer.js';
import { OverflowWriter, type OverflowChain } from './overflow.js';
import { CellFlag, KEY_BYTES_MAX, LEAF_SLOT_BYTES, PAGE_CLASS_MAX, UNITS_OF_CLASS, headsOffset } from './page.js';

export interface BulkResult {
  readonly contents: TreeContents;
  readonly mix: PageMix;
}

export class BulkLoader {
  readonly #arena: ArenaWriter;
  readonly #sizer: PageSizer;
  readonly #mix = newPageMix();
  readonly #entriesMax: number;
  readonly #inlineValueBytesMax: number;
  readonly #onFinish: (result: BulkResult) => void;
  readonly #leaf = new LeafRun();
  /** Index 0 is level 1. */
  readonly #branches: { run: BranchRun; emitted: number }[] = [];
  readonly #overflow: OverflowWriter;
  readonly #chains: OverflowChain[] = [];
  #pages = new Int32Array(1024);
  #pageCount = 0;
  #open = true;

  /** Of the leaf run, with whole keys: sum of cells and slots, largest cell, and what all keys share. */
  #bytes = 0;
  #largest = 0;
  #prefixLength = 0;
  /** Separator before the leaf that the run will become. */
  readonly #separator = new Uint8Array(KEY_BYTES_MAX);
  #separatorLength = 0;

  #entries = 0;
  #mayExpire = false;
  #keyBytes = 0;
  #valueBytes = 0;
  #leafPages = 0;
  #branchPages = 0;
  #treeUnits = 0;
  readonly #unitBytes = new Uint8Array(4);
  readonly #key = new Uint8Array(KEY_BYTES_MAX);

  constructor(
    arena: ArenaWriter,
    sizer: PageSizer,
    entriesMax: number,
    inlineValueBytesMax: number,
    onFinish: (result: BulkResult) => void,
  ) {
    this.#arena = arena;
    this.#sizer = sizer;
    this.#entriesMax = entriesMax;
    this.#inlineValueBytesMax = inlineValueBytesMax;
    this.#onFinish = onFinish;
    this.#overflow = new OverflowWriter(arena);
  }

  /** Keys must ascend. ERR_MEMORY_FULL: abort(). */
  add(
    key: Uint8Array,
    keyStart: number,
    keyLength: number,
    value: Uint8Array,
    valueStart: number,
    valueLength: number,
    seq: number,
    expiresAt: number,
  ): void {
    if (!this.#open) throw invalidArgument('the bulk load has ended');
    if (keyLength > KEY_BYTES_MAX) throw invalidArgument(`key of ${keyLength} bytes, limit ${KEY_BYTES_MAX}`);
    const run = this.#leaf;
    const flags = expiresAt === 0 ? 0 : CellFlag.Expiry;
    if (expiresAt !== 0) this.#mayExpire = true;
    if (valueLength > this.#inlineValueBytesMax) {
      const unit = this.#writeChain(value, valueStart, valueLength);
      this.#unitBytes.set([unit, unit >>> 8, unit >>> 16, unit >>> 24]);
      run.addCell(
        flags | CellFlag.Overflow,
        seq,
        expiresAt,
        key,
        keyStart,
        keyLength,
        valueLength,
        this.#unitBytes,
        0,
        4,
      );
    } else {
      run.addCell(flags, seq, expiresAt, key, keyStart, keyLength, valueLength, value, valueStart, valueLength);
    }
    const last = run.count - 1;
    if (last > 0) this.#checkOrder(last);
    const cellBytes = run.cellBytes(last, 0);
    this.#sizer.noteCell(run.cellBytes(last, last === 0 ? 0 : Math.min(this.#prefixLength, run.commonPrefix(0, last))));
    const prefixLength = last === 0 ? keyLength : Math.min(this.#prefixLength, run.commonPrefix(0, last));
    const bytes = this.#bytes + cellBytes + LEAF_SLOT_BYTES;
    const largest = Math.max(this.#largest, cellBytes);
    if (last > 0 && !this.#fits(run.count, bytes, largest, prefixLength)) {
      this.#emitLeaf(last);
      const shared = run.commonPrefix(last - 1, last);
      this.#separatorLength = shared + 1;
      run.copyKey(last, shared + 1, this.#separator, 0);
      run.dropFirst(last);
      this.#bytes = cellBytes + LEAF_SLOT_BYTES;
      this.#largest = cellBytes;
      this.#prefixLength = keyLength;
    } else {
      this.#bytes = bytes;
      this.#largest = largest;
      this.#prefixLength = prefixLength;
    }
    this.#entries++;
    this.#keyBytes += keyLength;
    this.#valueBytes += valueLength;
  }

  finish(): void {
    if (!this.#open) throw invalidArgument('the bulk load has ended');
    if (this.#leaf.count > 0) this.#emitLeaf(this.#leaf.count);
    let rootUnit = 0;
    let height = 0;
    for (let index = 0; index < this.#branches.length; index++) {
      const { run, emitted } = this.#branches[index]!;
      if (emitted === 0 && run.count === 1) {
        rootUnit = run.childOf(0);
        height = index + 1;
        break;
      }
      this.#emitBranch(index, run.count);
    }
    this.#open = false;
    this.#arena.stagedUnits -= this.#treeUnits;
    let overflowPages = 0;
    let overflowUnits = 0;
    for (const chain of this.#chains) {
      overflowPages += chain.pages;
      overflowUnits += chain.units;
    }
    this.#arena.stagedUnits -= overflowUnits;
    const contents = {
      rootUnit,
      height,
      cells: this.#entries,
      liveEntries: this.#entries,
      liveKeyBytes: this.#keyBytes,
      liveValueBytes: this.#valueBytes,
      leafPages: this.#leafPages,
      branchPages: this.#branchPages,
      treeUnits: this.#treeUnits,
      overflowPages,
      overflowUnits,
      mayExpire: this.#mayExpire,
    };
    this.#onFinish({ contents, mix: this.#mix });
  }

  /** Frees everything built so far; nothing happens after finish(). */
  abort(): void {
    if (!this.#open) return;
    this.#open = false;
    for (const chain of this.#chains) OverflowWriter.discard(this.#arena, chain);
    for (let index = 0; index < this.#pageCount; index++) this.#arena.free(this.#pages[index]!);
    this.#arena.stagedUnits -= this.#treeUnits;
  }

  #checkOrder(last: number): void {
    const run = this.#leaf;
    const shared = run.commonPrefix(last - 1, last);
    const before = run.keyLength(last - 1);
    const length = run.keyLength(last);
    if (shared < before && shared < length) {
      run.copyKey(last - 1, shared + 1, this.#key, 0);
      const byteBefore = this.#key[shared]!;
      run.copyKey(last, shared + 1, this.#key, 0);
      if (byteBefore < this.#key[shared]!) return;
    } else if (before < length) return;
    throw invalidArgument(`entry ${this.#entries} of the bulk load is not above the one before it`);
  }

  /** Bounds from whole keys: exact but for lengths that need one byte less without the prefix. */
  #fits(count: number, bytes: number, largest: number, prefixLength: number): boolean {
    if (count > this.#entriesMax) return false;
    const quarter = 4 * Math.max(largest - prefixLength, prefixLength);
    let pageClass = this.#sizer.leafClass;
    while (pageClass < PAGE_CLASS_MAX && quarter > 4096 << pageClass) pageClass++;
    return headsOffset(prefixLength) + bytes - count * prefixLength <= 4096 << pageClass;
  }

  #writeChain(value: Uint8Array, start: number, length: number): UnitId {
    const chain = this.#overflow.write(value, start, length);
    this.#chains.push(chain);
    return chain.firstUnit;
  }

  #emitLeaf(count: number): void {
    const run = this.#leaf;
    // A page of one entry would otherwise take its whole key as prefix.
    const prefixLength = count === 1 ? 0 : run.commonPrefix(0, count - 1);
    const pageClass = run.classFor(0, count, prefixLength, this.#sizer.leafClass, true);
    const unit = this.#allocate(pageClass);
    this.#leafPages++;
    this.#mix.leaves[pageClass]!++;
    // The sizes seen so far decide about the next page.
    this.#sizer.decide(-this.#leafPages);
    const segment = unit >>> SEGMENT_UNIT_SHIFT;
    const { u8, u16, u32 } = this.#arena;
    const base = (unit & SEGMENT_UNIT_MASK) << UNIT_SHIFT;
    run.write(0, count, prefixLength, u8[segment]!, u16[segment]!, u32[segment]!, base);
    this.#addChild(0, unit, this.#separator, this.#separatorLength, Infinity);
  }

  #addChild(index: number, unit: UnitId, key: Uint8Array, keyLength: number, seq: number): void {
    const level = (this.#branches[index] ??= { run: new BranchRun(), emitted: 0 });
    const run = level.run;
    run.addChild(unit, key, 0, keyLength, seq);
    const count = run.count;
    if (count < 4) return;
    const fits =
      count <= this.#entriesMax && run.classFor(0, count, run.prefixFor(0, count), this.#sizer.branchClass, false) >= 0;
    if (!fits) {
      this.#emitBranch(index, count - 2);
      run.dropFirst(count - 2);
    }
  }

  #emitBranch(index: number, count: number): void {
    const level = this.#branches[index]!;
    const run = level.run;
    const prefixLength = run.prefixFor(0, count);
    for (let entry = 1; entry < count; entry++) this.#sizer.noteSeparator(run.cellBytes(entry, prefixLength));
    const pageClass = run.classFor(0, count, prefixLength, this.#sizer.branchClass, true);
    const unit = this.#allocate(pageClass);
    this.#branchPages++;
    this.#mix.branches[pageClass]!++;
    const segment = unit >>> SEGMENT_UNIT_SHIFT;
    const { u8, u16, u32 } = this.#arena;
    const base = (unit & SEGMENT_UNIT_MASK) << UNIT_SHIFT;
    run.write(0, count, prefixLength, index + 1, u8[segment]!, u16[segment]!, u32[segment]!, base);
    level.emitted++;
    const keyLength = run.keyLength(0);
    run.copyKey(0, keyLength, this.#key, 0);
    this.#addChild(index + 1, unit, this.#key, keyLength, run.seqOf(0));
  }

  #allocate(pageClass: number): UnitId {
    const unit = this.#arena.allocate(UNITS_OF_CLASS[pageClass]!);
    if (this.#pageCount === this.#pages.length) {
      const pages = new Int32Array(this.#pages.length * 2);
      pages.set(this.#pages);
      this.#pages = pages;
    }
    this.#pages[this.#pageCount++] = unit;
    this.#treeUnits += 1 << pageClass;
    this.#arena.stagedUnits += 1 << pageClass;
    return unit;
  }
}
