/**
 * A run of branch entries on their way from old pages (and new children) into new pages. Like LeafRun; separators are held as
 * (prefix of the source page, suffix). The first entry of a page written from a run loses its separator: it goes one level up.
 * Threads: the tree's writer only; reused.
 */
import type { ChildList } from './child-list.js';
import {
  BRANCH_SLOT_BYTES,
  CELL_START_HALFWORD,
  CLASS_BYTE,
  COUNT_HALFWORD,
  GARBAGE_HALFWORD,
  KIND_BYTE,
  LEVEL_BYTE,
  NEXT_WORD,
  PAGE_CLASS_MAX,
  PAGE_HEADER_BYTES,
  PREFIX_LENGTH_HALFWORD,
  PageKind,
  RESERVED_HALFWORD,
  SEQ_BYTES,
  copyBytes,
  headOf,
  headsOffset,
  readSeq,
  readVarint,
  skipVarint,
  writeSeq,
  writeVarint,
} from './page.js';

const PREFIX_AT = 0;
const PREFIX_LENGTH = 1;
const SUFFIX_AT = 2;
const SUFFIX_LENGTH = 3;
const CHILD = 4;
const REF_WORDS = 5;

export class BranchRun {
  memory = new Uint8Array(1 << 17);
  count = 0;
  #memoryUsed = 0;
  /** Changes places with `memory` in dropFirst. */
  #spare = new Uint8Array(0);
  #refs = new Int32Array(REF_WORDS * 1024);
  #seqs = new Float64Array(1024);

  reset(): void {
    this.#memoryUsed = 0;
    this.count = 0;
  }

  /** Copies a page in; returns a handle for addEntries. */
  addPage(u8: Uint8Array, base: number): number {
    const pageBytes = 4096 << (u8[base + CLASS_BYTE]! & 3);
    const at = this.#reserve(pageBytes);
    this.memory.set(u8.subarray(base, base + pageBytes), at);
    return at;
  }

  /** Entry 0 of a page comes without separator (an empty key): right only for the first entry of a run. */
  addEntries(page: number, from: number, to: number): void {
    const memory = this.memory;
    const count = memory[page + 10]! | (memory[page + 11]! << 8);
    const prefixLength = memory[page + 12]! | (memory[page + 13]! << 8);
    const children = page + headsOffset(prefixLength) + 4 * count;
    const offsets = children + 4 * count;
    for (let index = from; index < to; index++) {
      const child = readUnit(memory, children + 4 * index);
      if (index === 0) {
        this.#add(page, 0, page, 0, Infinity, child);
        continue;
      }
      let at = page + (memory[offsets + 2 * index]! | (memory[offsets + 2 * index + 1]! << 8));
      const lengthAndFlag = readVarint(memory, at);
      at = skipVarint(memory, at);
      let seq = Infinity;
      if ((lengthAndFlag & 1) !== 0) {
        seq = readSeq(memory, at);
        at += SEQ_BYTES;
      }
      this.#add(page + PAGE_HEADER_BYTES, prefixLength, at, lengthAndFlag >>> 1, seq, child);
    }
  }

  /** Entry 0 of a page with the separator that stands for it in entry `parentIndex` of the parent. */
  addFirstOf(page: number, parent: number, parentIndex: number): void {
    const before = this.count;
    this.addEntries(parent, parentIndex, parentIndex + 1);
    const memory = this.memory;
    const count = memory[page + 10]! | (memory[page + 11]! << 8);
    const prefixLength = memory[page + 12]! | (memory[page + 13]! << 8);
    this.#refs[before * REF_WORDS + CHILD] = readUnit(memory, page + headsOffset(prefixLength) + 4 * count);
  }

  /** Children [from, to) of the list with their separators. */
  addChildren(list: ChildList, from: number, to: number): void {
    for (let index = from; index < to; index++) {
      const length = list.separatorLength[index]!;
      const at = this.#reserve(length);
      copyBytes(list.memory, list.separatorAt[index]!, length, this.memory, at);
      this.#add(at, 0, at, length, list.separatorSeq[index]!, list.units[index]!);
    }
  }

  addChild(child: number, key: Uint8Array, keyStart: number, keyLength: number, seq: number): void {
    const at = this.#reserve(keyLength);
    copyBytes(key, keyStart, keyLength, this.memory, at);
    this.#add(at, 0, at, keyLength, seq, child);
  }

  childOf(index: number): number {
    return this.#refs[index * REF_WORDS + CHILD]!;
  }

  setChild(index: number, unit: number): void {
    this.#refs[index * REF_WORDS + CHILD] = unit;
  }

  /** Drops the first entries and compacts the memory. For runs that are filled as a stream (bulk load). */
  dropFirst(from: number): void {
    const refs = this.#refs;
    const old = this.memory;
    if (this.#spare.length < old.length) this.#spare = new Uint8Array(old.length);
    const spare = this.#spare;
    const kept = this.count - from;
    let used = 0;
    for (let index = 0; index < kept; index++) {
      const length = this.keyLength(from + index);
      this.copyKey(from + index, length, spare, used);
      const target = index * REF_WORDS;
      refs[target + CHILD] = refs[(from + index) * REF_WORDS + CHILD]!;
      refs[target + PREFIX_AT] = used;
      refs[target + PREFIX_LENGTH] = 0;
      refs[target + SUFFIX_AT] = used;
      refs[target + SUFFIX_LENGTH] = length;
      this.#seqs[index] = this.#seqs[from + index]!;
      used += length;
    }
    this.memory = spare;
    this.#spare = old;
    this.#memoryUsed = used;
    this.count = kept;
  }

  keyLength(index: number): number {
    return this.#refs[index * REF_WORDS + PREFIX_LENGTH]! + this.#refs[index * REF_WORDS + SUFFIX_LENGTH]!;
  }

  seqOf(index: number): number {
    return this.#seqs[index]!;
  }

  copyKey(index: number, length: number, into: Uint8Array, at: number): void {
    const ref = index * REF_WORDS;
    const fromPrefix = Math.min(length, this.#refs[ref + PREFIX_LENGTH]!);
    copyBytes(this.memory, this.#refs[ref + PREFIX_AT]!, fromPrefix, into, at);
    copyBytes(this.memory, this.#refs[ref + SUFFIX_AT]!, length - fromPrefix, into, at + fromPrefix);
  }

  commonPrefix(first: number, second: number): number {
    const length = Math.min(this.keyLength(first), this.keyLength(second));
    let index = 0;
    while (index < length && this.#keyByte(first, index) === this.#keyByte(second, index)) index++;
    return index;
  }

  /** The prefix of a page of entries [from, to): what the separators after the first share. */
  prefixFor(from: number, to: number): number {
    return to - from < 2 ? 0 : this.commonPrefix(from + 1, to - 1);
  }

  cellBytes(index: number, prefixLength: number): number {
    const suffixLength = this.keyLength(index) - prefixLength;
    return (suffixLength < 0x40 ? 1 : 2) + suffixLength + (this.#seqs[index] === Infinity ? 0 : SEQ_BYTES);
  }

  /** As LeafRun.classFor. */
  classFor(from: number, to: number, prefixLength: number, classMin: number, grow: boolean): number {
    let total = headsOffset(prefixLength) + BRANCH_SLOT_BYTES;
    let largest = 0;
    for (let index = from + 1; index < to; index++) {
      const bytes = this.cellBytes(index, prefixLength);
      if (bytes > largest) largest = bytes;
      total += bytes + BRANCH_SLOT_BYTES;
    }
    let pageClass = classMin;
    // A long prefix counts like a large cell: it must not crowd out the entries.
    const quarter = 4 * Math.max(largest, prefixLength);
    while (pageClass < PAGE_CLASS_MAX && quarter > 4096 << pageClass) pageClass++;
    while (grow && pageClass < PAGE_CLASS_MAX && total > 4096 << pageClass) pageClass++;
    return total <= 4096 << pageClass ? pageClass : -1;
  }

  write(
    from: number,
    to: number,
    prefixLength: number,
    level: number,
    u8: Uint8Array,
    u16: Uint16Array,
    u32: Uint32Array,
    base: number,
  ): void {
    const refs = this.#refs;
    const count = to - from;
    const half = base >>> 1;
    const pageBytes = 4096 << (u8[base + CLASS_BYTE]! & 3);
    u8[base + KIND_BYTE] = PageKind.Branch;
    u8[base + LEVEL_BYTE] = level;
    u16[half + COUNT_HALFWORD] = count;
    u16[half + PREFIX_LENGTH_HALFWORD] = prefixLength;
    u16[half + GARBAGE_HALFWORD] = 0;
    u16[half + RESERVED_HALFWORD] = 0;
    u32[(base >>> 2) + NEXT_WORD] = 0;
    if (count > 1) this.copyKey(from + 1, prefixLength, u8, base + PAGE_HEADER_BYTES);
    for (let at = PAGE_HEADER_BYTES + prefixLength; (at & 3) !== 0; at++) u8[base + at] = 0;
    const heads = (base + headsOffset(prefixLength)) >>> 2;
    const children = heads + count;
    const offsets = (heads + 2 * count) << 1;
    let cell = base + pageBytes;
    u32[heads] = 0;
    u32[children] = refs[from * REF_WORDS + CHILD]!;
    u16[offsets] = 0;
    for (let index = 1; index < count; index++) {
      const entry = from + index;
      const ref = entry * REF_WORDS;
      const seq = this.#seqs[entry]!;
      const hasSeq = seq === Infinity ? 0 : 1;
      cell -= this.cellBytes(entry, prefixLength);
      u16[offsets + index] = cell - base;
      u32[children + index] = refs[ref + CHILD]!;
      const oldPrefixLength = refs[ref + PREFIX_LENGTH]!;
      const oldSuffixLength = refs[ref + SUFFIX_LENGTH]!;
      const suffixLength = oldPrefixLength + oldSuffixLength - prefixLength;
      let at = writeVarint(u8, cell, suffixLength * 2 + hasSeq);
      if (hasSeq === 1) {
        writeSeq(u8, at, seq);
        at += SEQ_BYTES;
      }
      const fromPrefix = oldPrefixLength > prefixLength ? oldPrefixLength - prefixLength : 0;
      if (fromPrefix > 0) copyBytes(this.memory, refs[ref + PREFIX_AT]! + prefixLength, fromPrefix, u8, at);
      const rest = suffixLength - fromPrefix;
      copyBytes(this.memory, refs[ref + SUFFIX_AT]! + oldSuffixLength - rest, rest, u8, at + fromPrefix);
      u32[heads + index] = headOf(u8, at, suffixLength);
    }
    u16[half + CELL_START_HALFWORD] = cell - base;
  }

  #keyByte(index: number, at: number): number {
    const ref = index * REF_WORDS;
    const prefixLength = this.#refs[ref + PREFIX_LENGTH]!;
    if (at < prefixLength) return this.memory[this.#refs[ref + PREFIX_AT]! + at]!;
    return this.memory[this.#refs[ref + SUFFIX_AT]! + at - prefixLength]!;
  }

  #add(
    prefixAt: number,
    prefixLength: number,
    suffixAt: number,
    suffixLength: number,
    seq: number,
    child: number,
  ): void {
    if ((this.count + 1) * REF_WORDS > this.#refs.length) {
      const refs = new Int32Array(this.#refs.length * 2);
      refs.set(this.#refs);
      this.#refs = refs;
      const seqs = new Float64Array(this.#seqs.length * 2);
      seqs.set(this.#seqs);
      this.#seqs = seqs;
    }
    const ref = this.count * REF_WORDS;
    this.#refs[ref + PREFIX_AT] = prefixAt;
    this.#refs[ref + PREFIX_LENGTH] = prefixLength;
    this.#refs[ref + SUFFIX_AT] = suffixAt;
    this.#refs[ref + SUFFIX_LENGTH] = suffixLength;
    this.#refs[ref + CHILD] = child;
    this.#seqs[this.count] = seq;
    this.count++;
  }

  #reserve(bytes: number): number {
    const at = this.#memoryUsed;
    if (at + bytes > this.memory.length) {
      const larger = new Uint8Array(Math.max(this.memory.length * 2, at + bytes));
      larger.set(this.memory.subarray(0, at));
      this.memory = larger;
    }
    this.#memoryUsed = at + bytes;
    return at;
  }
}

function readUnit(memory: Uint8Array, at: number): number {
  return memory[at]! | (memory[at + 1]! << 8) | (memory[at + 2]! << 16) | (memory[at + 3]! << 24);
}
