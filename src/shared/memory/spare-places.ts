/**
 * Places in pages that nothing points to any more, to be written again when every reader that may stand on them has left: a few per page, in the memory of the
 * writer. What finds no place here is the page's garbage until the page is copied. Threads: the arena's writer only.
 */
const PLACES = 4;

export class SparePlaces {
  // PLACES for each unit.
  readonly #offsets: Uint16Array;
  /** Bytes; 0: no place. */
  readonly #sizes: Uint16Array;
  /** The epoch at which it was taken out of sight, modulo 2^32. */
  readonly #epochs: Int32Array;

  constructor(units: number) {
    this.#offsets = new Uint16Array(units * PLACES);
    this.#sizes = new Uint16Array(units * PLACES);
    this.#epochs = new Int32Array(units * PLACES);
  }

  /** The page at this unit is another one now. */
  forget(unit: number): void {
    const sizes = this.#sizes;
    const end = (unit + 1) * PLACES;
    for (let index = end - PLACES; index < end; index++) sizes[index] = 0;
  }

  /** Offset of the smallest place of the page for so many bytes that was taken out of sight at `safeEpoch` or before; 0: none. It is no longer spare. */
  take(unit: number, bytes: number, safeEpoch: number): number {
    const sizes = this.#sizes;
    const epochs = this.#epochs;
    const end = (unit + 1) * PLACES;
    let best = -1;
    for (let index = end - PLACES; index < end; index++) {
      const size = sizes[index]!;
      // One that is 2^31 epochs old looks new, and is not used.
      if (size < bytes || ((safeEpoch - epochs[index]!) | 0) < 0) continue;
      if (best < 0 || size < sizes[best]!) best = index;
    }
    if (best < 0) return 0;
    sizes[best] = 0;
    return this.#offsets[best]!;
  }

  /** Nothing points there since `epoch`, which is not published yet. Of more than there is room for, the largest are kept, and of those the oldest. */
  add(unit: number, offset: number, bytes: number, epoch: number): void {
    const sizes = this.#sizes;
    const end = (unit + 1) * PLACES;
    let smallest = end - PLACES;
    for (let index = smallest + 1; index < end; index++) if (sizes[index]! < sizes[smallest]!) smallest = index;
    if (sizes[smallest]! >= bytes) return;
    this.#offsets[smallest] = offset;
    sizes[smallest] = bytes;
    this.#epochs[smallest] = epoch | 0;
  }
}
