/** The log as its followers read it: only what is published, across segments that change, and never what was not written. */
import { describe, expect, test } from 'vitest';
import { LogTail } from '../../dist/engines/feed/log-tail.js';
import { segmentName } from '../../dist/engines/wal/format.js';
import { FaultEnv } from '../../dist/shared/env/fault-env.js';
import { MemEnv } from '../../dist/shared/env/mem-env.js';
import { Random } from '../../dist/shared/random.js';
import type { ConcordError } from '../../dist/shared/errors.js';
import { SEGMENT_BYTES, STORE_ID, ShardLog, lsnsOf, put } from './scene.js';

const text = (length: number): string => 'x'.repeat(length);

function failure(work: () => unknown): ConcordError {
  try {
    work();
  } catch (error) {
    return error as ConcordError;
  }
  return expect.fail('expected a failure');
}

function flip(env: MemEnv, path: string, offset: number): void {
  const file = env.open(path, 'write');
  const byte = new Uint8Array(1);
  file.read(byte, 0, 1, offset);
  byte[0]! ^= 0x10;
  file.write(byte, 0, 1, offset);
  file.close();
}

describe('a follower of a log', () => {
  test('is given a frame when its last number is published, not when it is written', () => {
    const log = new ShardLog(new MemEnv());
    const tail = log.tail;
    tail.seek(tail.beginning());
    expect(lsnsOf(log, tail)).toEqual([]);
    log.commit(1, [put('a', '1'), put('b', '2')], { unpublished: true });
    expect(lsnsOf(log, tail)).toEqual([]);
    log.publishedSeq = 1;
    expect(lsnsOf(log, tail)).toEqual([]);
    log.publishedSeq = 2;
    expect(lsnsOf(log, tail)).toEqual([1]);
  });

  test('is given a frame of the memory level when it is written, though it was published before', () => {
    const log = new ShardLog(new MemEnv());
    const tail = log.tail;
    tail.seek(tail.beginning());
    log.commit(1, [put('a', '1')], { buffered: true });
    log.commit(2, [put('a', '2')], { buffered: true });
    expect(lsnsOf(log, tail)).toEqual([]);
    log.writer.writeOut();
    expect(lsnsOf(log, tail)).toEqual([1, 2]);
  });

  test('asks for synced frames only when told so', () => {
    const log = new ShardLog(new MemEnv());
    const tail = log.tail;
    tail.seek(tail.beginning());
    log.commit(1, [put('a', '1')]);
    expect(lsnsOf(log, tail, true)).toEqual([]);
    log.writer.sync();
    log.commit(2, [put('a', '2')]);
    expect(lsnsOf(log, tail, true)).toEqual([1]);
    log.writer.sync();
    expect(lsnsOf(log, tail, true)).toEqual([2]);
  });

  test('goes on over many segments, however late it comes', () => {
    const log = new ShardLog(new MemEnv());
    const early = log.tail;
    early.seek(early.beginning());
    const seen: number[] = [];
    for (let seq = 1; seq <= 200; seq++) {
      log.commit(seq, [put(`k${seq}`, text(3000))]);
      if (seq % 7 === 0) seen.push(...lsnsOf(log, early));
    }
    seen.push(...lsnsOf(log, early));
    const all = Array.from({ length: 200 }, (_, i) => i + 1);
    expect(seen).toEqual(all);
    const late = log.tail;
    late.seek(late.beginning());
    expect(lsnsOf(log, late)).toEqual(all);
    expect(log.writer.segmentCount).toBeGreaterThan(5);
  });

  test('begins at the end: behind what is published, in whatever segment that is', () => {
    const log = new ShardLog(new MemEnv());
    for (let seq = 1; seq <= 50; seq++) {
      const tail = log.tail;
      tail.seek(tail.end(() => log.publishedSeq));
      const again = log.tail;
      again.seek(again.end(() => log.publishedSeq));
      // One looks at once, the other only later.
      expect(lsnsOf(log, tail)).toEqual([]);
      log.commit(seq, [put('k', text(5000))]);
      expect(lsnsOf(log, tail)).toEqual([seq]);
      expect(lsnsOf(log, again)).toEqual([seq]);
    }
  });

  test('never gives out a frame whose write failed, even if it has read it before another took its place', () => {
    const memory = new MemEnv();
    const env = new FaultEnv(memory);
    const log = new ShardLog(env);
    const tail = new LogTail(memory, log.directory, STORE_ID, 0);
    tail.seek(tail.beginning());
    log.commit(1, [put('a', '1')]);
    expect(lsnsOf(log, tail)).toEqual([1]);
    // All of it reaches the file and is reported as failed, and cannot be cut off at once.
    const bytes = put('a', 'failed');
    const full = env.addRule({ operation: 'write', error: 'ENOSPC', shortWriteBytes: 48 + bytes.length });
    const stuck = env.addRule({ operation: 'truncate', error: 'ENOSPC' });
    expect(failure(() => log.commit(2, [bytes])).code).toBe('ERR_DISK_FULL');
    expect(log.publishedSeq).toBe(1);
    // The follower looks for what another shard's numbers promise, and finds it.
    expect(tail.next({ publishedSeq: 1, lastSeq: Infinity, syncedLsn: 0, durable: false })).toBeUndefined();
    const looking = new LogTail(memory, log.directory, STORE_ID, 0);
    looking.seek({ ...tail.position, seq: 0 });
    expect(looking.next({ publishedSeq: 1, lastSeq: Infinity, syncedLsn: 0, durable: false })).toBeUndefined();
    full.remove();
    stuck.remove();
    log.commit(3, [put('a', 'stored')]);
    for (const follower of [tail, looking]) {
      const frame = follower.next(log.limits())!;
      expect(frame).toMatchObject({ lsn: 2, firstSeq: 3 });
      expect(frame.bytes.toString('latin1', frame.start, frame.end)).toContain('stored');
    }
  });

  test('is told when the log was cut before it came, and how far back it reaches', () => {
    const log = new ShardLog(new MemEnv());
    const tail = log.tail;
    tail.seek(tail.beginning());
    for (let seq = 1; seq <= 100; seq++) log.commit(seq, [put('k', text(3000))]);
    const oldest = log.writer;
    oldest.truncate(60);
    const error = failure(() => lsnsOf(log, tail));
    expect(error.code).toBe('ERR_FEED_TRUNCATED');
    expect(error.details).toMatchObject({ shard: 0, lsn: 1 });
    const rest = log.tail;
    rest.seek(rest.beginning());
    expect(rest.position.lsn).toBe(error.details['oldestLsn']);
    expect(lsnsOf(log, rest).at(-1)).toBe(100);
  });

  test('reads what it is behind with while segments are recycled: all of it, or it is told', () => {
    const random = new Random(7);
    for (let round = 0; round < 30; round++) {
      const log = new ShardLog(new MemEnv());
      const tail = log.tail;
      tail.seek(tail.beginning());
      const seen: number[] = [];
      let cut = false;
      for (let seq = 1; seq <= 150 && !cut; seq++) {
        log.commit(seq, [put('k', text(2000 + random.below(4000)))]);
        if (random.below(20) === 0) log.writer.truncate(seq - random.below(40));
        try {
          if (random.below(6) === 0) {
            const frame = tail.next(log.limits());
            if (frame !== undefined) seen.push(frame.lsn);
          }
        } catch (error) {
          expect((error as ConcordError).code).toBe('ERR_FEED_TRUNCATED');
          cut = true;
        }
      }
      expect(seen).toEqual(seen.map((_, i) => i + 1));
    }
  });

  test('goes on where a log of which nothing was needed any more has begun anew', () => {
    const log = new ShardLog(new MemEnv());
    const tail = log.tail;
    tail.seek(tail.beginning());
    const last = log.tail;
    last.seek(last.beginning());
    for (let seq = 1; seq <= 10; seq++) log.commit(seq, [put('k', text(100))]);
    expect(lsnsOf(log, tail)).toHaveLength(10);
    log.writer.truncate(10);
    log.commit(11, [put('k', 'after')]);
    expect(lsnsOf(log, tail)).toEqual([11]);
    // Nothing was to be kept for those that had not come so far.
    expect(failure(() => lsnsOf(log, last)).code).toBe('ERR_FEED_TRUNCATED');
  });

  test('finds all that is kept for it when the log begins anew', () => {
    const log = new ShardLog(new MemEnv(), 0, { retainBytes: SEGMENT_BYTES });
    const tail = log.tail;
    tail.seek(tail.beginning());
    for (let seq = 1; seq <= 10; seq++) log.commit(seq, [put('k', text(100))]);
    log.writer.truncate(10);
    expect(log.writer.segmentCount).toBe(1);
    log.commit(11, [put('k', 'after')]);
    expect(lsnsOf(log, tail)).toEqual(Array.from({ length: 11 }, (_, i) => i + 1));
  });

  test('goes on after a restart of the log', () => {
    let log = new ShardLog(new MemEnv());
    const tail = log.tail;
    tail.seek(tail.beginning());
    for (let seq = 1; seq <= 10; seq++) log.commit(seq, [put('k', text(100))]);
    expect(lsnsOf(log, tail)).toHaveLength(10);
    log.writer.close();
    log = log.reopen();
    log.commit(20, [put('k', 'after')]);
    expect(lsnsOf(log, tail)).toEqual([11]);
  });

  test('is told when what it was given has been taken back by a loss of power', () => {
    const env = new MemEnv();
    const log = new ShardLog(env);
    log.commit(1, [put('a', '1')]);
    log.writer.sync();
    const tail = log.tail;
    tail.seek(tail.beginning());
    log.commit(2, [put('a', '2')]);
    expect(lsnsOf(log, tail)).toEqual([1, 2]);
    const after = log.reopen(env.crash(new Random(1), 'drop-all'));
    expect(after.publishedSeq).toBe(1);
    after.commit(2, [put('a', 'other')]);
    after.commit(3, [put('a', 'other')]);
    const resumed = after.tail;
    resumed.seek(tail.position);
    const error = failure(() => lsnsOf(after, resumed));
    expect(error.code).toBe('ERR_FEED_TRUNCATED');
    expect(error.message).toContain('set back');
  });
});

describe('damage in the log', () => {
  test('of a synced frame is told with its file and place', () => {
    const env = new MemEnv();
    const log = new ShardLog(env);
    const tail = log.tail;
    tail.seek(tail.beginning());
    log.commit(1, [put('a', '1')]);
    expect(lsnsOf(log, tail)).toEqual([1]);
    const { offset } = tail.position;
    log.commit(2, [put('b', text(500))]);
    log.writer.sync();
    const path = `${log.directory}/${segmentName(1)}`;
    for (const where of [3, 17, 60, 400]) {
      flip(env, path, offset + where);
      env.advanceClock(50);
      const error = failure(() => lsnsOf(log, tail));
      expect(error.code).toBe('ERR_CORRUPT');
      expect(error.details).toMatchObject({ file: path, offset });
      flip(env, path, offset + where);
    }
    expect(lsnsOf(log, tail)).toEqual([2]);
  });

  test('of a frame in a segment that has a successor is told, synced or not', () => {
    const env = new MemEnv();
    const log = new ShardLog(env);
    const tail = log.tail;
    tail.seek(tail.beginning());
    log.commit(1, [put('a', text(3000))]);
    const path = `${log.directory}/${segmentName(1)}`;
    for (let seq = 2; seq < 40; seq++) log.commit(seq, [put('a', text(3000))]);
    flip(env, path, 4096 + 100);
    const error = failure(() => tail.next({ publishedSeq: 39, lastSeq: Infinity, syncedLsn: 0, durable: false }));
    expect(error).toMatchObject({ code: 'ERR_CORRUPT', details: { file: path, offset: 4096 } });
  });

  test('that may be a write under way is waited for, but not for ever', () => {
    const env = new MemEnv();
    const log = new ShardLog(env);
    const tail = log.tail;
    tail.seek(tail.beginning());
    log.commit(1, [put('a', text(3000))]);
    flip(env, `${log.directory}/${segmentName(1)}`, 4096 + 100);
    const limits = { publishedSeq: 1, lastSeq: Infinity, syncedLsn: 0, durable: false };
    expect(tail.next(limits)).toBeUndefined();
    env.advanceClock(500);
    expect(tail.next(limits)).toBeUndefined();
    flip(env, `${log.directory}/${segmentName(1)}`, 4096 + 100);
    expect(tail.next(limits)?.lsn).toBe(1);
    log.commit(2, [put('a', text(3000))]);
    flip(env, `${log.directory}/${segmentName(1)}`, tail.position.offset + 100);
    const next = { ...limits, publishedSeq: 2 };
    expect(tail.next(next)).toBeUndefined();
    env.advanceClock(2500);
    expect(failure(() => tail.next(next)).code).toBe('ERR_CORRUPT');
  });

  test('of any kind is a coded error or the end, never a frame that was not written', () => {
    const seed = Number(process.env['CONCORDKV_TEST_SEED'] ?? Math.floor(Math.random() * 2 ** 31));
    const random = new Random(seed);
    for (let round = 0; round < 150; round++) {
      const env = new MemEnv();
      const log = new ShardLog(env);
      const frames = 1 + random.below(60);
      for (let seq = 1; seq <= frames; seq++) log.commit(seq, [put(`k${seq}`, text(random.below(4000)))]);
      log.writer.sync();
      const names = env.list(log.directory).filter((name) => name.endsWith('.log'));
      for (let damage = 0; damage <= random.below(4); damage++) {
        const file = env.open(`${log.directory}/${names[random.below(names.length)]!}`, 'write');
        const size = file.size();
        const bytes = random.bytes(1 + random.below(40));
        const place = random.below(2) === 0 ? random.below(size) : Math.min(size - 1, 4096 + random.below(6000));
        file.write(bytes, 0, Math.min(bytes.length, size - place), place);
        if (random.below(8) === 0) file.truncate(1 + random.below(size));
        file.close();
      }
      const tail = log.tail;
      const seen: string[] = [];
      try {
        tail.seek(tail.beginning());
        for (let looks = 0; looks < 200; looks++) {
          const frame = tail.next(log.limits());
          if (frame === undefined && !tail.isSearching) break;
          if (frame !== undefined) seen.push(frame.bytes.toString('latin1', frame.start + 8, frame.start + 8 + 3));
        }
      } catch (error) {
        expect(['ERR_CORRUPT', 'ERR_FORMAT_VERSION', 'ERR_FEED_TRUNCATED'], `seed ${seed}`).toContain(
          (error as ConcordError).code,
        );
      }
      seen.forEach((key, i) => {
        const written = `k${i + 1}`;
        expect(key.startsWith(written.slice(0, 3)), `seed ${seed}: ${key} at ${i + 1}`).toBe(true);
      });
    }
  });
});
