/**
 * Page arena over SharedArrayBuffers, reclaimed by epochs.
 *
 *   segment 0                                        segment 1 …
 *   ┌────────┬──────────────┬───────┬──────┬────╌╌╌  ┌──────╌╌╌
 *   │ header │ reader slots │ spare │ page │ page    │ page        units of 4 KiB, 2^18 of them in a full segment
 *   └────────┴──────────────┴───────┴──────┴────╌╌╌  └──────╌╌╌
 *   unit 0    1 … 5          6 … 7   8 …
 *
 * A page is 1, 2, 4 or 8 units, aligned to its size, named by its first unit. Unit u lies in segment u >>> 18 at unit u & 0x3ffff.
 *
 * Publication and reclamation. The writer builds pages where no reader looks, stores the meta word, then the epoch word. A reader
 * pins: it loads the epoch, stores it in its slot, loads the meta word, walks, stores 0. A page retired before publication E is
 * tagged E and free once every pinned slot shows E or later. All accesses are sequentially consistent: a slot that the writer saw
 * empty is filled later, and its owner then loads a meta word at least as new as the one the writer had stored. The same holds for a slot that the writer
 * passes over since its bit among the used ones is not set: the bit is set before the first pin, and stays.
 * Long pins are made by the writer between two publications, so they name one version exactly: they block only pages with
 * birth ≤ pin < retire, where the birth epoch stands in the page's header.
 *
 * Epochs are 48 bits wide (4 G publications take days, 2^48 take centuries); slots hold the low 32, read back as a distance from
 * the current epoch. An epoch whose low half is 0 is skipped, because 0 in a slot means "not pinned".
 *
 * The latch is for engines whose pages are changed in place where a reader could not walk them meanwhile: one reader–writer lock for the
 * whole arena, with a memory of its own. Owner ids are reader slot + 1, then the writer's. Behind the lock's words stands which page the
 * writer is changing under it: that one is to be repaired if the writer dies, and no other.
 *
 * Invariants: only one ArenaWriter per arena lives at a time; a published page never changes; free lists live in the writer's
 * heap and are rebuilt from what is reachable when a new writer adopts the arena.
 * Threads: ArenaReader any, one slot per thread, pins of one slot do not nest. ArenaWriter the shard thread only.
 */
import { ConcordError, invalidArgument } from '../errors.js';
import { toOwnerId } from './lock-owner.js';
import type { PageCacheLayout } from './page-cache.js';
import { RetireQueue } from './retire-queue.js';
import { RwLock, rwLockWords } from './rwlock.js';
import { SparePlaces } from './spare-places.js';
import { UnitAllocator } from './unit-allocator.js';

/** Number of a page's first 4 KiB unit; 0 is "none". */
export type UnitId = number;

export const UNIT_BYTES = 4096;
export const UNIT_SHIFT = 12;
/** A segment holds at most 2^18 units = 1 GiB, so that byte offsets inside it stay small integers. */
export const SEGMENT_UNIT_SHIFT = 18;
export const SEGMENT_UNIT_MASK = (1 << SEGMENT_UNIT_SHIFT) - 1;
const SEGMENT_COUNT_MAX = 64;
/** 256 threads and 64 background jobs. */
export const READER_SLOT_COUNT = 320;
/** Units before the first page. */
export const HEADER_UNITS = 8;
const PAGE_UNITS_MAX = 8;
export const MEMORY_BYTES_MIN = 64 * UNIT_BYTES;

/**
 * The first 12 bytes of every page belong to the arena, except kind and level:
 *
 *   offset  size  field
 *        0     1  kind       of the engine
 *        1     1  level      of the engine
 *        2     1  class      log2 of the page's units
 *        3     1  flags      of the engine
 *        4     4  birth      epoch of the publication that first showed the page, low half
 *        8     2  birth      high half
 */
const PAGE_CLASS_BYTE = 2;
export const PAGE_BIRTH_LOW_WORD = 1;
export const PAGE_BIRTH_HIGH_HALFWORD = 4;

/**
 * Arena header, in 4-byte words of unit 0. Each group that different threads write has its own 64-byte line.
 * Shared memory only, never on disk; the layout version still guards against two releases in one process.
 */
const MAGIC_WORD = 0;
const LAYOUT_VERSION_WORD = 1;
const TOTAL_UNITS_WORD = 2;
const RESERVE_UNITS_WORD = 3;
const EPOCH_WORD = 16;
/** Written by the writer only, before EPOCH_WORD; read by an adopting writer and for statistics. */
const EPOCH_HIGH_WORD = 17;
const META_WORD = 32;
const USED_UNITS_WORD = 48;
const RETIRED_UNITS_WORD = 49;
const HIGH_WATER_WORD = 50;
/** Nobody notifies it: a word to sleep on. */
const WRITER_SLEEP_WORD = 64;
const LONG_PIN_WORD = 80;
const LONG_PIN_WORDS = 4;
const LONG_PIN_COUNT = 64;
/** A bit for each slot that was ever pinned with. */
const USED_SLOTS_WORD = 336;
const USED_SLOTS_WORDS = READER_SLOT_COUNT / 32;
const SLOT_WORD = UNIT_BYTES / 4;
const SLOT_WORDS = 16;

const ARENA_MAGIC = 0x41764b43; // "CKvA"
const LAYOUT_VERSION = 3;
const LATCH_WRITER = READER_SLOT_COUNT + 1;
/** Never holds the latch: speaks for the dead. */
const LATCH_UNDERTAKER = READER_SLOT_COUNT + 2;
const LATCH_OWNERS = LATCH_UNDERTAKER;
/** Behind the latch: the page that its writer is changing. */
const LATCHED_UNIT_WORD = rwLockWords(LATCH_OWNERS);
const LATCH_BYTES = (LATCHED_UNIT_WORD + 16) * 4;
const TWO_32 = 4294967296;
const READER_WAIT_MS_MAX = 50;
const LATCH_WAIT_MS_MAX = 10_000;
/** Kept back even from deletes: what was changed with the last units must still be published. Two meta pages of the largest class. */
const PUBLICATION_UNITS = 16;

/** Structured-cloneable: pass it to other threads. */
export interface ArenaLayout {
  readonly segments: SharedArrayBuffer[];
  /** Where the files of a shard lie (engines/btree/paged, engines/lsm). Left out: there are none. */
  readonly cold?: ColdLayout | undefined;
  /** The reader–writer lock of engines that are changed in place. */
  readonly latch: SharedArrayBuffer;
}

export interface ColdLayout {
  /** Of the shard. */
  readonly directory: string;
  readonly storeId: Uint8Array;
  readonly shard: number;
  readonly cache: PageCacheLayout | undefined;
  /**
   * The last number that was given to a page file (word 0) and to a tree with a directory of its own (1), and the last name under which blocks of a file
   * stand in the cache (2). Never twice while the process lives, whatever becomes of the shard's thread.
   */
  readonly fileNumbers: SharedArrayBuffer;
}

export const FILE_NUMBER_WORDS = 4;

export interface ArenaOptions {
  /** Rounded down to 32 KiB. 256 KiB … 64 GiB. Costs address space at once, memory when used. */
  readonly memoryBytes: number;
}

export interface ArenaStats {
  readonly totalUnits: number;
  /** Everything not free: header, live pages, retired pages. */
  readonly usedUnits: number;
  readonly retiredUnits: number;
  readonly highWaterUnits: number;
  /** Kept back for deletes and cleanup. */
  readonly reserveUnits: number;
  readonly epoch: number;
}

/** An exact pin of one published version, made by the writer. Structured-cloneable. */
export interface LongPin {
  readonly index: number;
  readonly epoch: number;
  readonly metaUnit: UnitId;
}

/** Reports every page reachable from a meta unit, the meta page included. */
export type ArenaWalk = (arena: ArenaReader, metaUnit: UnitId, mark: (unit: UnitId, units: number) => void) => void;

export function createArena(options: ArenaOptions): ArenaLayout {
  const { memoryBytes } = options;
  const totalUnits = Math.floor(memoryBytes / UNIT_BYTES) & ~(PAGE_UNITS_MAX - 1);
  if (!(memoryBytes >= MEMORY_BYTES_MIN && memoryBytes <= SEGMENT_COUNT_MAX * 2 ** 30)) {
    throw invalidArgument(
      `memoryBytes must be from ${MEMORY_BYTES_MIN} to ${SEGMENT_COUNT_MAX * 2 ** 30}, not ${memoryBytes}`,
    );
  }
  const segments: SharedArrayBuffer[] = [];
  for (let unit = 0; unit < totalUnits; unit += 1 << SEGMENT_UNIT_SHIFT) {
    segments.push(new SharedArrayBuffer(Math.min(totalUnits - unit, 1 << SEGMENT_UNIT_SHIFT) * UNIT_BYTES));
  }
  const header = new Uint32Array(segments[0]!, 0, UNIT_BYTES / 4);
  header[LAYOUT_VERSION_WORD] = LAYOUT_VERSION;
  header[TOTAL_UNITS_WORD] = totalUnits;
  // Small arenas keep back an eighth, larger ones 1/64: enough to copy the paths of a group of deletes.
  header[RESERVE_UNITS_WORD] = Math.min(totalUnits >>> 3, Math.max(128, totalUnits >>> 6));
  header[EPOCH_WORD] = 1;
  header[USED_UNITS_WORD] = HEADER_UNITS;
  header[HIGH_WATER_WORD] = HEADER_UNITS;
  header[MAGIC_WORD] = ARENA_MAGIC;
  return { segments, latch: new SharedArrayBuffer(LATCH_BYTES) };
}

function latchOf(layout: ArenaLayout, owner: number): RwLock {
  return new RwLock(new Int32Array(layout.latch), 0, LATCH_OWNERS, toOwnerId(owner));
}

function checkSlot(slot: number): void {
  if (!(slot >= 0 && slot < READER_SLOT_COUNT))
    throw invalidArgument(`reader slot ${slot} is not below ${READER_SLOT_COUNT}`);
}

function nextEpoch(epoch: number): number {
  return (epoch + 1) % TWO_32 === 0 ? epoch + 2 : epoch + 1;
}

/** Views of an arena, and the pin protocol. Any thread; make one per thread. */
export class ArenaReader {
  readonly layout: ArenaLayout;
  readonly totalUnits: number;
  readonly reserveUnits: number;
  /** Views over whole segments, indexed by unit >>> SEGMENT_UNIT_SHIFT. */
  readonly u8: readonly Uint8Array[];
  readonly u16: readonly Uint16Array[];
  readonly u32: readonly Uint32Array[];
  readonly i32: readonly Int32Array[];
  readonly buffers: readonly Buffer[];
  /**
   * How long a read waits for the latch, ms. A living writer keeps it for well below one. A dead one's is given free by the thread that hears of
   * the death, when that is in its event loop: there longer waits are in vain.
   */
  latchWaitMsMax = LATCH_WAIT_MS_MAX;
  protected readonly control: Int32Array;
  /** The slot whose bit this object has set last. */
  #usedSlot = -1;
  readonly #latches: (RwLock | undefined)[] = [];
  protected readonly latchWords: Int32Array;

  constructor(layout: ArenaLayout) {
    const { segments } = layout;
    this.layout = layout;
    this.u8 = segments.map((segment) => new Uint8Array(segment));
    this.u16 = segments.map((segment) => new Uint16Array(segment));
    this.u32 = segments.map((segment) => new Uint32Array(segment));
    this.i32 = segments.map((segment) => new Int32Array(segment));
    this.buffers = segments.map((segment) => Buffer.from(segment));
    const control = this.i32[0];
    if (
      control === undefined ||
      control[MAGIC_WORD] !== ARENA_MAGIC ||
      control[LAYOUT_VERSION_WORD] !== LAYOUT_VERSION
    ) {
      throw new ConcordError('ERR_FORMAT_VERSION', `arena: expected magic ${ARENA_MAGIC} version ${LAYOUT_VERSION}`);
    }
    this.control = control;
    this.latchWords = new Int32Array(layout.latch);
    this.totalUnits = control[TOTAL_UNITS_WORD]!;
    this.reserveUnits = control[RESERVE_UNITS_WORD]!;
  }

  /** Protects the published version against reclamation, and returns its meta unit (0 before the first publication). */
  pin(slot: number): UnitId {
    const control = this.control;
    if (slot !== this.#usedSlot) this.#noteUsed(slot);
    // Any epoch that was there lately will do: an older one only protects more.
    Atomics.store(control, SLOT_WORD + slot * SLOT_WORDS, control[EPOCH_WORD]!);
    return Atomics.load(control, META_WORD) >>> 0;
  }

  /** Before the first pin: from here on the writer looks at the slot. */
  #noteUsed(slot: number): void {
    checkSlot(slot);
    Atomics.or(this.control, USED_SLOTS_WORD + (slot >>> 5), 1 << (slot & 31));
    this.#usedSlot = slot;
  }

  unpin(slot: number): void {
    Atomics.store(this.control, SLOT_WORD + slot * SLOT_WORDS, 0);
  }

  /** Whether addPrivatePage() made it. */
  isPrivate(unit: UnitId): boolean {
    const segment = unit >>> SEGMENT_UNIT_SHIFT;
    return segment >= this.layout.segments.length && segment < this.u8.length;
  }

  /**
   * A page of the largest class in this thread's own memory, with a unit number that no page of the arena has: what is read from a file can be looked
   * at in the same way. It lives as long as this object.
   */
  addPrivatePage(): UnitId {
    const memory = new ArrayBuffer(PAGE_UNITS_MAX * UNIT_BYTES);
    const segment = this.u8.length;
    (this.u8 as Uint8Array[]).push(new Uint8Array(memory));
    (this.u16 as Uint16Array[]).push(new Uint16Array(memory));
    (this.u32 as Uint32Array[]).push(new Uint32Array(memory));
    (this.i32 as Int32Array[]).push(new Int32Array(memory));
    (this.buffers as Buffer[]).push(Buffer.from(memory));
    return segment << SEGMENT_UNIT_SHIFT;
  }

  /** Ends the pin that a dead thread left behind, and gives its hold of the latch back. */
  static clearSlot(layout: ArenaLayout, slot: number): void {
    checkSlot(slot);
    Atomics.store(new Int32Array(layout.segments[0]!), SLOT_WORD + slot * SLOT_WORDS, 0);
    // It may have had its turn as a writer has it, only to come in; it has changed nothing.
    latchOf(layout, LATCH_UNDERTAKER).recover(toOwnerId(slot + 1), false);
  }

  /** The latch as the thread with that slot holds it. */
  latch(slot: number): RwLock {
    const latch = this.#latches[slot];
    if (latch !== undefined) return latch;
    checkSlot(slot);
    return (this.#latches[slot] = latchOf(this.layout, slot + 1));
  }

  /** The page that the holder of the write latch is changing, or was when it died; 0 before the first change. */
  get latchedUnit(): UnitId {
    return Atomics.load(this.latchWords, LATCHED_UNIT_WORD) >>> 0;
  }

  /** The published meta unit, unprotected: for the writer, or to see whether anything is published. */
  published(): UnitId {
    return Atomics.load(this.control, META_WORD) >>> 0;
  }

  /** Of different moments: each figure is right by itself. */
  stats(): ArenaStats {
    const control = this.control;
    return {
      totalUnits: this.totalUnits,
      usedUnits: Atomics.load(control, USED_UNITS_WORD),
      retiredUnits: Atomics.load(control, RETIRED_UNITS_WORD),
      highWaterUnits: Atomics.load(control, HIGH_WATER_WORD),
      reserveUnits: this.reserveUnits,
      epoch: this.loadEpoch(),
    };
  }

  protected loadEpoch(): number {
    return (
      (Atomics.load(this.control, EPOCH_HIGH_WORD) >>> 0) * TWO_32 + (Atomics.load(this.control, EPOCH_WORD) >>> 0)
    );
  }
}

/** Allocation, publication, reclamation. The shard thread only; one per arena. */
export class ArenaWriter extends ArenaReader {
  /** While true, allocations may use the reserve: set by engines around deletes and cleanup. */
  reserveMode = false;
  /** Units of pages that are allocated but not referenced by any tree yet (values being received, bulk loads). For leak checks. */
  stagedUnits = 0;
  /** The epoch that the next publication will have: pages born in it are not visible yet and may be changed in place. */
  unpublishedEpoch: number;
  unpublishedEpochLow: number;
  unpublishedEpochHigh: number;
  readonly #allocator: UnitAllocator;
  readonly #publicationUnits = Math.min(PUBLICATION_UNITS, this.totalUnits >>> 4);
  readonly #retired = new RetireQueue();
  #retiredUnits = 0;
  /** Pages that only long pins still block. */
  #held: { unit: number; birth: number; retire: number }[] = [];
  #epoch: number;
  #longPinCount = 0;
  /** For the owner of a page. Forgotten when the page's unit is allocated anew, and with the writer. */
  readonly spares: SparePlaces;
  /** For the owner of a page: how many tombstones stand in it. 0 when the page's unit is allocated anew. */
  readonly tombstonesIn: Uint16Array;
  /** Taken over from a writer that is dead: it may have changed published pages after the last publication. */
  isAdopted = false;
  /** No reader stands on anything that was taken out of sight at this epoch or before; as of the last reclaim(). */
  safeEpoch = 0;
  /** After adopt: unclaimed units below this one stay unused until every reader of older versions has left. */
  #limboEnd = 0;
  #limboEpoch = 0;
  /** The oldest pin that a full wait did not outlast: it is not waited for again. */
  #stuckPin = 0;

  /** The latch of engines that are changed in place, for their writers. */
  readonly latchForWriting: RwLock;

  constructor(layout: ArenaLayout, adopting = false) {
    super(layout);
    this.latchForWriting = latchOf(layout, LATCH_WRITER);
    if (!adopting && this.published() !== 0)
      throw invalidArgument('the arena has published data: use ArenaWriter.adopt');
    this.#allocator = new UnitAllocator(this.totalUnits, HEADER_UNITS);
    this.spares = new SparePlaces(this.totalUnits);
    this.tombstonesIn = new Uint16Array(this.totalUnits);
    this.#epoch = this.loadEpoch();
    this.unpublishedEpoch = 0;
    this.unpublishedEpochLow = 0;
    this.unpublishedEpochHigh = 0;
    this.#setEpoch(this.#epoch);
  }

  /**
   * Takes over an arena whose writer thread is dead. What is reachable from the published meta page stays; unpublished work of the
   * dead writer disappears. Long pins stay in force. Pages that slow readers of older versions may still see are reused only when
   * those have left. Throws ERR_CORRUPT if the walk reports overlapping pages.
   */
  static adopt(layout: ArenaLayout, walk: ArenaWalk): ArenaWriter {
    const writer = new ArenaWriter(layout, true);
    writer.isAdopted = true;
    latchOf(layout, LATCH_UNDERTAKER).recover(toOwnerId(LATCH_WRITER));
    writer.#adopt(writer.published(), walk);
    return writer;
  }

  #adopt(metaUnit: UnitId, walk: ArenaWalk): void {
    const control = this.control;
    const allocator = this.#allocator;
    const highWater = control[HIGH_WATER_WORD]! >>> 0;
    if (highWater < HEADER_UNITS || highWater > this.totalUnits) {
      throw new ConcordError('ERR_CORRUPT', `arena: high water ${highWater} of ${this.totalUnits} units`);
    }
    allocator.highWaterUnit = highWater;
    let claimedUnits = 0;
    const covered = new Uint8Array(highWater);
    const claim = (unit: UnitId, units: number): void => {
      let isFree = allocator.claim(unit, orderOfUnits(units));
      for (let at = unit; isFree && at < unit + units; at++) isFree = covered[at] === 0;
      covered.fill(1, unit, unit + units);
      if (!isFree) {
        throw new ConcordError(
          'ERR_CORRUPT',
          `arena: page at unit ${unit} (${units} units) overlaps another or the end`,
        );
      }
      claimedUnits += units;
    };
    if (metaUnit !== 0) walk(this, metaUnit, claim);
    // The dead writer may have stored the meta word but not the epoch; the meta page knows.
    let epoch = this.loadEpoch();
    if (metaUnit !== 0) epoch = Math.max(epoch, this.birthOf(metaUnit));
    this.#epoch = epoch;
    this.#setEpoch(nextEpoch(epoch));
    for (let index = 0; index < LONG_PIN_COUNT; index++) {
      const pin = this.#readLongPin(index);
      if (pin === undefined) continue;
      this.#longPinCount++;
      if (pin.metaUnit === 0 || pin.metaUnit === metaUnit) continue;
      walk(this, pin.metaUnit, (unit, units) => {
        if (allocator.orderOf(unit) >= 0) return;
        claim(unit, units);
        this.#retiredUnits += units;
        this.#held.push({ unit, birth: this.birthOf(unit), retire: this.#epoch });
      });
    }
    this.#limboEnd = highWater;
    this.#limboEpoch = this.#epoch;
    this.#retiredUnits += highWater - HEADER_UNITS - claimedUnits;
    this.reclaim();
  }

  /** Before the holder of the write latch changes the first word below that page. */
  noteLatchedUnit(unit: UnitId): void {
    Atomics.store(this.latchWords, LATCHED_UNIT_WORD, unit | 0);
  }

  /** A page of that many units; its header's class and birth are set, the rest is what was there before. ERR_MEMORY_FULL. */
  allocate(units: 1 | 2 | 4 | 8, options?: { reserve?: boolean }): UnitId {
    const order = orderOfUnits(units);
    const reserve = this.reserveMode || options?.reserve === true;
    if (this.freeUnits(reserve) < units) this.#makeRoom(units, reserve);
    let unit = this.freeUnits(reserve) < units ? 0 : this.#allocator.allocate(order);
    if (unit === 0 && this.#makeRoom(units, reserve)) unit = this.#allocator.allocate(order);
    if (unit === 0) throw this.memoryFull(units);
    this.#startPage(unit, order);
    return unit;
  }

  /** A page for a meta page: from what is kept for publications, if nothing else is left. 0 if that is used up too. */
  allocateForPublication(units: 1 | 2 | 4 | 8): UnitId {
    const order = orderOfUnits(units);
    let unit = this.#allocator.allocate(order);
    if (unit === 0) {
      this.#makeRoom(units + this.#publicationUnits, true);
      unit = this.#allocator.allocate(order);
    }
    if (unit !== 0) this.#startPage(unit, order);
    return unit;
  }

  #startPage(unit: UnitId, order: number): void {
    this.spares.forget(unit);
    this.tombstonesIn[unit] = 0;
    const u32 = this.u32[unit >>> SEGMENT_UNIT_SHIFT]!;
    const word = (unit & SEGMENT_UNIT_MASK) << (UNIT_SHIFT - 2);
    u32[word] = order << (8 * PAGE_CLASS_BYTE);
    u32[word + PAGE_BIRTH_LOW_WORD] = this.unpublishedEpochLow;
    u32[word + (PAGE_BIRTH_HIGH_HALFWORD >> 1)] = this.unpublishedEpochHigh;
    if (this.control[HIGH_WATER_WORD] !== this.#allocator.highWaterUnit) {
      this.control[HIGH_WATER_WORD] = this.#allocator.highWaterUnit;
    }
  }

  memoryFull(units: number): ConcordError {
    const free = this.freeUnits(true);
    return new ConcordError(
      'ERR_MEMORY_FULL',
      `${units} units wanted, ${free} of ${this.totalUnits} free (${this.reserveUnits} kept for deletes), ${this.#retiredUnits} held by readers`,
      { wantedUnits: units, freeUnits: free, totalUnits: this.totalUnits, retiredUnits: this.#retiredUnits },
    );
  }

  /**
   * Frees the page once every reader that may see it has left: after the next publication at the earliest. isPinnable false: whoever walks a version
   * under a long pin passes the page's tree over.
   */
  retire(unit: UnitId, isPinnable = true): void {
    const order = this.#allocator.orderOf(unit);
    if (order < 0) throw new ConcordError('ERR_INTERNAL', `unit ${unit} is retired but not in use`);
    this.#retiredUnits += 1 << order;
    // A page born never lies in no pinned version.
    this.#retired.push(unit, isPinnable ? this.birthOf(unit) : Infinity, this.unpublishedEpoch);
  }

  /** Frees a page at once. Only for pages that no published version refers to. */
  free(unit: UnitId): void {
    this.#allocator.free(unit);
  }

  /** Frees a page born since the last publication at once, and retires any other. */
  release(unit: UnitId, isPinnable = true): void {
    if (this.isUnpublished(unit)) this.#allocator.free(unit);
    else this.retire(unit, isPinnable);
  }

  /** True if the page was born since the last publication. */
  isUnpublished(unit: UnitId): boolean {
    const u32 = this.u32[unit >>> SEGMENT_UNIT_SHIFT]!;
    const word = (unit & SEGMENT_UNIT_MASK) << (UNIT_SHIFT - 2);
    return (
      u32[word + PAGE_BIRTH_LOW_WORD] === this.unpublishedEpochLow &&
      (u32[word + (PAGE_BIRTH_HIGH_HALFWORD >> 1)]! & 0xffff) === this.unpublishedEpochHigh
    );
  }

  birthOf(unit: UnitId): number {
    const u32 = this.u32[unit >>> SEGMENT_UNIT_SHIFT]!;
    const word = (unit & SEGMENT_UNIT_MASK) << (UNIT_SHIFT - 2);
    return u32[word + PAGE_BIRTH_LOW_WORD]! + (u32[word + (PAGE_BIRTH_HIGH_HALFWORD >> 1)]! & 0xffff) * TWO_32;
  }

  /** Makes the meta page, and everything built since the last publication, visible; retires the meta page before it. */
  publish(metaUnit: UnitId): void {
    const control = this.control;
    const previous = control[META_WORD]! >>> 0;
    if (previous !== 0) this.retire(previous);
    Atomics.store(control, META_WORD, metaUnit);
    this.#setEpoch(this.unpublishedEpoch);
    this.#storeStats();
    // A scan of the slots costs microseconds: worth it once per few dozen pages, and before memory runs short.
    if (this.#retired.count >= 128 || this.#allocator.freeUnits < 4 * this.reserveUnits) this.reclaim();
  }

  /** Frees what no reader can see any more. */
  reclaim(): void {
    const oldest = Math.min(this.#epoch, this.#oldestPin());
    this.safeEpoch = oldest;
    if (this.#limboEnd !== 0 && oldest >= this.#limboEpoch) {
      this.#retiredUnits -= this.#allocator.freeUnclaimed(HEADER_UNITS, this.#limboEnd);
      this.#limboEnd = 0;
    }
    const retired = this.#retired;
    while (retired.frontRetire() <= oldest) {
      const unit = retired.frontUnit();
      if (this.#longPinCount > 0 && this.#longPinned(retired.frontBirth(), retired.frontRetire())) {
        this.#held.push({ unit, birth: retired.frontBirth(), retire: retired.frontRetire() });
      } else {
        this.#retiredUnits -= 1 << this.#allocator.orderOf(unit);
        this.#allocator.free(unit);
      }
      retired.shift();
    }
    this.#storeStats();
  }

  /** Units that allocations can still have; fragmentation can make a page of several units fail earlier. */
  freeUnits(includingReserve = false): number {
    const free = this.#allocator.freeUnits - this.#publicationUnits;
    return Math.max(0, includingReserve ? free : free - this.reserveUnits);
  }

  /** Whether pages of 2^order units, counts[order] of each, can all be had now. Tries to make room first. */
  canAllocate(counts: ArrayLike<number>, reserve: boolean): boolean {
    const units = counts[0]! + 2 * counts[1]! + 4 * counts[2]! + 8 * counts[3]!;
    if (this.freeUnits(reserve) >= units && this.#allocator.canAllocate(counts)) return true;
    this.#makeRoom(units, reserve);
    return this.freeUnits(reserve) >= units && this.#allocator.canAllocate(counts);
  }

  /** Whether a published version is being read as a whole: its pages must not change at all. */
  get hasLongPins(): boolean {
    return this.#longPinCount > 0;
  }

  /** Keeps exactly the published version until unpinLong, whatever is published meanwhile. ERR_SNAPSHOT_LIMIT. */
  pinLong(): LongPin {
    for (let index = 0; index < LONG_PIN_COUNT; index++) {
      const word = LONG_PIN_WORD + index * LONG_PIN_WORDS;
      if (this.control[word + 3] !== 0) continue;
      const metaUnit = this.published();
      this.control[word] = metaUnit;
      this.control[word + 1] = this.#epoch >>> 0;
      this.control[word + 2] = Math.floor(this.#epoch / TWO_32);
      Atomics.store(this.control, word + 3, 1);
      this.#longPinCount++;
      return { index, epoch: this.#epoch, metaUnit };
    }
    throw new ConcordError('ERR_SNAPSHOT_LIMIT', `all ${LONG_PIN_COUNT} long pins are in use`);
  }

  unpinLong(pin: LongPin): void {
    const current = this.#readLongPin(pin.index);
    if (current === undefined || current.epoch !== pin.epoch) return;
    Atomics.store(this.control, LONG_PIN_WORD + pin.index * LONG_PIN_WORDS + 3, 0);
    this.#longPinCount--;
    const held = this.#held;
    this.#held = [];
    for (const page of held) {
      if (this.#longPinned(page.birth, page.retire)) {
        this.#held.push(page);
      } else {
        this.#retiredUnits -= 1 << this.#allocator.orderOf(page.unit);
        this.#allocator.free(page.unit);
      }
    }
    this.#storeStats();
  }

  /** Before adopt(), when all who read pinned versions are known to have ended. */
  static endLongPins(layout: ArenaLayout): void {
    const control = new Int32Array(layout.segments[0]!);
    for (let index = 0; index < LONG_PIN_COUNT; index++) {
      Atomics.store(control, LONG_PIN_WORD + index * LONG_PIN_WORDS + 3, 0);
    }
  }

  /** The pins in force, for a supervisor that took over: pins of jobs that died with the old writer must be ended. */
  longPins(): LongPin[] {
    const pins: LongPin[] = [];
    for (let index = 0; index < LONG_PIN_COUNT; index++) {
      const pin = this.#readLongPin(index);
      if (pin !== undefined) pins.push(pin);
    }
    return pins;
  }

  /** Units in use, retired ones included, as the allocator counts them now. */
  get usedUnits(): number {
    return this.totalUnits - this.#allocator.freeUnits;
  }

  /** Units of pages that wait for readers. */
  get retiredUnits(): number {
    return this.#retiredUnits;
  }

  /** Units of the page in use that starts here, 0 if none does. */
  unitsOf(unit: UnitId): number {
    const order = this.#allocator.orderOf(unit);
    return order < 0 ? 0 : 1 << order;
  }

  #setEpoch(epoch: number): void {
    this.#epoch = epoch;
    Atomics.store(this.control, EPOCH_HIGH_WORD, Math.floor(epoch / TWO_32));
    Atomics.store(this.control, EPOCH_WORD, epoch | 0);
    this.unpublishedEpoch = nextEpoch(epoch);
    this.unpublishedEpochLow = this.unpublishedEpoch >>> 0;
    this.unpublishedEpochHigh = Math.floor(this.unpublishedEpoch / TWO_32);
  }

  #storeStats(): void {
    this.control[USED_UNITS_WORD] = this.usedUnits;
    this.control[RETIRED_UNITS_WORD] = this.#retiredUnits;
  }

  #oldestPin(): number {
    const control = this.control;
    const epochLow = this.#epoch | 0;
    let age = -1;
    for (let word = 0; word < USED_SLOTS_WORDS; word++) {
      let used = Atomics.load(control, USED_SLOTS_WORD + word);
      while (used !== 0) {
        const slot = 32 * word + 31 - Math.clz32(used & -used);
        used &= used - 1;
        const pinned = Atomics.load(control, SLOT_WORD + slot * SLOT_WORDS);
        if (pinned !== 0) age = Math.max(age, (epochLow - pinned) >>> 0);
      }
    }
    return age < 0 ? Infinity : this.#epoch - age;
  }

  #longPinned(birth: number, retire: number): boolean {
    for (let index = 0; index < LONG_PIN_COUNT; index++) {
      const word = LONG_PIN_WORD + index * LONG_PIN_WORDS;
      if (this.control[word + 3] === 0) continue;
      const epoch = (this.control[word + 1]! >>> 0) + (this.control[word + 2]! >>> 0) * TWO_32;
      if (birth <= epoch && epoch < retire) return true;
    }
    return false;
  }

  #readLongPin(index: number): LongPin | undefined {
    const word = LONG_PIN_WORD + index * LONG_PIN_WORDS;
    if (Atomics.load(this.control, word + 3) === 0) return undefined;
    const epoch = (this.control[word + 1]! >>> 0) + (this.control[word + 2]! >>> 0) * TWO_32;
    return { index, epoch, metaUnit: this.control[word]! >>> 0 };
  }

  /** Reclaims; waits up to 50 ms for readers if only they are in the way. True if there may be room now. */
  #makeRoom(units: number, reserve: boolean): boolean {
    this.reclaim();
    const missing = units - this.freeUnits(reserve);
    if (missing <= 0) return true;
    const pinned = this.#oldestPin();
    // Nothing visible is gone yet, or no reader stands in the way: waiting cannot help.
    if (pinned === Infinity || pinned === this.#stuckPin || this.#retiredUnits < missing) return false;
    if (this.#retired.frontRetire() > this.#epoch && this.#limboEnd === 0) return false;
    for (let waitedMs = 0; waitedMs < READER_WAIT_MS_MAX; waitedMs++) {
      Atomics.wait(this.control, WRITER_SLEEP_WORD, 0, 1);
      this.reclaim();
      if (this.freeUnits(reserve) >= units) return true;
    }
    this.#stuckPin = this.#oldestPin();
    return false;
  }
}

function orderOfUnits(units: number): number {
  if (units === 1) return 0;
  if (units === 2) return 1;
  if (units === 4) return 2;
  if (units === 8) return 3;
  throw invalidArgument(`a page has 1, 2, 4 or 8 units, not ${units}`);
}
