/**
 * What the paged trees of one shard share: where their files are, and what a store does with all of them around a checkpoint.
 *
 *   open        attachPaging() · image and root chunks of the checkpoint: loadPagedRoot() for each · finishPagedLoad()
 *   checkpoint  shard: writePaged() in slices, preparePaged(), publish, pin, capturePaged()   job: syncPaged(), pagedRootChunk() for each   shard: confirmPaged()
 *   close       closePaged()
 *
 * Threads: the shard's thread only, except syncPaged() and pagedRootChunk(): any.
 */
import { ConcordError } from '../../../shared/errors.js';
import type { Env } from '../../../shared/env/env.js';
import { FILE_NUMBER_WORDS, type ArenaWriter, type ColdLayout } from '../../../shared/memory/arena.js';
import type { PageCache, PageCacheLayout } from '../../../shared/memory/page-cache.js';
import { spaceIdOfTag } from '../../engine.js';
import { ColdPages, cacheOwnerOfShard } from './cold-pages.js';
import { decodeRoot, encodeRoot, type PagedRoot } from './format.js';
import { removePageFiles, syncPageFile } from './page-file.js';
import type { Pager } from './pager.js';

export { isRootChunk } from './format.js';

/** A tree that may be paged, as this file sees it. */
export interface PageableTree {
  readonly tag: number;
  readonly isAwaitingRoot: boolean;
  readonly pager: Pager | undefined;
  loadRoot(root: PagedRoot): void;
  /** Writes dirty leaves; true when it came to the end. */
  writeDirty(pagesMax: number): boolean;
  /** Changes what a capture could not write as it is. The caller publishes. */
  prepareCapture(): void;
  capture(): { readonly root: PagedRoot; readonly generation: number } | undefined;
}

export interface Paging {
  readonly env: Env;
  readonly directory: string;
  readonly shard: number;
  readonly identity: { readonly storeId: Uint8Array; readonly shard: number };
  readonly cache: PageCache | undefined;
  /** Word 0: the last number given to a file. Shared by the writers that follow one another. */
  readonly fileNumbers: Int32Array;
  /** Nothing is written: what is dirty stays in memory. */
  readonly readOnly: boolean;
  readonly pagers: Set<Pager>;
  readonly trees: Set<PageableTree>;
  /** Trees that the slices of writePaged() are through with. */
  readonly written: Set<PageableTree>;
  /** Generations of the captures under way. */
  captured: Map<Pager, number>;
}

const pagings = new WeakMap<ArenaWriter, Paging>();

/** For the layout of a shard's arena: makes all its readers find what is in page files. */
export function coldLayout(
  directory: string,
  storeId: Uint8Array,
  shard: number,
  cache: PageCacheLayout | undefined,
): ColdLayout {
  return { directory, storeId, shard, cache, fileNumbers: new SharedArrayBuffer(FILE_NUMBER_WORDS * 4) };
}

/** Before the first tree of the arena is opened. */
export function attachPaging(arena: ArenaWriter, env: Env, layout: ColdLayout, readOnly: boolean): void {
  const { directory, storeId, shard } = layout;
  const cold = ColdPages.attach(arena, env, layout, cacheOwnerOfShard(shard));
  pagings.set(arena, {
    env,
    directory,
    shard,
    identity: { storeId, shard },
    cache: cold.cache,
    fileNumbers: new Int32Array(layout.fileNumbers),
    readOnly,
    pagers: new Set(),
    trees: new Set(),
    written: new Set(),
    captured: new Map(),
  });
}

export function pagingOf(arena: ArenaWriter): Paging | undefined {
  return pagings.get(arena);
}

// ---- opening ------------------------------------------------------------------------------------------------------------------------

/** Takes a root out of a checkpoint's chunk. Of a space that is not there any more it is passed over. @throws ERR_CORRUPT, ERR_MEMORY_FULL, ERR_IO */
export function loadPagedRoot(arena: ArenaWriter, chunk: Uint8Array): void {
  const root = decodeRoot(chunk);
  for (const tree of pagingOf(arena)?.trees ?? []) {
    if (spaceIdOfTag(tree.tag) === root.spaceId && tree.isAwaitingRoot) {
      tree.loadRoot(root);
      return;
    }
  }
}

/** The whole checkpoint is read. Page files that it does not name go. @throws ERR_CORRUPT when a tree's root was not in it */
export function finishPagedLoad(arena: ArenaWriter): void {
  const paging = pagingOf(arena);
  if (paging === undefined) return;
  for (const tree of paging.trees) {
    if (tree.isAwaitingRoot) {
      const space = spaceIdOfTag(tree.tag);
      throw new ConcordError('ERR_CORRUPT', `the checkpoint has no root of space ${space} in a page file`, { space });
    }
  }
  if (paging.readOnly) return;
  const used = numbersInUse(paging);
  removePageFiles(paging.env, paging.directory, (number) => used.has(number));
}

function numbersInUse(paging: Paging): Set<number> {
  return new Set([...paging.pagers].map(({ number }) => number));
}

// ---- checkpoints --------------------------------------------------------------------------------------------------------------------

/**
 * One slice of writing what a capture would have to write, so that it has less to do: true when it came once through all trees. Between groups.
 * @throws ERR_DISK_FULL, ERR_IO
 */
export function writePaged(arena: ArenaWriter, pagesMax: number): boolean {
  const paging = pagingOf(arena);
  if (paging === undefined) return true;
  for (const tree of paging.trees) {
    if (paging.written.has(tree)) continue;
    if (!tree.writeDirty(pagesMax)) return false;
    paging.written.add(tree);
  }
  paging.written.clear();
  return true;
}

/** Whatever must be changed for a capture. The caller publishes. @throws ERR_DISK_FULL, ERR_IO */
export function preparePaged(arena: ArenaWriter): void {
  for (const tree of pagingOf(arena)?.trees ?? []) tree.prepareCapture();
}

/** Roots of all paged trees as they are published now, written but not synced. Plain data. @throws ERR_DISK_FULL, ERR_IO */
export function capturePaged(arena: ArenaWriter, isCaptured: (tag: number) => boolean): PagedRoot[] {
  const paging = pagingOf(arena);
  const roots: PagedRoot[] = [];
  if (paging === undefined) return roots;
  paging.captured = new Map();
  for (const tree of paging.trees) {
    const captured = isCaptured(tree.tag) ? tree.capture() : undefined;
    if (captured === undefined) continue;
    roots.push(captured.root);
    paging.captured.set(tree.pager!, captured.generation);
  }
  return roots;
}

/** Makes durable what the roots lead to. Any thread. */
export function syncPaged(env: Env, directory: string, roots: readonly PagedRoot[]): void {
  for (const { number } of roots) syncPageFile(env, directory, number);
}

/** The chunk of a checkpoint that names the root. */
export function pagedRootChunk(root: PagedRoot): Uint8Array {
  return encodeRoot(root);
}

/** The checkpoint with the last captured roots is what a recovery starts from: what only older ones needed goes. */
export function confirmPaged(arena: ArenaWriter, roots: readonly PagedRoot[]): void {
  const paging = pagingOf(arena);
  if (paging === undefined) return;
  for (const [pager, generation] of paging.captured) if (pager.isOpen) pager.confirm(generation);
  paging.captured = new Map();
  // A job may be reading a version whose file nobody else needs.
  if (arena.hasLongPins) return;
  const used = numbersInUse(paging);
  for (const { number } of roots) used.add(number);
  removePageFiles(paging.env, paging.directory, (number) => used.has(number));
}

/** Cursors on this arena pass over what is damaged in page files, and tell of it. For a repair. */
export function passOverDamage(arena: ArenaWriter, onDamage: (error: ConcordError) => void): void {
  const cold = ColdPages.known(arena);
  if (cold !== undefined) cold.onDamage = onDamage;
}

export function closePaged(arena: ArenaWriter): void {
  const paging = pagingOf(arena);
  if (paging === undefined) return;
  for (const pager of paging.pagers) pager.drop();
  ColdPages.known(arena)?.close();
}
