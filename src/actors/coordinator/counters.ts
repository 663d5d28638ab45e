/** What the coordinator counts, on the board of metrics: one f64 each, written by its thread, read by any. They begin anew with a new thread. */

/** Index of each counter. */
export const CoordinatorCounter = {
  /** Transactions over several shards that were decided to be committed. */
  Decisions: 0,
  /** Refused, or given up because their client took too long. */
  Aborts: 1,
  Fences: 2,
  Syncs: 3,
  /** Frames of decisions. */
  Groups: 4,
  LogBytes: 5,
  /** Ids it keeps in mind. */
  Known: 6,
  /** Waiting transactions now. */
  Waiting: 7,
  /** Transactions that were ended because they waited for each other. */
  Deadlocks: 8,
  /** Times its thread came back from a pause for which it had parked: it was rung for, or something was due. */
  Wakeups: 9,
} as const;

export const COORDINATOR_COUNTERS = 16;
