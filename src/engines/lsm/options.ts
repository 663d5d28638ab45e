/**
 * Options of an LSM-Tree: what a space may be told, and what the tree works with when everything is decided.
 *
 * Sizes that depend on the memory of the shard are capped here: a tree's memtables, active and frozen, never take more than a quarter of the arena, so
 * that memory runs out in the flow of writes and not in the middle of a group.
 *
 * Threads: any; no state.
 */
import { invalidArgument } from '../../shared/errors.js';
import { isCompressionSupported } from './table/compression.js';
import { monkeyBitsPerKey } from './table/filter.js';
import {
  CompressionCode,
  LSM_LEVELS,
  type BlockVerification,
  type CompactionStyle,
  type CompressionName,
  type LsmOptions,
  type TableOptions,
} from './types.js';

/** What a space may be told, remembered with it. Everything has a default. */
export interface LsmTuning {
  /** How tables are merged. Default 'leveled'. */
  readonly compaction?: CompactionStyle | undefined;
  /** Size at which the memtable is frozen and written to a table. Default 64 MiB, at most an eighth of the shard's memory. */
  readonly memtableBytes?: number | undefined;
  /** Frozen memtables that may wait for that, 1 … 16: then writes stop. Default 3. */
  readonly frozenMax?: number | undefined;
  /** Of data blocks: one for all levels, or a list by level of which the last counts for those below. Default 'lz4'. */
  readonly compression?: CompressionName | readonly CompressionName[] | undefined;
  /** Of a data block before compression, 512 … 65,536. Default 1,024; on level 0 4,096. */
  readonly blockBytes?: number | undefined;
  /** Entries of a block between two whole keys, 1 … 256. Default 8. */
  readonly restartInterval?: number | undefined;
  /** Of the filters; 0: none. 'monkey': spends 10 bits per key on average, more of them on small levels. Default 10. */
  readonly bitsPerKey?: number | 'monkey' | undefined;
  /** First bytes of keys that scans of a prefix may ask a filter about; 0: none. Default 0. */
  readonly prefixFilterBytes?: number | undefined;
  /**
   * Checksums of blocks that synchronous point reads read from files, of tables whose index is in memory: 'always', or 'once' since the store was opened, which
   * makes such a read a seventh faster and does not see what goes bad on the disk afterwards. All else, and what goes into the cache, is checked always.
   * Default 'always'.
   */
  readonly verifyBlocks?: BlockVerification | undefined;
  /** Size at which another table is begun. Default 16 MiB. */
  readonly tableBytes?: number | undefined;
  /** Runs of level 0 at which they are merged. Default 4. */
  readonly level0Runs?: number | undefined;
  /** Runs of level 0 at which writes slow down. Default 12. */
  readonly slowdownRuns?: number | undefined;
  /** Runs of level 0 at which writes stop. Default 24. */
  readonly stopRuns?: number | undefined;
  /** Bytes that wait to be merged at which writes slow down. Default 4 GiB. */
  readonly slowdownDebtBytes?: number | undefined;
  /** Bytes that wait to be merged at which writes stop. Default 16 GiB. */
  readonly stopDebtBytes?: number | undefined;
  /** Leveled: size of the first level below 0. Default 256 MiB. */
  readonly levelBytes?: number | undefined;
  /** Leveled: how many times larger each next level is, 2 … 100. Default 10. */
  readonly levelFactor?: number | undefined;
  /** Tiered: runs of like size that are merged at a time. Default 4. */
  readonly tieredRunsMin?: number | undefined;
  /** Tiered: how large all younger runs may be together, in percent of the oldest. Default 200. */
  readonly tieredSpacePercent?: number | undefined;
  /** Fifo: the oldest tables go when the space is larger. Default 1 GiB. */
  readonly fifoBytes?: number | undefined;
  /** Fifo: tables go when they are this old; 0: never. Default 0. */
  readonly fifoTtlMs?: number | undefined;
  /** Values of this size and above go to blob files, 64 at least; 0: none do. Default 0. */
  readonly blobValueBytes?: number | undefined;
  /** Size at which another blob file is begun. Default 64 MiB. */
  readonly blobFileBytes?: number | undefined;
  /** Percent of a blob file that nothing refers to any more, at which it is written anew. Default 50. */
  readonly blobGarbagePercent?: number | undefined;
}

const MIB = 1 << 20;
const GIB = 2 ** 30;
const MEMTABLE_BYTES_DEFAULT = 64 * MIB;
/** A memtable of less would be full when it is begun. */
const MEMTABLE_BYTES_MIN = 64 * 1024;
const BITS_PER_KEY_DEFAULT = 10;
/** A read of one entry reads so much. */
const BLOCK_BYTES_DEFAULT = 1024;
/** Level 0 is mostly written and merged, which larger blocks make cheaper. */
const LEVEL_0_BLOCK_BYTES_DEFAULT = 4096;

function integer(name: string, value: number | undefined, otherwise: number, min: number, max: number): number {
  if (value === undefined) return otherwise;
  if (!Number.isInteger(value) || value < min || value > max) {
    throw invalidArgument(`lsm.${name} must be an integer ${min} ..= ${max}, got ${String(value)}`);
  }
  return value;
}

function compressionOf(tuning: LsmTuning, level: number): CompressionName {
  const { compression = 'lz4' } = tuning;
  const names: readonly unknown[] = typeof compression === 'string' ? [compression] : compression;
  const name = names[Math.min(level, names.length - 1)];
  if (typeof name !== 'string' || !Object.hasOwn(CompressionCode, name)) {
    const known = Object.keys(CompressionCode).join(', ');
    throw invalidArgument(`lsm.compression is one of ${known}, or a list of them, got ${String(name)}`);
  }
  if (!isCompressionSupported(name as CompressionName)) {
    throw invalidArgument(`lsm.compression: this version of Node.js has no ${name}`);
  }
  return name as CompressionName;
}

/** Bits per key by level. Monkey: as if each level were full. */
function bitsByLevel(tuning: LsmTuning, levelBytes: number, levelFactor: number): readonly number[] {
  const { bitsPerKey = BITS_PER_KEY_DEFAULT } = tuning;
  if (bitsPerKey === 'monkey') {
    const sizes = Array.from({ length: LSM_LEVELS }, (_, level) =>
      level === 0 ? levelBytes : levelBytes * levelFactor ** (level - 1),
    );
    return monkeyBitsPerKey(sizes, BITS_PER_KEY_DEFAULT);
  }
  const bits = integer('bitsPerKey', bitsPerKey, BITS_PER_KEY_DEFAULT, 0, 64);
  return new Array<number>(LSM_LEVELS).fill(bits);
}

/**
 * Everything decided. arenaBytes: the shard's memory, which bounds the memtables; left out: only checks.
 * @throws ERR_INVALID_ARG naming the option
 */
export function resolveLsmOptions(tuning: LsmTuning = {}, arenaBytes = Infinity): LsmOptions {
  const style: unknown = tuning.compaction ?? 'leveled';
  if (style !== 'leveled' && style !== 'tiered' && style !== 'fifo') {
    throw invalidArgument(`lsm.compaction is leveled, tiered or fifo, got ${String(style)}`);
  }
  const verifyBlocks: unknown = tuning.verifyBlocks ?? 'always';
  if (verifyBlocks !== 'always' && verifyBlocks !== 'once') {
    throw invalidArgument(`lsm.verifyBlocks is always or once, got ${String(verifyBlocks)}`);
  }
  const memtableAsked = integer('memtableBytes', tuning.memtableBytes, MEMTABLE_BYTES_DEFAULT, MEMTABLE_BYTES_MIN, GIB);
  const frozenMax = integer('frozenMax', tuning.frozenMax, 3, 1, 16);
  const memtableBytes = Math.max(
    MEMTABLE_BYTES_MIN,
    Math.min(memtableAsked, arenaBytes / 8, arenaBytes / (2 * (frozenMax + 1))),
  );
  const levelBytes = integer('levelBytes', tuning.levelBytes, 256 * MIB, 4096, 2 ** 50);
  const levelFactor = integer('levelFactor', tuning.levelFactor, 10, 2, 100);
  const bits = bitsByLevel(tuning, levelBytes, levelFactor);
  const blockBytesAt = (level: number): number =>
    integer(
      'blockBytes',
      tuning.blockBytes,
      level === 0 ? LEVEL_0_BLOCK_BYTES_DEFAULT : BLOCK_BYTES_DEFAULT,
      512,
      65_536,
    );
  const restartInterval = integer('restartInterval', tuning.restartInterval, 8, 1, 256);
  const prefixFilterBytes = integer('prefixFilterBytes', tuning.prefixFilterBytes, 0, 0, 255);
  const tables = Array.from({ length: LSM_LEVELS }, (_, level): TableOptions => ({
    blockBytes: blockBytesAt(level),
    restartInterval,
    compression: compressionOf(tuning, level),
    bitsPerKey: bits[level]!,
    prefixFilterBytes,
  }));
  const level0Runs = integer('level0Runs', tuning.level0Runs, 4, 1, 1000);
  const slowdownRuns = integer('slowdownRuns', tuning.slowdownRuns, Math.max(12, 3 * level0Runs), 2, 10_000);
  const stopRuns = integer('stopRuns', tuning.stopRuns, Math.max(24, 2 * slowdownRuns), 3, 20_000);
  if (!(level0Runs < slowdownRuns && slowdownRuns < stopRuns)) {
    throw invalidArgument(
      `lsm: level0Runs ${level0Runs}, slowdownRuns ${slowdownRuns} and stopRuns ${stopRuns} must ascend`,
    );
  }
  const slowdownDebtBytes = integer('slowdownDebtBytes', tuning.slowdownDebtBytes, 4 * GIB, 4096, 2 ** 50);
  const stopDebtBytes = integer(
    'stopDebtBytes',
    tuning.stopDebtBytes,
    Math.max(16 * GIB, 4 * slowdownDebtBytes),
    8192,
    2 ** 52,
  );
  if (slowdownDebtBytes >= stopDebtBytes) {
    throw invalidArgument(`lsm: slowdownDebtBytes ${slowdownDebtBytes} must be below stopDebtBytes ${stopDebtBytes}`);
  }
  const blobValueBytes = integer('blobValueBytes', tuning.blobValueBytes, 0, 0, GIB);
  if (blobValueBytes !== 0 && blobValueBytes < 64) {
    throw invalidArgument(`lsm.blobValueBytes must be 0 or at least 64, got ${blobValueBytes}`);
  }
  return {
    style,
    memtableBytes: Math.floor(memtableBytes),
    frozenMax,
    tables,
    verifyBlocks,
    tableBytes: integer('tableBytes', tuning.tableBytes, 16 * MIB, 4096, GIB),
    level0Runs,
    slowdownRuns,
    stopRuns,
    slowdownDebtBytes,
    stopDebtBytes,
    levelBytes,
    levelFactor,
    tieredRunsMin: integer('tieredRunsMin', tuning.tieredRunsMin, 4, 2, 100),
    tieredSpacePercent: integer('tieredSpacePercent', tuning.tieredSpacePercent, 200, 10, 10_000),
    fifoBytes: integer('fifoBytes', tuning.fifoBytes, GIB, 4096, 2 ** 50),
    fifoTtlMs: integer('fifoTtlMs', tuning.fifoTtlMs, 0, 0, 2 ** 47),
    blobValueBytes: blobValueBytes === 0 ? Infinity : blobValueBytes,
    blobFileBytes: integer('blobFileBytes', tuning.blobFileBytes, 64 * MIB, 4096, 4 * GIB),
    blobGarbage: integer('blobGarbagePercent', tuning.blobGarbagePercent, 50, 1, 100) / 100,
  };
}
