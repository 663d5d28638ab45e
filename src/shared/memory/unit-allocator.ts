/**
 * Which units of an arena are free: a buddy allocator over unit numbers, kept in the writer's heap.
 *
 * Blocks are 1, 2, 4 or 8 units, aligned to their size. Freed blocks merge with their buddy at once, so that pages of different
 * classes can live in one arena for years. Units above the high-water mark were never touched and cost no memory; they are used
 * only when no freed block fits.
 *
 *   state[unit] = 0 interior, limbo or never used · FREE | order · USED | order      (only a block's first unit carries state)
 *
 * Invariants: a unit is in at most one block; free blocks of an order form a doubly linked list through next/prev (0 ends it, unit
 * 0 is never free). Threads: the arena's writer only. Nothing here is shared or survives the thread (see ArenaWriter.adopt).
 */
import { ConcordError } from '../errors.js';

const ORDER_COUNT = 4;
const FREE = 0x80;
const USED = 0x40;
const LIMBO = 0x20;
const ORDER_MASK = 3;

export class UnitAllocator {
  readonly totalUnits: number;
  /** First unit that was never handed out. */
  highWaterUnit: number;
  /** Units in freed blocks; those above the high-water mark not counted. */
  freedUnits = 0;
  readonly #state: Uint8Array;
  readonly #next: Int32Array;
  readonly #previous: Int32Array;
  readonly #heads = new Int32Array(ORDER_COUNT);
  readonly #blocks = new Int32Array(ORDER_COUNT);

  constructor(totalUnits: number, firstUnit: number) {
    this.totalUnits = totalUnits;
    this.highWaterUnit = firstUnit;
    // Zeroed lazily by the operating system: a 64 GiB arena costs nothing until its units are used.
    this.#state = new Uint8Array(totalUnits);
    this.#next = new Int32Array(totalUnits);
    this.#previous = new Int32Array(totalUnits);
  }

  get freeUnits(): number {
    return this.freedUnits + this.totalUnits - this.highWaterUnit;
  }

  /** First unit of a block of 2^order units, 0 if there is none. */
  allocate(order: number): number {
    let from = order;
    while (from < ORDER_COUNT && this.#heads[from] === 0) from++;
    if (from === ORDER_COUNT) return this.#bump(order);
    const unit = this.#heads[from]!;
    this.#unlink(unit, from);
    this.freedUnits -= 1 << order;
    while (from > order) {
      from--;
      this.#link(unit + (1 << from), from);
    }
    this.#state[unit] = USED | order;
    return unit;
  }

  free(unit: number): void {
    const state = this.#state[unit] ?? 0;
    if ((state & USED) === 0) {
      throw new ConcordError('ERR_INTERNAL', `unit ${unit} is freed but not in use (state ${state})`);
    }
    let order = state & ORDER_MASK;
    this.freedUnits += 1 << order;
    let block = unit;
    this.#state[block] = 0;
    while (order < ORDER_COUNT - 1) {
      const buddy = block ^ (1 << order);
      if (this.#state[buddy] !== (FREE | order)) break;
      this.#unlink(buddy, order);
      this.#state[buddy] = 0;
      block &= ~(1 << order);
      order++;
    }
    this.#link(block, order);
  }

  /** Order of the block that starts at the unit; -1 if none in use starts there. */
  orderOf(unit: number): number {
    const state = this.#state[unit] ?? 0;
    return (state & USED) === 0 ? -1 : state & ORDER_MASK;
  }

  /** Whether allocations of counts[order] blocks each would all succeed, in descending order of size. */
  canAllocate(counts: ArrayLike<number>): boolean {
    // Whole blocks of the largest size serve everything; what is left over of them serves the smaller sizes.
    let spare = Math.max(0, this.totalUnits - ((this.highWaterUnit + 7) & ~7));
    for (let order = ORDER_COUNT - 1; order >= 0; order--) {
      spare += this.#blocks[order]! << order;
      spare -= (counts[order] ?? 0) << order;
      if (spare < 0) return false;
    }
    return true;
  }

  /** Takes over a block that another allocator handed out. False if it overlaps one already known or lies outside. */
  claim(unit: number, order: number): boolean {
    if (unit + (1 << order) > this.highWaterUnit || (unit & ((1 << order) - 1)) !== 0) return false;
    if (this.#state[unit] !== 0) return false;
    this.#state[unit] = USED | order;
    return true;
  }

  /** After claims: frees everything below `end` from `start` on that no block covers. Returns the number of units freed. */
  freeUnclaimed(start: number, end: number): number {
    // Marked first and freed second: a freed unit merges with its neighbours, whose state then no longer tells them apart.
    for (let unit = start; unit < end;) {
      const state = this.#state[unit]!;
      if (state === 0) this.#state[unit++] = LIMBO;
      else unit += 1 << (state & ORDER_MASK);
    }
    let freed = 0;
    for (let unit = start; unit < end; unit++) {
      if (this.#state[unit] !== LIMBO) continue;
      this.#state[unit] = USED;
      this.free(unit);
      freed++;
    }
    return freed;
  }

  #bump(order: number): number {
    const units = 1 << order;
    let unit = this.highWaterUnit;
    const end = ((unit + units - 1) & -units) + units;
    if (end > this.totalUnits) return 0;
    this.highWaterUnit = end;
    for (; unit < end - units; unit++) {
      this.#state[unit] = USED;
      this.free(unit);
    }
    this.#state[unit] = USED | order;
    return unit;
  }

  #link(unit: number, order: number): void {
    const head = this.#heads[order]!;
    this.#state[unit] = FREE | order;
    this.#next[unit] = head;
    this.#previous[unit] = 0;
    if (head !== 0) this.#previous[head] = unit;
    this.#heads[order] = unit;
    this.#blocks[order]!++;
  }

  #unlink(unit: number, order: number): void {
    const next = this.#next[unit]!;
    const previous = this.#previous[unit]!;
    if (previous !== 0) this.#next[previous] = next;
    else this.#heads[order] = next;
    if (next !== 0) this.#previous[next] = previous;
    this.#blocks[order]!--;
  }
}
