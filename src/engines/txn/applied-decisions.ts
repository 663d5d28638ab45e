/**
 * Decisions that are applied on all their shards, and which some shard could still lose and ask for: until the next syncs, that is seconds, and some hundred
 * thousand of them. So they are columns of numbers, which cost a collection of garbage nothing.
 *
 * Threads: the coordinator's.
 */
import { IdTable } from '../../shared/id-map.js';
import type { DecisionRecord } from './decision-log.js';

export class AppliedDecisions extends IdTable {
  /** Four words for each: participants (two), client, whether it is to be forgotten. */
  #words = new Int32Array(4 * this.lines.length);

  /** One that is not here. */
  add({ id, maskLow, maskHigh, client }: DecisionRecord): void {
    const at = 4 * this.place(id);
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

  get(id: number): DecisionRecord | undefined {
    const line = this.find(id);
    return line < 0 ? undefined : this.#recordAt(line);
  }

  *values(): Generator<DecisionRecord, void> {
    for (let line = 0; line < this.lines.length; line++) if (this.lines[line] !== 0) yield this.#recordAt(line);
  }

  #recordAt(line: number): DecisionRecord {
    const words = this.#words;
    const at = 4 * line;
    return { id: this.lines[line]!, maskLow: words[at]!, maskHigh: words[at + 1]!, client: words[at + 2]! >>> 0 };
  }

  protected override move(from: number, to: number): void {
    this.#words.copyWithin(4 * to, 4 * from, 4 * from + 4);
  }

  protected override free(): void {
    // Nothing is kept alive by numbers.
  }

  protected override carry(places: Int32Array, lines: number): void {
    const before = this.#words;
    this.#words = new Int32Array(4 * lines);
    for (let line = 0; line < places.length; line++) {
      for (let i = 0; i < 4 && places[line]! >= 0; i++) this.#words[4 * places[line]! + i] = before[4 * line + i]!;
    }
  }
}
