/**
 * Images of pinned trees: a stream of pages that a checkpoint writes and an opening store reads back.
 *
 *   header    offset  size  field
 *                  0     8  magic         "CKVTREES"
 *                  8     4  version       1
 *                 12     4  treeCount
 *                 16     8  publishedSeq
 *                 24     8  reserved      0
 *   page …    a page as in page.ts without its gap (and without unused payload), birth 0, units replaced by page numbers
 *   end              0     4  END_MARK      0xff in the place of a page's kind, then 0
 *                    4     4  pageCount
 *                    8     …  per tree 64 bytes: its row of the meta page, the root as page number
 *
 * Pages are numbered 1, 2, 3 … in the order of the stream, children before parents and the ends of chains before their starts. So
 * every reference points backwards, and an image whose references are each used once cannot hold a circle.
 *
 * A tree with a page file is written as an empty one that says so; its root follows in a chunk of its own (paged/format.ts).
 * Rows of other engines, whose entries go into a checkpoint by themselves (checkpoint/entries.ts), are written as free ones.
 *
 * Checksums and files are the caller's. loadImage() trusts nothing all the same: any bytes give sound pages that form trees, or
 * ERR_CORRUPT. The order of keys across pages and the counts of live entries are left to check(), which takes longer than the load.
 * Threads: writeImage any, while the meta unit is pinned; loadImage the shard thread, into an empty arena.
 * Versions: 1 = the first.
 */
import { readU32LE, writeU32LE } from '../../shared/codec/fixed.js';
import { ConcordError, invalidArgument } from '../../shared/errors.js';
import {
  SEGMENT_UNIT_MASK,
  SEGMENT_UNIT_SHIFT,
  UNIT_SHIFT,
  type ArenaReader,
  type ArenaWriter,
  type UnitId,
} from '../../shared/memory/arena.js';
import { BUILDING_SPACE_ID, EngineCode, FREE_TAG, engineCodeOfTag, spaceIdOfTag } from '../engine.js';
import { validatePage } from './check.js';
import {
  ROW_WORDS,
  TREE_COUNT_MAX,
  TreeTable,
  publishedSeqOf,
  readRow,
  treeCount,
  treeCounts,
  writeRow,
  type TreeCounts,
} from './meta.js';
import { payloadBytesOf, walkChain } from './overflow.js';
import { COLD } from './paged/format.js';
import {
  BRANCH_SLOT_BYTES,
  CELL_START_HALFWORD,
  CLASS_BYTE,
  COUNT_HALFWORD,
  CellFlag,
  HEIGHT_MAX,
  LEAF_SLOT_BYTES,
  NEXT_WORD,
  PAGE_CLASS_MAX,
  PAGE_HEADER_BYTES,
  PREFIX_LENGTH_HALFWORD,
  PageKind,
  cellLengthsAt,
  headsOffset,
  readVarint,
  skipVarint,
} from './page.js';
import { walkTree } from './walk.js';

const IMAGE_VERSION = 1;
const IMAGE_HEADER_BYTES = 32;
const IMAGE_MAGIC = Buffer.from('CKVTREES', 'latin1');
const END_MARK = 0xff;
const END_HEADER_BYTES = 8;
const ROW_BYTES = ROW_WORDS * 4;
const CHUNK_BYTES = 256 * 1024;
const TWO_32 = 4294967296;
const UNITS_OF_CLASS = [1, 2, 4, 8] as const;

/**
 * Emits the image in chunks of at most 256 KiB. A chunk's memory is used again after emit returns. rootsFollow: false if the entries of trees with page
 * files follow instead of their roots.
 */
export function writeImage(
  arena: ArenaReader,
  metaUnit: UnitId,
  emit: (chunk: Uint8Array) => void,
  rootsFollow = true,
): void {
  new ImageWriter(arena, emit).write(metaUnit, rootsFollow);
}

/**
 * Reads an image into an empty arena and publishes it. Ends with the image's last chunk: what follows is the caller's. Construct BTreeWriters afterwards.
 * @throws ERR_CORRUPT, ERR_FORMAT_VERSION, ERR_MEMORY_FULL
 */
export function loadImage(arena: ArenaWriter, nextChunk: () => Uint8Array | undefined): void {
  new ImageLoader(arena, nextChunk).load();
}

class ImageWriter {
  readonly #arena: ArenaReader;
  readonly #emit: (chunk: Uint8Array) => void;
  readonly #chunk = new Uint8Array(CHUNK_BYTES);
  #used = 0;
  #pageCount = 0;
  /** Numbers of pages that are written but not yet referenced, in order: a parent takes its children's from the end. */
  #numbers = new Uint32Array(1024);
  #numberCount = 0;
  /** Numbers of the chains of the leaf that comes next, in the order of its cells. */
  #chainNumbers: number[] = [];

  constructor(arena: ArenaReader, emit: (chunk: Uint8Array) => void) {
    this.#arena = arena;
    this.#emit = emit;
  }

  write(metaUnit: UnitId, rootsFollow: boolean): void {
    const arena = this.#arena;
    const trees = treeCount(arena, metaUnit);
    const header = Buffer.alloc(IMAGE_HEADER_BYTES);
    IMAGE_MAGIC.copy(header);
    header.writeUInt32LE(IMAGE_VERSION, 8);
    header.writeUInt32LE(trees, 12);
    const publishedSeq = publishedSeqOf(arena, metaUnit);
    header.writeUInt32LE(publishedSeq >>> 0, 16);
    header.writeUInt32LE(Math.floor(publishedSeq / TWO_32), 20);
    this.#put(header);
    const rows = new Uint32Array(trees * ROW_WORDS);
    for (let index = 0; index < trees; index++) {
      const counts = treeCounts(arena, metaUnit, index);
      if (!isWritten(counts.tag)) {
        writeRow(rows, index * ROW_WORDS, FREE_ROW);
        continue;
      }
      if (counts.isPaged === true) {
        writeRow(rows, index * ROW_WORDS, { ...FREE_ROW, ...shapeOf(counts), tag: counts.tag, isPaged: rootsFollow });
        continue;
      }
      walkTree(arena, counts.rootUnit, counts.height, counts.overflowPages > 0, {
        chain: (firstUnit, totalBytes) => this.#chainNumbers.push(this.#writeChain(firstUnit, totalBytes)),
        page: (unit, level) => {
          this.#writePage(unit, level);
        },
      });
      const root = counts.height === 0 ? 0 : this.#numbers[--this.#numberCount]!;
      writeRow(rows, index * ROW_WORDS, { ...counts, rootUnit: root });
    }
    const end = Buffer.alloc(END_HEADER_BYTES);
    end[0] = END_MARK;
    end.writeUInt32LE(this.#pageCount, 4);
    this.#put(end);
    this.#put(new Uint8Array(rows.buffer));
    this.#flush();
  }

  /** Leaves and branches: header and arrays, then the cells. */
  #writePage(unit: UnitId, level: number): void {
    const segment = unit >>> SEGMENT_UNIT_SHIFT;
    const base = (unit & SEGMENT_UNIT_MASK) << UNIT_SHIFT;
    const u8 = this.#arena.u8[segment]!;
    const u16 = this.#arena.u16[segment]!;
    const half = base >>> 1;
    const pageBytes = 4096 << (u8[base + CLASS_BYTE]! & 3);
    const count = u16[half + COUNT_HALFWORD]!;
    const headsAt = headsOffset(u16[half + PREFIX_LENGTH_HALFWORD]!);
    const slotsEnd = headsAt + count * (level === 0 ? LEAF_SLOT_BYTES : BRANCH_SLOT_BYTES);
    const cellStart = u16[half + CELL_START_HALFWORD]!;
    if (slotsEnd > cellStart || cellStart > pageBytes) {
      throw new ConcordError('ERR_CORRUPT', `page at unit ${unit}: ${count} entries, cells from ${cellStart}`, {
        unit,
      });
    }
    const at = this.#room(slotsEnd + pageBytes - cellStart);
    const chunk = this.#chunk;
    chunk.set(u8.subarray(base, base + slotsEnd), at);
    chunk.set(u8.subarray(base + cellStart, base + pageBytes), at + slotsEnd);
    this.#clearBirth(at);
    if (level > 0) {
      this.#numberCount -= count;
      const children = (base + headsAt + 4 * count) >>> 2;
      for (let index = 0; index < count; index++) {
        if (this.#arena.u32[segment]![children + index]! >= COLD)
          throw new ConcordError(
            'ERR_CORRUPT',
            `page at unit ${unit}: child ${index} is in a page file, and its row denies it`,
          );
        writeU32LE(chunk, at + headsAt + 4 * (count + index), this.#numbers[this.#numberCount + index]!);
      }
    } else if (this.#chainNumbers.length > 0) {
      this.#setChains(at, count, headsAt, slotsEnd, cellStart);
    }
    if (this.#numberCount === this.#numbers.length) {
      const numbers = new Uint32Array(this.#numbers.length * 2);
      numbers.set(this.#numbers);
      this.#numbers = numbers;
    }
    this.#numbers[this.#numberCount++] = ++this.#pageCount;
  }

  #setChains(at: number, count: number, headsAt: number, slotsEnd: number, cellStart: number): void {
    const chunk = this.#chunk;
    let next = 0;
    for (let index = 0; index < count; index++) {
      const offsetAt = at + headsAt + 4 * count + 2 * index;
      const cell = at + slotsEnd - cellStart + (chunk[offsetAt]! | (chunk[offsetAt + 1]! << 8));
      if ((chunk[cell]! & CellFlag.Overflow) === 0) continue;
      const suffixLengthAt = skipVarint(chunk, cellLengthsAt(chunk, cell));
      const body = skipVarint(chunk, suffixLengthAt) + readVarint(chunk, suffixLengthAt);
      writeU32LE(chunk, body, this.#chainNumbers[next++]!);
    }
    this.#chainNumbers = [];
  }

  /** From the last page to the first; returns the first one's number. */
  #writeChain(firstUnit: UnitId, totalBytes: number): number {
    const units: UnitId[] = [];
    walkChain(this.#arena, firstUnit, totalBytes, (unit) => units.push(unit));
    let next = 0;
    for (let index = units.length - 1; index >= 0; index--) {
      const unit = units[index]!;
      const segment = unit >>> SEGMENT_UNIT_SHIFT;
      const base = (unit & SEGMENT_UNIT_MASK) << UNIT_SHIFT;
      const bytes = PAGE_HEADER_BYTES + this.#arena.u32[segment]![(base >>> 2) + 3]!;
      const at = this.#room(bytes);
      this.#chunk.set(this.#arena.u8[segment]!.subarray(base, base + bytes), at);
      this.#clearBirth(at);
      writeU32LE(this.#chunk, at + 4 * NEXT_WORD, next);
      next = ++this.#pageCount;
    }
    return next;
  }

  /** Births belong to one arena's history. */
  #clearBirth(at: number): void {
    this.#chunk.fill(0, at + 4, at + 10);
  }

  #room(bytes: number): number {
    if (this.#used + bytes > CHUNK_BYTES) this.#flush();
    const at = this.#used;
    this.#used += bytes;
    return at;
  }

  #put(bytes: Uint8Array): void {
    for (let done = 0; done < bytes.length;) {
      if (this.#used === CHUNK_BYTES) this.#flush();
      const piece = Math.min(bytes.length - done, CHUNK_BYTES - this.#used);
      this.#chunk.set(bytes.subarray(done, done + piece), this.#used);
      this.#used += piece;
      done += piece;
    }
  }

  #flush(): void {
    if (this.#used > 0) this.#emit(this.#chunk.subarray(0, this.#used));
    this.#used = 0;
  }
}

class ImageLoader {
  readonly #arena: ArenaWriter;
  readonly #nextChunk: () => Uint8Array | undefined;
  #chunk: Uint8Array = new Uint8Array(0);
  #at = 0;
  /** By page number: the unit, 0 once something refers to it; and its level, OVERFLOW_LEVEL for chain pages. */
  #units = new Int32Array(1024);
  #levels = new Uint8Array(1024);
  /** Chain pages: payload bytes from the page to the chain's end. */
  #chainBytes = new Map<number, number>();
  #pageCount = 0;
  #pages = { leaf: 0, branch: 0, overflow: 0, treeUnits: 0, overflowUnits: 0 };

  constructor(arena: ArenaWriter, nextChunk: () => Uint8Array | undefined) {
    this.#arena = arena;
    this.#nextChunk = nextChunk;
  }

  load(): void {
    const arena = this.#arena;
    const table = TreeTable.of(arena);
    if (arena.published() !== 0 || table.count > 0)
      throw invalidArgument('an image is loaded into an empty arena only');
    const allocated: UnitId[] = [];
    try {
      const publishedSeq = this.#load(allocated);
      table.publish(publishedSeq);
    } catch (error) {
      for (const unit of allocated) arena.free(unit);
      throw error;
    }
  }

  #load(allocated: UnitId[]): number {
    const header = this.#take(IMAGE_HEADER_BYTES);
    const words = new DataView(header.bytes.buffer, header.bytes.byteOffset + header.at, IMAGE_HEADER_BYTES);
    for (let index = 0; index < IMAGE_MAGIC.length; index++) {
      if (words.getUint8(index) !== IMAGE_MAGIC[index]) throw corruptImage(`byte ${index} is not the magic's`);
    }
    const version = words.getUint32(8, true);
    if (version !== IMAGE_VERSION) {
      throw new ConcordError(
        'ERR_FORMAT_VERSION',
        `tree image: version ${version}, this release reads ${IMAGE_VERSION}`,
      );
    }
    const trees = words.getUint32(12, true);
    const publishedSeq = words.getUint32(16, true) + words.getUint32(20, true) * TWO_32;
    if (trees > TREE_COUNT_MAX || publishedSeq >= 2 ** 48) throw corruptImage(`${trees} trees, seq ${publishedSeq}`);
    for (;;) {
      const record = this.#peek(END_HEADER_BYTES);
      if (record.bytes[record.at] === END_MARK) break;
      this.#loadPage(allocated);
    }
    const end = this.#take(END_HEADER_BYTES);
    const pageCount = readU32LE(end.bytes, end.at + 4);
    if (pageCount !== this.#pageCount) throw corruptImage(`${pageCount} pages announced, ${this.#pageCount} read`);
    this.#loadRows(trees);
    if (this.#at < this.#chunk.length) throw corruptImage('bytes after the end');
    return publishedSeq;
  }

  #loadPage(allocated: UnitId[]): void {
    const peeked = this.#peek(PAGE_HEADER_BYTES);
    const { bytes, at } = peeked;
    const kind = bytes[at]!;
    const level = bytes[at + 1]!;
    const pageClass = bytes[at + CLASS_BYTE]!;
    if (pageClass > PAGE_CLASS_MAX || level >= HEIGHT_MAX)
      throw this.#corruptPage(`class ${pageClass}, level ${level}`);
    const pageBytes = 4096 << pageClass;
    let headBytes: number;
    let cellStart = pageBytes;
    if (kind === PageKind.Overflow) {
      const payload = readU32LE(bytes, at + 12);
      if (payload > payloadBytesOf(pageClass)) throw this.#corruptPage(`payload of ${payload} bytes`);
      headBytes = PAGE_HEADER_BYTES + payload;
    } else {
      const count = bytes[at + 10]! | (bytes[at + 11]! << 8);
      const prefixLength = bytes[at + 12]! | (bytes[at + 13]! << 8);
      cellStart = bytes[at + 14]! | (bytes[at + 15]! << 8);
      headBytes = headsOffset(prefixLength) + count * (level === 0 ? LEAF_SLOT_BYTES : BRANCH_SLOT_BYTES);
      if (headBytes > cellStart || cellStart > pageBytes)
        throw this.#corruptPage(`${count} entries, cells from ${cellStart}`);
    }
    const arena = this.#arena;
    const unit = arena.allocate(UNITS_OF_CLASS[pageClass as 0 | 1 | 2 | 3]);
    allocated.push(unit);
    const segment = unit >>> SEGMENT_UNIT_SHIFT;
    const base = (unit & SEGMENT_UNIT_MASK) << UNIT_SHIFT;
    const words = arena.u32[segment]!;
    const birthLow = words[(base >>> 2) + 1]!;
    const birthHigh = words[(base >>> 2) + 2]! & 0xffff;
    const record = this.#take(headBytes + pageBytes - cellStart);
    const u8 = arena.u8[segment]!;
    u8.set(record.bytes.subarray(record.at, record.at + headBytes), base);
    if (cellStart < pageBytes) {
      u8.set(
        record.bytes.subarray(record.at + headBytes, record.at + headBytes + pageBytes - cellStart),
        base + cellStart,
      );
    }
    words[(base >>> 2) + 1] = birthLow;
    arena.u16[segment]![(base >>> 1) + 4] = birthHigh;
    this.#link(base, segment, level, kind);
    validatePage(arena, unit, level);
    this.#register(unit, level, kind, pageClass);
  }

  /** Turns page numbers into units. */
  #link(base: number, segment: number, level: number, kind: number): void {
    const u8 = this.#arena.u8[segment]!;
    const u16 = this.#arena.u16[segment]!;
    const u32 = this.#arena.u32[segment]!;
    if (kind === PageKind.Overflow) {
      const nextWord = (base >>> 2) + NEXT_WORD;
      const next = u32[nextWord]!;
      const rest = next === 0 ? 0 : this.#chainBytes.get(next);
      if (rest === undefined) throw this.#corruptPage(`next page ${next} is no chain page`);
      u32[nextWord] = next === 0 ? 0 : this.#claim(next, OVERFLOW_LEVEL);
      this.#chainBytes.set(this.#pageCount + 1, rest + u32[(base >>> 2) + 3]!);
      this.#chainBytes.delete(next);
      return;
    }
    const half = base >>> 1;
    const count = u16[half + COUNT_HALFWORD]!;
    const heads = (base + headsOffset(u16[half + PREFIX_LENGTH_HALFWORD]!)) >>> 2;
    if (level > 0) {
      const children = heads + count;
      for (let index = 0; index < count; index++)
        u32[children + index] = this.#claim(u32[children + index]!, level - 1);
      return;
    }
    const offsets = (heads + count) << 1;
    const pageEnd = base + (4096 << u8[base + CLASS_BYTE]!);
    for (let index = 0; index < count; index++) {
      const cell = base + u16[offsets + index]!;
      if (cell >= pageEnd || (u8[cell]! & CellFlag.Overflow) === 0) continue;
      const total = readVarint(u8, cellLengthsAt(u8, cell));
      const suffixLengthAt = skipVarint(u8, cellLengthsAt(u8, cell));
      const body = skipVarint(u8, suffixLengthAt) + readVarint(u8, suffixLengthAt);
      if (body + 4 > pageEnd) throw this.#corruptPage('a cell reaches beyond its page');
      const number = readU32LE(u8, body);
      if (this.#chainBytes.get(number) !== total)
        throw this.#corruptPage(`chain ${number} does not have ${total} bytes`);
      this.#chainBytes.delete(number);
      writeU32LE(u8, body, this.#claim(number, OVERFLOW_LEVEL));
    }
  }

  /** The unit of an earlier page of that level that nothing has referred to yet. */
  #claim(number: number, level: number): UnitId {
    const unit = number > 0 && number <= this.#pageCount ? this.#units[number]! : 0;
    if (unit === 0 || this.#levels[number] !== level)
      throw this.#corruptPage(`page ${number} is not free to be a child`);
    this.#units[number] = 0;
    return unit;
  }

  #register(unit: UnitId, level: number, kind: number, pageClass: number): void {
    const number = ++this.#pageCount;
    if (number === this.#units.length) {
      const units = new Int32Array(number * 2);
      units.set(this.#units);
      this.#units = units;
      const levels = new Uint8Array(number * 2);
      levels.set(this.#levels);
      this.#levels = levels;
    }
    this.#units[number] = unit;
    this.#levels[number] = kind === PageKind.Overflow ? OVERFLOW_LEVEL : level;
    const pages = this.#pages;
    if (kind === PageKind.Overflow) {
      pages.overflow++;
      pages.overflowUnits += 1 << pageClass;
    } else {
      pages.treeUnits += 1 << pageClass;
      if (level === 0) pages.leaf++;
      else pages.branch++;
    }
  }

  #loadRows(trees: number): void {
    const rows: TreeCounts[] = [];
    const sum = { leaf: 0, branch: 0, overflow: 0, treeUnits: 0, overflowUnits: 0 };
    for (let index = 0; index < trees; index++) {
      const record = this.#take(ROW_BYTES);
      const words = new Uint32Array(ROW_WORDS);
      for (let word = 0; word < ROW_WORDS; word++) words[word] = readU32LE(record.bytes, record.at + 4 * word);
      const row = readRow(words, 0);
      const isEmpty = row.height === 0;
      if (
        row.height > HEIGHT_MAX ||
        isEmpty !== (row.rootUnit === 0) ||
        (row.isPaged === true && !isEmpty) ||
        !(isWritten(row.tag) || (row.tag === FREE_TAG && isEmpty)) ||
        (row.order !== 0 && (row.order < 3 || row.order > 1000))
      ) {
        throw corruptImage(`tree ${index}: height ${row.height}, root ${row.rootUnit}, order ${row.order}`);
      }
      rows.push(isEmpty ? row : { ...row, rootUnit: this.#claim(row.rootUnit, row.height - 1) });
      sum.leaf += row.leafPages;
      sum.branch += row.branchPages;
      sum.overflow += row.overflowPages;
      sum.treeUnits += row.treeUnits;
      sum.overflowUnits += row.overflowUnits;
    }
    for (const name of Object.keys(sum) as (keyof typeof sum)[]) {
      if (sum[name] !== this.#pages[name])
        throw corruptImage(`${name}: ${sum[name]} in the rows, ${this.#pages[name]} read`);
    }
    for (let number = 1; number <= this.#pageCount; number++) {
      if (this.#units[number] !== 0) throw corruptImage(`page ${number} belongs to nothing`);
    }
    const table = TreeTable.of(this.#arena);
    rows.forEach((row, index) => {
      table.setRow(index, row);
    });
  }

  /** The next `bytes` bytes, in one piece, without taking them. */
  #peek(bytes: number): { bytes: Uint8Array; at: number } {
    if (this.#chunk.length - this.#at < bytes) this.#refill(bytes);
    return { bytes: this.#chunk, at: this.#at };
  }

  #take(bytes: number): { bytes: Uint8Array; at: number } {
    const record = this.#peek(bytes);
    this.#at += bytes;
    return record;
  }

  /** Puts what is left of this chunk and enough of the following ones together. */
  #refill(bytes: number): void {
    let left = this.#chunk.length - this.#at;
    if (left === 0) {
      const next = this.#nextChunk();
      if (next === undefined) throw corruptImage('the image ends early');
      this.#chunk = next;
      this.#at = 0;
      if (next.length >= bytes) return;
      left = next.length;
    }
    // Copies: the next chunk may take the memory of this one. (slice() of a Buffer is none.)
    const parts = [Buffer.from(this.#chunk.subarray(this.#at))];
    while (left < bytes) {
      const next = this.#nextChunk();
      if (next === undefined) throw corruptImage('the image ends early');
      parts.push(Buffer.from(next));
      left += next.length;
    }
    this.#chunk = Buffer.concat(parts, left);
    this.#at = 0;
  }

  #corruptPage(what: string): ConcordError {
    return corruptImage(`page ${this.#pageCount + 1}: ${what}`);
  }
}

const OVERFLOW_LEVEL = 0xff;

/** The row of nothing: in an image it also stands for a row whose engine is not written as pages. */
const FREE_ROW: TreeCounts = { ...readRow(new Uint32Array(ROW_WORDS), 0), tag: FREE_TAG };

function shapeOf({ order, pageBytes, isAdaptive }: TreeCounts): Partial<TreeCounts> {
  return { order, pageBytes, isAdaptive: isAdaptive === true };
}

/** B+Trees go into an image, except one that is being filled. */
function isWritten(tag: number): boolean {
  return tag !== FREE_TAG && engineCodeOfTag(tag) === EngineCode.btree && spaceIdOfTag(tag) !== BUILDING_SPACE_ID;
}

function corruptImage(what: string): ConcordError {
  return new ConcordError('ERR_CORRUPT', `tree image: ${what}`);
}
