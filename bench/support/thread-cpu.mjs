/**
 * CPU time of threads, where the system tells it (Linux): what a load costs, apart from who else used the machine meanwhile.
 * Threads: any.
 */
import { readFileSync, readdirSync } from 'node:fs';

/** Nanoseconds on a core so far, of the first number of a schedstat file; undefined where there is none. */
function runNs(path) {
  try {
    return Number(readFileSync(path, 'latin1').split(' ')[0]);
  } catch {
    return undefined;
  }
}

/** CPU time of the calling thread, ms; undefined where it is not told. */
export function ownCpuMs() {
  const ns = runNs('/proc/thread-self/schedstat');
  return ns === undefined ? undefined : ns / 1e6;
}

/** Of all threads of the process: thread id → ms. */
export function cpuMsOfThreads() {
  let ids = [];
  try {
    ids = readdirSync('/proc/self/task');
  } catch {
    // Another system.
  }
  return new Map(ids.map((id) => [id, (runNs(`/proc/self/task/${id}/schedstat`) ?? 0) / 1e6]));
}

/** The id of the calling thread as cpuMsOfThreads() names it; undefined where there is none. */
export function ownThreadId() {
  try {
    return /^Pid:\s+(\d+)$/m.exec(readFileSync('/proc/thread-self/status', 'latin1'))?.[1];
  } catch {
    return undefined;
  }
}
