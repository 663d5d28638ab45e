/**
 * Inspection of B+Tree pages: those of a page file by their slots, those of a checkpoint by their place in a walk from the roots.
 * Threads: main thread only; files are only read.
 */
import type { Env, EnvFile } from '../../shared/env/env.js';
import { invalidArgument, type ErrorRecord } from '../../shared/errors.js';
import {
  ArenaWriter,
  SEGMENT_UNIT_MASK,
  SEGMENT_UNIT_SHIFT,
  UNIT_BYTES,
  UNIT_SHIFT,
  createArena,
  type UnitId,
} from '../../shared/memory/arena.js';
import { checkPublished } from '../../engines/btree/check.js';
import { loadImage } from '../../engines/btree/image.js';
import { publishedSeqOf, treeCount, treeCounts } from '../../engines/btree/meta.js';
import {
  COUNT_HALFWORD,
  CellFlag,
  CLASS_BYTE,
  LEVEL_BYTE,
  NEXT_WORD,
  PAGE_CLASS_MAX,
  PAYLOAD_BYTES_WORD,
  PREFIX_LENGTH_HALFWORD,
  PageKind,
  cellExpiresAt,
  cellLengthsAt,
  headsOffset,
  readSeq,
  readVarint,
  skipVarint,
} from '../../engines/btree/page.js';
import {
  COLD,
  FIRST_SLOT,
  HEADER_BYTES,
  SLOT_BYTES,
  checkHeader,
  classOf,
  coldReference,
  decodeRoot,
  isRootChunk,
  openPage,
  slotOf,
} from '../../engines/btree/paged/format.js';
import { isEntriesChunk } from '../../engines/checkpoint/entries.js';
import { readCheckpoint } from '../../engines/checkpoint/reader.js';
import { FREE_TAG, engineCodeOfTag, engineNames, engineNamed, spaceIdOfTag } from '../../engines/engine.js';
import '../../engines/built-in.js';
import { shownKey } from '../../engines/lsm/manifest/verify.js';
import { decodeLsmRoot, isLsmRootChunk } from '../../engines/lsm/root.js';
import { formatCount } from '../output.js';
import { amount, columns, damageOf, problem, shownId, shownTime, type Report } from './report.js';

export interface PageOptions {
  /** Which one to show: a slot of a page file, a number of a checkpoint's. */
  readonly page: number | undefined;
  /** List them. */
  readonly pages: boolean;
  readonly limit: number;
}

const KIND_NAMES = new Map<number, string>(Object.entries(PageKind).map(([name, kind]) => [kind, name.toLowerCase()]));
/** An image takes at most about so many times its bytes in memory. */
const MEMORY_PER_FILE_BYTE = 4;
const MEMORY_BYTES_MIN = 64 << 20;

export function inspectPages(env: Env, path: string, options: PageOptions): Report {
  try {
    return path.endsWith('.pages') ? inspectPageFile(env, path, options) : inspectCheckpoint(env, path, options);
  } catch (error) {
    const damage = damageOf(error);
    return { lines: [], facts: { path, problems: [damage] }, problems: [damage] };
  }
}

// ---- one page -----------------------------------------------------------------------------------------------------------------------------

interface PageRow {
  readonly number: number;
  readonly kind: string;
  readonly level: number;
  readonly bytes: number;
  readonly entries: number;
}

function rowOfPage(page: Buffer, number: number): PageRow {
  return {
    number,
    kind: KIND_NAMES.get(page[0]!) ?? `kind ${page[0]!}`,
    level: page[LEVEL_BYTE]!,
    bytes: page.length,
    entries: page.readUInt16LE(2 * COUNT_HALFWORD),
  };
}

interface PageEntry {
  readonly key: Uint8Array;
  readonly seq: number;
  readonly what: string;
  readonly valueBytes: number;
  readonly expiresAt: number;
}

/** Where a child or a chain is: in memory, or in the page file. */
function shownReference(reference: number): string {
  return reference >= COLD ? `slot ${slotOf(reference)}, class ${classOf(reference)}` : `unit ${reference}`;
}

/** Entries of a leaf or branch, as far as they make sense. The page may hold anything. */
function entriesOf(page: Buffer, limit: number): PageEntry[] {
  const kind = page[0];
  if (kind !== PageKind.Leaf && kind !== PageKind.Branch) return [];
  const isLeaf = kind === PageKind.Leaf;
  const count = page.readUInt16LE(2 * COUNT_HALFWORD);
  const prefixLength = page.readUInt16LE(2 * PREFIX_LENGTH_HALFWORD);
  const heads = headsOffset(prefixLength);
  const children = heads + 4 * count;
  const offsets = isLeaf ? children : children + 4 * count;
  const entries: PageEntry[] = [];
  if (offsets + 2 * count > page.length) return entries;
  const prefix = page.subarray(24, 24 + prefixLength);
  const keyAt = (at: number, length: number): Uint8Array => Buffer.concat([prefix, page.subarray(at, at + length)]);
  for (let index = 0; index < count && entries.length < limit; index++) {
    const cell = page.readUInt16LE(offsets + 2 * index);
    const child = isLeaf ? 0 : page.readUInt32LE(children + 4 * index);
    if (cell === 0) {
      entries.push({ key: prefix, seq: 0, what: shownReference(child), valueBytes: 0, expiresAt: 0 });
      continue;
    }
    if (cell + 16 > page.length) break;
    if (isLeaf) {
      const flags = page[cell]!;
      const lengthsAt = cellLengthsAt(page, cell);
      const valueBytes = readVarint(page, lengthsAt);
      const suffixAt = skipVarint(page, lengthsAt);
      const suffixLength = readVarint(page, suffixAt);
      const isLong = (flags & CellFlag.Overflow) !== 0;
      const start = skipVarint(page, suffixAt);
      if (start + suffixLength + (isLong ? 4 : valueBytes) > page.length) break;
      const chain = isLong ? shownReference(page.readUInt32LE(start + suffixLength)) : '';
      const what = (flags & CellFlag.Tombstone) !== 0 ? 'tombstone' : isLong ? `value in ${chain}` : 'value';
      const expiresAt = cellExpiresAt(page, cell);
      entries.push({ key: keyAt(start, suffixLength), seq: readSeq(page, cell + 1), what, valueBytes, expiresAt });
    } else {
      const length = readVarint(page, cell);
      const hasSeq = (length & 1) !== 0;
      const at = skipVarint(page, cell);
      const start = hasSeq ? at + 6 : at;
      if (start + (length >>> 1) > page.length) break;
      const seq = hasSeq ? readSeq(page, at) : 0;
      entries.push({ key: keyAt(start, length >>> 1), seq, what: shownReference(child), valueBytes: 0, expiresAt: 0 });
    }
  }
  return entries;
}

function pageLines(row: PageRow, page: Buffer, entries: readonly PageEntry[]): string[] {
  const lines = [`page ${row.number}: ${row.kind}, level ${row.level}, ${amount(row.bytes)}, ${row.entries} entries`];
  if (page[0] === PageKind.Overflow) {
    const next = page.readUInt32LE(4 * NEXT_WORD);
    lines.push(
      `${page.readUInt32LE(4 * PAYLOAD_BYTES_WORD)} bytes of a value, ${next === 0 ? 'the last' : `next ${shownReference(next)}`}`,
    );
  } else {
    const prefixLength = page.readUInt16LE(2 * PREFIX_LENGTH_HALFWORD);
    lines.push(`prefix ${shownKey(page.subarray(24, Math.min(page.length, 24 + prefixLength)))}`, '');
    lines.push(
      ...columns(
        ['number', 'what', 'bytes', 'expires', 'key'],
        entries.map(({ seq, what, valueBytes, expiresAt, key }) => [
          seq,
          what,
          valueBytes,
          expiresAt === 0 ? '' : shownTime(expiresAt),
          shownKey(key),
        ]),
      ),
    );
  }
  return lines;
}

function listLines(rows: readonly PageRow[]): string[] {
  const shown = rows.map(({ number, kind, level, bytes, entries }) => [number, kind, level, bytes, entries]);
  return ['', ...columns(['page', 'kind', 'level', 'bytes', 'entries'], shown)];
}

// ---- page files ---------------------------------------------------------------------------------------------------------------------------

/**
 * Slots whose checksum is right are pages; which of them a tree still uses, only its root in the checkpoint tells. Others are free, or damaged: a page that
 * is asked for by its slot must be sound.
 */
function inspectPageFile(env: Env, path: string, options: PageOptions): Report {
  const file = env.open(path, 'read');
  try {
    const header = Buffer.alloc(HEADER_BYTES);
    const read = file.read(header, 0, HEADER_BYTES, 0);
    const identity = {
      storeId: header.subarray(16, 32),
      shard: header.readUInt32LE(12),
      number: header.readUInt32LE(32),
    };
    const seed = checkHeader(header, read, identity, path);
    const slots = Math.floor(file.size() / SLOT_BYTES);
    const lines = [
      `page file ${identity.number} of shard ${identity.shard}, store ${shownId(identity.storeId)}`,
      `file        ${amount(file.size())}, ${slots.toLocaleString('en-US')} slots of ${SLOT_BYTES} bytes`,
    ];
    const facts = { path, identity: { ...identity, storeId: shownId(identity.storeId) }, slots };
    const page = Buffer.alloc(SLOT_BYTES << PAGE_CLASS_MAX);
    if (options.page !== undefined) {
      if (options.page < FIRST_SLOT || options.page >= slots) {
        throw invalidArgument(`${path}: pages begin in slots ${FIRST_SLOT} to ${slots - 1}, not in ${options.page}`);
      }
      const found = readPage(file, options.page, page, seed, true)!;
      const row = rowOfPage(found, options.page);
      const entries = entriesOf(found, options.limit);
      return {
        lines: [...lines, ...pageLines(row, found, entries)],
        facts: { ...facts, page: { ...row, entries } },
        problems: [],
      };
    }
    const rows: PageRow[] = [];
    const counts = new Map<string, number>();
    for (let slot = FIRST_SLOT; slot < slots;) {
      const found = readPage(file, slot, page, seed, false);
      if (found === undefined) {
        slot++;
        continue;
      }
      const row = rowOfPage(found, slot);
      counts.set(row.kind, (counts.get(row.kind) ?? 0) + 1);
      if (options.pages && rows.length < options.limit) rows.push(row);
      slot += found.length / SLOT_BYTES;
    }
    const sound = [...counts].map(([kind, count]) => `${count.toLocaleString('en-US')} ${kind}`).join(', ');
    lines.push(`sound pages ${sound || 'none'}`);
    if (options.pages) lines.push(...listLines(rows));
    return { lines, facts: { ...facts, pages: options.pages ? rows : Object.fromEntries(counts) }, problems: [] };
  } finally {
    file.close();
  }
}

/** The page in the slot; undefined, or with mustBe an error, if there is none. @throws ERR_CORRUPT */
function readPage(file: EnvFile, slot: number, into: Buffer, seed: number, mustBe: boolean): Buffer | undefined {
  const read = file.read(into, 0, into.length, slot * SLOT_BYTES);
  const pageClass = into[CLASS_BYTE]!;
  const bytes = SLOT_BYTES << Math.min(PAGE_CLASS_MAX, pageClass);
  const isPossible = pageClass <= PAGE_CLASS_MAX && bytes <= read && slot % (1 << pageClass) === 0;
  // Of what cannot be a page the smallest kind is checked, so that the error is the usual one.
  const reference = coldReference(slot, isPossible ? pageClass : 0);
  if (!isPossible && !mustBe) return undefined;
  try {
    openPage(into, 0, reference, seed, file.path);
    return into.subarray(0, bytes);
  } catch (error) {
    damageOf(error);
    if (mustBe) throw error;
    return undefined;
  }
}

// ---- checkpoints --------------------------------------------------------------------------------------------------------------------------

function inspectCheckpoint(env: Env, path: string, options: PageOptions): Report {
  const reader = readCheckpoint(env, path);
  try {
    const { header, fileBytes } = reader;
    const memoryBytes = Math.ceil((MEMORY_BYTES_MIN + MEMORY_PER_FILE_BYTE * fileBytes) / UNIT_BYTES) * UNIT_BYTES;
    const arena = new ArenaWriter(createArena({ memoryBytes }));
    loadImage(arena, () => reader.nextChunk());
    const entries = new Map<number, number>();
    const pagedRoots: unknown[] = [];
    const lsmRoots: unknown[] = [];
    const lines = [
      `checkpoint of shard ${header.shard}, store ${shownId(header.storeId)}`,
      `file        ${amount(fileBytes)}, made ${shownTime(header.createdAt)}`,
      `state       record ${header.lsn}, number ${header.publishedSeq}, a recovery replays from record ` +
        `${header.replayFromLsn ?? header.lsn + 1}`,
    ];
    const after: string[] = [];
    for (let chunk = reader.nextChunk(); chunk !== undefined; chunk = reader.nextChunk()) {
      if (isEntriesChunk(chunk)) {
        const space = chunk.readUInt32LE(4);
        entries.set(space, (entries.get(space) ?? 0) + chunk.readUInt32LE(8));
      } else if (isRootChunk(chunk)) {
        const root = decodeRoot(chunk);
        pagedRoots.push(root);
        after.push(
          `space ${root.spaceId} is in page file ${root.number}: root in ${shownReference(root.row.rootUnit)}`,
        );
      } else if (isLsmRootChunk(chunk)) {
        const root = decodeLsmRoot(chunk);
        lsmRoots.push(root);
        after.push(`space ${root.spaceId} is in LSM-Tree ${root.tree}, stored up to number ${root.storedSeq} at least`);
      } else after.push(`a chunk of ${chunk.length} bytes that nobody knows`);
    }
    const metaUnit = arena.published();
    const trees: object[] = [];
    for (let index = 0; index < treeCount(arena, metaUnit); index++) {
      const counts = treeCounts(arena, metaUnit, index);
      if (counts.tag === FREE_TAG) continue;
      trees.push({
        row: index,
        space: spaceIdOfTag(counts.tag),
        engine: engineName(engineCodeOfTag(counts.tag)),
        ...counts,
      });
      const { height, liveEntries, leafPages, branchPages, overflowPages, isPaged } = counts;
      const inside =
        isPaged === true
          ? 'in a page file'
          : `${formatCount(liveEntries)} entries, height ${height}, ${leafPages} leaves, ${branchPages} branches, ${overflowPages} overflow pages`;
      lines.push(
        `row ${index}`.padEnd(12) +
          `space ${spaceIdOfTag(counts.tag)}, ${engineName(engineCodeOfTag(counts.tag))}: ${inside}`,
      );
    }
    for (const [space, count] of entries)
      lines.push(`space ${space}: ${count.toLocaleString('en-US')} entries one by one`);
    lines.push(...after);
    const problems: ErrorRecord[] = checkPublished(arena, metaUnit).map((text) => problem(path, 0, text));
    const facts = {
      path,
      header,
      fileBytes,
      publishedSeq: publishedSeqOf(arena, metaUnit),
      trees,
      pagedRoots,
      lsmRoots,
      entries: Object.fromEntries(entries),
      problems,
    };
    if (options.page === undefined && !options.pages) return { lines, facts, problems };
    const rows: PageRow[] = [];
    let number = 0;
    for (const page of pagesOf(arena, metaUnit)) {
      number++;
      const row = rowOfPage(page, number);
      if (options.page === number) {
        const shown = entriesOf(page, options.limit);
        return {
          lines: [...lines, ...pageLines(row, page, shown)],
          facts: { ...facts, page: { ...row, entries: shown } },
          problems,
        };
      }
      if (options.page === undefined && rows.push(row) === options.limit) break;
    }
    if (options.page !== undefined)
      throw invalidArgument(`${path}: it has ${number} pages in its trees, no page ${options.page}`);
    return { lines: [...lines, ...listLines(rows)], facts: { ...facts, pages: rows }, problems };
  } finally {
    reader.close();
  }
}

function engineName(code: number): string {
  return engineNames().find((name) => engineNamed(name).code === code) ?? `engine ${code}`;
}

/** Leaves and branches of all trees, each tree from its root down. The image has been checked: they are trees. */
function* pagesOf(arena: ArenaWriter, metaUnit: UnitId): Generator<Buffer> {
  for (let index = 0; index < treeCount(arena, metaUnit); index++) {
    const { rootUnit, height, tag } = treeCounts(arena, metaUnit, index);
    if (tag === FREE_TAG || height === 0 || rootUnit === 0 || rootUnit >= COLD) continue;
    const stack: UnitId[] = [rootUnit];
    for (let unit = stack.pop(); unit !== undefined; unit = stack.pop()) {
      const u8 = arena.u8[unit >>> SEGMENT_UNIT_SHIFT]!;
      const base = (unit & SEGMENT_UNIT_MASK) << UNIT_SHIFT;
      const page = Buffer.from(u8.buffer, u8.byteOffset + base, UNIT_BYTES << u8[base + CLASS_BYTE]!);
      yield page;
      if (page[0] !== PageKind.Branch) continue;
      const count = page.readUInt16LE(2 * COUNT_HALFWORD);
      const children = headsOffset(page.readUInt16LE(2 * PREFIX_LENGTH_HALFWORD)) + 4 * count;
      for (let child = count - 1; child >= 0; child--) {
        const below = page.readUInt32LE(children + 4 * child);
        if (below < COLD) stack.push(below);
      }
    }
  }
}
