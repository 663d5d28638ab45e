import { beforeEach, describe, expect, test } from 'vitest';
import { WalWriter } from '../../../dist/engines/wal/writer.js';
import { frameBytes, segmentName } from '../../../dist/engines/wal/format.js';
import { preallocateSegment } from '../../../dist/engines/wal/preallocate.js';
import { FaultEnv } from '../../../dist/shared/env/fault-env.js';
import { MemEnv } from '../../../dist/shared/env/mem-env.js';
import { Random } from '../../../dist/shared/random.js';
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
} from './wal-scene.js';

const SEGMENT_BYTES = SMALL.segmentBytes!;
const FULL = SEGMENT_BYTES - 4096 - 48;
const LOG = /\.log$/;

let disk: MemEnv;
let env: FaultEnv;
let writer: WalWriter;
beforeEach(() => {
  disk = new MemEnv();
  disk.makeDirectory(DIRECTORY);
  for (const path of ['/', '/store']) disk.syncDirectory(path);
  env = new FaultEnv(disk);
  writer = WalWriter.create(env, DIRECTORY, SMALL);
});

/** Disks that a power loss now could leave. */
function crashes(): MemEnv[] {
  return (['drop-all', 'keep-all', 'prefix', 'sectors', 'writes'] as const).map((data, seed) =>
    disk.crash(new Random(seed), { data, names: 'arbitrary' }),
  );
}

describe('a failed write', () => {
  const frame = frameBytes(500);

  test.each([0, 1, 47, 48, 100, 512, frame - 1, frame, frame + 16])(
    'of which %i bytes reached the file leaves no record, now or after a crash',
    (shortWriteBytes) => {
      const kept = appendMany(writer, 2, 500);
      env.addRule({ operation: 'write', path: LOG, times: 1, error: 'EIO', shortWriteBytes });
      expect(failure(() => append(writer, payloadOf(3, 500))).code).toBe('ERR_IO');
      expect(writer.failure).toBeUndefined();
      expect(writer).toMatchObject({ lastLsn: 2, writtenLsn: 2, syncedLsn: 2 });
      for (const state of [disk, ...crashes()]) expect(recover(state, { mode: 'strict' }).records).toEqual(kept);
      // The next frame takes the LSN and the place.
      const next = append(writer, payloadOf(3, 200, 7));
      expect(next.lsn).toBe(3);
      writer.sync();
      for (const state of [disk, ...crashes()])
        expect(recover(state, { mode: 'strict' }).records).toEqual([...kept, next]);
    },
  );

  test('keeps buffered frames for the next write and drops only the one that failed', () => {
    const kept = [append(writer, payloadOf(1, 30), 1, 1, true), append(writer, payloadOf(2, 30), 2, 1, true)];
    env.addRule({ operation: 'write', path: LOG, times: 2, error: 'EIO', shortWriteBytes: 400 });
    expect(failure(() => append(writer, payloadOf(3, 200))).code).toBe('ERR_IO');
    expect(failure(() => writer.writeOut()).code).toBe('ERR_IO');
    expect(writer).toMatchObject({ lastLsn: 2, writtenLsn: 0 });
    for (const state of [disk, ...crashes()]) expect(recover(state).records).toEqual([]);
    kept.push(append(writer, payloadOf(3, 10, 5)));
    writer.sync();
    for (const state of [disk, ...crashes()]) expect(recover(state).records).toEqual(kept);
  });

  test('that cannot be cut back ends the log', () => {
    const kept = appendMany(writer, 1);
    env.addRule({ operation: 'write', path: LOG, times: 1, error: 'EIO' });
    env.addRule({ operation: 'truncate', path: LOG, times: 1, error: 'EIO' });
    const error = failure(() => append(writer, payloadOf(2, 10)));
    expect(error).toMatchObject({ code: 'ERR_IO', message: expect.stringContaining('cut back') });
    expect(writer.failure).toBe(error);
    expect(failure(() => append(writer, payloadOf(2, 10))).code).toBe('ERR_IO');
    writer.close();
    expect(recover(disk).records).toEqual(kept);
  });
});

describe('a full disk', () => {
  test('fails the commit with ERR_DISK_FULL; with space again the log goes on', () => {
    const records = appendMany(writer, 2);
    env.fillDisk();
    for (let attempt = 0; attempt < 3; attempt++) {
      expect(failure(() => append(writer, payloadOf(3, 20))).code).toBe('ERR_DISK_FULL');
    }
    // Records that were written can still be read.
    expect(lsns(recover(disk).records)).toEqual([1, 2]);
    env.freeDisk();
    records.push(append(writer, payloadOf(3, 30)));
    writer.sync();
    for (const state of [disk, ...crashes()]) expect(recover(state).records).toEqual(records);
  });

  test('in which even cutting the file fails holds back sync, not the log', () => {
    const records = appendMany(writer, 2);
    env.addRule({ operation: 'write', path: LOG, times: 1, error: 'ENOSPC', shortWriteBytes: 500 });
    env.addRule({ operation: 'truncate', path: LOG, times: 3, error: 'ENOSPC' });
    expect(failure(() => append(writer, payloadOf(3, 100))).code).toBe('ERR_DISK_FULL');
    expect(failure(() => writer.sync()).code).toBe('ERR_DISK_FULL');
    expect(failure(() => append(writer, payloadOf(3, 10))).code).toBe('ERR_DISK_FULL');
    expect(writer.failure).toBeUndefined();
    writer.sync();
    for (const state of [disk, ...crashes()]) expect(recover(state).records).toEqual(records);
    records.push(append(writer, payloadOf(3, 10)));
    expect(recover(disk).records).toEqual(records);
  });

  test('at the change of segments leaves the old segment in use and no litter', () => {
    const records = [append(writer, payloadOf(1, FULL - 2000))];
    env.fillDisk();
    expect(failure(() => append(writer, payloadOf(2, 5000))).code).toBe('ERR_DISK_FULL');
    expect(writer.segmentCount).toBe(1);
    env.freeDisk();
    // A small one still fits the old segment.
    records.push(append(writer, payloadOf(2, 100)));
    records.push(append(writer, payloadOf(3, 5000)));
    expect(writer.segmentCount).toBe(2);
    writer.sync();
    for (const state of [disk, ...crashes()]) expect(recover(state).records).toEqual(records);
    expect(disk.list(DIRECTORY)).toEqual([segmentName(1), segmentName(2)]);
  });

  test('at a real limit of space is met at any place, and every acknowledged record survives', () => {
    for (let spaceBytes = 8 << 10; spaceBytes <= 200 << 10; spaceBytes += 7 << 10) {
      const small = new MemEnv({ capacityBytes: spaceBytes });
      small.makeDirectory(DIRECTORY);
      for (const path of ['/', '/store']) small.syncDirectory(path);
      let log;
      try {
        log = WalWriter.create(small, DIRECTORY, SMALL);
      } catch (error) {
        expect(error).toMatchObject({ code: 'ERR_DISK_FULL' });
        expect(small.list(DIRECTORY)).toEqual([]);
        continue;
      }
      const records = [];
      let failures = 0;
      for (let i = 0; i < 60; i++) {
        try {
          records.push(append(log, payloadOf(log.lastLsn + 1, 3000 + i)));
        } catch (error) {
          expect(error).toMatchObject({ code: 'ERR_DISK_FULL' });
          if (++failures === 3) small.setCapacity(1 << 20);
        }
      }
      log.sync();
      expect(log.failure).toBeUndefined();
      expect(records.length).toBeGreaterThan(0);
      expect(recover(small.crash(new Random(1), 'drop-all')).records).toEqual(records);
    }
  });

  test('stops a preparation of a spare without a trace', () => {
    env.fillDisk();
    expect(failure(() => preallocateSegment(env, DIRECTORY, SEGMENT_BYTES)).code).toBe('ERR_DISK_FULL');
    env.freeDisk();
    env.addRule({ operation: 'write', path: /tmp$/, times: 1, error: 'ENOSPC', shortWriteBytes: 5000 });
    expect(failure(() => preallocateSegment(env, DIRECTORY, SEGMENT_BYTES)).code).toBe('ERR_DISK_FULL');
    expect(disk.list(DIRECTORY)).toEqual([segmentName(1)]);
  });
});

describe('a failed sync', () => {
  test('ends the log: it is never tried again as if it had not failed', () => {
    const records = appendMany(writer, 2);
    env.addRule({ operation: 'sync', path: LOG, times: 1, error: 'EIO' });
    const error = failure(() => writer.sync());
    expect(error).toMatchObject({ code: 'ERR_IO', message: expect.stringContaining('could not be synced') });
    expect(writer.failure).toBe(error);
    expect(writer.syncedLsn).toBe(0);
    const syncs = env.count('sync');
    for (const call of [() => writer.begin(), () => writer.sync(), () => writer.writeOut(), () => writer.truncate(1)]) {
      expect(failure(call)).toMatchObject({
        code: 'ERR_IO',
        message: expect.stringContaining('accepts nothing since'),
      });
    }
    writer.close();
    expect(env.count('sync')).toBe(syncs);

    // The next writer writes the doubtful records anew before it counts them as synced.
    const path = segmentPaths(disk)[0]!;
    const before = readFile(disk, path);
    const writes: string[] = [];
    const watched = new FaultEnv(disk);
    const open = watched.open.bind(watched);
    watched.open = (name, mode) => {
      const file = open(name, mode);
      const write = file.write.bind(file);
      file.write = (from, start, length, position) => {
        writes.push(`${name} ${position} ${length}`);
        write(from, start, length, position);
      };
      return file;
    };
    const next = WalWriter.open(watched, DIRECTORY, SMALL, recover(disk));
    expect(writes[0]).toBe(`${path} 4096 ${2 * frameBytes(40)}`);
    expect(readFile(disk, path)).toEqual(before);
    expect(next.syncedLsn).toBe(2);
    for (const state of crashes()) expect(recover(state).records).toEqual(records);
  });

  test('at the change of segments ends the log too', () => {
    const records = [append(writer, payloadOf(1, FULL))];
    env.addRule({ operation: 'sync', path: LOG, times: 1, error: 'EIO' });
    expect(failure(() => append(writer, payloadOf(2, 10))).code).toBe('ERR_IO');
    expect(writer.failure).toBeDefined();
    expect(recover(disk).records).toEqual(records);
  });

  test('of a new segment’s header costs nothing but the attempt', () => {
    const records = [append(writer, payloadOf(1, FULL))];
    env.addRule({ operation: 'sync', path: /tmp$/, times: 1, error: 'EIO' });
    expect(failure(() => append(writer, payloadOf(2, 10))).code).toBe('ERR_IO');
    expect(writer.failure).toBeUndefined();
    records.push(append(writer, payloadOf(2, 10)));
    expect(recover(disk).records).toEqual(records);
    expect(disk.list(DIRECTORY)).toEqual([segmentName(1), segmentName(2)]);
  });

  test('of the directory after the new name ends the log, since either segment may be the last', () => {
    const records = [append(writer, payloadOf(1, FULL))];
    env.addRule({ operation: 'syncDirectory', times: 1, error: 'EIO' });
    expect(failure(() => append(writer, payloadOf(2, 10))).code).toBe('ERR_IO');
    expect(failure(() => append(writer, payloadOf(2, 10))).message).toContain('accepts nothing since');
    for (const state of [disk, ...crashes()]) {
      const recovery = recover(state);
      expect(recovery.records).toEqual(records);
      const next = WalWriter.open(state, DIRECTORY, SMALL, recovery);
      expect(append(next, payloadOf(2, 20)).lsn).toBe(2);
    }
  });
});

describe('a failed rename or removal', () => {
  test('of a new segment costs nothing but the attempt', () => {
    const records = [append(writer, payloadOf(1, FULL))];
    writer.offerSpare(preallocateSegment(env, DIRECTORY, SEGMENT_BYTES));
    env.addRule({ operation: 'rename', times: 1, error: 'EIO' });
    expect(failure(() => append(writer, payloadOf(2, 10))).code).toBe('ERR_IO');
    expect(writer.failure).toBeUndefined();
    records.push(append(writer, payloadOf(2, 10)));
    writer.sync();
    for (const state of [disk, ...crashes()]) expect(recover(state).records).toEqual(records);
  });

  test('in truncate is reported and harms neither the log nor later recoveries', () => {
    const records = Array.from({ length: 4 }, (_, i) => append(writer, payloadOf(i + 1, FULL)));
    env.addRule({ operation: ['rename', 'remove'], after: 1, times: 1, error: 'EIO' });
    expect(failure(() => writer.truncate(3)).code).toBe('ERR_IO');
    writer.sync();
    records.push(append(writer, payloadOf(5, 100)));
    writer.sync();
    for (const state of [disk, ...crashes()]) expect(recover(state, { fromLsn: 4 }).records).toEqual(records.slice(3));
    writer.close();
    const next = WalWriter.open(env, DIRECTORY, SMALL, recover(disk, { fromLsn: 4 }));
    next.truncate(5);
    expect(next.segmentCount).toBe(1);
    expect(segmentPaths(disk)).toHaveLength(1);
  });
});

describe('an error while reading', () => {
  test.each(['open', 'read', 'list'] as const)('%s passes through with its code', (operation) => {
    appendMany(writer, 2);
    writer.close();
    env.addRule({ operation, error: 'EIO' });
    expect(failure(() => recover(env)).code).toBe('ERR_IO');
    env.removeAllRules();
    env.addRule({ operation, error: 'EACCES' });
    expect(failure(() => recover(env)).code).toBe('ERR_PERMISSION');
  });
});

describe('a sync behind the thread’s back', () => {
  const EAGER = { ...SMALL, backgroundSyncBytes: 8 << 10 };
  const settled = (): Promise<void> =>
    new Promise((resolve) =>
      setImmediate(() => {
        setImmediate(resolve);
      }),
    );
  beforeEach(() => {
    writer.close();
    writer = WalWriter.open(env, DIRECTORY, EAGER, recover(disk));
  });

  test('makes durable what was written before it began, and says so only when it has ended', async () => {
    const records = appendMany(writer, 3, 3000);
    const early = writer.lastLsn;
    records.push(append(writer, payloadOf(4, 100)));
    expect(writer.syncedLsn).toBe(0);
    expect(lsns(recover(disk.crash(new Random(1), 'drop-all')).records)).toEqual([]);
    await settled();
    expect(writer.syncedLsn).toBe(early);
    expect(recover(disk.crash(new Random(1), 'drop-all')).records).toEqual(records.slice(0, early));
    // From now on a loss of these is damage: the next record says that they were durable.
    records.push(append(writer, payloadOf(5, 100)));
    expect(recover(disk).records).toEqual(records);
    for (const state of crashes()) expect(recover(state).lastLsn).toBeGreaterThanOrEqual(early);
  });

  test('is one at a time, and the next one begins with the next write', async () => {
    const before = env.count('sync');
    appendMany(writer, 15, 3000);
    expect(env.count('sync')).toBe(before + 1);
    await settled();
    appendMany(writer, 1, 100);
    expect(env.count('sync')).toBe(before + 2);
    await settled();
    expect(writer.syncedLsn).toBe(writer.lastLsn);
    // Nothing is left for the caller's own.
    writer.sync();
    expect(env.count('sync')).toBe(before + 2);
  });

  test('that fails ends the log as any failed sync does', async () => {
    const records = appendMany(writer, 2, 3000);
    const rule = env.addRule({ operation: 'sync', path: LOG, times: 1, error: 'EIO' });
    records.push(append(writer, payloadOf(3, 3000)));
    expect(rule.firedCount).toBe(1);
    await settled();
    expect(writer.failure).toMatchObject({ code: 'ERR_IO', message: expect.stringContaining('could not be synced') });
    expect(writer.syncedLsn).toBe(0);
    const syncs = env.count('sync');
    for (const call of [() => writer.begin(), () => writer.sync(), () => writer.writeOut(), () => writer.truncate(1)]) {
      expect(failure(call)).toMatchObject({
        code: 'ERR_IO',
        message: expect.stringContaining('accepts nothing since'),
      });
    }
    writer.close();
    expect(env.count('sync')).toBe(syncs);
    const next = WalWriter.open(env, DIRECTORY, EAGER, recover(disk));
    expect(next.syncedLsn).toBe(3);
    for (const state of crashes()) expect(recover(state).records).toEqual(records);
  });

  test('takes no failure away from a sync that is waited for meanwhile', async () => {
    // Each handle is told of a failed write-back once: the two must not share one.
    const handles = new Set<unknown>();
    const open = env.open.bind(env);
    env.open = (path, mode) => {
      const file = open(path, mode);
      const watch = (name: 'sync' | 'syncAsync'): void => {
        const call = file[name]!.bind(file);
        file[name] = () => {
          if (LOG.test(path)) handles.add(`${name} ${segmentPaths(disk).length}`).add(file);
          return call() as Promise<void>;
        };
      };
      watch('sync');
      watch('syncAsync');
      return file;
    };
    writer.close();
    writer = WalWriter.open(env, DIRECTORY, EAGER, recover(disk));
    handles.clear();
    appendMany(writer, 3, 3000);
    writer.sync();
    expect([...handles].filter((handle) => typeof handle === 'object')).toHaveLength(2);
    expect([...handles].filter((handle) => typeof handle === 'string')).toEqual([
      expect.stringMatching(/^syncAsync/),
      expect.stringMatching(/^sync /),
    ]);
    expect(writer.syncedLsn).toBe(3);
    await settled();
    expect(writer).toMatchObject({ syncedLsn: 3, failure: undefined });
  });

  test('of a segment that has ended meanwhile, or of a log that was closed, harms nothing', async () => {
    const records = [
      append(writer, payloadOf(1, FULL)),
      append(writer, payloadOf(2, FULL)),
      append(writer, payloadOf(3, 100)),
    ];
    expect(writer.syncedLsn).toBe(2);
    await settled();
    expect(writer).toMatchObject({ syncedLsn: 2, failure: undefined });
    records.push(append(writer, payloadOf(4, 10_000)));
    writer.close();
    await settled();
    expect(writer.failure).toBeUndefined();
    expect(recover(disk.crash(new Random(1), 'drop-all')).records).toEqual(records);
  });

  test('that was quick lets the next segment begin before this one is full, if one can be had', async () => {
    const records = appendMany(writer, 15, 3000);
    await settled();
    // The first of these begins a sync that covers all but the record behind it.
    records.push(append(writer, payloadOf(16, 100)));
    expect(writer.currentSegmentFill).toBeGreaterThan(0.75);
    await settled();
    env.fillDisk(/(tmp|spare)$/);
    const before = writer.segmentCount;
    records.push(append(writer, payloadOf(17, 100)));
    expect([writer.segmentCount, writer.failure]).toEqual([before, undefined]);
    env.freeDisk();
    records.push(append(writer, payloadOf(18, 2000)));
    await settled();
    records.push(append(writer, payloadOf(19, 100)));
    expect([writer.segmentCount, writer.syncedLsn]).toEqual([before + 1, 18]);
    for (const state of [disk, ...crashes()])
      expect(recover(state).records).toEqual(records.slice(0, recover(state).lastLsn));
    expect(recover(disk).records).toEqual(records);
    // Waited for, or with a long way to go, it stays as it was.
    appendMany(writer, 10, 3000);
    await settled();
    expect(writer.segmentCount).toBe(before + 1);
  });

  test('that finds no handle leaves all to the sync at the change of segments', async () => {
    env.addRule({ operation: 'open', path: LOG, times: 1, error: 'EMFILE' });
    appendMany(writer, 3, 3000);
    await settled();
    expect(writer).toMatchObject({ syncedLsn: 0, failure: undefined });
    appendMany(writer, 3, 3000);
    await settled();
    expect(writer.syncedLsn).toBe(6);
  });
});

test('segments that go in slices are counted no more and removed one by one; a crash in between costs nothing', () => {
  writer.close();
  writer = WalWriter.open(env, DIRECTORY, { ...SMALL, spareSegmentsMax: 1 }, recover(disk));
  const records = Array.from({ length: 6 }, (_, i) => append(writer, payloadOf(i + 1, FULL)));
  writer.truncate(5, true);
  expect(writer).toMatchObject({ segmentCount: 1, spareCount: 1, hasUnneeded: true });
  const left: number[] = [];
  for (;;) {
    for (const state of [disk, ...crashes()]) {
      const recovery = recover(state, { fromLsn: 6 });
      expect(recovery.records).toEqual(records.slice(5, recovery.lastLsn));
      const next = WalWriter.open(state.crash(new Random(2), 'keep-all'), DIRECTORY, SMALL, recovery);
      next.truncate(recovery.lastLsn);
      expect(next.segmentCount).toBe(1);
    }
    left.push(segmentPaths(disk).length);
    if (!writer.hasUnneeded) break;
    writer.removeUnneeded();
  }
  expect(left).toEqual([5, 4, 3, 2, 1]);
});

test('a segment kept for readers that cannot be opened is still counted, and goes in its turn', () => {
  writer.close();
  const options = { ...SMALL, spareSegmentsMax: 0, retainBytes: 8 * SEGMENT_BYTES };
  const next = WalWriter.open(env, DIRECTORY, options, recover(disk));
  const records = Array.from({ length: 4 }, (_, i) => append(next, payloadOf(i + 1, FULL)));
  const before = segmentPaths(disk).length;
  env.addRule({ operation: 'open', times: 1, error: 'EMFILE' });
  next.truncate(3);
  expect(next.retainedBytes).toBeGreaterThan(0);
  expect(segmentPaths(disk)).toHaveLength(before);
  next.retain(0);
  while (next.hasUnneeded) next.removeUnneeded();
  expect([next.retainedBytes, segmentPaths(disk).length]).toEqual([0, next.segmentCount]);
  expect(recover(disk, { fromLsn: 4 }).records).toEqual(records.slice(3));
});

describe('a disk that is full', () => {
  test('takes what is kept for readers first: the write succeeds', () => {
    writer.close();
    const options = { ...SMALL, spareSegmentsMax: 0, retainBytes: 8 * SEGMENT_BYTES };
    const next = WalWriter.open(env, DIRECTORY, options, recover(disk));
    const records = Array.from({ length: 4 }, (_, i) => append(next, payloadOf(i + 1, FULL)));
    next.truncate(3);
    expect(next.retainedBytes).toBeGreaterThan(0);
    const full = env.addRule({ operation: ['create', 'write'], times: 1, error: 'ENOSPC' });
    records.push(append(next, payloadOf(5, 300)));
    expect([full.firedCount, next.retainedBytes]).toEqual([1, 0]);
    expect(next.failure).toBeUndefined();
    expect(recover(disk, { fromLsn: 4 }).records).toEqual(records.slice(3));
    // In the middle of a segment too; and with nothing left to give up it is an error that passes.
    next.truncate(4);
    expect(next.retainedBytes).toBeGreaterThan(0);
    const again = env.addRule({ operation: 'write', path: LOG, times: 1, error: 'ENOSPC', shortWriteBytes: 100 });
    records.push(append(next, payloadOf(6, 400)));
    expect([again.firedCount, next.retainedBytes]).toEqual([1, 0]);
    env.addRule({ operation: 'write', path: LOG, times: 1, error: 'ENOSPC' });
    expect(failure(() => append(next, payloadOf(7, 400))).code).toBe('ERR_DISK_FULL');
    records.push(append(next, payloadOf(7, 400)));
    for (const state of [disk, ...crashes()]) {
      const found = recover(state, { fromLsn: 5 }).records;
      expect(records.slice(4).slice(0, found.length)).toEqual(found);
    }
    next.sync();
    for (const state of [disk, ...crashes()])
      expect(recover(state, { fromLsn: 5, mode: 'strict' }).records).toEqual(records.slice(4));
  });
});
