/**
 * Fences of a store that keeps no decision log, in shared memory: ids that were told "aborted" and must not be decided any more, whoever coordinates next.
 *
 *   24 bytes each: state i32 (0 free, 1 set) · client u32 · id f64 · zero
 *
 * Must hold: a line is whole before its state is set, so that a thread may die between any two stores; it is set before anybody is told.
 * Threads: the coordinator's, one after another.
 */
const LINE_BYTES = 24;
const LINE_WORDS = LINE_BYTES >> 2;
/** Of clients that are still there; a shard that finds none left asks again. */
const FENCES_MAX = 4096;

export function createFenceTable(fences = FENCES_MAX): SharedArrayBuffer {
  return new SharedArrayBuffer(fences * LINE_BYTES);
}

export class FenceTable {
  readonly #words: Int32Array;
  readonly #u32: Uint32Array;
  readonly #f64: Float64Array;
  readonly #lineOf = new Map<number, number>();
  readonly #free: number[] = [];
  /** Clients by ids, as a predecessor has left them. */
  readonly recovered = new Map<number, number>();

  constructor(sab: SharedArrayBuffer) {
    this.#words = new Int32Array(sab);
    this.#u32 = new Uint32Array(sab);
    this.#f64 = new Float64Array(sab);
    for (let line = Math.floor(sab.byteLength / LINE_BYTES) - 1; line >= 0; line--) {
      const word = line * LINE_WORDS;
      if (Atomics.load(this.#words, word) === 0) {
        this.#free.push(line);
        continue;
      }
      const id = this.#f64[(word >> 1) + 1]!;
      this.#lineOf.set(id, line);
      this.recovered.set(id, this.#u32[word + 1]!);
    }
  }

  /** More that may be set. */
  get room(): number {
    return this.#free.length;
  }

  /** There is room for it, or it is set already. */
  set(id: number, client: number): void {
    if (this.#lineOf.has(id)) return;
    const line = this.#free.pop()!;
    this.#lineOf.set(id, line);
    const word = line * LINE_WORDS;
    this.#u32[word + 1] = client;
    this.#f64[(word >> 1) + 1] = id;
    Atomics.store(this.#words, word, 1);
  }

  /** Harmless for one that is not set. */
  clear(id: number): void {
    const line = this.#lineOf.get(id);
    if (line === undefined) return;
    Atomics.store(this.#words, line * LINE_WORDS, 0);
    this.#lineOf.delete(id);
    this.#free.push(line);
  }
}
