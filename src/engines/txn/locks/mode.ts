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
