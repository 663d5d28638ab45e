/**
 * Chains of pages for values that are too large for a leaf.
 *
 *   cell → [header next=•][payload] → [header next=•][payload] → [header next=0][payload]
 *
 * Pages are the largest that the rest of the value fills (up to 32 KiB), smaller ones when memory is fragmented. A chain is filled
 * piecewise, across publications of other changes: nothing refers to it until its cell is put, so a writer that dies in between
 * leaves nothing behind. Threads: OverflowWriter the shard thread only; walking a chain any, under a pin.
 */
import { ConcordError, invalidArgument } from '../../shared/errors.js';
import {
  SEGMENT_UNIT_MASK,
  SEGMENT_UNIT_SHIFT,
  UNIT_SHIFT,
  type ArenaReader,
  type ArenaWriter,
  type UnitId,
} from '../../shared/memory/arena.js';
import {
  CLASS_BYTE,
  KIND_BYTE,
  NEXT_WORD,
  PAGE_CLASS_MAX,
  PAGE_HEADER_BYTES,
  PAYLOAD_BYTES_WORD,
  PageKind,
  UNITS_OF_CLASS,
  VALUE_BYTES_MAX,
  corruptPage,
} from './page.js';
import { checkPage } from './search.js';

export interface OverflowChain {
  readonly firstUnit: UnitId;
  readonly totalBytes: number;
  readonly pages: number;
  readonly units: number;
}

export function payloadBytesOf(pageClass: number): number {
  return (4096 << pageClass) - PAGE_HEADER_BYTES;
}

/** A safe bound of the units that a value's chain takes, fragmentation included. */
export function overflowUnits(totalBytes: number): number {
  return Math.ceil(totalBytes / payloadBytesOf(0)) + 1;
}

export class OverflowWriter {
  readonly #arena: ArenaWriter;
  #open = false;
  #totalBytes = 0;
  #writtenBytes = 0;
  #firstUnit: UnitId = 0;
  #lastUnit: UnitId = 0;
  #roomBytes = 0;
  #pages = 0;
  #units = 0;

  constructor(arena: ArenaWriter) {
    this.#arena = arena;
  }

  /** A whole chain, which nothing refers to yet. @throws ERR_MEMORY_FULL: nothing is left of it */
  write(value: Uint8Array, start: number, length: number): OverflowChain {
    this.begin(length);
    try {
      this.append(value, start, length);
      return this.finish();
    } catch (error) {
      this.abort();
      throw error;
    }
  }

  /** totalBytes must be exact, and at least 1. */
  begin(totalBytes: number): void {
    if (this.#open) throw new ConcordError('ERR_INTERNAL', 'an overflow chain is open already');
    if (!(totalBytes >= 1 && totalBytes <= VALUE_BYTES_MAX)) throw invalidArgument(`a chain of ${totalBytes} bytes`);
    this.#open = true;
    this.#totalBytes = totalBytes;
    this.#writtenBytes = 0;
    this.#firstUnit = 0;
    this.#lastUnit = 0;
    this.#roomBytes = 0;
    this.#pages = 0;
    this.#units = 0;
  }

  /** On ERR_MEMORY_FULL the chain stays as it was filled so far: abort it. */
  append(bytes: Uint8Array, start: number, length: number): void {
    if (!this.#open || length > this.#totalBytes - this.#writtenBytes) {
      throw new ConcordError('ERR_INTERNAL', `${length} bytes after ${this.#writtenBytes} of ${this.#totalBytes}`);
    }
    let done = 0;
    while (done < length) {
      if (this.#roomBytes === 0) this.#addPage();
      const unit = this.#lastUnit;
      const segment = unit >>> SEGMENT_UNIT_SHIFT;
      const base = (unit & SEGMENT_UNIT_MASK) << UNIT_SHIFT;
      const words = this.#arena.u32[segment]!;
      const filled = words[(base >>> 2) + PAYLOAD_BYTES_WORD]!;
      const piece = Math.min(length - done, this.#roomBytes);
      this.#arena.u8[segment]!.set(
        bytes.subarray(start + done, start + done + piece),
        base + PAGE_HEADER_BYTES + filled,
      );
      words[(base >>> 2) + PAYLOAD_BYTES_WORD] = filled + piece;
      this.#roomBytes -= piece;
      this.#writtenBytes += piece;
      done += piece;
    }
  }

  finish(): OverflowChain {
    if (!this.#open || this.#writtenBytes !== this.#totalBytes) {
      throw new ConcordError('ERR_INTERNAL', `chain ends after ${this.#writtenBytes} of ${this.#totalBytes} bytes`);
    }
    this.#open = false;
    return { firstUnit: this.#firstUnit, totalBytes: this.#totalBytes, pages: this.#pages, units: this.#units };
  }

  /** Frees what was written since begin; nothing happens if no chain is open. */
  abort(): void {
    if (!this.#open) return;
    this.#open = false;
    freeChain(this.#arena, this.#firstUnit);
    this.#arena.stagedUnits -= this.#units;
  }

  /** Frees a finished chain that was never put. */
  static discard(arena: ArenaWriter, chain: OverflowChain): void {
    freeChain(arena, chain.firstUnit);
    arena.stagedUnits -= chain.units;
  }

  #addPage(): void {
    const rest = this.#totalBytes - this.#writtenBytes;
    let pageClass = 0;
    while (pageClass < PAGE_CLASS_MAX && payloadBytesOf(pageClass) < rest) pageClass++;
    const arena = this.#arena;
    const wanted = [0, 0, 0, 0];
    while (pageClass > 0) {
      wanted.fill(0)[pageClass] = 1;
      if (arena.canAllocate(wanted, arena.reserveMode)) break;
      pageClass--;
    }
    const unit = arena.allocate(UNITS_OF_CLASS[pageClass]!);
    const segment = unit >>> SEGMENT_UNIT_SHIFT;
    const base = (unit & SEGMENT_UNIT_MASK) << UNIT_SHIFT;
    const words = arena.u32[segment]!;
    arena.u8[segment]![base + KIND_BYTE] = PageKind.Overflow;
    words[(base >>> 2) + PAYLOAD_BYTES_WORD] = 0;
    words[(base >>> 2) + 4] = 0;
    words[(base >>> 2) + NEXT_WORD] = 0;
    if (this.#lastUnit === 0) {
      this.#firstUnit = unit;
    } else {
      // The page before is not published: nothing refers to the chain yet.
      const last = this.#lastUnit;
      const lastWord = (last & SEGMENT_UNIT_MASK) << (UNIT_SHIFT - 2);
      arena.u32[last >>> SEGMENT_UNIT_SHIFT]![lastWord + NEXT_WORD] = unit;
    }
    this.#lastUnit = unit;
    this.#roomBytes = payloadBytesOf(pageClass);
    this.#pages++;
    this.#units += 1 << pageClass;
    arena.stagedUnits += 1 << pageClass;
  }
}

function freeChain(arena: ArenaWriter, firstUnit: UnitId): void {
  let unit = firstUnit;
  while (unit !== 0) {
    const next = nextOf(arena, unit);
    arena.free(unit);
    unit = next;
  }
}

function nextOf(arena: ArenaReader, unit: UnitId): UnitId {
  return arena.u32[unit >>> SEGMENT_UNIT_SHIFT]![((unit & SEGMENT_UNIT_MASK) << (UNIT_SHIFT - 2)) + NEXT_WORD]!;
}

/**
 * Visits the pages of a chain of `totalBytes` from its first unit on. Bounded and checked: payloads must add up exactly, else
 * ERR_CORRUPT. `visit` may free the page.
 */
export function walkChain(
  arena: ArenaReader,
  firstUnit: UnitId,
  totalBytes: number,
  visit: (unit: UnitId, pageClass: number, payloadAt: number, payloadBytes: number) => void,
): void {
  let unit = firstUnit;
  let rest = totalBytes;
  while (rest > 0) {
    if (!(unit > 0 && unit < arena.totalUnits))
      throw corruptPage(unit, `a chain misses ${rest} of ${totalBytes} bytes`);
    const segment = unit >>> SEGMENT_UNIT_SHIFT;
    const base = (unit & SEGMENT_UNIT_MASK) << UNIT_SHIFT;
    const words = arena.u32[segment]!;
    checkPage(words, base, unit, PageKind.Overflow);
    const pageClass = arena.u8[segment]![base + CLASS_BYTE]!;
    const payloadBytes = words[(base >>> 2) + PAYLOAD_BYTES_WORD]!;
    if (payloadBytes === 0 || payloadBytes > rest || payloadBytes > payloadBytesOf(pageClass)) {
      throw corruptPage(unit, `payload of ${payloadBytes} bytes where ${rest} are left`);
    }
    const next = words[(base >>> 2) + NEXT_WORD]!;
    visit(unit, pageClass, base + PAGE_HEADER_BYTES, payloadBytes);
    rest -= payloadBytes;
    unit = next;
  }
  if (unit !== 0) throw corruptPage(unit, `a chain goes on after its ${totalBytes} bytes`);
}
