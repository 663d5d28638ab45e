/**
 * Point reads and ordered walks in the array, with the arena's read latch held until release().
 *
 * A point read looks beside the last one first if the array is still the same, so reads in ascending order need no search.
 * A cursor's place is good while it holds the latch. Between chunks it holds nothing: it is sought again from the last key, so it survives whatever
 * changed meanwhile. Threads: any, one object per thread, between pin and unpin; release() before unpin.
 */
import type { ArenaReader, UnitId } from '../../shared/memory/arena.js';
import { NodeCursor } from '../cells/node-cursor.js';
import { NodeReader } from '../cells/node-reader.js';
import { EngineCode } from '../engine.js';
import { ArrayPlace, CELL_OFFSET_BYTES, corruptArray } from './pages.js';

export class ArrayReader extends NodeReader {
  readonly #place: ArrayPlace;

  constructor(arena: ArenaReader, row: number, spaceId: number, slot: number) {
    super(arena, row, spaceId, EngineCode.array, slot, true);
    this.#place = new ArrayPlace(arena, 0);
  }

  protected override cellOffset(): number {
    return CELL_OFFSET_BYTES;
  }

  protected override lookup(descriptor: UnitId, key: Uint8Array, keyLength: number): number {
    this.#place.enter(descriptor);
    return this.#place.findNear(key, 0, keyLength);
  }
}

export class ArrayCursor extends NodeCursor {
  readonly #place: ArrayPlace;
  /** More than there is room for nodes: a walk over blocks that are listed many times ends. */
  #stepsLeft = 0;

  constructor(arena: ArenaReader, row: number, spaceId: number, slot: number) {
    super(arena, row, spaceId, EngineCode.array, slot, true);
    this.#place = new ArrayPlace(arena, 0);
  }

  protected override cellOffset(): number {
    return CELL_OFFSET_BYTES;
  }

  protected override seekNode(
    descriptor: UnitId,
    key: Uint8Array | undefined,
    keyLength: number,
    reverse: boolean,
  ): number {
    this.#stepsLeft = this.arena.totalUnits * 256;
    const place = this.#place;
    place.enter(descriptor);
    if (key === undefined) return place.edge(reverse ? 1 : 0);
    return place.find(key, 0, keyLength) || (reverse ? place.step(0) : place.nodeOrNext());
  }

  protected override stepNode(forward: boolean): number {
    if (--this.#stepsLeft < 0) throw corruptArray('a walk that does not end');
    return this.#place.step(forward ? 1 : 0);
  }
}
