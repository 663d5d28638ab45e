/**
 * The simulation's clock in place of the machine's, and its scheduler in place of whatever blocks: Atomics.wait() lets other threads run. In force for the
 * time of one call.
 */

/** 2026-01-01, so that times look like times. */
const START_MS = Date.UTC(2026, 0, 1);

export class SimClock {
  /** As performance.now(). */
  nowMs = 1;
}

/** `blocked`: called by a thread that would wait; others may run. */
export async function withClock<T>(clock: SimClock, blocked: () => void, run: () => Promise<T>): Promise<T> {
  const { now: dateNow } = Date;
  const { wait } = Atomics;
  Date.now = () => START_MS + Math.floor(clock.nowMs);
  Object.defineProperty(performance, 'now', { configurable: true, value: () => clock.nowMs });
  Atomics.wait = ((): 'timed-out' => {
    blocked();
    return 'timed-out';
  }) as typeof Atomics.wait;
  try {
    return await run();
  } finally {
    Date.now = dateNow;
    Atomics.wait = wait;
    // What is below it shows again.
    Reflect.deleteProperty(performance, 'now');
  }
}
