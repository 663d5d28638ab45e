/**
 * A sorted map from keys to two words each, in arena pages, built at once: the tables of a run, the blocks of a table.
 *
 *   offset  size  field         page (level byte 3)
 *       10     2  count         entries, 1 …
 *       12     2  prefixLength  of what all keys of the page have in common
 *       24     4  height        0: the words are the user's; else `a` is the unit of a page one lower, and the key its last one
 *       32     …  prefix · pad to 4 · tops u32[⌈count / 16⌉] · pad to 64 · heads u32[count] · (a u32 · b u32 · note u32)[count] · ends u16[count] · suffixes
 *
 * A head is the first 4 bytes, big-endian and zero-padded, of the key behind the prefix, a top the last head of each 16; `ends` are where the suffixes (the keys
 * behind the prefix) end, counted from the first suffix. So a search looks at the tops, then at one cache line of heads, and touches a key only where heads are
 * equal.
 *
 * A note is 0 when the page is made; readers of any thread may leave one for each other, which says where they found what the entry leads to, or may be
 * anything. Where all b are less than 2^31, readers may also set the top bit of one, the entry's mark. Nothing else of a page ever changes.
 *
 * A search looks for the first entry whose key is ≥ the one given: keys are upper bounds of what the entry stands for. Keys ascend; equal ones may follow
 * each other.
 *
 * Bytes are trusted no further than they must: heights fall with each step down, and offsets are checked against the page.
 * Threads: FenceCursor any, under a pin, one per thread; building the shard thread only.
 */
import { SEGMENT_UNIT_SHIFT, type ArenaReader, type ArenaWriter, type UnitId } from '../../../shared/memory/arena.js';
import { COUNT_HALFWORD, PREFIX_LENGTH_HALFWORD, corruptPage, headOf } from '../../btree/page.js';
import {
  LSM_PAGE_BYTES_MAX,
  LsmPage,
  allocateLsmPage,
  canAllocateClass,
  checkLsmPage,
  classFor,
  lsmPageBytes,
  lsmPageUnits,
  releaseLsmPage,
} from './page.js';

const HEIGHT_WORD = 6;
const PREFIX_OFFSET = 32;
/** Head, a, b, note, end. */
const ENTRY_BYTES = 18;
const VALUE_WORDS = 3;
/** Of `b`. */
export const FENCE_MARK = 0x80000000;
/** Heads of a cache line: each such group has a top. */
const GROUP_ENTRIES = 16;
const GROUP_SHIFT = 4;
/** Of the words of a cache line. */
const LINE_MASK = 15;
/** One unit: the fewer keys a page has, the more they have in common, and the more of the rest is in their heads. */
const PAGE_BYTES_TARGET = 4096;
/** Of those, without what comes before the tops and heads, and what lies between. */
const PAGE_BYTES_ROOM = PAGE_BYTES_TARGET - PREFIX_OFFSET - 64 - 4;
/** Entries of a page of that size, and one more. */
const PENDING_MAX = Math.ceil(PAGE_BYTES_TARGET / ENTRY_BYTES) + 1;
/** Entries that a search looks at one by one. */
const EQUAL_HEADS_NEAR = 4;
/** Two keys of 4 KiB in a page of 32 KiB at least: 2^32 entries are far below it. */
const TREE_HEIGHT_MAX = 24;

function commonLength(one: Uint8Array, other: Uint8Array, limit: number): number {
  let length = 0;
  while (length < limit && one[length] === other[length]) length++;
  return length;
}

/** Of entries from … to with keys ascending. */
function pageBytesOf(prefixLength: number, keyBytes: number, count: number): number {
  return headsWord(prefixLength, count) * 4 + count * ENTRY_BYTES + keyBytes - count * prefixLength;
}

function topsWord(prefixLength: number): number {
  return (PREFIX_OFFSET + prefixLength + 3) >>> 2;
}

/** Of the page, which begins at a cache line. */
function headsWord(prefixLength: number, count: number): number {
  return (topsWord(prefixLength) + ((count + GROUP_ENTRIES - 1) >>> GROUP_SHIFT) + LINE_MASK) & ~LINE_MASK;
}

/** Entries of a page that is not full yet, their keys one behind the other. */
class PendingEntries {
  keys = new Uint8Array(PAGE_BYTES_TARGET);
  /** Of the keys. */
  readonly ends = new Uint32Array(PENDING_MAX);
  readonly a = new Uint32Array(PENDING_MAX);
  readonly b = new Uint32Array(PENDING_MAX);
  count = 0;
  /** Bytes that all keys begin with. */
  prefixLength = 0;

  get keyBytes(): number {
    return this.startOf(this.count);
  }

  startOf(index: number): number {
    return index === 0 ? 0 : this.ends[index - 1]!;
  }

  push(key: Uint8Array, keyLength: number, a: number, b: number, prefixLength: number): void {
    const { count, keyBytes } = this;
    if (keyBytes + keyLength > this.keys.length) {
      const larger = new Uint8Array(2 * (keyBytes + keyLength));
      larger.set(this.keys);
      this.keys = larger;
    }
    copyBytes(key, 0, keyLength, this.keys, keyBytes);
    this.ends[count] = keyBytes + keyLength;
    this.a[count] = a;
    this.b[count] = b;
    this.count = count + 1;
    this.prefixLength = prefixLength;
  }
}

/** Most keys are so short that a loop is faster than to make a view of them. */
const SHORT_BYTES = 64;

function copyBytes(from: Uint8Array, start: number, end: number, into: Uint8Array, at: number): void {
  if (end - start > SHORT_BYTES) into.set(from.subarray(start, end), at);
  else for (let index = start; index < end; index++) into[at++] = from[index]!;
}

/** Collects entries in key order and makes pages of them. Whatever fails, abort() gives all of them back. */
export class FenceTreeBuilder {
  readonly #arena: ArenaWriter;
  readonly #pages: UnitId[] = [];
  /** By height. */
  readonly #pending: PendingEntries[] = [];
  #count = 0;
  #units = 0;

  constructor(arena: ArenaWriter) {
    this.#arena = arena;
  }

  get count(): number {
    return this.#count;
  }

  /** Of the pages so far. */
  get units(): number {
    return this.#units;
  }

  /** The key is key[0, keyLength). @throws ERR_MEMORY_FULL */
  add(key: Uint8Array, keyLength: number, a: number, b: number): void {
    this.#count++;
    this.#add(0, key, keyLength, a, b);
  }

  /** Unit of the root, 0 if nothing was added. @throws ERR_MEMORY_FULL */
  finish(): UnitId {
    for (let height = 0; height < this.#pending.length; height++) {
      const entries = this.#pending[height]!;
      const isTop = height === this.#pending.length - 1;
      if (isTop && height > 0 && entries.count === 1) return entries.a[0]!;
      if (entries.count > 0) this.#flush(height, entries);
    }
    return 0;
  }

  abort(): void {
    for (const unit of this.#pages) releaseLsmPage(this.#arena, unit);
    this.#pages.length = 0;
    this.#units = 0;
  }

  #add(height: number, key: Uint8Array, keyLength: number, a: number, b: number): void {
    const entries = (this.#pending[height] ??= new PendingEntries());
    const prefixOf = (): number =>
      entries.count === 0 ? keyLength : commonLength(entries.keys, key, Math.min(entries.prefixLength, keyLength));
    const { count } = entries;
    if (count >= 2 && pageBytesOf(prefixOf(), entries.keyBytes + keyLength, count + 1) > PAGE_BYTES_TARGET)
      this.#flush(height, entries);
    entries.push(key, keyLength, a, b, prefixOf());
  }

  #flush(height: number, entries: PendingEntries): void {
    this.#write(height, entries, 0, entries.count);
    entries.count = 0;
  }

  /** As one page, or as two halves where there is no room for a large one. */
  #write(height: number, entries: PendingEntries, from: number, to: number): void {
    const arena = this.#arena;
    const { keys, ends } = entries;
    const count = to - from;
    const firstAt = entries.startOf(from);
    const lastAt = entries.startOf(to - 1);
    const first = keys.subarray(firstAt, ends[from]);
    const last = keys.subarray(lastAt, ends[to - 1]);
    const prefixLength = commonLength(first, last, Math.min(first.length, last.length));
    const pageClass = classFor(pageBytesOf(prefixLength, ends[to - 1]! - firstAt, count))!;
    if (count >= 4 && !canAllocateClass(arena, pageClass)) {
      const middle = (from + to) >>> 1;
      this.#write(height, entries, from, middle);
      this.#write(height, entries, middle, to);
      return;
    }
    const unit = allocateLsmPage(arena, LsmPage.Fence, pageClass);
    this.#pages.push(unit);
    this.#units += 1 << pageClass;
    const segment = unit >>> SEGMENT_UNIT_SHIFT;
    const u8 = arena.u8[segment]!;
    const u16 = arena.u16[segment]!;
    const u32 = arena.u32[segment]!;
    const base = checkLsmPage(arena, unit, LsmPage.Fence);
    u16[(base >>> 1) + COUNT_HALFWORD] = count;
    u16[(base >>> 1) + PREFIX_LENGTH_HALFWORD] = prefixLength;
    u32[(base >>> 2) + HEIGHT_WORD] = height;
    u8.set(first.subarray(0, prefixLength), base + PREFIX_OFFSET);
    const tops = (base >>> 2) + topsWord(prefixLength);
    const heads = (base >>> 2) + headsWord(prefixLength, count);
    const endsAt = (heads + (1 + VALUE_WORDS) * count) * 2;
    const suffixes = endsAt * 2 + count * 2;
    let end = 0;
    let keyAt = firstAt;
    for (let index = 0; index < count; index++) {
      const suffixAt = keyAt + prefixLength;
      keyAt = ends[from + index]!;
      const head = headOf(keys, suffixAt, keyAt - suffixAt);
      u32[heads + index] = head;
      u32[tops + (index >>> GROUP_SHIFT)] = head;
      const value = heads + count + VALUE_WORDS * index;
      u32[value] = entries.a[from + index]!;
      u32[value + 1] = entries.b[from + index]!;
      u32[value + 2] = 0;
      copyBytes(keys, suffixAt, keyAt, u8, suffixes + end);
      end += keyAt - suffixAt;
      u16[endsAt + index] = end;
    }
    this.#add(height + 1, last, last.length, unit, 0);
  }
}

/** A safe bound of the units that a tree of so many entries with keys of so many bytes in all takes. */
export function fenceTreeUnits(count: number, keyBytes: number): number {
  if (count === 0) return 0;
  // Two pages that follow each other have together more than one page's bytes; each height has at most half the pages of the one below.
  const leaves = Math.ceil((2 * (count * (ENTRY_BYTES + 4 / GROUP_ENTRIES) + keyBytes)) / PAGE_BYTES_ROOM) + 1;
  return (PAGE_BYTES_TARGET / 4096) * (2 * leaves + 2);
}

/** Reports every page of the tree and, in key order, what its lowest entries say. @throws ERR_CORRUPT */
export function walkFenceTree(
  arena: ArenaReader,
  root: UnitId,
  onPage: (unit: UnitId, units: number) => void,
  onEntry: (a: number, b: number) => void,
): void {
  const visit = (unit: UnitId, heightBelow: number): void => {
    const page = readFencePage(arena, unit);
    if (page.height >= heightBelow) throw corruptPage(unit, `height ${page.height} below ${heightBelow}`);
    const words = arena.u32[unit >>> SEGMENT_UNIT_SHIFT]!;
    for (let index = 0; index < page.count; index++) {
      const value = page.heads + page.count + VALUE_WORDS * index;
      const a = words[value]!;
      if (page.height === 0) onEntry(a, words[value + 1]!);
      else visit(a, page.height);
    }
    onPage(unit, lsmPageUnits(arena, unit));
  };
  if (root !== 0) visit(root, TREE_HEIGHT_MAX);
}

interface FencePage {
  readonly height: number;
  readonly count: number;
  /** Word of the heads in the segment. */
  readonly heads: number;
}

function readFencePage(arena: ArenaReader, unit: UnitId): FencePage {
  const base = checkLsmPage(arena, unit, LsmPage.Fence);
  const segment = unit >>> SEGMENT_UNIT_SHIFT;
  const count = arena.u16[segment]![(base >>> 1) + COUNT_HALFWORD]!;
  const prefixLength = arena.u16[segment]![(base >>> 1) + PREFIX_LENGTH_HALFWORD]!;
  const heads = (base >>> 2) + headsWord(prefixLength, count);
  checkRoom(arena, unit, base, heads, count);
  return { height: arena.u32[segment]![(base >>> 2) + HEIGHT_WORD]!, count, heads };
}

function checkRoom(arena: ArenaReader, unit: UnitId, base: number, heads: number, count: number): void {
  if (count === 0 || heads * 4 + count * ENTRY_BYTES - base > lsmPageBytes(arena, unit)) {
    throw corruptPage(unit, `${count} entries do not fit the page`);
  }
}

/**
 * The place in words[from, from + count), which ascend, of the first that is not less than the head, or of the last one. Halves without a branch, which a
 * processor could only guess. Heads lose their last bit, so that differences fit 32.
 */
function lessThan(words: Uint32Array, from: number, count: number, head: number): number {
  const wanted = head >>> 1;
  let low = from;
  for (let rest = count; rest > 1;) {
    const half = rest >>> 1;
    low += half & (((words[low + half - 1]! >>> 1) - wanted) >> 31);
    rest -= half;
  }
  return low;
}

/** A place in a tree. */
export class FenceCursor {
  readonly #arena: ArenaReader;
  /** By height, the page that was entered and the entry in it. */
  readonly #units = new Uint32Array(TREE_HEIGHT_MAX);
  readonly #indexes = new Int32Array(TREE_HEIGHT_MAX);
  #top = 0;
  /** Words of the entry. */
  a = 0;
  b = 0;
  valid = false;
  // Of the page that was entered last.
  #segment = 0;
  #heads = 0;
  /** Of the entry. */
  #noteWord = 0;
  #count = 0;
  #height = 0;
  #base = 0;
  #prefixLength = 0;
  /** An entry whose key compares with the one that is looked for as less than this is passed over. */
  #below = 0;

  constructor(arena: ArenaReader) {
    this.#arena = arena;
  }

  /** To the first entry with a key ≥ the given one, or > it. False if there is none. @throws ERR_CORRUPT */
  seek(root: UnitId, key: Uint8Array, keyLength: number, isAfter = false): boolean {
    this.valid = false;
    this.#below = isAfter ? 1 : 0;
    if (root === 0) return false;
    let unit = root;
    this.#enter(unit, TREE_HEIGHT_MAX);
    this.#top = this.#height;
    for (;;) {
      const index = this.#search(unit, key, keyLength);
      // Below the top a page's last key is its parent's, which was found to be large enough.
      if (index === this.#count) {
        if (this.#height === this.#top) return false;
        throw corruptPage(unit, 'its keys end before the one that leads here');
      }
      const height = this.#height;
      this.#units[height] = unit;
      this.#indexes[height] = index;
      if (height === 0) {
        this.#take(index);
        return true;
      }
      unit = this.#wordA(index);
      this.#enter(unit, height);
    }
  }

  first(root: UnitId): boolean {
    return this.#edge(root, false);
  }

  last(root: UnitId): boolean {
    return this.#edge(root, true);
  }

  /** To the next entry; not valid behind the last one. */
  next(): boolean {
    return this.valid && this.#step(1);
  }

  prev(): boolean {
    return this.valid && this.#step(-1);
  }

  /** Whether the entry that seek() found has that key. Right after it. */
  keyEquals(key: Uint8Array, keyLength: number): boolean {
    const prefixLength = this.#prefixLength;
    if (keyLength < prefixLength) return false;
    const index = this.#indexes[0]!;
    const head = headOf(key, prefixLength, keyLength - prefixLength);
    if (this.#arena.u32[this.#segment]![this.#heads + index] !== head) return false;
    const u8 = this.#arena.u8[this.#segment]!;
    const prefixAt = this.#base + PREFIX_OFFSET;
    for (let at = 0; at < prefixLength; at++) if (u8[prefixAt + at] !== key[at]) return false;
    return this.#compareSuffix(this.#units[0]!, index, key, keyLength) === 0;
  }

  /** The entry's key to into[0 …], at least KEY_BYTES_MAX long; returns its length. Once after the cursor came here. */
  copyKey(into: Uint8Array): number {
    const index = this.#indexes[0]!;
    this.#enter(this.#units[0]!, 1);
    const arena = this.#arena;
    const u8 = arena.u8[this.#segment]!;
    const count = this.#count;
    const ends = (this.#heads + (1 + VALUE_WORDS) * count) * 2;
    const suffixes = ends * 2 + count * 2;
    const u16 = arena.u16[this.#segment]!;
    const start = index === 0 ? 0 : u16[ends + index - 1]!;
    const length = u16[ends + index]! - start;
    const prefixLength = this.#prefixLength;
    if (
      length < 0 ||
      prefixLength + length > into.length ||
      suffixes + start + length - this.#base > this.#pageBytes()
    ) {
      throw corruptPage(this.#units[0]!, `entry ${index} reaches beyond the page`);
    }
    for (let at = 0; at < prefixLength; at++) into[at] = u8[this.#base + PREFIX_OFFSET + at]!;
    for (let at = 0; at < length; at++) into[prefixLength + at] = u8[suffixes + start + at]!;
    return prefixLength + length;
  }

  #edge(root: UnitId, atEnd: boolean): boolean {
    this.valid = false;
    if (root === 0) return false;
    this.#enter(root, TREE_HEIGHT_MAX);
    this.#top = this.#height;
    this.#units[this.#height] = root;
    this.#indexes[this.#height] = atEnd ? this.#count - 1 : 0;
    this.#descend(this.#height, atEnd);
    return true;
  }

  #step(by: number): boolean {
    let height = 0;
    for (;;) {
      this.#enter(this.#units[height]!, height + 1);
      const index = this.#indexes[height]! + by;
      if (index >= 0 && index < this.#count) {
        this.#indexes[height] = index;
        this.#descend(height, by < 0);
        return true;
      }
      if (height === this.#top) {
        this.valid = false;
        return false;
      }
      height++;
    }
  }

  /** From the entry of the page of that height, which is entered, down along an edge. */
  #descend(from: number, atEnd: boolean): void {
    let height = from;
    while (height > 0) {
      const unit = this.#wordA(this.#indexes[height]!);
      this.#enter(unit, height);
      height = this.#height;
      this.#units[height] = unit;
      this.#indexes[height] = atEnd ? this.#count - 1 : 0;
    }
    this.#take(this.#indexes[0]!);
  }

  #take(index: number): void {
    const words = this.#arena.u32[this.#segment]!;
    const value = this.#heads + this.#count + VALUE_WORDS * index;
    this.a = words[value]!;
    this.b = words[value + 1]!;
    this.#noteWord = value + 2;
    this.valid = true;
  }

  /** From now on b, for whoever comes here, has the mark. */
  mark(): void {
    Atomics.or(this.#arena.u32[this.#segment]!, this.#noteWord - 1, FENCE_MARK);
  }

  /** Of the entry: see the head of this file. */
  get note(): number {
    return this.#arena.u32[this.#segment]![this.#noteWord]!;
  }

  set note(note: number) {
    this.#arena.u32[this.#segment]![this.#noteWord] = note;
  }

  #wordA(index: number): number {
    return this.#arena.u32[this.#segment]![this.#heads + this.#count + VALUE_WORDS * index]!;
  }

  #pageBytes(): number {
    return lsmPageBytes(this.#arena, (this.#segment << SEGMENT_UNIT_SHIFT) + (this.#base >>> 12));
  }

  #enter(unit: UnitId, heightBelow: number): void {
    const arena = this.#arena;
    const base = checkLsmPage(arena, unit, LsmPage.Fence);
    const segment = unit >>> SEGMENT_UNIT_SHIFT;
    const u16 = arena.u16[segment]!;
    const count = u16[(base >>> 1) + COUNT_HALFWORD]!;
    const prefixLength = u16[(base >>> 1) + PREFIX_LENGTH_HALFWORD]!;
    const heads = (base >>> 2) + headsWord(prefixLength, count);
    checkRoom(arena, unit, base, heads, count);
    const height = arena.u32[segment]![(base >>> 2) + HEIGHT_WORD]!;
    // Pages of one height all the way: a tree has no leaf higher than others.
    if (heightBelow === TREE_HEIGHT_MAX ? height >= heightBelow : height !== heightBelow - 1) {
      throw corruptPage(unit, `height ${height} where ${heightBelow - 1} is due`);
    }
    this.#segment = segment;
    this.#base = base;
    this.#count = count;
    this.#prefixLength = prefixLength;
    this.#heads = heads;
    this.#height = height;
  }

  /** Index of the first entry of the entered page with a key that is large enough. */
  #search(unit: UnitId, key: Uint8Array, keyLength: number): number {
    const arena = this.#arena;
    const segment = this.#segment;
    const u8 = arena.u8[segment]!;
    const words = arena.u32[segment]!;
    const count = this.#count;
    const prefixLength = this.#prefixLength;
    const prefixAt = this.#base + PREFIX_OFFSET;
    const shared = keyLength < prefixLength ? keyLength : prefixLength;
    for (let index = 0; index < shared; index++) {
      const difference = key[index]! - u8[prefixAt + index]!;
      if (difference !== 0) return difference < 0 ? 0 : count;
    }
    if (keyLength < prefixLength) return 0;
    const heads = this.#heads;
    const head = headOf(key, prefixLength, keyLength - prefixLength);
    const tops = (this.#base >>> 2) + topsWord(prefixLength);
    const group = (lessThan(words, tops, (count + GROUP_ENTRIES - 1) >>> GROUP_SHIFT, head) - tops) << GROUP_SHIFT;
    const rest = count - group;
    let low = lessThan(words, heads + group, rest < GROUP_ENTRIES ? rest : GROUP_ENTRIES, head) - heads;
    // Few heads are equal, mostly: one after the other, and by halves where they are many.
    const near = low + EQUAL_HEADS_NEAR < count ? low + EQUAL_HEADS_NEAR : count;
    for (; low < near; low++) if (!this.#isBelow(unit, low, head, key, keyLength)) return low;
    let high = count;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#isBelow(unit, middle, head, key, keyLength)) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  #isBelow(unit: UnitId, index: number, head: number, key: Uint8Array, keyLength: number): boolean {
    const other = this.#arena.u32[this.#segment]![this.#heads + index]!;
    return other < head || (other === head && this.#compareSuffix(unit, index, key, keyLength) < this.#below);
  }

  /** The entry's suffix against the rest of the key; the heads are equal. */
  #compareSuffix(unit: UnitId, index: number, key: Uint8Array, keyLength: number): number {
    const arena = this.#arena;
    const u16 = arena.u16[this.#segment]!;
    const count = this.#count;
    const ends = (this.#heads + (1 + VALUE_WORDS) * count) * 2;
    const start = index === 0 ? 0 : u16[ends + index - 1]!;
    const ownLength = u16[ends + index]! - start;
    const at = ends * 2 + count * 2 + start;
    if (ownLength < 0 || at + ownLength - this.#base > LSM_PAGE_BYTES_MAX) {
      throw corruptPage(unit, `entry ${index} reaches beyond the page`);
    }
    const u8 = arena.u8[this.#segment]!;
    const prefixLength = this.#prefixLength;
    const restLength = keyLength - prefixLength;
    const length = ownLength < restLength ? ownLength : restLength;
    for (let offset = length < 4 ? length : 4; offset < length; offset++) {
      const difference = u8[at + offset]! - key[prefixLength + offset]!;
      if (difference !== 0) return difference;
    }
    return ownLength - restLength;
  }
}
