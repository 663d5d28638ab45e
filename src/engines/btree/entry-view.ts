/**
 * The entry that a reader or cursor stands on: key, seq, value, straight from the pinned page.
 *
 * Small values are copied by words: a native copy out of shared memory costs 200 ns before its first byte. The target comes from
 * a pool whose slices start at multiples of 8; the source may start anywhere, so words are put together from two halves.
 * Threads: any, between pin and unpin. Allocates only what it returns.
 */
import {
  READER_SLOT_COUNT,
  SEGMENT_UNIT_MASK,
  SEGMENT_UNIT_SHIFT,
  UNIT_SHIFT,
  type ArenaReader,
  type UnitId,
} from '../../shared/memory/arena.js';
import { sliceUtf8 } from '../../shared/codec/text.js';
import { ConcordError } from '../../shared/errors.js';
import { CopyPool } from '../../shared/memory/copy-pool.js';
import { WORD_COPY_BYTES_MAX, copyWords } from '../../shared/memory/copy-words.js';
import { walkChain } from './overflow.js';
import { ColdPages, PrivatePage, cacheOwnerOfSlot } from './paged/cold-pages.js';
import { COLD } from './paged/format.js';
import {
  CELL_LENGTHS_OFFSET,
  CLASS_BYTE,
  CellFlag,
  EXPIRY_BYTES,
  NEXT_WORD,
  PAGE_HEADER_BYTES,
  PAYLOAD_BYTES_WORD,
  PageKind,
  RESERVED_HALFWORD,
  cellExpiresAt,
  copyBytes,
  corruptPage,
  readSeq,
  readVarint,
  skipVarint,
} from './page.js';
import { checkPage } from './search.js';

/** Longest value that a chain in a file may claim; one in memory is bounded by the arena. */
const COLD_VALUE_BYTES_MAX = 2 ** 28;

export abstract class EntryView {
  protected readonly arena: ArenaReader;
  readonly #cacheOwner: number;
  /** For leaves and chain pages that are not in memory. Two leaves: while a walk looks at the next one, the entry at hand is in the other. */
  #coldLeaf: PrivatePage | undefined;
  #otherColdLeaf: PrivatePage | undefined;
  #coldChain: PrivatePage | undefined;
  protected viewSegment = 0;
  protected viewU8: Uint8Array;
  protected viewCell = 0;
  protected viewFlags = 0;
  #prefixAt = 0;
  #prefixLength = 0;
  #suffixAt = 0;
  #suffixLength = 0;
  #bodyAt = 0;
  #valueLength = 0;
  readonly #pool = new CopyPool();
  /** Where readValue was in a chain: reading it piece by piece does not start over each time. */
  #chainFirst: UnitId = 0;
  #chainUnit: UnitId = 0;
  #chainOffset = 0;

  /** slot: the thread's reader slot; by default one that leaves nothing in the shared cache. */
  constructor(arena: ArenaReader, slot = READER_SLOT_COUNT - 1) {
    this.arena = arena;
    this.viewU8 = arena.u8[0]!;
    this.#cacheOwner = cacheOwnerOfSlot(slot);
  }

  /** Unit of a branch's child that is none of the arena's: read into a page of this thread's own. @throws ERR_CORRUPT, ERR_IO */
  protected coldChild(branch: UnitId, index: number): UnitId {
    const { arena } = this;
    let page = (this.#coldLeaf ??= new PrivatePage(arena, this.#cacheOwner));
    if (page.unit >>> SEGMENT_UNIT_SHIFT === this.viewSegment)
      page = this.#otherColdLeaf ??= new PrivatePage(arena, this.#cacheOwner);
    return page.childOf(branch, index);
  }

  /** Whether what failed is to be passed over; then it has been reported. */
  protected passesOver(error: unknown): boolean {
    const onDamage = ColdPages.known(this.arena)?.onDamage;
    if (onDamage === undefined || !(error instanceof ConcordError) || error.code !== 'ERR_CORRUPT') return false;
    onDamage(error);
    return true;
  }

  /** Whether the value of an overflow cell is whole as far as it must be: it is read only where damage is passed over. */
  protected hasWholeValue(): boolean {
    if (this.#overflowUnit() < COLD || ColdPages.known(this.arena)?.onDamage === undefined) return true;
    try {
      this.copyValue();
      return true;
    } catch (error) {
      if (!this.passesOver(error)) throw error;
      return false;
    }
  }

  /** A page of a chain in the page file of the current entry's leaf. */
  #coldChainPage(reference: number): UnitId {
    const leaf = (this.#prefixAt - PAGE_HEADER_BYTES) >>> 1;
    const number = this.arena.u16[this.viewSegment]![leaf + RESERVED_HALFWORD]!;
    return (this.#coldChain ??= new PrivatePage(this.arena, this.#cacheOwner)).load(number, reference);
  }

  get seq(): number {
    return readSeq(this.viewU8, this.viewCell + 1);
  }

  /** When the entry expires, in ms since the epoch; 0: never. */
  get expiresAt(): number {
    return cellExpiresAt(this.viewU8, this.viewCell);
  }

  get keyLength(): number {
    return this.#prefixLength + this.#suffixLength;
  }

  get valueLength(): number {
    return this.#valueLength;
  }

  /** Takes the cell as current entry. ERR_CORRUPT if it does not lie in its page. */
  protected view(segment: number, base: number, prefixLength: number, cell: number, pageEnd: number): void {
    const u8 = this.arena.u8[segment]!;
    const flags = u8[cell]!;
    let at = (flags & CellFlag.Expiry) === 0 ? cell + CELL_LENGTHS_OFFSET : cell + CELL_LENGTHS_OFFSET + EXPIRY_BYTES;
    let valueLength = u8[at]!;
    if (valueLength < 0x80) at++;
    else {
      valueLength = readVarint(u8, at);
      at = skipVarint(u8, at);
    }
    let suffixLength = u8[at++]!;
    if (suffixLength >= 0x80) suffixLength = (suffixLength & 0x7f) | (u8[at++]! << 7);
    const bodyAt = at + suffixLength;
    if (!(bodyAt + ((flags & CellFlag.Overflow) !== 0 ? 4 : valueLength) <= pageEnd)) {
      throw corruptPage((segment << SEGMENT_UNIT_SHIFT) + (base >>> UNIT_SHIFT), 'a cell reaches beyond its page');
    }
    this.viewSegment = segment;
    this.viewU8 = u8;
    this.viewCell = cell;
    this.viewFlags = flags;
    this.#prefixAt = base + PAGE_HEADER_BYTES;
    this.#prefixLength = prefixLength;
    this.#suffixAt = at;
    this.#suffixLength = suffixLength;
    this.#bodyAt = bodyAt;
    this.#valueLength = valueLength;
    this.#chainFirst = 0;
  }

  protected viewSame(other: EntryView): void {
    this.viewSegment = other.viewSegment;
    this.viewU8 = other.viewU8;
    this.viewCell = other.viewCell;
    this.viewFlags = other.viewFlags;
    this.#prefixAt = other.#prefixAt;
    this.#prefixLength = other.#prefixLength;
    this.#suffixAt = other.#suffixAt;
    this.#suffixLength = other.#suffixLength;
    this.#bodyAt = other.#bodyAt;
    this.#valueLength = other.#valueLength;
    this.#chainFirst = 0;
  }

  /** Copies the key to into[at …]; returns its length. */
  copyKey(into: Uint8Array, at: number): number {
    const u8 = this.viewU8;
    const prefixLength = this.#prefixLength;
    copyBytes(u8, this.#prefixAt, prefixLength, into, at);
    copyBytes(u8, this.#suffixAt, this.#suffixLength, into, at + prefixLength);
    return prefixLength + this.#suffixLength;
  }

  /** < 0 if the entry's key is smaller than `key`, 0 if equal. */
  compareKey(key: Uint8Array, keyLength: number): number {
    const u8 = this.viewU8;
    const prefixLength = this.#prefixLength;
    const ownLength = prefixLength + this.#suffixLength;
    const length = ownLength < keyLength ? ownLength : keyLength;
    const suffix = this.#suffixAt - prefixLength;
    for (let index = 0; index < length; index++) {
      const difference = u8[(index < prefixLength ? this.#prefixAt : suffix) + index]! - key[index]!;
      if (difference !== 0) return difference;
    }
    return ownLength - keyLength;
  }

  /** A fresh copy of the value. */
  copyValue(): Buffer {
    const length = this.#valueLength;
    if ((this.viewFlags & CellFlag.Overflow) !== 0) return this.#copyChain();
    const start = this.#bodyAt;
    if (length > WORD_COPY_BYTES_MAX) {
      const buffer = Buffer.allocUnsafe(length);
      buffer.set(this.viewU8.subarray(start, start + length));
      return buffer;
    }
    const pool = this.#pool;
    const buffer = pool.take(length);
    copyWords(
      this.arena.i32[this.viewSegment]!,
      this.viewU8,
      start,
      length,
      pool.words,
      buffer.byteOffset >>> 2,
      buffer,
    );
    return buffer;
  }

  /** The value as UTF-8 text, without a copy in between. */
  valueUtf8(): string {
    if ((this.viewFlags & CellFlag.Overflow) !== 0) return this.#copyChain().toString('utf8');
    return sliceUtf8(this.arena.buffers[this.viewSegment]!, this.#bodyAt, this.#bodyAt + this.#valueLength);
  }

  /** The key as UTF-8 text. */
  keyUtf8(): string {
    const buffer = this.arena.buffers[this.viewSegment]!;
    if (this.#prefixLength === 0) return sliceUtf8(buffer, this.#suffixAt, this.#suffixAt + this.#suffixLength);
    const key = Buffer.allocUnsafe(this.keyLength);
    return sliceUtf8(key, 0, this.copyKey(key, 0));
  }

  /** Copies value bytes [from, from + length) to into[at …], fewer at the value's end; returns how many. */
  readValue(into: Uint8Array, at: number, from: number, length: number): number {
    const wanted = Math.min(length, this.#valueLength - from);
    if (wanted <= 0) return 0;
    if ((this.viewFlags & CellFlag.Overflow) === 0) {
      copyBytes(this.viewU8, this.#bodyAt + from, wanted, into, at);
      return wanted;
    }
    const first = this.#overflowUnit();
    if (this.#chainFirst !== first || from < this.#chainOffset) {
      this.#chainFirst = first;
      this.#chainUnit = first;
      this.#chainOffset = 0;
    }
    let done = 0;
    const arena = this.arena;
    while (done < wanted) {
      let unit = this.#chainUnit;
      if (unit >= COLD) unit = this.#coldChainPage(unit);
      else if (!(unit > 0 && unit < arena.totalUnits))
        throw corruptPage(unit, `a chain ends before byte ${from + done}`);
      const segment = unit >>> SEGMENT_UNIT_SHIFT;
      const base = (unit & SEGMENT_UNIT_MASK) << UNIT_SHIFT;
      const words = arena.u32[segment]!;
      checkPage(words, base, unit, PageKind.Overflow);
      const payload = words[(base >>> 2) + PAYLOAD_BYTES_WORD]!;
      const pageBytes = 4096 << (arena.u8[segment]![base + CLASS_BYTE]! & 3);
      // A page without payload could make a circle of pages last for ever.
      if (payload === 0 || payload > pageBytes - PAGE_HEADER_BYTES)
        throw corruptPage(unit, `payload of ${payload} bytes`);
      const skip = from + done - this.#chainOffset;
      if (skip < payload) {
        const piece = Math.min(payload - skip, wanted - done);
        copyBytes(arena.u8[segment]!, base + PAGE_HEADER_BYTES + skip, piece, into, at + done);
        done += piece;
        if (done === wanted) break;
      }
      this.#chainOffset += payload;
      this.#chainUnit = words[(base >>> 2) + NEXT_WORD]!;
    }
    return wanted;
  }

  #overflowUnit(): UnitId {
    const u8 = this.viewU8;
    const at = this.#bodyAt;
    return (u8[at]! | (u8[at + 1]! << 8) | (u8[at + 2]! << 16) | (u8[at + 3]! << 24)) >>> 0;
  }

  #copyChain(): Buffer {
    const arena = this.arena;
    const total = this.#valueLength;
    const first = this.#overflowUnit();
    // Hostile bytes may claim any length: no more than there could be is reserved for it.
    if (total > (first < COLD ? arena.totalUnits * 4096 : COLD_VALUE_BYTES_MAX))
      throw corruptPage(first, `a chain of ${total} bytes`);
    const buffer = Buffer.allocUnsafe(total);
    if (first >= COLD) {
      this.readValue(buffer, 0, 0, total);
      return buffer;
    }
    let at = 0;
    walkChain(arena, first, total, (unit, _pageClass, payloadAt, payloadBytes) => {
      const u8 = arena.u8[unit >>> SEGMENT_UNIT_SHIFT]!;
      buffer.set(u8.subarray(payloadAt, payloadAt + payloadBytes), at);
      at += payloadBytes;
    });
    return buffer;
  }
}
