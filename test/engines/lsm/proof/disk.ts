/** A shard in an LSM-Tree as another process finds it on a disk: opened, read, worked on, without what the one before had in memory. */
import { createPageCache } from '../../../../dist/shared/memory/page-cache.js';
import { coldLayout } from '../../../../dist/engines/btree/paged/paging.js';
import type { LsmTuning } from '../../../../dist/engines/lsm/options.js';
import { LsmFiles } from '../../../../dist/engines/lsm/read/files.js';
import { verifyTree } from '../../../../dist/engines/lsm/manifest/verify.js';
import type { LsmWriter } from '../../../../dist/engines/lsm/writer.js';
import { engineNamed } from '../../../../dist/engines/engine.js';
import type { ShardStoreOptions } from '../../../../dist/engines/store/options.js';
import { ShardStore } from '../../../../dist/engines/store/shard-store.js';
import type { Env } from '../../../../dist/shared/env/env.js';
import { ArenaReader, createArena } from '../../../../dist/shared/memory/arena.js';
import { DIRECTORY, SEGMENT_BYTES, SHARD, STORE_ID } from '../../../support/store-scene.js';

const MEMORY_BYTES = 4 << 20;
const CACHE_BYTES = 256 << 10;
const CACHE_OWNER = 7;
const READER_SLOT = 1;
const NO_SNAPSHOTS = new Float64Array(0);

export class FoundDisk {
  readonly store: ShardStore;
  readonly env: Env;
  readonly #view: ArenaReader;

  /** @throws what a recovery throws */
  constructor(env: Env, tuning: LsmTuning, options: Partial<ShardStoreOptions> = {}) {
    this.env = env;
    const arena = createArena({ memoryBytes: MEMORY_BYTES });
    const cold = coldLayout(DIRECTORY, STORE_ID, SHARD, createPageCache({ bytes: CACHE_BYTES }));
    const layout = { ...arena, cold };
    this.store = ShardStore.open({
      env,
      directory: DIRECTORY,
      storeId: STORE_ID,
      shard: SHARD,
      arena: layout,
      segmentBytes: SEGMENT_BYTES,
      spaces: [{ id: 0, engine: 'lsm', tuning: { lsm: tuning } }],
      ...options,
    });
    this.#view = new ArenaReader(layout);
    LsmFiles.attach(this.#view, env, cold, CACHE_OWNER);
  }

  get writer(): LsmWriter {
    return this.store.spaces.require(0).engine as LsmWriter;
  }

  /** Lines "key seq value". @throws what a read of damaged files throws */
  scan(atMs: number): string[] {
    const cursor = engineNamed('lsm').openCursor(this.#view, this.writer.row, 0, READER_SLOT);
    const metaUnit = this.#view.pin(READER_SLOT);
    const lines: string[] = [];
    try {
      cursor.setRange(undefined, undefined);
      for (cursor.seek(metaUnit, undefined, 0, Infinity, false, atMs); cursor.valid; cursor.next()) {
        const key = Buffer.alloc(cursor.keyLength);
        cursor.copyKey(key, 0);
        lines.push(`${key.toString()} ${cursor.seq} ${cursor.copyValue().toString()}`);
      }
    } finally {
      cursor.release();
      this.#view.unpin(READER_SLOT);
    }
    return lines;
  }

  /** Undefined: absent. @throws what a read of damaged files throws */
  get(key: string, atMs: number): string | undefined {
    const reader = engineNamed('lsm').openReader(this.#view, this.writer.row, 0, READER_SLOT);
    const bytes = Buffer.from(key);
    const metaUnit = this.#view.pin(READER_SLOT);
    try {
      return reader.find(metaUnit, bytes, bytes.length, Infinity, atMs) ? reader.copyValue().toString() : undefined;
    } finally {
      reader.release();
      this.#view.unpin(READER_SLOT);
    }
  }

  /** What flushes and compactions are due, until there are none. */
  settle(nowMs: number): void {
    const { store } = this;
    for (let round = 0; round < 2000; round++) {
      store.setSnapshots(NO_SNAPSHOTS, 0);
      store.work(nowMs);
      if (!store.hasWork) return;
    }
    throw new Error('there is no end of work');
  }

  /** What is wrong with the files of the tree; empty: nothing. withOrphans: files that nobody names count. */
  verify(withOrphans: boolean): string[] {
    const { tree } = this.writer;
    if (tree === 0) return [];
    const identity = { storeId: STORE_ID, shard: SHARD, tree };
    const { problems, orphans } = verifyTree(this.env, `${DIRECTORY}/lsm-${tree}`, identity);
    const found = problems.map(({ message }) => message);
    return withOrphans ? [...found, ...orphans.map((name) => `nobody names ${name}`)] : found;
  }

  close(): void {
    this.store.close();
  }
}
