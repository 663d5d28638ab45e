/** Waiting requests by deadline: a binary heap. Those that ended stay until their time, or until they are most of it. Threads: the shard's only. */
import type { LockWait } from './lock.js';

export class DeadlineHeap<T> {
  #waits: LockWait<T>[] = [];
  /** Compacted when it has grown to this. */
  #compactAt = 1024;

  get firstMs(): number {
    return this.#waits.length === 0 ? Infinity : this.#waits[0]!.deadlineMs;
  }

  add(wait: LockWait<T>): void {
    if (this.#waits.length >= this.#compactAt) this.#compact();
    this.#rise(wait);
  }

  /** The next whose deadline has passed. */
  take(nowMs: number): LockWait<T> | undefined {
    const first = this.#waits[0];
    if (first === undefined || first.deadlineMs > nowMs) return undefined;
    const last = this.#waits.pop()!;
    if (this.#waits.length > 0) this.#sink(last);
    return first;
  }

  #compact(): void {
    const seated = this.#waits.filter((wait) => wait.isSeated);
    // Sorted is a heap.
    seated.sort((a, b) => a.deadlineMs - b.deadlineMs);
    this.#waits = seated;
    this.#compactAt = Math.max(1024, seated.length * 2);
  }

  #rise(wait: LockWait<T>): void {
    const waits = this.#waits;
    let at = waits.length;
    waits.push(wait);
    while (at > 0) {
      const parent = (at - 1) >>> 1;
      const above = waits[parent]!;
      if (above.deadlineMs <= wait.deadlineMs) break;
      waits[at] = above;
      at = parent;
    }
    waits[at] = wait;
  }

  #sink(wait: LockWait<T>): void {
    const waits = this.#waits;
    const count = waits.length;
    let at = 0;
    for (;;) {
      let child = at * 2 + 1;
      if (child >= count) break;
      if (child + 1 < count && waits[child + 1]!.deadlineMs < waits[child]!.deadlineMs) child++;
      const below = waits[child]!;
      if (below.deadlineMs >= wait.deadlineMs) break;
      waits[at] = below;
      at = child;
    }
    waits[at] = wait;
  }
}
