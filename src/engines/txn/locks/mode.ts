/** How a key or a range is locked. Ranges know shared and exclusive only. */
export const LockMode = { Shared: 0, Update: 1, Exclusive: 2 } as const;
export type LockMode = (typeof LockMode)[keyof typeof LockMode];
export type LockModeName = 'shared' | 'update' | 'exclusive';

/** By mode. */
export const LOCK_MODE_NAMES: readonly LockModeName[] = ['shared', 'update', 'exclusive'];

/** Whether locks of these modes conflict when they belong to different owners. */
export function modesConflict(a: LockMode, b: LockMode): boolean {
  return a + b >= 2;
}

/** A set of modes: bits 1 << mode. */
export type LockModes = number;

/** By mode: those that conflict with it. */
export const CONFLICTING_MODES: readonly LockModes[] = [0b100, 0b110, 0b111];

/** By mode: those that conflict with it, and with nothing else than what conflicts with it. */
export const ENCLOSED_MODES: readonly LockModes[] = [0b000, 0b010, 0b111];

export function isIn(modes: LockModes, mode: LockMode): boolean {
  return ((modes >>> mode) & 1) === 1;
}
