/** What a shard answers when it refuses writes: made where it is needed, so that one cause has one text. Threads: the shard's thread only. */
import { ConcordError, type ErrorRecord } from '../../shared/errors.js';
import type { ArenaWriter } from '../../shared/memory/arena.js';

const UNIT_BYTES = 4096;

export function memoryFull(shard: number, arena: ArenaWriter): ConcordError {
  const capacityBytes = arena.stats().totalUnits * UNIT_BYTES;
  return new ConcordError('ERR_MEMORY_FULL', `shard ${shard}: its ${capacityBytes} bytes of memory are used up`, {
    shard,
    capacityBytes,
    freeBytes: arena.freeUnits() * UNIT_BYTES,
  });
}

/** `cause`: why it takes no writes any more. */
export function readOnly(shard: number, cause: ErrorRecord): ConcordError {
  const since = cause.code === 'ERR_SHARD_FAILED' ? '' : ' since its log failed';
  return new ConcordError('ERR_READ_ONLY', `shard ${shard} takes no writes${since}: ${cause.message}`, {
    shard,
    cause: cause.code,
  });
}

/**
 * Why a shard takes no writes that waits for outcomes which nobody can tell before the store is opened again. `isDown`: the coordinator; or else its log has
 * failed.
 */
export function coordinatorGone(shard: number, isDown: boolean): ErrorRecord {
  const reason = isDown ? 'the coordinator stays down' : 'the decision log has failed';
  return {
    code: 'ERR_SHARD_FAILED',
    message: `${reason}, and transactions that are prepared here wait for its decision; reopen the store`,
    details: { shard },
  };
}
