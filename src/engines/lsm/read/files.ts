/**
 * The files of the LSM-Trees of one shard, as one thread reads them: which are open, and the cache in front of them.
 *
 *   tables and blob files are opened when they are first read, and kept: FILES_OPEN_MAX of them, the one read longest ago goes first
 *   a file whose table is in no version that this thread can pin any more is closed by sweep(), which readers call when they meet a new version
 *
 * A file that is read without a pin (ColdReadError.load) is held by its user: it is closed when the last one lets go. Files never change, and no number
 * is given twice, so what is open is right for ever.
 *
 * Threads: any, one per thread and arena.
 */
import type { Env, EnvFile } from '../../../shared/env/env.js';
import { NodeEnv } from '../../../shared/env/node-env.js';
import { ConcordError } from '../../../shared/errors.js';
import type { ArenaReader, ColdLayout, UnitId } from '../../../shared/memory/arena.js';
import { toOwnerId } from '../../../shared/memory/lock-owner.js';
import { PageCache } from '../../../shared/memory/page-cache.js';
import { readEventsOf } from '../../cells/read-events.js';
import { BlobReader } from '../blob/blob-reader.js';
import { blobName, tableName, treeDirectoryName } from '../manifest/names.js';
import { BlockBuffer } from '../table/block.js';
import { BlockFile } from '../table/table-file.js';
import { blobsOf, readVersion } from '../memory/version-page.js';

const FILES_OPEN_MAX = 256;
/** Closed by one sweep: a close of a large file that is gone already gives its blocks back, which takes time. */
const CLOSES_PER_SWEEP = 4;
const WARM_BYTES = 1 << 20;
const PATHS_MAX = 4096;
/** Of blocks that were read without blocking: enough for the finds that wait at one time. */
const LOADED_BYTES_MAX = 4 << 20;
const TREE_NUMBERS = 2 ** 32;
/** Of the cache's memory: it is never used to the last byte. */
const FULL_SHARE = 0.8;
const MISSES_PER_LOOK = 1024;
const MISSED_BLOCK_BYTES = 1024;
const MISSED_SLOTS_MAX = 1 << 20;

interface OpenFile<Reader> {
  readonly reader: Reader;
  readonly number: number;
  readonly tree: number;
  /** Reads on their way that no pin protects. */
  users: number;
  /** No longer wanted: closed when the last user lets go. */
  isDropped: boolean;
}

export type OpenTable = OpenFile<BlockFile>;
export type OpenBlob = OpenFile<BlobReader>;

/**
 * What this thread met while it read one space: events since the thread began. Got by `reader.counters`, `cursor.counters` (all of a space share one
 * object) or LsmFiles.known(arena)?.counters(spaceId); plain numbers that only grow, for whoever adds up threads to look at now and then.
 */
export interface LsmReadCounters {
  /** Filters asked, and what they said. A false positive: the filter let a find through to a data block that had no such key. */
  filterChecks: number;
  filterNegatives: number;
  filterFalsePositives: number;
  /** Of any kind: data, index, filter. */
  blocksFromCache: number;
  blocksFromFile: number;
  bytesFromFile: number;
  blobReads: number;
  /** Reads that came back for want of a block. */
  coldReads: number;
  /** Tables that a scan passed over by their prefix filter. */
  prefixNegatives: number;
}

export function newReadCounters(): LsmReadCounters {
  return {
    filterChecks: 0,
    filterNegatives: 0,
    filterFalsePositives: 0,
    blocksFromCache: 0,
    blocksFromFile: 0,
    bytesFromFile: 0,
    blobReads: 0,
    coldReads: 0,
    prefixNegatives: 0,
  };
}

export class LsmFiles {
  static readonly #all = new WeakMap<ArenaReader, LsmFiles>();
  readonly cache: PageCache | undefined;
  /** Whether what this thread reads goes into the cache. */
  readonly inserts: boolean;
  readonly #arena: ArenaReader;
  readonly #env: Env;
  readonly #layout: ColdLayout;
  /** By tree and number, the one read last at the end. */
  readonly #tables = new Map<number, OpenTable>();
  readonly #blobs = new Map<number, OpenBlob>();
  readonly #counters = new Map<number, LsmReadCounters>();
  /** By tree: the version that was swept for. */
  readonly #swept = new Map<number, { version: UnitId; birth: number }>();
  /** Of blocks that were read once and not kept. */
  #missed = new Int32Array(0);
  #missesUntilLook = 0;
  #isCacheFull = false;
  readonly #paths = new Map<number, string>();
  /** The partition of a filter that was read last, of those that are in files. */
  readonly filterPart = { buffer: new BlockBuffer(0), cacheId: 0, offset: 0 };
  /** What ColdReadError.load() brought, the oldest first. */
  readonly #loaded = new Map<string, Uint8Array>();
  #loadedBytes = 0;
  readonly #loading = new Map<string, Promise<void>>();

  /** Of the arena's shard. owner: who inserts into the cache, 0 for nobody (see cacheOwnerOfSlot). Counts for the first call per arena object. */
  static of(arena: ArenaReader, owner: number): LsmFiles {
    const known = this.#all.get(arena);
    if (known !== undefined) return known;
    const { cold } = arena.layout;
    if (cold === undefined) {
      throw new ConcordError('ERR_CORRUPT', 'a space refers to tables in files, and the store has no directory');
    }
    return this.attach(arena, new NodeEnv(), cold, owner);
  }

  /** What of() would return if it was asked before. */
  static known(arena: ArenaReader): LsmFiles | undefined {
    return this.#all.get(arena);
  }

  /** The same with files on another Env, or with an owner of its own. */
  static attach(arena: ArenaReader, env: Env, layout: ColdLayout, owner: number): LsmFiles {
    const files = new LsmFiles(arena, env, layout, owner);
    this.#all.get(arena)?.close();
    this.#all.set(arena, files);
    return files;
  }

  private constructor(arena: ArenaReader, env: Env, layout: ColdLayout, owner: number) {
    this.#arena = arena;
    this.#env = env;
    this.#layout = layout;
    this.inserts = owner !== 0;
    // Reading takes no lock, so any id does.
    if (layout.cache !== undefined) this.cache = new PageCache(layout.cache, toOwnerId(owner === 0 ? 1 : owner));
  }

  get openFiles(): number {
    return this.#tables.size + this.#blobs.size;
  }

  /** Of this thread's reads of the space; lives as long as this object. */
  counters(spaceId: number): LsmReadCounters {
    let counters = this.#counters.get(spaceId);
    if (counters === undefined) {
      counters = readEventsOf(this.#arena, spaceId).tables ?? newReadCounters();
      this.#counters.set(spaceId, counters);
    }
    return counters;
  }

  /** Under a pin of a state that has the table. @throws ERR_IO */
  table(tree: number, number: number): OpenTable {
    return (
      this.#known(this.#tables, tree, number) ??
      this.#open(this.#tables, tree, number, tableName(number), (path, identity) =>
        BlockFile.open(this.#env, path, identity, number),
      )
    );
  }

  /** The same for one that table() has given before: nothing is looked up where that does not matter. */
  tableAgain(known: OpenTable | undefined, tree: number, number: number): OpenTable {
    return known !== undefined && !known.isDropped && !isCrowded(this.#tables) ? known : this.table(tree, number);
  }

  /** Under a pin of a state whose tables refer to the file. @throws ERR_IO */
  blob(tree: number, number: number): OpenBlob {
    return (
      this.#known(this.#blobs, tree, number) ??
      this.#open(this.#blobs, tree, number, blobName(number), (path, identity) =>
        BlobReader.open(this.#env, path, identity, number),
      )
    );
  }

  /**
   * Whether a block of entries that a point read brought should go into the cache. As long as there is room, all do. Then those that are read again before as many
   * others were: reads all over the place would put each block in for nothing, at half the price of reading it, and push better ones out.
   */
  isWorthKeeping(cacheId: number, offset: number): boolean {
    const { cache } = this;
    if (cache === undefined || !this.inserts) return false;
    if (this.#missesUntilLook-- === 0) {
      this.#missesUntilLook = MISSES_PER_LOOK;
      const { usedBytes, bytes } = cache.stats();
      this.#isCacheFull = usedBytes >= FULL_SHARE * bytes;
      if (this.#isCacheFull && this.#missed.length === 0) this.#missed = new Int32Array(missedSlots(bytes));
    }
    if (!this.#isCacheFull) return true;
    const missed = this.#missed;
    const tag = missTag(cacheId, offset);
    const slot = tag & (missed.length - 1);
    if (missed[slot] === tag) {
      missed[slot] = 0;
      return true;
    }
    missed[slot] = tag;
    return false;
  }

  /** For a read without a pin: the file stays open until letGo(). */
  hold<Reader extends { close(): void }>(file: OpenFile<Reader>): void {
    file.users++;
  }

  letGo<Reader extends { close(): void }>(file: OpenFile<Reader>): void {
    file.users--;
    if (file.users === 0 && file.isDropped) file.reader.close();
  }

  /** For messages. */
  tablePath(tree: number, number: number): string {
    const key = tree * TREE_NUMBERS + number;
    let path = this.#paths.get(key);
    if (path === undefined) {
      if (this.#paths.size >= PATHS_MAX) this.#paths.clear();
      path = `${this.#layout.directory}/${treeDirectoryName(tree)}/${tableName(number)}`;
      this.#paths.set(key, path);
    }
    return path;
  }

  /** Has the system read a range of a file, so that a read that follows need not wait for the disk. What fails here, fails there again. */
  async warm(path: string, offset: number, byteCount: number): Promise<void> {
    let file: EnvFile | undefined;
    try {
      file = this.#env.open(path, 'read');
      if (file.readAsync === undefined) return;
      const piece = new Uint8Array(Math.min(byteCount, WARM_BYTES));
      for (let done = 0; done < byteCount; done += piece.length) {
        const wanted = Math.min(piece.length, byteCount - done);
        if ((await file.readAsync(piece, 0, wanted, offset + done)) < wanted) return;
      }
    } catch {
      // Said by the read that follows.
    } finally {
      file?.close();
    }
  }

  /** What a load brought and nothing has pushed out yet. */
  loaded(key: string): Uint8Array | undefined {
    return this.#loadedBytes === 0 ? undefined : this.#loaded.get(key);
  }

  /** The same of a block of a table. */
  loadedBlock(cacheId: number, offset: number): Uint8Array | undefined {
    return this.#loadedBytes === 0 ? undefined : this.#loaded.get(loadedBlockKey(cacheId, offset));
  }

  /** Runs the load, or joins the one of the same key that is on its way. */
  load(key: string, read: () => Promise<Uint8Array | undefined>): Promise<void> {
    let loading = this.#loading.get(key);
    if (loading !== undefined) return loading;
    loading = this.#load(key, read).finally(() => {
      this.#loading.delete(key);
    });
    this.#loading.set(key, loading);
    return loading;
  }

  async #load(key: string, read: () => Promise<Uint8Array | undefined>): Promise<void> {
    const bytes = await read();
    if (bytes === undefined) return;
    const loaded = this.#loaded;
    this.#loadedBytes += bytes.length - (loaded.get(key)?.length ?? 0);
    loaded.delete(key);
    loaded.set(key, bytes);
    while (this.#loadedBytes > LOADED_BYTES_MAX && loaded.size > 1) {
      const [oldest, gone] = loaded.entries().next().value!;
      loaded.delete(oldest);
      this.#loadedBytes -= gone.length;
    }
  }

  /** Under a pin of the version: closes some of the files that it does not have. False: there may be more of them. */
  sweep(arena: ArenaReader, tree: number, version: UnitId, birth: number): boolean {
    const swept = this.#swept.get(tree);
    if (swept?.version === version && swept.birth === birth) return true;
    let rest = CLOSES_PER_SWEEP;
    rest = this.#sweep(this.#tables, tree, rest, () => readVersion(arena, version));
    rest = this.#sweep(this.#blobs, tree, rest, () => blobsOf(arena, version));
    if (rest === 0) return false;
    this.#swept.set(tree, { version, birth });
    return true;
  }

  /** All files of a tree that is gone, or of all trees. */
  close(tree?: number): void {
    for (const files of [this.#tables, this.#blobs]) {
      for (const [key, file] of files as Map<number, OpenFile<{ close(): void }>>) {
        if (tree !== undefined && file.tree !== tree) continue;
        files.delete(key);
        drop(file);
      }
    }
    if (tree === undefined) this.#swept.clear();
    else this.#swept.delete(tree);
  }

  #known<File>(files: Map<number, File>, tree: number, number: number): File | undefined {
    const key = tree * TREE_NUMBERS + number;
    const known = files.get(key);
    if (known !== undefined && isCrowded(files)) {
      files.delete(key);
      files.set(key, known);
    }
    return known;
  }

  #open<Reader extends { close(): void }>(
    files: Map<number, OpenFile<Reader>>,
    tree: number,
    number: number,
    name: string,
    open: (path: string, identity: { storeId: Uint8Array; shard: number; tree: number }) => Reader,
  ): OpenFile<Reader> {
    const key = tree * TREE_NUMBERS + number;
    const { directory, storeId, shard } = this.#layout;
    const path = `${directory}/${treeDirectoryName(tree)}/${name}`;
    const file = { reader: open(path, { storeId, shard, tree }), number, tree, users: 0, isDropped: false };
    if (files.size >= FILES_OPEN_MAX) {
      const [oldest, other] = files.entries().next().value!;
      files.delete(oldest);
      drop(other);
    }
    files.set(key, file);
    return file;
  }

  /** Returns how many more may be closed. */
  #sweep<Reader extends { close(): void }>(
    files: Map<number, OpenFile<Reader>>,
    tree: number,
    closesMax: number,
    read: () => { has(number: number): boolean } | undefined,
  ): number {
    if (closesMax === 0 || files.size === 0) return closesMax;
    let rest = closesMax;
    let live: { has(number: number): boolean } | undefined;
    for (const [key, file] of files) {
      if (file.tree !== tree) continue;
      live ??= read();
      if (live === undefined) return rest;
      if (live.has(file.number)) continue;
      if (rest === 0) return 0;
      rest--;
      files.delete(key);
      drop(file);
    }
    return rest;
  }
}

/** Only where one may have to go soon does it matter which was read last. */
function isCrowded(files: ReadonlyMap<number, unknown>): boolean {
  return 2 * files.size >= FILES_OPEN_MAX;
}

/** As many as there are blocks in the cache, about. */
function missedSlots(cacheBytes: number): number {
  return Math.min(MISSED_SLOTS_MAX, 2 ** Math.ceil(Math.log2(Math.max(64, cacheBytes / MISSED_BLOCK_BYTES))));
}

/** Never 0. */
function missTag(cacheId: number, offset: number): number {
  const hash = Math.imul(Math.imul(cacheId, 0x9e3779b1) ^ offset, 0x85ebca6b);
  return hash ^ (hash >>> 15) || 1;
}

/** Both have 30 bits and more: no number that is exact has room for them. */
export function loadedBlockKey(cacheId: number, offset: number): string {
  return `${cacheId}:${offset}`;
}

function drop<Reader extends { close(): void }>(file: OpenFile<Reader>): void {
  file.isDropped = true;
  if (file.users === 0) file.reader.close();
}
