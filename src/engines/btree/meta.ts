/** Tree table of one arena, and its publication: signatures. */
import type { ArenaReader, ArenaWriter, UnitId } from '../../shared/memory/arena.js';

export interface TreeCounts {
  readonly rootUnit: UnitId;
  readonly height: number;
  readonly liveEntries: number;
  readonly liveKeyBytes: number;
  readonly liveValueBytes: number;
  readonly cells: number;
  readonly leafPages: number;
  readonly branchPages: number;
  readonly overflowPages: number;
  readonly units: number;
}

/** Fills a meta page from all BTreeWriters of the arena and publishes them together. Shard thread only. */
export declare function publishTrees(arena: ArenaWriter, publishedSeq: number): UnitId;
/** Pinned or writer. 0 when nothing was published. */
export declare function publishedSeqOf(arena: ArenaReader, metaUnit: UnitId): number;
export declare function treeCount(arena: ArenaReader, metaUnit: UnitId): number;
export declare function treeCounts(arena: ArenaReader, metaUnit: UnitId, treeIndex: number): TreeCounts;
/** The walker for ArenaWriter.adopt. */
export declare function markTrees(
  arena: ArenaReader,
  metaUnit: UnitId,
  mark: (unit: UnitId, units: number) => void,
): void;
