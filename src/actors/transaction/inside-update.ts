/**
 * Whether a call is made by the change function of an update() that is under way: another update() of the same transaction, or its commit(), would wait for that
 * one, which waits for the call.
 *
 *   plain functions    while they are on the stack; what they leave to callbacks is not told from other flows
 *   async functions    to their end, by the asynchronous context
 *
 * The context costs every promise of the thread a little while it is on (three microseconds to turn it on, until Node 24), so it is on for as long as an async
 * change function runs, and for these alone. A flow that such a function has left behind is not inside any more when the function has ended.
 * Threads: each for itself.
 */
import { AsyncLocalStorage } from 'node:async_hooks';
import type { TransactionCore } from './core.js';

interface Change {
  readonly core: TransactionCore;
  /** The change function that has led to this one, maybe by another transaction. */
  readonly outer: Change | undefined;
  isOver: boolean;
}

const AsyncFunction = (async () => Promise.resolve()).constructor;
const context = new AsyncLocalStorage<Change>();
/** Async change functions that have not ended. */
let running = 0;
/** On the stack. */
let current: Change | undefined;

function innermost(): Change | undefined {
  return current ?? (running > 0 ? context.getStore() : undefined);
}

export function isInsideUpdate(core: TransactionCore): boolean {
  for (let change = innermost(); change !== undefined; change = change.outer) {
    if (change.core === core && !change.isOver) return true;
  }
  return false;
}

/** Calls the change function of an update of the transaction. */
export function callChange<T>(core: TransactionCore, change: (value: T) => T | Promise<T>, value: T): T | Promise<T> {
  const entered: Change = { core, outer: innermost(), isOver: false };
  if (change instanceof AsyncFunction) return callAsync(entered, change as (value: T) => Promise<T>, value);
  const before = current;
  current = entered;
  try {
    return change(value);
  } finally {
    current = before;
    entered.isOver = true;
  }
}

function callAsync<T>(entered: Change, change: (value: T) => Promise<T>, value: T): Promise<T> {
  const before = current;
  // What it calls at once is found by its context, as what it calls later.
  current = undefined;
  running++;
  // An async function does not throw.
  const changed = context.run(entered, change, value);
  current = before;
  return changed.finally(() => {
    entered.isOver = true;
    if (--running === 0) context.disable();
  });
}
