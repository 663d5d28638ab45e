/** What every Env promises, run against each file system. */
import { posix } from 'node:path';
import { describe, expect, test } from 'vitest';
import type { Env } from '../../../dist/shared/env/env.js';

const text = (value: string): Uint8Array => new TextEncoder().encode(value);

export function codeOf(call: () => unknown): string {
  try {
    call();
  } catch (error) {
    return (error as { code?: string }).code ?? `uncoded: ${String(error)}`;
  }
  return 'none';
}

export function errnoOf(call: () => unknown): unknown {
  try {
    call();
  } catch (error) {
    return (error as { details?: { errno?: string } }).details?.errno;
  }
  return 'none';
}

export function writeText(env: Env, path: string, value: string): void {
  const file = env.open(path, 'create');
  file.write(text(value), 0, text(value).length, 0);
  file.close();
}

export function readText(env: Env, path: string): string {
  const file = env.open(path, 'read');
  const bytes = new Uint8Array(file.size());
  file.read(bytes, 0, bytes.length, 0);
  file.close();
  return new TextDecoder().decode(bytes);
}

/** `makeRoot` returns a fresh, empty, existing directory of the Env. */
export function envSuite(name: string, open: () => { env: Env; root: string }): void {
  const scene = (): { env: Env; at: (name: string) => string; root: string } => {
    const { env, root } = open();
    return { env, root, at: (child) => posix.join(root, child) };
  };

  describe(`${name} keeps the contract of Env`, () => {
    test('written bytes are read back at their positions', () => {
      const { env, at } = scene();
      const file = env.open(at('f'), 'create');
      file.write(text('..hello..'), 2, 5, 3);
      expect(file.size()).toBe(8);
      const into = new Uint8Array(10).fill(9);
      expect(file.read(into, 1, 8, 0)).toBe(8);
      expect([...into]).toEqual([9, 0, 0, 0, ...text('hello'), 9]);
      file.close();
    });

    test('a read that does not block brings the same, into shared memory too', async () => {
      const { env, at } = scene();
      writeText(env, at('f'), 'abcdef');
      const file = env.open(at('f'), 'read');
      const into = new Uint8Array(new SharedArrayBuffer(8));
      const reading = file.readAsync!(into, 1, 7, 2);
      expect(await reading).toBe(4);
      expect([...into]).toEqual([0, ...text('cdef'), 0, 0, 0]);
      expect(await file.readAsync!(into, 0, 8, 6)).toBe(0);
      const many = await Promise.all([0, 1, 2, 3].map((index) => file.readAsync!(into, index, 1, 5 - index)));
      expect(many).toEqual([1, 1, 1, 1]);
      expect([...into.subarray(0, 4)]).toEqual([...text('fedc')]);
      file.close();
      await expect(file.readAsync!(into, 0, 1, 0)).rejects.toMatchObject({ code: 'ERR_INTERNAL' });
    });

    test('a sync that does not block ends well, and is refused on a closed file', async () => {
      const { env, at } = scene();
      const file = env.open(at('f'), 'create');
      file.write(text('abc'), 0, 3, 0);
      const syncing = file.syncAsync!();
      file.write(text('d'), 0, 1, 3);
      await syncing;
      file.sync();
      expect(file.size()).toBe(4);
      file.close();
      await expect(file.syncAsync!()).rejects.toMatchObject({ code: 'ERR_INTERNAL' });
    });

    test('a read is short only at the end of the file', () => {
      const { env, at } = scene();
      writeText(env, at('f'), 'abcdef');
      const file = env.open(at('f'), 'read');
      const into = new Uint8Array(8);
      expect(file.read(into, 0, 8, 2)).toBe(4);
      expect(file.read(into, 0, 8, 6)).toBe(0);
      expect(file.read(into, 0, 8, 100)).toBe(0);
      expect(file.read(into, 0, 0, 0)).toBe(0);
      file.close();
    });

    test('a write beyond the end leaves zeros between', () => {
      const { env, at } = scene();
      const file = env.open(at('f'), 'create');
      file.write(text('x'), 0, 1, 10_000);
      const into = new Uint8Array(10_001).fill(7);
      expect(file.read(into, 0, 10_001, 0)).toBe(10_001);
      expect(into.subarray(0, 10_000).every((byte) => byte === 0)).toBe(true);
      expect(into[10_000]).toBe('x'.charCodeAt(0));
      file.close();
    });

    test('shared memory is written and read without a copy by the caller', () => {
      const { env, at } = scene();
      const from = new Uint8Array(new SharedArrayBuffer(64), 8, 16).fill(65);
      const into = new Uint8Array(new SharedArrayBuffer(64), 16, 16);
      const file = env.open(at('f'), 'create');
      file.write(from, 4, 12, 0);
      expect(file.read(into, 2, 12, 0)).toBe(12);
      expect([...into]).toEqual([0, 0, ...new Array<number>(12).fill(65), 0, 0]);
      file.close();
    });

    test('what was written does not change when the caller reuses its buffer', () => {
      const { env, at } = scene();
      const buffer = text('first');
      const file = env.open(at('f'), 'create');
      file.write(buffer, 0, 5, 0);
      buffer.fill(0);
      file.sync();
      file.close();
      expect(readText(env, at('f'))).toBe('first');
    });

    test('truncate cuts, and grows with zeros where old bytes were cut', () => {
      const { env, at } = scene();
      writeText(env, at('f'), 'abcdef');
      const file = env.open(at('f'), 'write');
      file.truncate(2);
      expect(file.size()).toBe(2);
      file.truncate(5);
      expect(file.size()).toBe(5);
      file.close();
      expect(readText(env, at('f'))).toBe('ab\0\0\0');
    });

    test('create refuses an existing name, read and write refuse a missing one', () => {
      const { env, at } = scene();
      writeText(env, at('f'), '1');
      expect(codeOf(() => env.open(at('f'), 'create'))).toBe('ERR_IO');
      expect(errnoOf(() => env.open(at('f'), 'create'))).toBe('EEXIST');
      expect(errnoOf(() => env.open(at('gone'), 'read'))).toBe('ENOENT');
      expect(errnoOf(() => env.open(at('gone'), 'write'))).toBe('ENOENT');
      expect(errnoOf(() => env.open(at('no/such/directory'), 'create'))).toBe('ENOENT');
      expect(() => env.open(at('gone'), 'read')).toThrow(at('gone'));
    });

    test('a file opened for reading refuses writes', () => {
      const { env, at } = scene();
      writeText(env, at('f'), 'abc');
      const file = env.open(at('f'), 'read');
      expect(codeOf(() => file.write(text('x'), 0, 1, 0))).toBe('ERR_IO');
      file.close();
      expect(readText(env, at('f'))).toBe('abc');
    });

    test('a closed file refuses everything but a second close', () => {
      const { env, at } = scene();
      const file = env.open(at('f'), 'create');
      file.close();
      expect(codeOf(() => file.write(text('x'), 0, 1, 0))).toBe('ERR_INTERNAL');
      expect(codeOf(() => file.read(new Uint8Array(1), 0, 1, 0))).toBe('ERR_INTERNAL');
      expect(codeOf(() => file.sync())).toBe('ERR_INTERNAL');
      expect(codeOf(() => file.size())).toBe('ERR_INTERNAL');
      expect(codeOf(() => file.truncate(0))).toBe('ERR_INTERNAL');
      expect(() => file.close()).not.toThrow();
    });

    test('a range outside the buffer is refused', () => {
      const { env, at } = scene();
      const file = env.open(at('f'), 'create');
      expect(() => file.write(new Uint8Array(4), 2, 3, 0)).toThrow();
      expect(() => file.read(new Uint8Array(4), 2, 3, 0)).toThrow();
      expect(file.size()).toBe(0);
      file.close();
    });

    test('directories are made with their parents, and list their names sorted', () => {
      const { env, at, root } = scene();
      env.makeDirectory(at('b/c/d'));
      env.makeDirectory(at('b/c/d'));
      writeText(env, at('b/z'), '');
      writeText(env, at('b/a'), '');
      expect(env.list(at('b'))).toEqual(['a', 'c', 'z']);
      expect(env.list(at('b/c/d'))).toEqual([]);
      expect(env.list(root)).toEqual(['b']);
      expect(errnoOf(() => env.list(at('gone')))).toBe('ENOENT');
      expect(errnoOf(() => env.list(at('b/a')))).toBe('ENOTDIR');
      expect(errnoOf(() => env.makeDirectory(at('b/a')))).toBe('EEXIST');
    });

    test('exists tells files and directories from nothing', () => {
      const { env, at, root } = scene();
      writeText(env, at('f'), '');
      expect([root, at('f'), at('g'), at('f/x'), at('g/x')].map((path) => env.exists(path))).toEqual([
        true,
        true,
        false,
        false,
        false,
      ]);
    });

    test('rename replaces the target, and an open file keeps the old content', () => {
      const { env, at, root } = scene();
      writeText(env, at('old'), 'old');
      writeText(env, at('new'), 'new');
      const file = env.open(at('old'), 'read');
      env.rename(at('new'), at('old'));
      expect(env.list(root)).toEqual(['old']);
      expect(readText(env, at('old'))).toBe('new');
      const into = new Uint8Array(3);
      file.read(into, 0, 3, 0);
      expect(new TextDecoder().decode(into)).toBe('old');
      file.close();
      expect(errnoOf(() => env.rename(at('gone'), at('old')))).toBe('ENOENT');
    });

    test('rename moves a directory with what is in it', () => {
      const { env, at } = scene();
      env.makeDirectory(at('a/inner'));
      writeText(env, at('a/inner/f'), 'deep');
      env.rename(at('a'), at('b'));
      expect(readText(env, at('b/inner/f'))).toBe('deep');
      expect(env.exists(at('a'))).toBe(false);
    });

    test('a removed file is gone by name and lives on in open handles', () => {
      const { env, at, root } = scene();
      const file = env.open(at('f'), 'create');
      file.write(text('abc'), 0, 3, 0);
      env.remove(at('f'));
      expect(env.list(root)).toEqual([]);
      file.write(text('def'), 0, 3, 3);
      file.sync();
      const into = new Uint8Array(6);
      expect(file.read(into, 0, 6, 0)).toBe(6);
      expect(new TextDecoder().decode(into)).toBe('abcdef');
      file.close();
      expect(errnoOf(() => env.remove(at('f')))).toBe('ENOENT');
    });

    test('two handles of one file see each other', () => {
      const { env, at } = scene();
      const writer = env.open(at('f'), 'create');
      const reader = env.open(at('f'), 'read');
      writer.write(text('abc'), 0, 3, 0);
      expect(reader.size()).toBe(3);
      writer.close();
      reader.close();
    });

    test('sync and syncDirectory accept what exists', () => {
      const { env, at, root } = scene();
      const file = env.open(at('f'), 'create');
      file.sync();
      file.close();
      env.syncDirectory(root);
      expect(errnoOf(() => env.syncDirectory(at('gone')))).toBe('ENOENT');
      expect(errnoOf(() => env.syncDirectory(at('f')))).toBe('ENOTDIR');
    });

    test('random bytes have the asked length and differ from call to call', () => {
      const { env } = scene();
      const first = env.randomBytes(32);
      expect(first.length).toBe(32);
      expect(Buffer.from(first).equals(env.randomBytes(32))).toBe(false);
      expect(env.now()).toBeGreaterThan(0);
    });
  });
}
