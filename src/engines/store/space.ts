/**
 * What a shard is told of a space: plain data that travels between threads. The manifest of the store is the truth about spaces; shards follow it.
 * Threads: any.
 */
import type { EngineTuning } from '../engine.js';

export interface SpaceDefinition {
  /** 0: the default space. Never used twice. */
  readonly id: number;
  /** A name of engines/engine.ts's table. */
  readonly engine: string;
  readonly tuning: EngineTuning;
}

/** How far a shard is with moving a space to another engine, in versions. `total` is an estimate: writes go on. */
export interface SwitchProgress {
  readonly copied: number;
  readonly total: number;
}
