/** All entries of a run from a key on: for walks of all versions. Threads: any, under a pin of a version that has the run. */
import type { ArenaReader, UnitId } from '../../../shared/memory/arena.js';
import { FenceCursor } from '../memory/fence-tree.js';
import { BlockBuffer, BlockCursor } from '../table/block.js';
import type { LsmFiles, LsmReadCounters } from './files.js';
import { IndexCursor } from './index-cursor.js';
import { TableViews, type TableView } from './table-view.js';

export class RunWalk {
  /** Stands on the entry; not valid at the end of the run. */
  readonly block = new BlockCursor();
  readonly #views: TableViews;
  /** Where the block is from. */
  table!: TableView;
  readonly #root: UnitId;
  readonly #tables: FenceCursor;
  readonly #index: IndexCursor;
  readonly #buffer = new BlockBuffer();

  constructor(arena: ArenaReader, files: LsmFiles, counters: LsmReadCounters, root: UnitId) {
    this.#root = root;
    this.#views = new TableViews(arena, files, counters);
    this.#tables = new FenceCursor(arena);
    this.#index = new IndexCursor(arena);
  }

  /** To the first entry of a key ≥ the given one; undefined: the first. @throws ERR_CORRUPT, ERR_IO */
  seek(key: Uint8Array | undefined): void {
    const tables = this.#tables;
    const { block } = this;
    block.valid = false;
    const has = key === undefined ? tables.first(this.#root) : tables.seek(this.#root, key, key.length);
    if (!has) return;
    this.#openTable();
    let more = key === undefined ? this.#index.first() : this.#index.seek(key, key.length);
    while (more) {
      this.#openBlock();
      if (key === undefined) block.seekToFirst();
      else block.seek(key, key.length, Infinity);
      if (block.valid) return;
      more = this.#index.next();
    }
    this.#nextTable();
  }

  next(): void {
    if (this.block.next()) return;
    while (this.#index.next()) {
      this.#openBlock();
      if (this.block.seekToFirst()) return;
    }
    this.#nextTable();
  }

  #nextTable(): void {
    while (this.#tables.next()) {
      this.#openTable();
      for (let more = this.#index.first(); more; more = this.#index.next()) {
        this.#openBlock();
        if (this.block.seekToFirst()) return;
      }
    }
    this.block.valid = false;
  }

  #openTable(): void {
    this.table = this.#views.at(this.#tables.a);
    this.#index.open(this.table);
  }

  #openBlock(): void {
    const { table } = this;
    const { offset, storedBytes } = this.#index;
    const cached = table.fromCache(offset, this.#buffer);
    // What is walked once leaves the cache as it is.
    const length = cached > 0 ? cached : table.readPast(offset, storedBytes, this.#buffer, false);
    this.block.open(this.#buffer.bytes, 0, length, table, offset);
  }
}
