/**
 * What is prepared in a store that is read and never coordinated (a read-only opening, tools): it is applied in memory if it is decided, so that nobody sees
 * a part of a transaction; else it stays what it is, unseen. Threads: the shard's, before anybody reads.
 */
import type { ShardStore } from './shard-store.js';

export interface SettledTransactions {
  /** Those that were prepared and decided: they are applied. */
  readonly applied: number;
  /** Those that nobody has decided: they are given up. */
  readonly givenUp: number;
}

/**
 * Its numbers are above all that the store has published. Nothing is logged.
 * @throws ERR_CORRUPT, ERR_IO, ERR_MEMORY_FULL: a page that is changed cannot be read
 */
export function settlePrepared(store: ShardStore, isDecided: (id: number) => boolean): SettledTransactions {
  const ids = Array.from(store.prepared.all, ({ id }) => id).sort((a, b) => a - b);
  let number = store.publishedSeq;
  let givenUp = 0;
  for (const id of ids) {
    if (isDecided(id)) store.addResolve(id, ++number);
    else {
      store.addResolve(id, 0);
      givenUp++;
    }
  }
  if (ids.length > 0) store.commitUnlogged(number + 1, () => undefined);
  return { applied: ids.length - givenUp, givenUp };
}
