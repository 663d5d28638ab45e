/**
 * Damaged files of a store, through the pool: opening gives a coded error that names the file, or data that was there; verify finds it; repair
 * brings back what is left. Every byte of the manifest, and a sample of the bytes of log and checkpoint.
 */
import { cpSync, mkdirSync, readFileSync, renameSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { ConcordError, ConcordPool, type PoolOptions } from '../../dist/index.js';
import { inspectSegment } from '../../dist/engines/wal/inspect.js';
import { NodeEnv } from '../../dist/shared/env/node-env.js';
import {
  failureOf,
  filesOf,
  makeDirectory,
  patternText,
  removeDirectory,
  runCount,
  scratchDirectory,
} from '../support/pool-scene.js';

const OPTIONS = { memoryBytes: 64 << 20 };

function flip(file: string, offset: number, mask = 0xff): void {
  const bytes = readFileSync(file);
  bytes[offset]! ^= mask;
  writeFileSync(file, bytes);
}

type State = ReadonlyMap<string, string>;

async function stateOf(directory: string, options: PoolOptions = {}): Promise<Map<string, string>> {
  const db = await ConcordPool.open(directory, { ...OPTIONS, ...options });
  try {
    expect(await db.host!.check()).toEqual([]);
    return new Map(await db.iterator().all());
  } finally {
    await db.close();
  }
}

function same(a: State, b: State): boolean {
  return a.size === b.size && [...a].every(([key, value]) => b.get(key) === value);
}

/** A closed store of one shard with a checkpoint and log behind it, and every state it went through. */
async function makeHistory(directory: string): Promise<State[]> {
  const db = await ConcordPool.open(directory, { ...OPTIONS, shards: 1, segmentBytes: 262144, durability: 'sync' });
  const states: State[] = [];
  const current = new Map<string, string>();
  const put = async (key: string, value: string): Promise<void> => {
    await db.put(key, value);
    current.set(key, value);
    states.push(new Map(current));
  };
  states.push(new Map());
  for (let i = 0; i < 30; i++) await put(`key${i}`, patternText(i * 60, i));
  await put('large', patternText(200_000, 1));
  await db.host!.checkpointAll();
  for (let i = 0; i < 25; i++) {
    await put(`key${i * 2}`, patternText(i * 80, i + 100));
    if (i % 5 === 0) {
      await db.del(`key${i}`);
      current.delete(`key${i}`);
      states.push(new Map(current));
    }
    if (i % 8 === 3) {
      const batch = [
        { type: 'put', key: `one of ${i}`, value: 'together' },
        { type: 'put', key: `other of ${i}`, value: 'together' },
      ] as const;
      await db.batch(batch);
      for (const { key, value } of batch) current.set(key, value);
      states.push(new Map(current));
    }
  }
  await put('large', patternText(300_000, 2));
  for (let i = 0; i < 6; i++) await put(`last${i}`, `value ${i}`);
  await db.close();
  return states;
}

describe('a store with a history', () => {
  let original: string;
  let states: State[];
  beforeAll(async () => {
    original = join(makeDirectory(), 'store');
    states = await makeHistory(original);
    expect(same(await stateOf(original), states.at(-1)!)).toBe(true);
    expect(await ConcordPool.verify(original)).toMatchObject({
      ok: true,
      problems: [],
      shards: 1,
      entries: states.at(-1)!.size,
    });
  });
  afterAll(() => {
    removeDirectory(join(original, '..'));
  });

  function copy(): string {
    const directory = join(scratchDirectory(), 'store');
    cpSync(original, directory, { recursive: true });
    return directory;
  }

  test('every byte of the manifest is guarded: a flipped one is ERR_CORRUPT, for open, verify, repair and restore', async () => {
    const directory = copy();
    const manifest = join(directory, 'MANIFEST');
    const good = readFileSync(manifest);
    for (let offset = 0; offset < good.length; offset++) {
      const bad = Buffer.from(good);
      bad[offset]! ^= 1 << (offset % 8);
      writeFileSync(manifest, bad);
      // The last line break alone is not needed.
      if (offset === good.length - 1) break;
      const failure = await failureOf(ConcordPool.open(directory));
      expect(failure, `byte ${offset}`).toMatchObject({ code: 'ERR_CORRUPT', details: { file: manifest } });
      expect(failure.message).toContain(manifest);
      const report = await ConcordPool.verify(directory);
      expect(report, `byte ${offset}`).toMatchObject({
        ok: false,
        problems: [{ code: 'ERR_CORRUPT', details: { file: manifest } }],
      });
    }
    expect(await failureOf(ConcordPool.repair(directory))).toMatchObject({ code: 'ERR_CORRUPT' });
    expect(await failureOf(ConcordPool.restore(directory, `${directory}-copy`))).toMatchObject({ code: 'ERR_CORRUPT' });
    writeFileSync(manifest, good);
    expect(same(await stateOf(directory), states.at(-1)!)).toBe(true);
  });

  test('a manifest cut at any length is ERR_CORRUPT, or whole', async () => {
    const directory = copy();
    const manifest = join(directory, 'MANIFEST');
    const good = readFileSync(manifest);
    for (let length = 0; length < good.length - 1; length++) {
      writeFileSync(manifest, good.subarray(0, length));
      expect(await failureOf(ConcordPool.open(directory)), `length ${length}`).toMatchObject({
        code: 'ERR_CORRUPT',
        details: { file: manifest },
      });
    }
    writeFileSync(manifest, good.subarray(0, good.length - 1));
    expect(same(await stateOf(directory), states.at(-1)!)).toBe(true);
  });

  /** The damaged store is refused with a code and the file's name, or is a state it once had; and then it can be repaired. */
  async function judge(
    directory: string,
    file: string,
    what: string,
    mayLose: 'nothing' | 'last' | 'tail',
  ): Promise<'refused' | 'whole' | 'cut'> {
    const report = await ConcordPool.verify(directory);
    for (const problem of report.problems) expect(problem.code, what).toMatch(/^ERR_(CORRUPT|FORMAT_VERSION)$/);
    let found: Map<string, string>;
    try {
      found = await stateOf(directory);
    } catch (error) {
      expect(error, what).toBeInstanceOf(ConcordError);
      expect((error as ConcordError).code, what).toMatch(/^ERR_(CORRUPT|FORMAT_VERSION)$/);
      expect((error as ConcordError).message, what).toContain(basename(file));
      expect((error as ConcordError).details, what).toMatchObject({ file });
      expect(report.ok, what).toBe(false);
      return 'refused';
    }
    const at = states.findLastIndex((state) => same(state, found));
    expect(at, `${what}: what was read never was a state of the store`).toBeGreaterThanOrEqual(0);
    const lost = states.length - 1 - at;
    if (mayLose !== 'tail') expect(lost, what).toBeLessThanOrEqual(mayLose === 'last' ? 1 : 0);
    return lost === 0 ? 'whole' : 'cut';
  }

  interface Frame {
    readonly path: string;
    readonly offset: number;
    readonly bytes: number;
  }

  /** Frames of the log in order, the header of each included. */
  function framesOf(): Frame[] {
    return filesWith('.log').flatMap((path) =>
      inspectSegment(new NodeEnv(), path).frames.map(({ offset, payloadBytes }) => ({
        path,
        offset,
        bytes: 48 + ((payloadBytes + 7) & ~7),
      })),
    );
  }

  /** The frame that wrote this text. */
  function frameWith(text: string): Frame {
    return framesOf().find(({ path, offset, bytes }) =>
      readFileSync(path)
        .subarray(offset, offset + bytes)
        .includes(text),
    )!;
  }

  const filesWith = (ending: string): string[] => filesOf(original).filter((file) => file.endsWith(ending));

  /** Offsets spread over the file, its head and the end of what is used included. */
  function sample(usedBytes: number, count: number): number[] {
    const offsets = [0, 8, 40, 100, 127, 4095, 4096, 4100, 4144, usedBytes - 1, usedBytes - 9];
    for (let i = 1; i <= count; i++) offsets.push(Math.floor((usedBytes * (i - 0.37)) / count));
    return offsets.filter((offset) => offset >= 0 && offset < usedBytes);
  }

  test('a flipped byte in the checkpoint is refused, wherever it is', async () => {
    const [checkpoint] = filesWith('.ckpt') as [string];
    const directory = copy();
    const file = join(directory, 'shard-0000', basename(checkpoint));
    const { size } = statSync(checkpoint);
    for (const offset of sample(size, runCount(4))) {
      flip(file, offset);
      expect(await judge(directory, file, `byte ${offset} of ${size}`, 'nothing')).toBe('refused');
      flip(file, offset);
    }
    expect(same(await stateOf(directory), states.at(-1)!)).toBe(true);
  });

  test('a checkpoint cut anywhere, or longer than it was, is refused', async () => {
    const [checkpoint] = filesWith('.ckpt') as [string];
    const { size } = statSync(checkpoint);
    for (const length of [0, 1, 127, 128, Math.floor(size / 2), size - 41, size - 1, size + 1]) {
      const directory = copy();
      const file = join(directory, 'shard-0000', basename(checkpoint));
      truncateSync(file, length);
      expect(await judge(directory, file, `length ${length} of ${size}`, 'nothing')).toBe('refused');
    }
  });

  test('a flipped byte in the log is refused, does not matter, or loses the last write at most', async () => {
    const outcomes: string[] = [];
    for (const log of filesWith('.log')) {
      const { usedBytes } = inspectSegment(new NodeEnv(), log);
      for (const offset of sample(usedBytes, runCount(3))) {
        const directory = copy();
        const file = join(directory, 'shard-0000', basename(log));
        flip(file, offset, 1 << (offset % 8));
        outcomes.push(await judge(directory, file, `${basename(log)} byte ${offset} of ${usedBytes}`, 'last'));
      }
    }
    // The test sees something: some of it is refused.
    expect(outcomes.filter((outcome) => outcome === 'refused').length).toBeGreaterThan(outcomes.length / 3);
  });

  test('a log cut anywhere is refused, or is a state the store once had', async () => {
    const logs = filesWith('.log');
    for (const log of logs) {
      const { size } = statSync(log);
      for (const length of [0, 100, 4095, 4096, Math.floor(size / 3), Math.floor(size / 2), size - 4096, size - 1]) {
        const directory = copy();
        const file = join(directory, 'shard-0000', basename(log));
        truncateSync(file, length);
        await judge(directory, file, `${basename(log)} length ${length} of ${size}`, 'tail');
      }
    }
  });

  describe('repair', () => {
    /** Every entry is one that was written; what is missing or old is accounted for by a loss. */
    function expectHonest(found: State): void {
      for (const [key, value] of found) {
        expect(
          states.some((state) => state.get(key) === value),
          key,
        ).toBe(true);
      }
    }

    async function repaired(
      directory: string,
    ): Promise<{ found: Map<string, string>; losses: number; backup: string }> {
      expect((await ConcordPool.verify(directory)).ok).toBe(false);
      const before = filesOf(directory).map((file) => readFileSync(file).toString('base64'));
      const report = await ConcordPool.repair(directory);
      expect(report.ok).toBe(report.losses.length === 0);
      for (const loss of report.losses)
        expect(loss).toMatchObject({ code: 'ERR_CORRUPT', message: expect.any(String) as string });
      // The damaged files are kept as they were.
      const kept = filesOf(report.backup).filter((file) => !basename(file).startsWith('LOCK'));
      expect(kept.map((file) => readFileSync(file).toString('base64'))).toEqual(before);
      expect(await ConcordPool.verify(directory)).toMatchObject({ ok: true, entries: report.entries });
      const found = await stateOf(directory);
      expect(found.size).toBe(report.entries);
      expectHonest(found);
      // It is a store like any other.
      const db = await ConcordPool.open(directory, OPTIONS);
      await db.put('after', 'repair');
      await db.close();
      expect((await stateOf(directory)).get('after')).toBe('repair');
      return { found, losses: report.losses.length, backup: report.backup };
    }

    test('of a damaged frame loses that write and keeps those before and behind', async () => {
      const directory = copy();
      const { path, offset } = frameWith('last2');
      flip(join(directory, 'shard-0000', basename(path)), offset + 60);
      const { found, losses } = await repaired(directory);
      expect(losses).toBe(1);
      // The last writes were last0 … last5, a frame each.
      expect([0, 1, 2, 3, 4, 5].map((i) => found.has(`last${i}`))).toEqual([true, true, false, true, true, true]);
      expect(found.size).toBe(states.at(-1)!.size - 1);
    });

    test('of a damaged chunk of a large value loses that value and nothing else', async () => {
      const directory = copy();
      const chunks = framesOf().filter(({ bytes }) => bytes > 60_000);
      expect(chunks.length).toBeGreaterThan(1);
      const { path, offset } = chunks.at(-2)!;
      flip(join(directory, 'shard-0000', basename(path)), offset + 30_000);
      const { found, losses } = await repaired(directory);
      expect(losses).toBeGreaterThanOrEqual(1);
      const last = states.at(-1)!;
      expect(found.get('large') === patternText(200_000, 1) || !found.has('large')).toBe(true);
      for (const [key, value] of last) if (key !== 'large') expect(found.get(key) === value, key).toBe(true);
    });

    test('of a damaged checkpoint keeps what the log says', async () => {
      const directory = copy();
      const [checkpoint] = filesWith('.ckpt') as [string];
      flip(join(directory, 'shard-0000', basename(checkpoint)), 5000);
      const { found, losses } = await repaired(directory);
      expect(losses).toBeGreaterThanOrEqual(1);
      const last = states.at(-1)!;
      for (let i = 0; i < 6; i++) expect(found.get(`last${i}`)).toBe(`value ${i}`);
      expect(found.get('large') === last.get('large')).toBe(true);
      for (let i = 0; i < 25; i++) expect(found.get(`key${i * 2}`), `key${i * 2}`).toBe(last.get(`key${i * 2}`));
    });

    test('of a sound store changes nothing but the files', async () => {
      const directory = copy();
      const report = await ConcordPool.repair(directory);
      expect(report).toMatchObject({ ok: true, losses: [], entries: states.at(-1)!.size });
      expect(same(await stateOf(directory), states.at(-1)!)).toBe(true);
    });

    test('restore refuses a damaged copy, and takes a repaired one', async () => {
      const directory = copy();
      const [checkpoint] = filesWith('.ckpt') as [string];
      flip(join(directory, 'shard-0000', basename(checkpoint)), 5000);
      expect(await failureOf(ConcordPool.restore(directory, `${directory}-one`))).toMatchObject({
        code: 'ERR_CORRUPT',
      });
      await ConcordPool.repair(directory);
      expect(await ConcordPool.restore(directory, `${directory}-two`)).toMatchObject({ ok: true });
    });
  });

  test('a lenient recovery mode opens what is left, goes on, and the next strict open is clean', async () => {
    for (const recoveryMode of ['salvage', 'point-in-time'] as const) {
      const directory = copy();
      const { path, offset } = frameWith('last2');
      flip(join(directory, 'shard-0000', basename(path)), offset + 60);
      expect(await failureOf(ConcordPool.open(directory, OPTIONS))).toMatchObject({ code: 'ERR_CORRUPT' });
      expect(await failureOf(ConcordPool.open(directory, { ...OPTIONS, recoveryMode: 'strict' }))).toMatchObject({
        code: 'ERR_CORRUPT',
      });
      const db = await ConcordPool.open(directory, { ...OPTIONS, recoveryMode });
      expect([1, 2, 3].map((i) => db.hasSync(`last${i}`))).toEqual(
        recoveryMode === 'salvage' ? [true, false, true] : [true, false, false],
      );
      await db.put('after', recoveryMode);
      const left = new Map(await db.iterator().all());
      await db.host!.crash();
      expect(same(await stateOf(directory, { recoveryMode: 'strict' }), left), recoveryMode).toBe(true);
    }
  });
});

test('what a lenient mode passed over is not met again, though an LSM-Tree held the log from before it', async () => {
  const original = join(scratchDirectory(), 'store');
  const db = await ConcordPool.open(original, { ...OPTIONS, shards: 1, segmentBytes: 262144 });
  const events = db.space('events', { engine: 'lsm' });
  for (let i = 0; i < 20; i++) await events.put(`event${i}`, patternText(100, i));
  for (let i = 0; i < 20; i++) await db.put(`key${i}`, patternText(100, i));
  // It has all of these records, and yet the log of the events is needed.
  await db.host!.checkpointAll();
  for (let i = 20; i < 40; i++) await events.put(`event${i}`, patternText(100, i));
  const left = join(scratchDirectory(), 'left');
  cpSync(original, left, { recursive: true, filter: (path) => !basename(path).startsWith('LOCK') });
  await db.close();
  const log = filesOf(left).find((file) => file.includes('shard-0000') && file.endsWith('.log'))!;
  const bytes = readFileSync(log);
  for (const lost of [10, 30]) {
    for (const recoveryMode of ['salvage', 'point-in-time'] as const) {
      const directory = join(scratchDirectory(), 'store');
      cpSync(left, directory, { recursive: true });
      flip(
        join(directory, 'shard-0000', basename(log)),
        bytes.indexOf(patternText(100, lost), bytes.indexOf(`event${lost}`)),
      );
      expect(await failureOf(ConcordPool.open(directory, OPTIONS))).toMatchObject({ code: 'ERR_CORRUPT' });
      const lenient = await ConcordPool.open(directory, { ...OPTIONS, recoveryMode });
      const found = lenient.space('events');
      expect([lost - 1, lost, lost + 1].map((i) => found.hasSync(`event${i}`))).toEqual([
        true,
        false,
        recoveryMode === 'salvage',
      ]);
      // The checkpoint has these.
      expect([...(await lenient.iterator().all())].length).toBe(20);
      await lenient.put('after', recoveryMode);
      await found.put('after', recoveryMode);
      await lenient.host!.crash();
      const strict = await ConcordPool.open(directory, { ...OPTIONS, recoveryMode: 'strict' });
      expect([strict.getSync('after'), strict.space('events').getSync('after')]).toEqual([recoveryMode, recoveryMode]);
      expect(strict.space('events').hasSync(`event${lost}`)).toBe(false);
      await strict.close();
      expect(await ConcordPool.verify(directory)).toMatchObject({ ok: true });
    }
  }
});

test('a directory in the place of a file is a loss that repair reports', async () => {
  const directory = join(scratchDirectory(), 'store');
  const db = await ConcordPool.open(directory, { ...OPTIONS, shards: 1 });
  await db.put('key', 'value');
  await db.space('events', { engine: 'lsm' }).put('key', 'value');
  await db.host!.checkpointAll();
  await db.close();
  const checkpoint = filesOf(directory).find((file) => file.endsWith('.ckpt'))!;
  rmSync(checkpoint);
  mkdirSync(checkpoint);
  const { ok, losses, backup } = await ConcordPool.repair(directory);
  expect(ok).toBe(false);
  expect(losses).toContainEqual(expect.objectContaining({ code: 'ERR_IO' }));
  expect(await ConcordPool.verify(directory)).toMatchObject({ ok: true });
  rmSync(backup, { recursive: true });
});

test('damage in one shard leaves repair of the others whole', async () => {
  const directory = join(scratchDirectory(), 'store');
  const db = await ConcordPool.open(directory, { ...OPTIONS, shards: 3 });
  for (let i = 0; i < 300; i++) void db.put(`key${i}`, patternText(100, i));
  await db.close();
  const [log] = filesOf(join(directory, 'shard-0001')).filter((file) => file.endsWith('.log')) as [string];
  flip(log, 50);
  const report = await ConcordPool.verify(directory);
  expect(report.ok).toBe(false);
  expect(report.problems).toMatchObject([{ code: 'ERR_CORRUPT', details: { file: log } }]);
  expect(await failureOf(ConcordPool.open(directory))).toMatchObject({ code: 'ERR_CORRUPT', details: { file: log } });
  const repaired = await ConcordPool.repair(directory);
  expect(repaired.losses.length).toBeGreaterThanOrEqual(1);
  expect(repaired.entries).toBeGreaterThan(150);
  const found = await stateOf(directory);
  expect(found.size).toBe(repaired.entries);
  for (const [key, value] of found) expect(value).toBe(patternText(100, Number(key.slice(3))));
});

test('a shard directory that is gone is a loss that repair reports', async () => {
  const root = scratchDirectory();
  const directory = join(root, 'store');
  const db = await ConcordPool.open(directory, { ...OPTIONS, shards: 2 });
  for (let i = 0; i < 100; i++) void db.put(`key${i}`, String(i));
  await db.close();
  renameSync(join(directory, 'shard-0001'), join(root, 'elsewhere'));
  const report = await ConcordPool.repair(directory);
  expect(report.losses).toMatchObject([{ code: 'ERR_CORRUPT', details: { shard: 1 } }]);
  expect(report.entries).toBeGreaterThan(20);
  expect((await stateOf(directory)).size).toBe(report.entries);
  rmSync(report.backup, { recursive: true });
});
