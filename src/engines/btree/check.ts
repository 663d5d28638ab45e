/**
 * Proof of soundness: one page (validatePage), one tree (checkTree), one arena with all its trees (checkArena).
 *
 * Reads nothing on trust: any bytes give a problem or an ERR_CORRUPT, never a hang. Threads: validatePage and checkTree any, under a
 * pin or before publication; checkArena the writer only.
 */
import { readU32LE } from '../../shared/codec/fixed.js';
import { ConcordError } from '../../shared/errors.js';
import {
  HEADER_UNITS,
  SEGMENT_UNIT_MASK,
  SEGMENT_UNIT_SHIFT,
  UNIT_SHIFT,
  type ArenaReader,
  type ArenaWriter,
  type UnitId,
} from '../../shared/memory/arena.js';
import { TreeTable, treeCount, treeCounts, type TreeCounts } from './meta.js';
import { payloadBytesOf, walkChain } from './overflow.js';
import {
  BRANCH_SLOT_BYTES,
  CELL_FLAGS_KNOWN,
  CELL_LENGTHS_OFFSET,
  CELL_START_HALFWORD,
  COUNT_HALFWORD,
  CellFlag,
  GARBAGE_HALFWORD,
  HEIGHT_MAX,
  KEY_BYTES_MAX,
  LEAF_SLOT_BYTES,
  NEXT_WORD,
  PAGE_BYTES_MAX,
  PAGE_FLAGS_BYTE,
  PAGE_UNREAD,
  PAGE_CLASS_MAX,
  PAGE_HEADER_BYTES,
  PAYLOAD_BYTES_WORD,
  PREFIX_LENGTH_HALFWORD,
  PageKind,
  RESERVED_HALFWORD,
  SEQ_BYTES,
  VALUE_BYTES_MAX,
  cellExpiresAt,
  cellLengthsAt,
  corruptPage,
  headOf,
  headsOffset,
  readSeq,
  readVarint,
  skipVarint,
} from './page.js';
import { PrivatePage } from './paged/cold-pages.js';
import { COLD, classOf, slotOf } from './paged/format.js';
import { compareSeparator } from './search.js';

/** Start and length of every cell of a page, as start × 65536 + length, to find overlaps. */
const cellSpans = new Float64Array(PAGE_BYTES_MAX / 6);

/** Throws ERR_CORRUPT unless the page is a sound leaf, branch or overflow page of that level. References are not followed. */
export function validatePage(arena: ArenaReader, unit: UnitId, level: number): void {
  if (!(unit > 0 && (unit < arena.totalUnits || arena.isPrivate(unit))))
    throw corruptPage(unit, 'not a unit of the arena');
  const segment = unit >>> SEGMENT_UNIT_SHIFT;
  const base = (unit & SEGMENT_UNIT_MASK) << UNIT_SHIFT;
  const u8 = arena.u8[segment]!;
  const u16 = arena.u16[segment]!;
  const u32 = arena.u32[segment]!;
  const kind = u8[base]!;
  const pageClass = u8[base + 2]!;
  if (pageClass > PAGE_CLASS_MAX || (unit & ((1 << pageClass) - 1)) !== 0)
    throw corruptPage(unit, `class ${pageClass}`);
  if (u8[base + 1] !== level) throw corruptPage(unit, `level ${u8[base + 1]!}, wanted ${level}`);
  if (u8[base + PAGE_FLAGS_BYTE]! > (kind === PageKind.Leaf ? PAGE_UNREAD : 0))
    throw corruptPage(unit, `flags ${u8[base + PAGE_FLAGS_BYTE]!}`);
  const pageBytes = 4096 << pageClass;
  if (kind === PageKind.Overflow) {
    const payload = u32[(base >>> 2) + PAYLOAD_BYTES_WORD]!;
    if (level !== 0 || payload === 0 || payload > payloadBytesOf(pageClass))
      throw corruptPage(unit, `payload ${payload}`);
    return;
  }
  if (kind !== (level === 0 ? PageKind.Leaf : PageKind.Branch))
    throw corruptPage(unit, `kind ${kind} at level ${level}`);
  const half = base >>> 1;
  const count = u16[half + COUNT_HALFWORD]!;
  const prefixLength = u16[half + PREFIX_LENGTH_HALFWORD]!;
  const cellStart = u16[half + CELL_START_HALFWORD]!;
  const garbage = u16[half + GARBAGE_HALFWORD]!;
  const slotBytes = level === 0 ? LEAF_SLOT_BYTES : BRANCH_SLOT_BYTES;
  if (count === 0 || prefixLength > KEY_BYTES_MAX)
    throw corruptPage(unit, `${count} entries, prefix of ${prefixLength}`);
  if (headsOffset(prefixLength) + count * slotBytes > cellStart || cellStart > pageBytes) {
    throw corruptPage(unit, `${count} entries, cells from ${cellStart} of ${pageBytes}`);
  }
  const reference = u32[(base >>> 2) + NEXT_WORD]!;
  if (reference !== 0 && (reference < COLD || u16[half + RESERVED_HALFWORD] === 0))
    throw corruptPage(unit, 'reserved bytes');
  const used =
    level === 0
      ? validateLeafCells(u8, u16, u32, base, unit, pageBytes)
      : validateBranchCells(u8, u16, u32, base, unit, pageBytes);
  // Less is possible: a writer that died while it overwrote a cell in place leaves bytes that nothing counts.
  if (used + garbage > pageBytes - cellStart) {
    throw corruptPage(unit, `${used} bytes in cells and ${garbage} garbage, area of ${pageBytes - cellStart}`);
  }
}

function validateLeafCells(
  u8: Uint8Array,
  u16: Uint16Array,
  u32: Uint32Array,
  base: number,
  unit: UnitId,
  pageBytes: number,
): number {
  const half = base >>> 1;
  const count = u16[half + COUNT_HALFWORD]!;
  const prefixLength = u16[half + PREFIX_LENGTH_HALFWORD]!;
  const cellStart = u16[half + CELL_START_HALFWORD]!;
  const heads = (base + headsOffset(prefixLength)) >>> 2;
  const offsets = (heads + count) << 1;
  const pageEnd = base + pageBytes;
  let used = 0;
  let beforeHead = 0;
  let beforeAt = 0;
  let beforeLength = 0;
  let beforeSeq = 0;
  for (let index = 0; index < count; index++) {
    const offset = u16[offsets + index]!;
    if (offset < cellStart || offset > pageBytes - CELL_LENGTHS_OFFSET - 2)
      throw corruptPage(unit, `cell ${index} at ${offset}`);
    const cell = base + offset;
    const flags = u8[cell]!;
    if ((flags & ~CELL_FLAGS_KNOWN) !== 0 || ((flags & CellFlag.Tombstone) !== 0 && flags !== CellFlag.Tombstone))
      throw corruptPage(unit, `cell ${index}: flags ${flags}`);
    const seq = readSeq(u8, cell + 1);
    const lengthsAt = cellLengthsAt(u8, cell);
    const valueLength = readVarint(u8, lengthsAt);
    const lengthAt = skipVarint(u8, lengthsAt);
    const suffixLength = readVarint(u8, lengthAt);
    const suffixAt = skipVarint(u8, lengthAt);
    const bodyLength = (flags & CellFlag.Overflow) !== 0 ? 4 : valueLength;
    const end = suffixAt + suffixLength + bodyLength;
    if (
      suffixAt - lengthAt > 2 ||
      prefixLength + suffixLength > KEY_BYTES_MAX ||
      valueLength > VALUE_BYTES_MAX ||
      ((flags & CellFlag.Tombstone) !== 0 && valueLength !== 0) ||
      ((flags & CellFlag.Overflow) !== 0 && valueLength === 0) ||
      ((flags & CellFlag.Expiry) !== 0 && cellExpiresAt(u8, cell) === 0) ||
      end > pageEnd
    ) {
      throw corruptPage(
        unit,
        `cell ${index}: suffix of ${suffixLength}, value of ${valueLength} bytes, flags ${flags}`,
      );
    }
    const head = u32[heads + index]!;
    if (head !== headOf(u8, suffixAt, suffixLength))
      throw corruptPage(unit, `cell ${index}: head ${head.toString(16)}`);
    if (index > 0) {
      const order =
        beforeHead !== head
          ? beforeHead - head
          : compareSpans(u8, beforeAt, beforeLength, suffixAt, suffixLength) || seq - beforeSeq;
      if (order >= 0) throw corruptPage(unit, `cell ${index} is not above the one before`);
    }
    cellSpans[index] = offset * 65536 + (end - cell);
    used += end - cell;
    beforeHead = head;
    beforeAt = suffixAt;
    beforeLength = suffixLength;
    beforeSeq = seq;
  }
  checkSpans(unit, 0, count);
  return used;
}

function validateBranchCells(
  u8: Uint8Array,
  u16: Uint16Array,
  u32: Uint32Array,
  base: number,
  unit: UnitId,
  pageBytes: number,
): number {
  const half = base >>> 1;
  const count = u16[half + COUNT_HALFWORD]!;
  const prefixLength = u16[half + PREFIX_LENGTH_HALFWORD]!;
  const cellStart = u16[half + CELL_START_HALFWORD]!;
  const heads = (base + headsOffset(prefixLength)) >>> 2;
  const children = heads + count;
  const offsets = (heads + 2 * count) << 1;
  if (u32[heads] !== 0 || u16[offsets] !== 0) throw corruptPage(unit, 'the first child has a separator');
  if (u32[children] === 0) throw corruptPage(unit, 'child 0 is missing');
  let used = 0;
  let beforeHead = 0;
  let beforeAt = 0;
  let beforeLength = 0;
  let beforeSeq = 0;
  for (let index = 1; index < count; index++) {
    const offset = u16[offsets + index]!;
    if (offset < cellStart || offset >= pageBytes) throw corruptPage(unit, `separator ${index} at ${offset}`);
    const cell = base + offset;
    const lengthAndFlag = readVarint(u8, cell);
    let at = skipVarint(u8, cell);
    const lengthBytes = at - cell;
    let seq = Infinity;
    if ((lengthAndFlag & 1) !== 0) {
      seq = readSeq(u8, at);
      at += SEQ_BYTES;
    }
    const suffixLength = lengthAndFlag >>> 1;
    const end = at + suffixLength;
    if (lengthBytes > 2 || prefixLength + suffixLength > KEY_BYTES_MAX || end > base + pageBytes) {
      throw corruptPage(unit, `separator ${index} of ${suffixLength} bytes`);
    }
    const head = u32[heads + index]!;
    if (head !== headOf(u8, at, suffixLength)) throw corruptPage(unit, `separator ${index}: head ${head.toString(16)}`);
    if (u32[children + index] === 0) throw corruptPage(unit, `child ${index} is missing`);
    if (index > 1) {
      const keys = beforeHead !== head ? beforeHead - head : compareSpans(u8, beforeAt, beforeLength, at, suffixLength);
      if (keys > 0 || (keys === 0 && !(seq < beforeSeq)))
        throw corruptPage(unit, `separator ${index} is not above the one before`);
    }
    cellSpans[index] = offset * 65536 + (end - cell);
    used += end - cell;
    beforeHead = head;
    beforeAt = at;
    beforeLength = suffixLength;
    beforeSeq = seq;
  }
  checkSpans(unit, 1, count);
  return used;
}

function checkSpans(unit: UnitId, from: number, to: number): void {
  // Written one after the other, downwards: then there is nothing to sort.
  let sorted = true;
  for (let index = from + 1; index < to && sorted; index++) sorted = cellSpans[index]! < cellSpans[index - 1]!;
  const spans = cellSpans.subarray(from, to);
  if (sorted) spans.reverse();
  else spans.sort();
  for (let index = 1; index < spans.length; index++) {
    const before = spans[index - 1]!;
    if (Math.floor(before / 65536) + (before % 65536) > Math.floor(spans[index]! / 65536)) {
      throw corruptPage(unit, `cells overlap at ${Math.floor(spans[index]! / 65536)}`);
    }
  }
}

function compareSpans(u8: Uint8Array, a: number, aLength: number, b: number, bLength: number): number {
  const length = Math.min(aLength, bLength);
  for (let index = 0; index < length; index++) {
    const difference = u8[a + index]! - u8[b + index]!;
    if (difference !== 0) return difference;
  }
  return aLength - bLength;
}

/** A separator that bounds a subtree: entry `index` of a branch. */
interface Bound {
  readonly unit: UnitId;
  readonly index: number;
}

class TreeCheck {
  readonly problems: string[] = [];
  readonly #arena: ArenaReader;
  readonly #marks: Uint8Array;
  cells = 0;
  expires = false;
  liveEntries = 0;
  liveKeyBytes = 0;
  liveValueBytes = 0;
  leafPages = 0;
  branchPages = 0;
  overflowPages = 0;
  treeUnits = 0;
  overflowUnits = 0;
  #key = new Uint8Array(KEY_BYTES_MAX);
  #keyLength = -1;
  #lastKey = new Uint8Array(KEY_BYTES_MAX);
  #lastKeyLength = -1;
  readonly #separator = new Uint8Array(KEY_BYTES_MAX);
  /** Of what was counted: pages that are in a page file only. */
  coldUnits = 0;
  readonly #references = new Set<number>();
  #coldLeaf: PrivatePage | undefined;
  #coldChain: PrivatePage | undefined;

  constructor(arena: ArenaReader, marks: Uint8Array) {
    this.#arena = arena;
    this.#marks = marks;
  }

  walk(unit: UnitId, level: number, low: Bound | undefined, high: Bound | undefined): void {
    try {
      validatePage(this.#arena, unit, level);
    } catch (error) {
      if (!(error instanceof ConcordError)) throw error;
      this.problems.push(error.message);
      return;
    }
    const segment = unit >>> SEGMENT_UNIT_SHIFT;
    const base = (unit & SEGMENT_UNIT_MASK) << UNIT_SHIFT;
    const u8 = this.#arena.u8[segment]!;
    const u16 = this.#arena.u16[segment]!;
    const u32 = this.#arena.u32[segment]!;
    const pageClass = u8[base + 2]!;
    if (!this.#arena.isPrivate(unit) && !this.mark(unit, 1 << pageClass)) return;
    this.treeUnits += 1 << pageClass;
    const half = base >>> 1;
    const count = u16[half + COUNT_HALFWORD]!;
    const prefixLength = u16[half + PREFIX_LENGTH_HALFWORD]!;
    const heads = (base + headsOffset(prefixLength)) >>> 2;
    if (level === 0) {
      this.leafPages++;
      const offsets = (heads + count) << 1;
      for (let index = 0; index < count; index++)
        this.#cell(u8, base, prefixLength, base + u16[offsets + index]!, low, high, unit);
      return;
    }
    this.branchPages++;
    const children = heads + count;
    // Below the root, deletes for which memory was short may have left one. Above a leaf that is not in memory a root stays.
    const isRoot = low === undefined && high === undefined;
    if (isRoot && count < 2 && u32[children]! < COLD) this.problems.push(`root at unit ${unit} has one child`);
    const offsets = (heads + 2 * count) << 1;
    for (let index = 1; index < count; index++) {
      let at = base + u16[offsets + index]!;
      const lengthAndFlag = readVarint(u8, at);
      at = skipVarint(u8, at);
      let seq = Infinity;
      if ((lengthAndFlag & 1) !== 0) {
        seq = readSeq(u8, at);
        at += SEQ_BYTES;
      }
      const length = copySplitKey(u8, base, prefixLength, at, lengthAndFlag >>> 1, this.#separator);
      this.#checkBounds(unit, this.#separator, length, seq, low, high);
    }
    for (let index = 0; index < count; index++) {
      const childLow = index === 0 ? low : { unit, index };
      const childHigh = index + 1 === count ? high : { unit, index: index + 1 };
      const child = u32[children + index]!;
      if (child < COLD || level > 1) this.walk(child, level - 1, childLow, childHigh);
      else this.#walkCold(unit, index, child, childLow, childHigh);
    }
  }

  #walkCold(branch: UnitId, index: number, reference: number, low: Bound | undefined, high: Bound | undefined): void {
    if (!this.#useReference(reference)) return;
    let leaf;
    try {
      leaf = (this.#coldLeaf ??= new PrivatePage(this.#arena, 0)).childOf(branch, index);
    } catch (error) {
      if (!(error instanceof ConcordError)) throw error;
      this.problems.push(error.message);
      return;
    }
    this.walk(leaf, 0, low, high);
  }

  #useReference(reference: number): boolean {
    if (this.#references.has(reference)) {
      this.problems.push(`slot ${slotOf(reference)} of the page file is used twice`);
      return false;
    }
    this.#references.add(reference);
    this.coldUnits += 1 << classOf(reference);
    return true;
  }

  mark(unit: UnitId, units: number): boolean {
    if (unit < HEADER_UNITS || unit + units > this.#marks.length) {
      this.problems.push(`unit ${unit} (${units}) lies outside the arena`);
      return false;
    }
    for (let at = unit; at < unit + units; at++) {
      if (this.#marks[at] !== 0) {
        this.problems.push(`unit ${at} is used twice`);
        return false;
      }
    }
    this.#marks.fill(1, unit, unit + units);
    return true;
  }

  #cell(
    u8: Uint8Array,
    base: number,
    prefixLength: number,
    cell: number,
    low: Bound | undefined,
    high: Bound | undefined,
    unit: UnitId,
  ): void {
    const flags = u8[cell]!;
    const lengthsAt = cellLengthsAt(u8, cell);
    const valueLength = readVarint(u8, lengthsAt);
    const lengthAt = skipVarint(u8, lengthsAt);
    const suffixLength = readVarint(u8, lengthAt);
    const suffixAt = skipVarint(u8, lengthAt);
    this.cells++;
    const last = this.#lastKey;
    this.#lastKey = this.#key;
    this.#lastKeyLength = this.#keyLength;
    this.#key = last;
    this.#keyLength = copySplitKey(u8, base, prefixLength, suffixAt, suffixLength, this.#key);
    this.#checkBounds(unit, this.#key, this.#keyLength, readSeq(u8, cell + 1), low, high);
    const isNewest =
      this.#lastKeyLength !== this.#keyLength ||
      compareTwo(this.#key, this.#keyLength, this.#lastKey, this.#lastKeyLength) !== 0;
    if (isNewest && (flags & CellFlag.Tombstone) === 0) {
      this.liveEntries++;
      this.liveKeyBytes += this.#keyLength;
      this.liveValueBytes += valueLength;
    }
    if ((flags & CellFlag.Expiry) !== 0) this.expires = true;
    if ((flags & CellFlag.Overflow) !== 0) this.#chain(unit, readU32LE(u8, suffixAt + suffixLength), valueLength);
  }

  #chain(leaf: UnitId, firstUnit: UnitId, totalBytes: number): void {
    try {
      if (firstUnit >= COLD) {
        this.#coldChainOf(leaf, firstUnit, totalBytes);
        return;
      }
      walkChain(this.#arena, firstUnit, totalBytes, (unit, pageClass) => {
        this.mark(unit, 1 << pageClass);
        this.overflowPages++;
        this.overflowUnits += 1 << pageClass;
      });
    } catch (error) {
      if (!(error instanceof ConcordError)) throw error;
      this.problems.push(error.message);
    }
  }

  #coldChainOf(leaf: UnitId, first: number, totalBytes: number): void {
    const { u16, u32 } = this.#arena;
    const number =
      u16[leaf >>> SEGMENT_UNIT_SHIFT]![(((leaf & SEGMENT_UNIT_MASK) << UNIT_SHIFT) >>> 1) + RESERVED_HALFWORD]!;
    const page = (this.#coldChain ??= new PrivatePage(this.#arena, 0));
    const words = u32[page.unit >>> SEGMENT_UNIT_SHIFT]!;
    let rest = totalBytes;
    let reference = first;
    while (rest > 0) {
      if (reference < COLD) throw corruptPage(leaf, `a chain misses ${rest} of ${totalBytes} bytes`);
      if (!this.#useReference(reference)) return;
      validatePage(this.#arena, page.load(number, reference), 0);
      this.overflowPages++;
      this.overflowUnits += 1 << classOf(reference);
      rest -= words[PAYLOAD_BYTES_WORD]!;
      reference = words[NEXT_WORD]!;
    }
    if (rest < 0 || reference !== 0) throw corruptPage(leaf, `a chain goes on after its ${totalBytes} bytes`);
  }

  /** Whether (key, seq) lies in [low, high). */
  #checkBounds(
    unit: UnitId,
    key: Uint8Array,
    keyLength: number,
    seq: number,
    low: Bound | undefined,
    high: Bound | undefined,
  ): void {
    if (low !== undefined && this.#compareBound(low, key, keyLength, seq) > 0) {
      this.problems.push(`unit ${unit}: an entry is below its separator`);
    }
    if (high !== undefined && this.#compareBound(high, key, keyLength, seq) <= 0) {
      this.problems.push(`unit ${unit}: an entry is not below the next separator`);
    }
  }

  #compareBound(bound: Bound, key: Uint8Array, keyLength: number, seq: number): number {
    const segment = bound.unit >>> SEGMENT_UNIT_SHIFT;
    const base = (bound.unit & SEGMENT_UNIT_MASK) << UNIT_SHIFT;
    const { u8, u16, u32 } = this.#arena;
    return compareSeparator(u8[segment]!, u16[segment]!, u32[segment]!, base, bound.index, key, 0, keyLength, seq);
  }
}

function copySplitKey(
  u8: Uint8Array,
  base: number,
  prefixLength: number,
  suffixAt: number,
  suffixLength: number,
  into: Uint8Array,
): number {
  into.set(u8.subarray(base + PAGE_HEADER_BYTES, base + PAGE_HEADER_BYTES + prefixLength));
  into.set(u8.subarray(suffixAt, suffixAt + suffixLength), prefixLength);
  return prefixLength + suffixLength;
}

function compareTwo(a: Uint8Array, aLength: number, b: Uint8Array, bLength: number): number {
  return Buffer.compare(a.subarray(0, aLength), b.subarray(0, bLength));
}

export interface TreeCheckResult {
  readonly problems: string[];
  /** Of what was counted: units that are in a page file only. */
  readonly coldUnits: number;
  /** What was counted on the walk. */
  readonly counted: Omit<TreeCounts, 'rootUnit' | 'height' | 'order' | 'pageBytes' | 'isAdaptive' | 'mayExpire'>;
}

/** Walks the tree that `counts` describes. Marks collect the units in use over several trees: one byte per unit of the arena. */
export function checkTree(
  arena: ArenaReader,
  counts: TreeCounts,
  marks: Uint8Array = new Uint8Array(arena.totalUnits),
): TreeCheckResult {
  const check = new TreeCheck(arena, marks);
  const { problems } = check;
  if (counts.height > HEIGHT_MAX) problems.push(`height ${counts.height}`);
  else if (counts.height > 0) check.walk(counts.rootUnit, counts.height - 1, undefined, undefined);
  else if (counts.rootUnit !== 0) problems.push(`root ${counts.rootUnit} of an empty tree`);
  const counted = {
    liveEntries: check.liveEntries,
    liveKeyBytes: check.liveKeyBytes,
    liveValueBytes: check.liveValueBytes,
    cells: check.cells,
    leafPages: check.leafPages,
    branchPages: check.branchPages,
    overflowPages: check.overflowPages,
    treeUnits: check.treeUnits,
    overflowUnits: check.overflowUnits,
    tag: counts.tag,
  };
  for (const name of Object.keys(counted) as (keyof typeof counted)[]) {
    if (counted[name] !== counts[name]) problems.push(`${name}: stored ${counts[name]}, counted ${counted[name]}`);
  }
  if (check.expires && counts.mayExpire !== true) problems.push('entries expire, but the row does not say so');
  return { problems, counted, coldUnits: check.coldUnits };
}

/** Checks all trees of a published meta page. */
export function checkPublished(arena: ArenaReader, metaUnit: UnitId): string[] {
  const marks = new Uint8Array(arena.totalUnits);
  const problems: string[] = [];
  for (let index = 0; index < treeCount(arena, metaUnit); index++) {
    for (const problem of checkTree(arena, treeCounts(arena, metaUnit, index), marks).problems) {
      problems.push(`tree ${index}: ${problem}`);
    }
  }
  return problems;
}

/** Checks all trees in their unpublished state, and that every unit in use belongs to something. */
export function checkArena(arena: ArenaWriter): string[] {
  const table = TreeTable.of(arena);
  table.refresh();
  const marks = new Uint8Array(arena.totalUnits);
  const problems: string[] = [];
  let expected = HEADER_UNITS + arena.retiredUnits + arena.stagedUnits;
  if (arena.published() !== 0) expected += arena.unitsOf(arena.published());
  for (let index = 0; index < table.count; index++) {
    const { problems: found, counted, coldUnits } = checkTree(arena, table.row(index), marks);
    for (const problem of found) problems.push(`tree ${index}: ${problem}`);
    expected += counted.treeUnits + counted.overflowUnits - coldUnits;
  }
  if (arena.usedUnits !== expected) problems.push(`${arena.usedUnits} units in use, ${expected} accounted for`);
  return problems;
}
