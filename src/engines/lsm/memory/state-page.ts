/**
 * The state of a tree in one publication: what its row in the meta page leads to.
 *
 *   offset  size  field       page (level byte 1)
 *       24     4  tree        its files lie in lsm-<tree>
 *       28     4  version     version page, 0: no tables
 *       32     4  memtables   count
 *       36     4  tombstones  count
 *       40     4  list        first page of the range tombstones, 0: none
 *       64     4  memtable    descriptor of each, newest first
 *
 *   page of range tombstones (level byte 6): payload bytes at 12, next page at 20; from 32 on, none across two pages:
 *       seq u48 · flags u8 (1: has low, 2: has high) · 0 u8 · lowLength u16 · highLength u16 · low · high
 *
 * Threads: reading any, under a pin; the rest the shard thread only.
 */
import { ConcordError } from '../../../shared/errors.js';
import { SEGMENT_UNIT_SHIFT, type ArenaReader, type ArenaWriter, type UnitId } from '../../../shared/memory/arena.js';
import { KEY_BYTES_MAX, NEXT_WORD, PAYLOAD_BYTES_WORD, corruptPage, readSeq, writeSeq } from '../../btree/page.js';
import type { RangeTombstone } from '../types.js';
import {
  LSM_PAGE_BYTES_MAX,
  LsmPage,
  allocateLsmPage,
  checkLsmPage,
  classFor,
  lsmPageBytes,
  lsmPageUnits,
  releaseLsmPage,
} from './page.js';
import { markVersion } from './version-page.js';

const TREE_WORD = 6;
const VERSION_WORD = 7;
const MEMTABLES_WORD = 8;
const TOMBSTONES_WORD = 9;
const LIST_WORD = 10;
const FIRST_MEMTABLE_WORD = 16;
const MEMTABLES_MAX = LSM_PAGE_BYTES_MAX / 4 - FIRST_MEMTABLE_WORD;

const PAYLOAD_OFFSET = 32;
const TOMBSTONE_HEADER_BYTES = 12;
const HAS_LOW = 1;
const HAS_HIGH = 2;

export interface LsmState {
  readonly tree: number;
  /** 0: no tables. */
  readonly version: UnitId;
  /** Descriptors, newest first. */
  readonly memtables: readonly UnitId[];
  readonly tombstones: readonly RangeTombstone[];
}

function tombstoneBytes(tombstone: RangeTombstone): number {
  return TOMBSTONE_HEADER_BYTES + (tombstone.low?.length ?? 0) + (tombstone.high?.length ?? 0);
}

/** Nothing is left allocated when it throws. @throws ERR_MEMORY_FULL */
export function buildState(arena: ArenaWriter, state: LsmState): UnitId {
  const { memtables, tombstones } = state;
  if (memtables.length > MEMTABLES_MAX) throw new ConcordError('ERR_MEMORY_FULL', `${memtables.length} memtables`);
  let list: UnitId = 0;
  try {
    list = buildTombstones(arena, tombstones);
    const unit = allocateLsmPage(arena, LsmPage.State, classFor((FIRST_MEMTABLE_WORD + memtables.length) * 4)!);
    const words = arena.u32[unit >>> SEGMENT_UNIT_SHIFT]!;
    const page = checkLsmPage(arena, unit, LsmPage.State) >>> 2;
    words[page + TREE_WORD] = state.tree;
    words[page + VERSION_WORD] = state.version;
    words[page + MEMTABLES_WORD] = memtables.length;
    words[page + TOMBSTONES_WORD] = tombstones.length;
    words[page + LIST_WORD] = list;
    memtables.forEach((descriptor, index) => {
      words[page + FIRST_MEMTABLE_WORD + index] = descriptor;
    });
    return unit;
  } catch (error) {
    walkTombstonePages(arena, list, (unit) => {
      releaseLsmPage(arena, unit);
    });
    throw error;
  }
}

/** Pages from the last to the first, so that each is made with its link. */
function buildTombstones(arena: ArenaWriter, tombstones: readonly RangeTombstone[]): UnitId {
  let next: UnitId = 0;
  let end = tombstones.length;
  try {
    while (end > 0) {
      let from = end;
      let bytes = PAYLOAD_OFFSET;
      while (from > 0) {
        const more = tombstoneBytes(tombstones[from - 1]!);
        if (from < end && bytes + more > LSM_PAGE_BYTES_MAX / 2) break;
        bytes += more;
        from--;
      }
      const unit = allocateLsmPage(arena, LsmPage.Tombstones, classFor(bytes)!);
      const segment = unit >>> SEGMENT_UNIT_SHIFT;
      const base = checkLsmPage(arena, unit, LsmPage.Tombstones);
      const u8 = arena.u8[segment]!;
      arena.u32[segment]![(base >>> 2) + PAYLOAD_BYTES_WORD] = bytes - PAYLOAD_OFFSET;
      arena.u32[segment]![(base >>> 2) + NEXT_WORD] = next;
      let at = base + PAYLOAD_OFFSET;
      for (let index = from; index < end; index++) {
        const { seq, low, high } = tombstones[index]!;
        writeSeq(u8, at, seq);
        u8[at + 6] = (low === undefined ? 0 : HAS_LOW) | (high === undefined ? 0 : HAS_HIGH);
        u8[at + 7] = 0;
        const lowLength = low?.length ?? 0;
        const highLength = high?.length ?? 0;
        u8[at + 8] = lowLength;
        u8[at + 9] = lowLength >>> 8;
        u8[at + 10] = highLength;
        u8[at + 11] = highLength >>> 8;
        at += TOMBSTONE_HEADER_BYTES;
        if (low !== undefined) u8.set(low, at);
        if (high !== undefined) u8.set(high, at + lowLength);
        at += lowLength + highLength;
      }
      next = unit;
      end = from;
    }
    return next;
  } catch (error) {
    walkTombstonePages(arena, next, (unit) => {
      releaseLsmPage(arena, unit);
    });
    throw error;
  }
}

function walkTombstonePages(arena: ArenaReader, first: UnitId, visit: (unit: UnitId, units: number) => void): void {
  let unit = first;
  for (let count = 0; unit !== 0; count++) {
    const base = checkLsmPage(arena, unit, LsmPage.Tombstones);
    if (count > arena.totalUnits) throw corruptPage(unit, 'a list of tombstones goes round');
    const next = arena.u32[unit >>> SEGMENT_UNIT_SHIFT]![(base >>> 2) + NEXT_WORD]!;
    visit(unit, lsmPageUnits(arena, unit));
    unit = next;
  }
}

/** Copies. @throws ERR_CORRUPT */
export function readState(arena: ArenaReader, state: UnitId): LsmState {
  const page = checkLsmPage(arena, state, LsmPage.State) >>> 2;
  const words = arena.u32[state >>> SEGMENT_UNIT_SHIFT]!;
  const count = words[page + MEMTABLES_WORD]!;
  if ((FIRST_MEMTABLE_WORD + count) * 4 > lsmPageBytes(arena, state)) throw corruptPage(state, `${count} memtables`);
  const memtables: UnitId[] = [];
  for (let index = 0; index < count; index++) memtables.push(words[page + FIRST_MEMTABLE_WORD + index]!);
  return {
    tree: words[page + TREE_WORD]!,
    version: words[page + VERSION_WORD]!,
    memtables,
    tombstones: readTombstones(arena, words[page + LIST_WORD]!, words[page + TOMBSTONES_WORD]!),
  };
}

function readTombstones(arena: ArenaReader, first: UnitId, count: number): RangeTombstone[] {
  const tombstones: RangeTombstone[] = [];
  walkTombstonePages(arena, first, (unit) => {
    const segment = unit >>> SEGMENT_UNIT_SHIFT;
    const base = checkLsmPage(arena, unit, LsmPage.Tombstones);
    const payloadBytes = arena.u32[segment]![(base >>> 2) + PAYLOAD_BYTES_WORD]!;
    const u8 = arena.u8[segment]!;
    let at = base + PAYLOAD_OFFSET;
    const end = at + payloadBytes;
    if (end > base + lsmPageBytes(arena, unit)) throw corruptPage(unit, `payload of ${payloadBytes} bytes`);
    while (at < end) {
      if (at + TOMBSTONE_HEADER_BYTES > end) throw corruptPage(unit, 'a tombstone reaches beyond its page');
      const seq = readSeq(u8, at);
      const flags = u8[at + 6]!;
      const lowLength = u8[at + 8]! | (u8[at + 9]! << 8);
      const highLength = u8[at + 10]! | (u8[at + 11]! << 8);
      at += TOMBSTONE_HEADER_BYTES;
      if (lowLength > KEY_BYTES_MAX || highLength > KEY_BYTES_MAX || at + lowLength + highLength > end) {
        throw corruptPage(unit, 'a tombstone reaches beyond its page');
      }
      tombstones.push({
        seq,
        low: (flags & HAS_LOW) === 0 ? undefined : u8.slice(at, at + lowLength),
        high: (flags & HAS_HIGH) === 0 ? undefined : u8.slice(at + lowLength, at + lowLength + highLength),
      });
      at += lowLength + highLength;
    }
  });
  if (tombstones.length !== count) throw corruptPage(first, `${tombstones.length} tombstones, ${count} expected`);
  return tombstones;
}

/** Gives the page and its list of tombstones back; version and memtables are another matter. */
export function retireState(arena: ArenaWriter, state: UnitId): void {
  if (state === 0) return;
  const page = checkLsmPage(arena, state, LsmPage.State) >>> 2;
  const list = arena.u32[state >>> SEGMENT_UNIT_SHIFT]![page + LIST_WORD]!;
  walkTombstonePages(arena, list, (unit) => {
    releaseLsmPage(arena, unit);
  });
  releaseLsmPage(arena, state);
}

/** Reports every page of the state, its version and the version's tables; memtables have rows of their own. @throws ERR_CORRUPT */
export function markState(arena: ArenaReader, state: UnitId, mark: (unit: UnitId, units: number) => void): void {
  if (state === 0) return;
  const page = checkLsmPage(arena, state, LsmPage.State) >>> 2;
  const words = arena.u32[state >>> SEGMENT_UNIT_SHIFT]!;
  mark(state, lsmPageUnits(arena, state));
  walkTombstonePages(arena, words[page + LIST_WORD]!, mark);
  markVersion(arena, words[page + VERSION_WORD]!, mark);
}
