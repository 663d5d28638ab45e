/**
 * Binary search in one page. The target is (key, seq): seq Infinity stands before every version of the key.
 *
 * Bytes are not trusted: counts are checked against the page before the search, cells against its end when they are touched.
 * Threads: any; the page must be pinned, or belong to the calling writer. Allocation-free.
 */
import type { UnitId } from '../../shared/memory/arena.js';
import {
  BRANCH_SLOT_BYTES,
  CLASS_BYTE,
  COUNT_HALFWORD,
  LEAF_SLOT_BYTES,
  PAGE_HEADER_BYTES,
  PREFIX_LENGTH_HALFWORD,
  SEQ_BYTES,
  cellLengthsAt,
  corruptPage,
  headOf,
  headsOffset,
  readSeq,
  readVarint,
  skipVarint,
} from './page.js';

/** < 0 if the key sorts before everything with the prefix, > 0 if after, 0 if it has the prefix. */
function compareWithPrefix(
  u8: Uint8Array,
  prefixAt: number,
  prefixLength: number,
  key: Uint8Array,
  keyStart: number,
  keyLength: number,
): number {
  const length = keyLength < prefixLength ? keyLength : prefixLength;
  for (let index = 0; index < length; index++) {
    const difference = key[keyStart + index]! - u8[prefixAt + index]!;
    if (difference !== 0) return difference;
  }
  return keyLength < prefixLength ? -1 : 0;
}

/** Suffix against the rest of the key; their heads are known to be equal. */
function compareSuffix(
  u8: Uint8Array,
  suffixAt: number,
  suffixLength: number,
  key: Uint8Array,
  restAt: number,
  restLength: number,
): number {
  const length = suffixLength < restLength ? suffixLength : restLength;
  for (let index = length < 4 ? length : 4; index < length; index++) {
    const difference = u8[suffixAt + index]! - key[restAt + index]!;
    if (difference !== 0) return difference;
  }
  return suffixLength - restLength;
}

/** Entry against target, heads equal: < 0 entry sorts before, 0 same key and at or after the target's seq, > 0 later key. */
function compareLeafCell(
  u8: Uint8Array,
  cellAt: number,
  pageEnd: number,
  key: Uint8Array,
  restAt: number,
  restLength: number,
  seq: number,
): number {
  let at = skipVarint(u8, cellLengthsAt(u8, cellAt));
  let suffixLength = u8[at++]!;
  if (suffixLength >= 0x80) suffixLength = (suffixLength & 0x7f) | (u8[at++]! << 7);
  if (!(at + suffixLength <= pageEnd)) throw corruptPage(0, 'a cell reaches beyond its page');
  const order = compareSuffix(u8, at, suffixLength, key, restAt, restLength);
  if (order !== 0 || seq === Infinity) return order;
  return readSeq(u8, cellAt + 1) > seq ? -1 : 0;
}

/** Separator against target, heads equal: ≤ 0 if the target belongs to the separator's right. */
function compareBranchCell(
  u8: Uint8Array,
  cellAt: number,
  pageEnd: number,
  key: Uint8Array,
  restAt: number,
  restLength: number,
  seq: number,
): number {
  let at = cellAt;
  let lengthAndFlag = u8[at++]!;
  if (lengthAndFlag >= 0x80) lengthAndFlag = (lengthAndFlag & 0x7f) | (u8[at++]! << 7);
  const suffixLength = lengthAndFlag >>> 1;
  const seqAt = at;
  if ((lengthAndFlag & 1) !== 0) at += SEQ_BYTES;
  if (!(at + suffixLength <= pageEnd)) throw corruptPage(0, 'a separator reaches beyond its page');
  const order = compareSuffix(u8, at, suffixLength, key, restAt, restLength);
  if (order !== 0 || (lengthAndFlag & 1) === 0) return order;
  return readSeq(u8, seqAt) >= seq ? -1 : 1;
}

/**
 * Index of the first of the heads [low, count) that is not smaller than `head`, or count. Which half a probe leaves is a coin toss to the processor, and every
 * second guess costs it twenty cycles: so the place is moved by arithmetic instead of a branch. Differences of 31 bits have a sign in 32; the last bit is
 * looked at in the end.
 */
function firstHead(u32: Uint32Array, heads: number, low: number, count: number, head: number): number {
  const wanted = head >>> 1;
  for (let rest = count - low; rest > 0;) {
    const step = (rest + 1) >>> 1;
    low += (((u32[heads + low + step - 1]! >>> 1) - wanted) >> 31) & step;
    rest -= step;
  }
  // Seldom: heads that differ from the one wanted in the last bit only, be they as many as they like.
  for (let high = count; low < high && u32[heads + low]! < head;) {
    const middle = (low + high) >>> 1;
    if (u32[heads + middle]! < head) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** Index of the first entry ≥ (key, seq) if its key is the target's, else the complement (~index) of where it would stand. */
export function searchLeaf(
  u8: Uint8Array,
  u16: Uint16Array,
  u32: Uint32Array,
  base: number,
  key: Uint8Array,
  keyStart: number,
  keyLength: number,
  seq: number,
): number {
  const half = base >>> 1;
  const count = u16[half + COUNT_HALFWORD]!;
  const prefixLength = u16[half + PREFIX_LENGTH_HALFWORD]!;
  const pageBytes = 4096 << (u8[base + CLASS_BYTE]! & 3);
  const headsAt = PAGE_HEADER_BYTES + ((prefixLength + 3) & ~3);
  if (headsAt + count * LEAF_SLOT_BYTES > pageBytes)
    throw corruptPage(0, `a leaf of ${count} entries does not fit its page`);
  if (prefixLength !== 0) {
    const order = compareWithPrefix(u8, base + PAGE_HEADER_BYTES, prefixLength, key, keyStart, keyLength);
    if (order !== 0) return order < 0 ? -1 : ~count;
  }
  const restAt = keyStart + prefixLength;
  const restLength = keyLength - prefixLength;
  const head = headOf(key, restAt, restLength);
  const heads = (base + headsAt) >>> 2;
  let low = firstHead(u32, heads, 0, count, head);
  if (low === count || u32[heads + low] !== head) return ~low;
  const offsets = (heads + count) << 1;
  const pageEnd = base + pageBytes;
  if (low + 1 === count || u32[heads + low + 1] !== head) {
    const order = compareLeafCell(u8, base + u16[offsets + low]!, pageEnd, key, restAt, restLength, seq);
    if (order === 0) return low;
    return order < 0 ? ~(low + 1) : ~low;
  }
  // Several equal heads: search their run by whole keys.
  let end = low + 2;
  let high = count;
  while (end < high) {
    const middle = (end + high) >>> 1;
    if (u32[heads + middle] === head) end = middle + 1;
    else high = middle;
  }
  let found = false;
  while (low < end) {
    const middle = (low + end) >>> 1;
    const order = compareLeafCell(u8, base + u16[offsets + middle]!, pageEnd, key, restAt, restLength, seq);
    if (order < 0) low = middle + 1;
    else {
      end = middle;
      found = order === 0;
    }
  }
  return found ? low : ~low;
}

/** Index of the child that (key, seq) belongs to. */
export function searchBranch(
  u8: Uint8Array,
  u16: Uint16Array,
  u32: Uint32Array,
  base: number,
  key: Uint8Array,
  keyStart: number,
  keyLength: number,
  seq: number,
): number {
  const half = base >>> 1;
  const count = u16[half + COUNT_HALFWORD]!;
  const prefixLength = u16[half + PREFIX_LENGTH_HALFWORD]!;
  const pageBytes = 4096 << (u8[base + CLASS_BYTE]! & 3);
  const headsAt = PAGE_HEADER_BYTES + ((prefixLength + 3) & ~3);
  if (count === 0 || headsAt + count * BRANCH_SLOT_BYTES > pageBytes) {
    throw corruptPage(0, `a branch of ${count} children does not fit its page`);
  }
  if (prefixLength !== 0) {
    const order = compareWithPrefix(u8, base + PAGE_HEADER_BYTES, prefixLength, key, keyStart, keyLength);
    if (order !== 0) return order < 0 ? 0 : count - 1;
  }
  const restAt = keyStart + prefixLength;
  const restLength = keyLength - prefixLength;
  const head = headOf(key, restAt, restLength);
  const heads = (base + headsAt) >>> 2;
  let low = firstHead(u32, heads, 1, count, head);
  if (low === count || u32[heads + low] !== head) return low - 1;
  let end = low + 1;
  let high = count;
  while (end < high) {
    const middle = (end + high) >>> 1;
    if (u32[heads + middle] === head) end = middle + 1;
    else high = middle;
  }
  const offsets = (heads + 2 * count) << 1;
  const pageEnd = base + pageBytes;
  while (low < end) {
    const middle = (low + end) >>> 1;
    const order = compareBranchCell(u8, base + u16[offsets + middle]!, pageEnd, key, restAt, restLength, seq);
    if (order <= 0) low = middle + 1;
    else end = middle;
  }
  return low - 1;
}

/** The whole separator against (key, seq) without knowledge of heads: ≤ 0 if the target belongs to its right. */
export function compareSeparator(
  u8: Uint8Array,
  u16: Uint16Array,
  u32: Uint32Array,
  base: number,
  index: number,
  key: Uint8Array,
  keyStart: number,
  keyLength: number,
  seq: number,
): number {
  const half = base >>> 1;
  const count = u16[half + COUNT_HALFWORD]!;
  const prefixLength = u16[half + PREFIX_LENGTH_HALFWORD]!;
  if (prefixLength !== 0) {
    const order = compareWithPrefix(u8, base + PAGE_HEADER_BYTES, prefixLength, key, keyStart, keyLength);
    if (order !== 0) return -order;
  }
  const restAt = keyStart + prefixLength;
  const restLength = keyLength - prefixLength;
  const head = headOf(key, restAt, restLength);
  const heads = (base + PAGE_HEADER_BYTES + ((prefixLength + 3) & ~3)) >>> 2;
  const separatorHead = u32[heads + index]!;
  if (separatorHead !== head) return separatorHead < head ? -1 : 1;
  const offsets = (heads + 2 * count) << 1;
  const pageEnd = base + (4096 << (u8[base + CLASS_BYTE]! & 3));
  return compareBranchCell(u8, base + u16[offsets + index]!, pageEnd, key, restAt, restLength, seq);
}

/** Checks that a unit can be a page of the wanted kind and level before its bytes are used. */
export function checkPage(u32: Uint32Array, base: number, unit: UnitId, kindAndLevel: number): void {
  const word = u32[base >>> 2]!;
  if (
    (word & 0xffff) !== kindAndLevel ||
    ((word >>> 16) & 0xff) > 3 ||
    (unit & ((1 << ((word >>> 16) & 3)) - 1)) !== 0
  ) {
    throw corruptPage(
      unit,
      `header ${word.toString(16)}, wanted kind ${kindAndLevel & 0xff} at level ${kindAndLevel >>> 8}`,
    );
  }
}

/** Whether a branch's arrays lie in its page. For readers that take children without a search. */
export function checkBranchRoom(u8: Uint8Array, u16: Uint16Array, base: number, unit: UnitId): number {
  const half = base >>> 1;
  const count = u16[half + COUNT_HALFWORD]!;
  const pageBytes = 4096 << (u8[base + CLASS_BYTE]! & 3);
  if (count === 0 || headsOffset(u16[half + PREFIX_LENGTH_HALFWORD]!) + count * BRANCH_SLOT_BYTES > pageBytes) {
    throw corruptPage(unit, `a branch of ${count} children does not fit its page`);
  }
  return count;
}

/** Whether two leaf cells of one page have the same key suffix. */
export function sameSuffix(u8: Uint8Array, first: number, second: number): boolean {
  const firstLengthAt = skipVarint(u8, cellLengthsAt(u8, first));
  const secondLengthAt = skipVarint(u8, cellLengthsAt(u8, second));
  const length = readVarint(u8, firstLengthAt);
  if (length !== readVarint(u8, secondLengthAt)) return false;
  const a = skipVarint(u8, firstLengthAt);
  const b = skipVarint(u8, secondLengthAt);
  for (let index = 0; index < length; index++) if (u8[a + index] !== u8[b + index]) return false;
  return true;
}
