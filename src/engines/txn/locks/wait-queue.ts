/**
 * Who waits for a key, in the order of comesBefore(), and how many of them are still to be looked at when something changes: so a lock that goes from one to the
 * next costs what is granted, not what waits.
 *
 * Invariants: never empty but while it is made; `idle` counts, by mode, the requests here whose wait is not about to be looked at (`isQueued`).
 * Threads: the shard's only.
 */
import type { LockWait, Point } from './lock.js';
import type { LockMode, LockModes } from './mode.js';

export class WaitQueue<T> {
  readonly points: Point<T>[] = [];
  /** Whether one owner waits here more than once, or somebody passes another: then not all who are behind one are held up by it. Stays until the queue ends. */
  isIrregular = false;
  readonly #idle: [number, number, number] = [0, 0, 0];

  /** How many requests of these modes are not about to be looked at. */
  idleOf(modes: LockModes): number {
    const [shared, update, exclusive] = this.#idle;
    return (modes & 1) * shared + ((modes >>> 1) & 1) * update + ((modes >>> 2) & 1) * exclusive;
  }

  /** The request is about to be looked at, or is not any more. */
  countIdle(mode: LockMode, by: 1 | -1): void {
    this.#idle[mode] += by;
  }

  /** How many come before the request, which need not be here. */
  countBefore(wait: LockWait<T>): number {
    const { points } = this;
    let low = 0;
    let high = points.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (comesBefore(points[middle]!.wait, wait)) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  indexOf(point: Point<T>): number {
    return this.points.indexOf(point, this.countBefore(point.wait));
  }

  add(point: Point<T>): void {
    const { points } = this;
    const { wait, mode } = point;
    const { owner } = wait;
    if (owner !== undefined && owner.waits.length > 1 && points.some((other) => other.wait.owner === owner))
      this.isIrregular = true;
    if (!wait.isQueued) this.countIdle(mode, 1);
    const index = this.countBefore(wait);
    if (index === points.length) points.push(point);
    else points.splice(index, 0, point);
  }

  /** Where it stood. */
  remove(point: Point<T>): number {
    const { points } = this;
    if (!point.wait.isQueued) this.countIdle(point.mode, -1);
    const index = this.indexOf(point);
    if (index === 0) points.shift();
    else points.splice(index, 1);
    return index;
  }
}

/** The order of waiters. */
export function comesBefore<T>(a: LockWait<T>, b: LockWait<T>): boolean {
  if (a.isUpgrade !== b.isUpgrade) return a.isUpgrade;
  if (a.priority !== b.priority) return a.priority > b.priority;
  if (a.age !== b.age) return a.age < b.age;
  return a.number < b.number;
}
