/**
 * Bytes of a write-ahead log segment, for writer, recovery and inspector. Picture, worked example and reasons: FORMAT.md.
 *
 *   offset  size  field        segment header, 4096 bytes, written and synced before the file gets its name
 *        0     8  magic        "CKV-WAL\n"
 *        8     4  version      u32, 1
 *       12     4  shard        u32
 *       16    16  storeId
 *       32     4  generation   u32, 1.., the number in the file name
 *       36     4  flags        u32, SegmentFlag
 *       40     8  firstLsn     u48, two zero bytes
 *       48     8  createdAt    u48 milliseconds, two zero bytes
 *       56     8  salt         random
 *       64  4028  zero
 *     4092     4  crc          crc32 over [0, 4092); at this place in every version. Seeds the crcs of the segment's frames
 *
 *   offset  size  field        frame, at a multiple of 8
 *        0     4  headerCrc    crc32 over [4, 48), seeded with the segment's crc
 *        4     4  payloadCrc   crc32 over [48, 48 + payload + padding), seeded likewise
 *        8     4  payloadBytes u32
 *       12     4  generation   u32, the segment's
 *       16     8  lsn          u48, one more than the frame before; two zero bytes
 *       24     8  syncedLsn    u48, < lsn: known durable when this frame was built; two zero bytes
 *       32     8  firstSeq     u48; two zero bytes
 *       40     4  operationCount u32
 *       44     4  zero
 *       48     n  payload      see operation.ts; then zeros up to a multiple of 8
 *
 * After the last frame stand TERMINATOR_BYTES zeros (as far as the segment reaches). Golden bytes: test/golden/wal-segment.txt.
 * Threads: any; no state.
 */
import { crc32 } from '../../shared/checksum.js';
import { ConcordError, invalidArgument } from '../../shared/errors.js';
import type { EnvFile } from '../../shared/env/env.js';

/** Append-only. 1: the first. */
const WAL_FORMAT_VERSION = 1;
export const SEGMENT_HEADER_BYTES = 4096;
export const FRAME_HEADER_BYTES = 48;
export const TERMINATOR_BYTES = 16;
export const SEGMENT_BYTES_MIN = 64 << 10;
export const SEGMENT_BYTES_MAX = 1 << 30;
export const SEGMENT_BYTES_DEFAULT = 32 << 20;
export const PAYLOAD_BYTES_MAX_DEFAULT = 8 << 20;
export const STORE_ID_BYTES = 16;
export const U48_MAX = 2 ** 48 - 1;
export const U32_MAX = 2 ** 32 - 1;

/** On disk: never renumber, never reuse. */
const SegmentFlag = {
  /** What follows the frames was all zeros when the segment was put to use (not a recycled file). */
  Zeroed: 1,
} as const;

const MAGIC = Buffer.from('CKV-WAL\n', 'latin1');
const VERSION_OFFSET = 8;
const SHARD_OFFSET = 12;
const STORE_ID_OFFSET = 16;
const GENERATION_OFFSET = 32;
const FLAGS_OFFSET = 36;
const FIRST_LSN_OFFSET = 40;
const CREATED_AT_OFFSET = 48;
const SALT_OFFSET = 56;
export const SALT_BYTES = 8;
const HEADER_CRC_OFFSET = SEGMENT_HEADER_BYTES - 4;

export interface SegmentHeader {
  readonly storeId: Uint8Array;
  readonly shard: number;
  readonly generation: number;
  readonly zeroed: boolean;
  readonly firstLsn: number;
  readonly createdAt: number;
  readonly salt: Uint8Array;
}

/** Writes the header into bytes[0, 4096) and returns its crc, the seed of the segment's frames. */
export function encodeSegmentHeader(into: Buffer, header: SegmentHeader): number {
  into.fill(0, 0, SEGMENT_HEADER_BYTES);
  into.set(MAGIC, 0);
  into.writeUInt32LE(WAL_FORMAT_VERSION, VERSION_OFFSET);
  into.writeUInt32LE(header.shard, SHARD_OFFSET);
  into.set(header.storeId, STORE_ID_OFFSET);
  into.writeUInt32LE(header.generation, GENERATION_OFFSET);
  into.writeUInt32LE(header.zeroed ? SegmentFlag.Zeroed : 0, FLAGS_OFFSET);
  into.writeUIntLE(header.firstLsn, FIRST_LSN_OFFSET, 6);
  into.writeUIntLE(header.createdAt, CREATED_AT_OFFSET, 6);
  into.set(header.salt, SALT_OFFSET);
  const crc = crc32(into, 0, HEADER_CRC_OFFSET);
  into.writeUInt32LE(crc, HEADER_CRC_OFFSET);
  return crc;
}

function corrupt(file: string, offset: number, text: string): ConcordError {
  return new ConcordError('ERR_CORRUPT', `${file} at ${offset}: ${text}`, { file, offset });
}

/** The header and the seed of the frames. ERR_CORRUPT or ERR_FORMAT_VERSION for anything else than a header of this format. */
export function decodeSegmentHeader(
  bytes: Buffer,
  byteCount: number,
  file: string,
): { header: SegmentHeader; seed: number } {
  if (byteCount < SEGMENT_HEADER_BYTES) {
    throw corrupt(file, byteCount, `the segment header has ${byteCount} bytes of ${SEGMENT_HEADER_BYTES}`);
  }
  const stored = bytes.readUInt32LE(HEADER_CRC_OFFSET);
  const computed = crc32(bytes, 0, HEADER_CRC_OFFSET);
  if (stored !== computed) {
    throw corrupt(file, 0, `segment header: stored crc ${stored.toString(16)}, computed ${computed.toString(16)}`);
  }
  if (bytes.compare(MAGIC, 0, MAGIC.length, 0, MAGIC.length) !== 0)
    throw corrupt(file, 0, 'not a log segment: wrong magic');
  // Only behind a good crc is a foreign version number a version and not damage.
  const version = bytes.readUInt32LE(VERSION_OFFSET);
  if (version !== WAL_FORMAT_VERSION) {
    throw new ConcordError(
      'ERR_FORMAT_VERSION',
      `${file}: log format version ${version}, this release reads ${WAL_FORMAT_VERSION}`,
      {
        file,
        version,
      },
    );
  }
  const header: SegmentHeader = {
    storeId: Uint8Array.from(bytes.subarray(STORE_ID_OFFSET, STORE_ID_OFFSET + STORE_ID_BYTES)),
    shard: bytes.readUInt32LE(SHARD_OFFSET),
    generation: bytes.readUInt32LE(GENERATION_OFFSET),
    zeroed: (bytes.readUInt32LE(FLAGS_OFFSET) & SegmentFlag.Zeroed) !== 0,
    firstLsn: bytes.readUIntLE(FIRST_LSN_OFFSET, 6),
    createdAt: bytes.readUIntLE(CREATED_AT_OFFSET, 6),
    salt: Uint8Array.from(bytes.subarray(SALT_OFFSET, SALT_OFFSET + SALT_BYTES)),
  };
  return { header, seed: stored };
}

export function readSegmentHeader(file: EnvFile): { header: SegmentHeader; seed: number } {
  const bytes = Buffer.alloc(SEGMENT_HEADER_BYTES);
  const byteCount = file.read(bytes, 0, SEGMENT_HEADER_BYTES, 0);
  return decodeSegmentHeader(bytes, byteCount, file.path);
}

/** Refuses a segment of another store, shard or generation than expected. */
export function checkSegmentOwner(
  header: SegmentHeader,
  storeId: Uint8Array,
  shard: number,
  generation: number,
  file: string,
): void {
  if (Buffer.compare(header.storeId, storeId) !== 0) {
    const found = Buffer.from(header.storeId).toString('hex');
    throw corrupt(file, STORE_ID_OFFSET, `belongs to store ${found}, expected ${Buffer.from(storeId).toString('hex')}`);
  }
  if (header.shard !== shard) throw corrupt(file, SHARD_OFFSET, `belongs to shard ${header.shard}, expected ${shard}`);
  if (header.generation !== generation) {
    throw corrupt(file, GENERATION_OFFSET, `generation ${header.generation} inside, ${generation} in the name`);
  }
}

/** Bytes of a frame on disk. */
export function frameBytes(payloadBytes: number): number {
  return FRAME_HEADER_BYTES + ((payloadBytes + 7) & ~7);
}

/** Fills header and padding around the payload that stands at bytes[start + FRAME_HEADER_BYTES…]. Returns the frame's bytes. */
export function sealFrame(
  bytes: Buffer,
  start: number,
  payloadBytes: number,
  seed: number,
  generation: number,
  lsn: number,
  syncedLsn: number,
  firstSeq: number,
  operationCount: number,
): number {
  const payloadStart = start + FRAME_HEADER_BYTES;
  const end = start + frameBytes(payloadBytes);
  for (let at = payloadStart + payloadBytes; at < end; at++) bytes[at] = 0;
  bytes.writeUInt32LE(crc32(bytes, payloadStart, end - payloadStart, seed), start + 4);
  bytes.writeUInt32LE(payloadBytes, start + 8);
  bytes.writeUInt32LE(generation, start + 12);
  bytes.writeUIntLE(lsn, start + 16, 6);
  bytes.writeUInt16LE(0, start + 22);
  bytes.writeUIntLE(syncedLsn, start + 24, 6);
  bytes.writeUInt16LE(0, start + 30);
  bytes.writeUIntLE(firstSeq, start + 32, 6);
  bytes.writeUInt16LE(0, start + 38);
  bytes.writeUInt32LE(operationCount, start + 40);
  bytes.writeUInt32LE(0, start + 44);
  bytes.writeUInt32LE(crc32(bytes, start + 4, FRAME_HEADER_BYTES - 4, seed), start);
  return end - start;
}

/** Fields of a frame header in a buffer. */
export const frameLsn = (bytes: Buffer, at: number): number => bytes.readUIntLE(at + 16, 6);
export const frameSyncedLsn = (bytes: Buffer, at: number): number => bytes.readUIntLE(at + 24, 6);
export const frameFirstSeq = (bytes: Buffer, at: number): number => bytes.readUIntLE(at + 32, 6);
export const frameOperationCount = (bytes: Buffer, at: number): number => bytes.readUInt32LE(at + 40);
export const framePayloadBytes = (bytes: Buffer, at: number): number => bytes.readUInt32LE(at + 8);

/**
 * Is there a frame header of this segment at `at`? Cheap tests come first, so that a scan over foreign bytes seldom reaches the crc.
 * Since the crc is seeded with the random salt of the segment, neither bytes of an earlier use of the file nor bytes that a client
 * stored can pass for a header.
 */
export function isFrameHeader(bytes: Buffer, at: number, end: number, seed: number, generation: number): boolean {
  if (at + FRAME_HEADER_BYTES > end) return false;
  if (bytes.readUInt32LE(at + 12) !== generation) return false;
  if (framePayloadBytes(bytes, at) > end - at - FRAME_HEADER_BYTES) return false;
  if (at + frameBytes(framePayloadBytes(bytes, at)) > end) return false;
  return bytes.readUInt32LE(at) === crc32(bytes, at + 4, FRAME_HEADER_BYTES - 4, seed);
}

/** Behind isFrameHeader(): is the payload what was written? */
export function isPayloadIntact(bytes: Buffer, at: number, seed: number): boolean {
  const paddedBytes = frameBytes(framePayloadBytes(bytes, at)) - FRAME_HEADER_BYTES;
  return bytes.readUInt32LE(at + 4) === crc32(bytes, at + FRAME_HEADER_BYTES, paddedBytes, seed);
}

const SEGMENT_NAME = /^wal-(\d{10})\.log$/;
const SPARE_NAME = /^wal-[0-9a-z-]+\.spare$/;
const TEMPORARY_NAME = /^wal-[0-9a-z-]+\.tmp$/;

export function segmentName(generation: number): string {
  return `wal-${String(generation).padStart(10, '0')}.log`;
}

/** The generation in a segment's file name, undefined for other names. */
export function segmentGeneration(name: string): number | undefined {
  const match = SEGMENT_NAME.exec(name);
  if (match === null) return undefined;
  const generation = Number(match[1]);
  return generation >= 1 && generation <= U32_MAX ? generation : undefined;
}

export const isSpareName = (name: string): boolean => SPARE_NAME.test(name);
export const isTemporaryName = (name: string): boolean => TEMPORARY_NAME.test(name);

export function checkIdentity(storeId: Uint8Array, shard: number): void {
  if (!(storeId instanceof Uint8Array) || storeId.length !== STORE_ID_BYTES) {
    throw invalidArgument(`storeId must be ${STORE_ID_BYTES} bytes`);
  }
  if (!Number.isInteger(shard) || shard < 0 || shard > U32_MAX)
    throw invalidArgument(`shard must be a u32, got ${shard}`);
}
