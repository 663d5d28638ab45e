/**
 * Plans how a run of entries becomes pages: how many, where they are cut, of which class each is.
 *
 *   run   a b c d e f g h i      ends  0     4     9
 *         [ part 0 ][ part 1 ]   part p has the entries from ends[p] up to ends[p + 1]
 *
 * Plans only: nothing is allocated or written. A plan holds until the run or the plan is changed. Threads: the tree's writer only; reused.
 */
import type { BranchRun } from '../branch-run.js';
import type { LeafRun } from '../leaf-run.js';
import { BRANCH_SLOT_BYTES, LEAF_SLOT_BYTES, headsOffset } from '../page.js';
import type { PageSizer } from '../page-sizer.js';

/** More than any page holds. */
export const ENTRIES_UNLIMITED = 0xffff;

abstract class Parts<Run extends LeafRun | BranchRun> {
  ends = new Int32Array(64);
  /** A part that does not fit a page of the class for new ones may have one of up to this class. */
  classKept = 0;
  protected readonly run: Run;
  protected readonly sizer: PageSizer;
  readonly #entriesMax: number;
  #weights = new Float64Array(256);

  constructor(run: Run, sizer: PageSizer, entriesMax: number) {
    this.run = run;
    this.sizer = sizer;
    this.#entriesMax = entriesMax;
  }

  protected get isOrderLimited(): boolean {
    return this.#entriesMax !== ENTRIES_UNLIMITED;
  }

  /** The class of the page for a part, -1 if none holds it. */
  protected abstract classOf(from: number, to: number): number;

  /** The run as one part. */
  whole(): void {
    this.ends[0] = 0;
    this.ends[1] = this.run.count;
  }

  /** Whether each part fits a page. */
  fit(parts: number): boolean {
    for (let part = 0; part < parts; part++) if (this.classOf(this.ends[part]!, this.ends[part + 1]!) < 0) return false;
    return true;
  }

  /** Two parts, the second from that entry on. Whether they fit. */
  protected fitCutAt(at: number): boolean {
    this.ends[0] = 0;
    this.ends[1] = at;
    this.ends[2] = this.run.count;
    return this.fit(2);
  }

  /** That for new pages if it fits, else up to that of the page it comes from. -1 if it fits neither. */
  protected classFrom(from: number, to: number, prefixLength: number, classMin: number, isFew: boolean): number {
    if (to - from > this.#entriesMax) return -1;
    const pageClass = this.run.classFor(from, to, prefixLength, classMin, isFew);
    if (pageClass >= 0 || this.classKept <= classMin) return pageClass;
    const grown = this.run.classFor(from, to, prefixLength, classMin, true);
    return grown <= this.classKept ? grown : -1;
  }

  protected reserveWeights(): Float64Array {
    if (this.#weights.length < this.run.count) this.#weights = new Float64Array(this.run.count * 2);
    return this.#weights;
  }

  /** Cuts the run into parts of about equal weight (or count), each of at least `entriesMin`. False if there are too few entries. */
  protected cut(parts: number, entriesMin: number, byWeight: boolean): boolean {
    const total = this.run.count;
    if (total < parts * entriesMin) return false;
    if (this.ends.length < parts + 1) this.ends = new Int32Array((parts + 1) * 2);
    const ends = this.ends;
    const weights = this.#weights;
    let sum = 0;
    if (byWeight) for (let index = 0; index < total; index++) sum += weights[index]!;
    else sum = total;
    let before = 0;
    let at = 0;
    ends[0] = 0;
    for (let part = 1; part < parts; part++) {
      const goal = (sum * part) / parts;
      const first = ends[part - 1]! + entriesMin;
      const last = total - (parts - part) * entriesMin;
      while (at < last) {
        const weight = byWeight ? weights[at]! : 1;
        if (at >= first && before + weight / 2 > goal) break;
        before += weight;
        at++;
      }
      ends[part] = at;
    }
    ends[parts] = total;
    return true;
  }
}

export class LeafParts extends Parts<LeafRun> {
  /** Cuts the run into at least `partsMin` pages of about equal bytes; how many, -1 if more than `partsMax` are needed. */
  partition(partsMin: number, partsMax: number): number {
    const { run } = this;
    const total = run.count;
    const prefixLength = run.commonPrefix(0, total - 1);
    const weights = this.reserveWeights();
    for (let index = 0; index < total; index++) weights[index] = run.cellBytes(index, prefixLength) + LEAF_SLOT_BYTES;
    for (let parts = partsMin; parts <= Math.min(partsMax, total); parts++) {
      if (this.cut(parts, 1, true) && this.fit(parts)) return parts;
      if (this.isOrderLimited && this.cut(parts, 1, false) && this.fit(parts)) return parts;
    }
    return -1;
  }

  /**
   * Cuts a new entry off from the others, if it stands at an end. A key that does not share the page's prefix can only stand there, and
   * beside it the others would no longer fit in any few pages: apart from it they fit as they did.
   */
  cutOff(position: number): boolean {
    const last = this.run.count - 1;
    return (position === 0 || position === last) && this.fitCutAt(position === 0 ? 1 : last);
  }

  /** The class of the page for a part with that prefix, -1 if none holds it. */
  classFor(from: number, to: number, prefixLength: number): number {
    return this.classFrom(from, to, prefixLength, this.sizer.leafClass, to - from === 1);
  }

  protected override classOf(from: number, to: number): number {
    return this.classFor(from, to, this.prefixOf(from, to));
  }

  /** A page of one entry takes its prefix from its neighbour: its whole key would fit no other. */
  prefixOf(from: number, to: number): number {
    const { run } = this;
    if (to - from > 1) return run.commonPrefix(from, to - 1);
    if (from > 0) return run.commonPrefix(from - 1, from);
    return to < run.count ? run.commonPrefix(from, to) : 0;
  }

  /** Of one page with the whole run. */
  usedBytes(prefixLength: number): number {
    let bytes = headsOffset(prefixLength);
    for (let index = 0; index < this.run.count; index++)
      bytes += this.run.cellBytes(index, prefixLength) + LEAF_SLOT_BYTES;
    return bytes;
  }
}

export class BranchParts extends Parts<BranchRun> {
  /** Cuts the run into pages of about equal bytes; how many, at least 2, -1 if there are too few children. */
  partition(atEnd: boolean): number {
    const { run } = this;
    const total = run.count;
    // Ascending inserts: the left page stays full.
    if (atEnd && total >= 4 && this.fitCutAt(total - 2)) return 2;
    const prefixLength = run.prefixFor(0, total);
    const weights = this.reserveWeights();
    weights[0] = BRANCH_SLOT_BYTES;
    for (let index = 1; index < total; index++) weights[index] = run.cellBytes(index, prefixLength) + BRANCH_SLOT_BYTES;
    for (let parts = 2; parts <= total >>> 1; parts++) {
      if (this.cut(parts, 2, true) && this.fit(parts)) return parts;
      // For a new separator that does not share the prefix of the others, which then stands at an end, see LeafParts.cutOff().
      if (parts === 2 && total >= 4 && (this.fitCutAt(2) || this.fitCutAt(total - 2))) return 2;
      if (this.isOrderLimited && this.cut(parts, 2, false) && this.fit(parts)) return parts;
    }
    return -1;
  }

  /** The class of the page for a part, -1 if none holds it. */
  override classOf(from: number, to: number): number {
    return this.classFrom(from, to, this.run.prefixFor(from, to), this.sizer.branchClass, to - from <= 3);
  }

  classOfWhole(): number {
    return this.classOf(0, this.run.count);
  }
}
