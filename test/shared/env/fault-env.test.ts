import { describe, expect, test } from 'vitest';
import { FaultEnv } from '../../../dist/shared/env/fault-env.js';
import type { FaultOperation } from '../../../dist/shared/env/fault-env.js';
import { MemEnv } from '../../../dist/shared/env/mem-env.js';
import { Random } from '../../../dist/shared/random.js';
import { codeOf, envSuite, errnoOf, readText, writeText } from './env-suite.js';

const text = (value: string): Uint8Array => new TextEncoder().encode(value);

envSuite('fault-env without rules', () => {
  const env = new FaultEnv(new MemEnv());
  env.makeDirectory('/data');
  return { env, root: '/data' };
});

describe('a rule', () => {
  test('fails the calls after the first ones, so many times, and no others', () => {
    const env = new FaultEnv(new MemEnv());
    const rule = env.addRule({ operation: 'write', path: /log/, after: 2, times: 3, error: 'EIO' });
    const log = env.open('/log', 'create');
    const other = env.open('/other', 'create');
    const results = Array.from({ length: 8 }, () => {
      other.write(text('x'), 0, 1, 0);
      return errnoOf(() => log.write(text('x'), 0, 1, 0));
    });
    expect(results).toEqual(['none', 'none', 'EIO', 'EIO', 'EIO', 'none', 'none', 'none']);
    expect(rule.firedCount).toBe(3);
    expect(env.count('write')).toBe(16);
  });

  test('maps to the codes and details of real errors, and names the file', () => {
    const cases = [
      ['ENOSPC', 'ERR_DISK_FULL'],
      ['EDQUOT', 'ERR_DISK_FULL'],
      ['EACCES', 'ERR_PERMISSION'],
      ['EROFS', 'ERR_PERMISSION'],
      ['EIO', 'ERR_IO'],
      ['EMFILE', 'ERR_IO'],
    ] as const;
    for (const [error, code] of cases) {
      const env = new FaultEnv(new MemEnv(), [{ operation: 'create', error }]);
      expect(codeOf(() => env.open('/f', 'create'))).toBe(code);
      expect(errnoOf(() => env.open('/f', 'create'))).toBe(error);
      expect(() => env.open('/f', 'create')).toThrow('/f');
      expect(env.exists('/f')).toBe(false);
    }
  });

  test('works on every operation, which then does not happen', () => {
    const mem = new MemEnv();
    mem.makeDirectory('/db');
    writeText(mem, '/db/f', 'abc');
    const env = new FaultEnv(mem);
    const file = env.open('/db/f', 'write');
    const calls: Record<FaultOperation, () => unknown> = {
      open: () => env.open('/db/f', 'read'),
      create: () => env.open('/db/new', 'create'),
      read: () => file.read(new Uint8Array(1), 0, 1, 0),
      write: () => file.write(text('x'), 0, 1, 0),
      size: () => file.size(),
      truncate: () => file.truncate(0),
      exists: () => env.exists('/db/f'),
      list: () => env.list('/db'),
      makeDirectory: () => env.makeDirectory('/db/inner'),
      rename: () => env.rename('/db/f', '/db/g'),
      remove: () => env.remove('/db/f'),
      syncDirectory: () => env.syncDirectory('/db'),
      sync: () => file.sync(),
      close: () => file.close(),
    };
    for (const [operation, call] of Object.entries(calls) as [FaultOperation, () => unknown][]) {
      const rule = env.addRule({ operation, error: 'EIO' });
      expect([operation, errnoOf(call)]).toEqual([operation, 'EIO']);
      expect(rule.firedCount).toBe(1);
      rule.remove();
    }
    expect(mem.list('/db')).toEqual(['f']);
    expect(readText(mem, '/db/f')).toBe('abc');
  });

  test('for open covers every mode, for create only that one', () => {
    const env = new FaultEnv(new MemEnv());
    writeText(env, '/f', '');
    env.addRule({ operation: 'create', error: 'EACCES' });
    expect(errnoOf(() => env.open('/f', 'read'))).toBe('none');
    expect(errnoOf(() => env.open('/g', 'create'))).toBe('EACCES');
    env.removeAllRules();
    env.addRule({ operation: 'open', error: 'EMFILE' });
    expect(errnoOf(() => env.open('/f', 'write'))).toBe('EMFILE');
    expect(errnoOf(() => env.open('/g', 'create'))).toBe('EMFILE');
    expect([env.count('open'), env.count('create')]).toEqual([5, 3]);
  });

  test('matches a rename by either path', () => {
    const env = new FaultEnv(new MemEnv(), [{ operation: 'rename', path: /target/g, error: 'EIO' }]);
    writeText(env, '/a', '');
    expect(errnoOf(() => env.rename('/a', '/target'))).toBe('EIO');
    expect(errnoOf(() => env.rename('/a', '/target'))).toBe('EIO');
    env.rename('/a', '/b');
    expect(env.list('/')).toEqual(['b']);
  });

  test('of a short write leaves so many bytes', () => {
    const env = new FaultEnv(new MemEnv(), [{ operation: 'write', error: 'ENOSPC', shortWriteBytes: 3, times: 1 }]);
    const file = env.open('/f', 'create');
    expect(codeOf(() => file.write(text('..abcdef'), 2, 6, 0))).toBe('ERR_DISK_FULL');
    expect(readText(env, '/f')).toBe('abc');
    file.write(text('abcdef'), 0, 6, 0);
    expect(readText(env, '/f')).toBe('abcdef');
  });

  test('that comes first decides, and the next takes over when it is used up', () => {
    const env = new FaultEnv(new MemEnv(), [
      { operation: 'exists', error: 'EIO', times: 1 },
      { operation: 'exists', error: 'EACCES' },
    ]);
    expect([errnoOf(() => env.exists('/')), errnoOf(() => env.exists('/'))]).toEqual(['EIO', 'EACCES']);
  });

  test('with a negative number is the mistake of the caller', () => {
    const env = new FaultEnv(new MemEnv());
    expect(() => env.addRule({ operation: 'read', error: 'EIO', after: -1 })).toThrow(TypeError);
    expect(() => env.addRule({ operation: 'read', error: 'EIO', times: NaN })).toThrow(TypeError);
  });
});

test('a failed sync poisons the handle, makes nothing durable, and leaves other handles alone', () => {
  const mem = new MemEnv();
  const env = new FaultEnv(mem, [{ operation: 'sync', times: 1, error: 'EIO' }]);
  const file = env.open('/f', 'create');
  mem.syncDirectory('/');
  file.write(text('abc'), 0, 3, 0);
  expect(errnoOf(() => file.sync())).toBe('EIO');
  expect(codeOf(() => file.sync())).toBe('ERR_IO');
  expect(codeOf(() => file.write(text('x'), 0, 1, 0))).toBe('ERR_IO');
  expect(codeOf(() => file.truncate(0))).toBe('ERR_IO');
  expect(file.read(new Uint8Array(3), 0, 3, 0)).toBe(3);
  expect(readText(mem.crash(new Random(1), 'drop-all'), '/f')).toBe('');
  file.close();
  const again = env.open('/f', 'write');
  again.sync();
  expect(readText(mem.crash(new Random(1), 'drop-all'), '/f')).toBe('abc');
});

test('a full disk refuses what needs space until it is freed, and lets the rest pass', () => {
  const env = new FaultEnv(new MemEnv());
  writeText(env, '/old', 'old');
  const file = env.open('/old', 'write');
  env.fillDisk();
  expect(codeOf(() => file.write(text('x'), 0, 1, 0))).toBe('ERR_DISK_FULL');
  expect(codeOf(() => env.open('/new', 'create'))).toBe('ERR_DISK_FULL');
  expect(codeOf(() => env.makeDirectory('/inner'))).toBe('ERR_DISK_FULL');
  expect(readText(env, '/old')).toBe('old');
  file.sync();
  env.syncDirectory('/');
  env.remove('/old');
  env.freeDisk();
  file.write(text('x'), 0, 1, 0);
  env.fillDisk(/wal/);
  writeText(env, '/new', 'new');
  expect(codeOf(() => writeText(env, '/wal', ''))).toBe('ERR_DISK_FULL');
  env.freeDisk();
  writeText(env, '/wal', '');
  expect(env.list('/')).toEqual(['new', 'wal']);
});

test('a failing close still closes', () => {
  const mem = new MemEnv();
  const env = new FaultEnv(mem, [{ operation: 'close', error: 'EIO' }]);
  const file = env.open('/f', 'create');
  file.write(text('x'), 0, 1, 0);
  mem.remove('/f');
  expect(errnoOf(() => file.close())).toBe('EIO');
  expect(mem.usedBytes).toBe(0);
  expect(codeOf(() => file.size())).toBe('ERR_INTERNAL');
});
