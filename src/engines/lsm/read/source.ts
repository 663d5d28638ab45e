/**
 * What a merge is made of: a memtable or a run in key order, of each key the newest version that shows, tombstones among them.
 *
 * Threads: any, one per cursor, under a pin.
 */
import type { ArenaReader, UnitId } from '../../../shared/memory/arena.js';
import { KEY_BYTES_MAX, corruptPage } from '../../btree/page.js';
import { TableCursor } from '../../memtable/reader.js';
import { EntryFlag } from '../table/entry.js';

export abstract class Source {
  isMemtable = true;
  valid = false;
  /** Of the entry at hand: key[0, keyLength). */
  readonly key = new Uint8Array(KEY_BYTES_MAX);
  keyLength = 0;
  seq = 0;
  /** EntryFlag. */
  flags = 0;
  expiresAt = 0;
  /** Place in the order of age, 0 the newest. */
  age = 0;

  /** To the first key ≥ the given one, in reverse the last ≤ it; undefined: from the end. @throws ERR_CORRUPT, ERR_IO */
  abstract seek(
    metaUnit: UnitId,
    key: Uint8Array | undefined,
    keyLength: number,
    atSeq: number,
    reverse: boolean,
    atMs: number,
  ): boolean;
  /** After a forward seek, or next(). */
  abstract next(): boolean;
  /** After a reverse seek, or prev(). */
  abstract prev(): boolean;
}

export class MemtableSource extends Source {
  readonly cursor: TableCursor;
  #descriptor: UnitId = 0;

  constructor(arena: ArenaReader, slot: number, spaceId: number) {
    super();
    this.cursor = new TableCursor(arena, slot, spaceId);
  }

  setDescriptor(descriptor: UnitId): void {
    this.#descriptor = descriptor;
    this.valid = false;
  }

  override seek(
    metaUnit: UnitId,
    key: Uint8Array | undefined,
    keyLength: number,
    atSeq: number,
    reverse: boolean,
    atMs: number,
  ): boolean {
    return this.#take(this.cursor.open(this.#descriptor).seek(metaUnit, key, keyLength, atSeq, reverse, atMs));
  }

  override next(): boolean {
    return this.#take(this.cursor.next());
  }

  override prev(): boolean {
    return this.#take(this.cursor.prev());
  }

  #take(has: boolean): boolean {
    if (!has) return (this.valid = false);
    const { cursor } = this;
    if (cursor.keyLength > KEY_BYTES_MAX) throw corruptPage(this.#descriptor, `a key of ${cursor.keyLength} bytes`);
    this.keyLength = cursor.copyKey(this.key, 0);
    this.seq = cursor.seq;
    this.flags = cursor.isTombstone ? EntryFlag.tombstone : 0;
    this.expiresAt = cursor.expiresAt;
    return (this.valid = true);
  }
}
