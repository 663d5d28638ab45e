/** Locks as others see them: structured-cloneable. */
import { LOCK_MODE_NAMES, type LockMode, type LockModeName } from './mode.js';

/** A key; or, without it, the range [low, high), open where undefined. */
export interface LockDescription {
  readonly space: number;
  readonly key?: Uint8Array;
  readonly low?: Uint8Array;
  readonly high?: Uint8Array;
  readonly mode: LockModeName;
}

export interface AwaitedLock extends LockDescription {
  readonly sinceMs: number;
  readonly waitsFor: readonly number[];
}

export interface LockHolder {
  readonly txn: number;
  readonly client: number;
  readonly priority: number;
  readonly age: number;
  readonly isPrepared: boolean;
  readonly isWounded: boolean;
  readonly heldCount: number;
  /** As many as were asked for. */
  readonly held: readonly LockDescription[];
  readonly awaited: readonly AwaitedLock[];
}

export function describeKey(
  space: number,
  mode: LockMode,
  bytes: Uint8Array,
  start: number,
  length: number,
): LockDescription {
  return { space, key: Uint8Array.from(bytes.subarray(start, start + length)), mode: LOCK_MODE_NAMES[mode]! };
}

/** Bytes of ranges are never changed, so these are not copied. */
export function describeRange(
  space: number,
  mode: LockMode,
  low: Uint8Array,
  high: Uint8Array | undefined,
): LockDescription {
  const name = LOCK_MODE_NAMES[mode]!;
  return { space, mode: name, ...(low.length > 0 && { low }), ...(high !== undefined && { high }) };
}
