/**
 * A list of pages that hangs on a word of an engine's descriptor, so that a successor finds them (see node.ts).
 *
 *   descriptor word ──▶ page ──▶ page ──▶ 0        newest first
 *
 * Adding and removing are one store each that shows; a writer that dies in between leaves a whole list. What stands before a page is kept in
 * the writer's heap only. Threads: the shard's thread only.
 */
import { SEGMENT_UNIT_SHIFT, type ArenaWriter, type UnitId } from '../../shared/memory/arena.js';
import { pageWord, walkPages } from './node.js';

export class PageList {
  /** Unit → the unit before it, 0 for the first. */
  readonly #before = new Map<UnitId, UnitId>();
  readonly #arena: ArenaWriter;
  readonly #firstWord: number;
  readonly #linkWord: number;
  #descriptor: UnitId = 0;

  constructor(arena: ArenaWriter, firstWord: number, linkWord: number) {
    this.#arena = arena;
    this.#firstWord = firstWord;
    this.#linkWord = linkWord;
  }

  get size(): number {
    return this.#before.size;
  }

  get units(): IterableIterator<UnitId> {
    return this.#before.keys();
  }

  has(unit: UnitId): boolean {
    return this.#before.has(unit);
  }

  /** On a descriptor that is new, or was a dead writer's: takes over the pages that hang there. */
  open(descriptor: UnitId, kind: number): void {
    this.#descriptor = descriptor;
    let before = 0;
    walkPages(this.#arena, descriptor, this.#firstWord, this.#linkWord, kind, (unit) => {
      this.#before.set(unit, before);
      before = unit;
    });
  }

  add(unit: UnitId): void {
    const next = this.#get(0);
    this.#words(unit)[pageWord(unit) + this.#linkWord] = next;
    this.#set(0, unit);
    this.#before.set(unit, 0);
    if (next !== 0) this.#before.set(next, unit);
  }

  remove(unit: UnitId): void {
    const before = this.#before.get(unit)!;
    const next = this.#get(unit);
    this.#set(before, next);
    this.#before.delete(unit);
    if (next !== 0) this.#before.set(next, before);
  }

  /** The engine is gone. */
  forget(): void {
    this.#before.clear();
    this.#descriptor = 0;
  }

  #words(unit: UnitId): Uint32Array {
    return this.#arena.u32[unit >>> SEGMENT_UNIT_SHIFT]!;
  }

  #get(unit: UnitId): UnitId {
    if (unit === 0) return this.#words(this.#descriptor)[pageWord(this.#descriptor) + this.#firstWord]!;
    return this.#words(unit)[pageWord(unit) + this.#linkWord]!;
  }

  #set(unit: UnitId, next: UnitId): void {
    if (unit === 0) Atomics.store(this.#words(this.#descriptor), pageWord(this.#descriptor) + this.#firstWord, next);
    else Atomics.store(this.#words(unit), pageWord(unit) + this.#linkWord, next);
  }
}
