/** A tree with a page file on an Env, and the model of the B+Tree's tests beside it; checkpoints in memory, and both ways to go on after an end. */
import { BTreeCursor } from '../../../dist/engines/btree/cursor.js';
import { loadImage, writeImage } from '../../../dist/engines/btree/image.js';
import { markTrees, publishTrees } from '../../../dist/engines/btree/meta.js';
import { ColdPages, cacheOwnerOfSlot } from '../../../dist/engines/btree/paged/cold-pages.js';
import {
  attachPaging,
  capturePaged,
  coldLayout,
  confirmPaged,
  finishPagedLoad,
  loadPagedRoot,
  pagedRootChunk,
  preparePaged,
  syncPaged,
} from '../../../dist/engines/btree/paged/paging.js';
import type { PagedRoot } from '../../../dist/engines/btree/paged/format.js';
import { BTreeReader } from '../../../dist/engines/btree/reader.js';
import { BTreeWriter, type BTreeOptions } from '../../../dist/engines/btree/writer.js';
import { ArenaReader, ArenaWriter, createArena, type ArenaLayout } from '../../../dist/shared/memory/arena.js';
import { createPageCache, type PageCacheLayout } from '../../../dist/shared/memory/page-cache.js';
import type { Env } from '../../../dist/shared/env/env.js';
import { MemEnv } from '../../../dist/shared/env/mem-env.js';
import { Scene } from '../btree/support.js';
import { STORE_ID } from '../wal/wal-scene.js';
import { expect } from '../../support/expect.js';

export const DIRECTORY = '/store/shard-000';

export interface PagedOptions extends BTreeOptions {
  readonly env?: Env;
  readonly memoryBytes?: number;
  readonly cacheBytes?: number;
}

/** What a checkpoint file would hold. */
export interface SavedCheckpoint {
  readonly image: Uint8Array[];
  readonly roots: Uint8Array[];
}

export class PagedScene extends Scene {
  env: Env;
  layout!: ArenaLayout;
  readonly options: PagedOptions;
  readonly cache: PageCacheLayout | undefined;
  checkpointed: SavedCheckpoint | undefined;

  constructor(options: PagedOptions) {
    super({}, 1 << 20);
    this.options = options;
    this.env = options.env ?? new MemEnv();
    this.env.makeDirectory(DIRECTORY);
    for (const directory of ['/', '/store']) this.env.syncDirectory(directory);
    this.cache = options.cacheBytes === undefined ? undefined : createPageCache({ bytes: options.cacheBytes });
    this.#begin();
    this.#open();
    this.publish();
  }

  #begin(): void {
    this.layout = {
      ...createArena({ memoryBytes: this.options.memoryBytes ?? 16 << 20 }),
      cold: coldLayout(DIRECTORY, STORE_ID, 0, this.cache),
    };
    this.arena = new ArenaWriter(this.layout);
    attachPaging(this.arena, this.env, this.layout.cold!, false);
  }

  #open(): void {
    const { order, pageBytes, budgetBytes } = this.options;
    this.tree = new BTreeWriter(this.arena, 0, {
      ...(order === undefined ? {} : { order }),
      ...(pageBytes === undefined ? {} : { pageBytes }),
      ...(budgetBytes === undefined ? {} : { budgetBytes }),
    });
    this.reader = new ArenaReader(this.layout);
    ColdPages.attach(this.reader, this.env, this.layout.cold!, cacheOwnerOfSlot(0));
    this.find = new BTreeReader(this.reader, 0, 0, 0);
    this.cursor = new BTreeCursor(this.reader, 0, 0, 0);
    this.setSnapshots();
  }

  override publish(): void {
    super.publish();
    this.tree.endGroup();
    this.arena.reclaim();
  }

  /** Bytes of memory that the tree's pages and chains take. */
  get residentBytes(): number {
    const { coldBytes, ...resident } = this.tree.memory();
    expect(coldBytes).toBeGreaterThanOrEqual(0);
    return Object.values(resident).reduce((sum, bytes) => sum + bytes, 0);
  }

  get coldBytes(): number {
    return this.tree.memory()['coldBytes']!;
  }

  /** As a store makes one; `isDurable` false: the job fails at its end. */
  checkpoint(isDurable = true): SavedCheckpoint {
    preparePaged(this.arena);
    this.publish();
    const pin = this.arena.pinLong();
    const roots = capturePaged(this.arena, () => true);
    const image: Uint8Array[] = [];
    writeImage(new ArenaReader(this.layout), pin.metaUnit, (chunk) => image.push(chunk.slice()));
    syncPaged(this.env, DIRECTORY, roots);
    const saved = { image, roots: roots.map((root: PagedRoot) => pagedRootChunk(root)) };
    this.arena.unpinLong(pin);
    if (isDurable) {
      confirmPaged(this.arena, roots);
      this.checkpointed = saved;
    }
    return saved;
  }

  /** Everything in memory is gone; what the checkpoint holds is opened on that Env. */
  reopen(env: Env = this.env, saved = this.checkpointed): void {
    this.env = env;
    this.#begin();
    if (saved === undefined) {
      this.#open();
    } else {
      const chunks = [...saved.image];
      loadImage(this.arena, () => chunks.shift());
      this.#open();
      for (const chunk of saved.roots) loadPagedRoot(this.arena, chunk);
    }
    finishPagedLoad(this.arena);
    publishTrees(this.arena, this.seq);
    this.publish();
  }

  /** The writer's thread is gone with everything it had not published; another one takes over. */
  adopt(): void {
    this.arena = ArenaWriter.adopt(this.layout, markTrees);
    attachPaging(this.arena, this.env, this.layout.cold!, false);
    this.#open();
    this.arena.reclaim();
  }
}
