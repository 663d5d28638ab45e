/** How requests for locks end without them. */
import { ConcordError } from '../../../shared/errors.js';
import type { LockOwner, LockWait } from './lock.js';

export function closedError(): ConcordError {
  return new ConcordError('ERR_TRANSACTION_CLOSED', 'the transaction ended while it waited for a lock');
}

export function timeoutError<T>(wait: LockWait<T>): ConcordError {
  const waitedMs = wait.deadlineMs - wait.sinceMs;
  const who = wait.owner === undefined ? 'a write' : `transaction ${wait.owner.id}`;
  const blocker = wait.found.find((owner) => !owner.isReleased)?.id ?? 0;
  return new ConcordError(
    'ERR_LOCK_TIMEOUT',
    `${who} waited ${Math.max(0, waitedMs)} ms for a lock${blocker === 0 ? '' : ` that transaction ${blocker} holds or wants before it`}`,
    { txn: wait.owner?.id ?? 0, waitsFor: blocker, waitedMs: Math.max(0, waitedMs) },
  );
}

export function diedError<T>(owner: LockOwner<T>, found: readonly LockOwner<T>[]): ConcordError {
  const blocker = found[0]?.id ?? 0;
  return new ConcordError(
    'ERR_DEADLOCK',
    `transaction ${owner.id} would wait for the senior transaction ${blocker}, which wait-die does not allow`,
    { txn: owner.id, policy: 'wait-die', waitsFor: blocker },
  );
}

export function woundedError<T>(owner: LockOwner<T>): ConcordError {
  return new ConcordError(
    'ERR_DEADLOCK',
    `transaction ${owner.id} lost its locks to the senior transaction ${owner.woundedBy} (wound-wait)`,
    { txn: owner.id, policy: 'wound-wait', woundedBy: owner.woundedBy },
  );
}

export function tooManyError<T>(owner: LockOwner<T>, limit: number): ConcordError {
  return new ConcordError(
    'ERR_TRANSACTION_TOO_LARGE',
    `transaction ${owner.id} holds ${owner.heldCount} locks in this shard, and may hold ${limit}`,
    { txn: owner.id, limitLocks: limit },
  );
}
