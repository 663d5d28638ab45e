/**
 * Which versions a job keeps. The versions of one key come newest first; what is needed are the open snapshots and, for whoever reads now or opens a
 * snapshot later, Infinity: everything a job sees was published before it began.
 *
 *   hider   of a version: the next newer thing that hides it, a version of the merge or a range tombstone; Infinity if nothing does
 *
 *   s ──────────── hider ────▶ numbers       A version s is what every needed number in [s, hider) sees. If there is none, it goes.
 *      ↑ a snapshot here keeps it
 *
 * A tombstone that is needed is there to hide something. It goes when nothing is left to hide: no older version of its key is kept in this merge, and
 * nothing older than the merge may have the key (`older`). So it has to wait for the versions behind it: see JobOutput.
 * (A range tombstone hides older versions wherever they are, so what it hides goes without that question.)
 *
 * An expired entry that only Infinity needs is a tombstone of the same number: nobody reads it any more, but it hides what is below. A snapshot
 * judges by the time it was taken, so an entry that one may see is kept as it is.
 *
 * Threads: the job's.
 */
import type { RangeTombstone } from '../types.js';
import { RangeWalk, TombstoneWalk, type KeyRange } from '../compaction/ranges.js';
import { EntryFlag } from '../table/entry.js';

export const Verdict = { drop: 0, keep: 1, tombstone: 2 } as const;
export type Verdict = (typeof Verdict)[keyof typeof Verdict];

export interface VersionRulesParameters {
  /** Ascending. */
  readonly snapshots: readonly number[];
  readonly tombstones: readonly RangeTombstone[];
  readonly nowMs: number;
  /** Keys that something older than the merge may have; undefined: any. As unionOf() makes them. */
  readonly older: readonly KeyRange[] | undefined;
}

export class VersionRules {
  readonly #snapshots: Float64Array;
  readonly #lastSnapshot: number;
  readonly #tombstones: TombstoneWalk;
  readonly #hasTombstones: boolean;
  readonly #nowMs: number;
  readonly #older: RangeWalk;
  #hider = Infinity;

  constructor(parameters: VersionRulesParameters) {
    this.#snapshots = Float64Array.from(parameters.snapshots);
    this.#lastSnapshot = parameters.snapshots.at(-1) ?? -1;
    this.#tombstones = new TombstoneWalk(parameters.tombstones);
    this.#hasTombstones = !this.#tombstones.isEmpty;
    this.#nowMs = parameters.nowMs;
    this.#older = new RangeWalk(parameters.older);
  }

  /** See TombstoneWalk. */
  get place(): number {
    return this.#tombstones.place;
  }

  /** Keys ascend. */
  beginKey(key: Uint8Array, keyLength: number): void {
    this.#hider = Infinity;
    if (this.#hasTombstones) this.#tombstones.advance(key, keyLength);
  }

  /** Of the key's next older version. */
  judge(seq: number, flags: number, expiresAt: number): Verdict {
    let hider = this.#hider;
    this.#hider = seq;
    if (this.#hasTombstones) {
      const above = this.#tombstones.above(seq);
      if (above < hider) hider = above;
    }
    if (hider !== Infinity && !this.#isSnapshotIn(seq, hider)) return Verdict.drop;
    if ((flags & EntryFlag.tombstone) !== 0) return Verdict.tombstone;
    if (expiresAt !== 0 && expiresAt <= this.#nowMs && this.#lastSnapshot < seq) return Verdict.tombstone;
    return Verdict.keep;
  }

  /** Whether something older than the merge may have the key of beginKey(). Keys ascend. */
  mayBeBelow(key: Uint8Array, keyLength: number): boolean {
    return this.#older.has(key, keyLength);
  }

  #isSnapshotIn(from: number, to: number): boolean {
    const snapshots = this.#snapshots;
    let low = 0;
    let high = snapshots.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (snapshots[middle]! < from) low = middle + 1;
      else high = middle;
    }
    return low < snapshots.length && snapshots[low]! < to;
  }
}
