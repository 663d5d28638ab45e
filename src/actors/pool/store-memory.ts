/**
 * The shared memory of a store that is open: an arena for each shard, the page cache that all have in common, and what a store without files keeps in the
 * place of files. It outlives the threads that use it.
 *
 * Threads: made by the host; the parts go to the shards' threads, the background pool and the clients.
 */
import { ArenaReader, createArena, type ArenaLayout } from '../../shared/memory/arena.js';
import { toOwnerId } from '../../shared/memory/lock-owner.js';
import {
  PageCache,
  createPageCache,
  type PageCacheLayout,
  type PageCacheStats,
} from '../../shared/memory/page-cache.js';
import { cacheOwnerOfSlot } from '../../engines/btree/paged/cold-pages.js';
import { coldLayout } from '../../engines/btree/paged/paging.js';
import { clearWatcher, createFrameRing } from '../../engines/feed/frame-ring.js';
import { createRateLimit } from '../../engines/lsm/compaction/rate-limit.js';
import { createPrepareJournal } from '../../engines/store/prepare-journal.js';
import { PREPARED_MAX } from '../../engines/store/prepared.js';
import type { SpaceDefinition } from '../../engines/store/space.js';
import { shardDirectory, type Manifest } from './manifest.js';
import type { ResolvedOptions } from './options.js';

const PAGE_CACHE_BYTES_MAX = 2 ** 35;
/** Of one transaction in one shard of a store without a directory: no group there is larger. */
const MEMORY_TRANSACTION_BYTES_MAX = 64 << 20;

export class StoreMemory {
  /** By shard. */
  readonly arenas: readonly ArenaLayout[];
  /** Of a store without a directory, by shard: what change feeds read. */
  readonly feedRings: readonly SharedArrayBuffer[] = [];
  /** Of a store without a directory and more than one shard, by shard: what each has prepared. */
  readonly prepareJournals: readonly SharedArrayBuffer[] = [];
  /** Of what flushes and compactions write. */
  readonly rate: SharedArrayBuffer;
  /** Of pages in files, for all threads and shards. */
  readonly #pageCache: PageCacheLayout | undefined;

  /** `directory` undefined: nothing is kept on disk. */
  constructor(
    directory: string | undefined,
    { shards, storeId }: Manifest,
    spaces: readonly SpaceDefinition[],
    options: ResolvedOptions,
  ) {
    const { memoryBytes, blockCacheBytes, transactionBytesMax, backgroundBytesPerSecond, readOnly } = options;
    this.rate = createRateLimit(backgroundBytesPerSecond);
    if (directory === undefined) {
      this.arenas = perShard(shards, () => createArena({ memoryBytes }));
      this.feedRings = perShard(shards, () => createFrameRing());
      const bodyBytesMax = Math.min(transactionBytesMax, MEMORY_TRANSACTION_BYTES_MAX);
      if (!readOnly && shards > 1)
        this.prepareJournals = perShard(shards, () => createPrepareJournal(bodyBytesMax, PREPARED_MAX));
      return;
    }
    const cache = createPageCache({ bytes: Math.max(pageCacheBytes(spaces, shards), blockCacheBytes) });
    this.#pageCache = cache;
    const id = Buffer.from(storeId, 'hex');
    this.arenas = perShard(shards, (shard) => {
      const cold = coldLayout(shardDirectory(directory, shard), id, shard, cache);
      return { ...createArena({ memoryBytes }), cold };
    });
  }

  /** What a client's thread that is gone may have pinned, locked or watched. */
  clearClient(client: number): void {
    for (const arena of this.arenas) ArenaReader.clearSlot(arena, client);
    for (const ring of this.feedRings) clearWatcher(ring, client);
    if (this.#pageCache !== undefined) PageCache.recover(this.#pageCache, toOwnerId(cacheOwnerOfSlot(client)));
  }

  /** Of pages read from files by all threads; undefined for a store without files. */
  pageCacheStats(): PageCacheStats | undefined {
    return this.#pageCache === undefined ? undefined : new PageCache(this.#pageCache, toOwnerId(1)).stats();
  }
}

function perShard<T>(shards: number, make: (shard: number) => T): T[] {
  return Array.from({ length: shards }, (_, shard) => make(shard));
}

/** Half of what B+Trees may take of pages that are in files; the other half is the shards' (Pager). Address space until such pages are read. */
function pageCacheBytes(spaces: readonly SpaceDefinition[], shards: number): number {
  const budgets = spaces.reduce((sum, { tuning }) => sum + (tuning.budgetBytes ?? 0), 0);
  return Math.min(PAGE_CACHE_BYTES_MAX, (shards * budgets) / 2);
}
