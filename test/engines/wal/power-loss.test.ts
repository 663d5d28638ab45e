/**
 * Power loss at every file operation of a recorded workload. A hook stands before each operation, takes several disks a crash at that
 * moment could leave, and recovers each of them.
 */
import { describe, expect, test } from 'vitest';
import { WalWriter } from '../../../dist/engines/wal/writer.js';
import { SEGMENT_HEADER_BYTES } from '../../../dist/engines/wal/format.js';
import { preallocateSegment } from '../../../dist/engines/wal/preallocate.js';
import { ConcordError } from '../../../dist/shared/errors.js';
import type { Env } from '../../../dist/shared/env/env.js';
import { MemEnv } from '../../../dist/shared/env/mem-env.js';
import type { DataSurvival, NameSurvival } from '../../../dist/shared/env/mem-env.js';
import { Random } from '../../../dist/shared/random.js';
import { DIRECTORY, SMALL, append, payloadOf, recover } from './wal-scene.js';
import type { Record } from './wal-scene.js';

const DATA: DataSurvival[] = ['drop-all', 'keep-all', 'prefix', 'sectors', 'writes'];
const NAMES: NameSurvival[] = ['drop-all', 'keep-all', 'ordered', 'arbitrary'];

/** What the caller of the log knows at a moment. */
interface Knowledge {
  /** Every record committed, or in the course of being committed; a later life replaces what an earlier one lost. */
  records: Record[];
  /** sync() has returned for all up to here. */
  syncedLsn: number;
  /** A checkpoint up to here is durable. */
  checkpointLsn: number;
}

interface Outcome {
  states: number;
  /** Times at which more was durable than sync() had been asked for. */
  behind: number;
  /** Times at which nothing of the log was needed any more, and it began anew. */
  anew: number;
  violations: string[];
}

/** What is wrong with a disk found after a crash; undefined: nothing. */
function judge(disk: MemEnv, known: Knowledge, goOn: boolean): string | undefined {
  const fromLsn = known.checkpointLsn + 1;
  const tail = known.records.filter((record) => record.lsn >= fromLsn);
  let survived;
  try {
    survived = recover(disk, { fromLsn });
  } catch (error) {
    if (error instanceof ConcordError) return `${error.code}: ${error.message}`;
    throw error;
  }
  if (survived.lastLsn < known.syncedLsn) return `synced up to ${known.syncedLsn}, recovered up to ${survived.lastLsn}`;
  const expected = tail.slice(0, survived.records.length);
  if (JSON.stringify(survived.records) !== JSON.stringify(expected)) {
    return `recovered ${JSON.stringify(survived.records.map((r) => r.lsn))} are not a prefix of what was written`;
  }
  if (!goOn) return undefined;
  // The store goes on behind the cut, and loses power again.
  const writer = WalWriter.open(disk, DIRECTORY, SMALL, survived);
  const later = [append(writer, payloadOf(writer.lastLsn + 1, 70, 999))];
  writer.sync();
  later.push(append(writer, payloadOf(writer.lastLsn + 1, 70, 999)));
  const again = disk.crash(new Random(1), { data: 'writes', names: 'arbitrary' });
  return judge(
    again,
    { records: [...expected, ...later], syncedLsn: later[0]!.lsn, checkpointLsn: known.checkpointLsn },
    false,
  );
}

interface RunOptions {
  readonly ignoreSync: boolean;
  /** Syncs behind the thread's back begin at so many bytes, and end between some steps. Default: there are none. */
  readonly backgroundSyncBytes?: number;
  readonly crashesPerOperation: number;
  /** Limits of the dice 0..99: append, sync, writeOut, truncate, spare; the rest is restarts. */
  readonly limits: readonly [append: number, sync: number, writeOut: number, truncate: number, spare: number];
}
const MIXED = [60, 80, 86, 92, 95] as const;
const RARELY_SYNCED = [75, 80, 86, 92, 97] as const;
/** Restarts without a checkpoint: segments without a record become spares while older ones are still needed. */
const RESTARTS = [45, 55, 55, 55, 55] as const;
const OFTEN_AT_REST = [35, 45, 47, 92, 96] as const;

async function run(seed: number, options: RunOptions): Promise<Outcome> {
  const [appends, syncs, writesOut, truncates, spares] = options.limits;
  const random = new Random(seed);
  const crashRandom = new Random(seed + 1);
  const known: Knowledge = { records: [], syncedLsn: 0, checkpointLsn: 0 };
  const outcome: Outcome = { states: 0, behind: 0, anew: 0, violations: [] };
  let isWatching = false;
  const env = new MemEnv({
    seed,
    ignoreSync: options.ignoreSync,
    onOperation: (index, kind, path) => {
      if (!isWatching) return;
      for (let i = 0; i < options.crashesPerOperation; i++) {
        const data = DATA[crashRandom.below(DATA.length)]!;
        const names = NAMES[crashRandom.below(NAMES.length)]!;
        const problem = judge(env.crash(crashRandom, { data, names }), known, outcome.states % 4 === 0);
        outcome.states++;
        if (problem !== undefined)
          outcome.violations.push(`seed ${seed}, ${data}/${names} before ${index} ${kind} ${path}: ${problem}`);
      }
    },
  });
  env.makeDirectory(DIRECTORY);
  for (const path of ['/', '/store', DIRECTORY]) env.syncDirectory(path);
  const { backgroundSyncBytes } = options;
  const logOptions = { ...SMALL, spareSegmentsMax: 2, preallocateBytes: 16 << 10, backgroundSyncBytes };
  let writer = WalWriter.create(env, DIRECTORY, logOptions);
  isWatching = true;
  let syncedByCall = 0;
  for (let step = 0; step < 60; step++) {
    if (backgroundSyncBytes !== undefined && random.below(3) === 0) {
      await new Promise((resolve) => setImmediate(resolve));
      known.syncedLsn = Math.max(known.syncedLsn, writer.syncedLsn);
      outcome.behind += writer.syncedLsn > syncedByCall ? 1 : 0;
    }
    const choice = random.below(100);
    if (choice < appends) {
      const payload = payloadOf(
        writer.lastLsn + 1,
        random.below(10) < 3 ? random.below(30_000) : random.below(200),
        step,
      );
      const lsn = writer.lastLsn + 1;
      const record: Record = { lsn, firstSeq: lsn * 3, operationCount: 2, payload: payload.toString('hex') };
      // The record counts as possible from the start of its commit.
      known.records = [...known.records.filter((other) => other.lsn < lsn), record];
      append(writer, payload, lsn * 3, 2, random.below(4) === 0);
    } else if (choice < syncs) {
      writer.sync();
      known.syncedLsn = syncedByCall = writer.lastLsn;
    } else if (choice < writesOut) writer.writeOut();
    else if (choice < truncates) {
      // A checkpoint may hold what the log has not synced.
      if (random.below(2) === 0) writer.sync();
      known.syncedLsn = Math.max(known.syncedLsn, writer.syncedLsn);
      known.checkpointLsn = Math.max(known.checkpointLsn, writer.lastLsn - random.below(6), 0);
      const before = writer.sizeBytes;
      writer.truncate(known.checkpointLsn);
      if (writer.sizeBytes === SEGMENT_HEADER_BYTES && before > SEGMENT_HEADER_BYTES) outcome.anew++;
    } else if (choice < spares) writer.offerSpare(preallocateSegment(env, DIRECTORY, SMALL.segmentBytes!));
    else {
      // Orderly, or a process killed with the page cache alive.
      if (random.below(2) === 0) writer.close();
      const found = recover(env, { fromLsn: known.checkpointLsn + 1 });
      known.records = known.records.filter((record) => record.lsn <= found.lastLsn);
      writer = WalWriter.open(env, DIRECTORY, logOptions, found);
      known.syncedLsn = syncedByCall = writer.lastLsn;
    }
  }
  return outcome;
}

describe('a segment that becomes a spare', () => {
  /** A durable segment 1 with a record and an empty segment 2; the next open renames segment 2 to a spare. */
  function scene(onOperation?: () => void): { env: MemEnv; records: Record[] } {
    const env = new MemEnv(onOperation === undefined ? {} : { onOperation });
    env.makeDirectory(DIRECTORY);
    for (const path of ['/', '/store', DIRECTORY]) env.syncDirectory(path);
    const writer = WalWriter.create(env, DIRECTORY, SMALL);
    const records = [append(writer, payloadOf(1, 100))];
    writer.close();
    WalWriter.open(env, DIRECTORY, SMALL, recover(env)).close();
    return { env, records };
  }
  /** The disk after a power loss that keeps all data and no unsynced name: the worst for reused files. */
  const crash = (env: MemEnv): MemEnv => env.crash(new Random(1), { data: 'keep-all', names: 'drop-all' });

  test('keeps its old content until its old name is durably gone', () => {
    const disks: MemEnv[] = [];
    let isWatching = false;
    const { env, records } = scene(() => {
      if (isWatching) disks.push(crash(env));
    });
    isWatching = true;
    const writer = WalWriter.open(env, DIRECTORY, SMALL, recover(env));
    expect(writer.spareCount).toBe(1);
    while (writer.spareCount > 0) records.push(append(writer, payloadOf(writer.lastLsn + 1, 30_000)));
    for (const disk of disks) expect(recover(disk).records).toEqual(records.slice(0, recover(disk).lastLsn));
    expect(recover(env).records).toEqual(records);
  });

  test('does so too when a kill came between and another process goes on', () => {
    const { env, records } = scene();
    const disks: MemEnv[] = [];
    let isKilledAtSpare = true;
    let renamedTo = '';
    const watched: Env = {
      open: (path, mode) => env.open(path, mode),
      exists: (path) => env.exists(path),
      list: (directory) => env.list(directory),
      makeDirectory: (path) => env.makeDirectory(path),
      remove: (path) => env.remove(path),
      now: () => env.now(),
      randomBytes: (length) => env.randomBytes(length),
      rename: (from, to) => {
        renamedTo = to;
        env.rename(from, to);
      },
      syncDirectory: (path) => {
        if (isKilledAtSpare && renamedTo.endsWith('.spare')) throw new Error('killed');
        disks.push(crash(env));
        env.syncDirectory(path);
      },
    };
    expect(() => WalWriter.open(watched, DIRECTORY, SMALL, recover(env))).toThrow('killed');
    isKilledAtSpare = false;
    WalWriter.open(watched, DIRECTORY, SMALL, recover(env)).close();
    expect(disks.length).toBeGreaterThan(2);
    for (const disk of disks) expect(recover(disk).records).toEqual(records);
  });
});

describe('power loss at every operation', () => {
  test.each([1, 2, 3, 4, 5, 6])('loses no synced record and leaves none half there (workload %i)', async (seed) => {
    const { states, violations } = await run(seed, { ignoreSync: false, crashesPerOperation: 8, limits: MIXED });
    expect(violations).toEqual([]);
    expect(states).toBeGreaterThan(300);
  });

  test.each([11, 12, 13])('loses nothing among many restarts (workload %i)', async (seed) => {
    const { states, violations } = await run(seed, { ignoreSync: false, crashesPerOperation: 8, limits: RESTARTS });
    expect(violations).toEqual([]);
    expect(states).toBeGreaterThan(300);
  });

  test.each([31, 32, 33])('loses nothing of a log that often begins anew (workload %i)', async (seed) => {
    const options = { ignoreSync: false, crashesPerOperation: 8, limits: OFTEN_AT_REST };
    const { states, anew, violations } = await run(seed, options);
    expect(violations).toEqual([]);
    expect(states).toBeGreaterThan(300);
    expect(anew).toBeGreaterThan(0);
  });

  test.each([21, 22, 23])(
    'loses nothing that a sync behind the thread’s back has made durable (workload %i)',
    async (seed) => {
      const { states, behind, violations } = await run(seed, {
        ignoreSync: false,
        crashesPerOperation: 8,
        limits: RARELY_SYNCED,
        backgroundSyncBytes: 4096,
      });
      expect(violations).toEqual([]);
      expect(states).toBeGreaterThan(300);
      expect(behind).toBeGreaterThan(3);
    },
  );

  test('would be noticed if fsync did nothing', async () => {
    const { violations } = await run(1, { ignoreSync: true, crashesPerOperation: 4, limits: MIXED });
    expect(violations.some((text) => text.includes('synced up to'))).toBe(true);
  });
});
