/**
 * Logs made by hand for tests of the feed: frames of operation records in the log of a shard, and what a feed tells of them as plain rows.
 */
import {
  CHUNK_OF_BATCH,
  OPERATION_EXPIRED,
  OPERATION_EXTENDED,
  OPERATION_EXTENSION_BYTES,
  OPERATION_HEADER_BYTES,
  OPERATION_JOINED,
  OperationKind,
  PREPARE_KEY_BYTES,
  RESOLVE_KEY_BYTES,
  operationBytes,
  operationSpan,
  writeBlobReference,
  writeNumber,
  writeOperationExtension,
  writeOperationHeader,
  writePrepareKey,
} from '../../dist/engines/operation.js';
import { LogTail } from '../../dist/engines/feed/log-tail.js';
import { ShardFeed, type FeedFilter } from '../../dist/engines/feed/shard-feed.js';
import type { FeedLimits, FeedPosition, FeedSource } from '../../dist/engines/feed/source.js';
import { StoreFeed } from '../../dist/engines/feed/store-feed.js';
import { recoverWal } from '../../dist/engines/wal/recovery.js';
import { WalWriter, type WalOptions } from '../../dist/engines/wal/writer.js';
import type { Env } from '../../dist/shared/env/env.js';

export const STORE_ID = Buffer.from('00112233445566778899aabbccddeeff', 'hex');
export const SEGMENT_BYTES = 64 << 10;

export const ALL: FeedFilter = { wants: () => true, wantsRange: () => true };

export function record(kind: number, flags: number, key: Uint8Array, value: Uint8Array, space = 0): Buffer {
  const extension = space === 0 ? 0 : OPERATION_EXTENSION_BYTES;
  const bytes = Buffer.alloc(operationBytes(key.length, value.length, extension));
  writeOperationHeader(bytes, 0, kind, flags | (space === 0 ? 0 : OPERATION_EXTENDED), key.length, value.length);
  if (space !== 0) writeOperationExtension(bytes, 0, space, 0);
  bytes.set(key, OPERATION_HEADER_BYTES + extension);
  bytes.set(value, OPERATION_HEADER_BYTES + extension + key.length);
  return bytes;
}

export function put(key: string, value: string, joined = false, space = 0): Buffer {
  return record(OperationKind.Put, joined ? OPERATION_JOINED : 0, Buffer.from(key), Buffer.from(value), space);
}

export function del(key: string, joined = false): Buffer {
  return record(OperationKind.Delete, joined ? OPERATION_JOINED : 0, Buffer.from(key), Buffer.alloc(0));
}

export function expired(key: string, space = 0): Buffer {
  return record(OperationKind.Delete, OPERATION_EXPIRED, Buffer.from(key), Buffer.alloc(0), space);
}

/** All of them as one unit. */
export function joined(records: readonly Buffer[]): Buffer {
  return Buffer.concat(
    records.map((bytes, i) => {
      const copy = Buffer.from(bytes);
      if (i < records.length - 1) copy[1]! |= OPERATION_JOINED;
      return copy;
    }),
  );
}

export function chunk(
  client: number,
  blob: number,
  offset: number,
  total: number,
  bytes: Uint8Array,
  ofBatch = false,
): Buffer {
  const reference = Buffer.alloc(24);
  writeBlobReference(reference, 0, { client, blob, offset, count: offset === 0 ? total : 0 });
  return record(OperationKind.Chunk, ofBatch ? CHUNK_OF_BATCH : 0, reference, bytes);
}

export function putBlob(key: string, client: number, blob: number, total: number): Buffer {
  const reference = Buffer.alloc(24);
  writeBlobReference(reference, 0, { client, blob, offset: total, count: 0 });
  return record(OperationKind.PutBlob, 0, Buffer.from(key), reference);
}

export function applyBatch(client: number, blob: number, total: number, count: number): Buffer {
  const reference = Buffer.alloc(24);
  writeBlobReference(reference, 0, { client, blob, offset: total, count });
  return record(OperationKind.ApplyBatch, 0, Buffer.alloc(0), reference);
}

export function prepare(id: number, mask: number, writes: readonly Buffer[]): Buffer {
  const key = Buffer.alloc(PREPARE_KEY_BYTES);
  writePrepareKey(key, 0, { id, maskLow: mask, maskHigh: 0, client: 1 });
  return record(OperationKind.Prepare, 0, key, joined(writes));
}

/** `number` 0: given up. */
export function resolve(id: number, number: number): Buffer {
  const key = Buffer.alloc(RESOLVE_KEY_BYTES);
  writeNumber(key, 0, id);
  writeNumber(key, 8, number);
  return record(OperationKind.Resolve, 0, key, Buffer.alloc(0));
}

/** The log of one shard, and the number its readers may see. */
export class ShardLog {
  readonly env: Env;
  readonly shard: number;
  readonly directory: string;
  writer: WalWriter;
  publishedSeq = 0;
  /** The last number it vouches for, once it has failed for good. */
  lastSeq = Infinity;
  readonly options: WalOptions;

  constructor(env: Env, shard = 0, options: Partial<WalOptions> = {}) {
    this.env = env;
    this.shard = shard;
    this.directory = `/data/shard-${shard}`;
    this.options = { storeId: STORE_ID, shard, segmentBytes: SEGMENT_BYTES, ...options };
    env.makeDirectory(this.directory);
    env.syncDirectory('/');
    env.syncDirectory('/data');
    this.writer = WalWriter.create(env, this.directory, this.options);
  }

  /** A group with numbers from `firstSeq` on; published unless told otherwise. Returns the last number. */
  commit(
    firstSeq: number,
    records: readonly Buffer[],
    how: { buffered?: boolean; unpublished?: boolean } = {},
  ): number {
    const { writer } = this;
    writer.begin();
    let span = 0;
    for (const bytes of records) {
      writer.ensure(bytes.length);
      writer.bytes.set(bytes, writer.position);
      writer.position += bytes.length;
      span += operationSpan(bytes, 0) * recordCount(bytes);
    }
    span = Math.max(1, span);
    writer.commit(firstSeq, span, how.buffered === true);
    const lastSeq = firstSeq + span - 1;
    if (how.unpublished !== true) this.publishedSeq = lastSeq;
    return lastSeq;
  }

  reopen(env: Env = this.env): ShardLog {
    const log = Object.create(ShardLog.prototype) as ShardLog;
    const recovery = recoverWal(env, this.directory, {
      storeId: STORE_ID,
      shard: this.shard,
      fromLsn: 1,
      mode: 'point-in-time',
      onFrame: ({ firstSeq, operationCount }) => {
        log.publishedSeq = firstSeq + operationCount - 1;
      },
    });
    return Object.assign(log, {
      env,
      shard: this.shard,
      directory: this.directory,
      lastSeq: Infinity,
      options: this.options,
      writer: WalWriter.open(env, this.directory, this.options, recovery),
    });
  }

  get tail(): LogTail {
    return new LogTail(this.env, this.directory, STORE_ID, this.shard);
  }

  limits(durable = false): FeedLimits {
    const { publishedSeq, lastSeq } = this;
    return {
      publishedSeq: Math.min(publishedSeq, lastSeq),
      lastSeq,
      syncedLsn: this.writer.syncedLsn,
      durable,
    };
  }
}

/** Of joined records. */
function recordCount(bytes: Buffer): number {
  if (bytes[0] !== OperationKind.Put && bytes[0] !== OperationKind.Delete) return 1;
  let count = 1;
  for (let at = 0; (bytes[at + 1]! & OPERATION_JOINED) !== 0; count++) {
    const extension = bytes[at + 1]! >= OPERATION_EXTENDED ? OPERATION_EXTENSION_BYTES : 0;
    at += operationBytes(bytes.readUInt16LE(at + 2), bytes.readUInt32LE(at + 4), extension);
  }
  return count;
}

/** LSNs that come now. */
export function lsnsOf(log: ShardLog, source: FeedSource, durable = false): number[] {
  const lsns: number[] = [];
  for (;;) {
    const frame = source.next(log.limits(durable));
    if (frame !== undefined) lsns.push(frame.lsn);
    else if (!source.isSearching) return lsns;
  }
}

/** One change as text: `3 put a=1`; of a transaction or batch with its place: `(7 1/2) 7 put a=1`. */
export interface Row {
  readonly text: string;
  /** Behind it. */
  readonly positions: readonly FeedPosition[];
}

export function storeFeedOf(
  logs: readonly ShardLog[],
  positions: readonly FeedPosition[],
  filter: FeedFilter = ALL,
): StoreFeed {
  return new StoreFeed(
    logs.map((log, shard) => new ShardFeed(shard, log.tail, filter, positions[shard]!)),
    undefined,
  );
}

/** Everything that comes now, a unit a row. */
export function unitsOf(logs: readonly ShardLog[], feed: StoreFeed): Row[] {
  const rows: Row[] = [];
  for (;;) {
    const outcome = feed.next((shard) => logs[shard]!.limits());
    if (outcome === 'end' || outcome === 'stuck') return rows;
    if (outcome === 'more') continue;
    const changes: string[] = [];
    for (const part of feed.ready) {
      for (const { change } of part.changes()) {
        const { kind, isExpiry, bytes, keyAt, keyLength, value, valueAt, valueLength, seq, low, high } = change;
        const key = bytes.toString('utf8', keyAt, keyAt + keyLength);
        if (kind === 'put') changes.push(`${seq} put ${key}=${value.toString('utf8', valueAt, valueAt + valueLength)}`);
        else if (kind === 'del') changes.push(`${seq} ${isExpiry ? 'expired' : 'del'} ${key}`);
        else changes.push(`${seq} clear ${String(low)}..${String(high)}`);
      }
    }
    feed.done();
    rows.push({ text: changes.join(', '), positions: feed.positions });
  }
}

export function beginningOf(logs: readonly ShardLog[]): FeedPosition[] {
  return logs.map((log) => log.tail.beginning());
}

export function textsOf(logs: readonly ShardLog[], positions = beginningOf(logs)): string[] {
  return unitsOf(logs, storeFeedOf(logs, positions)).map(({ text }) => text);
}
