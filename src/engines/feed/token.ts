/**
 * Tokens: a place in the feed of a whole store, as text that a program keeps and hands back after a restart.
 *
 *   offset  size  field       (little-endian; then base64url without padding)
 *        0     1  version     1
 *        1     1  shards
 *        2     1  partial     shard whose next unit is delivered in part, 255: none
 *        3     1  zero
 *        4     4  partialAt   records of that unit that are delivered
 *        8    16  storeId
 *       24    28  per shard   generation u32 · offset u48 · lsn u48 · seq u48 · unit u32 · two zero bytes
 *       end    4  crc         crc32 of all before
 *
 * Threads: any; pure functions.
 */
import { crc32 } from '../../shared/checksum.js';
import { invalidArgument } from '../../shared/errors.js';
import type { FeedPosition } from './source.js';

const VERSION = 1;
const HEAD_BYTES = 24;
const SHARD_BYTES = 28;
const STORE_ID_BYTES = 16;
const NO_SHARD = 255;
const SHARDS_MAX = 64;

export interface FeedToken {
  readonly positions: readonly FeedPosition[];
  /** The next unit of `shard` goes on behind `records` of its records. */
  readonly partial: { readonly shard: number; readonly records: number } | undefined;
}

export function encodeToken(storeId: Uint8Array, { positions, partial }: FeedToken): string {
  const bytes = Buffer.alloc(HEAD_BYTES + positions.length * SHARD_BYTES + 4);
  bytes[0] = VERSION;
  bytes[1] = positions.length;
  bytes[2] = partial?.shard ?? NO_SHARD;
  bytes.writeUInt32LE(partial?.records ?? 0, 4);
  bytes.set(storeId.subarray(0, STORE_ID_BYTES), 8);
  let at = HEAD_BYTES;
  for (const { generation, offset, lsn, seq, unit } of positions) {
    bytes.writeUInt32LE(generation, at);
    bytes.writeUIntLE(offset, at + 4, 6);
    bytes.writeUIntLE(lsn, at + 10, 6);
    bytes.writeUIntLE(seq, at + 16, 6);
    bytes.writeUInt32LE(unit, at + 22);
    at += SHARD_BYTES;
  }
  bytes.writeUInt32LE(crc32(bytes, 0, at), at);
  return bytes.toString('base64url');
}

/** @throws ERR_INVALID_ARG for what is no token, or one of another store */
export function decodeToken(token: string, storeId: Uint8Array, shards: number): FeedToken {
  const bytes = Buffer.from(token, 'base64url');
  const end = bytes.length - 4;
  if (
    end < HEAD_BYTES ||
    (end - HEAD_BYTES) % SHARD_BYTES !== 0 ||
    crc32(bytes, 0, end) !== bytes.readUInt32LE(end) ||
    // One text for one place: what base64 passes over is refused.
    bytes.toString('base64url') !== token
  ) {
    throw invalidArgument('since is no token of a change feed');
  }
  if (bytes[0] !== VERSION) throw invalidArgument(`a token of version ${bytes[0]}, this release reads ${VERSION}`);
  if (Buffer.compare(bytes.subarray(8, HEAD_BYTES), storeId.subarray(0, STORE_ID_BYTES)) !== 0)
    throw invalidArgument('the token is of another store');
  const count = (end - HEAD_BYTES) / SHARD_BYTES;
  const partialShard = bytes[2]!;
  const isWhole = partialShard === NO_SHARD;
  if (count !== shards || bytes[1] !== shards || shards > SHARDS_MAX || (!isWhole && partialShard >= shards))
    throw invalidArgument(`the token is of a store with ${count} shards, this one has ${shards}`);
  const positions: FeedPosition[] = [];
  for (let at = HEAD_BYTES; at < end; at += SHARD_BYTES) {
    positions.push({
      generation: bytes.readUInt32LE(at),
      offset: bytes.readUIntLE(at + 4, 6),
      lsn: bytes.readUIntLE(at + 10, 6),
      seq: bytes.readUIntLE(at + 16, 6),
      unit: bytes.readUInt32LE(at + 22),
    });
  }
  const partial = isWhole ? undefined : { shard: partialShard, records: bytes.readUInt32LE(4) };
  return { positions, partial };
}
