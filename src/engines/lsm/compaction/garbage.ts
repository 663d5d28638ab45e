/**
 * What may go besides the ordinary course of merges.
 *
 * Without reading (drops):
 *   range tombstones under which no table and no memtable holds anything older
 *   tables that lie wholly below a range tombstone, when no snapshot sees them: what they hid is hidden by the tombstone as well
 *   tables of which everything has expired, when no snapshot sees them and nothing older lies below
 *   blob files that no table refers to
 *
 * By rewriting, when there is nothing better to do (score below 1), or much of it:
 *   tables that refer to blob files with much garbage; the live values move
 *   tables with many tombstones or expired entries: down a level, or at the bottom, where they are
 *   tables with versions that were kept for snapshots which are closed now, at the bottom
 *   tables that range tombstones cut: then the tombstones can go
 *
 * Each of these leaves less of what it was chosen for, so it comes to an end.
 *
 * Threads: any; pure.
 */
import { LSM_LEVELS, type RangeTombstone, type TableInfo } from '../types.js';
import { pickLevel } from './leveled.js';
import type { CompactionPlan } from './plan.js';
import { covers, meets } from './ranges.js';
import { liveBlobBytes, type SortedRun, type TreeView } from './tree-view.js';

/** So many range tombstones make reads slow: getting rid of them is due. */
const TOMBSTONES_MAX = 32;
/** Of the entries of a table, for it to be rewritten. */
const EXPIRED_SHARE = 0.3;
const TOMBSTONE_SHARE = 0.5;
const BOTTOM_TOMBSTONE_SHARE = 0.1;
const HIDDEN_SHARE = 0.1;
/** Tables that are rewritten together. */
const TABLES_MAX = 8;
const IDLE_SCORE = 0.5;

/** Everything that can go at once. */
export function pickDrops(view: TreeView): CompactionPlan | undefined {
  const { state } = view;
  const hidden = view.tombstones.length === 0 ? [] : state.tables.filter((table) => isHidden(view, table));
  const expired = state.tables.filter((table) => isExpired(view, table));
  const tombstones = state.tombstones.filter(
    (tombstone) => !view.tombstones.includes(tombstone) || !hidesAnything(view, tombstone),
  );
  let blobs: number[] = [];
  if (state.blobs.length > 0) {
    const live = liveBlobBytes(state.tables);
    blobs = state.blobs.map((blob) => blob.number).filter((number) => !live.has(number));
  }
  const tables = [...new Set([...hidden, ...expired])];
  if (tables.length === 0 && tombstones.length === 0 && blobs.length === 0) return undefined;
  const cause = hidden.length + tombstones.length > 0 ? 'range-tombstones' : expired.length > 0 ? 'expired' : 'blobs';
  return view.dropFor(cause, tables, { removedTombstones: tombstones, removedBlobs: blobs });
}

function hidesAnything(view: TreeView, { seq, low, high }: RangeTombstone): boolean {
  const { state } = view;
  if (state.memtableSeq < seq) return true;
  return state.tables.some((table) => table.smallestSeq < seq && meets(table.smallestKey, table.largestKey, low, high));
}

function isHidden(view: TreeView, table: TableInfo): boolean {
  if (view.isBusy(table)) return false;
  return view.tombstones.some(
    ({ seq, low, high }) =>
      table.largestSeq < seq &&
      covers(low, high, table.smallestKey, table.largestKey) &&
      !view.hasSnapshotIn(table.smallestSeq, seq),
  );
}

function isExpired(view: TreeView, table: TableInfo): boolean {
  return (
    table.expiring === table.entries &&
    table.lastExpiry <= view.state.nowMs &&
    view.lastSnapshot < table.smallestSeq &&
    !view.isBusy(table) &&
    !view.hasOlder(table)
  );
}

/** By rewriting. Below score 1 only when the tree is idle. */
export function pickGarbage(view: TreeView): CompactionPlan | undefined {
  return pickBlobs(view) ?? pickCut(view) ?? (view.state.isIdle ? pickDense(view) : undefined);
}

function pickBlobs(view: TreeView): CompactionPlan | undefined {
  const { garbageBlobs, state, options } = view;
  if (garbageBlobs.size === 0) return undefined;
  const live = liveBlobBytes(state.tables);
  let allBytes = 0;
  let garbageBytes = 0;
  let worst = 0;
  let worstBytes = -1;
  for (const blob of state.blobs) {
    const garbage = Math.max(0, blob.recordBytes - (live.get(blob.number) ?? 0));
    allBytes += blob.recordBytes;
    garbageBytes += garbage;
    if (garbageBlobs.has(blob.number) && garbage > worstBytes) {
      worst = blob.number;
      worstBytes = garbage;
    }
  }
  const score = allBytes > 0 ? garbageBytes / allBytes / options.blobGarbage : 0;
  if (score < 1 && !state.isIdle) return undefined;
  const refersToWorst = (table: TableInfo): boolean => table.blobs.some((use) => use.file === worst);
  const refersToGarbage = (table: TableInfo): boolean => table.blobs.some((use) => garbageBlobs.has(use.file));
  return rewriteFirst(view, 'blobs', score, refersToWorst, refersToGarbage);
}

function pickCut(view: TreeView): CompactionPlan | undefined {
  const { state } = view;
  const score = Math.max(IDLE_SCORE, view.tombstones.length / TOMBSTONES_MAX);
  if (view.tombstones.length === 0 || (score < 1 && !state.isIdle)) return undefined;
  const isCut = (table: TableInfo): boolean => isCutByTombstone(view, table);
  return rewriteFirst(view, 'range-tombstones', score, isCut, isCut);
}

/** Rewriting the table takes away all that some range tombstone hides in it. */
function isCutByTombstone(view: TreeView, table: TableInfo): boolean {
  return view.tombstones.some(
    ({ seq, low, high }) =>
      table.smallestSeq < seq &&
      meets(table.smallestKey, table.largestKey, low, high) &&
      !view.hasSnapshotIn(table.smallestSeq, seq),
  );
}

/** Entries that have expired, if their times are evenly spread. */
function expiredEntries(table: TableInfo, nowMs: number): number {
  if (table.expiring === 0 || table.firstExpiry > nowMs) return 0;
  const span = table.lastExpiry - table.firstExpiry;
  return span <= 0 ? table.expiring : table.expiring * Math.min(1, (nowMs - table.firstExpiry) / span);
}

/** Whether rewriting a table under which nothing lies takes all its tombstones away. */
function hasDroppableTombstones(view: TreeView, table: TableInfo): boolean {
  return table.tombstones > 0 && !view.hasSnapshotIn(table.smallestSeq, table.largestSeq);
}

/** Versions that were kept for snapshots: rewriting the table takes them all away. */
function hiddenEntries(view: TreeView, table: TableInfo): number {
  const hidden = table.keys === 0 ? 0 : table.entries - table.keys;
  return hidden === 0 || view.hasSnapshotIn(table.smallestSeq, table.largestSeq) ? 0 : hidden;
}

function pickDense(view: TreeView): CompactionPlan | undefined {
  const { state, options } = view;
  const isDense = (table: TableInfo): boolean => {
    const expired = view.lastSnapshot < table.smallestSeq ? expiredEntries(table, state.nowMs) : 0;
    if (expired >= EXPIRED_SHARE * table.entries) return true;
    if (hiddenEntries(view, table) >= HIDDEN_SHARE * table.entries) return true;
    return table.tombstones >= BOTTOM_TOMBSTONE_SHARE * table.entries && hasDroppableTombstones(view, table);
  };
  const atBottom = (table: TableInfo): boolean => isDense(table) && !view.hasOlder(table);
  const rewritten = rewriteFirst(view, 'tombstones', IDLE_SCORE, atBottom, atBottom);
  if (rewritten !== undefined || options.style !== 'leveled') return rewritten;
  for (let level = 1; level < LSM_LEVELS - 1; level++) {
    const dense = view.levels[level]!.filter((table) => {
      const expired = view.lastSnapshot < table.smallestSeq ? expiredEntries(table, state.nowMs) : 0;
      return table.tombstones + expired >= TOMBSTONE_SHARE * table.entries && view.hasOlder(table);
    });
    const plan = dense.length === 0 ? undefined : pickLevel(view, level, IDLE_SCORE, dense, 'tombstones');
    if (plan !== undefined) return plan;
  }
  return undefined;
}

/** Rewrites, where they are, the first table that must be and those next to it that may as well. */
export function rewriteFirst(
  view: TreeView,
  cause: CompactionPlan['cause'],
  score: number,
  must: (table: TableInfo) => boolean,
  may: (table: TableInfo) => boolean,
): CompactionPlan | undefined {
  // What lies deepest first: there is most of it, and what is dropped there lets more be dropped above.
  for (const run of [...view.runs].reverse()) {
    for (let first = 0; first < run.tables.length; first++) {
      const table = run.tables[first]!;
      if (view.isBusy(table) || !must(table)) continue;
      const plan = view.planFor(cause, score, neighboursFrom(view, run, first, may), run.level, false);
      if (plan !== undefined) return plan;
    }
  }
  return undefined;
}

function neighboursFrom(
  view: TreeView,
  run: SortedRun,
  first: number,
  may: (table: TableInfo) => boolean,
): readonly TableInfo[] {
  let end = first + 1;
  // Each table of a fifo tree keeps its age.
  const count = view.options.style === 'fifo' ? 1 : TABLES_MAX;
  while (end < run.tables.length && end - first < count && !view.isBusy(run.tables[end]!) && may(run.tables[end]!))
    end++;
  return run.tables.slice(first, end);
}

/** When a table will be dense with expired entries, ms since the epoch; Infinity: never by the clock alone. */
export function expiryDueAtMs(view: TreeView): number {
  let due = Infinity;
  for (const table of view.state.tables) {
    if (table.expiring < EXPIRED_SHARE * table.entries || table.expiring === 0) continue;
    const share = (EXPIRED_SHARE * table.entries) / table.expiring;
    due = Math.min(due, Math.ceil(table.firstExpiry + (table.lastExpiry - table.firstExpiry) * share));
  }
  return due;
}

/** For somebody who asked for it: any tombstone, expired entry, hidden version, range tombstone or piece of a garbage file is worth it. */
export function hasGarbage(view: TreeView, table: TableInfo): boolean {
  const mayExpire = view.lastSnapshot < table.smallestSeq && table.expiring > 0;
  return (
    (mayExpire && table.firstExpiry <= view.state.nowMs) ||
    hasDroppableTombstones(view, table) ||
    hiddenEntries(view, table) > 0 ||
    isCutByTombstone(view, table) ||
    table.blobs.some((use) => view.garbageBlobs.has(use.file))
  );
}
