/**
 * How far a tree is behind, and what that means for its writers.
 *
 * Writes slow down smoothly between a slowdown and a stop trigger, and stop at the latter only. How far along one is between the two is x in 0 … 1, the
 * largest of three:
 *
 *   memtables  frozenMax of them wait: x is how full the active one is; stopped when it is full
 *   level0     runs of level 0 between slowdownRuns and stopRuns
 *   debt       pending bytes between slowdownDebtBytes and stopDebtBytes
 *
 * and the rate is FAST · (SLOW / FAST)^x: from more than one thread can encode down to a trickle, without a step on the way, so that there is some x at which
 * the jobs keep up with the writers.
 *
 * Threads: any; pure functions.
 */
import { LSM_LEVELS, type LsmOptions, type TableInfo, type WriteFlow } from '../types.js';

/** Writers hardly reach it: where slowing down begins nobody notices. */
const FAST_BYTES_PER_SECOND = 128 * 2 ** 20;
const SLOW_BYTES_PER_SECOND = 2 ** 20;

/** Bytes and runs by level. */
export interface TreeShape {
  readonly bytes: readonly number[];
  readonly tables: readonly number[];
  /** Of level 0. */
  readonly runs: number;
}

export function shapeOf(tables: readonly TableInfo[]): TreeShape {
  const bytes = new Array<number>(LSM_LEVELS).fill(0);
  const counts = new Array<number>(LSM_LEVELS).fill(0);
  const runs = new Set<number>();
  for (const table of tables) {
    bytes[table.level]! += table.bytes;
    counts[table.level]!++;
    if (table.level === 0) runs.add(table.run);
  }
  return { bytes, tables: counts, runs: runs.size };
}

/** Target sizes of levels: 0 for level 0 and for those above `base`. */
export interface LevelTargets {
  /** The first level below 0 that is used. */
  readonly base: number;
  readonly bytes: readonly number[];
}

/**
 * Dynamic level sizes: targets follow from the largest level upwards, by the factor, until one fits levelBytes. So all but a tenth of the data lie in
 * the last level, whatever its size, and obsolete versions take a tenth of the space at most (as in RocksDB's level_compaction_dynamic_level_bytes).
 *
 * The base level is between levelBytes / √factor and levelBytes · √factor. Another level above it only pays when it takes several times what arrives from
 * level 0 at once: with a base of a tenth of that, everything would be written once more and the next level as often as without.
 */
export function levelTargets(bytesOfLevels: readonly number[], options: LsmOptions): LevelTargets {
  const { levelBytes, levelFactor } = options;
  const last = LSM_LEVELS - 1;
  const targets = new Array<number>(LSM_LEVELS).fill(0);
  let largest = 0;
  let firstUsed = last;
  for (let level = last; level > 0; level--) {
    const bytes = bytesOfLevels[level]!;
    if (bytes > 0) firstUsed = level;
    if (bytes > largest) largest = bytes;
  }
  // What the first used level would have if the last one were as large as the largest.
  let size = largest;
  for (let level = last; level > firstUsed; level--) size /= levelFactor;
  let base = firstUsed;
  const spread = Math.sqrt(levelFactor);
  while (base > 1 && size > levelBytes * spread) {
    base--;
    size /= levelFactor;
  }
  const baseBytes = Math.min(levelBytes * spread, Math.max(size, levelBytes / spread));
  let target = baseBytes;
  for (let level = base; level <= last; level++) {
    targets[level] = target;
    target *= levelFactor;
  }
  return { base, bytes: targets };
}

/**
 * Bytes that must still be rewritten until every level is within its target: level 0 with the base level once there are enough runs, then whatever each
 * level has too much, with what it meets in the next.
 */
export function pendingDebtBytes(shape: TreeShape, options: LsmOptions): number {
  if (options.style === 'fifo') return 0;
  if (options.style === 'tiered') return tieredDebtBytes(shape, options);
  const targets = levelTargets(shape.bytes, options);
  let debt = 0;
  /** What the levels above give to the one at hand. */
  let arriving = 0;
  if (shape.runs >= options.level0Runs) {
    arriving = shape.bytes[0]!;
    debt += arriving + Math.min(shape.bytes[targets.base]!, arriving * options.levelFactor);
  }
  for (let level = targets.base; level < LSM_LEVELS - 1; level++) {
    const size = shape.bytes[level]! + arriving;
    arriving = Math.max(0, size - targets.bytes[level]!);
    if (arriving === 0) continue;
    // Each byte takes along its share of the next level.
    debt += arriving * (1 + Math.min(options.levelFactor, shape.bytes[level + 1]! / size));
  }
  return Math.round(debt);
}

/** Runs of a tiered tree beyond which they are merged whatever their sizes: half way to where writers are slowed. */
export function tieredRunsMax(options: LsmOptions): number {
  return Math.max(options.level0Runs, Math.floor((options.level0Runs + options.slowdownRuns) / 2));
}

/** Runs that are too many, of mean size, each with one that it is merged with. */
function tieredDebtBytes(shape: TreeShape, options: LsmOptions): number {
  const excess = shape.runs - tieredRunsMax(options);
  return excess <= 0 ? 0 : Math.round((2 * excess * shape.bytes[0]!) / shape.runs);
}

/** What the flow of writes depends on. */
export interface FlowState {
  /** Memtables that wait for their flush. */
  readonly frozen: number;
  /** Of the active memtable's size, 0 … 1. */
  readonly activeFill: number;
  readonly level0Runs: number;
  readonly debtBytes: number;
  /** The last job ended with ERR_DISK_FULL. */
  readonly isDiskFull: boolean;
}

const FREE: WriteFlow = { state: 'free', bytesPerSecond: Infinity, cause: '' };

function part(value: number, from: number, to: number): number {
  return to > from ? (value - from) / (to - from) : value >= to ? 1 : 0;
}

export function writeFlow(state: FlowState, options: LsmOptions): WriteFlow {
  const memtables = state.frozen < options.frozenMax ? 0 : state.frozen > options.frozenMax ? 1 : state.activeFill;
  // Runs of a fifo tree are never merged, so their number says nothing.
  const isMerged = options.style !== 'fifo';
  const level0 = isMerged ? part(state.level0Runs, options.slowdownRuns, options.stopRuns) : 0;
  const debt = isMerged ? part(state.debtBytes, options.slowdownDebtBytes, options.stopDebtBytes) : 0;
  const x = Math.max(memtables, level0, debt);
  if (!(x > 0)) return FREE;
  const cause = x === memtables ? (state.isDiskFull ? 'disk-full' : 'memtables') : x === level0 ? 'level0' : 'debt';
  if (x >= 1) return { state: 'stopped', bytesPerSecond: 0, cause };
  return {
    state: 'slowed',
    bytesPerSecond: Math.round(FAST_BYTES_PER_SECOND * (SLOW_BYTES_PER_SECOND / FAST_BYTES_PER_SECOND) ** x),
    cause,
  };
}

/** Bytes written to tables and blob files per byte that was put; 0 before the first flush. */
export function writeAmplification(writtenBytes: number, userBytes: number): number {
  return userBytes > 0 ? writtenBytes / userBytes : 0;
}

/** Tables that a read of an absent key would look at without filters: runs of level 0, and each level that has any. */
export function readAmplification(shape: TreeShape): number {
  let runs = shape.runs;
  for (let level = 1; level < LSM_LEVELS; level++) if (shape.tables[level]! > 0) runs++;
  return runs;
}

/** Bytes of files per byte of the last level that has any (of the largest run in a tree that has but level 0); 1 for an empty tree. */
export function spaceAmplification(tables: readonly TableInfo[], blobBytes = 0, blobGarbageBytes = 0): number {
  const { bytes } = shapeOf(tables);
  let last = 0;
  for (let level = LSM_LEVELS - 1; level > 0 && last === 0; level--) last = bytes[level]!;
  if (last === 0) {
    const runs = new Map<number, number>();
    for (const table of tables) runs.set(table.run, (runs.get(table.run) ?? 0) + table.bytes);
    for (const run of runs.values()) last = Math.max(last, run);
  }
  const total = bytes.reduce((sum, one) => sum + one, 0) + blobBytes;
  const needed = last + blobBytes - blobGarbageBytes;
  return needed > 0 ? total / needed : 1;
}
