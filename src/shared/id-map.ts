/**
 * Maps by numbers for what comes and goes all the time, as transactions do.
 *
 *   ids   [ 0 | 7 | 4 | 0 | … ]    open addressing; 0: a free line. A removal closes the gap behind it
 *
 * Why not Map: one that many entries pass through is rebuilt again and again, and each table it leaves names the next. Once one of them has come into old memory, all
 * later ones, with all that ever stood in them, outlive every collection of young memory: a shard spent a fifth of its time on copying what was dead.
 *
 * Invariant: from the line that an id's hash names up to its own no line is free.
 * Threads: one.
 */
const LINES_MIN = 64;
/** A table that has become empty and is larger than this is made anew. */
const LINES_KEPT = 1 << 16;

/** Where ids stand; what belongs to each is in columns of whoever extends it. Ids are whole numbers, not 0. */
export abstract class IdTable {
  #ids = new Float64Array(LINES_MIN);
  #size = 0;

  get size(): number {
    return this.#size;
  }

  has(id: number): boolean {
    return this.find(id) >= 0;
  }

  /** False: it was not here. */
  delete(id: number): boolean {
    const ids = this.#ids;
    let free = this.#lineOf(id);
    if (ids[free] !== id || id === 0) return false;
    const last = ids.length - 1;
    // What is found by way of the line that becomes free moves there.
    for (let line = (free + 1) & last; ids[line] !== 0; line = (line + 1) & last) {
      if (((line - this.#firstLineOf(ids[line]!)) & last) < ((line - free) & last)) continue;
      ids[free] = ids[line]!;
      this.move(line, free);
      free = line;
    }
    ids[free] = 0;
    this.free(free);
    this.#size--;
    if (this.#size === 0 && ids.length > LINES_KEPT) this.clear();
    return true;
  }

  clear(): void {
    this.#ids = new Float64Array(LINES_MIN);
    this.#size = 0;
    this.carry(new Int32Array(0), LINES_MIN);
  }

  /** Line of the id; below 0: it is not here. */
  protected find(id: number): number {
    const line = this.#lineOf(id);
    return this.#ids[line] === id && id !== 0 ? line : -1;
  }

  /** Line of an id that is not here yet: its columns are to be written. */
  protected place(id: number): number {
    if (2 * (this.#size + 1) > this.#ids.length) this.#grow();
    const line = this.#lineOf(id);
    this.#ids[line] = id;
    this.#size++;
    return line;
  }

  /** Id by line; 0: there is none. */
  protected get lines(): Float64Array {
    return this.#ids;
  }

  /** The columns of a line are to be copied to another. */
  protected abstract move(from: number, to: number): void;

  /** The columns of a line are not needed any more. */
  protected abstract free(line: number): void;

  /** Columns of `lines` lines take the place of those there were: what stood on line i stands on places[i] (below 0: nothing did). */
  protected abstract carry(places: Int32Array, lines: number): void;

  /** Where it would stand if there were no others: the high bits of a product, since ids come one after another. */
  #firstLineOf(id: number): number {
    return Math.imul(id, 0x9e3779b1) >>> (Math.clz32(this.#ids.length) + 1);
  }

  /** Where it stands, or a free line for it. */
  #lineOf(id: number): number {
    const ids = this.#ids;
    const last = ids.length - 1;
    let line = this.#firstLineOf(id);
    while (ids[line] !== 0 && ids[line] !== id) line = (line + 1) & last;
    return line;
  }

  #grow(): void {
    const before = this.#ids;
    const places = new Int32Array(before.length).fill(-1);
    this.#ids = new Float64Array(2 * before.length);
    for (let line = 0; line < before.length; line++) {
      const id = before[line]!;
      if (id === 0) continue;
      const place = this.#lineOf(id);
      this.#ids[place] = id;
      places[line] = place;
    }
    this.carry(places, this.#ids.length);
  }
}

/** As Map, but in the order of the ids. */
export class IdMap<T> extends IdTable {
  #values: (T | undefined)[] = new Array<T | undefined>(LINES_MIN).fill(undefined);

  get(id: number): T | undefined {
    const line = this.find(id);
    return line < 0 ? undefined : this.#values[line];
  }

  set(id: number, value: T): void {
    let line = this.find(id);
    if (line < 0) line = this.place(id);
    this.#values[line] = value;
  }

  /** All as they are now. */
  entries(): [id: number, value: T][] {
    const entries: [number, T][] = [];
    const { lines } = this;
    for (let line = 0; line < lines.length; line++)
      if (lines[line] !== 0) entries.push([lines[line]!, this.#values[line]!]);
    return entries.sort(([a], [b]) => a - b);
  }

  values(): T[] {
    return this.entries().map(([, value]) => value);
  }

  protected override move(from: number, to: number): void {
    this.#values[to] = this.#values[from];
  }

  protected override free(line: number): void {
    this.#values[line] = undefined;
  }

  protected override carry(places: Int32Array, lines: number): void {
    const before = this.#values;
    this.#values = new Array<T | undefined>(lines).fill(undefined);
    for (let line = 0; line < places.length; line++) if (places[line]! >= 0) this.#values[places[line]!] = before[line];
  }
}
