/**
 * A version: which tables there are. Built anew with each flush and compaction; a few hundred tables take a few pages.
 *
 *   offset  size  field      page (level byte 2)
 *       24     4  runs       count
 *       28     4  tables     of all runs
 *       32     4  blobs      count of blob files that are listed, or ALL_BLOBS: more than fit
 *       64    16  run        per run, newest first: root of its fence tree u32 · level u32 · tables u32 · 0
 *                 blob       number u32 each, ascending, behind the runs
 *
 * A run's fence tree (fence-tree.ts) leads from the largest key of each table to a = its table page, b = its file number.
 * Threads: reading any, under a pin; the rest the shard thread only.
 */
import { ConcordError } from '../../../shared/errors.js';
import { SEGMENT_UNIT_SHIFT, type ArenaReader, type ArenaWriter, type UnitId } from '../../../shared/memory/arena.js';
import { corruptPage } from '../../btree/page.js';
import { LSM_LEVELS, type TableInfo } from '../types.js';
import { FenceTreeBuilder, walkFenceTree } from './fence-tree.js';
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
import { markTable } from './table-meta.js';

const RUNS_WORD = 6;
const TABLES_WORD = 7;
const BLOBS_WORD = 8;
const ALL_BLOBS = 0xffffffff;
const LIST_WORD = 16;
const RUN_WORDS = 4;

/** A table and its page. */
export interface InstalledTable {
  readonly info: TableInfo;
  readonly meta: UnitId;
}

export interface VersionRun {
  readonly root: UnitId;
  readonly level: number;
  readonly tables: number;
}

/**
 * Runs newest first, each with its tables in key order. blobs: files that entries of these tables refer to, for readers that keep files open.
 * Nothing is left allocated when it throws. @throws ERR_MEMORY_FULL
 */
export function buildVersion(
  arena: ArenaWriter,
  runs: readonly (readonly InstalledTable[])[],
  blobs: readonly number[] = [],
): UnitId {
  const used = runs.filter((run) => run.length > 0);
  const runBytes = (LIST_WORD + used.length * RUN_WORDS) * 4;
  if (runBytes > LSM_PAGE_BYTES_MAX) throw new ConcordError('ERR_MEMORY_FULL', `${used.length} runs of tables`);
  const listsBlobs = runBytes + blobs.length * 4 <= LSM_PAGE_BYTES_MAX;
  const builders: FenceTreeBuilder[] = [];
  try {
    const roots = used.map((run) => {
      const builder = new FenceTreeBuilder(arena);
      builders.push(builder);
      for (const { info, meta } of run) builder.add(info.largestKey, info.largestKey.length, meta, info.number);
      return builder.finish();
    });
    const unit = allocateLsmPage(arena, LsmPage.Version, classFor(runBytes + (listsBlobs ? blobs.length * 4 : 0))!);
    const words = arena.u32[unit >>> SEGMENT_UNIT_SHIFT]!;
    const page = checkLsmPage(arena, unit, LsmPage.Version) >>> 2;
    words[page + RUNS_WORD] = used.length;
    words[page + TABLES_WORD] = used.reduce((sum, run) => sum + run.length, 0);
    words[page + BLOBS_WORD] = listsBlobs ? blobs.length : ALL_BLOBS;
    let at = page + LIST_WORD;
    used.forEach((run, index) => {
      words[at] = roots[index]!;
      words[at + 1] = run[0]!.info.level;
      words[at + 2] = run.length;
      words[at + 3] = 0;
      at += RUN_WORDS;
    });
    if (listsBlobs) for (const number of [...blobs].sort((a, b) => a - b)) words[at++] = number;
    return unit;
  } catch (error) {
    for (const builder of builders) builder.abort();
    throw error;
  }
}

/** Root, level and size of each run, newest first. @throws ERR_CORRUPT */
export function runsOf(arena: ArenaReader, version: UnitId): VersionRun[] {
  if (version === 0) return [];
  const page = checkLsmPage(arena, version, LsmPage.Version) >>> 2;
  const words = arena.u32[version >>> SEGMENT_UNIT_SHIFT]!;
  const count = words[page + RUNS_WORD]!;
  if ((LIST_WORD + count * RUN_WORDS) * 4 > lsmPageBytes(arena, version)) throw corruptPage(version, `${count} runs`);
  const runs: VersionRun[] = [];
  for (let at = page + LIST_WORD; runs.length < count; at += RUN_WORDS) {
    const level = words[at + 1]!;
    if (level >= LSM_LEVELS) throw corruptPage(version, `a run of level ${level}`);
    runs.push({ root: words[at]!, level, tables: words[at + 2]! });
  }
  return runs;
}

/** Numbers of the blob files, undefined if they are not listed. */
export function blobsOf(arena: ArenaReader, version: UnitId): Set<number> | undefined {
  const blobs = new Set<number>();
  if (version === 0) return blobs;
  const page = checkLsmPage(arena, version, LsmPage.Version) >>> 2;
  const words = arena.u32[version >>> SEGMENT_UNIT_SHIFT]!;
  const count = words[page + BLOBS_WORD]!;
  if (count === ALL_BLOBS) return undefined;
  const first = LIST_WORD + words[page + RUNS_WORD]! * RUN_WORDS;
  if ((first + count) * 4 > lsmPageBytes(arena, version)) throw corruptPage(version, `${count} blob files`);
  for (let index = 0; index < count; index++) blobs.add(words[page + first + index]!);
  return blobs;
}

/** Table pages by file number: for a writer that takes over, and for readers that look which files are still needed. @throws ERR_CORRUPT */
export function readVersion(arena: ArenaReader, version: UnitId): Map<number, UnitId> {
  const tables = new Map<number, UnitId>();
  for (const run of runsOf(arena, version)) {
    walkFenceTree(
      arena,
      run.root,
      () => undefined,
      (meta, number) => tables.set(number, meta),
    );
  }
  return tables;
}

/** Gives the version's own pages back; its tables are another matter. */
export function retireVersion(arena: ArenaWriter, version: UnitId): void {
  if (version === 0) return;
  for (const run of runsOf(arena, version)) {
    walkFenceTree(
      arena,
      run.root,
      (unit) => {
        releaseLsmPage(arena, unit);
      },
      () => undefined,
    );
  }
  releaseLsmPage(arena, version);
}

/** Reports every page of the version and of its tables. @throws ERR_CORRUPT */
export function markVersion(arena: ArenaReader, version: UnitId, mark: (unit: UnitId, units: number) => void): void {
  if (version === 0) return;
  const runs = runsOf(arena, version);
  mark(version, lsmPageUnits(arena, version));
  for (const run of runs) {
    walkFenceTree(arena, run.root, mark, (meta) => {
      markTable(arena, meta, mark);
    });
  }
}
