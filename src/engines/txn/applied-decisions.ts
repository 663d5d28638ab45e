/**
 * Decisions that are applied on all their shards, and which some shard could still lose and ask for: until the next syncs, that is seconds, and some hundred
 * thousand of them. So they are columns of numbers, which cost a collection of garbage nothing.
 *
 * Threads: the coordinator's.
 */
import { IdTable } from '../../shared/id-map.js';
import type { DecisionRecord } from './decision-log.js';

/** `order`: among all that were decided, as their log has them. */
export interface OrderedDecision extends DecisionRecord {
  readonly order: number;
}

export class AppliedDecisions extends IdTable {
  /** Four words for each: participants (two), client, whether it is to be forgotten. */
  #words = new Int32Array(4 * this.lines.length);
  #orders = new Float64Array(this.lines.length);

  /** One that is not here. */
  add({ id, maskLow, maskHigh, client, order }: OrderedDecision): void {
    const line = this.place(id);
    this.#orders[line] = order;
    const at = 4 * line;
    const words = this.#words;
    words[at] = maskLow;
    words[at + 1] = maskHigh;
    words[at + 2] = client;
    words[at + 3] = 0;
  }

  /** That it may be forgotten is on its way to the log. False: it is not here, or that was noted before. */
  noteEnding(id: number): boolean {
    const line = this.find(id);
    if (line < 0 || this.#words[4 * line + 3] === 1) return false;
    this.#words[4 * line + 3] = 1;
    return true;
  }

  isEnding(id: number): boolean {
    const line = this.find(id);
    return line >= 0 && this.#words[4 * line + 3] === 1;
  }

  get(id: number): OrderedDecision | undefined {
    const line = this.find(id);
    return line < 0 ? undefined : this.#recordAt(line);
  }

  *values(): Generator<OrderedDecision, void> {
    for (let line = 0; line < this.lines.length; line++) if (this.lines[line] !== 0) yield this.#recordAt(line);
  }

  #recordAt(line: number): OrderedDecision {
    const words = this.#words;
    const at = 4 * line;
    return {
      id: this.lines[line]!,
      maskLow: words[at]!,
      maskHigh: words[at + 1]!,
      client: words[at + 2]! >>> 0,
      order: this.#orders[line]!,
    };
  }

  protected override move(from: number, to: number): void {
    this.#words.copyWithin(4 * to, 4 * from, 4 * from + 4);
    this.#orders[to] = this.#orders[from]!;
  }

  protected override free(): void {
    // Nothing is kept alive by numbers.
  }

  protected override carry(places: Int32Array, lines: number): void {
    const words = this.#words;
    const orders = this.#orders;
    this.#words = new Int32Array(4 * lines);
    this.#orders = new Float64Array(lines);
    for (let line = 0; line < places.length; line++) {
      const place = places[line]!;
      if (place < 0) continue;
      this.#words.set(words.subarray(4 * line, 4 * line + 4), 4 * place);
      this.#orders[place] = orders[line]!;
    }
  }
}
