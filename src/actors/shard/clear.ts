/**
 * Clearing a range: cut into slices, each a group of its own, so that nobody waits for the whole of it.
 *
 *   an engine that remembers cleared ranges   one record; of a few entries their deletes, so that reads need not ask for the range, unless
 *                                             entries drop out of its files that the log still has
 *   an engine with order                      one range delete of a few hundred entries after another
 *   one without, or a space on its way        the deletes of a few hundred entries, in the engine's own order
 *   between two kinds
 *
 * Must hold: nothing of a slice is appended unless all of it fits into memory and frame. Threads: the shard's thread only.
 */
import { ConcordError } from '../../shared/errors.js';
import { engineOfCode } from '../../engines/engine.js';
import {
  CLEAR_HAS_HIGH,
  CLEAR_HAS_LOW,
  OPERATION_EXTENSION_BYTES,
  checkOperation,
  operationBytes,
  operationKeyAt,
  readKeyLength,
  readOperationSpace,
  readValueLength,
} from '../../engines/operation.js';
import type { DurabilityLevel, ShardStore } from '../../engines/store/shard-store.js';
import type { Space } from '../../engines/store/space-table.js';
import { memoryFull } from './refusals.js';

/** Entries one slice removes. */
const SLICE_ENTRIES = 512;

export interface ClearInProgress {
  readonly spaceId: number;
  low: Buffer | undefined;
  high: Buffer | undefined;
  /** Of an engine without order: where in its own the next slice begins. */
  position: Uint8Array | undefined;
  level: DurabilityLevel;
  /** A transaction has locked a part of what is left: when it began to wait, and when it looks again, on performance.now()'s clock; 0: none has. */
  blockedSinceMs: number;
  blockedUntilMs: number;
}

/** The Clear request's record, from `start` to `end`. @throws ERR_CORRUPT */
export function clearOf(bytes: Buffer, start: number, end: number, level: DurabilityLevel): ClearInProgress {
  checkOperation(bytes, start, end);
  const keyLength = readKeyLength(bytes, start);
  const keyStart = operationKeyAt(bytes, start);
  const flags = bytes[start + 1]!;
  const spaceId = readOperationSpace(bytes, start);
  const highStart = keyStart + keyLength;
  return {
    blockedSinceMs: 0,
    blockedUntilMs: 0,
    spaceId,
    position: undefined,
    low: flags & CLEAR_HAS_LOW ? Buffer.from(bytes.subarray(keyStart, highStart)) : undefined,
    high:
      flags & CLEAR_HAS_HIGH
        ? Buffer.from(bytes.subarray(highStart, highStart + readValueLength(bytes, start)))
        : undefined,
    level,
  };
}

/** Appends the next slice to the open group. True when it was the last. @throws ERR_MEMORY_FULL, ERR_CORRUPT, ERR_IO */
export function appendClear(shard: number, store: ShardStore, space: Space, clear: ClearInProgress): boolean {
  const { isOrdered, removesRangeAtOnce } = engineOfCode(space.engine.code);
  const atOnce = removesRangeAtOnce === true && space.engine.background !== undefined;
  const { building } = space;
  if (building === undefined && atOnce) return appendWhole(shard, store, space, clear);
  // One of the two would remember each slice, the other cannot do with one.
  const remembers = building !== undefined && (atOnce || building.engine.background !== undefined);
  return isOrdered && !remembers ? appendRange(shard, store, space, clear) : appendDeletes(shard, store, space, clear);
}

/**
 * For an engine that remembers the range: a few entries are deleted one by one, so that reads need not ask for it; more of them with one record, and those that
 * cannot be told.
 * @throws ERR_MEMORY_FULL
 */
function appendWhole(shard: number, store: ShardStore, space: Space, clear: ClearInProgress): true {
  const keys = space.engine.background?.dropsEntries === true ? undefined : entriesOf(store, space, clear);
  const recordBytes = keys?.reduce((sum, key) => sum + deleteBytes(key), 0) ?? 0;
  if (keys === undefined || !store.fits(recordBytes)) {
    const { low, high } = clear;
    if (!store.admits(space, 1, (low?.length ?? 0) + (high?.length ?? 0), 0, true))
      throw memoryFull(shard, store.arena);
    store.appendClear(clear.spaceId, low, high);
    return true;
  }
  const keyBytes = keys.reduce((sum, key) => sum + key.length, 0);
  if (keys.length > 0 && !store.admits(space, keys.length, keyBytes, 0, true)) throw memoryFull(shard, store.arena);
  for (const key of keys) store.appendDelete(clear.spaceId, key);
  return true;
}

/** The keys that are to be cleared. Undefined: more than a slice's, or they cannot be read. */
function entriesOf(store: ShardStore, space: Space, { low, high }: ClearInProgress): Buffer[] | undefined {
  const keys: Buffer[] = [];
  const cursor = store.spaces.cursorOf(space);
  try {
    cursor.seek(store.arena.published(), low, low?.length ?? 0, Infinity, false, 1);
    for (; cursor.valid; cursor.next()) {
      if (high !== undefined && cursor.compareKey(high, high.length) >= 0) break;
      if (keys.length === SLICE_ENTRIES) return undefined;
      const key = Buffer.allocUnsafe(cursor.keyLength);
      cursor.copyKey(key, 0);
      keys.push(key);
    }
    return keys;
  } catch (error) {
    // What is to be cleared need not be readable: one record covers it.
    if (error instanceof ConcordError && (error.code === 'ERR_CORRUPT' || error.code === 'ERR_IO')) return undefined;
    throw error;
  } finally {
    cursor.release();
  }
}

/** Appends one range delete of a few hundred entries. True when it is the last. @throws ERR_MEMORY_FULL */
function appendRange(shard: number, store: ShardStore, space: Space, clear: ClearInProgress): boolean {
  let entries = SLICE_ENTRIES;
  let slice = store.sliceFrom(space, clear.low, entries);
  // Tombstones hold the key, where a snapshot or a reader of the published state needs one.
  while (!store.admits(space, slice.entries, slice.keyBytes, 0, true)) {
    if (entries === 1) throw memoryFull(shard, store.arena);
    entries = Math.max(1, entries >> 2);
    slice = store.sliceFrom(space, clear.low, entries);
  }
  let { boundary } = slice;
  if (boundary === undefined || (clear.high !== undefined && boundary.compare(clear.high) >= 0)) boundary = clear.high;
  store.appendClear(clear.spaceId, clear.low, boundary);
  const isLast = boundary === clear.high;
  clear.low = boundary;
  return isLast;
}

/** The same one by one, for an engine without order: a few hundred deletes, in its own. */
function appendDeletes(shard: number, store: ShardStore, space: Space, clear: ClearInProgress): boolean {
  const { low, high } = clear;
  for (let versions = SLICE_ENTRIES; ; versions >>= 2) {
    const keys: Buffer[] = [];
    let last: Buffer | undefined;
    let isListed = false;
    const next = space.engine.visitVersions(
      clear.position,
      versions,
      (key, keyLength, _value, _valueLength, _seq, _expiresAt, isTombstone) => {
        const bytes = Buffer.from(key.subarray(0, keyLength));
        if ((low !== undefined && bytes.compare(low) < 0) || (high !== undefined && bytes.compare(high) >= 0)) return;
        // Versions of one key come together, the newest last.
        if (isListed && last?.equals(bytes) === true) keys.pop();
        last = bytes;
        isListed = !isTombstone;
        if (isListed) keys.push(bytes);
      },
    );
    const keyBytes = keys.reduce((sum, key) => sum + key.length, 0);
    const recordBytes = keys.reduce((sum, key) => sum + deleteBytes(key), 0);
    // Long keys: fewer of them go into one frame of the log.
    const fits = store.fits(recordBytes);
    if (!fits || (keys.length > 0 && !store.admits(space, keys.length, keyBytes, 0, true))) {
      if (versions > 1) continue;
      if (fits) throw memoryFull(shard, store.arena);
    }
    for (const key of keys) store.appendDelete(clear.spaceId, key);
    clear.position = next;
    return next === undefined;
  }
}

/** In the log: of a delete that the shard itself orders, at most. */
export function deleteBytes(key: Uint8Array): number {
  return operationBytes(key.length, 0, OPERATION_EXTENSION_BYTES);
}
