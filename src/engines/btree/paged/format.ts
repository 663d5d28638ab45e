/**
 * Bytes of a page file: where a B+Tree larger than its memory keeps its pages. Picture, worked example and reasons: FORMAT.md beside this file.
 *
 *   slot 0     header                 slots are 4 KiB; a page takes 1, 2, 4 or 8 of them, aligned to its size
 *   slot 8 …   pages
 *
 *   header    offset  size  field
 *                  0     8  magic         "CKV-PGS\n"
 *                  8     4  version       u32, 1
 *                 12     4  shard         u32
 *                 16    16  storeId
 *                 32     4  number        u32, the file's in its shard
 *                 36    88  zero
 *                124     4  crc           crc32 over [0, 124); the file's identity, seed of all others
 *
 *   page      as in ../page.ts, whole, with
 *                  3     1  flags         0
 *                  4     4  crc           crc32 over the slot number (u32), bytes [0, 4) and [8, end), seeded with the identity
 *                  8     2  zero
 *                 18     2  number        u16, of the file: whose references these are
 *                 20     4  next          leaf, branch: 0
 *             and references in the place of units: children of branches, first pages of chains, next pages of chains
 *
 *   root      offset  size  field         a chunk of the checkpoint, not of this file: see checkpoint/FORMAT.md for its checksums
 *                  0     4  magic         "CKVP"
 *                  4     4  spaceId       u32
 *                  8     4  number        u32, of the page file
 *                 12     4  endSlot       u32, no page reaches it
 *                 16    16  zero
 *                 32    64  row           of the meta page (../meta.ts), its root a reference
 *
 *   reference  bit 31: 1 · bits 29, 30: class · bits 0 … 28: slot
 *
 * Versions: 1, the first. Golden bytes: test/golden/page-file.txt. Threads: any; no state.
 */
import { crc32 } from '../../../shared/checksum.js';
import { readU32LE, writeU32LE } from '../../../shared/codec/fixed.js';
import { ConcordError } from '../../../shared/errors.js';
import { ROW_WORDS, readRow, writeRow, type TreeCounts } from '../meta.js';
import { CLASS_BYTE, HEIGHT_MAX, NEXT_WORD, PageKind } from '../page.js';

const PAGE_FILE_VERSION = 1;
export const SLOT_BYTES = 4096;
/** Pages begin here. */
export const FIRST_SLOT = 8;
export const SLOT_COUNT_MAX = 1 << 29;
export const FILE_NUMBER_MAX = 0xffff;
const RECORD_BYTES = 128;
const CRC_OFFSET = RECORD_BYTES - 4;
const HEADER_MAGIC = Buffer.from('CKV-PGS\n', 'latin1');
const ROOT_MAGIC = 0x50564b43; // "CKVP"
const ROW_OFFSET = 32;
/** A row of the meta page. */
const ROW_BYTES = 64;
const ROOT_BYTES = ROW_OFFSET + ROW_BYTES;

/** A reference is a unit's neighbour in the same u32: nothing in an arena reaches this. */
export const COLD = 0x80000000;

export function coldReference(slot: number, pageClass: number): number {
  return (COLD | (pageClass << 29) | slot) >>> 0;
}

export function slotOf(reference: number): number {
  return reference & (SLOT_COUNT_MAX - 1);
}

export function classOf(reference: number): number {
  return (reference >>> 29) & 3;
}

export interface PageFileIdentity {
  /** 16 bytes. */
  readonly storeId: Uint8Array;
  readonly shard: number;
  /** 1 ..= FILE_NUMBER_MAX. */
  readonly number: number;
}

/** One state of a tree, whole in a page file. Plain data, for other threads. */
export interface PagedRoot {
  readonly spaceId: number;
  readonly number: number;
  readonly endSlot: number;
  /** Its root is a reference. */
  readonly row: TreeCounts;
}

const NAME = /^tree-(\d{5})\.pages$/;

export function pageFileName(number: number): string {
  return `tree-${String(number).padStart(5, '0')}.pages`;
}

/** The number in a page file's name, undefined for other names. */
export function pageFileNumber(name: string): number | undefined {
  const match = NAME.exec(name);
  if (match === null) return undefined;
  const number = Number(match[1]);
  return number >= 1 && number <= FILE_NUMBER_MAX ? number : undefined;
}

export function corruptPageFile(file: string, offset: number, text: string): ConcordError {
  return new ConcordError('ERR_CORRUPT', `${file} at ${offset}: ${text}`, { file, offset });
}

/** Slot 0. */
export function encodeHeader(identity: PageFileIdentity): { bytes: Buffer; crc: number } {
  const bytes = Buffer.alloc(RECORD_BYTES);
  HEADER_MAGIC.copy(bytes);
  bytes.writeUInt32LE(PAGE_FILE_VERSION, 8);
  bytes.writeUInt32LE(identity.shard, 12);
  bytes.set(identity.storeId, 16);
  bytes.writeUInt32LE(identity.number, 32);
  const crc = crc32(bytes, 0, CRC_OFFSET);
  bytes.writeUInt32LE(crc, CRC_OFFSET);
  return { bytes, crc };
}

/** Checks a header that was read from the file; returns the crc that seeds all others. @throws ERR_CORRUPT, ERR_FORMAT_VERSION */
export function checkHeader(bytes: Buffer, byteCount: number, identity: PageFileIdentity, file: string): number {
  if (byteCount < RECORD_BYTES) throw corruptPageFile(file, byteCount, `a header of ${byteCount} bytes`);
  const stored = bytes.readUInt32LE(CRC_OFFSET);
  const computed = crc32(bytes, 0, CRC_OFFSET);
  if (stored !== computed)
    throw corruptPageFile(file, 0, `header: stored crc ${stored.toString(16)}, computed ${computed.toString(16)}`);
  if (bytes.compare(HEADER_MAGIC, 0, HEADER_MAGIC.length, 0, HEADER_MAGIC.length) !== 0)
    throw corruptPageFile(file, 0, 'not a page file: wrong magic');
  const version = bytes.readUInt32LE(8);
  if (version !== PAGE_FILE_VERSION) {
    const text = `${file}: page file version ${version}, this release reads ${PAGE_FILE_VERSION}`;
    throw new ConcordError('ERR_FORMAT_VERSION', text, { file, version });
  }
  const expected = encodeHeader(identity);
  if (expected.bytes.compare(bytes, 0, RECORD_BYTES) !== 0) {
    throw corruptPageFile(
      file,
      12,
      `belongs to number ${bytes.readUInt32LE(32)} of shard ${bytes.readUInt32LE(12)} of store ${bytes.toString('hex', 16, 32)}, ` +
        `expected ${identity.number}, ${identity.shard}, ${Buffer.from(identity.storeId).toString('hex')}`,
    );
  }
  return stored;
}

export const HEADER_BYTES = RECORD_BYTES;

export function encodeRoot(root: PagedRoot): Buffer {
  const bytes = Buffer.alloc(ROOT_BYTES);
  bytes.writeUInt32LE(ROOT_MAGIC, 0);
  bytes.writeUInt32LE(root.spaceId, 4);
  bytes.writeUInt32LE(root.number, 8);
  bytes.writeUInt32LE(root.endSlot, 12);
  const row = new Uint32Array(ROW_WORDS);
  writeRow(row, 0, root.row);
  row.forEach((word, index) => bytes.writeUInt32LE(word, ROW_OFFSET + 4 * index));
  return bytes;
}

/** Whether a chunk of a checkpoint is a root. */
export function isRootChunk(chunk: Uint8Array): boolean {
  return chunk.length >= 4 && readU32LE(chunk, 0) === ROOT_MAGIC;
}

/** @throws ERR_CORRUPT */
export function decodeRoot(chunk: Uint8Array): PagedRoot {
  if (chunk.length !== ROOT_BYTES || !isRootChunk(chunk)) throw corruptRoot(`${chunk.length} bytes`);
  const words = new Uint32Array(ROW_WORDS);
  for (let index = 0; index < ROW_WORDS; index++) words[index] = readU32LE(chunk, ROW_OFFSET + 4 * index);
  const row = readRow(words, 0);
  const number = readU32LE(chunk, 8);
  const endSlot = readU32LE(chunk, 12);
  if (number < 1 || number > FILE_NUMBER_MAX || endSlot < FIRST_SLOT || endSlot > SLOT_COUNT_MAX)
    throw corruptRoot(`page file ${number} of ${endSlot} slots`);
  if (row.height === 0 || row.height > HEIGHT_MAX || row.rootUnit < COLD || row.isPaged !== true)
    throw corruptRoot(`height ${row.height}, root ${row.rootUnit}`);
  if (row.order !== 0 && (row.order < 3 || row.order > 1000)) throw corruptRoot(`order ${row.order}`);
  return { spaceId: readU32LE(chunk, 4), number, endSlot, row };
}

function corruptRoot(what: string): ConcordError {
  return new ConcordError('ERR_CORRUPT', `root of a page file in a checkpoint: ${what}`);
}

const slotBytes = new Uint8Array(4);

function pageCrc(bytes: Uint8Array, at: number, byteCount: number, slot: number, identityCrc: number): number {
  writeU32LE(slotBytes, 0, slot);
  const crc = crc32(bytes, at, 4, crc32(slotBytes, 0, 4, identityCrc));
  return crc32(bytes, at + 8, byteCount - 8, crc);
}

/** Makes the page at bytes[at …], whose references are in place, one of the file: for that slot and no other. */
export function sealPage(bytes: Uint8Array, at: number, reference: number, identityCrc: number): void {
  bytes[at + 3] = 0;
  bytes[at + 8] = 0;
  bytes[at + 9] = 0;
  if (bytes[at] !== PageKind.Overflow) bytes.fill(0, at + 4 * NEXT_WORD, at + 4 * NEXT_WORD + 4);
  const crc = pageCrc(bytes, at, SLOT_BYTES << classOf(reference), slotOf(reference), identityCrc);
  writeU32LE(bytes, at + 4, crc);
}

/** Whether the bytes are what was sealed under this reference. Then clears the crc: the field is the arena's. @throws ERR_CORRUPT */
export function openPage(bytes: Uint8Array, at: number, reference: number, identityCrc: number, file: string): void {
  const slot = slotOf(reference);
  const computed = pageCrc(bytes, at, SLOT_BYTES << classOf(reference), slot, identityCrc);
  const stored = readU32LE(bytes, at + 4);
  if (stored !== computed) {
    const text = `page in slot ${slot}: stored crc ${stored.toString(16)}, computed ${computed.toString(16)}`;
    throw corruptPageFile(file, slot * SLOT_BYTES, text);
  }
  if (bytes[at + CLASS_BYTE] !== classOf(reference)) {
    const text = `page in slot ${slot}: class ${bytes[at + CLASS_BYTE]!}, referred to as ${classOf(reference)}`;
    throw corruptPageFile(file, slot * SLOT_BYTES, text);
  }
  bytes.fill(0, at + 4, at + 10);
}
