/**
 * The two ways to drive a store. Threads: the one that owns the session.
 */
import { Histogram } from './histogram.mjs';

/** Synchronous calls take well under a microsecond or two, so only one in 32 is timed. */
export const SAMPLE_EVERY = 32;

/** Calls operation(i) for i in [0, ops), timing a sample. */
export function syncLoop(ops, operation) {
  const histogram = new Histogram();
  const start = performance.now();
  for (let i = 0; i < ops;) {
    const before = performance.now();
    operation(i++);
    histogram.recordMs(performance.now() - before, SAMPLE_EVERY);
    for (const end = Math.min(i + SAMPLE_EVERY - 1, ops); i < end; i++) operation(i);
  }
  const seconds = (performance.now() - start) / 1000;
  return { ops, seconds, histograms: { read: histogram.counts } };
}

/**
 * A closed loop: `callers` async functions, each awaiting its own operation before it takes the next. operation(i) returns a
 * promise, or undefined if it was done at once (then it does its own timing); finished(i, result) runs when the promise has resolved.
 * isAwaited(i), if given, tells which is which beforehand, so that the clock is not read for nothing.
 */
export async function closedLoop(callers, ops, histogram, operation, finished, isAwaited = () => true) {
  let next = 0;
  const caller = async () => {
    while (next < ops) {
      const i = next++;
      const before = isAwaited(i) ? performance.now() : 0;
      const pending = operation(i);
      if (pending === undefined) continue;
      const result = await pending;
      histogram.recordMs(performance.now() - before);
      finished(i, result);
    }
  };
  const start = performance.now();
  const running = [];
  for (let i = 0; i < Math.min(callers, ops); i++) running.push(caller());
  await Promise.all(running);
  return (performance.now() - start) / 1000;
}
