/**
 * A run of leaf entries on their way from old pages (and one new cell) into new pages.
 *
 * Source pages are copied into the run's own memory first, so that a target may be one of the sources. Entries are references into
 * that memory; keys stay split in (prefix of the source page, suffix), because expanding keys that share long prefixes would
 * multiply their size. Each entry's cell is whole in that memory too: lead (flags, seq, expiry, valueLength), suffixLength, suffix, body.
 * Threads: the tree's writer only; reused, so that a split allocates nothing.
 */
import {
  CELL_EXPIRY_OFFSET,
  CELL_LENGTHS_OFFSET,
  CLASS_BYTE,
  CellFlag,
  COUNT_HALFWORD,
  CELL_START_HALFWORD,
  EXPIRY_BYTES,
  GARBAGE_HALFWORD,
  LEAF_SLOT_BYTES,
  LEVEL_BYTE,
  KIND_BYTE,
  NEXT_WORD,
  PAGE_CLASS_MAX,
  PAGE_HEADER_BYTES,
  PREFIX_LENGTH_HALFWORD,
  PageKind,
  RESERVED_HALFWORD,
  cellLengthsAt,
  copyBytes,
  headOf,
  headsOffset,
  readSeq,
  readVarint,
  skipVarint,
  varintBytes,
  writeSeq,
  writeVarint,
} from './page.js';

/** What one entry's fields are, in #refs. */
const PREFIX_AT = 0;
const PREFIX_LENGTH = 1;
const SUFFIX_AT = 2;
const SUFFIX_LENGTH = 3;
/** flags, seq, expiry and valueLength varint, copied as they are. */
const LEAD_AT = 4;
const LEAD_LENGTH = 5;
/** Inline value or overflow unit. */
const BODY_AT = 6;
const BODY_LENGTH = 7;
const REF_WORDS = 8;

export class LeafRun {
  memory = new Uint8Array(1 << 17);
  memoryUsed = 0;
  count = 0;
  #refs = new Int32Array(REF_WORDS * 1024);
  /** Changes places with `memory` in dropFirst. */
  #spare = new Uint8Array(0);

  reset(): void {
    this.memoryUsed = 0;
    this.count = 0;
  }

  /** Copies a page in; returns a handle for addEntries. */
  addPage(u8: Uint8Array, base: number): number {
    const pageBytes = 4096 << (u8[base + CLASS_BYTE]! & 3);
    const at = this.#reserve(pageBytes);
    this.memory.set(u8.subarray(base, base + pageBytes), at);
    return at;
  }

  addEntries(page: number, from: number, to: number): void {
    const memory = this.memory;
    const count = memory[page + 10]! | (memory[page + 11]! << 8);
    const prefixLength = memory[page + 12]! | (memory[page + 13]! << 8);
    const offsets = page + headsOffset(prefixLength) + 4 * count;
    this.#reserveRefs(to - from);
    const refs = this.#refs;
    for (let index = from; index < to; index++) {
      const cell = page + (memory[offsets + 2 * index]! | (memory[offsets + 2 * index + 1]! << 8));
      const lengthAt = cellLengthsAt(memory, cell);
      const suffixLengthAt = skipVarint(memory, lengthAt);
      const suffixLength = readVarint(memory, suffixLengthAt);
      const suffixAt = skipVarint(memory, suffixLengthAt);
      const flags = memory[cell]!;
      const ref = this.count++ * REF_WORDS;
      refs[ref + PREFIX_AT] = page + PAGE_HEADER_BYTES;
      refs[ref + PREFIX_LENGTH] = prefixLength;
      refs[ref + SUFFIX_AT] = suffixAt;
      refs[ref + SUFFIX_LENGTH] = suffixLength;
      refs[ref + LEAD_AT] = cell;
      refs[ref + LEAD_LENGTH] = suffixLengthAt - cell;
      refs[ref + BODY_AT] = suffixAt + suffixLength;
      refs[ref + BODY_LENGTH] = (flags & CellFlag.Overflow) !== 0 ? 4 : readVarint(memory, lengthAt);
    }
  }

  /** A new cell. The body is the inline value, or the 4 bytes of an overflow unit. `expiresAt` counts if the flags say so. */
  addCell(
    flags: number,
    seq: number,
    expiresAt: number,
    key: Uint8Array,
    keyStart: number,
    keyLength: number,
    valueLength: number,
    body: Uint8Array,
    bodyStart: number,
    bodyLength: number,
  ): void {
    const lengthsAt = (flags & CellFlag.Expiry) === 0 ? CELL_LENGTHS_OFFSET : CELL_LENGTHS_OFFSET + EXPIRY_BYTES;
    const leadLength = lengthsAt + varintBytes(valueLength);
    const keyLengthBytes = keyLength < 0x80 ? 1 : 2;
    const lead = this.#reserve(leadLength + keyLengthBytes + keyLength + bodyLength);
    const memory = this.memory;
    memory[lead] = flags;
    writeSeq(memory, lead + 1, seq);
    if (lengthsAt !== CELL_LENGTHS_OFFSET) writeSeq(memory, lead + CELL_EXPIRY_OFFSET, expiresAt);
    const keyAt = writeVarint(memory, writeVarint(memory, lead + lengthsAt, valueLength), keyLength);
    copyBytes(key, keyStart, keyLength, memory, keyAt);
    copyBytes(body, bodyStart, bodyLength, memory, keyAt + keyLength);
    this.#reserveRefs(1);
    const refs = this.#refs;
    const ref = this.count++ * REF_WORDS;
    refs[ref + PREFIX_AT] = lead;
    refs[ref + PREFIX_LENGTH] = 0;
    refs[ref + SUFFIX_AT] = keyAt;
    refs[ref + SUFFIX_LENGTH] = keyLength;
    refs[ref + LEAD_AT] = lead;
    refs[ref + LEAD_LENGTH] = leadLength;
    refs[ref + BODY_AT] = keyAt + keyLength;
    refs[ref + BODY_LENGTH] = bodyLength;
  }

  /** Drops the first `from` entries and compacts the memory. For runs that are filled as a stream (bulk load). */
  dropFirst(from: number): void {
    const refs = this.#refs;
    const old = this.memory;
    const kept = this.count - from;
    let used = 0;
    // A whole key takes the prefix in again, and perhaps a second length byte.
    let bytes = 0;
    for (let index = from; index < this.count; index++) bytes += this.cellBytes(index, 0);
    if (this.#spare.length < bytes) this.#spare = new Uint8Array(Math.max(old.length, bytes));
    const spare = this.#spare;
    for (let index = 0; index < kept; index++) {
      const source = (from + index) * REF_WORDS;
      const target = index * REF_WORDS;
      const leadLength = refs[source + LEAD_LENGTH]!;
      const suffixLength = refs[source + SUFFIX_LENGTH]!;
      const bodyLength = refs[source + BODY_LENGTH]!;
      const prefixLength = refs[source + PREFIX_LENGTH]!;
      copyBytes(old, refs[source + LEAD_AT]!, leadLength, spare, used);
      refs[target + LEAD_AT] = used;
      refs[target + LEAD_LENGTH] = leadLength;
      used = writeVarint(spare, used + leadLength, prefixLength + suffixLength);
      copyBytes(old, refs[source + PREFIX_AT]!, prefixLength, spare, used);
      copyBytes(old, refs[source + SUFFIX_AT]!, suffixLength, spare, used + prefixLength);
      refs[target + PREFIX_AT] = used;
      refs[target + PREFIX_LENGTH] = 0;
      refs[target + SUFFIX_AT] = used;
      refs[target + SUFFIX_LENGTH] = prefixLength + suffixLength;
      used += prefixLength + suffixLength;
      copyBytes(old, refs[source + BODY_AT]!, bodyLength, spare, used);
      refs[target + BODY_AT] = used;
      refs[target + BODY_LENGTH] = bodyLength;
      used += bodyLength;
    }
    this.memory = spare;
    this.#spare = old;
    this.memoryUsed = used;
    this.count = kept;
  }

  /** How many of the entries [from, to) are tombstones. */
  tombstones(from: number, to: number): number {
    let count = 0;
    for (let index = from; index < to; index++)
      count += this.memory[this.#refs[index * REF_WORDS + LEAD_AT]!]! & CellFlag.Tombstone;
    return count;
  }

  keyLength(index: number): number {
    const ref = index * REF_WORDS;
    return this.#refs[ref + PREFIX_LENGTH]! + this.#refs[ref + SUFFIX_LENGTH]!;
  }

  seqOf(index: number): number {
    return readSeq(this.memory, this.#refs[index * REF_WORDS + LEAD_AT]! + 1);
  }

  /** Length of what the keys of two entries share. The keys between two entries share at least that. */
  commonPrefix(first: number, second: number): number {
    const refs = this.#refs;
    const memory = this.memory;
    const a = first * REF_WORDS;
    const b = second * REF_WORDS;
    const length = Math.min(this.keyLength(first), this.keyLength(second));
    const aPrefixLength = refs[a + PREFIX_LENGTH]!;
    const bPrefixLength = refs[b + PREFIX_LENGTH]!;
    const aPrefix = refs[a + PREFIX_AT]!;
    const bPrefix = refs[b + PREFIX_AT]!;
    const aSuffix = refs[a + SUFFIX_AT]! - aPrefixLength;
    const bSuffix = refs[b + SUFFIX_AT]! - bPrefixLength;
    let index = 0;
    if (aPrefix === bPrefix && aPrefixLength === bPrefixLength) index = aPrefixLength;
    for (; index < length; index++) {
      const aByte = memory[(index < aPrefixLength ? aPrefix : aSuffix) + index];
      const bByte = memory[(index < bPrefixLength ? bPrefix : bSuffix) + index];
      if (aByte !== bByte) break;
    }
    return index;
  }

  /** Copies the first `length` bytes of a key. */
  copyKey(index: number, length: number, into: Uint8Array, at: number): void {
    const ref = index * REF_WORDS;
    const fromPrefix = Math.min(length, this.#refs[ref + PREFIX_LENGTH]!);
    copyBytes(this.memory, this.#refs[ref + PREFIX_AT]!, fromPrefix, into, at);
    copyBytes(this.memory, this.#refs[ref + SUFFIX_AT]!, length - fromPrefix, into, at + fromPrefix);
  }

  /** Bytes of an entry's cell in a page with that prefix length, slot not counted. */
  cellBytes(index: number, prefixLength: number): number {
    const ref = index * REF_WORDS;
    const suffixLength = this.#refs[ref + PREFIX_LENGTH]! + this.#refs[ref + SUFFIX_LENGTH]! - prefixLength;
    return (
      this.#refs[ref + LEAD_LENGTH]! + (suffixLength < 0x80 ? 1 : 2) + suffixLength + this.#refs[ref + BODY_LENGTH]!
    );
  }

  /**
   * The smallest page class, from classMin on, for entries [from, to): a page holds at least four of its largest cell where the
   * largest class allows. -1 if they do not fit a page of it. `grow`: take any larger class that fits them.
   */
  classFor(from: number, to: number, prefixLength: number, classMin: number, grow: boolean): number {
    let total = headsOffset(prefixLength);
    let largest = 0;
    for (let index = from; index < to; index++) {
      const bytes = this.cellBytes(index, prefixLength);
      if (bytes > largest) largest = bytes;
      total += bytes + LEAF_SLOT_BYTES;
    }
    let pageClass = classMin;
    // A long prefix counts like a large cell: it must not crowd out the entries.
    const quarter = 4 * Math.max(largest, prefixLength);
    while (pageClass < PAGE_CLASS_MAX && quarter > 4096 << pageClass) pageClass++;
    while (grow && pageClass < PAGE_CLASS_MAX && total > 4096 << pageClass) pageClass++;
    return total <= 4096 << pageClass ? pageClass : -1;
  }

  /** Writes entries [from, to) as a leaf. The page's class and birth are set already. */
  write(
    from: number,
    to: number,
    prefixLength: number,
    u8: Uint8Array,
    u16: Uint16Array,
    u32: Uint32Array,
    base: number,
  ): void {
    const memory = this.memory;
    const refs = this.#refs;
    const count = to - from;
    const half = base >>> 1;
    const pageBytes = 4096 << (u8[base + CLASS_BYTE]! & 3);
    u8[base + KIND_BYTE] = PageKind.Leaf;
    u8[base + LEVEL_BYTE] = 0;
    u16[half + COUNT_HALFWORD] = count;
    u16[half + PREFIX_LENGTH_HALFWORD] = prefixLength;
    u16[half + GARBAGE_HALFWORD] = 0;
    u16[half + RESERVED_HALFWORD] = 0;
    u32[(base >>> 2) + NEXT_WORD] = 0;
    if (count > 0) this.copyKey(from, prefixLength, u8, base + PAGE_HEADER_BYTES);
    for (let at = PAGE_HEADER_BYTES + prefixLength; (at & 3) !== 0; at++) u8[base + at] = 0;
    const heads = (base + headsOffset(prefixLength)) >>> 2;
    const offsets = (heads + count) << 1;
    let cell = base + pageBytes;
    for (let index = 0; index < count;) {
      const ref = (from + index) * REF_WORDS;
      if (refs[ref + PREFIX_LENGTH] === prefixLength) {
        const length = this.#adjacentCells(from + index, to, prefixLength);
        const start = refs[(from + index + length - 1) * REF_WORDS + LEAD_AT]!;
        const bytes = refs[ref + BODY_AT]! + refs[ref + BODY_LENGTH]! - start;
        cell -= bytes;
        copyBytes(memory, start, bytes, u8, cell);
        for (let end = index + length; index < end; index++) {
          const moved = (from + index) * REF_WORDS;
          u16[offsets + index] = cell - base + refs[moved + LEAD_AT]! - start;
          const suffixLength = refs[moved + SUFFIX_LENGTH]!;
          u32[heads + index] = headOf(memory, refs[moved + SUFFIX_AT]!, suffixLength);
        }
        continue;
      }
      const leadLength = refs[ref + LEAD_LENGTH]!;
      const bodyLength = refs[ref + BODY_LENGTH]!;
      const oldPrefixLength = refs[ref + PREFIX_LENGTH]!;
      const oldSuffixLength = refs[ref + SUFFIX_LENGTH]!;
      const suffixLength = oldPrefixLength + oldSuffixLength - prefixLength;
      cell -= leadLength + (suffixLength < 0x80 ? 1 : 2) + suffixLength + bodyLength;
      u16[offsets + index] = cell - base;
      let at = cell;
      const lead = refs[ref + LEAD_AT]!;
      for (let byte = 0; byte < leadLength; byte++) u8[at++] = memory[lead + byte]!;
      at = writeVarint(u8, at, suffixLength);
      const suffixAt = at;
      // The new prefix may be longer (skip into the old suffix) or shorter (the old prefix's end comes first).
      const fromPrefix = oldPrefixLength > prefixLength ? oldPrefixLength - prefixLength : 0;
      if (fromPrefix > 0) {
        copyBytes(memory, refs[ref + PREFIX_AT]! + prefixLength, fromPrefix, u8, at);
        at += fromPrefix;
      }
      // Suffix and body lie side by side.
      const rest = suffixLength - fromPrefix;
      copyBytes(memory, refs[ref + SUFFIX_AT]! + oldSuffixLength - rest, rest + bodyLength, u8, at);
      u32[heads + index] = headOf(u8, suffixAt, suffixLength);
      index++;
    }
    u16[half + CELL_START_HALFWORD] = cell - base;
  }

  /**
   * How many entries from `from` on keep their cells as they are and have them side by side, each below the one before: such cells
   * move together. A page that was written from a run has all its cells so.
   */
  #adjacentCells(from: number, to: number, prefixLength: number): number {
    const refs = this.#refs;
    let index = from + 1;
    for (; index < to; index++) {
      const ref = index * REF_WORDS;
      const end = refs[ref + BODY_AT]! + refs[ref + BODY_LENGTH]!;
      if (refs[ref + PREFIX_LENGTH] !== prefixLength || end !== refs[ref - REF_WORDS + LEAD_AT]) break;
    }
    return index - from;
  }

  #reserve(bytes: number): number {
    const at = this.memoryUsed;
    if (at + bytes > this.memory.length) {
      const larger = new Uint8Array(Math.max(this.memory.length * 2, at + bytes));
      larger.set(this.memory.subarray(0, at));
      this.memory = larger;
    }
    this.memoryUsed = at + bytes;
    return at;
  }

  #reserveRefs(entries: number): void {
    const needed = (this.count + entries) * REF_WORDS;
    if (needed <= this.#refs.length) return;
    const larger = new Int32Array(Math.max(this.#refs.length * 2, needed));
    larger.set(this.#refs);
    this.#refs = larger;
  }
}
