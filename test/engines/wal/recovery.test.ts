import { beforeEach, describe, expect, test } from 'vitest';
import { WalWriter } from '../../../dist/engines/wal/writer.js';
import { inspectSegment, verifyWal } from '../../../dist/engines/wal/inspect.js';
import {
  SEGMENT_HEADER_BYTES,
  encodeSegmentHeader,
  frameBytes,
  segmentName,
} from '../../../dist/engines/wal/format.js';
import { crc32 } from '../../../dist/shared/checksum.js';
import { MemEnv } from '../../../dist/shared/env/mem-env.js';
import {
  DIRECTORY,
  SHARD,
  SMALL,
  STORE_ID,
  append,
  appendMany,
  failure,
  lsns,
  overwrite,
  payloadOf,
  readFile,
  recover,
  segmentPaths,
  truncateFile,
  writeFile,
} from './wal-scene.js';
import type { Record } from './wal-scene.js';

const MODES = ['tolerate-torn-tail', 'strict', 'point-in-time', 'salvage'] as const;
const PAYLOAD_BYTES = 37;
const FRAME_BYTES = frameBytes(PAYLOAD_BYTES);

let env: MemEnv;
beforeEach(() => {
  env = new MemEnv();
  env.makeDirectory(DIRECTORY);
});

/** Segment 1: frames 1-3. Segment 2: frames 4-7, of which 6 and 7 know that 5 was synced. Returns the records. */
function twoSegments(): Record[] {
  const first = WalWriter.create(env, DIRECTORY, SMALL);
  const records = appendMany(first, 3, PAYLOAD_BYTES);
  first.close();
  const second = WalWriter.open(env, DIRECTORY, SMALL, recover(env));
  records.push(...appendMany(second, 2, PAYLOAD_BYTES));
  second.sync();
  records.push(...appendMany(second, 1, PAYLOAD_BYTES));
  records.push(...appendMany(second, 1, PAYLOAD_BYTES));
  second.writeOut();
  // No close(): that would sync.
  return records;
}

const frameOffset = (index: number): number => SEGMENT_HEADER_BYTES + index * FRAME_BYTES;

describe('an undamaged log', () => {
  test.each(MODES)('gives back every record in order (%s)', (mode) => {
    const records = twoSegments();
    const recovery = recover(env, { mode });
    expect(recovery.records).toEqual(records);
    expect(recovery).toMatchObject({ lastLsn: 7, nextGeneration: 3, frames: 7, bytes: 7 * PAYLOAD_BYTES, losses: [] });
    expect(recovery.cut).toBeUndefined();
  });

  test('replays from the LSN that is asked for', () => {
    const records = twoSegments();
    for (let fromLsn = 1; fromLsn <= 8; fromLsn++) {
      expect(recover(env, { fromLsn }).records).toEqual(records.slice(fromLsn - 1));
    }
    const beyond = recover(env, { fromLsn: 50 });
    expect(beyond).toMatchObject({ frames: 0, lastLsn: 49 });
  });

  test('a directory without segments is an empty log, unless the store was in use before', () => {
    expect(recover(env)).toMatchObject({ frames: 0, lastLsn: 0, nextGeneration: 1, segments: [] });
    expect(failure(() => recover(env, { mustExist: true })).code).toBe('ERR_CORRUPT');
  });

  test('has no problems for verify', () => {
    twoSegments();
    const result = verifyWal(env, DIRECTORY, { storeId: STORE_ID, shard: SHARD, fromLsn: 1 });
    expect(result).toEqual({ frames: 7, lastLsn: 7, problems: [], cut: undefined });
  });

  test('the tail not known to be durable begins behind the last synced record', () => {
    twoSegments();
    const path = `${DIRECTORY}/${segmentName(2)}`;
    expect(recover(env).unsyncedTail).toEqual({ path, from: frameOffset(2), to: frameOffset(4) });
  });
});

describe('one flipped bit', () => {
  /** Runs `judge` with every byte of the file damaged in turn; `sparse`: of the long zero ranges only some. */
  function flipEach(path: string, judge: (offset: number) => void, sparse = false): void {
    const original = readFile(env, path);
    for (let offset = 0; offset < original.length; offset++) {
      const isFree = (offset >= 80 && offset < SEGMENT_HEADER_BYTES - 8) || offset > frameOffset(4) + 80;
      if (sparse && isFree && offset % 61 !== 0) continue;
      overwrite(env, path, offset, Uint8Array.of(original[offset]! ^ (1 << (offset % 8))));
      judge(offset);
      overwrite(env, path, offset, original.subarray(offset, offset + 1));
    }
  }
  /** Which of `count` frames an offset hits; undefined: the free space behind them. */
  const frameAt = (offset: number, count: number): number | undefined =>
    offset < frameOffset(count) ? Math.floor((offset - SEGMENT_HEADER_BYTES) / FRAME_BYTES) : undefined;

  test('in a finished segment is an error that names file, offset and record', () => {
    const records = twoSegments();
    const path = `${DIRECTORY}/${segmentName(1)}`;
    flipEach(path, (offset) => {
      if (offset < SEGMENT_HEADER_BYTES) {
        expect(failure(() => recover(env))).toMatchObject({ code: 'ERR_CORRUPT', details: { file: path } });
        return;
      }
      const frame = frameAt(offset, 3);
      if (frame === undefined) expect(recover(env).records).toEqual(records);
      else {
        const details = { file: path, offset: frameOffset(frame), lsn: 1 + frame };
        expect(failure(() => recover(env))).toMatchObject({ code: 'ERR_CORRUPT', details });
      }
    });
  });

  test('in the last segment is an error where data was synced, and a cut where it was not', () => {
    const records = twoSegments();
    const path = `${DIRECTORY}/${segmentName(2)}`;
    flipEach(path, (offset) => {
      const frame = offset < SEGMENT_HEADER_BYTES ? -1 : frameAt(offset, 4);
      if (frame === -1) {
        expect(failure(() => recover(env))).toMatchObject({ code: 'ERR_CORRUPT', details: { file: path } });
      } else if (frame === undefined) {
        expect(recover(env).records).toEqual(records);
      } else if (frame < 2) {
        const details = { file: path, offset: frameOffset(frame), lsn: 4 + frame };
        expect(failure(() => recover(env))).toMatchObject({ code: 'ERR_CORRUPT', details });
      } else {
        const recovery = recover(env);
        expect(recovery.records).toEqual(records.slice(0, 3 + frame));
        expect(recovery.cut).toMatchObject({ file: path, offset: frameOffset(frame), lsn: 4 + frame });
      }
    });
  });

  test('anywhere is an error in strict mode, except in the free space of a finished segment', () => {
    const records = twoSegments();
    for (const generation of [1, 2]) {
      flipEach(
        `${DIRECTORY}/${segmentName(generation)}`,
        (offset) => {
          if (generation === 1 && offset >= frameOffset(3))
            expect(recover(env, { mode: 'strict' }).records).toEqual(records);
          else expect(failure(() => recover(env, { mode: 'strict' })).code).toBe('ERR_CORRUPT');
        },
        true,
      );
    }
  });

  test('in point-in-time mode ends the replay at that record', () => {
    const records = twoSegments();
    for (const [generation, before, count] of [
      [1, 0, 3],
      [2, 3, 4],
    ] as const) {
      flipEach(
        `${DIRECTORY}/${segmentName(generation)}`,
        (offset) => {
          const recovery = recover(env, { mode: 'point-in-time' });
          const frame = offset < SEGMENT_HEADER_BYTES ? 0 : frameAt(offset, count);
          if (frame === undefined) expect(recovery.records).toEqual(records);
          else {
            expect(recovery.records).toEqual(records.slice(0, before + frame));
            expect(recovery.cut?.lsn).toBe(1 + before + frame);
          }
        },
        true,
      );
    }
  });

  test('costs exactly its record in salvage mode, and the loss is reported', () => {
    const records = twoSegments();
    for (const [generation, before, count] of [
      [1, 0, 3],
      [2, 3, 4],
    ] as const) {
      const path = `${DIRECTORY}/${segmentName(generation)}`;
      flipEach(
        path,
        (offset) => {
          const recovery = recover(env, { mode: 'salvage' });
          if (offset < SEGMENT_HEADER_BYTES) {
            expect(recovery.records).toEqual(generation === 1 ? records.slice(3) : records.slice(0, 3));
            const [lsnFrom, lsnTo] = generation === 1 ? [1, 3] : [4, undefined];
            expect(recovery.losses).toMatchObject([{ file: path, lsnFrom, lsnTo }]);
            return;
          }
          const frame = frameAt(offset, count);
          const lost = frame === undefined ? undefined : 1 + before + frame;
          expect(recovery.records).toEqual(records.filter((record) => record.lsn !== lost));
          // Behind the last record of all there is nothing to tell a loss from an end.
          if (lost === undefined || lost === 7) expect(recovery.losses).toEqual([]);
          else
            expect(recovery.losses).toMatchObject([
              { file: path, offset: frameOffset(frame!), lsnFrom: lost, lsnTo: lost },
            ]);
          if (lost === 7) expect(recovery.cut).toMatchObject({ file: path, lsn: 7 });
        },
        true,
      );
    }
  });
});

describe('a file cut short', () => {
  test('a finished segment without its last bytes is an error', () => {
    twoSegments();
    const path = `${DIRECTORY}/${segmentName(1)}`;
    const original = readFile(env, path);
    for (let length = 0; length < frameOffset(3); length++) {
      writeFile(env, path, original.subarray(0, length));
      expect(failure(() => recover(env)).code).toBe('ERR_CORRUPT');
    }
  });

  test('the last segment loses only the records that no longer stand in it whole', () => {
    const records = twoSegments();
    const path = `${DIRECTORY}/${segmentName(2)}`;
    const original = readFile(env, path);
    for (let length = 0; length < original.length; length++) {
      writeFile(env, path, original.subarray(0, length));
      if (length < SEGMENT_HEADER_BYTES) expect(failure(() => recover(env)).code).toBe('ERR_CORRUPT');
      else {
        const whole = Math.min(4, Math.floor((length - SEGMENT_HEADER_BYTES) / FRAME_BYTES));
        expect(recover(env).records).toEqual(records.slice(0, 3 + whole));
      }
    }
  });
});

describe('missing and foreign segments', () => {
  test('a segment missing in the middle is an error that names its neighbour', () => {
    twoSegments();
    WalWriter.open(env, DIRECTORY, SMALL, recover(env)).close();
    env.remove(`${DIRECTORY}/${segmentName(2)}`);
    const path = `${DIRECTORY}/${segmentName(1)}`;
    const error = failure(() => recover(env));
    expect(error).toMatchObject({ code: 'ERR_CORRUPT', details: { file: path, offset: frameOffset(3), lsn: 4 } });
    expect(error.message).toContain('begins with record 8');
    expect(recover(env, { mode: 'salvage' }).losses).toMatchObject([{ lsnFrom: 4, lsnTo: 7 }]);
    expect(recover(env, { mode: 'point-in-time' })).toMatchObject({ lastLsn: 3, cut: { lsn: 4 } });
  });

  test('a missing beginning is an error, unless a checkpoint covers it', () => {
    const records = twoSegments();
    env.remove(`${DIRECTORY}/${segmentName(1)}`);
    expect(failure(() => recover(env))).toMatchObject({ code: 'ERR_CORRUPT', details: { lsn: 1 } });
    expect(failure(() => recover(env, { fromLsn: 3 }))).toMatchObject({ code: 'ERR_CORRUPT', details: { lsn: 3 } });
    expect(recover(env, { fromLsn: 4 }).records).toEqual(records.slice(3));
    const salvaged = recover(env, { mode: 'salvage' });
    expect(salvaged.records).toEqual(records.slice(3));
    expect(salvaged.losses).toMatchObject([{ lsnFrom: 1, lsnTo: 3 }]);
    expect(recover(env, { mode: 'point-in-time' })).toMatchObject({ frames: 0, lastLsn: 0 });
  });

  test('damage in records that a checkpoint covers does not stop a recovery', () => {
    const records = twoSegments();
    overwrite(env, `${DIRECTORY}/${segmentName(2)}`, frameOffset(0) + 60, Uint8Array.of(0xff, 0xff, 0xff));
    expect(failure(() => recover(env, { fromLsn: 4 })).code).toBe('ERR_CORRUPT');
    expect(recover(env, { fromLsn: 5 }).records).toEqual(records.slice(4));
    expect(recover(env, { fromLsn: 7 }).records).toEqual(records.slice(6));
    expect(failure(() => recover(env, { fromLsn: 7, mode: 'strict' })).code).toBe('ERR_CORRUPT');
    // Segment 1 holds nothing of interest any more.
    overwrite(env, `${DIRECTORY}/${segmentName(1)}`, 0, Buffer.alloc(200, 0xee));
    expect(recover(env, { fromLsn: 5, mode: 'point-in-time' }).records).toEqual(records.slice(4));
  });

  test.each(MODES)('a log of another store or shard is refused (%s)', (mode) => {
    twoSegments();
    const other = Buffer.alloc(16, 1);
    expect(failure(() => recover(env, { mode, storeId: other }))).toMatchObject({ code: 'ERR_CORRUPT' });
    expect(failure(() => recover(env, { mode, storeId: other })).message).toContain(STORE_ID.toString('hex'));
    expect(failure(() => recover(env, { mode, shard: 9 })).message).toContain('belongs to shard 3, expected 9');
  });

  test.each(MODES)('an unknown format version is refused (%s)', (mode) => {
    twoSegments();
    const path = `${DIRECTORY}/${segmentName(2)}`;
    const header = readFile(env, path).subarray(0, SEGMENT_HEADER_BYTES);
    header.writeUInt32LE(2, 8);
    header.writeUInt32LE(crc32(header, 0, SEGMENT_HEADER_BYTES - 4), SEGMENT_HEADER_BYTES - 4);
    overwrite(env, path, 0, header);
    expect(failure(() => recover(env, { mode }))).toMatchObject({
      code: 'ERR_FORMAT_VERSION',
      details: { version: 2 },
    });
  });

  test('a segment under the name of another generation is refused', () => {
    twoSegments();
    env.rename(`${DIRECTORY}/${segmentName(2)}`, `${DIRECTORY}/${segmentName(5)}`);
    expect(failure(() => recover(env)).message).toContain('generation 2 inside, 5 in the name');
  });

  test('files of other names are none of its business', () => {
    const records = twoSegments();
    writeFile(env, `${DIRECTORY}/notes.txt`, Buffer.from('x'));
    writeFile(env, `${DIRECTORY}/wal-0000000009.spare`, Buffer.from('x'));
    writeFile(env, `${DIRECTORY}/wal-9.log`, Buffer.from('x'));
    expect(recover(env).records).toEqual(records);
  });
});

describe('a bad record among good ones', () => {
  const path = `${DIRECTORY}/${segmentName(2)}`;

  test('two bad records in a row are one loss', () => {
    const records = twoSegments();
    for (const frame of [1, 2]) overwrite(env, path, frameOffset(frame) + 50, Buffer.alloc(4, 0xaa));
    const recovery = recover(env, { mode: 'salvage' });
    expect(recovery.losses).toMatchObject([{ file: path, offset: frameOffset(1), lsnFrom: 5, lsnTo: 6 }]);
    expect(lsns(recovery.records)).toEqual([1, 2, 3, 4, 7]);
    expect(recovery.records.at(-1)).toEqual(records.at(-1));
  });

  test('salvage goes on in the next segment behind a damaged end', () => {
    const records = twoSegments();
    const first = `${DIRECTORY}/${segmentName(1)}`;
    overwrite(env, first, frameOffset(1), Buffer.alloc(2 * FRAME_BYTES, 0x77));
    const recovery = recover(env, { mode: 'salvage' });
    expect(recovery.losses).toMatchObject([{ file: first, offset: frameOffset(1), lsnFrom: 2, lsnTo: 3 }]);
    expect(recovery.records).toEqual([records[0], ...records.slice(3)]);
  });

  test('verify lists the first fault and those behind it', () => {
    twoSegments();
    const first = `${DIRECTORY}/${segmentName(1)}`;
    overwrite(env, first, frameOffset(1) + 50, Buffer.alloc(4, 0xaa));
    overwrite(env, path, frameOffset(1) + 50, Buffer.alloc(4, 0xaa));
    const { problems } = verifyWal(env, DIRECTORY, { storeId: STORE_ID, shard: SHARD, fromLsn: 1 });
    expect(problems).toMatchObject([
      { file: first, offset: frameOffset(1) },
      { file: path, offset: frameOffset(1) },
    ]);
  });

  test('verify does not call an unsynced tail a problem', () => {
    twoSegments();
    overwrite(env, path, frameOffset(2) + 50, Buffer.alloc(4, 0xaa));
    const result = verifyWal(env, DIRECTORY, { storeId: STORE_ID, shard: SHARD, fromLsn: 1 });
    expect(result).toMatchObject({ frames: 5, lastLsn: 5, problems: [], cut: { lsn: 6 } });
  });

  test('inspect lists frames and faults of one file', () => {
    twoSegments();
    overwrite(env, path, frameOffset(1) + 50, Buffer.alloc(4, 0xaa));
    const report = inspectSegment(env, path);
    expect(report.header).toMatchObject({ shard: SHARD, generation: 2, firstLsn: 4, zeroed: true });
    expect(report.frames.map(({ lsn, syncedLsn, offset }) => [lsn, syncedLsn, offset])).toEqual([
      [4, 3, frameOffset(0)],
      [6, 5, frameOffset(2)],
      [7, 5, frameOffset(3)],
    ]);
    expect(report.problems).toEqual([
      { file: path, offset: frameOffset(1), text: 'the payload of record 5 does not match its crc' },
    ]);
    expect(report.usedBytes).toBe(frameOffset(4));
  });

  test('a client that stores bytes of the log itself cannot make them count', () => {
    const writer = WalWriter.create(env, DIRECTORY, SMALL);
    append(writer, payloadOf(1, PAYLOAD_BYTES));
    const ownPath = `${DIRECTORY}/${segmentName(1)}`;
    // A frame made for a guessed salt: right generation, a later LSN, "synced up to 9".
    const forged = Buffer.alloc(48);
    forged.writeUInt32LE(1, 12);
    forged.writeUIntLE(10, 16, 6);
    forged.writeUIntLE(9, 24, 6);
    forged.writeUInt32LE(crc32(forged, 4, 44), 0);
    append(writer, Buffer.concat([forged, forged]));
    writer.writeOut();
    overwrite(env, ownPath, frameOffset(1) + 4, Buffer.alloc(4, 0xaa));
    expect(recover(env)).toMatchObject({ lastLsn: 1, cut: { lsn: 2 } });
    expect(lsns(recover(env, { mode: 'salvage' }).records)).toEqual([1]);
  });

  test('a segment full of near-headers is scanned in bounded time', () => {
    const writer = WalWriter.create(env, DIRECTORY, { ...SMALL, segmentBytes: 8 << 20, preallocateBytes: 8 << 20 });
    append(writer, payloadOf(1, PAYLOAD_BYTES));
    writer.writeOut();
    const junk = Buffer.alloc(8 << 20);
    for (let at = 0; at < junk.length; at += 8) junk.writeUInt32LE(1, at + 4);
    overwrite(env, `${DIRECTORY}/${segmentName(1)}`, frameOffset(1), junk.subarray(frameOffset(1)));
    const startedMs = performance.now();
    expect(lsns(recover(env).records)).toEqual([1]);
    expect(performance.now() - startedMs).toBeLessThan(30_000);
  });
});

describe('behind a cut', () => {
  test('records that were cut are never replayed, however often the store crashes', () => {
    const writer = WalWriter.create(env, DIRECTORY, SMALL);
    const kept = appendMany(writer, 3, PAYLOAD_BYTES);
    appendMany(writer, 4, PAYLOAD_BYTES);
    writer.writeOut();
    const [firstPath] = segmentPaths(env);
    // Record 4 is torn; 5, 6 and 7 are whole and stay in the file.
    overwrite(env, firstPath!, frameOffset(3) + 50, Buffer.alloc(4, 0xaa));
    const cut = recover(env);
    expect(cut.records).toEqual(kept);
    expect(cut.cut).toMatchObject({
      lsn: 4,
      reason: expect.stringContaining('valid records behind it, the first is 5'),
    });

    const second = WalWriter.open(env, DIRECTORY, SMALL, cut);
    const records = [...kept, append(second, payloadOf(4, PAYLOAD_BYTES, 1))];
    second.writeOut();
    const again = recover(env);
    expect(again.records).toEqual(records);
    expect(again.cut).toBeUndefined();

    // The repaired byte makes the old record 4 whole again: it stays dead.
    overwrite(env, firstPath!, frameOffset(3) + 50, payloadOf(4, PAYLOAD_BYTES).subarray(2, 6));
    expect(recover(env).records).toEqual(records);
    const third = WalWriter.open(env, DIRECTORY, SMALL, again);
    records.push(...appendMany(third, 5, PAYLOAD_BYTES));
    third.writeOut();
    for (const mode of MODES) expect(recover(env, { mode }).records).toEqual(records);
  });

  test('a crash between the cut and the first new record changes nothing', () => {
    const writer = WalWriter.create(env, DIRECTORY, SMALL);
    const records = appendMany(writer, 3, PAYLOAD_BYTES);
    writer.writeOut();
    for (let round = 0; round < 5; round++) {
      WalWriter.open(env, DIRECTORY, SMALL, recover(env));
      expect(recover(env).records).toEqual(records);
    }
    // Segments without a record do not pile up.
    expect(segmentPaths(env)).toHaveLength(2);
  });

  test('after point-in-time the log goes on at the cut, and the abandoned segments stay dead', () => {
    const records = twoSegments();
    overwrite(env, `${DIRECTORY}/${segmentName(1)}`, frameOffset(1) + 50, Buffer.alloc(4, 0xaa));
    const recovery = recover(env, { mode: 'point-in-time' });
    expect(recovery.lastLsn).toBe(1);
    const writer = WalWriter.open(env, DIRECTORY, SMALL, recovery);
    const next = append(writer, payloadOf(2, PAYLOAD_BYTES, 1));
    writer.close();
    expect(recover(env).records).toEqual([records[0], next]);
  });

  test('a recovery that starts behind the end of the log leaves no gap', () => {
    twoSegments();
    // The checkpoint covers 20 records, of which power loss left 7.
    const writer = WalWriter.open(env, DIRECTORY, SMALL, recover(env, { fromLsn: 21 }));
    const record = append(writer, payloadOf(21, 9));
    expect(record.lsn).toBe(21);
    writer.close();
    expect(recover(env, { fromLsn: 21 }).records).toEqual([record]);
  });
});

describe('the end of a recycled segment', () => {
  /** A log whose current segment is a reused file full of old frames. */
  function recycled(): { writer: WalWriter; records: Record[] } {
    const writer = WalWriter.create(env, DIRECTORY, { ...SMALL, preallocateBytes: 64 << 10 });
    while (writer.segmentCount < 2) append(writer, payloadOf(writer.lastLsn + 1, 1000));
    writer.truncate(writer.lastLsn - 1);
    expect(writer.spareCount).toBe(1);
    while (writer.segmentCount < 2) append(writer, payloadOf(writer.lastLsn + 1, 1000));
    writer.truncate(writer.lastLsn - 1);
    const records = appendMany(writer, 3, 1000);
    writer.writeOut();
    return { writer, records };
  }

  test.each(MODES)('is recognised although old frames follow (%s)', (mode) => {
    const { writer } = recycled();
    const [path] = segmentPaths(env);
    expect(inspectSegment(env, path!).header.zeroed).toBe(false);
    const { firstLsn } = inspectSegment(env, path!).header;
    const recovery = recover(env, { mode, fromLsn: firstLsn });
    expect(recovery.lastLsn).toBe(writer.lastLsn);
    expect(recovery.cut).toBeUndefined();
  });

  test('a torn record there is a cut, and an error in strict mode', () => {
    const { records } = recycled();
    const [path] = segmentPaths(env);
    const { firstLsn } = inspectSegment(env, path!).header;
    const last = inspectSegment(env, path!).frames.at(-1)!;
    overwrite(env, path!, last.offset + 500, Buffer.alloc(4, 0xaa));
    const recovery = recover(env, { fromLsn: firstLsn });
    expect(recovery.cut).toMatchObject({ file: path, offset: last.offset, lsn: records.at(-1)!.lsn });
    expect(recovery.lastLsn).toBe(last.lsn - 1);
    expect(failure(() => recover(env, { fromLsn: firstLsn, mode: 'strict' })).code).toBe('ERR_CORRUPT');
  });

  test('old frames are not replayed even when a new one ends exactly where an old one begins', () => {
    const { records } = recycled();
    // Same payload size in both lives: every boundary coincides.
    const [path] = segmentPaths(env);
    const report = inspectSegment(env, path!);
    expect(report.problems).toEqual([]);
    expect(report.frames.at(-1)!.lsn).toBe(records.at(-1)!.lsn);
    // Without the terminator the old frame's header stands at the end of the new ones: still not replayed.
    const old = Buffer.alloc(48);
    old.writeUInt32LE(1, 12);
    old.writeUIntLE(records.at(-1)!.lsn + 1, 16, 6);
    overwrite(env, path!, report.usedBytes, old);
    expect(recover(env, { fromLsn: report.header.firstLsn }).lastLsn).toBe(records.at(-1)!.lsn);
  });
});

describe('input of any kind', () => {
  test('wrong arguments are the caller’s mistake', () => {
    for (const wrong of [
      { fromLsn: 0 },
      { fromLsn: 1.5 },
      { fromLsn: 2 ** 48 },
      { shard: -1 },
      { storeId: Buffer.alloc(15) },
    ]) {
      expect(() => recover(env, wrong)).toThrow(expect.objectContaining({ code: 'ERR_INVALID_ARG' }));
    }
  });

  test('a file larger than any segment is not loaded', () => {
    const header = Buffer.alloc(SEGMENT_HEADER_BYTES);
    encodeSegmentHeader(header, {
      storeId: STORE_ID,
      shard: SHARD,
      generation: 1,
      zeroed: true,
      firstLsn: 1,
      createdAt: 0,
      salt: Buffer.alloc(8),
    });
    const path = `${DIRECTORY}/${segmentName(1)}`;
    writeFile(env, path, header);
    const huge = {
      ...env,
      open: (name: string, mode: 'read') => {
        const file = env.open(name, mode);
        return {
          ...file,
          path: name,
          size: () => (1 << 30) + 1,
          read: file.read.bind(file),
          close: file.close.bind(file),
        };
      },
      list: env.list.bind(env),
    } as unknown as MemEnv;
    expect(failure(() => recover(huge))).toMatchObject({ code: 'ERR_CORRUPT', details: { file: path } });
  });

  test('an error of the reader of records stops the replay and passes through', () => {
    twoSegments();
    const stop = new Error('enough');
    let seen = 0;
    const onFrame = (): void => {
      if (++seen === 4) throw stop;
    };
    expect(() => recover(env, { onFrame })).toThrow(stop);
    expect(seen).toBe(4);
    truncateFile(env, `${DIRECTORY}/${segmentName(2)}`, SEGMENT_HEADER_BYTES);
    expect(recover(env).lastLsn).toBe(3);
  });
});
