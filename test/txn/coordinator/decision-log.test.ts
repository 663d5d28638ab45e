import * as fs from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { DecisionLog, readDecisions } from '../../../dist/engines/txn/decision-log.js';
import { FaultEnv } from '../../../dist/shared/env/fault-env.js';
import { MemEnv } from '../../../dist/shared/env/mem-env.js';
import type { Env } from '../../../dist/shared/env/env.js';
import { Random } from '../../../dist/shared/random.js';
import { WalWriter } from '../../../dist/engines/wal/writer.js';
import { recoverWal } from '../../../dist/engines/wal/recovery.js';
import { COORDINATOR_SHARD } from '../../../dist/engines/txn/decision-log.js';
import { DIRECTORY, SEGMENT_BYTES, STORE_ID, failure, idsOf, logOptions, openLog } from './scene.js';

const GOLDEN = fileURLToPath(new URL('../../golden/decision-log.txt', import.meta.url));

function newDisk(): MemEnv {
  const disk = new MemEnv();
  disk.makeDirectory('/store');
  disk.syncDirectory('/');
  return disk;
}

function decide(log: DecisionLog, ...ids: number[]): void {
  for (const id of ids) log.decide(id, 3, 0, 1);
  log.write();
}

/** Payload of each frame, as hex. */
function framesOf(env: Env): string[] {
  const frames: string[] = [];
  recoverWal(env, DIRECTORY, {
    storeId: STORE_ID,
    shard: COORDINATOR_SHARD,
    fromLsn: 1,
    mode: 'salvage',
    onFrame: ({ bytes, start, end }) => frames.push(bytes.toString('hex', start, end)),
  });
  return frames;
}

test('a store that has decided nothing has no files of it', () => {
  const disk = newDisk();
  const log = openLog(disk);
  expect(idsOf(log)).toEqual({ decided: [], fenced: [] });
  log.close();
  expect(disk.exists(DIRECTORY)).toBe(false);
  expect(readDecisions(logOptions(disk))).toBeUndefined();
});

test('the records have the documented bytes', () => {
  const disk = newDisk();
  const log = openLog(disk);
  log.decide(2 ** 40 + 7, 0b101, 0, 2);
  log.fence(9, 3);
  log.end(2 ** 40 + 5);
  log.write();
  log.restate([{ id: 2 ** 40 + 7, maskLow: 0b101, maskHigh: 0, client: 2 }], [[9, 3]]);
  const fields = (hex: string, ...lengths: number[]): string[] => {
    let at = 0;
    return lengths.map((length) => hex.slice(at, (at += length * 2)));
  };
  const [first, restated, mark] = framesOf(disk);
  const lines = [
    ...fields(first!, 4, 4, 8, 4, 4, 4, 4, 8, 4, 4, 8),
    ...fields(restated!, 24, 16),
    ...fields(mark!, 4, 4, 8),
  ];
  if (process.env['UPDATE'] === '1') {
    const old = fs.existsSync(GOLDEN) ? fs.readFileSync(GOLDEN, 'utf8').split('\n') : [];
    fs.writeFileSync(
      GOLDEN,
      lines.map((hex, i) => `${hex.padEnd(49)}${/#.*/.exec(old[i] ?? '')?.[0] ?? '#'}\n`).join(''),
    );
  }
  const golden = fs.readFileSync(GOLDEN, 'utf8').trim().split('\n');
  expect(lines).toEqual(golden.map((line) => line.split(/\s+#/)[0]!.trim()));
});

test('what was decided, fenced and ended is found again', () => {
  const disk = newDisk();
  const log = openLog(disk);
  decide(log, 5, 6, 7);
  log.fence(8, 4);
  log.fence(9, 4);
  log.write();
  log.end(6);
  log.end(9);
  log.write();
  log.close();
  const again = openLog(disk);
  expect(idsOf(again)).toEqual({ decided: [5, 7], fenced: [8] });
  expect(again.recovered.decided.get(7)).toEqual({ id: 7, maskLow: 3, maskHigh: 0, client: 1 });
  expect(again.recovered.highestId).toBe(9);
});

test('the highest id is known after all that had it was ended and cut off', () => {
  const disk = newDisk();
  let log = openLog(disk);
  decide(log, 1000, 5);
  log.end(1000);
  log.write();
  log.restate([{ id: 5, maskLow: 3, maskHigh: 0, client: 1 }], []);
  log.close();
  log = openLog(disk);
  log.close();
  expect(openLog(disk).recovered.highestId).toBe(1000);
});

test('masks of 64 shards and of one keep every bit', () => {
  const disk = newDisk();
  const log = openLog(disk, { shards: 64 });
  log.decide(1, -1, -1, 0);
  log.decide(2, 0, 1 << 31, 0);
  log.write();
  const found = readDecisions(logOptions(disk, { shards: 64 }))!.decided;
  expect([...found.values()].map(({ maskLow, maskHigh }) => [maskLow, maskHigh])).toEqual([
    [-1, -1],
    [0, 1 << 31],
  ]);
  expect(failure(() => readDecisions(logOptions(disk, { shards: 63 }))).code).toBe('ERR_CORRUPT');
});

test('a log that is long is begun anew with what is open, and its segments come back', () => {
  const disk = newDisk();
  const log = openLog(disk, { logBytesMax: 2 * SEGMENT_BYTES });
  let id = 0;
  const open = new Map<number, { id: number; maskLow: number; maskHigh: number; client: number }>();
  let restated = 0;
  for (let round = 0; round < 600; round++) {
    for (let i = 0; i < 40; i++) {
      log.decide(++id, 3, 0, 1);
      if (id % 50 === 0) open.set(id, { id, maskLow: 3, maskHigh: 0, client: 1 });
      else log.end(id);
    }
    log.write();
    if (!log.isLong) continue;
    restated++;
    for (const old of [...open.keys()].slice(0, -100)) open.delete(old);
    log.restate(open.values(), []);
    expect(log.sizeBytes).toBeLessThan(2 * SEGMENT_BYTES);
  }
  expect(restated).toBeGreaterThan(5);
  // Ended by not being said again, or to be ended by who reads it: none is missing.
  const found = readDecisions(logOptions(disk))!;
  for (const each of open.keys()) expect(found.decided.has(each)).toBe(true);
  expect(found.decided.size).toBeLessThan(open.size + 200);
  expect(disk.list(DIRECTORY).length).toBeLessThan(7);
});

test('many open decisions are said anew in several frames', () => {
  const disk = newDisk();
  const log = openLog(disk);
  const open = Array.from({ length: 7000 }, (_, i) => ({ id: i + 1, maskLow: 5, maskHigh: 0, client: 0 }));
  for (let at = 0; at < open.length; at += 1000) {
    for (const { id } of open.slice(at, at + 1000)) log.decide(id, 5, 0, 0);
    log.write();
  }
  log.restate(open, [[9999, 3]]);
  log.close();
  const again = openLog(disk);
  expect(again.recovered.decided.size).toBe(7000);
  expect([...again.recovered.fenced]).toEqual([[9999, 3]]);
});

describe('damage', () => {
  function damaged(change: (bytes: Buffer, at: number) => void): MemEnv {
    const disk = newDisk();
    const identity = { storeId: STORE_ID, shard: COORDINATOR_SHARD, segmentBytes: SEGMENT_BYTES };
    disk.makeDirectory(DIRECTORY);
    const writer = WalWriter.create(disk, DIRECTORY, identity);
    writer.begin();
    writer.ensure(24);
    const { bytes, position } = writer;
    bytes.fill(0, position, position + 24);
    bytes[position] = 1;
    bytes.writeDoubleLE(7, position + 8);
    bytes.writeInt32LE(3, position + 16);
    change(bytes, position);
    writer.position += 24;
    writer.commit(7, 1);
    writer.close();
    return disk;
  }

  test('the frame they are made from is sound', () => {
    expect([...readDecisions(logOptions(damaged(() => undefined)))!.decided.keys()]).toEqual([7]);
  });

  test.each<[string, (bytes: Buffer, at: number) => void]>([
    ['an unknown kind', (bytes, at) => (bytes[at] = 9)],
    ['kind zero', (bytes, at) => (bytes[at] = 0)],
    ['a byte that must be zero', (bytes, at) => (bytes[at + 2] = 1)],
    ['an id that is no integer', (bytes, at) => bytes.writeDoubleLE(1.5, at + 8)],
    ['an id of zero', (bytes, at) => bytes.writeDoubleLE(0, at + 8)],
    ['an id beyond 48 bits', (bytes, at) => bytes.writeDoubleLE(2 ** 48, at + 8)],
    ['an id that is no number', (bytes, at) => bytes.writeDoubleLE(NaN, at + 8)],
    ['no shard', (bytes, at) => bytes.writeInt32LE(0, at + 16)],
    ['a shard the store does not have', (bytes, at) => bytes.writeInt32LE(8, at + 16)],
    ['a high shard the store does not have', (bytes, at) => bytes.writeInt32LE(1, at + 20)],
    ['a fence with bytes behind it', (bytes, at) => (bytes[at] = 2)],
    [
      'an end with a client',
      (bytes, at) => {
        bytes[at] = 3;
        bytes[at + 4] = 1;
      },
    ],
  ])('%s in a frame whose checksum is right is told with file and offset', (_, change) => {
    const error = failure(() => readDecisions(logOptions(damaged(change))));
    expect(error.code).toBe('ERR_CORRUPT');
    expect(error.details['file']).toMatch(/coordinator\/wal-/);
    expect(error.details['offset']).toBeGreaterThanOrEqual(4096 + 48);
  });

  test('any byte that is changed in the files is a coded error, or changes nothing, or cuts the unsynced tail', () => {
    const disk = newDisk();
    const log = openLog(disk);
    decide(log, 5, 6);
    log.sync();
    decide(log, 7);
    log.sync();
    decide(log, 8);
    const path = `${DIRECTORY}/${disk.list(DIRECTORY).find((name) => name.endsWith('.log'))!}`;
    const file = disk.open(path, 'write');
    const size = 4096 + 4 * 100;
    const original = Buffer.alloc(size);
    file.read(original, 0, size, 0);
    const random = new Random(7);
    let refused = 0;
    for (let at = 0; at < size; at += at < 4090 ? 97 : 1) {
      const changed = Buffer.from(original);
      changed[at]! ^= 1 << random.below(8);
      file.write(changed, 0, size, 0);
      let ids: number[];
      try {
        ids = [...readDecisions(logOptions(disk))!.decided.keys()];
      } catch (error) {
        expect((error as { code: string }).code).toMatch(/^ERR_(CORRUPT|FORMAT_VERSION)$/);
        refused++;
        continue;
      }
      // The last frame was never known to be synced by one behind it.
      expect([
        [5, 6, 7],
        [5, 6, 7, 8],
      ]).toContainEqual(ids);
    }
    expect(refused).toBeGreaterThan(100);
  });

  test('strict refuses a torn tail, salvage goes on behind damage', () => {
    const disk = newDisk();
    const log = openLog(disk);
    decide(log, 5);
    log.sync();
    decide(log, 6);
    log.sync();
    decide(log, 7);
    log.sync();
    const path = `${DIRECTORY}/${disk.list(DIRECTORY).find((name) => name.endsWith('.log'))!}`;
    const file = disk.open(path, 'write');
    // In the payload of the second frame.
    file.write(Buffer.from([0xff]), 0, 1, 4096 + 72 + 48 + 3);
    expect(failure(() => openLog(disk)).code).toBe('ERR_CORRUPT');
    expect(failure(() => openLog(disk, { recoveryMode: 'strict' })).code).toBe('ERR_CORRUPT');
    expect(idsOf(openLog(disk.crash(new Random(1), 'keep-all'), { recoveryMode: 'point-in-time' })).decided).toEqual([
      5,
    ]);
    const salvaged = openLog(disk, { recoveryMode: 'salvage' });
    expect(idsOf(salvaged).decided).toEqual([5, 7]);
    expect(salvaged.recovery!.losses).toHaveLength(1);
    salvaged.close();
    // What was passed over is not met again.
    expect(idsOf(openLog(disk)).decided).toEqual([5, 7]);
  });
});

describe('a disk that fails', () => {
  function faulty(): { disk: MemEnv; env: FaultEnv; log: DecisionLog } {
    const disk = newDisk();
    const env = new FaultEnv(disk);
    const log = openLog(env);
    decide(log, 1);
    log.sync();
    return { disk, env, log };
  }

  test.each([0, 40, 72, 88, 200])(
    'full, when %i bytes of the frame are written: nothing is decided, now or after a crash',
    (shortWriteBytes) => {
      const { disk, env, log } = faulty();
      env.addRule({ operation: 'write', path: /\.log$/, times: 1, error: 'ENOSPC', shortWriteBytes });
      log.decide(2, 3, 0, 1);
      expect(failure(() => log.write()).code).toBe('ERR_DISK_FULL');
      expect(log.isInDoubt).toBe(false);
      for (const data of ['drop-all', 'keep-all', 'writes'] as const) {
        const state = disk.crash(new Random(3), { data, names: 'arbitrary' });
        expect(idsOf(openLog(state)).decided).toEqual([1]);
      }
      decide(log, 3);
      expect(idsOf(openLog(disk)).decided).toEqual([1, 3]);
    },
  );

  test('so full that nothing can be cut off: in doubt, until it can', () => {
    const { disk, env, log } = faulty();
    env.addRule({ operation: 'write', path: /\.log$/, times: 1, error: 'ENOSPC', shortWriteBytes: 88 });
    const cut = env.addRule({ operation: 'truncate', error: 'ENOSPC' });
    log.decide(2, 3, 0, 1);
    expect(failure(() => log.write()).code).toBe('ERR_DISK_FULL');
    expect(log.isInDoubt).toBe(true);
    // The frame is whole in the file.
    expect(idsOf(openLog(disk.crash(new Random(1), 'keep-all'))).decided).toEqual([1, 2]);
    expect(log.settle()).toBe(false);
    cut.remove();
    expect(log.settle()).toBe(true);
    expect(idsOf(openLog(disk.crash(new Random(1), 'keep-all'))).decided).toEqual([1]);
    decide(log, 3);
    expect(idsOf(openLog(disk)).decided).toEqual([1, 3]);
  });

  test('a sync that fails ends the log', () => {
    const { env, log } = faulty();
    env.addRule({ operation: 'sync', path: /\.log$/, times: 1, error: 'EIO' });
    decide(log, 2);
    expect(failure(() => log.sync()).code).toBe('ERR_IO');
    expect(log.failure?.code).toBe('ERR_IO');
    expect(failure(() => log.decide(3, 3, 0, 1)).code).toBe('ERR_IO');
  });

  test('every file operation of the first frame may fail: it is refused, and the next attempt goes through', () => {
    for (let after = 0; after < 30; after++) {
      const disk = newDisk();
      const env = new FaultEnv(disk);
      const log = openLog(env);
      const operations = ['create', 'open', 'write', 'sync', 'rename', 'makeDirectory', 'syncDirectory'] as const;
      const rule = env.addRule({ operation: operations, after, times: 1, error: 'EIO' });
      let isRefused = false;
      try {
        decide(log, 2);
      } catch (error) {
        expect((error as { code: string }).code).toBe('ERR_IO');
        isRefused = true;
      }
      expect(isRefused).toBe(rule.firedCount === 1);
      rule.remove();
      if (log.failure !== undefined) continue;
      decide(log, 3);
      expect(idsOf(openLog(disk)).decided).toEqual(isRefused ? [3] : [2, 3]);
    }
  });
});

describe('power loss at every file operation', () => {
  const DATA = ['drop-all', 'keep-all', 'prefix', 'sectors', 'writes'] as const;
  const NAMES = ['drop-all', 'keep-all', 'ordered', 'arbitrary'] as const;

  /** Decides, ends, restarts, says anew; before each operation several disks are judged. */
  function run(seed: number, ignoreSync: boolean): { states: number; problems: string[] } {
    const random = new Random(seed);
    const crashRandom = new Random(seed + 1);
    /** Told to somebody as durable, and not ended. */
    const promised = new Set<number>();
    /** Written some time: nothing else may be found. */
    const written = new Set<number>();
    const fences = new Set<number>();
    const problems: string[] = [];
    let states = 0;
    let isWatching = false;
    const env = new MemEnv({
      seed,
      ignoreSync,
      onOperation: (index, kind) => {
        if (!isWatching) return;
        const policy = { data: crashRandom.pick(DATA), names: crashRandom.pick(NAMES) };
        const disk = env.crash(crashRandom, policy);
        states++;
        const what = `seed ${seed}, before operation ${index} (${kind}), ${policy.data}/${policy.names}`;
        try {
          const found = openLog(disk).recovered;
          for (const id of promised) if (!found.decided.has(id)) problems.push(`${what}: ${id} is lost`);
          for (const id of found.decided.keys())
            if (!written.has(id)) problems.push(`${what}: ${id} was never decided`);
          for (const id of fences) if (!found.fenced.has(id)) problems.push(`${what}: fence ${id} is lost`);
        } catch (error) {
          problems.push(`${what}: ${(error as Error).message}`);
        }
      },
    });
    env.makeDirectory('/store');
    env.syncDirectory('/');
    isWatching = true;
    const options = { logBytesMax: 80 << 10 };
    let log = openLog(env, options);
    let id = 0;
    const open = new Map<number, { id: number; maskLow: number; maskHigh: number; client: number }>();
    for (let step = 0; step < 120; step++) {
      const dice = random.below(100);
      if (dice < 60) {
        const group: number[] = [];
        for (let i = 0; i <= random.below(60); i++) group.push(++id);
        for (const each of group) {
          written.add(each);
          log.decide(each, 3, 0, 1);
          open.set(each, { id: each, maskLow: 3, maskHigh: 0, client: 1 });
        }
        const ended = [...open.keys()].filter(() => random.below(3) === 0);
        for (const each of ended) {
          log.end(each);
          open.delete(each);
          promised.delete(each);
        }
        log.write();
        if (random.below(2) === 0) {
          log.sync();
          for (const each of open.keys()) promised.add(each);
        }
      } else if (dice < 75) {
        const fence = ++id;
        log.fence(fence, 2);
        log.write();
        log.sync();
        fences.add(fence);
        for (const each of open.keys()) promised.add(each);
      } else if (dice < 85) {
        log.restate(
          open.values(),
          [...fences].map((each) => [each, 2] as const),
        );
        for (const each of open.keys()) promised.add(each);
      } else if (dice < 93) {
        log.close();
        log = openLog(env, options);
        for (const each of open.keys()) promised.add(each);
      } else log = openLog(env, options);
    }
    return { states, problems };
  }

  test.each([1, 2, 3, 4, 5, 6])(
    'no decision that was told is lost, none appears that was not made (seed %i)',
    (seed) => {
      const { states, problems } = run(seed, false);
      expect(problems).toEqual([]);
      expect(states).toBeGreaterThan(200);
    },
  );

  test('the control: a disk that does not sync loses some', () => {
    const problems = [1, 2, 3].flatMap((seed) => run(seed, true).problems);
    expect(problems.some((problem) => problem.includes('is lost'))).toBe(true);
  });
});
