/**
 * Damaged files of a shard: bytes flipped, files cut, lost, swapped, doubled. An open gives a coded error that names the file, or the right
 * data; in the lenient modes a part of it that was written so. Never anything else.
 *
 *   CORRUPTION_OFFSETS=all   every byte of every file instead of a sample
 *   CORRUPTION_SEED=5        another sample and other bits
 */
import { beforeAll, describe, expect, test } from 'vitest';
import { Durability } from '../../dist/engines/store/shard-store.js';
import type { ShardStoreOptions } from '../../dist/engines/store/options.js';
import type { ShardStore } from '../../dist/engines/store/shard-store.js';
import { FRAME_HEADER_BYTES, SEGMENT_HEADER_BYTES, frameBytes } from '../../dist/engines/wal/format.js';
import type { WalRecoveryMode } from '../../dist/engines/wal/recovery.js';
import { MemEnv } from '../../dist/shared/env/mem-env.js';
import { ConcordError } from '../../dist/shared/errors.js';
import { Random } from '../../dist/shared/random.js';
import {
  DIRECTORY,
  STORE_ID,
  applied,
  checkpoint,
  commit,
  createStore,
  failure,
  openStore,
  readState,
  stateText,
} from '../support/store-scene.js';
import type { Operation, State } from '../support/store-scene.js';

const SEED = Number(process.env.CORRUPTION_SEED ?? 1);
const ALL = process.env.CORRUPTION_OFFSETS === 'all';
const MODES: readonly WalRecoveryMode[] = ['tolerate-torn-tail', 'strict', 'point-in-time', 'salvage'];
const CODES = ['ERR_CORRUPT', 'ERR_FORMAT_VERSION'];
/** Groups of the scene, and those of them before its checkpoint. */
const GROUPS = 40;
const CHECKPOINTED = 16;
/** The last groups are not synced. */
const SYNCED = GROUPS - 3;

let disk: MemEnv;
/** State after each group. */
const states: State[] = [new Map()];
/** Every fingerprint a key ever had. */
const everWritten = new Map<string, Set<string>>();
let checkpointPath: string;
let segments: string[];
let files: string[];

function readBytes(path: string): Buffer {
  const file = disk.open(path, 'read');
  const bytes = Buffer.alloc(file.size());
  file.read(bytes, 0, bytes.length, 0);
  file.close();
  return bytes;
}

function replaceBytes(env: MemEnv, path: string, bytes: Uint8Array): void {
  if (env.exists(path)) env.remove(path);
  const file = env.open(path, 'create');
  file.write(bytes, 0, bytes.length, 0);
  file.close();
}

beforeAll(() => {
  const random = new Random(77);
  disk = new MemEnv({ seed: 5 });
  const store = createStore(disk);
  for (let group = 1; group <= GROUPS; group++) {
    const operations = Array.from({ length: 6 }, (): Operation => {
      const key = `key-${random.below(25)}`;
      const kind = random.below(12);
      if (kind === 0) return { kind: 'clear', low: key, high: `${key}5` };
      if (kind < 3) return { kind: 'del', key };
      return { kind: 'put', key, value: random.bytes(random.pick([0, 50, 1400, 5000])) };
    });
    // A value in chunks, begun before the checkpoint and put behind it.
    const blob = { client: 3, blob: 1 };
    const bytes = Buffer.alloc(7000, 9);
    if (group === CHECKPOINTED - 1) {
      operations.push({
        kind: 'chunk',
        ...blob,
        ofBatch: false,
        offset: 0,
        totalBytes: 7000,
        bytes: bytes.subarray(0, 4000),
      });
    } else if (group === CHECKPOINTED + 1) {
      operations.push({
        kind: 'chunk',
        ...blob,
        ofBatch: false,
        offset: 4000,
        totalBytes: 7000,
        bytes: bytes.subarray(4000),
      });
    } else if (group === CHECKPOINTED + 2) operations.push({ kind: 'putBlob', ...blob, key: 'blob', value: bytes });
    const state = applied(states.at(-1)!, operations);
    states.push(state);
    for (const [key, value] of state) everWritten.set(key, (everWritten.get(key) ?? new Set()).add(value));
    // Values that a later operation of the group replaced count too.
    for (const operation of operations) {
      for (const [key, value] of applied(new Map(), [operation])) everWritten.get(key)?.add(value);
    }
    commit(store, group <= SYNCED ? Durability.Sync : Durability.Os, operations);
    if (group === CHECKPOINTED) checkpoint(disk, store);
  }
  const names = disk.list(DIRECTORY);
  checkpointPath = `${DIRECTORY}/${names.find((name) => name.endsWith('.ckpt'))!}`;
  segments = names.filter((name) => name.endsWith('.log')).map((name) => `${DIRECTORY}/${name}`);
  files = [checkpointPath, ...segments];
});

/** Reads what is there and leaves the files alone. */
function open(env: MemEnv, recoveryMode: WalRecoveryMode, options: Partial<ShardStoreOptions> = {}): ShardStore {
  return openStore(env, { readOnly: true, recoveryMode, ...options });
}

/**
 * What is wrong with the outcome of an open; undefined: nothing. `mayEndAt`: the least number of groups that must be there. `mayBeSilent`: what
 * is missing left no trace.
 */
function judge(
  env: MemEnv,
  mode: WalRecoveryMode,
  mayEndAt: number,
  guilty: readonly string[],
  mayBeSilent = false,
): string | undefined {
  let store;
  try {
    store = open(env, mode);
  } catch (error) {
    if (!(error instanceof ConcordError)) return `throws ${String(error)}`;
    if (!CODES.includes(error.code)) return `fails with ${error.code}: ${error.message}`;
    const file = String(error.details.file);
    if (!guilty.includes(file)) return `blames ${file}: ${error.message}`;
    return error.message.includes(file) ? undefined : `does not name ${file}: ${error.message}`;
  }
  const problems = store.tree.check();
  if (problems.length > 0) return `check: ${problems.join('; ')}`;
  const state = readState(store);
  const { wal } = store.recovery;
  if (mode === 'salvage') {
    for (const [key, value] of state) if (!everWritten.get(key)?.has(value)) return `${key} has a value it never had`;
    const isWhole = stateText(state) === stateText(states.at(-1)!);
    const isReported = wal!.cut !== undefined || wal!.losses.length > 0;
    return isWhole || isReported || mayBeSilent ? undefined : 'something is missing and nothing is said';
  }
  const text = stateText(state);
  const index = states.findLastIndex((candidate) => stateText(candidate) === text);
  if (index < 0) return 'shows a state that never was';
  if (index < (mode === 'point-in-time' ? Math.min(mayEndAt, CHECKPOINTED) : mayEndAt))
    return `ends with group ${index} of ${mayEndAt}`;
  if (mode === 'strict' && index < GROUPS && !mayBeSilent) return `strict, and yet it ends with group ${index}`;
  if (mode === 'point-in-time' && index < SYNCED && wal!.cut === undefined && !mayBeSilent)
    return 'is cut and does not say so';
  return undefined;
}

function withBytes(path: string, change: (bytes: Buffer) => void, check: () => void): void {
  const file = disk.open(path, 'write');
  const before = readBytes(path);
  const bytes = Buffer.from(before);
  change(bytes);
  file.write(bytes, 0, bytes.length, 0);
  try {
    check();
  } finally {
    file.write(before, 0, before.length, 0);
    file.close();
  }
}

/** Where frames of a segment begin, and where the last one ends. */
function frameStarts(path: string): number[] {
  const bytes = readBytes(path);
  const starts: number[] = [];
  let at = SEGMENT_HEADER_BYTES;
  while (at + FRAME_HEADER_BYTES <= bytes.length && bytes.readUInt32LE(at + 12) !== 0) {
    starts.push(at);
    at += frameBytes(bytes.readUInt32LE(at + 8));
  }
  return [...starts, at];
}

/** All interesting places, and a sample of the others. */
function offsetsOf(path: string, random: Random, sample: number): number[] {
  const { length } = readBytes(path);
  if (ALL) return Array.from({ length }, (_, offset) => offset);
  const offsets = new Set<number>();
  const around = path === checkpointPath ? [0, 128, length - 40] : [0, ...frameStarts(path)];
  for (const start of around)
    for (const field of [0, 4, 8, 12, 16, 24, 32, 36, 40, 47, 48, 52]) offsets.add(start + field);
  // Frames end long before their segment.
  const used = path === checkpointPath ? length : frameStarts(path).at(-1)!;
  for (let i = 0; i < sample; i++) offsets.add(random.below(i % 8 === 0 ? length : used));
  return [...offsets].filter((offset) => offset < length).sort((a, b) => a - b);
}

test('the scene is whole in every mode, and has what the others damage', () => {
  expect(segments.length).toBeGreaterThan(2);
  for (const mode of MODES) {
    const store = open(disk, mode);
    expect(stateText(readState(store))).toBe(stateText(states.at(-1)!));
    expect(store.recovery.checkpoint?.lsn).toBe(CHECKPOINTED);
    expect(store.recovery.wal).toMatchObject({ cut: undefined, losses: [] });
  }
  // Something of the log stands before the checkpoint's end: the value that was on its way.
  expect(open(disk, 'strict').recovery.wal!.frames).toBeGreaterThan(GROUPS - CHECKPOINTED);
  expect(readState(open(disk, 'strict')).has('blob')).toBe(true);
});

describe.each(MODES)('%s: a flipped byte', (mode) => {
  test('gives a coded error that names the file, or data that was written so', () => {
    const random = new Random(SEED);
    const problems: string[] = [];
    let errors = 0;
    let opened = 0;
    for (const path of files) {
      for (const offset of offsetsOf(path, random, 40)) {
        const mask = random.pick([0xff, 1 << random.below(8)]);
        withBytes(
          path,
          (bytes) => {
            bytes[offset]! ^= mask;
          },
          () => {
            const problem = judge(disk, mode, SYNCED, [path]);
            if (problem !== undefined) problems.push(`${path} at ${offset} ^ ${mask}: ${problem}`);
            try {
              open(disk, mode);
              opened++;
            } catch {
              errors++;
            }
          },
        );
      }
    }
    expect(problems.join('\n')).toBe('');
    // Both outcomes were met.
    expect(errors).toBeGreaterThan(20);
    expect(opened).toBeGreaterThan(mode === 'strict' ? 0 : 5);
  });
});

describe.each(MODES)('%s: a file cut short', (mode) => {
  test('gives a coded error that names it, or the groups before the cut', () => {
    const random = new Random(SEED + 1);
    const problems: string[] = [];
    for (const path of files) {
      const before = readBytes(path);
      const isLast = path === segments.at(-1);
      const starts = path === checkpointPath ? [] : frameStarts(path);
      const framesBefore = SYNCED + 3 - (starts.length - 1);
      const lengths = new Set(offsetsOf(path, random, 16));
      for (const length of lengths) {
        const file = disk.open(path, 'write');
        file.truncate(length);
        // Nothing says how much followed in the last segment.
        const whole = isLast
          ? framesBefore + starts.filter((start) => start > SEGMENT_HEADER_BYTES && start <= length).length
          : GROUPS;
        // Between two frames the end looks like an end.
        const mayBeSilent = isLast && starts.includes(length);
        const problem = judge(disk, mode, isLast ? whole : SYNCED, [path], mayBeSilent);
        if (problem !== undefined) problems.push(`${path} cut to ${length}: ${problem}`);
        file.write(before, 0, before.length, 0);
        file.close();
      }
    }
    expect(problems.join('\n')).toBe('');
  });
});

describe('files that are lost, swapped or doubled', () => {
  const copy = (): MemEnv => disk.crash(new Random(1), 'keep-all');

  test('a lost checkpoint is an error, except where what is left of the log is asked for', () => {
    const env = copy();
    env.remove(checkpointPath);
    for (const mode of ['tolerate-torn-tail', 'strict'] as const) {
      const error = failure(() => open(env, mode));
      expect(error).toMatchObject({ code: 'ERR_CORRUPT', details: { file: segments[0] } });
    }
    // A prefix, though an empty one, that says why.
    const prefix = open(env, 'point-in-time');
    expect(readState(prefix).size).toBe(0);
    expect(prefix.recovery.wal!.cut).toBeDefined();
    const rest = open(env, 'salvage');
    expect(rest.recovery.wal!.losses).toHaveLength(1);
    for (const [key, value] of readState(rest)) expect(everWritten.get(key)).toContain(value);
  });

  test('a lost segment before the last is an error that names its neighbour', () => {
    for (const path of segments.slice(0, -1)) {
      const env = copy();
      env.remove(path);
      for (const mode of ['tolerate-torn-tail', 'strict'] as const) {
        const error = failure(() => open(env, mode));
        expect(error.code).toBe('ERR_CORRUPT');
        expect(segments).toContain(error.details.file);
      }
      for (const mode of ['point-in-time', 'salvage'] as const) {
        const problem = judge(env, mode, 0, segments);
        expect(problem).toBeUndefined();
        const { wal } = open(env, mode).recovery;
        expect(wal!.cut !== undefined || wal!.losses.length > 0).toBe(true);
      }
    }
  });

  test('a log that ends before its checkpoint is an error', () => {
    const env = copy();
    for (const path of segments.slice(1)) env.remove(path);
    const file = env.open(segments[0]!, 'write');
    const starts = frameStarts(segments[0]!);
    file.truncate(starts.at(-1)!);
    const firstLsn = GROUPS + 1 - segments.reduce((sum, path) => sum + frameStarts(path).length - 1, 0);
    file.truncate(starts[CHECKPOINTED - firstLsn]!);
    file.close();
    for (const mode of ['tolerate-torn-tail', 'strict'] as const) {
      expect(failure(() => open(env, mode))).toMatchObject({ code: 'ERR_CORRUPT', details: { file: segments[0] } });
    }
  });

  test('without any segment, or without its directory, a shard does not open', () => {
    const env = copy();
    for (const path of segments) env.remove(path);
    for (const mode of MODES)
      expect(failure(() => open(env, mode))).toMatchObject({ code: 'ERR_CORRUPT', details: { file: DIRECTORY } });
    const empty = new MemEnv();
    empty.makeDirectory('/data');
    for (const readOnly of [true, false]) {
      const error = failure(() => openStore(empty, { readOnly }));
      expect(error).toMatchObject({ code: 'ERR_CORRUPT', details: { file: DIRECTORY } });
      expect(empty.list('/data')).toEqual([]);
    }
  });

  test('two files that changed places are errors in every mode', () => {
    for (const first of files) {
      for (const second of files) {
        if (first >= second) continue;
        const env = copy();
        replaceBytes(env, first, readBytes(second));
        replaceBytes(env, second, readBytes(first));
        for (const mode of MODES) expect(judge(env, mode, SYNCED, [first, second])).toBeUndefined();
        expect(failure(() => open(env, 'tolerate-torn-tail')).code).toBe('ERR_CORRUPT');
      }
    }
  });

  test('a copy under the name of a successor is an error; under any other name it is no part of the log', () => {
    const successor = `${DIRECTORY}/wal-0000000099.log`;
    for (const path of segments) {
      const env = copy();
      replaceBytes(env, successor, readBytes(path));
      for (const mode of MODES)
        expect(failure(() => open(env, mode))).toMatchObject({ code: 'ERR_CORRUPT', details: { file: successor } });
    }
    const newer = `${DIRECTORY}/checkpoint-0000000000000099.ckpt`;
    const env = copy();
    replaceBytes(env, newer, readBytes(checkpointPath));
    for (const mode of MODES)
      expect(failure(() => open(env, mode))).toMatchObject({ code: 'ERR_CORRUPT', details: { file: newer } });

    const harmless = copy();
    for (const name of [
      'wal-0000000001.log.bak',
      'wal-00ff.spare',
      'wal-7.tmp',
      'checkpoint-0000000000000099-ab.tmp',
      'note.txt',
    ]) {
      replaceBytes(harmless, `${DIRECTORY}/${name}`, readBytes(segments[0]!));
    }
    for (const mode of MODES) expect(stateText(readState(open(harmless, mode)))).toBe(stateText(states.at(-1)!));
    // Opened for writing it goes on and tidies up.
    const store = openStore(harmless);
    expect(stateText(readState(store))).toBe(stateText(states.at(-1)!));
    commit(store, Durability.Sync, [{ kind: 'put', key: 'later', value: Buffer.from('x') }]);
    const again = openStore(harmless.crash(new Random(1), 'drop-all'));
    expect(readState(again).size).toBe(states.at(-1)!.size + 1);
    expect(harmless.list(DIRECTORY)).not.toContain('wal-7.tmp');
  });

  test('files of another store or another shard are errors in every mode', () => {
    for (const mode of MODES) {
      const other = Buffer.from(STORE_ID.map((byte) => byte ^ 1));
      expect(failure(() => open(disk, mode, { storeId: other }))).toMatchObject({
        code: 'ERR_CORRUPT',
        details: { file: checkpointPath },
      });
      expect(failure(() => open(disk, mode, { shard: 1 }))).toMatchObject({
        code: 'ERR_CORRUPT',
        details: { file: checkpointPath },
      });
      const logOnly = { storeId: other, ignoreCheckpoint: true };
      expect(segments).toContain(failure(() => open(disk, mode, logOnly)).details.file);
    }
  });

  test('a lenient recovery followed by a checkpoint opens strictly again', () => {
    for (const mode of ['point-in-time', 'salvage'] as const) {
      const env = copy();
      const bytes = readBytes(segments[1]!);
      bytes[frameStarts(segments[1]!)[1]! + 60]! ^= 0x55;
      replaceBytes(env, segments[1]!, bytes);
      const store = openStore(env, { recoveryMode: mode });
      const state = stateText(readState(store));
      checkpoint(env, store);
      store.close();
      expect(stateText(readState(openStore(env, { recoveryMode: 'strict' })))).toBe(state);
    }
  });
});
