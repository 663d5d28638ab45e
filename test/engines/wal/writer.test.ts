import { beforeEach, describe, expect, test } from 'vitest';
import { WalWriter } from '../../../dist/engines/wal/writer.js';
import type { WalOptions } from '../../../dist/engines/wal/writer.js';
import { inspectSegment } from '../../../dist/engines/wal/inspect.js';
import {
  FRAME_HEADER_BYTES,
  SEGMENT_HEADER_BYTES,
  TERMINATOR_BYTES,
  frameBytes,
  segmentName,
} from '../../../dist/engines/wal/format.js';
import { preallocateSegment } from '../../../dist/engines/wal/preallocate.js';
import { FaultEnv } from '../../../dist/shared/env/fault-env.js';
import { MemEnv } from '../../../dist/shared/env/mem-env.js';
import {
  DIRECTORY,
  SMALL,
  append,
  appendMany,
  failure,
  lsns,
  payloadOf,
  readFile,
  recover,
  segmentPaths,
  withFixedSurroundings,
  writeFile,
} from './wal-scene.js';
import { expectGolden } from '../../shared/codec/golden-file.js';

const SEGMENT_BYTES = SMALL.segmentBytes!;
/** The largest payload that fits a segment of its own. */
const FULL = SEGMENT_BYTES - SEGMENT_HEADER_BYTES - FRAME_HEADER_BYTES;

let env: MemEnv;
beforeEach(() => {
  env = new MemEnv();
  env.makeDirectory(DIRECTORY);
});

describe('a frame', () => {
  test('has the documented bytes', () => {
    const fixed = withFixedSurroundings(env, 1_700_000_000_000, 0x5a);
    const writer = WalWriter.create(fixed, DIRECTORY, SMALL, 2 ** 40 + 7);
    append(writer, Buffer.from('hello log'), 2 ** 41 + 1, 2);
    writer.sync();
    append(writer, Buffer.alloc(0), 2 ** 41 + 3, 0);
    writer.writeOut();
    const bytes = readFile(env, `${DIRECTORY}/${segmentName(1)}`);
    const field = (from: number, to: number, what: string): [string, string] => [bytes.toString('hex', from, to), what];
    const frame = (at: number, payloadBytes: number): [string, string][] => [
      field(at, at + 4, `frame at ${at}: header crc`),
      field(at + 4, at + 8, 'payload crc'),
      field(at + 8, at + 12, 'payload bytes'),
      field(at + 12, at + 16, 'generation'),
      field(at + 16, at + 24, 'lsn'),
      field(at + 24, at + 32, 'synced lsn'),
      field(at + 32, at + 40, 'first sequence number'),
      field(at + 40, at + 44, 'operation count'),
      field(at + 44, at + 48, 'zero'),
      ...(payloadBytes > 0 ? [field(at + 48, at + frameBytes(payloadBytes), 'payload "hello log" and padding')] : []),
    ];
    const second = SEGMENT_HEADER_BYTES + frameBytes(9);
    expectGolden('wal-segment.txt', [
      field(0, 8, 'magic "CKV-WAL\\n"'),
      field(8, 12, 'format version'),
      field(12, 16, 'shard'),
      field(16, 32, 'store id'),
      field(32, 36, 'generation'),
      field(36, 40, 'flags: zeroed'),
      field(40, 48, 'first lsn'),
      field(48, 56, 'created at'),
      field(56, 64, 'salt'),
      field(4092, 4096, 'header crc; 4028 zero bytes before it'),
      ...frame(SEGMENT_HEADER_BYTES, 9),
      ...frame(second, 0),
      field(second + 48, second + 64, 'terminator'),
    ]);
    expect(bytes.subarray(64, 4092).every((byte) => byte === 0)).toBe(true);
  });

  test('keeps every payload size, also when the buffer must grow in the middle', () => {
    const writer = WalWriter.create(env, DIRECTORY, { ...SMALL, segmentBytes: 4 << 20 });
    const records = [];
    for (const payloadBytes of [0, 1, 7, 8, 9, 15, 16, 17, 300, 4095, 70_000, 262_096, 262_144, 1_500_000]) {
      const payload = payloadOf(writer.lastLsn + 1, payloadBytes);
      writer.begin();
      for (let from = 0; from < payloadBytes; from += 1000) {
        const piece = payload.subarray(from, from + 1000);
        writer.ensure(piece.length);
        writer.bytes.set(piece, writer.position);
        writer.position += piece.length;
      }
      const lsn = writer.commit(5, 1);
      records.push({ lsn, firstSeq: 5, operationCount: 1, payload: payload.toString('hex') });
    }
    writer.close();
    expect(recover(env).records).toEqual(records);
  });

  test('counts LSN and sequence numbers beyond 2^32', () => {
    const from = 2 ** 32 - 2;
    const writer = WalWriter.create(env, DIRECTORY, SMALL, from);
    const records = [0, 1, 2, 3].map((i) => append(writer, payloadOf(i, 10), 2 ** 47 + i, 0xffffffff));
    writer.close();
    expect(lsns(records)).toEqual([from, from + 1, from + 2, from + 3]);
    expect(recover(env, { fromLsn: from }).records).toEqual(records);
    const next = WalWriter.open(env, DIRECTORY, SMALL, recover(env, { fromLsn: from }));
    expect(append(next, payloadOf(9, 9)).lsn).toBe(from + 4);
  });

  test('that is discarded, or begun and never committed, leaves no trace', () => {
    const writer = WalWriter.create(env, DIRECTORY, SMALL);
    writer.begin();
    writer.ensure(10);
    writer.position += 10;
    writer.discard();
    writer.begin();
    writer.ensure(20);
    writer.position += 20;
    const record = append(writer, payloadOf(1, 5));
    expect(record.lsn).toBe(1);
    expect(() => writer.commit(1, 1)).toThrow('commit() without begin()');
    writer.close();
    expect(recover(env).records).toEqual([record]);
  });

  test('larger than the limit is refused with a code, and the next one is fine', () => {
    const writer = WalWriter.create(env, DIRECTORY, { ...SMALL, payloadBytesMax: 100 });
    writer.begin();
    writer.ensure(100);
    writer.position += 60;
    expect(failure(() => writer.ensure(41))).toMatchObject({ code: 'ERR_BATCH_TOO_LARGE', details: { limit: 100 } });
    expect(append(writer, payloadOf(1, 100)).lsn).toBe(1);
  });
});

describe('options', () => {
  test.each<Partial<WalOptions>>([
    { storeId: Buffer.alloc(3) },
    { shard: -1 },
    { shard: 1.5 },
    { segmentBytes: 4096 },
    { segmentBytes: (64 << 10) + 1 },
    { segmentBytes: 2 ** 31 },
    { payloadBytesMax: 0 },
    { payloadBytesMax: FULL + 1 },
    { preallocateBytes: 0 },
    { spareSegmentsMax: -1 },
  ])('%o is the caller’s mistake', (wrong) => {
    expect(() => WalWriter.create(env, DIRECTORY, { ...SMALL, ...wrong })).toThrow(
      expect.objectContaining({ code: 'ERR_INVALID_ARG' }),
    );
    expect(env.list(DIRECTORY)).toEqual([]);
  });

  test('a log is not created over another', () => {
    WalWriter.create(env, DIRECTORY, SMALL).close();
    expect(failure(() => WalWriter.create(env, DIRECTORY, SMALL)).code).toBe('ERR_EXISTS');
  });
});

describe('what is known', () => {
  test('last, written and synced LSN tell how far a frame has come', () => {
    const writer = WalWriter.create(env, DIRECTORY, SMALL);
    const state = (): number[] => [writer.lastLsn, writer.writtenLsn, writer.syncedLsn];
    expect(state()).toEqual([0, 0, 0]);
    append(writer, payloadOf(1, 10), 1, 1, true);
    expect(state()).toEqual([1, 0, 0]);
    append(writer, payloadOf(2, 10));
    expect(state()).toEqual([2, 2, 0]);
    append(writer, payloadOf(3, 10), 1, 1, true);
    writer.writeOut();
    expect(state()).toEqual([3, 3, 0]);
    append(writer, payloadOf(4, 10), 1, 1, true);
    writer.sync();
    expect(state()).toEqual([4, 4, 4]);
  });

  test('a buffered frame is in no file before the next write, and keeps its place in the order', () => {
    const writer = WalWriter.create(env, DIRECTORY, SMALL);
    const records = [append(writer, payloadOf(1, 10), 7, 1, true), append(writer, payloadOf(2, 300), 8, 1, true)];
    expect(recover(env).records).toEqual([]);
    records.push(append(writer, payloadOf(3, 20)));
    expect(recover(env).records).toEqual(records);
  });

  test('buffered frames are written when much has gathered', () => {
    const writer = WalWriter.create(env, DIRECTORY, { ...SMALL, segmentBytes: 8 << 20 });
    while (writer.lastLsn < 40) append(writer, payloadOf(writer.lastLsn + 1, 100_000), 1, 1, true);
    expect(writer.writtenLsn).toBeGreaterThan(20);
    expect(writer.writtenLsn).toBeLessThan(40);
    const { writtenLsn } = writer;
    expect(recover(env).lastLsn).toBe(writtenLsn);
    writer.close();
    expect(recover(env).lastLsn).toBe(40);
  });

  test('after close everything is refused with ERR_CLOSED, and close itself is harmless', () => {
    const writer = WalWriter.create(env, DIRECTORY, SMALL);
    append(writer, payloadOf(1, 10), 1, 1, true);
    writer.close();
    writer.close();
    for (const call of [() => writer.begin(), () => writer.sync(), () => writer.writeOut(), () => writer.truncate(1)]) {
      expect(failure(call).code).toBe('ERR_CLOSED');
    }
    expect(recover(env).lastLsn).toBe(1);
  });
});

describe('the change of segments', () => {
  test.each([
    ['exactly at the boundary stays in one segment', FULL - frameBytes(100), 1],
    ['eight bytes further goes to the next', FULL - frameBytes(100) + 1, 2],
  ])('a frame that ends %s', (_, payloadBytes, segmentCount) => {
    for (const buffered of [false, true]) {
      env = new MemEnv();
      env.makeDirectory(DIRECTORY);
      const writer = WalWriter.create(env, DIRECTORY, SMALL);
      const records = [
        append(writer, payloadOf(1, 100), 1, 1, buffered),
        append(writer, payloadOf(2, payloadBytes), 2, 1, buffered),
      ];
      expect(writer.segmentCount).toBe(segmentCount);
      records.push(append(writer, payloadOf(3, 100), 3, 1, buffered));
      expect(writer.segmentCount).toBe(segmentCount + 1);
      writer.writeOut();
      for (const mode of ['tolerate-torn-tail', 'strict', 'salvage'] as const) {
        expect(recover(env, { mode })).toMatchObject({ records, cut: undefined, losses: [] });
      }
      for (const path of segmentPaths(env)) expect(readFile(env, path).length).toBeLessThanOrEqual(SEGMENT_BYTES);
    }
  });

  test.each([0, 8, 16, 24, 40, 48, 56])('%i free bytes at the end of a segment are read right', (free) => {
    const writer = WalWriter.create(env, DIRECTORY, SMALL);
    const records = [append(writer, payloadOf(1, FULL - free))];
    records.push(append(writer, payloadOf(2, 9)));
    expect(writer.segmentCount).toBe(2);
    writer.close();
    expect(recover(env, { mode: 'strict' }).records).toEqual(records);
  });

  test('the old segment is durable before the new one exists', () => {
    const writer = WalWriter.create(env, DIRECTORY, SMALL);
    append(writer, payloadOf(1, FULL));
    expect(writer.syncedLsn).toBe(0);
    append(writer, payloadOf(2, 10));
    expect(writer.syncedLsn).toBe(1);
    const [, second] = segmentPaths(env);
    expect(inspectSegment(env, second!).frames[0]!.syncedLsn).toBe(1);
  });

  test('sizes and counts follow', () => {
    const writer = WalWriter.create(env, DIRECTORY, SMALL);
    expect(writer).toMatchObject({ segmentCount: 1, sizeBytes: SEGMENT_HEADER_BYTES });
    append(writer, payloadOf(1, FULL));
    expect(writer).toMatchObject({ segmentCount: 1, sizeBytes: SEGMENT_BYTES, currentSegmentFill: 1 });
    append(writer, payloadOf(2, 16));
    const sizeBytes = SEGMENT_BYTES + SEGMENT_HEADER_BYTES + frameBytes(16);
    expect(writer).toMatchObject({ segmentCount: 2, sizeBytes });
    writer.close();
    const reopened = WalWriter.open(env, DIRECTORY, SMALL, recover(env));
    expect(reopened).toMatchObject({ segmentCount: 3, sizeBytes: sizeBytes + SEGMENT_HEADER_BYTES });
  });
});

/** Of all files of the log. */
function bytesOnDisk(): number {
  return env.list(DIRECTORY).reduce((sum, name) => sum + readFile(env, `${DIRECTORY}/${name}`).length, 0);
}

describe('spares', () => {
  test('are wanted from the middle of a segment on, and used for the next', () => {
    const writer = WalWriter.create(env, DIRECTORY, SMALL);
    for (let lsn = 1; lsn <= 4; lsn++) {
      append(writer, payloadOf(lsn, 100));
      writer.sync();
    }
    expect(writer.wantsSpare()).toBe(false);
    append(writer, payloadOf(5, FULL / 2 + 3000));
    expect(writer.wantsSpare()).toBe(true);
    const path = preallocateSegment(env, DIRECTORY, SEGMENT_BYTES);
    expect(writer.offerSpare(path)).toBe(true);
    expect(writer.offerSpare(path)).toBe(false);
    expect(writer.wantsSpare()).toBe(false);
    expect(writer.spareCount).toBe(1);
    append(writer, payloadOf(6, FULL));
    expect(writer.spareCount).toBe(0);
    expect(env.exists(path)).toBe(false);
    const current = inspectSegment(env, segmentPaths(env)[1]!);
    expect(current).toMatchObject({ fileBytes: SEGMENT_BYTES, header: { zeroed: true } });
    writer.close();
    expect(recover(env).lastLsn).toBe(6);
  });

  test('are of no use to a log that is hardly ever synced: its new files grow with their frames', () => {
    const writer = WalWriter.create(env, DIRECTORY, SMALL);
    const fill = (syncs: number): void => {
      append(writer, payloadOf(writer.lastLsn + 1, FULL / 2));
      for (let i = 0; i < syncs; i++) {
        append(writer, payloadOf(writer.lastLsn + 1, 3000));
        writer.sync();
      }
    };
    const fileBytes = (): number => readFile(env, segmentPaths(env).at(-1)!).length;
    append(writer, payloadOf(1, FULL - 100));
    expect(writer.wantsSpare()).toBe(false);
    expect(fileBytes()).toBe(SEGMENT_HEADER_BYTES + frameBytes(FULL - 100) + 16);
    append(writer, payloadOf(2, FULL / 2 + 100));
    expect(writer.wantsSpare()).toBe(false);
    expect(fileBytes()).toBe(SEGMENT_HEADER_BYTES + frameBytes(FULL / 2 + 100) + 16);
    // The third one is synced often: it and the fourth are prepared.
    fill(5);
    expect(writer.segmentCount).toBe(3);
    expect(writer.wantsSpare()).toBe(true);
    fill(0);
    expect(writer.segmentCount).toBe(4);
    expect(writer.wantsSpare()).toBe(true);
    fill(3);
    expect(writer).toMatchObject({ segmentCount: 5 });
    expect(writer.wantsSpare()).toBe(false);
    writer.close();
    expect(recover(env, { mode: 'strict' }).lastLsn).toBe(writer.lastLsn);
  });

  test('too many, of a wrong size, vanished or foreign ones are not taken', () => {
    const writer = WalWriter.create(env, DIRECTORY, { ...SMALL, spareSegmentsMax: 1 });
    const large = preallocateSegment(env, DIRECTORY, 2 * SEGMENT_BYTES);
    expect(writer.offerSpare(large)).toBe(false);
    expect(env.exists(large)).toBe(false);
    expect(writer.offerSpare(preallocateSegment(env, DIRECTORY, SEGMENT_BYTES))).toBe(true);
    const second = preallocateSegment(env, DIRECTORY, SEGMENT_BYTES);
    expect(writer.offerSpare(second)).toBe(false);
    expect(env.exists(second)).toBe(false);
    expect(writer.offerSpare(second)).toBe(false);
    for (const path of ['/elsewhere/wal-00.spare', `${DIRECTORY}/${segmentName(1)}`, `${DIRECTORY}/x/wal-00.spare`]) {
      expect(() => writer.offerSpare(path)).toThrow(expect.objectContaining({ code: 'ERR_INVALID_ARG' }));
    }
    expect(() => preallocateSegment(env, DIRECTORY, 10)).toThrow(expect.objectContaining({ code: 'ERR_INVALID_ARG' }));
  });

  test('left by an earlier process are used; unfinished ones are removed', () => {
    WalWriter.create(env, DIRECTORY, SMALL).close();
    const spare = preallocateSegment(env, DIRECTORY, SEGMENT_BYTES);
    writeFile(env, `${DIRECTORY}/wal-00ff.tmp`, Buffer.alloc(100));
    writeFile(env, `${DIRECTORY}/wal-00ff.spare`, Buffer.alloc(100));
    const writer = WalWriter.open(env, DIRECTORY, SMALL, recover(env));
    expect(env.exists(spare)).toBe(false);
    expect(env.list(DIRECTORY)).toEqual(['wal-0000000001.spare', 'wal-0000000002.log']);
    expect(append(writer, payloadOf(1, 10)).lsn).toBe(1);
    expect(recover(env).lastLsn).toBe(1);
  });

  test('a preparation that outlives its writer cannot touch a segment in use', () => {
    const first = WalWriter.create(env, DIRECTORY, SMALL);
    let second: WalWriter | undefined;
    // The new writer opens while the old order is half done.
    const slow = withFixedSurroundings(env, 0, 0xab);
    const renameLate = {
      ...slow,
      rename: (from: string, to: string): void => {
        first.close();
        second = WalWriter.open(env, DIRECTORY, SMALL, recover(env));
        slow.rename(from, to);
      },
    };
    expect(failure(() => preallocateSegment(renameLate, DIRECTORY, SEGMENT_BYTES)).code).toBe('ERR_IO');
    const record = append(second!, payloadOf(1, 10));
    second!.close();
    expect(recover(env).records).toEqual([record]);
  });
});

describe('truncate', () => {
  test('frees whole segments, keeps a bounded number as spares and removes the rest', () => {
    const writer = WalWriter.create(env, DIRECTORY, { ...SMALL, spareSegmentsMax: 2 });
    const records = Array.from({ length: 6 }, (_, i) => append(writer, payloadOf(i + 1, FULL)));
    expect(writer.segmentCount).toBe(6);
    writer.truncate(0);
    expect(writer.segmentCount).toBe(6);
    writer.truncate(1);
    expect(writer).toMatchObject({ segmentCount: 5, spareCount: 1 });
    writer.truncate(4);
    expect(writer).toMatchObject({ segmentCount: 2, spareCount: 2, sizeBytes: 2 * SEGMENT_BYTES });
    expect(env.list(DIRECTORY)).toHaveLength(4);
    expect(recover(env, { fromLsn: 5 }).records).toEqual(records.slice(4));
    writer.truncate(5);
    expect(writer.segmentCount).toBe(1);
    expect(recover(env, { fromLsn: 6 }).records).toEqual(records.slice(5));
  });

  test('of all that there is leaves one small segment and nothing ready', () => {
    const writer = WalWriter.create(env, DIRECTORY, { ...SMALL, spareSegmentsMax: 2 });
    appendMany(writer, 5, FULL);
    writer.truncate(4);
    writer.offerSpare(preallocateSegment(env, DIRECTORY, SEGMENT_BYTES));
    expect(writer.spareCount).toBe(2);
    writer.truncate(1000, true);
    while (writer.hasUnneeded) writer.removeUnneeded();
    expect(writer).toMatchObject({ segmentCount: 1, spareCount: 0, sizeBytes: SEGMENT_HEADER_BYTES });
    expect(bytesOnDisk()).toBe(SEGMENT_HEADER_BYTES + TERMINATOR_BYTES);
    expect(recover(env, { fromLsn: 6, mode: 'strict' })).toMatchObject({ lastLsn: 5, frames: 0 });
    const record = append(writer, payloadOf(6, 100));
    writer.close();
    expect(recover(env, { fromLsn: 6, mode: 'strict' }).records).toEqual([record]);
  });

  test('of all that there is makes nothing ready either where syncs are waited for, until some have been again', () => {
    const writer = WalWriter.create(env, DIRECTORY, { ...SMALL, preallocateBytes: SEGMENT_BYTES });
    const appendSynced = (lsn: number): void => {
      append(writer, payloadOf(lsn, 100));
      writer.sync();
    };
    for (let lsn = 1; lsn <= 6; lsn++) appendSynced(lsn);
    expect(bytesOnDisk()).toBe(SEGMENT_BYTES);
    writer.truncate(6);
    expect(bytesOnDisk()).toBe(SEGMENT_HEADER_BYTES + TERMINATOR_BYTES);
    for (let lsn = 7; lsn <= 12; lsn++) appendSynced(lsn);
    expect(bytesOnDisk()).toBe(SEGMENT_BYTES);
  });

  test('leaves the current segment as long as a record is only in the buffer, or a new one cannot be had', () => {
    const faults = new FaultEnv(env);
    const writer = WalWriter.create(faults, DIRECTORY, SMALL);
    appendMany(writer, 2, 1000);
    append(writer, payloadOf(3, 1000), 103, 1, true);
    writer.truncate(3);
    expect(writer.sizeBytes).toBeGreaterThan(2000);
    writer.writeOut();
    const full = faults.addRule({ operation: 'create', error: 'ENOSPC' });
    writer.truncate(3);
    expect(writer.failure).toBeUndefined();
    expect(recover(env).lastLsn).toBe(3);
    full.remove();
    expect(append(writer, payloadOf(4, 1000)).lsn).toBe(4);
    writer.truncate(4);
    expect(writer.sizeBytes).toBe(SEGMENT_HEADER_BYTES);
    writer.close();
    expect(recover(env, { fromLsn: 5 }).lastLsn).toBe(4);
  });

  test('a segment stays as long as one of its records is needed', () => {
    const writer = WalWriter.create(env, DIRECTORY, SMALL);
    const records = appendMany(writer, 9, 20_000);
    expect(writer.segmentCount).toBe(3);
    for (let lsn = 1; lsn <= 9; lsn++) {
      writer.truncate(lsn);
      expect(recover(env, { fromLsn: lsn + 1 }).records).toEqual(records.slice(lsn));
      expect(writer.segmentCount).toBe(lsn < 3 ? 3 : lsn < 6 ? 2 : 1);
    }
  });

  test('recycled segments never replay what they held before, over many lives', () => {
    const writer = WalWriter.create(env, DIRECTORY, { ...SMALL, spareSegmentsMax: 2 });
    for (let life = 0; life < 30; life++) {
      const fromLsn = writer.lastLsn + 1;
      const records = appendMany(writer, 1 + (life % 5), 9_000 + (life % 3));
      writer.writeOut();
      const recovery = recover(env, { fromLsn, mode: 'strict' });
      expect(recovery.records).toEqual(records);
      expect(recovery.cut).toBeUndefined();
      writer.truncate(writer.lastLsn - 1);
    }
    expect(env.list(DIRECTORY).length).toBeLessThanOrEqual(4);
  });
});

test('a log that is closed has nothing ready behind its last record', () => {
  const writer = WalWriter.create(env, DIRECTORY, { ...SMALL, preallocateBytes: SEGMENT_BYTES });
  for (let lsn = 1; lsn <= 6; lsn++) {
    append(writer, payloadOf(lsn, 100));
    writer.sync();
  }
  append(writer, payloadOf(7, 100));
  expect(readFile(env, segmentPaths(env).at(-1)!)).toHaveLength(SEGMENT_BYTES);
  writer.close();
  expect(readFile(env, segmentPaths(env).at(-1)!)).toHaveLength(
    SEGMENT_HEADER_BYTES + 7 * frameBytes(100) + TERMINATOR_BYTES,
  );
  expect(recover(env, { mode: 'strict' }).lastLsn).toBe(7);
});

describe('segments kept for readers', () => {
  const KEPT = 3 * SEGMENT_BYTES;

  test('are all that there is of a log of which nothing is needed', () => {
    const writer = WalWriter.create(env, DIRECTORY, { ...SMALL, spareSegmentsMax: 2, retainBytes: KEPT });
    const records = appendMany(writer, 5, 1000);
    writer.truncate(5);
    expect(writer).toMatchObject({ segmentCount: 1, sizeBytes: SEGMENT_HEADER_BYTES, retainedBytes: SEGMENT_BYTES });
    expect(recover(env).records).toEqual(records);
  });

  test('are never fewer for that: a segment that is more than they may be stays', () => {
    const writer = WalWriter.create(env, DIRECTORY, { ...SMALL, retainBytes: 20_000 });
    const records = appendMany(writer, 5, 5000);
    writer.truncate(5);
    expect(writer.sizeBytes).toBeGreaterThan(25_000);
    expect(recover(env).records).toEqual(records);
    // Nor is one given up that would fit, but counts for more than they may be.
    writer.retain(SEGMENT_BYTES - 1);
    writer.truncate(5);
    expect(writer.sizeBytes).toBeGreaterThan(25_000);
    expect(recover(env).records).toEqual(records);
  });

  test('are the newest that fit, oldest first to go, and no recovery needs or counts them', () => {
    const writer = WalWriter.create(env, DIRECTORY, { ...SMALL, spareSegmentsMax: 0, retainBytes: KEPT });
    const records = Array.from({ length: 8 }, (_, i) => append(writer, payloadOf(i + 1, FULL)));
    writer.truncate(2);
    expect(writer).toMatchObject({ segmentCount: 6, retainedBytes: 2 * SEGMENT_BYTES, sizeBytes: 6 * SEGMENT_BYTES });
    expect(recover(env).records).toEqual(records);
    writer.truncate(6);
    expect(writer).toMatchObject({ segmentCount: 2, retainedBytes: KEPT, sizeBytes: 2 * SEGMENT_BYTES });
    expect(recover(env, { fromLsn: 4 }).records).toEqual(records.slice(3));
    expect(env.list(DIRECTORY)).toHaveLength(5);
  });

  test('outlive the writer, and are trimmed to what the next one keeps', () => {
    const first = WalWriter.create(env, DIRECTORY, { ...SMALL, spareSegmentsMax: 0, retainBytes: KEPT });
    const records = Array.from({ length: 6 }, (_, i) => append(first, payloadOf(i + 1, FULL)));
    first.truncate(4);
    first.close();
    const second = WalWriter.open(env, DIRECTORY, { ...SMALL, retainBytes: KEPT }, recover(env, { fromLsn: 5 }));
    expect(second).toMatchObject({ segmentCount: 3, retainedBytes: KEPT });
    expect(second.sizeBytes).toBeLessThan(3 * SEGMENT_BYTES);
    second.close();
    expect(recover(env, { fromLsn: 2 }).records).toEqual(records.slice(1));
    const third = WalWriter.open(env, DIRECTORY, SMALL, recover(env, { fromLsn: 5 }));
    expect(third.retainedBytes).toBe(0);
    expect(failure(() => recover(env)).code).toBe('ERR_CORRUPT');
    expect(recover(env, { fromLsn: 5 }).records).toEqual(records.slice(4));
  });

  test('are fewer from the moment on at which fewer are wanted', () => {
    const writer = WalWriter.create(env, DIRECTORY, { ...SMALL, spareSegmentsMax: 0, retainBytes: KEPT });
    const records = Array.from({ length: 6 }, (_, i) => append(writer, payloadOf(i + 1, FULL)));
    writer.truncate(5);
    writer.retain(SEGMENT_BYTES);
    while (writer.hasUnneeded) {
      // One at a time, the oldest first: there is never a gap.
      writer.removeUnneeded();
      const first = readHeaderLsn(segmentPaths(env)[0]!);
      expect(recover(env, { fromLsn: first }).records).toEqual(records.slice(first - 1));
    }
    expect(writer.retainedBytes).toBe(SEGMENT_BYTES);
    expect(recover(env, { fromLsn: 5 }).records).toEqual(records.slice(4));
  });

  test('small files count as the smallest segment, so that there are never very many', () => {
    const writer = WalWriter.create(env, DIRECTORY, { ...SMALL, spareSegmentsMax: 0, retainBytes: KEPT });
    let last = writer;
    for (let life = 0; life < 10; life++) {
      appendMany(last, 1);
      const { lastLsn } = last;
      last.close();
      const options = { ...SMALL, spareSegmentsMax: 0, retainBytes: KEPT };
      last = WalWriter.open(env, DIRECTORY, options, recover(env, { fromLsn: lastLsn + 1 }));
    }
    expect(env.list(DIRECTORY).length).toBeLessThanOrEqual(5);
  });

  test('are none of those in which records are lost', () => {
    const writer = WalWriter.create(env, DIRECTORY, { ...SMALL, spareSegmentsMax: 0, retainBytes: KEPT });
    for (let i = 0; i < 4; i++) append(writer, payloadOf(i + 1, FULL));
    writer.close();
    const damaged = readFile(env, segmentPaths(env)[1]!);
    damaged.fill(7, SEGMENT_HEADER_BYTES + 100, SEGMENT_HEADER_BYTES + 200);
    writeFile(env, segmentPaths(env)[1]!, damaged);
    const recovery = recover(env, { mode: 'salvage' });
    expect(recovery.losses).toHaveLength(1);
    const next = WalWriter.open(env, DIRECTORY, { ...SMALL, spareSegmentsMax: 0, retainBytes: KEPT }, recovery);
    next.truncate(4);
    expect(next).toMatchObject({ retainedBytes: 0, segmentCount: 1 });
    expect(env.list(DIRECTORY)).toHaveLength(1);
  });

  function readHeaderLsn(path: string): number {
    return readFile(env, path).readUIntLE(40, 6);
  }
});
