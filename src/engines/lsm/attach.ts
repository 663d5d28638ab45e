/**
 * What the LSM-Trees of one shard share: where their files are, who does their jobs, and what a store does with all of them around a checkpoint.
 *
 *   open        attachLsm() · root chunks of the checkpoint: loadLsmRoot() for each · finishLsmLoad()
 *   checkpoint  shard: captureLsm()   job: lsmRootChunk() for each   shard: confirmLsm()
 *   close       closeLsm()
 *
 * A tree's directory goes when nobody can need it any more: not the last durable checkpoint (a space that was moved to another engine is still read from
 * its tree, if the process ends now), and no reader of the shared memory.
 *
 * Threads: the shard's thread only; lsmRootChunk() any.
 */
import { ConcordError, fromSystemError } from '../../shared/errors.js';
import type { Env } from '../../shared/env/env.js';
import type { ArenaWriter, ColdLayout } from '../../shared/memory/arena.js';
import { BUILDING_SPACE_ID, spaceIdOfTag } from '../engine.js';
import { InlineJobs } from './inline-jobs.js';
import { LsmManifest } from './manifest/manifest.js';
import { treeDirectoryName, treeOfDirectory } from './manifest/names.js';
import { decodeLsmRoot, type LsmRoot } from './root.js';
import type { LsmJobs } from './types.js';

export { isLsmRootChunk, lsmRootChunk, type LsmRoot } from './root.js';

/** Words of ColdLayout.fileNumbers. */
const TREE_WORD = 1;
const CACHE_ID_WORD = 2;
/** A name in the block cache: the shard, then a number of its own. */
const CACHE_ID_BITS = 24;
const CACHE_IDS_MAX = 2 ** CACHE_ID_BITS - 1;
const TREES_MAX = 2 ** 31 - 1;

/** A tree as this file sees it. */
export interface AttachedTree {
  readonly tag: number;
  /** 0: it has no files yet. */
  readonly tree: number;
  readonly storedSeq: number;
  loadRoot(root: LsmRoot): void;
  /** Files that nobody needs go. */
  tidy(): void;
  close(): void;
}

interface CondemnedTree {
  readonly tree: number;
  /** Readers that came before may read its files. */
  readonly epoch: number;
  /** The last durable checkpoint may name it. */
  readonly mayBeNamed: boolean;
}

export interface LsmSiteOptions {
  readonly env: Env;
  readonly layout: ColdLayout;
  readonly jobs: LsmJobs | undefined;
  readonly rate: SharedArrayBuffer | undefined;
  /** Nothing is written. */
  readonly readOnly: boolean;
  /** The arena's writer has adopted it: readers may stand on versions of before. */
  readonly adopted: boolean;
}

const sites = new WeakMap<ArenaWriter, LsmSite>();

/** Before the first tree of the arena is opened. */
export function attachLsm(arena: ArenaWriter, options: LsmSiteOptions): LsmSite {
  const site = new LsmSite(arena, options);
  sites.set(arena, site);
  return site;
}

export function lsmSiteOf(arena: ArenaWriter): LsmSite | undefined {
  return sites.get(arena);
}

export class LsmSite {
  readonly arena: ArenaWriter;
  readonly env: Env;
  readonly directory: string;
  readonly storeId: Uint8Array;
  readonly shard: number;
  readonly jobs: LsmJobs;
  readonly rate: SharedArrayBuffer | undefined;
  readonly readOnly: boolean;
  readonly adopted: boolean;
  readonly trees = new Set<AttachedTree>();
  /** Arena units of table metadata in all trees. */
  residentUnits = 0;
  /** Memtables of a predecessor hold nothing that stands in the log before this frame. */
  adoptedFromLsn = 1;
  /**
   * While covered log is replayed: every operation up to this number has been, and what is published says more than that. Infinity: what is published
   * is what there is.
   */
  replayedSeq = Infinity;
  /** Makes the log durable, where others depend on it too: before what was done stands in a manifest, and the log that says so could still be lost. */
  syncLog: () => void = () => undefined;
  readonly #numbers: Int32Array;
  readonly #inline: InlineJobs | undefined;
  /** Named by the last durable checkpoint. Undefined: unknown. */
  #named: Set<number> | undefined = new Set();
  #condemned: CondemnedTree[] = [];

  constructor(arena: ArenaWriter, options: LsmSiteOptions) {
    const { env, layout, jobs, rate, readOnly, adopted } = options;
    this.arena = arena;
    this.env = env;
    this.directory = layout.directory;
    this.storeId = layout.storeId;
    this.shard = layout.shard;
    this.#inline = jobs === undefined ? new InlineJobs(env, arena.layout) : undefined;
    this.jobs = jobs ?? this.#inline!;
    this.rate = rate;
    this.readOnly = readOnly;
    this.adopted = adopted;
    this.#numbers = new Int32Array(layout.fileNumbers);
    if (adopted) this.#named = undefined;
    for (const tree of this.#treesOnDisk()) {
      if (tree > this.#numbers[TREE_WORD]!) this.#numbers[TREE_WORD] = tree;
    }
  }

  directoryOf(tree: number): string {
    return `${this.directory}/${treeDirectoryName(tree)}`;
  }

  takeTree(): number {
    const tree = ++this.#numbers[TREE_WORD]!;
    if (tree > TREES_MAX) throw new ConcordError('ERR_INTERNAL', `shard ${this.shard}: no number of a tree is left`);
    return tree;
  }

  /** A name for the blocks of a file that the cache has not seen. */
  takeCacheId(): number {
    const id = ++this.#numbers[CACHE_ID_WORD]!;
    if (id > CACHE_IDS_MAX) {
      throw new ConcordError(
        'ERR_INTERNAL',
        `shard ${this.shard}: ${CACHE_IDS_MAX} files were read; open the store again`,
      );
    }
    return this.shard * 2 ** CACHE_ID_BITS + id;
  }

  /** Runs a job that waits, if this thread is the one to run them. */
  runJobHere(): boolean {
    return this.#inline?.runNext() === true;
  }

  get hasJobHere(): boolean {
    return this.#inline !== undefined && this.#inline.waiting.length > 0;
  }

  // ---- opening and closing ----------------------------------------------------------------------------------------------------------

  #treesOnDisk(): number[] {
    if (!this.env.exists(this.directory)) return [];
    return this.env
      .list(this.directory)
      .map(treeOfDirectory)
      .filter((tree) => tree !== undefined);
  }

  /**
   * A root that the checkpoint holds. openSpace gives the space an LSM-Tree again if it was on its way to another engine; of a space that is not there any
   * more the root is passed over. @throws ERR_CORRUPT, ERR_IO, ERR_MEMORY_FULL
   */
  loadRoot(chunk: Uint8Array, openSpace: (spaceId: number) => void): void {
    const root = decodeLsmRoot(chunk);
    openSpace(root.spaceId);
    if (root.tree === 0) return;
    this.#named?.add(root.tree);
    this.#load(root);
  }

  #load(root: LsmRoot): void {
    for (const tree of this.trees) {
      if (spaceIdOfTag(tree.tag) === root.spaceId && tree.tree === 0) {
        tree.loadRoot(root);
        return;
      }
    }
  }

  /**
   * Without a checkpoint: each manifest says whose entries its tree has. The youngest one counts; others of the space were left behind by a move. Damaged ones
   * are passed over.
   */
  loadByManifests(): void {
    for (const tree of this.#treesOnDisk().sort((a, b) => b - a)) {
      let spaceId: number | undefined;
      try {
        const identity = { storeId: this.storeId, shard: this.shard, tree };
        const manifest = LsmManifest.open(this.env, this.directoryOf(tree), identity, { readOnly: true });
        ({ spaceId } = manifest.state);
        manifest.close();
      } catch (error) {
        if (!(error instanceof ConcordError) || (error.code !== 'ERR_CORRUPT' && error.code !== 'ERR_FORMAT_VERSION')) throw error; // prettier-ignore
      }
      if (spaceId !== undefined) this.#load({ spaceId, tree, storedSeq: 0 });
    }
  }

  /** The whole checkpoint is read. Directories of trees that nobody names go. */
  finishLoad(): void {
    if (this.readOnly) return;
    const used = this.#treesInUse();
    for (const tree of this.#treesOnDisk()) {
      if (used.has(tree)) continue;
      const epoch = this.adopted ? this.arena.unpublishedEpoch : 0;
      this.#condemned.push({ tree, epoch, mayBeNamed: this.adopted });
    }
    // Readers of before may still be there: see LsmTree.
    if (this.adopted) return;
    for (const tree of this.trees) tree.tidy();
    this.removeCondemned();
  }

  #treesInUse(): Set<number> {
    return new Set([...this.trees].map(({ tree }) => tree));
  }

  // ---- trees that go ----------------------------------------------------------------------------------------------------------------

  /** The tree is no space's any more, as of the epoch. isMoved: its entries are elsewhere now, but not in a checkpoint yet. */
  condemn(tree: number, isMoved: boolean, epoch: number): void {
    const mayBeNamed = isMoved && this.#named?.has(tree) !== false;
    this.#condemned.push({ tree, epoch, mayBeNamed });
  }

  get hasCondemned(): boolean {
    return this.#condemned.some((condemned) => this.#mayGo(condemned));
  }

  #mayGo({ epoch, mayBeNamed }: CondemnedTree): boolean {
    return !mayBeNamed && this.arena.safeEpoch >= epoch;
  }

  /** Removes directories that nobody needs. What cannot be removed now is tried again at the next open. */
  removeCondemned(): void {
    const gone = this.#condemned.filter((condemned) => this.#mayGo(condemned));
    if (gone.length === 0) return;
    this.#condemned = this.#condemned.filter((condemned) => !gone.includes(condemned));
    for (const { tree } of gone) removeTreeDirectory(this.env, this.directoryOf(tree));
  }

  // ---- checkpoints ------------------------------------------------------------------------------------------------------------------

  capture(): LsmRoot[] {
    const roots: LsmRoot[] = [];
    for (const { tag, tree, storedSeq } of this.trees) {
      const spaceId = spaceIdOfTag(tag);
      // Also of a tree that has no files yet: the log has all of it, from before the checkpoint on, and a replay must not pass that over.
      if (spaceId !== BUILDING_SPACE_ID) roots.push({ spaceId, tree, storedSeq });
    }
    return roots;
  }

  /** The checkpoint with these roots is what a recovery starts from. */
  confirm(roots: readonly LsmRoot[]): void {
    const named = new Set(roots.map(({ tree }) => tree));
    this.#named = named;
    this.#condemned = this.#condemned.map((condemned) => ({
      ...condemned,
      mayBeNamed: condemned.mayBeNamed && named.has(condemned.tree),
    }));
  }

  close(): void {
    for (const tree of this.trees) tree.close();
    this.#inline?.forget();
  }
}

/** The directory and all in it, the pointer to the manifest first. */
export function removeTreeDirectory(env: Env, directory: string): void {
  try {
    if (!env.exists(directory)) return;
    const names = env.list(directory);
    for (const name of names) if (name === 'CURRENT') env.remove(`${directory}/${name}`);
    for (const name of names) if (name !== 'CURRENT') env.remove(`${directory}/${name}`);
    env.removeDirectory?.(directory);
  } catch (error) {
    const { code } = fromSystemError(error, 'removing', directory);
    if (code !== 'ERR_IO' && code !== 'ERR_PERMISSION') throw error;
    // It means nothing to anybody. The next open tries again.
  }
}
