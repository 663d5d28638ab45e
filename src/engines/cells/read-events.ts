/**
 * What readers meet that costs them time: who counts it, per arena and space. Engines know nothing of who counts.
 * Threads: per thread, set before a reader of the space is opened.
 */
import type { ArenaReader } from '../../shared/memory/arena.js';
import type { LsmReadCounters } from '../lsm/read/files.js';

export interface ReadEvents {
  /** A read met only versions newer than the publication it began with, and began again with the newest. */
  retried(): void;
  /** A writer was in, and the reader waited for it. */
  waitedForLatch(forMs: number): void;
  /** Where reads of an LSM-Tree's tables are counted; left out: not. */
  readonly tables?: LsmReadCounters;
}

const NOBODY: ReadEvents = {
  retried() {
    // Not counted.
  },
  waitedForLatch() {
    // Not counted.
  },
};

const observers = new WeakMap<ArenaReader, Map<number, ReadEvents>>();

/** Readers of the space that are opened from here on tell of what they meet. */
export function observeReads(arena: ArenaReader, spaceId: number, events: ReadEvents): void {
  let spaces = observers.get(arena);
  if (spaces === undefined) observers.set(arena, (spaces = new Map<number, ReadEvents>()));
  spaces.set(spaceId, events);
}

export function forgetReads(arena: ArenaReader, spaceId: number): void {
  observers.get(arena)?.delete(spaceId);
}

export function readEventsOf(arena: ArenaReader, spaceId: number): ReadEvents {
  return observers.get(arena)?.get(spaceId) ?? NOBODY;
}
