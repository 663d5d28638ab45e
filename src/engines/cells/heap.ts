/**
 * The memory of nodes: slabs of cells of one size, in pages of the arena.
 *
 *   slab   page header (kind 5) · count u16 @10 = granules of a cell · next u32 @20 = next slab of the engine
 *          cell · cell · cell …          from byte 24 on
 *
 *   sizes  8, 16, 24 … 256 bytes, then 16 steps per power of two: at most 1/17 of a cell above 256 bytes is empty, 7 bytes below
 *
 * Where cells are free is known to the writer only: a list through the first words of the free cells of each slab, and a list of the slabs of a
 * size that have some. A cell that was taken out of readers' sight waits in a queue until every reader that may stand on it has left; an empty
 * slab goes back to the arena. Pins of checkpoints do not count: whoever reads nodes for a checkpoint pins like any reader.
 *
 * Slabs are small while the engine has few cells of their size or the arena is not large: one unit, then up to eight. So a page of the smallest
 * kind is all that must be free for a cell, except for cells above 4,072 bytes, which take two units.
 *
 * After a writer's death its successor marks the cells that are in use; the others go through the queue, since readers may stand on them.
 * Threads: the shard's thread only.
 */
import { SEGMENT_UNIT_SHIFT, type ArenaWriter, type UnitId } from '../../shared/memory/arena.js';
import { COUNT_HALFWORD, KIND_BYTE, NEXT_WORD, PAGE_HEADER_BYTES, PageKind } from '../btree/page.js';
import {
  ADDRESSED_UNITS_MAX,
  ADDRESS_UNIT_SHIFT,
  FIRST_SLAB_WORD,
  GRANULE_BYTES,
  corruptNode,
  nodeSegment,
  nodeWord,
  pageWord,
} from './node.js';
import { PageList } from './page-list.js';

/** Largest cell that two units hold. A node with a key of 4,096 bytes and a value of 2,048 is below 6,400. */
export const NODE_BYTES_MAX = 7936;
const FINE_CLASSES = 32;
const CLASS_COUNT = classOf(Math.ceil(NODE_BYTES_MAX / GRANULE_BYTES)) + 1;
const HEADER_GRANULES = PAGE_HEADER_BYTES / GRANULE_BYTES;
const UNIT_GRANULES = 1 << ADDRESS_UNIT_SHIFT;
/** A slab larger than needed takes at most this part of what is free. */
const SPARE_SHARE_SHIFT = 10;

/** Size class of a cell of so many granules. */
function classOf(granules: number): number {
  if (granules <= FINE_CLASSES) return granules;
  const shift = 27 - Math.clz32(granules - 1);
  return FINE_CLASSES + 1 + ((shift - 1) << 4) + ((granules - 1) >> shift) - 16;
}

function granulesOf(cellClass: number): number {
  if (cellClass <= FINE_CLASSES) return cellClass;
  const step = cellClass - FINE_CLASSES - 1;
  return ((step & 15) + 17) << ((step >> 4) + 1);
}

/** Fewest units of a slab: log2. */
function leastOrderOf(granules: number): number {
  return granules + HEADER_GRANULES > UNIT_GRANULES ? 1 : 0;
}

/** Smallest node that gets a cell of the class. */
function leastBytesOf(cellClass: number): number {
  return granulesOf(cellClass - 1) * GRANULE_BYTES + 1;
}

/** The least bytes that nodes of so many different sizes have: one of each of the smallest sizes. */
const LEAST_BYTES = new Float64Array(CLASS_COUNT);
/** Bytes of nodes that a unit of a full slab holds at least: a node just above half a unit has one for itself. */
let bytesPerUnitMin = Infinity;
/** Smallest node whose slab has two units. */
let pairBytesMin = Infinity;
for (let cellClass = 1; cellClass < CLASS_COUNT; cellClass++) {
  const least = leastBytesOf(cellClass);
  const granules = granulesOf(cellClass);
  const order = leastOrderOf(granules);
  LEAST_BYTES[cellClass] = LEAST_BYTES[cellClass - 1]! + least;
  // Cells of up to 64 bytes are bounded by their number: see unitsNeeded().
  if (granules > 8) bytesPerUnitMin = Math.min(bytesPerUnitMin, (cellsOf(1 << order, granules) * least) >> order);
  if (order === 1) pairBytesMin = Math.min(pairBytesMin, least);
}
/** What slabs of small cells hold at least, where a node of one byte may take a cell of eight. */
const SMALL_CELLS_PER_UNIT_MIN = cellsOf(1, 8);

/** Which slab a unit belongs to: index in its heap. One table per arena; a unit is in one slab of one heap. */
const tables = new WeakMap<ArenaWriter, Int32Array>();

function slabTable(arena: ArenaWriter): Int32Array {
  let table = tables.get(arena);
  // Zeroed lazily by the operating system: it costs nothing where there are no slabs.
  if (table === undefined) tables.set(arena, (table = new Int32Array(arena.totalUnits)));
  return table;
}

export class CellHeap {
  readonly #arena: ArenaWriter;
  readonly #list: PageList;
  readonly #slabOf: Int32Array;

  // Per slab, by index; 0 is no slab.
  #unit = new Int32Array(16);
  #class = new Uint8Array(16);
  #units = new Uint8Array(16);
  #live = new Int32Array(16);
  /** First free cell, and the first cell that was never used; 0 if none. */
  #free = new Int32Array(16);
  #fresh = new Int32Array(16);
  /** While adopting: where the marks of the slab's cells begin. */
  #marks = new Int32Array(16);
  /** Neighbours in the list of slabs of the class with free cells; next also links unused indexes. */
  #next = new Int32Array(16);
  #previous = new Int32Array(16);
  #slabs = 1;
  #unusedSlab = 0;

  readonly #withFree = new Int32Array(CLASS_COUNT);
  readonly #unitsOfClass = new Int32Array(CLASS_COUNT);

  // Cells that wait for readers: a ring of (address, epoch at which they were taken out of sight). Epochs never decrease.
  #waiting = new Int32Array(256);
  #waitingEpoch = new Float64Array(256);
  #waitingFront = 0;
  #waitingCount = 0;

  #markBytes = new Uint8Array(0);
  #slabUnits = 0;
  #liveCells = 0;
  slabsAdded = 0;
  slabsRemoved = 0;
  /** Called before the heap asks the arena for a page, which may wait for readers. */
  beforeGrowth: () => void = () => undefined;

  constructor(arena: ArenaWriter) {
    this.#arena = arena;
    this.#list = new PageList(arena, FIRST_SLAB_WORD, NEXT_WORD);
    this.#slabOf = slabTable(arena);
  }

  /** On a new descriptor. */
  start(descriptor: UnitId): void {
    this.#list.open(descriptor, PageKind.Slab);
  }

  get slabUnits(): number {
    return this.#slabUnits;
  }

  get slabCount(): number {
    return this.#list.size;
  }

  /** Cells in use; those that wait for readers count no more. */
  get liveCells(): number {
    return this.#liveCells;
  }

  get waitingCells(): number {
    return this.#waitingCount;
  }

  /** A cell of at least so many bytes, with anything in it. @throws ERR_MEMORY_FULL, and nothing has changed */
  allocate(bytes: number): number {
    const cellClass = classOf((bytes + GRANULE_BYTES - 1) >>> 3);
    const slab = this.#withFree[cellClass]! || this.#grow(cellClass);
    let address = this.#free[slab]!;
    if (address !== 0) {
      this.#free[slab] = this.#arena.i32[nodeSegment(address)]![nodeWord(address)]!;
    } else {
      address = this.#fresh[slab]!;
      const next = address + granulesOf(cellClass);
      const end = (this.#unit[slab]! + this.#units[slab]!) * UNIT_GRANULES;
      // Unsigned in doubles: the last unit an address can name would overflow otherwise.
      this.#fresh[slab] = (next >>> 0) + granulesOf(cellClass) <= end ? next : 0;
    }
    if (this.#free[slab] === 0 && this.#fresh[slab] === 0) this.#unlist(slab, cellClass);
    this.#live[slab]!++;
    this.#liveCells++;
    return address;
  }

  /** Gives back a cell that no reader has seen. */
  free(address: number): void {
    this.#liveCells--;
    this.#release(address);
  }

  /** Gives back a cell that was just taken out of readers' sight, once those that stand on it have left. */
  retire(address: number): void {
    this.#liveCells--;
    this.#wait(address);
  }

  /** Makes cells usable that no reader can stand on any more. */
  drain(): void {
    const safeEpoch = this.#arena.safeEpoch;
    const mask = this.#waiting.length - 1;
    while (this.#waitingCount > 0 && this.#waitingEpoch[this.#waitingFront]! <= safeEpoch) {
      const address = this.#waiting[this.#waitingFront]!;
      this.#waitingFront = (this.#waitingFront + 1) & mask;
      this.#waitingCount--;
      this.#release(address);
    }
  }

  /** As drain(), after a look at where readers are. */
  reclaim(): void {
    if (this.#waitingCount === 0) return;
    if (this.#waitingEpoch[this.#waitingFront]! < this.#arena.unpublishedEpoch) this.#arena.reclaim();
    this.drain();
  }

  /**
   * A bound of the units that so many more nodes of so many bytes in all take: one slab for each size that may occur, all that is in full slabs,
   * and what slabs larger than needed take too much. Bytes may include those of values in chains: a page of a chain holds no less.
   */
  unitsNeeded(cells: number, bytes: number): number {
    const classes = classesOf(cells, bytes);
    return this.#unitsOf(classes, cells, bytes);
  }

  /** The same bound, less what the free cells of the sizes make impossible. Slower: for when memory is short. */
  unitsNeededAtLeast(cells: number, bytes: number): number {
    const costs: number[] = [];
    const numbers: number[] = [];
    for (let cellClass = 1; cellClass < CLASS_COUNT; cellClass++) {
      const needed = this.#freeCells(cellClass, cells) + 1;
      numbers.push(needed);
      costs.push(needed * leastBytesOf(cellClass));
    }
    costs.sort((a, b) => a - b);
    numbers.sort((a, b) => a - b);
    let classes = 0;
    for (let bytesLeft = bytes, cellsLeft = cells; classes < costs.length; classes++) {
      bytesLeft -= costs[classes]!;
      cellsLeft -= numbers[classes]!;
      if (bytesLeft < 0 || cellsLeft < 0) break;
    }
    return this.#unitsOf(classes, cells, bytes);
  }

  #unitsOf(classes: number, cells: number, bytes: number): number {
    const spare = this.#spareUnits();
    return (
      classes * (1 + (spare > 1 ? spare : 0)) +
      this.pairsNeeded(bytes) +
      (classes === 0 ? 0 : Math.ceil(cells / SMALL_CELLS_PER_UNIT_MIN) + Math.ceil(bytes / bytesPerUnitMin))
    );
  }

  /** Cells that need two units each may be among cells of so many bytes. */
  pairsNeeded(bytes: number): number {
    return Math.floor(bytes / pairBytesMin);
  }

  /** All pages go back to the arena when readers have left; the heap is empty. `isPinnable`: as in ArenaWriter.retire(). */
  destroy(isPinnable = true): void {
    for (const unit of this.#list.units) {
      this.#forgetUnits(unit, this.#arena.unitsOf(unit));
      this.#arena.retire(unit, isPinnable);
    }
    this.#list.forget();
    this.#slabs = 1;
    this.#unusedSlab = 0;
    this.#withFree.fill(0);
    this.#unitsOfClass.fill(0);
    this.#waitingCount = 0;
    this.#slabUnits = 0;
    this.#liveCells = 0;
  }

  // ---- adoption -----------------------------------------------------------------------------------------------------------------

  /** Takes over the slabs of a dead writer. mark() every cell in use, then endAdoption(). @throws ERR_CORRUPT */
  beginAdoption(descriptor: UnitId): void {
    const arena = this.#arena;
    this.#list.open(descriptor, PageKind.Slab);
    let cells = 0;
    for (const unit of this.#list.units) {
      const granules = arena.u16[unit >>> SEGMENT_UNIT_SHIFT]![pageWord(unit) * 2 + COUNT_HALFWORD]!;
      const cellClass = classOf(granules);
      if (granules === 0 || cellClass >= CLASS_COUNT || granulesOf(cellClass) !== granules) {
        throw corruptNode(unit * UNIT_GRANULES, `a slab of cells of ${granules} granules`);
      }
      const units = arena.unitsOf(unit);
      const slab = this.#newSlab(unit, units, cellClass);
      this.#marks[slab] = cells;
      cells += cellsOf(units, granules);
    }
    this.#markBytes = new Uint8Array(cells);
  }

  /** @throws ERR_CORRUPT if no cell begins there, or it was marked before */
  mark(address: number): void {
    const slab = this.#slabAt(address);
    const granules = slab === 0 ? 1 : granulesOf(this.#class[slab]!);
    const distance = (address >>> 0) - this.#unit[slab]! * UNIT_GRANULES - HEADER_GRANULES;
    const index = distance / granules;
    if (slab === 0 || !Number.isInteger(index) || index < 0 || index >= cellsOf(this.#units[slab]!, granules)) {
      throw corruptNode(address, 'no cell of the heap begins here');
    }
    const at = this.#marks[slab]! + index;
    if (this.#markBytes[at] !== 0) throw corruptNode(address, 'two ways lead to a cell');
    this.#markBytes[at] = 1;
    this.#live[slab]!++;
    this.#liveCells++;
  }

  /** What was not marked waits until no reader of the dead writer's time is left. */
  endAdoption(): void {
    for (const unit of this.#list.units) {
      const slab = this.#slabOf[unit]!;
      const granules = granulesOf(this.#class[slab]!);
      const cells = cellsOf(this.#units[slab]!, granules);
      for (let index = 0; index < cells; index++) {
        if (this.#markBytes[this.#marks[slab]! + index] !== 0) continue;
        this.#live[slab]!++;
        this.#wait((unit * UNIT_GRANULES + HEADER_GRANULES + index * granules) | 0);
      }
    }
    this.#markBytes = new Uint8Array(0);
  }

  /** Problems of the lists of free cells, when so many cells are in use. */
  check(usedCells: number): string[] {
    const problems: string[] = [];
    let live = 0;
    let units = 0;
    for (const unit of this.#list.units) {
      const slab = this.#slabOf[unit]!;
      const granules = granulesOf(this.#class[slab]!);
      live += this.#live[slab]!;
      units += this.#units[slab]!;
      let free = 0;
      const cells = cellsOf(this.#units[slab]!, granules);
      for (let address = this.#free[slab]!; address !== 0 && free <= cells; free++) {
        if (this.#slabAt(address) !== slab) problems.push(`slab ${unit}: a free cell of another slab`);
        address = this.#arena.i32[nodeSegment(address)]![nodeWord(address)]!;
      }
      const fresh = this.#fresh[slab]!;
      if (fresh !== 0) {
        free += Math.floor(((unit + this.#units[slab]!) * UNIT_GRANULES - (fresh >>> 0)) / granules);
      }
      if (free + this.#live[slab]! !== cells) {
        problems.push(`slab ${unit}: ${free} free and ${this.#live[slab]!} used of ${cells} cells`);
      }
    }
    if (live !== usedCells + this.#waitingCount) {
      problems.push(`heap: ${live} cells are taken, ${usedCells} in use and ${this.#waitingCount} waiting`);
    }
    if (units !== this.#slabUnits) problems.push(`heap: ${units} units in slabs, counted ${this.#slabUnits}`);
    return problems;
  }

  // ---- small parts --------------------------------------------------------------------------------------------------------------

  #slabAt(address: number): number {
    const unit = address >>> ADDRESS_UNIT_SHIFT;
    const slab = this.#slabOf[unit] ?? 0;
    // The table is shared by the heaps of the arena.
    if (slab === 0 || slab >= this.#slabs) return 0;
    const first = this.#unit[slab]!;
    return unit >= first && unit < first + this.#units[slab]! && this.#list.has(first) ? slab : 0;
  }

  #wait(address: number): void {
    if (this.#waitingCount === this.#waiting.length) this.#growQueue();
    const at = (this.#waitingFront + this.#waitingCount++) & (this.#waiting.length - 1);
    this.#waiting[at] = address;
    this.#waitingEpoch[at] = this.#arena.unpublishedEpoch;
  }

  #growQueue(): void {
    const length = this.#waiting.length;
    const waiting = new Int32Array(length * 2);
    const epochs = new Float64Array(length * 2);
    const head = length - this.#waitingFront;
    waiting.set(this.#waiting.subarray(this.#waitingFront));
    waiting.set(this.#waiting.subarray(0, this.#waitingFront), head);
    epochs.set(this.#waitingEpoch.subarray(this.#waitingFront));
    epochs.set(this.#waitingEpoch.subarray(0, this.#waitingFront), head);
    this.#waiting = waiting;
    this.#waitingEpoch = epochs;
    this.#waitingFront = 0;
  }

  #release(address: number): void {
    const slab = this.#slabOf[address >>> ADDRESS_UNIT_SHIFT]!;
    const cellClass = this.#class[slab]!;
    if (--this.#live[slab]! === 0) {
      if (this.#free[slab] !== 0 || this.#fresh[slab] !== 0) this.#unlist(slab, cellClass);
      this.#removeSlab(slab);
      return;
    }
    if (this.#free[slab] === 0 && this.#fresh[slab] === 0) this.#enlist(slab, cellClass);
    this.#arena.i32[nodeSegment(address)]![nodeWord(address)] = this.#free[slab]!;
    this.#free[slab] = address;
  }

  /** A slab of the class with free cells. @throws ERR_MEMORY_FULL */
  #grow(cellClass: number): number {
    this.reclaim();
    const found = this.#withFree[cellClass]!;
    if (found !== 0) return found;
    this.beforeGrowth();
    const arena = this.#arena;
    const granules = granulesOf(cellClass);
    const least = leastOrderOf(granules);
    let order = Math.max(least, this.#wantedOrder(cellClass, granules));
    const counts = [0, 0, 0, 0];
    for (; order > least; order--) {
      counts.fill(0)[order] = 1;
      if (arena.canAllocate(counts, arena.reserveMode)) break;
    }
    const unit = arena.allocate(order === 0 ? 1 : order === 1 ? 2 : order === 2 ? 4 : 8);
    if (unit + (1 << order) > ADDRESSED_UNITS_MAX) {
      arena.free(unit);
      throw arena.memoryFull(1 << order);
    }
    const word = pageWord(unit);
    const segment = unit >>> SEGMENT_UNIT_SHIFT;
    const words = arena.u32[segment]!;
    words[word + 3] = 0;
    words[word + 4] = 0;
    arena.u8[segment]![word * 4 + KIND_BYTE] = PageKind.Slab;
    arena.u16[segment]![word * 2 + COUNT_HALFWORD] = granules;
    this.#list.add(unit);
    const slab = this.#newSlab(unit, 1 << order, cellClass);
    this.#fresh[slab] = (unit * UNIT_GRANULES + HEADER_GRANULES) | 0;
    this.#enlist(slab, cellClass);
    this.slabsAdded++;
    return slab;
  }

  /** log2 of the units of the next slab: more where there are many of the class and memory is plenty, or where cells fit badly. */
  #wantedOrder(cellClass: number, granules: number): number {
    const present = this.#unitsOfClass[cellClass]!;
    let order = present < 4 ? 0 : present < 12 ? 1 : present < 48 ? 2 : 3;
    while (order < 3 && wasteOf(1 << order, granules) > (UNIT_GRANULES << order) >> 3) order++;
    const spare = this.#spareUnits();
    while (order > 0 && 1 << order > spare) order--;
    return order;
  }

  /** Units that a slab may have if it need not. Small in a nearly full arena: admission counts on it. */
  #spareUnits(): number {
    const arena = this.#arena;
    const free = arena.freeUnits();
    return free < arena.totalUnits >>> 2 ? 1 : Math.min(8, free >>> SPARE_SHARE_SHIFT);
  }

  #newSlab(unit: UnitId, units: number, cellClass: number): number {
    let slab = this.#unusedSlab;
    if (slab !== 0) this.#unusedSlab = this.#next[slab]!;
    else {
      slab = this.#slabs++;
      if (slab === this.#unit.length) this.#growTable();
    }
    this.#unit[slab] = unit;
    this.#units[slab] = units;
    this.#class[slab] = cellClass;
    this.#live[slab] = 0;
    this.#free[slab] = 0;
    this.#fresh[slab] = 0;
    for (let index = 0; index < units; index++) this.#slabOf[unit + index] = slab;
    this.#unitsOfClass[cellClass]! += units;
    this.#slabUnits += units;
    return slab;
  }

  #growTable(): void {
    const length = this.#unit.length * 2;
    const grown = (from: Int32Array<ArrayBuffer>): Int32Array<ArrayBuffer> => {
      const into = new Int32Array(length);
      into.set(from);
      return into;
    };
    const grownBytes = (from: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer> => {
      const into = new Uint8Array(length);
      into.set(from);
      return into;
    };
    this.#unit = grown(this.#unit);
    this.#live = grown(this.#live);
    this.#free = grown(this.#free);
    this.#fresh = grown(this.#fresh);
    this.#marks = grown(this.#marks);
    this.#next = grown(this.#next);
    this.#previous = grown(this.#previous);
    this.#class = grownBytes(this.#class);
    this.#units = grownBytes(this.#units);
  }

  /** No cell of it is in use, and none is waiting: no reader stands on it. */
  #removeSlab(slab: number): void {
    const unit = this.#unit[slab]!;
    const units = this.#units[slab]!;
    this.#unitsOfClass[this.#class[slab]!]! -= units;
    this.#slabUnits -= units;
    this.#list.remove(unit);
    this.#forgetUnits(unit, units);
    this.#arena.free(unit);
    this.#next[slab] = this.#unusedSlab;
    this.#unusedSlab = slab;
    this.slabsRemoved++;
  }

  #forgetUnits(unit: UnitId, units: number): void {
    this.#slabOf.fill(0, unit, unit + units);
  }

  #enlist(slab: number, cellClass: number): void {
    const head = this.#withFree[cellClass]!;
    this.#next[slab] = head;
    this.#previous[slab] = 0;
    if (head !== 0) this.#previous[head] = slab;
    this.#withFree[cellClass] = slab;
  }

  #unlist(slab: number, cellClass: number): void {
    const next = this.#next[slab]!;
    const previous = this.#previous[slab]!;
    if (previous !== 0) this.#next[previous] = next;
    else this.#withFree[cellClass] = next;
    if (next !== 0) this.#previous[next] = previous;
  }

  /** Free cells of the class, counted up to `limit`. */
  #freeCells(cellClass: number, limit: number): number {
    const granules = granulesOf(cellClass);
    let cells = 0;
    for (let slab = this.#withFree[cellClass]!; slab !== 0 && cells < limit; slab = this.#next[slab]!) {
      cells += cellsOf(this.#units[slab]!, granules) - this.#live[slab]!;
    }
    return cells;
  }
}

function cellsOf(units: number, granules: number): number {
  return Math.floor((units * UNIT_GRANULES - HEADER_GRANULES) / granules);
}

function wasteOf(units: number, granules: number): number {
  return units * UNIT_GRANULES - HEADER_GRANULES - cellsOf(units, granules) * granules;
}

/** How many different sizes may occur among so many cells of so many bytes in all. */
function classesOf(cells: number, bytes: number): number {
  let classes = Math.min(cells, CLASS_COUNT - 1);
  while (classes > 0 && LEAST_BYTES[classes]! > bytes) classes--;
  return classes;
}
