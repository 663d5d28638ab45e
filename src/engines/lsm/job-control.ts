/** Small parts that flushes and compactions share. Threads: the shard's thread. */

/** A failed job is tried again after this, and later each time. */
const RETRY_MS_MIN = 100;
const RETRY_MS_MAX = 10_000;

export function retryMs(attempts: number): number {
  return Math.min(RETRY_MS_MAX, RETRY_MS_MIN * 2 ** Math.min(20, attempts - 1));
}

/** Tells the job to stop; one that waits for its turn of background I/O is woken. */
export function cancelJob(cancel: Int32Array): void {
  Atomics.store(cancel, 0, 1);
  Atomics.notify(cancel, 0);
}
