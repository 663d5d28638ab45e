/** Chains of pages for large values: signatures. */
import type { ArenaWriter, UnitId } from '../../shared/memory/arena.js';

export interface OverflowChain {
  readonly firstUnit: UnitId;
  readonly totalBytes: number;
}

/** Shard thread only; several may be open at once. */
export declare class OverflowWriter {
  constructor(arena: ArenaWriter);
  begin(totalBytes: number): void;
  append(bytes: Uint8Array, start: number, length: number): void;
  finish(): OverflowChain;
  abort(): void;
}
