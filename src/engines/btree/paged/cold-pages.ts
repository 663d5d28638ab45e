/**
 * Pages that are not in memory, for one thread: looked for in the shared cache, else read from the page file, checked, and left in the cache.
 *
 *   child of a branch ≥ COLD ──▶ file number in the branch's header, reference ──▶ cache, or file and then cache ──▶ a page of the thread's own
 *
 * A reader keeps its pin while it looks at such a page, though nobody can take the copy away: the pin is what keeps the slot from being used again
 * between the look at the branch and the read. So a page kept from an earlier pin must not be used again.
 *
 * Threads: any, one ColdPages per thread and arena.
 */
import type { Env } from '../../../shared/env/env.js';
import { NodeEnv } from '../../../shared/env/node-env.js';
import { ConcordError } from '../../../shared/errors.js';
import {
  SEGMENT_UNIT_MASK,
  SEGMENT_UNIT_SHIFT,
  UNIT_SHIFT,
  type ArenaReader,
  type ColdLayout,
  type UnitId,
} from '../../../shared/memory/arena.js';
import { toOwnerId } from '../../../shared/memory/lock-owner.js';
import { PageCache } from '../../../shared/memory/page-cache.js';
import { COUNT_HALFWORD, PREFIX_LENGTH_HALFWORD, RESERVED_HALFWORD, corruptPage, headsOffset } from '../page.js';
import { COLD, SLOT_BYTES, classOf, slotOf } from './format.js';
import { PageFileReader } from './page-file.js';

/** Files that a thread keeps open; a space has one, and for a while another. */
const OPEN_FILES_MAX = 16;
/** Slots of clients; jobs and shards come above. */
const CLIENT_SLOTS = 256;
const SHARD_OWNER_MIN = 1024;

/** Who inserts into the cache: a client's thread by its reader slot. 0: jobs, which read everything once and had better not. */
export function cacheOwnerOfSlot(slot: number): number {
  return slot < CLIENT_SLOTS ? slot + 1 : 0;
}

export function cacheOwnerOfShard(shard: number): number {
  return SHARD_OWNER_MIN + shard;
}

/** The cache's name of a page file: high bit set, so that other users of the cache have the other half. */
export function cacheFileKey(shard: number, number: number): number {
  return (0x80000000 | ((shard & 0x7fff) << 16) | number) >>> 0;
}

export class ColdPages {
  static readonly #all = new WeakMap<ArenaReader, ColdPages>();
  readonly #env: Env;
  readonly #layout: ColdLayout;
  readonly #cache: PageCache | undefined;
  readonly #inserts: boolean;
  readonly #files = new Map<number, PageFileReader>();
  #reads = 0;
  /** When set, cursors pass over what is damaged and say so here, instead of failing: for a repair. */
  onDamage: ((error: ConcordError) => void) | undefined;

  /** Of the arena's pages. owner: who inserts into the cache, 0 for nobody. Counts for the first call per arena object. */
  static of(arena: ArenaReader, owner: number): ColdPages {
    const known = this.#all.get(arena);
    if (known !== undefined) return known;
    const { cold } = arena.layout;
    if (cold === undefined)
      throw new ConcordError('ERR_CORRUPT', 'a page refers to a page file, and the store has none');
    return this.attach(arena, new NodeEnv(), cold, owner);
  }

  /** What of() would return if it was asked before. */
  static known(arena: ArenaReader): ColdPages | undefined {
    return this.#all.get(arena);
  }

  /** The same with files on another Env. */
  static attach(arena: ArenaReader, env: Env, layout: ColdLayout, owner: number): ColdPages {
    const pages = new ColdPages(env, layout, owner);
    this.#all.set(arena, pages);
    return pages;
  }

  private constructor(env: Env, layout: ColdLayout, owner: number) {
    this.#env = env;
    this.#layout = layout;
    this.#inserts = owner !== 0;
    // Reading takes no lock, so any id does.
    if (layout.cache !== undefined) this.#cache = new PageCache(layout.cache, toOwnerId(owner === 0 ? 1 : owner));
  }

  get cache(): PageCache | undefined {
    return this.#cache;
  }

  /** Pages read from files by this thread. */
  get reads(): number {
    return this.#reads;
  }

  /** The page to into[at …]. @throws ERR_CORRUPT, ERR_IO */
  read(number: number, reference: number, into: Uint8Array, at: number): void {
    const bytes = SLOT_BYTES << classOf(reference);
    const cache = this.#cache;
    const key = cacheFileKey(this.#layout.shard, number);
    if (cache !== undefined && cache.read(key, slotOf(reference), into, at) === bytes) return;
    this.#reads++;
    this.#file(number).read(reference, into, at);
    if (this.#inserts) cache?.insert(key, slotOf(reference), into, at, bytes);
  }

  #file(number: number): PageFileReader {
    let file = this.#files.get(number);
    if (file !== undefined) return file;
    if (this.#files.size >= OPEN_FILES_MAX) {
      const [oldest, reader] = this.#files.entries().next().value!;
      this.#files.delete(oldest);
      reader.close();
    }
    const { directory, storeId, shard } = this.#layout;
    file = new PageFileReader(this.#env, directory, { storeId, shard, number });
    this.#files.set(number, file);
    return file;
  }

  close(): void {
    for (const file of this.#files.values()) file.close();
    this.#files.clear();
  }
}

/** Word of a branch's child in its segment's u32 view. */
export function childWord(u16: Uint16Array, base: number, index: number): number {
  const half = base >>> 1;
  const heads = (base + headsOffset(u16[half + PREFIX_LENGTH_HALFWORD]!)) >>> 2;
  return heads + u16[half + COUNT_HALFWORD]! + index;
}

/** A page of the thread's own that takes a cold page at a time. */
export class PrivatePage {
  readonly unit: UnitId;
  readonly #arena: ArenaReader;
  readonly #owner: number;

  constructor(arena: ArenaReader, owner: number) {
    this.#arena = arena;
    this.#owner = owner;
    this.unit = arena.addPrivatePage();
  }

  /**
   * The child of a pinned branch, which was found to be none of the arena's units: read if it is cold. Returns the unit to look at.
   * @throws ERR_CORRUPT, ERR_IO
   */
  childOf(branch: UnitId, index: number): UnitId {
    const arena = this.#arena;
    const segment = branch >>> SEGMENT_UNIT_SHIFT;
    const base = (branch & SEGMENT_UNIT_MASK) << UNIT_SHIFT;
    const u16 = arena.u16[segment]!;
    // The number was stored before the reference: both once more, in that order. Meanwhile the page may have come into memory.
    const child = Atomics.load(arena.u32[segment]!, childWord(u16, base, index));
    if (child < COLD) {
      if (child === 0 || child >= arena.totalUnits) throw corruptPage(child, 'not a unit of the arena');
      return child;
    }
    return this.load(Atomics.load(u16, (base >>> 1) + RESERVED_HALFWORD), child);
  }

  /** @throws ERR_CORRUPT, ERR_IO */
  load(number: number, reference: number): UnitId {
    if (number === 0) throw corruptPage(reference, 'a reference to no page file');
    ColdPages.of(this.#arena, this.#owner).read(
      number,
      reference,
      this.#arena.u8[this.unit >>> SEGMENT_UNIT_SHIFT]!,
      0,
    );
    return this.unit;
  }
}
