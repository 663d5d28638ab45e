/** Page arena over SharedArrayBuffers with epoch reclamation: signatures. */

/** Number of a page's first 4 KiB unit; 0 is "none". */
export type UnitId = number;

/** Structured-cloneable: pass it to other threads. */
export interface ArenaLayout {
  readonly segments: SharedArrayBuffer[];
}

export interface ArenaOptions {
  /** Rounded down to whole units. At least 256 KiB, at most 64 GiB. */
  readonly memoryBytes: number;
}

export interface ArenaStats {
  readonly totalUnits: number;
  readonly usedUnits: number;
  readonly retiredUnits: number;
  readonly highWaterUnits: number;
  readonly reserveUnits: number;
  readonly epoch: number;
}

/** An exact pin of one published version, made by the writer. Structured-cloneable. */
export interface LongPin {
  readonly index: number;
  readonly epoch: number;
  readonly metaUnit: UnitId;
}

export declare function createArena(options: ArenaOptions): ArenaLayout;

/** Any thread. */
export declare class ArenaReader {
  constructor(layout: ArenaLayout);
  readonly layout: ArenaLayout;
  /** The published meta unit (0 before the first publication); its pages stay until unpin. */
  pin(slot: number): UnitId;
  unpin(slot: number): void;
  /** For a dead thread. */
  static clearSlot(layout: ArenaLayout, slot: number): void;
  /** The published meta unit, unprotected: for the writer or under a pin. */
  published(): UnitId;
  stats(): ArenaStats;
}

/** The shard thread only. */
export declare class ArenaWriter extends ArenaReader {
  constructor(layout: ArenaLayout);
  /** Takes over after the old writer thread is dead. `mark` must report every page reachable from the meta unit. */
  static adopt(
    layout: ArenaLayout,
    walk: (arena: ArenaReader, metaUnit: UnitId, mark: (unit: UnitId, units: number) => void) => void,
  ): ArenaWriter;
  allocate(units: 1 | 2 | 4 | 8, options?: { reserve?: boolean }): UnitId;
  /** Frees after every reader that may see it has left. */
  retire(unit: UnitId): void;
  /** For pages that were never published. */
  free(unit: UnitId): void;
  publish(metaUnit: UnitId): void;
  reclaim(): void;
  freeUnits(includingReserve?: boolean): number;
  pinLong(): LongPin;
  unpinLong(pin: LongPin): void;
}
