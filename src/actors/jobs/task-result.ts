/** What a task of the background pool ends with: a failure is a record, because structured clone drops codes. Threads: any; no state. */
import { toErrorRecord, type ErrorRecord } from '../../shared/errors.js';

export type TaskResult<T> = { readonly value: T } | { readonly error: ErrorRecord };

export async function attempt<T>(work: () => T | Promise<T>): Promise<TaskResult<T>> {
  try {
    return { value: await work() };
  } catch (error) {
    return { error: toErrorRecord(error) };
  }
}
