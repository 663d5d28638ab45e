/**
 * The way of a reader or cursor from the pinned meta page to what it looks through: memtables, runs, range tombstones.
 *
 *   meta page ─ row ─▶ state page ─▶ descriptors of memtables · version page ─▶ runs · range tombstones
 *
 * States change with flushes, compactions and clears, publications with every group: so what a state says is kept, and known again by its page's unit and
 * birth, which name one page for ever.
 *
 * Threads: any, one object per thread, between pin and unpin.
 */
import {
  PAGE_BIRTH_LOW_WORD,
  SEGMENT_UNIT_SHIFT,
  type ArenaReader,
  type UnitId,
} from '../../../shared/memory/arena.js';
import { ROW_TAG_WORD, publishedSeqOf, rowWord } from '../../btree/meta.js';
import { pageWord } from '../../cells/node.js';
import { EngineCode, StaleViewError, rowTag } from '../../engine.js';
import { cacheOwnerOfSlot } from '../../btree/paged/cold-pages.js';
import { readState } from '../memory/state-page.js';
import { runsOf, type VersionRun } from '../memory/version-page.js';
import type { RangeTombstone } from '../types.js';
import { LsmFiles, newReadCounters, type LsmReadCounters } from './files.js';

const NO_RUNS: readonly VersionRun[] = [];
const NO_TOMBSTONES: readonly RangeTombstone[] = [];
const NO_MEMTABLES: readonly UnitId[] = [];

export class LsmView {
  readonly row: number;
  readonly tag: number;
  protected readonly arena: ArenaReader;
  protected readonly slot: number;
  protected readonly spaceId: number;
  #files: LsmFiles | undefined;
  #counters: LsmReadCounters | undefined;
  // What the row said in the publication that was looked at last.
  #knownMeta: UnitId = 0;
  #knownBirth = 0;
  #knownState: UnitId = 0;
  #knownStateBirth = 0;
  #version: UnitId = 0;
  #versionBirth = 0;
  /** No file is open that only older versions had. */
  #isSwept = true;
  /** Of the publication. */
  protected publishedSeq = 0;
  protected tree = 0;
  protected memtables: readonly UnitId[] = NO_MEMTABLES;
  protected runs: readonly VersionRun[] = NO_RUNS;
  protected tombstones: readonly RangeTombstone[] = NO_TOMBSTONES;
  /** Counts states: what was made of another one is out of date. */
  protected generation = 0;

  constructor(arena: ArenaReader, row: number, spaceId: number, slot: number) {
    this.arena = arena;
    this.row = row;
    this.slot = slot;
    this.spaceId = spaceId;
    this.tag = rowTag(spaceId, EngineCode.lsm);
  }

  /** A store without a directory has none, and no tables either. */
  protected get files(): LsmFiles {
    return (this.#files ??= LsmFiles.of(this.arena, cacheOwnerOfSlot(this.slot)));
  }

  /** Events of all readers and cursors of the space in this thread; see LsmFiles.counters(). */
  get counters(): LsmReadCounters {
    if (this.#counters !== undefined) return this.#counters;
    const counters = this.arena.layout.cold === undefined && LsmFiles.known(this.arena) === undefined;
    return (this.#counters = counters ? newReadCounters() : this.files.counters(this.spaceId));
  }

  /** False if the publication has nothing of the space: then no key is there. @throws StaleViewError, ERR_CORRUPT */
  protected enter(metaUnit: UnitId): boolean {
    const birth = this.arena.i32[metaUnit >>> SEGMENT_UNIT_SHIFT]?.[pageWord(metaUnit) + PAGE_BIRTH_LOW_WORD] ?? 0;
    if (metaUnit === this.#knownMeta && birth === this.#knownBirth && metaUnit !== 0 && this.#isSwept) {
      return this.#knownState !== 0;
    }
    return this.#lookAtRow(metaUnit, birth);
  }

  #lookAtRow(metaUnit: UnitId, birth: number): boolean {
    const { arena } = this;
    this.#knownMeta = 0;
    const row = rowWord(arena, metaUnit, this.row);
    if (row < 0) return false;
    const words = arena.u32[metaUnit >>> SEGMENT_UNIT_SHIFT]!;
    if (words[row + ROW_TAG_WORD] !== this.tag) throw new StaleViewError();
    const state = words[row]!;
    this.publishedSeq = publishedSeqOf(arena, metaUnit);
    if (state === 0) this.#forgetState();
    else {
      const stateBirth = arena.i32[state >>> SEGMENT_UNIT_SHIFT]?.[pageWord(state) + PAGE_BIRTH_LOW_WORD] ?? 0;
      if (state !== this.#knownState || stateBirth !== this.#knownStateBirth) this.#lookAtState(state, stateBirth);
      this.#isSwept = this.#version === 0 || this.files.sweep(arena, this.tree, this.#version, this.#versionBirth);
    }
    this.#knownBirth = birth;
    this.#knownMeta = metaUnit;
    return state !== 0;
  }

  #forgetState(): void {
    this.#knownState = 0;
    this.#version = 0;
    this.#isSwept = true;
    this.memtables = NO_MEMTABLES;
    this.runs = NO_RUNS;
    this.tombstones = NO_TOMBSTONES;
    this.generation++;
  }

  #lookAtState(unit: UnitId, birth: number): void {
    const { arena } = this;
    this.#forgetState();
    const state = readState(arena, unit);
    this.runs = runsOf(arena, state.version);
    this.tree = state.tree;
    this.memtables = state.memtables.filter((descriptor) => descriptor !== 0);
    this.tombstones = state.tombstones;
    const { version } = state;
    this.#version = version;
    if (version !== 0) {
      this.#versionBirth = arena.i32[version >>> SEGMENT_UNIT_SHIFT]![pageWord(version) + PAGE_BIRTH_LOW_WORD]!;
    }
    this.#knownState = unit;
    this.#knownStateBirth = birth;
  }

  /** Number of the newest range tombstone ≤ limit that covers the key, 0 if none does. */
  protected coverOf(key: Uint8Array, keyLength: number, limit: number): number {
    const { tombstones } = this;
    let cover = 0;
    for (let index = 0; index < tombstones.length; index++) {
      const { seq, low, high } = tombstones[index]!;
      if (seq <= cover || seq > limit) continue;
      if (low !== undefined && compareKeys(key, keyLength, low, low.length) < 0) continue;
      if (high !== undefined && compareKeys(key, keyLength, high, high.length) >= 0) continue;
      cover = seq;
    }
    return cover;
  }
}

/** memcmp order. */
export function compareKeys(a: Uint8Array, aLength: number, b: Uint8Array, bLength: number): number {
  const length = aLength < bLength ? aLength : bLength;
  for (let index = 0; index < length; index++) {
    const difference = a[index]! - b[index]!;
    if (difference !== 0) return difference;
  }
  return aLength - bLength;
}
