import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { EnvFile } from '../../../dist/shared/env/env.js';
import { CrashSignal, MemEnv } from '../../../dist/shared/env/mem-env.js';
import type { CrashPolicy, DataSurvival, MemEnvOptions, NameSurvival } from '../../../dist/shared/env/mem-env.js';
import { Random } from '../../../dist/shared/random.js';
import { codeOf, envSuite, errnoOf, readText, writeText } from './env-suite.js';

envSuite('mem-env', () => {
  const env = new MemEnv();
  env.makeDirectory('/data');
  return { env, root: '/data' };
});

const DATA: DataSurvival[] = ['drop-all', 'keep-all', 'prefix', 'sectors', 'writes', 'random'];
const NAMES: NameSurvival[] = ['drop-all', 'keep-all', 'ordered', 'arbitrary'];
const EVERY_POLICY: CrashPolicy[] = [
  'drop-all',
  'keep-all',
  'random',
  ...DATA.flatMap((data) => NAMES.map((names) => ({ data, names }))),
];

const text = (value: string): Uint8Array => new TextEncoder().encode(value);

function write(file: EnvFile, value: string, position = 0): void {
  file.write(text(value), 0, text(value).length, position);
}

/** A disk with an empty durable directory /db. */
function disk(options: MemEnvOptions = {}): MemEnv {
  const env = new MemEnv(options);
  env.makeDirectory('/db');
  env.syncDirectory('/');
  return env;
}

/** A disk whose /db/f durably holds the value. */
function diskWith(value: string, options: MemEnvOptions = {}): { env: MemEnv; file: EnvFile } {
  const env = disk(options);
  const file = env.open('/db/f', 'create');
  write(file, value);
  file.sync();
  env.syncDirectory('/db');
  return { env, file };
}

/** Everything a disk holds, as path → content. */
function contents(env: MemEnv, directory = '/'): Record<string, string> {
  const all: Record<string, string> = {};
  for (const name of env.list(directory)) {
    const path = directory === '/' ? `/${name}` : `${directory}/${name}`;
    let isDirectory = true;
    try {
      env.list(path);
    } catch {
      isDirectory = false;
    }
    if (isDirectory) Object.assign(all, { [`${path}/`]: '' }, contents(env, path));
    else all[path] = readText(env, path);
  }
  return all;
}

/** The different outcomes of many crashes. */
function outcomes(env: MemEnv, policy: CrashPolicy, look: (after: MemEnv) => string, count = 400): Set<string> {
  const random = new Random(1);
  return new Set(Array.from({ length: count }, () => look(env.crash(random, policy))));
}

describe('a crash', () => {
  test('takes nothing that sync and syncDirectory covered, whatever the policy', () => {
    const { env } = diskWith('precious');
    for (const policy of EVERY_POLICY) {
      expect(outcomes(env, policy, (after) => JSON.stringify(contents(after)), 20)).toEqual(
        new Set([JSON.stringify({ '/db/': '', '/db/f': 'precious' })]),
      );
    }
  });

  test('leaves the disk it happened to unchanged, so that another moment can be looked at', () => {
    const { env, file } = diskWith('old');
    write(file, 'new');
    expect(readText(env.crash(new Random(1), 'drop-all'), '/db/f')).toBe('old');
    expect(readText(env, '/db/f')).toBe('new');
    write(file, 'xyz', 3);
    expect(readText(env.crash(new Random(1), 'keep-all'), '/db/f')).toBe('newxyz');
    expect(readText(env.crash(new Random(1), 'drop-all'), '/db/f')).toBe('old');
  });

  test('leaves a disk that is written without touching the one before', () => {
    const { env, file } = diskWith('old');
    const after = env.crash(new Random(1));
    const again = after.open('/db/f', 'write');
    write(again, 'NEW');
    again.sync();
    expect(readText(env, '/db/f')).toBe('old');
    write(file, 'abc');
    expect(readText(after, '/db/f')).toBe('NEW');
  });

  test('loses an unsynced write under drop-all, keeps it under keep-all, and does either under random', () => {
    const { env, file } = diskWith('old');
    write(file, 'new');
    const look = (after: MemEnv): string => readText(after, '/db/f');
    expect(outcomes(env, 'drop-all', look)).toEqual(new Set(['old']));
    expect(outcomes(env, 'keep-all', look)).toEqual(new Set(['new']));
    const random = outcomes(env, 'random', look);
    expect(random).toContain('old');
    expect(random).toContain('new');
  });

  test('tears a write after any byte, and at sectors', () => {
    const { env, file } = diskWith('.'.repeat(1536));
    write(file, '#'.repeat(1536));
    const seen = outcomes(env, { data: 'prefix', names: 'keep-all' }, (after) => readText(after, '/db/f'), 4000);
    const hasByteTear = [...seen].some((value) => /^#+\.+$/.test(value) && value.lastIndexOf('#') % 512 !== 511);
    expect(hasByteTear).toBe(true);
    const sector = (mark: string): string => mark.repeat(512);
    for (const pattern of ['...', '#..', '.#.', '..#', '##.', '#.#', '.##', '###']) {
      expect(seen).toContain([...pattern].map(sector).join(''));
    }
  });

  test('reorders: a later write survives where an earlier one is lost', () => {
    for (const data of ['sectors', 'writes'] as const) {
      const { env, file } = diskWith('.'.repeat(1024));
      write(file, 'first', 0);
      write(file, 'second', 512);
      const seen = outcomes(env, { data, names: 'keep-all' }, (after) => readText(after, '/db/f').replaceAll('.', ''));
      expect(seen).toContain('second');
      expect(seen).toContain('first');
    }
  });

  test('keeps the order of writes within a sector under sectors, and breaks it under writes', () => {
    const { env, file } = diskWith('......');
    write(file, 'abc', 0);
    write(file, 'def', 3);
    const look = (after: MemEnv): string => readText(after, '/db/f');
    expect(outcomes(env, { data: 'sectors', names: 'keep-all' }, look)).toEqual(
      new Set(['......', 'abc...', 'abcdef']),
    );
    expect(outcomes(env, { data: 'writes', names: 'keep-all' }, look)).toContain('...def');
  });

  test('may keep the grown size without the data', () => {
    for (const data of ['sectors', 'writes', 'prefix'] as const) {
      const { env, file } = diskWith('old');
      write(file, 'appended', 3);
      const seen = outcomes(env, { data, names: 'keep-all' }, (after) => readText(after, '/db/f'), 2000);
      expect(seen).toContain('old\0\0\0\0\0\0\0\0');
      expect(seen).toContain('oldappended');
      expect(seen).toContain('old');
    }
  });

  test('may lose a truncation', () => {
    for (const data of ['sectors', 'writes', 'prefix', 'random'] as const) {
      const { env, file } = diskWith('content');
      file.truncate(3);
      expect(outcomes(env, { data, names: 'keep-all' }, (after) => readText(after, '/db/f'))).toEqual(
        new Set(['content', 'con']),
      );
    }
  });

  test('takes a synced file whose name was not synced', () => {
    const env = disk();
    const file = env.open('/db/g', 'create');
    write(file, 'synced');
    file.sync();
    const look = (after: MemEnv): string => (after.exists('/db/g') ? readText(after, '/db/g') : 'gone');
    expect(outcomes(env, 'drop-all', look)).toEqual(new Set(['gone']));
    expect(outcomes(env, 'random', look)).toEqual(new Set(['gone', 'synced']));
    env.syncDirectory('/db');
    expect(outcomes(env, 'drop-all', look)).toEqual(new Set(['synced']));
  });

  test('takes a directory whose own name was not synced, with all in it', () => {
    const env = disk();
    env.makeDirectory('/db/inner');
    writeText(env, '/db/inner/f', 'x');
    env.open('/db/inner/f', 'write').sync();
    env.syncDirectory('/db/inner');
    expect(contents(env.crash(new Random(1), 'drop-all'))).toEqual({ '/db/': '' });
    env.syncDirectory('/db');
    expect(contents(env.crash(new Random(1), 'drop-all'))).toEqual({
      '/db/': '',
      '/db/inner/': '',
      '/db/inner/f': 'x',
    });
  });

  test('brings a removed file back until the directory is synced', () => {
    const { env, file } = diskWith('zombie');
    file.close();
    env.remove('/db/f');
    const look = (after: MemEnv): string => (after.exists('/db/f') ? readText(after, '/db/f') : 'gone');
    expect(outcomes(env, 'random', look)).toEqual(new Set(['zombie', 'gone']));
    env.syncDirectory('/db');
    expect(outcomes(env, 'random', look)).toEqual(new Set(['gone']));
  });

  test('leaves the old or the new file of a rename, never none and never both names', () => {
    for (const names of NAMES) {
      const { env } = diskWith('old');
      const next = env.open('/db/f.tmp', 'create');
      write(next, 'new');
      next.sync();
      env.syncDirectory('/db');
      env.rename('/db/f.tmp', '/db/f');
      const seen = outcomes(env, { data: 'drop-all', names }, (after) => JSON.stringify(contents(after)));
      const before = JSON.stringify({ '/db/': '', '/db/f': 'old', '/db/f.tmp': 'new' });
      const renamed = JSON.stringify({ '/db/': '', '/db/f': 'new' });
      const expected = names === 'drop-all' ? [before] : names === 'keep-all' ? [renamed] : [before, renamed];
      expect(seen).toEqual(new Set(expected));
    }
  });

  test('leaves a file renamed between directories in exactly one of them, and syncing one is enough', () => {
    for (const names of NAMES) {
      const { env } = diskWith('moved');
      env.makeDirectory('/db/a');
      env.makeDirectory('/db/b');
      env.syncDirectory('/db');
      env.rename('/db/f', '/db/a/f');
      env.rename('/db/a/f', '/db/b/g');
      const places = (after: MemEnv): string =>
        Object.entries(contents(after))
          .filter(([, value]) => value === 'moved')
          .join();
      const seen = outcomes(env, { data: 'drop-all', names }, places);
      for (const place of seen) expect(['/db/f,moved', '/db/a/f,moved', '/db/b/g,moved']).toContain(place);
      if (names === 'ordered') expect(seen.size).toBe(3);
      env.syncDirectory('/db/b');
      expect(outcomes(env, { data: 'drop-all', names }, places)).toEqual(new Set(['/db/b/g,moved']));
    }
  });

  test('keeps names of one directory in order under ordered, in any subset under arbitrary', () => {
    const env = disk();
    for (const name of ['a', 'b', 'c']) writeText(env, `/db/${name}`, '');
    const look = (after: MemEnv): string => after.list('/db').join('');
    expect(outcomes(env, { data: 'keep-all', names: 'ordered' }, look)).toEqual(new Set(['', 'a', 'ab', 'abc']));
    expect(outcomes(env, { data: 'keep-all', names: 'arbitrary' }, look).size).toBe(8);
  });

  test('with ignoreSync loses what was synced', () => {
    const { env } = diskWith('precious', { ignoreSync: true });
    expect(contents(env.crash(new Random(1), 'drop-all'))).toEqual({});
    const look = (after: MemEnv): string => (after.exists('/db/f') ? readText(after, '/db/f') : 'gone');
    expect(outcomes(env, 'random', look).size).toBeGreaterThan(1);
  });

  test('is the same again under the same seed', () => {
    const { env, file } = diskWith('.'.repeat(5000));
    for (let index = 0; index < 20; index++) {
      write(file, String(index).repeat(300), index * 250);
      writeText(env, `/db/${index}`, 'x');
    }
    const run = (): string => {
      const random = new Random(42);
      return JSON.stringify(Array.from({ length: 30 }, () => contents(env.crash(random, 'random'))));
    };
    expect(run()).toBe(run());
  });
});

describe('the operation hook', () => {
  test('is called before every mutation with its index, kind and path', () => {
    const seen: string[] = [];
    const env = new MemEnv({ onOperation: (index, kind, path) => seen.push(`${index} ${kind} ${path}`) });
    env.makeDirectory('/db/x');
    env.makeDirectory('/db/x');
    const file = env.open('/db/f', 'create');
    write(file, 'abc');
    file.truncate(1);
    file.sync();
    env.rename('/db/f', '/db/g');
    env.syncDirectory('/db');
    env.remove('/db/g');
    file.size();
    env.list('/db');
    expect(seen).toEqual([
      '0 makeDirectory /db/x',
      '1 create /db/f',
      '2 write /db/f',
      '3 truncate /db/f',
      '4 sync /db/f',
      '5 rename /db/f',
      '6 syncDirectory /db',
      '7 remove /db/g',
    ]);
    expect(env.operationCount).toBe(8);
  });

  test('may crash every operation: it does not happen, and every later call throws the same signal', () => {
    const workload = (env: MemEnv): void => {
      env.makeDirectory('/db');
      const file = env.open('/db/f', 'create');
      write(file, 'abc');
      file.sync();
      env.syncDirectory('/db');
      env.syncDirectory('/');
    };
    const whole = new MemEnv();
    workload(whole);
    const states: string[] = [];
    for (let at = 0; at < whole.operationCount; at++) {
      const signal = new CrashSignal(`at ${at}`);
      const env = new MemEnv({
        onOperation: (index) => {
          if (index === at) throw signal;
        },
      });
      expect(() => workload(env)).toThrow(signal);
      expect(() => env.exists('/db')).toThrow(signal);
      expect(() => env.open('/db/f', 'read')).toThrow(signal);
      expect(() => env.now()).toThrow(signal);
      states.push(Object.values(contents(env.crash(new Random(1), 'keep-all'))).join('|'));
    }
    expect(states).toEqual(['', '', '|', '|abc', '|abc', '|abc']);
  });

  test('may take crash states while the workload goes on', () => {
    const sizes: number[] = [];
    const random = new Random(3);
    const env: MemEnv = new MemEnv({
      onOperation: (_index, kind) => {
        if (kind === 'write') sizes.push(readText(env.crash(random, 'keep-all'), '/f').length);
      },
    });
    const file = env.open('/f', 'create');
    for (let index = 0; index < 4; index++) write(file, 'abc', index * 3);
    expect(sizes).toEqual([0, 3, 6, 9]);
  });

  test('that throws something else fails the call and nothing more', () => {
    const env = new MemEnv({
      onOperation: (index) => {
        if (index === 0) throw new Error('once');
      },
    });
    expect(() => env.makeDirectory('/db')).toThrow('once');
    expect(env.exists('/db')).toBe(false);
    env.makeDirectory('/db');
    expect(env.exists('/db')).toBe(true);
  });
});

describe('space', () => {
  test('that runs out is ERR_DISK_FULL after the part that fits, and comes back with removal', () => {
    const env = new MemEnv({ capacityBytes: 3 * 4096 });
    const first = env.open('/a', 'create');
    first.write(new Uint8Array(8192).fill(1), 0, 8192, 0);
    const second = env.open('/b', 'create');
    expect(codeOf(() => second.write(new Uint8Array(8192).fill(2), 0, 8192, 100))).toBe('ERR_DISK_FULL');
    expect(errnoOf(() => second.write(new Uint8Array(8192), 0, 8192, 8192))).toBe('ENOSPC');
    expect(second.size()).toBe(4096);
    expect(env.usedBytes).toBe(3 * 4096);
    first.write(new Uint8Array(8192).fill(3), 0, 8192, 0);
    env.remove('/a');
    expect(codeOf(() => second.write(new Uint8Array(8192), 0, 8192, 4096))).toBe('ERR_DISK_FULL');
    first.close();
    second.write(new Uint8Array(8192), 0, 8192, 4096);
    second.truncate(1);
    expect(env.usedBytes).toBe(4096);
  });

  test('is not taken by holes, and can be given back by the test', () => {
    const env = new MemEnv({ capacityBytes: 4096 });
    const file = env.open('/a', 'create');
    file.truncate(1 << 30);
    write(file, 'x', 1 << 29);
    expect(codeOf(() => write(file, 'x', 0))).toBe('ERR_DISK_FULL');
    env.setCapacity(8192);
    write(file, 'x', 0);
    expect(env.usedBytes).toBe(8192);
    expect(env.crash(new Random(1), 'keep-all').usedBytes).toBe(8192);
    expect(env.crash(new Random(1), 'drop-all').usedBytes).toBe(0);
    env.syncDirectory('/');
    file.sync();
    expect(env.crash(new Random(1), 'drop-all').usedBytes).toBe(8192);
  });

  test('of a replaced file comes back', () => {
    const env = new MemEnv();
    writeText(env, '/a', 'x');
    writeText(env, '/b', 'y');
    expect(env.usedBytes).toBe(8192);
    env.rename('/a', '/b');
    expect(env.usedBytes).toBe(4096);
  });
});

test('clock and random bytes are those of the options, and a crash keeps the time', () => {
  const env = new MemEnv({ seed: 5, startMs: 1000 });
  env.advanceClock(500);
  expect(env.now()).toBe(1500);
  expect(env.crash(new Random(1)).now()).toBe(1500);
  expect([...new MemEnv({ seed: 5 }).randomBytes(8)]).toEqual([...env.randomBytes(8)]);
  expect([...new MemEnv({ seed: 6 }).randomBytes(8)]).not.toEqual([...new MemEnv({ seed: 5 }).randomBytes(8)]);
});

test('dump shows what is there and what a crash could take', () => {
  const { env, file } = diskWith('abc');
  write(file, 'defg', 3);
  env.makeDirectory('/db/inner');
  writeText(env, '/db/inner/new', '1');
  env.remove('/db/f');
  expect(env.dump().split('\n')).toEqual([
    '/db/',
    '/db/inner/, name not durable',
    '/db/inner/new  1 bytes, 1 unsynced changes, name not durable',
    '/db/f  removal not durable',
  ]);
});

test('renames that a file system refuses are refused', () => {
  const env = new MemEnv();
  env.makeDirectory('/a/b');
  env.makeDirectory('/full/x');
  writeText(env, '/f', '');
  expect(errnoOf(() => env.rename('/a', '/a/b/c'))).toBe('EINVAL');
  expect(errnoOf(() => env.rename('/a', '/f'))).toBe('ENOTDIR');
  expect(errnoOf(() => env.rename('/f', '/a'))).toBe('EISDIR');
  expect(errnoOf(() => env.rename('/a', '/full'))).toBe('ENOTEMPTY');
  expect(errnoOf(() => env.remove('/a'))).toBe('EISDIR');
  expect(errnoOf(() => env.open('/a', 'read'))).toBe('EISDIR');
  env.rename('/f', '/f');
  expect(env.exists('/f')).toBe(true);
});

/*
 * A random workload beside the simplest possible model of the promise: a name is settled when its file was synced after its last
 * change and its directory after the name's last change. Settled names must survive every crash with their content.
 */
type Step =
  | { op: 'create' | 'remove' | 'sync'; name: number }
  | { op: 'write'; name: number; position: number; length: number }
  | { op: 'truncate'; name: number; length: number }
  | { op: 'rename'; name: number; to: number }
  | { op: 'syncDirectory'; directory: number };

const PATHS = ['/a/0', '/a/1', '/a/2', '/b/3', '/b/4', '/b/5'];
const DIRECTORIES = ['/a', '/b'];

const name = fc.nat(PATHS.length - 1);
const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 3, arbitrary: fc.record({ op: fc.constant('create' as const), name }) },
  {
    weight: 6,
    arbitrary: fc.record({
      op: fc.constant('write' as const),
      name,
      position: fc.nat(9000),
      length: fc.integer({ min: 1, max: 3000 }),
    }),
  },
  { weight: 4, arbitrary: fc.record({ op: fc.constant('sync' as const), name }) },
  { weight: 1, arbitrary: fc.record({ op: fc.constant('truncate' as const), name, length: fc.nat(12_000) }) },
  { weight: 1, arbitrary: fc.record({ op: fc.constant('remove' as const), name }) },
  { weight: 2, arbitrary: fc.record({ op: fc.constant('rename' as const), name, to: name }) },
  { weight: 4, arbitrary: fc.record({ op: fc.constant('syncDirectory' as const), directory: fc.nat(1) }) },
);

interface ModelFile {
  content: string;
  isSynced: boolean;
}

class Model {
  readonly files = new Map<string, ModelFile>();
  readonly unsettledNames = new Set<string>();

  /** Names that no crash may take, with their content. */
  settled(): [string, string][] {
    return [...this.files]
      .filter(([path, file]) => file.isSynced && !this.unsettledNames.has(path))
      .map(([path, file]) => [path, file.content]);
  }
}

function run(env: MemEnv, model: Model, steps: readonly Step[], afterEach: () => void): void {
  let stamp = 0;
  for (const action of steps) {
    if (action.op === 'syncDirectory') {
      const directory = DIRECTORIES[action.directory]!;
      env.syncDirectory(directory);
      for (const path of model.unsettledNames) if (path.startsWith(`${directory}/`)) model.unsettledNames.delete(path);
      afterEach();
      continue;
    }
    const path = PATHS[action.name]!;
    const known = model.files.get(path);
    if (action.op === 'create') {
      if (known !== undefined) continue;
      env.open(path, 'create').close();
      model.files.set(path, { content: '', isSynced: true });
      model.unsettledNames.add(path);
    } else if (known === undefined) continue;
    else if (action.op === 'remove') {
      env.remove(path);
      model.files.delete(path);
      model.unsettledNames.add(path);
    } else if (action.op === 'rename') {
      const to = PATHS[action.to]!;
      if (to === path) continue;
      env.rename(path, to);
      model.files.delete(path);
      model.files.set(to, known);
      model.unsettledNames.add(path).add(to);
    } else {
      const file = env.open(path, 'write');
      if (action.op === 'write') {
        const value = String.fromCharCode(97 + (stamp++ % 26)).repeat(action.length);
        write(file, value, action.position);
        const padded = known.content.padEnd(action.position, '\0');
        known.content = padded.slice(0, action.position) + value + padded.slice(action.position + action.length);
        known.isSynced = false;
      } else if (action.op === 'truncate') {
        file.truncate(action.length);
        known.content = known.content.slice(0, action.length).padEnd(action.length, '\0');
        known.isSynced = false;
      } else {
        file.sync();
        known.isSynced = true;
      }
      file.close();
    }
    afterEach();
  }
}

function freshWorkload(options: MemEnvOptions = {}): { env: MemEnv; model: Model } {
  const env = new MemEnv(options);
  for (const directory of DIRECTORIES) env.makeDirectory(directory);
  env.syncDirectory('/');
  return { env, model: new Model() };
}

function losses(after: MemEnv, settled: readonly [string, string][]): string[] {
  return settled
    .filter(([path, content]) => !after.exists(path) || readText(after, path) !== content)
    .map(([path]) => path);
}

test('what sync and syncDirectory covered survives every crash of every workload', () => {
  let settledCount = 0;
  fc.assert(
    fc.property(fc.array(step, { minLength: 40, maxLength: 80 }), fc.integer(), (steps, seed) => {
      const random = new Random(seed);
      const { env, model } = freshWorkload();
      run(env, model, steps, () => {
        const settled = model.settled();
        settledCount += settled.length;
        expect(losses(env.crash(random, random.pick(EVERY_POLICY)), settled)).toEqual([]);
      });
      const current = Object.fromEntries([...model.files].map(([path, file]) => [path, file.content]));
      const kept = contents(env.crash(random, 'keep-all'));
      expect(kept).toEqual({ '/a/': '', '/b/': '', ...current });
    }),
    { numRuns: 300 },
  );
  expect(settledCount).toBeGreaterThan(1000);
});

test('with ignoreSync the same check finds losses', () => {
  let lossCount = 0;
  const random = new Random(11);
  const steps = fc.sample(fc.array(step, { minLength: 20, maxLength: 60 }), { seed: 11, numRuns: 50 });
  for (const workload of steps) {
    const { env, model } = freshWorkload({ ignoreSync: true });
    run(env, model, workload, () => (lossCount += losses(env.crash(random, 'random'), model.settled()).length));
  }
  expect(lossCount).toBeGreaterThan(0);
});

test('a crash invents no bytes: every byte of a survivor was written to its place at some time, or is zero', () => {
  fc.assert(
    fc.property(
      fc.array(fc.tuple(fc.nat(3000), fc.integer({ min: 1, max: 1200 })), { minLength: 1, maxLength: 12 }),
      fc.nat(11),
      fc.integer(),
      (writes, syncAt, seed) => {
        const random = new Random(seed);
        const env = new MemEnv();
        const file = env.open('/f', 'create');
        env.syncDirectory('/');
        const possible: Set<number>[] = [];
        writes.forEach(([position, length], index) => {
          file.write(new Uint8Array(length).fill(index + 1), 0, length, position);
          for (let at = position; at < position + length; at++) (possible[at] ??= new Set([0])).add(index + 1);
          if (index === syncAt) file.sync();
        });
        for (const data of DATA) {
          const survivor = env.crash(random, { data, names: 'keep-all' });
          const reader = survivor.open('/f', 'read');
          const bytes = new Uint8Array(reader.size());
          reader.read(bytes, 0, bytes.length, 0);
          const invented = bytes.findIndex((byte, at) => byte !== 0 && possible[at]?.has(byte) !== true);
          expect(invented).toBe(-1);
        }
      },
    ),
    { numRuns: 300 },
  );
});

test('arbitrary name survival never leaves a file under two names', () => {
  fc.assert(
    fc.property(fc.array(step, { minLength: 5, maxLength: 60 }), fc.integer(), (steps, seed) => {
      const random = new Random(seed);
      const { env, model } = freshWorkload();
      // Each file gets a content of its own, synced, by which it is known again.
      let serial = 0;
      const nameSteps = steps.filter((action) => action.op !== 'write' && action.op !== 'truncate');
      run(env, model, nameSteps, () => {
        for (const [path, file] of model.files) {
          if (file.content !== '') continue;
          const handle = env.open(path, 'write');
          file.content = `file ${serial++}`;
          write(handle, file.content);
          handle.sync();
          handle.close();
        }
        const found = Object.values(contents(env.crash(random, { data: 'random', names: 'arbitrary' }))).filter(
          (content) => content !== '',
        );
        expect(new Set(found).size).toBe(found.length);
      });
    }),
    { numRuns: 200 },
  );
});
