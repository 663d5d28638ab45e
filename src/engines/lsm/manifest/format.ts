/**
 * Bytes of a manifest, for writer, recovery and inspector. Picture, worked example and reasons: FORMAT.md.
 *
 *   offset  size  field        file header, 72 bytes
 *        0     8  magic        "CKV-LSM\n"
 *        8     4  version      u32, 2
 *       12     4  shard        u32
 *       16    16  storeId
 *       32     4  tree         u32
 *       36     4  zero
 *       40     8  number       u48, the one in the file's name; two zero bytes
 *       48     8  createdAt    u48 milliseconds, two zero bytes
 *       56     8  salt         random
 *       64     4  zero
 *       68     4  crc          crc32 over [0, 68); at this place in every version. Seeds the crcs of the frames
 *
 *   offset  size  field        frame, at a multiple of 8
 *        0     4  headerCrc    crc32 over [4, 24), seeded
 *        4     4  payloadCrc   crc32 over payload and padding, seeded
 *        8     4  payloadBytes u32
 *       12     4  kind         u8, FrameKind; three zero bytes
 *       16     8  sequence     u48: 1, 2, 3 …; two zero bytes
 *       24     n  payload      records of an edit; then zeros up to a multiple of 8
 *
 *   record: tag u8 · fields, all varints unless said otherwise; keys are a length and bytes
 *     1 table added       number level run bytes entries tombstones rawBytes smallestKey largestKey smallestSeq largestSeq expiring firstExpiry
 *                         lastExpiry createdAt · count of blob uses · (file bytes)* · keys (from version 2 on)
 *     2 table removed     number
 *     3 blob file added   number bytes records recordBytes createdAt
 *     4 blob file removed number
 *     5 tombstone added   seq · flags (1: low, 2: high) · low? high?
 *     6 tombstone removed like 5
 *     7 stored number     storedSeq
 *     8 next file         nextFile
 *     9 space             spaceId
 *
 * Golden bytes: test/golden/lsm-manifest-2.txt, and -1 of version 1. Threads: any; no state.
 */
import { crc32 } from '../../../shared/checksum.js';
import { readU32LE, readU48LE, writeU32LE, writeU48LE } from '../../../shared/codec/fixed.js';
import { readVarint53, varintBytes, writeVarint53 } from '../../../shared/codec/varint.js';
import { ConcordError, invalidArgument } from '../../../shared/errors.js';
import type { BlobFileInfo, BlobUse, LsmIdentity, RangeTombstone, TableInfo } from '../types.js';
import { KEY_BYTES_MAX, type VersionEdit } from './state.js';

/** Append-only. 1: the first. 2: a table's number of different keys. All of them are read; nothing is appended to a file of an older one. */
export const MANIFEST_FORMAT_VERSION = 2;
export const HEADER_BYTES = 72;
export const FRAME_HEADER_BYTES = 24;
export const PAYLOAD_BYTES_MAX = 2 ** 30;
/** The file's size is a multiple of it, and grows before what is written there. */
export const GROWTH_BYTES = 16 << 10;
export const SALT_BYTES = 8;

/** On disk: never renumber, never reuse. */
export const FrameKind = {
  /** The whole state: the first frame, and no other. */
  Snapshot: 1,
  Edit: 2,
  /** No edit: says behind frame n that all up to n is durable. Overwritten by frame n + 1. */
  Seal: 3,
} as const;

const Tag = {
  AddTable: 1,
  RemoveTable: 2,
  AddBlob: 3,
  RemoveBlob: 4,
  AddTombstone: 5,
  RemoveTombstone: 6,
  StoredSeq: 7,
  NextFile: 8,
  SpaceId: 9,
} as const;

const HAS_LOW = 1;
const HAS_HIGH = 2;
const STORE_ID_BYTES = 16;
const U32_MAX = 2 ** 32 - 1;
const MAGIC = Buffer.from('CKV-LSM\n', 'latin1');
const HEADER_CRC_OFFSET = HEADER_BYTES - 4;

export interface ManifestHeader {
  readonly version: number;
  readonly identity: LsmIdentity;
  readonly number: number;
  readonly createdAt: number;
  readonly salt: Uint8Array;
}

export function corruptManifest(file: string, offset: number, text: string): ConcordError {
  return new ConcordError('ERR_CORRUPT', `${file} at ${offset}: ${text}`, { file, offset });
}

export function checkIdentity({ storeId, shard, tree }: LsmIdentity): void {
  if (!(storeId instanceof Uint8Array) || storeId.length !== STORE_ID_BYTES) {
    throw invalidArgument(`storeId must be ${STORE_ID_BYTES} bytes`);
  }
  for (const [name, value] of [
    ['shard', shard],
    ['tree', tree],
  ] as const) {
    if (!Number.isInteger(value) || value < 0 || value > U32_MAX)
      throw invalidArgument(`${name} must be a u32, got ${value}`);
  }
}

/** Writes the header into bytes[0, HEADER_BYTES) and returns its crc, the seed of the frames. */
export function encodeHeader(into: Uint8Array, header: Omit<ManifestHeader, 'version'>): number {
  into.fill(0, 0, HEADER_BYTES);
  into.set(MAGIC, 0);
  writeU32LE(into, 8, MANIFEST_FORMAT_VERSION);
  writeU32LE(into, 12, header.identity.shard);
  into.set(header.identity.storeId, 16);
  writeU32LE(into, 32, header.identity.tree);
  writeU48LE(into, 40, header.number);
  writeU48LE(into, 48, header.createdAt);
  into.set(header.salt, 56);
  const crc = crc32(into, 0, HEADER_CRC_OFFSET);
  writeU32LE(into, HEADER_CRC_OFFSET, crc);
  return crc;
}

/** The header and the seed of the frames. @throws ERR_CORRUPT, ERR_FORMAT_VERSION */
export function decodeHeader(bytes: Uint8Array, file: string): { header: ManifestHeader; seed: number } {
  if (bytes.length < HEADER_BYTES) {
    throw corruptManifest(file, bytes.length, `the manifest's header has ${bytes.length} bytes of ${HEADER_BYTES}`);
  }
  const stored = readU32LE(bytes, HEADER_CRC_OFFSET);
  const computed = crc32(bytes, 0, HEADER_CRC_OFFSET);
  if (stored !== computed) {
    const text = `manifest header: stored crc ${stored.toString(16)}, computed ${computed.toString(16)}`;
    throw corruptManifest(file, 0, text);
  }
  if (Buffer.compare(bytes.subarray(0, MAGIC.length), MAGIC) !== 0) {
    throw corruptManifest(file, 0, 'not a manifest: wrong magic');
  }
  // Only behind a good crc is a foreign version number a version and not damage.
  const version = readU32LE(bytes, 8);
  if (version < 1 || version > MANIFEST_FORMAT_VERSION) {
    const text = `${file}: manifest format version ${version}, this release reads 1 to ${MANIFEST_FORMAT_VERSION}`;
    throw new ConcordError('ERR_FORMAT_VERSION', text, { file, version });
  }
  const header: ManifestHeader = {
    version,
    identity: {
      storeId: Uint8Array.from(bytes.subarray(16, 16 + STORE_ID_BYTES)),
      shard: readU32LE(bytes, 12),
      tree: readU32LE(bytes, 32),
    },
    number: readU48LE(bytes, 40),
    createdAt: readU48LE(bytes, 48),
    salt: Uint8Array.from(bytes.subarray(56, 56 + SALT_BYTES)),
  };
  return { header, seed: stored };
}

/** Refuses the manifest of another store, shard, tree or number. @throws ERR_CORRUPT */
export function checkOwner(header: ManifestHeader, identity: LsmIdentity, number: number, file: string): void {
  const { storeId, shard, tree } = header.identity;
  if (Buffer.compare(storeId, identity.storeId) !== 0) {
    const [found, expected] = [storeId, identity.storeId].map((id) => Buffer.from(id).toString('hex'));
    throw corruptManifest(file, 16, `belongs to store ${found}, expected ${expected}`);
  }
  if (shard !== identity.shard)
    throw corruptManifest(file, 12, `belongs to shard ${shard}, expected ${identity.shard}`);
  if (tree !== identity.tree) throw corruptManifest(file, 32, `belongs to tree ${tree}, expected ${identity.tree}`);
  if (header.number !== number)
    throw corruptManifest(file, 40, `number ${header.number} inside, ${number} in the name`);
}

// ---- frames -----------------------------------------------------------------------------------------------------------------------------

/** Bytes of a frame on disk. */
export function frameBytes(payloadBytes: number): number {
  return FRAME_HEADER_BYTES + Math.ceil(payloadBytes / 8) * 8;
}

/** Fills header and padding around the payload that stands behind the header's place. Returns the frame's bytes. */
export function sealFrame(
  bytes: Uint8Array,
  start: number,
  payloadBytes: number,
  kind: number,
  sequence: number,
  seed: number,
): number {
  const payloadStart = start + FRAME_HEADER_BYTES;
  const end = start + frameBytes(payloadBytes);
  bytes.fill(0, payloadStart + payloadBytes, end);
  bytes.fill(0, start, payloadStart);
  writeU32LE(bytes, start + 4, crc32(bytes, payloadStart, end - payloadStart, seed));
  writeU32LE(bytes, start + 8, payloadBytes);
  bytes[start + 12] = kind;
  writeU48LE(bytes, start + 16, sequence);
  writeU32LE(bytes, start, crc32(bytes, start + 4, FRAME_HEADER_BYTES - 4, seed));
  return end - start;
}

export const framePayloadBytes = (bytes: Uint8Array, at: number): number => readU32LE(bytes, at + 8);
export const frameKind = (bytes: Uint8Array, at: number): number => bytes[at + 12]!;
export const frameSequence = (bytes: Uint8Array, at: number): number => readU48LE(bytes, at + 16);

/** Whether a frame header of this manifest stands at `at`; its payload may still be damaged, or end beyond the file. */
export function isFrameHeader(bytes: Uint8Array, at: number, seed: number): boolean {
  if (at + FRAME_HEADER_BYTES > bytes.length) return false;
  const kind = frameKind(bytes, at);
  // Cheap tests first: a search meets mostly zeros.
  if (kind < FrameKind.Snapshot || kind > FrameKind.Seal) return false;
  return readU32LE(bytes, at) === crc32(bytes, at + 4, FRAME_HEADER_BYTES - 4, seed);
}

/** Behind isFrameHeader(), for a frame that ends within the file. */
export function isPayloadIntact(bytes: Uint8Array, at: number, seed: number): boolean {
  const paddedBytes = frameBytes(framePayloadBytes(bytes, at)) - FRAME_HEADER_BYTES;
  return readU32LE(bytes, at + 4) === crc32(bytes, at + FRAME_HEADER_BYTES, paddedBytes, seed);
}

// ---- edits ------------------------------------------------------------------------------------------------------------------------------

class RecordWriter {
  bytes: Uint8Array;
  at: number;

  constructor(start: number) {
    this.at = start;
    this.bytes = new Uint8Array(Math.max(1024, 2 * start));
  }

  number(value: number): void {
    this.#reserve(varintBytes(value));
    this.at = writeVarint53(this.bytes, this.at, value);
  }

  key(key: Uint8Array): void {
    this.number(key.length);
    this.#reserve(key.length);
    this.bytes.set(key, this.at);
    this.at += key.length;
  }

  table(table: TableInfo): void {
    this.number(Tag.AddTable);
    this.number(table.number);
    this.number(table.level);
    this.number(table.run);
    this.number(table.bytes);
    this.number(table.entries);
    this.number(table.tombstones);
    this.number(table.rawBytes);
    this.key(table.smallestKey);
    this.key(table.largestKey);
    this.number(table.smallestSeq);
    this.number(table.largestSeq);
    this.number(table.expiring);
    this.number(table.firstExpiry);
    this.number(table.lastExpiry);
    this.number(table.createdAt);
    this.number(table.blobs.length);
    for (const { file, bytes } of table.blobs) {
      this.number(file);
      this.number(bytes);
    }
    this.number(table.keys);
  }

  blob(blob: BlobFileInfo): void {
    this.number(Tag.AddBlob);
    this.number(blob.number);
    this.number(blob.bytes);
    this.number(blob.records);
    this.number(blob.recordBytes);
    this.number(blob.createdAt);
  }

  tombstone(tag: number, { seq, low, high }: RangeTombstone): void {
    this.number(tag);
    this.number(seq);
    this.number((low === undefined ? 0 : HAS_LOW) | (high === undefined ? 0 : HAS_HIGH));
    if (low !== undefined) this.key(low);
    if (high !== undefined) this.key(high);
  }

  #reserve(bytes: number): void {
    if (this.at + bytes <= this.bytes.length) return;
    const larger = new Uint8Array(Math.max(2 * this.bytes.length, this.at + bytes));
    larger.set(this.bytes.subarray(0, this.at));
    this.bytes = larger;
  }
}

/** The edit's records behind `start` bytes that are the caller's; `bytes` has room for padding. */
export function encodeEdit(edit: VersionEdit, start: number): { bytes: Uint8Array; payloadBytes: number } {
  const writer = new RecordWriter(start);
  for (const number of edit.removedTables ?? []) {
    writer.number(Tag.RemoveTable);
    writer.number(number);
  }
  for (const number of edit.removedBlobs ?? []) {
    writer.number(Tag.RemoveBlob);
    writer.number(number);
  }
  for (const tombstone of edit.removedTombstones ?? []) writer.tombstone(Tag.RemoveTombstone, tombstone);
  for (const blob of edit.addedBlobs ?? []) writer.blob(blob);
  for (const table of edit.addedTables ?? []) writer.table(table);
  for (const tombstone of edit.addedTombstones ?? []) writer.tombstone(Tag.AddTombstone, tombstone);
  if (edit.storedSeq !== undefined) {
    writer.number(Tag.StoredSeq);
    writer.number(edit.storedSeq);
  }
  if (edit.nextFile !== undefined) {
    writer.number(Tag.NextFile);
    writer.number(edit.nextFile);
  }
  if (edit.spaceId !== undefined) {
    writer.number(Tag.SpaceId);
    writer.number(edit.spaceId);
  }
  const payloadBytes = writer.at - start;
  const bytes = new Uint8Array(start + Math.ceil(payloadBytes / 8) * 8);
  bytes.set(writer.bytes.subarray(0, writer.at));
  return { bytes, payloadBytes };
}

class RecordReader {
  constructor(
    readonly bytes: Uint8Array,
    public at: number,
    readonly end: number,
    readonly file: string,
    readonly version: number,
  ) {}

  number(): number {
    const value = readVarint53(this.bytes, this.at, this.end);
    if (value < 0) throw this.damaged('a number is cut or malformed');
    this.at += varintBytes(value);
    return value;
  }

  key(): Uint8Array {
    const length = this.number();
    if (length > KEY_BYTES_MAX || length > this.end - this.at) throw this.damaged(`a key claims ${length} bytes`);
    const key = Uint8Array.from(this.bytes.subarray(this.at, this.at + length));
    this.at += length;
    return key;
  }

  table(): TableInfo {
    const table = {
      number: this.number(),
      level: this.number(),
      run: this.number(),
      bytes: this.number(),
      entries: this.number(),
      tombstones: this.number(),
      rawBytes: this.number(),
      smallestKey: this.key(),
      largestKey: this.key(),
      smallestSeq: this.number(),
      largestSeq: this.number(),
      expiring: this.number(),
      firstExpiry: this.number(),
      lastExpiry: this.number(),
      createdAt: this.number(),
    };
    const count = this.number();
    // Two bytes at least each.
    if (count > (this.end - this.at) / 2) throw this.damaged(`table ${table.number} claims ${count} blob files`);
    const blobs: BlobUse[] = [];
    for (let i = 0; i < count; i++) blobs.push({ file: this.number(), bytes: this.number() });
    return { ...table, keys: this.version === 1 ? 0 : this.number(), blobs };
  }

  blob(): BlobFileInfo {
    return {
      number: this.number(),
      bytes: this.number(),
      records: this.number(),
      recordBytes: this.number(),
      createdAt: this.number(),
    };
  }

  tombstone(): RangeTombstone {
    const seq = this.number();
    const flags = this.number();
    if (flags > (HAS_LOW | HAS_HIGH)) throw this.damaged(`range tombstone ${seq}: unknown flags ${flags}`);
    const low = (flags & HAS_LOW) === 0 ? undefined : this.key();
    const high = (flags & HAS_HIGH) === 0 ? undefined : this.key();
    return { seq, low, high };
  }

  damaged(text: string): ConcordError {
    return corruptManifest(this.file, this.at, text);
  }
}

/** The edit whose records are bytes[start, end) of a file of that version. Whether it fits a state is asked by applyEdit(). @throws ERR_CORRUPT */
export function decodeEdit(bytes: Uint8Array, start: number, end: number, file: string, version: number): VersionEdit {
  const reader = new RecordReader(bytes, start, end, file, version);
  const addedTables: TableInfo[] = [];
  const removedTables: number[] = [];
  const addedBlobs: BlobFileInfo[] = [];
  const removedBlobs: number[] = [];
  const addedTombstones: RangeTombstone[] = [];
  const removedTombstones: RangeTombstone[] = [];
  let storedSeq: number | undefined;
  let nextFile: number | undefined;
  let spaceId: number | undefined;
  while (reader.at < end) {
    const at = reader.at;
    const tag = reader.number();
    if (tag === Tag.AddTable) addedTables.push(reader.table());
    else if (tag === Tag.RemoveTable) removedTables.push(reader.number());
    else if (tag === Tag.AddBlob) addedBlobs.push(reader.blob());
    else if (tag === Tag.RemoveBlob) removedBlobs.push(reader.number());
    else if (tag === Tag.AddTombstone) addedTombstones.push(reader.tombstone());
    else if (tag === Tag.RemoveTombstone) removedTombstones.push(reader.tombstone());
    else if (tag === Tag.StoredSeq) storedSeq = reader.number();
    else if (tag === Tag.NextFile) nextFile = reader.number();
    else if (tag === Tag.SpaceId) spaceId = reader.number();
    else throw corruptManifest(file, at, `unknown record ${tag}`);
  }
  return {
    addedTables,
    removedTables,
    addedBlobs,
    removedBlobs,
    addedTombstones,
    removedTombstones,
    ...(storedSeq === undefined ? {} : { storedSeq }),
    ...(nextFile === undefined ? {} : { nextFile }),
    ...(spaceId === undefined ? {} : { spaceId }),
  };
}
