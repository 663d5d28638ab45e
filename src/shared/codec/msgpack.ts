/**
 * MessagePack for values: the npm package's encoder and decoder, with the edges that would lose data closed.
 *
 *   bigint      extension type 0, written as in bigint.ts: any size, and never confused with a number
 *   Date        extension type -1, MessagePack's timestamp (the package's own)
 *   Map, Set    refused: the package would write them as empty maps
 *   __proto__   refused as a map's key: the package's decoder does not read it back
 *   undefined   left out of maps and null in arrays, as in JSON
 *
 * Reading hostile bytes: the package reserves an array of the size a header claims, so five bytes could ask for gigabytes. A scan
 * checks first, in one pass and without allocating, that everything claimed is there.
 *
 * Threads: any; one encoder and one decoder per thread, both safe under re-entry (a getter that encodes).
 */
import { Decoder, Encoder, ExtensionCodec } from '@msgpack/msgpack';
import { invalidArgument } from '../errors.js';
import { bigintBytes, bigintLength, readBigint, writeBigint } from './bigint.js';
import { readU16BE, readU32BE } from './fixed.js';
import { describeType } from './key-scratch.js';

/** On disk: never change. */
const BIGINT_EXTENSION = 0;
/** Values inside values. Deep enough for any document, shallow enough for every later recursion over the result. */
export const MSGPACK_DEPTH_MAX = 128;
/** An encoder keeps its buffer; one that has grown beyond this is let go. */
const ENCODER_BYTES_KEPT_MAX = 1 << 20;

const extensions = new ExtensionCodec();
extensions.register({
  type: BIGINT_EXTENSION,
  // Sees everything that is not null, boolean, number or string, before the package decides what to make of it.
  encode(value) {
    if (typeof value === 'bigint') {
      const length = bigintBytes(value);
      if (length < 0) throw invalidArgument('a bigint of more than 524,280 bits is too large for a value');
      const bytes = Buffer.allocUnsafe(length);
      writeBigint(bytes, 0, value);
      return bytes;
    }
    if (value instanceof Map || value instanceof Set) {
      throw invalidArgument(`the 'msgpack' encoding cannot hold ${describeType(value)}; use an object or an array`);
    }
    if (typeof value === 'object' && value !== null && Object.hasOwn(value, '__proto__')) {
      throw invalidArgument("the 'msgpack' encoding cannot hold an object with a key '__proto__'");
    }
    return null;
  },
  decode(data) {
    const length = bigintLength(data, 0, data.length);
    if (length !== data.length) throw new RangeError('a bigint extension is malformed');
    return readBigint(data, 0, length);
  },
});

function createEncoder(): Encoder {
  return new Encoder({ extensionCodec: extensions, ignoreUndefined: true, maxDepth: MSGPACK_DEPTH_MAX });
}

let encoder = createEncoder();
const decoder = new Decoder({ extensionCodec: extensions });

/** Bytes of a value, in memory of their own. Throws what the package or a getter throws. */
export function encodeMsgpack(value: unknown): Buffer {
  const borrowed = encoder.encodeSharedRef(value);
  const bytes = Buffer.allocUnsafe(borrowed.length);
  bytes.set(borrowed);
  if (borrowed.length > ENCODER_BYTES_KEPT_MAX) encoder = createEncoder();
  return bytes;
}

/** The value; its byte arrays are views of `bytes`, which must not be shared memory. Throws if the bytes are malformed. */
export function decodeMsgpack(bytes: Uint8Array): unknown {
  checkMsgpack(bytes);
  // The decoder cuts byte arrays out of what it gets; out of a Buffer they would be Buffers, which the caller never put in.
  return decoder.decode(new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.length));
}

/** Values still to come in each open array or map. */
const pending = new Float64Array(MSGPACK_DEPTH_MAX + 1);

/** Throws unless `bytes` is one value whose every array, map, string and binary lies inside, nested no deeper than the limit. */
function checkMsgpack(bytes: Uint8Array): void {
  const end = bytes.length;
  let at = 0;
  let depth = 0;
  pending[0] = 1;
  // Over all levels. Each value takes at least one byte, so the scan ends, and passes only if all that was claimed was met.
  let pendingTotal = 1;
  while (pendingTotal > 0) {
    while (pending[depth] === 0) depth--;
    if (at >= end) throw new RangeError('the bytes end inside a value');
    pending[depth]!--;
    pendingTotal--;
    const head = bytes[at]!;
    let children = 0;
    let lengthBytes = 0;
    let skip = 0;
    if (head < 0x80 || head >= 0xe0) skip = 0;
    else if (head < 0x90) children = 2 * (head - 0x80);
    else if (head < 0xa0) children = head - 0x90;
    else if (head < 0xc0) skip = head - 0xa0;
    else {
      lengthBytes = LENGTH_BYTES[head - 0xc0]!;
      skip = PAYLOAD_BYTES[head - 0xc0]!;
    }
    at++;
    if (lengthBytes > 0) {
      if (at + lengthBytes > end) throw new RangeError('the bytes end inside a length');
      const length = lengthBytes === 1 ? bytes[at]! : lengthBytes === 2 ? readU16BE(bytes, at) : readU32BE(bytes, at);
      at += lengthBytes;
      if (head === 0xdc || head === 0xdd) children = length;
      else if (head === 0xde || head === 0xdf) children = 2 * length;
      else skip += length;
    }
    at += skip;
    if (children > 0) {
      if (depth === MSGPACK_DEPTH_MAX) throw new RangeError(`values are nested deeper than ${MSGPACK_DEPTH_MAX}`);
      depth++;
      pending[depth] = children;
      pendingTotal += children;
    }
    if (at > end) throw new RangeError('a length reaches beyond the bytes');
  }
  if (at !== end) throw new RangeError('bytes are left over');
}

//                      c0 nil … c4 bin8 bin16 bin32 ext8 ext16 ext32 f32 f64 u8 u16 u32 u64 i8 i16 i32 i64 fixext1 … 16, str8 …, array, map
const LENGTH_BYTES = [0, 0, 0, 0, 1, 2, 4, 1, 2, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 4, 2, 4, 2, 4];
// Fixed payload; of an extension, the type byte.
const PAYLOAD_BYTES = [0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 4, 8, 1, 2, 4, 8, 1, 2, 4, 8, 2, 3, 5, 9, 17, 0, 0, 0, 0, 0, 0, 0];
