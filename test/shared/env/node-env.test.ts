import fs from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, expect, test } from 'vitest';
import { NodeEnv } from '../../../dist/shared/env/node-env.js';
import { codeOf, envSuite, errnoOf, readText } from './env-suite.js';

const base = fs.mkdtempSync(join(tmpdir(), 'concordkv-node-env-'));
afterAll(() => fs.rmSync(base, { recursive: true, force: true }));
const freshRoot = (): string => fs.mkdtempSync(join(base, 'root-'));

envSuite('node-env', () => ({ env: new NodeEnv(), root: freshRoot() }));

const genuine = {
  openSync: fs.openSync,
  readSync: fs.readSync,
  writeSync: fs.writeSync,
  fdatasyncSync: fs.fdatasyncSync,
};
afterEach(() => patch(genuine));

/** Replaces a function of node:fs until the end of the test. */
function patch(replacement: Partial<typeof fs>): void {
  Object.assign(fs, replacement);
  syncBuiltinESMExports();
}

const systemError = (code: string): Error =>
  Object.assign(new Error(`${code}: made by the test`), { code, syscall: 'test' });
const text = (value: string): Uint8Array => new TextEncoder().encode(value);

test('files get mode 0600 and directories 0700', () => {
  const env = new NodeEnv();
  const root = freshRoot();
  env.makeDirectory(join(root, 'a/b'));
  env.open(join(root, 'a/b/f'), 'create').close();
  const mode = (path: string): number => fs.statSync(join(root, path)).mode & 0o777;
  expect([mode('a'), mode('a/b'), mode('a/b/f')]).toEqual([0o700, 0o700, 0o600]);
});

test.runIf(process.platform === 'linux')(
  'files are opened for reading without noting when, where the owner allows',
  () => {
    const env = new NodeEnv();
    const path = join(freshRoot(), 'f');
    fs.writeFileSync(path, 'text');
    const flags: number[] = [];
    let isOwner = true;
    patch({
      openSync: ((name: string, flag: number, mode: number) => {
        flags.push(flag & fs.constants.O_NOATIME);
        if (!isOwner && (flag & fs.constants.O_NOATIME) !== 0) throw systemError('EPERM');
        return genuine.openSync(name, flag, mode);
      }) as typeof fs.openSync,
    });
    expect(readText(env, path)).toBe('text');
    isOwner = false;
    expect(readText(env, path)).toBe('text');
    const { O_NOATIME } = fs.constants;
    expect(flags).toEqual([O_NOATIME, O_NOATIME, 0]);
  },
);

test('a full device is ERR_DISK_FULL and the message names the file', () => {
  const file = new NodeEnv().open('/dev/full', 'write');
  expect(codeOf(() => file.write(text('x'), 0, 1, 0))).toBe('ERR_DISK_FULL');
  expect(() => file.write(text('x'), 0, 1, 0)).toThrow('/dev/full');
  file.close();
});

test('a name below a file does not exist, and an unusable name is an error', () => {
  const env = new NodeEnv();
  expect(env.exists('/dev/null/x')).toBe(false);
  expect(errnoOf(() => env.exists(`/tmp/${'n'.repeat(300)}`))).toBe('ENAMETOOLONG');
});

test('short writes, interruptions and EAGAIN are continued until all bytes are written', () => {
  const env = new NodeEnv();
  const path = join(freshRoot(), 'f');
  const file = env.open(path, 'create');
  let calls = 0;
  patch({
    writeSync: ((fd: number, from: Uint8Array, start: number, length: number, position: number) => {
      calls++;
      if (calls % 3 === 1) throw systemError('EINTR');
      if (calls % 3 === 2) throw systemError('EAGAIN');
      return genuine.writeSync(fd, from, start, Math.min(length, 4), position);
    }) as typeof fs.writeSync,
  });
  file.write(text('..0123456789'), 2, 10, 1);
  expect(calls).toBe(9);
  file.close();
  expect(readText(env, path)).toBe('\x000123456789');
});

test('a write that takes nothing is an error, not an endless loop', () => {
  const file = new NodeEnv().open(join(freshRoot(), 'f'), 'create');
  patch({ writeSync: (() => 0) as typeof fs.writeSync });
  expect(codeOf(() => file.write(text('abc'), 0, 3, 0))).toBe('ERR_IO');
  file.close();
});

test('interrupted and short reads are continued', () => {
  const env = new NodeEnv();
  const path = join(freshRoot(), 'f');
  fs.writeFileSync(path, 'abcdefgh');
  let calls = 0;
  patch({
    readSync: ((fd: number, into: Uint8Array, start: number, length: number, position: number) => {
      if (++calls % 2 === 1) throw systemError('EINTR');
      return genuine.readSync(fd, into, start, Math.min(length, 3), position);
    }) as typeof fs.readSync,
  });
  expect(readText(env, path)).toBe('abcdefgh');
});

test('after a failed sync the file refuses writes, truncation and a second sync, though the disk works again', () => {
  const env = new NodeEnv();
  const path = join(freshRoot(), 'f');
  const file = env.open(path, 'create');
  file.write(text('abc'), 0, 3, 0);
  patch({
    fdatasyncSync: () => {
      throw systemError('EIO');
    },
  });
  expect(errnoOf(() => file.sync())).toBe('EIO');
  patch(genuine);
  expect(codeOf(() => file.sync())).toBe('ERR_IO');
  expect(codeOf(() => file.write(text('x'), 0, 1, 0))).toBe('ERR_IO');
  expect(codeOf(() => file.truncate(0))).toBe('ERR_IO');
  expect(file.read(new Uint8Array(3), 0, 3, 0)).toBe(3);
  file.close();
  const again = env.open(path, 'write');
  expect(() => again.sync()).not.toThrow();
  again.close();
});

test('random bytes are not repeated', () => {
  const env = new NodeEnv();
  const seen = new Set(Array.from({ length: 100 }, () => Buffer.from(env.randomBytes(16)).toString('hex')));
  expect(seen.size).toBe(100);
});
