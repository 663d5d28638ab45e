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
 * promise; finished(i, result) runs when it has resolved.
 */
export async function closedLoop(callers, ops, histogram, operation, finished) {
  let next = 0;
  const caller = async () => {
    while (next < ops) {
      const i = next++;
      const before = performance.now();
      const result = await operation(i);
      histogram.recordMs(performance.now() - before);
      finished(i, result);
    }
  };
  return allCallers(callers, ops, caller);
}

/**
 * The same where many operations are done at once: then operation(i) returns undefined and does its own timing, and isAwaited(i) tells beforehand,
 * so that the clock is not read for nothing. finished(i, next): `next` is the first operation that has not begun.
 */
export async function mixedLoop(callers, ops, histogram, operation, finished, isAwaited) {
  let next = 0;
  const caller = async () => {
    while (next < ops) {
      const i = next++;
      const before = isAwaited(i) ? performance.now() : 0;
      const pending = operation(i);
      if (pending === undefined) continue;
      await pending;
      histogram.recordMs(performance.now() - before);
      finished(i, next);
    }
  };
  return allCallers(callers, ops, caller);
}

async function allCallers(callers, ops, caller) {
  const start = performance.now();
  const running = [];
  for (let i = 0; i < Math.min(callers, ops); i++) running.push(caller());
  await Promise.all(running);
  return (performance.now() - start) / 1000;
}
