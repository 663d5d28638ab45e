/**
 * The writer's half of a paged tree: which of its pages are in memory, and what the page file holds of them.
 *
 *   child of a level 1 branch:   unit ──▶ leaf in memory, its header says where the file has it (0: nowhere, the page is dirty)
 *                                reference (≥ COLD) ──▶ leaf in the file only
 *
 * fault()    a cold leaf comes into memory: one store puts the unit in the reference's place. The page and its copy in the file are equal.
 * trim()     when the tree has more units than its budget, cold leaves go. A hand goes round the level 1 branches in key order; it marks each leaf
 *            it meets, readers and the writer take marks away, and a leaf it finds still marked goes: second chance. A dirty leaf is written
 *            first, with its chains. Then one store puts the reference in the unit's place, and the unit is retired.
 * capture()  everything dirty is written, branches too: the root's reference stands for the whole tree. No fsync; see page-file.ts.
 *
 * Chains of long values: what a leaf in memory refers to is a chain of units while it is dirty; a leaf that is clean, or comes back, refers to
 * chains in the file, which are read from there. Branches are always in memory.
 *
 * Must hold:
 *  - A dirty page has only dirty ancestors. So a page that is changed in place makes its path dirty first, from the root down.
 *  - A page that came into memory is never as new as the group being built: a change copies it, and its copy is dirty. Its birth is its branch's, since
 *    every version that has the branch may find it there.
 *  - Nothing is referred to before it is in the file.
 *  - A branch's header names the file before any of its children is a reference.
 *  - A version that a long pin holds has either no page file, or is not walked into: an image passes trees with page files over, and exports read
 *    entries under short pins. So no page of such a tree waits for a long pin, and a tree gets its file only while there is none.
 * Whatever the writer's thread dies in, the published tree is whole: adopt() finds out what it holds.
 *
 * Threads: the shard's thread only.
 */
import { assert } from '../../../shared/assert.js';
import { readU32LE, writeU32LE } from '../../../shared/codec/fixed.js';
import { ConcordError } from '../../../shared/errors.js';
import {
  PAGE_BIRTH_HIGH_HALFWORD,
  PAGE_BIRTH_LOW_WORD,
  SEGMENT_UNIT_MASK,
  SEGMENT_UNIT_SHIFT,
  UNIT_BYTES,
  UNIT_SHIFT,
  type ArenaWriter,
  type UnitId,
} from '../../../shared/memory/arena.js';
import { validatePage } from '../check.js';
import type { TreeCounts } from '../meta.js';
import { walkChain } from '../overflow.js';
import {
  CLASS_BYTE,
  COUNT_HALFWORD,
  CellFlag,
  HEIGHT_MAX,
  KEY_BYTES_MAX,
  NEXT_WORD,
  PAGE_BYTES_MAX,
  PAGE_FLAGS_BYTE,
  PAGE_HEADER_BYTES,
  PAGE_UNREAD,
  PAYLOAD_BYTES_WORD,
  PREFIX_LENGTH_HALFWORD,
  PageKind,
  RESERVED_HALFWORD,
  SEQ_BYTES,
  cellLengthsAt,
  copyBytes,
  headsOffset,
  readSeq,
  readVarint,
  skipVarint,
} from '../page.js';
import { searchBranch } from '../search.js';
import { cacheFileKey, childWord } from './cold-pages.js';
import { COLD, SLOT_BYTES, classOf, corruptPageFile, slotOf, type PagedRoot } from './format.js';
import { PageFileWriter } from './page-file.js';
import type { Paging } from './paging.js';

const UNITS_OF_CLASS = [1, 2, 4, 8] as const;
const TWO_32 = 4294967296;
/** Leaves that go out together. */
const STAGED_MAX = 64;
/** After a write that failed, so many rounds only take what need not be written. */
const FAILED_ROUNDS = 100;
/** The arena's share that is kept free for groups to come, and the most of it that one tree may fill whatever its budget is. */
const PRESSURE_SHIFT = 3;
const ARENA_SHARE_MAX = 5 / 8;

/** What the pager must know of the tree; the tree keeps it. */
export interface PagedTree {
  readonly rootUnit: UnitId;
  readonly height: number;
  readonly leafPages: number;
  readonly branchPages: number;
  readonly treeUnits: number;
  readonly overflowPages: number;
  readonly overflowUnits: number;
}

/** Where a round over the branches stands: the separator it goes on from. */
class Hand {
  readonly key = new Uint8Array(KEY_BYTES_MAX);
  keyLength = 0;
  seq = Infinity;
  atStart = true;
}

interface ChainVisitor {
  /** body: offset of the four bytes that lead to the chain. */
  (body: number, first: number, totalBytes: number): void;
}

/** The overflow cells of a leaf. */
function forEachChain(u8: Uint8Array, u16: Uint16Array, base: number, visit: ChainVisitor): void {
  const half = base >>> 1;
  const count = u16[half + COUNT_HALFWORD]!;
  const offsets = ((base + headsOffset(u16[half + PREFIX_LENGTH_HALFWORD]!)) >>> 1) + 2 * count;
  for (let index = 0; index < count; index++) {
    const cell = base + u16[offsets + index]!;
    if ((u8[cell]! & CellFlag.Overflow) === 0) continue;
    const lengthsAt = cellLengthsAt(u8, cell);
    const suffixLengthAt = skipVarint(u8, lengthsAt);
    const body = skipVarint(u8, suffixLengthAt) + readVarint(u8, suffixLengthAt);
    visit(body, readU32LE(u8, body), readVarint(u8, lengthsAt));
  }
}

export class Pager {
  /** Of the tree's pages, and of its chains: units that are in the file only. */
  coldTreeUnits = 0;
  coldOverflowUnits = 0;
  readonly #arena: ArenaWriter;
  readonly #paging: Paging;
  readonly #budgetUnits: number;
  #file: PageFileWriter | undefined;
  readonly #hand = new Hand();
  readonly #writeHand = new Hand();
  readonly #pathUnit = new Int32Array(HEIGHT_MAX + 1);
  readonly #pathIndex = new Int32Array(HEIGHT_MAX + 1);
  #failedRounds = 0;
  #scratch: Buffer | undefined;
  /** u16 view of the file's buffer. */
  #bufferU16 = new Uint16Array(0);

  // Leaves that are to go, and what was written for them.
  readonly #stagedBranch: UnitId[] = [];
  readonly #stagedIndex: number[] = [];
  readonly #stagedReference: number[] = [];
  readonly #written: number[] = [];

  readonly #events = { pageFaults: 0, pageEvictions: 0, pagesWritten: 0, pageWriteFailures: 0 };

  constructor(arena: ArenaWriter, paging: Paging, budgetBytes: number) {
    this.#arena = arena;
    this.#paging = paging;
    // The other half is the cache's, where readers find what is not in the arena.
    const ownBytes = paging.cache === undefined ? budgetBytes : budgetBytes / 2;
    this.#budgetUnits = Math.min(Math.floor(ownBytes / UNIT_BYTES), Math.floor(arena.totalUnits * ARENA_SHARE_MAX));
    paging.pagers.add(this);
  }

  /** Of the page file; 0 while the tree has none. */
  get number(): number {
    return this.#file?.number ?? 0;
  }

  get isOpen(): boolean {
    return this.#file !== undefined;
  }

  metrics(): Readonly<Record<string, number>> {
    const file = this.#file?.stats();
    return {
      ...this.#events,
      pageFileBytes: (file?.fileSlots ?? 0) * SLOT_BYTES,
      pageFileUsedBytes: (file?.usedSlots ?? 0) * SLOT_BYTES,
    };
  }

  /** Units that the tree has in memory. */
  residentUnits(tree: PagedTree): number {
    return tree.treeUnits - this.coldTreeUnits + tree.overflowUnits - this.coldOverflowUnits;
  }

  // ---- pages in and out of memory -----------------------------------------------------------------------------------------------

  /** The cold child of a level 1 branch comes into memory. @throws ERR_MEMORY_FULL, ERR_CORRUPT, ERR_IO: nothing changed */
  fault(branch: UnitId, index: number): UnitId {
    const arena = this.#arena;
    const segment = branch >>> SEGMENT_UNIT_SHIFT;
    const base = (branch & SEGMENT_UNIT_MASK) << UNIT_SHIFT;
    const u32 = arena.u32[segment]!;
    const word = childWord(arena.u16[segment]!, base, index);
    const reference = u32[word]!;
    const unit = this.#load(reference, 0);
    // Not the birth of the group being built: a change copies the page.
    this.#setBirth(unit, arena.isUnpublished(branch) ? arena.unpublishedEpoch - 1 : arena.birthOf(branch));
    Atomics.store(u32, word, unit);
    this.coldTreeUnits -= 1 << classOf(reference);
    this.#events.pageFaults++;
    return unit;
  }

  #load(reference: number, level: number): UnitId {
    const arena = this.#arena;
    if (this.#file === undefined || reference < COLD)
      throw new ConcordError('ERR_CORRUPT', `reference ${reference.toString(16)} to no page file`);
    const unit = arena.allocate(UNITS_OF_CLASS[classOf(reference) as 0 | 1 | 2 | 3]);
    try {
      const segment = unit >>> SEGMENT_UNIT_SHIFT;
      const base = (unit & SEGMENT_UNIT_MASK) << UNIT_SHIFT;
      this.#read(reference, arena.u8[segment]!, base);
      arena.u32[segment]![(base >>> 2) + NEXT_WORD] = reference;
      validatePage(arena, unit, level);
      return unit;
    } catch (error) {
      arena.free(unit);
      if (error instanceof ConcordError && error.code === 'ERR_CORRUPT' && error.details['file'] === undefined)
        throw corruptPageFile(this.#file.path, slotOf(reference) * SLOT_BYTES, error.message);
      throw error;
    }
  }

  #read(reference: number, into: Uint8Array, at: number): void {
    const { cache, shard } = this.#paging;
    const file = this.#file!;
    const bytes = SLOT_BYTES << classOf(reference);
    if (cache?.read(cacheFileKey(shard, file.number), slotOf(reference), into, at) === bytes) return;
    file.read(reference, into, at);
  }

  #setBirth(unit: UnitId, birth: number): void {
    const segment = unit >>> SEGMENT_UNIT_SHIFT;
    const base = (unit & SEGMENT_UNIT_MASK) << UNIT_SHIFT;
    this.#arena.u32[segment]![(base >>> 2) + PAGE_BIRTH_LOW_WORD] = birth >>> 0;
    this.#arena.u16[segment]![(base >>> 1) + PAGE_BIRTH_HIGH_HALFWORD] = Math.floor(birth / TWO_32);
  }

  /** Where the file has the page of memory as it is; 0: nowhere. */
  #referenceOf(unit: UnitId): number {
    return this.#arena.u32[unit >>> SEGMENT_UNIT_SHIFT]![((unit & SEGMENT_UNIT_MASK) << (UNIT_SHIFT - 2)) + NEXT_WORD]!;
  }

  #setReference(unit: UnitId, reference: number): void {
    const segment = unit >>> SEGMENT_UNIT_SHIFT;
    const base = (unit & SEGMENT_UNIT_MASK) << UNIT_SHIFT;
    this.#arena.u16[segment]![(base >>> 1) + RESERVED_HALFWORD] = this.number;
    this.#arena.u32[segment]![(base >>> 2) + NEXT_WORD] = reference;
  }

  /** The page leaves the tree that is being built: something else has taken its place. */
  superseded(unit: UnitId): void {
    const reference = this.#referenceOf(unit);
    if (reference !== 0) this.#file?.release(reference, this.#arena.unpublishedEpoch);
  }

  /** The last page of the path, units[0], is about to be changed where it is. */
  dirtied(units: Int32Array, height: number): void {
    for (let level = height - 1; level >= 0; level--) {
      const unit = units[level]!;
      const reference = this.#referenceOf(unit);
      if (reference === 0) continue;
      this.#setReference(unit, 0);
      this.#file?.release(reference, this.#arena.unpublishedEpoch);
    }
  }

  /** Whether the tree has more in memory than it should and can have it in a file. */
  isOverBudget(tree: PagedTree): boolean {
    if (this.#failedRounds > 0) this.#failedRounds--;
    return this.residentUnits(tree) > this.#budgetUnits && this.#open();
  }

  /** Brings the tree back to its budget. True if leaves went: paths are void. Between groups only. */
  trim(tree: PagedTree): boolean {
    const arena = this.#arena;
    this.#file?.reclaim(arena.safeEpoch);
    if (tree.height < 2) return false;
    const resident = this.residentUnits(tree);
    const pressure = (arena.totalUnits >>> PRESSURE_SHIFT) - arena.freeUnits();
    let over = Math.max(resident - this.#budgetUnits, Math.min(pressure, resident - tree.branchPages));
    if (over <= 0) return false;
    if (this.#file === undefined) {
      // No leaf goes before a publication has said that there is a file: until then an image would be written of the tree.
      this.#open();
      return false;
    }
    const before = this.#events.pageEvictions;
    if (this.#failedRounds > 0) this.#failedRounds--;
    // Two rounds find everything: the first marks, the second takes.
    for (let branches = 2 * tree.branchPages + 2; over > 0 && branches > 0; branches--) {
      const branch = this.#nextBranch(tree, this.#hand);
      over -= this.#trimBranch(branch, over, tree.overflowPages > 0);
      // Before the hand comes round to what is staged already.
      if (this.#stagedBranch.length >= STAGED_MAX || this.#hand.atStart) over += this.#flushStaged();
    }
    this.#flushStaged();
    return this.#events.pageEvictions > before;
  }

  /** Marks or stages the leaves of a branch; returns the units that will be free. */
  #trimBranch(branch: UnitId, wanted: number, hasChains: boolean): number {
    const arena = this.#arena;
    const segment = branch >>> SEGMENT_UNIT_SHIFT;
    const base = (branch & SEGMENT_UNIT_MASK) << UNIT_SHIFT;
    const u16 = arena.u16[segment]!;
    const u32 = arena.u32[segment]!;
    const count = u16[(base >>> 1) + COUNT_HALFWORD]!;
    const children = childWord(u16, base, 0);
    let units = 0;
    for (let index = 0; index < count && units < wanted; index++) {
      const child = u32[children + index]!;
      if (child >= COLD) continue;
      const u8 = arena.u8[child >>> SEGMENT_UNIT_SHIFT]!;
      const flagsAt = ((child & SEGMENT_UNIT_MASK) << UNIT_SHIFT) + PAGE_FLAGS_BYTE;
      if (u8[flagsAt] !== PAGE_UNREAD) {
        u8[flagsAt] = PAGE_UNREAD;
        continue;
      }
      units += this.#stage(branch, index, child, hasChains);
    }
    return units;
  }

  /** The leaf is to go: written if it is dirty. Returns its units, with its chains; 0 if it must stay. */
  #stage(branch: UnitId, index: number, leaf: UnitId, hasChains: boolean): number {
    let reference = this.#referenceOf(leaf);
    if (reference === 0) {
      if (this.#failedRounds > 0 || this.#paging.readOnly) return 0;
      try {
        reference = this.#writeLeaf(leaf, hasChains);
      } catch (error) {
        this.#writeFailed(error);
        return 0;
      }
    }
    this.#stagedBranch.push(branch);
    this.#stagedIndex.push(index);
    this.#stagedReference.push(reference);
    return 1 << classOf(reference);
  }

  #writeFailed(error: unknown): void {
    for (const reference of this.#written) this.#file!.discard(reference);
    this.#written.length = 0;
    this.#stagedBranch.length = 0;
    this.#stagedIndex.length = 0;
    this.#stagedReference.length = 0;
    this.#failedRounds = FAILED_ROUNDS;
    this.#events.pageWriteFailures++;
    // A full or failing disk leaves the leaves where they are; everything else is a mistake of ours.
    if (!(error instanceof ConcordError) || error.code === 'ERR_INTERNAL') throw error;
  }

  /** What is staged is in the file, and its units go. Returns the units that could not. */
  #flushStaged(): number {
    if (this.#stagedBranch.length === 0) return 0;
    let units = 0;
    for (const reference of this.#stagedReference) units += 1 << classOf(reference);
    try {
      this.#file!.flush();
    } catch (error) {
      this.#writeFailed(error);
      return units;
    }
    this.#events.pagesWritten += this.#written.length;
    this.#written.length = 0;
    for (let at = 0; at < this.#stagedBranch.length; at++) {
      this.#evict(this.#stagedBranch[at]!, this.#stagedIndex[at]!, this.#stagedReference[at]!);
    }
    this.#stagedBranch.length = 0;
    this.#stagedIndex.length = 0;
    this.#stagedReference.length = 0;
    return 0;
  }

  #evict(branch: UnitId, index: number, reference: number): void {
    const arena = this.#arena;
    const segment = branch >>> SEGMENT_UNIT_SHIFT;
    const base = (branch & SEGMENT_UNIT_MASK) << UNIT_SHIFT;
    const u16 = arena.u16[segment]!;
    const u32 = arena.u32[segment]!;
    const word = childWord(u16, base, index);
    const leaf = u32[word]!;
    const leafSegment = leaf >>> SEGMENT_UNIT_SHIFT;
    // Only a leaf that was dirty has chains in memory.
    if (this.#referenceOf(leaf) === 0) {
      const leafBase = (leaf & SEGMENT_UNIT_MASK) << UNIT_SHIFT;
      forEachChain(arena.u8[leafSegment]!, arena.u16[leafSegment]!, leafBase, (_body, first, totalBytes) => {
        if (first >= COLD) return;
        walkChain(arena, first, totalBytes, (unit, pageClass) => {
          this.coldOverflowUnits += 1 << pageClass;
          arena.retire(unit, false);
        });
      });
    }
    Atomics.store(u16, (base >>> 1) + RESERVED_HALFWORD, this.number);
    Atomics.store(u32, word, reference);
    arena.retire(leaf, false);
    this.coldTreeUnits += 1 << classOf(reference);
    this.#events.pageEvictions++;
  }

  // ---- rounds over the branches -------------------------------------------------------------------------------------------------

  /** The level 1 branch that the hand stands before; the hand goes on, and starts over behind the last one. */
  #nextBranch(tree: PagedTree, hand: Hand): UnitId {
    const arena = this.#arena;
    let unit = tree.rootUnit;
    for (let level = tree.height - 1; level > 1; level--) {
      const segment = unit >>> SEGMENT_UNIT_SHIFT;
      const base = (unit & SEGMENT_UNIT_MASK) << UNIT_SHIFT;
      const u16 = arena.u16[segment]!;
      const u32 = arena.u32[segment]!;
      const index = hand.atStart
        ? 0
        : searchBranch(arena.u8[segment]!, u16, u32, base, hand.key, 0, hand.keyLength, hand.seq);
      this.#pathUnit[level] = unit;
      this.#pathIndex[level] = index;
      unit = u32[childWord(u16, base, index)]!;
    }
    hand.atStart = true;
    for (let level = 2; level < tree.height; level++) {
      const above = this.#pathUnit[level]!;
      const next = this.#pathIndex[level]! + 1;
      const segment = above >>> SEGMENT_UNIT_SHIFT;
      const base = (above & SEGMENT_UNIT_MASK) << UNIT_SHIFT;
      const u16 = arena.u16[segment]!;
      if (next >= u16[(base >>> 1) + COUNT_HALFWORD]!) continue;
      readSeparator(arena.u8[segment]!, u16, base, next, hand);
      break;
    }
    return unit;
  }

  // ---- writing ------------------------------------------------------------------------------------------------------------------

  /** A page file, if there can be one now. */
  #open(): boolean {
    if (this.#file !== undefined) return true;
    const { env, directory, identity, readOnly, fileNumbers } = this.#paging;
    // A checkpoint that is being written walks the tree as one without a file.
    if (readOnly || this.#failedRounds > 0 || this.#arena.hasLongPins) return false;
    try {
      this.#take(PageFileWriter.create(env, directory, identity, fileNumbers[0]));
      fileNumbers[0] = this.number;
      return true;
    } catch (error) {
      this.#failedRounds = FAILED_ROUNDS;
      this.#events.pageWriteFailures++;
      if (!(error instanceof ConcordError)) throw error;
      return false;
    }
  }

  #take(file: PageFileWriter): void {
    this.#file = file;
    this.#bufferU16 = new Uint16Array(file.buffer.buffer, file.buffer.byteOffset, file.buffer.length >>> 1);
  }

  /** A place for a page, and in the buffer a copy of the one of memory. */
  #beginCopy(unit: UnitId): number {
    const arena = this.#arena;
    const { cache, shard } = this.#paging;
    const file = this.#file!;
    const segment = unit >>> SEGMENT_UNIT_SHIFT;
    const base = (unit & SEGMENT_UNIT_MASK) << UNIT_SHIFT;
    const u8 = arena.u8[segment]!;
    const pageClass = u8[base + CLASS_BYTE]! & 3;
    const at = file.begin(pageClass);
    cache?.forget(cacheFileKey(shard, file.number), file.begunSlot);
    file.buffer.set(u8.subarray(base, base + (UNIT_BYTES << pageClass)), at);
    return at;
  }

  #commit(): number {
    const reference = this.#file!.commit();
    this.#written.push(reference);
    return reference;
  }

  #writeLeaf(leaf: UnitId, hasChains: boolean): number {
    const arena = this.#arena;
    const chains: number[] = [];
    if (hasChains) {
      const segment = leaf >>> SEGMENT_UNIT_SHIFT;
      const base = (leaf & SEGMENT_UNIT_MASK) << UNIT_SHIFT;
      forEachChain(arena.u8[segment]!, arena.u16[segment]!, base, (_body, first, totalBytes) => {
        chains.push(first >= COLD ? first : this.#writeChain(first, totalBytes));
      });
    }
    const at = this.#beginCopy(leaf);
    const { buffer } = this.#file!;
    this.#bufferU16[(at >>> 1) + RESERVED_HALFWORD] = this.number;
    let next = 0;
    if (hasChains) {
      forEachChain(buffer, this.#bufferU16, at, (body) => {
        writeU32LE(buffer, body, chains[next++]!);
      });
    }
    return this.#commit();
  }

  /** From the last page to the first, which is returned. */
  #writeChain(firstUnit: UnitId, totalBytes: number): number {
    const units: UnitId[] = [];
    walkChain(this.#arena, firstUnit, totalBytes, (unit) => units.push(unit));
    let next = 0;
    for (let index = units.length - 1; index >= 0; index--) {
      const at = this.#beginCopy(units[index]!);
      writeU32LE(this.#file!.buffer, at + 4 * NEXT_WORD, next);
      next = this.#commit();
    }
    return next;
  }

  /**
   * Puts a chain of memory into the file, for a root leaf, which cannot go itself. The caller gives the units back. @throws ERR_DISK_FULL, ERR_IO
   */
  moveChain(firstUnit: UnitId, totalBytes: number): number {
    try {
      const reference = this.#writeChain(firstUnit, totalBytes);
      this.#file!.flush();
      this.#written.length = 0;
      walkChain(this.#arena, firstUnit, totalBytes, (_unit, pageClass) => {
        this.coldOverflowUnits += 1 << pageClass;
      });
      return reference;
    } catch (error) {
      this.#writeFailed(error);
      throw error;
    }
  }

  /**
   * Writes dirty leaves, about `pagesMax`, from where the last call ended. True when it came to the end of the tree. Between groups; paths are void after
   * it. @throws ERR_DISK_FULL, ERR_IO
   */
  writeDirty(tree: PagedTree, pagesMax: number): boolean {
    if (this.#file === undefined || tree.height < 2) return true;
    const arena = this.#arena;
    const hasChains = tree.overflowPages > 0;
    const hand = this.#writeHand;
    const units: UnitId[] = [];
    const references: number[] = [];
    for (let pages = 0; pages < pagesMax;) {
      const branch = this.#nextBranch(tree, hand);
      const segment = branch >>> SEGMENT_UNIT_SHIFT;
      const base = (branch & SEGMENT_UNIT_MASK) << UNIT_SHIFT;
      const u32 = arena.u32[segment]!;
      const children = childWord(arena.u16[segment]!, base, 0);
      const count = arena.u16[segment]![(base >>> 1) + COUNT_HALFWORD]!;
      // A branch at a time: some of its leaves go, and nothing of it moves meanwhile.
      units.length = 0;
      references.length = 0;
      try {
        for (let index = 0; index < count; index++) {
          const leaf = u32[children + index]!;
          if (leaf >= COLD || this.#referenceOf(leaf) !== 0) continue;
          const writtenBefore = this.#written.length;
          const reference = this.#writeLeaf(leaf, hasChains);
          pages += this.#written.length - writtenBefore;
          if (this.#hasChainsInMemory(leaf, hasChains)) {
            this.#stagedBranch.push(branch);
            this.#stagedIndex.push(index);
            this.#stagedReference.push(reference);
          } else {
            units.push(leaf);
            references.push(reference);
          }
        }
        this.#file.flush();
      } catch (error) {
        hand.atStart = true;
        this.#writeFailed(error);
        throw error;
      }
      for (let at = 0; at < units.length; at++) this.#setReference(units[at]!, references[at]!);
      if (this.#stagedBranch.length > 0) this.#flushStaged();
      this.#events.pagesWritten += this.#written.length;
      this.#written.length = 0;
      if (hand.atStart) return true;
    }
    return false;
  }

  #hasChainsInMemory(leaf: UnitId, hasChains: boolean): boolean {
    if (!hasChains) return false;
    const segment = leaf >>> SEGMENT_UNIT_SHIFT;
    const base = (leaf & SEGMENT_UNIT_MASK) << UNIT_SHIFT;
    let found = false;
    forEachChain(this.#arena.u8[segment]!, this.#arena.u16[segment]!, base, (_body, first) => {
      found ||= first < COLD;
    });
    return found;
  }

  /**
   * The published tree as the file has it, all of it written; the file must still be synced. Undefined if the tree has no file.
   * @throws ERR_DISK_FULL, ERR_IO
   */
  capture(tree: PagedTree, spaceId: number, row: TreeCounts): { root: PagedRoot; generation: number } | undefined {
    if (this.#file === undefined || tree.height === 0) return undefined;
    this.#writeHand.atStart = true;
    while (!this.writeDirty(tree, Infinity));
    const units: UnitId[] = [];
    const references: number[] = [];
    try {
      const rootUnit = this.#captureBranch(tree.rootUnit, tree.height - 1, units, references);
      const { generation, endSlot } = this.#file.capture();
      this.#events.pagesWritten += this.#written.length;
      this.#written.length = 0;
      for (let at = 0; at < units.length; at++) this.#setReference(units[at]!, references[at]!);
      return { root: { spaceId, number: this.number, endSlot, row: { ...row, rootUnit, isPaged: true } }, generation };
    } catch (error) {
      this.#writeFailed(error);
      throw error;
    }
  }

  #captureBranch(unit: UnitId, level: number, units: UnitId[], references: number[]): number {
    const known = this.#referenceOf(unit);
    if (known !== 0) return known;
    const arena = this.#arena;
    const segment = unit >>> SEGMENT_UNIT_SHIFT;
    const base = (unit & SEGMENT_UNIT_MASK) << UNIT_SHIFT;
    const u16 = arena.u16[segment]!;
    const children: number[] = [];
    if (level > 0) {
      const count = u16[(base >>> 1) + COUNT_HALFWORD]!;
      const first = childWord(u16, base, 0);
      for (let index = 0; index < count; index++) {
        const child = arena.u32[segment]![first + index]!;
        if (child >= COLD) children.push(child);
        else if (level > 1) children.push(this.#captureBranch(child, level - 1, units, references));
        else children.push(this.#referenceOf(child));
      }
      assert(!children.includes(0), 'a branch is captured before its leaves');
    } else assert(!this.#hasChainsInMemory(unit, true), 'a root leaf is captured before its chains');
    const at = this.#beginCopy(unit);
    const { buffer } = this.#file!;
    this.#bufferU16[(at >>> 1) + RESERVED_HALFWORD] = this.number;
    const childAt = level > 0 ? at + 4 * (childWord(u16, base, 0) - (base >>> 2)) : 0;
    children.forEach((child, index) => {
      writeU32LE(buffer, childAt + 4 * index, child);
    });
    const reference = this.#commit();
    units.push(unit);
    references.push(reference);
    return reference;
  }

  /** The checkpoint with that capture is what a recovery starts from. */
  confirm(generation: number): void {
    this.#file?.confirm(generation);
  }

  // ---- chains in the file -------------------------------------------------------------------------------------------------------

  #scratchPage(): Buffer {
    return (this.#scratch ??= Buffer.allocUnsafeSlow(PAGE_BYTES_MAX));
  }

  /** @throws ERR_CORRUPT, ERR_IO */
  visitColdChain(
    first: number,
    totalBytes: number,
    visit: (reference: number, page: Uint8Array, payloadAt: number, payloadBytes: number) => void,
  ): void {
    const page = this.#scratchPage();
    let rest = totalBytes;
    let reference = first;
    while (rest > 0) {
      const bytes = reference < COLD || this.#file === undefined ? 0 : this.#readPayload(reference, page, rest);
      if (bytes === 0) throw new ConcordError('ERR_CORRUPT', `a chain misses ${rest} of ${totalBytes} bytes`);
      const next = readU32LE(page, 4 * NEXT_WORD);
      visit(reference, page, PAGE_HEADER_BYTES, bytes);
      rest -= bytes;
      reference = next;
    }
    if (reference !== 0) throw new ConcordError('ERR_CORRUPT', `a chain goes on after its ${totalBytes} bytes`);
  }

  #readPayload(reference: number, page: Buffer, rest: number): number {
    this.#read(reference, page, 0);
    const bytes = readU32LE(page, 4 * PAYLOAD_BYTES_WORD);
    const isSound =
      page[0] === PageKind.Overflow &&
      bytes > 0 &&
      bytes <= rest &&
      bytes <= (SLOT_BYTES << classOf(reference)) - PAGE_HEADER_BYTES;
    return isSound ? bytes : 0;
  }

  /**
   * The chain's value is gone from the tree that is being built. Returns its pages and units. What of a damaged chain cannot be found stays in the file
   * until it is opened next.
   */
  releaseChain(first: number, totalBytes: number): { pages: number; units: number } {
    const references: number[] = [];
    try {
      this.visitColdChain(first, totalBytes, (reference) => references.push(reference));
    } catch (error) {
      if (!(error instanceof ConcordError) || (error.code !== 'ERR_CORRUPT' && error.code !== 'ERR_IO')) throw error;
    }
    let units = 0;
    for (const reference of references) {
      units += 1 << classOf(reference);
      this.#file!.release(reference, this.#arena.unpublishedEpoch);
    }
    this.coldOverflowUnits -= units;
    return { pages: references.length, units };
  }

  // ---- beginnings and ends ------------------------------------------------------------------------------------------------------

  /**
   * Opens the tree that a checkpoint names: its branches into memory, its leaves stay where they are. Returns the root's unit.
   * @throws ERR_CORRUPT, ERR_FORMAT_VERSION, ERR_MEMORY_FULL, ERR_IO
   */
  load(root: PagedRoot): UnitId {
    const { env, directory, identity, readOnly } = this.#paging;
    const { row, number } = root;
    const file = PageFileWriter.open(env, directory, { ...identity, number }, readOnly);
    this.#take(file);
    const loaded: UnitId[] = [];
    const sum = new PageSum();
    try {
      const unit = this.#loadTree(row.rootUnit, row.height - 1, row.overflowPages > 0, sum, loaded);
      const problem = sum.differenceTo(row);
      if (problem !== undefined) throw corruptPageFile(file.path, 0, problem);
      this.coldTreeUnits = sum.coldTreeUnits;
      this.coldOverflowUnits = row.overflowUnits;
      return unit;
    } catch (error) {
      for (const unit of loaded) this.#arena.free(unit);
      file.close();
      this.#file = undefined;
      throw error;
    }
  }

  #loadTree(reference: number, level: number, hasChains: boolean, sum: PageSum, loaded: UnitId[]): UnitId {
    const file = this.#file!;
    file.claim(reference);
    const unit = this.#load(reference, level);
    loaded.push(unit);
    sum.add(level, classOf(reference));
    const segment = unit >>> SEGMENT_UNIT_SHIFT;
    const base = (unit & SEGMENT_UNIT_MASK) << UNIT_SHIFT;
    const { u8, u16, u32 } = this.#arena;
    const birth = this.#arena.unpublishedEpoch - 1;
    this.#setBirth(unit, birth);
    if (level === 0) {
      if (hasChains) this.#claimChains(u8[segment]!, u16[segment]!, base, sum);
      return unit;
    }
    const count = u16[segment]![(base >>> 1) + COUNT_HALFWORD]!;
    const first = childWord(u16[segment]!, base, 0);
    for (let index = 0; index < count; index++) {
      const child = u32[segment]![first + index]!;
      if (level > 1) {
        u32[segment]![first + index] = this.#loadTree(child, level - 1, hasChains, sum, loaded);
        continue;
      }
      file.claim(child);
      sum.add(0, classOf(child));
      sum.coldTreeUnits += 1 << classOf(child);
      if (hasChains) this.#claimColdLeaf(child, sum);
    }
    return unit;
  }

  /**
   * A damaged leaf fails whoever needs it, not the opening. Nothing but it leads to its chains, so their slots may be used again; of a damaged chain
   * page that is true of those behind it.
   */
  #claimColdLeaf(reference: number, sum: PageSum): void {
    // The scratch page is taken by the chains.
    const page = Buffer.allocUnsafeSlow(SLOT_BYTES << classOf(reference));
    try {
      this.#read(reference, page, 0);
    } catch (error) {
      if (!(error instanceof ConcordError) || error.code !== 'ERR_CORRUPT') throw error;
      sum.hasDamage = true;
      return;
    }
    this.#claimChains(page, new Uint16Array(page.buffer, page.byteOffset, page.length >>> 1), 0, sum);
  }

  #claimChains(u8: Uint8Array, u16: Uint16Array, base: number, sum: PageSum): void {
    forEachChain(u8, u16, base, (_body, first, totalBytes) => {
      if (first < COLD) return;
      const page = this.#scratchPage();
      let rest = totalBytes;
      for (let reference = first; rest > 0; reference = readU32LE(page, 4 * NEXT_WORD)) {
        // Before it is read: a page that cannot be read is still referred to.
        this.#file!.claim(reference);
        sum.overflowPages++;
        sum.overflowUnits += 1 << classOf(reference);
        let bytes = 0;
        try {
          bytes = this.#readPayload(reference, page, rest);
        } catch (error) {
          if (!(error instanceof ConcordError) || error.code !== 'ERR_CORRUPT') throw error;
        }
        if (bytes === 0) {
          sum.hasDamage = true;
          return;
        }
        rest -= bytes;
      }
    });
  }

  /**
   * Goes on with a published tree whose writer died. What the last checkpoint holds beyond it is not known here: it is kept until the next one.
   * @throws ERR_CORRUPT, ERR_IO
   */
  adopt(tree: PagedTree): void {
    const number = this.#findNumber(tree.rootUnit, tree.height - 1);
    if (number === 0) return;
    const { env, directory, identity } = this.#paging;
    this.#take(PageFileWriter.open(env, directory, { ...identity, number }));
    const sum = new PageSum();
    this.#adoptPage(tree.rootUnit, tree.height - 1, tree.overflowPages > 0, sum);
    this.coldTreeUnits = sum.coldTreeUnits;
    this.coldOverflowUnits = sum.overflowUnits;
    this.#file!.holdUnclaimed();
  }

  /** Every page that is in the file, and every branch with such a child, names it. */
  #findNumber(unit: UnitId, level: number): number {
    const { u16, u32 } = this.#arena;
    const segment = unit >>> SEGMENT_UNIT_SHIFT;
    const base = (unit & SEGMENT_UNIT_MASK) << UNIT_SHIFT;
    let number = u16[segment]![(base >>> 1) + RESERVED_HALFWORD]!;
    const count = level === 0 ? 0 : u16[segment]![(base >>> 1) + COUNT_HALFWORD]!;
    for (let index = 0; index < count && number === 0; index++) {
      const child = u32[segment]![childWord(u16[segment]!, base, index)]!;
      if (child < COLD) number = this.#findNumber(child, level - 1);
    }
    return number;
  }

  #adoptPage(unit: UnitId, level: number, hasChains: boolean, sum: PageSum): void {
    const file = this.#file!;
    const reference = this.#referenceOf(unit);
    if (reference !== 0) file.claim(reference);
    const segment = unit >>> SEGMENT_UNIT_SHIFT;
    const base = (unit & SEGMENT_UNIT_MASK) << UNIT_SHIFT;
    const { u8, u16, u32 } = this.#arena;
    if (level === 0) {
      if (hasChains) this.#claimChains(u8[segment]!, u16[segment]!, base, sum);
      return;
    }
    const count = u16[segment]![(base >>> 1) + COUNT_HALFWORD]!;
    for (let index = 0; index < count; index++) {
      const child = u32[segment]![childWord(u16[segment]!, base, index)]!;
      if (child < COLD) {
        this.#adoptPage(child, level - 1, hasChains, sum);
        continue;
      }
      file.claim(child);
      sum.coldTreeUnits += 1 << classOf(child);
      if (hasChains) this.#claimColdLeaf(child, sum);
    }
  }

  /** The tree has lost everything at once: the file is nobody's any more, and goes with the next checkpoint. */
  drop(): void {
    this.#file?.close();
    this.#file = undefined;
    this.coldTreeUnits = 0;
    this.coldOverflowUnits = 0;
    this.#hand.atStart = true;
    this.#writeHand.atStart = true;
  }

  /** The tree is gone. */
  destroy(): void {
    this.drop();
    this.#paging.pagers.delete(this);
  }
}

/** What a walk over a tree in a file has met. */
class PageSum {
  leafPages = 0;
  branchPages = 0;
  treeUnits = 0;
  overflowPages = 0;
  overflowUnits = 0;
  coldTreeUnits = 0;
  /** Chains could not be followed to their ends. */
  hasDamage = false;

  add(level: number, pageClass: number): void {
    if (level === 0) this.leafPages++;
    else this.branchPages++;
    this.treeUnits += 1 << pageClass;
  }

  differenceTo(row: TreeCounts): string | undefined {
    const names = ['leafPages', 'branchPages', 'treeUnits', 'overflowPages', 'overflowUnits'] as const;
    for (const name of this.hasDamage ? names.slice(0, 3) : names) {
      if (this[name] !== row[name]) return `${name}: ${row[name]} in the root, ${this[name]} in the file`;
    }
    return undefined;
  }
}

/** Separator `index` of a branch. */
function readSeparator(u8: Uint8Array, u16: Uint16Array, base: number, index: number, into: Hand): void {
  const half = base >>> 1;
  const count = u16[half + COUNT_HALFWORD]!;
  const prefixLength = u16[half + PREFIX_LENGTH_HALFWORD]!;
  const offsets = (((base + headsOffset(prefixLength)) >>> 2) + 2 * count) << 1;
  let at = base + u16[offsets + index]!;
  const lengthAndFlag = readVarint(u8, at);
  at = skipVarint(u8, at);
  into.seq = Infinity;
  if ((lengthAndFlag & 1) !== 0) {
    into.seq = readSeq(u8, at);
    at += SEQ_BYTES;
  }
  const suffixLength = lengthAndFlag >>> 1;
  copyBytes(u8, base + PAGE_HEADER_BYTES, prefixLength, into.key, 0);
  copyBytes(u8, at, suffixLength, into.key, prefixLength);
  into.keyLength = prefixLength + suffixLength;
  into.atStart = false;
}
