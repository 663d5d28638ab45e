/**
 * What a shard of a store without a directory has prepared, in shared memory, so that it survives the shard's thread as a log would: the successor finds it
 * and asks what became of it. Without it a transaction that is decided could show in the other shards alone.
 *
 *   0    one line of 32 bytes for each transaction that may be prepared
 *          state i32 (0 free, 1 whole) · unit u32 · bytes u32 · client u32 · id f64 · mask low i32 · mask high i32
 *   …    units of 64 bytes: the writes of each (operation records), in one piece
 *
 * Must hold: a thread may die between any two stores. So a line is made whole before its state is set, and its units are nobody else's before it is cleared;
 * which units are free stands nowhere, it follows from the lines. A line is there before the vote, and goes when what became of it is published.
 * Threads: one writer (the shard's).
 */
import { assert } from '../../shared/assert.js';
import type { PrepareKey } from '../operation.js';

const LINE_BYTES = 32;
const LINE_WORDS = LINE_BYTES >> 2;
const UNIT_BYTES = 64;
/** Address space beyond what one transaction may have; memory is used from the lower end. */
const OTHERS_BYTES = 32 << 20;

/** Room for one transaction of `transactionBytesMax`, and for others beside it. */
export function createPrepareJournal(transactionBytesMax: number, lines: number): SharedArrayBuffer {
  const bytes = Math.ceil(transactionBytesMax / UNIT_BYTES) * UNIT_BYTES + OTHERS_BYTES;
  return new SharedArrayBuffer(lines * LINE_BYTES + bytes);
}

export interface JournalEntry {
  readonly key: PrepareKey;
  /** A copy. */
  readonly writes: Buffer;
}

interface Line {
  readonly line: number;
  readonly unit: number;
  readonly units: number;
}

export class PrepareJournal {
  readonly #words: Int32Array;
  readonly #u32: Uint32Array;
  readonly #f64: Float64Array;
  readonly #bytes: Buffer;
  readonly #units: number;
  /** By their units, ascending. */
  readonly #used: Line[] = [];
  readonly #byId = new Map<number, Line>();
  readonly #freeLines: number[] = [];

  /** Takes over what a predecessor has left: see entries(). */
  constructor(sab: SharedArrayBuffer, lines: number) {
    this.#words = new Int32Array(sab, 0, lines * LINE_WORDS);
    this.#u32 = new Uint32Array(sab, 0, lines * LINE_WORDS);
    this.#f64 = new Float64Array(sab, 0, lines * (LINE_WORDS >> 1));
    this.#bytes = Buffer.from(sab, lines * LINE_BYTES);
    this.#units = Math.floor(this.#bytes.length / UNIT_BYTES);
    for (let line = lines - 1; line >= 0; line--) {
      const word = line * LINE_WORDS;
      if (Atomics.load(this.#words, word) === 0) {
        this.#freeLines.push(line);
        continue;
      }
      const used = { line, unit: this.#u32[word + 1]!, units: unitsOf(this.#u32[word + 2]!) };
      assert(used.unit + used.units <= this.#units, 'what is prepared lies within its journal');
      this.#used.push(used);
      this.#byId.set(this.#f64[(word >> 1) + 2]!, used);
    }
    this.#used.sort((a, b) => a.unit - b.unit);
  }

  /** Of one transaction's writes, when nothing else is prepared. */
  get capacityBytes(): number {
    return this.#units * UNIT_BYTES;
  }

  entries(): JournalEntry[] {
    return Array.from(this.#byId, ([id, { line, unit }]) => {
      const word = line * LINE_WORDS;
      const at = unit * UNIT_BYTES;
      const writes = Buffer.from(this.#bytes.subarray(at, at + this.#u32[word + 2]!));
      const client = this.#u32[word + 3]!;
      return { key: { id, maskLow: this.#words[word + 6]!, maskHigh: this.#words[word + 7]!, client }, writes };
    });
  }

  /** False: there is no room for it now. */
  add({ id, maskLow, maskHigh, client }: PrepareKey, writes: Uint8Array): boolean {
    const units = unitsOf(writes.length);
    let index = 0;
    let unit = 0;
    // The first gap that holds it: memory that was used is used again.
    for (; index < this.#used.length && this.#used[index]!.unit - unit < units; index++) {
      unit = this.#used[index]!.unit + this.#used[index]!.units;
    }
    if (unit + units > this.#units || this.#freeLines.length === 0) return false;
    const line = this.#freeLines.pop()!;
    const used = { line, unit, units };
    this.#used.splice(index, 0, used);
    this.#byId.set(id, used);
    this.#bytes.set(writes, unit * UNIT_BYTES);
    const word = line * LINE_WORDS;
    this.#u32[word + 1] = unit;
    this.#u32[word + 2] = writes.length;
    this.#u32[word + 3] = client;
    this.#f64[(word >> 1) + 2] = id;
    this.#words[word + 6] = maskLow;
    this.#words[word + 7] = maskHigh;
    Atomics.store(this.#words, word, 1);
    return true;
  }

  /** Harmless for one that is not there. */
  remove(id: number): void {
    const used = this.#byId.get(id);
    if (used === undefined) return;
    Atomics.store(this.#words, used.line * LINE_WORDS, 0);
    this.#byId.delete(id);
    this.#used.splice(this.#used.indexOf(used), 1);
    this.#freeLines.push(used.line);
  }
}

function unitsOf(bytes: number): number {
  return Math.max(1, Math.ceil(bytes / UNIT_BYTES));
}
