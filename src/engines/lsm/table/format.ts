/**
 * Bytes of a table file around its blocks. Picture, worked example and reasons: FORMAT.md beside this file; blocks: block.ts.
 *
 *   data blocks · filter partitions · prefix filter partitions · index partitions · root of the index · properties · footer
 *
 *   trailer   offset  size  field        behind every block and filter partition
 *                  0     1  code         CompressionCode
 *                  1     4  crc          crc32 over block and code, seeded with crc32 over the block's offset (u48), seeded with the identity
 *
 *   footer    offset  size  field        the last 96 bytes of the file
 *                  0     8  magic        "CKV-SST\n"
 *                  8     4  version      u32, 1
 *                 12     4  shard        u32
 *                 16    16  storeId
 *                 32     4  tree         u32
 *                 36     4  number       u32, of the file; crc32 over [0, 40): the identity, seed of all others
 *                 40     8  fileBytes    u48, two zero bytes
 *                 48     8  propertiesOffset  u48, two zero bytes
 *                 56     4  propertiesBytes   u32, trailer included
 *                 60     4  rootBytes    u32, trailer included
 *                 64     8  rootOffset   u48, two zero bytes
 *                 72    20  zero
 *                 92     4  crc          crc32 over [0, 92); at this place from the end in every version
 *
 *   properties  (id u8, length varint32, bytes) ascending by id; numbers are varint53; ids that are not known are passed over
 *
 * Versions: 1, the first. Golden bytes: test/golden/lsm-table.txt. Threads: any; no state.
 */
import { crc32 } from '../../../shared/checksum.js';
import { readVarint32, readVarint53, varintBytes, writeVarint32, writeVarint53 } from '../../../shared/codec/varint.js';
import { U48_MAX } from '../../../shared/codec/fixed.js';
import { ConcordError } from '../../../shared/errors.js';
import { LSM_LEVELS, type BlobUse, type LsmIdentity, type TableInfo } from '../types.js';
import { compressionName } from './compression.js';
import { KEY_BYTES_MAX } from './entry.js';
import { FILTER_LINE_BYTES, FILTER_PARTITION_LINES_MAX, type FilterShape } from './filter.js';
import type { TableLayout } from './table-file.js';

export const TABLE_FORMAT_VERSION = 1;
export const TRAILER_BYTES = 5;
export const FOOTER_BYTES = 96;
/** Offsets in it are 32 bits for caches and memory pages. */
export const TABLE_BYTES_MAX = 2 ** 32 - 1;
const IDENTITY_BYTES = 40;
const FOOTER_CRC_OFFSET = FOOTER_BYTES - 4;
const TABLE_MAGIC = Buffer.from('CKV-SST\n', 'latin1');
const STORE_ID_BYTES = 16;

/** Which kind of file: its magic and the version that is written. */
export interface FileKind {
  readonly magic: Buffer;
  readonly version: number;
  readonly what: string;
}

export const TABLE_KIND: FileKind = { magic: TABLE_MAGIC, version: TABLE_FORMAT_VERSION, what: 'table' };

export function damaged(file: string, offset: number, text: string, cause?: unknown): ConcordError {
  const options = cause === undefined ? undefined : { cause };
  return new ConcordError('ERR_CORRUPT', `${file} at ${offset}: ${text}`, { file, offset }, options);
}

/** The first 40 bytes of a footer. */
export function writeIdentity(into: Buffer, kind: FileKind, identity: LsmIdentity, number: number): void {
  kind.magic.copy(into, 0);
  into.writeUInt32LE(kind.version, 8);
  into.writeUInt32LE(identity.shard, 12);
  into.set(identity.storeId, 16);
  into.writeUInt32LE(identity.tree, 32);
  into.writeUInt32LE(number, 36);
}

/** Seed of every checksum of the file. */
export function identitySeed(kind: FileKind, identity: LsmIdentity, number: number): number {
  const bytes = Buffer.alloc(IDENTITY_BYTES);
  writeIdentity(bytes, kind, identity, number);
  return crc32(bytes, 0, IDENTITY_BYTES);
}

const offsetBytes = new Uint8Array(6);

/** Seed of the checksum of what lies at an offset. */
export function seedAt(offset: number, seed: number): number {
  const high = Math.floor(offset / 0x1_0000_0000);
  offsetBytes[0] = offset;
  offsetBytes[1] = offset >>> 8;
  offsetBytes[2] = offset >>> 16;
  offsetBytes[3] = offset >>> 24;
  offsetBytes[4] = high;
  offsetBytes[5] = high >>> 8;
  return crc32(offsetBytes, 0, 6, seed);
}

/** Writes the trailer of the block bytes[at, at + length), which will lie at `offset` of the file. Returns the place behind it. */
export function sealBlock(
  bytes: Uint8Array,
  at: number,
  length: number,
  code: number,
  offset: number,
  seed: number,
): number {
  const end = at + length;
  bytes[end] = code;
  const crc = crc32(bytes, at, length + 1, seedAt(offset, seed));
  bytes[end + 1] = crc;
  bytes[end + 2] = crc >>> 8;
  bytes[end + 3] = crc >>> 16;
  bytes[end + 4] = crc >>> 24;
  return end + TRAILER_BYTES;
}

/** The compression code of a block that was read from the file. @throws ERR_CORRUPT */
export function openBlock(
  bytes: Uint8Array,
  at: number,
  storedBytes: number,
  offset: number,
  seed: number,
  file: string,
): number {
  if (storedBytes <= TRAILER_BYTES) throw damaged(file, offset, `a block of ${storedBytes} bytes`);
  const crcAt = at + storedBytes - 4;
  const stored =
    (bytes[crcAt]! | (bytes[crcAt + 1]! << 8) | (bytes[crcAt + 2]! << 16) | (bytes[crcAt + 3]! << 24)) >>> 0;
  const computed = crc32(bytes, at, storedBytes - 4, seedAt(offset, seed));
  if (stored !== computed) {
    const text = `block of ${storedBytes} bytes: stored crc ${stored.toString(16)}, computed ${computed.toString(16)}`;
    throw damaged(file, offset, text);
  }
  return bytes[crcAt - 1]!;
}

/** What a footer of either kind of file says of the file. */
export interface FooterIdentity extends LsmIdentity {
  readonly number: number;
  readonly fileBytes: number;
}

export interface TableFooter extends FooterIdentity {
  readonly propertiesOffset: number;
  readonly propertiesBytes: number;
  readonly rootOffset: number;
  readonly rootBytes: number;
}

export function encodeTableFooter(footer: TableFooter): Buffer {
  const bytes = Buffer.alloc(FOOTER_BYTES);
  writeIdentity(bytes, TABLE_KIND, footer, footer.number);
  bytes.writeUIntLE(footer.fileBytes, 40, 6);
  bytes.writeUIntLE(footer.propertiesOffset, 48, 6);
  bytes.writeUInt32LE(footer.propertiesBytes, 56);
  bytes.writeUInt32LE(footer.rootBytes, 60);
  bytes.writeUIntLE(footer.rootOffset, 64, 6);
  sealFooter(bytes);
  return bytes;
}

export function sealFooter(bytes: Buffer): void {
  bytes.writeUInt32LE(crc32(bytes, 0, FOOTER_CRC_OFFSET), FOOTER_CRC_OFFSET);
}

/**
 * Checks crc, magic, version and sizes of the footer at bytes[at …], the last of a file of `fileBytes`, and whose it is. @throws ERR_CORRUPT,
 * ERR_FORMAT_VERSION
 */
export function checkFooter(
  bytes: Buffer,
  at: number,
  kind: FileKind,
  fileBytes: number,
  file: string,
): FooterIdentity {
  const offset = fileBytes - FOOTER_BYTES;
  const stored = bytes.readUInt32LE(at + FOOTER_CRC_OFFSET);
  const computed = crc32(bytes, at, FOOTER_CRC_OFFSET);
  if (stored !== computed) {
    throw damaged(file, offset, `footer: stored crc ${stored.toString(16)}, computed ${computed.toString(16)}`);
  }
  if (bytes.compare(kind.magic, 0, kind.magic.length, at, at + kind.magic.length) !== 0) {
    throw damaged(file, offset, `not a ${kind.what}: wrong magic`);
  }
  // Only behind a good crc is a foreign version number a version and not damage.
  const version = bytes.readUInt32LE(at + 8);
  if (version !== kind.version) {
    const text = `${file}: ${kind.what} format version ${version}, this release reads ${kind.version}`;
    throw new ConcordError('ERR_FORMAT_VERSION', text, { file, version });
  }
  const saidBytes = bytes.readUIntLE(at + 40, 6);
  if (saidBytes !== fileBytes) {
    throw damaged(file, offset, `footer: a file of ${saidBytes} bytes, it has ${fileBytes}`);
  }
  return {
    shard: bytes.readUInt32LE(at + 12),
    storeId: Uint8Array.from(bytes.subarray(at + 16, at + 16 + STORE_ID_BYTES)),
    tree: bytes.readUInt32LE(at + 32),
    number: bytes.readUInt32LE(at + 36),
    fileBytes,
  };
}

/** Refuses a file of another store, shard, tree or number. */
export function checkOwner(found: FooterIdentity, identity: LsmIdentity, number: number, file: string): void {
  const isOwn =
    Buffer.compare(found.storeId, identity.storeId) === 0 &&
    found.shard === identity.shard &&
    found.tree === identity.tree &&
    found.number === number;
  if (isOwn) return;
  const name = (of: LsmIdentity, fileNumber: number): string =>
    `file ${fileNumber} of tree ${of.tree} of shard ${of.shard} of store ${Buffer.from(of.storeId).toString('hex')}`;
  const text = `footer: it is ${name(found, found.number)}, expected ${name(identity, number)}`;
  throw damaged(file, found.fileBytes - FOOTER_BYTES, text);
}

/** @throws ERR_CORRUPT, ERR_FORMAT_VERSION */
export function decodeTableFooter(bytes: Buffer, at: number, fileBytes: number, file: string): TableFooter {
  const found = checkFooter(bytes, at, TABLE_KIND, fileBytes, file);
  const footer: TableFooter = {
    ...found,
    propertiesOffset: bytes.readUIntLE(at + 48, 6),
    propertiesBytes: bytes.readUInt32LE(at + 56),
    rootBytes: bytes.readUInt32LE(at + 60),
    rootOffset: bytes.readUIntLE(at + 64, 6),
  };
  const { propertiesOffset, propertiesBytes, rootOffset, rootBytes } = footer;
  if (rootOffset + rootBytes !== propertiesOffset || propertiesOffset + propertiesBytes !== fileBytes - FOOTER_BYTES) {
    const text = `footer: root at ${rootOffset} of ${rootBytes} bytes, properties at ${propertiesOffset} of ${propertiesBytes}, a file of ${fileBytes}`;
    throw damaged(file, fileBytes - FOOTER_BYTES, text);
  }
  return footer;
}

/** Ids of properties. On disk: never renumber, never reuse. */
const Id = {
  level: 1,
  run: 2,
  entries: 3,
  tombstones: 4,
  rawBytes: 5,
  smallestKey: 6,
  largestKey: 7,
  smallestSeq: 8,
  largestSeq: 9,
  expiring: 10,
  firstExpiry: 11,
  lastExpiry: 12,
  blobs: 13,
  createdAt: 14,
  dataBlocks: 15,
  dataBytes: 16,
  plainBytes: 17,
  compression: 18,
  blockBytes: 19,
  restartInterval: 20,
  filter: 21,
  prefixFilter: 22,
  prefixFilterBytes: 23,
  keys: 24,
} as const;

const NUMBER_IDS = [
  'level',
  'run',
  'entries',
  'tombstones',
  'rawBytes',
  'smallestSeq',
  'largestSeq',
  'expiring',
  'firstExpiry',
  'lastExpiry',
  'createdAt',
  'dataBlocks',
  'dataBytes',
  'plainBytes',
  'compression',
  'blockBytes',
  'restartInterval',
  'prefixFilterBytes',
  'keys',
] as const;

/** What properties and footer say together. */
export interface TableFacts {
  readonly info: TableInfo;
  readonly layout: TableLayout;
}

function numbersOf(values: readonly number[]): Buffer {
  const bytes = Buffer.alloc(values.reduce((sum, value) => sum + varintBytes(value), 0));
  let at = 0;
  for (const value of values) at = writeVarint53(bytes, at, value);
  return bytes;
}

function shapeBytes({ offset, keys, partitions, partitionLines, probes }: FilterShape): Buffer {
  return numbersOf([offset, keys, partitions, partitionLines, probes]);
}

export function encodeProperties({ info, layout }: TableFacts, compressionCode: number): Buffer {
  const rows: [number, Buffer][] = [
    [Id.level, numbersOf([info.level])],
    [Id.run, numbersOf([info.run])],
    [Id.entries, numbersOf([info.entries])],
    [Id.tombstones, numbersOf([info.tombstones])],
    [Id.rawBytes, numbersOf([info.rawBytes])],
    [Id.smallestKey, Buffer.from(info.smallestKey)],
    [Id.largestKey, Buffer.from(info.largestKey)],
    [Id.smallestSeq, numbersOf([info.smallestSeq])],
    [Id.largestSeq, numbersOf([info.largestSeq])],
    [Id.expiring, numbersOf([info.expiring])],
    [Id.firstExpiry, numbersOf([info.firstExpiry])],
    [Id.lastExpiry, numbersOf([info.lastExpiry])],
    [Id.blobs, numbersOf(info.blobs.flatMap(({ file, bytes }) => [file, bytes]))],
    [Id.createdAt, numbersOf([info.createdAt])],
    [Id.dataBlocks, numbersOf([layout.dataBlocks])],
    [Id.dataBytes, numbersOf([layout.dataBytes])],
    [Id.plainBytes, numbersOf([layout.plainBytes])],
    [Id.compression, numbersOf([compressionCode])],
    [Id.blockBytes, numbersOf([layout.blockBytes])],
    [Id.restartInterval, numbersOf([layout.restartInterval])],
  ];
  if (layout.filter !== undefined) rows.push([Id.filter, shapeBytes(layout.filter)]);
  if (layout.prefixFilter !== undefined) rows.push([Id.prefixFilter, shapeBytes(layout.prefixFilter)]);
  rows.push([Id.prefixFilterBytes, numbersOf([layout.prefixFilterBytes])]);
  rows.push([Id.keys, numbersOf([info.keys])]);
  const pieces = rows.map(([id, bytes]) => {
    const head = Buffer.alloc(1 + varintBytes(bytes.length));
    head[0] = id;
    writeVarint32(head, 1, bytes.length);
    return Buffer.concat([head, bytes]);
  });
  return Buffer.concat(pieces);
}

/** @throws ERR_CORRUPT */
export function decodeProperties(bytes: Uint8Array, length: number, footer: TableFooter, file: string): TableFacts {
  const offset = footer.propertiesOffset;
  const rows = new Map<number, Uint8Array>();
  let lastId = 0;
  for (let at = 0; at < length;) {
    const id = bytes[at]!;
    const valueBytes = readVarint32(bytes, at + 1, length);
    const start = at + 1 + varintBytes(Math.max(0, valueBytes));
    if (valueBytes < 0 || id <= lastId || valueBytes > length - start) {
      throw damaged(file, offset, `properties: at ${at} is none`);
    }
    rows.set(id, bytes.subarray(start, start + valueBytes));
    lastId = id;
    at = start + valueBytes;
  }
  const bad = (name: string): ConcordError => damaged(file, offset, `properties: no good ${name}`);
  const list = (name: keyof typeof Id): number[] => {
    const row = rows.get(Id[name]);
    if (row === undefined) throw bad(name);
    const values: number[] = [];
    for (let at = 0; at < row.length;) {
      const value = readVarint53(row, at, row.length);
      if (value < 0) throw bad(name);
      values.push(value);
      at += varintBytes(value);
    }
    return values;
  };
  const numbers = {} as Record<(typeof NUMBER_IDS)[number], number>;
  for (const name of NUMBER_IDS) {
    const values = list(name);
    if (values.length !== 1) throw bad(name);
    numbers[name] = values[0]!;
  }
  const key = (name: 'smallestKey' | 'largestKey'): Uint8Array => {
    const row = rows.get(Id[name]);
    if (row === undefined || row.length > KEY_BYTES_MAX) throw bad(name);
    return Uint8Array.from(row);
  };
  const shape = (name: 'filter' | 'prefixFilter', from: number): FilterShape | undefined => {
    if (!rows.has(Id[name])) return undefined;
    const [at, keys, partitions, partitionLines, probes, more] = list(name);
    const isGood =
      at === from &&
      keys !== undefined &&
      keys > 0 &&
      partitions !== undefined &&
      partitions > 0 &&
      partitionLines !== undefined &&
      partitionLines > 0 &&
      partitionLines <= FILTER_PARTITION_LINES_MAX &&
      probes !== undefined &&
      probes > 0 &&
      probes <= 32 &&
      more === undefined &&
      at + partitions * (partitionLines * FILTER_LINE_BYTES + TRAILER_BYTES) <= footer.rootOffset;
    if (!isGood) throw bad(name);
    return { offset: at, keys, partitions, partitionLines, probes };
  };
  const compression = compressionName(numbers.compression);
  if (compression === undefined) throw bad('compression');
  const filter = shape('filter', numbers.dataBytes);
  const prefixFilter = shape('prefixFilter', filter === undefined ? numbers.dataBytes : filterEnd(filter));
  const blobNumbers = list('blobs');
  if (blobNumbers.length % 2 !== 0) throw bad('blobs');
  const blobs: BlobUse[] = [];
  for (let index = 0; index < blobNumbers.length; index += 2) {
    blobs.push({ file: blobNumbers[index]!, bytes: blobNumbers[index + 1]! });
  }
  const { dataBytes, dataBlocks, plainBytes, blockBytes, restartInterval, prefixFilterBytes, keys } = numbers;
  const { level, run, entries, tombstones, rawBytes, expiring, firstExpiry, lastExpiry, createdAt } = numbers;
  const { smallestSeq, largestSeq } = numbers;
  const smallestKey = key('smallestKey');
  const largestKey = key('largestKey');
  if (dataBytes >= footer.rootOffset || dataBlocks < 1) throw bad('dataBytes');
  if (entries < 1 || tombstones > entries || expiring > entries || keys < 1 || keys > entries) throw bad('entries');
  if (smallestSeq > largestSeq || largestSeq > U48_MAX) throw bad('largestSeq');
  if (Buffer.compare(smallestKey, largestKey) > 0) throw bad('largestKey');
  if (level >= LSM_LEVELS) throw bad('level');
  if (firstExpiry > lastExpiry || lastExpiry > U48_MAX) throw bad('lastExpiry');
  return {
    info: {
      number: footer.number,
      level,
      run,
      bytes: footer.fileBytes,
      entries,
      keys,
      tombstones,
      rawBytes,
      smallestKey,
      largestKey,
      smallestSeq,
      largestSeq,
      expiring,
      firstExpiry,
      lastExpiry,
      blobs,
      createdAt,
    },
    layout: {
      dataBlocks,
      dataBytes,
      plainBytes,
      compression,
      blockBytes,
      restartInterval,
      filter,
      prefixFilter,
      prefixFilterBytes,
      rootOffset: footer.rootOffset,
      rootStoredBytes: footer.rootBytes,
    },
  };
}

/** Where the partitions of a filter end in the file. */
export function filterEnd({ offset, partitions, partitionLines }: FilterShape): number {
  return offset + partitions * (partitionLines * FILTER_LINE_BYTES + TRAILER_BYTES);
}
