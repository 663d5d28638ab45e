/**
 * Bytes of a checkpoint file, for writer and reader. Picture, worked example and reasons: FORMAT.md.
 *
 *   offset  size  field         header, 128 bytes
 *        0     8  magic         "CKV-CKP\n"
 *        8     4  version       u32, 1
 *       12     4  shard         u32
 *       16    16  storeId
 *       32     8  lsn           u48, two zero bytes
 *       40     8  publishedSeq  u48, two zero bytes
 *       48     8  createdAt     u48 milliseconds, two zero bytes
 *       56     8  replayFromLsn       u48, two zero bytes; 0 without HeaderFlag.ReplayFromLsn
 *       64     4  flags         u32, HeaderFlag
 *       68    56  zero
 *      124     4  crc           crc32 over [0, 124); at this place in every version
 *
 *   block:  u32 payloadBytes (1 ..= CHUNK_BYTES_MAX) · payload · u32 crc over both before it
 *   footer: u32 0 · u48 blockCount, 2 zero · u48 payloadBytes, 2 zero · u48 fileBytes, 2 zero · "CKV-END\n" · u32 crc over all before it
 *
 * Each crc of a block or footer is seeded with the crc before it, the first with the header's; so the footer's covers the whole file
 * and blocks cannot be lost, doubled or swapped. Golden bytes: test/golden/checkpoint.txt. Threads: any; no state.
 */
import { crc32 } from '../../shared/checksum.js';
import { ConcordError, invalidArgument } from '../../shared/errors.js';

/** Append-only. 1: the first. */
const CHECKPOINT_FORMAT_VERSION = 1;
export const HEADER_BYTES = 128;
export const BLOCK_LENGTH_BYTES = 4;
export const CRC_BYTES = 4;
export const FOOTER_BYTES = 40;
export const CHUNK_BYTES_MAX = 16 << 20;

const U32_MAX = 2 ** 32 - 1;
const U48_MAX = 2 ** 48 - 1;
const STORE_ID_BYTES = 16;
const MAGIC = Buffer.from('CKV-CKP\n', 'latin1');
const END_MAGIC = Buffer.from('CKV-END\n', 'latin1');
const HEADER_CRC_OFFSET = HEADER_BYTES - 4;

/** On disk: never renumber, never reuse. */
const HeaderFlag = { ReplayFromLsn: 1 } as const;

export interface CheckpointHeader {
  /** 16 bytes. */
  readonly storeId: Uint8Array;
  readonly shard: number;
  /** The last log frame whose effects are in the image; recovery replays from lsn + 1. */
  readonly lsn: number;
  readonly publishedSeq: number;
  /** Milliseconds since the epoch. */
  readonly createdAt: number;
  /** First log frame a recovery must read, when it is not lsn + 1: values that were on their way began there. */
  readonly replayFromLsn?: number | undefined;
}

export interface CheckpointFooter {
  readonly blockCount: number;
  readonly payloadBytes: number;
  readonly fileBytes: number;
}

export function corrupt(file: string, offset: number, text: string): ConcordError {
  return new ConcordError('ERR_CORRUPT', `${file} at ${offset}: ${text}`, { file, offset });
}

function checkNumber(name: string, value: number, max: number): void {
  if (!Number.isInteger(value) || value < 0 || value > max)
    throw invalidArgument(`${name} must be an integer 0 ..= ${max}, got ${value}`);
}

/** Writes the header into bytes[0, 128) and returns its crc, the seed of the first block. */
export function encodeHeader(into: Buffer, header: CheckpointHeader): number {
  if (!(header.storeId instanceof Uint8Array) || header.storeId.length !== STORE_ID_BYTES) {
    throw invalidArgument(`storeId must be ${STORE_ID_BYTES} bytes`);
  }
  checkNumber('shard', header.shard, U32_MAX);
  checkNumber('lsn', header.lsn, U48_MAX);
  checkNumber('publishedSeq', header.publishedSeq, U48_MAX);
  checkNumber('createdAt', header.createdAt, U48_MAX);
  checkNumber('replayFromLsn', header.replayFromLsn ?? 0, U48_MAX);
  into.fill(0, 0, HEADER_BYTES);
  into.set(MAGIC, 0);
  into.writeUInt32LE(CHECKPOINT_FORMAT_VERSION, 8);
  into.writeUInt32LE(header.shard, 12);
  into.set(header.storeId, 16);
  into.writeUIntLE(header.lsn, 32, 6);
  into.writeUIntLE(header.publishedSeq, 40, 6);
  into.writeUIntLE(header.createdAt, 48, 6);
  into.writeUIntLE(header.replayFromLsn ?? 0, 56, 6);
  into.writeUInt32LE(header.replayFromLsn === undefined ? 0 : HeaderFlag.ReplayFromLsn, 64);
  const crc = crc32(into, 0, HEADER_CRC_OFFSET);
  into.writeUInt32LE(crc, HEADER_CRC_OFFSET);
  return crc;
}

export function decodeHeader(
  bytes: Buffer,
  byteCount: number,
  file: string,
): { header: CheckpointHeader; seed: number } {
  if (byteCount < HEADER_BYTES)
    throw corrupt(file, byteCount, `the checkpoint header has ${byteCount} bytes of ${HEADER_BYTES}`);
  const stored = bytes.readUInt32LE(HEADER_CRC_OFFSET);
  const computed = crc32(bytes, 0, HEADER_CRC_OFFSET);
  if (stored !== computed)
    throw corrupt(file, 0, `checkpoint header: stored crc ${stored.toString(16)}, computed ${computed.toString(16)}`);
  if (bytes.compare(MAGIC, 0, MAGIC.length, 0, MAGIC.length) !== 0)
    throw corrupt(file, 0, 'not a checkpoint: wrong magic');
  // Only behind a good crc is a foreign version number a version and not damage.
  const version = bytes.readUInt32LE(8);
  if (version !== CHECKPOINT_FORMAT_VERSION) {
    const text = `${file}: checkpoint format version ${version}, this release reads ${CHECKPOINT_FORMAT_VERSION}`;
    throw new ConcordError('ERR_FORMAT_VERSION', text, { file, version });
  }
  const hasReplayFromLsn = (bytes.readUInt32LE(64) & HeaderFlag.ReplayFromLsn) !== 0;
  const header: CheckpointHeader = {
    storeId: Uint8Array.from(bytes.subarray(16, 16 + STORE_ID_BYTES)),
    shard: bytes.readUInt32LE(12),
    lsn: bytes.readUIntLE(32, 6),
    publishedSeq: bytes.readUIntLE(40, 6),
    createdAt: bytes.readUIntLE(48, 6),
    ...(hasReplayFromLsn ? { replayFromLsn: bytes.readUIntLE(56, 6) } : {}),
  };
  return { header, seed: stored };
}

/** Writes the footer at `at`; `seed` is the crc of the last block. */
export function encodeFooter(into: Buffer, at: number, footer: CheckpointFooter, seed: number): void {
  into.fill(0, at, at + FOOTER_BYTES);
  into.writeUIntLE(footer.blockCount, at + 4, 6);
  into.writeUIntLE(footer.payloadBytes, at + 12, 6);
  into.writeUIntLE(footer.fileBytes, at + 20, 6);
  into.set(END_MAGIC, at + 28);
  into.writeUInt32LE(crc32(into, at, FOOTER_BYTES - CRC_BYTES, seed), at + 36);
}

/** Undefined when the crc or the magic is wrong. */
export function decodeFooter(bytes: Buffer, at: number, seed: number): CheckpointFooter | undefined {
  if (bytes.readUInt32LE(at + 36) !== crc32(bytes, at, FOOTER_BYTES - CRC_BYTES, seed)) return undefined;
  if (bytes.compare(END_MAGIC, 0, END_MAGIC.length, at + 28, at + 36) !== 0) return undefined;
  return {
    blockCount: bytes.readUIntLE(at + 4, 6),
    payloadBytes: bytes.readUIntLE(at + 12, 6),
    fileBytes: bytes.readUIntLE(at + 20, 6),
  };
}

const FINISHED_NAME = /^checkpoint-(\d{16})\.ckpt$/;
const TEMPORARY_NAME = /^checkpoint-\d{16}-[0-9a-f]+\.tmp$/;

export function checkpointName(lsn: number): string {
  return `checkpoint-${String(lsn).padStart(16, '0')}.ckpt`;
}

/** The LSN in a finished checkpoint's name, undefined for other names. */
export function checkpointLsn(name: string): number | undefined {
  const match = FINISHED_NAME.exec(name);
  if (match === null) return undefined;
  const lsn = Number(match[1]);
  return lsn <= U48_MAX ? lsn : undefined;
}

export const isTemporaryName = (name: string): boolean => TEMPORARY_NAME.test(name);
