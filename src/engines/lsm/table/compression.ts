/**
 * Compression of blocks, and of values in blob files. Compressed bytes begin with the plain length (u32).
 *
 *   none  as it is      lz4  block format, by lz4-napi      zstd  a frame, by node:zlib (Node 22.15 and later)
 *
 * The native parts are loaded when they are first needed: a thread that meets no lz4 loads none. Bytes are decompressed behind a checksum that is good,
 * or was when they were read before (lsm.verifyBlocks): decoders survive any.
 * Threads: any.
 */
import { createRequire } from 'node:module';
import * as zlib from 'node:zlib';
import { ConcordError, invalidArgument } from '../../../shared/errors.js';
import { CompressionCode, type CompressionName } from '../types.js';
import { VALUE_BYTES_MAX } from './entry.js';

/** Less is not worth a decompression with every read: an eighth. */
const SAVED_SHARE_MIN = 8;
const LENGTH_BYTES = 4;
/** An lz4 block of n bytes is at most so many times as long when it is plain. */
const LZ4_RATIO_MAX = 255;

interface Lz4 {
  compressSync(data: Buffer): Buffer;
  uncompressSync(data: Uint8Array): Buffer;
}

interface Zstd {
  readonly zstdCompressSync?: (data: Uint8Array) => Buffer;
  readonly zstdDecompressSync?: (data: Uint8Array, options: { maxOutputLength: number }) => Buffer;
}

let loaded: Lz4 | undefined;

function lz4(): Lz4 {
  try {
    loaded ??= createRequire(import.meta.url)('lz4-napi') as Lz4;
  } catch (cause) {
    throw new ConcordError(
      'ERR_UNSUPPORTED',
      'lz4 is not available: lz4-napi has no build for this machine',
      {},
      { cause },
    );
  }
  return loaded;
}

const { zstdCompressSync, zstdDecompressSync } = zlib as Zstd;

/** Whether this runtime writes and reads it; lz4 is assumed until it is used. */
export function isCompressionSupported(name: CompressionName): boolean {
  return name !== 'zstd' || zstdCompressSync !== undefined;
}

/** @throws ERR_INVALID_ARG for one that is unknown, or that this runtime does not have */
export function checkCompression(name: CompressionName): void {
  if (!Object.hasOwn(CompressionCode, name)) {
    throw invalidArgument(`compression is ${Object.keys(CompressionCode).join(', ')}, got ${String(name)}`);
  }
  if (!isCompressionSupported(name)) {
    throw invalidArgument(`compression zstd needs Node.js 22.15 or later, this is ${process.version}`);
  }
}

export function compressionName(code: number): CompressionName | undefined {
  return NAMES[code];
}
const NAMES = Object.keys(CompressionCode) as CompressionName[];

/** The compressed bytes, undefined if they save less than an eighth. */
export function compress(name: CompressionName, bytes: Uint8Array, length: number, start = 0): Buffer | undefined {
  const plain = Buffer.from(bytes.buffer, bytes.byteOffset + start, length);
  const most = length - Math.ceil(length / SAVED_SHARE_MIN);
  if (name === 'lz4') {
    // Its own first four bytes are the plain length.
    const packed = lz4().compressSync(plain);
    return packed.length <= most ? packed : undefined;
  }
  if (name === 'zstd' && zstdCompressSync !== undefined) {
    const packed = zstdCompressSync(plain);
    if (packed.length + LENGTH_BYTES > most) return undefined;
    const bytesWithLength = Buffer.allocUnsafe(LENGTH_BYTES + packed.length);
    bytesWithLength.writeUInt32LE(length, 0);
    packed.copy(bytesWithLength, LENGTH_BYTES);
    return bytesWithLength;
  }
  return undefined;
}

/**
 * The plain bytes of what compress() made. Undefined: they are not what it made. @throws ERR_UNSUPPORTED
 */
export function decompress(code: number, bytes: Uint8Array, at: number, length: number): Uint8Array | undefined {
  if (length < LENGTH_BYTES) return undefined;
  const plainBytes = (bytes[at]! | (bytes[at + 1]! << 8) | (bytes[at + 2]! << 16) | (bytes[at + 3]! << 24)) >>> 0;
  if (plainBytes > 2 * VALUE_BYTES_MAX) return undefined;
  let plain: Buffer;
  if (code === CompressionCode.lz4) {
    if (plainBytes > LZ4_RATIO_MAX * length) return undefined;
    const codec = lz4();
    try {
      plain = codec.uncompressSync(bytes.subarray(at, at + length));
    } catch {
      return undefined;
    }
  } else if (code === CompressionCode.zstd) {
    if (zstdDecompressSync === undefined) {
      const text = `a zstd block needs Node.js 22.15 or later, this is ${process.version}`;
      throw new ConcordError('ERR_UNSUPPORTED', text);
    }
    try {
      const packed = bytes.subarray(at + LENGTH_BYTES, at + length);
      plain = zstdDecompressSync(packed, { maxOutputLength: Math.max(1, plainBytes) });
    } catch {
      return undefined;
    }
  } else {
    return undefined;
  }
  return plain.length === plainBytes ? plain : undefined;
}
